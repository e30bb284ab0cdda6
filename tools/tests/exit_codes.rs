//! The exit codes of every verb, as scripts rely on them.

mod common;

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::process::CommandExt;

use caslock::Inspector;
use nix::unistd::geteuid;

use common::{CASLOCK, Sandbox, skip, until};

#[test]
fn the_commands_own_code_passes_through() {
    let sandbox = Sandbox::new();
    for code in [0, 1, 37, 255] {
        let script = format!("exit {code}");
        let outcome = sandbox.run(&["run", "job", "--", "sh", "-c", &script]);
        assert_eq!(outcome.code(), code, "{outcome:?}");
        assert_eq!(outcome.stderr, "");
    }
}

#[test]
fn a_command_that_a_signal_ended_comes_out_as_128_and_its_number() {
    let sandbox = Sandbox::new();
    for signal in [1, 9, 15] {
        let script = format!("kill -{signal} $$");
        let outcome = sandbox.run(&["run", "job", "--", "sh", "-c", &script]);
        assert_eq!(outcome.code(), 128 + signal, "{outcome:?}");
    }
}

#[test]
fn busy_is_75_or_what_was_asked_for() {
    let sandbox = Sandbox::new();
    let holder = sandbox.hold_with(&["--note", "the nightly one"], "job", "exec sleep 1000");
    let busy = sandbox.run(&["run", "-n", "job", "--", "echo", "ran"]);
    assert_eq!(busy.code(), 75, "{busy:?}");
    assert_eq!(busy.stdout, "");
    assert!(
        busy.stderr.ends_with(", note \"the nightly one\"\n"),
        "{busy:?}"
    );
    let who = format!("held by process {}", holder.wrapper.pid());
    assert!(busy.stderr.contains(&who), "{busy:?}");
    assert!(busy.stderr.contains("\"job\""), "{busy:?}");
    let table = sandbox.table();
    assert!(busy.stderr.contains(table.to_str().expect("a UTF-8 path")));

    let chosen = sandbox.run(&["run", "-n", "-E", "9", "job", "--", "true"]);
    assert_eq!(chosen.code(), 9, "{chosen:?}");
    let nothing = sandbox.run(&["run", "-n", "-E", "0", "job", "--", "false"]);
    assert_eq!(nothing.code(), 0, "{nothing:?}");
}

#[test]
fn timed_out_is_124_or_what_was_asked_for() {
    let sandbox = Sandbox::new();
    let _holder = sandbox.hold("job");
    for wait in ["0", "0.2"] {
        let late = sandbox.run(&["run", "-w", wait, "job", "--", "echo", "ran"]);
        assert_eq!(late.code(), 124, "{late:?}");
        assert_eq!(late.stdout, "");
    }
    let chosen = sandbox.run(&["run", "-w", "0.1", "-E", "9", "job", "--", "true"]);
    assert_eq!(chosen.code(), 9, "{chosen:?}");
}

/// The other tests have the short ones.
#[test]
fn the_long_flags_do_what_the_short_ones_do() {
    let sandbox = Sandbox::new();
    let _holder = sandbox.hold("job");
    let code = |flags: &[&str]| {
        let outcome = sandbox.run(&[&["run"], flags, &["job", "--", "true"]].concat());
        assert_ne!(outcome.stderr, "");
        outcome.code()
    };
    assert_eq!(code(&["--nonblock"]), 75);
    assert_eq!(code(&["--wait", "0.1"]), 124);
    assert_eq!(code(&["--nonblock", "--conflict-exit-code", "9"]), 9);
    assert_eq!(code(&["--wait=0.1", "--conflict-exit-code=9"]), 9);
}

