//! Cleaning up behind sessions that are gone: the sweep, their records, and the reset after a
//! reboot.
//!
//! Each step is one CAS from an exact word, so a cleaner that dies leaves the rest for
//! the next one, and two cleaners do no harm.

use super::names::{Names, NamingWords};
use super::session::{LifeSign, SessionRecord};
use super::slot::Slot;
use super::sync::Ordering;
use super::wait::{self, Wake};
use super::word::{Owner, OwnerWord, Queue, Vacancy};

/// By how much a reset raises the table's tokens, beyond the highest that is on disk:
/// more grants than one name can have had since its page was last written back.
pub const RESET_TOKENS: u64 = 1 << 40;

/// Who lives, by the kernel's word: each session has its byte to itself, from before it opens
/// its record until nothing of its process can act any more. Its witness, if it shares one, is
/// locked from before it opens its record, too, until nobody is left who has it.
pub trait Kernel {
    /// Why the kernel could not be asked.
    type Error;

    /// Whether somebody else has the session's byte.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    fn is_held(&self, session: u32) -> Result<bool, Self::Error>;

    /// Whether anybody has the witness of this incarnation of the session.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    fn is_witnessed(&self, session: u32, incarnation: u64) -> Result<bool, Self::Error>;
}

/// The sessions' bytes, to be taken.
pub trait Bytes: Kernel {
    /// Bars the byte, perhaps beside others: nobody can take it from here on, and it is
    /// [held](Kernel::is_held) by nobody. False if somebody else has it.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    fn try_bar(&self, session: u32) -> Result<bool, Self::Error>;

    /// Takes the byte, which this one has barred; false if somebody else bars it, too.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    fn try_lock(&self, session: u32) -> Result<bool, Self::Error>;

    /// Gives the byte back, be it barred or taken.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    fn unlock(&self, session: u32) -> Result<(), Self::Error>;
}

/// Whether anybody is left who acts for the session whose sign of life was read: its own process,
/// or one that has inherited its witness.
///
/// | record            | byte   | witness   | the session                          |
/// |-------------------|--------|-----------|--------------------------------------|
/// | any               | locked | any       | lives, or another attaches           |
/// | active, shared    | free   | locked    | lives on in what it has started      |
/// | active, shared    | free   | free      | is dead                              |
/// | active, by itself | free   | not asked | is dead                              |
/// | clean             | free   | not asked | is over: its record is to be claimed |
///
/// One is asked for after the other, and neither comes back: the byte is taken again only by the
/// record's next session, once no slot names this one, and a witness is had from who has it.
///
/// # Errors
///
/// When the kernel refuses.
pub fn lives<K: Kernel>(
    record: &SessionRecord,
    session: u32,
    life: &LifeSign,
    kernel: &K,
) -> Result<bool, K::Error> {
    Ok(kernel.is_held(session)?
        || (record.has_shared(life) && kernel.is_witnessed(session, life.incarnation())?))
}

/// Takes the byte of a record that was closed or never used, so that no slot names it; `None`
/// if none is to be had.
///
/// The record is looked at again with its byte barred, and not yet taken: another session may have
/// come into it since, and died, and a claimer that is stopped there must not make it look alive.
/// Of two that bar one at the same time neither may get it: who finds none comes again, once it is
/// its turn.
///
/// # Errors
///
/// When the kernel refuses.
pub fn claim<B: Bytes>(records: &[SessionRecord], bytes: &B) -> Result<Option<u32>, B::Error> {
    let records = (0_u32..).zip(records);
    for (index, record) in records.filter(|(_, record)| !record.is_active()) {
        if !bytes.try_bar(index)? {
            continue;
        }
        if !record.is_active() && bytes.try_lock(index)? {
            return Ok(Some(index));
        }
        bytes.unlock(index)?;
    }
    Ok(None)
}

/// Frees the records of all sessions that are dead, and the slots that they own before that. The
/// byte of one of them is kept, as by [`claim`]: were it let go of, who comes just now would have
/// it, and this one find no room where there is enough for both. `None` if none is to be had.
///
/// A byte is taken only once no slot names its session any more, nor a later one of its record, as
/// by [`claim`]: until then a collector that is stopped would make the dead look alive.
///
/// # Errors
///
/// When the kernel refuses. What is left then is left for the next.
pub fn collect<B: Bytes>(
    slots: &[Slot],
    records: &[SessionRecord],
    bytes: &B,
    waker: &impl Wake,
) -> Result<Option<u32>, B::Error> {
    let mut dead = Vec::with_capacity(records.len());
    for (index, record) in (0_u32..).zip(records) {
        // In this order: whoever had come into the record by then had its byte.
        let life = record.life_sign();
        let is_dead = record.is_active() && !lives(record, index, &life, bytes)?;
        dead.push(is_dead.then_some(life));
    }
    if dead.iter().all(Option::is_none) {
        return Ok(None);
    }
    // One pass over the slots serves them all.
    sweep(
        slots,
        |session| {
            let session = session as usize;
            let record = records.get(session);
            record.is_some_and(|record| is_still(record, dead[session]))
        },
        waker,
    );
    let mut mine = None;
    for ((index, record), &life) in (0_u32..).zip(records).zip(&dead) {
        if life.is_none() || !bytes.try_bar(index)? {
            continue;
        }
        // If not, somebody else has collected it, and its next session may have died since.
        let is_to_close = is_still(record, life);
        if (is_to_close || !record.is_active()) && bytes.try_lock(index)? {
            if is_to_close {
                record.close();
            }
            if mine.is_none() {
                mine = Some(index);
                continue;
            }
        }
        bytes.unlock(index)?;
    }
    Ok(mine)
}

