//! What a machine does to a process that holds or waits: rows of the list of hazards that
//! are at home in no other file.

mod common;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use common::{Boss, Child, Scratch, dispatch, on_death, on_expiry, puppet, skip, sys, watchdog};
use nix::sys::signal::Signal;
use rustix::process::{Resource, Rlimit, setrlimit};

#[test]
fn child_role() {
    dispatch(&[("puppet", puppet), ("hailed", hailed), ("dumper", dumper)]);
}

/// Row 6: the heart is the process's, not the worker's. A worker that hangs while its
/// process runs is waited for; its note and its age are there to be seen. How long is too
/// long only its operator knows, who takes the lock from it; and the worker is told.
#[test]
fn a_parked_worker_keeps_its_lock_while_its_process_beats() {
    let _watchdog = watchdog("a_parked_worker_keeps_its_lock_while_its_process_beats");
    let scratch = Scratch::with(on_expiry(200));
    let mut parked = Child::puppet(&scratch.table());
    let held = parked.acquire("job");
    let mut waiter = Child::puppet(&scratch.table());
    assert_eq!(
        waiter.ask("timeout 1500 job"),
        format!("TimedOut {} {}", parked.pid(), held.token)
    );
    assert!(parked.is_held("job"));
    let snapshot = scratch.open().inspect().expect("a snapshot");
    let holder = snapshot.slot("job").expect("the slot").holder;
    assert!(holder.expect("a holder").held_for >= Duration::from_millis(1_000));

    assert_eq!(parked.ask("watch job"), "watching");
    waiter.say("acquire job");
    assert!(!waiter.answers_within(Duration::from_millis(300)), "robbed");
    let operator = scratch.open();
    operator
        .force_release("job", held.token)
        .expect("it is the grant that was shown");
    let grant = waiter.hear().parse::<common::Grant>().expect("a grant");
    assert_eq!(grant.previous, "forced");
    assert_eq!(grant.departed, (parked.pid(), held.token));
    // Told at once, before it looks by itself; and what it then does harms nobody.
    parked.ask("loss job");
    assert!(!parked.is_held("job"));
    assert_eq!(
        parked.release("job"),
        format!("taken-over {}", waiter.pid())
    );
    assert!(waiter.is_held("job"));
}

/// A puppet whose waits are interrupted by every SIGUSR1.
fn hailed(boss: &mut Boss) {
    sys::be_interruptible();
    puppet(boss);
}

/// Row 31: a wait that a signal ends is taken up again, and ends when it was to end.
#[test]
fn a_waiter_under_a_hail_of_signals_neither_gives_up_nor_breaks_in() {
    let _watchdog = watchdog("a_waiter_under_a_hail_of_signals");
    for options in [on_death(), on_expiry(10_000)] {
        let scratch = Scratch::with(options);
        let mut holder = Child::puppet(&scratch.table());
        let held = holder.acquire("job");
        let mut waiter = Child::start("hailed");
        let opened = waiter.ask(format_args!("open {}", scratch.table().display()));
        assert!(opened.starts_with("session "), "{opened}");
        waiter.say("timeout 700 job");
        let mut signals = 0;
        while !waiter.answers_within(Duration::from_micros(300)) {
            waiter.signal(Signal::SIGUSR1);
            signals += 1;
        }
        assert!(signals > 20, "{signals} signals are no hail");
        assert_eq!(
            waiter.hear(),
            format!("TimedOut {} {}", holder.pid(), held.token)
        );
        waiter.say("acquire job");
        for _ in 0..300 {
            waiter.signal(Signal::SIGUSR1);
            thread::sleep(Duration::from_micros(300));
        }
        assert!(
            !waiter.answers_within(Duration::from_millis(1)),
            "it broke in"
        );
        assert!(holder.is_held("job"));
        assert_eq!(holder.release("job"), "released");
        while !waiter.answers_within(Duration::from_micros(300)) {
            waiter.signal(Signal::SIGUSR1);
        }
        let grant = waiter.hear().parse::<common::Grant>().expect("a grant");
        assert_eq!(grant.previous, "released");
    }
}

/// How much a dumper has to dump.
const DUMP_BYTES: usize = 96 << 20;

/// Takes the lock and crashes, with much to dump.
fn dumper(boss: &mut Boss) {
    let path = PathBuf::from(boss.hear());
    let table = caslock::LockTable::open(&path).expect("the table opens");
    let lock = table.lock("job").expect("a lock");
    let _guard = lock.acquire().expect("a grant");
    env::set_current_dir(path.parent().expect("a directory")).expect("a directory");
    let unlimited = Rlimit {
        current: None,
        maximum: None,
    };
    let may_dump = setrlimit(Resource::Core, unlimited).is_ok();
    sys::fill_memory(DUMP_BYTES);
    boss.say(if may_dump { "holding" } else { "not allowed" });
    boss.hear();
    std::process::abort();
}

/// A process that dumps core is not gone: it is reclaimed once its memory is, and then it
/// is, whatever the dump was.
#[test]
fn a_holder_that_dumps_core_is_reclaimed_when_it_is_done() {
    const TEST: &str = "a_holder_that_dumps_core_is_reclaimed_when_it_is_done";
    let _watchdog = watchdog(TEST);
    let scratch = Scratch::with(on_death());
    let mut waiter = Child::puppet(&scratch.table());
    let mut holder = Child::start("dumper");
    if holder.ask(scratch.table().display()) != "holding" {
        return skip(TEST, "core dumps are limited");
    }
    waiter.say("acquire job");
    holder.say("crash");
    let grant = waiter.hear().parse::<common::Grant>().expect("a grant");
    let dumped = core_of(scratch.dir());
    assert_eq!(grant.previous, "died");
    assert_eq!(grant.departed.0, holder.pid());
    assert_eq!(holder.end_signal(), Some(Signal::SIGABRT));
    match dumped {
        None => skip(TEST, "the machine's core_pattern leads elsewhere"),
        Some((path, bytes)) => {
            let in_the_end = fs::metadata(path).expect("the dump").len();
            assert!(bytes >= DUMP_BYTES as u64, "{bytes} bytes");
            assert_eq!(bytes, in_the_end, "granted in the middle of the dump");
        }
    }
}

/// A core dump in the directory, and its length.
fn core_of(dir: &Path) -> Option<(PathBuf, u64)> {
    let entries = fs::read_dir(dir).expect("the scratch directory");
    entries
        .map(|entry| entry.expect("an entry"))
        .find_map(|entry| {
            let is_core = entry.file_name().to_string_lossy().starts_with("core");
            let len = entry.metadata().expect("its length").len();
            is_core.then(|| (entry.path(), len))
        })
}

/// Row 10: a wall clock that steps can do nothing to code that never reads it.
#[test]
fn no_line_of_the_library_names_the_wall_clock() {
    fn search(dir: &Path, found: &mut Vec<String>) {
        for entry in fs::read_dir(dir).expect("the source") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                search(&path, found);
                continue;
            }
            let text = fs::read_to_string(&path).expect("the source");
            for line in text.lines() {
                let code = line.split("//").next().unwrap_or_default().to_lowercase();
                if ["systemtime", "realtime", "gettimeofday"]
                    .iter()
                    .any(|name| code.contains(name))
                {
                    found.push(format!("{}: {line}", path.display()));
                }
            }
        }
    }
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    search(&source, &mut found);
    assert!(found.is_empty(), "{found:#?}");
}
