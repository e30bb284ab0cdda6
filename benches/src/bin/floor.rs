//! What the least that a lock does beside a bare pair of compare-and-swaps costs on this
//! processor: a load, a store, a word that is never the same twice, a way to the word.
//!
//! ```text
//! cargo run --release -p caslock-bench --bin floor [-- ROUNDS]
//! ```
//!
//! A lock whose free word says which grant was the last, so that a stale owner can never pass
//! for the present one, has to read it before each pair or to remember it since the last. A
//! reading waits for the release before it; a memory is a store, and a locked instruction
//! waits until the stores before it are in the cache. Where either is dear, no such lock comes
//! near the bare pair, and the last lines are what it can come near to: with a time stamp on
//! the lock's line as well, and with the word found through pointers, as by a handle.

use std::hint::black_box;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU64, Ordering};
use std::time::Instant;

use caslock_bench::Failure;
use caslock_bench::stats::{Sample, as_nanoseconds, machine};

/// About a quarter of a millisecond: long against a clock read, short against a time slice.
const PAIRS: u32 = 15_000;

/// A word to swap, and one beside it on its cache line.
#[repr(align(128))]
#[derive(Default)]
struct Line {
    word: AtomicU64,
    beside: AtomicU64,
}

#[derive(Default)]
struct Lines {
    lock: Line,
    own: Line,
}

/// Does all the pairs.
type Pairs = fn(&Lines);

const CASES: [(&str, Pairs); 8] = [
    ("bare", bare),
    ("a load inside", load_inside),
    ("a store inside, same line", store_inside),
    ("a store after, other line", store_after),
    ("changing word, read", read),
    ("changing word, remembered", remembered),
    ("remembered, store inside", remembered_and_stored),
    ("and found by three loads", found),
];

fn main() -> Result<(), Failure> {
    let rounds: usize = std::env::args()
        .nth(1)
        .map_or(Ok(1000), |arg| arg.parse())?;
    println!("{}; {rounds} rounds\n", machine());
    let lines = Lines::default();
    let mut taken = CASES.map(|_| Vec::new());
    for round in 0..rounds.max(1) {
        for turn in 0..CASES.len() {
            let case = (round + turn) % CASES.len();
            [&lines.lock, &lines.own]
                .into_iter()
                .for_each(|line| line.word.store(0, Ordering::Relaxed));
            let begun = Instant::now();
            CASES[case].1(black_box(&lines));
            taken[case].push(as_nanoseconds(begun.elapsed()) / f64::from(PAIRS));
        }
    }
    println!("{:<28} {:>9} {:>9}", "", "ns a pair", "x bare");
    for ((name, _), own) in CASES.iter().zip(&taken) {
        println!(
            "{name:<28} {:>9.1} {:>9.2}",
            Sample::new(own.clone()).median(),
            Sample::of_ratios(own, &taken[0]).median()
        );
    }
    Ok(())
}

#[inline(always)]
fn swap(word: &AtomicU64, from: u64, to: u64) {
    let swapped = word.compare_exchange(from, to, Ordering::AcqRel, Ordering::Relaxed);
    assert!(swapped.is_ok(), "nobody else is about");
}

#[inline(never)]
fn bare(lines: &Lines) {
    for _ in 0..PAIRS {
        swap(&lines.lock.word, 0, 1);
        swap(&lines.lock.word, 1, 0);
    }
}

#[inline(never)]
fn load_inside(lines: &Lines) {
    for _ in 0..PAIRS {
        swap(&lines.lock.word, 0, 1);
        // Not handed to a black box, which would store it.
        assert!(lines.lock.beside.load(Ordering::Acquire) < 2);
        swap(&lines.lock.word, 1, 0);
    }
}

#[inline(never)]
fn store_inside(lines: &Lines) {
    for _ in 0..PAIRS {
        swap(&lines.lock.word, 0, 1);
        lines.lock.beside.store(1, Ordering::Relaxed);
        swap(&lines.lock.word, 1, 0);
    }
}

#[inline(never)]
fn store_after(lines: &Lines) {
    for _ in 0..PAIRS {
        swap(&lines.lock.word, 0, 1);
        swap(&lines.lock.word, 1, 0);
        lines.own.beside.store(1, Ordering::Relaxed);
    }
}

/// Two more at each pair: odd while it is held.
#[inline(never)]
fn read(lines: &Lines) {
    for _ in 0..PAIRS {
        let seen = lines.lock.word.load(Ordering::Acquire);
        swap(&lines.lock.word, seen, seen + 1);
        swap(&lines.lock.word, seen + 1, seen + 2);
    }
}

#[inline(never)]
fn remembered(lines: &Lines) {
    for _ in 0..PAIRS {
        let last = lines.own.word.load(Ordering::Acquire);
        swap(&lines.lock.word, last, last + 1);
        swap(&lines.lock.word, last + 1, last + 2);
        lines.own.word.store(last + 2, Ordering::Release);
    }
}

#[inline(never)]
fn remembered_and_stored(lines: &Lines) {
    for _ in 0..PAIRS {
        pair_with_stores(&lines.lock, &lines.own);
    }
}

#[inline(never)]
fn found(lines: &Lines) {
    let one = AtomicPtr::new(ptr::from_ref(&lines.lock).cast_mut());
    let two = AtomicPtr::new(ptr::from_ref(&one).cast_mut());
    let three = black_box(AtomicPtr::new(ptr::from_ref(&two).cast_mut()));
    for _ in 0..PAIRS {
        // SAFETY:
        // - each leads to the next, which outlives the loop, and the last to a line.
        let lock = unsafe {
            let two = &*three.load(Ordering::Relaxed);
            let one = &*two.load(Ordering::Relaxed);
            &*one.load(Ordering::Relaxed)
        };
        pair_with_stores(lock, &lines.own);
    }
}

#[inline(always)]
fn pair_with_stores(lock: &Line, own: &Line) {
    let last = own.word.load(Ordering::Acquire);
    swap(&lock.word, last, last + 1);
    own.word.store(last + 2, Ordering::Release);
    lock.beside.store(1, Ordering::Relaxed);
    swap(&lock.word, last + 1, last + 2);
}
