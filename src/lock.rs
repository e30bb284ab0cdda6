//! A resolved name, and acquiring it: the uncontended path, then the wait.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::blocking::{Blocking, Cause, Patience, Stop};
use crate::error::{AcquireError, InspectError, LockError};
use crate::found::{Found, FoundName};
use crate::guard::Guard;
use crate::holder::Holder;
use crate::os::clock;
use crate::os::fork::Gate;
use crate::protocol::names::{Full, Key, NamingWords, RENAMES_MASK, Resolved};
use crate::protocol::slot::{Grant, Left, Slot, Taken};
use crate::protocol::wait;
use crate::protocol::word::{GENERATION_SHIFT, Identity, Owner, OwnerWord, Vacancy};
use crate::session::{Closed, Session, Shared, nanos};
use crate::sync::{AtomicU64, Ordering};
use crate::view::Futex;

/// A lock of the table, resolved from its name: cheap to clone and to share.
///
/// It is not reentrant: a thread that acquires a lock which its own process holds waits
/// like any other.
// Aligned to its size, half a cache line: of many in a row, none lies across two.
#[repr(align(32))]
pub struct Lock {
    place: FoundName,
    last: LastGrant,
    // Behind a pointer of its own, so that a handle is half a cache line.
    name: Box<Box<str>>,
}

/// The token of this handle's last grant: while nobody else wants the lock, the slot is as the
/// release of that grant left it, and the next grant need not wait for a reading of what the
/// release has just written. A guess and nothing else: the compare-and-swap decides.
///
/// So it is with a slot that its process keeps before an heir, for as long as its turn lasts.
///
/// A guess that fails takes the cache line from a holder for nothing. So after a failure the
/// word is read, until the handle has once more got the slot twice running.
///
/// The token is above two flags, where an owner word has it above the queue: the words to
/// suppose and to write are made of it without a shift.
#[derive(Debug)]
struct LastGrant(AtomicU64);

/// What a handle supposes before it looks at the slot.
#[derive(Clone, Copy)]
enum Guess {
    /// That its last grant was the slot's, which was left quiet. So the next is this one.
    After(u64),
    /// That its last grant was the slot's, which was kept. So the next is this one.
    Kept(u64),
    /// Nothing, for this reason.
    Doubted(u64),
}

impl LastGrant {
    const TOKEN_SHIFT: u32 = GENERATION_SHIFT;
    /// With the token of a grant: whether the next follows it is yet to be seen.
    const DOUBTED: u64 = 0b10;
    /// With the token of a grant: the slot was kept after it or, with `DOUBTED`, before it.
    const KEPT: u64 = 0b01;
    /// In doubt since a guess failed. No token gets as far, but for one that somebody has written
    /// into the file: of those what is above 62 bits is cut off, which costs a guess.
    const FAILED: u64 = u64::MAX;
    /// Nothing is known yet. As for `FAILED`.
    const FRESH: u64 = u64::MAX - (1 << Self::TOKEN_SHIFT);
    /// Of so many grants one, a power of two, is compared with the next while in doubt.
    const GRANTS_A_CHECK: u64 = 1024;

    const fn new() -> Self {
        Self(AtomicU64::new(Self::FRESH))
    }

    #[inline(always)]
    fn guess(&self) -> Guess {
        // Acquire, with the Release in `follow` and `end_check`: a token is of a grant that
        // was before this, whichever thread had it. `Slot::take_after` wants one of the past.
        match self.0.load(Ordering::Acquire) {
            last if last & (Self::DOUBTED | Self::KEPT) == 0 => Guess::After(Self::next(last)),
            last if last & Self::DOUBTED == 0 => Guess::Kept(Self::next(last)),
            doubt => Guess::Doubted(doubt),
        }
    }

    const fn next(bits: u64) -> u64 {
        bits.wrapping_add(1 << Self::TOKEN_SHIFT)
    }

    /// The token before that of `next`: made of that, so that the compiler knows the epoch which
    /// `follow` compares for the one that `take_after` has compared.
    #[inline(always)]
    const fn token_before(next: u64) -> u64 {
        (next >> Self::TOKEN_SHIFT).wrapping_sub(1)
    }

    /// Remembers a grant that was guessed to be `next`, as one that will be left like the last.
    #[inline(always)]
    fn follow(&self, next: u64, grant: &Grant) {
        // Compared, not computed: where the guess was right the next token is at hand. Where it
        // was wrong, and yet the word was the same, that is a whole round of the word away.
        if grant.epoch() == OwnerWord::epoch_of(next >> Self::TOKEN_SHIFT) {
            self.0.store(next, Ordering::Release);
        } else {
            self.doubt();
        }
    }

