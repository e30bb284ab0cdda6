//! Taking back from the dead: reclaimers, the sweep, and the crash points of the owner.

use super::super::model::{Actor, Judge, Sleep, World, act, finish};
use super::super::protocol::reclaim::sweep;
use super::super::protocol::slot::Grant;
use super::super::protocol::word::{Identity, Owner, Vacancy};
use crate::check::Model;
use crate::stop;

/// The session that dies.
const MORTAL: u32 = 0;

/// How a grant came about, as its holder is told by the word that it replaced.
fn told(grant: &Grant) -> &'static str {
    let mortal = Identity::new(100 + MORTAL, MORTAL);
    match grant.from().owner() {
        Owner::Held(holder) if holder == mortal => "taken over",
        Owner::Vacant(Vacancy::Died(pid)) if pid == mortal.pid() => "found swept",
        Owner::Vacant(Vacancy::Released) => "found released",
        Owner::Vacant(Vacancy::Fresh) => "found fresh",
        other => panic!("no rule leads from {other:?} to a grant here"),
    }
}

/// Two reclaimers of an owner that died in its section.
#[must_use]
pub fn two_reclaimers() -> Model {
    Model::new(
        "two reclaimers of a dead owner",
        "one of them is granted from the dead owner's word, and sees its last writes",
        3,
        |reached| {
            let world = World::new(1, 3);
            let mortal = Actor::new(&world, MORTAL);
            let mut all = vec![act(move || {
                let grant = mortal.try_acquire().expect("a fresh slot is free");
                mortal.world().section.enter(grant.token());
                mortal.world().die(MORTAL);
            })];
            for session in 1..3 {
                let mut heir = Actor::new(&world, session)
                    .judging(Judge::TheDead)
                    .sleeping(Sleep::Poll)
                    .giving_up_after(1);
                let reached = reached.clone();
                all.push(act(move || {
                    // The owner comes first, and finds the slot free.
                    let seen = heir.world().slot().owner();
                    if seen.owner() == Owner::Vacant(Vacancy::Fresh) {
                        return;
                    }
                    if let Some(grant) = heir.use_lock() {
                        reached.mark(told(&grant));
                    }
                }));
            }
            finish(all);
        },
    )
    .bounded(3)
    .reaching(&["taken over", "found released"])
}

/// An owner that stops after its k-th step, a reclaimer, and another acquirer.
#[must_use]
pub fn owner_stops(steps: u32) -> Model {
    Model::new(
        "an owner that dies anywhere, an heir",
        "wherever the owner died, the heir gets the slot, and is told how it was left",
        2,
        move |reached| {
            let world = World::new(1, 2);
            let mut mortal = Actor::new(&world, MORTAL).sleeping(Sleep::Poll);
            let mut heir = Actor::new(&world, 1)
                .sleeping(Sleep::Poll)
                .judging(Judge::TheDead);
            let marks = reached.clone();
            let all = [
                act(move || {
                    if stop::after(steps, || mortal.use_lock()).is_none() {
                        mortal.world().die(MORTAL);
                    }
                }),
                act(move || {
                    let grant = heir.use_lock().expect("a patient heir");
                    marks.mark(told(&grant));
                }),
            ];
            finish(all);
        },
    )
    .reaching(&["taken over", "found released", "found fresh"])
}

/// A sweeper of a dead session's slots against an heir that takes over by itself.
#[must_use]
pub fn sweep_and_heir(sweepers: u32) -> Model {
    Model::new(
        format!("{sweepers} sweepers of a dead session, an heir"),
        "the slot is swept or taken over, by one of them, and the sweep never hits the heir",
        1 + sweepers,
        move |reached| {
            let world = World::new(1, 2);
            let mortal = Actor::new(&world, MORTAL);
            let grant = mortal.try_acquire().expect("a fresh slot is free");
            world.section.enter(grant.token());
            world.die(MORTAL);
            let mut heir = Actor::new(&world, 1).judging(Judge::TheDead);
            let marks = reached.clone();
            let mut all = vec![act(move || {
                let grant = heir.use_lock().expect("a patient heir");
                marks.mark(told(&grant));
                let again = heir.use_lock().expect("a patient heir");
                assert_eq!(again.from().owner(), Owner::Vacant(Vacancy::Released));
            })];
            all.extend((0..sweepers).map(|_| {
                let (world, waker) = (world.clone(), Actor::new(&world, 1));
                act(move || {
                    let _ = sweep(&world.slots, |session| session == MORTAL, &waker);
                })
            }));
            finish(all);
        },
    )
    .reaching(&["taken over", "found swept"])
}

