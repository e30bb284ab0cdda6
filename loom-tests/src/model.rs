//! What the models of one world are made of: a few slots, the section that they guard,
//! and actors that are one session's thread each.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::{Arc, Mutex};

use loom::cell::UnsafeCell;
use loom::thread::{self, JoinHandle};

use super::protocol::slot::{Grant, Left, Slot, Taken, Vacated};
use super::protocol::wait::{self, Defer, Slept, Spin, Verdict, Waiting, Wake};
use super::protocol::word::{Identity, Owner, OwnerWord, Queue, Vacancy};
use super::sync::{AtomicU32, Ordering};
use crate::check;
use crate::futex::{Ended, Futex};
use crate::stop;

/// What the lock guards. Each holder enters it; loom fails the model when two are inside
/// at once, and also when the second is not ordered after the first.
#[derive(Debug)]
pub struct Section(UnsafeCell<u64>);

impl Section {
    /// A section that nobody was in.
    #[must_use]
    pub fn new() -> Self {
        Self(UnsafeCell::new(0))
    }

    /// A holder's critical section.
    pub fn enter(&self, token: u64) {
        self.0.with_mut(|last| {
            // SAFETY: loom checks that nobody else accesses the cell, and the cell
            // outlives the closure.
            let last = unsafe { &mut *last };
            assert!(token > *last, "token {token} after token {last}");
            *last = token;
        });
    }
}

impl Default for Section {
    fn default() -> Self {
        Self::new()
    }
}

// SAFETY: the cell is reached only through `enter`, whose exclusion loom checks: that is
// what the models are about.
unsafe impl Sync for Section {}

/// What each who bars a session's byte adds to its word: 0 is taken, and 1 free.
const BARRED: u32 = 2;

/// One table, as far as a model needs it.
#[derive(Debug)]
pub struct World {
    /// The slots; most models use the first.
    pub slots: Vec<Slot>,
    /// What the first slot guards.
    pub section: Section,
    futex: Futex,
    /// The sessions' bytes: 1 once the kernel has freed one.
    dead: Vec<AtomicU32>,
    /// The sessions' witnesses: a bit for each incarnation that somebody has.
    witnesses: Vec<AtomicU32>,
    /// The sessions' certificates: 1 once the kernel has marked one.
    certificates: Vec<AtomicU32>,
    /// Whether a poll interval is over; see [`World::poll_passes`].
    polled: Mutex<bool>,
    interval: AtomicU32,
    grants: Mutex<Vec<u64>>,
}

impl World {
    /// A fresh table of `slots` slots and `sessions` sessions.
    #[must_use]
    pub fn new(slots: usize, sessions: usize) -> Arc<Self> {
        Arc::new(Self {
            slots: (0..slots).map(|_| Slot::new()).collect(),
            section: Section::new(),
            futex: Futex::default(),
            dead: (0..sessions).map(|_| AtomicU32::new(0)).collect(),
            witnesses: (0..sessions).map(|_| AtomicU32::new(0)).collect(),
            certificates: (0..sessions).map(|_| AtomicU32::new(0)).collect(),
            polled: Mutex::new(false),
            interval: AtomicU32::new(0),
            grants: Mutex::new(Vec::new()),
        })
    }

    /// A table of one slot and `sessions` sessions, after so many grants.
    #[must_use]
    pub fn after(grants: u64, sessions: usize) -> Arc<Self> {
        let world = Self::new(1, sessions);
        for _ in 0..grants {
            pass(world.slot(), identity(0));
        }
        world
    }

    /// The slot that most models use.
    #[must_use]
    pub fn slot(&self) -> &Slot {
        &self.slots[0]
    }

    /// The last act of a process: the kernel lets go of its byte.
    pub fn die(&self, session: u32) {
        self.let_go(session);
        let byte = &self.dead[session as usize];
        // Who naps beside a marked certificate looks again and again: it will see it.
        self.futex.wake_one(byte);
        self.futex.wake_one(byte);
    }

    /// The death of a keeper thread: the kernel marks its certificate, which orders
    /// nothing, and wakes one of those who sleep on it.
    pub fn mark_certificate(&self, session: u32) {
        let certificate = &self.certificates[session as usize];
        certificate.fetch_or(1, Ordering::Relaxed);
        self.futex.wake_one(certificate);
    }

    /// The kernel gives a dead session's byte to its next user.
    pub fn revive(&self, session: u32) {
        let was = self.dead[session as usize].swap(0, Ordering::AcqRel);
        assert_eq!(was, 1, "the byte was not free");
    }

