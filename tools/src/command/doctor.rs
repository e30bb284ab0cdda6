//! `caslock doctor`: what is wrong, and what to do about it.
//!
//! Each check is one line: `ok`, `warn` for what will mend itself or can wait, `FAIL` for
//! what somebody has to do something about.

mod clocks;
mod room;
mod silent;

use std::fmt;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use caslock::{
    Checkup, Holder, Inspector, Liveness, OpenError, Reclaim, SessionInfo, SlotInfo, SlotState,
    Snapshot, TableInfo, human,
};
use nix::errno::Errno;
use nix::unistd::{AccessFlags, eaccess, geteuid};

use crate::advice::Advised;
use crate::exit_code::{self, ExitCode};
use crate::output::{Out, Paint, printable};
use crate::paste::{argument, table_option};
use crate::processes;
use crate::stat::are_processes_shown;
use crate::sys;
use crate::table_path;

use self::silent::Silent;

pub(crate) fn doctor(path: &Path) -> anyhow::Result<ExitCode> {
    let mut report = Report {
        out: Out::stdout(),
        failed: false,
    };
    let looked = look(&mut report, path);
    let Report { out, failed } = report;
    match looked.and_then(|()| Ok(out.finish()?)) {
        // Whoever reads no further has been given the verdict by the exit code.
        Err(error) if failed && exit_code::of_error(&error) == ExitCode::Success => {
            Ok(ExitCode::Refused)
        }
        Err(error) => Err(error),
        Ok(()) if failed => Ok(ExitCode::Refused),
        Ok(()) => Ok(ExitCode::Success),
    }
}

fn look(report: &mut Report, path: &Path) -> anyhow::Result<()> {
    match Inspector::open(path) {
        // Not a finding, but nothing to look at.
        Err(error @ OpenError::NotFound { .. }) => return Err(error.into()),
        Err(error) => {
            let advice = error.advice(&table_path::flag(path));
            let advice = advice.map_or_else(String::new, |advice| format!("; {advice}"));
            report.fail("table", format_args!("{error}{advice}"))?;
        }
        Ok(inspector) => {
            let (snapshot, others) = clocks::snapshot(&inspector)?;
            examine(report, path, &snapshot, &inspector.checkup()?)?;
            clocks::clocks(report, others)?;
        }
    }
    Ok(())
}

fn examine(
    report: &mut Report,
    path: &Path,
    snapshot: &Snapshot,
    checkup: &Checkup,
) -> io::Result<()> {
    let table = &snapshot.table;
    let seen = Seen {
        path,
        snapshot,
        checkup,
        flag: table_path::flag(path),
    };
    describe(report, table)?;
    file(report, path)?;
    directory(report, path)?;
    place(report, path, table)?;
    boot(report, &seen)?;
    for slot in &snapshot.slots {
        slot_state(report, slot, &seen)?;
    }
    holders(report, snapshot)?;
    naming(report, &seen)?;
    names(report, &seen)?;
    room::strangers(report, &seen)?;
    room::sessions(report, &seen)?;
    namespaces(report, &snapshot.sessions)?;
    kernel(report)
}

/// What is examined, and what is to be pasted so that it is about the same.
struct Seen<'a> {
    path: &'a Path,
    snapshot: &'a Snapshot,
    checkup: &'a Checkup,
    /// As [`table_path::flag`] gives it.
    flag: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Ok,
    Warn,
    Fail,
}

struct Report {
    out: Out,
    failed: bool,
}

impl Report {
    fn line(&mut self, verdict: Verdict, on: &str, text: fmt::Arguments<'_>) -> io::Result<()> {
        let (word, paint) = match verdict {
            Verdict::Ok => ("ok", Paint::Green),
            Verdict::Warn => ("warn", Paint::Yellow),
            Verdict::Fail => ("FAIL", Paint::Red),
        };
        self.failed |= verdict == Verdict::Fail;
        self.out.painted(paint, word)?;
        let gap = 6 - word.len();
        writeln!(
            self.out,
            "{:gap$}{on:<10} {}",
            "",
            printable(&text.to_string())
        )
    }

    fn ok(&mut self, on: &str, text: fmt::Arguments<'_>) -> io::Result<()> {
        self.line(Verdict::Ok, on, text)
    }

    fn warn(&mut self, on: &str, text: fmt::Arguments<'_>) -> io::Result<()> {
        self.line(Verdict::Warn, on, text)
    }

