//! What the command has started in turn: to be ended with it once its lock is lost.
//!
//! Most commands are scripts. To end the shell alone would leave the program that it runs,
//! which is what the lock was for.

use std::collections::HashSet;
use std::fs;
use std::io;

use crate::sys::{self, Change};

/// The processes that descend from a command.
///
/// Those that had left its tree before somebody asked (a daemon is meant to) are not among
/// them. From then on what the tree loses is this process's child, and is.
pub(crate) struct Offspring {
    command: i32,
    /// Children of this process that the command is not, inherited through exec.
    strangers: HashSet<i32>,
}

impl Offspring {
    /// From now on, what loses its parent in the command's tree stays in sight.
    pub(crate) fn of(command: i32) -> Self {
        let mut strangers: HashSet<_> = children(std::process::id().cast_signed()).collect();
        strangers.remove(&command);
        // A kernel that will not do so is one on which fewer are found.
        let _ = sys::adopt_orphans();
        Self { command, strangers }
    }

    /// All that there are, the command aside, parents first. Reaps those that this process
    /// has adopted and that have ended.
    pub(crate) fn living(&self) -> Vec<i32> {
        let mut found: Vec<_> = children(std::process::id().cast_signed())
            .filter(|pid| !self.strangers.contains(pid))
            .filter(|&pid| pid == self.command || !has_ended(pid))
            .collect();
        let mut seen: HashSet<_> = found.iter().copied().collect();
        let mut next = 0;
        while let Some(&pid) = found.get(next) {
            found.extend(children(pid).filter(|&child| seen.insert(child)));
            next += 1;
        }
        found.retain(|&pid| pid != self.command);
        found
    }

    /// Sends each a signal. That one has ended meanwhile, or is not to be signalled by this
    /// process, is no error here: who is left is seen by the next look.
    pub(crate) fn send(&self, signals: &[i32]) {
        for pid in self.living() {
            for &signal in signals {
                let _: io::Result<()> = sys::send_signal(pid, signal, None);
            }
        }
    }
}

/// Whether a child of this process has ended; then it is reaped.
fn has_ended(pid: i32) -> bool {
    matches!(
        sys::child_change(pid, false),
        Ok(Change::Exited(_) | Change::Killed(_))
    )
}

/// A process's children, as far as the kernel tells (`CONFIG_PROC_CHILDREN`).
fn children(pid: i32) -> impl Iterator<Item = i32> {
    let threads = fs::read_dir(format!("/proc/{pid}/task"));
    let of_thread = |thread: fs::DirEntry| {
        let children = fs::read_to_string(thread.path().join("children"));
        let children = children.unwrap_or_default();
        let pids = children.split_ascii_whitespace().map(str::parse);
        pids.flatten().collect::<Vec<i32>>()
    };
    threads.into_iter().flatten().flatten().flat_map(of_thread)
}
