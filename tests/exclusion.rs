//! One owner at a time, told apart by growing tokens: between processes, between threads,
//! under a hail of SIGKILL, and with a hog at the door.

mod common;

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use caslock::{AcquireError, Guard, Liveness, LockTable, Previous};
use common::{Boss, Child, Dice, Grant, Scratch, dispatch, on_death, puppet, report, watchdog};

#[test]
fn child_role() {
    dispatch(&[("puppet", puppet), ("worker", worker), ("hog", hog)]);
}

/// One line of the journal that the owners of the counter's lock keep: 32 bytes, appended
/// with one write that no kill can cut in two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Record {
    /// [`BEGIN`] before the counter is written, [`END`] after.
    kind: u64,
    token: u64,
    /// What the counter shows.
    value: u64,
    /// At the begin: the token of a predecessor that died, or 0.
    died: u64,
}

const BEGIN: u64 = 1;
const END: u64 = 2;

impl Record {
    fn append_to(self, mut journal: &File) {
        let words = [self.kind, self.token, self.value, self.died];
        let bytes: Vec<u8> = words.into_iter().flat_map(u64::to_le_bytes).collect();
        journal.write_all(&bytes).expect("the journal is written");
    }

    fn read_all(path: &Path) -> Vec<Self> {
        let bytes = fs::read(path).expect("the journal");
        assert_eq!(bytes.len() % 32, 0, "a record was cut");
        let records = bytes.chunks_exact(32).map(|record| {
            let word = |at: usize| u64_of(&record[8 * at..8 * at + 8]);
            Self {
                kind: word(0),
                token: word(1),
                value: word(2),
                died: word(3),
            }
        });
        records.collect()
    }
}

fn u64_of(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes.try_into().expect("eight bytes"))
}

fn read_counter(file: &File) -> u64 {
    let mut bytes = [0; 8];
    file.read_exact_at(&mut bytes, 0)
        .expect("the counter is read");
    u64::from_le_bytes(bytes)
}

/// The critical section: nothing but the lock makes it right.
fn increment(counter: &File, journal: &File, guard: &Guard<'_>) {
    let value = read_counter(counter);
    let died = match guard.previous() {
        Previous::Died(who) => who.token.0,
        Previous::None | Previous::Released => 0,
        other => panic!("nobody is evicted or forced here: {other:?}"),
    };
    let token = guard.token().0;
    let begin = Record {
        kind: BEGIN,
        token,
        value,
        died,
    };
    begin.append_to(journal);
    counter
        .write_all_at(&(value + 1).to_le_bytes(), 0)
        .expect("the counter is written");
    let end = Record {
        kind: END,
        token,
        value: value + 1,
        died: 0,
    };
    end.append_to(journal);
}

/// Hears a directory and a number of increments (0: until it is killed), and does them.
fn worker(boss: &mut Boss) {
    let dir = boss.hear();
    let dir = Path::new(&dir);
    let rounds: u64 = boss.hear().parse().expect("a number");
    let table = LockTable::options()
        .open_existing(dir.join("t.table"))
        .expect("the table");
    let lock = table.lock("counter").expect("a lock");
    let mut options = OpenOptions::new();
    let counter = options
        .read(true)
        .write(true)
        .open(dir.join("counter"))
        .expect("counter");
    let journal = OpenOptions::new()
        .append(true)
        .open(dir.join("journal"))
        .expect("journal");
    let mut done = 0;
    while rounds == 0 || done < rounds {
        let guard = lock.acquire().expect("a grant");
        increment(&counter, &journal, &guard);
        guard.release().expect("held to the end");
        done += 1;
    }
    boss.say("done");
}

fn start_worker(scratch: &Scratch, rounds: u64) -> Child {
    let mut child = Child::start("worker");
    child.say(scratch.dir().display());
    child.say(rounds);
    child
}

