//! The role that most children play: it does to the library what the test tells it, a
//! command at a time, and answers in words. Here is also the test's half: what a grant and
//! a refusal look like from the other end of the wire.

use std::collections::HashMap;
use std::fmt;
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::ptr::NonNull;
use std::str::FromStr;
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use caslock::{AcquireError, Guard, Holder, Lock, LockTable, Lost, LostHow, Options, Previous};

use super::{Boss, Child, Isolation, sys, variant};

/// What a new owner was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Grant {
    pub(crate) token: u64,
    /// `none`, `released`, `died`, `panicked`, `expired` or `forced`.
    pub(crate) previous: String,
    /// Process id and token of a predecessor that did not release; else zeroes.
    pub(crate) departed: (u32, u64),
}

impl Grant {
    pub(crate) fn of(guard: &Guard<'_>) -> Self {
        let departed = guard.previous().departed();
        Self {
            token: guard.token().0,
            previous: how(&guard.previous()).to_owned(),
            departed: departed.map_or((0, 0), |who| (who.pid, who.token.0)),
        }
    }
}

fn how(previous: &Previous) -> &'static str {
    match previous {
        Previous::Died(who) if who.panicked => "panicked",
        _ => previous.as_str(),
    }
}

impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (pid, token) = self.departed;
        write!(f, "granted {} {} {pid} {token}", self.token, self.previous)
    }
}

impl FromStr for Grant {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        let words: Vec<_> = line.split(' ').collect();
        let ["granted", token, previous, pid, departed] = words[..] else {
            return Err(line.to_owned());
        };
        Ok(Self {
            token: token.parse().expect("a token"),
            previous: previous.to_owned(),
            departed: (
                pid.parse().expect("a pid"),
                departed.parse().expect("a token"),
            ),
        })
    }
}

/// Why a lock was not granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// The error's variant.
    pub(crate) error: String,
    /// Process id and token of the holder that it names; else zeroes.
    pub(crate) holder: (u32, u64),
}

impl Refusal {
    pub(crate) fn of(error: &AcquireError) -> Self {
        let of = |holder: &Holder| (holder.pid, holder.token.0);
        Self {
            error: variant(error),
            holder: match error {
                AcquireError::Busy { holder, .. } | AcquireError::TimedOut { holder, .. } => {
                    of(holder)
                }
                _ => (0, 0),
            },
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.error, self.holder.0, self.holder.1)
    }
}

/// A grant that was lost, in words: `vacated HOW`, `taken-over PID`, `gone`, `forked`.
pub(crate) fn lost_words(lost: &Lost) -> String {
    match lost.how {
        LostHow::Vacated(previous) => format!("vacated {}", how(&previous)),
        LostHow::TakenOver(holder) => format!("taken-over {}", holder.pid),
        LostHow::Gone => "gone".to_owned(),
        LostHow::Forked => "forked".to_owned(),
        how => panic!("a way to lose that the tests do not know: {how:?}"),
    }
}

/// The test's half.
impl Child {
    /// A puppet that is attached to the table at `path`.
    pub(crate) fn puppet(path: &Path) -> Self {
        Self::puppet_in(path, Isolation::default()).expect("a child process")
    }

    pub(crate) fn puppet_in(path: &Path, how: Isolation) -> std::io::Result<Self> {
        let mut child = Self::start_in("puppet", how)?;
        child.open(path);
        Ok(child)
    }

    /// Has it attach; its session's index.
    pub(crate) fn open(&mut self, path: &Path) -> u32 {
        let answer = self.ask(format!("open {}", path.display()));
        let session = answer.strip_prefix("session ");
        session
            .unwrap_or_else(|| panic!("{answer}"))
            .parse()
            .expect("an index")
    }

    pub(crate) fn acquire(&mut self, name: &str) -> Grant {
        self.ask(format!("acquire {name}"))
            .parse()
            .expect("a grant")
    }

    pub(crate) fn try_acquire(&mut self, name: &str) -> Result<Grant, Refusal> {
        let answer = self.ask(format!("try {name}"));
        outcome(&answer)
    }

    pub(crate) fn acquire_within(&mut self, name: &str, limit: Duration) -> Result<Grant, Refusal> {
        let answer = self.ask(format!("timeout {} {name}", limit.as_millis()));
        outcome(&answer)
    }

    pub(crate) fn is_held(&mut self, name: &str) -> bool {
        self.ask(format!("held {name}")) == "true"
    }

    /// `released`, or how it was lost.
    pub(crate) fn release(&mut self, name: &str) -> String {
        self.ask(format!("release {name}"))
    }
}

/// Reads an answer to `acquire`, `try` or `timeout`.
pub(crate) fn outcome(answer: &str) -> Result<Grant, Refusal> {
    answer.parse().map_err(|_| {
        let words: Vec<_> = answer.split(' ').collect();
        let [error, pid, token] = words[..] else {
            panic!("{answer}");
        };
        let holder = (pid.parse().expect("a pid"), token.parse().expect("a token"));
        Refusal {
            error: error.to_owned(),
            holder,
        }
    })
}

/// The child's half: plays until the wire ends.
pub(crate) fn puppet(boss: &mut Boss) {
    let mut stage = Stage::new(LockTable::options());
    loop {
        let line = boss.hear();
        let answer = stage.play(&line);
        boss.say(answer);
    }
}

