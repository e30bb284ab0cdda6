//! `caslock run`: holds a lock while a command runs.

use std::borrow::Cow;
use std::env;
use std::io;
use std::iter;
use std::ops::RangeInclusive;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use caslock::{
    AcquireError, Guard, Holder, Inspector, Lock, LockTable, NOTE_MAX, NoteError, OpenError,
    Previous, SlotInfo, SlotState,
};
use nix::unistd::getppid;

use super::explain_opening;
use crate::advice::advised;
use crate::cli::{OnAbandoned, Run};
use crate::exit_code::{self, ExitCode};
use crate::late_keeper::LateKeeper;
use crate::output::{in_one_line, printable, say, say_unless_full};
use crate::paste::argument;
use crate::placement::Placement;
use crate::program::Program;
use crate::stat::{Stat, are_processes_shown};
use crate::supervise::{LossNotice, LossPolicy, Signals, Started, start, supervise};
use crate::table_path;

/// How long to wait in silence.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long at least to wait for who is making a name, which takes a microsecond: on a machine
/// with too much to do it may have lost its processor, and a lock that is free is not refused.
const NAMING: Duration = Duration::from_secs(1);

pub(crate) fn run(table: Option<PathBuf>, args: &Run) -> anyhow::Result<ExitCode> {
    let path = table_path::to_open(table)?;
    // Before the table is opened: a thread may be started from then on.
    let signals = Signals::block()?;
    let limit = Limit::of(args);
    let table = open(&path, limit, &signals)?;
    let mut keeper = LateKeeper::new(&table);
    let naming = limit.left().map(|left| left.max(NAMING));
    let lock = signals
        .let_through(|| table.lock_within(&args.name, naming))?
        .map_err(|error| advised(&path, error))?;
    if args.on_abandoned == OnAbandoned::Fail
        && let Some(slot) = Inspector::open(&path)?.slot(&args.name)?
        && slot.state == SlotState::Abandoned
    {
        // Not taken first: a refusal that took a token each time would outdate the one that
        // the refusal before has told, as one does to that of another who waited beside it.
        let (table, pasted) = (table_path::flag(&path), argument(&args.name));
        let token = slot.token;
        let how =
            format!("`caslock {table}force-release {pasted} --token {token}` acknowledges it");
        return Ok(refuse(args, slot.previous, &how));
    }
    let guard = match acquire(&path, &lock, args, limit, &signals, &mut keeper)? {
        Ok(guard) => guard,
        Err(error) => return give_up(&path, args, error),
    };
    if guard.previous().is_abandoned() {
        if args.on_abandoned == OnAbandoned::Fail {
            return Ok(refuse_abandoned(&path, guard, args));
        }
        say_unless_full(format_args!(
            "\"{}\": {}; what it left behind may be half done",
            printable(&args.name),
            guard.previous()
        ));
    }
    hold(&path, &table, guard, args, &signals, keeper)
}

/// How long the arguments allow to wait, be it for the lock or on the way to it.
#[derive(Clone, Copy)]
struct Limit {
    begun: Instant,
    /// From then on; none: for ever.
    most: Option<Duration>,
}

impl Limit {
    fn of(args: &Run) -> Self {
        Self {
            begun: Instant::now(),
            most: if args.nonblock {
                Some(Duration::ZERO)
            } else {
                args.wait
            },
        }
    }

    fn left(self) -> Option<Duration> {
        self.most
            .map(|most| most.saturating_sub(self.begun.elapsed()))
    }

    fn is_over(self) -> bool {
        self.left().is_some_and(|left| left.is_zero())
    }
}

/// How long at least, and at most, to wait for who resets the table after a boot: that takes
/// milliseconds, or a second for a million slots.
const RESET: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(10);

