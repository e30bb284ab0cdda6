//! Processes that stand still: evicted after a lease where the table says so, waited for
//! where it does not, and never robbed because everybody stood still.

mod common;

use std::fs::{self, OpenOptions};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use caslock::{AcquireError, Guard, Inspector, Liveness, LockTable, Previous};
use common::puppet::Stage;
use common::{
    Boss, Child, Dice, Grant, Scratch, dispatch, on_death, on_expiry, puppet, report, state,
    wait_until, watchdog,
};
use nix::fcntl::{Flock, FlockArg};

#[test]
fn child_role() {
    dispatch(&[("puppet", puppet), ("writer", writer), ("hogs", hogs)]);
}

/// Rows 8 and 18, and S3: the whole story of a holder that sleeps past its lease.
#[test]
fn a_stopped_holder_is_evicted_and_learns_of_it() {
    let _watchdog = watchdog("a_stopped_holder_is_evicted_and_learns_of_it");
    let scratch = Scratch::with(on_expiry(500));
    let lock = scratch.open().lock("job").expect("a lock");
    let mut holder = Child::puppet(&scratch.table());
    let held = holder.acquire("job");
    assert_eq!(holder.ask("watch job"), "watching");
    assert!(holder.is_held("job"));

    holder.stop();
    let guard = lock.acquire().expect("a grant after a lease");
    let grant = Grant::of(&guard);
    assert_eq!(grant.previous, "expired");
    assert_eq!(grant.departed, (holder.pid(), held.token));
    assert!(grant.token > held.token);

    holder.go_on();
    assert!(!holder.is_held("job"), "the very first look tells");
    let told = format!("job {} taken-over {}", held.token, std::process::id());
    assert_eq!(holder.ask("loss job"), told, "the callback comes by itself");
    let lost = holder.release("job");
    assert_eq!(lost, format!("taken-over {}", std::process::id()));
    assert!(guard.is_held(), "the successor is untouched");
    assert!(lock.try_acquire().is_err(), "and nobody else came in");
    guard.release().expect("held to the end");

    // Evicted once is not out for ever.
    let back = holder.acquire("job");
    assert_eq!(back.previous, "released");
    assert!(back.token > grant.token);
    assert!(holder.is_held("job"));
    assert_eq!(holder.release("job"), "released");
}

/// Dropping a guard says nothing and must not do anything either.
#[test]
fn an_evicted_guard_is_dropped_without_touching_the_successor() {
    let _watchdog = watchdog("an_evicted_guard_is_dropped_without_touching_the_successor");
    let scratch = Scratch::with(on_expiry(500));
    let lock = scratch.open().lock("job").expect("a lock");
    let mut holder = Child::puppet(&scratch.table());
    for how in ["drop", "panic"] {
        let held = holder.acquire("job");
        holder.stop();
        let guard = lock.acquire().expect("a grant after a lease");
        assert_eq!(Grant::of(&guard).departed, (holder.pid(), held.token));
        holder.go_on();
        let done = holder.ask(format!("{how} job"));
        assert!(["dropped", "panicked"].contains(&done.as_str()), "{done}");
        assert!(guard.is_held());
        assert!(lock.try_acquire().is_err());
        guard.release().expect("held to the end");
        let next = lock.try_acquire().expect("free");
        assert_eq!(next.previous(), Previous::Released);
    }
}

/// What was handed back unseen is handed on as it was.
#[test]
fn whoever_comes_after_one_that_declined_is_told_of_the_eviction_as_well() {
    let _watchdog =
        watchdog("whoever_comes_after_one_that_declined_is_told_of_the_eviction_as_well");
    let scratch = Scratch::with(on_expiry(500));
    let lock = scratch.open().lock("job").expect("a lock");
    let mut holder = Child::puppet(&scratch.table());
    holder.acquire("job");
    holder.stop();
    for _ in 0..2 {
        let guard = lock.acquire().expect("a grant after a lease");
        let grant = Grant::of(&guard);
        assert_eq!(grant.previous, "expired");
        assert_eq!(grant.departed.0, holder.pid());
        guard.decline().expect("held to the end");
    }
}

