//! What the command has started in turn: to be ended with it once its lock is lost.
//!
//! Most commands are scripts. To end the shell alone would leave the program that it runs,
//! which is what the lock was for.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::io::ErrorKind;
use std::process;

use nix::libc;

use crate::stat::Stat;
use crate::sys::{self, Change};

/// The processes that descend from a command, as far as they are known to.
///
/// Those that had left its tree before somebody looked (a daemon is meant to) are not among
/// them, nor what this process has as children otherwise: whoever became `caslock run` by exec
/// may have left it some, and the orphans of those are none of the command's.
pub(crate) struct Offspring {
    /// None once it has been reaped: its PID may be another's then.
    command: Option<i32>,
    /// Whether all children of this process are the command's: it has no others, and gets
    /// those in the tree that lose their parents.
    adopts: bool,
    known: BTreeMap<i32, Known>,
    /// Whether the last look found all that there were: nobody was reaped meanwhile, whose
    /// children have just become this process's.
    is_complete: bool,
}

/// How often to look for one that is complete, before what was found is acted on. A command
/// may start more of those that end at once than can be reaped.
const MOST_LOOKS: u32 = 8;

struct Known {
    started: u64,
    told: bool,
}

impl Offspring {
    /// Those there are now. From now on, what loses its parent in the command's tree stays in
    /// sight, if nobody else's orphans could be taken for it.
    pub(crate) fn of(command: i32) -> Self {
        let own = process::id();
        let listed = children(own.cast_signed());
        // One that has ended leaves no orphans any more. One that cannot be asked after may.
        let is_zombie = |pid| Stat::of(pid).is_some_and(|stat| stat.is_of_ended_process());
        let is_the_commands = |&pid: &i32| pid == command || is_zombie(pid);
        let are_all = listed.contains(&command) && listed.iter().all(is_the_commands);
        let has_others = sys::is_first_process() || !are_all;
        let mut offspring = Self {
            command: Some(command),
            adopts: !has_others && sys::adopt_orphans().is_ok(),
            known: BTreeMap::new(),
            is_complete: false,
        };
        // Only once: the command has not been signalled yet.
        offspring.look();
        offspring
    }

    /// The command has been reaped.
    pub(crate) fn outlives(&mut self) {
        self.command = None;
    }

    /// Looks until all are seen, if that comes to be soon.
    pub(crate) fn look_around(&mut self) {
        for _ in 0..MOST_LOOKS {
            self.look();
            if self.is_complete {
                return;
            }
        }
    }

    /// Whether there are none for certain.
    pub(crate) fn are_gone(&self) -> bool {
        self.is_complete && self.known.is_empty()
    }

    /// Looks who is there, and reaps who is not.
    fn look(&mut self) {
        self.known
            .retain(|&pid, known| alive(pid).is_some_and(|stat| stat.started == known.started));
        let mut has_reaped = false;
        let mut parents: Vec<_> = self.known.keys().copied().collect();
        parents.extend(self.command);
        if self.adopts {
            let own = process::id().cast_signed();
            for pid in children(own) {
                match Some(pid) == self.command {
                    true => {}
                    false if has_ended(pid) => has_reaped = true,
                    false => self.add(pid, &mut parents),
                }
            }
        }
        let mut seen = HashSet::new();
        while let Some(parent) = parents.pop() {
            if seen.insert(parent) {
                for pid in children(parent) {
                    self.add(pid, &mut parents);
                }
            }
        }
        self.is_complete = !has_reaped;
    }

    fn add(&mut self, pid: i32, parents: &mut Vec<i32>) {
        if let Some(Stat { started, .. }) = alive(pid) {
            let told = false;
            self.known.entry(pid).or_insert(Known { started, told });
            parents.push(pid);
        }
    }

    /// Sends these signals to those of the last look that have not been sent any.
    pub(crate) fn tell(&mut self, signals: &[i32]) {
        let untold = self.known.iter_mut().filter(|(_, known)| !known.told);
        for (&pid, known) in untold {
            known.told = true;
            send(pid, signals);
        }
    }

    /// Kills all of the last look, and says whom. The others are those that this process is not
    /// allowed to signal: they run as another user.
    pub(crate) fn kill(&self) -> (Vec<i32>, Vec<i32>) {
        let pids = self.known.keys().copied();
        pids.partition(|&pid| send(pid, &[libc::SIGKILL]))
    }
}

/// Says whether that is allowed. That one has ended meanwhile is no error: who is left is seen by
/// the next look.
fn send(pid: i32, signals: &[i32]) -> bool {
    let mut is_allowed = true;
    for &signal in signals {
        let sent = sys::send_signal(pid, signal, None);
        is_allowed &= !sent.is_err_and(|error| error.kind() == ErrorKind::PermissionDenied);
    }
    is_allowed
}

/// Whether a child of this process has ended; then it is reaped.
fn has_ended(pid: i32) -> bool {
    matches!(
        sys::child_change(pid, false),
        Ok(Change::Exited(_) | Change::Killed(_))
    )
}

fn alive(pid: i32) -> Option<Stat> {
    Stat::of(pid).filter(|stat| !stat.is_of_ended_process())
}

/// A process's children, as far as the kernel tells (`CONFIG_PROC_CHILDREN`).
fn children(pid: i32) -> Vec<i32> {
    let threads = fs::read_dir(format!("/proc/{pid}/task"));
    let of_thread = |thread: fs::DirEntry| {
        let children = fs::read_to_string(thread.path().join("children"));
        let children = children.unwrap_or_default();
        let pids = children.split_ascii_whitespace().map(str::parse);
        pids.flatten().collect::<Vec<i32>>()
    };
    let threads = threads.into_iter().flatten().flatten();
    threads.flat_map(of_thread).collect()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn who_has_the_pid_of_one_that_has_ended_is_another() {
        let mut child = Command::new("sleep").arg("1000").spawn().expect("a child");
        let pid = child.id().cast_signed();
        let started = Stat::of(pid).expect("its line").started;
        let are_gone = [started, started - 1].map(|started| {
            let known = Known {
                started,
                told: true,
            };
            let mut offspring = Offspring {
                command: None,
                adopts: false,
                known: BTreeMap::from([(pid, known)]),
                is_complete: false,
            };
            offspring.look();
            offspring.are_gone()
        });
        child.kill().expect("a signal is sent");
        child.wait().expect("its end");
        assert_eq!(are_gone, [false, true]);
    }
}
