//! Recovery by a process that is attached all along, beside a holder of another lock.

use std::cell::Cell;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use caslock::{Guard, Lock, LockTable};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::cold::{self, Killed, PATIENCE, again_if_strayed, keep_if_new, wedged};
use super::image::{Certificate, Entry, Image, Owner};
use super::stage::{self, Deed, Stage};
use super::tally::{Fault, News, Recovery, Tally, check};
use super::tracee::{Alarm, Route, Tracee, wait_stopped};
use super::{Budget, PROGRESS};

/// What a victim comes upon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scene {
    /// A lock that nobody holds.
    Free,
    /// No record but those of dead sessions, which hold locks.
    Crowded,
    /// A table with room for one more name.
    Room,
    /// A table without.
    Full,
    /// The survivor holds the lock until the victim sleeps.
    HeldByUs,
    HeldByDead,
    HeldByStopped,
    HeldByLiving,
    /// The victim holds the lock and the survivor sleeps for it.
    Waited,
}

impl Scene {
    /// Whether a name is created.
    pub(super) const fn is_naming(self) -> bool {
        matches!(self, Self::Room | Self::Full)
    }

    const fn has_holder(self) -> bool {
        matches!(
            self,
            Self::HeldByDead | Self::HeldByStopped | Self::HeldByLiving
        )
    }
}

/// One operation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Warm {
    pub(super) name: &'static str,
    pub(super) deed: Deed,
    pub(super) scene: Scene,
}

const JOB: &str = "job";
const NEWCOMER: &str = "newcomer";
const BYSTANDER: &str = "bystander";
const IDLE: [&str; 2] = ["idle-a", "idle-b"];

/// Kills the operation everywhere, and recovers from each state that it passes.
pub(super) fn campaign(
    plan: &Warm,
    stage: &mut Stage,
    budget: Budget,
) -> anyhow::Result<(Tally, Vec<Image>)> {
    let mut tally = Tally::new(plan.name);
    let ground = Ground::new(*plan, stage)?;
    let bystander = ground.table.lock(BYSTANDER)?;
    let held = bystander.acquire()?;
    let from = ground.image()?;

    let mut images = Vec::new();
    let route = ground.survey(stage, &from, &mut images)?;
    tally.instructions = route.len();
    cold::recover_images(&images, &mut tally)?;
    let mut visited = 0;
    for step in budget.spread(route.len()) {
        visited += 1;
        let outcome = again_if_strayed(|| ground.kill_at(stage, &from, &route, step))?;
        let outcome = outcome.map(|outcome| {
            let robbed = || check(held.is_held(), || "the bystander was robbed".into());
            outcome.and_then(|recovery| robbed().map(|()| recovery))
        });
        tally.count_or_strayed(step, outcome);
        PROGRESS.fetch_add(1, Ordering::Relaxed);
    }
    tally.is_whole = visited == route.len();
    held.release()?;
    Ok((tally, images))
}

/// A table, and the survivor's session in it.
struct Ground {
    plan: Warm,
    _dir: tempfile::TempDir,
    path: PathBuf,
    file: File,
    table: LockTable,
    job: Lock,
    /// The process that holds the lock before, or did so when it died.
    holder: Option<u32>,
}

impl Drop for Ground {
    fn drop(&mut self) {
        // The dead one's number may be somebody else's by now.
        if let Some(pid) = self.holder.filter(|_| self.plan.scene != Scene::HeldByDead) {
            let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
        }
    }
}

