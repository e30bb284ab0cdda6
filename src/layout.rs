//! The file format: where everything is, how wide, and what a header must say.
//!
//! All numbers are in the machine's own byte order: a table never leaves its kernel.
//!
//! ```text
//! offset    size                  what
//! 0         4096                  header, of which:
//!   0         8                     magic "caslock\n"
//!   8         8                     format version
//!   16        8                     layout signature (see below)
//!   24        8                     feature bits: an unknown one is refused
//!   32        16                    table id, random
//!   48        16                    key of the names' hash, random
//!   64        8                     slots, i.e. how many names
//!   72        8                     sessions
//!   80        8                     index capacity
//!   88        8                     reclaim policy: 1 on-expiry, 2 on-death
//!   96        8                     lease in milliseconds; 0 on-death
//!   104       8                     check: FNV-1a of the words above
//!   112       16                    boot id; a reset rewrites it
//!   128       64                    naming words, the token floor among them
//!   192       3904                  zero
//! 4096      256 * sessions        session records
//! ...       8 * index capacity    index of names: a power of two, at most a quarter full
//! ...       64 * (slots + 1)      slots; the first is the table's own, for naming
//! ...       384 * (slots + 1)     names and notes, one a slot
//! ```
//!
//! The length is rounded up to whole pages. Each section begins on a cache line.
//! Everything but the header's first 128 bytes starts as zeroes, and all zeroes is what
//! an unused record of each kind looks like. Every word is an atomic, so there is no bit
//! pattern that it cannot hold.
//!
//! The layout signature is a hash over every size, offset and width that this build was
//! compiled with; the records say where their own fields are. Two builds that would put
//! the same thing in different places refuse each other's tables, even if somebody forgot
//! to count the version up.
//!
//! Room to grow: feature bits, the header's zeroes, and the words that the records keep
//! in reserve. A field that old builds may ignore goes there; anything else is a version.

use std::mem::{align_of, offset_of, size_of};
use std::time::Duration;

use siphasher::sip::SipHasher13;

use crate::policy::Reclaim;
use crate::protocol::names::{NameRecord, NamingWords, SLOT_BITS};
use crate::protocol::session::SessionRecord;
use crate::protocol::slot::Slot;
use crate::protocol::word::{EPOCH_SHIFT, MAX_SESSIONS};
use crate::sync::{AtomicU64, GENERATION_BITS, NAME_WORDS, NOTE_WORDS, Ordering, WAIT_ENTRIES};

const MAGIC: u64 = u64::from_ne_bytes(*b"caslock\n");
/// 2: slots come into use in another order, which the count of those in use tells. 3: a witness
/// has a byte of its own, which older builds would not ask for.
const VERSION: u64 = 3;
/// The feature bits that this build knows.
const FEATURES: u64 = 0;

const PAGE: usize = 4096;

/// The header's size, and the least that is read of a file.
pub(crate) const HEADER_BYTES: usize = PAGE;

const ON_EXPIRY: u64 = 1;
const ON_DEATH: u64 = 2;

/// The header as it is in the file.
#[repr(C, align(64))]
struct HeaderWords {
    magic: AtomicU64,
    version: AtomicU64,
    signature: AtomicU64,
    features: AtomicU64,
    table_id: [AtomicU64; 2],
    hash_key: [AtomicU64; 2],
    slots: AtomicU64,
    sessions: AtomicU64,
    index_capacity: AtomicU64,
    reclaim: AtomicU64,
    lease_ms: AtomicU64,
    check: AtomicU64,
    boot_id: [AtomicU64; 2],
    naming: NamingWords,
}

