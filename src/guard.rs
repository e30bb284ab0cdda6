//! A grant in the hands of its holder.

use std::fmt;
use std::mem::ManuallyDrop;
use std::thread;

use crate::error::{Lost, LostHow, NoteError};
use crate::holder::{Departed, FencingToken, Previous, escape_bytes};
use crate::lock::Lock;
use crate::protocol::names::Note;
use crate::protocol::slot::{Grant, Slot};
use crate::protocol::wait;
use crate::protocol::word::{Owner, Vacancy};
use crate::sync::{AtomicU32, Ordering};
use crate::view::{Futex, previous_of};

/// Why a grant could be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The slot was free.
    Vacancy,
    /// Its holder was proven dead.
    Death,
    /// Its holder was silent for a whole lease.
    Expiry,
}

impl Cause {
    /// How a predecessor that held the slot until this grant went.
    pub(crate) const fn takeover(self) -> fn(u32) -> Vacancy {
        match self {
            Self::Expiry => Vacancy::Expired,
            Self::Death | Self::Vacancy => Vacancy::Died,
        }
    }
}

/// The right to be in the critical section; dropping it releases the lock.
///
/// It belongs to the process, not to the thread: it can be sent to another thread. A guard
/// whose grant was revoked is harmless: it can no longer alter anything, and every call
/// says so. Dropped by a panic, it tells the next owner so.
#[must_use = "dropping the guard releases the lock"]
pub struct Guard<'a> {
    lock: &'a Lock,
    slot: &'a Slot,
    index: u32,
    cause: Cause,
    /// Taken while this thread was unwinding already: then unwinding says nothing.
    unwinding: bool,
    has_calls: AtomicU32,
    grant: Grant,
}

impl<'a> Guard<'a> {
    #[inline(always)]
    pub(crate) fn new(
        lock: &'a Lock,
        slot: &'a Slot,
        index: u32,
        grant: Grant,
        cause: Cause,
    ) -> Self {
        let unwinding = thread::panicking();
        Self {
            lock,
            slot,
            index,
            cause,
            unwinding,
            has_calls: AtomicU32::new(0),
            grant,
        }
    }

