//! What ends with a command that has lost its lock: all that it has started.

mod common;

use nix::sys::signal::Signal;

use common::{Identity, Running, Sandbox, until};

/// A script that starts others and says who they are: one that it waits for, and one whose
/// parent has gone. Descriptor 1 stays theirs, so that what they leave unread does not matter.
const SCRIPT: &str = "sleep 1000 & echo $!; sh -c 'sleep 1000 & echo $!; wait' & wait; echo done";

fn hold(sandbox: &Sandbox, options: &[&str], script: &str) -> (Running, [Identity; 2]) {
    let mut holder = sandbox.hold_with(options, "job", script);
    let offspring = [(); 2].map(|()| {
        let pid = holder.wrapper.line();
        Identity::of(pid.trim().parse().expect("a process id"))
    });
    (holder, offspring)
}

/// A script that starts that one and waits for it, and ends at a SIGTERM as the others do not.
fn stubborn(sandbox: &Sandbox) -> String {
    std::fs::write(sandbox.path().join("script"), SCRIPT).expect("a file");
    "(trap '' TERM; exec sh ./script) & wait".to_owned()
}

fn take(sandbox: &Sandbox) {
    let token = sandbox.token("job").to_string();
    sandbox.ok(&["force-release", "job", "--token", &token, "--even-if-alive"]);
}

#[test]
fn what_a_script_has_started_is_told_of_the_loss_with_it() {
    let sandbox = Sandbox::new();
    for options in [&[][..], &["--on-lost", "kill"]] {
        let (holder, offspring) = hold(&sandbox, options, SCRIPT);
        take(&sandbox);
        let outcome = holder.wrapper.finish();
        assert_eq!(outcome.code(), 120, "{outcome:?}");
        assert!(!outcome.stdout.contains("done"), "{outcome:?}");
        assert!(offspring.iter().all(Identity::is_gone));
    }
}

#[test]
fn who_is_left_of_it_is_killed_when_the_command_itself_has_long_ended() {
    let sandbox = Sandbox::new();
    let script = stubborn(&sandbox);
    let (holder, offspring) = hold(&sandbox, &["--kill-after", "0.2"], &script);
    take(&sandbox);
    let outcome = holder.wrapper.finish();
    assert_eq!(outcome.code(), 120, "{outcome:?}");
    assert!(outcome.stderr.contains("SIGKILL"), "{outcome:?}");
    assert!(offspring.iter().all(Identity::is_gone));
}

#[test]
fn a_signal_to_the_wrapper_hastens_the_end_of_who_is_left() {
    let sandbox = Sandbox::new();
    let script = stubborn(&sandbox);
    let (mut holder, offspring) = hold(&sandbox, &["--kill-after", "1000"], &script);
    take(&sandbox);
    until("the script itself has ended", || holder.command.is_gone());
    assert!(!offspring.iter().any(Identity::is_gone));
    assert!(holder.wrapper.is_running());
    holder.wrapper.send(Signal::SIGTERM);
    let outcome = holder.wrapper.finish();
    assert_eq!(outcome.code(), 120, "{outcome:?}");
    assert!(offspring.iter().all(Identity::is_gone));
}

#[test]
fn without_a_loss_or_against_the_operators_wish_nothing_is_ended() {
    let sandbox = Sandbox::new();
    let quick = "sleep 1000 & echo $!; sleep 1000 & echo $!";
    let slow = format!("{quick}; read line < wait_for_this");
    nix::unistd::mkfifo(
        &sandbox.path().join("wait_for_this"),
        nix::sys::stat::Mode::S_IRWXU,
    )
    .expect("a FIFO");
    for (options, script, code) in [(&[][..], quick, 0), (&["--on-lost", "none"], &slow, 120)] {
        let (mut holder, offspring) = hold(&sandbox, options, script);
        if code == 120 {
            take(&sandbox);
            std::fs::write(sandbox.path().join("wait_for_this"), "on").expect("written");
        }
        assert_eq!(holder.wrapper.wait().code(), Some(code));
        for left in offspring {
            assert!(!left.is_gone());
            nix::sys::signal::kill(
                nix::unistd::Pid::from_raw(left.pid.cast_signed()),
                Signal::SIGKILL,
            )
            .expect("still there");
        }
    }
}
