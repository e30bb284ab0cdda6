//! Blocking: the handshake over the wake word, and who goes first, with everything that
//! takes time behind a trait.
//!
//! A waiter reads the wake word, makes sure that the owner word says `Asleep`, and sleeps
//! for as long as the wake word stays what it was. Whoever frees the slot turns `Asleep`
//! into `Heir` in the same CAS, then counts the wake word up, then wakes one. So either
//! the freeing CAS sees that the waiter sleeps, or the waiter sees the vacated word; and if
//! the count comes before the sleep, the sleep ends at once.
//!
//! # The heir
//!
//! The one that was woken is the heir: while the word says so, no release has to wake anybody,
//! and the holder barges in again and again, without a system call and a few nanoseconds slower
//! than uncontended: it releases the slot `Kept`, and others hold back long enough for it to
//! return. When it has barged in for long enough it releases the slot
//! `Offered`, and all but the heir hold back.
//! Both are courtesies among the living: whoever finds that nothing happens takes the slot.
//! A slot that is often free is left without either, nobody holds back there, and one more than
//! the heir is called now and then (`call_another`): that one is an heir, too.
//!
//! So in turns, of many that want a slot two are awake, the holder and its heir; the others
//! sleep.
//! Who has had its turn holds back for the heir asleep, too, under the vacant word, because the
//! heir may need that very processor: were all to stay runnable, the scheduler would share out
//! turns by slices of milliseconds, and stop holders in the middle of theirs. That sleep is
//! as any under `Heir`: whoever takes the slot leaves it `Asleep`, or an heir is awake that
//! gets its turn, sleeps again, or leaves, by one of these:
//!
//! - it takes the slot, and leaves the word `Asleep`, for it cannot know who sleeps;
//! - it makes the word `Asleep` and sleeps again: the holder has the lock for long;
//! - it leaves without the slot, and wakes another or has the next release do so.
//!
//! Nobody is the heir by name. Any waiter that was woken and finds the word `Heir` acts as
//! one, and so does one that has slept its time and saw nobody being granted the slot: two
//! heirs do no harm; to have none costs those who trusted in one a bounded sleep.
//! A freeing CAS whose wake finds nobody takes the appointment back (`nobody_came`).

use super::slot::{Grant, Slot, Taken, Vacated};
use super::sync::AtomicU32;
use super::word::{Identity, Owner, OwnerWord, Queue, Vacancy};

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
    /// Wakes one waiter that sleeps on `wake`; false when nobody slept there.
    fn wake_one(&self, wake: &AtomicU32) -> bool;
}

/// What a waiter does that has found a held slot, and is not the heir.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Spin {
    /// It looks again.
    Look,
    /// It stays awake, as the heir of those who come after it: the holder lets go of the
    /// slot again and again, faster than anybody can go to sleep.
    Stay,
    /// It sleeps.
    Sleep,
}

/// What a waiter does about a vacant slot that is another's by courtesy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Defer {
    /// It has paused for a moment, and looks again.
    Look,
    /// It sleeps, if there is an heir: that one may need this very processor.
    Sleep,
    /// The other has had its chance.
    Take,
}

/// How a sleep ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Slept {
    /// It did not begin, or was broken off, by a signal or for another look: nobody has woken
    /// this waiter.
    NotAtAll,
    /// By a wake, which this waiter has used up.
    UntilWoken,
    /// By time, and nobody has woken it.
    InVain,
}

/// The waiter's side of the world: spinning, judging, sleeping, giving up.
pub trait Waiting: Wake {
    /// Why a wait ended without the slot.
    type Stop;

    /// Pauses a moment while `held` is held, or says how to wait for longer. Behind others
    /// who wait already, one that would stay awake as their heir sleeps.
    fn spin(&mut self, held: OwnerWord) -> Spin;

    /// Pauses a moment while the vacant slot of `seen` is another's by courtesy, or says how
    /// to go on.
    fn defer(&mut self, seen: OwnerWord) -> Defer;

