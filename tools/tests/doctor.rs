//! `caslock doctor`: a verdict for everything, and no alarm without a reason.

mod common;

use std::fs::{self, File, Permissions};
use std::os::unix::fs::{FileExt, PermissionsExt, chown, symlink};
use std::os::unix::process::CommandExt;

use nix::fcntl::{FcntlArg, fcntl};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};

use common::{CASLOCK, Outcome, Process, Running, Sandbox, Stat, skip, until};

/// The line that reports on this, which begins with its verdict.
fn line<'a>(outcome: &'a Outcome, on: &str) -> &'a str {
    let found = outcome
        .stdout
        .lines()
        .find(|line| line.split_whitespace().nth(1) == Some(on));
    found.unwrap_or_else(|| panic!("no line on {on}: {outcome:?}"))
}

#[test]
fn a_table_in_good_health_gets_nothing_but_ok() {
    let sandbox = Sandbox::new();
    let _holder = sandbox.hold("job");
    let outcome = sandbox.run(&["doctor"]);
    assert_eq!(outcome.code(), 0, "{outcome:?}");
    for on in [
        "table",
        "file",
        "directory",
        "in",
        "boot",
        "holders",
        "naming",
        "names",
        "sessions",
        "namespaces",
    ] {
        assert!(line(&outcome, on).starts_with("ok "), "{on}: {outcome:?}");
    }
    assert!(!outcome.stdout.contains("FAIL"), "{outcome:?}");
}

#[test]
fn a_dead_holder_is_a_warning_with_nothing_to_do() {
    let sandbox = Sandbox::new();
    sandbox.abandon("job");
    let outcome = sandbox.run(&["doctor"]);
    assert_eq!(outcome.code(), 0, "{outcome:?}");
    let line = line(&outcome, "lock");
    assert!(
        line.starts_with("warn ") && line.contains("\"job\""),
        "{line}"
    );
}

#[test]
fn a_hung_holder_fails_where_it_is_waited_for_for_ever() {
    let sandbox = Sandbox::new();
    sandbox.ok(&["create", "--lease", "1", "expiry.table"]);
    sandbox.ok(&["create", "--reclaim", "on-death", "death.table"]);
    for (table, verdict, code) in [("expiry.table", "warn ", 0), ("death.table", "FAIL ", 1)] {
        let script = "echo $$; exec sleep 1000";
        let args = ["--table", table, "run", "job", "--", "sh", "-c", script];
        let mut holder = sandbox.start(sandbox.caslock(&args));
        holder.line();
        holder.send(Signal::SIGSTOP);
        let show = ["--table", table, "show", "--json", "job"];
        until("it is late", || {
            sandbox.json(&show)["holder"]["liveness"] == "late"
        });
        let shown = sandbox.ok(&["--table", table, "show", "job"]);
        assert!(shown.contains("hung, stopped or starved"), "{shown}");
        let has_lease = table == "expiry.table";
        assert_eq!(shown.contains("a whole lease"), has_lease, "{shown}");
        let outcome = sandbox.run(&["--table", table, "doctor"]);
        assert_eq!(outcome.code(), code, "{outcome:?}");
        let lock = line(&outcome, "lock");
        assert!(lock.starts_with(verdict), "{lock}");
        assert!(!lock.contains("is gone"), "{lock}");
        let remedy = format!("kill -CONT {} ", holder.pid());
        assert_eq!(lock.contains(&remedy), verdict == "FAIL ", "{lock}");
    }
}

/// A holder of "job" whose clock is so many seconds ahead, and its wrapper; `None`, which it says,
/// where there can be none.
fn hold_with_clock(sandbox: &Sandbox, ahead: &str) -> Option<(Process, Pid)> {
    let mut command = sandbox.command("unshare");
    command.args(["--time", "--monotonic", ahead, "--fork", "--kill-child"]);
    command.args([CASLOCK, "run", "job", "--", "sh", "-c"]);
    command.arg("echo $PPID; exec sleep 1000");
    let mut holder = sandbox.start(command);
    let Some(wrapper) = holder.next_line() else {
        skip("time namespaces take CAP_SYS_ADMIN");
        return None;
    };
    Some((holder, Pid::from_raw(wrapper.parse().expect("its PID"))))
}

