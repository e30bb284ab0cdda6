//! Every system call of every operation fails once, with each error that it may have.
//!
//! `victim` is the process that does the operation, `tracer` has its k-th system call fail,
//! all its threads counted together, for every k until the operation comes through without
//! a shot. Afterwards the victim must have answered, with an error or without, and have
//! nothing left; and a survivor takes every lock. In the `storm` every wait fails.

mod errnos;
mod storm;
mod tracer;
mod victim;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use caslock::{LockTable, Reclaim};

use tracer::{Hit, Run, Shot};
use victim::Account;

pub use victim::{Options as VictimOptions, run as run_victim};

/// A name whose lock nobody holds, and ones that a dead process and a living one hold.
const IDLE: &str = "idle";
const DEAD: &str = "dead";
const BUSY: &str = "busy";
/// A name that the table does not have.
const FRESH: &str = "fresh";

/// Where the first session's certificate is, and what the kernel leaves of it.
const CERTIFICATE: usize = 4096 + 64;
const OWNER_DIED: u32 = 0x4000_0000;

/// How long a survivor waits for a lock.
const PATIENCE: Duration = Duration::from_secs(20);

fn options() -> caslock::Options {
    LockTable::options()
        .slots(12)
        .sessions(4)
        .reclaim(Reclaim::OnDeath)
}

/// What a victim does.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Creates a table
    Create,
    /// Opens a table that it has to create
    OpenNew,
    /// Attaches, with a witness to share, and detaches
    Open,
    /// Attaches where every session died attached
    Sweep,
    /// Attaches to a table of another boot
    Reset,
    /// Resolves a name that is there
    Resolve,
    /// Resolves one that is not
    CreateName,
    /// Takes and releases a free lock
    Acquire,
    /// Waits for a lock that somebody holds
    AcquireContended,
    /// Releases a lock that somebody waits for
    ReleaseContended,
    /// Takes a lock from a dead process
    Reclaim,
    /// Looks at the table without a session
    Inspect,
    /// Takes a lock from its holder
    ForceRelease,
    /// Ends its session
    Detach,
    /// Shares a lock with another while each of its waits comes back at once
    Storm,
}

impl Operation {
    const ALL: [Self; 15] = [
        Self::Create,
        Self::OpenNew,
        Self::Open,
        Self::Sweep,
        Self::Reset,
        Self::Resolve,
        Self::CreateName,
        Self::Acquire,
        Self::AcquireContended,
        Self::ReleaseContended,
        Self::Reclaim,
        Self::Inspect,
        Self::ForceRelease,
        Self::Detach,
        Self::Storm,
    ];

    /// Whether it begins with an open table. Its keeper starts at its own pace then, and is
    /// no part of the operation; opening has all its calls fail.
    const fn has_session(self) -> bool {
        matches!(
            self,
            Self::Resolve
                | Self::CreateName
                | Self::Acquire
                | Self::AcquireContended
                | Self::ReleaseContended
                | Self::Reclaim
                | Self::Storm
        )
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::OpenNew => "open-new",
            Self::Open => "open",
            Self::Sweep => "sweep",
            Self::Reset => "reset",
            Self::Resolve => "resolve",
            Self::CreateName => "create-name",
            Self::Acquire => "acquire",
            Self::AcquireContended => "acquire-contended",
            Self::ReleaseContended => "release-contended",
            Self::Reclaim => "reclaim",
            Self::Inspect => "inspect",
            Self::ForceRelease => "force-release",
            Self::Detach => "detach",
            Self::Storm => "storm",
        }
    }
}

/// Which operations, and how thoroughly.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// Only this operation
    #[arg(long, value_enum)]
    pub only: Option<Operation>,
    /// One error a call, another at each
    #[arg(long)]
    pub quick: bool,
    /// Append the results, lines of JSON, to `syscalls.jsonl` in this directory
    /// [default: target/torture of the workspace]
    #[arg(long)]
    pub out: Option<PathBuf>,
}

