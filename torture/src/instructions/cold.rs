//! Recovery by a process that was not there: it opens the table after the death.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::Context;
use caslock::{Guard, LockTable, SlotState};

use super::image::{Entry, Image, Owner};
use super::stage::{self, Deed, Stage};
use super::tally::{Fault, News, Recovery, Tally, check};
use super::tracee::{Route, Tracee};
use super::{Budget, PROGRESS};

pub(super) const CREATE: &str = "create";
pub(super) const RESET: &str = "reset after a reboot";

/// Longer than any recovery takes: a lock that is not to be had by then is stuck.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// A directory for tables, in memory.
pub(super) fn scratch() -> anyhow::Result<tempfile::TempDir> {
    let mut dir = tempfile::Builder::new();
    dir.prefix("caslock-torture-");
    let shm = Path::new("/dev/shm");
    let dir = if shm.is_dir() {
        dir.tempdir_in(shm)
    } else {
        dir.tempdir()
    };
    dir.context("a scratch directory")
}

/// Creation, where there is nothing yet.
pub(super) fn create(stage: &mut Stage, budget: Budget) -> anyhow::Result<Tally> {
    let mut tally = Tally::new(CREATE);
    let trial = Trial::new(Deed::Create, None)?;
    let (route, images) = trial.survey(stage)?;
    tally.instructions = route.len();
    tally.is_whole = true;
    recover_images(&images, &mut tally)?;
    trial.kill_everywhere(stage, &route, budget, &mut tally)?;
    Ok(tally)
}

/// The reset, of a table with a lock that a dead process held and with idle ones.
pub(super) fn reset(stage: &mut Stage, budget: Budget) -> anyhow::Result<(Tally, Vec<Image>)> {
    let mut tally = Tally::new(RESET);
    let dir = scratch()?;
    let path = dir.path().join("t.table");
    stage::created().create(&path)?;
    let table = LockTable::open(&path)?;
    for name in ["idle-a", "idle-b"] {
        table.lock(name)?.acquire()?.release()?;
    }
    drop(table);
    let holder = stage.holder(&path, "job")?;
    let image = Image::new(fs::read(&path)?).of_another_boot();
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(holder.cast_signed()),
        nix::sys::signal::Signal::SIGKILL,
    )?;
    let trial = Trial::new(Deed::Open, Some(image))?;
    let (route, images) = trial.survey(stage)?;
    tally.instructions = route.len();
    tally.is_whole = true;
    recover_images(&images, &mut tally)?;
    trial.kill_everywhere(stage, &route, budget, &mut tally)?;
    Ok((tally, images))
}

/// The recovery from each image, killed in turn.
pub(super) fn nested(
    stage: &mut Stage,
    name: String,
    deed: Deed,
    images: &[Image],
    budget: Budget,
) -> anyhow::Result<Tally> {
    let mut tally = Tally::new(name);
    tally.is_whole = true;
    let share = Budget(budget.0.map(|all| all / images.len().max(1) as u32));
    let mut begun = 0;
    // Where time is short, as many images as it allows, spread over all.
    for nth in budget.spread(images.len()) {
        begun += 1;
        let trial = Trial::new(deed, Some(images[nth].clone().of_the_dead()))?;
        let (route, _) = trial.survey(stage)?;
        tally.instructions += route.len();
        trial.kill_everywhere(stage, &route, share, &mut tally)?;
    }
    tally.is_whole &= begun == images.len();
    Ok(tally)
}