/// By the date of its last heartbeat it was hung, and to be killed.
#[test]
fn a_holder_with_another_clock_is_not_taken_for_hung() {
    let sandbox = Sandbox::new();
    sandbox.ok(&["create", "--reclaim", "on-death", "test.table"]);
    let Some(_holder) = hold_with_clock(&sandbox, "-15") else {
        return;
    };
    assert_eq!(sandbox.slot("job")["holder"]["liveness"], "late");
    let outcome = sandbox.run(&["doctor"]);
    assert_eq!(outcome.code(), 0, "{outcome:?}");
    assert!(!outcome.stdout.contains("kill -CONT"), "{outcome:?}");
    assert!(line(&outcome, "clocks").starts_with("warn "), "{outcome:?}");
}

/// By the date of its last heartbeat, which is later than now, it was alive whatever it did.
#[test]
fn a_holder_whose_clock_is_ahead_is_found_hung_where_it_hangs() {
    let sandbox = Sandbox::new();
    sandbox.ok(&["create", "--reclaim", "on-death", "test.table"]);
    let Some((_holder, wrapper)) = hold_with_clock(&sandbox, "1000000") else {
        return;
    };
    let well = sandbox.run(&["doctor"]);
    assert_eq!(well.code(), 0, "{well:?}");
    assert!(line(&well, "clocks").starts_with("warn "), "{well:?}");
    kill(wrapper, Signal::SIGSTOP).expect("it is there");
    let hung = sandbox.run(&["doctor"]);
    assert_eq!(hung.code(), 1, "{hung:?}");
    assert!(line(&hung, "lock").starts_with("FAIL "), "{hung:?}");
    kill(wrapper, Signal::SIGCONT).expect("it is there");
}

/// Killed when it is dropped: a process that its wrapper does not take with it.
struct Orphan(u32);

impl Drop for Orphan {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.0 as i32), Signal::SIGKILL);
    }
}

/// What a command has started outlives the wrapper, and has inherited its proof of life. The
/// advice was to kill by the wrapper's PID, which is nobody's or a stranger's by then.
#[test]
fn a_holder_that_is_gone_is_told_from_who_keeps_its_session_alive() {
    let sandbox = Sandbox::new();
    sandbox.ok(&["create", "--lease", "1", "expiry.table"]);
    sandbox.ok(&["create", "--reclaim", "on-death", "death.table"]);
    for (table, verdict) in [("expiry.table", "warn "), ("death.table", "FAIL ")] {
        let run = |name, script| {
            let args = ["--table", table, "run", name, "--", "sh", "-c", script];
            sandbox.start(sandbox.caslock(&args))
        };
        // Its command has a descriptor of the table as well, but not that session's.
        let mut other = run("other", "echo $$; exec sleep 1000");
        let others = other.line();
        let mut holder = Running::of(run("job", "echo $$; sleep 1000 & echo $!; wait"));
        let orphan = Orphan(holder.wrapper.line().parse().expect("its PID"));
        let gone = holder.wrapper.pid();
        holder.wrapper.send(Signal::SIGKILL);
        until("the wrapper is a zombie", || {
            Stat::read(gone).is_some_and(|stat| stat.state == 'Z')
        });
        let show = ["--table", table, "show", "--json", "job"];
        until("it is late", || {
            sandbox.json(&show)["holder"]["liveness"] == "late"
        });
        let examine = || {
            let outcome = sandbox.run(&["--table", table, "doctor"]);
            let line = line(&outcome, "lock");
            let who = format!("alive by process {} (sleep), which ", orphan.0);
            assert!(line.starts_with(verdict), "{line}");
            assert!(line.contains("that process is gone"), "{line}");
            assert!(line.contains(&who), "{line}");
            assert!(!line.contains("kill -CONT"), "{line}");
            assert!(!line.contains(&format!(" {others} ")), "{line}");
            let shown = sandbox.ok(&["--table", table, "show", "job"]);
            assert!(shown.contains("late: that process is gone"), "{shown}");
            let sessions = self::line(&outcome, "sessions");
            let who = format!("process {} (sleep)", orphan.0);
            assert!(sessions.contains(&who), "{sessions}");
        };
        examine();
        holder.wrapper.wait();
        examine();
    }
}

