//! What the models of one world are made of: a few slots, the section that they guard,
//! and actors that are one session's thread each.

use std::sync::{Arc, Mutex};

use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicBool, Ordering};
use loom::thread;

use super::protocol::slot::{Grant, Slot, Taken};
use super::protocol::wait::{self, Verdict, Waiting, Wake};
use super::protocol::word::{Identity, Owner, OwnerWord, Vacancy};
use super::sync::AtomicU32;
use crate::futex::Futex;

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

/// One table, as far as a model needs it.
#[derive(Debug)]
pub struct World {
    /// The slots; most models use the first.
    pub slots: Vec<Slot>,
    /// What the first slot guards.
    pub section: Section,
    futex: Futex,
    dead: Vec<AtomicBool>,
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
            dead: (0..sessions).map(|_| AtomicBool::new(false)).collect(),
            grants: Mutex::new(Vec::new()),
        })
    }

    /// The slot that most models use.
    #[must_use]
    pub fn slot(&self) -> &Slot {
        &self.slots[0]
    }

    /// The last act of a process: the kernel lets go of its byte.
    pub fn die(&self, session: u32) {
        self.dead[session as usize].store(true, Ordering::Release);
    }

    /// The kernel gives a dead session's byte to its next user.
    pub fn revive(&self, session: u32) {
        let was = self.dead[session as usize].swap(false, Ordering::AcqRel);
        assert!(was, "the byte was not free");
    }

    /// Whether the session's byte is free: certain, and ordered after its last act.
    #[must_use]
    pub fn is_dead(&self, session: u32) -> bool {
        self.dead[session as usize].load(Ordering::Acquire)
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
    /// Not at all, it only looks again: nothing is ordered by sleeping.
    Poll,
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
}

/// The reason of an actor that gave up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GaveUp {
    /// Its patience was at an end.
    Patience,
    /// The slot is being given a new name.
    Renamed,
}

/// One thread of one session.
#[derive(Clone, Debug)]
pub struct Actor {
    world: Arc<World>,
    session: u32,
    sleep: Sleep,
    judge: Judge,
    patience: Option<u32>,
    interruptions: u32,
    slept: bool,
}

impl Actor {
    /// An actor of `session` that sleeps on the futex and calls nobody gone.
    #[must_use]
    pub fn new(world: &Arc<World>, session: u32) -> Self {
        Self {
            world: world.clone(),
            session,
            sleep: Sleep::Futex,
            judge: Judge::Nobody,
            patience: None,
            interruptions: 0,
            slept: false,
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

    /// The table that it works on.
    #[must_use]
    pub fn world(&self) -> &Arc<World> {
        &self.world
    }

    /// Whether it has slept, and was not interrupted.
    #[must_use]
    pub fn slept(&self) -> bool {
        self.slept
    }

    /// Who it is.
    #[must_use]
    pub fn identity(&self) -> Identity {
        identity(self.session)
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

    /// Takes the first slot if it is vacant.
    #[must_use]
    pub fn try_acquire(&self) -> Option<Grant> {
        let seen = self.world.slot().owner();
        if !matches!(seen.owner(), Owner::Vacant(_)) {
            return None;
        }
        match self.world.slot().take(seen, self.identity(), false) {
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

    /// Releases the first slot, leaving `vacancy`; false when the grant was lost.
    #[must_use]
    pub fn release_as(&self, grant: &Grant, vacancy: Vacancy) -> bool {
        wait::release(self.world.slot(), grant, vacancy, self)
    }

    /// Acquires, enters the section, and releases a grant that nobody can have revoked;
    /// `None` if it gave up.
    pub fn use_lock(&mut self) -> Option<Grant> {
        let grant = self.acquire()?;
        self.world.section.enter(grant.token());
        assert!(self.release(&grant), "a grant was lost that nobody revoked");
        Some(grant)
    }

    /// Evicts or force-releases the holder in `seen`; false when the word had changed.
    #[must_use]
    pub fn vacate(&self, seen: OwnerWord, vacancy: Vacancy) -> bool {
        wait::vacate(self.world.slot(), seen, vacancy, self)
    }
}

impl Wake for Actor {
    fn wake_one(&self, _wake: &AtomicU32) {
        self.world.futex.wake_one();
    }
}

impl Waiting for Actor {
    type Stop = GaveUp;

    fn spin(&mut self) -> bool {
        false
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

    fn sleep(&mut self, wake: &AtomicU32, expected: u32, _held: OwnerWord) {
        self.patience = self.patience.map(|sleeps| sleeps - 1);
        if self.interruptions > 0 {
            self.interruptions -= 1;
            return;
        }
        self.slept = true;
        match self.sleep {
            Sleep::Futex => self.world.futex.wait(wake, expected),
            Sleep::Poll => thread::yield_now(),
        }
    }
}

/// The identity of a session in a process of its own.
#[must_use]
pub fn identity(session: u32) -> Identity {
    Identity::new(100 + session, session)
}

/// Starts an actor.
pub fn act(actor: impl FnOnce() + 'static) -> thread::JoinHandle<()> {
    thread::spawn(actor)
}

/// Waits for actors, and fails the model if one failed.
pub fn finish(actors: impl IntoIterator<Item = thread::JoinHandle<()>>) {
    for actor in actors {
        actor.join().expect("an actor failed");
    }
}
