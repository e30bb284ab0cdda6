//! The command while it runs: its signals, its stops, its end, and the loss of its lock.

use std::ffi::CStr;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::Context;
use caslock::{Guard, Lost};
use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd, siginfo};
use nix::unistd::{Pid, getpgid, getpgrp, getpid, getsid};

use crate::cli::OnLost;
use crate::late_keeper::LateKeeper;
use crate::offspring::Offspring;
use crate::output::{printable, say_unless_full};
use crate::placement::Placement;
use crate::program::Program;
use crate::stat::{Stat, are_processes_shown};
use crate::sys::{self, Change, ChildSetup};

/// The signals of this process: blocked, so that they wait until the loop reads them.
///
/// To be blocked before any thread is started, because a thread inherits the mask of the
/// one that starts it, and a signal goes to any thread that lets it through.
pub(crate) struct Signals {
    original: SigSet,
    sigchld_was_ignored: bool,
}

impl Signals {
    pub(crate) fn block() -> io::Result<Self> {
        let original = SigSet::all().thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
        if sys::is_first_process() {
            sys::end_by(TO_END)?;
        }
        Ok(Self {
            original,
            sigchld_was_ignored: sys::default_sigchld()?,
        })
    }

    /// Runs something that may take long with the mask that this process was started with:
    /// a signal then does what it would do to any program, that is mostly end it.
    pub(crate) fn let_through<T>(&self, long: impl FnOnce() -> T) -> io::Result<T> {
        let blocked = self.original.thread_swap_mask(SigmaskHow::SIG_SETMASK)?;
        let outcome = long();
        blocked.thread_set_mask()?;
        Ok(outcome)
    }
}

/// By which a process is wanted to end.
const TO_END: &[i32] = &[libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM];

/// What asks a process to end. One that is stopped takes its SIGTERM only when it goes on.
const END: &[i32] = &[libc::SIGTERM, libc::SIGCONT];

/// For how long a command that goes on after its SIGTERM may end what it has started itself: one
/// that passes the signal on (timeout(1), for one) would have it arrive twice.
const HEAD_START: Duration = Duration::from_secs(1);

/// For how long a stop that this process was told is taken for the reason of its command's. One
/// that the command did not heed is none for a later stop.
const STOP_TAKES: Duration = Duration::from_secs(2);

/// Whether this process has a controlling terminal, as far as can be told.
fn may_have_terminal() -> bool {
    Stat::in_directory(Path::new("/proc/self")).is_none_or(|stat| stat.terminal != 0)
}

/// How the keeper thread, which notices that a grant is lost, tells the loop.
#[derive(Clone)]
pub(crate) struct LossNotice(Arc<(EventFd, OnceLock<Lost>)>);

impl LossNotice {
    pub(crate) fn of(guard: &Guard<'_>) -> anyhow::Result<Self> {
        let event = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
            .context("the command was not started: listening for the loss of its lock")?;
        let notice = Self(Arc::new((event, OnceLock::new())));
        let told = notice.clone();
        guard.on_lost(move |lost| {
            let (event, what) = &*told.0;
            let _ = what.set(lost);
            // It fails only when the count would overflow, and it was zero.
            let _ = event.write(1);
        });
        Ok(notice)
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.0.0.as_fd()
    }

    fn lost(&self) -> Option<&Lost> {
        self.0.1.get()
    }
}

/// What is to happen when the lock is lost.
#[derive(Clone, Copy)]
pub(crate) struct LossPolicy {
    pub(crate) on_lost: OnLost,
    pub(crate) kill_after: Duration,
}

/// How it went.
pub(crate) struct Ended {
    /// The command's exit code, or 128 + n for signal n.
    pub(crate) code: u8,
    /// The lock was lost while the command ran, and that has been said.
    pub(crate) lost: bool,
}

/// The child process. Never left behind: dropped in an error or a panic, it is killed and
/// reaped, and since it is dropped before the guard, it is gone before the lock is.
struct Child {
    pid: i32,
    reaped: bool,
}

