//! The heir: who is awake, and stands for those who sleep. Sleeps have no timeout here, so
//! whoever relies on an heir that does not do its part is a deadlock.

use std::sync::Arc;

use super::super::model::{Actor, Call, Judge, Manners, World, act, finish};
use super::super::protocol::reclaim::sweep;
use super::super::protocol::slot::{Grant, Left};
use super::super::protocol::word::{Owner, Queue, Vacancy};
use crate::check::{Model, Reached};

const NOBODY_UNHEARD: &str = "nobody sleeps unheard, whatever becomes of the heir";

/// The first grant of a fresh table, made before the others run.
fn held(world: &Arc<World>) -> (Actor, Grant) {
    let holder = Actor::new(world, 0);
    let grant = holder.try_acquire().expect("a fresh slot is free");
    (holder, grant)
}

/// Waits until it has had the lock, or gives up.
fn waits(mut actor: Actor, reached: &Reached) -> impl FnOnce() + use<> {
    let reached = reached.clone();
    move || {
        let Some(grant) = actor.use_lock() else {
            return reached.mark("left");
        };
        match grant.from().owner() {
            Owner::Vacant(Vacancy::Kept(_)) => reached.mark("took what was kept"),
            Owner::Vacant(Vacancy::Offered) => reached.mark("took what was offered"),
            _ => {}
        }
        if actor.slept_aside() {
            reached.mark("slept aside");
        }
        if actor.looked_again() {
            reached.mark("looked again behind others");
        }
        reached.mark(match (actor.slept(), grant.from().queue()) {
            (true, Queue::Heir) => "slept, and came as the heir",
            (true, _) => "slept",
            (false, Queue::Heir) => "stayed awake, and came beside an heir",
            (false, _) => "did not wait long",
        });
    }
}

/// What a holder that barges in leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Courtesy {
    /// The slot kept for itself, and it does not come back.
    KeptInVain,
    /// The same, and its heir is called before.
    CalledAndKept,
    /// The slot offered to the heir.
    Offered,
    /// The slot to whoever comes, as by any other release.
    Nothing,
    /// The same, and one more than the heir is called.
    OneMoreCalled,
}

/// A holder that barges in before those who wait, with `waiters` of them.
#[must_use]
pub fn barging_holder(courtesy: Courtesy, waiters: u32, manners: Manners) -> Model {
    let model = Model::new(
        format!(
            "a holder that barges in ({courtesy:?}), {waiters} waiting, {}",
            named(manners)
        ),
        NOBODY_UNHEARD,
        1 + waiters,
        move |reached| {
            let world = World::new(1, 1 + waiters as usize);
            let (holder, grant) = held(&world);
            let marks = reached.clone();
            let mut all = vec![act(move || {
                world_enter(&holder, &grant);
                assert!(holder.release(&grant), "nobody revokes it");
                barge(&holder, courtesy, &marks);
            })];
            all.extend((1..=waiters).map(|session| {
                let waiter = Actor::new(&world, session).with(manners);
                act(waits(waiter, reached))
            }));
            finish(all);
        },
    )
    .reaching(match manners.looks {
        0 => &["barged in", "slept, and came as the heir"],
        _ => &[
            "barged in",
            "slept, and came as the heir",
            "looked again behind others",
        ],
    });
    match waiters {
        1 => model,
        _ => model.bounded(2),
    }
}

fn world_enter(holder: &Actor, grant: &Grant) {
    holder.world().section.enter(grant.token());
}

fn barge(holder: &Actor, courtesy: Courtesy, reached: &Reached) {
    let Some(grant) = holder.try_acquire() else {
        return;
    };
    world_enter(holder, &grant);
    if grant.word().queue() == Queue::Heir {
        reached.mark("barged in");
    }
    assert!(leave(holder, &grant, courtesy), "nobody revokes it");
}

/// Releases in front of the others.
fn leave(holder: &Actor, grant: &Grant, courtesy: Courtesy) -> bool {
    if courtesy == Courtesy::CalledAndKept {
        holder.call_heir(grant);
    }
    let leaves = match courtesy {
        Courtesy::Offered => Vacancy::Offered,
        Courtesy::Nothing | Courtesy::OneMoreCalled => Vacancy::Released,
        Courtesy::KeptInVain | Courtesy::CalledAndKept => Vacancy::Kept(holder.identity().pid()),
    };
    let is_left = holder.release_before_others(grant, leaves);
    if courtesy == Courtesy::OneMoreCalled {
        holder.call_another();
    }
    is_left
}

