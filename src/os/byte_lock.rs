//! Byte locks: who holds a byte of the table file is alive, by the kernel's word.
//!
//! They are open-file-description locks (`F_OFD_SETLK`, see `fcntl_locking(2)`): owned by
//! the open file description, so by the mapping that keeps it alive, and not dropped by
//! some stray `close` of the same file as POSIX record locks are. They read the same from
//! every PID namespace. The bytes lie far beyond the file's data: locking is by number,
//! nothing needs to be there.
//!
//! A session's own byte is locked for writing, which takes a file that is open for that. What
//! other programs are to inherit, its witness, is an open file description for reading alone:
//! it has another byte locked, for reading.

use std::io;
use std::mem;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};

use super::descriptor::{FileId, Kept, Status, reopen};
use crate::protocol::word::MAX_SESSIONS;

/// Where the locked bytes begin: half way to the largest offset there is.
const FIRST_BYTE: u64 = 1 << 62;

/// The byte whose holder is resetting a table of another boot.
pub(crate) const RESET_BYTE: u64 = FIRST_BYTE;

/// The byte whose holder is collecting the session records of the dead.
pub(crate) const COLLECT_BYTE: u64 = FIRST_BYTE + 1;

/// Sessions' bytes begin here; the bytes between are left for other purposes.
const FIRST_SESSION_BYTE: u64 = FIRST_BYTE + 4096;

/// Witnesses' bytes begin here.
const FIRST_WITNESS_BYTE: u64 = FIRST_BYTE + (1 << 61);

/// So many of them: one for each session that is ever attached, up to the 2^48th of a record.
const WITNESS_BYTES: u64 = 1 << 60;

/// The byte whose holder owns the session record of this index.
///
/// For the command line as well: not part of the library's promise.
#[must_use]
pub const fn session_byte(index: u32) -> u64 {
    FIRST_SESSION_BYTE + index as u64
}

/// The byte whose readers have the witness of this incarnation of a session.
///
/// A byte of its own for each: one who has outlived a session is no witness of the record's next.
pub(crate) const fn witness_byte(session: u32, incarnation: u64) -> u64 {
    const SESSION_BITS: u32 = 12;
    const { assert!(MAX_SESSIONS <= 1 << SESSION_BITS) };
    FIRST_WITNESS_BYTE + ((incarnation << SESSION_BITS | session as u64) & (WITNESS_BYTES - 1))
}

/// Locks the byte for the open file description, without waiting: `false` if another
/// description holds it. Locking it twice through one description is no conflict.
///
/// # Errors
///
/// When the kernel refuses for another reason; nothing is locked then.
pub(crate) fn try_lock(fd: BorrowedFd<'_>, byte: u64) -> io::Result<bool> {
    try_lock_as(fd, libc::F_WRLCK, byte)
}

/// Locks the byte for reading, likewise: nobody can have it to itself meanwhile, but by
/// [`try_lock`] whoever alone has it so.
///
/// # Errors
///
/// As for [`try_lock`].
pub(crate) fn try_lock_for_reading(fd: BorrowedFd<'_>, byte: u64) -> io::Result<bool> {
    try_lock_as(fd, libc::F_RDLCK, byte)
}

