//! One thread waiting for one slot: when it spins, sleeps and gives up, and whom it asks
//! whether the holder still lives.

use std::mem;
use std::time::Duration;

use crate::contention::stint;
use crate::holder::Holder;
use crate::os::fork::Gate;
use crate::os::futex::{self, Ended};
use crate::os::{certificate, clock};
use crate::protocol::names::{NamingWords, RENAMES_MASK, Resolved};
use crate::protocol::session::{SessionRecord, Watch};
use crate::protocol::slot::{Slot, SlotView};
use crate::protocol::wait::{Defer, Slept, Spin, Verdict, Waiting, Wake};
use crate::protocol::word::{Identity, Owner, OwnerWord, Queue, Vacancy};
use crate::session::{Session, nanos};
use crate::sync::{AtomicU32, Ordering};
use crate::view::{Futex, Keeper, now_ms};

/// Why a grant could be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The slot was free.
    Vacancy,
    /// Its holder was proven dead.
    Death,
    /// Its holder was silent for a whole lease.
    Expiry,
}

impl Cause {
    /// How a predecessor that held the slot until this grant went.
    pub(crate) const fn takeover(self) -> fn(u32) -> Vacancy {
        match self {
            Self::Expiry => Vacancy::Expired,
            Self::Death | Self::Vacancy => Vacancy::Died,
        }
    }
}

/// How long to wait.
#[derive(Clone, Copy)]
pub(crate) enum Patience {
    None,
    /// By the monotonic clock, in nanoseconds.
    Until(u64),
    Endless,
}

impl Patience {
    pub(crate) fn lasting(timeout: Duration) -> Self {
        Self::Until(clock::now_ns().saturating_add(nanos(timeout)))
    }
}

/// Why a wait ended without a grant.
pub(crate) enum Stop {
    Refused(Holder),
    Renamed,
    Corrupt(OwnerWord),
    Closed,
}

/// For how long a waiter behind a holder that has begun to die looks again at once: its
/// other threads die at the same time on other processors.
const DYING_NOW_NS: u64 = 50_000;

/// For how long a waiter behind a holder that has begun to die only yields between looks:
/// most are gone by then, and a nap would overshoot by more than that.
const DYING_FAST_NS: u64 = 300_000;

/// How long a waiter has slept behind one holder when it first asks after it, beside an intact
/// certificate. More than a round of turns takes among thirty: who gets up for it is the last in
/// the kernel's queue when it lies down again.
const FIRST_ASK_NS: u64 = 15_000_000;

/// How long a nap without a certificate is at most: only a look finds its holder's death.
const BLIND_NAP_NS: u64 = 50_000_000;

/// How long it is at least, and at first: mostly the holder's keeper is still starting, and
/// a process that dies before it has one is to cost no more than it lived.
const BLIND_NAP_MIN_NS: u64 = 100_000;

/// For how long the heir looks at one and the same grant before it naps, or sleeps: about what
/// that costs.
const HEIR_LOOKS_NS: u64 = 50_000;

/// How long it naps behind one grant, at most: longer than a holder is mostly without its
/// processor. An heir that sleeps goes to the end of the queue; and behind a long grant others
/// would be called in its place, in vain.
const HEIR_NAPS_NS: u64 = 10_000_000;

/// How long such a nap is. Meanwhile the word names an heir: the holder's release need wake
/// nobody.
const HEIR_NAP_NS: u64 = 50_000;

/// After how long at one grant the heir yields between its looks: the holder may have lost
/// this very processor to it.
const HEIR_YIELDS_NS: u64 = 4_000;

/// For how long an heir is trusted by those who sleep behind it. Twice as long each time that
/// nobody has woken them by then: who goes to sleep again is the last in the kernel's queue.
const TRUST_NS: u64 = 20_000_000;

/// For how long it is trusted at first where the slot is often free. No turn ends there for
/// the heir to get the slot by, and who looks for itself may find it free.
const TRUST_OFTEN_FREE_NS: u64 = 3_000_000;

/// The longest pause is two to the power of this, in turns of the processor's own.
const MAX_PAUSE_SHIFT: u32 = 7;

/// The longest pause of an heir in a turn of the holder's. Each look costs the holder about a
/// tenth of a microsecond, and a turn ends only once; but the holder may have had enough before.
const MAX_HEIR_PAUSE_NS: u64 = 16_000;

/// The shortest, once the turn is due to end. Whoever leaves the slot to the heir takes about as
/// long to fall asleep: an heir that is faster calls the next one to a processor that is not
/// free yet, which then is its own.
const MIN_HEIR_PAUSE_NS: u64 = 3_000;

/// How long a newcomer leaves the slot to its last holder, as a power of two of pauses.
const KEPT_PAUSE_SHIFT: u32 = 6;

/// The last pause of one who holds back for an heir, as a power of two: then it yields, for the
/// heir may be waiting for this very processor.
const PAUSES_ASIDE: u32 = 6;

/// For how long at most one who has had no turn yields to an heir: where many want the
/// processor, one yield can take as long as all of them do elsewhere.
const DEFERS_NS: u64 = 5_000_000;

/// For how long an attempt that is not to wait, or not for longer, holds back, even past its
/// deadline. Without it, one that tries in a loop would take back at once what it has just
/// offered, for ever. Longer than an heir's nap, which the kernel may stretch by as much again.
const ATTEMPT_DEFERS_NS: u64 = 4 * HEIR_NAP_NS;

/// What a waiter knows of the holder that it sleeps behind.
struct Behind {
    holder: Option<Identity>,
    /// Since when it does, by the monotonic clock.
    since_ns: u64,
    /// Since when that one has had no certificate; 0: it has one.
    blind_ns: u64,
    /// When that one was first seen to have begun to die; 0: it was not.
    dying_ns: u64,
    keeper: Option<Keeper>,
}

impl Behind {
    const NOBODY: Self = Self {
        holder: None,
        since_ns: 0,
        blind_ns: 0,
        dying_ns: 0,
        keeper: None,
    };
}

/// One thread waiting for one slot: the protocol's view of clock, kernel and peers.
pub(crate) struct Blocking<'a> {
    session: &'a Session,
    place: Resolved,
    patience: Patience,
    spins: u32,
    most_spins: u32,
    /// When it first went to sleep behind a holder; 0: it has not.
    asleep_ns: u64,
    /// Whether a sleep, behind a holder or under a vacant word, came to pass.
    has_slept: bool,
    /// The generation of the grant whose end a newcomer spins for.
    spun_on: u64,
    deferrals: u32,
    /// Until when to yield to an heir; 0: not yet said.
    defers_until_ns: u64,
    /// Whether this process has just had its turn, and left the slot to the others.
    had_turn: bool,
    /// How often the heir was trusted for as long as it goes.
    trusted: u32,
    /// The word that was kept for another process at the last such look, and in how many
    /// such looks in a row that process had come back for it.
    looked_at: OwnerWord,
    keeps: u32,
    /// Whether that look has been learned from.
    is_learned: bool,
    /// The word at the last look since it came or was woken, if it showed another grant than
    /// the look before, and when that was.
    last_look: Option<(OwnerWord, u64)>,
    heir: Heir,
    /// When its pause ended, if its next look comes right after that.
    paused_until_ns: Option<u64>,
    /// When to ask next whether the holder is dead, though its certificate is intact.
    ask_ns: u64,
    /// The holder, and its certificate's value, of which the next sleeper was told.
    told: Option<(Identity, u32)>,
    behind: Behind,
    shown: Shown,
    /// What it has seen of the holder's heartbeat, before the session's watch was asked.
    watch: Option<Watch>,
    /// Whether that was asked.
    watched: bool,
    /// When the holder will have been seen silent for a whole lease, unless it beats by then:
    /// the next look is to come no later. By the monotonic clock; never, if there is no lease.
    expires_ns: u64,
    pub(crate) cause: Cause,
}

