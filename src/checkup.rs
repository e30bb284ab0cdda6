//! What makes a table unusable, or unsafe to use, though each of its locks looks well: the
//! ground of `caslock doctor`.

use std::thread;
use std::time::{Duration, Instant};

use crate::holder::text_of;
use crate::os::byte_lock::{self, ByteLock};
use crate::os::clock;
use crate::protocol::names::NamingWords;
use crate::protocol::session::SessionRecord;
use crate::protocol::word::Owner;
use crate::view::View;

/// What [`Inspector::checkup`](crate::Inspector::checkup) has found.
///
/// For the command line: not part of the library's promise.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Checkup {
    /// Whether the owner word of the naming lock is one that no rule can have produced.
    pub is_naming_damaged: bool,
    /// Names that the index does not lead to, or leads to another slot of the same name: who
    /// asks for one gets a lock beside the one that others have. The first few of them.
    pub lost_names: Vec<String>,
    /// Whether the table is of another boot, and cannot be reset.
    pub is_reset_blocked: bool,
    /// The sessions' bytes that are locked by other than their sessions.
    pub strays: Vec<Stray>,
}

/// A session's byte that is locked by another than a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stray {
    /// The session's index.
    pub session: u32,
    /// Whether the lock is of a kind that sessions do not have. If not, a process has it that was
    /// forked beside the opening of the table, or that has opened it and come no further.
    pub is_foreign: bool,
    /// Whether a session is attached there, which the lock keeps looking alive.
    pub is_attached: bool,
    /// Who has it, where the kernel tells.
    pub pid: Option<u32>,
}

pub(crate) fn checkup(view: &View) -> Checkup {
    Checkup {
        is_naming_damaged: is_naming_damaged(view),
        lost_names: lost_names(view),
        is_reset_blocked: is_reset_blocked(view),
        strays: strays(view),
    }
}

fn is_naming_damaged(view: &View) -> bool {
    match view.slot(NamingWords::SLOT).owner().owner() {
        Owner::Held(who) => !view.knows(who),
        Owner::Renaming(_) | Owner::Corrupt => true,
        Owner::Vacant(_) => false,
    }
}

fn lost_names(view: &View) -> Vec<String> {
    /// In an index that is full of nonsense each look goes through all of it.
    const ENOUGH: usize = 16;
    (NamingWords::SLOT + 1..)
        .take(view.geometry.slots as usize)
        .filter_map(|slot| lost_name(view, slot))
        .take(ENOUGH)
        .collect()
}

/// The slot's name, if it is not found by it. While it gets another name, nothing is concluded.
fn lost_name(view: &View, slot: u32) -> Option<String> {
    let look = || {
        let is_renaming = || matches!(view.slot(slot).owner().owner(), Owner::Renaming(_));
        let read = view.names().read(slot, is_renaming)?;
        let name = read.key?.to_bytes();
        let found = view.key(&name).and_then(|key| view.names().find(&key));
        let is_lost = found.is_none_or(|found| found.slot != slot);
        let is_there = view.slot(slot).renames() == read.renames;
        (is_lost && !read.seen && is_there).then_some((read.renames, name))
    };
    let first = look()?;
    thread::sleep(Duration::from_millis(1));
    (look()? == first).then(|| text_of(first.1))
}

fn is_reset_blocked(view: &View) -> bool {
    let is_of_another_boot = || {
        let written_under = view.mapping.header().boot_id();
        clock::boot_id().is_ok_and(|boot| boot != written_under)
    };
    is_of_another_boot()
        && view
            .probe
            .is_any_locked(view.geometry.sessions)
            .unwrap_or(false)
        // It may have been reset, and used, in between.
        && is_of_another_boot()
}

fn strays(view: &View) -> Vec<Stray> {
    /// Who attaches or leaves, or collects the records of the dead, has bytes locked that
    /// their records say nothing of: for milliseconds.
    const PATIENCE: Duration = Duration::from_secs(1);
    let begun = Instant::now();
    let mut found: Vec<Stray> = (0..view.geometry.sessions)
        .filter_map(|session| stray(view, session))
        .collect();
    while found.iter().any(|stray| !stray.is_foreign) && begun.elapsed() < PATIENCE {
        thread::sleep(Duration::from_millis(20));
        found = found
            .iter()
            .filter_map(|found| stray(view, found.session))
            .collect();
    }
    found
}

fn stray(view: &View, session: u32) -> Option<Stray> {
    let ByteLock { is_ours, pid } = view.probe.lock_on(byte_lock::session_byte(session))??;
    let is_attached = view.record(session).is_some_and(SessionRecord::is_active);
    (!is_ours || !is_attached).then_some(Stray {
        session,
        is_foreign: !is_ours,
        is_attached,
        pid,
    })
}

/// Which of these sessions send a heartbeat within two beats, by the count of them.
pub(crate) fn beating(view: &View, sessions: &[u32]) -> Vec<u32> {
    /// For keepers that get their processor late.
    const SLACK: Duration = Duration::from_millis(100);
    let begun = Instant::now();
    let patience = 2 * view.geometry.beat() + SLACK;
    let sign = |session| view.record(session).map(SessionRecord::life_sign);
    let before: Vec<_> = sessions.iter().map(|&session| sign(session)).collect();
    loop {
        let beating: Vec<_> = (sessions.iter().copied().zip(&before))
            .filter(|&(session, before)| {
                let (Some(now), Some(before)) = (sign(session), before) else {
                    return false;
                };
                now.is_same_session(before) && now != *before
            })
            .map(|(session, _)| session)
            .collect();
        if beating.len() == sessions.len() || begun.elapsed() > patience {
            return beating;
        }
        thread::sleep(Duration::from_millis(10));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::testing::Watchdog;
    use crate::sync::{AtomicU32, Ordering};
    use crate::table::LockTable;

    #[test]
    fn names_that_come_and_go_are_not_taken_for_lost_ones() {
        let _watchdog = Watchdog::start();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t");
        let table = LockTable::options().slots(2).open(&path).unwrap();
        let kept = table.lock("kept").unwrap();
        let _guard = kept.acquire().unwrap();
        let view = &kept.session().view;
        let stop = AtomicU32::new(0);
        thread::scope(|scope| {
            scope.spawn(|| {
                for number in 0.. {
                    if stop.load(Ordering::Relaxed) != 0 {
                        break;
                    }
                    table.lock(format!("name {number}")).unwrap();
                }
            });
            let lost: Vec<_> = (0..2000).map(|_| lost_names(view)).collect();
            stop.swap(1, Ordering::Relaxed);
            assert_eq!(lost.concat(), [""; 0]);
        });
    }
}