    /// The same, if it is free by now.
    #[must_use]
    pub fn try_revive(&self, session: u32) -> bool {
        self.dead[session as usize]
            .compare_exchange(1, 0, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
    }

    /// Bars a session's byte, if it is free: nobody has it, and nobody takes it meanwhile.
    #[must_use]
    pub fn try_bar(&self, session: u32) -> bool {
        let byte = &self.dead[session as usize];
        let mut seen = byte.load(Ordering::Relaxed);
        while seen != 0 {
            let barred = seen + BARRED;
            match byte.compare_exchange(seen, barred, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return true,
                Err(now) => seen = now,
            }
        }
        false
    }

    /// Takes a session's byte, which the caller has barred, unless another bars it, too.
    #[must_use]
    pub fn try_take_barred(&self, session: u32) -> bool {
        self.dead[session as usize]
            .compare_exchange(1 + BARRED, 0, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
    }

    /// Gives back a session's byte, which the caller has taken or barred.
    pub fn give_back(&self, session: u32) {
        let byte = &self.dead[session as usize];
        let taken = byte.compare_exchange(0, 1, Ordering::Release, Ordering::Relaxed);
        if taken.is_err() {
            byte.fetch_sub(BARRED, Ordering::Release);
        }
    }

    /// Who has a session's byte gives it back: what there is to see of that is the byte.
    pub fn let_go(&self, session: u32) {
        self.dead[session as usize].swap(1, Ordering::Release);
    }

    /// Whether the session's byte is free: certain, and ordered after its last act. The
    /// kernel answers by what is so, never by what was: a read-modify-write.
    #[must_use]
    pub fn is_dead(&self, session: u32) -> bool {
        self.dead[session as usize].fetch_or(0, Ordering::Acquire) & 1 == 1
    }

    /// A process inherits the witness of a session.
    pub fn inherit_witness(&self, session: u32, incarnation: u64) {
        self.witnesses[session as usize].fetch_or(1 << incarnation, Ordering::AcqRel);
    }

    /// The last act of who has inherited it.
    pub fn end_witness(&self, session: u32, incarnation: u64) {
        self.witnesses[session as usize].fetch_and(!(1 << incarnation), Ordering::Release);
    }

    /// Whether anybody has it, as [`is_dead`](Self::is_dead) answers.
    #[must_use]
    pub fn is_witnessed(&self, session: u32, incarnation: u64) -> bool {
        let held = self.witnesses[session as usize].fetch_or(0, Ordering::Acquire);
        held & 1 << incarnation != 0
    }

    /// One poll interval passes: each actor's sleep of this moment, or else its next one,
    /// ends by itself, once. This is what a lost wake may cost, and no more. An interval
    /// is longer than a store takes to be seen, so who looks then sees what was before.
    pub fn poll_passes(&self) {
        self.interval.swap(1, Ordering::Release);
        *self.polled.lock().expect("nothing panics here") = true;
        self.futex.poll_passes();
    }

    fn has_polled(&self) -> bool {
        // The plain flag spares the models without polls a step.
        *self.polled.lock().expect("nothing panics here")
            && self.interval.fetch_or(0, Ordering::Acquire) == 1
    }

    /// Notes a grant: no token is ever given out twice.
    pub fn granted(&self, grant: &Grant) {
        let token = grant.token();
        let mut grants = self.grants.lock().expect("nothing else panics here");
        assert!(!grants.contains(&token), "token {token} was issued twice");
        grants.push(token);
    }

    /// The tokens so far, in the order in which their holders came to know them.
    #[must_use]
    pub fn tokens(&self) -> Vec<u64> {
        self.grants
            .lock()
            .expect("nothing else panics here")
            .clone()
    }
}

/// How an actor sleeps. With a third actor about, a poller must be one that gives up:
/// two that poll can pass the turn to and fro for ever, which loom would follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sleep {
    /// Until it is woken: a lost wake is a deadlock.
    Futex,
    /// The same, and beside the holder's certificate.
    Certificate(Passing),
    /// Not at all, it only looks again: nothing is ordered by sleeping.
    Poll,
}

/// What a waiter does that was woken by a certificate, for which the kernel wakes but one.
/// It is not the protocol's part but its caller's: here it stands in the model, with the
/// bug of leaving it out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passing {
    /// It wakes the next that sleeps on it.
    PassesOn,
    /// It does not.
    KeepsIt,
}

