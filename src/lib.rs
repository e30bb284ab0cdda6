//! A lock table in a file, for the processes of one machine.
//!
//! Every process that wants to coordinate maps the same file; a named slot is taken by one
//! compare-and-swap on its owner word, which carries the owner's PID. There is no server.
//! A crashed holder is detected by the kernel, a hung one by its heartbeat; every grant
//! carries a fencing token; an operator sees and can force everything with the `caslock`
//! command.
//!
//! ```
//! # let dir = tempfile::tempdir()?;
//! # let path = dir.path().join("app.table");
//! use caslock::LockTable;
//!
//! let table = LockTable::open(&path)?;          // opens, or creates with the defaults
//! let lock = table.lock("nightly-report")?;     // resolves the name once
//! let guard = lock.acquire()?;                  // or try_acquire, acquire_timeout
//! if guard.previous().is_abandoned() {
//!     // The last holder did not release: check what it left half done.
//! }
//! println!("holding it with token {}", guard.token());
//! guard.release()?;                             // dropping releases, too
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Terms
//!
//! - *Lock table*: the file, and what is in it. A *slot* is one lock, with its *lock name*.
//! - *Session*: a process's attachment to a table, with its *heartbeat*.
//! - *Grant*: one ownership of a slot, numbered by its *fencing token*.
//! - *Reclaim* from a dead holder, *evict* an expired one, *force-release* by an operator:
//!   the ways in which a grant is *revoked*. Its guard is then *stale*, and *lost*.
//! - *Abandoned*: free, and the last holder did not release; the next is told.
//!
//! # The promise
//!
//! For cooperating processes on one booted kernel that map the same file on a local
//! filesystem, each of which may crash or be paused at any instruction:
//!
//! - a slot has at most one owner, and its tokens only ever go up;
//! - a grant stands until its holder releases it, dies, is silent for a whole lease (in
//!   [`Reclaim::OnExpiry`] tables), or an operator takes it;
//! - a stale guard is harmless: it cannot alter the lock any more, and its release answers
//!   [`Lost`];
//! - SIGKILL at any instruction leaves every slot free or reclaimable.
//!
//! A holder that was evicted while it was paused still runs its own code until it looks.
//! Hand [`Guard::token`] to the resource that the lock protects, and let it refuse lower
//! ones, where that matters; or create the table with [`Reclaim::OnDeath`].
//!
//! # Processes that fork
//!
//! Sessions do not cross a fork: in the child, handles answer [`Forked`] and guards do
//! nothing; dropped, they close what the child has inherited. The child opens the table anew.
//! Exec ends the session; threads share it. Forks of a process wait while it opens a table: do
//! not open one with a lock held that a `pthread_atfork(3)` handler takes.

mod attendance;
mod blocking;
mod checkup;
mod contention;
mod error;
mod found;
mod guard;
mod holder;
mod inspect;
mod layout;
mod lock;
mod mapping;
mod os;
mod place;
mod policy;
mod protocol;
mod runs;
mod session;
mod sync;
mod table;
mod view;

pub use attendance::Attendance;
#[doc(hidden)]
pub use checkup::{Checkup, Stray};
pub use error::{
    AcquireError, ForceReleaseError, Forked, InspectError, LockError, Lost, LostHow, NoteError,
    OpenError, OpenPurpose, TableReplaced,
};
pub use guard::Guard;
pub use holder::{
    CommandName, Departed, FencingToken, Holder, Liveness, Previous, human, printable,
};
pub use inspect::{Forced, Inspector, SessionInfo, SlotInfo, SlotState, Snapshot, TableInfo};
pub use lock::Lock;
#[doc(hidden)]
pub use os::byte_lock::session_byte;
pub use policy::Reclaim;
pub use table::{LockTable, Options};

/// The longest lock name, in bytes.
pub const NAME_MAX: usize = protocol::names::Key::MAX_LEN;

/// The longest note, in bytes.
pub const NOTE_MAX: usize = protocol::names::Note::MAX_LEN;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
