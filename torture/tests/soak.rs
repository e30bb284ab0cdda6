//! The soak, for a minute: both policies at once, on one machine.

use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

/// The campaign ends by itself, and within it every wait is bounded: this is for a
/// nemesis that hangs.
const WATCHDOG: Duration = Duration::from_secs(240);

fn soak(policy: &str) -> String {
    let mut child = Command::new(env!("CARGO_BIN_EXE_torture"))
        .args(["soak", "--seconds", "60", "--policy", policy])
        .args(["--seed", &std::process::id().to_string()])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the campaign starts");
    let said = child.stdout.take().expect("piped");
    let (done, ended) = mpsc::channel();
    thread::spawn(move || {
        let said = std::io::read_to_string(said);
        // Nobody listens any more after the watchdog.
        let _ = done.send(said);
    });
    let said = match ended.recv_timeout(WATCHDOG) {
        Ok(said) => said.expect("what the campaign says"),
        Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
            child.kill().expect("a child to kill");
            child.wait().expect("a child to reap");
            panic!("the campaign hangs");
        }
    };
    let status = child.wait().expect("a child to reap");
    assert!(status.success(), "{status}\n{said}");
    // Past the capture of a passing test's output.
    std::io::Write::write_all(&mut std::io::stderr(), said.as_bytes()).expect("stderr");
    said
}

#[test]
fn no_two_holders_overlap_where_only_the_dead_are_robbed() {
    let said = soak("on-death");
    assert!(said.contains(" 0 overlaps, 0 of "), "{said}");
}

#[test]
fn no_fenced_update_is_lost_where_the_silent_are_evicted() {
    let said = soak("on-expiry");
    assert!(said.contains(" 0 of "), "{said}");
}
