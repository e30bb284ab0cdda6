//! One lock: its shared words, and each transition of its owner word as one CAS with an
//! outcome that the caller must deal with.
//!
//! Every change of a shared word here is a read-modify-write: an exact compare-and-swap
//! where the old value matters, a counter where it does not. The one exception is the
//! grant's time stamp, which is for showing.

use core::mem::offset_of;

use super::ordering::Site;
use super::sync::{AtomicU32, AtomicU64, Ordering, ord};
use super::word::{Identity, Owner, OwnerWord, Queue, Vacancy};

/// The shared words of one lock, on one cache line.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct Slot {
    /// Who owns the lock; see `word.rs`.
    pub(super) owner: AtomicU64,
    /// The generation's high part; lags the owner word by at most one.
    pub(super) epoch: AtomicU64,
    /// Counts the slot's names: odd while one is being written.
    pub(super) renames: AtomicU64,
    /// When the current grant was made, in coarse milliseconds; for showing.
    pub(super) since_ms: AtomicU64,
    /// What waiters sleep on: counted up at each wake.
    wake: AtomicU32,
    /// Room for what comes later (permits), zero until then.
    reserved: [AtomicU32; 7],
}

/// A grant as its holder remembers it: enough to recognise it for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    word: OwnerWord,
    epoch: u64,
    from: OwnerWord,
}

impl Grant {
    /// A grant from what the accessors of another gave.
    #[must_use]
    pub const fn from_parts(word: OwnerWord, epoch: u64, from: OwnerWord) -> Self {
        Self { word, epoch, from }
    }

    /// The epoch of the grant's generation.
    #[inline]
    #[must_use]
    pub const fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The fencing token.
    #[inline]
    #[must_use]
    pub const fn token(&self) -> u64 {
        self.word.token_in(self.epoch)
    }

    /// The word that this grant replaced: it says how the predecessor went.
    #[must_use]
    pub const fn from(&self) -> OwnerWord {
        self.from
    }

    /// The predecessor's token: one less, except that a name's first grant has none.
    #[must_use]
    pub const fn predecessor_token(&self) -> u64 {
        self.token().wrapping_sub(1)
    }

    /// The word that the holder owns the slot by, with the queue bits that it was taken with.
    #[must_use]
    pub const fn word(&self) -> OwnerWord {
        self.word
    }
}

/// How the owner of a slot supposes that it left it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// Released, and nobody waits.
    Quiet,
    /// Kept before an heir, in its own process's turn.
    Kept,
}

/// What became of an attempt to take a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Taken {
    /// It is ours.
    Granted(Grant),
    /// The word was not the one that was judged; nothing happened.
    Changed,
    /// It was ours and was revoked before the token was known; it never counted.
    Revoked,
}

/// What became of an attempt to give a slot back, or to take it away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Vacated {
    /// The slot is free.
    Done {
        /// Whether one that sleeps is to be woken.
        wake: bool,
    },
    /// The grant was no longer current: nothing was changed, and nobody is to be woken.
    Lost,
}

/// A slot as it was at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotView {
    /// The owner word.
    pub word: OwnerWord,
    /// The token of its generation.
    pub token: u64,
    /// When the current grant was made, in coarse milliseconds; for showing.
    pub since_ms: u64,
}

impl SlotView {
    /// The token of an earlier word of the same slot, no further back than the in-word
    /// generation can count.
    #[must_use]
    pub const fn token_of(&self, earlier: OwnerWord) -> u64 {
        self.token
            .saturating_sub(self.word.generations_since(earlier))
    }
}

impl Slot {
    /// Where the fields are, for the file's layout signature.
    pub const LAYOUT: u64 = super::layout_of(&[
        offset_of!(Self, owner),
        offset_of!(Self, epoch),
        offset_of!(Self, renames),
        offset_of!(Self, since_ms),
        offset_of!(Self, wake),
        offset_of!(Self, reserved),
    ]);

    /// A slot as a zeroed file has it: fresh, generation 0.
    #[must_use]
    pub fn new() -> Self {
        Self {
            owner: AtomicU64::new(0),
            epoch: AtomicU64::new(0),
            renames: AtomicU64::new(0),
            since_ms: AtomicU64::new(0),
            wake: AtomicU32::new(0),
            reserved: std::array::from_fn(|_| AtomicU32::new(0)),
        }
    }

