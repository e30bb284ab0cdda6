//! Attaching, detaching and what is left in between: the byte, the sweep, the record.
//!
//! A session attaches in the order collect if no record is free, claim, open; it detaches in
//! the order close, byte.

use std::convert::Infallible;
use std::slice;
use std::sync::Arc;

use super::super::model::{Actor, Judge, Sleep, World, act, finish};
use super::super::protocol::reclaim::{Bytes, Kernel, claim, collect, lives};
use super::super::protocol::session::{Credentials, LifeSign, SessionRecord, Watch};
use super::super::protocol::slot::Grant;
use super::super::protocol::word::{Owner, Queue, Vacancy};
use crate::check::Model;
use crate::stop;

/// The one record for which sessions come and go.
const RECORD: u32 = 0;

/// An heir of another session.
const HEIR: u32 = 1;

/// A table with session records.
#[derive(Debug)]
struct Table {
    world: Arc<World>,
    record: SessionRecord,
}

fn credentials(pid: u32) -> Credentials {
    let word = u64::from(pid);
    Credentials {
        pid,
        shares_witness: false,
        pid_namespace: word,
        now_ms: word,
        command: [word, word],
    }
}

impl Table {
    /// A table whose one session has died owning its slot.
    fn left_by_the_dead() -> Arc<Self> {
        let table = Self {
            world: World::new(1, 2),
            record: SessionRecord::new(),
        };
        table.record.open(&credentials(100));
        let mortal = Actor::new(&table.world, RECORD);
        let grant = mortal.try_acquire().expect("a fresh slot is free");
        table.world.section.enter(grant.token());
        table.world.die(RECORD);
        Arc::new(table)
    }

    /// Frees the record, if its session is dead; `None` if somebody else has it.
    fn collect(&self) -> Option<u32> {
        let waker = Actor::new(&self.world, RECORD);
        let Ok(claimed) = collect(&self.world.slots, self.records(), &*self.world, &waker);
        claimed
    }

    /// Collects, and comes to nothing more.
    fn collect_and_go(&self) {
        if self.collect().is_some() {
            self.world.let_go(RECORD);
        }
    }

    /// Attaches as `pid`; false if somebody else has the record.
    fn attach(&self, pid: u32) -> bool {
        let claim = || {
            let Ok(claimed) = claim(self.records(), &*self.world);
            claimed
        };
        if claim().or_else(|| self.collect()).is_none() {
            return false;
        }
        assert!(
            !self.is_named(),
            "a session begins with a slot of its predecessor"
        );
        self.record.open(&credentials(pid));
        true
    }

    /// Takes the slot from its session, if nobody lives who acts for that, uses it and releases it.
    fn inherit(&self) -> bool {
        let seen = self.world.slot().owner();
        let life = self.record.life_sign();
        let Ok(lives) = lives(&self.record, RECORD, &life, &*self.world);
        let heir = Actor::new(&self.world, HEIR);
        let Some(grant) = (!lives).then(|| heir.take(seen)).flatten() else {
            return false;
        };
        self.world.section.enter(grant.token());
        assert!(heir.release(&grant), "nobody revokes it");
        true
    }

    fn records(&self) -> &[SessionRecord] {
        slice::from_ref(&self.record)
    }

    /// Whether the slot is held in the record's name.
    fn is_named(&self) -> bool {
        let owner = self.world.slot().owner().owner();
        matches!(owner, Owner::Held(holder) if holder.session() == RECORD)
    }

    /// Uses the slot in the name of the session `pid`; `None` if it is held.
    fn use_slot(&self, pid: u32) -> Option<Grant> {
        let actor = Actor::new(&self.world, RECORD).as_process(pid);
        let grant = actor.try_acquire()?;
        self.world.section.enter(grant.token());
        assert!(
            actor.release(&grant),
            "a grant was lost that nobody revoked"
        );
        Some(grant)
    }

    /// Detaches: no slot names the session any more.
    fn detach(&self) {
        self.record.close();
        self.world.die(RECORD);
    }
}

/// The kernel, asked by whoever is no session yet.
impl Kernel for World {
    type Error = Infallible;

    fn is_held(&self, session: u32) -> Result<bool, Infallible> {
        Ok(!self.is_dead(session))
    }

    fn is_witnessed(&self, session: u32, incarnation: u64) -> Result<bool, Infallible> {
        Ok(self.is_witnessed(session, incarnation))
    }
}

impl Bytes for World {
    fn try_bar(&self, session: u32) -> Result<bool, Infallible> {
        Ok(self.try_bar(session))
    }

