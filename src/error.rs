//! One error enum an operation, each variant a situation, each message written for the
//! person who meets it: what happened, to which lock, who holds it, what to do. Names are
//! [`printable`] in the messages, and as they were given in the fields.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::holder::{FencingToken, Holder, Previous, printable};

/// Why a table could not be opened or created.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// There is no file at the path, and creating one was not asked for.
    #[error("{path}: no such lock table", path = .path.display())]
    NotFound {
        /// The table's path.
        path: PathBuf,
    },
    /// A file is at the path already, and a new one was asked for.
    #[error("{path}: exists already", path = .path.display())]
    AlreadyExists {
        /// The table's path.
        path: PathBuf,
    },
    /// The file or its directory may not be used by this user as it would have to be.
    #[error("{path}: permission denied; {purpose}", path = .path.display())]
    PermissionDenied {
        /// The table's path.
        path: PathBuf,
        /// What it was to be opened for, and with that which access it takes.
        purpose: OpenPurpose,
    },
    /// The path holds a symbolic link, a directory, a FIFO or a device.
    #[error("{path}: not a regular file but {found}, and a link to a lock table is not followed", path = .path.display())]
    NotRegular {
        /// The table's path.
        path: PathBuf,
        /// What it is instead.
        found: &'static str,
    },
    /// The file has more than one name.
    #[error("{path}: the file has {links} links where a lock table has exactly one", path = .path.display())]
    LinkCount {
        /// The table's path.
        path: PathBuf,
        /// How many links it has.
        links: u64,
    },
    /// The file belongs to a user that this process has no reason to trust.
    #[error("{path}: owned by user {owner}, neither this user nor root, and not shared through a group of this process", path = .path.display())]
    ForeignOwner {
        /// The table's path.
        path: PathBuf,
        /// The owner's user id.
        owner: u32,
    },
    /// Anybody may write to the file.
    #[error("{path}: mode {mode:04o} lets every user write, which no lock table may (chmod o-w)", path = .path.display())]
    WorldWritable {
        /// The table's path.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The filesystem does not keep a file's locks and its mapping coherent on one machine.
    #[error("{path}: on {filesystem}, where locks and mappings are not reliable; put the table on a local filesystem (tmpfs, ext4, xfs, btrfs), for example under /dev/shm or /run", path = .path.display())]
    Filesystem {
        /// The table's path.
        path: PathBuf,
        /// The filesystem's name, or its magic number.
        filesystem: String,
    },
    /// The kernel dropped a byte lock that the mapping should have kept.
    #[error("{path}: the filesystem does not keep a byte lock with its mapping; put the table on a local filesystem, for example under /dev/shm or /run", path = .path.display())]
    LocksNotKept {
        /// The table's path.
        path: PathBuf,
    },
    /// The file is not a lock table.
    #[error("{path}: not a lock table ({reason})", path = .path.display())]
    NotATable {
        /// The table's path.
        path: PathBuf,
        /// What told.
        reason: &'static str,
    },
    /// The file is a lock table of another build's format.
    #[error("{path}: a lock table of format {found}, this build reads {expected}; run the same caslock everywhere, or create a new table", path = .path.display())]
    Format {
        /// The table's path.
        path: PathBuf,
        /// The format that the file has.
        found: String,
        /// The format that this build has.
        expected: String,
    },
    /// The header contradicts itself or the file's size.
    #[error("{path}: damaged lock table ({reason}); once no process uses it, delete it and create a new one", path = .path.display())]
    Damaged {
        /// The table's path.
        path: PathBuf,
        /// Which check failed.
        reason: String,
    },
    /// A table with these numbers cannot be made.
    #[error("{path}: cannot make such a table: {reason}", path = .path.display())]
    Geometry {
        /// The table's path.
        path: PathBuf,
        /// Which number, and its bounds.
        reason: String,
    },
    /// The filesystem has no room for the table.
    #[error("{path}: no space for a table of {bytes} bytes; fewer slots take less", path = .path.display())]
    NoSpace {
        /// The table's path.
        path: PathBuf,
        /// The size that was asked for, in bytes.
        bytes: u64,
    },
    /// The table's policy is not the one that was asked for.
    #[error("{path}: the table's reclaim policy is {found}, and {wanted} was asked for; a policy is fixed when a table is created", path = .path.display())]
    PolicyDiffers {
        /// The table's path.
        path: PathBuf,
        /// The policy that the options named.
        wanted: String,
        /// The policy that the table has.
        found: String,
    },
    /// Every session record belongs to a living process, or to one of which a child lives that
    /// has inherited its [`witness`](crate::LockTable::witness); or its byte is locked by who may
    /// read the file, as `caslock doctor` tells.
    #[error("{path}: {all} in use, by living processes or by what dead ones have started", path = .path.display(), all = all_sessions(*.sessions))]
    SessionsFull {
        /// The table's path.
        path: PathBuf,
        /// How many sessions the table has.
        sessions: u32,
    },
    /// This process has the table open already, without a witness to share.
    #[error("{path}: this process has opened the table before without `share_witness`; the first to open it decides", path = .path.display())]
    NoWitness {
        /// The table's path.
        path: PathBuf,
    },
    /// Another process has been resetting the table, after a boot, for 10 s.
    #[error("{path}: a process that began to reset it after a boot of the machine makes no progress; if it is stopped, continue it (kill -CONT) or end it", path = .path.display())]
    ResetStuck {
        /// The table's path.
        path: PathBuf,
    },
    /// The table is of another boot, and processes of this one hold sessions in it.
    #[error("{path}: written under another boot of the machine (or in a container with a boot id of its own), and sessions in it are held; stop the processes that use it", path = .path.display())]
    ResetBlocked {
        /// The table's path.
        path: PathBuf,
    },
    /// The file at the path was replaced again and again while it was being opened.
    #[error("{path}: replaced while it was being opened", path = .path.display())]
    Unstable {
        /// The table's path.
        path: PathBuf,
    },
    /// The kernel refused something else.
    #[error("{path}: {doing}: {error}", path = .path.display())]
    Io {
        /// The table's path.
        path: PathBuf,
        /// What was being done.
        doing: &'static str,
        /// The kernel's answer. Part of the message, hence no `source()` of it.
        error: io::Error,
    },
}

