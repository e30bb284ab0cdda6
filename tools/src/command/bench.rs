//! `caslock bench`: how fast processes pass a lock on, on this machine.

use std::fs;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{env, process};

use anyhow::Context;
use caslock::LockTable;
use nix::unistd::mkdtemp;
use serde::Serialize;

use crate::cli::Bench;
use crate::crew::{Crew, Measured, Stopped, Task};
use crate::exit_code::ExitCode;
use crate::output::{Align, Cell, Columns, Out, Paint, is_terminal_dumb, say};

pub(crate) fn bench(args: &Bench) -> anyhow::Result<ExitCode> {
    let scratch = match args.table {
        None => Some(Scratch::new(args)?),
        Some(_) => None,
    };
    let task = Task {
        table: match (&args.table, &scratch) {
            (Some(table), _) => table.clone(),
            (None, Some(scratch)) => scratch.table(),
            (None, None) => unreachable!("made for want of a table"),
        },
        lock: format!("caslock-bench-{}", process::id()),
        section: args.section,
    };
    let mut rows = Vec::new();
    for &processes in &args.processes {
        let mut progress = Progress::new(args, processes);
        let measured = Crew::start(processes as usize, &task)
            .and_then(|crew| crew.measure(args.seconds, |at, pairs| progress.show(at, pairs)));
        progress.clear();
        match measured {
            Ok(measured) => rows.push(Row::new(processes, args.section, &measured)),
            // 128 + n, as for any program that a signal ended.
            Err(Stopped::Signal(signal)) => return Ok(ExitCode::Command(128 + signal as u8)),
            Err(Stopped::Worker(code)) => return Ok(ExitCode::Command(code)),
            Err(Stopped::Kernel(error)) => {
                return Err(anyhow::Error::msg(error).context("starting the processes"));
            }
        }
    }
    print(&rows, args.json)?;
    if rows.iter().any(|row| row.lost_updates > 0) {
        say(format_args!("updates were lost: the lock did not exclude"));
        return Ok(ExitCode::Refused);
    }
    Ok(ExitCode::Success)
}

/// A table that is there for the measurement only.
struct Scratch(PathBuf);

impl Scratch {
    fn new(args: &Bench) -> anyhow::Result<Self> {
        let memory = Path::new("/dev/shm");
        let parent = match memory.is_dir() {
            true => memory.to_owned(),
            false => env::temp_dir(),
        };
        let directory = mkdtemp(&parent.join("caslock-bench.XXXXXX"))
            .with_context(|| format!("{}: making a directory", parent.display()))?;
        let scratch = Self(directory);
        let sessions = args.processes.iter().max().copied().unwrap_or(1);
        LockTable::options()
            .slots(1)
            .sessions(sessions)
            .create(scratch.table())?;
        Ok(scratch)
    }

    fn table(&self) -> PathBuf {
        self.0.join("bench.table")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            say(format_args!("{}: {error}", self.0.display()));
        }
    }
}

/// How far a measurement is, on stderr: one line that is written over and over on a
/// terminal, and a line a second elsewhere, if that was asked for.
struct Progress {
    what: String,
    of: Duration,
    to: ProgressTo,
}

enum ProgressTo {
    Nobody,
    Terminal,
    Lines { next: Duration },
}

impl Progress {
    fn new(args: &Bench, processes: u32) -> Self {
        let is_terminal = io::stderr().is_terminal() && !is_terminal_dumb();
        let to = match (is_terminal, args.progress) {
            (true, _) => ProgressTo::Terminal,
            (false, true) => ProgressTo::Lines {
                next: Duration::ZERO,
            },
            (false, false) => ProgressTo::Nobody,
        };
        Self {
            what: plural(processes, "process", "processes"),
            of: args.seconds,
            to,
        }
    }

    fn show(&mut self, at: Duration, pairs: u64) {
        let line = format!(
            "{}: {:.1} of {:.1} s, {} pairs/s",
            self.what,
            at.min(self.of).as_secs_f64(),
            self.of.as_secs_f64(),
            rate(pairs as f64 / at.as_secs_f64())
        );
        match &mut self.to {
            ProgressTo::Nobody => {}
            // Where it cannot be shown there is nobody to see it.
            ProgressTo::Terminal => {
                let _ = write!(io::stderr(), "\r{line}\x1b[K");
            }
            ProgressTo::Lines { next } if at >= *next => {
                *next = at + Duration::from_secs(1);
                say(format_args!("{line}"));
            }
            ProgressTo::Lines { .. } => {}
        }
    }

