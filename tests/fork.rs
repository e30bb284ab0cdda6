//! What processes do to their descriptors and their children while they hold a lock: fork,
//! exec, close everything, hand the witness on. The lock stays with the process that has it.

mod common;

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use caslock::{
    AcquireError, FencingToken, ForceReleaseError, InspectError, Inspector, LockError, LockTable,
    Lost, LostHow, OpenError, Options, Previous,
};
use common::puppet::Stage;
use common::{
    Boss, Child, Grant, Scratch, dispatch, on_death, puppet, state, sys, wait_until, watchdog,
};

#[test]
fn child_role() {
    dispatch(&[
        ("puppet", puppet),
        ("forker", forker),
        ("parent", parent),
        ("execer", execer),
        ("lingerer", lingerer),
        ("closer", closer),
        ("sharer", sharer),
        ("sharing_parent", sharing_parent),
        ("daemon_parent", daemon_parent),
        ("inheritor", inheritor),
        ("crowd", crowd),
        ("breeder", breeder),
        ("beginner", beginner),
        ("employer", employer),
        ("parker", parker),
    ]);
}

/// Holds `kept` and `dropped`, forks, and has the child try everything.
fn forker(boss: &mut Boss) {
    let path = boss.hear();
    let table = LockTable::options()
        .open_existing(&path)
        .expect("the table opens");
    let [kept, dropped, other] =
        ["kept", "dropped", "other"].map(|name| table.lock(name).expect("a lock"));
    let kept_guard = kept.acquire().expect("a grant");
    let dropped_guard = dropped.acquire().expect("a grant");
    let inspector = Inspector::open(&path).expect("the table opens");
    let is_told = Arc::new(AtomicBool::new(false));
    for guard in [&kept_guard, &dropped_guard] {
        let told = Arc::clone(&is_told);
        guard.on_lost(move |_| told.store(true, Ordering::Relaxed));
    }
    let Some(child) = sys::fork() else {
        assert!(matches!(other.try_acquire(), Err(AcquireError::Forked(_))));
        assert!(matches!(other.acquire(), Err(AcquireError::Forked(_))));
        assert!(matches!(
            kept.acquire_timeout(Duration::ZERO),
            Err(AcquireError::Forked(_))
        ));
        assert!(matches!(table.lock("kept"), Err(LockError::Forked(_))));
        assert!(matches!(table.lock("new"), Err(LockError::Forked(_))));
        assert!(matches!(table.inspect(), Err(InspectError::Forked(_))));
        assert!(matches!(kept.holder(), Err(InspectError::Forked(_))));
        an_inspector_refuses(&inspector, kept_guard.token());
        let forced = table.force_release("kept", kept_guard.token());
        assert!(
            matches!(forced, Err(ForceReleaseError::Forked(_))),
            "{forced:?}"
        );
        assert!(!kept_guard.is_held());
        let lost = kept_guard.release().expect_err("it is the parent's");
        assert!(
            matches!(
                lost,
                Lost {
                    how: LostHow::Forked,
                    ..
                }
            ),
            "{lost:?}"
        );
        drop(dropped_guard);
        child_opens_anew(Path::new(&path));
        // The last handles go, too. The parent's keeper was once detached here by a thread
        // id that had become this child's own thread's, which then could not be joined.
        let thread = thread::spawn(|| thread::sleep(Duration::from_millis(20)));
        drop((kept, dropped, other, table));
        thread.join().expect("nobody detached it");
        sys::leave(0);
    };
    assert_eq!(
        sys::exit_code(child),
        Some(0),
        "the child found something wrong"
    );
    assert!(kept_guard.is_held() && dropped_guard.is_held());
    boss.say("forked");
    boss.hear();
    kept_guard.release().expect("still ours");
    dropped_guard.release().expect("still ours");
    // Either way the callbacks go in the end: called by the keeper, or forgotten.
    wait_until(|| Arc::strong_count(&is_told) == 1);
    assert!(!is_told.load(Ordering::Relaxed), "nothing is lost");
    other
        .acquire()
        .expect("the parent's handles work on")
        .release()
        .expect("held to the end");
    boss.say("released");
    boss.hear();
}

