//! Where a handle has found its name, in one word.

use crate::protocol::names::{RENAMES_MASK, Resolved, SLOT_BITS};
use crate::protocol::slot::Slot;
use crate::sync::{AtomicU64, Ordering};
use crate::view::View;

/// Where a name of a table was found: the slot's number above its rename count. Changes when the
/// name was recycled and came back elsewhere.
#[derive(Debug)]
pub(crate) struct FoundAt(AtomicU64);

/// What a [`FoundAt`] said at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Found(u64);

impl FoundAt {
    pub(crate) fn new(view: &View, place: Resolved) -> Self {
        Self(AtomicU64::new(Found::new(view, place).0))
    }

    #[inline(always)]
    pub(crate) fn load(&self) -> Found {
        Found(self.0.load(Ordering::Relaxed))
    }

    pub(crate) fn store(&self, view: &View, place: Resolved) {
        self.0.store(Found::new(view, place).0, Ordering::Relaxed);
    }
}

impl Clone for FoundAt {
    fn clone(&self) -> Self {
        Self(AtomicU64::new(self.load().0))
    }
}

impl Found {
    const SLOT_SHIFT: u32 = u64::BITS - SLOT_BITS;

    fn new(view: &View, place: Resolved) -> Self {
        // What `slot` relies on.
        let slots = view.geometry.slot_count();
        assert!((place.slot as usize) < slots, "no such slot");
        Self(u64::from(place.slot) << Self::SLOT_SHIFT | place.renames & RENAMES_MASK)
    }

    const fn index(self) -> u32 {
        (self.0 >> Self::SLOT_SHIFT) as u32
    }

    /// The slot, without another look at whether there is one of that number: each grant comes by
    /// here.
    ///
    /// # Safety
    ///
    /// `view` must be of the table that this was found in.
    #[inline(always)]
    pub(crate) unsafe fn slot(self, view: &View) -> &Slot {
        // SAFETY: the number was compared with the table's geometry, which does not change.
        unsafe { view.mapping.slots().get_unchecked(self.index() as usize) }
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

    #[test]
    fn what_was_found_comes_back_and_is_good_for_its_own_count_of_renames_alone() {
        let dir = tempfile::tempdir().unwrap();
        let table = LockTable::options()
            .slots(9)
            .open(dir.path().join("t"))
            .unwrap();
        let lock = table.lock("job").unwrap();
        let view = &lock.session().view;
        for slot in [0, 9] {
            for renames in [0, 6, RENAMES_MASK - 1, RENAMES_MASK] {
                let place = Resolved { slot, renames };
                let at = FoundAt::new(
                    view,
                    Resolved {
                        slot: 1,
                        renames: 2,
                    },
                );
                at.store(view, place);
                let found = at.clone().load();
                assert_eq!(found, at.load());
                assert_eq!(found.resolved(), place);
                // SAFETY: it is of this table.
                let its = unsafe { found.slot(view) };
                assert_eq!(view.index_of(its), slot);
                assert!(std::ptr::eq(its, view.slot(slot)));
                assert!(found.is_as_of(renames));
                assert!(!found.is_as_of(renames ^ 1) && !found.is_as_of(renames ^ 1 << 39));
                // The count goes on in the slot, where there is room.
                assert!(found.is_as_of(renames + RENAMES_MASK + 1));
            }
        }
    }

    #[test]
    #[should_panic(expected = "no such slot")]
    fn a_slot_that_the_table_does_not_have_is_not_found() {
        let dir = tempfile::tempdir().unwrap();
        let table = LockTable::options()
            .slots(9)
            .open(dir.path().join("t"))
            .unwrap();
        let lock = table.lock("job").unwrap();
        let view = &lock.session().view;
        let slot = view.geometry.slot_count() as u32;
        let _ = FoundAt::new(view, Resolved { slot, renames: 2 });
    }
}
