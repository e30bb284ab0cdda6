//! The table's file: created complete or not at all, opened only when it can be trusted,
//! and mapped. All the unsafe code that a mapping takes is here.
//!
//! What is mapped is untrusted for as long as it is mapped: whoever may write the file
//! may write nonsense into it at any time. So it is only ever seen as atomics, which hold
//! every bit pattern; how many there are of each kind comes from the geometry that was
//! validated before; and nothing in it is followed as a pointer.
//!
//! A file that is cut off while it is mapped raises SIGBUS in whoever touches what is
//! gone, as any mapped file does. Only a user who may write the table can do that; no
//! handler is installed, because a library has no business with the process's signals.

use std::fmt;
use std::io;
use std::mem::{ManuallyDrop, size_of};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::ptr::{self, NonNull};
use std::slice;

use memmap2::{Advice, MmapOptions, MmapRaw};
use rustix::fs::{AtFlags, CWD, FallocateFlags, FileType, IFlags, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use crate::error::{OpenError, OpenPurpose, io_error};
use crate::layout::{
    self, Geometry, HEADER_BYTES, Header, MappedHeader, Refusal, Sections, Settings,
};
use crate::os::descriptor::{self, FileId, Status};
use crate::os::fork::GatePage;
use crate::os::{clock, random};
use crate::protocol::names::{NameRecord, Names, NamingWords};
use crate::protocol::session::SessionRecord;
use crate::protocol::slot::Slot;
use crate::sync::AtomicU64;

/// What a table is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Looking: no session, and no store into the mapping, which would fault.
    ReadOnly,
    /// Everything.
    ReadWrite,
}

/// An open table file that passed every check.
#[derive(Debug)]
pub(crate) struct TableFile {
    fd: OwnedFd,
    path: PathBuf,
    id: FileId,
    access: Access,
    header: layout::Read,
}

impl TableFile {
    /// Creates a table at `path` with exactly these permission bits.
    ///
    /// The file is complete before it has a name, and gets its name only if nothing has
    /// it: of several racing creators one succeeds, and whoever sees the file sees all
    /// of it. A creator that is killed leaves nothing behind (but see `create_named`).
    ///
    /// # Errors
    ///
    /// [`OpenError::AlreadyExists`], [`OpenError::NoSpace`], or what is wrong with the
    /// path, the mode or the filesystem. Then there is no new file.
    pub(crate) fn create(path: &Path, geometry: &Geometry, mode: u32) -> Result<(), OpenError> {
        let path = &absolute(path)?;
        check_mode(path, mode)?;
        let (directory, name) = open_directory(path)?;
        check_filesystem(path, directory.as_fd())?;
        if Status::at(&directory, name).is_ok() {
            return Err(OpenError::AlreadyExists { path: path.clone() });
        }
        let draft = Draft {
            path,
            directory: directory.as_fd(),
            name,
            geometry,
            mode,
        };
        match draft.create_unnamed()? {
            Unnamed::Published => Ok(()),
            Unnamed::Unsupported => draft.create_named(),
        }
    }

    /// Refuses a filesystem that no table may be on, before anything of it is opened.
    ///
    /// For who holds forks off from the opening on: a server that does not answer makes its
    /// client wait here, where no fork of this process waits with it.
    ///
    /// # Errors
    ///
    /// [`OpenError::Filesystem`]; what else is wrong is left to be found by [`Self::open`].
    pub(crate) fn look(path: &Path) -> Result<(), OpenError> {
        let path = absolute(path)?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::open(&path, flags, Mode::empty()) {
            Ok(file) if Status::of(&file).is_ok_and(|status| irregular(status.kind).is_none()) => {
                check_filesystem(&path, file.as_fd())
            }
            _ => Ok(()),
        }
    }

    /// Opens the table at `path`, if everything about it is as it should be.
    ///
    /// # Errors
    ///
    /// One variant of [`OpenError`] for each thing that can be wrong.
    pub(crate) fn open(path: &Path, access: Access) -> Result<Self, OpenError> {
        let path = absolute(path)?;
        let fd = open_no_link(&path, access)?;
        let status = Status::of(&fd).map_err(io_error(&path, "reading the file's status"))?;
        if let Some(found) = irregular(status.kind) {
            return Err(OpenError::NotRegular { path, found });
        }
        check_filesystem(&path, fd.as_fd())?;
        check_trust(&path, &status)?;
        let header = read_header(&path, fd.as_fd(), status.bytes)?;
        if access == Access::ReadWrite && status.allocated < status.bytes {
            fill_holes(&path, fd.as_fd(), status.bytes)?;
        }
        Ok(Self {
            fd,
            path,
            id: status.id,
            access,
            header,
        })
    }

    /// The absolute path that it was opened by.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Which file it is.
    pub(crate) const fn id(&self) -> FileId {
        self.id
    }

    /// What the table was created with.
    pub(crate) const fn geometry(&self) -> &Geometry {
        &self.header.settings.geometry
    }

    /// The boot that the table was last reset for, when it was opened.
    pub(crate) const fn boot_id(&self) -> [u8; 16] {
        self.header.boot_id
    }

    /// Opens the same file once more: another open file description, which sees the byte
    /// locks of this one as anybody else's. For reading; asking takes no more.
    ///
    /// # Errors
    ///
    /// When the file is neither at its path any more, nor to be had through `/proc`.
    pub(crate) fn reopen(&self) -> io::Result<OwnedFd> {
        descriptor::reopen(&self.path, self.id)
            .or_else(|_| descriptor::reopen_through_proc(self.fd.as_fd(), self.id))
    }

    /// Maps the file through this very descriptor: the mapping keeps its open file
    /// description, and the byte locks with it, until the address space goes.
    ///
    /// Forked children do not get the mapping. For that to hold from the first moment,
    /// and for them not to inherit the descriptor either, the caller holds forks off
    /// from opening to closing it.
    ///
    /// # Errors
    ///
    /// When the kernel refuses.
    pub(crate) fn map(&self, gate: &GatePage) -> Result<Mapping, OpenError> {
        let settings = self.header.settings;
        let sections = settings.geometry.sections();
        let mut options = MmapOptions::new();
        options.len(sections.end);
        let map = match self.access {
            Access::ReadOnly => options.map_raw_read_only(&self.fd),
            Access::ReadWrite => options.map_raw(&self.fd),
        };
        let map = map.map_err(io_error(&self.path, "mapping the file"))?;
        map.advise(Advice::DontFork).map_err(io_error(
            &self.path,
            "keeping the mapping from forked children",
        ))?;
        let map = ManuallyDrop::new(map);
        let slots = map.as_mut_ptr().wrapping_add(sections.slots).cast::<Slot>();
        let slots = ptr::slice_from_raw_parts_mut(slots, settings.geometry.slot_count());
        let slots = SlotsAt(NonNull::new(slots).expect("a mapping is not at address 0"));
        Ok(Mapping {
            map,
            slots,
            sections,
            settings,
            gate: gate.clone(),
        })
    }
}

