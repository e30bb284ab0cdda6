//! From SIGKILL of the holder to the next grant: the locks that the kernel frees, for a
//! small holder, for one with many threads and for ones with much memory resident.
//!
//! ```text
//! cargo run --release -p caslock-bench --bin recovery [-- ROUNDS [HOLDER [PEER]]]
//! ```
//!
//! All holders and peers take part, unless one is named: `small`, `64 MiB`, `1 GiB`,
//! `2 GiB`, `64 threads`, `small, 5 ms`; `caslock`, `robust`, `sysv`, `flock`, `ofd`.

use caslock_bench::crash::{BURDENS, PEERS, measure};
use caslock_bench::stats::machine;
use caslock_bench::{Failure, crew, rows};

fn main() -> Result<(), Failure> {
    crew::work_if_worker();
    let args: Vec<String> = std::env::args().skip(1).collect();
    let rounds = args.first().map_or(Ok(15), |arg| arg.parse())?;
    let mut burdens = BURDENS.to_vec();
    if let Some(name) = args.get(1) {
        burdens.retain(|burden| burden.name == name);
    }
    let mut peers = PEERS.to_vec();
    if let Some(name) = args.get(2) {
        peers.retain(|peer| peer.key() == name);
    }
    if burdens.is_empty() || peers.is_empty() {
        return Err("no such holder or peer".into());
    }
    println!("{}; {rounds} rounds\n", machine());
    rows::print(&measure(&burdens, &peers, rounds)?);
    Ok(())
}
