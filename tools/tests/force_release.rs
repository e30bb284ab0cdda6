//! `caslock force-release`: what it refuses, what it does, and whom it tells.

mod common;

use std::fs::File;
use std::os::unix::fs::FileExt;

use nix::sys::signal::Signal;

use common::Sandbox;

#[test]
fn a_holder_that_lives_is_left_alone_and_the_message_says_how_to_insist() {
    let sandbox = Sandbox::new();
    let mut holder = sandbox.hold("job");
    let token = sandbox.token("job").to_string();
    let refused = sandbox.run(&["force-release", "job", "--token", &token]);
    assert_eq!(refused.code(), 1, "{refused:?}");
    assert_eq!(refused.stdout, "");
    let who = format!("process {}", holder.wrapper.pid());
    for part in ["\"job\"", &who, "--even-if-alive"] {
        assert!(refused.stderr.contains(part), "{part}: {refused:?}");
    }
    assert!(holder.wrapper.is_running());
    assert_eq!(sandbox.slot("job")["state"], "held");

    let args = ["force-release", "job", "--token", &token, "--even-if-alive"];
    let shown = sandbox.ok(&args);
    assert!(shown.contains(&who), "{shown}");
    let outcome = holder.wrapper.finish();
    assert_eq!(outcome.code(), 120, "{outcome:?}");
    assert!(holder.command.is_gone());
    let next = sandbox.run(&["run", "job", "--", "printenv", "CASLOCK_PREVIOUS"]);
    assert_eq!(next.stdout, "forced\n");
    assert_eq!(next.stderr.lines().count(), 1, "{next:?}");
    assert!(next.stderr.contains(&who), "{next:?}");
}

#[test]
fn another_grant_than_the_one_that_was_seen_is_left_alone() {
    let sandbox = Sandbox::new();
    let mut holder = sandbox.hold("job");
    let token = sandbox.token("job");
    for wrong in [token - 1, token + 1] {
        let wrong = wrong.to_string();
        let args = ["force-release", "job", "--token", &wrong, "--even-if-alive"];
        let refused = sandbox.run(&args);
        assert_eq!(refused.code(), 1, "{refused:?}");
        assert!(refused.stderr.contains(&token.to_string()), "{refused:?}");
    }
    assert!(holder.wrapper.is_running());
    assert_eq!(sandbox.token("job"), token);
}

#[test]
fn a_lock_that_is_free_or_unknown_is_refused() {
    let sandbox = Sandbox::new();
    sandbox.ok(&["run", "job", "--", "true"]);
    let token = sandbox.token("job").to_string();
    for args in [["job", "--token", &token], ["other", "--token", "1"]] {
        let refused = sandbox.run(&[&["force-release"][..], &args].concat());
        assert_eq!(refused.code(), 1, "{refused:?}");
        assert!(refused.stderr.contains(args[0]), "{refused:?}");
    }
}

#[test]
fn a_dead_holder_takes_no_insisting() {
    let sandbox = Sandbox::new();
    let pid = sandbox.abandon("job");
    let token = sandbox.token("job").to_string();
    let shown = sandbox.ok(&["force-release", "job", "--token", &token]);
    assert!(shown.contains(&format!("process {pid}")), "{shown}");
}

#[test]
fn a_stopped_holder_is_not_proven_dead() {
    let sandbox = Sandbox::new();
    sandbox.ok(&["create", "--reclaim", "on-death", "test.table"]);
    let holder = sandbox.hold("job");
    let token = sandbox.token("job").to_string();
    holder.wrapper.send(Signal::SIGSTOP);
    let refused = sandbox.run(&["force-release", "job", "--token", &token]);
    assert_eq!(refused.code(), 1, "{refused:?}");
}

#[test]
fn acknowledging_an_abandoned_lock_ends_the_news() {
    let sandbox = Sandbox::new();
    sandbox.abandon("job");
    let fail = ["run", "--on-abandoned", "fail", "job", "--", "true"];
    assert_eq!(sandbox.run(&fail).code(), 121);
    let token = sandbox.token("job").to_string();
    let shown = sandbox.ok(&["force-release", "job", "--token", &token]);
    assert!(shown.contains("acknowledged"), "{shown}");
    assert_eq!(sandbox.slot("job")["state"], "free");
    assert_eq!(sandbox.run(&fail).code(), 0);
}

