//! Looking at a table, with or without a session, and the operator's force-release.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::checkup::{self, Checkup};
use crate::error::{ForceReleaseError, Forked, InspectError, OpenError, TableReplaced};
use crate::holder::{CommandName, FencingToken, Holder, Liveness, Previous, text_of};
use crate::layout;
use crate::mapping::{Access, TableFile};
use crate::os::byte_lock;
use crate::os::clock;
use crate::os::fork::GatePage;
use crate::os::process;
use crate::place::{Place, Whereabouts, is_absence};
use crate::policy::Reclaim;
use crate::protocol::names::NamingWords;
use crate::protocol::slot::{Slot, SlotView};
use crate::protocol::wait;
use crate::protocol::word::{Identity, Owner, OwnerWord, Vacancy};
use crate::view::{Futex, View, new_gate, now_ms, previous_of, since};

/// What a slot is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SlotState {
    /// Nobody has it.
    Free,
    /// Somebody has it.
    Held,
    /// Free, and the last holder did not release it: the next one will be told.
    Abandoned,
    /// Its owner word is one that no rule can have produced.
    Corrupt,
}

impl SlotState {
    /// The word that `--json` prints.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Free => "free",
            Self::Held => "held",
            Self::Abandoned => "abandoned",
            Self::Corrupt => "corrupt",
        }
    }
}

impl std::fmt::Display for SlotState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// A slot, as of one moment.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SlotInfo {
    /// Its name as it was written, which is not fit for a terminal as it is: see
    /// [`printable`](crate::printable). A name in a damaged file that is not UTF-8 is
    /// given with escapes in place of what is not, and is no name to ask for.
    pub name: String,
    /// What it is doing.
    pub state: SlotState,
    /// The token of the current grant, or else of the latest; 0 if there was none.
    pub token: FencingToken,
    /// How many threads wait for it, as their sessions show.
    pub waiters: u32,
    /// Who holds it.
    pub holder: Option<Holder>,
    /// How the latest grant ended, when nobody holds it.
    pub previous: Previous,
    /// The note of the current grant, as it was written; the same holds as for the name.
    pub note: Option<String>,
}

/// A session: a process attached to the table, or one that died attached.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SessionInfo {
    /// Its index in the table.
    pub session: u32,
    /// Its process id, in its own PID namespace.
    pub pid: u32,
    /// Its command name.
    pub command: CommandName,
    /// What is known of it.
    pub liveness: Liveness,
    /// How long ago its last heartbeat was; for showing only.
    pub heartbeat_age: Duration,
    /// How long ago it attached.
    pub attached_for: Duration,
    /// Whether its PID means the same here as there; `false`, too, where that cannot be told.
    pub same_pid_namespace: bool,
    /// How many slots it holds.
    pub held: u32,
    /// The byte of the file that those have locked who have inherited its witness, if it shares
    /// one.
    ///
    /// For the command line: not part of the library's promise.
    #[doc(hidden)]
    pub witness_byte: Option<u64>,
    /// Whether its last heartbeat is dated later than now, which takes another clock.
    ///
    /// For the command line: not part of the library's promise.
    #[doc(hidden)]
    pub is_ahead: bool,
}

/// The table itself.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TableInfo {
    /// Its path, absolute.
    pub path: PathBuf,
    /// Its reclaim policy.
    pub reclaim: Reclaim,
    /// How many names it can have.
    pub slots: u32,
    /// How many sessions it can have.
    pub sessions: u32,
    /// The size of its file, in bytes.
    pub bytes: u64,
    /// What tells it from every other table: 32 hexadecimal digits.
    pub id: String,
    /// Its file format.
    pub format: String,
    /// How many names it has.
    pub names: u32,
    /// Whether it was used under this boot of the machine; if not, opening it resets it.
    pub current_boot: bool,
    /// Whether the file at the path still is the one that was opened.
    pub in_place: bool,
    /// New names start above this token.
    pub token_floor: FencingToken,
    /// Who is creating a name right now, or stopped or died doing so.
    pub naming: Option<Holder>,
}

/// A whole table. Each slot is as of one moment; they are not all of the same one.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Snapshot {
    /// The table itself.
    pub table: TableInfo,
    /// The slots that have names, in the order of their names.
    pub slots: Vec<SlotInfo>,
    /// The sessions, in the order of their indices.
    pub sessions: Vec<SessionInfo>,
}