/// Opens the table, waiting for a session of it where all are in use, mostly by others that
/// wait there for a lock; and for who resets it.
fn open(path: &Path, limit: Limit, signals: &Signals) -> anyhow::Result<LockTable> {
    /// A look takes a pass over the sessions, and keeps others from theirs.
    const BETWEEN_LOOKS: Duration = Duration::from_millis(200);
    // What has a session may wait for the lock of the job that has started this.
    let is_nested = env::var_os("CASLOCK_TOKEN").is_some();
    let mut is_told = false;
    loop {
        // No longer than a moment with the signals blocked.
        let options = LockTable::options()
            .share_witness(true)
            .attended(true)
            .reset_patience(BETWEEN_LOOKS);
        let error = match options.open(path) {
            Ok(table) => return Ok(table),
            Err(error) => error,
        };
        let waited = limit.begun.elapsed();
        let may_wait = match error {
            OpenError::SessionsFull { .. } => !is_nested && !limit.is_over(),
            OpenError::ResetStuck { .. } => {
                waited
                    < limit
                        .most
                        .unwrap_or(*RESET.end())
                        .clamp(*RESET.start(), *RESET.end())
            }
            _ => false,
        };
        if !may_wait {
            return Err(explain_opening(path, error));
        }
        if !is_told && waited >= PATIENCE {
            let why = in_one_line(&advised(path, error));
            say_unless_full(format_args!("waiting: {why}"));
            is_told = true;
        }
        let nap = limit
            .left()
            .map_or(BETWEEN_LOOKS, |left| left.min(BETWEEN_LOOKS));
        signals.let_through(|| thread::sleep(nap))?;
    }
}

/// Takes the lock, waiting for it as long as the arguments allow.
///
/// While it waits, a signal does to this process what it does to any other: SIGINT ends it
/// at once. Should that happen in the instant of the grant, the next holder is told that
/// its predecessor died, which is true. A lock that is free is taken with the signals still
/// blocked, and they reach the command instead.
fn acquire<'a>(
    path: &Path,
    lock: &'a Lock,
    args: &Run,
    limit: Limit,
    signals: &Signals,
    keeper: &mut LateKeeper<'_>,
) -> io::Result<Result<Guard<'a>, AcquireError>> {
    match lock.try_acquire() {
        Err(AcquireError::Busy { .. }) if !args.nonblock => {}
        outcome => return Ok(outcome),
    }
    signals.let_through(|| {
        // Too far away for the clock to count is as good as never.
        let deadline = limit.most.and_then(|most| limit.begun.checked_add(most));
        let patient_until = limit.begun + PATIENCE;
        let first = match deadline {
            Some(deadline) if deadline <= patient_until => {
                return keeper.acquire(lock, Some(deadline));
            }
            _ => keeper.acquire(lock, Some(patient_until)),
        };
        let Err(AcquireError::TimedOut { name, holder }) = first else {
            return first;
        };
        let itself =
            match holder.same_pid_namespace && are_processes_shown() && is_ancestor(holder.pid) {
                true => ", which has started this: if it waits for this to end, neither ever will",
                false => "",
            };
        say_unless_full(format_args!(
            "waiting for \"{name}\", held by {holder}{noted}{itself}",
            noted = noted(path, &name, &holder)
        ));
        keeper.acquire(lock, deadline)
    })
}

/// Whether this process descends from that one.
fn is_ancestor(pid: u32) -> bool {
    let parent_of = |pid| Stat::of(pid).map(|stat| stat.parent);
    let parent = getppid().as_raw();
    let ancestors = iter::successors(Some(parent), |&pid| parent_of(pid).filter(|&pid| pid > 0));
    // Of a chain that changes while it is followed no end is certain.
    let mut ancestors = ancestors.take(10_000);
    ancestors.any(|ancestor| ancestor.cast_unsigned() == pid)
}

fn give_up(path: &Path, args: &Run, error: AcquireError) -> anyhow::Result<ExitCode> {
    let (AcquireError::Busy { name, holder } | AcquireError::TimedOut { name, holder }) = &error
    else {
        return Err(advised(path, error));
    };
    let noted = noted(path, name, holder);
    let error = advised(path, error);
    let whole = format!("{}{noted}", in_one_line(&error));
    // Its time is over: it does not wait for a reader, either.
    say_unless_full(format_args!("{whole}"));
    let conflict = args.conflict_exit_code.map(ExitCode::Conflict);
    Ok(conflict.unwrap_or_else(|| exit_code::of_error(&error)))
}

/// What is noted of a holder's grant, to be put behind the holder: every job's process is a
/// `caslock`, and the note tells which job it is.
fn noted(path: &Path, name: &str, holder: &Holder) -> String {
    let slot = Inspector::open(path).ok();
    let slot = slot.and_then(|inspector| inspector.slot(name).ok()?);
    match slot {
        Some(SlotInfo {
            token,
            holder: Some(now),
            note: Some(note),
            ..
        }) if (token, now.pid) == (holder.token, holder.pid) => format!(", note \"{note}\""),
        _ => String::new(),
    }
}

