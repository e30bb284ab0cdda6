//! Processes that die: with a lock, in the middle of any operation, as zombies, without
//! their group leader, more of them than the table has sessions. The next owner gets the
//! lock and the news.

mod common;

use std::fs;
use std::ops::Range;
use std::path::Path;
use std::thread;
use std::time::Duration;

use caslock::{Inspector, LockTable, OpenError, Options, Previous};
use common::trace::{Step, Tracee};
use common::{
    Boss, Child, Dice, Grant, Scratch, dispatch, on_death, on_expiry, puppet, report, skip, state,
    sys, tasks, wait_until, watchdog,
};

#[test]
fn child_role() {
    dispatch(&[
        ("puppet", puppet),
        ("leaderless", leaderless),
        ("stepper", stepper),
    ]);
}

fn died(pid: u32, of: &Grant, now: &Grant) {
    assert_eq!(now.previous, "died");
    assert_eq!(now.departed, (pid, of.token));
    assert!(now.token > of.token);
}

#[test]
fn after_a_sigkill_the_next_grant_names_the_dead() {
    let _watchdog = watchdog("after_a_sigkill_the_next_grant_names_the_dead");
    for options in [on_death(), on_expiry(10_000)] {
        let scratch = Scratch::with(options);
        let mut holder = Child::puppet(&scratch.table());
        let mut next = Child::puppet(&scratch.table());

        // Once with nobody waiting,
        let held = holder.acquire("job");
        holder.kill_and_reap();
        let grant = next.try_acquire("job").expect("a grant at the first try");
        died(holder.pid(), &held, &grant);

        // and once with a waiter that sleeps.
        let mut third = Child::puppet(&scratch.table());
        third.say("acquire job");
        assert!(!third.answers_within(Duration::from_millis(100)));
        next.kill_and_reap();
        died(next.pid(), &grant, &third.hear().parse().expect("a grant"));

        // The news is told once.
        assert_eq!(third.release("job"), "released");
        assert_eq!(third.acquire("job").previous, "released");
    }
}

#[test]
fn a_waiter_learns_of_the_death_and_has_nothing_open_for_it() {
    let _watchdog = watchdog("a_waiter_learns_of_the_death_and_has_nothing_open_for_it");
    for options in [on_death(), on_expiry(10_000)] {
        let scratch = Scratch::with(options);
        let mut waiter = Child::puppet(&scratch.table());
        // Whatever is opened once is open.
        waiter.acquire("job");
        waiter.release("job");
        let open = descriptors(waiter.pid());
        for _ in 0..3 {
            let mut holder = Child::puppet(&scratch.table());
            let held = holder.acquire("job");
            waiter.say("acquire job");
            // Short waits and long ones: a waiter looks about for the first time after 15 ms.
            for _ in 0..30 {
                assert_eq!(descriptors(waiter.pid()), open);
                thread::sleep(Duration::from_millis(1));
            }
            holder.kill();
            died(
                holder.pid(),
                &held,
                &waiter.hear().parse().expect("a grant"),
            );
            assert_eq!(descriptors(waiter.pid()), open);
            assert_eq!(waiter.release("job"), "released");
        }
    }
}

/// What the descriptors of a process are of, in order.
fn descriptors(pid: u32) -> Vec<String> {
    let open = fs::read_dir(format!("/proc/{pid}/fd")).expect("its descriptors");
    let mut open: Vec<_> = open
        .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
        .map(|target| target.to_string_lossy().into_owned())
        .collect();
    open.sort();
    open
}

#[test]
fn a_process_that_exits_without_releasing_counts_as_dead() {
    let _watchdog = watchdog("a_process_that_exits_without_releasing_counts_as_dead");
    let scratch = Scratch::with(on_death());
    let mut holder = Child::puppet(&scratch.table());
    let held = holder.acquire("job");
    holder.hang_up();
    let lock = scratch.open().lock("job").expect("a lock");
    let guard = lock.try_acquire().expect("a grant");
    died(holder.pid(), &held, &Grant::of(&guard));
}

