//! A large table: resolving a name, creating one, attaching, and what it takes of memory.

use std::fs;
use std::hint::black_box;
use std::path::Path;
use std::time::{Duration, Instant};

use caslock::LockTable;

use crate::crew::{Crew, Phase, Worker};
use crate::draw::Draws;
use crate::rows::Row;
use crate::stats::{Sample, as_nanoseconds};
use crate::{Failure, memory_dir};

/// The workload's name, for a worker and in the CSV.
pub const WORKLOAD: &str = "names";

/// Of the table that is nine tenths full.
pub const SLOTS: u32 = 1 << 20;
/// What the file format gives a name and its note.
const NAME_BYTES: f64 = 384.0;
/// Names that are looked up again and again.
const WARM: usize = 1000;
/// Names to a batch of creations.
const BATCH: usize = 64;

/// Measures a table of so many slots.
///
/// # Errors
/// What caslock or the kernel answers.
pub fn measure(slots: u32, rounds: u32) -> Result<Vec<Row>, Failure> {
    let dir = memory_dir()?;
    let path = dir.path().join("app.table");
    LockTable::options().slots(slots).create(&path)?;
    let table = LockTable::open(&path)?;
    let row = |metric, unit, values| {
        let sample = Sample::new(values);
        Row::new(WORKLOAD, "caslock", metric, unit, &sample).size(slots.into())
    };
    let created = create(&table, slots as usize / 10 * 9)?;
    let mut rows = vec![row("create", "ns", created)];
    rows.push(row(
        "resolve",
        "ns",
        resolve(&table, slots as usize / 10 * 9, rounds)?,
    ));
    drop(table);

    let mut attached = Vec::new();
    let mut resident = Vec::new();
    for _ in 0..rounds.clamp(1, 25) {
        let mut crew = Crew::start(dir.path(), 1, WORKLOAD, &[])?;
        crew.begin(Phase::Measure);
        let reports = crew.finish()?;
        let (ns, bytes) = reports[0].split_once(' ').ok_or("a worker's report")?;
        attached.push(ns.parse::<f64>()? / 1e3);
        resident.push(bytes.parse::<f64>()? / 1024.0);
    }
    rows.push(row("attach", "us", attached));
    rows.push(row("resident after attach", "KiB", resident));

    let larger = dir.path().join("larger.table");
    let smaller = dir.path().join("smaller.table");
    LockTable::options().slots(slots / 4).create(&larger)?;
    LockTable::options().slots(slots / 8).create(&smaller)?;
    let more = fs::metadata(&larger)?.len() - fs::metadata(&smaller)?.len();
    let each = more as f64 / f64::from(slots / 8);
    rows.push(row(
        "bytes a slot, name apart",
        "bytes",
        vec![each - NAME_BYTES],
    ));
    rows.push(row("bytes a slot, name included", "bytes", vec![each]));
    Ok(rows)
}

/// Creates so many names; the figures are of the last tenth, batch by batch.
fn create(table: &LockTable, count: usize) -> Result<Vec<f64>, Failure> {
    for name in 0..count / 10 * 9 {
        table.lock(format!("name-{name}"))?;
    }
    let rest: Vec<String> = (count / 10 * 9..count)
        .map(|name| format!("name-{name}"))
        .collect();
    rest.chunks_exact(BATCH)
        .map(|batch| {
            let begun = Instant::now();
            for name in batch {
                black_box(table.lock(name)?);
            }
            Ok(as_nanoseconds(begun.elapsed()) / BATCH as f64)
        })
        .collect()
}

/// Resolves names that are warm in the caches, the dropping of the handle included.
fn resolve(table: &LockTable, count: usize, rounds: u32) -> Result<Vec<f64>, Failure> {
    let mut draws = Draws::new(1);
    let names: Vec<String> = (0..WARM)
        .map(|_| format!("name-{}", draws.below(count)))
        .collect();
    let mut taken = Vec::new();
    for round in 0..rounds + 3 {
        let begun = Instant::now();
        for name in &names {
            black_box(table.lock(name)?);
        }
        // The first rounds warm.
        if round >= 3 {
            taken.push(as_nanoseconds(begun.elapsed()) / WARM as f64);
        }
    }
    Ok(taken)
}

/// A worker's side: a process that attaches, resolves one name, and looks at its memory.
///
/// # Errors
/// What caslock or the kernel answers.
pub fn work(worker: &Worker) -> Result<(), Failure> {
    let path = worker.dir.join("app.table");
    worker.control.ready();
    let begun = Instant::now();
    let table = LockTable::options().open_existing(&path)?;
    let took: Duration = begun.elapsed();
    let lock = table.lock("name-1")?;
    drop(lock.acquire()?);
    let resident = resident_bytes(&path)?;
    worker.report(&format!("{} {resident}", took.as_nanos()))
}

/// How much of a file this process has mapped and touched.
fn resident_bytes(path: &Path) -> Result<u64, Failure> {
    let path = path.to_str().ok_or("a path in UTF-8")?;
    let maps = fs::read_to_string("/proc/self/smaps")?;
    let (mut ours, mut kib) = (false, 0);
    for line in maps.lines() {
        let mut words = line.split_ascii_whitespace();
        match words.next() {
            Some("Rss:") if ours => kib += words.next().ok_or("smaps")?.parse::<u64>()?,
            Some(first) if !first.ends_with(':') => ours = line.ends_with(path),
            _ => {}
        }
    }
    Ok(kib * 1024)
}
