//! Contention: several processes want the same lock all the time.
//!
//! Each takes it, counts one up without any other protection, works for the length of the
//! section, and gives it back. A cell is a peer, a number of processes and a section; the
//! peers of a cell take turns, round by round, so that the machine's moods fall on all alike.
//!
//! An empty section takes no longer than two looks at a clock, so a round of it has two
//! runs: one for the throughput, without any clock, and one for the waits.

use std::fmt::Write as _;
use std::path::Path;
use std::thread;
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::crew::{Crew, Phase, Worker};
use crate::peers::{Name, Peer, Visitor};
use crate::rows::Row;
use crate::stats::Sample;
use crate::{Failure, memory_dir, ticks};

/// The name by which a worker is told, and of the rows where nobody has anything else to do.
pub const WORKLOAD: &str = "contend";

/// The name of the rows where each process works outside the lock, too.
pub const WORKLOAD_OUTSIDE: &str = "contend, work outside";

/// How long they work there in the suite.
pub const OUTSIDE_NS: u64 = 5_000;

/// The name of the rows where each process works for so long outside.
#[must_use]
pub const fn workload(outside_ns: u64) -> &'static str {
    match outside_ns {
        0 => WORKLOAD,
        _ => WORKLOAD_OUTSIDE,
    }
}

/// What is to be measured.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The locks.
    pub peers: Vec<Name>,
    /// Numbers of processes.
    pub processes: Vec<u32>,
    /// Lengths of the critical section.
    pub sections_ns: Vec<u64>,
    /// How long each process works outside, between a release and the next acquisition.
    pub outside_ns: u64,
    /// How long a run is measured; a fifth of it goes before, to warm up.
    pub run: Duration,
    /// How many runs, or pairs of runs, a cell has.
    pub rounds: u32,
}

/// What came out for one lock, number of processes and section.
#[derive(Debug)]
pub struct Cell {
    /// The lock.
    pub peer: Name,
    /// The number of processes.
    pub processes: u32,
    /// The length of the section.
    pub section_ns: u64,
    /// How long each process works outside.
    pub outside_ns: u64,
    /// Million pairs a second, all processes together, one figure a round.
    pub throughput: Sample,
    /// Its throughput over caslock's of the same round, if that was measured, too.
    pub over_caslock: Option<Sample>,
    /// Pairs of the slowest process over those of the fastest, one figure a round.
    pub fairness: Sample,
    /// How long each acquisition took, in nanoseconds, over all rounds.
    pub waits: Histogram<u64>,
    /// Increments that were lost: how often two were inside at once.
    pub lost_updates: u64,
}

impl Cell {
    /// The cell's figures.
    #[must_use]
    pub fn rows(&self) -> Vec<Row> {
        let row = |metric, unit, sample: &Sample| {
            Row::new(
                workload(self.outside_ns),
                self.peer.key(),
                metric,
                unit,
                sample,
            )
            .processes(self.processes)
            .size(self.section_ns)
        };
        let wait = |metric, ns: u64| row(metric, "ms", &Sample::new(vec![ns as f64 / 1e6]));
        let over_caslock = self.over_caslock.as_ref();
        let mut rows = vec![row("throughput", "M pairs/s", &self.throughput)];
        rows.extend(over_caslock.map(|ratios| row("over caslock", "ratio", ratios)));
        rows.extend([
            row("fairness", "slowest/fastest", &self.fairness),
            wait("wait p50", self.waits.value_at_quantile(0.5)),
            wait("wait p99", self.waits.value_at_quantile(0.99)),
            wait("wait p99.9", self.waits.value_at_quantile(0.999)),
            wait("wait max", self.waits.max()),
            row(
                "lost updates",
                "count",
                &Sample::new(vec![self.lost_updates as f64]),
            ),
        ]);
        rows
    }
}

/// A cell, or why there is none.
pub type Outcome = Result<Cell, (Name, String)>;

