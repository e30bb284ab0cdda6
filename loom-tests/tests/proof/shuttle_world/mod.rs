//! The world of the randomised run: one table, a futex, who is dead and who is silent, and
//! what is written down beside the table to hold it against.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};

use shuttle::sync::mpsc::{Sender, channel};

use super::any;
use super::protocol::names::{Key, NameRecord, Names, NamingWords, Resolved};
use super::protocol::slot::{Grant, Slot, Taken};
use super::protocol::wait::{self, Defer, Slept, Spin, Verdict, Waiting, Wake};
use super::protocol::word::{Identity, Owner, OwnerWord, Queue, Vacancy};
use super::sync::{AtomicU32, AtomicU64, Turn};

/// Sessions a world has room for.
const SESSIONS: usize = 12;

/// Things that happened in some run, kept outside of them all.
static REACHED: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());

/// Notes that some run came to `outcome`.
pub fn mark(outcome: &'static str) {
    lock(&REACHED).insert(outcome);
}

/// What no run came to.
pub fn missing(expected: &[&'static str]) -> Vec<&'static str> {
    let reached = lock(&REACHED);
    let absent = |outcome: &&&str| !reached.contains(**outcome);
    expected.iter().filter(absent).copied().collect()
}

/// Std's mutexes are no steps, and are never held over one. A failed run may leave one
/// poisoned, and then its own failure is what is to be read.
fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Who is in what a lock guards.
#[derive(Debug, Default)]
struct Section {
    last: u64,
    inside: Option<u32>,
}

/// How the grants of one slot began and ended, as those say who did it.
#[derive(Debug, Default)]
struct Ledger {
    begun: BTreeSet<u64>,
    ended: BTreeSet<u64>,
}

/// One table and everything about it.
#[derive(Debug)]
pub struct World {
    naming: NamingWords,
    index: Vec<AtomicU64>,
    /// The slots, with the naming lock first.
    pub slots: Vec<Slot>,
    records: Vec<NameRecord>,
    dead: Vec<AtomicU32>,
    silent: Vec<AtomicU32>,
    sleepers: Mutex<BTreeMap<usize, VecDeque<Sender<()>>>>,
    sections: Mutex<BTreeMap<u64, Section>>,
    ledger: Mutex<Ledger>,
    turn: Turn,
}

impl World {
    /// A fresh table with `slots` slots for names.
    pub fn new(slots: usize) -> Arc<Self> {
        let flags = || (0..SESSIONS).map(|_| AtomicU32::new(0)).collect();
        Arc::new(Self {
            naming: NamingWords::new(),
            index: (0..8).map(|_| AtomicU64::new(0)).collect(),
            slots: (0..=slots).map(|_| Slot::new()).collect(),
            records: (0..=slots).map(|_| NameRecord::new()).collect(),
            dead: flags(),
            silent: flags(),
            sleepers: Mutex::default(),
            sections: Mutex::default(),
            ledger: Mutex::default(),
            turn: Turn::new(),
        })
    }

    /// The naming parts of the table.
    pub fn names(&self) -> Names<'_> {
        Names {
            naming: &self.naming,
            index: &self.index,
            slots: &self.slots,
            records: &self.records,
        }
    }

    /// The last act of a process: the kernel lets go of its byte.
    pub fn die(&self, session: u32) {
        mark("killed");
        self.dead[session as usize].swap(1, super::sync::Ordering::Release);
    }

    /// Whether the session's byte is free.
    pub fn is_dead(&self, session: u32) -> bool {
        self.dead[session as usize].load(super::sync::Ordering::Acquire) == 1
    }

    /// Whether each observer has by now seen a lease of silence, or none has.
    pub fn set_silent(&self, session: u32, silent: bool) {
        self.silent[session as usize].swap(silent.into(), super::sync::Ordering::Release);
    }

    fn is_silent(&self, session: u32) -> bool {
        self.silent[session as usize].load(super::sync::Ordering::Acquire) == 1
    }

    /// The critical section of lock `of`, whose grants end by release or death only: nobody
    /// else is inside, but for the dead, and tokens rise.
    pub fn enter(&self, of: u64, session: u32, token: u64) {
        {
            let mut sections = lock(&self.sections);
            let section = sections.entry(of).or_default();
            assert!(token > section.last, "token {token} after {}", section.last);
            if let Some(other) = section.inside {
                let died = self.dead[other as usize].peek() == 1;
                assert!(died, "{other} is still inside with {session}");
            }
            section.last = token;
            section.inside = Some(session);
        }
        self.turn.step();
        let mut sections = lock(&self.sections);
        let section = sections.entry(of).or_default();
        assert_eq!(
            section.inside.take(),
            Some(session),
            "somebody else went in"
        );
    }

    /// Notes a grant of the ledger's slot, and the end of the one that it took over.
    pub fn begun(&self, grant: &Grant) {
        let token = grant.token();
        let fresh = lock(&self.ledger).begun.insert(token);
        assert!(fresh, "token {token} was issued twice");
        if let Owner::Held(_) = grant.from().owner() {
            self.ended(grant.predecessor_token());
        }
    }

    /// Notes the end of a grant of the ledger's slot: by release, force, sweep or takeover.
    pub fn ended(&self, token: u64) {
        let first = lock(&self.ledger).ended.insert(token);
        assert!(first, "the grant {token} ended twice");
    }

    /// The highest token that a holder of the ledger's slot came to know.
    pub fn highest(&self) -> u64 {
        lock(&self.ledger).begun.last().copied().unwrap_or(0)
    }

    /// Sleeps while `wake` is `expected`. Comparing and lying down are one step, as they are
    /// under the kernel's bucket lock. There is no timeout: who is not woken sleeps for
    /// ever, which shuttle reports.
    fn sleep(&self, wake: &AtomicU32, expected: u32) -> bool {
        self.turn.step();
        let (waker, woken) = channel();
        if wake.peek() != expected {
            return false;
        }
        let place = std::ptr::from_ref(wake).addr();
        lock(&self.sleepers)
            .entry(place)
            .or_default()
            .push_back(waker);
        mark("slept");
        woken.recv().expect("its sender was woken with it");
        true
    }
}

/// How an actor sleeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sleep {
    /// Until it is woken: a lost wake shows.
    Futex,
    /// Until it is its turn again: each sleep is bounded, so a killed actor's wakes are not
    /// missed.
    Poll,
}

