//! The table file: who may create it, what is refused at open and by which name, what a
//! reboot, a replacement and a scribbler do to it. Offsets are those of the format's map
//! at the top of the library's `layout.rs`.

mod common;

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use caslock::{
    AcquireError, Forced, Inspector, LockError, LockTable, OpenError, Options, Previous, Reclaim,
    SlotState,
};
use common::{
    Boss, Child, Dice, Grant, Isolation, Scratch, dispatch, on_death, on_expiry, puppet, report,
    skip, sys, variant, watchdog,
};

#[test]
fn child_role() {
    dispatch(&[
        ("puppet", puppet),
        ("looper", looper),
        ("tiny", tiny),
        ("limited", limited),
        ("limited opener", limited_opener),
        ("copying", copying),
        ("overlay", overlay),
        ("stranger", stranger),
        ("prober", prober),
        ("steady", steady),
    ]);
}

/// What opening gives, by every way there is; all must agree.
fn refusal(path: &Path) -> OpenError {
    let by_table = LockTable::open(path).map(drop).expect_err("refused");
    let by_inspector = Inspector::open(path).map(drop).expect_err("refused");
    assert_eq!(variant(&by_table), variant(&by_inspector));
    let existing = LockTable::options()
        .open_existing(path)
        .map(drop)
        .expect_err("refused");
    assert_eq!(variant(&by_table), variant(&existing));
    let text = by_table.to_string();
    assert!(
        text.contains(&*path.to_string_lossy()),
        "which file? {text}"
    );
    by_table
}

macro_rules! assert_refused {
    ($path:expr, $pattern:pat) => {{
        let refused = refusal(&$path);
        assert!(matches!(refused, $pattern), "{refused:?}");
    }};
}

#[test]
fn a_table_that_is_not_there_is_not_found_and_one_that_is_is_not_made_again() {
    let _watchdog = watchdog("a_table_that_is_not_there_is_not_found");
    let scratch = Scratch::empty();
    let path = scratch.table();
    let refused = LockTable::options()
        .open_existing(&path)
        .map(drop)
        .expect_err("nothing there");
    assert!(matches!(refused, OpenError::NotFound { .. }), "{refused:?}");
    assert_eq!(
        fs::read_dir(scratch.dir()).expect("the directory").count(),
        0
    );
    on_death().create(&path).expect("a new table");
    let before = fs::read(&path).expect("the file");
    let refused = on_death().create(&path).expect_err("there is one");
    assert!(
        matches!(refused, OpenError::AlreadyExists { .. }),
        "{refused:?}"
    );
    assert_eq!(fs::read(&path).expect("the file"), before);
    let nowhere = scratch.file("no/such/directory/t.table");
    assert!(LockTable::open(nowhere).is_err());
}

#[test]
fn a_new_table_has_the_mode_that_was_asked_for_whatever_the_umask() {
    let _watchdog = watchdog("a_new_table_has_the_mode_that_was_asked_for");
    for (options, mode) in [(on_death(), 0o600), (on_death().mode(0o660), 0o660)] {
        let scratch = Scratch::with(options);
        let found = fs::metadata(scratch.table())
            .expect("the file")
            .permissions()
            .mode();
        assert_eq!(found & 0o7777, mode);
        drop(scratch.open());
    }
    let scratch = Scratch::empty();
    let refused = on_death()
        .mode(0o666)
        .create(scratch.table())
        .expect_err("anybody could write");
    assert!(
        matches!(refused, OpenError::WorldWritable { .. }),
        "{refused:?}"
    );
    assert!(!scratch.table().exists());
}

#[test]
fn numbers_that_make_no_table_are_refused() {
    let _watchdog = watchdog("numbers_that_make_no_table_are_refused");
    let scratch = Scratch::empty();
    let cases = [
        on_death().slots(0),
        on_death().slots(u32::MAX),
        on_death().sessions(0),
        on_death().sessions(u32::MAX),
        on_expiry(0),
        on_expiry(1),
        on_expiry(u64::MAX / 1_000_000),
    ];
    for options in cases {
        let refused = options
            .clone()
            .create(scratch.table())
            .expect_err("no such table");
        assert!(
            matches!(refused, OpenError::Geometry { .. }),
            "{options:?}: {refused:?}"
        );
        assert!(!scratch.table().exists());
    }
    // The smallest that there is works.
    let scratch = Scratch::with(on_death().slots(1).sessions(1));
    drop(
        scratch
            .open()
            .lock("only")
            .expect("a lock")
            .try_acquire()
            .expect("free"),
    );
}

#[test]
fn a_policy_is_fixed_at_creation() {
    let _watchdog = watchdog("a_policy_is_fixed_at_creation");
    let scratch = Scratch::with(on_expiry(1_000));
    for wanted in [on_death(), on_expiry(2_000)] {
        let refused = wanted
            .open(scratch.table())
            .map(drop)
            .expect_err("another policy");
        assert!(
            matches!(refused, OpenError::PolicyDiffers { .. }),
            "{refused:?}"
        );
    }
    drop(
        on_expiry(1_000)
            .open(scratch.table())
            .expect("the same policy"),
    );
    let lease = Duration::from_secs(1);
    assert_eq!(scratch.open().reclaim(), Reclaim::OnExpiry { lease });
}

/// Row 16: what an attacker, or an accident, may have put at the path.
#[test]
fn whatever_is_no_regular_file_is_refused() {
    let _watchdog = watchdog("whatever_is_no_regular_file_is_refused");
    let scratch = Scratch::with(on_death());
    let link = scratch.file("link");
    symlink(scratch.table(), &link).expect("a link");
    assert_refused!(link, OpenError::NotRegular { .. });
    let dangling = scratch.file("dangling");
    symlink(scratch.file("planted"), &dangling).expect("a link");
    assert_refused!(dangling, OpenError::NotRegular { .. });
    assert!(
        !scratch.file("planted").exists(),
        "nothing was made through the link"
    );
    let fifo = scratch.file("fifo");
    sys::make_fifo(&fifo);
    assert_refused!(fifo, OpenError::NotRegular { .. });
    assert_refused!(scratch.dir(), OpenError::NotRegular { .. });
    assert_refused!(Path::new("/dev/null"), OpenError::NotRegular { .. });
    drop(scratch.open());
}