#[test]
fn a_process_on_a_deleted_file_is_found() {
    let sandbox = Sandbox::new();
    sandbox.ok(&["create", "test.table"]);
    let holder = sandbox.hold("job");
    fs::remove_file(sandbox.table()).expect("the table goes");
    sandbox.ok(&["create", "test.table"]);
    let outcome = sandbox.run(&["doctor"]);
    assert_eq!(outcome.code(), 1, "{outcome:?}");
    let line = line(&outcome, "in");
    assert!(line.starts_with("FAIL "), "{line}");
    let who = format!("process {} ", holder.wrapper.pid());
    assert!(line.contains(&who), "{line}");
}

/// With too few it was sure that nobody does.
#[test]
fn without_descriptors_it_is_not_sure_that_nobody_is_on_a_deleted_file() {
    let sandbox = Sandbox::new();
    sandbox.ok(&["create", "test.table"]);
    let _holder = sandbox.hold("job");
    fs::remove_file(sandbox.table()).expect("the table goes");
    sandbox.ok(&["create", "test.table"]);
    let mut said = Vec::new();
    for limit in 3..100 {
        let mut command = sandbox.command("sh");
        let script = format!("ulimit -n {limit}; exec \"$0\" doctor");
        let outcome = sandbox.start({
            command.args(["-c", &script, CASLOCK]);
            command
        });
        let outcome = outcome.finish();
        let lines = outcome.stdout.lines().map(str::to_owned);
        let of_place = lines.filter(|line| line.contains(" in place "));
        said.extend(of_place);
        if said.last().is_some_and(|line| line.starts_with("FAIL ")) {
            break;
        }
    }
    let (found, before) = said.split_last().expect("it is said at some number");
    assert!(found.starts_with("FAIL "), "{said:?}");
    assert!(!before.is_empty(), "{said:?}");
    for line in before {
        assert!(
            line.starts_with("warn ") && line.contains("could not be asked"),
            "{line}"
        );
    }
}

/// By the path that it was named by it was not found: the kernel shows another.
#[test]
fn a_process_on_a_deleted_file_is_found_by_every_path_to_it() {
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.path().join("real")).expect("a directory");
    symlink("real", sandbox.path().join("link")).expect("a symbolic link");
    for table in ["link/a", "link/../real/b", "real/line\nbreak"] {
        sandbox.ok(&["create", table]);
        let script = "echo $$; exec sleep 1000";
        let args = ["--table", table, "run", "job", "--", "sh", "-c", script];
        let holder = Running::of(sandbox.start(sandbox.caslock(&args)));
        fs::remove_file(sandbox.path().join(table)).expect("the table goes");
        sandbox.ok(&["create", table]);
        let outcome = sandbox.run(&["--table", table, "doctor"]);
        assert_eq!(outcome.code(), 1, "{outcome:?}");
        let who = format!("process {} (caslock) ", holder.wrapper.pid());
        assert!(line(&outcome, "in").contains(&who), "{outcome:?}");
    }
}

