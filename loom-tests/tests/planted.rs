//! Planted bugs: each must be caught by the models that are named for it.

use caslock_loom::check::{Model, say};
use caslock_loom::planted::{self, PLANTED};
use caslock_loom::wide::scenarios::{names, reclaim};

/// The violation that a model finds in the world of each bug.
macro_rules! caught {
    ($($module:ident by $violation:expr),* $(,)?) => {
        vec![$({
            #[allow(unused_imports)]
            use planted::$module::scenarios::*;
            assert!(
                planted::$module::PLANTED,
                "the place of {} is not in the source: mend src/planted_list.rs",
                stringify!($module)
            );
            (stringify!($module), $violation)
        }),*]
    };
}

#[test]
fn each_planted_bug_is_caught() {
    let mut bugs: Vec<(&str, Option<String>)> = caught! {
        release_by_store by revoke::late_release(1).violation(),
        release_without_epoch by wrap::stale_release(1).violation(),
        judged_word_reloaded by reclaim::two_reclaimers().violation(),
        reclaim_drops_waiters by waiting::reclaim_wakes().violation(),
        woken_drops_waiters by waiting::two_waiters(waiting::Second::Stays).violation(),
        wake_before_release by waiting::waiter_and_wake(0).violation(),
        force_without_wake by waiting::force_wakes().violation(),
        token_counted_apart by revoke::evicted_while_granted().violation(),
        reclaimer_clears by waiting::reclaim_wakes().violation(),
        help_skipped by wrap::nested_crashes().violation(),
        leaver_keeps_wake by waiting::two_waiters(waiting::Second::LeavesWoken).violation(),
        wake_word_read_late by waiting::waiter_and_wake(0).violation(),
        name_before_bytes by names::recycle_and_find(b'a', b'b').violation(),
        recycled_without_owner by names::recycle_and_acquire(names::Handle::Checks).violation(),
        repair_skipped by Model::violation_at_some_stop(names::creator_stops),
        floor_forgotten by Model::violation_at_some_stop(names::name_comes_back),
    };
    assert_eq!(bugs.len(), PLANTED.len(), "a planted bug has no model");
    // Bugs of the protocol's callers, which stand in the models themselves.
    bugs.push((
        "handle_trusts_its_name",
        names::recycle_and_acquire(names::Handle::Trusts).violation(),
    ));
    bugs.push((
        "record_reused_unswept",
        reclaim::record_reused(reclaim::Attach::Trusts).violation(),
    ));
    bugs.push((
        "certificate_as_proof",
        reclaim::keeper_dies_first(reclaim::Proof::Certificate).violation(),
    ));
    let mut missed = Vec::new();
    for (bug, violation) in &bugs {
        match violation {
            Some(text) => say(&format!(
                "{bug:<24} | {}",
                text.lines().next().unwrap_or_default()
            )),
            None => missed.push(bug),
        }
    }
    say(&format!(
        "planted bugs {}, caught {}",
        bugs.len(),
        bugs.len() - missed.len()
    ));
    assert!(missed.is_empty(), "not caught: {missed:?}");
}
