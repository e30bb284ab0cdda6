//! The generation's wrap and the epoch word that records it. Worth most in the tiny
//! world, where an epoch is two grants and the in-word generation repeats every four.

use std::sync::Arc;

use super::super::model::{Actor, Judge, Sleep, World, act, done, finish, identity, pass, take};
use super::super::protocol::slot::{Grant, Left, Slot, Taken, Vacated};
use super::super::protocol::word::{Identity, Owner, Queue, Vacancy};
use super::super::widths::GENERATION_BITS;
use crate::check::{Model, Reached};
use crate::stop;

/// Grants until the word looks the same again, in the tiny world.
const PERIOD: u64 = 4;

/// The grant `stale`, made and revoked.
fn revoked(world: &World, me: Identity, stale: u64) -> Grant {
    for _ in 1..stale {
        pass(world.slot(), me);
    }
    let old = take(world.slot(), me);
    done(world.slot().vacate(old.word(), Vacancy::Expired(me.pid())));
    old
}

/// The grant whose word looks just like that of `old`, made and released.
fn pass_as_twin(slot: &Slot, me: Identity, old: &Grant) {
    let twin = take(slot, me);
    assert_eq!(
        twin.word() == old.word(),
        GENERATION_BITS == 2,
        "the period is not what this model thinks"
    );
    assert_eq!(twin.token(), old.token() + PERIOD);
    done(slot.release(&twin, Vacancy::Released));
}

/// A guard of token `stale`, revoked, that looks whether it is held while its session
/// takes the slot again and again, until the word is just what the guard remembers.
#[must_use]
pub fn stale_look(stale: u64) -> Model {
    Model::new(
        format!("a stale guard of token {stale} looks, {PERIOD} grants"),
        "a revoked grant never looks current, even where the generation has come round",
        2,
        move |reached| {
            let world = World::new(1, 1);
            let me = identity(0);
            let old = revoked(&world, me, stale);
            let (one, two, marks) = (world.clone(), world.clone(), reached.clone());
            let all = [
                act(move || {
                    for _ in 1..PERIOD {
                        pass(one.slot(), me);
                    }
                    pass_as_twin(one.slot(), me, &old);
                }),
                act(move || {
                    assert!(!two.slot().is_current(&old), "a lost grant came back");
                    if two.slot().owner().grant_only() == old.word().grant_only() {
                        marks.mark("saw its own word");
                    }
                }),
            ];
            finish(all);
        },
    )
    .reaching(&["saw its own word"])
}

/// A guard of token `stale`, revoked long ago, that releases while the word comes round to
/// what it remembers. The bound of the protocol's fourth invariant is in the model: the
/// slot has left the guard's epoch when the release begins.
#[must_use]
pub fn stale_release(stale: u64) -> Model {
    Model::new(
        format!("a stale guard of token {stale} releases, {PERIOD} grants"),
        "a stale release fails even where the generation has come round",
        2,
        move |reached| {
            let world = World::new(1, 1);
            let me = identity(0);
            let old = revoked(&world, me, stale);
            for _ in 0..PERIOD / 2 {
                pass(world.slot(), me);
            }
            let (one, two, marks) = (world.clone(), world.clone(), reached.clone());
            let all = [
                act(move || {
                    for _ in PERIOD / 2 + 1..PERIOD {
                        pass(one.slot(), me);
                    }
                    pass_as_twin(one.slot(), me, &old);
                }),
                act(move || {
                    if two.slot().owner().grant_only() == old.word().grant_only() {
                        marks.mark("saw its own word");
                    }
                    assert!(
                        !two.slot().release_quietly(&old, Vacancy::Released),
                        "a stale release succeeded"
                    );
                    let outcome = two.slot().release(&old, Vacancy::Released);
                    assert_eq!(outcome, Vacated::Lost, "a stale release succeeded");
                    let outcome = two.slot().release_before_others(&old, |_| Vacancy::Offered);
                    assert_eq!(outcome, Vacated::Lost, "a stale release succeeded");
                }),
            ];
            finish(all);
        },
    )
    .reaching(&["saw its own word"])
}

