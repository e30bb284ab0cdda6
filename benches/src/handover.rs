//! From a release to the return of a waiter that was asleep.
//!
//! Two processes: one holds the lock until the other must be asleep on it, notes the time and
//! releases; the other notes the time of its grant. Both read the same monotonic clock.
//!
//! Each is bound to a processor: the first that this process may use, and the last or the first
//! again. A waiter on another than the releaser's is woken out of that one's idleness, which in a
//! virtual machine takes several times as long as the rest. One on the same may have to wait for
//! what the releaser still does. Left to itself the scheduler keeps to either for a while, by
//! what ran before.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};

use crate::crew::{Crew, Phase, Worker};
use crate::peers::{Name, Peer, Visitor};
use crate::rows::Row;
use crate::stats::Sample;
use crate::{Failure, memory_dir};

/// The workload's name, for a worker and in the CSV.
pub const WORKLOAD: &str = "handover";

/// The locks whose waiters sleep.
pub const PEERS: [Name; 8] = [
    Name::Caslock,
    Name::Pthread,
    Name::Robust,
    Name::Semaphore,
    Name::Sysv,
    Name::Flock,
    Name::Ofd,
    Name::Named,
];

/// Where the waiter runs, as the rows say it.
pub const PLACES: [&str; 2] = ["another processor", "the same processor"];

/// Longer than any of the locks spins before it sleeps.
const SETTLE: Duration = Duration::from_millis(2);
/// Handovers in a turn.
const TURN: u64 = 20;

/// Measures so many turns of each of these locks, in each place.
///
/// # Errors
/// What a peer or the kernel answers.
pub fn measure(peers: &[Name], turns: u32) -> Result<Vec<Row>, Failure> {
    let ours = sched_getaffinity(None)?;
    let mut processors = (0..CpuSet::MAX_CPU).filter(|&at| ours.is_set(at));
    let releaser = processors.next().ok_or("no processor")?;
    let last = processors.next_back();
    let mut rows = Vec::new();
    for (place, waiter) in PLACES.into_iter().zip([last, Some(releaser)]) {
        let of_place = match waiter {
            Some(waiter) => measure_between([releaser, waiter], peers, turns)?,
            None => {
                let why = "there is only one processor";
                let missing =
                    |peer: &Name| Row::missing(WORKLOAD, peer.key(), "handover", "us", why);
                peers.iter().map(missing).collect()
            }
        };
        rows.extend(of_place.into_iter().map(|row| row.case(place)));
    }
    Ok(rows)
}

fn measure_between(
    processors: [usize; 2],
    peers: &[Name],
    turns: u32,
) -> Result<Vec<Row>, Failure> {
    let mut taken = vec![Vec::new(); peers.len()];
    // Of each turn.
    let mut medians = vec![Vec::new(); peers.len()];
    for round in 0..turns as usize {
        for turn in 0..peers.len() {
            let index = (round + turn) % peers.len();
            let dir = memory_dir()?;
            let peer = peers[index];
            let of_turn = peer.dispatch(Turn {
                peer,
                processors,
                dir: dir.path(),
            })?;
            medians[index].push(Sample::new(of_turn.clone()).median());
            taken[index].extend(of_turn);
        }
    }
    let pthread = peers.iter().position(|peer| *peer == Name::Pthread);
    let rows = peers.iter().enumerate().flat_map(|(index, peer)| {
        let row = |metric, unit, sample: &Sample| {
            Row::new(WORKLOAD, peer.key(), metric, unit, sample).processes(2)
        };
        let took = row("handover", "us", &Sample::new(taken[index].clone()));
        let ratio = pthread.map(|pthread| {
            let ratios = Sample::of_ratios(&medians[index], &medians[pthread]);
            row("over pthread", "ratio", &ratios)
        });
        [Some(took), ratio]
    });
    Ok(rows.flatten().collect())
}

struct Turn<'a> {
    peer: Name,
    /// The releaser's and the waiter's.
    processors: [usize; 2],
    dir: &'a Path,
}

impl Visitor for Turn<'_> {
    type Output = Result<Vec<f64>, Failure>;

    fn visit<P: Peer>(self) -> Self::Output {
        let _made = P::create(self.dir)?;
        let [releaser, waiter] = self.processors.map(|at| at.to_string());
        let arguments = [self.peer.key().to_string(), releaser, waiter];
        let mut crew = Crew::start(self.dir, 2, WORKLOAD, &arguments)?;
        crew.begin(Phase::Measure);
        let reports = crew.finish()?;
        let waits = reports[1].lines().map(|line| Ok(line.parse()?));
        waits.collect()
    }
}

/// A worker's side: the first releases, the second waits.
///
/// # Errors
/// What a peer answers.
pub fn work(worker: &Worker) -> Result<(), Failure> {
    let mut processor = CpuSet::new();
    processor.set(worker.argument(1 + worker.index)?);
    sched_setaffinity(None, &processor)?;
    let key: String = worker.argument(0)?;
    let peer = <Name as clap::ValueEnum>::from_str(&key, false)?;
    peer.dispatch(Work { worker })
}

struct Work<'a> {
    worker: &'a Worker,
}

impl Visitor for Work<'_> {
    type Output = Result<(), Failure>;

    fn visit<P: Peer>(self) -> Self::Output {
        let worker = self.worker;
        let peer = P::open(&worker.dir)?;
        let [held, wanted, released_at, done] = [0, 1, 2, 3].map(|word| worker.control.mail(word));
        worker.control.ready();
        let mut report = String::new();
        for turn in 1..=TURN {
            if worker.index == 0 {
                let guard = peer.take();
                held.store(turn, Ordering::Release);
                until(wanted, turn);
                thread::sleep(SETTLE);
                released_at.store(now_ns(), Ordering::Release);
                drop(guard);
                until(done, turn);
            } else {
                until(held, turn);
                wanted.store(turn, Ordering::Release);
                let guard = peer.take();
                let granted = now_ns();
                drop(guard);
                let waited = granted.saturating_sub(released_at.load(Ordering::Acquire));
                writeln!(report, "{}", waited as f64 / 1e3)?;
                done.store(turn, Ordering::Release);
            }
        }
        worker.report(&report)
    }
}

/// Sleeps until the word says so.
fn until(word: &AtomicU64, turn: u64) {
    while word.load(Ordering::Acquire) < turn {
        thread::sleep(Duration::from_micros(100));
    }
}

fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