impl Ground {
    fn new(plan: Warm, stage: &mut Stage) -> anyhow::Result<Self> {
        let dir = cold::scratch()?;
        let path = dir.path().join("t.table");
        let slots = if plan.scene == Scene::Full { 4 } else { 5 };
        let sessions = if plan.scene == Scene::Crowded { 3 } else { 6 };
        let options = match plan.scene {
            Scene::HeldByStopped => stage::evicting(slots, sessions),
            _ => stage::options(slots, sessions),
        };
        options.create(&path)?;
        let table = LockTable::options().open_existing(&path)?;
        for name in [BYSTANDER, JOB].iter().chain(&IDLE) {
            table.lock(name)?.acquire()?.release()?;
        }
        let mut holder = None;
        if plan.scene == Scene::Crowded {
            for name in IDLE {
                end(certified_holder(stage, &path, name)?)?;
            }
        } else if plan.scene.has_holder() {
            let pid = certified_holder(stage, &path, JOB)?;
            match plan.scene {
                Scene::HeldByDead => end(pid)?,
                Scene::HeldByStopped => {
                    kill(Pid::from_raw(pid.cast_signed()), Signal::SIGSTOP)?;
                    wait_stopped(pid);
                }
                _ => {}
            }
            holder = Some(pid);
        }
        Ok(Self {
            plan,
            _dir: dir,
            file: File::options().read(true).write(true).open(&path)?,
            path,
            job: table.lock(JOB)?,
            table,
            holder,
        })
    }

    fn image(&self) -> anyhow::Result<Image> {
        let len = usize::try_from(self.file.metadata()?.len())?;
        let mut bytes = vec![0; len];
        self.file.read_exact_at(&mut bytes, 0)?;
        Ok(Image::new(bytes))
    }

    /// A victim at its mark, in a table as it was at the beginning.
    fn begin(&self, stage: &mut Stage, from: &Image) -> anyhow::Result<(Tracee, Ours<'_>)> {
        self.file.write_all_at(from.bytes(), 0)?;
        let ours = match self.plan.scene {
            Scene::HeldByUs => Some(self.job.acquire()?),
            _ => None,
        };
        let word = match self.plan.deed {
            Deed::Name if self.plan.scene.is_naming() => NEWCOMER.to_owned(),
            Deed::Force => {
                let token = from.entry(JOB).map_or(0, |entry| entry.token);
                format!("{JOB} {token}")
            }
            _ => JOB.to_owned(),
        };
        let pid = stage.victim(self.plan.deed, &self.path, &word)?;
        Ok((Tracee::start(pid, || stage.open_gate())?, Cell::new(ours)))
    }

    fn survey(
        &self,
        stage: &mut Stage,
        from: &Image,
        images: &mut Vec<Image>,
    ) -> anyhow::Result<Route> {
        let (tracee, ours) = self.begin(stage, from)?;
        thread::scope(|scope| {
            let waiter = self.waiter(scope)?;
            let alarm = || Ok(ours.take().map_or(Ok(()), Guard::release)?);
            let alarm: Alarm<'_> = self.may_sleep().then_some(&alarm);
            let route = tracee.survey(alarm, || {
                keep_if_new(images, Some(self.image()?));
                Ok(())
            })?;
            drop(tracee);
            drop(waiter);
            Ok(route)
        })
    }

    fn may_sleep(&self) -> bool {
        self.plan.scene == Scene::HeldByUs && self.plan.deed == Deed::Acquire
    }

    /// Kills a victim at a step, and has the survivor recover: how long it took, or what
    /// is wrong. None: it strayed from its route.
    fn kill_at(
        &self,
        stage: &mut Stage,
        from: &Image,
        route: &Route,
        step: usize,
    ) -> anyhow::Result<Killed> {
        let (tracee, ours) = self.begin(stage, from)?;
        thread::scope(|scope| {
            let waiter = self.waiter(scope)?;
            let before = self.image()?;
            let alarm = || Ok(ours.take().map_or(Ok(()), Guard::release)?);
            let alarm: Alarm<'_> = self.may_sleep().then_some(&alarm);
            if !tracee.run_to(route, step, alarm)? {
                return Ok(None);
            }
            let at_death = self.image()?;
            let alone = self.owner_is_alone(&at_death);
            let begun = Instant::now();
            tracee.kill()?;
            let ours = match ours.take() {
                Some(ours) => ours.release().map_err(wedged),
                None => Ok(()),
            };
            let pid = tracee.pid();
            let outcome = alone.and(ours).and_then(|()| match waiter {
                Some(waiter) => {
                    let grant = waiter.join().expect("a waiter does not panic");
                    self.settle(grant, &before, &at_death, pid, begun)
                }
                None => {
                    let lock = self.target()?;
                    self.acknowledge(&at_death)?;
                    let grant = lock.acquire_timeout(PATIENCE);
                    let grant = grant.map_err(wedged).map(|guard| (guard, Instant::now()));
                    self.settle(grant, &before, &at_death, pid, begun)
                }
            });
            tracee.bury()?;
            Ok(Some(outcome))
        })
    }

