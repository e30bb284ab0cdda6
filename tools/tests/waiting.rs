//! What a person sees who has to wait.

mod common;

use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use nix::sys::signal::Signal;

use common::{CASLOCK, Sandbox, full_pipe, full_terminal, until};

#[test]
fn a_free_lock_is_taken_without_a_word() {
    let sandbox = Sandbox::new();
    let outcome = sandbox.run(&["run", "job", "--", "true"]);
    assert_eq!((outcome.code(), &*outcome.stderr), (0, ""));
}

#[test]
fn after_a_second_one_line_names_the_holder_and_no_other_follows() {
    let sandbox = Sandbox::new();
    let holder = sandbox.hold("job");
    let outcome = sandbox.run(&["run", "-w", "3", "job", "--", "true"]);
    assert_eq!(outcome.code(), 124, "{outcome:?}");
    let waiting: Vec<_> = outcome
        .stderr
        .lines()
        .filter(|line| line.starts_with("caslock: waiting"))
        .collect();
    let [line] = waiting[..] else {
        panic!("{outcome:?}");
    };
    let start = format!(
        "caslock: waiting for \"job\", held by process {} (caslock), token ",
        holder.wrapper.pid()
    );
    assert!(line.starts_with(&start), "{line}");
    assert!(line.ends_with(", note \"sh\""), "{line}");
    // The other line is the error.
    assert_eq!(outcome.stderr.lines().count(), 2, "{outcome:?}");
}

#[test]
fn who_waits_for_its_own_ancestor_is_told_so() {
    let sandbox = Sandbox::new();
    let inner = ["run", "-w", "1.5", "job", "--", "true"];
    let outer = [&["run", "job", "--", "nice", CASLOCK], &inner[..]].concat();
    let outcome = sandbox.run(&outer);
    assert_eq!(outcome.code(), 124, "{outcome:?}");
    let told = ", which has started this: if it waits for this to end, neither ever will\n";
    assert!(outcome.stderr.contains(told), "{outcome:?}");
    // Others are not.
    let _holder = sandbox.hold("job");
    let outcome = sandbox.run(&inner);
    assert!(!outcome.stderr.contains("started this"), "{outcome:?}");
    assert!(outcome.stderr.contains("waiting for"), "{outcome:?}");
}

#[test]
fn nobody_is_told_to_wait_who_does_not() {
    let sandbox = Sandbox::new();
    let _holder = sandbox.hold("job");
    for args in [&["-n"][..], &["-w", "0.2"]] {
        let outcome = sandbox.run(&[&["run"], args, &["job", "--", "true"]].concat());
        assert!(!outcome.stderr.contains("caslock: waiting"), "{outcome:?}");
        assert_eq!(outcome.stderr.lines().count(), 1, "{outcome:?}");
    }
}

#[test]
fn a_waiter_gets_the_lock_when_it_is_released() {
    let sandbox = Sandbox::new();
    let holder = sandbox.hold("job");
    let args = ["run", "job", "--", "printenv", "CASLOCK_PREVIOUS"];
    let waiter = sandbox.start(sandbox.caslock(&args));
    until("it waits", || sandbox.slot("job")["waiters"] == 1);
    holder.wrapper.send(Signal::SIGTERM);
    let outcome = waiter.finish();
    assert_eq!(outcome.code(), 0, "{outcome:?}");
    assert_eq!(outcome.stdout, "released\n");
}

/// The notice that a predecessor died was waited for with the lock held, before the command was
/// started, and so was the one of a wait, with the deadline passed.
#[test]
fn a_notice_that_nobody_reads_holds_up_nothing() {
    let name = "j".repeat(255);
    for full in [full_pipe, full_terminal] {
        let sandbox = Sandbox::new();
        let holder = sandbox.hold(&name);
        let (_reader, writer) = full();
        let run = ["run", &name, "--", "printenv", "CASLOCK_PREVIOUS"];
        let mut command = sandbox.caslock(&run);
        command.stderr(writer);
        let waiter = sandbox.start(command);
        until("it waits", || sandbox.slot(&name)["waiters"] == 1);
        // Time for it to say so.
        std::thread::sleep(std::time::Duration::from_millis(2000));
        holder.wrapper.send(Signal::SIGKILL);
        let outcome = waiter.finish();
        assert_eq!(
            (outcome.code(), &*outcome.stdout),
            (0, "died\n"),
            "{outcome:?}"
        );
    }
}

