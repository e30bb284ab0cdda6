//! The keeper thread: late for commands of a few milliseconds, there for all others.

mod common;

use std::fs;
use std::io;
use std::os::unix::process::CommandExt;
use std::ptr;

use nix::sys::signal::Signal;

use common::{Process, Running, Sandbox, until};

fn threads_of(pid: u32) -> u32 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("a process that runs");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("Threads:"));
    line.expect("a count").trim().parse().expect("a number")
}

#[test]
fn a_command_that_takes_its_time_gets_a_keeper_and_heartbeats() {
    let sandbox = Sandbox::new();
    let holder = sandbox.hold("job");
    let pid = holder.wrapper.pid();
    until("the keeper is there", || threads_of(pid) == 2);
    let age = || {
        sandbox.slot("job")["holder"]["heartbeat_age_ms"]
            .as_u64()
            .expect("an age")
    };
    let mut last = age();
    until("a heartbeat makes it younger", || {
        let before = std::mem::replace(&mut last, age());
        last < before
    });
}

#[test]
fn where_the_lease_is_short_the_keeper_is_there_before_the_command() {
    let sandbox = Sandbox::new();
    sandbox.ok(&["create", "--lease", "1", "test.table"]);
    let script = "exec grep Threads: /proc/$PPID/status";
    let out = sandbox.ok(&["run", "job", "--", "sh", "-c", script]);
    assert_eq!(out.split_whitespace().last(), Some("2"), "{out}");
}

#[test]
fn a_waiter_has_a_keeper_before_it_waits() {
    let sandbox = Sandbox::new();
    let _holder = sandbox.hold("job");
    let waiter = sandbox.start(sandbox.caslock(&["run", "job", "--", "true"]));
    until("it waits", || sandbox.slot("job")["waiters"] == 1);
    assert_eq!(threads_of(waiter.pid()), 2);
}

/// Within the first milliseconds the main thread's certificate and the byte lock stand for
/// the session: many wrappers are killed there, and nobody stays locked out.
#[test]
fn a_wrapper_that_is_killed_before_it_has_a_keeper_is_as_dead_as_any() {
    let sandbox = Sandbox::new();
    for _ in 0..20 {
        let mut holder = sandbox.hold("job");
        holder.wrapper.send(Signal::SIGKILL);
        let next = sandbox.run(&["run", "job", "--", "printenv", "CASLOCK_PREVIOUS"]);
        assert_eq!(next.code(), 0, "{next:?}");
        assert_eq!(next.stdout, "died\n");
        assert!(holder.command.is_gone());
        holder.wrapper.wait();
    }
}

/// The system calls that make a thread fail from now on; those that make a process do not.
fn refuse_threads() -> io::Result<()> {
    const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
    const EQUALS: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
    const HAS_BITS: u16 = (libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K) as u16;
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    /// Where the filter's input has a call's number, and the lower half of its first argument.
    const NUMBER: u32 = 0;
    const FLAGS: u32 = 16;
    let step = |code, k, jt, jf| libc::sock_filter { code, jt, jf, k };
    let fail = |errno: i32| step(RETURN, libc::SECCOMP_RET_ERRNO | errno as u32, 0, 0);
    let mut program = [
        step(LOAD, NUMBER, 0, 0),
        // Its flags lie in memory, where no filter can look; the C library then asks clone.
        step(EQUALS, libc::SYS_clone3 as u32, 0, 1),
        fail(libc::ENOSYS),
        step(EQUALS, libc::SYS_clone as u32, 0, 3),
        step(LOAD, FLAGS, 0, 0),
        step(HAS_BITS, libc::CLONE_THREAD as u32, 0, 1),
        fail(libc::EAGAIN),
        step(RETURN, libc::SECCOMP_RET_ALLOW, 0, 0),
    ];
    let filter = libc::sock_fprog {
        len: program.len() as u16,
        filter: program.as_mut_ptr(),
    };
    let mode = libc::SECCOMP_MODE_FILTER;
    // SAFETY: both calls change this process alone, and the filter lives across the second.
    let refused = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0
            || libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const filter) != 0
    };
    match refused {
        true => Err(io::Error::last_os_error()),
        false => Ok(()),
    }
}

/// `caslock run ARGS`, where no thread can be had.
fn start_alone(sandbox: &Sandbox, args: &[&str]) -> Process {
    let mut command = sandbox.caslock(&[&["run"], args].concat());
    // SAFETY: makes two system calls between fork and exec, and nothing else.
    unsafe { command.pre_exec(refuse_threads) };
    sandbox.start(command)
}

