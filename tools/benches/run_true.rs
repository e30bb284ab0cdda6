//! What a wrapper costs: `caslock run NAME true` beside `flock FILE true`, in one run and
//! by turns, so that whatever else the machine does falls on both.

use std::env;
use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const ROUNDS: usize = 500;

fn main() {
    let shm = Path::new("/dev/shm");
    let parent = match shm.is_dir() {
        true => shm.to_owned(),
        false => env::temp_dir(),
    };
    let directory = tempfile::tempdir_in(parent).expect("a temporary directory");
    let table = directory.path().join("bench.table");
    let file = directory.path().join("flock.file");
    File::create(&file).expect("a file to flock");

    let caslock = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_caslock"));
        command
            .arg("--table")
            .arg(&table)
            .args(["run", "bench", "--", "true"]);
        command
    };
    let flock = || {
        let mut command = Command::new("flock");
        command.arg(&file).arg("true");
        command
    };
    if flock().stdin(Stdio::null()).status().is_err() {
        println!("skipped: there is no flock(1) here to compare with");
        return;
    }
    timed(caslock()); // creates the table
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        theirs.push(timed(flock()));
        ours.push(timed(caslock()));
    }
    println!("{ROUNDS} rounds, from spawn to exit");
    print("flock FILE true", theirs);
    print("caslock run NAME true", ours);
}

fn timed(mut command: Command) -> Duration {
    let start = Instant::now();
    let status = command.stdin(Stdio::null()).status().expect("it starts");
    let took = start.elapsed();
    assert!(status.success(), "{command:?}: {status}");
    took
}

fn print(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |percent: usize| times[times.len() * percent / 100].as_secs_f64() * 1e6;
    println!(
        "{what:<22} median {:>6.0} us   best {:>6.0} us   p90 {:>6.0} us",
        at(50),
        at(0),
        at(90)
    );
}
