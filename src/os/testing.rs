//! What the tests of the system calls share: forked children that never outlive a test,
//! shared pages, a watchdog, and a way to take a system call away.
//!
//! A child is forked while the threads of other tests run, and what they have locked then stays
//! locked in it, but for what the C library sees to. So it starts its threads by
//! [`spawn_in_child`], and neither prints by the standard library nor panics where all is well:
//! a thread's start, a line and a panic's message each take a lock there.

use std::ffi::{CStr, CString};
use std::fmt::Display;
use std::fs;
use std::io;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::ptr::NonNull;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, kill, sigaction};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};

use super::thread::Thread;
use crate::sync::{AtomicU32, Ordering};

/// Ends the whole test process if it is still there after a minute.
pub(crate) struct Watchdog(#[expect(dead_code, reason = "dropping it is the message")] Sender<()>);

impl Watchdog {
    pub(crate) fn start() -> Self {
        let (alive, watched) = channel::<()>();
        let test = thread::current().name().unwrap_or_default().to_owned();
        thread::spawn(move || {
            if watched.recv_timeout(Duration::from_secs(60)) == Err(RecvTimeoutError::Timeout) {
                say(format_args!("{test} hangs"));
                std::process::abort();
            }
        });
        Self(alive)
    }
}

/// A forked child, killed and reaped when dropped.
pub(crate) struct Child(Pid);

impl Child {
    /// Forks, and runs `body` in the child, which then exits: 0, or 101 if it panicked.
    pub(crate) fn fork(body: impl FnOnce()) -> Self {
        // SAFETY:
        // - the child runs on this thread's copy alone; what it calls needs no lock of
        //   another thread but the allocator's, which the C library makes usable again.
        match unsafe { fork() }.expect("fork") {
            ForkResult::Parent { child } => Self(child),
            ForkResult::Child => {
                // Should the watchdog end the parent.
                end_with_parent_by(libc::SIGKILL);
                let code = if catch_unwind(AssertUnwindSafe(body)).is_ok() {
                    0
                } else {
                    101
                };
                // SAFETY:
                // - ends the child without the parent's exit handlers.
                unsafe { libc::_exit(code) }
            }
        }
    }

    /// In a child: to go on when its parent ends.
    pub(crate) fn outlive_parent() {
        end_with_parent_by(0);
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.as_raw().cast_unsigned()
    }

    pub(crate) fn kill(&self) {
        kill(self.0, Signal::SIGKILL).expect("kill");
    }

    /// Waits for its end and asserts that nothing in it panicked.
    pub(crate) fn join(self) {
        let pid = self.0;
        assert_eq!(self.status(), WaitStatus::Exited(pid, 0));
    }

    /// Waits for its end: true if this signal has brought it, false if it has exited with 0.
    pub(crate) fn ends_by(self, signal: Signal) -> bool {
        let pid = self.0;
        match self.status() {
            WaitStatus::Signaled(_, by, _) if by == signal => true,
            status => {
                assert_eq!(status, WaitStatus::Exited(pid, 0));
                false
            }
        }
    }

    /// Forks as [`fork`](Self::fork) does a child that stops before and after each of its system
    /// calls, for this thread to have it [go on](Self::goes_on_to_its_next_call); `None` where
    /// nobody may be traced, which it says.
    pub(crate) fn stopping_at_its_calls(body: impl FnOnce()) -> Option<Self> {
        const REFUSED: i32 = 77;
        let child = Self::fork(|| {
            // SAFETY:
            // - reads and writes nobody's memory.
            if unsafe { libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) } != 0 {
                // SAFETY:
                // - ends the child without the parent's exit handlers.
                unsafe { libc::_exit(REFUSED) }
            }
            nix::sys::signal::raise(Signal::SIGSTOP).expect("raise");
            body();
        });
        match waitpid(child.0, None).expect("waitpid") {
            WaitStatus::Stopped(..) => Some(child),
            WaitStatus::Exited(_, REFUSED) => {
                std::mem::forget(child);
                skip("nobody may be traced");
                None
            }
            status => panic!("{status:?}"),
        }
    }

    /// Whether it has stopped at a call once more; it has exited, with 0, if not.
    pub(crate) fn goes_on_to_its_next_call(&self) -> bool {
        // SAFETY:
        // - lets a child go on that is this thread's and stopped.
        let goes_on = unsafe { libc::ptrace(libc::PTRACE_SYSCALL, self.0.as_raw(), 0, 0) };
        assert_eq!(goes_on, 0, "{}", io::Error::last_os_error());
        match waitpid(self.0, None).expect("waitpid") {
            WaitStatus::Stopped(..) => true,
            status => {
                assert_eq!(status, WaitStatus::Exited(self.0, 0));
                false
            }
        }
    }

    /// Waits for its end, and reaps it.
    fn status(self) -> WaitStatus {
        let status = waitpid(self.0, None).expect("waitpid");
        std::mem::forget(self);
        status
    }

    /// Kills and reaps it.
    pub(crate) fn kill_and_reap(self) {
        drop(self);
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // Both may fail only if the child is reaped already, and nobody else reaps it.
        let _ = kill(self.0, Signal::SIGKILL);
        let _ = waitpid(self.0, None);
    }
}

