//! The faults, and the campaign that they make.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use caslock::{Inspector, LockTable};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use rustix::fs::{Advice, fadvise};

use super::board::{Board, Doing, Order};
use super::dice::Dice;
use super::history::{Checker, Log, Tally};
use super::oracle::Oracle;
use super::{BOARD, Options, Policy, TABLE, log_file, program, shared};
use crate::results;
use crate::sys::{self, Isolation};

/// How long a round lasts: then everybody ends, and the histories are checked.
const ROUND: Duration = Duration::from_secs(5);
/// How long the workers of a round may take to end. Stopped, killed and robbed as they
/// were, it is the time within which no lock may be stuck.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs a campaign. True: nothing was found. `arena`: all processes there are are ours.
pub fn campaign(options: &Options, out: &mut impl Write, arena: bool) -> anyhow::Result<bool> {
    let memory = tempfile::Builder::new()
        .prefix("caslock-soak-")
        .tempdir_in("/dev/shm")?;
    let disk = tempfile::Builder::new()
        .prefix("caslock-soak-")
        .tempdir_in(&options.dir)?;
    let mut nemesis = Nemesis::new(options, memory.path(), disk.path(), arena)?;
    let begun = Instant::now();
    let length = Duration::from_secs(options.seconds);
    let mut wrong = Vec::new();
    while wrong.is_empty() && begun.elapsed() < length {
        let left = length.saturating_sub(begun.elapsed());
        wrong = nemesis.round(left.min(ROUND))?;
        if nemesis.rounds % 12 == 0 {
            writeln!(
                out,
                "after {} s: {}",
                begun.elapsed().as_secs(),
                nemesis.line()
            )?;
        }
    }
    for what in &wrong {
        writeln!(out, "wrong: {what}")?;
    }
    let clean = wrong.is_empty();
    if !clean {
        writeln!(
            out,
            "kept: {} and {}",
            memory.keep().display(),
            disk.keep().display()
        )?;
    }
    nemesis.report(out, begun.elapsed(), clean)?;
    Ok(clean)
}

/// Who sits where, as the nemesis knows it.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    pid: Option<u32>,
    /// Until when it is stopped, if it is.
    stopped: Option<Instant>,
}

struct Nemesis {
    options: Options,
    memory: PathBuf,
    dir: PathBuf,
    board: &'static Board,
    logs: Vec<&'static Log>,
    places: Vec<Place>,
    hogs: Vec<(u32, Instant)>,
    dice: Dice,
    checker: Checker,
    arena: bool,
    may_shift_clocks: bool,
    rounds: u64,
    faults: BTreeMap<&'static str, u64>,
    namespaces: u64,
    deaths: u64,
    pages_dropped: u64,
    wrong: Vec<String>,
}

/// Brings a fault. True: it did, and is to be counted.
type Fault = fn(&mut Nemesis) -> anyhow::Result<bool>;

/// What may befall the workers, with how often of a hundred.
const FAULTS: &[(u64, &str, Fault)] = &[
    (18, "killed", Nemesis::kill_any),
    (12, "killed in the section", Nemesis::kill_in_section),
    (8, "killed as woken", Nemesis::kill_woken),
    (4, "killed several at once", Nemesis::kill_several),
    (6, "killed while stopped", Nemesis::kill_stopped),
    (6, "killed, process id used anew", Nemesis::reuse_pid),
    (12, "stopped within the lease", Nemesis::stop_briefly),
    (14, "stopped past the lease", Nemesis::stop_long),
    (8, "forked in the section", Nemesis::fork_inside),
    (5, "exec in the section", Nemesis::exec_inside),
    (3, "processor hogs", Nemesis::hog),
    (4, "pages written and dropped", Nemesis::unmap),
];

impl Nemesis {
    fn new(options: &Options, memory: &Path, dir: &Path, arena: bool) -> anyhow::Result<Self> {
        let board: &'static Board = shared::create(&memory.join(BOARD))?;
        let seats = options.workers as usize;
        // One more log, for the auditor.
        let logs = (0..=seats).map(|seat| shared::create(&memory.join(log_file(seat))));
        let logs = logs.collect::<Result<_, _>>()?;
        Oracle::create_files(dir, options.locks)?;
        LockTable::options()
            .slots(options.locks + 8)
            .sessions(options.workers + 8)
            .reclaim(options.reclaim())
            .create(dir.join(TABLE))?;
        Ok(Self {
            options: options.clone(),
            memory: memory.to_owned(),
            dir: dir.to_owned(),
            board,
            logs,
            places: vec![Place::default(); seats],
            hogs: Vec::new(),
            dice: Dice::new(options.seed, u64::MAX),
            checker: Checker::new(options.may_evict(), board),
            arena,
            may_shift_clocks: arena && sys::may_unshare(libc::CLONE_NEWTIME),
            rounds: 0,
            faults: BTreeMap::new(),
            namespaces: 0,
            deaths: 0,
            pages_dropped: 0,
            wrong: Vec::new(),
        })
    }

