//! No wake is lost, whoever waits, leaves, dies or is robbed.

use crate::{Part, parts};
use caslock_loom::wide::scenarios::waiting::{
    Second, force_wakes, reclaim_wakes, two_waiters, waiter_and_wake,
};

fn a_release_wakes_the_waiter_that_announced_itself() {
    waiter_and_wake(0).prove();
}

fn a_sleep_that_ends_early_loses_no_wake() {
    waiter_and_wake(1).prove();
}

fn two_waiters_are_served_one_after_the_other() {
    two_waiters(Second::Stays).prove();
}

fn a_waiter_that_leaves_when_woken_passes_the_wake_on() {
    two_waiters(Second::LeavesWoken).prove();
}

fn a_waiter_that_leaves_late_takes_no_wake_with_it() {
    two_waiters(Second::LeavesLate).prove();
}

fn a_reclaim_keeps_the_bit_of_those_who_wait() {
    reclaim_wakes().prove();
}

fn a_force_release_wakes_who_waits() {
    force_wakes().prove();
}

/// What there is to run.
pub fn parts() -> Vec<Part> {
    parts![
        a_release_wakes_the_waiter_that_announced_itself,
        a_sleep_that_ends_early_loses_no_wake,
        two_waiters_are_served_one_after_the_other,
        a_waiter_that_leaves_when_woken_passes_the_wake_on,
        a_waiter_that_leaves_late_takes_no_wake_with_it,
        a_reclaim_keeps_the_bit_of_those_who_wait,
        a_force_release_wakes_who_waits,
    ]
}