#[test]
fn a_lost_grant_is_not_declined_but_told_to_be_lost() {
    let _watchdog = watchdog("a_lost_grant_is_not_declined_but_told_to_be_lost");
    let scratch = Scratch::with(on_death());
    let table = scratch.open();
    let lock = table.lock("job").expect("a lock");
    let guard = lock.acquire().expect("a grant");
    let token = guard.token();
    table.force_release("job", token).expect("it is held");
    let lost = guard.decline().expect_err("somebody took it");
    assert_eq!(lost.token, token);
    let next = lock.acquire().expect("free");
    assert_eq!(Grant::of(&next).previous, "forced");
}

/// Nobody has taken it, whatever becomes of it afterwards.
#[test]
fn a_grant_that_was_given_back_is_not_told_to_be_lost() {
    type Way = (&'static str, fn(Guard<'_>));
    let _watchdog = watchdog("a_grant_that_was_given_back_is_not_told_to_be_lost");
    let scratch = Scratch::with(on_death());
    let lock = scratch.open().lock("job").expect("a lock");
    let ways: [Way; 3] = [
        ("released", |guard| {
            guard.release().expect("held to the end")
        }),
        ("dropped", |guard| drop(guard)),
        ("declined", |guard| {
            guard.decline().expect("held to the end")
        }),
    ];
    for (way, give_back) in ways {
        let is_told = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&is_told);
        let guard = lock.acquire().expect("a grant");
        guard.on_lost(move |_| told.store(true, Ordering::Relaxed));
        give_back(guard);
        // Either way the callback goes in the end: called by the keeper, or forgotten.
        wait_until(|| Arc::strong_count(&is_told) == 1);
        assert!(!is_told.load(Ordering::Relaxed), "{way}");
    }
}

/// Attempts that do not wait count on from one another: each alone has seen too little of the
/// holder to call it silent.
#[test]
fn attempts_that_never_wait_evict_a_stopped_holder_in_the_end() {
    let _watchdog = watchdog("attempts_that_never_wait_evict_a_stopped_holder_in_the_end");
    let scratch = Scratch::with(on_expiry(500));
    let lock = scratch.open().lock("job").expect("a lock");
    let mut holder = Child::puppet(&scratch.table());
    for limit in [None, Some(Duration::from_millis(20))] {
        let held = holder.acquire("job");
        holder.stop();
        let guard = loop {
            let attempt = match limit {
                None => lock.try_acquire(),
                Some(limit) => lock.acquire_timeout(limit),
            };
            match attempt {
                Ok(guard) => break guard,
                Err(AcquireError::Busy { .. } | AcquireError::TimedOut { .. }) => {
                    thread::sleep(Duration::from_millis(5));
                }
                Err(e) => panic!("{e}"),
            }
        };
        let grant = Grant::of(&guard);
        assert_eq!(grant.previous, "expired", "{limit:?}");
        assert_eq!(grant.departed, (holder.pid(), held.token), "{limit:?}");
        guard.release().expect("held to the end");
        holder.go_on();
        assert!(!holder.is_held("job"));
        holder.release("job");
    }
}

/// The evicted holder comes back when its successor has come and gone.
#[test]
fn a_late_release_after_the_successor_left_changes_nothing() {
    let _watchdog = watchdog("a_late_release_after_the_successor_left_changes_nothing");
    let scratch = Scratch::with(on_expiry(500));
    let table = scratch.open();
    let lock = table.lock("job").expect("a lock");
    let mut holder = Child::puppet(&scratch.table());
    holder.acquire("job");
    holder.stop();
    let guard = lock.acquire().expect("a grant after a lease");
    guard.release().expect("held to the end");
    holder.go_on();
    assert!(!holder.is_held("job"));
    let lost = holder.release("job");
    assert!(
        ["vacated released", "gone"].contains(&lost.as_str()),
        "{lost}"
    );
    let slot = table
        .inspect()
        .expect("a snapshot")
        .slot("job")
        .expect("the slot")
        .clone();
    assert!(slot.holder.is_none());
    assert_eq!(
        lock.try_acquire().expect("free").previous(),
        Previous::Released
    );
}