impl Snapshot {
    /// The slot of that name.
    #[must_use]
    pub fn slot(&self, name: &str) -> Option<&SlotInfo> {
        self.slots.iter().find(|slot| slot.name == name)
    }
}

/// What a force-release did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Forced {
    /// The lock was taken from this holder.
    From(Holder),
    /// It was free already, with news of a holder that did not release: the next owner
    /// is not told any more.
    Acknowledged(Previous),
    /// Its damaged owner word was replaced. Whoever may have held it, the next owner is told of
    /// a [forced](crate::Previous::Forced) predecessor: the process that the word named, or else
    /// the one that forced it.
    Repaired,
}

/// A table mapped for reading, without a session: for looking on, even at a full one.
///
/// ```
/// # let dir = tempfile::tempdir()?;
/// # let path = dir.path().join("app.table");
/// # let table = caslock::LockTable::open(&path)?;
/// # let lock = table.lock("nightly-report")?;
/// # let _guard = lock.acquire()?;
/// let inspector = caslock::Inspector::open(&path)?;
/// for slot in inspector.snapshot()?.slots {
///     println!("{} is {}", caslock::printable(&slot.name), slot.state);
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Inspector {
    view: View,
    gate: GatePage,
}

impl std::fmt::Debug for Inspector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inspector")
            .field("path", &self.view.path)
            .finish_non_exhaustive()
    }
}

impl Inspector {
    /// Opens the table at `path` for reading.
    ///
    /// # Errors
    ///
    /// [`OpenError`]; the same rules hold as for using the table.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, OpenError> {
        Self::open_for(path.as_ref(), Access::ReadOnly)
    }

    fn open_for(path: &Path, access: Access) -> Result<Self, OpenError> {
        let file = TableFile::open(path, access)?;
        let gate = new_gate(file.path())?;
        let view = View::new(&file, &gate)?;
        Ok(Self { view, gate })
    }

    /// The table's reclaim policy.
    #[must_use]
    pub fn reclaim(&self) -> Reclaim {
        self.view.geometry.reclaim()
    }

    /// A snapshot of slots, holders, waiters and sessions.
    ///
    /// # Errors
    ///
    /// [`InspectError::Forked`] in a forked child.
    pub fn snapshot(&self) -> Result<Snapshot, InspectError> {
        self.not_forked()?;
        Ok(snapshot(&self.view))
    }

    /// One slot, without reading the others; `None` if the table has no such name.
    ///
    /// # Errors
    ///
    /// [`InspectError::Forked`] in a forked child.
    pub fn slot(&self, name: impl AsRef<str>) -> Result<Option<SlotInfo>, InspectError> {
        self.not_forked()?;
        let name = name.as_ref();
        let Some(key) = self.view.key(name.as_bytes()) else {
            return Ok(None);
        };
        // One that has got another name since it was found by this one is looked for again.
        let look = || {
            let Some(found) = self.view.names().find(&key) else {
                return Some(None);
            };
            let waiters = count_waiters(&self.view, found.slot);
            let seen = slot_info(&self.view, found.slot, waiters)?;
            (seen.name == name).then_some(Some(seen))
        };
        Ok((0..64).find_map(|_| look()).flatten())
    }

    /// Takes the grant `token` of `name` from its holder; see
    /// [`LockTable::force_release`](crate::LockTable::force_release). Maps the table for
    /// writing for this one call, and takes no session.
    ///
    /// # Errors
    ///
    /// [`ForceReleaseError`]; nothing was changed then.
    pub fn force_release(
        &self,
        name: impl AsRef<str>,
        token: impl Into<FencingToken>,
    ) -> Result<Forced, ForceReleaseError> {
        self.force(name.as_ref(), token.into(), News::Acknowledged)
    }

    /// The same, but of a lock that was abandoned before it leaves the news to the next owner:
    /// [`Forced::Acknowledged`] then says which.
    ///
    /// For the command line: not part of the library's promise.
    ///
    /// # Errors
    ///
    /// [`ForceReleaseError`]; nothing was changed then.
    #[doc(hidden)]
    pub fn force_release_leaving_news(
        &self,
        name: impl AsRef<str>,
        token: impl Into<FencingToken>,
    ) -> Result<Forced, ForceReleaseError> {
        self.force(name.as_ref(), token.into(), News::Left)
    }

    fn force(
        &self,
        name: &str,
        token: FencingToken,
        news: News,
    ) -> Result<Forced, ForceReleaseError> {
        self.not_forked()?;
        let writer = Self::open_for(&self.view.path, Access::ReadWrite)?;
        // Tokens of another table may be the same numbers.
        if writer.view.probe.id() != self.view.probe.id() {
            let path = self.view.path.clone();
            return Err(TableReplaced { path }.into());
        }
        force_release(&writer.view, name, token, news)
    }

    /// What is wrong with the table as a whole. May take a second, where something seems so.
    ///
    /// For the command line: not part of the library's promise.
    ///
    /// # Errors
    ///
    /// [`InspectError::Forked`] in a forked child.
    #[doc(hidden)]
    pub fn checkup(&self) -> Result<Checkup, InspectError> {
        self.not_forked()?;
        Ok(checkup::checkup(&self.view))
    }

    /// Which of these sessions send a heartbeat while this waits for it, for a good two seconds at
    /// most. One that shows as late and is among them has another clock than this process.
    ///
    /// For the command line: not part of the library's promise.
    ///
    /// # Errors
    ///
    /// [`InspectError::Forked`] in a forked child.
    #[doc(hidden)]
    pub fn beating(&self, sessions: &[u32]) -> Result<Vec<u32>, InspectError> {
        self.not_forked()?;
        Ok(checkup::beating(&self.view, sessions))
    }

    fn not_forked(&self) -> Result<(), Forked> {
        if self.gate.is_wiped() {
            let path = self.view.path.clone();
            return Err(Forked { path });
        }
        Ok(())
    }
}