fn try_lock_as(fd: BorrowedFd<'_>, kind: libc::c_int, byte: u64) -> io::Result<bool> {
    match fcntl(fd, FcntlArg::F_OFD_SETLK(&range(kind, byte, 1))) {
        Ok(_) => Ok(true),
        Err(Errno::EAGAIN | Errno::EACCES) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Unlocks the byte, if this open file description holds it.
///
/// # Errors
///
/// When the kernel refuses.
pub(crate) fn unlock(fd: BorrowedFd<'_>, byte: u64) -> io::Result<()> {
    fcntl(fd, FcntlArg::F_OFD_SETLK(&range(libc::F_UNLCK, byte, 1)))?;
    Ok(())
}

/// Whether any other open file description than this has the byte of one of so many sessions, or
/// of a witness. Reading is access enough to ask.
///
/// # Errors
///
/// When the kernel refuses; nothing may be concluded then.
pub(crate) fn is_any_locked(fd: BorrowedFd<'_>, sessions: u32) -> io::Result<bool> {
    let first_of = |first, len| lock_against(fd, libc::F_WRLCK, first, len);
    Ok(first_of(FIRST_SESSION_BYTE, sessions.into())?.is_some()
        || first_of(FIRST_WITNESS_BYTE, WITNESS_BYTES)?.is_some())
}

/// Whether any other open file description than this has the byte, for whatever.
///
/// # Errors
///
/// When the kernel refuses; nothing may be concluded then.
pub(crate) fn is_locked_at_all(fd: BorrowedFd<'_>, byte: u64) -> io::Result<bool> {
    Ok(lock_on(fd, byte)?.is_some())
}

/// Whether any other open file description than this has the byte to itself: who may only read
/// the file cannot, and so makes nobody look alive.
///
/// # Errors
///
/// When the kernel refuses; nothing may be concluded then.
pub(crate) fn is_locked_for_writing(fd: BorrowedFd<'_>, byte: u64) -> io::Result<bool> {
    Ok(lock_against(fd, libc::F_RDLCK, byte, 1)?.is_some())
}

/// Locks the byte beside others that do so, as one can who may only read the file.
///
/// # Errors
///
/// When the kernel refuses, or somebody has the byte to itself; nothing is locked then.
pub(crate) fn lock_for_reading(fd: BorrowedFd<'_>, byte: u64) -> io::Result<()> {
    fcntl(fd, FcntlArg::F_OFD_SETLK(&range(libc::F_RDLCK, byte, 1)))?;
    Ok(())
}

/// The first lock that the kernel finds on the byte, of any other open file description than this.
///
/// # Errors
///
/// When the kernel refuses; nothing may be concluded then.
fn lock_on(fd: BorrowedFd<'_>, byte: u64) -> io::Result<Option<ByteLock>> {
    lock_against(fd, libc::F_WRLCK, byte, 1)
}

/// The first lock on any of `len` bytes from `first` on that one of this kind would have to wait
/// for.
fn lock_against(
    fd: BorrowedFd<'_>,
    kind: libc::c_int,
    first: u64,
    len: u64,
) -> io::Result<Option<ByteLock>> {
    let mut lock = range(kind, first, len);
    fcntl(fd, FcntlArg::F_OFD_GETLK(&mut lock))?;
    let is_there = lock.l_type != libc::F_UNLCK as libc::c_short;
    Ok(is_there.then(|| ByteLock::from_kernel(&lock)))
}

/// A lock that somebody has on a byte of the table file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ByteLock {
    /// Whether it is of the kind that sessions have: exclusive, and an open file description's.
    pub(crate) is_ours: bool,
    /// The process that has it, if it is a process's, and of this PID namespace.
    pub(crate) pid: Option<u32>,
}

impl ByteLock {
    fn from_kernel(lock: &libc::flock) -> Self {
        /// What the kernel says in place of the PID of an open file description's.
        const NO_PROCESS: libc::pid_t = -1;
        Self {
            is_ours: lock.l_type == libc::F_WRLCK as libc::c_short && lock.l_pid == NO_PROCESS,
            pid: u32::try_from(lock.l_pid).ok().filter(|&pid| pid != 0),
        }
    }
}

fn range(kind: libc::c_int, first: u64, len: u64) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: first.cast_signed(),
        l_len: len.cast_signed(),
        // Not a POSIX lock: the kernel insists.
        l_pid: 0,
    }
}

/// Asks whether bytes are locked, through an open file description that locks none.
///
/// A description does not see its own locks, so a session asks about itself and others
/// through this second one. It stays open for long, so every answer is checked to be
/// about the right file ([`Kept`]); what cannot be checked is no answer.
#[derive(Debug)]
pub(crate) struct Probe {
    path: PathBuf,
    id: FileId,
    bytes: u64,
    kept: RwLock<Kept>,
}

impl Probe {
    /// Probes with this descriptor, whose open file description must hold no lock; `path`
    /// is where to look for the file again if the descriptor is closed by a stranger.
    ///
    /// # Errors
    ///
    /// When the descriptor cannot be asked what it is of.
    pub(crate) fn new(fd: OwnedFd, path: &Path) -> io::Result<Self> {
        let status = Status::of(&fd)?;
        Ok(Self {
            path: path.to_owned(),
            id: status.id,
            bytes: status.bytes,
            kept: RwLock::new(Kept::marked(fd, status.id)?),
        })
    }

    /// The file that is probed.
    pub(crate) const fn id(&self) -> FileId {
        self.id
    }

    /// The file's size when the probe was made.
    pub(crate) const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether any open file description but the probe's own has the byte to itself, as a session
    /// has; `None` if that could not be asked.
    pub(crate) fn is_locked(&self, byte: u64) -> Option<bool> {
        self.ask(|kept| kept.ask(|fd| is_locked_for_writing(fd, byte).ok()))
    }

