//! `caslock create`: a table with numbers of one's own.

use std::time::Duration;

use caslock::{LockTable, Reclaim};

use super::cannot_create;
use crate::cli::{Create, ReclaimPolicy};
use crate::exit_code::{ExitCode, Refusal};

const DEFAULT_LEASE: Duration = Duration::from_secs(10);

pub(crate) fn create(args: &Create) -> anyhow::Result<ExitCode> {
    let reclaim = match (args.reclaim, args.lease) {
        (ReclaimPolicy::OnExpiry, lease) => Reclaim::OnExpiry {
            lease: lease.unwrap_or(DEFAULT_LEASE),
        },
        (ReclaimPolicy::OnDeath, None) => Reclaim::OnDeath,
        (ReclaimPolicy::OnDeath, Some(_)) => {
            let message =
                "--lease goes with --reclaim on-expiry: on-death never looks at the clock";
            return Err(Refusal::new(ExitCode::Usage, message).into());
        }
    };
    LockTable::options()
        .slots(args.slots)
        .sessions(args.sessions)
        .reclaim(reclaim)
        .mode(args.mode)
        .create(&args.path)
        .map_err(|error| cannot_create(&args.path, error))?;
    Ok(ExitCode::Success)
}
