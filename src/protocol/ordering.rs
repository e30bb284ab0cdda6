//! Every memory ordering of the protocol, under a name, with its partner.
//!
//! Code says `ord(Site::Grant)`, never `AcqRel`: so each ordering is argued in one place,
//! and the models can weaken one at a time and see what breaks. Accesses whose ordering
//! is `Relaxed` for want of anything to order are sites, too, where the reason is not
//! plain at the access.

use super::sync::Ordering;

/// A named place in the protocol that orders memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Site {
    /// Reading an owner word before acting on it. With [`Site::Vacate`] and
    /// [`Site::Grant`]: whoever sees a word also sees the epoch that was helped, and the
    /// name that was settled, before it was written.
    Owner,
    /// The CAS that grants. Acquires what the last holder wrote ([`Site::Vacate`]): the reading
    /// before it has done so only for the last holder of the word that was read, and the CAS may
    /// meet the same bits a whole wrap of the generation later. Releases the judgement (a dead
    /// holder's writes, seen through its liveness) and the epoch that was helped to whoever
    /// reads this word.
    Grant,
    /// The CAS that vacates: releases the critical section to the next [`Site::Grant`]. After a
    /// renaming it also releases the raised tokens.
    Vacate,
    /// Reading the epoch word before the grant and after it, or after a guess alone. With
    /// [`Site::EpochHelp`]: an epoch that is ahead of a word shows that the word has been
    /// replaced.
    Epoch,
    /// The CAS that moves the epoch word on. Releases the helper's reading of the owner
    /// word to [`Site::Epoch`]. It acquires nothing: its value was acquired when it was
    /// read, and no value of the epoch word comes back.
    EpochHelp,
    /// Reading the wake word before announcing a waiter. With [`Site::WakeBump`]: a
    /// waiter that already sees the bump also sees the word that was vacated before it,
    /// so it does not sleep on the new value. Likewise a keeper and its session's notice
    /// word, outside of the models: it reads that before it looks for what it is told of, a
    /// revoked grant or that the session ends.
    Wake,
    /// Counting the wake word up after vacating, or the notice word after what is to be told.
    WakeBump,
    /// Publishing a session record's fields, or withdrawing them.
    Record,
    /// Reading a session record's state before its fields.
    RecordRead,
    /// Counting a slot's renames. The even count is released after the name's bytes. For a
    /// namer that made it odd itself [`Site::RenameFence`] and the owner word would do; one
    /// that repairs a dead one's naming has no such fence. It acquires nothing: only the
    /// holder of the naming lock counts.
    Rename,
    /// Reading a slot's rename count before its name. With [`Site::Rename`].
    RenameRead,
    /// The fence between the odd rename count and the first byte of a new name; likewise once
    /// a note or a session record is withdrawn. With [`Site::NameFence`]: who reads a byte of
    /// what is new sees that the old was withdrawn.
    RenameFence,
    /// The fence between a name's bytes and the second reading of the rename count; likewise for
    /// a note and its token, and for a session record and its state.
    NameFence,
    /// Publishing a note under its token, and withdrawing the one before.
    Note,
    /// Reading a note's token before its text.
    NoteRead,
}

impl Site {
    /// The ordering that ships.
    #[inline(always)]
    #[must_use]
    pub const fn ordering(self) -> Ordering {
        match self {
            Self::Grant => Ordering::AcqRel,
            Self::Vacate
            | Self::WakeBump
            | Self::EpochHelp
            | Self::Record
            | Self::Rename
            | Self::RenameFence
            | Self::Note => Ordering::Release,
            Self::Owner
            | Self::Epoch
            | Self::Wake
            | Self::RecordRead
            | Self::RenameRead
            | Self::NameFence
            | Self::NoteRead => Ordering::Acquire,
        }
    }
}
