//! A process's attachment to a table: its record and byte lock, its keeper thread, and
//! the registry that makes it one session a process and table.

use std::collections::HashMap;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use crate::contention::Contention;
use crate::error::{Forked, Lost, LostHow, OpenError, TableReplaced, io_error};
use crate::holder::FencingToken;
use crate::mapping::TableFile;
use crate::os::byte_lock;
use crate::os::certificate::Certificate;
use crate::os::descriptor::{FileId, Kept, Status};
use crate::os::fork::{ForkHold, Gate, GatePage};
use crate::os::signals::{self, SignalMask};
use crate::os::thread::Thread;
use crate::os::{clock, futex, process, scheduling};
use crate::place::{Place, Whereabouts};
use crate::protocol::names::NamingWords;
use crate::protocol::ordering::Site;
use crate::protocol::reclaim::{self, Bytes, Kernel};
use crate::protocol::session::{Credentials, SessionRecord, Watch};
use crate::protocol::slot::{Grant, Slot};
use crate::protocol::word::{Identity, Owner, OwnerWord};
use crate::runs::Runs;
use crate::sync::{AtomicU32, AtomicU64, Ordering, ord};
use crate::view::{Futex, View, new_gate, now_ms, previous_of};

/// The sessions of this process. Touched only under a [`ForkHold`], so that no
/// child is born with it locked.
static REGISTRY: Mutex<Vec<Registered>> = Mutex::new(Vec::new());

struct Registered {
    file: FileId,
    session: Weak<Session>,
    shared: Weak<Shared>,
    remains: Weak<()>,
}

/// A session, as its handles share it. Dropping the last detaches, unless a guard was forgotten.
pub(crate) struct Session {
    shared: ManuallyDrop<Arc<Shared>>,
}

/// What handles and the keeper thread both use.
pub(crate) struct Shared {
    pub(crate) view: View,
    pub(crate) gate: GatePage,
    pub(crate) identity: Identity,
    place: Place,
    witness: Option<Witness>,
    /// The signal mask of whoever opened the table, for threads that run its callbacks.
    creator_mask: SignalMask,
    /// The time of the last heartbeat in milliseconds: grants are stamped with it, so
    /// that the fast path reads no clock.
    coarse_ms: AtomicU64,
    /// None as long as the session is attended instead ([`crate::Attendance`]).
    keeper: Mutex<Option<Thread>>,
    stopping: AtomicU32,
    /// Itself, where it goes on without handles: a guard was forgotten.
    lingering: Mutex<Option<Arc<Shared>>>,
    pub(crate) contention: Contention,
    watches: Mutex<HashMap<u32, Watch>>,
    /// Slots that this session ever resolved: where a guard may have been forgotten.
    resolved: Runs,
    lost_calls: Mutex<Vec<LostCall>>,
    /// Last, so that it is dropped after the mapping, and with that the session's byte.
    remains: Arc<()>,
}

/// An open file description of the table for reading alone, and the byte that it has locked: for
/// programs to inherit.
struct Witness {
    kept: Kept,
    byte: u64,
}

struct LostCall {
    slot: u32,
    grant: Grant,
    name: Arc<str>,
    call: Box<dyn FnOnce(Lost) + Send>,
}

/// What has come of an attempt to attach.
pub(crate) enum Attached {
    To(Arc<Session>),
    /// Nothing: another process resets the table, or has done so since it was opened.
    NotInReset,
    /// Nothing: all sessions are in use, one of them by this process's own last one, which ends.
    NotYet(OpenError),
}

/// Why the fast path is closed.
pub(crate) enum Closed {
    Forked(Forked),
    Replaced(TableReplaced),
}

impl std::ops::Deref for Session {
    type Target = Shared;

    #[inline]
    fn deref(&self) -> &Shared {
        &self.shared
    }
}

impl Session {
    /// This process's session in the table that `file` is open on: the one there is, or
    /// a new one.
    ///
    /// One hold for the whole attachment. It keeps fork() out from before the file was
    /// opened: a child born between the opening and the closing of the descriptor would
    /// inherit the open file description, and with it the byte lock, and outlive its
    /// parent.
    pub(crate) fn attach(
        hold: ForkHold,
        file: TableFile,
        share_witness: bool,
        attended: bool,
    ) -> Result<Attached, OpenError> {
        // Kept to be dropped after the locks: the last handle of a session joins its keeper, and
        // what ends with it may be the application's.
        let (mut closed, mut over) = (Vec::new(), Vec::new());
        let _hold = hold;
        // To be closed before forks go on.
        let file = file;
        let mut registry = lock(&REGISTRY);
        registry.retain(|entry| entry.remains.strong_count() > 0);
        let id = file.id();
        let mut open = None;
        for entry in registry.iter_mut().filter(|entry| entry.file == id) {
            match entry.session(&mut over) {
                Some(session) if session.gate.state() == Gate::OPEN => {
                    closed.extend(open.replace(session));
                }
                Some(session) => closed.push(session),
                None => {}
            }
        }
        let session = match open {
            Some(session) if share_witness && session.witness.is_none() => {
                closed.push(session);
                let path = file.path().to_path_buf();
                return Err(OpenError::NoWitness { path });
            }
            Some(session) => session,
            None => {
                // Looked at first: what has ended by then leaves its room behind.
                let is_its = |entry: &&Registered| entry.file == id;
                let mut earlier = registry.iter().filter(is_its);
                let one_ends = earlier.any(|entry| entry.is_ending(&mut over));
                let session = match Self::attach_anew(file, share_witness) {
                    Ok(Some(session)) => session,
                    Ok(None) => return Ok(Attached::NotInReset),
                    Err(error @ OpenError::SessionsFull { .. }) if one_ends => {
                        return Ok(Attached::NotYet(error));
                    }
                    Err(error) => return Err(error),
                };
                for entry in &*registry {
                    entry.be_succeeded_by(&session, &mut over);
                }
                let session = Arc::new(session);
                registry.push(Registered {
                    file: id,
                    session: Arc::downgrade(&session),
                    shared: Arc::downgrade(&session.shared),
                    remains: Arc::downgrade(&session.remains),
                });
                session
            }
        };
        if let Err(error) = session.see_to_keeper(attended) {
            closed.push(session);
            return Err(error);
        }
        Ok(Attached::To(session))
    }

    /// None, and no session has come of it, while another process resets the table, or has done so
    /// since `file` was opened.
    fn attach_anew(file: TableFile, share_witness: bool) -> Result<Option<Self>, OpenError> {
        let path = file.path().to_path_buf();
        let gate = new_gate(&path)?;
        let place = Place::new(&file).map_err(io_error(&path, "opening the table's directory"))?;
        let view = View::new(&file, &gate)?;
        let index = claim_record(&view, file.as_fd())?;
        // Whoever resets locks the reset byte, then asks for sessions' bytes. Here the session's
        // byte has been locked, and now the reset byte is asked for: one of the two sees the other.
        // A reset that was over by then shows in the boot id, read once more: a process for which
        // this boot has another id, in a container, may have reset the table since it was opened.
        let is_reset = byte_lock::is_locked_for_writing(file.as_fd(), byte_lock::RESET_BYTE)
            .map_err(io_error(&path, "asking for a reset of the table"))?;
        if is_reset || view.mapping.header().boot_id() != file.boot_id() {
            return Ok(None);
        }
        let record = &view.mapping.sessions()[index as usize];
        // Before the record is opened: where there is none to be had, nothing is left behind.
        let witness = share_witness
            .then(|| Witness::new(&file, index, record.next_incarnation()))
            .transpose()?;
        let now_ms = now_ms();
        let pid = process::pid();
        record.certificate().swap(0, Ordering::Relaxed);
        record.open(&Credentials {
            pid,
            shares_witness: share_witness,
            pid_namespace: view.pid_namespace.unwrap_or(0),
            now_ms,
            command: process::command_name(),
        });
        // The mapping alone has the byte from here on.
        drop(file);
        match view.probe.is_locked(byte_lock::session_byte(index)) {
            Some(true) => {}
            Some(false) => return Err(OpenError::LocksNotKept { path }),
            None => {
                let error = io::Error::other("the kernel does not answer");
                return Err(io_error(&path, "asking for the session's own byte")(error));
            }
        }
        let identity = Identity::new(pid, index);
        gate.issue(identity.bits());
        let shared = Arc::new(Shared {
            resolved: Runs::new(view.geometry.slot_count()),
            view,
            gate,
            identity,
            place,
            witness,
            creator_mask: SignalMask::current(),
            coarse_ms: AtomicU64::new(now_ms),
            keeper: Mutex::default(),
            stopping: AtomicU32::new(0),
            lingering: Mutex::default(),
            watches: Mutex::default(),
            contention: Contention::default(),
            lost_calls: Mutex::default(),
            remains: Arc::default(),
        });
        Ok(Some(Self::of(shared)))
    }