    /// The lock that this guard is of.
    #[must_use]
    pub const fn lock(&self) -> &'a Lock {
        self.lock
    }

    /// The fencing token of this grant: hand it to the resource that the lock protects.
    #[inline(always)]
    #[must_use]
    pub const fn token(&self) -> FencingToken {
        FencingToken(self.grant.token())
    }

    /// How the predecessor went. Anything but `None` and `Released` means: look whether
    /// it left things half done.
    ///
    /// `token` of a departed predecessor is that of its grant, or a later one below this
    /// grant's: an owner in between may have [declined](Guard::decline), and a reset after a
    /// reboot raises all tokens.
    #[must_use]
    pub fn previous(&self) -> Previous {
        let token = FencingToken(self.grant.predecessor_token());
        match self.grant.from().owner() {
            Owner::Held(gone) => {
                let who = Departed {
                    pid: gone.pid(),
                    token,
                    panicked: false,
                };
                match self.cause {
                    Cause::Expiry => Previous::Expired(who),
                    Cause::Death | Cause::Vacancy => Previous::Died(who),
                }
            }
            vacant => previous_of(vacant, token.0),
        }
    }

    /// Whether the grant still stands: two loads of one cache line.
    ///
    /// True is old news as soon as it is returned; a resource that checks
    /// [tokens](Guard::token) is safe all the same.
    #[inline(always)]
    #[must_use]
    pub fn is_held(&self) -> bool {
        !self.lock.session().gate.is_wiped() && self.slot.is_current(&self.grant)
    }

    /// Releases the lock.
    ///
    /// # Errors
    ///
    /// [`Lost`] when the grant had been revoked before: somebody else may have been in
    /// the critical section meanwhile. Nothing was changed.
    #[inline(always)]
    pub fn release(self) -> Result<(), Lost> {
        // Not a move: the fast path keeps the guard's fields in registers.
        let guard = ManuallyDrop::new(self);
        if guard.give_back(Vacancy::Released) {
            return Ok(());
        }
        Err(guard.lost())
    }

    /// Gives the lock back as it was found: whoever comes next is told of the same
    /// predecessor. For an owner that will not deal with what a dead one left behind.
    ///
    /// # Errors
    ///
    /// [`Lost`] when the grant had been revoked before.
    pub fn decline(self) -> Result<(), Lost> {
        let guard = ManuallyDrop::new(self);
        let takeover = guard.cause.takeover();
        if guard.may_give_back() && wait::undo(guard.slot, guard.grant, takeover, &Futex) {
            return Ok(());
        }
        Err(guard.lost())
    }

    /// Attaches a note to the grant, for people who look at the table; it shows for as
    /// long as the grant lasts.
    ///
    /// # Errors
    ///
    /// [`NoteError`]: longer than [`NOTE_MAX`](crate::NOTE_MAX) bytes, or the grant is lost.
    pub fn set_note(&self, note: &str) -> Result<(), NoteError> {
        let packed = Note::new(note.as_bytes()).ok_or(NoteError::TooLong {
            len: note.len(),
            max: Note::MAX_LEN,
        })?;
        if !self.is_held() {
            return Err(self.lost().into());
        }
        self.lock
            .session()
            .view
            .name_record(self.index)
            .write_note(self.grant.token(), &packed);
        Ok(())
    }

    /// Has `call` called once, on a thread of its own, when the grant is found revoked
    /// while the guard lives: at once after an eviction or a force-release, provided that
    /// this process runs.
    pub fn on_lost(&self, call: impl FnOnce(Lost) + Send + 'static) {
        let session = self.lock.session();
        if session.gate.is_wiped() {
            return;
        }
        self.has_calls.swap(1, Ordering::Relaxed);
        session.on_lost(
            self.index,
            self.grant,
            self.lock.shared_name(),
            Box::new(call),
        );
    }

    /// Whether the slot was this grant's to give back, and now is free.
    #[inline(always)]
    fn give_back(&self, vacancy: Vacancy) -> bool {
        self.may_give_back() && wait::release(self.slot, &self.grant, vacancy, &Futex)
    }

    /// Silences the guard's callbacks. False in a forked child: the mapping is not there,
    /// and the grant is the parent's.
    #[inline(always)]
    fn may_give_back(&self) -> bool {
        let session = self.lock.session();
        if session.gate.is_wiped() {
            return false;
        }
        if self.has_calls.load(Ordering::Relaxed) != 0 {
            session.forget_lost_calls(self.index, self.grant);
        }
        true
    }

    /// Dropped by a panic, or after the grant was revoked.
    #[cold]
    #[inline(never)]
    fn drop_otherwise(&self, panicked: bool) {
        let session = self.lock.session();
        let given = panicked && self.give_back(Vacancy::Panicked(session.identity.pid()));
        if !given && !session.gate.is_wiped() {
            tracing::warn!(lost = %self.lost(), "guard dropped after its grant was revoked");
        }
    }

    #[cold]
    fn lost(&self) -> Lost {
        let session = self.lock.session();
        let name = self.lock.name();
        if session.gate.is_wiped() {
            let name = escape_bytes(name.as_bytes());
            return Lost {
                name,
                token: self.token(),
                how: LostHow::Forked,
            };
        }
        session.lost(self.index, &self.grant, name)
    }
}

impl Drop for Guard<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        let panicked = thread::panicking() && !self.unwinding;
        if panicked || !self.give_back(Vacancy::Released) {
            self.drop_otherwise(panicked);
        }
    }
}

impl fmt::Debug for Guard<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard")
            .field("name", &self.lock.name())
            .field("token", &self.token())
            .finish()
    }
}
