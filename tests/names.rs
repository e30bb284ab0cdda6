//! Lock names: their limits, what they may be made of, and what happens when a table has
//! more of them in its life than slots.

mod common;

use std::fs;
use std::io::ErrorKind;
use std::time::Duration;

use caslock::{AcquireError, Inspector, Lock, LockError, LockTable, Previous, SlotState};
use common::{Boss, Child, Dice, Scratch, dispatch, on_death, puppet, wait_until, watchdog};

#[test]
fn child_role() {
    dispatch(&[
        ("puppet", puppet),
        ("churner", churner),
        ("forgetter", forgetter),
    ]);
}

/// Acquires and releases; the token.
fn once(lock: &Lock) -> u64 {
    let guard = lock.try_acquire().expect("free");
    let token = guard.token().0;
    guard.release().expect("held to the end");
    token
}

#[test]
fn a_name_has_1_to_255_bytes() {
    let _watchdog = watchdog("a_name_has_1_to_255_bytes");
    let scratch = Scratch::with(on_death());
    let table = scratch.open();
    let longest = "x".repeat(caslock::NAME_MAX);
    assert_eq!(longest.len(), 255);
    let lock = table.lock(&longest).expect("255 bytes are a name");
    assert_eq!(lock.name(), longest);
    once(&lock);
    // Bytes count, not characters: 85 of three bytes each fit, one more does not.
    let wide = "\u{20ac}".repeat(85);
    once(&table.lock(&wide).expect("255 bytes are a name"));
    for (name, bytes) in [
        (String::new(), 0),
        ("x".repeat(256), 256),
        (format!("{wide}\u{e9}"), 257),
    ] {
        let refused = table.lock(&name).map(drop).expect_err("no name");
        let LockError::InvalidName { len } = refused else {
            panic!("{refused:?}");
        };
        assert_eq!(len, bytes);
    }
    let names: Vec<_> = table
        .inspect()
        .expect("a snapshot")
        .slots
        .into_iter()
        .map(|s| s.name)
        .collect();
    assert_eq!(names.len(), 2, "nothing was made of the refused: {names:?}");
}

#[test]
fn names_that_differ_in_one_byte_are_different_locks() {
    let _watchdog = watchdog("names_that_differ_in_one_byte_are_different_locks");
    let scratch = Scratch::with(on_death());
    let table = scratch.open();
    let base = "n".repeat(254);
    let names = [
        "a",
        "A",
        "a ",
        " a",
        "a\0",
        "\0",
        "a/b",
        "a\n",
        "\u{e9}",
        "e\u{301}",
        "\u{1f512}",
        "\x1b[31m",
        "\"",
        "'",
        "\\",
        "{}",
        "%s",
        &format!("{base}x"),
        &format!("{base}y"),
        &base,
    ];
    let locks = names.map(|name| table.lock(name).expect("a name"));
    let guards: Vec<_> = locks
        .iter()
        .map(|lock| lock.try_acquire().expect("free"))
        .collect();
    assert!(guards.iter().all(|guard| guard.is_held()));
    for (name, lock) in names.iter().zip(&locks) {
        assert_eq!(lock.name(), *name);
        assert!(
            table.lock(name).expect("a name").try_acquire().is_err(),
            "{name:?} is held"
        );
    }
}

#[test]
fn a_name_is_the_same_lock_in_every_process() {
    let _watchdog = watchdog("a_name_is_the_same_lock_in_every_process");
    let scratch = Scratch::with(on_death());
    let mut other = Child::puppet(&scratch.table());
    let table = scratch.open();
    for name in [
        "gr\u{fc}n",
        "\u{43f}\u{440}\u{438}\u{432}\u{435}\u{442}",
        "\u{1f512}\u{1f511}",
    ] {
        let grant = other.acquire(name);
        let lock = table.lock(name).expect("a name");
        assert!(lock.try_acquire().is_err());
        assert_eq!(
            lock.holder().expect("a look").expect("a holder").token.0,
            grant.token
        );
        assert_eq!(other.release(name), "released");
        assert!(once(&lock) > grant.token);
    }
}

