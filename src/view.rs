//! A mapped table with what it takes to judge its holders: the ground that a session, an
//! inspector and an operator's force-release all stand on.

use std::path::{Path, PathBuf};
use std::ptr;
use std::time::Duration;

use crate::error::{OpenError, io_error};
use crate::holder::{CommandName, Departed, FencingToken, Holder, Liveness, Previous};
use crate::layout::Geometry;
use crate::mapping::{Mapping, TableFile};
use crate::os::byte_lock::{self, Probe};
use crate::os::fork::GatePage;
use crate::os::process::Threads;
use crate::os::{certificate, clock, futex, process};
use crate::protocol::names::{Key, NameRecord, Names, NamingWords};
use crate::protocol::ordering::Site;
use crate::protocol::reclaim::{self, Kernel};
use crate::protocol::session::{Credentials, LifeSign, SessionRecord, SessionView};
use crate::protocol::slot::{Slot, SlotView};
use crate::protocol::wait::Wake;
use crate::protocol::word::{Identity, Owner, Vacancy};
use crate::sync::{AtomicU32, Ordering, ord};

/// A mapped table, and this process's means to ask after its sessions.
pub(crate) struct View {
    pub(crate) path: PathBuf,
    pub(crate) mapping: Mapping,
    pub(crate) geometry: Geometry,
    pub(crate) probe: Probe,
    /// This process's PID namespace, if `/proc` is of it.
    pub(crate) pid_namespace: Option<u64>,
}

/// The thread that keeps a holder's session, as its certificate had it: a mark there leaves
/// nothing of the id.
#[derive(Clone, Copy)]
pub(crate) struct Keeper {
    holder: Identity,
    session: LifeSign,
    tid: u32,
}

fn is_same(one: &SessionView, other: &SessionView) -> bool {
    one.life.is_same_session(&other.life) && one.credentials == other.credentials
}

/// That the kernel could not be asked.
pub(crate) struct NoAnswer;

/// A session's byte is locked for as long as it is mapped, to the end of its address space at the
/// latest; its witness for as long as any process has the descriptor.
impl Kernel for Probe {
    type Error = NoAnswer;

    fn is_held(&self, session: u32) -> Result<bool, NoAnswer> {
        self.is_locked(byte_lock::session_byte(session))
            .ok_or(NoAnswer)
    }

    fn is_witnessed(&self, session: u32, incarnation: u64) -> Result<bool, NoAnswer> {
        self.is_locked_at_all(byte_lock::witness_byte(session, incarnation))
            .ok_or(NoAnswer)
    }
}

/// The kernel's futex, as the protocol's waker.
pub(crate) struct Futex;

impl Wake for Futex {
    fn wake_one(&self, wake: &AtomicU32) -> bool {
        futex::wake(wake, 1) != 0
    }
}

impl View {
    /// Maps the table that `file` is open on.
    pub(crate) fn new(file: &TableFile, gate: &GatePage) -> Result<Self, OpenError> {
        let path = file.path();
        let reopened = file
            .reopen()
            .map_err(io_error(path, "opening the table again"))?;
        Ok(Self {
            probe: Probe::new(reopened, path)
                .map_err(io_error(path, "reading the table's status"))?,
            mapping: file.map(gate)?,
            geometry: *file.geometry(),
            pid_namespace: process::pid_namespace(),
            path: path.to_path_buf(),
        })
    }