/// Row 3, the first half: a zombie is dead for the lock, whoever fails to reap it.
#[test]
fn a_zombie_holder_is_reclaimed() {
    let _watchdog = watchdog("a_zombie_holder_is_reclaimed");
    let scratch = Scratch::with(on_death());
    let mut holder = Child::puppet(&scratch.table());
    let held = holder.acquire("job");
    let lock = scratch.open().lock("job").expect("a lock");
    holder.kill();
    holder.wait_zombie();
    assert_eq!(state(holder.pid()), Some('Z'));
    let guard = lock.try_acquire().expect("a grant");
    assert_eq!(state(holder.pid()), Some('Z'), "still a zombie");
    died(holder.pid(), &held, &Grant::of(&guard));
}

/// A puppet whose main thread ends as soon as it holds the lock.
fn leaderless(boss: &mut Boss) {
    let mut stage = common::puppet::Stage::new(LockTable::options());
    for _ in 0..2 {
        let line = boss.hear();
        boss.say(stage.play(&line));
    }
    sys::end_main_thread();
    loop {
        let line = boss.hear();
        boss.say(stage.play(&line));
    }
}

/// Row 3, the second half: the leader is a zombie, the process works on.
#[test]
fn a_holder_whose_group_leader_is_gone_is_not_robbed() {
    let _watchdog = watchdog("a_holder_whose_group_leader_is_gone_is_not_robbed");
    for options in [on_death(), on_expiry(1_000)] {
        let scratch = Scratch::with(options);
        let mut holder = Child::start("leaderless");
        holder.open(&scratch.table());
        let held = holder.acquire("job");
        wait_until(|| state(holder.pid()) == Some('Z'));
        assert!(tasks(holder.pid()).len() > 1, "threads run on");

        let lock = scratch.open().lock("job").expect("a lock");
        for _ in 0..20 {
            assert!(lock.try_acquire().is_err(), "robbed");
        }
        assert!(
            lock.acquire_timeout(Duration::from_secs(3)).is_err(),
            "robbed"
        );
        assert!(holder.is_held("job"));
        assert_eq!(holder.release("job"), "released");
        let guard = lock.try_acquire().expect("a grant");
        assert_eq!(guard.previous(), Previous::Released);
        drop(guard);

        // And dead is dead, leader or not.
        let again = holder.acquire("job");
        assert!(again.token > held.token);
        holder.kill_and_reap();
        died(
            holder.pid(),
            &again,
            &Grant::of(&lock.acquire().expect("a grant")),
        );
    }
}

/// Row 26: the process lives on, the news is told all the same.
#[test]
fn a_panic_in_the_section_is_told_to_the_successor() {
    let _watchdog = watchdog("a_panic_in_the_section_is_told_to_the_successor");
    let scratch = Scratch::with(on_death());
    let mut holder = Child::puppet(&scratch.table());
    let held = holder.acquire("job");
    assert_eq!(holder.ask("panic job"), "panicked");

    let lock = scratch.open().lock("job").expect("a lock");
    let guard = lock.try_acquire().expect("a panic lets go of the lock");
    let Previous::Died(who) = guard.previous() else {
        panic!("{:?}", guard.previous());
    };
    assert!(who.panicked);
    assert_eq!((who.pid, who.token.0), (holder.pid(), held.token));
    guard.release().expect("held to the end");
    assert_eq!(holder.acquire("job").previous, "released", "told once");
}