/// It was to be restarted. In every container root's default table is at the same path, and the
/// containers' directories are often of one filesystem.
#[test]
fn a_process_on_a_deleted_file_of_another_containers_directory_is_none_of_this_tables() {
    let sandbox = Sandbox::new();
    sandbox.ok(&["create", "test.table"]);
    fs::create_dir(sandbox.path().join("theirs")).expect("a directory");
    let job = "exec \"$0\" run job sh -c 'rm \"$CASLOCK_TABLE\"; echo up; exec sleep 1000'";
    for (mount, is_here) in [
        ("mount -t tmpfs none .", false),
        ("mount --bind theirs .", false),
        ("true", true),
    ] {
        let script = format!("{mount} || exit 0; cd \"$PWD\"; {job}");
        let mut command = sandbox.command("unshare");
        command.args(["--mount", "sh", "-c", &script, CASLOCK]);
        let mut elsewhere = sandbox.start(command);
        if elsewhere.next_line().as_deref() != Some("up") {
            skip("mount namespaces take CAP_SYS_ADMIN");
            return;
        }
        if is_here {
            sandbox.ok(&["create", "test.table"]);
        }
        let outcome = sandbox.run(&["doctor"]);
        assert_eq!(outcome.code(), i32::from(is_here), "{mount}: {outcome:?}");
        let verdict = if is_here { "FAIL " } else { "ok " };
        assert!(line(&outcome, "in").starts_with(verdict), "{outcome:?}");
    }
}

/// It has lost its table by the mount, and sees the same directory as this process.
#[test]
fn a_process_on_a_deleted_file_under_a_later_mount_is_found() {
    let sandbox = Sandbox::new();
    let script = "mount -t tmpfs none \"$PWD\" && cd \"$PWD\" || exit 77
        \"$0\" run job sh -c 'rm \"$CASLOCK_TABLE\"; touch up; exec sleep 1000' & job=$!
        until [ -e up ]; do sleep 0.01; done
        mount -t tmpfs none \"$PWD\"; cd \"$PWD\"
        \"$0\" create test.table; \"$0\" doctor; code=$?; kill $job; exit $code";
    let mut command = sandbox.command("unshare");
    command.args(["--mount", "sh", "-c", script, CASLOCK]);
    let outcome = sandbox.start(command).finish();
    if !matches!(outcome.status.code(), Some(0 | 1)) {
        skip("mount namespaces take CAP_SYS_ADMIN");
        return;
    }
    assert!(line(&outcome, "in").starts_with("FAIL "), "{outcome:?}");
}

/// The doctor of a user that has no part in root's processes, nor may end them.
fn as_nobody(sandbox: &Sandbox, args: &[&str]) -> Option<Outcome> {
    if !geteuid().is_root() {
        skip("only root can become another user");
        return None;
    }
    let mut command = sandbox.command(sandbox.program_for_all());
    command.args(args).uid(NOBODY).gid(NOBODY);
    Some(sandbox.start(command).finish())
}
const NOBODY: u32 = 65_534;

#[test]
fn how_far_the_look_for_processes_on_a_deleted_file_went_is_said() {
    let sandbox = Sandbox::new();
    sandbox.ok(&["create", "--mode", "0660", "test.table"]);
    if chown(sandbox.table(), Some(NOBODY), Some(NOBODY)).is_ok()
        && let Some(outcome) = as_nobody(&sandbox, &["doctor"])
    {
        assert_eq!(outcome.code(), 0, "{outcome:?}");
        let line = line(&outcome, "in");
        let told = " could not be looked into (ask as root: ";
        assert!(line.contains(told), "{line}");
    }
}

