//! The harness: a directory and a table for each test, processes that are ended with it,
//! and a watchdog that turns a hang into a failure.

#![allow(dead_code)] // Each test program uses its own part of it.

use std::ffi::OsStr;
use std::fmt::Display;
use std::fs::{self, Permissions};
use std::io::{self, BufRead, BufReader, Read, Write, pipe};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::pty::openpty;
use nix::sys::signal::{SigHandler, Signal, kill, signal};
use nix::unistd::{self, Pid};
use serde_json::Value;
use tempfile::TempDir;

/// After so long a test hangs: its processes are killed, so that what it waits for fails.
const HANG: Duration = Duration::from_secs(90);
/// And if it goes on hanging for so long, the test program is ended.
const GRACE: Duration = Duration::from_secs(20);

type Pids = Arc<Mutex<Vec<u32>>>;

/// A table of its own, and the processes that use it.
pub struct Sandbox {
    directory: TempDir,
    pids: Pids,
    finished: Arc<AtomicBool>,
}

impl Sandbox {
    pub fn new() -> Self {
        let shm = Path::new("/dev/shm");
        let directory = match shm.is_dir() {
            true => tempfile::tempdir_in(shm),
            false => tempfile::tempdir(),
        };
        let sandbox = Self {
            directory: directory.expect("a temporary directory"),
            pids: Pids::default(),
            finished: Arc::default(),
        };
        sandbox.watch();
        sandbox
    }

    fn watch(&self) {
        let (pids, finished) = (self.pids.clone(), self.finished.clone());
        let test = thread::current().name().unwrap_or("a test").to_owned();
        thread::spawn(move || {
            let start = Instant::now();
            let passed = |limit| {
                while start.elapsed() < limit {
                    if finished.load(Ordering::Relaxed) {
                        return false;
                    }
                    thread::sleep(Duration::from_millis(50));
                }
                true
            };
            if passed(HANG) {
                eprintln!("watchdog: {test} hangs, killing its processes");
                for pid in pids.lock().expect("the list of processes").drain(..) {
                    let _ = kill(Pid::from_raw(pid as i32), Signal::SIGKILL);
                }
            }
            if passed(HANG + GRACE) {
                // Past the capture of its output, which ends here as well.
                let _ = writeln!(io::stderr(), "watchdog: {test} hangs for good");
                std::process::abort();
            }
        });
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    pub fn table(&self) -> PathBuf {
        self.path().join("test.table")
    }

    /// A command in this sandbox: its directory, its table, nothing of the caller's settings.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command
            .current_dir(self.path())
            .env_remove("XDG_RUNTIME_DIR")
            .env_remove("NO_COLOR")
            .env("TERM", "xterm")
            .env("CASLOCK_TABLE", self.table())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        // Under nohup(1), or behind an `&`, the tests run with some of these ignored, and what
        // they start would inherit that.
        // SAFETY:
        // - signal(2) may be called between fork and exec, and nothing else is called there.
        // - SIG_DFL is no handler.
        unsafe {
            command.pre_exec(|| {
                for asked in [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT] {
                    signal(asked, SigHandler::SigDfl)?;
                }
                Ok(())
            });
        }
        command
    }

    pub fn caslock(&self, args: &[&str]) -> Command {
        let mut command = self.command(CASLOCK);
        command.args(args);
        command
    }

    /// Runs `caslock` to its end.
    pub fn run(&self, args: &[&str]) -> Outcome {
        self.start(self.caslock(args)).finish()
    }

    /// Runs `caslock`, which has to succeed.
    pub fn ok(&self, args: &[&str]) -> String {
        let outcome = self.run(args);
        assert_eq!(outcome.code(), 0, "{args:?}: {outcome:?}");
        outcome.stdout
    }

    /// Runs `caslock` where a shell's `mounts` have changed what is mounted, for it alone.
    /// None where that may not be done, which is said.
    pub fn run_with_mounts(&self, mounts: &str, args: &[&str]) -> Option<Outcome> {
        let run = |program: &str, args: &[&str]| {
            let script = format!("{mounts} && exec \"$@\"");
            let mut command = self.command("unshare");
            command.args(["--mount", "sh", "-c", &script, "sh", program]);
            command.args(args);
            self.start(command).finish()
        };
        let tried = run("true", &[]);
        if !tried.status.success() {
            let why = tried.stderr.trim_end();
            skip(format_args!("to change mounts takes CAP_SYS_ADMIN: {why}"));
            return None;
        }
        Some(run(CASLOCK, args))
    }

