//! The peers: a bare compare-and-swap, the two pthread mutexes and flock(2), each in a file
//! that several processes share.
//!
//! All of them may be opened by path in any number of processes. What a peer's own rules
//! require is kept: a robust mutex whose owner died is made consistent before it is used.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use memmap2::{MmapOptions, MmapRaw};

const PAGE: u64 = 4096;

/// Opens the file, with a page of zeros if it is new.
fn open_page(path: &Path) -> io::Result<(File, MmapRaw)> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)?;
    file.set_len(PAGE)?;
    let page = MmapOptions::new().map_raw(&file)?;
    Ok((file, page))
}

/// The least that any lock can cost: one word, 0 or 1.
#[derive(Debug)]
pub struct BareCas(MmapRaw);

impl BareCas {
    /// Maps the word.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self(open_page(path)?.1))
    }

    #[inline]
    fn word(&self) -> &AtomicU64 {
        // SAFETY:
        // - the mapping is a whole page, page-aligned, and lives as long as `self`;
        // - the word is only ever touched atomically, by every process.
        unsafe { AtomicU64::from_ptr(self.0.as_mut_ptr().cast()) }
    }

    /// 0 to 1 and back to 0, by a compare-and-swap each.
    ///
    /// # Panics
    /// If somebody else changed the word: it is measured uncontended.
    #[inline]
    pub fn pair(&self) {
        let word = self.word();
        let taken = word.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed);
        assert!(taken.is_ok(), "the word is contended");
        let freed = word.compare_exchange(1, 0, Ordering::Release, Ordering::Relaxed);
        assert!(freed.is_ok(), "the word is contended");
    }
}

/// Which pthread mutex.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `PTHREAD_MUTEX_STALLED`: a dead owner's mutex stays locked for ever.
    Plain,
    /// `PTHREAD_MUTEX_ROBUST`: the next owner is told `EOWNERDEAD`.
    Robust,
}

/// What taking a mutex told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// The predecessor unlocked it.
    Clean,
    /// The predecessor died holding it.
    OwnerDied,
}

/// A process-shared pthread mutex.
#[derive(Debug)]
pub struct PthreadMutex(MmapRaw);

// SAFETY: a pthread mutex is made to be used from several threads at once, and it is used
// only through libc, by its address.
unsafe impl Sync for PthreadMutex {}

impl PthreadMutex {
    /// Makes the mutex, in a new file.
    ///
    /// # Errors
    /// What the kernel or libc answers.
    pub fn create(path: &Path, kind: Kind) -> io::Result<Self> {
        let mutex = Self::open(path)?;
        let mut attributes = std::mem::MaybeUninit::uninit();
        let robustness = match kind {
            Kind::Plain => libc::PTHREAD_MUTEX_STALLED,
            Kind::Robust => libc::PTHREAD_MUTEX_ROBUST,
        };
        // SAFETY:
        // - the attributes are initialised by the first call, which is checked before any use;
        // - the mutex's memory is a mapped page, larger and better aligned than it needs;
        // - nobody else uses the mutex yet: the file is new.
        unsafe {
            check(libc::pthread_mutexattr_init(attributes.as_mut_ptr()))?;
            let attributes = attributes.as_mut_ptr();
            check(libc::pthread_mutexattr_setpshared(
                attributes,
                libc::PTHREAD_PROCESS_SHARED,
            ))?;
            check(libc::pthread_mutexattr_setrobust(attributes, robustness))?;
            check(libc::pthread_mutex_init(mutex.raw(), attributes))?;
            check(libc::pthread_mutexattr_destroy(attributes))?;
        }
        Ok(mutex)
    }

    /// Maps a mutex that has been made.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self(open_page(path)?.1))
    }

    #[inline]
    fn raw(&self) -> *mut libc::pthread_mutex_t {
        self.0.as_mut_ptr().cast()
    }

    /// Locks it, waiting as long as it takes.
    ///
    /// # Panics
    /// If libc refuses, which it does only for a mutex that was never made.
    #[inline]
    pub fn lock(&self) -> Taken {
        // SAFETY: the memory is mapped for as long as `self`, and holds a mutex that `create`
        // initialised.
        match unsafe { libc::pthread_mutex_lock(self.raw()) } {
            0 => Taken::Clean,
            libc::EOWNERDEAD => {
                // SAFETY: as above; this thread has just become the owner.
                let code = unsafe { libc::pthread_mutex_consistent(self.raw()) };
                assert_eq!(code, 0, "pthread_mutex_consistent");
                Taken::OwnerDied
            }
            code => panic!("pthread_mutex_lock: {}", io::Error::from_raw_os_error(code)),
        }
    }

    /// Unlocks it.
    ///
    /// # Panics
    /// If this thread is not the owner of a robust mutex.
    #[inline]
    pub fn unlock(&self) {
        // SAFETY: as in `lock`; libc checks the owner where it matters.
        let code = unsafe { libc::pthread_mutex_unlock(self.raw()) };
        assert_eq!(code, 0, "pthread_mutex_unlock");
    }
}

/// A pthread function's answer, which is not in `errno`.
fn check(code: libc::c_int) -> io::Result<()> {
    if code == 0 {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(code))
    }
}

/// flock(2) on a file of its own.
#[derive(Debug)]
pub struct Flock(File);

impl Flock {
    /// Opens the file, or creates it.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self(open_page(path)?.0))
    }

    /// Locks the file, waiting as long as it takes.
    ///
    /// # Panics
    /// If the kernel refuses.
    #[inline]
    pub fn lock(&self) {
        self.call(libc::LOCK_EX);
    }

    /// Unlocks the file.
    ///
    /// # Panics
    /// If the kernel refuses.
    #[inline]
    pub fn unlock(&self) {
        self.call(libc::LOCK_UN);
    }

    #[inline]
    fn call(&self, operation: libc::c_int) {
        // SAFETY: takes no pointer; the descriptor is open for as long as `self`.
        let answer = unsafe { libc::flock(self.0.as_raw_fd(), operation) };
        assert_eq!(answer, 0, "flock: {}", io::Error::last_os_error());
    }
}
