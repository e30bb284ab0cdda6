//! A file of a few pages that several processes map.

use std::fs::OpenOptions;
use std::io;
use std::path::Path;
use std::sync::atomic::AtomicU64;

use memmap2::{MmapOptions, MmapRaw};

/// Mapped words, zero at first.
#[derive(Debug)]
pub struct Page(MmapRaw);

impl Page {
    /// Words to a cache line.
    pub const LINE: usize = 8;

    /// Maps the file with this many words, making it if it is new.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn open(path: &Path, words: usize) -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
        let bytes = (words * size_of::<AtomicU64>()).next_multiple_of(4096);
        file.set_len(bytes as u64)?;
        Ok(Self(MmapOptions::new().map_raw(&file)?))
    }

    /// One word.
    ///
    /// # Panics
    /// If there are not so many.
    #[inline]
    #[must_use]
    pub fn word(&self, index: usize) -> &AtomicU64 {
        assert!(
            index < self.0.len() / size_of::<AtomicU64>(),
            "no such word"
        );
        // SAFETY:
        // - the mapping is page-aligned, has this word, and lives as long as `self`;
        // - the word is only ever touched atomically, by every process.
        unsafe { AtomicU64::from_ptr(self.0.as_mut_ptr().cast::<u64>().add(index)) }
    }

    /// Where a C object may be laid over the page, 4096 bytes and as aligned.
    #[inline]
    pub(super) fn base<T>(&self) -> *mut T {
        const { assert!(size_of::<T>() <= 4096) };
        self.0.as_mut_ptr().cast()
    }

    /// Where a C object may be laid over a cache line.
    ///
    /// # Panics
    /// If there are not so many.
    #[inline]
    pub(super) fn line<T>(&self, index: usize) -> *mut T {
        const { assert!(size_of::<T>() <= Self::LINE * size_of::<AtomicU64>()) };
        self.word(index * Self::LINE).as_ptr().cast()
    }
}