    const fn bits(token: u64, flags: u64) -> u64 {
        token << Self::TOKEN_SHIFT | flags
    }

    /// What a slot that has a story to tell makes of `doubt`; `None` where it is not to be taken
    /// at once. Out of line: few have one.
    #[cold]
    #[inline(never)]
    fn reconsider(doubt: u64, seen: OwnerWord, me: Identity) -> Option<u64> {
        if !seen.is_kept_by(me) {
            return seen.is_open().then_some(doubt);
        }
        // In a turn each grant is compared with the next: it is soon over.
        let was_kept = doubt < Self::FRESH && doubt & Self::KEPT != 0;
        Some(if was_kept {
            doubt
        } else {
            Self::DOUBTED | Self::KEPT
        })
    }

    /// Sees to a grant for which the word was read, because of `doubt`.
    #[inline(always)]
    fn check(&self, doubt: u64, grant: &Grant) {
        if doubt != Self::FAILED {
            self.end_check(doubt, grant.token(), grant.from().is_plain());
        } else if grant
            .word()
            .generation()
            .is_multiple_of(Self::GRANTS_A_CHECK)
        {
            let bits = Self::bits(grant.token(), Self::DOUBTED);
            self.0.store(bits, Ordering::Relaxed);
        }
    }

    #[cold]
    fn end_check(&self, doubt: u64, token: u64, was_plain: bool) {
        let follows = |flags| doubt == Self::bits(token.wrapping_sub(1), flags);
        let bits = if doubt == Self::FRESH {
            Self::bits(token, Self::DOUBTED)
        } else if follows(Self::DOUBTED) {
            Self::bits(token, 0)
        } else if was_plain || doubt & Self::KEPT == 0 {
            Self::FAILED
        } else if follows(Self::DOUBTED | Self::KEPT) {
            Self::bits(token, Self::KEPT)
        } else {
            Self::bits(token, Self::DOUBTED | Self::KEPT)
        };
        self.0.store(bits, Ordering::Release);
    }

    #[cold]
    #[inline(never)]
    fn doubt(&self) {
        self.0.store(Self::FAILED, Ordering::Relaxed);
    }
}

const _: () = assert!(size_of::<Lock>() == 32);
const _: () = assert!(LastGrant::DOUBTED + LastGrant::KEPT < 1 << LastGrant::TOKEN_SHIFT);

impl Clone for Lock {
    fn clone(&self) -> Self {
        Self {
            place: self.place.clone(),
            last: LastGrant::new(),
            name: self.name.clone(),
        }
    }
}

impl std::fmt::Debug for Lock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lock")
            .field("name", &self.name())
            .finish_non_exhaustive()
    }
}

/// What a guard is made of. The fast and the slow path both end in one of these, so that
/// a guard is put together in one place, out of registers.
#[derive(Clone, Copy)]
struct Granted<'a> {
    gate: &'a Gate,
    slot: &'a Slot,
    grant: Grant,
    cause: Cause,
}

impl Lock {
    pub(crate) fn resolve(
        session: &Arc<Session>,
        name: &str,
        patience: Patience,
    ) -> Result<Self, LockError> {
        let place = find_or_create(session, name, patience)?;
        Ok(Self {
            place: FoundName::new(session, place),
            last: LastGrant::new(),
            name: Box::new(name.into()),
        })
    }

