//! Model-checks the protocol that caslock ships, on its own source.
//!
//! The files of `src/protocol` are compiled here once more, unchanged, against loom's
//! atomics ([`atomic`]), in worlds that differ in the width of the in-word generation:
//! [`wide`] as it ships, [`tiny`] with two bits, so that it wraps every few grants. The
//! build also makes worlds with one planted bug each ([`planted`]), from a copy of the
//! same source with one place changed, to see that the models notice.

// Compiling the same source in several worlds is what this crate is for.
#![allow(clippy::duplicate_mod)]

pub mod atomic;
pub mod check;
pub mod futex;
pub mod report;
#[cfg(all(target_os = "linux", target_pointer_width = "64"))]
mod stacks;
pub mod stop;
pub mod weaken;

/// The widths that ship, but for short names.
#[path = "."]
pub mod wide {
    /// How wide things are.
    pub mod widths {
        /// As shipped.
        pub const GENERATION_BITS: u32 = 28;
        /// Two words make a name that can be torn.
        pub const NAME_WORDS: usize = 2;
        /// Two words make a note that can be torn.
        pub const NOTE_WORDS: usize = 2;
        /// One entry is enough: they only show.
        pub const WAIT_ENTRIES: usize = 1;
    }

    #[path = "model.rs"]
    pub mod model;
    #[path = "../../src/protocol/mod.rs"]
    pub mod protocol;
    #[path = "scenarios/mod.rs"]
    pub mod scenarios;
    #[path = "sync.rs"]
    pub mod sync;
}

/// Two bits of generation: every second grant starts an epoch, every fourth wraps.
#[path = "."]
pub mod tiny {
    /// How wide things are.
    pub mod widths {
        pub use crate::wide::widths::{NAME_WORDS, NOTE_WORDS, WAIT_ENTRIES};

        /// The least that has a top bit and another.
        pub const GENERATION_BITS: u32 = 2;
    }

    #[path = "model.rs"]
    pub mod model;
    #[path = "../../src/protocol/mod.rs"]
    pub mod protocol;
    #[path = "scenarios/mod.rs"]
    pub mod scenarios;
    #[path = "sync.rs"]
    pub mod sync;
}

/// Worlds with one planted bug each.
pub mod planted {
    include!(concat!(env!("OUT_DIR"), "/planted.rs"));

    include!("planted_list.rs");
}
