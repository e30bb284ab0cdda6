//! The wake handshake. Sleeps have no timeout here, so a wake that is lost, or eaten by a
//! waiter that leaves, is a deadlock.

use std::sync::Arc;

use super::super::model::{Actor, Judge, World, act, finish};
use super::super::protocol::word::Vacancy;
use crate::check::{Model, Reached};

const NO_LOST_WAKE: &str = "each waiter gets the lock in the end, whoever left on the way";

/// The first grant of a fresh table, made before the others run.
fn held_by_first(world: &Arc<World>) -> (Actor, impl FnOnce() + use<>) {
    let holder = Actor::new(world, 0);
    let grant = holder.try_acquire().expect("a fresh slot is free");
    world.section.enter(grant.token());
    let releaser = holder.clone();
    let release = move || assert!(releaser.release(&grant));
    (holder, release)
}

/// A waiter whose first sleep may be interrupted.
#[must_use]
pub fn waiter_and_wake(interruptions: u32) -> Model {
    Model::new(
        format!("a holder and a waiter, {interruptions} early returns"),
        NO_LOST_WAKE,
        2,
        move |reached| {
            let world = World::new(1, 2);
            let (_, release) = held_by_first(&world);
            let mut waiter = Actor::new(&world, 1).interrupted(interruptions);
            let marks = reached.clone();
            let all = [
                act(release),
                act(move || {
                    waiter.use_lock().expect("a patient waiter");
                    if waiter.slept() {
                        marks.mark("slept");
                    } else {
                        marks.mark("did not need to");
                    }
                }),
            ];
            finish(all);
        },
    )
    .reaching(&["slept", "did not need to"])
}

/// What becomes of the second of two waiters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Second {
    /// It stays.
    Stays,
    /// It sleeps once, and leaves when it is woken.
    LeavesWoken,
    /// Its sleep ends at once, and it leaves.
    LeavesLate,
}

/// A holder and two waiters, one of which may leave: then the holder comes again.
#[must_use]
pub fn two_waiters(second: Second) -> Model {
    Model::new(
        format!("a holder and two waiters, the second {second:?}"),
        NO_LOST_WAKE,
        3,
        move |reached| {
            let world = World::new(1, 3);
            let (holder, release) = held_by_first(&world);
            let first = Actor::new(&world, 1);
            let other = Actor::new(&world, 2);
            let other = match second {
                Second::Stays => other,
                Second::LeavesWoken => other.giving_up_after(1),
                Second::LeavesLate => other.giving_up_after(1).interrupted(1),
            };
            let barges = second == Second::LeavesWoken;
            let all = [
                act(move || {
                    release();
                    // A woken waiter leaves only before somebody else's grant.
                    if !barges {
                        return;
                    }
                    if let Some(grant) = holder.try_acquire() {
                        holder.world().section.enter(grant.token());
                        assert!(holder.release(&grant), "nobody revokes it");
                    }
                }),
                act(waits(first, reached)),
                act(waits(other, reached)),
            ];
            finish(all);
        },
    )
    .bounded(2)
    .reaching(if matches!(second, Second::Stays) {
        &["slept and got it"]
    } else {
        &["slept and got it", "left"]
    })
}

fn waits(mut actor: Actor, reached: &Reached) -> impl FnOnce() + use<> {
    let reached = reached.clone();
    move || {
        if actor.use_lock().is_none() {
            reached.mark("left");
        } else if actor.slept() {
            reached.mark("slept and got it");
        }
    }
}

/// A dead holder for whom somebody waits who cannot tell, and a reclaimer who can.
#[must_use]
pub fn reclaim_wakes() -> Model {
    Model::new(
        "a waiter behind a dead holder, a reclaimer",
        "a waiter's bit outlives the death of the holder that it announced itself to",
        2,
        |reached| {
            let world = World::new(1, 3);
            let (holder, _) = held_by_first(&world);
            world.die(0);
            drop(holder);
            let waiter = Actor::new(&world, 1);
            let mut heir = Actor::new(&world, 2).judging(Judge::TheDead);
            let all = [
                act(waits(waiter, reached)),
                act(move || {
                    heir.use_lock().expect("a patient heir");
                }),
            ];
            finish(all);
        },
    )
    .reaching(&["slept and got it"])
}

/// A holder that does nothing, a waiter, an operator.
#[must_use]
pub fn force_wakes() -> Model {
    Model::new(
        "a waiter, an operator who forces",
        "a force-release wakes whoever waits for the slot",
        2,
        |reached| {
            let world = World::new(1, 3);
            let (_, _release) = held_by_first(&world);
            let waiter = Actor::new(&world, 1);
            let operator = Actor::new(&world, 2);
            let all = [
                act(waits(waiter, reached)),
                act(move || {
                    // The waiter may announce itself meanwhile: look again.
                    let pid = operator.identity().pid();
                    while !operator.vacate(operator.world().slot().owner(), Vacancy::Forced(pid)) {}
                }),
            ];
            finish(all);
        },
    )
    .reaching(&["slept and got it"])
}
