//! The index of letters: what lists, groups and counts need, in about a hundred bytes a letter, kept as the stream grows.
//!
//! It follows from the dead-letter stream alone and is built anew from it whenever a keeper starts. Texts and payloads stay
//! in the stream: an entry says at which sequence.

mod any;
mod ask;
mod table;

use std::collections::BTreeSet;

use mesh_proto::v1::{self, LetterStanding, letter_record::Record};

use crate::{
    dead_letter::{Fingerprint, record_of},
    envelope::Envelope,
    subject::Place,
};
use table::{Names, Slots};

/// What is kept of a letter.
#[derive(Debug, Clone)]
struct Entry {
    id: [u8; 16],
    captured_at_ms: i64,
    fingerprint: u64,
    captured_sequence: u64,
    last_sequence: u64,
    generation: u32,
    /// Region, service and consumer, as one name.
    place: u32,
    message_type: u32,
    reason: u32,
    vendor: u32,
    vendor_code: u32,
    code: u8,
    effect: u8,
    standing: LetterStanding,
}

/// A letter's id and the number of its place: what stands under one consumer's subject says nothing of another's letter.
type Key = ([u8; 16], u32);

/// Entries in one piece of memory: a list that grows piece by piece is never copied.
const CHUNK: usize = 8192;

/// All letters, as far as they were read.
#[derive(Default)]
pub struct Index {
    names: Names,
    slots: Slots,
    chunks: Vec<Vec<Entry>>,
    /// Those whose newest record can't be read here, or of which none can that captures them.
    unread: BTreeSet<Key>,
    read_to: u64,
}

impl Entry {
    fn key(&self) -> Key {
        (self.id, self.place)
    }
}

impl Index {
    /// The sequence of the last record that was read.
    #[must_use]
    pub fn read_to(&self) -> u64 {
        self.read_to
    }

    /// How many letters there are, in whatever state.
    #[must_use]
    pub fn len(&self) -> usize {
        self.chunks.last().map_or(0, |last| (self.chunks.len() - 1) * CHUNK + last.len())
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// Takes the next record of the stream. What is no record, or does not follow from the state, changes nothing but how far
    /// it was read.
    pub fn apply(&mut self, envelope: &Envelope) {
        let Some(sequence) = envelope.delivery.as_ref().map(|delivery| delivery.sequence) else { return };
        self.read_to = self.read_to.max(sequence);
        let Some(Place::DeadLetter { region, service, consumer, letter }) = Place::parse(&envelope.subject) else {
            return;
        };
        let Some(id) = parse_id(letter) else { return };
        let key = (id, self.names.number(&[region, service, consumer].join("/")));
        let Some(record) = record_of(envelope) else {
            tracing::warn!(
                subject = envelope.subject,
                "a record among the letters can't be read, or is another letter's"
            );
            self.unread.insert(key);
            return;
        };
        let is_known = self.apply_record(key, sequence, &record);
        // What can be read of a letter whose capture can't says nothing of how it stands.
        if is_known {
            self.unread.remove(&key);
        }
    }

    /// Whether there is a letter that it is a record of.
    fn apply_record(&mut self, key: Key, sequence: u64, record: &Record) -> bool {
        let known = self.slots.find(&key, |slot| self.entry(slot).key());
        match (known, record) {
            (None, Record::Captured(letter)) => {
                let slot = u32::try_from(self.len()).unwrap_or(u32::MAX);
                let entry = self.entry_of(key, sequence, letter);
                if self.chunks.last().is_none_or(|last| last.len() == CHUNK) {
                    self.chunks.push(Vec::with_capacity(CHUNK));
                }
                if let Some(last) = self.chunks.last_mut() {
                    last.push(entry);
                }
                let chunks = &self.chunks;
                self.slots.add(slot, |slot| chunks[slot as usize / CHUNK][slot as usize % CHUNK].key());
                true
            }
            (None, _) => false,
            (Some(slot), record) => {
                self.follow(slot, key, sequence, record);
                true
            }
        }
    }

    /// As [`Letter`](crate::dead_letter::Letter) follows its records; a test holds the two together.
    fn follow(&mut self, slot: u32, key: Key, sequence: u64, record: &Record) {
        use LetterStanding::{Discarded, Held, Open, Replaying, Resolved};
        let before = self.entry(slot);
        let next = match (before.standing, record) {
            (Replaying, Record::Captured(letter)) if letter.generation > before.generation => {
                let entry = self.entry_of(key, sequence, letter);
                *self.entry_mut(slot) = entry;
                Open
            }
            (Open, Record::Replaying(_)) => Replaying,
            (Replaying, Record::Resolved(_)) => Resolved,
            (Open | Held, Record::Discarded(_)) => Discarded,
            (Open, Record::Held(_)) => Held,
            (Held, Record::Released(_)) => Open,
            (standing, _) => standing,
        };
        let entry = self.entry_mut(slot);
        (entry.standing, entry.last_sequence) = (next, sequence);
    }

    fn entry_of(&mut self, (id, place): Key, sequence: u64, letter: &v1::DeadLetter) -> Entry {
        let nothing = v1::Fault::default();
        let fault = letter.fault.as_ref().unwrap_or(&nothing);
        let (vendor, vendor_code) =
            fault.origin.as_ref().map_or(("", ""), |o| (o.vendor.as_str(), o.vendor_code.as_str()));
        Entry {
            id,
            captured_at_ms: letter.captured_at_ms,
            fingerprint: Fingerprint::of(fault).number(),
            captured_sequence: sequence,
            last_sequence: sequence,
            generation: letter.generation,
            place,
            message_type: self.names.number(&letter.message_type),
            reason: self.names.number(&fault.reason),
            vendor: self.names.number(vendor),
            vendor_code: self.names.number(vendor_code),
            code: u8::try_from(fault.code).unwrap_or_default(),
            effect: u8::try_from(fault.effect).unwrap_or_default(),
            standing: LetterStanding::Open,
        }
    }

    fn entry(&self, slot: u32) -> &Entry {
        &self.chunks[slot as usize / CHUNK][slot as usize % CHUNK]
    }

    fn entry_mut(&mut self, slot: u32) -> &mut Entry {
        &mut self.chunks[slot as usize / CHUNK][slot as usize % CHUNK]
    }

    fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.chunks.iter().flatten()
    }
}

impl std::fmt::Debug for Index {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Index").field("letters", &self.len()).field("read_to", &self.read_to).finish_non_exhaustive()
    }
}

/// 32 hexadecimal digits.
fn parse_id(text: &str) -> Option<[u8; 16]> {
    (text.len() == 32).then(|| u128::from_str_radix(text, 16).ok()).flatten().map(u128::to_be_bytes)
}

fn id_text(id: &[u8; 16]) -> String {
    format!("{:032x}", u128::from_be_bytes(*id))
}

#[cfg(test)]
mod tests;