    /// The lock's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn shared_name(&self) -> Arc<str> {
        self.name().into()
    }

    #[inline(always)]
    pub(crate) fn session(&self) -> &Session {
        self.place.session()
    }

    /// Takes the lock if that is possible at once: if it is free, or its holder is proven
    /// dead, or (in an `OnExpiry` table) has been seen silent for a whole lease by earlier
    /// attempts of this process.
    ///
    /// If the lock was left to the next of those who wait for it, that one gets up to 0.2 ms to
    /// take it first. And where the lock's name has to be made anew, because its
    /// slot was needed for another, this waits up to 20 ms for whoever else is making a name.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let table = caslock::LockTable::open(dir.path().join("app.table"))?;
    /// # let lock = table.lock("nightly-report")?;
    /// use caslock::AcquireError;
    ///
    /// let _guard = lock.acquire()?;
    /// match lock.try_acquire() {
    ///     Ok(_guard) => unreachable!("it is held"),
    ///     Err(AcquireError::Busy { holder, .. }) => println!("held by {holder}"),
    ///     Err(error) => Err(error)?,
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`AcquireError::Busy`] names the holder; the others say why there is no grant.
    #[inline(always)]
    pub fn try_acquire(&self) -> Result<Guard<'_>, AcquireError> {
        let granted = match self.grab() {
            Some(granted) => granted,
            None => self.acquire_slow(Patience::None)?,
        };
        Ok(self.guard(granted))
    }

    /// Takes the lock, waiting as long as it takes.
    ///
    /// # Errors
    ///
    /// [`AcquireError`], but never `Busy` or `TimedOut`.
    #[inline(always)]
    pub fn acquire(&self) -> Result<Guard<'_>, AcquireError> {
        let granted = match self.grab() {
            Some(granted) => granted,
            None => self.acquire_slow(Patience::Endless)?,
        };
        Ok(self.guard(granted))
    }

    /// Takes the lock, waiting no longer than `timeout`.
    ///
    /// Up to 0.2 ms longer where the lock was left to another waiter, which may still come.
    ///
    /// # Errors
    ///
    /// [`AcquireError::TimedOut`] names the holder; the others say why there is no grant.
    #[inline(always)]
    pub fn acquire_timeout(&self, timeout: Duration) -> Result<Guard<'_>, AcquireError> {
        let granted = match self.grab() {
            Some(granted) => granted,
            None => self.acquire_slow(Patience::lasting(timeout))?,
        };
        Ok(self.guard(granted))
    }

    /// Takes the lock, waiting no longer than until `deadline`.
    ///
    /// Up to 0.2 ms longer where the lock was left to another waiter, which may still come.
    ///
    /// # Errors
    ///
    /// [`AcquireError::TimedOut`] names the holder; the others say why there is no grant.
    #[inline(always)]
    pub fn acquire_until(&self, deadline: Instant) -> Result<Guard<'_>, AcquireError> {
        let granted = match self.grab() {
            Some(granted) => granted,
            None => {
                let left = deadline.saturating_duration_since(Instant::now());
                self.acquire_slow(Patience::lasting(left))?
            }
        };
        Ok(self.guard(granted))
    }

    /// Who holds the lock right now, if anybody does.
    ///
    /// # Errors
    ///
    /// [`InspectError::Forked`] in a forked child.
    pub fn holder(&self) -> Result<Option<Holder>, InspectError> {
        if self.session().gate.is_wiped() {
            return Err(self.session().forked().into());
        }
        // Looked up anew: this handle's slot may have another name by now.
        let view = &self.session().view;
        let key = view.key(self.name().as_bytes());
        let found = key.and_then(|key| view.names().find(&key));
        Ok(found.and_then(|found| view.current_holder(view.slot(found.slot))))
    }

    /// The uncontended path: one CAS and a store on the slot's cache line, no system
    /// call, no clock, no process-local lock.
    #[inline(always)]
    fn grab(&self) -> Option<Granted<'_>> {
        let session: &Shared = self.session();
        // Once: behind the compare-and-swap it would be loaded again.
        let gate: &Gate = &session.gate;
        let me = Identity::from_bits(gate.pass()?);
        let (found, slot) = self.place.look();
        // No second attempt here, should a guess fail: it takes registers, and what is spilled
        // to the stack has to drain before each compare-and-swap.
        match self.last.guess() {
            Guess::After(next) => {
                let token = LastGrant::token_before(next);
                let grant = granted(slot.take_after(token, Left::Quiet, me))?;
                self.last.follow(next, &grant);
                self.confirm(session, gate, slot, found, grant, Cause::Vacancy)
            }
            // An arm of its own: which of two words to suppose would cost the quiet pair, too.
            Guess::Kept(next) => {
                let token = LastGrant::token_before(next);
                let grant = granted(slot.take_after(token, Left::Kept, me))?;
                self.last.follow(next, &grant);
                self.confirm(session, gate, slot, found, grant, Cause::Vacancy)
            }
            Guess::Doubted(doubt) => {
                let seen = slot.owner();
                let doubt = match seen.is_plain() {
                    true => doubt,
                    false => LastGrant::reconsider(doubt, seen, me)?,
                };
                let grant = granted(slot.take(seen, me, false))?;
                self.last.check(doubt, &grant);
                self.confirm(session, gate, slot, found, grant, Cause::Vacancy)
            }
        }
    }

    /// Keeps a grant, unless the slot was given another name before it.
    #[inline(always)]
    fn confirm<'a>(
        &'a self,
        session: &'a Shared,
        gate: &'a Gate,
        slot: &'a Slot,
        found: Found,
        grant: Grant,
        cause: Cause,
    ) -> Option<Granted<'a>> {
        // Whoever renames a slot has its owner word, and our CAS came before or after.
        if !found.is_as_of(slot.renames()) {
            undo(slot, grant.word(), grant.epoch(), grant.from(), cause);
            return None;
        }
        slot.stamp(session.coarse_ms());
        Some(Granted {
            gate,
            slot,
            grant,
            cause,
        })
    }

    #[inline(always)]
    fn guard<'a>(&'a self, granted: Granted<'a>) -> Guard<'a> {
        let Granted {
            gate,
            slot,
            grant,
            cause,
        } = granted;
        Guard::new(self, gate, slot, grant, cause)
    }

    #[cold]
    fn acquire_slow(&self, patience: Patience) -> Result<Granted<'_>, AcquireError> {
        /// A slot may be renamed under a handle again and again in a table that is too
        /// small; this often in a row, it is a damaged one.
        const MAX_RENAMES: u32 = 1000;
        let session = self.session();
        for _ in 0..MAX_RENAMES {
            if let Some(why) = session.closed() {
                return Err(why.into());
            }
            self.last.doubt();
            let (found, slot) = self.place.look();
            let place = found.resolved();
            // Where it stands, it ends: a copy of it would be on a waiter's way to its grant.
            let (outcome, cause, ended_ns) = {
                let mut blocking = Blocking::new(session, place, patience);
                let outcome = wait::acquire(slot, session.identity, &mut blocking);
                let taken = outcome.as_ref().ok().map(Grant::from);
                let ended_ns = blocking.end(taken);
                (outcome, blocking.cause, ended_ns)
            };
            match outcome {
                Ok(grant) => {
                    let gate = &session.gate;
                    if let Some(granted) = self.confirm(session, gate, slot, found, grant, cause) {
                        // A slot that is found vacant is taken without a look at that.
                        if let Some(why) = session.closed() {
                            undo(slot, grant.word(), grant.epoch(), grant.from(), cause);
                            return Err(why.into());
                        }
                        // What its own threads pass among them is one turn: else two of
                        // them could go on for ever.
                        if !grant.from().is_kept_by(session.identity) {
                            let turns = &session.contention.turns;
                            turns.begin(place.slot, grant.word(), ended_ns);
                        }
                        // A guard first: should a log subscriber panic, it releases.
                        let guard = self.guard(granted);
                        self.tell_of(grant, cause);
                        std::mem::forget(guard);
                        return Ok(granted);
                    }
                }
                Err(Stop::Refused(holder)) => return Err(self.refused(holder, patience)),
                Err(Stop::Corrupt(word)) => return Err(self.corrupt(word)),
                Err(Stop::Closed) => continue,
                Err(Stop::Renamed) => {}
            }
            let place = find_or_create(session, self.name(), patience)?;
            self.place.move_to(place);
        }
        Err(self.corrupt(self.place.look().1.owner()))
    }

    /// After a grant that took somebody's: tells the log, and a living loser.
    fn tell_of(&self, grant: Grant, cause: Cause) {
        let (name, token) = (self.name(), grant.token());
        match (cause, grant.from().owner()) {
            (Cause::Death, Owner::Held(gone)) => {
                tracing::info!(
                    name,
                    pid = gone.pid(),
                    token,
                    "reclaimed from a dead holder"
                );
            }
            (Cause::Expiry, Owner::Held(gone)) => {
                self.session().view.notify(gone.session());
                tracing::warn!(name, pid = gone.pid(), token, "evicted a silent holder");
            }
            _ => {}
        }
    }

    fn corrupt(&self, word: OwnerWord) -> AcquireError {
        AcquireError::Corrupt {
            name: self.name().to_owned(),
            word: word.bits(),
        }
    }

    fn refused(&self, holder: Holder, patience: Patience) -> AcquireError {
        let name = self.name().to_owned();
        match patience {
            Patience::None => AcquireError::Busy { name, holder },
            Patience::Until(_) | Patience::Endless => AcquireError::TimedOut { name, holder },
        }
    }
}

