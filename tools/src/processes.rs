//! What `/proc` tells of other processes: which are gone, and which have which file.
//!
//! Processes that may not be looked into, those of other users for one, are passed over.

use std::fmt;
use std::fs::{self, Metadata};
use std::io;
use std::ops::RangeInclusive;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process;

use caslock::SessionInfo;
use nix::errno::Errno;
use nix::sys::signal::kill;
use nix::unistd::Pid;

use crate::stat::Stat;

/// A process as people are told of it: `28501 (sleep)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    pub(crate) command: String,
}

impl Process {
    pub(crate) fn of(pid: u32) -> Self {
        let command = fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).trim_end().to_owned();
        Self { pid, command }
    }
}

/// Some processes in words, of which there is at least one: `processes 7 (sh) and 9 (sleep)`.
pub(crate) fn named(processes: &[Process]) -> String {
    /// How many are named: they are to be ended.
    const NAMED: usize = 8;
    if let [one] = processes {
        return format!("process {one}");
    }
    let mut names: Vec<_> = processes
        .iter()
        .take(NAMED)
        .map(Process::to_string)
        .collect();
    if processes.len() > NAMED {
        names.push(format!("{} more", processes.len() - NAMED));
    }
    let last = names.pop().unwrap_or_default();
    format!("processes {} and {last}", names.join(", "))
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.pid, self.command)
    }
}

/// Whether the process that had mapped the file under this PID is gone for certain: nobody
/// has the PID, or a zombie, or a process that has not mapped the file.
pub(crate) fn is_gone(pid: u32, file: &Metadata) -> bool {
    let Ok(id) = i32::try_from(pid) else {
        return false;
    };
    // Mounted with hidepid, /proc does not show every process that there is.
    if kill(Pid::from_raw(id), None) == Err(Errno::ESRCH) {
        return true;
    }
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return false;
    };
    // A main thread that has ended shows as a zombie without memory while others run on.
    let mut living = tasks.flatten().map(|task| task.path());
    let Some(task) = living.find(|task| !has_ended(task)) else {
        return true;
    };
    match fs::read(task.join("maps")) {
        Ok(maps) => !lines(&maps).any(|line| inode(line) == Some(file.ino())),
        Err(_) => false,
    }
}

/// The same of the file at the path; not certain where that cannot be looked at.
pub(crate) fn is_gone_from(path: &Path, pid: u32) -> bool {
    fs::symlink_metadata(path).is_ok_and(|file| is_gone(pid, &file))
}

/// Whether a thread is a zombie, or has gone since it was listed.
fn has_ended(task: &Path) -> bool {
    Stat::in_directory(task).map_or_else(|| !task.exists(), |stat| stat.is_of_ended_thread())
}

/// The inode number in a line of `/proc/PID/maps`.
fn inode(line: &[u8]) -> Option<u64> {
    let mut fields = line
        .split(|&byte| byte == b' ')
        .filter(|field| !field.is_empty());
    str::from_utf8(fields.nth(4)?).ok()?.parse().ok()
}

/// The processes that have mapped a file that once stood at the path, and those that may not be
/// looked into.
///
/// # Errors
///
/// When something else keeps them from being looked into, as want of descriptors does.
pub(crate) fn users_of_deleted(path: &Path) -> io::Result<(Vec<Process>, Vec<Process>)> {
    let mut unseen = Vec::new();
    let mut failed = None;
    let path = canonical(path);
    let mapped = [b" ", &*shown_in_maps(&path), b" (deleted)"].concat();
    let found = those_that(|pid, process| match fs::read(process.join("maps")) {
        Ok(maps) => {
            lines(&maps).any(|line| line.ends_with(&mapped)) && sees_directory_of(process, &path)
        }
        Err(error) => {
            let has_ended = error.kind() == io::ErrorKind::NotFound
                || error.raw_os_error() == Some(Errno::ESRCH as i32);
            let is_refused = error.kind() == io::ErrorKind::PermissionDenied;
            if is_refused && !is_without_memory(process) {
                unseen.push(Process::of(pid));
            } else if !is_refused && !has_ended {
                failed.get_or_insert(error);
            }
            false
        }
    })?;
    failed.map_or(Ok((found, unseen)), Err)
}