    fn try_lock(&self, session: u32) -> Result<bool, Infallible> {
        Ok(self.try_take_barred(session))
    }

    fn unlock(&self, session: u32) -> Result<(), Infallible> {
        self.give_back(session);
        Ok(())
    }
}

/// Which of the record's sessions an heir comes beside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beside {
    /// The one that is killed.
    TheKilled,
    /// The next, once that one is dead.
    TheNext,
    /// Both, one after the other.
    Both,
}

/// What an heir does about the dead one's slot. One that waits announces itself, and takes it
/// at the last of many looks: each by itself is small enough to be searched without a bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heir {
    /// It announces that it waits, at two looks, and is not seen again.
    Announces,
    /// It takes the slot by one look, after so much was announced.
    Takes(Queue),
    /// It waits for as long as it takes.
    Waits,
}

impl Heir {
    fn act(self, world: &Arc<World>) -> Option<Grant> {
        let mut heir = Actor::new(world, HEIR)
            .judging(Judge::TheDead)
            .sleeping(Sleep::Poll);
        match self {
            Self::Announces => {
                for _ in 0..2 {
                    let seen = world.slot().owner();
                    if let Owner::Held(_) = seen.owner() {
                        let _ = world.slot().queue_up(seen, Queue::Asleep);
                    }
                }
                None
            }
            Self::Takes(_) => {
                let grant = heir.try_inherit()?;
                world.section.enter(grant.token());
                assert!(heir.release(&grant), "nobody revokes it");
                Some(grant)
            }
            Self::Waits => heir.use_lock(),
        }
    }
}

/// A session that attaches, uses its slot and detaches, and is killed anywhere; the next
/// in the same record; an heir. No word of the slot comes back, so an heir that reads one
/// beside the first session, and takes the slot from it beside the second, is as one that
/// reads it only then.
#[must_use]
pub fn session_killed(beside: Beside, heir: Heir, steps: u32) -> Model {
    let model = Model::new(
        format!("a session killed anywhere, the next ({heir:?} beside {beside:?})"),
        "no session begins with a slot of its predecessor, and none loses one by a sweep",
        2,
        move |reached| {
            let table = Table::left_by_the_dead();
            let slot = table.world.slot();
            if let Heir::Takes(announced) = heir {
                assert!(slot.queue_up(slot.owner(), announced));
            }
            let (one, two) = (reached.clone(), reached.clone());
            let (first, second, world) = (table.clone(), table.clone(), table.world.clone());
            let is_killed = move || {
                let outcome = stop::after(steps, || {
                    assert!(first.attach(101), "the byte is free");
                    let _ = first.use_slot(101);
                    first.record.close();
                });
                one.mark(if outcome.is_none() {
                    "killed"
                } else {
                    "detached"
                });
                first.world.die(RECORD);
            };
            let comes_next = move || {
                assert!(second.attach(102), "the byte is free");
                let _ = second.use_slot(102);
                second.detach();
            };
            let inherits = act(move || {
                let Some(grant) = heir.act(&world) else {
                    return;
                };
                two.mark(match grant.from().owner() {
                    Owner::Held(holder) if holder.pid() == 100 => "from the first",
                    Owner::Held(holder) if holder.pid() == 101 => "from the second",
                    Owner::Vacant(Vacancy::Died(100 | 101)) => "found swept",
                    Owner::Vacant(Vacancy::Released) => "found released",
                    other => panic!("no rule leads from {other:?} to a grant here"),
                });
            });
            match beside {
                Beside::TheKilled => {
                    finish([act(is_killed), inherits]);
                    comes_next();
                }
                Beside::TheNext => {
                    is_killed();
                    finish([act(comes_next), inherits]);
                }
                Beside::Both => {
                    let both = act(move || {
                        is_killed();
                        comes_next();
                    });
                    finish([both, inherits]);
                }
            }
            assert!(!table.record.is_active());
            let mut last = Actor::new(&table.world, HEIR);
            last.use_lock().expect("nothing is left to wait for");
        },
    )
    .reaching(&["killed", "detached"]);
    match heir {
        Heir::Announces => model,
        Heir::Takes(_) | Heir::Waits => model.reaching(&[
            "from the first",
            "from the second",
            "found swept",
            "found released",
        ]),
    }
}

/// Who finds a session dead whose job goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finder {
    /// The next session, which wants its record.
    TheNext,
    /// An heir of its slot.
    TheHeir,
}

