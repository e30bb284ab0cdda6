//! Whose turn it is: since when this process has been served before the heirs of its slots.

use std::ops::RangeInclusive;

use super::stint::this_thread;
use super::{entry_of, is_over_slot, over_slot, step};
use crate::protocol::names::SLOT_BITS;
use crate::protocol::word::{OwnerWord, Queue};
use crate::sync::{AtomicU64, Ordering};

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
pub(super) const MOST_ROUND_US: u64 = 1_000_000;

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

    /// Whether an entry is the slot's, and has a time.
    fn has_time_at(entry: u64, slot: u32) -> bool {
        is_over_slot(entry, slot) && entry != u64::from(slot)
    }

    /// A turn begins with `grant`: the slot was waited for, and another process had it.
    pub(crate) fn begin(&self, slot: u32, grant: OwnerWord, now_ns: u64) {
        let turn = entry_of(&self.0, slot);
        turn.first.store(grant.bits(), Ordering::Relaxed);
        turn.unlooked.store(0, Ordering::Relaxed);
        let entry = Self::entry(slot, now_ns);
        let begun = turn.begun.swap(entry, Ordering::Relaxed);
        if Self::has_time_at(begun, slot) {
            // Overtaken in the middle of a turn: no round is over.
            return;
        }
        let last = turn.last.load(Ordering::Relaxed);
        let round_us = Self::microseconds_between(last, entry);
        let length_us = if !Self::has_time_at(last, slot) || round_us > MOST_ROUND_US {
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
        if !Self::has_time_at(begun, slot) {
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

#[cfg(test)]
mod tests {
    use super::*;

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
    fn a_turn_that_did_not_end_by_time_says_nothing_of_the_pace() {
        let turns = Turns::default();
        let length_us = |generation, now_us: u64| {
            turns.begin(3, OwnerWord::released_at(generation), 1_000 * now_us);
            turns.length_ns(3) / 1_000
        };
        assert_eq!(length_us(5, 10_000), FIRST_TURN_US);
        turns.end(3);
        assert_eq!(length_us(1_005, 14_800), TURN_BY_ROUND / 4_800);
        // Twice as fast as others: a step.
        let grant = OwnerWord::released_at(1_066);
        for now_ns in [14_950_000, 19_000_000] {
            assert!(turns.is_over(3, grant, Queue::Heir, || now_ns));
            turns.end(3);
        }
        let shorter_us = length_us(2_005, 19_600);
        assert_eq!(
            shorter_us,
            TURN_BY_ROUND / 4_800 * EVEN / (EVEN + EVEN / 16 + 1)
        );
        turns.end(3);
        assert_eq!(length_us(3_005, 24_400), shorter_us);
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
}