/// Two acquirers that try `rounds` times each, after `start` grants.
#[must_use]
pub fn triers_across_epochs(start: u64, rounds: u32) -> Model {
    Model::new(
        format!("two triers, {rounds} rounds each, from token {start}"),
        "tokens are unique and rise with ownership, and no live holder's grant is lost",
        2,
        move |reached| {
            let world = World::after(start, 2);
            let all: Vec<_> = (0..2)
                .map(|session| {
                    let actor = Actor::new(&world, session);
                    let marks = reached.clone();
                    act(move || {
                        for _ in 0..rounds {
                            let Some(grant) = actor.try_acquire() else {
                                marks.mark("refused");
                                continue;
                            };
                            actor.world().section.enter(grant.token());
                            assert!(actor.world().slot().is_current(&grant));
                            assert!(actor.release(&grant), "nobody revoked it");
                        }
                    })
                })
                .collect();
            finish(all);
            let mut tokens = world.tokens();
            tokens.sort_unstable();
            assert!(
                tokens
                    .iter()
                    .copied()
                    .eq((1..).skip(start as usize).take(tokens.len()))
            );
        },
    )
    .reaching(&["refused"])
}

/// An acquirer that has looked at a vacant slot, and takes it from that word when it has
/// come round, after `start` grants: what it has acquired by looking is long out of date.
#[must_use]
pub fn stale_take(start: u64) -> Model {
    Model::new(
        format!("an acquirer that lags, {PERIOD} grants of another, from token {start}"),
        "a grant from a word that has come round is one, and sees the last holder's writes",
        2,
        move |reached| {
            let world = World::after(start, 2);
            let (holder, late) = (Actor::new(&world, 0), Actor::new(&world, 1));
            let marks = reached.clone();
            let all = [
                act(move || {
                    for _ in 0..PERIOD {
                        let Some(grant) = holder.try_acquire() else {
                            return;
                        };
                        holder.world().section.enter(grant.token());
                        assert!(holder.release(&grant), "nobody revoked it");
                    }
                }),
                act(move || {
                    let seen = late.world().slot().owner();
                    let looked_first = late.world().tokens().is_empty();
                    if !seen.is_open() {
                        return;
                    }
                    let Some(grant) = late.take(seen) else {
                        return marks.mark("changed");
                    };
                    late.world().section.enter(grant.token());
                    if looked_first && grant.token() > start + PERIOD {
                        marks.mark("granted a wrap later");
                    }
                    assert!(late.release(&grant), "nobody revoked it");
                }),
            ];
            finish(all);
        },
    )
    .reaching(&["changed", "granted a wrap later"])
}

/// An owner that comes back to a slot by what it knows of its last grant there, after `start`
/// grants, beside another that takes the slot until the word has come round: another process
/// or, as only its own keeps the slot for it, another thread.
#[must_use]
pub fn guesser(left: Left, start: u64) -> Model {
    Model::new(
        format!("a guesser, {PERIOD} grants of another, {left:?}, from token {start}"),
        "a grant by guess is of its own token, and sees the last holder's writes",
        2,
        move |reached| {
            let world = World::after(start, 2);
            let guesser = Actor::new(&world, 1);
            let holder = match left {
                Left::Quiet => Actor::new(&world, 0),
                Left::Kept => Actor::new(&world, 1),
            };
            let known = known_to(&guesser, left);
            let marks = reached.clone();
            let all = [
                act(move || {
                    for _ in 0..PERIOD {
                        if inherit_and_leave(&holder, left).is_none() {
                            return;
                        }
                    }
                }),
                act(move || {
                    let Some(grant) = guesser.take_after(known, left) else {
                        return marks.mark("changed");
                    };
                    guesser.world().section.enter(grant.token());
                    if grant.token() == known + 1 {
                        marks.mark("granted at once");
                    } else {
                        assert_eq!(grant.token(), known + PERIOD + 1);
                        marks.mark("granted a wrap later");
                    }
                    assert!(guesser.release(&grant), "nobody revoked it");
                }),
            ];
            finish(all);
        },
    )
    .reaching(&["changed", "granted at once", "granted a wrap later"])
}

