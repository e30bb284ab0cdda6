//! Keeping the application's signals off the library's thread.

use nix::sys::signal::{SigSet, Signal};

/// Blocks, on the calling thread and on those that it starts, every signal that is meant for
/// the process as a whole: its handlers run on the application's own threads.
///
/// What the thread's own code would raise stays as it is. The kernel kills a process
/// whose fault finds its signal blocked, past any handler that would have told of it.
pub(crate) fn block_all() {
    let mut blocked = SigSet::all();
    for fault in [
        Signal::SIGSEGV,
        Signal::SIGBUS,
        Signal::SIGFPE,
        Signal::SIGILL,
        Signal::SIGTRAP,
        Signal::SIGSYS,
    ] {
        blocked.remove(fault);
    }
    // It fails only for an impossible argument; and then handlers run here, too.
    let _ = blocked.thread_block();
}

/// A thread's signal mask.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SignalMask(SigSet);

impl SignalMask {
    /// The calling thread's.
    pub(crate) fn current() -> Self {
        // It fails only for an impossible argument.
        Self(SigSet::thread_get_mask().unwrap_or(SigSet::empty()))
    }

    /// Makes it the calling thread's.
    pub(crate) fn apply(self) {
        let _ = self.0.thread_set_mask();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    #[test]
    fn a_keeper_takes_no_signal_but_its_own_faults() {
        let before = SigSet::thread_get_mask().unwrap();
        let mask = thread::spawn(|| {
            block_all();
            SigSet::thread_get_mask().unwrap()
        });
        let mask = mask.join().unwrap();
        for signal in [
            Signal::SIGTERM,
            Signal::SIGINT,
            Signal::SIGCHLD,
            Signal::SIGALRM,
        ] {
            assert!(mask.contains(signal), "{signal}");
        }
        assert!(!mask.contains(Signal::SIGBUS) && !mask.contains(Signal::SIGSEGV));
        assert_eq!(SigSet::thread_get_mask().unwrap(), before);
    }
}
