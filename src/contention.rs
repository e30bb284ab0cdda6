//! What a process remembers of the contention for its slots: whose turn it is, how long to
//! spin, whether a slot is often free. And a thread: for how long it has been at it.
//!
//! All of it is of this process alone, and a matter of speed and fairness: ownership never
//! depends on it. So a few entries serve all slots, and slots that share one share its
//! mistakes.

use std::cell::Cell;
use std::ops::RangeInclusive;

use crate::os::clock;
use crate::protocol::names::SLOT_BITS;
use crate::protocol::word::{Owner, OwnerWord, Queue, Vacancy};
use crate::sync::{AtomicU32, AtomicU64, Ordering};

/// A session's memory of contention.
#[derive(Default)]
pub(crate) struct Contention {
    /// Since when this process has been served before the heirs of its slots.
    pub(crate) turns: Turns,
    /// How often its threads spin before they sleep.
    pub(crate) spins: Spins,
    /// How much of the time its slots are held.
    pub(crate) occupancy: Occupancy,
    /// Since when nobody else has got its slots.
    pub(crate) streaks: Streaks,
}

impl Contention {
    /// How often a newcomer pauses at the slot before it sleeps.
    ///
    /// Where the slot is often free, a sleep is mostly long because the holder has lost its
    /// processor. Of those that have not, each is worth waiting for a microsecond.
    pub(crate) fn pauses_at(&self, slot: u32) -> u32 {
        let pauses = self.spins.at(slot);
        if self.occupancy.is_low(slot) {
            pauses.max(MOST_SPINS / 2)
        } else {
            pauses
        }
    }
}

/// The entry of a slot among a few that serve all.
fn entry_of<T>(entries: &[T], slot: u32) -> &T {
    &entries[slot as usize % entries.len()]
}

/// A value over its slot's number, as far as there is room.
fn over_slot(value: u64, slot: u32) -> u64 {
    value << SLOT_BITS | u64::from(slot)
}

/// Whether the number under a value is the slot's.
fn is_over_slot(packed: u64, slot: u32) -> bool {
    packed & ((1 << SLOT_BITS) - 1) == u64::from(slot)
}

/// A turn, for how long a process barges in before an heir, times the round of turns that it is
/// one of, in square microseconds: two processes have turns of 600 us, eight of 300, 32 of 150.
///
/// A turn costs a handover, and makes the others wait for a round. The sum of both costs is
/// least where turn times round is constant. So all who go by the round come to the same turns,
/// but for their [`RELATIVE_PACES`]; by its wait alone, one of two could keep the longer ones.
const TURN_BY_ROUND: u64 = 720_000;

/// How long a turn is before a round has been seen.
const FIRST_TURN_US: u64 = 300;

/// The shortest turn: a handover is to be a small part of it.
const LEAST_TURN_US: u64 = 100;

/// The longest turn, of a process as fast as the others.
const MOST_TURN_US: u64 = 600;

/// What takes longer is no round: the thread was away.
const MOST_ROUND_US: u64 = 1_000_000;

/// The relative pace of a process that has as many grants in a turn as the others have.
const EVEN: u64 = 1_024;

/// Which relative paces are made up for by the length of turns, for all to get as many grants:
/// processors that a host shares out, or that are not of one kind, differ by about as much.
///
/// What differs by more is the length of sections, and who has longer ones is not to have the
/// lock for longer, too.
const RELATIVE_PACES: RangeInclusive<u64> = EVEN * 4 / 5..=EVEN * 5 / 4;

/// How many grants lie between two looks at the clock by a process that barges in, at most; a
/// power of two. A look takes as long as an empty section.
const MOST_GRANTS_A_LOOK: u64 = 16;

/// When this process's turn at a slot began: when it last got it from another.
///
/// For a few slots at a time. Of slots that share an entry, the turn at all but the last is
/// over: were it begun anew by another slot's, it might never end.
#[derive(Default)]
pub(crate) struct Turns([Turn; 8]);

#[derive(Default)]
struct Turn {
    /// When it began, in microseconds, over the slot's number; at 0, it has ended.
    begun: AtomicU64,
    /// A word with the generation of its first grant.
    first: AtomicU64,
    /// The clock is not looked at for generations that have any of these bits.
    unlooked: AtomicU64,
    /// When the turn began that the next round is counted from, likewise; also after its end.
    last: AtomicU64,
    /// A word with the generation of that turn's first grant.
    last_first: AtomicU64,
    /// The thread that began that one.
    by: AtomicU64,
    /// How many grants a second the turn had that ended last; 0: none has since that one began.
    pace: AtomicU64,
    /// The pace of this process's turns over that of whole rounds, in parts of [`EVEN`].
    relative_pace: AtomicU64,
    /// How long turns are; 0: not known.
    length_us: AtomicU64,
}

impl Turns {
    fn entry(slot: u32, now_ns: u64) -> u64 {
        over_slot(now_ns / 1_000, slot)
    }

    /// A turn begins with `grant`: the slot was waited for, and another process had it.
    pub(crate) fn begin(&self, slot: u32, grant: OwnerWord, now_ns: u64) {
        let turn = entry_of(&self.0, slot);
        turn.first.store(grant.bits(), Ordering::Relaxed);
        turn.unlooked.store(0, Ordering::Relaxed);
        let entry = Self::entry(slot, now_ns);
        let begun = turn.begun.swap(entry, Ordering::Relaxed);
        if is_over_slot(begun, slot) && begun != u64::from(slot) {
            // Overtaken in the middle of a turn: no round is over.
            return;
        }
        let last = turn.last.load(Ordering::Relaxed);
        let round_us = Self::microseconds_between(last, entry);
        let is_known = is_over_slot(last, slot) && last != u64::from(slot);
        let length_us = if !is_known || round_us > MOST_ROUND_US {
            turn.relative_pace.store(EVEN, Ordering::Relaxed);
            FIRST_TURN_US
        } else if turn.by.load(Ordering::Relaxed) == this_thread() {
            let length_us = TURN_BY_ROUND / round_us.max(1);
            let length_us = length_us.clamp(LEAST_TURN_US, MOST_TURN_US);
            length_us * EVEN / turn.next_relative_pace(grant, round_us)
        } else {
            // A round is from one turn of a thread to its next: who has several threads here has
            // as many turns in it, and not longer ones as well.
            return;
        };
        turn.last.store(entry, Ordering::Relaxed);
        turn.last_first.store(grant.bits(), Ordering::Relaxed);
        turn.by.store(this_thread(), Ordering::Relaxed);
        turn.length_us.store(length_us, Ordering::Relaxed);
    }

