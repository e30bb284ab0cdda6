//! A session whose keeper is, for the moment, the thread that opened it.

use std::fmt;
use std::io;

use crate::os::certificate::Certificate;
use crate::session::Session;

/// The calling thread in a keeper's place, for as long as a session needs no heartbeat.
/// For the command line: not part of the library's promise.
///
/// A thread costs more than all the rest of opening a table. A program that holds a lock
/// for a few milliseconds can do without: it opens with
/// [`Options::attended`](crate::Options::attended), attends with
/// [`LockTable::attend`](crate::LockTable::attend), and starts the keeper when it takes
/// longer after all.
///
/// Until then the session is as certain to be found dead as any, at once if the process
/// dies while this value lives. But it sends no heartbeat, notices neither a lost grant nor
/// a replaced table by itself, and calls no
/// [`Guard::on_lost`](crate::Guard::on_lost). So the keeper has to be started within the
/// lease of an [`OnExpiry`](crate::Reclaim::OnExpiry) table: well within it, and before
/// anything that can take long, such as waiting for a lock.
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("app.table");
/// let table = caslock::LockTable::options().attended(true).open(&path)?;
/// let mut attendance = table.attend();
/// let lock = table.lock("nightly-report")?;
/// let guard = match lock.try_acquire() {
///     Ok(guard) => guard,
///     Err(_) => {
///         attendance.start_keeper()?;
///         lock.acquire()?
///     }
/// };
/// guard.release()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// The thread's slice of time stays what it is, other than a keeper's: processes that it
/// starts would inherit a longer one, and one that lives so briefly has little memory to
/// tear down before whoever waits for it gets its processor.
#[doc(hidden)]
#[must_use = "dropped, it leaves the session without anybody who attends to it"]
pub struct Attendance<'a> {
    session: &'a Session,
    /// None once there is a keeper, which has its own; and where the kernel refuses one.
    certificate: Option<Certificate<'a>>,
}

impl<'a> Attendance<'a> {
    pub(crate) fn new(session: &'a Session) -> Self {
        // As for a keeper: without one, waiters have to look for a death themselves.
        let word = session.record().certificate();
        let register = || Certificate::register_briefly(word, &session.gate).ok();
        // Nor after a beat, as in `start_keeper`.
        let has_beaten = session.record().life_sign().has_beaten();
        let certificate = match has_beaten {
            true => None,
            false => session.unless_kept(register).flatten(),
        };
        Self {
            session,
            certificate,
        }
    }

    /// Hands the session over to a keeper thread, if it has none yet.
    ///
    /// # Errors
    ///
    /// When the thread cannot be started. What a keeper does at a beat has been done then: who
    /// goes on trying, a few times per lease, keeps its locks, and notices a replaced table. Its
    /// death is found by those who look for it, every 50 ms at least, until there is a keeper.
    pub fn start_keeper(&mut self) -> io::Result<()> {
        let session = self.session;
        if let Err(error) = session.start_keeper() {
            // Before the beat: once there was one, whoever the certificate names counts as a keeper,
            // which runs nobody's code but ours.
            self.certificate = None;
            session.stand_in();
            return Err(error);
        }
        self.certificate = None;
        Ok(())
    }

    /// Whether the session has a keeper thread.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.session.has_keeper()
    }
}

