//! Many that reclaim at once: of those who race for a dead holder's lock exactly one takes
//! it from the dead, and it is the first.
//!
//! The racers are processes that live for the whole campaign, with sessions of their own.
//! In each batch a process with a session takes many locks and is killed; each of the locks
//! is one round, which all racers start together. For the first half of them the holder may
//! still be dying, and everybody waits for the lock; for the second half it is gone for
//! good, and everybody tries once while the winner keeps the lock.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use caslock::{AcquireError, Guard, Lock, LockTable, Reclaim};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::results;
use crate::soak::dice::Dice;
use crate::soak::shared::{self, Words};
use crate::sys;

/// How many race.
const RACERS: u32 = 8;
/// How many locks a holder dies with.
const BATCH: usize = 64;
/// How long a round may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// How many rounds.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// One lock of a dead holder each, and one winner
    #[arg(long, default_value_t = 100_000)]
    pub rounds: u64,
    /// What the racers' first steps come from
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Append the result, a line of JSON, to `racers.jsonl` in this directory
    /// [default: target/torture of the workspace]
    #[arg(long)]
    pub out: Option<PathBuf>,
}

/// What the processes share besides the table.
#[repr(C)]
struct Track {
    /// The number of the round that is on, from 1.
    round: AtomicU64,
    /// Which lock it is about, and whether it is tried for (1) or waited for (0).
    lock: AtomicU32,
    tries: AtomicU32,
    /// How many have tried, and how many have finished, since the round began.
    tried: AtomicU32,
    finished: AtomicU32,
    /// How many were granted the lock, and how many of them took it from the dead.
    grants: AtomicU32,
    reclaims: AtomicU32,
    /// The token of the one that did, and the lowest of all.
    reclaimed: AtomicU64,
    lowest: AtomicU64,
    /// What was not as it should be, said on standard error as well.
    violations: AtomicU32,
    stop: AtomicU32,
    /// The holder, once it holds, and its tokens.
    holder: AtomicU32,
    tokens: [AtomicU64; BATCH],
}

// SAFETY:
// - all fields are atomics, for which zeroes are valid.
unsafe impl Words for Track {}

impl Track {
    fn is_violated(&self) -> bool {
        self.violations.load(Ordering::SeqCst) > 0
    }

    fn violation(&self, what: impl std::fmt::Display) {
        self.violations.fetch_add(1, Ordering::SeqCst);
        eprintln!("violation: {what}");
    }
}

/// Runs the campaign. True: nothing was found.
///
/// # Errors
/// What keeps it from being run.
pub fn run(options: &Options) -> anyhow::Result<bool> {
    let dir = tempfile::Builder::new()
        .prefix("caslock-racers-")
        .tempdir_in(match Path::new("/dev/shm").is_dir() {
            true => "/dev/shm",
            false => "/tmp",
        })?;
    let path = dir.path().join("t.table");
    LockTable::options()
        .slots(u32::try_from(BATCH)? + 8)
        .sessions(RACERS + 4)
        .reclaim(Reclaim::OnDeath)
        .create(&path)?;
    let track: &'static Track = shared::create(&dir.path().join("track"))?;
    let racer = |racer| race(track, &path, options.seed, racer);
    let racers = (0..RACERS).map(|nth| child(track, || racer(nth)));
    let racers = racers.collect::<Vec<_>>();
    let begun = Instant::now();
    let ran = race_all(track, &path, options.rounds);
    track.stop.store(1, Ordering::SeqCst);
    let well = ran.is_ok() && !track.is_violated();
    for racer in racers {
        if !well {
            end(racer)?;
        } else if sys::exit_code(racer) != Some(0) {
            track.violation("a racer failed");
        }
    }
    let won = ran?;
    let clean = won == options.rounds && !track.is_violated();
    let seconds = begun.elapsed().as_secs_f64();
    println!(
        "{RACERS} racers, {} rounds, {won} of them won by exactly one; {seconds:.0} s",
        options.rounds
    );
    let row = serde_json::json!({
        "campaign": "racers",
        "racers": RACERS,
        "rounds": options.rounds,
        "won_once": won,
        "seed": options.seed,
        "seconds": seconds,
        "clean": clean,
    });
    results::append(options.out.as_deref(), "racers", &row)?;
    Ok(clean)
}

/// All rounds, up to a violation. How many were won by exactly one.
fn race_all(track: &Track, path: &Path, rounds: u64) -> anyhow::Result<u64> {
    let mut won = 0;
    let mut round = 0;
    while round < rounds && !track.is_violated() {
        let holder = child(track, || hold(track, path));
        let holds = || track.holder.load(Ordering::SeqCst) == holder || track.is_violated();
        wait_for("a holder", holds)?;
        kill(nix_pid(holder), Signal::SIGKILL)?;
        let mut is_dying = true;
        for lock in 0..BATCH {
            if is_dying && lock >= BATCH / 2 {
                sys::exit_code(holder);
                is_dying = false;
            }
            if round == rounds || track.is_violated() {
                break;
            }
            round += 1;
            won += u64::from(one_round(track, round, lock, !is_dying)?);
        }
        if is_dying {
            sys::exit_code(holder);
        }
        if round % 10_000 < BATCH as u64 {
            println!("after {round} rounds: {won} won by exactly one");
        }
    }
    Ok(won)
}