/// A sweeper that dies anywhere, another that comes after it, an heir that only waits.
#[must_use]
pub fn sweeper_stops(steps: u32) -> Model {
    Model::new(
        "a sweeper that dies anywhere, the next, a waiter",
        "a sweep that was broken off is finished by the next",
        2,
        move |reached| {
            let world = World::new(2, 3);
            let mortal = Actor::new(&world, MORTAL);
            for slot in 0..2 {
                let _ = mortal.clone().acquire_slot(slot);
            }
            world.die(MORTAL);
            let mut waiter = Actor::new(&world, 1).sleeping(Sleep::Poll);
            let marks = reached.clone();
            let sweepers = world.clone();
            let all = [
                act(move || {
                    let waker = Actor::new(&sweepers, 2);
                    let is_dead = |session| session == MORTAL;
                    let first = stop::after(steps, || sweep(&sweepers.slots, is_dead, &waker));
                    let second = sweep(&sweepers.slots, is_dead, &waker);
                    assert!(first.is_none_or(|swept| swept == 2 && second == 0));
                }),
                act(move || {
                    let grant = waiter.acquire_slot(1).expect("a patient waiter");
                    marks.mark(told(&grant));
                }),
            ];
            finish(all);
        },
    )
    .reaching(&["found swept"])
}

/// What a session does before it uses the index of a dead one. `reclaim::collect` has swept by the
/// time that the byte is taken (`scenarios/sessions.rs`); here that comes after it, or not at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attach {
    /// It sweeps the slots that name the index.
    Sweeps,
    /// It does not.
    Trusts,
}

/// A dead session's record, attached anew by a session that sweeps it first, and an heir
/// that judges by the byte alone.
#[must_use]
pub fn record_reused(attach: Attach) -> Model {
    Model::new(
        "a dead session's index, its next user, an heir",
        "a session that reuses an index never inherits or loses a slot by it",
        2,
        move |reached| {
            let world = World::new(1, 2);
            let mortal = Actor::new(&world, MORTAL);
            let grant = mortal.try_acquire().expect("a fresh slot is free");
            world.section.enter(grant.token());
            world.die(MORTAL);
            // Both sleep until they are called, for two that poll can pass the turn to and fro
            // for ever: a slot that is inherited unswept then leaves them asleep behind it.
            let mut heir = Actor::new(&world, 1).judging(Judge::TheDead);
            let marks = reached.clone();
            let mut next = mortal;
            let all = [
                act(move || {
                    // The kernel gives the byte to one session at a time.
                    let world = next.world().clone();
                    world.revive(MORTAL);
                    if attach == Attach::Sweeps {
                        let _ = sweep(&world.slots, |session| session == MORTAL, &next);
                    }
                    next.use_lock().expect("a patient session");
                }),
                act(move || {
                    let grant = heir.use_lock().expect("a patient heir");
                    marks.mark(told(&grant));
                }),
            ];
            finish(all);
        },
    )
    .reaching(&["taken over", "found swept", "found released"])
}

/// How an heir comes to call a process dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// By the byte, which the kernel frees when no thread is left.
    Byte,
    /// By the certificate, which it marks at the death of the keeper thread.
    Certificate,
}

/// A process of two threads that is killed: its keeper goes first, and its certificate is
/// marked while the other still runs.
#[must_use]
pub fn keeper_dies_first(proof: Proof) -> Model {
    Model::new(
        format!("a process that dies thread by thread, an heir ({proof:?})"),
        "an heir waits for the last thread of a dying process",
        3,
        move |reached| {
            const CERTIFICATE: u32 = 2;
            let world = World::new(1, 3);
            let worker = Actor::new(&world, MORTAL);
            let grant = worker.try_acquire().expect("a fresh slot is free");
            let mut heir = Actor::new(&world, 1)
                .judging(match proof {
                    Proof::Byte => Judge::TheDead,
                    Proof::Certificate => Judge::Marked(CERTIFICATE),
                })
                .sleeping(Sleep::Poll)
                .giving_up_after(2);
            let (keeper, marks) = (world.clone(), reached.clone());
            let all = [
                act(move || keeper.die(CERTIFICATE)),
                act(move || {
                    worker.world().section.enter(grant.token());
                    worker.world().die(MORTAL);
                }),
                act(move || {
                    if heir.use_lock().is_some() {
                        marks.mark("taken over");
                    }
                }),
            ];
            finish(all);
        },
    )
    .bounded(2)
    .reaching(&["taken over"])
}
