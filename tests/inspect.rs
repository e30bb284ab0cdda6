//! What an operator sees and may do: snapshots with and without a session, force-release by
//! exact token, and what those it was taken from are told.

mod common;

use std::fs;
use std::os::unix::fs::FileExt;
use std::thread;
use std::time::Duration;

use caslock::{
    AcquireError, FencingToken, ForceReleaseError, Forced, Inspector, Liveness, LockTable, Lost,
    LostHow, NoteError, OpenError, Previous, Reclaim, SlotState,
};
use common::{
    Child, Dice, Grant, Scratch, dispatch, on_death, on_expiry, puppet, report, wait_until,
    watchdog,
};

#[test]
fn child_role() {
    dispatch(&[("puppet", puppet)]);
}

#[test]
fn a_snapshot_shows_each_lock_as_it_is() {
    let _watchdog = watchdog("a_snapshot_shows_each_lock_as_it_is");
    let scratch = Scratch::with(on_death());
    let mut holder = Child::puppet(&scratch.table());
    let mut waiter = Child::puppet(&scratch.table());
    let free = holder.acquire("free");
    assert_eq!(holder.release("free"), "released");
    let held = holder.acquire("held");
    assert_eq!(holder.ask("note held copying the blocks"), "noted");
    waiter.say("acquire held");

    let inspector = Inspector::open(scratch.table()).expect("the table opens");
    let look = |name: &str| inspector.slot(name).expect("a look").expect("the slot");
    wait_until(|| look("held").waiters == 1);

    let slot = look("free");
    assert_eq!((slot.name.as_str(), slot.state), ("free", SlotState::Free));
    assert_eq!(
        (slot.token.0, slot.holder, slot.previous),
        (free.token, None, Previous::Released)
    );
    assert_eq!(slot.note, None);

    let slot = look("held");
    let who = slot.holder.expect("a holder");
    assert_eq!((slot.state, slot.token.0), (SlotState::Held, held.token));
    assert_eq!(
        (who.pid, who.token.0, who.liveness),
        (holder.pid(), held.token, Liveness::Alive)
    );
    assert_eq!(slot.note.as_deref(), Some("copying the blocks"));
    assert!(!who.command.to_string().is_empty());

    assert!(inspector.slot("unheard of").expect("a look").is_none());
    let snapshot = inspector.snapshot().expect("a snapshot");
    let mut names: Vec<_> = snapshot
        .slots
        .iter()
        .map(|slot| slot.name.as_str())
        .collect();
    names.sort_unstable();
    assert_eq!(names, ["free", "held"]);
    let session = snapshot
        .sessions
        .iter()
        .find(|s| s.pid == holder.pid())
        .expect("its session");
    assert_eq!(
        (session.session, session.held),
        (look("held").holder.expect("held").session, 1)
    );
    assert_eq!(
        (session.liveness, session.same_pid_namespace),
        (Liveness::Alive, true)
    );

    // The note goes with its grant.
    assert_eq!(holder.release("held"), "released");
    assert!(waiter.hear().starts_with("granted"));
    assert_eq!(look("held").note, None);
}

/// Dead, and nobody took it yet: it shows as held, by the dead, until somebody does.
#[test]
fn a_dead_holder_is_shown_as_dead_until_somebody_takes_over() {
    let _watchdog = watchdog("a_dead_holder_is_shown_as_dead_until_somebody_takes_over");
    let scratch = Scratch::with(on_death());
    let mut dead = Child::puppet(&scratch.table());
    let mut next = Child::puppet(&scratch.table());
    let left = dead.acquire("job");
    dead.kill_and_reap();
    let inspector = Inspector::open(scratch.table()).expect("the table opens");
    for _ in 0..3 {
        let slot = inspector.slot("job").expect("a look").expect("the slot");
        let who = slot.holder.expect("the dead holder");
        assert_eq!((slot.state, slot.token.0), (SlotState::Held, left.token));
        assert_eq!((who.pid, who.liveness), (dead.pid(), Liveness::Dead));
        let sessions = inspector.snapshot().expect("a snapshot").sessions;
        let session = sessions.iter().find(|session| session.pid == dead.pid());
        let shown = session.map(|session| (session.liveness, session.held));
        assert_eq!(shown, Some((Liveness::Dead, 1)), "a look changes nothing");
    }
    assert_eq!(next.acquire("job").previous, "died");
    let slot = inspector.slot("job").expect("a look").expect("the slot");
    assert_eq!(
        slot.holder.map(|who| (who.pid, who.liveness)),
        Some((next.pid(), Liveness::Alive))
    );
}