    /// Of one slot's entries only the times differ, and what wraps there, wraps in both.
    fn microseconds_between(earlier: u64, later: u64) -> u64 {
        later.wrapping_sub(earlier) >> SLOT_BITS
    }

    /// How long the turns at the slot are, by the last round that this process has seen.
    pub(crate) fn length_ns(&self, slot: u32) -> u64 {
        let turn = entry_of(&self.0, slot);
        let is_its = is_over_slot(turn.last.load(Ordering::Relaxed), slot);
        let length_us = match turn.length_us.load(Ordering::Relaxed) {
            length_us if is_its && length_us != 0 => length_us,
            _ => FIRST_TURN_US,
        };
        1_000 * length_us
    }

    /// The slot is offered to the heir: the turn at it, if there was one, is over.
    pub(crate) fn end(&self, slot: u32) {
        let turn = entry_of(&self.0, slot);
        if is_over_slot(turn.begun.load(Ordering::Relaxed), slot) {
            turn.begun.store(u64::from(slot), Ordering::Relaxed);
            turn.unlooked.store(0, Ordering::Relaxed);
        }
    }

    /// Whether the last turn at the slot ended, and no other has begun.
    pub(crate) fn has_ended(&self, slot: u32) -> bool {
        entry_of(&self.0, slot).begun.load(Ordering::Relaxed) == u64::from(slot)
    }

    /// Whether it is too early to look at the clock again at the release of `grant`: a turn that
    /// goes on may do so until then, for fifteen grants at most.
    #[inline]
    pub(crate) fn goes_on(&self, slot: u32, grant: OwnerWord) -> bool {
        let unlooked = entry_of(&self.0, slot).unlooked.load(Ordering::Relaxed);
        grant.generation() & unlooked != 0
    }

    /// Whether the process has had its turn at the slot that it holds by `grant`.
    ///
    /// How long its grants have taken says after how many more to look at the clock. Behind one
    /// that sleeps that is done each time: the release makes a system call anyway.
    pub(crate) fn is_over(
        &self,
        slot: u32,
        grant: OwnerWord,
        queue: Queue,
        now_ns: impl FnOnce() -> u64,
    ) -> bool {
        if queue != Queue::Asleep && self.goes_on(slot, grant) {
            return false;
        }
        let turn = entry_of(&self.0, slot);
        let begun = turn.begun.load(Ordering::Relaxed);
        if !is_over_slot(begun, slot) {
            return true;
        }
        let took_us = Self::microseconds_between(begun, Self::entry(slot, now_ns()));
        let length_us = turn.length_us.load(Ordering::Relaxed);
        let left_us = length_us.saturating_sub(took_us);
        let first = OwnerWord::from_bits(turn.first.load(Ordering::Relaxed));
        let grants = grant.generations_since(first) + 1;
        if left_us == 0 {
            turn.pace.store(pace(grants, took_us), Ordering::Relaxed);
            return true;
        }
        let grants_left = left_us * grants / took_us.max(1);
        let until_look = 1_u64 << grants_left.clamp(1, MOST_GRANTS_A_LOOK).ilog2();
        turn.unlooked.store(until_look - 1, Ordering::Relaxed);
        false
    }
}

impl Turn {
    /// Learns from a round, which is over with `grant`, how much faster this process's turns are.
    fn next_relative_pace(&self, grant: OwnerWord, round_us: u64) -> u64 {
        let first = OwnerWord::from_bits(self.last_first.load(Ordering::Relaxed));
        let of_all = pace(grant.generations_since(first), round_us);
        let own = self.pace.swap(0, Ordering::Relaxed);
        let was = self.relative_pace.load(Ordering::Relaxed);
        let next = match (EVEN * own).checked_div(of_all) {
            Some(seen) if own != 0 => step(was, seen, 16, 16),
            _ => was,
        };
        let next = next.clamp(*RELATIVE_PACES.start(), *RELATIVE_PACES.end());
        self.relative_pace.store(next, Ordering::Relaxed);
        next
    }
}

/// Grants a second.
fn pace(grants: u64, took_us: u64) -> u64 {
    1_000_000 * grants / took_us.max(1)
}

/// How often a newcomer pauses before it sleeps, at most.
const MOST_SPINS: u32 = 12;

/// A sleep that a somewhat longer spin would have spared.
const SHORT_SLEEP_NS: u64 = 20_000;

/// How often newcomers pause before they sleep, by what has come of it lately.
///
/// A spin before a long sleep costs more than its own time: the kernel is in no hurry to run
/// a thread again that has just used its processor, so the wake takes longer, too.
///
/// For a few slots at a time: those that share an entry mistake each other's waits for theirs,
/// which costs a spin too long or too short.
#[derive(Default)]
pub(crate) struct Spins([AtomicU32; 16]);

impl Spins {
    /// An entry is how many of the last waits in a row were long, up to this.
    const MOST_LONG: u32 = 2;

