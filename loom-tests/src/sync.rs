//! The facade of `src/sync.rs`, by the same names, over loom's atomics: orderings can be
//! weakened, and the widths are this world's.

pub use crate::atomic::{AtomicU32, AtomicU64, Ordering, fence};

pub use super::widths::{GENERATION_BITS, NAME_WORDS, NOTE_WORDS, WAIT_ENTRIES};

use super::protocol::ordering::Site;

/// The ordering at a named place, one step weaker if the running model asks for it.
#[must_use]
pub fn ord(site: Site) -> Ordering {
    crate::weaken::apply(site as usize, site.ordering())
}
