//! Signals to the wrapper: forwarded while its command runs, obeyed while it waits.

mod common;

use std::env;
use std::fs::{self, File};
use std::io::pipe;
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::Command;

use nix::sys::signal::Signal;

use common::{Running, Sandbox, skip, until};

#[test]
fn every_signal_that_ends_a_process_reaches_the_command() {
    let sandbox = Sandbox::new();
    // All but KILL and STOP, which nobody can catch; CHLD, URG, CONT and WINCH, which end
    // nobody; the terminal's stops; and 32 and 33, which the C library keeps for itself.
    let standard = (1..32).filter(|n| ![9, 17, 18, 19, 20, 21, 22, 23, 28].contains(n));
    for signal in standard.chain(34..=64) {
        // No core files: several of these write one.
        let mut holder = sandbox.hold_with(&[], "job", "ulimit -c 0; echo set; exec sleep 1000");
        assert_eq!(holder.wrapper.line(), "set");
        holder.wrapper.send_number(signal);
        let outcome = holder.wrapper.finish();
        assert_eq!(outcome.code(), 128 + signal, "signal {signal}: {outcome:?}");
        assert!(holder.command.is_gone());
    }
}

/// A job was ended by what its wrapper's own words had brought about, before it had begun or
/// when its lock was lost.
#[test]
fn what_comes_of_the_wrappers_own_writing_is_not_passed_on() {
    let script = "trap 'told=yes' TERM; echo ready
        until [ \"$told\" ]; do sleep 0.05; done; sleep 0.3; echo ran";
    for is_too_long in [false, true] {
        let sandbox = Sandbox::new();
        sandbox.abandon("job");
        let (limit, stderr): (_, OwnedFd) = match is_too_long {
            true => ("0", tempfile::tempfile().expect("a file").into()),
            // A pipe without a reader.
            false => ("unlimited", pipe().expect("a pipe").1.into()),
        };
        let shell = "ulimit -f $0; exec \"$@\"";
        let mut command = sandbox.command("bash");
        command.args(["-c", shell, limit, common::CASLOCK, "run", "job", "--"]);
        command.args(["sh", "-c", script]).stderr(stderr);
        let mut wrapper = sandbox.start(command);
        assert_eq!(wrapper.next_line().as_deref(), Some("ready"));
        sandbox.take("job");
        assert_eq!(wrapper.next_line().as_deref(), Some("ran"));
        assert_eq!(wrapper.wait().code(), Some(120));
    }
}

#[test]
fn signals_that_end_nobody_are_forwarded_as_well() {
    let sandbox = Sandbox::new();
    let script = "for s in URG WINCH CONT TSTP TTIN TTOU USR1; do trap \"echo $s\" $s; done
        echo ready; while :; do read -t 0.05 x; done";
    let mut command = sandbox.caslock(&["run", "job", "--", "bash", "-c", script]);
    let stdin = std::process::Stdio::piped(); // never written: `read -t` is bash's own sleep
    command.process_group(0).stdin(stdin);
    let mut wrapper = sandbox.start(command);
    assert_eq!(wrapper.line(), "ready");
    for signal in ["URG", "WINCH", "CONT", "TSTP", "TTIN", "TTOU", "USR1"] {
        let number = format!("SIG{signal}").parse::<Signal>().expect("a signal");
        wrapper.send(number);
        assert_eq!(wrapper.line(), signal);
    }
    wrapper.send(Signal::SIGTERM);
    assert_eq!(wrapper.wait().code(), Some(128 + 15));
}

#[test]
fn a_sigchld_that_somebody_sent_is_told_from_the_kernels() {
    let sandbox = Sandbox::new();
    let block = ["--block-signal=CHLD", "sh", "-c", "exit 0"];
    let supported = sandbox.command("env").args(block).status();
    if !supported.is_ok_and(|status| status.success()) {
        skip("env(1) here has no --block-signal");
        return;
    }
    let script = "exec env --block-signal=CHLD sleep 1000";
    let holder = sandbox.hold_with(&[], "job", script);
    let pending = || {
        let path = format!("/proc/{}/status", holder.command.pid);
        let status = fs::read_to_string(path).expect("its status");
        let set = |field| {
            let line = status.lines().find_map(|line| line.strip_prefix(field));
            u64::from_str_radix(line.expect(field).trim(), 16).expect(field)
        };
        (set("SigBlk:"), set("ShdPnd:"))
    };
    let bit = 1 << (Signal::SIGCHLD as i32 - 1);
    until("the command has blocked it", || pending().0 & bit != 0);
    assert_eq!(pending().1, 0);
    holder.wrapper.send(Signal::SIGCHLD);
    until("it is pending for the command", || pending().1 == bit);
}

/// Names the role of this program when it is run as a wrapper's command.
const ROLE: &str = "CASLOCK_TEST_COMMAND";

/// A real-time signal, which is queued as often as it is sent.
const QUEUED: i32 = 34;

/// The command of the test below: prints the value of each queued signal. Its first signals
/// may come before it waits for them: it has been started with them blocked.
#[test]
fn command_role() {
    if env::var_os(ROLE).is_none() {
        return;
    }
    // In a line of its own, whatever the test harness has written.
    println!("\nready");
    let queued = only(QUEUED);
    loop {
        // SAFETY: all zeroes is a valid value of it.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        // SAFETY: both point to live values of their types.
        let signal = unsafe { libc::sigwaitinfo(&raw const queued, &raw mut info) };
        // SAFETY: a queued signal has a value, and any other has a zero there.
        let value = unsafe { info.si_value() }.sival_ptr as usize;
        println!("{signal} {value:#x} {}", info.si_code == libc::SI_QUEUE);
    }
}

/// The set with this signal in it.
fn only(signal: i32) -> libc::sigset_t {
    // SAFETY: all zeroes is a valid value of it, and it outlives both calls.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, signal);
        set
    }
}

