//! `caslock force-release`: an operator takes a lock from its holder.

use std::io::Write;
use std::path::Path;

use caslock::{FencingToken, Forced, Liveness, SlotInfo, SlotState, human};

use super::inspector;
use crate::advice::advised;
use crate::cli::ForceRelease;
use crate::exit_code::{ExitCode, Refusal};
use crate::output::{Out, printable};

pub(crate) fn force_release(path: &Path, args: &ForceRelease) -> anyhow::Result<ExitCode> {
    let inspector = inspector(path)?;
    let token = FencingToken::from(args.token);
    // Any other grant than the one that was named is the library's to refuse: it compares
    // in the same step that releases, so nothing can slip in between.
    if let Some(slot) = inspector.slot(&args.name)?
        && slot.token == token
        && !args.even_if_alive
        && let Some(why) = objection(&slot)
    {
        let message = format!(
            "{}: \"{}\" {why}; to insist, add --even-if-alive",
            path.display(),
            printable(&args.name)
        );
        return Err(Refusal::new(ExitCode::Refused, message).into());
    }
    // Whoever insists means to take the lock, and may do so twice: the news of that is not for
    // them to acknowledge.
    let forced = match args.even_if_alive {
        true => inspector.force_release_leaving_news(&args.name, token),
        false => inspector.force_release(&args.name, token),
    };
    let forced = forced.map_err(|error| advised(path, error))?;
    let mut out = Out::stdout();
    let name = printable(&args.name);
    match forced {
        Forced::From(holder) => writeln!(
            out,
            "\"{name}\" taken from {}, token {}, which had held it for {} and is {}",
            holder.process(),
            holder.token,
            human(holder.held_for),
            holder.liveness
        )?,
        Forced::Acknowledged(previous) if args.even_if_alive => {
            let told = "the next holder is told";
            writeln!(out, "\"{name}\" is free already: {previous}; {told}")?;
        }
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
