//! Session records and notes under a reader.

use caslock_loom::wide::scenarios::records::{life_sign, notes, session_view};

#[test]
fn a_session_record_is_read_whole() {
    session_view().bounded(2).prove();
}

#[test]
fn a_sign_of_life_never_goes_back() {
    life_sign().prove();
}

#[test]
fn a_note_is_read_whole() {
    notes().prove();
}