    fn fail(&mut self, on: &str, text: fmt::Arguments<'_>) -> io::Result<()> {
        self.line(Verdict::Fail, on, text)
    }
}

fn describe(report: &mut Report, table: &TableInfo) -> io::Result<()> {
    let policy = match table.reclaim {
        Reclaim::OnExpiry { lease } => format!("on-expiry with a lease of {}", human(lease)),
        Reclaim::OnDeath => "on-death".to_owned(),
        other => format!("{other:?}"),
    };
    report.ok(
        "table",
        format_args!(
            "{}, {policy}, format {}, id {}",
            table.path.display(),
            table.format,
            table.id
        ),
    )
}

/// The rules that every open for reading applies; it has just been opened, so this is for the
/// reader. And what taking locks takes beyond.
fn file(report: &mut Report, path: &Path) -> io::Result<()> {
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) => return report.fail("file", format_args!("cannot be examined: {error}")),
    };
    let (verdict, but) = match eaccess(path, AccessFlags::W_OK) {
        Err(Errno::EROFS) => (
            Verdict::Warn,
            "; mounted read-only, so that nobody can take a lock by this path",
        ),
        Err(Errno::EACCES | Errno::EPERM) => (
            Verdict::Warn,
            "; who asks may not write to it, and so can take no lock",
        ),
        _ => (Verdict::Ok, ""),
    };
    report.line(
        verdict,
        "file",
        format_args!(
            "{} bytes, {} link, user {}, group {}, mode {:04o}{but}",
            found.len(),
            found.nlink(),
            found.uid(),
            found.gid(),
            found.mode() & 0o7777
        ),
    )
}

/// Who may write in the directory may put another file in the table's place.
fn directory(report: &mut Report, path: &Path) -> io::Result<()> {
    const STICKY: u32 = 0o1000;
    let directory = path.parent().unwrap_or(Path::new("/"));
    let found = match fs::metadata(directory) {
        Ok(found) => found,
        Err(error) => {
            return report.warn("directory", format_args!("cannot be examined: {error}"));
        }
    };
    let (name, mode) = (directory.display(), found.mode() & 0o7777);
    if mode & 0o002 != 0 && mode & STICKY == 0 {
        report.fail(
            "directory",
            format_args!(
                "{name}: mode {mode:04o}, so anybody can replace the table; chmod o-w, or +t"
            ),
        )
    } else {
        report.ok(
            "directory",
            format_args!("{name}: user {}, mode {mode:04o}", found.uid()),
        )
    }
}

/// Why what follows from other processes cannot be known.
const NOT_SHOWN: &str = "cannot be told: /proc is not mounted, or is that of another PID namespace";

fn place(report: &mut Report, path: &Path, table: &TableInfo) -> io::Result<()> {
    if !table.in_place {
        return report.fail(
            "in place",
            format_args!("the file was unlinked or replaced just now; look again"),
        );
    }
    let (left_behind, unseen) = match processes::users_of_deleted(path) {
        Ok(users) => users,
        Err(_) if !are_processes_shown() => Default::default(),
        Err(error) => {
            return report.warn(
                "in place",
                format_args!(
                    "the file is, but who uses a deleted one of this name could not be asked: \
                     {error}"
                ),
            );
        }
    };
    for process in &left_behind {
        report.fail(
            "in place",
            format_args!(
                "process {process} still uses a deleted file of this name and is excluded from \
                 nothing here; restart it"
            ),
        )?;
    }
    if !left_behind.is_empty() {
        Ok(())
    } else if are_processes_shown() {
        let but = match unseen.len() {
            0 => String::new(),
            _ if geteuid().is_root() => {
                let who = processes::named(&unseen);
                format!(", but {who} could not be looked into")
            }
            others if !is_open_to_root(path) => {
                format!(", but {others} could not be looked into")
            }
            others => {
                // Root's own default is another table.
                let table = table_option(path);
                format!(
                    ", but {others} could not be looked into (ask as root: \
                     caslock {table}doctor)"
                )
            }
        };
        report.ok(
            "in place",
            format_args!("no process shown here uses a deleted file of this name{but}"),
        )
    } else {
        report.warn(
            "in place",
            format_args!("the file is, but who uses a deleted one of this name {NOT_SHOWN}"),
        )
    }
}

