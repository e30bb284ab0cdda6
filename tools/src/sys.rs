//! The command line's unsafe code, but for its way in (`entry.rs`): how the child is made
//! and what it does before it becomes the command, and the system calls that no safe
//! wrapper covers whole (real-time signals above all, which nix's `Signal` cannot name).

use std::ffi::{CString, c_char, c_int, c_void};
use std::io;
use std::mem::MaybeUninit;
use std::ops::Deref;
use std::os::fd::RawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, raise, sigaction};

/// The least number under which a command finds the witness. Scripts use those below 10 by
/// themselves, to log to one that may or may not be open, and shells save others right above.
/// From 64 on a process needs a larger table of descriptors.
const FIRST_WITNESS: c_int = 50;

/// What a child needs to be told before it becomes the command.
pub(crate) struct ChildSetup {
    /// The signal mask that this process was started with.
    pub(crate) mask: SigSet,
    /// SIGCHLD was ignored when this process was started.
    pub(crate) ignore_sigchld: bool,
    /// The descriptor that proves the session alive.
    pub(crate) witness: Option<RawFd>,
}

/// What the child reads, in memory that it shares with its parent until it has become the
/// command.
struct Start {
    setup: ChildSetup,
    parent: c_int,
    argv: Vec<*const c_char>,
    environment: Vec<*const c_char>,
    /// The errno of what failed in the child, 0 if nothing did.
    error: AtomicI32,
}

/// Starts a command that dies with this process, keeps the session's witness open, and has
/// the signal mask and dispositions that this process was started with. Every signal has
/// to be blocked in the calling thread.
///
/// The child is made like vfork(2) makes one: it borrows this process's memory, and this
/// thread stands still until the child has become the command. A copy of the page tables
/// would cost more than all the rest of taking and releasing a lock.
///
/// # Errors
///
/// What execvpe(3) or the making of the child answered; then there is no child.
pub(crate) fn start(
    argv: &[CString],
    environment: &[CString],
    setup: ChildSetup,
) -> io::Result<i32> {
    let start = Start {
        setup,
        // SAFETY: getpid has no preconditions.
        parent: unsafe { libc::getpid() },
        argv: null_terminated(argv),
        environment: null_terminated(environment),
        error: AtomicI32::new(0),
    };
    // execvpe builds paths of up to PATH_MAX on the stack, and for a script without an
    // interpreter another list of all arguments.
    let words = (64 * 1024 + 16 * argv.len()) / size_of::<u128>();
    let mut stack = Vec::<MaybeUninit<u128>>::with_capacity(words);
    // SAFETY: the end of the allocation.
    let top = unsafe { stack.as_mut_ptr().add(stack.capacity()) };
    // SAFETY:
    // - `top` ends a stack of its own, aligned to 16 bytes, which grows downwards on every
    //   architecture that Rust has Linux on;
    // - `start` and the stack outlive the child's use of them, for with CLONE_VFORK this
    //   call returns only when the child has executed the command or exited;
    // - the child calls only what is async-signal-safe, so no lock that another thread of
    //   this process holds meanwhile can matter to it; errno, which it shares with this
    //   thread, is read by this thread only after the call.
    let pid = unsafe {
        libc::clone(
            become_command,
            top.cast(),
            libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD,
            (&raw const start).cast_mut().cast(),
        )
    };
    if pid == -1 {
        return Err(io::Error::last_os_error());
    }
    match start.error.load(Ordering::Relaxed) {
        0 => Ok(pid),
        error => {
            child_change(pid, true)?;
            Err(io::Error::from_raw_os_error(error))
        }
    }
}

fn null_terminated(strings: &[CString]) -> Vec<*const c_char> {
    let pointers = strings.iter().map(|string| string.as_ptr());
    pointers.chain([ptr::null()]).collect()
}

