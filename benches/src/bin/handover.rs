//! From a release to the return of a waiter that was asleep, on another processor and on the
//! same, for the locks whose waiters sleep.
//!
//! ```text
//! cargo run --release -p caslock-bench --bin handover [-- TURNS [PEER...]]
//! ```
//!
//! All peers take part, unless some are named: `caslock`, `pthread`, `robust`, `semaphore`,
//! `sysv`, `flock`, `ofd`, `named-lock`.

use caslock_bench::handover::{PEERS, measure};
use caslock_bench::stats::machine;
use caslock_bench::{Failure, crew, rows};

fn main() -> Result<(), Failure> {
    crew::work_if_worker();
    let args: Vec<String> = std::env::args().skip(1).collect();
    let turns = args.first().map_or(Ok(10), |arg| arg.parse())?;
    let mut peers = PEERS.to_vec();
    if args.len() > 1 {
        peers.retain(|peer| args[1..].iter().any(|name| name == peer.key()));
    }
    if peers.is_empty() {
        return Err("no such peer".into());
    }
    println!("{}; {turns} turns\n", machine());
    rows::print(&measure(&peers, turns)?);
    Ok(())
}