#[inline(always)]
fn granted(taken: Taken) -> Option<Grant> {
    match taken {
        Taken::Granted(grant) => Some(grant),
        Taken::Changed | Taken::Revoked => None,
    }
}

/// Gives back a grant of a slot that has another name by now. Out of line, and by value:
/// the fast path keeps its grant in registers.
#[cold]
#[inline(never)]
fn undo(slot: &Slot, word: OwnerWord, epoch: u64, from: OwnerWord, cause: Cause) {
    // Lost in between: then it is no longer ours to give back.
    let _ = wait::undo(
        slot,
        Grant::from_parts(word, epoch, from),
        cause.takeover(),
        &Futex,
    );
}

impl From<Closed> for AcquireError {
    fn from(why: Closed) -> Self {
        match why {
            Closed::Forked(forked) => forked.into(),
            Closed::Replaced(replaced) => replaced.into(),
        }
    }
}

impl From<Closed> for LockError {
    fn from(why: Closed) -> Self {
        match why {
            Closed::Forked(forked) => forked.into(),
            Closed::Replaced(replaced) => replaced.into(),
        }
    }
}

impl From<LockError> for AcquireError {
    fn from(error: LockError) -> Self {
        match error {
            LockError::Forked(forked) => forked.into(),
            LockError::TableReplaced(replaced) => replaced.into(),
            other => Self::Name(other),
        }
    }
}

