//! Taking from the living: eviction and force-release, and what the late owner can do.

use std::sync::Arc;

use super::super::model::{Actor, Judge, Sleep, World, act, finish};
use super::super::protocol::slot::Grant;
use super::super::protocol::word::{Owner, Vacancy};
use crate::check::Model;
use crate::stop;

/// The session that is slow.
const SLOW: u32 = 0;

/// An owner that looks and releases late, and an evictor that goes on to use the lock.
#[must_use]
pub fn late_release(evictors: u32) -> Model {
    Model::new(
        format!("a slow owner, {evictors} evictors"),
        "a grant ends by its release or by one eviction, and a lost one changes nothing",
        1 + evictors,
        move |reached| {
            let world = World::new(1, 1 + evictors as usize);
            let owner = Actor::new(&world, SLOW);
            let grant = owner.try_acquire().expect("a fresh slot is free");
            let ends = Arc::new(std::sync::Mutex::new(Vec::new()));
            let (marks, owners_end) = (reached.clone(), ends.clone());
            let mut all = vec![act(move || {
                let slot = owner.world().slot();
                let first = slot.is_current(&grant);
                let second = slot.is_current(&grant);
                assert!(first || !second, "a lost grant came back");
                let released = owner.release_as_guard(&grant);
                assert!(second || !released, "released what was lost already");
                if released {
                    owners_end.lock().unwrap().push("released");
                }
                marks.mark(if released { "released" } else { "lost" });
            })];
            for session in 1..=evictors {
                let mut evictor = Actor::new(&world, session)
                    .judging(Judge::Expired(SLOW))
                    .sleeping(Sleep::Poll);
                if evictors > 1 {
                    evictor = evictor.giving_up_after(1);
                }
                let ends = ends.clone();
                all.push(act(move || {
                    let Some(grant) = evictor.use_lock() else {
                        return;
                    };
                    if let Owner::Held(holder) = grant.from().owner() {
                        assert_eq!(holder.session(), SLOW, "robbed the wrong one");
                        ends.lock().unwrap().push("evicted");
                    }
                }));
            }
            finish(all);
            assert_eq!(ends.lock().unwrap().len(), 1, "a grant ends once");
        },
    )
    .reaching(&["released", "lost"])
}

/// An owner that is evicted while it is being granted.
#[must_use]
pub fn evicted_while_granted() -> Model {
    Model::new(
        "an acquirer, an evictor of the same",
        "a token belongs to one grant, and rises with ownership, whoever stalls in between",
        2,
        |reached| {
            let world = World::new(1, 2);
            let slow = Actor::new(&world, SLOW);
            let mut evictor = Actor::new(&world, 1)
                .judging(Judge::Expired(SLOW))
                .sleeping(Sleep::Poll);
            let (marks, notes) = (reached.clone(), reached.clone());
            let all = [
                act(move || {
                    let Some(grant) = slow.try_acquire() else {
                        marks.mark("refused or revoked");
                        return;
                    };
                    if slow.release(&grant) {
                        marks.mark("released");
                    } else {
                        assert_eq!(grant.token(), 1, "evicted, but by whom?");
                        marks.mark("lost");
                    }
                }),
                act(move || {
                    let grant = evictor.use_lock().expect("a patient evictor");
                    if matches!(grant.from().owner(), Owner::Held(_)) {
                        assert_eq!(grant.token(), 2);
                        notes.mark("evicted");
                    }
                }),
            ];
            finish(all);
        },
    )
    .reaching(&["refused or revoked", "released", "lost", "evicted"])
}

/// An evictor that is itself hung right after its grant, and evicted by the next: what
/// the first owner wrote before it died reaches the third all the same.
#[must_use]
pub fn visible_through_a_hung_heir() -> Model {
    Model::new(
        "a dead owner, a hung heir, the next heir",
        "what a holder wrote before its death is seen through an heir that did nothing",
        3,
        |reached| {
            let world = World::new(1, 3);
            let first = Actor::new(&world, 0);
            let mut second = Actor::new(&world, 1)
                .judging(Judge::TheDead)
                .sleeping(Sleep::Poll)
                .giving_up_after(1);
            let third = world.clone();
            let marks = reached.clone();
            let all = [
                act(move || {
                    let grant = first.try_acquire().expect("nobody else starts");
                    first.world().section.enter(grant.token());
                    first.world().die(0);
                }),
                act(move || {
                    if matches!(second.world().slot().owner().owner(), Owner::Held(_)) {
                        let _ = second.acquire();
                    }
                }),
                act(move || {
                    let seen = third.slot().owner();
                    let Owner::Held(holder) = seen.owner() else {
                        return;
                    };
                    if holder.session() != 1 {
                        return;
                    }
                    let evictor = Actor::new(&third, 2).judging(Judge::Expired(1));
                    if let Some(grant) = evictor.clone().acquire() {
                        third.section.enter(grant.token());
                        marks.mark("seen through");
                    }
                }),
            ];
            finish(all);
        },
    )
    .bounded(3)
    .reaching(&["seen through"])
}