/// Root does not use it there, either, and was said to.
#[test]
fn where_root_would_be_refused_nobody_is_sent_to_it() {
    let sandbox = Sandbox::new();
    let directory = sandbox.path().join("everybodys");
    fs::create_dir(&directory).expect("a directory");
    fs::set_permissions(&directory, Permissions::from_mode(0o1777)).expect("its owner");
    let table = directory.join("t");
    let args = ["--table", table.to_str().expect("UTF-8"), "doctor"];
    sandbox.ok(&["create", args[1]]);
    if chown(&table, Some(NOBODY), Some(NOBODY)).is_ok()
        && let Some(theirs) = as_nobody(&sandbox, &args)
    {
        assert_eq!(theirs.code(), 0, "{theirs:?}");
        let told = line(&theirs, "in");
        assert!(
            told.contains(" could not be looked into") && !told.contains("as root"),
            "{told}"
        );
        let ours = sandbox.run(&args);
        assert_eq!(ours.code(), 1, "{ours:?}");
        let remedy = format!("setpriv --reuid {NOBODY} ");
        assert!(line(&ours, "table").contains(&remedy), "{ours:?}");
        for verb in [&["ls"][..], &["show", "job"], &["sessions"]] {
            let refused = sandbox.run(&[&args[..2], verb].concat());
            assert_eq!(refused.code(), 77, "{refused:?}");
            assert!(refused.stderr.contains(&remedy), "{refused:?}");
        }
    }
}

/// Nobody of its users could take a lock, and all was well.
#[test]
fn a_table_that_may_only_be_read_is_a_warning() {
    let sandbox = Sandbox::new();
    sandbox.ok(&["create", "--mode", "0644", "test.table"]);
    assert!(line(&sandbox.run(&["doctor"]), "file").starts_with("ok "));
    if let Some(outcome) = as_nobody(&sandbox, &["doctor"]) {
        let line = line(&outcome, "file");
        assert!(
            line.starts_with("warn ") && line.contains("may not write to it"),
            "{line}"
        );
    }
    let here = sandbox.path().display();
    let mounts = format!("mount --bind {here} {here} && mount -o remount,bind,ro {here}");
    if let Some(outcome) = sandbox.run_with_mounts(&mounts, &["doctor"]) {
        let line = line(&outcome, "file");
        assert!(
            line.starts_with("warn ") && line.contains("mounted read-only"),
            "{line}"
        );
    }
}

#[test]
fn a_directory_where_anybody_may_replace_the_table_fails() {
    let sandbox = Sandbox::new();
    sandbox.ok(&["create", "test.table"]);
    fs::set_permissions(sandbox.path(), Permissions::from_mode(0o777)).expect("its mode");
    let outcome = sandbox.run(&["doctor"]);
    assert_eq!(outcome.code(), 1, "{outcome:?}");
    assert!(line(&outcome, "directory").starts_with("FAIL "));
}

#[test]
fn a_table_that_cannot_be_opened_fails_with_the_reason() {
    let sandbox = Sandbox::new();
    sandbox.ok(&["create", "test.table"]);
    fs::set_permissions(sandbox.table(), Permissions::from_mode(0o666)).expect("its mode");
    let outcome = sandbox.run(&["doctor"]);
    assert_eq!(outcome.code(), 1, "{outcome:?}");
    let line = line(&outcome, "table");
    assert!(line.starts_with("FAIL ") && line.contains("0666"), "{line}");
}

#[test]
fn a_damaged_header_fails_and_is_left_alone() {
    let sandbox = Sandbox::new();
    sandbox.ok(&["create", "test.table"]);
    let file = File::options().write(true).open(sandbox.table());
    let file = file.expect("the table");
    let length = file.metadata().expect("its size").len();
    // One page less than its header says.
    file.set_len(length - 4096).expect("the table");
    let before = fs::read(sandbox.table()).expect("the table");
    let outcome = sandbox.run(&["doctor"]);
    assert_eq!(outcome.code(), 1, "{outcome:?}");
    assert!(line(&outcome, "table").starts_with("FAIL "));
    assert_eq!(sandbox.run(&["run", "job", "--", "true"]).code(), 125);
    assert_eq!(fs::read(sandbox.table()).expect("the table"), before);
    file.write_at(b"not a table", 0).expect("the table");
    assert_eq!(sandbox.run(&["run", "job", "--", "true"]).code(), 66);
}

