//! Who is killed: processes that do one thing between two marks.
//!
//! All are forked by one process that has never opened a table, so each of them has the
//! same code at the same addresses and its heap in the same state: they execute the same
//! instructions, and an instruction of the first run is found again in the next.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use caslock::{LockTable, Options, Reclaim};

use super::tracee;
use crate::sys;

/// What a victim does between its marks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Deed {
    /// Creates the table.
    Create,
    /// Opens the table.
    Open,
    /// Resolves a name, or creates it.
    Name,
    /// Tries to take the lock.
    Try,
    /// Takes the lock, waiting if need be.
    Acquire,
    /// Takes the lock from a holder that it has watched for almost a lease.
    Evict,
    /// Releases the lock.
    Release,
    /// Takes the lock from its holder, as an operator.
    Force,
    /// Ends its session.
    Detach,
    /// Holds the lock, unmarked, and reports it.
    Hold,
}

impl Deed {
    const ALL: [Self; 10] = [
        Self::Create,
        Self::Open,
        Self::Name,
        Self::Try,
        Self::Acquire,
        Self::Evict,
        Self::Release,
        Self::Force,
        Self::Detach,
        Self::Hold,
    ];

    fn named(name: &str) -> io::Result<Self> {
        let mut all = Self::ALL.into_iter();
        all.find(|deed| format!("{deed:?}") == name)
            .ok_or_else(|| io::ErrorKind::InvalidData.into())
    }
}

/// The lease of the tables that evict: the shortest there may be.
const LEASE: Duration = Duration::from_millis(100);

/// A table of so many names.
pub(super) fn options(slots: u32, sessions: u32) -> Options {
    let options = LockTable::options().slots(slots).sessions(sessions);
    options.reclaim(Reclaim::OnDeath)
}

/// The same, evicting the silent.
pub(super) fn evicting(slots: u32, sessions: u32) -> Options {
    options(slots, sessions).reclaim(Reclaim::OnExpiry { lease: LEASE })
}

/// What a created table looks like.
pub(super) fn created() -> Options {
    options(6, 8)
}

/// The process that victims are forked by.
pub(super) struct Stage {
    orders: BufReader<UnixStream>,
    /// Read by the child that was forked last: it waits there until it is traced.
    gate: UnixStream,
}

impl Stage {
    /// Forks it. To be called before this process has a thread or a table.
    pub(super) fn fork() -> io::Result<Self> {
        let (orders, their_orders) = UnixStream::pair()?;
        let (gate, their_gate) = UnixStream::pair()?;
        if sys::fork().is_none() {
            drop((orders, gate));
            // Slower where it is refused, and no worse.
            let _ = tracee::share_a_processor();
            let served = serve(their_orders, &their_gate);
            sys::leave(i32::from(served.is_err()));
        }
        Ok(Self {
            orders: BufReader::new(orders),
            gate,
        })
    }

    /// A victim that stands before its deed, at the gate. Its process id.
    pub(super) fn victim(&mut self, deed: Deed, path: &Path, word: &str) -> io::Result<u32> {
        let order = format!("{deed:?}\t{}\t{word}\n", path.display());
        self.orders.get_mut().write_all(order.as_bytes())?;
        let mut pid = String::new();
        self.orders.read_line(&mut pid)?;
        let pid = pid.trim().parse();
        pid.map_err(|_| io::ErrorKind::UnexpectedEof.into())
    }

    /// Lets the victim through the gate.
    pub(super) fn open_gate(&mut self) -> io::Result<()> {
        self.gate.write_all(b"g")
    }

    /// A process that holds the lock, and does nothing else.
    pub(super) fn holder(&mut self, path: &Path, lock: &str) -> io::Result<u32> {
        let pid = self.victim(Deed::Hold, path, lock)?;
        self.open_gate()?;
        self.gate.read_exact(&mut [0])?;
        Ok(pid)
    }
}

fn serve(orders: UnixStream, gate: &UnixStream) -> io::Result<()> {
    sys::reap_automatically();
    sys::die_with_parent();
    // Drawn once here, so that no child draws seeds of its own and takes another path.
    drop(std::collections::HashSet::<u32>::new());
    let mut orders = BufReader::new(orders);
    loop {
        let mut order = String::new();
        if orders.read_line(&mut order)? == 0 {
            return Ok(());
        }
        match sys::fork() {
            Some(pid) => writeln!(orders.get_mut(), "{pid}")?,
            None => {
                sys::die_with_parent();
                let played = play(order.trim_end(), gate);
                if let Err(error) = &played {
                    eprintln!("a victim failed, {}: {error}", order.trim_end());
                }
                sys::leave(i32::from(played.is_err()));
            }
        }
    }
}

fn play(order: &str, mut gate: &UnixStream) -> io::Result<()> {
    let mut parts = order.split('\t');
    let mut part = || parts.next().ok_or(io::ErrorKind::InvalidData);
    let (deed, path, word) = (Deed::named(part()?)?, PathBuf::from(part()?), part()?);
    gate.read_exact(&mut [0])?;
    match deed {
        Deed::Create => between_marks(|| created().create(&path)).map_err(io::Error::other),
        Deed::Open => {
            let options = LockTable::options();
            let table = between_marks(|| options.open_existing(&path));
            table.map(drop).map_err(io::Error::other)
        }
        _ => {
            let table = LockTable::options().open_existing(&path);
            attached(deed, table.map_err(io::Error::other)?, word, gate)
        }
    }
}

/// What is done with a session.
fn attached(deed: Deed, table: LockTable, word: &str, mut gate: &UnixStream) -> io::Result<()> {
    match deed {
        Deed::Name => {
            between_marks(|| table.lock(word)).map_err(io::Error::other)?;
            return Ok(());
        }
        Deed::Force => {
            let (name, token) = word.split_once(' ').ok_or(io::ErrorKind::InvalidData)?;
            let token: u64 = token.parse().map_err(io::Error::other)?;
            between_marks(|| table.force_release(name, token)).map_err(io::Error::other)?;
            return Ok(());
        }
        Deed::Detach => {
            between_marks(|| drop(table));
            return Ok(());
        }
        _ => {}
    }
    let lock = table.lock(word).map_err(io::Error::other)?;
    match deed {
        // Whether it gets the lock is the table's to say.
        Deed::Try => std::mem::forget(between_marks(|| lock.try_acquire())),
        Deed::Acquire => std::mem::forget(between_marks(|| lock.acquire())),
        Deed::Evict => {
            // Ten gaps between eleven looks make a lease, and one and a half each a
            // twentieth of it is not counted in full: the last look evicts.
            for _ in 0..10 {
                drop(lock.try_acquire());
                thread::sleep(LEASE / 10 + LEASE / 50);
            }
            std::mem::forget(between_marks(|| lock.try_acquire()));
        }
        Deed::Release => {
            let guard = lock.acquire().map_err(io::Error::other)?;
            between_marks(|| guard.release()).map_err(io::Error::other)?;
        }
        _ => {
            std::mem::forget(lock.acquire().map_err(io::Error::other)?);
            gate.write_all(b"h")?;
            loop {
                thread::sleep(Duration::from_secs(3600));
            }
        }
    }
    Ok(())
}

/// Does it between two breakpoints, which stop whoever is traced.
#[inline(never)]
fn between_marks<T>(deed: impl FnOnce() -> T) -> T {
    sys::breakpoint();
    let done = deed();
    sys::breakpoint();
    done
}