impl fmt::Debug for Attendance<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attendance")
            .field("is_over", &self.is_over())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mapping::{Access, TableFile};
    use crate::os::certificate::{is_intact, is_marked};
    use crate::os::process;
    use crate::os::testing::{
        Child, Privilege, SharedPage, Watchdog, begin_pid_namespace, deny, exit_alone,
        spawn_in_child, until,
    };
    use crate::protocol::word::Identity;
    use crate::sync::Ordering;
    use crate::table::LockTable;
    use std::thread;
    use std::time::Duration;

    fn place() -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t");
        (dir, path)
    }

    fn open(path: &std::path::Path) -> LockTable {
        LockTable::options().attended(true).open(path).unwrap()
    }

    /// The thread that the session's certificate names.
    fn certified(attendance: &Attendance<'_>) -> Option<u32> {
        let value = attendance.session.record().certificate();
        let value = value.load(Ordering::Relaxed);
        is_intact(value).then_some(value & libc::FUTEX_TID_MASK)
    }

    #[test]
    fn the_certificate_is_this_threads_until_a_keeper_takes_it_over_for_good() {
        let _watchdog = Watchdog::start();
        let (_dir, path) = place();
        let table = open(&path);
        let mut attendance = table.attend();
        assert_eq!(certified(&attendance), Some(process::tid()));
        assert!(!attendance.is_over());
        attendance.start_keeper().unwrap();
        assert!(attendance.is_over());
        until(|| certified(&attendance).is_some_and(|tid| tid != process::tid()));
        let keeper = certified(&attendance);
        attendance.start_keeper().unwrap();
        // Whoever attends after that has nothing to do, and breaks nothing.
        drop(table.attend());
        assert_eq!(certified(&attendance), keeper);
    }

    #[test]
    fn a_session_that_is_attended_no_more_has_no_certificate_and_still_its_locks() {
        let (_dir, path) = place();
        let table = open(&path);
        let attendance = table.attend();
        let lock = table.lock("job").unwrap();
        let guard = lock.acquire().unwrap();
        drop(attendance);
        assert_eq!(certified(&table.attend()), Some(process::tid()));
        guard.release().unwrap();
    }

    #[test]
    fn whoever_opens_the_table_beside_it_gets_a_keeper() {
        let (_dir, path) = place();
        let table = open(&path);
        let attendance = table.attend();
        let other = LockTable::open(&path).unwrap();
        assert_eq!(other.session(), table.session());
        assert!(attendance.is_over());
    }

    #[test]
    fn closing_an_attended_session_leaves_its_record_free() {
        let (_dir, path) = place();
        let table = open(&path);
        let attendance = table.attend();
        let file = TableFile::open(&path, Access::ReadOnly).unwrap();
        let mapping = file.map(&crate::view::new_gate(&path).unwrap()).unwrap();
        let record = &mapping.sessions()[table.session() as usize];
        assert!(record.is_active());
        drop(attendance);
        drop(table);
        assert!(!record.is_active());
        assert_eq!(record.certificate().load(Ordering::Relaxed), 0);
    }

    #[test]
    fn an_attended_process_that_is_killed_has_its_certificate_marked_and_its_locks_reclaimed() {
        let _watchdog = Watchdog::start();
        let (_dir, path) = place();
        LockTable::options().create(&path).unwrap();
        let page = SharedPage::new();
        let child = Child::fork(|| {
            let table = open(&path);
            let _attendance = table.attend();
            let lock = table.lock("job").unwrap();
            let _guard = lock.acquire().unwrap();
            page.word(0).store(table.session() + 1, Ordering::Release);
            thread::sleep(Duration::from_secs(1000));
        });
        until(|| page.word(0).load(Ordering::Acquire) != 0);
        let session = page.word(0).load(Ordering::Acquire) - 1;
        let table = LockTable::open(&path).unwrap();
        let attendance = table.attend();
        let record = attendance.session.view.record(session).unwrap();
        assert!(is_intact(record.certificate().load(Ordering::Relaxed)));
        let pid = child.pid();
        child.kill_and_reap();
        assert!(is_marked(record.certificate().load(Ordering::Relaxed)));
        let lock = table.lock("job").unwrap();
        let guard = lock.acquire().unwrap();
        let departed = guard.previous().departed().unwrap();
        assert_eq!(departed.pid, pid);
    }

    /// Whether a thread that attends, and is its process's last, keeps its session alive beside a
    /// certificate that says that the keeper has ended; `until_then` is what it has done before.
    fn is_asked_after_like_any_other(until_then: fn(&mut Attendance<'_>)) {
        let _watchdog = Watchdog::start();
        let (_dir, path) = place();
        LockTable::options().create(&path).unwrap();
        let page: &'static SharedPage = Box::leak(Box::new(SharedPage::new()));
        let theirs = path.clone();
        let child = Child::fork(move || {
            spawn_in_child(move || {
                let table = open(&theirs);
                let mut attendance = table.attend();
                until_then(&mut attendance);
                page.word(0).store(table.session() + 1, Ordering::Release);
                thread::sleep(Duration::from_secs(1000));
            });
            until(|| page.word(0).load(Ordering::Acquire) != 0);
            exit_alone();
        });
        until(|| page.word(0).load(Ordering::Acquire) != 0);
        let holder = Identity::new(child.pid(), page.word(0).load(Ordering::Acquire) - 1);
        let table = LockTable::open(&path).unwrap();
        let attendance = table.attend();
        let view = &attendance.session.view;
        let keeper = view.keeper(holder);
        until(|| process::has_exited(child.pid()) == Some(true));
        // As by a keeper that ends.
        let certificate = view.record(holder.session()).unwrap().certificate();
        certificate.store(libc::FUTEX_OWNER_DIED, Ordering::Relaxed);
        assert_eq!(view.is_dead_with(keeper, holder), Some(false));
        child.kill_and_reap();
        assert_eq!(view.is_dead_with(keeper, holder), Some(true));
    }

    /// Were it taken for the keeper, it would count as on its way out once the certificate is
    /// marked: by then by the keeper, which has succeeded it.
    #[test]
    fn the_thread_that_attended_is_asked_after_like_any_other() {
        is_asked_after_like_any_other(|_| {});
    }

    /// It beats, as otherwise only a keeper does.
    #[test]
    fn the_thread_that_stood_in_for_a_keeper_is_asked_after_like_any_other() {
        is_asked_after_like_any_other(|attendance| {
            for call in [libc::SYS_clone, libc::SYS_clone3] {
                deny(call, libc::EAGAIN);
            }
            assert!(attendance.start_keeper().is_err());
        });
    }

    #[test]
    fn who_attends_again_after_it_stood_in_is_asked_after_like_any_other() {
        is_asked_after_like_any_other(|attendance| {
            for call in [libc::SYS_clone, libc::SYS_clone3] {
                deny(call, libc::EAGAIN);
            }
            assert!(attendance.start_keeper().is_err());
            *attendance = Attendance::new(attendance.session);
        });
    }

    /// The first process of a PID namespace and its child that is the first of another have the
    /// same id.
    #[test]
    fn a_forked_child_with_its_parents_thread_id_leaves_its_attendance_alone() {
        let _watchdog = Watchdog::start();
        if !Privilege::Mount.is_there() {
            return;
        }
        let (_dir, path) = place();
        Child::fork(|| {
            begin_pid_namespace();
            Child::fork(|| {
                let table = open(&path);
                let mut attendance = Some(table.attend());
                let tid = process::tid();
                begin_pid_namespace();
                Child::fork(|| {
                    assert_eq!(process::tid(), tid);
                    let mut attendance = attendance.take().unwrap();
                    attendance.start_keeper().unwrap();
                    drop(attendance);
                })
                .join();
                assert!(attendance.is_some_and(|its| certified(&its) == Some(tid)));
            })
            .join();
        })
        .join();
    }

    #[test]
    fn a_forked_child_neither_attends_nor_starts_its_parents_keeper() {
        let (_dir, path) = place();
        let table = open(&path);
        let mut attendance = table.attend();
        let certificate = certified(&attendance);
        Child::fork(|| {
            attendance.start_keeper().unwrap();
            assert!(!attendance.is_over());
        })
        .join();
        assert_eq!(certified(&attendance), certificate);
    }
}
