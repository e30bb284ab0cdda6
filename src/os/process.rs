//! What a process is, and whether every one of its threads is on its way out.

use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;

use parking_lot::Mutex;
use rustix::fs::{CWD, Mode, OFlags, RawDir, SeekFrom, openat, seek};
use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};
use rustix::thread::futex;

use super::descriptor::{Kept, Status};
use crate::sync::AtomicU32;

/// This process's id, in its own PID namespace.
pub(crate) fn pid() -> u32 {
    std::process::id()
}

/// This thread's id, in its own PID namespace.
pub(crate) fn tid() -> u32 {
    rustix::thread::gettid()
        .as_raw_nonzero()
        .get()
        .cast_unsigned()
}

/// This process's command name, at most 15 bytes, as two little-endian words.
///
/// The main thread's name is the process's; without `/proc` it is the calling thread's.
pub(crate) fn command_name() -> [u64; 2] {
    let of_this_thread = || rustix::thread::name().unwrap_or_default().into_bytes();
    let mut name = if tid() == pid() {
        of_this_thread()
    } else {
        match fs::read("/proc/self/comm") {
            Ok(line) => line.strip_suffix(b"\n").unwrap_or(&line).to_vec(),
            Err(_) => of_this_thread(),
        }
    };
    name.resize(16, 0);
    let word = |at: usize| {
        name[at..at + 8]
            .iter()
            .rev()
            .fold(0, |word, &byte| word << 8 | u64::from(byte))
    };
    [word(0), word(8)]
}

/// The inode of this process's PID namespace, but only if `/proc` shows that namespace:
/// in it, a PID there means the same process as here. `None` if that is not certain.
pub(crate) fn pid_namespace() -> Option<u64> {
    let namespace = fs::metadata("/proc/self/ns/pid").ok()?.ino();
    // The first namespace is inside no other. So where a process of it is to be found as
    // /proc/self at all, that is /proc of the same namespace.
    (namespace == FIRST_PID_NAMESPACE || is_proc_of_this_namespace()).then_some(namespace)
}

/// `PID_NS_INIT_INO`, `include/uapi/linux/nsfs.h`.
const FIRST_PID_NAMESPACE: u64 = 0xefff_fffc;

fn is_proc_of_this_namespace() -> bool {
    // NSpid lists this process's id in each namespace from /proc's own down to ours:
    // one id, and it is the one we go by, when the two are the same.
    let status = fs::read("/proc/self/status").unwrap_or_default();
    let line = status
        .split(|&byte| byte == b'\n')
        .find_map(|line| line.strip_prefix(b"NSpid:"));
    let Some(ids) = line.and_then(|ids| str::from_utf8(ids).ok()) else {
        return false;
    };
    let mut ids = ids.split_ascii_whitespace();
    ids.next().is_some_and(|id| id.parse() == Ok(pid())) && ids.next().is_none()
}

/// The threads of one process, listed in `/proc/PID/task`: are they all on their way out?
///
/// It is a shortcut: a process of gigabytes takes long to be torn down, and all the time
/// holds its byte lock, while its threads are past their own code at once.
///
/// - The zombie state is not asked. It is late (it comes after the tear-down), and it says
///   nothing: a leader that called `pthread_exit` is a zombie while its threads run on.
/// - That a PID may be used anew does no harm. Then the process that had it is gone, which
///   is what an answer of true says; and while the new one runs, it is false.
/// - That a path under `/proc` is missing proves nothing: mounted with `hidepid`, it shows
///   no processes of other users. Only `ESRCH` says that an id is nobody's.
///
/// For PIDs of this very PID namespace, as `/proc` shows it ([`pid_namespace`]).
#[derive(Debug)]
pub(crate) struct Threads {
    pid: u32,
    /// The kernel marks a thread's certificate amid its exit, and may at once give the
    /// marking thread's processor to the waiter woken by it. To be asked about a thread in
    /// this state, it would have the waiter wait until that one is through.
    keeper: Option<u32>,
    /// Those that there were at first.
    listed: Vec<u32>,
    /// Open, it is this process's and no later one's.
    listing: Kept,
    /// Whose turn it is to read the listing: it has one offset.
    reading: Mutex<()>,
}