fn counted_table() -> Scratch {
    let scratch = Scratch::with(on_death());
    fs::write(scratch.file("counter"), 0u64.to_le_bytes()).expect("a counter");
    fs::write(scratch.file("journal"), b"").expect("a journal");
    scratch
}

/// Row 18 and the plain promise: nobody is ever in somebody else's section.
#[test]
fn eight_processes_increment_one_counter_exactly() {
    let _watchdog = watchdog("eight_processes_increment_one_counter_exactly");
    const ROUNDS: u64 = 2_000;
    let scratch = counted_table();
    let mut workers: Vec<_> = (0..8).map(|_| start_worker(&scratch, ROUNDS)).collect();
    for worker in &mut workers {
        assert_eq!(worker.hear(), "done");
    }
    let counter = File::open(scratch.file("counter")).expect("counter");
    assert_eq!(read_counter(&counter), 8 * ROUNDS);
    let records = Record::read_all(&scratch.file("journal"));
    assert_eq!(records.len() as u64, 2 * 8 * ROUNDS);
    let story = Story::check(&records);
    assert_eq!(story.cut_short, 0, "nobody was killed");
}

/// What a journal tells.
struct Story {
    sections: usize,
    /// Sections that a kill ended.
    cut_short: usize,
    last: Record,
}

impl Story {
    /// Checks record by record that sections never overlapped, that tokens grew, that the
    /// counter never lost a finished increment, and that each death was told.
    fn check(records: &[Record]) -> Self {
        let first = *records.first().expect("somebody was granted the lock");
        assert_eq!((first.kind, first.value), (BEGIN, 0));
        let (mut sections, mut cut_short) = (1, 0);
        for pair in records.windows(2) {
            let (before, now) = (pair[0], pair[1]);
            let ended = before.kind == END;
            if now.kind == END {
                let expected = (BEGIN, before.token, before.value + 1);
                let got = (before.kind, now.token, now.value);
                assert_eq!(got, expected, "two sections overlapped: {pair:?}");
                continue;
            }
            sections += 1;
            cut_short += usize::from(!ended);
            assert!(now.token > before.token, "a token did not grow: {pair:?}");
            let advanced = now.value == before.value + u64::from(!ended);
            assert!(
                advanced || now.value == before.value,
                "a lost increment: {pair:?}"
            );
            assert!(
                ended || now.died >= before.token,
                "a death was not told: {pair:?}"
            );
            // Who died after its last record, or before its first, shows here only.
            let plausible = now.died == 0 || (before.token..now.token).contains(&now.died);
            assert!(plausible, "a death that never was: {pair:?}");
        }
        Self {
            sections,
            cut_short,
            last: *records.last().expect("not empty"),
        }
    }
}

/// Rows 19, 25, 26 and 28, and S1, S2, S5 of the promise. Eight workers, one of them
/// killed every few milliseconds wherever it happens to be (attaching, naming, waiting,
/// taking over from the dead, releasing) and replaced.
#[test]
fn a_hail_of_kills_loses_nothing_but_the_killed_increments() {
    let _watchdog = watchdog("a_hail_of_kills_loses_nothing_but_the_killed_increments");
    let mut dice = Dice::new("a_hail_of_kills");
    let scratch = counted_table();
    let journal = scratch.file("journal");
    let mut workers: Vec<_> = (0..8).map(|_| start_worker(&scratch, 0)).collect();
    let mut kills = 0;
    let sections = |bytes: u64| bytes / 64;
    while kills < 400 || sections(fs::metadata(&journal).expect("journal").len()) < 4_000 {
        thread::sleep(Duration::from_micros(3_000 + dice.next() % 5_000));
        let victim = dice.below(workers.len());
        workers[victim].kill_and_reap();
        workers[victim] = start_worker(&scratch, 0);
        kills += 1;
    }
    for worker in &mut workers {
        worker.kill_and_reap();
        kills += 1;
    }

    let story = Story::check(&Record::read_all(&journal));
    let counter = File::open(scratch.file("counter")).expect("counter");
    let value = read_counter(&counter);
    let last = story.last;
    let possible = last.value == value || (last.kind == BEGIN && last.value + 1 == value);
    assert!(possible, "{last:?}, counter {value}");
    assert!(
        story.cut_short <= kills,
        "more sections cut short than processes killed"
    );

    let table = scratch.open();
    let lock = table.lock("counter").expect("a lock");
    let guard = lock.acquire().expect("nothing is stranded");
    assert!(guard.token().0 > last.token);
    let news = guard.previous().departed().map_or(0, |who| who.token.0);
    assert!(
        last.kind == END || news >= last.token,
        "{news} after {last:?}"
    );
    report(format_args!(
        "{kills} kills, {} sections, {} of them cut short, counter {value}",
        story.sections, story.cut_short
    ));
}

