//! The generation's wrap, with two bits of generation.

use crate::{Part, parts};
use caslock_loom::check::Model;
use caslock_loom::tiny;
use caslock_loom::tiny::protocol::slot::Left;
use caslock_loom::tiny::scenarios::wrap::{
    Waits, acknowledged_and_guessed, guesser, guesser_stops, nested_crashes, onlooker, owner_stops,
    stale_look, stale_release, stale_take, triers_across_epochs,
};

fn a_stale_release_fails_where_the_word_looks_the_same_again() {
    for token in 1..=4 {
        stale_release(token).prove();
    }
}

fn a_lost_grant_never_looks_current_again() {
    for token in 1..=2 {
        stale_look(token).prove();
    }
}

fn tokens_rise_across_epochs() {
    for start in 0..4 {
        triers_across_epochs(start, 2).prove();
    }
}

fn a_grant_from_a_word_that_has_come_round_is_one() {
    for start in 1..=2 {
        stale_take(start).prove();
    }
}

fn a_grant_by_guess_is_of_its_own_token() {
    for left in [Left::Quiet, Left::Kept] {
        for start in 0..4 {
            guesser(left, start).prove();
        }
    }
}

fn an_owner_that_guesses_may_die_anywhere() {
    for start in 0..4 {
        Model::prove_at_each_stop(|steps| guesser_stops(Left::Quiet, start, steps));
        Model::prove_at_each_stop(|steps| guesser_stops(Left::Kept, start, steps));
    }
}

fn a_guess_from_an_acknowledged_death_is_of_its_own_token() {
    acknowledged_and_guessed().prove();
}

fn waiters_cross_epochs_like_anyone() {
    use tiny::{model::Sleep, scenarios::exclusion::two_acquirers};
    for start in 0..4 {
        two_acquirers(start, Sleep::Futex)
            .reaching(&["slept"])
            .prove();
    }
}

fn tokens_rise_though_a_grant_dies_unhelped() {
    for start in 0..4 {
        for waits in [Waits::TheOwner, Waits::TheHeir, Waits::Neither] {
            Model::prove_at_each_stop(|steps| owner_stops(waits, start, steps));
        }
        Model::prove_at_each_stop(|steps| owner_stops(Waits::Both, start, steps).bounded(2));
    }
}

fn tokens_rise_through_any_two_crash_points_in_a_row() {
    nested_crashes().prove();
}

fn a_view_shows_the_token_of_its_own_grant() {
    onlooker().prove();
}

/// What there is to run.
pub fn parts() -> Vec<Part> {
    parts![
        a_stale_release_fails_where_the_word_looks_the_same_again,
        a_lost_grant_never_looks_current_again,
        tokens_rise_across_epochs,
        a_grant_from_a_word_that_has_come_round_is_one,
        a_grant_by_guess_is_of_its_own_token,
        an_owner_that_guesses_may_die_anywhere,
        a_guess_from_an_acknowledged_death_is_of_its_own_token,
        waiters_cross_epochs_like_anyone,
        tokens_rise_though_a_grant_dies_unhelped,
        tokens_rise_through_any_two_crash_points_in_a_row,
        a_view_shows_the_token_of_its_own_grant,
    ]
}
