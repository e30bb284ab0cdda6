//! Many locks: processes that take one of 10,000 at a time, beside the same draws over an
//! array of bare words that are compared and swapped, each on a cache line of its own and
//! found through a handle as large as a lock's.
//!
//! ```text
//! cargo run --release -p caslock-bench --bin many [-- [--csv] [ROUNDS]]
//! ```
//!
//! The names are known beforehand, so that a processor fetches the lines of the next ones
//! while it takes one, the further ahead the fewer instructions a pair has; or each is known
//! only in the critical section before (`in turn`), as where a lock protects a queue or a
//! tree, and every pair waits for its own line.
//!
//! The sections are empty. In a round all workers run each case for a moment, in an order
//! that moves on by one every round. A figure is the time of one pair on one core: the cores
//! that the workers shared, times the time, by the pairs of all of them. `one lock` is a
//! single worker with a lock of its own. From it and from the bare words comes what the many
//! may cost, `own + (bare many - bare one)`: the pair, and the cache misses of the draw.

use std::cell::Cell;
use std::env;
use std::error::Error;
use std::hint;
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use caslock::{Lock, LockTable};
use caslock_bench::draw::{Draws, Zipf};
use caslock_bench::memory_dir;
use caslock_bench::stats::{Sample, machine};
use memmap2::{MmapOptions, MmapRaw};

const NAMES: usize = 10_000;
const WORKERS: usize = 8;
const MOMENT: Duration = Duration::from_millis(100);
/// How many draws a worker goes through over and over.
const DRAWS: usize = 1 << 16;
/// How many pairs share one reading of the clock.
const BATCH: usize = 1024;
/// A cache line, in words.
const STRIDE: usize = 8;

type Failure = Box<dyn Error>;

/// What a worker is told to do, in one letter each.
const CASES: [(&str, &str, usize); 10] = [
    ("bare, one", "b1", 1),
    ("caslock, one", "c1", 1),
    ("bare, uniform", "bu", WORKERS),
    ("caslock, uniform", "cu", WORKERS),
    ("bare, zipf", "bz", WORKERS),
    ("caslock, zipf", "cz", WORKERS),
    ("bare, uniform, in turn", "bU", WORKERS),
    ("caslock, uniform, in turn", "cU", WORKERS),
    ("bare, zipf, in turn", "bZ", WORKERS),
    ("caslock, zipf, in turn", "cZ", WORKERS),
];

fn main() -> Result<(), Failure> {
    let args: Vec<String> = env::args().skip(1).collect();
    if let [flag, directory, number] = &args[..]
        && flag == "--worker"
    {
        return work(Path::new(directory), number.parse()?);
    }
    let (mut csv, mut rounds) = (false, 20);
    for arg in args {
        match arg.as_str() {
            "--csv" => csv = true,
            number => rounds = number.parse()?,
        }
    }
    measure(rounds, csv)
}

fn measure(rounds: usize, csv: bool) -> Result<(), Failure> {
    let dir = memory_dir()?;
    bare_words(&dir.path().join("bare"))?;
    LockTable::options()
        .slots(2 * NAMES as u32)
        .create(dir.path().join("app.table"))?;
    let mut workers = (0..WORKERS)
        .map(|number| Worker::start(dir.path(), number))
        .collect::<Result<Vec<_>, _>>()?;
    let cores = thread::available_parallelism()?.get();
    let mut figures = vec![Vec::new(); CASES.len()];
    // The first round is for warming up.
    for round in 0..=rounds.max(1) {
        for turn in 0..CASES.len() {
            let at = (round + turn) % CASES.len();
            let (_, case, count) = CASES[at];
            let used = cores.min(count) as f64;
            let pairs_a_second = run(&mut workers[..count], case)?;
            if round > 0 {
                figures[at].push(used * 1e9 / pairs_a_second);
            }
        }
    }
    print(&figures, csv);
    Ok(())
}

/// Has these workers run the case at the same time; the pairs a second of all of them.
fn run(workers: &mut [Worker], case: &str) -> Result<f64, Failure> {
    for worker in &mut *workers {
        writeln!(worker.to, "{case}")?;
        worker.to.flush()?;
    }
    workers.iter_mut().map(Worker::answer).sum()
}

fn print(figures: &[Vec<f64>], csv: bool) {
    if !csv {
        let rounds = figures[0].len();
        println!(
            "{}; {WORKERS} processes, {NAMES} names, {rounds} rounds\n",
            machine()
        );
        println!("{:<26} {:>8}  {:>15}  {:>8}", "", "ns", "10%..90%", "x due");
    }
    for (at, ((case, _, _), values)) in CASES.iter().zip(figures).enumerate() {
        let sample = Sample::new(values.clone());
        let (median, low, high) = (sample.median(), sample.quantile(0.1), sample.quantile(0.9));
        // Each round by itself: the pair of that round, and that round's misses.
        let ratios = (at > 1 && at % 2 == 1).then(|| {
            let of_round = |round: usize| {
                let misses = figures[at - 1][round] - figures[0][round];
                figures[at][round] / (figures[1][round] + misses)
            };
            Sample::new((0..values.len()).map(of_round).collect()).median()
        });
        let ratio = ratios.map_or_else(String::new, |ratio| format!("{ratio:.2}"));
        if csv {
            println!("many,\"{case}\",{median:.2},{low:.2},{high:.2},{ratio}");
        } else {
            let spread = format!("{low:.1}..{high:.1}");
            println!("{case:<26} {median:>8.1}  {spread:>15}  {ratio:>8}");
        }
    }
}