/// Stands aside asleep where the slot is vacant and another's by courtesy.
pub const ASIDE: Manners = Manners {
    looks: 0,
    stays: false,
    attends: 0,
    defers: 0,
    sleeps_aside: true,
};

/// A holder that leaves the slot by courtesy, and a waiter.
#[must_use]
pub fn left_by(courtesy: Courtesy, manners: Manners) -> Model {
    Model::new(
        format!(
            "a holder that leaves the slot ({courtesy:?}), a waiter, {}",
            named(manners)
        ),
        NOBODY_UNHEARD,
        2,
        move |reached| {
            let world = World::new(1, 2);
            let (holder, grant) = held(&world);
            let all = [
                act(leaves(holder, grant, courtesy)),
                act(waits(Actor::new(&world, 1).with(manners), reached)),
            ];
            finish(all);
        },
    )
    .reaching(&["slept, and came as the heir"])
}

/// When a holder that has left the slot waits for it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Again {
    /// At once.
    AtOnce,
    /// When the other has had it.
    Afterwards,
}

/// A holder that leaves the slot by courtesy and waits for it again, aside unless it has kept
/// it for itself, and a waiter; somebody may have announced itself before, and be gone.
#[must_use]
pub fn leaves_and_waits(courtesy: Courtesy, announced: Queue, again: Again) -> Model {
    Model::new(
        format!(
            "a holder that leaves the slot ({courtesy:?} under {announced:?}) and waits \
             {again:?}, a waiter"
        ),
        NOBODY_UNHEARD,
        2,
        move |reached| {
            let world = World::new(1, 2);
            let (holder, grant) = held(&world);
            assert!(world.slot().queue_up(world.slot().owner(), announced));
            let waits_again = waits(holder.clone().with(ASIDE), reached);
            let leaves = leaves(holder, grant, courtesy);
            let waiter = act(waits(Actor::new(&world, 1), reached));
            match again {
                Again::AtOnce => {
                    let both = act(move || {
                        leaves();
                        waits_again();
                    });
                    finish([both, waiter]);
                }
                Again::Afterwards => {
                    finish([act(leaves), waiter]);
                    waits_again();
                }
            }
        },
    )
    .reaching(match (courtesy, again) {
        (_, Again::Afterwards) => &["slept, and came as the heir"],
        (Courtesy::Offered, _) => &["slept aside", "slept, and came as the heir"],
        (_, _) => &["took what was kept", "slept, and came as the heir"],
    })
}

/// A holder that has called the heir, keeps the slot and comes back for it, and that heir.
#[must_use]
pub fn called_and_kept() -> Model {
    Model::new(
        "a holder that has called the heir, keeps the slot and waits for it, the heir",
        NOBODY_UNHEARD,
        2,
        |reached| {
            let world = World::new(1, 2);
            let (holder, grant) = held(&world);
            let called = world.clone();
            let calls = act(move || {
                let slot = called.slot();
                assert!(slot.queue_up(slot.owner(), Queue::Heir));
                slot.bump_wake();
            });
            let waits_again = waits(holder.clone().with(ASIDE), reached);
            let leaves = leaves(holder, grant, Courtesy::KeptInVain);
            let both = act(move || {
                leaves();
                waits_again();
            });
            let call = Call::new(calls, both);
            waits(Actor::new(&world, 1).called(&call), reached)();
            call.finish();
        },
    )
    .reaching(&["took what was kept", "slept, and came as the heir"])
}

fn leaves(holder: Actor, grant: Grant, courtesy: Courtesy) -> impl FnOnce() {
    move || {
        world_enter(&holder, &grant);
        assert!(leave(&holder, &grant, courtesy), "nobody revokes it");
    }
}

/// A holder that leaves the slot by courtesy, a waiter, and one that stands aside.
#[must_use]
pub fn stands_aside(courtesy: Courtesy) -> Model {
    Model::new(
        format!("a holder that leaves the slot ({courtesy:?}), a waiter, one that stands aside"),
        NOBODY_UNHEARD,
        3,
        move |reached| {
            let world = World::new(1, 3);
            let (holder, grant) = held(&world);
            let all = [
                act(leaves(holder, grant, courtesy)),
                act(waits(Actor::new(&world, 1), reached)),
                act(waits(Actor::new(&world, 2).with(ASIDE), reached)),
            ];
            finish(all);
        },
    )
    .bounded(2)
    .reaching(&["slept, and came as the heir"])
}

