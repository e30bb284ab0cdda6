//! Sleeping on shared words, and waking who sleeps there.
//!
//! Every futex here is process-shared: a private one is keyed by the address space, so a
//! wake from another process would find nobody. Deadlines are absolute and monotonic, so
//! a wait that is taken up again does not start over.
//!
//! A return from a wait means one thing only: look again. It may have been a wake, the
//! deadline, a signal, a word that had changed already, a wake meant for somebody before,
//! or a kernel that could not be asked. Whoever calls it loops, and decides by the words.

use std::num::NonZeroU32;
use std::ptr;
use std::thread;
use std::time::Duration;

use rustix::io::Errno;
use rustix::thread::ClockId;
use rustix::thread::futex::{self, Flags, Timespec, Wait, WaitFlags, WaitPtr, WaitvFlags};

use super::clock::now_ns;
use crate::sync::{AtomicU32, Ordering};

const NANOS_PER_SEC: u64 = 1_000_000_000;

/// The longest sleep where the kernel cannot watch two words at once, in nanoseconds.
const UNWATCHED_NS: u64 = 50_000_000;

/// Not 0 once `FUTEX_WAITV` proved missing (Linux before 5.16) or filtered.
static WAITV_REFUSED: AtomicU32 = AtomicU32::new(0);

/// What ended a wait. A hint where to look first, never a proof: of two
/// wakes at once the kernel names one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// A wake on the wake word.
    Wake,
    /// A wake on the certificate, or the kernel marked it.
    Certificate,
    /// A word had changed already, a signal came, or the bounded fallback ran out.
    Again,
    /// The deadline.
    TimedOut,
}

/// Sleeps while `word` is `expected`, until a wake or until `until_ns` of the monotonic
/// clock. Every return means: look again.
pub(crate) fn wait(word: &AtomicU32, expected: u32, until_ns: u64) -> Ended {
    let deadline = timespec(until_ns);
    match futex::wait_bitset(
        word,
        Flags::empty(),
        expected,
        Some(&deadline),
        NonZeroU32::MAX,
    ) {
        Ok(()) => Ended::Wake,
        Err(Errno::AGAIN | Errno::INTR) => Ended::Again,
        Err(Errno::TIMEDOUT) => Ended::TimedOut,
        Err(_) => {
            doze(until_ns);
            Ended::Again
        }
    }
}

/// Sleeps while both words are as expected: until a wake on either, or until `until_ns`
/// of the monotonic clock. Every return means: look again.
///
/// Where the kernel cannot watch two words, it watches the wake word, for 50 ms at most.
pub(crate) fn wait_two(
    wake: &AtomicU32,
    wake_expected: u32,
    certificate: &AtomicU32,
    certificate_expected: u32,
    until_ns: u64,
) -> Ended {
    // Relaxed: the flag guards nothing; at worst the kernel is asked once more.
    if WAITV_REFUSED.load(Ordering::Relaxed) != 0 {
        return wait_one_of_two(wake, wake_expected, until_ns);
    }
    let words = [
        watched(wake, wake_expected),
        watched(certificate, certificate_expected),
    ];
    let deadline = timespec(until_ns);
    match futex::waitv(
        &words,
        WaitvFlags::empty(),
        Some(&deadline),
        ClockId::Monotonic,
    ) {
        Ok(0) => Ended::Wake,
        Ok(_) => Ended::Certificate,
        Err(Errno::AGAIN | Errno::INTR) => Ended::Again,
        Err(Errno::TIMEDOUT) => Ended::TimedOut,
        Err(Errno::NOSYS | Errno::PERM) => {
            WAITV_REFUSED.store(1, Ordering::Relaxed);
            wait_one_of_two(wake, wake_expected, until_ns)
        }
        Err(_) => {
            doze(until_ns);
            Ended::Again
        }
    }
}

/// Wakes at most `count` sleepers on the word; returns how many there were.
pub(crate) fn wake(word: &AtomicU32, count: u32) -> u32 {
    // The kernel reads the count as signed and takes a negative one for one.
    let count = count.min(i32::MAX.cast_unsigned());
    // A wake that fails costs its sleeper one poll, like any lost wake.
    futex::wake(word, Flags::empty(), count).map_or(0, |woken| woken as u32)
}

fn wait_one_of_two(wake: &AtomicU32, expected: u32, until_ns: u64) -> Ended {
    let bound_ns = now_ns().saturating_add(UNWATCHED_NS);
    // Whoever was woken has to know: it stands for those who sleep on.
    match wait(wake, expected, until_ns.min(bound_ns)) {
        Ended::TimedOut if until_ns > bound_ns => Ended::Again,
        ended => ended,
    }
}

/// Sleeps a little where waiting is refused outright (the file under the mapping was cut
/// off, a filter), so that a caller that looks again and again does not spin.
fn doze(until_ns: u64) {
    let left_ns = until_ns.saturating_sub(now_ns());
    thread::sleep(Duration::from_nanos(left_ns.min(UNWATCHED_NS)));
}

fn watched(word: &AtomicU32, expected: u32) -> Wait {
    let mut wait = Wait::new();
    wait.val = expected.into();
    wait.uaddr = WaitPtr::new(ptr::from_ref(word).cast_mut().cast());
    // No PRIVATE flag: shared.
    wait.flags = WaitFlags::SIZE_U32;
    wait
}

