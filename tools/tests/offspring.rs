//! What ends with a command that has lost its lock: all that it has started.

mod common;

use std::env;
use std::fs;
use std::os::unix::process::CommandExt;
use std::thread;

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, fork, getpid, gettid};

use common::{CASLOCK, Identity, Process, Running, Sandbox, Stat, full_pipe, full_terminal};
use common::{skip, until};

/// A script that starts others and says who they are: one that it waits for, and one whose
/// parent has gone. Descriptor 1 stays theirs, so that what they leave unread does not matter.
const SCRIPT: &str = "sleep 1000 & echo $!; sh -c 'sleep 1000 & echo $!; wait' & wait; echo done";

/// A process that is killed when the test is over.
struct Left(u32);

impl Drop for Left {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.0.cast_signed()), Signal::SIGKILL);
    }
}

fn hold(sandbox: &Sandbox, options: &[&str], script: &str) -> (Running, [Identity; 2]) {
    let mut holder = sandbox.hold_with(options, "job", script);
    let offspring = [(); 2].map(|()| {
        let pid = holder.wrapper.line();
        Identity::of(pid.trim().parse().expect("a process id"))
    });
    (holder, offspring)
}

/// A script that starts that one and waits for it, and ends at a SIGTERM as the others do not.
fn stubborn(sandbox: &Sandbox) -> String {
    fs::write(sandbox.path().join("script"), SCRIPT).expect("a file");
    "(trap '' TERM; exec sh ./script) & wait".to_owned()
}

/// A shell that becomes `caslock run` at the end of its script, in which that is `$0`.
fn become_wrapper(sandbox: &Sandbox, script: &str) -> Process {
    let mut command = sandbox.command("sh");
    command.args(["-c", script, CASLOCK]);
    sandbox.start(command)
}

#[test]
fn what_a_script_has_started_is_told_of_the_loss_with_it() {
    let sandbox = Sandbox::new();
    for options in [&[][..], &["--on-lost", "kill"]] {
        let (holder, offspring) = hold(&sandbox, options, SCRIPT);
        sandbox.take("job");
        let outcome = holder.wrapper.finish();
        assert_eq!(outcome.code(), 120, "{outcome:?}");
        assert!(!outcome.stdout.contains("done"), "{outcome:?}");
        assert!(offspring.iter().all(Identity::is_gone));
    }
}

/// What was said of the loss came before what was done about it, and waited for its reader:
/// the command ran on beside the next holder's.
#[test]
fn a_loss_is_acted_on_where_nobody_reads_of_it() {
    let job = "j".repeat(255);
    for full in [full_pipe, full_terminal] {
        for (options, is_stubborn) in [
            (&["--on-lost", "kill"][..], false),
            (&["--kill-after", "1000"], false),
            (&["--kill-after", "0.2"], true),
        ] {
            let sandbox = Sandbox::new();
            let (_reader, writer) = full();
            let script = match is_stubborn {
                true => format!("trap '' TERM; echo $$; {}; wait", stubborn(&sandbox)),
                false => "echo $$; exec sleep 1000".to_owned(),
            };
            let run = [&["run"][..], options, &[&job, "--", "sh", "-c", &script]].concat();
            let mut command = sandbox.caslock(&run);
            command.stderr(writer);
            let mut holder = Running::of(sandbox.start(command));
            sandbox.take(&job);
            assert_eq!(holder.wrapper.wait().code(), Some(120), "{options:?}");
            assert!(holder.command.is_gone());
        }
    }
}

/// Names the role of this program when it is run as what a command has started.
const ROLE: &str = "CASLOCK_TEST_OFFSPRING";