/// How an actor that stops half way ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Its process is gone, and the kernel says so.
    Dies,
    /// It does nothing any more, and nothing says so but its silence.
    Hangs,
}

impl End {
    /// How the others find out.
    #[must_use]
    pub const fn judge(self, session: u32) -> Judge {
        match self {
            Self::Dies => Judge::TheDead,
            Self::Hangs => Judge::Expired(session),
        }
    }

    /// In the name of a model.
    #[must_use]
    pub const fn verb(self) -> &'static str {
        match self {
            Self::Dies => "dies",
            Self::Hangs => "hangs",
        }
    }
}

/// Whom an actor's liveness witnesses call gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judge {
    /// Nobody: the holder is alive, or nothing certain is known.
    Nobody,
    /// Whoever is dead.
    TheDead,
    /// Anyone, once this witness is seen: what the models of a bug believe in.
    Marked(u32),
    /// This session, always: it was silent for a lease.
    Expired(u32),
    /// Whoever is dead, and this session, always.
    DeadOrExpired(u32),
}

/// The reason of an actor that gave up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GaveUp {
    /// Its patience was at an end.
    Patience,
    /// The slot is being given a new name.
    Renamed,
}

/// How long an actor stays awake where the protocol lets it choose: each look but the last
/// is one more reading of the owner word.
#[derive(Clone, Copy, Debug, Default)]
pub struct Manners {
    /// How often it looks again at a held slot that others wait for.
    pub looks: u32,
    /// Whether it makes itself the heir where nobody waits yet.
    pub stays: bool,
    /// How often, as the heir, it looks at a held slot again before it sleeps.
    pub attends: u32,
    /// How often it leaves a vacant slot to whom it is kept or offered.
    pub defers: u32,
    /// Whether it sleeps then, where there is an heir, and does not take the slot.
    pub sleeps_aside: bool,
}

/// One thread of one session.
#[derive(Clone, Debug)]
pub struct Actor {
    world: Arc<World>,
    session: u32,
    pid: u32,
    sleep: Sleep,
    judge: Judge,
    patience: Option<u32>,
    interruptions: u32,
    slept: bool,
    slept_aside: bool,
    looked_again: bool,
    polled: bool,
    manners: Manners,
    call: Option<Call>,
}

impl Actor {
    /// An actor of `session` that sleeps on the futex and calls nobody gone.
    #[must_use]
    pub fn new(world: &Arc<World>, session: u32) -> Self {
        Self {
            world: world.clone(),
            session,
            pid: identity(session).pid(),
            sleep: Sleep::Futex,
            judge: Judge::Nobody,
            patience: None,
            interruptions: 0,
            slept: false,
            slept_aside: false,
            looked_again: false,
            polled: false,
            manners: Manners::default(),
            call: None,
        }
    }

    /// Sleeps by `sleep`.
    #[must_use]
    pub fn sleeping(mut self, sleep: Sleep) -> Self {
        self.sleep = sleep;
        self
    }

    /// Judges by `judge`.
    #[must_use]
    pub fn judging(mut self, judge: Judge) -> Self {
        self.judge = judge;
        self
    }

    /// Gives up instead of sleeping once more, after `sleeps`.
    #[must_use]
    pub fn giving_up_after(mut self, sleeps: u32) -> Self {
        self.patience = Some(sleeps);
        self
    }

    /// Its first `sleeps` end at once: a signal, or a deadline.
    #[must_use]
    pub fn interrupted(mut self, sleeps: u32) -> Self {
        self.interruptions = sleeps;
        self
    }

    /// Stays awake as `manners` say.
    #[must_use]
    pub fn with(mut self, manners: Manners) -> Self {
        self.manners = manners;
        self
    }

    /// Its first sleep ends by `call`, or else its first look as the heir is after it.
    #[must_use]
    pub fn called(mut self, call: &Call) -> Self {
        self.call = Some(call.clone());
        self
    }

    /// The table that it works on.
    #[must_use]
    pub fn world(&self) -> &Arc<World> {
        &self.world
    }

    /// As the thread of a process with this PID.
    #[must_use]
    pub fn as_process(mut self, pid: u32) -> Self {
        self.pid = pid;
        self
    }

    /// Whether it has slept, and was not interrupted.
    #[must_use]
    pub fn slept(&self) -> bool {
        self.slept
    }

