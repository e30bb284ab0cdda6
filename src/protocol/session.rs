//! A session's record in the table, and when an observer may call a session expired.
//!
//! A record belongs to whoever holds its byte lock, so the fields that `state` publishes have
//! one writer at a time by the kernel's word.

use core::mem::offset_of;

use super::ordering::Site;
use super::sync::{AtomicU32, AtomicU64, Ordering, WAIT_ENTRIES, fence, ord};
use super::word::OwnerWord;

/// The shared words of one session.
#[repr(C, align(64))]
#[derive(Debug)]
pub struct SessionRecord {
    /// `incarnation << 1 | active`.
    state: AtomicU64,
    /// `flags << 32 | pid`.
    process: AtomicU64,
    /// The PID namespace's inode, 0 if it could not be told.
    pid_namespace: AtomicU64,
    /// When the session was attached, in monotonic milliseconds; for showing.
    attached_ms: AtomicU64,
    /// The command name, as two little-endian words.
    command: [AtomicU64; 2],
    /// `attachings << 32 | heartbeats`: counted up by each heartbeat, and to the next multiple
    /// of 2^32 by each attaching. So it never goes back, not even when a session comes after
    /// another, and no value of it is ever seen twice.
    beat: AtomicU64,
    /// When that was, in monotonic milliseconds; for showing.
    beat_ms: AtomicU64,

    /// The certificate: the keeper thread's robust futex, marked by the kernel at its death.
    certificate: AtomicU32,
    /// Counted up by whoever revokes a grant of this session; its keeper sleeps on it.
    notice: AtomicU32,
    reserved: [AtomicU64; 7],

    /// The slots that threads of this session wait for: `count << 32 | slot`, 0 if unused.
    waits: [AtomicU64; WAIT_ENTRIES],
    reserved_too: [AtomicU64; 8],
}

/// What a session says of itself when it attaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// The process id, in its own namespace.
    pub pid: u32,
    /// Children may have inherited its witness, and act for it: nothing but that and the byte
    /// proves death, never the PID.
    pub shares_witness: bool,
    /// The PID namespace's inode, 0 if it could not be told.
    pub pid_namespace: u64,
    /// The time of attaching, in monotonic milliseconds.
    pub now_ms: u64,
    /// The command name, as two little-endian words.
    pub command: [u64; 2],
}

const SHARES_WITNESS: u64 = 1 << 32;

/// The state of the session that comes after one that left `state`: active, the next incarnation.
const fn next_state(state: u64) -> u64 {
    (state | 1).wrapping_add(2)
}

/// One thread, in an entry of those that wait.
const ONE_WAITER: u64 = 1 << 32;

/// How much of the beat word counts one session's heartbeats.
const BEATS_BITS: u32 = 32;
const BEATS_MASK: u64 = (1 << BEATS_BITS) - 1;

/// The beat word of the session that comes after one that left `beat`. Made from the word
/// itself: should a session ever beat 2^32 times, its next still begins above it.
const fn next_session(beat: u64) -> u64 {
    (beat | BEATS_MASK).wrapping_add(1)
}

/// A record as it was at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionView {
    /// Whether a session is attached, or died attached.
    pub active: bool,
    /// What it said of itself; of one session only if it is active.
    pub credentials: Credentials,
    /// Its sign of life.
    pub life: LifeSign,
    /// When its last heartbeat was, in monotonic milliseconds; for showing.
    pub beat_ms: u64,
}

/// What changes when a session shows that it runs: its incarnation, or its beat.
///
/// The two words are read one after the other, so a sign may mix two sessions. No value of
/// either word ever comes back (the beat's after 2^32 attachings, between two instructions
/// of one reader), so such a mixture equals no sign that was read before it: a torn sign of
/// life is a new one, and nobody is called silent for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LifeSign {
    state: u64,
    beat: u64,
}

impl LifeSign {
    /// Whether both are of one session, from its attaching to its end.
    #[must_use]
    pub const fn is_same_session(&self, other: &Self) -> bool {
        self.state == other.state
    }

    /// Which of the record's sessions this is a sign of. What is locked in the name of one says
    /// nothing of the next.
    #[must_use]
    pub const fn incarnation(&self) -> u64 {
        self.state >> 1
    }

    /// Whether the session has sent a heartbeat: then its keeper runs, and has put its own
    /// id on the certificate before ([`Site::Record`]).
    #[must_use]
    pub const fn has_beaten(&self) -> bool {
        self.beat & BEATS_MASK != 0
    }
}

