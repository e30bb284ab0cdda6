//! What `/proc` tells of other processes: which have which file mapped.
//!
//! Processes that may not be looked into, those of other users for one, are passed over.

use std::fmt;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process;

/// A process as people are told of it: `28501 (sleep)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) pid: u32,
    pub(super) command: String,
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.pid, self.command)
    }
}

/// Whether `/proc` is there, and shows the PID namespace of this process.
pub(super) fn are_shown() -> bool {
    let own = process::id().to_string();
    fs::read_link("/proc/self").is_ok_and(|shown| shown == Path::new(&own))
}

/// The processes that have mapped a file that once stood at the path.
pub(super) fn users_of_deleted(path: &Path) -> Vec<Process> {
    let shown = shown_in_maps(&canonical(path));
    let mapped = [b" ", &*shown, b" (deleted)"].concat();
    those_that(|process| {
        let maps = fs::read(process.join("maps")).unwrap_or_default();
        lines(&maps).any(|line| line.ends_with(&mapped))
    })
}

/// The path without links and dots. The file may be gone; its directory is there.
fn canonical(path: &Path) -> PathBuf {
    let directory = path.parent().and_then(|parent| parent.canonicalize().ok());
    match (directory, path.file_name()) {
        (Some(directory), Some(name)) => directory.join(name),
        _ => path.to_owned(),
    }
}

fn shown_in_maps(path: &Path) -> Vec<u8> {
    let escape = |&byte: &u8| match byte {
        b'\n' => br"\012".to_vec(),
        _ => vec![byte],
    };
    path.as_os_str()
        .as_bytes()
        .iter()
        .flat_map(escape)
        .collect()
}

fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|&byte| byte == b'\n')
}

/// The processes but for this one, whose directory under `/proc` has what is looked for.
fn those_that(mut have: impl FnMut(&Path) -> bool) -> Vec<Process> {
    let Ok(processes) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for process in processes.flatten() {
        let name = process.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        if pid == process::id() || !have(&process.path()) {
            continue;
        }
        let command = fs::read(process.path().join("comm")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).trim_end().to_owned();
        found.push(Process { pid, command });
    }
    found
}