    /// What a thread has in hand while it looks at the session.
    #[cfg(test)]
    pub(crate) fn in_hand(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

    const fn of(shared: Arc<Shared>) -> Self {
        Self {
            shared: ManuallyDrop::new(shared),
        }
    }

    fn see_to_keeper(&self, attended: bool) -> Result<(), OpenError> {
        match attended {
            true => Ok(()),
            false => self
                .start_keeper()
                .map_err(io_error(&self.view.path, "starting the keeper thread")),
        }
    }

    /// The keeper, locked; `None` in a forked child, where another thread of its parent may have
    /// it locked for ever.
    fn lock_keeper(&self) -> Option<MutexGuard<'_, Option<Thread>>> {
        (!self.gate.is_wiped()).then(|| lock(&self.keeper))
    }

    pub(crate) fn has_keeper(&self) -> bool {
        self.lock_keeper().is_some_and(|keeper| keeper.is_some())
    }

    /// Does something that is to come before any keeper thread, unless there is one.
    pub(crate) fn unless_kept<T>(&self, before: impl FnOnce() -> T) -> Option<T> {
        let keeper = self.lock_keeper()?;
        keeper.is_none().then(before)
    }

    /// Starts the keeper thread, unless there is one.
    pub(crate) fn start_keeper(&self) -> io::Result<()> {
        let Some(mut keeper) = self.lock_keeper() else {
            return Ok(());
        };
        if keeper.is_none() {
            let shared = Arc::clone(&self.shared);
            // A thread begins with its starter's mask.
            let mask = SignalMask::current();
            signals::block_all();
            let started = Thread::start(c"caslock-keeper", move || shared.keep());
            mask.apply();
            *keeper = Some(started?);
        }
        Ok(())
    }
}

impl Registered {
    /// Has a look at the session, if there is something left of it. Whoever drops its last handle
    /// waits for that; where nobody does, and it ends here, it goes to `over`.
    fn look<T>(&self, over: &mut Vec<Shared>, at: impl FnOnce(&Arc<Shared>) -> T) -> Option<T> {
        let shared = self.shared.upgrade()?;
        let seen = at(&shared);
        over.extend(Arc::into_inner(shared));
        Some(seen)
    }

    /// The session, also if nothing is left of it but a grant that was forgotten.
    fn session(&mut self, over: &mut Vec<Shared>) -> Option<Arc<Session>> {
        if let Some(session) = self.session.upgrade() {
            return Some(session);
        }
        let lingering = self.look(over, |shared| match shared.gate.state() {
            Gate::OPEN => shared.take_lingering(),
            // In a forked child another thread of the parent may have locked what that asks.
            _ => None,
        });
        let session = Arc::new(Session::of(lingering??));
        self.session = Arc::downgrade(&session);
        Some(session)
    }

    /// Whether it has no handles any more, and is about to give its record back, if it is not
    /// doing so.
    fn is_ending(&self, over: &mut Vec<Shared>) -> bool {
        let lingers = |shared: &Arc<Shared>| shared.gate.is_wiped() || shared.lingers();
        self.session.strong_count() == 0 && self.look(over, lingers) != Some(true)
    }

    /// Takes from an earlier session what it is not to have once this process has attached as
    /// `own`. A descriptor whose number is `own`'s now: the kernel gives out no number that is
    /// open, so a stranger has closed the earlier one's. And all descriptors of a session of the
    /// parent's that has no handles here: nobody else will close them.
    fn be_succeeded_by(&self, own: &Shared, over: &mut Vec<Shared>) {
        self.look(over, |shared| {
            let own_probe = own.view.probe.number();
            let own = own.place_and_witness().map(Kept::number);
            for number in own.chain([own_probe]) {
                let earlier = shared.place_and_witness();
                earlier.for_each(|kept| kept.forget(number));
            }
            if shared.gate.is_wiped() && self.session.strong_count() == 0 {
                shared.abandon();
            }
        });
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // SAFETY:
        // - taken once, and not used after.
        let shared = unsafe { ManuallyDrop::take(&mut self.shared) };
        if shared.gate.is_wiped() {
            shared.abandon();
            return;
        }
        // The lock of a guard that was forgotten is this process's for as long as that lives, and
        // so is the session. Whoever opens the table meanwhile waits for what comes of it.
        let mut lingering = lock(&shared.lingering);
        if shared.is_of_use() {
            *lingering = Some(Arc::clone(&shared));
            return;
        }
        shared.stop();
        drop(lingering);
        let keeper = lock(&shared.keeper).take();
        if let Some(keeper) = keeper {
            shared.view.notify(shared.identity.session());
            // It runs nobody's code but ours, and has nothing to tell.
            keeper.join();
        } else {
            shared.leave();
        }
        shared.end();
    }
}

impl Witness {
    /// Of the session that is about to open its record.
    fn new(file: &TableFile, session: u32, incarnation: u64) -> Result<Self, OpenError> {
        let io = |doing| io_error(file.path(), doing);
        let byte = byte_lock::witness_byte(session, incarnation);
        let fd = file.reopen().map_err(io("opening the session's witness"))?;
        byte_lock::lock_for_reading(fd.as_fd(), byte)
            .map_err(io("locking the session's witness"))?;
        let kept = Kept::new(fd).map_err(io("keeping the session's witness"))?;
        Ok(Self { kept, byte })
    }
}

/// Finds a session record that nobody has, and locks its byte through `fd`.
fn claim_record(view: &View, fd: BorrowedFd<'_>) -> Result<u32, OpenError> {
    /// Each is a system call for each session, where all of them live.
    const MOST_LOOKS: u32 = 8;
    let io = |doing| io_error(&view.path, doing);
    let (slots, records) = (view.mapping.slots(), view.mapping.sessions());
    let claim = || reclaim::claim(records, &ByteLocks(fd));
    if let Some(index) = claim().map_err(io("locking a session's byte"))? {
        return Ok(index);
    }
    // Every record has been used, or another bars it just now. Who collects has the bytes of the dead
    // for a moment each: another that came to collect might find the table full.
    let turn = wait_for_turn(fd).map_err(io("locking the session records"))?;
    // Others come and go all the while, into the records that were just looked at: once more, then.
    let look = || match claim()? {
        None => reclaim::collect(slots, records, &ByteLocks(fd), &Futex),
        mine => Ok(mine),
    };
    let claimed = (0..MOST_LOOKS).find_map(|_| look().transpose()).transpose();
    if turn {
        // Kept too long at worst: until this session ends.
        let _ = byte_lock::unlock(fd, byte_lock::COLLECT_BYTE);
    }
    let claimed = claimed.map_err(io("freeing the records of dead sessions"))?;
    claimed.ok_or_else(|| OpenError::SessionsFull {
        path: view.path.clone(),
        sessions: view.geometry.sessions,
    })
}