/// Finds a name, or creates it under the naming lock.
fn find_or_create(
    session: &Session,
    name: &str,
    patience: Patience,
) -> Result<Resolved, LockError> {
    let view = &session.view;
    let key = view
        .key(name.as_bytes())
        .ok_or(LockError::InvalidName { len: name.len() })?;
    let found = match view.names().find(&key) {
        Some(found) => found,
        None => create(session, name, &key, patience)?,
    };
    session.note_resolved(found.slot);
    Ok(found)
}

/// Creates a name under the naming lock, unless it is there by then.
#[cold]
fn create(
    session: &Session,
    name: &str,
    key: &Key,
    patience: Patience,
) -> Result<Resolved, LockError> {
    let until_ns = naming_deadline_ns(patience, clock::now_ns());
    let naming = Naming::lock(session, Patience::Until(until_ns));
    let naming = naming.map_err(|stop| match (stop, session.closed()) {
        (Stop::Refused(holder), _) => LockError::NamingStuck {
            name: name.to_owned(),
            holder,
        },
        (Stop::Closed, Some(why)) => why.into(),
        (Stop::Closed | Stop::Renamed | Stop::Corrupt(_), _) => LockError::Corrupt {
            name: name.to_owned(),
        },
    })?;
    let names = session.view.names();
    let found = names.find_or_create(key, session.identity, &Futex);
    if let Ok(found) = found {
        // So that a name is not the longest idle one before its first use.
        session.view.slot(found.slot).stamp(session.coarse_ms());
    }
    drop(naming);
    found.map_err(|Full| LockError::TableFull {
        name: name.to_owned(),
        slots: session.view.geometry.slots,
    })
}

/// Until when to wait for the naming lock.
fn naming_deadline_ns(patience: Patience, now_ns: u64) -> u64 {
    /// How long somebody else may take to create a name: it takes a microsecond, or, to find
    /// that a million slots are all in use, some milliseconds. So a holder that needs longer
    /// is stopped, and only its death or a SIGCONT helps.
    const STOPPED: Duration = Duration::from_secs(10);
    /// The same for an attempt that is not to wait: some slices of a processor's time.
    const AWAY: Duration = Duration::from_millis(20);
    let after = |patience| now_ns.saturating_add(nanos(patience));
    match patience {
        Patience::Until(deadline_ns) => deadline_ns.min(after(STOPPED)),
        Patience::None => after(AWAY),
        Patience::Endless => after(STOPPED),
    }
}

/// The naming lock, held.
struct Naming<'a> {
    slot: &'a Slot,
    grant: Grant,
}

impl<'a> Naming<'a> {
    fn lock(session: &'a Session, patience: Patience) -> Result<Self, Stop> {
        let slot = session.view.slot(NamingWords::SLOT);
        let place = Resolved {
            slot: NamingWords::SLOT,
            renames: slot.renames() & RENAMES_MASK,
        };
        let outcome = {
            let mut blocking = Blocking::new(session, place, patience);
            let outcome = wait::acquire(slot, session.identity, &mut blocking);
            blocking.end(None);
            outcome
        };
        let grant = outcome?;
        slot.stamp(session.coarse_ms());
        Ok(Self { slot, grant })
    }
}

