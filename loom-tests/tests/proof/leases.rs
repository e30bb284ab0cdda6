//! Sessions and leases, with the time that loom cannot see: a Stateright model of pauses,
//! expiry by an observer's own polls, kills, force-release and reset.
//!
//! What moves the words is the shipping source itself: `Slot`, `Names`, `Watch`, the sweep
//! and the reset run here over cells ([`sync`]) that are part of the model's state, one
//! call a step. What happens inside a call is loom's business. What a call ought to have
//! done is told by a few plain fields beside the table ([`Truth`]).
//!
//! Time is a counter that everybody's clock follows, and it moves on only when each process
//! that runs has done what is due: its heartbeat, its poll, the eviction it has decided on.
//! So a bound on time is an invariant like the others, and the fairness that it rests on
//! is just this: who runs, does what is due.
//!
//! One race stays open in the product and is closed here: an eviction's last look at the
//! beat and its compare-and-swap are one step. A holder whose first beat after a lease of
//! silence comes between the two is evicted, and learns of it like any other.

use crate::Part;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, LazyLock};

use caslock_loom::report::{self, Row};
use stateright::{Checker, HasDiscoveries, Model, Property};

use protocol::names::{Key, NameRecord, Names, NamingWords};
use protocol::reclaim;
use protocol::session::{Credentials, LifeSign, SessionRecord, Watch};
use protocol::slot::{Grant, Slot, Taken, Vacated};
use protocol::wait::{self, Wake};
use protocol::word::{Identity, Owner, OwnerWord, Queue, Vacancy};

#[allow(dead_code, unused_imports, reason = "the whole protocol comes along")]
#[path = "../../../src/protocol/mod.rs"]
mod protocol;

/// The facade of `src/sync.rs`, by the same names, over cells that a model's state carries:
/// an atomic is the number of its cell.
mod sync {
    use std::cell::RefCell;
    use std::sync::Arc;

    pub use core::sync::atomic::Ordering;

    use super::protocol::ordering::Site;

    /// As shipped.
    pub const GENERATION_BITS: u32 = 28;
    /// A word is enough for the one name.
    pub const NAME_WORDS: usize = 1;
    /// Nothing is noted.
    pub const NOTE_WORDS: usize = 1;
    /// As shipped: the protocol's own unit tests come along, and use them.
    pub const WAIT_ENTRIES: usize = 8;

    thread_local! {
        static CELLS: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
    }

    /// The ordering at a named place. Calls are steps here, so it orders nothing.
    pub const fn ord(site: Site) -> Ordering {
        site.ordering()
    }

    /// Nothing, where calls are steps.
    pub fn fence(_order: Ordering) {}

    /// How many cells this thread has.
    pub fn count() -> usize {
        CELLS.with_borrow(Vec::len)
    }

    /// Puts `values` into the cells from `base` on.
    pub fn load(base: usize, values: &[u64]) {
        CELLS.with_borrow_mut(|cells| cells[base..base + values.len()].copy_from_slice(values));
    }

    /// Takes the cells from `base` on into `values`, if they have changed.
    pub fn save(base: usize, values: &mut Arc<[u64]>) {
        CELLS.with_borrow(|cells| {
            let now = &cells[base..base + values.len()];
            if now != &**values {
                *values = now.into();
            }
        });
    }

    macro_rules! atomic {
        ($name:ident, $int:ty) => {
            #[derive(Debug)]
            pub struct $name(usize);

            #[allow(dead_code, reason = "both widths are made alike")]
            impl $name {
                pub fn new(value: $int) -> Self {
                    CELLS.with_borrow_mut(|cells| {
                        cells.push(value.into());
                        Self(cells.len() - 1)
                    })
                }

                fn change(&self, to: impl FnOnce($int) -> $int) -> $int {
                    CELLS.with_borrow_mut(|cells| {
                        let was = cells[self.0] as $int;
                        cells[self.0] = to(was).into();
                        was
                    })
                }

                pub fn load(&self, _order: Ordering) -> $int {
                    self.change(|value| value)
                }

                pub fn store(&self, value: $int, _order: Ordering) {
                    self.change(|_| value);
                }

                pub fn swap(&self, value: $int, _order: Ordering) -> $int {
                    self.change(|_| value)
                }

                pub fn compare_exchange(
                    &self,
                    current: $int,
                    new: $int,
                    _success: Ordering,
                    _failure: Ordering,
                ) -> Result<$int, $int> {
                    let was = self.change(|value| if value == current { new } else { value });
                    if was == current { Ok(was) } else { Err(was) }
                }

                pub fn fetch_add(&self, value: $int, _order: Ordering) -> $int {
                    self.change(|was| was.wrapping_add(value))
                }

                pub fn fetch_and(&self, value: $int, _order: Ordering) -> $int {
                    self.change(|was| was & value)
                }

                pub fn fetch_max(&self, value: $int, _order: Ordering) -> $int {
                    self.change(|was| was.max(value))
                }
            }
        };
    }

    atomic!(AtomicU32, u32);
    atomic!(AtomicU64, u64);
}

