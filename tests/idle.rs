//! What the library costs when nothing happens: an idle process beats and does nothing
//! else, a blocked waiter sleeps, an uncontended pair stays out of the kernel.

mod common;

use std::collections::HashMap;
use std::thread;
use std::time::{Duration, Instant};

use caslock::{Inspector, LockTable};
use common::trace::{Step, Tracee};
use common::{
    Boss, Child, Scratch, dispatch, on_death, on_expiry, puppet, report, skip, sys, watchdog,
};

#[test]
fn child_role() {
    dispatch(&[("puppet", puppet), ("pairs", pairs)]);
}

/// Counts the heartbeats of some processes for a while, by what the table shows of them:
/// an age that went down was a beat.
fn count_beats(scratch: &Scratch, time: Duration) -> HashMap<u32, u64> {
    let inspector = Inspector::open(scratch.table()).expect("the table opens");
    let mut ages: HashMap<u32, Duration> = HashMap::new();
    let mut beats: HashMap<u32, u64> = HashMap::new();
    let start = Instant::now();
    while start.elapsed() < time {
        for session in inspector.snapshot().expect("a snapshot").sessions {
            let before = ages.insert(session.pid, session.heartbeat_age);
            let beat = before.is_some_and(|before| before > session.heartbeat_age);
            *beats.entry(session.pid).or_default() += u64::from(beat);
        }
        thread::sleep(Duration::from_millis(2));
    }
    beats
}

#[test]
fn an_idle_process_wakes_for_its_heartbeats_only() {
    let _watchdog = watchdog("an_idle_process_wakes_for_its_heartbeats_only");
    let lease = Duration::from_secs(2);
    let scratch = Scratch::with(on_expiry(2_000));
    let mut idle = Child::puppet(&scratch.table());
    // Holding a lock is idling, too.
    idle.acquire("held");
    idle.acquire("free");
    assert_eq!(idle.release("free"), "released");
    thread::sleep(Duration::from_millis(200));

    let time = 4 * lease;
    let before = common::sleeps(idle.pid());
    let beats = count_beats(&scratch, time)[&idle.pid()];
    let sleeps = common::sleeps(idle.pid()) - before;
    report(format_args!(
        "idle for {time:?}: {beats} heartbeats, {sleeps} sleeps"
    ));
    assert!(beats >= 4, "it beats");
    assert!(
        beats <= 4 * 20,
        "a few times per lease, not {beats} in four"
    );
    assert!(sleeps <= beats + 3, "something else wakes it");
}

#[test]
fn a_blocked_waiter_uses_no_processor() {
    let _watchdog = watchdog("a_blocked_waiter_uses_no_processor");
    for options in [on_death(), on_expiry(10_000)] {
        let scratch = Scratch::with(options);
        let table = scratch.open();
        let lock = table.lock("job").expect("a lock");
        let guard = lock.acquire().expect("a grant");
        let mut waiter = Child::puppet(&scratch.table());
        waiter.say("acquire job");
        // Past its spin.
        common::wait_until(|| {
            let snapshot = table.inspect().expect("a snapshot");
            snapshot.slot("job").expect("the slot").waiters == 1
        });
        thread::sleep(Duration::from_millis(300));

        let (cpu, sleeps) = (common::cpu_time(waiter.pid()), common::sleeps(waiter.pid()));
        let start = Instant::now();
        thread::sleep(Duration::from_secs(5));
        let waited = start.elapsed();
        let cpu = common::cpu_time(waiter.pid()) - cpu;
        let sleeps = common::sleeps(waiter.pid()) - sleeps;
        report(format_args!(
            "blocked for {waited:?}: {cpu:?} of processor time, {sleeps} sleeps"
        ));
        assert!(cpu <= waited / 100, "{cpu:?} in {waited:?}");
        assert!(
            u128::from(sleeps) <= waited.as_millis() / 20,
            "{sleeps} wake-ups in {waited:?}"
        );
        guard.release().expect("held to the end");
        assert!(waiter.hear().starts_with("granted"));
    }
}

const PAIRS: usize = 10_000;

