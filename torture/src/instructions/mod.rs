//! Every instruction of every operation as a crash point.
//!
//! A victim runs one operation under ptrace and is killed at its k-th instruction, for
//! every k. Then somebody else must get the lock, with a higher token and the right news
//! of its predecessor; no other slot may have changed; and `inspect` must find nothing
//! wrong. What should be there is read from the file's bytes by `image`, not by caslock.
//!
//! The first run of each operation is stepped through, and each state of the file that it
//! passes is kept: a table is made of each, its owner dead, and must recover as well. The
//! recovery of those is killed at its own instructions in turn.
//!
//! `stage` has the victims, `tracee` brings them to an instruction, `warm` kills beside a
//! survivor that is attached already, `cold` leaves the recovery to a new process.

mod cold;
mod image;
mod stage;
mod tally;
mod tracee;
mod warm;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::results;
use stage::{Deed, Stage};
use tally::{News, Tally, Times};
use warm::{Scene, Warm};

/// How much of the campaign to run.
#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// At most so many seconds of kills an operation, spread over it; all of it otherwise
    #[arg(long)]
    pub seconds: Option<f64>,
    /// The same for each operation whose recovery is killed in turn
    #[arg(long)]
    pub nested_seconds: Option<f64>,
    /// Only operations whose names contain this
    #[arg(long)]
    pub only: Option<String>,
    /// Append the results, a line of JSON each, to `instructions.jsonl` in this directory
    /// [default: target/torture of the workspace]
    #[arg(long)]
    pub out: Option<PathBuf>,
}

/// For how long to kill.
#[derive(Clone, Copy, Debug)]
struct Budget(Option<Duration>);

impl Budget {
    /// Every number below `end` once, spread evenly at any time, as far as time allows.
    fn spread(self, end: usize) -> impl Iterator<Item = usize> {
        let begun = Instant::now();
        // A stride near the golden section that has no divisor in common with the end.
        let mut stride = end * 618 / 1000 + 1;
        while gcd(stride, end) != 1 {
            stride += 1;
        }
        (0..end)
            .take_while(move |&nth| nth == 0 || self.0.is_none_or(|limit| begun.elapsed() < limit))
            .map(move |nth| nth * stride % end)
    }
}

const fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Counted up at each kill.
static PROGRESS: AtomicU64 = AtomicU64::new(0);

/// Ends everything if no kill is done for longer than any of them can take.
fn watch_over() {
    const PATIENCE: Duration = Duration::from_secs(90);
    thread::spawn(|| {
        loop {
            let before = PROGRESS.load(Ordering::Relaxed);
            thread::sleep(PATIENCE);
            if PROGRESS.load(Ordering::Relaxed) == before {
                eprintln!("watchdog: nothing has happened for {PATIENCE:?}");
                std::process::abort();
            }
        }
    });
}

const fn warm(name: &'static str, deed: Deed, scene: Scene) -> Warm {
    Warm { name, deed, scene }
}

const WARM: [Warm; 14] = [
    warm("open and attach", Deed::Open, Scene::Free),
    warm("attach, collecting the dead", Deed::Open, Scene::Crowded),
    warm("resolve a name", Deed::Name, Scene::Free),
    warm("create a name", Deed::Name, Scene::Room),
    warm("recycle a name", Deed::Name, Scene::Full),
    warm("try", Deed::Try, Scene::Free),
    warm("try in vain", Deed::Try, Scene::HeldByUs),
    warm("acquire", Deed::Acquire, Scene::Free),
    warm("acquire, asleep and awake", Deed::Acquire, Scene::HeldByUs),
    warm("release", Deed::Release, Scene::Free),
    warm("release to a waiter", Deed::Release, Scene::Waited),
    warm("reclaim from the dead", Deed::Try, Scene::HeldByDead),
    warm("force-release", Deed::Force, Scene::HeldByLiving),
    warm("detach", Deed::Detach, Scene::Free),
];

const EVICT: Warm = warm("evict the silent", Deed::Evict, Scene::HeldByStopped);

/// Runs the campaign. True: nothing was found.
///
/// # Errors
/// What keeps it from being run.
pub fn run(options: &Options) -> anyhow::Result<bool> {
    let mut stage = Stage::fork().context("forking the stage")?;
    watch_over();
    let budget = |seconds: Option<f64>| Budget(seconds.map(Duration::from_secs_f64));
    let (once, nested) = (budget(options.seconds), budget(options.nested_seconds));
    let wanted = |name: &str| options.only.as_ref().is_none_or(|only| name.contains(only));
    let mut clean = true;
    let mut news = BTreeMap::<News, Times>::new();
    let mut done = |tally: Tally| {
        println!("{tally}");
        clean &= tally.is_clean();
        for (told, times) in &tally.news {
            news.entry(*told).or_default().merge(times);
        }
        results::append(options.out.as_deref(), "instructions", &tally.row())
    };
    println!("{}", Tally::HEAD);
    if wanted(cold::CREATE) {
        done(cold::create(&mut stage, once)?)?;
    }
    for plan in WARM.iter().chain([&EVICT]) {
        let nest = format!("{}, recovery killed, too", plan.name);
        if !wanted(plan.name) && !wanted(&nest) {
            continue;
        }
        let (tally, images) = warm::campaign(plan, &mut stage, once)?;
        done(tally)?;
        if plan.scene.is_naming() {
            done(cold::nested(&mut stage, nest, Deed::Name, &images, nested)?)?;
        }
    }
    if wanted(cold::RESET) {
        let (tally, images) = cold::reset(&mut stage, once)?;
        done(tally)?;
        let nest = format!("{}, recovery killed, too", cold::RESET);
        done(cold::nested(&mut stage, nest, Deed::Open, &images, nested)?)?;
    }
    println!(
        "\n| how the death was told | recoveries | over 5 ms | slowest |\n|---|---:|---:|---:|"
    );
    for (told, times) in news {
        let slowest = times.slowest.as_secs_f64() * 1e3;
        println!(
            "| {told} | {} | {} | {slowest:.1} ms |",
            times.count, times.slow
        );
    }
    Ok(clean)
}
