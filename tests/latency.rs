//! How long a successor waits: printed beside one another, never judged. The tests of this
//! binary take turns, so that they do not measure each other.

mod common;

use std::fs;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use caslock::Previous;
use common::{
    Boss, Child, Grant, Scratch, dispatch, median, on_death, puppet, report, skip, sys, watchdog,
};

static TURN: Mutex<()> = Mutex::new(());

#[test]
fn child_role() {
    dispatch(&[("puppet", puppet), ("bloated", bloated)]);
}

/// A puppet with a gibibyte of memory in use.
fn bloated(boss: &mut Boss) {
    sys::fill_memory(1 << 30);
    puppet(boss);
}

/// SIGKILL to the next grant, and to the process's end; the middle of several of each.
/// Nothing here judges the figures.
fn death_to_grant(role: &str, rounds: usize) -> (Duration, Duration) {
    let scratch = Scratch::with(on_death());
    let lock = scratch.open().lock("job").expect("a lock");
    let round = |_| {
        let mut holder = Child::start(role);
        holder.open(&scratch.table());
        let held = holder.acquire("job");
        thread::scope(|scope| {
            let waiter = scope.spawn(|| {
                let guard = lock.acquire().expect("a grant");
                (Instant::now(), Grant::of(&guard))
            });
            thread::sleep(Duration::from_millis(50));
            let start = Instant::now();
            holder.kill();
            holder.wait_zombie();
            let gone = start.elapsed();
            let (end, grant) = waiter.join().expect("no panic");
            assert_eq!(grant.previous, "died");
            assert_eq!(grant.departed, (holder.pid(), held.token));
            (end.saturating_duration_since(start), gone)
        })
    };
    let (mut granted, mut gone): (Vec<_>, Vec<_>) = (0..rounds).map(round).unzip();
    (median(&mut granted), median(&mut gone))
}

/// Kibibytes that processes can still have.
fn available_memory() -> u64 {
    let meminfo = fs::read_to_string("/proc/meminfo").expect("meminfo");
    let mut lines = meminfo.lines();
    let line = lines.find_map(|line| line.strip_prefix("MemAvailable:"));
    let number = line.expect("MemAvailable").split_whitespace().next();
    number.expect("a number").parse().expect("a number")
}

/// L1 of the promise: the dead process's memory does not make its successor wait.
#[test]
fn from_death_to_grant_with_little_and_with_much_memory() {
    let test = "from_death_to_grant_with_little_and_with_much_memory";
    let _watchdog = watchdog(test);
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let (grant, end) = death_to_grant("puppet", 9);
    report(format_args!(
        "SIGKILL to grant, small holder: {grant:?} (to its end {end:?})"
    ));
    if available_memory() < 2 << 20 {
        skip(test, "a holder of 1 GiB takes 2 GiB of available memory");
        return;
    }
    let (grant, end) = death_to_grant("bloated", 5);
    report(format_args!(
        "SIGKILL to grant, 1 GiB resident: {grant:?} (to its end {end:?})"
    ));
}

/// Row 30: two mappings at two addresses wake each other. Sleeps are bounded, so only the
/// number of rounds shows that wakes arrive at all; the figure is printed, not judged.
#[test]
fn two_processes_hand_a_lock_back_and_forth() {
    let _watchdog = watchdog("two_processes_hand_a_lock_back_and_forth");
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let scratch = Scratch::with(on_death());
    let mut other = Child::puppet(&scratch.table());
    let table = scratch.open();
    let lock = table.lock("ball").expect("a lock");
    let mut waits = Vec::new();
    for _ in 0..50 {
        assert_eq!(other.acquire("ball").departed, (0, 0));
        let wait = thread::scope(|scope| {
            let waiter = scope.spawn(|| {
                let guard = lock.acquire().expect("a grant");
                assert_eq!(guard.previous(), Previous::Released);
                Instant::now()
            });
            common::wait_until(|| {
                let snapshot = table.inspect().expect("a snapshot");
                snapshot.slot("ball").expect("the slot").waiters > 0
            });
            thread::sleep(Duration::from_millis(1));
            let start = Instant::now();
            assert_eq!(other.release("ball"), "released");
            waiter
                .join()
                .expect("no panic")
                .saturating_duration_since(start)
        });
        waits.push(wait);
    }
    report(format_args!(
        "release to grant, median of 50: {:?}",
        median(&mut waits)
    ));
}
