//! Locks that many want at once: whoever waits gets its turn, whatever those do that are
//! faster, and whatever becomes of those that waited beside it.
//!
//! The turns are counted; that they come at all is for the watchdog to see. A lock that
//! starves somebody does not fail here by being slow, but by never coming to the end.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use caslock::{AcquireError, LockTable, SlotState};
use common::{Boss, Child, Dice, Scratch, dispatch, on_death, report, wait_until, watchdog};

#[test]
fn child_role() {
    dispatch(&[("worker", worker), ("pair", pair)]);
}

/// How a worker's threads use the lock.
#[derive(Clone, Copy)]
enum How {
    /// Waits as long as it takes.
    Waiting,
    /// Never waits for it: tries again.
    Trying,
    /// Gives up after a time as long as it would hold it.
    Impatient,
}

impl How {
    const ALL: [(&'static str, Self); 3] = [
        ("waiting", Self::Waiting),
        ("trying", Self::Trying),
        ("impatient", Self::Impatient),
    ];

    fn of(name: &str) -> Self {
        let found = Self::ALL.iter().find(|(known, _)| *known == name);
        found.expect("a way to use a lock").1
    }

    /// One grant, if there was one, held for `hold`.
    fn use_once(self, lock: &caslock::Lock, hold: Duration) -> bool {
        let guard = match self {
            Self::Waiting => lock.acquire(),
            Self::Trying => lock.try_acquire(),
            Self::Impatient => lock.acquire_timeout(hold),
        };
        let guard = match guard {
            Ok(guard) => guard,
            Err(AcquireError::Busy { .. } | AcquireError::TimedOut { .. }) => return false,
            Err(error) => panic!("{error}"),
        };
        spend(hold);
        guard.release().expect("held to the end");
        true
    }
}

/// On the processor, or asleep if it is for long.
fn spend(time: Duration) {
    if time.is_zero() {
        return;
    }
    if time > Duration::from_millis(5) {
        return thread::sleep(time);
    }
    let begun = Instant::now();
    while begun.elapsed() < time {
        std::hint::spin_loop();
    }
}

/// Uses a lock in a tight loop, with some threads, from its one command on. Every line after
/// that is answered with how often each thread has had it.
fn worker(boss: &mut Boss) {
    let line = boss.hear();
    let mut words = line.split(' ');
    let mut next = || words.next().expect("how, threads, hold, table and names");
    let (how, threads) = (How::of(next()), next().parse::<usize>().expect("threads"));
    let hold = Duration::from_micros(next().parse().expect("microseconds"));
    let table = LockTable::options().open_existing(next()).expect("a table");
    let lock = table.lock(next()).expect("a lock");
    let counts: Arc<[AtomicU64]> = (0..threads).map(|_| AtomicU64::new(0)).collect();
    for thread in 0..threads {
        let (lock, counts) = (lock.clone(), Arc::clone(&counts));
        thread::spawn(move || {
            loop {
                if how.use_once(&lock, hold) {
                    counts[thread].fetch_add(1, Ordering::Relaxed);
                }
            }
        });
    }
    loop {
        boss.hear();
        let counts = counts.iter();
        let counts = counts.map(|count| count.load(Ordering::Relaxed).to_string());
        boss.say(counts.collect::<Vec<_>>().join(" "));
    }
}

/// A process with threads that use a lock without end.
struct Worker(Child);

impl Worker {
    fn start(scratch: &Scratch, how: &str, threads: usize, hold_us: u64) -> Self {
        Self::start_on(scratch, "job", how, threads, hold_us)
    }

    fn start_on(scratch: &Scratch, name: &str, how: &str, threads: usize, hold_us: u64) -> Self {
        let mut child = Child::start("worker");
        let table = scratch.table();
        child.say(format!(
            "{how} {threads} {hold_us} {} {name}",
            table.display()
        ));
        let mut worker = Self(child);
        worker.go_on_for(1);
        worker
    }

    /// How often each of its threads has had the lock.
    fn counts(&mut self) -> Vec<u64> {
        let answer = self.0.ask("counts");
        let counts = answer
            .split(' ')
            .map(|count| count.parse().expect("a number"));
        counts.collect()
    }

