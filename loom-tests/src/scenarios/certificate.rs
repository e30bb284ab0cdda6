//! A death that nobody polls for: the certificate's one wake, and its passing on. No sleep
//! has a timeout here, so whoever that wake should reach and does not sleeps for ever.

use std::sync::Arc;

use super::super::model::{Actor, Judge, Passing, Sleep, World, act, finish};
use super::super::protocol::word::{Owner, Vacancy};
use crate::check::{Model, Reached};
use crate::stop;

/// The session that dies.
const MORTAL: u32 = 0;

fn waiter(world: &Arc<World>, session: u32, passing: Passing) -> Actor {
    Actor::new(world, session)
        .judging(Judge::TheDead)
        .sleeping(Sleep::Certificate(passing))
}

/// The kernel's part in the death of a process: the certificate first, the byte later.
fn killed(world: &World) {
    world.mark_certificate(MORTAL);
    world.die(MORTAL);
}

/// A process that dies owning two slots, with a waiter for each.
#[must_use]
pub fn two_slots(passing: Passing) -> Model {
    Model::new(
        "a death, two slots, a waiter for each",
        "the kernel's one wake reaches everybody who waits for the dead, slot by slot",
        3,
        move |reached| {
            let world = World::new(2, 3);
            let mut mortal = Actor::new(&world, MORTAL);
            let first = mortal.acquire().expect("a fresh slot is free");
            world.section.enter(first.token());
            let _ = mortal.acquire_slot(1).expect("a fresh slot is free");
            let kernel = world.clone();
            let mut all = vec![act(move || killed(&kernel))];
            for (session, slot) in [(1, 0), (2, 1)] {
                let mut waiter = waiter(&world, session, passing);
                let marks = reached.clone();
                all.push(act(move || {
                    let grant = waiter.acquire_slot(slot).expect("a patient waiter");
                    assert!(matches!(grant.from().owner(), Owner::Held(_)));
                    marks.mark(if waiter.slept() { "slept" } else { "did not" });
                }));
            }
            finish(all);
        },
    )
    .bounded(2)
    .reaching(&["slept", "did not"])
}

/// A process that dies owning a slot for which two wait.
#[must_use]
pub fn one_slot() -> Model {
    Model::new(
        "a death, a slot, two waiters for it",
        "one takes over, the other is handed on to it, and both get the slot in turn",
        3,
        |reached| {
            let world = World::new(1, 3);
            let mortal = Actor::new(&world, MORTAL);
            let grant = mortal.try_acquire().expect("a fresh slot is free");
            world.section.enter(grant.token());
            let kernel = world.clone();
            let mut all = vec![act(move || killed(&kernel))];
            all.extend(
                (1..3)
                    .map(|session| act(waits(waiter(&world, session, Passing::PassesOn), reached))),
            );
            finish(all);
        },
    )
    .bounded(2)
    .reaching(&["taken over", "found released"])
}

fn waits(mut waiter: Actor, reached: &Reached) -> impl FnOnce() + use<> {
    let reached = reached.clone();
    move || {
        let grant = waiter.use_lock().expect("a patient waiter");
        reached.mark(match grant.from().owner() {
            Owner::Held(holder) => {
                assert_eq!(holder.session(), MORTAL, "robbed the wrong one");
                "taken over"
            }
            Owner::Vacant(Vacancy::Released) => "found released",
            other => panic!("no rule leads from {other:?} to a grant here"),
        });
    }
}

/// A holder that is killed anywhere in its release, and one who waits for it. With two of
/// them it may take a poll: one may come between the release and the wake that is missing,
/// and leave the word to an heir that nobody has woken.
#[must_use]
pub fn releaser_killed(steps: u32) -> Model {
    Model::new(
        "a holder killed anywhere in its release, a waiter",
        "a wake that a dead releaser owed is made good by its certificate, without a poll",
        2,
        move |reached| {
            let world = World::new(1, 2);
            let mortal = Actor::new(&world, MORTAL);
            let grant = mortal.try_acquire().expect("a fresh slot is free");
            world.section.enter(grant.token());
            let waiter = waiter(&world, 1, Passing::PassesOn);
            let all = [
                act(move || {
                    let world = mortal.world().clone();
                    let _ = stop::after(steps, || mortal.release(&grant));
                    killed(&world);
                }),
                act(waits(waiter, reached)),
            ];
            finish(all);
        },
    )
    .reaching(&["taken over", "found released"])
}
