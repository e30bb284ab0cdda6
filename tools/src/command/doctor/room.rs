//! Is there room for another session, and who takes it?

use std::fs;
use std::io;

use caslock::{Liveness, Stray};

use super::{Report, Seen};
use crate::command::sessions::kept_by_offspring;
use crate::processes::{self, Process};

/// Locks on sessions' bytes that caslock has not taken: whoever may read the file can have them.
pub(super) fn strangers(report: &mut Report, seen: &Seen<'_>) -> io::Result<()> {
    let strays = || strays(seen).filter(|stray| stray.is_foreign);
    let sessions: Vec<_> = strays().map(|stray| stray.session).collect();
    if sessions.is_empty() {
        return Ok(());
    }
    let mut who = match fs::symlink_metadata(seen.path) {
        Ok(table) => processes::strangers(&table, &sessions),
        Err(_) => Vec::new(),
    };
    for pid in strays().filter_map(|stray| stray.pid) {
        if who.iter().all(|process| process.pid != pid) {
            who.push(Process::of(pid));
        }
    }
    let (who, remedy) = match &who[..] {
        [] => (
            "a process that cannot be seen from here".to_owned(),
            "ask as root, outside of every container, to see which, and end it",
        ),
        [_] => (processes::named(&who), "end that one"),
        _ => (processes::named(&who), "end those"),
    };
    report.fail(
        "strangers",
        format_args!(
            "{} of {} sessions are locked by {who}, and not by caslock (fcntl(2), on the file): \
             none of them can be used, and where such a lock is exclusive, who has died seems to \
             live; {remedy}",
            sessions.len(),
            seen.snapshot.table.sessions
        ),
    )
}

pub(super) fn sessions(report: &mut Report, seen: &Seen<'_>) -> io::Result<()> {
    let (flag, sessions) = (&seen.flag, &seen.snapshot.sessions);
    let of = seen.snapshot.table.sessions as usize;
    let dead = sessions
        .iter()
        .filter(|session| session.liveness == Liveness::Dead)
        .count();
    // Some are locked without a session.
    let unattached = strays(seen).filter(|stray| !stray.is_attached).count();
    let taken = sessions.len() - dead + unattached;
    let free = of.saturating_sub(taken);
    let kept = kept(seen);
    if free == 0 {
        report.fail(
            "sessions",
            format_args!(
                "{taken} of {of} in use{kept}, so no other can attach; end some \
                 (caslock {flag}sessions), or make a table with more (caslock create --sessions)"
            ),
        )
    } else if free * 10 < of {
        report.warn(
            "sessions",
            format_args!("{taken} of {of} in use, {free} free{kept}; see caslock {flag}sessions"),
        )
    } else {
        report.ok(
            "sessions",
            format_args!("{taken} of {of} in use{kept}, {dead} left behind by dead processes"),
        )
    }
}

fn strays<'a>(seen: &Seen<'a>) -> impl Iterator<Item = &'a Stray> {
    seen.checkup.strays.iter()
}

/// What there is to add, of sessions that no process of their own uses any more, but that others
/// have locked: those that have inherited their witness, as a rule.
fn kept(seen: &Seen<'_>) -> String {
    let Ok(table) = fs::symlink_metadata(seen.path) else {
        return String::new();
    };
    let kept = kept_by_offspring(seen.path, &seen.snapshot.sessions);
    let unattached = strays(seen).filter(|stray| !stray.is_foreign);
    let unattached: Vec<_> = unattached.map(|stray| stray.session).collect();
    let count = kept.len() + unattached.len();
    if count == 0 || !seen.snapshot.table.in_place {
        return String::new();
    }
    let unattached = unattached.into_iter().map(caslock::session_byte);
    let bytes = kept.into_iter().flat_map(processes::bytes_of);
    let keepers = processes::keepers(&table, &bytes.chain(unattached).collect::<Vec<_>>());
    let who = match &keepers[..] {
        [] => "processes that cannot be seen from here".to_owned(),
        _ => processes::named(&keepers),
    };
    format!(" ({count} of them kept alive by {who}, their own processes being gone)")
}