impl AsFd for TableFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A mapped table.
///
/// In a forked child, where its memory is not mapped, it must not be read: callers ask
/// the gate first. Dropped there it unmaps nothing, because the range is no longer the
/// table's, and may be somebody else's by then.
pub(crate) struct Mapping {
    map: ManuallyDrop<MmapRaw>,
    /// The slots, which every grant has to find.
    slots: SlotsAt,
    sections: Sections,
    settings: Settings,
    gate: GatePage,
}

/// Where the slots are, to be looked at while the mapping is there.
struct SlotsAt(NonNull<[Slot]>);

// SAFETY: it leads to atomics, and whoever follows it sees to it that they are there.
unsafe impl Send for SlotsAt {}
// SAFETY: as above.
unsafe impl Sync for SlotsAt {}

impl Mapping {
    /// The header: what never changes as it was validated, the rest as it is now.
    pub(crate) fn header(&self) -> Header<'_> {
        // SAFETY:
        // - in bounds: a header is smaller than the first section's offset;
        // - aligned: offset 0 of a page; `MappedHeader` holds atomics alone.
        let words = unsafe { &*self.map.as_ptr().cast::<MappedHeader>() };
        Header::new(words, &self.settings)
    }

    /// The table-wide words of naming.
    pub(crate) fn naming(&self) -> &NamingWords {
        self.header().naming()
    }

    /// The session records.
    #[inline]
    pub(crate) fn sessions(&self) -> &[SessionRecord] {
        // SAFETY: section and count are the geometry's, the records atomics alone.
        unsafe {
            self.section(
                self.sections.sessions,
                self.settings.geometry.sessions as usize,
            )
        }
    }

    /// The index of names; a power of two of entries.
    #[inline]
    pub(crate) fn index(&self) -> &[AtomicU64] {
        // SAFETY: as for the sessions.
        unsafe { self.section(self.sections.index, self.settings.geometry.index_capacity()) }
    }

    /// The slots; the first is the table's own.
    #[inline]
    pub(crate) fn slots(&self) -> &[Slot] {
        // SAFETY: as in `section`; the address is that of the geometry's slots.
        unsafe { self.slots.0.as_ref() }
    }

    /// The slots' names and notes.
    #[inline]
    pub(crate) fn names(&self) -> &[NameRecord] {
        // SAFETY: as for the sessions.
        unsafe { self.section(self.sections.names, self.settings.geometry.slot_count()) }
    }

    /// The parts that naming works on.
    pub(crate) fn as_names(&self) -> Names<'_> {
        Names {
            naming: self.naming(),
            index: self.index(),
            slots: self.slots(),
            records: self.names(),
        }
    }

    /// `count` records from the offset `at` on.
    ///
    /// # Safety
    ///
    /// `at` and `count` are a section's, of this geometry, and `T` is that section's type
    /// and made of atomics alone, so that it may be shared with other processes and any
    /// bit pattern is one of its values.
    #[inline]
    unsafe fn section<T>(&self, at: usize, count: usize) -> &[T] {
        debug_assert!(at + count * size_of::<T>() <= self.map.len());
        // SAFETY:
        // - in bounds: the length of the mapping is the end of the geometry's last section;
        // - aligned: sections begin on cache lines, and no record wants more;
        // - initialised, and valid whatever others store: atomics alone, by the contract;
        // - mapped as long as `self` is borrowed; who cuts the file off causes a SIGBUS,
        //   not a wrong value.
        unsafe { slice::from_raw_parts(self.map.as_ptr().add(at).cast(), count) }
    }
}

impl fmt::Debug for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mapping")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if self.gate.is_wiped() {
            return;
        }
        // SAFETY:
        // - dropped here and nowhere else, and `self.map` is not used again.
        unsafe { ManuallyDrop::drop(&mut self.map) };
    }
}

/// A table that is being created.
struct Draft<'a> {
    path: &'a Path,
    directory: BorrowedFd<'a>,
    name: &'a Path,
    geometry: &'a Geometry,
    mode: u32,
}

/// What came of creating a file without a name.
enum Unnamed {
    Published,
    /// The filesystem has no such files, or `/proc` is missing to name one by.
    Unsupported,
}

impl Draft<'_> {
    /// Creates the file without a name, fills it, and names it.
    fn create_unnamed(&self) -> Result<Unnamed, OpenError> {
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let fd = match rustix::fs::openat(self.directory, ".", flags, Mode::RUSR | Mode::WUSR) {
            Ok(fd) => fd,
            // EISDIR is what kernels say that do not know the flag.
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => return Ok(Unnamed::Unsupported),
            Err(error) => return Err(self.refused("creating the file", error)),
        };
        self.fill(fd.as_fd())?;
        // By the descriptor, which takes a capability before Linux 6.10; or by its name in
        // /proc, which takes a /proc.
        let linked = rustix::fs::linkat(&fd, "", self.directory, self.name, AtFlags::EMPTY_PATH)
            .or_else(|error| {
                if error == Errno::EXIST {
                    return Err(error);
                }
                let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
                rustix::fs::linkat(
                    CWD,
                    link,
                    self.directory,
                    self.name,
                    AtFlags::SYMLINK_FOLLOW,
                )
            });
        match linked {
            Ok(()) => Ok(Unnamed::Published),
            Err(Errno::NOENT) => Ok(Unnamed::Unsupported),
            Err(error) => Err(self.refused("naming the file", error)),
        }
    }

    /// Creates the file under a name of its own, fills it, and renames it. Where this
    /// way is taken, a creator that is killed leaves that file behind.
    fn create_named(&self) -> Result<(), OpenError> {
        let mut number = [0; 8];
        random::fill(&mut number).map_err(|error| self.failed("drawing a random name", error))?;
        let own_name = format!(".caslock-{:016x}.new", u64::from_ne_bytes(number));
        let flags =
            OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(self.directory, &own_name, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|error| self.refused("creating the file", error))?;
        // A rename, not a second link: the file never has two names, which openers refuse.
        let named = self.fill(fd.as_fd()).and_then(|()| {
            let (directory, flags) = (self.directory, RenameFlags::NOREPLACE);
            rustix::fs::renameat_with(directory, &own_name, directory, self.name, flags)
                .map_err(|error| self.refused("naming the file", error))
        });
        if named.is_err() {
            // The error to tell is the first one.
            let _ = rustix::fs::unlinkat(self.directory, &own_name, AtFlags::empty());
        }
        named
    }

    /// Gives the file its mode, its whole length on the device, and its header.
    fn fill(&self, fd: BorrowedFd<'_>) -> Result<(), OpenError> {
        // Not through open's mode, which the umask would cut.
        rustix::fs::fchmod(fd, Mode::from_raw_mode(self.mode))
            .map_err(|error| self.failed("setting the file's mode", error.into()))?;
        store_in_place(fd);
        // The kernel would end this process for it (SIGXFSZ).
        let most = rustix::process::getrlimit(rustix::process::Resource::Fsize).current;
        if most.is_some_and(|most| most < self.geometry.file_len()) {
            let doing = "allocating more than this process may write (RLIMIT_FSIZE)";
            return Err(self.failed(doing, Errno::FBIG.into()));
        }
        // A sparse file on a full filesystem is a SIGBUS later.
        allocate(fd, self.geometry.file_len())
            .map_err(|error| self.failed("allocating the file", error.into()))?;
        let mut drawn = [0; 32];
        random::fill(&mut drawn).map_err(|error| self.failed("drawing a random id", error))?;
        let boot =
            clock::boot_id().map_err(|error| self.failed(clock::reading_boot_id(&error), error))?;
        let header = layout::new_header(self.geometry, drawn, boot);
        write_all_at(fd, &header, 0)
            .map_err(|error| self.failed("writing the header", error.into()))?;
        // Once in a table's life: a power cut must not leave a name without a header, which
        // somebody would have to delete by hand. In memory (tmpfs) it costs nothing.
        rustix::fs::fdatasync(fd).map_err(|error| self.failed("syncing the file", error.into()))
    }

    fn failed(&self, doing: &'static str, error: io::Error) -> OpenError {
        let path = self.path.to_path_buf();
        match error.raw_os_error() {
            Some(libc::EEXIST) => OpenError::AlreadyExists { path },
            Some(libc::ENOSPC | libc::EDQUOT) => OpenError::NoSpace {
                path,
                bytes: self.geometry.file_len(),
            },
            _ => OpenError::Io { path, doing, error },
        }
    }

    /// The same of what its directory has to permit.
    fn refused(&self, doing: &'static str, error: Errno) -> OpenError {
        match error {
            Errno::ACCESS | Errno::PERM => OpenError::PermissionDenied {
                path: self.path.to_path_buf(),
                purpose: OpenPurpose::Create,
            },
            _ => self.failed(doing, error.into()),
        }
    }
}

