//! What came of the kills of one operation.

use std::fmt;
use std::time::Duration;

/// The figures of one operation.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) operation: String,
    /// How many instructions it takes, or all its variants together.
    pub(super) instructions: usize,
    pub(super) kills: usize,
    /// Victims that took another way and came to their end before they were killed.
    pub(super) strayed: usize,
    pub(super) recovered: usize,
    pub(super) double_owners: usize,
    pub(super) wedged: usize,
    /// Distinct states of the file that it passes.
    pub(super) images: usize,
    pub(super) images_recovered: usize,
    pub(super) slowest: Duration,
    failures: Vec<String>,
}

/// What is wrong after a kill.
#[derive(Debug)]
pub(super) enum Fault {
    /// Two owned the lock.
    DoubleOwner(String),
    /// Nobody gets the lock any more.
    Wedged(String),
    /// Something else.
    Other(String),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DoubleOwner(what) => write!(f, "two owners: {what}"),
            Self::Wedged(what) => write!(f, "wedged: {what}"),
            Self::Other(what) => f.write_str(what),
        }
    }
}

/// Judges one thing that must be so.
pub(super) fn check(is_so: bool, what: impl FnOnce() -> String) -> Result<(), Fault> {
    if is_so {
        Ok(())
    } else {
        Err(Fault::Other(what()))
    }
}

impl Tally {
    pub(super) const HEAD: &'static str = concat!(
        "| operation | instructions | killed | strayed | recovered | double owners ",
        "| wedged | images | recovered | slowest |\n",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    );

    pub(super) fn new(operation: impl Into<String>) -> Self {
        let operation = operation.into();
        Self {
            operation,
            ..Self::default()
        }
    }

    /// After a kill at an instruction.
    pub(super) fn count(&mut self, at: usize, outcome: Result<Duration, Fault>) {
        self.kills += 1;
        match outcome {
            Ok(took) => {
                self.recovered += 1;
                self.slowest = self.slowest.max(took);
            }
            Err(fault) => self.fail(format_args!("instruction {at}"), &fault),
        }
    }

    /// After the recovery from an image.
    pub(super) fn count_image(&mut self, nth: usize, outcome: Result<Duration, Fault>) {
        self.images += 1;
        match outcome {
            Ok(_) => self.images_recovered += 1,
            Err(fault) => self.fail(format_args!("image {nth}"), &fault),
        }
    }

    fn fail(&mut self, place: fmt::Arguments<'_>, fault: &Fault) {
        /// The first few tell enough.
        const SHOWN: usize = 5;
        self.double_owners += usize::from(matches!(fault, Fault::DoubleOwner(_)));
        self.wedged += usize::from(matches!(fault, Fault::Wedged(_)));
        let failure = format!("{}, {place}: {fault}", self.operation);
        if self.failures.len() < SHOWN {
            eprintln!("{failure}");
        }
        self.failures.push(failure);
    }

    pub(super) fn is_clean(&self) -> bool {
        self.failures.is_empty() && self.kills > 0
    }

    /// As a line of JSON.
    pub(super) fn row(&self) -> serde_json::Value {
        serde_json::json!({
            "campaign": "instructions",
            "clean": self.is_clean(),
            "operation": self.operation,
            "instructions": self.instructions,
            "kill_points": self.kills,
            "strayed": self.strayed,
            "recovered": self.recovered,
            "double_owners": self.double_owners,
            "wedged": self.wedged,
            "images": self.images,
            "images_recovered": self.images_recovered,
            "slowest_us": u64::try_from(self.slowest.as_micros()).unwrap_or(u64::MAX),
            "failures": self.failures,
        })
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {:.1} ms |",
            self.operation,
            self.instructions,
            self.kills,
            self.strayed,
            self.recovered,
            self.double_owners,
            self.wedged,
            self.images,
            self.images_recovered,
            self.slowest.as_secs_f64() * 1e3,
        )
    }
}