#[test]
fn misuse_is_64() {
    let sandbox = Sandbox::new();
    let long_note = "x".repeat(1000);
    let long_name = "x".repeat(256);
    let cases: &[&[&str]] = &[
        &[],
        &["rum"],
        &["run"],
        &["run", "job"],
        &["run", "-n", "-w", "1", "job", "--", "true"],
        &["run", "-w", "-1", "job", "--", "true"],
        &["run", "-w", "soon", "job", "--", "true"],
        &["run", "-E", "256", "job", "--", "true"],
        &["run", "--on-lost", "panic", "job", "--", "true"],
        &["run", "--note", &long_note, "job", "--", "true"],
        &["run", "", "--", "true"],
        &["run", &long_name, "--", "true"],
        &["create"],
        &["create", "--slots", "0", "new.table"],
        &["create", "--lease", "0.000001", "new.table"],
        &[
            "create",
            "--reclaim",
            "on-death",
            "--lease",
            "5",
            "new.table",
        ],
        &["create", "--mode", "0999", "new.table"],
        &["create", "--mode", "0666", "new.table"],
        &["create", "--mode", "0400", "new.table"],
        &["force-release", "job"],
        &["show"],
    ];
    for args in cases {
        let outcome = sandbox.run(args);
        assert_eq!(outcome.code(), 64, "{args:?}: {outcome:?}");
        assert_ne!(outcome.stderr, "", "{args:?}");
        assert_eq!(outcome.stdout, "", "{args:?}");
    }
    assert!(!sandbox.path().join("new.table").exists());
}

/// What it takes for an option is said of it, and not how to pass it for something else.
#[test]
fn a_number_that_will_not_do_is_refused_for_what_it_is() {
    let sandbox = Sandbox::new();
    let cases: &[&[&str]] = &[
        &["run", "-w", "-1", "job", "--", "true"],
        &["run", "-w", "inf", "job", "--", "true"],
        &["run", "--kill-after", "-1", "job", "--", "true"],
        &["run", "-E", "-1", "job", "--", "true"],
        &["create", "--lease", "-1", "new.table"],
        &["create", "--slots", "-1", "new.table"],
        &["create", "--sessions", "-1", "new.table"],
        &["create", "--mode", "-1", "new.table"],
        &["force-release", "job", "--token", "-1"],
        &["bench", "--processes", "-1"],
        &["bench", "--section", "-1"],
        &["bench", "--seconds", "-1"],
    ];
    for args in cases {
        let outcome = sandbox.run(args);
        assert_eq!(outcome.code(), 64, "{args:?}: {outcome:?}");
        assert!(outcome.stderr.contains("invalid value '"), "{outcome:?}");
        for beside_the_point in ["tip:", "Duration"] {
            let says_it = outcome.stderr.contains(beside_the_point);
            assert!(!says_it, "{args:?}: {outcome:?}");
        }
    }
}

#[test]
fn help_and_version_are_0_and_every_verb_teaches_by_example() {
    let sandbox = Sandbox::new();
    assert!(sandbox.ok(&["--version"]).starts_with("caslock "));
    let help = sandbox.ok(&["--help"]);
    assert!(help.contains("Examples:"), "{help}");
    // There is no line to be the next in.
    assert!(!help.contains("next in line"), "{help}");
    for (verb, reads_the_variable) in [
        ("run", true),
        ("create", false),
        ("ls", true),
        ("show", true),
        ("force-release", true),
        ("sessions", true),
        ("doctor", true),
        ("bench", false),
    ] {
        for help in [&[verb, "--help"], &["help", verb]] {
            let help = sandbox.ok(help);
            assert!(help.contains("Examples:"), "{verb}: {help}");
            assert!(help.contains("caslock"), "{verb}: {help}");
            assert!(help.contains("--table <PATH>"), "{verb}: {help}");
            let says_so = help.contains("[env: CASLOCK_TABLE]");
            assert_eq!(says_so, reads_the_variable, "{verb}: {help}");
        }
    }
}

#[test]
fn no_such_table_is_66_and_looking_creates_none() {
    let sandbox = Sandbox::new();
    let cases: &[&[&str]] = &[
        &["ls"],
        &["show", "job"],
        &["sessions"],
        &["doctor"],
        &["force-release", "job", "--token", "1"],
    ];
    for args in cases {
        let outcome = sandbox.run(args);
        assert_eq!(outcome.code(), 66, "{args:?}: {outcome:?}");
        assert!(outcome.stderr.contains("no such lock table"), "{outcome:?}");
    }
    assert!(!sandbox.table().exists());
}

