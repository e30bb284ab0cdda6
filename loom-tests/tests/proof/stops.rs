//! Crash points of those who sleep, wake and take over, dead and hung.

use caslock_loom::check::Model;
use caslock_loom::wide::model::End;
use caslock_loom::wide::protocol::word::Queue;
use caslock_loom::wide::scenarios::stops::{
    Again, Waits, operator_stops, owner_hangs, reclaimer_stops, releaser_stops, waiter_stops,
};

use crate::{Part, parts};

const ENDS: [End; 2] = [End::Dies, End::Hangs];

fn a_releaser_may_stop_at_any_step() {
    for end in ENDS {
        for announced in [Queue::Idle, Queue::Asleep] {
            Model::prove_at_each_stop(|steps| releaser_stops(announced, end, steps));
        }
    }
}

fn waiter_may_stop(waits: Waits, parts: &[Again]) {
    for end in ENDS {
        for &again in parts {
            Model::prove_at_each_stop(|steps| waiter_stops(waits, again, end, steps));
        }
        let at_once = |steps| waiter_stops(waits, Again::AtOnce, end, steps).bounded(4);
        Model::prove_at_each_stop(at_once);
    }
}

fn a_waiter_may_stop_at_any_step() {
    let parts = [Again::Afterwards, Again::First, Again::BesideTheHeir];
    waiter_may_stop(Waits::Stays, &parts);
}

fn an_heir_may_stop_at_any_step() {
    // Beside the heir it would begin as the waiter above does.
    waiter_may_stop(Waits::StaysAwake, &[Again::Afterwards, Again::First]);
}

fn a_reclaimer_may_stop_at_any_step() {
    for end in ENDS {
        Model::prove_at_each_stop(|steps| reclaimer_stops(end, steps));
    }
}

fn an_owner_may_hang_at_any_step() {
    Model::prove_at_each_stop(owner_hangs);
}

fn an_operator_may_stop_at_any_step() {
    for end in ENDS {
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
