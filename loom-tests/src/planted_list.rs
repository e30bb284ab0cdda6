// The planted bugs: for the build script, which makes a world of each, and for the test,
// which names the models that must fail there.

/// One place of the protocol, right and wrong.
#[derive(Clone, Copy, Debug)]
pub struct Bug {
    /// The module of the world with the bug.
    pub module: &'static str,
    /// What is wrong there.
    pub story: &'static str,
    /// The world that it is a copy of.
    pub world: &'static str,
    /// The file of the protocol.
    pub file: &'static str,
    /// What ships. Each must be in the file exactly once.
    pub right: &'static [&'static str],
    /// What stands there instead.
    pub wrong: &'static [&'static str],
    /// The scenarios that its world needs: each costs compiling.
    pub scenarios: &'static [&'static str],
}

/// Each bug.
pub const PLANTED: &[Bug] = &[
    Bug {
        module: "release_by_store",
        story: "A release that stores, whoever the owner is.",
        world: "wide",
        file: "slot.rs",
        right: &["match self.vacate(grant.word, vacancy) {"],
        wrong: &[
            "self.owner.store(grant.word.vacated(vacancy).bits(), ord(Site::Vacate));
             match (Vacated::Done { wake: true }) {",
        ],
        scenarios: &["revoke"],
    },
    Bug {
        module: "release_without_epoch",
        story: "A release that does not look at the generation's high part.",
        world: "tiny",
        file: "slot.rs",
        right: &["if self.epoch.load(Ordering::Relaxed) != grant.epoch {\n            return Vacated::Lost;\n        }\n        match self.vacate(grant.word, vacancy) {"],
        wrong: &["match self.vacate(grant.word, vacancy) {"],
        scenarios: &["wrap"],
    },
    Bug {
        module: "judged_word_reloaded",
        story: "A reclaimer that reads the owner word again after it has judged it.",
        world: "wide",
        file: "wait.rs",
        right: &["if env.judge(seen)? == Verdict::Gone {"],
        wrong: &["if env.judge(seen)? == Verdict::Gone { let seen = slot.owner();"],
        scenarios: &["reclaim"],
    },
    Bug {
        module: "reclaim_drops_waiters",
        story: "A grant that forgets the queue of the word that it replaces.",
        world: "wide",
        file: "word.rs",
        right: &["Self(identity.0 | next)"],
        wrong: &["Self(identity.0 | next & !QUEUE_MASK)"],
        scenarios: &["waiting"],
    },
    Bug {
        module: "woken_drops_waiters",
        story: "A woken waiter whose grant forgets who else sleeps.",
        world: "wide",
        file: "slot.rs",
        right: &["granted.queued(Queue::Asleep)"],
        wrong: &["granted.queued(Queue::Idle)"],
        scenarios: &["waiting"],
    },
    Bug {
        module: "wake_before_release",
        story: "A releaser that wakes before it vacates.",
        world: "wide",
        file: "wait.rs",
        right: &["finish(slot, slot.release(grant, vacancy), waker)"],
        wrong: &[
            "if slot.owner().queue() == Queue::Asleep { wake_next(slot, waker); }
             matches!(slot.release(grant, vacancy), Vacated::Done { .. })",
        ],
        scenarios: &["waiting"],
    },
    Bug {
        module: "force_without_wake",
        story: "A force-release that wakes nobody.",
        world: "wide",
        file: "wait.rs",
        right: &["finish(slot, slot.vacate(seen, vacancy), waker)"],
        wrong: &["matches!(slot.vacate(seen, vacancy), Vacated::Done { .. })"],
        scenarios: &["waiting"],
    },
    Bug {
        module: "token_counted_apart",
        story: "A token that is counted after the CAS that grants.",
        world: "wide",
        file: "slot.rs",
        right: &[
            "let granted = seen.granted_to(me);",
            "let word = mine;",
        ],
        wrong: &[
            "let granted = seen.granted_to(me).at_token(seen.generation());",
            "let word = OwnerWord::from_bits(self.owner.fetch_add(4, Ordering::AcqRel) + 4);",
        ],
        scenarios: &["revoke"],
    },
    Bug {
        module: "reclaimer_clears",
        story: "A reclaimer that frees the slot and then competes for it.",
        world: "wide",
        file: "wait.rs",
        right: &["if env.judge(seen)? == Verdict::Gone {"],
        wrong: &[
            "if env.judge(seen)? == Verdict::Gone {
                 let _ = slot.vacate(seen, Vacancy::Released);
                 continue;
             }
             if false {",
        ],
        scenarios: &["waiting"],
    },
    Bug {
        module: "help_skipped",
        story: "A grant that does not wait for the epoch word to catch up.",
        world: "tiny",
        file: "slot.rs",
        right: &["if before & 1 == seen.epoch_parity() {"],
        wrong: &["if true {"],
        scenarios: &["wrap"],
    },
    Bug {
        module: "guess_unread",
        story: "An owner that guesses its grant's epoch as well, and does not read it.",
        world: "tiny",
        file: "slot.rs",
        right: &["self.take_within(seen, seen.granted_to(me), epoch)"],
        wrong: &[
            "match self.take_within(seen, seen.granted_to(me), epoch) {
                Taken::Granted(grant) => Taken::Granted(Grant { epoch, ..grant }),
                other => other,
            }",
        ],
        scenarios: &["wrap"],
    },
    Bug {
        module: "courtesy_without_epoch",
        story: "A release before others that does not look at the generation's high part.",
        world: "tiny",
        file: "slot.rs",
        right: &["if !self.is_of(seen, grant) {"],
        wrong: &["if seen.grant_only() != grant.word.grant_only() {"],
        scenarios: &["wrap"],
    },
    Bug {
        module: "acknowledged_unsettled",
        story: "An operator who leaves the epoch word of a dead grant where it was.",
        world: "tiny",
        file: "slot.rs",
        right: &["match self.catch_up(seen, self.epoch.load(ord(Site::Epoch))) {"],
        wrong: &["match Some(self.epoch.load(ord(Site::Epoch))) {"],
        scenarios: &["wrap"],
    },
    Bug {
        module: "leaver_keeps_wake",
        story: "A waiter that leaves with the wake that it was given.",
        world: "wide",
        file: "wait.rs",
        right: &["if outcome.is_err() && is_heir {"],
        wrong: &["if false {"],
        scenarios: &["waiting"],
    },
    Bug {
        module: "wake_word_read_late",
        story: "A waiter that reads the wake word after it has announced itself.",
        world: "wide",
        file: "wait.rs",
        right: &[
            "let expected = slot.wake_count();",
            "env.sleep(slot.wake_word(), expected, seen.queued(relied_on))",
        ],
        wrong: &["", "env.sleep(slot.wake_word(), slot.wake_count(), seen.queued(relied_on))"],
        scenarios: &["waiting"],
    },
    Bug {
        module: "heir_stays_heir",
        story: "An heir that takes the slot and leaves the word to an heir.",
        world: "wide",
        file: "wait.rs",
        right: &["let may_leave_sleepers = *is_heir || vacancy == Vacancy::Offered;"],
        wrong: &["let may_leave_sleepers = vacancy == Vacancy::Offered;"],
        scenarios: &["waiting"],
    },
    Bug {
        module: "heir_sleeps_as_heir",
        story: "An heir that goes to sleep and leaves the word to an heir.",
        world: "wide",
        file: "wait.rs",
        right: &["Queue::Heir if !*is_heir => Queue::Heir,"],
        wrong: &["Queue::Heir => Queue::Heir,"],
        scenarios: &["heirs"],
    },
    Bug {
        module: "heir_called_silently",
        story: "A holder that names an heir and wakes nobody.",
        world: "wide",
        file: "wait.rs",
        right: &["if slot.queue_up(seen, Queue::Heir) {"],
        wrong: &["if slot.queue_up(seen, Queue::Heir) && false {"],
        scenarios: &["heirs"],
    },
    Bug {
        module: "heir_stands_aside",
        story: "An heir that goes to sleep under a vacant slot.",
        world: "wide",
        file: "wait.rs",
        right: &["Defer::Sleep if seen.queue() == Queue::Heir && !*is_heir => {"],
        wrong: &["Defer::Sleep if seen.queue() == Queue::Heir => {"],
        scenarios: &["heirs"],
    },
    Bug {
        module: "aside_unlooked",
        story: "A waiter that sleeps under a vacant word without looking whether it still stands.",
        world: "wide",
        file: "wait.rs",
        right: &["slot.owner() == seen\n"],
        wrong: &["true\n"],
        scenarios: &["heirs"],
    },
    Bug {
        module: "nobody_is_appointed",
        story: "A wake that finds nobody, and leaves the word to an heir.",
        world: "wide",
        file: "wait.rs",
        right: &["if !waker.wake_one(slot.wake_word()) {"],
        wrong: &["if !waker.wake_one(slot.wake_word()) && false {"],
        scenarios: &["heirs"],
    },
    Bug {
        module: "deserted_silently",
        story: "A queue that is declared idle without a wake after it.",
        world: "wide",
        file: "wait.rs",
        right: &["if slot.desert(seen) {\n                    slot.bump_wake();\n                    waker.wake_one(slot.wake_word());"],
        wrong: &["if slot.desert(seen) {"],
        scenarios: &["heirs"],
    },
    Bug {
        module: "trusts_for_ever",
        story: "A waiter that slept its time in vain, and goes on trusting in the heir.",
        world: "wide",
        file: "wait.rs",
        right: &["Slept::InVain => slot.owner().generation() == seen.generation(),"],
        wrong: &["Slept::InVain => false,"],
        scenarios: &["heirs"],
    },
    Bug {
        module: "name_before_bytes",
        story: "A name that is published, and its slot free, before its bytes are written.",
        world: "wide",
        file: "names.rs",
        right: &[
            "record.write(key);\n        self.raise(words);",
            "self.finish_rename(words, waker);\n        self.naming.intent.swap(0, Ordering::Relaxed);\n        Ok(",
        ],
        wrong: &[
            "self.raise(words);",
            "self.finish_rename(words, waker);
             record.write(key);
             self.naming.intent.swap(0, Ordering::Relaxed);
             Ok(",
        ],
        scenarios: &["names"],
    },
    Bug {
        module: "recycled_without_owner",
        story: "A slot that gets a new name without its owner word being taken.",
        world: "wide",
        file: "names.rs",
        right: &["matches!(words.take(seen, me.renaming(), false), Taken::Granted(_))"],
        wrong: &["{ let _ = (me, seen); true }"],
        scenarios: &["names"],
    },
    Bug {
        module: "repair_skipped",
        story: "A naming that is not repaired by the next holder of the naming lock.",
        world: "wide",
        file: "names.rs",
        right: &["self.repair(waker);\n        if let Some(found)"],
        wrong: &["if let Some(found)"],
        scenarios: &["names"],
    },
    Bug {
        module: "floor_forgotten",
        story: "A recycled name whose tokens are not remembered.",
        world: "wide",
        file: "names.rs",
        right: &["self.raise(words);\n"],
        wrong: &["\n"],
        scenarios: &["names"],
    },
    Bug {
        module: "reset_keeps_epoch",
        story: "A reset that leaves the generations' high parts as they were.",
        world: "tiny",
        file: "reclaim.rs",
        right: &[".swap(OwnerWord::epoch_of(floor), Ordering::Relaxed);"],
        wrong: &[".fetch_max(0, Ordering::Relaxed);"],
        scenarios: &["names", "reset"],
    },
    Bug {
        module: "reset_forgets_floor",
        story: "A reset that leaves the generations in the words as they were.",
        world: "wide",
        file: "reclaim.rs",
        right: &["                .at_token(floor)\n"],
        wrong: &[""],
        scenarios: &["names", "reset"],
    },
    Bug {
        module: "record_withdrawn_late",
        story: "A session record that is written while it still says active.",
        world: "wide",
        file: "session.rs",
        right: &["        self.close();\n        fence(ord(Site::RenameFence));"],
        wrong: &["        fence(ord(Site::RenameFence));"],
        scenarios: &["records"],
    },
    Bug {
        module: "record_closed_unswept",
        story: "A dead session's record that is closed before its slots are swept.",
        world: "wide",
        file: "reclaim.rs",
        right: &["dead.push(is_dead.then_some(life));"],
        wrong: &[
            "dead.push(is_dead.then_some(life));
             if is_dead { record.close(); }",
        ],
        scenarios: &["sessions"],
    },
    Bug {
        module: "record_closed_unlooked",
        story: "A record that is closed though another session has been there since.",
        world: "wide",
        file: "reclaim.rs",
        right: &["if is_still(record, life) {"],
        wrong: &["{"],
        scenarios: &["sessions"],
    },
    Bug {
        module: "swept_unlooked",
        story: "A sweep that does not look whether another session has come into the record.",
        world: "wide",
        file: "reclaim.rs",
        right: &["record.is_some_and(|record| is_still(record, dead[session]))"],
        wrong: &["record.is_some() && dead[session].is_some()"],
        scenarios: &["sessions"],
    },
    Bug {
        module: "state_read_late",
        story: "A collector that reads the record only once its byte was found free.",
        world: "wide",
        file: "reclaim.rs",
        right: &[
            "let life = record.life_sign();",
            "let is_dead = record.is_active() && !bytes.is_held(index)?;",
        ],
        wrong: &[
            "",
            "let is_dead = record.is_active() && !bytes.is_held(index)?;
             let life = record.life_sign();",
        ],
        scenarios: &["sessions"],
    },
    Bug {
        module: "byte_before_sweep",
        story: "A collector that has the byte of a dead session whose slots it still sweeps.",
        world: "wide",
        file: "reclaim.rs",
        right: &[
            "let is_dead = record.is_active() && !bytes.is_held(index)?;",
            "if life.is_none() || !bytes.try_lock(index)? {",
        ],
        wrong: &[
            "let is_dead = record.is_active() && bytes.try_lock(index)?;",
            "if life.is_none() {",
        ],
        scenarios: &["sessions"],
    },
];
