//! The system calls that the tests make themselves: namespaces, forced process ids, fork,
//! exec, mounts and ptrace. All the unsafe code of the tests is in this file, but for the
//! locks that a puppet leaks for a while.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::ptr;

/// How a child differs from a plain one.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Isolation {
    /// Namespaces of its own (`CLONE_NEW*`).
    pub(crate) namespaces: i32,
    /// The process id that it must get.
    pub(crate) pid: Option<u32>,
    /// Its monotonic and boot clocks run ahead of ours by so many seconds.
    pub(crate) clock_shift_secs: Option<i64>,
}

impl Isolation {
    pub(crate) fn namespaces(namespaces: i32) -> Self {
        Self {
            namespaces,
            ..Self::default()
        }
    }
}

/// What a child is to execute, laid out before it exists: between fork and exec nothing
/// may allocate.
pub(crate) struct Program {
    path: CString,
    args: Vec<CString>,
    env: Vec<CString>,
}

impl Program {
    pub(crate) fn new(path: CString, args: Vec<CString>, env: Vec<CString>) -> Self {
        Self { path, args, env }
    }

    /// Starts it with `wire` as its standard input and its output thrown away. It dies
    /// with the thread that started it.
    pub(crate) fn start(&self, wire: BorrowedFd<'_>, how: Isolation) -> io::Result<u32> {
        let (argv, envp) = (pointers(&self.args), pointers(&self.env));
        let offsets = how
            .clock_shift_secs
            .map(|secs| format!("monotonic {secs} 0\nboottime {secs} 0\n"));
        let plain = how.namespaces == 0 && how.pid.is_none();
        // SAFETY: the child runs `become_program` only, which is async-signal-safe.
        let pid = unsafe {
            if plain {
                libc::fork().into()
            } else {
                clone3(how)
            }
        };
        match pid {
            0 => {
                // SAFETY: we are the forked child; both arrays end in a null pointer and
                // point into strings that this process has a copy of.
                unsafe {
                    become_program(
                        &self.path,
                        &argv,
                        &envp,
                        wire.as_raw_fd(),
                        offsets.as_deref(),
                    )
                }
            }
            -1 => Err(io::Error::last_os_error()),
            pid => Ok(u32::try_from(pid).expect("a process id")),
        }
    }
}

fn pointers(strings: &[CString]) -> Vec<*const libc::c_char> {
    let pointers = strings.iter().map(|s| s.as_ptr());
    pointers.chain([ptr::null()]).collect()
}

/// `clone3` as a fork, with what fork cannot say.
///
/// # Safety
/// As for `fork` in a process with threads: the child keeps to async-signal-safe calls.
unsafe fn clone3(how: Isolation) -> i64 {
    // SAFETY: all zeroes is a valid `clone_args`: it asks for nothing.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    let pids = [how.pid.unwrap_or(0).cast_signed()];
    args.flags = u64::from(how.namespaces.cast_unsigned());
    args.exit_signal = u64::from(libc::SIGCHLD.cast_unsigned());
    if how.pid.is_some() {
        args.set_tid = pids.as_ptr() as u64;
        args.set_tid_size = 1;
    }
    // SAFETY: `args` has the size that is passed, and `pids` outlives the call.
    unsafe {
        libc::syscall(
            libc::SYS_clone3,
            &raw mut args,
            size_of::<libc::clone_args>(),
        )
    }
}

/// The child's half of [`Program::start`].
///
/// # Safety
/// Only in a freshly forked child; `argv` and `envp` are null-terminated arrays of
/// valid strings.
unsafe fn become_program(
    path: &CStr,
    argv: &[*const libc::c_char],
    envp: &[*const libc::c_char],
    wire: i32,
    clock_offsets: Option<&str>,
) -> ! {
    // SAFETY: plain system calls on values that outlive them.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        if let Some(offsets) = clock_offsets {
            if libc::unshare(libc::CLONE_NEWTIME) != 0 {
                libc::_exit(126);
            }
            let file = libc::open(c"/proc/self/timens_offsets".as_ptr(), libc::O_WRONLY);
            if libc::write(file, offsets.as_ptr().cast(), offsets.len()) < 0 {
                libc::_exit(126);
            }
            libc::close(file);
        }
        libc::dup2(wire, 0);
        libc::dup2(libc::open(c"/dev/null".as_ptr(), libc::O_WRONLY), 1);
        libc::execve(path.as_ptr(), argv.as_ptr(), envp.as_ptr());
        libc::_exit(127)
    }
}

/// The wire of a child: its standard input, which no `close_range(3, ..)` reaches.
pub(crate) fn wire() -> UnixStream {
    // SAFETY: a child's descriptor 0 is one end of a socket pair and nothing else uses it.
    unsafe { UnixStream::from_raw_fd(0) }
}

