//! Whose dates say nothing of them: a process in a time namespace of its own has another clock.

use std::io;
use std::time::{Duration, Instant};

use caslock::{InspectError, Inspector, Liveness, SessionInfo, Snapshot};

use super::Report;

/// A snapshot in which those are late who send no heartbeats, whatever they are dated, and how many
/// sessions have another clock than this process.
pub(super) fn snapshot(inspector: &Inspector) -> Result<(Snapshot, usize), InspectError> {
    let snapshot = inspector.snapshot()?;
    let suspects: Vec<_> = (snapshot.sessions.iter())
        .filter(|it| it.liveness == Liveness::Late || is_dated_ahead(it))
        .map(|it| it.session)
        .collect();
    if suspects.is_empty() {
        return Ok((snapshot, 0));
    }
    let begun = Instant::now();
    let beating = inspector.beating(&suspects)?;
    // Some may only have been late, and are not now.
    let mut snapshot = inspector.snapshot()?;
    let ahead = snapshot.sessions.iter().filter(|it| is_dated_ahead(it));
    let watch = Watch {
        ahead: ahead.map(|it| it.session).collect(),
        suspects,
        beating,
        lasted: begun.elapsed(),
    };
    let holders = snapshot.slots.iter_mut().map(|slot| slot.holder.as_mut());
    for holder in holders.chain([snapshot.table.naming.as_mut()]).flatten() {
        watch.correct(
            holder.session,
            &mut holder.liveness,
            &mut holder.heartbeat_age,
        );
    }
    let mut others = 0;
    for it in &mut snapshot.sessions {
        let has_another = watch.correct(it.session, &mut it.liveness, &mut it.heartbeat_age);
        others += usize::from(has_another);
    }
    Ok((snapshot, others))
}

fn is_dated_ahead(session: &SessionInfo) -> bool {
    session.liveness == Liveness::Alive && session.is_ahead
}

/// What became of those whose dates may say nothing.
struct Watch {
    suspects: Vec<u32>,
    /// Those of them that sent a heartbeat meanwhile.
    beating: Vec<u32>,
    /// Those that are dated later than now.
    ahead: Vec<u32>,
    lasted: Duration,
}

impl Watch {
    /// Corrects what the dates have made of a session; true if those are another clock's.
    fn correct(&self, session: u32, liveness: &mut Liveness, age: &mut Duration) -> bool {
        let is_beating = self.beating.contains(&session);
        match *liveness {
            Liveness::Late if is_beating => *liveness = Liveness::Alive,
            Liveness::Alive if self.ahead.contains(&session) => {
                if self.suspects.contains(&session) && !is_beating {
                    // For so long at least.
                    (*liveness, *age) = (Liveness::Late, self.lasted);
                }
            }
            _ => return false,
        }
        true
    }
}

pub(super) fn clocks(report: &mut Report, others: usize) -> io::Result<()> {
    match others {
        0 => Ok(()),
        _ => report.warn(
            "clocks",
            format_args!(
                "sessions dated by another clock than this one (in a time namespace of their \
                 own): {others}; elsewhere they are shown as late though they are not, or as \
                 alive though they hang, and how long they have held their locks is wrong"
            ),
        ),
    }
}
