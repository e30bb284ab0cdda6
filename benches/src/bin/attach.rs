//! What starting costs: opening a table of 65,536 slots in a new process, and a whole
//! `caslock run NAME true` beside `flock FILE true`.
//!
//! ```text
//! cargo run --release -p caslock-bench --bin attach [-- ROUNDS]
//! ```
//!
//! Every figure is of a process of its own, since a second open in one process shares the
//! first one's session. The commands take turns, beside a bare `true`, which is what a
//! process costs here before it does anything. Builds the command line first.

use std::env;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use caslock::LockTable;
use caslock_bench::memory_dir;
use caslock_bench::stats::{Sample, as_nanoseconds, machine, nanoseconds};

const SLOTS: u32 = 65_536;

type Failure = Box<dyn Error>;

fn main() -> Result<(), Failure> {
    let args: Vec<String> = env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["--open", path] => open_once(Path::new(path)),
        [] => measure(200),
        [rounds] => measure(rounds.parse()?),
        _ => Err("usage: attach [ROUNDS]".into()),
    }
}

/// Prints how many nanoseconds the open took.
fn open_once(path: &Path) -> Result<(), Failure> {
    let start = Instant::now();
    let _table = LockTable::options().open_existing(path)?;
    let took = start.elapsed();
    println!("{}", took.as_nanos());
    Ok(())
}

fn measure(rounds: u32) -> Result<(), Failure> {
    let caslock = command_line()?;
    let dir = memory_dir()?;
    let table = dir.path().join("app.table");
    LockTable::options().slots(SLOTS).create(&table)?;
    println!("{}; {rounds} rounds\n", machine());
    println!("{:<40} {:>9}  {:>9}  {:>9}", "", "median", "10%", "90%");

    let mut opens = Vec::new();
    for _ in 0..rounds.max(1) {
        let output = Command::new(env::current_exe()?)
            .arg("--open")
            .arg(&table)
            .output()?;
        let text = String::from_utf8(output.stdout)?;
        opens.push(
            text.trim()
                .parse()
                .map_err(|_| "opening the table failed")?,
        );
    }
    row(&format!("open a table of {SLOTS} slots"), opens);

    let mut commands = [
        ("true", Command::new("true"), Vec::new()),
        ("flock FILE true", Command::new("flock"), Vec::new()),
        ("caslock run NAME true", Command::new(caslock), Vec::new()),
    ];
    commands[1].1.arg(dir.path().join("flock")).arg("true");
    commands[2]
        .1
        .env("CASLOCK_TABLE", &table)
        .args(["run", "nightly", "--", "true"]);
    for round in 0..rounds.max(1) as usize {
        for turn in 0..3 {
            let (name, command, took) = &mut commands[(round + turn) % 3];
            let start = Instant::now();
            let status = command
                .stdin(Stdio::null())
                .status()
                .map_err(|e| format!("{name}: {e}"))?;
            took.push(as_nanoseconds(start.elapsed()));
            if !status.success() {
                return Err(format!("{name}: {status}").into());
            }
        }
    }
    for (name, _, took) in commands {
        row(name, took);
    }
    Ok(())
}

fn row(name: &str, values: Vec<f64>) {
    let sample = Sample::new(values);
    println!(
        "{name:<40} {:>9}  {:>9}  {:>9}",
        nanoseconds(sample.median()),
        nanoseconds(sample.quantile(0.1)),
        nanoseconds(sample.quantile(0.9)),
    );
}

/// The command line's binary, built from the same source as this one and beside it.
fn command_line() -> Result<PathBuf, Failure> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let build = ["build", "--quiet", "--release", "-p", "caslock-cli"];
    if !Command::new(cargo).args(build).status()?.success() {
        return Err("the command line does not build".into());
    }
    let here = env::current_exe()?;
    let beside = here.parent().ok_or("no directory")?.join("caslock");
    match beside.exists() {
        true => Ok(beside),
        false => Err("the command line is not beside this program; run it with --release".into()),
    }
}