/// The process of the test below: its main thread ends, and another goes on.
#[test]
fn headless_role() {
    if env::var_os(ROLE).is_none() {
        return;
    }
    // A process of its own, since a test is not run by the main thread.
    // SAFETY: the other thread there is waits for this one, and has locked nothing.
    if let ForkResult::Parent { child } = unsafe { fork() }.expect("a process") {
        waitpid(child, None).expect("its end");
        return;
    }
    thread::spawn(|| {
        println!("\nheadless {} {}", getpid(), gettid());
        loop {
            thread::park();
        }
    });
    // SAFETY: ends this thread, which has nothing that the other uses.
    unsafe { libc::syscall(libc::SYS_exit, 0) };
}

/// Its first thread shows as a zombie, and so did the process: it was left to run.
#[test]
fn a_process_whose_main_thread_has_ended_is_ended_with_the_rest() {
    let sandbox = Sandbox::new();
    let script = "\"$0\" headless_role --exact --nocapture & wait";
    for options in [&[][..], &["--on-lost", "kill"]] {
        let mut command = sandbox.caslock(&[&["run"], options, &["job", "--"]].concat());
        command.args(["sh", "-c", script]);
        command.arg(env::current_exe().expect("this program"));
        command.env(ROLE, "1");
        let mut wrapper = sandbox.start(command);
        let line = loop {
            let line = wrapper.line();
            if let Some(ids) = line.strip_prefix("headless ") {
                break ids.to_owned();
            }
        };
        let ids: Vec<u32> = line.split(' ').flat_map(str::parse).collect();
        let (leader, thread) = (Left(ids[0]), Identity::of(ids[1]));
        until("its main thread has ended", || {
            Stat::read(leader.0).is_some_and(|stat| stat.state == 'Z')
        });
        sandbox.take("job");
        // Not to the end of its output, which is the other's, too.
        assert_eq!(wrapper.wait().code(), Some(120));
        assert!(thread.is_gone());
    }
}

/// The kernel cuts a name at 15 bytes, here in the middle of a character.
#[test]
fn a_process_whose_name_is_no_text_is_ended_with_the_rest() {
    let sandbox = Sandbox::new();
    let script = "ln -s \"$(command -v sleep)\" fourteen.bytes\u{e9}
        ./fourteen.bytes\u{e9} 1000 & echo $!; sleep 1000 & echo $!; wait";
    let (mut holder, offspring) = hold(&sandbox, &[], script);
    let _left = Left(offspring[0].pid);
    sandbox.take("job");
    assert_eq!(holder.wrapper.wait().code(), Some(120));
    assert!(offspring.iter().all(Identity::is_gone));
}

