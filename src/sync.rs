//! The facade that the protocol is compiled against: atomics, the orderings' table
//! look-up, and the widths that a model makes small.
//!
//! All shared words go through here. The model checker's crate has
//! a file of the same names over loom's atomics, and `src/protocol` cannot tell them apart.

pub(crate) use core::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use crate::protocol::ordering::Site;

/// The ordering at a named place. The models' version can weaken one place on request.
#[inline(always)]
pub(crate) const fn ord(site: Site) -> Ordering {
    site.ordering()
}

/// Bits of the generation that live in the owner word; models use 2, 6 and 28.
pub(crate) const GENERATION_BITS: u32 = 28;

/// 64-bit words of a name record: 255 bytes and one spare.
pub(crate) const NAME_WORDS: usize = 32;

/// 64-bit words of a note: 96 bytes.
pub(crate) const NOTE_WORDS: usize = 12;

/// Slots of which a session can show at once that it waits for them.
pub(crate) const WAIT_ENTRIES: usize = 8;
