//! How long to spin before a sleep.

use super::entry_of;
use crate::sync::{AtomicU32, Ordering};

/// How often a newcomer pauses before it sleeps, at most.
pub(super) const MOST_SPINS: u32 = 12;

/// A sleep that a somewhat longer spin would have spared.
pub(super) const SHORT_SLEEP_NS: u64 = 20_000;

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

#[cfg(test)]
mod tests {
    use super::*;

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
}