#[test]
fn a_table_says_what_it_is() {
    let _watchdog = watchdog("a_table_says_what_it_is");
    let lease = Duration::from_millis(2_500);
    let scratch = Scratch::with(on_expiry(2_500).slots(100).sessions(20));
    let table = scratch.open();
    assert_eq!(table.path(), scratch.table());
    assert_eq!(table.reclaim(), Reclaim::OnExpiry { lease });
    let info = table.inspect().expect("a snapshot").table;
    assert_eq!(
        (info.path, info.reclaim),
        (scratch.table(), Reclaim::OnExpiry { lease })
    );
    assert_eq!((info.slots, info.sessions, info.names), (100, 20, 0));
    assert_eq!(
        info.bytes,
        fs::metadata(scratch.table()).expect("the file").len()
    );
    assert!(
        info.id.len() == 32 && info.id.bytes().all(|b| b.is_ascii_hexdigit()),
        "{}",
        info.id
    );
    assert!(info.current_boot && info.in_place && info.naming.is_none());
    assert!(!info.format.is_empty());
    let other = Scratch::with(on_death());
    let second = Inspector::open(other.table())
        .expect("the table opens")
        .snapshot()
        .expect("a snapshot");
    assert_ne!(second.table.id, info.id, "an id is one table's own");
    assert_eq!(second.table.reclaim, Reclaim::OnDeath);
}

#[test]
fn slots_are_in_the_order_of_their_names_and_sessions_in_that_of_their_indices() {
    let scratch = Scratch::with(on_death());
    let table = scratch.open();
    let _others = [(); 3].map(|()| Child::puppet(&scratch.table()));
    let names: Vec<_> = (10..40).rev().map(|name| name.to_string()).collect();
    let _locks: Vec<_> = (names.iter())
        .map(|name| table.lock(name).expect("a lock"))
        .collect();
    let snapshot = table.inspect().expect("a snapshot");
    assert_eq!((snapshot.slots.len(), snapshot.sessions.len()), (30, 4));
    assert!(
        snapshot
            .slots
            .is_sorted_by(|one, next| one.name < next.name)
    );
    assert!((snapshot.sessions).is_sorted_by(|one, next| one.session < next.session));
}

/// An operator's look takes no session, not even the last one.
#[test]
fn an_inspector_takes_no_session() {
    let _watchdog = watchdog("an_inspector_takes_no_session");
    let scratch = Scratch::with(on_death().sessions(1));
    let before = fs::read(scratch.table()).expect("the file");
    for _ in 0..3 {
        let inspector = Inspector::open(scratch.table()).expect("the table opens");
        assert!(
            inspector
                .snapshot()
                .expect("a snapshot")
                .sessions
                .is_empty()
        );
    }
    assert_eq!(
        fs::read(scratch.table()).expect("the file"),
        before,
        "not a byte was changed"
    );
    let mut only = Child::puppet(&scratch.table());
    let held = only.acquire("job");
    let inspector = Inspector::open(scratch.table()).expect("the table opens");
    let snapshot = inspector.snapshot().expect("a snapshot");
    assert_eq!(snapshot.sessions.len(), 1);
    assert_eq!(
        (snapshot.sessions[0].pid, snapshot.sessions[0].held),
        (only.pid(), 1)
    );
    assert_eq!(snapshot.slot("job").expect("the slot").token.0, held.token);
    // It may act, too: still without a session.
    let forced = inspector.force_release("job", held.token).expect("forced");
    assert!(
        matches!(forced, Forced::From(who) if who.pid == only.pid()),
        "{forced:?}"
    );
    assert!(!only.is_held("job"));
}