    pub fn json(&self, args: &[&str]) -> Value {
        let text = self.ok(args);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// The program, where any user may run it.
    pub fn program_for_all(&self) -> PathBuf {
        let program = self.path().join("caslock");
        // Not by this process: what another test forks meanwhile would have it open for writing,
        // and it could not be executed.
        let copied = Command::new("cp").arg(CASLOCK).arg(&program).status();
        assert!(copied.is_ok_and(|status| status.success()), "no copy");
        fs::set_permissions(self.path(), Permissions::from_mode(0o755)).expect("its mode");
        program
    }

    /// Takes the lock from its holder, which lives.
    pub fn take(&self, name: &str) {
        let token = self.token(name).to_string();
        self.ok(&["force-release", name, "--token", &token, "--even-if-alive"]);
    }

    pub fn start(&self, mut command: Command) -> Process {
        let mut child = command.spawn().expect("the program starts");
        self.pids
            .lock()
            .expect("the list of processes")
            .push(child.id());
        Process {
            stdout: child.stdout.take().map(BufReader::new),
            stderr: child.stderr.take(),
            child,
            pids: self.pids.clone(),
        }
    }

    /// Starts a wrapper whose command, a `sleep`, has the lock when this returns. It leads
    /// a process group, as a job of a shell with job control does.
    pub fn hold(&self, name: &str) -> Running {
        self.hold_with(&[], name, "exec sleep 1000")
    }

    /// The same with options for `run`, and a shell script that goes on after it has said
    /// that it runs.
    pub fn hold_with(&self, options: &[&str], name: &str, script: &str) -> Running {
        let script = format!("echo $$; {script}");
        let mut args = vec!["run"];
        args.extend(options);
        args.extend([name, "--", "sh", "-c", &script]);
        let mut command = self.caslock(&args);
        command.process_group(0);
        Running::of(self.start(command))
    }

    pub fn slot(&self, name: &str) -> Value {
        self.json(&["show", "--json", name])
    }

    pub fn token(&self, name: &str) -> u64 {
        self.slot(name)["token"].as_u64().expect("a token")
    }

    /// Leaves the lock with the news that its holder died.
    pub fn abandon(&self, name: &str) -> u32 {
        let mut holder = self.hold(name);
        holder.wrapper.send(Signal::SIGKILL);
        holder.wrapper.wait();
        until("the command is gone with its wrapper", || {
            holder.command.has_ended()
        });
        holder.wrapper.pid()
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.finished.store(true, Ordering::Relaxed);
    }
}

pub const CASLOCK: &str = env!("CARGO_BIN_EXE_caslock");

/// A process that this test started; killed and reaped at the latest when it is dropped.
pub struct Process {
    child: Child,
    stdout: Option<BufReader<ChildStdout>>,
    stderr: Option<ChildStderr>,
    pids: Pids,
}

impl Process {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn send(&self, signal: Signal) {
        send(self.pid(), signal);
    }

    /// Sends any signal by number; the standard wrappers know no real-time signals.
    pub fn send_number(&self, signal: i32) {
        let script = format!("kill -{signal} {}", self.pid());
        let status = Command::new("bash").arg("-c").arg(script).status();
        assert!(status.expect("bash starts").success(), "signal {signal}");
    }

    /// The next line of its standard output, without its end.
    pub fn line(&mut self) -> String {
        self.next_line().expect("a line before the output ends")
    }

    /// The same, and nothing where the output has ended.
    pub fn next_line(&mut self) -> Option<String> {
        let mut line = String::new();
        let stdout = self.stdout.as_mut().expect("stdout is a pipe");
        stdout.read_line(&mut line).expect("a line");
        line.strip_suffix('\n').map(str::to_owned)
    }

    pub fn wait(&mut self) -> ExitStatus {
        let status = self.child.wait().expect("it ends");
        self.pids
            .lock()
            .expect("the list of processes")
            .retain(|&pid| pid != self.child.id());
        status
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("it can be asked").is_none()
    }