const _: () = {
    assert!(size_of::<HeaderWords>() == 192 && size_of::<HeaderWords>() <= HEADER_BYTES);
    assert!(align_of::<HeaderWords>() == 64);
    assert!(offset_of!(HeaderWords, magic) == 0);
    assert!(offset_of!(HeaderWords, version) == 8);
    assert!(offset_of!(HeaderWords, signature) == 16);
    assert!(offset_of!(HeaderWords, features) == 24);
    assert!(offset_of!(HeaderWords, table_id) == 32);
    assert!(offset_of!(HeaderWords, hash_key) == 48);
    assert!(offset_of!(HeaderWords, slots) == 64);
    assert!(offset_of!(HeaderWords, sessions) == 72);
    assert!(offset_of!(HeaderWords, index_capacity) == 80);
    assert!(offset_of!(HeaderWords, reclaim) == 88);
    assert!(offset_of!(HeaderWords, lease_ms) == 96);
    assert!(offset_of!(HeaderWords, check) == 104);
    assert!(offset_of!(HeaderWords, boot_id) == 112);
    assert!(offset_of!(HeaderWords, naming) == 128);
};

const _: () = {
    assert!(size_of::<NamingWords>() == 64 && align_of::<NamingWords>() == 64);
    assert!(size_of::<SessionRecord>() == 256 && align_of::<SessionRecord>() == 64);
    assert!(size_of::<Slot>() == 64 && align_of::<Slot>() == 64);
    assert!(size_of::<NameRecord>() == 384 && align_of::<NameRecord>() == 64);
    assert!(size_of::<AtomicU64>() == 8 && align_of::<AtomicU64>() == 8);
};

/// The hash of this build's layout.
const SIGNATURE: u64 = fnv1a(&[
    size_of::<HeaderWords>() as u64,
    HEADER_BYTES as u64,
    offset_of!(HeaderWords, table_id) as u64,
    offset_of!(HeaderWords, hash_key) as u64,
    offset_of!(HeaderWords, slots) as u64,
    offset_of!(HeaderWords, sessions) as u64,
    offset_of!(HeaderWords, index_capacity) as u64,
    offset_of!(HeaderWords, reclaim) as u64,
    offset_of!(HeaderWords, lease_ms) as u64,
    offset_of!(HeaderWords, check) as u64,
    offset_of!(HeaderWords, boot_id) as u64,
    offset_of!(HeaderWords, naming) as u64,
    size_of::<NamingWords>() as u64,
    NamingWords::LAYOUT,
    size_of::<SessionRecord>() as u64,
    SessionRecord::LAYOUT,
    size_of::<Slot>() as u64,
    Slot::LAYOUT,
    size_of::<NameRecord>() as u64,
    NameRecord::LAYOUT,
    GENERATION_BITS as u64,
    EPOCH_SHIFT as u64,
    MAX_SESSIONS as u64,
    NAME_WORDS as u64,
    NOTE_WORDS as u64,
    WAIT_ENTRIES as u64,
    cfg!(target_endian = "little") as u64,
]);

/// FNV-1a over the bytes of the words, lowest first (Fowler, Noll, Vo; 64 bits).
const fn fnv1a(words: &[u64]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut at = 0;
    while at < words.len() * 8 {
        let byte = words[at / 8] >> (at % 8 * 8) & 0xff;
        hash = (hash ^ byte).wrapping_mul(0x0000_0100_0000_01b3);
        at += 1;
    }
    hash
}

/// How much of the header this build writes and reads, in words.
const HEADER_WORDS: usize = offset_of!(HeaderWords, naming) / 8;

/// The place of a field among the header's words.
macro_rules! word_of {
    ($field:ident) => {
        offset_of!(HeaderWords, $field) / 8
    };
}

/// What a table was created with: bounds of every loop, so read once, validated, and
/// carried by value from then on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Geometry {
    /// How many names there can be.
    pub(crate) slots: u32,
    /// How many sessions there can be.
    pub(crate) sessions: u32,
    reclaim: Reclaim,
}

/// Where the sections of a file begin, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sections {
    pub(crate) sessions: usize,
    pub(crate) index: usize,
    pub(crate) slots: usize,
    pub(crate) names: usize,
    /// The length of the whole file.
    pub(crate) end: usize,
}

impl Geometry {
    /// A handle packs the slot's number into [`SLOT_BITS`], and an index of four times as many
    /// entries is to stay within half a gigabyte.
    const MAX_SLOTS: u32 = 16_000_000;
    const MIN_INDEX: u32 = 16;
    const MIN_LEASE: Duration = Duration::from_millis(100);
    const MAX_LEASE: Duration = Duration::from_secs(24 * 60 * 60);

