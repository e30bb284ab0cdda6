//! The lines that are there to be pasted: they are about the table that was looked at.

mod common;

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{CASLOCK, Outcome, Running, Sandbox};

/// Where `caslock` is made to look: no table is named, and the default one is in here.
fn elsewhere(sandbox: &Sandbox, mut command: Command) -> Command {
    let directory = Path::new(CASLOCK).parent().expect("its directory");
    let others = env::var_os("PATH").unwrap_or_default();
    let path = [PathBuf::from(directory)]
        .into_iter()
        .chain(env::split_paths(&others));
    command
        .env_remove("CASLOCK_TABLE")
        .env("XDG_RUNTIME_DIR", sandbox.path())
        .env("PATH", env::join_paths(path).expect("a search path"));
    command
}

/// Pastes a line into a shell that knows of no table.
fn in_a_shell(sandbox: &Sandbox, line: &str) -> Outcome {
    let mut shell = sandbox.command("sh");
    shell.args(["-c", line]);
    sandbox.start(elsewhere(sandbox, shell)).finish()
}

/// The one command line that a text proposes, without what is said around it.
fn proposed(text: &str) -> &str {
    let from = text.find("caslock force-release ");
    let from = from.or_else(|| text.find("caslock --table "));
    let line = &text[from.unwrap_or_else(|| panic!("nothing to paste: {text}"))..];
    let number = line.find(" --token ").expect("a token") + " --token ".len();
    let digits = line[number..].bytes().take_while(u8::is_ascii_digit);
    &line[..number + digits.count()]
}

/// Leaves "job" abandoned in the table that these options choose, has it shown by a verb,
/// pastes what that proposes into a shell that knows of no table, and gives it back.
fn paste(sandbox: &Sandbox, table: &[&str], verb: &[&str]) -> String {
    let run = |args: &[&str]| {
        let args = [table, args].concat();
        sandbox
            .start(elsewhere(sandbox, sandbox.caslock(&args)))
            .finish()
    };
    let killed = [
        "run",
        "job",
        "--",
        "sh",
        "-c",
        "kill -9 $PPID; exec sleep 1000",
    ];
    run(&killed);
    let declined = run(&["run", "--on-abandoned", "fail", "job", "--", "true"]);
    assert_eq!(declined.code(), 121, "{declined:?}");
    let shown = run(verb).stdout;
    let line = proposed(&shown).to_owned();
    let pasted = in_a_shell(sandbox, &line);
    assert_eq!(pasted.code(), 0, "{line}: {pasted:?}");
    let after = run(&["show", "job"]).stdout;
    assert!(after.contains("free"), "{line}: {after}");
    line
}

#[test]
fn what_is_pasted_into_another_terminal_is_about_the_same_table() {
    let sandbox = Sandbox::new();
    let table = sandbox.path().join("my own.table");
    let table = table.to_str().expect("a readable path");
    for verb in [&["show", "job"][..], &["doctor"]] {
        let line = paste(&sandbox, &["--table", table], verb);
        assert!(line.contains(&format!("--table '{table}' ")), "{line}");
    }
}

#[test]
fn the_default_table_goes_without_saying() {
    let sandbox = Sandbox::new();
    for verb in [&["show", "job"][..], &["doctor"]] {
        let line = paste(&sandbox, &[], verb);
        assert!(!line.contains("--table"), "{line}");
    }
}

#[test]
fn the_default_table_is_named_where_a_variable_names_another() {
    let sandbox = Sandbox::new();
    let table = sandbox.table();
    let show = ["--table", "caslock/default.table", "show", "other"];
    let run = ["run", "job", "--", "true"];
    sandbox
        .start(elsewhere(&sandbox, sandbox.caslock(&run)))
        .finish();
    let mut command = elsewhere(&sandbox, sandbox.caslock(&show));
    command.env("CASLOCK_TABLE", &table);
    let shown = sandbox.start(command).finish();
    assert!(shown.stderr.contains("`caslock --table /"), "{shown:?}");
}

/// Has a shell that knows of no table run all that a text proposes.
fn follow(sandbox: &Sandbox, text: &str) -> Vec<Outcome> {
    let proposed = text.split('`').skip(1).step_by(2);
    proposed.map(|line| in_a_shell(sandbox, line)).collect()
}

/// It was told that a forced release helps, and of what lock nobody said.
#[test]
fn a_full_table_leads_to_what_makes_room() {
    let sandbox = Sandbox::new();
    let table = sandbox.path().join("my own.table");
    let table = table.to_str().expect("a readable path");
    sandbox.ok(&["create", "--slots", "1", table]);
    let run = |args: &[&str]| sandbox.run(&[&["--table", table, "run"], args].concat());
    run(&["old", "--", "sh", "-c", "kill -9 $PPID; exec sleep 1000"]);
    // That is not known to be abandoned yet: it takes two looks.
    for is_known in [false, true] {
        let refused = run(&["new", "--", "true"]);
        assert_eq!(refused.code(), 73, "{refused:?}");
        let [ls, doctor] = &follow(&sandbox, &refused.stderr)[..] else {
            panic!("not two commands: {refused:?}");
        };
        assert!(ls.stdout.contains("\nold "), "{ls:?}");
        let freed = in_a_shell(&sandbox, proposed(&doctor.stdout));
        assert_eq!(freed.code(), 0, "{doctor:?}, {freed:?}");
        assert_eq!(freed.stdout.contains("acknowledged"), is_known, "{freed:?}");
    }
    let granted = run(&["new", "--", "true"]);
    assert_eq!(granted.code(), 0, "{granted:?}");
}

/// It was `caslock sessions`, which was about the default table.
#[test]
fn a_table_out_of_sessions_names_itself_in_what_it_proposes() {
    let sandbox = Sandbox::new();
    let table = sandbox.path().join("my own.table");
    let table = table.to_str().expect("a readable path");
    sandbox.ok(&["create", "--sessions", "1", table]);
    let hold = ["--table", table, "run", "job", "--"];
    let script = ["sh", "-c", "echo $$; exec sleep 1000"];
    let holder = sandbox.caslock(&[&hold[..], &script].concat());
    let holder = Running::of(sandbox.start(holder));
    let refused = sandbox.run(&["--table", table, "run", "-n", "other", "--", "true"]);
    let outcomes = follow(&sandbox, &refused.stderr);
    assert_eq!(outcomes.len(), 2, "{refused:?}");
    let pid = holder.wrapper.pid().to_string();
    assert!(outcomes[0].stdout.contains(&pid), "{outcomes:?}");
    assert!(outcomes[1].stdout.contains("1 of 1 in use"), "{outcomes:?}");
}
