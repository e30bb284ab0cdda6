//! Sessions that attach, detach, die in between, beat, and come back after a reboot.

use caslock_loom::check::Model;
use caslock_loom::tiny;
use caslock_loom::wide::protocol::word::Queue;
use caslock_loom::wide::scenarios::reset::{NAMING_BROKEN_OFF, RESET_BROKEN_OFF, reset_broken_off};
use caslock_loom::wide::scenarios::sessions::{
    Beside, Finder, Heir, SecondLook, beat_and_evict, claimer_stops, collector_stops,
    job_outlives_its_session, late_collector, newcomer_beside_collector, session_killed,
    two_attach,
};

use crate::{Part, parts};

fn a_session_may_be_killed_at_any_step() {
    for beside in [Beside::TheKilled, Beside::TheNext] {
        for heir in [
            Heir::Announces,
            Heir::Takes(Queue::Idle),
            Heir::Takes(Queue::Asleep),
        ] {
            Model::prove_at_each_stop(|steps| session_killed(beside, heir, steps));
        }
    }
    Model::prove_at_each_stop(|steps| session_killed(Beside::Both, Heir::Waits, steps).bounded(2));
}

fn two_sessions_never_share_a_record() {
    two_attach().prove();
}

fn a_collector_takes_only_from_those_that_it_has_found_dead() {
    late_collector().prove();
    newcomer_beside_collector().prove();
}

fn a_collector_that_is_stopped_makes_nobody_look_alive() {
    Model::prove_at_each_stop(collector_stops);
}

fn a_claimer_that_is_stopped_makes_nobody_look_alive() {
    Model::prove_at_each_stop(claimer_stops);
}

fn a_job_that_outlives_its_session_keeps_its_lock() {
    for finder in [Finder::TheNext, Finder::TheHeir] {
        job_outlives_its_session(finder).prove();
    }
}

fn a_beat_that_can_be_known_of_prevents_an_eviction() {
    beat_and_evict(SecondLook::Taken).prove();
}

fn a_reset_may_be_broken_off_at_any_step() {
    for model in [
        reset_broken_off as fn(u32, u32) -> Model,
        tiny::scenarios::reset::reset_broken_off,
    ] {
        Model::prove_at_each_pair_of_stops(model, NAMING_BROKEN_OFF, RESET_BROKEN_OFF);
    }
}

/// What there is to run.
pub fn parts() -> Vec<Part> {
    parts![
        a_session_may_be_killed_at_any_step,
        two_sessions_never_share_a_record,
        a_collector_takes_only_from_those_that_it_has_found_dead,
        a_collector_that_is_stopped_makes_nobody_look_alive,
        a_claimer_that_is_stopped_makes_nobody_look_alive,
        a_job_that_outlives_its_session_keeps_its_lock,
        a_beat_that_can_be_known_of_prevents_an_eviction,
        a_reset_may_be_broken_off_at_any_step,
    ]
}
