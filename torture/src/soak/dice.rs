//! The choices of a campaign, out of its seed.

/// Random numbers (xorshift64): the same seed makes the same choices. What they meet is
/// the scheduler's business.
pub struct Dice(u64);

impl Dice {
    /// From a seed, and what tells this user of it from the others.
    pub fn new(seed: u64, user: u64) -> Self {
        let mut dice = Self((seed ^ user.wrapping_mul(0x9e37_79b9_7f4a_7c15)) | 1);
        // Seeds are small numbers, and the first numbers of near seeds are near.
        for _ in 0..8 {
            dice.next();
        }
        dice
    }

    /// Any number.
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        (self.next() >> 11) % end
    }

    /// A number of a range, its end left out.
    pub fn within(&mut self, range: std::ops::Range<u64>) -> u64 {
        range.start + self.below(range.end - range.start)
    }

    /// Whether something of this many percent happens.
    pub fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// One of these.
    pub fn choose<'a, T>(&mut self, items: &'a [T]) -> Option<&'a T> {
        let count = u64::try_from(items.len()).ok()?;
        if count == 0 {
            return None;
        }
        items.get(usize::try_from(self.below(count)).ok()?)
    }
}