/// Whether this process may make such namespaces.
pub(crate) fn may_unshare(namespaces: i32) -> bool {
    // SAFETY: the child makes two system calls and is gone.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        // SAFETY: both are async-signal-safe.
        unsafe { libc::_exit(i32::from(libc::unshare(namespaces) != 0)) }
    }
    let mut status = 0;
    // SAFETY: `status` is a valid place for the child's status.
    let waited = unsafe { libc::waitpid(pid, &raw mut status, 0) };
    waited == pid && status == 0
}

/// Forks this process. Both halves come back.
///
/// The child has only the calling thread. glibc keeps its allocator usable across a fork,
/// and these children use little more than that and the library.
pub(crate) fn fork() -> Option<u32> {
    // SAFETY: see above; the calling roles are the only thread that does any work.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "fork: {}", io::Error::last_os_error());
    (pid > 0).then(|| pid.cast_unsigned())
}

/// Ends the process without running anything on the way out.
pub(crate) fn leave(code: i32) -> ! {
    // SAFETY: ends the process.
    unsafe { libc::_exit(code) }
}

/// Closes every descriptor but the standard three.
pub(crate) fn close_from_three() {
    // SAFETY: the roles that call this own no descriptor above two that they use later.
    let rc = unsafe { libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, 0u32) };
    assert_eq!(rc, 0, "close_range: {}", io::Error::last_os_error());
}

/// Lets descriptor `fd` go through an exec, or not.
pub(crate) fn set_close_on_exec(fd: BorrowedFd<'_>, close: bool) {
    let flags = if close { libc::FD_CLOEXEC } else { 0 };
    // SAFETY: changes a flag of a descriptor that is open.
    let rc = unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFD, flags) };
    assert_eq!(rc, 0, "F_SETFD: {}", io::Error::last_os_error());
}

/// Ends the main thread and lets the others run on, as `pthread_exit` in `main` does.
pub(crate) fn end_main_thread() {
    extern "C" fn end_this_thread(_: libc::c_int) {
        // SAFETY: ends the calling thread alone; it holds nothing that others wait for.
        unsafe { libc::syscall(libc::SYS_exit, 0) };
    }
    let handler = end_this_thread as extern "C" fn(libc::c_int);
    // SAFETY: the handler makes one system call; the signal goes to the main thread only.
    unsafe {
        libc::signal(libc::SIGUSR1, handler as libc::sighandler_t);
        let pid = libc::getpid();
        assert_eq!(libc::syscall(libc::SYS_tgkill, pid, pid, libc::SIGUSR1), 0);
    }
}

/// From now on a SIGUSR1 interrupts whatever system call it meets, and does nothing else.
pub(crate) fn be_interruptible() {
    extern "C" fn do_nothing(_: libc::c_int) {}
    let handler = do_nothing as extern "C" fn(libc::c_int);
    // SAFETY: all zeroes is a valid `sigaction`: no flags, so no system call is restarted,
    // and nothing masked; the handler does nothing, which is always safe.
    let rc = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as libc::sighandler_t;
        libc::sigaction(libc::SIGUSR1, &raw const action, ptr::null_mut())
    };
    assert_eq!(rc, 0, "sigaction: {}", io::Error::last_os_error());
}

/// Gives up root for good, in every thread.
pub(crate) fn become_user(uid: u32) {
    // SAFETY: changes credentials only.
    unsafe {
        assert_eq!(libc::setgroups(0, ptr::null()), 0);
        assert_eq!(libc::setgid(uid), 0);
        assert_eq!(libc::setuid(uid), 0);
    }
}

pub(crate) fn effective_uid() -> u32 {
    // SAFETY: cannot fail.
    unsafe { libc::geteuid() }
}

/// The kernel's id of the calling thread.
pub(crate) fn thread_id() -> u32 {
    // SAFETY: cannot fail.
    unsafe { libc::gettid() }.cast_unsigned()
}

/// A system call that nothing else makes: it marks a place in a traced thread's life.
pub(crate) fn mark() {
    // SAFETY: cannot fail.
    unsafe { libc::syscall(libc::SYS_getppid) };
}

/// Stops the calling thread for its tracer; untraced, it dies of it.
#[cfg(target_arch = "x86_64")]
pub(crate) fn breakpoint() {
    // SAFETY: an instruction that touches neither memory nor registers.
    unsafe { std::arch::asm!("int3", options(nostack)) };
}

/// From now on children that end leave no zombie.
pub(crate) fn reap_automatically() {
    // SAFETY: no handler is installed.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
}