/// What an inspector that was opened before the fork answers in the child.
fn an_inspector_refuses(inspector: &Inspector, token: FencingToken) {
    let seen = inspector.snapshot();
    assert!(matches!(seen, Err(InspectError::Forked(_))), "{seen:?}");
    let seen = inspector.slot("kept");
    assert!(matches!(seen, Err(InspectError::Forked(_))), "{seen:?}");
    let forced = inspector.force_release("kept", token);
    assert!(
        matches!(forced, Err(ForceReleaseError::Forked(_))),
        "{forced:?}"
    );
}

/// A child that opens the table anew is a process like any other.
fn child_opens_anew(path: &Path) {
    let table = LockTable::options()
        .open_existing(path)
        .expect("the table opens");
    let parent = sys::parent_id();
    let Err(AcquireError::Busy { holder, .. }) = table.lock("kept").expect("a lock").try_acquire()
    else {
        panic!("the parent holds it");
    };
    assert_eq!(holder.pid, parent);
    assert_ne!(holder.session, table.session());
    let own = table.lock("child's own").expect("a lock");
    let guard = own.try_acquire().expect("a grant");
    assert!(guard.is_held());
    guard.release().expect("held to the end");
}

/// Row 4: sessions do not cross a fork, and the child cannot harm its parent's.
#[test]
fn a_forked_child_has_no_part_in_its_parents_session() {
    let _watchdog = watchdog("a_forked_child_has_no_part_in_its_parents_session");
    let scratch = Scratch::with(on_death());
    let mut forker = Child::start("forker");
    forker.say(scratch.table().display());
    assert_eq!(forker.hear(), "forked");
    let table = scratch.open();
    for name in ["kept", "dropped"] {
        let Err(AcquireError::Busy { holder, .. }) =
            table.lock(name).expect("a lock").try_acquire()
        else {
            panic!("{name}: the parent holds it");
        };
        assert_eq!(holder.pid, forker.pid());
    }
    assert_eq!(forker.ask("release"), "released");
    for name in ["kept", "dropped"] {
        let lock = table.lock(name).expect("a lock");
        assert_eq!(
            lock.try_acquire().expect("free").previous(),
            Previous::Released
        );
    }
}

/// Holds `job` and leaves a child that does nothing but outlive it.
fn parent(boss: &mut Boss) {
    let path = boss.hear();
    let table = LockTable::options()
        .open_existing(path)
        .expect("the table opens");
    let lock = table.lock("job").expect("a lock");
    let guard = lock.acquire().expect("a grant");
    match sys::fork() {
        // The child: until the test hangs up, and it says that it is there when asked.
        None => loop {
            if boss.hear() == "child?" {
                boss.say("here");
            }
        },
        Some(_) => {
            boss.say(Grant::of(&guard));
            loop {
                thread::park();
            }
        }
    }
}

#[test]
fn a_child_that_outlives_its_killed_parent_does_not_keep_the_lock() {
    let _watchdog = watchdog("a_child_that_outlives_its_killed_parent_does_not_keep_the_lock");
    let scratch = Scratch::with(on_death());
    let lock = scratch.open().lock("job").expect("a lock");
    let mut parent = Child::start("parent");
    parent.say(scratch.table().display());
    let held: Grant = parent.hear().parse().expect("a grant");
    assert!(lock.acquire_timeout(Duration::from_millis(300)).is_err());
    assert_eq!(parent.ask("child?"), "here");
    parent.kill_and_reap();
    let guard = lock.acquire().expect("a grant");
    assert_eq!(Grant::of(&guard).departed, (parent.pid(), held.token));
    assert_eq!(parent.ask("child?"), "here", "the child lives on");
}

/// Holds `job` and becomes another program.
fn execer(boss: &mut Boss) {
    let path = boss.hear();
    let table = LockTable::options()
        .open_existing(path)
        .expect("the table opens");
    let lock = table.lock("job").expect("a lock");
    let guard = lock.acquire().expect("a grant");
    boss.say(Grant::of(&guard));
    boss.hear();
    let e = become_role("lingerer").exec();
    panic!("exec: {e}");
}

/// This binary again, in another role.
fn become_role(role: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this binary"));
    command.args(["child_role", "--exact", "--nocapture", "--test-threads=1"]);
    command.env("CASLOCK_TEST_ROLE", role);
    command
}

fn lingerer(boss: &mut Boss) {
    boss.say("lingering");
    loop {
        boss.hear();
        boss.say("here");
    }
}

