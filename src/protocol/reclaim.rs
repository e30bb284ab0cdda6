//! Cleaning up behind sessions that are gone: the sweep, and the reset after a reboot.
//!
//! Each step is one CAS from an exact word, so a cleaner that dies leaves the rest for
//! the next one, and two cleaners do no harm.

use super::names::{Names, NamingWords};
use super::slot::Slot;
use super::sync::Ordering;
use super::wait::{self, Wake};
use super::word::{Owner, OwnerWord, Queue, Vacancy};

/// By how much a reset raises the table's tokens, beyond the highest that is on disk:
/// more grants than one name can have had since its page was last written back.
pub const RESET_TOKENS: u64 = 1 << 40;

/// Vacates every slot that a dead session still owns, as `Died`, and wakes its waiters.
/// `is_dead` must be certain, and stay so until the sweep has ended: the sweeper holds
/// the byte locks of the sessions that it names.
pub fn sweep(slots: &[Slot], is_dead: impl Fn(u32) -> bool, waker: &impl Wake) -> usize {
    let mut swept = 0;
    for slot in slots {
        loop {
            let seen = slot.owner();
            let Owner::Held(holder) = seen.owner() else {
                break;
            };
            if !is_dead(holder.session()) {
                break;
            }
            // Changed: a waiter has queued up, or has taken the slot over. Either
            // ends the loop soon: the dead session gets no new slots.
            if wait::vacate(slot, seen, Vacancy::Died(holder.pid()), waker) {
                swept += 1;
                break;
            }
        }
    }
    swept
}

/// Makes a table of an earlier boot usable again. The caller has it for itself: no
/// session is attached, and none can be until the new boot id is written.
///
/// What reached the disk may be torn, so the index is made anew from the names that
/// `is_whole` vouches for, and the slot of any other is wiped. Of those that are whole, a holder
/// becomes `Died`, a courtesy to an heir `Released`, and the rest stay. Repeating an interrupted
/// reset only raises the tokens again.
pub fn reset(names: &Names<'_>, is_whole: impl Fn(u32) -> bool) {
    let floor = names
        .slots
        .iter()
        .map(token_on_disk)
        .fold(names.naming.floor(), u64::max)
        .saturating_add(RESET_TOKENS);
    names.naming.raise_floor(floor);
    for entry in names.index {
        entry.swap(0, Ordering::Relaxed);
    }
    for (index, slot) in (0_u32..).zip(names.slots) {
        let word = OwnerWord::from_bits(slot.owner.load(Ordering::Relaxed));
        let whole = index != NamingWords::SLOT && is_whole(index);
        let vacancy = match word.owner() {
            Owner::Held(holder) if whole => Vacancy::Died(holder.pid()),
            Owner::Vacant(Vacancy::Offered | Vacancy::Kept(_)) if whole => Vacancy::Released,
            Owner::Vacant(vacancy) if whole => vacancy,
            _ => Vacancy::Fresh,
        };
        slot.owner.swap(
            word.queued(Queue::Idle)
                .vacated(vacancy)
                .at_token(floor)
                .bits(),
            Ordering::Relaxed,
        );
        slot.epoch
            .swap(OwnerWord::epoch_of(floor), Ordering::Relaxed);
        names.settle_after_reset(index, whole);
    }
    names.naming.finish_reset(names.slots.len() as u64);
}

fn token_on_disk(slot: &Slot) -> u64 {
    let word = OwnerWord::from_bits(slot.owner.load(Ordering::Relaxed));
    word.token_in(word.epoch_from(slot.epoch.load(Ordering::Relaxed)))
}
