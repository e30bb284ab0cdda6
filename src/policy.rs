//! When a slot may be taken from a holder that lives.

use std::fmt;
use std::time::Duration;

/// When a slot may be taken from a holder that lives; fixed when a table is created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reclaim {
    /// From a holder that has sent no heartbeat for a whole lease, by a waiter that has
    /// watched it for all of that time. The default, with a lease of 10 s.
    ///
    /// The heartbeat is the process's: a thread that hangs inside its section, in a process
    /// that is otherwise well, keeps its lock, for there is no limit to how long a grant may
    /// be held. Whoever notices one can take its lock with [`LockTable::force_release`](crate::LockTable::force_release); the
    /// holder is told ([`Guard::on_lost`](crate::Guard::on_lost)).
    OnExpiry {
        /// How long a holder may be silent: 100 ms to a day, in whole milliseconds.
        lease: Duration,
    },
    /// Never: exclusion survives SIGSTOP, debuggers and suspend, and a holder that hangs
    /// is waited for until somebody ends it.
    OnDeath,
}

impl Default for Reclaim {
    fn default() -> Self {
        Self::OnExpiry {
            lease: Duration::from_secs(10),
        }
    }
}

impl Reclaim {
    /// The policy as a table keeps it: a lease in whole milliseconds.
    pub(crate) fn in_whole_ms(self) -> Self {
        match self {
            Self::OnExpiry { lease } => {
                let ms = u64::try_from(lease.as_millis()).unwrap_or(u64::MAX);
                Self::OnExpiry {
                    lease: Duration::from_millis(ms),
                }
            }
            Self::OnDeath => self,
        }
    }
}

impl fmt::Display for Reclaim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OnExpiry { lease } => write!(f, "on-expiry (lease {lease:?})"),
            Self::OnDeath => f.write_str("on-death"),
        }
    }
}
