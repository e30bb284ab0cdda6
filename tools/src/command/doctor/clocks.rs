//! Who looks late, and only has another clock: a process in a time namespace of its own.

use std::io;

use caslock::{InspectError, Inspector, Liveness, Snapshot};

use super::Report;

/// A snapshot in which nobody is late who sends heartbeats, and how many sessions would be: by
/// the dates of their last ones.
pub(super) fn snapshot(inspector: &Inspector) -> Result<(Snapshot, usize), InspectError> {
    let snapshot = inspector.snapshot()?;
    let is_late = |liveness| liveness == Liveness::Late;
    let late = snapshot.sessions.iter().filter(|it| is_late(it.liveness));
    let late: Vec<_> = late.map(|session| session.session).collect();
    let beating = match &late[..] {
        [] => Vec::new(),
        _ => inspector.beating(&late)?,
    };
    if beating.is_empty() {
        return Ok((snapshot, 0));
    }
    // Some may only have been late, and are not now.
    let mut snapshot = inspector.snapshot()?;
    let correct = |session: u32, liveness: &mut Liveness| {
        let is_wrong = is_late(*liveness) && beating.contains(&session);
        if is_wrong {
            *liveness = Liveness::Alive;
        }
        is_wrong
    };
    let holders = snapshot.slots.iter_mut().map(|slot| slot.holder.as_mut());
    for holder in holders.chain([snapshot.table.naming.as_mut()]).flatten() {
        correct(holder.session, &mut holder.liveness);
    }
    let sessions = snapshot.sessions.iter_mut();
    let others = sessions.filter_map(|it| correct(it.session, &mut it.liveness).then_some(()));
    let others = others.count();
    Ok((snapshot, others))
}

pub(super) fn clocks(report: &mut Report, others: usize) -> io::Result<()> {
    match others {
        0 => Ok(()),
        _ => report.warn(
            "clocks",
            format_args!(
                "sessions that send heartbeats, dated by another clock than this one (in a time \
                 namespace of their own): {others}; elsewhere they are shown as late, and how \
                 long they have held their locks is wrong"
            ),
        ),
    }
}