pub(crate) fn snapshot(view: &View) -> Snapshot {
    let mut waiters = vec![0_u32; view.mapping.slots().len()];
    let mut held = vec![0_u32; view.mapping.sessions().len()];
    for (slot, count) in all_waits(view) {
        if let Some(total) = waiters.get_mut(slot as usize) {
            *total = total.saturating_add(count);
        }
    }
    let mut slots = Vec::new();
    for (index, words) in (0_u32..).zip(view.mapping.slots()) {
        if let Owner::Held(holder) = words.owner().owner()
            && let Some(count) = held.get_mut(holder.session() as usize)
        {
            *count += 1;
        }
        slots.extend(slot_info(view, index, waiters[index as usize]));
    }
    slots.sort_by(|a, b| a.name.cmp(&b.name));
    Snapshot {
        table: table_info(view),
        slots,
        sessions: session_infos(view, &held),
    }
}

/// The slots that living sessions wait for.
fn all_waits(view: &View) -> impl Iterator<Item = (u32, u32)> {
    (0_u32..)
        .zip(view.mapping.sessions())
        .filter(|(_, record)| record.is_active() && record.waiting().next().is_some())
        .filter(|&(index, _)| view.probe.is_locked(byte_lock::session_byte(index)) == Some(true))
        .flat_map(|(_, record)| record.waiting())
}

fn count_waiters(view: &View, slot: u32) -> u32 {
    all_waits(view)
        .filter(|&(waited, _)| waited == slot)
        .fold(0, |sum, (_, count)| sum.saturating_add(count))
}

/// A slot's state; `None` for a slot that has no name, or is just getting one.
fn slot_info(view: &View, index: u32, waiters: u32) -> Option<SlotInfo> {
    if index == NamingWords::SLOT {
        return None;
    }
    let words = view.slot(index);
    let look = || {
        let read = view.names().read(index, || view_or_word(words))?;
        let holder = view.holder_seen(words, &read.seen)?;
        Some((read.key, read.seen, holder))
    };
    let (key, now, holder) = (0..64).find_map(|_| look())?;
    let name = text_of(key?.to_bytes());
    let state = match now.word.owner() {
        Owner::Held(_) if holder.is_some() => SlotState::Held,
        Owner::Held(_) | Owner::Corrupt => SlotState::Corrupt,
        Owner::Renaming(_) => return None,
        Owner::Vacant(vacancy) if vacancy.is_abandoned() => SlotState::Abandoned,
        Owner::Vacant(_) => SlotState::Free,
    };
    let note = holder
        .as_ref()
        .and_then(|_| view.name_record(index).read_note(now.token))
        .map(|note| text_of(note.to_bytes()));
    Some(SlotInfo {
        name,
        state,
        // A name that was never granted has the generation that its creation left.
        token: match now.word.owner() {
            Owner::Vacant(Vacancy::Fresh) => FencingToken(0),
            _ => FencingToken(now.token),
        },
        waiters,
        holder,
        previous: previous_of(now.word.owner(), now.token),
        note,
    })
}