/// Gives the lock back so that the next one still learns that it was abandoned.
fn refuse_abandoned(path: &Path, guard: Guard<'_>, args: &Run) -> ExitCode {
    let previous = guard.previous();
    if let Err(error) = guard.decline() {
        // Whoever took it has been told of us in turn.
        say(format_args!("{error}"));
        return ExitCode::Lost;
    }
    // Others that waited beside this one may take a token each in the same way.
    let (table, pasted) = (table_path::flag(path), argument(&args.name));
    let how = format!("`caslock {table}show {pasted}` says how to acknowledge it");
    refuse(args, previous, &how)
}

fn refuse(args: &Run, previous: Previous, how: &str) -> ExitCode {
    say(format_args!(
        "\"{name}\": {previous}, and --on-abandoned fail was asked for; once what it left is in \
         order, {how}",
        name = printable(&args.name)
    ));
    ExitCode::Abandoned
}

/// Runs the command under the grant, and releases.
fn hold(
    path: &Path,
    table: &LockTable,
    guard: Guard<'_>,
    args: &Run,
    signals: &Signals,
    mut keeper: LateKeeper<'_>,
) -> anyhow::Result<ExitCode> {
    let witness = table.witness();
    let started = match start_under(&guard, path, witness, args, signals, &mut keeper) {
        Ok(Some(started)) => started,
        Ok(None) => return Ok(lost(guard)),
        Err(error) => {
            if guard.previous().is_abandoned() {
                // Nobody has looked at what was left. The grant may be lost; that is no news
                // to a command that was not started.
                let _ = guard.decline();
            }
            return Err(error);
        }
    };
    let policy = LossPolicy {
        on_lost: args.on_lost,
        kill_after: args.kill_after,
    };
    let placement = Placement::new(path, &args.name, witness);
    let ended = supervise(started, &guard, policy, keeper, placement)?;
    if ended.lost {
        return Ok(ExitCode::Lost);
    }
    if let Err(error) = guard.release() {
        say(format_args!("{error}"));
        return Ok(ExitCode::Lost);
    }
    Ok(ExitCode::Command(ended.code))
}

/// Starts the command; `None` where the lock was lost before.
fn start_under(
    guard: &Guard<'_>,
    path: &Path,
    witness: Option<BorrowedFd<'_>>,
    args: &Run,
    signals: &Signals,
    keeper: &mut LateKeeper<'_>,
) -> anyhow::Result<Option<Started>> {
    match note(args).map(|note| guard.set_note(&note)) {
        None | Some(Ok(())) => {}
        Some(Err(NoteError::Lost(_))) => return Ok(None),
        Some(Err(error)) => return Err(error.into()),
    }
    let notice = LossNotice::of(guard)?;
    if !guard.is_held() {
        return Ok(None);
    }
    let token = guard.token().to_string();
    let program = Program::new(
        args.command(),
        &[
            ("CASLOCK_TABLE", path.as_os_str()),
            ("CASLOCK_NAME", args.name.as_ref()),
            ("CASLOCK_TOKEN", token.as_ref()),
            ("CASLOCK_PREVIOUS", guard.previous().as_str().as_ref()),
        ],
    )?;
    // The first beat where there is to be none: the command's start may take its time.
    keeper.start_if_due();
    start(&program, witness, signals, notice).map(Some)
}

/// What others see beside the lock: what was asked for, or else the program's name. Not its
/// arguments, which may be no business of theirs.
fn note(args: &Run) -> Option<Cow<'_, str>> {
    if let Some(note) = &args.note {
        return (!note.is_empty()).then_some(note.into());
    }
    let program = Path::new(args.command().first()?);
    let mut name = program.file_name()?.to_string_lossy();
    if name.len() > NOTE_MAX {
        let end = (0..=NOTE_MAX).rev().find(|&at| name.is_char_boundary(at))?;
        name.to_mut().truncate(end);
    }
    Some(name)
}

/// The grant was gone before the command was started.
fn lost(guard: Guard<'_>) -> ExitCode {
    if let Err(error) = guard.release() {
        say(format_args!("{error}; the command was not started"));
    }
    ExitCode::Lost
}