/// Whether root would use the table: one of another user only where not everybody may put files.
fn is_open_to_root(path: &Path) -> bool {
    let is_closed = |directory: &Path| {
        fs::metadata(directory).is_ok_and(|directory| directory.mode() & 0o002 == 0)
    };
    path.parent().is_some_and(is_closed) || fs::metadata(path).is_ok_and(|it| it.uid() == 0)
}

fn boot(report: &mut Report, seen: &Seen<'_>) -> io::Result<()> {
    let table = &seen.snapshot.table;
    if table.current_boot {
        report.ok("boot", format_args!("written under this boot"))
    } else if !is_boot_known() {
        report.fail(
            "boot",
            format_args!(
                "boot id unknown (is /proc mounted?): no process can use the table from here, \
                 and whether it was written under this boot cannot be told"
            ),
        )
    } else if seen.checkup.is_reset_blocked {
        // Of those that use it only what they have started shows.
        let lockers = fs::symlink_metadata(seen.path).map(|table| processes::lockers(&table));
        let others = match lockers.as_deref() {
            Ok([]) | Err(_) => String::new(),
            Ok(lockers) => format!(" and {}", processes::named(lockers)),
        };
        report.fail(
            "boot",
            format_args!(
                "written under another boot, and sessions in it are held, so nobody can reset it \
                 and use it from here; stop the processes that use it (caslock {}sessions){others}, \
                 or, if one of you is in a container with a boot id of its own \
                 (/proc/sys/kernel/random/boot_id), let all have the same",
                seen.flag
            ),
        )
    } else {
        report.warn(
            "boot",
            format_args!(
                "written under another boot; the next process to use it resets it, \
                 and its tokens go on above all that it has given out"
            ),
        )
    }
}