/// Whether a record still is of the session that was found dead in it.
fn is_still(record: &SessionRecord, dead: Option<LifeSign>) -> bool {
    dead.is_some_and(|dead| record.life_sign().is_same_session(&dead))
}

/// Vacates every slot that a dead session still owns, as `Died`, and wakes its waiters.
///
/// `is_dead` is asked after an owner word was read, about the session that wrote that word, and
/// must be certain. Where another may have come into that one's record since it was found dead,
/// the record tells: who reads a word of the newcomer's sees its state, too ([`Site::Grant`],
/// which comes after [`Site::Record`], with [`Site::Owner`]).
///
/// [`Site::Grant`]: super::ordering::Site::Grant
/// [`Site::Record`]: super::ordering::Site::Record
/// [`Site::Owner`]: super::ordering::Site::Owner
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

#[cfg(test)]
mod tests {
    use super::super::session::Credentials;
    use super::super::slot::Taken;
    use super::super::word::Identity;
    use super::*;
    use std::cell::{Cell, RefCell};
    use std::convert::Infallible;

    /// Who has a byte.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Has {
        Nobody,
        /// Nobody, and it is barred by this one.
        Barred,
        Me,
        Another,
    }

    struct Table {
        slots: [Slot; 1],
        records: [SessionRecord; 4],
        bytes: [Cell<Has>; 4],
        /// The incarnations, of any session, whose witness somebody has.
        witnessed: RefCell<Vec<(u32, u64)>>,
        /// What others do just after this one has asked for a byte.
        after_asking: Cell<fn(&Table)>,
        /// What they do just before it bars one.
        before_barring: Cell<fn(&Table)>,
        /// Those that this one has taken, be it for a moment.
        taken: RefCell<Vec<u32>>,
    }

    impl Kernel for Table {
        type Error = Infallible;

        fn is_held(&self, session: u32) -> Result<bool, Infallible> {
            let is_held = self.bytes[session as usize].get() == Has::Another;
            self.after_asking.replace(|_| ())(self);
            Ok(is_held)
        }

        fn is_witnessed(&self, session: u32, incarnation: u64) -> Result<bool, Infallible> {
            Ok(self.witnessed.borrow().contains(&(session, incarnation)))
        }
    }

    impl Bytes for Table {
        fn try_bar(&self, session: u32) -> Result<bool, Infallible> {
            self.before_barring.replace(|_| ())(self);
            let byte = &self.bytes[session as usize];
            let is_barred = byte.get() != Has::Another;
            if is_barred {
                byte.set(Has::Barred);
            }
            Ok(is_barred)
        }

        fn try_lock(&self, session: u32) -> Result<bool, Infallible> {
            let byte = &self.bytes[session as usize];
            assert_eq!(byte.get(), Has::Barred);
            byte.set(Has::Me);
            self.taken.borrow_mut().push(session);
            Ok(true)
        }

        fn unlock(&self, session: u32) -> Result<(), Infallible> {
            // Whoever waits for one has it at once.
            self.bytes[session as usize].set(Has::Another);
            Ok(())
        }
    }

    struct Nobody;

    impl Wake for Nobody {
        fn wake_one(&self, _: &super::super::sync::AtomicU32) -> bool {
            false
        }
    }

    impl Table {
        /// Whose records are active, and whose bytes are held.
        fn new(sessions: [(bool, Has); 4]) -> Self {
            let table = Self {
                slots: [Slot::new()],
                records: Default::default(),
                bytes: sessions.map(|(_, has)| Cell::new(has)),
                witnessed: RefCell::default(),
                after_asking: Cell::new(|_| ()),
                before_barring: Cell::new(|_| ()),
                taken: RefCell::default(),
            };
            for (index, _) in (0..).zip(sessions).filter(|(_, it)| it.0) {
                table.open(index);
            }
            table
        }

        fn open(&self, index: usize) {
            self.open_as(index, false);
        }

        fn open_as(&self, index: usize, shares_witness: bool) {
            self.records[index].open(&Credentials {
                pid: 1,
                shares_witness,
                pid_namespace: 0,
                now_ms: 0,
                command: [0; 2],
            });
        }

        fn claim(&self) -> Option<u32> {
            let Ok(claimed) = claim(&self.records, self);
            claimed
        }

        fn collect(&self) -> Option<u32> {
            let Ok(claimed) = collect(&self.slots, &self.records, self, &Nobody);
            claimed
        }

        fn bytes(&self) -> [Has; 4] {
            self.bytes.each_ref().map(Cell::get)
        }
    }

    const LIVES: (bool, Has) = (true, Has::Another);
    const DEAD: (bool, Has) = (true, Has::Nobody);
    const DETACHED: (bool, Has) = (false, Has::Nobody);
    const ATTACHING: (bool, Has) = (false, Has::Another);

    #[test]
    fn a_record_is_claimed_that_nobody_has_and_that_was_left_in_order() {
        let table = Table::new([LIVES, DEAD, ATTACHING, DETACHED]);
        assert_eq!(table.claim(), Some(3));
        let others = [Has::Another, Has::Nobody, Has::Another];
        assert_eq!(table.bytes(), [&others[..], &[Has::Me]].concat()[..]);
        assert_eq!(Table::new([LIVES, DEAD, ATTACHING, LIVES]).claim(), None);
    }

    /// It was let go of and claimed again, and found no room where others had come meanwhile.
    #[test]
    fn who_collects_keeps_one_record_of_the_dead_and_frees_the_others() {
        let table = Table::new([LIVES, DEAD, ATTACHING, DEAD]);
        assert_eq!(table.collect(), Some(1));
        assert_eq!(
            table.bytes(),
            [Has::Another, Has::Me, Has::Another, Has::Another]
        );
        let active = table.records.each_ref().map(SessionRecord::is_active);
        assert_eq!(active, [true, false, false, false]);
        assert_eq!(Table::new([LIVES, ATTACHING, LIVES, LIVES]).collect(), None);
    }

    /// Its record was read only after that, and its slot was taken from it.
    #[test]
    fn a_session_that_comes_once_its_predecessor_was_found_dead_keeps_its_slot_and_its_record() {
        const RECORD: usize = 1;
        let table = Table::new([LIVES, DEAD, LIVES, LIVES]);
        table.after_asking.set(|table| {
            // Asked for the byte of the first, which lives: the next is the dead one's.
            table.after_asking.set(|table| {
                table.open(RECORD);
                table.bytes[RECORD].set(Has::Another);
                let slot = &table.slots[0];
                let taken = slot.take(slot.owner(), Identity::new(1, RECORD as u32), false);
                assert!(matches!(taken, Taken::Granted(_)));
            });
        });
        assert_eq!(table.collect(), None);
        let owner = table.slots[0].owner().owner();
        assert_eq!(owner, Owner::Held(Identity::new(1, RECORD as u32)));
        assert!(table.records[RECORD].is_active());
    }

    #[test]
    fn who_has_inherited_a_witness_keeps_that_session_and_no_other_of_its_record() {
        const RECORD: usize = 1;
        for (shares_witness, inherited, is_kept) in [
            (true, 0, true),
            // One that has outlived the record's session before: its lock is of another number.
            (true, -1, false),
            // Nobody's who may have it by the session's own doing.
            (false, 0, false),
        ] {
            let table = Table::new([LIVES, DEAD, LIVES, LIVES]);
            let record = &table.records[RECORD];
            let next = record.next_incarnation();
            table.open_as(RECORD, shares_witness);
            assert_eq!(record.life_sign().incarnation(), next);
            let inherited = (RECORD as u32, next.wrapping_add_signed(inherited));
            table.witnessed.borrow_mut().push(inherited);
            let kept = if is_kept { None } else { Some(1) };
            assert_eq!(table.collect(), kept, "{shares_witness}, {inherited:?}");
            assert_eq!(record.is_active(), is_kept);
        }
        // Nor is the witness asked for that one left which is over.
        let table = Table::new([LIVES, DETACHED, LIVES, LIVES]);
        table.open_as(RECORD, true);
        let life = table.records[RECORD].life_sign();
        let inherited = (RECORD as u32, life.incarnation());
        table.witnessed.borrow_mut().push(inherited);
        let record = &table.records[RECORD];
        assert_eq!(lives(record, RECORD as u32, &life, &table), Ok(true));
        record.close();
        let over = record.life_sign();
        assert_eq!(lives(record, RECORD as u32, &over, &table), Ok(false));
        assert_eq!(table.claim(), Some(1));
    }

    #[test]
    fn a_record_in_which_a_session_has_come_and_died_meanwhile_is_not_claimed() {
        let table = Table::new([DETACHED, LIVES, LIVES, DETACHED]);
        table.before_barring.set(|table| table.open(0));
        assert_eq!(table.claim(), Some(3));
        assert_eq!(*table.taken.borrow(), [3], "it would look alive");
        assert_ne!(table.bytes()[0], Has::Barred, "nobody could collect it");
    }

    /// Its byte was taken, and given back: who was stopped in between made it look alive.
    #[test]
    fn a_record_in_which_the_next_session_has_died_meanwhile_is_not_collected() {
        let table = Table::new([LIVES, DEAD, LIVES, DEAD]);
        table.before_barring.set(|table| {
            table.records[1].close();
            table.open(1);
        });
        assert_eq!(table.collect(), Some(3));
        assert_eq!(*table.taken.borrow(), [3]);
        assert!(table.records[1].is_active());
    }
}
