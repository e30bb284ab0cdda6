//! The reset after a reboot: broken off anywhere, and made again.

use super::super::protocol::reclaim;
use super::super::protocol::word::{Owner, Vacancy};
use super::super::widths::GENERATION_BITS;
use super::names::{Table, name, use_name};
use crate::check::{Model, Reached};
use crate::stop;

/// The session that dies with the machine.
const LAST: u32 = 0;

/// What says that the naming was broken off.
pub const NAMING_BROKEN_OFF: &str = "naming broken off";

/// What says that the reset was.
pub const RESET_BROKEN_OFF: &str = "reset broken off";

/// A table that goes down with a lock held and a naming broken off, and a reset that is
/// broken off, too, and then made.
#[must_use]
pub fn reset_broken_off(naming_steps: u32, reset_steps: u32) -> Model {
    Model::new(
        format!("a naming and a reset broken off, a reset, {GENERATION_BITS} bits"),
        "after a reset every lock is free, its news told, its token higher, none is stuck",
        1,
        move |reached| go_down_and_reset(naming_steps, reset_steps, reached),
    )
    .reaching(&[NAMING_BROKEN_OFF, RESET_BROKEN_OFF])
}

fn go_down_and_reset(naming_steps: u32, reset_steps: u32, reached: &Reached) {
    let table = Table::new(3);
    let mut user = table.actor(1);
    let mut highest = 0;
    for _ in 0..3 {
        highest = use_name(&table, &mut user, &name(b'a')).0;
    }
    let held = table.resolve(&mut user, &name(b'b')).expect("room");
    let lost = table.acquire(&mut user, held).expect("nobody renames it");
    let mut mortal = table.actor(LAST);
    if stop::after(naming_steps, || table.create(&mut mortal, &name(b'c'))).is_none() {
        reached.mark(NAMING_BROKEN_OFF);
    }

    // The words are as they were, and no session is attached.
    let whole = |_| true;
    if stop::after(reset_steps, || reclaim::reset(&table.names(), whole)).is_none() {
        reached.mark(RESET_BROKEN_OFF);
    }
    reclaim::reset(&table.names(), whole);

    let mut next = table.actor(2);
    let (token, _) = use_name(&table, &mut next, &name(b'a'));
    // What is on disk may be older than what was: the highest there is not high enough.
    let floor = highest.max(lost.token()) + reclaim::RESET_TOKENS;
    assert!(token > floor, "{token} after {highest}");
    let found = table.names().find(&name(b'b')).expect("its name is whole");
    assert_eq!(found.slot, held.slot);
    let grant = table.acquire(&mut next, found).expect("nobody renames it");
    assert_eq!(
        grant.from().owner(),
        Owner::Vacant(Vacancy::Died(user.identity().pid())),
        "who held the lock is told"
    );
    assert!(grant.token() > floor, "a token came back");
    let slot = &table.world.slots[held.slot as usize];
    assert!(!slot.is_current(&lost), "held through a reset");
    table.release(&next, found, &grant);
    for letter in [b'c', b'd'] {
        let (token, _) = use_name(&table, &mut next, &name(letter));
        assert!(token > floor, "a new name begins below an old token");
    }
}
