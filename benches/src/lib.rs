//! What the measurements share: the locks that caslock is measured beside, and the figures
//! made of what was measured.

pub mod peers;
pub mod stats;

use std::io;

/// A directory in memory: the table and its peers are measured, not a disk.
///
/// # Errors
/// What `tempfile` answers, for instance where there is no `/dev/shm`.
pub fn memory_dir() -> io::Result<tempfile::TempDir> {
    tempfile::Builder::new()
        .prefix("caslock-bench-")
        .tempdir_in("/dev/shm")
}