/// Row 5: the process id lives, the process that took the lock does not.
#[test]
fn exec_ends_the_session_though_the_process_lives_on() {
    let _watchdog = watchdog("exec_ends_the_session_though_the_process_lives_on");
    let scratch = Scratch::with(on_death());
    let lock = scratch.open().lock("job").expect("a lock");
    let mut holder = Child::start("execer");
    holder.say(scratch.table().display());
    let held: Grant = holder.hear().parse().expect("a grant");
    let grant = thread::scope(|scope| {
        let waiter = scope.spawn(|| Grant::of(&lock.acquire().expect("a grant")));
        thread::sleep(Duration::from_millis(100));
        assert_eq!(holder.ask("exec"), "lingering");
        waiter.join().expect("no panic")
    });
    assert_eq!(grant.previous, "died");
    assert_eq!(grant.departed, (holder.pid(), held.token));
    assert_eq!(holder.ask("there?"), "here");
}

/// A puppet that closes every descriptor it does not know: `closefrom`, and with
/// `strangers` it puts other files on the numbers that became free.
fn closer(boss: &mut Boss) {
    let mut stage = Stage::new(LockTable::options());
    let mut strangers = Vec::new();
    loop {
        let line = boss.hear();
        let answer = match line.as_str() {
            "closefrom" => {
                sys::close_from_three();
                "closed".to_owned()
            }
            "strangers" => {
                strangers = (0..64)
                    .map(|_| File::open("/dev/null").expect("a file"))
                    .collect();
                "opened".to_owned()
            }
            "strangers?" => {
                let intact =
                    |file: &File| fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()));
                let null = Path::new("/dev/null");
                let intact = strangers
                    .iter()
                    .all(|file| intact(file).is_ok_and(|path| path == null));
                intact.to_string()
            }
            _ => stage.play(&line),
        };
        boss.say(answer);
    }
}

/// Row 5: daemons close what they do not know. The lock is bound to the mapping.
#[test]
fn a_holder_that_closes_every_descriptor_keeps_its_lock_and_its_table() {
    let _watchdog = watchdog("a_holder_that_closes_every_descriptor_keeps_its_lock");
    for strangers in [false, true] {
        let scratch = Scratch::with(on_death());
        let lock = scratch.open().lock("job").expect("a lock");
        let mut closer = Child::start("closer");
        closer.open(&scratch.table());
        closer.acquire("job");
        assert_eq!(closer.ask("closefrom"), "closed");
        if strangers {
            assert_eq!(closer.ask("strangers"), "opened");
        }
        assert!(
            lock.acquire_timeout(Duration::from_millis(1_500)).is_err(),
            "robbed"
        );
        assert!(closer.is_held("job"));

        // It goes on: new names, waiting, inspecting deaths of others.
        closer.acquire("second");
        assert_eq!(closer.release("second"), "released");
        let mut other = Child::puppet(&scratch.table());
        let held = other.acquire("third");
        closer.say("acquire third");
        assert!(
            !closer.answers_within(Duration::from_millis(300)),
            "robbed the living"
        );
        other.kill_and_reap();
        let grant: Grant = closer.hear().parse().expect("a grant");
        assert_eq!(grant.departed, (other.pid(), held.token));

        // And its own death is seen like any other.
        assert_eq!(closer.release("job"), "released");
        let held = closer.acquire("job");
        if strangers {
            assert_eq!(
                closer.ask("strangers?"),
                "true",
                "a stranger's descriptor was touched"
            );
        }
        closer.kill_and_reap();
        let guard = lock.acquire().expect("a grant");
        assert_eq!(Grant::of(&guard).departed, (closer.pid(), held.token));
    }
}

/// Detaching closes what is the library's and nothing else.
#[test]
fn detaching_after_closefrom_leaves_strangers_alone() {
    let _watchdog = watchdog("detaching_after_closefrom_leaves_strangers_alone");
    let scratch = Scratch::with(on_death());
    let mut closer = Child::start("closer");
    closer.open(&scratch.table());
    closer.acquire("job");
    assert_eq!(closer.ask("closefrom"), "closed");
    assert_eq!(closer.ask("strangers"), "opened");
    assert_eq!(closer.ask("close"), "closed");
    assert_eq!(closer.ask("strangers?"), "true");
    let lock = scratch.open().lock("job").expect("a lock");
    assert_eq!(
        lock.try_acquire().expect("free").previous(),
        Previous::Released
    );
}

