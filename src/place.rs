//! Whether the file at a table's path is still the one that was opened.
//!
//! Where it is not, there are two tables: those who opened it before hold locks in the
//! one, and whoever comes now takes them in the other.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags, statx};
use rustix::io::Errno;

use crate::mapping::TableFile;
use crate::os::byte_lock::Probe;
use crate::os::descriptor::{FileId, Kept, Status, above_stdio};

/// What has become of a table's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whereabouts {
    /// It is at its path, and of the size that it had.
    InPlace,
    /// It was unlinked, renamed or replaced, or has another size: no further grants.
    Gone,
    /// The kernel could not be asked, so nothing may be concluded.
    Unknown,
}

/// Where a table's file was when it was opened.
///
/// The path itself is asked for as long as this process sees the filesystem as it did
/// then: that also notices when a directory above was renamed, or a link in the path
/// turned elsewhere. After a chroot or in another mount namespace the path would lead
/// somewhere else; then the directory is asked by a descriptor that was opened in time.
#[derive(Debug)]
pub(crate) struct Place {
    path: PathBuf,
    file: FileId,
    name: OsString,
    directory: Kept,
    viewpoint: Viewpoint,
}

impl Place {
    /// The place of a table that has just been opened.
    ///
    /// # Errors
    ///
    /// When its directory cannot be opened.
    pub(crate) fn new(table: &TableFile) -> io::Result<Self> {
        Self::of(table.path(), table.id())
    }

    /// The place of the file `file` at the absolute path `path`.
    ///
    /// # Errors
    ///
    /// When its directory cannot be opened.
    pub(crate) fn of(path: &Path, file: FileId) -> io::Result<Self> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::ErrorKind::IsADirectory.into());
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(parent, flags, Mode::empty())?;
        let directory = Kept::new(above_stdio(directory)?)?;
        let (path, name) = (path.to_path_buf(), name.to_os_string());
        Ok(Self {
            path,
            file,
            name,
            directory,
            viewpoint: Viewpoint::now(),
        })
    }

    /// The descriptor of the directory that the file was in.
    pub(crate) const fn directory(&self) -> &Kept {
        &self.directory
    }

    /// Looks whether the file is still there. `probe` is of the same file.
    pub(crate) fn check(&self, probe: &Probe) -> Whereabouts {
        if let Some(status) = probe.status()
            && (status.links == 0 || status.bytes != probe.bytes())
        {
            return Whereabouts::Gone;
        }
        if self.viewpoint == Viewpoint::now() {
            match self.judge(Status::at_path(&self.path), probe) {
                Whereabouts::Unknown => {}
                known => return known,
            }
        }
        let there = self
            .directory
            .ask(|directory| Some(Status::at(directory, &self.name)));
        there.map_or(Whereabouts::Unknown, |there| self.judge(there, probe))
    }

    fn judge(&self, there: io::Result<Status>, probe: &Probe) -> Whereabouts {
        match there {
            Ok(status) if status.id != self.file || status.bytes != probe.bytes() => {
                Whereabouts::Gone
            }
            Ok(_) => Whereabouts::InPlace,
            Err(error) if is_absence(&error) => Whereabouts::Gone,
            Err(_) => Whereabouts::Unknown,
        }
    }
}

/// Whether an error says that nothing is at a path, and not that it may not be looked at.
pub(crate) fn is_absence(error: &io::Error) -> bool {
    [Errno::NOENT, Errno::NOTDIR]
        .iter()
        .any(|no| error.raw_os_error() == Some(no.raw_os_error()))
}

/// From where this process sees the filesystem: its root directory, and the mount that it
/// is on. From the same viewpoint a path means the same.
///
/// A mount is in one mount namespace: another namespace's root is on another mount, though
/// it be a copy of this one. So where the kernel numbers mounts for good (Linux 6.8), one
/// question tells both; else the namespace is asked for, where `/proc` tells.
#[derive(Debug, PartialEq, Eq)]
struct Viewpoint {
    /// Device and inode.
    root: Option<(u32, u32, u64)>,
    mounts: Option<u64>,
}

