//! The exit codes, and which error ends in which.
//!
//! A command's own exit code passes through `caslock run`, so our codes keep to the
//! places where scripts expect a wrapper to speak: sysexits.h (64 to 77), timeout(1)
//! (124 to 127), and 120 and 121, which no convention claims.

use std::borrow::Cow;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::{self, Write};

use caslock::{AcquireError, ForceReleaseError, LockError, Lost, OpenError};

use crate::output::{of_stdout, printable};
use crate::supervise::StartError;

/// How `caslock` ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ExitCode {
    Success,
    /// The question was understood and the answer is no.
    Refused,
    Usage,
    NoTable,
    CannotCreate,
    Busy,
    Permission,
    Lost,
    Abandoned,
    TimedOut,
    Internal,
    NotExecutable,
    NotFound,
    /// What `-E` asked for in place of `Busy` and `TimedOut`.
    Conflict(u8),
    /// What the command itself ended with; 128 + n for signal n.
    Command(u8),
}

impl ExitCode {
    const fn value(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::Refused => 1,
            Self::Usage => 64,
            Self::NoTable => 66,
            Self::CannotCreate => 73,
            Self::Busy => 75,
            Self::Permission => 77,
            Self::Lost => 120,
            Self::Abandoned => 121,
            Self::TimedOut => 124,
            Self::Internal => 125,
            Self::NotExecutable => 126,
            Self::NotFound => 127,
            Self::Conflict(code) | Self::Command(code) => code,
        }
    }
}

impl From<ExitCode> for i32 {
    fn from(code: ExitCode) -> Self {
        code.value().into()
    }
}

/// An error whose exit code was decided where it arose.
#[derive(Debug)]
pub(crate) struct Refusal {
    code: ExitCode,
    message: String,
}

impl Refusal {
    pub(crate) fn new(code: ExitCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Refusal {}

/// Prints what the parser has to say: help and version are answers, the rest is misuse.
pub(crate) fn of_parse(error: &clap::Error, arguments: &[OsString]) -> ExitCode {
    let code = match error.use_stderr() {
        true => ExitCode::Usage,
        false => ExitCode::Success,
    };
    let printed = if code == ExitCode::Success || arguments.iter().all(|it| is_printable(it)) {
        error.print()
    } else {
        // It repeats arguments as they are; and its colours cannot be told from theirs.
        let text = error.render().to_string();
        let lines = text.lines().map(|line| format!("{}\n", printable(line)));
        io::stderr().write_all(lines.collect::<String>().as_bytes())
    };
    match printed {
        Err(unsaid) if code == ExitCode::Success => crate::report(&of_stdout(unsaid).into()),
        // On a closed stderr nothing can be said.
        _ => code,
    }
}

fn is_printable(argument: &OsStr) -> bool {
    matches!(printable(&argument.to_string_lossy()), Cow::Borrowed(_))
}

/// The exit code of an error that ends a verb.
pub(crate) fn of_error(error: &anyhow::Error) -> ExitCode {
    // Nothing but stdout is a pipe of which a bare error comes up: its reader has left.
    if let Some(error) = error.downcast_ref::<io::Error>() {
        return match error.kind() {
            io::ErrorKind::BrokenPipe => ExitCode::Success,
            _ => ExitCode::Internal,
        };
    }
    if let Some(refusal) = error.downcast_ref::<Refusal>() {
        refusal.code
    } else if let Some(error) = error.downcast_ref::<StartError>() {
        of_start(error)
    } else if let Some(error) = error.downcast_ref::<OpenError>() {
        of_open(error)
    } else if let Some(error) = error.downcast_ref::<LockError>() {
        of_lock(error)
    } else if let Some(error) = error.downcast_ref::<AcquireError>() {
        of_acquire(error)
    } else if let Some(error) = error.downcast_ref::<ForceReleaseError>() {
        of_force_release(error)
    } else if error.is::<Lost>() {
        ExitCode::Lost
    } else {
        ExitCode::Internal
    }
}

/// 66 for a path that holds no table of ours, 73 for one that can hold none, 77 for a
/// file that this user may not use or should not trust, 64 for numbers that make no
/// table, 125 for a table that is there and out of order.
fn of_open(error: &OpenError) -> ExitCode {
    match error {
        OpenError::NotFound { .. } | OpenError::NotATable { .. } => ExitCode::NoTable,
        OpenError::AlreadyExists { .. }
        | OpenError::Filesystem { .. }
        | OpenError::LocksNotKept { .. }
        | OpenError::NoSpace { .. } => ExitCode::CannotCreate,
        OpenError::Io { error, .. } if rules_a_table_out(error) => ExitCode::CannotCreate,
        OpenError::PermissionDenied { .. }
        | OpenError::NotRegular { .. }
        | OpenError::LinkCount { .. }
        | OpenError::ForeignOwner { .. }
        | OpenError::WorldWritable { .. } => ExitCode::Permission,
        OpenError::Geometry { .. } | OpenError::PolicyDiffers { .. } => ExitCode::Usage,
        OpenError::Format { .. }
        | OpenError::Damaged { .. }
        | OpenError::SessionsFull { .. }
        | OpenError::ResetBlocked { .. }
        | OpenError::ResetStuck { .. }
        | OpenError::Unstable { .. }
        | OpenError::Io { .. } => ExitCode::Internal,
        // A situation that a newer library tells apart: nothing is known of it here.
        _ => ExitCode::Internal,
    }
}

/// Whether the kernel's answer says that no table can be at the path, or none be used there.
fn rules_a_table_out(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::EFBIG
                | libc::EISDIR
                | libc::ELOOP
                | libc::ENAMETOOLONG
                | libc::ENOTDIR
                | libc::EROFS
        )
    )
}

/// The shell's convention, except that a machine out of processes is no fault of the
/// command's.
fn of_start(error: &StartError) -> ExitCode {
    match error.cause().kind() {
        io::ErrorKind::NotFound => ExitCode::NotFound,
        io::ErrorKind::WouldBlock | io::ErrorKind::OutOfMemory => ExitCode::Internal,
        _ => ExitCode::NotExecutable,
    }
}

fn of_lock(error: &LockError) -> ExitCode {
    match error {
        LockError::InvalidName { .. } => ExitCode::Usage,
        LockError::TableFull { .. } => ExitCode::CannotCreate,
        LockError::TableReplaced(_) => ExitCode::NoTable,
        _ => ExitCode::Internal,
    }
}

fn of_acquire(error: &AcquireError) -> ExitCode {
    match error {
        AcquireError::Busy { .. } => ExitCode::Busy,
        AcquireError::TimedOut { .. } => ExitCode::TimedOut,
        AcquireError::TableReplaced(_) => ExitCode::NoTable,
        AcquireError::Name(error) => of_lock(error),
        _ => ExitCode::Internal,
    }
}

fn of_force_release(error: &ForceReleaseError) -> ExitCode {
    match error {
        ForceReleaseError::NoSuchLock { .. }
        | ForceReleaseError::TokenMismatch { .. }
        | ForceReleaseError::NotHeld { .. } => ExitCode::Refused,
        ForceReleaseError::TableReplaced(_) => ExitCode::NoTable,
        ForceReleaseError::Open(error) => of_open(error),
        _ => ExitCode::Internal,
    }
}