/// The sessions' bytes, through an open file description that has none of them yet.
struct ByteLocks<'a>(BorrowedFd<'a>);

impl Kernel for ByteLocks<'_> {
    type Error = io::Error;

    fn is_held(&self, session: u32) -> io::Result<bool> {
        byte_lock::is_locked_for_writing(self.0, byte_lock::session_byte(session))
    }

    fn is_witnessed(&self, session: u32, incarnation: u64) -> io::Result<bool> {
        byte_lock::is_locked_at_all(self.0, byte_lock::witness_byte(session, incarnation))
    }
}

impl Bytes for ByteLocks<'_> {
    fn try_bar(&self, session: u32) -> io::Result<bool> {
        byte_lock::try_lock_for_reading(self.0, byte_lock::session_byte(session))
    }

    fn try_lock(&self, session: u32) -> io::Result<bool> {
        byte_lock::try_lock(self.0, byte_lock::session_byte(session))
    }

    fn unlock(&self, session: u32) -> io::Result<()> {
        byte_lock::unlock(self.0, byte_lock::session_byte(session))
    }
}

/// Waits until no other process collects records. False when it does not come to that:
/// the other may be stopped, and to find the table full is the worst that can happen.
fn wait_for_turn(fd: BorrowedFd<'_>) -> io::Result<bool> {
    /// Collecting takes a pass over the slots: milliseconds. No longer, for all forks of this
    /// process wait meanwhile, and all that open tables.
    const PATIENCE: Duration = Duration::from_secs(1);
    let begun_ns = clock::now_ns();
    while !byte_lock::try_lock(fd, byte_lock::COLLECT_BYTE)? {
        // Who may only read the table can keep others from locking the byte, and from nothing else.
        if !byte_lock::is_locked_for_writing(fd, byte_lock::COLLECT_BYTE)? {
            return byte_lock::try_lock(fd, byte_lock::COLLECT_BYTE);
        }
        if clock::now_ns() - begun_ns > nanos(PATIENCE) {
            return Ok(false);
        }
        thread::sleep(Duration::from_millis(1));
    }
    Ok(true)
}

