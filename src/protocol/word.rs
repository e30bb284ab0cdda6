//! The owner word: what its bits mean, and nothing about when they change.
//!
//! | PID | session        | reads as                                                    |
//! |-----|----------------|-------------------------------------------------------------|
//! | 0   | 0              | `Fresh`: free, not granted since it has its name            |
//! | 0   | 1              | `Released`: free, the last holder released it               |
//! | 0   | 2              | `Offered`: the same, but left to the heir for a moment      |
//! | 0   | other          | `Corrupt`: no rule produces it                              |
//! | p   | below 4088     | `Held` by that session of process p                         |
//! | p   | `KEPT`         | as `Released`, by p, who may take it again before others    |
//! | p   | `DIED`         | free; p died holding it                                     |
//! | p   | `PANICKED`     | free; p's guard was dropped by a panic                      |
//! | p   | `EXPIRED`      | free; p was evicted                                         |
//! | p   | `FORCED`       | free; an operator took it from p                            |
//! | p   | `RENAMING`     | p, who holds the naming lock, is giving the slot a new name |
//! | p   | other          | `Corrupt`                                                   |
//!
//! The generation counts grants and stays through everything else. The queue bits say what
//! those who wait rely on:
//!
//! | queue     | means                                                                  |
//! |-----------|------------------------------------------------------------------------|
//! | `Idle`    | nobody sleeps                                                          |
//! | `Asleep`  | someone may sleep: whoever frees the slot wakes one, who is the heir   |
//! | `Heir`    | others may sleep, but one is awake and stands for all: no need to wake |
//! | other     | no rule produces it; read as `Heir`, which every sleeper outlives      |

use super::sync::GENERATION_BITS;

const SESSION_BITS: u32 = 12;
const PID_BITS: u32 = 22;

const QUEUE_BITS: u32 = 2;

/// Where the generation is in a word: above the queue.
pub const GENERATION_SHIFT: u32 = QUEUE_BITS;
const SESSION_SHIFT: u32 = GENERATION_SHIFT + GENERATION_BITS;
const PID_SHIFT: u32 = SESSION_SHIFT + SESSION_BITS;

const QUEUE_MASK: u64 = (1 << QUEUE_BITS) - 1;
const GENERATION_MASK: u64 = (1 << GENERATION_BITS) - 1;
const SESSION_MASK: u64 = (1 << SESSION_BITS) - 1;
const PID_MASK: u64 = (1 << PID_BITS) - 1;

/// Bits of a token that one epoch spans: all of the in-word generation but its top bit,
/// whose value is the epoch's parity.
pub const EPOCH_SHIFT: u32 = GENERATION_BITS - 1;

/// The first session index that is not one: from here on they are codes for how a slot was
/// vacated, or that it is being renamed.
pub const MAX_SESSIONS: u32 = (1 << SESSION_BITS) - 8;

const FRESH: u64 = 0;
const RELEASED: u64 = 1;
const OFFERED: u64 = 2;
const KEPT: u64 = SESSION_MASK - 5;
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

    /// The bits in an owner word; never 0, since no process has PID 0.
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// The identity that has these [`bits`](Self::bits).
    #[inline]
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        debug_assert!(bits & ((1 << SESSION_SHIFT) - 1) == 0);
        Self(bits)
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
    /// Not granted since it has its name.
    Fresh,
    /// The last holder released it.
    Released,
    /// The last holder released it for the heir, which had waited too long. Anybody else
    /// lets the heir go first, for a moment: it is courtesy, not ownership, so an heir
    /// that does not come costs that moment and nothing more.
    Offered,
    /// The last holder, with this PID, released it while an heir waits, and may come back
    /// for it at once. Anybody else looks twice: the same kind of courtesy.
    Kept(u32),
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
        !matches!(
            self,
            Self::Fresh | Self::Released | Self::Offered | Self::Kept(_)
        )
    }

    const fn bits(self) -> u64 {
        let (pid, session) = match self {
            Self::Fresh => (0, FRESH),
            Self::Released => (0, RELEASED),
            Self::Offered => (0, OFFERED),
            Self::Kept(pid) => (pid, KEPT),
            Self::Died(pid) => (pid, DIED),
            Self::Panicked(pid) => (pid, PANICKED),
            Self::Expired(pid) => (pid, EXPIRED),
            Self::Forced(pid) => (pid, FORCED),
        };
        (pid as u64 & PID_MASK) << PID_SHIFT | session << SESSION_SHIFT
    }
}