    /// As the heir, pauses a moment while `held` is held, or says that it is time to sleep.
    fn attend(&mut self, held: OwnerWord) -> bool;

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
    /// `wake` is `expected`. Every return means: look again. Shorter than the poll interval
    /// at first when `seen` names an heir, which is trusted to wake the others, and may be
    /// dead. The word may be vacant.
    fn sleep(&mut self, wake: &AtomicU32, expected: u32, seen: OwnerWord) -> Slept;
}

/// Acquires `slot` for `me`, however long it takes.
///
/// # Errors
///
/// The environment's reason to give up.
pub fn acquire<E: Waiting>(slot: &Slot, me: Identity, env: &mut E) -> Result<Grant, E::Stop> {
    let mut is_heir = false;
    let outcome = acquire_or_stop(slot, me, env, &mut is_heir);
    if outcome.is_err() && is_heir {
        pass_on(slot, env);
    }
    outcome
}

/// `is_heir` says that others may rely on this waiter: it was woken, or has made itself
/// the heir. It stays so until the end, for whoever relied on it may sleep still.
fn acquire_or_stop<E: Waiting>(
    slot: &Slot,
    me: Identity,
    env: &mut E,
    is_heir: &mut bool,
) -> Result<Grant, E::Stop> {
    loop {
        let seen = slot.owner();
        match seen.owner() {
            Owner::Vacant(vacancy) => {
                if hold_back(slot, seen, is_heir, env) {
                    continue;
                }
                // Who takes what was offered to another has found that heir wanting.
                let may_leave_sleepers = *is_heir || vacancy == Vacancy::Offered;
                match slot.take(seen, me, may_leave_sleepers) {
                    Taken::Granted(grant) => return Ok(grant),
                    Taken::Changed | Taken::Revoked => continue,
                }
            }
            Owner::Renaming(_) | Owner::Corrupt => {
                env.unusable(seen)?;
                continue;
            }
            Owner::Held(_) if stay_awake(slot, seen, is_heir, env) => continue,
            Owner::Held(_) => {}
        }
        if env.judge(seen)? == Verdict::Gone {
            match slot.take(seen, me, *is_heir) {
                Taken::Granted(grant) => return Ok(grant),
                Taken::Changed | Taken::Revoked => continue,
            }
        }
        let relied_on = match seen.queue() {
            Queue::Heir if !*is_heir => Queue::Heir,
            _ => Queue::Asleep,
        };
        *is_heir |= sleep_under(slot, seen, relied_on, env);
    }
}

/// Whether to leave a vacant slot to whom it is offered or kept for, and look again.
fn hold_back<E: Waiting>(slot: &Slot, seen: OwnerWord, is_heir: &mut bool, env: &mut E) -> bool {
    match seen.owner() {
        Owner::Vacant(Vacancy::Offered) if !*is_heir => {}
        Owner::Vacant(Vacancy::Kept(_)) => {}
        _ => return false,
    }
    match env.defer(seen) {
        Defer::Look => true,
        // As behind a holder, there is an heir: a courtesy without one is a word that no rule
        // leads to, and is simply taken. Who is the heir must not sleep here.
        Defer::Sleep if seen.queue() == Queue::Heir && !*is_heir => {
            *is_heir = sleep_under(slot, seen, Queue::Heir, env);
            true
        }
        Defer::Sleep | Defer::Take => false,
    }
}

/// Sleeps under `seen` once that says `relied_on`; true when others may rely on this waiter
/// from then on: it was woken, or it has slept its time and nobody was granted the slot
/// meanwhile, so that whoever should see to that may be gone.
fn sleep_under<E: Waiting>(slot: &Slot, seen: OwnerWord, relied_on: Queue, env: &mut E) -> bool {
    // The wake word is read before the owner word is known to say that someone sleeps, so a
    // release that sees it is one whose count we have not read.
    let expected = slot.wake_count();
    let announced = if seen.queue() == relied_on {
        slot.owner() == seen
    } else {
        slot.queue_up(seen, relied_on)
    };
    if !announced {
        return false;
    }
    match env.sleep(slot.wake_word(), expected, seen.queued(relied_on)) {
        Slept::NotAtAll => false,
        Slept::UntilWoken => true,
        Slept::InVain => slot.owner().generation() == seen.generation(),
    }
}

