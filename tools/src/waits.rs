//! How long waits took, counted by size: eight sizes to each power of two.

use std::sync::atomic::{AtomicU64, Ordering};

const STEPS: u32 = 8;

/// How many sizes there are: enough for every number of nanoseconds.
pub(crate) const SIZES: usize = (STEPS * (u64::BITS - STEPS.ilog2() + 1)) as usize;

/// The size that so many nanoseconds fall under.
pub(crate) fn size_of(nanos: u64) -> usize {
    if nanos < u64::from(STEPS) {
        return nanos as usize;
    }
    let shift = nanos.ilog2() - STEPS.ilog2();
    // The top bits below the highest tell the step within the power of two.
    let step = (nanos >> shift) as u32 - STEPS;
    (STEPS * (shift + 1) + step) as usize
}

/// The most nanoseconds that fall under this size.
fn largest_of(size: usize) -> u64 {
    let (power, step) = (size as u32 / STEPS, u64::from(size as u32 % STEPS));
    match power {
        0 => step,
        _ => (((u64::from(STEPS) + step + 1) as u128) << (power - 1)).saturating_sub(1) as u64,
    }
}

/// Waits of several processes put together.
pub(crate) struct Waits {
    counts: [u64; SIZES],
}

impl Waits {
    pub(crate) fn together<'a>(all: impl Iterator<Item = &'a [AtomicU64]>) -> Self {
        let mut counts = [0; SIZES];
        for one in all {
            for (count, more) in counts.iter_mut().zip(one) {
                *count += more.load(Ordering::Relaxed);
            }
        }
        Self { counts }
    }

    /// In nanoseconds, an upper bound of what `share` of the waits took at most: 0.5 for
    /// the median, 1.0 for the longest. None if nobody waited.
    pub(crate) fn at(&self, share: f64) -> Option<u64> {
        let total: u64 = self.counts.iter().sum();
        let wanted = (total as f64 * share).ceil().max(1.0) as u64;
        let mut seen = 0;
        let size = self.counts.iter().position(|count| {
            seen += count;
            seen >= wanted
        });
        size.map(largest_of)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_falls_under_a_size_that_ends_less_than_an_eighth_above_it() {
        let powers = (4..u64::BITS).flat_map(|bit| {
            let (power, step) = (1_u64 << bit, 1_u64 << (bit - 3));
            [power - 1, power, power + 1, power + step - 1, power + step]
        });
        let mut before = 0;
        for nanos in (0..15).chain(powers).chain([u64::MAX]) {
            let largest = largest_of(size_of(nanos));
            assert!(largest >= nanos && largest - nanos <= nanos / 8, "{nanos}");
            assert!(before <= size_of(nanos), "{nanos}");
            before = size_of(nanos);
        }
        assert_eq!(size_of(u64::MAX) + 1, SIZES);
        assert_eq!(largest_of(SIZES - 1), u64::MAX);
    }

    #[test]
    fn shares_are_taken_of_all_waits_of_all() {
        let process = |waits: &[u64]| {
            let counts = [const { AtomicU64::new(0) }; SIZES];
            for &wait in waits {
                counts[size_of(wait)].fetch_add(1, Ordering::Relaxed);
            }
            counts
        };
        let (one, two) = (process(&[1; 98]), process(&[6, 7]));
        let waits = Waits::together([&one[..], &two[..]].into_iter());
        assert_eq!((waits.at(0.5), waits.at(0.99)), (Some(1), Some(6)));
        assert_eq!(waits.at(1.0), Some(7));
        assert_eq!(Waits::together([].into_iter()).at(0.5), None);
    }
}
