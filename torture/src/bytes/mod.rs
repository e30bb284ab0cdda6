//! Hostile bytes: images of tables that nobody's rules have made, used by every operation,
//! and a scribbler that writes into a table in use.
//!
//! What a user may meet: an error, or a grant that means nothing. What it may not: a panic,
//! a signal, an operation that does not end, memory by the file's word.
//!
//! `image` knows the format, `mutate` lies in it, `user` is the victim, `worker` the
//! process that it lives in, `scribble` the second half.

mod image;
mod mutate;
mod scribble;
mod user;
mod worker;

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

pub use worker::{Options as WorkerOptions, run as run_worker};

/// The longest that one image may take: a few waits of ten seconds for the naming lock,
/// on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// The most memory that a user may ever have had: many times what it needs.
const PEAK_KIB: u64 = 64 << 10;

/// How many images one process uses.
const CHUNK: u64 = 500;

/// How many images, which, and for how long a table in use is written into.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// How many images
    #[arg(long, default_value_t = 200_000)]
    pub images: u64,
    /// The first of them: with `--images 1`, that image alone
    #[arg(long, default_value_t = 0)]
    pub from: u64,
    /// What the images and their uses come from
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// How many processes at a time; most of their time is waiting
    #[arg(long, default_value_t = 6)]
    pub jobs: usize,
    /// For how long to scribble into a table in use
    #[arg(long, default_value_t = 30)]
    pub scribble_seconds: u64,
    /// Keep the images that did harm in this directory, and append the result, a line of
    /// JSON, to `bytes.jsonl` there [default: target/torture of the workspace]
    #[arg(long)]
    pub out: Option<PathBuf>,
}

/// What came of it.
#[derive(Default)]
struct Tally {
    opened: AtomicU64,
    refused: AtomicU64,
    commands: AtomicU64,
    rounds: AtomicU64,
    peak_kib: AtomicU64,
    findings: Mutex<Vec<Finding>>,
}

/// Something that must not happen.
#[derive(serde::Serialize)]
struct Finding {
    /// The image, or none where a scribbler was at work.
    image: Option<u64>,
    what: String,
}

/// Runs the campaign. True: nothing was found.
///
/// # Errors
/// What keeps it from being run.
pub fn run(options: &Options) -> anyhow::Result<bool> {
    let shm = Path::new("/dev/shm");
    let mut dir = tempfile::Builder::new();
    dir.prefix("caslock-bytes-");
    let dir = match shm.is_dir() {
        true => dir.tempdir_in(shm)?,
        false => dir.tempdir()?,
    };
    let bases = image::bases(dir.path())?;
    image::save(&bases, dir.path())?;
    let begun = Instant::now();
    let campaign = Campaign {
        options,
        dir: dir.path(),
        command: command_line(),
        tally: Tally::default(),
    };
    campaign.use_images()?;
    let writes = campaign.scribble(&bases)?;
    campaign.report(&bases, writes, begun.elapsed())
}

/// The command line, if it was built beside this program.
fn command_line() -> Option<PathBuf> {
    let path = std::env::current_exe().ok()?.with_file_name("caslock");
    path.is_file().then_some(path)
}

struct Campaign<'a> {
    options: &'a Options,
    dir: &'a Path,
    command: Option<PathBuf>,
    tally: Tally,
}

