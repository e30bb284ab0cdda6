//! What is done to an image: blind flips, and lies that look like the truth.

use super::image::{
    BOOT_ID, FLOOR, INDEX_CAPACITY, INTENT, Image, NAME_BYTES, SESSION_BYTES, SESSIONS, SLOT_BYTES,
    SLOTS,
};
use crate::soak::dice::Dice;

/// Session indices at and around the ones that mean something else.
const ODD_SESSIONS: [u64; 12] = [0, 1, 2, 3, 4, 200, 4087, 4088, 4091, 4092, 4094, 4095];
/// "In the middle of being renamed", where a session index would be.
const RENAMING: u64 = 4091;

type Mutation = fn(&mut Image, &mut Dice);

const MUTATIONS: [Mutation; 19] = [
    flip_bit,
    random_word,
    odd_word,
    owner_word,
    owner_word,
    renaming_word,
    extreme_epoch,
    extreme_renames,
    name_length,
    copied_name,
    note,
    index_entry,
    whole_index,
    naming_words,
    session_record,
    waits,
    swapped_words,
    smeared_record,
    header,
];

/// Makes image `number` of the campaign `seed`.
pub(super) fn make(bases: &[Image], seed: u64, number: u64) -> Image {
    let mut dice = Dice::new(seed, number);
    let base = usize::try_from(dice.below(bases.len() as u64)).unwrap_or(0);
    let mut image = bases[base].clone();
    // Some begin as another boot's, so that the reset meets what comes now.
    if dice.percent(10) {
        image.put(BOOT_ID, dice.next());
    }
    for _ in 0..=dice.below(8) {
        if let Some(mutation) = dice.choose(&MUTATIONS) {
            mutation(&mut image, &mut dice);
        }
    }
    // The naming lock in the hands of a session that may turn out to be the user's own
    // makes each new name wait ten seconds: rare, or the campaign does nothing else.
    if dice.below(500) != 0 {
        let naming_lock = image.slot_at(0);
        image.put(naming_lock, 1 << 30);
    }
    if dice.percent(2) {
        length(&mut image, &mut dice);
    }
    image
}

fn pick(dice: &mut Dice, end: usize) -> usize {
    usize::try_from(dice.below(end as u64)).unwrap_or(0)
}

/// A number that is likely to be somebody's limit, or next to it.
fn odd_number(dice: &mut Dice) -> u64 {
    match dice.below(6) {
        0 => dice.below(4),
        1 => u64::MAX - dice.below(3),
        2 => (1 << dice.below(64)) - dice.below(2),
        3 => u64::from(u32::MAX) + dice.below(3) - 1,
        4 => dice.below(300),
        _ => dice.next() >> dice.below(64),
    }
}

fn flip_bit(image: &mut Image, dice: &mut Dice) {
    let at = pick(dice, image.bytes.len());
    image.bytes[at] ^= 1 << dice.below(8);
}

/// The place of a word of what follows the checked header.
fn any_word(image: &Image, dice: &mut Dice) -> usize {
    let words = (image.bytes.len() - BOOT_ID) / 8;
    BOOT_ID + 8 * pick(dice, words)
}

fn random_word(image: &mut Image, dice: &mut Dice) {
    let at = any_word(image, dice);
    image.put(at, dice.next());
}

fn odd_word(image: &mut Image, dice: &mut Dice) {
    let at = any_word(image, dice);
    image.put(at, odd_number(dice));
}

fn some_slot(image: &Image, dice: &mut Dice) -> usize {
    pick(dice, image.slots)
}

fn owner(dice: &mut Dice, session: u64) -> u64 {
    let pid = match dice.below(4) {
        0 => 0,
        1 => 1,
        2 => dice.below(1 << 22),
        _ => u64::from(std::process::id()),
    };
    let generation = match dice.below(3) {
        0 => dice.below(4),
        1 => (1 << 28) - 2 + dice.below(4),
        _ => (1 << 29) - 1 - dice.below(3),
    };
    pid << 42 | session << 30 | generation << 1 | dice.below(2)
}

