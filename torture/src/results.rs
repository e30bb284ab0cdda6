//! Where campaigns leave their results: a line of JSON each, a file a campaign.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

/// Appends a row to the campaign's file in the directory, if there is one.
///
/// # Errors
/// What the system refuses.
pub fn append(dir: Option<&Path>, campaign: &str, row: &serde_json::Value) -> anyhow::Result<()> {
    let Some(dir) = dir else { return Ok(()) };
    fs::create_dir_all(dir)?;
    let path = dir.join(format!("{campaign}.jsonl"));
    let mut file = File::options().append(true).create(true).open(path)?;
    // One write: two campaigns may end at the same time.
    Ok(file.write_all(format!("{row}\n").as_bytes())?)
}
