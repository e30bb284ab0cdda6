//! `caslock show`: one lock with everything known of it.

use std::io::{self, Write};
use std::path::Path;

use caslock::{Holder, Inspector, Liveness, Reclaim, SlotInfo, SlotState, human};

use super::inspector;
use crate::cli::Show;
use crate::exit_code::{ExitCode, Refusal};
use crate::output::{Out, Paint, SlotJson, printable};
use crate::paste::argument;
use crate::processes;
use crate::table_path;

pub(crate) fn show(path: &Path, args: &Show) -> anyhow::Result<ExitCode> {
    let inspector = inspector(path)?;
    let Some(slot) = inspector.slot(&args.name)? else {
        let message = format!(
            "{}: no lock named \"{}\"; `caslock {}ls` lists them",
            path.display(),
            printable(&args.name),
            table_path::flag(path)
        );
        return Err(Refusal::new(ExitCode::Refused, message).into());
    };
    let mut out = Out::stdout();
    if args.json {
        out.json(&SlotJson::from(&slot))?;
    } else {
        describe(&mut out, path, &inspector, &slot)?;
    }
    out.finish()?;
    Ok(ExitCode::Success)
}

fn describe(out: &mut Out, path: &Path, inspector: &Inspector, slot: &SlotInfo) -> io::Result<()> {
    line(out, "name", Paint::Bold, &slot.name)?;
    line(out, "table", Paint::Plain, path.display())?;
    line(
        out,
        "state",
        Paint::of_state(slot.state),
        slot.state.as_str(),
    )?;
    line(out, "token", Paint::Plain, slot.token)?;
    line(out, "waiters", Paint::Plain, slot.waiters)?;
    if let Some(holder) = slot.holder {
        let who = format!("{}, session {}", holder.process(), holder.session);
        line(out, "holder", Paint::Plain, who)?;
        line(out, "held for", Paint::Plain, human(holder.held_for))?;
        liveness(out, path, inspector, slot, &holder)?;
        let age = format!("{} ago", human(holder.heartbeat_age));
        line(out, "heartbeat", Paint::Plain, age)?;
    } else {
        let paint = match slot.previous.is_abandoned() {
            true => Paint::Yellow,
            false => Paint::Plain,
        };
        line(out, "previous", paint, slot.previous)?;
    }
    if let Some(note) = &slot.note {
        line(out, "note", Paint::Plain, note)?;
    }
    match slot.state {
        SlotState::Abandoned => hint(
            out,
            "the next holder is told; to acknowledge it now:",
            path,
            slot,
        ),
        SlotState::Corrupt => hint(
            out,
            "the slot's owner word is damaged; to free it:",
            path,
            slot,
        ),
        _ => Ok(()),
    }
}

fn liveness(
    out: &mut Out,
    path: &Path,
    inspector: &Inspector,
    slot: &SlotInfo,
    holder: &Holder,
) -> io::Result<()> {
    // Not of one that has let go of the lock since, and ended.
    let is_gone = holder.same_pid_namespace
        && processes::is_gone_from(path, holder.pid)
        && is_still_held(inspector, slot);
    let text = match (holder.liveness, inspector.reclaim()) {
        (Liveness::Dead, _) => "dead: the next to ask gets the lock",
        (liveness, _) if is_gone => {
            let text = format!(
                "{liveness}: that process is gone, but what it has started keeps its session; \
                 caslock {}doctor says who",
                table_path::flag(path)
            );
            return line(out, "liveness", Paint::Yellow, text);
        }
        (Liveness::Late, Reclaim::OnDeath) => {
            "late: no heartbeat for long; hung, stopped or starved"
        }
        (Liveness::Late, _) => "late: no heartbeat for a whole lease; hung, stopped or starved",
        (Liveness::Alive, _) => "alive",
        _ => "unknown: the kernel could not be asked",
    };
    line(out, "liveness", Paint::of_liveness(holder.liveness), text)
}

/// Whether the lock is held as it was, by a session that lives.
fn is_still_held(inspector: &Inspector, slot: &SlotInfo) -> bool {
    let now = inspector.slot(&slot.name).ok().flatten();
    let lives = |holder: Holder| holder.liveness != Liveness::Dead;
    now.is_some_and(|now| now.token == slot.token && now.holder.is_some_and(lives))
}

fn line(out: &mut Out, label: &str, paint: Paint, value: impl std::fmt::Display) -> io::Result<()> {
    write!(out, "{label:<11}")?;
    out.painted(paint, &printable(&value.to_string()))?;
    out.write_all(b"\n")
}

fn hint(out: &mut Out, why: &str, path: &Path, slot: &SlotInfo) -> io::Result<()> {
    let insist = match slot.state {
        SlotState::Corrupt => " --even-if-alive",
        _ => "",
    };
    writeln!(
        out,
        "{why}\n  caslock {}force-release {} --token {}{insist}",
        table_path::flag(path),
        argument(&slot.name),
        slot.token
    )
}