/// The table's shared words, but for the session records: those are made afresh by
/// [`sign_of`], because only whether two signs of life differ matters, not the count.
struct Table {
    naming: NamingWords,
    index: Vec<sync::AtomicU64>,
    slots: Vec<Slot>,
    records: Vec<NameRecord>,
}

/// The slot that the one name has.
const SLOT: usize = 1;

impl Table {
    fn new() -> Self {
        Self {
            naming: NamingWords::new(),
            index: (0..4).map(|_| sync::AtomicU64::new(0)).collect(),
            slots: (0..2).map(|_| Slot::new()).collect(),
            records: (0..2).map(|_| NameRecord::new()).collect(),
        }
    }

    fn names(&self) -> Names<'_> {
        Names {
            naming: &self.naming,
            index: &self.index,
            slots: &self.slots,
            records: &self.records,
        }
    }

    fn slot(&self) -> &Slot {
        &self.slots[SLOT]
    }

    /// The token of the slot's current or last grant.
    fn token(&self) -> u64 {
        let view = self.slot().view().expect("nobody changes it meanwhile");
        view.token
    }
}

thread_local! {
    /// This thread's table, and where its cells begin.
    static TABLE: (usize, Table) = (sync::count(), Table::new());
}

/// Runs `act` on the table with `words` in its cells.
fn on_table<R>(words: &mut Arc<[u64]>, act: impl FnOnce(&Table) -> R) -> R {
    TABLE.with(|(base, table)| {
        sync::load(*base, words);
        let result = act(table);
        sync::save(*base, words);
        result
    })
}

/// The table's words as a new file has them, with the one name created.
static PUBLISHED: LazyLock<Arc<[u64]>> = LazyLock::new(|| {
    TABLE.with(|(base, table)| {
        let mut words: Arc<[u64]> = vec![0; sync::count() - base].into();
        let (creator, naming) = (Identity::new(9, 9), &table.slots[0]);
        let Taken::Granted(grant) = naming.take(naming.owner(), creator, false) else {
            unreachable!("nobody else is here");
        };
        let key = Key::new(b"job", 1 << 40).expect("it is a name");
        let found = table.names().find_or_create(&key, creator, &Nobody);
        assert_eq!(found.expect("there is room").slot as usize, SLOT);
        assert!(wait::release(naming, &grant, Vacancy::Released, &Nobody));
        sync::save(*base, &mut words);
        words
    })
});

/// The sign of life of a record that was opened `opened` times and then sent `beats`.
fn sign_of((opened, beats): (u8, u8)) -> LifeSign {
    /// More than a model with its restarts, and its observers, can tell apart.
    const MOST: u8 = 5;
    static SIGNS: LazyLock<Vec<LifeSign>> = LazyLock::new(|| {
        let sign = |opened, beats| {
            let record = SessionRecord::new();
            for _ in 0..opened {
                record.open(&Credentials {
                    pid: 1,
                    shares_witness: false,
                    pid_namespace: 0,
                    now_ms: 0,
                    command: [0; 2],
                });
            }
            (0..beats).for_each(|_| record.beat(0));
            record.life_sign()
        };
        (0..MOST)
            .flat_map(|opened| (0..MOST).map(move |beats| sign(opened, beats)))
            .collect()
    });
    assert!(opened < MOST && beats < MOST, "too few signs are made");
    SIGNS[usize::from(opened * MOST + beats)]
}

/// Waiters here look again by themselves.
struct Nobody;

impl Wake for Nobody {
    fn wake_one(&self, _wake: &sync::AtomicU32) -> bool {
        true
    }
}

/// What a process is up to, as its peers cannot see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Run {
    Runs,
    Paused,
    Dead,
}

/// What one waiter has seen of the holder: the shipping [`Watch`], in a form to be hashed.
/// Clocks enter it by their differences only, so it can begin at zero each time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Seen {
    word: u64,
    life: (u8, u8),
    silent: u8,
    /// Time since the last look.
    gap: u8,
}

impl Seen {
    fn new(word: OwnerWord, life: (u8, u8)) -> Self {
        Self {
            word: word.grant_only().bits(),
            life,
            silent: 0,
            gap: 0,
        }
    }

    fn holder(&self) -> usize {
        let Owner::Held(holder) = OwnerWord::from_bits(self.word).owner() else {
            unreachable!("only holders are watched");
        };
        holder.session() as usize
    }

    /// Looks again; returns for how long the holder was seen silent.
    fn look(&mut self, word: OwnerWord, life: (u8, u8), cap: u64, enough: u8) -> u8 {
        let (before, sign) = (OwnerWord::from_bits(self.word), sign_of(self.life));
        let mut watch = Watch::new(before, sign, 0);
        // One gap without a cap brings it to where it was.
        let at = u64::from(self.silent);
        let _ = watch.look(before, sign, at, u64::MAX);
        let silent = watch.look(word, sign_of(life), at + u64::from(self.gap), cap);
        *self = Self {
            silent: u8::try_from(silent).unwrap_or(enough).min(enough),
            ..Self::new(word, life)
        };
        self.silent
    }
}