    /// Whether any has it at all, as those have who share a witness; `None` if that could not be
    /// asked.
    pub(crate) fn is_locked_at_all(&self, byte: u64) -> Option<bool> {
        self.ask(|kept| kept.ask(|fd| is_locked_at_all(fd, byte).ok()))
    }

    /// Whether the byte of one of so many sessions, or of a witness, is locked; `None` if that could
    /// not be asked.
    pub(crate) fn is_any_locked(&self, sessions: u32) -> Option<bool> {
        self.ask(|kept| kept.ask(|fd| is_any_locked(fd, sessions).ok()))
    }

    /// The lock that another has on the byte; `None` if it could not be asked.
    pub(crate) fn lock_on(&self, byte: u64) -> Option<Option<ByteLock>> {
        self.ask(|kept| kept.ask(|fd| lock_on(fd, byte).ok()))
    }

    /// What `fstat` tells of the probed file, its name or names aside.
    pub(crate) fn status(&self) -> Option<Status> {
        self.ask(Kept::status)
    }

    fn kept(&self) -> RwLockReadGuard<'_, Kept> {
        self.kept.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of its descriptor.
    pub(crate) fn number(&self) -> RawFd {
        self.kept().number()
    }

    /// Closes its descriptor, in a forked child that has no more use for it.
    pub(crate) fn let_go(&self) {
        // Another thread of the parent may have had it locked: then it stays open.
        if let Ok(kept) = self.kept.try_read() {
            kept.let_go();
        }
    }

    /// Asks, and if there was no answer opens the file once more and asks again.
    fn ask<T>(&self, question: impl Fn(&Kept) -> Option<T>) -> Option<T> {
        if let Some(answer) = question(&self.kept()) {
            return Some(answer);
        }
        let mut kept = self.kept.write().unwrap_or_else(PoisonError::into_inner);
        if kept.status().is_none() {
            // Reading is enough to ask about locks.
            let fd = reopen(&self.path, self.id).ok()?;
            let lost = mem::replace(&mut *kept, Kept::marked(fd, self.id).ok()?);
            // Its number was not ours any more. If it has become the new one's, it is to stay.
            mem::forget(lost);
        }
        question(&kept)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::fork::hold_forks;
    use crate::os::testing::{Child, SharedPage, Watchdog};
    use crate::sync::Ordering;
    use std::fs::{File, OpenOptions};
    use std::os::fd::{AsFd, AsRawFd, IntoRawFd};
    use std::thread;
    use std::time::Duration;

    const BYTE: u64 = session_byte(7);

    struct Table {
        _dir: tempfile::TempDir,
        path: PathBuf,
    }

    impl Table {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("t");
            File::create_new(&path).unwrap();
            Self { _dir: dir, path }
        }

        fn open(&self) -> File {
            OpenOptions::new()
                .read(true)
                .write(true)
                .open(&self.path)
                .unwrap()
        }

        fn probe(&self) -> Probe {
            Probe::new(self.open().into(), &self.path).unwrap()
        }
    }

    /// Programs with another version of this library look for them there, by the same format.
    #[test]
    fn the_bytes_are_where_they_have_always_been() {
        assert_eq!(RESET_BYTE, 0x4000_0000_0000_0000);
        assert_eq!(COLLECT_BYTE, 0x4000_0000_0000_0001);
        assert_eq!(session_byte(0), 0x4000_0000_0000_1000);
        assert_eq!(session_byte(4087), 0x4000_0000_0000_1ff7);
        assert_eq!(witness_byte(0, 0), 0x6000_0000_0000_0000);
        assert_eq!(witness_byte(4087, 1), 0x6000_0000_0000_1ff7);
        assert_eq!(witness_byte(1, u64::MAX), 0x6fff_ffff_ffff_f001);
    }

    #[test]
    fn a_byte_has_one_holder_at_a_time() {
        let table = Table::new();
        let (one, two) = (table.open(), table.open());
        assert!(try_lock(one.as_fd(), BYTE).unwrap());
        assert!(try_lock(one.as_fd(), BYTE).unwrap());
        assert!(!try_lock(two.as_fd(), BYTE).unwrap());
        assert!(try_lock(two.as_fd(), session_byte(8)).unwrap());
        unlock(one.as_fd(), BYTE).unwrap();
        assert!(try_lock(two.as_fd(), BYTE).unwrap());
    }

