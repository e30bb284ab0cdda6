//! Names: created by several at once, recycled under readers and old handles, broken off
//! anywhere.
//!
//! All names have one hash, so that they meet in one place of the index, and two words,
//! so that a torn one shows.

use std::sync::Arc;

use super::super::model::{Actor, Judge, Section, Sleep, World, act, finish};
use super::super::protocol::names::{Full, Key, NameRecord, Names, NamingWords, Resolved};
use super::super::protocol::slot::Grant;
use super::super::protocol::wait;
use super::super::protocol::word::{Owner, Vacancy};
use super::super::sync::AtomicU64;
use super::super::widths::GENERATION_BITS;
use crate::check::Model;
use crate::stop;

/// What a handle does after its grant. The check is not the protocol's but its caller's:
/// here it stands in the model, with the bug of leaving it out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handle {
    /// It looks whether the slot still has its name.
    Checks,
    /// It does not.
    Trusts,
}

/// A table with names.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) world: Arc<World>,
    naming: NamingWords,
    index: Vec<AtomicU64>,
    records: Vec<NameRecord>,
    /// What slot 1 guards.
    section: Section,
}

impl Table {
    /// A fresh table of `slots` slots that can have names.
    pub(super) fn new(slots: usize) -> Arc<Self> {
        let slots = slots + 1;
        Arc::new(Self {
            world: World::new(slots, 3),
            naming: NamingWords::new(),
            index: (0..(slots + 1).next_power_of_two())
                .map(|_| AtomicU64::new(0))
                .collect(),
            records: (0..slots).map(|_| NameRecord::new()).collect(),
            section: Section::new(),
        })
    }

    pub(super) fn names(&self) -> Names<'_> {
        Names {
            naming: &self.naming,
            index: &self.index,
            slots: &self.world.slots,
            records: &self.records,
        }
    }

    pub(super) fn actor(&self, session: u32) -> Actor {
        Actor::new(&self.world, session)
            .sleeping(Sleep::Poll)
            .judging(Judge::TheDead)
    }

    /// Finds a name or creates it, as a handle does.
    pub(super) fn resolve(&self, actor: &mut Actor, key: &Key) -> Result<Resolved, Full> {
        match self.names().find(key) {
            Some(found) => Ok(found),
            None => self.create(actor, key),
        }
    }

    pub(super) fn create(&self, actor: &mut Actor, key: &Key) -> Result<Resolved, Full> {
        let grant = actor.acquire().expect("a patient creator");
        // The naming lock's own critical section.
        self.world.section.enter(grant.token());
        let outcome = self.names().find_or_create(key, actor.identity(), actor);
        assert!(actor.release(&grant), "nobody revokes the naming lock");
        outcome
    }

    /// Acquires through a handle: what counts is that the slot still has the name after
    /// the grant.
    pub(super) fn acquire(&self, actor: &mut Actor, handle: Resolved) -> Option<Grant> {
        self.acquire_as(actor, handle, Handle::Checks)
    }

    fn acquire_as(&self, actor: &mut Actor, handle: Resolved, kind: Handle) -> Option<Grant> {
        let slot = handle.slot as usize;
        let grant = actor.acquire_slot(slot)?;
        if kind == Handle::Trusts || self.world.slots[slot].renames() == handle.renames {
            return Some(grant);
        }
        assert!(wait::undo(
            &self.world.slots[slot],
            grant,
            Vacancy::Died,
            actor
        ));
        None
    }

    pub(super) fn release(&self, actor: &Actor, handle: Resolved, grant: &Grant) {
        let slot = &self.world.slots[handle.slot as usize];
        assert!(
            wait::release(slot, grant, Vacancy::Released, actor),
            "nobody revoked it"
        );
    }
}

/// A name of two words, each of one letter.
fn key(first: u8, second: u8) -> Key {
    let mut bytes = [first; 15];
    bytes[8..].fill(second);
    Key::new(&bytes, 7 << 32).expect("it has room")
}

pub(super) fn name(letter: u8) -> Key {
    key(letter, letter)
}