/// The child's whole life before it is the command.
///
/// The witness is why nobody can be granted the lock while the child still runs. Suppose
/// the wrapper is killed: the kernel first tears its address space down, which would end
/// the byte lock and so prove the session dead, and only then sends the child its
/// parent-death signal. In between a waiter could be granted a lock whose command is still
/// running. The child inherits the session's witness, which has a byte of its own locked, so
/// the session counts as alive until both are gone. What the child starts in turn inherits
/// it as well, unless it closes what it does not know.
extern "C" fn become_command(start: *mut c_void) -> c_int {
    // SAFETY: `start` gave the address of its own `Start`, which it keeps until this is
    // over, and writes nothing there meanwhile.
    let start = unsafe { &*start.cast::<Start>() };
    // SAFETY: prctl with these arguments, getppid, _exit, fcntl with these commands, and signal
    // with the two dispositions that are no handlers, touch no memory of ours; execvpe
    // reads the two lists, which end with a null pointer, and the strings, which `start`
    // borrows for as long.
    unsafe {
        if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
            return fail(start);
        }
        // A parent that died before the prctl sends no signal any more. One in another PID
        // namespace, as after `unshare --pid` without a fork, has no number here, alive or not.
        let parent = libc::getppid();
        if parent != start.parent && parent != 0 {
            libc::_exit(128 + libc::SIGKILL);
        }
        if let Some(witness) = start.setup.witness
            && libc::fcntl(witness, libc::F_DUPFD, FIRST_WITNESS) == -1
            // Where so many are not allowed, under the number that it has.
            && libc::fcntl(witness, libc::F_SETFD, 0) != 0
        {
            return fail(start);
        }
        // Ignored for the sake of this program's own output.
        if !IGNORED_CLOSED_PIPES.load(Ordering::Relaxed) {
            libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        }
        if start.setup.ignore_sigchld {
            libc::signal(libc::SIGCHLD, libc::SIG_IGN);
        }
        if start.setup.mask.thread_set_mask().is_ok() {
            let (argv, environment) = (start.argv.as_ptr(), start.environment.as_ptr());
            libc::execvpe(*argv, argv, environment);
        }
    }
    fail(start)
}

/// Leaves the errno for the parent. The exit code is nobody's concern then.
fn fail(start: &Start) -> c_int {
    let error = io::Error::last_os_error().raw_os_error();
    start
        .error
        .store(error.unwrap_or(libc::EIO), Ordering::Relaxed);
    1
}

/// Opens what is closed of the three standard streams on `/dev/null`: the next file to be
/// opened would otherwise get the number, and what is printed with it.
pub(crate) fn open_standard_streams() {
    let mut streams = [0, 1, 2].map(|fd| libc::pollfd {
        fd,
        events: 0,
        revents: 0,
    });
    // SAFETY: `streams` is a live array of that length.
    let asked = unsafe { libc::poll(streams.as_mut_ptr(), streams.len() as libc::nfds_t, 0) };
    for stream in streams {
        // SAFETY: fcntl with F_GETFD touches no memory, and open reads the string alone.
        unsafe {
            // Where poll is not allowed, each is asked by itself.
            let is_closed = match asked {
                -1 => libc::fcntl(stream.fd, libc::F_GETFD) == -1,
                _ => stream.revents & libc::POLLNVAL != 0,
            };
            // The lowest free number is this one: those below are open by now.
            if is_closed && libc::open(c"/dev/null".as_ptr(), libc::O_RDWR) != stream.fd {
                libc::abort();
            }
        }
    }
}

/// Whether SIGPIPE was ignored when this process was started, as services of systemd have it.
static IGNORED_CLOSED_PIPES: AtomicBool = AtomicBool::new(false);

/// Makes writing to a pipe that nobody reads an error, which can be told from others.
pub(crate) fn ignore_closed_pipes() {
    // SAFETY: SIG_IGN is a disposition, no handler of ours gets installed. It fails only
    // for an impossible signal.
    let previous = unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
    IGNORED_CLOSED_PIPES.store(previous == libc::SIG_IGN, Ordering::Relaxed);
}

/// Gives SIGCHLD its default disposition and says whether it was ignored before.
///
/// A process that was started with SIGCHLD ignored would have its children reaped for it,
/// and could never learn how they ended.
pub(crate) fn default_sigchld() -> io::Result<bool> {
    // SAFETY: SIG_DFL is a disposition, no handler of ours gets installed.
    match unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) } {
        libc::SIG_ERR => Err(io::Error::last_os_error()),
        previous => Ok(previous == libc::SIG_IGN),
    }
}