/// Whether the path's directory is the same for a process; not so in a container that has another
/// one there. In this process's mount namespace it is, whatever the process has for its root.
fn sees_directory_of(process: &Path, path: &Path) -> bool {
    let namespace = |process: &Path| fs::read_link(process.join("ns/mnt")).ok();
    if namespace(process) == namespace(Path::new("/proc/self")) {
        return true;
    }
    let Some(directory) = path.parent() else {
        return true;
    };
    let id = |path: &Path| fs::metadata(path).map(|found| (found.dev(), found.ino()));
    let inside = directory.strip_prefix("/").unwrap_or(directory);
    match (id(&process.join("root").join(inside)), id(directory)) {
        (Ok(theirs), Ok(ours)) => theirs == ours,
        (Err(error), _) => error.kind() != io::ErrorKind::NotFound,
        _ => true,
    }
}

/// Whether it is a kernel thread or a zombie: these have no arguments, either.
fn is_without_memory(process: &Path) -> bool {
    fs::read(process.join("cmdline")).is_ok_and(|arguments| arguments.is_empty())
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

/// The bytes of the table that keep a session alive while they are locked.
pub(crate) fn bytes_of(session: &SessionInfo) -> impl Iterator<Item = u64> + use<> {
    let own = caslock::session_byte(session.session);
    session.witness_byte.into_iter().chain([own])
}

/// The processes, this one aside, with a descriptor of the table by which any byte is locked that
/// may be a session's.
pub(crate) fn lockers(table: &Metadata) -> Vec<Process> {
    let first = caslock::session_byte(0);
    those_with_lock(table, |lock| *lock.bytes.end() >= first)
}

/// The processes, this one aside, with a descriptor of the table by which any of these bytes is
/// locked: as long as there is one, the session counts as alive that the byte is of.
pub(crate) fn keepers(table: &Metadata, bytes: &[u64]) -> Vec<Process> {
    those_with_lock(table, |lock| lock.is_on_any(bytes))
}

/// Those that have locked the byte of any of these sessions in another way than caslock does.
pub(crate) fn strangers(table: &Metadata, sessions: &[u32]) -> Vec<Process> {
    let bytes: Vec<_> = sessions
        .iter()
        .copied()
        .map(caslock::session_byte)
        .collect();
    those_with_lock(table, |lock| !lock.is_ours && lock.is_on_any(&bytes))
}

fn those_with_lock(table: &Metadata, is_meant: impl Fn(&FileLock) -> bool) -> Vec<Process> {
    let is_table = |descriptor: PathBuf| {
        fs::metadata(descriptor)
            .is_ok_and(|found| (found.dev(), found.ino()) == (table.dev(), table.ino()))
    };
    let carries = |info: &str| {
        info.lines()
            .filter_map(FileLock::parse)
            .any(|lock| is_meant(&lock))
    };
    those_that(|_, process| {
        let Ok(descriptors) = fs::read_dir(process.join("fdinfo")) else {
            return false;
        };
        // The kernel's own note comes first: to follow a descriptor of a filesystem that
        // hangs would hang.
        descriptors.flatten().any(|descriptor| {
            fs::read_to_string(descriptor.path()).is_ok_and(|info| carries(&info))
                && is_table(process.join("fd").join(descriptor.file_name()))
        })
    })
    .unwrap_or_default()
}

/// A lock by `fcntl(2)`, as `/proc/PID/fdinfo` tells of it:
/// `lock:  1: OFDLCK ADVISORY WRITE -1 00:1b:9321 FIRST LAST`.
struct FileLock {
    /// Whether it is of the kind that sessions have.
    is_ours: bool,
    bytes: RangeInclusive<u64>,
}

impl FileLock {
    fn parse(line: &str) -> Option<Self> {
        let fields: Vec<_> = line.split_ascii_whitespace().collect();
        let &[
            "lock:",
            _,
            kind @ ("OFDLCK" | "POSIX"),
            _,
            access,
            ..,
            first,
            last,
        ] = &fields[..]
        else {
            return None;
        };
        // A lock without an end says EOF.
        let last = last.parse().unwrap_or(u64::MAX);
        Some(Self {
            is_ours: (kind, access) == ("OFDLCK", "WRITE"),
            bytes: first.parse().ok()?..=last,
        })
    }

    fn is_on_any(&self, bytes: &[u64]) -> bool {
        bytes.iter().any(|byte| self.bytes.contains(byte))
    }
}

fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|&byte| byte == b'\n')
}