/// An operator that forces exactly the grant that it was shown, against the holder's
/// release and an acquirer.
#[must_use]
pub fn force_release() -> Model {
    Model::new(
        "a holder, an operator, an acquirer",
        "a force-release hits the grant that was shown or nothing, and its successor is told",
        3,
        |reached| {
            let world = World::new(1, 3);
            let holder = Actor::new(&world, 0);
            let grant = holder.try_acquire().expect("a fresh slot is free");
            world.section.enter(grant.token());
            let shown = world.slot().view().expect("a quiet slot");
            assert_eq!(shown.token, grant.token());
            let operator = Actor::new(&world, 1);
            let mut acquirer = Actor::new(&world, 2)
                .sleeping(Sleep::Poll)
                .giving_up_after(2);
            let (one, two, three) = (reached.clone(), reached.clone(), reached.clone());
            let all = [
                act(move || {
                    let released = holder.release(&grant);
                    one.mark(if released { "released" } else { "lost" });
                }),
                act(move || {
                    if force(&operator, shown.token) {
                        two.mark("forced");
                    } else {
                        two.mark("too late");
                    }
                }),
                act(move || {
                    let Some(grant) = acquirer.acquire() else {
                        return;
                    };
                    match grant.from().owner() {
                        Owner::Vacant(Vacancy::Released) => three.mark("told: released"),
                        Owner::Vacant(Vacancy::Forced(100)) => three.mark("told: forced"),
                        other => panic!("told {other:?}"),
                    }
                    assert!(acquirer.release(&grant), "forced the wrong grant");
                }),
            ];
            finish(all);
        },
    )
    .bounded(2)
    .reaching(&[
        "released",
        "lost",
        "forced",
        "too late",
        "told: released",
        "told: forced",
    ])
}

/// Force-releases the grant `token`, looking again as long as only the waiter bit changes.
fn force(operator: &Actor, token: u64) -> bool {
    loop {
        let Some(view) = operator.world().slot().view() else {
            return false;
        };
        let Owner::Held(holder) = view.word.owner() else {
            return false;
        };
        if view.token != token {
            return false;
        }
        if operator.vacate(view.word, Vacancy::Forced(holder.pid())) {
            return true;
        }
    }
}

/// An evictor that stops anywhere, the slow owner, and the heir of both.
#[must_use]
pub fn evictor_stops(steps: u32) -> Model {
    Model::new(
        "a slow owner, an evictor that dies anywhere, an heir",
        "an eviction that was broken off leaves the slot held or reclaimable",
        2,
        move |reached| {
            let world = World::new(1, 3);
            let owner = Actor::new(&world, SLOW);
            let grant = owner.try_acquire().expect("a fresh slot is free");
            let evictor = Actor::new(&world, 1)
                .judging(Judge::Expired(SLOW))
                .sleeping(Sleep::Poll);
            let heir = Actor::new(&world, 2)
                .judging(Judge::TheDead)
                .sleeping(Sleep::Poll);
            let marks = reached.clone();
            let all = [
                act(move || {
                    let released = owner.release(&grant);
                    marks.mark(if released { "released" } else { "lost" });
                }),
                act(evict_die_inherit(evictor, heir, steps)),
            ];
            finish(all);
        },
    )
    .reaching(&["released", "lost"])
}

/// The evictor and its heir as one actor: the heir comes after the death.
fn evict_die_inherit(mut evictor: Actor, mut heir: Actor, steps: u32) -> impl FnOnce() {
    move || {
        let world = evictor.world().clone();
        let finished: Option<Option<Grant>> = stop::after(steps, || evictor.use_lock());
        world.die(1);
        let seen = world.slot().owner();
        let still_slow = matches!(seen.owner(), Owner::Held(holder) if holder.session() == SLOW);
        if finished.is_none() && still_slow {
            // Broken off before the eviction: the slow owner is the owner, or releases.
            return;
        }
        heir.use_lock().expect("a patient heir");
    }
}

/// A holder whose guard a panic drops, and the next.
#[must_use]
pub fn panicked() -> Model {
    Model::new(
        "a holder that panics, a waiter",
        "the successor of a panic is told of it, once, and sees what was written",
        2,
        |reached| {
            let world = World::new(1, 2);
            let holder = Actor::new(&world, 0);
            let grant = holder.try_acquire().expect("a fresh slot is free");
            let mut next = Actor::new(&world, 1);
            let marks = reached.clone();
            let all = [
                act(move || {
                    let world = holder.world();
                    world.section.enter(grant.token());
                    assert!(holder.release_as(&grant, Vacancy::Panicked(100)));
                }),
                act(move || {
                    let grant = next.use_lock().expect("a patient waiter");
                    assert_eq!(grant.from().owner(), Owner::Vacant(Vacancy::Panicked(100)));
                    let grant = next.use_lock().expect("a patient waiter");
                    assert_eq!(grant.from().owner(), Owner::Vacant(Vacancy::Released));
                    marks.mark("told once");
                }),
            ];
            finish(all);
        },
    )
    .reaching(&["told once"])
}