    /// As after the release of the grant with `token`.
    #[cfg(test)]
    pub(crate) fn leave_released(&self, token: u64) {
        let word = OwnerWord::released_at(token);
        self.owner.store(word.bits(), Ordering::Relaxed);
        self.epoch
            .store(OwnerWord::epoch_of(token), Ordering::Relaxed);
    }

    /// Reads the owner word.
    #[inline]
    #[must_use]
    pub fn owner(&self) -> OwnerWord {
        OwnerWord::from_bits(self.owner.load(ord(Site::Owner)))
    }

    /// Reads word and epoch as of one moment, or says `None` when they kept changing.
    #[must_use]
    pub fn view(&self) -> Option<SlotView> {
        (0..64).find_map(|_| self.view_once())
    }

    /// Reads word and epoch once; `None` when the word changed meanwhile.
    #[must_use]
    pub fn view_once(&self) -> Option<SlotView> {
        let word = self.owner();
        let epoch = self.epoch.load(ord(Site::Epoch));
        let since_ms = self.since_ms.load(Ordering::Relaxed);
        // The epoch was read between two readings of one word, so it is that word's.
        (self.owner().grant_only() == word.grant_only()).then(|| SlotView {
            word,
            token: word.token_in(word.epoch_from(epoch)),
            since_ms,
        })
    }

    /// The count of the slot's names; odd while one is being written.
    #[inline]
    #[must_use]
    pub fn renames(&self) -> u64 {
        self.renames.load(ord(Site::RenameRead))
    }

    /// The word that waiters sleep on.
    #[inline]
    #[must_use]
    pub fn wake_word(&self) -> &AtomicU32 {
        &self.wake
    }

    /// Stamps the current grant. Relaxed and plain: it is for showing, and a stamp by a
    /// holder that was revoked just now misdates a grant and does no other harm.
    #[inline]
    pub fn stamp(&self, since_ms: u64) {
        self.since_ms.store(since_ms, Ordering::Relaxed);
    }

    /// `seen,g -> (me,g+1)`: a grant of a vacant slot, or of one whose holder was judged
    /// gone. The queue stays, unless the caller knows better (`may_leave_sleepers`): then
    /// it is `Asleep`, whoever was the heir.
    ///
    /// The CAS is from the very word that was judged. Its epoch is read on both sides: the
    /// reading before makes the epoch word catch up with `seen`, so that it never lags by
    /// two; the reading after gives the token. When both read the same `h`, then `h` was
    /// the epoch word at the CAS: the grant is of epoch `h`, and no wrap of the in-word
    /// generation can pass for it.
    #[inline(always)]
    pub fn take(&self, seen: OwnerWord, me: Identity, may_leave_sleepers: bool) -> Taken {
        let before = self.epoch.load(ord(Site::Epoch));
        let granted = seen.granted_to(me);
        let mine = if may_leave_sleepers {
            granted.queued(Queue::Asleep)
        } else {
            granted
        };
        // Within one epoch both words have its parity: one look at that is enough.
        if mine.begins_epoch() || (before ^ mine.epoch_parity()) & 1 != 0 {
            return self.take_across(seen, mine, before);
        }
        self.take_within(seen, mine, before)
    }

    /// `Released,g,Idle -> (me,g+1)`, or `Kept,g,Heir -> (me,g+1)`: the grant after that of
    /// `token`, by whoever had that one and supposes that the slot is as its release `left` it.
    /// Neither word is read before the CAS, which decides whether that is so.
    ///
    /// `token` must be of a grant of this slot. Under `Released` and `Kept` the epoch word never
    /// lags, and the CAS acquires what the releaser saw ([`Site::Grant`] with [`Site::Vacate`]).
    /// So one reading after the CAS suffices: if it still says `token`'s epoch (or the next,
    /// where this grant crosses), it said so all along.
    #[inline(always)]
    pub fn take_after(&self, token: u64, left: Left, me: Identity) -> Taken {
        let seen = match left {
            Left::Quiet => OwnerWord::released_at(token),
            Left::Kept => OwnerWord::kept_at(token, me),
        };
        let epoch = OwnerWord::epoch_of(token.wrapping_add(1));
        self.take_within(seen, seen.granted_to(me), epoch)
    }

