//! Which table: the option, the variable, the default, and what is refused as a default.

mod common;

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::Command;

use common::{Outcome, Sandbox, skip};

const TRUE: &[&str] = &["run", "job", "--", "true"];

/// A command that has nothing but XDG_RUNTIME_DIR to go by.
fn with_runtime(sandbox: &Sandbox, args: &[&str]) -> Command {
    let mut command = sandbox.caslock(args);
    command
        .env_remove("CASLOCK_TABLE")
        .env("XDG_RUNTIME_DIR", sandbox.path());
    command
}

fn finish(sandbox: &Sandbox, command: Command) -> Outcome {
    sandbox.start(command).finish()
}

fn default_directory(sandbox: &Sandbox) -> PathBuf {
    sandbox.path().join("caslock")
}

#[test]
fn the_option_beats_the_variable_and_may_stand_before_or_after_the_verb() {
    let sandbox = Sandbox::new();
    for args in [
        ["--table", "x.table", "run", "job", "--", "true"],
        ["run", "--table", "y.table", "job", "--", "true"],
    ] {
        assert_eq!(sandbox.run(&args).code(), 0);
    }
    assert!(sandbox.path().join("x.table").exists());
    assert!(sandbox.path().join("y.table").exists());
    assert!(!sandbox.table().exists());
    sandbox.ok(TRUE);
    assert!(sandbox.table().exists());
}

#[test]
fn an_empty_variable_is_one_that_is_not_set() {
    let sandbox = Sandbox::new();
    let mut command = with_runtime(&sandbox, TRUE);
    command.env("CASLOCK_TABLE", "");
    assert_eq!(finish(&sandbox, command).code(), 0);
    assert!(default_directory(&sandbox).join("default.table").exists());

    let forgotten = sandbox.run(&["--table", "", "run", "job", "--", "true"]);
    assert_eq!(forgotten.code(), 64, "{forgotten:?}");
}

#[test]
fn the_default_directory_is_made_for_its_user_alone() {
    let sandbox = Sandbox::new();
    let missing = finish(&sandbox, with_runtime(&sandbox, &["ls"]));
    assert_eq!(missing.code(), 66, "{missing:?}");
    assert!(!default_directory(&sandbox).exists());

    assert_eq!(finish(&sandbox, with_runtime(&sandbox, TRUE)).code(), 0);
    let made = fs::metadata(default_directory(&sandbox)).expect("the directory");
    assert_eq!(made.permissions().mode() & 0o7777, 0o700);
    let listed = finish(&sandbox, with_runtime(&sandbox, &["ls"]));
    assert!(listed.stdout.contains("job"), "{listed:?}");
}

#[test]
fn a_planted_directory_is_refused() {
    let sandbox = Sandbox::new();
    let directory = default_directory(&sandbox);
    let assert_refused = |what: &str| {
        for args in [TRUE, &["ls"]] {
            let refused = finish(&sandbox, with_runtime(&sandbox, args));
            assert_eq!(refused.code(), 77, "{what}: {refused:?}");
            assert!(refused.stderr.contains("caslock: /"), "{refused:?}");
        }
    };

    let elsewhere = sandbox.path().join("elsewhere");
    fs::create_dir(&elsewhere).expect("a directory");
    symlink(&elsewhere, &directory).expect("a symbolic link");
    assert_refused("a symbolic link");
    fs::remove_file(&directory).expect("the link goes");

    fs::write(&directory, "").expect("a file");
    assert_refused("a file");
    fs::remove_file(&directory).expect("the file goes");

    fs::create_dir(&directory).expect("a directory");
    for mode in [0o770, 0o702, 0o1777] {
        fs::set_permissions(&directory, Permissions::from_mode(mode)).expect("its mode");
        assert_refused("a directory that others may write");
    }
    fs::set_permissions(&directory, Permissions::from_mode(0o700)).expect("its mode");
    if std::os::unix::fs::chown(&directory, Some(12_345), None).is_err() {
        skip("in part: only root can give a directory away");
        return;
    }
    assert_refused("somebody else's directory");
    assert!(!elsewhere.join("default.table").exists());
}

#[test]
fn a_runtime_directory_that_is_missing_is_an_error_and_no_reason_to_look_elsewhere() {
    let sandbox = Sandbox::new();
    let mut command = with_runtime(&sandbox, TRUE);
    command.env("XDG_RUNTIME_DIR", sandbox.path().join("missing"));
    let outcome = finish(&sandbox, command);
    assert_eq!(outcome.code(), 73, "{outcome:?}");
    assert!(outcome.stderr.contains("--table"), "{outcome:?}");
}

/// As `su` leaves it set: what root made there locked its user out of the default table.
#[test]
fn another_users_runtime_directory_is_left_alone() {
    let sandbox = Sandbox::new();
    let runtime = sandbox.path().join("theirs");
    fs::create_dir(&runtime).expect("a directory");
    if std::os::unix::fs::chown(&runtime, Some(12_345), None).is_err() {
        skip("only root can give a directory away");
        return;
    }
    let mut command = with_runtime(&sandbox, TRUE);
    command.env("XDG_RUNTIME_DIR", &runtime);
    let outcome = finish(&sandbox, command);
    assert_eq!(outcome.code(), 77, "{outcome:?}");
    assert!(outcome.stderr.contains("user 12345"), "{outcome:?}");
    assert!(!runtime.join("caslock").exists());
}
