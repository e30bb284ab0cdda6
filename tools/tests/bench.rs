//! `caslock bench`: figures that add up, refusals, and no process left behind.

mod common;

use std::fs;
use std::path::PathBuf;

use nix::pty::openpty;
use nix::sys::signal::Signal;
use nix::unistd::read;

use common::{Identity, Process, Sandbox, until};

const SHORT: [&str; 3] = ["bench", "--seconds", "0.2"];

fn children_of(pid: u32) -> Vec<Identity> {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let pids = fs::read_to_string(path).unwrap_or_default();
    pids.split_whitespace()
        .filter_map(|pid| pid.parse().ok())
        .map(Identity::of)
        .collect()
}

/// The scratch directories that a bench of this user has in memory.
fn scratch_of(children: &[Identity]) -> Option<PathBuf> {
    let maps = fs::read_to_string(format!("/proc/{}/maps", children.first()?.pid)).ok()?;
    let table = maps.lines().find_map(|line| {
        line.find('/')
            .map(|at| &line[at..])
            .filter(|path| path.ends_with("/bench.table"))
    })?;
    PathBuf::from(table).parent().map(PathBuf::from)
}

/// A bench that would go on for long, its processes, and its scratch directory.
fn start(sandbox: &Sandbox, options: &[&str]) -> (Process, Vec<Identity>, PathBuf) {
    let args = [&["bench", "--seconds", "1000", "--processes", "3"], options].concat();
    let process = sandbox.start(sandbox.caslock(&args));
    let (mut children, mut scratch) = (Vec::new(), None);
    until("its processes contend", || {
        children = children_of(process.pid());
        scratch = scratch_of(&children);
        children.len() == 3 && scratch.is_some()
    });
    (process, children, scratch.expect("found above"))
}

#[test]
fn every_number_of_processes_gets_a_row_of_figures_that_add_up() {
    let sandbox = Sandbox::new();
    let options = ["--processes", "1,3", "--section", "5", "--json"];
    let rows = sandbox.json(&[&SHORT[..], &options].concat());
    let rows = rows.as_array().expect("an array");
    assert_eq!(rows.len(), 2);
    for (row, processes) in rows.iter().zip([1, 3]) {
        let figure = |name: &str| row[name].as_f64().expect(name);
        assert_eq!(row["processes"], processes);
        assert_eq!(figure("section_us"), 5.0);
        assert_eq!(row["lost_updates"], 0);
        assert!(figure("pairs") > 0.0 && figure("seconds") >= 0.2, "{row}");
        // One holder at a time, for five microseconds each.
        assert!(figure("pairs_per_s") <= 200_000.0, "{row}");
        let ratio = figure("pairs") / figure("seconds") / figure("pairs_per_s");
        assert!((0.999..1.001).contains(&ratio), "{row}");
        assert!(figure("wait_median_us") <= figure("wait_p99_us"), "{row}");
        assert!(figure("wait_p99_us") <= figure("wait_longest_us"), "{row}");
        assert!(
            (0.0..=1.0).contains(&figure("slowest_over_fastest")),
            "{row}"
        );
    }
}

#[test]
fn people_get_a_table_and_progress_only_when_asked_or_on_a_terminal() {
    let sandbox = Sandbox::new();
    let quiet = sandbox.run(&[&SHORT[..], &["-p", "2"]].concat());
    assert_eq!((quiet.code(), quiet.stderr.as_str()), (0, ""), "{quiet:?}");
    assert_eq!(quiet.stdout.lines().count(), 2, "{quiet:?}");
    assert!(quiet.stdout.contains("PAIRS/S"), "{quiet:?}");

    let asked = sandbox.run(&[&SHORT[..], &["-p", "2", "--progress"]].concat());
    assert!(
        asked.stderr.starts_with("caslock: 2 processes: "),
        "{asked:?}"
    );
    assert!(!asked.stderr.contains('\r'), "{asked:?}");

    let pty = openpty(None, None).expect("a pseudo-terminal");
    let mut command = sandbox.caslock(&[&SHORT[..], &["-p", "1"]].concat());
    command.stderr(pty.slave);
    let outcome = sandbox.start(command).finish();
    assert_eq!(outcome.code(), 0, "{outcome:?}");
    // Piece by piece: the kernel passes on what was written when it finds the time. An error
    // is the end, once nobody has the terminal open.
    let (mut seen, mut bytes) = (String::new(), [0; 4096]);
    while let Ok(len @ 1..) = read(&pty.master, &mut bytes) {
        seen += &String::from_utf8_lossy(&bytes[..len]);
    }
    assert!(
        seen.contains("\r1 process: ") && seen.ends_with("\r\x1b[K"),
        "{seen:?}"
    );
}

