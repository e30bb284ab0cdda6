//! Many locks: processes that take one of 10,000 at a time, beside the same draws over arrays of
//! bare words and of pthread mutexes.
//!
//! ```text
//! cargo run --release -p caslock-bench --bin many [-- ROUNDS]
//! ```

use std::time::Duration;

use caslock_bench::many::measure;
use caslock_bench::stats::machine;
use caslock_bench::{Failure, crew, rows};

fn main() -> Result<(), Failure> {
    crew::work_if_worker();
    let rounds = std::env::args().nth(1).map_or(Ok(20), |arg| arg.parse())?;
    println!("{}; {rounds} rounds\n", machine());
    rows::print(&measure(Duration::from_millis(200), rounds)?);
    Ok(())
}
