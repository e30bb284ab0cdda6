//! What the workers write down of their grants, and what must be true of it afterwards.
//!
//! Each seat has a log in shared memory, which no kill can take back. A worker reserves a
//! record, fills it and publishes it; what it does next, it writes down before it does it
//! and again once it is done. Events are ordered by the board's stamps, grants by tokens.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use caslock::Previous;

use super::board::{Board, LOCKS};
use super::shared::Words;

/// Records of a seat in one round.
const CAPACITY: usize = 1 << 17;

/// The grants of one seat's workers in one round.
#[repr(C)]
pub struct Log {
    used: AtomicU64,
    records: [Record; CAPACITY],
}

// SAFETY:
// - all fields are atomics, for which zeroes are valid.
unsafe impl Words for Log {}

impl Log {
    /// Whether there is no more room. Only the one worker of the seat may conclude from
    /// `false` that there is.
    pub fn is_full(&self) -> bool {
        self.used.load(Ordering::SeqCst) >= CAPACITY as u64
    }

    /// A record that nobody else writes; `None` when the log is full.
    pub fn reserve(&self) -> Option<&Record> {
        let at = self.used.fetch_add(1, Ordering::SeqCst);
        self.records.get(usize::try_from(at).ok()?)
    }

    /// Empties the log between two rounds.
    pub fn clear(&self) {
        self.published().for_each(|record| {
            record.reached.store(0, Ordering::SeqCst);
            record.exit.store(0, Ordering::SeqCst);
        });
        self.used.store(0, Ordering::SeqCst);
    }

    fn published(&self) -> impl Iterator<Item = &Record> {
        let used = usize::try_from(self.used.load(Ordering::SeqCst)).unwrap_or(CAPACITY);
        let records = self.records[..used.min(CAPACITY)].iter();
        records.filter(|record| record.reached.load(Ordering::SeqCst) != 0)
    }
}

/// One grant, as its holder saw it.
#[repr(C, align(64))]
pub struct Record {
    token: AtomicU64,
    enter: AtomicU64,
    exit: AtomicU64,
    previous_token: AtomicU64,
    lock: AtomicU32,
    previous: AtomicU32,
    /// Bits of [`Step`]; published by the first.
    reached: AtomicU32,
}

/// How far a holder came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Step {
    /// It entered its section.
    Entered = 1,
    /// It entered beside another living holder.
    Beside = 1 << 1,
    /// It is about to write the trusting counter.
    Writes = 1 << 2,
    /// It has.
    Wrote = 1 << 3,
    /// It is about to write the checking counter.
    FencedWrites = 1 << 4,
    /// It has, and was not refused.
    FencedWrote = 1 << 5,
    /// It was refused by the checking counter.
    FencedOut = 1 << 6,
    /// It left its section and is about to release.
    Left = 1 << 7,
    /// Its release was told that the grant stood until then.
    Released = 1 << 8,
    /// Its release was told that the grant had been revoked.
    Lost = 1 << 9,
}

const RELEASED: u32 = 1;
const DIED: u32 = 2;
const EXPIRED: u32 = 3;
const FORCED: u32 = 4;

impl Record {
    /// Publishes the grant: its holder is in the section from here on.
    pub fn enter(&self, board: &Board, lock: u32, token: u64, previous: &Previous) {
        let how = match previous {
            Previous::Released => RELEASED,
            Previous::Died(_) => DIED,
            Previous::Expired(_) => EXPIRED,
            Previous::Forced(_) => FORCED,
            _ => 0,
        };
        let of = previous.departed().map_or(0, |gone| gone.token.0);
        self.token.store(token, Ordering::SeqCst);
        self.lock.store(lock, Ordering::SeqCst);
        self.previous.store(how, Ordering::SeqCst);
        self.previous_token.store(of, Ordering::SeqCst);
        self.enter.store(board.stamp(), Ordering::SeqCst);
        self.reached.store(Step::Entered as u32, Ordering::SeqCst);
    }