/// Starts a thread of a forked child: one of the standard library's may wait for ever.
pub(crate) fn spawn_in_child(code: impl FnOnce() + Send + 'static) {
    drop(Thread::start(c"test", code).expect("thread"));
}

/// Ends the calling thread alone, other than a return from the process's first.
pub(crate) fn exit_alone() -> ! {
    // SAFETY:
    // - all that the thread owns stays as it is.
    unsafe { libc::syscall(libc::SYS_exit, 0) };
    unreachable!("it has exited")
}

/// Waits for something that other threads or processes bring about.
pub(crate) fn until(mut done: impl FnMut() -> bool) {
    while !done() {
        thread::sleep(Duration::from_millis(1));
    }
}

fn end_with_parent_by(signal: i32) {
    // SAFETY:
    // - changes what happens to this process alone.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, signal) };
}

/// A page shared with children forked after it was made.
pub(crate) struct SharedPage(NonNull<AtomicU32>);

// SAFETY: the page holds atomics alone.
unsafe impl Sync for SharedPage {}
// SAFETY: nothing about it belongs to a thread.
unsafe impl Send for SharedPage {}

impl SharedPage {
    const BYTES: usize = 4096;

    pub(crate) fn new() -> Self {
        // SAFETY:
        // - a new mapping at an address of the kernel's choice disturbs nothing.
        let page = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                Self::BYTES,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        assert_ne!(page, libc::MAP_FAILED, "{}", io::Error::last_os_error());
        Self(NonNull::new(page.cast()).expect("mapped at zero"))
    }

    pub(crate) fn word(&self, at: usize) -> &AtomicU32 {
        assert!(at < Self::BYTES / 4);
        // SAFETY:
        // - in bounds by the assertion, aligned by the page, zero or whatever was stored.
        unsafe { self.0.add(at).as_ref() }
    }
}

impl Drop for SharedPage {
    fn drop(&mut self) {
        // SAFETY:
        // - maps exactly what `new` mapped, and no borrow of a word outlives `self`.
        unsafe { libc::munmap(self.0.as_ptr().cast(), Self::BYTES) };
    }
}

/// Makes a system call fail with `errno` in this process from now on: for children only.
pub(crate) fn deny(call: libc::c_long, errno: i32) {
    answer(call, None, libc::SECCOMP_RET_ERRNO | errno.cast_unsigned());
}

/// Has a system call with this second argument do nothing, and say that it is done, in this
/// process from now on: for children only.
pub(crate) fn pretend(call: libc::c_long, second: libc::c_int) {
    answer(call, Some(second.cast_unsigned()), libc::SECCOMP_RET_ERRNO);
}

/// Has SIGSYS end this process at a system call from now on: for children only.
pub(crate) fn end_at(call: libc::c_long) {
    answer(call, None, libc::SECCOMP_RET_KILL_PROCESS);
}

/// What the kernel does about a system call of this thread, and of those that it makes: about
/// those alone that have this second argument, if one is given.
fn answer(call: libc::c_long, second: Option<u32>, action: u32) {
    const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const CALL: u32 = mem::offset_of!(libc::seccomp_data, nr) as u32;
    /// Its lower half.
    const SECOND: u32 = mem::offset_of!(libc::seccomp_data, args) as u32
        + if cfg!(target_endian = "big") { 12 } else { 8 };
    const EQUALS: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let step = |code, k, jf| libc::sock_filter { code, jt: 0, jf, k };
    let call = u32::try_from(call).expect("a system call's number");
    let mut program = vec![step(LOAD, CALL, 0)];
    match second {
        None => program.push(step(EQUALS, call, 1)),
        Some(second) => program.extend([
            step(EQUALS, call, 3),
            step(LOAD, SECOND, 0),
            step(EQUALS, second, 1),
        ]),
    }
    program.extend([
        step(RETURN, action, 0),
        step(RETURN, libc::SECCOMP_RET_ALLOW, 0),
    ]);
    let filter = libc::sock_fprog {
        len: program.len() as u16,
        filter: program.as_mut_ptr(),
    };
    // SAFETY:
    // - both calls change this process alone, and the filter lives across the second.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        let mode = libc::SECCOMP_MODE_FILTER;
        assert_eq!(
            libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const filter),
            0
        );
    }
}

