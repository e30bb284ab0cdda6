//! Several processes at one lock: throughput, fairness and waits, caslock beside its peers.
//!
//! ```text
//! cargo run --release -p caslock-bench --bin contend -- \
//!     --peers caslock,robust --processes 2,8 --section-ns 0,1000 --seconds 0.5 --rounds 5
//! ```

use std::time::Duration;

use caslock_bench::contend::{Outcome, Plan, measure};
use caslock_bench::peers::Name;
use caslock_bench::stats::machine;
use caslock_bench::{Failure, crew};
use clap::Parser;

#[derive(Debug, Parser)]
#[command(about = "Several processes at one lock, caslock beside its peers")]
struct Options {
    /// The locks, in the order of their rows; all of them if not said.
    #[arg(long, value_enum, value_delimiter = ',')]
    peers: Vec<Name>,
    /// Numbers of processes.
    #[arg(long, value_delimiter = ',', default_value = "2,8,32")]
    processes: Vec<u32>,
    /// Lengths of the critical section, in nanoseconds.
    #[arg(long, value_delimiter = ',', default_value = "0,1000,10000")]
    section_ns: Vec<u64>,
    /// How long each process works between a release and the next acquisition, in nanoseconds.
    #[arg(long, default_value_t = 0)]
    outside_ns: u64,
    /// How long a run is measured.
    #[arg(long, default_value_t = 0.5)]
    seconds: f64,
    /// How many runs a cell has.
    #[arg(long, default_value_t = 5)]
    rounds: u32,
}

fn main() -> Result<(), Failure> {
    crew::work_if_worker();
    let options = Options::parse();
    let peers = match options.peers {
        peers if peers.is_empty() => Name::ALL.to_vec(),
        peers => peers,
    };
    let plan = Plan {
        peers,
        processes: options.processes,
        sections_ns: options.section_ns,
        outside_ns: options.outside_ns,
        run: Duration::try_from_secs_f64(options.seconds)?,
        rounds: options.rounds,
    };
    println!(
        "{}; {} rounds of {} s",
        machine(),
        options.rounds,
        options.seconds
    );
    let mut last = None;
    measure(&plan, |outcome| {
        if let Ok(cell) = outcome {
            let here = (cell.processes, cell.section_ns);
            if last.replace(here) != Some(here) {
                println!("\n{} processes, section {} ns", here.0, here.1);
                println!(
                    "{:<22} {:>9} {:>15} {:>10} {:>8} {:>8} {:>8} {:>5}",
                    "",
                    "M pairs/s",
                    "least..most",
                    "slow/fast",
                    "p50 ms",
                    "p99 ms",
                    "max ms",
                    "lost"
                );
            }
        }
        print(outcome);
    })?;
    Ok(())
}

fn print(outcome: &Outcome) {
    let cell = match outcome {
        Ok(cell) => cell,
        Err((peer, why)) => return println!("{:<22} {why}", peer.label()),
    };
    let spread = format!(
        "{:.3}..{:.3}",
        cell.throughput.quantile(0.0),
        cell.throughput.quantile(1.0)
    );
    let ms = |ns: u64| ns as f64 / 1e6;
    println!(
        "{:<22} {:>9.3} {spread:>15} {:>10.2} {:>8.4} {:>8.3} {:>8.2} {:>5}",
        cell.peer.label(),
        cell.throughput.median(),
        cell.fairness.median(),
        ms(cell.waits.value_at_quantile(0.5)),
        ms(cell.waits.value_at_quantile(0.99)),
        ms(cell.waits.max()),
        cell.lost_updates,
    );
}
