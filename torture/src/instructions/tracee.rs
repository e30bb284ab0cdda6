//! A victim under ptrace, brought to one of its instructions.
//!
//! To single-step to the k-th instruction for every k would take k steps each time. The
//! first run notes where each step stood; the next ones run freely to a hardware
//! breakpoint on some instruction shortly before, which the victim has to pass a known
//! number of times, and step only from there.
//!
//! A repeated string instruction stops at each of its repetitions, thousands of times for
//! a page that is cleared. To get to the k-th it is told to repeat k times and no more: it
//! has then done to memory what it had done there, and registers die with the process.
//!
//! Victims have one processor, and their tracer joins them there while it steps: to switch
//! between two processes costs less than to wake another processor.

use std::collections::HashMap;
use std::mem::offset_of;
use std::thread;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// The addresses that a victim stood at, from its first mark on.
pub(super) struct Route {
    addresses: Vec<u64>,
    /// For each step the breakpoint to run to.
    anchors: Vec<Anchor>,
}

#[derive(Clone, Copy, Debug)]
struct Anchor {
    at: usize,
    passes: usize,
    /// How often the instruction there is then repeated at once, and where the next one is.
    repeated: Option<(usize, u64)>,
    /// What it costs to get to the step this way, in stops.
    stops: usize,
}

impl Anchor {
    /// The step that it leads to by itself.
    fn reaches(&self) -> usize {
        self.at + self.repeated.map_or(0, |(times, _)| times)
    }
}

impl Route {
    /// `strings`: the repeated string instructions among the addresses, and what follows.
    fn new(addresses: Vec<u64>, strings: &HashMap<u64, Option<u64>>) -> Self {
        let mut passed = HashMap::new();
        let mut anchors: Vec<Anchor> = Vec::with_capacity(addresses.len());
        let mut first = 0;
        for (at, address) in addresses.iter().enumerate() {
            let before = anchors.last().map(|last| Anchor {
                stops: last.stops + 1,
                ..*last
            });
            // A repeated string instruction stops every step, but passes once.
            let repeats = at > 0 && addresses[at - 1] == *address;
            if !repeats {
                first = at;
            }
            let passes = *passed
                .entry(*address)
                .and_modify(|count| *count += usize::from(!repeats))
                .or_insert(1_usize);
            let next = strings.get(address).copied().flatten();
            let here = Anchor {
                at: first,
                passes,
                repeated: next.filter(|_| repeats).map(|next| (at - first, next)),
                stops: passes + 1 + usize::from(repeats),
            };
            anchors.push(match before {
                Some(before) if repeats && next.is_none() || before.stops < here.stops => before,
                _ => here,
            });
        }
        Self { addresses, anchors }
    }

    /// How many instructions there are between the marks.
    pub(super) fn len(&self) -> usize {
        self.addresses.len()
    }
}

/// Where a victim stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    Mark,
    Elsewhere,
    Ended,
}

/// A traced victim that stands still. Dropped, it is killed and buried.
pub(super) struct Tracee {
    pid: Pid,
    buried: bool,
}

/// The calling thread on the victims' processor, until this is dropped.
struct Beside(Option<CpuSet>);

impl Beside {
    fn the_victims() -> Self {
        let before = sched_getaffinity(Pid::from_raw(0)).ok();
        // Slower where it is refused, and no worse.
        Self(before.filter(|_| share_a_processor().is_ok()))
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        if let Some(before) = self.0 {
            let _ = sched_setaffinity(Pid::from_raw(0), &before);
        }
    }
}

/// Puts the calling thread, and what it starts, on the last processor that it may use.
pub(super) fn share_a_processor() -> nix::Result<()> {
    let allowed = sched_getaffinity(Pid::from_raw(0))?;
    let last = (0..CpuSet::count()).rfind(|&cpu| allowed.is_set(cpu).unwrap_or(false));
    let mut one = CpuSet::new();
    last.map_or(Ok(()), |cpu| one.set(cpu))?;
    sched_setaffinity(Pid::from_raw(0), &one)
}

/// What wakes a victim that sleeps, if it ever does.
pub(super) type Alarm<'a> = Option<&'a dyn Fn() -> anyhow::Result<()>>;

impl Tracee {
    /// Traces a victim that waits at the gate, which `open_gate` opens, up to its mark.
    pub(super) fn start(
        pid: u32,
        open_gate: impl FnOnce() -> std::io::Result<()>,
    ) -> anyhow::Result<Self> {
        let pid = Pid::from_raw(pid.cast_signed());
        ptrace::seize(pid, Options::PTRACE_O_EXITKILL).context("tracing a victim")?;
        let tracee = Self { pid, buried: false };
        open_gate()?;
        ensure!(tracee.wait(None)? == Stop::Mark, "no mark");
        Ok(tracee)
    }

    /// Steps to its second mark, and calls `look` before each instruction.
    pub(super) fn survey(
        &self,
        alarm: Alarm<'_>,
        mut look: impl FnMut() -> anyhow::Result<()>,
    ) -> anyhow::Result<Route> {
        let _beside = Beside::the_victims();
        let mut addresses = Vec::new();
        let mut strings = HashMap::new();
        loop {
            let address = self.address()?;
            if addresses.last() == Some(&address) && !strings.contains_key(&address) {
                strings.insert(address, self.after_string(address)?);
            }
            addresses.push(address);
            look()?;
            ptrace::step(self.pid, None)?;
            match self.wait(alarm)? {
                Stop::Mark => return Ok(Route::new(addresses, &strings)),
                Stop::Elsewhere => {}
                Stop::Ended => bail!("it ended after {} steps", addresses.len()),
            }
        }
    }

