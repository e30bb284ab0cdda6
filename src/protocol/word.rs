//! The owner word: what its bits mean, and nothing about when they change.
//!
//! | PID | session        | reads as                                                    |
//! |-----|----------------|-------------------------------------------------------------|
//! | 0   | 0              | `Fresh`: free, never granted under this name                |
//! | 0   | 1              | `Released`: free, the last holder released it               |
//! | 0   | other          | `Corrupt`: no rule produces it                              |
//! | p   | below 4088     | `Held` by that session of process p                         |
//! | p   | `DIED`         | free; p died holding it                                     |
//! | p   | `PANICKED`     | free; p's guard was dropped by a panic                      |
//! | p   | `EXPIRED`      | free; p was evicted                                         |
//! | p   | `FORCED`       | free; an operator took it from p                            |
//! | p   | `RENAMING`     | p, who holds the naming lock, is giving the slot a new name |
//! | p   | other          | `Corrupt`                                                   |
//!
//! The generation counts grants and stays through everything else. `W` (someone may be
//! waiting) goes with `Held`; it is harmless elsewhere.

use super::sync::GENERATION_BITS;

const SESSION_BITS: u32 = 12;
const PID_BITS: u32 = 22;

const GENERATION_SHIFT: u32 = 1;
const SESSION_SHIFT: u32 = GENERATION_SHIFT + GENERATION_BITS;
const PID_SHIFT: u32 = SESSION_SHIFT + SESSION_BITS;

const WAITERS: u64 = 1;
const GENERATION_MASK: u64 = (1 << GENERATION_BITS) - 1;
const SESSION_MASK: u64 = (1 << SESSION_BITS) - 1;
const PID_MASK: u64 = (1 << PID_BITS) - 1;

/// Bits of a token that one epoch spans: all of the in-word generation but its top bit,
/// whose value is the epoch's parity.
pub const EPOCH_SHIFT: u32 = GENERATION_BITS - 1;

/// The first session index that is not one: the indices above say how a slot was vacated.
pub const MAX_SESSIONS: u32 = (1 << SESSION_BITS) - 8;

const FRESH: u64 = 0;
const RELEASED: u64 = 1;
const RENAMING: u64 = SESSION_MASK - 4;
const DIED: u64 = SESSION_MASK - 3;
const PANICKED: u64 = SESSION_MASK - 2;
const EXPIRED: u64 = SESSION_MASK - 1;
const FORCED: u64 = SESSION_MASK;

/// Who takes a slot: a PID and a session index, already where the owner word has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity(u64);

impl Identity {
    /// The identity of `session` in process `pid`.
    ///
    /// A PID that the word has no room for cannot come from Linux, whose limit is 2^22.
    #[must_use]
    pub const fn new(pid: u32, session: u32) -> Self {
        Self(
            (pid as u64 & PID_MASK) << PID_SHIFT | (session as u64 & SESSION_MASK) << SESSION_SHIFT,
        )
    }

    /// The same process as the one that gives a slot a new name.
    #[must_use]
    pub const fn renaming(self) -> Self {
        Self::new(self.pid(), RENAMING as u32)
    }

    /// The process id.
    #[must_use]
    pub const fn pid(self) -> u32 {
        (self.0 >> PID_SHIFT) as u32
    }

    /// The session's index.
    #[must_use]
    pub const fn session(self) -> u32 {
        (self.0 >> SESSION_SHIFT & SESSION_MASK) as u32
    }
}

/// How a slot came to be free.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Vacancy {
    /// Never granted under its name.
    Fresh,
    /// The last holder released it.
    Released,
    /// The holder with this PID died.
    Died(u32),
    /// The holder with this PID panicked.
    Panicked(u32),
    /// The holder with this PID was evicted.
    Expired(u32),
    /// An operator took it from the holder with this PID.
    Forced(u32),
}

impl Vacancy {
    /// Whether the last holder left without releasing.
    #[must_use]
    pub const fn is_abandoned(self) -> bool {
        !matches!(self, Self::Fresh | Self::Released)
    }

    const fn bits(self) -> u64 {
        let (pid, session) = match self {
            Self::Fresh => (0, FRESH),
            Self::Released => (0, RELEASED),
            Self::Died(pid) => (pid, DIED),
            Self::Panicked(pid) => (pid, PANICKED),
            Self::Expired(pid) => (pid, EXPIRED),
            Self::Forced(pid) => (pid, FORCED),
        };
        (pid as u64 & PID_MASK) << PID_SHIFT | session << SESSION_SHIFT
    }
}