/// Rows 28 and 29: waiters killed just as they are woken leave the lock to the others.
#[test]
fn waiters_killed_at_their_wake_do_not_take_it_with_them() {
    let _watchdog = watchdog("waiters_killed_at_their_wake_do_not_take_it_with_them");
    let mut dice = Dice::new("waiters_killed_at_their_wake");
    let scratch = Scratch::with(on_death());
    let mut holder = Child::puppet(&scratch.table());
    let mut survivor = Child::puppet(&scratch.table());
    let mut last = 0;
    for _ in 0..30 {
        holder.acquire("job");
        let mut doomed: Vec<_> = (0..4).map(|_| Child::puppet(&scratch.table())).collect();
        for waiter in &mut doomed {
            waiter.say("acquire job");
        }
        survivor.say("acquire job");
        thread::sleep(Duration::from_millis(20));
        holder.say("release job");
        thread::sleep(Duration::from_micros(dice.next() % 300));
        doomed.iter().for_each(Child::kill);
        assert_eq!(holder.hear(), "released");
        let grant: Grant = survivor.hear().parse().expect("a grant");
        assert!(grant.token > last);
        last = grant.token;
        assert!(
            ["released", "died"].contains(&grant.previous.as_str()),
            "{grant:?}"
        );
        assert_eq!(survivor.release("job"), "released");
    }
}

#[test]
fn a_table_out_of_sessions_says_so_and_takes_in_the_next_after_a_death() {
    let _watchdog = watchdog("a_table_out_of_sessions_says_so");
    let scratch = Scratch::with(on_death().sessions(3));
    let mut members: Vec<_> = (0..3).map(|_| Child::puppet(&scratch.table())).collect();
    for _ in 0..10 {
        let refused = LockTable::open(scratch.table())
            .map(drop)
            .expect_err("no session is left");
        let OpenError::SessionsFull { path, sessions } = &refused else {
            panic!("{refused:?}");
        };
        assert_eq!((path, *sessions), (&scratch.table(), 3));
        // A stopped member is a living one.
        members[0].stop();
        let refused = LockTable::open(scratch.table())
            .map(drop)
            .expect_err("no session is left");
        assert!(
            matches!(refused, OpenError::SessionsFull { .. }),
            "{refused:?}"
        );
        members.remove(0).kill_and_reap();
        members.push(Child::puppet(&scratch.table()));
    }
}

/// Whoever collects the records of the dead has all their bytes for a moment. A soak found
/// that others, coming just then, took them for the bytes of the living.
#[test]
fn joiners_that_come_together_all_get_the_records_of_the_dead() {
    let _watchdog = watchdog("joiners_that_come_together_all_get_the_records_of_the_dead");
    const JOINERS: usize = 4;
    let scratch = Scratch::with(on_death().slots(200_000).sessions(8));
    let open = format!("open {}", scratch.table().display());
    for _ in 0..12 {
        let mut joiners: Vec<_> = (0..JOINERS).map(|_| Child::start("puppet")).collect();
        joiners.iter_mut().for_each(|joiner| joiner.say(&open));
        for joiner in &mut joiners {
            let answer = joiner.hear();
            assert!(answer.starts_with("session "), "{answer}");
        }
        joiners.iter_mut().for_each(Child::kill_and_reap);
    }
}

/// A session record that goes to another process must not strand what its last one held.
#[test]
fn locks_of_many_dead_processes_are_all_reclaimed() {
    let _watchdog = watchdog("locks_of_many_dead_processes_are_all_reclaimed");
    const EACH: usize = 8;
    let scratch = Scratch::with(on_death().slots(256).sessions(5));
    let mut dead = Vec::new();
    for generation in 0..6 {
        let mut holders: Vec<_> = (0..4).map(|_| Child::puppet(&scratch.table())).collect();
        for (at, holder) in holders.iter_mut().enumerate() {
            let prefix = format!("g{generation}-h{at}-");
            let tokens = holder.ask(format!("take {EACH} {prefix}"));
            for (i, token) in tokens.split(' ').enumerate() {
                let token = token.parse::<u64>().expect("a token");
                dead.push((format!("{prefix}{i}"), holder.pid(), token));
            }
        }
        holders.iter_mut().for_each(Child::kill_and_reap);
    }
    assert_eq!(dead.len(), 6 * 4 * EACH);
    let table = scratch.open();
    for (name, pid, token) in dead {
        let lock = table.lock(&name).expect("a lock");
        let guard = lock
            .try_acquire()
            .unwrap_or_else(|e| panic!("{name} is stranded: {e}"));
        let grant = Grant::of(&guard);
        assert_eq!(
            (grant.previous.as_str(), grant.departed),
            ("died", (pid, token)),
            "{name}"
        );
        assert!(grant.token > token);
    }
}

