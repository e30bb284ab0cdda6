//! Instructions of an uncontended pair: a figure that no noise moves.
//!
//! A worker stops itself before and after a loop of pairs, and the measuring process lets it
//! go on one instruction at a time. What a longer loop takes more than a shorter one, for
//! each further pair, is the pair. Instructions of the kernel are not among them, and Redis is
//! left out: its work is done by another process.

use std::env;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sys::ptrace;
use nix::sys::signal::{Signal, raise};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::crew::{WORKER, Worker};
use crate::peers::{Name, Peer, Visitor};
use crate::rows::Row;
use crate::stats::Sample;
use crate::{Failure, memory_dir};

/// The workload's name, for a worker and in the CSV.
pub const WORKLOAD: &str = "instructions";

const FEW: u32 = 10;
const MANY: u32 = 110;

/// Counts the instructions of these locks' pairs.
///
/// # Errors
/// What has nothing to do with a single peer; that one cannot be measured is a row.
pub fn measure(peers: &[Name]) -> Result<Vec<Row>, Failure> {
    let row = |&peer: &Name| {
        let counted = memory_dir().map_err(Failure::from).and_then(|dir| {
            peer.dispatch(Count {
                peer,
                dir: dir.path(),
            })
        });
        match counted {
            Ok(each) => {
                let sample = Sample::new(vec![each]);
                Row::new(WORKLOAD, peer.key(), "pair", "instructions", &sample)
            }
            Err(why) => {
                let why = why.to_string();
                Row::missing(WORKLOAD, peer.key(), "pair", "instructions", &why)
            }
        }
    };
    let here = peers.iter().filter(|peer| **peer != Name::Redis);
    Ok(here.map(row).collect())
}

struct Count<'a> {
    peer: Name,
    dir: &'a Path,
}

impl Visitor for Count<'_> {
    type Output = Result<f64, Failure>;

    fn visit<P: Peer>(self) -> Self::Output {
        let _made = P::create(self.dir)?;
        let child = Command::new(env::current_exe()?)
            .args([WORKER, WORKLOAD])
            .arg(self.dir)
            .args(["0", self.peer.key()])
            .stdin(Stdio::null())
            .spawn()?;
        let child = Stepped(child);
        let few = child.until_stopped()?.steps()?;
        let many = child.steps()?;
        Ok((many - few) as f64 / f64::from(MANY - FEW))
    }
}

/// A process that is traced; killed and reaped when this is dropped.
struct Stepped(Child);

impl Stepped {
    fn pid(&self) -> Pid {
        Pid::from_raw(self.0.id() as i32)
    }

    fn until_stopped(&self) -> Result<&Self, Failure> {
        match waitpid(self.pid(), None)? {
            WaitStatus::Stopped(_, Signal::SIGSTOP) => Ok(self),
            other => Err(format!("the traced process: {other:?}").into()),
        }
    }

    /// How many instructions it takes to the next stop.
    fn steps(&self) -> Result<u64, Failure> {
        let mut steps = 0;
        loop {
            ptrace::step(self.pid(), None)?;
            match waitpid(self.pid(), None)? {
                WaitStatus::Stopped(_, Signal::SIGTRAP) => steps += 1,
                WaitStatus::Stopped(_, Signal::SIGSTOP) => return Ok(steps),
                other => return Err(format!("the traced process: {other:?}").into()),
            }
        }
    }
}

impl Drop for Stepped {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The worker's side.
///
/// # Errors
/// What a peer or the kernel answers.
pub fn work(worker: &Worker) -> Result<(), Failure> {
    let key: String = worker.argument(0)?;
    let peer = <Name as clap::ValueEnum>::from_str(&key, false)?;
    peer.dispatch(Work { worker })
}

struct Work<'a> {
    worker: &'a Worker,
}

impl Visitor for Work<'_> {
    type Output = Result<(), Failure>;

    fn visit<P: Peer>(self) -> Self::Output {
        let peer = P::open(&self.worker.dir)?;
        // What is done once in a process is done by then.
        pairs(&peer, FEW);
        ptrace::traceme()?;
        raise(Signal::SIGSTOP)?;
        pairs(&peer, FEW);
        raise(Signal::SIGSTOP)?;
        pairs(&peer, MANY);
        raise(Signal::SIGSTOP)?;
        Ok(())
    }
}

#[inline(never)]
fn pairs<P: Peer>(peer: &P, count: u32) {
    for _ in 0..count {
        drop(peer.take());
    }
}
