//! The kernel's futex as the models have it.
//!
//! Comparing a word and lying down on it are one step, as they are under the kernel's
//! bucket lock, and a wake takes the one that has slept longest. A sleep on two words, as
//! by `FUTEX_WAITV`, looks at one after the other, and may be woken at the first before it
//! has looked at the second. There is no timeout but by [`Futex::poll_passes`]: a wake
//! that is lost leaves a sleeper for ever, which loom reports as a deadlock.

use std::cell::Cell;
use std::sync::{Mutex, MutexGuard};

use loom::thread::{self, Thread};

use crate::atomic::AtomicU32;

/// How a sleep ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// A word was not what it was expected to be.
    Changed,
    /// By a wake, at the word of this number.
    Woken(usize),
    /// By time: a poll interval was over.
    Polled,
}

/// One that sleeps, or is about to.
#[derive(Debug)]
struct Sleeper {
    thread: Thread,
    /// The words, by their addresses, which only tell them apart.
    words: Vec<usize>,
    ticket: u64,
}

/// Who sleeps on which words.
#[derive(Debug, Default)]
pub struct Futex {
    // A std mutex, so that it orders nothing in the model; it is never held at a switch.
    beds: Mutex<Beds>,
}

#[derive(Debug, Default)]
struct Beds {
    /// In the order in which they lay down.
    sleepers: Vec<Sleeper>,
    /// Those that were woken and have not seen it yet.
    ended: Vec<(u64, Ended)>,
    tickets: u64,
    /// How many poll intervals have passed.
    intervals: u64,
}

impl Futex {
    /// How many poll intervals have passed.
    pub fn intervals(&self) -> u64 {
        self.beds().intervals
    }

    /// Sleeps for as long as each word is what is expected of it, until woken at one, or
    /// until another interval than `begun` has passed.
    pub fn wait(&self, words: &[(&AtomicU32, u32)], begun: u64) -> Ended {
        let ticket = Cell::new(None);
        for &(word, expected) in words {
            if word.newest(!expected) != expected {
                // Woken at an earlier word meanwhile: the wake is not lost.
                return ticket
                    .get()
                    .and_then(|ticket| self.rise(ticket))
                    .unwrap_or(Ended::Changed);
            }
            match ticket.get() {
                None => ticket.set(Some(self.lie_down(word))),
                Some(ticket) => self.stretch(ticket, word),
            }
        }
        let ticket = ticket.get().expect("a sleep is on some word");
        loop {
            if let Some(ended) = self.beds().take_ended(ticket) {
                return ended;
            }
            if self.intervals() != begun {
                return self.rise(ticket).unwrap_or(Ended::Polled);
            }
            thread::park();
        }
    }

    /// Wakes one that sleeps on `word`; false if there is none. Which one the kernel takes is
    /// not promised anywhere; the models need no such promise.
    pub fn wake_one(&self, word: &AtomicU32) -> bool {
        let at = address(word);
        let mut beds = self.beds();
        let on_it = |sleeper: &Sleeper| sleeper.words.contains(&at);
        let Some(place) = beds.sleepers.iter().position(on_it) else {
            return false;
        };
        let sleeper = beds.sleepers.remove(place);
        let word = sleeper.words.iter().position(|&word| word == at);
        let ended = Ended::Woken(word.expect("it sleeps on it"));
        beds.ended.push((sleeper.ticket, ended));
        drop(beds);
        sleeper.thread.unpark();
        true
    }

    /// A poll interval is over for everybody who sleeps now.
    pub fn poll_passes(&self) {
        let mut beds = self.beds();
        beds.intervals += 1;
        let sleepers = std::mem::take(&mut beds.sleepers);
        let polled = |sleeper: &Sleeper| (sleeper.ticket, Ended::Polled);
        beds.ended.extend(sleepers.iter().map(polled));
        drop(beds);
        for sleeper in sleepers {
            sleeper.thread.unpark();
        }
    }

    fn lie_down(&self, word: &AtomicU32) -> u64 {
        let mut beds = self.beds();
        beds.tickets += 1;
        let ticket = beds.tickets;
        beds.sleepers.push(Sleeper {
            thread: thread::current(),
            words: vec![address(word)],
            ticket,
        });
        ticket
    }

    /// Sleeps on another word, too, unless it was woken meanwhile.
    fn stretch(&self, ticket: u64, word: &AtomicU32) {
        let mut beds = self.beds();
        let me = |sleeper: &&mut Sleeper| sleeper.ticket == ticket;
        if let Some(sleeper) = beds.sleepers.iter_mut().find(me) {
            sleeper.words.push(address(word));
        }
    }

    /// Gets up before having slept; says how it was woken, if it was.
    fn rise(&self, ticket: u64) -> Option<Ended> {
        let mut beds = self.beds();
        beds.sleepers.retain(|sleeper| sleeper.ticket != ticket);
        beds.take_ended(ticket)
    }

    fn beds(&self) -> MutexGuard<'_, Beds> {
        self.beds.lock().expect("no sleeper panics here")
    }
}

impl Beds {
    fn take_ended(&mut self, ticket: u64) -> Option<Ended> {
        let place = self.ended.iter().position(|ended| ended.0 == ticket)?;
        Some(self.ended.remove(place).1)
    }
}

fn address(word: &AtomicU32) -> usize {
    std::ptr::from_ref(word).addr()
}
