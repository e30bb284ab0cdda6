//! Names: resolved without a lock, created and recycled under slot 0.
//!
//! The index is an open-addressed table of one-word entries. A reader probes it, compares
//! the name's bytes between two readings of the slot's rename count, and is never sent
//! to a wrong slot; it may miss a name that is just being moved, and then asks again
//! under the naming lock, where the answer is exact.
//!
//! The naming lock is slot 0. It is reclaimed on proof of death only, whatever the
//! table's policy: a holder that was merely paused would come back and write into
//! somebody else's name. What it does takes well under a microsecond a step (and first, where
//! no slot is idle, two looks at all of them):
//!
//! | step                                         | a crash after it leaves                  |
//! |----------------------------------------------|------------------------------------------|
//! | `intent` = the slot                          | nothing else to see                      |
//! | owner: `vacant,g -> RENAMING,g+1`            | the slot unusable until repaired         |
//! | renames: odd                                 | handles to the old name see it and ask   |
//! | floor >= the old name's token, entry removed | the old name gone, its tokens remembered |
//! | bytes, generation >= floor                   | no entry points here                     |
//! | entry published, renames: even               | as before: the repair withdraws it       |
//! | owner: `RENAMING -> Fresh`                   | the new name                             |
//! | `intent` = 0                                 |                                          |
//!
//! Whoever takes the naming lock next and finds an intent repairs its slot: if it is
//! still `RENAMING`, any entry is removed and the slot left nameless.

use core::mem::offset_of;

use super::ordering::Site;
use super::slot::{Slot, Taken};
use super::sync::{AtomicU64, NAME_WORDS, NOTE_WORDS, Ordering, fence, ord};
use super::wait::Wake;
use super::word::{Identity, Owner, OwnerWord, Queue, Vacancy};

/// The table-wide words of naming.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct NamingWords {
    /// Every token of a name that was given up is at most this; new names start above.
    floor: AtomicU64,
    /// The slot being renamed, 0 if none.
    intent: AtomicU64,
    /// The next to be used of the slots in their order of use ([`slot_in_order`]); it and the
    /// rest are untouched.
    fresh: AtomicU64,
    /// Where the search for an idle name goes on.
    hand: AtomicU64,
    reserved: [AtomicU64; 4],
}

impl NamingWords {
    /// Where the fields are, for the file's layout signature.
    pub const LAYOUT: u64 = super::layout_of(&[
        offset_of!(Self, floor),
        offset_of!(Self, intent),
        offset_of!(Self, fresh),
        offset_of!(Self, hand),
    ]);

    /// The slot that serialises naming; it has no name itself.
    pub const SLOT: u32 = 0;

    /// The words as a zeroed file has them.
    #[must_use]
    pub fn new() -> Self {
        Self {
            floor: AtomicU64::new(0),
            intent: AtomicU64::new(0),
            fresh: AtomicU64::new(0),
            hand: AtomicU64::new(0),
            reserved: std::array::from_fn(|_| AtomicU64::new(0)),
        }
    }

    /// The token that every new name starts above.
    #[must_use]
    pub fn floor(&self) -> u64 {
        self.floor.load(Ordering::Relaxed)
    }

    pub(super) fn raise_floor(&self, token: u64) {
        self.floor.fetch_max(token, Ordering::Relaxed);
    }

    /// After a reset: nothing intended; which slots are nameless is seen by looking.
    pub(super) fn finish_reset(&self, slots: u64) {
        self.intent.swap(0, Ordering::Relaxed);
        self.fresh.swap(slots, Ordering::Relaxed);
        self.hand.swap(0, Ordering::Relaxed);
    }
}

impl Default for NamingWords {
    fn default() -> Self {
        Self::new()
    }
}

/// A slot's name and its holder's note.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct NameRecord {
    hash: AtomicU64,
    /// In bytes; 0: the slot has no name.
    len: AtomicU64,
    bytes: [AtomicU64; NAME_WORDS],
    /// The grant that wrote the note; 0: none.
    note_token: AtomicU64,
    note_len: AtomicU64,
    note: [AtomicU64; NOTE_WORDS],
}

