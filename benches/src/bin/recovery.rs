//! From SIGKILL of the holder to the next grant: caslock, a robust mutex and flock, for a
//! small holder and for one with 1 GiB resident.
//!
//! ```text
//! cargo run --release -p caslock-bench --bin recovery [-- ROUNDS]
//! ```
//!
//! The holder is another process. This one blocks on the lock while a second thread of it
//! kills the holder; measured is from just before kill(2) to the return of the blocked call.
//! The peers take turns. A lock that ought to tell of the death and does not fails the run.

use std::error::Error;
use std::hint::black_box;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, io, thread};

use caslock::{LockTable, Previous};
use caslock_bench::memory_dir;
use caslock_bench::peers::{Flock, Kind, PthreadMutex, Taken};
use caslock_bench::stats::{Sample, as_nanoseconds, machine, nanoseconds};

/// Time for this process to be asleep on the lock before the kill.
const SETTLE: Duration = Duration::from_millis(50);
const SIZES: [(&str, usize); 2] = [("small", 0), ("1 GiB", 1 << 30)];

type Failure = Box<dyn Error>;

fn main() -> Result<(), Failure> {
    let args: Vec<String> = env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["--hold", peer, path, bytes] => hold(Peer::parse(peer)?, Path::new(path), bytes.parse()?),
        [] => measure(15),
        [rounds] => measure(rounds.parse()?),
        _ => Err("usage: recovery [ROUNDS]".into()),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Peer {
    Caslock,
    Robust,
    Flock,
}

impl Peer {
    const ALL: [Self; 3] = [Self::Caslock, Self::Robust, Self::Flock];

    fn name(self) -> &'static str {
        match self {
            Self::Caslock => "caslock",
            Self::Robust => "pthread robust mutex",
            Self::Flock => "flock",
        }
    }

    fn parse(name: &str) -> Result<Self, Failure> {
        let peer = Self::ALL.into_iter().find(|peer| peer.name() == name);
        Ok(peer.ok_or("no such peer")?)
    }
}

// ---- the holder's process ------------------------------------------------------------

fn hold(peer: Peer, path: &Path, bytes: usize) -> Result<(), Failure> {
    // Every page written, so that it is resident and has to be torn down.
    let memory = black_box(vec![1u8; bytes]);
    match peer {
        Peer::Caslock => {
            let table = LockTable::open(path)?;
            let lock = table.lock("recovery")?;
            let guard = lock.acquire()?;
            until_killed()?;
            guard.release()?;
        }
        Peer::Robust => {
            let mutex = PthreadMutex::open(path)?;
            mutex.lock();
            until_killed()?;
            mutex.unlock();
        }
        Peer::Flock => {
            let file = Flock::open(path)?;
            file.lock();
            until_killed()?;
            file.unlock();
        }
    }
    drop(memory);
    Ok(())
}

/// Says that the lock is held; returns only if the measuring process is gone.
fn until_killed() -> io::Result<usize> {
    println!("held");
    io::stdin().read_to_end(&mut Vec::new())
}

// ---- the measuring process -----------------------------------------------------------

/// A lock as the one who waits sees it.
enum Waiter {
    Caslock(LockTable),
    Robust(PthreadMutex),
    Flock(Flock),
}

impl Waiter {
    fn create(peer: Peer, path: &Path) -> Result<Self, Failure> {
        Ok(match peer {
            Peer::Caslock => Self::Caslock(LockTable::open(path)?),
            Peer::Robust => Self::Robust(PthreadMutex::create(path, Kind::Robust)?),
            Peer::Flock => Self::Flock(Flock::open(path)?),
        })
    }

    /// Blocks until the lock is granted, says when that was, and gives it back.
    fn wait(&self, dead: u32) -> Result<Instant, Failure> {
        match self {
            Self::Caslock(table) => {
                let lock = table.lock("recovery")?;
                let guard = lock.acquire()?;
                let granted = Instant::now();
                if !matches!(guard.previous(), Previous::Died(who) if who.pid == dead) {
                    return Err(format!("told {:?}, not that {dead} died", guard.previous()).into());
                }
                guard.release()?;
                Ok(granted)
            }
            Self::Robust(mutex) => {
                let taken = mutex.lock();
                let granted = Instant::now();
                mutex.unlock();
                if taken == Taken::OwnerDied {
                    Ok(granted)
                } else {
                    Err("not told".into())
                }
            }
            Self::Flock(file) => {
                file.lock();
                let granted = Instant::now();
                file.unlock();
                Ok(granted)
            }
        }
    }
}

/// The holder's process; killed and reaped if it still runs when dropped.
struct Holder(Child);

impl Holder {
    fn start(peer: Peer, path: &Path, bytes: usize) -> Result<Self, Failure> {
        let mut child = Command::new(env::current_exe()?)
            .args(["--hold", peer.name()])
            .arg(path)
            .arg(bytes.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let output = child.stdout.take().ok_or("no pipe")?;
        let holder = Self(child);
        let line = BufReader::new(output)
            .lines()
            .next()
            .ok_or("the holder ended early")??;
        if line == "held" {
            Ok(holder)
        } else {
            Err("the holder failed".into())
        }
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // Fails only for a child that has ended, which is what is wanted.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// One kill; in nanoseconds.
fn kill_once(waiter: &Waiter, peer: Peer, path: &Path, bytes: usize) -> Result<f64, Failure> {
    let mut holder = Holder::start(peer, path, bytes)?;
    let pid = holder.0.id();
    let (killed, granted) = thread::scope(|scope| {
        let killer = scope.spawn(|| {
            thread::sleep(SETTLE);
            let before = Instant::now();
            holder.0.kill().map(|()| before)
        });
        let granted = waiter.wait(pid);
        (killer.join(), granted)
    });
    let killed = killed.map_err(|_| "the killing thread panicked")??;
    let granted = granted?;
    if granted < killed {
        return Err(format!("{} was granted while its holder lived", peer.name()).into());
    }
    Ok(as_nanoseconds(granted - killed))
}

fn measure(rounds: u32) -> Result<(), Failure> {
    let dir = memory_dir()?;
    let path = |peer: Peer| dir.path().join(peer.name().replace(' ', "-"));
    let mut waiters = Vec::new();
    for peer in Peer::ALL {
        waiters.push((peer, Waiter::create(peer, &path(peer))?));
    }
    println!("{}; {rounds} rounds\n", machine());
    println!(
        "{:<22} {:>7}  {:>9}  {:>9}  {:>9}",
        "SIGKILL to next grant", "holder", "median", "least", "most"
    );
    for (size, bytes) in SIZES {
        let mut taken = [const { Vec::new() }; Peer::ALL.len()];
        for _ in 0..rounds.max(1) {
            for ((peer, waiter), taken) in waiters.iter().zip(&mut taken) {
                taken.push(kill_once(waiter, *peer, &path(*peer), bytes)?);
            }
        }
        for (peer, taken) in Peer::ALL.into_iter().zip(taken) {
            let taken = Sample::new(taken);
            println!(
                "{:<22} {size:>7}  {:>9}  {:>9}  {:>9}",
                peer.name(),
                nanoseconds(taken.median()),
                nanoseconds(taken.quantile(0.0)),
                nanoseconds(taken.quantile(1.0)),
            );
        }
    }
    Ok(())
}