fn stepper_options() -> Options {
    on_death().slots(1_024).sessions(4)
}

/// Does one thing between a mark and its end, for a tracer to kill it on the way.
fn stepper(boss: &mut Boss) {
    let deed = boss.hear();
    let path = boss.hear();
    let name = boss.hear();
    let path = Path::new(&path);
    // What is not to be killed comes before the mark.
    let table = (deed != "create" && deed != "join").then(|| {
        let table = stepper_options().open(path).expect("the table opens");
        if deed == "pair" {
            let lock = table.lock(&name).expect("a lock");
            lock.acquire()
                .expect("a grant")
                .release()
                .expect("held to the end");
        }
        table
    });
    boss.say(sys::thread_id());
    boss.hear();
    sys::mark();
    let table = table.unwrap_or_else(|| stepper_options().open(path).expect("the table opens"));
    let lock = table.lock(&name).expect("a lock");
    let guard = lock.acquire().expect("a grant");
    guard.release().expect("held to the end");
    sys::leave(0);
}

/// When a stepper is killed: so many steps after its mark, or after it has come back from
/// system calls that are met on the way.
#[derive(Clone, Copy, Debug)]
struct Moment<'a> {
    after: &'a [i64],
    steps: usize,
    step: Step,
    /// How long it stands still there before it is killed.
    rest: Duration,
}

const fn system_calls(steps: usize) -> Moment<'static> {
    Moment {
        after: &[],
        steps,
        step: Step::Syscall,
        rest: Duration::ZERO,
    }
}

const fn instructions(steps: usize) -> Moment<'static> {
    Moment {
        after: &[],
        steps,
        step: Step::Instruction,
        rest: Duration::ZERO,
    }
}

/// Runs a stepper and kills it at a moment. Its process id, and, if it came to its end
/// before that, the steps that it took.
fn kill_at(moment: Moment<'_>, deed: &str, path: &Path, name: &str) -> (u32, Option<usize>) {
    let mut child = Child::start("stepper");
    child.say(deed);
    child.say(path.display());
    child.say(name);
    let tid = child.hear().parse().expect("a thread id");
    let mut tracee = Tracee::seize(tid).expect("the right to trace a child");
    child.say("go");
    for &number in [libc::SYS_getppid].iter().chain(moment.after) {
        tracee.run_to(number);
        assert!(tracee.step(Step::Syscall), "back from the call");
    }
    for taken in 0..moment.steps {
        if !tracee.step(moment.step) {
            child.reap();
            return (child.pid(), Some(taken));
        }
    }
    thread::sleep(moment.rest);
    child.kill();
    tracee.bury();
    child.reap();
    (child.pid(), None)
}

/// Where to kill: everywhere, or at as many places as a test run has time for.
fn places(steps: usize, dice: &mut Dice) -> impl Iterator<Item = usize> {
    const KILLS: usize = 80;
    let every = std::env::var_os("CASLOCK_TEST_EVERY_STEP").is_some();
    let stride = if every { 1 } else { steps.div_ceil(KILLS) };
    let Range { start, end } = dice.below(stride)..steps;
    (start..end).step_by(stride)
}

/// Tracing needs no privilege, but sandboxes filter it.
fn may_trace(test: &str) -> bool {
    let mut child = Child::start("stepper");
    child.say("pair");
    let scratch = Scratch::with(stepper_options());
    child.say(scratch.table().display());
    child.say("probe");
    let tid = child.hear().parse().expect("a thread id");
    match Tracee::seize(tid) {
        Ok(tracee) => {
            child.kill();
            tracee.bury();
            true
        }
        Err(e) => {
            skip(test, format!("ptrace: {e}"));
            false
        }
    }
}

