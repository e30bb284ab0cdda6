//! Everything, from one command: the tables, the CSV, the plots, and the targets.
//!
//! ```text
//! cargo run --release -p caslock-bench
//! ```
//!
//! On an idle machine; it takes about thirteen minutes, or two with `--quick`. The full run
//! writes into `benches/results/` and puts its tables into `benches/README.md`; a quick one,
//! or one of a few workloads, writes into `target/caslock-bench/` unless it is told to publish.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use caslock_bench::peers::Name;
use caslock_bench::rows::Row;
use caslock_bench::stats::machine;
use caslock_bench::targets::{Figures, table, targets};
use caslock_bench::{
    Failure, command_line, contend, crash, crew, handover, idle, instructions, many, names, pairs,
    plots, report, rows, run,
};
use clap::{Parser, ValueEnum};

#[derive(Debug, Parser)]
#[command(about = "Measures caslock beside its peers: tables, CSV, plots, targets")]
struct Options {
    /// Fewer rounds: about two minutes, figures to look at and not to quote.
    #[arg(long)]
    quick: bool,
    /// Only these workloads.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Workload>,
    /// Where the CSV, the tables and the plots go.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Write into benches/results and benches/README.md whatever was measured.
    #[arg(long)]
    publish: bool,
    /// Measure nothing: make tables and plots from the CSV that is there.
    #[arg(long)]
    render: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Workload {
    Uncontended,
    Instructions,
    Contend,
    Outside,
    Handover,
    Crash,
    Many,
    Names,
    Run,
    Idle,
}

/// How much of each.
struct Effort {
    pair_rounds: u32,
    contend_run: Duration,
    contend_rounds: u32,
    handover_turns: u32,
    crash_rounds: u32,
    many_run: Duration,
    many_rounds: u32,
    names_rounds: u32,
    run_rounds: u32,
    idle: Duration,
}

const FULL: Effort = Effort {
    pair_rounds: 1500,
    contend_run: Duration::from_millis(400),
    contend_rounds: 5,
    handover_turns: 101,
    crash_rounds: 11,
    many_run: Duration::from_millis(200),
    many_rounds: 25,
    names_rounds: 100,
    run_rounds: 300,
    idle: Duration::from_secs(20),
};

const QUICK: Effort = Effort {
    pair_rounds: 300,
    contend_run: Duration::from_millis(100),
    contend_rounds: 1,
    handover_turns: 2,
    crash_rounds: 3,
    many_run: Duration::from_millis(100),
    many_rounds: 5,
    names_rounds: 20,
    run_rounds: 60,
    idle: Duration::from_secs(5),
};

fn main() -> Result<(), Failure> {
    crew::work_if_worker();
    let options = Options::parse();
    let home = Path::new(env!("CARGO_MANIFEST_DIR"));
    let publish = options.publish || (!options.quick && options.only.is_empty());
    let publish = publish && options.out.is_none();
    let unpublished = home.join("../target/caslock-bench");
    let out = match &options.out {
        Some(out) => out.clone(),
        None if publish => home.join("results"),
        None => unpublished.clone(),
    };
    fs::create_dir_all(&unpublished)?;
    fs::create_dir_all(&out)?;
    let (csv, how_file) = (out.join("results.csv"), out.join("machine.txt"));
    if !options.render {
        if cfg!(debug_assertions) {
            return Err("measure an optimised build: cargo run --release".into());
        }
        let (rows, how) = measure(&options, &unpublished.join("unfinished.csv"))?;
        rows::write(&csv, &rows)?;
        fs::write(&how_file, how)?;
    }
    let rows = rows::read(&csv)?;
    let tables = report::markdown(&rows, &fs::read_to_string(&how_file)?);
    fs::write(out.join("tables.md"), &tables)?;
    plots::draw(Figures(&rows), &out)?;
    if publish {
        report::publish(&home.join("README.md"), &tables)?;
    }
    println!("{}", table(&targets(Figures(&rows))));
    eprintln!("written: {}", out.display());
    Ok(())
}

/// Everything that was asked for, and a sentence of how it was measured. What there is before
/// each workload is in `so_far`, should that one fail.
fn measure(options: &Options, so_far: &Path) -> Result<(Vec<Row>, String), Failure> {
    let (effort, kind) = match options.quick {
        true => (&QUICK, "quick run"),
        false => (&FULL, "full run"),
    };
    let is_asked_for =
        |workload: &Workload| options.only.is_empty() || options.only.contains(workload);
    if is_asked_for(&Workload::Run) {
        // Built again by then, which is nothing; should it fail, then not after minutes.
        command_line()?;
    }
    let begun = Instant::now();
    let mut rows = Vec::new();
    for workload in Workload::value_variants() {
        if is_asked_for(workload) {
            progress(begun, &format!("{workload:?}"));
            rows::write(so_far, &rows)?;
            let measured = measure_one(*workload, effort, begun)
                .map_err(|error| format!("{error}; measured before: {}", so_far.display()))?;
            rows.extend(measured);
        }
    }
    let took = begun.elapsed().as_secs();
    progress(begun, "measured");
    let how = format!(
        "{}; {kind} of {} min {} s; contended cells: medians of {} rounds of {} ms.",
        machine(),
        took / 60,
        took % 60,
        effort.contend_rounds,
        effort.contend_run.as_millis(),
    );
    Ok((rows, how))
}

fn measure_one(workload: Workload, effort: &Effort, begun: Instant) -> Result<Vec<Row>, Failure> {
    match workload {
        Workload::Uncontended => pairs::measure(Name::ALL, effort.pair_rounds),
        Workload::Instructions => instructions::measure(Name::ALL),
        Workload::Contend => contended(effort, &[0, 1_000, 10_000], 0, begun),
        Workload::Outside => contended(effort, &[1_000], contend::OUTSIDE_NS, begun),
        Workload::Handover => handover::measure(&handover::PEERS, effort.handover_turns),
        Workload::Crash => crash::measure(&crash::BURDENS, &crash::PEERS, effort.crash_rounds),
        Workload::Many => many::measure(effort.many_run, effort.many_rounds),
        Workload::Names => names::measure(names::SLOTS, effort.names_rounds),
        Workload::Run => run::measure(effort.run_rounds),
        Workload::Idle => idle::measure(effort.idle),
    }
}

fn contended(
    effort: &Effort,
    sections_ns: &[u64],
    outside_ns: u64,
    begun: Instant,
) -> Result<Vec<Row>, Failure> {
    let plan = contend::Plan {
        peers: Name::ALL.to_vec(),
        processes: vec![2, 8, 32],
        sections_ns: sections_ns.to_vec(),
        outside_ns,
        run: effort.contend_run,
        rounds: effort.contend_rounds,
    };
    let mut last = None;
    let outcomes = contend::measure(&plan, |outcome| {
        if let Ok(cell) = outcome {
            let here = (cell.processes, cell.section_ns);
            if last.replace(here) != Some(here) {
                progress(
                    begun,
                    &format!("  {} processes, {} ns: done", here.0, here.1),
                );
            }
        }
    })?;
    let rows = outcomes.iter().flat_map(|outcome| match outcome {
        Ok(cell) => cell.rows(),
        Err((peer, why)) => vec![Row::missing(
            contend::workload(outside_ns),
            peer.key(),
            "throughput",
            "M pairs/s",
            why,
        )],
    });
    Ok(rows.collect())
}

fn progress(begun: Instant, what: &str) {
    let seconds = begun.elapsed().as_secs();
    eprintln!("[{:02}:{:02}] {what}", seconds / 60, seconds % 60);
}