/// POSIX locks end with the first stray close of their file; this one must not.
#[test]
fn a_stray_close_of_the_table_file_drops_nothing() {
    let _watchdog = watchdog("a_stray_close_of_the_table_file_drops_nothing");
    let scratch = Scratch::with(on_death());
    let lock = scratch.open().lock("job").expect("a lock");
    let guard = lock.acquire().expect("a grant");
    for _ in 0..3 {
        drop(
            File::options()
                .read(true)
                .write(true)
                .open(scratch.table())
                .expect("the file"),
        );
    }
    let mut other = Child::puppet(&scratch.table());
    let refused = other
        .acquire_within("job", Duration::from_millis(500))
        .expect_err("robbed");
    assert_eq!(refused.error, "TimedOut");
    assert_eq!(refused.holder, (std::process::id(), guard.token().0));
}

/// Programs started while a lock is held, and while tables are opened, are no witnesses.
#[test]
fn programs_started_by_the_holder_do_not_keep_its_session() {
    let _watchdog = watchdog("programs_started_by_the_holder_do_not_keep_its_session");
    let mut programs = Vec::new();
    for round in 0..20 {
        // Room for one session: whoever keeps it keeps everybody else out.
        let scratch = Scratch::with(on_death().sessions(1));
        let table = thread::scope(|scope| {
            let open = scope.spawn(|| scratch.open());
            programs.push(Program(
                Command::new("sleep").arg("1000").spawn().expect("sleep"),
            ));
            open.join().expect("no panic")
        });
        let lock = table.lock("job").expect("a lock");
        let guard = lock.acquire().expect("a grant");
        programs.push(Program(
            Command::new("sleep").arg("1000").spawn().expect("sleep"),
        ));
        guard.release().expect("held to the end");
        drop((lock, table));
        let again = LockTable::open(scratch.table());
        assert!(again.is_ok(), "round {round}: {:?}", again.map(drop));
    }
}