/// The same for instructions.
fn may_step(test: &str) -> bool {
    // There an atomic operation is a loop around a reservation, which each step loses.
    #[cfg(target_arch = "aarch64")]
    if !std::arch::is_aarch64_feature_detected!("lse") {
        skip(
            test,
            "without LSE an atomic that is stepped through never ends",
        );
        return false;
    }
    may_trace(test)
}

/// Row 23: after a kill at any system call of a creation there is no table or a whole one.
#[test]
fn a_creator_killed_at_any_system_call_leaves_nothing_half_made() {
    let test = "a_creator_killed_at_any_system_call_leaves_nothing_half_made";
    let _watchdog = watchdog(test);
    if !may_trace(test) {
        return;
    }
    let (mut found, mut absent) = (0, 0);
    for steps in 0.. {
        let scratch = Scratch::empty();
        let path = scratch.table();
        let (pid, ended) = kill_at(system_calls(steps), "create", &path, "job");
        let files = fs::read_dir(scratch.dir()).expect("the directory").count();
        assert_eq!(
            files,
            usize::from(path.exists()),
            "killed at step {steps}: a leftover"
        );
        if path.exists() {
            found += 1
        } else {
            absent += 1
        }
        let table = stepper_options().open(&path).expect("a whole table");
        let lock = table.lock("job").expect("a lock");
        let guard = lock
            .try_acquire()
            .unwrap_or_else(|e| panic!("step {steps}: {e}"));
        if let Some(who) = guard.previous().departed() {
            assert_eq!(who.pid, pid);
            assert!(who.token < guard.token());
        }
        if ended.is_some() {
            break;
        }
    }
    report(format_args!(
        "killed before the table was published {absent} times, after {found} times"
    ));
    assert!(
        found > 1 && absent > 1,
        "both sides of the publication were hit"
    );
}

/// Row 24: the same for attaching, naming, acquiring and releasing. More kills than the
/// table has sessions, so none of them may leave a session behind.
#[test]
fn a_joiner_killed_at_any_system_call_leaves_nothing_behind() {
    let test = "a_joiner_killed_at_any_system_call_leaves_nothing_behind";
    let _watchdog = watchdog(test);
    if !may_trace(test) {
        return;
    }
    let scratch = Scratch::with(stepper_options());
    let table = scratch.open();
    let mut told = 0;
    for steps in 0.. {
        let name = format!("job-{steps}");
        let (pid, ended) = kill_at(system_calls(steps), "join", &scratch.table(), &name);
        let lock = table.lock(&name).expect("a lock");
        let guard = lock
            .try_acquire()
            .unwrap_or_else(|e| panic!("step {steps}: {e}"));
        if let Some(who) = guard.previous().departed() {
            assert_eq!(who.pid, pid);
            told += 1;
        }
        if let Some(taken) = ended {
            report(format_args!(
                "{taken} steps from attach to release; {told} deaths in the section"
            ));
            break;
        }
    }
}

/// S5 for the two operations that are one compare-and-swap each, instruction by instruction.
#[test]
fn an_owner_killed_at_any_instruction_leaves_the_lock_to_the_next() {
    let test = "an_owner_killed_at_any_instruction_leaves_the_lock_to_the_next";
    let _watchdog = watchdog(test);
    let mut dice = Dice::new(test);
    if !may_step(test) {
        return;
    }
    let scratch = Scratch::with(stepper_options());
    let (table, path) = (scratch.open(), scratch.table());
    let lock = table.lock("job").expect("a lock");
    let (_, ended) = kill_at(instructions(usize::MAX), "pair", &path, "job");
    let steps = ended.expect("it ran to its end");
    let (mut last, mut deaths, mut kills) = (0, 0, 0);
    for at in places(steps, &mut dice) {
        let (pid, ended) = kill_at(instructions(at), "pair", &path, "job");
        kills += usize::from(ended.is_none());
        let guard = lock
            .try_acquire()
            .unwrap_or_else(|e| panic!("instruction {at}: {e}"));
        let token = guard.token().0;
        match guard.previous() {
            Previous::Released => {}
            Previous::Died(who) => {
                assert_eq!((who.pid, who.panicked), (pid, false));
                assert!(
                    last < who.token.0 && who.token.0 < token,
                    "instruction {at}"
                );
                deaths += 1;
            }
            other => panic!("instruction {at}: {other:?}"),
        }
        assert!(token > last, "instruction {at}: {token} after {last}");
        last = token;
        guard.release().expect("held to the end");
    }
    report(format_args!(
        "{kills} kills over {steps} instructions; {deaths} deaths in the section"
    ));
    assert!(
        deaths > 0,
        "some kills fell between the two compare-and-swaps"
    );
}