/// A guesser that dies anywhere, and an heir, after `start` grants; then more, one by one.
#[must_use]
pub fn guesser_stops(left: Left, start: u64, steps: u32) -> Model {
    Model::new(
        format!("a guesser that dies anywhere, an heir, {left:?}, from token {start}"),
        "tokens rise though a grant by guess dies before its epoch is helped forward",
        2,
        move |reached| {
            let world = World::after(start, 2);
            let mortal = Actor::new(&world, 0);
            let known = known_to(&mortal, left);
            let heir = Actor::new(&world, 1).judging(Judge::TheDead);
            let (one, two) = (world.clone(), reached.clone());
            let all = [
                act(move || {
                    let once = || {
                        let grant = mortal.take_after(known, left)?;
                        mortal.world().section.enter(grant.token());
                        assert!(mortal.release(&grant), "nobody revokes it");
                        Some(grant)
                    };
                    if stop::after(steps, once).is_none() {
                        one.die(0);
                    }
                }),
                act(move || {
                    for grant in [inherit(&heir), inherit(&heir)].into_iter().flatten() {
                        mark_takeover(&grant, &two);
                    }
                }),
            ];
            finish(all);
            tokens_go_on(&world, start, reached);
        },
    )
    .reaching(&["taken over"])
}

/// Who waits, of an owner that dies and its heir.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waits {
    /// The one that dies: the other holds the slot, and comes again when that one is done.
    TheOwner,
    /// The heir.
    TheHeir,
    /// Neither, and the heir looks twice: an owner may lag behind more than one grant.
    Neither,
    /// Both, and the heir comes twice.
    Both,
}

/// An owner that dies anywhere, and an heir, after `start` grants; then more, one by one.
#[must_use]
pub fn owner_stops(waits: Waits, start: u64, steps: u32) -> Model {
    Model::new(
        format!("an owner that dies anywhere, an heir, {waits:?} waits, from token {start}"),
        "tokens rise though a grant dies before its epoch is helped forward",
        2,
        move |reached| {
            let world = World::after(start, 2);
            let mut mortal = Actor::new(&world, 0).sleeping(Sleep::Poll);
            let mut heir = Actor::new(&world, 1)
                .sleeping(Sleep::Poll)
                .judging(Judge::TheDead);
            if waits != Waits::Both {
                // Each look is as the one before: to look once more and leave is enough.
                mortal = mortal.giving_up_after(1);
                heir = heir.giving_up_after(1);
            }
            let held = (waits == Waits::TheOwner).then(|| {
                let grant = heir.try_acquire().expect("nobody else is about");
                world.section.enter(grant.token());
                grant
            });
            let (one, two) = (world.clone(), reached.clone());
            let all = [
                act(move || {
                    let once = || match waits {
                        Waits::TheOwner | Waits::Both => mortal.use_lock(),
                        Waits::TheHeir | Waits::Neither => inherit(&mortal),
                    };
                    if stop::after(steps, once).is_none() {
                        one.die(0);
                    }
                }),
                act(move || {
                    let grants = match held {
                        Some(grant) => {
                            assert!(heir.release(&grant), "nobody revokes it");
                            return;
                        }
                        None if waits == Waits::TheHeir => [heir.use_lock(), None],
                        None if waits == Waits::Both => [heir.use_lock(), heir.use_lock()],
                        None => [inherit(&heir), inherit(&heir)],
                    };
                    for grant in grants.into_iter().flatten() {
                        mark_takeover(&grant, &two);
                    }
                }),
            ];
            finish(all);
            tokens_go_on(&world, start, reached);
        },
    )
    .reaching(&["taken over"])
}

