//! The protocol's source with more actors than loom can take: randomised runs under
//! shuttle, by a random scheduler and by one that keeps to priorities (PCT).
//!
//! A run that fails prints its schedule. `CASLOCK_SHUTTLE_SEED` and
//! `CASLOCK_SHUTTLE_ITERATIONS` choose other runs and longer ones.

use crate::{Part, parts};
use std::panic::catch_unwind;
use std::sync::Arc;
use std::time::Duration;

use caslock_loom::report::{self, Row};
use shuttle::rand::{Rng, thread_rng};
use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::thread;
use shuttle::{Config, FailurePersistence, MaxSteps, Runner};

use protocol::reclaim;
use protocol::slot::Slot;
use shuttle_world::{Actor, GaveUp, Sleep, World, mark, missing};

#[allow(dead_code, unused_imports, reason = "the whole protocol comes along")]
#[path = "../../../src/protocol/mod.rs"]
mod protocol;
#[path = "shuttle_world/mod.rs"]
mod shuttle_world;
#[path = "shuttle_world/sync.rs"]
mod sync;

/// How many preemptions PCT places: bugs of this depth are found with a known chance.
const DEPTH: usize = 3;

const SEED: u64 = 0x0ca5_10c4;

/// One randomised model.
struct Crowd {
    name: &'static str,
    actors: u32,
    iterations: usize,
    must: &'static [&'static str],
    run: fn(),
}

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

impl Crowd {
    /// Runs it under both schedulers and adds a row for each.
    fn prove(&self) {
        let seed = from_environment("CASLOCK_SHUTTLE_SEED").unwrap_or(SEED);
        let asked = from_environment("CASLOCK_SHUTTLE_ITERATIONS");
        // The library's own checks, which a debug build has, take most of the time.
        let usual = match cfg!(debug_assertions) {
            true => self.iterations / 10,
            false => self.iterations,
        };
        let iterations = asked.map_or(usual, |asked| usize::try_from(asked).unwrap_or(usize::MAX));
        let (body, config) = (body_of(self.run), config());
        let random = RandomScheduler::new_from_seed(seed, iterations);
        self.row(
            "random",
            seed,
            Runner::new(random, config.clone()).run(body),
        );
        let pct = PctScheduler::new_from_seed(seed, DEPTH, iterations);
        self.row("PCT 3", seed, Runner::new(pct, config).run(body));
        let missing = missing(self.must);
        assert!(missing.is_empty(), "{}: never {missing:?}", self.name);
    }

    fn row(&self, scheduler: &str, seed: u64, iterations: usize) {
        report::add(Row::Crowd {
            name: self.name.to_owned(),
            actors: self.actors,
            scheduler: format!("{scheduler}, seed {seed:#x}"),
            runs: iterations,
        });
    }
}

fn body_of(run: fn()) -> impl Fn() + Copy + Send + Sync + 'static {
    move || {
        let _running = sync::Running::new();
        run();
    }
}

fn config() -> Config {
    let mut config = Config::new();
    config.silence_warnings = true;
    config.max_steps = MaxSteps::FailAfter(200_000);
    config
}

/// What some run fails with, or `None` if all hold: for what is meant to fail.
fn violation(run: fn()) -> Option<String> {
    let mut config = config();
    config.failure_persistence = FailurePersistence::None;
    let random = RandomScheduler::new_from_seed(SEED, 1000);
    let outcome = catch_unwind(|| Runner::new(random, config).run(body_of(run)));
    let payload = outcome.err()?;
    let text = payload
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| payload.downcast_ref::<&str>().copied());
    Some(text.unwrap_or("a panic").to_owned())
}

/// Starts an actor.
fn act(actor: impl FnOnce() + Send + 'static) -> thread::JoinHandle<()> {
    thread::spawn(actor)
}

fn finish(actors: Vec<thread::JoinHandle<()>>) {
    for actor in actors {
        actor.join().expect("an actor failed");
    }
}

/// A number below `below`, of the run's own.
fn any(below: u32) -> u32 {
    thread_rng().gen_range(0..below)
}

/// Some grants before the actors begin, so that the epoch turns anywhere among theirs.
fn age(world: &Arc<World>) {
    let actor = Actor::new(world, 0, Sleep::Futex);
    for _ in 0..any(32) {
        let grant = actor.try_acquire().expect("nobody else is here");
        assert!(actor.release(&grant));
    }
}