    /// Whether it has slept so under a vacant word.
    #[must_use]
    pub fn slept_aside(&self) -> bool {
        self.slept_aside
    }

    /// Whether it has looked again at a held slot that others wait for.
    #[must_use]
    pub fn looked_again(&self) -> bool {
        self.looked_again
    }

    /// Who it is.
    #[must_use]
    pub fn identity(&self) -> Identity {
        Identity::new(self.pid, self.session)
    }

    /// Acquires the first slot; `None` if it gave up.
    pub fn acquire(&mut self) -> Option<Grant> {
        self.acquire_slot(0)
    }

    /// Acquires a slot; `None` if it gave up.
    pub fn acquire_slot(&mut self, slot: usize) -> Option<Grant> {
        let (world, me) = (self.world.clone(), self.identity());
        let grant = wait::acquire(&world.slots[slot], me, self).ok()?;
        if slot == 0 {
            world.granted(&grant);
        }
        Some(grant)
    }

    /// Takes the first slot if it is open, or kept for this very process.
    #[must_use]
    pub fn try_acquire(&self) -> Option<Grant> {
        let seen = self.world.slot().owner();
        if !seen.is_open() && !seen.is_kept_by(self.identity()) {
            return None;
        }
        self.take(seen)
    }

    /// Takes the first slot by one look, if that is vacant or its holder dead. One that
    /// waits looks again and again: as this one at its last look.
    #[must_use]
    pub fn try_inherit(&self) -> Option<Grant> {
        let seen = self.world.slot().owner();
        match seen.owner() {
            Owner::Held(holder) if !self.world.is_dead(holder.session()) => None,
            _ => self.take(seen),
        }
    }

    /// Takes the first slot from the word that was judged.
    #[must_use]
    pub fn take(&self, seen: OwnerWord) -> Option<Grant> {
        self.noted(self.world.slot().take(seen, self.identity(), false))
    }

    /// Takes the first slot if it is as the release of the grant of `token` `left` it.
    #[must_use]
    pub fn take_after(&self, token: u64, left: Left) -> Option<Grant> {
        self.noted(self.world.slot().take_after(token, left, self.identity()))
    }

    fn noted(&self, taken: Taken) -> Option<Grant> {
        match taken {
            Taken::Granted(grant) => {
                self.world.granted(&grant);
                Some(grant)
            }
            Taken::Changed | Taken::Revoked => None,
        }
    }

    /// Releases the first slot; false when the grant was lost.
    #[must_use]
    pub fn release(&self, grant: &Grant) -> bool {
        self.release_as(grant, Vacancy::Released)
    }

    /// The same as a guard does it in its turn: quietly first, which is what a release tries
    /// first, too.
    #[must_use]
    pub fn release_as_guard(&self, grant: &Grant) -> bool {
        let kept = Vacancy::Kept(self.identity().pid());
        let leaves = match grant.word().queue() {
            Queue::Idle => Vacancy::Released,
            Queue::Asleep | Queue::Heir => kept,
        };
        self.world.slot().release_quietly(grant, leaves) || self.release(grant)
    }

    /// Releases the first slot, leaving `vacancy`; false when the grant was lost.
    #[must_use]
    pub fn release_as(&self, grant: &Grant, vacancy: Vacancy) -> bool {
        wait::release(self.world.slot(), grant, vacancy, self)
    }

    /// Calls the heir of the first slot, as one that means to come back for it.
    pub fn call_heir(&self, grant: &Grant) {
        let seen = self.world.slot().owner();
        if seen.queue() == Queue::Asleep && seen.grant_only() == grant.word().grant_only() {
            wait::call_heir(self.world.slot(), seen, self);
        }
    }

    /// Calls one more to the first slot, as one that has left it behind an heir.
    pub fn call_another(&self) {
        wait::call_another(self.world.slot(), self);
    }

    /// Releases the first slot in front of those who wait, leaving `courtesy` if there are
    /// any; false when the grant was lost.
    #[must_use]
    pub fn release_before_others(&self, grant: &Grant, courtesy: Vacancy) -> bool {
        let leaves = |queue| match queue {
            Queue::Idle => Vacancy::Released,
            Queue::Asleep | Queue::Heir => courtesy,
        };
        wait::release_before_others(self.world.slot(), grant, leaves, self)
    }

    /// Acquires, enters the section, and releases a grant that nobody can have revoked;
    /// `None` if it gave up.
    pub fn use_lock(&mut self) -> Option<Grant> {
        let grant = self.acquire()?;
        self.world.section.enter(grant.token());
        assert!(self.release(&grant), "a grant was lost that nobody revoked");
        Some(grant)
    }