/// From now on the end of the thread that started this process is its own.
pub(crate) fn die_with_parent() {
    // SAFETY: changes an attribute of the calling process.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
}

/// Whether this kernel has [`forbid_clock_reads`]: not each does but on x86-64.
pub(crate) fn may_forbid_clock_reads() -> io::Result<()> {
    let mut mode = 0;
    // SAFETY: `mode` is a valid place for the answer.
    let rc = unsafe { libc::prctl(libc::PR_GET_TSC, &raw mut mode) };
    if rc == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// From now on a read of the counter that clocks go by is a SIGSEGV in this thread, so that
/// even a clock read that stays in the vDSO shows.
pub(crate) fn forbid_clock_reads(forbid: bool) {
    const PR_TSC_ENABLE: i32 = 1;
    const PR_TSC_SIGSEGV: i32 = 2;
    let mode = if forbid {
        PR_TSC_SIGSEGV
    } else {
        PR_TSC_ENABLE
    };
    // SAFETY: changes one flag of the calling thread.
    let rc = unsafe { libc::prctl(libc::PR_SET_TSC, mode) };
    assert_eq!(rc, 0, "PR_SET_TSC: {}", io::Error::last_os_error());
}

/// `bytes` of fresh memory, each page of it touched, until the process ends.
pub(crate) fn fill_memory(bytes: usize) {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE;
    let access = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new anonymous mapping at an address of the kernel's choice.
    let at = unsafe { libc::mmap(ptr::null_mut(), bytes, access, flags, -1, 0) };
    assert_ne!(at, libc::MAP_FAILED, "mmap: {}", io::Error::last_os_error());
}

/// Mounts a filesystem in the calling process's own mount namespace, and nowhere else.
pub(crate) fn mount_privately(kind: &CStr, target: &Path, options: &CStr) -> io::Result<()> {
    let target = CString::new(target.as_os_str().as_encoded_bytes())?;
    let private = libc::MS_REC | libc::MS_PRIVATE;
    let nothing = ptr::null();
    // SAFETY: all strings end in a NUL and outlive the calls.
    let rc = unsafe {
        libc::mount(nothing, c"/".as_ptr(), nothing, private, ptr::null())
            | libc::mount(
                kind.as_ptr(),
                target.as_ptr(),
                kind.as_ptr(),
                0,
                options.as_ptr().cast(),
            )
    };
    if rc == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Makes a FIFO.
pub(crate) fn make_fifo(path: &Path) {
    let path = CString::new(path.as_os_str().as_encoded_bytes()).expect("no NUL in a path");
    // SAFETY: the path ends in a NUL.
    let rc = unsafe { libc::mkfifo(path.as_ptr(), 0o600) };
    assert_eq!(rc, 0, "mkfifo: {}", io::Error::last_os_error());
}

/// Seconds of the monotonic clock, as this process's time namespace shows it.
pub(crate) fn monotonic_secs() -> i64 {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `now` is a valid place for the answer.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    now.tv_sec
}

/// Waits for a child's end. With `peek` it stays a zombie.
pub(crate) fn wait_for_end(pid: u32, peek: bool) -> io::Result<()> {
    let peek = if peek { libc::WNOWAIT } else { 0 };
    // SAFETY: all zeroes is a valid `siginfo_t`, and the kernel fills it.
    let rc = unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        libc::waitid(
            libc::P_PID,
            pid,
            &raw mut info,
            libc::WEXITED | libc::__WALL | peek,
        )
    };
    if rc == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Reaps a child: its exit code, unless a signal ended it.
pub(crate) fn exit_code(pid: u32) -> Option<i32> {
    let mut status = 0;
    // SAFETY: `status` is a valid place for the answer.
    let rc = unsafe { libc::waitpid(pid.cast_signed(), &raw mut status, 0) };
    assert!(rc >= 0, "waitpid: {}", io::Error::last_os_error());
    libc::WIFEXITED(status).then(|| libc::WEXITSTATUS(status))
}

/// The process that started this one.
pub(crate) fn parent_id() -> u32 {
    // SAFETY: cannot fail.
    unsafe { libc::getppid() }.cast_unsigned()
}

/// One ptrace request.
pub(crate) fn ptrace(request: u32, tid: u32, addr: usize, data: usize) -> io::Result<i64> {
    // SAFETY: the requests that the harness makes either carry numbers only or, like
    // PTRACE_GET_SYSCALL_INFO, the address of a buffer of the size that goes with it.
    let rc = unsafe { libc::ptrace(request, tid.cast_signed(), addr, data) };
    if rc < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(rc)
    }
}

/// The number of the system call that a thread stopped by ptrace is entering, if it is.
pub(crate) fn entered_syscall(tid: u32) -> io::Result<Option<i64>> {
    // SAFETY: all zeroes is a valid value of it.
    let mut info: libc::ptrace_syscall_info = unsafe { std::mem::zeroed() };
    let size = size_of::<libc::ptrace_syscall_info>();
    ptrace(
        libc::PTRACE_GET_SYSCALL_INFO,
        tid,
        size,
        (&raw mut info) as usize,
    )?;
    if info.op != libc::PTRACE_SYSCALL_INFO_ENTRY {
        return Ok(None);
    }
    // SAFETY: `op` says that `entry` is the member that was filled.
    Ok(Some(unsafe { info.u.entry.nr }.cast_signed()))
}

/// Waits for a traced thread to stop: the raw status, which `libc::WIF*` take apart.
pub(crate) fn wait_for_stop(tid: u32) -> io::Result<i32> {
    let mut status = 0;
    // SAFETY: `status` is a valid place for the answer.
    let rc = unsafe { libc::waitpid(tid.cast_signed(), &raw mut status, libc::__WALL) };
    if rc < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(status)
    }
}