/// Names go to new slots while there are any, and then to idle ones.
#[test]
fn a_full_table_recycles_idle_names_and_their_tokens_still_grow() {
    let _watchdog = watchdog("a_full_table_recycles_idle_names");
    let scratch = Scratch::with(on_death().slots(4));
    let table = scratch.open();
    let names: Vec<_> = (0..40).map(|i| format!("name-{i}")).collect();
    let handles: Vec<_> = names
        .iter()
        .map(|name| table.lock(name).expect("an idle name makes room"))
        .collect();
    let mut last = vec![0; names.len()];
    for round in 0..5 {
        for (at, name) in names.iter().enumerate() {
            // The handle from the start, and one from just now, by turns.
            let fresh = table.lock(name).expect("an idle name makes room");
            let token = once(if round % 2 == 0 { &handles[at] } else { &fresh });
            assert!(token > last[at], "{name}: {token} after {}", last[at]);
            last[at] = token;
        }
    }
    assert!(table.inspect().expect("a snapshot").slots.len() <= 4);
}

/// A handle whose slot went to another name must not lock that other name.
#[test]
fn a_handle_of_a_recycled_name_finds_its_name_again() {
    let _watchdog = watchdog("a_handle_of_a_recycled_name_finds_its_name_again");
    let scratch = Scratch::with(on_death().slots(1));
    let table = scratch.open();
    let first = table.lock("first").expect("a lock");
    let before = once(&first);
    let second = table.lock("second").expect("the idle name makes room");
    let guard = second.try_acquire().expect("free");
    // The only slot is the second's now, and in use.
    let refused = first.try_acquire().map(drop).expect_err("no slot is left");
    let text = format!("{refused:?}");
    assert!(
        matches!(
            refused,
            caslock::AcquireError::Name(LockError::TableFull { .. })
        ),
        "{text}"
    );
    guard.release().expect("held to the end");
    let guard = first.try_acquire().expect("its name finds a slot again");
    assert!(guard.token().0 > before, "and its tokens grow on");
    let text = format!("{:?}", second.try_acquire().map(drop));
    assert!(text.contains("TableFull"), "{text}");
}

#[test]
fn a_table_is_full_only_when_every_slot_is_in_use() {
    let _watchdog = watchdog("a_table_is_full_only_when_every_slot_is_in_use");
    let scratch = Scratch::with(on_death().slots(3));
    let table = scratch.open();
    let locks = ["a", "b", "c"].map(|name| table.lock(name).expect("a lock"));
    let mut guards: Vec<_> = locks
        .iter()
        .map(|lock| lock.try_acquire().expect("free"))
        .collect();
    for _ in 0..3 {
        let refused = table.lock("d").map(drop).expect_err("all three are held");
        let LockError::TableFull { name, slots } = &refused else {
            panic!("{refused:?}");
        };
        assert_eq!((name.as_str(), *slots), ("d", 3));
    }
    // Names in use are still found.
    assert!(
        table
            .lock("b")
            .expect("in the table")
            .try_acquire()
            .is_err()
    );
    let freed = guards.remove(1);
    freed.release().expect("held to the end");
    once(&table.lock("d").expect("b makes room"));
    assert!(
        guards.iter().all(|guard| guard.is_held()),
        "nobody else lost anything"
    );
}

/// It looked at all slots again for each of them, under the naming lock: for seconds in a table
/// of some ten thousand, and for an hour in one of a million.
#[test]
fn a_large_table_says_that_it_is_full_after_a_look_at_all_its_slots() {
    const SLOTS: u32 = 1 << 17;
    let _watchdog = watchdog("a_large_table_says_that_it_is_full_after_a_look");
    let scratch = Scratch::with(on_death().slots(SLOTS));
    let table = scratch.open();
    let lock = |at| table.lock(format!("name-{at}")).expect("a lock");
    let locks: Vec<_> = (0..SLOTS).map(lock).collect();
    let _guards: Vec<_> = locks
        .iter()
        .map(|lock| lock.try_acquire().expect("free"))
        .collect();
    let refused = table.lock("one more").map(drop).expect_err("all are held");
    assert!(
        matches!(refused, LockError::TableFull { .. }),
        "{refused:?}"
    );
}

