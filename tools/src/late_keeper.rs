//! A session's keeper, started only once a command has shown that it takes its time.

use std::time::{Duration, Instant};

use caslock::{AcquireError, Attendance, Guard, Lock, LockTable, Reclaim};

/// How long to do without a keeper. Most commands of a busy lock are over by then; and no
/// longer than this does a command that has lost its lock run on before it is told.
const GRACE: Duration = Duration::from_millis(50);

/// The shortest lease under which a session may begin without a heartbeat. Starting the
/// command, too, counts against it, and that can wait for a slow disk.
const LONG_LEASE: Duration = Duration::from_secs(5);

/// How often to try for a keeper while a lock is waited for: each time loses a place in the queue.
const BETWEEN_WAITS: Duration = Duration::from_millis(250);

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
            keeper.start();
        }
        keeper
    }

    /// When it is to be started.
    pub(crate) const fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Starts it now, unless it has been; says whether there is one. Where no thread is to be had,
    /// it is due again and again, and each attempt does what the keeper would: so the session
    /// does without for as long as they go on.
    pub(crate) fn start(&mut self) -> bool {
        if self.due.is_some() {
            let started = self.attendance.start_keeper();
            self.due = started.is_err().then(|| Instant::now() + GRACE);
        }
        self.due.is_none()
    }

    /// Starts it if it is due.
    pub(crate) fn start_if_due(&mut self) {
        if self.due.is_some_and(|due| due <= Instant::now()) {
            self.start();
        }
    }

    /// Takes the lock once there is a keeper: a wait can be long. Where there is none, it goes on
    /// being tried.
    pub(crate) fn acquire<'l>(
        &mut self,
        lock: &'l Lock,
        deadline: Option<Instant>,
    ) -> Result<Guard<'l>, AcquireError> {
        while !self.start() {
            let next = Instant::now() + BETWEEN_WAITS;
            if deadline.is_some_and(|deadline| deadline <= next) {
                break;
            }
            match lock.acquire_until(next) {
                Err(AcquireError::TimedOut { .. }) => {}
                outcome => return outcome,
            }
        }
        match deadline {
            Some(deadline) => lock.acquire_until(deadline),
            None => lock.acquire(),
        }
    }
}