/// The second of them acknowledged what the first had done: nobody was told any more.
#[test]
fn who_insists_twice_takes_the_news_from_nobody() {
    let sandbox = Sandbox::new();
    let holder = sandbox.hold("job");
    let token = sandbox.token("job").to_string();
    let insist = ["force-release", "job", "--token", &token, "--even-if-alive"];
    assert!(sandbox.ok(&insist).contains(" taken from "));
    let who = format!("force-released from process {}", holder.wrapper.pid());
    for _ in 0..2 {
        let shown = sandbox.ok(&insist);
        assert!(
            shown.contains(" is free already: ") && shown.contains(&who),
            "{shown}"
        );
        assert_eq!(sandbox.slot("job")["state"], "abandoned");
    }
    let shown = sandbox.ok(&insist[..4]);
    assert!(shown.contains("acknowledged"), "{shown}");
    assert_eq!(sandbox.slot("job")["state"], "free");
}

#[test]
fn a_table_that_is_not_there_is_not_created() {
    let sandbox = Sandbox::new();
    let refused = sandbox.run(&["force-release", "job", "--token", "1"]);
    assert_eq!(refused.code(), 66, "{refused:?}");
    assert!(!sandbox.table().exists());
}

/// It named the table twice where the table could not be written to.
#[test]
fn the_table_is_named_once() {
    let sandbox = Sandbox::new();
    sandbox.ok(&["run", "job", "--", "true"]);
    let args = ["force-release", "job", "--token", "1"];
    let stale = sandbox.run(&args);
    assert_eq!(stale.code(), 1, "{stale:?}");
    let read_only = "mount --bind . . && mount -o remount,bind,ro .";
    let refused = sandbox.run_with_mounts(read_only, &args);
    let table = sandbox.table();
    let table = table.to_str().expect("a UTF-8 path");
    for outcome in [Some(stale), refused].into_iter().flatten() {
        assert_ne!(outcome.code(), 0, "{outcome:?}");
        assert_eq!(outcome.stderr.matches(table).count(), 1, "{outcome:?}");
    }
}

/// Finds the slot's owner word by its holder's PID, which has its top 22 bits, and makes
/// its 12 bits of session index ones that no rule produces.
#[test]
fn a_damaged_owner_word_is_repaired_on_insistence_only() {
    const IMPOSSIBLE: u64 = 4089;
    let sandbox = Sandbox::new();
    let holder = sandbox.hold("job");
    let pid = u64::from(holder.wrapper.pid());
    let bytes = std::fs::read(sandbox.table()).expect("the table");
    let words = bytes.chunks_exact(8).map(|word| {
        let word = word.try_into().expect("eight bytes");
        u64::from_le_bytes(word)
    });
    let found: Vec<_> = (0_u64..)
        .step_by(8)
        .zip(words)
        .filter(|(_, word)| word >> 42 == pid)
        .collect();
    let [(at, word)] = found[..] else {
        panic!("owner words of process {pid}: {found:x?}");
    };
    let damaged = word & !(0xfff << 30) | IMPOSSIBLE << 30;
    let file = File::options().write(true).open(sandbox.table());
    file.expect("the table")
        .write_all_at(&damaged.to_le_bytes(), at)
        .expect("the table");

    assert_eq!(sandbox.slot("job")["state"], "corrupt");
    let busy = sandbox.run(&["run", "-n", "job", "--", "true"]);
    assert_eq!(busy.code(), 125, "{busy:?}");
    let table = sandbox.table();
    let advice = format!("`caslock --table {} show job` says how", table.display());
    assert!(busy.stderr.contains(&advice), "{busy:?}");
    let doctor = sandbox.run(&["doctor"]);
    assert_eq!(doctor.code(), 1, "{doctor:?}");
    assert!(doctor.stdout.contains("damaged"), "{doctor:?}");

    let token = sandbox.token("job").to_string();
    let refused = sandbox.run(&["force-release", "job", "--token", &token]);
    assert_eq!(refused.code(), 1, "{refused:?}");
    sandbox.ok(&["force-release", "job", "--token", &token, "--even-if-alive"]);
    // Its holder may have been in the middle of something.
    let next = sandbox.ok(&["run", "-n", "job", "--", "printenv", "CASLOCK_PREVIOUS"]);
    assert_eq!(next, "forced\n");
    holder.wrapper.send(Signal::SIGTERM);
    assert_eq!(holder.wrapper.finish().code(), 120);
}
