//! The pthread mutex in shared memory, plain and robust.

use std::io;
use std::marker::PhantomData;
use std::path::Path;

use super::{Page, Peer};
use crate::Failure;

/// A process-shared mutex that a dead owner leaves locked.
#[derive(Debug)]
pub struct Mutex(Page);

/// A process-shared mutex whose next owner is told `EOWNERDEAD`.
#[derive(Debug)]
pub struct RobustMutex(Page);

/// Mutexes in a row, each on a cache line of its own.
#[derive(Debug)]
pub struct Mutexes(Page);

impl Mutexes {
    /// Makes so many in a file, for several processes.
    ///
    /// # Errors
    /// What the kernel or the C library answers.
    pub fn create(path: &Path, count: usize, robust: bool) -> io::Result<Self> {
        let page = Page::open(path, count * Page::LINE)?;
        let robustness = match robust {
            true => libc::PTHREAD_MUTEX_ROBUST,
            false => libc::PTHREAD_MUTEX_STALLED,
        };
        for index in 0..count {
            create(page.line(index), robustness)?;
        }
        Ok(Self(page))
    }

    /// Opens what [`create`](Self::create) made.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn open(path: &Path, count: usize) -> io::Result<Self> {
        Ok(Self(Page::open(path, count * Page::LINE)?))
    }

    /// Locks one of them.
    ///
    /// # Panics
    /// If there are not so many.
    #[inline]
    pub fn take(&self, index: usize) -> Locked<'_> {
        lock(&self.0, self.0.line(index))
    }
}

/// Holds a mutex.
#[derive(Debug)]
#[must_use]
pub struct Locked<'a> {
    mutex: *mut libc::pthread_mutex_t,
    owner_died: bool,
    _page: PhantomData<&'a Page>,
}

impl Drop for Locked<'_> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: the memory is mapped for as long as the guard, and holds a mutex that this
        // thread has locked.
        let code = unsafe { libc::pthread_mutex_unlock(self.mutex) };
        assert_eq!(code, 0, "pthread_mutex_unlock");
    }
}

fn open(dir: &Path) -> io::Result<Page> {
    Page::open(&dir.join("mutex"), 512)
}

fn create_one(dir: &Path, robustness: libc::c_int) -> io::Result<Page> {
    let page = open(dir)?;
    create(page.base(), robustness)?;
    Ok(page)
}

/// Makes a mutex in a line of a page that nobody else uses yet.
fn create(mutex: *mut libc::pthread_mutex_t, robustness: libc::c_int) -> io::Result<()> {
    let mut attributes = std::mem::MaybeUninit::uninit();
    // SAFETY:
    // - the attributes are initialised by the first call, which is checked before any use;
    // - the mutex's memory is a line of a mapped page, large and aligned enough;
    // - nobody else uses the mutex yet: its file is new.
    unsafe {
        check(libc::pthread_mutexattr_init(attributes.as_mut_ptr()))?;
        let attributes = attributes.as_mut_ptr();
        check(libc::pthread_mutexattr_setpshared(
            attributes,
            libc::PTHREAD_PROCESS_SHARED,
        ))?;
        check(libc::pthread_mutexattr_setrobust(attributes, robustness))?;
        check(libc::pthread_mutex_init(mutex, attributes))?;
        check(libc::pthread_mutexattr_destroy(attributes))
    }
}

/// A pthread function's answer, which is not in `errno`.
fn check(code: libc::c_int) -> io::Result<()> {
    match code {
        0 => Ok(()),
        code => Err(io::Error::from_raw_os_error(code)),
    }
}

#[inline]
fn lock(_page: &Page, mutex: *mut libc::pthread_mutex_t) -> Locked<'_> {
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
    Locked {
        mutex,
        owner_died,
        _page: PhantomData,
    }
}

impl Peer for Mutex {
    type Guard<'a> = Locked<'a>;

    fn create(dir: &Path) -> Result<Self, Failure> {
        Ok(Self(create_one(dir, libc::PTHREAD_MUTEX_STALLED)?))
    }

    fn open(dir: &Path) -> Result<Self, Failure> {
        Ok(Self(open(dir)?))
    }

    #[inline]
    fn take(&self) -> Locked<'_> {
        lock(&self.0, self.0.base())
    }
}

impl Peer for RobustMutex {
    type Guard<'a> = Locked<'a>;

    fn create(dir: &Path) -> Result<Self, Failure> {
        Ok(Self(create_one(dir, libc::PTHREAD_MUTEX_ROBUST)?))
    }

    fn open(dir: &Path) -> Result<Self, Failure> {
        Ok(Self(open(dir)?))
    }

    #[inline]
    fn take(&self) -> Locked<'_> {
        lock(&self.0, self.0.base())
    }

    fn died(guard: &Locked<'_>) -> Option<bool> {
        Some(guard.owner_died)
    }
}