#[test]
fn a_file_that_is_no_table_is_66_and_stays_as_it_is() {
    let sandbox = Sandbox::new();
    let text = "somebody's shopping list\n".repeat(1000);
    fs::write(sandbox.table(), &text).expect("a file");
    fs::set_permissions(sandbox.table(), fs::Permissions::from_mode(0o600)).expect("its mode");
    let outcome = sandbox.run(&["run", "job", "--", "true"]);
    assert_eq!(outcome.code(), 66, "{outcome:?}");
    assert_eq!(fs::read_to_string(sandbox.table()).expect("the file"), text);
}

#[test]
fn a_table_that_cannot_be_created_is_73() {
    let sandbox = Sandbox::new();
    let cases: &[&[&str]] = &[
        &["--table", "no/such/place", "run", "job", "--", "true"],
        &["create", "no/such/place"],
    ];
    for args in cases {
        let nowhere = sandbox.run(args);
        assert_eq!(nowhere.code(), 73, "{nowhere:?}");
        let why = "its directory does not exist";
        assert!(nowhere.stderr.contains(why), "{nowhere:?}");
    }
    let look = sandbox.run(&["--table", "no/such/place", "ls"]);
    assert_eq!(look.code(), 66, "{look:?}");

    sandbox.ok(&["create", "new.table"]);
    let again = sandbox.run(&["create", "new.table"]);
    assert_eq!(again.code(), 73, "{again:?}");
    assert_eq!(again.stderr.matches("new.table").count(), 1, "{again:?}");
}

/// These were 125, as if something in caslock had failed, and the path with a slash at its
/// end made a file without one.
#[test]
fn a_path_that_can_hold_no_table_is_73() {
    let sandbox = Sandbox::new();
    sandbox.ok(&["create", "test.table"]);
    let long = "x".repeat(300);
    for path in ["newdir/", "test.table/", "test.table/inside", &long] {
        for args in [
            &["--table", path, "run", "job", "--", "true"][..],
            &["create", path],
        ] {
            let outcome = sandbox.run(args);
            assert_eq!(outcome.code(), 73, "{args:?}: {outcome:?}");
            assert!(outcome.stderr.contains(path), "{args:?}: {outcome:?}");
        }
    }
    let files = fs::read_dir(sandbox.path()).expect("the sandbox");
    assert_eq!(files.count(), 1);
}

#[test]
fn a_filesystem_that_nobody_may_write_to_is_73() {
    let sandbox = Sandbox::new();
    sandbox.ok(&["create", "test.table"]);
    let new = sandbox.path().join("new.table");
    let new = new.to_str().expect("a UTF-8 path");
    let read_only = "mount --bind . . && mount -o remount,bind,ro .";
    for args in [
        &["create", new][..],
        &["--table", new, "run", "job", "--", "true"],
        &["run", "job", "--", "true"],
    ] {
        let Some(outcome) = sandbox.run_with_mounts(read_only, args) else {
            return;
        };
        assert_eq!(outcome.code(), 73, "{args:?}: {outcome:?}");
        assert!(outcome.stderr.contains("Read-only"), "{outcome:?}");
    }
    let look = sandbox.run_with_mounts(read_only, &["ls"]);
    assert_eq!(look.expect("as before").code(), 0);
}

/// Where the kernel forgets byte locks, as on an overlay, a table would protect nothing.
#[test]
fn a_filesystem_that_no_table_may_be_on_is_73() {
    let sandbox = Sandbox::new();
    for name in ["lower", "upper", "work", "merged"] {
        fs::create_dir(sandbox.path().join(name)).expect("a directory");
    }
    let at = sandbox.path().display();
    let layers = format!("lowerdir={at}/lower,upperdir={at}/upper,workdir={at}/work");
    let overlay = format!("mount -t overlay -o {layers} overlay {at}/merged");
    assert_no_table_there(&sandbox, &overlay, "merged/new.table", "overlay");
}

fn assert_no_table_there(sandbox: &Sandbox, mount: &str, path: &str, why: &str) {
    for args in [
        &["create", path][..],
        &["--table", path, "run", "job", "--", "true"],
    ] {
        let Some(outcome) = sandbox.run_with_mounts(mount, args) else {
            return;
        };
        assert_eq!(outcome.code(), 73, "{args:?}: {outcome:?}");
        assert!(outcome.stderr.contains(why), "{args:?}: {outcome:?}");
    }
}