#[test]
fn an_inspector_finds_no_table_where_there_is_none() {
    let _watchdog = watchdog("an_inspector_finds_no_table_where_there_is_none");
    let scratch = Scratch::empty();
    let refused = Inspector::open(scratch.table())
        .map(drop)
        .expect_err("no table");
    assert!(matches!(refused, OpenError::NotFound { .. }), "{refused:?}");
    assert!(!scratch.table().exists(), "and makes none");
}

#[test]
fn a_session_lasts_as_long_as_its_last_handle() {
    let _watchdog = watchdog("a_session_lasts_as_long_as_its_last_handle");
    let scratch = Scratch::with(on_death());
    let inspector = Inspector::open(scratch.table()).expect("the table opens");
    let sessions = || inspector.snapshot().expect("a snapshot").sessions.len();
    let table = scratch.open();
    let again = LockTable::open(scratch.table()).expect("the table opens");
    assert_eq!(
        again.session(),
        table.session(),
        "one session per process and table"
    );
    assert_eq!(sessions(), 1);
    let lock = table.lock("job").expect("a lock");
    drop((table, again));
    assert_eq!(sessions(), 1, "a lock is a handle, too");
    let guard = lock.acquire().expect("a grant");
    guard.release().expect("held to the end");
    drop(lock);
    assert_eq!(sessions(), 0);
    assert_eq!(
        scratch
            .open()
            .lock("job")
            .expect("a lock")
            .try_acquire()
            .map(|g| g.previous())
            .ok(),
        Some(Previous::Released)
    );
}

/// Row 34: names come out of a file that others write.
#[test]
fn control_bytes_in_names_are_shown_escaped() {
    let _watchdog = watchdog("control_bytes_in_names_are_shown_escaped");
    let scratch = Scratch::with(on_death());
    let table = scratch.open();
    let lock = table.lock(EVIL).expect("a lock");
    let guard = lock.acquire().expect("a grant");
    let busy = lock.try_acquire().map(drop).expect_err("held");
    let unknown = table
        .force_release(format!("{EVIL}?"), 1)
        .expect_err("no such lock");
    let stale = table.force_release(EVIL, 0).expect_err("not that token");
    // A field is for programs: the name as it was given, not as the message has it.
    let AcquireError::Busy { name, .. } = &busy else {
        panic!("{busy:?}");
    };
    assert_eq!(name, EVIL);
    for shown in [busy.to_string(), unknown.to_string(), stale.to_string()] {
        let is_unsafe = |c: char| c.is_control() || c == '\u{202e}';
        assert!(!shown.contains(is_unsafe), "{shown:?}");
        assert!(shown.contains("\\u{1b}[2J"), "{shown:?}");
    }
    drop(guard);
}

const EVIL: &str = "a\x1b]0;owned\x07\x1b[2J\r\n\u{202e}b";

/// Two locks came out as one: a name was given as it is shown, where a line's end looks
/// like a backslash and an n.
#[test]
fn names_and_notes_are_given_as_they_were_written() {
    let _watchdog = watchdog("names_and_notes_are_given_as_they_were_written");
    let scratch = Scratch::with(on_death());
    let table = scratch.open();
    let names = ["a\nb", "a\\nb", EVIL];
    for name in names {
        let lock = table.lock(name).expect("a lock");
        let guard = lock.acquire().expect("a grant");
        guard.set_note(name).expect("a note");
        std::mem::forget(guard);
    }
    let snapshot = table.inspect().expect("a snapshot");
    assert_eq!(snapshot.slots.len(), names.len());
    let inspector = Inspector::open(scratch.table()).expect("the table opens");
    for name in names {
        let listed = snapshot.slot(name).expect("found by its name");
        let alone = inspector.slot(name).expect("not forked").expect("the same");
        for slot in [listed, &alone] {
            assert_eq!(
                (slot.name.as_str(), slot.note.as_deref()),
                (name, Some(name))
            );
        }
    }
}