/// A program that is ended with the test.
struct Program(std::process::Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn sharing() -> Options {
    LockTable::options().share_witness(true)
}

/// A puppet whose child inherits the witness.
fn sharer(boss: &mut Boss) {
    let mut stage = Stage::new(sharing());
    for _ in 0..2 {
        let line = boss.hear();
        boss.say(stage.play(&line));
    }
    let table = stage.table.as_ref().expect("an open table");
    let witness = table.witness().expect("shared, so there is one");
    sys::set_close_on_exec(witness, false);
    let mut child = become_role("inheritor")
        .stdin(inherited_wire())
        .spawn()
        .expect("a child");
    sys::set_close_on_exec(witness, true);
    boss.say(child.id());
    let _ = child.wait();
}

fn inherited_wire() -> std::process::Stdio {
    io::stdin()
        .as_fd()
        .try_clone_to_owned()
        .expect("the wire")
        .into()
}

/// Does nothing, for as long as the test listens.
fn inheritor(boss: &mut Boss) {
    loop {
        if boss.hear() == "child?" {
            boss.say("here");
        }
    }
}

/// How many of this process's descriptors are of the file at a path.
fn descriptors_of(path: &str) -> usize {
    let numbers = fs::read_dir("/proc/self/fd").expect("the descriptors");
    let links = numbers.map(|number| fs::read_link(number.expect("a number").path()));
    links
        .filter(|link| link.as_ref().is_ok_and(|link| link == Path::new(path)))
        .count()
}

/// Holds `job` with a witness and forks a child that drops its handles; that says how many
/// descriptors of the table's it has left.
fn sharing_parent(boss: &mut Boss) {
    let path = boss.hear();
    let table = sharing().open_existing(&path).expect("the table opens");
    let lock = table.lock("job").expect("a lock");
    let guard = lock.acquire().expect("a grant");
    if sys::fork().is_none() {
        drop(guard);
        drop(lock);
        let before = descriptors_of(&path);
        drop(table);
        boss.say(format!("{before} {}", descriptors_of(&path)));
        loop {
            boss.hear();
        }
    }
    loop {
        thread::park();
    }
}

/// It kept the dead one's locks for as long as it lived, whatever it had dropped.
#[test]
fn a_forked_child_that_drops_its_handles_is_no_witness_any_more() {
    let _watchdog = watchdog("a_forked_child_that_drops_its_handles_is_no_witness_any_more");
    let scratch = Scratch::with(on_death());
    let lock = scratch.open().lock("job").expect("a lock");
    let mut parent = Child::start("sharing_parent");
    parent.say(scratch.table().display());
    assert_eq!(parent.hear(), "2 0", "the witness, and another to ask by");
    assert!(lock.acquire_timeout(Duration::from_millis(300)).is_err());
    parent.kill_and_reap();
    let guard = lock.acquire().expect("a grant");
    assert_eq!(Grant::of(&guard).departed.0, parent.pid());
}

/// Holds `job` with a witness and forks a child that closes all descriptors, as daemons do, opens
/// the table itself, and drops what it has inherited; that says whether its own witness is there.
fn daemon_parent(boss: &mut Boss) {
    let path = boss.hear();
    let table = sharing().open_existing(&path).expect("the table opens");
    if sys::fork().is_none() {
        sys::close_from_three();
        let own = sharing().open_existing(&path).expect("the table opens");
        let number = own.witness().expect("a witness").as_raw_fd();
        let before = descriptors_of(&path);
        drop(table);
        let now = own.witness().map(|witness| witness.as_raw_fd());
        let are_same = now == Some(number) && descriptors_of(&path) == before;
        boss.say(are_same);
        sys::leave(0);
    }
    loop {
        thread::park();
    }
}

/// The numbers were the same, and so was the file: it closed its own.
#[test]
fn a_forked_child_that_drops_its_parents_handles_keeps_its_own_descriptors() {
    let _watchdog =
        watchdog("a_forked_child_that_drops_its_parents_handles_keeps_its_own_descriptors");
    let scratch = Scratch::with(on_death());
    let mut parent = Child::start("daemon_parent");
    parent.say(scratch.table().display());
    assert_eq!(parent.hear(), "true");
}

/// What `caslock run` rests on: wrapper and command are one holder.
#[test]
fn a_child_with_the_witness_keeps_the_session_alive() {
    let _watchdog = watchdog("a_child_with_the_witness_keeps_the_session_alive");
    let scratch = Scratch::with(on_death());
    let table = scratch.open();
    assert!(table.witness().is_none(), "not shared unless asked for");
    let lock = table.lock("job").expect("a lock");
    let mut parent = Child::start("sharer");
    parent.open(&scratch.table());
    let held = parent.acquire("job");
    let child: u32 = parent.hear().parse().expect("a process id");
    assert_eq!(parent.ask("child?"), "here");
    parent.kill_and_reap();
    let refused = lock.acquire_timeout(Duration::from_secs(2)).map(drop);
    assert!(
        matches!(refused, Err(AcquireError::TimedOut { .. })),
        "{refused:?}"
    );
    assert_eq!(parent.ask("child?"), "here");

    // The child ends with the wire.
    let waited = thread::scope(|scope| {
        let waiter = scope.spawn(|| Grant::of(&lock.acquire().expect("a grant")));
        thread::sleep(Duration::from_millis(100));
        parent.hang_up();
        waiter.join().expect("no panic")
    });
    assert_eq!(waited.departed, (parent.pid(), held.token));
    wait_until(|| matches!(state(child), None | Some('Z' | 'X')));
}

/// Waits for "job" with many threads.
fn crowd(boss: &mut Boss) {
    let table = LockTable::open(boss.hear()).expect("the table opens");
    for _ in 0..16 {
        let lock = table.lock("job").expect("a lock");
        thread::spawn(move || drop(lock.acquire()));
    }
    boss.say("waiting");
    boss.hear();
}

/// How often the threads of a process have gone to sleep.
fn sleeps(pid: u32) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("its threads");
    let sleeps_of = |task: io::Result<fs::DirEntry>| {
        let status = fs::read_to_string(task.ok()?.path().join("status")).ok()?;
        let mut lines = status.lines();
        let line = lines.find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        line?.trim().parse::<u64>().ok()
    };
    tasks.filter_map(sleeps_of).sum()
}

