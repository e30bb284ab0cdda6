//! caslock beside its peers: the locks, the workloads, and the figures made of what was
//! measured.
//!
//! Every workload starts its worker processes from the program that runs it, so each binary
//! begins with [`crew::work_if_worker`].

pub mod contend;
pub mod crash;
pub mod crew;
pub mod draw;
pub mod handover;
pub mod idle;
pub mod instructions;
pub mod many;
pub mod names;
pub mod pairs;
pub mod peers;
pub mod plots;
pub mod report;
pub mod rows;
pub mod run;
pub mod stats;
pub mod targets;
pub mod ticks;

use std::path::PathBuf;
use std::process::Command;
use std::{env, io};

/// Why a measurement failed, for a person to read.
pub type Failure = Box<dyn std::error::Error>;

/// A directory in memory: the table and its peers are measured, not a disk.
///
/// # Errors
/// What `tempfile` answers, for instance where there is no `/dev/shm`.
pub fn memory_dir() -> io::Result<tempfile::TempDir> {
    tempfile::Builder::new()
        .prefix("caslock-bench-")
        .tempdir_in("/dev/shm")
}

/// The command line's binary, built from the same source as this program and beside it.
///
/// # Errors
/// That it does not build, or that this program is not an optimised build.
pub fn command_line() -> Result<PathBuf, Failure> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let build = ["build", "--quiet", "--release", "-p", "caslock-cli"];
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml");
    let built = Command::new(cargo)
        .args(build)
        .args(["--manifest-path", manifest])
        .status()?;
    if !built.success() {
        return Err("the command line does not build".into());
    }
    let here = env::current_exe()?;
    let beside = here.parent().ok_or("no directory")?.join("caslock");
    match beside.exists() {
        true => Ok(beside),
        false => Err("the command line is not beside this program; run it with --release".into()),
    }
}