/// A session whose process dies, and in whose name a job goes on that has inherited its witness:
/// it is in the section that the slot guards, until it ends.
#[must_use]
pub fn job_outlives_its_session(finder: Finder) -> Model {
    Model::new(
        format!("a session that dies, a job that has its witness, and who looks ({finder:?})"),
        "nobody is granted a lock while a job runs that was started under it",
        2,
        move |reached| {
            let table = Arc::new(Table {
                world: World::new(1, 2),
                record: SessionRecord::new(),
            });
            let shares = |pid| Credentials {
                shares_witness: true,
                ..credentials(pid)
            };
            // One before has left somebody, too, who keeps nothing of this one's.
            table.record.open(&shares(99));
            let before = table.record.life_sign().incarnation();
            table.world.inherit_witness(RECORD, before);
            table.record.close();
            let incarnation = table.record.next_incarnation();
            table.world.inherit_witness(RECORD, incarnation);
            table.record.open(&shares(100));
            let mortal = Actor::new(&table.world, RECORD);
            let grant = mortal.try_acquire().expect("a fresh slot is free");
            let (ends, looks, marks) = (table.clone(), table.clone(), reached.clone());
            finish([
                act(move || {
                    ends.world.die(RECORD);
                    ends.world.section.enter(grant.token());
                    ends.world.end_witness(RECORD, incarnation);
                }),
                act(move || {
                    let has_it = match finder {
                        Finder::TheNext => looks.attach(101) && looks.use_slot(101).is_some(),
                        Finder::TheHeir => looks.inherit(),
                    };
                    marks.mark(if has_it { "granted" } else { "refused" });
                }),
            ]);
            assert!(
                table.inherit() || !table.is_named(),
                "what nobody keeps any more is not to be had"
            );
        },
    )
    .reaching(&["granted", "refused"])
}

/// Two sessions that want the one record.
#[must_use]
pub fn two_attach() -> Model {
    Model::new(
        "two sessions attach to a dead one's record",
        "the kernel's byte lets one in at a time, the second only after the first, or the next",
        2,
        |reached| {
            let table = Table::left_by_the_dead();
            let all: Vec<_> = [101, 102]
                .map(|pid| {
                    let (table, marks) = (table.clone(), reached.clone());
                    act(move || {
                        if !table.attach(pid) {
                            marks.mark("refused");
                            return;
                        }
                        let view = table.record.view().expect("it is mine");
                        assert!(view.active && view.credentials == credentials(pid));
                        let grant = table.use_slot(pid).expect("nobody else is attached");
                        if grant.token() == 3 {
                            marks.mark("one after the other");
                        }
                        table.detach();
                    })
                })
                .into();
            finish(all);
            if table.record.is_active() {
                reached.mark("barred by both, and left to the next");
            }
            assert!(table.attach(103), "nobody has the byte");
        },
    )
    .reaching(&[
        "refused",
        "one after the other",
        "barred by both, and left to the next",
    ])
}

/// A collector that has found a session dead, and is late: meanwhile another comes into its
/// record, and dies there with the slot. An heir comes only after both.
#[must_use]
pub fn late_collector() -> Model {
    Model::new(
        "a collector that is late, the record's next session, which dies holding its slot",
        "a collector takes nothing from a session that it has not found dead, nor its record",
        2,
        |reached| {
            let table = Table::left_by_the_dead();
            let (late, next, marks) = (table.clone(), table.clone(), reached.clone());
            finish([
                act(move || late.collect_and_go()),
                act(move || {
                    if !next.attach(101) {
                        marks.mark("refused");
                        return;
                    }
                    let actor = Actor::new(&next.world, RECORD).as_process(101);
                    let grant = actor.try_acquire().expect("nobody else is attached");
                    next.world.section.enter(grant.token());
                    assert_eq!(next.world.slot().owner(), grant.word(), "it still lives");
                    next.world.die(RECORD);
                }),
            ]);
            if table.record.is_active() {
                reached.mark("left");
            } else {
                assert!(
                    !table.is_named(),
                    "its record was closed before its slot was free"
                );
                reached.mark("collected");
            }
            assert!(table.attach(102), "nobody has the byte");
            let mut heir = Actor::new(&table.world, HEIR);
            heir.use_lock().expect("nothing is left to wait for");
        },
    )
    .reaching(&["refused", "left", "collected"])
}