/// Two creators, of one name or of two.
#[must_use]
pub fn two_creators(same: bool) -> Model {
    let names = if same { "one name" } else { "two names" };
    Model::new(
        format!("two creators of {names}"),
        "a name is created once, and each name has a slot of its own",
        2,
        move |reached| {
            let table = Table::new(2);
            let slots = Arc::new(std::sync::Mutex::new(Vec::new()));
            let all: Vec<_> = (0..2_u32)
                .map(|session| {
                    let (table, slots) = (table.clone(), slots.clone());
                    let letter = if same { b'a' } else { b'a' + session as u8 };
                    let marks = reached.clone();
                    act(move || {
                        let mut actor = table.actor(session).sleeping(Sleep::Futex);
                        // One that nobody else creates is not there to be found.
                        let found = same.then(|| table.names().find(&name(letter))).flatten();
                        if found.is_some() {
                            marks.mark("found without the lock");
                        }
                        let created =
                            found.map_or_else(|| table.create(&mut actor, &name(letter)), Ok);
                        let created = created.expect("there is room");
                        slots.lock().unwrap().push(created.slot);
                    })
                })
                .collect();
            finish(all);
            let slots = slots.lock().unwrap().clone();
            assert_eq!(slots[0] == slots[1], same);
            assert_eq!(table.names().count(), if same { 1 } else { 2 });
        },
    )
    .reaching(if same {
        &["found without the lock"]
    } else {
        &[]
    })
}

/// A creator and someone who looks for the name meanwhile.
#[must_use]
pub fn create_and_find() -> Model {
    Model::new(
        "a creator of a name, a finder",
        "a name that is found is whole, in its slot, and stays found",
        2,
        |reached| {
            let table = Table::new(1);
            let (creator, finder, marks) = (table.clone(), table.clone(), reached.clone());
            let all = [
                act(move || {
                    let mut actor = creator.actor(0);
                    let _ = creator.create(&mut actor, &name(b'a')).expect("room");
                }),
                act(move || {
                    let Some(found) = finder.names().find(&name(b'a')) else {
                        return;
                    };
                    marks.mark("found");
                    assert_eq!(found.slot, 1);
                    let read = finder.records[1].read().expect("it has a name");
                    assert_eq!(read.to_bytes(), name(b'a').to_bytes());
                    assert_eq!(finder.names().find(&name(b'a')), Some(found));
                }),
            ];
            finish(all);
        },
    )
    .reaching(&["found"])
}

/// The only slot gets a new name, and someone looks for the old one, the new one, or the
/// torn one.
#[must_use]
pub fn recycle_and_find(first: u8, second: u8) -> Model {
    Model::new(
        format!(
            "a slot from name aa to bb, a finder of {}{}",
            char::from(first),
            char::from(second)
        ),
        "a finder gets a slot's old name with its old count or the new with the new",
        2,
        move |reached| {
            let (table, wanted) = (Table::new(1), key(first, second));
            let mut first_user = table.actor(0);
            let old = table.create(&mut first_user, &name(b'a')).expect("room");
            let (creator, finder, marks) = (table.clone(), table.clone(), reached.clone());
            let all = [
                act(move || {
                    let mut actor = creator.actor(0);
                    let new = creator.create(&mut actor, &name(b'b')).expect("room");
                    assert_eq!(new.renames, old.renames + 2);
                }),
                act(move || {
                    let Some(found) = finder.names().find(&wanted) else {
                        marks.mark("not found");
                        return;
                    };
                    marks.mark("found");
                    let renames = if wanted == name(b'a') {
                        old.renames
                    } else {
                        assert!(wanted == name(b'b'), "found a name that never was");
                        old.renames + 2
                    };
                    assert_eq!(found.renames, renames, "found with the wrong count");
                }),
            ];
            finish(all);
            assert_eq!(table.names().find(&name(b'a')), None);
            assert!(table.names().find(&name(b'b')).is_some());
        },
    )
    .reaching(if first == second {
        &["found", "not found"]
    } else {
        &["not found"]
    })
}

/// The only slot gets a new name, and someone shows what it is called beside what it is.
#[must_use]
pub fn recycle_and_read() -> Model {
    Model::new(
        "a slot from name aa to bb, a reader of the slot",
        "a slot is shown with the old name and its token, or with the new and its own",
        2,
        |reached| {
            let table = Table::new(1);
            let mut first_user = table.actor(0);
            let old = table.create(&mut first_user, &name(b'a')).expect("room");
            let of_old = table.world.slots[1].owner();
            let (creator, reader, marks) = (table.clone(), table.clone(), reached.clone());
            let all = [
                act(move || {
                    let mut actor = creator.actor(0);
                    let _ = creator.create(&mut actor, &name(b'b')).expect("room");
                }),
                act(move || {
                    let slot = &reader.world.slots[1];
                    let Some(read) = reader.names().read(1, || slot.owner()) else {
                        marks.mark("being renamed");
                        return;
                    };
                    let key = read.key.expect("it has a name");
                    let is_renaming = matches!(read.seen.owner(), Owner::Renaming(_));
                    if read.renames == old.renames {
                        marks.mark("the old name");
                        assert!(key == name(b'a'), "shown with a name that it does not have");
                        assert!(is_renaming || read.seen == of_old, "the new name's token");
                    } else {
                        marks.mark("the new name");
                        assert!(key == name(b'b'), "shown with a name that it does not have");
                        assert!(is_renaming || read.seen != of_old, "the old name's token");
                    }
                }),
            ];
            finish(all);
        },
    )
    .reaching(&["being renamed", "the old name", "the new name"])
}

