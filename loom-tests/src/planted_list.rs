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
    },
    Bug {
        module: "release_without_epoch",
        story: "A release that does not look at the generation's high part.",
        world: "tiny",
        file: "slot.rs",
        right: &["if self.epoch.load(Ordering::Relaxed) != grant.epoch {"],
        wrong: &["if false {"],
    },
    Bug {
        module: "judged_word_reloaded",
        story: "A reclaimer that reads the owner word again after it has judged it.",
        world: "wide",
        file: "wait.rs",
        right: &["if env.judge(seen)? == Verdict::Gone {"],
        wrong: &["if env.judge(seen)? == Verdict::Gone { let seen = slot.owner();"],
    },
    Bug {
        module: "reclaim_drops_waiters",
        story: "A grant that clears the waiter bit of the word that it replaces.",
        world: "wide",
        file: "word.rs",
        right: &["Self(identity.0 | next)"],
        wrong: &["Self(identity.0 | next & !WAITERS)"],
    },
    Bug {
        module: "woken_drops_waiters",
        story: "A waiter that has slept and takes a vacant slot without the waiter bit.",
        world: "wide",
        file: "wait.rs",
        right: &["Owner::Vacant(_) => match slot.take(seen, me, *slept) {"],
        wrong: &["Owner::Vacant(_) => match slot.take(seen, me, false) {"],
    },
    Bug {
        module: "wake_before_release",
        story: "A releaser that wakes before it vacates.",
        world: "wide",
        file: "wait.rs",
        right: &["finish(slot, slot.release(grant, vacancy), waker)"],
        wrong: &[
            "if slot.owner().has_waiters() { wake_next(slot, waker); }
             matches!(slot.release(grant, vacancy), Vacated::Done { .. })",
        ],
    },
    Bug {
        module: "force_without_wake",
        story: "A force-release that wakes nobody.",
        world: "wide",
        file: "wait.rs",
        right: &["finish(slot, slot.vacate(seen, vacancy), waker)"],
        wrong: &["matches!(slot.vacate(seen, vacancy), Vacated::Done { .. })"],
    },
    Bug {
        module: "token_counted_apart",
        story: "A token that is counted after the CAS that grants.",
        world: "wide",
        file: "slot.rs",
        right: &[
            "let granted = seen.granted_to(me);",
            "let word = mine.without_waiters();",
        ],
        wrong: &[
            "let granted = seen.granted_to(me).at_token(seen.generation());",
            "let word = OwnerWord::from_bits(self.owner.fetch_add(2, Ordering::AcqRel) + 2)
                 .without_waiters();",
        ],
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
    },
    Bug {
        module: "help_skipped",
        story: "A grant that does not wait for the epoch word to catch up.",
        world: "tiny",
        file: "slot.rs",
        right: &["if before & 1 != seen.epoch_parity() {"],
        wrong: &["if false {"],
    },
    Bug {
        module: "leaver_keeps_wake",
        story: "A waiter that leaves with the wake that it was given.",
        world: "wide",
        file: "wait.rs",
        right: &["if outcome.is_err() && slept {"],
        wrong: &["if false {"],
    },
    Bug {
        module: "wake_word_read_late",
        story: "A waiter that reads the wake word after it has announced itself.",
        world: "wide",
        file: "wait.rs",
        right: &[
            "let expected = slot.wake_count();",
            "env.sleep(slot.wake_word(), expected, seen);",
        ],
        wrong: &["", "env.sleep(slot.wake_word(), slot.wake_count(), seen);"],
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
    },
    Bug {
        module: "recycled_without_owner",
        story: "A slot that gets a new name without its owner word being taken.",
        world: "wide",
        file: "names.rs",
        right: &["matches!(words.take(seen, me.renaming(), false), Taken::Granted(_))"],
        wrong: &["{ let _ = (me, seen); true }"],
    },
    Bug {
        module: "repair_skipped",
        story: "A naming that is not repaired by the next holder of the naming lock.",
        world: "wide",
        file: "names.rs",
        right: &["self.repair(waker);\n        if let Some(found)"],
        wrong: &["if let Some(found)"],
    },
    Bug {
        module: "floor_forgotten",
        story: "A recycled name whose tokens are not remembered.",
        world: "wide",
        file: "names.rs",
        right: &["self.raise(words);\n"],
        wrong: &["\n"],
    },
];