/// A collector, and a session that comes into the record just then, as if it had looked at it
/// long ago. All that it does there is to write: what it reads would hide from loom that the
/// collector has read it, and with that an order of the two (its issues 166 and 392).
#[must_use]
pub fn newcomer_beside_collector() -> Model {
    Model::new(
        "a collector, and a session that comes into the record just then",
        "a session keeps its slot and its record, however late it came for who collects",
        2,
        |reached| {
            let table = Table::left_by_the_dead();
            table.collect_and_go();
            assert!(!table.is_named(), "its session is dead");
            // As if it had died with nothing in hand.
            table.record.open(&credentials(100));
            let (late, next, marks) = (table.clone(), table.clone(), reached.clone());
            finish([
                act(move || late.collect_and_go()),
                act(move || {
                    if !next.world.try_revive(RECORD) {
                        return;
                    }
                    next.record.open(&credentials(101));
                    next.use_slot(101).expect("nobody else is attached");
                    marks.mark("kept");
                }),
            ]);
            assert!(
                table.world.is_dead(RECORD) || table.record.is_active(),
                "a record was closed under its session"
            );
        },
    )
    .reaching(&["kept"])
}

/// A collector that is stopped anywhere, and stays there: it keeps its byte, if it has one.
#[must_use]
pub fn collector_stops(steps: u32) -> Model {
    Model::new(
        "a collector that is stopped anywhere",
        "a session that owns a slot looks dead as long as it does",
        1,
        move |_| {
            let table = Table::left_by_the_dead();
            let _ = stop::after(steps, || table.collect());
            assert!(
                !table.is_named() || table.world.is_dead(RECORD),
                "the dead look alive behind a collector that is stopped"
            );
        },
    )
}

/// A claimer that is stopped anywhere, and stays there, beside a session that comes into the
/// record, and dies holding its slot.
#[must_use]
pub fn claimer_stops(steps: u32) -> Model {
    Model::new(
        "a claimer that is stopped anywhere, a session that dies in the record",
        "a session that owns a slot looks dead as soon as it is",
        2,
        move |reached| {
            let table = Arc::new(Table {
                world: World::new(1, 2),
                record: SessionRecord::new(),
            });
            table.world.die(RECORD);
            let (claims, dies, marks) = (table.clone(), table.clone(), reached.clone());
            finish([
                act(move || {
                    let _ = stop::after(steps, || claim(claims.records(), &*claims.world));
                }),
                act(move || {
                    if !dies.attach(101) {
                        marks.mark("refused");
                        return;
                    }
                    let actor = Actor::new(&dies.world, RECORD).as_process(101);
                    let _ = actor.try_acquire().expect("nobody else is attached");
                    dies.world.die(RECORD);
                    marks.mark("died");
                }),
            ]);
            assert!(
                !table.is_named() || table.world.is_dead(RECORD),
                "the dead look alive behind a claimer that is stopped"
            );
        },
    )
    .reaching(&["died"])
}

/// Whether an evictor looks at the beat once more, right before its CAS. That, too, is its
/// caller's part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecondLook {
    /// It does.
    Taken,
    /// It does not.
    LeftOut,
}

/// A holder that beats again after a lease of silence, and an evictor that has decided.
#[must_use]
pub fn beat_and_evict(second_look: SecondLook) -> Model {
    const LEASE_NS: u64 = 10;
    Model::new(
        "a holder that beats again, an evictor that has decided",
        "nobody is evicted whose beat the evictor can have seen before its CAS",
        2,
        move |reached| {
            let world = World::new(1, 2);
            let holder = Actor::new(&world, RECORD);
            let _ = holder.try_acquire().expect("a fresh slot is free");
            let record = Arc::new(SessionRecord::new());
            record.open(&credentials(100));
            // Silent for a lease, by the evictor's own polls.
            let seen = world.slot().owner();
            let mut watch = Watch::new(seen, record.life_sign(), 0);
            let silent = watch.look(seen, record.life_sign(), LEASE_NS, LEASE_NS);
            assert_eq!(silent, LEASE_NS);
            let evictor = Actor::new(&world, HEIR);
            let (beating, marks) = (record.clone(), reached.clone());
            let all = [
                act(move || {
                    beating.beat(1);
                    // Any other word: whoever sees it changed knows of the beat.
                    holder.world().die(HEIR);
                }),
                act(move || {
                    let knows = evictor.world().is_dead(HEIR);
                    let life = look(&record, second_look, &watch);
                    if life != watch.life() {
                        marks.mark("spared");
                        return;
                    }
                    if evictor.take(seen).is_some() {
                        marks.mark("evicted");
                        assert!(!knows, "evicted in spite of a beat that it knew of");
                    }
                }),
            ];
            finish(all);
        },
    )
    .reaching(&["spared", "evicted"])
}

fn look(record: &SessionRecord, second_look: SecondLook, watch: &Watch) -> LifeSign {
    match second_look {
        SecondLook::Taken => record.life_sign(),
        SecondLook::LeftOut => watch.life(),
    }
}
