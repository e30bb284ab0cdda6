//! Crash points: an actor that does nothing more after its k-th shared step.
//!
//! What the actor has in its own memory is lost with it, as with SIGKILL: it unwinds to
//! [`after`], and the protocol holds nothing whose drop touches shared words.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// The payload that a stopped actor unwinds with.
struct Stopped;

thread_local! {
    /// Whether any actor of this model has a step to stop at: spares the others the look-up.
    static ARMED: Cell<bool> = const { Cell::new(false) };
    /// Whether an actor was stopped since [`reset`].
    static HAPPENED: Cell<bool> = const { Cell::new(false) };
}

loom::thread_local! {
    /// How many steps this actor has left, if they are counted.
    static LEFT: Cell<Option<u32>> = Cell::new(None)
}

/// One shared step of the running actor, about to be made.
pub(crate) fn step() {
    if !ARMED.get() {
        return;
    }
    LEFT.with(|left| match left.get() {
        None => {}
        Some(0) => {
            HAPPENED.set(true);
            resume_unwind(Box::new(Stopped));
        }
        Some(more) => left.set(Some(more - 1)),
    });
}

/// Runs `act` for at most `steps` shared steps; `None` if it was stopped there.
pub fn after<R>(steps: u32, act: impl FnOnce() -> R) -> Option<R> {
    ARMED.set(true);
    LEFT.with(|left| left.set(Some(steps)));
    let outcome = catch_unwind(AssertUnwindSafe(act));
    LEFT.with(|left| left.set(None));
    match outcome {
        Ok(value) => Some(value),
        Err(payload) if payload.is::<Stopped>() => None,
        Err(payload) => resume_unwind(payload),
    }
}

/// Runs what others do meanwhile: their steps are not the running actor's.
pub(crate) fn uncounted(act: impl FnOnce()) {
    let left = LEFT.with(Cell::take);
    act();
    LEFT.with(|counted| counted.set(left));
}

/// Forgets what happened, before a model is run.
pub(crate) fn reset() {
    ARMED.set(false);
    HAPPENED.set(false);
}

/// Whether some execution since [`reset`] got as far as the stop.
pub(crate) fn happened() -> bool {
    HAPPENED.get()
}