/// Whether this process ignores a signal, or would if it were not blocked.
pub(crate) fn is_ignored(signal: i32) -> bool {
    let mut found = MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: nothing is installed, and `found` is live, writable, and valid as zeroes.
    unsafe {
        libc::sigaction(signal, ptr::null(), found.as_mut_ptr()) == 0
            && found.assume_init().sa_sigaction == libc::SIG_IGN
    }
}

/// Stops this process as its child was stopped, by a signal that is blocked as SIGCONT is, until
/// somebody continues it. Says whether somebody has: a SIGCONT that came first keeps it from
/// stopping.
///
/// A stop that is raised takes a SIGCONT that waits with it, and the other way round. So SIGCONT
/// goes to a handler meanwhile, and the child is asked whether it goes on. One that comes to this
/// process alone in the very microseconds in which the stop is raised is lost all the same.
pub(crate) fn stop_with(child: i32, signal: Signal) -> io::Result<bool> {
    static IS_CONTINUED: AtomicBool = AtomicBool::new(false);
    extern "C" fn note(_: c_int) {
        IS_CONTINUED.store(true, Ordering::Relaxed);
    }
    // The kernel drops its stops.
    if is_first_process() {
        return Ok(false);
    }
    let [stop, cont] = [signal, Signal::SIGCONT].map(|signal| {
        let mut only = SigSet::empty();
        only.add(signal);
        only
    });
    IS_CONTINUED.store(false, Ordering::Relaxed);
    let handler = SigAction::new(
        SigHandler::Handler(note),
        SaFlags::SA_RESTART,
        SigSet::all(),
    );
    // It stays: to have none again would take a SIGCONT away that waits.
    // SAFETY: the handler stores into an atomic, which it may.
    unsafe { sigaction(Signal::SIGCONT, &handler) }?;
    cont.thread_unblock()?;
    if !IS_CONTINUED.load(Ordering::Relaxed) {
        // First raised, then unblocked: a second one that the terminal has sent meanwhile
        // becomes one with it, since a continue discards every pending stop.
        raise(signal)?;
        if IS_CONTINUED.load(Ordering::Relaxed) || is_continued(child) {
            take_pending(&stop);
            IS_CONTINUED.store(true, Ordering::Relaxed);
        } else {
            stop.thread_unblock()?;
            stop.thread_block()?;
        }
    }
    cont.thread_block()?;
    Ok(IS_CONTINUED.load(Ordering::Relaxed))
}

/// Whether a child has been continued since it was last asked that.
fn is_continued(child: i32) -> bool {
    let flags = libc::WCONTINUED | libc::WNOHANG;
    let mut found = MaybeUninit::<libc::siginfo_t>::zeroed();
    // SAFETY: `found` is live, writable, and valid as zeroes, which mean that there is no news.
    unsafe {
        libc::waitid(
            libc::P_PID,
            child.cast_unsigned(),
            found.as_mut_ptr(),
            flags,
        ) == 0
            && found.assume_init().si_pid() == child
    }
}

/// Takes a blocked signal that waits, if one does.
fn take_pending(signals: &SigSet) {
    let at_once = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: both are live for the call, and nothing is asked to be written.
    let _ = unsafe { libc::sigtimedwait(signals.as_ref(), ptr::null_mut(), &at_once) };
}