/// A waiter: what it has seen, and the eviction that it has decided on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Waiter {
    seen: Seen,
    /// The judged word, whole: the compare-and-swap is from it.
    judged: Option<u64>,
    /// By the model's reckoning: the waiter's own time since the holder's last sign.
    own: u8,
    /// By the model's reckoning: for how long it has run and got nothing, though the
    /// holder was dead or silent all the while.
    stuck: u8,
}

/// A grant as its holder keeps it: word and epoch.
type Guard = (u64, u64);

fn grant_of((word, epoch): Guard) -> Grant {
    let word = OwnerWord::from_bits(word);
    Grant::from_parts(word, epoch, word)
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Process {
    run: Run,
    /// The record's openings and, renumbered, its beats.
    life: (u8, u8),
    /// Time since the last beat, up to a lease. Of processes that own nothing nobody watches
    /// the beats: they are taken to have sent one just now.
    silent: u8,
    /// A lost guard may still be around when the next is got: two threads.
    guards: Vec<Guard>,
    waiter: Option<Waiter>,
}

/// What is so, whatever the table says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Truth {
    /// Whose grant stands, and its token.
    owner: Option<(usize, u64)>,
    /// Whether that owner's process has died since.
    owner_died: bool,
    /// The highest token so far.
    top: u64,
    /// Whether the last grant ended without a release.
    unclean: bool,
}

/// How often things may still happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Budget {
    grants: u8,
    restarts: u8,
    forces: u8,
    reboots: u8,
}

/// What a step did that it must not do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Fault {
    TokenNotHigher,
    Robbed,
    EvictedTooEarly,
    ForcedAnother,
    LostForNothing,
    StaleRelease,
    NewsWrong,
    WaitsOnTheDead,
    WaitsOnTheSilent,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    words: Arc<[u64]>,
    processes: Vec<Process>,
    /// The token that an operator was shown.
    shown: Option<u64>,
    truth: Truth,
    left: Budget,
    fault: Option<Fault>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Tick,
    Beat(usize),
    Want(usize),
    Poll(usize),
    Evict(usize),
    Release(usize, usize),
    Pause(usize),
    PauseAll,
    Resume(usize),
    Kill(usize),
    Restart(usize),
    Show,
    Force,
    /// Everything stops; the file has its latest words, or those of its creation.
    Reboot {
        written: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Policy {
    OnExpiry,
    OnDeath,
}

/// Who is paused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pauses {
    /// Anyone, alone, at any moment.
    Alone,
    /// All at once, resumed in any order before the clock moves on.
    Together,
}

/// In units of a poll, which is half a beat as it ships.
#[derive(Clone, Copy, Debug)]
struct Timing {
    beat: u8,
    poll: u8,
    lease: u8,
}

/// As it ships: a lease of ten beats or twenty polls.
const SHIPPED: Timing = Timing {
    beat: 2,
    poll: 1,
    lease: 20,
};

/// A short lease, of four beats, for the models with more to them.
const SHORT: Timing = Timing {
    beat: 1,
    poll: 1,
    lease: 4,
};

/// Bugs to see that the invariants notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bug {
    /// Expired is who has an old timestamp by my own clock.
    OwnClock,
    /// No second look at the beat before the compare-and-swap.
    NoSecondLook,
    /// The gap between two polls counts in full.
    UncappedGap,
    /// Each poll begins the watch anew.
    WatchRestarted,
    /// A release compares who owns, not which grant.
    ReleaseWithoutGeneration,
    /// A force takes from whoever holds by now.
    ForceWithoutToken,
    /// `OnDeath` evicts, too.
    PolicyIgnored,
    /// A dead session's record is opened anew with its slots still held.
    RecordUnswept,
    /// A reset wipes the tokens.
    ResetForgetsTokens,
    /// A waiter takes only from a holder that released.
    DeathUnnoticed,
}

/// Things that must have happened somewhere, or the model is vacuous.
#[derive(Clone, Copy)]
enum Event {
    Reclaimed,
    Evicted,
    SparedByABeat,
    AnsweredLost,
    Forced,
    ForceRefused,
    Swept,
    Reset,
}

impl Bug {
    const fn story(self) -> &'static str {
        match self {
            Self::OwnClock => "An observer that compares a peer's time stamp with its own clock.",
            Self::NoSecondLook => "An eviction without a second look at the beat.",
            Self::UncappedGap => "An observer that counts its own pause as the holder's silence.",
            Self::WatchRestarted => "An observer that begins anew at each poll.",
            Self::ReleaseWithoutGeneration => "A release that compares the owner, not the grant.",
            Self::ForceWithoutToken => "A force-release of whoever holds by now.",
            Self::PolicyIgnored => "An eviction in an OnDeath table.",
            Self::RecordUnswept => "A session record that is reused with its slots unswept.",
            Self::ResetForgetsTokens => "A reset that begins the tokens anew.",
            Self::DeathUnnoticed => "A waiter that takes only what was released.",
        }
    }
}