/// It is not silent for a lease then, as holder or after it has waited.
#[test]
fn where_no_keeper_can_be_had_a_job_that_outlasts_the_lease_keeps_its_lock() {
    let sandbox = Sandbox::new();
    sandbox.ok(&["create", "--lease", "2", "test.table"]);
    sandbox.ok(&["run", "job", "--", "true"]);
    let job = ["job", "--", "sh", "-c", "sleep 5; echo $CASLOCK_PREVIOUS"];
    let jobs = [0, 1].map(|_| start_alone(&sandbox, &job));
    until("one waits for the other", || {
        sandbox.slot("job")["waiters"] == 1
    });
    let last =
        sandbox.start(sandbox.caslock(&["run", "job", "--", "printenv", "CASLOCK_PREVIOUS"]));
    for job in &jobs {
        assert_eq!(threads_of(job.pid()), 1);
    }
    for outcome in jobs.into_iter().chain([last]).map(Process::finish) {
        assert_eq!(outcome.code(), 0, "{outcome:?}");
        assert_eq!(outcome.stdout, "released\n", "{outcome:?}");
    }
}

#[test]
fn where_no_keeper_can_be_had_a_wait_ends_on_time() {
    let sandbox = Sandbox::new();
    let _holder = sandbox.hold("job");
    for limit in ["0.1", "0.6", "1.4"] {
        let waiter = start_alone(&sandbox, &["-w", limit, "job", "--", "true"]);
        let outcome = waiter.finish();
        assert_eq!(outcome.code(), 124, "{outcome:?}");
        assert!(outcome.stderr.contains("timed out"), "{outcome:?}");
    }
}

/// Nobody else looks whether the table is there, and it was granted a lock of one that was not.
#[test]
fn where_no_keeper_can_be_had_a_waiter_notices_that_the_table_is_gone() {
    let sandbox = Sandbox::new();
    let holder = sandbox.hold("job");
    let waiter = start_alone(&sandbox, &["job", "--", "echo", "granted"]);
    until("it waits", || sandbox.slot("job")["waiters"] == 1);
    fs::remove_file(sandbox.table()).expect("it is there");
    let outcome = waiter.finish();
    assert_eq!((outcome.code(), &*outcome.stdout), (66, ""), "{outcome:?}");
    drop(holder);
}

#[test]
fn where_no_keeper_can_be_had_a_loss_is_noticed_all_the_same() {
    let sandbox = Sandbox::new();
    let job = ["job", "--", "sh", "-c", "echo $$; exec sleep 1000"];
    let holder = Running::of(start_alone(&sandbox, &job));
    let token = sandbox.token("job").to_string();
    // Time for a keeper, and for some attempts at it.
    std::thread::sleep(std::time::Duration::from_millis(200));
    assert_eq!(threads_of(holder.wrapper.pid()), 1);
    sandbox.ok(&["force-release", "job", "--token", &token, "--even-if-alive"]);
    let outcome = holder.wrapper.finish();
    assert_eq!(outcome.code(), 120, "{outcome:?}");
    assert!(outcome.stderr.contains("lost \"job\""), "{outcome:?}");
    assert!(holder.command.is_gone());
}

/// Has this process get no more than half a thread's stack of memory.
fn limit_memory(pid: u32) {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("its status");
    let size = status.lines().find_map(|line| line.strip_prefix("VmSize:"));
    let kib = size.and_then(|size| size.trim().strip_suffix(" kB"));
    let kib: u64 = kib.expect("its size").parse().expect("a number");
    let most = libc::rlimit {
        rlim_cur: (kib + 1024) * 1024,
        rlim_max: (kib + 1024) * 1024,
    };
    let pid = i32::try_from(pid).expect("a PID");
    // SAFETY: `most` is live for the call, and nothing is asked to be written.
    let refused = unsafe { libc::prlimit(pid, libc::RLIMIT_AS, &raw const most, ptr::null_mut()) };
    assert_eq!(refused, 0, "{}", io::Error::last_os_error());
}

/// The keeper tells of a loss by a thread of its own. Where it could have none, the command ran on
/// without its lock, to its end.
#[test]
fn where_no_further_thread_can_be_had_a_loss_is_noticed_all_the_same() {
    let sandbox = Sandbox::new();
    let holder = sandbox.hold("job");
    until("it has a keeper", || threads_of(holder.wrapper.pid()) == 2);
    limit_memory(holder.wrapper.pid());
    sandbox.take("job");
    let outcome = holder.wrapper.finish();
    assert_eq!(outcome.code(), 120, "{outcome:?}");
    assert!(outcome.stderr.contains("lost \"job\""), "{outcome:?}");
    assert!(outcome.stderr.contains("sending SIGTERM"), "{outcome:?}");
    assert!(holder.command.is_gone());
}
