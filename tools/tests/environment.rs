//! What the command finds around itself: its variables, arguments, descriptors, signals.

mod common;

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Stdio;

use nix::libc;
use nix::sys::signal::Signal;
use serde_json::Value;

use common::{CASLOCK, Sandbox, skip, until};

#[test]
fn the_table_is_named_by_its_absolute_path() {
    let sandbox = Sandbox::new();
    let args = ["--table", "./other.table", "run", "job", "--"];
    let out = sandbox.ok(&[&args[..], &["printenv", "CASLOCK_TABLE"]].concat());
    let expected = sandbox.path().join("other.table");
    assert_eq!(out.trim_end(), expected.to_str().expect("a UTF-8 path"));
}

#[test]
fn the_name_is_passed_as_it_was_given() {
    let sandbox = Sandbox::new();
    for name in ["job", "a b", "gr\u{fc}n", "$HOME", "-x"] {
        let out = sandbox.ok(&["run", "--", name, "printenv", "CASLOCK_NAME"]);
        assert_eq!(out, format!("{name}\n"));
    }
}

#[test]
fn every_token_is_larger_than_the_last() {
    let sandbox = Sandbox::new();
    let mut last = 0;
    for _ in 0..20 {
        let out = sandbox.ok(&["run", "job", "--", "printenv", "CASLOCK_TOKEN"]);
        let token: u64 = out.trim_end().parse().expect("a number");
        assert!(token > last, "{token} after {last}");
        assert_eq!(sandbox.token("job"), token);
        last = token;
    }
}

#[test]
fn previous_says_how_the_last_holder_left() {
    let sandbox = Sandbox::new();
    let previous = || sandbox.ok(&["run", "job", "--", "printenv", "CASLOCK_PREVIOUS"]);
    assert_eq!(previous(), "none\n");
    assert_eq!(previous(), "released\n");
    sandbox.abandon("job");
    assert_eq!(previous(), "died\n");
    assert_eq!(previous(), "released\n");

    let holder = sandbox.hold("job");
    sandbox.take("job");
    assert_eq!(previous(), "forced\n");
    assert_eq!(holder.wrapper.finish().code(), 120);
}

#[test]
fn a_holder_stopped_past_its_lease_has_expired_and_its_command_is_told() {
    let sandbox = Sandbox::new();
    sandbox.ok(&["create", "--lease", "1", "test.table"]);
    let script = "trap 'echo told; exit 0' TERM; while :; do sleep 0.05; done";
    let holder = sandbox.hold_with(&[], "job", script);
    holder.wrapper.send(Signal::SIGSTOP);
    let next = sandbox.run(&["run", "job", "--", "printenv", "CASLOCK_PREVIOUS"]);
    assert_eq!(next.code(), 0, "{next:?}");
    assert_eq!(next.stdout, "expired\n");
    holder.wrapper.send(Signal::SIGCONT);
    let outcome = holder.wrapper.finish();
    assert_eq!(outcome.code(), 120, "{outcome:?}");
    assert_eq!(outcome.stdout, "told\n");
}

#[test]
fn arguments_reach_the_command_without_a_shell() {
    let sandbox = Sandbox::new();
    let odd = ["$HOME; echo *", "--", "-n", "", "a  b"];
    let mut args = vec!["run", "job", "--", "printf", "<%s>"];
    args.extend(odd);
    assert_eq!(sandbox.ok(&args), "<$HOME; echo *><--><-n><><a  b>");
    // The dashes before the command may be left out, and its own options are still its own.
    assert_eq!(sandbox.ok(&["run", "job", "echo", "-n", "x"]), "x");
    // And a name that may look like an option has dashes of its own.
    let behind_dashes = ["run", "-n", "--", "-x", "--", "printf", "<%s>", "--"];
    assert_eq!(sandbox.ok(&behind_dashes), "<-->");
    assert_eq!(
        sandbox.ok(&["run", "--", "-x", "printf", "<%s>", "-n"]),
        "<-n>"
    );
}

#[test]
fn stdin_reaches_the_command() {
    let sandbox = Sandbox::new();
    let mut command = sandbox.caslock(&["run", "job", "--", "cat"]);
    let mut child = command.stdin(Stdio::piped()).spawn().expect("it starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin.write_all(b"through and through").expect("cat reads");
    drop(stdin);
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.stdout, b"through and through");
}

