//! Child processes: the test binary again, playing a role, on a wire to the test.
//!
//! A child runs the test named `child_role` of its own binary, which is nothing without the
//! variable that names the role. Its standard input is one end of a socket pair: a line for
//! each command, a line for each answer. It ends when the wire does, and it is killed with
//! the thread that started it, so that no failing test leaves a process behind.

use std::env;
use std::ffi::CString;
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Mutex;
use std::time::Duration;

use nix::sys::signal::{self, Signal};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

use super::sys::{self, Isolation, Program};
use super::{state, wait_until};

const ROLE: &str = "CASLOCK_TEST_ROLE";

/// What the roles of a test binary are called, and what they do.
pub(crate) type Role = (&'static str, fn(&mut Boss));

/// Plays the role that the environment names, if it names one, and ends the process.
pub(crate) fn dispatch(roles: &[Role]) {
    let Ok(name) = env::var(ROLE) else { return };
    let (_, play) = roles
        .iter()
        .find(|(role, _)| *role == name)
        .expect("a role of this binary");
    let mut boss = Boss::new();
    let played = panic::catch_unwind(AssertUnwindSafe(|| play(&mut boss)));
    sys::leave(if played.is_ok() { 0 } else { 101 });
}

/// The child's end of the wire.
pub(crate) struct Boss {
    wire: BufReader<UnixStream>,
}

impl Boss {
    fn new() -> Self {
        Self {
            wire: BufReader::new(sys::wire()),
        }
    }

    /// Waits for a command; ends the process once nobody will send another.
    pub(crate) fn hear(&mut self) -> String {
        let mut line = String::new();
        match self.wire.read_line(&mut line) {
            Ok(1..) => line.trim_end_matches('\n').to_owned(),
            _ => sys::leave(0),
        }
    }

    pub(crate) fn say(&mut self, line: impl std::fmt::Display) {
        if self
            .wire
            .get_mut()
            .write_all(format!("{line}\n").as_bytes())
            .is_err()
        {
            sys::leave(0);
        }
    }
}

/// The children that run, for the watchdog.
static RUNNING: Mutex<Vec<u32>> = Mutex::new(Vec::new());

/// Kills every child that has not been reaped.
pub(crate) fn kill_all() {
    if let Ok(running) = RUNNING.lock() {
        for &pid in &*running {
            let _ = signal::kill(nix_pid(pid), Signal::SIGKILL);
        }
    }
}

fn nix_pid(pid: u32) -> Pid {
    Pid::from_raw(pid.cast_signed())
}

/// A child, killed and reaped when dropped.
pub(crate) struct Child {
    pid: u32,
    role: String,
    wire: BufReader<UnixStream>,
    reaped: bool,
}

impl Child {
    pub(crate) fn start(role: &str) -> Self {
        Self::start_in(role, Isolation::default()).expect("a child process")
    }

    /// Starts a child that plays `role`, in namespaces or with a process id of its own.
    pub(crate) fn start_in(role: &str, how: Isolation) -> io::Result<Self> {
        let (ours, theirs) = UnixStream::pair()?;
        let exe = env::current_exe()?;
        let exe = CString::new(exe.as_os_str().as_bytes())?;
        let args = ["child_role", "--exact", "--nocapture", "--test-threads=1"];
        let args = args.map(|arg| CString::new(arg).expect("no NUL"));
        let env = env::vars_os().map(|(key, value)| [key.as_bytes(), value.as_bytes()].join(&b'='));
        let env = env.chain([format!("{ROLE}={role}").into_bytes()]);
        let env = env.map(|pair| CString::new(pair).expect("no NUL"));
        let argv = [exe.clone()].into_iter().chain(args).collect();
        let pid = Program::new(exe, argv, env.collect()).start(theirs.as_fd(), how)?;
        RUNNING.lock().expect("no panic holds it").push(pid);
        // A child that hangs is the watchdog's business, this only names it.
        ours.set_read_timeout(Some(Duration::from_secs(150)))?;
        Ok(Self {
            pid,
            role: role.to_owned(),
            wire: BufReader::new(ours),
            reaped: false,
        })
    }

    /// Its process id, as this process sees it.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    pub(crate) fn say(&mut self, line: impl std::fmt::Display) {
        let line = format!("{line}\n");
        let said = self.wire.get_mut().write_all(line.as_bytes());
        assert!(said.is_ok(), "{} (process {}) is gone", self.role, self.pid);
    }

    /// Its next answer.
    pub(crate) fn hear(&mut self) -> String {
        let mut line = String::new();
        match self.wire.read_line(&mut line) {
            Ok(1..) => line.trim_end_matches('\n').to_owned(),
            Ok(0) => panic!("{} (process {}) hung up", self.role, self.pid),
            Err(e) => panic!("{} (process {}) is silent: {e}", self.role, self.pid),
        }
    }

    pub(crate) fn ask(&mut self, line: impl std::fmt::Display) -> String {
        self.say(line);
        self.hear()
    }

    /// Whether an answer comes within this time; it stays to be heard.
    pub(crate) fn answers_within(&mut self, time: Duration) -> bool {
        let limit = self.wire.get_ref().read_timeout().expect("a timeout");
        self.wire
            .get_ref()
            .set_read_timeout(Some(time))
            .expect("set");
        let answered = self.wire.fill_buf().is_ok_and(|bytes| !bytes.is_empty());
        self.wire.get_ref().set_read_timeout(limit).expect("set");
        answered
    }

    /// Waits for it to hang up, whatever it still says.
    pub(crate) fn hear_out(&mut self) -> Vec<String> {
        let mut said = Vec::new();
        let mut line = String::new();
        while let Ok(1..) = self.wire.read_line(&mut line) {
            said.push(line.trim_end_matches('\n').to_owned());
            line.clear();
        }
        said
    }

    pub(crate) fn signal(&self, signal: Signal) {
        assert!(
            !self.reaped,
            "process {} may be somebody else by now",
            self.pid
        );
        signal::kill(nix_pid(self.pid), signal).expect("a signal to a child");
    }

    /// SIGSTOP, and waits until it stands still.
    pub(crate) fn stop(&self) {
        self.signal(Signal::SIGSTOP);
        wait_until(|| state(self.pid) == Some('T'));
    }

    pub(crate) fn go_on(&self) {
        self.signal(Signal::SIGCONT);
    }

    /// SIGKILL, without waiting for anything.
    pub(crate) fn kill(&self) {
        self.signal(Signal::SIGKILL);
    }

    /// Ends it the quiet way: it leaves by itself, with whatever it holds.
    pub(crate) fn hang_up(&mut self) {
        let _ = self.wire.get_ref().shutdown(std::net::Shutdown::Both);
        self.reap();
    }

    /// Waits until it is a zombie, and leaves it one.
    pub(crate) fn wait_zombie(&self) {
        sys::wait_for_end(self.pid, true).expect("a child to wait for");
    }

    /// Waits for its end and takes it off the process table.
    pub(crate) fn reap(&mut self) {
        if !self.reaped {
            sys::wait_for_end(self.pid, false).expect("a child to reap");
            self.forget();
        }
    }

    fn forget(&mut self) {
        self.reaped = true;
        if let Ok(mut running) = RUNNING.lock() {
            running.retain(|pid| *pid != self.pid);
        }
    }

    /// Reaps it: the signal that ended it, if one did.
    pub(crate) fn end_signal(&mut self) -> Option<Signal> {
        let status = waitpid(nix_pid(self.pid), None).expect("a child to reap");
        self.forget();
        match status {
            WaitStatus::Signaled(_, signal, _) => Some(signal),
            _ => None,
        }
    }

    pub(crate) fn kill_and_reap(&mut self) {
        self.kill();
        self.reap();
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if !self.reaped {
            self.kill();
            self.reap();
        }
    }
}
