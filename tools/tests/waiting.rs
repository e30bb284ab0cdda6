//! What a person sees who has to wait.

mod common;

use nix::sys::signal::Signal;

use common::{CASLOCK, Sandbox, until};

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
