//! The wrapper is killed by SIGKILL: its command dies, and only then is the lock granted.

mod common;

use std::fs;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use common::{Identity, Sandbox, Stat, until};

#[test]
fn the_command_dies_with_its_wrapper_and_the_next_is_told() {
    let sandbox = Sandbox::new();
    let mut holder = sandbox.hold("job");
    let token = sandbox.token("job");
    holder.wrapper.send(Signal::SIGKILL);
    holder.wrapper.wait();
    let script = "echo $CASLOCK_PREVIOUS; echo $CASLOCK_TOKEN";
    let next = sandbox.run(&["run", "job", "--", "sh", "-c", script]);
    assert_eq!(next.code(), 0, "{next:?}");
    let (previous, next_token) = next.stdout.split_once('\n').expect("two lines");
    assert_eq!(previous, "died");
    assert!(next_token.trim_end().parse::<u64>().expect("a number") > token);
    assert!(holder.command.is_gone());
}

/// The address space of a dying wrapper, and with it the byte lock that proves it alive,
/// goes before its command is sent the parent-death signal. The command inherits what the
/// byte lock hangs on, so a waiter cannot be granted the lock in between.
#[test]
fn nobody_is_granted_the_lock_while_the_command_still_runs() {
    let sandbox = Sandbox::new();
    for round in 0..40 {
        let mut holder = sandbox.hold_with(&[], "job", "while :; do :; done");
        let old = format!("cat /proc/{}/stat 2>/dev/null; true", holder.command.pid);
        let waiter = sandbox.start(sandbox.caslock(&["run", "job", "--", "sh", "-c", &old]));
        until("it waits", || sandbox.slot("job")["waiters"] == 1);
        holder.wrapper.send(Signal::SIGKILL);
        holder.wrapper.wait();
        let outcome = waiter.finish();
        assert_eq!(outcome.code(), 0, "{outcome:?}");
        // What the next command saw of the old one, as its very first act.
        if let Some(stat) = Stat::parse(&outcome.stdout) {
            assert!(stat.is_ending(), "round {round}: {}", outcome.stdout);
        }
    }
}

/// What the command has started itself dies only if the command sees to it; but as long as
/// it has the descriptor that it inherited, an on-death table keeps the lock for it.
#[test]
fn what_the_command_left_running_keeps_the_lock_of_an_on_death_table() {
    let sandbox = Sandbox::new();
    sandbox.ok(&["create", "--reclaim", "on-death", "test.table"]);
    let script = "sleep 1000 >/dev/null 2>&1 & echo $!; wait";
    let mut holder = sandbox.hold_with(&[], "job", script);
    let left: u32 = holder.wrapper.line().parse().expect("a PID");
    let left = Identity::of(left);
    holder.wrapper.send(Signal::SIGKILL);
    holder.wrapper.wait();
    until("the command is gone", || holder.command.is_gone());
    let busy = sandbox.run(&["run", "-w", "0.3", "job", "--", "true"]);
    assert_eq!(busy.code(), 124, "{busy:?}");

    assert!(!left.is_gone());
    kill(Pid::from_raw(left.pid as i32), Signal::SIGKILL).expect("a signal is sent");
    let previous = sandbox.ok(&["run", "job", "--", "printenv", "CASLOCK_PREVIOUS"]);
    assert_eq!(previous, "died\n");
}

/// A background process that the command leaves behind in an orderly way is no reason to
/// keep the lock: as with flock(1) one may want just that, but here the end of the command
/// is the end of the hold.
#[test]
fn the_end_of_the_command_releases_whatever_it_left_running() {
    let sandbox = Sandbox::new();
    let script = "sleep 1000 >/dev/null 2>&1 & echo $!";
    let out = sandbox.ok(&["run", "job", "--", "sh", "-c", script]);
    let left = Identity::of(out.trim_end().parse().expect("a PID"));
    let previous = sandbox.ok(&["run", "-n", "job", "--", "printenv", "CASLOCK_PREVIOUS"]);
    assert_eq!(previous, "released\n");
    assert!(!left.is_gone());
    kill(Pid::from_raw(left.pid as i32), Signal::SIGKILL).expect("a signal is sent");
}

/// Kills wrappers at random moments of their lives, their start and end included: no two
/// commands are ever seen to overlap, and no lock stays behind.
#[test]
fn commands_never_overlap_whenever_their_wrappers_are_killed() {
    let sandbox = Sandbox::new();
    // mkdir fails if another command is inside. A killed command leaves its directory,
    // which its successor, told of its death, takes over.
    let script = "[ $CASLOCK_PREVIOUS = died ] && rm -rf inside
        mkdir inside || { echo overlap >>overlap; exit 3; }
        echo >>count; rmdir inside";
    let mut killed = 0;
    for round in 0_u64..150 {
        let args = ["run", "job", "--", "sh", "-c", script];
        let mut wrapper = sandbox.start(sandbox.caslock(&args));
        if round % 3 != 0 {
            std::thread::sleep(std::time::Duration::from_micros(round * 97 % 6000));
            if wrapper.is_running() {
                wrapper.send(Signal::SIGKILL);
                killed += 1;
            }
        }
        wrapper.wait();
        assert!(!sandbox.path().join("overlap").exists(), "round {round}");
    }
    assert!(killed > 20, "only {killed} were killed while they ran");
    sandbox.ok(&["run", "job", "--", "sh", "-c", script]);
    let finished = fs::read_to_string(sandbox.path().join("count")).expect("a count");
    assert!(
        finished.lines().count() >= 51,
        "{}",
        finished.lines().count()
    );
}
