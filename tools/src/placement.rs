//! Whether the table that a command runs under is still the one at its path.

use std::os::fd::BorrowedFd;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::stat::{fstat, lstat};

use crate::output::{printable, say_unless_full};

/// A table in use, and where it was.
pub(crate) struct Placement<'a> {
    path: &'a Path,
    /// The lock that is held in it.
    name: &'a str,
    /// None: it has been told of, or cannot be.
    table: Option<BorrowedFd<'a>>,
}

impl<'a> Placement<'a> {
    pub(crate) fn new(path: &'a Path, name: &'a str, table: Option<BorrowedFd<'a>>) -> Self {
        Self { path, name, table }
    }

    /// Says so, once, if another file is at the path, or none.
    pub(crate) fn look(&mut self) {
        let path = self.path;
        if self
            .table
            .take_if(|table| !is_in_place(path, *table))
            .is_some()
        {
            say_unless_full(format_args!(
                "{}: the table was removed or replaced: \
                 whoever has opened the path since is not kept from \"{}\"",
                path.display(),
                printable(self.name)
            ));
        }
    }
}

fn is_in_place(path: &Path, table: BorrowedFd<'_>) -> bool {
    match (lstat(path), fstat(table)) {
        (Ok(there), Ok(open)) => (there.st_dev, there.st_ino) == (open.st_dev, open.st_ino),
        (Err(Errno::ENOENT), _) => false,
        // Not to be told from here.
        _ => true,
    }
}
