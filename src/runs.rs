//! Which slots a session may have to do with, remembered by runs of neighbours: a bit for
//! every 64 slots, so that noting one more costs a load.

use std::ops::Range;

use crate::sync::{AtomicU64, Ordering};

/// How many slots share a bit.
const RUN: usize = 64;

/// A set of runs of slots. It only grows.
pub(crate) struct Runs(Box<[AtomicU64]>);

impl Runs {
    /// The empty set, for a table of so many slots.
    pub(crate) fn new(slots: usize) -> Self {
        let words = slots.div_ceil(RUN * 64);
        Self((0..words).map(|_| AtomicU64::new(0)).collect())
    }

    /// Puts a slot in, and its neighbours with it.
    #[inline]
    pub(crate) fn insert(&self, slot: u32) {
        let run = slot as usize / RUN;
        let Some(word) = self.0.get(run / 64) else {
            return;
        };
        let bit = 1 << (run % 64);
        // Relaxed: whoever reads the set joins the threads that fill it.
        if word.load(Ordering::Relaxed) & bit == 0 {
            word.fetch_or(bit, Ordering::Relaxed);
        }
    }

    /// The runs, in ascending order; the last may reach beyond the table.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Range<usize>> {
        let is_in = |run: &usize| self.0[run / 64].load(Ordering::Relaxed) >> (run % 64) & 1 == 1;
        (0..self.0.len() * 64)
            .filter(is_in)
            .map(|run| run * RUN..(run + 1) * RUN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_slot_put_in_is_in_one_of_the_runs_and_no_run_is_empty() {
        let runs = Runs::new(10_000);
        let slots = [0, 63, 64, 4095, 4096, 9_999];
        slots
            .into_iter()
            .chain([63])
            .for_each(|slot| runs.insert(slot));
        let found: Vec<_> = runs.iter().collect();
        assert_eq!(
            found,
            [0..64, 64..128, 4032..4096, 4096..4160, 9984..10_048]
        );
    }

    #[test]
    fn a_slot_that_the_table_does_not_have_is_left_out() {
        let runs = Runs::new(64);
        runs.insert(u32::MAX);
        assert_eq!(runs.iter().count(), 0);
    }
}
