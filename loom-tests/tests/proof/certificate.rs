//! The certificate's wake: one from the kernel, for all who wait for the dead.

use caslock_loom::check::Model;
use caslock_loom::wide::model::Passing;
use caslock_loom::wide::scenarios::certificate::{one_slot, releaser_killed, two_slots};

use crate::{Part, parts};

fn one_wake_reaches_the_waiters_of_each_slot() {
    two_slots(Passing::PassesOn).prove();
}

fn one_wake_reaches_both_waiters_of_a_slot() {
    one_slot().prove();
}

fn a_dead_releasers_wake_is_made_good() {
    Model::prove_at_each_stop(releaser_killed);
}

/// What there is to run.
pub fn parts() -> Vec<Part> {
    parts![
        one_wake_reaches_the_waiters_of_each_slot,
        one_wake_reaches_both_waiters_of_a_slot,
        a_dead_releasers_wake_is_made_good,
    ]
}
