//! A table's bytes, and where the format says that things are. The offsets are written
//! down here once more on purpose: a mutator that asked the library would follow its
//! mistakes.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::ensure;
use caslock::{LockTable, Options, Reclaim};

/// The header's words before this one are covered by its check.
pub(super) const CHECK: usize = 104;
pub(super) const TABLE_ID: usize = 32;
pub(super) const SLOTS: usize = 64;
pub(super) const SESSIONS: usize = 72;
pub(super) const INDEX_CAPACITY: usize = 80;
pub(super) const BOOT_ID: usize = 112;
pub(super) const FLOOR: usize = 128;
pub(super) const INTENT: usize = 136;

const HEADER_BYTES: usize = 4096;
pub(super) const SESSION_BYTES: usize = 256;
pub(super) const SLOT_BYTES: usize = 64;
pub(super) const NAME_BYTES: usize = 384;

/// How many names a table of the campaign can have, and how many sessions.
const GEOMETRY: (u32, u32) = (12, 4);

/// A table's bytes.
#[derive(Clone)]
pub(super) struct Image {
    pub(super) bytes: Vec<u8>,
    pub(super) sessions: usize,
    pub(super) index: usize,
    pub(super) slots: usize,
}

impl Image {
    fn read(path: &Path) -> anyhow::Result<Self> {
        let bytes = fs::read(path)?;
        let mut image = Self {
            bytes,
            sessions: 0,
            index: 0,
            slots: 0,
        };
        image.sessions = usize::try_from(image.word(SESSIONS))?;
        image.index = usize::try_from(image.word(INDEX_CAPACITY))?;
        image.slots = usize::try_from(image.word(SLOTS))? + 1;
        let end = image.name_at(image.slots).next_multiple_of(HEADER_BYTES);
        ensure!(
            image.bytes.len() == end,
            "the format is not the one that this mutator knows"
        );
        Ok(image)
    }

    pub(super) const fn session_at(&self, session: usize) -> usize {
        HEADER_BYTES + session * SESSION_BYTES
    }

    pub(super) const fn index_at(&self, entry: usize) -> usize {
        self.session_at(self.sessions) + entry * 8
    }

    pub(super) const fn slot_at(&self, slot: usize) -> usize {
        self.index_at(self.index) + slot * SLOT_BYTES
    }

    pub(super) const fn name_at(&self, slot: usize) -> usize {
        self.slot_at(self.slots) + slot * NAME_BYTES
    }

    pub(super) fn word(&self, at: usize) -> u64 {
        let bytes = self.bytes.get(at..).and_then(|bytes| bytes.first_chunk());
        bytes.copied().map_or(0, u64::from_ne_bytes)
    }

    /// Beyond the end, which a truncated image has moved, there is nothing to put.
    pub(super) fn put(&mut self, at: usize, word: u64) {
        if let Some(to) = self
            .bytes
            .get_mut(at..)
            .and_then(|bytes| bytes.first_chunk_mut())
        {
            *to = word.to_ne_bytes();
        }
    }

    /// Makes the header's check match again: FNV-1a of what stands before it.
    pub(super) fn put_check(&mut self) {
        let Some(checked) = self.bytes.get(..CHECK) else {
            return;
        };
        let check = checked.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, &b| {
            (hash ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        self.put(CHECK, check);
    }
}

/// Images that real use leaves: what the mutations begin with.
///
/// Two campaigns of one seed begin with the same tables but for process ids and times.
pub(super) fn bases(dir: &Path) -> anyhow::Result<Vec<Image>> {
    let lease = Duration::from_millis(100);
    let mut bases = Vec::new();
    for reclaim in [Reclaim::OnDeath, Reclaim::OnExpiry { lease }] {
        let path = dir.join(format!("base-{}.table", bases.len()));
        let (slots, sessions) = GEOMETRY;
        let options = LockTable::options().slots(slots).sessions(sessions);
        let options = options.reclaim(reclaim);
        options.create(&path)?;
        bases.push(with_known_ids(&path)?);
        bases.extend(lived_in(&path, &options)?);
    }
    // Every session died attached: to attach means to sweep.
    let mut crowded = bases[2].clone();
    for session in 0..crowded.sessions {
        crowded.put(crowded.session_at(session), 7);
    }
    bases.push(crowded);
    Ok(bases)
}

/// Gives a new table an id and a hash key that every campaign has.
fn with_known_ids(path: &Path) -> anyhow::Result<Image> {
    let mut image = Image::read(path)?;
    for word in 0..4 {
        image.put(TABLE_ID + 8 * word, 0x0101_0101_0101_0101 << word);
    }
    image.put_check();
    fs::write(path, &image.bytes)?;
    Ok(image)
}

/// A few lives of one table: held with notes and a waiter, released, full, recycled. In a
/// copy the holders have no byte locks, so they are dead there.
fn lived_in(path: &Path, options: &Options) -> anyhow::Result<Vec<Image>> {
    let mut images = Vec::new();
    let table = options.clone().open_existing(path)?;
    let locks = (0..5)
        .map(|i| table.lock(name(i)))
        .collect::<Result<Vec<_>, _>>()?;
    let guards = locks[..3]
        .iter()
        .map(|lock| {
            let guard = lock.acquire()?;
            guard.set_note("half way through")?;
            Ok(guard)
        })
        .collect::<anyhow::Result<Vec<_>>>()?;
    thread::scope(|scope| {
        let waiter = scope.spawn(|| locks[0].acquire_timeout(Duration::from_secs(20)).is_ok());
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(10) {
            let snapshot = table.inspect()?;
            if snapshot.slot(&name(0)).is_some_and(|slot| slot.waiters > 0) {
                break;
            }
            thread::sleep(Duration::from_millis(1));
        }
        images.push(Image::read(path)?);
        drop(guards);
        ensure!(waiter.join().is_ok_and(|granted| granted), "no grant");
        Ok(())
    })?;
    images.push(Image::read(path)?);
    for i in 5..GEOMETRY.0 {
        table.lock(name(i))?.acquire()?.release()?;
    }
    images.push(Image::read(path)?);
    // More names than slots: idle ones are given up.
    for i in 0..5 {
        table.lock(format!("later-{i}"))?.acquire()?.release()?;
    }
    images.push(Image::read(path)?);
    Ok(images)
}

/// The names that the images have.
pub(super) fn name(number: u32) -> String {
    format!("name-{number}-{}", "x".repeat(number as usize * 11))
}

/// Writes the bases where users find them.
pub(super) fn save(bases: &[Image], dir: &Path) -> anyhow::Result<()> {
    for (number, base) in bases.iter().enumerate() {
        fs::write(saved(dir, number), &base.bytes)?;
    }
    Ok(())
}

/// Reads the bases that were saved.
pub(super) fn load(dir: &Path) -> anyhow::Result<Vec<Image>> {
    let paths = (0..).map(|number| saved(dir, number));
    let paths = paths.take_while(|path| path.is_file());
    paths.map(|path| Image::read(&path)).collect()
}

fn saved(dir: &Path, number: usize) -> PathBuf {
    dir.join(format!("{number}.image"))
}

/// Makes a file as a table must be: the owner's alone.
pub(super) fn put(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let mut open = fs::File::options();
    open.write(true).create_new(true).mode(0o600);
    Ok(open.open(path)?.write_all(bytes)?)
}