    /// Somebody who sleeps for the lock, where the scene has one.
    fn waiter<'s, 'e: 's>(
        &'e self,
        scope: &'s thread::Scope<'s, 'e>,
    ) -> anyhow::Result<Option<thread::ScopedJoinHandle<'s, Waited<'e>>>> {
        if self.plan.scene != Scene::Waited {
            return Ok(None);
        }
        let waiter = scope.spawn(|| {
            let guard = self.job.acquire_timeout(PATIENCE).map_err(wedged)?;
            Ok((guard, Instant::now()))
        });
        let waits = || -> anyhow::Result<bool> {
            let snapshot = self.table.inspect()?;
            Ok(snapshot.slot(JOB).is_some_and(|slot| slot.waiters > 0))
        };
        while !waits()? {
            thread::yield_now();
        }
        Ok(Some(waiter))
    }

    /// The lock that the survivor wants: the one of the operation.
    fn target(&self) -> Result<Lock, Fault> {
        match self.plan.scene.is_naming() {
            true => self.table.lock(NEWCOMER).map_err(wedged),
            false => Ok(self.job.clone()),
        }
    }

    /// While the owner by the file's word lives, nobody else may get the lock.
    fn owner_is_alone(&self, image: &Image) -> Result<(), Fault> {
        let owner = image.entry(JOB).map(|entry| entry.owner);
        let Some(Owner::Held(pid)) = owner else {
            return Ok(());
        };
        let gone = match self.plan.scene {
            Scene::HeldByDead | Scene::HeldByStopped => self.holder == Some(pid),
            _ => false,
        };
        if gone {
            return Ok(());
        }
        match self.job.try_acquire() {
            Ok(guard) => {
                let what = format!("process {pid} and token {}", guard.token());
                Err(Fault::DoubleOwner(what))
            }
            Err(_) => Ok(()),
        }
    }

    /// A living holder's lock is had by force only.
    fn acknowledge(&self, image: &Image) -> Result<(), Fault> {
        match image.entry(JOB) {
            Some(entry)
                if self.plan.scene == Scene::HeldByLiving
                    && self.holder.map(Owner::Held) == Some(entry.owner) =>
            {
                let forced = self.table.force_release(JOB, entry.token);
                forced.map(drop).map_err(wedged)
            }
            _ => Ok(()),
        }
    }

    /// Judges the survivor's grant, and what the table looks like then.
    fn settle(
        &self,
        grant: Waited<'_>,
        before: &Image,
        at_death: &Image,
        victim: u32,
        begun: Instant,
    ) -> Result<Recovery, Fault> {
        let (guard, granted) = grant?;
        let told = (
            guard.previous().as_str(),
            guard.previous().departed().map(|who| who.pid),
        );
        let after = self.image().map_err(wedged)?;
        let name = guard.lock().name().to_owned();
        let us = std::process::id();
        // A waiter may have its grant before the victim that released to it is killed.
        let last = match at_death.entry(&name) {
            Some(entry) if entry.owner == Owner::Held(us) => before.entry(&name).map(|was| Entry {
                owner: Owner::Released,
                ..was
            }),
            last => last,
        };
        if let Some(entry) = last {
            cold::told_right(&guard, &entry, &self.expected(&entry))?;
        }
        let now = after.entry(&name);
        check(
            now.as_ref().is_some_and(|now| now.owner == Owner::Held(us)),
            || format!("the survivor's grant is {now:?}"),
        )?;
        let slot = now.map_or(0, |now| now.slot);
        self.others_are_untouched(before, &after, slot, victim)?;
        guard.release().map_err(wedged)?;
        if self.plan.scene.is_naming() {
            // Naming goes on, whatever the victim left of it.
            let lock = self.table.lock("another").map_err(wedged)?;
            let guard = lock.acquire_timeout(PATIENCE).map_err(wedged)?;
            guard.release().map_err(wedged)?;
        }
        cold::inspect_is_clean(&self.table)?;
        let news = match self.owned_at_death(at_death, slot) {
            Some(_) if told == ("expired", self.holder) => News::Silence,
            Some(_) if told == ("forced", self.holder) => News::Forced,
            Some(owned) => told_by(at_death, &after, owned),
            None => News::NotOwner,
        };
        let took = granted.saturating_duration_since(begun);
        Ok(Recovery { took, news })
    }

    /// The slot that kept the survivor waiting: its own, or the naming lock's.
    fn owned_at_death(&self, at_death: &Image, slot: usize) -> Option<usize> {
        let us = Owner::Held(std::process::id());
        let naming = self.plan.scene.is_naming().then_some(0);
        let is_owned = |slot: &usize| {
            let owner = at_death.owner(*slot);
            matches!(owner, Owner::Held(_)) && owner != us
        };
        naming.into_iter().chain([slot]).find(is_owned)
    }

    fn expected(&self, entry: &Entry) -> (&'static str, Option<u32>) {
        match (self.plan.scene, entry.owner) {
            (Scene::HeldByStopped, Owner::Held(pid)) if self.holder == Some(pid) => {
                ("expired", Some(pid))
            }
            (Scene::HeldByLiving, Owner::Held(pid)) if self.holder == Some(pid) => {
                ("forced", Some(pid))
            }
            _ => cold::expected(entry),
        }
    }

    fn others_are_untouched(
        &self,
        before: &Image,
        after: &Image,
        slot: usize,
        victim: u32,
    ) -> Result<(), Fault> {
        let naming = self.plan.scene.is_naming();
        let crowded = self.plan.scene == Scene::Crowded;
        let was = |slot: usize| {
            before
                .entries()
                .into_iter()
                .find(|entry| entry.slot == slot)
        };
        let mut taken = 0;
        for changed in before.changed_slots(after) {
            let entry = was(changed);
            // Of the naming lock, of the slot that the victim was about to name, and of
            // those that a collector of the dead swept.
            let may = match &entry {
                None => naming,
                Some(Entry { owner, .. }) => {
                    naming && *owner == Owner::Released
                        || crowded && matches!(owner, Owner::Held(_))
                }
            };
            let is_bystander = entry.as_ref().is_some_and(|entry| entry.name == BYSTANDER);
            if changed != slot {
                taken += usize::from(changed != 0 && naming);
                check(may && !is_bystander, || {
                    format!("slot {changed} changed, {entry:?}")
                })?;
            }
        }
        check(taken <= 1, || format!("{taken} other slots changed"))?;
        let mut processes = vec![std::process::id(), victim];
        processes.extend(self.holder);
        check(
            crowded || before.same_around(after, naming, &processes),
            || "the header, the index or a session of somebody else changed".into(),
        )
    }
}