    fn clear(&self) {
        if matches!(self.to, ProgressTo::Terminal) {
            let _ = io::stderr().write_all(b"\r\x1b[K");
        }
    }
}

/// A measurement as `--json` prints it; the fields and their order are part of the
/// interface.
#[derive(Serialize)]
struct Row {
    processes: u32,
    section_us: f64,
    seconds: f64,
    pairs: u64,
    pairs_per_s: f64,
    slowest_over_fastest: Option<f64>,
    wait_median_us: Option<f64>,
    wait_p99_us: Option<f64>,
    wait_longest_us: Option<f64>,
    lost_updates: u64,
}

impl Row {
    fn new(processes: u32, section: Duration, measured: &Measured) -> Self {
        let seconds = measured.took.as_secs_f64();
        let pairs: u64 = measured.pairs.iter().sum();
        let slowest = measured.pairs.iter().min().copied().unwrap_or(0);
        let fastest = measured.pairs.iter().max().copied().unwrap_or(0);
        let wait_us = |share| measured.waits.at(share).map(|nanos| nanos as f64 / 1e3);
        Self {
            processes,
            section_us: section.as_secs_f64() * 1e6,
            seconds,
            pairs,
            pairs_per_s: pairs as f64 / seconds,
            slowest_over_fastest: (fastest > 0).then(|| slowest as f64 / fastest as f64),
            wait_median_us: wait_us(0.5),
            wait_p99_us: wait_us(0.99),
            wait_longest_us: wait_us(1.0),
            lost_updates: measured.lost_updates,
        }
    }
}

fn print(rows: &[Row], json: bool) -> anyhow::Result<()> {
    let mut out = Out::stdout();
    match json {
        true => out.json(&rows)?,
        false => columns(rows).write(&mut out)?,
    }
    out.finish()?;
    Ok(())
}

fn columns(rows: &[Row]) -> Columns<8> {
    let mut columns = Columns::new([
        ("PROCESSES", Align::Right),
        ("SECTION", Align::Right),
        ("PAIRS/S", Align::Right),
        ("SLOWEST/FASTEST", Align::Right),
        ("WAIT MEDIAN", Align::Right),
        ("WAIT P99", Align::Right),
        ("WAIT LONGEST", Align::Right),
        ("LOST UPDATES", Align::Right),
    ]);
    for row in rows {
        let wait = |us: Option<f64>| us.map_or_else(Cell::none, |us| Cell::new(time(us)));
        columns.push([
            Cell::new(row.processes),
            Cell::new(time(row.section_us)),
            Cell::new(rate(row.pairs_per_s)),
            row.slowest_over_fastest
                .map_or_else(Cell::none, |share| Cell::new(format_args!("{share:.2}"))),
            wait(row.wait_median_us),
            wait(row.wait_p99_us),
            wait(row.wait_longest_us),
            match row.lost_updates {
                0 => Cell::new(0),
                lost => Cell::painted(Paint::Red, lost),
            },
        ]);
    }
    columns
}

fn plural(count: u32, one: &str, many: &str) -> String {
    let word = if count == 1 { one } else { many };
    format!("{count} {word}")
}

/// Three digits or so, which is more than such a measurement is good for.
fn rate(per_second: f64) -> String {
    match per_second {
        rate if rate >= 1e6 => format!("{:.2} M", rate / 1e6),
        rate if rate >= 1e3 => format!("{:.1} k", rate / 1e3),
        rate => format!("{rate:.0}"),
    }
}

fn time(us: f64) -> String {
    match us {
        0.0 => "0".to_owned(),
        us if us < 1.0 => format!("{:.0} ns", us * 1e3),
        us if us < 1e3 => format!("{us:.1} us"),
        us => format!("{:.1} ms", us / 1e3),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_have_units_that_fit() {
        assert_eq!(
            [12.0, 1_234.0, 81_300_000.0].map(rate),
            ["12", "1.2 k", "81.30 M"]
        );
        assert_eq!(
            [0.0, 0.012, 10.0, 31_000.0].map(time),
            ["0", "12 ns", "10.0 us", "31.0 ms"]
        );
    }
}
