//! Runs a victim under ptrace, all its threads, and has one of its system calls fail.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::Context;

use super::Operation;
use super::errnos::{Failing, failing_call};
use super::storm::ANSWERS;
use crate::sys;

/// The longest that a victim may take: it waits for ten seconds at most, twice.
const PATIENCE: Duration = Duration::from_secs(60);

/// Bits of a futex operation: private to one process, and what it is without its flags.
const FUTEX_PRIVATE: u64 = 128;

/// The call that is to fail, counted among all of the operation's, and how: the number of
/// an error among those that the call has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shot {
    pub(super) call: u64,
    pub(super) variant: usize,
}

/// What the shot hit.
pub(super) enum Hit {
    /// The operation had fewer calls.
    Nothing,
    /// A call that does not fail, or not in so many ways.
    Harmless(i64),
    /// This call returned this error.
    Failed(&'static Failing, i32),
}

/// How a victim ended.
pub(super) struct Run {
    pub(super) hit: Hit,
    /// Of a storm, how many waits came back at once.
    pub(super) disturbed: u64,
    /// As `waitpid` tells it.
    pub(super) status: i32,
    pub(super) stdout: String,
    pub(super) stderr: String,
}

/// Runs a victim to its end.
pub(super) fn run(operation: Operation, table: &Path, shot: Shot) -> anyhow::Result<Run> {
    let mut child = Command::new("/proc/self/exe")
        .arg("syscalls-victim")
        .args(["--operation", operation.name(), "--table"])
        .arg(table)
        .env("RUST_BACKTRACE", "0")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let pid = child.id();
    let options = libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_EXITKILL | libc::PTRACE_O_TRACECLONE;
    sys::ptrace(libc::PTRACE_SEIZE, pid, 0, options.cast_unsigned() as usize)?;
    sys::ptrace(libc::PTRACE_INTERRUPT, pid, 0, 0)?;
    child.stdin.take().context("piped")?.write_all(b"go\n")?;
    // The tracer sleeps in waitpid, so somebody else looks at the clock.
    let (done, ended) = mpsc::channel::<()>();
    let watchdog = thread::spawn(move || {
        if ended.recv_timeout(PATIENCE) == Err(mpsc::RecvTimeoutError::Timeout) {
            let pid = nix::unistd::Pid::from_raw(pid.cast_signed());
            // It cannot be anybody else: the tracer has not reaped it yet.
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        }
    });
    let mut tracer = Tracer {
        pid,
        table,
        shot,
        alone: operation.has_session(),
        between_marks: false,
        calls: 0,
        failing: HashMap::new(),
        hit: Hit::Nothing,
        storms: operation == Operation::Storm,
        waits: shot.variant,
        disturbed: 0,
    };
    let status = tracer.follow();
    drop(done);
    let _ = watchdog.join();
    let (mut stdout, mut stderr) = (String::new(), String::new());
    child
        .stdout
        .take()
        .context("piped")?
        .read_to_string(&mut stdout)?;
    child
        .stderr
        .take()
        .context("piped")?
        .read_to_string(&mut stderr)?;
    Ok(Run {
        hit: tracer.hit,
        disturbed: tracer.disturbed,
        status: status?,
        stdout,
        stderr,
    })
}

struct Tracer<'a> {
    pid: u32,
    table: &'a Path,
    shot: Shot,
    /// Only the calls of the thread that does the operation count.
    alone: bool,
    between_marks: bool,
    calls: u64,
    /// Threads inside a system call that is to return an error.
    failing: HashMap<u32, i32>,
    hit: Hit,
    /// Whether every wait is to fail; where it is in the row of answers, and how many did.
    storms: bool,
    waits: usize,
    disturbed: u64,
}