/// A holder whose keeper has a certificate: the table is put back to what it is from here on.
fn certified_holder(stage: &mut Stage, path: &Path, lock: &str) -> anyhow::Result<u32> {
    let pid = stage.holder(path, lock)?;
    loop {
        let image = Image::new(fs::read(path)?);
        let slot = image.entry(lock).context("the held lock")?.slot;
        if image.owners_certificate(slot) == Some(Certificate::Intact) {
            return Ok(pid);
        }
        thread::sleep(Duration::from_micros(200));
    }
}

/// What told of the death of a slot's owner.
fn told_by(at_death: &Image, after: &Image, slot: usize) -> News {
    match (
        at_death.owners_certificate(slot),
        after.certificate_of(at_death, slot),
    ) {
        (_, Some(Certificate::Marked)) => News::Marked,
        (Some(Certificate::None), _) => News::Uncertified,
        _ => News::Unmarked,
    }
}

/// The survivor's own grant, until it is given up for the victim.
type Ours<'a> = Cell<Option<Guard<'a>>>;

/// A grant and when it came.
type Waited<'a> = Result<(Guard<'a>, Instant), Fault>;

/// Kills a process that is not traced, and waits until it is gone.
fn end(pid: u32) -> anyhow::Result<()> {
    kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL)?;
    while fs::exists(format!("/proc/{pid}"))? {
        thread::sleep(Duration::from_micros(200));
    }
    Ok(())
}