/// A worker, as the parent sees it. It ends when it is dropped.
struct Worker {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Worker {
    fn start(directory: &Path, number: usize) -> Result<Self, Failure> {
        let mut child = Command::new(env::current_exe()?)
            .arg("--worker")
            .arg(directory)
            .arg(number.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let (to, from) = (child.stdin.take(), child.stdout.take());
        let mut worker = Self {
            child,
            to: to.ok_or("no pipe to the worker")?,
            from: BufReader::new(from.ok_or("no pipe from the worker")?),
        };
        // It is ready.
        worker.answer()?;
        Ok(worker)
    }

    fn answer(&mut self) -> Result<f64, Failure> {
        let mut line = String::new();
        self.from.read_line(&mut line)?;
        Ok(line.trim().parse().map_err(|_| "a worker has failed")?)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Ours, and about to end anyhow.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A worker's own side: locks, words and draws, made before anything is timed.
fn work(directory: &Path, number: usize) -> Result<(), Failure> {
    let table = LockTable::open(directory.join("app.table"))?;
    let locks = (0..NAMES)
        .map(|name| table.lock(format!("shard/{name:05}")))
        .collect::<Result<Vec<_>, _>>()?;
    let words = bare_words(&directory.join("bare"))?;
    let own = table.lock(format!("worker/{number}"))?;
    let own_word = NAMES + number;
    let (mut draws, law) = (Draws::new(number as u64 + 1), Zipf::new(NAMES));
    // Popular names lie anywhere in the table, as they would.
    let scattered = |rank: usize| (rank * 7919 % NAMES) as u16;
    let uniform: Vec<u16> = (0..DRAWS).map(|_| draws.below(NAMES) as u16).collect();
    let zipf: Vec<u16> = (0..DRAWS)
        .map(|_| scattered(law.draw(&mut draws)))
        .collect();
    let take = |lock: &Lock| {
        let guard = lock.acquire().expect("it is waited for");
        u64::from(guard.token())
    };
    // A lock is found through its handle. The bare words get handles of the same size, so
    // that both touch as many cache lines.
    let handles: Vec<[usize; size_of::<Lock>() / 8]> = (0..NAMES)
        .map(|name| [name; size_of::<Lock>() / 8])
        .collect();
    let bare = |name: usize| pair(word(&words, handles[name][0]));
    println!("0");
    for line in io::stdin().lock().lines() {
        let figure = match line?.as_str() {
            "b1" => in_a_row(&uniform, |_| pair(word(&words, own_word))),
            "c1" => in_a_row(&uniform, |_| take(&own)),
            "bu" => in_a_row(&uniform, bare),
            "cu" => in_a_row(&uniform, |name| take(&locks[name])),
            "bz" => in_a_row(&zipf, bare),
            "cz" => in_a_row(&zipf, |name| take(&locks[name])),
            "bU" => in_turn(&uniform, bare),
            "cU" => in_turn(&uniform, |name| take(&locks[name])),
            "bZ" => in_turn(&zipf, bare),
            "cZ" => in_turn(&zipf, |name| take(&locks[name])),
            other => return Err(format!("no case {other}").into()),
        };
        println!("{figure}");
    }
    Ok(())
}

/// The names as they were drawn.
fn in_a_row(drawn: &[u16], pair: impl Fn(usize) -> u64) -> f64 {
    pairs_a_second(drawn, |name| {
        pair(usize::from(name));
    })
}

/// The same names, but each is known only once something was read under the lock before.
fn in_turn(drawn: &[u16], pair: impl Fn(usize) -> u64) -> f64 {
    let (nothing, read) = (hint::black_box(0), Cell::new(0));
    pairs_a_second(drawn, |name| {
        let name = u64::from(name) ^ read.get() & nothing;
        read.set(pair(name as usize));
    })
}

fn pairs_a_second(drawn: &[u16], pair: impl Fn(u16)) -> f64 {
    let (start, mut pairs) = (Instant::now(), 0_u64);
    for batch in drawn.chunks(BATCH).cycle() {
        for &name in batch {
            pair(name);
        }
        pairs += batch.len() as u64;
        let took = start.elapsed();
        if took >= MOMENT {
            return pairs as f64 / took.as_secs_f64();
        }
    }
    unreachable!("draws are gone through over and over")
}

/// The bare words, in a file that is made if it is not there.
fn bare_words(path: &Path) -> io::Result<MmapRaw> {
    let path: PathBuf = path.into();
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)?;
    file.set_len(((NAMES + WORKERS) * STRIDE * 8) as u64)?;
    MmapOptions::new().map_raw(&file)
}

fn word(words: &MmapRaw, at: usize) -> &AtomicU64 {
    assert!(at < NAMES + WORKERS);
    // SAFETY:
    // - in bounds, as just asserted, and aligned to a cache line from a page's start;
    // - mapped as long as `words` is borrowed;
    // - only ever touched atomically, by every process.
    unsafe { AtomicU64::from_ptr(words.as_mut_ptr().cast::<u64>().add(at * STRIDE)) }
}

/// 0 to 1 and back to 0. Whoever finds a 1 for long lets its holder run. Returns what the
/// word was.
fn pair(word: &AtomicU64) -> u64 {
    let mut tries = 0;
    let was = loop {
        match word.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed) {
            Ok(was) => break was,
            Err(_) => tries += 1,
        }
        if tries % 64 == 0 {
            thread::yield_now();
        } else {
            hint::spin_loop();
        }
    };
    let freed = word.compare_exchange(1, 0, Ordering::Release, Ordering::Relaxed);
    assert!(freed.is_ok(), "somebody freed a word that is ours");
    was
}
