//! Drawing names: uniformly, and by Zipf's law, where the n-th is drawn 1/n as often as the
//! first.

/// A reproducible stream of random numbers (splitmix64).
#[derive(Clone, Debug)]
pub struct Draws(u64);

impl Draws {
    /// The stream of this number.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// Any number below `bound`, one as likely as another.
    ///
    /// # Panics
    /// If there is none.
    pub fn below(&mut self, bound: usize) -> usize {
        assert!(bound > 0, "no number is below 0");
        ((u128::from(self.next()) * bound as u128) >> 64) as usize
    }
}

/// Zipf's law over a number of things.
#[derive(Clone, Debug)]
pub struct Zipf(Vec<f64>);

impl Zipf {
    /// Over `count` things, the most popular first.
    #[must_use]
    pub fn new(count: usize) -> Self {
        let mut sum = 0.0;
        let sums = (1..=count).map(|rank| {
            sum += 1.0 / rank as f64;
            sum
        });
        Self(sums.collect())
    }

    /// Draws one.
    ///
    /// # Panics
    /// If there is none.
    pub fn draw(&self, draws: &mut Draws) -> usize {
        let all = *self.0.last().expect("something to draw from");
        let at = draws.next() as f64 / 2_f64.powi(64) * all;
        self.0
            .partition_point(|&sum| sum <= at)
            .min(self.0.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COUNT: usize = 100;
    const TIMES: usize = 100_000;

    fn counts(mut draw: impl FnMut() -> usize) -> Vec<usize> {
        let mut counts = vec![0; COUNT];
        (0..TIMES).for_each(|_| counts[draw()] += 1);
        counts
    }

    #[test]
    fn uniform_draws_are_even() {
        let mut draws = Draws::new(1);
        let counts = counts(|| draws.below(COUNT));
        assert!(
            counts.iter().all(|count| (800..1200).contains(count)),
            "{counts:?}"
        );
    }

    #[test]
    fn the_second_is_drawn_half_as_often_as_the_first_by_zipf_and_the_last_a_hundredth() {
        let (zipf, mut draws) = (Zipf::new(COUNT), Draws::new(1));
        let counts = counts(|| zipf.draw(&mut draws));
        // 100,000 over the hundredth harmonic number, 5.187.
        assert!((18_500..20_100).contains(&counts[0]), "{counts:?}");
        assert!((9_200..10_100).contains(&counts[1]), "{counts:?}");
        assert!((120..270).contains(&counts[99]), "{counts:?}");
    }
}