/// Row 19: many reclaimers of one dead owner.
#[test]
fn of_eight_waiters_exactly_one_hears_of_the_death() {
    let _watchdog = watchdog("of_eight_waiters_exactly_one_hears_of_the_death");
    let scratch = Scratch::with(on_death());
    let mut waiters: Vec<_> = (0..8).map(|_| Child::puppet(&scratch.table())).collect();
    for round in 0..40 {
        let mut holder = Child::puppet(&scratch.table());
        let held = holder.acquire("the-lock");
        for waiter in &mut waiters {
            waiter.say("acquire the-lock");
        }
        // Kills early in the spin and late in the sleep.
        thread::sleep(Duration::from_micros(200 * (round % 10)));
        holder.kill_and_reap();
        let mut grants = Vec::new();
        let mut left: Vec<_> = waiters.iter_mut().collect();
        while !left.is_empty() {
            left.retain_mut(|waiter| {
                if !waiter.answers_within(Duration::from_millis(1)) {
                    return true;
                }
                let answer = waiter.hear();
                grants.push(answer.parse::<Grant>().expect("a grant"));
                assert_eq!(waiter.release("the-lock"), "released");
                false
            });
        }
        grants.sort_by_key(|grant| grant.token);
        let died: Vec<_> = grants
            .iter()
            .filter(|grant| grant.previous == "died")
            .collect();
        assert_eq!(died.len(), 1, "{grants:?}");
        assert_eq!(died[0].departed, (holder.pid(), held.token));
        assert_eq!(died[0], &grants[0], "the first one hears it");
        assert!(grants.windows(2).all(|two| two[0].token < two[1].token));
        assert!(grants[1..].iter().all(|grant| grant.previous == "released"));
    }
}

#[test]
fn threads_of_one_process_exclude_each_other() {
    let _watchdog = watchdog("threads_of_one_process_exclude_each_other");
    const ROUNDS: u64 = 20_000;
    let scratch = Scratch::with(on_death());
    let lock = scratch.open().lock("threads").expect("a lock");
    // A load and a store, so that only the lock makes the sum right.
    let counter = AtomicU64::new(0);
    let last_token = AtomicU64::new(0);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..ROUNDS {
                    let guard = lock.acquire().expect("a grant");
                    let token = guard.token().0;
                    assert!(last_token.load(Ordering::Relaxed) < token);
                    last_token.store(token, Ordering::Relaxed);
                    counter.store(counter.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
                    guard.release().expect("held to the end");
                }
            });
        }
    });
    assert_eq!(counter.into_inner(), 4 * ROUNDS);
}

#[test]
fn a_second_thread_is_told_that_its_own_process_holds_the_lock() {
    let _watchdog = watchdog("a_second_thread_is_told_that_its_own_process_holds_the_lock");
    let scratch = Scratch::with(on_death());
    let table = scratch.open();
    let lock = table.lock("mine").expect("a lock");
    let guard = lock.acquire().expect("a grant");
    let refused = thread::scope(|scope| {
        let again = scope.spawn(|| lock.try_acquire().map(drop));
        again.join().expect("no panic")
    });
    let Err(AcquireError::Busy { name, holder }) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(name, "mine");
    assert_eq!(
        (holder.pid, holder.token),
        (std::process::id(), guard.token())
    );
    assert_eq!(
        (holder.session, holder.liveness),
        (table.session(), Liveness::Alive)
    );
}