    /// How long a holder may be silent before it shows as late, where no lease says so.
    const SILENCE: Duration = Duration::from_secs(10);
    const MAX_BEAT: Duration = Duration::from_secs(1);
    const MAX_POLL: Duration = Duration::from_millis(500);

    /// Checks the numbers of a table to be. Leases count in whole milliseconds.
    ///
    /// # Errors
    ///
    /// Which number is out of its bounds, and what they are, for people.
    pub(crate) fn new(slots: u32, sessions: u32, reclaim: Reclaim) -> Result<Self, String> {
        if !(1..=Self::MAX_SLOTS).contains(&slots) {
            return Err(format!("{slots} slots; it takes 1 to {}", Self::MAX_SLOTS));
        }
        if !(1..=MAX_SESSIONS).contains(&sessions) {
            return Err(format!("{sessions} sessions; it takes 1 to {MAX_SESSIONS}"));
        }
        let reclaim = match reclaim {
            Reclaim::OnDeath => Reclaim::OnDeath,
            Reclaim::OnExpiry { lease } => {
                if !(Self::MIN_LEASE..=Self::MAX_LEASE).contains(&lease) {
                    let (min, max) = (Self::MIN_LEASE, Self::MAX_LEASE);
                    return Err(format!("a lease of {lease:?}; it takes {min:?} to {max:?}"));
                }
                reclaim.in_whole_ms()
            }
        };
        Ok(Self {
            slots,
            sessions,
            reclaim,
        })
    }

    /// When a slot may be taken from a holder that lives.
    pub(crate) const fn reclaim(&self) -> Reclaim {
        self.reclaim
    }

    /// After how long a silence a holder may be evicted, if ever.
    pub(crate) const fn lease(&self) -> Option<Duration> {
        match self.reclaim {
            Reclaim::OnExpiry { lease } => Some(lease),
            Reclaim::OnDeath => None,
        }
    }

    /// After how long a silence a holder shows as late.
    pub(crate) fn silence(&self) -> Duration {
        self.lease().unwrap_or(Self::SILENCE)
    }

    /// How often a session sends a heartbeat: a starved keeper may miss nine of a lease.
    pub(crate) fn beat(&self) -> Duration {
        (self.silence() / 10).min(Self::MAX_BEAT)
    }

    /// How often a waiter looks without having been woken.
    pub(crate) fn poll(&self) -> Duration {
        (self.silence() / 20).min(Self::MAX_POLL)
    }

    /// How many slot records there are: one more than names, for the naming itself.
    pub(crate) const fn slot_count(&self) -> usize {
        self.slots as usize + 1
    }

    /// How many entries the index has: at most one in four is in use.
    pub(crate) const fn index_capacity(&self) -> usize {
        let least = 4 * self.slots;
        let least = if least < Self::MIN_INDEX {
            Self::MIN_INDEX
        } else {
            least
        };
        least.next_power_of_two() as usize
    }

    /// Where everything is.
    pub(crate) const fn sections(&self) -> Sections {
        let sessions = HEADER_BYTES;
        let index = sessions + self.sessions as usize * size_of::<SessionRecord>();
        let slots = index + self.index_capacity() * size_of::<AtomicU64>();
        let names = slots + self.slot_count() * size_of::<Slot>();
        let end = names + self.slot_count() * size_of::<NameRecord>();
        Sections {
            sessions,
            index,
            slots,
            names,
            end: end.next_multiple_of(PAGE),
        }
    }

    /// The length of the file, in bytes.
    pub(crate) const fn file_len(&self) -> u64 {
        self.sections().end as u64
    }

    /// The policy and the lease as the header has them.
    fn policy_words(&self) -> [u64; 2] {
        match self.reclaim {
            Reclaim::OnExpiry { lease } => [ON_EXPIRY, lease.as_millis() as u64],
            Reclaim::OnDeath => [ON_DEATH, 0],
        }
    }
}

