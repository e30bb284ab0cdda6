//! Every campaign by one command, and what they have found in one place.
//!
//! Each campaign runs as a process of its own and leaves its results in the results'
//! directory, as it does when it is run by hand. `panel` shows what is there: so a long run
//! by hand counts, with its date, seed and length.

mod panel;

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::results;
use panel::Panel;

/// Which campaigns, and how long.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// Each campaign for moments: some five minutes and the builds
    #[arg(long, conflicts_with = "full")]
    pub quick: bool,
    /// Every instruction, soaks of half an hour, every image and error: some three hours
    #[arg(long)]
    pub full: bool,
    /// Run nothing, show what is there
    #[arg(long, conflicts_with_all = ["quick", "full", "only"])]
    pub print: bool,
    /// Run only these campaigns
    #[arg(long, value_enum, value_delimiter = ',')]
    pub only: Vec<Campaign>,
    /// What the soaks' and the images' choices come from
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Where the results are kept [default: target/torture of the workspace]
    #[arg(long)]
    pub out: Option<PathBuf>,
}

/// A campaign.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Campaign {
    /// Every instruction a crash point
    Instructions,
    /// The nemesis, for both policies
    Soak,
    /// Many that reclaim at once
    Racers,
    /// Hostile bytes
    Bytes,
    /// Failing system calls
    Syscalls,
    /// The environment matrix
    Matrix,
    /// Planted bugs
    Planted,
}

impl Campaign {
    const ALL: [Self; 7] = [
        Self::Instructions,
        Self::Soak,
        Self::Racers,
        Self::Bytes,
        Self::Syscalls,
        Self::Matrix,
        Self::Planted,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Instructions => "instructions",
            Self::Soak => "soak",
            Self::Racers => "racers",
            Self::Bytes => "bytes",
            Self::Syscalls => "syscalls",
            Self::Matrix => "matrix",
            Self::Planted => "planted",
        }
    }
}

/// How long everything is to take.
#[derive(Clone, Copy)]
enum Length {
    Quick,
    Usual,
    Full,
}

/// The runs that a campaign takes, as the arguments of this program.
fn runs(campaign: Campaign, length: Length, seed: u64) -> Vec<String> {
    use Length::{Full, Quick, Usual};
    let soak = |policy: &str| {
        let seconds = match length {
            Quick => 20,
            Usual => 60,
            Full => 1800,
        };
        format!("soak --policy {policy} --seconds {seconds} --seed {seed}")
    };
    match (campaign, length) {
        (Campaign::Instructions, Quick) => {
            vec!["instructions --seconds 0.5 --nested-seconds 2".into()]
        }
        (Campaign::Instructions, Usual) => {
            vec!["instructions --seconds 5 --nested-seconds 30".into()]
        }
        (Campaign::Instructions, Full) => vec!["instructions".into()],
        (Campaign::Soak, _) => vec![soak("on-death"), soak("on-expiry")],
        (Campaign::Racers, Quick) => vec![format!("racers --rounds 1000 --seed {seed}")],
        (Campaign::Racers, Usual) => vec![format!("racers --rounds 10000 --seed {seed}")],
        (Campaign::Racers, Full) => vec![format!("racers --rounds 100000 --seed {seed}")],
        (Campaign::Bytes, Quick) => {
            vec![format!(
                "bytes --images 3000 --scribble-seconds 3 --seed {seed}"
            )]
        }
        (Campaign::Bytes, Usual) => {
            vec![format!(
                "bytes --images 20000 --scribble-seconds 20 --seed {seed}"
            )]
        }
        (Campaign::Bytes, Full) => vec![format!("bytes --seed {seed}")],
        (Campaign::Syscalls, Quick) => vec!["syscalls --quick".into()],
        (Campaign::Syscalls, Usual | Full) => vec!["syscalls".into()],
        (Campaign::Matrix, _) => vec!["matrix".into()],
        (Campaign::Planted, Quick) => vec!["planted --quick".into()],
        (Campaign::Planted, Usual | Full) => vec!["planted".into()],
    }
}

/// Runs the campaigns and prints the dashboard. 1: something was found; 2: a campaign could
/// not be run, and nothing was found.
///
/// # Errors
/// What keeps the results from being read.
pub fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let dir = options.out.clone().unwrap_or_else(results::default_dir);
    let length = match (options.quick, options.full) {
        (true, _) => Length::Quick,
        (_, true) => Length::Full,
        _ => Length::Usual,
    };
    let wanted = |campaign: &Campaign| {
        !options.print && (options.only.is_empty() || options.only.contains(campaign))
    };
    let plan = Campaign::ALL
        .into_iter()
        .filter(wanted)
        .flat_map(|campaign| {
            let runs = runs(campaign, length, options.seed);
            runs.into_iter().map(move |run| (campaign, run))
        })
        .collect::<Vec<_>>();
    let mut panel = Panel::new(&dir)?;
    let begun = Instant::now();
    for (nth, (campaign, run)) in plan.iter().enumerate() {
        let (nth, of, so_far) = (nth + 1, plan.len(), begun.elapsed().as_secs());
        eprintln!("== {nth} of {of}, after {so_far} s: torture {run}");
        match carry_out(run, &dir) {
            Ok(clean) => panel.has_run(*campaign, run, clean),
            Err(why) => panel.has_not_run(*campaign, run, &why),
        }
    }
    let verdict = panel.show()?;
    Ok(ExitCode::from(verdict))
}

/// Runs a campaign, with what it says on standard error. True: it found nothing; why not,
/// if it ended without saying what it found.
fn carry_out(run: &str, dir: &Path) -> Result<bool, String> {
    let start = || -> anyhow::Result<Child> {
        let child = Command::new("/proc/self/exe")
            .args(run.split(' '))
            .arg("--out")
            .arg(dir)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        child.context("starting it")
    };
    let mut child = start().map_err(|error| format!("{error:#}"))?;
    let begun = Instant::now();
    let said = child.stdout.take().map(|pipe| pass_on(pipe, begun));
    let told = child.stderr.take().map(|pipe| pass_on(pipe, begun));
    let status = child.wait().map_err(|error| error.to_string())?;
    let _ = said.map(thread::JoinHandle::join);
    let last = told.and_then(|told| told.join().ok()).unwrap_or_default();
    match status.code() {
        Some(0) => Ok(true),
        // An error that ends the program is told on standard error.
        Some(1) if !last.contains("Error: ") => Ok(false),
        _ => Err(format!("{status}: {}", last.trim())),
    }
}

/// Shows what a campaign says, and the time of each line. What it said last.
fn pass_on(pipe: impl Read + Send + 'static, begun: Instant) -> thread::JoinHandle<String> {
    /// Enough for an error with its causes.
    const KEPT: usize = 12;
    thread::spawn(move || {
        let mut last = std::collections::VecDeque::new();
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            eprintln!("{:6} {line}", seconds(begun.elapsed()));
            last.push_back(line);
            if last.len() > KEPT {
                last.pop_front();
            }
        }
        Vec::from(last).join("; ")
    })
}

fn seconds(time: Duration) -> String {
    format!("{} s", time.as_secs())
}