#[derive(Clone)]
struct Sessions {
    name: &'static str,
    processes: usize,
    policy: Policy,
    pauses: Pauses,
    timing: Timing,
    budget: Budget,
    bug: Option<Bug>,
    must: &'static [Event],
    happened: Arc<AtomicU32>,
}

impl State {
    fn slot<R>(&mut self, act: impl FnOnce(&Slot) -> R) -> R {
        on_table(&mut self.words, |table| act(table.slot()))
    }

    fn identity(&self, who: usize) -> Identity {
        // A restarted process has another PID, and may get the same session.
        let (session, opened) = (who as u32, u32::from(self.processes[who].life.0));
        Identity::new(100 + 10 * opened + session, session)
    }

    fn waiters(&mut self) -> impl Iterator<Item = &mut Waiter> {
        self.processes
            .iter_mut()
            .filter_map(|process| process.waiter.as_mut())
    }

    /// The grant has ended, in a way that the next owner is told of or not.
    fn ended(&mut self, unclean: bool) {
        if let Some((owner, _)) = self.truth.owner {
            self.processes[owner].silent = 0;
        }
        self.truth.owner = None;
        self.truth.owner_died = false;
        self.truth.unclean = unclean;
        self.waiters().for_each(|waiter| waiter.stuck = 0);
    }

    fn blame(&mut self, fault: Fault) {
        self.fault.get_or_insert(fault);
    }

    fn owns(&self, who: usize, guard: Guard) -> bool {
        self.truth.owner == Some((who, grant_of(guard).token()))
    }

    /// Numbers beats afresh, in their order: only whether two differ matters.
    fn renumber(&mut self) {
        for who in 0..self.processes.len() {
            let (opened, now) = self.processes[who].life;
            let mut beats = vec![now];
            beats.extend(
                self.waiters()
                    .filter(|waiter| waiter.seen.holder() == who && waiter.seen.life.0 == opened)
                    .map(|waiter| waiter.seen.life.1),
            );
            beats.sort_unstable();
            beats.dedup();
            let place = |beat: u8| {
                let below = beats.iter().filter(|&&other| other < beat).count();
                u8::try_from(below).expect("there are few observers")
            };
            self.processes[who].life.1 = place(now);
            for waiter in self.waiters() {
                if waiter.seen.holder() == who {
                    waiter.seen.life.1 = place(waiter.seen.life.1);
                }
            }
        }
    }

    /// Whether owner word and guards say just what is so.
    fn table_is_right(&self) -> bool {
        on_table(&mut self.words.clone(), |table| {
            let token = table.token();
            let owner = match table.slot().owner().owner() {
                Owner::Held(holder) => Some((holder.session() as usize, token)),
                Owner::Vacant(_) => None,
                Owner::Renaming(_) | Owner::Corrupt => return false,
            };
            owner == self.truth.owner && token >= self.truth.top
        })
    }

    /// Whether each guard knows whether it is held.
    fn guards_are_right(&self) -> bool {
        on_table(&mut self.words.clone(), |table| {
            self.processes.iter().enumerate().all(|(who, process)| {
                process.guards.iter().all(|&guard| {
                    table.slot().is_current(&grant_of(guard)) == self.owns(who, guard)
                })
            })
        })
    }
}

impl Sessions {
    fn has(&self, bug: Bug) -> bool {
        self.bug == Some(bug)
    }

    fn note(&self, event: Event) {
        self.happened.fetch_or(1 << event as u32, Ordering::Relaxed);
    }

    /// What a gap between two polls counts at most: two polls, as it ships.
    fn cap(&self) -> u8 {
        if self.has(Bug::UncappedGap) {
            self.timing.lease
        } else {
            2 * self.timing.poll
        }
    }

    fn is_due(&self, process: &Process) -> bool {
        let waits =
            |waiter: &Waiter| waiter.judged.is_some() || waiter.seen.gap >= self.timing.poll;
        process.run == Run::Runs
            && (process.silent >= self.timing.beat || process.waiter.as_ref().is_some_and(waits))
    }

    /// Adds to a waiter's own time, in models where an eviction can be rightful.
    fn count_own(&self, waiter: &mut Waiter, time: u8) {
        if self.policy == Policy::OnExpiry && self.pauses == Pauses::Alone {
            waiter.own = (waiter.own + time).min(self.timing.lease);
        }
    }

    /// Time passes, for everybody's clock alike.
    fn tick(&self, state: &mut State) {
        let owner_lives = state.truth.owner.is_some() && !state.truth.owner_died;
        let patience = match (owner_lives, self.policy) {
            (false, _) => Some(self.timing.poll),
            (true, Policy::OnExpiry) => Some(self.timing.lease + self.timing.poll),
            (true, Policy::OnDeath) => None,
        };
        let owner = state.truth.owner.map(|(owner, _)| owner);
        let mut late = false;
        for (who, process) in state.processes.iter_mut().enumerate() {
            if process.run == Run::Dead {
                continue;
            }
            if owner == Some(who) {
                process.silent = (process.silent + 1).min(self.timing.lease);
            }
            let Some(waiter) = &mut process.waiter else {
                continue;
            };
            waiter.seen.gap = (waiter.seen.gap + 1).min(self.cap());
            if process.run == Run::Runs {
                self.count_own(waiter, 1);
                if let Some(patience) = patience {
                    waiter.stuck += 1;
                    late |= waiter.stuck > patience;
                }
            }
        }
        if late && owner_lives {
            state.blame(Fault::WaitsOnTheSilent);
        } else if late {
            state.blame(Fault::WaitsOnTheDead);
        }
    }

