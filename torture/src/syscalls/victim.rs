//! The process whose system calls fail: it does one operation between two marks, and then,
//! with nothing failing any more, counts what it has left.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use caslock::{Inspector, Liveness, LockTable};

use super::{BUSY, DEAD, FRESH, IDLE, Operation, options, storm};
use crate::sys;

/// Which operation, on which table.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    #[arg(long, value_enum)]
    operation: Operation,
    #[arg(long)]
    table: PathBuf,
}

/// What the operation came to, and what it left behind.
#[derive(Debug, serde::Deserialize, serde::Serialize)]
pub(super) struct Account {
    /// The error's message; none: it succeeded.
    pub(super) error: Option<String>,
    pub(super) leaked_descriptors: i64,
    pub(super) leaked_threads: i64,
    pub(super) leaked_mappings: i64,
    /// What a second try came to, with nothing failing: none is as it should be.
    pub(super) afterwards: Option<String>,
}

/// What a process has.
struct Census {
    descriptors: i64,
    threads: i64,
    mappings: i64,
}

impl Census {
    fn take(table: &Path) -> anyhow::Result<Self> {
        let count = |dir| anyhow::Ok(i64::try_from(fs::read_dir(dir)?.count())?);
        let maps = fs::read_to_string("/proc/self/maps")?;
        let table = table.display().to_string();
        let mapped = maps.lines().filter(|line| line.contains(&table));
        Ok(Self {
            descriptors: count("/proc/self/fd")?,
            threads: count("/proc/self/task")?,
            mappings: i64::try_from(mapped.count())?,
        })
    }
}

/// Waits for a line, does the operation, and gives account of it on standard output.
///
/// # Errors
/// What goes wrong where nothing fails on purpose.
pub fn run(victim: &Options) -> anyhow::Result<()> {
    let mut go = String::new();
    io::stdin().read_line(&mut go)?;
    let before = Census::take(&victim.table)?;
    let error = operate(victim.operation, &victim.table)?;
    let after = settled(&before, &victim.table)?;
    let afterwards = try_again(&victim.table);
    let account = Account {
        error,
        leaked_descriptors: after.descriptors - before.descriptors,
        leaked_threads: after.threads - before.threads,
        leaked_mappings: after.mappings - before.mappings,
        afterwards: afterwards.err().map(|error| format!("{error:#}")),
    };
    println!("{}", serde_json::to_string(&account)?);
    Ok(())
}

/// A thread that was joined may take a moment to go from the list.
fn settled(before: &Census, table: &Path) -> anyhow::Result<Census> {
    let begun = Instant::now();
    loop {
        let after = Census::take(table)?;
        if after.threads <= before.threads || begun.elapsed() > Duration::from_secs(5) {
            return Ok(after);
        }
        thread::sleep(Duration::from_millis(1));
    }
}

/// Between the marks; what comes to pass is the error's message, if there is one.
fn marked<T, E: std::fmt::Display>(
    operation: impl FnOnce() -> Result<T, E>,
) -> (Option<T>, Option<String>) {
    sys::mark();
    let outcome = operation();
    sys::mark();
    match outcome {
        Ok(value) => (Some(value), None),
        Err(error) => (None, Some(error.to_string())),
    }
}

/// For how long a victim waits at most: long enough for every holder to go.
const PATIENCE: Duration = Duration::from_secs(10);

fn operate(operation: Operation, path: &Path) -> anyhow::Result<Option<String>> {
    let open = || options().open_existing(path);
    let (_, error) = match operation {
        Operation::Create => marked(|| options().create(path)),
        Operation::OpenNew => marked(|| options().open(path).map(drop)),
        Operation::Open => {
            let sharing = || options().share_witness(true).open_existing(path);
            marked(|| sharing().map(drop))
        }
        Operation::Reset | Operation::Sweep => marked(|| open().map(drop)),
        Operation::Inspect => marked(|| {
            let inspector = Inspector::open(path).map_err(anyhow::Error::from)?;
            drop(inspector.snapshot()?);
            anyhow::Ok(())
        }),
        Operation::ForceRelease => {
            let inspector = Inspector::open(path)?;
            let slot = inspector.slot(DEAD)?.context("a slot")?;
            marked(|| inspector.force_release(DEAD, slot.token).map(drop))
        }
        Operation::Detach => {
            let table = open()?;
            marked(move || {
                drop(table);
                anyhow::Ok(())
            })
        }
        _ => return with_table(operation, &open()?).map(|(_, error)| error),
    };
    Ok(error)
}

fn with_table(
    operation: Operation,
    table: &LockTable,
) -> anyhow::Result<(Option<()>, Option<String>)> {
    Ok(match operation {
        Operation::Resolve => marked(|| table.lock(IDLE).map(drop)),
        Operation::CreateName => marked(|| table.lock(FRESH).map(drop)),
        Operation::ReleaseContended => {
            let lock = table.lock(BUSY)?;
            let guard = lock.acquire()?;
            let begun = Instant::now();
            while table
                .inspect()?
                .slot(BUSY)
                .is_none_or(|slot| slot.waiters == 0)
            {
                anyhow::ensure!(begun.elapsed() < PATIENCE, "nobody waits");
                thread::sleep(Duration::from_millis(1));
            }
            marked(move || guard.release())
        }
        Operation::Storm => marked(|| storm::contend(table, table.path())),
        Operation::Acquire => take(table, IDLE)?,
        Operation::AcquireContended => take(table, BUSY)?,
        _ => take(table, DEAD)?,
    })
}

fn take(table: &LockTable, name: &str) -> anyhow::Result<(Option<()>, Option<String>)> {
    let lock = table.lock(name)?;
    Ok(marked(|| {
        let guard = lock
            .acquire_timeout(PATIENCE)
            .map_err(anyhow::Error::from)?;
        anyhow::Ok(guard.release()?)
    }))
}

/// The same process uses the table once more, and has one session in it.
fn try_again(path: &Path) -> anyhow::Result<()> {
    let table = options().open(path)?;
    let lock = table.lock(IDLE)?;
    lock.acquire_timeout(PATIENCE)?.release()?;
    let sessions = table.inspect()?.sessions;
    let own = sessions
        .iter()
        .filter(|session| session.pid == std::process::id() && session.liveness == Liveness::Alive);
    anyhow::ensure!(own.count() == 1, "sessions: {sessions:?}");
    Ok(())
}