/// Whether to look at a held slot again without sleeping.
fn stay_awake<E: Waiting>(slot: &Slot, held: OwnerWord, is_heir: &mut bool, env: &mut E) -> bool {
    let queue = held.queue();
    if queue == Queue::Heir && *is_heir {
        return env.attend(held);
    }
    match env.spin(held) {
        Spin::Look => true,
        Spin::Stay if queue == Queue::Idle => {
            *is_heir |= slot.queue_up(held, Queue::Heir);
            true
        }
        Spin::Stay | Spin::Sleep => false,
    }
}

/// An heir that gives up makes sure that the next release wakes, or, if
/// the slot is free, wakes another now.
fn pass_on<E: Waiting>(slot: &Slot, env: &E) {
    loop {
        let seen = slot.owner();
        match (seen.owner(), seen.queue()) {
            (Owner::Held(_), Queue::Asleep) => return,
            (Owner::Held(_), _) => {
                if slot.queue_up(seen, Queue::Asleep) {
                    return;
                }
            }
            _ => return wake_next(slot, env),
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

/// Releases `grant` while others wait; see [`Slot::release_before_others`].
#[must_use]
pub fn release_before_others(
    slot: &Slot,
    grant: &Grant,
    courtesy: impl FnMut(Queue) -> Vacancy,
    waker: &impl Wake,
) -> bool {
    finish(slot, slot.release_before_others(grant, courtesy), waker)
}

/// `(me,g,Asleep) -> (me,g,Heir)`: a holder that means to come back calls the heir before it
/// leaves the slot `Kept`: else that would be vacant for as long as the wake takes, and be
/// gone by then.
pub fn call_heir(slot: &Slot, seen: OwnerWord, waker: &impl Wake) {
    if slot.queue_up(seen, Queue::Heir) {
        wake_next(slot, waker);
    }
}

/// Calls one more than the heir, which may be waiting for a processor. Nothing depends on it:
/// who is woken while there is an heir is one, too.
#[cold]
pub fn call_another(slot: &Slot, waker: &impl Wake) {
    waker.wake_one(slot.wake_word());
}

/// Gives back a grant with the predecessor's news as it was; see [`Slot::undo`].
#[cold]
pub fn undo(slot: &Slot, grant: Grant, takeover: fn(u32) -> Vacancy, waker: &impl Wake) -> bool {
    finish(slot, slot.undo(grant, takeover), waker)
}

/// Frees a slot of what was left behind in it; see [`Slot::acknowledge`]. False when the word
/// had changed.
#[must_use]
pub fn acknowledge(slot: &Slot, seen: OwnerWord, waker: &impl Wake) -> bool {
    finish(slot, slot.acknowledge(seen), waker)
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

/// Calls one sleeper to a slot that was freed.
#[cold]
#[inline(never)]
pub(super) fn wake_next(slot: &Slot, waker: &impl Wake) {
    slot.bump_wake();
    if !waker.wake_one(slot.wake_word()) {
        nobody_came(slot, waker);
    }
}

/// Takes back the appointment of an heir that was called and does not exist.
///
/// Somebody may have gone to sleep since, trusting in it. Behind a holder, its release
/// makes up for that. A free slot has no such release: then, and only then, the queue goes
/// to `Idle`, and one more wake comes after it. Whoever trusted was asleep, or has found
/// the wake word counted on, by then; the one that this wakes takes the slot `Asleep`, or
/// announces itself to whoever was faster, and so stands for the others.
fn nobody_came(slot: &Slot, waker: &impl Wake) {
    loop {
        let seen = slot.owner();
        match (seen.owner(), seen.queue()) {
            // An heir took it, or went to sleep behind somebody who did.
            (_, Queue::Idle | Queue::Asleep) => return,
            (Owner::Vacant(_), _) => {
                if slot.desert(seen) {
                    slot.bump_wake();
                    waker.wake_one(slot.wake_word());
                    return;
                }
            }
            (Owner::Held(_), _) => {
                if slot.queue_up(seen, Queue::Asleep) {
                    return;
                }
            }
            // Not a word that this lock's rules lead to from the one that was freed.
            (Owner::Renaming(_) | Owner::Corrupt, _) => return,
        }
    }
}