/// The kernel wakes one of those who wait for a death, and each wakes the next: once. They
/// went on with it in a ring for as long as the dead one's child kept its witness.
#[test]
fn many_who_wait_for_one_that_is_dead_but_for_its_witness_let_each_other_sleep() {
    let _watchdog =
        watchdog("many_who_wait_for_one_that_is_dead_but_for_its_witness_let_each_other_sleep");
    let scratch = Scratch::with(on_death());
    let mut parent = Child::start("sharer");
    parent.open(&scratch.table());
    parent.acquire("job");
    parent.hear();
    let mut crowd = Child::start("crowd");
    crowd.say(scratch.table().display());
    assert_eq!(crowd.hear(), "waiting");
    let waiters = || scratch.open().inspect().expect("a snapshot");
    wait_until(|| waiters().slot("job").is_some_and(|slot| slot.waiters == 16));
    thread::sleep(Duration::from_millis(100));
    parent.kill_and_reap();
    // They look for the end of the witness, less and less often.
    thread::sleep(Duration::from_secs(3));
    let before = sleeps(crowd.pid());
    thread::sleep(Duration::from_secs(1));
    let slept = sleeps(crowd.pid()) - before;
    assert!(slept < 2_000, "{slept} times");
    crowd.say("done");
    parent.hang_up();
}

/// Opens and closes a table again and again while another thread forks children that stay.
fn breeder(boss: &mut Boss) {
    let path = boss.hear();
    let done = Arc::new(AtomicBool::new(false));
    let forking = thread::spawn({
        let done = Arc::clone(&done);
        move || {
            let mut children = Vec::new();
            while !done.load(Ordering::Relaxed) && children.len() < 400 {
                match sys::fork() {
                    Some(child) => children.push(child),
                    None => loop {
                        thread::sleep(Duration::from_secs(60));
                    },
                }
            }
            children
        }
    });
    let mut outcome = "all opened".to_owned();
    for _ in 0..400 {
        if let Err(error) = LockTable::open(&path) {
            outcome = error.to_string();
            break;
        }
    }
    done.store(true, Ordering::Relaxed);
    for child in forking.join().expect("the forking thread") {
        let child = nix::unistd::Pid::from_raw(child.cast_signed());
        nix::sys::signal::kill(child, nix::sys::signal::Signal::SIGKILL).expect("our child");
    }
    boss.say(outcome);
    boss.hear();
}

/// A child that was forked while a table was being opened once inherited the descriptor
/// that the session's byte was then locked through: the session record stayed taken for as
/// long as that child lived, and in the end there were none left.
#[test]
fn a_child_forked_during_an_opening_inherits_no_session() {
    let _watchdog = watchdog("a_child_forked_during_an_opening_inherits_no_session");
    let scratch = Scratch::with(on_death().sessions(4));
    let mut breeder = Child::start("breeder");
    breeder.say(scratch.table().display());
    assert_eq!(breeder.hear(), "all opened");
    breeder.say("done");
}

/// Forks a child that opens a table, drops it, and leaves with 0: the child's PID.
fn fork_one_that_opens(path: &str) -> u32 {
    sys::fork().unwrap_or_else(|| {
        // Its end, should it hang.
        nix::unistd::alarm::set(20);
        // To drop it waits for the keeper that it has begun.
        let opened = LockTable::open(path).map(drop);
        sys::leave(i32::from(opened.is_err()))
    })
}

/// Opens its first table while another thread forks; says how that child's opening went.
fn beginner(boss: &mut Boss) {
    let path = boss.hear();
    let spins: u32 = boss.hear().parse().expect("a number");
    let go = AtomicBool::new(false);
    let (opened, ended) = thread::scope(|scope| {
        let forking = scope.spawn(|| {
            while !go.load(Ordering::Acquire) {
                std::hint::spin_loop();
            }
            let child = fork_one_that_opens(&path);
            let child = nix::unistd::Pid::from_raw(child.cast_signed());
            nix::sys::wait::waitpid(child, None).expect("our child")
        });
        go.store(true, Ordering::Release);
        (0..spins).for_each(|_| std::hint::spin_loop());
        let opened = LockTable::open(&path).map(drop);
        (opened, forking.join().expect("the forking thread"))
    });
    boss.say(format!("{opened:?} {ended:?}"));
    boss.hear();
}

