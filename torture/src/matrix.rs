//! The environment matrix: what has bitten locks like this one, and the tests that show
//! that it does not bite this one. `list` has the rows.

mod list;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};

pub use list::{Cell, ROWS, Row, Suite};

/// Which rows, and whether to run them.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// Only this row
    #[arg(long)]
    pub row: Option<u32>,
    /// Print the rows and their tests, and run none
    #[arg(long)]
    pub list: bool,
    /// Append the results, lines of JSON, to `matrix.jsonl` in this directory
    /// [default: target/torture of the workspace]
    #[arg(long)]
    pub out: Option<PathBuf>,
}

/// What came of a test.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Outcome {
    Passed,
    /// It lacked a privilege, and says which.
    Skipped(String),
    Failed,
}

/// Runs the tests of the rows. True: none failed.
///
/// # Errors
/// What keeps them from being run.
pub fn run(options: &Options) -> anyhow::Result<bool> {
    let rows = ROWS
        .iter()
        .filter(|row| options.row.is_none_or(|only| only == row.number))
        .collect::<Vec<_>>();
    ensure!(!rows.is_empty(), "no row of that number");
    if options.list {
        rows.iter().for_each(|row| print_row(row));
        return Ok(true);
    }
    let mut by_suite = BTreeMap::<Suite, BTreeSet<&str>>::new();
    for cell in rows.iter().flat_map(|row| row.cells) {
        by_suite.entry(cell.suite).or_default().insert(cell.test);
    }
    let mut outcomes = BTreeMap::new();
    for (suite, tests) in by_suite {
        outcomes.extend(run_suite(suite, &tests)?);
    }
    let mut all_passed = true;
    for row in rows {
        for cell in row.cells {
            let outcome = &outcomes[&(cell.suite, cell.test)];
            println!("{:2} {}: {} {outcome:?}", row.number, row.hazard, cell.test);
            let row = serde_json::json!({
                "campaign": "matrix",
                "row": row.number,
                "hazard": row.hazard,
                "suite": format!("{:?}", cell.suite),
                "test": cell.test,
                "outcome": format!("{outcome:?}"),
            });
            crate::results::append(options.out.as_deref(), "matrix", &row)?;
            all_passed &= *outcome != Outcome::Failed;
        }
    }
    Ok(all_passed)
}

fn print_row(row: &Row) {
    println!("{:2} {}", row.number, row.hazard);
    for cell in row.cells {
        println!("   {}: {}", cell.suite.file().display(), cell.test);
    }
    if let Some(note) = row.note {
        println!("   ({note})");
    }
}

impl Suite {
    /// Where its tests are, from the root of the workspace.
    #[must_use]
    pub fn file(self) -> PathBuf {
        match self {
            Self::Unit(module) => Path::new("src")
                .join(module.replace("::", "/"))
                .with_extension("rs"),
            Self::Processes(file) => Path::new("tests").join(file).with_extension("rs"),
            Self::CommandLine(file) => Path::new("tools/tests").join(file).with_extension("rs"),
            Self::Model(file) | Self::Models(file) => Path::new("loom-tests/tests/proof")
                .join(file)
                .with_extension("rs"),
            Self::Torture(file) => Path::new("torture/tests").join(file).with_extension("rs"),
        }
    }

    /// Whether a run of it takes one test's name only: the proof's does.
    const fn takes_one_filter(self) -> bool {
        matches!(self, Self::Model(_) | Self::Models(_))
    }

    /// Whether what stands for a test's name is part of the names of several.
    const fn is_a_family(self) -> bool {
        matches!(self, Self::Models(_))
    }

    /// The arguments of the `cargo test` that runs it, and what its tests' names begin with.
    fn arguments(self) -> (Vec<&'static str>, String) {
        match self {
            Self::Unit(module) => (vec!["-p", "caslock", "--lib"], format!("{module}::tests::")),
            Self::Processes(file) => (vec!["-p", "caslock", "--test", file], String::new()),
            Self::CommandLine(file) => (vec!["-p", "caslock-cli", "--test", file], String::new()),
            Self::Model(_) | Self::Models(_) => {
                (vec!["-p", "caslock-loom", "--test", "proof"], String::new())
            }
            Self::Torture(file) => (vec!["-p", "caslock-torture", "--test", file], String::new()),
        }
    }
}

type Outcomes = BTreeMap<(Suite, &'static str), Outcome>;

/// The tests that a run tells of, by name, and what it says of each. Some pad the names.
fn results(said: &str) -> impl Iterator<Item = (&str, &str)> {
    said.lines().filter_map(|line| {
        let (name, result) = line.strip_prefix("test ")?.rsplit_once(" ... ")?;
        Some((name.trim_end(), result))
    })
}

/// Runs these tests of a suite, and reads what came of each.
fn run_suite(suite: Suite, tests: &BTreeSet<&'static str>) -> anyhow::Result<Outcomes> {
    if !suite.takes_one_filter() {
        return run_tests(suite, tests);
    }
    let each = tests
        .iter()
        .map(|&test| run_tests(suite, &BTreeSet::from([test])));
    Ok(each
        .collect::<anyhow::Result<Vec<_>>>()?
        .into_iter()
        .flatten()
        .collect())
}

/// The same in one run.
fn run_tests(suite: Suite, tests: &BTreeSet<&'static str>) -> anyhow::Result<Outcomes> {
    let (arguments, prefix) = suite.arguments();
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .arg("test")
        .args(arguments)
        .arg("--")
        .args((!suite.is_a_family()).then_some("--exact"))
        .args(tests.iter().map(|test| format!("{prefix}{test}")))
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("running {suite:?}"))?;
    // A result is a line of standard output; why a test was skipped is on standard error.
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    let outcome_of = |test: &str| {
        let name = format!("{prefix}{test}");
        let mut of_it = results(&said)
            .filter(|(other, _)| *other == name || suite.is_a_family() && other.contains(&name))
            .peekable();
        let passed = of_it.peek().is_some() && of_it.all(|(_, result)| result == "ok");
        let skipped = told.lines().find_map(|line| {
            let why = line.strip_prefix("skipped: ")?;
            why.strip_prefix(test)?.strip_prefix(": ")
        });
        match skipped {
            _ if !passed => Outcome::Failed,
            Some(why) => Outcome::Skipped(why.to_owned()),
            None => Outcome::Passed,
        }
    };
    let outcomes = tests.iter().map(|&test| ((suite, test), outcome_of(test)));
    let outcomes = outcomes.collect::<Outcomes>();
    if outcomes.values().any(|outcome| *outcome == Outcome::Failed) {
        eprintln!("{said}{told}");
    }
    Ok(outcomes)
}