    /// A round of faults, the end of everybody, and the check. Answers what is wrong.
    fn round(&mut self, length: Duration) -> anyhow::Result<Vec<String>> {
        let end = Instant::now() + length;
        self.deaths = 0;
        let execs = self.board.execs.load(Ordering::SeqCst);
        while Instant::now() < end {
            self.tend()?;
            self.befall()?;
            thread::sleep(Duration::from_micros(self.dice.below(25_000)));
        }
        self.end_all()?;
        if self.wrong.is_empty() {
            self.audit()?;
        }
        let execs = self.board.execs.load(Ordering::SeqCst) - execs;
        let deaths = self.deaths + u64::from(execs);
        let logs = self.logs.iter().copied();
        let found = self.checker.round(self.board, logs, deaths);
        self.wrong.extend(found);
        if self.board.violations.load(Ordering::SeqCst) > 0 {
            self.wrong.push("see the violations above".to_owned());
        }
        if self.wrong.is_empty() {
            self.logs.iter().for_each(|log| log.clear());
            self.drop_pages()?;
        }
        self.rounds += 1;
        Ok(std::mem::take(&mut self.wrong))
    }

    /// Reaps who has ended, wakes whose time has come, and fills the empty seats.
    fn tend(&mut self) -> anyhow::Result<()> {
        self.reap()?;
        let now = Instant::now();
        for seat in 0..self.places.len() {
            if self.places[seat].stopped.is_some_and(|until| until <= now) {
                self.signal(seat, Signal::SIGCONT);
                self.places[seat].stopped = None;
            }
            if self.places[seat].pid.is_none() {
                self.fill(seat, None)?;
            }
        }
        for (pid, _) in self.hogs.extract_if(.., |(_, until)| *until <= now) {
            // Reaped with the others.
            let _ = kill(nix_pid(pid), Signal::SIGKILL);
        }
        Ok(())
    }

    fn befall(&mut self) -> anyhow::Result<()> {
        let mut roll = self
            .dice
            .below(FAULTS.iter().map(|(weight, ..)| weight).sum());
        for &(weight, name, fault) in FAULTS {
            if roll < weight {
                if fault(self)? {
                    *self.faults.entry(name).or_default() += 1;
                }
                return Ok(());
            }
            roll -= weight;
        }
        Ok(())
    }

