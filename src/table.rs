//! Opening and creating lock tables, and what one does with an open one.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::attendance::Attendance;
use crate::blocking::Patience;
use crate::error::{ForceReleaseError, Forked, InspectError, LockError, OpenError, io_error};
use crate::holder::FencingToken;
use crate::inspect::{Forced, News, Snapshot, force_release};
use crate::layout::Geometry;
use crate::lock::Lock;
use crate::mapping::{Access, Mapping, TableFile};
use crate::os::{byte_lock, clock, fork};
use crate::policy::Reclaim;
use crate::protocol::names::Key;
use crate::protocol::reclaim;
use crate::protocol::session::SessionRecord;
use crate::session::{Attached, Closed, Session};
use crate::view::new_gate;

/// How a table is to be opened, and what it is to be like if it has to be created.
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("app.table");
/// use caslock::{LockTable, Reclaim};
///
/// let table = LockTable::options().slots(65_536).sessions(1024)
///     .reclaim(Reclaim::OnDeath).mode(0o600).open(&path)?;
/// assert_eq!(table.reclaim(), Reclaim::OnDeath);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "options do nothing until `open`, `open_existing` or `create`"]
pub struct Options {
    slots: u32,
    sessions: u32,
    reclaim: Option<Reclaim>,
    mode: u32,
    share_witness: bool,
    attended: bool,
    reset_patience: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            slots: 4096,
            sessions: 256,
            reclaim: None,
            mode: 0o600,
            share_witness: false,
            attended: false,
            // The work takes milliseconds, or a second for a million slots.
            reset_patience: Duration::from_secs(10),
        }
    }
}

impl Options {
    /// How many names a new table can have at a time: 1 to 16,000,000; 4096 by default.
    pub const fn slots(mut self, slots: u32) -> Self {
        self.slots = slots;
        self
    }

    /// How many processes can use a new table at a time: 1 to 4088; 256 by default.
    pub const fn sessions(mut self, sessions: u32) -> Self {
        self.sessions = sessions;
        self
    }

    /// The reclaim policy of a new table. A table that exists must have this very one,
    /// or opening it fails: exclusion is not weakened without a word.
    pub const fn reclaim(mut self, reclaim: Reclaim) -> Self {
        self.reclaim = Some(reclaim);
        self
    }

