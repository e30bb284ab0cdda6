//! The kernel's file locks: flock(2), and fcntl(2) with open file descriptions.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

use super::Peer;
use crate::Failure;

fn open(dir: &Path) -> io::Result<File> {
    File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(dir.join("file"))
}

/// flock(2) on a file of its own.
#[derive(Debug)]
pub struct Flock(File);

/// Holds a file by flock.
#[derive(Debug)]
#[must_use]
pub struct Flocked<'a>(&'a File);

fn flock(file: &File, operation: libc::c_int) {
    // SAFETY: takes no pointer.
    while unsafe { libc::flock(file.as_raw_fd(), operation) } != 0 {
        let error = io::Error::last_os_error();
        assert_eq!(error.kind(), io::ErrorKind::Interrupted, "flock: {error}");
    }
}

impl Drop for Flocked<'_> {
    fn drop(&mut self) {
        flock(self.0, libc::LOCK_UN);
    }
}

impl Peer for Flock {
    type Guard<'a> = Flocked<'a>;

    fn create(dir: &Path) -> Result<Self, Failure> {
        Self::open(dir)
    }

    fn open(dir: &Path) -> Result<Self, Failure> {
        Ok(Self(open(dir)?))
    }

    fn take(&self) -> Flocked<'_> {
        flock(&self.0, libc::LOCK_EX);
        Flocked(&self.0)
    }
}

/// `F_OFD_SETLKW` on the first byte of a file of its own.
#[derive(Debug)]
pub struct Ofd(File);

/// Holds a file's first byte.
#[derive(Debug)]
#[must_use]
pub struct ByteLocked<'a>(&'a File);

fn lock_byte(file: &File, kind: libc::c_int) {
    // SAFETY: plain integers, for which zero is a value; `l_pid` has to be zero.
    let mut byte: libc::flock = unsafe { std::mem::zeroed() };
    byte.l_type = kind as libc::c_short;
    byte.l_whence = libc::SEEK_SET as libc::c_short;
    byte.l_len = 1;
    // SAFETY: the pointer is to a lock that lives across the call.
    while unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLKW, &raw const byte) } != 0 {
        let error = io::Error::last_os_error();
        assert_eq!(error.kind(), io::ErrorKind::Interrupted, "fcntl: {error}");
    }
}

impl Drop for ByteLocked<'_> {
    fn drop(&mut self) {
        lock_byte(self.0, libc::F_UNLCK);
    }
}

impl Peer for Ofd {
    type Guard<'a> = ByteLocked<'a>;

    fn create(dir: &Path) -> Result<Self, Failure> {
        Self::open(dir)
    }

    fn open(dir: &Path) -> Result<Self, Failure> {
        Ok(Self(open(dir)?))
    }

    fn take(&self) -> ByteLocked<'_> {
        lock_byte(&self.0, libc::F_WRLCK);
        ByteLocked(&self.0)
    }
}