impl Tracer<'_> {
    /// Until the victim's end, with all its threads: its status.
    fn follow(&mut self) -> anyhow::Result<i32> {
        let mut end = None;
        loop {
            let (tid, status) = match sys::wait_for_any_stop() {
                Ok(stop) => stop,
                Err(error) if error.raw_os_error() == Some(libc::ECHILD) => break,
                Err(error) => return Err(error.into()),
            };
            if !libc::WIFSTOPPED(status) {
                if tid == self.pid {
                    end = Some(status);
                }
                continue;
            }
            let signal = libc::WSTOPSIG(status);
            let deliver = if signal == libc::SIGTRAP | 0x80 {
                // A thread that is being killed meanwhile is not there any more.
                still_there(self.at_syscall(tid))?;
                0
            } else if status >> 16 != 0 || signal == libc::SIGTRAP {
                0
            } else {
                signal
            };
            let signal = deliver.cast_unsigned() as usize;
            still_there(sys::ptrace(libc::PTRACE_SYSCALL, tid, 0, signal).map(drop))?;
        }
        end.context("the victim has no end")
    }

    fn at_syscall(&mut self, tid: u32) -> io::Result<()> {
        if let Some(errno) = self.failing.remove(&tid) {
            return sys::set_syscall_result(tid, -i64::from(errno));
        }
        let Some((number, args)) = sys::syscall_entry(tid)? else {
            return Ok(());
        };
        if number == libc::SYS_getppid && tid == self.pid {
            self.between_marks = !self.between_marks;
            return Ok(());
        }
        if !self.between_marks || (self.alone && tid != self.pid) {
            return Ok(());
        }
        if self.storms {
            return self.disturb(tid, number, &args);
        }
        self.calls += 1;
        if self.calls == self.shot.call {
            return self.shoot(tid, number, &args);
        }
        Ok(())
    }

    fn shoot(&mut self, tid: u32, number: i64, args: &[u64; 6]) -> io::Result<()> {
        self.hit = Hit::Harmless(number);
        let Some(call) = failing_call(number) else {
            return Ok(());
        };
        if number == libc::SYS_futex && !self.is_the_tables(args)? {
            return Ok(());
        }
        let Some(&errno) = call.errnos.get(self.shot.variant) else {
            return Ok(());
        };
        // Linux closes a descriptor even when it says that it failed.
        if number != libc::SYS_close {
            sys::skip_syscall(tid)?;
        }
        self.failing.insert(tid, errno);
        self.hit = Hit::Failed(call, errno);
        Ok(())
    }

    /// Answers a wait for a word of the table in its place.
    fn disturb(&mut self, tid: u32, number: i64, args: &[u64; 6]) -> io::Result<()> {
        /// A wake is what another relies on: without it that one would sleep for a poll.
        const FUTEX_WAKE: u64 = 1;
        const COMMAND: u64 = 127;
        let waits = match number {
            libc::SYS_futex_waitv => true,
            libc::SYS_futex => args[1] & COMMAND != FUTEX_WAKE && self.is_the_tables(args)?,
            _ => false,
        };
        if !waits {
            return Ok(());
        }
        let answer = ANSWERS[self.waits % ANSWERS.len()];
        self.waits += 1;
        if let Some(errno) = answer {
            self.disturbed += 1;
            sys::skip_syscall(tid)?;
            self.failing.insert(tid, errno);
        }
        Ok(())
    }

    /// Whether a futex is a word of the table: what the C library and Rust's own locks do
    /// with theirs is their business, and they end the process over an error.
    fn is_the_tables(&self, args: &[u64; 6]) -> io::Result<bool> {
        if args[1] & FUTEX_PRIVATE != 0 {
            return Ok(false);
        }
        let maps = fs::read_to_string(format!("/proc/{}/maps", self.pid))?;
        let table = self.table.display().to_string();
        Ok(maps
            .lines()
            .filter(|line| line.contains(&table))
            .any(|line| {
                let range = line
                    .split(' ')
                    .next()
                    .and_then(|range| range.split_once('-'));
                range.is_some_and(|(from, to)| {
                    let hex = |text| u64::from_str_radix(text, 16).unwrap_or(0);
                    (hex(from)..hex(to)).contains(&args[0])
                })
            }))
    }
}

fn still_there(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
        result => result,
    }
}