fn owner_word(image: &mut Image, dice: &mut Dice) {
    let at = image.slot_at(some_slot(image, dice));
    let session = ODD_SESSIONS[pick(dice, ODD_SESSIONS.len())];
    image.put(at, owner(dice, session));
}

/// With the intent that goes with it, or another, or none.
fn renaming_word(image: &mut Image, dice: &mut Dice) {
    let slot = some_slot(image, dice);
    let at = image.slot_at(slot);
    image.put(at, owner(dice, RENAMING));
    match dice.below(3) {
        0 => image.put(INTENT, slot as u64),
        1 => image.put(INTENT, odd_number(dice)),
        _ => {}
    }
    if dice.percent(50) {
        let renames = image.word(at + 16);
        image.put(at + 16, renames | 1);
    }
}

fn extreme_epoch(image: &mut Image, dice: &mut Dice) {
    let at = image.slot_at(some_slot(image, dice)) + 8;
    image.put(at, odd_number(dice));
}

fn extreme_renames(image: &mut Image, dice: &mut Dice) {
    let at = image.slot_at(some_slot(image, dice)) + 16;
    image.put(at, odd_number(dice));
}

fn name_length(image: &mut Image, dice: &mut Dice) {
    let at = image.name_at(some_slot(image, dice)) + 8;
    let lengths = [0, 1, 7, 8, 254, 255, 256, 257, 1 << 32, u64::MAX];
    image.put(at, lengths[pick(dice, lengths.len())]);
}

/// One name twice, one of them where no index entry expects it.
fn copied_name(image: &mut Image, dice: &mut Dice) {
    let from = image.name_at(some_slot(image, dice));
    let to = image.name_at(some_slot(image, dice));
    if to.max(from) + NAME_BYTES <= image.bytes.len() {
        image.bytes.copy_within(from..from + NAME_BYTES, to);
    }
}

/// A note of the latest grant, or of none, of any length; the name's text, too.
fn note(image: &mut Image, dice: &mut Dice) {
    let slot = some_slot(image, dice);
    let (owner_at, name_at) = (image.slot_at(slot), image.name_at(slot));
    let generation = image.word(owner_at) >> 1 & ((1 << 29) - 1);
    image.put(name_at + 272, generation);
    image.put(name_at + 280, odd_number(dice));
    for word in 0..12 {
        image.put(name_at + 288 + 8 * word, dice.next());
    }
    image.put(name_at + 16, dice.next());
}

fn entry(image: &Image, dice: &mut Dice) -> u64 {
    let slot = match dice.below(4) {
        0 => dice.next() & 0xffff_ffff,
        1 => image.slots as u64,
        _ => dice.below(image.slots as u64),
    };
    // With a hash that a name has, or with any.
    let hash = match dice.percent(70) {
        true => image.word(image.name_at(some_slot(image, dice))),
        false => dice.next(),
    };
    hash & !0xffff_ffff | slot
}

fn index_entry(image: &mut Image, dice: &mut Dice) {
    let at = image.index_at(pick(dice, image.index));
    let entry = entry(image, dice);
    image.put(at, entry);
}

/// No empty place where a probe could end: full, all used once, or all for one slot.
fn whole_index(image: &mut Image, dice: &mut Dice) {
    let kind = dice.below(4);
    let one = entry(image, dice);
    for place in 0..image.index {
        let word = match kind {
            0 => entry(image, dice),
            1 => 1 << 32,
            2 => one,
            _ => 0,
        };
        let at = image.index_at(place);
        image.put(at, word);
    }
}

fn naming_words(image: &mut Image, dice: &mut Dice) {
    let at = FLOOR + 8 * pick(dice, 8);
    let word = match dice.percent(50) {
        true => dice.below(image.slots as u64 + 2),
        false => odd_number(dice),
    };
    image.put(at, word);
}