    /// How often to pause at the slot: half as often after each long wait. What is left in
    /// the end still shows a holder that comes and goes faster than anybody goes to sleep.
    pub(crate) fn at(&self, slot: u32) -> u32 {
        MOST_SPINS >> entry_of(&self.0, slot).load(Ordering::Relaxed)
    }

    /// A wait is over that went on for so long after its pauses.
    pub(crate) fn note(&self, slot: u32, slept_ns: u64) {
        let entry = entry_of(&self.0, slot);
        let was = entry.load(Ordering::Relaxed);
        let long = if slept_ns < SHORT_SLEEP_NS {
            0
        } else {
            (was + 1).min(Self::MOST_LONG)
        };
        if long != was {
            entry.store(long, Ordering::Relaxed);
        }
    }
}

/// How long a look at a word that another processor has just written is taken to last before
/// there was one, in nanoseconds: rather too long, for there is one in each turn, and none of a
/// slot that counts as often free.
const FIRST_TRANSFER_NS: u64 = 150;

/// A holder that comes back within so many such looks is not worth taking the slot from: to hand
/// a cache line over, and back, takes longer.
const SOON_TRANSFERS: u64 = 2;

/// A holder that comes back within so many is worth taking the slot from only if it needs little
/// of that time itself: a handover takes most of the rest.
const BRIEF_TRANSFERS: u64 = 8;

/// A slot whose grants come so many times further apart than they do in turns at their best is
/// not often free.
const MOST_PERIODS: u64 = 3;

/// How much of the time slots are held, as those find who wait for them.
///
/// A slot that is hardly ever free does best when it is left to one process for a while, and
/// then to the next: its line stays, and nobody else can have it anyway. But where its holders
/// have other things to do between two grants, the others would stand by a slot that nobody
/// uses, in a turn of one of them, and have to be woken for the next. Such a slot is left to
/// whoever comes.
///
/// A slot is also found free while its holder has lost its processor, or calls others; and the
/// more so the more of them are awake because it was found free. So what counts is how fast its
/// grants go on in turns: where they come less often than that, to leave it to all is no help.
pub(crate) struct Occupancy {
    slots: [Looks; 16],
    /// How long a look at a word that another processor has just written takes, with the reading
    /// of the clock, in nanoseconds: about the median. Machines differ fourfold in it.
    transfer_ns: AtomicU64,
}

/// What looks at a few slots have come to.
struct Looks {
    level: AtomicU32,
    /// How far apart grants in turns are at their best, in nanoseconds, over the number of the
    /// slot that they are of: a fifth of the looks find them closer together. 0: not known.
    ///
    /// Of one slot: where another's come closer together says nothing of this one's.
    period_ns: AtomicU64,
}

impl Occupancy {
    /// From where on the slot does not count as often free.
    const HIGH: u32 = 8;
    /// How far the looks add up.
    const MOST: u32 = 24;
    /// A slot of which nothing is known does not.
    const UNKNOWN: u32 = 16;

    /// Whether the slot is often free, even while some wait for it.
    pub(crate) fn is_low(&self, slot: u32) -> bool {
        entry_of(&self.slots, slot).level.load(Ordering::Relaxed) < Self::HIGH
    }

    /// Somebody who waits for the slot has looked at it at some moment, and seen this word; since
    /// the look before, its grants came one every `period_ns`.
    pub(crate) fn look(&self, slot: u32, seen: OwnerWord, period_ns: u64) {
        self.add_up(slot, matches!(seen.owner(), Owner::Held(_)), period_ns);
        if matches!(seen.owner(), Owner::Vacant(Vacancy::Kept(_))) {
            self.note_turn(slot, period_ns);
        }
    }

    /// Somebody who waits for the slot has seen that its last holder, who had kept it, has had no
    /// other grant of it since a look so long ago.
    pub(crate) fn look_in_vain(&self, slot: u32, since_ns: u64) {
        let since_ns = since_ns.max(self.transfers_ns(BRIEF_TRANSFERS));
        self.add_up(slot, false, since_ns);
        // So turns are as slow by now, or that one has lost its processor, which is seldom.
        self.note_turn(slot, since_ns);
    }

    /// What the looks have come to does not hold any more.
    pub(crate) fn forget(&self, slot: u32) {
        let level = &entry_of(&self.slots, slot).level;
        level.store(Self::UNKNOWN, Ordering::Relaxed);
    }

    /// A look at a word that another processor had just written took so long.
    pub(crate) fn note_transfer(&self, took_ns: u64) {
        let was = self.transfer_ns.load(Ordering::Relaxed);
        let next = step(was, took_ns.min(1_000 * MOST_ROUND_US), 8, 8);
        self.transfer_ns.store(next, Ordering::Relaxed);
    }

    /// In a turn at the slot grants came one every `period_ns`.
    fn note_turn(&self, slot: u32, period_ns: u64) {
        // While it is left to all, as others may have it, it says nothing of turns.
        if !self.is_low(slot) {
            entry_of(&self.slots, slot).note_turn(slot, period_ns);
        }
    }

    fn transfers_ns(&self, count: u64) -> u64 {
        count * self.transfer_ns.load(Ordering::Relaxed)
    }

    /// The border is at one look of three that finds the slot free, or at two of three where the
    /// grants are close together.
    fn add_up(&self, slot: u32, is_held: bool, period_ns: u64) {
        let looks = entry_of(&self.slots, slot);
        let was = looks.level.load(Ordering::Relaxed);
        let is_brief = period_ns < self.transfers_ns(BRIEF_TRANSFERS);
        let (if_busy, if_free) = if is_brief { (2, 1) } else { (1, 2) };
        let is_soon = period_ns < self.transfers_ns(SOON_TRANSFERS);
        let level = if is_held || is_soon || looks.is_long(slot, period_ns) {
            (was + if_busy).min(Self::MOST)
        } else {
            was.saturating_sub(if_free)
        };
        if level != was {
            looks.level.store(level, Ordering::Relaxed);
        }
    }
}