#[test]
fn a_name_that_is_not_utf_8_is_given_with_escapes() {
    let _watchdog = watchdog("a_name_that_is_not_utf_8_is_given_with_escapes");
    let scratch = Scratch::with(on_death());
    let name = "a\nname to be damaged";
    let table = scratch.open();
    table.lock(name).expect("a lock");
    let bytes = fs::read(scratch.table()).expect("the table");
    let at = bytes
        .windows(name.len())
        .position(|window| window == name.as_bytes())
        .expect("the name in the file");
    let file = fs::File::options().write(true).open(scratch.table());
    file.expect("the table")
        .write_all_at(b"\xff", at as u64)
        .expect("a write");
    let snapshot = table.inspect().expect("a snapshot");
    let [slot] = &snapshot.slots[..] else {
        panic!("{snapshot:?}");
    };
    assert_eq!(slot.name, "\\xff\\nname to be damaged");
}

#[test]
fn a_note_has_its_limit_and_ends_with_its_grant() {
    let _watchdog = watchdog("a_note_has_its_limit_and_ends_with_its_grant");
    let scratch = Scratch::with(on_death());
    let table = scratch.open();
    let lock = table.lock("job").expect("a lock");
    let note = || {
        table
            .inspect()
            .expect("a snapshot")
            .slot("job")
            .expect("the slot")
            .note
            .clone()
    };
    let guard = lock.acquire().expect("a grant");
    assert_eq!(note(), None);
    let longest = "n".repeat(caslock::NOTE_MAX);
    guard.set_note(&longest).expect("it fits");
    assert_eq!(note().as_deref(), Some(longest.as_str()));
    let refused = guard
        .set_note(&format!("{longest}n"))
        .expect_err("a byte too long");
    let NoteError::TooLong { len, max } = refused else {
        panic!("{refused:?}");
    };
    assert_eq!((len, max), (caslock::NOTE_MAX + 1, caslock::NOTE_MAX));
    assert_eq!(
        note().as_deref(),
        Some(longest.as_str()),
        "the refused one changed nothing"
    );
    guard.set_note("short").expect("it fits");
    assert_eq!(note().as_deref(), Some("short"));
    guard.release().expect("held to the end");
    let guard = lock.acquire().expect("a grant");
    assert_eq!(note(), None, "the last grant's note");
    table.force_release("job", guard.token()).expect("forced");
    assert!(matches!(
        guard.set_note("too late"),
        Err(NoteError::Lost(_))
    ));
    assert_eq!(note(), None);
}

#[test]
fn a_forced_release_tells_the_holder_and_the_successor() {
    let _watchdog = watchdog("a_forced_release_tells_the_holder_and_the_successor");
    let scratch = Scratch::with(on_death());
    let table = scratch.open();
    let lock = table.lock("job").expect("a lock");
    let mut holder = Child::puppet(&scratch.table());
    let held = holder.acquire("job");
    assert_eq!(holder.ask("watch job"), "watching");

    let forced = table.force_release("job", held.token).expect("forced");
    let Forced::From(who) = forced else {
        panic!("{forced:?}");
    };
    assert_eq!((who.pid, who.token.0), (holder.pid(), held.token));
    assert!(!holder.is_held("job"));
    assert_eq!(
        holder.ask("loss job"),
        format!("job {} vacated forced", held.token)
    );
    let slot = table
        .inspect()
        .expect("a snapshot")
        .slot("job")
        .expect("the slot")
        .clone();
    assert_eq!(
        (slot.state, slot.token.0),
        (SlotState::Abandoned, held.token)
    );
    assert_eq!(slot.previous.as_str(), "forced");

    // The stale guard leaves both the free slot and the successor alone.
    let guard = lock.try_acquire().expect("free");
    let grant = Grant::of(&guard);
    assert_eq!(
        (grant.previous.as_str(), grant.departed),
        ("forced", (holder.pid(), held.token))
    );
    assert!(grant.token > held.token);
    assert_eq!(
        holder.release("job"),
        format!("taken-over {}", std::process::id())
    );
    assert!(guard.is_held());
    guard.release().expect("held to the end");
}