impl Viewpoint {
    fn now() -> Self {
        // Linux's `STATX_MNT_ID_UNIQUE`, `include/uapi/linux/stat.h`.
        const UNIQUE_MOUNT: StatxFlags = StatxFlags::from_bits_retain(0x4000);
        let wanted = StatxFlags::TYPE | StatxFlags::INO | UNIQUE_MOUNT;
        let root = statx(CWD, "/", AtFlags::SYMLINK_NOFOLLOW, wanted).ok();
        let mount = root
            .filter(|root| root.stx_mask & UNIQUE_MOUNT.bits() != 0)
            .map(|root| root.stx_mnt_id);
        Self {
            root: root.map(|root| (root.stx_dev_major, root.stx_dev_minor, root.stx_ino)),
            // A namespace belongs to a task: this thread's, which is who looks up paths.
            mounts: mount.or_else(|| {
                let namespace = fs::metadata("/proc/thread-self/ns/mnt").ok()?;
                Some(namespace.ino())
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::Geometry;
    use crate::mapping::Access;
    use crate::os::testing::{Child, Privilege, Watchdog, close_descriptors, tmpfs};
    use crate::policy::Reclaim;
    use std::fs::File;
    use std::os::unix::fs::symlink;

    struct Fixture {
        dir: tempfile::TempDir,
        path: PathBuf,
        place: Place,
        probe: Probe,
    }

    /// A table at `table` under a new directory, opened at `path` under it.
    fn fixture_at(table: &str, path: &str, prepare: impl FnOnce(&Path)) -> Fixture {
        let dir = tempfile::tempdir().unwrap();
        prepare(dir.path());
        let (table, path) = (dir.path().join(table), dir.path().join(path));
        create(&table);
        let file = TableFile::open(&path, Access::ReadWrite).unwrap();
        let probe = Probe::new(file.reopen().unwrap(), &path).unwrap();
        Fixture {
            dir,
            place: Place::new(&file).unwrap(),
            probe,
            path,
        }
    }

    fn fixture() -> Fixture {
        fixture_at("d/t", "d/t", |dir| fs::create_dir(dir.join("d")).unwrap())
    }

    fn create(path: &Path) {
        let geometry = Geometry::new(10, 4, Reclaim::default()).unwrap();
        TableFile::create(path, &geometry, 0o600).unwrap();
    }

    impl Fixture {
        fn check(&self) -> Whereabouts {
            self.place.check(&self.probe)
        }
    }

    #[test]
    fn a_table_that_nobody_touched_is_in_place() {
        let table = fixture();
        assert_eq!(table.check(), Whereabouts::InPlace);
    }

    #[test]
    fn an_unlinked_table_is_gone_even_with_another_in_its_place() {
        let table = fixture();
        fs::remove_file(&table.path).unwrap();
        assert_eq!(table.check(), Whereabouts::Gone);
        create(&table.path);
        assert_eq!(table.check(), Whereabouts::Gone);
    }

    #[test]
    fn a_table_that_was_renamed_or_renamed_over_is_gone() {
        let table = fixture();
        let other = table.path.with_file_name("other");
        fs::rename(&table.path, &other).unwrap();
        assert_eq!(table.check(), Whereabouts::Gone);
        fs::rename(&other, &table.path).unwrap();
        assert_eq!(table.check(), Whereabouts::InPlace);
        create(&other);
        fs::rename(&other, &table.path).unwrap();
        assert_eq!(table.check(), Whereabouts::Gone);
    }

    #[test]
    fn a_table_that_was_cut_off_or_grew_is_gone() {
        for change in [-4096, 4096] {
            let table = fixture();
            let file = File::options().write(true).open(&table.path).unwrap();
            let len = table.probe.bytes().checked_add_signed(change).unwrap();
            file.set_len(len).unwrap();
            assert_eq!(table.check(), Whereabouts::Gone, "{change}");
        }
    }

    #[test]
    fn a_table_whose_directory_was_renamed_is_gone() {
        let table = fixture();
        fs::rename(table.dir.path().join("d"), table.dir.path().join("old")).unwrap();
        assert_eq!(table.check(), Whereabouts::Gone);
        fs::create_dir(table.dir.path().join("d")).unwrap();
        create(&table.path);
        assert_eq!(table.check(), Whereabouts::Gone);
    }

    /// As with `current -> releases/5`: whoever opens the path now gets another table.
    #[test]
    fn a_table_whose_path_leads_elsewhere_now_is_gone() {
        let table = fixture_at("v1/t", "current/t", |dir| {
            fs::create_dir(dir.join("v1")).unwrap();
            fs::create_dir(dir.join("v2")).unwrap();
            symlink("v1", dir.join("current")).unwrap();
        });
        assert_eq!(table.check(), Whereabouts::InPlace);
        fs::remove_file(table.dir.path().join("current")).unwrap();
        symlink("v2", table.dir.path().join("current")).unwrap();
        assert_eq!(table.check(), Whereabouts::Gone);
    }

    #[test]
    fn a_change_of_directory_changes_nothing() {
        let table = fixture();
        Child::fork(|| {
            std::env::set_current_dir("/").unwrap();
            assert_eq!(table.check(), Whereabouts::InPlace);
        })
        .join();
    }

    #[test]
    fn after_a_chroot_the_directory_is_asked_and_the_path_is_not() {
        let _watchdog = Watchdog::start();
        if !Privilege::ChangeRoot.is_there() {
            return;
        }
        let table = fixture();
        let jail = tempfile::tempdir().unwrap();
        Child::fork(|| {
            let beside = File::open(table.path.parent().unwrap()).unwrap();
            std::os::unix::fs::chroot(jail.path()).unwrap();
            assert_eq!(table.check(), Whereabouts::InPlace);
            let flags = rustix::fs::AtFlags::empty();
            rustix::fs::renameat(&beside, "t", &beside, "other").unwrap();
            assert_eq!(table.check(), Whereabouts::Gone);
            rustix::fs::renameat(&beside, "other", &beside, "t").unwrap();
            assert_eq!(table.check(), Whereabouts::InPlace);
            rustix::fs::unlinkat(&beside, "t", flags).unwrap();
            assert_eq!(table.check(), Whereabouts::Gone);
        })
        .join();
    }

    #[test]
    fn in_another_mount_namespace_that_hides_the_path_the_directory_is_asked() {
        let _watchdog = Watchdog::start();
        if !Privilege::Mount.is_there() {
            return;
        }
        let table = fixture();
        Child::fork(|| {
            tmpfs(table.dir.path(), c"size=64k");
            assert!(!table.path.exists());
            assert_eq!(table.check(), Whereabouts::InPlace);
        })
        .join();
    }

    #[test]
    fn without_descriptors_and_with_the_path_out_of_reach_nothing_is_concluded() {
        let _watchdog = Watchdog::start();
        if !Privilege::ChangeRoot.is_there() {
            return;
        }
        let table = fixture();
        let jail = tempfile::tempdir().unwrap();
        Child::fork(|| {
            close_descriptors();
            assert_eq!(table.check(), Whereabouts::InPlace);
            close_descriptors();
            std::os::unix::fs::chroot(jail.path()).unwrap();
            assert_eq!(table.check(), Whereabouts::Unknown);
        })
        .join();
    }

    /// By the file itself, for its path leads nowhere, and its directory is closed.
    #[test]
    fn a_table_without_a_name_and_one_that_was_cut_off_are_gone_wherever_their_path_leads() {
        let _watchdog = Watchdog::start();
        if !Privilege::ChangeRoot.is_there() {
            return;
        }
        for is_unlinked in [true, false] {
            let table = fixture();
            let jail = tempfile::tempdir().unwrap();
            Child::fork(|| {
                let file = File::options().write(true).open(&table.path).unwrap();
                let beside = File::open(table.path.parent().unwrap()).unwrap();
                std::os::unix::fs::chroot(jail.path()).unwrap();
                table.place.directory().let_go();
                assert_eq!(table.check(), Whereabouts::Unknown);
                if is_unlinked {
                    let flags = rustix::fs::AtFlags::empty();
                    rustix::fs::unlinkat(&beside, "t", flags).unwrap();
                } else {
                    file.set_len(table.probe.bytes() - 4096).unwrap();
                }
                assert_eq!(table.check(), Whereabouts::Gone);
            })
            .join();
        }
    }

    /// It would end all grants for want of a right.
    #[test]
    #[cfg(target_pointer_width = "64")]
    fn that_its_path_may_not_be_looked_at_is_no_proof_that_a_table_is_gone() {
        use crate::os::testing::deny;
        let _watchdog = Watchdog::start();
        let table = fixture();
        Child::fork(|| {
            // A path is looked at by it, and no open file.
            deny(libc::SYS_newfstatat, libc::EACCES);
            assert_eq!(table.check(), Whereabouts::Unknown);
        })
        .join();
    }
}
