//! Which file a descriptor is of, and descriptors that a stranger may close.
//!
//! A library in somebody else's process does not own the descriptor table. `closefrom`
//! and `close_range` close descriptors that their callers know nothing of, and the next
//! `open` anywhere in the process gets the number. So what is kept open for long is
//! [`Kept`]: it knows which inode its number stood for, and looks before it believes.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::sync::atomic::{AtomicI32, Ordering};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, SeekFrom, seek};

use super::random;

/// Which file: a device and an inode number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct FileId {
    device: u64,
    inode: u64,
}

/// What `stat` tells of a file, in one width on every architecture.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Status {
    pub(crate) id: FileId,
    pub(crate) kind: FileType,
    /// Permission bits, the set-id and sticky bits included.
    pub(crate) mode: u32,
    pub(crate) owner: u32,
    pub(crate) group: u32,
    pub(crate) links: u64,
    pub(crate) bytes: u64,
    /// How many of them have room of their own.
    pub(crate) allocated: u64,
}

impl Status {
    /// Of an open file; `O_PATH` will do.
    pub(crate) fn of(fd: impl AsFd) -> io::Result<Self> {
        Ok(Self::from_stat(&rustix::fs::fstat(fd)?))
    }

    /// Of a name in a directory, without following a link there.
    pub(crate) fn at(directory: impl AsFd, name: impl AsRef<Path>) -> io::Result<Self> {
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        Ok(Self::from_stat(&rustix::fs::statat(
            directory,
            name.as_ref(),
            flags,
        )?))
    }

    /// Of a path, without following a link at its end.
    pub(crate) fn at_path(path: &Path) -> io::Result<Self> {
        Self::at(CWD, path)
    }

    #[allow(
        clippy::unnecessary_cast,
        reason = "the widths differ between architectures"
    )]
    fn from_stat(stat: &rustix::fs::Stat) -> Self {
        Self {
            id: FileId {
                device: stat.st_dev as u64,
                inode: stat.st_ino as u64,
            },
            kind: FileType::from_raw_mode(stat.st_mode),
            mode: stat.st_mode & 0o7777,
            owner: stat.st_uid,
            group: stat.st_gid,
            links: stat.st_nlink as u64,
            bytes: stat.st_size as u64,
            // Counted in 512 bytes, whatever the filesystem's blocks.
            allocated: stat.st_blocks as u64 * 512,
        }
    }
}

/// Opens a path for reading without following a link at its end, if it is still `id`.
pub(crate) fn reopen(path: &Path, id: FileId) -> io::Result<OwnedFd> {
    let flags =
        OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let fd = rustix::fs::open(path, flags, Mode::empty())?;
    same_file(above_stdio(fd)?, id)
}

/// Opens the file behind an open descriptor once more, for reading, through `/proc`.
pub(crate) fn reopen_through_proc(fd: BorrowedFd<'_>, id: FileId) -> io::Result<OwnedFd> {
    // The last component is a link by nature here, so it must be followed.
    let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let fd = rustix::fs::open(path, flags, Mode::empty())?;
    same_file(above_stdio(fd)?, id)
}

/// Moves a descriptor out of the way of standard input, output and error: a program that
/// has closed its own would print into the file.
pub(crate) fn above_stdio(fd: OwnedFd) -> io::Result<OwnedFd> {
    const FIRST: RawFd = 3;
    if fd.as_raw_fd() >= FIRST {
        return Ok(fd);
    }
    Ok(rustix::io::fcntl_dupfd_cloexec(&fd, FIRST)?)
}

fn same_file(fd: OwnedFd, id: FileId) -> io::Result<OwnedFd> {
    if Status::of(&fd)?.id == id {
        Ok(fd)
    } else {
        Err(io::Error::new(
            io::ErrorKind::NotFound,
            "another file has taken its place",
        ))
    }
}

/// A descriptor kept for long, which others may close, and whose number others may get.
#[derive(Debug)]
pub(crate) struct Kept {
    /// -1 once it was let go.
    number: AtomicI32,
    id: FileId,
    mark: Mark,
}

/// By what another descriptor of the same file is told from the one that is kept.
#[derive(Debug)]
enum Mark {
    /// The offset of its open file description, where nobody else moves that.
    Offset(u64),
    /// What it was opened for: few have a directory open for nothing but its place (`O_PATH`).
    Access(OFlags),
}

impl Mark {
    fn access(fd: impl AsFd) -> io::Result<OFlags> {
        Ok(rustix::fs::fcntl_getfl(fd)? & (OFlags::ACCMODE | OFlags::PATH))
    }

