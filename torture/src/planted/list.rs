//! The bugs to plant, and who is to catch each: text replacements, which must fit the
//! source exactly once, so that no bug goes unplanted unnoticed.

/// A place in a source file, right and wrong.
#[derive(Clone, Copy, Debug)]
pub struct Edit {
    /// The file, from the root of the workspace.
    pub file: &'static str,
    /// What ships; it must be in the file exactly once.
    pub right: &'static str,
    /// What stands there instead.
    pub wrong: &'static str,
}

/// Who catches a bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Catcher {
    /// A unit test of the library, by its path.
    Unit(&'static str),
    /// A test with real processes: the file under `tests/`, and its name there.
    Test(&'static str, &'static str),
    /// The soak of this policy.
    Soak(&'static str),
    /// The racers.
    Racers,
}

/// A bug.
#[derive(Clone, Copy, Debug)]
pub struct Bug {
    /// What it is called.
    pub name: &'static str,
    /// What is wrong.
    pub story: &'static str,
    /// How it is planted.
    pub edits: &'static [Edit],
    /// Each of these must fail; the first in the short version, too.
    pub catchers: &'static [Catcher],
    /// What it costs is time: it is not in the short version.
    pub slow: bool,
}

/// Each bug.
pub const BUGS: &[Bug] = &[
    Bug {
        name: "posix_locks",
        story: "POSIX record locks for the sessions' bytes: any close of the file drops them.",
        slow: false,
        edits: &[
            Edit {
                file: "src/os/byte_lock.rs",
                right: "match fcntl(fd, FcntlArg::F_OFD_SETLK(&range(kind, byte, 1)))",
                wrong: "match fcntl(fd, FcntlArg::F_SETLK(&range(kind, byte, 1)))",
            },
            Edit {
                file: "src/os/byte_lock.rs",
                right: "fcntl(fd, FcntlArg::F_OFD_SETLK(&range(libc::F_UNLCK, byte, 1)))?;",
                wrong: "fcntl(fd, FcntlArg::F_SETLK(&range(libc::F_UNLCK, byte, 1)))?;",
            },
            // Its own descriptor it would have to keep; the stray close is another's.
            Edit {
                file: "src/session.rs",
                right: "        drop(file);\n        match view.probe",
                wrong: "        std::mem::forget(file);\n        match view.probe",
            },
        ],
        catchers: &[
            Catcher::Test("fork", "a_stray_close_of_the_table_file_drops_nothing"),
            Catcher::Unit("os::byte_lock::tests::a_byte_has_one_holder_at_a_time"),
        ],
    },
    Bug {
        name: "private_futex",
        story: "Private futexes: keyed by the address space, they wake nobody elsewhere.",
        slow: true,
        edits: &[
            Edit {
                file: "src/os/futex.rs",
                right: "        Flags::empty(),\n        expected,",
                wrong: "        Flags::PRIVATE,\n        expected,",
            },
            Edit {
                file: "src/os/futex.rs",
                right: "futex::wake(word, Flags::empty(), count)",
                wrong: "futex::wake(word, Flags::PRIVATE, count)",
            },
            Edit {
                file: "src/os/futex.rs",
                right: "wait.flags = WaitFlags::SIZE_U32;",
                wrong: "wait.flags = WaitFlags::SIZE_U32 | WaitFlags::PRIVATE;",
            },
        ],
        catchers: &[Catcher::Unit(
            "os::futex::tests::a_wake_crosses_processes_and_two_words_are_told_apart",
        )],
    },
    Bug {
        name: "reclaim_drops_the_queue",
        story: "Who takes over from the dead forgets who waits: the others sleep on.",
        slow: false,
        edits: &[Edit {
            file: "src/protocol/word.rs",
            right: "Self(identity.0 | next)",
            wrong: "Self(identity.0 | next & !QUEUE_MASK)",
        }],
        catchers: &[Catcher::Unit(
            "protocol::slot::tests::who_waits_stays_known_through_a_takeover_and_the_release_calls_one",
        )],
    },
    Bug {
        name: "reclaim_of_whoever_is_there",
        story: "A reclaimer reads the word again after it has judged: it may be a successor's.",
        slow: true,
        edits: &[Edit {
            file: "src/protocol/wait.rs",
            right: "        if env.judge(seen)? == Verdict::Gone {
            match slot.take(seen, me, *is_heir) {
",
            wrong: "        if env.judge(seen)? == Verdict::Gone {
            match slot.take(slot.owner(), me, *is_heir) {
",
        }],
        catchers: &[Catcher::Racers],
    },
    Bug {
        name: "expiry_by_timestamp",
        story: "A holder's last beat is compared with the observer's own clock.",
        slow: false,
        edits: &[Edit {
            file: "src/session.rs",
            right: "let silent = watch.look(word, life, now_ns, cap_ns);",
            wrong: "let _ = watch.look(word, life, now_ns, cap_ns);
        let beat_ms = record.view().map_or(0, |view| view.beat_ms);
        let silent = now_ns.saturating_sub(beat_ms * 1_000_000);",
        }],
        catchers: &[
            Catcher::Test("hang", "a_pause_of_the_whole_group_evicts_nobody"),
            Catcher::Test(
                "namespaces",
                "an_observer_in_another_time_namespace_robs_nobody",
            ),
        ],
    },
    Bug {
        name: "no_fork_check",
        story: "A forked child keeps the mapping, and its handles do not know of the fork.",
        slow: false,
        edits: &[
            Edit {
                file: "src/os/fork.rs",
                right: "madvise(page, Page::BYTES, Advice::LinuxWipeOnFork).map_err(io::Error::from)",
                wrong: "madvise(page, Page::BYTES, Advice::Normal).map_err(io::Error::from)",
            },
            Edit {
                file: "src/mapping.rs",
                right: "map.advise(Advice::DontFork)",
                wrong: "map.advise(Advice::Normal)",
            },
        ],
        catchers: &[
            Catcher::Test("fork", "a_forked_child_has_no_part_in_its_parents_session"),
            Catcher::Soak("on-death"),
        ],
    },
    Bug {
        name: "interrupted_is_granted",
        story: "A wait that a signal has ended is taken for the one that a release has ended.",
        slow: false,
        edits: &[Edit {
            file: "src/protocol/wait.rs",
            right: "        *is_heir |= sleep_under(slot, seen, relied_on, env);
    }
",
            wrong: "        *is_heir |= sleep_under(slot, seen, relied_on, env);
        if let Taken::Granted(grant) = slot.take(slot.owner(), me, true) {
            return Ok(grant);
        }
    }
",
        }],
        catchers: &[
            Catcher::Test(
                "hang",
                "a_stopped_holder_is_waited_for_where_only_the_dead_are_robbed",
            ),
            Catcher::Soak("on-death"),
        ],
    },
    Bug {
        name: "named_before_filled",
        story: "The table's file gets its name first, and then its header.",
        slow: false,
        edits: &[
            Edit {
                file: "src/mapping.rs",
                right: "        self.fill(fd.as_fd())?;\n        // By the descriptor",
                wrong: "        // By the descriptor",
            },
            Edit {
                file: "src/mapping.rs",
                right: "            Ok(()) => Ok(Unnamed::Published),",
                wrong: "            Ok(()) => self.fill(fd.as_fd()).map(|()| Unnamed::Published),",
            },
        ],
        catchers: &[
            Catcher::Test(
                "crash",
                "a_creator_killed_at_any_system_call_leaves_nothing_half_made",
            ),
            Catcher::Test("format", "racing_creators_end_in_one_table"),
        ],
    },
    Bug {
        name: "two_store_unlock",
        story: "A release in two stores: the owner goes first, and how it went is told after.",
        slow: false,
        edits: &[Edit {
            file: "src/protocol/slot.rs",
            right: "            && self.vacate(grant.word, vacancy) != Vacated::Lost
",
            wrong: "            && {
                let half_free = grant.word.bits() & ((1 << 30) - 1) | 0x7ff << 30;
                self.owner.store(half_free, ord(Site::Vacate));
                let free = grant.word.vacated(vacancy);
                self.owner.store(free.bits(), ord(Site::Vacate));
                true
            }
",
        }],
        // Wrong for one instruction: the soak does not see it.
        catchers: &[Catcher::Test(
            "crash",
            "an_owner_killed_at_any_instruction_leaves_the_lock_to_the_next",
        )],
    },
];
