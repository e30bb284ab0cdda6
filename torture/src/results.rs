//! Where campaigns leave their results: a line of JSON each, a file a campaign.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;

/// Where results go unless told otherwise: below the target directory, so that nothing of
/// them is ever committed, and long runs by hand are found by the dashboard.
#[must_use]
pub fn default_dir() -> PathBuf {
    workspace().join("target/torture")
}

/// The source that this program was built from, if it still is there.
fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Appends a row to the campaign's file in the directory, or the one for all. It says when
/// that was, and at which revision of the source.
///
/// # Errors
/// What the system refuses.
pub fn append(dir: Option<&Path>, campaign: &str, row: &Value) -> anyhow::Result<()> {
    if dir.is_none() && !workspace().is_dir() {
        return Ok(());
    }
    let dir = dir.map_or_else(default_dir, Path::to_path_buf);
    fs::create_dir_all(&dir)?;
    let mut row = row.clone();
    row["at"] = now().into();
    row["revision"] = revision().into();
    let mut file = File::options()
        .append(true)
        .create(true)
        .open(file_of(&dir, campaign))?;
    // One write: two campaigns may end at the same time.
    Ok(file.write_all(format!("{row}\n").as_bytes())?)
}

/// The rows of a campaign, in the order in which they were written.
///
/// # Errors
/// What the system refuses, but not that there are none.
pub fn read(dir: &Path, campaign: &str) -> anyhow::Result<Vec<Value>> {
    let path = file_of(dir, campaign);
    if !path.exists() {
        return Ok(Vec::new());
    }
    let text = fs::read_to_string(path)?;
    Ok(text
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect())
}

fn file_of(dir: &Path, campaign: &str) -> PathBuf {
    dir.join(format!("{campaign}.jsonl"))
}

/// Seconds since 1970.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

/// The commit of the source, marked if it was changed since; none without git.
#[must_use]
pub fn revision() -> Option<String> {
    let output = Command::new("git")
        .args(["describe", "--always", "--dirty", "--exclude=*"])
        .current_dir(workspace())
        .output()
        .ok()?;
    let said = String::from_utf8(output.stdout).ok()?;
    (output.status.success()).then(|| said.trim().to_owned())
}
