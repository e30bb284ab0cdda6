//! What the parts of a proof came to, gathered from wherever they run, and the table that
//! it all ends in.

use std::cell::Cell;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// One line of the table.
#[derive(Clone, Debug)]
pub enum Row {
    /// A model, searched to the end of its bound.
    Model {
        /// What it is called.
        name: String,
        /// How many actors it has.
        actors: u32,
        /// How far the search went.
        bound: String,
        /// In how many executions.
        iterations: u64,
        /// At how many steps an actor was stopped, one after the other.
        crash_points: u32,
        /// What it proves.
        proves: &'static str,
    },
    /// An ordering that was weakened one step.
    Weakened {
        /// Where, and to what.
        ordering: String,
        /// The model, and what failed there.
        caught_by: String,
    },
    /// A planted bug that a model caught.
    Planted {
        /// Its number among those that have one.
        number: Option<u32>,
        /// What it is.
        story: String,
        /// The model, and what failed there.
        caught_by: String,
    },
    /// A model of sessions and leases.
    Leases {
        /// What it is called.
        name: String,
        /// How many processes it has.
        processes: usize,
        /// How many states.
        states: usize,
    },
    /// A randomised run.
    Crowd {
        /// What it is called.
        name: String,
        /// How many actors it has.
        actors: u32,
        /// What chose the schedules, and from what seed.
        scheduler: String,
        /// How many runs.
        runs: usize,
    },
}

/// How many executions broke an assertion that must hold.
static VIOLATIONS: AtomicUsize = AtomicUsize::new(0);

/// A model that must hold does not.
pub fn violation() {
    VIOLATIONS.fetch_add(1, Ordering::Relaxed);
}

static ROWS: Mutex<Vec<(usize, Row)>> = Mutex::new(Vec::new());

thread_local! {
    /// Which part of the proof runs on this thread: the table is in their order.
    static PART: Cell<usize> = const { Cell::new(0) };
}

fn rows() -> MutexGuard<'static, Vec<(usize, Row)>> {
    // A part that fails does not stop the others from telling what they found.
    ROWS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How long each part took.
static TIMES: Mutex<Vec<(Duration, String)>> = Mutex::new(Vec::new());

/// The part of this name has ended.
pub fn ended(part: String, after: Duration) {
    let mut times = TIMES.lock().unwrap_or_else(PoisonError::into_inner);
    times.push((after, part));
}

/// The part number `part` begins on this thread.
pub fn begin(part: usize) {
    PART.set(part);
}

/// Adds a row of the part that runs.
pub fn add(row: Row) {
    rows().push((PART.get(), row));
}

/// How much of the proof was run, and how it went.
#[derive(Clone, Copy, Debug)]
pub struct Extent {
    /// All its parts.
    pub parts: usize,
    /// Those that were run.
    pub run: usize,
    /// Those that failed.
    pub failed: usize,
}

/// Prints the table of all rows so far, and the sums at its end.
pub fn print(extent: Extent) {
    let mut rows = rows().clone();
    rows.sort_by_key(|row| row.0);
    let rows: Vec<Row> = rows.into_iter().map(|row| row.1).collect();
    print_models(&rows);
    print_orderings(&rows);
    print_planted(&rows);
    print_beyond_loom(&rows);
    print_slowest();
    print_sums(&rows, extent);
}

fn print_models(rows: &[Row]) {
    println!("\nmodel | actors | bound | iterations (crash points) | proves");
    for row in rows {
        if let Row::Model {
            name,
            actors,
            bound,
            iterations,
            crash_points,
            proves,
        } = row
        {
            let points = match crash_points {
                0 => String::new(),
                _ => format!(" ({crash_points})"),
            };
            println!("{name:<62} | {actors} | {bound:<13} | {iterations:>9}{points:<6}| {proves}");
        }
    }
}

fn print_orderings(rows: &[Row]) {
    println!("\nordering, weakened one step | what notices");
    for row in rows {
        if let Row::Weakened {
            ordering,
            caught_by,
        } = row
        {
            println!("{ordering:<24} | caught by: {caught_by}");
        }
    }
}

fn print_planted(rows: &[Row]) {
    println!("\nplanted bug | what notices");
    let mut planted: Vec<_> = rows
        .iter()
        .filter_map(|row| match row {
            Row::Planted {
                number,
                story,
                caught_by,
            } => Some((number.unwrap_or(u32::MAX), story, caught_by)),
            _ => None,
        })
        .collect();
    planted.sort_by_key(|bug| bug.0);
    for (number, story, caught_by) in planted {
        let number = match number {
            u32::MAX => "  ".to_owned(),
            number => format!("{number:>2}"),
        };
        println!("{number} {story} | caught by: {caught_by}");
    }
}

fn print_beyond_loom(rows: &[Row]) {
    println!("\nsessions and leases (Stateright) | processes | states");
    for row in rows {
        if let Row::Leases {
            name,
            processes,
            states,
        } = row
        {
            println!("{name:<62} | {processes} | {states:>9}");
        }
    }
    println!("\nrandomised runs (shuttle) | actors | scheduler | runs");
    for row in rows {
        if let Row::Crowd {
            name,
            actors,
            scheduler,
            runs,
        } = row
        {
            println!("{name:<62} | {actors} | {scheduler:<23} | {runs:>9}");
        }
    }
}

/// The parts that a faster proof would begin with.
fn print_slowest() {
    const SHOWN: Duration = Duration::from_secs(2);
    let mut times = TIMES.lock().unwrap_or_else(PoisonError::into_inner);
    times.sort();
    println!("\nparts of {} s and more | seconds", SHOWN.as_secs());
    let shown = times.iter().rev().take_while(|time| time.0 >= SHOWN);
    for (after, part) in shown {
        println!("{part:<62} | {:>5.1}", after.as_secs_f64());
    }
}

fn print_sums(rows: &[Row], extent: Extent) {
    let (mut models, mut points, mut iterations) = (0, 0, 0);
    let mut weakened = 0;
    let (mut numbered, mut others) = (0, 0);
    let (mut leases, mut states, mut crowds, mut runs) = (0, 0, 0, 0);
    for row in rows {
        match row {
            Row::Model {
                iterations: more,
                crash_points,
                ..
            } => {
                models += 1;
                points += crash_points;
                iterations += more;
            }
            Row::Weakened { .. } => weakened += 1,
            Row::Planted { number, .. } if number.is_some() => numbered += 1,
            Row::Planted { .. } => others += 1,
            Row::Leases { states: more, .. } => {
                leases += 1;
                states += more;
            }
            Row::Crowd { runs: more, .. } => {
                crowds += 1;
                runs += more;
            }
        }
    }
    let violations = VIOLATIONS.load(Ordering::Relaxed);
    println!(
        "\n\
         loom: models {models}, crash points {points}, iterations {iterations}, \
         violations {violations}\n\
         orderings weakened {weakened}, caught {weakened}\n\
         planted bugs {numbered}, caught {numbered}; and further {others}, caught {others}\n\
         Stateright: models {leases}, states {states}\n\
         shuttle: models {crowds}, runs {runs}"
    );
    // A row is there only if what it is about held, so this is the sum that counts.
    println!("parts {}, failed {}", extent.run, extent.failed);
    if extent.run < extent.parts {
        println!(
            "{} parts of {} were run: this is no proof",
            extent.run, extent.parts
        );
    }
}