impl SessionRecord {
    /// Where the fields are, for the file's layout signature.
    pub const LAYOUT: u64 = super::layout_of(&[
        offset_of!(Self, state),
        offset_of!(Self, process),
        offset_of!(Self, pid_namespace),
        offset_of!(Self, attached_ms),
        offset_of!(Self, command),
        offset_of!(Self, beat),
        BEATS_BITS as usize,
        offset_of!(Self, beat_ms),
        offset_of!(Self, certificate),
        offset_of!(Self, notice),
        offset_of!(Self, reserved),
        offset_of!(Self, waits),
    ]);

    /// A record as a zeroed file has it: never used.
    #[must_use]
    pub fn new() -> Self {
        Self {
            state: AtomicU64::new(0),
            process: AtomicU64::new(0),
            pid_namespace: AtomicU64::new(0),
            attached_ms: AtomicU64::new(0),
            command: std::array::from_fn(|_| AtomicU64::new(0)),
            beat: AtomicU64::new(0),
            beat_ms: AtomicU64::new(0),
            certificate: AtomicU32::new(0),
            notice: AtomicU32::new(0),
            reserved: std::array::from_fn(|_| AtomicU64::new(0)),
            waits: std::array::from_fn(|_| AtomicU64::new(0)),
            reserved_too: std::array::from_fn(|_| AtomicU64::new(0)),
        }
    }

    /// Whether the record's last session did not detach, so that slots may still name it.
    /// They are freed before it is closed and opened anew ([`collect`](super::reclaim::collect)).
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.state.load(ord(Site::RecordRead)) & 1 == 1
    }

    /// Whether a session, by its sign of life, has shared its witness. If the record is another's
    /// by now, the session is over, and the answer does not matter.
    #[must_use]
    pub fn has_shared(&self, life: &LifeSign) -> bool {
        life.state & 1 == 1 && self.process.load(Ordering::Relaxed) & SHARES_WITNESS != 0
    }

    /// The incarnation of the session that the holder of the byte is about to open.
    #[must_use]
    pub fn next_incarnation(&self) -> u64 {
        next_state(self.state.load(ord(Site::RecordRead))) >> 1
    }

    /// `clean,n -> active,n+1`, by the holder of the byte, after the sweep if one was due.
    ///
    /// Inactive first, then the fields, then active: a reader that began with an active state and
    /// sees one new field ([`Site::NameFence`]) sees that the state has moved on. One that began
    /// with an inactive state may mix two sessions: its view says that it is not active.
    pub fn open(&self, who: &Credentials) {
        self.close();
        fence(ord(Site::RenameFence));
        let flags = if who.shares_witness {
            SHARES_WITNESS
        } else {
            0
        };
        self.process
            .swap(u64::from(who.pid) | flags, Ordering::Relaxed);
        self.pid_namespace
            .swap(who.pid_namespace, Ordering::Relaxed);
        self.attached_ms.swap(who.now_ms, Ordering::Relaxed);
        for (word, value) in self.command.iter().zip(who.command) {
            word.swap(value, Ordering::Relaxed);
        }
        for entry in &self.waits {
            entry.swap(0, Ordering::Relaxed);
        }
        self.beat_ms.swap(who.now_ms, Ordering::Relaxed);
        let beat = self.beat.load(Ordering::Relaxed);
        self.beat.swap(next_session(beat), Ordering::Relaxed);
        let state = self.state.load(Ordering::Relaxed);
        self.state.swap(next_state(state), ord(Site::Record));
    }

    /// `active,n -> clean,n`: no slot names this session any more.
    pub fn close(&self) {
        self.state.fetch_and(!1, ord(Site::Record));
    }

    /// One heartbeat.
    pub fn beat(&self, now_ms: u64) {
        self.beat_ms.swap(now_ms, Ordering::Relaxed);
        self.beat.fetch_add(1, ord(Site::Record));
    }

    /// The sign of life to compare with an earlier one.
    #[must_use]
    pub fn life_sign(&self) -> LifeSign {
        LifeSign {
            state: self.state.load(ord(Site::RecordRead)),
            beat: self.beat.load(ord(Site::RecordRead)),
        }
    }

    /// Reads the record; `None` when it kept changing hands.
    #[must_use]
    pub fn view(&self) -> Option<SessionView> {
        (0..16).find_map(|_| self.view_once())
    }

    /// Reads the record once; `None` when it changed hands meanwhile.
    #[must_use]
    pub fn view_once(&self) -> Option<SessionView> {
        let life = self.life_sign();
        let process = self.process.load(Ordering::Relaxed);
        let credentials = Credentials {
            pid: process as u32,
            shares_witness: process & SHARES_WITNESS != 0,
            pid_namespace: self.pid_namespace.load(Ordering::Relaxed),
            now_ms: self.attached_ms.load(Ordering::Relaxed),
            command: [
                self.command[0].load(Ordering::Relaxed),
                self.command[1].load(Ordering::Relaxed),
            ],
        };
        let beat_ms = self.beat_ms.load(Ordering::Relaxed);
        fence(ord(Site::NameFence));
        (self.state.load(Ordering::Relaxed) == life.state).then_some(SessionView {
            active: life.state & 1 == 1,
            credentials,
            life,
            beat_ms,
        })
    }

    /// The certificate word.
    #[must_use]
    pub fn certificate(&self) -> &AtomicU32 {
        &self.certificate
    }

    /// The notice word.
    #[must_use]
    pub fn notice(&self) -> &AtomicU32 {
        &self.notice
    }

    /// Counts one more thread that waits for `slot`, for people to see, and says in which
    /// entry. `None`: the session waits for more slots at once than it has entries.
    ///
    /// Two threads that come at once may take an entry each: those of one slot add up.
    pub fn begin_wait(&self, slot: u32) -> Option<usize> {
        let join = |value: u64| {
            let is_its = value != 0 && value as u32 == slot;
            is_its.then(|| value.wrapping_add(ONE_WAITER))
        };
        let claim = |value: u64| (value == 0).then(|| ONE_WAITER | u64::from(slot));
        let mut entries = self.waits.iter();
        let joined = entries.clone().position(|entry| change(entry, join));
        joined.or_else(|| entries.position(|entry| change(entry, claim)))
    }

    /// Counts one out that [`begin_wait`](Self::begin_wait) has counted in there.
    pub fn end_wait(&self, entry: usize) {
        let count = |value: u64| {
            let left = value.checked_sub(ONE_WAITER);
            left.filter(|&left| left >= ONE_WAITER).or(Some(0))
        };
        change(&self.waits[entry], count);
    }

    /// The slots that this session shows to wait for, with how many threads; a slot may come
    /// twice.
    pub fn waiting(&self) -> impl Iterator<Item = (u32, u32)> {
        self.waits
            .iter()
            .map(|entry| entry.load(Ordering::Relaxed))
            .filter(|&value| value != 0)
            .map(|value| (value as u32, (value >> 32) as u32))
    }
}

