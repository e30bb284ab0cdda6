//! A grant in the hands of its holder.

use std::fmt;
use std::mem::ManuallyDrop;
use std::thread;

use crate::blocking::Cause;
use crate::contention::{Streaks, stint};
use crate::error::{Lost, LostHow, NoteError};
use crate::holder::{Departed, FencingToken, Previous};
use crate::lock::Lock;
use crate::os::clock;
use crate::os::fork::Gate;
use crate::protocol::names::Note;
use crate::protocol::slot::{Grant, Slot};
use crate::protocol::wait;
use crate::protocol::word::{Owner, OwnerWord, Queue, Vacancy};
use crate::session::Session;
use crate::sync::{AtomicU32, Ordering};
use crate::view::{Futex, previous_of};

/// The right to be in the critical section; dropping it releases the lock.
///
/// It belongs to the process, not to the thread: it can be sent to another thread. A guard
/// whose grant was revoked is harmless: it can no longer alter the lock, and a release of
/// it answers [`Lost`]. Dropped by a panic, it tells the next owner so.
///
/// A guard that is forgotten ([`std::mem::forget`]) keeps the lock for as long as its process
/// lives, handles or not, unless an operator takes it.
///
/// A release before others who wait may wake one of them. Where the lock is often free, it also
/// yields the processor to them, once in each millisecond of it that the thread has had, even
/// while that holds other locks.
#[must_use = "dropping the guard releases the lock"]
pub struct Guard<'a> {
    held: Held<'a>,
    has_calls: AtomicU32,
}

/// A guard's facts. Rare paths get them one by one, never by reference: a guard whose address
/// nobody takes lives in registers, and its stores to the stack would have to drain before
/// the releasing compare-and-swap.
#[derive(Clone, Copy)]
struct Held<'a> {
    lock: &'a Lock,
    /// The session's, without the way there: each release asks it.
    gate: &'a Gate,
    slot: &'a Slot,
    grant: Grant,
    cause: Cause,
    /// Taken while this thread was unwinding already: then unwinding says nothing.
    unwinding: bool,
}

impl<'a> Guard<'a> {
    #[inline(always)]
    pub(crate) fn new(
        lock: &'a Lock,
        gate: &'a Gate,
        slot: &'a Slot,
        grant: Grant,
        cause: Cause,
    ) -> Self {
        let unwinding = thread::panicking();
        Self {
            held: Held {
                lock,
                gate,
                slot,
                grant,
                cause,
                unwinding,
            },
            has_calls: AtomicU32::new(0),
        }
    }

