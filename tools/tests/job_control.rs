//! A real terminal: Ctrl-C, Ctrl-Z and fg, on a pseudo-terminal with a shell that does job
//! control.

mod common;

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::process::Stdio;

use nix::pty::openpty;
use nix::sys::signal::Signal;

use common::{CASLOCK, Identity, Process, Sandbox, skip, until};

/// A pseudo-terminal, and the program that leads its session.
struct Terminal {
    master: File,
    seen: String,
    leader: Process,
}

impl Terminal {
    /// A shell with job control.
    fn shell(sandbox: &Sandbox, script: &str) -> Option<Self> {
        Self::start(sandbox, &["bash", "-c", &format!("set -m; {script}")])
    }

    /// None, with the reason printed, where setsid(1) or bash is missing.
    fn start(sandbox: &Sandbox, program: &[&str]) -> Option<Self> {
        if !has_shells(sandbox) {
            return None;
        }
        let pty = openpty(None, None).expect("a pseudo-terminal");
        let end = || Stdio::from(pty.slave.try_clone().expect("the terminal"));
        let mut command = sandbox.command("setsid");
        command
            .arg("--ctty")
            .args(program)
            .env("CASLOCK", CASLOCK)
            .stdin(end())
            .stdout(end())
            .stderr(end());
        let leader = sandbox.start(command);
        Some(Self {
            master: File::from(pty.master),
            seen: String::new(),
            leader,
        })
    }

    fn send(&mut self, keys: &str) {
        self.master
            .write_all(keys.as_bytes())
            .expect("the terminal");
    }

    /// Reads until this has appeared, and forgets what came before its end.
    fn expect(&mut self, text: &str) {
        loop {
            if let Some(at) = self.seen.find(text) {
                self.seen.drain(..at + text.len());
                return;
            }
            let mut bytes = [0; 1024];
            match self.master.read(&mut bytes) {
                Ok(0) => panic!("no {text:?} in {:?}", self.seen),
                Ok(length) => self.seen += &String::from_utf8_lossy(&bytes[..length]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // What a terminal answers that has no other end any more.
                Err(error) => panic!("{error}: no {text:?} in {:?}", self.seen),
            }
        }
    }
}

/// Whether there is what these tests need; if not, says so.
fn has_shells(sandbox: &Sandbox) -> bool {
    ["setsid", "bash"].into_iter().all(|program| {
        let found = sandbox.command(program).arg("--version").output();
        let is_there = found.is_ok_and(|output| output.status.success());
        if !is_there {
            skip(format_args!("there is no {program} here"));
        }
        is_there
    })
}

#[test]
fn ctrl_z_stops_the_job_and_fg_continues_it_with_its_lock() {
    let sandbox = Sandbox::new();
    let script = r#"$CASLOCK run job -- sh -c 'echo ready; read x; echo "got <$x>"; exit 7'
        echo "stopped $?"; read go; fg; echo "ended $?""#;
    let Some(mut terminal) = Terminal::shell(&sandbox, script) else {
        return;
    };
    terminal.expect("ready");
    terminal.send("\x1a");
    terminal.expect(&format!("stopped {}", 128 + Signal::SIGTSTP as i32));
    let slot = sandbox.slot("job");
    assert_eq!(slot["state"], "held");
    let wrapper = slot["holder"]["pid"].as_u64().expect("a PID") as u32;
    assert!(Identity::of(wrapper).is_stopped());
    terminal.send("go\n");
    terminal.expect("exit 7'"); // The shell prints what it continues.
    terminal.send("hello\n");
    terminal.expect("got <hello>");
    terminal.expect("ended 7");
    terminal.leader.wait();
    assert_eq!(sandbox.slot("job")["state"], "free");
}

#[test]
fn ctrl_c_ends_the_command_and_the_wrapper_says_by_what() {
    let sandbox = Sandbox::new();
    let script = r#"$CASLOCK run job -- sh -c 'echo ready; exec sleep 1000'; echo "ended $?""#;
    // A script that is interrupted with its job would end as well.
    let Some(mut terminal) = Terminal::shell(&sandbox, &format!("trap : INT; {script}")) else {
        return;
    };
    terminal.expect("ready");
    terminal.send("\x03");
    terminal.expect(&format!("ended {}", 128 + Signal::SIGINT as i32));
}

/// The terminal sends its signals to the whole foreground process group, so the command has
/// them already: it must not get them a second time from the wrapper. The wrapper is held
/// up each time, because two signals at once would be taken for one.
#[test]
fn ctrl_c_reaches_the_command_once() {
    const ROUNDS: usize = 5;
    let sandbox = Sandbox::new();
    // Said outside of the handler: bash forgets a signal that comes before that has ended.
    let script = r#"trap 'n=$((n+1))' INT; trap 'echo "total $n."; exit 0' TERM; echo ready
        while :; do read -t 0.05 x; [ "$n" = "$m" ] || { m=$n; echo "int $n."; }; done"#;
    let program = [CASLOCK, "run", "job", "--", "bash", "-c", script];
    let Some(mut terminal) = Terminal::start(&sandbox, &program) else {
        return;
    };
    terminal.expect("ready");
    let wrapper = Identity::of(terminal.leader.pid());
    for round in 1..=ROUNDS {
        terminal.leader.send(Signal::SIGSTOP);
        until("the wrapper is held up", || wrapper.is_stopped());
        terminal.send("\x03");
        terminal.expect(&format!("int {round}."));
        terminal.leader.send(Signal::SIGCONT);
        until("the wrapper goes on", || !wrapper.is_stopped());
    }
    // Forwarded after whatever else was still to be forwarded: INT has the lower number.
    terminal.leader.send(Signal::SIGTERM);
    terminal.expect(&format!("total {ROUNDS}."));
    assert_eq!(terminal.leader.wait().code(), Some(0));
}

#[test]
fn a_background_job_that_reads_the_terminal_is_stopped_whole() {
    let sandbox = Sandbox::new();
    let script = r#"$CASLOCK run job -- sh -c 'read x; echo "got <$x>"' &
        until jobs | grep -q Stopped; do sleep 0.05; done
        echo "stopped"; fg; echo "ended $?""#;
    let Some(mut terminal) = Terminal::shell(&sandbox, script) else {
        return;
    };
    terminal.expect("stopped");
    terminal.send("hello\n");
    terminal.expect("got <hello>");
    terminal.expect("ended 0");
}

/// Where no shell's terminal is, nobody would continue the wrapper with its command.
#[test]
fn without_a_terminal_a_command_that_is_stopped_and_continued_alone_ends_as_any() {
    let sandbox = Sandbox::new();
    if !has_shells(&sandbox) {
        return;
    }
    let script = r#"set -m
        $CASLOCK run job -- sh -c 'trap "exit 7" USR1; echo $$; while :; do sleep 0.02; done' &
        wait $!; echo "ended $?""#;
    let mut command = sandbox.command("setsid");
    command
        .args(["bash", "-c", script])
        .env("CASLOCK", CASLOCK)
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let mut leader = sandbox.start(command);
    let command = Identity::of(leader.line().parse().expect("the command's PID"));
    command.send(Signal::SIGTSTP);
    until("it has stopped", || command.is_stopped());
    // Time for the wrapper to do the same.
    std::thread::sleep(std::time::Duration::from_millis(200));
    command.send(Signal::SIGCONT);
    command.send(Signal::SIGUSR1);
    assert_eq!(leader.line(), "ended 7");
}