#[test]
fn a_filesystem_without_the_room_for_a_table_is_73() {
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.path().join("small")).expect("a directory");
    let small = "mount -t tmpfs -o size=16k tmpfs small";
    assert_no_table_there(&sandbox, small, "small/new.table", "bytes");
}

#[test]
fn a_table_without_a_free_slot_is_73() {
    let sandbox = Sandbox::new();
    sandbox.ok(&["create", "--slots", "1", "test.table"]);
    // A name that nobody uses would make room.
    let _holder = sandbox.hold("job");
    let outcome = sandbox.run(&["run", "other", "--", "echo", "ran"]);
    assert_eq!(outcome.code(), 73, "{outcome:?}");
    assert_eq!(outcome.stdout, "");
    assert!(outcome.stderr.contains("\"other\""), "{outcome:?}");
}

#[test]
fn a_waiter_whose_table_is_replaced_ends_with_66() {
    let sandbox = Sandbox::new();
    let _holder = sandbox.hold("job");
    let waiter = sandbox.start(sandbox.caslock(&["run", "job", "--", "echo", "ran"]));
    until("it waits", || sandbox.slot("job")["waiters"] == 1);
    sandbox.ok(&["create", "new.table"]);
    fs::rename(sandbox.path().join("new.table"), sandbox.table()).expect("renamed");
    let outcome = waiter.finish();
    assert_eq!(outcome.code(), 66, "{outcome:?}");
    assert_eq!(outcome.stdout, "");
}

#[test]
fn a_new_table_has_the_mode_and_the_slots_that_were_asked_for() {
    let sandbox = Sandbox::new();
    let numbers = ["--mode", "0640", "--slots", "70000"];
    sandbox.ok(&[&["create"], &numbers[..], &["test.table"]].concat());
    let found = fs::metadata(sandbox.table()).expect("the table");
    assert_eq!(found.permissions().mode() & 0o7777, 0o640);
    let inspector = Inspector::open(sandbox.table()).expect("the table opens");
    let snapshot = inspector.snapshot().expect("not forked");
    assert_eq!(snapshot.table.slots, 70_000);
}

/// What was missing was said to be the directory, whatever it was.
#[test]
fn without_a_proc_that_is_what_is_said_to_be_missing() {
    let sandbox = Sandbox::new();
    sandbox.ok(&["create", "test.table"]);
    let without_proc = |args: &[&str]| sandbox.run_with_mounts("umount -l /proc", args);
    for args in [
        &["run", "job", "--", "true"][..],
        &["--table", "new.table", "run", "job", "--", "true"],
        &["create", "new.table"],
    ] {
        let Some(outcome) = without_proc(args) else {
            return;
        };
        assert_eq!(outcome.code(), 125, "{args:?}: {outcome:?}");
        assert!(outcome.stderr.contains("/proc"), "{args:?}: {outcome:?}");
        assert!(!outcome.stderr.contains("its directory"), "{outcome:?}");
    }
    let nowhere = without_proc(&["create", "no/such/place"]).expect("as before");
    assert_eq!(nowhere.code(), 73, "{nowhere:?}");
    assert!(nowhere.stderr.contains("its directory"), "{nowhere:?}");
}

#[test]
fn a_new_tables_path_is_named_once_either_way() {
    let sandbox = Sandbox::new();
    sandbox.ok(&["create", "--table", "one.table"]);
    sandbox.ok(&["--table", "two.table", "create"]);
    for name in ["one.table", "two.table"] {
        sandbox.ok(&["--table", name, "run", "job", "--", "true"]);
    }
    let twice = sandbox.run(&["create", "three.table", "--table", "four.table"]);
    assert_eq!(twice.code(), 64, "{twice:?}");
    let paths = ["three.table", "four.table"];
    for name in paths {
        assert!(twice.stderr.contains(name), "{twice:?}");
        assert!(!sandbox.path().join(name).exists());
    }
    // The sandbox's environment names a table, which is not meant here.
    let nowhere = sandbox.run(&["create", "--slots", "9"]);
    assert_eq!(nowhere.code(), 64, "{nowhere:?}");
    assert!(nowhere.stderr.contains("caslock create"), "{nowhere:?}");
    assert!(!sandbox.table().exists());
}

