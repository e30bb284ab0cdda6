//! The clocks of a table: nanoseconds since some moment of this boot, which boot this is, and
//! what a thread has had of a processor.

use std::fs::File;
use std::io::{self, Read};

use rustix::time::{ClockId, DynamicClockId, Timespec, clock_gettime, clock_gettime_dynamic};

const NANOS_PER_SEC: u64 = 1_000_000_000;

/// The monotonic clock, in nanoseconds: for one's own deadlines, and for showing.
///
/// Two processes may read different clocks here (time namespaces), so a reading is never
/// compared with a peer's to decide anything.
pub(crate) fn now_ns() -> u64 {
    nanos(clock_gettime(ClockId::Monotonic))
}

/// How much of a processor's time this thread has had. A system call; where a filter refuses
/// it, all of the time.
pub(crate) fn ran_ns() -> u64 {
    let clock = DynamicClockId::Known(ClockId::ThreadCPUTime);
    clock_gettime_dynamic(clock).map_or_else(|_| now_ns(), nanos)
}

fn nanos(time: Timespec) -> u64 {
    time.tv_sec.cast_unsigned() * NANOS_PER_SEC + time.tv_nsec.cast_unsigned()
}

/// The random number that the kernel gave this boot: the same in every namespace, unless a
/// container has another mounted over it.
///
/// # Errors
///
/// When `/proc` is not mounted, or is not the kernel's.
pub(crate) fn boot_id() -> io::Result<[u8; 16]> {
    // A file under /proc/sys is read whole by one read, if it is to be read at all.
    let mut text = [0; 64];
    let len = File::open("/proc/sys/kernel/random/boot_id")?.read(&mut text)?;
    let text = str::from_utf8(&text[..len]).ok();
    text.and_then(|text| parse_uuid(text.trim_end()))
        .ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                "the kernel's boot id is no UUID",
            )
        })
}

/// What was being done when there was no [`boot_id`], and what may be the matter.
pub(crate) fn reading_boot_id(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::InvalidData => {
            "reading the boot id (is /proc mounted?)"
        }
        _ => "reading the boot id",
    }
}

fn parse_uuid(text: &str) -> Option<[u8; 16]> {
    let mut digits = text
        .bytes()
        .filter(|&byte| byte != b'-')
        .map(|byte| char::from(byte).to_digit(16));
    let mut id = [0; 16];
    for byte in &mut id {
        *byte = (digits.next()?? * 16 + digits.next()??) as u8;
    }
    digits.next().is_none().then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::testing::{Child, deny};

    #[test]
    fn the_clock_does_not_go_back() {
        let first = now_ns();
        assert!(first > 0);
        assert!(now_ns() >= first);
    }

    #[test]
    fn a_thread_that_sleeps_has_no_processor_meanwhile() {
        let nap = std::time::Duration::from_millis(20);
        let (began_ns, ran_before_ns) = (now_ns(), ran_ns());
        std::thread::sleep(nap);
        let (ran_for_ns, took_ns) = (ran_ns() - ran_before_ns, now_ns() - began_ns);
        assert!(ran_for_ns < took_ns / 2, "{ran_for_ns} of {took_ns}");
    }

    #[test]
    fn where_the_processors_time_is_not_told_it_is_all_of_it() {
        let child = Child::fork(|| {
            deny(libc::SYS_clock_gettime, libc::EPERM);
            let before_ns = now_ns();
            assert!(ran_ns() >= before_ns);
        });
        child.join();
    }

    #[test]
    fn a_boot_has_one_id() {
        let id = boot_id().unwrap();
        assert_ne!(id, [0; 16]);
        assert_eq!(boot_id().unwrap(), id);
        // Where there are no more descriptors to be had, nothing is wrong with /proc.
        let asks = [libc::ENOENT, libc::EMFILE].map(io::Error::from_raw_os_error);
        let asks = asks.map(|error| reading_boot_id(&error).contains("/proc"));
        assert_eq!(asks, [true, false]);
    }

    #[test]
    fn only_sixteen_whole_bytes_are_an_id() {
        let id = parse_uuid("00112233-4455-6677-8899-aabbccddeeff").unwrap();
        assert_eq!((id[0], id[1], id[15]), (0x00, 0x11, 0xff));
        for wrong in [
            "",
            "0011",
            "00112233-4455-6677-8899-aabbccddeeff0",
            "0g112233-4455-6677-8899-aabbccddeeff",
        ] {
            assert_eq!(parse_uuid(wrong), None, "{wrong}");
        }
    }
}