/// Does what it is told between two marks, for a tracer to watch.
fn pairs(boss: &mut Boss) {
    let deed = boss.hear();
    let path = boss.hear();
    let table = LockTable::options()
        .open_existing(path)
        .expect("the table opens");
    let lock = table.lock("job").expect("a lock");
    // The first pair of a thread may have more to do.
    lock.acquire()
        .expect("a grant")
        .release()
        .expect("held to the end");
    boss.say(sys::thread_id());
    boss.hear();
    sys::mark();
    match deed.as_str() {
        "acquire" => {
            for _ in 0..PAIRS {
                let guard = lock.acquire().expect("a grant");
                assert!(guard.is_held());
                guard.release().expect("held to the end");
            }
        }
        "try and drop" => {
            let mut last = 0;
            for _ in 0..PAIRS {
                let guard = lock.try_acquire().expect("a grant");
                assert!(guard.token().0 > last && !guard.previous().is_abandoned());
                last = guard.token().0;
            }
        }
        "seven calls" => (0..7).for_each(|_| assert!(sys::effective_uid() < u32::MAX)),
        "no clock" => {
            sys::forbid_clock_reads(true);
            for _ in 0..PAIRS {
                lock.acquire()
                    .expect("a grant")
                    .release()
                    .expect("held to the end");
            }
            sys::forbid_clock_reads(false);
        }
        "clock" => {
            sys::forbid_clock_reads(true);
            let _ = std::hint::black_box(Instant::now());
            sys::forbid_clock_reads(false);
        }
        _ => panic!("no such deed: {deed}"),
    }
    sys::mark();
    boss.say("done");
}

/// The numbers of the system calls that a deed makes. `Err`: it was killed on the way.
fn system_calls(test: &str, deed: &str) -> Option<Result<Vec<i64>, Vec<i64>>> {
    let scratch = Scratch::with(on_death());
    let mut child = Child::start("pairs");
    child.say(deed);
    child.say(scratch.table().display());
    let tid = child.hear().parse().expect("a thread id");
    let mut tracee = match Tracee::seize(tid) {
        Ok(tracee) => tracee,
        Err(e) => {
            skip(test, format!("ptrace: {e}"));
            return None;
        }
    };
    child.say("go");
    tracee.run_to(libc::SYS_getppid);
    let mut calls = Vec::new();
    while tracee.step(Step::Syscall) {
        match tracee.entering() {
            Some(libc::SYS_getppid) => {
                child.kill();
                tracee.bury();
                return Some(Ok(calls));
            }
            Some(number) => calls.push(number),
            None => {}
        }
    }
    Some(Err(calls))
}

#[test]
fn an_uncontended_pair_makes_no_system_call() {
    let test = "an_uncontended_pair_makes_no_system_call";
    let _watchdog = watchdog(test);
    for deed in ["acquire", "try and drop"] {
        let Some(calls) = system_calls(test, deed) else {
            return;
        };
        assert_eq!(calls, Ok(vec![]), "{deed}: numbers of system calls");
    }
    // And the count counts.
    let control = system_calls(test, "seven calls").expect("traced before");
    assert_eq!(control, Ok(vec![libc::SYS_geteuid; 7]));
}

/// Clock reads stay out of the kernel, so they are made to fault instead.
#[test]
fn an_uncontended_pair_reads_no_clock() {
    let test = "an_uncontended_pair_reads_no_clock";
    let _watchdog = watchdog(test);
    if let Err(e) = sys::may_forbid_clock_reads() {
        skip(test, format!("this kernel has no clock read fault: {e}"));
        return;
    }
    let Some(calls) = system_calls(test, "no clock") else {
        return;
    };
    assert_eq!(
        calls,
        Ok(vec![libc::SYS_prctl; 2]),
        "numbers of system calls"
    );
    // A clock read would have shown: as a fault, or as a call where the vDSO cannot read it.
    match system_calls(test, "clock").expect("traced before") {
        Err(_faulted) => {}
        Ok(calls) => assert!(calls.contains(&libc::SYS_clock_gettime), "{calls:?}"),
    }
}