#[test]
fn a_second_name_of_the_file_is_refused() {
    let _watchdog = watchdog("a_second_name_of_the_file_is_refused");
    let scratch = Scratch::with(on_death());
    let second = scratch.file("second");
    fs::hard_link(scratch.table(), &second).expect("a hard link");
    for path in [&second, &scratch.table()] {
        assert_refused!(path, OpenError::LinkCount { links: 2, .. });
    }
    fs::remove_file(second).expect("removed");
    drop(scratch.open());
}

#[test]
fn a_world_writable_file_is_refused() {
    let _watchdog = watchdog("a_world_writable_file_is_refused");
    let scratch = Scratch::with(on_death());
    for mode in [0o666, 0o602, 0o777] {
        fs::set_permissions(scratch.table(), Permissions::from_mode(mode)).expect("chmod");
        let refused = refusal(&scratch.table());
        let OpenError::WorldWritable { mode: found, .. } = refused else {
            panic!("{mode:o}: {refused:?}");
        };
        assert_eq!(found & 0o777, mode);
    }
    fs::set_permissions(scratch.table(), Permissions::from_mode(0o660)).expect("chmod");
    drop(scratch.open());
}

#[test]
fn a_file_of_an_untrusted_owner_is_refused() {
    let _watchdog = watchdog("a_file_of_an_untrusted_owner_is_refused");
    if sys::effective_uid() != 0 {
        skip(
            "a_file_of_an_untrusted_owner_is_refused",
            "only root gives files away",
        );
        return;
    }
    let scratch = Scratch::with(on_death());
    std::os::unix::fs::chown(scratch.table(), Some(54_321), Some(54_321)).expect("chown");
    // Anybody could have planted it there.
    fs::set_permissions(scratch.dir(), Permissions::from_mode(0o1777)).expect("chmod");
    assert_refused!(
        scratch.table(),
        OpenError::ForeignOwner { owner: 54_321, .. }
    );
}

/// Opens a table as a user without rights.
fn stranger(boss: &mut Boss) {
    let path = boss.hear();
    sys::become_user(65_534);
    let answer = LockTable::open(&path).map_or_else(|e| variant(&e), |_| "opened".to_owned());
    boss.say(answer);
    let answer = Inspector::open(&path).map_or_else(|e| variant(&e), |_| "opened".to_owned());
    boss.say(answer);
}

#[test]
fn a_user_without_rights_is_told_so() {
    let _watchdog = watchdog("a_user_without_rights_is_told_so");
    if sys::effective_uid() != 0 {
        skip(
            "a_user_without_rights_is_told_so",
            "only root can become another user",
        );
        return;
    }
    let scratch = Scratch::with(on_death());
    fs::set_permissions(scratch.dir(), Permissions::from_mode(0o755)).expect("chmod");
    for path in [scratch.table(), scratch.file("not-there-yet")] {
        let mut child = Child::start("stranger");
        child.say(path.display());
        assert_eq!(child.hear(), "PermissionDenied", "{}", path.display());
        let expected = if path.exists() {
            "PermissionDenied"
        } else {
            "NotFound"
        };
        assert_eq!(child.hear(), expected);
    }
}

#[test]
fn a_foreign_file_is_refused_and_left_as_it_is() {
    let _watchdog = watchdog("a_foreign_file_is_refused_and_left_as_it_is");
    let scratch = Scratch::empty();
    let path = scratch.table();
    let long = "Dear diary, today I was taken for a lock table. ".repeat(2_000);
    let contents = [
        String::new(),
        "x".to_owned(),
        "\0".repeat(4_096),
        "\0".repeat(70_000),
        long,
    ];
    for content in contents {
        fs::write(&path, &content).expect("a file");
        assert_refused!(path, OpenError::NotATable { .. });
        assert!(
            fs::read_to_string(&path).expect("the file") == content,
            "it was changed"
        );
    }
}

#[test]
fn a_file_of_the_wrong_length_is_refused() {
    let _watchdog = watchdog("a_file_of_the_wrong_length_is_refused");
    let scratch = Scratch::with(on_death());
    let file = OpenOptions::new()
        .write(true)
        .open(scratch.table())
        .expect("the file");
    let whole = file.metadata().expect("its length").len();
    for length in [whole - 1, whole - 4_096, 4_096, whole + 1, whole + 4_096] {
        file.set_len(length).expect("cut or stretched");
        assert_refused!(scratch.table(), OpenError::Damaged { .. });
        // Not even the header is whole in what is left.
    }
    for length in [4_095, 128, 8, 0] {
        file.set_len(length).expect("cut");
        assert_refused!(
            scratch.table(),
            OpenError::NotATable { .. } | OpenError::Damaged { .. }
        );
    }
}

/// The header's words, as far as they are checked.
const CHECKED: usize = 13;

/// FNV-1a over the checked words, as the format has it.
fn check_of(header: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    header[..CHECKED * 8]
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, step)
}

fn word_at(bytes: &[u8], offset: usize) -> u64 {
    u64::from_ne_bytes(bytes[offset..offset + 8].try_into().expect("eight bytes"))
}

fn put_word(bytes: &mut [u8], offset: usize, word: u64) {
    bytes[offset..offset + 8].copy_from_slice(&word.to_ne_bytes());
}

/// Row 17: no bit of the header may be wrong and go unnoticed.
#[test]
fn every_bit_of_the_header_is_checked() {
    let _watchdog = watchdog("every_bit_of_the_header_is_checked");
    let scratch = Scratch::with(on_death());
    let good = fs::read(scratch.table()).expect("the file");
    let file = OpenOptions::new()
        .write(true)
        .open(scratch.table())
        .expect("the file");
    for byte in 0..(CHECKED + 1) * 8 {
        for bit in 0..8 {
            file.write_all_at(&[good[byte] ^ (1 << bit)], byte as u64)
                .expect("edited");
            let refused = Inspector::open(scratch.table())
                .map(drop)
                .expect_err("an edited header");
            let fits = match byte {
                0..8 => matches!(refused, OpenError::NotATable { .. }),
                8..32 => matches!(refused, OpenError::Format { .. }),
                _ => matches!(refused, OpenError::Damaged { .. }),
            };
            assert!(fits, "byte {byte} bit {bit}: {refused:?}");
        }
        file.write_all_at(&good[byte..=byte], byte as u64)
            .expect("mended");
    }
    drop(scratch.open());
}

