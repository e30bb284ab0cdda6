//! The protocol: every change that processes make to shared words, and nothing else.
//!
//! No clock, no system call, no allocation on the way to a lock, no mapping, no `unsafe`:
//! time, liveness and waiting come in as arguments, so that the very source that ships is
//! what the model checker runs (`loom-tests/`).
//!
//! # The owner word
//!
//! ```text
//!  63        42 41        30 29           2 1   0
//! +------------+------------+-------------+-----+
//! |  PID : 22  | session:12 | generation  |queue|   queue: what those who wait rely on
//! +------------+------------+-------------+-----+
//! ```
//!
//! One `AtomicU64` a slot; ownership changes by one compare-and-swap of it, from the exact
//! word that was read and judged, or that a release must have left. `word.rs` has the reading
//! of every bit pattern.
//!
//! # Transitions
//!
//! `g` is the generation, `q` the queue; `q'` is `q` with `Asleep` turned into `Heir`, and
//! then one sleeper is woken. Whatever is not named stays. *Ditto*: as for a vacant one.
//! *Nameable*: `Fresh` or `Released`, or without a name and abandoned. Functions without a
//! path are `Slot`'s. *Its news*: how the predecessor went, as the grant found it.
//!
//! | from               | to                | by                       | function                |
//! |--------------------|-------------------|--------------------------|-------------------------|
//! | vacant, g, q       | (me, g+1, q)      | an acquirer              | `take`                  |
//! | vacant, g, q       | (me, g+1, Asleep) | an heir; after an offer  | `take`                  |
//! | Released, g, Idle  | (me, g+1, Idle)   | who knows g, by guess    | `take_after`            |
//! | Kept, g, Heir      | (me, g+1, Heir)   | who kept it, by guess    | `take_after`            |
//! | (dead, g, q)       | (me, g+1, ditto)  | a waiter, reclaiming     | `take`                  |
//! | (expired, g, q)    | (me, g+1, ditto)  | a waiter, evicting       | `take`                  |
//! | (me, g, q)         | Released, g, q'   | the holder               | `release`               |
//! | (me, g, q)         | Released, g, q'   | the same, before others  | `release_before_others` |
//! | (me, g, Idle)      | Released, g, Idle | the same, at first       | `release_quietly`       |
//! | (me, g, not Idle)  | Kept, g, q'       | the holder, in its turn  | `release_before_others` |
//! | (me, g, Heir)      | Kept, g, Heir     | the same, at first       | `release_quietly`       |
//! | (me, g, not Idle)  | Offered, g, q'    | the same, after its turn | `release_before_others` |
//! | (me, g, q)         | Panicked, g, q'   | the holder, unwinding    | `release`               |
//! | (me, g, q)         | its news, g, q'   | the holder, declining    | `undo`                  |
//! | (dead, g, q)       | Died, g, q'       | the sweep of a session   | `reclaim::sweep`        |
//! | (any, g, q)        | Forced, g, q'     | an operator              | `vacate`                |
//! | abandoned, g       | Released, g       | operator, acknowledging  | `acknowledge`           |
//! | (h, g, not Asleep) | (h, g, Asleep)    | a waiter, going to sleep | `queue_up`              |
//! | (h, g, not Asleep) | (h, g, Asleep)    | an heir that gives up    | `queue_up`              |
//! | (h, g, Idle)       | (h, g, Heir)      | a waiter, staying awake  | `queue_up`              |
//! | (me, g, Asleep)    | (me, g, Heir)     | the holder, in its turn  | `queue_up`              |
//! | (h, g, Heir)       | (h, g, Asleep)    | a waker, finding nobody  | `queue_up`              |
//! | vacant, g, Heir    | open, g, Idle     | the same; it wakes again | `desert`                |
//! | nameable, g, Idle  | RENAMING, g+1     | the naming lock's holder | `Names`                 |
//! | RENAMING, g        | RENAMING, g' > g  | the same, raising tokens | `Names`                 |
//! | RENAMING, g        | Fresh, g          | the same, or who repairs | `Names`                 |
//! | any, g, q          | vacant, g', Idle  | a reset after a reboot   | `reclaim::reset`        |
//!
//! A namer in want of room wakes, and may find nobody, too. `Corrupt` has no way in and two
//! ways out: the operator's, and the reset.
//!
//! # Invariants
//!
//! 1. *One owner.* Only `take` and `take_after` write an owner, from a word that was vacant or
//!    whose owner was judged gone, so grants are totally ordered by the word's modification
//!    order.
//! 2. *The token comes with ownership.* Both count the generation up in the CAS that grants.
//!    Nothing else but the raising of a nameless slot's tokens, and a reset, changes it.
//! 3. *The epoch word lags by one at most.* It holds the generation's high part; the top
//!    bit of the in-word generation is the epoch's parity and says whether it lags.
//!    `take` lets nobody cross into an epoch before the epoch word has reached the one
//!    before, and whoever crosses moves it on before the token is given out. Under `Released`
//!    and `Kept` it does not lag at all, so `take_after` need not look.
//! 4. *A stale guard changes nothing.* A release compares the epoch word and then, by its
//!    CAS, the whole owner word: all 64 bits of the token. One way is left: the thread of a
//!    revoked guard stops between those two instructions until its own process owns the slot
//!    again with the same in-word generation, half a wrap (2^27 grants) later or more. The
//!    models assume that no such wrap falls in between; nor a whole one between a grant and
//!    its reading of the epoch, after which `Slot::settle` would take the word for its own.
//! 5. *Nobody sleeps unheard.* Whoever sleeps does so under a word that says `Asleep`, whose
//!    vacating wakes one, or `Heir`, where one is awake that ends in `Asleep` or in a wake
//!    (`wait.rs` has the cases). Only `desert` turns a queue back to `Idle`, and wakes
//!    after it; and a reset, when nobody is there. What dies of this with a killed process, one
//!    bounded sleep makes good.
//! 6. *Every step stands alone.* A process that dies between any two shared steps leaves
//!    words from which the table above goes on, with `Died` where it owned a slot.
//!
//! # Widths, and why these
//!
//! - PID 22: Linux's own limit (2^22). It is for people and for the compare.
//! - Session 12: 4088 processes a table; the top eight indices say how a slot was vacated.
//! - Generation 28, of which 27 count within an epoch: at a grant every 10 ns a wrap takes
//!   two seconds and a half, so nothing but the exception in (4) depends on its rarity. The
//!   epoch word carries the other 37 bits: centuries.
//! - Queue 2: three states. One bit, "someone may sleep", would do for safety; the other
//!   tells a holder that somebody is awake, so that barging in costs no wake.
//!
//! # Whose turn it is
//!
//! One that holds a slot in its turn calls the heir while it still holds, and then leaves the
//! slot `Kept`. Called after that, as by any other release, the heir would find the slot
//! vacant for as long as the call takes, which is longer than anybody holds back for `Kept`.
//!
//! A turn is the process's, not the grant's: one that holds for long and comes back at once
//! finds the heir asleep again at each release (it was called, saw the lock held for too long,
//! and had no reason to stay awake). So the offer goes out with the call, too: from `Asleep` as
//! from `Heir`, whatever the queue was at the grant.
//!
//! `Kept` and `Offered` are vacant words: anybody may take them, and ownership is never
//! given to somebody who did not ask with a CAS of its own. So a handover cannot hit a
//! waiter that has just left, been stopped or died: its slot is taken by the next one. The
//! plan to have the releaser write the waiter in as the owner would have needed a second
//! word that names the waiter, and a way back for one that leaves at that very moment.
//!
//! Turns are for slots that are held nearly all of the time. Where one is often free, because its
//! holders have other things to do between two grants, a turn would keep it from those who
//! come for it, and nobody would be using it. There the release leaves `Released` whoever
//! waits, and whoever comes may barge in. Each process judges that by what it has seen, and
//! judges anew once it has got a slot before all others for too long (`contention/`, outside).
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
//! | `Rename` (to even)                 | `RenameRead`                        | a name's bytes                        |
//! | `Rename` (to odd), `RenameFence`   | `NameFence`                         | that the bytes are being changed      |
//! | `Note`                             | `NoteRead`                          | a note's text                         |
//!
//! The two fences also guard a note's text and a session's fields, once a `Note` or a `Record`
//! has withdrawn the old.
//!
//! Plain `Relaxed` is used where one process at a time writes (the naming words, under
//! the naming lock, whose own word orders them), for the index (an entry only says where to
//! look), where a value is only shown, and for failed compare-and-swaps, whose value nobody
//! uses.

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