/// How a holder comes back for what it kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Back {
    /// It reads the word.
    ByLook,
    /// By what it knows of its grant.
    ByGuess,
}

/// A holder that keeps the slot while others wait, and comes back for it, and a waiter.
#[must_use]
pub fn holder_comes_back(back: Back, manners: Manners) -> Model {
    Model::new(
        format!(
            "a holder that comes back for what it kept, {back:?}, a waiter, {}",
            named(manners)
        ),
        NOBODY_UNHEARD,
        2,
        move |reached| {
            let world = World::new(1, 2);
            let (holder, grant) = held(&world);
            let marks = reached.clone();
            let all = [
                act(move || {
                    world_enter(&holder, &grant);
                    let kept = Vacancy::Kept(holder.identity().pid());
                    assert!(holder.release_before_others(&grant, kept));
                    let again = match back {
                        Back::ByLook => holder.try_acquire(),
                        Back::ByGuess => holder.take_after(grant.token(), Left::Kept),
                    };
                    let Some(grant) = again else {
                        return;
                    };
                    world_enter(&holder, &grant);
                    if let Owner::Vacant(Vacancy::Kept(_)) = grant.from().owner() {
                        marks.mark("came back for it");
                    }
                    assert!(holder.release(&grant), "nobody revokes it");
                }),
                act(waits(Actor::new(&world, 1).with(manners), reached)),
            ];
            finish(all);
        },
    )
    .reaching(&["came back for it", "slept, and came as the heir"])
}

fn named(manners: Manners) -> String {
    let Manners {
        looks,
        stays,
        attends,
        defers,
        ..
    } = manners;
    let stays = if stays { "staying awake, " } else { "" };
    let looks = match looks {
        0 => String::new(),
        more => format!("{more} looks behind others, "),
    };
    format!("{looks}{stays}{attends} looks as heir, {defers} deferrals")
}

/// What becomes of an heir that has appointed itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heir {
    /// It waits for as long as it takes.
    Stays,
    /// It gives up while it is awake.
    LeavesAwake,
}

/// A holder, a waiter that appoints itself the heir, and `newcomers` who may rely on it.
#[must_use]
pub fn self_appointed(heir: Heir, attends: u32, newcomers: u32) -> Model {
    let model = Model::new(
        format!("an heir of its own making ({heir:?}), {attends} looks, {newcomers} behind it"),
        NOBODY_UNHEARD,
        2 + newcomers,
        move |reached| {
            let world = World::new(1, 2 + newcomers as usize);
            let (holder, grant) = held(&world);
            let first = Actor::new(&world, 1).with(Manners {
                stays: true,
                attends,
                ..Manners::default()
            });
            let first = match heir {
                Heir::Stays => first,
                Heir::LeavesAwake => first.giving_up_after(0),
            };
            let mut all = vec![
                act(move || {
                    world_enter(&holder, &grant);
                    assert!(holder.release(&grant), "nobody revokes it");
                }),
                act(waits(first, reached)),
            ];
            all.extend(
                (0..newcomers)
                    .map(|newcomer| act(waits(Actor::new(&world, 2 + newcomer), reached))),
            );
            finish(all);
        },
    )
    .reaching(match (heir, newcomers) {
        (Heir::Stays, 0) => &["slept, and came as the heir"],
        (Heir::Stays, _) => &["slept", "slept, and came as the heir"],
        (_, 0) => &["left"],
        (_, _) => &["left", "slept, and came as the heir"],
    });
    match newcomers {
        0 => model,
        _ => model.bounded(2),
    }
}