impl Campaign<'_> {
    /// All images, in chunks, by as many processes at a time as there are jobs.
    fn use_images(&self) -> anyhow::Result<()> {
        let end = self.options.from + self.options.images;
        let next = AtomicU64::new(self.options.from);
        thread::scope(|scope| {
            let job = || loop {
                let from = next.fetch_add(CHUNK, Ordering::Relaxed);
                if from >= end {
                    return anyhow::Ok(());
                }
                self.use_chunk(from, end.min(from + CHUNK))?;
            };
            let jobs = (0..self.options.jobs.max(1)).map(|_| scope.spawn(job));
            let jobs = jobs.collect::<Vec<_>>();
            jobs.into_iter()
                .try_for_each(|job| job.join().expect("a job does not panic"))
        })
    }

    /// One chunk, going on behind each image that ends the process.
    fn use_chunk(&self, mut from: u64, to: u64) -> anyhow::Result<()> {
        while from < to {
            let args = [
                ("--seed", self.options.seed),
                ("--from", from),
                ("--to", to),
            ];
            let args = args.map(|(flag, value)| [flag.to_owned(), value.to_string()]);
            let mut user = User::start(self, &args.concat())?;
            let mut at = None;
            let end = user.attend(PATIENCE, |line| at = self.note(line).or(at));
            let Err(what) = end else { return Ok(()) };
            let image = at.context(what.clone())?;
            self.find(Some(image), what);
            from = image + 1;
        }
        Ok(())
    }

    /// Takes down a line of a user's; the image that it begins with, if it does.
    fn note(&self, line: &str) -> Option<u64> {
        let tally = &self.tally;
        let (what, number) = line.split_once(' ').unwrap_or((line, "0"));
        let number = number.parse().unwrap_or(0);
        match what {
            "image" => return Some(number),
            "opened" => tally.opened.fetch_add(1, Ordering::Relaxed),
            "refused" => tally.refused.fetch_add(1, Ordering::Relaxed),
            "commands" => tally.commands.fetch_add(number, Ordering::Relaxed),
            "rounds" => tally.rounds.fetch_add(number, Ordering::Relaxed),
            "peak" => tally.peak_kib.fetch_max(number, Ordering::Relaxed),
            _ => 0,
        };
        None
    }

    fn find(&self, image: Option<u64>, what: String) {
        println!("found: image {image:?}: {what}");
        let mut findings = self.tally.findings.lock().expect("no panic holds it");
        findings.push(Finding { image, what });
    }

    /// Users of one table, and a scribbler. How often it wrote.
    fn scribble(&self, bases: &[image::Image]) -> anyhow::Result<u64> {
        let seconds = self.options.scribble_seconds;
        if seconds == 0 {
            return Ok(0);
        }
        let base = bases.get(3).context("a base")?;
        let path = self.dir.join("scribbled.table");
        image::put(&path, &base.bytes)?;
        let end = Instant::now() + Duration::from_secs(seconds);
        thread::scope(|scope| {
            let path = &path;
            let users = (0..3).map(|user| scope.spawn(move || self.scribbled_on(path, user)));
            let users = users.collect::<Vec<_>>();
            let writes = scribble::scribble(path, base, self.options.seed, end);
            for user in users {
                user.join().expect("an attendant does not panic")?;
            }
            writes
        })
    }

    fn scribbled_on(&self, path: &Path, user: u64) -> anyhow::Result<()> {
        let seconds = self.options.scribble_seconds;
        let mut args = vec!["--scribbled".to_owned(), path.display().to_string()];
        let numbers = [("--seed", user), ("--from", 0), ("--to", seconds)];
        args.extend(
            numbers
                .into_iter()
                .flat_map(|(flag, value)| [flag.to_owned(), value.to_string()]),
        );
        let patience = PATIENCE + Duration::from_secs(seconds);
        let end = User::start(self, &args)?.attend(patience, |line| {
            self.note(line);
        });
        if let Err(what) = end {
            self.find(None, what);
        }
        Ok(())
    }

    fn report(&self, bases: &[image::Image], writes: u64, took: Duration) -> anyhow::Result<bool> {
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let (opened, refused) = (load(&self.tally.opened), load(&self.tally.refused));
        let commands = load(&self.tally.commands);
        let (rounds, peak_kib) = (load(&self.tally.rounds), load(&self.tally.peak_kib));
        if peak_kib > PEAK_KIB {
            self.find(None, format!("a user took {peak_kib} KiB"));
        }
        let findings = self.tally.findings.lock().expect("no panic holds it");
        let seed = self.options.seed;
        println!(
            "bytes: seed {seed}: {} images ({opened} opened, {refused} refused), {commands} commands{}, \
             {writes} writes into a table in use during {rounds} rounds, at most {peak_kib} KiB; \
             {} findings, {:.0} s",
            opened + refused,
            if self.command.is_none() {
                " (caslock is not built beside this program)"
            } else {
                ""
            },
            findings.len(),
            took.as_secs_f64()
        );
        for image in findings.iter().filter_map(|finding| finding.image) {
            let out = self.options.out.clone();
            let out = out.unwrap_or_else(crate::results::default_dir);
            fs::create_dir_all(&out)?;
            let kept = out.join(format!("seed-{seed}-image-{image}.table"));
            fs::write(kept, mutate::make(bases, seed, image).bytes)?;
        }
        let row = serde_json::json!({
            "campaign": "bytes",
            "seed": seed,
            "images": opened + refused,
            "opened": opened,
            "refused": refused,
            "commands": commands,
            "scribbled_writes": writes,
            "scribbled_rounds": rounds,
            "peak_kib": peak_kib,
            "findings": *findings,
            "seconds": took.as_secs_f64(),
        });
        crate::results::append(self.options.out.as_deref(), "bytes", &row)?;
        Ok(findings.is_empty())
    }
}

/// A user's process, with all that it starts in a process group of its own.
struct User {
    child: Child,
}

impl User {
    fn start(campaign: &Campaign, args: &[String]) -> anyhow::Result<Self> {
        let mut command = Command::new("/proc/self/exe");
        command.arg("bytes-worker").args(args);
        command.arg("--dir").arg(campaign.dir);
        if let Some(path) = &campaign.command {
            command.arg("--command").arg(path);
        }
        let child = command
            .env("RUST_BACKTRACE", "0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()?;
        Ok(Self { child })
    }

    /// Listens until it ends; an error says how it should not have.
    fn attend(&mut self, patience: Duration, mut note: impl FnMut(&str)) -> Result<(), String> {
        let (tell, told) = mpsc::channel();
        let out = self.child.stdout.take();
        thread::spawn(move || {
            let lines = out.into_iter().flat_map(|out| BufReader::new(out).lines());
            for line in lines.map_while(Result::ok) {
                if tell.send(line).is_err() {
                    break;
                }
            }
        });
        let stderr = self.child.stderr.take();
        let said = thread::spawn(move || {
            let mut said = String::new();
            // What is not text is lost, and with it at worst an explanation.
            let _ = stderr.map(|mut stderr| stderr.read_to_string(&mut said));
            said
        });
        let hung = loop {
            match told.recv_timeout(patience) {
                Ok(line) => note(&line),
                Err(RecvTimeoutError::Disconnected) => break false,
                Err(RecvTimeoutError::Timeout) => break true,
            }
        };
        if hung {
            let _ = killpg(
                Pid::from_raw(self.child.id().cast_signed()),
                Signal::SIGKILL,
            );
        }
        let status = self.child.wait().map_err(|error| error.to_string())?;
        let said = said.join().unwrap_or_default();
        judge(status, hung).map_err(|what| format!("{what}: {}", said.trim()))
    }
}

impl Drop for User {
    fn drop(&mut self) {
        // Whatever it started ends with it; without any of it there is nobody to tell.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn judge(status: ExitStatus, hung: bool) -> Result<(), String> {
    if hung {
        return Err("it does not come to an end".to_owned());
    }
    match status.signal() {
        Some(signal) => Err(format!("ended by signal {signal}")),
        None if status.success() => Ok(()),
        None => Err(format!("{status}")),
    }
}