    /// Runs it to a step of the route. False: it took another way and came to its end.
    pub(super) fn run_to(
        &self,
        route: &Route,
        step: usize,
        alarm: Alarm<'_>,
    ) -> anyhow::Result<bool> {
        let _beside = Beside::the_victims();
        let anchor = route.anchors[step];
        let to_anchor = (anchor.at > 0).then(|| (route.addresses[anchor.at], anchor.passes));
        if let Some((address, passes)) = to_anchor
            && !self.pass(address, passes, alarm)?
        {
            return Ok(false);
        }
        if let Some((times, next)) = anchor.repeated {
            let mut registers = ptrace::getregs(self.pid)?;
            registers.rcx = times as u64;
            ptrace::setregs(self.pid, registers)?;
            if !self.pass(next, 1, alarm)? {
                return Ok(false);
            }
        }
        for _ in anchor.reaches()..step {
            ptrace::step(self.pid, None)?;
            if self.wait(alarm)? != Stop::Elsewhere {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Runs it until it has come to an address so many times. False: it ended.
    fn pass(&self, address: u64, passes: usize, alarm: Alarm<'_>) -> anyhow::Result<bool> {
        self.set_breakpoint(Some(address))?;
        for _ in 0..passes {
            ptrace::cont(self.pid, None)?;
            if self.wait(alarm)? != Stop::Elsewhere {
                return Ok(false);
            }
        }
        self.set_breakpoint(None)?;
        Ok(true)
    }

    /// What follows a repeated move or store at this address; None: something else is there.
    fn after_string(&self, address: u64) -> anyhow::Result<Option<u64>> {
        let code = ptrace::read(self.pid, address as ptrace::AddressType)?.to_ne_bytes();
        let (opcode, len) = match code {
            [0xf2 | 0xf3, 0x40..=0x4f, opcode, ..] => (opcode, 3),
            [0xf2 | 0xf3, opcode, ..] => (opcode, 2),
            _ => return Ok(None),
        };
        // MOVS and STOS, whose count alone says when they end.
        Ok(matches!(opcode, 0xa4 | 0xa5 | 0xaa | 0xab).then_some(address + len))
    }

    /// Kills it, without waiting for anything.
    pub(super) fn kill(&self) -> nix::Result<()> {
        kill(self.pid, Signal::SIGKILL)
    }

    /// Waits until it is gone for good.
    pub(super) fn bury(mut self) -> anyhow::Result<()> {
        self.buried = true;
        while self.wait(None)? != Stop::Ended {}
        Ok(())
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid.as_raw().cast_unsigned()
    }

    fn address(&self) -> anyhow::Result<u64> {
        let offset = offset_of!(libc::user, regs) + offset_of!(libc::user_regs_struct, rip);
        Ok(ptrace::read_user(self.pid, offset as ptrace::AddressType)?.cast_unsigned())
    }

    fn set_breakpoint(&self, address: Option<u64>) -> anyhow::Result<()> {
        /// Enables breakpoint 0 for this thread, on execution.
        const ENABLE: i64 = 1;
        let debug = |register: usize| {
            (offset_of!(libc::user, u_debugreg) + register * 8) as ptrace::AddressType
        };
        if let Some(address) = address {
            ptrace::write_user(self.pid, debug(0), address.cast_signed())?;
        }
        let control = if address.is_some() { ENABLE } else { 0 };
        Ok(ptrace::write_user(self.pid, debug(7), control)?)
    }

    /// Waits for its next stop. Where there is an alarm, it may sleep, and is woken.
    fn wait(&self, mut alarm: Alarm<'_>) -> anyhow::Result<Stop> {
        let status = loop {
            let flags = match alarm {
                Some(_) => WaitPidFlag::__WALL | WaitPidFlag::WNOHANG,
                None => WaitPidFlag::__WALL,
            };
            match waitpid(self.pid, Some(flags))? {
                WaitStatus::StillAlive => {
                    if self.sleeps()
                        && let Some(alarm) = alarm.take()
                    {
                        alarm()?;
                    }
                    thread::yield_now();
                }
                status => break status,
            }
        };
        Ok(match status {
            WaitStatus::Stopped(_, Signal::SIGTRAP) => {
                // A breakpoint instruction says that the kernel sent it; steps and
                // hardware breakpoints have codes of their own.
                match ptrace::getsiginfo(self.pid)?.si_code {
                    libc::SI_KERNEL => Stop::Mark,
                    _ => Stop::Elsewhere,
                }
            }
            WaitStatus::Exited(..) | WaitStatus::Signaled(..) => Stop::Ended,
            other => bail!("an unexpected stop: {other:?}"),
        })
    }

    fn sleeps(&self) -> bool {
        std::fs::read_to_string(format!("/proc/{0}/task/{0}/stat", self.pid)).is_ok_and(|stat| {
            stat.rfind(')')
                .is_some_and(|end| stat[end..].starts_with(") S"))
        })
    }
}

impl Drop for Tracee {
    fn drop(&mut self) {
        if !self.buried {
            let _ = self.kill();
            while self.wait(None).is_ok_and(|stop| stop != Stop::Ended) {}
        }
    }
}

/// Waits until a process has stopped.
pub(super) fn wait_stopped(pid: u32) {
    let stopped = || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
        stat.is_ok_and(|stat| stat.contains(") T "))
    };
    while !stopped() {
        thread::sleep(Duration::from_micros(200));
    }
}