/// What a puppet has: a table, locks and grants by name.
pub(crate) struct Stage {
    options: Options,
    pub(crate) table: Option<LockTable>,
    guards: HashMap<String, Guard<'static>>,
    /// Leaked, so that guards can be kept beside them, until `close`.
    locks: HashMap<String, NonNull<Lock>>,
    losses: HashMap<String, Receiver<String>>,
}

impl Stage {
    pub(crate) fn new(options: Options) -> Self {
        Self {
            options,
            table: None,
            guards: HashMap::new(),
            locks: HashMap::new(),
            losses: HashMap::new(),
        }
    }

    /// Does what a line says and answers with a line.
    pub(crate) fn play(&mut self, line: &str) -> String {
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        match verb {
            "open" => self.open(Path::new(rest)),
            "try" => self.take(rest, Lock::try_acquire),
            "acquire" => self.take(rest, Lock::acquire),
            "timeout" => {
                let (ms, name) = rest.split_once(' ').expect("a time and a name");
                let limit = Duration::from_millis(ms.parse().expect("milliseconds"));
                self.take(name, |lock| lock.acquire_timeout(limit))
            }
            "take" => self.take_many(rest),
            "held" => self.guards[rest].is_held().to_string(),
            "release" => match self.guard(rest).release() {
                Ok(()) => "released".to_owned(),
                Err(lost) => lost_words(&lost),
            },
            "drop" => {
                drop(self.guard(rest));
                "dropped".to_owned()
            }
            "panic" => self.panic_holding(rest),
            "watch" => self.watch(rest),
            "loss" => self.losses[rest].recv().expect("the guard lives"),
            "note" => {
                let (name, note) = rest.split_once(' ').expect("a name and a note");
                let noted = self.guards[name].set_note(note);
                noted.map_or_else(|e| variant(&e), |()| "noted".to_owned())
            }
            "clock" => sys::monotonic_secs().to_string(),
            "close" => self.close(),
            _ => panic!("no such command: {line}"),
        }
    }

    fn open(&mut self, path: &Path) -> String {
        match self.options.clone().open(path) {
            Ok(table) => {
                let session = table.session();
                self.table = Some(table);
                format!("session {session}")
            }
            Err(e) => variant(&e),
        }
    }

    /// A lock of the table, until `close`.
    fn lock(&mut self, name: &str) -> Result<&'static Lock, String> {
        let table = self.table.as_ref().expect("an open table");
        if !self.locks.contains_key(name) {
            let lock = table
                .lock(name)
                .map_err(|e| format!("{} 0 0", variant(&e)))?;
            let lock = NonNull::from(Box::leak(Box::new(lock)));
            self.locks.insert(name.to_owned(), lock);
        }
        // SAFETY: leaked above, and nobody keeps it beyond `close`.
        Ok(unsafe { self.locks[name].as_ref() })
    }

    /// Lets go of everything: the session ends.
    fn close(&mut self) -> String {
        self.guards.clear();
        for (_, lock) in self.locks.drain() {
            // SAFETY: leaked by `lock`, and the guards that borrowed it are gone.
            drop(unsafe { Box::from_raw(lock.as_ptr()) });
        }
        self.table = None;
        "closed".to_owned()
    }

    fn take(
        &mut self,
        name: &str,
        acquire: impl FnOnce(&'static Lock) -> Result<Guard<'static>, AcquireError>,
    ) -> String {
        let lock = match self.lock(name) {
            Ok(lock) => lock,
            Err(refused) => return refused,
        };
        match acquire(lock) {
            Ok(guard) => {
                let grant = Grant::of(&guard);
                self.guards.insert(name.to_owned(), guard);
                grant.to_string()
            }
            Err(e) => Refusal::of(&e).to_string(),
        }
    }

    /// `take COUNT PREFIX`: acquires `PREFIX0`, `PREFIX1` and so on; answers with the tokens.
    fn take_many(&mut self, rest: &str) -> String {
        let (count, prefix) = rest.split_once(' ').expect("a count and a prefix");
        let count: usize = count.parse().expect("a count");
        let grants = (0..count).map(|i| self.take(&format!("{prefix}{i}"), Lock::acquire));
        let tokens = grants.map(|line| line.parse::<Grant>().expect("a grant").token.to_string());
        tokens.collect::<Vec<_>>().join(" ")
    }

    fn guard(&mut self, name: &str) -> Guard<'static> {
        self.guards.remove(name).expect("a guard of that name")
    }

    /// A panic in the critical section, caught further out: the process lives on.
    fn panic_holding(&mut self, name: &str) -> String {
        let guard = self.guard(name);
        // As a panic unwinds, without its message on the terminal.
        let section = panic::catch_unwind(AssertUnwindSafe(move || {
            let _guard = guard;
            panic::resume_unwind(Box::new("half way through the section"));
        }));
        assert!(section.is_err());
        "panicked".to_owned()
    }

    /// Has the library call when the grant is lost; `loss` waits for that.
    fn watch(&mut self, name: &str) -> String {
        let (tell, told) = mpsc::channel();
        self.guards[name].on_lost(move |lost| {
            let _ = tell.send(format!(
                "{} {} {}",
                lost.name,
                lost.token,
                lost_words(&lost)
            ));
        });
        self.losses.insert(name.to_owned(), told);
        "watching".to_owned()
    }
}
