//! The facade of `src/sync.rs`, by the same names, under shuttle's scheduler: each access
//! is a step before which any other actor may run, and at which a victim can be killed.
//!
//! Shuttle takes every ordering for the strongest, so the values are plain atomics, and
//! shuttle's own serve for the turns. Outside of a run there are no turns: the protocol's
//! unit tests come along with its source, and pass here, too.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic as plain;

pub use core::sync::atomic::Ordering;

use super::protocol::ordering::Site;

/// Enough that no run has as many grants of a slot as would wrap, and few enough that
/// most runs cross into another epoch.
pub const GENERATION_BITS: u32 = 6;
/// One word holds the names here.
pub const NAME_WORDS: usize = 1;
/// Nothing is noted.
pub const NOTE_WORDS: usize = 1;
/// As shipped.
pub const WAIT_ENTRIES: usize = 8;

/// The ordering at a named place.
pub const fn ord(site: Site) -> Ordering {
    site.ordering()
}

/// Nothing: every access is ordered here.
pub fn fence(_order: Ordering) {}

thread_local! {
    // Shuttle runs all the actors of a run on the thread that began it.
    static RUNS: Cell<bool> = const { Cell::new(false) };
}

shuttle::thread_local! {
    /// How many steps this actor has left, if it is a victim.
    static LEFT: Cell<Option<u32>> = Cell::new(None)
}

/// The payload that a killed actor unwinds with.
struct Killed;

/// Has the accesses of this thread be steps of a run until dropped.
pub struct Running(());

impl Running {
    /// Begins.
    pub fn new() -> Self {
        RUNS.set(true);
        Self(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        RUNS.set(false);
    }
}

/// Runs `act` for at most `steps` steps; `None` if it was killed there. What it has in its
/// own memory is lost, as with SIGKILL, and nothing in the protocol has a drop that acts.
pub fn killed_after<R>(steps: u32, act: impl FnOnce() -> R) -> Option<R> {
    LEFT.with(|left| left.set(Some(steps)));
    let outcome = catch_unwind(AssertUnwindSafe(act));
    LEFT.with(|left| left.set(None));
    match outcome {
        Ok(value) => Some(value),
        Err(payload) if payload.is::<Killed>() => None,
        Err(payload) => resume_unwind(payload),
    }
}

/// Where the scheduler may choose another actor to go on.
#[derive(Debug)]
pub struct Turn(shuttle::sync::atomic::AtomicBool);

impl Turn {
    /// A turn of its own for each word.
    pub const fn new() -> Self {
        Self(shuttle::sync::atomic::AtomicBool::new(false))
    }

    /// One step of the running actor, about to be made.
    pub fn step(&self) {
        if !RUNS.get() {
            return;
        }
        LEFT.with(|left| match left.get() {
            None => {}
            Some(0) => resume_unwind(Box::new(Killed)),
            Some(more) => left.set(Some(more - 1)),
        });
        let _ = self.0.load(Ordering::SeqCst);
    }
}

macro_rules! atomic {
    ($name:ident, $int:ty) => {
        #[derive(Debug)]
        pub struct $name {
            value: plain::$name,
            turn: Turn,
        }

        #[allow(dead_code, reason = "both widths are made alike")]
        impl $name {
            pub fn new(value: $int) -> Self {
                Self {
                    value: plain::$name::new(value),
                    turn: Turn::new(),
                }
            }

            fn turn(&self) -> &plain::$name {
                self.turn.step();
                &self.value
            }

            /// The value, without a step: what the kernel's futex compares.
            pub fn peek(&self) -> $int {
                self.value.load(Ordering::SeqCst)
            }

            pub fn load(&self, _order: Ordering) -> $int {
                self.turn().load(Ordering::SeqCst)
            }

            pub fn store(&self, value: $int, _order: Ordering) {
                self.turn().store(value, Ordering::SeqCst);
            }

            pub fn swap(&self, value: $int, _order: Ordering) -> $int {
                self.turn().swap(value, Ordering::SeqCst)
            }

            pub fn compare_exchange(
                &self,
                current: $int,
                new: $int,
                _success: Ordering,
                _failure: Ordering,
            ) -> Result<$int, $int> {
                self.turn()
                    .compare_exchange(current, new, Ordering::SeqCst, Ordering::SeqCst)
            }

            pub fn fetch_add(&self, value: $int, _order: Ordering) -> $int {
                self.turn().fetch_add(value, Ordering::SeqCst)
            }

            pub fn fetch_and(&self, value: $int, _order: Ordering) -> $int {
                self.turn().fetch_and(value, Ordering::SeqCst)
            }

            pub fn fetch_max(&self, value: $int, _order: Ordering) -> $int {
                self.turn().fetch_max(value, Ordering::SeqCst)
            }
        }
    };
}

atomic!(AtomicU32, u32);
atomic!(AtomicU64, u64);