    /// The lock that this guard is of.
    #[must_use]
    pub const fn lock(&self) -> &'a Lock {
        self.held.lock
    }

    /// The fencing token of this grant: hand it to the resource that the lock protects.
    #[inline(always)]
    #[must_use]
    pub const fn token(&self) -> FencingToken {
        self.held.token()
    }

    /// How the predecessor went. Anything but `None` and `Released` means: look whether
    /// it left things half done.
    ///
    /// `token` of a departed predecessor is that of its grant, or a later one below this
    /// grant's: an owner in between may have [declined](Guard::decline), and a reset after a
    /// reboot raises all tokens.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let table = caslock::LockTable::open(dir.path().join("app.table"))?;
    /// # let lock = table.lock("nightly-report")?;
    /// # let forced = lock.acquire()?;
    /// # table.force_release(lock.name(), forced.token())?;
    /// # drop(forced);
    /// let guard = lock.acquire()?;
    /// if let Some(who) = guard.previous().departed() {
    ///     println!("{}: check what process {} left half done", guard.previous(), who.pid);
    /// }
    /// # assert!(guard.previous().is_abandoned());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn previous(&self) -> Previous {
        let token = FencingToken(self.held.grant.predecessor_token());
        match self.held.grant.from().owner() {
            Owner::Held(gone) => {
                let who = Departed {
                    pid: gone.pid(),
                    token,
                    panicked: false,
                };
                match self.held.cause {
                    Cause::Expiry => Previous::Expired(who),
                    Cause::Death | Cause::Vacancy => Previous::Died(who),
                }
            }
            vacant => previous_of(vacant, token.0),
        }
    }

    /// Whether the grant still stands: three loads, two of them of one cache line.
    ///
    /// True is old news as soon as it is returned; a resource that checks
    /// [tokens](Guard::token) is safe all the same. It is about the table that the grant is of: one
    /// that has been removed or replaced keeps its grants, and they keep out nobody who opens its
    /// path since. [`LockTable::lock`](crate::LockTable::lock) tells of that.
    #[inline(always)]
    #[must_use]
    pub fn is_held(&self) -> bool {
        !self.held.is_wiped() && self.held.slot.is_current(&self.held.grant)
    }

    /// Releases the lock.
    ///
    /// # Errors
    ///
    /// [`Lost`] when the grant had been revoked before: somebody else may have been in
    /// the critical section meanwhile. Nothing was changed.
    #[inline(always)]
    pub fn release(self) -> Result<(), Lost> {
        let (held, has_calls) = self.into_parts();
        if held.is_let_go(has_calls) {
            return Ok(());
        }
        let (word, epoch) = (held.grant.word(), held.grant.epoch());
        if give_back(
            held.lock,
            held.slot,
            word,
            epoch,
            has_calls,
            Vacancy::Released,
        ) {
            return Ok(());
        }
        Err(held.lost())
    }

    /// Gives the lock back as it was found: whoever comes next is told of the same
    /// predecessor. For an owner that will not deal with what a dead one left behind.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let table = caslock::LockTable::open(dir.path().join("app.table"))?;
    /// # let lock = table.lock("nightly-report")?;
    /// # let forced = lock.acquire()?;
    /// # table.force_release(lock.name(), forced.token())?;
    /// # drop(forced);
    /// let guard = lock.acquire()?;
    /// if guard.previous().is_abandoned() {
    ///     guard.decline()?; // whoever comes next is told the same
    /// }
    /// # assert!(lock.acquire()?.previous().is_abandoned());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Lost`] when the grant had been revoked before.
    pub fn decline(self) -> Result<(), Lost> {
        let (held, has_calls) = self.into_parts();
        let takeover = held.cause.takeover();
        if !held.is_wiped() {
            if has_calls {
                held.session().forget_lost_calls(held.index(), held.token());
            }
            if wait::undo(held.slot, held.grant, takeover, &Futex) {
                return Ok(());
            }
        }
        Err(held.lost())
    }

    /// Attaches a note to the grant, for people who look at the table; it shows for as
    /// long as the grant lasts. Set just as the grant is lost, it may hide or garble the
    /// successor's.
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
            return Err(self.held.lost().into());
        }
        self.held
            .session()
            .view
            .name_record(self.held.index())
            .write_note(self.token().0, &packed);
        Ok(())
    }

    /// Has `call` called once, on a thread of its own, when the grant is found revoked
    /// while the guard lives: at once after an eviction or a force-release, provided that
    /// this process runs.
    ///
    /// ```
    /// # let dir = tempfile::tempdir()?;
    /// # let table = caslock::LockTable::open(dir.path().join("app.table"))?;
    /// # let lock = table.lock("nightly-report")?;
    /// let (tell, told) = std::sync::mpsc::channel();
    /// let guard = lock.acquire()?;
    /// guard.on_lost(move |lost| tell.send(lost).unwrap_or_default());
    /// table.force_release("nightly-report", guard.token())?; // as an operator would
    /// assert_eq!(told.recv()?.token, guard.token());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn on_lost(&self, call: impl FnOnce(Lost) + Send + 'static) {
        if self.held.is_wiped() {
            return;
        }
        self.has_calls.swap(1, Ordering::Relaxed);
        self.held.session().on_lost(
            self.held.index(),
            self.held.grant,
            self.held.lock.shared_name(),
            Box::new(call),
        );
    }

    /// How the grant was lost, if it was.
    ///
    /// For the command line: not part of the library's promise.
    #[doc(hidden)]
    #[must_use]
    pub fn loss(&self) -> Option<Lost> {
        (!self.is_held()).then(|| self.held.lost())
    }

    /// What the guard knows, and whether it has callbacks, without dropping it.
    #[inline(always)]
    fn into_parts(self) -> (Held<'a>, bool) {
        let guard = ManuallyDrop::new(self);
        (guard.held, guard.has_calls.load(Ordering::Relaxed) != 0)
    }
}

