//! Memory that the processes of a soak share, and that outlives every kill: files, mapped.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::ptr;

use rustix::mm::{MapFlags, ProtFlags};

/// Types that many processes may use at once out of zeroed memory.
///
/// # Safety
/// - All zeroes is a valid value.
/// - Every field is an atomic, so that any bytes are one, too.
/// - No field needs more than the alignment of a page.
pub unsafe trait Words: Sync + 'static {}

/// Creates a file with a `T` in it, zeroed, and maps it for the life of the process.
///
/// # Errors
/// What the system refuses.
pub fn create<T: Words>(path: &Path) -> io::Result<&'static T> {
    let file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(path)?;
    file.set_len(size_of::<T>() as u64)?;
    map(&file)
}

/// Maps the `T` that another process has created, for the life of the process.
///
/// # Errors
/// What the system refuses, and a file of another length.
pub fn open<T: Words>(path: &Path) -> io::Result<&'static T> {
    let file = File::options().read(true).write(true).open(path)?;
    if file.metadata()?.len() != size_of::<T>() as u64 {
        return Err(io::Error::other("a file of another length"));
    }
    map(&file)
}

fn map<T: Words>(file: &File) -> io::Result<&'static T> {
    let access = ProtFlags::READ | ProtFlags::WRITE;
    let len = size_of::<T>();
    // SAFETY:
    // - a new mapping at an address of the kernel's choice, page-aligned and so aligned
    //   for a `T`, of the length of a `T`, which is the file's;
    // - never unmapped, and the campaign shortens none of its files;
    // - any bytes are a `T`, which is made of atomics, and there are no unique references.
    unsafe {
        let at = rustix::mm::mmap(
            ptr::null_mut(),
            len,
            access,
            MapFlags::SHARED,
            file.as_fd(),
            0,
        )?;
        Ok(&*at.cast_const().cast::<T>())
    }
}

/// Takes the pages of the file at `path` out of this process's page tables, wherever it is
/// mapped: the next touch of each faults it in again. Says how many mappings there were.
///
/// # Errors
/// What the system refuses.
pub fn unmap_pages(path: &Path) -> io::Result<usize> {
    let maps = std::fs::read_to_string("/proc/self/maps")?;
    let path = path.to_str().ok_or(io::ErrorKind::InvalidInput)?;
    let mut mappings = 0;
    for line in maps.lines().filter(|line| line.ends_with(path)) {
        let Some((first, end)) = range_of(line) else {
            continue;
        };
        // SAFETY:
        // - the range is one shared file mapping of this process: the bytes are the page
        //   cache's, and a later access, by whomever, finds them there.
        let rc = unsafe {
            libc::madvise(
                ptr::with_exposed_provenance_mut(first),
                end - first,
                libc::MADV_DONTNEED,
            )
        };
        if rc != 0 {
            return Err(io::Error::last_os_error());
        }
        mappings += 1;
    }
    Ok(mappings)
}

/// The addresses in a line of `/proc/self/maps`, if it is a shared mapping.
fn range_of(line: &str) -> Option<(usize, usize)> {
    let (range, rest) = line.split_once(' ')?;
    let (first, end) = range.split_once('-')?;
    let is_shared = rest.split(' ').next()?.ends_with('s');
    let address = |text| usize::from_str_radix(text, 16).ok();
    is_shared.then_some((address(first)?, address(end)?))
}

/// How many of the file's pages are in memory.
///
/// # Errors
/// What the system refuses.
pub fn resident_pages(path: &Path) -> io::Result<usize> {
    /// The smallest that there are: of larger ones it takes fewer bytes, and the rest stays 0.
    const PAGE: usize = 4096;
    let file = File::open(path)?;
    let len = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
    let mut pages = vec![0_u8; len.div_ceil(PAGE)];
    // SAFETY:
    // - a new mapping that is only asked about, never read, and unmapped again;
    // - `pages` has a byte for each of its pages.
    unsafe {
        let at = rustix::mm::mmap(
            ptr::null_mut(),
            len,
            ProtFlags::READ,
            MapFlags::SHARED,
            file.as_fd(),
            0,
        )?;
        let rc = libc::mincore(at, len, pages.as_mut_ptr());
        let error = io::Error::last_os_error();
        rustix::mm::munmap(at, len)?;
        if rc != 0 {
            return Err(error);
        }
    }
    Ok(pages.iter().filter(|&&page| page & 1 == 1).count())
}