#[test]
fn a_file_that_is_not_to_be_trusted_is_77() {
    let sandbox = Sandbox::new();
    sandbox.ok(&["create", "test.table"]);

    symlink(sandbox.table(), sandbox.path().join("link")).expect("a symbolic link");
    let link = sandbox.run(&["--table", "link", "run", "job", "--", "true"]);
    assert_eq!(link.code(), 77, "{link:?}");

    fs::set_permissions(sandbox.table(), fs::Permissions::from_mode(0o666)).expect("its mode");
    let open = sandbox.run(&["run", "job", "--", "true"]);
    assert_eq!(open.code(), 77, "{open:?}");

    fs::set_permissions(sandbox.table(), fs::Permissions::from_mode(0o600)).expect("its mode");
    let second = sandbox.path().join("second");
    fs::hard_link(sandbox.table(), &second).expect("a hard link");
    let linked = sandbox.run(&["run", "job", "--", "true"]);
    assert_eq!(linked.code(), 77, "{linked:?}");
    fs::remove_file(second).expect("unlinked");
    sandbox.ok(&["run", "job", "--", "true"]);
}

/// Root's trap: a file that anybody may have put there.
#[test]
fn a_strangers_file_where_anybody_may_put_one_is_77() {
    let sandbox = Sandbox::new();
    if !geteuid().is_root() {
        skip("to give a file away takes CAP_CHOWN");
        return;
    }
    sandbox.ok(&["create", "test.table"]);
    chown(sandbox.table(), Some(54_321), None).expect("given away");
    sandbox.ok(&["run", "job", "--", "true"]);
    let anybodys = fs::Permissions::from_mode(0o1777);
    fs::set_permissions(sandbox.path(), anybodys).expect("its mode");
    let outcome = sandbox.run(&["run", "job", "--", "true"]);
    assert_eq!(outcome.code(), 77, "{outcome:?}");
    assert!(outcome.stderr.contains("54321"), "{outcome:?}");
}

#[test]
fn what_may_not_be_read_or_written_is_77() {
    let sandbox = Sandbox::new();
    sandbox.ok(&["create", "test.table"]);
    fs::set_permissions(sandbox.table(), fs::Permissions::from_mode(0o000)).expect("its mode");
    // Root may read everything; and nobody else what lies in root's directories.
    let program = sandbox.program_for_all();
    let another = ["--table", "another.table", "run", "job", "--", "true"];
    for (args, why) in [
        (
            &["run", "job", "--", "true"][..],
            "takes read and write access",
        ),
        (&["ls"], "takes read access"),
        (&another, "takes write access to its directory"),
    ] {
        let mut command = sandbox.command(&program);
        command.args(args);
        if geteuid().is_root() {
            command.uid(65_534).gid(65_534);
        } else if args == another {
            fs::set_permissions(sandbox.path(), fs::Permissions::from_mode(0o555)).expect("it");
        }
        let outcome = sandbox.start(command).finish();
        assert_eq!(outcome.code(), 77, "{outcome:?}");
        assert!(outcome.stderr.contains(why), "{outcome:?}");
    }
    fs::set_permissions(sandbox.path(), fs::Permissions::from_mode(0o755)).expect("its mode");
}

#[test]
fn a_command_that_is_not_found_is_127_and_the_lock_is_released() {
    let sandbox = Sandbox::new();
    let outcome = sandbox.run(&["run", "job", "--", "no-such-command-anywhere"]);
    assert_eq!(outcome.code(), 127, "{outcome:?}");
    assert!(outcome.stderr.contains("no-such-command-anywhere"));
    let previous = sandbox.ok(&["run", "-n", "job", "--", "printenv", "CASLOCK_PREVIOUS"]);
    assert_eq!(previous, "released\n");
}

