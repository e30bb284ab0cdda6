//! Dead owners: one heir each, wherever they died.

use crate::{Part, parts};
use caslock_loom::check::Model;
use caslock_loom::wide::scenarios::reclaim::{
    Attach, Proof, keeper_dies_first, owner_stops, record_reused, sweep_and_heir, sweeper_stops,
    two_reclaimers,
};

fn of_two_reclaimers_one_takes_over() {
    two_reclaimers().prove();
}

fn an_owner_may_die_at_any_step() {
    Model::prove_at_each_stop(owner_stops);
}

fn a_sweep_never_hits_the_heir_of_the_dead() {
    sweep_and_heir(1).prove();
    sweep_and_heir(2).bounded(2).prove();
}

fn a_sweeper_may_die_at_any_step() {
    Model::prove_at_each_stop(sweeper_stops);
}

fn a_session_index_is_reused_without_inheriting_its_slots() {
    record_reused(Attach::Sweeps).prove();
}

fn a_certificate_is_no_proof() {
    keeper_dies_first(Proof::Byte).prove();
}

/// What there is to run.
pub fn parts() -> Vec<Part> {
    parts![
        of_two_reclaimers_one_takes_over,
        an_owner_may_die_at_any_step,
        a_sweep_never_hits_the_heir_of_the_dead,
        a_sweeper_may_die_at_any_step,
        a_session_index_is_reused_without_inheriting_its_slots,
        a_certificate_is_no_proof,
    ]
}