impl Threads {
    /// What a directory has for links, its subdirectories aside.
    const OWN_LINKS: u64 = 2;

    /// The threads of the process that has this id now.
    ///
    /// Opening and listing are what takes the kernel long, the first time: whoever has time
    /// now and will be in a hurry later keeps this.
    ///
    /// `keeper` is the thread whose certificate will be marked before anybody asks, if it
    /// is known: it counts as exiting.
    pub(crate) fn of(pid: u32, keeper: Option<u32>) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let path = format!("/proc/{pid}/task");
        let listing = openat(CWD, path, flags, Mode::empty())?;
        // In this order, so that threads which end meanwhile do not matter.
        let links = Status::of(&listing)?.links;
        let listed = list(listing.as_fd())?;
        if links < Self::OWN_LINKS + listed.len() as u64 {
            // Either more have just been started, or links do not count threads here.
            return Err(io::ErrorKind::Unsupported.into());
        }
        let listing = Kept::new(listing)?;
        Ok(Self {
            pid,
            keeper,
            listed,
            listing,
            reading: Mutex::new(()),
        })
    }

    /// Whether every thread is past the point where it could run its own code again:
    /// `Some(true)` is a proof of death, `Some(false)` only the lack of one, `None` that
    /// the kernel would not tell. Ask only when the keeper's certificate is marked.
    pub(crate) fn are_all_exiting(&self) -> Option<bool> {
        if !has_exited(self.pid)? {
            return Some(false);
        }
        // Mostly there have come no others since; a new listing takes longer.
        let ask = |listing: BorrowedFd<'_>| match self.are_exiting(listing, &self.listed)? {
            true => Some(true),
            false => self.are_exiting(listing, &self.list_again(listing)?),
        };
        self.listing
            .ask(ask)
            .or_else(|| is_nobodys(self.pid).then_some(true))
    }

    /// Whether these threads are all on their way out, and all that there are.
    fn are_exiting(&self, listing: BorrowedFd<'_>, tids: &[u32]) -> Option<bool> {
        // The newest first: they are the last to be told, so a look that comes too early is
        // over with the first of them.
        for &tid in tids.iter().rev() {
            if self.keeper != Some(tid) && !has_exited(tid)? {
                return Some(false);
            }
        }
        // They stay on their way out. But a listing is no snapshot: a thread that is reaped
        // meanwhile can hide another, and one that was still running may have started
        // another before it went. So count, and then see who is still there: it was there
        // when the threads were counted, so if those are as many as were counted, they are
        // all the threads of that moment, and none could start another.
        let count = Status::of(listing)
            .ok()?
            .links
            .checked_sub(Self::OWN_LINKS)?;
        let there = match self.count_there(tids) {
            Some(there) => there,
            None => self
                .list_again(listing)?
                .iter()
                .filter(|&tid| tids.contains(tid))
                .count(),
        };
        Some(there as u64 >= count)
    }

    fn list_again(&self, listing: BorrowedFd<'_>) -> Option<Vec<u32>> {
        let _reading = self.reading.lock();
        list(listing).ok()
    }

    /// How many of these threads there are; `None` if the kernel would not tell.
    fn count_there(&self, tids: &[u32]) -> Option<usize> {
        let there = tids.iter().map(|&tid| is_thread_of(self.pid, tid));
        there.sum::<Option<usize>>()
    }
}

/// Whether every thread of the process that has this id is past its own code, as
/// [`Threads::are_all_exiting`] tells.
pub(crate) fn are_all_threads_exiting(pid: u32) -> Option<bool> {
    // To open a listing takes many times as long, and is in vain while the first thread runs.
    if has_exited(pid) == Some(false) {
        return Some(false);
    }
    match Threads::of(pid, None) {
        Ok(threads) => threads.are_all_exiting(),
        Err(_) => is_nobodys(pid).then_some(true),
    }
}