/// What a dead holder left behind is news for its successor: no other name may wipe it out.
#[test]
fn an_abandoned_slot_is_not_recycled_until_its_news_was_heard() {
    let _watchdog = watchdog("an_abandoned_slot_is_not_recycled_until_its_news_was_heard");
    let scratch = Scratch::with(on_death().slots(3));
    let mut holder = Child::puppet(&scratch.table());
    let tokens = holder.ask("take 3 n");
    let tokens: Vec<u64> = tokens
        .split(' ')
        .map(|word| word.parse().expect("a token"))
        .collect();
    holder.kill_and_reap();
    let table = scratch.open();
    let refused = table
        .lock("other")
        .map(drop)
        .expect_err("three deaths to be told");
    assert!(
        matches!(refused, LockError::TableFull { .. }),
        "{refused:?}"
    );

    // Heard by a successor,
    let lock = table.lock("n1").expect("still there");
    let guard = lock.try_acquire().expect("its holder is dead");
    let who = guard.previous().departed().expect("news");
    assert_eq!((who.pid, who.token.0), (holder.pid(), tokens[1]));
    guard.release().expect("held to the end");
    once(&table.lock("other").expect("n1 makes room"));

    // or acknowledged by an operator.
    let other = table.lock("other").expect("a lock");
    let _kept = other.try_acquire().expect("free");
    assert!(matches!(
        table.lock("more").map(drop),
        Err(LockError::TableFull { .. })
    ));
    table
        .force_release("n0", tokens[0])
        .expect("taken from the dead");
    assert!(
        matches!(
            table.lock("more").map(drop),
            Err(LockError::TableFull { .. })
        ),
        "still news"
    );
    table.force_release("n0", tokens[0]).expect("acknowledged");
    once(&table.lock("more").expect("n0 makes room"));

    // The one that nobody looked at kept its news through all of this.
    let lock = table.lock("n2").expect("still there");
    let guard = lock.try_acquire().expect("its holder is dead");
    assert_eq!(
        guard.previous().departed().expect("news").token.0,
        tokens[2]
    );
}

#[test]
fn a_name_that_is_waited_for_keeps_its_slot() {
    let _watchdog = watchdog("a_name_that_is_waited_for_keeps_its_slot");
    let scratch = Scratch::with(on_death().slots(2));
    let table = scratch.open();
    let lock = table.lock("wanted").expect("a lock");
    let mut waiter = Child::puppet(&scratch.table());
    for round in 0..20 {
        let guard = lock.acquire().expect("a grant");
        waiter.say("acquire wanted");
        assert!(!waiter.answers_within(Duration::from_millis(10)));
        guard.release().expect("held to the end");
        // Other names go in and out beside it.
        for i in 0..10 {
            once(
                &table
                    .lock(format!("other-{round}-{i}"))
                    .expect("one slot is left"),
            );
        }
        let answer = waiter.hear();
        assert!(answer.starts_with("granted"), "{answer}");
        let text = format!("{:?}", lock.try_acquire().map(drop));
        assert!(
            text.contains("Busy"),
            "the handle still means the waiter's lock: {text}"
        );
        assert_eq!(waiter.release("wanted"), "released");
    }
}

/// Locks names at random out of more than the table has slots, and checks for each that
/// nobody else is in and that its token grew.
fn churner(boss: &mut Boss) {
    let path = boss.hear();
    let rounds: usize = boss.hear().parse().expect("a number");
    let dir = std::path::Path::new(&path)
        .parent()
        .expect("a directory")
        .to_owned();
    let table = LockTable::options()
        .open_existing(&path)
        .expect("the table opens");
    let mut dice = Dice::from_seed(boss.hear().parse().expect("a seed"));
    for _ in 0..rounds {
        let name = format!("n{}", dice.below(24));
        let lock = table.lock(&name).expect("fewer owners than slots");
        let guard = lock.acquire().expect("a grant");
        assert!(matches!(
            guard.previous(),
            Previous::None | Previous::Released
        ));
        // Two owners of a name would meet at the mark.
        let mark = dir.join(format!("{name}.mark"));
        fs::File::create_new(&mark).unwrap_or_else(|e| panic!("two owners of {name}: {e}"));
        let file = dir.join(format!("{name}.token"));
        let last = match fs::read_to_string(&file) {
            Ok(text) => text.parse().expect("a token"),
            Err(e) if e.kind() == ErrorKind::NotFound => 0,
            Err(e) => panic!("{e}"),
        };
        let token = guard.token().0;
        assert!(token > last, "{name}: {token} after {last}");
        fs::write(&file, token.to_string()).expect("written");
        fs::remove_file(&mark).expect("still there");
        guard.release().expect("held to the end");
    }
    boss.say("done");
}