#[test]
fn a_command_that_cannot_be_executed_is_126_and_the_lock_is_released() {
    let sandbox = Sandbox::new();
    fs::write(sandbox.path().join("text"), "not a program\n").expect("a file");
    let outcome = sandbox.run(&["run", "job", "--", "./text"]);
    assert_eq!(outcome.code(), 126, "{outcome:?}");
    let previous = sandbox.ok(&["run", "-n", "job", "--", "printenv", "CASLOCK_PREVIOUS"]);
    assert_eq!(previous, "released\n");
}

#[test]
fn a_lock_lost_while_the_command_runs_is_120() {
    let sandbox = Sandbox::new();
    // The command takes its SIGTERM well and ends with 0: it is a loss all the same.
    let script = "trap 'echo told; exit 0' TERM; while :; do sleep 0.05; done";
    let holder = sandbox.hold_with(&[], "job", script);
    force(&sandbox);
    let outcome = holder.wrapper.finish();
    assert_eq!(outcome.code(), 120, "{outcome:?}");
    assert_eq!(outcome.stdout, "told\n");
    assert!(outcome.stderr.contains("lost \"job\""), "{outcome:?}");
}

#[test]
fn a_command_that_will_not_end_when_its_lock_is_lost_is_killed() {
    let sandbox = Sandbox::new();
    let script = "trap '' TERM; while :; do sleep 0.05; done";
    let holder = sandbox.hold_with(&["--kill-after", "0.2"], "job", script);
    let command = holder.command;
    force(&sandbox);
    let outcome = holder.wrapper.finish();
    assert_eq!(outcome.code(), 120, "{outcome:?}");
    assert!(command.is_gone());
}

#[test]
fn on_lost_kill_does_not_ask() {
    let sandbox = Sandbox::new();
    let script = "trap 'echo told' TERM; while :; do sleep 0.05; done";
    let holder = sandbox.hold_with(&["--on-lost", "kill"], "job", script);
    let command = holder.command;
    force(&sandbox);
    let outcome = holder.wrapper.finish();
    assert_eq!(outcome.code(), 120, "{outcome:?}");
    assert_eq!(outcome.stdout, "");
    assert!(command.is_gone());
}

#[test]
fn on_lost_none_lets_the_command_finish_and_is_still_120() {
    let sandbox = Sandbox::new();
    let script = "while [ ! -e go ]; do sleep 0.02; done; echo finished";
    let holder = sandbox.hold_with(&["--on-lost", "none"], "job", script);
    force(&sandbox);
    fs::write(sandbox.path().join("go"), "").expect("a file");
    let outcome = holder.wrapper.finish();
    assert_eq!(outcome.code(), 120, "{outcome:?}");
    assert_eq!(outcome.stdout, "finished\n");
    assert!(outcome.stderr.contains("lost \"job\""), "{outcome:?}");
}

fn force(sandbox: &Sandbox) {
    sandbox.take("job");
}

#[test]
fn an_abandoned_lock_is_121_until_somebody_has_looked() {
    let sandbox = Sandbox::new();
    let pid = sandbox.abandon("job");
    let mut tokens = Vec::new();
    for round in 0..3 {
        let args = ["run", "--on-abandoned", "fail", "job", "--", "echo", "ran"];
        let outcome = sandbox.run(&args);
        assert_eq!(outcome.code(), 121, "{outcome:?}");
        assert_eq!(outcome.stdout, "");
        let who = format!("process {pid} died holding it");
        assert!(outcome.stderr.contains(&who), "{outcome:?}");
        tokens.push(sandbox.token("job"));
        // The first has had to take it to see that it is abandoned; and so may others do that
        // wait beside it, with a token each.
        let told = match round {
            0 => " show job` says how".to_owned(),
            _ => format!(" --token {}`", tokens[0]),
        };
        assert!(outcome.stderr.contains(&told), "{told}: {outcome:?}");
    }
    assert_eq!(sandbox.slot("job")["state"], "abandoned");
    let token = tokens[0].to_string();
    sandbox.ok(&["force-release", "job", "--token", &token]);
    sandbox.ok(&["run", "--on-abandoned", "fail", "job", "--", "true"]);
}

