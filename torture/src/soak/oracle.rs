//! The witness that caslock cannot influence: in the section the holder also has the
//! kernel's `flock` on a side file, one a lock. A refusal is a double owner, unless the
//! one that has it is dead.
//!
//! A killed process loses its grant before its files: the kernel marks all its tasks as
//! exiting, tears down the address space (which ends its byte lock), and only then closes
//! its descriptors. So a successor may find the dead holder's `flock` still there. Who has
//! it is asked of the kernel, not of a note that the holder leaves, which may be another's:
//! `/proc/locks` names the process. If that process has a task that is not exiting, it may
//! be in its section right now, and two are. If it has none, it never will be again, and
//! the successor waits for the remnant to go.
//!
//! No false alarm. A lock was reclaimed rightly only from a process whose tasks all were
//! exiting, which they then are for ever; and no description of a side file is ever
//! inherited, since it closes on exec, and a worker that forks has closed all of them
//! before. Process ids are used anew here, at once and on purpose, so a number alone says
//! nothing. A process id is free only after the files of the process are closed (`do_exit`:
//! `exit_files` and `exit_task_work` before `exit_notify`). So: the number is read, the
//! directory of its tasks is opened, which from then on is that one process's whatever
//! becomes of the number, and the number is read again. The same: it was this very process
//! that had the file lock at the second reading. Had it been one before it, that one's lock
//! would have been gone when the directory was opened. Whether it runs is asked last, of
//! that directory: one that runs then, ran at the second reading as well.
//!
//! A miss is possible when the first of two owners dies between the refusal and the last
//! question; the histories show that one all the same.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, Mode, OFlags, flock, openat};

/// What the oracle says of entering a section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entered {
    /// Nobody else is in it.
    Alone,
    /// Nobody else is; a dead one's file lock was there until just now.
    AfterRemnant,
    /// This living process is in it, too.
    Beside(u32),
}

/// This process's descriptions of the side files.
pub struct Oracle {
    dir: PathBuf,
    /// The arena's `/proc`, even if this process has mounted another over it.
    proc_dir: OwnedFd,
    files: Vec<File>,
}

impl Oracle {
    /// Makes the side files, one a lock.
    ///
    /// # Errors
    /// What the system refuses.
    pub fn create_files(dir: &Path, locks: u32) -> io::Result<()> {
        (0..locks).try_for_each(|lock| File::create_new(side_file(dir, lock)).map(drop))
    }

    /// Opens the side files. Call it before `/proc` is mounted over.
    ///
    /// # Errors
    /// What the system refuses.
    pub fn open(dir: &Path, locks: u32) -> io::Result<Self> {
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut oracle = Self {
            dir: dir.to_owned(),
            proc_dir: rustix::fs::open("/proc", flags, Mode::empty())?,
            files: Vec::new(),
        };
        oracle.reopen(locks)?;
        Ok(oracle)
    }

    /// Closes the side files: before a fork, so that no child inherits a file lock.
    pub fn close(&mut self) {
        self.files.clear();
    }

    /// Opens them again, in this process alone.
    ///
    /// # Errors
    /// What the system refuses.
    pub fn reopen(&mut self, locks: u32) -> io::Result<()> {
        self.files = (0..locks)
            .map(|lock| File::open(side_file(&self.dir, lock)))
            .collect::<io::Result<_>>()?;
        Ok(())
    }

    /// Enters the section of a lock that this process has just been granted.
    ///
    /// # Errors
    /// What the system refuses, and a remnant that does not go.
    pub fn enter(&self, lock: u32) -> io::Result<Entered> {
        const PATIENCE: Duration = Duration::from_secs(20);
        let file = &self.files[lock as usize];
        let begun = Instant::now();
        let mut entered = Entered::Alone;
        loop {
            match flock(file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(entered),
                Err(rustix::io::Errno::WOULDBLOCK) => {}
                Err(error) => return Err(error.into()),
            }
            // In this order; see the top.
            if let Some(pid) = self.owner(file)?
                && let Some(tasks) = self.tasks(pid)
                && self.owner(file)? == Some(pid)
                && is_any_running(&tasks)
            {
                return Ok(Entered::Beside(pid));
            }
            entered = Entered::AfterRemnant;
            if begun.elapsed() > PATIENCE {
                return Err(io::Error::other("a dead holder's file lock stays"));
            }
            thread::yield_now();
        }
    }

    /// Leaves the section: before the release.
    ///
    /// # Errors
    /// What the system refuses.
    pub fn leave(&self, lock: u32) -> io::Result<()> {
        Ok(flock(&self.files[lock as usize], FlockOperation::Unlock)?)
    }

    /// The process that has the file lock, by the kernel's word; `None` if nobody has it
    /// any more.
    fn owner(&self, file: &File) -> io::Result<Option<u32>> {
        let status = file.metadata()?;
        let (major, minor) = (libc::major(status.dev()), libc::minor(status.dev()));
        let wanted = format!("{major:02x}:{minor:02x}:{}", status.ino());
        let locks = self.read("locks")?;
        // "7: FLOCK  ADVISORY  WRITE 4711 08:01:123 0 EOF"
        let owner = locks.lines().find_map(|line| {
            let mut fields = line.split_ascii_whitespace().skip(1);
            let is_held = fields.next()? == "FLOCK";
            let mut fields = fields.skip(2);
            let pid = fields.next()?.parse().ok()?;
            (is_held && fields.next()? == wanted).then_some(pid)
        });
        Ok(owner)
    }

    /// The directory of a process's tasks: empty once it is gone, never another's.
    fn tasks(&self, pid: u32) -> Option<OwnedFd> {
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
        openat(&self.proc_dir, format!("{pid}/task"), flags, Mode::empty()).ok()
    }

    fn read(&self, path: &str) -> io::Result<String> {
        read_at(&self.proc_dir, path)
    }
}

/// Whether one of the tasks may run its own code again.
fn is_any_running(tasks: &OwnedFd) -> bool {
    const EXITING: u64 = 0x4; // PF_EXITING, include/linux/sched.h
    let Ok(listing) = rustix::fs::Dir::read_from(tasks.as_fd()) else {
        return false;
    };
    let tids = listing
        .filter_map(|entry| entry.ok()?.file_name().to_str().ok()?.parse::<u32>().ok())
        .collect::<Vec<_>>();
    tids.into_iter().any(|tid| {
        let stat = read_at(tasks, &format!("{tid}/stat"));
        let flags = stat.ok().and_then(|stat| flags_of(&stat));
        flags.is_some_and(|flags| flags & EXITING == 0)
    })
}

fn read_at(dir: &OwnedFd, path: &str) -> io::Result<String> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let mut text = String::new();
    File::from(openat(dir, path, flags, Mode::empty())?).read_to_string(&mut text)?;
    Ok(text)
}

/// The task's flags in its `stat` line, see `proc_pid_stat(5)`.
fn flags_of(stat: &str) -> Option<u64> {
    let rest = stat.rsplit_once(')')?.1;
    rest.split_ascii_whitespace().nth(9 - 3)?.parse().ok()
}

fn side_file(dir: &Path, lock: u32) -> PathBuf {
    dir.join(format!("side.{lock}"))
}