    /// The permission bits of a new table's file, whatever the umask: `0o600` by default.
    /// Every user of a table needs to read and write it. Others must not be able to write to
    /// it, and should not be able to read it: by read locks on its bytes, whoever can read the
    /// file can block a reset, keep others from attaching, and have a dead session that had shared
    /// its [`witness`](LockTable::witness) look alive: its locks are held until its lease is over,
    /// its record for as long as that goes on. By sleeping on its words, a reader can take wakes
    /// that were meant for others, who look again a poll later.
    pub const fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }

    /// Keeps a descriptor of the table open that proves this session alive, for a child to
    /// inherit; see [`LockTable::witness`]. The first to open a table in a process decides:
    /// later, [`OpenError::NoWitness`] says that there is none.
    pub const fn share_witness(mut self, share: bool) -> Self {
        self.share_witness = share;
        self
    }

    /// Opens the table without starting the keeper thread, for a program that is likely to
    /// be over before a heartbeat is due. The thread that opens it is to attend to the
    /// session in the keeper's place; see [`LockTable::attend`].
    ///
    /// For the command line: not part of the library's promise.
    #[doc(hidden)]
    pub const fn attended(mut self, attended: bool) -> Self {
        self.attended = attended;
        self
    }

    /// How long to wait for another process that resets the table after a boot: 10 s by default.
    ///
    /// For the command line: not part of the library's promise.
    #[doc(hidden)]
    pub const fn reset_patience(mut self, patience: Duration) -> Self {
        self.reset_patience = patience;
        self
    }

    /// Opens the table at `path`, or creates it first.
    ///
    /// # Errors
    ///
    /// [`OpenError`], but never `NotFound` or `AlreadyExists`.
    pub fn open(self, path: impl AsRef<Path>) -> Result<LockTable, OpenError> {
        let path = path.as_ref();
        // Between a look and the next step the file may come or go; a few rounds tell
        // that from a path that somebody keeps replacing.
        for _ in 0..8 {
            match self.open_existing_at(path) {
                Err(OpenError::NotFound { .. }) => {}
                done => return done,
            }
            match self.create(path) {
                Ok(()) | Err(OpenError::AlreadyExists { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Err(OpenError::Unstable {
            path: path.to_path_buf(),
        })
    }

    /// Opens the table at `path`, which must exist.
    ///
    /// # Errors
    ///
    /// [`OpenError::NotFound`], or as for [`Options::open`], creating aside.
    pub fn open_existing(self, path: impl AsRef<Path>) -> Result<LockTable, OpenError> {
        self.open_existing_at(path.as_ref())
    }

    /// Creates the table at `path`, complete before it can be seen, without attaching.
    ///
    /// # Errors
    ///
    /// [`OpenError::AlreadyExists`]; `NoSpace`; `Geometry` or `WorldWritable` for what the
    /// options say; or what is wrong with the path or the filesystem.
    pub fn create(&self, path: impl AsRef<Path>) -> Result<(), OpenError> {
        let path = path.as_ref();
        let geometry = Geometry::new(self.slots, self.sessions, self.reclaim.unwrap_or_default())
            .map_err(|reason| OpenError::Geometry {
            path: path.to_path_buf(),
            reason,
        })?;
        TableFile::create(path, &geometry, self.mode)
    }

    fn open_existing_at(&self, path: &Path) -> Result<LockTable, OpenError> {
        /// How long the end of this process's own last session may take: its keeper has to be
        /// given a processor.
        const OWN_END: Duration = Duration::from_secs(1);
        TableFile::look(path)?;
        let begun = Instant::now();
        let mut resets = 0;
        while resets < 8 {
            // Held from before the file is opened: see `Session::attach`. Through a reset, too:
            // a child that was forked meanwhile would keep the byte of one that is killed.
            let hold = fork::hold_forks();
            let file = TableFile::open(path, Access::ReadWrite)?;
            self.check_policy(&file)?;
            let boot = clock::boot_id()
                .map_err(|error| io_error(file.path(), clock::reading_boot_id(&error))(error))?;
            let path = file.path().to_path_buf();
            let reset = if file.boot_id() == boot {
                match Session::attach(hold, file, self.share_witness, self.attended)? {
                    Attached::To(session) => return Ok(LockTable { session }),
                    Attached::NotInReset => Reset::Underway,
                    Attached::NotYet(error) if begun.elapsed() > OWN_END => return Err(error),
                    Attached::NotYet(_) => {
                        thread::sleep(Duration::from_millis(1));
                        continue;
                    }
                }
            } else {
                let reset = reset_after_reboot(&file, boot)?;
                drop(file);
                drop(hold);
                reset
            };
            // Whatever came of it is followed by another look, at what may be another file.
            match reset {
                // Told once the table is free again: a subscriber may want a lock of it.
                Reset::Done => tracing::info!(table = %path.display(), "reset after a reboot"),
                Reset::ByAnother => {}
                Reset::Underway if begun.elapsed() > self.reset_patience => {
                    return Err(OpenError::ResetStuck { path });
                }
                Reset::Underway => {
                    thread::sleep(Duration::from_millis(1));
                    continue;
                }
            }
            resets += 1;
        }
        // By turns with others, each of which takes another boot id for that of this boot.
        Err(OpenError::ResetBlocked {
            path: path.to_path_buf(),
        })
    }

    fn check_policy(&self, file: &TableFile) -> Result<(), OpenError> {
        let found = file.geometry().reclaim();
        match self.reclaim.filter(|wanted| wanted.in_whole_ms() != found) {
            None => Ok(()),
            Some(wanted) => Err(OpenError::PolicyDiffers {
                path: file.path().to_path_buf(),
                wanted: wanted.to_string(),
                found: found.to_string(),
            }),
        }
    }
}

/// What became of a table of an earlier boot.
enum Reset {
    /// It was reset.
    Done,
    /// Another process had reset it.
    ByAnother,
    /// Another process is at it.
    Underway,
}

/// Resets a table of an earlier boot, once, whoever comes first.
fn reset_after_reboot(file: &TableFile, boot: [u8; 16]) -> Result<Reset, OpenError> {
    let io = |doing| io_error(file.path(), doing);
    let gate = new_gate(file.path())?;
    let mapping = file.map(&gate)?;
    if !byte_lock::try_lock(file.as_fd(), byte_lock::RESET_BYTE)
        .map_err(io("locking the table for its reset"))?
    {
        return Ok(Reset::Underway);
    }
    let outcome = reset_locked(file, &mapping, boot);
    // Not left to the closing: a child that was spawned meanwhile, which no hold keeps from
    // it, has the description until it execs.
    byte_lock::unlock(file.as_fd(), byte_lock::RESET_BYTE)
        .map_err(io("unlocking the table after its reset"))?;
    outcome
}

fn reset_locked(file: &TableFile, mapping: &Mapping, boot: [u8; 16]) -> Result<Reset, OpenError> {
    let header = mapping.header();
    if header.boot_id() == boot {
        return Ok(Reset::ByAnother);
    }
    let held = byte_lock::is_any_locked(file.as_fd(), file.geometry().sessions)
        .map_err(io_error(file.path(), "asking for sessions of the table"))?;
    if held {
        let path = file.path().to_path_buf();
        return Err(OpenError::ResetBlocked { path });
    }
    reclaim::reset(&mapping.as_names(), |slot| {
        let key = mapping.names()[slot as usize].read();
        key.is_some_and(|key: Key| header.hash(&key.to_bytes()) == key.hash())
    });
    mapping.sessions().iter().for_each(SessionRecord::close);
    header.set_boot_id(boot);
    Ok(Reset::Done)
}

/// An open lock table: this process's one session in it, shared by all clones.
///
/// Whoever cuts its file short while it is in use ends its users with SIGBUS, as with every
/// mapped file.
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("app.table");
/// let table = caslock::LockTable::open(&path)?; // opens, or creates with the defaults
/// let lock = table.lock("nightly-report")?;     // resolves the name once
/// let guard = lock.acquire()?;
/// println!("fencing token {}, {}", guard.token(), guard.previous());
/// guard.release()?;                             // an error if it was revoked
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct LockTable {
    session: Arc<Session>,
}

impl std::fmt::Debug for LockTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LockTable")
            .field("path", &self.path())
            .field("session", &self.session())
            .finish()
    }
}

impl LockTable {
    #[cfg(test)]
    pub(crate) fn attached(&self) -> &Arc<Session> {
        &self.session
    }

    /// Opens the table at `path`, or creates it with the defaults.
    ///
    /// # Errors
    ///
    /// As for [`Options::open`].
    pub fn open(path: impl AsRef<Path>) -> Result<Self, OpenError> {
        Self::options().open(path)
    }

    /// How to open a table otherwise than by the defaults.
    pub fn options() -> Options {
        Options::default()
    }

    /// Resolves `name` into a lock, creating the name if the table does not have it.
    ///
    /// Names are 1 to 255 bytes of UTF-8. Resolving costs a hash and a probe; keep the
    /// [`Lock`] where it is used often. A name that nobody uses is forgotten when a full
    /// table needs its slot; when it comes back, its tokens are larger than any that it had.
    ///
    /// # Errors
    ///
    /// [`LockError`]: an impossible name, a full table, a process that has been stuck in
    /// creating a name for 10 s, a damaged naming lock, a replaced file, a fork.
    pub fn lock(&self, name: impl AsRef<str>) -> Result<Lock, LockError> {
        self.lock_within(name, None)
    }

    /// The same, but waits no longer than `timeout` for who is making a name.
    ///
    /// For the command line: not part of the library's promise.
    #[doc(hidden)]
    pub fn lock_within(
        &self,
        name: impl AsRef<str>,
        timeout: Option<Duration>,
    ) -> Result<Lock, LockError> {
        match self.session.closed() {
            Some(Closed::Forked(forked)) => return Err(forked.into()),
            Some(Closed::Replaced(replaced)) => return Err(replaced.into()),
            None => {}
        }
        let patience = timeout.map_or(Patience::Endless, Patience::lasting);
        Lock::resolve(&self.session, name.as_ref(), patience)
    }

    /// A snapshot of slots, holders, waiters and sessions.
    ///
    /// Each slot is read as of one moment, the table as a whole is not.
    ///
    /// # Errors
    ///
    /// [`InspectError::Forked`] in a forked child.
    pub fn inspect(&self) -> Result<Snapshot, InspectError> {
        self.not_forked()?;
        Ok(crate::inspect::snapshot(&self.session.view))
    }

    /// Takes the grant `token` of `name` from its holder, alive or not.
    ///
    /// The holder's guard turns stale: it can no longer release or alter anything, but its
    /// code runs on until it looks ([`Guard::is_held`](crate::Guard::is_held)). On an
    /// abandoned slot this acknowledges the news, and the next owner is not told.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let table = caslock::LockTable::open(dir.path().join("app.table"))?;
    /// # let lock = table.lock("nightly-report")?;
    /// use caslock::Forced;
    ///
    /// let guard = lock.acquire()?; // here our own; in practice that of a process that hangs
    /// let shown = table.inspect()?;
    /// let slot = shown.slot("nightly-report").ok_or("no such lock")?;
    /// if let Forced::From(holder) = table.force_release(&slot.name, slot.token)? {
    ///     println!("taken from {holder}");
    /// }
    /// assert!(guard.release().is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`ForceReleaseError`]; nothing was changed then.
    pub fn force_release(
        &self,
        name: impl AsRef<str>,
        token: impl Into<FencingToken>,
    ) -> Result<Forced, ForceReleaseError> {
        self.not_forked()?;
        let (view, news) = (&self.session.view, News::Acknowledged);
        force_release(view, name.as_ref(), token.into(), news)
    }

    fn not_forked(&self) -> Result<(), Forked> {
        if self.session.gate.is_wiped() {
            return Err(self.session.forked());
        }
        Ok(())
    }

    /// The table's path, absolute.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.session.view.path
    }

    /// The table's reclaim policy.
    #[must_use]
    pub fn reclaim(&self) -> Reclaim {
        self.session.view.geometry.reclaim()
    }

    /// The index of this process's session in the table.
    #[must_use]
    pub fn session(&self) -> u32 {
        self.session.identity.session()
    }

    /// Attends to the session from this thread, after [`Options::attended`], until its
    /// keeper is started.
    ///
    /// For the command line: not part of the library's promise.
    #[doc(hidden)]
    pub fn attend(&self) -> Attendance<'_> {
        Attendance::new(&self.session)
    }

    /// The descriptor that proves this session alive, with [`Options::share_witness`].
    ///
    /// A child that inherits it (clear `FD_CLOEXEC` between fork and exec) keeps the
    /// session from counting as dead: its locks are not granted to others while any
    /// process of the job lives, as with flock(1). It still expires with its keeper.
    ///
    /// It is open for reading alone: a child that goes on as another user can read names and notes
    /// by it, and do what any reader can (see [`Options::mode`]). To write it has to open the file
    /// anew, which the file's own mode decides, whatever the directories above it.
    ///
    /// `None` also where something in this process has closed it.
    ///
    /// A child that is forked and does not exec has it, too, until it drops its handles of this
    /// table. Where the parent had none by then (a guard was forgotten), until it opens a table
    /// itself; where another thread of the parent had one, until it ends.
    #[must_use]
    pub fn witness(&self) -> Option<BorrowedFd<'_>> {
        self.session.witness()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::testing::{Child, SharedPage, Watchdog, spawn_in_child, until};
    use crate::sync::Ordering;
    use std::mem;

    /// A job of a session that is over by now, or dead, may still run.
    #[test]
    fn who_has_a_witness_keeps_a_table_from_being_reset() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t");
        LockTable::options().sessions(2).create(&path).unwrap();
        outdate(&path);
        let witness = std::fs::File::open(&path).unwrap();
        let byte = byte_lock::witness_byte(1, 7);
        byte_lock::lock_for_reading(witness.as_fd(), byte).unwrap();
        let refused = LockTable::open(&path).map(drop);
        assert!(
            matches!(refused, Err(OpenError::ResetBlocked { .. })),
            "{refused:?}"
        );
        let inspector = crate::Inspector::open(&path).unwrap();
        assert!(inspector.checkup().unwrap().is_reset_blocked);
        drop(witness);
        assert!(!inspector.checkup().unwrap().is_reset_blocked);
        LockTable::open(&path).unwrap();
    }

    /// Makes the table one of an earlier boot.
    fn outdate(path: &Path) {
        let file = TableFile::open(path, Access::ReadWrite).unwrap();
        let mapping = file.map(&new_gate(path).unwrap()).unwrap();
        mapping.header().set_boot_id([1; 16]);
    }

    /// Two that took different boot ids for this boot's, as a container with one of its own does,
    /// could both come to use the table: the one attached while the other was about to reset it.
    #[test]
    fn nobody_attaches_to_a_table_while_it_is_reset_or_with_what_it_said_before() {
        let _watchdog = Watchdog::start();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t");
        Options::default().create(&path).unwrap();
        let look = || {
            let hold = fork::hold_forks();
            (hold, TableFile::open(&path, Access::ReadWrite).unwrap())
        };
        let attach = |(hold, file)| match Session::attach(hold, file, false, false).unwrap() {
            Attached::To(session) => Some(session),
            Attached::NotInReset => None,
            Attached::NotYet(error) => panic!("{error}"),
        };
        let (other, reset) = (look().1, byte_lock::RESET_BYTE);
        assert!(byte_lock::try_lock(other.as_fd(), reset).unwrap());
        assert!(attach(look()).is_none());
        byte_lock::unlock(other.as_fd(), reset).unwrap();
        let before = look();
        outdate(&path);
        assert!(attach(before).is_none());
        let now = attach(look()).unwrap();
        assert_eq!(now.identity.session(), 0, "nothing has come of the others");
    }

    #[test]
    fn another_that_resets_is_waited_for_as_long_as_was_asked_for() {
        let _watchdog = Watchdog::start();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t");
        Options::default().create(&path).unwrap();
        outdate(&path);
        let other = TableFile::open(&path, Access::ReadWrite).unwrap();
        assert!(byte_lock::try_lock(other.as_fd(), byte_lock::RESET_BYTE).unwrap());
        let lasting = |patience| Options::default().reset_patience(patience);
        let refused = lasting(Duration::from_millis(10)).open(&path).map(drop);
        assert!(matches!(refused, Err(OpenError::ResetStuck { .. })));
        thread::scope(|scope| {
            scope.spawn(|| {
                thread::sleep(Duration::from_millis(50));
                byte_lock::unlock(other.as_fd(), byte_lock::RESET_BYTE).unwrap();
            });
            let opened = lasting(Duration::from_secs(1000)).open(&path);
            drop(opened.unwrap());
        });
    }

    /// A thread that has it in hand may have lost its processor for long.
    #[test]
    fn who_needs_the_room_of_its_own_last_session_does_not_wait_for_its_end_for_ever() {
        let _watchdog = Watchdog::start();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t");
        let table = Options::default().sessions(1).open(&path).unwrap();
        let in_hand = table.attached().in_hand();
        let last = Arc::downgrade(table.attached());
        thread::scope(|scope| {
            scope.spawn(|| drop(table));
            until(|| last.strong_count() == 0);
            let refused = LockTable::open(&path).map(drop);
            // First of all, for it is waited for.
            drop(in_hand);
            assert!(matches!(refused, Err(OpenError::SessionsFull { .. })));
        });
        drop(LockTable::open(&path).unwrap());
    }

    #[test]
    fn a_reset_that_is_killed_beside_forks_blocks_nobody() {
        let _watchdog = Watchdog::start();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t");
        // So large that a reset takes some milliseconds.
        Options::default().slots(1 << 16).create(&path).unwrap();
        for round in 0..16 {
            let page: &'static SharedPage = Box::leak(Box::new(SharedPage::new()));
            let resetter = Child::fork(|| {
                spawn_in_child(|| {
                    loop {
                        let child = Child::fork(|| {
                            Child::outlive_parent();
                            // Not for ever, should the test be ended meanwhile.
                            let mut looks = 0..30_000;
                            let told = || page.word(0).load(Ordering::Acquire) != 0;
                            until(|| told() || looks.next().is_none());
                        });
                        mem::forget(child);
                        thread::sleep(Duration::from_micros(300));
                    }
                });
                loop {
                    outdate(&path);
                    drop(LockTable::open(&path).unwrap());
                    page.word(1).fetch_add(1, Ordering::AcqRel);
                }
            });
            until(|| page.word(1).load(Ordering::Acquire) > 2);
            thread::sleep(Duration::from_micros(700 * round));
            resetter.kill_and_reap();
            outdate(&path);
            let opened = LockTable::open(&path);
            // First of all, for the children outlive a test that fails.
            page.word(0).store(1, Ordering::Release);
            opened.unwrap();
        }
    }
}