/// A child that was forked while its process opened its first table once found what is set up
/// only then half set up, and waited for that for ever.
#[test]
fn a_child_forked_during_its_processs_first_opening_opens_the_table_too() {
    let _watchdog =
        watchdog("a_child_forked_during_its_processs_first_opening_opens_the_table_too");
    let scratch = Scratch::with(on_death());
    for trial in 0..150 {
        let mut beginner = Child::start("beginner");
        beginner.say(scratch.table().display());
        // A fork takes about as long.
        beginner.say(trial % 30 * 150);
        let said = beginner.hear();
        assert!(
            said.starts_with("Ok(()) Exited(") && said.ends_with(", 0)"),
            "{said}"
        );
        beginner.say("done");
    }
}

/// Forks while other threads start others all the time; says how many children got no keeper.
fn employer(boss: &mut Boss) {
    let path = boss.hear();
    let is_over = AtomicBool::new(false);
    let hung = thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    thread::spawn(|| {}).join().expect("a thread");
                }
            });
        }
        let hangs = |_: &u32| sys::exit_code(fork_one_that_opens(&path)) != Some(0);
        let hung = (0..1_500).filter(hangs).take(1).count();
        is_over.store(true, Ordering::Relaxed);
        hung
    });
    boss.say(hung);
    boss.hear();
}

/// One in some thousands was without a heartbeat, and waited for ever as it dropped its table: a
/// thread of its parent had been starting just then, with a lock taken that each needs to start.
#[test]
fn a_child_has_a_keeper_whatever_its_parents_threads_were_about() {
    let _watchdog = watchdog("a_child_has_a_keeper_whatever_its_parents_threads_were_about");
    let scratch = Scratch::with(on_death());
    let mut employer = Child::start("employer");
    employer.say(scratch.table().display());
    assert_eq!(employer.hear(), "0");
    employer.say("done");
}

/// `caslock run` counts on the witness: without it the command could run on unlocked.
#[test]
fn a_witness_that_is_not_to_be_had_is_an_error() {
    let _watchdog = watchdog("a_witness_that_is_not_to_be_had_is_an_error");
    let scratch = Scratch::with(on_death());
    let without = scratch.open();
    assert!(without.witness().is_none());
    let refused = LockTable::options()
        .share_witness(true)
        .open(scratch.table());
    assert!(
        matches!(refused, Err(OpenError::NoWitness { .. })),
        "{refused:?}"
    );
}

/// Forks while others of its threads are where a library of the application's keeps what is the
/// whole process's: amid going to sleep on locks of its own. Says how the child fared.
fn parker(boss: &mut Boss) {
    let path = boss.hear();
    let (amid, are_amid) = mpsc::channel();
    for key in 0..16 {
        let amid = amid.clone();
        let stay = move || loop {
            let _ = amid.send(());
            thread::park();
        };
        // SAFETY:
        // - nobody else sleeps on any of these keys, or wakes who does;
        // - none of the three closures panics, or calls the library in its turn.
        thread::spawn(move || unsafe {
            let token = parking_lot_core::DEFAULT_PARK_TOKEN;
            parking_lot_core::park(key << 12, stay, || {}, |_, _| {}, token, None)
        });
    }
    are_amid.recv().expect("one of them");
    let child = sys::fork().unwrap_or_else(|| {
        // Its end, should it hang.
        nix::unistd::alarm::set(20);
        let table = LockTable::open(&path).expect("the table opens");
        let lock = table.lock("job").expect("a lock");
        // Enough that some of them find locked what others have.
        thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| {
                    for _ in 0..10_000 {
                        assert!(matches!(lock.try_acquire(), Err(AcquireError::Busy { .. })));
                    }
                });
            }
        });
        sys::leave(0)
    });
    boss.say(format!("{:?}", sys::exit_code(child)));
    boss.hear();
}

/// A child's threads once waited for threads of its parent's: the library's own mutexes kept their
/// waiters in a table that is the whole process's, with what the application had of them in it.
#[test]
fn what_other_mutexes_of_the_process_were_at_when_it_forked_is_nothing_to_its_child() {
    let _watchdog = watchdog(
        "what_other_mutexes_of_the_process_were_at_when_it_forked_is_nothing_to_its_child",
    );
    let scratch = Scratch::with(LockTable::options());
    let mut holder = Child::start("puppet");
    holder.open(&scratch.table());
    holder.acquire("job");
    let mut parker = Child::start("parker");
    parker.say(scratch.table().display());
    assert_eq!(parker.hear(), "Some(0)");
    parker.say("done");
}