    /// Takes every child off the process table that has ended; the arena's orphans, too.
    fn reap(&mut self) -> anyhow::Result<()> {
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return Ok(()),
                Ok(status) => self.ended(status),
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn ended(&mut self, status: WaitStatus) {
        let pid = status.pid().map(|pid| pid.as_raw().cast_unsigned());
        let Some(seat) = self.places.iter().position(|place| place.pid == pid) else {
            return;
        };
        self.vacate(seat);
        match status {
            WaitStatus::Signaled(_, Signal::SIGKILL, _) => self.deaths += 1,
            WaitStatus::Exited(_, 0) => {}
            other => self.wrong.push(format!("worker {seat} ended by {other:?}")),
        }
    }

    fn vacate(&mut self, seat: usize) {
        self.places[seat] = Place::default();
        self.board.seats[seat].pid.store(0, Ordering::SeqCst);
        self.board.seats[seat].show(Doing::Idle);
        self.board.seats[seat].order(Order::None);
    }

    /// Starts a worker, in namespaces if the dice say so.
    fn fill(&mut self, seat: usize, pid: Option<u32>) -> anyhow::Result<()> {
        let mut how = Isolation {
            pid,
            ..Isolation::default()
        };
        let mut own_proc = false;
        let roll = self.dice.below(100);
        if pid.is_none() && self.arena {
            if roll < 20 {
                how.namespaces = libc::CLONE_NEWPID;
                own_proc = roll < 8;
                if own_proc {
                    how.namespaces |= libc::CLONE_NEWNS;
                }
            }
            if (15..28).contains(&roll) && self.may_shift_clocks {
                how.clock_shift_secs = Some(i64::try_from(self.dice.within(1..1_000_000))?);
            }
        }
        let contained = how.namespaces != 0;
        let mut flags = vec![];
        flags.extend(own_proc.then_some("--own-proc"));
        flags.extend((contained || !self.arena).then_some("--contained"));
        let pid = self.start(seat, &flags, how)?;
        self.namespaces += u64::from(contained || how.clock_shift_secs.is_some());
        self.places[seat] = Place {
            pid: Some(pid),
            stopped: None,
        };
        self.board.seats[seat].pid.store(pid, Ordering::SeqCst);
        Ok(())
    }

    fn start(&self, seat: usize, flags: &[&str], how: Isolation) -> anyhow::Result<u32> {
        let mut args = vec![b"torture".to_vec(), b"soak-worker".to_vec()];
        let path = |path: &Path| path.as_os_str().as_encoded_bytes().to_vec();
        args.extend([b"--memory".to_vec(), path(&self.memory)]);
        args.extend([b"--dir".to_vec(), path(&self.dir)]);
        for (flag, value) in [
            ("--seat", seat as u64),
            ("--locks", self.options.locks.into()),
            ("--seed", self.options.seed),
        ] {
            args.extend([flag.into(), value.to_string().into()]);
        }
        args.extend(self.options.may_evict().then(|| "--may-evict".into()));
        args.extend(flags.iter().map(|&flag| flag.into()));
        let null = File::open("/dev/null")?;
        let program = program(&args)?;
        match program.start(null.as_fd(), how) {
            // Somebody has got the process id meanwhile: one of a thread's, perhaps.
            Err(_) if how.pid.is_some() => Ok(program.start(null.as_fd(), Isolation::default())?),
            started => started.context("starting a worker"),
        }
    }

    fn signal(&self, seat: usize, signal: Signal) {
        if let Some(pid) = self.places[seat].pid {
            // Reaped by nobody but us, so it still is that worker, be it a zombie.
            let _ = kill(nix_pid(pid), signal);
        }
    }

    /// A seat that is taken by a worker which is not stopped; if so wanted, and if there is
    /// one, in its section.
    fn victim(&mut self, in_section: bool) -> Option<usize> {
        let running = |seat: &usize| {
            let place = &self.places[*seat];
            place.pid.is_some() && place.stopped.is_none()
        };
        let all = (0..self.places.len()).filter(running).collect::<Vec<_>>();
        let inside = |seat: &usize| {
            let doing = self.board.seats[*seat].doing();
            matches!(doing, Doing::Section(_) | Doing::Dawdling(_))
        };
        let some = all.iter().copied().filter(inside).collect::<Vec<_>>();
        let from = if in_section && !some.is_empty() {
            &some
        } else {
            &all
        };
        self.dice.choose(from).copied()
    }

    fn kill_any(&mut self) -> anyhow::Result<bool> {
        let victim = self.victim(false);
        victim.inspect(|&seat| self.signal(seat, Signal::SIGKILL));
        Ok(victim.is_some())
    }

    fn kill_in_section(&mut self) -> anyhow::Result<bool> {
        let victim = self.victim(true);
        victim.inspect(|&seat| self.signal(seat, Signal::SIGKILL));
        Ok(victim.is_some())
    }

    /// By another worker, which stands nearer: see the order.
    fn kill_woken(&mut self) -> anyhow::Result<bool> {
        self.order(Order::KillWoken)
    }

    fn kill_several(&mut self) -> anyhow::Result<bool> {
        for _ in 0..self.dice.within(2..5) {
            let in_section = self.dice.percent(50);
            self.victim(in_section)
                .inspect(|&seat| self.signal(seat, Signal::SIGKILL));
        }
        Ok(true)
    }

    fn kill_stopped(&mut self) -> anyhow::Result<bool> {
        let stopped = |seat: &usize| self.places[*seat].stopped.is_some();
        let stopped = (0..self.places.len()).filter(stopped).collect::<Vec<_>>();
        let victim = self.dice.choose(&stopped).copied();
        victim.inspect(|&seat| self.signal(seat, Signal::SIGKILL));
        Ok(victim.is_some())
    }

    /// Kills a worker and gives its process id to the next, at once.
    fn reuse_pid(&mut self) -> anyhow::Result<bool> {
        let Some(seat) = self.victim(true).filter(|_| self.arena) else {
            return Ok(false);
        };
        self.signal(seat, Signal::SIGKILL);
        let pid = self.places[seat].pid.context("a victim")?;
        let status = waitpid(nix_pid(pid), None)?;
        self.ended(status);
        self.fill(seat, Some(pid))?;
        Ok(self.places[seat].pid == Some(pid))
    }

    fn stop_briefly(&mut self) -> anyhow::Result<bool> {
        self.stop(5..70)
    }

    fn stop_long(&mut self) -> anyhow::Result<bool> {
        self.stop(120..350)
    }

    /// Stops a worker, for that many hundredths of a lease.
    fn stop(&mut self, hundredths: std::ops::Range<u64>) -> anyhow::Result<bool> {
        // Half of the pauses are for one between its reading of the counters and its writing.
        let seat = match self.dice.percent(50) {
            true => self.dawdler()?,
            false => self.victim(true),
        };
        let Some(seat) = seat else { return Ok(false) };
        let pause = self.options.lease() * u32::try_from(self.dice.within(hundredths))? / 100;
        self.signal(seat, Signal::SIGSTOP);
        self.places[seat].stopped = Some(Instant::now() + pause);
        Ok(true)
    }

    /// One that takes its time in its section, if it gets there soon.
    fn dawdler(&mut self) -> anyhow::Result<Option<usize>> {
        const PATIENCE: Duration = Duration::from_millis(30);
        let Some(seat) = self.victim(false) else {
            return Ok(None);
        };
        self.board.seats[seat].order(Order::Dawdle);
        let begun = Instant::now();
        while !matches!(self.board.seats[seat].doing(), Doing::Dawdling(_)) {
            if begun.elapsed() > PATIENCE {
                return Ok(None);
            }
            thread::sleep(Duration::from_micros(100));
        }
        self.reap()?;
        Ok(self.places[seat].pid.map(|_| seat))
    }

    fn fork_inside(&mut self) -> anyhow::Result<bool> {
        let stay = self.dice.percent(50);
        self.order(if stay {
            Order::ForkAndStay
        } else {
            Order::Fork
        })
    }

    fn exec_inside(&mut self) -> anyhow::Result<bool> {
        self.order(Order::Exec)
    }

    /// Leaves an order with a worker, which counts it once it is carried out.
    fn order(&mut self, order: Order) -> anyhow::Result<bool> {
        self.victim(false)
            .inspect(|&seat| self.board.seats[seat].order(order));
        Ok(false)
    }

    /// More that want the processor than there are processors, for a while.
    fn hog(&mut self) -> anyhow::Result<bool> {
        let until = Instant::now() + Duration::from_millis(self.dice.within(100..600));
        for _ in 0..4 {
            let null = File::open("/dev/null")?;
            let args = [b"torture".to_vec(), b"soak-hog".to_vec()];
            let pid = program(&args)?.start(null.as_fd(), Isolation::default())?;
            self.hogs.push((pid, until));
        }
        Ok(true)
    }

    /// The table's pages out of everybody's page tables and, as far as nobody has touched
    /// them again, out of memory.
    fn unmap(&mut self) -> anyhow::Result<bool> {
        for seat in 0..self.places.len() {
            self.board.seats[seat].order(Order::Unmap);
        }
        thread::sleep(Duration::from_millis(1));
        self.drop_pages()?;
        Ok(true)
    }

    /// Writes the table to the disk and drops it from the page cache.
    fn drop_pages(&mut self) -> anyhow::Result<()> {
        let path = self.dir.join(TABLE);
        let file = File::options().read(true).write(true).open(&path)?;
        file.sync_data()?;
        let before = shared::resident_pages(&path)?;
        fadvise(&file, 0, None, Advice::DontNeed)?;
        let after = shared::resident_pages(&path)?;
        self.pages_dropped += before.saturating_sub(after) as u64;
        Ok(())
    }

    /// Lets everybody run, and waits until all have ended.
    fn end_all(&mut self) -> anyhow::Result<()> {
        let begun = Instant::now();
        self.board.stop.store(1, Ordering::SeqCst);
        for seat in 0..self.places.len() {
            self.signal(seat, Signal::SIGCONT);
            self.places[seat].stopped = None;
        }
        for (pid, _) in self.hogs.drain(..) {
            let _ = kill(nix_pid(pid), Signal::SIGKILL);
        }
        while self.places.iter().any(|place| place.pid.is_some()) {
            self.reap()?;
            if begun.elapsed() > PATIENCE {
                self.tell_of_stuck()?;
                break;
            }
            thread::sleep(Duration::from_millis(2));
        }
        self.board.stop.store(0, Ordering::SeqCst);
        Ok(())
    }

    fn tell_of_stuck(&mut self) -> anyhow::Result<()> {
        let snapshot = Inspector::open(self.dir.join(TABLE))?.snapshot()?;
        for seat in 0..self.places.len() {
            if let Some(pid) = self.places[seat].pid {
                let doing = self.board.seats[seat].doing();
                self.wrong.push(format!(
                    "worker {seat}, process {pid}, does not end: {doing:?}; {snapshot:?}"
                ));
                self.signal(seat, Signal::SIGKILL);
                waitpid(nix_pid(pid), None)?;
                self.vacate(seat);
            }
        }
        Ok(())
    }

    /// Has a fresh process take each lock once.
    fn audit(&mut self) -> anyhow::Result<()> {
        let pid = self.start(self.places.len(), &["--audit"], Isolation::default())?;
        let status = waitpid(nix_pid(pid), None)?;
        if !matches!(status, WaitStatus::Exited(_, 0)) {
            self.wrong.push(format!("the auditor ended by {status:?}"));
        }
        Ok(())
    }

    /// How often each fault has befallen somebody, by whomever.
    fn all_faults(&self) -> BTreeMap<&'static str, u64> {
        let count = |count: &AtomicU32| u64::from(count.load(Ordering::SeqCst));
        let board = self.board;
        let mut faults = self.faults.clone();
        faults.extend([
            ("killed as woken", count(&board.wake_kills)),
            ("forked in the section", count(&board.forks)),
            ("exec in the section", count(&board.execs)),
            ("page tables emptied", count(&board.unmaps)),
        ]);
        faults
    }

