//! Names: creation, recycling, and repair.

use crate::{Part, parts};
use caslock_loom::check::Model;
use caslock_loom::tiny;
use caslock_loom::wide::scenarios::names::{
    Beside, Handle, Looks, create_and_find, creator_hangs, creator_repaired, creator_stops,
    name_comes_back, recycle_and_acquire, recycle_and_find, recycle_and_read, two_creators,
};

fn two_creators_agree_on_a_names_slot() {
    two_creators(true).prove();
    two_creators(false).prove();
}

fn a_name_that_is_found_is_whole() {
    create_and_find().prove();
}

fn a_recycled_slot_is_found_by_one_name_at_a_time() {
    for (first, second) in [(b'a', b'a'), (b'b', b'b'), (b'a', b'b'), (b'b', b'a')] {
        recycle_and_find(first, second).prove();
    }
}

fn a_recycled_slot_is_shown_with_one_name_and_that_ones_token() {
    recycle_and_read().prove();
}

fn an_old_handle_never_holds_a_new_name() {
    recycle_and_acquire(Handle::Checks).prove();
}

fn a_creator_may_die_at_any_step() {
    for looks in [Looks::BesideTheMortal, Looks::BesideTheNext] {
        Model::prove_at_each_stop(|steps| creator_stops(looks, steps));
    }
}

fn a_dead_creators_name_is_mended_for_everybody() {
    Model::prove_at_each_stop(creator_repaired);
}

fn a_creator_may_hang_at_any_step() {
    for beside in [
        Beside::Uses,
        Beside::FindsAnother,
        Beside::FindsRecycled,
        Beside::FindsTorn,
    ] {
        Model::prove_at_each_stop(|steps| creator_hangs(beside, steps));
    }
}

fn a_names_tokens_never_go_back() {
    Model::prove_at_each_stop(name_comes_back);
    Model::prove_at_each_stop(tiny::scenarios::names::name_comes_back);
}

/// What there is to run.
pub fn parts() -> Vec<Part> {
    parts![
        two_creators_agree_on_a_names_slot,
        a_name_that_is_found_is_whole,
        a_recycled_slot_is_found_by_one_name_at_a_time,
        a_recycled_slot_is_shown_with_one_name_and_that_ones_token,
        an_old_handle_never_holds_a_new_name,
        a_creator_may_die_at_any_step,
        a_dead_creators_name_is_mended_for_everybody,
        a_creator_may_hang_at_any_step,
        a_names_tokens_never_go_back,
    ]
}