/// Whatever happened, a newcomer gets the slot, with the highest token of all.
fn not_stuck(world: &Arc<World>, session: u32) {
    let mut last = Actor::new(world, session, Sleep::Poll);
    let grant = last.acquire().expect("it waits as long as it takes");
    assert!(grant.token() > world.highest(), "an old token came back");
    assert!(last.release(&grant), "nobody is left to revoke it");
}

/// Acquires three times a slot whose grants only release ends.
fn use_exclusively(mut actor: Actor) {
    let world = actor.world().clone();
    for _ in 0..3 {
        let grant = actor.acquire().expect("it waits as long as it takes");
        world.begun(&grant);
        world.enter(0, actor.session(), grant.token());
        world.ended(grant.token());
        assert!(actor.release(&grant), "lost, and nobody revokes");
    }
}

/// Three that acquire and wake nobody: a planted bug.
fn nobody_wakes() {
    let world = World::new(1);
    let actor = |session| Actor::new(&world, session, Sleep::Futex).waking_nobody();
    let actors = (1..=3).map(actor);
    finish(actors.map(|actor| act(|| use_exclusively(actor))).collect());
}

/// Three that acquire, and a sweep that takes the living for dead: a planted bug.
fn the_living_are_swept() {
    let world = World::new(1);
    let actor = |session| Actor::new(&world, session, Sleep::Poll);
    let sweeper = actor(4);
    let mut actors: Vec<_> = (1..=3)
        .map(actor)
        .map(|actor| act(|| use_exclusively(actor)))
        .collect();
    actors.push(act(move || {
        reclaim::sweep(&sweeper.world().slots, |_| true, &sweeper);
    }));
    finish(actors);
}

/// Five that acquire, two that try, one that gives up: no wake is lost.
fn futex_crowd() {
    let world = World::new(1);
    age(&world);
    let mut actors = Vec::new();
    for session in 1..=5 {
        let actor = Actor::new(&world, session, Sleep::Futex);
        actors.push(act(move || use_exclusively(actor)));
    }
    for session in 6..=7 {
        let world = world.clone();
        actors.push(act(move || {
            let actor = Actor::new(&world, session, Sleep::Futex);
            for _ in 0..3 {
                let Some(grant) = actor.try_acquire() else {
                    continue;
                };
                mark("tried");
                world.begun(&grant);
                world.enter(0, session, grant.token());
                world.ended(grant.token());
                assert!(actor.release(&grant), "lost, and nobody revokes");
            }
        }));
    }
    let leaver = world.clone();
    actors.push(act(move || {
        let mut actor = Actor::new(&leaver, 8, Sleep::Futex).giving_up_after(1);
        match actor.acquire() {
            Ok(grant) => assert!(actor.release(&grant), "lost, and nobody revokes"),
            Err(why) => {
                assert_eq!(why, GaveUp::Patience);
                mark("gave up");
            }
        }
    }));
    finish(actors);
    not_stuck(&world, 9);
}

/// Acquires `times` times, and keeps the ledger.
fn use_revocable(world: &Arc<World>, session: u32, times: u32) {
    let mut actor = Actor::new(world, session, Sleep::Poll);
    for _ in 0..times {
        let grant = actor.acquire().expect("it waits as long as it takes");
        world.begun(&grant);
        let held = actor.slot().is_current(&grant);
        if actor.release(&grant) {
            assert!(held, "released, though it was lost before");
            world.ended(grant.token());
        } else {
            mark("answered lost");
            assert!(!actor.slot().is_current(&grant), "lost, and yet it is held");
        }
    }
}

/// Holders, two of them killed, one that hangs and is evicted, an operator who forces, and
/// one who sweeps behind the dead.
fn havoc() {
    let world = World::new(1);
    age(&world);
    let mut actors = Vec::new();
    for session in 1..=4 {
        let world = world.clone();
        actors.push(act(move || use_revocable(&world, session, 3)));
    }
    for session in 5..=6 {
        let world = world.clone();
        actors.push(act(move || {
            let steps = any(60);
            let alive = sync::killed_after(steps, || use_revocable(&world, session, 4));
            if alive.is_none() {
                world.die(session);
            }
        }));
    }
    let hung = world.clone();
    actors.push(act(move || {
        let mut actor = Actor::new(&hung, 7, Sleep::Poll);
        for _ in 0..2 {
            let grant = actor.acquire().expect("it waits as long as it takes");
            hung.begun(&grant);
            hung.set_silent(7, true);
            (0..any(4)).for_each(|_| thread::yield_now());
            if actor.release(&grant) {
                hung.ended(grant.token());
            } else {
                mark("evicted");
            }
            hung.set_silent(7, false);
        }
    }));
    let forced = world.clone();
    actors.push(act(move || {
        let operator = Actor::new(&forced, 8, Sleep::Poll);
        for _ in 0..3 {
            operator.force();
            thread::yield_now();
        }
    }));
    let swept = world.clone();
    actors.push(act(move || {
        let sweeper = Actor::new(&swept, 9, Sleep::Poll);
        for _ in 0..3 {
            if reclaim::sweep(&swept.slots, |session| swept.is_dead(session), &sweeper) > 0 {
                mark("swept");
            }
            thread::yield_now();
        }
    }));
    finish(actors);
    not_stuck(&world, 10);
}