    /// Where it cannot be asked after, the file has to be enough.
    fn is_on(&self, fd: BorrowedFd<'_>) -> bool {
        match *self {
            Self::Offset(mark) => seek(fd, SeekFrom::Current(0)).map_or(true, |at| at == mark),
            Self::Access(mark) => Self::access(fd).map_or(true, |access| access == mark),
        }
    }
}

impl Kept {
    /// Keeps the descriptor, and remembers which file it is of.
    pub(crate) fn new(fd: OwnedFd) -> io::Result<Self> {
        let id = Status::of(&fd)?.id;
        let mark = Mark::Access(Mark::access(&fd)?);
        Ok(Self {
            number: AtomicI32::new(fd.into_raw_fd()),
            id,
            mark,
        })
    }

    /// Keeps a descriptor that is known to be of this file, and whose open file description no
    /// other process has.
    pub(crate) fn marked(fd: OwnedFd, id: FileId) -> io::Result<Self> {
        let offset = draw_offset().filter(|&mark| seek(&fd, SeekFrom::Start(mark)).is_ok());
        let mark = match offset {
            Some(offset) => Mark::Offset(offset),
            None => Mark::Access(Mark::access(&fd)?),
        };
        Ok(Self {
            number: AtomicI32::new(fd.into_raw_fd()),
            id,
            mark,
        })
    }

    /// What the number stands for: `None` when that is no longer the file it was.
    pub(crate) fn status(&self) -> Option<Status> {
        let fd = self.fd()?;
        let status = Status::of(fd).ok()?;
        (status.id == self.id && self.mark.is_on(fd)).then_some(status)
    }

    /// The descriptor, to be passed on, if it was of the kept file just now. Should a stranger
    /// close it after that, its number may come to be of another file.
    pub(crate) fn borrow(&self) -> Option<BorrowedFd<'_>> {
        self.status().and_then(|_| self.fd())
    }

    /// Asks something of the descriptor, and believes the answer only if it was of the
    /// kept file before the question and still is after it.
    pub(crate) fn ask<T>(&self, question: impl FnOnce(BorrowedFd<'_>) -> Option<T>) -> Option<T> {
        self.status()?;
        let answer = question(self.fd()?);
        self.status()?;
        answer
    }

    /// The number, whatever it stands for by now.
    pub(crate) fn number(&self) -> RawFd {
        self.number.load(Ordering::Relaxed)
    }

    /// Lets it go without closing it if its number is this, of a younger descriptor: the kernel
    /// gives out no number that is open, so this one was closed by a stranger.
    pub(crate) fn forget(&self, younger: RawFd) {
        let (relaxed, gone) = (Ordering::Relaxed, -1);
        let _ = self
            .number
            .compare_exchange(younger, gone, relaxed, relaxed);
    }

    /// Closes it before its time; from then on there is no answer. Nobody has it borrowed.
    pub(crate) fn let_go(&self) {
        let is_same = self.status().is_some();
        let number = self.number.swap(-1, Ordering::Relaxed);
        // A number that went to somebody else is theirs to close.
        if is_same && number != -1 {
            // SAFETY:
            // - the number came from an `OwnedFd` that was given up to `self`, and is given up
            //   here, once;
            // - it was the same a moment ago, so it was not closed since; of one that only its
            //   access marks, but for a stranger that closes what is not its own and then opens
            //   this very file for the same.
            unsafe { libc::close(number) };
        }
    }

    fn fd(&self) -> Option<BorrowedFd<'_>> {
        let number = self.number();
        if number == -1 {
            return None;
        }
        // SAFETY:
        // - the number came from an `OwnedFd`, and is not -1;
        // - nothing in this process should close it; a stranger that does breaks the same rule
        //   for every other owner of a descriptor. What is done here by the number does no harm
        //   then: fstat, path look-ups and lock queries, whose answers `ask` discards, and the
        //   unlocking of a byte that on another file nobody has locked through this number.
        Some(unsafe { BorrowedFd::borrow_raw(number) })
    }
}