/// Row 17: a table of another build is named for what it is.
#[test]
fn a_table_of_another_format_is_refused_naming_both() {
    let _watchdog = watchdog("a_table_of_another_format_is_refused_naming_both");
    let scratch = Scratch::with(on_death());
    let good = fs::read(scratch.table()).expect("the file");
    // The format before and the one after, another layout signature, a feature bit of the future.
    for (offset, word) in [(8, 2), (8, 4), (16, 0x0123_4567_89ab_cdef), (24, 1 << 40)] {
        let mut edited = good.clone();
        put_word(&mut edited, offset, word);
        let check = check_of(&edited);
        put_word(&mut edited, CHECKED * 8, check);
        fs::write(scratch.table(), &edited).expect("edited");
        let refused = refusal(&scratch.table());
        let OpenError::Format {
            found, expected, ..
        } = &refused
        else {
            panic!("offset {offset}: {refused:?}");
        };
        assert_ne!(found, expected);
        let text = refused.to_string();
        assert!(text.contains(found) && text.contains(expected), "{text}");
    }
}

/// A header that passes its own check and still makes no sense.
#[test]
fn a_header_that_contradicts_itself_is_refused() {
    let _watchdog = watchdog("a_header_that_contradicts_itself_is_refused");
    let scratch = Scratch::with(on_expiry(1_000));
    let good = fs::read(scratch.table()).expect("the file");
    assert_eq!(
        check_of(&good),
        word_at(&good, CHECKED * 8),
        "the check is as documented"
    );
    let (slots, sessions, index) = (64, 72, 80);
    let (policy, lease) = (88, 96);
    let edits = [
        (slots, 0),
        (slots, 32),
        (slots, 65),
        (slots, u64::MAX),
        (slots, 1 << 24),
        (sessions, 0),
        (sessions, 16),
        (sessions, 64),
        (sessions, u64::MAX),
        (sessions, 4_089),
        (index, 0),
        (index, 129),
        (index, 128),
        (index, 512),
        (index, u64::MAX),
        (policy, 0),
        (policy, 2),
        (policy, 3),
        (policy, u64::MAX),
        (lease, 0),
        (lease, u64::MAX),
    ];
    for (offset, word) in edits {
        let mut edited = good.clone();
        put_word(&mut edited, offset, word);
        let check = check_of(&edited);
        put_word(&mut edited, CHECKED * 8, check);
        fs::write(scratch.table(), &edited).expect("edited");
        let refused = refusal(&scratch.table());
        assert!(
            matches!(refused, OpenError::Damaged { .. }),
            "{word} at {offset}: {refused:?}"
        );
    }
    fs::write(scratch.table(), &good).expect("mended");
    drop(scratch.open());
}

/// Rows 23 and 24: whoever loses the race to create opens the winner's table.
#[test]
fn racing_creators_end_in_one_table() {
    let _watchdog = watchdog("racing_creators_end_in_one_table");
    let mut racers: Vec<_> = (0..6).map(|_| Child::start("puppet")).collect();
    for _ in 0..40 {
        let scratch = Scratch::empty();
        for racer in &mut racers {
            racer.say(format!("open {}", scratch.table().display()));
        }
        let mut sessions: Vec<_> = racers.iter_mut().map(Child::hear).collect();
        assert!(
            sessions.iter().all(|answer| answer.starts_with("session ")),
            "{sessions:?}"
        );
        sessions.sort();
        sessions.dedup();
        assert_eq!(
            sessions.len(),
            racers.len(),
            "each has a session of its own"
        );
        let files: Vec<_> = fs::read_dir(scratch.dir())
            .expect("the directory")
            .collect();
        assert_eq!(files.len(), 1, "{files:?}");
        // One table: its tokens go up whoever takes the lock.
        let mut last = 0;
        for racer in &mut racers {
            let grant = racer.acquire("job");
            assert!(grant.token > last);
            last = grant.token;
            assert_eq!(racer.release("job"), "released");
            assert_eq!(racer.ask("close"), "closed");
        }
    }
}

/// Runs `role` with mounts of its own; `None` if that may not be.
fn with_mounts(test: &str, role: &str) -> Option<Child> {
    if !sys::may_unshare(libc::CLONE_NEWNS) {
        skip(test, "mounting takes CAP_SYS_ADMIN");
        return None;
    }
    let how = Isolation::namespaces(libc::CLONE_NEWNS);
    Some(Child::start_in(role, how).expect("a child with mounts of its own"))
}

/// A child in that role has mounts of its own, where there can be such, and a directory to
/// mount in, and says what is expected.
fn says_with_mounts(test: &'static str, role: &str, expected: &str) {
    let _watchdog = watchdog(test);
    let scratch = Scratch::empty();
    let Some(mut child) = with_mounts(test, role) else {
        return;
    };
    child.say(scratch.dir().display());
    let answer = child.hear();
    if answer.starts_with("cannot mount") {
        skip(test, answer);
        return;
    }
    assert_eq!(answer, expected);
}

