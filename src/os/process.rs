//! What a process is, and whether every one of its threads is on its way out.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;

use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};

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
    let mut name = match fs::read("/proc/self/comm") {
        Ok(line) => line.strip_suffix(b"\n").unwrap_or(&line).to_vec(),
        Err(_) => rustix::thread::name().unwrap_or_default().into_bytes(),
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
    // NSpid lists this process's id in each namespace from /proc's own down to ours:
    // one id, and it is the one we go by, when the two are the same.
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("NSpid:"))?;
    let mut ids = line.split_ascii_whitespace();
    let only = ids.next()?.parse() == Ok(pid()) && ids.next().is_none();
    if !only {
        return None;
    }
    fs::metadata("/proc/self/ns/pid")
        .ok()
        .map(|namespace| namespace.ino())
}

/// Whether every thread of the process is past the point where it could run its own code
/// again: `Some(true)` is a proof of death, `Some(false)` only the lack of one, `None`
/// that the kernel would not tell. Ask only about a PID of this very PID namespace, as
/// `/proc` shows it ([`pid_namespace`]).
///
/// It is a shortcut: a process of gigabytes takes long to be torn down, and all the time
/// holds its byte lock, while its threads show `PF_EXITING` at once.
///
/// - The zombie state is not asked. It is late (it comes after the tear-down), and it says
///   nothing: a leader that called `pthread_exit` is a zombie while its threads run on.
/// - That a PID may be used anew does no harm. Then the process that had it is gone, which
///   is what `Some(true)` says; and while the new one runs, the answer is `Some(false)`.
/// - That a path under `/proc` is missing proves nothing: mounted with `hidepid`, it shows
///   no processes of other users. Only a signal's `ESRCH` says that the PID is nobody's.
pub(crate) fn all_tasks_exiting(pid: u32) -> Option<bool> {
    match tasks_exiting(pid) {
        Ok(all) => Some(all),
        Err(_) => is_nobodys(pid).then_some(true),
    }
}

fn tasks_exiting(pid: u32) -> io::Result<bool> {
    let process = format!("/proc/{pid}/stat");
    if !TaskStat::read(&process)?.exiting {
        return Ok(false);
    }
    let before = list_tasks(pid)?;
    for tid in &before {
        match TaskStat::read(&format!("/proc/{pid}/task/{tid}/stat")) {
            Ok(task) if !task.exiting => return Ok(false),
            Ok(_) => {}
            Err(error) if is_no_such_task(&error) => {}
            Err(error) => return Err(error),
        }
    }
    // All that were listed are on their way out, and stay so. But a listing is no
    // snapshot: a thread that is reaped meanwhile can hide another, and one that was still
    // running may have started another before it went. So count, and list again: who is in
    // both listings was there when the threads were counted, so if those are as many as
    // were counted, they are all the threads of that moment, and none could start another.
    let count = TaskStat::read(&process)?.threads;
    let after = list_tasks(pid)?;
    Ok(after.len() >= count && after.iter().all(|tid| before.contains(tid)))
}

fn list_tasks(pid: u32) -> io::Result<Vec<u32>> {
    let mut tids = Vec::new();
    for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
        let name = entry?.file_name();
        let tid = name
            .to_str()
            .and_then(|name| name.parse().ok())
            .ok_or_else(not_a_stat)?;
        tids.push(tid);
    }
    Ok(tids)
}

fn is_no_such_task(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH))
}

fn is_nobodys(pid: u32) -> bool {
    // 0 and negative numbers are groups of processes to kill(2).
    i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .is_some_and(|pid| test_kill_process(pid) == Err(Errno::SRCH))
}

fn not_a_stat() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "not what Linux shows of a task")
}

/// The part of a `stat` line that is needed here, see `proc_pid_stat(5)`.
#[derive(Debug, PartialEq, Eq)]
struct TaskStat {
    exiting: bool,
    threads: usize,
}

impl TaskStat {
    /// Linux's `PF_EXITING`, `include/linux/sched.h`.
    const EXITING: u64 = 0x4;

    fn read(path: &str) -> io::Result<Self> {
        // Longer than any such line: 52 numbers and a name.
        let mut line = [0; 2048];
        let len = File::open(path)?.read(&mut line)?;
        Self::parse(&line[..len]).ok_or_else(not_a_stat)
    }

    fn parse(line: &[u8]) -> Option<Self> {
        // The name, the second field, may hold anything: blanks and parentheses, too.
        let name_end = line.iter().rposition(|&byte| byte == b')')?;
        let rest = str::from_utf8(&line[name_end + 1..]).ok()?;
        // The first field after it is the third.
        let mut fields = rest.split_ascii_whitespace();
        let flags: u64 = fields.nth(9 - 3)?.parse().ok()?;
        let threads = fields.nth(20 - 10)?.parse().ok()?;
        Some(Self {
            exiting: flags & Self::EXITING != 0,
            threads,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::testing::{Child, SharedPage, Watchdog};
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
    fn a_stat_line_is_read_past_any_name() {
        let line = b"1 (a) R 1) Z 1 1 1 0 -1 4194564 1 2 3 4 5 6 7 8 20 0 17 0 99";
        assert_eq!(
            TaskStat::parse(line),
            Some(TaskStat {
                exiting: true,
                threads: 17
            })
        );
        let line = b"1 (\xff) R 1 1 1 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 99";
        assert_eq!(
            TaskStat::parse(line),
            Some(TaskStat {
                exiting: false,
                threads: 1
            })
        );
        for torn in [&b"1 (a) R 1 1"[..], b"1 (a", b""] {
            assert_eq!(TaskStat::parse(torn), None);
        }
    }

    #[test]
    fn a_running_process_and_a_stopped_one_are_not_exiting() {
        let _watchdog = Watchdog::start();
        assert_eq!(all_tasks_exiting(pid()), Some(false));
        let child = Child::fork(|| forever());
        let id = nix::unistd::Pid::from_raw(child.pid().cast_signed());
        nix::sys::signal::kill(id, nix::sys::signal::Signal::SIGSTOP).unwrap();
        assert_eq!(all_tasks_exiting(child.pid()), Some(false));
    }

    #[test]
    fn a_killed_process_is_proven_dead_as_a_zombie_and_once_reaped() {
        let _watchdog = Watchdog::start();
        let child = Child::fork(|| forever());
        let id = child.pid();
        child.kill();
        until(|| all_tasks_exiting(id) == Some(true));
        child.kill_and_reap();
        assert_eq!(all_tasks_exiting(id), Some(true));
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
        let leader = format!("/proc/{}/stat", child.pid());
        until(|| TaskStat::read(&leader).unwrap().exiting);
        assert_eq!(all_tasks_exiting(child.pid()), Some(false));
        child.kill();
        until(|| all_tasks_exiting(child.pid()) == Some(true));
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
        let leader = format!("/proc/{}/stat", child.pid());
        until(|| TaskStat::read(&leader).unwrap().exiting);
        let begun = page.word(0).load(Ordering::Acquire);
        for _ in 0..3_000 {
            assert_ne!(all_tasks_exiting(child.pid()), Some(true));
        }
        until(|| page.word(0).load(Ordering::Acquire) > begun + 100);
    }

    #[test]
    fn a_pid_that_is_nobodys_is_gone_and_no_pid_is_no_answer() {
        // Beyond what Linux gives out (2^22).
        assert_eq!(all_tasks_exiting(4_194_305), Some(true));
        assert_eq!(all_tasks_exiting(0), None);
        assert_eq!(all_tasks_exiting(u32::MAX), None);
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
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: a new PID namespace takes root");
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