/// An offset that is nobody else's by chance, and that every filesystem has.
fn draw_offset() -> Option<u64> {
    let mut drawn = [0; 8];
    random::fill(&mut drawn).ok()?;
    Some(u64::from_ne_bytes(drawn) >> 24)
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.let_go();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::testing::Watchdog;
    use std::fs::File;

    fn kept_and_number(file: File) -> (Kept, RawFd) {
        let kept = Kept::new(file.into()).unwrap();
        let number = kept.number();
        (kept, number)
    }

    /// Puts `file` where `number` was, as a `closefrom` and an `open` would.
    fn take_number(number: RawFd, file: &File) -> OwnedFd {
        use std::os::fd::FromRawFd;
        // SAFETY:
        // - dup2 closes and replaces a number that only this test uses.
        let got = unsafe { libc::dup2(file.as_raw_fd(), number) };
        assert_eq!(got, number);
        // SAFETY:
        // - the number now belongs to the copy that dup2 made.
        unsafe { OwnedFd::from_raw_fd(number) }
    }

    #[test]
    fn a_stranger_that_got_the_number_is_neither_asked_nor_closed() {
        let (kept, number) = kept_and_number(tempfile::tempfile().unwrap());
        assert!(kept.ask(|_| Some(())).is_some());
        let stranger = take_number(number, &tempfile::tempfile().unwrap());
        assert_eq!(kept.ask(|_| Some(())), None);
        drop(kept);
        assert!(Status::of(&stranger).is_ok());
    }

    /// As after a `closefrom` and an `open` of the very file: it was asked, and closed.
    #[test]
    fn a_stranger_of_the_same_file_is_neither_asked_nor_closed() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let fd: OwnedFd = file.reopen().unwrap().into();
        let (number, id) = (fd.as_raw_fd(), Status::of(&fd).unwrap().id);
        let kept = Kept::marked(fd, id).unwrap();
        assert!(kept.ask(|_| Some(())).is_some());
        let stranger = take_number(number, &file.reopen().unwrap());
        assert_eq!(kept.ask(|_| Some(())), None);
        drop(kept);
        assert_eq!(Status::of(&stranger).unwrap().id, id);
    }

    /// It was closed: an application that had closed whatever was open had the very directory
    /// opened then, to make a file in it durable.
    #[test]
    fn a_stranger_that_has_the_same_directory_open_for_more_is_not_closed() {
        let dir = tempfile::tempdir().unwrap();
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let kept = Kept::new(rustix::fs::open(dir.path(), flags, Mode::empty()).unwrap()).unwrap();
        assert!(kept.borrow().is_some());
        let stranger = take_number(kept.number(), &File::open(dir.path()).unwrap());
        assert!(kept.borrow().is_none());
        drop(kept);
        assert!(Status::of(&stranger).is_ok());
    }

    #[test]
    fn an_answer_during_which_the_number_changed_hands_is_discarded() {
        let (kept, number) = kept_and_number(tempfile::tempfile().unwrap());
        let mut stranger = None;
        let answer = kept.ask(|_| {
            stranger = Some(take_number(number, &tempfile::tempfile().unwrap()));
            Some(())
        });
        assert_eq!(answer, None);
    }

    #[test]
    fn dropping_closes_what_is_still_ours() {
        let (kept, number) = kept_and_number(tempfile::tempfile().unwrap());
        let id = kept.id;
        drop(kept);
        // SAFETY:
        // - only asks what the number stands for; tests beside this one may have got it.
        let now = Status::of(unsafe { BorrowedFd::borrow_raw(number) });
        assert!(now.is_err() || now.unwrap().id != id);
    }

    #[test]
    fn reopening_refuses_another_file_at_the_path() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let file = File::create(&path).unwrap();
        let id = Status::of(&file).unwrap().id;
        assert_eq!(Status::of(reopen(&path, id).unwrap()).unwrap().id, id);
        std::fs::rename(&path, dir.path().join("g")).unwrap();
        File::create(&path).unwrap();
        assert!(reopen(&path, id).is_err());
        let through_proc = reopen_through_proc(file.as_fd(), id).unwrap();
        assert_eq!(Status::of(through_proc).unwrap().id, id);
    }

    /// It is read as a file's, and a table's witness may be asked for it: a link to the very file
    /// is no table, and a planted FIFO would have each look wait for its other end.
    #[test]
    fn reopening_follows_no_link_waits_for_no_fifo_and_is_for_this_program_alone() {
        let _watchdog = Watchdog::start();
        let dir = tempfile::tempdir().unwrap();
        let [path, link, fifo] = ["f", "link", "fifo"].map(|name| dir.path().join(name));
        let file = File::create(&path).unwrap();
        let id = Status::of(&file).unwrap().id;
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(reopen(&link, id).is_err());
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(reopen(&fifo, id).is_err());
        for reopened in [reopen(&path, id), reopen_through_proc(file.as_fd(), id)] {
            let flags = rustix::io::fcntl_getfd(reopened.unwrap()).unwrap();
            assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
        }
    }

    /// Two of one file, of which a stranger has closed one, and the other has got its number.
    #[test]
    fn no_two_marks_are_the_same() {
        let marks: std::collections::HashSet<_> =
            (0..100).map(|_| draw_offset().unwrap()).collect();
        assert_eq!(marks.len(), 100);
    }
}