/// Fills a filesystem of 64 KiB and works on there.
fn tiny(boss: &mut Boss) {
    let dir = PathBuf::from(boss.hear());
    if let Err(e) = sys::mount_privately(c"tmpfs", &dir, c"size=64k") {
        return boss.say(format!("cannot mount: {e}"));
    }
    let path = dir.join("t.table");
    let refused = LockTable::open(&path)
        .map(drop)
        .expect_err("64 KiB hold no table of the default size");
    let OpenError::NoSpace { bytes, .. } = refused else {
        panic!("{refused:?}");
    };
    assert!(bytes > 64 << 10);
    assert_eq!(
        fs::read_dir(&dir).expect("the directory").count(),
        0,
        "nothing is left behind"
    );

    // A small one fits, and a copy of it, which a backup has made without its zeroes.
    let copy = dir.join("copy.table");
    on_death()
        .slots(16)
        .sessions(8)
        .create(&path)
        .expect("room enough");
    let mut copying = Command::new("cp");
    copying.arg("--sparse=always").args([&path, &copy]);
    assert!(copying.status().expect("cp").success());
    fs::remove_file(&path).expect("the original");
    let has_holes = || {
        let copy = copy.metadata().expect("the copy");
        copy.blocks() * 512 < copy.len()
    };
    assert!(has_holes());
    work_where_there_is_no_more_room(&path);
    let refused = LockTable::open(&copy).map(drop).expect_err("no room");
    assert!(matches!(refused, OpenError::NoSpace { .. }), "{refused:?}");
    fs::remove_file(dir.join("filler")).expect("the filler");
    LockTable::open(&copy).expect("room enough");
    assert!(!has_holes());
    boss.say("worked");
}

/// Works with a small table, which needs no more when the rest is full.
fn work_where_there_is_no_more_room(path: &Path) {
    const SLOTS: u32 = 16;
    let table = on_death()
        .slots(SLOTS)
        .sessions(8)
        .open(path)
        .expect("room enough");
    let dir = path.parent().expect("a directory");
    let mut filler = File::create(dir.join("filler")).expect("a file");
    let full = [1 << 16, 512].map(|piece| {
        loop {
            if let Err(e) = filler.write_all(&vec![7; piece]) {
                break e.kind();
            }
        }
    });
    assert_eq!(full, [ErrorKind::StorageFull; 2]);
    for i in 0..3 * SLOTS {
        let lock = table
            .lock(format!("{i}{}", "n".repeat(200)))
            .expect("an idle name makes room");
        let guard = lock.acquire().expect("a grant");
        guard
            .set_note(&"x".repeat(caslock::NOTE_MAX))
            .expect("a note");
        guard.release().expect("held to the end");
    }
    let snapshot = table.inspect().expect("a snapshot");
    assert_eq!(snapshot.slots.len(), SLOTS as usize);
    // What was written is on the device, so that the next store is one into clean pages.
    filler.sync_all().unwrap_or_default();
    let table_file = File::open(path).expect("the table's file");
    table_file.sync_all().expect("written back");
    let lock = table.lock("once more").expect("an idle name makes room");
    let guard = lock.acquire().expect("a grant");
    guard.set_note("x").expect("a note");
}

/// Does the same where stores go to new room, unless they are told not to.
fn copying(boss: &mut Boss) {
    let dir = PathBuf::from(boss.hear());
    let (image, mounted) = (dir.join("image"), dir.join("mounted"));
    let device = File::create(&image).expect("a file");
    device.set_len(128 << 20).expect("no room is needed");
    fs::create_dir(&mounted).expect("a directory");
    let run = |program: &str, args: &[&OsStr]| {
        let output = Command::new(program).args(args).output();
        let output = output.map_err(|e| format!("{program}: {e}"))?;
        match output.status.success() {
            true => Ok(()),
            false => Err(String::from_utf8_lossy(&output.stderr).replace('\n', " ")),
        }
    };
    let [image, to] = [image.as_os_str(), mounted.as_os_str()];
    let options = ["-t", "btrfs", "-o", "loop"].map(OsStr::new);
    let made = run("mkfs.btrfs", &[OsStr::new("--quiet"), image]);
    if let Err(e) = made.and_then(|()| run("mount", &[&options[..], &[image, to]].concat())) {
        return boss.say(format!("cannot mount: {e}"));
    }
    work_where_there_is_no_more_room(&mounted.join("t.table"));
    run("umount", &[to]).expect("unmounted, and the device is free");
    boss.say("worked");
}

#[test]
fn a_full_filesystem_that_copies_on_write_is_none_later_either() {
    let test = "a_full_filesystem_that_copies_on_write_is_none_later_either";
    says_with_mounts(test, "copying", "worked");
}

/// Row 13: a full filesystem is an error at creation, and never a SIGBUS later.
#[test]
fn a_full_filesystem_is_an_error_at_creation_and_none_later() {
    let test = "a_full_filesystem_is_an_error_at_creation_and_none_later";
    let _watchdog = watchdog(test);
    let scratch = Scratch::empty();
    let Some(mut child) = with_mounts(test, "tiny") else {
        return;
    };
    child.say(scratch.dir().display());
    assert_eq!(child.hear(), "worked");
}

/// Has this process write no file to more than so many bytes.
fn limit_file_size(bytes: u64) {
    let most = rustix::process::Rlimit {
        current: Some(bytes),
        maximum: Some(bytes),
    };
    rustix::process::setrlimit(rustix::process::Resource::Fsize, most).expect("a lower limit");
}

/// Makes a table where files may not be as large as that.
fn limited(boss: &mut Boss) {
    let path = boss.hear();
    limit_file_size(4096);
    let refused = LockTable::open(&path).map(drop).expect_err("too large");
    let OpenError::Io { doing, error, .. } = &refused else {
        panic!("{refused:?}");
    };
    assert_eq!(error.raw_os_error(), Some(libc::EFBIG));
    assert!(doing.contains("RLIMIT_FSIZE"), "{refused}");
    boss.say(Path::new(&path).exists());
}

/// It was ended by SIGXFSZ.
#[test]
fn a_process_that_may_not_write_so_much_lives_to_hear_so() {
    let _watchdog = watchdog("a_process_that_may_not_write_so_much_lives_to_hear_so");
    let scratch = Scratch::empty();
    let mut limited = Child::start("limited");
    limited.say(scratch.table().display());
    assert_eq!(limited.hear(), "false");
    // Who opens it writes nothing to the file.
    on_death().create(scratch.table()).expect("a new table");
    let mut limited = Child::start("limited opener");
    limited.say(scratch.table().display());
    assert_eq!(limited.hear(), "granted");
}