/// What a table is opened for. In words, which access that takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OpenPurpose {
    /// To be looked at, by an [`Inspector`](crate::Inspector).
    Look,
    /// To take locks in it.
    Use,
    /// To be made.
    Create,
}

impl fmt::Display for OpenPurpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Look => "looking at a lock table takes read access to it, and a way to it",
            Self::Use => "using a lock table takes read and write access to it, and a way to it",
            Self::Create => {
                "creating a lock table takes write access to its directory, and a way to it"
            }
        })
    }
}

/// Why a name could not be resolved into a lock.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LockError {
    /// The name is empty or longer than 255 bytes.
    #[error("a lock name has 1 to 255 bytes, this one has {len}")]
    InvalidName {
        /// The name's length in bytes.
        len: usize,
    },
    /// Every slot is held, waited for, or carries the news of a holder that left without releasing.
    #[error(
        "no slot for \"{name}\": all {slots} are held, waited for or abandoned; a forced release acknowledges an abandoned one, and frees it",
        name = printable(.name)
    )]
    TableFull {
        /// The name, as it was given.
        name: String,
        /// How many names the table can have.
        slots: u32,
    },
    /// Another process is in the middle of creating a name, and does not get on with it: it is
    /// stopped, or, if a `try_acquire` says so, may only have lost its processor.
    #[error(
        "cannot create \"{name}\": {holder} is in the middle of creating a name and makes no progress; if it is stopped, continue it (kill -CONT) or end it",
        name = printable(.name)
    )]
    NamingStuck {
        /// The name, as it was given.
        name: String,
        /// The process that is stuck.
        holder: Holder,
    },
    /// The table's file was unlinked or replaced.
    #[error(transparent)]
    TableReplaced(#[from] TableReplaced),
    /// The process was forked after the table was opened.
    #[error(transparent)]
    Forked(#[from] Forked),
    /// The table's own words make no sense.
    #[error("cannot create \"{name}\": the table's naming lock is damaged; create a new table", name = printable(.name))]
    Corrupt {
        /// The name, as it was given.
        name: String,
    },
}

/// Why a lock was not granted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AcquireError {
    /// Somebody holds it.
    #[error("\"{name}\" is held by {holder}", name = printable(.name))]
    Busy {
        /// The lock's name, as it was given.
        name: String,
        /// Who holds it.
        holder: Holder,
    },
    /// Somebody still held it at the deadline.
    #[error("timed out waiting for \"{name}\", held by {holder}", name = printable(.name))]
    TimedOut {
        /// The lock's name, as it was given.
        name: String,
        /// Who holds it.
        holder: Holder,
    },
    /// The slot's owner word is one that no rule can have produced.
    #[error(
        "the slot of \"{name}\" is damaged (owner word {word:#018x}); inspect the table for its token, and force-release it by that",
        name = printable(.name)
    )]
    Corrupt {
        /// The lock's name, as it was given.
        name: String,
        /// The owner word that was found.
        word: u64,
    },
    /// The name's slot went to another name while it was idle, and it could not be had again.
    #[error(transparent)]
    Name(LockError),
    /// The table's file was unlinked or replaced.
    #[error(transparent)]
    TableReplaced(#[from] TableReplaced),
    /// The process was forked after the table was opened.
    #[error(transparent)]
    Forked(#[from] Forked),
}

/// The file that this process has mapped is no longer the one at its path: no further grants.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: the lock table was unlinked, replaced or changed in size while in use; no further grants from the old file (restart the workers that still use it)", path = .path.display())]
#[non_exhaustive]
pub struct TableReplaced {
    /// The table's path.
    pub path: PathBuf,
}

/// The process was forked after it had opened the table: sessions do not cross a fork.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{path}: opened before this process was forked; a child opens the table anew", path = .path.display())]
#[non_exhaustive]
pub struct Forked {
    /// The table's path.
    pub path: PathBuf,
}

/// The grant was revoked: somebody else may have been in the critical section since.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Lost {
    /// The lock's name, as it was given.
    pub name: String,
    /// The token of the grant that was lost.
    pub token: FencingToken,
    /// Why it cannot be said to hold any longer.
    pub how: LostHow,
}