/// The slot as of one moment, or, of one that changes all the time, nearly so.
fn view_or_word(slot: &Slot) -> SlotView {
    slot.view().unwrap_or_else(|| SlotView {
        word: slot.owner(),
        token: 0,
        since_ms: 0,
    })
}

fn table_info(view: &View) -> TableInfo {
    let header = view.mapping.header();
    let in_place = match Place::of(&view.path, view.probe.id()) {
        Ok(place) => place.check(&view.probe) != Whereabouts::Gone,
        Err(error) => !is_absence(&error),
    };
    TableInfo {
        path: view.path.clone(),
        reclaim: view.geometry.reclaim(),
        slots: view.geometry.slots,
        sessions: view.geometry.sessions,
        bytes: view.geometry.file_len(),
        id: header
            .table_id()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect(),
        format: layout::describe_format(),
        names: u32::try_from(view.names().count()).unwrap_or(u32::MAX),
        current_boot: clock::boot_id().is_ok_and(|boot| boot == header.boot_id()),
        in_place,
        token_floor: FencingToken(view.mapping.naming().floor()),
        naming: view.current_holder(view.slot(NamingWords::SLOT)),
    }
}

fn session_infos(view: &View, held: &[u32]) -> Vec<SessionInfo> {
    (0_u32..)
        .zip(view.mapping.sessions())
        .filter_map(|(session, record)| {
            let now = record.view().filter(|now| now.active)?;
            let who = now.credentials;
            let (liveness, heartbeat_age) = view.liveness(Identity::new(who.pid, session));
            Some(SessionInfo {
                session,
                pid: who.pid,
                command: CommandName::from_words(who.command),
                liveness,
                heartbeat_age,
                attached_for: since(who.now_ms),
                same_pid_namespace: view.shares_pids_with(&who),
                held: held.get(session as usize).copied().unwrap_or(0),
                witness_byte: who
                    .shares_witness
                    .then(|| byte_lock::witness_byte(session, now.life.incarnation())),
                is_ahead: now.beat_ms > now_ms(),
            })
        })
        .collect()
}

/// What becomes of the news of a holder that did not release, where it is all there is to force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum News {
    Acknowledged,
    Left,
}

/// Takes the grant `asked` from its holder by one CAS from the word that carries it.
pub(crate) fn force_release(
    view: &View,
    name: &str,
    asked: FencingToken,
    news: News,
) -> Result<Forced, ForceReleaseError> {
    let no_such_lock = || ForceReleaseError::NoSuchLock {
        name: name.to_owned(),
    };
    let key = view.key(name.as_bytes()).ok_or_else(no_such_lock)?;
    loop {
        let found = view.names().find(&key).ok_or_else(no_such_lock)?;
        let slot = view.slot(found.slot);
        let Some(now) = slot.view() else { continue };
        if slot.renames() != found.renames {
            continue;
        }
        let Some(forced) = what_force_does(view, name, asked, slot, &now)? else {
            continue;
        };
        let done = match forced {
            Forced::Acknowledged(_) if news == News::Left => true,
            Forced::Acknowledged(_) => wait::acknowledge(slot, now.word, &Futex),
            Forced::From(_) | Forced::Repaired => {
                wait::vacate(slot, now.word, Vacancy::Forced(blamed(now.word)), &Futex)
            }
        };
        // Changed in between: a waiter announced itself, or the grant has ended. Look again.
        if !done {
            continue;
        }
        if let Forced::From(holder) = &forced {
            view.notify(holder.session);
            tracing::warn!(name, pid = holder.pid, token = %asked, "force-released");
        }
        return Ok(forced);
    }
}

