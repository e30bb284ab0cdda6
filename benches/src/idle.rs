//! What it costs to be attached to a table and do nothing: the keeper's heartbeats.

use std::thread;
use std::time::Duration;

use caslock::LockTable;
use rustix::time::{ClockId, clock_gettime};

use crate::crew::{Crew, Phase, Worker};
use crate::rows::Row;
use crate::stats::Sample;
use crate::{Failure, memory_dir};

/// The workload's name, for a worker and in the CSV.
pub const WORKLOAD: &str = "idle";

/// Measures so many processes at once, each attached to a table of its own making.
const PROCESSES: u32 = 4;

/// Measures for so long, at the default lease.
///
/// # Errors
/// What caslock or the kernel answers.
pub fn measure(time: Duration) -> Result<Vec<Row>, Failure> {
    let dir = memory_dir()?;
    let _table = LockTable::open(dir.path().join("app.table"))?;
    let arguments = [time.as_millis().to_string()];
    let mut crew = Crew::start(dir.path(), PROCESSES, WORKLOAD, &arguments)?;
    crew.begin(Phase::Measure);
    let shares = crew.finish()?.into_iter().map(|report| Ok(report.parse()?));
    let sample = Sample::new(shares.collect::<Result<_, Failure>>()?);
    Ok(vec![
        Row::new(WORKLOAD, "caslock", "share of a core", "%", &sample).processes(PROCESSES),
    ])
}

/// A worker's side.
///
/// # Errors
/// What caslock answers.
pub fn work(worker: &Worker) -> Result<(), Failure> {
    let time = Duration::from_millis(worker.argument(0)?);
    let table = LockTable::open(worker.dir.join("app.table"))?;
    let lock = table.lock("idle")?;
    worker.control.ready();
    let before = processor_seconds();
    thread::sleep(time);
    let spent = processor_seconds() - before;
    drop(lock);
    worker.report(&(100.0 * spent / time.as_secs_f64()).to_string())
}

fn processor_seconds() -> f64 {
    let spent = clock_gettime(ClockId::ProcessCPUTime);
    spent.tv_sec as f64 + spent.tv_nsec as f64 / 1e9
}
