//! Processes that contend for one lock, and the one that starts, watches and ends them.

use std::hint;
use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use caslock::LockTable;
use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::exit_code;
use crate::output::{in_one_line, say};
use crate::sys::{self, Change, SharedWords};
use crate::waits::{SIZES, Waits, size_of};

/// Of so many acquisitions one is timed: reading a clock takes as long as an acquisition.
const TIMED: u64 = 16;

/// How long to let them run before counting.
const WARM_UP: Duration = Duration::from_millis(100);

/// What each process is to do.
pub(crate) struct Task {
    pub(crate) table: PathBuf,
    pub(crate) lock: String,
    /// How long it holds the lock each time.
    pub(crate) section: Duration,
}

/// What came of it.
pub(crate) struct Measured {
    /// For how long it was measured.
    pub(crate) took: Duration,
    /// Pairs of an acquisition and a release, by process.
    pub(crate) pairs: Vec<u64>,
    pub(crate) waits: Waits,
    /// Of all that the holders counted up together, how much is missing.
    pub(crate) lost_updates: u64,
}

/// Why there is no result.
#[derive(Debug)]
pub(crate) enum Stopped {
    /// A signal asked this process to end.
    Signal(i32),
    /// A process of the crew ended early, with this exit code, and has said why.
    Worker(u8),
    Kernel(io::Error),
}

impl From<io::Error> for Stopped {
    fn from(error: io::Error) -> Self {
        Self::Kernel(error)
    }
}

impl From<Errno> for Stopped {
    fn from(error: Errno) -> Self {
        Self::Kernel(error.into())
    }
}

/// What the crew shares, each part on cache lines of its own.
struct Stage(SharedWords);

impl Stage {
    const LINE: usize = 16;
    const WORKERS: usize = 4 * Self::LINE;
    const WORKER: usize = 2 * Self::LINE + SIZES.next_multiple_of(Self::LINE);

    /// The phases, in their order.
    const ATTACHING: u64 = 0;
    const WARMING_UP: u64 = 1;
    const MEASURING: u64 = 2;
    const OVER: u64 = 3;

    fn new(workers: usize) -> io::Result<Self> {
        SharedWords::new(Self::WORKERS + workers * Self::WORKER).map(Self)
    }

    fn phase(&self) -> &AtomicU64 {
        &self.0[0]
    }

    /// How many have attached.
    fn ready(&self) -> &AtomicU64 {
        &self.0[Self::LINE]
    }

    /// Whether one has failed, which says so before it ends.
    fn failed(&self) -> &AtomicU64 {
        &self.0[2 * Self::LINE]
    }

    /// What the lock guards: counted up by a load and a store, which lose updates unless
    /// they have the lock.
    fn guarded(&self) -> &AtomicU64 {
        &self.0[3 * Self::LINE]
    }

    fn of_worker(&self, worker: usize) -> &[AtomicU64] {
        let begin = Self::WORKERS + worker * Self::WORKER;
        &self.0[begin..begin + Self::WORKER]
    }

    /// How many pairs it has had while it was measured.
    fn pairs(&self, worker: usize) -> &AtomicU64 {
        &self.of_worker(worker)[0]
    }

    /// How many pairs it has had in all.
    fn turns(&self, worker: usize) -> &AtomicU64 {
        &self.of_worker(worker)[1]
    }

    fn waits(&self, worker: usize) -> &[AtomicU64] {
        &self.of_worker(worker)[2 * Self::LINE..][..SIZES]
    }
}

/// The processes. Dropped, they are killed and reaped; and they die with this process.
pub(crate) struct Crew {
    stage: Stage,
    incoming: SignalFd,
    size: usize,
    /// Those not reaped yet.
    pids: Vec<i32>,
}

impl Crew {
    /// The signals that end this process, and the crew first; and the one that tells of the
    /// crew's own ends.
    fn watched() -> SigSet {
        [
            Signal::SIGINT,
            Signal::SIGTERM,
            Signal::SIGHUP,
            Signal::SIGQUIT,
            Signal::SIGCHLD,
        ]
        .into_iter()
        .collect()
    }

    /// Starts `size` processes at the task and returns when all have attached. This process
    /// must not have a second thread.
    pub(crate) fn start(size: usize, task: &Task) -> Result<Self, Stopped> {
        // The processes inherit it: a Ctrl-C at the terminal is this one's to deal with.
        Self::watched().thread_block()?;
        sys::default_sigchld()?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let mut crew = Self {
            stage: Stage::new(size)?,
            incoming: SignalFd::with_flags(&Self::watched(), flags)?,
            size,
            pids: Vec::with_capacity(size),
        };
        for worker in 0..size {
            let pid = sys::start_worker(|| run(&crew.stage, worker, task))?;
            crew.pids.push(pid);
        }
        let (all, tick) = (size as u64, Duration::from_millis(1));
        while crew.stage.ready().load(Ordering::Relaxed) < all {
            crew.watch_until(Instant::now() + tick)?;
        }
        Ok(crew)
    }

