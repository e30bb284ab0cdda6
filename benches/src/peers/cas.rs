//! One word, 0 or 1: the least that any lock can cost, and the spin lock made of it.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_utils::Backoff;

use super::{Page, Peer};
use crate::Failure;

/// 0 to 1 and back, by a compare-and-swap each; who loses looks again at once.
#[derive(Debug)]
pub struct BareCas(Page);

/// Holds the word at 1.
#[derive(Debug)]
#[must_use]
pub struct One<'a>(&'a AtomicU64);

impl Drop for One<'_> {
    #[inline]
    fn drop(&mut self) {
        let freed = self
            .0
            .compare_exchange(1, 0, Ordering::Release, Ordering::Relaxed);
        assert!(freed.is_ok(), "the word is not ours");
    }
}

#[inline]
fn try_take(word: &AtomicU64) -> bool {
    word.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed)
        .is_ok()
}

impl Peer for BareCas {
    type Guard<'a> = One<'a>;

    fn create(dir: &Path) -> Result<Self, Failure> {
        Self::open(dir)
    }

    fn open(dir: &Path) -> Result<Self, Failure> {
        Ok(Self(Page::open(&dir.join("word"), 1)?))
    }

    #[inline]
    fn take(&self) -> One<'_> {
        let word = self.0.word(0);
        while !try_take(word) {
            std::hint::spin_loop();
        }
        One(word)
    }
}

/// The same word; who loses backs off, and after a while yields the processor.
#[derive(Debug)]
pub struct SpinLock(Page);

impl Peer for SpinLock {
    type Guard<'a> = One<'a>;

    fn create(dir: &Path) -> Result<Self, Failure> {
        Self::open(dir)
    }

    fn open(dir: &Path) -> Result<Self, Failure> {
        Ok(Self(Page::open(&dir.join("word"), 1)?))
    }

    #[inline]
    fn take(&self) -> One<'_> {
        let word = self.0.word(0);
        if !try_take(word) {
            let backoff = Backoff::new();
            while word.load(Ordering::Relaxed) != 0 || !try_take(word) {
                backoff.snooze();
            }
        }
        One(word)
    }
}