/// Changes a word to what `next` makes of it; false if that is nothing.
fn change(word: &AtomicU64, next: impl Fn(u64) -> Option<u64>) -> bool {
    loop {
        let seen = word.load(Ordering::Relaxed);
        let Some(next) = next(seen) else {
            return false;
        };
        // It fails only as often as others change the word meanwhile.
        if word
            .compare_exchange(seen, next, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok()
        {
            return true;
        }
    }
}

impl Default for SessionRecord {
    fn default() -> Self {
        Self::new()
    }
}

/// What one observer has seen of a slot's holder: expiry is a pure function of it.
///
/// Time is the observer's own, and only as much of it as the observer has visibly run:
/// each gap between two looks counts up to a cap. So a pause of the whole machine, which
/// stops the observer as well, expires nobody; and no clock is compared with a peer's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watch {
    word: OwnerWord,
    life: LifeSign,
    silent_ns: u64,
    looked_ns: u64,
}

impl Watch {
    /// Begins to watch the holder in `word`.
    #[must_use]
    pub const fn new(word: OwnerWord, life: LifeSign, now_ns: u64) -> Self {
        Self {
            word: word.grant_only(),
            life,
            silent_ns: 0,
            looked_ns: now_ns,
        }
    }

    /// Looks again: returns for how long this grant's holder has been seen silent, in
    /// nanoseconds. A new grant or a new sign of life starts over.
    #[must_use]
    pub fn look(&mut self, word: OwnerWord, life: LifeSign, now_ns: u64, gap_cap_ns: u64) -> u64 {
        if word.grant_only() == self.word && life == self.life {
            self.silent_ns += now_ns.saturating_sub(self.looked_ns).min(gap_cap_ns);
            self.looked_ns = now_ns.max(self.looked_ns);
        } else {
            *self = Self::new(word, life, now_ns);
        }
        self.silent_ns
    }

    /// Whether it is of the same grant, and has seen the same sign of life, as another.
    #[must_use]
    pub fn agrees_with(&self, other: &Self) -> bool {
        (self.word, self.life) == (other.word, other.life)
    }

