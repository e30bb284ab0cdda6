//! What a process remembers of the contention for its slots: whose turn it is, how long to
//! spin, whether a slot is often free. And a thread: for how long it has been at it.
//!
//! All of it is of this process alone, and a matter of speed and fairness: ownership never
//! depends on it. So a few entries serve all slots, and slots that share one share its
//! mistakes.

mod occupancy;
mod spins;
pub(crate) mod stint;
mod streaks;
mod turns;

use occupancy::Occupancy;
use spins::{MOST_SPINS, Spins};
pub(crate) use streaks::Streaks;
use turns::Turns;

use crate::protocol::names::SLOT_BITS;

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

/// An estimate, moved towards a value by no more than one part of itself in so many, `up` or
/// `down`. So it goes to about where of all values so much lies below it as `down` is of both
/// together: to their median, if these are equal. It does not fall below `down`.
fn step(estimate: u64, value: u64, up: u64, down: u64) -> u64 {
    value.clamp(estimate - estimate / down, estimate + estimate / up + 1)
}

#[cfg(test)]
mod tests {
    use super::spins::SHORT_SLEEP_NS;
    use super::*;

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
}