const _: () = {
    // The largest table there can be: no sum overflows, and a handle has room.
    let reclaim = Reclaim::OnDeath;
    let largest = Geometry {
        slots: Geometry::MAX_SLOTS,
        sessions: MAX_SESSIONS,
        reclaim,
    };
    assert!(Geometry::MAX_SLOTS < 1 << SLOT_BITS);
    assert!(largest.index_capacity() == 1 << 26);
    assert!(largest.sections().end < 1 << 33);
    // Each section begins on a cache line, whatever the numbers.
    let smallest = Geometry {
        slots: 1,
        sessions: 1,
        reclaim,
    };
    let at = smallest.sections();
    assert!(at.index.is_multiple_of(64) && at.slots.is_multiple_of(64));
    assert!(at.names.is_multiple_of(64));
};

/// What a table's header says and never says otherwise: the copy that was validated.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    pub(crate) geometry: Geometry,
    table_id: [u64; 2],
    hash_key: [u64; 2],
}

/// A header as it was read from the file, before anything was mapped.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Read {
    pub(crate) settings: Settings,
    /// The boot that the table's holders lived in.
    pub(crate) boot_id: [u8; 16],
}

/// Why a file is not a table of this build's.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// It is something else.
    NotATable(&'static str),
    /// It is a table, of the format described.
    Format(String),
    /// It is a table of this format that contradicts itself.
    Damaged(String),
}

/// A header for a new table: its first bytes, the rest of the file being zero.
pub(crate) fn new_header(
    geometry: &Geometry,
    random: [u8; 32],
    boot_id: [u8; 16],
) -> [u8; HEADER_WORDS * 8] {
    let [policy, lease_ms] = geometry.policy_words();
    let mut words = [0; HEADER_WORDS];
    words[word_of!(magic)] = MAGIC;
    words[word_of!(version)] = VERSION;
    words[word_of!(signature)] = SIGNATURE;
    words[word_of!(features)] = FEATURES;
    // The table id, and right after it the hash key.
    for (word, bytes) in words[word_of!(table_id)..]
        .iter_mut()
        .zip(random.as_chunks().0)
    {
        *word = u64::from_ne_bytes(*bytes);
    }
    words[word_of!(slots)] = geometry.slots.into();
    words[word_of!(sessions)] = geometry.sessions.into();
    words[word_of!(index_capacity)] = geometry.index_capacity() as u64;
    words[word_of!(reclaim)] = policy;
    words[word_of!(lease_ms)] = lease_ms;
    words[word_of!(check)] = check_of(&words);
    let [low, high] = id_words(boot_id);
    words[word_of!(boot_id)] = low;
    words[word_of!(boot_id) + 1] = high;
    let mut bytes = [0; HEADER_WORDS * 8];
    for (to, word) in bytes.as_chunks_mut().0.iter_mut().zip(words) {
        *to = word.to_ne_bytes();
    }
    bytes
}

/// Validates a header and the length of the file that it was read from.
///
/// # Errors
///
/// Which of the three kinds of wrong it is, and what told.
pub(crate) fn read_header(bytes: &[u8; HEADER_BYTES], file_len: u64) -> Result<Read, Refusal> {
    let mut words = [0; HEADER_WORDS];
    for (word, bytes) in words.iter_mut().zip(bytes.as_chunks().0) {
        *word = u64::from_ne_bytes(*bytes);
    }
    let [magic, version, signature, features, ..] = words;
    if magic != MAGIC {
        return Err(Refusal::NotATable("it does not begin as one"));
    }
    if version != VERSION || signature != SIGNATURE {
        return Err(Refusal::Format(describe(version, signature)));
    }
    if features & !FEATURES != 0 {
        let format = describe(version, signature);
        return Err(Refusal::Format(format!(
            "{format} with features {features:#x}"
        )));
    }
    if words[word_of!(check)] != check_of(&words) {
        return Err(Refusal::Damaged(
            "the header does not match its check".into(),
        ));
    }
    let geometry = read_geometry(&words).map_err(Refusal::Damaged)?;
    if file_len != geometry.file_len() {
        return Err(Refusal::Damaged(format!(
            "it has {file_len} bytes where its header says {}",
            geometry.file_len()
        )));
    }
    let pair = |at: usize| [words[at], words[at + 1]];
    let settings = Settings {
        geometry,
        table_id: pair(word_of!(table_id)),
        hash_key: pair(word_of!(hash_key)),
    };
    Ok(Read {
        settings,
        boot_id: id_bytes(pair(word_of!(boot_id))),
    })
}