/// Whatever an owner that died and its heir have left, the tokens go on from there, through
/// two epochs.
fn tokens_go_on(world: &Arc<World>, start: u64, reached: &Reached) {
    let last = world.tokens().into_iter().max().unwrap_or(start);
    let mut next = Actor::new(world, 1).judging(Judge::TheDead);
    let first = next.use_lock().expect("nobody else is about");
    mark_takeover(&first, reached);
    // The dead one may have had a grant that it never came to know of.
    assert!((last + 1..=last + 2).contains(&first.token()));
    for after in 1..PERIOD {
        let grant = next.use_lock().expect("nobody else is about");
        assert_eq!(grant.token(), first.token() + after, "not the next token");
    }
}

fn mark_takeover(grant: &Grant, reached: &Reached) {
    if matches!(grant.from().owner(), Owner::Held(_)) {
        reached.mark("taken over");
    }
}

/// Takes a slot that is vacant or a dead one's, and releases it.
fn inherit(actor: &Actor) -> Option<Grant> {
    inherit_and_leave(actor, Left::Quiet)
}

/// The same, and leaves it so.
fn inherit_and_leave(actor: &Actor, left: Left) -> Option<Grant> {
    let grant = actor.try_inherit()?;
    actor.world().section.enter(grant.token());
    let released = match left {
        Left::Quiet => actor.release(&grant),
        Left::Kept => actor.release_as_guard(&grant),
    };
    assert!(released, "nobody revokes it");
    Some(grant)
}

/// The token of a grant of `actor`'s that it has left so, while nobody else is about.
fn known_to(actor: &Actor, left: Left) -> u64 {
    let slot = actor.world().slot();
    if left == Left::Kept {
        assert!(slot.queue_up(slot.owner(), Queue::Heir));
    }
    let known = inherit_and_leave(actor, left).expect("nobody else is about");
    known.token()
}

/// One owner after the other dies anywhere, each taken over by the next, through two
/// wraps: all pairs of crash points, one after the other.
#[must_use]
pub fn nested_crashes() -> Model {
    const STEPS: u32 = 12;
    Model::new(
        format!("owners that die one after the other, {STEPS} x {STEPS} crash points"),
        "tokens rise by one however many grants in a row die unhelped",
        1,
        |reached| {
            for (first, second) in (0..STEPS).flat_map(|a| (0..STEPS).map(move |b| (a, b))) {
                for start in 0..PERIOD {
                    crash_twice(start, first, second);
                }
            }
            reached.mark("all pairs");
        },
    )
    .long()
    .reaching(&["all pairs"])
}

fn crash_twice(start: u64, first: u32, second: u32) {
    let world: Arc<World> = World::new(1, 1);
    let slot = world.slot();
    for _ in 0..start {
        pass(slot, Identity::new(9, 9));
    }
    let mut grants = start;
    for (session, steps) in [(1, first), (2, second), (3, first), (4, second)] {
        let before = slot.owner();
        let outcome = stop::after(steps, || take(slot, Identity::new(9, session)));
        // Whether the grant was made before the crash is in the word.
        grants += u64::from(slot.owner() != before);
        if let Some(grant) = outcome {
            assert_eq!(grant.token(), grants);
        }
    }
    let last = take(slot, Identity::new(9, 5));
    assert_eq!(last.token(), grants + 1);
    done(slot.release(&last, Vacancy::Released));
}

/// An owner that dies anywhere under the very word that another's guess expects, a wrap later;
/// an operator who acknowledges its death; the guesser, which dies anywhere, too, and the same
/// with the next word: all pairs of crash points, and then more grants, one by one.
#[must_use]
pub fn acknowledged_and_guessed() -> Model {
    const STEPS: u32 = 12;
    Model::new(
        format!("deaths acknowledged, guesses from them, {STEPS} x {STEPS} crash points"),
        "a slot that was left to the next has no epoch word that lags",
        1,
        |reached| {
            for (first, second) in (0..STEPS).flat_map(|a| (0..STEPS).map(move |b| (a, b))) {
                for start in 0..PERIOD {
                    acknowledge_and_guess(start, first, second, reached);
                }
            }
        },
    )
    .long()
    .reaching(&["granted", "died of it"])
}