    pub(crate) fn names(&self) -> Names<'_> {
        self.mapping.as_names()
    }

    #[inline(always)]
    pub(crate) fn slot(&self, index: u32) -> &Slot {
        &self.mapping.slots()[index as usize]
    }

    /// The number of a slot of this table, by where it is; that is not looked at.
    pub(crate) fn index_of(&self, slot: &Slot) -> u32 {
        let first = self.mapping.slots().as_ptr();
        (ptr::from_ref(slot).addr().wrapping_sub(first.addr()) / size_of::<Slot>()) as u32
    }

    pub(crate) fn name_record(&self, slot: u32) -> &NameRecord {
        &self.mapping.names()[slot as usize]
    }

    /// The record of a session; `None` for a number that the table does not have.
    pub(crate) fn record(&self, session: u32) -> Option<&SessionRecord> {
        self.mapping.sessions().get(session as usize)
    }

    pub(crate) fn key(&self, name: &[u8]) -> Option<Key> {
        Key::new(name, self.mapping.header().hash(name))
    }

    /// Whether the session that wrote an owner word as `holder` is certainly gone.
    ///
    /// `None`: the kernel could not be asked, and nothing may be concluded. The word must
    /// have been read before, and is compared again by the CAS that acts on the answer.
    pub(crate) fn is_dead(&self, holder: Identity) -> Option<bool> {
        self.is_dead_with(None, holder)
    }

    /// [`is_dead`](Self::is_dead), with the holder's [`keeper`](Self::keeper) if it is known,
    /// which makes it quicker.
    pub(crate) fn is_dead_with(&self, keeper: Option<Keeper>, holder: Identity) -> Option<bool> {
        let record = self.record(holder.session())?;
        let before = record.view();
        if before.is_some_and(|view| view.active && view.credentials.pid != holder.pid()) {
            // The record has another owner by now, so it had been given up: a session
            // keeps its PID for life.
            return Some(true);
        }
        // The quicker witness first: right after the certificate's mark, the byte is still
        // locked. What it cannot tell the byte lock can.
        if before.is_some_and(|view| self.is_exiting(record, &view, keeper, holder)) {
            return Some(true);
        }
        let life = before.map_or_else(|| record.life_sign(), |view| view.life);
        reclaim::lives(record, holder.session(), &life, &self.probe)
            .ok()
            .map(|lives| !lives)
    }

    /// The shortcut for a process that is being torn down: its memory, and with it the
    /// byte lock, can take a tenth of a second a gigabyte to go, but none of its tasks
    /// will run user code again. Asked only when its certificate says that it is worth it.
    fn is_exiting(
        &self,
        record: &SessionRecord,
        view: &SessionView,
        keeper: Option<Keeper>,
        holder: Identity,
    ) -> bool {
        let who = &view.credentials;
        let keeper = keeper
            .filter(|keeper| keeper.holder == holder && keeper.session.is_same_session(&view.life));
        let threads = Threads::of(who.pid, keeper.map(|keeper| keeper.tid));
        self.shows_threads(view)
            && certificate::is_marked(record.certificate().load(Ordering::Relaxed))
            && threads.are_all_exiting() == Some(true)
            // The record still is that process's: the answer was about the right one.
            && record.view().is_some_and(|now| is_same(&now, view))
    }

    /// The keeper of a holder's session, for whoever may have to ask whether it has died.
    pub(crate) fn keeper(&self, holder: Identity) -> Option<Keeper> {
        let record = self.record(holder.session())?;
        // In this order: an earlier session's certificate is not taken for this one's. A later
        // one's may be, and is never used: the record has gone on from this session by then.
        let session = record.life_sign();
        let tid = certificate::keeper(record.certificate().load(Ordering::Relaxed))?;
        // Before there is a keeper it may be another thread's, which leaves it to the keeper
        // and runs on: the mark would then say nothing of that thread.
        session.has_beaten().then_some(Keeper {
            holder,
            session,
            tid,
        })
    }

    /// Whether this process sees under `/proc` the threads that a session ends with.
    fn shows_threads(&self, view: &SessionView) -> bool {
        let who = &view.credentials;
        view.active && self.shares_pids_with(who) && !who.shares_witness
    }

    /// Whether a session's PID means the same here as there, for certain.
    pub(crate) fn shares_pids_with(&self, who: &Credentials) -> bool {
        self.pid_namespace == Some(who.pid_namespace)
    }

    pub(crate) fn liveness(&self, holder: Identity) -> (Liveness, Duration) {
        let age = self.heartbeat_age(holder.session());
        let liveness = match self.is_dead(holder) {
            None => Liveness::Unknown,
            Some(true) => Liveness::Dead,
            Some(false) if age > self.geometry.silence() => Liveness::Late,
            Some(false) => Liveness::Alive,
        };
        (liveness, age)
    }

    fn heartbeat_age(&self, session: u32) -> Duration {
        let beat_ms = self
            .record(session)
            .and_then(SessionRecord::view)
            .map_or(0, |view| view.beat_ms);
        since(beat_ms)
    }

    /// Who holds the slot right now.
    pub(crate) fn current_holder(&self, slot: &Slot) -> Option<Holder> {
        (0..64).find_map(|_| self.holder_seen(slot, &slot.view()?))?
    }

    /// Who was `seen` to hold the slot, if anybody was. `None`, to look again, of one that has
    /// left while it was described.
    pub(crate) fn holder_seen(&self, slot: &Slot, seen: &SlotView) -> Option<Option<Holder>> {
        match seen.word.owner() {
            Owner::Held(who) if self.knows(who) => {
                let holder = self.describe(who, seen);
                (!has_left(slot, seen, &holder)).then_some(Some(holder))
            }
            _ => Some(None),
        }
    }

    /// Describes the holder that `slot` was `seen` to have, for people. Of one that has left since,
    /// it is not known whether it lives.
    pub(crate) fn holder(&self, slot: &Slot, who: Identity, seen: &SlotView) -> Holder {
        let mut holder = self.describe(who, seen);
        if has_left(slot, seen, &holder) {
            holder.liveness = Liveness::Unknown;
        }
        holder
    }

    fn describe(&self, who: Identity, slot: &SlotView) -> Holder {
        // Before its liveness: should the record be another's by now, that says that it is dead.
        let credentials = self
            .record(who.session())
            .and_then(SessionRecord::view)
            .map(|view| view.credentials)
            .filter(|credentials| credentials.pid == who.pid());
        let (liveness, heartbeat_age) = self.liveness(who);
        Holder {
            pid: who.pid(),
            session: who.session(),
            command: credentials.map_or_else(CommandName::default, |credentials| {
                CommandName::from_words(credentials.command)
            }),
            token: FencingToken(slot.token),
            held_for: since(slot.since_ms),
            liveness,
            heartbeat_age,
            same_pid_namespace: credentials
                .is_some_and(|credentials| self.shares_pids_with(&credentials)),
            is_namespace_unknown: self.pid_namespace.is_none()
                || credentials.is_none_or(|credentials| credentials.pid_namespace == 0),
        }
    }

    /// Tells a session's keeper that one of its grants was revoked.
    pub(crate) fn notify(&self, session: u32) {
        if let Some(record) = self.record(session) {
            record.notice().fetch_add(1, ord(Site::WakeBump));
            futex::wake(record.notice(), 1);
        }
    }

    /// Whether `who` is an owner that this table can have.
    pub(crate) fn knows(&self, who: Identity) -> bool {
        who.session() < self.geometry.sessions
    }

    /// Whether the holder of a slot may be evicted for its silence: never the holder of
    /// the naming lock, which would come back and write.
    pub(crate) fn lease_of(&self, slot: u32) -> Option<Duration> {
        self.geometry.lease().filter(|_| slot != NamingWords::SLOT)
    }
}