fn list(tasks: BorrowedFd<'_>) -> io::Result<Vec<u32>> {
    let not_a_thread = |_| io::Error::new(io::ErrorKind::InvalidData, "not a list of threads");
    seek(tasks, SeekFrom::Start(0))?;
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut entries = RawDir::new(tasks, &mut buffer);
    let mut tids = Vec::new();
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy();
        if name != "." && name != ".." {
            tids.push(name.parse().map_err(not_a_thread)?);
        }
    }
    // Whoever is counted is counted once.
    tids.sort_unstable();
    tids.dedup();
    Ok(tids)
}

/// Whether this thread, of whatever process, is past its own code for good, or no such
/// thread exists: the very same to whoever wants to know whether it can still do harm.
/// `None` if the kernel would not tell.
///
/// It asks as one does who would lock a priority-inheriting futex that this thread has
/// locked (see `FUTEX_TRYLOCK_PI` in `futex(2)`): for that the kernel has to know whether
/// the thread is there to pay back what it inherits, and answers `ESRCH` once its exit has
/// come past its futexes (`handle_exit_race` in Linux's `kernel/futex/pi.c`). While the
/// exit is amid them, the kernel has the caller wait until it is through.
pub(crate) fn has_exited(tid: u32) -> Option<bool> {
    // Nobody else knows the word; and other bits than an id's would say something else.
    if tid == 0 || tid & !libc::FUTEX_TID_MASK != 0 {
        return None;
    }
    // A private futex is the kernel's to refuse, of a thread of another process.
    let process_shared = futex::Flags::empty();
    match futex::trylock_pi(&AtomicU32::new(tid), process_shared) {
        Err(Errno::SRCH) => Some(true),
        // Locked by somebody who lives, and who may be the caller.
        Err(Errno::AGAIN | Errno::DEADLK) => Some(false),
        Ok(_) | Err(_) => None,
    }
}

/// 1 if this thread is one of this process, and 0 if not; `None` if the kernel would not
/// tell, as of another user's.
fn is_thread_of(pid: u32, tid: u32) -> Option<usize> {
    // SAFETY:
    // - the null signal only asks; the kernel takes any numbers.
    let sent = unsafe { libc::syscall(libc::SYS_tgkill, pid, tid, 0) };
    match (sent, io::Error::last_os_error().raw_os_error()) {
        (0, _) => Some(1),
        (_, Some(libc::ESRCH)) => Some(0),
        _ => None,
    }
}