    /// The CAS of a grant that is of `epoch`, if the epoch word says so after it.
    #[inline(always)]
    fn take_within(&self, seen: OwnerWord, mine: OwnerWord, epoch: u64) -> Taken {
        // A failed CAS teaches nothing that the caller will not read again: Relaxed.
        if self
            .owner
            .compare_exchange(
                seen.bits(),
                mine.bits(),
                ord(Site::Grant),
                Ordering::Relaxed,
            )
            .is_err()
        {
            return Taken::Changed;
        }
        let word = mine;
        let settled = if self.epoch.load(ord(Site::Epoch)) == epoch {
            Some(epoch)
        } else {
            self.settle(word)
        };
        match settled {
            Some(epoch) => Taken::Granted(Grant {
                word,
                epoch,
                from: seen,
            }),
            None => Taken::Revoked,
        }
    }

    /// A grant whose epoch is not the one that the epoch word said before: the grant crosses
    /// into the next, or the epoch word lags.
    #[cold]
    #[inline(never)]
    fn take_across(&self, seen: OwnerWord, mine: OwnerWord, before: u64) -> Taken {
        match self.catch_up(seen, before) {
            Some(epoch) => self.take_within(seen, mine, mine.epoch_from(epoch)),
            None => Taken::Changed,
        }
    }

    /// Moves the epoch word, read as `before`, up to `seen`'s epoch if it lags, and returns that
    /// epoch; `None` when the owner word is no longer `seen`.
    #[cold]
    #[inline(never)]
    fn catch_up(&self, seen: OwnerWord, before: u64) -> Option<u64> {
        if before & 1 == seen.epoch_parity() {
            return Some(before);
        }
        let lagging = before;
        // `lagging` was read between two readings of `seen`. An epoch word ahead of `seen`
        // would have shown a newer owner word here (Epoch pairs with EpochHelp), so it is
        // behind, and helping cannot overshoot.
        if self.owner().grant_only() != seen.grant_only() {
            return None;
        }
        let epoch = lagging.wrapping_add(1);
        match self
            .epoch
            .compare_exchange(lagging, epoch, ord(Site::EpochHelp), ord(Site::Epoch))
        {
            Ok(_) => Some(epoch),
            // Another helped; any further and the word has changed as well.
            Err(now) => (now == epoch).then_some(epoch),
        }
    }

    /// After a grant that crossed into a new epoch, met a moving epoch word, or was guessed
    /// from a word that had come round: finds the epoch of `mine`, and helps it forward before
    /// the token is given out. `None` when the grant has been revoked.
    #[cold]
    #[inline(never)]
    fn settle(&self, mine: OwnerWord) -> Option<u64> {
        loop {
            let epoch_word = self.epoch.load(ord(Site::Epoch));
            // Still the owner after that reading: it was the epoch word under this grant.
            if self.owner().grant_only() != mine.grant_only() {
                return None;
            }
            let epoch = mine.epoch_from(epoch_word);
            // Bounded: a failure means that another helped, and nobody can move the epoch
            // past a grant that stands.
            if epoch == epoch_word
                || self
                    .epoch
                    .compare_exchange(epoch_word, epoch, ord(Site::EpochHelp), Ordering::Relaxed)
                    .is_ok()
            {
                return Some(epoch);
            }
        }
    }

    /// `h,g,* -> h,g,queue`: tells the holder `seen` what to do at its release, or takes
    /// such a word back. False when the word has changed.
    ///
    /// Relaxed: it hands nothing over, and [`Site::Wake`] keeps the reading of the wake
    /// word before it.
    #[must_use]
    pub fn queue_up(&self, seen: OwnerWord, queue: Queue) -> bool {
        self.exchange_relaxed(seen, seen.queued(queue))
    }