/// What an owner word says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// Free for the taking.
    Vacant(Vacancy),
    /// Owned.
    Held(Identity),
    /// Being given a new name by the holder of the naming lock, who has this PID.
    Renaming(u32),
    /// A word that no rule can have produced.
    Corrupt,
}

/// One reading of an owner word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnerWord(u64);

impl OwnerWord {
    /// The reading of raw bits, whatever they are.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// The raw bits.
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }

    const fn pid(self) -> u32 {
        (self.0 >> PID_SHIFT & PID_MASK) as u32
    }

    /// What the word says; total, so that no bit pattern can surprise a caller.
    #[must_use]
    pub const fn owner(self) -> Owner {
        let pid = self.pid();
        let session = self.0 >> SESSION_SHIFT & SESSION_MASK;
        if self.0 >> PID_SHIFT > PID_MASK {
            return Owner::Corrupt;
        }
        match (pid, session) {
            (0, FRESH) => Owner::Vacant(Vacancy::Fresh),
            (0, RELEASED) => Owner::Vacant(Vacancy::Released),
            (0, _) => Owner::Corrupt,
            (_, RENAMING) => Owner::Renaming(pid),
            (_, DIED) => Owner::Vacant(Vacancy::Died(pid)),
            (_, PANICKED) => Owner::Vacant(Vacancy::Panicked(pid)),
            (_, EXPIRED) => Owner::Vacant(Vacancy::Expired(pid)),
            (_, FORCED) => Owner::Vacant(Vacancy::Forced(pid)),
            (_, session) if session < MAX_SESSIONS as u64 => {
                Owner::Held(Identity::new(pid, session as u32))
            }
            _ => Owner::Corrupt,
        }
    }

    /// Whether anybody may take the slot: the fast path's whole question, by two compares.
    #[inline]
    #[must_use]
    pub const fn is_vacant(self) -> bool {
        let holder = self.0 >> SESSION_SHIFT;
        holder <= RELEASED
            || (holder & SESSION_MASK >= DIED
                && holder >> SESSION_BITS != 0
                && holder >> SESSION_BITS <= PID_MASK)
    }

    /// The generation's part in the word.
    #[inline]
    #[must_use]
    pub const fn generation(self) -> u64 {
        self.0 >> GENERATION_SHIFT & GENERATION_MASK
    }

    /// How many grants lie between `earlier` and this word.
    #[must_use]
    pub const fn generations_since(self, earlier: Self) -> u64 {
        self.generation().wrapping_sub(earlier.generation()) & GENERATION_MASK
    }

    /// The parity of the epoch that this generation belongs to.
    #[inline]
    #[must_use]
    pub const fn epoch_parity(self) -> u64 {
        self.generation() >> EPOCH_SHIFT
    }

    /// Whether someone may be waiting.
    #[inline]
    #[must_use]
    pub const fn has_waiters(self) -> bool {
        self.0 & WAITERS != 0
    }

    /// The same word with the waiter bit set.
    #[inline]
    #[must_use]
    pub const fn with_waiters(self) -> Self {
        Self(self.0 | WAITERS)
    }

    /// The same word without the waiter bit.
    #[inline]
    #[must_use]
    pub const fn without_waiters(self) -> Self {
        Self(self.0 & !WAITERS)
    }

    /// The next grant: `identity` owns, the generation goes up by one, `W` stays.
    #[inline]
    #[must_use]
    pub const fn granted_to(self, identity: Identity) -> Self {
        let counted = self.0 & (GENERATION_MASK << GENERATION_SHIFT | WAITERS);
        // Adding at the generation's place may carry out of it: that is the wrap, which
        // the mask drops and the epoch records.
        let next = counted.wrapping_add(1 << GENERATION_SHIFT)
            & (GENERATION_MASK << GENERATION_SHIFT | WAITERS);
        Self(identity.0 | next)
    }

    /// The same generation, free, nobody waiting.
    #[inline]
    #[must_use]
    pub const fn vacated(self, vacancy: Vacancy) -> Self {
        Self(vacancy.bits() | self.0 & GENERATION_MASK << GENERATION_SHIFT)
    }

    /// The same owner at the generation that `token` has in a word.
    #[must_use]
    pub const fn at_token(self, token: u64) -> Self {
        let others = self.0 & !(GENERATION_MASK << GENERATION_SHIFT);
        Self(others | (token & GENERATION_MASK) << GENERATION_SHIFT)
    }

    /// The token of this word's generation in `epoch`.
    #[inline]
    #[must_use]
    pub const fn token_in(self, epoch: u64) -> u64 {
        epoch << EPOCH_SHIFT | self.generation() & (GENERATION_MASK >> 1)
    }

    /// The epoch that `token` belongs to.
    #[must_use]
    pub const fn epoch_of(token: u64) -> u64 {
        token >> EPOCH_SHIFT
    }

    /// The epoch of this word's generation, given the epoch word, which may lag by one.
    #[inline]
    #[must_use]
    pub const fn epoch_from(self, epoch_word: u64) -> u64 {
        if epoch_word & 1 == self.epoch_parity() {
            epoch_word
        } else {
            epoch_word.wrapping_add(1)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples() -> impl Iterator<Item = u64> {
        // A full-period generator: the same numbers each run, every bit exercised.
        let mut x = 0x9e37_79b9_7f4a_7c15_u64;
        std::iter::repeat_with(move || {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            x
        })
        .take(200_000)
    }

    #[test]
    fn every_identity_and_generation_survives_the_round_trip() {
        for x in samples() {
            let pid = 1 + (x as u32 % (PID_MASK as u32 - 1));
            let session = (x >> 22) as u32 % MAX_SESSIONS;
            let before = OwnerWord::from_bits(0).at_token(x >> 30);
            let word = before.granted_to(Identity::new(pid, session));
            assert_eq!(word.owner(), Owner::Held(Identity::new(pid, session)));
            assert_eq!(
                word.generation(),
                (before.generation() + 1) & GENERATION_MASK
            );
            let Owner::Held(holder) = word.owner() else {
                unreachable!()
            };
            assert_eq!((holder.pid(), holder.session()), (pid, session));
            for vacancy in [
                Vacancy::Died(pid),
                Vacancy::Panicked(pid),
                Vacancy::Expired(pid),
                Vacancy::Forced(pid),
            ] {
                let vacated = word.with_waiters().vacated(vacancy);
                assert_eq!(vacated.owner(), Owner::Vacant(vacancy));
                assert_eq!(vacated.generation(), word.generation());
                assert!(!vacated.has_waiters());
            }
            assert_eq!(
                word.granted_to(Identity::new(pid, session).renaming())
                    .owner(),
                Owner::Renaming(pid)
            );
        }
    }

    #[test]
    fn the_quick_vacancy_test_agrees_with_the_whole_decoding() {
        for x in samples() {
            // Random bits, and the same bits with the session forced into the reserved range.
            for bits in [
                x,
                x | (SESSION_MASK - 7) << SESSION_SHIFT,
                x & !(PID_MASK << PID_SHIFT),
            ] {
                let word = OwnerWord::from_bits(bits);
                assert_eq!(
                    word.is_vacant(),
                    matches!(word.owner(), Owner::Vacant(_)),
                    "{bits:#x}"
                );
            }
        }
        for session in 0..=SESSION_MASK {
            for pid in [0, 1, PID_MASK] {
                let word = OwnerWord::from_bits(pid << PID_SHIFT | session << SESSION_SHIFT);
                assert_eq!(word.is_vacant(), matches!(word.owner(), Owner::Vacant(_)));
            }
        }
    }

    #[test]
    fn tokens_count_on_across_the_wrap_of_the_word() {
        let me = Identity::new(7, 3);
        let last = (5 << EPOCH_SHIFT) + (1 << EPOCH_SHIFT) - 2;
        let mut word = OwnerWord::from_bits(0).at_token(last);
        let mut epoch = 5;
        for step in 0..4 {
            assert_eq!(word.token_in(word.epoch_from(epoch)), last + step);
            // A lagging epoch word is read right, too.
            assert_eq!(
                word.epoch_from(word.epoch_from(epoch) - u64::from(step == 2)),
                word.epoch_from(epoch)
            );
            epoch = word.epoch_from(epoch);
            word = word.granted_to(me);
        }
    }
}
