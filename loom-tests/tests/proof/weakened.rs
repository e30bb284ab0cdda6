//! Each ordering of the protocol, weakened one step: some model must fail.

use std::sync::atomic::Ordering;

use caslock_loom::check::Model;
use caslock_loom::report::{self, Row};
use caslock_loom::wide::protocol::ordering::Site;
use caslock_loom::wide::scenarios::{exclusion, names, records, revoke, waiting};
use caslock_loom::{tiny, weaken, wide};

use crate::{Catcher, Part, at_some_stop};

/// Each site; the match below does not compile while one is missing from it.
const SITES: [Site; 15] = [
    Site::Owner,
    Site::Grant,
    Site::Vacate,
    Site::Epoch,
    Site::EpochHelp,
    Site::Wake,
    Site::WakeBump,
    Site::Record,
    Site::RecordRead,
    Site::Rename,
    Site::RenameRead,
    Site::RenameFence,
    Site::NameFence,
    Site::Note,
    Site::NoteRead,
];

fn one<const N: usize>(models: [Model; N]) -> Vec<Catcher> {
    models.into_iter().map(Catcher::One).collect()
}

/// The models that may notice, most telling first.
fn models(site: Site) -> Vec<Catcher> {
    use tiny::scenarios::wrap::{onlooker, stale_look, stale_take, triers_across_epochs};
    match site {
        Site::Owner => one([
            stale_look(1),
            waiting::waiter_and_wake(1),
            names::recycle_and_acquire(names::Handle::Checks).bounded(2),
        ]),
        Site::Grant => one([
            stale_take(1).bounded(2),
            revoke::visible_through_a_hung_heir(),
        ]),
        Site::Vacate => one([exclusion::two_acquirers(0, wide::model::Sleep::Poll)]),
        Site::Epoch | Site::EpochHelp => (0..4)
            .map(|start| triers_across_epochs(start, 2))
            .chain([onlooker(), stale_look(1)])
            .map(Catcher::One)
            .collect(),
        Site::Wake | Site::WakeBump => one([waiting::waiter_and_wake(1)]),
        Site::Record | Site::RecordRead => one([records::session_view()]),
        Site::Rename => vec![at_some_stop(names::creator_repaired)],
        Site::RenameRead => one([
            names::create_and_find(),
            names::recycle_and_find(b'b', b'b'),
            names::recycle_and_find(b'a', b'b'),
        ]),
        Site::RenameFence | Site::NameFence => {
            one([records::notes(), names::recycle_and_find(b'a', b'b')])
        }
        Site::Note | Site::NoteRead => one([records::notes()]),
    }
}

/// Weakens the ordering of `site`: a model fails. An ordering that nothing needs is weaker
/// in the source.
fn weaken_one(site: Site, weaker: Ordering) {
    let noticed = weaken::with(&[(site as usize, weaker)], || {
        models(site).into_iter().find_map(|catcher| {
            let violation = catcher.violation()?;
            let line = violation.lines().next().unwrap_or_default();
            Some(format!("{} | {line}", catcher.name()))
        })
    });
    report::add(Row::Weakened {
        ordering: format!("{site:?} at {weaker:?}"),
        caught_by: noticed.expect("some model notices"),
    });
}

/// What there is to run.
pub fn parts() -> Vec<Part> {
    let one_step = |site: Site| {
        weaken::one_step(site.ordering())
            .iter()
            .map(move |&weaker| (site, weaker))
    };
    SITES
        .into_iter()
        .flat_map(one_step)
        .map(|(site, weaker)| {
            let name = format!("{site:?} is needed: weakened to {weaker:?}");
            Part::new(name, move || weaken_one(site, weaker))
        })
        .collect()
}
