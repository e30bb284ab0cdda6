//! Process ids that mean nothing and clocks that disagree: containers side by side, a
//! process id that is used again, time namespaces.

mod common;

use std::thread;
use std::time::Duration;

use caslock::{Inspector, Liveness, Options, Previous};
use common::{
    Child, Grant, Isolation, Scratch, dispatch, on_death, on_expiry, puppet, skip, sys, watchdog,
};

#[test]
fn child_role() {
    dispatch(&[("puppet", puppet)]);
}

/// Whether the test can have such namespaces; says so if not.
fn may_have(test: &str, namespaces: i32) -> bool {
    let may = sys::may_unshare(namespaces);
    if !may {
        skip(test, "namespaces take CAP_SYS_ADMIN");
    }
    may
}

/// A process that is process 1 of a PID namespace of its own.
fn contained(scratch: &Scratch) -> Child {
    let how = Isolation::namespaces(libc::CLONE_NEWPID);
    Child::puppet_in(&scratch.table(), how).expect("a child in a PID namespace")
}

/// Both policies: the byte lock speaks for the dead, the heartbeat for the hung, and
/// neither asks for a process id.
fn policies() -> [Options; 2] {
    [on_death(), on_expiry(1_000)]
}

/// Row 2: two containers, each with a process 1 that takes the other's lock for its own if
/// it believes in process ids.
#[test]
fn sibling_containers_neither_rob_nor_strand_each_other() {
    let test = "sibling_containers_neither_rob_nor_strand_each_other";
    let _watchdog = watchdog(test);
    if !may_have(test, libc::CLONE_NEWPID) {
        return;
    }
    for options in policies() {
        let scratch = Scratch::with(options);
        let (mut holder, mut waiter) = (contained(&scratch), contained(&scratch));
        let held = holder.acquire("job");
        let refused = waiter.try_acquire("job").expect_err("it is held");
        assert_eq!(
            (refused.error.as_str(), refused.holder),
            ("Busy", (1, held.token))
        );
        let refused = waiter
            .acquire_within("job", Duration::from_secs(3))
            .expect_err("robbed");
        assert_eq!(refused.error, "TimedOut");
        assert!(holder.is_held("job"));

        waiter.say("acquire job");
        assert!(!waiter.answers_within(Duration::from_millis(100)));
        holder.kill_and_reap();
        let grant: Grant = waiter.hear().parse().expect("a grant");
        assert_eq!(grant.previous, "died");
        assert_eq!(grant.departed, (1, held.token));
        assert!(grant.token > held.token);
        assert!(waiter.is_held("job"));
    }
}

#[test]
fn a_container_and_its_host_neither_rob_nor_strand_each_other() {
    let test = "a_container_and_its_host_neither_rob_nor_strand_each_other";
    let _watchdog = watchdog(test);
    if !may_have(test, libc::CLONE_NEWPID) {
        return;
    }
    for options in policies() {
        for holder_inside in [false, true] {
            let scratch = Scratch::with(options.clone());
            let (inside, outside) = (contained(&scratch), Child::puppet(&scratch.table()));
            let outer_pid = outside.pid();
            let (mut holder, mut waiter, pid) = if holder_inside {
                (inside, outside, 1)
            } else {
                (outside, inside, outer_pid)
            };
            let held = holder.acquire("job");
            let refused = waiter
                .acquire_within("job", Duration::from_secs(2))
                .expect_err("robbed");
            assert_eq!(refused.holder, (pid, held.token));
            holder.kill();
            assert_eq!(waiter.acquire("job").departed, (pid, held.token));
        }
    }
}

#[test]
fn inspection_says_whose_process_ids_are_foreign() {
    let test = "inspection_says_whose_process_ids_are_foreign";
    let _watchdog = watchdog(test);
    if !may_have(test, libc::CLONE_NEWPID) {
        return;
    }
    let scratch = Scratch::with(on_death());
    let (mut inside, mut outside) = (contained(&scratch), Child::puppet(&scratch.table()));
    inside.acquire("inside");
    outside.acquire("outside");
    let inspector = Inspector::open(scratch.table()).expect("the table opens");
    let snapshot = inspector.snapshot().expect("a snapshot");
    let mut seen: Vec<_> = snapshot
        .sessions
        .iter()
        .map(|s| (s.pid, s.same_pid_namespace))
        .collect();
    seen.sort_unstable();
    assert_eq!(seen, [(1, false), (outside.pid(), true)]);
    for (name, pid, same) in [("inside", 1, false), ("outside", outside.pid(), true)] {
        let holder = snapshot.slot(name).and_then(|slot| slot.holder);
        let holder = holder.expect("it is held");
        assert_eq!((holder.pid, holder.same_pid_namespace), (pid, same));
        let marked = holder.to_string().contains("another PID namespace");
        assert_eq!(marked, !same, "{holder}");
    }
    assert!(
        snapshot
            .sessions
            .iter()
            .all(|session| session.liveness == Liveness::Alive)
    );
}

/// A process with a process id of our choice, unless that may not be chosen. That the id is
/// another's is no reason to skip: whoever asks has seen to it that it is free.
fn with_pid(pid: u32) -> Option<Child> {
    let how = Isolation {
        pid: Some(pid),
        ..Isolation::default()
    };
    match Child::start_in("puppet", how) {
        Ok(child) => Some(child),
        Err(e) => {
            let errno = e.raw_os_error();
            let is_refused = matches!(errno, Some(libc::EPERM | libc::EINVAL | libc::ENOSYS));
            assert!(is_refused, "clone3 with set_tid {pid}: {e}");
            skip("forced process ids", format!("clone3 with set_tid: {e}"));
            None
        }
    }
}