/// Says that this test is skipped, or a part of it, past the capture of its output.
pub(crate) fn skip(why: impl Display) {
    let thread = thread::current();
    let test = thread.name().unwrap_or_default();
    let test = test.rsplit_once("::").map_or(test, |(_, test)| test);
    say(format_args!("skipped: {test}: {why}"));
}

/// Says something past the capture of a test's output, and without a lock.
fn say(what: impl Display) {
    let _ = rustix::io::write(io::stderr(), format!("{what}\n").as_bytes());
}

/// What root may do, as numbered in `capabilities(7)`.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Privilege {
    GiveFilesAway = 0,
    BecomeAnother = 7,
    ChangeRoot = 18,
    Mount = 21,
}

impl Privilege {
    /// Whether this process has it; if not, says that the test is skipped for want of it.
    pub(crate) fn is_there(self) -> bool {
        let status = fs::read_to_string("/proc/self/status").expect("its status");
        let held = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
        let held = held.and_then(|held| u64::from_str_radix(held.trim(), 16).ok());
        let is_there = held.expect("its capabilities") & (1 << self as u32) != 0;
        if !is_there {
            skip(format_args!("it takes the privilege {self:?}"));
        }
        is_there
    }
}

/// Has this process's next child be the first of a PID namespace.
pub(crate) fn begin_pid_namespace() {
    // SAFETY:
    // - changes where this process's own children go, nothing else.
    assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWPID) }, 0);
}

/// Mounts a tmpfs over `at`, for this process alone and those it forks: for children only.
pub(crate) fn tmpfs(at: &Path, options: &CStr) {
    let at = CString::new(at.as_os_str().as_encoded_bytes()).expect("a path has no NUL");
    let none = std::ptr::null();
    let private = libc::MS_REC | libc::MS_PRIVATE;
    // SAFETY:
    // - live C strings; the mounts are those of a namespace of this child's own.
    unsafe {
        assert_eq!(
            libc::unshare(libc::CLONE_NEWNS),
            0,
            "{}",
            io::Error::last_os_error()
        );
        assert_eq!(
            libc::mount(none, c"/".as_ptr(), none, private, none.cast()),
            0
        );
        let kind = c"tmpfs".as_ptr();
        let mounted = libc::mount(kind, at.as_ptr(), kind, 0, options.as_ptr().cast());
        assert_eq!(mounted, 0, "{}", io::Error::last_os_error());
    }
}

/// Closes every descriptor but the standard ones, as a careless daemon does: for children
/// only.
pub(crate) fn close_descriptors() {
    // SAFETY:
    // - the child's descriptors are copies, and what it keeps open for long is `Kept`.
    let closed = unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, 0) };
    assert_eq!(closed, 0, "{}", io::Error::last_os_error());
}

/// Does something on this thread while its system calls are interrupted again and again.
pub(crate) fn while_interrupted<T>(body: impl FnOnce() -> T) -> T {
    extern "C" fn nothing(_: libc::c_int) {}
    let handler = SigHandler::Handler(nothing);
    let action = SigAction::new(handler, SaFlags::empty(), SigSet::empty());
    // SAFETY:
    // - the handler does nothing, and nobody here waits for urgent data.
    unsafe { sigaction(Signal::SIGURG, &action) }.unwrap();
    // SAFETY:
    // - takes nothing, and cannot fail.
    let this_thread = unsafe { libc::pthread_self() };
    let is_done = AtomicU32::new(0);
    thread::scope(|scope| {
        scope.spawn(|| {
            while is_done.load(Ordering::Relaxed) == 0 {
                // SAFETY:
                // - that thread waits for this one.
                unsafe { libc::pthread_kill(this_thread, libc::SIGURG) };
                thread::sleep(Duration::from_millis(1));
            }
        });
        let result = body();
        is_done.store(1, Ordering::Relaxed);
        result
    })
}
