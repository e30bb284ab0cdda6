//! Nobody sleeps unheard: the heir takes, retires, leaves, is of its own making, is not there.

use caslock_loom::wide::model::Manners;
use caslock_loom::wide::protocol::word::Queue;
use caslock_loom::wide::scenarios::heirs::{
    Again, Back, By, Courtesy, Heir, barging_holder, called_and_kept, heir_is_gone,
    holder_comes_back, leaves_and_waits, left_by, nobody_comes, revoked_under_an_heir,
    self_appointed, stands_aside, woken_heir_leaves,
};

use crate::Part;

const RETIRES: Manners = Manners {
    looks: 0,
    stays: false,
    attends: 0,
    defers: 0,
    sleeps_aside: false,
};

const ATTENDS: Manners = Manners {
    looks: 0,
    stays: false,
    attends: 1,
    defers: 1,
    sleeps_aside: false,
};

/// As one that knows the slot to be often free.
const LOOKS_AGAIN: Manners = Manners {
    looks: 1,
    stays: false,
    attends: 1,
    defers: 0,
    sleeps_aside: false,
};

/// A part for each model: some take long, and run beside each other.
macro_rules! one_by_one {
    ($($name:literal: $model:expr;)*) => {
        vec![$(Part::new($name, || $model.prove())),*]
    };
}

/// What there is to run.
pub fn parts() -> Vec<Part> {
    one_by_one! {
        "an_heir_retires_while_the_slot_is_kept_in_vain":
            barging_holder(Courtesy::KeptInVain, 1, RETIRES);
        "an_heir_retires_and_is_offered_the_slot":
            barging_holder(Courtesy::Offered, 1, RETIRES);
        "who_looks_again_behind_an_heir_is_heard":
            barging_holder(Courtesy::Nothing, 1, LOOKS_AGAIN);
        "who_looks_again_behind_others_is_heard":
            barging_holder(Courtesy::Nothing, 2, LOOKS_AGAIN);
        "one_more_than_the_heir_is_called":
            barging_holder(Courtesy::OneMoreCalled, 2, RETIRES);
        "one_more_is_called_than_the_one_who_looks_again":
            barging_holder(Courtesy::OneMoreCalled, 2, LOOKS_AGAIN);
        "one_more_is_called_while_another_stands_aside":
            stands_aside(Courtesy::OneMoreCalled);
        "an_heir_retires_while_the_holder_comes_back_for_the_slot":
            holder_comes_back(Back::ByLook, RETIRES);
        "an_heir_attends_while_the_holder_comes_back_for_the_slot":
            holder_comes_back(Back::ByLook, ATTENDS);
        "an_heir_retires_while_the_holder_guesses_that_the_slot_is_as_it_kept_it":
            holder_comes_back(Back::ByGuess, RETIRES);
        "an_heir_attends_while_the_holder_guesses_that_the_slot_is_as_it_kept_it":
            holder_comes_back(Back::ByGuess, ATTENDS);
        "a_woken_heir_leaves_beside_one_of_its_own_making":
            woken_heir_leaves();
        "a_reclaim_under_an_heir_is_noticed":
            revoked_under_an_heir(By::Reclaim);
        "an_heir_is_called_before_the_slot_is_kept_in_vain":
            left_by(Courtesy::CalledAndKept, RETIRES);
        "an_heir_attends_that_is_called_before_the_slot_is_kept":
            left_by(Courtesy::CalledAndKept, ATTENDS);
        "who_offers_the_slot_may_sleep_under_the_offer":
            leaves_and_waits(Courtesy::Offered, Queue::Idle, Again::AtOnce);
        "who_keeps_the_slot_uncalled_may_come_back_for_it":
            leaves_and_waits(Courtesy::KeptInVain, Queue::Idle, Again::AtOnce);
        "who_keeps_the_slot_may_find_that_nobody_comes":
            leaves_and_waits(Courtesy::KeptInVain, Queue::Asleep, Again::Afterwards);
        "who_has_called_the_heir_may_come_back_for_the_slot":
            called_and_kept();
        "who_calls_the_heir_may_come_back_for_the_slot":
            leaves_and_waits(Courtesy::CalledAndKept, Queue::Idle, Again::AtOnce).bounded(5);
        "who_sleeps_under_an_offer_is_heard_among_others":
            stands_aside(Courtesy::Offered);
        "who_sleeps_under_a_kept_slot_is_heard_among_others":
            stands_aside(Courtesy::CalledAndKept);
        "an_heir_attends_while_the_slot_is_kept_in_vain":
            barging_holder(Courtesy::KeptInVain, 1, ATTENDS);
        "an_heir_attends_and_is_offered_the_slot":
            barging_holder(Courtesy::Offered, 1, ATTENDS);
        "an_heir_of_its_own_making_is_woken_when_it_retires":
            self_appointed(Heir::Stays, 1, 0);
        "an_heir_of_its_own_making_is_woken_when_it_retires_at_once":
            self_appointed(Heir::Stays, 0, 0);
        "an_heir_of_its_own_making_may_leave_awake":
            self_appointed(Heir::LeavesAwake, 1, 0);
        "an_heir_of_its_own_making_stands_for_a_newcomer":
            self_appointed(Heir::Stays, 1, 1);
        "an_heir_of_its_own_making_retires_before_a_newcomer":
            self_appointed(Heir::Stays, 0, 1);
        "an_heir_that_attends_and_leaves_leaves_nobody_asleep":
            self_appointed(Heir::LeavesAwake, 1, 1);
        "an_heir_that_leaves_at_once_leaves_nobody_asleep":
            self_appointed(Heir::LeavesAwake, 0, 1);
        "an_heir_that_is_not_there_is_not_waited_for":
            nobody_comes(1);
        "an_heir_that_is_not_there_is_not_relied_on":
            nobody_comes(2);
        "an_heir_that_is_gone_is_trusted_for_one_interval":
            heir_is_gone();
        "a_force_release_under_an_heir_is_noticed":
            revoked_under_an_heir(By::Force);
        "a_sweep_under_an_heir_is_noticed":
            revoked_under_an_heir(By::Sweep);
    }
}