impl<'a> Held<'a> {
    #[inline(always)]
    fn session(self) -> &'a Session {
        self.lock.session()
    }

    /// Whether this is a forked child, without the mapping; the grant is its parent's.
    #[inline(always)]
    fn is_wiped(self) -> bool {
        self.gate.is_wiped()
    }

    /// The slot's number, which only rare paths ask for.
    fn index(self) -> u32 {
        self.session().view.index_of(self.slot)
    }

    #[inline(always)]
    const fn token(self) -> FencingToken {
        FencingToken(self.grant.token())
    }

    /// The releases that are most common: nobody waits, or an heir does and this process has
    /// its turn; nothing is to be told. False: nothing was changed, and [`give_back`] has to
    /// look.
    #[inline(always)]
    fn is_let_go(self, has_calls: bool) -> bool {
        let (word, epoch) = (self.grant.word(), self.grant.epoch());
        if word.queue() == Queue::Idle {
            !has_calls
                && !self.is_wiped()
                && self.slot.release_quietly(&self.grant, Vacancy::Released)
        } else {
            !has_calls && keep_in_turn(self.lock, self.slot, word, epoch)
        }
    }

    #[inline(always)]
    fn lost(self) -> Lost {
        lost(self.lock, self.slot, self.token())
    }
}

impl Drop for Guard<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        let held = self.held;
        let has_calls = *self.has_calls.get_mut() != 0;
        if thread::panicking() || !held.is_let_go(has_calls) {
            let (word, epoch) = (held.grant.word(), held.grant.epoch());
            let panics = !held.unwinding;
            drop_otherwise(held.lock, held.slot, word, epoch, has_calls, panics);
        }
    }
}

/// Releases the slot before an heir in the middle of a turn, and keeps it; false where that is
/// not so. Out of line, and short enough to need no stack: see [`Held`].
#[inline(never)]
fn keep_in_turn(lock: &Lock, slot: &Slot, word: OwnerWord, epoch: u64) -> bool {
    let session = lock.session();
    if session.gate.is_wiped() || word.queue() != Queue::Heir {
        return false;
    }
    let (contention, index) = (&session.contention, session.view.index_of(slot));
    let kept = Vacancy::Kept(session.identity.pid());
    contention.turns.goes_on(index, word)
        && !contention.occupancy.is_low(index)
        && slot.release_quietly(&Grant::from_parts(word, epoch, word), kept)
}

/// A guard dropped while others wait, by a panic, or after its grant was revoked. `panics`:
/// a panic, if there is one, is of this grant's time.
#[cold]
#[inline(never)]
fn drop_otherwise(
    lock: &Lock,
    slot: &Slot,
    word: OwnerWord,
    epoch: u64,
    has_calls: bool,
    panics: bool,
) {
    let session = lock.session();
    let vacancy = if panics && thread::panicking() {
        Vacancy::Panicked(session.identity.pid())
    } else {
        Vacancy::Released
    };
    if !give_back(lock, slot, word, epoch, has_calls, vacancy) && !session.gate.is_wiped() {
        let token = FencingToken(word.token_in(epoch));
        tracing::warn!(lost = %lost(lock, slot, token), "guard dropped after its grant was revoked");
    }
}

/// Whether the slot was this grant's to give back, and now is free.
#[cold]
#[inline(never)]
fn give_back(
    lock: &Lock,
    slot: &Slot,
    word: OwnerWord,
    epoch: u64,
    has_calls: bool,
    vacancy: Vacancy,
) -> bool {
    let session = lock.session();
    if session.gate.is_wiped() {
        return false;
    }
    let index = session.view.index_of(slot);
    if has_calls {
        session.forget_lost_calls(index, FencingToken(word.token_in(epoch)));
    }
    // What the grant replaced does not matter to a release.
    let grant = Grant::from_parts(word, epoch, word);
    if vacancy != Vacancy::Released {
        return wait::release(slot, &grant, vacancy, &Futex);
    }
    let contention = &session.contention;
    if contention.occupancy.is_low(index) {
        let now_ns = clock::now_ns();
        if !contention.streaks.is_too_long(index, word, now_ns) {
            let mut is_behind_heir = false;
            let plainly = |queue| {
                is_behind_heir = queue == Queue::Heir;
                Vacancy::Released
            };
            let is_released = wait::release_before_others(slot, &grant, plainly, &Futex);
            if is_released && is_behind_heir {
                if stint::take_due_call(now_ns) {
                    wait::call_another(slot, &Futex);
                }
                if stint::end_if_over(now_ns) {
                    yield_to_others(&contention.streaks, index);
                }
            }
            return is_released;
        }
        // Others wait, and none of them has got it: it is not as free as it seems.
        contention.occupancy.forget(index);
    }
    let seen = slot.owner();
    let is_before_sleepers =
        seen.queue() == Queue::Asleep && seen.grant_only() == word.grant_only();
    let turns = &contention.turns;
    let is_over_behind = |queue| turns.is_over(index, word, queue, clock::now_ns);
    let mut is_over = is_before_sleepers && is_over_behind(Queue::Asleep);
    if is_before_sleepers && !is_over {
        wait::call_heir(slot, seen, &Futex);
    }
    let courtesy = |queue| match queue {
        Queue::Idle => Vacancy::Released,
        // What is over stays so, should the queue change and this be asked again.
        _ if is_over || is_over_behind(queue) => {
            is_over = true;
            Vacancy::Offered
        }
        Queue::Asleep | Queue::Heir => Vacancy::Kept(session.identity.pid()),
    };
    let is_given_back = wait::release_before_others(slot, &grant, courtesy, &Futex);
    if is_over {
        turns.end(index);
    }
    is_given_back
}