/// They were sent one by one, each after the last had arrived, so that none was ever queued.
#[test]
fn queued_real_time_signals_all_arrive_in_their_order_with_their_values() {
    let sandbox = Sandbox::new();
    let this = env::current_exe().expect("this program");
    let this = this.to_str().expect("a UTF-8 path");
    let role = ["command_role", "--exact", "--nocapture"];
    let mut command = sandbox.caslock(&[&["run", "job", "--", this][..], &role].concat());
    command.env(ROLE, "1");
    let blocked = only(QUEUED);
    // SAFETY: changes the mask of the one thread that is to execute the program.
    unsafe {
        command.pre_exec(move || {
            libc::sigprocmask(libc::SIG_BLOCK, &raw const blocked, std::ptr::null_mut());
            Ok(())
        });
    }
    let mut wrapper = sandbox.start(command);
    while wrapper.line() != "ready" {}
    // While it stands still, none of them can be passed on before the next is sent.
    wrapper.send(Signal::SIGSTOP);
    let identity = common::Identity::of(wrapper.pid());
    until("the wrapper is stopped", || identity.is_stopped());
    let values = [0x1000_0001_usize, 7, 0, usize::MAX, 5];
    for value in values {
        let value = libc::sigval {
            sival_ptr: std::ptr::without_provenance_mut(value),
        };
        // SAFETY: the kernel copies the value and never follows it.
        let sent = unsafe { libc::sigqueue(wrapper.pid() as i32, QUEUED, value) };
        assert_eq!(sent, 0, "{}", std::io::Error::last_os_error());
    }
    wrapper.send(Signal::SIGCONT);
    for value in values {
        assert_eq!(wrapper.line(), format!("{QUEUED} {value:#x} true"));
    }
    wrapper.send(Signal::SIGTERM);
    assert_eq!(wrapper.wait().code(), Some(128 + 15));
}

#[test]
fn a_stop_stops_both_and_a_continue_continues_both() {
    let sandbox = Sandbox::new();
    let mut holder = sandbox.hold("job");
    let wrapper = common::Identity::of(holder.wrapper.pid());
    for signal in [Signal::SIGTSTP, Signal::SIGTTIN, Signal::SIGTTOU] {
        holder.wrapper.send(signal);
        until("both are stopped", || {
            holder.command.is_stopped() && wrapper.is_stopped()
        });
        holder.wrapper.send(Signal::SIGCONT);
        until("both go on", || {
            !holder.command.is_stopped() && !wrapper.is_stopped()
        });
    }
    assert_eq!(sandbox.slot("job")["state"], "held");
    holder.wrapper.send(Signal::SIGINT);
    assert_eq!(holder.wrapper.wait().code(), Some(128 + 2));
}

