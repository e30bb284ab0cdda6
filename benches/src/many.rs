//! Many locks: several processes draw from ten thousand names, all alike or by Zipf's law.
//!
//! Beside caslock stands an array of bare words, each on a cache line of its own, drawn from
//! in the same way and found through a handle as large as a lock's: what it pays over a single
//! bare word is cache misses, which any lock must pay. A word that is taken is looked at again
//! with a backoff, since by Zipf's law one draw in ten is the first name. Two more arrays are
//! of pthread mutexes, plain and robust.
//!
//! The names are known beforehand, so that a processor fetches the lines of the next ones
//! while it takes one, the further ahead the fewer instructions a pair has. Or each is known
//! only with a word, of a line of its own, that the section before has counted on (`in turn`), as
//! where locks protect the nodes of a tree.
//!
//! What is due is an uncontended pair and those misses: in each round, the pair of a single
//! process that takes one lock over and over, and what the bare words' pair is longer than that
//! of one word.

use std::hint;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use caslock::{Lock, LockTable};
use crossbeam_utils::Backoff;

use crate::crew::{Crew, Phase, Worker};
use crate::draw::{Draws, Zipf};
use crate::peers::{Mutexes, Name, Page};
use crate::rows::Row;
use crate::stats::{Sample, as_nanoseconds};
use crate::{Failure, memory_dir};

/// The workload's name, for a worker and in the CSV.
pub const WORKLOAD: &str = "many";

const PROCESSES: u32 = 8;
const NAMES: usize = 10_000;
const DRAWS: usize = 1 << 16;
const SLOTS: u32 = 16_384;

/// How names are drawn.
pub const CASES: [&str; 4] = ["uniform", "zipf", "uniform, in turn", "zipf, in turn"];
/// One process, which takes the same lock over and over.
const ONE: &str = "one process, one lock";
const PEERS: [Name; 4] = [Name::Caslock, Name::BareCas, Name::Pthread, Name::Robust];
/// Their places among the peers.
const CASLOCK: usize = 0;
const BARE: usize = 1;

/// Measures nanoseconds a pair: of processor time, so that the number of cores cancels out.
///
/// # Errors
/// What caslock or the kernel answers.
pub fn measure(run: Duration, rounds: u32) -> Result<Vec<Row>, Failure> {
    let rounds = rounds.max(1);
    let cases: Vec<_> = [ONE].into_iter().chain(CASES).collect();
    let mut taken = vec![PEERS.map(|_| Vec::new()); cases.len()];
    for round in 0..rounds as usize {
        for (case, taken) in cases.iter().zip(&mut taken) {
            for turn in 0..PEERS.len() {
                let index = (round + turn) % PEERS.len();
                taken[index].push(measure_once(PEERS[index], case, run)?);
            }
        }
    }
    let mut rows = Vec::new();
    let of_one = &taken[0];
    for (case, taken) in cases.iter().zip(&taken) {
        let row = |peer: Name, metric, unit, values: &[f64]| {
            Row::new(
                WORKLOAD,
                peer.key(),
                metric,
                unit,
                &Sample::new(values.to_vec()),
            )
            .case(case)
            .processes(processes(case))
            .size(if *case == ONE { 1 } else { NAMES as u64 })
        };
        for (peer, taken) in PEERS.iter().zip(taken) {
            rows.push(row(*peer, "pair", "ns", taken));
        }
        if *case != ONE {
            let over_due: Vec<_> = (0..rounds as usize)
                .map(|round| {
                    let misses = (taken[BARE][round] - of_one[BARE][round]).max(0.0);
                    taken[CASLOCK][round] / (of_one[CASLOCK][round] + misses)
                })
                .collect();
            rows.push(row(Name::Caslock, "over due", "ratio", &over_due));
        }
    }
    Ok(rows)
}

fn processes(case: &str) -> u32 {
    if case == ONE { 1 } else { PROCESSES }
}

/// Nanoseconds a pair.
fn measure_once(peer: Name, case: &str, run: Duration) -> Result<f64, Failure> {
    let processes = processes(case);
    let cores = thread::available_parallelism()?
        .get()
        .min(processes as usize);
    let dir = memory_dir()?;
    // Made before the workers come, who would all be naming at once.
    let _made = Many::create(peer, dir.path())?;
    let arguments = [peer.key().to_string(), case.to_string()];
    let mut crew = Crew::start(dir.path(), processes, WORKLOAD, &arguments)?;
    crew.begin(Phase::WarmUp);
    thread::sleep(run / 5);
    let begun = crew.begin(Phase::Measure);
    thread::sleep(run);
    let took = crew.begin(Phase::Stop) - begun;
    let mut pairs = 0;
    for report in crew.finish()? {
        pairs += report.parse::<u64>()?;
    }
    Ok(as_nanoseconds(took) * cores as f64 / pairs as f64)
}

enum Many {
    Locks(Vec<Lock>),
    Words(Page, Vec<Handle>),
    Mutexes(Mutexes, Vec<Handle>),
}

/// Which word or mutex, in as many bytes as a lock's handle: its cache line is one to be paid
/// for, too.
#[repr(C)]
struct Handle {
    line: usize,
    _rest: [u8; size_of::<Lock>() - size_of::<usize>()],
}

impl Handle {
    fn new(name: usize) -> Self {
        Self {
            line: name,
            _rest: [0; size_of::<Lock>() - size_of::<usize>()],
        }
    }
}

