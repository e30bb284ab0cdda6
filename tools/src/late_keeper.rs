//! A session's keeper, started only once a command has shown that it takes its time.

use std::io;
use std::time::{Duration, Instant};

use caslock::{Attendance, LockTable, Reclaim};

/// How long to do without a keeper. Most commands of a busy lock are over by then; and no
/// longer than this does a command that has lost its lock run on before it is told.
const GRACE: Duration = Duration::from_millis(50);

/// The shortest lease under which a session may begin without a heartbeat. Starting the
/// command, too, counts against it, and that can wait for a slow disk.
const LONG_LEASE: Duration = Duration::from_secs(5);

/// The keeper of a session that was opened to be attended.
pub(crate) struct LateKeeper<'a> {
    attendance: Attendance<'a>,
    /// None once it has been started.
    due: Option<Instant>,
}

impl<'a> LateKeeper<'a> {
    pub(crate) fn new(table: &'a LockTable) -> Self {
        let mut keeper = Self {
            attendance: table.attend(),
            due: Some(Instant::now() + GRACE),
        };
        let may_be_late = match table.reclaim() {
            Reclaim::OnDeath => true,
            Reclaim::OnExpiry { lease } => lease >= LONG_LEASE,
            _ => false,
        };
        if !may_be_late {
            // It is tried again; so it is where else this is called.
            let _ = keeper.start();
        }
        keeper
    }

    /// When it is to be started.
    pub(crate) const fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Starts it now, unless it has been. Where no thread is to be had, it is due again and
    /// again: each attempt is a heartbeat, so the session does without for as long as they go on.
    pub(crate) fn start(&mut self) -> io::Result<()> {
        if self.due.is_none() {
            return Ok(());
        }
        let started = self.attendance.start_keeper();
        self.due = started.is_err().then(|| Instant::now() + GRACE);
        started
    }

    /// Starts it if it is due.
    pub(crate) fn start_if_due(&mut self) -> io::Result<()> {
        match self.due {
            Some(due) if due <= Instant::now() => self.start(),
            _ => Ok(()),
        }
    }
}