fn acknowledge_and_guess(start: u64, first: u32, second: u32, reached: &Reached) {
    let world: Arc<World> = World::new(1, 1);
    let slot = world.slot();
    let [guesser, mortal, next] = [1, 2, 3].map(|session| Identity::new(9, session));
    for _ in 0..start {
        pass(slot, next);
    }
    let known = [start + 1, start + 2];
    for _ in known {
        pass(slot, guesser);
    }
    for _ in 2..PERIOD {
        pass(slot, next);
    }
    let mut grants = start + PERIOD;
    // What an owner leaves behind that has got so far.
    let mut left_by = |steps, grant: &dyn Fn() -> Option<Grant>| {
        let before = slot.owner();
        let outcome = stop::after(steps, grant);
        grants += u64::from(slot.owner() != before);
        if let Some(grant) = outcome.flatten() {
            assert_eq!(grant.token(), grants);
            reached.mark("granted");
        } else if slot.owner() != before {
            reached.mark("died of it");
        }
        if let Owner::Held(gone) = slot.owner().owner() {
            done(slot.vacate(slot.owner(), Vacancy::Died(gone.pid())));
            done(slot.acknowledge(slot.owner()));
        }
    };
    left_by(first, &|| Some(take(slot, mortal)));
    for token in known {
        left_by(
            second,
            &|| match slot.take_after(token, Left::Quiet, guesser) {
                Taken::Granted(grant) => Some(grant),
                Taken::Changed | Taken::Revoked => None,
            },
        );
    }
    for _ in 0..PERIOD {
        grants += 1;
        let grant = take(slot, next);
        assert_eq!(grant.token(), grants);
        done(slot.release(&grant, Vacancy::Released));
    }
}

/// A holder that goes through an epoch, and someone who tries from a word of long ago.
#[must_use]
pub fn lagging_helper() -> Model {
    Model::new(
        "an acquirer that lags, a holder through an epoch",
        "a helper never moves the epoch word past the owner word",
        2,
        |reached| {
            let world = World::new(1, 2);
            for _ in 0..2 {
                pass(world.slot(), identity(0));
            }
            let (one, two, marks) = (world.clone(), world.clone(), reached.clone());
            let all = [
                act(move || {
                    for token in [3, 4] {
                        let Taken::Granted(grant) =
                            one.slot().take(one.slot().owner(), identity(0), false)
                        else {
                            return;
                        };
                        assert_eq!(grant.token(), token);
                        assert!(
                            one.slot().is_current(&grant),
                            "lost, though nobody revoked it"
                        );
                        done(one.slot().release(&grant, Vacancy::Released));
                    }
                }),
                act(move || {
                    // An operator who looks, and takes when the slot is vacant.
                    let seen = two.slot().owner();
                    if let Owner::Vacant(_) = seen.owner() {
                        match two.slot().take(seen, identity(1), false) {
                            Taken::Granted(_) => marks.mark("granted"),
                            _ => marks.mark("changed"),
                        }
                    }
                }),
            ];
            finish(all);
        },
    )
    .reaching(&["changed"])
}

/// Someone who looks, while tokens go by.
#[must_use]
pub fn onlooker() -> Model {
    const GRANTS: u64 = 3;
    Model::new(
        "an onlooker, a holder of many grants",
        "a view's token is that of the grant in the same view",
        2,
        |reached| {
            let world = World::new(1, 1);
            let (one, two, marks) = (world.clone(), world.clone(), reached.clone());
            let all = [
                act(move || {
                    for token in 1..=GRANTS {
                        let grant = take(one.slot(), Identity::new(token as u32, 0));
                        assert_eq!(grant.token(), token);
                        done(one.slot().release(&grant, Vacancy::Released));
                    }
                }),
                act(move || {
                    // A view is such readings until one succeeds, each as this one begun later.
                    let Some(view) = two.slot().view_once() else {
                        return;
                    };
                    if let Owner::Held(holder) = view.word.owner() {
                        assert_eq!(u64::from(holder.pid()), view.token);
                        if view.token == GRANTS {
                            marks.mark("the last grant");
                        }
                    }
                }),
            ];
            finish(all);
        },
    )
    .reaching(&["the last grant"])
}