/// What became of one operation's shots.
#[derive(Default)]
struct Tally {
    calls: u64,
    shots: u64,
    errors: u64,
    /// Shots that left the allocator or the runtime without memory: they end the process.
    out_of_memory: u64,
    failed: BTreeMap<&'static str, u64>,
    findings: Vec<String>,
}

/// Runs the campaign. True: nothing was found.
///
/// # Errors
/// What keeps it from being run.
pub fn run(options: &Options) -> anyhow::Result<bool> {
    let dir = tempfile::Builder::new()
        .prefix("caslock-syscalls-")
        .tempdir_in(if Path::new("/dev/shm").is_dir() {
            "/dev/shm"
        } else {
            "/tmp"
        })?;
    let templates = Templates::make(dir.path())?;
    let mut clean = true;
    for operation in Operation::ALL {
        if options.only.is_some_and(|only| only != operation) {
            continue;
        }
        let begun = Instant::now();
        let tally = match operation {
            Operation::Storm => storm_at(&templates, if options.quick { 2 } else { 20 })?,
            _ => shoot_at(operation, &templates, options.quick)?,
        };
        clean &= tally.findings.is_empty();
        let (name, seconds) = (operation.name(), begun.elapsed().as_secs_f64());
        println!(
            "{name}: {} calls, {} failed on purpose: {} errors, {} of no consequence, \
             {} out of memory; {} findings, {seconds:.1} s",
            tally.calls,
            tally.shots,
            tally.errors,
            tally.shots - tally.errors - tally.out_of_memory - tally.findings.len() as u64,
            tally.out_of_memory,
            tally.findings.len()
        );
        let row = serde_json::json!({
            "campaign": "syscalls",
            "operation": name,
            "calls": tally.calls,
            "shots": tally.shots,
            "errors": tally.errors,
            "out_of_memory": tally.out_of_memory,
            "failed": tally.failed,
            "findings": tally.findings,
            "seconds": seconds,
        });
        crate::results::append(options.out.as_deref(), "syscalls", &row)?;
    }
    Ok(clean)
}

/// Every call of the operation in turn, until one shot hits nothing.
fn shoot_at(operation: Operation, templates: &Templates, quick: bool) -> anyhow::Result<Tally> {
    let mut tally = Tally::default();
    for call in 1.. {
        // The quick way takes one error a call, and goes round among those it has.
        let mut variant = if quick { usize::try_from(call)? % 7 } else { 0 };
        loop {
            let shot = Shot { call, variant };
            let scene = Scene::set(operation, templates)?;
            let bystander = scene.bystander(operation);
            let run = tracer::run(operation, &scene.table, shot)?;
            let bystander = bystander.join().expect("a bystander does not panic");
            let found = match judge(&run, &scene)? {
                None => bystander
                    .err()
                    .map(|error| format!("a bystander: {error:#}")),
                found => found,
            };
            match run.hit {
                Hit::Nothing => {
                    ensure!(found.is_none(), "{operation:?}, nothing failing: {found:?}");
                    tally.calls = call - 1;
                    return Ok(tally);
                }
                // Fewer errors than the round has places: the first of them.
                Hit::Harmless(number)
                    if (1..=variant).contains(&errnos::count(number)) && quick =>
                {
                    variant %= errnos::count(number);
                    continue;
                }
                Hit::Harmless(_) => break,
                Hit::Failed(failing, errno) => tally.note(
                    &run,
                    failing.name,
                    found.map(|found| {
                        let name = failing.name;
                        format!("{operation:?}, call {call}, {name} failing with {errno}: {found}")
                    }),
                ),
            }
            if quick {
                break;
            }
            variant += 1;
        }
    }
    Ok(tally)
}

