//! What starting costs: attaching to a table of 65,536 slots in a new process, and a whole
//! `caslock run NAME true` beside `flock FILE true`. Builds the command line first.
//!
//! ```text
//! cargo run --release -p caslock-bench --bin attach [-- ROUNDS]
//! ```

use caslock_bench::stats::machine;
use caslock_bench::{Failure, crew, names, rows, run};

fn main() -> Result<(), Failure> {
    crew::work_if_worker();
    let rounds = std::env::args().nth(1).map_or(Ok(200), |arg| arg.parse())?;
    println!("{}; {rounds} rounds\n", machine());
    let mut all = names::measure(65_536, rounds)?;
    all.extend(run::measure(rounds)?);
    rows::print(&all);
    Ok(())
}
