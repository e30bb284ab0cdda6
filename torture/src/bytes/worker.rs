//! The process that opens and uses the images, and may die of one.

use std::fs;
use std::path::PathBuf;

use anyhow::Context;
use caslock::LockTable;
use rustix::process::{Resource, Rlimit, setrlimit};

use super::{image, mutate, scribble, user};
use crate::soak::dice::Dice;

/// The address space that a user may take: a table of the campaign has some 12 KiB, the
/// rest is stacks and arenas. An allocation of a size that the file names ends the process.
const ADDRESS_SPACE: u64 = 1 << 30;

/// One image in so many is also looked at by the command line.
const COMMAND_EVERY: u64 = 50;

/// Which images, and where.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    #[arg(long)]
    pub(super) seed: u64,
    #[arg(long)]
    pub(super) from: u64,
    #[arg(long)]
    pub(super) to: u64,
    /// Where the base images are
    #[arg(long)]
    pub(super) dir: PathBuf,
    /// The command line, if it is to be had
    #[arg(long)]
    pub(super) command: Option<PathBuf>,
    /// Not images: the table that somebody else scribbles into
    #[arg(long)]
    pub(super) scribbled: Option<PathBuf>,
}

/// Uses one image after the other, and says which on standard output.
///
/// # Errors
/// What a command of the command line did wrong, or the system.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let limit = Rlimit {
        current: Some(ADDRESS_SPACE),
        maximum: Some(ADDRESS_SPACE),
    };
    setrlimit(Resource::As, limit)?;
    if let Some(table) = &options.scribbled {
        return scribble::be_scribbled_on(table, options.seed, options.to);
    }
    let bases = image::load(&options.dir)?;
    let path = options
        .dir
        .join(format!("image-{}.table", std::process::id()));
    for number in options.from..options.to {
        println!("image {number}");
        let image = mutate::make(&bases, options.seed, number);
        let _ = fs::remove_file(&path);
        image::put(&path, &image.bytes)?;
        let mut dice = Dice::new(options.seed, !number);
        let command = options.command.as_deref();
        if let Some(command) = command.filter(|_| number.is_multiple_of(COMMAND_EVERY)) {
            let runs = user::use_command(command, &path, &mut dice)
                .with_context(|| format!("image {number}"))?;
            println!("commands {runs}");
        }
        let opened = user::use_table(&path, &mut dice);
        println!("{}", if opened { "opened" } else { "refused" });
    }
    fs::remove_file(&path)?;
    println!("peak {}", peak_kib()?);
    Ok(())
}

/// The most memory that this process ever had, in KiB.
pub(super) fn peak_kib() -> anyhow::Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().next());
    Ok(kib.context("VmHWM in /proc/self/status")?.parse()?)
}

/// Opens the table, if it can be opened just now.
pub(super) fn try_open(path: &std::path::Path) -> Option<LockTable> {
    LockTable::options().open_existing(path).ok()
}