/// Whether people can see that this thread waits.
#[derive(PartialEq, Eq)]
enum Shown {
    NotYet,
    /// In this entry of the session's record.
    In(usize),
    /// The session waits for more slots than its record has entries.
    NoRoom,
}

/// What an heir has seen of those who barge in before it.
struct Heir {
    /// The word at the last look.
    seen: OwnerWord,
    same_since_ns: u64,
    /// Since when it has seen grants of that owner.
    owner_since_ns: u64,
    looks: u32,
}

impl Heir {
    const NEW: Self = Self {
        seen: OwnerWord::from_bits(0),
        same_since_ns: 0,
        owner_since_ns: 0,
        looks: 0,
    };

    /// Whether a holder has come back since the last look, as it does in its turn.
    fn is_in_turn_of(&self, held: OwnerWord) -> bool {
        self.seen.owner() == held.owner() && self.seen.generation() != held.generation()
    }

    /// How long to pause in a turn that is about as long as its own: the less, the nearer its
    /// end. It began a little before this heir was awake to see it.
    fn pause_ns(&self, now_ns: u64, turn_ns: u64) -> u64 {
        let due_ns = self.owner_since_ns + turn_ns / 8 * 7;
        let pause_ns = due_ns.abs_diff(now_ns) / 8;
        pause_ns.clamp(MIN_HEIR_PAUSE_NS, MAX_HEIR_PAUSE_NS)
    }
}

impl<'a> Blocking<'a> {
    pub(crate) fn new(session: &'a Session, place: Resolved, patience: Patience) -> Self {
        Self {
            session,
            place,
            patience,
            spins: 0,
            most_spins: session.contention.pauses_at(place.slot),
            asleep_ns: 0,
            has_slept: false,
            spun_on: 0,
            deferrals: 0,
            defers_until_ns: 0,
            had_turn: session.contention.turns.has_ended(place.slot),
            trusted: 0,
            looked_at: OwnerWord::from_bits(0),
            keeps: 0,
            is_learned: false,
            last_look: None,
            heir: Heir::NEW,
            paused_until_ns: None,
            ask_ns: 0,
            told: None,
            behind: Behind::NOBODY,
            shown: Shown::NotYet,
            watch: None,
            watched: false,
            expires_ns: u64::MAX,
            cause: Cause::Vacancy,
        }
    }

    /// Notes what came of the pauses, and tells when the wait was over. `taken` is the word
    /// that was replaced, if the slot was got.
    pub(crate) fn end(&mut self, taken: Option<OwnerWord>) -> u64 {
        let now_ns = clock::now_ns();
        // Found free by chance: neither offered to this one, nor left behind. Nor, which `learn`
        // sees to, the end of a grant that it has waited for.
        if let Some(word) = taken
            && word.owner() == Owner::Vacant(Vacancy::Released)
        {
            self.learn(word, now_ns);
        }
        if self.has_slept {
            stint::begin();
        }
        if self.spins > 0 {
            let spins = &self.session.contention.spins;
            spins.note(self.place.slot, self.slept_ns(now_ns));
        }
        now_ns
    }