    #[test]
    fn who_may_only_read_has_no_byte_to_itself() {
        let table = Table::new();
        let (holder, asker) = (table.open(), table.open());
        let probe = table.probe();
        let is_locked = || is_locked_for_writing(asker.as_fd(), BYTE).unwrap();
        lock_for_reading(holder.as_fd(), BYTE).unwrap();
        assert!(is_locked_at_all(asker.as_fd(), BYTE).unwrap());
        assert_eq!(probe.is_locked_at_all(BYTE), Some(true));
        assert!(!is_locked());
        assert_eq!(probe.is_locked(BYTE), Some(false));
        assert!(try_lock(holder.as_fd(), BYTE).unwrap());
        assert!(is_locked());
        assert_eq!(probe.is_locked(BYTE), Some(true));
    }

    #[test]
    fn a_probe_sees_each_byte_by_itself() {
        // A child forked by a test beside this one would inherit the holder's description.
        let _hold = hold_forks();
        let table = Table::new();
        let (holder, probe) = (table.open(), table.probe());
        assert!(try_lock(holder.as_fd(), BYTE).unwrap());
        assert_eq!(probe.is_locked(BYTE), Some(true));
        assert_eq!(probe.is_locked(BYTE - 1), Some(false));
        assert_eq!(probe.is_locked(BYTE + 1), Some(false));
        assert_eq!(probe.is_locked(RESET_BYTE), Some(false));
        for byte in [BYTE - 1, BYTE + 1, RESET_BYTE] {
            assert_eq!(probe.is_locked_at_all(byte), Some(false));
        }
        drop(holder);
        assert_eq!(probe.is_locked(BYTE), Some(false));
    }

    #[test]
    fn a_probe_sees_any_byte_of_a_session_or_a_witness_and_no_other() {
        let _hold = hold_forks();
        let table = Table::new();
        let probe = table.probe();
        let (first, last) = (witness_byte(0, 0), witness_byte(4095, u64::MAX));
        for (byte, is_any) in [
            (RESET_BYTE, false),
            (COLLECT_BYTE, false),
            (session_byte(0), true),
            (session_byte(6), true),
            (session_byte(7), false),
            (first - 1, false),
            (first, true),
            (last, true),
            (last + 1, false),
        ] {
            let holder = table.open();
            lock_for_reading(holder.as_fd(), byte).unwrap();
            assert_eq!(probe.is_any_locked(7), Some(is_any), "{byte:x}");
        }
        assert_eq!(probe.is_any_locked(7), Some(false));
    }

    #[test]
    fn each_session_that_is_ever_attached_has_a_witness_of_its_own() {
        let sessions = || (0..3).chain(4085..4088);
        let bytes =
            sessions().flat_map(|session| [0, 1, 2, 1 << 47].map(|of| witness_byte(session, of)));
        let mut bytes: Vec<_> = bytes.collect();
        bytes.sort_unstable();
        assert!(bytes.windows(2).all(|two| two[0] < two[1]), "{bytes:x?}");
    }

    #[test]
    fn a_lock_says_whether_it_is_of_our_kind_and_else_whose_it_is() {
        let _watchdog = Watchdog::start();
        let (table, page) = (Table::new(), SharedPage::new());
        let (holder, probe) = (table.open(), table.probe());
        assert_eq!(probe.lock_on(BYTE), Some(None));
        let of_a_description = |is_ours| ByteLock { is_ours, pid: None };
        assert!(try_lock(holder.as_fd(), BYTE).unwrap());
        assert_eq!(probe.lock_on(BYTE), Some(Some(of_a_description(true))));
        lock_for_reading(holder.as_fd(), BYTE).unwrap();
        assert_eq!(probe.lock_on(BYTE), Some(Some(of_a_description(false))));
        unlock(holder.as_fd(), BYTE).unwrap();
        for kind in [libc::F_RDLCK, libc::F_WRLCK] {
            page.word(0).store(0, Ordering::Release);
            let child = Child::fork(|| {
                let file = table.open();
                fcntl(file.as_fd(), FcntlArg::F_SETLK(&range(kind, BYTE, 1))).unwrap();
                page.word(0).store(1, Ordering::Release);
                thread::sleep(Duration::from_secs(1000));
            });
            while page.word(0).load(Ordering::Acquire) == 0 {
                thread::sleep(Duration::from_millis(1));
            }
            let of_a_process = ByteLock {
                is_ours: false,
                pid: Some(child.pid()),
            };
            assert_eq!(probe.lock_on(BYTE), Some(Some(of_a_process)));
        }
    }