/// Eight users of five names in three slots, two of them killed: names come and go.
fn names_come_and_go() {
    let world = World::new(3);
    let mut actors = Vec::new();
    for session in 1..=8 {
        let world = world.clone();
        actors.push(act(move || {
            let mut actor = Actor::new(&world, session, Sleep::Poll);
            let mut visit = || {
                for _ in 0..2 {
                    let name = b'a' + u8::try_from(any(5)).expect("it is below five");
                    if actor.use_name(name) {
                        mark("used a name");
                    }
                }
            };
            if session > 2 {
                visit();
            } else if sync::killed_after(any(120), visit).is_none() {
                world.die(session);
            }
        }));
    }
    finish(actors);
    // The naming lock is not stuck either: one more finds or creates a name, or hears
    // that each slot is kept for news of the dead.
    let _ = Actor::new(&world, 9, Sleep::Poll).use_name(b'z');
    let renaming = |slot: &Slot| matches!(slot.owner().owner(), protocol::word::Owner::Renaming(_));
    assert!(!world.slots.iter().any(renaming), "a renaming was left");
}

/// Runs that do not end are reported by shuttle itself, by their steps; this is for a
/// scheduler that does.
fn watched(test: impl FnOnce()) {
    const LIMIT: Duration = Duration::from_secs(300);
    let (done, wait) = std::sync::mpsc::channel::<()>();
    let watchdog = std::thread::spawn(move || {
        if wait.recv_timeout(LIMIT) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            eprintln!("the randomised run does not end");
            std::process::abort();
        }
    });
    test();
    drop(done);
    watchdog.join().expect("the watchdog only waits");
}

fn a_crowd_shares_a_slot_and_loses_no_wake() {
    let crowd = Crowd {
        name: "acquirers, triers and a leaver on futexes",
        actors: 8,
        iterations: 25_000,
        must: &["slept", "tried", "gave up", "attended", "deferred"],
        run: futex_crowd,
    };
    watched(|| crowd.prove());
}

fn each_grant_ends_once_whoever_ends_it() {
    let crowd = Crowd {
        name: "kills, a hang, an operator, a sweep",
        actors: 9,
        iterations: 25_000,
        must: &[
            "killed",
            "taken over",
            "answered lost",
            "evicted",
            "forced",
            "swept",
        ],
        run: havoc,
    };
    watched(|| crowd.prove());
}

fn a_name_is_one_lock_wherever_it_goes() {
    let crowd = Crowd {
        name: "names recycled, and their users killed",
        actors: 8,
        iterations: 15_000,
        must: &["killed", "used a name", "undone"],
        run: names_come_and_go,
    };
    watched(|| crowd.prove());
}

fn runs_with_a_planted_bug_fail() {
    let bugs: [(_, fn(), _); 2] = [
        ("Releasers that wake nobody.", nobody_wakes, "deadlock"),
        (
            "A sweep that takes the living for dead.",
            the_living_are_swept,
            "lost",
        ),
    ];
    watched(|| {
        for (story, run, expected) in bugs {
            let violation = violation(run).unwrap_or_else(|| panic!("not caught: {story}"));
            let line = violation.lines().next().unwrap_or_default();
            assert!(line.contains(expected), "{story} caught by chance: {line}");
            report::add(Row::Planted {
                number: None,
                story: story.to_owned(),
                caught_by: format!("a crowd: {line}"),
            });
        }
    });
}

/// What there is to run.
pub fn parts() -> Vec<Part> {
    parts![
        a_crowd_shares_a_slot_and_loses_no_wake,
        each_grant_ends_once_whoever_ends_it,
        a_name_is_one_lock_wherever_it_goes,
        runs_with_a_planted_bug_fail,
    ]
}