/// Row 8 with a resource that checks nothing and one that checks tokens, side by side:
/// only the second is safe from a holder that wakes up late.
#[test]
fn only_a_fenced_resource_is_safe_from_a_late_writer() {
    let _watchdog = watchdog("only_a_fenced_resource_is_safe_from_a_late_writer");
    let scratch = Scratch::with(on_expiry(500));
    let lock = scratch.open().lock("job").expect("a lock");
    let mut holder = Child::start("writer");
    holder.open(&scratch.table());
    let late = holder.acquire("job").token;
    holder.stop();
    let guard = lock.acquire().expect("a grant after a lease");
    let early = guard.token().0;
    assert!(store(scratch.dir(), early, "successor"));
    holder.go_on();
    assert_eq!(holder.ask(format!("store {late} sleeper")), "refused");
    let read = |name| fs::read_to_string(scratch.file(name)).expect("the resource");
    assert_eq!(
        read("unfenced"),
        "sleeper",
        "the successor's write is overwritten"
    );
    assert_eq!(read("fenced"), format!("{early} successor"));
    assert!(
        store(scratch.dir(), early, "successor again"),
        "its own token stays good"
    );
}

/// Two resources: one takes every write, one refuses a lower token than it has seen.
/// Whether the second took it.
fn store(dir: &Path, token: u64, value: &str) -> bool {
    fs::write(dir.join("unfenced"), value).expect("written");
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).create(true).truncate(false);
    let file = file.open(dir.join("fenced")).expect("the resource");
    // Check and write are one step for the resource: that is what makes it a fence.
    let mut file = Flock::lock(file, FlockArg::LockExclusive)
        .map_err(|(_, e)| e)
        .expect("flock");
    let mut text = String::new();
    file.read_to_string(&mut text).expect("read");
    let highest = text
        .split(' ')
        .next()
        .and_then(|word| word.parse().ok())
        .unwrap_or(0);
    if token < highest {
        return false;
    }
    file.set_len(0).expect("truncated");
    file.write_all_at(format!("{token} {value}").as_bytes(), 0)
        .expect("written");
    true
}

/// A puppet that also knows `store TOKEN VALUE`.
fn writer(boss: &mut Boss) {
    let mut stage = Stage::new(LockTable::options());
    let mut dir = PathBuf::new();
    loop {
        let line = boss.hear();
        if let Some(rest) = line.strip_prefix("store ") {
            let (token, value) = rest.split_once(' ').expect("a token and a value");
            let stored = store(&dir, token.parse().expect("a token"), value);
            boss.say(if stored { "stored" } else { "refused" });
            continue;
        }
        if let Some(path) = line.strip_prefix("open ") {
            dir = Path::new(path).parent().expect("a directory").to_owned();
        }
        boss.say(stage.play(&line));
    }
}

/// `OnDeath`: exclusion survives a stop of any length.
#[test]
fn a_stopped_holder_is_waited_for_where_only_the_dead_are_robbed() {
    let _watchdog = watchdog("a_stopped_holder_is_waited_for");
    let scratch = Scratch::with(on_death());
    let lock = scratch.open().lock("job").expect("a lock");
    let mut holder = Child::puppet(&scratch.table());
    let mut other = Child::puppet(&scratch.table());
    let held = holder.acquire("job");
    holder.stop();

    // Longer than the default lease, by two observers.
    let patience = Duration::from_secs(13);
    other.say(format!("timeout {} job", patience.as_millis()));
    let late = lock
        .acquire_timeout(patience)
        .map(drop)
        .expect_err("nobody may take it");
    let AcquireError::TimedOut { holder: who, .. } = late else {
        panic!("{late:?}");
    };
    assert_eq!((who.pid, who.token.0), (holder.pid(), held.token));
    assert_ne!(who.liveness, Liveness::Dead);
    assert_eq!(
        other.hear(),
        format!("TimedOut {} {}", holder.pid(), held.token)
    );

    other.say("acquire job");
    holder.go_on();
    assert!(holder.is_held("job"), "nobody took it");
    assert_eq!(holder.release("job"), "released");
    let grant: Grant = other.hear().parse().expect("a grant");
    assert_eq!(grant.previous, "released");
}

