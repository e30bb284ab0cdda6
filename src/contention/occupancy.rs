//! Whether a slot is often free.

use super::turns::MOST_ROUND_US;
use super::{entry_of, is_over_slot, over_slot, step};
use crate::protocol::names::SLOT_BITS;
use crate::protocol::word::{Owner, OwnerWord, Vacancy};
use crate::sync::{AtomicU32, AtomicU64, Ordering};

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::word::Identity;

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
}
