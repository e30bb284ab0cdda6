//! A lock changes hands hundreds of times while every wait of one of its two users comes
//! back at once: interrupted, as if the word had changed, timed out, or for no reason.

use std::fs::File;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Context, ensure};
use caslock::LockTable;
use rustix::fs::{FlockOperation, flock};

use super::{BUSY, PATIENCE};

/// How often each of the two takes the lock.
const TIMES: usize = 300;

/// What a wait answers instead of waiting, in turn; `None`: what it would answer anyway.
pub(super) const ANSWERS: [Option<i32>; 6] = [
    Some(libc::EINTR),
    Some(libc::EAGAIN),
    Some(0),
    Some(libc::ETIMEDOUT),
    Some(0),
    None,
];

/// Takes the lock again and again, each time with the kernel's file lock on the table's
/// directory as a witness that nobody else has it.
pub(super) fn contend(table: &LockTable, path: &Path) -> anyhow::Result<()> {
    let witness = File::open(path.parent().context("a directory")?)?;
    let lock = table.lock(BUSY)?;
    let mut last = 0;
    for _ in 0..TIMES {
        let guard = lock.acquire_timeout(PATIENCE)?;
        flock(&witness, FlockOperation::NonBlockingLockExclusive).context("two owners")?;
        ensure!(guard.token().0 > last, "a token that does not grow");
        last = guard.token().0;
        thread::sleep(Duration::from_micros(200));
        flock(&witness, FlockOperation::Unlock)?;
        guard.release()?;
    }
    Ok(())
}
