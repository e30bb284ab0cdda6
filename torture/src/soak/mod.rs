//! A nemesis for the lock table: workers on a few locks, and everything that may befall
//! them, for a given time from a seed.
//!
//! `nemesis` brings the faults, `worker` is what they befall, `oracle` is the witness that
//! caslock cannot influence, `history` what must be true afterwards. The whole campaign
//! runs in a PID namespace of its own, the arena, where it may: then no signal can reach a
//! stranger, process ids can be forced, and nothing is left when it ends.

mod board;
pub(crate) mod dice;
mod history;
mod nemesis;
mod oracle;
pub(crate) mod shared;
mod worker;

use std::ffi::CString;
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{env, fs};

use anyhow::Context;
use caslock::Reclaim;

use crate::sys::{self, Isolation, Program};

pub use worker::{Options as WorkerOptions, run as run_worker};

const BOARD: &str = "board";
const TABLE: &str = "soak.table";

fn log_file(seat: usize) -> String {
    format!("log.{seat}")
}

fn lock_name(lock: u32) -> String {
    format!("soak-{lock}")
}

/// The reclaim policy of the table under test.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// A living holder is never robbed: there must be no overlap at all
    OnDeath,
    /// A holder that is silent for a lease is evicted: only fenced updates are safe
    OnExpiry,
}

/// What kind of campaign, and for how long.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// For how long
    #[arg(long, default_value_t = 60)]
    pub seconds: u64,
    /// What the choices of workers and faults come from
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// The table's reclaim policy
    #[arg(long, value_enum)]
    pub policy: Policy,
    /// How many worker processes
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u32).range(2..=24))]
    pub workers: u32,
    /// How many locks
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=16))]
    pub locks: u32,
    /// The lease, and the measure of pauses even where there is none
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u64).range(100..))]
    pub lease_ms: u64,
    /// Where to put the table; its files are removed after a campaign that found nothing
    #[arg(long, default_value = "/var/tmp")]
    pub dir: PathBuf,
    /// Append the result, a line of JSON, to `soak.jsonl` in this directory
    /// [default: target/torture of the workspace]
    #[arg(long)]
    pub out: Option<PathBuf>,
    /// Inside the arena already
    #[arg(long, hide = true)]
    pub in_arena: bool,
}

impl Options {
    fn lease(&self) -> Duration {
        Duration::from_millis(self.lease_ms)
    }

    fn reclaim(&self) -> Reclaim {
        match self.policy {
            Policy::OnDeath => Reclaim::OnDeath,
            Policy::OnExpiry => Reclaim::OnExpiry {
                lease: self.lease(),
            },
        }
    }

    fn may_evict(&self) -> bool {
        self.policy == Policy::OnExpiry
    }
}

/// Runs a campaign. True: nothing was found.
///
/// # Errors
/// What keeps it from being run.
pub fn run(options: &Options) -> anyhow::Result<bool> {
    const ARENA: i32 = libc::CLONE_NEWPID | libc::CLONE_NEWNS;
    if options.in_arena {
        sys::mount_privately(c"proc", Path::new("/proc"), c"").context("mounting /proc")?;
        return nemesis::campaign(options, &mut sys::wire(), true);
    }
    if sys::may_unshare(ARENA) {
        return run_in_arena(ARENA);
    }
    let mut out = io::stdout();
    writeln!(
        out,
        "no right to namespaces: without forced process ids, namespaces and woken waiters' deaths"
    )?;
    nemesis::campaign(options, &mut out, false)
}

/// Runs this program again in namespaces of its own, and prints what it says.
fn run_in_arena(namespaces: i32) -> anyhow::Result<bool> {
    let (ours, theirs) = UnixStream::pair()?;
    let mut args = env::args_os()
        .map(|arg| arg.as_bytes().to_vec())
        .collect::<Vec<_>>();
    args.push(b"--in-arena".to_vec());
    let isolation = Isolation::namespaces(namespaces);
    let pid = program(&args)?.start(theirs.as_fd(), isolation)?;
    drop(theirs);
    for line in BufReader::new(ours).lines() {
        println!("{}", line?);
    }
    Ok(sys::exit_code(pid) == Some(0))
}

/// This program, with these arguments (the first is its name) and this environment.
fn program(args: &[Vec<u8>]) -> anyhow::Result<Program> {
    let exe = fs::read_link("/proc/self/exe")?;
    let args = args.iter().map(|arg| CString::new(arg.as_slice()));
    let env = env::vars_os().map(|(key, value)| [key.as_bytes(), value.as_bytes()].join(&b'='));
    Ok(Program::new(
        CString::new(exe.as_os_str().as_bytes())?,
        args.collect::<Result<_, _>>()?,
        env.map(CString::new).collect::<Result<_, _>>()?,
    ))
}