impl Looks {
    fn is_long(&self, slot: u32, period_ns: u64) -> bool {
        let best = self.period_ns.load(Ordering::Relaxed);
        best != 0 && is_over_slot(best, slot) && period_ns > MOST_PERIODS * (best >> SLOT_BITS)
    }

    fn note_turn(&self, slot: u32, period_ns: u64) {
        // What is longer than any turn says no more.
        let period_ns = period_ns.clamp(1, 1_000 * MOST_ROUND_US);
        let was = self.period_ns.load(Ordering::Relaxed);
        let next_ns = if was != 0 && is_over_slot(was, slot) {
            step(was >> SLOT_BITS, period_ns, 32, 8)
        } else {
            period_ns
        };
        let next = over_slot(next_ns, slot);
        if next != was {
            self.period_ns.store(next, Ordering::Relaxed);
        }
    }
}

/// An estimate, moved towards a value by no more than one part of itself in so many, `up` or
/// `down`. So it goes to about where of all values so much lies below it as `down` is of both
/// together: to their median, if these are equal. It does not fall below `down`.
fn step(estimate: u64, value: u64, up: u64, down: u64) -> u64 {
    value.clamp(estimate - estimate / down, estimate + estimate / up + 1)
}

impl Default for Occupancy {
    fn default() -> Self {
        let unknown = |_| Looks {
            level: AtomicU32::new(Self::UNKNOWN),
            period_ns: AtomicU64::new(0),
        };
        Self {
            slots: std::array::from_fn(unknown),
            transfer_ns: AtomicU64::new(FIRST_TRANSFER_NS),
        }
    }
}

#[cfg(test)]
impl Occupancy {
    /// As if a slot had been found free again and again.
    pub(crate) fn lower(&self, slot: u32) {
        entry_of(&self.slots, slot)
            .level
            .store(0, Ordering::Relaxed);
    }

    /// How long a look at what another processor has written takes, as far as is known.
    pub(crate) fn transfer_ns(&self) -> u64 {
        self.transfers_ns(1)
    }
}

/// How long a process may get a slot again and again before waiters and still think it often
/// free: about half of the longest turn. If it were free, another would have got it sooner; if
/// not, whoever was woken waits for this processor.
const STREAK_NS: u64 = 300_000;

/// Since when a process has got a slot grant after grant while others wait for it.
///
/// Who never waits never looks, and might go on for ever to leave a slot to whoever comes,
/// where nobody but itself ever comes in time.
///
/// For a few slots at a time: those that share an entry have one streak, which ends when any
/// of them is seen to have been another's.
#[derive(Default)]
pub(crate) struct Streaks([Streak; 16]);

#[derive(Default)]
struct Streak {
    /// The last grant that was given back before others: its generation, over the slot's number.
    last: AtomicU64,
    begun_ns: AtomicU64,
}

impl Streaks {
    /// Whether a streak lasts too long; asked at each release of `grant` before others.
    pub(crate) fn is_too_long(&self, slot: u32, grant: OwnerWord, now_ns: u64) -> bool {
        let streak = entry_of(&self.0, slot);
        let [last, this] =
            [grant.previous_generation(), grant.generation()].map(|it| over_slot(it, slot));
        let seen = streak.last.swap(this, Ordering::Relaxed);
        let begun_ns = streak.begun_ns.load(Ordering::Relaxed);
        let goes_on = !is_over_slot(seen, slot) || seen == last;
        if goes_on && begun_ns != 0 && now_ns.saturating_sub(begun_ns) <= STREAK_NS {
            return false;
        }
        self.begin(slot, now_ns);
        goes_on && begun_ns != 0
    }

    /// The streak at the slot begins anew.
    pub(crate) fn begin(&self, slot: u32, now_ns: u64) {
        let begun_ns = &entry_of(&self.0, slot).begun_ns;
        begun_ns.store(now_ns, Ordering::Relaxed);
    }
}

/// For how long at least each thread leaves the heirs of slots that are often free alone with
/// them, before it calls one more.
const CALL_NS: u64 = 250_000;

/// For how long a thread that gets slots which are often free has a processor, before it yields
/// that once to those who wait.
const STINT_NS: u64 = 1_000_000;

/// A thread's work at its slots, since it last slept for one or yielded to others.
///
/// Who waits for a slot that is often free waits to be called, and then for a processor: of 32
/// processes on two processors, for 97 % of the time. And who has one goes on until it is taken
/// away, one time in a few in the middle of a grant, which sends all others to sleep. So a
/// thread yields it after a grant: by its own time, for who has been away has had its rest.
#[derive(Clone, Copy)]
struct Stint {
    /// When it began, or would have, had the thread had a processor ever since. The first: long
    /// ago, with the thread.
    begun_ns: u64,
    /// What the thread had had of a processor then.
    ran_ns: u64,
}

/// A number that no other thread of the process has.
fn this_thread() -> u64 {
    STINT.with(|stint| std::ptr::from_ref(stint).addr() as u64)
}

// For all slots of a thread, since it is the thread that has a processor.
thread_local! {
    /// `None`: it begins at the next look.
    static STINT: Cell<Option<Stint>> = const { Cell::new(Some(Stint::FIRST)) };
    /// When it last called one more than an heir.
    static CALLED_NS: Cell<u64> = const { Cell::new(0) };
}

impl Stint {
    /// The one that a thread's first is.
    const FIRST: Self = Self {
        begun_ns: 0,
        ran_ns: 0,
    };

    /// What is known of it now; nothing more once it is over. Asks what the thread has had of a
    /// processor only where that could be enough.
    fn going_on(self, now_ns: u64, ran_ns: impl FnOnce() -> u64) -> Option<Self> {
        if now_ns.saturating_sub(self.begun_ns) < STINT_NS {
            return Some(self);
        }
        let had_ns = ran_ns().saturating_sub(self.ran_ns);
        let begun_ns = now_ns.saturating_sub(had_ns);
        (had_ns < STINT_NS).then_some(Self { begun_ns, ..self })
    }
}

