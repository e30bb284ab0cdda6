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
            Self::Model(file) => Path::new("loom-tests/tests/proof")
                .join(file)
                .with_extension("rs"),
            Self::Torture(file) => Path::new("torture/tests").join(file).with_extension("rs"),
        }
    }

    /// The arguments of the `cargo test` that runs it, and what its tests' names begin with.
    fn arguments(self) -> (Vec<&'static str>, String) {
        match self {
            Self::Unit(module) => (vec!["-p", "caslock", "--lib"], format!("{module}::tests::")),
            Self::Processes(file) => (vec!["-p", "caslock", "--test", file], String::new()),
            Self::CommandLine(file) => (vec!["-p", "caslock-cli", "--test", file], String::new()),
            Self::Model(_) => (vec!["-p", "caslock-loom", "--test", "proof"], String::new()),
            Self::Torture(file) => (vec!["-p", "caslock-torture", "--test", file], String::new()),
        }
    }
}

type Outcomes = BTreeMap<(Suite, &'static str), Outcome>;

/// A `cargo test` of the suite, whose own arguments are to follow.
fn cargo_test(arguments: &[&str]) -> Command {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .arg("test")
        .args(arguments)
        .arg("--")
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
        .stdin(Stdio::null());
    command
}

/// Runs these parts of the proof, which takes one filter at a time: a part's name, or what
/// the names of several have in common.
fn run_models(suite: Suite, parts: &BTreeSet<&'static str>) -> anyhow::Result<Outcomes> {
    let (arguments, _) = suite.arguments();
    let mut outcomes = Outcomes::new();
    for &part in parts {
        let output = cargo_test(&arguments)
            .arg(part)
            .output()
            .with_context(|| format!("running {part} of {suite:?}"))?;
        let said = String::from_utf8_lossy(&output.stdout);
        // The names are padded. Without any, the filter has found nothing.
        let ran = said.lines().filter(|line| line.starts_with("test "));
        let some_passed = ran.into_iter().any(|line| line.ends_with(" ... ok"));
        let outcome = if output.status.success() && some_passed {
            Outcome::Passed
        } else {
            eprintln!("{said}{}", String::from_utf8_lossy(&output.stderr));
            Outcome::Failed
        };
        outcomes.insert((suite, part), outcome);
    }
    Ok(outcomes)
}

/// Runs these tests of a suite, and reads what came of each.
fn run_suite(suite: Suite, tests: &BTreeSet<&'static str>) -> anyhow::Result<Outcomes> {
    if matches!(suite, Suite::Model(_)) {
        return run_models(suite, tests);
    }
    let (arguments, prefix) = suite.arguments();
    let output = cargo_test(&arguments)
        .arg("--exact")
        .args(tests.iter().map(|test| format!("{prefix}{test}")))
        .output()
        .with_context(|| format!("running {suite:?}"))?;
    // A result is a line of standard output; why a test was skipped is on standard error.
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    let outcome_of = |test: &str| {
        let passed = format!("test {prefix}{test} ... ok");
        let skipped = told.lines().find_map(|line| {
            let why = line.strip_prefix("skipped: ")?;
            why.strip_prefix(test)?.strip_prefix(": ")
        });
        match skipped {
            _ if !said.lines().any(|line| line == passed) => Outcome::Failed,
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