#[test]
fn a_table_whose_sessions_are_all_in_use_fails() {
    let sandbox = Sandbox::new();
    sandbox.ok(&["create", "--sessions", "1", "test.table"]);
    let _holder = sandbox.hold("job");
    let outcome = sandbox.run(&["doctor"]);
    assert_eq!(outcome.code(), 1, "{outcome:?}");
    assert!(line(&outcome, "sessions").starts_with("FAIL "));
}

#[test]
fn a_table_of_another_boot_is_a_warning() {
    let sandbox = Sandbox::new();
    sandbox.ok(&["create", "test.table"]);
    outdate(&sandbox);
    let outcome = sandbox.run(&["doctor"]);
    assert_eq!(outcome.code(), 0, "{outcome:?}");
    let line = line(&outcome, "boot");
    assert!(
        line.starts_with("warn ") && line.contains("another boot"),
        "{line}"
    );
}

/// It said that living processes use them all, and that some of those be ended: by PIDs that
/// are nobody's any more, or a stranger's.
#[test]
fn sessions_that_what_the_dead_have_started_keeps_are_told_with_who_that_is() {
    let sandbox = Sandbox::new();
    sandbox.ok(&["create", "--sessions", "2", "test.table"]);
    let mut orphans = Vec::new();
    let mut pids = Vec::new();
    for name in ["one", "two"] {
        let mut holder = sandbox.hold_with(&[], name, "sleep 1000 & echo $!; wait");
        orphans.push(Orphan(holder.wrapper.line().parse().expect("its PID")));
        pids.push(holder.wrapper.pid().to_string());
        holder.wrapper.send(Signal::SIGKILL);
        holder.wrapper.wait();
    }
    let outcome = sandbox.run(&["doctor"]);
    assert_eq!(outcome.code(), 1, "{outcome:?}");
    let line = line(&outcome, "sessions");
    assert!(
        line.starts_with("FAIL ") && line.contains(" (2 of them kept alive by processes "),
        "{line}"
    );
    for orphan in &orphans {
        let who = format!(" {} (sleep)", orphan.0);
        assert!(line.contains(&who), "{line}");
    }
    let shown = sandbox.ok(&["sessions"]);
    for pid in &pids {
        let row = shown.lines().find(|line| line.contains(pid));
        assert!(row.is_some_and(|row| row.contains("(gone)")), "{shown}");
    }
}

/// Whoever may read the file can lock its bytes. All sessions were in use, said `run`, and
/// none, said doctor.
#[test]
fn locks_that_caslock_has_not_taken_fail_with_who_has_them() {
    let sandbox = Sandbox::new();
    sandbox.ok(&["create", "--sessions", "3", "test.table"]);
    let both_ways = File::options().read(true).write(true).open(sandbox.table());
    let table = both_ways.expect("the table");
    let lock = |kind| libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    let [shared, exclusive, unlock] = [libc::F_RDLCK, libc::F_WRLCK, libc::F_UNLCK].map(lock);
    for (take, give) in [
        (FcntlArg::F_SETLK(&shared), FcntlArg::F_SETLK(&unlock)),
        (FcntlArg::F_SETLK(&exclusive), FcntlArg::F_SETLK(&unlock)),
        (
            FcntlArg::F_OFD_SETLK(&shared),
            FcntlArg::F_OFD_SETLK(&unlock),
        ),
    ] {
        fcntl(&table, take).expect("it is locked");
        assert_eq!(sandbox.run(&["run", "-n", "job", "--", "true"]).code(), 125);
        let outcome = sandbox.run(&["doctor"]);
        assert_eq!(outcome.code(), 1, "{outcome:?}");
        let strangers = line(&outcome, "strangers");
        let who = format!(
            " 3 of 3 sessions are locked by process {} (",
            std::process::id()
        );
        assert!(
            strangers.starts_with("FAIL ") && strangers.contains(&who),
            "{strangers}"
        );
        assert!(line(&outcome, "sessions").starts_with("FAIL "));
        fcntl(&table, give).expect("it is unlocked");
    }
    // One of the kind that caslock takes cannot be told from it, but from a session's.
    fcntl(&table, FcntlArg::F_OFD_SETLK(&exclusive)).expect("it is locked");
    let outcome = sandbox.run(&["doctor"]);
    let sessions = line(&outcome, "sessions");
    let kept = format!(
        "3 of 3 in use (3 of them kept alive by process {} (",
        std::process::id()
    );
    assert!(
        sessions.starts_with("FAIL ") && sessions.contains(&kept),
        "{sessions}"
    );
}