impl NameRecord {
    /// Where the fields are, for the file's layout signature.
    pub const LAYOUT: u64 = super::layout_of(&[
        offset_of!(Self, hash),
        offset_of!(Self, len),
        offset_of!(Self, bytes),
        offset_of!(Self, note_token),
        offset_of!(Self, note_len),
        offset_of!(Self, note),
    ]);

    /// A record as a zeroed file has it.
    #[must_use]
    pub fn new() -> Self {
        Self {
            hash: AtomicU64::new(0),
            len: AtomicU64::new(0),
            bytes: std::array::from_fn(|_| AtomicU64::new(0)),
            note_token: AtomicU64::new(0),
            note_len: AtomicU64::new(0),
            note: std::array::from_fn(|_| AtomicU64::new(0)),
        }
    }

    /// The stored hash and name, as they stand: for showing, and for the check after a
    /// reboot. `None` for a slot without a name.
    #[must_use]
    pub fn read(&self) -> Option<Key> {
        let len = usize::try_from(self.len.load(Ordering::Relaxed)).ok()?;
        if len == 0 || len > Key::MAX_LEN {
            return None;
        }
        let mut words = [0; NAME_WORDS];
        for (to, from) in words.iter_mut().zip(&self.bytes).take(len.div_ceil(8)) {
            *to = from.load(Ordering::Relaxed);
        }
        Some(Key {
            hash: self.hash.load(Ordering::Relaxed),
            len,
            words,
        })
    }

    fn is(&self, key: &Key) -> bool {
        self.len.load(Ordering::Relaxed) == key.len as u64
            && self
                .bytes
                .iter()
                .zip(&key.words)
                .take(key.len.div_ceil(8))
                .all(|(here, there)| here.load(Ordering::Relaxed) == *there)
    }

    fn write(&self, key: &Key) {
        self.hash.swap(key.hash, Ordering::Relaxed);
        for (to, from) in self.bytes.iter().zip(&key.words).take(key.len.div_ceil(8)) {
            to.swap(*from, Ordering::Relaxed);
        }
        self.len.swap(key.len as u64, Ordering::Relaxed);
        self.note_token.swap(0, Ordering::Relaxed);
    }

    /// Writes the note of the grant `token`. A writer that was revoked meanwhile may hide or
    /// garble a successor's note, which then shows as none or as garbage; a note never
    /// decides anything.
    pub fn write_note(&self, token: u64, text: &Note) {
        self.note_token.swap(0, ord(Site::Note));
        fence(ord(Site::RenameFence));
        for (to, from) in self.note.iter().zip(text.words) {
            to.swap(from, Ordering::Relaxed);
        }
        self.note_len.swap(text.len as u64, Ordering::Relaxed);
        self.note_token.swap(token, ord(Site::Note));
    }

    /// The note of the grant `token`, if it wrote one.
    #[must_use]
    pub fn read_note(&self, token: u64) -> Option<Note> {
        if token == 0 || self.note_token.load(ord(Site::NoteRead)) != token {
            return None;
        }
        let mut words = [0; NOTE_WORDS];
        for (to, from) in words.iter_mut().zip(&self.note) {
            *to = from.load(Ordering::Relaxed);
        }
        let len = usize::try_from(self.note_len.load(Ordering::Relaxed)).ok()?;
        fence(ord(Site::NameFence));
        (len <= NOTE_WORDS * 8 && self.note_token.load(Ordering::Relaxed) == token)
            .then_some(Note { len, words })
    }
}

impl Default for NameRecord {
    fn default() -> Self {
        Self::new()
    }
}

/// A name with its hash, packed for comparing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    hash: u64,
    len: usize,
    words: [u64; NAME_WORDS],
}

impl Key {
    /// The longest name, in bytes.
    pub const MAX_LEN: usize = NAME_WORDS * 8 - 1;

