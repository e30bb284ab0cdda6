//! `caslock sessions`: the processes that use the table.

use std::fs;
use std::io::Write;
use std::path::Path;

use caslock::{Inspector, Liveness, SessionInfo, human};
use serde::Serialize;

use super::inspector;
use crate::cli::Sessions;
use crate::exit_code::ExitCode;
use crate::output::{Align, Cell, Columns, Out, Paint, millis, shown};
use crate::processes;

pub(crate) fn sessions(path: &Path, args: &Sessions) -> anyhow::Result<ExitCode> {
    let sessions = inspector(path)?.snapshot()?.sessions;
    let mut out = Out::stdout();
    if args.json {
        out.json(&sessions.iter().map(SessionJson::from).collect::<Vec<_>>())?;
    } else if sessions.is_empty() {
        writeln!(out, "no process uses {}", shown(path))?;
    } else {
        columns(&sessions, &kept_by_offspring(path, &sessions)).write(&mut out)?;
    }
    out.finish()?;
    Ok(ExitCode::Success)
}

/// Those of the sessions whose process is gone, and which what it has started keeps: it has
/// inherited the proof of life.
pub(super) fn kept_by_offspring<'a>(
    path: &Path,
    sessions: &'a [SessionInfo],
) -> Vec<&'a SessionInfo> {
    let Ok(table) = fs::symlink_metadata(path) else {
        return Vec::new();
    };
    let is_gone = |session: &&SessionInfo| {
        session.liveness != Liveness::Dead
            && session.same_pid_namespace
            && processes::is_gone(session.pid, &table)
    };
    let gone: Vec<_> = sessions.iter().filter(is_gone).collect();
    if gone.is_empty() {
        return Vec::new();
    }
    // Most have ended since they were seen, and their sessions with them.
    let now = Inspector::open(path).ok();
    let now = now.and_then(|table| table.snapshot().ok());
    let is_still_there = |gone: &&SessionInfo| {
        let is_it = |it: &SessionInfo| {
            (it.session, it.pid) == (gone.session, gone.pid) && it.liveness != Liveness::Dead
        };
        now.as_ref()
            .is_none_or(|now| now.sessions.iter().any(is_it))
    };
    gone.into_iter().filter(is_still_there).collect()
}

fn columns(sessions: &[SessionInfo], kept: &[&SessionInfo]) -> Columns<7> {
    let mut columns = Columns::new([
        ("SESSION", Align::Right),
        ("PID", Align::Right),
        ("COMMAND", Align::Left),
        ("LIVENESS", Align::Left),
        ("HEARTBEAT", Align::Right),
        ("ATTACHED", Align::Right),
        ("LOCKS", Align::Right),
    ]);
    for session in sessions {
        let liveness = match session.liveness {
            liveness if kept.iter().any(|kept| kept.session == session.session) => {
                Cell::painted(Paint::Yellow, format_args!("{liveness} (gone)"))
            }
            liveness => Cell::painted(Paint::of_liveness(liveness), liveness),
        };
        columns.push([
            Cell::new(session.session),
            Cell::pid(session.pid, session.same_pid_namespace),
            Cell::new(session.command),
            liveness,
            Cell::new(human(session.heartbeat_age)),
            Cell::new(human(session.attached_for)),
            Cell::new(session.held),
        ]);
    }
    columns
}

/// A session as `--json` prints it; the fields and their order are part of the interface.
#[derive(Serialize)]
struct SessionJson {
    session: u32,
    pid: u32,
    command: String,
    liveness: &'static str,
    heartbeat_age_ms: u64,
    attached_ms: u64,
    same_pid_namespace: bool,
    held: u32,
}

impl From<&SessionInfo> for SessionJson {
    fn from(session: &SessionInfo) -> Self {
        Self {
            session: session.session,
            pid: session.pid,
            command: session.command.text(),
            liveness: session.liveness.as_str(),
            heartbeat_age_ms: millis(session.heartbeat_age),
            attached_ms: millis(session.attached_for),
            same_pid_namespace: session.same_pid_namespace,
            held: session.held,
        }
    }
}