    /// Measures for so long, and shows how far it is about ten times a second.
    pub(crate) fn measure(
        mut self,
        seconds: Duration,
        mut progress: impl FnMut(Duration, u64),
    ) -> Result<Measured, Stopped> {
        let enter = |stage: &Stage, phase| stage.phase().store(phase, Ordering::Relaxed);
        enter(&self.stage, Stage::WARMING_UP);
        self.watch_until(Instant::now() + WARM_UP)?;
        enter(&self.stage, Stage::MEASURING);
        let begun = Instant::now();
        while begun.elapsed() < seconds {
            let tick = Instant::now() + Duration::from_millis(100);
            self.watch_until(tick.min(begun + seconds))?;
            progress(begun.elapsed(), self.pairs().iter().sum());
        }
        enter(&self.stage, Stage::OVER);
        let took = begun.elapsed();
        self.look()?;
        while !self.pids.is_empty() {
            self.sleep(Duration::from_secs(1))?;
            self.look()?;
        }
        let stage = &self.stage;
        let workers = 0..self.size;
        let turns: u64 = workers
            .clone()
            .map(|worker| stage.turns(worker).load(Ordering::Relaxed))
            .sum();
        Ok(Measured {
            took,
            pairs: self.pairs(),
            waits: Waits::together(workers.map(|worker| stage.waits(worker))),
            lost_updates: turns.abs_diff(stage.guarded().load(Ordering::Relaxed)),
        })
    }

    fn pairs(&self) -> Vec<u64> {
        (0..self.size)
            .map(|worker| self.stage.pairs(worker).load(Ordering::Relaxed))
            .collect()
    }

    fn watch_until(&mut self, deadline: Instant) -> Result<(), Stopped> {
        loop {
            self.look()?;
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            self.sleep(left)?;
        }
    }

    /// Sleeps until there is something to look at.
    fn sleep(&self, at_most: Duration) -> Result<(), Stopped> {
        // Rounded up: a poll that ends a little early would spin.
        let timeout = PollTimeout::try_from(at_most + Duration::from_millis(1));
        let mut signal = [PollFd::new(self.incoming.as_fd(), PollFlags::POLLIN)];
        match poll(&mut signal, timeout.unwrap_or(PollTimeout::MAX)) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Deals with what has happened: a signal, or the end of a process.
    fn look(&mut self) -> Result<(), Stopped> {
        let mut stopped = None;
        while let Some(info) = self.incoming.read_signal()? {
            if info.ssi_signo as i32 != libc::SIGCHLD {
                stopped = Some(Stopped::Signal(info.ssi_signo as i32));
            }
        }
        let mut still = Vec::with_capacity(self.pids.len());
        for &pid in &self.pids {
            match sys::child_change(pid, false)? {
                Change::Nothing | Change::Stopped(_) => still.push(pid),
                Change::Exited(0) if self.stage.phase().load(Ordering::Relaxed) == Stage::OVER => {}
                Change::Exited(code) => {
                    stopped.get_or_insert(Stopped::Worker(code));
                }
                Change::Killed(signal) => {
                    say(format_args!(
                        "signal {signal} ended process {pid} of the bench"
                    ));
                    stopped.get_or_insert(Stopped::Worker(125));
                }
            }
        }
        self.pids = still;
        stopped.map_or(Ok(()), Err)
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        for &pid in &self.pids {
            // They have not been reaped, so the numbers are theirs.
            let _ = sys::send_signal(pid, libc::SIGKILL, None);
        }
        for &pid in &self.pids {
            let _ = sys::child_change(pid, true);
        }
    }
}

/// A worker's life, to its exit code.
fn run(stage: &Stage, worker: usize, task: &Task) -> u8 {
    let Err(error) = work(stage, worker, task) else {
        return 0;
    };
    // What keeps one from working keeps all of them: one line is enough.
    if stage.failed().swap(1, Ordering::Relaxed) != 0 {
        // The first to end has all others killed: that is to be who has said it.
        loop {
            thread::park();
        }
    }
    say(format_args!("{}", in_one_line(&error)));
    let code: i32 = exit_code::of_error(&error).into();
    u8::try_from(code).unwrap_or(125)
}

fn work(stage: &Stage, worker: usize, task: &Task) -> anyhow::Result<()> {
    let table = LockTable::options().open_existing(&task.table)?;
    let lock = table.lock(&task.lock)?;
    let (pairs, waits) = (stage.pairs(worker), stage.waits(worker));
    let add = |to: &AtomicU64| to.store(to.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    stage.ready().fetch_add(1, Ordering::Relaxed);
    while stage.phase().load(Ordering::Relaxed) == Stage::ATTACHING {
        thread::sleep(Duration::from_micros(100));
    }
    for turn in 0.. {
        let phase = stage.phase().load(Ordering::Relaxed);
        if phase == Stage::OVER {
            stage.turns(worker).store(turn, Ordering::Relaxed);
            break;
        }
        let begun = (turn % TIMED == 0).then(Instant::now);
        let guard = lock.acquire()?;
        let waited = begun.map(|begun| begun.elapsed());
        // Stored after the section, so that any two that overlap lose an update.
        let before = stage.guarded().load(Ordering::Relaxed);
        spin(task.section);
        stage.guarded().store(before + 1, Ordering::Relaxed);
        guard.release()?;
        if phase == Stage::MEASURING {
            add(pairs);
            if let Some(waited) = waited {
                let nanos = u64::try_from(waited.as_nanos()).unwrap_or(u64::MAX);
                add(&waits[size_of(nanos)]);
            }
        }
    }
    Ok(())
}

fn spin(section: Duration) {
    if section.is_zero() {
        return;
    }
    let begun = Instant::now();
    while begun.elapsed() < section {
        hint::spin_loop();
    }
}