/// Row 24 once more: naming, instruction by instruction.
#[test]
fn a_process_killed_at_any_instruction_of_naming_leaves_before_or_after() {
    let test = "a_process_killed_at_any_instruction_of_naming_leaves_before_or_after";
    let _watchdog = watchdog(test);
    let mut dice = Dice::new(test);
    if !may_step(test) {
        return;
    }
    let scratch = Scratch::with(stepper_options());
    let (table, path) = (scratch.open(), scratch.table());
    let (_, ended) = kill_at(instructions(usize::MAX), "name", &path, "first");
    let steps = ended.expect("it ran to its end");
    for at in places(steps, &mut dice) {
        let name = format!("job-{at}");
        kill_at(instructions(at), "name", &path, &name);
        // The same name still leads to one slot, and another name to another.
        let lock = table.lock(&name).expect("a lock");
        let guard = lock
            .try_acquire()
            .unwrap_or_else(|e| panic!("instruction {at}: {e}"));
        let twin = table.lock(&name).expect("a lock");
        assert!(
            twin.try_acquire().is_err(),
            "instruction {at}: two slots of one name"
        );
        let other = table.lock(format!("{name}-other")).expect("a lock");
        other
            .try_acquire()
            .expect("another slot")
            .release()
            .expect("held to the end");
        guard.release().expect("held to the end");
        let snapshot = table.inspect().expect("a snapshot");
        let same = snapshot
            .slots
            .iter()
            .filter(|slot| slot.name == name)
            .count();
        assert_eq!(same, 1, "instruction {at}");
    }
}

/// Row 25: a crash while recovering. A reset after a reboot that is killed anywhere, at
/// its system calls and between them, is done over by whoever comes next.
#[test]
fn a_reset_killed_anywhere_is_done_by_the_next() {
    let test = "a_reset_killed_anywhere_is_done_by_the_next";
    let _watchdog = watchdog(test);
    let mut dice = Dice::new(test);
    if !may_step(test) {
        return;
    }
    // The image of a small table with a lock that a dead process held, of another boot.
    let scratch = Scratch::with(on_death().slots(4).sessions(2));
    let mut holder = Child::puppet(&scratch.table());
    let held = holder.acquire("job");
    let idle = holder.acquire("idle");
    assert_eq!(holder.release("idle"), "released");
    holder.kill_and_reap();
    let path = scratch.table();
    let mut image = fs::read(&path).expect("the file");
    // The boot id, by the map of the file format.
    image[112..128].fill(0x5a);

    let try_kill = |moment| {
        fs::write(&path, &image).expect("the image");
        let (_, ended) = kill_at(moment, "join", &path, "job");
        let inspector = Inspector::open(&path).expect("the table opens");
        let before = !inspector.snapshot().expect("a snapshot").table.current_boot;
        let table = LockTable::open(&path).expect("the next opener resets");
        assert!(table.inspect().expect("a snapshot").table.current_boot);
        for (name, last) in [("job", held.token), ("idle", idle.token)] {
            let lock = table.lock(name).expect("a lock");
            let guard = lock
                .try_acquire()
                .unwrap_or_else(|e| panic!("{moment:?}: {name}: {e}"));
            assert!(
                guard.token().0 > last,
                "{moment:?}: {name}: {}",
                guard.token()
            );
            guard.release().expect("held to the end");
        }
        (before, ended)
    };
    let steps = (0..)
        .find_map(|steps| try_kill(system_calls(steps)).1)
        .expect("it ended");
    // The work is done between two calls: after the reset's lock was taken and the sessions
    // were asked for, until the mapping goes.
    let working = |steps| Moment {
        after: &[libc::SYS_fcntl; 2],
        ..instructions(steps)
    };
    let mut end = 256;
    while try_kill(working(end)).0 {
        end *= 2;
    }
    let (mut kills, mut unfinished) = (0, 0);
    for steps in places(end, &mut dice).step_by(2) {
        kills += 1;
        unfinished += usize::from(try_kill(working(steps)).0);
    }
    report(format_args!(
        "{steps} steps between system calls; {unfinished} of {kills} resets left unfinished"
    ));
    assert!(
        unfinished > kills / 4,
        "the kills fall where the reset works"
    );
}

