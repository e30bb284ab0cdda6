//! Somebody writes into the table while others use it.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use caslock::Inspector;

use super::image::{BOOT_ID, Image};
use super::{mutate, user, worker};
use crate::soak::dice::Dice;

/// Uses the table with three threads for so many seconds, whatever becomes of it.
pub(super) fn be_scribbled_on(path: &Path, seed: u64, seconds: u64) -> anyhow::Result<()> {
    let end = Instant::now() + Duration::from_secs(seconds);
    let rounds = thread::scope(|scope| {
        let threads = (0..3).map(|thread| scope.spawn(move || use_until(path, seed, thread, end)));
        let threads = threads.collect::<Vec<_>>();
        let rounds = threads.into_iter().map(std::thread::ScopedJoinHandle::join);
        rounds
            .map(|rounds| rounds.map_err(|_| anyhow::anyhow!("a user panicked")))
            .sum::<Result<u64, _>>()
    })?;
    println!("rounds {rounds}");
    println!("peak {}", worker::peak_kib()?);
    Ok(())
}

fn use_until(path: &Path, seed: u64, thread: u64, end: Instant) -> u64 {
    let mut dice = Dice::new(seed, 1000 + thread);
    let mut rounds = 0;
    while Instant::now() < end {
        let Some(table) = worker::try_open(path) else {
            // Scribbled into the header's check, say; it is put right now and then.
            thread::sleep(Duration::from_millis(1));
            continue;
        };
        for _ in 0..100 {
            user::work(&table, &mut dice);
            rounds += 1;
            if Instant::now() >= end {
                break;
            }
        }
        if let Ok(inspector) = Inspector::open(path) {
            std::hint::black_box(format!("{:?}", inspector.snapshot()));
        }
    }
    rounds
}

/// Writes into the table until then: words at random, and now and then whole mutations,
/// over what is there. The header's beginning, which is read when the table is opened and
/// never again, is put right now and then, so that users come in. How many writes.
pub(super) fn scribble(path: &Path, base: &Image, seed: u64, end: Instant) -> anyhow::Result<u64> {
    let file = File::options().write(true).open(path)?;
    let mut dice = Dice::new(seed, 0);
    let bases = [base.clone()];
    let mut writes = 0;
    while Instant::now() < end {
        for _ in 0..200 {
            let at = dice.below(base.bytes.len() as u64 - 8);
            let at = if dice.percent(99) { at & !7 } else { at };
            file.write_all_at(&dice.next().to_ne_bytes(), at)?;
            writes += 1;
        }
        // The slots, the index and the names as a mutated image has them, or as they were.
        let number = dice.next();
        let image = match dice.percent(50) {
            true => mutate::make(&bases, seed, number),
            false => base.clone(),
        };
        // The file keeps its length: a mapping that is cut off is another matter.
        let len = image.bytes.len().min(base.bytes.len());
        if len > BOOT_ID {
            file.write_all_at(&image.bytes[BOOT_ID..len], BOOT_ID as u64)?;
            writes += 1;
        }
        file.write_all_at(&base.bytes[..BOOT_ID + 16], 0)?;
        // So that users have something to do between two strokes.
        thread::sleep(Duration::from_micros(dice.below(2000)));
    }
    Ok(writes)
}
