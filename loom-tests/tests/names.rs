//! Names: creation, recycling, and repair.

use caslock_loom::check::Model;
use caslock_loom::tiny;
use caslock_loom::wide::scenarios::names::{
    Handle, create_and_find, creator_stops, name_comes_back, recycle_and_acquire, recycle_and_find,
    two_creators,
};

#[test]
fn two_creators_agree_on_a_names_slot() {
    two_creators(true).prove();
    two_creators(false).prove();
}

#[test]
fn a_name_that_is_found_is_whole() {
    create_and_find().prove();
}

#[test]
fn a_recycled_slot_is_found_by_one_name_at_a_time() {
    for (first, second) in [(b'a', b'a'), (b'b', b'b'), (b'a', b'b'), (b'b', b'a')] {
        recycle_and_find(first, second).prove();
    }
}

#[test]
fn an_old_handle_never_holds_a_new_name() {
    recycle_and_acquire(Handle::Checks).prove();
}

#[test]
fn a_creator_may_die_at_any_step() {
    Model::prove_at_each_stop(creator_stops);
}

#[test]
fn a_names_tokens_never_go_back() {
    Model::prove_at_each_stop(name_comes_back);
    Model::prove_at_each_stop(tiny::scenarios::names::name_comes_back);
}
