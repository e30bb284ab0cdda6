//! A thread of a child under ptrace: counted, or killed, at each system call or instruction.

use std::io;

use super::sys;

/// What the traced thread does between two looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// On to the next entry to or return from a system call.
    Syscall,
    /// One instruction.
    Instruction,
}

/// A traced thread, standing still.
///
/// Only the thread that seized it may move it, and it dies if that thread does.
pub(crate) struct Tracee {
    tid: u32,
    /// A signal that the thread stopped for and has yet to get.
    signal: i32,
}

impl Tracee {
    /// Stops thread `tid` of a child.
    pub(crate) fn seize(tid: u32) -> io::Result<Self> {
        let options = libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_EXITKILL;
        sys::ptrace(libc::PTRACE_SEIZE, tid, 0, options.cast_unsigned() as usize)?;
        sys::ptrace(libc::PTRACE_INTERRUPT, tid, 0, 0)?;
        let status = sys::wait_for_stop(tid)?;
        assert!(libc::WIFSTOPPED(status), "thread {tid}: status {status:#x}");
        Ok(Self { tid, signal: 0 })
    }

    /// Lets it make one step. `false`: it has ended.
    pub(crate) fn step(&mut self, step: Step) -> bool {
        let request = match step {
            Step::Syscall => libc::PTRACE_SYSCALL,
            Step::Instruction => libc::PTRACE_SINGLESTEP,
        };
        let signal = std::mem::take(&mut self.signal).cast_unsigned() as usize;
        sys::ptrace(request, self.tid, 0, signal).expect("a traced thread that stands still");
        let status = sys::wait_for_stop(self.tid).expect("a traced thread");
        if !libc::WIFSTOPPED(status) {
            return false;
        }
        let signal = libc::WSTOPSIG(status);
        let by_ptrace = status >> 16 != 0 || signal & 0x7f == libc::SIGTRAP;
        if !by_ptrace {
            self.signal = signal;
        }
        true
    }

    /// Lets it run until it enters system call `number`.
    pub(crate) fn run_to(&mut self, number: i64) {
        loop {
            assert!(
                self.step(Step::Syscall),
                "it ended before system call {number}"
            );
            if self.entering() == Some(number) {
                return;
            }
        }
    }

    /// The system call that it is about to make.
    pub(crate) fn entering(&self) -> Option<i64> {
        sys::entered_syscall(self.tid).expect("a traced thread that stands still")
    }

    /// Waits for its end, which somebody else has brought about. Until then the process
    /// that it belongs to cannot be reaped.
    pub(crate) fn bury(self) {
        while sys::wait_for_stop(self.tid).is_ok_and(|status| libc::WIFSTOPPED(status)) {}
    }
}
