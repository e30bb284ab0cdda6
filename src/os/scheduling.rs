//! How the scheduler is to treat the keeper thread.
//!
//! The kernel marks a certificate on the processor that the dying keeper runs on, and may
//! well wake the waiter there, too. If the keeper is the last of its process to die, it
//! then goes on with tearing the address space down, and the waiter has to wait until that
//! is over or the keeper's slice of time is: unless the waiter's slice is the shorter one,
//! for then it goes first at once.

use std::io;
use std::mem;

/// Lengthens the calling thread's slice of time a little beyond the usual, so that whoever
/// it wakes goes before it. Its share of the processor stays what it is; where others want
/// it too, the thread gets it in slightly larger and rarer portions.
///
/// # Errors
///
/// When the kernel refuses, or knows no slices (Linux before 6.12, real-time threads).
pub(crate) fn yield_to_the_woken() -> io::Result<()> {
    let mut attributes = attributes()?;
    // What Linux shows as a common thread's `sched_runtime` is its slice.
    let is_common = matches!(
        attributes.sched_policy.cast_signed(),
        libc::SCHED_OTHER | libc::SCHED_BATCH
    );
    if !is_common || attributes.sched_runtime == 0 {
        return Err(io::ErrorKind::Unsupported.into());
    }
    attributes.sched_runtime += attributes.sched_runtime / 4;
    // SAFETY:
    // - 0 is the calling thread; the kernel reads as many bytes as the struct says it has.
    let set = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
    if set == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// The calling thread's.
fn attributes() -> io::Result<libc::sched_attr> {
    const SIZE: u32 = mem::size_of::<libc::sched_attr>() as u32;
    // SAFETY:
    // - plain numbers, for which 0 is a value.
    let mut attributes: libc::sched_attr = unsafe { mem::zeroed() };
    // SAFETY:
    // - 0 is the calling thread; the kernel writes at most the size that it is told.
    let got = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, SIZE, 0) };
    if got == 0 {
        Ok(attributes)
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::testing::{Child, deny, skip};
    use std::thread;

    #[test]
    fn the_slice_gets_longer_and_nothing_else_changes() {
        let usual = attributes().unwrap();
        if usual.sched_runtime == 0 {
            skip("this kernel shows no slices");
            return;
        }
        let mine = thread::spawn(|| {
            yield_to_the_woken().unwrap();
            attributes().unwrap()
        });
        let mine = mine.join().unwrap();
        assert!(mine.sched_runtime > usual.sched_runtime);
        assert_eq!(mine.sched_policy, usual.sched_policy);
        assert_eq!(mine.sched_nice, usual.sched_nice);
        assert_eq!(mine.sched_flags, usual.sched_flags);
        assert_eq!(
            attributes().unwrap().sched_runtime,
            usual.sched_runtime,
            "of another thread"
        );
    }

    #[test]
    fn a_filtered_system_call_is_an_error() {
        for call in [libc::SYS_sched_getattr, libc::SYS_sched_setattr] {
            Child::fork(|| {
                deny(call, libc::EPERM);
                assert!(yield_to_the_woken().is_err());
            })
            .join();
        }
    }
}
