//! Bugs planted in a copy of the library's source, each to be caught by the named tests.
//!
//! The copy is made under the target directory and built there: nothing of it ships. A
//! catcher counts only if it passes on the source as it is (the control), and if the copy
//! with the bug builds and the catcher then fails.

mod list;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use rustix::fs::{FlockOperation, flock};

use list::{BUGS, Bug, Catcher};

/// How long a catcher may take: the tests' own watchdogs come first.
const PATIENCE: Duration = Duration::from_secs(240);

/// How long a soak looks for a bug.
const SOAK_SECS: &str = "15";

/// How often the racers race for one.
const RACES: &str = "20000";

/// Which bugs, and how thoroughly.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// Only the bug of this name
    #[arg(long)]
    pub only: Option<String>,
    /// Only the first catcher of each bug that has a quick one, and no control: for where
    /// the tests run anyway
    #[arg(long)]
    pub quick: bool,
    /// Append the results, lines of JSON, to `planted.jsonl` in this directory
    /// [default: target/torture of the workspace]
    #[arg(long)]
    pub out: Option<PathBuf>,
}

/// Plants the bugs one by one. True: all were caught.
///
/// # Errors
/// What keeps them from being planted, built or looked for.
pub fn run(options: &Options) -> anyhow::Result<bool> {
    let bugs = BUGS
        .iter()
        .filter(|bug| options.only.as_deref().is_none_or(|only| only == bug.name))
        .collect::<Vec<_>>();
    ensure!(!bugs.is_empty(), "no bug of that name");
    let garden = Garden::lay_out()?;
    if !options.quick {
        control(&garden, &bugs)?;
    }
    let mut all_caught = true;
    for bug in bugs {
        let catchers = match options.quick {
            true if bug.slow => continue,
            true => &bug.catchers[..1],
            false => bug.catchers,
        };
        garden.plant(bug)?;
        let caught = catch(&garden, bug, catchers, options);
        garden.uproot(bug)?;
        all_caught &= caught?;
    }
    Ok(all_caught)
}

/// Every catcher passes while nothing is planted.
fn control(garden: &Garden, bugs: &[&Bug]) -> anyhow::Result<()> {
    let all = bugs.iter().flat_map(|bug| bug.catchers).copied();
    for catcher in all.collect::<BTreeSet<_>>() {
        garden.build(catcher)?;
        let verdict = garden.run(catcher)?;
        ensure!(
            verdict.passed,
            "{catcher:?} fails with nothing planted:\n{}",
            verdict.said
        );
        println!(
            "control: {catcher:?} passes in {:.1} s",
            verdict.took.as_secs_f64()
        );
    }
    Ok(())
}

/// Looks for a planted bug. True: each catcher has found it.
fn catch(
    garden: &Garden,
    bug: &Bug,
    catchers: &[Catcher],
    options: &Options,
) -> anyhow::Result<bool> {
    let mut all_caught = true;
    for &catcher in catchers {
        garden
            .build(catcher)
            .with_context(|| format!("with {} planted", bug.name))?;
        let verdict = garden.run(catcher)?;
        let (caught, took) = (!verdict.passed, verdict.took.as_secs_f64());
        let outcome = if caught { "caught" } else { "MISSED" };
        println!("{}: {outcome} by {catcher:?} in {took:.1} s", bug.name);
        let row = serde_json::json!({
            "campaign": "planted",
            "bug": bug.name,
            "story": bug.story,
            "catcher": format!("{catcher:?}"),
            "caught": caught,
            "seconds": took,
        });
        crate::results::append(options.out.as_deref(), "planted", &row)?;
        all_caught &= caught;
    }
    Ok(all_caught)
}

/// Where bugs are planted: a copy of the workspace, with a target directory of its own.
struct Garden {
    /// Locked for as long as this process is in the garden: one gardener at a time.
    _gate: fs::File,
    workspace: PathBuf,
    source: PathBuf,
    target: PathBuf,
}

/// What came of a catcher.
struct Verdict {
    passed: bool,
    took: Duration,
    said: String,
}

impl Garden {
    /// Copies what the catchers are built of. Files that have not changed since the last
    /// time stay as they are, and so do their builds.
    fn lay_out() -> anyhow::Result<Self> {
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("..")
            .canonicalize()?;
        let planted = workspace.join("target/planted");
        fs::create_dir_all(&planted)?;
        let gate = fs::File::create(planted.join("gate"))?;
        flock(&gate, FlockOperation::LockExclusive)?;
        let garden = Self {
            _gate: gate,
            source: planted.join("source"),
            target: planted.join("target"),
            workspace,
        };
        for part in ["src", "tests", "torture"] {
            copy_tree(&garden.workspace.join(part), &garden.source.join(part))?;
        }
        for file in ["README.md", "Cargo.lock"] {
            copy(&garden.workspace.join(file), &garden.source.join(file))?;
        }
        let manifest = fs::read_to_string(garden.workspace.join("Cargo.toml"))?;
        write_if_changed(
            &garden.source.join("Cargo.toml"),
            thin_out(&manifest)?.as_bytes(),
        )?;
        Ok(garden)
    }