/// How a grant was lost, as far as can be told afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum LostHow {
    /// The slot is free again; this is how the grant ended.
    Vacated(Previous),
    /// Another holds the slot now.
    TakenOver(Holder),
    /// The slot has been granted since, or given to another name.
    Gone,
    /// The guard was carried across a fork: the grant is the parent's.
    Forked,
}

impl std::error::Error for Lost {}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = printable(&self.name);
        write!(f, "lost \"{name}\" (token {}): ", self.token)?;
        match self.how {
            LostHow::Vacated(previous) => write!(f, "{previous}"),
            LostHow::TakenOver(holder) => write!(f, "now held by {holder}"),
            LostHow::Gone => f.write_str("the slot has been granted to others since"),
            LostHow::Forked => {
                f.write_str("the grant belongs to the process this one was forked from")
            }
        }
    }
}

/// Why a note was not attached to a grant.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NoteError {
    /// The note is too long.
    #[error("a note has at most {max} bytes, this one has {len}")]
    TooLong {
        /// Its length in bytes.
        len: usize,
        /// The longest that fits, in bytes.
        max: usize,
    },
    /// The grant was revoked.
    #[error(transparent)]
    Lost(#[from] Lost),
}

/// Why the table could not be inspected.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InspectError {
    /// The process was forked after the table was opened.
    #[error(transparent)]
    Forked(#[from] Forked),
}

/// Why a lock was not force-released. Nothing was changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ForceReleaseError {
    /// The table has no such name.
    #[error("no lock named \"{name}\"", name = printable(.name))]
    NoSuchLock {
        /// The name, as it was given.
        name: String,
    },
    /// The slot's latest grant is another one.
    #[error(
        "\"{name}\": token {asked} is not the latest grant, which is {current}; look again before forcing",
        name = printable(.name)
    )]
    TokenMismatch {
        /// The name, as it was given.
        name: String,
        /// The token that was asked for.
        asked: FencingToken,
        /// The slot's latest token.
        current: FencingToken,
    },
    /// The grant has ended by itself.
    #[error("\"{name}\" (token {token}) is not held: nothing to release", name = printable(.name))]
    NotHeld {
        /// The name, as it was given.
        name: String,
        /// The token that was asked for.
        token: FencingToken,
    },
    /// The process was forked after the table was opened.
    #[error(transparent)]
    Forked(#[from] Forked),
    /// The file that was inspected is no longer the one at its path.
    #[error(transparent)]
    TableReplaced(#[from] TableReplaced),
    /// The table could not be opened for writing.
    #[error(transparent)]
    Open(#[from] OpenError),
}

/// Dresses what the kernel answered while something was being done to the table at `path`.
pub(crate) fn io_error(path: &Path, doing: &'static str) -> impl FnOnce(io::Error) -> OpenError {
    let path = path.to_path_buf();
    move |error| OpenError::Io { path, doing, error }
}

fn all_sessions(count: u32) -> String {
    match count {
        1 => "the only session is".to_owned(),
        _ => format!("all {count} sessions are"),
    }
}