/// Makes the table one of another boot.
fn outdate(sandbox: &Sandbox) {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("the boot's id");
    let digits = boot.trim_end().replace('-', "");
    let pairs = digits.as_bytes().chunks(2).map(|pair| {
        let pair = str::from_utf8(pair).expect("digits");
        u8::from_str_radix(pair, 16).expect("a byte")
    });
    let id: Vec<_> = pairs.collect();
    let bytes = fs::read(sandbox.table()).expect("the table");
    let at = bytes.windows(16).position(|window| window == id);
    let at = at.expect("the table has the boot's id") as u64;
    scribble(sandbox, at, &[!id[0]]);
}

fn scribble(sandbox: &Sandbox, at: u64, bytes: &[u8]) {
    let file = File::options().write(true).open(sandbox.table());
    file.and_then(|file| file.write_all_at(bytes, at))
        .expect("the table is written to");
}

/// A table whose sections a test knows the places of.
fn create_small(sandbox: &Sandbox) {
    sandbox.ok(&["create", "--slots", "3", "--sessions", "3", "test.table"]);
}
/// Its index of names, as `src/layout.rs` has it: after the header and three sessions.
const INDEX: u64 = 4096 + 3 * 256;
const INDEX_BYTES: usize = 16 * 8;
/// The owner word of its naming lock, which is its first slot.
const NAMING: u64 = INDEX + INDEX_BYTES as u64;

/// It said that nobody was in the middle of creating a name, and nobody could create one.
#[test]
fn a_damaged_naming_lock_fails() {
    let sandbox = Sandbox::new();
    create_small(&sandbox);
    // Of session 100, of three; of none that there can be.
    for word in [7_u64 << 42 | 100 << 30, 7 << 42 | 4089 << 30] {
        scribble(&sandbox, NAMING, &word.to_ne_bytes());
        let refused = sandbox.run(&["run", "job", "--", "true"]);
        let told = refused.stderr.contains("naming lock is damaged");
        assert!(told, "{word:#x}: {refused:?}");
        let outcome = sandbox.run(&["doctor"]);
        assert_eq!(outcome.code(), 1, "{outcome:?}");
        let line = line(&outcome, "naming");
        let fails = line.starts_with("FAIL ") && line.contains("create a new one");
        assert!(fails, "{word:#x}: {line}");
    }
}

/// Whoever asks for the name of a lock that is held gets another, and doctor saw nothing.
#[test]
fn a_name_that_the_index_does_not_lead_to_fails() {
    let sandbox = Sandbox::new();
    create_small(&sandbox);
    let _holder = sandbox.hold("job");
    scribble(&sandbox, INDEX, &[0; INDEX_BYTES]);
    for is_twice in [false, true] {
        if is_twice {
            sandbox.ok(&["run", "job", "--", "true"]);
        }
        let outcome = sandbox.run(&["doctor"]);
        assert_eq!(outcome.code(), 1, "{outcome:?}");
        let line = line(&outcome, "names");
        assert!(
            line.starts_with("FAIL ") && line.contains("\"job\""),
            "{line}"
        );
    }
}