/// What a forced release of the grant `asked` is to do with a slot that was seen as `now`; none if
/// it has to look again.
fn what_force_does(
    view: &View,
    name: &str,
    asked: FencingToken,
    slot: &Slot,
    now: &SlotView,
) -> Result<Option<Forced>, ForceReleaseError> {
    let owner = now.word.owner();
    if now.token != asked.0 && owner != Owner::Vacant(Vacancy::Fresh) {
        return Err(ForceReleaseError::TokenMismatch {
            name: name.to_owned(),
            asked,
            current: FencingToken(now.token),
        });
    }
    match owner {
        Owner::Held(who) if view.knows(who) => Ok(Some(Forced::From(view.holder(slot, who, now)))),
        // Only since it was found by its name: the next look does not find it there. Where
        // nobody holds the naming lock, the word was scribbled.
        Owner::Renaming(_) if is_naming(view) => Ok(None),
        Owner::Held(_) | Owner::Corrupt | Owner::Renaming(_) => Ok(Some(Forced::Repaired)),
        Owner::Vacant(vacancy) if vacancy.is_abandoned() => {
            let previous = previous_of(owner, now.token);
            Ok(Some(Forced::Acknowledged(previous)))
        }
        Owner::Vacant(_) => Err(ForceReleaseError::NotHeld {
            name: name.to_owned(),
            token: asked,
        }),
    }
}

/// Of whom the next owner is told after a forced release: whom the word names, who may have been
/// in the middle of something, or else this process.
fn blamed(word: OwnerWord) -> u32 {
    match word.pid() {
        0 => process::pid(),
        pid => pid,
    }
}

fn is_naming(view: &View) -> bool {
    matches!(view.slot(NamingWords::SLOT).owner().owner(), Owner::Held(_))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::testing::{Child, Watchdog};
    use crate::table::LockTable;
    use rustix::process::{Resource, Rlimit, setrlimit};

    /// That was said of one whose directory could not be opened just then.
    #[test]
    fn that_it_cannot_be_looked_for_is_no_proof_that_a_table_is_gone() {
        let _watchdog = Watchdog::start();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t");
        let _table = LockTable::open(&path).unwrap();
        let looking = Child::fork(|| {
            let inspector = Inspector::open(&path).unwrap();
            let none = Rlimit {
                current: Some(0),
                maximum: Some(0),
            };
            setrlimit(Resource::Nofile, none).unwrap();
            assert!(inspector.snapshot().unwrap().table.in_place);
        });
        looking.join();
    }

    #[test]
    fn a_table_tells_who_is_making_a_name_and_whether_it_is_of_this_boot() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t");
        let table = LockTable::open(&path).unwrap();
        let inspector = Inspector::open(&path).unwrap();
        let look = || inspector.snapshot().unwrap().table;
        assert!(look().naming.is_none() && look().current_boot);
        let session = table.attached();
        let naming = session.view.slot(NamingWords::SLOT);
        let _ = naming.take(naming.owner(), session.identity, false);
        let namer = look().naming.unwrap();
        let namer = (namer.pid, namer.session, namer.liveness);
        assert_eq!(namer, (process::pid(), table.session(), Liveness::Alive));
        assert!(wait::vacate(
            naming,
            naming.owner(),
            Vacancy::Released,
            &Futex
        ));
        assert!(look().naming.is_none());
        session.view.mapping.header().set_boot_id([1; 16]);
        assert!(!look().current_boot);
    }

    /// By its name it is not found while it gets another: only what has changed since then.
    #[test]
    fn a_slot_that_is_being_renamed_is_looked_at_again_and_repaired_if_nobody_makes_a_name() {
        let dir = tempfile::tempdir().unwrap();
        let table = LockTable::open(dir.path().join("t")).unwrap();
        let lock = table.lock("job").unwrap();
        let token = lock.acquire().unwrap().token();
        let session = table.attached();
        let view = &session.view;
        let key = view.key(b"job").unwrap();
        let slot = view.slot(view.names().find(&key).unwrap().slot);
        let now = SlotView {
            word: slot.owner().granted_to(session.identity.renaming()),
            token: token.0,
            since_ms: 0,
        };
        assert!(matches!(now.word.owner(), Owner::Renaming(_)));
        let force = || what_force_does(view, "job", token, slot, &now).unwrap();
        assert_eq!(force(), Some(Forced::Repaired));
        let naming = view.slot(NamingWords::SLOT);
        let _ = naming.take(naming.owner(), session.identity, false);
        assert_eq!(force(), None);
        assert!(wait::vacate(
            naming,
            naming.owner(),
            Vacancy::Released,
            &Futex
        ));
    }
}