/// The check over everything before it: what creation writes, and nothing after changes.
fn check_of(words: &[u64; HEADER_WORDS]) -> u64 {
    fnv1a(&words[..word_of!(check)])
}

fn read_geometry(words: &[u64; HEADER_WORDS]) -> Result<Geometry, String> {
    let narrow =
        |at: usize, what| u32::try_from(words[at]).map_err(|_| format!("{} {what}", words[at]));
    let slots = narrow(word_of!(slots), "slots")?;
    let sessions = narrow(word_of!(sessions), "sessions")?;
    let reclaim = match (words[word_of!(reclaim)], words[word_of!(lease_ms)]) {
        (ON_EXPIRY, lease_ms) => Reclaim::OnExpiry {
            lease: Duration::from_millis(lease_ms),
        },
        (ON_DEATH, 0) => Reclaim::OnDeath,
        (policy, lease_ms) => return Err(format!("policy {policy} with a lease of {lease_ms} ms")),
    };
    let geometry = Geometry::new(slots, sessions, reclaim)?;
    let capacity = words[word_of!(index_capacity)];
    if capacity != geometry.index_capacity() as u64 {
        return Err(format!("an index of {capacity} entries for {slots} slots"));
    }
    Ok(geometry)
}

/// This build's format, for messages: `2 (layout 0123456789abcdef)`.
pub(crate) fn describe_format() -> String {
    describe(VERSION, SIGNATURE)
}

fn describe(version: u64, signature: u64) -> String {
    format!("{version} (layout {signature:016x})")
}

fn id_words(id: [u8; 16]) -> [u64; 2] {
    let half = |at: usize| u64::from_ne_bytes(std::array::from_fn(|byte| id[at + byte]));
    [half(0), half(8)]
}

fn id_bytes(words: [u64; 2]) -> [u8; 16] {
    let halves = words.map(u64::to_ne_bytes);
    std::array::from_fn(|byte| halves[byte / 8][byte % 8])
}

/// A mapped table's header: what may change comes from the mapping, the rest from the
/// copy that was validated when the table was opened.
#[derive(Clone, Copy)]
pub(crate) struct Header<'a> {
    words: &'a MappedHeader,
    settings: &'a Settings,
}

/// The header as it lies in the mapping; all there is to see of it is in [`Header`].
#[repr(transparent)]
pub(crate) struct MappedHeader(HeaderWords);

impl<'a> Header<'a> {
    pub(crate) const fn new(words: &'a MappedHeader, settings: &'a Settings) -> Self {
        Self { words, settings }
    }

    /// The table's random id.
    pub(crate) fn table_id(&self) -> [u8; 16] {
        id_bytes(self.settings.table_id)
    }

    /// A name's hash, keyed with the table's own key, so that nobody can make up names
    /// that all fall on one place.
    pub(crate) fn hash(&self, name: &[u8]) -> u64 {
        let [low, high] = self.settings.hash_key;
        SipHasher13::new_with_keys(low, high).hash(name)
    }

    /// The boot that the table was last reset for.
    pub(crate) fn boot_id(&self) -> [u8; 16] {
        let [low, high] = &self.words.0.boot_id;
        // Acquire, the half that is written last first: whoever reads the whole of the
        // new id sees the reset that came before it (`set_boot_id`). An opener has it from the
        // file at first, by a read(2), and reads it here before it uses the table.
        let high = high.load(Ordering::Acquire);
        id_bytes([low.load(Ordering::Relaxed), high])
    }