#[test]
fn its_own_table_is_gone_in_the_end_and_the_users_is_not_touched() {
    let sandbox = Sandbox::new();
    // The sandbox sets CASLOCK_TABLE.
    sandbox.ok(&["create", "test.table"]);
    let (process, children, scratch) = start(&sandbox, &[]);
    assert_ne!(scratch, sandbox.path());
    process.send(Signal::SIGINT);
    assert_eq!(process.finish().code(), 128 + 2);
    assert!(!scratch.exists());
    assert!(children.iter().all(Identity::is_gone));
    assert_eq!(sandbox.json(&["ls", "--json"]), serde_json::json!([]));
}

#[test]
fn a_table_that_was_chosen_gets_one_more_name() {
    let sandbox = Sandbox::new();
    sandbox.ok(&["create", "other.table"]);
    let table = ["--table", "other.table"];
    sandbox.ok(&[&table[..], &SHORT, &["-p", "2"]].concat());
    let slots = sandbox.json(&[&table[..], &["ls", "--json"]].concat());
    let name = slots[0]["name"].as_str().expect("a name");
    assert!(name.starts_with("caslock-bench-"), "{slots}");
    assert_eq!(slots[0]["state"], "free");
}

#[test]
fn whatever_ends_it_ends_its_processes() {
    let sandbox = Sandbox::new();
    let endings = [
        (Signal::SIGINT, Some(130)),
        (Signal::SIGTERM, Some(143)),
        (Signal::SIGHUP, Some(129)),
        (Signal::SIGKILL, None),
    ];
    for (signal, code) in endings {
        let (mut process, children, scratch) = start(&sandbox, &["--section", "1"]);
        process.send(signal);
        assert_eq!(process.wait().code(), code, "{signal}");
        until("its processes are gone", || {
            children.iter().all(Identity::is_gone)
        });
        // Killed, it cannot clean up.
        assert_eq!(scratch.exists(), code.is_none(), "{signal}");
        let _ = fs::remove_dir_all(scratch);
    }
}

#[test]
fn a_process_that_is_killed_ends_the_measurement() {
    let sandbox = Sandbox::new();
    let (process, children, scratch) = start(&sandbox, &[]);
    children[1].send(Signal::SIGKILL);
    let outcome = process.finish();
    assert_eq!(outcome.code(), 125, "{outcome:?}");
    assert!(
        outcome.stderr.contains("signal 9 ended process"),
        "{outcome:?}"
    );
    assert!(children.iter().all(Identity::is_gone) && !scratch.exists());
}

#[test]
fn what_makes_no_measurement_is_refused_and_says_why() {
    let sandbox = Sandbox::new();
    let cases = [
        (["--processes", "0"], "1..=1000"),
        (["--processes", "two"], "invalid value"),
        (["--processes", "2,,4"], "cannot parse"),
        (["--section", "-1"], "microseconds"),
        (["--section", "1e9"], "microseconds"),
        (["--seconds", "0"], "seconds from"),
        (["--seconds", "nan"], "seconds from"),
    ];
    for ([option, value], why) in cases {
        let outcome = sandbox.run(&["bench", &format!("{option}={value}")]);
        assert_eq!(outcome.code(), 64, "{outcome:?}");
        assert!(outcome.stderr.contains(why), "{outcome:?}");
    }
    let missing = sandbox.run(&["--table", "missing", "bench"]);
    assert_eq!(missing.code(), 66, "{missing:?}");
    assert_eq!(missing.stderr.lines().count(), 1, "{missing:?}");

    sandbox.ok(&["create", "--sessions", "2", "small.table"]);
    let full = sandbox.run(&["--table", "small.table", "bench", "-p", "4"]);
    assert_eq!(full.code(), 125, "{full:?}");
    assert!(full.stderr.contains("all 2 sessions"), "{full:?}");
}