/// Measures everything in the plan. `done` is called with each cell as it is complete.
///
/// # Errors
/// What has nothing to do with a single peer; that one cannot be measured is an outcome.
pub fn measure(plan: &Plan, mut done: impl FnMut(&Outcome)) -> Result<Vec<Outcome>, Failure> {
    let steps_per_ns = ticks::steps_per_ns();
    let mut outcomes = Vec::new();
    for &section_ns in &plan.sections_ns {
        let steps_of = |ns| (ns as f64 * steps_per_ns) as u64;
        let steps = Steps {
            inside: steps_of(section_ns),
            outside: steps_of(plan.outside_ns),
        };
        for &processes in &plan.processes {
            let mut gathered: Vec<_> = plan.peers.iter().map(|_| Gathered::new()).collect();
            for round in 0..plan.rounds.max(1) as usize {
                for turn in 0..plan.peers.len() {
                    let index = (round + turn) % plan.peers.len();
                    let load = Load {
                        peer: plan.peers[index],
                        processes,
                        steps,
                        run: plan.run,
                    };
                    gathered[index].round(&load)?;
                }
            }
            let own = plan.peers.iter().position(|peer| *peer == Name::Caslock);
            let own = own.map(|own| gathered[own].throughput.clone());
            for (peer, gathered) in plan.peers.iter().zip(gathered) {
                let outcome = gathered.cell(
                    *peer,
                    processes,
                    section_ns,
                    plan.outside_ns,
                    own.as_deref(),
                );
                done(&outcome);
                outcomes.push(outcome);
            }
        }
    }
    Ok(outcomes)
}

/// One run's parameters.
#[derive(Clone, Copy, Debug)]
struct Load {
    peer: Name,
    processes: u32,
    steps: Steps,
    run: Duration,
}

/// How many steps of work a process does for each grant.
#[derive(Clone, Copy, Debug)]
struct Steps {
    /// With the lock held.
    inside: u64,
    /// Between its release and the next acquisition.
    outside: u64,
}

/// What the rounds of one cell have brought so far.
struct Gathered {
    throughput: Vec<f64>,
    fairness: Vec<f64>,
    waits: Histogram<u64>,
    lost_updates: u64,
    failed: Option<String>,
}

impl Gathered {
    fn new() -> Self {
        Self {
            throughput: Vec::new(),
            fairness: Vec::new(),
            waits: histogram(),
            lost_updates: 0,
            failed: None,
        }
    }

    fn round(&mut self, load: &Load) -> Result<(), Failure> {
        if self.failed.is_some() {
            return Ok(());
        }
        let runs: &[bool] = if load.steps.inside == 0 {
            &[false, true]
        } else {
            &[true]
        };
        for &timed in runs {
            match run(load, timed) {
                Ok(run) => self.add(&run, timed, runs.len() == 1)?,
                Err(error) => {
                    self.failed = Some(error.to_string());
                    break;
                }
            }
        }
        Ok(())
    }

    fn add(&mut self, run: &Run, timed: bool, only: bool) -> Result<(), Failure> {
        self.lost_updates += run.lost_updates;
        if timed {
            self.waits.add(&run.waits)?;
        }
        if !timed || only {
            let pairs = run.pairs.iter().sum::<u64>() as f64;
            let most = run.pairs.iter().max().copied().unwrap_or(0);
            let least = run.pairs.iter().min().copied().unwrap_or(0);
            self.throughput.push(pairs / run.took.as_secs_f64() / 1e6);
            self.fairness.push(least as f64 / most.max(1) as f64);
        }
        Ok(())
    }

    /// `own` is what caslock's rounds have brought.
    fn cell(
        self,
        peer: Name,
        processes: u32,
        section_ns: u64,
        outside_ns: u64,
        own: Option<&[f64]>,
    ) -> Outcome {
        let own = own.filter(|own| own.len() == self.throughput.len());
        match self.failed {
            Some(why) => Err((peer, why)),
            None => Ok(Cell {
                peer,
                processes,
                section_ns,
                outside_ns,
                over_caslock: own.map(|own| Sample::of_ratios(&self.throughput, own)),
                throughput: Sample::new(self.throughput),
                fairness: Sample::new(self.fairness),
                waits: self.waits,
                lost_updates: self.lost_updates,
            }),
        }
    }
}

/// What one run brought.
struct Run {
    took: Duration,
    pairs: Vec<u64>,
    waits: Histogram<u64>,
    lost_updates: u64,
}

fn run(load: &Load, timed: bool) -> Result<Run, Failure> {
    let dir = memory_dir()?;
    load.peer.dispatch(Measure {
        dir: dir.path(),
        load,
        timed,
    })
}

struct Measure<'a> {
    dir: &'a Path,
    load: &'a Load,
    timed: bool,
}