/// What a thread stopped at the entry of a system call is about to call, with what.
pub(crate) fn syscall_entry(tid: u32) -> io::Result<Option<(i64, [u64; 6])>> {
    // SAFETY: all zeroes is a valid value of it.
    let mut info: libc::ptrace_syscall_info = unsafe { std::mem::zeroed() };
    let size = size_of::<libc::ptrace_syscall_info>();
    ptrace(
        libc::PTRACE_GET_SYSCALL_INFO,
        tid,
        size,
        (&raw mut info) as usize,
    )?;
    if info.op != libc::PTRACE_SYSCALL_INFO_ENTRY {
        return Ok(None);
    }
    // SAFETY: `op` says that `entry` is the member that was filled.
    let entry = unsafe { info.u.entry };
    Ok(Some((entry.nr.cast_signed(), entry.args)))
}

/// Of a thread that stands at the entry of a system call: has it call nothing at all.
#[cfg(target_arch = "x86_64")]
pub(crate) fn skip_syscall(tid: u32) -> io::Result<()> {
    with_registers(tid, |registers| registers.orig_rax = u64::MAX)
}

/// Of a thread that stands at the return of a system call: what the call returns.
#[cfg(target_arch = "x86_64")]
pub(crate) fn set_syscall_result(tid: u32, result: i64) -> io::Result<()> {
    with_registers(tid, |registers| registers.rax = result.cast_unsigned())
}

/// The number of the call is no register here, but a set of its own (`NT_ARM_SYSTEM_CALL`,
/// `include/uapi/linux/elf.h`).
#[cfg(target_arch = "aarch64")]
pub(crate) fn skip_syscall(tid: u32) -> io::Result<()> {
    const NUMBER: usize = 0x404;
    register_set(libc::PTRACE_SETREGSET, tid, NUMBER, &mut -1_i32)
}

/// Of a thread that stands at the return of a system call: what the call returns.
#[cfg(target_arch = "aarch64")]
pub(crate) fn set_syscall_result(tid: u32, result: i64) -> io::Result<()> {
    with_registers(tid, |registers| registers.regs[0] = result.cast_unsigned())
}

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
fn with_registers(tid: u32, change: impl Fn(&mut libc::user_regs_struct)) -> io::Result<()> {
    const GENERAL: usize = libc::NT_PRSTATUS as usize;
    // SAFETY: all zeroes is a valid value of it.
    let mut registers: libc::user_regs_struct = unsafe { std::mem::zeroed() };
    register_set(libc::PTRACE_GETREGSET, tid, GENERAL, &mut registers)?;
    change(&mut registers);
    register_set(libc::PTRACE_SETREGSET, tid, GENERAL, &mut registers)
}

/// Reads or writes a set of a traced thread's registers.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
fn register_set<T>(request: u32, tid: u32, set: usize, registers: &mut T) -> io::Result<()> {
    let mut place = libc::iovec {
        iov_base: ptr::from_mut(registers).cast(),
        iov_len: size_of::<T>(),
    };
    ptrace(request, tid, set, (&raw mut place) as usize).map(drop)
}

/// Waits until a traced thread of a child that this very thread has started stops or ends:
/// which, and its status. Without one left, `ECHILD`.
pub(crate) fn wait_for_any_stop() -> io::Result<(u32, i32)> {
    let mut status = 0;
    // SAFETY: `status` is a valid place for the answer.
    let tid = unsafe { libc::waitpid(-1, &raw mut status, libc::__WALL | libc::__WNOTHREAD) };
    if tid < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok((tid.cast_unsigned(), status))
    }
}
