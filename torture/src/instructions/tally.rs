//! What came of the kills of one operation.

use std::collections::BTreeMap;
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
    /// How long the recoveries took, by what told of the death.
    pub(super) news: BTreeMap<News, Times>,
    /// Distinct states of the file that it passes, as a death leaves them.
    pub(super) images: usize,
    pub(super) images_recovered: usize,
    /// Recoveries from files that were copied with their holders alive.
    pub(super) copies: Times,
    pub(super) copies_recovered: usize,
    /// Whether every instruction was a crash point, but for those of the strayed.
    pub(super) is_whole: bool,
    failures: Vec<String>,
}

/// How the survivor could learn of the death.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum News {
    /// It need not: the dead one did not own the lock.
    NotOwner,
    /// The kernel marked its certificate and woke a waiter.
    Marked,
    /// It had no certificate yet: its keeper was still starting.
    Uncertified,
    /// Its certificate stayed as it was.
    Unmarked,
    /// The owner was alive and silent for a lease.
    Silence,
    /// The owner was alive and robbed by an operator.
    Forced,
    /// The survivor came only after it.
    Afterwards,
}

impl fmt::Display for News {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::NotOwner => "the dead did not own the lock",
            Self::Marked => "certificate marked by the kernel",
            Self::Uncertified => "killed before its keeper had a certificate",
            Self::Unmarked => "certificate not marked",
            Self::Silence => "silent for a lease",
            Self::Forced => "taken from the living by force",
            Self::Afterwards => "survivor came afterwards",
        })
    }
}

/// A recovery.
#[derive(Clone, Copy, Debug)]
pub(super) struct Recovery {
    pub(super) took: Duration,
    pub(super) news: News,
}

/// How long recoveries took.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Times {
    pub(super) count: usize,
    pub(super) slow: usize,
    pub(super) slowest: Duration,
}

/// What counts as slow: a death is to be learned of, not waited out.
const SLOW: Duration = Duration::from_millis(5);

impl Times {
    fn add(&mut self, took: Duration) {
        self.count += 1;
        self.slow += usize::from(took > SLOW);
        self.slowest = self.slowest.max(took);
    }

    pub(super) fn merge(&mut self, other: &Self) {
        self.count += other.count;
        self.slow += other.slow;
        self.slowest = self.slowest.max(other.slowest);
    }

    fn row(&self) -> serde_json::Value {
        let slowest_us = u64::try_from(self.slowest.as_micros()).unwrap_or(u64::MAX);
        serde_json::json!({ "count": self.count, "slow": self.slow, "slowest_us": slowest_us })
    }
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
        "| operation | instructions | killed | strayed | recovered | double owners | wedged ",
        "| slowest | over 5 ms | images | recovered | copies | recovered | slowest |\n",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    );

    pub(super) fn new(operation: impl Into<String>) -> Self {
        let operation = operation.into();
        Self {
            operation,
            ..Self::default()
        }
    }

    /// After a kill at an instruction.
    pub(super) fn count(&mut self, at: usize, outcome: Result<Recovery, Fault>) {
        self.kills += 1;
        match outcome {
            Ok(Recovery { took, news }) => {
                self.recovered += 1;
                self.news.entry(news).or_default().add(took);
            }
            Err(fault) => self.fail(format_args!("instruction {at}"), &fault),
        }
    }

    /// After a kill, if the victim came to be killed.
    pub(super) fn count_or_strayed(&mut self, at: usize, outcome: Option<Result<Recovery, Fault>>) {
        match outcome {
            Some(outcome) => self.count(at, outcome),
            None => self.strayed += 1,
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

    /// After the recovery from an image whose owners nobody has seen die.
    pub(super) fn count_copy(&mut self, nth: usize, outcome: Result<Duration, Fault>) {
        match outcome {
            Ok(took) => {
                self.copies_recovered += 1;
                self.copies.add(took);
            }
            Err(fault) => {
                self.copies.count += 1;
                self.fail(format_args!("copy {nth}"), &fault);
            }
        }
    }

    /// All recoveries after kills.
    pub(super) fn times(&self) -> Times {
        let mut all = Times::default();
        self.news.values().for_each(|times| all.merge(times));
        all
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
            "recoveries": self.times().row(),
            "news": self.news.iter().map(|(news, times)| {
                (news.to_string(), times.row())
            }).collect::<serde_json::Map<_, _>>(),
            "copies": self.copies.row(),
            "copies_recovered": self.copies_recovered,
            "all": self.is_whole,
            "failures": self.failures,
        })
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = |took: Duration| took.as_secs_f64() * 1e3;
        let all = self.times();
        let whole = if self.is_whole { "" } else { " (some)" };
        write!(
            f,
            "| {} | {} | {}{whole} | {} | {} | {} | {} | {:.1} ms | {} | {} | {} | {} | {} | {:.1} ms |",
            self.operation,
            self.instructions,
            self.kills,
            self.strayed,
            self.recovered,
            self.double_owners,
            self.wedged,
            millis(all.slowest),
            all.slow,
            self.images,
            self.images_recovered,
            self.copies.count,
            self.copies_recovered,
            millis(self.copies.slowest),
        )
    }
}