fn limited_opener(boss: &mut Boss) {
    let path = boss.hear();
    limit_file_size(0);
    let lock = LockTable::open(&path)
        .expect("a table")
        .lock("job")
        .expect("a lock");
    lock.try_acquire().expect("free").release().expect("held");
    boss.say("granted");
}

/// Looks for a table through an overlay, and for a place for a new one.
fn overlay(boss: &mut Boss) {
    let dir = PathBuf::from(boss.hear());
    let merged = dir.join("merged");
    for name in ["lower", "upper", "work", "merged"] {
        fs::create_dir(dir.join(name)).expect("a directory");
    }
    on_death()
        .create(dir.join("lower/old.table"))
        .expect("a new table");
    let at = dir.display();
    let options = format!("lowerdir={at}/lower,upperdir={at}/upper,workdir={at}/work");
    let options = std::ffi::CString::new(options).expect("no NUL");
    if let Err(e) = sys::mount_privately(c"overlay", &merged, &options) {
        return boss.say(format!("cannot mount: {e}"));
    }
    for name in ["old.table", "new.table"] {
        let refused = LockTable::open(merged.join(name))
            .map(drop)
            .expect_err("no place for a table");
        let OpenError::Filesystem { filesystem, .. } = &refused else {
            panic!("{name}: {refused:?}");
        };
        assert!(filesystem.contains("overlay"), "by name: {filesystem}");
    }
    assert_eq!(
        fs::read_dir(&merged).expect("the directory").count(),
        1,
        "nothing was made"
    );
    boss.say("refused");
}

/// Row 15: on an overlay a close drops the byte lock, so it is refused, by name.
#[test]
fn a_table_on_an_overlay_is_refused() {
    says_with_mounts("a_table_on_an_overlay_is_refused", "overlay", "refused");
}

/// Takes and releases a lock until that is no longer possible, and says why.
fn looper(boss: &mut Boss) {
    let path = boss.hear();
    let name = boss.hear();
    let table = LockTable::options()
        .open_existing(path)
        .expect("the table opens");
    let lock = table.lock(&name).expect("a lock");
    boss.say("looping");
    loop {
        match lock.acquire() {
            Ok(guard) => guard.release().expect("held to the end"),
            Err(e) => break boss.say(variant(&e)),
        }
    }
    let answer = table
        .lock("another name")
        .map_or_else(|e| variant(&e), |_| "resolved".to_owned());
    boss.say(answer);
    boss.say(
        table
            .inspect()
            .expect("a look is still possible")
            .table
            .in_place,
    );
}