    /// `vacant,g,* -> vacant,g,Idle`: nobody came when a sleeper was called. False when the
    /// word has changed.
    ///
    /// Relaxed, and a read-modify-write: the release before it stays readable through it.
    #[must_use]
    pub fn desert(&self, seen: OwnerWord) -> bool {
        self.exchange_relaxed(seen, seen.deserted())
    }

    fn exchange_relaxed(&self, from: OwnerWord, to: OwnerWord) -> bool {
        self.owner
            .compare_exchange(from.bits(), to.bits(), Ordering::Relaxed, Ordering::Relaxed)
            .is_ok()
    }

    /// `(me,g,q) -> vacancy,g,q`: the holder's own release when nobody is to be woken, and that
    /// was so at the grant. False when it is not so, or no longer: then nothing was changed.
    ///
    /// Without any reading of the owner word, which the last CAS has just written: the grant
    /// knows it.
    #[inline(always)]
    #[must_use]
    pub fn release_quietly(&self, grant: &Grant, vacancy: Vacancy) -> bool {
        grant.word.queue() != Queue::Asleep
            && self.epoch.load(Ordering::Relaxed) == grant.epoch
            && self.vacate(grant.word, vacancy) != Vacated::Lost
    }

    /// `(me,g) -> vacancy,g`: the holder's own release.
    ///
    /// The epoch is compared first, then the CAS compares the rest: together all 64 bits
    /// of the token. The first CAS guesses that the queue is what it was at the grant, which
    /// saves reading a word that the last CAS has just written.
    #[inline(always)]
    pub fn release(&self, grant: &Grant, vacancy: Vacancy) -> Vacated {
        if self.epoch.load(Ordering::Relaxed) != grant.epoch {
            return Vacated::Lost;
        }
        match self.vacate(grant.word, vacancy) {
            Vacated::Lost => self.release_changed(grant.word, grant.epoch, vacancy),
            done => done,
        }
    }

    /// The release when the queue has changed, or when the grant has been revoked. By value: the
    /// grant of a release that guessed right stays in registers.
    #[cold]
    #[inline(never)]
    fn release_changed(&self, word: OwnerWord, epoch: u64, vacancy: Vacancy) -> Vacated {
        let grant = Grant::from_parts(word, epoch, word);
        self.release_before_others(&grant, |_| vacancy)
    }

    /// `(me,g,q) -> courtesy(q),g,q`: the release where others may wait. `courtesy` says whose
    /// turn it is next, by the queue that the release finds: one that holds for long finds it
    /// changed since the grant, again and again. So this one reads the word, and guesses nothing.
    pub fn release_before_others(
        &self,
        grant: &Grant,
        mut courtesy: impl FnMut(Queue) -> Vacancy,
    ) -> Vacated {
        loop {
            let seen = self.owner();
            if !self.is_of(seen, grant) {
                return Vacated::Lost;
            }
            // At most two failures: under a grant that stands only the queue changes, and
            // only onwards: Idle, Heir, Asleep.
            if let done @ Vacated::Done { .. } = self.vacate(seen, courtesy(seen.queue())) {
                return done;
            }
        }
    }

    /// `seen,g -> vacancy,g`: the one CAS that vacates, from the exact word that was judged or
    /// that the grant knows. Every release ends in it, the sweep of a dead session, and the
    /// operator's force-release.
    #[inline(always)]
    pub fn vacate(&self, seen: OwnerWord, vacancy: Vacancy) -> Vacated {
        let vacated = seen.vacated(vacancy);
        match self.owner.compare_exchange(
            seen.bits(),
            vacated.bits(),
            ord(Site::Vacate),
            Ordering::Relaxed,
        ) {
            Ok(_) => Vacated::Done {
                wake: matches!(seen.queue(), Queue::Asleep),
            },
            Err(_) => Vacated::Lost,
        }
    }

    /// `abandoned,g -> Released,g`: an operator has seen what was left behind, and it is news
    /// no more. Whoever left it may have died before it moved the epoch word on, which here
    /// comes first: [`Slot::take_after`] counts on it.
    pub fn acknowledge(&self, seen: OwnerWord) -> Vacated {
        match self.catch_up(seen, self.epoch.load(ord(Site::Epoch))) {
            Some(_) => self.vacate(seen, Vacancy::Released),
            None => Vacated::Lost,
        }
    }

