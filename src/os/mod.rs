//! The system calls, one concern a file. Nothing in here knows what a slot is, nor of a session
//! more than its index and its words; and nothing outside it is unsafe, but for `mapping`, and for a
//! handle's way to its slot (`found`).
//!
//! What they share: an error is never read as an answer. Where the kernel cannot be
//! asked, functions say so (`None`, `Again`), and the caller stays on the safe side.

#[cfg(not(all(target_os = "linux", target_pointer_width = "64")))]
compile_error!("caslock stands on Linux's robust futexes and 64-bit file offsets");

pub(crate) mod byte_lock;
pub(crate) mod certificate;
pub(crate) mod clock;
pub(crate) mod descriptor;
pub(crate) mod fork;
pub(crate) mod futex;
pub(crate) mod process;
pub(crate) mod random;
pub(crate) mod scheduling;
pub(crate) mod signals;
pub(crate) mod thread;

#[cfg(test)]
pub(crate) mod testing;
