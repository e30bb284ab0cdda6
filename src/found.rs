//! A handle's way to its slot: the session, and where in its table the name was found, in one word.

use std::sync::Arc;

use crate::protocol::names::{RENAMES_MASK, Resolved, SLOT_BITS};
use crate::protocol::slot::Slot;
use crate::session::Session;
use crate::sync::{AtomicU64, Ordering};

/// A name of a session's table, and the slot that it was found in. That changes when the name was
/// recycled and came back elsewhere.
pub(crate) struct FoundName {
    session: Arc<Session>,
    /// A [`Found`], whose number is always of a slot that the session's table has.
    found: AtomicU64,
}

/// Where a name was found at one moment: the slot's number above its rename count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Found(u64);

impl FoundName {
    pub(crate) fn new(session: &Arc<Session>, place: Resolved) -> Self {
        Self {
            session: Arc::clone(session),
            found: AtomicU64::new(Found::in_table_of(session, place).0),
        }
    }

    #[inline(always)]
    pub(crate) fn session(&self) -> &Session {
        &self.session
    }

    /// Where the name was found last.
    #[inline(always)]
    pub(crate) fn found(&self) -> Found {
        Found(self.found.load(Ordering::Relaxed))
    }

    /// The same, and the slot, without another look at whether there is one of that number: each
    /// grant comes by here.
    #[inline(always)]
    pub(crate) fn look(&self) -> (Found, &Slot) {
        let found = self.found();
        let slots = self.session.view.mapping.slots();
        // SAFETY: what is stored was compared with the number of the session's slots, and neither
        // the session nor its mapping is ever another.
        let slot = unsafe { slots.get_unchecked(found.index() as usize) };
        (found, slot)
    }

    /// The name was found anew.
    pub(crate) fn move_to(&self, place: Resolved) {
        let found = Found::in_table_of(&self.session, place);
        self.found.store(found.0, Ordering::Relaxed);
    }
}

impl Clone for FoundName {
    fn clone(&self) -> Self {
        Self {
            session: Arc::clone(&self.session),
            found: AtomicU64::new(self.found().0),
        }
    }
}

impl Found {
    const SLOT_SHIFT: u32 = u64::BITS - SLOT_BITS;

    /// Without what the count, a word of the file, has where the number goes.
    fn in_table_of(session: &Session, place: Resolved) -> Self {
        let slots = session.view.geometry.slot_count();
        let found = Self(u64::from(place.slot) << Self::SLOT_SHIFT | place.renames & RENAMES_MASK);
        assert!((found.index() as usize) < slots, "no such slot");
        found
    }

    const fn index(self) -> u32 {
        (self.0 >> Self::SLOT_SHIFT) as u32
    }

    /// Whether a slot that counts so many renames has had its name since this was found.
    #[inline(always)]
    pub(crate) const fn is_as_of(self, renames: u64) -> bool {
        // Without the slot's number, which nothing but this word has.
        (self.0 ^ renames) & RENAMES_MASK == 0
    }

    pub(crate) const fn resolved(self) -> Resolved {
        Resolved {
            slot: self.index(),
            renames: self.0 & RENAMES_MASK,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::LockTable;

    fn with_name(test: impl FnOnce(FoundName)) {
        let dir = tempfile::tempdir().unwrap();
        let options = LockTable::options().slots(9).open(dir.path().join("t"));
        let table = options.unwrap();
        let (slot, renames) = (1, 2);
        test(FoundName::new(table.attached(), Resolved { slot, renames }));
    }

    #[test]
    fn what_was_found_comes_back_and_is_good_for_its_own_count_of_renames_alone() {
        with_name(|name| {
            let view = &name.session().view;
            for slot in [0, 9] {
                for renames in [0, 6, RENAMES_MASK - 1, RENAMES_MASK] {
                    let place = Resolved { slot, renames };
                    name.move_to(place);
                    let (found, its) = name.look();
                    assert_eq!(found, name.found());
                    assert_eq!(found, name.clone().found());
                    assert_eq!(found.resolved(), place);
                    assert_eq!(view.index_of(its), slot);
                    assert!(std::ptr::eq(its, view.slot(slot)));
                    assert!(found.is_as_of(renames));
                    assert!(!found.is_as_of(renames ^ 1) && !found.is_as_of(renames ^ 1 << 39));
                    // The count goes on in the slot, where there is room; not into the number.
                    let counted_on = renames.wrapping_add(RENAMES_MASK + 1);
                    assert!(found.is_as_of(counted_on));
                    let renames = counted_on;
                    name.move_to(Resolved { slot, renames });
                    assert_eq!(found, name.found());
                }
            }
        });
    }

    #[test]
    #[should_panic(expected = "no such slot")]
    fn a_slot_that_the_table_does_not_have_is_not_found() {
        with_name(|name| {
            let slot = name.session().view.geometry.slot_count() as u32;
            name.move_to(Resolved { slot, renames: 2 });
        });
    }
}
