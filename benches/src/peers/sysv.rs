//! A System V semaphore of one, with undo: the kernel gives back what a dead process took.

use std::fs;
use std::io;
use std::path::Path;

use super::Peer;
use crate::Failure;

/// `semop` with `SEM_UNDO`.
#[derive(Debug)]
pub struct Sysv {
    id: libc::c_int,
    made_here: bool,
}

/// Holds the semaphore's one.
#[derive(Debug)]
#[must_use]
pub struct Taken(libc::c_int);

impl Drop for Taken {
    fn drop(&mut self) {
        step(self.0, 1);
    }
}

fn step(id: libc::c_int, by: libc::c_short) {
    let mut step = libc::sembuf {
        sem_num: 0,
        sem_op: by,
        sem_flg: libc::SEM_UNDO as libc::c_short,
    };
    // SAFETY: the pointer is to one operation, which lives across the call.
    while unsafe { libc::semop(id, &raw mut step, 1) } != 0 {
        let error = io::Error::last_os_error();
        assert_eq!(error.kind(), io::ErrorKind::Interrupted, "semop: {error}");
    }
}

impl Peer for Sysv {
    type Guard<'a> = Taken;

    fn create(dir: &Path) -> Result<Self, Failure> {
        // SAFETY: takes no pointer.
        let id = unsafe { libc::semget(libc::IPC_PRIVATE, 1, 0o600) };
        if id < 0 {
            return Err(io::Error::last_os_error().into());
        }
        let semaphore = Self {
            id,
            made_here: true,
        };
        const VALUE: libc::c_int = 1;
        // SAFETY: `SETVAL` takes an int.
        if unsafe { libc::semctl(id, 0, libc::SETVAL, VALUE) } != 0 {
            return Err(io::Error::last_os_error().into());
        }
        fs::write(dir.join("semaphore-id"), id.to_string())?;
        Ok(semaphore)
    }

    fn open(dir: &Path) -> Result<Self, Failure> {
        let id = fs::read_to_string(dir.join("semaphore-id"))?.parse()?;
        Ok(Self {
            id,
            made_here: false,
        })
    }

    fn take(&self) -> Taken {
        step(self.id, -1);
        Taken(self.id)
    }
}

impl Drop for Sysv {
    fn drop(&mut self) {
        if self.made_here {
            // SAFETY: `IPC_RMID` takes nothing more.
            let _ = unsafe { libc::semctl(self.id, 0, libc::IPC_RMID) };
        }
    }
}