#[test]
fn a_refused_caller_is_told_who_holds_the_lock() {
    let _watchdog = watchdog("a_refused_caller_is_told_who_holds_the_lock");
    let scratch = Scratch::with(on_death());
    let mut holder = Child::puppet(&scratch.table());
    let held = holder.acquire("report");
    let lock = scratch.open().lock("report").expect("a lock");

    let busy = lock.try_acquire().map(drop).expect_err("somebody holds it");
    let AcquireError::Busy { holder: who, .. } = &busy else {
        panic!("{busy:?}");
    };
    assert_eq!((who.pid, who.token.0), (holder.pid(), held.token));
    let text = busy.to_string();
    assert!(
        text.contains("report") && text.contains(&holder.pid().to_string()),
        "{text}"
    );

    let limit = Duration::from_millis(120);
    let start = Instant::now();
    let late = lock
        .acquire_timeout(limit)
        .map(drop)
        .expect_err("somebody holds it");
    assert!(start.elapsed() >= limit, "it gave up early");
    let AcquireError::TimedOut { holder: who, .. } = &late else {
        panic!("{late:?}");
    };
    assert_eq!((who.pid, who.token.0), (holder.pid(), held.token));

    let start = Instant::now();
    let late = lock
        .acquire_until(start + limit)
        .map(drop)
        .expect_err("somebody holds it");
    assert!(matches!(late, AcquireError::TimedOut { .. }), "{late:?}");
    assert!(start.elapsed() >= limit, "it gave up early");

    assert_eq!(holder.release("report"), "released");
    let past = Instant::now();
    let guard = lock
        .acquire_until(past)
        .expect("free, so a deadline in the past is no matter");
    assert_eq!(guard.previous(), Previous::Released);
}

/// Takes the lock again and again with hardly a gap, until told to stop by a file.
fn hog(boss: &mut Boss) {
    let path = boss.hear();
    let table = LockTable::options()
        .open_existing(&path)
        .expect("the table");
    let lock = table.lock("door").expect("a lock");
    boss.say("at it");
    let stop = Path::new(&path).with_file_name("stop");
    let mut grants = 0u64;
    while !stop.exists() {
        for _ in 0..1_000 {
            let guard = lock.acquire().expect("a grant");
            grants += 1;
            guard.release().expect("held to the end");
        }
    }
    boss.say(grants);
}

/// Barging is allowed, starving is not: once a turn is over, the lock is left to a waiter.
#[test]
fn a_waiter_is_served_however_fast_others_take_the_lock_again() {
    let _watchdog = watchdog("a_waiter_is_served_however_fast_others_take_the_lock_again");
    let scratch = Scratch::with(on_death());
    let mut hogs: Vec<_> = (0..2).map(|_| Child::start("hog")).collect();
    for hog in &mut hogs {
        hog.say(scratch.table().display());
        assert_eq!(hog.hear(), "at it");
    }
    let lock = scratch.open().lock("door").expect("a lock");
    let mut last = 0;
    for _ in 0..30 {
        let guard = lock.acquire().expect("a grant");
        assert!(guard.token().0 > last);
        last = guard.token().0;
        thread::sleep(Duration::from_micros(50));
        guard.release().expect("held to the end");
    }
    fs::write(scratch.file("stop"), b"").expect("a stop mark");
    let grants: Vec<_> = hogs.iter_mut().map(Child::hear).collect();
    report(format_args!(
        "30 grants to the waiter, {} to the hogs",
        grants.join(" and ")
    ));
}