/// Makes a table of each image, whose owners are all dead then, and recovers: once as their
/// deaths would have left it, and once as it was copied, when no kernel tells of a death.
pub(super) fn recover_images(images: &[Image], tally: &mut Tally) -> anyhow::Result<()> {
    let dir = scratch()?;
    for (nth, copy) in images.iter().enumerate() {
        let path = dir.path().join(format!("{nth}.table"));
        let image = copy.clone().of_the_dead();
        write_table(&path, &image)?;
        tally.count_image(nth, recover(&path, Some(&image)));
        write_table(&path, copy)?;
        tally.count_copy(nth, recover(&path, Some(copy)));
        fs::remove_file(&path)?;
        PROGRESS.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

fn write_table(path: &Path, image: &Image) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::write(path, image.bytes())?;
    Ok(fs::set_permissions(
        path,
        fs::Permissions::from_mode(0o600),
    )?)
}

/// What came of a kill; None: the victim strayed from its route, and came to its end.
pub(super) type Killed = Option<Result<Recovery, Fault>>;

/// A victim that took another way may take the same way as the first one next time.
pub(super) fn again_if_strayed(
    mut kill: impl FnMut() -> anyhow::Result<Killed>,
) -> anyhow::Result<Killed> {
    const TRIES: usize = 8;
    for _ in 1..TRIES {
        if let killed @ Some(_) = kill()? {
            return Ok(killed);
        }
    }
    kill()
}

/// One operation, from one state of the file.
struct Trial {
    deed: Deed,
    from: Option<Image>,
    dir: tempfile::TempDir,
    path: PathBuf,
}

impl Trial {
    fn new(deed: Deed, from: Option<Image>) -> anyhow::Result<Self> {
        let dir = scratch()?;
        let path = dir.path().join("t.table");
        Ok(Self {
            deed,
            from,
            dir,
            path,
        })
    }

    /// A victim at its mark, before a file of its own.
    fn begin(&self, stage: &mut Stage) -> anyhow::Result<Tracee> {
        if self.path.exists() {
            fs::remove_file(&self.path)?;
        }
        if let Some(image) = &self.from {
            write_table(&self.path, image)?;
        }
        let pid = stage.victim(self.deed, &self.path, "newcomer")?;
        Tracee::start(pid, || stage.open_gate())
    }

    fn image(&self) -> Option<Image> {
        fs::read(&self.path).ok().map(Image::new)
    }

    fn survey(&self, stage: &mut Stage) -> anyhow::Result<(Route, Vec<Image>)> {
        let tracee = self.begin(stage)?;
        let mut images = Vec::new();
        let route = tracee.survey(None, || {
            keep_if_new(&mut images, self.image());
            Ok(())
        })?;
        Ok((route, images))
    }

    fn kill_everywhere(
        &self,
        stage: &mut Stage,
        route: &Route,
        budget: Budget,
        tally: &mut Tally,
    ) -> anyhow::Result<()> {
        let mut visited = 0;
        for step in budget.spread(route.len()) {
            visited += 1;
            let outcome = again_if_strayed(|| self.kill_at(stage, route, step))?;
            tally.count_or_strayed(step, outcome);
            PROGRESS.fetch_add(1, Ordering::Relaxed);
        }
        tally.is_whole &= visited == route.len();
        Ok(())
    }

    fn kill_at(&self, stage: &mut Stage, route: &Route, step: usize) -> anyhow::Result<Killed> {
        let tracee = self.begin(stage)?;
        if !tracee.run_to(route, step, None)? {
            return Ok(None);
        }
        let image = self.image();
        tracee.kill()?;
        let outcome = self.judge(image.as_ref());
        tracee.bury()?;
        let news = News::Afterwards;
        Ok(Some(outcome.map(|took| Recovery { took, news })))
    }

    fn judge(&self, image: Option<&Image>) -> Result<Duration, Fault> {
        let files = fs::read_dir(self.dir.path()).map_or(0, Iterator::count);
        check(files == usize::from(image.is_some()), || {
            format!("{files} files")
        })?;
        recover(&self.path, image)
    }
}

/// Adds a state of the file that was not seen before.
pub(super) fn keep_if_new(images: &mut Vec<Image>, image: Option<Image>) {
    let Some(image) = image.map(|image| image.at_rest()) else {
        return;
    };
    if images.last() != Some(&image) && !images.contains(&image) {
        images.push(image);
    }
}

/// Opens the table, or creates it, and takes every lock that its bytes tell of, whose
/// owners are all dead. The time until it had the first.
fn recover(path: &Path, image: Option<&Image>) -> Result<Duration, Fault> {
    let begun = Instant::now();
    // Where another recoverer has just been killed it may be a moment from being gone.
    let table = loop {
        match LockTable::options().slots(6).sessions(8).open(path) {
            Ok(table) => break table,
            Err(_) if begun.elapsed() < PATIENCE => std::thread::yield_now(),
            Err(error) => return Err(Fault::Wedged(error.to_string())),
        }
    };
    let mut took = None;
    let entries = image.map_or_else(Vec::new, Image::entries);
    for entry in &entries {
        let lock = table.lock(&entry.name).map_err(wedged)?;
        let guard = lock.acquire_timeout(PATIENCE).map_err(wedged)?;
        took.get_or_insert_with(|| begun.elapsed());
        told_right(&guard, entry, &expected(entry))?;
        guard.release().map_err(wedged)?;
    }
    let lock = table.lock("survivor").map_err(wedged)?;
    let guard = lock.acquire_timeout(PATIENCE).map_err(wedged)?;
    let took = took.unwrap_or_else(|| begun.elapsed());
    guard.release().map_err(wedged)?;
    inspect_is_clean(&table)?;
    Ok(took)
}

pub(super) fn wedged(error: impl std::fmt::Display) -> Fault {
    Fault::Wedged(error.to_string())
}

/// What the next owner must be told, where the owner of a slot is dead.
pub(super) fn expected(entry: &Entry) -> (&'static str, Option<u32>) {
    match entry.owner {
        Owner::Held(pid) => ("died", Some(pid)),
        Owner::Gone(pid, how) => (how, Some(pid)),
        Owner::Released => ("released", None),
        Owner::Fresh => ("none", None),
        Owner::Renaming | Owner::Corrupt => ("", None),
    }
}

/// Whether a grant follows what was there.
pub(super) fn told_right(
    guard: &Guard<'_>,
    before: &Entry,
    (how, pid): &(&'static str, Option<u32>),
) -> Result<(), Fault> {
    let previous = guard.previous();
    let told = (previous.as_str(), previous.departed().map(|who| who.pid));
    check(told == (*how, *pid), || {
        format!("told {told:?} of {before:?}, not {how} {pid:?}")
    })?;
    // Across a reset the tokens are raised in between.
    let departed = previous.departed().map_or(before.token, |who| who.token.0);
    check(
        guard.token().0 > before.token && departed >= before.token && departed < guard.token().0,
        || format!("token {} of {departed} after {before:?}", guard.token()),
    )?;
    check(guard.is_held(), || "the grant is not held".into())
}

/// Whether `inspect` finds nothing to complain of.
pub(super) fn inspect_is_clean(table: &LockTable) -> Result<(), Fault> {
    let snapshot = table.inspect().map_err(wedged)?;
    let corrupt = snapshot
        .slots
        .iter()
        .find(|slot| slot.state == SlotState::Corrupt);
    check(corrupt.is_none(), || format!("corrupt: {corrupt:?}"))?;
    let twice = snapshot
        .slots
        .windows(2)
        .find(|pair| pair[0].name == pair[1].name);
    check(twice.is_none(), || format!("twice: {twice:?}"))?;
    let naming = snapshot.table.naming;
    check(naming.is_none(), || format!("still naming: {naming:?}"))
}