/// What a program finds set, alone and under the wrapper.
fn signal_settings(sandbox: &Sandbox, wrapper: &[&str], settings: &[&str]) -> [u64; 2] {
    let mut command = sandbox.command("env");
    command.args(settings).args(wrapper);
    command.args(["grep", "^Sig", "/proc/self/status"]);
    let outcome = sandbox.start(command).finish();
    assert_eq!(outcome.code(), 0, "{outcome:?}");
    // The C library keeps 32 and 33 for itself, and sets them as it likes.
    let ours = !(0b11 << 31);
    ["SigBlk", "SigIgn"].map(|field| signal_set(&outcome.stdout, field) & ours)
}

#[test]
fn signals_start_out_as_the_wrapper_found_them() {
    let sandbox = Sandbox::new();
    let wrapper = [CASLOCK, "run", "job", "--"];
    let [blocked, ignored] = signal_settings(&sandbox, &[], &[]);
    assert_eq!(signal_settings(&sandbox, &wrapper, &[]), [blocked, ignored]);

    let settings = ["--block-signal=USR1", "--ignore-signal=CHLD,INT,PIPE"];
    let supported = sandbox.command("env").args(settings).arg("true").status();
    if !supported.is_ok_and(|status| status.success()) {
        skip("in part: env(1) here has no --block-signal and --ignore-signal");
        return;
    }
    let bit = |signal: Signal| 1_u64 << (signal as i32 - 1);
    assert_eq!(
        signal_settings(&sandbox, &wrapper, &settings),
        [
            blocked | bit(Signal::SIGUSR1),
            ignored | bit(Signal::SIGCHLD) | bit(Signal::SIGINT) | bit(Signal::SIGPIPE)
        ]
    );
    // With SIGCHLD ignored the kernel would reap the command, and its code would be lost.
    let mut command = sandbox.command("env");
    command
        .args(settings)
        .args(wrapper)
        .args(["sh", "-c", "exit 7"]);
    assert_eq!(sandbox.start(command).finish().code(), 7);
}

fn signal_set(status: &str, field: &str) -> u64 {
    let line = status.lines().find(|line| line.starts_with(field));
    let hex = line.and_then(|line| line.split_whitespace().nth(1));
    u64::from_str_radix(hex.expect(field), 16).expect(field)
}

/// Of a descriptor, by what `/proc/PID/fdinfo` tells of it.
fn access_mode(info: &str) -> i32 {
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
    let flags = flags.map(|flags| i32::from_str_radix(flags.trim(), 8));
    flags.expect("flags").expect("an octal number") & libc::O_ACCMODE
}

#[test]
fn of_the_wrappers_descriptors_only_the_witness_is_inherited() {
    let sandbox = Sandbox::new();
    let holder = sandbox.hold("job");
    let directory = format!("/proc/{}/fd", holder.command.pid);
    let mut extra = Vec::new();
    for entry in fs::read_dir(directory).expect("its descriptors") {
        let entry = entry.expect("a descriptor");
        let link = fs::read_link(entry.path()).expect("what it refers to");
        // Whoever runs this test may have left descriptors open to all of us.
        let ours = Path::new("/proc/self/fd").join(entry.file_name());
        let number: u32 = entry
            .file_name()
            .to_string_lossy()
            .parse()
            .expect("a number");
        if number > 2 && fs::read_link(ours).ok().as_ref() != Some(&link) {
            // Not one that scripts use by its number, and open for reading alone: a job may go
            // on as another user.
            assert!(number >= 50, "{number}");
            let info = format!("/proc/{}/fdinfo/{number}", holder.command.pid);
            let info = fs::read_to_string(info).expect("what the kernel tells of it");
            assert_eq!(access_mode(&info), libc::O_RDONLY, "{info}");
            extra.push(link);
        }
    }
    assert_eq!(extra, [sandbox.table()]);
}