/// A stopped process that dies is dead.
#[test]
fn a_stopped_holder_that_is_killed_is_reclaimed() {
    let _watchdog = watchdog("a_stopped_holder_that_is_killed_is_reclaimed");
    let scratch = Scratch::with(on_death());
    let lock = scratch.open().lock("job").expect("a lock");
    let mut holder = Child::puppet(&scratch.table());
    let held = holder.acquire("job");
    holder.stop();
    assert!(lock.acquire_timeout(Duration::from_millis(300)).is_err());
    holder.kill_and_reap();
    let guard = lock.acquire().expect("a grant");
    assert_eq!(Grant::of(&guard).departed, (holder.pid(), held.token));
}

/// Row 9: a pause of everybody makes nobody a thief, in whatever order they wake. The
/// observer's own polls are the clock, and a gap between two of them counts up to a cap.
#[test]
fn a_pause_of_the_whole_group_evicts_nobody() {
    let _watchdog = watchdog("a_pause_of_the_whole_group_evicts_nobody");
    let mut dice = Dice::new("a_pause_of_the_whole_group");
    let lease = Duration::from_millis(1_000);
    let scratch = Scratch::with(on_expiry(1_000));
    let mut group: Vec<_> = (0..5).map(|_| Child::puppet(&scratch.table())).collect();
    let held = group[0].acquire("job");
    for waiter in &mut group[1..] {
        waiter.say("acquire job");
    }
    for _ in 0..5 {
        // Long enough for each waiter to have seen a beat, and to poll with a history.
        thread::sleep(Duration::from_millis(300) + Duration::from_millis(dice.next() % 300));
        let mut order: Vec<_> = group.iter().collect();
        dice.shuffle(&mut order);
        order
            .iter()
            .for_each(|child| child.signal(nix::sys::signal::Signal::SIGSTOP));
        wait_until(|| order.iter().all(|child| state(child.pid()) == Some('T')));
        thread::sleep(3 * lease);
        dice.shuffle(&mut order);
        for child in order {
            child.go_on();
            thread::sleep(Duration::from_millis(dice.next() % 40));
        }
        assert!(group[0].is_held("job"), "evicted");
    }
    assert_eq!(group[0].release("job"), "released", "evicted");

    // The waiters follow one another, each after a clean release.
    let mut last = held.token;
    let mut waiting: Vec<_> = group[1..].iter_mut().collect();
    while !waiting.is_empty() {
        waiting.retain_mut(|waiter| {
            if !waiter.answers_within(Duration::from_millis(5)) {
                return true;
            }
            let grant: Grant = waiter.hear().parse().expect("a grant");
            assert_eq!(grant.previous, "released");
            assert!(grant.token > last);
            last = grant.token;
            assert_eq!(waiter.release("job"), "released");
            false
        });
    }
}

/// L2 of the promise: what a waiter waits for a hung holder, printed beside the lease. It
/// cannot be less than the lease: that would rob a holder within its right.
#[test]
fn an_eviction_takes_at_least_the_lease() {
    let _watchdog = watchdog("an_eviction_takes_at_least_the_lease");
    let scratch = Scratch::with(on_expiry(600));
    let lock = scratch.open().lock("job").expect("a lock");
    for _ in 0..3 {
        let mut holder = Child::puppet(&scratch.table());
        holder.acquire("job");
        holder.stop();
        let start = Instant::now();
        let guard = lock.acquire().expect("a grant after a lease");
        let waited = start.elapsed();
        assert_eq!(Grant::of(&guard).previous, "expired");
        report(format_args!("lease 600ms, stop to grant {waited:?}"));
        assert!(waited >= Duration::from_millis(600), "within its right");
    }
}