/// Row 1: the dead holder's number goes to a process that knows nothing of the table.
#[test]
fn a_strangers_use_of_the_dead_holders_pid_does_not_keep_the_lock() {
    let _watchdog = watchdog("a_strangers_use_of_the_dead_holders_pid_does_not_keep_the_lock");
    let scratch = Scratch::with(on_death());
    let lock = scratch.open().lock("job").expect("a lock");
    for _ in 0..20 {
        let mut holder = Child::puppet(&scratch.table());
        let held = holder.acquire("job");
        holder.kill_and_reap();
        let Some(stranger) = with_pid(holder.pid()) else {
            return;
        };
        assert_eq!(stranger.pid(), holder.pid());
        let guard = lock
            .try_acquire()
            .expect("its holder is dead, whoever has its number");
        assert_eq!(Grant::of(&guard).departed, (holder.pid(), held.token));
        guard.release().expect("held to the end");
    }
}

/// Row 1, the other way: a namesake that took the lock over is not taken for the dead.
#[test]
fn a_namesake_of_the_dead_holder_is_not_robbed() {
    let _watchdog = watchdog("a_namesake_of_the_dead_holder_is_not_robbed");
    let scratch = Scratch::with(on_death());
    for _ in 0..10 {
        let mut holder = Child::puppet(&scratch.table());
        let mut waiter = Child::puppet(&scratch.table());
        let held = holder.acquire("job");
        // The waiter judges the first holder, and is stopped with that in its hands.
        waiter.say("acquire job");
        assert!(!waiter.answers_within(Duration::from_millis(50)));
        waiter.stop();
        holder.kill_and_reap();
        let Some(mut namesake) = with_pid(holder.pid()) else {
            return;
        };
        namesake.open(&scratch.table());
        let grant = namesake.acquire("job");
        assert_eq!(grant.departed, (namesake.pid(), held.token));
        waiter.go_on();
        assert!(!waiter.answers_within(Duration::from_millis(500)), "robbed");
        assert!(namesake.is_held("job"));
        assert_eq!(namesake.release("job"), "released");
        let last: Grant = waiter.hear().parse().expect("a grant");
        assert_eq!(
            (last.previous.as_str(), last.departed),
            ("released", (0, 0))
        );
        assert!(last.token > grant.token);
    }
}

/// Row 10: a clock that is a day ahead makes no heartbeat old.
#[test]
fn an_observer_in_another_time_namespace_robs_nobody() {
    let test = "an_observer_in_another_time_namespace_robs_nobody";
    let _watchdog = watchdog(test);
    if !may_have(test, libc::CLONE_NEWTIME) {
        return;
    }
    let shifted = Isolation {
        clock_shift_secs: Some(100_000),
        ..Isolation::default()
    };
    for holder_shifted in [false, true] {
        let scratch = Scratch::with(on_expiry(1_000));
        let far = Child::puppet_in(&scratch.table(), shifted).expect("a child in a time namespace");
        let near = Child::puppet(&scratch.table());
        let (mut holder, mut waiter) = if holder_shifted {
            (far, near)
        } else {
            (near, far)
        };
        let clock = |child: &mut Child| child.ask("clock").parse::<i64>().expect("seconds");
        let apart = clock(&mut holder).abs_diff(clock(&mut waiter));
        if apart < 90_000 {
            skip(
                test,
                "this kernel changes the time namespace at fork only, not at exec",
            );
            return;
        }
        let held = holder.acquire("job");
        let refused = waiter.try_acquire("job").expect_err("robbed");
        assert_eq!(refused.error, "Busy");
        let refused = waiter
            .acquire_within("job", Duration::from_secs(4))
            .expect_err("robbed");
        assert_eq!(refused.error, "TimedOut");
        assert!(holder.is_held("job"));

        // A hung one is still told from a living one, and a dead one from both.
        holder.stop();
        let grant = waiter.acquire("job");
        assert_eq!(
            (grant.previous.as_str(), grant.departed),
            ("expired", (holder.pid(), held.token))
        );
        assert_eq!(waiter.release("job"), "released");
        holder.go_on();
        holder.release("job");
        let held = holder.acquire("job");
        holder.kill_and_reap();
        assert_eq!(waiter.acquire("job").departed, (holder.pid(), held.token));
    }
}

/// The same seen from this process: shown as alive, its times sane.
#[test]
fn a_shifted_clock_is_not_shown_as_death() {
    let test = "a_shifted_clock_is_not_shown_as_death";
    let _watchdog = watchdog(test);
    if !may_have(test, libc::CLONE_NEWTIME) {
        return;
    }
    let shifted = Isolation {
        clock_shift_secs: Some(100_000),
        ..Isolation::default()
    };
    let scratch = Scratch::with(on_expiry(1_000));
    let mut holder =
        Child::puppet_in(&scratch.table(), shifted).expect("a child in a time namespace");
    let held = holder.acquire("job");
    let lock = scratch.open().lock("job").expect("a lock");
    thread::sleep(Duration::from_millis(500));
    let who = lock.holder().expect("a look").expect("a holder");
    assert_eq!((who.pid, who.token.0), (holder.pid(), held.token));
    assert_ne!(who.liveness, Liveness::Dead);
    assert_eq!(holder.release("job"), "released");
    assert_eq!(
        lock.try_acquire().expect("free").previous(),
        Previous::Released
    );
}