#[test]
fn names_recycled_under_load_keep_their_owners_apart_and_their_tokens_growing() {
    let _watchdog = watchdog("names_recycled_under_load");
    let scratch = Scratch::with(on_death().slots(10));
    let mut dice = Dice::new("names_recycled_under_load");
    let mut churners: Vec<_> = (0..6).map(|_| Child::start("churner")).collect();
    for churner in &mut churners {
        churner.say(scratch.table().display());
        churner.say(2_000);
        churner.say(dice.next());
    }
    for churner in &mut churners {
        assert_eq!(churner.hear(), "done");
    }
    let table = scratch.open();
    let snapshot = table.inspect().expect("a snapshot");
    assert!(snapshot.slots.len() <= 10);
    assert!(
        snapshot
            .slots
            .iter()
            .all(|slot| slot.state == SlotState::Free)
    );
    for slot in &snapshot.slots {
        let file = scratch.file(&format!("{}.token", slot.name));
        let last: u64 = fs::read_to_string(file)
            .expect("the last token")
            .parse()
            .expect("a token");
        assert!(
            slot.token.0 >= last,
            "{} shows {}, granted {last}",
            slot.name,
            slot.token
        );
    }
}

/// Others were told that its process had died, and got the lock, as soon as the last handle was
/// dropped: as where a function makes sure that its program runs once.
#[test]
fn a_forgotten_guards_lock_is_its_processs_for_as_long_as_that_lives() {
    let _watchdog = watchdog("a_forgotten_guards_lock_is_its_processs_for_as_long_as_that_lives");
    let scratch = Scratch::with(on_death());
    let table = scratch.open();
    // Far from slot 0, among names that nobody holds.
    let locks: Vec<_> = (0..500)
        .map(|name| table.lock(name.to_string()).unwrap())
        .collect();
    std::mem::forget(locks[499].acquire().unwrap());
    drop((locks, table));

    let mut other = Child::puppet(&scratch.table());
    let refused = other.acquire_within("499", Duration::from_millis(300));
    let refused = refused.expect_err("its process lives");
    assert_eq!(refused.holder.0, std::process::id());

    // The same process again: it is still its session, and its lock.
    let table = scratch.open();
    let lock = table.lock("499").unwrap();
    let Err(AcquireError::Busy { holder, .. }) = lock.try_acquire() else {
        panic!("a process does not rob itself");
    };
    assert_eq!(holder.session, table.session());
    table.force_release("499", holder.token).unwrap();
    drop((lock, table));
    // Nothing is forgotten any more.
    let inspector = Inspector::open(scratch.table()).unwrap();
    let sessions = inspector.snapshot().unwrap().sessions;
    let pids: Vec<_> = sessions.iter().map(|session| session.pid).collect();
    assert_eq!(pids, [other.pid()]);
    assert_eq!(other.acquire("499").previous, "forced");
}

/// Forgets the guard of `job`, drops every handle, and lives on.
fn forgetter(boss: &mut Boss) {
    let table = LockTable::options()
        .open_existing(boss.hear())
        .expect("a table");
    let lock = table.lock("job").expect("a lock");
    std::mem::forget(lock.acquire().expect("a grant"));
    drop((lock, table));
    boss.say("done");
    loop {
        boss.hear();
    }
}

