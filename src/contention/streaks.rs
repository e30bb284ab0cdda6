//! Since when nobody else has got a slot.

use super::{entry_of, is_over_slot, over_slot};
use crate::protocol::word::OwnerWord;
use crate::sync::{AtomicU64, Ordering};

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

#[cfg(test)]
mod tests {
    use super::*;

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
