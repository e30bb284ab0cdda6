//! What the processes of a soak see of each other besides the table under test: seats,
//! orders, the stamps that order all events, and the resources that the locks protect.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::shared::Words;

/// The most workers.
pub const SEATS: usize = 32;
/// The most locks.
pub const LOCKS: usize = 16;

/// One for the whole campaign.
#[repr(C, align(64))]
pub struct Board {
    stamp: AtomicU64,
    /// Set: leave your section and end.
    pub stop: AtomicU32,
    /// Programs that replaced themselves: as good as a death to the table.
    pub execs: AtomicU32,
    /// Children forked inside a section.
    pub forks: AtomicU32,
    /// Waiters killed by the worker that had just woken them.
    pub wake_kills: AtomicU32,
    /// Sections entered while a living process had the oracle of the same lock.
    pub double_owners: AtomicU32,
    /// Times a dead holder's file lock was still there, and was waited for.
    pub remnants: AtomicU32,
    /// Times a worker took the table's pages out of its page tables.
    pub unmaps: AtomicU32,
    /// Whatever else should not have happened; said on standard error as well.
    pub violations: AtomicU32,
    /// One a worker.
    pub seats: [Seat; SEATS],
    /// One a lock.
    pub resources: [Resource; LOCKS],
}

// SAFETY:
// - all fields are atomics, for which zeroes are valid.
unsafe impl Words for Board {}

impl Board {
    /// The next moment in the one order of all events of the campaign. A counter and no
    /// clock: workers have clocks of their own, in time namespaces.
    pub fn stamp(&self) -> u64 {
        self.stamp.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// Whether the workers are to end.
    pub fn is_stopping(&self) -> bool {
        self.stop.load(Ordering::SeqCst) != 0
    }

    /// Counts a violation and says what it is.
    pub fn violation(&self, what: impl std::fmt::Display) {
        self.violations.fetch_add(1, Ordering::SeqCst);
        eprintln!("violation: {what}");
    }
}

/// A worker's place, whichever process has it at the time.
#[repr(C, align(64))]
pub struct Seat {
    /// Its process id in the arena, 0 while nobody sits there.
    pub pid: AtomicU32,
    doing: AtomicU32,
    order: AtomicU32,
    /// How many processes sat here before: the seed's other half.
    pub incarnation: AtomicU32,
}

/// What a worker is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doing {
    /// Nothing that matters.
    Idle,
    /// Trying to get the lock.
    Waiting(u32),
    /// Holding the lock.
    Section(u32),
    /// The same, and in no hurry.
    Dawdling(u32),
}

impl Doing {
    fn word(self) -> u32 {
        match self {
            Self::Idle => 0,
            Self::Waiting(lock) => 1 << 16 | lock,
            Self::Section(lock) => 2 << 16 | lock,
            Self::Dawdling(lock) => 3 << 16 | lock,
        }
    }
}

/// What the nemesis has a worker do to itself or to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Order {
    /// Nothing.
    None,
    /// Fork inside the next section: the child tries its parent's handles and ends.
    Fork,
    /// The same, but the child outlives the section, and perhaps its parent.
    ForkAndStay,
    /// Become a new program inside the next section, holding the lock.
    Exec,
    /// Kill a waiter right after the next release that wakes it.
    KillWoken,
    /// Take the table's pages out of the page tables.
    Unmap,
    /// Take your time in the next section.
    Dawdle,
}

impl Seat {
    /// Shows what this worker is doing.
    pub fn show(&self, doing: Doing) {
        self.doing.store(doing.word(), Ordering::SeqCst);
    }

    /// What the worker was doing a moment ago.
    pub fn doing(&self) -> Doing {
        let word = self.doing.load(Ordering::SeqCst);
        match word >> 16 {
            1 => Doing::Waiting(word & 0xffff),
            2 => Doing::Section(word & 0xffff),
            3 => Doing::Dawdling(word & 0xffff),
            _ => Doing::Idle,
        }
    }

    /// Leaves an order, in the place of any other.
    pub fn order(&self, order: Order) {
        self.order.store(order as u32, Ordering::SeqCst);
    }

    /// Takes the order if it is one of these.
    pub fn take_order(&self, which: &[Order]) -> Order {
        let word = self.order.load(Ordering::SeqCst);
        let Some(&order) = which.iter().find(|&&order| order as u32 == word) else {
            return Order::None;
        };
        match self
            .order
            .compare_exchange(word, 0, Ordering::SeqCst, Ordering::SeqCst)
        {
            Ok(_) => order,
            Err(_) => Order::None,
        }
    }
}

/// What a lock protects: a counter that trusts the lock, and one that checks tokens.
#[repr(C, align(64))]
pub struct Resource {
    unfenced: AtomicU64,
    /// `highest token : 36 | count : 28`, changed by one compare-and-swap.
    fenced: AtomicU64,
}

const COUNT_BITS: u32 = 28;
const COUNT_MASK: u64 = (1 << COUNT_BITS) - 1;

impl Resource {
    /// What the trusting counter shows.
    pub fn read(&self) -> u64 {
        self.unfenced.load(Ordering::SeqCst)
    }

    /// Overwrites the trusting counter, whoever has been there since it was read.
    pub fn write(&self, count: u64) {
        self.unfenced.store(count, Ordering::SeqCst);
    }

    /// What the checking counter shows.
    pub fn fenced_count(&self) -> u64 {
        self.fenced.load(Ordering::SeqCst) & COUNT_MASK
    }

    /// The checking counter is told of a token, and from now on refuses lower ones.
    /// `None` if it has accepted a higher one already.
    pub fn fenced_read(&self, token: u64) -> Option<u64> {
        self.fenced
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |word| {
                (word >> COUNT_BITS <= token).then_some(token << COUNT_BITS | word & COUNT_MASK)
            })
            .ok()
            .map(|word| word & COUNT_MASK)
    }

    /// Overwrites the checking counter, unless it has accepted a higher token.
    pub fn fenced_write(&self, token: u64, count: u64) -> bool {
        self.fenced
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |word| {
                (word >> COUNT_BITS <= token).then_some(token << COUNT_BITS | count & COUNT_MASK)
            })
            .is_ok()
    }

    /// How far a count has come since an earlier one, across its wrap.
    pub fn fenced_since(&self, earlier: u64) -> u64 {
        self.fenced_count().wrapping_sub(earlier) & COUNT_MASK
    }
}
