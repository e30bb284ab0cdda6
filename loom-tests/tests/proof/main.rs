//! The whole proof in one run, which ends in one table: models, orderings weakened one by
//! one, planted bugs, sessions and leases, randomised runs.
//!
//! It takes the usual arguments of a test binary, a filter among them; only a run of all
//! its parts is a proof, and says so.

// The protocol is compiled once for each world that it runs in: that is the idea.
#![allow(clippy::duplicate_mod)]

use std::process::ExitCode;
use std::time::Instant;

use caslock_loom::check::Model;
use caslock_loom::report::{self, Extent};
use libtest_mimic::{Arguments, Trial};

mod certificate;
mod crowds;
mod exclusion;
mod heirs;
mod leases;
mod names;
mod planted;
mod reclaim;
mod records;
mod revoke;
mod sessions;
mod stops;
mod waiting;
mod weakened;
mod wrap;

/// One part of the proof: it panics if it fails.
pub struct Part {
    name: String,
    run: Box<dyn FnOnce() + Send>,
}

impl Part {
    /// A part by its name.
    pub fn new(name: impl Into<String>, run: impl FnOnce() + Send + 'static) -> Self {
        Self {
            name: name.into(),
            run: Box::new(run),
        }
    }
}

/// A model that is to fail: in a world with a bug, or with a weakened ordering.
pub enum Catcher {
    /// Just this one.
    One(Model),
    /// With an actor stopped at some step.
    AtSomeStop(fn(u32) -> Model),
}

impl From<Model> for Catcher {
    fn from(model: Model) -> Self {
        Self::One(model)
    }
}

/// A model that is to fail with an actor stopped at some step.
pub fn at_some_stop(model: fn(u32) -> Model) -> Catcher {
    Catcher::AtSomeStop(model)
}

impl Catcher {
    fn name(&self) -> String {
        match self {
            Self::One(model) => model.name().to_owned(),
            Self::AtSomeStop(model) => model(0).name().to_owned(),
        }
    }

    fn violation(&self) -> Option<String> {
        match self {
            Self::One(model) => model.violation(),
            Self::AtSomeStop(model) => Model::violation_at_some_stop(model),
        }
    }
}

/// Parts from functions, by the functions' own names.
macro_rules! parts {
    ($($part:ident),* $(,)?) => {
        vec![$(Part::new(stringify!($part), $part)),*]
    };
}
pub(crate) use parts;

/// All parts, in the table's order.
fn all() -> Vec<Part> {
    [
        exclusion::parts(),
        waiting::parts(),
        heirs::parts(),
        certificate::parts(),
        reclaim::parts(),
        revoke::parts(),
        stops::parts(),
        sessions::parts(),
        wrap::parts(),
        names::parts(),
        records::parts(),
        weakened::parts(),
        planted::parts(),
        leases::parts(),
        crowds::parts(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let trials: Vec<Trial> = all()
        .into_iter()
        .enumerate()
        .map(|(number, part)| {
            let name = part.name.clone();
            Trial::test(part.name, move || {
                let begun = Instant::now();
                report::begin(number);
                (part.run)();
                report::ended(name, begun.elapsed());
                Ok(())
            })
        })
        .collect();
    let parts = trials.len();
    let conclusion = libtest_mimic::run(&arguments, trials);
    if !arguments.list {
        let failed = usize::try_from(conclusion.num_failed).unwrap_or(parts);
        let passed = usize::try_from(conclusion.num_passed).unwrap_or(0);
        report::print(Extent {
            parts,
            run: passed + failed,
            failed,
        });
    }
    conclusion.exit_code()
}