    /// Waits for its end and takes what it has written and not been read yet.
    pub fn finish(mut self) -> Outcome {
        let stderr = self.stderr.take().map(|mut stderr| {
            thread::spawn(move || {
                let mut bytes = Vec::new();
                stderr.read_to_end(&mut bytes).expect("its stderr");
                bytes
            })
        });
        let mut stdout = Vec::new();
        if let Some(mut from) = self.stdout.take() {
            from.read_to_end(&mut stdout).expect("its stdout");
        }
        let stderr = stderr.map_or(Vec::new(), |reader| reader.join().expect("its stderr"));
        let status = self.wait();
        Outcome {
            status,
            stdout: String::from_utf8_lossy(&stdout).into_owned(),
            stderr: String::from_utf8_lossy(&stderr).into_owned(),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.is_running() {
            let _ = self.child.kill();
        }
        self.wait();
    }
}

/// How a process ended and what it wrote.
#[derive(Debug)]
pub struct Outcome {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Outcome {
    pub fn code(&self) -> i32 {
        let Some(code) = self.status.code() else {
            panic!("ended by signal {:?}: {self:?}", self.status.signal())
        };
        code
    }
}

/// A wrapper and its command.
pub struct Running {
    pub wrapper: Process,
    pub command: Identity,
}

impl Running {
    /// Of a wrapper whose command's first line is its own PID.
    pub fn of(mut wrapper: Process) -> Self {
        let pid = wrapper.line().parse().expect("the command's PID");
        let command = Identity::of(pid);
        Self { wrapper, command }
    }
}

/// A process that is not ours to wait for: its PID, and when it started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    pub pid: u32,
    started: u64,
}

fn send(pid: u32, signal: Signal) {
    kill(Pid::from_raw(pid as i32), signal).expect("a signal is sent");
}

impl Identity {
    pub fn of(pid: u32) -> Self {
        let stat = Stat::read(pid).expect("a process that runs");
        Self {
            pid,
            started: stat.started,
        }
    }

    fn stat(&self) -> Option<Stat> {
        Stat::read(self.pid).filter(|stat| stat.started == self.started)
    }

    /// Nothing of it will ever run again in user mode.
    pub fn is_gone(&self) -> bool {
        self.stat().is_none_or(|stat| stat.is_ending())
    }

    /// It is gone, and so are its open files: the session's proof of life is one of them.
    pub fn has_ended(&self) -> bool {
        self.stat()
            .is_none_or(|stat| matches!(stat.state, 'Z' | 'X'))
    }

    pub fn send(&self, signal: Signal) {
        send(self.pid, signal);
    }

    pub fn is_stopped(&self) -> bool {
        self.stat().is_some_and(|stat| stat.state == 'T')
    }
}

/// What /proc/PID/stat says.
pub struct Stat {
    pub state: char,
    flags: u64,
    started: u64,
}

impl Stat {
    pub fn read(pid: u32) -> Option<Self> {
        let line = fs::read(format!("/proc/{pid}/stat")).ok()?;
        Self::parse(&String::from_utf8_lossy(&line))
    }

    pub fn parse(stat: &str) -> Option<Self> {
        // The command name may hold blanks and brackets, so count from its end.
        let fields: Vec<_> = stat.rsplit_once(") ")?.1.split(' ').collect();
        Some(Self {
            state: fields.first()?.chars().next()?,
            flags: fields.get(6)?.parse().ok()?,
            started: fields.get(19)?.parse().ok()?,
        })
    }

    pub fn is_ending(&self) -> bool {
        const PF_EXITING: u64 = 0x4;
        matches!(self.state, 'Z' | 'X') || self.flags & PF_EXITING != 0
    }
}

/// Says that this test is skipped, or a part of it, past the capture of its output.
pub fn skip(why: impl Display) {
    let thread = thread::current();
    let test = thread.name().unwrap_or("a test");
    let _ = writeln!(io::stderr(), "skipped: {test}: {why}");
}

/// Waits until it is so; the watchdog ends what never comes to be.
pub fn until(what: &str, mut so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !so() {
        assert!(start.elapsed() < HANG, "waited in vain until {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// Something in which there is no room, and the end that would have to be read first.
pub type Full = (OwnedFd, OwnedFd);

/// Writes as long as there is room, `bytes` at most and `step` at a time; says how much it was.
fn fill(writer: &OwnedFd, step: usize, bytes: usize) -> usize {
    let set = |flags| fcntl(writer, FcntlArg::F_SETFL(flags)).expect("its flags");
    set(OFlag::O_NONBLOCK);
    let mut written = 0;
    while written < bytes
        && let Ok(len) = unistd::write(writer, &vec![b'.'; step])
    {
        written += len;
    }
    set(OFlag::empty());
    written
}

pub fn full_pipe() -> Full {
    let (reader, writer) = pipe().expect("a pipe");
    let writer = writer.into();
    fill(&writer, 4096, usize::MAX);
    (reader.into(), writer)
}

/// A terminal with some room, but not enough for a long line.
pub fn full_terminal() -> Full {
    let open = || {
        let pty = openpty(None, None).expect("a pseudo-terminal");
        (pty.master, pty.slave)
    };
    let room = fill(&open().1, 1, usize::MAX);
    let (master, terminal) = open();
    fill(&terminal, 1, room - 5);
    (master, terminal)
}
