//! What a user of Rust would reach for: two crates over flock(2).

use std::fs::File;
use std::path::Path;

use fs4::fs_std::FileExt;
use named_lock::{NamedLock, NamedLockGuard};

use super::Peer;
use crate::Failure;

/// `fs4`: a file's lock as methods of the file.
#[derive(Debug)]
pub struct Fs4(File);

/// Holds a file by `fs4`.
#[derive(Debug)]
#[must_use]
pub struct Locked<'a>(&'a File);

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        FileExt::unlock(self.0).expect("a file that is locked can be unlocked");
    }
}

impl Peer for Fs4 {
    type Guard<'a> = Locked<'a>;

    fn create(dir: &Path) -> Result<Self, Failure> {
        Ok(Self(File::create(dir.join("file"))?))
    }

    fn open(dir: &Path) -> Result<Self, Failure> {
        Ok(Self(File::open(dir.join("file"))?))
    }

    fn take(&self) -> Locked<'_> {
        FileExt::lock_exclusive(&self.0).expect("a local file can be locked");
        Locked(&self.0)
    }
}

/// `named-lock`: a mutex of the process before a file's lock, so that threads exclude each
/// other, too.
#[derive(Debug)]
pub struct Named(NamedLock);

impl Peer for Named {
    type Guard<'a> = NamedLockGuard;

    fn create(dir: &Path) -> Result<Self, Failure> {
        Self::open(dir)
    }

    fn open(dir: &Path) -> Result<Self, Failure> {
        Ok(Self(NamedLock::with_path(dir.join("file"))?))
    }

    fn take(&self) -> NamedLockGuard {
        self.0.lock().expect("a local file can be locked")
    }
}