    /// Acquires and releases a grant that may be revoked; `None` if it gave up. Nothing is
    /// ordered between a revoked holder and the next, so it does not enter the section.
    pub fn pass(&mut self) -> Option<Grant> {
        let grant = self.acquire()?;
        let _ = self.release(&grant);
        Some(grant)
    }

    /// Acts for at most `steps` steps, and ends there by `end`. Whoever then waits for what
    /// it did not do any more waits for one poll interval. `None` if it was stopped.
    pub fn stopped_after<R>(
        &mut self,
        steps: u32,
        end: End,
        act: impl FnOnce(&mut Self) -> R,
    ) -> Option<R> {
        let outcome = stop::after(steps, || act(self));
        if outcome.is_none() {
            if end == End::Dies {
                self.world.die(self.session);
            }
            self.world.poll_passes();
        }
        outcome
    }

    /// Evicts or force-releases the holder in `seen`; false when the word had changed.
    #[must_use]
    pub fn vacate(&self, seen: OwnerWord, vacancy: Vacancy) -> bool {
        wait::vacate(self.world.slot(), seen, vacancy, self)
    }
}

impl Actor {
    /// Sleeps on the wake word and the holder's certificate. One that is marked already is
    /// no word to sleep on: the holder is dying, and is looked at again until it is dead.
    fn sleep_on_both(
        &self,
        wake: (&AtomicU32, u32),
        holder: Identity,
        passing: Passing,
        begun: u64,
    ) -> Ended {
        let session = holder.session() as usize;
        let (futex, certificate) = (&self.world.futex, &self.world.certificates[session]);
        if certificate.load(Ordering::Relaxed) == 1 {
            return futex.wait(&[wake, (&self.world.dead[session], 0)], begun);
        }
        let ended = futex.wait(&[wake, (certificate, 0)], begun);
        if ended == Ended::Woken(1) && passing == Passing::PassesOn {
            futex.wake_one(certificate);
        }
        ended
    }
}

impl Actor {
    fn is_called(&mut self) -> bool {
        let call = self.call.take();
        if let Some(call) = &call {
            stop::uncounted(|| call.make());
        }
        call.is_some()
    }
}

impl Wake for Actor {
    fn wake_one(&self, wake: &AtomicU32) -> bool {
        self.world.futex.wake_one(wake)
    }
}

impl Waiting for Actor {
    type Stop = GaveUp;

    fn spin(&mut self, held: OwnerWord) -> Spin {
        if held.queue() != Queue::Idle && count_down(&mut self.manners.looks) {
            self.looked_again = true;
            Spin::Look
        } else if self.manners.stays {
            Spin::Stay
        } else {
            Spin::Sleep
        }
    }

    // Looking again is no yield: loom then also has the looks that come too soon.
    fn defer(&mut self, seen: OwnerWord) -> Defer {
        if seen.is_kept_by(self.identity()) {
            Defer::Take
        } else if count_down(&mut self.manners.defers) {
            Defer::Look
        } else if self.manners.sleeps_aside {
            Defer::Sleep
        } else {
            Defer::Take
        }
    }

    fn attend(&mut self, _held: OwnerWord) -> bool {
        if self.is_called() {
            return true;
        }
        count_down(&mut self.manners.attends)
    }

    fn judge(&mut self, held: OwnerWord) -> Result<Verdict, GaveUp> {
        if self.patience == Some(0) {
            return Err(GaveUp::Patience);
        }
        let Owner::Held(holder) = held.owner() else {
            unreachable!("only held words are judged");
        };
        let gone = match self.judge {
            Judge::Nobody => false,
            Judge::TheDead => self.world.is_dead(holder.session()),
            Judge::Marked(witness) => self.world.is_dead(witness),
            Judge::Expired(session) => holder.session() == session,
            Judge::DeadOrExpired(session) => {
                holder.session() == session || self.world.is_dead(holder.session())
            }
        };
        Ok(if gone { Verdict::Gone } else { Verdict::Holds })
    }

    fn unusable(&mut self, word: OwnerWord) -> Result<(), GaveUp> {
        assert!(
            matches!(word.owner(), Owner::Renaming(_)),
            "no rule produces {word:?}"
        );
        Err(GaveUp::Renamed)
    }