/// "Log to 3 if that is open" is what some scripts do.
#[test]
fn a_command_that_writes_to_what_it_inherits_does_not_write_into_the_table() {
    let sandbox = Sandbox::new();
    let write = r#"tried=no
        for fd in $(ls /proc/$$/fd); do
            file=$(readlink /proc/$$/fd/$fd)
            [ "$file" = "$CASLOCK_TABLE" ] && tried=yes
            [ "$fd" -gt 2 ] && ( echo line >&"$fd" ) 2>/dev/null && echo "wrote to $file"
        done
        echo "tried: $tried""#;
    // Where so many descriptors are not allowed, it has a smaller number.
    for limit in ["", "ulimit -n 20;"] {
        let script = format!("{limit} exec \"$0\" run job sh -c \"$1\"");
        let mut command = sandbox.command("sh");
        command.args(["-c", &script, CASLOCK, write]);
        let outcome = sandbox.start(command).finish();
        assert!(outcome.stdout.contains("tried: yes"), "{outcome:?}");
        assert!(!outcome.stdout.contains(".table"), "{outcome:?}");
        assert_eq!(sandbox.slot("job")["state"], "free");
    }
}

#[test]
fn the_note_is_there_for_others_while_the_command_runs() {
    let sandbox = Sandbox::new();
    let mut holder = sandbox.hold_with(&["--note", "ticket 42"], "job", "exec sleep 1000");
    assert_eq!(sandbox.slot("job")["note"], "ticket 42");
    assert!(sandbox.ok(&["ls"]).contains("ticket 42"));
    holder.wrapper.send(Signal::SIGTERM);
    assert_eq!(holder.wrapper.wait().code(), Some(128 + 15));
    until("the lock is free", || {
        sandbox.slot("job")["state"] == "free"
    });
    assert!(sandbox.slot("job")["note"].is_null());
}

#[test]
fn without_a_note_others_see_the_programs_name() {
    let sandbox = Sandbox::new();
    // As long as a file's name may be, and cut in the middle of a character.
    let long = format!("x{}", "\u{e9}".repeat(127));
    let program = sandbox.path().join(&long);
    symlink("/bin/sh", &program).expect("a link");
    let program = program.to_str().expect("UTF-8");
    let look = format!("{CASLOCK} show --json job");
    let note = |options: &[&str], program| {
        let job = ["job", "--", program, "-c", &look];
        let seen = sandbox.ok(&[&["run"], options, &job].concat());
        serde_json::from_str::<Value>(&seen).expect("JSON")["note"].clone()
    };
    assert_eq!(note(&[], "/bin/sh"), "sh");
    assert_eq!(note(&[], program), long[..95]);
    assert_eq!(note(&["--note", ""], "/bin/sh"), Value::Null);
}

/// A closed one would be the number of the next file to be opened, the table's included.
#[test]
fn standard_streams_that_are_closed_are_dev_null_to_the_command() {
    let sandbox = Sandbox::new();
    let look = "for fd in 0 1 2; do readlink /proc/$$/fd/$fd; done > seen";
    let script = format!("exec {CASLOCK} run job -- sh -c '{look}' <&- >&- 2>&-");
    let mut command = sandbox.command("sh");
    command.args(["-c", &script]);
    assert_eq!(sandbox.start(command).finish().code(), 0);
    let seen = fs::read_to_string(sandbox.path().join("seen")).expect("what it saw");
    // Its standard output is the file that it writes.
    let mut seen = seen.lines();
    assert_eq!(seen.next(), Some("/dev/null"));
    assert!(seen.next().is_some_and(|file| file.ends_with("/seen")));
    assert_eq!(seen.next(), Some("/dev/null"));
}

/// Its parent has no number there, and was taken for dead: it exited with 137, and said nothing.
#[test]
fn a_command_is_started_as_the_first_process_of_a_namespace_too() {
    let sandbox = Sandbox::new();
    let unshare = |program: &[&str]| {
        let mut command = sandbox.command("unshare");
        command.arg("--pid").args(program);
        sandbox.start(command).finish()
    };
    if !unshare(&["true"]).status.success() {
        skip("PID namespaces take CAP_SYS_ADMIN");
        return;
    }
    let outcome = unshare(&[CASLOCK, "run", "job", "--", "sh", "-c", "echo $$; exit 7"]);
    assert_eq!(
        (outcome.code(), &*outcome.stdout),
        (7, "1\n"),
        "{outcome:?}"
    );
}

#[test]
fn a_closed_pipe_ends_the_command_as_it_ends_any() {
    let sandbox = Sandbox::new();
    let script = "kill -s PIPE $$; echo survived";
    let outcome = sandbox.run(&["run", "job", "--", "sh", "-c", script]);
    assert_eq!((outcome.code(), outcome.stdout.as_str()), (128 + 13, ""));
}
