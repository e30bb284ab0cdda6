//! Each ordering of the protocol, weakened one step: some model must fail.

use std::sync::atomic::Ordering;

use caslock_loom::check::Model;
use caslock_loom::report::{self, Row};
use caslock_loom::wide::protocol::ordering::Site;
use caslock_loom::wide::scenarios::{exclusion, names, reclaim, records, revoke, waiting};
use caslock_loom::{tiny, weaken, wide};

use crate::Part;

/// Each site; the match below does not compile while one is missing from it.
const SITES: [Site; 17] = [
    Site::Owner,
    Site::Grant,
    Site::Vacate,
    Site::Epoch,
    Site::EpochHelp,
    Site::Wake,
    Site::WakeBump,
    Site::Record,
    Site::RecordRead,
    Site::IndexPublish,
    Site::Index,
    Site::Rename,
    Site::RenameRead,
    Site::RenameFence,
    Site::NameFence,
    Site::Note,
    Site::NoteRead,
];

/// The models that may notice, most telling first.
fn models(site: Site) -> Vec<Model> {
    let epochs =
        || (0..4).map(|start| tiny::scenarios::wrap::triers_across_epochs(start, 2).bounded(3));
    match site {
        Site::Owner => vec![
            tiny::scenarios::wrap::stale_look(1),
            waiting::waiter_and_wake(1),
            names::recycle_and_acquire(names::Handle::Checks).bounded(2),
        ],
        Site::Grant => vec![
            exclusion::two_acquirers(1, wide::model::Sleep::Poll),
            revoke::visible_through_a_hung_heir(),
        ],
        Site::Vacate => vec![exclusion::two_acquirers(1, wide::model::Sleep::Poll)],
        Site::Epoch | Site::EpochHelp => epochs()
            .chain([
                tiny::scenarios::wrap::onlooker().bounded(2),
                tiny::scenarios::wrap::lagging_helper(),
                tiny::scenarios::wrap::stale_look(1),
            ])
            .collect(),
        Site::Wake | Site::WakeBump => vec![waiting::waiter_and_wake(1)],
        Site::Record | Site::RecordRead => vec![records::session_view().bounded(1)],
        Site::IndexPublish | Site::Index | Site::Rename | Site::RenameRead => vec![
            names::create_and_find(),
            names::recycle_and_find(b'b', b'b'),
            names::recycle_and_find(b'a', b'b'),
            names::recycle_and_acquire(names::Handle::Checks).bounded(2),
            reclaim::sweep_and_heir(1),
        ],
        Site::RenameFence | Site::NameFence => {
            vec![records::notes(), names::recycle_and_find(b'a', b'b')]
        }
        Site::Note | Site::NoteRead => vec![records::notes()],
    }
}

/// A weakening that no model notices, and why its ordering stands.
struct Unnoticed {
    site: Site,
    weaker: Ordering,
    /// What covers for it: with this weakened as well, a model does notice.
    cover: Option<(Site, Ordering)>,
    why: &'static str,
}

const UNNOTICED: [Unnoticed; 6] = [
    Unnoticed {
        site: Site::Grant,
        weaker: Ordering::Release,
        cover: Some((Site::Owner, Ordering::Relaxed)),
        why: "each take is from a word that Owner has acquired; the pair is named at the CAS",
    },
    Unnoticed {
        site: Site::EpochHelp,
        weaker: Ordering::Release,
        cover: None,
        why: "a helper reads nothing after it that another helper wrote",
    },
    Unnoticed {
        site: Site::IndexPublish,
        weaker: Ordering::Relaxed,
        cover: None,
        why: "a name is only believed between two readings of the rename count",
    },
    Unnoticed {
        site: Site::Index,
        weaker: Ordering::Relaxed,
        cover: None,
        why: "a name is only believed between two readings of the rename count",
    },
    Unnoticed {
        site: Site::Rename,
        weaker: Ordering::Acquire,
        cover: Some((Site::Owner, Ordering::Relaxed)),
        why: "a finder reads the owner word, too, and past RENAMING it carries the bytes",
    },
    Unnoticed {
        site: Site::Rename,
        weaker: Ordering::Release,
        cover: None,
        why: "only the holder of the naming lock counts, whose lock orders it",
    },
];

/// The first violation that a model of `site` finds with `weakened`.
fn noticed(site: Site, weakened: &[(Site, Ordering)]) -> Option<String> {
    let weakened: Vec<_> = weakened
        .iter()
        .map(|&(site, ordering)| (site as usize, ordering))
        .collect();
    weaken::with(&weakened, || {
        models(site).into_iter().find_map(|model| {
            let violation = model.violation()?;
            let line = violation.lines().next().unwrap_or_default();
            Some(format!("{} | {line}", model.name()))
        })
    })
}

/// Weakens the ordering of `site`: a model fails, or the list above says why none does.
fn weaken_one(site: Site, weaker: Ordering) {
    let by = noticed(site, &[(site, weaker)]);
    let entry = UNNOTICED
        .iter()
        .find(|entry| (entry.site, entry.weaker) == (site, weaker));
    let verdict = match (by, entry) {
        (Some(by), None) => Ok(by),
        (None, Some(entry)) => {
            if let Some(cover) = entry.cover {
                let both = noticed(site, &[(site, weaker), cover]);
                assert!(both.is_some(), "{cover:?} does not cover for it");
            }
            Err(entry.why)
        }
        (Some(by), Some(_)) => panic!("the list says that no model notices, but: {by}"),
        (None, None) => panic!("no model notices"),
    };
    report::add(Row::Weakened {
        ordering: format!("{site:?} at {weaker:?}"),
        verdict,
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
