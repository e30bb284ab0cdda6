//! Mutual exclusion and token order, in a table that nobody leaves by force.

use crate::{Part, parts};
use caslock_loom::{tiny, wide};

fn two_acquirers_never_share_a_slot() {
    use wide::{model::Sleep, scenarios::exclusion::two_acquirers};
    two_acquirers(0, Sleep::Poll).prove();
    two_acquirers(0, Sleep::Futex).reaching(&["slept"]).prove();
}

fn two_triers_never_share_a_slot() {
    wide::scenarios::exclusion::two_triers().prove();
    tiny::scenarios::exclusion::two_triers().prove();
}

fn three_acquirers_never_share_a_slot() {
    use wide::{model::Sleep, scenarios::exclusion::three_acquirers};
    three_acquirers(Sleep::Poll).prove();
    three_acquirers(Sleep::Futex).prove();
}

/// What there is to run.
pub fn parts() -> Vec<Part> {
    parts![
        two_acquirers_never_share_a_slot,
        two_triers_never_share_a_slot,
        three_acquirers_never_share_a_slot,
    ]
}