    /// Writes down what has been reached.
    pub fn reach(&self, step: Step) {
        self.reached.fetch_or(step as u32, Ordering::SeqCst);
    }

    /// Leaves the section.
    pub fn leave(&self, board: &Board) {
        self.exit.store(board.stamp(), Ordering::SeqCst);
        self.reach(Step::Left);
    }

    fn read(&self) -> Grant {
        Grant {
            lock: self.lock.load(Ordering::SeqCst),
            token: self.token.load(Ordering::SeqCst),
            enter: self.enter.load(Ordering::SeqCst),
            exit: self.exit.load(Ordering::SeqCst),
            previous: self.previous.load(Ordering::SeqCst),
            previous_token: self.previous_token.load(Ordering::SeqCst),
            reached: self.reached.load(Ordering::SeqCst),
        }
    }
}

/// A record, copied.
#[derive(Clone, Copy, Debug)]
struct Grant {
    lock: u32,
    token: u64,
    enter: u64,
    exit: u64,
    previous: u32,
    previous_token: u64,
    reached: u32,
}

impl Grant {
    fn has(&self, step: Step) -> bool {
        self.reached & step as u32 != 0
    }
}

/// What the histories of a campaign have come to.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub struct Tally {
    /// Grants that were written down.
    pub grants: u64,
    /// Grants of which only the gap in the tokens tells: their holders died first.
    pub unwritten: u64,
    /// Sections that a holder never left: it died in them.
    pub died_inside: u64,
    /// Grants whose holder was evicted and found out at its release.
    pub lost: u64,
    /// Sections that went on while that of a later grant had begun. Each is a violation,
    /// unless the holder had been evicted.
    pub overlaps: u64,
    /// Updates of the trusting counters that were reported as done.
    pub unfenced_updates: u64,
    /// Those of them that the counters do not show.
    pub unfenced_lost: u64,
    /// Updates of the checking counters that were reported as done.
    pub fenced_updates: u64,
    /// Those of them that the counters do not show.
    pub fenced_lost: u64,
    /// Updates that the checking counters refused.
    pub fenced_refused: u64,
}

/// Checks histories, round by round.
pub struct Checker {
    may_evict: bool,
    /// The latest grant of each lock.
    last: [Option<Grant>; LOCKS],
    unfenced: [u64; LOCKS],
    fenced: [u64; LOCKS],
    /// What has been found so far.
    pub tally: Tally,
}

impl Checker {
    /// For a table of this policy, before the first round.
    pub fn new(may_evict: bool, board: &Board) -> Self {
        Self {
            may_evict,
            last: [None; LOCKS],
            unfenced: std::array::from_fn(|lock| board.resources[lock].read()),
            fenced: std::array::from_fn(|lock| board.resources[lock].fenced_count()),
            tally: Tally::default(),
        }
    }