#[test]
fn a_stale_guard_that_is_released_or_dropped_keeps_the_news_for_the_successor() {
    let _watchdog = watchdog("a_stale_guard_keeps_the_news_for_the_successor");
    let scratch = Scratch::with(on_death());
    let table = scratch.open();
    let lock = table.lock("job").expect("a lock");
    for dropped in [false, true] {
        let guard = lock.acquire().expect("a grant");
        let token = guard.token();
        table.force_release("job", token).expect("forced");
        if dropped {
            drop(guard);
        } else {
            let lost = guard.release().expect_err("it was forced");
            assert_eq!((lost.name.as_str(), lost.token), ("job", token));
            let LostHow::Vacated(Previous::Forced(who)) = lost.how else {
                panic!("{lost:?}");
            };
            assert_eq!((who.pid, who.token), (std::process::id(), token));
        }
        let next = lock.try_acquire().expect("free");
        assert_eq!(next.previous().departed().expect("news").token, token);
        assert_eq!(next.previous().as_str(), "forced");
    }
}

/// A waiter gets a lock that is forced free.
#[test]
fn a_forced_release_wakes_a_waiter() {
    let _watchdog = watchdog("a_forced_release_wakes_a_waiter");
    let scratch = Scratch::with(on_death());
    let mut holder = Child::puppet(&scratch.table());
    let mut waiter = Child::puppet(&scratch.table());
    let held = holder.acquire("job");
    waiter.say("acquire job");
    let inspector = Inspector::open(scratch.table()).expect("the table opens");
    wait_until(|| {
        inspector
            .slot("job")
            .expect("a look")
            .expect("the slot")
            .waiters
            == 1
    });
    inspector.force_release("job", held.token).expect("forced");
    let grant: Grant = waiter.hear().parse().expect("a grant");
    assert_eq!(
        (grant.previous.as_str(), grant.departed),
        ("forced", (holder.pid(), held.token))
    );
}

/// Row 22: the token names the grant that was seen, not whatever is there now.
/// It has no token, so none is the wrong one.
#[test]
fn a_name_that_nobody_has_had_is_not_held_whatever_the_token() {
    let scratch = Scratch::with(on_death());
    let table = scratch.open();
    let _lock = table.lock("new").expect("a lock");
    let refused = table.force_release("new", 7).expect_err("nobody holds it");
    assert!(
        matches!(refused, ForceReleaseError::NotHeld { .. }),
        "{refused:?}"
    );
}

/// Its slot's tokens go on from those of the name that had it before.
#[test]
fn a_name_that_nobody_has_had_shows_no_token_and_nobody_waiting() {
    let scratch = Scratch::with(on_death().slots(1));
    let table = scratch.open();
    for name in ["old", "new"] {
        let lock = table.lock(name).expect("a lock");
        let shown = table.inspect().expect("a snapshot");
        let inspector = Inspector::open(scratch.table()).expect("the table opens");
        let alone = inspector.slot(name).expect("not forked");
        for slot in [shown.slot(name), alone.as_ref()] {
            let slot = slot.expect("the slot");
            assert_eq!((slot.state, slot.token.0), (SlotState::Free, 0));
            assert_eq!((slot.previous, slot.waiters), (Previous::None, 0));
        }
        let guard = lock.acquire().expect("a grant");
        guard.release().expect("held to the end");
    }
}

#[test]
fn a_forced_release_of_another_grant_changes_nothing() {
    let _watchdog = watchdog("a_forced_release_of_another_grant_changes_nothing");
    let scratch = Scratch::with(on_death());
    let table = scratch.open();
    let lock = table.lock("job").expect("a lock");
    let old = lock.acquire().map(|guard| guard.token()).expect("a grant");
    let refused = table
        .force_release("job", old)
        .expect_err("it has ended by itself");
    assert!(
        matches!(refused, ForceReleaseError::NotHeld { .. }),
        "{refused:?}"
    );

    let guard = lock.acquire().expect("a grant");
    for wrong in [old.0, guard.token().0 + 1, 0, u64::MAX] {
        let refused = table
            .force_release("job", wrong)
            .expect_err("not this grant");
        let ForceReleaseError::TokenMismatch { asked, current, .. } = &refused else {
            panic!("{refused:?}");
        };
        assert_eq!((asked.0, *current), (wrong, guard.token()));
        assert!(
            refused.to_string().contains(&guard.token().to_string()),
            "{refused}"
        );
    }
    assert!(guard.is_held());
    let refused = table
        .force_release("unheard of", 1)
        .expect_err("no such lock");
    assert!(
        matches!(refused, ForceReleaseError::NoSuchLock { .. }),
        "{refused:?}"
    );
    assert!(
        table
            .inspect()
            .expect("a snapshot")
            .slot("unheard of")
            .is_none()
    );
    guard.release().expect("untouched");
}

