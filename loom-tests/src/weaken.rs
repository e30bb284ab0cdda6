//! Weakens named orderings of the protocol for the length of a model.

use std::cell::RefCell;
use std::sync::atomic::Ordering::{self, AcqRel, Acquire, Relaxed, Release};

thread_local! {
    // loom runs all the threads of a model on the thread that checks it.
    static WEAKENED: RefCell<Vec<(usize, Ordering)>> = const { RefCell::new(Vec::new()) };
}

/// The ordering at `site`, which ships as `strong`.
pub(crate) fn apply(site: usize, strong: Ordering) -> Ordering {
    WEAKENED.with_borrow(|weakened| {
        weakened
            .iter()
            .find(|entry| entry.0 == site)
            .map_or(strong, |entry| entry.1)
    })
}

/// Runs `act` with each of `sites` at its ordering.
pub fn with<R>(sites: &[(usize, Ordering)], act: impl FnOnce() -> R) -> R {
    /// Also when `act` panics: other models come after it on this thread.
    struct Restored;
    impl Drop for Restored {
        fn drop(&mut self) {
            WEAKENED.take();
        }
    }
    WEAKENED.set(sites.to_vec());
    let _restored = Restored;
    act()
}

/// The orderings one step below `ordering`.
#[must_use]
pub fn one_step(ordering: Ordering) -> &'static [Ordering] {
    match ordering {
        AcqRel => &[Acquire, Release],
        Acquire | Release => &[Relaxed],
        _ => &[],
    }
}