impl Many {
    fn create(peer: Name, dir: &Path) -> Result<Self, Failure> {
        if let Name::Pthread | Name::Robust = peer {
            Mutexes::create(&dir.join("mutexes"), NAMES, peer == Name::Robust)?;
        }
        Self::open(peer, dir)
    }

    fn open(peer: Name, dir: &Path) -> Result<Self, Failure> {
        let handles = || (0..NAMES).map(Handle::new).collect();
        match peer {
            Name::Caslock => {}
            Name::Pthread | Name::Robust => {
                let mutexes = Mutexes::open(&dir.join("mutexes"), NAMES)?;
                return Ok(Self::Mutexes(mutexes, handles()));
            }
            _ => {
                let words = Page::open(&dir.join("words"), NAMES * Page::LINE)?;
                return Ok(Self::Words(words, handles()));
            }
        }
        let table = LockTable::options()
            .slots(SLOTS)
            .open(dir.join("app.table"))?;
        let locks: Result<_, _> = (0..NAMES)
            .map(|name| table.lock(format!("name-{name}")))
            .collect();
        Ok(Self::Locks(locks?))
    }
}

/// A worker's side.
///
/// # Errors
/// What caslock answers.
pub fn work(worker: &Worker) -> Result<(), Failure> {
    let key: String = worker.argument(0)?;
    let case: String = worker.argument(1)?;
    let peer = <Name as clap::ValueEnum>::from_str(&key, false)?;
    let draws = draws(&case, worker.index as u64);
    let protected = case
        .ends_with("in turn")
        .then(|| Page::open(&worker.dir.join("protected"), NAMES * Page::LINE))
        .transpose()?;
    let names = Names {
        draws: &draws,
        protected: protected.as_ref(),
    };
    let pairs = match Many::open(peer, &worker.dir)? {
        Many::Locks(locks) => names.take(worker, |name, section| {
            let _guard = locks[name].acquire().expect("granted");
            section.work()
        }),
        Many::Words(words, handles) => names.take(worker, |name, section| {
            pair(&words, handles[name].line * Page::LINE, section)
        }),
        Many::Mutexes(mutexes, handles) => names.take(worker, |name, section| {
            let _guard = mutexes.take(handles[name].line);
            section.work()
        }),
    };
    worker.report(&pairs.to_string())
}

/// The names that a worker takes, over and over.
struct Names<'a> {
    draws: &'a [u32],
    /// A word of each name that its lock protects, where the next name is known only with it.
    protected: Option<&'a Page>,
}

impl Names<'_> {
    /// Does pairs until it is told to stop, and says how many were measured. `pair` takes a name,
    /// and returns what its section has read.
    fn take(&self, worker: &Worker, pair: impl Fn(usize, Section<'_>) -> u64) -> u64 {
        worker.control.ready();
        let nothing = hint::black_box(0);
        let (mut measured, mut read) = (0, 0);
        for draw in self.draws.iter().cycle() {
            let name = (u64::from(*draw) ^ read & nothing) as usize;
            read = pair(
                name,
                Section(self.protected.map(|all| all.word(name * Page::LINE))),
            );
            match worker.control.phase() {
                Phase::Gather | Phase::WarmUp => {}
                Phase::Measure => measured += 1,
                Phase::Stop => break,
            }
        }
        measured
    }
}

/// What is done while a name is held.
struct Section<'a>(Option<&'a AtomicU64>);

impl Section<'_> {
    /// Counts on what the lock protects, and returns what that was.
    fn work(self) -> u64 {
        let Some(word) = self.0 else {
            return 0;
        };
        let read = word.load(Ordering::Relaxed);
        word.store(read + 1, Ordering::Relaxed);
        read
    }
}

/// Takes the word and gives it back, and returns what was read meanwhile.
#[inline]
fn pair(words: &Page, word: usize, section: Section<'_>) -> u64 {
    let word = words.word(word);
    let take = || word.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed);
    if take().is_err() {
        let backoff = Backoff::new();
        while take().is_err() {
            backoff.snooze();
        }
    }
    let read = section.work();
    let freed = word.compare_exchange(1, 0, Ordering::Release, Ordering::Relaxed);
    assert!(freed.is_ok(), "the word is not ours");
    read
}

/// A worker's draws, its own and the same in every run.
fn draws(case: &str, seed: u64) -> Vec<u32> {
    if case == ONE {
        return vec![0; DRAWS];
    }
    let (mut draws, law) = (Draws::new(seed + 1), Zipf::new(NAMES));
    let mut rank = || {
        if case.starts_with("zipf") {
            law.draw(&mut draws)
        } else {
            draws.below(NAMES)
        }
    };
    // Neighbours in rank are no neighbours in memory.
    (0..DRAWS).map(|_| (rank() * 7919 % NAMES) as u32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zipf_draws_the_first_name_about_one_time_in_ten() {
        let draws = draws("zipf", 0);
        let first = draws.iter().filter(|draw| **draw == 0).count();
        // 1 / H(10,000) is 0.102.
        assert!((5_000..9_000).contains(&first), "{first}");
    }

    #[test]
    fn uniform_draws_reach_nearly_every_name() {
        let mut draws = draws("uniform", 0);
        draws.sort_unstable();
        draws.dedup();
        assert!(draws.len() > NAMES * 99 / 100, "{}", draws.len());
    }
}