impl Visitor for Measure<'_> {
    type Output = Result<Run, Failure>;

    fn visit<P: Peer>(self) -> Self::Output {
        let Load {
            peer,
            processes,
            steps,
            run,
        } = *self.load;
        let _made = P::create(self.dir)?;
        let arguments = [
            peer.key().to_string(),
            steps.inside.to_string(),
            steps.outside.to_string(),
            self.timed.to_string(),
        ];
        let mut crew = Crew::start(self.dir, processes, WORKLOAD, &arguments)?;
        crew.begin(Phase::WarmUp);
        thread::sleep(run / 5);
        let begun = crew.begin(Phase::Measure);
        thread::sleep(run);
        let took = crew.begin(Phase::Stop) - begun;
        let reports = crew.finish()?;
        let mut all = 0;
        let mut result = Run {
            took,
            pairs: Vec::new(),
            waits: histogram(),
            lost_updates: 0,
        };
        for report in &reports {
            all += read_report(report, &mut result)?;
        }
        result.lost_updates = all.saturating_sub(crew.unprotected_count());
        Ok(result)
    }
}

/// Waits of a nanosecond to a minute, to two digits.
fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000_000, 2).expect("bounds that HdrHistogram has")
}

// ---- the worker's process ------------------------------------------------------------

/// The worker's side of a run.
///
/// # Errors
/// What a peer answers.
pub fn work(worker: &Worker) -> Result<(), Failure> {
    let key: String = worker.argument(0)?;
    let peer = <Name as clap::ValueEnum>::from_str(&key, false)?;
    let steps = Steps {
        inside: worker.argument(1)?,
        outside: worker.argument(2)?,
    };
    if worker.argument(3)? {
        peer.dispatch(Work::<true> { worker, steps })
    } else {
        peer.dispatch(Work::<false> { worker, steps })
    }
}

struct Work<'a, const TIMED: bool> {
    worker: &'a Worker,
    steps: Steps,
}

impl<const TIMED: bool> Visitor for Work<'_, TIMED> {
    type Output = Result<(), Failure>;

    fn visit<P: Peer>(self) -> Self::Output {
        let peer = P::open(&self.worker.dir)?;
        let control = &self.worker.control;
        // In ticks here, and in nanoseconds in the report.
        let mut waits = Histogram::<u64>::new_with_bounds(1, 1 << 40, 2)?;
        control.ready();
        let (mut all, mut before, mut after) = (0_u64, 0, None);
        let scale = ticks::Scale::begin();
        let mut phase = Phase::WarmUp;
        loop {
            let begun = if TIMED { ticks::now() } else { 0 };
            let guard = peer.take();
            let taken = if TIMED { ticks::now() } else { 0 };
            control.count_around(|| ticks::work(self.steps.inside));
            drop(guard);
            ticks::work(self.steps.outside);
            all += 1;
            let now = control.phase();
            // By the phase in which it ended: one that outlasts the warm-up is a wait, too.
            if TIMED && now >= Phase::Measure {
                waits.saturating_record(taken.saturating_sub(begun).max(1));
            }
            if now != phase {
                if phase == Phase::WarmUp {
                    before = all;
                }
                if now == Phase::Stop {
                    after = Some(all);
                }
                phase = now;
            }
            if phase == Phase::Stop {
                break;
            }
        }
        let counted = after.unwrap_or(all) - before;
        let ns_per_tick = scale.ns_per_tick();
        let mut report = format!("{all} {counted}\n");
        for bucket in waits.iter_recorded() {
            let ns = bucket.value_iterated_to() as f64 * ns_per_tick;
            writeln!(report, "{} {}", ns as u64, bucket.count_at_value())?;
        }
        self.worker.report(&report)
    }
}

/// Adds a worker's report, and says how often it had the lock, counted or not.
fn read_report(report: &str, run: &mut Run) -> Result<u64, Failure> {
    let mut lines = report.lines().map(|line| {
        let (left, right) = line.split_once(' ').ok_or("a worker's report")?;
        Ok::<(u64, u64), Failure>((left.parse()?, right.parse()?))
    });
    let (all, counted) = lines.next().ok_or("an empty report")??;
    run.pairs.push(counted);
    for line in lines {
        let (ns, count) = line?;
        run.waits.saturating_record_n(ns.max(1), count);
    }
    Ok(all)
}
