//! Crash points of those who sleep, wake and take over: a dead actor and a hung one, at
//! each step. The others have one poll interval to make up for what it did not do.

use std::sync::Arc;

use super::super::model::{Actor, Call, End, Judge, Manners, Sleep, World, act, finish, identity};
use super::super::protocol::slot::{Grant, Vacated};
use super::super::protocol::word::{Owner, Queue, Vacancy};
use crate::check::Model;

/// The session that stops.
const MORTAL: u32 = 0;

const ONE_POLL: &str = "wherever it stopped, one poll later everybody has had the slot";

/// Held by an actor of its own, which goes on to release.
fn held(world: &Arc<World>, session: u32) -> (Actor, Grant) {
    let holder = Actor::new(world, session);
    let grant = holder.try_acquire().expect("a fresh slot is free");
    (holder, grant)
}

/// A holder that stops anywhere in its release, a waiter; some may have announced themselves
/// before, and be gone.
#[must_use]
pub fn releaser_stops(announced: Queue, end: End, steps: u32) -> Model {
    Model::new(
        format!(
            "a holder that {} in its release under {announced:?}, a waiter",
            end.verb()
        ),
        ONE_POLL,
        2,
        move |reached| {
            let world = World::new(1, 2);
            let (mut mortal, grant) = held(&world, MORTAL);
            assert!(world.slot().queue_up(world.slot().owner(), announced));
            let mut all = vec![act(move || {
                let released = mortal.stopped_after(steps, end, |me| me.release(&grant));
                // Eviction is for the silent, and it is not silent yet where it may be.
                let _ = released;
            })];
            all.extend((1..2).map(|session| {
                let mut waiter = Actor::new(&world, session).judging(end.judge(MORTAL));
                let marks = reached.clone();
                act(move || {
                    let grant = waiter.pass().expect("a patient waiter");
                    marks.mark(match grant.from().owner() {
                        Owner::Held(_) => "taken over",
                        _ => "found free",
                    });
                })
            }));
            finish(all);
            assert_free(&world);
        },
    )
    .reaching(&["taken over", "found free"])
}

/// What a waiter that stops was up to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waits {
    /// It wants the slot.
    Stays,
    /// It wants the slot, and stays awake as the heir of its own making.
    StaysAwake,
}

/// When a holder comes again. What became of its release is known by then but for the last
/// of these: each is where the two can have got to, and small enough without a bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Again {
    /// When the waiter is done, or has stopped.
    Afterwards,
    /// When it has released, before the waiter looks.
    First,
    /// When its release has called the waiter, or has left the slot to it as the heir.
    BesideTheHeir,
    /// At once, whatever the waiter does.
    AtOnce,
}

/// A holder that comes again, and a waiter that stops anywhere: as a sleeper, as the heir,
/// or as the next holder.
#[must_use]
pub fn waiter_stops(waits: Waits, again: Again, end: End, steps: u32) -> Model {
    Model::new(
        format!(
            "a holder that comes again ({again:?}), a waiter that {} ({waits:?})",
            end.verb()
        ),
        ONE_POLL,
        2,
        move |reached| {
            let world = World::new(1, 2);
            let (holder, grant) = held(&world, 1);
            let mut mortal = Actor::new(&world, MORTAL).with(Manners {
                stays: waits == Waits::StaysAwake,
                attends: 1,
                ..Manners::default()
            });
            let (one, two) = (reached.clone(), reached.clone());
            let mut back = holder.clone().judging(end.judge(MORTAL));
            let releases = move || assert!(holder.release(&grant), "nobody revokes it");
            let mut comes_again = move || {
                let _ = back.pass().expect("a patient holder");
                two.mark("the other had it again");
            };
            let waits = move |mortal: &mut Actor| {
                let outcome = mortal.stopped_after(steps, end, |me| me.pass());
                one.mark(match outcome {
                    None => "stopped",
                    Some(_) => "had it",
                });
            };
            match again {
                Again::Afterwards => {
                    finish([act(releases), act(move || waits(&mut mortal))]);
                    comes_again();
                }
                Again::First => {
                    releases();
                    finish([act(comes_again), act(move || waits(&mut mortal))]);
                }
                Again::BesideTheHeir => {
                    let called = world.clone();
                    let calls = act(move || {
                        let outcome = called.slot().release(&grant, Vacancy::Released);
                        if outcome == (Vacated::Done { wake: true }) {
                            called.slot().bump_wake();
                        }
                    });
                    let call = Call::new(calls, act(comes_again));
                    waits(&mut mortal.called(&call));
                    call.finish();
                }
                Again::AtOnce => {
                    let both = act(move || {
                        releases();
                        comes_again();
                    });
                    finish([both, act(move || waits(&mut mortal))]);
                }
            }
            assert_free(&world);
        },
    )
    .reaching(&["stopped", "had it", "the other had it again"])
}