/// One lock of the dead. True: one was the winner, and the first.
fn one_round(track: &Track, round: u64, lock: usize, tries: bool) -> anyhow::Result<bool> {
    for word in [
        &track.tried,
        &track.finished,
        &track.grants,
        &track.reclaims,
    ] {
        word.store(0, Ordering::SeqCst);
    }
    track.lowest.store(u64::MAX, Ordering::SeqCst);
    track.lock.store(u32::try_from(lock)?, Ordering::SeqCst);
    track.tries.store(u32::from(tries), Ordering::SeqCst);
    track.round.store(round, Ordering::SeqCst);
    let is_over = || track.finished.load(Ordering::SeqCst) == RACERS || track.is_violated();
    wait_for("the end of a round", is_over)?;
    if track.is_violated() {
        return Ok(false);
    }
    let grants = track.grants.load(Ordering::SeqCst);
    let reclaims = track.reclaims.load(Ordering::SeqCst);
    let first = track.lowest.load(Ordering::SeqCst) == track.reclaimed.load(Ordering::SeqCst);
    let due = if tries { 1 } else { RACERS };
    let is_right = reclaims == 1 && grants == due && first;
    if !is_right {
        track.violation(format_args!(
            "round {round}: {reclaims} took it from the dead, {grants} of {due} were granted \
             it, the first one did: {first}"
        ));
    }
    Ok(is_right)
}

/// A racer's life.
fn race(track: &Track, path: &Path, seed: u64, racer: u32) -> anyhow::Result<()> {
    let table = LockTable::open(path)?;
    let locks = (0..BATCH).map(|lock| table.lock(name_of(lock)));
    let locks = locks.collect::<Result<Vec<_>, _>>()?;
    let mut dice = Dice::new(seed, racer.into());
    let mut last = 0;
    loop {
        while track.round.load(Ordering::SeqCst) == last {
            if track.stop.load(Ordering::SeqCst) != 0 {
                return Ok(());
            }
            thread::yield_now();
        }
        last = track.round.load(Ordering::SeqCst);
        let at = track.lock.load(Ordering::SeqCst) as usize;
        // Not all at the same step of what they do.
        for _ in 0..dice.below(200) {
            std::hint::spin_loop();
        }
        match track.tries.load(Ordering::SeqCst) {
            0 => wait_once(track, at, &locks[at])?,
            _ => try_once(track, at, &locks[at])?,
        }
        track.finished.fetch_add(1, Ordering::SeqCst);
    }
}

/// Waits for the lock and releases it.
fn wait_once(track: &Track, at: usize, lock: &Lock) -> anyhow::Result<()> {
    let guard = lock.acquire_timeout(PATIENCE)?;
    note(track, at, &guard);
    Ok(guard.release()?)
}

/// Tries once, and keeps what it gets until all have tried.
fn try_once(track: &Track, at: usize, lock: &Lock) -> anyhow::Result<()> {
    let outcome = lock.try_acquire();
    if let Ok(guard) = &outcome {
        note(track, at, guard);
    }
    track.tried.fetch_add(1, Ordering::SeqCst);
    while track.tried.load(Ordering::SeqCst) < RACERS {
        thread::yield_now();
    }
    match outcome {
        Ok(guard) => Ok(guard.release()?),
        Err(AcquireError::Busy { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn note(track: &Track, at: usize, guard: &Guard<'_>) {
    let token = guard.token().0;
    track.grants.fetch_add(1, Ordering::SeqCst);
    track.lowest.fetch_min(token, Ordering::SeqCst);
    let previous = guard.previous();
    match (previous.as_str(), previous.departed()) {
        ("died", Some(dead)) => {
            track.reclaims.fetch_add(1, Ordering::SeqCst);
            track.reclaimed.store(token, Ordering::SeqCst);
            let held = track.tokens[at].load(Ordering::SeqCst);
            let of = (track.holder.load(Ordering::SeqCst), held);
            if (dead.pid, dead.token.0) != of || token <= held {
                track.violation(format_args!(
                    "token {token} after {of:?}, told {previous:?}"
                ));
            }
        }
        ("released", _) => {}
        _ => track.violation(format_args!("told {previous:?}")),
    }
}

/// A holder's life: it takes all locks and waits for its death.
fn hold(track: &Track, path: &Path) -> anyhow::Result<()> {
    let table = LockTable::open(path)?;
    for lock in 0..BATCH {
        let handle = table.lock(name_of(lock))?;
        let guard = handle.acquire_timeout(PATIENCE)?;
        track.tokens[lock].store(guard.token().0, Ordering::SeqCst);
        std::mem::forget(guard);
    }
    track.holder.store(std::process::id(), Ordering::SeqCst);
    loop {
        thread::sleep(Duration::from_secs(3600));
    }
}

fn name_of(lock: usize) -> String {
    format!("race-{lock}")
}

/// A child that lives as long as this process at most. To be called by the one thread of a
/// process that has no session.
fn child(track: &Track, life: impl FnOnce() -> anyhow::Result<()>) -> u32 {
    if let Some(pid) = sys::fork() {
        return pid;
    }
    sys::die_with_parent();
    let lived = life();
    if let Err(error) = &lived {
        track.violation(format_args!("a process failed: {error:#}"));
    }
    sys::leave(i32::from(lived.is_err()))
}

fn wait_for(what: &str, mut is_so: impl FnMut() -> bool) -> anyhow::Result<()> {
    let begun = Instant::now();
    while !is_so() {
        ensure!(begun.elapsed() < 2 * PATIENCE, "{what} does not come");
        thread::yield_now();
    }
    Ok(())
}

fn end(pid: u32) -> anyhow::Result<()> {
    kill(nix_pid(pid), Signal::SIGKILL).context("ending a racer")?;
    sys::exit_code(pid);
    Ok(())
}

fn nix_pid(pid: u32) -> Pid {
    Pid::from_raw(pid.cast_signed())
}