/// The wrapper went on, as if the command were to be ended, and the shell saw no job stop.
#[test]
fn a_command_that_goes_on_without_its_lock_is_stopped_as_before() {
    let sandbox = Sandbox::new();
    let told = sandbox.path().join("told");
    let script = "echo $$; exec sleep 1000";
    let mut command =
        sandbox.caslock(&["run", "--on-lost", "none", "job", "--", "sh", "-c", script]);
    // A group that nobody could continue is not stopped.
    command.process_group(0);
    command.stderr(File::create(&told).expect("a file"));
    let mut holder = Running::of(sandbox.start(command));
    let wrapper = common::Identity::of(holder.wrapper.pid());
    sandbox.take("job");
    let is_told = || {
        fs::read_to_string(&told)
            .expect("the file")
            .contains("runs on without it")
    };
    until("it has been told", is_told);
    holder.wrapper.send(Signal::SIGTSTP);
    until("both are stopped", || {
        holder.command.is_stopped() && wrapper.is_stopped()
    });
    holder.wrapper.send(Signal::SIGCONT);
    until("both go on", || {
        !holder.command.is_stopped() && !wrapper.is_stopped()
    });
    holder.wrapper.send(Signal::SIGTERM);
    assert_eq!(holder.wrapper.wait().code(), Some(120));
}

/// Ctrl-Z, and `fg` after the lease: the command is told before it goes on, not a little later.
#[test]
fn a_job_that_was_stopped_past_its_lease_does_not_go_on() {
    let sandbox = Sandbox::new();
    sandbox.ok(&["create", "--lease", "1", "test.table"]);
    let script = "while :; do echo >> written; done";
    let mut holder = sandbox.hold_with(&[], "job", script);
    let wrapper = common::Identity::of(holder.wrapper.pid());
    let written = sandbox.path().join("written");
    until("it writes", || written.exists());
    holder.wrapper.send(Signal::SIGTSTP);
    until("both are stopped", || {
        holder.command.is_stopped() && wrapper.is_stopped()
    });
    let length = || fs::metadata(&written).expect("the file").len();
    let before = length();
    sandbox.ok(&["run", "job", "--", "true"]);
    holder.wrapper.send(Signal::SIGCONT);
    assert_eq!(holder.wrapper.wait().code(), Some(120));
    assert!(holder.command.is_gone());
    assert_eq!(length(), before);
}

/// A command that is stopped by SIGSTOP alone is not part of job control. If the wrapper
/// stopped as well, its heartbeat would, too, and a continue that is sent to the command
/// alone would let it run with a lock that has expired.
#[test]
fn a_command_stopped_from_outside_does_not_stop_the_heartbeat() {
    let sandbox = Sandbox::new();
    sandbox.ok(&["create", "--lease", "1", "test.table"]);
    let mut holder = sandbox.hold("job");
    holder.command.send(Signal::SIGSTOP);
    until("it is stopped", || holder.command.is_stopped());
    // Two leases of waiting in vain.
    let other = sandbox.run(&["run", "-w", "2", "job", "--", "true"]);
    assert_eq!(other.code(), 124, "{other:?}");
    holder.command.send(Signal::SIGCONT);
    holder.wrapper.send(Signal::SIGTERM);
    assert_eq!(holder.wrapper.wait().code(), Some(128 + 15));
}

/// A process that stands still at its system calls, for this thread to see what they answer.
#[cfg(target_env = "gnu")]
struct Traced(libc::pid_t);