    /// The figures in a line.
    fn line(&self) -> String {
        let Tally {
            grants,
            overlaps,
            unfenced_updates,
            unfenced_lost,
            fenced_updates,
            fenced_lost,
            ..
        } = self.checker.tally;
        let percent = 100.0 * unfenced_lost as f64 / unfenced_updates.max(1) as f64;
        let faults = self.all_faults().values().sum::<u64>();
        match self.options.policy {
            Policy::OnDeath => format!(
                "OnDeath: {grants} grants, {faults} faults, {overlaps} overlaps, \
                 {unfenced_lost} of {unfenced_updates} updates lost"
            ),
            Policy::OnExpiry => format!(
                "OnExpiry: {grants} grants, {faults} faults, {overlaps} sections of evicted \
                 holders overlapped, {percent:.3} % of {unfenced_updates} unfenced updates lost \
                 ({unfenced_lost}), {fenced_lost} of {fenced_updates} fenced ones"
            ),
        }
    }

    /// The headline, the faults by kind, and the line for the dashboard.
    fn report(&self, out: &mut impl Write, took: Duration, clean: bool) -> anyhow::Result<()> {
        let count = |count: &AtomicU32| count.load(Ordering::SeqCst);
        let board = self.board;
        let faults = self.all_faults();
        for (name, number) in &faults {
            writeln!(out, "{number:9}  {name}")?;
        }
        let remnants = count(&board.remnants);
        writeln!(out, "{remnants:9}  dead holders' file locks waited for")?;
        writeln!(out, "{:9}  workers in namespaces", self.namespaces)?;
        writeln!(out, "{:9}  pages dropped from memory", self.pages_dropped)?;
        writeln!(out, "{}", self.line())?;
        let row = serde_json::json!({
            "campaign": "soak",
            "policy": format!("{:?}", self.options.policy),
            "seconds": took.as_secs(),
            "seed": self.options.seed,
            "rounds": self.rounds,
            "faults": faults.values().sum::<u64>(),
            "fault_kinds": faults,
            "double_owners": count(&board.double_owners),
            "tally": self.checker.tally,
            "clean": clean,
        });
        results::append(self.options.out.as_deref(), "soak", &row)?;
        ensure!(self.checker.tally.grants > 0, "nobody was granted anything");
        Ok(())
    }
}

fn nix_pid(pid: u32) -> Pid {
    Pid::from_raw(pid.cast_signed())
}