    /// The sign of life that the silence is counted from: it is read once more right
    /// before the evicting CAS.
    #[must_use]
    pub const fn life(&self) -> LifeSign {
        self.life
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAP: u64 = 10;

    fn life(beat: u64) -> LifeSign {
        LifeSign { state: 3, beat }
    }

    #[test]
    fn watches_of_one_grant_and_sign_of_life_agree() {
        let words = [5, 6].map(OwnerWord::released_at);
        let watch = |grant: usize, beat, now_ns| Watch::new(words[grant], life(beat), now_ns);
        assert!(watch(0, 1, 10).agrees_with(&watch(0, 1, 20)));
        assert!(!watch(0, 1, 10).agrees_with(&watch(1, 1, 10)));
        assert!(!watch(0, 1, 10).agrees_with(&watch(0, 2, 10)));
    }

    #[test]
    fn silence_adds_up_over_an_observers_own_looks() {
        let word = OwnerWord::from_bits(2);
        let mut watch = Watch::new(word, life(1), 100);
        assert_eq!(watch.look(word, life(1), 105, CAP), 5);
        assert_eq!(
            watch.look(
                word.queued(super::super::word::Queue::Asleep),
                life(1),
                112,
                CAP
            ),
            12
        );
        assert_eq!(watch.look(word, life(2), 113, CAP), 0);
    }

    #[test]
    fn a_pause_of_the_observer_counts_one_gap_at_most() {
        let word = OwnerWord::from_bits(2);
        let mut watch = Watch::new(word, life(1), 0);
        assert_eq!(watch.look(word, life(1), 1_000_000, CAP), CAP);
        // A clock that steps back adds nothing.
        assert_eq!(watch.look(word, life(1), 10, CAP), CAP);
    }

    #[test]
    fn a_new_grant_of_the_same_session_starts_over() {
        let mut watch = Watch::new(OwnerWord::from_bits(2), life(1), 0);
        assert_eq!(watch.look(OwnerWord::from_bits(4), life(1), 9, CAP), 0);
    }

    #[test]
    fn a_record_is_active_from_open_to_close_and_each_opening_is_another_life() {
        let record = SessionRecord::new();
        let who = Credentials {
            pid: 9,
            shares_witness: true,
            pid_namespace: 7,
            now_ms: 5,
            command: [1, 2],
        };
        assert!(!record.is_active());
        record.open(&who);
        let first = record.view().unwrap();
        assert!(first.active && first.credentials == who);
        record.close();
        assert!(!record.is_active());
        record.open(&who);
        assert_ne!(record.life_sign(), first.life);
    }

    /// A reading of the old state with the new beat was once an earlier sign of life.
    #[test]
    fn no_beat_comes_back_with_the_next_session() {
        let record = SessionRecord::new();
        let who = Credentials {
            pid: 9,
            shares_witness: false,
            pid_namespace: 7,
            now_ms: 5,
            command: [1, 2],
        };
        let mut seen = vec![record.life_sign()];
        for _ in 0..3 {
            record.open(&who);
            assert!(!record.life_sign().has_beaten());
            seen.push(record.life_sign());
            for _ in 0..2 {
                record.beat(6);
                assert!(record.life_sign().has_beaten());
                seen.push(record.life_sign());
            }
            record.close();
        }
        assert!(seen.is_sorted_by(|one, next| one.beat < next.beat));
        assert!(next_session(1 << BEATS_BITS) > (1 << BEATS_BITS));
        assert!(next_session((2 << BEATS_BITS) - 1) == 2 << BEATS_BITS);
    }

    #[test]
    fn waiting_threads_show_and_stop_showing() {
        let record = SessionRecord::new();
        let entries = [4, 9, 4, 9, 9].map(|slot| record.begin_wait(slot).unwrap());
        assert_eq!(record.waiting().collect::<Vec<_>>(), [(4, 2), (9, 3)]);
        record.end_wait(entries[0]);
        record.end_wait(entries[1]);
        assert_eq!(record.waiting().collect::<Vec<_>>(), [(4, 1), (9, 2)]);
        record.end_wait(entries[2]);
        assert_eq!(record.waiting().collect::<Vec<_>>(), [(9, 2)]);
        // One that is free again comes before, but is another.
        assert_eq!(record.begin_wait(9), Some(entries[1]));
        assert_eq!(record.begin_wait(0), Some(entries[0]));
    }

    #[test]
    fn a_thread_that_waits_for_one_slot_too_many_does_not_show() {
        let record = SessionRecord::new();
        for slot in 0..WAIT_ENTRIES {
            assert_eq!(record.begin_wait(slot as u32), Some(slot));
        }
        assert_eq!(record.begin_wait(u32::MAX), None);
        assert_eq!(record.begin_wait(0), Some(0), "one that shows already");
    }

    #[test]
    fn threads_that_come_and_go_at_once_leave_nothing_to_show() {
        let record = SessionRecord::new();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for turn in 0..20_000 {
                        let entry = record.begin_wait(turn % 3).expect("there is room");
                        assert!(record.waiting().any(|(slot, _)| slot == turn % 3));
                        record.end_wait(entry);
                    }
                });
            }
        });
        assert_eq!(record.waiting().count(), 0);
    }
}