/// The reason of an actor that gave up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GaveUp {
    /// It had slept long enough.
    Patience,
    /// The slot has, or is getting, another name.
    Renamed,
}

/// One thread of one session, on its way to one slot.
#[derive(Clone, Debug)]
pub struct Actor {
    world: Arc<World>,
    session: u32,
    sleep: Sleep,
    /// After how many sleeps to give up.
    patience: Option<u32>,
    /// A planted bug.
    wakes_nobody: bool,
    place: Resolved,
    /// How a holder went whose grant was taken over.
    takeover: fn(u32) -> Vacancy,
}

impl Actor {
    /// An actor of `session` that is about to acquire slot 1.
    pub fn new(world: &Arc<World>, session: u32, sleep: Sleep) -> Self {
        Self {
            world: world.clone(),
            session,
            sleep,
            patience: None,
            wakes_nobody: false,
            place: Resolved {
                slot: 1,
                renames: 0,
            },
            takeover: Vacancy::Died,
        }
    }

    /// Gives up after `sleeps`.
    pub fn giving_up_after(mut self, sleeps: u32) -> Self {
        self.patience = Some(sleeps);
        self
    }

    /// Frees slots and wakes nobody.
    pub fn waking_nobody(mut self) -> Self {
        self.wakes_nobody = true;
        self
    }

    /// The table that it works on.
    pub fn world(&self) -> &Arc<World> {
        &self.world
    }

    /// Its session.
    pub fn session(&self) -> u32 {
        self.session
    }

    /// Who it is.
    pub fn identity(&self) -> Identity {
        Identity::new(100 + self.session, self.session)
    }

    /// The slot that it is about.
    pub fn slot(&self) -> &Slot {
        &self.world.slots[self.place.slot as usize]
    }

    /// Acquires the slot, however long it takes.
    pub fn acquire(&mut self) -> Result<Grant, GaveUp> {
        let world = self.world.clone();
        let slot = &world.slots[self.place.slot as usize];
        let grant = wait::acquire(slot, self.identity(), self)?;
        if let Owner::Held(_) = grant.from().owner() {
            mark("taken over");
        }
        Ok(grant)
    }

    /// Takes the slot if it is vacant.
    pub fn try_acquire(&self) -> Option<Grant> {
        let seen = self.slot().owner();
        if !seen.is_open() && !seen.is_kept_by(self.identity()) {
            return None;
        }
        match self.slot().take(seen, self.identity(), false) {
            Taken::Granted(grant) => Some(grant),
            Taken::Changed | Taken::Revoked => None,
        }
    }

    /// Releases the slot, in front of those who wait or not; false when the grant was lost.
    pub fn release(&self, grant: &Grant) -> bool {
        let courtesy = match any(3) {
            0 => Vacancy::Offered,
            1 => Vacancy::Kept(self.identity().pid()),
            _ => return wait::release(self.slot(), grant, Vacancy::Released, self),
        };
        let seen = self.slot().owner();
        if seen.grant_only() == grant.word().grant_only()
            && seen.queue() == Queue::Asleep
            && any(2) == 0
        {
            wait::call_heir(self.slot(), seen, self);
        }
        let leaves = |queue| match queue {
            Queue::Idle => Vacancy::Released,
            Queue::Asleep | Queue::Heir => courtesy,
        };
        wait::release_before_others(self.slot(), grant, leaves, self)
    }