    #[test]
    fn a_killed_process_holds_its_byte_no_longer() {
        let _watchdog = Watchdog::start();
        let (table, page) = (Table::new(), SharedPage::new());
        let probe = table.probe();
        let child = Child::fork(|| {
            let file = table.open();
            assert!(try_lock(file.as_fd(), BYTE).unwrap());
            page.word(0).store(1, Ordering::Release);
            thread::sleep(Duration::from_secs(1000));
        });
        while page.word(0).load(Ordering::Acquire) == 0 {
            thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(probe.is_locked(BYTE), Some(true));
        child.kill_and_reap();
        assert_eq!(probe.is_locked(BYTE), Some(false));
    }

    /// Another file under the probe's number has none of the locks: believing it would
    /// call every session dead.
    #[test]
    fn a_probe_whose_number_went_to_another_file_opens_its_own_again() {
        let table = Table::new();
        let (holder, probe) = (table.open(), table.probe());
        assert!(try_lock(holder.as_fd(), BYTE).unwrap());
        let number = probe_number(&table, &probe);
        let stranger = tempfile::tempfile().unwrap();
        replace(number, &stranger);
        assert_eq!(probe.is_locked(BYTE), Some(true));
        drop(probe);
        assert_eq!(file_at(number), Status::of(&stranger).unwrap().id);
        close(number);
    }

    /// After `closefrom(3)`, for one. It would close what it has just opened, each time anew.
    #[test]
    fn a_probe_that_gets_its_own_number_again_keeps_it() {
        let _watchdog = Watchdog::start();
        Child::fork(|| {
            let table = Table::new();
            let (holder, probe) = (table.open(), table.probe());
            assert!(try_lock(holder.as_fd(), BYTE).unwrap());
            let number = probe.kept().borrow().unwrap().as_raw_fd();
            // No lower one is free.
            while let Ok(filler) = File::open("/dev/null") {
                if filler.into_raw_fd() > number {
                    break;
                }
            }
            close(number);
            for _ in 0..2 {
                assert_eq!(probe.is_locked(BYTE), Some(true));
                let kept = probe.kept().borrow().map(|fd| fd.as_raw_fd());
                assert_eq!(kept, Some(number));
            }
        })
        .join();
    }

    #[test]
    fn a_probe_that_can_find_its_file_no_more_gives_no_answer() {
        let table = Table::new();
        let (holder, probe) = (table.open(), table.probe());
        assert!(try_lock(holder.as_fd(), BYTE).unwrap());
        let number = probe_number(&table, &probe);
        std::fs::remove_file(&table.path).unwrap();
        assert_eq!(probe.is_locked(BYTE), Some(true));
        assert_eq!(probe.status().unwrap().links, 0);
        replace(number, &tempfile::tempfile().unwrap());
        File::create_new(&table.path).unwrap();
        assert_eq!(probe.is_locked(BYTE), None);
        assert!(probe.status().is_none());
        drop(probe);
        close(number);
    }

    /// Swaps the probe's descriptor for one whose number the test knows.
    fn probe_number(table: &Table, probe: &Probe) -> i32 {
        let fd = OwnedFd::from(table.open());
        let number = fd.as_raw_fd();
        *probe.kept.write().unwrap() = Kept::new(fd).unwrap();
        number
    }

    fn replace(number: i32, file: &File) {
        // SAFETY:
        // - dup2 closes and replaces a number that only this test knows.
        assert_eq!(unsafe { libc::dup2(file.as_raw_fd(), number) }, number);
    }

    fn file_at(number: i32) -> FileId {
        // SAFETY:
        // - the number is open: the test put a file there.
        Status::of(unsafe { BorrowedFd::borrow_raw(number) })
            .unwrap()
            .id
    }

    fn close(number: i32) {
        use std::os::fd::FromRawFd;
        // SAFETY:
        // - nobody but the test uses the number, or knows to look before it does.
        drop(unsafe { OwnedFd::from_raw_fd(number) });
    }

    #[test]
    fn a_dropped_probe_leaves_the_locks_of_others_alone() {
        let _hold = hold_forks();
        let table = Table::new();
        let holder = table.open();
        assert!(try_lock(holder.as_fd(), BYTE).unwrap());
        drop(table.probe());
        assert_eq!(table.probe().is_locked(BYTE), Some(true));
        close(holder.into_raw_fd());
        assert_eq!(table.probe().is_locked(BYTE), Some(false));
    }
}
