//! Taking and giving back a lock that nobody else wants: caslock and its peers take turns,
//! so that the machine's moods fall on all of them alike.
//!
//! ```text
//! cargo run --release -p caslock-bench --bin pairs [-- ROUNDS]
//! ```

use caslock_bench::peers::Name;
use caslock_bench::stats::machine;
use caslock_bench::{Failure, crew, instructions, pairs, rows};

fn main() -> Result<(), Failure> {
    crew::work_if_worker();
    let rounds = std::env::args()
        .nth(1)
        .map_or(Ok(1000), |arg| arg.parse())?;
    let peers = [
        Name::Caslock,
        Name::BareCas,
        Name::Pthread,
        Name::Robust,
        Name::Semaphore,
        Name::Flock,
    ];
    println!("{}; {rounds} rounds\n", machine());
    rows::print(&pairs::measure(&peers, rounds)?);
    println!();
    rows::print(&instructions::measure(&peers)?);
    Ok(())
}
