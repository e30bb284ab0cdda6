//! caslock, through its public interface and nothing else.

use std::path::Path;

use caslock::{Guard, Lock, LockTable, Previous};

use super::Peer;
use crate::Failure;

/// One lock of a table of the default size.
#[derive(Debug)]
pub struct Caslock(Lock);

impl Peer for Caslock {
    type Guard<'a> = Guard<'a>;

    fn create(dir: &Path) -> Result<Self, Failure> {
        Self::open(dir)
    }

    fn open(dir: &Path) -> Result<Self, Failure> {
        let table = LockTable::open(dir.join("app.table"))?;
        Ok(Self(table.lock("measured")?))
    }

    // As at a user's own call: the library's fast path is inlined there, too.
    #[inline(always)]
    fn take(&self) -> Guard<'_> {
        self.0.acquire().expect("granted")
    }

    fn died(guard: &Guard<'_>) -> Option<bool> {
        Some(matches!(guard.previous(), Previous::Died(_)))
    }
}
