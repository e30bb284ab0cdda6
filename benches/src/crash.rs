//! From SIGKILL of the holder to the next grant, by how much memory the holder has.
//!
//! The holder is another process. This one blocks on the lock while a second thread of it
//! kills the holder; measured is from just before kill(2) to the return of the blocked call.
//! A lock that ought to tell of the death and does not fails the run.

use std::hint::black_box;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use crate::crew::{Crew, Phase, Worker};
use crate::peers::{Name, Peer, Visitor};
use crate::rows::Row;
use crate::stats::{Sample, as_nanoseconds};
use crate::{Failure, memory_dir};

/// The workload's name, for a worker and in the CSV.
pub const WORKLOAD: &str = "crash";

/// The locks that the kernel frees.
pub const PEERS: [Name; 5] = [
    Name::Caslock,
    Name::Robust,
    Name::Sysv,
    Name::Flock,
    Name::Ofd,
];

/// What else the holder's process has than the lock.
#[derive(Clone, Copy, Debug)]
pub struct Burden {
    /// Its name on the command line, and in the CSV if it is not a size.
    pub name: &'static str,
    /// Resident memory.
    pub bytes: u64,
    /// Threads besides the one that holds the lock.
    pub threads: u32,
    /// For how long the other process has been asleep on the lock at the kill.
    waited: Duration,
}

impl Burden {
    const fn new(name: &'static str, bytes: u64, threads: u32) -> Self {
        Self {
            name,
            bytes,
            threads,
            waited: WAITED,
        }
    }

    const fn after(self, waited: Duration) -> Self {
        Self { waited, ..self }
    }

    /// The case of its rows. A size is a figure instead, so that rows can be plotted by it.
    const fn case(&self) -> &'static str {
        match self.threads {
            0 if self.waited.as_millis() == WAITED.as_millis() => "",
            _ => self.name,
        }
    }
}

/// A small holder that is killed before its waiter's processor has gone far to sleep.
pub const SOON: &str = "small, 5 ms";

/// A holder with many threads.
pub const THREADS: &str = "64 threads";

/// The holders that are killed.
pub const BURDENS: [Burden; 6] = [
    Burden::new("small", 0, 0),
    Burden::new("64 MiB", 64 << 20, 0),
    Burden::new("1 GiB", 1 << 30, 0),
    Burden::new("2 GiB", 2 << 30, 0),
    Burden::new(THREADS, 0, 64),
    Burden::new(SOON, 0, 0).after(Duration::from_millis(5)),
];

/// For how long mostly.
const WAITED: Duration = Duration::from_millis(20);

/// Kills these holders of these locks, so many times each; larger ones half as often.
///
/// # Errors
/// What a peer or the kernel answers.
pub fn measure(burdens: &[Burden], peers: &[Name], rounds: u32) -> Result<Vec<Row>, Failure> {
    let mut rows = Vec::new();
    for &burden in burdens {
        let rounds = match burden.bytes {
            ..=0x400_0000 => rounds,
            // Odd, so that the median is one of them.
            _ => rounds.div_ceil(2) | 1,
        };
        let mut taken = vec![Vec::new(); peers.len()];
        for round in 0..rounds.max(1) as usize {
            for turn in 0..peers.len() {
                let index = (round + turn) % peers.len();
                let dir = memory_dir()?;
                taken[index].push(peers[index].dispatch(Kill {
                    peer: peers[index],
                    dir: dir.path(),
                    burden,
                })?);
            }
        }
        let own = peers.iter().position(|peer| *peer == Name::Caslock);
        let own = own.map(|own| taken[own].clone());
        for (peer, taken) in peers.iter().zip(taken) {
            let row = |metric, unit, sample: &Sample| {
                Row::new(WORKLOAD, peer.key(), metric, unit, sample)
                    .case(burden.case())
                    .processes(2)
                    .size(burden.bytes)
            };
            let over_caslock = own.as_ref().map(|own| {
                let ratios = Sample::of_ratios(&taken, own);
                row("over caslock", "ratio", &ratios)
            });
            rows.push(row("kill to grant", "us", &Sample::new(taken)));
            rows.extend(over_caslock);
        }
    }
    Ok(rows)
}

struct Kill<'a> {
    peer: Name,
    dir: &'a Path,
    burden: Burden,
}

impl Visitor for Kill<'_> {
    type Output = Result<f64, Failure>;

    fn visit<P: Peer>(self) -> Self::Output {
        let peer = P::create(self.dir)?;
        let arguments = [
            self.peer.key().to_string(),
            self.burden.bytes.to_string(),
            self.burden.threads.to_string(),
        ];
        let mut holder = Crew::start(self.dir, 1, WORKLOAD, &arguments)?;
        let (killed, granted, died) = thread::scope(|scope| {
            let killer = scope.spawn(|| {
                thread::sleep(self.burden.waited);
                let before = Instant::now();
                holder.kill(0).map_err(|error| error.to_string())?;
                Ok::<_, String>(before)
            });
            let guard = peer.take();
            let granted = Instant::now();
            let died = P::died(&guard);
            (killer.join(), granted, died)
        });
        let killed = killed.map_err(|_| "the killing thread panicked")??;
        if granted < killed {
            return Err(format!("{} was granted while its holder lived", self.peer).into());
        }
        if died == Some(false) {
            return Err(format!("{} did not tell of its holder's death", self.peer).into());
        }
        Ok(as_nanoseconds(granted - killed) / 1e3)
    }
}

/// The holder.
///
/// # Errors
/// What a peer answers.
pub fn work(worker: &Worker) -> Result<(), Failure> {
    let key: String = worker.argument(0)?;
    let peer = <Name as clap::ValueEnum>::from_str(&key, false)?;
    peer.dispatch(Hold { worker })
}

struct Hold<'a> {
    worker: &'a Worker,
}

impl Visitor for Hold<'_> {
    type Output = Result<(), Failure>;

    fn visit<P: Peer>(self) -> Self::Output {
        // Every page written, so that it is resident and has to be torn down.
        let memory = black_box(vec![1_u8; self.worker.argument(1)?]);
        for _ in 0..self.worker.argument::<u32>(2)? {
            thread::spawn(|| {
                loop {
                    thread::park();
                }
            });
        }
        let peer = P::open(&self.worker.dir)?;
        let _guard = peer.take();
        self.worker.control.ready();
        while self.worker.control.phase() != Phase::Stop {
            thread::sleep(Duration::from_secs(1));
        }
        drop(black_box(memory));
        Ok(())
    }
}