/// Takes the call that is due to one more of a slot's waiters than its heir, if one is; the
/// caller sees to it.
///
/// In turns the heir is the only one who is to be awake. Where a slot is often free it may
/// wait for a processor for as long as the others run, which is milliseconds, and keep all
/// who sleep asleep.
pub(crate) fn take_due_call(now_ns: u64) -> bool {
    let is_due = now_ns.saturating_sub(CALLED_NS.get()) >= CALL_NS;
    if is_due {
        CALLED_NS.set(now_ns);
    }
    is_due
}

/// This thread's next stint begins: at the next look, since to ask for the processor's time is a
/// system call, and this may be on a waiter's way to its grant.
pub(crate) fn begin_stint() {
    STINT.set(None);
}

/// Ends this thread's stint, if it is over, and begins another.
pub(crate) fn end_stint_if_over(now_ns: u64) -> bool {
    let next = match STINT.get() {
        Some(stint) => stint.going_on(now_ns, clock::ran_ns),
        None => Some(Stint {
            begun_ns: now_ns,
            ran_ns: clock::ran_ns(),
        }),
    };
    STINT.set(next);
    next.is_none()
}

#[cfg(test)]
pub(crate) mod stints {
    use super::*;

    /// As if this thread had neither slept for a slot nor yielded to others, nor called one,
    /// but been busy.
    pub(crate) fn be_over() {
        CALLED_NS.set(0);
        STINT.set(Some(Stint::FIRST));
        while clock::ran_ns() < STINT_NS {
            std::hint::spin_loop();
        }
    }

    /// When the last began, unless another is to.
    pub(crate) fn begun_ns() -> Option<u64> {
        STINT.get().map(|stint| stint.begun_ns)
    }