/// Its last line was waited for, with the deadline passed.
#[test]
fn who_gives_up_does_so_though_nobody_reads_why() {
    let sandbox = Sandbox::new();
    let _holder = sandbox.hold("job");
    for (args, code) in [(&["-n"][..], 75), (&["-w", "0.2"], 124), (&["-nE", "9"], 9)] {
        let (_reader, writer) = full_pipe();
        let args = [&["run"], args, &["job", "--", "true"]].concat();
        let mut command = sandbox.caslock(&args);
        command.stderr(writer);
        assert_eq!(sandbox.start(command).finish().code(), code);
    }
}

#[test]
fn where_all_sessions_are_in_use_one_is_waited_for_as_long_as_for_the_lock() {
    let sandbox = Sandbox::new();
    sandbox.ok(&["create", "--sessions", "2", "test.table"]);
    let holders = ["a", "b"].map(|name| sandbox.hold(name));
    for limit in [&["-n"][..], &["-w", "0.5"]] {
        let outcome = sandbox.run(&[&["run"], limit, &["c", "--", "true"]].concat());
        assert_eq!(outcome.code(), 125, "{outcome:?}");
        assert!(outcome.stderr.contains("all 2 sessions"), "{outcome:?}");
        assert_eq!(outcome.stderr.lines().count(), 1, "{outcome:?}");
    }
    let mut command = sandbox.caslock(&["run", "c", "--", "true"]);
    let told = sandbox.path().join("told");
    command.stderr(File::create(&told).expect("a file"));
    let mut waiter = sandbox.start(command);
    let told = || fs::read_to_string(&told).expect("what it has said");
    until("it has said that it waits", || told().ends_with('\n'));
    holders[0].wrapper.send(Signal::SIGTERM);
    assert_eq!(waiter.wait().code(), Some(0));
    let told = told();
    assert!(told.starts_with("caslock: waiting: "), "{told}");
    assert_eq!(told.lines().count(), 1, "{told}");
}

/// Who has a session may wait for the lock of the very job that would wait for it.
#[test]
fn a_job_that_has_a_lock_does_not_wait_for_a_session() {
    let sandbox = Sandbox::new();
    sandbox.ok(&["create", "--sessions", "1", "test.table"]);
    let inner = [CASLOCK, "run", "b", "--", "true"];
    let outcome = sandbox.run(&[&["run", "a", "--"][..], &inner].concat());
    assert_eq!(outcome.code(), 125, "{outcome:?}");
    assert!(outcome.stderr.contains("the only session"), "{outcome:?}");
}

/// It did not heed its limit, nor any signal, for ten seconds.
#[test]
fn who_waits_for_a_reset_does_so_within_its_limit_and_can_be_ended() {
    /// The byte of the file that whoever resets a table has locked.
    const RESET_BYTE: i64 = 1 << 62;
    let sandbox = Sandbox::new();
    sandbox.ok(&["run", "job", "--", "true"]);
    let mut options = File::options();
    let table = options.read(true).write(true).open(sandbox.table());
    let table = table.expect("the table");
    let lock = |kind: i32| {
        let lock = libc::flock {
            l_type: kind as i16,
            l_whence: libc::SEEK_SET as i16,
            l_start: RESET_BYTE,
            l_len: 1,
            l_pid: 0,
        };
        fcntl(&table, FcntlArg::F_OFD_SETLK(&lock)).expect("a lock");
    };
    lock(libc::F_WRLCK);
    for limit in [&["-n"][..], &["-w", "1.2"]] {
        let outcome = sandbox.run(&[&["run"], limit, &["job", "--", "true"]].concat());
        assert_eq!(outcome.code(), 125, "{outcome:?}");
        assert!(outcome.stderr.contains("to reset it"), "{outcome:?}");
    }
    let mut ended = sandbox.start(sandbox.caslock(&["run", "job", "--", "true"]));
    let waiter = sandbox.start(sandbox.caslock(&["run", "job", "--", "echo", "granted"]));
    std::thread::sleep(Duration::from_millis(500));
    ended.send(Signal::SIGINT);
    assert_eq!(ended.wait().signal(), Some(2));
    lock(libc::F_UNLCK);
    let outcome = waiter.finish();
    assert_eq!(
        (outcome.code(), &*outcome.stdout),
        (0, "granted\n"),
        "{outcome:?}"
    );
}
