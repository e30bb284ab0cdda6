//! The protocol: every change that processes make to shared words, and nothing else.
//!
//! No clock, no system call, no allocation on the way to a lock, no mapping, no `unsafe`:
//! time, liveness and waiting come in as arguments, so that the very source that ships is
//! what the model checker runs (`loom-tests/`).
//!
//! # The owner word
//!
//! ```text
//!  63        42 41        30 29           1   0
//! +------------+------------+-------------+---+
//! |  PID : 22  | session:12 | generation  | W |   W: someone may be waiting
//! +------------+------------+-------------+---+
//! ```
//!
//! One `AtomicU64` a slot; ownership changes by one compare-and-swap of it, from the exact
//! word that was read and judged. `word.rs` has the reading of every bit pattern.
//!
//! # Transitions
//!
//! `g` is the generation; whatever is not named stays.
//!
//! | from                   | to                 | by                        | function            |
//! |------------------------|--------------------|---------------------------|---------------------|
//! | vacant, g, W           | (me, g+1, W)       | an acquirer               | `Slot::take`        |
//! | (dead, g, W)           | (me, g+1, W)       | a waiter, reclaiming      | `Slot::take`        |
//! | (expired, g, W)        | (me, g+1, W)       | a waiter, evicting        | `Slot::take`        |
//! | (me, g, W)             | Released, g, 0     | the holder                | `Slot::release`     |
//! | (me, g, W)             | Panicked, g, 0     | the holder, unwinding     | `Slot::release`     |
//! | (me, g, W)             | as it was, g, 0    | the holder, declining     | `Slot::undo`        |
//! | (dead, g, W)           | Died, g, 0         | the sweep of a session    | `reclaim::sweep`    |
//! | (any, g, W)            | Forced, g, 0       | an operator               | `Slot::vacate`      |
//! | abandoned, g           | Released, g        | an operator, acknowledging| `Slot::vacate`      |
//! | (h, g, 0)              | (h, g, 1)          | a waiter, announcing      | `Slot::announce`    |
//! | Fresh or Released, g   | RENAMING, g+1      | the naming lock's holder  | `Names`             |
//! | RENAMING, g            | RENAMING, g' > g   | the same, raising tokens  | `Names`             |
//! | RENAMING, g            | Fresh, g           | the same, or its repairer | `Names`             |
//!
//! `Corrupt` has no way in and one way out: the operator's.
//!
//! # Invariants
//!
//! 1. *One owner.* Only `take` writes an owner, from a word that was vacant or whose owner
//!    was judged gone, so grants are totally ordered by the word's modification order.
//! 2. *The token comes with ownership.* `take` counts the generation up in the CAS that
//!    grants. Nothing else but the raising of a nameless slot's tokens changes it.
//! 3. *The epoch word lags by one at most.* It holds the generation's high part; the top
//!    bit of the in-word generation is the epoch's parity and says whether it lags.
//!    `take` lets nobody cross into an epoch before the epoch word has reached the one
//!    before, and whoever crosses moves it on before the token is given out.
//! 4. *A stale guard changes nothing.* A release compares the epoch word and then, by its
//!    CAS, the whole owner word: all 64 bits of the token. What is left is a guard that was
//!    revoked, whose thread stops between those two instructions until its own process
//!    owns the slot again with the very same in-word generation, half a wrap (2^28 grants)
//!    later or more. The models take the bound that no such wrap falls in between.
//! 5. *`W` is never dropped by someone who does not wake.* Release, sweep and force clear
//!    it and wake; a take keeps it; a waiter that has slept takes the slot with it set.
//! 6. *Every step stands alone.* A process that dies between any two shared steps leaves
//!    words from which the table above goes on, with `Died` where it owned a slot.
//!
//! # Widths, and why these
//!
//! - PID 22: Linux's own limit (2^22). It is for people and for the compare.
//! - Session 12: 4088 processes a table; the top eight indices say how a slot was vacated.
//! - Generation 29, of which 28 count within an epoch: at a grant every 10 ns a wrap takes
//!   five seconds, so nothing but the exception in (4) depends on its rarity. The epoch
//!   word carries the other 36 bits: centuries.
//!
//! An evicted session does not attach anew, as was first planned: eviction is a matter of
//! one slot's word, and the generation in it already tells the stale grant from every
//! later one, so a session that comes back may keep what nobody took from it.
//!
//! # Orderings
//!
//! Each ordering has a name in `ordering.rs`, with its argument. The pairs:
//!
//! | release side                       | acquire side                        | what it carries                       |
//! |------------------------------------|-------------------------------------|---------------------------------------|
//! | `Vacate`, and `Grant` on a takeover| `Grant`, `Owner`                    | the critical section; epoch and name  |
//! | the last act of a dead process     | the liveness probe, outside         | its critical section, then `Grant`    |
//! | `EpochHelp`                        | `Epoch`                             | that the owner word has moved on      |
//! | `WakeBump`                         | `Wake`                              | the vacated word, before the new count|
//! | `Record`                           | `RecordRead`                        | a session's fields                    |
//! | `IndexPublish`, `Rename` (to even) | `Index`, `RenameRead`               | a name's bytes                        |
//! | `Rename` (to odd), `RenameFence`   | `NameFence`                         | that the bytes are being changed      |
//! | `Note`                             | `NoteRead`                          | a note's text                         |
//!
//! Plain `Relaxed` is used where one process at a time writes (the naming words, under
//! the naming lock, whose own word orders them), where a value is only shown, and for
//! failed compare-and-swaps, whose value nobody uses.

pub mod names;
pub mod ordering;
pub mod reclaim;
pub mod session;
pub mod slot;
pub mod wait;
pub mod word;

use super::sync;

/// Folds the offsets of a struct's fields into one number: another order, another number.
const fn layout_of(offsets: &[usize]) -> u64 {
    let mut layout = offsets.len() as u64;
    let mut at = 0;
    while at < offsets.len() {
        layout = layout
            .wrapping_mul(1_000_003)
            .wrapping_add(offsets[at] as u64);
        at += 1;
    }
    layout
}