#[cfg(target_env = "gnu")]
impl Traced {
    /// Stops it; None where that is not allowed.
    fn seize(pid: u32) -> Option<Self> {
        let traced = Self(pid as libc::pid_t);
        let options = libc::PTRACE_O_TRACESYSGOOD as usize;
        if traced.request(libc::PTRACE_SEIZE, 0, options) != 0 {
            return None;
        }
        assert_eq!(traced.request(libc::PTRACE_INTERRUPT, 0, 0), 0);
        traced.wait();
        Some(traced)
    }

    /// Until it has stopped.
    fn wait(&self) {
        let mut status = 0;
        // SAFETY: `status` is a live, writable int.
        let stopped = unsafe { libc::waitpid(self.0, &raw mut status, libc::__WALL) };
        assert!(stopped == self.0 && libc::WIFSTOPPED(status), "{status}");
    }

    fn request(&self, request: libc::c_uint, address: usize, data: usize) -> libc::c_long {
        // SAFETY: what is written goes to `data`, which then is a live value of that length.
        unsafe { libc::ptrace(request, self.0, address, data) }
    }

    /// Lets it go on until a system call has answered this.
    fn run_until_answer(&self, wanted: i64) {
        while self.answer() != Some(wanted) {
            assert_eq!(self.request(libc::PTRACE_SYSCALL, 0, 0), 0);
            self.wait();
        }
    }

    fn answer(&self) -> Option<i64> {
        // SAFETY: all zeroes is a valid value of it.
        let mut info: libc::ptrace_syscall_info = unsafe { std::mem::zeroed() };
        let asked = libc::PTRACE_GET_SYSCALL_INFO;
        self.request(
            asked,
            size_of_val(&info),
            (&raw mut info).expose_provenance(),
        );
        // SAFETY: whatever the kernel has written, or not, is a number.
        let answer = unsafe { info.u.exit.sval };
        (info.op == libc::PTRACE_SYSCALL_INFO_EXIT).then_some(answer)
    }
}

#[cfg(target_env = "gnu")]
impl Drop for Traced {
    fn drop(&mut self) {
        self.request(libc::PTRACE_DETACH, 0, 0);
    }
}

/// The news of its end was read with that of its stop, and dropped, and then waited for.
#[cfg(target_env = "gnu")]
#[test]
fn a_command_that_is_killed_just_as_it_stops_is_not_waited_for_in_vain() {
    let sandbox = Sandbox::new();
    // So short that the keeper is there from the start, and nothing else ends the wait.
    sandbox.ok(&["create", "--lease", "1", "test.table"]);
    let mut holder = sandbox.hold("job");
    let Some(wrapper) = Traced::seize(holder.wrapper.pid()) else {
        skip("ptrace(2) is not allowed");
        return;
    };
    holder.command.send(Signal::SIGSTOP);
    wrapper.run_until_answer(holder.command.pid.into()); // of waitpid(2)
    holder.command.send(Signal::SIGKILL);
    until("the command has ended", || holder.command.has_ended());
    drop(wrapper);
    assert_eq!(holder.wrapper.wait().code(), Some(128 + 9));
}

#[test]
fn a_waiter_is_ended_by_the_signal_itself_and_leaves_nothing_behind() {
    let sandbox = Sandbox::new();
    let mut holder = sandbox.hold("job");
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let waiter = sandbox.start(sandbox.caslock(&["run", "job", "--", "echo", "ran"]));
        until("it waits", || sandbox.slot("job")["waiters"] == 1);
        waiter.send(signal);
        let outcome = waiter.finish();
        assert_eq!(outcome.status.signal(), Some(signal as i32), "{outcome:?}");
        assert_eq!(outcome.stdout, "");
        until("nobody waits", || sandbox.slot("job")["waiters"] == 0);
    }
    holder.wrapper.send(Signal::SIGTERM);
    holder.wrapper.wait();
    let previous = sandbox.ok(&["run", "job", "--", "printenv", "CASLOCK_PREVIOUS"]);
    assert_eq!(previous, "released\n");
}

/// A command of `caslock` as the first process of a PID namespace; None where that may not be.
fn as_first_process(sandbox: &Sandbox, args: &[&str]) -> Option<Command> {
    let unshare = |program: &str| {
        let mut command = sandbox.command("unshare");
        command.args(["--pid", "--fork", "--kill-child", "--mount-proc", program]);
        command
    };
    if !sandbox.start(unshare("true")).finish().status.success() {
        skip("PID namespaces take CAP_SYS_ADMIN");
        return None;
    }
    let mut command = unshare(common::CASLOCK);
    command.args(args);
    Some(command)
}

