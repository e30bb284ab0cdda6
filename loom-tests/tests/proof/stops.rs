//! Crash points of those who sleep, wake and take over, dead and hung.

use caslock_loom::check::Model;
use caslock_loom::wide::model::End;
use caslock_loom::wide::scenarios::stops::{
    Waits, operator_stops, owner_hangs, reclaimer_stops, releaser_stops, waiter_stops,
};

use crate::{Part, parts};

fn a_releaser_may_stop_at_any_step() {
    for end in [End::Dies, End::Hangs] {
        Model::prove_at_each_stop(|steps| releaser_stops(end, steps));
    }
}

fn a_waiter_may_stop_at_any_step() {
    for end in [End::Dies, End::Hangs] {
        Model::prove_at_each_stop(|steps| waiter_stops(Waits::Stays, end, steps));
    }
}

fn an_heir_may_stop_at_any_step() {
    for end in [End::Dies, End::Hangs] {
        Model::prove_at_each_stop(|steps| waiter_stops(Waits::StaysAwake, end, steps));
    }
}

fn a_reclaimer_may_stop_at_any_step() {
    for end in [End::Dies, End::Hangs] {
        Model::prove_at_each_stop(|steps| reclaimer_stops(end, steps));
    }
}

fn an_owner_may_hang_at_any_step() {
    Model::prove_at_each_stop(owner_hangs);
}

fn an_operator_may_stop_at_any_step() {
    for end in [End::Dies, End::Hangs] {
        Model::prove_at_each_stop(|steps| operator_stops(end, steps));
    }
}

/// What there is to run.
pub fn parts() -> Vec<Part> {
    parts![
        a_releaser_may_stop_at_any_step,
        a_waiter_may_stop_at_any_step,
        an_heir_may_stop_at_any_step,
        a_reclaimer_may_stop_at_any_step,
        an_owner_may_hang_at_any_step,
        an_operator_may_stop_at_any_step,
    ]
}
