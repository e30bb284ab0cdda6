//! What a table's bytes say, read without the library: the oracle of this campaign.
//!
//! Offsets and bits are those that the file format documents (`src/layout.rs`,
//! `src/protocol/word.rs`), written down a second time on purpose.

use std::ops::Range;

const SESSION_BYTES: usize = 256;
const SLOT_BYTES: usize = 64;
const NAME_BYTES: usize = 384;
const HEADER_BYTES: usize = 4096;
const BOOT_ID: Range<usize> = 112..128;
const NAMING_WORDS: Range<usize> = 128..192;
/// The heartbeat's counter and time, within a session's record.
const BEAT: Range<usize> = 48..64;
/// The certificate, there.
const CERTIFICATE: Range<usize> = 64..68;

/// How a slot stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    Fresh,
    Released,
    /// A process owns it, dead or alive.
    Held(u32),
    /// It was taken from a process, in this way.
    Gone(u32, &'static str),
    Renaming,
    Corrupt,
}

/// What a session's certificate says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Certificate {
    /// The kernel has not been given it yet, or no longer has it.
    None,
    Intact,
    /// The kernel has marked it: its keeper is gone.
    Marked,
}

/// A copy of a table's file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Image(Vec<u8>);

/// One slot with its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) slot: usize,
    pub(super) name: String,
    pub(super) owner: Owner,
    pub(super) token: u64,
}

impl Image {
    pub(super) const fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// As it would be found after a reboot.
    pub(super) fn of_another_boot(mut self) -> Self {
        self.0[BOOT_ID].fill(0x5a);
        self
    }

    /// The same bytes without what heartbeats change.
    pub(super) fn at_rest(&self) -> Self {
        let mut bytes = self.0.clone();
        for session in 0..self.session_count() {
            let record = self.session(session);
            bytes[record.start + BEAT.start..record.start + BEAT.end].fill(0);
        }
        Self(bytes)
    }

    /// As the kernel leaves it if all its processes die: their certificates marked.
    pub(super) fn of_the_dead(mut self) -> Self {
        for session in 0..self.session_count() {
            if let Certificate::Intact = self.certificate(session) {
                let at = self.certificate_bytes(session);
                let word = self.certificate_word(session) & libc::FUTEX_WAITERS;
                self.0[at].copy_from_slice(&(word | libc::FUTEX_OWNER_DIED).to_ne_bytes());
            }
        }
        self
    }

    fn certificate_bytes(&self, session: usize) -> Range<usize> {
        let start = self.session(session).start;
        start + CERTIFICATE.start..start + CERTIFICATE.end
    }

    fn certificate_word(&self, session: usize) -> u32 {
        let bytes = self.0[self.certificate_bytes(session)].try_into();
        u32::from_ne_bytes(bytes.expect("four bytes"))
    }

    fn certificate(&self, session: usize) -> Certificate {
        let word = self.certificate_word(session);
        match word & libc::FUTEX_TID_MASK {
            _ if word & libc::FUTEX_OWNER_DIED != 0 => Certificate::Marked,
            0 => Certificate::None,
            _ => Certificate::Intact,
        }
    }

    /// The certificate of the session that owns a slot, if one does.
    pub(super) fn owners_certificate(&self, slot: usize) -> Option<Certificate> {
        Some(self.certificate(self.owning_session(slot)?))
    }

    fn owning_session(&self, slot: usize) -> Option<usize> {
        let session = (self.word(self.slot(slot).start) >> 30 & 0xfff) as usize;
        let owned = matches!(self.owner(slot), Owner::Held(_));
        (owned && session < self.session_count()).then_some(session)
    }

    /// What the certificate says here of the session that owned a slot in an earlier image.
    pub(super) fn certificate_of(&self, earlier: &Self, slot: usize) -> Option<Certificate> {
        let session = earlier.owning_session(slot)?;
        Some(self.certificate(session))
    }

    fn word(&self, at: usize) -> u64 {
        let bytes = self.0[at..at + 8].try_into();
        u64::from_ne_bytes(bytes.expect("eight bytes"))
    }

    fn count(&self, at: usize) -> usize {
        usize::try_from(self.word(at)).expect("a 64-bit machine")
    }

    pub(super) fn slot_count(&self) -> usize {
        self.count(64) + 1
    }

