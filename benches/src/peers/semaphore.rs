//! A POSIX semaphore of one, in shared memory.

use std::io;
use std::path::Path;

use super::{Page, Peer};
use crate::Failure;

/// `sem_wait` and `sem_post`.
#[derive(Debug)]
pub struct Semaphore(Page);

/// Holds the semaphore's one.
#[derive(Debug)]
#[must_use]
pub struct Taken<'a>(&'a Page);

impl Drop for Taken<'_> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: the memory is mapped for as long as the guard, and holds a semaphore.
        let answer = unsafe { libc::sem_post(self.0.base()) };
        assert_eq!(answer, 0, "sem_post: {}", io::Error::last_os_error());
    }
}

impl Peer for Semaphore {
    type Guard<'a> = Taken<'a>;

    fn create(dir: &Path) -> Result<Self, Failure> {
        let semaphore = Self::open(dir)?;
        // SAFETY: the memory is a mapped page, larger and better aligned than a semaphore,
        // and nobody else uses it yet: the directory has none.
        match unsafe { libc::sem_init(semaphore.0.base(), 1, 1) } {
            0 => Ok(semaphore),
            _ => Err(io::Error::last_os_error().into()),
        }
    }

    fn open(dir: &Path) -> Result<Self, Failure> {
        Ok(Self(Page::open(&dir.join("semaphore"), 512)?))
    }

    #[inline]
    fn take(&self) -> Taken<'_> {
        // SAFETY: the memory is mapped for as long as `self`, and holds a semaphore that
        // `create` initialised.
        while unsafe { libc::sem_wait(self.0.base()) } != 0 {
            let error = io::Error::last_os_error();
            assert_eq!(
                error.kind(),
                io::ErrorKind::Interrupted,
                "sem_wait: {error}"
            );
        }
        Taken(&self.0)
    }
}