impl Shared {
    pub(crate) fn witness(&self) -> Option<BorrowedFd<'_>> {
        let witness = self.witness.as_ref()?;
        let fd = witness.kept.borrow()?;
        // Where a stranger has closed it, its number may have come to be of another descriptor of
        // the very table: whichever is handed out has the byte locked.
        byte_lock::lock_for_reading(fd, witness.byte).ok()?;
        Some(fd)
    }

    pub(crate) fn record(&self) -> &SessionRecord {
        &self.view.mapping.sessions()[self.identity.session() as usize]
    }

    #[inline]
    pub(crate) fn coarse_ms(&self) -> u64 {
        self.coarse_ms.load(Ordering::Relaxed)
    }

    /// Why no grant is to be had from this session, if that is so.
    pub(crate) fn closed(&self) -> Option<Closed> {
        match self.gate.state() {
            Gate::OPEN => None,
            Gate::CLOSED => Some(Closed::Replaced(TableReplaced {
                path: self.view.path.clone(),
            })),
            _ => Some(Closed::Forked(self.forked())),
        }
    }

    pub(crate) fn forked(&self) -> Forked {
        Forked {
            path: self.view.path.clone(),
        }
    }

    pub(crate) fn note_resolved(&self, slot: u32) {
        self.resolved.insert(slot);
    }

    /// For how long the holder in `word` has been seen silent by whoever keeps `watch`, in
    /// nanoseconds; 0 for a holder that the table does not know.
    pub(crate) fn look(
        &self,
        watch: &mut Option<Watch>,
        word: OwnerWord,
        holder: Identity,
        now_ns: u64,
    ) -> u64 {
        let Some(record) = self.view.record(holder.session()) else {
            return 0;
        };
        let cap_ns = 2 * nanos(self.view.geometry.poll());
        let life = record.life_sign();
        let watch = watch.get_or_insert_with(|| Watch::new(word, life, now_ns));
        let silent = watch.look(word, life, now_ns, cap_ns);
        // Looked at again last of all: a beat meanwhile starts over.
        if record.life_sign() == watch.life() {
            silent
        } else {
            0
        }
    }

    /// For how long the holder in `word` has been seen silent by this process, which goes on
    /// with a watch of its own, unless the caller's is newer.
    pub(crate) fn silence(
        &self,
        slot: u32,
        begun: Option<Watch>,
        word: OwnerWord,
        holder: Identity,
        now_ns: u64,
    ) -> u64 {
        let mut watches = lock(&self.watches);
        let own = watches.get(&slot).copied();
        let mut watch = match (own, begun) {
            (Some(own), Some(begun)) if !own.agrees_with(&begun) => Some(begun),
            (own, begun) => own.or(begun),
        };
        let silent = self.look(&mut watch, word, holder, now_ns);
        if let Some(watch) = watch {
            watches.insert(slot, watch);
        }
        silent
    }

    #[cfg(test)]
    pub(crate) fn is_watched(&self, slot: u32) -> bool {
        lock(&self.watches).contains_key(&slot)
    }

    pub(crate) fn forget_watch(&self, slot: u32) {
        lock(&self.watches).remove(&slot);
    }

    /// Has `call` called when the grant is found revoked.
    pub(crate) fn on_lost(
        &self,
        slot: u32,
        grant: Grant,
        name: Arc<str>,
        call: Box<dyn FnOnce(Lost) + Send>,
    ) {
        lock(&self.lost_calls).push(LostCall {
            slot,
            grant,
            name,
            call,
        });
        // It may be lost already: have the keeper look now.
        self.view.notify(self.identity.session());
    }

    /// The guard is about to release: its callbacks are not to be called any more.
    #[cold]
    pub(crate) fn forget_lost_calls(&self, slot: u32, token: FencingToken) {
        let is_its = |call: &mut LostCall| call.slot == slot && call.grant.token() == token.0;
        let silenced = lock(&self.lost_calls)
            .extract_if(.., is_its)
            .collect::<Vec<_>>();
        // Dropped without the lock: what the closures own may want it.
        drop(silenced);
    }

    /// How a grant that is no longer current was lost.
    pub(crate) fn lost(&self, slot: u32, token: FencingToken, name: &str) -> Lost {
        let how = match self.view.slot(slot).view() {
            Some(now) if now.token == token.0 => {
                LostHow::Vacated(previous_of(now.word.owner(), now.token))
            }
            Some(now) => match now.word.owner() {
                Owner::Held(holder) if self.view.knows(holder) => {
                    LostHow::TakenOver(self.view.holder(self.view.slot(slot), holder, &now))
                }
                _ => LostHow::Gone,
            },
            None => LostHow::Gone,
        };
        Lost {
            name: name.to_owned(),
            token,
            how,
        }
    }

    /// The keeper thread: beats, watches over the file's place, brings news of losses. It has
    /// every signal blocked that its process may get.
    fn keep(&self) {
        let record = self.record();
        let certificate = Certificate::register(record.certificate(), &self.gate);
        // Without a certificate waiters look for a death themselves, every 50 ms at least; and with
        // the usual slice of time, one may have to wait until the keeper has torn its process down.
        // Neither failure is logged: a subscriber is the application's code.
        let _ = scheduling::yield_to_the_woken();
        process::ease_counting();
        let period = nanos(self.view.geometry.beat());
        let mut due = clock::now_ns();
        loop {
            let notices = record.notice().load(ord(Site::Wake));
            let now = clock::now_ns();
            let is_due = now >= due;
            if is_due {
                self.beat(now);
                due = now + period;
            }
            self.look_around(is_due);
            if is_due {
                self.end_lingering();
            }
            // Last: who forgot a guard is still told of its loss, and what has just ended ends.
            if self.stopping.load(ord(Site::Wake)) == 1 {
                break;
            }
            futex::wait(record.notice(), notices, due);
        }
        if let Ok(certificate) = certificate {
            certificate.withdraw();
        }
        self.leave();
    }

    fn beat(&self, now_ns: u64) {
        let now_ms = now_ns / 1_000_000;
        self.record().beat(now_ms);
        self.coarse_ms.swap(now_ms, Ordering::Relaxed);
    }

    /// What the keeper does at each beat, for want of one.
    pub(crate) fn stand_in(&self) {
        self.beat(clock::now_ns());
        self.look_around(true);
    }

    /// Ends what was a session: its mapping is gone then, and its byte unlocked. Waits for threads
    /// that attach, of which each has a look at all sessions of the process.
    fn end(mut self: Arc<Self>) {
        /// Of a thread that has lost its processor amid some instructions: a second was seen on a
        /// busy machine.
        const PATIENCE: Duration = Duration::from_secs(10);
        let begun_ns = clock::now_ns();
        while let Err(seen) = Arc::try_unwrap(self) {
            self = seen;
            if clock::now_ns() - begun_ns > nanos(PATIENCE) {
                return;
            }
            thread::sleep(Duration::from_micros(50));
        }
    }

    /// Closes the session's record: nobody beats any more.
    fn leave(&self) {
        // One that a slot still names is left to whoever collects: that one looks at the slots.
        if !(self.is_table_gone() && self.holds_any()) {
            self.record().close();
        }
        // Who has inherited the witness of a session that is over is in nobody's way.
        if let Some(Witness { kept, byte }) = &self.witness
            && let Some(fd) = kept.borrow()
        {
            let _ = byte_lock::unlock(fd, *byte);
        }
    }

    /// Takes the session out of its own hands, into those of whoever opens its table, if it lingers.
    /// Waits for one whose last handle is being dropped just now.
    fn take_lingering(&self) -> Option<Arc<Self>> {
        /// Some instructions of a thread that may have lost its processor among them: a second was
        /// seen on a busy machine.
        const PATIENCE: Duration = Duration::from_secs(2);
        let begun_ns = clock::now_ns();
        loop {
            let taken = lock(&self.lingering).take();
            if taken.is_some() || self.stopping.load(ord(Site::Wake)) == 1 {
                return taken;
            }
            let waited_ns = clock::now_ns() - begun_ns;
            if waited_ns > nanos(PATIENCE) {
                return None;
            }
            match waited_ns < 100_000 {
                true => thread::yield_now(),
                false => thread::sleep(Duration::from_micros(50)),
            }
        }
    }

    /// Whether it goes on without handles.
    fn lingers(&self) -> bool {
        lock(&self.lingering).is_some()
    }

    /// Whether the table is nowhere any more. One that was moved away may come back.
    fn is_table_gone(&self) -> bool {
        let has_no_name = |status: Status| status.links == 0;
        self.gate.state() != Gate::OPEN && self.view.probe.status().is_some_and(has_no_name)
    }

    /// Whether it goes on though it has no handles: a guard was forgotten, of a table that is still
    /// there.
    fn is_of_use(&self) -> bool {
        !self.is_table_gone() && self.holds_any()
    }

    /// Has the keeper end it. Said with `lingering` locked: who finds there that it does not linger
    /// finds that it ends.
    fn stop(&self) {
        self.stopping.swap(1, ord(Site::WakeBump));
    }

    /// Ends a session that goes on without handles for nothing: its table is gone, or the
    /// forgotten grant was taken from it.
    fn end_lingering(&self) {
        // Under the lock from the look on: whoever takes the session up in between may forget a
        // guard in its turn.
        let mut lingering = lock(&self.lingering);
        if lingering.is_none() || self.is_of_use() {
            return;
        }
        *lingering = None;
        self.stop();
        drop(lingering);
        // The application's, and so is what dropping them does.
        let calls = std::mem::take(&mut *lock(&self.lost_calls));
        let _ = self.aside(move || drop(calls));
    }

    /// The descriptors that are known by their file alone.
    fn place_and_witness(&self) -> impl Iterator<Item = &Kept> {
        let witness = self.witness.iter().map(|witness| &witness.kept);
        witness.chain([self.place.directory()])
    }

    /// Closes what a forked child has inherited of the session, of which it has dropped the last
    /// handle: the witness would keep the parent's locks for as long as the child lives. The rest
    /// stays as it is, for the keeper's part in it is a thread's that the child does not have.
    fn abandon(&self) {
        self.place_and_witness().for_each(Kept::let_go);
        self.view.probe.let_go();
    }

    /// What the keeper looks after besides its beat: the file's place, and lost grants.
    fn look_around(&self, is_due: bool) {
        if is_due
            && self.gate.state() == Gate::OPEN
            && self.place.check(&self.view.probe) == Whereabouts::Gone
        {
            self.gate.close();
            let table = self.view.path.clone();
            let _ = self.aside(move || {
                tracing::error!(table = %table.display(), "lock table unlinked or replaced; no further grants");
            });
        }
        let is_lost = |call: &mut LostCall| !self.view.slot(call.slot).is_current(&call.grant);
        let calls = lock(&self.lost_calls)
            .extract_if(.., is_lost)
            .collect::<Vec<_>>();
        calls.into_iter().for_each(|call| self.tell(call));
    }

    /// Has a thread call what was to be called; later, if there is no thread to be had.
    fn tell(&self, call: LostCall) {
        let lost = self.lost(call.slot, FencingToken(call.grant.token()), &call.name);
        let left_here = Arc::new(Mutex::new(Some(call)));
        let taken_along = Arc::clone(&left_here);
        let begun = self.aside(move || {
            let call = lock(&taken_along).take();
            if let Some(LostCall { call, .. }) = call {
                // The log last: a subscriber that fails or blocks keeps nothing from anybody.
                call(lost.clone());
                tracing::warn!(%lost, "grant lost");
            }
        });
        if begun.is_err() {
            let untold = lock(&left_here).take();
            lock(&self.lost_calls).extend(untold);
        }
    }

    /// Runs the application's code on a thread of its own: whatever it does, panicking,
    /// forking or taking its time, the heart goes on beating.
    ///
    /// # Errors
    ///
    /// When there is no thread to be had; the code has been dropped.
    fn aside(&self, code: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let mask = self.creator_mask;
        let run = move || {
            mask.apply();
            code();
        };
        Thread::start(c"caslock-notice", run).map(drop)
    }

    /// Whether a guard was forgotten.
    fn holds_any(&self) -> bool {
        let slots = self.view.mapping.slots();
        let is_ours = |slot: &Slot| slot.owner().owner() == Owner::Held(self.identity);
        is_ours(self.view.slot(NamingWords::SLOT))
            || self.resolved.iter().any(|run| {
                let end = run.end.min(slots.len());
                slots[run.start..end].iter().any(is_ours)
            })
    }
}