    fn session_count(&self) -> usize {
        self.count(72)
    }

    fn session(&self, index: usize) -> Range<usize> {
        let start = HEADER_BYTES + index * SESSION_BYTES;
        start..start + SESSION_BYTES
    }

    fn index(&self) -> Range<usize> {
        let start = HEADER_BYTES + self.session_count() * SESSION_BYTES;
        start..start + self.count(80) * 8
    }

    fn slot(&self, slot: usize) -> Range<usize> {
        let start = self.index().end + slot * SLOT_BYTES;
        start..start + SLOT_BYTES
    }

    fn name_record(&self, slot: usize) -> Range<usize> {
        let start = self.index().end + self.slot_count() * SLOT_BYTES + slot * NAME_BYTES;
        start..start + NAME_BYTES
    }

    fn name(&self, slot: usize) -> String {
        let at = self.name_record(slot).start;
        let len = self.count(at + 8).min(255);
        String::from_utf8_lossy(&self.0[at + 16..at + 16 + len]).into_owned()
    }

    pub(super) fn owner(&self, slot: usize) -> Owner {
        let word = self.word(self.slot(slot).start);
        let pid = u32::try_from(word >> 42).expect("22 bits");
        match (pid, word >> 30 & 0xfff) {
            (0, 0) => Owner::Fresh,
            // Released; offered to the heir; or kept by p, who may take it again first.
            (0, 1 | 2) | (1.., 4090) => Owner::Released,
            (0, _) => Owner::Corrupt,
            (_, 4091) => Owner::Renaming,
            (_, 4092 | 4093) => Owner::Gone(pid, "died"),
            (_, 4094) => Owner::Gone(pid, "expired"),
            (_, 4095) => Owner::Gone(pid, "forced"),
            (_, 0..4088) => Owner::Held(pid),
            _ => Owner::Corrupt,
        }
    }

    pub(super) fn token(&self, slot: usize) -> u64 {
        let at = self.slot(slot).start;
        let (word, epoch) = (self.word(at), self.word(at + 8));
        let generation = word >> 2 & 0x0fff_ffff;
        // The epoch word lags by one while its parity is not the generation's top bit.
        let epoch = epoch + u64::from(epoch & 1 != generation >> 27);
        epoch << 27 | generation & 0x07ff_ffff
    }

    /// The named slots that are not being renamed.
    pub(super) fn entries(&self) -> Vec<Entry> {
        let entry = |slot| Entry {
            slot,
            name: self.name(slot),
            owner: self.owner(slot),
            token: self.token(slot),
        };
        let named = (1..self.slot_count()).map(entry);
        named
            .filter(|entry| !entry.name.is_empty() && entry.owner != Owner::Renaming)
            .filter(|entry| self.word(self.slot(entry.slot).start + 16) & 1 == 0)
            .collect()
    }

    pub(super) fn entry(&self, name: &str) -> Option<Entry> {
        self.entries().into_iter().find(|entry| entry.name == name)
    }

    /// The slots that differ in another image, or have another name there.
    pub(super) fn changed_slots(&self, other: &Self) -> Vec<usize> {
        let differs = |range: Range<usize>| self.0[range.clone()] != other.0[range];
        let slots = 0..self.slot_count();
        slots
            .filter(|&slot| differs(self.slot(slot)) || differs(self.name_record(slot)))
            .collect()
    }

    /// Whether the header's words and the index are the same, but for those of naming
    /// where `naming` allows it, and the records of all sessions but of these processes.
    pub(super) fn same_around(&self, other: &Self, naming: bool, processes: &[u32]) -> bool {
        let same = |range: Range<usize>| self.0[range.clone()] == other.0[range];
        let is_theirs = |image: &Self, at: usize| {
            // The low half of the second word.
            let pid = image.word(image.session(at).start + 8) as u32;
            processes.contains(&pid)
        };
        let (mine, others) = (self.at_rest(), other.at_rest());
        let sessions = (0..self.session_count()).all(|at| {
            is_theirs(self, at)
                || is_theirs(other, at)
                || mine.0[self.session(at)] == others.0[self.session(at)]
        });
        same(0..NAMING_WORDS.start)
            && (naming || same(NAMING_WORDS) && same(self.index()))
            && same(NAMING_WORDS.end..HEADER_BYTES)
            && sessions
    }
}
