//! The kernel's futex as the models have it.
//!
//! The compare and the enqueueing are one step, as they are under the kernel's bucket
//! lock, and a wake takes the one that has slept longest. There is no timeout: a wake that
//! is lost leaves a sleeper for ever, which loom reports as a deadlock.

use std::collections::VecDeque;
use std::sync::Mutex;

use loom::thread::{self, Thread};

use crate::atomic::AtomicU32;

/// The sleepers of one wake word.
#[derive(Debug, Default)]
pub struct Futex {
    // A std mutex, so that it orders nothing in the model; it is never held at a switch.
    sleepers: Mutex<VecDeque<Thread>>,
}

impl Futex {
    /// Sleeps if `word` is `expected`.
    pub fn wait(&self, word: &AtomicU32, expected: u32) {
        if word.newest(!expected) != expected {
            return;
        }
        self.queue().push_back(thread::current());
        thread::park();
    }

    /// Wakes one sleeper, if there is one. Which one the kernel takes is not promised
    /// anywhere; the models need no such promise.
    pub fn wake_one(&self) {
        let woken = self.queue().pop_front();
        if let Some(sleeper) = woken {
            sleeper.unpark();
        }
    }

    fn queue(&self) -> std::sync::MutexGuard<'_, VecDeque<Thread>> {
        self.sleepers.lock().expect("no sleeper panics here")
    }
}
