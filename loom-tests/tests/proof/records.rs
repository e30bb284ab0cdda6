//! Session records and notes under a reader.

use crate::{Part, parts};
use caslock_loom::check::Model;
use caslock_loom::wide::scenarios::records::{
    life_sign, notes, opener_stops, session_view, waiters_are_counted,
};

fn a_session_record_is_read_whole() {
    session_view().prove();
}

fn a_record_whose_writer_dies_shows_nobody_or_one() {
    Model::prove_at_each_stop(opener_stops);
}

fn a_sign_of_life_never_goes_back() {
    life_sign().prove();
}

fn who_waits_shows_until_it_has_ended() {
    waiters_are_counted().prove();
}

fn a_note_is_read_whole() {
    notes().prove();
}

/// What there is to run.
pub fn parts() -> Vec<Part> {
    parts![
        a_session_record_is_read_whole,
        a_record_whose_writer_dies_shows_nobody_or_one,
        a_sign_of_life_never_goes_back,
        who_waits_shows_until_it_has_ended,
        a_note_is_read_whole,
    ]
}