/// The only slot gets a new name, and someone acquires through a handle of the old one.
#[must_use]
pub fn recycle_and_acquire(kind: Handle) -> Model {
    Model::new(
        "a slot from name aa to bb, an acquirer through a handle of aa",
        "who holds a name holds the slot of that name, and a held name is not recycled",
        2,
        move |reached| {
            let table = Table::new(1);
            let mut first_user = table.actor(0);
            let old = table.create(&mut first_user, &name(b'a')).expect("room");
            let (one, two) = (table.clone(), table.clone());
            let (marks, notes) = (reached.clone(), reached.clone());
            let all = [
                act(move || {
                    let mut actor = one.actor(0);
                    let Ok(new) = one.create(&mut actor, &name(b'b')) else {
                        marks.mark("full");
                        return;
                    };
                    let grant = one.acquire(&mut actor, new).expect("nobody renames it");
                    one.section.enter(grant.token());
                    // A grant through the old handle, undone, leaves no news.
                    assert!(matches!(
                        grant.from().owner(),
                        Owner::Vacant(Vacancy::Fresh)
                    ));
                    one.release(&actor, new, &grant);
                }),
                act(move || {
                    let mut actor = two.actor(1);
                    let Some(grant) = two.acquire_as(&mut actor, old, kind) else {
                        notes.mark("renamed");
                        return;
                    };
                    notes.mark("held");
                    two.section.enter(grant.token());
                    assert_eq!(two.names().find(&name(b'a')), Some(old));
                    two.release(&actor, old, &grant);
                }),
            ];
            finish(all);
        },
    )
    .reaching(&["full", "renamed", "held"])
}

/// When someone looks for a torn name, of those that two creators one after the other make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Looks {
    /// Beside the first.
    BesideTheMortal,
    /// Beside the second, once the first is dead.
    BesideTheNext,
}

/// A creator that stops anywhere while it recycles the only slot, the next creator, and a
/// finder of a torn name beside one of them. One beside both would learn no more: no rename
/// count ever comes back, so bytes read under the first's count are those of the first model.
#[must_use]
pub fn creator_stops(looks: Looks, steps: u32) -> Model {
    Model::new(
        format!("a creator that dies anywhere, the next, a finder ({looks:?})"),
        "a naming that was broken off is repaired: the slot is usable, no name is torn",
        2,
        move |reached| {
            let table = Table::new(1);
            let mut first_user = table.actor(0);
            let _ = table.create(&mut first_user, &name(b'a')).expect("room");
            let (first, second, finder) = (table.clone(), table.clone(), table.clone());
            let marks = reached.clone();
            let dies = move || {
                let mut mortal = first.actor(0);
                let outcome = stop::after(steps, || first.create(&mut mortal, &name(b'b')));
                marks.mark(if outcome.is_none() {
                    "broken off"
                } else {
                    "done"
                });
                first.world.die(0);
            };
            let repairs = move || {
                let mut next = second.actor(1);
                let _ = second
                    .create(&mut next, &name(b'c'))
                    .expect("the only slot is usable");
            };
            let torn = match looks {
                Looks::BesideTheMortal => key(b'a', b'b'),
                Looks::BesideTheNext => key(b'b', b'c'),
            };
            let finds = act(move || {
                assert_eq!(finder.names().find(&torn), None, "found a torn name");
            });
            if looks == Looks::BesideTheMortal {
                finish([act(dies), finds]);
                repairs();
            } else {
                dies();
                finish([act(repairs), finds]);
            }
            for gone in [b'a', b'b'] {
                assert_eq!(table.names().find(&name(gone)), None);
            }
            let handle = table.names().find(&name(b'c')).expect("it was created");
            let grant = table
                .acquire(&mut first_user, handle)
                .expect("nobody renames it");
            table.release(&first_user, handle, &grant);
            assert_eq!(table.names().count(), 1);
        },
    )
    .reaching(&["broken off", "done"])
}

