//! Whole processes: `caslock run NAME true` beside `flock FILE true`, and beside a bare
//! `true`, which is what a process costs here before it does anything. They take turns, and
//! beside the medians stands the median of each round's own ratio to flock: a process takes
//! as long as the machine's mood of the moment, which moves that far less.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;
use std::{env, fs};

use caslock::LockTable;

use crate::rows::Row;
use crate::stats::{Sample, as_nanoseconds};
use crate::{Failure, command_line, memory_dir};

/// The workload's name in the CSV.
pub const WORKLOAD: &str = "run";

/// Runs each command so many times, in turns.
///
/// # Errors
/// That the command line does not build, or that a command fails.
pub fn measure(rounds: u32) -> Result<Vec<Row>, Failure> {
    // Copied, as an installation does it, and flock's was: what a linker has just written lies
    // in the page cache in small pieces, and each start of it takes more page faults.
    let built = command_line()?;
    let caslock = built.with_file_name("caslock-installed");
    fs::copy(built, &caslock)?;
    let flock = program("flock")?;
    let dir = memory_dir()?;
    let table = dir.path().join("app.table");
    LockTable::options().create(&table)?;
    let mut commands = [
        ("true", Command::new(program("true")?), Vec::new()),
        ("flock", Command::new(flock), Vec::new()),
        ("caslock", Command::new(caslock), Vec::new()),
    ];
    commands[1].1.arg(dir.path().join("flock")).arg("true");
    commands[2]
        .1
        .env("CASLOCK_TABLE", &table)
        .args(["run", "nightly", "--", "true"]);
    for round in 0..rounds.max(1) as usize {
        for turn in 0..3 {
            let (name, command, taken) = &mut commands[(round + turn) % 3];
            let begun = Instant::now();
            let status = command
                .stdin(Stdio::null())
                .status()
                .map_err(|error| format!("{name}: {error}"))?;
            taken.push(as_nanoseconds(begun.elapsed()) / 1e3);
            if !status.success() {
                return Err(format!("{name}: {status}").into());
            }
        }
    }
    let flock = commands[1].2.clone();
    let rows = commands.into_iter().flat_map(|(name, _, taken)| {
        let ratio = Sample::of_ratios(&taken, &flock);
        [
            Row::new(WORKLOAD, name, "whole process", "us", &Sample::new(taken)),
            Row::new(WORKLOAD, name, "over flock", "ratio", &ratio),
        ]
    });
    Ok(rows.collect())
}

/// Where the shell would find a program: one that is called by its path starts sooner by the
/// directories that it is not in.
fn program(name: &str) -> Result<PathBuf, Failure> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .map(|directory| directory.join(name))
        .find(|program| program.is_file())
        .ok_or_else(|| format!("there is no {name}").into())
}
