//! A worker: takes locks of the table under test, does a little work under each, and
//! writes down what happened. It trusts its guards, as a naive client does: what it would
//! have seen by looking, only the checking counter saves it from.

use std::env;
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use caslock::{AcquireError, Guard, Lock, LockTable};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, execv};

use super::board::{Board, Doing, Order, SEATS, Seat};
use super::dice::Dice;
use super::history::{Log, Record, Step};
use super::oracle::{Entered, Oracle};
use super::shared;
use super::{BOARD, TABLE, lock_name, log_file};
use crate::sys;

/// What the nemesis tells a worker on its command line.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// Where the board and the logs are
    #[arg(long)]
    pub memory: PathBuf,
    /// Where the table and the side files are
    #[arg(long)]
    pub dir: PathBuf,
    /// Which seat to take
    #[arg(long)]
    pub seat: usize,
    /// How many locks there are
    #[arg(long)]
    pub locks: u32,
    /// The campaign's seed
    #[arg(long)]
    pub seed: u64,
    /// Mount a /proc of this worker's own PID namespace
    #[arg(long)]
    pub own_proc: bool,
    /// Cannot send signals to the other workers
    #[arg(long)]
    pub contained: bool,
    /// Two leases may overlap: a living holder beside this one is no violation
    #[arg(long)]
    pub may_evict: bool,
    /// Take each lock once and end
    #[arg(long)]
    pub audit: bool,
}

struct Worker {
    options: Options,
    board: &'static Board,
    log: &'static Log,
    oracle: Oracle,
    dice: Dice,
    /// All there is of the session: without them it is detached.
    locks: Vec<Lock>,
}

/// Works until the board says stop.
///
/// # Errors
/// Whatever should not happen to a worker.
pub fn run(options: Options) -> anyhow::Result<()> {
    let board: &'static Board = shared::open(&options.memory.join(BOARD))?;
    let log = shared::open(&options.memory.join(log_file(options.seat)))?;
    let oracle = Oracle::open(&options.dir, options.locks)?;
    if options.own_proc {
        sys::mount_privately(c"proc", Path::new("/proc"), c"")?;
    }
    let incarnation = board.seats[options.seat]
        .incarnation
        .fetch_add(1, Ordering::SeqCst);
    let user = (options.seat as u64) << 32 | u64::from(incarnation);
    let mut worker = Worker {
        board,
        log,
        oracle,
        dice: Dice::new(options.seed, user),
        locks: attach(&options)?,
        options,
    };
    if worker.options.audit {
        return worker.audit();
    }
    while !board.is_stopping() {
        worker.turn()?;
    }
    worker.seat().show(Doing::Idle);
    Ok(())
}

fn open(options: &Options) -> anyhow::Result<LockTable> {
    Ok(LockTable::options().open_existing(options.dir.join(TABLE))?)
}

fn attach(options: &Options) -> anyhow::Result<Vec<Lock>> {
    let table = open(options)?;
    let locks = (0..options.locks).map(|lock| table.lock(lock_name(lock)));
    Ok(locks.collect::<Result<_, _>>()?)
}

fn count(what: &AtomicU32) {
    what.fetch_add(1, Ordering::SeqCst);
}