    pub(crate) fn called_ns() -> u64 {
        CALLED_NS.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::word::Identity;

    /// Releases before an heir, by grants that take so long, until the turn is over: when that
    /// is, and how often the clock was looked at.
    fn turn_of(first: u64, grant_ns: u64) -> (u64, u32) {
        let turns = Turns::default();
        let word = |grants| OwnerWord::released_at(first + grants);
        let (begun_ns, mut looks) = (1_000_000, 0);
        turns.begin(3, word(0), begun_ns);
        for grants in 0.. {
            let took_ns = (grants + 1) * grant_ns;
            let look = || {
                looks += 1;
                begun_ns + took_ns
            };
            if turns.is_over(3, word(grants), Queue::Heir, look) {
                return (took_ns, looks);
            }
        }
        unreachable!("a turn ends");
    }

    #[test]
    fn a_turn_ends_on_time_whatever_a_grant_takes_and_short_ones_look_at_the_clock_now_and_then() {
        let turn_ns = 1_000 * FIRST_TURN_US;
        // The last is about to wrap, as far as a word can tell.
        for first in [5, 1 << 20, (1 << 28) - 3] {
            for grant_ns in [30, 1_000_000, 100, 100_000, 1_000, 10_000] {
                let (took_ns, looks) = turn_of(first, grant_ns);
                let late = MOST_GRANTS_A_LOOK * grant_ns.min(1_000) + 2 * grant_ns.max(1_000);
                assert!(took_ns > turn_ns - 1_000, "{grant_ns}: {took_ns}");
                assert!(took_ns <= turn_ns + late, "{grant_ns}: {took_ns}");
                let grants = took_ns / grant_ns;
                assert!(u64::from(looks) <= grants / 16 + 8, "{grant_ns}: {looks}");
            }
        }
    }

    /// How long the turns of so many processes are, in microseconds, after some rounds of them;
    /// some come later than the others.
    fn lengths(processes: usize, pause_us: u64) -> Vec<u64> {
        let all: Vec<_> = (0..processes).map(|_| Turns::default()).collect();
        let length_us = |turns: &Turns| entry_of(&turns.0, 3).length_us.load(Ordering::Relaxed);
        let mut now_us = 1_000;
        for round in 0..20 {
            // Every third has nothing to do at first.
            let here = (0..processes).filter(|index| round > 2 || index % 3 != 0);
            for turns in here.map(|index| &all[index]) {
                turns.begin(3, OwnerWord::released_at(5), 1_000 * now_us);
                now_us += length_us(turns) + pause_us;
                turns.end(3);
            }
        }
        all.iter().map(length_us).collect()
    }

    #[test]
    fn turns_are_the_shorter_the_more_there_are_and_the_same_for_all() {
        for (processes, expected) in [(2, 600), (8, 300), (32, 150), (200, LEAST_TURN_US)] {
            let found = lengths(processes, 0);
            let about = expected - 12..=expected + 12;
            assert!(found.iter().all(|us| about.contains(us)), "{found:?}");
        }
        // Whoever has others to wait for, too, is not to have longer turns for it.
        assert!(lengths(2, 10_000).iter().all(|&us| us == LEAST_TURN_US));
        assert_eq!(lengths(1, 0), [MOST_TURN_US]);
    }

    #[test]
    fn a_turn_ends_by_the_round_and_one_that_was_overtaken_goes_on_by_the_same() {
        let turns = Turns::default();
        let word = |generation| OwnerWord::released_at(generation);
        let is_over = |generation, now_us: u64| {
            turns.is_over(3, word(generation), Queue::Asleep, || 1_000 * now_us)
        };
        turns.begin(3, word(5), 10_000_000);
        assert!(!is_over(10, 10_299) && is_over(11, 10_300));
        turns.end(3);
        // The round took 4.8 ms, and the grants came as fast in it as in the turn.
        turns.begin(3, word(117), 14_800_000);
        assert!(!is_over(119, 14_949) && is_over(120, 14_950));
        // Overtaken, and back: the turn begins anew, and is as long.
        turns.begin(3, word(125), 14_960_000);
        assert!(!is_over(126, 15_109) && is_over(127, 15_110));
        turns.end(3);
        turns.begin(3, word(213), 19_600_000);
        assert!(!is_over(214, 19_749) && is_over(215, 19_750));
    }

    /// The grants that processes get in rounds of turns, each of which takes so many nanoseconds:
    /// in the last of 30 rounds, with their turns' lengths.
    fn shares(grants_ns: &[u64]) -> Vec<(u64, u64)> {
        let all: Vec<_> = grants_ns.iter().map(|_| Turns::default()).collect();
        let (mut generation, mut now_ns) = (5, 1_000_000);
        let mut turn = |turns: &Turns, grant_ns| {
            let first = generation;
            turns.begin(3, OwnerWord::released_at(generation), now_ns);
            loop {
                now_ns += grant_ns;
                let grant = OwnerWord::released_at(generation);
                generation += 1;
                if turns.is_over(3, grant, Queue::Heir, || now_ns) {
                    break;
                }
            }
            turns.end(3);
            now_ns += 5_000;
            (generation - first, turns.length_ns(3) / 1_000)
        };
        let mut round = || {
            let turns = all.iter().zip(grants_ns);
            turns.map(|(turns, &ns)| turn(turns, ns)).collect()
        };
        (0..29).for_each(|_| drop::<Vec<_>>(round()));
        round()
    }

    #[test]
    fn a_slower_processor_is_made_up_for_by_longer_turns() {
        let difference = |shares: &[(u64, u64)]| {
            let grants = shares.iter().map(|share| share.0);
            grants.clone().min().unwrap() as f64 / grants.max().unwrap() as f64
        };
        for slow_ns in [120, 140, 150] {
            let grants_ns: Vec<_> = (0..16).map(|index| [100, slow_ns][index % 2]).collect();
            let found = shares(&grants_ns);
            assert!(difference(&found) > 0.9, "{slow_ns}: {found:?}");
            // The round is no longer for it.
            let lengths_us = found.iter().map(|share| share.1);
            let mean_us = lengths_us.sum::<u64>() / 16;
            assert!((195..=215).contains(&mean_us), "{slow_ns}: {found:?}");
        }
        // Who has longer sections has the lock for longer by no more than the slowest.
        let found = shares(&[200, 200, 200, 20_000]);
        let (brief_us, long_us) = (found[0].1, found[3].1);
        assert!(
            long_us > brief_us && 16 * long_us <= 26 * brief_us,
            "{found:?}"
        );
    }

    #[test]
    fn a_round_is_from_one_turn_of_a_thread_to_its_next() {
        let turns = Turns::default();
        let begin = |now_us: u64| {
            turns.begin(3, OwnerWord::released_at(5), 1_000 * now_us);
            turns.end(3);
            turns.length_ns(3)
        };
        let begin_elsewhere = |now_us| {
            let other = std::thread::scope(|scope| scope.spawn(|| begin(now_us)).join());
            other.unwrap()
        };
        assert_eq!(begin(10_000), 1_000 * FIRST_TURN_US);
        assert_eq!(begin_elsewhere(12_000), 1_000 * FIRST_TURN_US);
        assert_eq!(begin(14_000), TURN_BY_ROUND / 4);
        assert_eq!(begin_elsewhere(14_500), TURN_BY_ROUND / 4);
        // The one that was measured is gone, or has been away.
        assert_eq!(begin_elsewhere(2_000_000), 1_000 * FIRST_TURN_US);
        assert_eq!(begin(2_004_000), 1_000 * FIRST_TURN_US);
        assert_eq!(begin(9_000_000), 1_000 * FIRST_TURN_US);
        assert_eq!(begin(9_004_000), TURN_BY_ROUND / 4);
    }

    #[test]
    fn a_first_turn_and_one_after_another_slots_has_the_usual_length() {
        let turns = Turns::default();
        let length_us = |slot, now_ns| {
            turns.begin(slot, OwnerWord::released_at(5), now_ns);
            turns.end(slot);
            entry_of(&turns.0, slot).length_us.load(Ordering::Relaxed)
        };
        for slot in [0, 3] {
            assert_eq!(length_us(slot, 50_000_000), FIRST_TURN_US);
            assert_eq!(length_us(slot, 51_000_000), MOST_TURN_US);
            let known_ns = [slot, slot + 8].map(|slot| turns.length_ns(slot));
            assert_eq!(known_ns, [MOST_TURN_US, FIRST_TURN_US].map(|us| 1_000 * us));
            assert_eq!(length_us(slot, 54_000_000), TURN_BY_ROUND / 3_000);
            assert_eq!(length_us(slot + 8, 55_000_000), FIRST_TURN_US);
            assert_eq!(length_us(slot, 56_000_000), FIRST_TURN_US);
        }
    }

    #[test]
    fn a_turn_is_over_where_another_slot_has_the_entry_or_it_was_ended_or_began_long_ago() {
        let turns = Turns::default();
        let is_over = |slot, generation, now_ns| {
            let grant = OwnerWord::released_at(generation);
            turns.is_over(slot, grant, Queue::Heir, || now_ns)
        };
        turns.begin(3, OwnerWord::released_at(5), 1_000);
        assert!(!turns.has_ended(3) && !is_over(3, 5, 2_000));
        // Looked at again after sixteen.
        assert!(is_over(3 + 8, 16, 2_000), "it has had none");
        assert!(!is_over(3, 17, 1_000_000) && is_over(3, 32, 1_000_000));
        turns.end(3 + 8);
        assert!(!turns.has_ended(3), "another slot's");
        turns.end(3);
        assert!(turns.has_ended(3) && is_over(3, 33, 3_000_000));
        turns.begin(3 + 8, OwnerWord::released_at(7), 3_000_000);
        assert!(is_over(3, 64, 3_000_000));
    }

    #[test]
    fn behind_one_that_sleeps_the_clock_is_looked_at_each_time() {
        let turns = Turns::default();
        let grant = OwnerWord::released_at(5);
        turns.begin(3, grant, 1_000);
        assert!(!turns.is_over(3, grant, Queue::Asleep, || 1_000));
        let late_ns = 2_000 * FIRST_TURN_US;
        assert!(!turns.is_over(3, grant, Queue::Heir, || late_ns), "not yet");
        assert!(turns.is_over(3, grant, Queue::Asleep, || late_ns));
    }

    #[test]
    fn long_waits_shorten_the_spin_and_a_short_one_restores_it() {
        let spins = Spins::default();
        let after = |slept_ns| {
            spins.note(3, slept_ns);
            spins.at(3)
        };
        let long_ns = SHORT_SLEEP_NS;
        assert_eq!(spins.at(3), MOST_SPINS);
        let seen = [long_ns, long_ns, long_ns, 0].map(after);
        let (half, quarter) = (MOST_SPINS / 2, MOST_SPINS / 4);
        assert_eq!(seen, [half, quarter, quarter, MOST_SPINS]);
        assert_eq!(spins.at(4), MOST_SPINS, "another slot's entry");
    }

    #[test]
    fn long_waits_halve_the_spin_at_most_where_a_slot_is_often_free() {
        let contention = Contention::default();
        (0..2).for_each(|_| contention.spins.note(3, SHORT_SLEEP_NS));
        assert_eq!(contention.pauses_at(3), MOST_SPINS / 4);
        contention.occupancy.lower(3);
        assert_eq!(contention.pauses_at(3), MOST_SPINS / 2);
        contention.spins.note(3, 0);
        assert_eq!(contention.pauses_at(3), MOST_SPINS);
    }

    /// A word as somebody finds it who waits.
    fn found(is_held: bool) -> OwnerWord {
        let free = OwnerWord::released_at(5);
        match is_held {
            true => free.granted_to(Identity::new(7, 2)),
            false => free,
        }
    }

    #[test]
    fn a_slot_that_is_often_found_free_counts_as_such_until_it_is_mostly_found_held() {
        let occupancy = Occupancy::default();
        let [soon_ns, brief_ns] =
            [SOON_TRANSFERS, BRIEF_TRANSFERS].map(|count| occupancy.transfers_ns(count));
        let after_at = |period_ns, looks: &[(bool, u32)]| {
            for &(held, times) in looks {
                (0..times).for_each(|_| occupancy.look(3, found(held), period_ns));
            }
            occupancy.is_low(3)
        };
        let after = |looks: &[(bool, u32)]| after_at(soon_ns, looks);
        assert!(!occupancy.is_low(3), "nothing is known of it");
        assert!(!after(&[(false, Occupancy::UNKNOWN - Occupancy::HIGH)]));
        assert!(after(&[(false, 1)]));
        assert!(
            after(&[(false, 100), (true, 3)]),
            "one holder after another"
        );
        assert!(!after(&[(true, 1)]));
        // Held at every second look, for ever: as where many come back for it at once.
        assert!((0..100).all(|_| !after(&[(true, 1), (false, 1)])));
        assert!(after(&[(false, Occupancy::MOST)]));
        assert!((0..100).all(|_| after_at(brief_ns, &[(true, 1), (false, 1)])));
        assert!(!after_at(brief_ns, &[(true, Occupancy::MOST)]));
        assert!((0..100).all(|_| !after_at(brief_ns, &[(true, 3), (false, 1)])));
        assert!(after(&[(false, Occupancy::MOST)]));
        assert!(!after_at(soon_ns - 1, &[(false, Occupancy::MOST)]));
        assert!(!occupancy.is_low(4), "another slot's entry");
    }

    #[test]
    fn how_soon_a_holder_comes_back_goes_by_how_long_a_look_takes() {
        let occupancy = Occupancy::default();
        let is_low_after = |transfer_ns| {
            (0..100).for_each(|_| occupancy.note_transfer(transfer_ns));
            assert_eq!(occupancy.transfer_ns(), transfer_ns);
            occupancy.forget(3);
            (0..100).for_each(|_| occupancy.look(3, found(false), 120));
            occupancy.is_low(3)
        };
        assert_eq!(
            [25, 60, 61, 200].map(is_low_after),
            [true, true, false, false]
        );
        // One that was interrupted says little.
        occupancy.note_transfer(5_000_000);
        assert_eq!(occupancy.transfer_ns(), 200 + 200 / 8 + 1);
    }

    /// It was found free for what it cost to leave it to all: calls, looks, and sleeps. So it was
    /// left to all for ever, and had a third of the grants.
    #[test]
    fn a_slot_that_has_grants_more_often_in_turns_is_not_left_to_all() {
        let occupancy = Occupancy::default();
        let kept = found(true).vacated(Vacancy::Kept(7));
        let is_low_after = |period_ns| {
            occupancy.forget(3);
            (0..100).for_each(|_| occupancy.look(3, found(false), period_ns));
            occupancy.is_low(3)
        };
        (0..8).for_each(|_| occupancy.look(3, kept, 2_000));
        assert!(is_low_after(6_000) && !is_low_after(6_001));
        occupancy.forget(3);
        (0..8).for_each(|_| occupancy.look_in_vain(3, 20_000));
        assert!(!occupancy.is_low(3), "it may have lost its processor");
        assert!((0..100).any(|_| {
            occupancy.look_in_vain(3, 20_000);
            occupancy.is_low(3)
        }));
        (0..50).for_each(|_| {
            occupancy.forget(3);
            occupancy.look(3, kept, 2_000);
        });
        assert!(is_low_after(6_000));
        // While it is left to all it says nothing of turns; and nor does who left it to all.
        (0..100).for_each(|_| occupancy.look(3, kept, 5_000));
        assert!(occupancy.is_low(3) && !is_low_after(6_001));
        // Turns that have become slower count in time.
        let slower = (0..1_000).find(|_| {
            occupancy.look(3, kept, 4_000);
            is_low_after(12_000)
        });
        assert!(slower.is_some_and(|looks| looks > 10), "{slower:?}");
        // Another slot of the same entry has turns of its own.
        let other = 3 + occupancy.slots.len() as u32;
        occupancy.forget(other);
        (0..100).for_each(|_| occupancy.look(other, found(false), 100_000));
        assert!(occupancy.is_low(other) && !is_low_after(100_000));
        occupancy.forget(other);
        occupancy.look(other, kept, 50_000);
        (0..100).for_each(|_| occupancy.look(other, found(false), 100_000));
        assert!(occupancy.is_low(other));
    }

    #[test]
    fn an_estimate_goes_to_the_quantile_that_its_steps_say() {
        let settled = |up, down| {
            // Each of 1 to 100, in no order.
            let values = (0..5_000).map(|at| 1_000 * (1 + at * 37 % 100));
            values.fold(7, |estimate, value| step(estimate, value, up, down)) / 1_000
        };
        let (median, fifth) = (settled(64, 64), settled(256, 64));
        assert!((40..60).contains(&median), "{median}");
        assert!((10..30).contains(&fifth), "{fifth}");
    }

    #[test]
    fn a_stint_lasts_until_its_thread_has_had_a_processor_for_so_long() {
        let begun_ns = 7 * STINT_NS;
        let stint = Stint {
            begun_ns,
            ran_ns: 100,
        };
        let after = |passed_ns, had_ns| {
            let next = stint.going_on(begun_ns + passed_ns, || 100 + had_ns);
            next.map(|next| next.begun_ns - begun_ns)
        };
        let unasked = stint.going_on(begun_ns + STINT_NS - 1, || unreachable!("too early"));
        assert_eq!(unasked.map(|stint| stint.begun_ns), Some(begun_ns));
        assert_eq!(after(STINT_NS, STINT_NS), None);
        assert_eq!(after(STINT_NS, STINT_NS - 1), Some(1));
        assert_eq!(
            after(50 * STINT_NS, STINT_NS / 4),
            Some(50 * STINT_NS - STINT_NS / 4)
        );
        assert_eq!(after(50 * STINT_NS, STINT_NS), None);
    }

    #[test]
    fn a_threads_first_stint_begins_with_it_and_is_its_own() {
        stints::be_over();
        let now_ns = clock::now_ns();
        assert!(end_stint_if_over(now_ns));
        // Where that is slow, a thread has had a processor for so long before its first look.
        let is_over_too_soon = move || end_stint_if_over(now_ns) && clock::ran_ns() < STINT_NS;
        let is_over_elsewhere = || std::thread::spawn(is_over_too_soon).join();
        assert!(!is_over_elsewhere().unwrap(), "it has just begun");
        begin_stint();
        assert!(
            !end_stint_if_over(now_ns),
            "it has not had a processor since"
        );
        assert_eq!(stints::begun_ns(), Some(now_ns));
        assert!(!end_stint_if_over(now_ns + 2 * STINT_NS), "nor by then");
        assert!(
            stints::begun_ns() > Some(now_ns),
            "which it need not ask again so soon"
        );
    }

    #[test]
    fn who_yields_to_others_begins_its_streak_anew() {
        let streaks = Streaks::default();
        let is_too_long = |generation: u64, now_ns| {
            streaks.is_too_long(3, OwnerWord::released_at(generation), now_ns)
        };
        assert!(!is_too_long(5, 1_000) && !is_too_long(6, 1_000));
        let late_ns = 2_000 + STREAK_NS;
        streaks.begin(3, late_ns);
        assert!(!is_too_long(7, late_ns + STREAK_NS));
        assert!(is_too_long(8, late_ns + STREAK_NS + 1));
    }

    #[test]
    fn one_more_is_called_once_in_a_while() {
        let now_ns = 7 * CALL_NS;
        let times = [0, 1, CALL_NS - 1, CALL_NS, CALL_NS + 1].map(|after_ns| now_ns + after_ns);
        let due_to_another = move || std::thread::spawn(move || times.map(take_due_call)).join();
        // A thread that comes for one grant calls somebody, too.
        let due = [true, false, false, true, false];
        assert_eq!(
            [due_to_another().unwrap(), due_to_another().unwrap()],
            [due; 2]
        );
    }

    #[test]
    fn a_streak_gets_too_long_unless_somebody_else_had_the_slot() {
        let streaks = Streaks::default();
        let mut now_ns = 1_000;
        let mut release = |slot, generation: u64, after_ns| {
            now_ns += after_ns;
            streaks.is_too_long(slot, OwnerWord::from_bits(generation << 2), now_ns)
        };
        assert!(!release(3, 10, 2 * STREAK_NS), "the first");
        assert!(!release(3, 11, STREAK_NS));
        assert!(release(3, 12, 1));
        assert!(!release(3, 13, STREAK_NS), "another, since then");
        assert!(!release(3, 15, 1), "somebody had it in between");
        assert!(!release(3, 16, STREAK_NS));
        assert!(!release(4, 17, 2 * STREAK_NS), "another entry's");
        // One that shares the entry neither begins the streak anew nor ends it.
        assert!(!release(3, 20, 0));
        assert!(!release(3 + 16, 90, STREAK_NS));
        assert!(release(3, 30, 1));
        // The count wraps.
        assert!(!release(3, (1 << 28) - 1, 0) && !release(3, 0, STREAK_NS));
        assert!(release(3, 1, 1));
    }
}