/// Locks one of the standard library's, which are no more than a word each: others keep their
/// waiters in a table of the whole process's, and a forked child has that as the threads that it
/// does not have left it. What a panic has left locked is as good as ever.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::holder::Liveness;
    use crate::os::certificate;
    use crate::os::fork::hold_forks;
    use crate::os::testing::{
        Child, SharedPage, Watchdog, close_descriptors, deny, end_at, pretend, until,
    };
    use crate::table::LockTable;
    use nix::sys::signal::{SigSet, Signal};
    use rustix::io::Errno;
    use std::fs;
    use std::os::fd::AsRawFd;
    use std::path::Path;
    use std::sync::mpsc;
    use tracing::{Event, Metadata, Subscriber, span};

    fn open() -> (tempfile::TempDir, LockTable) {
        let dir = tempfile::tempdir().unwrap();
        let table = LockTable::open(dir.path().join("t")).unwrap();
        (dir, table)
    }

    #[test]
    fn where_no_thread_is_to_be_had_a_loss_is_told_later() {
        let _watchdog = Watchdog::start();
        Child::fork(|| {
            let (_dir, table) = open();
            let lock = table.lock("job").unwrap();
            let guard = lock.acquire().unwrap();
            guard.on_lost(|_| unreachable!("there is no thread for it"));
            let session = lock.session();
            let take = || super::lock(&session.lost_calls).pop();
            let call = take().unwrap();
            for call in [libc::SYS_clone, libc::SYS_clone3] {
                deny(call, libc::EAGAIN);
            }
            session.tell(call);
            assert!(take().is_some_and(|call| &*call.name == "job"));
        })
        .join();
    }

    #[test]
    fn in_a_forked_child_the_keeper_is_nobodys_though_another_thread_had_it_locked() {
        let _watchdog = Watchdog::start();
        let (_dir, table) = open();
        let lock = table.lock("job").unwrap();
        let _locked = super::lock(&lock.session().keeper);
        Child::fork(|| {
            let session = lock.session();
            assert!(!session.has_keeper());
            assert!(session.unless_kept(|| ()).is_none());
            session.start_keeper().unwrap();
        })
        .join();
    }

    /// A closed one is taken over unswept: by one whose PID is the same in a namespace of its own,
    /// it was the very owner that the slot named.
    #[test]
    fn a_record_that_a_slot_of_a_lost_table_still_names_is_not_closed() {
        let _watchdog = Watchdog::start();
        for is_forgotten in [true, false] {
            let (dir, table) = open();
            let lock = table.lock("job").unwrap();
            let shared = Arc::clone(&lock.session().shared);
            if is_forgotten {
                std::mem::forget(lock.acquire().unwrap());
            }
            fs::remove_file(dir.path().join("t")).unwrap();
            drop((lock, table));
            // The keeper's is gone once it has ended.
            while Arc::strong_count(&shared) > 1 {
                thread::sleep(Duration::from_millis(10));
            }
            assert_eq!(shared.record().is_active(), is_forgotten);
        }
    }

    /// Who may only read a table held up each opening for a second, and all forks with it.
    #[test]
    fn a_reader_that_locks_it_lets_nobody_wait_for_its_turn_to_collect() {
        let _watchdog = Watchdog::start();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t");
        LockTable::options().sessions(1).create(&path).unwrap();
        // So that its record is in use, and nobody's.
        let dead = Child::fork(|| {
            std::mem::forget(LockTable::open(&path).unwrap());
            end_at(libc::SYS_getppid);
            nix::unistd::getppid();
        });
        assert!(dead.ends_by(Signal::SIGSYS));
        let _reader = locked_by_a_reader(&path, byte_lock::COLLECT_BYTE);
        Child::fork(|| {
            end_at(libc::SYS_clock_nanosleep);
            drop(LockTable::open(&path).unwrap());
        })
        .join();
    }

    /// A table of two sessions, one of them dead: it owns the slot of "job", and its byte alone
    /// tells that it is dead.
    fn left_by_the_dead() -> (tempfile::TempDir, LockTable) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t");
        LockTable::options().sessions(2).create(&path).unwrap();
        let table = LockTable::open(&path).unwrap();
        die_holding_job(&path);
        (dir, table)
    }

    /// A process that shares a witness takes the lock of "job", and ends.
    fn die_holding_job(path: &Path) {
        Child::fork(|| {
            let options = LockTable::options().share_witness(true);
            let table = options.open(path).unwrap();
            let lock = table.lock("job").unwrap();
            std::mem::forget(lock.acquire().unwrap());
            std::mem::forget((lock, table));
        })
        .join();
    }

    /// Somebody who may only read the table has this byte locked.
    fn locked_by_a_reader(path: &Path, byte: u64) -> fs::File {
        let reader = fs::File::open(path).unwrap();
        byte_lock::lock_for_reading(reader.as_fd(), byte).unwrap();
        reader
    }

    #[test]
    fn who_may_only_read_makes_nobody_look_alive_to_who_collects() {
        let _watchdog = Watchdog::start();
        let (dir, table) = left_by_the_dead();
        let _reader = locked_by_a_reader(&dir.path().join("t"), byte_lock::session_byte(1));
        let lock = table.lock("job").unwrap();
        // Who collects frees the dead one's slot all the same, and has no use of its record.
        let full = LockTable::options().sessions(2);
        Child::fork(|| {
            let refused = full.open(dir.path().join("t")).map(drop);
            assert!(matches!(refused, Err(OpenError::SessionsFull { .. })));
        })
        .join();
        assert!(lock.holder().unwrap().is_none());
        let guard = lock.try_acquire().unwrap();
        assert!(guard.previous().departed().is_some());
    }

    #[test]
    fn who_may_only_read_makes_nobody_look_alive_to_who_waits() {
        let _watchdog = Watchdog::start();
        let (dir, table) = left_by_the_dead();
        let _reader = locked_by_a_reader(&dir.path().join("t"), byte_lock::session_byte(1));
        let lock = table.lock("job").unwrap();
        let guard = lock.try_acquire().unwrap();
        assert!(guard.previous().departed().is_some());
    }

    /// That is what sharing one costs, and what the table's mode is for.
    #[test]
    fn who_may_only_read_can_be_taken_for_one_who_has_inherited_a_witness() {
        let _watchdog = Watchdog::start();
        let (dir, table) = left_by_the_dead();
        let lock = table.lock("job").unwrap();
        let life = lock.session().view.record(1).unwrap().life_sign();
        let byte = byte_lock::witness_byte(1, life.incarnation());
        let reader = locked_by_a_reader(&dir.path().join("t"), byte);
        assert!(lock.try_acquire().is_err());
        let full = LockTable::options().sessions(2);
        Child::fork(|| {
            let refused = full.open(dir.path().join("t")).map(drop);
            assert!(matches!(refused, Err(OpenError::SessionsFull { .. })));
        })
        .join();
        assert!(lock.holder().unwrap().is_some());
        drop(reader);
        let guard = lock.try_acquire().unwrap();
        assert!(guard.previous().departed().is_some());
    }

    #[test]
    fn wherever_a_collector_is_stopped_the_dead_look_dead() {
        let _watchdog = Watchdog::start();
        let (dir, table) = left_by_the_dead();
        let lock = table.lock("job").unwrap();
        let view = &lock.session().view;
        let holder_in = |slot: &Slot| match slot.owner().owner() {
            Owner::Held(holder) => Some(holder),
            _ => None,
        };
        let mut slots = view.mapping.slots().iter();
        let held = slots.find_map(|slot| Some((slot, holder_in(slot)?)));
        let (slot, holder) = held.unwrap();
        let Some(collector) = Child::stopping_at_its_calls(|| {
            let options = LockTable::options().attended(true);
            drop(options.open(dir.path().join("t")).unwrap());
        }) else {
            return;
        };
        let (mut beside_the_dead, mut after) = (0, 0);
        while collector.goes_on_to_its_next_call() {
            if holder_in(slot) == Some(holder) {
                beside_the_dead += 1;
                assert_eq!(view.is_dead(holder), Some(true));
            } else {
                after += 1;
            }
        }
        assert!(
            beside_the_dead > 0 && after > 0,
            "{beside_the_dead}, {after}"
        );
    }

    /// It took the byte of a record that it had seen unused before it looked again: another had come
    /// into it and died there, and was not found dead for as long as the first was stopped.
    #[test]
    fn wherever_a_claimer_is_stopped_the_dead_look_dead() {
        let _watchdog = Watchdog::start();
        let dir = tempfile::tempdir().unwrap();
        for stops_before in 0.. {
            let path = dir.path().join(format!("t{stops_before}"));
            LockTable::options().sessions(3).create(&path).unwrap();
            let table = LockTable::open(&path).unwrap();
            let lock = table.lock("job").unwrap();
            let view = &lock.session().view;
            let Some(claimer) = Child::stopping_at_its_calls(|| {
                let options = LockTable::options().attended(true);
                drop(options.open(&path).unwrap());
            }) else {
                return;
            };
            if !(0..stops_before).all(|_| claimer.goes_on_to_its_next_call()) {
                assert!(stops_before > 20, "{stops_before}");
                return;
            }
            die_holding_job(&path);
            let holder_in = |slot: &Slot| match slot.owner().owner() {
                Owner::Held(holder) => Some(holder),
                _ => None,
            };
            let holder = view.mapping.slots().iter().find_map(holder_in).unwrap();
            let mut stops = stops_before;
            while claimer.goes_on_to_its_next_call() {
                stops += 1;
                assert_eq!(view.is_dead(holder), Some(true), "{stops_before}, {stops}");
            }
            let guard = lock.try_acquire().unwrap();
            assert!(guard.previous().departed().is_some());
        }
    }

    #[test]
    fn who_leaves_just_after_it_was_looked_at_leaves_its_room_to_who_looks() {
        let _watchdog = Watchdog::start();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t");
        LockTable::options().sessions(2).create(&path).unwrap();
        let page = SharedPage::new();
        let leaver = Child::fork(|| {
            let table = LockTable::open(&path).unwrap();
            page.word(0).store(1, Ordering::Release);
            until(|| page.word(1).load(Ordering::Acquire) == 1);
            drop(table);
        });
        until(|| page.word(0).load(Ordering::Acquire) == 1);
        let table = LockTable::open(&path).unwrap();
        let lock = table.lock("job").unwrap();
        let is_locked = |byte| lock.session().view.probe.is_locked(byte).unwrap();
        let Some(opener) = Child::stopping_at_its_calls(|| {
            let options = LockTable::options().attended(true);
            drop(options.open(&path).unwrap());
        }) else {
            return;
        };
        while !is_locked(byte_lock::COLLECT_BYTE) {
            assert!(opener.goes_on_to_its_next_call());
        }
        // Into the question whether the first lives, and out of it with the answer.
        for _ in 0..2 {
            assert!(opener.goes_on_to_its_next_call());
        }
        page.word(1).store(1, Ordering::Release);
        leaver.join();
        let mut is_in_and_has_had_its_turn = false;
        while opener.goes_on_to_its_next_call() {
            is_in_and_has_had_its_turn |=
                is_locked(byte_lock::session_byte(0)) && !is_locked(byte_lock::COLLECT_BYTE);
        }
        assert!(is_in_and_has_had_its_turn, "who comes next waits for it");
    }

    /// Its number was another's by then, who lost it when the first session ended.
    #[test]
    fn a_number_that_a_stranger_has_closed_belongs_to_the_session_that_got_it_next() {
        let _watchdog = Watchdog::start();
        let dir = tempfile::tempdir().unwrap();
        Child::fork(|| {
            let [first, second] = ["a", "b"].map(|name| dir.path().join(name));
            let first = LockTable::open(first).unwrap();
            close_descriptors();
            let second = LockTable::open(second).unwrap();
            let lock = second.lock("job").unwrap();
            let is_open = |kept: &Kept| kept.borrow().is_some();
            assert!(lock.session().place_and_witness().all(is_open));
            drop(first);
            assert!(lock.session().place_and_witness().all(is_open));
        })
        .join();
    }

    /// Some filesystems say that they lock, and keep nothing: all sessions would look dead there,
    /// and each be robbed by the next.
    #[test]
    fn where_locks_are_said_to_be_taken_and_are_not_no_table_is_opened() {
        let _watchdog = Watchdog::start();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t");
        LockTable::options().create(&path).unwrap();
        Child::fork(|| {
            pretend(libc::SYS_fcntl, libc::F_OFD_SETLK);
            let refused = LockTable::open(&path).map(drop);
            assert!(matches!(refused, Err(OpenError::LocksNotKept { .. })));
        })
        .join();
    }

    /// Only of the end of its own session, which makes room, there is something to wait for.
    #[test]
    fn who_finds_all_sessions_in_use_waits_for_none_that_does_not_end_just_now() {
        let _watchdog = Watchdog::start();
        let dir = tempfile::tempdir().unwrap();
        let [theirs, own] = ["theirs", "own"].map(|name| dir.path().join(name));
        for path in [&theirs, &own] {
            LockTable::options().sessions(1).create(path).unwrap();
        }
        let mut table = Some(LockTable::open(&theirs).unwrap());
        let is_refused_at_once = |path: &Path| {
            end_at(libc::SYS_clock_nanosleep);
            let refused = LockTable::open(path).map(drop);
            assert!(matches!(refused, Err(OpenError::SessionsFull { .. })));
        };
        Child::fork(|| is_refused_at_once(&theirs)).join();
        // The same without a handle of what it has inherited.
        Child::fork(|| {
            drop(table.take());
            is_refused_at_once(&theirs);
        })
        .join();
        // One of its own that gives nothing away any more, and has a handle.
        Child::fork(|| {
            let table = ManuallyDrop::new(LockTable::open(&own).unwrap());
            table.attached().gate.close();
            is_refused_at_once(&own);
        })
        .join();
        // And one that has none, and goes on for a guard that was forgotten.
        Child::fork(|| {
            let table = LockTable::open(&own).unwrap();
            let lock = table.lock("job").unwrap();
            std::mem::forget(lock.acquire().unwrap());
            table.attached().gate.close();
            drop((lock, table));
            is_refused_at_once(&own);
        })
        .join();
    }

    #[test]
    fn of_sessions_that_are_over_the_registry_keeps_nothing() {
        let _watchdog = Watchdog::start();
        let (dir, table) = open();
        let path = dir.path().join("t");
        drop(table);
        let entries = || {
            let id = Status::at_path(&path).unwrap().id;
            let _hold = hold_forks();
            let registry = super::lock(&REGISTRY);
            registry.iter().filter(|entry| entry.file == id).count()
        };
        for _ in 0..3 {
            let _table = LockTable::open(&path).unwrap();
            // What a test beside this one has in hand is there for a moment longer.
            let is_alone = |_| {
                drop(LockTable::open(dir.path().join("other")).unwrap());
                entries() == 1
            };
            assert!((0..100).any(is_alone));
        }
    }

    /// As a program has it that the session's process has started, and that lives on.
    #[test]
    fn who_has_inherited_the_witness_of_a_session_that_is_over_keeps_nothing_of_it() {
        let _watchdog = Watchdog::start();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t");
        let options = LockTable::options().sessions(1).share_witness(true);
        let table = options.open(&path).unwrap();
        let asker = fs::File::open(&path).unwrap();
        let is_locked = || byte_lock::is_any_locked(asker.as_fd(), 1).unwrap();
        let inherited = table.witness().unwrap().try_clone_to_owned().unwrap();
        assert!(is_locked());
        drop(table);
        assert!(!is_locked());
        drop(LockTable::open(&path).unwrap());
        drop(inherited);
    }

    /// A collector that took the living for dead would free their slots.
    #[test]
    fn who_collects_the_records_of_the_dead_leaves_the_living_what_they_hold() {
        let _watchdog = Watchdog::start();
        let (dir, table) = left_by_the_dead();
        let mine = table.lock("mine").unwrap();
        let guard = mine.acquire().unwrap();
        Child::fork(|| drop(LockTable::open(dir.path().join("t")).unwrap())).join();
        assert!(guard.is_held());
        assert!(table.lock("job").unwrap().holder().unwrap().is_none());
        guard.release().unwrap();
    }

    /// It may be stopped: to find no room is then the worst that can happen.
    #[test]
    fn who_collects_is_waited_for_but_not_for_ever() {
        let _watchdog = Watchdog::start();
        let (dir, _table) = left_by_the_dead();
        let path = dir.path().join("t");
        let collector = fs::File::options().read(true).write(true).open(&path);
        let collector = collector.unwrap();
        assert!(byte_lock::try_lock(collector.as_fd(), byte_lock::COLLECT_BYTE).unwrap());
        let waiting = Child::fork(|| {
            end_at(libc::SYS_clock_nanosleep);
            std::mem::forget(LockTable::open(&path).unwrap());
        });
        assert!(waiting.ends_by(Signal::SIGSYS));
        Child::fork(|| drop(LockTable::open(&path).unwrap())).join();
    }

    /// It is in nobody's hands for a moment, and was not found there: the process had two sessions
    /// then, of which the one was refused what the other held.
    #[test]
    fn a_session_that_comes_to_linger_just_now_is_the_next_handles_session() {
        let _watchdog = Watchdog::start();
        let (dir, mut table) = open();
        let lock = table.lock("job").unwrap();
        let guard = lock.acquire().unwrap();
        let token = guard.token();
        std::mem::forget(guard);
        drop(lock);
        let session = table.session();
        for _ in 0..3000 {
            let last = table;
            let dropper = thread::spawn(move || drop(last));
            table = LockTable::open(dir.path().join("t")).unwrap();
            dropper.join().unwrap();
            assert_eq!(table.session(), session);
        }
        table.force_release("job", token).unwrap();
    }

    /// Programs that inherit it may take it for one of their own, and may run as anybody.
    #[test]
    fn nothing_gets_into_the_table_through_a_witness() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t");
        let options = LockTable::options().share_witness(true);
        let table = options.open(&path).unwrap();
        let witness = table.witness().unwrap();
        assert_eq!(rustix::io::write(witness, b"a log line"), Err(Errno::BADF));
        assert_eq!(
            rustix::io::pwrite(witness, b"a log line", 0),
            Err(Errno::BADF)
        );
        assert_eq!(rustix::fs::ftruncate(witness, 0), Err(Errno::INVAL));
        let mapped = memmap2::MmapOptions::new().map_raw(&witness);
        assert_eq!(mapped.unwrap_err().raw_os_error(), Some(libc::EACCES));
        // Nor can it be locked so that somebody is kept out.
        let byte = byte_lock::session_byte(0);
        assert!(byte_lock::try_lock(witness, byte).is_err());
    }

    /// It was handed on as a witness, and locked nothing: a job that had it ran on while its lock was
    /// granted to another.
    #[test]
    fn whatever_has_come_by_the_number_of_a_witness_is_handed_out_with_its_byte_locked_or_not_at_all()
     {
        let _watchdog = Watchdog::start();
        Child::fork(|| {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("t");
            let options = LockTable::options().share_witness(true);
            let table = options.open(&path).unwrap();
            let asker = fs::File::open(&path).unwrap();
            let lock = table.lock("job").unwrap();
            let byte = lock.session().witness.as_ref().unwrap().byte;
            let is_locked = || byte_lock::is_locked_at_all(asker.as_fd(), byte).unwrap();
            assert!(is_locked());
            let number = table.witness().unwrap().as_raw_fd();
            let comes_by_it = |file: &fs::File| {
                // SAFETY:
                // - what has the number is the library's, which is to notice.
                assert_eq!(unsafe { libc::dup2(file.as_raw_fd(), number) }, number);
            };
            let anothers = tempfile::tempfile().unwrap();
            comes_by_it(&anothers);
            assert!(!is_locked());
            assert!(table.witness().is_none());
            comes_by_it(&fs::File::open(&path).unwrap());
            assert!(!is_locked());
            assert_eq!(table.witness().unwrap().as_raw_fd(), number);
            assert!(is_locked());
        })
        .join();
    }

    /// Its lock is of another byte: the record's next session, which may share one, too, would
    /// seem to live on in whatever the one before had started.
    #[test]
    fn who_still_has_the_witness_of_a_session_before_is_no_witness_of_the_next() {
        let _watchdog = Watchdog::start();
        let (dir, table) = left_by_the_dead();
        let path = dir.path().join("t");
        let lock = table.lock("job").unwrap();
        // As if one that it has started lived on, and another session had come into its record.
        let record = |session| lock.session().view.record(session).unwrap();
        let before = byte_lock::witness_byte(1, record(1).life_sign().incarnation());
        let witness = locked_by_a_reader(&path, before);
        let holder = lock.holder().unwrap().unwrap();
        assert_ne!(holder.liveness, Liveness::Dead);
        table.force_release("job", holder.token).unwrap();
        record(1).close();
        die_holding_job(&path);
        assert_ne!(
            byte_lock::witness_byte(1, record(1).life_sign().incarnation()),
            before
        );
        assert_eq!(lock.holder().unwrap().unwrap().liveness, Liveness::Dead);
        drop(witness);
    }

    #[test]
    fn a_grant_is_stamped_with_the_time_of_the_last_heartbeat() {
        let _watchdog = Watchdog::start();
        let dir = tempfile::tempdir().unwrap();
        let options = LockTable::options().attended(true);
        let table = options.open(dir.path().join("t")).unwrap();
        let lock = table.lock("job").unwrap();
        let session = lock.session();
        let stamp = || {
            let guard = lock.acquire().unwrap();
            let slots = session.view.mapping.slots().iter();
            let mut held =
                slots.filter(|slot| slot.owner().owner() == Owner::Held(session.identity));
            let stamp = held.next().unwrap().view().unwrap().since_ms;
            guard.release().unwrap();
            stamp
        };
        let attached_ms = session.record().view().unwrap().credentials.now_ms;
        assert_eq!(stamp(), attached_ms);
        until(|| now_ms() > attached_ms);
        session.stand_in();
        let beat_ms = session.record().view().unwrap().beat_ms;
        assert!(attached_ms < beat_ms && beat_ms <= now_ms());
        assert_eq!(stamp(), beat_ms);
    }

    #[test]
    fn a_release_silences_no_other_grant_of_the_same_token() {
        let _watchdog = Watchdog::start();
        let (_dir, table) = open();
        let locks = ["one", "two"].map(|name| table.lock(name).unwrap());
        let [one, two] = locks.each_ref().map(|lock| lock.acquire().unwrap());
        assert_eq!(one.token(), two.token());
        let (tell, told) = mpsc::channel();
        one.on_lost(|_| unreachable!("it is released"));
        two.on_lost(move |lost| tell.send(lost.name).unwrap_or_default());
        one.release().unwrap();
        table.force_release("two", two.token()).unwrap();
        assert_eq!(told.recv(), Ok("two".to_owned()));
    }

    /// How many descriptors this process has of the file at a path.
    fn descriptors_of(path: &Path) -> usize {
        let numbers = fs::read_dir("/proc/self/fd").unwrap();
        let links = numbers.map(|number| fs::read_link(number.unwrap().path()));
        links
            .filter(|link| link.as_ref().is_ok_and(|link| link == path))
            .count()
    }

    #[test]
    fn a_forked_child_that_opens_the_table_itself_stays_a_witness_while_it_has_handles() {
        let _watchdog = Watchdog::start();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t");
        let options = LockTable::options().share_witness(true);
        let table = options.clone().open(&path).unwrap();
        Child::fork(|| {
            let own = options.open(&path).unwrap();
            assert_ne!(own.session(), table.session());
            assert!(table.witness().is_some());
        })
        .join();
    }

    /// It has no handle to drop, and was a witness until it ended.
    #[test]
    fn a_forked_child_that_opens_the_table_itself_is_no_witness_of_a_forgotten_guard() {
        let _watchdog = Watchdog::start();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t");
        let options = LockTable::options().share_witness(true);
        let table = options.clone().open(&path).unwrap();
        let lock = table.lock("job").unwrap();
        std::mem::forget(lock.acquire().unwrap());
        drop((lock, table));
        Child::fork(|| {
            let descriptors = || (descriptors_of(&path), descriptors_of(dir.path()));
            let has = "the witness, another to ask by, and that of the directory";
            assert_eq!(descriptors(), (2, 1), "{has}");
            let _own = options.open(&path).unwrap();
            assert_eq!(descriptors(), (2, 1), "its own");
        })
        .join();
    }

    /// The signals that a thread of this process has blocked, a bit each.
    fn blocked_by(thread: u32) -> u64 {
        let status = fs::read_to_string(format!("/proc/self/task/{thread}/status")).unwrap();
        let mask = status.lines().find_map(|line| line.strip_prefix("SigBlk:"));
        u64::from_str_radix(mask.unwrap().trim(), 16).unwrap()
    }

    #[test]
    fn a_keeper_has_signals_blocked_from_its_start_and_its_starter_none_after_it() {
        let _watchdog = Watchdog::start();
        let before = SigSet::thread_get_mask().unwrap();
        let (_dir, table) = open();
        assert_eq!(SigSet::thread_get_mask().unwrap(), before);
        let lock = table.lock("job").unwrap();
        let certificate = lock.session().record().certificate();
        let keeper = || certificate::keeper(certificate.load(Ordering::Relaxed));
        until(|| keeper().is_some());
        // Not another test's: in a thread that ends, the C library has all signals blocked.
        let mask = blocked_by(keeper().unwrap());
        let is_blocked = |signal: Signal| mask >> (signal as i32 - 1) & 1 == 1;
        assert!(
            is_blocked(Signal::SIGTERM) && is_blocked(Signal::SIGCHLD),
            "{mask:x}"
        );
        assert!(!is_blocked(Signal::SIGSEGV), "{mask:x}");
    }

    #[test]
    fn the_last_handle_waits_for_who_has_its_session_in_hand() {
        let _watchdog = Watchdog::start();
        let (dir, table) = open();
        let asker = fs::File::open(dir.path().join("t")).unwrap();
        let lock = table.lock("job").unwrap();
        let in_hand = Arc::clone(&lock.session().shared);
        let looker = thread::spawn(move || {
            thread::sleep(Duration::from_millis(20));
            drop(in_hand);
        });
        drop((lock, table));
        let byte = byte_lock::session_byte(0);
        assert!(!byte_lock::is_locked_for_writing(asker.as_fd(), byte).unwrap());
        looker.join().unwrap();
    }

    /// They have all sessions in hand for a moment, and had the byte of this one until they had
    /// attached.
    #[test]
    fn the_last_handle_takes_its_byte_along_whoever_attaches_to_other_tables() {
        let _watchdog = Watchdog::start();
        let (dir, table) = open();
        let path = dir.path().join("t");
        let asker = fs::File::open(&path).unwrap();
        let is_locked = || {
            let byte = byte_lock::session_byte(0);
            byte_lock::is_locked_for_writing(asker.as_fd(), byte).unwrap()
        };
        assert!(is_locked());
        drop(table);
        let is_over = AtomicU32::new(0);
        let left_locked = thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    let dir = tempfile::tempdir().unwrap();
                    while is_over.load(Ordering::Relaxed) == 0 {
                        drop(LockTable::open(dir.path().join("other")).unwrap());
                    }
                });
            }
            let is_left_locked = |_: &u32| {
                drop(LockTable::open(&path).unwrap());
                is_locked()
            };
            let left_locked = (0..400).filter(is_left_locked).count();
            is_over.store(1, Ordering::Relaxed);
            left_locked
        });
        assert_eq!(left_locked, 0);
    }

    #[test]
    fn a_callback_has_the_signal_mask_of_the_thread_that_opened_the_table() {
        let _watchdog = Watchdog::start();
        // On a thread of its own, whose mask nobody else gets.
        let opened = thread::spawn(|| {
            let mut mask = SigSet::empty();
            mask.add(Signal::SIGUSR1);
            mask.thread_set_mask().unwrap();
            open()
        });
        let (_dir, table) = opened.join().unwrap();
        let lock = table.lock("job").unwrap();
        let guard = lock.acquire().unwrap();
        let (tell, told) = mpsc::channel();
        guard.on_lost(move |_| tell.send(SigSet::thread_get_mask()).unwrap_or_default());
        table.force_release("job", guard.token()).unwrap();
        let mask = told.recv().unwrap().unwrap();
        assert!(mask.contains(Signal::SIGUSR1), "{mask:?}");
        assert!(!mask.contains(Signal::SIGTERM), "{mask:?}");
    }

    /// A log that fails, on the keeper's thread even before it is told anything.
    struct Failing;

    impl Subscriber for Failing {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            let name = fs::read_to_string("/proc/thread-self/comm").unwrap();
            assert_ne!(name, "caslock-keeper\n");
            true
        }

        fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
            span::Id::from_u64(1)
        }

        fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
        fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

        fn event(&self, _: &Event<'_>) {
            // Past the hook, which takes a lock that this child may have got locked.
            std::panic::resume_unwind(Box::new("a log that fails"));
        }

        fn enter(&self, _: &span::Id) {}
        fn exit(&self, _: &span::Id) {}
    }

    #[test]
    fn a_loss_is_told_though_the_log_fails() {
        let _watchdog = Watchdog::start();
        Child::fork(|| {
            tracing::subscriber::set_global_default(Failing).unwrap();
            let (_dir, table) = open();
            let lock = table.lock("job").unwrap();
            let guard = lock.acquire().unwrap();
            let (tell, told) = mpsc::channel();
            guard.on_lost(move |lost| tell.send(lost.token).unwrap_or_default());
            let force = || table.force_release("job", guard.token());
            assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(force)).is_err());
            assert_eq!(told.recv(), Ok(guard.token()));
            std::mem::forget(guard);
        })
        .join();
    }

    #[test]
    fn a_keeper_beats_on_whatever_the_kernel_refuses_it_and_runs_nobodys_log() {
        let _watchdog = Watchdog::start();
        Child::fork(|| {
            tracing::subscriber::set_global_default(Failing).unwrap();
            for call in [
                libc::SYS_set_robust_list,
                libc::SYS_sched_getattr,
                libc::SYS_sched_setattr,
            ] {
                deny(call, libc::EPERM);
            }
            let (_dir, table) = open();
            let lock = table.lock("job").unwrap();
            let record = lock.session().record();
            let beat_ms = || record.view().map_or(0, |view| view.beat_ms);
            for _ in 0..2 {
                let last_ms = beat_ms();
                while beat_ms() == last_ms {
                    thread::sleep(Duration::from_millis(1));
                }
            }
        })
        .join();
    }
}
