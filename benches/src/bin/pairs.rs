//! Taking and giving back a lock that nobody else wants: caslock and its peers take turns,
//! so that the machine's moods fall on all of them alike.
//!
//! ```text
//! cargo run --release -p caslock-bench --bin pairs [-- ROUNDS]
//! ```
//!
//! A round is one batch of each, in an order that moves on by one every round. Printed are the
//! medians over all rounds, and the median of each round's own ratio to the bare pair.

use std::error::Error;
use std::hint::black_box;
use std::time::{Duration, Instant};

use caslock::LockTable;
use caslock_bench::memory_dir;
use caslock_bench::peers::{BareCas, Flock, Kind, PthreadMutex};
use caslock_bench::stats::{Sample, as_nanoseconds, machine};

/// Long against a clock read, short against a time slice.
const BATCH: Duration = Duration::from_micros(250);

/// Runs so many pairs and says how long they took.
type Batch<'a> = Box<dyn Fn(u32) -> Duration + 'a>;

fn batch<'a>(pair: impl Fn() + 'a) -> Batch<'a> {
    Box::new(move |pairs| {
        let start = Instant::now();
        for _ in 0..pairs {
            pair();
        }
        start.elapsed()
    })
}

struct Peer<'a> {
    name: &'static str,
    batch: Batch<'a>,
    pairs: u32,
    nanoseconds: Vec<f64>,
}

impl<'a> Peer<'a> {
    fn new(name: &'static str, pair: impl Fn() + 'a) -> Self {
        let batch = batch(pair);
        // Warm, and as many pairs as fill a batch.
        batch(1000);
        let each = batch(1000).as_secs_f64() / 1000.0;
        let pairs = (BATCH.as_secs_f64() / each).clamp(50.0, 1e6) as u32;
        Self {
            name,
            batch,
            pairs,
            nanoseconds: Vec::new(),
        }
    }

    fn run(&mut self) {
        let took = (self.batch)(self.pairs);
        self.nanoseconds
            .push(as_nanoseconds(took) / f64::from(self.pairs));
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let rounds: u32 = std::env::args()
        .nth(1)
        .map_or(Ok(1000), |arg| arg.parse())?;
    let dir = memory_dir()?;
    let at = |name: &str| dir.path().join(name);
    let bare = BareCas::open(&at("bare"))?;
    let plain = PthreadMutex::create(&at("plain"), Kind::Plain)?;
    let robust = PthreadMutex::create(&at("robust"), Kind::Robust)?;
    let flock = Flock::open(&at("flock"))?;
    let table = LockTable::open(at("app.table"))?;
    let lock = table.lock("uncontended")?;

    let mut peers = [
        Peer::new("bare CAS pair", || bare.pair()),
        Peer::new("caslock", || {
            drop(lock.acquire().expect("nobody else wants it"))
        }),
        Peer::new("pthread mutex", || {
            black_box(plain.lock());
            plain.unlock();
        }),
        Peer::new("pthread robust mutex", || {
            black_box(robust.lock());
            robust.unlock();
        }),
        Peer::new("flock", || {
            flock.lock();
            flock.unlock();
        }),
    ];
    for round in 0..rounds.max(1) as usize {
        for turn in 0..peers.len() {
            peers[(round + turn) % 5].run();
        }
    }
    print(&peers);
    Ok(())
}

fn print(peers: &[Peer<'_>]) {
    println!("{}; {} rounds\n", machine(), peers[0].nanoseconds.len());
    println!(
        "{:<22} {:>9}  {:>17}  {:>7}",
        "take and give back", "median", "10%..90%", "x bare"
    );
    for peer in peers {
        let ratios = peer
            .nanoseconds
            .iter()
            .zip(&peers[0].nanoseconds)
            .map(|(own, bare)| own / bare);
        let ratio = Sample::new(ratios.collect()).median();
        let sample = Sample::new(peer.nanoseconds.clone());
        let spread = format!("{:.1}..{:.1}", sample.quantile(0.1), sample.quantile(0.9));
        println!(
            "{:<22} {:>6.1} ns  {spread:>17}  {ratio:>7.2}",
            peer.name,
            sample.median()
        );
    }
}