/// How a table's file can cease to be the table's.
type Way = (&'static str, fn(&Scratch));

/// Row 14: two files at one path are two tables, and nobody must believe otherwise.
#[test]
fn a_table_that_was_replaced_under_load_grants_no_more() {
    let _watchdog = watchdog("a_table_that_was_replaced_under_load_grants_no_more");
    let ways: [Way; 4] = [
        ("unlinked", |s| {
            fs::remove_file(s.table()).expect("unlinked")
        }),
        ("renamed away", |s| {
            fs::rename(s.table(), s.file("elsewhere")).expect("renamed")
        }),
        ("renamed over", |s| {
            on_death().create(s.file("new.table")).expect("a new table");
            fs::rename(s.file("new.table"), s.table()).expect("renamed");
        }),
        ("recreated", |s| {
            fs::remove_file(s.table()).expect("unlinked");
            on_death().create(s.table()).expect("a new table");
        }),
    ];
    for (way, replace) in ways {
        let scratch = Scratch::with(on_death());
        let path = scratch.table();
        let mut loopers: Vec<_> = (0..4).map(|_| Child::start("looper")).collect();
        for (at, looper) in loopers.iter_mut().enumerate() {
            looper.say(path.display());
            looper.say(["alone", "shared", "shared", "blocked"][at]);
            if at < 3 {
                assert_eq!(looper.hear(), "looping");
            }
        }
        let table = scratch.open();
        let old_id = table.inspect().expect("a snapshot").table.id;
        let blocked = table.lock("blocked").expect("a lock");
        let guard = blocked.acquire().expect("a grant");
        assert_eq!(loopers[3].hear(), "looping");
        // One waits here as well, and finds the lock vacant in the end.
        let waiting = table.lock("blocked").expect("a lock");
        let waiter = thread::spawn(move || waiting.acquire().map(drop));
        replace(&scratch);
        for looper in &mut loopers {
            assert_eq!(looper.hear(), "TableReplaced", "{way}");
            assert_eq!(looper.hear(), "TableReplaced", "{way}");
            assert_eq!(looper.hear(), "false", "{way}: in place");
        }
        // Here, too; a grant from before stays what it is.
        common::wait_until(|| matches!(table.lock("x"), Err(LockError::TableReplaced(_))));
        let refused = blocked.try_acquire().map(drop);
        assert!(
            matches!(refused, Err(AcquireError::TableReplaced(_))),
            "{way}: {refused:?}"
        );
        assert!(guard.is_held());
        guard.release().expect("held to the end");
        let refused = waiter.join().expect("no panic");
        assert!(
            matches!(refused, Err(AcquireError::TableReplaced(_))),
            "{way}: {refused:?}"
        );
        // The path leads to another table now, for whoever opens it.
        let new = LockTable::open(&path).expect("the new table");
        assert_ne!(new.inspect().expect("a snapshot").table.id, old_id, "{way}");
        drop(
            new.lock("blocked")
                .expect("a lock")
                .try_acquire()
                .expect("free"),
        );
        assert!(matches!(table.lock("x"), Err(LockError::TableReplaced(_))));
    }
}

/// The session that saw its table go stays closed. A path that leads to the same file again
/// is opened as a new session, not with the closed one.
#[test]
fn a_table_that_is_back_at_its_path_is_used_by_whoever_opens_it_again() {
    let _watchdog = watchdog("a_table_that_is_back_at_its_path_is_used_by_whoever_opens_it_again");
    let scratch = Scratch::with(on_death());
    let closed = scratch.open();
    fs::rename(scratch.table(), scratch.file("elsewhere")).expect("renamed");
    common::wait_until(|| matches!(closed.lock("job"), Err(LockError::TableReplaced(_))));
    fs::rename(scratch.file("elsewhere"), scratch.table()).expect("renamed");
    let table = scratch.open();
    assert_ne!(table.session(), closed.session());
    let lock = table.lock("job").expect("a lock");
    let guard = lock.acquire().expect("a grant");
    guard.release().expect("held to the end");
    let refused = closed.lock("job").map(drop);
    assert!(
        matches!(refused, Err(LockError::TableReplaced(_))),
        "{refused:?}"
    );
}

/// Row 12: a file whose length has changed is not the table that was opened. One that was
/// cut ends those who touch what is gone with SIGBUS, as every mapping does: permissions
/// are the only defence, and the documentation says so. Nobody is granted anything.
#[test]
fn a_table_whose_length_changes_under_its_users_grants_no_more() {
    let _watchdog = watchdog("a_table_whose_length_changes_under_its_users_grants_no_more");
    for (grown, ends) in [
        (true, &["TableReplaced"][..]),
        (false, &["TableReplaced", "SIGBUS"]),
    ] {
        let scratch = Scratch::with(on_death());
        let mut looper = Child::start("looper");
        looper.say(scratch.table().display());
        looper.say("job");
        assert_eq!(looper.hear(), "looping");
        let file = OpenOptions::new()
            .write(true)
            .open(scratch.table())
            .expect("the file");
        let whole = file.metadata().expect("its length").len();
        file.set_len(if grown { whole + 4_096 } else { 0 })
            .expect("another length");
        let said = looper.hear_out();
        let end = match said.first() {
            Some(error) => error.clone(),
            None => format!("{:?}", looper.end_signal().expect("it did not speak")),
        };
        assert!(
            ends.contains(&end.as_str()),
            "grown {grown}: {end}, {said:?}"
        );
    }
}

/// Makes the file one of another boot.
fn edit_boot_id(path: &Path) {
    let file = OpenOptions::new().write(true).open(path).expect("the file");
    file.write_all_at(&[0x5a; 16], 112).expect("edited");
}

/// Row 11: after a reboot nothing is held, and no token comes twice.
#[test]
fn a_reset_after_a_reboot_frees_every_slot_and_keeps_tokens_growing() {
    let _watchdog = watchdog("a_reset_after_a_reboot_frees_every_slot");
    let scratch = Scratch::with(on_death().slots(8));
    let names = ["held-a", "held-b", "free"];
    let mut last = [0; 3];
    let mut dead = 0;
    for boot in 0..4 {
        let mut holder = Child::puppet(&scratch.table());
        for (name, last) in names.iter().zip(&mut last) {
            for round in 0..=boot {
                let grant = holder.acquire(name);
                assert!(grant.token > *last, "{name}: {grant:?} after {last}");
                // Who held a lock when the machine went down has died like any other.
                let died = round == 0 && boot > 0 && *name != "free";
                assert_eq!(grant.previous == "died", died, "{name}: {grant:?}");
                assert_eq!(grant.departed.0, if died { dead } else { 0 });
                *last = grant.token;
                assert_eq!(holder.release(name), "released");
            }
        }
        for (name, last) in names.iter().zip(&mut last).take(2) {
            *last = holder.acquire(name).token;
        }
        holder.kill_and_reap();
        dead = holder.pid();
        edit_boot_id(&scratch.table());
        let inspector = Inspector::open(scratch.table()).expect("a look needs no reset");
        assert!(!inspector.snapshot().expect("a snapshot").table.current_boot);

        let table = scratch.open();
        let snapshot = table.inspect().expect("a snapshot");
        assert!(snapshot.table.current_boot);
        assert!(
            snapshot.slots.iter().all(|slot| slot.holder.is_none()),
            "{:?}",
            snapshot.slots
        );
        // A name that was in use before may come back as a new one: its tokens go on.
        let floor = snapshot.table.token_floor.0;
        assert!(
            last.iter().all(|last| *last < floor),
            "{floor} above {last:?}"
        );
        let lock = table.lock(format!("new-{boot}")).expect("a lock");
        assert!(
            lock.try_acquire()
                .map(|guard| guard.token().0)
                .expect("free")
                > floor
        );
    }
}

/// Row 11: whoever holds a session in the table lives in this boot, so nothing is reset.
#[test]
fn a_table_in_use_is_not_reset() {
    let _watchdog = watchdog("a_table_in_use_is_not_reset");
    let scratch = Scratch::with(on_death());
    let mut holder = Child::puppet(&scratch.table());
    let held = holder.acquire("job");
    edit_boot_id(&scratch.table());
    let refused = LockTable::open(scratch.table())
        .map(drop)
        .expect_err("in use");
    assert!(
        matches!(refused, OpenError::ResetBlocked { .. }),
        "{refused:?}"
    );
    assert!(holder.is_held("job"));
    assert_eq!(holder.release("job"), "released");
    let again = holder.acquire("job");
    assert!(again.token > held.token);
    holder.kill_and_reap();
    let lock = scratch.open().lock("job").expect("a lock");
    assert!(
        lock.try_acquire()
            .map(|guard| guard.token().0)
            .expect("free")
            > again.token
    );
}

/// Row 11: openers that all find the old boot id reset once and lose nothing.
#[test]
fn concurrent_openers_after_a_reboot_reset_once() {
    let _watchdog = watchdog("concurrent_openers_after_a_reboot_reset_once");
    let scratch = Scratch::with(on_death());
    let mut openers: Vec<_> = (0..6).map(|_| Child::start("puppet")).collect();
    let mut last = 0;
    for _ in 0..30 {
        edit_boot_id(&scratch.table());
        for opener in &mut openers {
            opener.say(format!("open {}", scratch.table().display()));
            opener.say("acquire job");
        }
        for opener in &mut openers {
            let answer = opener.hear();
            assert!(answer.starts_with("session "), "{answer}");
        }
        // A reset after the first grant would grant the lock twice.
        // Tokens tell: whoever was granted the lock by a slot that a later reset freed would
        // see the number of its successor again, or lose its grant.
        let mut waiting: Vec<_> = openers.iter_mut().collect();
        while !waiting.is_empty() {
            waiting.retain_mut(|opener| {
                if !opener.answers_within(Duration::from_millis(1)) {
                    return true;
                }
                let grant: Grant = opener.hear().parse().expect("a grant");
                assert!(grant.token > last, "{grant:?} after {last}");
                last = grant.token;
                assert_eq!(opener.release("job"), "released");
                false
            });
        }
        for opener in &mut openers {
            assert_eq!(opener.ask("close"), "closed");
        }
    }
}

/// Where the slots of a table begin in its file, by the format's map.
fn slots_offset(file: &[u8]) -> usize {
    let (sessions, index) = (word_at(file, 72), word_at(file, 80));
    usize::try_from(4_096 + 256 * sessions + 8 * index).expect("fits")
}

/// The offset of the owner word with this process id in it.
fn owner_word_of(path: &Path, pid: u32) -> usize {
    let file = fs::read(path).expect("the file");
    let slots = usize::try_from(word_at(&file, 64)).expect("fits") + 1;
    let start = slots_offset(&file);
    let mut offsets = (0..slots).map(|slot| start + 64 * slot);
    let found = offsets.find(|&at| word_at(&file, at) >> 42 == u64::from(pid));
    found.expect("an owner word with that process id")
}

/// An owner word with another owner; its generation stays.
const fn with_owner(word: u64, pid: u64, session: u64) -> u64 {
    pid << 42 | session << 30 | word & ((1 << 30) - 1)
}

/// Row 33: a word that no rule can have made is its own slot's trouble, and an operator's.
#[test]
fn a_damaged_owner_word_troubles_its_own_slot_only() {
    let _watchdog = watchdog("a_damaged_owner_word_troubles_its_own_slot_only");
    let scratch = Scratch::with(on_death());
    let table = scratch.open();
    let (bad, good) = (
        table.lock("bad").expect("a lock"),
        table.lock("good").expect("a lock"),
    );
    let file = OpenOptions::new()
        .write(true)
        .open(scratch.table())
        .expect("the file");
    // Free for no known reason; held by sessions that the table does not have.
    let cases = [(0, 7), (4_242, 4_000), (4_242, 0xff8)];
    let mut last = 0;
    for (pid, session) in cases {
        let guard = bad.acquire().expect("a grant");
        assert!(guard.token().0 > last);
        last = guard.token().0;
        let at = owner_word_of(&scratch.table(), std::process::id());
        let held = word_at(&fs::read(scratch.table()).expect("the file"), at);
        let word = with_owner(held, pid, session);
        file.write_all_at(&word.to_ne_bytes(), at as u64)
            .expect("scribbled");
        assert!(!guard.is_held());
        drop(guard);
        let attempts = [
            bad.try_acquire(),
            bad.acquire_timeout(Duration::from_millis(50)),
        ];
        for attempt in attempts.into_iter().chain([bad.acquire()]) {
            let attempt = attempt.map(|guard| guard.token());
            let Err(AcquireError::Corrupt { word: found, .. }) = attempt else {
                panic!("{word:#x}: {attempt:?}");
            };
            assert_eq!(found, word);
        }
        drop(good.try_acquire().expect("the neighbour is well"));
        let snapshot = table.inspect().expect("a snapshot");
        let slot = snapshot.slot("bad").expect("it is shown");
        assert_eq!((slot.state, slot.token.0), (SlotState::Corrupt, last));
        let forced = table.force_release("bad", last).expect("repaired");
        assert_eq!(forced, Forced::Repaired);
        // Somebody may have been in the middle of something.
        let next = bad.acquire().expect("repaired");
        let who = match pid {
            0 => std::process::id(),
            pid => pid as u32,
        };
        assert!(matches!(next.previous(), Previous::Forced(from) if from.pid == who));
    }
    assert!(bad.acquire().expect("repaired").token().0 > last);
}

/// Row 33: a slot that says it is being given another name, when nobody is at it, is lost
/// to its name, which gets another slot.
#[test]
fn a_name_whose_slot_is_forever_being_renamed_gets_another() {
    let _watchdog = watchdog("a_name_whose_slot_is_forever_being_renamed_gets_another");
    const RENAMING: u64 = 0xfff - 4;
    let scratch = Scratch::with(on_death());
    let table = scratch.open();
    let lock = table.lock("bad").expect("a lock");
    let guard = lock.acquire().expect("a grant");
    let at = owner_word_of(&scratch.table(), std::process::id());
    let held = word_at(&fs::read(scratch.table()).expect("the file"), at);
    let word = with_owner(held, 4_242, RENAMING);
    let file = OpenOptions::new()
        .write(true)
        .open(scratch.table())
        .expect("the file");
    file.write_all_at(&word.to_ne_bytes(), at as u64)
        .expect("scribbled");
    assert!(!guard.is_held());
    let lost = guard.release().expect_err("it was scribbled away");
    assert_eq!(lost.name, "bad");
    for _ in 0..3 {
        let guard = lock.acquire().expect("another slot");
        let twin = table.lock("bad").expect("a lock");
        let refused = twin.try_acquire().map(drop);
        assert!(
            matches!(refused, Err(AcquireError::Busy { .. })),
            "{refused:?}"
        );
        guard.release().expect("held to the end");
    }
}

/// Does everything that can be done with a table, quickly, and says how it went.
fn prober(boss: &mut Boss) {
    loop {
        let path = boss.hear();
        let looked = Inspector::open(&path).map(|inspector| {
            let snapshot = inspector.snapshot().expect("not forked");
            for slot in snapshot.slots.iter().take(20) {
                let _ = inspector.slot(&slot.name);
                let _ = inspector.force_release(&slot.name, slot.token);
            }
            snapshot.sessions.len()
        });
        let used = LockTable::options()
            .open_existing(&path)
            .map(|table| use_table(&table));
        boss.say(format!("{} {}", looked.is_ok(), used.unwrap_or(0)));
    }
}

/// How many of some operations ended in a grant. No operation may panic, crash or hang.
fn use_table(table: &LockTable) -> usize {
    let mut grants = 0;
    for name in ["a", "b", "c", "dead-0", "dead-1", "fresh", "fresher"] {
        let Ok(lock) = table.lock(name) else { continue };
        let _ = lock.holder();
        for attempt in [
            lock.try_acquire(),
            lock.acquire_timeout(Duration::from_millis(2)),
        ] {
            let Ok(guard) = attempt else { continue };
            grants += 1;
            let _ = (
                guard.previous().to_string(),
                guard.set_note("a note"),
                guard.is_held(),
            );
            let _ = table.force_release(name, guard.token());
            let _ = guard.release().map_err(|lost| lost.to_string());
        }
    }
    let snapshot = table.inspect().expect("not forked");
    let _ = format!("{snapshot:?}");
    grants
}

/// A table with some history: idle, held and abandoned locks, the dead among the sessions.
fn used_table(options: Options) -> Scratch {
    let scratch = Scratch::with(options);
    let mut dead = Child::puppet(&scratch.table());
    dead.ask("take 2 dead-");
    for name in ["a", "b", "c"] {
        dead.acquire(name);
        assert_eq!(dead.release(name), "released");
    }
    dead.kill_and_reap();
    scratch
}

/// Rows 33 and 35: garbage in the file, then opened. Each image in a process that must
/// live to tell.
#[test]
fn mutated_images_crash_nobody() {
    let _watchdog = watchdog("mutated_images_crash_nobody");
    let mut dice = Dice::new("mutated_images_crash_nobody");
    let scratch = used_table(on_death().slots(6).sessions(4));
    let good = fs::read(scratch.table()).expect("the file");
    let mut child = Child::start("prober");
    let mut grants = 0;
    for _ in 0..400 {
        let mut image = good.clone();
        // Past the part of the header that is checked: that has tests of its own.
        for _ in 0..=dice.below(40) {
            let at = 8 * (14 + dice.below(image.len() / 8 - 14));
            let word = match dice.below(4) {
                0 => 0,
                1 => u64::MAX,
                2 => dice.next(),
                _ => word_at(&image, at) ^ (1 << dice.below(64)),
            };
            put_word(&mut image, at, word);
        }
        // The slots' own words more often than chance would have it.
        for _ in 0..dice.below(6) {
            let at = slots_offset(&image) + 64 * dice.below(7) + 8 * dice.below(4);
            put_word(&mut image, at, dice.next() >> dice.below(64));
        }
        fs::write(scratch.table(), &image).expect("the image");
        let answer = child.ask(scratch.table().display());
        let used = answer.split(' ').nth(1).expect("a number of grants");
        grants += used.parse::<usize>().expect("a number");
    }
    report(format_args!("400 images, {grants} grants"));
    assert!(grants > 0, "the images were not all refused");
}

/// Uses a table for a while, whatever happens to it.
fn steady(boss: &mut Boss) {
    let path = boss.hear();
    let table = LockTable::options()
        .open_existing(path)
        .expect("the table opens");
    boss.say("at it");
    let start = Instant::now();
    let (mut rounds, mut grants) = (0, 0);
    while start.elapsed() < Duration::from_secs(4) {
        grants += use_table(&table);
        rounds += 1;
    }
    boss.say(format!("{rounds} {grants}"));
}

/// Rows 33 and 35: garbage that comes while operations run.
#[test]
fn a_scribbler_crashes_nobody() {
    let _watchdog = watchdog("a_scribbler_crashes_nobody");
    let mut dice = Dice::new("a_scribbler_crashes_nobody");
    let scratch = used_table(on_death().slots(6).sessions(8));
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(scratch.table())
        .expect("the file");
    let good = fs::read(scratch.table()).expect("the file");
    let mut users: Vec<_> = (0..3).map(|_| Child::start("steady")).collect();
    for user in &mut users {
        user.say(scratch.table().display());
        assert_eq!(user.hear(), "at it");
    }
    let mut waiting: Vec<_> = users.iter_mut().collect();
    while !waiting.is_empty() {
        for _ in 0..50 {
            // The checked header is left alone, so that the file stays a table.
            let at = 8 * (16 + dice.below(good.len() / 8 - 16));
            let word = if dice.below(3) == 0 {
                word_at(&good, at)
            } else {
                dice.next() >> dice.below(64)
            };
            file.write_all_at(&word.to_ne_bytes(), at as u64)
                .expect("scribbled");
        }
        thread::sleep(Duration::from_micros(200));
        waiting.retain_mut(|user| {
            if !user.answers_within(Duration::from_micros(10)) {
                return true;
            }
            report(format_args!(
                "rounds and grants under a scribbler: {}",
                user.hear()
            ));
            false
        });
    }
}

/// A table that the default options make is one that they open.
#[test]
fn the_defaults_are_those_of_the_documentation() {
    let _watchdog = watchdog("the_defaults_are_those_of_the_documentation");
    let scratch = Scratch::empty();
    let table = LockTable::open(scratch.table()).expect("a new table");
    let lease = Duration::from_secs(10);
    assert_eq!(table.reclaim(), Reclaim::OnExpiry { lease });
    let info = table.inspect().expect("a snapshot").table;
    assert_eq!((info.slots, info.sessions), (4_096, 256));
    let mode = fs::metadata(scratch.table())
        .expect("the file")
        .permissions()
        .mode();
    assert_eq!(mode & 0o7777, 0o600);
    let lock = table.lock("first").expect("a lock");
    assert_eq!(lock.try_acquire().expect("free").previous(), Previous::None);
}

/// A lease is kept in whole milliseconds; one with a fraction was once refused by the very
/// call that had just created the table with it.
#[test]
fn a_lease_with_a_fraction_of_a_millisecond_opens_what_it_created() {
    let scratch = Scratch::empty();
    let lease = Duration::from_micros(1_500_500);
    let options = LockTable::options().reclaim(Reclaim::OnExpiry { lease });
    for _ in 0..2 {
        let table = options
            .clone()
            .open(scratch.table())
            .expect("the table opens");
        let lease = Duration::from_millis(1_500);
        assert_eq!(table.reclaim(), Reclaim::OnExpiry { lease });
    }
}