/// Whether a holder that seems dead has let go of the slot since it was `seen` there: it may have
/// left the table after that, as any process does that ends.
fn has_left(slot: &Slot, seen: &SlotView, holder: &Holder) -> bool {
    holder.liveness == Liveness::Dead && slot.owner().grant_only() != seen.word.grant_only()
}

/// A gate for one mapping of the table at `path`.
pub(crate) fn new_gate(path: &Path) -> Result<GatePage, OpenError> {
    GatePage::new().map_err(io_error(path, "mapping a page that a fork wipes"))
}

/// How long ago a coarse time was, by this process's monotonic clock.
pub(crate) fn since(ms: u64) -> Duration {
    Duration::from_millis(now_ms().saturating_sub(ms))
}

pub(crate) fn now_ms() -> u64 {
    clock::now_ns() / 1_000_000
}

/// How a vacant slot's last grant, of `token`, ended.
pub(crate) fn previous_of(owner: Owner, token: u64) -> Previous {
    let departed = |pid, panicked| Departed {
        pid,
        token: FencingToken(token),
        panicked,
    };
    match owner {
        Owner::Vacant(Vacancy::Died(pid)) => Previous::Died(departed(pid, false)),
        Owner::Vacant(Vacancy::Panicked(pid)) => Previous::Died(departed(pid, true)),
        Owner::Vacant(Vacancy::Expired(pid)) => Previous::Expired(departed(pid, false)),
        Owner::Vacant(Vacancy::Forced(pid)) => Previous::Forced(departed(pid, false)),
        Owner::Vacant(Vacancy::Released | Vacancy::Offered | Vacancy::Kept(_)) => {
            Previous::Released
        }
        Owner::Vacant(Vacancy::Fresh) | Owner::Held(_) | Owner::Renaming(_) | Owner::Corrupt => {
            Previous::None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guard::Guard;
    use crate::lock::Lock;
    use crate::os::testing::{Child, SharedPage, Watchdog, exit_alone, until};
    use crate::table::LockTable;

    fn while_held(test: impl FnOnce(&Lock, Guard<'_>)) {
        let dir = tempfile::tempdir().unwrap();
        let table = LockTable::open(dir.path().join("t")).unwrap();
        let lock = table.lock("job").unwrap();
        test(&lock, lock.acquire().unwrap());
    }

    /// It was said to be in another PID namespace.
    #[test]
    fn a_holder_that_cannot_tell_its_pid_namespace_is_not_said_to_be_in_another() {
        while_held(|lock, _guard| {
            let record = lock.session().record();
            let credentials = record.view().unwrap().credentials;
            record.open(&Credentials {
                pid_namespace: 0,
                ..credentials
            });
            let holder = lock.holder().unwrap().unwrap();
            assert!(!holder.same_pid_namespace && holder.is_namespace_unknown);
        });
    }

    /// It was said to be dead, which it was: it had released the lock, and ended.
    #[test]
    fn who_has_let_go_of_a_slot_and_left_is_not_said_to_be_its_dead_holder() {
        while_held(|lock, guard| {
            let session = lock.session();
            let view = &session.view;
            let found = view.names().find(&view.key(b"job").unwrap()).unwrap();
            let slot = view.slot(found.slot);
            // No session's that there is, and so no process's.
            let gone = Identity::new(process::pid(), session.identity.session() + 1);
            let seen_held_by = |who: Identity| SlotView {
                word: slot.owner().granted_to(who),
                token: 0,
                since_ms: 0,
            };
            let own = slot.view().unwrap();
            let dead = view.holder(slot, gone, &own);
            assert_eq!(dead.liveness, Liveness::Dead, "the slot is as it was");
            guard.release().unwrap();
            assert_eq!(view.holder(slot, gone, &own).liveness, Liveness::Unknown);
            assert_eq!(view.holder_seen(slot, &seen_held_by(gone)), None);
            let alive = view.holder_seen(slot, &seen_held_by(session.identity));
            assert_eq!(alive.flatten().unwrap().liveness, Liveness::Alive);
            assert_eq!(view.holder_seen(slot, &slot.view().unwrap()), Some(None));
        });
    }

    /// By that the holder is known to be gone: the byte is the other's, and locked.
    #[test]
    fn a_holder_whose_record_another_has_is_dead_and_not_described_by_it() {
        let _watchdog = Watchdog::start();
        while_held(|lock, _guard| {
            let record = lock.session().record();
            let credentials = record.view().unwrap().credentials;
            let shown = lock.holder().unwrap().unwrap();
            assert_eq!(shown.command, CommandName::from_words(credentials.command));
            assert_eq!(shown.liveness, Liveness::Alive);
            record.open(&Credentials {
                pid: credentials.pid + 1,
                ..credentials
            });
            let holder = lock.holder().unwrap().unwrap();
            assert_eq!((holder.pid, holder.liveness), (shown.pid, Liveness::Dead));
            assert_eq!(holder.command, CommandName::default());
            assert!(!holder.same_pid_namespace && holder.is_namespace_unknown);
        });
    }

    /// A PID of another namespace may be nobody's here, and a child may have the witness.
    #[test]
    fn a_mark_speaks_for_no_process_of_another_pid_namespace_and_none_that_shares_its_witness() {
        let _watchdog = Watchdog::start();
        let dir = tempfile::tempdir().unwrap();
        let options = LockTable::options().attended(true);
        let table = options.open(dir.path().join("t")).unwrap();
        let ended = Child::fork(|| ());
        let pid = ended.pid();
        ended.join();
        let record = table.attached().record();
        let own = record.view().unwrap().credentials;
        let is_dead = |credentials: Credentials| {
            record.open(&credentials);
            let mark = libc::FUTEX_OWNER_DIED;
            record.certificate().store(mark, Ordering::Relaxed);
            let holder = Identity::new(pid, table.session());
            table.attached().view.is_dead(holder)
        };
        let gone = Credentials { pid, ..own };
        assert_eq!(is_dead(gone), Some(true));
        let foreign = Credentials {
            pid_namespace: own.pid_namespace + 1,
            ..gone
        };
        assert_eq!(is_dead(foreign), Some(false));
        let sharing = Credentials {
            shares_witness: true,
            ..gone
        };
        assert_eq!(is_dead(sharing), Some(false));
    }

    /// It would come back, and write what another by then has written.
    #[test]
    fn who_makes_a_name_is_not_evicted_for_its_silence() {
        let dir = tempfile::tempdir().unwrap();
        let lease = Duration::from_secs(1);
        let options = LockTable::options().reclaim(crate::Reclaim::OnExpiry { lease });
        let table = options.open(dir.path().join("t")).unwrap();
        let view = &table.attached().view;
        assert_eq!(view.lease_of(NamingWords::SLOT), None);
        assert_eq!(view.lease_of(NamingWords::SLOT + 1), Some(lease));
    }

    /// The holder is a process whose first thread has ended, and whose keeper lives on.
    #[test]
    fn a_mark_speaks_for_the_keeper_of_that_holder_and_of_that_session_alone() {
        let _watchdog = Watchdog::start();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t");
        let table = LockTable::open(&path).unwrap();
        let page: &'static SharedPage = Box::leak(Box::new(SharedPage::new()));
        let child = Child::fork(|| {
            let table = LockTable::open(&path).unwrap();
            page.word(0).store(table.session() + 1, Ordering::Release);
            exit_alone();
        });
        until(|| page.word(0).load(Ordering::Acquire) != 0);
        let holder = Identity::new(child.pid(), page.word(0).load(Ordering::Acquire) - 1);
        until(|| process::has_exited(child.pid()) == Some(true));
        let lock = table.lock("job").unwrap();
        let view = &lock.session().view;
        until(|| view.keeper(holder).is_some());
        let keeper = view.keeper(holder).unwrap();
        let record = view.record(holder.session()).unwrap();
        // Without a mark it is not to be taken for one that has gone.
        assert_eq!(view.is_dead_with(Some(keeper), holder), Some(false));
        // As if it had.
        record
            .certificate()
            .store(libc::FUTEX_OWNER_DIED, Ordering::Relaxed);
        assert_eq!(view.is_dead_with(None, holder), Some(false));
        assert_eq!(view.is_dead_with(Some(keeper), holder), Some(true));
        let another = Keeper {
            holder: Identity::new(child.pid(), holder.session() + 1),
            ..keeper
        };
        assert_eq!(view.is_dead_with(Some(another), holder), Some(false));
        let credentials = record.view().unwrap().credentials;
        record.open(&credentials);
        assert_eq!(view.is_dead_with(Some(keeper), holder), Some(false));
        assert!(view.keeper(holder).is_none(), "it has no certificate");
    }

    #[test]
    fn an_owner_whose_session_is_one_beyond_the_last_is_none_that_a_table_can_have() {
        let dir = tempfile::tempdir().unwrap();
        let options = LockTable::options().sessions(3);
        let table = options.open(dir.path().join("t")).unwrap();
        let view = &table.attached().view;
        assert!(view.knows(Identity::new(1, 2)) && view.record(2).is_some());
        assert!(!view.knows(Identity::new(1, 3)) && view.record(3).is_none());
    }
}
