//! Eviction, force-release and panic: what the late owner cannot do, what the next is told.

use crate::{Part, parts};
use caslock_loom::check::Model;
use caslock_loom::wide::scenarios::revoke::{
    evicted_while_granted, evictor_stops, force_release, late_release, panicked,
    visible_through_a_hung_heir,
};

fn an_evicted_owners_late_release_changes_nothing() {
    late_release(1).prove();
    late_release(2).bounded(2).prove();
}

fn a_hung_heir_hides_nothing_of_its_predecessors_writes() {
    visible_through_a_hung_heir().prove();
}

fn a_force_release_hits_the_grant_that_was_shown_or_none() {
    force_release().prove();
}

fn an_evictor_may_die_at_any_step() {
    Model::prove_at_each_stop(evictor_stops);
}

fn the_successor_of_a_panic_is_told_once() {
    panicked().prove();
}

fn a_token_is_issued_with_ownership() {
    evicted_while_granted().prove();
}

/// What there is to run.
pub fn parts() -> Vec<Part> {
    parts![
        an_evicted_owners_late_release_changes_nothing,
        a_hung_heir_hides_nothing_of_its_predecessors_writes,
        a_force_release_hits_the_grant_that_was_shown_or_none,
        an_evictor_may_die_at_any_step,
        the_successor_of_a_panic_is_told_once,
        a_token_is_issued_with_ownership,
    ]
}
