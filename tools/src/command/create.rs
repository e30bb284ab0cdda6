//! `caslock create`: a table with numbers of one's own.

use caslock::{LockTable, Reclaim};

use super::explain_opening;
use crate::cli::{Create, ReclaimPolicy};
use crate::exit_code::{ExitCode, Refusal};
use crate::table_path;

pub(crate) fn create(args: &Create) -> anyhow::Result<ExitCode> {
    let path = match (args.path.as_deref(), args.table.as_deref()) {
        (Some(path), None) | (None, Some(path)) => path,
        (Some(path), Some(table)) => {
            let (path, table) = (path.display(), table.display());
            return Err(usage(format!(
                "two paths for one new table, {path} and --table {table}: name one"
            )));
        }
        // Neither the environment's nor the default: what is made here, others have to find.
        (None, None) => {
            return Err(usage("name the new table's file: caslock create <PATH>"));
        }
    };
    let reclaim = match (args.reclaim, args.lease) {
        (ReclaimPolicy::OnExpiry, Some(lease)) => Reclaim::OnExpiry { lease },
        (ReclaimPolicy::OnExpiry, None) => Reclaim::default(),
        (ReclaimPolicy::OnDeath, None) => Reclaim::OnDeath,
        (ReclaimPolicy::OnDeath, Some(_)) => {
            return Err(usage(
                "--lease goes with --reclaim on-expiry: on-death never looks at the clock",
            ));
        }
    };
    let path = &table_path::absolute(path)?;
    LockTable::options()
        .slots(args.slots)
        .sessions(args.sessions)
        .reclaim(reclaim)
        .mode(args.mode)
        .create(path)
        .map_err(|error| explain_opening(path, error))?;
    Ok(ExitCode::Success)
}

fn usage(message: impl Into<String>) -> anyhow::Error {
    Refusal::new(ExitCode::Usage, message).into()
}