    /// Gives back a grant with the predecessor's news as it was: `(me,g) -> its news,g`. A
    /// courtesy to an heir is no news, nor is damage. `takeover` says how the predecessor went if
    /// the grant took over from it.
    pub fn undo(&self, grant: Grant, takeover: fn(u32) -> Vacancy) -> Vacated {
        let vacancy = match grant.from.owner() {
            Owner::Vacant(Vacancy::Offered | Vacancy::Kept(_)) => Vacancy::Released,
            Owner::Vacant(vacancy) => vacancy,
            Owner::Held(gone) => takeover(gone.pid()),
            Owner::Renaming(_) | Owner::Corrupt => Vacancy::Released,
        };
        self.release(&grant, vacancy)
    }

    /// Whether the grant still stands.
    #[inline]
    #[must_use]
    pub fn is_current(&self, grant: &Grant) -> bool {
        self.is_of(self.owner(), grant)
    }

    /// Whether the word that was just read is this grant's. The epoch comes second: where the
    /// generation has come round, it has moved on before.
    #[inline]
    fn is_of(&self, seen: OwnerWord, grant: &Grant) -> bool {
        seen.grant_only() == grant.word.grant_only()
            && self.epoch.load(Ordering::Relaxed) == grant.epoch
    }

    /// Counts the wake word up after a vacating CAS that is to wake one; the futex wake is
    /// the caller's.
    pub fn bump_wake(&self) {
        self.wake.fetch_add(1, ord(Site::WakeBump));
    }

    /// Reads the wake word, before announcing.
    #[must_use]
    pub fn wake_count(&self) -> u32 {
        self.wake.load(ord(Site::Wake))
    }
}

