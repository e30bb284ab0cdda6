//! Worker processes: this very program, started again as often as a workload wants.
//!
//! They share a page of control words with the one that measures: it says which phase it is,
//! they say how many are ready. What they measured, each writes into a file of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use std::{env, thread};

use rustix::process::{Signal, set_parent_process_death_signal};

use crate::peers::Page;
use crate::{Failure, contend, crash, handover, idle, instructions, many, names};

/// The first argument of a worker.
pub(crate) const WORKER: &str = "--worker";

/// No phase takes longer to begin or to end, on the slowest machine, unless a worker hangs.
const PATIENCE: Duration = Duration::from_secs(60);

// Each word on a cache line of its own.
const PHASE: usize = 0;
const READY: usize = 16;
const SHARED: usize = 32;
const MAIL: usize = 48;
const WORDS: usize = 512;

/// What the workers are to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u64)]
pub enum Phase {
    /// Say that they are there, and wait.
    Gather,
    /// Work, without counting.
    WarmUp,
    /// Work and count.
    Measure,
    /// Write what was counted, and end.
    Stop,
}

/// The control page as a worker sees it.
#[derive(Debug)]
pub struct Control(Page);

impl Control {
    fn open(dir: &Path) -> Result<Self, Failure> {
        Ok(Self(Page::open(&dir.join("control"), WORDS)?))
    }

    /// Which phase it is. One load, of a line that nobody writes meanwhile.
    #[inline]
    #[must_use]
    pub fn phase(&self) -> Phase {
        // Acquire, with the Release store of `Crew::begin`.
        match self.0.word(PHASE).load(Ordering::Acquire) {
            0 => Phase::Gather,
            1 => Phase::WarmUp,
            2 => Phase::Measure,
            _ => Phase::Stop,
        }
    }

    /// Counts one up, protected only by the lock under measure: loaded before the section and
    /// stored after it, so that an update is lost whenever two sections overlap.
    #[inline]
    pub fn count_around(&self, section: impl FnOnce()) {
        let count = self.0.word(SHARED);
        let before = count.load(Ordering::Relaxed);
        section();
        count.store(before + 1, Ordering::Relaxed);
    }

    /// A word that the workers of a workload use between themselves, of eight.
    #[must_use]
    pub fn mail(&self, index: usize) -> &AtomicU64 {
        assert!(index < 8, "no such word");
        self.0.word(MAIL + 16 * index)
    }

    /// Says that this worker is ready, and waits for the work to begin.
    pub fn ready(&self) {
        self.0.word(READY).fetch_add(1, Ordering::AcqRel);
        while self.phase() == Phase::Gather {
            thread::sleep(Duration::from_micros(200));
        }
    }
}

/// Worker processes; those that still run are killed when this is dropped.
#[derive(Debug)]
pub struct Crew {
    control: Control,
    dir: PathBuf,
    children: Vec<Child>,
}

impl Crew {
    /// Starts so many workers of a workload, and waits until all are ready. `dir` is where
    /// the peer lives; `arguments` are the workload's own.
    ///
    /// # Errors
    /// That a process could not be started, or ended early.
    pub fn start(
        dir: &Path,
        count: u32,
        workload: &str,
        arguments: &[String],
    ) -> Result<Self, Failure> {
        let control_file = dir.join("control");
        if control_file.exists() {
            fs::remove_file(&control_file)?;
        }
        let mut crew = Self {
            control: Control::open(dir)?,
            dir: dir.to_path_buf(),
            children: Vec::new(),
        };
        for index in 0..count {
            let child = Command::new(env::current_exe()?)
                .args([WORKER, workload])
                .arg(dir)
                .arg(index.to_string())
                .args(arguments)
                .stdin(Stdio::null())
                .spawn()?;
            crew.children.push(child);
        }
        let begun = Instant::now();
        while crew.control.0.word(READY).load(Ordering::Acquire) < u64::from(count) {
            for child in &mut crew.children {
                if let Some(status) = child.try_wait()? {
                    return Err(format!("a worker of {workload} ended early: {status}").into());
                }
            }
            if begun.elapsed() > PATIENCE {
                return Err(format!("the workers of {workload} do not get ready").into());
            }
            thread::sleep(Duration::from_millis(1));
        }
        Ok(crew)
    }