    fn beat(&self, state: &mut State, who: usize) {
        let process = &mut state.processes[who];
        process.life.1 += 1;
        process.silent = 0;
        if state.truth.owner.is_some_and(|(owner, _)| owner == who) {
            state.waiters().for_each(|waiter| {
                waiter.own = 0;
                waiter.stuck = 0;
            });
        }
    }

    /// Begins to acquire.
    fn want(&self, state: &mut State, who: usize) {
        let seen = state.slot(Slot::owner);
        if let Owner::Held(holder) = seen.owner() {
            let life = state.processes[holder.session() as usize].life;
            state.processes[who].waiter = Some(Waiter {
                seen: Seen::new(seen, life),
                judged: None,
                own: 0,
                stuck: 0,
            });
        }
        self.poll(state, who);
    }

    /// One round of acquiring: take what is free or a dead process's, or watch.
    fn poll(&self, state: &mut State, who: usize) {
        let word = state.slot(Slot::owner);
        let holder = match word.owner() {
            Owner::Held(holder) => holder,
            _ => return self.take(state, who, word),
        };
        let peer = holder.session() as usize;
        if state.processes[peer].run == Run::Dead && !self.has(Bug::DeathUnnoticed) {
            return self.take(state, who, word);
        }
        let (life, silent) = (state.processes[peer].life, state.processes[peer].silent);
        let (lease, cap) = (self.timing.lease, u64::from(self.cap()));
        let may_evict = self.policy == Policy::OnExpiry || self.has(Bug::PolicyIgnored);
        let is_me = holder == state.identity(who);
        let Some(waiter) = &mut state.processes[who].waiter else {
            unreachable!("a holder is watched from the first look");
        };
        if self.has(Bug::WatchRestarted) || !may_evict {
            waiter.seen = Seen::new(word, life);
        }
        let seen_silent = waiter.seen.look(word, life, cap, lease);
        let is_expired = if self.has(Bug::OwnClock) {
            silent >= lease
        } else {
            seen_silent >= lease
        };
        if may_evict && !is_me && is_expired {
            waiter.judged = Some(word.bits());
        } else if word.queue() != Queue::Asleep {
            let queued = state.slot(|slot| slot.queue_up(word, Queue::Asleep));
            assert!(queued, "one step");
        }
    }

    /// The second look at the beat, and the compare-and-swap from the judged word.
    fn evict(&self, state: &mut State, who: usize) {
        let Some(waiter) = &mut state.processes[who].waiter else {
            unreachable!("only a waiter judges");
        };
        let Some(judged) = waiter.judged.take() else {
            unreachable!("it has judged");
        };
        let (seen, word) = (waiter.seen, OwnerWord::from_bits(judged));
        let life = state.processes[seen.holder()].life;
        if sign_of(life) != sign_of(seen.life) && !self.has(Bug::NoSecondLook) {
            return self.note(Event::SparedByABeat);
        }
        if state.slot(Slot::owner) == word {
            self.take(state, who, word);
        } else {
            // Changed: look at what there is now, at once.
            self.poll(state, who);
        }
    }

    /// Takes the slot from the word that was judged, and holds that against what is so.
    fn take(&self, state: &mut State, who: usize, judged: OwnerWord) {
        let me = state.identity(who);
        let Taken::Granted(grant) = state.slot(|slot| slot.take(judged, me, false)) else {
            unreachable!("nobody came between");
        };
        let (truth, token) = (state.truth, grant.token());
        if token <= truth.top {
            state.blame(Fault::TokenNotHigher);
        }
        match truth.owner {
            Some(_) if truth.owner_died => self.note(Event::Reclaimed),
            Some((robbed, _)) => {
                self.note(Event::Evicted);
                let own = state.processes[who].waiter.map_or(0, |waiter| waiter.own);
                if self.policy == Policy::OnDeath || self.pauses == Pauses::Together {
                    state.blame(Fault::Robbed);
                } else if own.min(state.processes[robbed].silent) < self.timing.lease {
                    state.blame(Fault::EvictedTooEarly);
                }
            }
            None => {}
        }
        let told = match grant.from().owner() {
            Owner::Vacant(vacancy) => vacancy.is_abandoned(),
            _ => true,
        };
        if told != (truth.owner.is_some() || truth.unclean) {
            state.blame(Fault::NewsWrong);
        }
        state.processes[who].waiter = None;
        let guard = (grant.word().bits(), grant.epoch());
        state.processes[who].guards.push(guard);
        state.ended(false);
        state.truth.owner = Some((who, token));
        state.truth.top = token;
        state.waiters().for_each(|waiter| waiter.own = 0);
        state.left.grants = state.left.grants.saturating_sub(1);
    }