/// Has this process ended by signals that the kernel would drop: a namespace's first process
/// gets only what it has a handler for. What it ignores, it goes on to ignore.
pub(crate) fn end_by(signals: &[i32]) -> io::Result<()> {
    extern "C" fn end(signal: c_int) {
        // SAFETY: _exit may be called in a handler, also in a child that has not executed its
        // command yet.
        unsafe { libc::_exit(128 + signal) }
    }
    for &signal in signals.iter().filter(|&&signal| !is_ignored(signal)) {
        let handler: extern "C" fn(c_int) = end;
        // SAFETY: the handler takes what handlers are called with, and does what they may.
        if unsafe { libc::signal(signal, handler as libc::sighandler_t) } == libc::SIG_ERR {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Whether this is the first process of a container: every orphan there is its child, and the
/// kernel drops the signals for which it has no handler.
pub(crate) fn is_first_process() -> bool {
    std::process::id() == 1
}

/// Reaps the children of this process that have ended, but for one.
pub(crate) fn reap_all_but(command: i32) {
    /// Whoever starts more of them than that meanwhile does not get to hold this one up.
    const MOST: u32 = 1000;
    for _ in 0..MOST {
        let mut found = MaybeUninit::<libc::siginfo_t>::zeroed();
        let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
        // SAFETY: `found` is live, writable, and valid as zeroes.
        let pid = unsafe {
            match libc::waitid(libc::P_ALL, 0, found.as_mut_ptr(), flags) {
                0 => found.assume_init().si_pid(),
                _ => return,
            }
        };
        if pid == 0 || pid == command || child_change(pid, false).is_err() {
            return;
        }
    }
}

/// Makes this process the parent of those of its descendants that lose theirs.
pub(crate) fn adopt_orphans() -> io::Result<()> {
    // SAFETY: prctl with these arguments touches no memory.
    match unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Sends a signal by number, with the value that sigqueue(3) attached to it, if any.
pub(crate) fn send_signal(pid: i32, signal: i32, value: Option<u64>) -> io::Result<()> {
    let sent = match value {
        // SAFETY: kill takes two integers.
        None => unsafe { libc::kill(pid, signal) },
        Some(value) => {
            let value = libc::sigval {
                sival_ptr: ptr::without_provenance_mut(value as usize),
            };
            // SAFETY: the kernel copies the value and never follows it.
            unsafe { libc::sigqueue(pid, signal, value) }
        }
    };
    if sent == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// What has happened to a child since one last asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Nothing,
    /// It was stopped by this signal.
    Stopped(i32),
    /// It exited with this code.
    Exited(u8),
    /// This signal ended it.
    Killed(i32),
}

/// Asks after one child, never after any other that this process may have inherited
/// through exec. With `block`, waits for its end.
pub(crate) fn child_change(pid: i32, block: bool) -> io::Result<Change> {
    let flags = if block {
        0
    } else {
        libc::WNOHANG | libc::WUNTRACED
    };
    let mut status = 0;
    loop {
        // SAFETY: `status` is a live, writable int.
        match unsafe { libc::waitpid(pid, &raw mut status, flags) } {
            0 => return Ok(Change::Nothing),
            -1 => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
            _ => return Ok(decode(status)),
        }
    }
}

fn decode(status: i32) -> Change {
    if libc::WIFSTOPPED(status) {
        Change::Stopped(libc::WSTOPSIG(status))
    } else if libc::WIFSIGNALED(status) {
        Change::Killed(libc::WTERMSIG(status))
    } else {
        // WEXITSTATUS has eight bits.
        Change::Exited(libc::WEXITSTATUS(status) as u8)
    }
}

/// Words that this process shares with those that it forks later. They begin as zeroes,
/// at the beginning of a page.
pub(crate) struct SharedWords {
    words: NonNull<AtomicU64>,
    count: usize,
}

impl SharedWords {
    pub(crate) fn new(count: usize) -> io::Result<Self> {
        // SAFETY: a new mapping at an address of the kernel's choice disturbs nothing.
        let words = unsafe {
            libc::mmap(
                ptr::null_mut(),
                count * size_of::<AtomicU64>(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if words == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let words = NonNull::new(words.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { words, count })
    }
}

impl Deref for SharedWords {
    type Target = [AtomicU64];

    fn deref(&self) -> &[AtomicU64] {
        // SAFETY: mapped, so many and aligned, as long as `self` is there; atomics, whoever
        // else writes them.
        unsafe { slice::from_raw_parts(self.words.as_ptr(), self.count) }
    }
}

impl Drop for SharedWords {
    fn drop(&mut self) {
        // SAFETY: what `new` mapped, and every borrow of it has ended. It fails only for
        // an impossible range.
        unsafe { libc::munmap(self.words.as_ptr().cast(), size_of_val(&**self)) };
    }
}

/// Starts a process that runs `body`, exits with the code that it gives, and dies with this
/// one. Signals that are blocked here are blocked there. To be called before this process
/// has a second thread, so that the child is whole.
pub(crate) fn start_worker(body: impl FnOnce() -> u8) -> io::Result<i32> {
    // SAFETY: getpid has no preconditions.
    let parent = unsafe { libc::getpid() };
    // SAFETY: the child is a copy of a process with this thread alone, so that no lock in
    // it is held by a thread that it does not have.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => {
            // SAFETY: prctl with these arguments and getppid touch no memory.
            let is_tied = unsafe {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) == 0 && libc::getppid() == parent
            };
            let code = match is_tied {
                true => catch_unwind(AssertUnwindSafe(body)).unwrap_or(101),
                false => 125,
            };
            // SAFETY: ends the child without what the parent is to do at its own end.
            unsafe { libc::_exit(code.into()) }
        }
        pid => Ok(pid),
    }
}

/// Whether this kernel lets a process sleep on several futexes at once (Linux 5.16), or
/// what it answers instead.
pub(crate) fn probe_futex_waitv() -> Result<(), io::Error> {
    // SAFETY: no waiters are passed, so the kernel reads no memory; a kernel that has the
    // call refuses the empty list with EINVAL.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_futex_waitv,
            ptr::null::<c_void>(),
            0_u32,
            0_u32,
            ptr::null::<libc::timespec>(),
            libc::CLOCK_MONOTONIC,
        )
    };
    debug_assert_eq!(answer, -1);
    match io::Error::last_os_error() {
        error if error.raw_os_error() == Some(libc::EINVAL) => Ok(()),
        error => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::unistd::Pid;

    /// Also that the unwinder is linked, wherever it came from.
    #[test]
    fn a_worker_ends_with_its_code_or_that_of_a_panic() {
        let code = start_worker(|| 7).expect("a worker");
        assert_eq!(
            child_change(code, true).expect("its end"),
            Change::Exited(7)
        );
        let panic = start_worker(|| std::panic::resume_unwind(Box::new(()))).expect("a worker");
        assert_eq!(
            child_change(panic, true).expect("its end"),
            Change::Exited(101)
        );
    }

    /// A process that stops itself with all signals blocked, and ends with what came of it.
    fn start_stopping(before: impl FnOnce()) -> i32 {
        let stop = || {
            // Nobody stops who has no group that could be continued.
            nix::unistd::setpgid(Pid::from_raw(0), Pid::from_raw(0)).expect("a group");
            SigSet::all().thread_block().expect("blocked");
            before();
            u8::from(!stop_with(0, Signal::SIGTSTP).expect("a stop"))
        };
        start_worker(stop).expect("a worker")
    }

    /// What becomes of a worker next, its stop included; one of which nothing does is ended.
    fn next_change(pid: i32) -> Change {
        for _ in 0..10_000 {
            match child_change(pid, false).expect("a child") {
                Change::Nothing => std::thread::sleep(std::time::Duration::from_millis(1)),
                change => return change,
            }
        }
        send_signal(pid, libc::SIGKILL, None).expect("a signal");
        panic!("nothing has become of it");
    }

    #[test]
    fn who_stops_is_told_that_it_was_continued() {
        let pid = start_stopping(|| ());
        assert_eq!(next_change(pid), Change::Stopped(libc::SIGTSTP));
        send_signal(pid, libc::SIGCONT, None).expect("a signal");
        assert_eq!(next_change(pid), Change::Exited(0));
    }

    /// The stop took it away, and the process, which nobody continued again, stayed as it was.
    #[test]
    fn a_continue_that_came_before_the_stop_is_not_lost() {
        let pid = start_stopping(|| raise(Signal::SIGCONT).expect("a signal"));
        let change = next_change(pid);
        if let Change::Stopped(_) = change {
            send_signal(pid, libc::SIGKILL, None).expect("a signal");
        }
        assert_eq!(change, Change::Exited(0));
    }

    #[test]
    fn what_a_worker_writes_into_shared_words_is_seen_here() {
        let words = SharedWords::new(600).expect("memory");
        assert!(words.len() == 600 && words.iter().all(|word| word.load(Ordering::Relaxed) == 0));
        let pid = start_worker(|| {
            words[599].store(5, Ordering::Relaxed);
            0
        });
        child_change(pid.expect("a worker"), true).expect("its end");
        assert_eq!(words[599].load(Ordering::Relaxed), 5);
    }
}
