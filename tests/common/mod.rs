//! The harness of the integration tests: scratch tables, the watchdog, and what the tests
//! read from `/proc`. Child processes are in `child`, the role that most of them play in
//! `puppet`, system calls in `sys`, ptrace in `trace`.

// Each test binary compiles the whole harness and uses its own part of it.
#![allow(dead_code, unused_imports)]

pub(crate) mod child;
pub(crate) mod puppet;
pub(crate) mod sys;
pub(crate) mod trace;

use std::fmt::Display;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub(crate) use child::{Boss, Child, dispatch};
pub(crate) use puppet::{Grant, Refusal, puppet};
pub(crate) use sys::Isolation;

use caslock::{LockTable, Options, Reclaim};

/// Ends the whole test run if a test hangs, with its name, its children first.
///
/// Dropped at the end of the test. It is not a speed limit: the limits are many times
/// what the tests take on a busy machine.
pub(crate) struct Watchdog {
    _done: Sender<()>,
}

pub(crate) fn watchdog(test: &'static str) -> Watchdog {
    watchdog_of(test, Duration::from_secs(180))
}

pub(crate) fn watchdog_of(test: &'static str, limit: Duration) -> Watchdog {
    let (done, ended) = mpsc::channel();
    thread::spawn(move || {
        if ended.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
            let what = "still runs; ending it and its children";
            // Past the capture of its output, which ends here as well.
            let _ = writeln!(io::stderr(), "watchdog: after {limit:?} {test} {what}");
            child::kill_all();
            std::process::abort();
        }
    });
    Watchdog { _done: done }
}

/// A directory of its own with the path of a table in it, gone at the end of the test.
pub(crate) struct Scratch {
    dir: tempfile::TempDir,
}

impl Scratch {
    /// With no table yet.
    pub(crate) fn empty() -> Self {
        let mut dir = tempfile::Builder::new();
        dir.prefix("caslock-test-");
        let shm = Path::new("/dev/shm");
        let dir = if shm.is_dir() {
            dir.tempdir_in(shm)
        } else {
            dir.tempdir()
        };
        Self {
            dir: dir.expect("a scratch directory"),
        }
    }

    /// With a table that nobody is attached to.
    pub(crate) fn with(options: Options) -> Self {
        let scratch = Self::empty();
        options.create(scratch.table()).expect("a new table");
        scratch
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn table(&self) -> PathBuf {
        self.file("t.table")
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Attaches this very process.
    pub(crate) fn open(&self) -> LockTable {
        LockTable::options()
            .open_existing(self.table())
            .expect("the table opens")
    }
}

/// A small table that never robs the living.
pub(crate) fn on_death() -> Options {
    small().reclaim(Reclaim::OnDeath)
}

/// A small table that evicts after a lease in milliseconds.
pub(crate) fn on_expiry(lease_ms: u64) -> Options {
    let lease = Duration::from_millis(lease_ms);
    small().reclaim(Reclaim::OnExpiry { lease })
}

fn small() -> Options {
    LockTable::options().slots(64).sessions(32)
}

/// Says on standard error why a test was not run. Such a test has shown nothing.
pub(crate) fn skip(test: &str, why: impl Display) {
    report(format_args!("skipped: {test}: {why}"));
}

/// Prints a figure, or what else is worth reading of a test that passed: past the
/// capture of its output.
pub(crate) fn report(line: impl Display) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// Comes back once `ready` says so; the test's watchdog bounds it.
pub(crate) fn wait_until(mut ready: impl FnMut() -> bool) {
    while !ready() {
        thread::sleep(Duration::from_millis(2));
    }
}

/// The variant's name out of an error's `Debug`: what the tests compare across a process
/// boundary.
pub(crate) fn variant(error: &impl std::fmt::Debug) -> String {
    let text = format!("{error:?}");
    let end = text
        .find(|c: char| !c.is_alphanumeric())
        .unwrap_or(text.len());
    text[..end].to_owned()
}

/// Random numbers for orders and pauses (xorshift64). The seed is printed, so that a
/// failing run can be looked into.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(test: &str) -> Self {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .expect("after 1970");
        let seed = u64::from(now.subsec_nanos()) << 32 | u64::from(std::process::id()) | 1;
        eprintln!("{test}: seed {seed}");
        Self(seed)
    }

    /// Again from a seed, or from a part of another's numbers.
    pub(crate) fn from_seed(seed: u64) -> Self {
        Self(seed | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number below `end`.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        let end = u64::try_from(end).expect("fits");
        usize::try_from(self.next() % end).expect("below a usize")
    }

    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}

/// A process's state letter (`R`, `S`, `T`, `Z`, ...) and nothing once it is reaped.
pub(crate) fn state(pid: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat[stat.rfind(')')? + 2..].chars().next()
}

/// The ids of a process's threads.
pub(crate) fn tasks(pid: u32) -> Vec<u32> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return Vec::new();
    };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.filter_map(|name| name.parse().ok()).collect()
}

/// How often the threads of a process have given up the processor to sleep.
pub(crate) fn sleeps(pid: u32) -> u64 {
    let of_task = |tid| {
        let status = fs::read_to_string(format!("/proc/{pid}/task/{tid}/status")).expect("status");
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        line.expect("a count of switches")
            .trim()
            .parse::<u64>()
            .expect("a number")
    };
    tasks(pid).into_iter().map(of_task).sum()
}

/// The processor time that a process's threads have used.
pub(crate) fn cpu_time(pid: u32) -> Duration {
    let of_task = |tid| {
        let path = format!("/proc/{pid}/task/{tid}/schedstat");
        let stat = fs::read_to_string(path).expect("schedstat");
        let nanos = stat
            .split_whitespace()
            .next()
            .expect("time on the processor");
        nanos.parse::<u64>().expect("a number")
    };
    Duration::from_nanos(tasks(pid).into_iter().map(of_task).sum())
}

/// The middle one of some figures.
pub(crate) fn median<T: Ord + Copy>(figures: &mut [T]) -> T {
    figures.sort_unstable();
    figures[figures.len() / 2]
}