    /// Checks a round that has ended: no worker lives. `deaths` is how many died in it,
    /// programs that replaced themselves included. Answers what is wrong.
    pub fn round<'a>(
        &mut self,
        board: &Board,
        logs: impl Iterator<Item = &'a Log>,
        deaths: u64,
    ) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut by_lock = BTreeMap::<u32, Vec<Grant>>::new();
        for grant in logs.flat_map(Log::published).map(Record::read) {
            by_lock.entry(grant.lock).or_default().push(grant);
        }
        let mut unwritten = 0;
        for (lock, grants) in &mut by_lock {
            grants.sort_by_key(|grant| grant.token);
            self.grants_of(*lock, grants, &mut unwritten, &mut wrong);
            self.counters_of(*lock, grants, board, &mut wrong);
        }
        if unwritten > deaths {
            wrong.push(format!(
                "{unwritten} tokens were given to nobody, and only {deaths} died"
            ));
        }
        self.tally.unwritten += unwritten;
        wrong
    }

    /// The grants of one lock, in the order of their tokens.
    fn grants_of(
        &mut self,
        lock: u32,
        grants: &[Grant],
        unwritten: &mut u64,
        wrong: &mut Vec<String>,
    ) {
        self.tally.grants += grants.len() as u64;
        let count = |step| grants.iter().filter(|grant| grant.has(step)).count() as u64;
        self.tally.lost += count(Step::Lost);
        self.tally.died_inside += grants.len() as u64 - count(Step::Left);
        for &grant in grants {
            if let Some(before) = self.last[lock as usize] {
                *unwritten += grant.token.saturating_sub(before.token + 1);
                if let Err(why) = self.follows(&before, &grant) {
                    wrong.push(format!("lock {lock}: {why}: {before:?}, then {grant:?}"));
                }
            }
            self.last[lock as usize] = Some(grant);
        }
        self.overlaps_of(lock, grants, wrong);
    }

    /// The sections of one lock that were not over when that of a later grant began.
    fn overlaps_of(&mut self, lock: u32, grants: &[Grant], wrong: &mut Vec<String>) {
        let mut first_later = None::<Grant>;
        for &grant in grants.iter().rev() {
            if let Some(later) = first_later
                && later.enter < grant.exit
            {
                self.tally.overlaps += 1;
                if !self.may_evict || grant.has(Step::Released) {
                    wrong.push(format!("lock {lock}: two at once: {grant:?}, {later:?}"));
                }
            }
            if first_later.is_none_or(|later| grant.enter < later.enter) {
                first_later = Some(grant);
            }
        }
    }

    /// What must be true of a grant and the next one that was written down.
    fn follows(&self, before: &Grant, grant: &Grant) -> Result<(), &'static str> {
        let next = grant.token == before.token + 1;
        let told = matches!(grant.previous, DIED | EXPIRED | FORCED);
        if grant.token <= before.token {
            return Err("a token was given twice");
        }
        if grant.previous == FORCED || grant.previous == EXPIRED && !self.may_evict {
            return Err("revoked by nobody");
        }
        if told && grant.previous_token + 1 != grant.token {
            return Err("told of another predecessor");
        }
        if !next && !told {
            return Err("a predecessor died unheard of");
        }
        if !self.may_evict && before.has(Step::Lost) {
            return Err("robbed alive");
        }
        // One that may be evicted may come to write down its entry long after.
        if !self.may_evict && grant.enter < before.enter {
            return Err("in its section before its predecessor");
        }
        if !next {
            return Ok(());
        }
        if before.has(Step::Released) && told {
            return Err("released, and yet told as gone");
        }
        if before.has(Step::Lost) && !told {
            return Err("revoked, and yet told as released");
        }
        if !before.has(Step::Left) && !told {
            return Err("never left, and yet told as released");
        }
        Ok(())
    }

    /// The counters of one lock against the updates that their writers have reported.
    fn counters_of(&mut self, lock: u32, grants: &[Grant], board: &Board, wrong: &mut Vec<String>) {
        let at = lock as usize;
        let count = |step| grants.iter().filter(|grant| grant.has(step)).count() as u64;
        let resource = &board.resources[at];
        let (done, begun) = (count(Step::Wrote), count(Step::Writes));
        let shown = resource.read().wrapping_sub(self.unfenced[at]);
        self.tally.unfenced_updates += done;
        self.tally.unfenced_lost += done.saturating_sub(shown);
        if !self.may_evict && !(done..=begun).contains(&shown) {
            wrong.push(format!(
                "lock {lock}: the trusting counter shows {shown} of {done} updates ({begun} begun)"
            ));
        }
        self.unfenced[at] = resource.read();
        let refused = count(Step::FencedOut);
        let (done, begun) = (count(Step::FencedWrote), count(Step::FencedWrites));
        let shown = resource.fenced_since(self.fenced[at]);
        self.tally.fenced_updates += done;
        self.tally.fenced_refused += refused;
        self.tally.fenced_lost += done.saturating_sub(shown);
        if !(done..=begun).contains(&shown) {
            wrong.push(format!(
                "lock {lock}: the checking counter shows {shown} of {done} updates ({begun} begun)"
            ));
        }
        self.fenced[at] = resource.fenced_count();
    }
}