/// Has btrfs store into the room that is reserved for this file, and not into new room each
/// time, of which there may be none left: a SIGBUS. Kept in mind of files that are told while
/// empty; other filesystems do not know it, and those that copy on write all the same (zfs,
/// bcachefs) are not to be full.
fn store_in_place(fd: BorrowedFd<'_>) {
    if let Ok(flags) = rustix::fs::ioctl_getflags(fd) {
        let _ = rustix::fs::ioctl_setflags(fd, flags | IFlags::NOCOW);
    }
}

/// Reserves every byte of a new file, so that no later store can run out of space.
fn allocate(fd: BorrowedFd<'_>, bytes: u64) -> Result<(), Errno> {
    match reserve(fd, bytes) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => write_zeroes(fd, bytes),
        done => done,
    }
}

/// Reserves what a copy or a backup has left out of the file, as it may leave out zeroes: a store
/// into a hole of a full filesystem is a SIGBUS. Where the filesystem cannot, it says nothing of
/// holes, either: it may have packed the file.
fn fill_holes(path: &Path, fd: BorrowedFd<'_>, bytes: u64) -> Result<(), OpenError> {
    match reserve(fd, bytes) {
        Err(Errno::NOSPC | Errno::DQUOT) => {
            let path = path.to_path_buf();
            Err(OpenError::NoSpace { path, bytes })
        }
        _ => Ok(()),
    }
}