/// As in a container with a boot id of its own. It said that the next to use it resets it.
#[test]
fn a_table_of_another_boot_that_is_in_use_fails() {
    let sandbox = Sandbox::new();
    let holder = sandbox.hold("job");
    outdate(&sandbox);
    assert_eq!(sandbox.run(&["run", "other", "--", "true"]).code(), 125);
    let outcome = sandbox.run(&["doctor"]);
    assert_eq!(outcome.code(), 1, "{outcome:?}");
    let line = line(&outcome, "boot");
    assert!(
        line.starts_with("FAIL ") && line.contains("stop the processes"),
        "{line}"
    );
    // Its session might be over, and that live on.
    let command = format!(" {} (", holder.command.pid);
    assert!(line.contains(&command), "{line}");
}

/// Where nothing can be read under /proc, nothing follows from that: it said that the table
/// was of another boot, its holders in other containers, and nobody on a deleted file.
#[test]
fn without_proc_it_says_what_it_cannot_tell() {
    let sandbox = Sandbox::new();
    let _holder = sandbox.hold("job");
    let script = "mount -t tmpfs none /proc || exit 99; \"$0\" show job; exec \"$0\" doctor";
    let mut command = sandbox.command("unshare");
    command.args(["--mount", "sh", "-c", script, CASLOCK]);
    let outcome = sandbox.start(command).finish();
    if outcome.stdout.is_empty() && matches!(outcome.code(), 1 | 99) {
        skip(format_args!("to mount takes CAP_SYS_ADMIN: {outcome:?}"));
        return;
    }
    assert_eq!(outcome.code(), 1, "{outcome:?}");
    let boot = line(&outcome, "boot");
    assert!(
        boot.starts_with("FAIL ") && boot.contains("boot id unknown (is /proc mounted?)"),
        "{boot}"
    );
    for on in ["in", "namespaces"] {
        let line = line(&outcome, on);
        assert!(
            line.starts_with("warn ") && line.contains("cannot be told"),
            "{line}"
        );
    }
    assert!(!outcome.stdout.contains("another boot"), "{outcome:?}");
    assert!(!outcome.stdout.contains(") in another PID"), "{outcome:?}");
    assert!(outcome.stdout.contains("perhaps of another"), "{outcome:?}");
}

#[test]
fn a_pid_of_another_pid_namespace_is_not_to_be_killed_by() {
    let sandbox = Sandbox::new();
    sandbox.ok(&["create", "--reclaim", "on-death", "test.table"]);
    let script = "echo runs; kill -STOP $PPID; exec sleep 1000";
    let mut command = sandbox.command("unshare");
    command.args(["--pid", "--fork", "--kill-child"]);
    // Process 1 of a namespace cannot be stopped from within.
    let shell = "\"$0\" run job -- sh -c \"$1\"; true";
    command.args(["sh", "-c", shell, CASLOCK, script]);
    let mut holder = sandbox.start(command);
    until("it is stopped or has failed", || {
        let names = sandbox.json(&["ls", "--json"]);
        names[0]["holder"]["liveness"] == "late" || !holder.is_running()
    });
    if !holder.is_running() {
        skip("namespaces take CAP_SYS_ADMIN");
        return;
    }
    let outcome = sandbox.run(&["doctor"]);
    let lock = line(&outcome, "lock");
    assert!(
        lock.starts_with("FAIL ") && lock.contains("in its own PID namespace"),
        "{lock}"
    );
    let sessions = line(&outcome, "namespaces");
    assert!(
        sessions.starts_with("warn ") && sessions.contains("1 session is "),
        "{sessions}"
    );
    // What it has left behind is nobody's to kill.
    drop(holder);
    until("it is dead", || {
        let sessions = sandbox.json(&["sessions", "--json"]);
        sessions[0]["liveness"] == "dead"
    });
    let sessions = line(&sandbox.run(&["doctor"]), "namespaces").to_owned();
    assert!(sessions.starts_with("ok "), "{sessions}");
}