/// Row 24: the same where a name takes the slot of an idle one: that one's handles, and
/// the new name, all find a slot again.
#[test]
fn a_process_killed_at_any_instruction_of_recycling_strands_no_name() {
    let test = "a_process_killed_at_any_instruction_of_recycling_strands_no_name";
    let _watchdog = watchdog(test);
    let mut dice = Dice::new(test);
    if !may_step(test) {
        return;
    }
    let scratch = Scratch::with(on_death().slots(2).sessions(4));
    let (table, path) = (scratch.open(), scratch.table());
    let old = ["old-a", "old-b"].map(|name| table.lock(name).expect("a lock"));
    let mut last = [0; 2];
    let mut use_old = |at: usize| {
        for (lock, last) in old.iter().zip(&mut last) {
            let guard = lock
                .try_acquire()
                .unwrap_or_else(|e| panic!("instruction {at}: {e}"));
            assert!(guard.token().0 > *last, "instruction {at}");
            *last = guard.token().0;
            guard.release().expect("held to the end");
        }
    };
    use_old(0);
    let (_, ended) = kill_at(instructions(usize::MAX), "name", &path, "first");
    let steps = ended.expect("it ran to its end");
    use_old(0);
    for at in places(steps, &mut dice) {
        let name = format!("job-{at}");
        kill_at(instructions(at), "name", &path, &name);
        use_old(at);
        let lock = table.lock(&name).expect("an idle name makes room");
        let guard = lock
            .try_acquire()
            .unwrap_or_else(|e| panic!("instruction {at}: {e}"));
        guard.release().expect("held to the end");
        use_old(at);
    }
}

/// The naming lock is nobody's to take from the living, and a stopped namer stops nothing
/// but naming. Stopped between any two of its instructions.
#[test]
fn a_namer_stopped_at_any_instruction_damages_nothing() {
    let test = "a_namer_stopped_at_any_instruction_damages_nothing";
    let _watchdog = watchdog(test);
    let mut dice = Dice::new(test);
    if !may_step(test) {
        return;
    }
    let scratch = Scratch::with(on_death().slots(2).sessions(4));
    let (table, path) = (scratch.open(), scratch.table());
    let old = ["old-a", "old-b"].map(|name| table.lock(name).expect("a lock"));
    for lock in &old {
        lock.acquire()
            .expect("a grant")
            .release()
            .expect("held to the end");
    }
    let (_, ended) = kill_at(instructions(usize::MAX), "name", &path, "first");
    let steps = ended.expect("it ran to its end");
    for at in places(steps, &mut dice).step_by(2) {
        let moment = Moment {
            rest: Duration::from_millis(150),
            ..instructions(at)
        };
        let name = format!("job-{at}");
        thread::scope(|scope| {
            let namer = scope.spawn(|| kill_at(moment, "name", &path, &name));
            while !namer.is_finished() {
                for lock in &old {
                    let guard = lock
                        .acquire()
                        .unwrap_or_else(|e| panic!("instruction {at}: {e}"));
                    guard.release().expect("held to the end");
                }
                // Idle most of the time, so that the namer has something to take.
                thread::sleep(Duration::from_millis(1));
            }
        });
        table
            .lock(&name)
            .expect("an idle name makes room")
            .acquire()
            .map(drop)
            .expect("a grant");
    }
}