/// A holder, a waiter that has appointed itself the heir, and one that is woken and leaves,
/// for the other had the slot first.
#[must_use]
pub fn woken_heir_leaves() -> Model {
    Model::new(
        "a woken heir that leaves beside one of its own making",
        NOBODY_UNHEARD,
        3,
        |reached| {
            let world = World::new(1, 3);
            let (holder, grant) = held(&world);
            let own = Actor::new(&world, 1).with(Manners {
                stays: true,
                ..Manners::default()
            });
            let leaves = Actor::new(&world, 2).giving_up_after(1);
            let all = [
                act(move || {
                    world_enter(&holder, &grant);
                    assert!(holder.release(&grant), "nobody revokes it");
                }),
                act(waits(own, reached)),
                act(waits(leaves, reached)),
            ];
            finish(all);
        },
    )
    .bounded(2)
    .reaching(&["left", "slept, and came as the heir"])
}

/// A release whose wake finds nobody, for who announced itself did not come to sleep, and
/// `newcomers` that may rely on the heir that was appointed by it.
#[must_use]
pub fn nobody_comes(newcomers: u32) -> Model {
    let model = Model::new(
        format!("a wake that finds nobody, {newcomers} newcomers"),
        "an heir that was appointed and is not there costs nobody its wake",
        1 + newcomers,
        move |reached| {
            let world = World::new(1, 1 + newcomers as usize);
            let (holder, grant) = held(&world);
            let slot = world.slot();
            // By one that was interrupted, and is gone.
            assert!(slot.queue_up(slot.owner(), Queue::Asleep));
            let mut all = vec![act(move || {
                world_enter(&holder, &grant);
                assert!(holder.release(&grant), "nobody revokes it");
            })];
            all.extend(
                (1..=newcomers).map(|newcomer| act(waits(Actor::new(&world, newcomer), reached))),
            );
            finish(all);
        },
    )
    .reaching(&["stayed awake, and came beside an heir"]);
    match newcomers {
        1 => model,
        _ => model.bounded(2),
    }
}

/// A holder whose word names an heir that is gone, and a waiter that trusts in it for one
/// poll interval, which passes before the release.
#[must_use]
pub fn heir_is_gone() -> Model {
    Model::new(
        "a holder under an heir that is gone, a waiter",
        "who has trusted in vain stands for itself: the next release wakes it",
        2,
        |reached| {
            let world = World::new(1, 2);
            let (holder, grant) = held(&world);
            let slot = world.slot();
            // By one that made itself the heir, and was killed.
            assert!(slot.queue_up(slot.owner(), Queue::Heir));
            let all = [
                act(move || {
                    world_enter(&holder, &grant);
                    holder.world().poll_passes();
                    assert!(holder.release(&grant), "nobody revokes it");
                }),
                act(waits(Actor::new(&world, 1), reached)),
            ];
            finish(all);
        },
    )
    .reaching(&["slept, and came as the heir"])
}

/// Who ends the grant that an heir attends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// An operator, by force.
    Force,
    /// A sweep behind the dead session.
    Sweep,
    /// A waiter that takes over from the dead.
    Reclaim,
}

/// A grant that is not released but revoked, an heir that attends it, a newcomer.
#[must_use]
pub fn revoked_under_an_heir(by: By) -> Model {
    Model::new(
        format!("a grant revoked under an heir ({by:?}), a newcomer"),
        NOBODY_UNHEARD,
        3,
        move |reached| {
            let world = World::new(1, 4);
            let (holder, grant) = held(&world);
            world_enter(&holder, &grant);
            world.die(0);
            drop(holder);
            let heir = Actor::new(&world, 1).with(Manners {
                stays: true,
                attends: 1,
                ..Manners::default()
            });
            let newcomer = Actor::new(&world, 2);
            let ends = Actor::new(&world, 3);
            let all = [
                act(waits(heir, reached)),
                act(waits(newcomer, reached)),
                act(move || revoke(&ends, by)),
            ];
            finish(all);
        },
    )
    .bounded(2)
    .reaching(&["slept, and came as the heir", "slept"])
}

fn revoke(actor: &Actor, by: By) {
    let world = actor.world();
    match by {
        // A waiter may announce itself meanwhile: look again.
        By::Force => {
            // The dead holder's section is seen by looking at its death.
            assert!(world.is_dead(0));
            while !actor.vacate(world.slot().owner(), Vacancy::Forced(100)) {}
        }
        By::Reclaim => {
            let mut next = actor.clone().judging(Judge::TheDead);
            next.use_lock().expect("a patient reclaimer");
        }
        By::Sweep => {
            assert!(world.is_dead(0));
            assert_eq!(sweep(&world.slots, |session| session == 0, actor), 1);
        }
    }
}
