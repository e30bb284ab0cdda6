//! The verbs, one file each.

mod bench;
mod create;
mod doctor;
mod force_release;
mod ls;
mod run;
mod sessions;
mod show;

use std::fs;
use std::io;
use std::path::Path;

use caslock::{Inspector, OpenError};

use crate::advice::advised;
use crate::cli::{Cli, Verb};
use crate::exit_code::{ExitCode, Refusal};
use crate::table_path;

/// Carries out what the command line asked for.
pub(crate) fn dispatch(cli: Cli) -> anyhow::Result<ExitCode> {
    let table = cli.table;
    match cli.verb {
        Verb::Run(args) => run::run(table, &args),
        Verb::Create(args) => create::create(&args),
        Verb::Ls(args) => ls::ls(&table_path::to_read(table)?, &args),
        Verb::Show(args) => show::show(&table_path::to_read(table)?, &args),
        Verb::ForceRelease(args) => {
            force_release::force_release(&table_path::to_read(table)?, &args)
        }
        Verb::Sessions(args) => sessions::sessions(&table_path::to_read(table)?, &args),
        Verb::Bench(args) => bench::bench(&args),
        Verb::Doctor(_) => doctor::doctor(&table_path::to_read(table)?),
    }
}

/// Opens the table for reading.
fn inspector(path: &Path) -> anyhow::Result<Inspector> {
    Inspector::open(path).map_err(|error| advised(path, error))
}

/// Why a table could not be opened or created. Where the directory that it was to be in is missing,
/// that is said; something else may be missing as well, like /proc.
fn explain_opening(path: &Path, error: OpenError) -> anyhow::Error {
    let is_directory_missing = match &error {
        OpenError::Io { path, error, .. } => {
            is_absence(error) && path.parent().is_some_and(is_missing)
        }
        _ => false,
    };
    if is_directory_missing {
        let message = format!("{}: its directory does not exist", path.display());
        Refusal::new(ExitCode::CannotCreate, message).into()
    } else {
        advised(path, error)
    }
}

fn is_missing(directory: &Path) -> bool {
    fs::metadata(directory).is_err_and(|error| is_absence(&error))
}

fn is_absence(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
}