/// A stopped process that holds nothing is nobody's concern, and comes back as it was.
#[test]
fn a_process_stopped_without_a_lock_goes_on_as_before() {
    let _watchdog = watchdog("a_process_stopped_without_a_lock_goes_on_as_before");
    let scratch = Scratch::with(on_expiry(300));
    let inspector = Inspector::open(scratch.table()).expect("the table opens");
    let mut idle = Child::puppet(&scratch.table());
    idle.acquire("job");
    assert_eq!(idle.release("job"), "released");
    idle.stop();
    wait_until(|| {
        let snapshot = inspector.snapshot().expect("a snapshot");
        let session = snapshot
            .sessions
            .iter()
            .find(|session| session.pid == idle.pid());
        session.is_some_and(|session| session.liveness == Liveness::Late)
    });
    let lock = scratch.open().lock("job").expect("a lock");
    assert_eq!(
        lock.try_acquire().expect("free").previous(),
        Previous::Released
    );
    idle.go_on();
    let grant = idle.acquire("job");
    assert_eq!(grant.previous, "released");
    assert!(idle.is_held("job"));
}

/// Keeps every processor busy, many times over.
fn hogs(boss: &mut Boss) {
    for _ in 0..64 {
        thread::spawn(|| {
            loop {
                std::hint::spin_loop();
            }
        });
    }
    boss.say("at it");
    boss.hear();
}

/// Row 7: a keeper that has to fight for the processor still beats well within the lease.
#[test]
fn a_starved_keeper_keeps_its_lease() {
    let _watchdog = watchdog("a_starved_keeper_keeps_its_lease");
    let scratch = Scratch::with(on_expiry(3_000));
    let mut holder = Child::puppet(&scratch.table());
    let held = holder.acquire("job");
    let mut waiter = Child::puppet(&scratch.table());
    let mut hogs = Child::start("hogs");
    assert_eq!(hogs.hear(), "at it");
    waiter.say("timeout 6000 job");
    let inspector = Inspector::open(scratch.table()).expect("the table opens");
    let mut worst = Duration::ZERO;
    while !waiter.answers_within(Duration::from_millis(10)) {
        let slot = inspector.slot("job").expect("a look").expect("the slot");
        worst = worst.max(slot.holder.expect("a holder").heartbeat_age);
    }
    report(format_args!(
        "64 hogs: the oldest heartbeat was {worst:?}, the lease is 3s"
    ));
    assert_eq!(
        waiter.hear(),
        format!("TimedOut {} {}", holder.pid(), held.token)
    );
    assert!(holder.is_held("job"), "evicted though it runs");
}

/// The application's own code once ran on the keeper thread: a callback that panicked, or
/// took longer than a lease, stopped the heartbeat, and the process's other locks were lost.
#[test]
fn a_lost_callback_that_panics_or_hangs_does_not_stop_the_heart() {
    let _watchdog = watchdog("a_lost_callback_that_panics_or_hangs_does_not_stop_the_heart");
    let scratch = Scratch::with(on_expiry(1_000));
    let table = scratch.open();
    let inspector = Inspector::open(scratch.table()).expect("the table opens");
    let beat_at = || {
        let snapshot = inspector.snapshot().expect("a snapshot");
        Instant::now() - snapshot.sessions[0].heartbeat_age
    };
    for (name, hang) in [("panics", false), ("hangs", true)] {
        let lock = table.lock(name).expect("a lock");
        let guard = lock.acquire().expect("a grant");
        let (told, hear) = std::sync::mpsc::channel();
        guard.on_lost(move |_| {
            told.send(()).expect("the test listens");
            match hang {
                true => thread::sleep(Duration::from_secs(3600)),
                false => panic!("as the test asked for"),
            }
        });
        table.force_release(name, guard.token()).expect("forced");
        hear.recv().expect("called");
        let told_at = Instant::now();
        // Two beats after the callback has begun, the keeper is past it.
        let beats = (0..2).all(|_| {
            let before = beat_at().max(told_at);
            common::wait_until(|| beat_at() > before + Duration::from_millis(50));
            true
        });
        assert!(beats && guard.release().is_err());
    }
}