    fn release(&self, state: &mut State, who: usize, guard: usize) {
        let guard = state.processes[who].guards.remove(guard);
        let (grant, owned, me) = (grant_of(guard), state.owns(who, guard), state.identity(who));
        let released = if self.has(Bug::ReleaseWithoutGeneration) {
            let seen = state.slot(Slot::owner);
            seen.owner() == Owner::Held(me)
                && state.slot(|slot| slot.vacate(seen, Vacancy::Released)) != Vacated::Lost
        } else {
            state.slot(|slot| wait::release(slot, &grant, Vacancy::Released, &Nobody))
        };
        match (released, owned) {
            (true, true) => state.ended(false),
            (false, false) => self.note(Event::AnsweredLost),
            (true, false) => state.blame(Fault::StaleRelease),
            (false, true) => state.blame(Fault::LostForNothing),
        }
    }

    fn pause(&self, state: &mut State, who: usize) {
        let process = &mut state.processes[who];
        process.run = Run::Paused;
        if let Some(waiter) = &mut process.waiter {
            // As much as one capped gap counts for, though the pause lasts for ever.
            self.count_own(waiter, 2 * self.timing.poll);
            waiter.stuck = 0;
        }
    }

    fn kill(&self, state: &mut State, who: usize) {
        let process = &mut state.processes[who];
        process.run = Run::Dead;
        process.silent = 0;
        process.guards.clear();
        process.waiter = None;
        if state.truth.owner.is_some_and(|(owner, _)| owner == who) {
            state.truth.owner_died = true;
            state.waiters().for_each(|waiter| waiter.stuck = 0);
        }
    }

    /// A new process gets the dead one's record.
    fn restart(&self, state: &mut State, who: usize) {
        state.left.restarts -= 1;
        let is_owner = state.truth.owner.is_some_and(|(owner, _)| owner == who);
        if !self.has(Bug::RecordUnswept) {
            let swept = on_table(&mut state.words, |table| {
                reclaim::sweep(&table.slots, |session| session as usize == who, &Nobody)
            });
            if swept != usize::from(is_owner) {
                state.blame(Fault::Robbed);
            } else if is_owner {
                self.note(Event::Swept);
                state.ended(true);
            }
        }
        let process = &mut state.processes[who];
        process.run = Run::Runs;
        process.life = (process.life.0 + 1, 0);
    }

    /// An operator takes the grant that was shown, if it still stands.
    fn force(&self, state: &mut State) {
        let Some(shown) = state.shown.take() else {
            unreachable!("a token was shown");
        };
        state.left.forces -= 1;
        let (word, token) = on_table(&mut state.words, |table| {
            (table.slot().owner(), table.token())
        });
        let (Owner::Held(holder), true) = (
            word.owner(),
            token == shown || self.has(Bug::ForceWithoutToken),
        ) else {
            return self.note(Event::ForceRefused);
        };
        let forced = Vacancy::Forced(holder.pid());
        assert!(
            state.slot(|slot| wait::vacate(slot, word, forced, &Nobody)),
            "one step"
        );
        if state.truth.owner.is_none_or(|(_, token)| token != shown) {
            state.blame(Fault::ForcedAnother);
        }
        self.note(Event::Forced);
        state.ended(true);
    }

    fn reboot(&self, state: &mut State, written: bool) {
        state.left.reboots -= 1;
        (0..self.processes).for_each(|who| self.kill(state, who));
        let unclean = written && (state.truth.owner.is_some() || state.truth.unclean);
        if !written || self.has(Bug::ResetForgetsTokens) {
            state.words = PUBLISHED.clone();
        }
        if !self.has(Bug::ResetForgetsTokens) {
            on_table(&mut state.words, |table| {
                reclaim::reset(&table.names(), |slot| slot as usize == SLOT);
            });
        }
        state.ended(unclean);
        self.note(Event::Reset);
    }

    fn actions_of(&self, state: &State, who: usize, actions: &mut Vec<Action>) {
        let process = &state.processes[who];
        match process.run {
            Run::Dead => {
                if state.left.restarts > 0 {
                    actions.push(Action::Restart(who));
                }
                return;
            }
            Run::Paused => actions.push(Action::Resume(who)),
            Run::Runs => {
                if self.pauses == Pauses::Alone {
                    actions.push(Action::Pause(who));
                }
                if process.silent >= self.timing.beat {
                    actions.push(Action::Beat(who));
                }
                match process.waiter {
                    Some(waiter) if waiter.judged.is_some() => actions.push(Action::Evict(who)),
                    Some(_) => actions.push(Action::Poll(who)),
                    None => {
                        let owns = process.guards.iter().any(|&guard| state.owns(who, guard));
                        if !owns && process.guards.len() < 2 && state.left.grants > 0 {
                            actions.push(Action::Want(who));
                        }
                    }
                }
                let guards = 0..process.guards.len();
                actions.extend(guards.map(|guard| Action::Release(who, guard)));
            }
        }
        actions.push(Action::Kill(who));
    }
}