    /// Takes the grant that the slot's holder has right now from it, as an operator does.
    pub fn force(&self) {
        let Some(now) = self.slot().view() else {
            return;
        };
        let Owner::Held(holder) = now.word.owner() else {
            return;
        };
        if wait::vacate(self.slot(), now.word, Vacancy::Forced(holder.pid()), self) {
            mark("forced");
            self.world.ended(now.token);
        }
    }

    /// Acquires the lock of a name, is inside, and releases: what a handle does. False if
    /// the table was full.
    pub fn use_name(&mut self, name: u8) -> bool {
        let (world, hash) = (self.world.clone(), u64::from(name) << 32 | 1);
        let key = Key::new(&[name], hash).expect("it is a name");
        loop {
            let Some(place) = self.find_or_create(&key) else {
                return false;
            };
            self.place = place;
            let Ok(grant) = self.acquire() else {
                continue;
            };
            if self.slot().renames() != place.renames {
                mark("undone");
                let undone = wait::undo(self.slot(), grant, self.takeover, self);
                assert!(undone, "a grant was lost that nobody revoked");
                continue;
            }
            world.enter(hash, self.session, grant.token());
            assert!(self.release(&grant), "a grant was lost that nobody revoked");
            return true;
        }
    }

    fn find_or_create(&mut self, key: &Key) -> Option<Resolved> {
        let world = self.world.clone();
        if let Some(found) = world.names().find(key) {
            return Some(found);
        }
        self.place = Resolved {
            slot: NamingWords::SLOT,
            renames: 0,
        };
        let naming = self.acquire().expect("the naming lock has no name");
        let found = world.names().find_or_create(key, self.identity(), self);
        assert!(self.release(&naming), "the naming lock was lost");
        found.ok()
    }
}

impl Wake for Actor {
    fn wake_one(&self, wake: &AtomicU32) -> bool {
        if self.wakes_nobody {
            return true;
        }
        let place = std::ptr::from_ref(wake).addr();
        self.world.turn.step();
        let sleeper = lock(&self.world.sleepers)
            .get_mut(&place)
            .and_then(VecDeque::pop_front);
        sleeper.is_some_and(|sleeper| {
            sleeper.send(()).expect("a sleeper waits to be woken");
            true
        })
    }
}

impl Waiting for Actor {
    type Stop = GaveUp;

    fn spin(&mut self, _held: OwnerWord) -> Spin {
        match any(3) {
            0 => Spin::Look,
            1 => Spin::Stay,
            _ => Spin::Sleep,
        }
    }

    fn defer(&mut self, seen: OwnerWord) -> Defer {
        if seen.is_kept_by(self.identity()) {
            return Defer::Take;
        }
        match any(3) {
            0 => {
                mark("deferred");
                shuttle::thread::yield_now();
                Defer::Look
            }
            1 => {
                mark("stood aside");
                Defer::Sleep
            }
            _ => Defer::Take,
        }
    }

    fn attend(&mut self, _held: OwnerWord) -> bool {
        let attends = any(2) == 0;
        if attends {
            mark("attended");
            shuttle::thread::yield_now();
        }
        attends
    }

    fn judge(&mut self, held: OwnerWord) -> Result<Verdict, GaveUp> {
        if self.slot().renames() != self.place.renames {
            return Err(GaveUp::Renamed);
        }
        let Owner::Held(holder) = held.owner() else {
            unreachable!("only held words are judged");
        };
        if self.world.is_dead(holder.session()) {
            self.takeover = Vacancy::Died;
            return Ok(Verdict::Gone);
        }
        if self.world.is_silent(holder.session()) {
            self.takeover = Vacancy::Expired;
            return Ok(Verdict::Gone);
        }
        match self.patience {
            Some(0) => Err(GaveUp::Patience),
            _ => Ok(Verdict::Holds),
        }
    }

    fn unusable(&mut self, word: OwnerWord) -> Result<(), GaveUp> {
        let renaming = matches!(word.owner(), Owner::Renaming(_));
        assert!(renaming, "no rule produces {word:?}");
        Err(GaveUp::Renamed)
    }

    fn sleep(&mut self, wake: &AtomicU32, expected: u32, _seen: OwnerWord) -> Slept {
        self.patience = self.patience.map(|sleeps| sleeps.saturating_sub(1));
        match self.sleep {
            Sleep::Futex if self.world.sleep(wake, expected) => Slept::UntilWoken,
            Sleep::Futex => Slept::NotAtAll,
            Sleep::Poll => {
                shuttle::thread::yield_now();
                Slept::InVain
            }
        }
    }
}