fn session_record(image: &mut Image, dice: &mut Dice) {
    let at = image.session_at(pick(dice, image.sessions));
    match dice.below(4) {
        // Active without a living holder of its byte, at any incarnation.
        0 => image.put(at, odd_number(dice) | 1),
        // The certificate, marked or somebody's, and the notice word beside it.
        1 => image.put(at + 64, dice.next()),
        // A command name full of control bytes.
        2 => image.put(at + 32, dice.next()),
        _ => image.put(at + 8 * pick(dice, 8), odd_number(dice)),
    }
}

fn waits(image: &mut Image, dice: &mut Dice) {
    let session = image.session_at(pick(dice, image.sessions));
    for wait in 0..8 {
        let count = odd_number(dice) << 32;
        let slot = match dice.percent(70) {
            true => dice.below(image.slots as u64),
            false => odd_number(dice) & 0xffff_ffff,
        };
        image.put(session + 128 + 8 * wait, count | slot);
    }
}

fn swapped_words(image: &mut Image, dice: &mut Dice) {
    let (a, b) = (any_word(image, dice), any_word(image, dice));
    let (x, y) = (image.word(a), image.word(b));
    image.put(a, y);
    image.put(b, x);
}

/// A whole record of one byte, or of noise.
fn smeared_record(image: &mut Image, dice: &mut Dice) {
    let (at, len) = match dice.below(3) {
        0 => (image.session_at(pick(dice, image.sessions)), SESSION_BYTES),
        1 => (image.slot_at(some_slot(image, dice)), SLOT_BYTES),
        _ => (image.name_at(some_slot(image, dice)), NAME_BYTES),
    };
    let byte = [0x00, 0xff, 0x01, 0x80][pick(dice, 4)];
    let noise = dice.percent(50);
    for word in 0..len / 8 {
        let value = match noise {
            true => dice.next(),
            false => u64::from_ne_bytes([byte; 8]),
        };
        image.put(at + 8 * word, value);
    }
}

/// A word of the header; half of the time under a check that is right again.
fn header(image: &mut Image, dice: &mut Dice) {
    // Most users would get no further: not at every turn.
    if !dice.percent(20) {
        return;
    }
    let at = 8 * pick(dice, 14);
    let word = match dice.percent(50) {
        true => odd_number(dice),
        false => image.word(at) ^ 1 << dice.below(64),
    };
    image.put(at, word);
    if dice.percent(50) {
        image.put_check();
    }
}

/// Cut off, drawn out, or of a geometry that is not the one it was made with, under a
/// check and of a length that go with it.
fn length(image: &mut Image, dice: &mut Dice) {
    let len = image.bytes.len();
    match dice.below(5) {
        0 => image.bytes.truncate(pick(dice, len)),
        1 => image.bytes.truncate(pick(dice, len / 4096) * 4096),
        2 => image.bytes.resize(len + 1 + pick(dice, 8192), 0xa5),
        3 => image.bytes.resize(len + 4096, 0),
        _ => other_geometry(image, dice),
    }
}

fn other_geometry(image: &mut Image, dice: &mut Dice) {
    let (slots, sessions) = (1 + dice.below(20_000), 1 + dice.below(4088));
    let capacity = (4 * slots).next_power_of_two().max(16);
    image.put(SLOTS, slots);
    image.put(SESSIONS, sessions);
    image.put(INDEX_CAPACITY, capacity);
    image.put_check();
    let records = [
        4096,
        SESSION_BYTES as u64 * sessions,
        8 * capacity,
        (SLOT_BYTES + NAME_BYTES) as u64 * (slots + 1),
    ];
    let end = records.iter().sum::<u64>().next_multiple_of(4096);
    image.bytes.resize(usize::try_from(end).unwrap_or(0), 0);
}
