//! What was measured, one figure a row: the CSV, and all that is drawn from it.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::Failure;
use crate::stats::Sample;

/// One figure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Which measurement.
    pub workload: String,
    /// Which variant of it, or nothing.
    pub case: String,
    /// How many processes took part, or 0 where that is not the question.
    pub processes: u32,
    /// A section in nanoseconds, resident bytes, slots; what the workload varies, or 0.
    pub size: u64,
    /// The key of what was measured.
    pub peer: String,
    /// What of it.
    pub metric: String,
    /// In what.
    pub unit: String,
    /// The median; nothing if it could not be measured.
    pub value: Option<f64>,
    /// Below which a tenth of the measurements lie.
    pub low: Option<f64>,
    /// Above which a tenth of them lie.
    pub high: Option<f64>,
    /// How many measurements.
    pub measurements: usize,
    /// Why there is no figure.
    pub note: String,
}

impl Row {
    /// A figure of a sample.
    #[must_use]
    pub fn new(workload: &str, peer: &str, metric: &str, unit: &str, sample: &Sample) -> Self {
        Self {
            value: Some(sample.median()),
            low: Some(sample.quantile(0.1)),
            high: Some(sample.quantile(0.9)),
            measurements: sample.len(),
            ..Self::missing(workload, peer, metric, unit, "")
        }
    }

    /// No figure, and why.
    #[must_use]
    pub fn missing(workload: &str, peer: &str, metric: &str, unit: &str, why: &str) -> Self {
        Self {
            workload: workload.into(),
            case: String::new(),
            processes: 0,
            size: 0,
            peer: peer.into(),
            metric: metric.into(),
            unit: unit.into(),
            value: None,
            low: None,
            high: None,
            measurements: 0,
            note: why.into(),
        }
    }

    /// The same row, of a variant.
    #[must_use]
    pub fn case(mut self, case: &str) -> Self {
        self.case = case.into();
        self
    }

    /// The same row, of so many processes.
    #[must_use]
    pub fn processes(mut self, processes: u32) -> Self {
        self.processes = processes;
        self
    }

    /// The same row, of this size.
    #[must_use]
    pub fn size(mut self, size: u64) -> Self {
        self.size = size;
        self
    }
}

/// Writes the CSV.
///
/// # Errors
/// What the kernel answers.
pub fn write(path: &Path, rows: &[Row]) -> Result<(), Failure> {
    let mut csv = csv::Writer::from_path(path)?;
    for row in rows {
        csv.serialize(row)?;
    }
    Ok(csv.flush()?)
}

/// Reads the CSV.
///
/// # Errors
/// That there is none, or that it is not one of these.
pub fn read(path: &Path) -> Result<Vec<Row>, Failure> {
    let rows: Result<_, _> = csv::Reader::from_path(path)?.deserialize().collect();
    Ok(rows?)
}

/// Prints rows as they are, for the programs that measure one thing.
pub fn print(rows: &[Row]) {
    println!(
        "{:<22} {:<32} {:>6} {:>12} {:>10} {:>10} {:>10}  unit",
        "", "", "procs", "size", "median", "10%", "90%"
    );
    for row in rows {
        let what = [row.case.as_str(), row.metric.as_str()].join(" ");
        let figure = |value: Option<f64>| value.map_or_else(|| "-".into(), figure);
        println!(
            "{:<22} {:<32} {:>6} {:>12} {:>10} {:>10} {:>10}  {} {}",
            row.peer,
            what.trim(),
            row.processes,
            row.size,
            figure(row.value),
            figure(row.low),
            figure(row.high),
            row.unit,
            row.note,
        );
    }
}

/// A number with three digits that mean something.
#[must_use]
pub fn figure(value: f64) -> String {
    let size = value.abs();
    match size {
        0.0 => "0".into(),
        ..0.000_1 => format!("{value:.1e}"),
        ..0.01 => format!("{value:.5}"),
        ..1.0 => format!("{value:.3}"),
        ..10.0 => format!("{value:.2}"),
        ..100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}