/// One that writes down each SIGTERM that it gets, and ends a little later.
const NOTES: &str = "trap 'echo told >> told; ending=yes' TERM; echo $$; echo $$
    until [ \"$ending\" ]; do sleep 0.05; done; sleep 0.3";

fn told(sandbox: &Sandbox) -> String {
    fs::read_to_string(sandbox.path().join("told")).unwrap_or_default()
}

#[test]
fn each_is_told_once_also_by_a_command_that_passes_the_signal_on() {
    for passes_on in [false, true] {
        let sandbox = Sandbox::new();
        fs::write(sandbox.path().join("notes"), NOTES).expect("a file");
        let script = match passes_on {
            true => "exec timeout 1000 sh ./notes",
            false => "sh ./notes; echo done",
        };
        let (holder, offspring) = hold(&sandbox, &["--kill-after", "1000"], script);
        sandbox.take("job");
        assert_eq!(holder.wrapper.finish().code(), 120);
        assert!(offspring[0].is_gone());
        assert_eq!(told(&sandbox), "told\n", "{passes_on}");
    }
}

/// As a shell does that waits for what it runs before it ends.
#[test]
fn what_a_command_waits_for_is_told_though_the_command_lives_on() {
    let sandbox = Sandbox::new();
    fs::write(sandbox.path().join("notes"), NOTES).expect("a file");
    let script = "trap : TERM; sh ./notes & while kill -0 $!; do wait; done 2>&-; echo done";
    let (mut holder, offspring) = hold(&sandbox, &["--kill-after", "1000"], script);
    let _left = Left(offspring[0].pid);
    sandbox.take("job");
    assert_eq!(holder.wrapper.wait().code(), Some(120));
    assert_eq!(holder.wrapper.finish().stdout, "done\n");
    assert!(offspring[0].is_gone());
    assert_eq!(told(&sandbox), "told\n");
}

/// What this process had as children before it became `caslock run` is none of the command's,
/// nor are their orphans.
#[test]
fn what_others_have_left_is_not_the_commands() {
    let sandbox = Sandbox::new();
    nix::unistd::mkfifo(&sandbox.path().join("go"), nix::sys::stat::Mode::S_IRWXU).expect("a FIFO");
    fs::write(sandbox.path().join("script"), SCRIPT).expect("a file");
    let script = "sh -c 'sleep 1000 & echo $!; echo > first; read line < go' &
        until [ -e first ]; do sleep 0.01; done
        exec \"$0\" run --kill-after 1 job -- sh -c 'echo $$; (trap \"\" TERM; exec sh ./script) & wait'";
    let mut command = sandbox.command("sh");
    command.args(["-c", script, CASLOCK]).process_group(0);
    let mut wrapper = sandbox.start(command);
    let mut next = || Identity::of(wrapper.line().trim().parse().expect("a process id"));
    let pids = [(); 4].map(|()| next());
    let service = Left(pids[0].pid);
    sandbox.take("job");
    until("the loss is being dealt with", || pids[1].is_gone());
    fs::write(sandbox.path().join("go"), "on\n").expect("its parent ends");
    // Not to the end of its output, which is the service's, too.
    assert_eq!(wrapper.wait().code(), Some(120));
    assert_eq!(pids.map(|it| it.is_gone()), [false, true, true, true]);
    drop(service);
}

/// Under the PIDs that a foreign /proc shows there are others here.
#[test]
fn where_proc_is_of_another_namespace_nobody_is_signalled_but_the_command() {
    let sandbox = Sandbox::new();
    let mut command = sandbox.command("unshare");
    command.args(["--pid", "--fork", "--kill-child", "sh", "-c"]);
    let script = "$0 run job -- sh -c 'echo up; sleep 1000 & wait'; exit $?";
    command.args([script, CASLOCK]);
    let mut wrapper = sandbox.start(command);
    if wrapper.next_line().as_deref() != Some("up") {
        skip("PID namespaces take CAP_SYS_ADMIN");
        return;
    }
    sandbox.take("job");
    let outcome = wrapper.finish();
    assert_eq!(outcome.code(), 120, "{outcome:?}");
    assert!(
        outcome.stderr.contains("/proc does not show"),
        "{outcome:?}"
    );
}

/// A child of the wrapper that it had before: one that has ended has no orphans to come, which
/// could be taken for the command's.
#[test]
fn an_orphan_that_a_command_leaves_at_its_end_is_ended_with_it() {
    for stranger in ["", "(until [ -e go ]; do sleep 0.01; done) & echo $!;"] {
        let sandbox = Sandbox::new();
        let on_loss = "trap 'sh -c \"sleep 1000 & echo \\$!\"; exit' TERM";
        fs::write(
            sandbox.path().join("job"),
            format!("{on_loss}; echo up; while :; do sleep 0.05; done"),
        )
        .expect("a file");
        let script = format!("{stranger} exec \"$0\" run job -- sh ./job");
        let mut wrapper = become_wrapper(&sandbox, &script);
        let pid = (!stranger.is_empty()).then(|| wrapper.line().parse().expect("a process id"));
        assert_eq!(wrapper.line(), "up");
        if let Some(pid) = pid {
            // Not before: its parent would reap it, as long as that is the shell.
            fs::write(sandbox.path().join("go"), "").expect("a file");
            until("the stranger has ended", || {
                Stat::read(pid).is_some_and(|stat| stat.state == 'Z')
            });
        }
        sandbox.take("job");
        let orphan = Left(wrapper.line().parse().expect("a process id"));
        assert_eq!(wrapper.wait().code(), Some(120));
        assert!(Stat::read(orphan.0).is_none_or(|stat| stat.is_ending()));
    }
}

/// After a loss they are the wrapper's children, and stayed zombies until it was time to kill.
#[test]
fn orphans_that_end_are_reaped_while_the_command_takes_its_time() {
    let sandbox = Sandbox::new();
    // The first ends when it is told, a while after the loss; then nothing is due for long.
    let script = "trap told=yes TERM; echo up; until [ \"$told\" ]; do sleep 0.01; done; sleep 1000
        sh -c 'sleep 0.1 & echo $!'; until [ -e done ]; do sleep 0.01; done";
    let mut holder = sandbox.hold_with(&["--kill-after", "1000"], "job", script);
    assert_eq!(holder.wrapper.line(), "up");
    sandbox.take("job");
    let orphan = holder.wrapper.line().parse().expect("a process id");
    until("it is reaped", || Stat::read(orphan).is_none());
    fs::write(sandbox.path().join("done"), "").expect("a file");
    assert_eq!(holder.wrapper.wait().code(), Some(120));
}

/// Where the wrapper has another child, the command's are nobody's to find once it has ended.
#[test]
fn what_a_command_has_started_last_is_killed_with_it() {
    let sandbox = Sandbox::new();
    // What is started first is told after a while, and with its end the next begins.
    let on_loss = "trap 'sleep 1000; sleep 1000 & echo \\$!' TERM";
    let script = format!(
        "sleep 1000 & echo $!; exec \"$0\" run --kill-after 4 job -- sh -c \"
        {on_loss}; echo up; while :; do sleep 0.05; done\""
    );
    let mut wrapper = become_wrapper(&sandbox, &script);
    let _stranger = Left(wrapper.line().parse().expect("a process id"));
    assert_eq!(wrapper.line(), "up");
    sandbox.take("job");
    let last = Left(wrapper.line().parse().expect("a process id"));
    assert_eq!(wrapper.wait().code(), Some(120));
    assert!(Stat::read(last.0).is_none_or(|stat| stat.is_ending()));
}

#[test]
fn who_is_left_of_it_is_killed_when_the_command_itself_has_long_ended() {
    let sandbox = Sandbox::new();
    let script = stubborn(&sandbox);
    let (holder, offspring) = hold(&sandbox, &["--kill-after", "0.2"], &script);
    sandbox.take("job");
    let outcome = holder.wrapper.finish();
    assert_eq!(outcome.code(), 120, "{outcome:?}");
    assert!(outcome.stderr.contains("SIGKILL"), "{outcome:?}");
    assert!(offspring.iter().all(Identity::is_gone));
}

#[test]
fn a_signal_to_the_wrapper_hastens_the_end_of_who_is_left() {
    let sandbox = Sandbox::new();
    let script = stubborn(&sandbox);
    let (mut holder, offspring) = hold(&sandbox, &["--kill-after", "1000"], &script);
    sandbox.take("job");
    until("the script itself has ended", || holder.command.is_gone());
    assert!(!offspring.iter().any(Identity::is_gone));
    assert!(holder.wrapper.is_running());
    holder.wrapper.send(Signal::SIGTERM);
    let outcome = holder.wrapper.finish();
    assert_eq!(outcome.code(), 120, "{outcome:?}");
    assert!(offspring.iter().all(Identity::is_gone));
}

#[test]
fn a_signal_that_the_wrapper_was_started_to_ignore_hastens_nothing() {
    let sandbox = Sandbox::new();
    let left = "(trap '' TERM; echo set; until [ -e go ]; do sleep 0.05; done; echo survived) &";
    fs::write(
        sandbox.path().join("job"),
        format!("echo $$; {left} sleep 1000"),
    )
    .expect("a file");
    let script = "trap '' HUP; exec \"$0\" run --kill-after 1000 job -- sh ./job";
    let mut holder = Running::of(become_wrapper(&sandbox, script));
    assert_eq!(holder.wrapper.line(), "set");
    sandbox.take("job");
    until("the script itself has ended", || holder.command.is_gone());
    holder.wrapper.send(Signal::SIGHUP);
    let status = format!("/proc/{}/status", holder.wrapper.pid());
    until("it has been read", || {
        let status = fs::read_to_string(&status).expect("its status");
        let mut pending = status.lines().filter(|line| line.starts_with("ShdPnd:"));
        pending.any(|line| line.ends_with("0000000000000000"))
    });
    fs::write(sandbox.path().join("go"), "").expect("a file");
    let outcome = holder.wrapper.finish();
    assert_eq!((outcome.code(), &*outcome.stdout), (120, "survived\n"));
}

/// It was said to be there after a SIGKILL, which it had never got: sudo(8) makes such ones.
#[test]
fn one_that_may_not_be_signalled_is_told_of_as_that() {
    let sandbox = Sandbox::new();
    // Without its right to signal others, root cannot, as it is with any other user.
    let restricted = |arguments: &[&str]| {
        let mut command = sandbox.command("setpriv");
        command.args(["--bounding-set", "-kill"]).args(arguments);
        command
    };
    let as_other = "setpriv --reuid 65534 --clear-groups";
    let mut tried = restricted(&["sh", "-c", &format!("{as_other} true")]);
    if !tried.status().is_ok_and(|status| status.success()) {
        skip("to become another user takes setpriv(1) and root");
        return;
    }
    let script = format!("{as_other} sh -c 'echo $$; exec sleep 1000' & wait");
    // Time for the shell to end by its SIGTERM.
    let run = [CASLOCK, "run", "--kill-after", "3", "job", "--"];
    let command = restricted(&[&run[..], &["sh", "-c", &script]].concat());
    let mut wrapper = sandbox.start(command);
    let left = Left(wrapper.line().parse().expect("a process id"));
    let identity = Identity::of(left.0);
    sandbox.take("job");
    assert_eq!(wrapper.wait().code(), Some(120));
    assert!(!identity.is_gone());
    drop(left);
    let outcome = wrapper.finish();
    let said = format!("not allowed to signal process {}", identity.pid);
    assert!(outcome.stderr.contains(&said), "{outcome:?}");
    assert!(!outcome.stderr.contains("SIGKILL"), "{outcome:?}");
}

#[test]
fn without_a_loss_or_against_the_operators_wish_nothing_is_ended() {
    let sandbox = Sandbox::new();
    // It ends when the test has seen who there is.
    let script = "sleep 1000 & echo $!; sleep 1000 & echo $!; read line < wait_for_this";
    nix::unistd::mkfifo(
        &sandbox.path().join("wait_for_this"),
        nix::sys::stat::Mode::S_IRWXU,
    )
    .expect("a FIFO");
    for (options, code) in [(&[][..], 0), (&["--on-lost", "none"], 120)] {
        let (mut holder, offspring) = hold(&sandbox, options, script);
        if code == 120 {
            sandbox.take("job");
        }
        fs::write(sandbox.path().join("wait_for_this"), "on\n").expect("written");
        assert_eq!(holder.wrapper.wait().code(), Some(code));
        let _left = [0, 1].map(|at| Left(offspring[at].pid));
        assert!(!offspring.iter().any(Identity::is_gone));
    }
}

/// Each such daemon kept one, for as long as it lived, and nobody could see it.
#[test]
fn what_a_command_leaves_behind_at_its_end_keeps_no_session() {
    let sandbox = Sandbox::new();
    sandbox.ok(&["create", "--sessions", "1", "test.table"]);
    let script = "sleep 1000 >/dev/null 2>&1 & echo $!";
    let started = sandbox.ok(&["run", "job", "--", "sh", "-c", script]);
    let _left = Left(started.trim().parse().expect("its PID"));
    sandbox.ok(&["run", "-n", "job", "--", "true"]);
}
