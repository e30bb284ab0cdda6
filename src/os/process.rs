//! What a process is, and whether every one of its threads is on its way out.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};
use rustix::thread::futex;

use super::descriptor::Status;
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

/// The threads of one process, as `/proc/PID/task` has them: are they all on their way out?
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
#[derive(Clone, Copy, Debug)]
pub(crate) struct Threads {
    pid: u32,
    keeper: Option<u32>,
}

impl Threads {
    /// What a directory has for links, its subdirectories aside.
    const OWN_LINKS: u64 = 2;

    /// The threads of the process that has this id.
    ///
    /// `keeper` is the thread whose certificate is marked, if it is known: it counts as
    /// exiting. The kernel marks a certificate amid the thread's exit, and may at once give
    /// that thread's processor to the waiter woken by it. To be asked about a thread in this
    /// state, it would have the waiter wait until that one is through.
    pub(crate) const fn of(pid: u32, keeper: Option<u32>) -> Self {
        Self { pid, keeper }
    }

    /// Whether every thread is past the point where it could run its own code again:
    /// `Some(true)` is a proof of death, `Some(false)` only the lack of one, `None` that
    /// the kernel would not tell.
    pub(crate) fn are_all_exiting(self) -> Option<bool> {
        self.ask().or_else(|| is_nobodys(self.pid).then_some(true))
    }

    fn ask(self) -> Option<bool> {
        if !has_exited(self.pid)? {
            return Some(false);
        }
        // Mostly there are no others, and to list threads takes long.
        let main = [Some(self.pid), self.keeper.filter(|&tid| tid != self.pid)];
        let main: Vec<_> = main.into_iter().flatten().collect();
        if self.are_all(&main) == Some(true) {
            return Some(true);
        }
        let listed = self.list()?;
        // The newest first: they are the last to be told, so a look that comes too early is
        // over with the first of them.
        for &tid in listed.iter().rev() {
            if self.keeper != Some(tid) && !has_exited(tid)? {
                return Some(false);
            }
        }
        self.are_all(&listed)
    }

    /// Whether there are no threads but these, which are on their way out.
    ///
    /// They stay on their way. But neither a guess nor a listing is a snapshot: a thread that
    /// is reaped meanwhile can hide another, and one that was still running may have started
    /// another before it went. So count, and then see who is still there: it was there when
    /// the threads were counted, so if those are as many as were counted, they are all the
    /// threads of that moment, and none could start another.
    fn are_all(self, tids: &[u32]) -> Option<bool> {
        let count = self.count()?;
        let there = match self.count_there(tids) {
            Some(there) => there,
            None => {
                let listed = self.list()?;
                listed.iter().filter(|&tid| tids.contains(tid)).count()
            }
        };
        Some(there as u64 == count)
    }

    fn count(self) -> Option<u64> {
        let links = Status::at_path(&self.directory()).ok()?.links;
        links.checked_sub(Self::OWN_LINKS)
    }

    /// How many of these threads there are; `None` if the kernel would not tell.
    fn count_there(self, tids: &[u32]) -> Option<usize> {
        let there = tids.iter().map(|&tid| is_thread_of(self.pid, tid));
        there.sum::<Option<usize>>()
    }

    fn list(self) -> Option<Vec<u32>> {
        let tasks = fs::read_dir(self.directory()).ok()?;
        let tids = tasks.map(|task| task.ok()?.file_name().to_str()?.parse().ok());
        let mut tids = tids.collect::<Option<Vec<_>>>()?;
        // Whoever is counted is counted once.
        tids.sort_unstable();
        tids.dedup();
        Some(tids)
    }

    fn directory(self) -> PathBuf {
        format!("/proc/{}/task", self.pid).into()
    }
}