#[test]
fn a_dead_holders_lock_can_be_forced_and_its_news_acknowledged() {
    let _watchdog = watchdog("a_dead_holders_lock_can_be_forced_and_its_news_acknowledged");
    let scratch = Scratch::with(on_death());
    let table = scratch.open();
    let mut holder = Child::puppet(&scratch.table());
    let held = holder.acquire("job");
    holder.kill_and_reap();
    let forced = table.force_release("job", held.token).expect("forced");
    let text = format!("{forced:?}");
    let news = match forced {
        Forced::From(who) => (who.pid, who.token.0),
        Forced::Acknowledged(previous) => previous
            .departed()
            .map(|w| (w.pid, w.token.0))
            .expect("news"),
        _ => panic!("{text}"),
    };
    assert_eq!(news, (holder.pid(), held.token));
    // Forcing again acknowledges what is still to be told, and after that there is nothing.
    let again = table.force_release("job", held.token);
    if matches!(forced, Forced::From(_)) {
        assert!(matches!(again, Ok(Forced::Acknowledged(_))), "{again:?}");
        let third = table
            .force_release("job", held.token)
            .expect_err("nothing is left");
        assert!(
            matches!(third, ForceReleaseError::NotHeld { .. }),
            "{third:?}"
        );
    } else {
        assert!(
            matches!(again, Err(ForceReleaseError::NotHeld { .. })),
            "{again:?}"
        );
    }
    let guard = table
        .lock("job")
        .expect("a lock")
        .try_acquire()
        .map(|guard| (guard.token(), guard.previous()));
    let (token, previous) = guard.expect("free");
    assert!(token > FencingToken(held.token));
    assert!(!previous.is_abandoned(), "{previous:?}");
}

/// Tokens of a new table begin low, so that one which was shown may be another's there.
#[test]
fn what_was_shown_of_a_table_is_not_forced_in_the_one_that_took_its_place() {
    let _watchdog =
        watchdog("what_was_shown_of_a_table_is_not_forced_in_the_one_that_took_its_place");
    let scratch = Scratch::with(on_death());
    let mut old = Child::puppet(&scratch.table());
    let shown = old.acquire("job");
    let inspector = Inspector::open(scratch.table()).expect("the table opens");
    fs::remove_file(scratch.table()).expect("unlinked");
    on_death().create(scratch.table()).expect("a new table");
    let mut new = Child::puppet(&scratch.table());
    assert_eq!(new.acquire("job").token, shown.token);
    let refused = inspector.force_release("job", shown.token);
    assert!(
        matches!(refused, Err(ForceReleaseError::TableReplaced(_))),
        "{refused:?}"
    );
    assert_eq!(new.release("job"), "released");
    assert_eq!(old.release("job"), "released");
}

/// Row 22: of an owner's release and an operator's force, exactly one takes effect.
#[test]
fn a_release_and_a_force_cannot_both_win() {
    let _watchdog = watchdog("a_release_and_a_force_cannot_both_win");
    let scratch = Scratch::with(on_death());
    let table = scratch.open();
    let lock = table.lock("job").expect("a lock");
    let mut dice = Dice::new("a_release_and_a_force_cannot_both_win");
    let (mut released, mut forced) = (0, 0);
    for _ in 0..3_000 {
        let guard = lock.acquire().expect("a grant");
        let token = guard.token();
        let spin = dice.below(3_000);
        let (left, force) = thread::scope(|scope| {
            let operator = scope.spawn(|| table.force_release("job", token));
            (0..spin * 10).for_each(|_| std::hint::spin_loop());
            (guard.release(), operator.join().expect("no panic"))
        });
        match (left, force) {
            (Ok(()), Err(ForceReleaseError::NotHeld { .. })) => released += 1,
            (Err(Lost { .. }), Ok(Forced::From(_))) => forced += 1,
            both => panic!("{both:?}"),
        }
    }
    report(format_args!("{released} released, {forced} forced"));
    assert!(
        released > 0 && forced > 0,
        "the two never raced: {released}, {forced}"
    );
}
