//! Hostile bytes and failing system calls, short.

use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

/// The campaigns bound every wait of their own: this is for one that hangs.
const WATCHDOG: Duration = Duration::from_secs(400);

fn campaign(args: &[&str]) -> String {
    let mut child = Command::new(env!("CARGO_BIN_EXE_torture"))
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the campaign starts");
    let said = child.stdout.take().expect("piped");
    let (done, ended) = mpsc::channel();
    thread::spawn(move || {
        // Nobody listens any more after the watchdog.
        let _ = done.send(std::io::read_to_string(said));
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
fn no_bytes_in_the_file_make_its_users_panic_die_or_hang() {
    let seed = std::process::id().to_string();
    let args = ["bytes", "--images", "3000", "--scribble-seconds", "3"];
    let said = campaign(&[&args[..], &["--seed", &seed]].concat());
    assert!(said.contains("3000 images"), "{said}");
    assert!(said.contains(" 0 findings"), "{said}");
}

#[test]
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
fn no_failing_system_call_leaves_anything_leaked_or_stuck() {
    let said = campaign(&["syscalls", "--quick"]);
    assert_eq!(said.matches("; 0 findings").count(), 15, "{said}");
}
