//! Fault campaigns against the lock table, each with an oracle that it cannot influence.

pub mod bytes;
pub mod dashboard;
#[cfg(target_arch = "x86_64")]
pub mod instructions;
pub mod matrix;
pub mod planted;
pub mod racers;
pub mod results;
pub mod soak;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub mod syscalls;

/// The system calls of the integration tests, which the campaigns make as well.
#[allow(dead_code)]
#[path = "../../tests/common/sys.rs"]
pub(crate) mod sys;