    /// Packs `name`; `None` if it is empty or too long.
    #[must_use]
    pub fn new(name: &[u8], hash: u64) -> Option<Self> {
        if name.is_empty() || name.len() > Self::MAX_LEN {
            return None;
        }
        Some(Self {
            hash,
            len: name.len(),
            words: pack(name),
        })
    }

    /// The hash it was made with, or that the file has.
    #[must_use]
    pub const fn hash(&self) -> u64 {
        self.hash
    }

    /// The name's bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        unpack(&self.words, self.len)
    }
}

/// A note, packed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    len: usize,
    words: [u64; NOTE_WORDS],
}

impl Note {
    /// The longest note, in bytes.
    pub const MAX_LEN: usize = NOTE_WORDS * 8;

    /// Packs `text`; `None` if it is too long.
    #[must_use]
    pub fn new(text: &[u8]) -> Option<Self> {
        (text.len() <= Self::MAX_LEN).then(|| Self {
            len: text.len(),
            words: pack(text),
        })
    }

    /// The note's bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        unpack(&self.words, self.len)
    }
}

#[inline]
fn pack<const N: usize>(bytes: &[u8]) -> [u64; N] {
    let mut words = [0; N];
    let (whole, rest) = bytes.as_chunks();
    for (word, chunk) in words.iter_mut().zip(whole) {
        *word = u64::from_le_bytes(*chunk);
    }
    if let (Some(word), false) = (words.get_mut(whole.len()), rest.is_empty()) {
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        *word = u64::from_le_bytes(last);
    }
    words
}

fn unpack<const N: usize>(words: &[u64; N], len: usize) -> Vec<u8> {
    words
        .iter()
        .flat_map(|word| word.to_le_bytes())
        .take(len)
        .collect()
}

/// Where a name was found: a handle is good for as long as the slot's rename count is this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// The slot's index.
    pub slot: u32,
    /// The slot's rename count.
    pub renames: u64,
}

/// What was read of a slot under one count of its renames.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read<T> {
    /// That count.
    pub renames: u64,
    /// Its name, if it has one.
    pub key: Option<Key>,
    /// What was seen beside it.
    pub seen: T,
}

/// Room enough for the number of any slot, for who packs it with something else.
pub const SLOT_BITS: u32 = 24;

/// How much of a slot's rename count a handle remembers, beside the slot's number.
pub const RENAMES_MASK: u64 = u64::MAX >> SLOT_BITS;

/// No slot can be had: each one is held, waited for or abandoned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// An index entry: the hash's upper half over the slot's number. Slot 0 has no name, so
/// a zero is "never used" and slot 0 with anything above it is "used once".
const EMPTY: u64 = 0;
const TOMBSTONE: u64 = 1 << 32;

const fn entry_of(hash: u64, slot: u32) -> u64 {
    hash & 0xffff_ffff_0000_0000 | slot as u64
}

/// The slot that is `nth` to be used of a table's `count`: every second one first, then those
/// between. Nothing, once all are used.
///
/// Processors fetch cache lines by pairs, so what one core does to a line costs whoever uses
/// its neighbour (crossbeam's `CachePadded` is two lines wide for that reason). As long as a
/// table is not half full, no two of its locks are neighbours.
fn slot_in_order(nth: u64, count: usize) -> Option<u32> {
    let count = count as u64;
    let seconds = count.saturating_sub(1) / 2;
    let slot = match nth {
        _ if nth >= count => return None,
        _ if nth <= seconds => 2 * nth,
        _ => 2 * (nth - seconds) - 1,
    };
    u32::try_from(slot).ok()
}

/// The parts of a table that naming works on.
#[derive(Clone, Copy, Debug)]
pub struct Names<'a> {
    /// The table-wide words.
    pub naming: &'a NamingWords,
    /// The index; its length is a power of two greater than the number of slots.
    pub index: &'a [AtomicU64],
    /// The slots, with the naming lock first.
    pub slots: &'a [Slot],
    /// The slots' names.
    pub records: &'a [NameRecord],
}