/// Has the kernel make now what it needs to count this process's threads, and then keeps: whoever
/// waits for a lock of this process will ask when it has died, and be in a hurry.
pub(crate) fn ease_counting() {
    let _ = Threads::of(pid(), None).count();
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
    use crate::os::testing::{
        Child, Privilege, SharedPage, Watchdog, begin_pid_namespace, deny, exit_alone, skip,
        spawn_in_child, until,
    };
    use crate::sync::Ordering;
    use std::thread;
    use std::time::Duration;

    fn forever() -> ! {
        loop {
            thread::sleep(Duration::from_secs(1000));
        }
    }

    #[test]
    fn a_running_process_and_a_stopped_one_are_not_exiting() {
        let _watchdog = Watchdog::start();
        assert_eq!(Threads::of(pid(), None).are_all_exiting(), Some(false));
        let child = Child::fork(|| forever());
        let id = nix::unistd::Pid::from_raw(child.pid().cast_signed());
        nix::sys::signal::kill(id, nix::sys::signal::Signal::SIGSTOP).unwrap();
        assert_eq!(
            Threads::of(child.pid(), None).are_all_exiting(),
            Some(false)
        );
    }

    #[test]
    fn a_killed_process_is_proven_dead_as_a_zombie_and_once_reaped() {
        let _watchdog = Watchdog::start();
        let child = Child::fork(|| forever());
        let id = child.pid();
        child.kill();
        until(|| Threads::of(id, None).are_all_exiting() == Some(true));
        child.kill_and_reap();
        assert_eq!(Threads::of(id, None).are_all_exiting(), Some(true));
    }

    #[test]
    fn a_process_whose_leader_is_gone_lives_while_another_thread_runs() {
        let _watchdog = Watchdog::start();
        let page: &SharedPage = Box::leak(Box::new(SharedPage::new()));
        let child = Child::fork(|| {
            spawn_in_child(|| {
                page.word(0).store(1, Ordering::Release);
                forever()
            });
            exit_alone();
        });
        until(|| page.word(0).load(Ordering::Acquire) == 1);
        until(|| has_exited(child.pid()) == Some(true));
        assert_eq!(
            Threads::of(child.pid(), None).are_all_exiting(),
            Some(false)
        );
        child.kill();
        until(|| Threads::of(child.pid(), None).are_all_exiting() == Some(true));
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
                page.word(1).store(tid(), Ordering::Release);
                spawn_in_child(move || chain(page));
            }
            spawn_in_child(move || chain(page));
            exit_alone();
        });
        until(|| has_exited(child.pid()) == Some(true));
        let named = |at: usize| page.word(at).load(Ordering::Acquire);
        let begun = named(0);
        for _ in 0..2_000 {
            assert_ne!(Threads::of(child.pid(), None).are_all_exiting(), Some(true));
            // One that is on its way out by now.
            let keeper = named(1);
            if has_exited(keeper) == Some(true) {
                let threads = Threads::of(child.pid(), Some(keeper));
                assert_ne!(threads.are_all_exiting(), Some(true));
            }
        }
        until(|| named(0) > begun + 100);
    }

    #[test]
    fn the_keeper_counts_as_exiting_and_nobody_else() {
        let _watchdog = Watchdog::start();
        let page: &'static SharedPage = Box::leak(Box::new(SharedPage::new()));
        let child = Child::fork(move || {
            for at in 0..2 {
                spawn_in_child(move || {
                    page.word(at).store(tid(), Ordering::Release);
                    until(|| page.word(2).load(Ordering::Acquire) > at as u32);
                    if at == 1 {
                        exit_alone();
                    }
                    forever()
                });
            }
            until(|| page.word(2).load(Ordering::Acquire) == 1);
            exit_alone();
        });
        let named = |at: usize| page.word(at).load(Ordering::Acquire);
        until(|| named(0) != 0 && named(1) != 0);
        let threads = Threads::of(child.pid(), Some(named(0)));
        assert_eq!(threads.are_all_exiting(), Some(false));
        page.word(2).store(1, Ordering::Release);
        until(|| has_exited(child.pid()) == Some(true));
        assert_eq!(threads.are_all_exiting(), Some(false));
        // Alone with the first thread, it is believed.
        page.word(2).store(2, Ordering::Release);
        until(|| threads.are_all_exiting() == Some(true));
        let unknown = Threads::of(child.pid(), None);
        assert_eq!(unknown.are_all_exiting(), Some(false));
        child.kill();
        until(|| unknown.are_all_exiting() == Some(true));
    }

    /// Threads that are there though they have ended, as many a one is amid a death: the kernel
    /// keeps a traced one until its tracer has heard of its end.
    #[test]
    fn threads_on_their_way_out_are_found_whoever_they_are() {
        let _watchdog = Watchdog::start();
        let page: &'static SharedPage = Box::leak(Box::new(SharedPage::new()));
        let child = Child::fork(|| {
            spawn_in_child(|| {
                page.word(0).store(tid(), Ordering::Release);
                forever()
            });
            forever()
        });
        let id = child.pid();
        until(|| page.word(0).load(Ordering::Acquire) != 0);
        let traced = page.word(0).load(Ordering::Acquire);
        // SAFETY:
        // - reads and writes nobody's memory.
        if unsafe { libc::ptrace(libc::PTRACE_SEIZE, traced, 0, 0) } != 0 {
            skip(format_args!("ptrace: {}", io::Error::last_os_error()));
            return;
        }
        child.kill();
        let unknown = Threads::of(id, None);
        until(|| unknown.are_all_exiting() == Some(true));
        assert_eq!(unknown.are_all(&[id]), Some(false));
        assert_eq!(unknown.are_all(&[id, traced]), Some(true));
        Child::fork(|| {
            deny(libc::SYS_openat, libc::EPERM);
            assert_eq!(unknown.are_all_exiting(), None);
            // No listing is needed, then.
            let threads = Threads::of(id, Some(traced));
            assert_eq!(threads.are_all_exiting(), Some(true));
        })
        .join();
        // Its leader is reaped after it.
        let traced = nix::unistd::Pid::from_raw(traced.cast_signed());
        let flags = nix::sys::wait::WaitPidFlag::__WALL;
        nix::sys::wait::waitpid(traced, Some(flags)).unwrap();
    }

    #[test]
    fn a_kernel_that_is_not_to_be_asked_gives_no_answer_or_is_asked_otherwise() {
        let _watchdog = Watchdog::start();
        let child = Child::fork(|| forever());
        let threads = Threads::of(child.pid(), None);
        child.kill();
        until(|| threads.are_all_exiting() == Some(true));
        Child::fork(|| {
            deny(libc::SYS_futex, libc::EPERM);
            assert_eq!(threads.are_all_exiting(), None);
        })
        .join();
        Child::fork(|| {
            deny(libc::SYS_openat, libc::EPERM);
            // A session without a keeper is certified by the thread that opened it.
            for certified in [None, Some(threads.pid)] {
                let threads = Threads::of(threads.pid, certified);
                assert_eq!(threads.are_all_exiting(), Some(true));
            }
        })
        .join();
        Child::fork(|| {
            deny(libc::SYS_tgkill, libc::EPERM);
            assert_eq!(threads.count_there(&[threads.pid]), None);
            assert_eq!(threads.are_all_exiting(), Some(true));
            deny(libc::SYS_openat, libc::EPERM);
            assert_eq!(threads.are_all_exiting(), None);
        })
        .join();
    }

    #[test]
    fn a_pid_that_is_nobodys_is_gone_and_no_pid_is_no_answer() {
        // Beyond what Linux gives out (2^22).
        assert_eq!(Threads::of(4_194_305, None).are_all_exiting(), Some(true));
        assert_eq!(Threads::of(0, None).are_all_exiting(), None);
        assert_eq!(Threads::of(u32::MAX, None).are_all_exiting(), None);
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
            begin_pid_namespace();
            Child::fork(|| {
                assert_eq!(pid(), 1);
                assert_eq!(pid_namespace(), None);
            })
            .join();
        });
        outer.join();
    }
}
