//! The rows: each hazard with the tests of its defence.

/// Where a test is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Suite {
    /// The unit tests of a module of the library.
    Unit(&'static str),
    /// Real processes: a file under `tests/`.
    Processes(&'static str),
    /// The command line: a file under `tools/tests/`.
    CommandLine(&'static str),
    /// The models: a part of the proof, in a file under `loom-tests/tests/proof/`.
    Model(&'static str),
    /// The same for all parts whose names have in common what stands for the test's.
    Models(&'static str),
    /// The short campaigns: a file under `torture/tests/`.
    Torture(&'static str),
}

/// A test of a row.
#[derive(Clone, Copy, Debug)]
pub struct Cell {
    /// Where it is.
    pub suite: Suite,
    /// What it is called there.
    pub test: &'static str,
}

/// A hazard.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Its number.
    pub number: u32,
    /// What it is.
    pub hazard: &'static str,
    /// What shows that it is defended against.
    pub cells: &'static [Cell],
    /// What none of them shows.
    pub note: Option<&'static str>,
}

const fn unit(module: &'static str, test: &'static str) -> Cell {
    let suite = Suite::Unit(module);
    Cell { suite, test }
}

const fn real(file: &'static str, test: &'static str) -> Cell {
    let suite = Suite::Processes(file);
    Cell { suite, test }
}

const fn tool(file: &'static str, test: &'static str) -> Cell {
    let suite = Suite::CommandLine(file);
    Cell { suite, test }
}

const fn model(file: &'static str, test: &'static str) -> Cell {
    let suite = Suite::Model(file);
    Cell { suite, test }
}

const ON_DEATH: Cell = Cell {
    suite: Suite::Torture("soak"),
    test: "no_two_holders_overlap_where_only_the_dead_are_robbed",
};
const ON_EXPIRY: Cell = Cell {
    suite: Suite::Torture("soak"),
    test: "no_fenced_update_is_lost_where_the_silent_are_evicted",
};

const RACERS: Cell = Cell {
    suite: Suite::Torture("racers"),
    test: "of_eight_that_reclaim_at_once_exactly_one_takes_over_from_the_dead",
};
const SYSCALLS: Cell = Cell {
    suite: Suite::Torture("hostile"),
    test: "no_failing_system_call_leaves_anything_leaked_or_stuck",
};
const BYTES: Cell = Cell {
    suite: Suite::Torture("hostile"),
    test: "no_bytes_in_the_file_make_its_users_panic_die_or_hang",
};
const INSTRUCTIONS: Cell = Cell {
    suite: Suite::Torture("instructions"),
    test: "whatever_instruction_a_process_dies_at_the_next_one_recovers",
};

const fn row(number: u32, hazard: &'static str, cells: &'static [Cell]) -> Row {
    Row {
        number,
        hazard,
        cells,
        note: None,
    }
}

const fn noted(row: Row, note: &'static str) -> Row {
    Row {
        note: Some(note),
        ..row
    }
}

/// All rows.
pub const ROWS: &[Row] = &[
    row(
        1,
        "A process id is used anew",
        &[
            real(
                "namespaces",
                "a_strangers_use_of_the_dead_holders_pid_does_not_keep_the_lock",
            ),
            real("namespaces", "a_namesake_of_the_dead_holder_is_not_robbed"),
            ON_DEATH,
        ],
    ),
    row(
        2,
        "PID namespaces: every container has a process 1",
        &[
            real(
                "namespaces",
                "sibling_containers_neither_rob_nor_strand_each_other",
            ),
            real(
                "namespaces",
                "a_container_and_its_host_neither_rob_nor_strand_each_other",
            ),
            ON_DEATH,
        ],
    ),
    row(
        3,
        "A zombie; a group leader that is gone while threads run",
        &[
            real("crash", "a_zombie_holder_is_reclaimed"),
            real("crash", "a_holder_whose_group_leader_is_gone_is_not_robbed"),
            real(
                "environment",
                "a_holder_that_dumps_core_is_reclaimed_when_it_is_done",
            ),
        ],
    ),
    row(
        4,
        "A fork after the table was opened",
        &[
            real("fork", "a_forked_child_has_no_part_in_its_parents_session"),
            real(
                "fork",
                "a_child_that_outlives_its_killed_parent_does_not_keep_the_lock",
            ),
            ON_DEATH,
        ],
    ),
    row(
        5,
        "exec and closefrom while holding",
        &[
            real("fork", "exec_ends_the_session_though_the_process_lives_on"),
            real(
                "fork",
                "a_holder_that_closes_every_descriptor_keeps_its_lock_and_its_table",
            ),
            real("fork", "a_stray_close_of_the_table_file_drops_nothing"),
        ],
    ),
    noted(
        row(
            6,
            "The keeper lives, the worker hangs",
            &[real(
                "environment",
                "a_parked_worker_keeps_its_lock_while_its_process_beats",
            )],
        ),
        "as documented: there is no limit to how long a grant may be held",
    ),
    row(
        7,
        "The keeper is starved, the worker runs",
        &[
            real("hang", "a_starved_keeper_keeps_its_lease"),
            unit("layout", "a_lease_spans_ten_beats_and_more_polls"),
        ],
    ),
    row(
        8,
        "A holder is paused past its lease, then writes",
        &[
            real("hang", "only_a_fenced_resource_is_safe_from_a_late_writer"),
            ON_EXPIRY,
        ],
    ),
    row(
        9,
        "Everything is paused: all look expired",
        &[
            real("hang", "a_pause_of_the_whole_group_evicts_nobody"),
            unit(
                "protocol::session",
                "a_pause_of_the_observer_counts_one_gap_at_most",
            ),
        ],
    ),
    noted(
        row(
            10,
            "Time namespaces, steps of the wall clock",
            &[
                real(
                    "namespaces",
                    "an_observer_in_another_time_namespace_robs_nobody",
                ),
                real("namespaces", "a_shifted_clock_is_not_shown_as_death"),
                real("environment", "no_line_of_the_library_names_the_wall_clock"),
            ],
        ),
        "the wall clock is the machine's, so no test steps it",
    ),
    row(
        11,
        "A reboot with the file on a disk",
        &[
            real(
                "format",
                "a_reset_after_a_reboot_frees_every_slot_and_keeps_tokens_growing",
            ),
            real("format", "a_table_in_use_is_not_reset"),
            real("format", "concurrent_openers_after_a_reboot_reset_once"),
        ],
    ),
    row(
        12,
        "The file is cut off while it is mapped",
        &[
            real(
                "format",
                "a_table_whose_length_changes_under_its_users_grants_no_more",
            ),
            unit("place", "a_table_that_was_cut_off_or_grew_is_gone"),
        ],
    ),
    row(
        13,
        "A full filesystem in memory",
        &[
            real(
                "format",
                "a_full_filesystem_is_an_error_at_creation_and_none_later",
            ),
            real(
                "format",
                "a_full_filesystem_that_copies_on_write_is_none_later_either",
            ),
            unit(
                "mapping",
                "a_full_filesystem_is_an_error_and_nothing_is_left_behind",
            ),
        ],
    ),
    row(
        14,
        "The file is unlinked or renamed over: two tables",
        &[
            real(
                "format",
                "a_table_that_was_replaced_under_load_grants_no_more",
            ),
            tool("doctor", "a_process_on_a_deleted_file_is_found"),
        ],
    ),
    noted(
        row(
            15,
            "NFS, 9p, virtiofs, FUSE, overlayfs",
            &[
                real("format", "a_table_on_an_overlay_is_refused"),
                unit(
                    "mapping",
                    "overlayfs_is_refused_before_anything_is_created_there",
                ),
                unit(
                    "mapping",
                    "filesystems_are_refused_by_name_and_unknown_ones_by_number",
                ),
            ],
        ),
        "of these only overlayfs is mounted in earnest; the others are numbers of statfs",
    ),
    row(
        16,
        "Planted links, FIFOs, foreign files, worldly directories",
        &[
            real("format", "whatever_is_no_regular_file_is_refused"),
            real("format", "a_second_name_of_the_file_is_refused"),
            real("format", "a_world_writable_file_is_refused"),
            real("format", "a_file_of_an_untrusted_owner_is_refused"),
            real("format", "a_foreign_file_is_refused_and_left_as_it_is"),
            unit("mapping", "a_link_to_a_good_table_is_refused_as_a_link"),
            unit("mapping", "a_planted_fifo_is_refused_and_hangs_nobody"),
            tool("table_path", "a_planted_directory_is_refused"),
        ],
    ),
    row(
        17,
        "Other versions in a rolling upgrade",
        &[
            real("format", "a_table_of_another_format_is_refused_naming_both"),
            real("format", "every_bit_of_the_header_is_checked"),
        ],
    ),
    row(
        18,
        "A stale release frees the successor's lock",
        &[
            real(
                "hang",
                "a_late_release_after_the_successor_left_changes_nothing",
            ),
            real(
                "hang",
                "an_evicted_guard_is_dropped_without_touching_the_successor",
            ),
            model("revoke", "an_evicted_owners_late_release_changes_nothing"),
            ON_EXPIRY,
        ],
    ),
    row(
        19,
        "Two that reclaim at once",
        &[
            RACERS,
            real(
                "exclusion",
                "of_eight_waiters_exactly_one_hears_of_the_death",
            ),
            model("reclaim", "of_two_reclaimers_one_takes_over"),
            ON_DEATH,
        ],
    ),
    row(
        20,
        "ABA and wrap",
        &[
            model(
                "wrap",
                "a_stale_release_fails_where_the_word_looks_the_same_again",
            ),
            model("wrap", "a_lost_grant_never_looks_current_again"),
            unit(
                "protocol::word",
                "tokens_count_on_across_the_wrap_of_the_word",
            ),
        ],
    ),
    row(
        21,
        "A token that is not issued with ownership",
        &[
            model("revoke", "a_token_is_issued_with_ownership"),
            ON_DEATH,
        ],
    ),
    row(
        22,
        "A force-release of the wrong grant",
        &[
            real(
                "inspect",
                "a_forced_release_of_another_grant_changes_nothing",
            ),
            real("inspect", "a_release_and_a_force_cannot_both_win"),
            tool(
                "force_release",
                "another_grant_than_the_one_that_was_seen_is_left_alone",
            ),
        ],
    ),
    row(
        23,
        "A crash while creating the file",
        &[
            INSTRUCTIONS,
            real(
                "crash",
                "a_creator_killed_at_any_system_call_leaves_nothing_half_made",
            ),
            real("format", "racing_creators_end_in_one_table"),
        ],
    ),
    row(
        24,
        "A crash while naming a slot or attaching",
        &[
            INSTRUCTIONS,
            real(
                "crash",
                "a_process_killed_at_any_instruction_of_naming_leaves_before_or_after",
            ),
            real(
                "crash",
                "a_joiner_killed_at_any_system_call_leaves_nothing_behind",
            ),
            real(
                "crash",
                "joiners_that_come_together_all_get_the_records_of_the_dead",
            ),
        ],
    ),
    row(
        25,
        "A crash while recovering",
        &[
            INSTRUCTIONS,
            real("crash", "a_reset_killed_anywhere_is_done_by_the_next"),
            model("reclaim", "a_sweeper_may_die_at_any_step"),
            ON_DEATH,
        ],
    ),
    row(
        26,
        "A holder that panics or dies in the middle of a write",
        &[
            real("crash", "a_panic_in_the_section_is_told_to_the_successor"),
            real("crash", "after_a_sigkill_the_next_grant_names_the_dead"),
            ON_DEATH,
        ],
    ),
    row(
        27,
        "A wake that is lost on reclaim",
        &[
            model("waiting", "a_reclaim_keeps_the_bit_of_those_who_wait"),
            unit(
                "protocol::slot",
                "who_waits_stays_known_through_a_takeover_and_the_release_calls_one",
            ),
        ],
    ),
    row(
        28,
        "A kill inside the release",
        &[
            INSTRUCTIONS,
            real(
                "crash",
                "an_owner_killed_at_any_instruction_leaves_the_lock_to_the_next",
            ),
            ON_DEATH,
        ],
    ),
    row(
        29,
        "A wake eaten by a waiter that dies",
        &[
            real(
                "crash",
                "waiters_killed_at_their_wake_do_not_take_it_with_them",
            ),
            model(
                "waiting",
                "a_waiter_that_leaves_when_woken_passes_the_wake_on",
            ),
            ON_DEATH,
        ],
    ),
    row(
        30,
        "Private futexes on shared memory",
        &[unit(
            "os::futex",
            "a_wake_crosses_processes_and_two_words_are_told_apart",
        )],
    ),
    row(
        31,
        "EINTR, spurious and early returns",
        &[
            real(
                "environment",
                "a_waiter_under_a_hail_of_signals_neither_gives_up_nor_breaks_in",
            ),
            unit(
                "os::futex",
                "without_waitv_a_wait_on_two_words_is_bounded_and_still_woken",
            ),
            unit(
                "os::futex",
                "a_word_the_kernel_cannot_read_does_not_make_a_caller_spin",
            ),
            SYSCALLS,
            model("waiting", "a_sleep_that_ends_early_loses_no_wake"),
        ],
    ),
    row(
        32,
        "Memory order",
        &[Cell {
            suite: Suite::Models("weakened"),
            test: "is needed: weakened to",
        }],
    ),
    row(
        33,
        "Garbage in the mapping, while it is in use",
        &[
            BYTES,
            real("format", "mutated_images_crash_nobody"),
            real("format", "a_scribbler_crashes_nobody"),
            real("format", "a_damaged_owner_word_troubles_its_own_slot_only"),
        ],
    ),
    row(
        34,
        "Lock names with escape codes",
        &[
            real("inspect", "control_bytes_in_names_are_shown_escaped"),
            tool("output", "names_and_notes_cannot_drive_the_terminal"),
        ],
    ),
    row(
        35,
        "A cleaner that takes bystanders with it",
        &[
            BYTES,
            real("format", "mutated_images_crash_nobody"),
            real("crash", "locks_of_many_dead_processes_are_all_reclaimed"),
            model("reclaim", "a_sweep_never_hits_the_heir_of_the_dead"),
        ],
    ),
];