/// A dead owner, an heir that stops anywhere, the next heir.
#[must_use]
pub fn reclaimer_stops(end: End, steps: u32) -> Model {
    const GONE: u32 = 2;
    Model::new(
        format!(
            "a dead owner, an heir that {} anywhere, the next",
            end.verb()
        ),
        "wherever the heir stopped, the next takes over from whoever is in the word",
        2,
        move |reached| {
            let world = World::new(1, 3);
            let (gone, _) = held(&world, GONE);
            world.die(GONE);
            drop(gone);
            let mut mortal = Actor::new(&world, MORTAL).judging(Judge::TheDead);
            let mut next = Actor::new(&world, 1).judging(match end {
                End::Dies => Judge::TheDead,
                End::Hangs => Judge::DeadOrExpired(MORTAL),
            });
            let marks = reached.clone();
            let all = [
                act(move || {
                    let _ = mortal.stopped_after(steps, end, |me| me.pass());
                }),
                act(move || {
                    let grant = next.pass().expect("a patient heir");
                    marks.mark(match grant.from().owner() {
                        Owner::Held(holder) if holder.session() == GONE => "from the first",
                        Owner::Held(holder) if holder.session() == MORTAL => "from the heir",
                        Owner::Vacant(Vacancy::Released) => "found released",
                        other => panic!("no rule leads from {other:?} to a grant here"),
                    });
                }),
            ];
            finish(all);
            assert_free(&world);
        },
    )
    .reaching(&["from the first", "from the heir", "found released"])
}

/// An owner that hangs anywhere in a grant, and an evictor: no edge leads from one to the
/// other, and the owner's later steps are those of the other crash points.
#[must_use]
pub fn owner_hangs(steps: u32) -> Model {
    Model::new(
        "an owner that hangs anywhere, an evictor",
        "a hung owner is evicted wherever it stopped, and the token is higher",
        2,
        move |reached| {
            let world = World::new(1, 2);
            let mut mortal = Actor::new(&world, MORTAL).sleeping(Sleep::Poll);
            let mut evictor = Actor::new(&world, 1)
                .sleeping(Sleep::Poll)
                .judging(Judge::Expired(MORTAL));
            let (one, two) = (reached.clone(), reached.clone());
            let all = [
                act(move || {
                    let outcome = mortal.stopped_after(steps, End::Hangs, |me| {
                        me.try_acquire().map(|grant| (me.release(&grant), grant))
                    });
                    if let Some(Some((false, grant))) = outcome {
                        assert!(
                            !mortal.world().slot().is_current(&grant),
                            "lost, and yet it is held"
                        );
                        one.mark("answered lost");
                    }
                }),
                act(move || {
                    let grant = evictor.acquire().expect("a patient evictor");
                    if matches!(grant.from().owner(), Owner::Held(_)) {
                        assert_eq!(grant.token(), 2, "a token that was not the next");
                        two.mark("evicted");
                    }
                    assert!(evictor.release(&grant), "a stale release freed it");
                }),
            ];
            finish(all);
            assert_free(&world);
        },
    )
    .reaching(&["answered lost", "evicted"])
}

/// An operator that stops anywhere while it forces, the holder's release, a waiter.
#[must_use]
pub fn operator_stops(end: End, steps: u32) -> Model {
    const OPERATOR: u32 = 2;
    Model::new(
        format!(
            "a hung holder, an operator that {} anywhere, a waiter",
            end.verb()
        ),
        "a force-release that was broken off took effect or did not; one poll tells",
        2,
        move |reached| {
            let world = World::new(1, 3);
            let (holder, grant) = held(&world, MORTAL);
            let mut operator = Actor::new(&world, OPERATOR);
            let mut waiter = Actor::new(&world, 1);
            let (one, two) = (reached.clone(), reached.clone());
            let all = [
                act(move || {
                    let force = |me: &mut Actor| {
                        // The waiter may announce itself meanwhile: look again.
                        let vacancy = Vacancy::Forced(identity(MORTAL).pid());
                        while !me.vacate(me.world().slot().owner(), vacancy) {}
                    };
                    if operator.stopped_after(steps, end, force).is_none() {
                        // Not forced: then the holder is still one, and comes to release.
                        let released = holder.release(&grant);
                        one.mark(if released {
                            "broken off"
                        } else {
                            "forced, no wake"
                        });
                    }
                }),
                act(move || {
                    let grant = waiter.acquire().expect("a patient waiter");
                    two.mark(match grant.from().owner() {
                        Owner::Vacant(Vacancy::Forced(_)) => "told: forced",
                        Owner::Vacant(Vacancy::Released) => "told: released",
                        other => panic!("told {other:?}"),
                    });
                }),
            ];
            finish(all);
            // It keeps what it got, which nobody may end now: a release more is a model too long.
            let owner = world.slot().owner().owner();
            assert_eq!(
                owner,
                Owner::Held(identity(1)),
                "what was granted was ended"
            );
        },
    )
    .reaching(&[
        "broken off",
        "forced, no wake",
        "told: forced",
        "told: released",
    ])
}

/// Nobody is left in the word but the one that stopped, when it came last of all.
fn assert_free(world: &World) {
    match world.slot().owner().owner() {
        Owner::Vacant(_) => {}
        Owner::Held(holder) if holder.session() == MORTAL => {}
        other => panic!("left behind: {other:?}"),
    }
}