/// Has the filesystem give every byte room of its own; what is there stays.
///
/// In pieces: where a signal is pending, older kernels' tmpfs gives up, and takes back what the
/// call had got by then. A timer has to be faster than a piece, then, to keep it from its end.
fn reserve(fd: BorrowedFd<'_>, bytes: u64) -> Result<(), Errno> {
    const PIECE: u64 = 1 << 20;
    let mut at = 0;
    while at < bytes {
        let len = PIECE.min(bytes - at);
        match rustix::fs::fallocate(fd, FallocateFlags::empty(), at, len) {
            Ok(()) => at += len,
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn write_zeroes(fd: BorrowedFd<'_>, bytes: u64) -> Result<(), Errno> {
    let zeroes = [0; 1 << 16];
    let mut at = 0;
    while at < bytes {
        let len = (bytes - at).min(zeroes.len() as u64);
        write_all_at(fd, &zeroes[..len as usize], at)?;
        at += len;
    }
    Ok(())
}

fn write_all_at(fd: BorrowedFd<'_>, mut bytes: &[u8], mut at: u64) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match rustix::io::pwrite(fd, bytes, at) {
            Ok(0) => return Err(Errno::NOSPC),
            Ok(written) => {
                bytes = &bytes[written..];
                at += written as u64;
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn read_header(path: &Path, fd: BorrowedFd<'_>, file_len: u64) -> Result<layout::Read, OpenError> {
    let path = path.to_path_buf();
    let mut page = [0; HEADER_BYTES];
    let mut filled = 0;
    while filled < page.len() {
        match rustix::io::pread(fd, &mut page[filled..], filled as u64) {
            Ok(0) => {
                let reason = "it is shorter than a header";
                return Err(OpenError::NotATable { path, reason });
            }
            Ok(read) => filled += read,
            Err(Errno::INTR) => {}
            Err(error) => return Err(io_error(&path, "reading the header")(error.into())),
        }
    }
    layout::read_header(&page, file_len).map_err(|refusal| match refusal {
        Refusal::NotATable(reason) => OpenError::NotATable { path, reason },
        Refusal::Format(found) => OpenError::Format {
            path,
            found,
            expected: layout::describe_format(),
        },
        Refusal::Damaged(reason) => OpenError::Damaged { path, reason },
    })
}

/// Made absolute once, so that a later change of directory changes nothing.
fn absolute(path: &Path) -> Result<PathBuf, OpenError> {
    std::path::absolute(path).map_err(io_error(path, "resolving the path"))
}

/// The directory that a table is to be created in, as an `O_PATH` descriptor, and the
/// table's name in it.
fn open_directory(path: &Path) -> Result<(OwnedFd, &Path), OpenError> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(OpenError::NotRegular {
            path: path.to_path_buf(),
            found: "a directory",
        });
    };
    // `file_name` overlooks a slash at the end; to the kernel the path is a directory's.
    if path.as_os_str().as_bytes().ends_with(b"/") {
        return Err(io_error(path, "creating the file")(Errno::ISDIR.into()));
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match rustix::fs::open(parent, flags, Mode::empty()) {
        Ok(directory) => Ok((directory, Path::new(name))),
        Err(Errno::ACCESS) => Err(OpenError::PermissionDenied {
            path: path.to_path_buf(),
            purpose: OpenPurpose::Create,
        }),
        Err(error) => Err(io_error(path, "opening its directory")(error.into())),
    }
}

fn open_no_link(path: &Path, access: Access) -> Result<OwnedFd, OpenError> {
    let (access, purpose) = match access {
        Access::ReadOnly => (OFlags::RDONLY, OpenPurpose::Look),
        Access::ReadWrite => (OFlags::RDWR, OpenPurpose::Use),
    };
    // NONBLOCK: a planted FIFO must not hang whoever opens it. NOCTTY: nor a terminal
    // become ours.
    let flags = access | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let opened = rustix::fs::open(path, flags, Mode::empty()).map_err(|error| {
        let path = path.to_path_buf();
        match error {
            Errno::NOENT => OpenError::NotFound { path },
            Errno::ACCESS | Errno::PERM => OpenError::PermissionDenied { path, purpose },
            // What is not to be opened at all: a link, a directory, a socket, a device.
            _ => match Status::at_path(&path)
                .ok()
                .and_then(|status| irregular(status.kind))
            {
                Some(found) => OpenError::NotRegular { path, found },
                None => io_error(&path, "opening the file")(error.into()),
            },
        }
    })?;
    descriptor::above_stdio(opened).map_err(io_error(path, "moving the file's descriptor"))
}

/// What a file is instead of a regular one.
fn irregular(kind: FileType) -> Option<&'static str> {
    match kind {
        FileType::RegularFile => None,
        FileType::Symlink => Some("a symbolic link"),
        FileType::Directory => Some("a directory"),
        FileType::Fifo => Some("a FIFO"),
        FileType::Socket => Some("a socket"),
        FileType::CharacterDevice => Some("a character device"),
        FileType::BlockDevice => Some("a block device"),
        _ => Some("something else"),
    }
}

fn check_mode(path: &Path, mode: u32) -> Result<(), OpenError> {
    let path = path.to_path_buf();
    if mode & 0o002 != 0 {
        return Err(OpenError::WorldWritable { path, mode });
    }
    if mode & !0o777 != 0 || mode & 0o600 != 0o600 {
        let reason =
            format!("mode {mode:04o}; it takes at least 0600, and nothing but permission bits");
        return Err(OpenError::Geometry { path, reason });
    }
    Ok(())
}

/// One name, an owner with a reason to be trusted, and closed to the world.
fn check_trust(path: &Path, status: &Status) -> Result<(), OpenError> {
    let path = path.to_path_buf();
    // Unlinked since it was opened: there is none, or by now another.
    if status.links == 0 {
        return Err(OpenError::NotFound { path });
    }
    if status.links != 1 {
        return Err(OpenError::LinkCount {
            path,
            links: status.links,
        });
    }
    let me = rustix::process::geteuid().as_raw();
    if !is_owner_trusted(status, me, my_groups, || is_directory_closed(&path)) {
        return Err(OpenError::ForeignOwner {
            path,
            owner: status.owner,
        });
    }
    if status.mode & 0o002 != 0 {
        return Err(OpenError::WorldWritable {
            path,
            mode: status.mode,
        });
    }
    Ok(())
}

/// The groups that this process is a member of.
fn my_groups() -> Vec<u32> {
    let mut groups = vec![rustix::process::getegid().as_raw()];
    // Fewer groups means fewer owners trusted.
    let more = rustix::process::getgroups().unwrap_or_default();
    groups.extend(more.into_iter().map(rustix::process::Gid::as_raw));
    groups
}

/// Whether a file's owner could have put it there only with the right to.
///
/// Oneself and root always. Root trusts whoever owns a file in a directory that not
/// everybody may write to: an administrator looks after a service's table; but in one that
/// everybody may write to, a file may be anybody's trap. Others trust a file that is shared
/// through a group of theirs. Root is a member of groups by accident, so that is no
/// reason for root.
fn is_owner_trusted(
    status: &Status,
    me: u32,
    my_groups: impl FnOnce() -> Vec<u32>,
    directory_closed: impl FnOnce() -> bool,
) -> bool {
    const ROOT: u32 = 0;
    const GROUP_WRITE: u32 = 0o020;
    if status.owner == me || status.owner == ROOT {
        return true;
    }
    if me == ROOT {
        return directory_closed();
    }
    status.mode & GROUP_WRITE != 0 && my_groups().contains(&status.group)
}

/// Whether not everybody may put a file beside this one.
fn is_directory_closed(path: &Path) -> bool {
    let directory = path
        .parent()
        .and_then(|parent| rustix::fs::stat(parent).ok());
    directory.is_some_and(|directory| directory.st_mode & 0o002 == 0)
}

fn check_filesystem(path: &Path, fd: BorrowedFd<'_>) -> Result<(), OpenError> {
    let found = rustix::fs::fstatfs(fd)
        .map_err(|error| io_error(path, "asking for the filesystem")(error.into()))?;
    // Magic numbers have 32 bits; where the field is signed, wide ones are negative.
    refuse_filesystem(found.f_type as u32).map_or(Ok(()), |filesystem| {
        let path = path.to_path_buf();
        Err(OpenError::Filesystem { path, filesystem })
    })
}

/// The filesystems that a table may be on, by their magic numbers: those whose locks and
/// shared mappings are the page cache's own, on one machine. A list of what will do,
/// because the rest cannot be known.
///
/// The numbers are those of Linux's `include/uapi/linux/magic.h` and of the filesystems'
/// own sources.
const LOCAL_FILESYSTEMS: [u32; 8] = [
    0x0102_1994, // tmpfs
    0x8584_58f6, // ramfs
    0xef53,      // ext2, ext3, ext4
    0x5846_5342, // xfs
    0x9123_683e, // btrfs
    0xf2f5_2010, // f2fs
    0x2fc1_2fc1, // zfs
    0xca45_1a4e, // bcachefs
];

/// The ones that somebody may well try, so that the refusal has a name.
const REFUSED_FILESYSTEMS: [(u32, &str); 27] = [
    (0x6969, "nfs"),
    (0x0102_1997, "9p"),
    (
        0x6573_5546,
        "a FUSE filesystem (virtiofs, sshfs and others)",
    ),
    (0x794c_7630, "overlayfs"),
    (0xff53_4d42, "cifs (SMB)"),
    (0xfe53_4d42, "cifs (SMB)"),
    (0x517b, "smbfs"),
    (0x00c3_6400, "ceph"),
    (0x5346_414f, "afs"),
    (0x6b41_4653, "afs"),
    (0x7375_7245, "coda"),
    (0x0116_1970, "gfs2"),
    (0x7461_636f, "ocfs2"),
    (0x0bd0_0bd0, "lustre"),
    (0x4750_4653, "gpfs"),
    (0xf15f, "ecryptfs"),
    (0x786f_4256, "vboxsf"),
    (0xbacb_acbc, "a VMware shared folder"),
    (0x4d44, "vfat"),
    (0x2011_bab0, "exfat"),
    (0x7366_746e, "ntfs"),
    (0x9584_58f6, "hugetlbfs"),
    (0x9fa0, "proc"),
    (0x6265_6572, "sysfs"),
    (0x6367_7270, "cgroup"),
    (0x7371_7368, "squashfs"),
    (0xe0f5_e1e2, "erofs"),
];

/// The name, or else the number, of a filesystem that a table must not be on.
fn refuse_filesystem(magic: u32) -> Option<String> {
    if LOCAL_FILESYSTEMS.contains(&magic) {
        return None;
    }
    let named = REFUSED_FILESYSTEMS
        .iter()
        .find(|(number, _)| *number == magic);
    Some(named.map_or_else(
        || format!("an unknown filesystem (magic {magic:#x})"),
        |(_, name)| (*name).to_string(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::os::byte_lock::{self, Probe};
    use crate::os::fork::hold_forks;
    use crate::os::process;
    use crate::os::testing::{
        Child, Privilege, SharedPage, Watchdog, skip, spawn_in_child, tmpfs, until,
    };
    use crate::policy::Reclaim;
    use crate::sync::Ordering;
    use crate::table::LockTable;
    use std::ffi::CString;
    use std::fs::{self, File};
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    use std::os::unix::net::UnixListener;
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    fn geometry() -> Geometry {
        Geometry::new(10, 4, Reclaim::default()).unwrap()
    }

    /// A directory, and the path of a table in it.
    fn place() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("t");
        (dir, path)
    }

    /// A table that was just created.
    fn table() -> (tempfile::TempDir, PathBuf) {
        let (dir, path) = place();
        TableFile::create(&path, &geometry(), 0o600).unwrap();
        (dir, path)
    }

    fn open(path: &Path) -> Result<TableFile, OpenError> {
        TableFile::open(path, Access::ReadWrite)
    }

    fn gate() -> GatePage {
        GatePage::new().unwrap()
    }

    fn names_in(dir: &Path) -> Vec<std::ffi::OsString> {
        fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect()
    }

    fn overwrite(path: &Path, bytes: &[u8], at: u64) {
        let file = File::options().write(true).open(path).unwrap();
        write_all_at(file.as_fd(), bytes, at).unwrap();
    }

    /// A daemon without standard streams once got the table as its standard error, and the
    /// next message it printed went over the header.
    #[test]
    fn a_table_is_never_opened_as_a_standard_stream() {
        use std::os::fd::AsRawFd;
        let (_dir, path) = table();
        crate::os::testing::Child::fork(|| {
            for stream in 0..3 {
                nix::unistd::close(stream).unwrap();
            }
            for access in [Access::ReadOnly, Access::ReadWrite] {
                let file = TableFile::open(&path, access).unwrap();
                assert!(file.as_fd().as_raw_fd() > 2);
            }
        })
        .join();
    }

    #[test]
    fn a_new_table_opens_with_the_geometry_it_was_given_and_all_zero() {
        let (_dir, path) = table();
        for access in [Access::ReadOnly, Access::ReadWrite] {
            let file = TableFile::open(&path, access).unwrap();
            assert_eq!(*file.geometry(), geometry());
            assert_eq!(file.boot_id(), clock::boot_id().unwrap());
            let mapping = file.map(&gate()).unwrap();
            assert_eq!(mapping.sessions().len(), 4);
            assert_eq!(mapping.index().len(), 64);
            assert_eq!((mapping.slots().len(), mapping.names().len()), (11, 11));
            assert_eq!(mapping.naming().floor(), 0);
            assert!(
                mapping
                    .index()
                    .iter()
                    .all(|entry| entry.load(Ordering::Relaxed) == 0)
            );
            assert!(mapping.names().iter().all(|name| name.read().is_none()));
            assert!(
                mapping
                    .sessions()
                    .iter()
                    .all(|session| !session.is_active())
            );
            assert_eq!(mapping.header().boot_id(), file.boot_id());
        }
        let status = fs::metadata(&path).unwrap();
        assert_eq!(status.len(), geometry().file_len());
        // Allocated, not sparse: 512-byte blocks.
        assert!(status.blocks() * 512 >= status.len());
    }

    #[test]
    fn two_mappings_of_a_table_see_the_same_words_and_hash_alike() {
        let (_dir, path) = table();
        let file = open(&path).unwrap();
        let (one, two) = (
            file.map(&gate()).unwrap(),
            open(&path).unwrap().map(&gate()).unwrap(),
        );
        // The last words of the sections that have plain ones.
        one.index()[31].store(7, Ordering::Relaxed);
        one.slots()[10].bump_wake();
        one.sessions()[3].beat(5);
        one.header().set_boot_id(*b"some other boot.");
        assert_eq!(two.index()[31].load(Ordering::Relaxed), 7);
        assert_eq!(two.slots()[10].wake_count(), 1);
        assert_eq!(two.sessions()[3].life_sign(), one.sessions()[3].life_sign());
        assert_eq!(two.header().boot_id(), *b"some other boot.");
        assert_eq!(open(&path).unwrap().boot_id(), *b"some other boot.");
        assert_eq!(one.header().hash(b"a"), two.header().hash(b"a"));
        assert_ne!(one.header().hash(b"a"), two.header().hash(b"b"));
    }

    #[test]
    fn two_tables_have_their_own_ids_and_hashes() {
        let ((_one, one), (_two, two)) = (table(), table());
        let [one, two] = [one, two].map(|path| open(&path).unwrap().map(&gate()).unwrap());
        assert_ne!(one.header().table_id(), two.header().table_id());
        assert_ne!(one.header().hash(b"a"), two.header().hash(b"a"));
    }

    #[test]
    fn a_table_gets_the_mode_that_was_asked_for_whatever_the_umask() {
        let (dir, path) = place();
        Child::fork(|| {
            rustix::process::umask(Mode::from_raw_mode(0o077));
            TableFile::create(&path, &geometry(), 0o664).unwrap();
        })
        .join();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o664);
        assert_eq!(names_in(dir.path()), ["t"]);
    }

    #[test]
    fn modes_that_cannot_be_right_are_refused() {
        let (dir, path) = place();
        let with = |mode| TableFile::create(&path, &geometry(), mode).unwrap_err();
        assert!(matches!(
            with(0o666),
            OpenError::WorldWritable { mode: 0o666, .. }
        ));
        for mode in [0o060, 0o400, 0o4600] {
            assert!(matches!(with(mode), OpenError::Geometry { .. }), "{mode:o}");
        }
        assert!(names_in(dir.path()).is_empty());
    }

    #[test]
    fn a_file_that_is_there_is_never_replaced() {
        let (dir, path) = place();
        fs::write(&path, "mine").unwrap();
        let exists = |result| matches!(result, Err(OpenError::AlreadyExists { .. }));
        assert!(exists(TableFile::create(&path, &geometry(), 0o600)));
        // Nor one that comes after the first look.
        let (directory, name) = open_directory(&path).unwrap();
        let (geometry, directory) = (geometry(), directory.as_fd());
        let draft = Draft {
            path: &path,
            directory,
            name,
            geometry: &geometry,
            mode: 0o600,
        };
        assert!(exists(draft.create_unnamed().map(|_| ())));
        assert!(exists(draft.create_named()));
        assert_eq!(fs::read(&path).unwrap(), b"mine");
        assert_eq!(names_in(dir.path()), ["t"]);
    }

    #[test]
    fn a_filesystem_without_nameless_files_gets_a_whole_table_too() {
        let (dir, path) = place();
        let (directory, name) = open_directory(&path).unwrap();
        let (geometry, directory) = (geometry(), directory.as_fd());
        let draft = Draft {
            path: &path,
            directory,
            name,
            geometry: &geometry,
            mode: 0o640,
        };
        draft.create_named().unwrap();
        assert_eq!(*open(&path).unwrap().geometry(), geometry);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o640);
        assert_eq!(names_in(dir.path()), ["t"]);
    }

    #[test]
    fn where_nothing_can_be_preallocated_zeroes_are_written() {
        let (_dir, path) = place();
        let file = File::create(&path).unwrap();
        write_zeroes(file.as_fd(), 150_000).unwrap();
        let status = file.metadata().unwrap();
        assert_eq!(status.len(), 150_000);
        assert!(status.blocks() * 512 >= 150_000);
    }

    #[test]
    fn what_is_reserved_has_room_for_every_byte() {
        let (_dir, path) = place();
        let bytes = (5 << 20) + 4097;
        let file = File::create(&path).unwrap();
        match reserve(file.as_fd(), bytes) {
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => skip("the filesystem reserves nothing"),
            done => {
                done.unwrap();
                let status = file.metadata().unwrap();
                assert_eq!(status.len(), bytes);
                assert!(status.blocks() * 512 >= bytes);
            }
        }
    }

    #[test]
    fn of_racing_threads_one_creates_the_table_and_all_open_the_same() {
        let _watchdog = Watchdog::start();
        for _ in 0..20 {
            let (dir, path) = place();
            let results = thread::scope(|scope| {
                let racers: Vec<_> = (0..8).map(|_| scope.spawn(|| race(&path))).collect();
                racers
                    .into_iter()
                    .map(|racer| racer.join().unwrap())
                    .collect::<Vec<_>>()
            });
            assert_eq!(results.iter().filter(|(created, _)| *created).count(), 1);
            assert!(results.iter().all(|(_, id)| *id == results[0].1));
            assert_eq!(names_in(dir.path()), ["t"]);
        }
    }

    /// Whether this racer created the table, and the table's id.
    fn race(path: &Path) -> (bool, [u8; 16]) {
        let created = match TableFile::create(path, &geometry(), 0o600) {
            Ok(()) => true,
            Err(OpenError::AlreadyExists { .. }) => false,
            Err(other) => panic!("{other}"),
        };
        let mapping = open(path).unwrap().map(&gate()).unwrap();
        (created, mapping.header().table_id())
    }

    #[test]
    fn of_racing_processes_one_creates_the_table_and_nobody_sees_half_of_it() {
        let _watchdog = Watchdog::start();
        for _ in 0..20 {
            let (dir, path) = place();
            let page = SharedPage::new();
            let racers: Vec<_> = (0..4)
                .map(|_| {
                    Child::fork(|| {
                        if race(&path).0 {
                            page.word(0).fetch_add(1, Ordering::AcqRel);
                        }
                    })
                })
                .collect();
            // An onlooker meets no table or a whole one.
            loop {
                match open(&path) {
                    Err(OpenError::NotFound { .. }) => {}
                    opened => break drop(opened.unwrap()),
                }
            }
            racers.into_iter().for_each(Child::join);
            assert_eq!(page.word(0).load(Ordering::Acquire), 1);
            assert_eq!(names_in(dir.path()), ["t"]);
        }
    }

    #[test]
    fn a_full_filesystem_is_an_error_and_nothing_is_left_behind() {
        let _watchdog = Watchdog::start();
        if !Privilege::Mount.is_there() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        Child::fork(|| {
            tmpfs(dir.path(), c"size=64k");
            let path = dir.path().join("t");
            let geometry = Geometry::new(4096, 256, Reclaim::default()).unwrap();
            let full = TableFile::create(&path, &geometry, 0o600).unwrap_err();
            let bytes = geometry.file_len();
            assert!(
                matches!(full, OpenError::NoSpace { bytes: b, .. } if b == bytes),
                "{full}"
            );
            assert!(names_in(dir.path()).is_empty());
            let (directory, name) = open_directory(&path).unwrap();
            let directory = directory.as_fd();
            let draft = Draft {
                path: &path,
                directory,
                name,
                geometry: &geometry,
                mode: 0o600,
            };
            assert!(matches!(
                draft.create_named(),
                Err(OpenError::NoSpace { .. })
            ));
            assert!(names_in(dir.path()).is_empty());
            // What did not fit left its room to what does.
            TableFile::create(
                &path,
                &Geometry::new(10, 4, Reclaim::OnDeath).unwrap(),
                0o600,
            )
            .unwrap();
        })
        .join();
    }

    #[test]
    fn overlayfs_is_refused_before_anything_is_created_there() {
        let _watchdog = Watchdog::start();
        if !Privilege::Mount.is_there() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        Child::fork(|| {
            tmpfs(dir.path(), c"size=1m");
            let sub = |name: &str| {
                let path = dir.path().join(name);
                fs::create_dir(&path).unwrap();
                path.display().to_string()
            };
            let (lower, upper, work, merged) =
                (sub("lower"), sub("upper"), sub("work"), sub("merged"));
            let options = format!("lowerdir={lower},upperdir={upper},workdir={work}");
            let [options, merged_c] =
                [&options, &merged].map(|text| CString::new(text.as_str()).unwrap());
            // SAFETY:
            // - live C strings; it changes this child's own mount namespace.
            let mounted = unsafe {
                libc::mount(
                    c"overlay".as_ptr(),
                    merged_c.as_ptr(),
                    c"overlay".as_ptr(),
                    0,
                    options.as_ptr().cast(),
                )
            };
            if mounted != 0 {
                skip(format_args!(
                    "no overlayfs here: {}",
                    io::Error::last_os_error()
                ));
                return;
            }
            let path = Path::new(&merged).join("t");
            let refused = TableFile::create(&path, &geometry(), 0o600).unwrap_err();
            let OpenError::Filesystem { filesystem, .. } = refused else {
                panic!("{refused}")
            };
            assert_eq!(filesystem, "overlayfs");
            assert!(names_in(Path::new(&merged)).is_empty());
            TableFile::create(&Path::new(&upper).join("t"), &geometry(), 0o600).unwrap();
            assert!(matches!(open(&path), Err(OpenError::Filesystem { .. })));
        })
        .join();
    }

    /// A filesystem whose server answers nothing, until what is returned is closed.
    fn mount_silence(at: &Path) -> Option<File> {
        let mut both_ways = File::options();
        let server = both_ways.read(true).write(true).open("/dev/fuse").ok()?;
        let options = format!(
            "fd={},rootmode=40000,user_id=0,group_id=0",
            server.as_raw_fd()
        );
        let options = CString::new(options).unwrap();
        let at = CString::new(at.as_os_str().as_bytes()).unwrap();
        let kind = c"fuse".as_ptr();
        // SAFETY:
        // - live C strings; for a child with mounts of its own.
        let mounted =
            unsafe { libc::mount(kind, at.as_ptr(), kind, 0, options.as_ptr().cast()) == 0 };
        mounted.then_some(server)
    }

    #[test]
    fn while_a_server_does_not_answer_others_of_the_process_fork() {
        let _watchdog = Watchdog::start();
        if !Privilege::Mount.is_there() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let page: &'static SharedPage = Box::leak(Box::new(SharedPage::new()));
        Child::fork(|| {
            tmpfs(dir.path(), c"size=1m");
            let Some(server) = mount_silence(dir.path()) else {
                return skip(format_args!("no FUSE filesystem may be mounted"));
            };
            let path = dir.path().join("t");
            let (tell, told) = mpsc::channel();
            spawn_in_child(move || {
                page.word(0).store(process::tid(), Ordering::Release);
                tell.send(LockTable::open(&path).unwrap_err()).unwrap();
            });
            until(|| {
                let opener = page.word(0).load(Ordering::Acquire);
                let stat = fs::read_to_string(format!("/proc/self/task/{opener}/stat"));
                stat.is_ok_and(|stat| stat.contains(") D "))
            });
            Child::fork(|| {}).join();
            drop(server);
            let refused = told.recv().unwrap();
            assert!(matches!(refused, OpenError::Io { .. }), "{refused}");
        })
        .join();
    }

    #[test]
    fn a_look_refuses_a_filesystem_and_leaves_all_else_to_the_opening() {
        let (_dir, path) = table();
        TableFile::look(&path).unwrap();
        TableFile::look(&path.with_file_name("missing")).unwrap();
        // There it is a directory first.
        TableFile::look(Path::new("/proc/self/task")).unwrap();
        let refused = TableFile::look(Path::new("/proc/self/stat")).unwrap_err();
        let is_proc = |error: &OpenError| matches!(error, OpenError::Filesystem { filesystem, .. } if filesystem == "proc");
        assert!(is_proc(&refused), "{refused}");
    }

    #[test]
    fn filesystems_are_refused_by_name_and_unknown_ones_by_number() {
        for local in [0x0102_1994, 0xef53, 0x5846_5342, 0x9123_683e] {
            assert_eq!(refuse_filesystem(local), None);
        }
        assert_eq!(refuse_filesystem(0x6969).unwrap(), "nfs");
        assert_eq!(refuse_filesystem(0x0102_1997).unwrap(), "9p");
        assert!(refuse_filesystem(0x6573_5546).unwrap().contains("virtiofs"));
        assert!(
            refuse_filesystem(0x0bad_cafe)
                .unwrap()
                .contains("0xbadcafe")
        );
    }

    #[test]
    fn a_table_that_was_unlinked_as_it_was_opened_is_none() {
        let (_dir, path) = place();
        TableFile::create(&path, &geometry(), 0o600).unwrap();
        let file = std::fs::File::open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let status = Status::of(file.as_fd()).unwrap();
        let refused = check_trust(&path, &status);
        assert!(matches!(refused, Err(OpenError::NotFound { .. })));
    }

    #[test]
    fn nothing_at_the_path_and_no_directory_are_told_apart() {
        let (_dir, path) = place();
        assert!(matches!(open(&path), Err(OpenError::NotFound { .. })));
        let nowhere = path.join("deeper");
        assert!(matches!(open(&nowhere), Err(OpenError::NotFound { .. })));
        let created = TableFile::create(&nowhere, &geometry(), 0o600);
        assert!(matches!(created, Err(OpenError::Io { .. })), "{created:?}");
        let root = TableFile::create(Path::new("/"), &geometry(), 0o600);
        assert!(
            matches!(root, Err(OpenError::NotRegular { .. })),
            "{root:?}"
        );
    }

    /// It became a file without the slash, which is not to be opened by the path with it.
    #[test]
    fn a_path_that_ends_in_a_slash_is_a_directorys() {
        let (dir, path) = place();
        let mut slashed = path.clone().into_os_string();
        slashed.push("/");
        let refused = TableFile::create(Path::new(&slashed), &geometry(), 0o600).unwrap_err();
        assert!(
            matches!(&refused, OpenError::Io { error, .. } if error.kind() == io::ErrorKind::IsADirectory),
            "{refused}"
        );
        assert!(dir.path().read_dir().unwrap().next().is_none());
    }

    fn found_at(path: &Path) -> &'static str {
        for access in [Access::ReadOnly, Access::ReadWrite] {
            let refused = TableFile::open(path, access).unwrap_err();
            let OpenError::NotRegular { found, .. } = refused else {
                panic!("{refused}")
            };
            if access == Access::ReadWrite {
                return found;
            }
        }
        unreachable!("the second access returns")
    }

    #[test]
    fn a_link_to_a_good_table_is_refused_as_a_link() {
        let (dir, path) = table();
        let link = dir.path().join("link");
        symlink(&path, &link).unwrap();
        assert_eq!(found_at(&link), "a symbolic link");
        symlink("nowhere", dir.path().join("dangling")).unwrap();
        assert_eq!(found_at(&dir.path().join("dangling")), "a symbolic link");
    }

    #[test]
    fn a_planted_fifo_is_refused_and_hangs_nobody() {
        let _watchdog = Watchdog::start();
        let (_dir, path) = place();
        let name = CString::new(path.as_os_str().as_encoded_bytes()).unwrap();
        // SAFETY:
        // - a live C string.
        assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
        assert_eq!(found_at(&path), "a FIFO");
    }

    #[test]
    fn directories_sockets_and_devices_are_refused_by_what_they_are() {
        let (dir, path) = place();
        assert_eq!(found_at(dir.path()), "a directory");
        let _listener = UnixListener::bind(&path).unwrap();
        assert_eq!(found_at(&path), "a socket");
        assert_eq!(found_at(Path::new("/dev/null")), "a character device");
    }

    #[test]
    fn a_table_of_two_names_is_refused() {
        let (dir, path) = table();
        fs::hard_link(&path, dir.path().join("other")).unwrap();
        assert!(matches!(
            open(&path),
            Err(OpenError::LinkCount { links: 2, .. })
        ));
    }

    #[test]
    fn a_table_that_everybody_may_write_is_refused() {
        let (_dir, path) = table();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o602)).unwrap();
        let refused = open(&path).unwrap_err();
        assert!(
            matches!(refused, OpenError::WorldWritable { mode: 0o602, .. }),
            "{refused}"
        );
    }

    #[test]
    fn files_that_are_no_tables_are_told_from_damaged_and_foreign_ones() {
        let (_dir, path) = place();
        fs::write(&path, "").unwrap();
        assert!(matches!(open(&path), Err(OpenError::NotATable { .. })));
        fs::write(&path, vec![b'x'; 100_000]).unwrap();
        assert!(matches!(open(&path), Err(OpenError::NotATable { .. })));
        fs::remove_file(&path).unwrap();

        TableFile::create(&path, &geometry(), 0o600).unwrap();
        overwrite(&path, &99_u64.to_ne_bytes(), 8);
        let refused = open(&path).unwrap_err();
        let OpenError::Format {
            found, expected, ..
        } = refused
        else {
            panic!("{refused}")
        };
        assert!(found.starts_with("99 ") && expected == layout::describe_format());
        fs::remove_file(&path).unwrap();

        TableFile::create(&path, &geometry(), 0o600).unwrap();
        overwrite(&path, &11_u64.to_ne_bytes(), 64);
        assert!(matches!(open(&path), Err(OpenError::Damaged { .. })));
        fs::remove_file(&path).unwrap();

        TableFile::create(&path, &geometry(), 0o600).unwrap();
        let file = File::options().write(true).open(&path).unwrap();
        file.set_len(geometry().file_len() - 4096).unwrap();
        assert!(matches!(open(&path), Err(OpenError::Damaged { .. })));
        file.set_len(100).unwrap();
        assert!(matches!(open(&path), Err(OpenError::NotATable { .. })));
    }

    fn owned_by(owner: u32, group: u32, mode: u32) -> Status {
        let (_dir, path) = table();
        let mut status = Status::at_path(&path).unwrap();
        (status.owner, status.group, status.mode) = (owner, group, mode);
        status
    }

    #[test]
    fn an_owner_is_trusted_only_with_a_reason() {
        let groups = || vec![1000, 77];
        let never = || unreachable!("only root asks for the directory");
        let user = |owner, group, mode| {
            is_owner_trusted(&owned_by(owner, group, mode), 1000, groups, never)
        };
        assert!(user(1000, 1, 0o600));
        assert!(user(0, 0, 0o600));
        assert!(user(2000, 77, 0o660));
        assert!(!user(2000, 77, 0o640));
        assert!(!user(2000, 78, 0o660));
        let groups = || vec![0, 77];
        let root = |owner, group, mode, closed| {
            is_owner_trusted(&owned_by(owner, group, mode), 0, groups, || closed)
        };
        assert!(root(2000, 1, 0o600, true));
        assert!(!root(2000, 77, 0o660, false));
    }

    #[test]
    fn root_trusts_a_service_in_its_own_directory_but_not_in_everybodys() {
        if !Privilege::GiveFilesAway.is_there() {
            return;
        }
        let (dir, path) = table();
        std::os::unix::fs::chown(&path, Some(12_345), Some(12_345)).unwrap();
        drop(open(&path).unwrap());
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o1777)).unwrap();
        assert!(matches!(
            open(&path),
            Err(OpenError::ForeignOwner { owner: 12_345, .. })
        ));
    }

    #[test]
    fn a_user_without_the_right_is_told_so() {
        if !Privilege::BecomeAnother.is_there() {
            return;
        }
        let (dir, path) = table();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        Child::fork(|| {
            // SAFETY:
            // - change this child's credentials alone; -1 keeps an id.
            unsafe {
                assert_eq!(libc::setgroups(0, std::ptr::null()), 0);
                assert_eq!(libc::setresgid(54_321, 54_321, 54_321), 0);
                assert_eq!(libc::setresuid(54_321, 54_321, 54_321), 0);
            }
            assert!(matches!(
                open(&path),
                Err(OpenError::PermissionDenied { .. })
            ));
            let there = path.with_file_name("new");
            let created = TableFile::create(&there, &geometry(), 0o600);
            assert!(
                matches!(created, Err(OpenError::PermissionDenied { .. })),
                "{created:?}"
            );
        })
        .join();
    }

    /// Without the capability that naming by descriptor takes before Linux 6.10.
    #[test]
    fn a_user_without_capabilities_creates_tables_too() {
        let _watchdog = Watchdog::start();
        if !Privilege::BecomeAnother.is_there() {
            return;
        }
        let (dir, path) = place();
        std::os::unix::fs::chown(dir.path(), Some(54_321), Some(54_321)).unwrap();
        Child::fork(|| {
            // SAFETY:
            // - changes this child's credentials alone.
            assert_eq!(unsafe { libc::setresuid(54_321, 54_321, 54_321) }, 0);
            TableFile::create(&path, &geometry(), 0o600).unwrap();
            drop(open(&path).unwrap());
        })
        .join();
        assert_eq!(names_in(dir.path()), ["t"]);
    }

    #[test]
    fn a_relative_path_is_good_after_a_change_of_directory() {
        let (dir, path) = table();
        Child::fork(|| {
            std::env::set_current_dir(dir.path()).unwrap();
            let file = open(Path::new("t")).unwrap();
            std::env::set_current_dir("/").unwrap();
            assert_eq!(file.path(), path);
            assert_eq!(Status::of(file.reopen().unwrap()).unwrap().id, file.id());
        })
        .join();
    }

    #[test]
    fn a_file_that_lost_its_path_is_reopened_through_proc() {
        let (dir, path) = table();
        let file = open(&path).unwrap();
        fs::rename(&path, dir.path().join("elsewhere")).unwrap();
        TableFile::create(&path, &geometry(), 0o600).unwrap();
        assert_eq!(Status::of(file.reopen().unwrap()).unwrap().id, file.id());
    }

    fn probe(path: &Path) -> Probe {
        Probe::new(open(path).unwrap().reopen().unwrap(), path).unwrap()
    }

    #[test]
    fn a_byte_lock_lives_as_long_as_the_mapping_and_no_longer() {
        let (_dir, path) = table();
        // A child forked by a test beside this one would inherit the description, and the
        // lock: what sessions hold forks off for.
        let _hold = hold_forks();
        let (probe, byte) = (probe(&path), byte_lock::session_byte(2));
        let file = open(&path).unwrap();
        assert!(byte_lock::try_lock(file.as_fd(), byte).unwrap());
        let mapping = file.map(&gate()).unwrap();
        drop(file);
        assert_eq!(probe.is_locked(byte), Some(true));
        drop(mapping);
        assert_eq!(probe.is_locked(byte), Some(false));
    }

    #[test]
    fn a_byte_lock_ends_with_its_process_though_a_forked_child_lives() {
        let _watchdog = Watchdog::start();
        let (_dir, path) = table();
        let (probe, byte) = (probe(&path), byte_lock::session_byte(0));
        let page = SharedPage::new();
        let parent = Child::fork(|| {
            let file = open(&path).unwrap();
            assert!(byte_lock::try_lock(file.as_fd(), byte).unwrap());
            let _mapping = file.map(&gate()).unwrap();
            drop(file);
            // Not reaped by a drop: it outlives its parent.
            std::mem::forget(Child::fork(|| {
                Child::outlive_parent();
                page.word(0)
                    .store(crate::os::process::pid(), Ordering::Release);
                // Longer than the watchdog lets the test run, but not for ever.
                let asked = (0..100_000).find(|_| {
                    thread::sleep(Duration::from_millis(1));
                    page.word(1).load(Ordering::Acquire) != 0
                });
                page.word(2)
                    .store(1 + u32::from(asked.is_none()), Ordering::Release);
            }));
            thread::sleep(Duration::from_secs(1000));
        });
        while page.word(0).load(Ordering::Acquire) == 0 {
            thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(probe.is_locked(byte), Some(true));
        parent.kill_and_reap();
        assert_eq!(probe.is_locked(byte), Some(false));
        // The child lived all the while.
        page.word(1).store(1, Ordering::Release);
        while page.word(2).load(Ordering::Acquire) == 0 {
            thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(page.word(2).load(Ordering::Acquire), 1);
    }

    #[test]
    fn a_mapping_dropped_in_a_forked_child_leaves_what_took_its_place_alone() {
        let _watchdog = Watchdog::start();
        let (_dir, path) = table();
        let mut mapping = Some(open(&path).unwrap().map(&gate()).unwrap());
        let at = mapping.as_ref().unwrap().map.as_ptr();
        Child::fork(|| {
            // SAFETY:
            // - NOREPLACE: it maps only what is free, which the inherited range must be.
            let page = unsafe {
                libc::mmap(
                    at.cast_mut().cast(),
                    4096,
                    libc::PROT_READ | libc::PROT_WRITE,
                    libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE,
                    -1,
                    0,
                )
            };
            assert_eq!(
                page.cast_const().cast(),
                at,
                "{}",
                io::Error::last_os_error()
            );
            drop(mapping.take());
            // SAFETY:
            // - mapped above; were it unmapped, this child would die of it, and the join fail.
            unsafe { page.cast::<u64>().write_volatile(1) };
        })
        .join();
        assert_eq!(mapping.take().unwrap().naming().floor(), 0);
    }
}
