//! Which system calls fail, and with what: what their manual pages name and a machine in
//! trouble, a filter or an old kernel may answer.

use libc::{
    EACCES, EAGAIN, EEXIST, EFAULT, EINTR, EINVAL, EIO, EMFILE, ENODEV, ENOENT, ENOLCK, ENOMEM,
    ENOSPC, ENOSYS, EOPNOTSUPP, EPERM, EROFS, ETIMEDOUT,
};

/// A system call, and how it fails.
pub(super) struct Failing {
    pub(super) number: i64,
    pub(super) name: &'static str,
    pub(super) errnos: &'static [i32],
}

const fn failing(number: i64, name: &'static str, errnos: &'static [i32]) -> Failing {
    Failing {
        number,
        name,
        errnos,
    }
}

/// What is not here cannot fail, or only by its caller's mistake.
const CALLS: &[Failing] = &[
    // Newer architectures have `openat` and `readlinkat` only.
    #[cfg(target_arch = "x86_64")]
    failing(libc::SYS_open, "open", &[EINTR, EACCES, EMFILE, ENOENT]),
    failing(
        libc::SYS_openat,
        "openat",
        &[EINTR, EACCES, EMFILE, ENOENT, ENOSPC],
    ),
    failing(libc::SYS_linkat, "linkat", &[ENOENT, EPERM, EEXIST, ENOSPC]),
    failing(libc::SYS_renameat2, "renameat2", &[EINVAL, EEXIST, ENOSPC]),
    failing(libc::SYS_unlinkat, "unlinkat", &[EACCES]),
    failing(libc::SYS_fchmod, "fchmod", &[EPERM, EROFS]),
    failing(
        libc::SYS_fallocate,
        "fallocate",
        &[EINTR, ENOSPC, EOPNOTSUPP],
    ),
    failing(libc::SYS_pwrite64, "pwrite64", &[EINTR, EIO, ENOSPC]),
    failing(libc::SYS_write, "write", &[EINTR, EIO, ENOSPC]),
    failing(libc::SYS_pread64, "pread64", &[EINTR, EIO]),
    failing(libc::SYS_read, "read", &[EINTR, EIO]),
    failing(libc::SYS_fdatasync, "fdatasync", &[EINTR, EIO, ENOSPC]),
    failing(libc::SYS_fstat, "fstat", &[EIO]),
    failing(libc::SYS_newfstatat, "newfstatat", &[EACCES, ENOENT, EIO]),
    failing(libc::SYS_statx, "statx", &[EACCES, ENOENT, ENOSYS]),
    failing(libc::SYS_fstatfs, "fstatfs", &[EINTR, EIO, ENOSYS]),
    failing(libc::SYS_fcntl, "fcntl", &[EINTR, EINVAL, ENOLCK, EMFILE]),
    #[cfg(target_arch = "x86_64")]
    failing(libc::SYS_readlink, "readlink", &[EACCES, ENOENT]),
    failing(libc::SYS_readlinkat, "readlinkat", &[EACCES, ENOENT]),
    failing(libc::SYS_close, "close", &[EINTR, EIO]),
    failing(libc::SYS_lseek, "lseek", &[EINVAL]),
    failing(libc::SYS_getdents64, "getdents64", &[EIO]),
    failing(libc::SYS_mmap, "mmap", &[ENOMEM, EACCES, ENODEV]),
    failing(libc::SYS_munmap, "munmap", &[ENOMEM]),
    failing(libc::SYS_mprotect, "mprotect", &[ENOMEM]),
    failing(libc::SYS_madvise, "madvise", &[EINVAL, ENOMEM]),
    failing(libc::SYS_brk, "brk", &[ENOMEM]),
    failing(libc::SYS_clone, "clone", &[EAGAIN, ENOMEM]),
    failing(libc::SYS_clone3, "clone3", &[EAGAIN, ENOMEM, ENOSYS, EPERM]),
    failing(
        libc::SYS_set_robust_list,
        "set_robust_list",
        &[EINVAL, ENOSYS],
    ),
    failing(libc::SYS_getrandom, "getrandom", &[EINTR]),
    failing(libc::SYS_prctl, "prctl", &[EINVAL, EPERM]),
    failing(libc::SYS_clock_nanosleep, "clock_nanosleep", &[EINTR]),
    failing(
        libc::SYS_futex,
        "futex",
        &[EINTR, EAGAIN, ENOSYS, EPERM, EFAULT, ETIMEDOUT],
    ),
    failing(
        libc::SYS_futex_waitv,
        "futex_waitv",
        &[EINTR, EAGAIN, ENOSYS, EPERM, EFAULT, EINVAL, ETIMEDOUT],
    ),
];

/// How the system call of this number fails, if it can.
pub(super) fn failing_call(number: i64) -> Option<&'static Failing> {
    CALLS.iter().find(|call| call.number == number)
}

/// In how many ways the system call of this number fails.
pub(super) fn count(number: i64) -> usize {
    failing_call(number).map_or(0, |call| call.errnos.len())
}
