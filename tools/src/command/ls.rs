//! `caslock ls`: every lock and who holds it.

use std::io::Write;
use std::path::Path;

use caslock::{SlotInfo, human};

use super::inspector;
use crate::cli::Ls;
use crate::exit_code::ExitCode;
use crate::output::{Align, Cell, Columns, Out, Paint, SlotJson, shown};

pub(crate) fn ls(path: &Path, args: &Ls) -> anyhow::Result<ExitCode> {
    let slots = inspector(path)?.snapshot()?.slots;
    let mut out = Out::stdout();
    if args.json {
        out.json(&slots.iter().map(SlotJson::from).collect::<Vec<_>>())?;
    } else if slots.is_empty() {
        writeln!(out, "no locks yet in {}", shown(path))?;
    } else {
        columns(&slots).write(&mut out)?;
    }
    out.finish()?;
    Ok(ExitCode::Success)
}

fn columns(slots: &[SlotInfo]) -> Columns<9> {
    let mut columns = Columns::new([
        ("NAME", Align::Left),
        ("STATE", Align::Left),
        ("TOKEN", Align::Right),
        ("WAITERS", Align::Right),
        ("HELD", Align::Right),
        ("PID", Align::Right),
        ("COMMAND", Align::Left),
        ("LIVENESS", Align::Left),
        ("NOTE", Align::Left),
    ]);
    for slot in slots {
        let [held, pid, command, liveness] = match slot.holder {
            None => [Cell::none(), Cell::none(), Cell::none(), Cell::none()],
            Some(holder) => [
                Cell::new(human(holder.held_for)),
                Cell::pid(holder.pid, holder.same_pid_namespace),
                Cell::new(holder.command),
                Cell::painted(Paint::of_liveness(holder.liveness), holder.liveness),
            ],
        };
        columns.push([
            Cell::new(&slot.name),
            Cell::painted(Paint::of_state(slot.state), slot.state.as_str()),
            Cell::new(slot.token),
            Cell::new(slot.waiters),
            held,
            pid,
            command,
            liveness,
            // Not a dash: most locks have no note, and the column is the last.
            Cell::new(slot.note.as_deref().unwrap_or_default()),
        ]);
    }
    columns
}
