//! What somebody at a terminal can do about an error of the library: commands to paste.
//!
//! The library tells what happened, in words that hold for every program that uses it. Here it
//! is known which table the error is about, and how that is named on a command line.

use std::error::Error;
use std::path::Path;

use caslock::{AcquireError, ForceReleaseError, LockError, OpenError};
use nix::unistd::geteuid;

use crate::paste::argument;
use crate::table_path;

/// An error of the library that some command helps against.
pub(crate) trait Advised: Error + Send + Sync + 'static {
    /// What to do, with commands that begin with `caslock` and this flag.
    fn advice(&self, flag: &str) -> Option<String>;
}

impl Advised for OpenError {
    fn advice(&self, flag: &str) -> Option<String> {
        match self {
            Self::SessionsFull { .. } => Some(format!(
                "see `caslock {flag}sessions` and `caslock {flag}doctor`"
            )),
            Self::ResetBlocked { .. } => Some(format!("`caslock {flag}sessions` lists them")),
            Self::ForeignOwner { owner, .. } if geteuid().is_root() => Some(format!(
                "root uses a user's table only in a directory where not everybody may put files; \
                 ask as that user (setpriv --reuid {owner} --clear-groups caslock {flag}...)"
            )),
            _ => None,
        }
    }
}

impl Advised for LockError {
    fn advice(&self, flag: &str) -> Option<String> {
        match self {
            Self::TableFull { .. } => Some(format!(
                "`caslock {flag}ls` lists them, and `caslock {flag}doctor` says how to free \
                 those of the dead"
            )),
            _ => None,
        }
    }
}

impl Advised for AcquireError {
    fn advice(&self, flag: &str) -> Option<String> {
        match self {
            Self::Corrupt { name, .. } => {
                Some(format!("`caslock {flag}show {}` says how", argument(name)))
            }
            Self::Name(error) => error.advice(flag),
            _ => None,
        }
    }
}

impl Advised for ForceReleaseError {
    fn advice(&self, flag: &str) -> Option<String> {
        match self {
            Self::NoSuchLock { .. } => Some(format!("`caslock {flag}ls` lists them")),
            Self::Open(error) => error.advice(flag),
            _ => None,
        }
    }
}

/// The error with the table's path before it, if it does not begin with that itself, and with
/// what to do behind it.
pub(crate) fn advised(path: &Path, error: impl Advised) -> anyhow::Error {
    let mut message = error.to_string();
    if !message.starts_with(&*path.to_string_lossy()) {
        message = format!("{}: {message}", path.display());
    }
    if let Some(advice) = error.advice(&table_path::flag(path)) {
        message = format!("{message}; {advice}");
    }
    anyhow::Error::new(error).context(message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit_code::{self, ExitCode};
    use crate::output::in_one_line;

    fn full() -> LockError {
        LockError::TableFull {
            name: "a".to_owned(),
            slots: 3,
        }
    }

    #[test]
    fn an_error_is_said_once_between_its_table_and_what_to_do() {
        let path = Path::new("/run/my app.table");
        let error = advised(path, full());
        assert_eq!(
            in_one_line(&error),
            format!(
                "/run/my app.table: {}; `caslock --table '/run/my app.table' ls` lists them, and \
                 `caslock --table '/run/my app.table' doctor` says how to free those of the dead",
                full()
            )
        );
        assert_eq!(exit_code::of_error(&error), ExitCode::CannotCreate);
    }

    #[test]
    fn an_error_that_begins_with_the_path_does_not_get_it_twice() {
        let path = Path::new("/run/app.table");
        let error = || OpenError::SessionsFull {
            path: path.to_path_buf(),
            sessions: 2,
        };
        let text = in_one_line(&advised(path, error()));
        assert!(text.starts_with(&error().to_string()), "{text}");
        assert!(
            text.ends_with("`caslock --table /run/app.table doctor`"),
            "{text}"
        );
    }

    #[test]
    fn a_full_table_is_no_different_on_the_way_to_a_grant() {
        let (direct, later) = (
            full().advice("-f "),
            AcquireError::Name(full()).advice("-f "),
        );
        assert!(direct.is_some());
        assert_eq!(direct, later);
    }
}