impl<'a> Names<'a> {
    /// Finds a name without any lock. May miss one that is being created or moved.
    #[must_use]
    pub fn find(&self, key: &Key) -> Option<Resolved> {
        self.probe(key.hash)
            .find_map(|(_, entry)| self.check(entry, key))
    }

    /// The entries from `hash`'s place to the first that was never used.
    ///
    /// Relaxed, as all of the index: an entry says where to look. What is found there is
    /// believed for what stands between two readings of the slot's rename count, however
    /// old or new the entry was; and who misses a name asks under the naming lock.
    fn probe(&self, hash: u64) -> impl Iterator<Item = (usize, u64)> + use<'a> {
        let index = self.index;
        let mask = index.len() - 1;
        (0..index.len())
            .map(move |step| (hash as usize).wrapping_add(step) & mask)
            .map(move |at| (at, index[at].load(Ordering::Relaxed)))
            .take_while(|&(_, entry)| entry != EMPTY)
    }

    fn check(&self, entry: u64, key: &Key) -> Option<Resolved> {
        let slot = entry as u32;
        if slot == NamingWords::SLOT || entry != entry_of(key.hash, slot) {
            return None;
        }
        let (words, record) = (
            self.slots.get(slot as usize)?,
            self.records.get(slot as usize)?,
        );
        let renames = words.renames();
        // A slot that is being renamed may have lost its renamer: only the naming lock
        // tells, and whoever gets it mends the slot.
        let is_renaming = renames & 1 == 1 || matches!(words.owner().owner(), Owner::Renaming(_));
        if is_renaming || !record.is(key) {
            return None;
        }
        fence(ord(Site::NameFence));
        (words.renames.load(Ordering::Relaxed) == renames).then_some(Resolved { slot, renames })
    }

    /// What a slot is called, and what `look` sees beside it while it is; `None` while the slot
    /// gets another name.
    #[must_use]
    pub fn read<T>(&self, slot: u32, look: impl FnOnce() -> T) -> Option<Read<T>> {
        let (words, record) = (
            self.slots.get(slot as usize)?,
            self.records.get(slot as usize)?,
        );
        let renames = words.renames();
        let (key, seen) = (record.read(), look());
        // As in `check`: what was read is of this count, or the next one shows.
        fence(ord(Site::NameFence));
        (renames & 1 == 0 && words.renames.load(Ordering::Relaxed) == renames).then_some(Read {
            renames,
            key,
            seen,
        })
    }

    /// How many names the table has. Counted when asked: a counter would be off for ever
    /// once a process dies beside it.
    #[must_use]
    pub fn count(&self) -> usize {
        let is_name =
            |entry: &&AtomicU64| entry.load(Ordering::Relaxed) as u32 != NamingWords::SLOT;
        self.index.iter().filter(is_name).count()
    }

    /// Finds a name or creates it. The caller holds the naming lock, as `me`.
    ///
    /// # Errors
    ///
    /// [`Full`] when no slot is nameless or idle.
    pub fn find_or_create(
        &self,
        key: &Key,
        me: Identity,
        waker: &impl Wake,
    ) -> Result<Resolved, Full> {
        self.repair(waker);
        if let Some(found) = self.find(key) {
            return Ok(found);
        }
        let slot = self
            .claim(me)
            .or_else(|| {
                self.call_heirs(waker);
                self.claim(me)
            })
            .ok_or(Full)?;
        let (words, record) = (&self.slots[slot as usize], &self.records[slot as usize]);
        self.begin_rename(words);
        self.unpublish(slot);
        record.write(key);
        self.raise(words);
        self.publish(key.hash, slot);
        let renames = words
            .renames
            .fetch_add(1, ord(Site::Rename))
            .wrapping_add(1);
        self.finish_rename(words, waker);
        self.naming.intent.swap(0, Ordering::Relaxed);
        Ok(Resolved { slot, renames })
    }

    /// Mends what a holder of the naming lock left half done when it died.
    fn repair(&self, waker: &impl Wake) {
        let intent = self.naming.intent.load(Ordering::Relaxed);
        if intent == 0 {
            return;
        }
        // A number that no slot has was scribbled there: nothing to mend.
        if let Some(words) = usize::try_from(intent)
            .ok()
            .and_then(|slot| self.slots.get(slot))
            && matches!(words.owner().owner(), Owner::Renaming(_))
        {
            let slot = intent as u32;
            if words.renames.load(Ordering::Relaxed) & 1 == 0 {
                self.begin_rename(words);
            }
            self.unpublish(slot);
            self.records[slot as usize].len.swap(0, Ordering::Relaxed);
            words.renames.fetch_add(1, ord(Site::Rename));
            self.finish_rename(words, waker);
        }
        self.naming.intent.swap(0, Ordering::Relaxed);
    }

    /// Takes a slot for a new name: one never used, or nameless, or else idle.
    fn claim(&self, me: Identity) -> Option<u32> {
        let fresh = self.naming.fresh.load(Ordering::Relaxed).max(1);
        if let Some(slot) = slot_in_order(fresh, self.slots.len()) {
            self.naming.fresh.swap(fresh + 1, Ordering::Relaxed);
            if self.claim_slot(slot, &self.slots[slot as usize], me) {
                return Some(slot);
            }
        }
        // Each round that fails to claim lost its slot to an acquirer just then; when none is
        // idle, one look at all of them is enough.
        for _ in 0..self.slots.len() {
            let slot = self.longest_idle()?;
            if self.claim_slot(slot, &self.slots[slot as usize], me) {
                return Some(slot);
            }
        }
        None
    }

    /// Calls whoever the words of free slots say is awake for them. Where a waiter was killed
    /// that others were to trust in, and nobody else waits, nobody comes: the slot is idle
    /// from then on. Otherwise its word would keep the name for as long as nobody uses it.
    fn call_heirs(&self, waker: &impl Wake) {
        let named = self.slots.iter().skip(NamingWords::SLOT as usize + 1);
        for words in named {
            let seen = words.owner();
            if matches!(seen.owner(), Owner::Vacant(_)) && seen.queue() != Queue::Idle {
                super::wait::wake_next(words, waker);
            }
        }
    }

    /// From where the hand stands: a nameless slot, or the one idle for longest of the
    /// next few idle ones, so that a busy lock caught between two grants keeps its name.
    fn longest_idle(&self) -> Option<u32> {
        const SAMPLE: usize = 16;
        let count = self.slots.len();
        let hand = usize::try_from(self.naming.hand.load(Ordering::Relaxed)).unwrap_or(0);
        let (slot, _) = (0..count)
            .map(|step| hand.wrapping_add(step) % count)
            .filter(|&slot| {
                slot != NamingWords::SLOT as usize && self.is_idle(slot, self.slots[slot].owner())
            })
            .map(|slot| (slot, self.idle_since(slot)))
            .take(SAMPLE)
            .min_by_key(|&(_, since)| since)?;
        self.naming.hand.swap(slot as u64 + 1, Ordering::Relaxed);
        Some(slot as u32)
    }

    /// Whether a slot may get a new name: free, nobody waits, and no news of a holder
    /// that left without releasing would be lost with the name.
    fn is_idle(&self, slot: usize, seen: OwnerWord) -> bool {
        match seen.owner() {
            Owner::Vacant(vacancy) => {
                seen.queue() == Queue::Idle && (!vacancy.is_abandoned() || self.is_nameless(slot))
            }
            _ => false,
        }
    }

    fn is_nameless(&self, slot: usize) -> bool {
        self.records[slot].len.load(Ordering::Relaxed) == 0
    }

    fn idle_since(&self, slot: usize) -> u64 {
        if self.is_nameless(slot) {
            0
        } else {
            self.slots[slot].since_ms.load(Ordering::Relaxed)
        }
    }

    /// `vacant,g -> RENAMING,g+1` for an idle slot. The intent is there before it.
    fn claim_slot(&self, slot: u32, words: &Slot, me: Identity) -> bool {
        let seen = words.owner();
        if !self.is_idle(slot as usize, seen) {
            return false;
        }
        self.naming.intent.swap(u64::from(slot), Ordering::Relaxed);
        matches!(words.take(seen, me.renaming(), false), Taken::Granted(_))
    }

    /// Makes the rename count odd before the first byte changes: a reader that sees any
    /// of the new name (NameFence) sees the odd count after it.
    fn begin_rename(&self, words: &Slot) {
        words.renames.fetch_add(1, ord(Site::Rename));
        fence(ord(Site::RenameFence));
    }

    /// `RENAMING -> Fresh`; wakes handles of the old name that wait already.
    fn finish_rename(&self, words: &Slot, waker: &impl Wake) {
        let seen = words.owner();
        // Only the holder of the naming lock changes a word that says RENAMING.
        let _ = super::wait::vacate(words, seen, Vacancy::Fresh, waker);
    }

    /// Removes the slot's entry, if it has one, remembering its tokens.
    fn unpublish(&self, slot: u32) {
        let (words, record) = (&self.slots[slot as usize], &self.records[slot as usize]);
        let hash = record.hash.load(Ordering::Relaxed);
        let entry = entry_of(hash, slot);
        let Some((at, _)) = self.probe(hash).find(|&(_, found)| found == entry) else {
            return;
        };
        let word = words.owner();
        let epoch = words.epoch.load(Ordering::Relaxed);
        self.naming
            .raise_floor(word.token_in(word.epoch_from(epoch)));
        self.remove_entry(at);
    }

    /// Removes the entry at `at`. An entry before one that was never used can itself be
    /// "never used" again, and so can the removed ones before it: so chains stay short
    /// however often names come and go.
    fn remove_entry(&self, at: usize) {
        let mask = self.index.len() - 1;
        self.index[at].swap(TOMBSTONE, Ordering::Relaxed);
        if self.index[at.wrapping_add(1) & mask].load(Ordering::Relaxed) != EMPTY {
            return;
        }
        let mut last = at;
        for _ in 0..self.index.len() {
            if self.index[last].load(Ordering::Relaxed) != TOMBSTONE {
                return;
            }
            self.index[last].swap(EMPTY, Ordering::Relaxed);
            last = last.wrapping_sub(1) & mask;
        }
    }

    /// Publishes a name by one store, in the first place that is free.
    fn publish(&self, hash: u64, slot: u32) {
        let mask = self.index.len() - 1;
        let place = (0..self.index.len())
            .map(|step| (hash as usize).wrapping_add(step) & mask)
            .find(|&at| self.index[at].load(Ordering::Relaxed) as u32 == NamingWords::SLOT);
        // The index has more places than there are slots. Should a scribbled file be
        // full of nonsense all the same, the name goes where it hashes to.
        let place = place.unwrap_or(hash as usize & mask);
        self.index[place].swap(entry_of(hash, slot), Ordering::Relaxed);
    }

    /// Raises the slot's generation to the floor: the word first, so that an epoch word
    /// that lags is behind the word, never ahead.
    fn raise(&self, words: &Slot) {
        let seen = words.owner();
        let epoch = words.epoch.load(Ordering::Relaxed);
        let floor = self.naming.floor();
        if seen.token_in(seen.epoch_from(epoch)) >= floor {
            return;
        }
        // Nobody but the holder of the naming lock changes a word that says RENAMING.
        let raised = seen.at_token(floor);
        let _ = words.owner.compare_exchange(
            seen.bits(),
            raised.bits(),
            ord(Site::Vacate),
            Ordering::Relaxed,
        );
        words
            .epoch
            .fetch_max(OwnerWord::epoch_of(floor), ord(Site::EpochHelp));
    }

    /// During a reset, with the index emptied: publishes a whole name, wipes any other.
    pub(super) fn settle_after_reset(&self, slot: u32, whole: bool) {
        let (words, record) = (&self.slots[slot as usize], &self.records[slot as usize]);
        let renames = words.renames.load(Ordering::Relaxed);
        words
            .renames
            .swap((renames | 1).wrapping_add(1), Ordering::Relaxed);
        record.note_token.swap(0, Ordering::Relaxed);
        match record.read().filter(|_| whole) {
            Some(key) if self.find(&key).is_none() => self.publish(key.hash, slot),
            _ => {
                record.len.swap(0, Ordering::Relaxed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::sync::AtomicU32;
    use super::*;

    const COUNT: usize = 6;

    struct Memory {
        naming: NamingWords,
        index: [AtomicU64; 16],
        slots: [Slot; COUNT],
        records: [NameRecord; COUNT],
    }

    struct Nobody;

    impl Wake for Nobody {
        fn wake_one(&self, _: &AtomicU32) -> bool {
            false
        }
    }

    impl Memory {
        fn new() -> Self {
            Self {
                naming: NamingWords::new(),
                index: std::array::from_fn(|_| AtomicU64::new(0)),
                slots: std::array::from_fn(|_| Slot::new()),
                records: std::array::from_fn(|_| NameRecord::new()),
            }
        }

        /// Creates a name under the naming lock, and says in which slot.
        fn create(&self, name: u8) -> Result<u32, Full> {
            let me = Identity::new(1, 0);
            let naming_lock = &self.slots[NamingWords::SLOT as usize];
            let Taken::Granted(grant) = naming_lock.take(naming_lock.owner(), me, false) else {
                panic!("nobody else is about");
            };
            let names = Names {
                naming: &self.naming,
                index: &self.index,
                slots: &self.slots,
                records: &self.records,
            };
            let key = Key::new(&[name], u64::from(name) << 32).unwrap();
            let created = names.find_or_create(&key, me, &Nobody);
            let _ = naming_lock.release(&grant, Vacancy::Released);
            created.map(|found| found.slot)
        }
    }

    #[test]
    fn names_take_the_slots_in_their_order() {
        let memory = Memory::new();
        let slots: Vec<u32> = (1..COUNT as u8)
            .map(|name| memory.create(name).unwrap())
            .collect();
        assert_eq!(slots, [2, 4, 1, 3, 5]);
    }

    /// As a scribbled table may have it.
    #[test]
    fn a_slot_that_is_next_and_held_stays_its_holders() {
        let memory = Memory::new();
        let next = &memory.slots[2];
        assert!(matches!(
            next.take(next.owner(), Identity::new(2, 1), false),
            Taken::Granted(_)
        ));
        let held = next.owner();
        let slots: Vec<u32> = (1..COUNT as u8 - 1)
            .map(|name| memory.create(name).unwrap())
            .collect();
        assert!(!slots.contains(&2), "{slots:?}");
        assert_eq!(next.owner(), held);
    }

    #[test]
    fn every_slot_is_used_once_and_no_neighbours_while_the_table_is_half_empty() {
        for count in 1..20 {
            let mut slots: Vec<u32> = (0..count as u64)
                .map(|nth| slot_in_order(nth, count).unwrap())
                .collect();
            assert_eq!(slots[0], NamingWords::SLOT, "which has no name");
            let first_half = &slots[..count.div_ceil(2)];
            assert!(first_half.iter().all(|slot| slot % 2 == 0), "{slots:?}");
            slots.sort_unstable();
            assert_eq!(slots, (0..count as u32).collect::<Vec<_>>());
        }
    }

    #[test]
    fn no_number_that_a_file_can_hold_leads_past_the_slots() {
        for nth in [5, 6, u64::from(u32::MAX) + 1, u64::MAX] {
            assert_eq!(slot_in_order(nth, 5), None);
        }
        assert_eq!(slot_in_order(0, 0), None);
    }
}