/// What those who wait for a slot rely on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Queue {
    /// Nobody sleeps.
    Idle = 0,
    /// Someone may sleep: whoever frees the slot wakes one, who is the heir.
    Asleep = 1,
    /// Others may sleep, but one is awake and sees to it that the slot gets an owner.
    Heir = 2,
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

    /// The PID in it, whatever that means; 0 in a word that names nobody.
    #[must_use]
    pub const fn pid(self) -> u32 {
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
            (0, OFFERED) => Owner::Vacant(Vacancy::Offered),
            (0, _) => Owner::Corrupt,
            (_, RENAMING) => Owner::Renaming(pid),
            (_, KEPT) => Owner::Vacant(Vacancy::Kept(pid)),
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

    /// Whether the slot is free and has no story to tell: never granted, or released.
    #[inline]
    #[must_use]
    pub const fn is_plain(self) -> bool {
        self.0 >> SESSION_SHIFT <= RELEASED
    }

    /// Whether anybody may take the slot at once: the fast path's whole question, by two
    /// compares. Not so when it is offered to the heir, or kept for the last holder.
    #[inline]
    #[must_use]
    pub const fn is_open(self) -> bool {
        let holder = self.0 >> SESSION_SHIFT;
        self.is_plain()
            || (holder & SESSION_MASK >= DIED
                && holder >> SESSION_BITS != 0
                && holder >> SESSION_BITS <= PID_MASK)
    }

    /// Whether the last holder left the slot to itself, and is `identity`'s process.
    #[inline]
    #[must_use]
    pub const fn is_kept_by(self, identity: Identity) -> bool {
        self.0 >> SESSION_SHIFT == (identity.pid() as u64) << SESSION_BITS | KEPT
    }

    /// The generation's part in the word.
    #[inline]
    #[must_use]
    pub const fn generation(self) -> u64 {
        self.0 >> GENERATION_SHIFT & GENERATION_MASK
    }

    /// The generation of the grant before this one.
    #[must_use]
    pub const fn previous_generation(self) -> u64 {
        self.generation().wrapping_sub(1) & GENERATION_MASK
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

    /// Whether this generation is the first of its epoch.
    #[inline]
    #[must_use]
    pub const fn begins_epoch(self) -> bool {
        self.generation() & (GENERATION_MASK >> 1) == 0
    }

    /// What those who wait rely on.
    #[inline]
    #[must_use]
    pub const fn queue(self) -> Queue {
        match self.0 & QUEUE_MASK {
            0 => Queue::Idle,
            1 => Queue::Asleep,
            _ => Queue::Heir,
        }
    }

    /// The same word with other queue bits.
    #[inline]
    #[must_use]
    pub const fn queued(self, queue: Queue) -> Self {
        Self(self.0 & !QUEUE_MASK | queue as u64)
    }

    /// The same word without its queue bits: what a grant is recognised by.
    #[inline]
    #[must_use]
    pub const fn grant_only(self) -> Self {
        self.queued(Queue::Idle)
    }

    /// The next grant: `identity` owns, the generation goes up by one, the queue stays.
    #[inline]
    #[must_use]
    pub const fn granted_to(self, identity: Identity) -> Self {
        let counted = self.0 & (GENERATION_MASK << GENERATION_SHIFT | QUEUE_MASK);
        // Adding at the generation's place may carry out of it: that is the wrap, which
        // the mask drops and the epoch records.
        let next = counted.wrapping_add(1 << GENERATION_SHIFT)
            & (GENERATION_MASK << GENERATION_SHIFT | QUEUE_MASK);
        Self(identity.0 | next)
    }

    /// The same generation, free. A sleeper that is to be woken is the heir from here on.
    #[inline]
    #[must_use]
    pub const fn vacated(self, vacancy: Vacancy) -> Self {
        let queue = match self.queue() {
            Queue::Asleep => Queue::Heir,
            other => other,
        };
        let generation = self.0 & GENERATION_MASK << GENERATION_SHIFT;
        Self(vacancy.bits() | generation | queue as u64)
    }

    /// The same vacancy with nobody waiting for it: then it is open to anybody.
    #[must_use]
    pub const fn deserted(self) -> Self {
        match self.owner() {
            Owner::Vacant(Vacancy::Offered | Vacancy::Kept(_)) => {
                self.queued(Queue::Idle).vacated(Vacancy::Released)
            }
            _ => self.queued(Queue::Idle),
        }
    }

    /// What the release of the grant with `token` leaves when nobody waits.
    #[inline]
    #[must_use]
    pub const fn released_at(token: u64) -> Self {
        Self(RELEASED << SESSION_SHIFT | (token & GENERATION_MASK) << GENERATION_SHIFT)
    }

    /// What the release of the grant with `token` leaves when `identity` keeps the slot before
    /// an heir.
    #[inline]
    #[must_use]
    pub const fn kept_at(token: u64, identity: Identity) -> Self {
        let kept = Self(Vacancy::Kept(identity.pid()).bits());
        kept.queued(Queue::Heir).at_token(token)
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
    #[inline]
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

    fn is_open_in_full(word: OwnerWord) -> bool {
        match word.owner() {
            Owner::Vacant(vacancy) => !matches!(vacancy, Vacancy::Offered | Vacancy::Kept(_)),
            _ => false,
        }
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
                for (before, after) in [
                    (Queue::Idle, Queue::Idle),
                    (Queue::Asleep, Queue::Heir),
                    (Queue::Heir, Queue::Heir),
                ] {
                    let vacated = word.queued(before).vacated(vacancy);
                    assert_eq!(vacated.owner(), Owner::Vacant(vacancy));
                    assert_eq!(vacated.generation(), word.generation());
                    assert_eq!(vacated.queue(), after);
                    assert_eq!(vacated.queued(before).granted_to(holder).queue(), before);
                }
            }
            assert_eq!(
                word.granted_to(Identity::new(pid, session).renaming())
                    .owner(),
                Owner::Renaming(pid)
            );
        }
    }

    #[test]
    fn a_courtesy_is_vacant_but_not_open_until_it_is_deserted() {
        let held = OwnerWord::from_bits(0).granted_to(Identity::new(7, 3));
        for courtesy in [Vacancy::Offered, Vacancy::Kept(7)] {
            let vacated = held.queued(Queue::Heir).vacated(courtesy);
            assert_eq!(vacated.owner(), Owner::Vacant(courtesy));
            assert!(!vacated.is_open());
            assert_eq!(vacated.deserted(), held.vacated(Vacancy::Released));
        }
        let died = held.queued(Queue::Heir).vacated(Vacancy::Died(7));
        assert_eq!(died.deserted(), held.vacated(Vacancy::Died(7)));
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
                assert_eq!(word.is_open(), is_open_in_full(word), "{bits:#x}");
            }
        }
        for session in 0..=SESSION_MASK {
            for pid in [0, 1, PID_MASK] {
                let word = OwnerWord::from_bits(pid << PID_SHIFT | session << SESSION_SHIFT);
                assert_eq!(word.is_open(), is_open_in_full(word));
            }
        }
    }

    #[test]
    fn a_released_word_is_known_by_the_token_of_its_grant() {
        let me = Identity::new(7, 3);
        for x in samples() {
            let (epoch, word) = (x >> EPOCH_SHIFT, OwnerWord::from_bits(0).at_token(x));
            let granted = word.granted_to(me);
            let token = granted.token_in(granted.epoch_from(epoch));
            assert_eq!(
                OwnerWord::released_at(token),
                granted.vacated(Vacancy::Released)
            );
            assert_eq!(Identity::from_bits(me.bits()), me);
        }
    }

    #[test]
    fn tokens_count_on_across_the_wrap_of_the_word() {
        let me = Identity::new(7, 3);
        for first_epoch in [4, 5] {
            let last = (first_epoch << EPOCH_SHIFT) + (1 << EPOCH_SHIFT) - 2;
            let mut word = OwnerWord::from_bits(0).at_token(last);
            let mut epoch = first_epoch;
            for step in 0..4 {
                assert_eq!(word.token_in(word.epoch_from(epoch)), last + step);
                // A lagging epoch word is read right, too.
                assert_eq!(
                    word.epoch_from(word.epoch_from(epoch) - u64::from(step == 2)),
                    word.epoch_from(epoch)
                );
                assert_eq!(word.begins_epoch(), step == 2);
                epoch = word.epoch_from(epoch);
                word = word.granted_to(me);
            }
        }
    }
}
