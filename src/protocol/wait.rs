//! Blocking: the handshake over the wake word, with everything that takes time behind
//! a trait.
//!
//! A waiter reads the wake word, makes sure that `W` is set in the owner word, and sleeps
//! for as long as the wake word stays what it was. A releaser clears `W` with the word it
//! vacates, then counts the wake word up, then wakes one. So either the releaser sees the
//! waiter's `W`, or the waiter sees the vacated word; and if the releaser's count comes
//! before the sleep, the sleep ends at once.
//!
//! A waiter that has slept takes the slot with `W` set: others may sleep behind it, and
//! the bit that announced them is gone. One that leaves without the slot passes on the
//! wake that it may have been given.

use super::slot::{Grant, Slot, Taken, Vacated};
use super::sync::AtomicU32;
use super::word::{Identity, Owner, OwnerWord, Vacancy};

/// What is to be done about the holder of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Verdict {
    /// It holds: wait.
    Holds,
    /// Its grant may be taken over, from exactly the word that was judged.
    Gone,
}

/// Wakes waiters. The kernel's futex in earnest, the model's own in the models.
pub trait Wake {
    /// Wakes one waiter that sleeps on `wake`, if there is one.
    fn wake_one(&self, wake: &AtomicU32);
}

/// The waiter's side of the world: spinning, judging, sleeping, giving up.
pub trait Waiting: Wake {
    /// Why a wait ended without the slot.
    type Stop;

    /// Pauses a moment before looking again, or says that it is time to sleep.
    fn spin(&mut self) -> bool;

    /// Judges the holder in `held`.
    ///
    /// # Errors
    ///
    /// A reason to give up: the deadline has passed, the table is gone.
    fn judge(&mut self, held: OwnerWord) -> Result<Verdict, Self::Stop>;

    /// What to answer for a word that is neither free nor held.
    ///
    /// # Errors
    ///
    /// A reason to give up; `Ok` to look again.
    fn unusable(&mut self, word: OwnerWord) -> Result<(), Self::Stop>;

    /// Sleeps until woken, but not past the poll interval or the deadline, as long as
    /// `wake` is `expected`. Every return means: look again.
    fn sleep(&mut self, wake: &AtomicU32, expected: u32, held: OwnerWord);
}

/// Acquires `slot` for `me`, however long it takes.
///
/// # Errors
///
/// The environment's reason to give up.
pub fn acquire<E: Waiting>(slot: &Slot, me: Identity, env: &mut E) -> Result<Grant, E::Stop> {
    let mut slept = false;
    let outcome = acquire_or_stop(slot, me, env, &mut slept);
    if outcome.is_err() && slept {
        pass_on(slot, env);
    }
    outcome
}

fn acquire_or_stop<E: Waiting>(
    slot: &Slot,
    me: Identity,
    env: &mut E,
    slept: &mut bool,
) -> Result<Grant, E::Stop> {
    loop {
        let seen = slot.owner();
        match seen.owner() {
            Owner::Vacant(_) => match slot.take(seen, me, *slept) {
                Taken::Granted(grant) => return Ok(grant),
                Taken::Changed | Taken::Revoked => continue,
            },
            Owner::Renaming(_) | Owner::Corrupt => {
                env.unusable(seen)?;
                continue;
            }
            // Spinning is for a holder that is about to release; behind others who sleep
            // already it would only jump the queue.
            Owner::Held(_) if !seen.has_waiters() && env.spin() => continue,
            Owner::Held(_) => {}
        }
        if env.judge(seen)? == Verdict::Gone {
            match slot.take(seen, me, *slept) {
                Taken::Granted(grant) => return Ok(grant),
                Taken::Changed | Taken::Revoked => continue,
            }
        }
        let expected = slot.wake_count();
        // The wake word was read before the bit is known to be set, so a release that
        // sees the bit is one whose count we have not read.
        let announced = if seen.has_waiters() {
            slot.owner() == seen
        } else {
            slot.announce(seen)
        };
        if announced {
            *slept = true;
            env.sleep(slot.wake_word(), expected, seen);
        }
    }
}

/// A waiter that gives up may have eaten a wake that was meant to reach somebody: makes
/// sure that the next release wakes, or, if the slot is free, wakes another now.
fn pass_on<E: Waiting>(slot: &Slot, env: &E) {
    loop {
        let seen = slot.owner();
        match seen.owner() {
            Owner::Held(_) if seen.has_waiters() || slot.announce(seen) => return,
            Owner::Held(_) => {}
            Owner::Vacant(_) | Owner::Renaming(_) | Owner::Corrupt => {
                slot.bump_wake();
                env.wake_one(slot.wake_word());
                return;
            }
        }
    }
}

/// Releases `grant`, leaving `vacancy`, and wakes a waiter if one may be there. False
/// when the grant was no longer current: then nothing was changed, and nobody woken.
#[inline(always)]
#[must_use]
pub fn release(slot: &Slot, grant: &Grant, vacancy: Vacancy, waker: &impl Wake) -> bool {
    finish(slot, slot.release(grant, vacancy), waker)
}

/// Gives back a grant with the predecessor's news as it was; see [`Slot::undo`].
#[cold]
pub fn undo(slot: &Slot, grant: Grant, takeover: fn(u32) -> Vacancy, waker: &impl Wake) -> bool {
    finish(slot, slot.undo(grant, takeover), waker)
}

/// Vacates the slot from the exact word `seen`, and wakes a waiter if one may be there.
/// False when the word had changed.
#[must_use]
pub fn vacate(slot: &Slot, seen: OwnerWord, vacancy: Vacancy, waker: &impl Wake) -> bool {
    finish(slot, slot.vacate(seen, vacancy), waker)
}

#[inline(always)]
fn finish(slot: &Slot, outcome: Vacated, waker: &impl Wake) -> bool {
    match outcome {
        Vacated::Done { wake } => {
            if wake {
                wake_next(slot, waker);
            }
            true
        }
        Vacated::Lost => false,
    }
}

#[cold]
fn wake_next(slot: &Slot, waker: &impl Wake) {
    slot.bump_wake();
    waker.wake_one(slot.wake_word());
}