impl Child {
    fn change(&mut self) -> io::Result<Change> {
        let change = sys::child_change(self.pid, false)?;
        self.reaped = matches!(change, Change::Exited(_) | Change::Killed(_));
        Ok(change)
    }

    /// Sends what was sent to us, with the value that was queued with it.
    fn pass_on(&self, info: &siginfo) {
        let signal = info.ssi_signo as i32;
        // The kernel's news of our own children. One that somebody sent is passed on.
        let is_news = signal == libc::SIGCHLD && info.ssi_code > 0;
        if !is_news && !is_own_writes(info) {
            let value = (info.ssi_code == libc::SI_QUEUE).then_some(info.ssi_ptr);
            self.send(signal, value);
        }
    }

    /// A child that has just died is no error; it is a zombie until it is reaped, so the
    /// PID cannot be another's.
    fn send(&self, signal: i32, value: Option<u64>) {
        if let Err(error) = sys::send_signal(self.pid, signal, value) {
            say_unless_full(format_args!(
                "cannot send signal {signal} to process {}: {error}",
                self.pid
            ));
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if !self.reaped {
            self.send(libc::SIGKILL, None);
            let _ = sys::child_change(self.pid, true);
        }
    }
}

/// A command that runs, and what there is to see it through.
pub(crate) struct Started {
    child: Child,
    incoming: SignalFd,
    /// What came before it did, and was passed on to it.
    early: Vec<siginfo>,
    notice: LossNotice,
}

/// Starts the command.
///
/// # Errors
///
/// [`StartError`] if it cannot be executed; or the kernel refuses what this takes beside it. Either
/// way it was not started.
pub(crate) fn start(
    program: &Program,
    witness: Option<BorrowedFd<'_>>,
    signals: &Signals,
    notice: LossNotice,
) -> anyhow::Result<Started> {
    let incoming = SignalFd::with_flags(
        &SigSet::all(),
        SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK,
    )
    .context("the command was not started: listening for signals")?;
    let setup = ChildSetup {
        mask: signals.original,
        ignore_sigchld: signals.sigchld_was_ignored,
        witness: witness.map(|fd| fd.as_raw_fd()),
    };
    // What is here already came before the child was there, so not even the terminal has
    // sent it to anybody else. (A Ctrl-C in the microseconds that are left is lost. It could
    // be forwarded, but so would be one that the child has got itself, and there are
    // programs that skip their cleaning up at the second.)
    let mut early = Vec::new();
    while let Some(info) = incoming
        .read_signal()
        .context("the command was not started: reading signals")?
    {
        early.push(info);
    }
    let pid = sys::start(program.argv(), program.environment(), setup)
        .map_err(|source| StartError::new(program.name(), source))?;
    let child = Child { pid, reaped: false };
    early.iter().for_each(|info| child.pass_on(info));
    Ok(Started {
        child,
        incoming,
        early,
        notice,
    })
}

/// Sees a command through to its end.
///
/// # Errors
///
/// The kernel refuses what it never refuses, and the command has been killed.
pub(crate) fn supervise(
    started: Started,
    guard: &Guard<'_>,
    policy: LossPolicy,
    keeper: LateKeeper<'_>,
    placement: Placement<'_>,
) -> io::Result<Ended> {
    let mut watch = Watch {
        child: started.child,
        incoming: started.incoming,
        guard,
        notice: started.notice,
        policy,
        keeper,
        placement,
        lost: false,
        is_hurried: false,
        told_to_stop: started.early.iter().any(is_to_stop).then(Instant::now),
        kill_at: None,
        tell_at: None,
        offspring: None,
    };
    let code = watch.until_end()?;
    Ok(Ended {
        code,
        lost: watch.lost,
    })
}

struct Watch<'a> {
    child: Child,
    incoming: SignalFd,
    guard: &'a Guard<'a>,
    notice: LossNotice,
    policy: LossPolicy,
    keeper: LateKeeper<'a>,
    placement: Placement<'a>,
    lost: bool,
    /// Whether what is left is to be killed: it was to be from the start, its time is over, or
    /// somebody wanted this process to end, after the loss.
    is_hurried: bool,
    /// When somebody told it to stop, and the command with it.
    told_to_stop: Option<Instant>,
    /// When what is still there of the command is killed.
    kill_at: Option<Instant>,
    /// When what the command has started is told to end, as the command was.
    tell_at: Option<Instant>,
    /// What is to end with the command, once the lock is lost, where that can be told.
    offspring: Option<Offspring>,
}

