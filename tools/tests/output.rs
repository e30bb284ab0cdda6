//! What people see: columns, colours, escapes, and no complaint when they stop reading.

mod common;

use std::fs::{self, File, Permissions};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;

use nix::pty::openpty;

use common::{CASLOCK, Outcome, Sandbox, skip};

const NASTY: &str =
    "a\x1b[31mred\x07\nnext\u{202e}desrever\u{61c}\u{ad}\u{200b}\u{feff}\u{9b}\"quoted\"";

/// That a terminal shows this text as it is, line by line.
fn assert_safe(text: &str) {
    let unseen = ['\u{202e}', '\u{61c}', '\u{ad}', '\u{200b}', '\u{feff}'];
    let is_unsafe = |c: char| c.is_control() && c != '\n' || unseen.contains(&c);
    assert!(!text.contains(is_unsafe), "{text:?}");
}

#[test]
fn names_and_notes_cannot_drive_the_terminal() {
    let sandbox = Sandbox::new();
    let _holder = sandbox.hold_with(&["--note", "\x1b]0;owned\x07"], NASTY, "exec sleep 1000");
    let busy = sandbox.run(&["run", "-n", NASTY, "--", "true"]);
    let waiting = sandbox.run(&["run", "-w", "1.5", NASTY, "--", "true"]);
    let unknown = sandbox.run(&["show", &format!("{NASTY}?")]);
    let force = sandbox.run(&["force-release", NASTY, "--token", "1"]);
    let mut seen = vec![busy.stderr, waiting.stderr, unknown.stderr, force.stderr];
    seen.push(sandbox.ok(&["ls"]));
    seen.push(sandbox.ok(&["show", NASTY]));
    seen.push(sandbox.run(&["doctor"]).stdout);
    for text in seen {
        assert_safe(&text);
    }
    // Two lines: the headings and one lock, whatever is in its name.
    assert_eq!(sandbox.ok(&["ls"]).lines().count(), 2);
    let slots = sandbox.json(&["ls", "--json"]);
    assert_eq!(slots.as_array().expect("an array").len(), 1);
}

/// Columns were counted in characters.
#[test]
fn a_name_in_wide_characters_takes_two_columns_for_each() {
    let sandbox = Sandbox::new();
    let _wide = sandbox.hold("\u{65e5}\u{672c}");
    let _narrow = sandbox.hold("four");
    let listed = sandbox.ok(&["ls"]);
    for start in ["NAME  STATE", "four  held", "\u{65e5}\u{672c}  held"] {
        let mut lines = listed.lines();
        assert!(lines.any(|line| line.starts_with(start)), "{listed}");
    }
}

#[test]
fn a_wrong_argument_cannot_drive_the_terminal_either() {
    let sandbox = Sandbox::new();
    for args in [
        &["show", "job", NASTY][..],
        &[NASTY],
        &["run", "--on-lost", NASTY, "job", "--", "true"],
    ] {
        let mut command = sandbox.caslock(args);
        let pty = openpty(None, None).expect("a pseudo-terminal");
        command.stderr(pty.slave);
        let outcome = sandbox.start(command).finish();
        assert_eq!(outcome.code(), 64, "{outcome:?}");
        // A terminal's lines end in two characters.
        let seen = read_terminal(pty.master).replace("\r\n", "\n");
        assert!(seen.contains("desrever"), "{seen:?}");
        assert_safe(&seen);
    }
}

#[test]
fn a_tables_path_cannot_drive_the_terminal() {
    let sandbox = Sandbox::new();
    let path = "odd \x1b[31m\u{202e}.table";
    let nowhere = format!("{path}/no.table");
    let run = |args: &[&str]| {
        let outcome = sandbox.run(args);
        format!("{}{}", outcome.stdout, outcome.stderr)
    };
    let mut seen = vec![
        run(&["--table", path, "ls"]),
        run(&["create", &nowhere]),
        run(&["create", path, "--table", path]),
    ];
    sandbox.ok(&["create", path]);
    seen.extend([
        run(&["create", path]),
        run(&["--table", path, "ls"]),
        run(&["--table", path, "sessions"]),
        run(&["--table", path, "show", "job"]),
        run(&["--table", path, "force-release", "job", "--token", "1"]),
        run(&["--table", path, "doctor"]),
        run(&["--table", &nowhere, "run", "job", "--", "true"]),
        run(&["--table", &nowhere, "bench"]),
    ]);
    sandbox.ok(&["--table", path, "run", "job", "--", "true"]);
    seen.push(run(&["--table", path, "show", "job"]));
    for text in seen {
        assert_safe(&text);
        assert!(text.contains("odd \\u{1b}[31m\\u{202e}.table"), "{text:?}");
    }
}

