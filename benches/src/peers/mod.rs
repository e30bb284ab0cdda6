//! The locks that caslock is measured beside, each behind the same trait.
//!
//! A peer lives in a directory, so that any number of processes can open it. Its own rules
//! are kept: a robust mutex whose owner died is made consistent before it is used, a
//! semaphore that undoes is told to at every step.

mod cas;
mod caslock;
mod crates;
mod file;
mod page;
mod pthread;
mod redis;
mod semaphore;
mod sysv;

pub use self::cas::{BareCas, SpinLock};
pub use self::caslock::Caslock;
pub use self::crates::{Fs4, Named};
pub use self::file::{Flock, Ofd};
pub use self::page::Page;
pub use self::pthread::{Mutex, Mutexes, RobustMutex};
pub use self::redis::Redis;
pub use self::semaphore::Semaphore;
pub use self::sysv::Sysv;

use std::path::Path;

use crate::Failure;

/// A lock that several processes share.
pub trait Peer: Sized {
    /// Holds the lock; dropping it gives the lock back.
    type Guard<'a>
    where
        Self: 'a;

    /// Makes the lock in a directory that has none, and opens it. What it needs (a file, a
    /// server) goes when this value is dropped, or with the directory.
    ///
    /// # Errors
    /// What the kernel or a library answers, for instance that a program is not installed.
    fn create(dir: &Path) -> Result<Self, Failure>;

    /// Opens a lock that has been made.
    ///
    /// # Errors
    /// What the kernel or a library answers.
    fn open(dir: &Path) -> Result<Self, Failure>;

    /// Takes the lock, waiting as long as it takes.
    fn take(&self) -> Self::Guard<'_>;

    /// Whether the lock said that its last holder died with it; `None` if it never says.
    fn died(_guard: &Self::Guard<'_>) -> Option<bool> {
        None
    }
}

/// Does something with a peer's type.
pub trait Visitor {
    /// What comes of it.
    type Output;

    /// Does it.
    fn visit<P: Peer + 'static>(self) -> Self::Output;
}

macro_rules! peers {
    ($($variant:ident => $key:literal, $label:literal, $after_death:ident, $type:ty;)*) => {
        /// A peer, by name.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, clap::ValueEnum)]
        pub enum Name {
            $(#[doc = $label] #[value(name = $key)] $variant,)*
        }

        impl Name {
            /// Every peer, in the order of the tables.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The name on the command line and in the CSV.
            #[must_use]
            pub const fn key(self) -> &'static str {
                match self { $(Self::$variant => $key,)* }
            }

            /// The name in tables and plots.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self { $(Self::$variant => $label,)* }
            }

            /// What becomes of the lock when its holder dies.
            #[must_use]
            pub const fn after_death(self) -> AfterDeath {
                match self { $(Self::$variant => AfterDeath::$after_death,)* }
            }

            /// Calls the visitor with the peer's type.
            pub fn dispatch<V: Visitor>(self, visitor: V) -> V::Output {
                match self { $(Self::$variant => visitor.visit::<$type>(),)* }
            }
        }
    };
}

/// What becomes of a lock when its holder dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterDeath {
    /// It stays locked for ever.
    Stuck,
    /// The kernel frees it: what this crate calls crash-safe.
    Freed,
    /// It stays locked until a time to live has run out, dead holder or not.
    TimesOut,
}

peers! {
    Caslock => "caslock", "caslock", Freed, Caslock;
    BareCas => "bare-cas", "bare CAS", Stuck, BareCas;
    Spin => "spin", "spin lock, backoff", Stuck, SpinLock;
    Pthread => "pthread", "pthread mutex, shared", Stuck, Mutex;
    Robust => "robust", "pthread mutex, robust", Freed, RobustMutex;
    Semaphore => "semaphore", "POSIX semaphore", Stuck, Semaphore;
    Sysv => "sysv", "SysV semaphore, undo", Freed, Sysv;
    Flock => "flock", "flock", Freed, Flock;
    Ofd => "ofd", "fcntl, OFD", Freed, Ofd;
    Fs4 => "fs4", "fs4 (crate)", Freed, Fs4;
    Named => "named-lock", "named-lock (crate)", Freed, Named;
    Redis => "redis", "Redis, SET NX PX", TimesOut, Redis;
}

impl Name {
    /// Whether the kernel frees the lock of a holder that died.
    #[must_use]
    pub fn is_crash_safe(self) -> bool {
        self.after_death() == AfterDeath::Freed
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.label())
    }
}
