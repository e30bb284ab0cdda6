//! Which table: the path that was named, or else the user's own default.

use std::env;
use std::ffi::OsString;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::unistd::geteuid;

use crate::exit_code::{ExitCode, Refusal};
use crate::paste::table_option;

const FILE: &str = "default.table";

/// The table's absolute path, for a verb that only looks at it.
pub(crate) fn to_read(chosen: Option<PathBuf>) -> anyhow::Result<PathBuf> {
    // Where the directory is missing, opening will say that there is no table.
    resolve(chosen, |directory| check(directory).map(drop))
}

/// The table's absolute path, for a verb that may create it: the directory of a default
/// path is made when it is missing.
pub(crate) fn to_open(chosen: Option<PathBuf>) -> anyhow::Result<PathBuf> {
    resolve(chosen, |directory| match check(directory)? {
        true => Ok(()),
        false => make(directory),
    })
}

fn resolve(
    chosen: Option<PathBuf>,
    prepare: impl FnOnce(&Path) -> anyhow::Result<()>,
) -> anyhow::Result<PathBuf> {
    if let Some(path) = chosen.or_else(from_environment) {
        return absolute(&path);
    }
    let directory = users_directory();
    prepare(&directory)?;
    Ok(directory.join(FILE))
}

/// The command may change its directory: the path that it is given must still hold. And an error
/// of the library's has it like this.
pub(crate) fn absolute(path: &Path) -> anyhow::Result<PathBuf> {
    std::path::absolute(path).map_err(|error| {
        let message = format!("--table {}: {error}", path.display());
        Refusal::new(ExitCode::Usage, message).into()
    })
}

/// What `caslock` needs before its verb in a line that somebody is to paste, so that it is
/// about this table: nothing, or as [`table_option`] has it.
pub(crate) fn flag(path: &Path) -> String {
    let goes_without_saying = from_environment().is_none() && path == users_directory().join(FILE);
    match goes_without_saying {
        true => String::new(),
        false => table_option(path),
    }
}

/// A variable that is set to nothing is meant as one that is not set. An option that is, is
/// refused by the parser: it is a script's `--table "$FORGOTTEN"`.
fn from_environment() -> Option<PathBuf> {
    env::var_os("CASLOCK_TABLE")
        .filter(|path| !path.is_empty())
        .map(PathBuf::from)
}

fn users_directory() -> PathBuf {
    default_directory(env::var_os("XDG_RUNTIME_DIR"), geteuid().as_raw())
}

/// A relative XDG_RUNTIME_DIR is to be ignored, says the XDG base directory specification.
/// One that is set but unusable is an error, never a reason to fall back: two processes
/// of one user that silently ended up with two tables would not exclude each other.
fn default_directory(runtime: Option<OsString>, user: u32) -> PathBuf {
    match runtime.map(PathBuf::from) {
        Some(runtime) if runtime.is_absolute() => runtime.join("caslock"),
        _ => PathBuf::from(format!("/dev/shm/caslock-{user}")),
    }
}

fn make(directory: &Path) -> anyhow::Result<()> {
    directory.parent().map_or(Ok(()), check_place)?;
    match DirBuilder::new().mode(0o700).create(directory) {
        Ok(()) => Ok(()),
        // Somebody was faster: ourselves in another process, or an intruder.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => check(directory).map(drop),
        Err(error) => Err(refuse(directory, &error)),
    }
}

/// A directory that root makes in another user's runtime directory, which `su` leaves set, would be
/// of no use to that user any more.
fn check_place(place: &Path) -> anyhow::Result<()> {
    // Where that cannot be asked, nothing can be made there.
    let Ok(found) = fs::metadata(place) else {
        return Ok(());
    };
    let (owner, user) = (found.uid(), geteuid().as_raw());
    if may_hold_default(owner, user) {
        return Ok(());
    }
    let message = format!(
        "{}: belongs to user {owner}, not to user {user}; refused as the place of the default table \
         (name a table with --table)",
        place.display()
    );
    Err(Refusal::new(ExitCode::Permission, message).into())
}

/// One's own directory, or one that is everybody's, as /tmp is where a container has nothing else.
fn may_hold_default(owner: u32, user: u32) -> bool {
    const ROOT: u32 = 0;
    [user, ROOT].contains(&owner)
}

/// Whether the directory is there, and an error if it is not to be trusted: /dev/shm is
/// open to all, so whatever stands at the expected path may have been planted.
fn check(directory: &Path) -> anyhow::Result<bool> {
    let found = match fs::symlink_metadata(directory) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(refuse(directory, &error)),
    };
    let user = geteuid().as_raw();
    let trouble = if found.is_symlink() {
        "is a symbolic link".to_owned()
    } else if !found.is_dir() {
        "is not a directory".to_owned()
    } else if found.uid() != user {
        format!("belongs to user {}, not to user {user}", found.uid())
    } else if found.mode() & 0o022 != 0 {
        let mode = found.mode() & 0o7777;
        format!("has mode {mode:04o}, which lets others write")
    } else {
        return Ok(true);
    };
    let message = format!(
        "{}: {trouble}; refused as the directory of the default table (name a table with --table)",
        directory.display()
    );
    Err(Refusal::new(ExitCode::Permission, message).into())
}

fn refuse(directory: &Path, error: &io::Error) -> anyhow::Error {
    let code = match error.kind() {
        io::ErrorKind::PermissionDenied => ExitCode::Permission,
        _ => ExitCode::CannotCreate,
    };
    let message = format!(
        "{}: no use as the directory of the default table: {error} (name a table with --table)",
        directory.display()
    );
    Refusal::new(code, message).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_default_table_may_lie_in_ones_own_directory_or_in_roots() {
        assert!(may_hold_default(7, 7) && may_hold_default(0, 7) && may_hold_default(0, 0));
        assert!(!may_hold_default(7, 0) && !may_hold_default(8, 7));
    }

    #[test]
    fn the_runtime_directory_comes_first_unless_it_is_relative_or_empty() {
        let shm = PathBuf::from("/dev/shm/caslock-7");
        assert_eq!(
            default_directory(Some("/run/user/7".into()), 7),
            PathBuf::from("/run/user/7/caslock")
        );
        assert_eq!(default_directory(Some("run".into()), 7), shm);
        assert_eq!(default_directory(Some("".into()), 7), shm);
        assert_eq!(default_directory(None, 7), shm);
    }
}