    /// Begins a phase, and says when that was.
    pub fn begin(&self, phase: Phase) -> Instant {
        self.control
            .0
            .word(PHASE)
            .store(phase as u64, Ordering::Release);
        Instant::now()
    }

    /// Kills one of the workers.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn kill(&mut self, index: usize) -> Result<(), Failure> {
        Ok(self.children[index].kill()?)
    }

    /// The count that only the lock protected.
    #[must_use]
    pub fn unprotected_count(&self) -> u64 {
        self.control.0.word(SHARED).load(Ordering::Acquire)
    }

    /// Waits until every worker has ended, and reads what each wrote.
    ///
    /// # Errors
    /// That one failed, or hangs.
    pub fn finish(&mut self) -> Result<Vec<String>, Failure> {
        let begun = Instant::now();
        for child in &mut self.children {
            loop {
                match child.try_wait()? {
                    Some(status) if status.success() => break,
                    Some(status) => return Err(format!("a worker failed: {status}").into()),
                    None if begun.elapsed() > PATIENCE => return Err("a worker hangs".into()),
                    None => thread::sleep(Duration::from_millis(1)),
                }
            }
        }
        (0..self.children.len())
            .map(|index| Ok(fs::read_to_string(output(&self.dir, index))?))
            .collect()
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        for child in &mut self.children {
            // Fails only for one that has ended, which is what is wanted.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn output(dir: &Path, index: usize) -> PathBuf {
    dir.join(format!("worker-{index}"))
}

/// What a worker was told.
#[derive(Debug)]
pub struct Worker {
    /// Where the peer lives.
    pub dir: PathBuf,
    /// Which of the workers this is, from 0.
    pub index: usize,
    /// The control page.
    pub control: Control,
    /// The workload's own arguments.
    pub arguments: Vec<String>,
}

impl Worker {
    /// One of the workload's own arguments.
    ///
    /// # Errors
    /// That it is missing or malformed.
    pub fn argument<T: std::str::FromStr>(&self, index: usize) -> Result<T, Failure> {
        let text = self.arguments.get(index).ok_or("a worker's argument")?;
        text.parse()
            .map_err(|_| format!("a worker's argument: {text}").into())
    }

    /// Hands over what was measured.
    ///
    /// # Errors
    /// What the kernel answers.
    pub fn report(&self, text: &str) -> Result<(), Failure> {
        Ok(fs::write(output(&self.dir, self.index), text)?)
    }
}

/// Does a worker's work and ends the process, if this process was started as a worker.
pub fn work_if_worker() {
    let mut arguments = env::args().skip(1);
    if arguments.next().as_deref() != Some(WORKER) {
        return;
    }
    if let Err(error) = work(arguments) {
        eprintln!("a worker failed: {error}");
        std::process::exit(1);
    }
    std::process::exit(0);
}

fn work(mut arguments: impl Iterator<Item = String>) -> Result<(), Failure> {
    // Should the measuring process be killed, nobody is left over to burn the processor.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let workload = arguments.next().ok_or("no workload")?;
    let dir = PathBuf::from(arguments.next().ok_or("no directory")?);
    let index = arguments.next().ok_or("no index")?.parse()?;
    let control = Control::open(&dir)?;
    let worker = Worker {
        dir,
        index,
        control,
        arguments: arguments.collect(),
    };
    match workload.as_str() {
        contend::WORKLOAD => contend::work(&worker),
        crash::WORKLOAD => crash::work(&worker),
        handover::WORKLOAD => handover::work(&worker),
        idle::WORKLOAD => idle::work(&worker),
        instructions::WORKLOAD => instructions::work(&worker),
        many::WORKLOAD => many::work(&worker),
        names::WORKLOAD => names::work(&worker),
        other => Err(format!("no such workload: {other}").into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_sections_that_overlap_one_update_is_lost() {
        let dir = tempfile::tempdir().expect("a directory");
        let control = Control::open(dir.path()).expect("the page");
        let count = || control.0.word(SHARED).load(Ordering::Relaxed);
        control.count_around(|| {});
        control.count_around(|| assert_eq!(count(), 1));
        assert_eq!(count(), 2);
        control.count_around(|| control.count_around(|| {}));
        assert_eq!(count(), 3);
    }
}