impl Model for Sessions {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let process = Process {
            run: Run::Runs,
            life: (1, 0),
            silent: 0,
            guards: Vec::new(),
            waiter: None,
        };
        vec![State {
            words: PUBLISHED.clone(),
            processes: vec![process; self.processes],
            shown: None,
            truth: Truth {
                owner: None,
                owner_died: false,
                top: 0,
                unclean: false,
            },
            left: self.budget,
            fault: None,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.fault.is_some() {
            return;
        }
        let runs = |process: &Process| process.run == Run::Runs;
        let paused = |process: &Process| process.run == Run::Paused;
        let is_due = state.processes.iter().any(|process| self.is_due(process));
        let some_run = state.processes.iter().any(runs);
        let some_paused = state.processes.iter().any(paused);
        let resuming = self.pauses == Pauses::Together && some_run && some_paused;
        if (some_run || some_paused) && !is_due && !resuming {
            actions.push(Action::Tick);
        }
        if self.pauses == Pauses::Together && some_run && !some_paused && !is_due {
            actions.push(Action::PauseAll);
        }
        (0..self.processes).for_each(|who| self.actions_of(state, who, actions));
        if state.left.forces > 0 {
            match (state.shown, state.truth.owner) {
                (Some(_), _) => actions.push(Action::Force),
                (None, Some(_)) => actions.push(Action::Show),
                (None, None) => {}
            }
        }
        if state.left.reboots > 0 {
            actions.push(Action::Reboot { written: true });
            actions.push(Action::Reboot { written: false });
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Tick => self.tick(&mut state),
            Action::Beat(who) => self.beat(&mut state, who),
            Action::Want(who) => self.want(&mut state, who),
            Action::Poll(who) => self.poll(&mut state, who),
            Action::Evict(who) => self.evict(&mut state, who),
            Action::Release(who, guard) => self.release(&mut state, who, guard),
            Action::Pause(who) => self.pause(&mut state, who),
            Action::PauseAll => {
                let alive = |&who: &usize| last.processes[who].run != Run::Dead;
                let all = (0..self.processes).filter(alive);
                all.for_each(|who| self.pause(&mut state, who));
            }
            Action::Resume(who) => state.processes[who].run = Run::Runs,
            Action::Kill(who) => self.kill(&mut state, who),
            Action::Restart(who) => self.restart(&mut state, who),
            Action::Show => state.shown = last.truth.owner.map(|(_, token)| token),
            Action::Force => self.force(&mut state),
            Action::Reboot { written } => self.reboot(&mut state, written),
        }
        state.renumber();
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        use Fault::{
            EvictedTooEarly, ForcedAnother, LostForNothing, NewsWrong, Robbed, StaleRelease,
            TokenNotHigher, WaitsOnTheDead, WaitsOnTheSilent,
        };
        vec![
            Property::always("S1: one owner, tokens rise", |_, state: &State| {
                state.fault != Some(TokenNotHigher) && state.table_is_right()
            }),
            Property::always("S2: a grant ends in five ways only", |_, state: &State| {
                !matches!(
                    state.fault,
                    Some(Robbed | EvictedTooEarly | ForcedAnother | LostForNothing)
                )
            }),
            Property::always("S3: a stale guard changes nothing", |_, state: &State| {
                state.fault != Some(StaleRelease) && state.guards_are_right()
            }),
            Property::always("S5: a death is reclaimed and told", |_, state: &State| {
                !matches!(state.fault, Some(NewsWrong | WaitsOnTheDead))
            }),
            Property::always(
                "L2: a hang ends after lease and poll",
                |_, state: &State| state.fault != Some(WaitsOnTheSilent),
            ),
        ]
    }
}

const NO_OPERATOR: Budget = Budget {
    grants: 2,
    restarts: 0,
    forces: 0,
    reboots: 0,
};

fn model(name: &'static str, policy: Policy, must: &'static [Event]) -> Sessions {
    Sessions {
        name,
        processes: 3,
        policy,
        pauses: Pauses::Alone,
        timing: SHORT,
        budget: NO_OPERATOR,
        bug: None,
        must,
        happened: Arc::default(),
    }
}

fn anyone_pauses_or_dies() -> Sessions {
    use Event::{AnsweredLost, Evicted, Reclaimed, SparedByABeat};
    let must = &[AnsweredLost, Evicted, Reclaimed, SparedByABeat];
    model("OnExpiry, each pauses and dies", Policy::OnExpiry, must)
}

/// Few processes and more grants: one that was evicted gets the slot again.
fn evicted_and_back() -> Sessions {
    use Event::{AnsweredLost, Evicted};
    Sessions {
        processes: 2,
        budget: Budget {
            grants: 3,
            ..NO_OPERATOR
        },
        ..model(
            "OnExpiry, the evicted come back",
            Policy::OnExpiry,
            &[AnsweredLost, Evicted],
        )
    }
}

fn nobody_alive_is_robbed() -> Sessions {
    let must = &[Event::Reclaimed];
    model("OnDeath, each pauses and dies", Policy::OnDeath, must)
}

fn all_pause_together() -> Sessions {
    Sessions {
        pauses: Pauses::Together,
        ..model(
            "OnExpiry, the machine pauses",
            Policy::OnExpiry,
            &[Event::Reclaimed],
        )
    }
}

fn shipped(pauses: Pauses) -> Sessions {
    let (name, must): (_, &[Event]) = match pauses {
        Pauses::Alone => ("shipped ratios, each pauses", &[Event::Evicted]),
        Pauses::Together => ("shipped ratios, the machine pauses", &[]),
    };
    Sessions {
        processes: 2,
        pauses,
        timing: SHIPPED,
        ..model(name, Policy::OnExpiry, must)
    }
}

fn operator_and_reboots(policy: Policy) -> Sessions {
    use Event::{AnsweredLost, ForceRefused, Forced, Reset, Swept};
    let name = match policy {
        Policy::OnExpiry => "OnExpiry, force, restarts, reset",
        Policy::OnDeath => "OnDeath, force, restarts, reset",
    };
    Sessions {
        processes: 2,
        budget: Budget {
            grants: 3,
            restarts: 1 + u8::from(policy == Policy::OnDeath),
            forces: 1,
            reboots: 1,
        },
        ..model(
            name,
            policy,
            &[AnsweredLost, ForceRefused, Forced, Reset, Swept],
        )
    }
}

/// Checks a model; returns its states and what it violated.
fn check(sessions: &Sessions) -> (usize, Vec<&'static str>) {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let checker = sessions
        .clone()
        .checker()
        .threads(threads)
        .finish_when(HasDiscoveries::AnyFailures)
        .spawn_bfs()
        .join();
    let found: HashMap<_, _> = checker.discoveries();
    let mut violated: Vec<_> = found.keys().copied().collect();
    violated.sort_unstable();
    for (name, path) in &found {
        if sessions.bug.is_none() {
            println!("{}: violated {name}:\n{path}", sessions.name);
        }
    }
    (checker.unique_state_count(), violated)
}

/// Proves a model and adds its row.
fn prove(sessions: &Sessions) {
    let (states, violated) = check(sessions);
    assert!(violated.is_empty(), "{}: {violated:?}", sessions.name);
    let happened = sessions.happened.load(Ordering::Relaxed);
    for &event in sessions.must {
        let name = sessions.name;
        assert!(happened & 1 << event as u32 != 0, "{name} is vacuous");
    }
    report::add(Row::Leases {
        name: sessions.name.to_owned(),
        processes: sessions.processes,
        states,
    });
}

/// Has the invariant `invariant` notice `bug`, and no other do it in its stead.
fn catch(bug: Bug, sessions: Sessions, invariant: &str) {
    let sessions = Sessions {
        bug: Some(bug),
        ..sessions
    };
    let (states, violated) = check(&sessions);
    let caught = violated.iter().find(|name| name.starts_with(invariant));
    let Some(caught) = caught else {
        panic!("{bug:?} is not caught by {invariant}, only by {violated:?}");
    };
    report::add(Row::Planted {
        number: None,
        story: bug.story().to_owned(),
        caught_by: format!("{}: {caught} ({states} states)", sessions.name),
    });
}

/// What there is to run.
pub fn parts() -> Vec<Part> {
    let models = [
        anyone_pauses_or_dies(),
        evicted_and_back(),
        nobody_alive_is_robbed(),
        all_pause_together(),
        shipped(Pauses::Alone),
        shipped(Pauses::Together),
        operator_and_reboots(Policy::OnExpiry),
        operator_and_reboots(Policy::OnDeath),
    ];
    let restarts = || operator_and_reboots(Policy::OnDeath);
    let reboots = || operator_and_reboots(Policy::OnExpiry);
    let bugs = [
        (Bug::OwnClock, all_pause_together(), "S2"),
        (Bug::UncappedGap, all_pause_together(), "S2"),
        (Bug::NoSecondLook, anyone_pauses_or_dies(), "S2"),
        (Bug::WatchRestarted, anyone_pauses_or_dies(), "L2"),
        (Bug::ReleaseWithoutGeneration, evicted_and_back(), "S3"),
        (Bug::PolicyIgnored, nobody_alive_is_robbed(), "S2"),
        (Bug::DeathUnnoticed, nobody_alive_is_robbed(), "S5"),
        (Bug::ForceWithoutToken, restarts(), "S2"),
        (Bug::RecordUnswept, restarts(), "S5"),
        (Bug::ResetForgetsTokens, reboots(), "S1"),
    ];
    let proofs = models.into_iter().map(|sessions| {
        let name = format!("leases hold: {}", sessions.name);
        Part::new(name, move || prove(&sessions))
    });
    let caught = bugs.into_iter().map(|(bug, sessions, invariant)| {
        let name = format!("leases notice: {bug:?}");
        Part::new(name, move || catch(bug, sessions, invariant))
    });
    proofs.chain(caught).collect()
}
