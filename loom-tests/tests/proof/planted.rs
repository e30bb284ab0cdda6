//! Planted bugs: each must be caught by the model that is named for it.

use caslock_loom::planted::{self, PLANTED};
use caslock_loom::report::{self, Row};
use caslock_loom::wide::model::Passing;
use caslock_loom::wide::scenarios::{certificate, names, reclaim, sessions};

use crate::{Catcher, Part, at_some_stop};

/// The bugs that a lock of this kind invites most, in the order of the table.
const NUMBERED: [&str; 16] = [
    "release_by_store",
    "release_without_epoch",
    "judged_word_reloaded",
    "reclaim_drops_waiters",
    "woken_drops_waiters",
    "wake_before_release",
    "force_without_wake",
    "token_counted_apart",
    "evicted_without_second_look",
    "reclaimer_clears",
    "name_before_bytes",
    "recycled_without_owner",
    "handle_trusts_its_name",
    "help_skipped",
    "certificate_as_proof",
    "record_reused_unswept",
];

/// Has the model find a violation, and adds the bug's row.
fn catch(bug: &str, story: &str, catcher: Catcher) {
    let (model, violation) = (catcher.name(), catcher.violation());
    let violation = violation.unwrap_or_else(|| panic!("{model} does not notice"));
    let line = violation.lines().next().unwrap_or_default();
    let place = NUMBERED.iter().position(|name| *name == bug);
    report::add(Row::Planted {
        number: place.and_then(|place| u32::try_from(place + 1).ok()),
        story: story.to_owned(),
        caught_by: format!("{model}: {line}"),
    });
}

/// One planted bug and its model, both of which are looked up when it is run.
struct Plant {
    bug: &'static str,
    run: fn(),
}

/// Bugs in the protocol's source, each in a world of its own.
macro_rules! in_the_source {
    ($($module:ident by $model:expr),* $(,)?) => {
        vec![$(Plant {
            bug: stringify!($module),
            run: || {
                #[allow(unused_imports, reason = "each bug has its models in some of these")]
                use planted::$module::scenarios::*;
                assert!(
                    planted::$module::PLANTED,
                    "its place is not in the source any more: mend src/planted_list.rs"
                );
                let bug = stringify!($module);
                let listed = PLANTED.iter().find(|listed| listed.module == bug);
                let story = listed.expect("the world was made from the list").story;
                catch(bug, story, $model.into());
            },
        }),*]
    };
}

/// Bugs of the protocol's callers, which stand in the models themselves.
macro_rules! in_the_models {
    ($($bug:ident, $story:literal, by $model:expr);* $(;)?) => {
        vec![$(Plant {
            bug: stringify!($bug),
            run: || catch(stringify!($bug), $story, $model.into()),
        }),*]
    };
}

fn plants() -> Vec<Plant> {
    let mut plants = in_the_source! {
        release_by_store by revoke::late_release(1),
        release_without_epoch by wrap::stale_release(1),
        judged_word_reloaded by reclaim::two_reclaimers(),
        reclaim_drops_waiters by waiting::reclaim_wakes(),
        woken_drops_waiters by waiting::two_waiters(waiting::Second::Stays),
        wake_before_release by waiting::waiter_and_wake(0),
        force_without_wake by waiting::force_wakes(),
        token_counted_apart by revoke::evicted_while_granted(),
        reclaimer_clears by waiting::reclaim_wakes(),
        help_skipped by wrap::nested_crashes(),
        guess_unread by wrap::guesser(planted::guess_unread::protocol::slot::Left::Quiet, 1),
        courtesy_without_epoch by wrap::stale_release(1),
        acknowledged_unsettled by wrap::acknowledged_and_guessed(),
        leaver_keeps_wake by waiting::two_waiters(waiting::Second::LeavesWoken),
        wake_word_read_late by waiting::waiter_and_wake(0),
        heir_stays_heir by waiting::two_waiters(waiting::Second::Stays),
        heir_sleeps_as_heir by heirs::self_appointed(heirs::Heir::Stays, 0, 0),
        heir_called_silently by heirs::left_by(heirs::Courtesy::CalledAndKept, heirs::ASIDE),
        heir_stands_aside by heirs::left_by(heirs::Courtesy::CalledAndKept, heirs::ASIDE),
        aside_unlooked by heirs::leaves_and_waits(
            heirs::Courtesy::Offered,
            planted::aside_unlooked::protocol::word::Queue::Idle,
            heirs::Again::AtOnce,
        ),
        nobody_is_appointed by heirs::nobody_comes(2),
        deserted_silently by heirs::nobody_comes(2),
        trusts_for_ever by heirs::heir_is_gone(),
        name_before_bytes by names::recycle_and_find(b'a', b'b'),
        recycled_without_owner by names::recycle_and_acquire(names::Handle::Checks),
        repair_skipped by
            at_some_stop(|steps| names::creator_stops(names::Looks::BesideTheNext, steps)),
        floor_forgotten by at_some_stop(names::name_comes_back),
        reset_keeps_epoch by reset::reset_broken_off(0, 0),
        reset_forgets_floor by reset::reset_broken_off(0, 0),
        record_withdrawn_late by records::session_view(),
        record_closed_unswept by sessions::late_collector(),
        record_closed_unlooked by sessions::late_collector(),
        swept_unlooked by sessions::late_collector(),
        state_read_late by sessions::newcomer_beside_collector(),
        byte_before_sweep by at_some_stop(sessions::collector_stops),
        byte_before_look by at_some_stop(sessions::claimer_stops),
        witness_unasked by sessions::job_outlives_its_session(sessions::Finder::TheHeir),
        witness_of_any_before by sessions::job_outlives_its_session(sessions::Finder::TheHeir),
    };
    plants.extend(in_the_models! {
        handle_trusts_its_name, "A handle that does not look at its name after the grant.",
            by names::recycle_and_acquire(names::Handle::Trusts);
        record_reused_unswept, "A session record that is reused with its slots unswept.",
            by reclaim::record_reused(reclaim::Attach::Trusts);
        certificate_as_proof, "A marked certificate that is taken for proof of death.",
            by reclaim::keeper_dies_first(reclaim::Proof::Certificate);
        evicted_without_second_look, "An eviction without a second look at the beat.",
            by sessions::beat_and_evict(sessions::SecondLook::LeftOut);
        certificate_wake_kept, "A waiter that keeps the certificate's one wake to itself.",
            by certificate::two_slots(Passing::KeepsIt);
    });
    plants
}

fn each_planted_bug_has_a_model() {
    let plants = plants();
    let has = |bug: &str| plants.iter().any(|plant| plant.bug == bug);
    let listed = PLANTED.iter().map(|bug| bug.module);
    let missing: Vec<_> = listed.chain(NUMBERED).filter(|bug| !has(bug)).collect();
    assert!(missing.is_empty(), "without a model: {missing:?}");
}

/// What there is to run.
pub fn parts() -> Vec<Part> {
    let caught = plants().into_iter().map(|plant| {
        let name = format!("planted and caught: {}", plant.bug);
        Part::new(name, plant.run)
    });
    let complete = Part::new("each_planted_bug_has_a_model", each_planted_bug_has_a_model);
    std::iter::once(complete).chain(caught).collect()
}
