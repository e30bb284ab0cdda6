//! The keeper thread: late for commands of a few milliseconds, there for all others.

mod common;

use std::fs;

use nix::sys::signal::Signal;

use common::{Sandbox, until};

fn threads_of(pid: u32) -> u32 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("a process that runs");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("Threads:"));
    line.expect("a count").trim().parse().expect("a number")
}

#[test]
fn a_command_that_takes_its_time_gets_a_keeper_and_heartbeats() {
    let sandbox = Sandbox::new();
    let holder = sandbox.hold("job");
    let pid = holder.wrapper.pid();
    until("the keeper is there", || threads_of(pid) == 2);
    let age = || {
        sandbox.slot("job")["holder"]["heartbeat_age_ms"]
            .as_u64()
            .expect("an age")
    };
    let mut last = age();
    until("a heartbeat makes it younger", || {
        let before = std::mem::replace(&mut last, age());
        last < before
    });
}

#[test]
fn where_the_lease_is_short_the_keeper_is_there_before_the_command() {
    let sandbox = Sandbox::new();
    sandbox.ok(&["create", "--lease", "1", "test.table"]);
    let script = "exec grep Threads: /proc/$PPID/status";
    let out = sandbox.ok(&["run", "job", "--", "sh", "-c", script]);
    assert_eq!(out.split_whitespace().last(), Some("2"), "{out}");
}

#[test]
fn a_waiter_has_a_keeper_before_it_waits() {
    let sandbox = Sandbox::new();
    let _holder = sandbox.hold("job");
    let waiter = sandbox.start(sandbox.caslock(&["run", "job", "--", "true"]));
    until("it waits", || sandbox.slot("job")["waiters"] == 1);
    assert_eq!(threads_of(waiter.pid()), 2);
}

/// Within the first milliseconds the main thread's certificate and the byte lock stand for
/// the session: many wrappers are killed there, and nobody stays locked out.
#[test]
fn a_wrapper_that_is_killed_before_it_has_a_keeper_is_as_dead_as_any() {
    let sandbox = Sandbox::new();
    for _ in 0..20 {
        let mut holder = sandbox.hold("job");
        holder.wrapper.send(Signal::SIGKILL);
        let next = sandbox.run(&["run", "job", "--", "printenv", "CASLOCK_PREVIOUS"]);
        assert_eq!(next.code(), 0, "{next:?}");
        assert_eq!(next.stdout, "died\n");
        assert!(holder.command.is_gone());
        holder.wrapper.wait();
    }
}
