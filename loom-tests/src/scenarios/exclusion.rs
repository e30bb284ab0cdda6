//! Acquire, try, release: one holder at a time, tokens in the order of ownership.

use super::super::model::{Actor, Sleep, World, act, finish};
use super::super::widths::GENERATION_BITS;
use crate::check::Model;

/// Two acquirers that each use the lock `rounds` times.
#[must_use]
pub fn two_acquirers(start: u64, sleep: Sleep) -> Model {
    let name = format!("two acquirers ({sleep:?}), from token {start}");
    Model::new(
        name,
        "one holder at a time, each sees the last one's writes, no wake is lost",
        2,
        move |reached| {
            let world = World::after(start, 2);
            let all: Vec<_> = (0..2)
                .map(|session| {
                    let mut actor = Actor::new(&world, session).sleeping(sleep);
                    let reached = reached.clone();
                    act(move || {
                        let grant = actor.use_lock().expect("a patient actor");
                        if session > 0 && grant.token() == start + 1 {
                            reached.mark("the later actor came first");
                        }
                        if actor.slept() {
                            reached.mark("slept");
                        }
                    })
                })
                .collect();
            finish(all);
            let mut tokens = world.tokens();
            tokens.sort_unstable();
            assert!(tokens.into_iter().eq(start + 1..=start + 2));
        },
    )
    .reaching(&["the later actor came first"])
}

/// Three acquirers; those that poll do it once.
#[must_use]
pub fn three_acquirers(sleep: Sleep) -> Model {
    let name = format!("three acquirers ({sleep:?})");
    Model::new(
        name,
        "one holder at a time, each sees the last one's writes, no wake is lost",
        3,
        move |reached| {
            let world = World::new(1, 3);
            let all: Vec<_> = (0..3)
                .map(|session| {
                    let mut actor = Actor::new(&world, session).sleeping(sleep);
                    if sleep == Sleep::Poll {
                        actor = actor.giving_up_after(1);
                    }
                    let reached = reached.clone();
                    act(move || {
                        if actor.use_lock().is_none() {
                            assert_eq!(sleep, Sleep::Poll);
                            reached.mark("gave up");
                        }
                    })
                })
                .collect();
            finish(all);
            if world.tokens().len() == 3 {
                reached.mark("all three in turn");
            }
        },
    )
    .bounded(2)
    .reaching(&["all three in turn"])
}

/// Two actors that try once each.
#[must_use]
pub fn two_triers() -> Model {
    Model::new(
        format!("two triers, {GENERATION_BITS} bits of generation"),
        "of two attempts at once, one or both in turn are granted, and never none",
        2,
        |reached| {
            let world = World::new(1, 2);
            let all: Vec<_> = (0..2)
                .map(|session| {
                    let (world, reached) = (world.clone(), reached.clone());
                    act(move || {
                        let actor = Actor::new(&world, session);
                        let Some(grant) = actor.try_acquire() else {
                            reached.mark("refused");
                            return;
                        };
                        world.section.enter(grant.token());
                        assert!(actor.release_as_guard(&grant));
                        if grant.token() == 2 {
                            reached.mark("one after the other");
                        }
                    })
                })
                .collect();
            finish(all);
            assert!(!world.tokens().is_empty());
        },
    )
    .reaching(&["refused", "one after the other"])
}