/// So many victims of which every wait fails.
fn storm_at(templates: &Templates, times: usize) -> anyhow::Result<Tally> {
    let mut tally = Tally::default();
    for variant in 0..times {
        let shot = Shot { call: 0, variant };
        let scene = Scene::set(Operation::Storm, templates)?;
        let contender = scene.bystander(Operation::Storm);
        let run = tracer::run(Operation::Storm, &scene.table, shot)?;
        let contender = contender.join().expect("a bystander does not panic");
        let found = match (judge(&run, &scene)?, account(&run).map(|done| done.error)) {
            (None, Ok(Some(error))) => Some(error),
            (None, Err(error)) => Some(format!("{error:#}")),
            (found, _) => found.or(contender.err().map(|error| format!("{error:#}"))),
        };
        ensure!(run.disturbed > 0, "nobody had to wait");
        tally.calls += run.disturbed;
        tally.shots += run.disturbed;
        if let Some(found) = found {
            println!("found: storm {variant}: {found}");
            tally.findings.push(found);
        }
    }
    Ok(tally)
}

impl Tally {
    fn note(&mut self, run: &Run, call: &'static str, found: Option<String>) {
        self.shots += 1;
        *self.failed.entry(call).or_default() += 1;
        if let Some(found) = found {
            println!("found: {found}");
            self.findings.push(found);
        } else if is_out_of_memory(run) {
            self.out_of_memory += 1;
        } else if account(run).is_ok_and(|account| account.error.is_some()) {
            self.errors += 1;
        }
    }
}

fn account(run: &Run) -> anyhow::Result<Account> {
    Ok(serde_json::from_str(run.stdout.trim())?)
}

/// Rust ends a process that gets no memory, and the C library and Rust's runtime one whose
/// new thread gets none: nothing that a library could do about it.
fn is_out_of_memory(run: &Run) -> bool {
    let names_memory = matches!(&run.hit, Hit::Failed(call, _)
        if matches!(call.name, "mmap" | "brk" | "mprotect"));
    let says_so = ["memory allocation of", "alternative stack", "guard page"];
    names_memory
        && libc::WIFSIGNALED(run.status)
        && says_so.iter().any(|text| run.stderr.contains(text))
}

/// What is wrong with how it went, if anything is.
fn judge(run: &Run, scene: &Scene) -> anyhow::Result<Option<String>> {
    if let Err(error) = scene.survive() {
        return Ok(Some(format!("a survivor: {error:#}")));
    }
    if is_out_of_memory(run) {
        return Ok(None);
    }
    if run.status != 0 {
        let (status, stderr) = (run.status, run.stderr.trim());
        return Ok(Some(format!("status {status:#x}: {stderr}")));
    }
    let account = account(run).context("the victim's account")?;
    let call = match &run.hit {
        Hit::Failed(call, _) => call.name,
        Hit::Nothing | Hit::Harmless(_) => "",
    };
    let leaks = [
        // Without an answer to "is this number still mine?", leaving it open is the safe side.
        account.leaked_descriptors > 0 && call != "fstat",
        account.leaked_threads > 0,
        // A mapping that the kernel will not unmap stays.
        account.leaked_mappings > 0 && call != "munmap",
        account.afterwards.is_some(),
        account.error.as_ref().is_some_and(String::is_empty),
    ];
    Ok(leaks.contains(&true).then(|| format!("{account:?}")))
}

/// The tables that operations begin with.
struct Templates {
    dir: PathBuf,
    lived_in: Vec<u8>,
    crowded: Vec<u8>,
    other_boot: Vec<u8>,
}

impl Templates {
    fn make(dir: &Path) -> anyhow::Result<Self> {
        let path = dir.join("template.table");
        let table = options().open(&path)?;
        let (dead, busy) = (table.lock(DEAD)?, table.lock(BUSY)?);
        table.lock(IDLE)?.acquire()?.release()?;
        busy.acquire()?.release()?;
        let guard = dead.acquire()?;
        // In a copy nobody has the holder's byte lock: it is dead there. The kernel would
        // have marked its certificate; intact, it would keep waiters from asking for a poll.
        let mut lived_in = fs::read(&path)?;
        lived_in[CERTIFICATE..CERTIFICATE + 4].copy_from_slice(&OWNER_DIED.to_ne_bytes());
        guard.release()?;
        let (mut crowded, mut other_boot) = (lived_in.clone(), lived_in.clone());
        for session in 0..4 {
            crowded[4096 + 256 * session] |= 1;
        }
        other_boot[112] ^= 1;
        Ok(Self {
            dir: dir.to_owned(),
            lived_in,
            crowded,
            other_boot,
        })
    }
}