fn is_boot_known() -> bool {
    let id = fs::read("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.iter().filter(|digit| digit.is_ascii_hexdigit()).count() == 32
}

/// Says what there is to say of a lock that is not simply free or in good hands.
fn slot_state(report: &mut Report, slot: &SlotInfo, seen: &Seen<'_>) -> io::Result<()> {
    let flag = &seen.flag;
    let (name, token) = (&slot.name, slot.token);
    let pasted = argument(name);
    match (slot.state, slot.holder) {
        (SlotState::Corrupt, _) => report.fail(
            "lock",
            format_args!(
                "\"{name}\": damaged owner word; \
                 caslock {flag}force-release {pasted} --token {token} --even-if-alive frees it"
            ),
        ),
        (SlotState::Abandoned, _) => report.warn(
            "lock",
            format_args!(
                "\"{name}\": {}; the next holder is told, or \
                 caslock {flag}force-release {pasted} --token {token} acknowledges it",
                slot.previous
            ),
        ),
        (SlotState::Held, Some(holder)) => held(report, name, &holder, seen),
        _ => Ok(()),
    }
}

fn held(report: &mut Report, name: &str, holder: &Holder, seen: &Seen<'_>) -> io::Result<()> {
    match (holder.liveness, seen.snapshot.table.reclaim) {
        (Liveness::Alive, _) => Ok(()),
        (Liveness::Dead, _) if is_full(&seen.snapshot.table) => report.warn(
            "lock",
            format_args!(
                "\"{name}\": held by {holder}; the next to ask gets it, and until then it takes \
                 up a slot, of which all are in use; \
                 caslock {flag}force-release {pasted} --token {token} frees it, \
                 once to take it and once more to acknowledge that",
                flag = seen.flag,
                pasted = argument(name),
                token = holder.token
            ),
        ),
        (Liveness::Dead, _) => report.warn(
            "lock",
            format_args!("\"{name}\": held by {holder}; nothing to do, the next to ask gets it"),
        ),
        (Liveness::Late, Reclaim::OnDeath) => {
            let silent = Silent::of(holder, seen);
            report.fail(
                "lock",
                format_args!(
                    "\"{name}\": held by {holder}, and this table waits for it for ever{silent}; \
                     {remedy}, or \
                     caslock {flag}force-release {pasted} --token {token} --even-if-alive",
                    remedy = silent.remedy(),
                    flag = seen.flag,
                    pasted = argument(name),
                    token = holder.token
                ),
            )
        }
        (Liveness::Late, _) => match Silent::of(holder, seen) {
            silent @ Silent::Gone { .. } => report.warn(
                "lock",
                format_args!(
                    "\"{name}\": held by {holder}{silent}; {remedy}, \
                     for whoever waits takes the lock after a lease all the same",
                    remedy = silent.remedy()
                ),
            ),
            _ => report.warn(
                "lock",
                format_args!(
                    "\"{name}\": held by {holder}; it is hung, stopped or starved, \
                     and whoever waits for the lock takes it after a lease"
                ),
            ),
        },
        _ => report.warn(
            "lock",
            format_args!("\"{name}\": held by {holder}; ask as its user, or as root, to know more"),
        ),
    }
}

fn holders(report: &mut Report, snapshot: &Snapshot) -> io::Result<()> {
    let holders = || snapshot.slots.iter().filter_map(|slot| slot.holder);
    let alive = holders().filter(|holder| holder.liveness == Liveness::Alive);
    report.ok(
        "holders",
        format_args!(
            "locks held: {}, of them by a holder that is alive: {}",
            holders().count(),
            alive.count()
        ),
    )
}

fn naming(report: &mut Report, seen: &Seen<'_>) -> io::Result<()> {
    match &seen.snapshot.table.naming {
        _ if seen.checkup.is_naming_damaged => report.fail(
            "naming",
            format_args!("the naming lock is damaged, and nobody can create a name; {ANEW}"),
        ),
        None => report.ok(
            "naming",
            format_args!("nobody is in the middle of creating a name"),
        ),
        Some(holder) if holder.liveness == Liveness::Late => {
            let silent = Silent::of(holder, seen);
            report.fail(
                "naming",
                format_args!(
                    "{holder} hangs in the middle of creating a name, \
                     and nobody else can create one{silent}; {remedy}",
                    remedy = silent.remedy()
                ),
            )
        }
        Some(holder) if holder.liveness == Liveness::Dead => report.ok(
            "naming",
            format_args!("{holder}, while creating a name; the next to create one finishes it"),
        ),
        Some(holder) => report.ok(
            "naming",
            format_args!("{holder} is creating a name right now"),
        ),
    }
}

/// What helps against damage that nothing else mends.
const ANEW: &str = "stop all processes that use the table, delete it, and create a new one, \
                    whose tokens begin anew";

fn names(report: &mut Report, seen: &Seen<'_>) -> io::Result<()> {
    for name in &seen.checkup.lost_names {
        report.fail(
            "names",
            format_args!(
                "\"{name}\": the index of names is damaged and does not lead to its slot, so who \
                 asks for it next gets another one beside whoever holds this; {ANEW}"
            ),
        )?;
    }
    let (used, of) = (seen.snapshot.table.names, seen.snapshot.table.slots);
    if !seen.checkup.lost_names.is_empty() {
        Ok(())
    } else if !is_full(&seen.snapshot.table) {
        report.ok("names", format_args!("{used} of {of} in use"))
    } else {
        report.warn(
            "names",
            format_args!(
                "{used} of {of} in use; a new one takes the place of an idle one, \
                 which fails when none is idle; more fit in a new table (caslock create --slots)"
            ),
        )
    }
}

/// Whether a new name needs the slot of another.
fn is_full(table: &TableInfo) -> bool {
    table.names >= table.slots
}

fn namespaces(report: &mut Report, sessions: &[SessionInfo]) -> io::Result<()> {
    let foreign = sessions
        .iter()
        .filter(|session| !session.same_pid_namespace && session.liveness != Liveness::Dead)
        .count();
    match foreign {
        _ if !are_processes_shown() => report.warn(
            "namespaces",
            format_args!("which PIDs mean the same here {NOT_SHOWN}; do not kill by them"),
        ),
        0 => report.ok(
            "namespaces",
            format_args!("every PID shown here is one of this PID namespace"),
        ),
        1 => report.warn(
            "namespaces",
            format_args!(
                "1 session is in another PID namespace (container), or may be: \
                 its PID means something else here, so do not kill by it"
            ),
        ),
        _ => report.warn(
            "namespaces",
            format_args!(
                "{foreign} sessions are in other PID namespaces (containers), or may be: \
                 their PIDs mean something else here, so do not kill by them"
            ),
        ),
    }
}

fn kernel(report: &mut Report) -> io::Result<()> {
    match sys::probe_futex_waitv() {
        Ok(()) => report.ok(
            "kernel",
            format_args!("FUTEX_WAITV is there: a waiter learns of its holder's death at once"),
        ),
        Err(error) => report.warn(
            "kernel",
            format_args!(
                "no FUTEX_WAITV ({error}): a waiter learns of its holder's death within 50 ms; \
                 Linux 5.16 has it, unless a seccomp filter hides it"
            ),
        ),
    }
}