#[test]
fn a_forgotten_guards_lock_is_reclaimed_once_its_process_is_dead() {
    let _watchdog = watchdog("a_forgotten_guards_lock_is_reclaimed_once_its_process_is_dead");
    let scratch = Scratch::with(on_death());
    let lock = scratch.open().lock("job").unwrap();
    let mut forgetter = Child::start("forgetter");
    forgetter.say(scratch.table().display());
    assert_eq!(forgetter.hear(), "done");
    assert!(lock.acquire_timeout(Duration::from_millis(300)).is_err());
    forgetter.kill_and_reap();
    let guard = lock.acquire().unwrap();
    let Previous::Died(who) = guard.previous() else {
        panic!("{:?}", guard.previous());
    };
    assert_eq!(who.pid, forgetter.pid());
}

/// They went on for nothing: a thread, a mapping and a session for each.
#[test]
fn a_session_without_handles_ends_when_its_table_or_its_forgotten_grant_is_gone() {
    let test = "a_session_without_handles_ends_when_its_table_or_its_forgotten_grant_is_gone";
    let _watchdog = watchdog(test);
    let forget = |scratch: &Scratch| {
        let lock = scratch.open().lock("job").unwrap();
        let guard = lock.acquire().unwrap();
        let token = guard.token();
        std::mem::forget(guard);
        token
    };
    let is_mapped = |scratch: &Scratch| {
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        maps.contains(scratch.dir().to_str().unwrap())
    };
    let (forced, replaced) = (Scratch::with(on_death()), Scratch::with(on_death()));
    let token = forget(&forced);
    forget(&replaced);
    assert!(is_mapped(&forced) && is_mapped(&replaced));
    let inspector = Inspector::open(forced.table()).unwrap();
    inspector.force_release("job", token).unwrap();
    wait_until(|| inspector.snapshot().unwrap().sessions.is_empty());
    drop(inspector);
    fs::remove_file(replaced.table()).unwrap();
    wait_until(|| !is_mapped(&forced) && !is_mapped(&replaced));
}

/// It lay elsewhere for as long as somebody moves things about, and is the same table again.
#[test]
fn a_forgotten_guards_lock_outlasts_its_tables_absence() {
    let _watchdog = watchdog("a_forgotten_guards_lock_outlasts_its_tables_absence");
    let scratch = Scratch::with(on_death());
    let aside = scratch.dir().join("aside");
    let mut forgetter = Child::start("forgetter");
    forgetter.say(scratch.table().display());
    assert_eq!(forgetter.hear(), "done");
    fs::rename(scratch.table(), &aside).unwrap();
    // Longer than between two looks at the table's place.
    std::thread::sleep(Duration::from_millis(2_500));
    fs::rename(&aside, scratch.table()).unwrap();
    let mut other = Child::puppet(&scratch.table());
    let refused = other.acquire_within("job", Duration::from_millis(300));
    let refused = refused.expect_err("its process lives");
    assert_eq!(refused.holder.0, forgetter.pid());
    forgetter.kill_and_reap();
    assert_eq!(other.acquire("job").previous, "died");
}

/// Dropping the last handle ended the keeper, which is to tell.
#[test]
fn who_forgot_a_guard_is_told_of_its_loss_though_the_last_handle_goes() {
    let _watchdog = watchdog("who_forgot_a_guard_is_told_of_its_loss_though_the_last_handle_goes");
    let scratch = Scratch::with(on_death());
    for _ in 0..20 {
        let table = scratch.open();
        let lock = table.lock("job").unwrap();
        let guard = lock.acquire().unwrap();
        let token = guard.token();
        let (tell, told) = std::sync::mpsc::channel();
        guard.on_lost(move |lost| tell.send(lost.token).unwrap_or_default());
        std::mem::forget(guard);
        table.force_release("job", token).unwrap();
        drop((lock, table));
        assert_eq!(told.recv(), Ok(token));
    }
}

/// The session that ends and the one that begins are two for a moment.
#[test]
fn a_process_that_opens_and_drops_needs_one_session() {
    let _watchdog = watchdog("a_process_that_opens_and_drops_needs_one_session");
    let scratch = Scratch::with(on_death().sessions(1));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..500).for_each(|_| drop(scratch.open())));
        }
    });
}
