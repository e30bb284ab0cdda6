//! `caslock force-release`: an operator takes a lock from its holder.

use std::io::Write;
use std::path::Path;

use caslock::{FencingToken, Forced, Inspector, Liveness, SlotInfo, SlotState, human};

use crate::advice::advised;
use crate::cli::ForceRelease;
use crate::exit_code::{ExitCode, Refusal};
use crate::output::{Out, printable};

pub(crate) fn force_release(path: &Path, args: &ForceRelease) -> anyhow::Result<ExitCode> {
    let inspector = Inspector::open(path)?;
    let token = FencingToken::from(args.token);
    // Any other grant than the one that was named is the library's to refuse: it compares
    // in the same step that releases, so nothing can slip in between.
    let seen = inspector.slot(&args.name)?;
    let mut out = Out::stdout();
    let name = printable(&args.name);
    match seen.filter(|slot| slot.token == token) {
        // Whoever insists means to take the lock, and may do so twice: the news of that is not
        // for them to acknowledge.
        Some(slot) if args.even_if_alive && slot.state == SlotState::Abandoned => {
            writeln!(
                out,
                "\"{name}\" is free already: {}; the next holder is told",
                slot.previous
            )?;
            out.finish()?;
            return Ok(ExitCode::Success);
        }
        Some(slot) if !args.even_if_alive => {
            if let Some(why) = objection(&slot) {
                let path = path.display();
                let message = format!("{path}: \"{name}\" {why}; to insist, add --even-if-alive");
                return Err(Refusal::new(ExitCode::Refused, message).into());
            }
        }
        _ => {}
    }
    let forced = inspector
        .force_release(&args.name, token)
        .map_err(|error| advised(path, error))?;
    match forced {
        Forced::From(holder) => writeln!(
            out,
            "\"{name}\" taken from {}, token {}, which had held it for {} and is {}",
            holder.process(),
            holder.token,
            human(holder.held_for),
            holder.liveness
        )?,
        Forced::Acknowledged(previous) => {
            writeln!(out, "\"{name}\" was free already: {previous}; acknowledged")?;
        }
        Forced::Repaired => writeln!(
            out,
            "\"{name}\" had a damaged owner word; it is free now, and the next holder is told that \
             it was forced"
        )?,
        other => writeln!(out, "\"{name}\": {other:?}")?,
    }
    out.finish()?;
    Ok(ExitCode::Success)
}

/// Why the lock should not be taken without a second thought.
fn objection(slot: &SlotInfo) -> Option<String> {
    if slot.state == SlotState::Corrupt {
        return Some("has a damaged owner word, so nobody can say who holds it".to_owned());
    }
    let holder = slot.holder?;
    match holder.liveness {
        Liveness::Dead => None,
        _ => Some(format!(
            "is held by {holder}, which is not proven dead and may be writing at this moment"
        )),
    }
}
