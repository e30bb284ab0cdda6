//! Session records and notes: read whole or not at all.

use std::sync::Arc;

use super::super::model::{act, finish};
use super::super::protocol::names::{NameRecord, Note};
use super::super::protocol::session::{Credentials, SessionRecord};
use crate::check::Model;
use crate::stop;

fn credentials(of: u32) -> Credentials {
    let word = u64::from(of);
    Credentials {
        pid: of,
        shares_witness: of == 2,
        pid_namespace: word,
        now_ms: word,
        command: [word, word],
    }
}

/// A record that changes hands under a reader.
#[must_use]
pub fn session_view() -> Model {
    Model::new(
        "a session record that changes hands, a reader",
        "a view of an active session has the credentials of one session",
        2,
        |reached| {
            let record = Arc::new(SessionRecord::new());
            record.open(&credentials(1));
            let (reader, marks) = (record.clone(), reached.clone());
            let all = [
                // The first was killed, and closed nothing.
                act(move || record.open(&credentials(2))),
                // A view is such readings until one succeeds, each as this one begun later.
                act(move || match reader.view_once() {
                    Some(view) if view.active => {
                        let of = view.credentials.pid;
                        assert_eq!(view.credentials, credentials(of), "torn");
                        marks.mark(if of == 1 { "the first" } else { "the second" });
                    }
                    _ => marks.mark("none"),
                }),
            ];
            finish(all);
        },
    )
    .reaching(&["the first", "the second", "none"])
}

/// Two threads of one session that begin and end to wait for a slot.
#[must_use]
pub fn waiters_are_counted() -> Model {
    Model::new(
        "two threads that begin and end to wait for one slot",
        "who waits shows until it has ended, and nothing is left of it then",
        2,
        |reached| {
            const SLOT: u32 = 4;
            let record = Arc::new(SessionRecord::new());
            let waits = || {
                let (record, marks) = (record.clone(), reached.clone());
                act(move || {
                    // One that finds the only entry being taken does not show.
                    let Some(entry) = record.begin_wait(SLOT) else {
                        return marks.mark("no room");
                    };
                    match record.waiting().next() {
                        Some((SLOT, 1)) => marks.mark("alone"),
                        Some((SLOT, 2)) => marks.mark("both"),
                        other => panic!("{other:?} shows in place of one that waits"),
                    }
                    record.end_wait(entry);
                })
            };
            finish([waits(), waits()]);
            assert_eq!(record.waiting().next(), None, "nobody waits any more");
        },
    )
    .reaching(&["alone", "both", "no room"])
}

/// A session that is killed anywhere while it opens its record, the next that opens it, and
/// a reader.
///
/// One killed before its first step, or after its last, leaves what [`session_view`] begins
/// with; and what it leaves half done is not seen in parts here, as that is there, too.
#[must_use]
pub fn opener_stops(steps: u32) -> Model {
    Model::new(
        "a session killed while it opens its record, the next, a reader",
        "a record whose writer died half way shows no session, or one that is whole",
        2,
        move |reached| {
            let record = Arc::new(SessionRecord::new());
            record.open(&credentials(1));
            if stop::after(1 + steps, || record.open(&credentials(2))).is_some() {
                return;
            }
            reached.mark("killed");
            let (next, reader, notes) = (record.clone(), record.clone(), reached.clone());
            let all = [
                act(move || next.open(&credentials(3))),
                act(move || {
                    // What is read of an inactive record is not shown: it need not be read.
                    if !reader.is_active() {
                        return notes.mark("none");
                    }
                    let view = reader.view_once().expect("it changes no more");
                    assert_eq!(view.credentials, credentials(3), "torn, or of the dead");
                    notes.mark("the third");
                }),
            ];
            finish(all);
            let view = record.view_once().expect("nobody changes it");
            assert!(view.active && view.credentials == credentials(3));
        },
    )
    .reaching(&["killed", "none", "the third"])
}

/// A heartbeat and an observer.
#[must_use]
pub fn life_sign() -> Model {
    Model::new(
        "a session that beats and detaches, an observer",
        "a beat changes the sign of life, and so does the next session in the record",
        2,
        |reached| {
            let record = Arc::new(SessionRecord::new());
            record.open(&credentials(1));
            let first = record.life_sign();
            let (observer, marks) = (record.clone(), reached.clone());
            let all = [
                act(move || {
                    record.beat(1);
                    record.close();
                    record.open(&credentials(2));
                    assert_ne!(record.life_sign(), first);
                }),
                act(move || {
                    let early = observer.life_sign();
                    if early != first {
                        marks.mark("saw a change");
                        assert_ne!(observer.life_sign(), first, "life went back");
                    }
                }),
            ];
            finish(all);
        },
    )
    .reaching(&["saw a change"])
}

/// Two notes of two grants, and a reader of both.
#[must_use]
pub fn notes() -> Model {
    Model::new(
        "two holders' notes, a reader",
        "a note is read whole, and only as that of the grant that wrote it",
        2,
        |reached| {
            let note = |of: u8| Note::new(&[of; 16]).expect("it has room");
            let record = Arc::new(NameRecord::new());
            record.write_note(1, &note(1));
            let (reader, marks) = (record.clone(), reached.clone());
            let all = [
                act(move || {
                    record.write_note(2, &note(2));
                }),
                act(move || {
                    for token in [1, 2] {
                        if let Some(read) = reader.read_note(token) {
                            assert_eq!(read, note(token as u8), "torn");
                            marks.mark(if token == 1 {
                                "the first"
                            } else {
                                "the second"
                            });
                        }
                    }
                }),
            ];
            finish(all);
        },
    )
    .reaching(&["the first", "the second"])
}