    fn plant(&self, bug: &Bug) -> anyhow::Result<()> {
        let mut texts = BTreeMap::<&str, String>::new();
        for edit in bug.edits {
            let text = match texts.remove(edit.file) {
                Some(text) => text,
                None => fs::read_to_string(self.workspace.join(edit.file))?,
            };
            let count = text.matches(edit.right).count();
            ensure!(
                count == 1,
                "{}: what is to be replaced is {count} times in {}: {}",
                bug.name,
                edit.file,
                edit.right
            );
            texts.insert(edit.file, text.replace(edit.right, edit.wrong));
        }
        for (file, text) in texts {
            write_if_changed(&self.source.join(file), text.as_bytes())?;
        }
        Ok(())
    }

    fn uproot(&self, bug: &Bug) -> anyhow::Result<()> {
        for edit in bug.edits {
            copy(
                &self.workspace.join(edit.file),
                &self.source.join(edit.file),
            )?;
        }
        Ok(())
    }

    fn cargo(&self, args: &[&str]) -> Command {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(cargo);
        command
            .args(args)
            .arg("--offline")
            .current_dir(&self.source)
            .env("CARGO_TARGET_DIR", &self.target)
            // What rustc says of a planted bug is of no interest unless it is an error.
            .env("RUSTFLAGS", "--cap-lints=warn");
        command
    }

    fn build(&self, catcher: Catcher) -> anyhow::Result<()> {
        let output = match catcher {
            Catcher::Unit(_) => self.cargo(&["test", "--no-run", "-p", "caslock", "--lib"]),
            Catcher::Test(file, _) => {
                self.cargo(&["test", "--no-run", "-p", "caslock", "--test", file])
            }
            Catcher::Soak(_) | Catcher::Racers => self.cargo(&["build", "-p", "caslock-torture"]),
        }
        .output()?;
        if !output.status.success() {
            bail!(
                "it does not build:\n{}",
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(())
    }

    /// Runs a catcher that was built.
    fn run(&self, catcher: Catcher) -> anyhow::Result<Verdict> {
        let mut command = match catcher {
            Catcher::Unit(name) => {
                let mut command = self.cargo(&["test", "-p", "caslock", "--lib"]);
                command.args(["--", "--exact", name]);
                command
            }
            Catcher::Test(file, name) => {
                let mut command = self.cargo(&["test", "-p", "caslock", "--test", file]);
                command.args(["--", "--exact", name]);
                command
            }
            Catcher::Soak(policy) => {
                let mut command = Command::new(self.target.join("debug/torture"));
                command.args(["soak", "--seconds", SOAK_SECS, "--policy", policy]);
                command
            }
            Catcher::Racers => {
                let mut command = Command::new(self.target.join("debug/torture"));
                command.args(["racers", "--rounds", RACES]);
                command
            }
        };
        let verdict = judge(&mut command)?;
        let ran = matches!(catcher, Catcher::Soak(_) | Catcher::Racers)
            || verdict.said.contains("running 1 test");
        ensure!(ran, "{catcher:?} is not there:\n{}", verdict.said);
        Ok(verdict)
    }
}

/// Runs a command in a process group of its own, with an end to it.
fn judge(command: &mut Command) -> anyhow::Result<Verdict> {
    let log = tempfile::NamedTempFile::new()?;
    let begun = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(log.reopen()?)
        .stderr(log.reopen()?)
        .process_group(0)
        .spawn()?;
    let passed = loop {
        if let Some(status) = child.try_wait()? {
            break status.success();
        }
        if begun.elapsed() > PATIENCE {
            killpg(Pid::from_raw(child.id().cast_signed()), Signal::SIGKILL)?;
            child.wait()?;
            break false;
        }
        thread::sleep(Duration::from_millis(20));
    };
    Ok(Verdict {
        passed,
        took: begun.elapsed(),
        said: String::from_utf8_lossy(&fs::read(log.path())?).into_owned(),
    })
}

/// The workspace's manifest with the members that the catchers are in, and without what
/// takes long to build and only the examples need.
fn thin_out(manifest: &str) -> anyhow::Result<String> {
    let mut lines = Vec::new();
    for line in manifest.lines() {
        if line.starts_with("members = ") {
            lines.push(r#"members = [".", "torture"]"#);
        } else if !line.starts_with("default-members = ") && !line.starts_with("rusqlite = ") {
            lines.push(line);
        }
    }
    ensure!(
        lines.len() + 2 == manifest.lines().count(),
        "the manifest is not as it was"
    );
    Ok(lines.join("\n"))
}

fn copy_tree(from: &Path, to: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_tree(&entry.path(), &to)?;
        } else {
            copy(&entry.path(), &to)?;
        }
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    write_if_changed(
        to,
        &fs::read(from).with_context(|| from.display().to_string())?,
    )
}

fn write_if_changed(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    if fs::read(path).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    let mut file = fs::File::create(path).with_context(|| path.display().to_string())?;
    Ok(file.write_all(bytes)?)
}