/// The same with the next creator in a thread of its own, so that nothing is ordered by
/// the dead one's own fence but what the protocol hands on.
#[must_use]
pub fn creator_repaired(steps: u32) -> Model {
    Model::new(
        "a creator that dies anywhere, one that repairs, a finder",
        "what a repairer mends is mended for everybody, though another began it",
        3,
        move |reached| {
            let table = Table::new(1);
            let mut first_user = table.actor(0);
            let _ = table.create(&mut first_user, &name(b'a')).expect("room");
            let (mortal, next, finder) = (table.clone(), table.clone(), table);
            let marks = reached.clone();
            let all = [
                act(move || {
                    let mut actor = mortal.actor(0);
                    let _ = stop::after(steps, || mortal.create(&mut actor, &name(b'b')));
                    mortal.world.die(0);
                }),
                act(move || {
                    if !next.world.is_dead(0) {
                        return;
                    }
                    let mut actor = next.actor(1);
                    let _ = next.create(&mut actor, &name(b'c')).expect("room");
                    marks.mark("repaired");
                }),
                act(move || {
                    let torn = key(b'a', b'b');
                    assert_eq!(finder.names().find(&torn), None, "found a torn name");
                }),
            ];
            finish(all);
        },
    )
    .bounded(2)
    .reaching(&["repaired"])
}

/// What another does beside a creator that hangs: each by itself, as it is one actor's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beside {
    /// It uses a handle of another name.
    Uses,
    /// It looks for that name.
    FindsAnother,
    /// It looks for the name that is recycled.
    FindsRecycled,
    /// It looks for a torn name.
    FindsTorn,
}

/// A creator that hangs anywhere while it recycles a slot, and another user.
#[must_use]
pub fn creator_hangs(beside: Beside, steps: u32) -> Model {
    Model::new(
        format!("a creator that hangs anywhere, another user ({beside:?})"),
        "a hung creator holds up new names only, and no name is torn",
        2,
        move |reached| {
            let table = Table::new(2);
            let mut user = table.actor(1);
            let (_, old) = use_name(&table, &mut user, &name(b'a'));
            let (_, other) = use_name(&table, &mut user, &name(b'b'));
            // The idle for longest goes first.
            table.world.slots[other.slot as usize].stamp(2);
            let (creator, marks) = (table.clone(), reached.clone());
            let all = [
                act(move || {
                    let mut hung = creator.actor(0);
                    let outcome = stop::after(steps, || creator.create(&mut hung, &name(b'c')));
                    marks.mark(if outcome.is_none() { "hung" } else { "done" });
                }),
                act(move || match beside {
                    Beside::Uses => {
                        let grant = table.acquire(&mut user, other).expect("nobody renames it");
                        table.release(&user, other, &grant);
                    }
                    Beside::FindsAnother => {
                        assert_eq!(table.names().find(&name(b'b')), Some(other));
                    }
                    Beside::FindsRecycled => {
                        let found = table.names().find(&name(b'a'));
                        assert!(found.is_none_or(|found| found == old), "another's slot");
                    }
                    Beside::FindsTorn => {
                        assert_eq!(table.names().find(&key(b'a', b'c')), None, "torn");
                    }
                }),
            ];
            finish(all);
        },
    )
    .reaching(&["hung", "done"])
}

/// A name with grants is recycled, by a creator that stops anywhere, and comes back in
/// another slot.
#[must_use]
pub fn name_comes_back(steps: u32) -> Model {
    const GRANTS: u64 = 5;
    Model::new(
        format!("a name that goes and comes back, {GENERATION_BITS} bits of generation"),
        "a name's tokens never go back, whatever became of its slot",
        1,
        move |reached| {
            let table = Table::new(2);
            let mut user = table.actor(1);
            let (mut last, mut first) = use_name(&table, &mut user, &name(b'a'));
            for _ in 1..GRANTS {
                (last, first) = use_name(&table, &mut user, &name(b'a'));
            }
            let (_, other) = use_name(&table, &mut user, &name(b'b'));
            // The idle for longest goes first.
            table.world.slots[other.slot as usize].stamp(2);
            let mut mortal = table.actor(0);
            let broken = stop::after(steps, || table.create(&mut mortal, &name(b'c')));
            table.world.die(0);
            table.world.slots[first.slot as usize].stamp(3);
            if broken.is_none() {
                reached.mark("broken off");
            }
            let (token, again) = use_name(&table, &mut user, &name(b'a'));
            if again.slot != first.slot {
                reached.mark("elsewhere");
            }
            assert!(token > last, "token {token} after {last}");
        },
    )
    .reaching(&["elsewhere", "broken off"])
}

/// Acquires and releases a name, and asks for it anew when its slot turns out to be
/// renamed: once, for nobody else is about.
pub(super) fn use_name(table: &Table, user: &mut Actor, key: &Key) -> (u64, Resolved) {
    for _ in 0..2 {
        let handle = table.resolve(user, key).expect("room");
        if let Some(grant) = table.acquire(user, handle) {
            table.release(user, handle, &grant);
            return (grant.token(), handle);
        }
    }
    panic!("a name whose renaming was broken off is stuck");
}
