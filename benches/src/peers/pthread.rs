//! The pthread mutex in shared memory, plain and robust.

use std::io;
use std::path::Path;

use super::{Page, Peer};
use crate::Failure;

/// A process-shared mutex that a dead owner leaves locked.
#[derive(Debug)]
pub struct Mutex(Page);

/// A process-shared mutex whose next owner is told `EOWNERDEAD`.
#[derive(Debug)]
pub struct RobustMutex(Page);

/// Holds a mutex.
#[derive(Debug)]
#[must_use]
pub struct Locked<'a> {
    page: &'a Page,
    owner_died: bool,
}

impl Drop for Locked<'_> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: the memory is mapped for as long as the guard, and holds a mutex that this
        // thread has locked.
        let code = unsafe { libc::pthread_mutex_unlock(self.page.base()) };
        assert_eq!(code, 0, "pthread_mutex_unlock");
    }
}

fn open(dir: &Path) -> io::Result<Page> {
    Page::open(&dir.join("mutex"), 512)
}

fn create(dir: &Path, robustness: libc::c_int) -> io::Result<Page> {
    let page = open(dir)?;
    let mut attributes = std::mem::MaybeUninit::uninit();
    // SAFETY:
    // - the attributes are initialised by the first call, which is checked before any use;
    // - the mutex's memory is a mapped page, larger and better aligned than it needs;
    // - nobody else uses the mutex yet: the directory has none.
    unsafe {
        check(libc::pthread_mutexattr_init(attributes.as_mut_ptr()))?;
        let attributes = attributes.as_mut_ptr();
        check(libc::pthread_mutexattr_setpshared(
            attributes,
            libc::PTHREAD_PROCESS_SHARED,
        ))?;
        check(libc::pthread_mutexattr_setrobust(attributes, robustness))?;
        check(libc::pthread_mutex_init(page.base(), attributes))?;
        check(libc::pthread_mutexattr_destroy(attributes))?;
    }
    Ok(page)
}

/// A pthread function's answer, which is not in `errno`.
fn check(code: libc::c_int) -> io::Result<()> {
    match code {
        0 => Ok(()),
        code => Err(io::Error::from_raw_os_error(code)),
    }
}

#[inline]
fn lock(page: &Page) -> Locked<'_> {
    let mutex = page.base();
    // SAFETY: the memory is mapped for as long as the page, and holds a mutex that `create`
    // initialised.
    let owner_died = match unsafe { libc::pthread_mutex_lock(mutex) } {
        0 => false,
        libc::EOWNERDEAD => {
            // SAFETY: as above; this thread has just become the owner.
            let code = unsafe { libc::pthread_mutex_consistent(mutex) };
            assert_eq!(code, 0, "pthread_mutex_consistent");
            true
        }
        code => panic!("pthread_mutex_lock: {}", io::Error::from_raw_os_error(code)),
    };
    Locked { page, owner_died }
}

impl Peer for Mutex {
    type Guard<'a> = Locked<'a>;

    fn create(dir: &Path) -> Result<Self, Failure> {
        Ok(Self(create(dir, libc::PTHREAD_MUTEX_STALLED)?))
    }

    fn open(dir: &Path) -> Result<Self, Failure> {
        Ok(Self(open(dir)?))
    }

    #[inline]
    fn take(&self) -> Locked<'_> {
        lock(&self.0)
    }
}

impl Peer for RobustMutex {
    type Guard<'a> = Locked<'a>;

    fn create(dir: &Path) -> Result<Self, Failure> {
        Ok(Self(create(dir, libc::PTHREAD_MUTEX_ROBUST)?))
    }

    fn open(dir: &Path) -> Result<Self, Failure> {
        Ok(Self(open(dir)?))
    }

    #[inline]
    fn take(&self) -> Locked<'_> {
        lock(&self.0)
    }

    fn died(guard: &Locked<'_>) -> Option<bool> {
        Some(guard.owner_died)
    }
}