/// A directory for one victim, with its table in it.
struct Scene {
    dir: tempfile::TempDir,
    table: PathBuf,
}

impl Scene {
    fn set(operation: Operation, templates: &Templates) -> anyhow::Result<Self> {
        let dir = tempfile::tempdir_in(&templates.dir)?;
        let table = dir.path().join("t.table");
        let bytes = match operation {
            Operation::Create | Operation::OpenNew => None,
            Operation::Sweep => Some(&templates.crowded),
            Operation::Reset => Some(&templates.other_boot),
            _ => Some(&templates.lived_in),
        };
        if let Some(bytes) = bytes {
            use std::io::Write;
            use std::os::unix::fs::OpenOptionsExt;
            let mut open = fs::File::options();
            open.write(true).create_new(true).mode(0o600);
            open.open(&table)?.write_all(bytes)?;
        }
        Ok(Self { dir, table })
    }

    /// Whoever holds the lock that the victim waits for, or waits for the one it holds.
    fn bystander(&self, operation: Operation) -> thread::JoinHandle<anyhow::Result<()>> {
        let path = self.table.clone();
        let guard = match operation {
            Operation::AcquireContended => Some(hold_a_while(&path)),
            _ => None,
        };
        guard.unwrap_or_else(|| {
            thread::spawn(move || match operation {
                Operation::ReleaseContended => wait_for_the_victim(&path),
                Operation::Storm => storm::contend(&options().open_existing(&path)?, &path),
                _ => Ok(()),
            })
        })
    }

    /// Somebody else comes along and finds everything in order.
    fn survive(&self) -> anyhow::Result<()> {
        let table = options().open(&self.table)?;
        for name in [IDLE, DEAD, BUSY, FRESH, "newer"] {
            let lock = table.lock(name)?;
            let guard = lock.acquire_timeout(PATIENCE)?;
            guard.release()?;
        }
        let snapshot = table.inspect()?;
        for slot in &snapshot.slots {
            ensure!(slot.state == caslock::SlotState::Free, "{slot:?}");
        }
        let files = fs::read_dir(self.dir.path())?.count();
        ensure!(files == 1, "{files} files where the table is");
        Ok(())
    }
}

/// Holds the lock before the victim begins, until it waits or has had the time to.
fn hold_a_while(path: &Path) -> thread::JoinHandle<anyhow::Result<()>> {
    let (path, (tell, told)) = (path.to_owned(), std::sync::mpsc::channel());
    let holder = thread::spawn(move || {
        let table = options().open_existing(&path)?;
        let lock = table.lock(BUSY)?;
        let guard = lock.acquire()?;
        let _ = tell.send(());
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_millis(500) {
            let snapshot = table.inspect()?;
            if snapshot.slot(BUSY).is_some_and(|slot| slot.waiters > 0) {
                // Long enough that it sleeps.
                thread::sleep(Duration::from_millis(5));
                break;
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(guard.release()?)
    });
    // Held, or the holder has failed and will say so.
    let _ = told.recv();
    holder
}

/// Waits for the lock once the victim has it; the victim releases it then.
fn wait_for_the_victim(path: &Path) -> anyhow::Result<()> {
    let table = options().open_existing(path)?;
    let lock = table.lock(BUSY)?;
    let begun = Instant::now();
    while lock.holder()?.is_none() {
        ensure!(
            begun.elapsed() < PATIENCE,
            "the victim does not take the lock"
        );
        thread::sleep(Duration::from_millis(1));
    }
    Ok(lock.acquire_timeout(PATIENCE)?.release()?)
}