/// The kernel drops what such a process has no handler for: it had to be killed.
#[test]
fn a_waiter_that_is_the_first_process_of_a_container_is_ended_by_signals_too() {
    let sandbox = Sandbox::new();
    let _holder = sandbox.hold("job");
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let Some(command) = as_first_process(&sandbox, &["run", "job", "--", "echo", "ran"]) else {
            return;
        };
        let outside = sandbox.start(command);
        until("it waits", || sandbox.slot("job")["waiters"] == 1);
        let children = format!("/proc/{0}/task/{0}/children", outside.pid());
        let first = fs::read_to_string(children).expect("its child");
        common::Identity::of(first.trim().parse().expect("one process id")).send(signal);
        let outcome = outside.finish();
        assert_eq!(outcome.code(), 128 + signal as i32, "{outcome:?}");
        assert_eq!(outcome.stdout, "");
        until("nobody waits", || sandbox.slot("job")["waiters"] == 0);
    }
}

#[test]
fn the_first_process_of_a_container_reaps_orphans_while_its_command_runs() {
    let sandbox = Sandbox::new();
    let script = "orphan=$(sh -c 'sleep 0.1 >&2 & echo $!')
        while [ -e /proc/$orphan ]; do sleep 0.05; done; echo reaped; exit 7";
    let args = ["run", "job", "--", "sh", "-c", script];
    let Some(command) = as_first_process(&sandbox, &args) else {
        return;
    };
    let outcome = sandbox.start(command).finish();
    assert_eq!((outcome.code(), &*outcome.stdout), (7, "reaped\n"));
}

/// And when it has ended, and what it has started is being seen to its end.
#[test]
fn the_first_process_of_a_container_reaps_the_orphans_of_what_is_left_too() {
    let sandbox = Sandbox::new();
    let script = "(trap '' TERM; while kill -0 $$; do sleep 0.05; done 2>&-
        orphan=$(sh -c 'sleep 0.1 >&2 & echo $!')
        while [ -e /proc/$orphan ]; do sleep 0.05; done; echo reaped) & echo up; wait";
    let args = [
        "run",
        "--kill-after",
        "1000",
        "job",
        "--",
        "sh",
        "-c",
        script,
    ];
    let Some(command) = as_first_process(&sandbox, &args) else {
        return;
    };
    let mut wrapper = sandbox.start(command);
    assert_eq!(wrapper.line(), "up");
    sandbox.take("job");
    let outcome = wrapper.finish();
    assert_eq!((outcome.code(), &*outcome.stdout), (120, "reaped\n"));
}

#[test]
fn the_wrapper_takes_no_other_child_for_its_command() {
    let sandbox = Sandbox::new();
    // The shell starts a job, then becomes the wrapper: that job is now the wrapper's child.
    let script = format!(
        "(sleep 0.2; exit 9) & exec {} run job -- sh -c 'echo $$; exec sleep 1000'",
        common::CASLOCK
    );
    let mut command = sandbox.command("sh");
    command.args(["-c", &script]);
    let mut running = common::Running::of(sandbox.start(command));
    // The stranger ends; the wrapper neither takes its end for that of its command nor
    // reaps it, so it stays a zombie.
    let stranger = || {
        let path = format!("/proc/{0}/task/{0}/children", running.wrapper.pid());
        let children = fs::read_to_string(path).unwrap_or_default();
        let pids = children.split_whitespace().map(|pid| pid.parse::<u32>());
        pids.flatten().find(|&pid| pid != running.command.pid)
    };
    until("the stranger is a zombie", || {
        stranger()
            .and_then(common::Stat::read)
            .is_some_and(|stat| stat.state == 'Z')
    });
    assert_eq!(sandbox.slot("job")["state"], "held");
    running.wrapper.send(Signal::SIGTERM);
    assert_eq!(running.wrapper.wait().code(), Some(128 + 15));
}
