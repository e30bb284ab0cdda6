//! Taking and giving back a lock that nobody else wants.
//!
//! A round is one batch of each lock, in an order that moves on by one every round. Beside
//! the medians over all rounds there is the median of each round's own ratio to the bare
//! compare-and-swap, which the machine's moods move far less.

use std::fs;
use std::time::{Duration, Instant};

use crate::peers::{Name, Peer, Visitor};
use crate::rows::Row;
use crate::stats::{Sample, as_nanoseconds};
use crate::{Failure, memory_dir};

/// The workload's name in the CSV.
pub const WORKLOAD: &str = "uncontended";

/// Long against a clock read, short against a time slice.
const BATCH: Duration = Duration::from_micros(250);

/// Runs so many pairs and says how long they took.
type Batch = Box<dyn Fn(u32) -> Duration>;

struct Lane {
    peer: Name,
    batch: Batch,
    pairs: u32,
    nanoseconds: Vec<f64>,
}

impl Lane {
    fn new(peer: Name, dir: &std::path::Path) -> Result<Self, Failure> {
        let dir = dir.join(peer.key());
        fs::create_dir(&dir)?;
        let batch = peer.dispatch(Make { dir: &dir })?;
        // Warm, and as many pairs as fill a batch.
        batch(1000);
        let each = batch(1000).as_secs_f64() / 1000.0;
        Ok(Self {
            peer,
            batch,
            pairs: (BATCH.as_secs_f64() / each).clamp(10.0, 1e6) as u32,
            nanoseconds: Vec::new(),
        })
    }

    fn run(&mut self) {
        let took = (self.batch)(self.pairs);
        self.nanoseconds
            .push(as_nanoseconds(took) / f64::from(self.pairs));
    }
}

struct Make<'a> {
    dir: &'a std::path::Path,
}

impl Visitor for Make<'_> {
    type Output = Result<Batch, Failure>;

    fn visit<P: Peer + 'static>(self) -> Self::Output {
        let peer = P::create(self.dir)?;
        Ok(Box::new(move |pairs| {
            let begun = Instant::now();
            for _ in 0..pairs {
                drop(peer.take());
            }
            begun.elapsed()
        }))
    }
}

/// Measures these locks, the bare compare-and-swap among them in any case.
///
/// # Errors
/// What has nothing to do with a single peer; that one cannot be measured is a row.
pub fn measure(peers: &[Name], rounds: u32) -> Result<Vec<Row>, Failure> {
    let dir = memory_dir()?;
    let mut rows = Vec::new();
    let mut lanes = vec![Lane::new(Name::BareCas, dir.path())?];
    for &peer in peers.iter().filter(|peer| **peer != Name::BareCas) {
        match Lane::new(peer, dir.path()) {
            Ok(lane) => lanes.push(lane),
            Err(why) => {
                let why = why.to_string();
                rows.push(Row::missing(WORKLOAD, peer.key(), "pair", "ns", &why));
            }
        }
    }
    let count = lanes.len();
    for round in 0..rounds.max(1) as usize {
        for turn in 0..count {
            lanes[(round + turn) % count].run();
        }
    }
    let bare = lanes[0].nanoseconds.clone();
    for lane in lanes {
        let ratio = Sample::of_ratios(&lane.nanoseconds, &bare);
        let pair = Sample::new(lane.nanoseconds);
        let key = lane.peer.key();
        rows.push(Row::new(WORKLOAD, key, "pair", "ns", &pair));
        rows.push(Row::new(WORKLOAD, key, "over bare", "ratio", &ratio));
    }
    Ok(rows)
}