    /// Writes the boot id, which ends a reset. A crash between the two halves leaves an
    /// id of no boot, and the next opener resets again.
    pub(crate) fn set_boot_id(&self, id: [u8; 16]) {
        let [low, high] = id_words(id);
        let [to_low, to_high] = &self.words.0.boot_id;
        to_low.swap(low, Ordering::Relaxed);
        // Release: paired with `boot_id`.
        to_high.swap(high, Ordering::Release);
    }

    /// The table-wide words of naming.
    pub(crate) const fn naming(&self) -> &'a NamingWords {
        &self.words.0.naming
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOT: [u8; 16] = *b"the boot we are ";

    fn geometry() -> Geometry {
        Geometry::new(4096, 256, Reclaim::default()).unwrap()
    }

    /// A header page with some words overwritten, and the check made to match.
    fn header(geometry: &Geometry, changes: &[(usize, u64)]) -> [u8; HEADER_BYTES] {
        let start = new_header(geometry, std::array::from_fn(|at| at as u8), BOOT);
        let mut words: [u64; HEADER_WORDS] =
            std::array::from_fn(|at| u64::from_ne_bytes(start.as_chunks().0[at]));
        for &(at, value) in changes {
            words[at] = value;
        }
        if !changes.iter().any(|&(at, _)| at == word_of!(check)) {
            words[word_of!(check)] = check_of(&words);
        }
        let mut page = [0; HEADER_BYTES];
        for (to, word) in page.as_chunks_mut().0.iter_mut().zip(words) {
            *to = word.to_ne_bytes();
        }
        page
    }

    fn refusal(changes: &[(usize, u64)]) -> Refusal {
        read_header(&header(&geometry(), changes), geometry().file_len()).unwrap_err()
    }

    #[test]
    fn a_header_reads_back_as_it_was_written() {
        let leases = [100, 10_000, 86_400_000].map(Duration::from_millis);
        let policies = leases.map(|lease| Reclaim::OnExpiry { lease });
        for reclaim in policies.into_iter().chain([Reclaim::OnDeath]) {
            for (slots, sessions) in [(1, 1), (4096, 256), (16_000_000, MAX_SESSIONS)] {
                let geometry = Geometry::new(slots, sessions, reclaim).unwrap();
                let read = read_header(&header(&geometry, &[]), geometry.file_len()).unwrap();
                assert_eq!(read.settings.geometry, geometry);
                assert_eq!(read.boot_id, BOOT);
                assert_eq!(
                    id_bytes(read.settings.table_id),
                    std::array::from_fn(|at| at as u8)
                );
                assert_eq!(
                    id_bytes(read.settings.hash_key),
                    std::array::from_fn(|at| 16 + at as u8)
                );
            }
        }
    }

    #[test]
    fn other_files_other_formats_and_damage_are_told_apart() {
        assert!(matches!(
            refusal(&[(word_of!(magic), 0)]),
            Refusal::NotATable(_)
        ));
        let (older, newer) = (VERSION - 1, VERSION + 1);
        for change in [
            (word_of!(version), older),
            (word_of!(version), newer),
            (word_of!(signature), 3),
        ] {
            assert!(
                matches!(refusal(&[change]), Refusal::Format(_)),
                "{change:?}"
            );
        }
        let Refusal::Format(found) = refusal(&[(word_of!(features), 4)]) else {
            panic!()
        };
        assert!(found.contains("features 0x4"), "{found}");
        let changes = [
            (word_of!(slots), 0),
            (word_of!(slots), 16_000_001),
            (word_of!(slots), u64::MAX),
            (word_of!(slots), 4097),
            (word_of!(sessions), 0),
            (word_of!(sessions), u64::from(MAX_SESSIONS) + 1),
            (word_of!(sessions), 300),
            (word_of!(index_capacity), 0),
            (word_of!(index_capacity), 1 << 40),
            (word_of!(reclaim), 0),
            (word_of!(reclaim), ON_DEATH),
            (word_of!(lease_ms), 0),
            (word_of!(lease_ms), u64::MAX),
            (word_of!(check), 0),
        ];
        for change in changes {
            assert!(
                matches!(refusal(&[change]), Refusal::Damaged(_)),
                "{change:?}"
            );
        }
    }