impl Worker {
    fn seat(&self) -> &'static Seat {
        &self.board.seats[self.options.seat]
    }

    /// Each lock once, after everybody else has ended: none is stuck, nothing is left.
    fn audit(&mut self) -> anyhow::Result<()> {
        for lock in 0..self.options.locks {
            let handle = self.locks[lock as usize].clone();
            let guard = handle
                .acquire_timeout(Duration::from_secs(20))
                .with_context(|| format!("lock {lock} is stuck"))?;
            self.section(lock, &handle, guard)?;
        }
        let snapshot = open(&self.options)?.inspect()?;
        for slot in &snapshot.slots {
            ensure!(slot.holder.is_none(), "still held: {slot:?}");
            ensure!(slot.waiters == 0, "still waited for: {slot:?}");
        }
        let names = snapshot.slots.len();
        ensure!(names == self.locks.len(), "{names} names");
        Ok(())
    }

    /// One attempt at one lock.
    fn turn(&mut self) -> anyhow::Result<()> {
        if self.log.is_full() {
            thread::sleep(Duration::from_millis(10));
            return Ok(());
        }
        if self.seat().take_order(&[Order::Unmap]) == Order::Unmap {
            shared::unmap_pages(&self.options.dir.join(TABLE))?;
            count(&self.board.unmaps);
        }
        if self.dice.below(500) == 0 {
            self.locks.clear();
            self.locks = attach(&self.options)?;
        }
        // The first lock gets half of all the attention.
        let lock = match self.dice.percent(50) {
            true => 0,
            false => u32::try_from(self.dice.below(self.options.locks.into()))?,
        };
        let handle = self.locks[lock as usize].clone();
        self.seat().show(Doing::Waiting(lock));
        let outcome = match self.dice.below(10) {
            0 => handle.try_acquire(),
            1 | 2 => handle.acquire_timeout(Duration::from_micros(self.dice.below(20_000))),
            _ => handle.acquire(),
        };
        match outcome {
            Ok(guard) => self.section(lock, &handle, guard),
            Err(AcquireError::Busy { .. } | AcquireError::TimedOut { .. }) => Ok(()),
            Err(error) => Err(error).context("an acquire that could only be refused"),
        }
    }

    fn section(&mut self, lock: u32, handle: &Lock, guard: Guard<'_>) -> anyhow::Result<()> {
        let record = self.log.reserve().context("no room in the log")?;
        let token = guard.token().0;
        record.enter(self.board, lock, token, &guard.previous());
        self.seat().show(Doing::Section(lock));
        let mut inside = self.enter(lock, token, record)?;
        let resource = &self.board.resources[lock as usize];
        let count = resource.read();
        let fenced = resource.fenced_read(token);
        self.work(lock);
        inside = self.obey(lock, handle, &guard, record, inside)?;
        record.reach(Step::Writes);
        resource.write(count + 1);
        record.reach(Step::Wrote);
        record.reach(Step::FencedWrites);
        match fenced.is_some_and(|count| resource.fenced_write(token, count + 1)) {
            true => record.reach(Step::FencedWrote),
            false => record.reach(Step::FencedOut),
        }
        if inside {
            self.oracle.leave(lock)?;
        }
        record.leave(self.board);
        self.seat().show(Doing::Idle);
        let outcome = guard.release();
        if self.seat().take_order(&[Order::KillWoken]) == Order::KillWoken {
            self.kill_waiter(lock);
        }
        record.reach(match outcome {
            Ok(()) => Step::Released,
            Err(_) => Step::Lost,
        });
        Ok(())
    }

    /// Asks the oracle. True: it has this section down as ours.
    fn enter(&self, lock: u32, token: u64, record: &Record) -> anyhow::Result<bool> {
        match self.oracle.enter(lock)? {
            Entered::Alone => return Ok(true),
            Entered::AfterRemnant => {
                count(&self.board.remnants);
                return Ok(true);
            }
            Entered::Beside(pid) => {
                record.reach(Step::Beside);
                count(&self.board.double_owners);
                if !self.options.may_evict {
                    self.board.violation(format_args!(
                        "lock {lock}, token {token}: process {pid} is in the section, too"
                    ));
                }
            }
        }
        Ok(false)
    }

    /// The critical section's work: mostly none, sometimes a little, rarely long.
    fn work(&mut self, lock: u32) {
        let dawdle = self.seat().take_order(&[Order::Dawdle]) == Order::Dawdle;
        if dawdle {
            self.seat().show(Doing::Dawdling(lock));
        }
        match self.dice.below(1000) {
            _ if dawdle => thread::sleep(Duration::from_millis(self.dice.within(10..40))),
            0..600 => {}
            600..990 => {
                let until = Instant::now() + Duration::from_micros(self.dice.below(50));
                while Instant::now() < until {
                    std::hint::spin_loop();
                }
            }
            990..998 => thread::sleep(Duration::from_micros(self.dice.below(2_000))),
            _ => thread::sleep(Duration::from_millis(self.dice.below(10))),
        }
    }

    /// Forks or becomes a new program, if the nemesis says so.
    fn obey(
        &mut self,
        lock: u32,
        handle: &Lock,
        guard: &Guard<'_>,
        record: &Record,
        inside: bool,
    ) -> anyhow::Result<bool> {
        let orders = [Order::Fork, Order::ForkAndStay, Order::Exec];
        let order = self.seat().take_order(&orders);
        // A /proc of our own would hide the arena's from the next program.
        if order == Order::None || order == Order::Exec && self.options.own_proc {
            return Ok(inside);
        }
        // Nobody may inherit an oracle's file; see there.
        self.oracle.close();
        if order == Order::Exec {
            count(&self.board.execs);
            bail!("exec: {}", exec_self());
        }
        count(&self.board.forks);
        if sys::fork().is_none() {
            self.be_the_child(handle, guard, order == Order::ForkAndStay);
        }
        self.oracle.reopen(self.options.locks)?;
        reap_children()?;
        Ok(inside && self.enter(lock, guard.token().0, record)?)
    }

    /// What a forked child may do with its parent's handles: nothing, safely.
    fn be_the_child(&self, handle: &Lock, guard: &Guard<'_>, stay: bool) -> ! {
        if !matches!(handle.try_acquire(), Err(AcquireError::Forked(_))) {
            self.board.violation("a forked child was granted a lock");
        }
        if guard.is_held() {
            self.board
                .violation("a forked child holds its parent's grant");
        }
        // SAFETY:
        // - a bitwise copy of the guard, in a process that never runs the original's drop:
        //   dropping it is the very thing that must do nothing here.
        drop(unsafe { std::ptr::read(guard) });
        if stay {
            thread::sleep(Duration::from_millis(200));
        }
        sys::leave(0)
    }

    /// Kills one that waits for the lock, which has just been released to it, perhaps.
    fn kill_waiter(&self, lock: u32) {
        if self.options.contained {
            return;
        }
        let others = (0..SEATS).filter(|&seat| seat != self.options.seat);
        for seat in others.map(|seat| &self.board.seats[seat]) {
            let pid = seat.pid.load(Ordering::SeqCst);
            if pid > 1 && seat.doing() == Doing::Waiting(lock) {
                // Every process of the arena is the campaign's own.
                if kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL).is_ok() {
                    count(&self.board.wake_kills);
                }
                return;
            }
        }
    }
}

/// Replaces this program by itself, with the same arguments: comes back only to fail.
fn exec_self() -> Errno {
    let args = env::args_os().map(|arg| CString::new(arg.as_bytes()).expect("no NUL"));
    let args = args.collect::<Vec<_>>();
    match execv(c"/proc/self/exe", &args) {
        Err(error) => error,
        Ok(never) => match never {},
    }
}

/// Reaps the forked children that have ended.
fn reap_children() -> anyhow::Result<()> {
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return Ok(()),
            Ok(WaitStatus::Exited(_, 0)) => {}
            Ok(other) => bail!("a forked child ended by {other:?}"),
            Err(error) => return Err(error.into()),
        }
    }
}