    fn sleep(&mut self, wake: &AtomicU32, expected: u32, seen: OwnerWord) -> Slept {
        if self.is_called() {
            self.slept = true;
            return Slept::UntilWoken;
        }
        self.patience = self.patience.map(|sleeps| sleeps.saturating_sub(1));
        if self.interruptions > 0 {
            self.interruptions -= 1;
            return Slept::InVain;
        }
        if self.sleep == Sleep::Poll {
            self.slept = true;
            thread::yield_now();
            return Slept::InVain;
        }
        let begun = self.world.futex.intervals();
        if self.world.has_polled() && !self.polled {
            self.polled = true;
            return Slept::InVain;
        }
        let ended = match (self.sleep, seen.owner()) {
            (Sleep::Certificate(passing), Owner::Held(holder)) => {
                self.sleep_on_both((wake, expected), holder, passing, begun)
            }
            _ => self.world.futex.wait(&[(wake, expected)], begun),
        };
        self.polled |= ended == Ended::Polled && self.world.has_polled();
        self.slept |= ended != Ended::Changed;
        self.slept_aside |= ended != Ended::Changed && matches!(seen.owner(), Owner::Vacant(_));
        match ended {
            Ended::Changed => Slept::NotAtAll,
            Ended::Woken(_) => Slept::UntilWoken,
            Ended::Polled => Slept::InVain,
        }
    }
}

fn count_down(left: &mut u32) -> bool {
    let some = *left > 0;
    *left = left.saturating_sub(1);
    some
}

/// The identity of a session in a process of its own.
#[must_use]
pub fn identity(session: u32) -> Identity {
    Identity::new(100 + session, session)
}

/// Takes a slot that nobody else wants.
#[must_use]
pub fn take(slot: &Slot, me: Identity) -> Grant {
    match slot.take(slot.owner(), me, false) {
        Taken::Granted(grant) => grant,
        other => panic!("nobody else takes the slot: {other:?}"),
    }
}

/// The end of a grant that nobody revokes.
pub fn done(outcome: Vacated) {
    assert!(
        matches!(outcome, Vacated::Done { .. }),
        "a grant was lost that nobody revoked"
    );
}

/// Takes and releases.
pub fn pass(slot: &Slot, me: Identity) {
    done(slot.release(&take(slot, me), Vacancy::Released));
}

/// What one actor does.
pub type Act = Box<dyn FnOnce()>;

/// What calls a waiter that is asleep, at one stroke, and what its caller does from then on,
/// beside it. So a model begins where a waiter has got to by itself.
#[derive(Clone)]
pub struct Call {
    acts: Rc<Cell<Option<(Act, Act)>>>,
    caller: Rc<Cell<Option<JoinHandle<()>>>>,
}

impl std::fmt::Debug for Call {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Call").finish_non_exhaustive()
    }
}

impl Call {
    /// The steps of `calls`, and then `beside`.
    #[must_use]
    pub fn new(calls: Act, beside: Act) -> Self {
        Self {
            acts: Rc::new(Cell::new(Some((calls, beside)))),
            caller: Rc::default(),
        }
    }

    fn make(&self) {
        let Some((calls, beside)) = self.acts.take() else {
            return;
        };
        calls();
        self.caller.set(Some(thread::spawn(beside)));
        // The waiter is the first, unless the search begins with the other.
        if check::first_actor() == 1 {
            thread::yield_now();
        }
    }

    /// Sees it through, though the waiter stopped before it was called.
    pub fn finish(&self) {
        self.make();
        let caller = self.caller.take().expect("it was just made");
        caller.join().expect("an actor failed");
    }
}

/// An actor of this model.
pub fn act(actor: impl FnOnce() + 'static) -> Act {
    Box::new(actor)
}

/// Runs the actors beside each other, and fails the model if one fails. Each execution
/// begins with another of them where the search is made anew; `check::first_actor` says why.
///
/// The first runs on the model's own thread: one that only waits for the actors would cost as
/// much as they do.
pub fn finish(actors: impl IntoIterator<Item = Act>) {
    let mut actors: Vec<_> = actors.into_iter().collect();
    let count = actors.len().max(1);
    actors.rotate_left(check::first_actor() % count);
    let mut actors = actors.into_iter();
    let first = actors.next();
    let threads: Vec<_> = actors.map(thread::spawn).collect();
    if let Some(first) = first {
        first();
    }
    for thread in threads {
        thread.join().expect("an actor failed");
    }
}