    fn slot(&self) -> &'a Slot {
        self.session.view.slot(self.place.slot)
    }

    fn poll_ns(&self) -> u64 {
        nanos(self.session.view.geometry.poll())
    }

    fn certificate(&self, holder: Identity) -> Option<&'a AtomicU32> {
        self.session
            .view
            .record(holder.session())
            .map(SessionRecord::certificate)
    }

    /// Whether to have the kernel prove or disprove the holder's death. A waiter that is
    /// about to sleep beside an intact certificate need not: it is woken by the death. One
    /// whose wait gets long asks all the same, after [`FIRST_ASK_NS`] and then at each poll: no
    /// kernel marks the certificate in a file that was copied, or put back, after its processes
    /// had died.
    fn should_ask(&mut self, holder: Identity, now_ns: u64) -> bool {
        if holder == self.session.identity {
            return false;
        }
        let intact = self
            .certificate(holder)
            .is_some_and(|word| certificate::is_intact(word.load(Ordering::Relaxed)));
        let first = self.ask_ns == 0;
        let due = now_ns >= self.ask_ns;
        if due {
            let poll_ns = self.poll_ns();
            self.ask_ns = now_ns
                + if first {
                    poll_ns.min(FIRST_ASK_NS)
                } else {
                    poll_ns
                };
        }
        match self.patience {
            Patience::None => true,
            // The last look: who tries for short times again and again has no other.
            Patience::Until(deadline_ns) if now_ns >= deadline_ns => true,
            _ if first => !intact,
            _ => due || !intact,
        }
    }

    /// What is known of this holder, which it sleeps behind from now on at the latest.
    fn behind(&mut self, holder: Identity, now_ns: u64) -> &mut Behind {
        if self.behind.holder != Some(holder) {
            self.behind = Behind {
                holder: Some(holder),
                since_ns: now_ns,
                ..Behind::NOBODY
            };
        }
        &mut self.behind
    }

    /// How long to sleep behind a holder whose certificate has this value; `None`: to look again
    /// at once.
    fn nap_ns(&mut self, holder: Identity, value: u32, now_ns: u64) -> Option<u64> {
        let (session, poll_ns) = (self.session, self.poll_ns());
        let behind = self.behind(holder, now_ns);
        let slept_ns = now_ns.saturating_sub(behind.since_ns);
        if certificate::is_intact(value) {
            (behind.blind_ns, behind.dying_ns) = (0, 0);
            behind.keeper = session.view.keeper(holder);
            // An earlier mark was an earlier session's. But a wake beside one and the same intact
            // value is passed on once, as any.
            self.told.take_if(|told| certificate::is_marked(told.1));
            return Some(match slept_ns {
                ..FIRST_ASK_NS => poll_ns.min(FIRST_ASK_NS - slept_ns),
                _ => poll_ns,
            });
        }
        if !certificate::is_marked(value) {
            // The kernel would not tell of its death: look less and less often, so that it is
            // found within a quarter of the time that was waited for it.
            if behind.blind_ns == 0 {
                behind.blind_ns = now_ns;
            }
            let blind_for_ns = now_ns.saturating_sub(behind.blind_ns);
            let nap_ns = (blind_for_ns / 4).max(BLIND_NAP_MIN_NS);
            return Some(nap_ns.min(BLIND_NAP_NS).min(poll_ns));
        }
        // Not to be proven dead yet: look again soon, then less and less often, so that it is
        // found dead within a quarter of the time that dying takes it.
        if behind.dying_ns == 0 {
            behind.dying_ns = now_ns;
        }
        let dying_for_ns = now_ns.saturating_sub(behind.dying_ns);
        if dying_for_ns < DYING_NOW_NS {
            std::hint::spin_loop();
            return None;
        }
        if dying_for_ns < DYING_FAST_NS {
            std::thread::yield_now();
            return None;
        }
        // Past its end by now, if it has one: it can be asked after like any other, and its id
        // may become another thread's.
        behind.keeper = None;
        Some((dying_for_ns / 4).min(poll_ns))
    }

    fn is_proven_dead(&self, holder: Identity) -> bool {
        self.session.view.is_dead_with(self.behind.keeper, holder) == Some(true)
    }

    fn is_expired(&mut self, held: OwnerWord, holder: Identity, now_ns: u64) -> bool {
        let slot = self.place.slot;
        self.expires_ns = u64::MAX;
        let Some(lease) = self.session.view.lease_of(slot) else {
            return false;
        };
        if holder == self.session.identity {
            return false;
        }
        let silent_ns = if self.is_short(now_ns) {
            self.session.look(&mut self.watch, held, holder, now_ns)
        } else {
            self.watched = true;
            let begun = self.watch.take();
            self.session.silence(slot, begun, held, holder, now_ns)
        };
        let left_ns = nanos(lease).saturating_sub(silent_ns);
        self.expires_ns = now_ns.saturating_add(left_ns);
        left_ns == 0
    }

    /// Whether it has not waited for long, and may go on: then it watches the holder by itself.
    /// The session's watch is for whoever comes after this one has given up, too, and takes a
    /// lock, a map and room on a waiter's way to its grant.
    fn is_short(&self, now_ns: u64) -> bool {
        let may_go_on = match self.patience {
            Patience::None => false,
            Patience::Until(deadline_ns) => now_ns < deadline_ns,
            Patience::Endless => true,
        };
        may_go_on && self.slept_ns(now_ns) < self.poll_ns()
    }

    /// For how long it has waited since it first went to sleep behind a holder.
    fn slept_ns(&self, now_ns: u64) -> u64 {
        match self.asleep_ns {
            0 => 0,
            since_ns => now_ns.saturating_sub(since_ns),
        }
    }

    fn is_occupancy_low(&self) -> bool {
        self.session.contention.occupancy.is_low(self.place.slot)
    }

    /// Learns from a look at a slot that others wait for, and from the look before it, how much
    /// of the time the slot is held.
    ///
    /// Not from a first look: a newcomer comes because the slot was not to be had, and who was
    /// woken because it was left. True if it has learned something.
    fn learn(&mut self, seen: OwnerWord, now_ns: u64) -> bool {
        let Some((before, since_ns)) = self.last_look else {
            self.last_look = Some((seen, now_ns));
            return false;
        };
        let grants = seen.generations_since(before);
        // Of one and the same grant a second look says nothing new.
        let Some(period_ns) = now_ns.saturating_sub(since_ns).checked_div(grants) else {
            return false;
        };
        self.last_look = Some((seen, now_ns));
        let occupancy = &self.session.contention.occupancy;
        occupancy.look(self.place.slot, seen, period_ns);
        true
    }

    /// Pauses while the slot is kept by process `pid`, unless it had its chance before.
    fn defer_to_last(&mut self, seen: OwnerWord, pid: u32) -> Defer {
        if matches!(self.patience, Patience::None) {
            return Defer::Take;
        }
        let is_ours = pid == self.session.identity.pid();
        if !is_ours && self.looked_at != seen {
            self.is_learned = self.learn(seen, clock::now_ns());
        }
        if self.is_occupancy_low() {
            return Defer::Take;
        }
        if self.had_turn {
            return Defer::Sleep;
        }
        if is_ours {
            return Defer::Take;
        }
        if self.looked_at == seen {
            // It has kept the slot, and is away for longer than that could be worth.
            if let (false, Some((_, looked_ns))) = (self.is_learned, self.last_look) {
                let since_ns = clock::now_ns().saturating_sub(looked_ns);
                let occupancy = &self.session.contention.occupancy;
                occupancy.look_in_vain(self.place.slot, since_ns);
            }
            return Defer::Take;
        }
        let returned = self.looked_at.generation() != seen.generation();
        self.looked_at = seen;
        // One that has come back again and again will do so once more.
        self.keeps = if returned { self.keeps + 1 } else { 0 };
        pause(self.keeps.clamp(KEPT_PAUSE_SHIFT, MAX_PAUSE_SHIFT));
        Defer::Look
    }

    /// Pauses while the slot is offered to an heir, then lets it have the processor.
    fn defer_to_heir(&mut self) -> Defer {
        let is_low = self.is_occupancy_low();
        let is_attempt = self.is_attempt();
        // At once: who still falls asleep while the heir calls the next one would be called in
        // vain, and take the slot back after a single grant.
        if self.had_turn && !is_low && !is_attempt {
            return Defer::Sleep;
        }
        if self.deferrals <= PAUSES_ASIDE {
            pause(self.deferrals);
            self.deferrals += 1;
            return Defer::Look;
        }
        if is_low {
            return Defer::Take;
        }
        let now_ns = clock::now_ns();
        if self.defers_until_ns == 0 {
            self.defers_until_ns = if is_attempt {
                now_ns + ATTEMPT_DEFERS_NS
            } else {
                self.nap_until(now_ns, DEFERS_NS)
            };
        }
        if now_ns >= self.defers_until_ns {
            return Defer::Take;
        }
        std::thread::yield_now();
        Defer::Look
    }

    /// Whether this one hardly waits: it cannot stand aside asleep.
    fn is_attempt(&self) -> bool {
        match self.patience {
            Patience::None => true,
            Patience::Until(deadline_ns) => deadline_ns < clock::now_ns() + ATTEMPT_DEFERS_NS,
            Patience::Endless => false,
        }
    }

    /// Naps behind the holder in `held`, awake for all others; false if it may be dying.
    fn nap_behind(&mut self, held: OwnerWord, until_ns: u64) -> bool {
        let Owner::Held(holder) = held.owner() else {
            return false;
        };
        let Some(certificate) = self.certificate(holder) else {
            return false;
        };
        let value = certificate.load(Ordering::Relaxed);
        if !certificate::is_intact(value) {
            return false;
        }
        let keeper = self.session.view.keeper(holder);
        self.behind(holder, clock::now_ns()).keeper = keeper;
        match futex::wait(certificate, value, until_ns) {
            Ended::TimedOut => true,
            // Mostly a signal.
            Ended::Again => certificate.load(Ordering::Relaxed) == value,
            Ended::Wake | Ended::Certificate => {
                self.pass_on_notice(holder, certificate);
                false
            }
        }
    }

    /// How long to pause, as the heir, after a look at `held`, if that shows a turn.
    fn pause_in_turn_ns(&self, held: OwnerWord, now_ns: u64) -> Option<u64> {
        if self.is_occupancy_low() || !self.heir.is_in_turn_of(held) {
            return None;
        }
        let turns = &self.session.contention.turns;
        Some(self.heir.pause_ns(now_ns, turns.length_ns(self.place.slot)))
    }

    /// For how long to trust the heir.
    fn trust_ns(&self) -> u64 {
        let first_ns = if self.is_occupancy_low() {
            TRUST_OFTEN_FREE_NS
        } else {
            TRUST_NS
        };
        (first_ns << self.trusted.min(8)).min(self.poll_ns())
    }

    /// When a nap that begins now is to end.
    fn nap_until(&self, now_ns: u64, nap_ns: u64) -> u64 {
        let until_ns = now_ns.saturating_add(nap_ns);
        match self.patience {
            Patience::Until(deadline_ns) => until_ns.min(deadline_ns),
            Patience::None | Patience::Endless => until_ns,
        }
    }

    /// When a nap behind a holder that begins now is to end.
    fn look_by(&self, now_ns: u64, nap_ns: u64) -> u64 {
        self.nap_until(now_ns, nap_ns).min(self.expires_ns)
    }

    /// Sleeps under a vacant slot, which has no holder whose death to wait for.
    fn sleep_vacant(&self, wake: &AtomicU32, expected: u32) -> Ended {
        let until_ns = self.nap_until(clock::now_ns(), self.trust_ns());
        futex::wait(wake, expected, until_ns)
    }

    /// Sleeps until woken, or until the holder begins to die.
    fn sleep_behind(
        &mut self,
        holder: Identity,
        wake: &AtomicU32,
        expected: u32,
        queue: Queue,
    ) -> Ended {
        let Some(certificate) = self.certificate(holder) else {
            return Ended::Again;
        };
        if self.shown == Shown::NotYet {
            self.shown = match self.session.record().begin_wait(self.place.slot) {
                Some(entry) => Shown::In(entry),
                None => Shown::NoRoom,
            };
        }
        let value = certificate.load(Ordering::Relaxed);
        let now_ns = clock::now_ns();
        let Some(nap_ns) = self.nap_ns(holder, value, now_ns) else {
            return Ended::Again;
        };
        if self.asleep_ns == 0 {
            self.asleep_ns = now_ns;
        }
        let nap_ns = match queue {
            Queue::Heir => nap_ns.min(self.trust_ns()),
            Queue::Idle | Queue::Asleep => nap_ns,
        };
        let until_ns = self.look_by(now_ns, nap_ns);
        let ended = futex::wait_two(wake, expected, certificate, value, until_ns);
        if ended == Ended::Certificate {
            self.pass_on_notice(holder, certificate);
        }
        ended
    }

    /// Wakes one more sleeper on a holder's certificate: the kernel wakes only one, and others
    /// wait there, for this slot or for others of the same session.
    ///
    /// Once: who is woken sleeps there again for as long as the holder is not proven dead, and
    /// so do those whom it told. They would wake each other all the time. First come, first
    /// woken, so that all are told before anybody is again; but for real-time threads, whom the
    /// kernel wakes first: behind one of those a sleeper may have to find the death at its poll.
    fn pass_on_notice(&mut self, holder: Identity, certificate: &AtomicU32) {
        if self.is_news(holder, certificate.load(Ordering::Relaxed)) {
            futex::wake(certificate, 1);
        }
    }

    /// Whether the next was not told yet of this certificate's value, which it now is.
    fn is_news(&mut self, holder: Identity, value: u32) -> bool {
        let news = Some((holder, value));
        mem::replace(&mut self.told, news) != news
    }

    /// Describes the holder in `held`, or whoever has followed it meanwhile.
    fn describe(&self, held: OwnerWord, holder: Identity) -> Holder {
        let (view, slot) = (&self.session.view, self.slot());
        let now = slot.view();
        if let Some(now) = now
            && let Owner::Held(successor) = now.word.owner()
            && view.knows(successor)
        {
            return view.holder(slot, successor, &now);
        }
        let seen = SlotView {
            word: held,
            token: now.map_or(0, |now| now.token_of(held)),
            since_ms: now.map_or_else(now_ms, |now| now.since_ms),
        };
        view.holder(slot, holder, &seen)
    }
}