    /// Until each of its threads has had the lock so many times more.
    fn go_on_for(&mut self, turns: u64) {
        let before = self.counts();
        wait_until(|| {
            let now = self.counts();
            now.iter()
                .zip(&before)
                .all(|(now, before)| now - before >= turns)
        });
    }
}

/// The holder is faster than whoever has to be woken, so it would have the lock for ever:
/// with holds so short that nobody goes to sleep, and so long that everybody does.
#[test]
fn a_process_in_a_tight_loop_lets_another_in_again_and_again() {
    const TURNS: u64 = 30;
    let _watchdog = watchdog("a_process_in_a_tight_loop_lets_another_in_again_and_again");
    for (how, hold_us) in [
        ("waiting", 0),
        ("waiting", 20),
        ("waiting", 100),
        ("waiting", 1_000),
        ("waiting", 10_000),
        ("trying", 0),
        ("trying", 100),
        ("trying", 1_000),
        ("trying", 10_000),
    ] {
        let scratch = Scratch::with(on_death());
        let lock = scratch.open().lock("job").expect("a lock");
        let mut hog = Worker::start(&scratch, how, 1, hold_us);
        let before = hog.counts()[0];
        let begun = Instant::now();
        for _ in 0..TURNS {
            // Time for the other one to get the lock back.
            thread::sleep(Duration::from_millis(1));
            lock.acquire().expect("a turn").release().expect("held");
        }
        let hogged = hog.counts()[0] - before;
        report(format_args!(
            "{how} {hold_us} us: {TURNS} turns beside {hogged} in {:?}",
            begun.elapsed()
        ));
        // And it was not kept out itself.
        hog.go_on_for(10);
    }
}

/// Each thread counts for itself: a process's turn is not one of its threads' turns for ever.
#[test]
fn the_threads_of_two_processes_all_get_turns() {
    let _watchdog = watchdog("the_threads_of_two_processes_all_get_turns");
    for (one, other) in [(1, 3), (3, 3)] {
        for hold_us in [0, 5, 200] {
            let scratch = Scratch::with(on_death());
            let mut workers =
                [one, other].map(|threads| Worker::start(&scratch, "waiting", threads, hold_us));
            for _ in 0..3 {
                workers.iter_mut().for_each(|worker| worker.go_on_for(20));
            }
            let counts = workers.map(|mut worker| worker.counts());
            report(format_args!("{hold_us} us, threads: {counts:?}"));
        }
    }
}

/// Slots that share what a process remembers of its turns: contention for one must not
/// keep its turn at the other from ending.
#[test]
fn a_turn_at_one_lock_ends_while_turns_at_others_begin() {
    const TURNS: u64 = 30;
    let _watchdog = watchdog("a_turn_at_one_lock_ends_while_turns_at_others_begin");
    let scratch = Scratch::with(on_death());
    let table = scratch.open();
    let locks: Vec<_> = (0..9)
        .map(|n| table.lock(format!("job{n}")).expect("a lock"))
        .collect();
    // Sixteen slots apart. Both threads are of one process, as its turns are.
    let mut hog = Child::start("pair");
    hog.say(format!("{} job0 job8", scratch.table().display()));
    let mut rival = Worker::start_on(&scratch, "job8", "waiting", 1, 0);
    for _ in 0..TURNS {
        thread::sleep(Duration::from_millis(1));
        let guard = locks[0].acquire().expect("a turn");
        guard.release().expect("held");
    }
    rival.go_on_for(10);
}

/// One process: a thread that holds the one lock for long again and again, and one that
/// contends for the other.
fn pair(boss: &mut Boss) {
    let line = boss.hear();
    let words: Vec<_> = line.split(' ').collect();
    let table = LockTable::options()
        .open_existing(words[0])
        .expect("a table");
    for (name, hold) in [
        (words[1], Duration::from_millis(20)),
        (words[2], Duration::ZERO),
    ] {
        let lock = table.lock(name).expect("a lock");
        thread::spawn(move || {
            loop {
                How::Waiting.use_once(&lock, hold);
            }
        });
    }
    boss.hear();
}

#[test]
fn eight_processes_all_get_turns() {
    let _watchdog = watchdog("eight_processes_all_get_turns");
    for hold_us in [0, 10, 500] {
        let scratch = Scratch::with(on_death());
        let mut workers: Vec<_> = (0..8)
            .map(|_| Worker::start(&scratch, "waiting", 1, hold_us))
            .collect();
        for _ in 0..3 {
            workers.iter_mut().for_each(|worker| worker.go_on_for(20));
        }
        let counts: Vec<_> = workers
            .iter_mut()
            .map(|worker| worker.counts()[0])
            .collect();
        report(format_args!("{hold_us} us: {counts:?}"));
    }
}

/// The deadline is kept behind a lock that is let go of all the time, and whoever leaves
/// leaves nobody asleep behind it.
#[test]
fn a_wait_with_a_deadline_ends_while_others_barge_in() {
    let _watchdog = watchdog("a_wait_with_a_deadline_ends_while_others_barge_in");
    for hold_us in [0, 50, 2_000] {
        let scratch = Scratch::with(on_death());
        let lock = scratch.open().lock("job").expect("a lock");
        let mut hog = Worker::start(&scratch, "waiting", 1, hold_us);
        let mut waiter = Worker::start(&scratch, "waiting", 1, hold_us);
        let mut leaver = Worker::start(&scratch, "impatient", 2, hold_us.max(20));
        let (mut got, mut left) = (0, 0);
        for timeout_us in (0..400).map(|n| n * 5) {
            let timeout = Duration::from_micros(timeout_us);
            let begun = Instant::now();
            match lock.acquire_timeout(timeout) {
                Ok(guard) => {
                    got += 1;
                    guard.release().expect("held");
                }
                Err(AcquireError::TimedOut { .. }) => {
                    left += 1;
                    assert!(begun.elapsed() >= timeout, "it left early");
                }
                Err(error) => panic!("{error}"),
            }
        }
        report(format_args!("{hold_us} us: {got} got it, {left} left"));
        hog.go_on_for(20);
        waiter.go_on_for(20);
        leaver.go_on_for(1);
        drop(leaver);
        hog.go_on_for(20);
        waiter.go_on_for(20);
    }
}

/// Whoever waits may be killed or stopped at any moment, as the heir that others trust in,
/// too: they get their turns all the same.
#[test]
fn a_killed_and_a_stopped_heir_cost_nobody_the_lock() {
    let _watchdog = watchdog("a_killed_and_a_stopped_heir_cost_nobody_the_lock");
    let mut dice = Dice::new("a_killed_and_a_stopped_heir_cost_nobody_the_lock");
    for hold_us in [0, 30, 300] {
        let scratch = Scratch::with(on_death());
        let lock = scratch.open().lock("job").expect("a lock");
        let mut hogs = [(); 2].map(|()| Worker::start(&scratch, "waiting", 1, hold_us));
        let mut longest = Duration::ZERO;
        for round in 0..20 {
            let waiter = Worker::start(&scratch, "waiting", 2, hold_us);
            thread::sleep(Duration::from_micros(dice.below(3_000) as u64));
            waiter.0.stop();
            let begun = Instant::now();
            let was_out = loop {
                match lock.acquire_timeout(Duration::from_millis(300)) {
                    Ok(guard) => break guard.release().is_ok(),
                    // Stopped as the holder, it costs everybody the lock, and rightly so.
                    Err(AcquireError::TimedOut { holder, .. }) if holder.pid == waiter.0.pid() => {
                        break false;
                    }
                    Err(AcquireError::TimedOut { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
            };
            longest = longest.max(if was_out {
                begun.elapsed()
            } else {
                Duration::ZERO
            });
            if was_out {
                hogs.iter_mut().for_each(|hog| hog.go_on_for(2));
            }
            if round % 2 == 0 {
                waiter.0.go_on();
            }
            drop(waiter);
            lock.acquire().expect("a turn").release().expect("held");
            hogs.iter_mut().for_each(|hog| hog.go_on_for(2));
        }
        report(format_args!(
            "{hold_us} us: {longest:?} at most beside a stopped one"
        ));
    }
}

/// A slot whose heir was killed has nobody who waits, though its word says so. Its name
/// can be given up like any other's.
#[test]
fn a_name_whose_waiter_was_killed_makes_room_for_another() {
    let _watchdog = watchdog("a_name_whose_waiter_was_killed_makes_room_for_another");
    let mut dice = Dice::new("a_name_whose_waiter_was_killed_makes_room_for_another");
    let scratch = Scratch::with(LockTable::options().slots(1).sessions(8));
    let table = scratch.open();
    for round in 0..40 {
        let name = format!("job{round}");
        let lock = table.lock(&name).expect("room for another name");
        let mut waiter = Worker::start_on(&scratch, &name, "waiting", 1, 0);
        // Barging in, so that it stays awake to wait.
        let until = Instant::now() + Duration::from_micros(dice.below(2_000) as u64);
        while Instant::now() < until {
            lock.acquire().expect("a turn").release().expect("held");
        }
        let guard = lock.acquire().expect("a turn");
        waiter.0.kill_and_reap();
        guard.release().expect("held");
        assert_eq!(table.inspect().expect("a snapshot").slots[0].waiters, 0);
    }
}

#[test]
fn a_contended_lock_shows_its_waiters_and_none_once_they_are_gone() {
    let _watchdog = watchdog("a_contended_lock_shows_its_waiters_and_none_once_they_are_gone");
    let scratch = Scratch::with(on_death());
    let table = scratch.open();
    let mut workers = [0, 20, 2_000].map(|us| Worker::start(&scratch, "waiting", 3, us));
    let slot = || table.inspect().expect("a snapshot").slots[0].clone();
    let (mut most, mut last) = (0, 0);
    for _ in 0..500 {
        let slot = slot();
        assert!(
            matches!(slot.state, SlotState::Held | SlotState::Free),
            "{slot:?}"
        );
        assert!(slot.waiters <= 9, "{slot:?}");
        assert!(slot.token.0 == 0 || slot.token.0 >= last, "{slot:?}");
        (most, last) = (most.max(slot.waiters), slot.token.0.max(last));
        thread::sleep(Duration::from_micros(200));
    }
    assert!(most > 0);
    workers.iter_mut().for_each(|worker| worker.go_on_for(5));
    drop(workers);
    assert_eq!(slot().waiters, 0);
    let lock = table.lock("job").expect("a lock");
    lock.acquire()
        .expect("nobody else is there")
        .release()
        .expect("held");
    assert_eq!(slot().state, SlotState::Free);
}