impl Default for Slot {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(slot: &Slot, me: Identity) -> Grant {
        match slot.take(slot.owner(), me, false) {
            Taken::Granted(grant) => grant,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_guess_is_granted_from_the_word_that_the_release_left_and_from_no_other() {
        let (slot, me) = (Slot::new(), Identity::new(1, 0));
        let first = take(&slot, me);
        let take_after = |token| slot.take_after(token, Left::Quiet, me);
        assert_eq!(take_after(first.token()), Taken::Changed, "held");
        let _ = slot.release(&first, Vacancy::Released);
        assert_eq!(take_after(first.token() + 1), Taken::Changed);
        let Taken::Granted(second) = take_after(first.token()) else {
            panic!("the word is as it was left");
        };
        assert_eq!(second.token(), first.token() + 1);
        assert_eq!(second.from().owner(), Owner::Vacant(Vacancy::Released));
        let _ = slot.release(&second, Vacancy::Panicked(1));
        let news = "the next owner is to be told of the panic";
        assert_eq!(take_after(second.token()), Taken::Changed, "{news}");
        let third = take(&slot, me);
        assert!(slot.queue_up(third.word(), Queue::Asleep));
        let _ = slot.release(&third, Vacancy::Released);
        assert_eq!(take_after(third.token()), Taken::Changed, "waited for");
    }

    #[test]
    fn who_holds_before_sleepers_does_not_release_quietly() {
        let (slot, me) = (Slot::new(), Identity::new(1, 0));
        for queue in [Queue::Idle, Queue::Heir, Queue::Asleep] {
            let before = slot.owner();
            assert!(queue == Queue::Idle || slot.queue_up(before, queue));
            let grant = take(&slot, me);
            let held = slot.owner();
            let is_released = slot.release_quietly(&grant, Vacancy::Released);
            assert_eq!(is_released, queue != Queue::Asleep);
            assert_eq!(slot.owner() == held, queue == Queue::Asleep);
        }
    }

    #[test]
    fn a_release_looks_again_when_the_queue_has_changed_and_leaves_what_it_was_to_leave() {
        let (slot, me) = (Slot::new(), Identity::new(1, 0));
        let grant = take(&slot, me);
        assert!(slot.queue_up(grant.word(), Queue::Asleep));
        let left = slot.release(&grant, Vacancy::Panicked(1));
        assert_eq!(left, Vacated::Done { wake: true });
        assert_eq!(slot.owner().owner(), Owner::Vacant(Vacancy::Panicked(1)));

        let grant = take(&slot, me);
        let mut seen = Vec::new();
        let left = slot.release_before_others(&grant, |queue| {
            seen.push(queue);
            // Somebody queues up between the look and the CAS.
            if queue == Queue::Heir {
                assert!(slot.queue_up(slot.owner(), Queue::Asleep));
            }
            Vacancy::Offered
        });
        assert_eq!(left, Vacated::Done { wake: true });
        assert_eq!(seen, [Queue::Heir, Queue::Asleep]);
    }

    #[test]
    fn a_word_of_the_same_generation_of_another_epoch_is_another_grants() {
        let (slot, me) = (Slot::new(), Identity::new(1, 0));
        let grant = take(&slot, me);
        let old = Grant::from_parts(grant.word(), grant.epoch() + 1, grant.from());
        assert!(!slot.is_current(&old));
        let left = slot.release_before_others(&old, |_| unreachable!("it is not asked"));
        assert_eq!(left, Vacated::Lost);
        assert!(slot.is_current(&grant));
    }

    #[test]
    fn a_guess_that_a_slot_was_kept_is_granted_to_the_process_that_kept_it_and_leaves_the_heir() {
        let (slot, me, other) = (Slot::new(), Identity::new(1, 0), Identity::new(2, 0));
        let first = take(&slot, me);
        let kept = |token, who| slot.take_after(token, Left::Kept, who);
        assert!(slot.queue_up(first.word(), Queue::Heir));
        let _ = slot.release_before_others(&first, |_| Vacancy::Kept(1));
        assert_eq!(kept(first.token(), other), Taken::Changed, "not its own");
        assert_eq!(kept(first.token() + 1, me), Taken::Changed);
        let left = slot.take_after(first.token(), Left::Quiet, me);
        assert_eq!(left, Taken::Changed);
        let Taken::Granted(second) = kept(first.token(), me) else {
            panic!("the word is as it was left");
        };
        assert_eq!(second.token(), first.token() + 1);
        assert_eq!(slot.owner().queue(), Queue::Heir);
        let _ = slot.release_before_others(&second, |_| Vacancy::Offered);
        assert_eq!(kept(second.token(), me), Taken::Changed, "the heir's");
    }

    #[test]
    fn tokens_go_up_by_one_across_an_epoch() {
        across_an_epoch(|slot, _, me| slot.take(slot.owner(), me, false));
    }

    #[test]
    fn guessed_tokens_go_up_by_one_across_an_epoch() {
        across_an_epoch(|slot, last, me| slot.take_after(last, Left::Quiet, me));
    }

    /// Which a namer can leave that dies while it raises a slot's tokens to the last of an epoch.
    #[test]
    fn a_grant_that_crosses_makes_up_for_an_epoch_word_that_lags_already() {
        // The next epoch is even, and in the word then the first of all; or it is odd.
        for lagging in [0, 1] {
            let (slot, me) = (Slot::new(), Identity::new(1, 0));
            let last = ((lagging + 2) << super::super::word::EPOCH_SHIFT) - 1;
            slot.leave_released(last);
            slot.epoch.store(lagging, Ordering::Relaxed);
            assert_eq!(slot.view().unwrap().token, last);
            assert_eq!(take(&slot, me).token(), last + 1);
            assert_eq!(slot.epoch.load(Ordering::Relaxed), lagging + 2);
        }
    }

    fn across_an_epoch(take: impl Fn(&Slot, u64, Identity) -> Taken) {
        let (slot, me) = (Slot::new(), Identity::new(1, 0));
        let last = (1 << super::super::word::EPOCH_SHIFT) - 2;
        slot.owner
            .store(OwnerWord::released_at(last).bits(), Ordering::Relaxed);
        for token in last + 1..last + 5 {
            let Taken::Granted(grant) = take(&slot, token - 1, me) else {
                panic!("nobody else is about");
            };
            assert_eq!(grant.token(), token);
            assert_eq!(slot.view().unwrap().token, token);
            assert_eq!(
                slot.release(&grant, Vacancy::Released),
                Vacated::Done { wake: false }
            );
            assert_eq!(slot.release(&grant, Vacancy::Released), Vacated::Lost);
        }
        assert_eq!(slot.epoch.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_grant_from_a_judged_word_fails_once_that_word_has_gone() {
        let slot = Slot::new();
        let (dead, a, b) = (
            Identity::new(1, 0),
            Identity::new(2, 1),
            Identity::new(3, 2),
        );
        let _ = take(&slot, dead);
        let judged = slot.owner();
        assert!(matches!(slot.take(judged, a, false), Taken::Granted(_)));
        assert_eq!(slot.take(judged, b, false), Taken::Changed);
    }

    #[test]
    fn who_waits_stays_known_through_a_takeover_and_the_release_calls_one() {
        let slot = Slot::new();
        let _dead = take(&slot, Identity::new(1, 0));
        assert!(slot.queue_up(slot.owner(), Queue::Asleep));
        let heir = take(&slot, Identity::new(2, 1));
        assert_eq!(slot.owner().queue(), Queue::Asleep);
        assert_eq!(
            slot.release(&heir, Vacancy::Released),
            Vacated::Done { wake: true }
        );
        assert_eq!(slot.owner().queue(), Queue::Heir);
    }

    #[test]
    fn a_barging_holder_wakes_nobody_and_may_offer_the_slot_to_the_heir() {
        let slot = Slot::new();
        slot.owner.store(
            OwnerWord::from_bits(0).queued(Queue::Heir).bits(),
            Ordering::Relaxed,
        );
        let barger = take(&slot, Identity::new(1, 0));
        assert_eq!(
            slot.release(&barger, Vacancy::Released),
            Vacated::Done { wake: false }
        );
        assert!(slot.owner().is_open());
        let barger = take(&slot, Identity::new(1, 0));
        assert_eq!(
            slot.release_before_others(&barger, |_| Vacancy::Offered),
            Vacated::Done { wake: false }
        );
        assert_eq!(slot.owner().owner(), Owner::Vacant(Vacancy::Offered));
        let Taken::Granted(heir) = slot.take(slot.owner(), Identity::new(2, 1), true) else {
            panic!("nobody else is about");
        };
        assert_eq!(slot.owner().queue(), Queue::Asleep);
        let kept = Vacancy::Kept(2);
        assert_eq!(
            slot.release_before_others(&heir, |_| kept),
            Vacated::Done { wake: true }
        );
        assert!(!slot.owner().is_open());
        assert!(slot.owner().is_kept_by(Identity::new(2, 1)));
        assert_eq!(slot.release_before_others(&heir, |_| kept), Vacated::Lost);
    }

    /// Who held for so long that the heir went back to sleep offered the slot to nobody.
    #[test]
    fn an_heir_that_sleeps_again_is_called_to_an_offer() {
        let slot = Slot::new();
        slot.owner.store(
            OwnerWord::from_bits(0).queued(Queue::Heir).bits(),
            Ordering::Relaxed,
        );
        let barger = take(&slot, Identity::new(1, 0));
        assert!(slot.queue_up(slot.owner(), Queue::Asleep));
        let courtesy = |queue| match queue {
            Queue::Asleep => Vacancy::Offered,
            Queue::Idle | Queue::Heir => Vacancy::Kept(1),
        };
        assert_eq!(
            slot.release_before_others(&barger, courtesy),
            Vacated::Done { wake: true }
        );
        assert_eq!(slot.owner().owner(), Owner::Vacant(Vacancy::Offered));
        assert_eq!(slot.owner().queue(), Queue::Heir);
    }

    #[test]
    fn undoing_a_grant_keeps_the_news_of_who_left_before() {
        let slot = Slot::new();
        let gone = take(&slot, Identity::new(5, 0));
        assert_eq!(
            slot.release(&gone, Vacancy::Panicked(5)),
            Vacated::Done { wake: false }
        );
        let grant = take(&slot, Identity::new(6, 1));
        assert_eq!(
            slot.undo(grant, Vacancy::Died),
            Vacated::Done { wake: false }
        );
        assert_eq!(slot.owner().owner(), Owner::Vacant(Vacancy::Panicked(5)));
    }
}
