//! The JSON that machines read: exactly these fields, in this order, of these types.

mod common;

use std::os::unix::fs::symlink;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use common::{CASLOCK, Process, Running, Sandbox, until};

const SLOT: &[&str] = &[
    "name", "state", "token", "waiters", "held_ms", "holder", "note",
];
const HOLDER: &[&str] = &[
    "pid",
    "session",
    "command",
    "liveness",
    "heartbeat_age_ms",
    "same_pid_namespace",
];
const SESSION: &[&str] = &[
    "session",
    "pid",
    "command",
    "liveness",
    "heartbeat_age_ms",
    "attached_ms",
    "same_pid_namespace",
    "held",
];

/// That the object has these fields and no others, and that the text has them in order.
fn assert_fields(value: &Value, text: &str, fields: &[&str]) {
    let object = value.as_object().expect("an object");
    let mut found: Vec<_> = object.keys().map(String::as_str).collect();
    let mut expected = fields.to_vec();
    found.sort_unstable();
    expected.sort_unstable();
    assert_eq!(found, expected, "{text}");
    let at = fields
        .iter()
        .map(|field| text.find(&format!("\"{field}\":")));
    assert!(at.is_sorted(), "{text}");
}

fn parse(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn a_held_slot_names_its_holder() {
    let sandbox = Sandbox::new();
    let holder = sandbox.hold_with(&["--note", "a note"], "job", "exec sleep 1000");
    let text = sandbox.ok(&["show", "--json", "job"]);
    let slot = parse(&text);
    assert_fields(&slot, &text, SLOT);
    assert_eq!(slot["name"], "job");
    assert_eq!(slot["state"], "held");
    assert!(slot["token"].as_u64().expect("a number") > 0);
    assert_eq!(slot["waiters"], 0);
    assert!(slot["held_ms"].is_u64(), "{text}");
    assert_eq!(slot["note"], "a note");
    let who = &slot["holder"];
    assert_fields(who, &text, HOLDER);
    assert_eq!(who["pid"], holder.wrapper.pid());
    assert!(who["session"].is_u64(), "{text}");
    assert_eq!(who["command"], "caslock");
    assert_eq!(who["liveness"], "alive");
    assert!(who["heartbeat_age_ms"].is_u64(), "{text}");
    assert_eq!(who["same_pid_namespace"], true);
}

/// They came out as one: a line's end as a backslash and an n, which people are shown.
#[test]
fn names_and_notes_are_those_that_were_given() {
    let sandbox = Sandbox::new();
    let names = ["a\nb", "a\\nb", "\x1b[2J\u{9b}\u{202e}\u{1f680}"];
    let _holders = names.map(|name| sandbox.hold_with(&["--note", name], name, "exec sleep 1000"));
    let text = sandbox.ok(&["ls", "--json"]);
    assert!(!text.trim_end().contains(char::is_control), "{text:?}");
    let slots = parse(&text);
    for name in names {
        let slot = sandbox.slot(name);
        assert_eq!((&slot["name"], &slot["note"]), (&json!(name), &json!(name)));
        let listed = slots.as_array().expect("an array");
        let same = listed.iter().filter(|listed| listed["name"] == name);
        assert_eq!(same.count(), 1, "{text}");
    }
}

#[test]
fn a_command_has_the_name_that_it_runs_by() {
    let sandbox = Sandbox::new();
    let program = sandbox.path().join("a\nb\\nc");
    symlink(CASLOCK, &program).expect("a symbolic link");
    let mut command = sandbox.command(&program);
    command.args(["run", "job", "--", "sh", "-c", "echo $$; exec sleep 1000"]);
    let _holder = Running::of(sandbox.start(command));
    let slot = sandbox.slot("job");
    assert_eq!(slot["holder"]["command"], "a\nb\\nc");
    let sessions = sandbox.json(&["sessions", "--json"]);
    assert_eq!(sessions[0]["command"], "a\nb\\nc");
    assert!(sandbox.ok(&["sessions"]).contains(" a\\nb\\nc "));
}

#[test]
fn a_free_slot_has_nulls_where_its_holder_would_be() {
    let sandbox = Sandbox::new();
    sandbox.ok(&["run", "job", "--", "true"]);
    let text = sandbox.ok(&["show", "--json", "job"]);
    let slot = parse(&text);
    assert_fields(&slot, &text, SLOT);
    assert_eq!(slot["state"], "free");
    for field in ["held_ms", "holder", "note"] {
        assert!(slot[field].is_null(), "{field}: {text}");
    }
}

#[test]
fn a_dead_holder_shows_as_dead_or_its_slot_as_abandoned() {
    let sandbox = Sandbox::new();
    let pid = sandbox.abandon("job");
    let slot = sandbox.slot("job");
    match slot["state"].as_str() {
        Some("held") => {
            assert_eq!(slot["holder"]["pid"], pid);
            assert_eq!(slot["holder"]["liveness"], "dead", "{slot}");
        }
        Some("abandoned") => assert!(slot["holder"].is_null(), "{slot}"),
        _ => panic!("{slot}"),
    }
}

#[test]
fn a_holder_without_a_heartbeat_shows_as_late() {
    let sandbox = Sandbox::new();
    sandbox.ok(&["create", "--lease", "1", "test.table"]);
    let holder = sandbox.hold("job");
    holder.wrapper.send(Signal::SIGSTOP);
    until("the heartbeat is older than the lease", || {
        sandbox.slot("job")["holder"]["liveness"] == "late"
    });
    let age = sandbox.slot("job")["holder"]["heartbeat_age_ms"].as_u64();
    assert!(age.expect("a number") >= 1000, "{age:?}");
}

#[test]
fn waiters_are_counted() {
    let sandbox = Sandbox::new();
    let _holder = sandbox.hold("job");
    let wait = || sandbox.start(sandbox.caslock(&["run", "job", "--", "true"]));
    let _waiters: [Process; 2] = [wait(), wait()];
    until("both wait", || sandbox.slot("job")["waiters"] == 2);
}

#[test]
fn ls_is_an_array_of_the_same_objects_sorted_by_name() {
    let sandbox = Sandbox::new();
    sandbox.ok(&["create", "test.table"]);
    assert_eq!(sandbox.json(&["ls", "--json"]), json!([]));
    for name in ["b", "c", "a"] {
        sandbox.ok(&["run", name, "--", "true"]);
    }
    let slots = sandbox.json(&["ls", "--json"]);
    let slots = slots.as_array().expect("an array");
    let names: Vec<_> = slots.iter().map(|slot| slot["name"].clone()).collect();
    assert_eq!(names, ["a", "b", "c"]);
    for slot in slots {
        let name = slot["name"].as_str().expect("a name");
        assert_eq!(*slot, sandbox.slot(name));
    }
}

#[test]
fn sessions_are_an_array_of_the_processes_that_are_attached() {
    let sandbox = Sandbox::new();
    let holder = sandbox.hold("job");
    let text = sandbox.ok(&["sessions", "--json"]);
    let sessions = parse(&text);
    let sessions = sessions.as_array().expect("an array");
    let [session] = &sessions[..] else {
        panic!("{text}");
    };
    assert_fields(session, &text, SESSION);
    assert_eq!(session["pid"], holder.wrapper.pid());
    assert_eq!(session["command"], "caslock");
    assert_eq!(session["liveness"], "alive");
    assert_eq!(session["same_pid_namespace"], true);
    assert_eq!(session["held"], 1);
    assert!(session["heartbeat_age_ms"].is_u64(), "{text}");
    assert!(session["attached_ms"].is_u64(), "{text}");
}