#[test]
fn a_reader_that_has_gone_away_is_no_failure() {
    let sandbox = Sandbox::new();
    let _holder = sandbox.hold("job");
    let cases: &[&[&str]] = &[
        &["ls"],
        &["ls", "--json"],
        &["show", "job"],
        &["show", "--json", "job"],
        &["sessions"],
        &["sessions", "--json"],
        &["doctor"],
        &["--help"],
    ];
    for args in cases {
        let (reader, writer) = io::pipe().expect("a pipe");
        drop(reader);
        let mut command = sandbox.caslock(args);
        command.stdout(writer);
        let outcome = sandbox.start(command).finish();
        assert_eq!(outcome.code(), 0, "{args:?}: {outcome:?}");
        assert_eq!(outcome.stderr, "", "{args:?}");
    }
}

/// It was 0.
#[test]
fn what_doctor_finds_wrong_it_says_to_nobody_too() {
    let sandbox = Sandbox::new();
    sandbox.ok(&["create", "test.table"]);
    let anybodys = Permissions::from_mode(0o777);
    fs::set_permissions(sandbox.path(), anybodys).expect("its mode");
    let (reader, writer) = io::pipe().expect("a pipe");
    drop(reader);
    let mut command = sandbox.caslock(&["doctor"]);
    command.stdout(writer);
    let outcome = sandbox.start(command).finish();
    assert_eq!((outcome.code(), &*outcome.stderr), (1, ""), "{outcome:?}");
}

#[test]
fn a_full_disk_is_a_failure() {
    let sandbox = Sandbox::new();
    sandbox.ok(&["run", "job", "--", "true"]);
    for args in [
        &["ls"][..],
        &["ls", "--json"],
        &["show", "job"],
        &["doctor"],
        &["sessions"],
        &["--version"],
        &["run", "--help"],
    ] {
        let Ok(full) = File::options().write(true).open("/dev/full") else {
            skip("there is no /dev/full here");
            return;
        };
        let mut command = sandbox.caslock(args);
        command.stdout(full);
        let outcome = sandbox.start(command).finish();
        assert_eq!(outcome.code(), 125, "{outcome:?}");
        let why = "caslock: standard output: No space left on device";
        assert!(outcome.stderr.starts_with(why), "{args:?}: {outcome:?}");
    }
}

#[test]
fn columns_are_aligned() {
    let sandbox = Sandbox::new();
    sandbox.ok(&["run", "a-name-that-is-longer-than-the-others", "--", "true"]);
    sandbox.ok(&["run", "gr\u{fc}n", "--", "true"]);
    let _holder = sandbox.hold("job");
    let text = sandbox.ok(&["ls"]);
    let lines: Vec<Vec<char>> = text.lines().map(|line| line.chars().collect()).collect();
    let [headings, rows @ ..] = &lines[..] else {
        panic!("{text}");
    };
    assert_eq!(rows.len(), 3, "{text}");
    let state = "STATE".chars().collect::<Vec<_>>();
    let at = headings.windows(5).position(|window| window == state);
    let at = at.expect("a column STATE");
    for row in rows {
        assert_eq!(row[at - 1], ' ', "{text}");
        let word: String = row[at..].iter().take_while(|c| **c != ' ').collect();
        assert!(["free", "held"].contains(&word.as_str()), "{text}");
        assert_ne!(row.last(), Some(&' '), "{text:?}");
    }
}