/// Pauses for two to the power of `shift`, in turns of the processor's own.
fn pause(shift: u32) {
    for _ in 0..1_u32 << shift {
        std::hint::spin_loop();
    }
}

/// Pauses by the clock, where it matters how long that takes: a turn of the processor's own takes
/// 40 cycles on one and 140 on another. Says when that was.
fn pause_until(until_ns: u64) -> u64 {
    loop {
        let now_ns = clock::now_ns();
        if now_ns >= until_ns {
            return now_ns;
        }
        pause(3);
    }
}

impl Drop for Blocking<'_> {
    fn drop(&mut self) {
        if let Shown::In(entry) = self.shown {
            self.session.record().end_wait(entry);
        }
        // Without a grant the watch stays: the next attempt goes on with it.
        if self.watched
            && !matches!(self.slot().owner().owner(), Owner::Held(other) if other != self.session.identity)
        {
            self.session.forget_watch(self.place.slot);
        }
    }
}

impl Wake for Blocking<'_> {
    fn wake_one(&self, wake: &AtomicU32) -> bool {
        Futex.wake_one(wake)
    }
}

impl Waiting for Blocking<'_> {
    type Stop = Stop;

    fn spin(&mut self, held: OwnerWord) -> Spin {
        if matches!(self.patience, Patience::None) || self.spins >= self.most_spins {
            return Spin::Sleep;
        }
        if !self.is_occupancy_low() {
            // Behind others who wait, a spin would only jump the queue.
            if held.queue() != Queue::Idle {
                return Spin::Sleep;
            }
            if self.spins > 0 && self.spun_on != held.generation() {
                // Who has had its turn leaves the processor to others.
                return if self.had_turn {
                    Spin::Sleep
                } else {
                    Spin::Stay
                };
            }
        }
        self.spun_on = held.generation();
        pause(self.spins.min(MAX_PAUSE_SHIFT));
        self.spins += 1;
        Spin::Look
    }

    fn defer(&mut self, seen: OwnerWord) -> Defer {
        self.paused_until_ns = None;
        match seen.owner() {
            Owner::Vacant(Vacancy::Kept(pid)) => self.defer_to_last(seen, pid),
            _ => self.defer_to_heir(),
        }
    }

    fn attend(&mut self, held: OwnerWord) -> bool {
        let now_ns = clock::now_ns();
        if let Some(until_ns) = self.paused_until_ns.take()
            && self.heir.seen.generation() != held.generation()
        {
            let occupancy = &self.session.contention.occupancy;
            occupancy.note_transfer(now_ns.saturating_sub(until_ns));
        }
        self.learn(held, now_ns);
        let pause_ns = self.pause_in_turn_ns(held, now_ns);
        let most_ns = if self.is_occupancy_low() {
            HEIR_LOOKS_NS
        } else {
            // Nobody asks meanwhile whether the holder is silent.
            HEIR_NAPS_NS.min(self.poll_ns())
        };
        let heir = &mut self.heir;
        let is_same = heir.seen.generation() == held.generation();
        if heir.seen.owner() != held.owner() {
            heir.owner_since_ns = now_ns;
        }
        heir.seen = held;
        if heir.same_since_ns == 0 || !is_same {
            heir.same_since_ns = now_ns;
        }
        let same_ns = now_ns.saturating_sub(heir.same_since_ns);
        if same_ns > most_ns {
            *heir = Heir::NEW;
            return false;
        }
        if matches!(self.patience, Patience::Until(until) if now_ns >= until) {
            return false;
        }
        if let Some(pause_ns) = pause_ns {
            self.paused_until_ns = Some(pause_until(now_ns + pause_ns));
        } else if same_ns > HEIR_LOOKS_NS {
            let until_ns = self.nap_until(now_ns, HEIR_NAP_NS);
            let goes_on = self.nap_behind(held, until_ns);
            if !goes_on {
                self.heir = Heir::NEW;
            }
            return goes_on;
        } else if heir.looks > MAX_PAUSE_SHIFT && same_ns > HEIR_YIELDS_NS {
            std::thread::yield_now();
        } else {
            pause(heir.looks.min(MAX_PAUSE_SHIFT));
        }
        heir.looks = heir.looks.saturating_add(1);
        true
    }

    fn judge(&mut self, held: OwnerWord) -> Result<Verdict, Stop> {
        if self.session.gate.state() != Gate::OPEN {
            return Err(Stop::Closed);
        }
        if self.slot().renames() & RENAMES_MASK != self.place.renames {
            return Err(Stop::Renamed);
        }
        let Owner::Held(holder) = held.owner() else {
            return Ok(Verdict::Holds);
        };
        if !self.session.view.knows(holder) {
            return Err(Stop::Corrupt(held));
        }
        let now_ns = clock::now_ns();
        if self.should_ask(holder, now_ns) && self.is_proven_dead(holder) {
            self.cause = Cause::Death;
            return Ok(Verdict::Gone);
        }
        if self.is_expired(held, holder, now_ns) {
            self.cause = Cause::Expiry;
            return Ok(Verdict::Gone);
        }
        match self.patience {
            Patience::None => Err(Stop::Refused(self.describe(held, holder))),
            Patience::Until(until) if now_ns >= until => {
                Err(Stop::Refused(self.describe(held, holder)))
            }
            Patience::Until(_) | Patience::Endless => Ok(Verdict::Holds),
        }
    }

    fn unusable(&mut self, word: OwnerWord) -> Result<(), Stop> {
        match word.owner() {
            // Ask under the naming lock, which waits for the renaming or mends it.
            Owner::Renaming(_) if self.place.slot != NamingWords::SLOT => Err(Stop::Renamed),
            _ => Err(Stop::Corrupt(word)),
        }
    }

    fn sleep(&mut self, wake: &AtomicU32, expected: u32, seen: OwnerWord) -> Slept {
        self.last_look = None;
        let ended = match seen.owner() {
            Owner::Held(holder) => self.sleep_behind(holder, wake, expected, seen.queue()),
            Owner::Vacant(_) => self.sleep_vacant(wake, expected),
            Owner::Renaming(_) | Owner::Corrupt => Ended::Again,
        };
        if ended != Ended::Again {
            self.has_slept = true;
            // The others have had theirs since.
            self.had_turn = false;
        }
        match ended {
            Ended::Wake | Ended::Certificate => Slept::UntilWoken,
            Ended::Again => Slept::NotAtAll,
            Ended::TimedOut => {
                self.trusted += u32::from(seen.queue() == Queue::Heir);
                Slept::InVain
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::testing::{Watchdog, while_interrupted};
    use crate::policy::Reclaim;
    use crate::table::LockTable;

    /// The words of a slot from its 5th grant on, each held and then kept by process 7.
    fn words(grants: u64) -> [OwnerWord; 2] {
        let released = OwnerWord::released_at(4 + grants);
        let held = released.granted_to(Identity::new(7, 2));
        let held = held.queued(Queue::Asleep);
        [held, held.vacated(Vacancy::Kept(7))]
    }

    fn with_blocking(patience: Patience, test: impl FnOnce(Blocking<'_>)) {
        let dir = tempfile::tempdir().unwrap();
        let table = LockTable::open(dir.path().join("t")).unwrap();
        with_blocking_on(&table, patience, test);
    }

    fn with_blocking_on(table: &LockTable, patience: Patience, test: impl FnOnce(Blocking<'_>)) {
        let lock = table.lock("job").unwrap();
        let view = &lock.session().view;
        let key = view.key(b"job").unwrap();
        let place = view.names().find(&key).unwrap();
        test(Blocking::new(lock.session(), place, patience));
    }

    /// As if the slot had been found free again and again.
    fn lower(blocking: &Blocking<'_>) {
        let occupancy = &blocking.session.contention.occupancy;
        occupancy.lower(blocking.place.slot);
    }

    #[test]
    fn a_slot_counts_as_free_where_looks_find_it_free_and_its_grants_are_far_between() {
        with_blocking(Patience::Endless, |mut blocking| {
            let mut grants = 0;
            let mut look = |is_held: bool, period_ns| {
                grants += 10;
                let [held, kept] = words(grants);
                let seen = if is_held { held } else { kept };
                blocking.learn(seen, grants * period_ns);
                // Once more at the same grant, which says nothing new.
                assert!(!blocking.learn(seen, grants * period_ns));
                blocking.is_occupancy_low()
            };
            assert!(
                (0..100).all(|_| !look(false, 20)),
                "one that comes back at once"
            );
            let lowered = (0..100).position(|_| look(false, 1_000));
            assert!(lowered > Some(1), "one look is not enough: {lowered:?}");
            assert!((0..100).any(|_| !look(true, 1_000)));
            assert!((0..100).all(|_| !look(true, 1_000)));
        });
    }

    #[test]
    fn where_a_slot_is_often_free_waiters_spin_behind_others_and_take_what_is_kept() {
        with_blocking(Patience::Endless, |mut blocking| {
            let [held, kept] = words(0);
            assert_eq!(blocking.spin(held), Spin::Sleep);
            assert_eq!(blocking.defer(kept), Defer::Look);
            lower(&blocking);
            let [held, kept] = words(1);
            assert_eq!(blocking.spin(held), Spin::Look);
            assert_eq!(blocking.defer(kept), Defer::Take);
            // Nobody makes itself the heir there, however often the holder comes back.
            let spins = (2..100).map(|grants| blocking.spin(words(grants)[0].grant_only()));
            let spins: Vec<_> = spins.collect();
            assert!(!spins.contains(&Spin::Stay));
            assert_eq!(spins.last(), Some(&Spin::Sleep));
        });
    }

    #[test]
    fn an_heir_learns_from_held_slots_and_who_defers_from_kept_ones_but_nobody_from_a_first_look() {
        with_blocking(Patience::Endless, |before| {
            let (session, place) = (before.session, before.place);
            let occupancy = &session.contention.occupancy;
            let newcomer = || Blocking::new(session, place, Patience::Endless);
            let is_low = || occupancy.is_low(place.slot);

            assert!((0..100).all(|_| newcomer().defer(words(0)[1]) == Defer::Look));
            assert!(!is_low(), "the first looks of a hundred");
            let mut deferring = newcomer();
            assert!((0..100).any(|grants| {
                let _ = deferring.defer(words(grants)[1]);
                is_low()
            }));
            assert!((0..100).all(|_| newcomer().attend(words(0)[0])));
            assert!(is_low(), "the first looks of a hundred");
            let mut heir = newcomer();
            assert!(heir.judge(words(0)[0]).is_ok(), "it waits");
            assert!((1..100).any(|grants| {
                heir.attend(words(grants)[0]);
                !is_low()
            }));
        });
    }

    #[test]
    fn an_heir_in_a_turn_learns_how_long_it_takes_to_see_what_another_processor_has_written() {
        with_blocking(Patience::Endless, |mut heir| {
            let session = heir.session;
            let transfer_ns = || session.contention.occupancy.transfer_ns();
            let first_ns = transfer_ns();
            let mut grants = 0;
            let mut attend = |heir: &mut Blocking<'_>, grants_since| {
                grants += grants_since;
                let _ = heir.attend(words(grants)[0]);
            };
            // It has not paused by the clock before its first two looks; before the third the
            // word was not written, before the fourth it did something else.
            for grants_since in [1, 1, 0] {
                attend(&mut heir, grants_since);
            }
            attend(&mut heir, 1);
            let _ = heir.defer(words(100)[1]);
            attend(&mut heir, 1);
            assert_eq!(transfer_ns(), first_ns);
            assert!((0..100).any(|_| {
                attend(&mut heir, 1);
                transfer_ns() != first_ns
            }));
        });
    }

    #[test]
    fn who_finds_a_kept_slot_left_behind_learns_from_it_and_trusts_heirs_for_less_time() {
        with_blocking(Patience::Endless, |before| {
            let (session, place) = (before.session, before.place);
            let trust_ns = before.trust_ns();
            assert!((0..100).any(|_| {
                let mut waiter = Blocking::new(session, place, Patience::Endless);
                let [looks, takes] = [(); 2].map(|()| waiter.defer(words(0)[1]));
                assert_eq!(looks, Defer::Look);
                assert_eq!(takes, Defer::Take);
                session.contention.occupancy.is_low(place.slot)
            }));
            assert!(before.trust_ns() < trust_ns);
        });
    }

    #[test]
    fn a_slot_left_behind_counts_once_as_free() {
        with_blocking(Patience::Endless, |before| {
            let (session, place) = (before.session, before.place);
            // Four such looks are not enough; counted twice, they would be.
            for _ in 0..4 {
                let mut waiter = Blocking::new(session, place, Patience::Endless);
                waiter.learn(words(0)[0], clock::now_ns() - 100_000_000);
                let [looks, takes] = [(); 2].map(|()| waiter.defer(words(1)[1]));
                assert_eq!((looks, takes), (Defer::Look, Defer::Take));
            }
            assert!(!session.contention.occupancy.is_low(place.slot));
            let mut waiter = Blocking::new(session, place, Patience::Endless);
            let _ = [(); 2].map(|()| waiter.defer(words(1)[1]));
            assert!(session.contention.occupancy.is_low(place.slot));
        });
    }

    #[test]
    fn an_heir_pauses_the_longer_the_more_is_left_of_a_turn() {
        let turn_ns = 160_000;
        let heir = Heir {
            owner_since_ns: 1_000_000,
            ..Heir::NEW
        };
        let pause_after = |passed_ns: u64| heir.pause_ns(1_000_000 + passed_ns, turn_ns);
        assert_eq!(pause_after(0), MAX_HEIR_PAUSE_NS);
        assert_eq!(pause_after(60_000), 10_000);
        assert_eq!(pause_after(100_000), 5_000);
        assert_eq!(pause_after(140_000), MIN_HEIR_PAUSE_NS);
        assert_eq!(pause_after(180_000), 5_000, "it is overdue");
        assert_eq!(pause_after(9_000_000), MAX_HEIR_PAUSE_NS);
    }

    #[test]
    fn an_heir_pauses_by_the_clock_in_a_turn_unless_the_slot_is_often_free() {
        with_blocking(Patience::Endless, |mut heir| {
            let [before, now] = [1, 2].map(|grants| words(grants)[0]);
            assert_eq!(heir.pause_in_turn_ns(before, 0), None);
            assert!(heir.attend(before));
            let begun_ns = clock::now_ns();
            let since_ns = heir.heir.owner_since_ns;
            assert!(since_ns != 0 && since_ns <= begun_ns);
            assert!(heir.pause_in_turn_ns(now, begun_ns).is_some());
            assert!(heir.attend(now));
            assert_eq!(heir.heir.owner_since_ns, since_ns);
            assert!(clock::now_ns() - begun_ns >= MIN_HEIR_PAUSE_NS);
            // By the turns of its own process, as long as they are known.
            let (slot, last_ns) = (heir.place.slot, begun_ns + 1_000_000_000);
            let next = words(3)[0];
            let in_80_us_ns = heir.heir.owner_since_ns + 80_000;
            let turns = &heir.session.contention.turns;
            let pause_after = |rounds: &[u64]| {
                for after_ns in rounds {
                    turns.begin(slot, next, last_ns + after_ns);
                    turns.end(slot);
                }
                heir.pause_in_turn_ns(next, in_80_us_ns)
            };
            assert_eq!(pause_after(&[0, 500_000_000]), Some(MIN_HEIR_PAUSE_NS));
            assert_eq!(pause_after(&[500_100_000]), Some(MAX_HEIR_PAUSE_NS));
            lower(&heir);
            assert_eq!(heir.pause_in_turn_ns(next, in_80_us_ns), None);
        });
    }

    #[test]
    fn an_heir_naps_behind_a_grant_that_lasts_and_then_sleeps_unless_the_slot_is_often_free() {
        let _watchdog = Watchdog::start();
        with_blocking(Patience::Endless, |mut heir| {
            // A holder that lives, as far as its certificate says.
            let holder = heir.session.identity;
            let held = words(0)[0].vacated(Vacancy::Released).granted_to(holder);
            let certificate = heir.certificate(holder).unwrap();
            let intact = || certificate::is_intact(certificate.load(Ordering::Relaxed));
            while !intact() {
                std::thread::yield_now();
            }
            assert!(heir.attend(held));
            let looked_for = |heir: &mut Blocking<'_>, ns| {
                let begun_ns = clock::now_ns();
                heir.heir.same_since_ns = begun_ns - ns - 1;
                (heir.attend(held), clock::now_ns() - begun_ns)
            };
            // Again, should this thread lose its processor for as long as all naps are.
            let mut naps = (0..50).map(|_| looked_for(&mut heir, HEIR_LOOKS_NS));
            let nap = naps.find(|(stays, _)| *stays);
            assert!(nap.is_some_and(|(_, took_ns)| took_ns >= HEIR_NAP_NS));
            assert!(!looked_for(&mut heir, HEIR_NAPS_NS).0, "it sleeps");
            // From a nap on it knows whose mark it is woken by.
            while heir.behind.keeper.is_none() {
                heir.nap_behind(held, clock::now_ns() + 1_000);
            }
            // For the first moments of a death.
            let marked = libc::FUTEX_OWNER_DIED;
            let dying_ns = heir.behind.since_ns;
            for (for_ns, is_known) in [(0, true), (DYING_FAST_NS - 1, true), (DYING_FAST_NS, false)]
            {
                heir.nap_ns(holder, marked, dying_ns + for_ns);
                assert_eq!(heir.behind.keeper.is_some(), is_known);
            }
            lower(&heir);
            assert!(heir.attend(held));
            assert!(!looked_for(&mut heir, HEIR_LOOKS_NS).0);
            // One whose certificate is not intact may be dying.
            let gone = words(0)[0];
            assert!(!heir.nap_behind(gone, clock::now_ns() + 1_000_000_000));
            heir.session.contention.occupancy.forget(heir.place.slot);
            heir.heir = Heir {
                seen: gone,
                same_since_ns: clock::now_ns() - HEIR_LOOKS_NS - 1,
                looks: 7,
                ..Heir::NEW
            };
            assert!(!heir.attend(gone));
            assert_eq!(heir.heir.looks, 0);
        });
    }

    #[test]
    fn an_heir_naps_and_a_waiter_watches_by_itself_for_one_poll_at_most() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t");
        let lease = Duration::from_millis(100);
        let options = LockTable::options();
        let table = options.reclaim(Reclaim::OnExpiry { lease }).open(path);
        let table = table.unwrap();
        with_blocking_on(&table, Patience::Endless, |mut heir| {
            let poll_ns = heir.poll_ns();
            assert!(poll_ns < HEIR_NAPS_NS);
            let (holder, held) = (Identity::new(7, 2), words(0)[0]);
            let certificate = heir.certificate(holder).unwrap();
            certificate.store(7, Ordering::Relaxed);
            assert!(heir.attend(held));
            heir.heir.same_since_ns = clock::now_ns() - poll_ns - 1;
            assert!(!heir.attend(held));
            heir.asleep_ns = 1;
            assert!(heir.is_short(poll_ns) && !heir.is_short(poll_ns + 1));
        });
    }

    #[test]
    fn the_naps_of_all_heirs_of_a_holder_end_with_its_death() {
        let _watchdog = Watchdog::start();
        with_blocking(Patience::Endless, |heir| {
            let session = heir.session;
            let held = words(0)[0];
            let certificate = heir.certificate(Identity::new(7, 2)).unwrap();
            certificate.store(7, Ordering::Relaxed);
            let until_ns = clock::now_ns() + 40_000_000_000;
            // How often somebody has to be woken until two have stopped napping.
            let wakes = || {
                let nap = || {
                    let mut heir = Blocking::new(session, heir.place, Patience::Endless);
                    assert!(!heir.nap_behind(held, until_ns));
                };
                std::thread::scope(|scope| {
                    let naps = [(); 2].map(|()| scope.spawn(nap));
                    let mut wakes = 0;
                    while naps.iter().any(|nap| !nap.is_finished()) {
                        std::thread::sleep(Duration::from_millis(10));
                        wakes += futex::wake(certificate, 1);
                        std::thread::sleep(Duration::from_millis(10));
                    }
                    wakes
                })
            };
            // Only once, as by the kernel, unless one of them was late to fall asleep.
            assert!((0..40).any(|_| wakes() == 1));
            assert!(clock::now_ns() < until_ns);
        });
    }

    #[test]
    fn all_who_sleep_behind_a_holder_hear_of_its_death_by_the_kernels_one_wake() {
        let _watchdog = Watchdog::start();
        with_blocking(Patience::Endless, |waiter| {
            let (session, place) = (waiter.session, waiter.place);
            let (word, held) = (AtomicU32::new(0), words(0)[0]);
            let certificate = waiter.certificate(Identity::new(7, 2)).unwrap();
            certificate.store(7, Ordering::Relaxed);
            let sleep = || Blocking::new(session, place, Patience::Endless).sleep(&word, 0, held);
            let both_hear = || {
                std::thread::scope(|scope| {
                    let sleeps = [(); 2].map(|()| scope.spawn(sleep));
                    std::thread::sleep(Duration::from_millis(3));
                    let woken = futex::wake(certificate, 1);
                    let heard = sleeps.map(|sleep| sleep.join().unwrap() == Slept::UntilWoken);
                    woken == 1 && heard == [true; 2]
                })
            };
            // Unless one of them was late to fall asleep.
            assert!((0..40).any(|_| both_hear()));
        });
    }

    #[test]
    fn who_is_woken_again_behind_one_who_does_not_get_dead_tells_nobody_again() {
        with_blocking(Patience::Endless, |mut waiter| {
            let (holder, other) = (Identity::new(7, 2), Identity::new(8, 3));
            let marked = 7 | libc::FUTEX_OWNER_DIED;
            let looks = [(holder, 7), (holder, 7), (holder, marked), (holder, marked)];
            let looks = looks.map(|(holder, value)| waiter.is_news(holder, value));
            assert_eq!(looks, [true, false, true, false]);
            assert!(waiter.is_news(other, marked) && !waiter.is_news(other, marked));
        });
    }

    #[test]
    fn the_last_look_of_a_short_wait_asks_whether_the_holder_is_dead() {
        let patience = Patience::Until(5_000_000);
        with_blocking(patience, |mut waiter| {
            let holder = Identity::new(7, 2);
            let certificate = waiter.certificate(holder).unwrap();
            // As in a file that was put back: nobody is there to mark it.
            certificate.store(7, Ordering::Relaxed);
            let asks = [1, 4_999_999, 5_000_000, 5_000_001];
            let asks = asks.map(|now_ns| waiter.should_ask(holder, now_ns));
            assert_eq!(asks, [false, false, true, true]);
        });
    }

    #[test]
    fn a_nap_that_a_signal_ends_says_nothing_of_the_holder() {
        let _watchdog = Watchdog::start();
        with_blocking(Patience::Endless, |mut heir| {
            let held = words(0)[0];
            let certificate = heir.certificate(Identity::new(7, 2)).unwrap();
            certificate.store(7, Ordering::Relaxed);
            let until_ns = clock::now_ns() + 40_000_000_000;
            let goes_on = while_interrupted(|| heir.nap_behind(held, until_ns));
            assert!(goes_on && clock::now_ns() < until_ns);
        });
    }

    #[test]
    fn a_turn_is_seen_by_one_holders_other_grants() {
        let heir = Heir {
            seen: words(1)[0],
            ..Heir::NEW
        };
        assert!(heir.is_in_turn_of(words(2)[0]));
        assert!(!heir.is_in_turn_of(words(1)[0]), "the same grant");
        let others = OwnerWord::released_at(6).granted_to(Identity::new(8, 2));
        assert!(!heir.is_in_turn_of(others));
        assert!(!Heir::NEW.is_in_turn_of(words(2)[0]), "a first look");
    }

    #[test]
    fn who_gets_a_slot_at_a_look_learns_that_it_was_free_unless_it_is_the_first() {
        with_blocking(Patience::Endless, |before| {
            let (session, place) = (before.session, before.place);
            let is_low_after = |looks: &[u64], taken: OwnerWord| {
                session.contention.occupancy.forget(place.slot);
                (0..100).for_each(|_| {
                    let mut waiter = Blocking::new(session, place, Patience::Endless);
                    for &grants in looks {
                        waiter.learn(words(grants)[0], 0);
                    }
                    waiter.end(Some(taken));
                });
                session.contention.occupancy.is_low(place.slot)
            };
            let [held, kept] = words(2);
            let released = held.vacated(Vacancy::Released);
            assert!(is_low_after(&[1], released));
            assert!(!is_low_after(&[], released), "a first look");
            assert!(!is_low_after(&[2], released), "the grant it waited for");
            for not_by_chance in [held.vacated(Vacancy::Offered), kept, held] {
                assert!(!is_low_after(&[1], not_by_chance));
            }
        });
    }

    #[test]
    fn who_has_had_its_turn_sleeps_before_a_slot_of_others_unless_that_is_often_free() {
        with_blocking(Patience::Endless, |before| {
            let (session, place) = (before.session, before.place);
            let contention = &session.contention;
            contention
                .turns
                .begin(place.slot, words(0)[0], clock::now_ns());
            contention.turns.end(place.slot);
            let kept = words(0)[1];
            let offered = words(0)[0].vacated(Vacancy::Offered);
            let newcomer = || Blocking::new(session, place, Patience::Endless);
            let at_once = |seen| newcomer().defer(seen);
            // What it comes to once the pauses are over.
            let answer = |seen| {
                let mut blocking = newcomer();
                let answers = (0..=PAUSES_ASIDE + 1).map(|_| blocking.defer(seen));
                answers.last().expect("there is one")
            };
            assert_eq!([kept, offered].map(at_once), [Defer::Sleep; 2]);
            let soon = Patience::Until(clock::now_ns());
            for patience in [Patience::None, soon] {
                let mut attempt = Blocking::new(session, place, patience);
                assert!((0..=PAUSES_ASIDE + 1).all(|_| attempt.defer(offered) == Defer::Look));
            }
            let mut newcomer = newcomer();
            let spins = [words(0), words(1)].map(|[held, _]| newcomer.spin(held.grant_only()));
            assert_eq!(spins, [Spin::Look, Spin::Sleep]);
            contention.occupancy.lower(place.slot);
            assert_eq!([kept, offered].map(answer), [Defer::Take; 2]);
        });
    }

    #[test]
    fn a_wait_that_slept_long_after_its_pauses_shortens_those_of_the_next() {
        with_blocking(Patience::Endless, |before| {
            let (session, place) = (before.session, before.place);
            let pauses = || session.contention.spins.at(place.slot);
            let most = pauses();
            let wait = |spins| {
                let mut blocking = Blocking::new(session, place, Patience::Endless);
                (blocking.spins, blocking.asleep_ns) = (spins, 1);
                assert!(blocking.end(None) > 1);
            };
            wait(0);
            assert_eq!(pauses(), most, "it did not pause");
            wait(1);
            assert!(pauses() < most);
        });
    }

    #[test]
    fn a_stint_begins_with_the_end_of_a_wait_that_slept() {
        with_blocking(Patience::Endless, |before| {
            let (session, place) = (before.session, before.place);
            let (word, [held, _]) = (AtomicU32::new(0), words(0));
            for (expected, has_slept) in [(1, false), (0, true)] {
                stint::be_over();
                let patience = Patience::lasting(Duration::from_millis(1));
                let mut waiter = Blocking::new(session, place, patience);
                let slept = waiter.sleep(&word, expected, held.vacated(Vacancy::Offered));
                assert_eq!(slept == Slept::InVain, has_slept);
                waiter.end(None);
                assert_eq!(stint::begun_ns(), (!has_slept).then_some(0));
            }
        });
    }

    #[test]
    fn what_its_own_process_has_kept_is_taken_at_once() {
        with_blocking(Patience::Endless, |mut blocking| {
            let pid = blocking.session.identity.pid();
            let kept = words(0)[0].vacated(Vacancy::Kept(pid));
            assert_eq!(blocking.defer(kept), Defer::Take);
        });
    }

    #[test]
    fn a_first_look_after_a_sleep_teaches_nothing() {
        with_blocking(Patience::Until(0), |mut blocking| {
            let mut looks = (0..100).map(|grants| {
                let held = words(grants)[0];
                lower(&blocking);
                // Ten looks without a sleep raise it, and as many with one before each do not.
                for look in 0..10 {
                    blocking.attend(words(10 * grants + look)[0]);
                }
                let is_raised = !blocking.is_occupancy_low();
                lower(&blocking);
                for look in 0..10 {
                    let _ = blocking.sleep(&AtomicU32::new(0), 1, held);
                    blocking.attend(words(10 * grants + look)[0]);
                }
                (is_raised, blocking.is_occupancy_low())
            });
            assert!(looks.all(|seen| seen == (true, true)));
        });
    }

    #[test]
    fn a_short_wait_watches_by_itself_and_hands_its_watch_on_when_it_gets_long_or_ends() {
        with_blocking(Patience::Endless, |before| {
            let (session, place) = (before.session, before.place);
            let [held, next] = [1, 2].map(|grants| words(grants)[0]);
            let holder = Identity::new(7, 2);
            let short_ns = nanos(session.view.geometry.poll());
            let is_watched = || session.is_watched(place.slot);
            let mut waiter = Blocking::new(session, place, Patience::Endless);
            assert!(!waiter.is_expired(held, holder, 1_000) && !is_watched());
            waiter.asleep_ns = 1_000;
            assert!(!waiter.is_expired(held, holder, short_ns) && !is_watched());
            assert!(!waiter.is_expired(held, holder, 1_000 + short_ns) && is_watched());
            // It counts from the first look of the wait: all but the last of this lease.
            let lease_ns = nanos(session.view.lease_of(place.slot).unwrap());
            let looks = (1..).map(|look| 1_000 + look * short_ns);
            let mut looks = looks.take_while(|&now_ns| now_ns < 1_000 + lease_ns);
            assert!(looks.all(|now_ns| !waiter.is_expired(held, holder, now_ns)));
            // Whatever it is that it looks for, it does so at the end of the lease.
            assert_eq!(waiter.look_by(5_000, u64::MAX), 1_000 + lease_ns);
            assert_eq!(waiter.look_by(5_000, 7), 5_007);
            assert!(waiter.is_expired(held, holder, 1_000 + lease_ns));
            assert!(!waiter.is_expired(next, holder, 1_000 + lease_ns));
            assert_eq!(waiter.look_by(5_000, u64::MAX), 1_000 + 2 * lease_ns);
            assert!(!waiter.is_expired(next, session.identity, 1_000 + lease_ns));
            assert_eq!(waiter.look_by(5_000, u64::MAX), u64::MAX);
            drop(waiter);
            assert!(!is_watched());
            // What is left of an earlier grant's watch does not make it start over.
            let mut attempt = Blocking::new(session, place, Patience::None);
            assert!(!attempt.is_expired(next, holder, 500) && is_watched());
            attempt.watched = false;
            let mut waiter = Blocking::new(session, place, Patience::Endless);
            assert!(!waiter.is_expired(held, holder, 1_000));
            waiter.asleep_ns = 1_000;
            let looks = (1..2_000).find(|look| {
                let now_ns = 1_000 + look * short_ns;
                waiter.is_expired(held, holder, now_ns)
            });
            assert_eq!(looks, Some(lease_ns.div_ceil(short_ns)));
            drop(waiter);
            // Of many waits with a deadline none is long.
            let expired_at = (0..2_000).map(|wait| wait * short_ns).find(|&now_ns| {
                let patience = Patience::Until(now_ns + 1_000);
                let mut waiter = Blocking::new(session, place, patience);
                assert!(!waiter.is_expired(held, holder, now_ns));
                let is_expired = waiter.is_expired(held, holder, now_ns + 1_000);
                // As where it has given up: the word says that another holds.
                waiter.watched = false;
                is_expired
            });
            assert!(expired_at.is_some_and(|ns| ns.abs_diff(lease_ns) <= short_ns));
        });
    }

    #[test]
    fn how_long_a_waiter_naps_follows_from_what_it_has_seen_of_that_holder() {
        with_blocking(Patience::Endless, |mut blocking| {
            let [holder, other] = [7, 8].map(|pid| Identity::new(pid, 2));
            let poll_ns = blocking.poll_ns();
            let (intact, marked) = (7 | libc::FUTEX_WAITERS, libc::FUTEX_OWNER_DIED);
            let mut nap = |holder, value, now_ns| blocking.nap_ns(holder, value, now_ns);
            // It asks once when it has waited for a while, and then at each poll.
            let now_ns = 5_000;
            assert_eq!(nap(holder, intact, now_ns), Some(FIRST_ASK_NS));
            assert_eq!(
                nap(holder, intact, now_ns + 1_000),
                Some(FIRST_ASK_NS - 1_000)
            );
            let now_ns = now_ns + FIRST_ASK_NS;
            assert_eq!(nap(holder, intact, now_ns), Some(poll_ns));
            // Death is looked for at once, and then less and less often.
            assert_eq!(nap(holder, marked, now_ns), None);
            assert_eq!(nap(holder, marked, now_ns + DYING_FAST_NS - 1), None);
            let dying_for_ns = 4 * DYING_FAST_NS;
            assert_eq!(
                nap(holder, marked, now_ns + dying_for_ns),
                Some(DYING_FAST_NS)
            );
            // The next holder's death, and the same one's in its next session, begin anew.
            assert_eq!(nap(other, marked, now_ns + dying_for_ns), None);
            assert_eq!(
                nap(other, intact, now_ns + 2 * dying_for_ns),
                Some(FIRST_ASK_NS - dying_for_ns)
            );
            assert_eq!(nap(other, marked, now_ns + 3 * dying_for_ns), None);
            // As does a wait for one of whose death nobody would tell.
            assert_eq!(nap(holder, 0, now_ns), Some(BLIND_NAP_MIN_NS));
            assert_eq!(nap(holder, 0, now_ns + 8_000_000), Some(2_000_000));
            let now_ns = now_ns + 3_000_000_000;
            assert_eq!(nap(holder, 0, now_ns), Some(BLIND_NAP_NS));
            assert_eq!(nap(holder, intact, now_ns), Some(poll_ns));
            assert_eq!(nap(holder, 0, now_ns), Some(BLIND_NAP_MIN_NS));
        });
    }

    #[test]
    fn a_mark_after_an_intact_certificate_is_news_again() {
        with_blocking(Patience::Endless, |mut blocking| {
            let holder = Identity::new(7, 2);
            let marked = libc::FUTEX_OWNER_DIED;
            assert!(blocking.is_news(holder, marked));
            assert!(!blocking.is_news(holder, marked));
            blocking.nap_ns(holder, marked, 5_000);
            assert!(!blocking.is_news(holder, marked));
            blocking.nap_ns(holder, 7, 5_000);
            assert!(blocking.is_news(holder, marked));
            // Those who wait behind a holder that lives are not to wake each other all the time.
            assert!(blocking.is_news(holder, 7));
            blocking.nap_ns(holder, 7, 5_000);
            assert!(!blocking.is_news(holder, 7));
        });
    }

    #[test]
    fn an_attempt_neither_spins_nor_leaves_a_slot_to_its_last_holder() {
        with_blocking(Patience::None, |mut blocking| {
            let [held, kept] = words(0);
            for _ in 0..2 {
                assert_eq!(blocking.spin(held.grant_only()), Spin::Sleep);
                assert_eq!(blocking.spin(held), Spin::Sleep);
                assert_eq!(blocking.defer(kept), Defer::Take);
                lower(&blocking);
            }
        });
    }
}