impl Watch<'_> {
    fn until_end(&mut self) -> io::Result<u8> {
        loop {
            let stopped_by = match self.child.change()? {
                Change::Exited(code) => return self.end().map(|()| code),
                // Signal numbers end at 64.
                Change::Killed(signal) => return self.end().map(|()| 128 + signal as u8),
                Change::Stopped(signal) => Some(signal),
                Change::Nothing => None,
            };
            // It has just been seen to be there.
            if self.kill_at.take_if(|at| *at <= Instant::now()).is_some() {
                self.kill();
                say_unless_full(format_args!(
                    "process {} is still there: sending SIGKILL",
                    self.child.pid
                ));
            }
            // One that has stopped is asked again before anything is waited for.
            if stopped_by.is_none() {
                self.wait()?;
            }
            let was_continued = self.forward()?;
            if let Some(signal) = stopped_by
                && !was_continued
            {
                self.stop_like_the_child(signal)?;
            }
            // From here on until it waits again nothing is read: whatever a child does after it
            // has been asked after is told of by a SIGCHLD that ends the wait.
            if sys::is_first_process() {
                sys::reap_all_but(self.child.pid);
            }
            if let Some(offspring) = &mut self.offspring {
                // An orphan may have ended that this process has to reap. And when it is time to
                // kill the command, its end may leave what it has started to others.
                offspring.look_around();
            }
            self.keeper.start_if_due();
            self.placement.look();
            if !self.guard.is_held() {
                self.lose();
            }
            if self.tell_at.take_if(|at| *at <= Instant::now()).is_some()
                && let Some(offspring) = &mut self.offspring
            {
                offspring.tell(END);
            }
        }
    }

    /// What is left to do when the command has ended.
    fn end(&mut self) -> io::Result<()> {
        self.placement.look();
        self.end_offspring()
    }

    /// Kills the command and what it has started, which has just been looked for.
    fn kill(&mut self) {
        self.is_hurried = true;
        self.child.send(libc::SIGKILL, None);
        if let Some(offspring) = &mut self.offspring {
            offspring.look_around();
            offspring.kill();
        }
    }

    /// After the end of a command that has lost its lock: sees what it has started to its end,
    /// too. A signal that would end this process hastens it.
    fn end_offspring(&mut self) -> io::Result<()> {
        /// How often to look, and how long a killed process may take.
        const LOOK: Duration = Duration::from_millis(10);
        const MOST_LOOKS_AFTER_KILL: u32 = 100;
        let Some(offspring) = &mut self.offspring else {
            return Ok(());
        };
        offspring.outlives();
        let mut looks_after_kill = 0;
        let mut killed_before = Vec::new();
        loop {
            if sys::is_first_process() {
                sys::reap_all_but(self.child.pid);
            }
            offspring.look_around();
            if offspring.are_gone() {
                return Ok(());
            }
            // Also those that were started meanwhile, by who has not ended yet.
            offspring.tell(END);
            self.is_hurried |= self.kill_at.is_some_and(|at| at <= Instant::now());
            if self.is_hurried {
                let (killed, forbidden) = offspring.kill();
                if looks_after_kill == MOST_LOOKS_AFTER_KILL {
                    let survivors = killed.iter().filter(|pid| killed_before.contains(*pid));
                    give_up(&survivors.collect::<Vec<_>>(), &forbidden);
                    return Ok(());
                }
                if killed_before.is_empty() && !killed.is_empty() {
                    say_unless_full(format_args!(
                        "sending SIGKILL to what the command has left behind: {killed:?}"
                    ));
                }
                if !killed.is_empty() {
                    killed_before = killed;
                }
                looks_after_kill += 1;
            }
            std::thread::sleep(LOOK);
            while let Some(info) = self.incoming.read_signal()? {
                self.is_hurried |= is_to_end(&info);
            }
        }
    }

    /// Sleeps until a signal or a loss is there to be dealt with, or it is time to kill, to
    /// start the keeper, or to look for a loss.
    fn wait(&self) -> io::Result<()> {
        /// The keeper tells of one at once, but by a thread of its own, which it may not get.
        const LOOK: Duration = Duration::from_secs(1);
        let look = (!self.lost).then(|| Instant::now() + LOOK);
        let timeout = match [self.kill_at, self.tell_at, self.keeper.due(), look]
            .into_iter()
            .flatten()
            .min()
        {
            None => PollTimeout::NONE,
            Some(at) => {
                // Rounded up: a poll that ends a little early would spin.
                let left = at.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
                PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
            }
        };
        let signal = PollFd::new(self.incoming.as_fd(), PollFlags::POLLIN);
        let loss = PollFd::new(self.notice.fd(), PollFlags::POLLIN);
        // Once it has been dealt with, the loss would be reported for ever.
        let outcome = match self.lost {
            true => poll(&mut [signal], timeout),
            false => poll(&mut [signal, loss], timeout),
        };
        match outcome {
            // All signals are blocked, but a stop and continue interrupts a poll as well.
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Passes on what has arrived, and says whether a SIGCONT was in it.
    fn forward(&mut self) -> io::Result<bool> {
        let mut continued = false;
        while let Some(info) = self.incoming.read_signal()? {
            // It may come too late for the command, which has ended and is not reaped yet.
            self.is_hurried |= self.lost && is_to_end(&info);
            if is_to_stop(&info) {
                self.told_to_stop = Some(Instant::now());
            }
            if info.ssi_signo as i32 == libc::SIGCONT {
                continued = true;
                self.told_to_stop = None;
                if !self.guard.is_held() {
                    // Stopped for so long that it was lost: the command must not go on
                    // before it is told.
                    self.lose();
                }
            }
            if !self.child_has_it(&info) {
                self.child.pass_on(&info);
            }
        }
        Ok(continued)
    }

    /// Whether the terminal sent this to the whole process group, the child included.
    ///
    /// A terminal that hangs up is the exception: the kernel tells the session's leader
    /// alone, and the rest only when that one has ended.
    fn child_has_it(&self, info: &siginfo) -> bool {
        let from_terminal = info.ssi_code == libc::SI_KERNEL
            && match info.ssi_signo as i32 {
                libc::SIGINT | libc::SIGQUIT | libc::SIGTSTP => true,
                libc::SIGTTIN | libc::SIGTTOU | libc::SIGWINCH => true,
                libc::SIGHUP | libc::SIGCONT => getsid(None) != Ok(getpid()),
                _ => false,
            };
        from_terminal && getpgid(Some(Pid::from_raw(self.child.pid))) == Ok(getpgrp())
    }

    /// Stops this process by the signal that stopped the child, so that the shell sees the
    /// whole job stopped. Returns when somebody has continued it.
    ///
    /// Only where this process was told to stop, or for the job control of a terminal's shell. A
    /// child that was stopped alone, or by SIGSTOP, may be continued alone, too, and would then
    /// run while our heartbeat stands still.
    fn stop_like_the_child(&mut self, signal: i32) -> io::Result<()> {
        let signal = match signal {
            libc::SIGTSTP => Signal::SIGTSTP,
            libc::SIGTTIN => Signal::SIGTTIN,
            libc::SIGTTOU => Signal::SIGTTOU,
            _ => return Ok(()),
        };
        if self.lost && self.policy.on_lost != OnLost::None {
            return Ok(()); // It is to end, not to rest.
        }
        let told = self.told_to_stop.take();
        if told.is_none_or(|at| at.elapsed() > STOP_TAKES) && !may_have_terminal() {
            return Ok(());
        }
        if sys::stop_with(self.child.pid, signal)? {
            self.told_to_stop = None;
            if !self.guard.is_held() {
                self.lose();
            }
            self.child.send(libc::SIGCONT, None);
        }
        Ok(())
    }

    fn lose(&mut self) {
        if self.lost {
            return;
        }
        self.lost = true;
        let lost = self.notice.lost().cloned().or_else(|| self.guard.loss());
        // Nobody has to read what is said for it to happen.
        self.end_what_runs();
        if let Some(lost) = lost {
            self.announce(&lost);
        }
    }

    fn announce(&self, lost: &Lost) {
        let pid = self.child.pid;
        let others = match self.offspring {
            Some(_) => "and what it has started",
            None => "alone, as /proc does not show what it has started",
        };
        let next: &dyn fmt::Display = match self.policy.on_lost {
            OnLost::Term => &format_args!("sending SIGTERM to process {pid} {others}"),
            OnLost::Kill => &format_args!("sending SIGKILL to process {pid} {others}"),
            OnLost::None => &format_args!("process {pid} runs on without it"),
        };
        say_unless_full(format_args!("{lost}; {next}"));
    }

    /// As far as that was asked for.
    fn end_what_runs(&mut self) {
        // Looked up before the command can end, and leave them to others.
        let look_up = || are_processes_shown().then(|| Offspring::of(self.child.pid));
        match self.policy.on_lost {
            OnLost::None => {}
            OnLost::Term => {
                self.offspring = look_up();
                END.iter().for_each(|&signal| self.child.send(signal, None));
                let now = Instant::now();
                self.tell_at = now.checked_add(HEAD_START);
                self.kill_at = now.checked_add(self.policy.kill_after);
            }
            OnLost::Kill => {
                self.offspring = look_up();
                self.kill();
            }
        }
    }
}

/// Says who is still there when nothing has helped.
fn give_up(survivors: &[&i32], forbidden: &[i32]) {
    if !survivors.is_empty() {
        say_unless_full(format_args!("still there after SIGKILL: {survivors:?}"));
    }
    for pid in forbidden {
        say_unless_full(format_args!(
            "not allowed to signal process {pid}, which is still there"
        ));
    }
}

/// Whether it came of this process's own writing: to a pipe that nobody reads, or to a file
/// that may not get any longer. Even if it is ignored, one that is blocked is kept.
fn is_own_writes(info: &siginfo) -> bool {
    matches!(info.ssi_signo as i32, libc::SIGPIPE | libc::SIGXFSZ)
        && i64::from(info.ssi_pid) == i64::from(getpid().as_raw())
}

/// Whether whoever sent this wants a process to end, and would have ended this one if it had
/// not blocked the signal: nohup(1), for one, has SIGHUP ignored.
fn is_to_end(info: &siginfo) -> bool {
    let signal = info.ssi_signo as i32;
    TO_END.contains(&signal) && !sys::is_ignored(signal)
}

/// Whether whoever sent this wants a process to rest.
fn is_to_stop(info: &siginfo) -> bool {
    [libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU].contains(&(info.ssi_signo as i32))
}

/// The command could not be started.
#[derive(Debug)]
pub(crate) struct StartError {
    program: String,
    source: io::Error,
}

impl StartError {
    fn new(program: &CStr, source: io::Error) -> Self {
        let program = printable(&program.to_string_lossy()).into_owned();
        Self { program, source }
    }

    pub(crate) const fn cause(&self) -> &io::Error {
        &self.source
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot run \"{}\"", self.program)
    }
}

impl std::error::Error for StartError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}