/// The processes but for this one, whose directory under `/proc` has what is looked for.
fn those_that(mut have: impl FnMut(u32, &Path) -> bool) -> io::Result<Vec<Process>> {
    let mut found = Vec::new();
    for process in fs::read_dir("/proc")?.flatten() {
        let name = process.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        if pid == process::id() || !have(pid, &process.path()) {
            continue;
        }
        found.push(Process::of(pid));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;
    use std::process::Command;

    use caslock::LockTable;

    use super::*;

    #[test]
    fn a_process_is_gone_when_its_pid_is_nobodys_a_zombies_or_anothers() {
        let mapped = fs::metadata("/proc/self/exe").expect("this program");
        let unmapped = tempfile::NamedTempFile::new().expect("a file");
        let unmapped = unmapped.as_file().metadata().expect("its status");
        assert!(!is_gone(process::id(), &mapped));
        assert!(is_gone(process::id(), &unmapped));

        let mut child = Command::new("true").spawn().expect("a process");
        let task = PathBuf::from(format!("/proc/{0}/task/{0}", child.id()));
        while !has_ended(&task) {
            std::thread::yield_now();
        }
        assert!(is_gone(child.id(), &mapped));
        child.wait().expect("it ends");
        assert!(is_gone(child.id(), &mapped));
    }

    #[test]
    fn a_session_is_known_by_the_byte_that_its_witness_has_locked() {
        let directory = tempfile::tempdir().expect("a directory");
        let table = LockTable::options()
            .share_witness(true)
            .open(directory.path().join("t.table"))
            .expect("a table");
        let seen = table.inspect().expect("the table");
        let byte = seen.sessions[0].witness_byte.expect("it is shared");
        let witness = table.witness().expect("a witness").as_raw_fd();
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{witness}"));
        let info = info.expect("what the kernel tells of it");
        let mut locks = info.lines().filter_map(FileLock::parse);
        let lock = locks.next().expect(&info);
        assert!(!lock.is_ours && lock.is_on_any(&[byte]), "{info}");
        assert!(!lock.is_on_any(&[byte + 1]), "{info}");
        // Whoever else has locked its own keeps it alive as well.
        let own = caslock::session_byte(seen.sessions[0].session);
        assert!(bytes_of(&seen.sessions[0]).eq([byte, own]));
    }

    #[test]
    fn a_lock_of_another_kind_or_place_is_not_the_sessions() {
        let of = |kind: &str, access: &str, first: u64, last: &str| {
            let line = format!("lock:\t1: {kind} ADVISORY  {access} -1 00:1b:7 {first} {last}");
            FileLock::parse(&line)
        };
        let byte = caslock::session_byte(7);
        let ours = |access, first, last: &str| of("OFDLCK", access, first, last).expect("a lock");
        assert!(ours("WRITE", byte, &byte.to_string()).is_on_any(&[byte - 4, byte]));
        assert!(ours("WRITE", 0, "EOF").is_on_any(&[byte]));
        assert!(!ours("WRITE", byte + 1, "EOF").is_on_any(&[byte]));
        assert!(ours("WRITE", 0, "EOF").is_ours && !ours("READ", 0, "EOF").is_ours);
        assert!(!of("POSIX", "WRITE", 0, "EOF").expect("a lock").is_ours);
        // It is in nobody's way.
        assert!(of("FLOCK", "WRITE", 0, "EOF").is_none());
        assert!(FileLock::parse("pos:\t0").is_none());
    }

    #[test]
    fn processes_are_named_up_to_the_eighth() {
        let of = |pid| Process {
            pid,
            command: "sh".to_owned(),
        };
        let named = |count| super::named(&(1..=count).map(of).collect::<Vec<_>>());
        assert_eq!(named(1), "process 1 (sh)");
        assert_eq!(named(2), "processes 1 (sh) and 2 (sh)");
        assert_eq!(named(3), "processes 1 (sh), 2 (sh) and 3 (sh)");
        assert!(named(8).ends_with(", 7 (sh) and 8 (sh)"));
        assert!(named(10).ends_with(", 8 (sh) and 2 more"));
    }
}
