//! The campaign over every instruction, short: as many kills as a few seconds take.

use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use nix::sys::ptrace;
use nix::unistd::Pid;

/// For a campaign that hangs; a kill that hangs is its own watchdog's.
const WATCHDOG: Duration = Duration::from_secs(400);

/// Tracing needs no privilege, but sandboxes filter it.
fn may_trace() -> nix::Result<()> {
    let mut child = Command::new("sleep").arg("60").spawn().expect("a child");
    let pid = Pid::from_raw(child.id().cast_signed());
    let traced = ptrace::seize(pid, ptrace::Options::empty());
    child.kill().expect("a child to kill");
    child.wait().expect("a child to reap");
    traced
}

#[test]
fn whatever_instruction_a_process_dies_at_the_next_one_recovers() {
    let why_not = if cfg!(target_arch = "x86_64") {
        may_trace()
            .err()
            .map(|error| format!("no tracing: {error}"))
    } else {
        Some("its victims and their tracer know the registers of x86-64 only".into())
    };
    if let Some(why_not) = why_not {
        let test = "whatever_instruction_a_process_dies_at_the_next_one_recovers";
        let _ = writeln!(std::io::stderr(), "skipped: {test}: {why_not}");
        return;
    }
    let mut child = Command::new(env!("CARGO_BIN_EXE_torture"))
        .args(["instructions", "--seconds", "0.7", "--nested-seconds", "1"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the campaign starts");
    let said = child.stdout.take().expect("piped");
    let (done, ended) = mpsc::channel();
    thread::spawn(move || {
        // Nobody listens any more after the watchdog.
        let _ = done.send(std::io::read_to_string(said));
    });
    let Ok(said) = ended.recv_timeout(WATCHDOG) else {
        child.kill().expect("a child to kill");
        child.wait().expect("a child to reap");
        panic!("the campaign hangs");
    };
    let said = said.expect("what the campaign says");
    let status = child.wait().expect("a child to reap");
    assert!(status.success(), "{status}\n{said}");
    // A heading of two lines, then an operation a line: all of them were run. Another
    // table comes after an empty line.
    let operations = said.lines().take_while(|line| !line.is_empty());
    assert_eq!(operations.count(), 2 + 20, "{said}");
    // Past the capture of a passing test's output.
    std::io::Write::write_all(&mut std::io::stderr(), said.as_bytes()).expect("stderr");
}