/// Or one typing error would defeat the next job's `--on-abandoned fail`.
#[test]
fn a_command_that_cannot_be_started_leaves_the_news_to_the_next() {
    let sandbox = Sandbox::new();
    sandbox.abandon("job");
    assert_eq!(sandbox.run(&["run", "job", "--", "./typo"]).code(), 127);
    assert_eq!(sandbox.slot("job")["state"], "abandoned");
    let fail = ["run", "--on-abandoned", "fail", "job", "--", "echo", "ran"];
    assert_eq!(sandbox.run(&fail).code(), 121);
    // Where there are none, it was an ordinary release.
    assert_eq!(sandbox.run(&["run", "other", "--", "./typo"]).code(), 127);
    assert_eq!(sandbox.slot("other")["state"], "free");
}

#[test]
fn a_command_that_is_not_started_for_want_of_descriptors_leaves_the_news_to_the_next() {
    let sandbox = Sandbox::new();
    sandbox.abandon("job");
    let mut told = Vec::new();
    // From three on it has what it needs at some number, be it started with some more than that.
    for limit in 3..100 {
        let script = format!("ulimit -n {limit}; exec \"$0\" run job true");
        let mut command = sandbox.command("sh");
        command.args(["-c", &script, CASLOCK]);
        let outcome = sandbox.start(command).finish();
        if outcome.code() == 0 {
            break;
        }
        assert_ne!(sandbox.slot("job")["state"], "free", "{limit}: {outcome:?}");
        told.push(outcome.stderr);
    }
    assert_eq!(sandbox.slot("job")["state"], "free");
    let are_after_the_grant = told.iter().filter(|it| it.contains("was not started"));
    assert!(are_after_the_grant.count() > 0, "{told:?}");
}

#[test]
fn a_table_that_is_gone_after_the_command_is_told_of() {
    let sandbox = Sandbox::new();
    let script = "rm \"$CASLOCK_TABLE\"; [ -z \"$1\" ] || \"$1\" create \"$CASLOCK_TABLE\"; exit 5";
    for creator in ["", CASLOCK] {
        let outcome = sandbox.run(&["run", "job", "sh", "-c", script, "sh", creator]);
        assert_eq!(outcome.code(), 5, "{outcome:?}");
        let told = "the table was removed or replaced: whoever has opened the path since";
        assert!(outcome.stderr.contains(told), "{outcome:?}");
    }
    assert_eq!(sandbox.run(&["run", "job", "true"]).stderr, "");
    // Not hours later.
    let told = sandbox.path().join("told");
    let script = "rm \"$CASLOCK_TABLE\"; until [ -s told ]; do sleep 0.1; done; cat told";
    let mut command = sandbox.caslock(&["run", "job", "sh", "-c", script]);
    command.stderr(File::create(&told).unwrap());
    let outcome = sandbox.start(command).finish();
    assert_eq!(outcome.code(), 0, "{outcome:?}");
    assert!(
        outcome.stdout.contains("is not kept from \"job\""),
        "{outcome:?}"
    );
    assert_eq!(
        fs::read_to_string(&told).unwrap(),
        outcome.stdout,
        "said once"
    );
}

#[test]
fn an_abandoned_lock_is_announced_in_one_line_and_taken() {
    let sandbox = Sandbox::new();
    let pid = sandbox.abandon("job");
    let outcome = sandbox.run(&["run", "job", "--", "printenv", "CASLOCK_PREVIOUS"]);
    assert_eq!(outcome.code(), 0, "{outcome:?}");
    assert_eq!(outcome.stdout, "died\n");
    assert_eq!(outcome.stderr.lines().count(), 1, "{outcome:?}");
    let who = format!("process {pid} died holding it");
    assert!(outcome.stderr.contains(&who), "{outcome:?}");
}

#[test]
fn a_table_without_a_free_session_is_125() {
    let sandbox = Sandbox::new();
    sandbox.ok(&["create", "--sessions", "1", "test.table"]);
    let _holder = sandbox.hold("job");
    let outcome = sandbox.run(&["run", "-n", "other", "--", "true"]);
    assert_eq!(outcome.code(), 125, "{outcome:?}");
    let why = "the only session is in use";
    assert!(outcome.stderr.contains(why), "{outcome:?}");
}