fn timespec(ns: u64) -> Timespec {
    Timespec {
        tv_sec: (ns / NANOS_PER_SEC).cast_signed(),
        tv_nsec: (ns % NANOS_PER_SEC).cast_signed(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::testing::{Child, SharedPage, Watchdog, deny};

    const LONG_NS: u64 = 40 * NANOS_PER_SEC;

    fn soon() -> u64 {
        now_ns() + 20_000_000
    }

    fn far() -> u64 {
        now_ns() + LONG_NS
    }

    /// Wakes until one sleeper was there: it may not have gone to sleep yet.
    fn wake_one(word: &AtomicU32) {
        while wake(word, 1) == 0 {
            thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn a_wait_ends_at_its_deadline_and_not_before() {
        let _watchdog = Watchdog::start();
        let (page, until) = (SharedPage::new(), soon());
        wait(page.word(0), 0, until);
        assert!(now_ns() >= until);
        let until = soon();
        assert_eq!(
            wait_two(page.word(0), 0, page.word(1), 0, until),
            Ended::TimedOut
        );
        assert!(now_ns() >= until);
    }

    #[test]
    fn a_word_that_has_changed_already_is_not_slept_on() {
        let _watchdog = Watchdog::start();
        let page = SharedPage::new();
        let until = far();
        wait(page.word(0), 1, until);
        assert_eq!(
            wait_two(page.word(0), 1, page.word(1), 0, until),
            Ended::Again
        );
        assert_eq!(
            wait_two(page.word(0), 0, page.word(1), 1, until),
            Ended::Again
        );
        assert!(now_ns() < until);
    }

    #[test]
    fn a_wake_crosses_processes_and_two_words_are_told_apart() {
        let _watchdog = Watchdog::start();
        let page = SharedPage::new();
        let (until, step) = (far(), page.word(9));
        let child = Child::fork(|| {
            assert_eq!(
                wait_two(page.word(0), 0, page.word(1), 0, until),
                Ended::Wake
            );
            step.store(1, Ordering::Release);
            assert_eq!(
                wait_two(page.word(0), 0, page.word(1), 0, until),
                Ended::Certificate
            );
            step.store(2, Ordering::Release);
            wait(page.word(2), 0, until);
            assert!(now_ns() < until);
        });
        for at in 0..3 {
            // One wake at a time: of two at once the kernel would name only one.
            while step.load(Ordering::Acquire) != at {
                thread::sleep(Duration::from_millis(1));
            }
            wake_one(page.word(at as usize));
        }
        child.join();
    }

    #[test]
    fn one_wake_reaches_no_more_sleepers_than_it_was_meant_for() {
        let _watchdog = Watchdog::start();
        let page = SharedPage::new();
        let until = far();
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| wait(page.word(0), 0, until));
            }
            for _ in 0..3 {
                let mut woken = 0;
                while woken == 0 {
                    woken = wake(page.word(0), 1);
                    thread::sleep(Duration::from_millis(1));
                }
                assert_eq!(woken, 1);
            }
        });
        assert_eq!(wake(page.word(0), u32::MAX), 0);
    }

    /// The kernel takes a count beyond its largest for one.
    #[test]
    fn a_wake_of_all_reaches_each_sleeper() {
        let _watchdog = Watchdog::start();
        let page = SharedPage::new();
        let until = far();
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| wait(page.word(0), 0, until));
            }
            // Who has been moved to the other word sleeps, for certain.
            let mut asleep = 0;
            while asleep < 3 {
                let [from, to] = [0, 1].map(|at| page.word(at));
                asleep += futex::requeue(from, Flags::empty(), 0, 3, to).unwrap();
                thread::sleep(Duration::from_millis(1));
            }
            assert_eq!(wake(page.word(1), u32::MAX), 3);
        });
    }

    /// Containers of some age answer EPERM to calls that their filter does not know.
    #[test]
    fn without_waitv_a_wait_on_two_words_is_bounded_and_still_woken() {
        let _watchdog = Watchdog::start();
        for errno in [libc::ENOSYS, libc::EPERM] {
            let page = SharedPage::new();
            let child = Child::fork(|| {
                deny(libc::SYS_futex_waitv, errno);
                let (begun, until) = (now_ns(), far());
                assert_eq!(
                    wait_two(page.word(0), 0, page.word(1), 0, until),
                    Ended::Again
                );
                assert!(now_ns() < until && now_ns() >= begun + UNWATCHED_NS);
                assert_eq!(WAITV_REFUSED.load(Ordering::Relaxed), 1);
                assert_eq!(
                    wait_two(page.word(0), 0, page.word(1), 0, soon()),
                    Ended::TimedOut
                );
                // Who is woken is told so, though a slept wait is not told apart otherwise.
                let mut ended = Ended::Again;
                while ended == Ended::Again {
                    ended = wait_two(page.word(2), 0, page.word(1), 0, until);
                }
                assert_eq!(ended, Ended::Wake);
            });
            wake_one(page.word(2));
            child.join();
        }
    }

    #[test]
    fn a_word_the_kernel_cannot_read_does_not_make_a_caller_spin() {
        let _watchdog = Watchdog::start();
        let child = Child::fork(|| {
            deny(libc::SYS_futex, libc::EACCES);
            let (word, begun) = (AtomicU32::new(0), now_ns());
            wait(&word, 0, far());
            assert!(now_ns() >= begun + UNWATCHED_NS);
            deny(libc::SYS_futex_waitv, libc::EACCES);
            let begun = now_ns();
            assert_eq!(wait_two(&word, 0, &word, 0, far()), Ended::Again);
            assert!(now_ns() >= begun + UNWATCHED_NS);
            assert_eq!(WAITV_REFUSED.load(Ordering::Relaxed), 0);
        });
        child.join();
    }
}