#[test]
fn a_table_without_locks_or_sessions_says_so() {
    let sandbox = Sandbox::new();
    sandbox.ok(&["create", "test.table"]);
    assert!(sandbox.ok(&["ls"]).starts_with("no locks yet in "));
    assert!(sandbox.ok(&["sessions"]).starts_with("no process uses "));
}

#[test]
fn colours_are_for_terminals_only_and_not_with_no_color() {
    let sandbox = Sandbox::new();
    let _holder = sandbox.hold("job");
    assert!(!sandbox.ok(&["ls"]).contains('\x1b'));
    assert!(on_terminal(&sandbox, None).contains("\x1b[32mheld\x1b[0m"));
    let plain = on_terminal(&sandbox, Some("1"));
    assert!(
        plain.contains("held") && !plain.contains('\x1b'),
        "{plain:?}"
    );
    // Set to nothing is not set, says no-color.org.
    assert!(on_terminal(&sandbox, Some("")).contains('\x1b'));
}

fn on_terminal(sandbox: &Sandbox, no_color: Option<&str>) -> String {
    let pty = openpty(None, None).expect("a pseudo-terminal");
    let mut command = sandbox.caslock(&["ls"]);
    command.stdout(pty.slave);
    if let Some(value) = no_color {
        command.env("NO_COLOR", value);
    }
    let process = sandbox.start(command);
    // Two rows fit into the terminal's buffer, so it need not be read meanwhile.
    let outcome: Outcome = process.finish();
    assert_eq!(outcome.code(), 0, "{outcome:?}");
    read_terminal(pty.master)
}

fn read_terminal(master: OwnedFd) -> String {
    let (mut seen, mut bytes) = (String::new(), [0; 4096]);
    let mut terminal = File::from(master);
    // An error is the end, once nobody has the terminal open.
    while let Ok(length @ 1..) = terminal.read(&mut bytes) {
        seen += &String::from_utf8_lossy(&bytes[..length]);
    }
    seen
}

#[test]
fn show_tells_everything_about_one_lock() {
    let sandbox = Sandbox::new();
    let holder = sandbox.hold_with(&["--note", "ticket 42"], "job", "exec sleep 1000");
    let text = sandbox.ok(&["show", "job"]);
    let pid = holder.wrapper.pid().to_string();
    let token = sandbox.token("job").to_string();
    for part in ["job", "held", &pid, "caslock", &token, "alive", "ticket 42"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let unknown = sandbox.run(&["show", "other"]);
    assert_eq!(unknown.code(), 1, "{unknown:?}");
    assert!(unknown.stderr.contains("\"other\""), "{unknown:?}");
}

/// Only `sessions` marked the PIDs of containers, which may be anybody's here.
#[test]
fn pids_of_other_namespaces_are_marked_wherever_they_are_shown() {
    let sandbox = Sandbox::new();
    let mut command = sandbox.command("unshare");
    command.args(["--pid", "--fork", "--kill-child", "--mount-proc", CASLOCK]);
    command.args(["run", "job", "--", "sh", "-c", "echo up; exec sleep 1000"]);
    let mut holder = sandbox.start(command);
    if holder.next_line().as_deref() != Some("up") {
        skip("PID namespaces take CAP_SYS_ADMIN");
        return;
    }
    let token = sandbox.token("job").to_string();
    let force = ["force-release", "job", "--token", &token];
    let sentences = [
        sandbox.ok(&["show", "job"]),
        sandbox.run(&["run", "-n", "job", "--", "true"]).stderr,
        sandbox
            .run(&["run", "-w", "1.2", "job", "--", "true"])
            .stderr,
        sandbox.run(&force).stderr,
    ];
    let marked = "process (1) (caslock) in another PID namespace";
    for text in sentences {
        assert!(text.lines().any(|line| line.contains(marked)), "{text}");
        assert!(!text.contains("process 1 "), "{text}");
    }
    for verb in ["ls", "sessions"] {
        let text = sandbox.ok(&[verb]);
        assert!(text.contains(" (1)  caslock "), "{text}");
    }
    assert_eq!(sandbox.slot("job")["holder"]["same_pid_namespace"], false);
    let forced = sandbox.ok(&[&force[..], &["--even-if-alive"]].concat());
    assert!(forced.contains(marked), "{forced}");
}