    #[test]
    fn a_file_of_another_length_than_its_header_says_is_damaged() {
        let page = header(&geometry(), &[]);
        for len in [
            0,
            4096,
            geometry().file_len() - 1,
            geometry().file_len() + 4096,
        ] {
            assert!(
                matches!(read_header(&page, len), Err(Refusal::Damaged(_))),
                "{len}"
            );
        }
    }

    #[test]
    fn no_single_flipped_bit_of_a_header_goes_through_as_it_was() {
        let page = header(&geometry(), &[]);
        let checked = word_of!(boot_id) * 8;
        for bit in 0..checked * 8 {
            let mut flipped = page;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(
                read_header(&flipped, geometry().file_len()).is_err(),
                "bit {bit}"
            );
        }
    }

    #[test]
    fn the_index_is_a_power_of_two_with_three_quarters_of_its_places_free() {
        for slots in [1, 7, 8, 9, 4095, 4096, 4097, 16_000_000] {
            let geometry = Geometry::new(slots, 1, Reclaim::OnDeath).unwrap();
            let capacity = geometry.index_capacity();
            assert!(capacity.is_power_of_two() && capacity >= 16);
            assert!(capacity >= 4 * slots as usize, "{slots}");
        }
    }

    #[test]
    fn sections_follow_each_other_on_cache_lines_without_overlapping() {
        for (slots, sessions) in [(1, 1), (3, 5), (4096, 256), (16_000_000, MAX_SESSIONS)] {
            let geometry = Geometry::new(slots, sessions, Reclaim::OnDeath).unwrap();
            let at = geometry.sections();
            assert!(at.sessions >= size_of::<HeaderWords>());
            assert_eq!(at.index - at.sessions, 256 * sessions as usize);
            assert_eq!(at.slots - at.index, 8 * geometry.index_capacity());
            assert_eq!(at.names - at.slots, 64 * (slots as usize + 1));
            assert!(at.end - at.names >= 384 * (slots as usize + 1));
            for begin in [at.sessions, at.index, at.slots, at.names] {
                assert_eq!(begin % 64, 0);
            }
            assert_eq!(at.end % PAGE, 0);
        }
    }

    #[test]
    fn numbers_out_of_bounds_are_refused_by_name() {
        let reason =
            |slots, sessions, reclaim| Geometry::new(slots, sessions, reclaim).unwrap_err();
        assert!(reason(0, 1, Reclaim::OnDeath).contains("0 slots"));
        assert!(reason(16_000_001, 1, Reclaim::OnDeath).contains("16000000"));
        assert!(reason(1, 0, Reclaim::OnDeath).contains("0 sessions"));
        assert!(reason(1, MAX_SESSIONS + 1, Reclaim::OnDeath).contains("4088"));
        for ms in [0, 99, 86_400_001] {
            let lease = Duration::from_millis(ms);
            assert!(
                reason(1, 1, Reclaim::OnExpiry { lease }).contains("lease"),
                "{ms}"
            );
        }
    }

    #[test]
    fn a_lease_spans_ten_beats_and_more_polls() {
        for ms in [100, 10_000, 86_400_000] {
            let reclaim = Reclaim::OnExpiry {
                lease: Duration::from_millis(ms),
            };
            let geometry = Geometry::new(1, 1, reclaim).unwrap();
            assert!(geometry.beat() * 10 <= geometry.silence());
            assert!(
                geometry.poll() < geometry.beat() && geometry.poll() >= Duration::from_millis(5)
            );
        }
    }

    #[test]
    fn an_id_survives_its_two_words_and_the_hash_is_the_published_one() {
        assert_eq!(id_bytes(id_words(BOOT)), BOOT);
        // Eight zero bytes, worked out from the definition: each step is one product.
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        (0..8).for_each(|_| hash = hash.wrapping_mul(1_099_511_628_211));
        assert_eq!(fnv1a(&[0]), hash);
        assert_ne!(fnv1a(&[1, 0]), fnv1a(&[0, 1]));
    }
}