fn is_nobodys(pid: u32) -> bool {
    // 0 and negative numbers are groups of processes to kill(2).
    i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .is_some_and(|pid| test_kill_process(pid) == Err(Errno::SRCH))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::testing::{Child, Privilege, SharedPage, Watchdog, deny};
    use crate::sync::Ordering;
    use std::thread;
    use std::time::Duration;

    fn forever() -> ! {
        loop {
            thread::sleep(Duration::from_secs(1000));
        }
    }

    fn until(mut done: impl FnMut() -> bool) {
        while !done() {
            thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn a_running_process_and_a_stopped_one_are_not_exiting() {
        let _watchdog = Watchdog::start();
        assert_eq!(are_all_threads_exiting(pid()), Some(false));
        let child = Child::fork(|| forever());
        let id = nix::unistd::Pid::from_raw(child.pid().cast_signed());
        nix::sys::signal::kill(id, nix::sys::signal::Signal::SIGSTOP).unwrap();
        assert_eq!(are_all_threads_exiting(child.pid()), Some(false));
    }

    #[test]
    fn a_killed_process_is_proven_dead_as_a_zombie_and_once_reaped() {
        let _watchdog = Watchdog::start();
        let child = Child::fork(|| forever());
        let id = child.pid();
        child.kill();
        until(|| are_all_threads_exiting(id) == Some(true));
        child.kill_and_reap();
        assert_eq!(are_all_threads_exiting(id), Some(true));
    }

    #[test]
    fn a_process_whose_leader_is_gone_lives_while_another_thread_runs() {
        let _watchdog = Watchdog::start();
        let page: &SharedPage = Box::leak(Box::new(SharedPage::new()));
        let child = Child::fork(|| {
            thread::spawn(|| {
                page.word(0).store(1, Ordering::Release);
                forever()
            });
            // SAFETY:
            // - ends this thread alone, which owns nothing that the other one uses.
            unsafe { libc::syscall(libc::SYS_exit, 0) };
        });
        until(|| page.word(0).load(Ordering::Acquire) == 1);
        until(|| has_exited(child.pid()) == Some(true));
        assert_eq!(are_all_threads_exiting(child.pid()), Some(false));
        child.kill();
        until(|| are_all_threads_exiting(child.pid()) == Some(true));
    }

    #[test]
    fn who_lists_the_same_threads_at_the_same_time_gets_them_all() {
        const THREADS: usize = 300;
        let _watchdog = Watchdog::start();
        let page = SharedPage::new();
        let child = Child::fork(|| {
            thread::scope(|scope| {
                for _ in 1..THREADS {
                    scope.spawn(|| forever());
                }
                page.word(0).store(1, Ordering::Release);
                forever()
            })
        });
        until(|| page.word(0).load(Ordering::Acquire) == 1);
        let threads = Threads::of(child.pid(), None).unwrap();
        let list = || {
            let ask = |listing: BorrowedFd<'_>| Some(threads.list_again(listing)?.len());
            (0..100).all(|_| threads.listing.ask(ask) == Some(THREADS))
        };
        thread::scope(|scope| {
            let lists = [(); 4].map(|()| scope.spawn(list));
            assert!(lists.into_iter().all(|list| list.join().unwrap()));
        });
    }

    /// A list of threads is no snapshot: once, each listed thread was seen to exit, and the
    /// next one, started meanwhile, was not on the list.
    #[test]
    fn threads_that_come_and_go_under_a_dead_leader_never_look_like_its_end() {
        let _watchdog = Watchdog::start();
        let page: &'static SharedPage = Box::leak(Box::new(SharedPage::new()));
        let child = Child::fork(move || {
            // Each thread starts the next one and ends: there is always one that runs.
            fn chain(page: &'static SharedPage) {
                page.word(0).fetch_add(1, Ordering::AcqRel);
                thread::spawn(move || chain(page));
            }
            thread::spawn(move || chain(page));
            // SAFETY:
            // - ends this thread alone, which owns nothing that the others use.
            unsafe { libc::syscall(libc::SYS_exit, 0) };
        });
        until(|| has_exited(child.pid()) == Some(true));
        let begun = page.word(0).load(Ordering::Acquire);
        let mut beforehand = 0;
        for _ in 0..1_000 {
            assert_ne!(are_all_threads_exiting(child.pid()), Some(true));
            let Ok(threads) = Threads::of(child.pid(), None) else {
                continue;
            };
            beforehand += 1;
            for _ in 0..5 {
                assert_ne!(threads.are_all_exiting(), Some(true));
            }
        }
        assert!(beforehand > 0);
        until(|| page.word(0).load(Ordering::Acquire) > begun + 100);
    }

    #[test]
    fn threads_looked_up_beforehand_tell_of_a_death_and_of_one_that_came_since() {
        let _watchdog = Watchdog::start();
        let page: &'static SharedPage = Box::leak(Box::new(SharedPage::new()));
        let child = Child::fork(move || {
            thread::spawn(move || {
                while page.word(0).load(Ordering::Acquire) == 0 {
                    thread::sleep(Duration::from_millis(1));
                }
                thread::spawn(|| forever());
                page.word(1).store(1, Ordering::Release);
            });
            page.word(2).store(1, Ordering::Release);
            // SAFETY:
            // - ends this thread alone, which owns nothing that the others use.
            unsafe { libc::syscall(libc::SYS_exit, 0) };
        });
        until(|| page.word(2).load(Ordering::Acquire) == 1);
        until(|| has_exited(child.pid()) == Some(true));
        let threads = Threads::of(child.pid(), None).unwrap();
        page.word(0).store(1, Ordering::Release);
        until(|| page.word(1).load(Ordering::Acquire) == 1);
        // The one that was there has ended, or is about to.
        until(|| {
            let known = threads.listed.iter();
            known.copied().all(|tid| has_exited(tid) == Some(true))
        });
        for _ in 0..100 {
            assert_eq!(threads.are_all_exiting(), Some(false));
        }
        child.kill();
        until(|| threads.are_all_exiting() == Some(true));
        child.kill_and_reap();
        assert_eq!(threads.are_all_exiting(), Some(true));
    }

    #[test]
    fn the_keeper_counts_as_exiting_and_nobody_else() {
        let _watchdog = Watchdog::start();
        let page: &'static SharedPage = Box::leak(Box::new(SharedPage::new()));
        let child = Child::fork(move || {
            for at in 0..2 {
                thread::spawn(move || {
                    page.word(at).store(tid(), Ordering::Release);
                    forever()
                });
            }
            while page.word(2).load(Ordering::Acquire) == 0 {
                thread::sleep(Duration::from_millis(1));
            }
            // SAFETY:
            // - ends this thread alone, which owns nothing that the others use.
            unsafe { libc::syscall(libc::SYS_exit, 0) };
        });
        let named = |at: usize| page.word(at).load(Ordering::Acquire);
        until(|| named(0) != 0 && named(1) != 0);
        let threads = Threads::of(child.pid(), Some(named(0))).unwrap();
        assert_eq!(threads.are_all_exiting(), Some(false));
        page.word(2).store(1, Ordering::Release);
        until(|| has_exited(child.pid()) == Some(true));
        assert_eq!(threads.are_all_exiting(), Some(false));
        child.kill();
        until(|| threads.are_all_exiting() == Some(true));
    }

    #[test]
    fn a_kernel_that_is_not_to_be_asked_gives_no_answer_or_is_asked_otherwise() {
        let _watchdog = Watchdog::start();
        let child = Child::fork(|| forever());
        let id = child.pid();
        child.kill();
        until(|| are_all_threads_exiting(id) == Some(true));
        Child::fork(|| {
            deny(libc::SYS_futex, libc::EPERM);
            assert_eq!(are_all_threads_exiting(id), None);
        })
        .join();
        Child::fork(|| {
            deny(libc::SYS_tgkill, libc::EPERM);
            let threads = Threads::of(id, None).unwrap();
            assert_eq!(threads.count_there(&threads.listed), None);
            assert_eq!(threads.are_all_exiting(), Some(true));
        })
        .join();
        Child::fork(|| {
            deny(libc::SYS_openat, libc::EPERM);
            assert_eq!(are_all_threads_exiting(id), None);
        })
        .join();
    }

    #[test]
    fn a_pid_that_is_nobodys_is_gone_and_no_pid_is_no_answer() {
        // Beyond what Linux gives out (2^22).
        assert_eq!(are_all_threads_exiting(4_194_305), Some(true));
        assert_eq!(are_all_threads_exiting(0), None);
        assert_eq!(are_all_threads_exiting(u32::MAX), None);
    }

    #[test]
    fn the_command_name_is_the_main_threads() {
        let comm = fs::read("/proc/self/comm").unwrap();
        let words = command_name();
        let mut bytes = words[0].to_le_bytes().to_vec();
        bytes.extend(words[1].to_le_bytes());
        let end = bytes.iter().position(|&byte| byte == 0).unwrap();
        assert_eq!(&bytes[..end], comm.strip_suffix(b"\n").unwrap());
    }

    #[test]
    fn a_child_in_a_new_pid_namespace_does_not_trust_its_parents_proc() {
        let _watchdog = Watchdog::start();
        assert!(pid_namespace().is_some());
        if !Privilege::Mount.is_there() {
            return;
        }
        let outer = Child::fork(|| {
            // SAFETY:
            // - changes where this process's own children go, nothing else.
            assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWPID) }, 0);
            Child::fork(|| {
                assert_eq!(pid(), 1);
                assert_eq!(pid_namespace(), None);
            })
            .join();
        });
        outer.join();
    }
}