/// Leaves the processor to those who wait for a slot that is often free.
#[cold]
fn yield_to_others(streaks: &Streaks, index: u32) {
    thread::yield_now();
    // That nobody else got the slot meanwhile does not mean that none could.
    streaks.begin(index, clock::now_ns());
}

#[cold]
#[inline(never)]
fn lost(lock: &Lock, slot: &Slot, token: FencingToken) -> Lost {
    let session = lock.session();
    if session.gate.is_wiped() {
        return Lost {
            name: lock.name().to_owned(),
            token,
            how: LostHow::Forked,
        };
    }
    session.lost(session.view.index_of(slot), token, lock.name())
}

impl fmt::Debug for Guard<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard")
            .field("name", &self.lock().name())
            .field("token", &self.token())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use nix::sys::signal::Signal;

    use super::*;
    use crate::contention::{Contention, stint};
    use crate::os::futex::{self, Ended};
    use crate::os::testing::{Child, SharedPage, Watchdog, end_at};
    use crate::table::LockTable;

    #[test]
    fn a_release_before_others_leaves_a_courtesy_unless_the_slot_is_often_free() {
        let dir = tempfile::tempdir().unwrap();
        let table = LockTable::open(dir.path().join("t")).unwrap();
        let lock = table.lock("job").unwrap();
        let released_before_an_heir = || {
            let guard = lock.acquire().unwrap();
            let (slot, index) = (guard.held.slot, guard.held.index());
            let contention = &lock.session().contention;
            contention
                .turns
                .begin(index, guard.held.grant.word(), clock::now_ns());
            assert!(slot.queue_up(slot.owner(), Queue::Heir));
            guard.release().unwrap();
            assert_eq!(slot.owner().queue(), Queue::Heir);
            let is_low = contention.occupancy.is_low(index);
            contention.occupancy.lower(index);
            // Offered, should this thread lose its processor for the length of a turn.
            let is_courteous = match slot.owner().owner() {
                Owner::Vacant(Vacancy::Kept(_) | Vacancy::Offered) => true,
                Owner::Vacant(Vacancy::Released) => false,
                other => panic!("{other:?}"),
            };
            (is_courteous, is_low)
        };
        assert_eq!(released_before_an_heir(), (true, false));
        assert_eq!(released_before_an_heir(), (false, true));
        // For so long nobody else has got it that this cannot be so.
        thread::sleep(Duration::from_millis(20));
        assert_eq!(released_before_an_heir(), (true, false));
    }

    #[test]
    fn before_an_heir_a_turn_goes_on_until_it_is_over_or_the_slot_is_often_free() {
        const RELEASES: usize = 40;
        let dir = tempfile::tempdir().unwrap();
        let table = LockTable::open(dir.path().join("t")).unwrap();
        let lock = table.lock("job").unwrap();
        let contention = &lock.session().contention;
        let (kept, offered, released) = (
            Owner::Vacant(Vacancy::Kept(std::process::id())),
            Owner::Vacant(Vacancy::Offered),
            Owner::Vacant(Vacancy::Released),
        );
        let is_unasked = |guard: &Guard<'_>| {
            let word = guard.held.grant.word();
            word.queue() == Queue::Heir && contention.turns.goes_on(guard.held.index(), word)
        };
        // In a turn that begins now, and that `meanwhile` can end.
        let left = |meanwhile: fn(&Contention, u32)| {
            let guard = lock.acquire().unwrap();
            let (slot, index) = (guard.held.slot, guard.held.index());
            let turns = &contention.turns;
            turns.begin(index, guard.held.grant.word(), clock::now_ns());
            assert!(slot.queue_up(slot.owner(), Queue::Heir));
            guard.release().unwrap();
            let left = (0..RELEASES).map(|release| {
                if release == RELEASES / 2 {
                    meanwhile(contention, index);
                }
                let is_heirs = slot.owner().queue() == Queue::Heir;
                lock.acquire().unwrap().release().unwrap();
                (slot.owner().owner(), is_heirs)
            });
            left.collect::<Vec<_>>()
        };
        // Again and again, should this thread lose its processor for the length of a turn.
        let in_vain = (0..100).find(|_| left(|_, _| {}) == [(kept, true); RELEASES]);
        assert!(in_vain.is_some(), "no turn went on");
        let ended = (0..100).find(|_| {
            let left = left(|contention, index| contention.turns.end(index));
            let at = left.iter().position(|&(left, _)| left == offered);
            at.is_some_and(|at| (RELEASES / 2..RELEASES).contains(&at))
        });
        assert!(ended.is_some(), "no turn ended");
        // One that would go on without another look at the clock.
        let unasked = (0..100).find_map(|_| {
            left(|_, _| {});
            Some(lock.acquire().unwrap()).filter(is_unasked)
        });
        let guard = unasked.expect("a turn went on before");
        let (slot, index) = (guard.held.slot, guard.held.index());
        let held = guard.held;
        Child::fork(|| assert!(!held.is_let_go(false), "the grant is the parent's")).join();
        contention.occupancy.lower(index);
        guard.release().unwrap();
        assert_eq!(slot.owner().owner(), released);
    }

    #[test]
    fn in_a_forked_child_a_guard_is_the_parents_whatever_is_asked_of_it() {
        let _watchdog = Watchdog::start();
        let dir = tempfile::tempdir().unwrap();
        let table = LockTable::open(dir.path().join("t")).unwrap();
        let lock = table.lock("job").unwrap();
        let guard = lock.acquire().unwrap();
        Child::fork(move || {
            guard.on_lost(|_| ());
            assert!(matches!(guard.decline().unwrap_err().how, LostHow::Forked));
        })
        .join();
    }

    #[test]
    fn a_release_after_a_turn_offers_the_slot_with_one_call_and_ends_the_turn() {
        let dir = tempfile::tempdir().unwrap();
        let table = LockTable::open(dir.path().join("t")).unwrap();
        let lock = table.lock("job").unwrap();
        // To take back an heir that does not come counts once more.
        for (queue, calls) in [(Queue::Heir, 0), (Queue::Asleep, 2)] {
            let guard = lock.acquire().unwrap();
            let (slot, index) = (guard.held.slot, guard.held.index());
            let turns = &lock.session().contention.turns;
            turns.begin(index, guard.held.grant.word(), 1_000);
            assert!(slot.queue_up(slot.owner(), queue));
            let before = slot.wake_word().load(Ordering::Relaxed);
            guard.release().unwrap();
            let after = slot.wake_word().load(Ordering::Relaxed);
            assert_eq!(after - before, calls, "{queue:?}");
            assert!(turns.has_ended(index), "{queue:?}");
            let _ = slot.desert(slot.owner());
        }
    }

    #[test]
    fn a_release_of_a_slot_that_is_often_free_calls_who_sleeps() {
        let dir = tempfile::tempdir().unwrap();
        let table = LockTable::open(dir.path().join("t")).unwrap();
        let lock = table.lock("job").unwrap();
        let guard = lock.acquire().unwrap();
        let (slot, index) = (guard.held.slot, guard.held.index());
        lock.session().contention.occupancy.lower(index);
        assert!(slot.queue_up(slot.owner(), Queue::Asleep));
        let calls = slot.wake_word().load(Ordering::Relaxed);
        stint::be_over();
        guard.release().unwrap();
        assert_ne!(slot.wake_word().load(Ordering::Relaxed), calls);
        // Nobody was there, and nobody is relied on.
        let left = (slot.owner().owner(), slot.owner().queue());
        assert_eq!(left, (Owner::Vacant(Vacancy::Released), Queue::Idle));
        let called_and_yielded = || (stint::called_ns(), stint::begun_ns());
        let neither = (0, Some(0));
        assert_eq!(called_and_yielded(), neither, "one call for one release");

        let revoked = table.lock("revoked").unwrap();
        let guard = revoked.acquire().unwrap();
        let (slot, index) = (guard.held.slot, guard.held.index());
        lock.session().contention.occupancy.lower(index);
        assert!(slot.queue_up(slot.owner(), Queue::Heir));
        assert!(wait::vacate(slot, slot.owner(), Vacancy::Forced(1), &Futex));
        guard.release().unwrap_err();
        assert_eq!(called_and_yielded(), neither, "nor one for none");
    }

    #[test]
    fn a_release_before_the_heir_of_a_slot_that_is_often_free_yields_once_its_stint_is_over() {
        let dir = tempfile::tempdir().unwrap();
        // In a child, which a system call may end.
        let yields_after = |begin: fn(), is_low: bool| {
            let child = Child::fork(|| {
                let table = LockTable::open(dir.path().join("t")).unwrap();
                let lock = table.lock("job").unwrap();
                let guard = lock.acquire().unwrap();
                let (slot, index) = (guard.held.slot, guard.held.index());
                if is_low {
                    lock.session().contention.occupancy.lower(index);
                }
                assert!(slot.queue_up(slot.owner(), Queue::Heir));
                // First: to install a filter may take as long as a stint.
                end_at(libc::SYS_sched_yield);
                begin();
                guard.release().unwrap();
                // What comes after the release may yield.
                std::mem::forget((lock, table));
            });
            child.ends_by(Signal::SIGSYS)
        };
        assert!(yields_after(stint::be_over, true));
        assert!(!yields_after(stint::be_over, false), "in turns");
        assert!(!yields_after(stint::begin, true), "it has just begun");
        let asleep_since = || {
            stint::begin();
            assert!(!stint::end_if_over(1));
        };
        assert!(!yields_after(asleep_since, true));
    }

    #[test]
    fn a_release_of_a_slot_that_is_often_free_calls_one_behind_the_heir_now_and_then() {
        let _watchdog = Watchdog::start();
        let dir = tempfile::tempdir().unwrap();
        let table = LockTable::open(dir.path().join("t")).unwrap();
        let lock = table.lock("job").unwrap();
        let guard = lock.acquire().unwrap();
        let (slot, index) = (guard.held.slot, guard.held.index());
        let contention = &lock.session().contention;
        contention.occupancy.lower(index);
        assert!(slot.queue_up(slot.owner(), Queue::Heir));
        stint::be_over();
        guard.release().unwrap();
        assert_eq!(stint::begun_ns(), None, "the next, after a yield");
        let counted = slot.wake_count();
        let sleep = || while futex::wait(slot.wake_word(), counted, u64::MAX) != Ended::Wake {};
        thread::scope(|scope| {
            let sleeper = scope.spawn(sleep);
            while !sleeper.is_finished() {
                // A grant of which the process's memory does not hear: as another's, it ends
                // the streak that would end the belief.
                let unheard = ManuallyDrop::new(lock.acquire().unwrap());
                let grant = unheard.held.grant;
                assert!(slot.release_quietly(&grant, Vacancy::Released));
                lock.acquire().unwrap().release().unwrap();
            }
        });
        // None of the releases was an ordinary one before sleepers.
        let left = (slot.wake_count(), slot.owner().queue());
        assert_eq!(left, (counted, Queue::Heir));
    }

    /// Its process may have learned what is no longer so, and who never waits learns nothing.
    #[test]
    fn a_process_that_takes_a_slot_for_free_lets_others_have_it_all_the_same() {
        const TURNS: u32 = 20;
        let _watchdog = Watchdog::start();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t");
        let table = LockTable::open(&path).unwrap();
        let lock = table.lock("job").unwrap();
        let (page, ours) = (SharedPage::new(), lock.acquire().unwrap());
        let greedy = Child::fork(|| {
            let table = LockTable::open(&path).unwrap();
            let lock = table.lock("job").unwrap();
            page.word(0).store(1, Ordering::Release);
            // Not for ever, so that a failure ends.
            for _ in 0..3_000 {
                let guard = lock.acquire().unwrap();
                let occupancy = &lock.session().contention.occupancy;
                occupancy.lower(guard.held.index());
                if page.word(1).load(Ordering::Acquire) == TURNS {
                    return;
                }
                thread::sleep(Duration::from_millis(1));
            }
            panic!("nobody else got it often enough");
        });
        while page.word(0).load(Ordering::Acquire) == 0 {
            thread::sleep(Duration::from_millis(1));
        }
        drop(ours);
        for _ in 0..TURNS {
            // So that the other has it, and this one comes to wait.
            thread::sleep(Duration::from_millis(2));
            drop(lock.acquire().unwrap());
            page.word(1).fetch_add(1, Ordering::Release);
        }
        greedy.join();
    }
}