impl Drop for Naming<'_> {
    fn drop(&mut self) {
        // Only this process's death takes the naming lock from it, so it is still held.
        let _ = wait::release(self.slot, &self.grant, Vacancy::Released, &Futex);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contention::stint;
    use crate::os::testing::{Child, Watchdog};
    use crate::protocol::word::{EPOCH_SHIFT, Queue};
    use crate::table::LockTable;

    /// Has another thread wait until it is shown to, and lets it have what it waits for. Whether
    /// that was noted as the end of a wait that slept: one may be shown and not sleep yet.
    fn has_slept_behind(held: impl Sized, session: &Session, wait: impl FnOnce() + Send) -> bool {
        let has_slept = std::thread::scope(|scope| {
            let waiter = scope.spawn(|| {
                stint::be_over();
                wait();
                stint::begun_ns().is_none()
            });
            while session.record().waiting().count() == 0 {
                std::thread::sleep(Duration::from_millis(1));
            }
            std::thread::sleep(Duration::from_millis(5));
            drop(held);
            waiter.join().unwrap()
        });
        assert_eq!(session.record().waiting().count(), 0);
        has_slept
    }

    #[test]
    fn for_the_naming_lock_one_waits_no_longer_than_it_takes_and_an_attempt_hardly() {
        let until_ms = |patience| naming_deadline_ns(patience, 7_000_000) / 1_000_000;
        assert_eq!(until_ms(Patience::Until(9_000_000)), 9);
        assert_eq!(until_ms(Patience::Until(u64::MAX)), 10_007);
        assert_eq!(until_ms(Patience::Endless), 10_007);
        assert_eq!(until_ms(Patience::None), 27);
    }

    #[test]
    fn who_does_not_wait_does_not_for_the_naming_lock_either() {
        let _watchdog = Watchdog::start();
        let dir = tempfile::tempdir().unwrap();
        let table = LockTable::open(dir.path().join("t")).unwrap();
        let lock = table.lock("job").unwrap();
        let naming = Naming::lock(lock.session(), Patience::Endless);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                // Whoever waits any longer gets it.
                std::thread::sleep(Duration::from_secs(3));
                drop(naming);
            });
            let refused = table.lock_within("new", Some(Duration::from_millis(1)));
            assert!(matches!(refused, Err(LockError::NamingStuck { .. })));
            table.lock_within("new", None).unwrap();
        });
    }

    #[test]
    fn a_wait_is_over_with_its_grant() {
        let _watchdog = Watchdog::start();
        let dir = tempfile::tempdir().unwrap();
        let table = LockTable::open(dir.path().join("t")).unwrap();
        let lock = table.lock("job").unwrap();
        let session = lock.session();
        let acquire = || lock.acquire().unwrap();
        while !has_slept_behind(acquire(), session, || drop(acquire())) {}
        let naming = || {
            let naming = Naming::lock(session, Patience::Endless);
            naming.unwrap_or_else(|_| panic!("nobody gives up"))
        };
        while !has_slept_behind(naming(), session, || drop(naming())) {}
    }

    #[test]
    fn a_guess_is_made_once_the_slot_stays_as_it_was_left_and_given_up_when_it_fails() {
        let dir = tempfile::tempdir().unwrap();
        let table = LockTable::open(dir.path().join("t")).unwrap();
        let (mine, other) = (table.lock("job").unwrap(), table.lock("job").unwrap());
        assert!(!guesses(&mine));
        let mut token = mine.acquire().unwrap().token().0;
        assert!(!guesses(&mine));
        for _ in 0..2 {
            token += 1;
            assert_eq!(mine.acquire().unwrap().token().0, token);
            assert!(guesses(&mine));
        }
        // Held by another, and then left by another: neither is what the handle remembers.
        let theirs = other.acquire().unwrap();
        assert_eq!(theirs.token().0, token + 1);
        assert!(matches!(mine.try_acquire(), Err(AcquireError::Busy { .. })));
        assert!(!guesses(&mine));
        theirs.release().unwrap();
        token += 2;
        assert_eq!(mine.acquire().unwrap().token().0, token);
        assert!(!guesses(&mine));
        for _ in 0..2 * LastGrant::GRANTS_A_CHECK {
            token = mine.acquire().unwrap().token().0;
        }
        assert!(guesses(&mine));
        assert_eq!(mine.acquire().unwrap().token().0, token + 1);
    }

    #[test]
    fn tokens_go_up_by_one_whichever_handle_guesses() {
        let dir = tempfile::tempdir().unwrap();
        let table = LockTable::open(dir.path().join("t")).unwrap();
        let handles: [Lock; 3] = std::array::from_fn(|_| table.lock("job").unwrap());
        let (mut at, mut guessed) = (0, 0);
        let first = handles[0].acquire().unwrap().token().0;
        for grants in 1..=20_000 {
            // In runs of one handle, which get longer and longer.
            at += usize::from(grants % (1 + grants / 400) == 0);
            let handle = &handles[at % handles.len()];
            guessed += u32::from(guesses(handle));
            assert_eq!(handle.acquire().unwrap().token().0, first + grants);
        }
        assert!(guessed > 0, "no guess was made");
    }

    #[test]
    fn in_a_turn_a_handle_guesses_that_the_slot_was_kept() {
        let dir = tempfile::tempdir().unwrap();
        let table = LockTable::open(dir.path().join("t")).unwrap();
        let lock = table.lock("job").unwrap();
        let (found, slot) = lock.place.look();
        let (place, turns) = (found.resolved(), &lock.session().contention.turns);
        let supposes_kept = |handle: &Lock| matches!(handle.last.guess(), Guess::Kept(_));
        let mut token = lock.acquire().unwrap().token().0;
        let mut pass = |handle: &Lock| {
            token += 1;
            assert_eq!(handle.acquire().unwrap().token().0, token);
        };
        // Again and again, should this thread lose its processor for the length of a turn.
        let supposed = (0..40).find(|_| {
            pass(&lock);
            turns.begin(place.slot, slot.owner(), clock::now_ns());
            assert!(slot.queue_up(slot.owner(), Queue::Heir));
            (0..15).for_each(|_| pass(&lock));
            (0..5).all(|_| {
                pass(&lock);
                supposes_kept(&lock)
            })
        });
        assert!(supposed.is_some(), "no guess was made");
        // Two that take turns do not guess again and again in vain.
        let other = lock.clone();
        for handle in [&other, &lock, &other, &lock, &other, &lock] {
            pass(handle);
            assert!(!supposes_kept(handle));
        }
        // Nor do they compare each grant, where none is kept any more.
        let given_up = (0..100).find(|_| {
            lock.session().contention.occupancy.lower(place.slot);
            [&other, &lock, &other, &lock]
                .into_iter()
                .for_each(&mut pass);
            [&other, &lock].map(|it| it.last.0.load(Ordering::Relaxed)) == [LastGrant::FAILED; 2]
        });
        assert!(given_up.is_some());
        lock.session().contention.occupancy.forget(place.slot);
        turns.end(place.slot);
        (0..20).for_each(|_| pass(&lock));
        assert!(
            !supposes_kept(&lock),
            "the slot was offered, and left to nobody since"
        );
    }

    #[test]
    fn a_handle_in_doubt_gets_at_once_what_was_left_to_everybody_or_to_its_own_process() {
        let dir = tempfile::tempdir().unwrap();
        let table = LockTable::open(dir.path().join("t")).unwrap();
        let lock = table.lock("job").unwrap();
        let slot = lock.place.look().1;
        let (ours, theirs) = (std::process::id(), 1);
        for (left, is_had) in [
            (Vacancy::Released, true),
            (Vacancy::Panicked(theirs), true),
            (Vacancy::Kept(ours), true),
            (Vacancy::Kept(theirs), false),
            (Vacancy::Offered, false),
        ] {
            std::mem::forget(lock.acquire().unwrap());
            lock.last.doubt();
            assert!(lock.grab().is_none(), "it is held");
            assert!(wait::vacate(slot, slot.owner(), left, &Futex));
            assert_eq!(lock.grab().is_some(), is_had, "{left:?}");
            assert!(wait::vacate(slot, slot.owner(), Vacancy::Released, &Futex));
        }
    }

    #[test]
    fn a_turn_begins_with_a_grant_that_was_waited_for_unless_its_own_process_had_kept_the_slot() {
        let dir = tempfile::tempdir().unwrap();
        let table = LockTable::open(dir.path().join("t")).unwrap();
        let lock = table.lock("job").unwrap();
        let (found, slot) = lock.place.look();
        let (place, turns) = (found.resolved(), &lock.session().contention.turns);
        let got_after = |pid| {
            std::mem::forget(lock.acquire().unwrap());
            assert!(wait::vacate(slot, slot.owner(), Vacancy::Kept(pid), &Futex));
            turns.begin(place.slot, slot.owner(), 0);
            turns.end(place.slot);
            drop(lock.guard(lock.acquire_slow(Patience::Endless).unwrap()));
        };
        got_after(std::process::id());
        assert!(turns.has_ended(place.slot));
        // Again and again, should this thread lose its processor for the length of a turn.
        let begun = (0..100).find(|_| {
            got_after(1);
            assert!(!turns.has_ended(place.slot));
            !turns.is_over(place.slot, slot.owner(), Queue::Asleep, clock::now_ns)
        });
        assert!(begun.is_some(), "it began long ago");
    }

    /// A handle of the only slot's name, about to guess.
    fn guessing() -> (tempfile::TempDir, LockTable, Lock) {
        let dir = tempfile::tempdir().unwrap();
        let options = LockTable::options().slots(1);
        let table = options.open(dir.path().join("t")).unwrap();
        let lock = table.lock("job").unwrap();
        for _ in 0..3 {
            drop(lock.acquire().unwrap());
        }
        (dir, table, lock)
    }

    /// A guess of what was this name's slot is none of what the slot is now.
    #[test]
    fn a_handle_that_guesses_finds_its_recycled_name_again() {
        let (_dir, table, mine) = guessing();
        assert!(guesses(&mine));
        let before = mine.acquire().unwrap().token();
        let other = table.lock("other").unwrap();
        let held = other.acquire().unwrap();
        let full = mine.try_acquire().map(drop);
        assert!(matches!(full, Err(AcquireError::Name(_))), "{full:?}");
        assert!(held.is_held());
        held.release().unwrap();
        assert!(mine.acquire().unwrap().token() > before);
    }

    #[test]
    fn a_handle_guesses_whatever_its_tokens_and_through_each_epoch() {
        let (_dir, _table, lock) = guessing();
        let slot = lock.place.look().1;
        let epochs = |epochs: u64| epochs << EPOCH_SHIFT;
        for before in [
            (1 << 25) - 3,
            epochs(1) - 5,
            epochs(2) - 5,
            epochs(5) - 5,
            1 << 40,
        ] {
            slot.leave_released(before);
            lock.last.doubt();
            for grants in 1..=2 * LastGrant::GRANTS_A_CHECK {
                assert_eq!(lock.acquire().unwrap().token().0, before + grants);
            }
            for grants in 1..=10 {
                assert!(guesses(&lock), "after {before}, {grants} more");
                drop(lock.acquire().unwrap());
            }
            let across = 2 * LastGrant::GRANTS_A_CHECK + 10;
            assert_eq!(slot.view().unwrap().token, before + across);
        }
        // And while it guesses.
        suppose_left(&lock, epochs(7) - 3);
        for grants in 1..=6 {
            assert!(guesses(&lock));
            assert_eq!(lock.acquire().unwrap().token().0, epochs(7) - 3 + grants);
        }
    }

    /// The word is the same, and what is guessed of the epoch wrong.
    #[test]
    fn a_handle_that_others_have_left_a_whole_round_behind_gets_the_right_token_and_doubts() {
        let (_dir, _table, lock) = guessing();
        let slot = lock.place.look().1;
        let last = slot.view().unwrap().token + (2 << EPOCH_SHIFT);
        slot.leave_released(last);
        assert!(guesses(&lock));
        assert_eq!(lock.acquire().unwrap().token().0, last + 1);
        assert!(!guesses(&lock));
    }

    /// No rule makes them, but a file may have them.
    #[test]
    fn a_token_beyond_all_that_are_made_is_no_panic() {
        let (_dir, _table, lock) = guessing();
        for last in [(1 << 62) - 2, (1 << 62) - 1, u64::MAX - 6_000] {
            suppose_left(&lock, last);
            for grants in 1..=3 * LastGrant::GRANTS_A_CHECK {
                assert_eq!(lock.acquire().unwrap().token().0, last + grants);
            }
        }
    }

    #[test]
    fn a_handle_that_guesses_is_no_use_in_a_forked_child() {
        let (_dir, _table, lock) = guessing();
        assert!(guesses(&lock));
        Child::fork(|| {
            let refused = lock.try_acquire().map(drop);
            assert!(matches!(refused, Err(AcquireError::Forked(_))));
        })
        .join();
        assert!(lock.try_acquire().is_ok());
    }

    #[test]
    fn a_handle_that_guesses_gets_nothing_through_a_closed_gate() {
        let (_dir, _table, lock) = guessing();
        let guard = lock.acquire().unwrap();
        lock.session().gate.close();
        guard.release().unwrap();
        assert!(guesses(&lock));
        let refused = lock.try_acquire().map(drop);
        assert!(matches!(refused, Err(AcquireError::TableReplaced(_))));
    }

    /// As if the handle's last grant had been the slot's, with this token.
    fn suppose_left(lock: &Lock, token: u64) {
        lock.place.look().1.leave_released(token);
        let bits = LastGrant::bits(token, 0);
        lock.last.0.store(bits, Ordering::Relaxed);
    }

    fn guesses(lock: &Lock) -> bool {
        matches!(lock.last.guess(), Guess::After(_))
    }
}
