//! Letters with their whole histories: out of one mesh, into another.
//!
//! What is imported is appended record by record, the first one only where nothing is, each other one only after the one
//! before. So a letter that is there stays as it is, and an import that a crash cut off goes on where it was.

use bytes::Bytes;
use mesh_proto::v1;
use prost::Message as _;

use crate::{
    bus::{Bus, PublishError},
    dead_letter::{Letter, Letters, append},
    delayed::Lane,
    fault::{Code, Effect, Fault, Reason},
    subject::{self, DEAD_LETTER_STREAM, Name},
};

/// A letter's records, in order.
#[derive(Debug, Clone, PartialEq)]
pub struct History {
    /// The region of its subject.
    pub region: Name,
    /// The service that failed.
    pub service: Name,
    /// Its consumer.
    pub consumer: Name,
    /// The letter's id.
    pub id: String,
    /// What was written, in order.
    pub records: Vec<v1::LetterRecord>,
    /// What lies apart of it, as far as it is taken along.
    pub apart: Vec<Bytes>,
}

/// What became of an imported letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Imported {
    /// It is there now.
    Written,
    /// It was there, or more of it: nothing was changed.
    Skipped,
}

impl History {
    pub(super) fn lane(&self) -> Lane {
        Lane { region: self.region.clone(), service: self.service.clone(), consumer: self.consumer.clone() }
    }

    /// Without records that changed nothing: another mesh need not keep them.
    pub(super) fn that_follows(mut self) -> History {
        let mut letters = Letters::default();
        let mut number = 0;
        self.records.retain(|record| {
            number += 1;
            letters.follow(&self.id, self.region.as_str(), number, record.clone())
        });
        self
    }

    /// The letter that the records tell of.
    ///
    /// # Errors
    /// They are no letter's history, or not of this one; which record, and why.
    pub fn letter(&self) -> Result<Letter, String> {
        let mut letters = Letters::default();
        for (number, record) in (1_u64..).zip(&self.records) {
            if let Some(v1::letter_record::Record::Captured(letter)) = &record.record {
                let is_ours = letter.id == self.id
                    && letter.service == self.service.as_str()
                    && letter.consumer == self.consumer.as_str();
                if !is_ours {
                    return Err(format!("record {number} is of another letter"));
                }
            }
            if !letters.follow(&self.id, self.region.as_str(), number, record.clone()) {
                return Err(format!("record {number} does not follow from those before it"));
            }
        }
        if super::apart::in_place(self).any(|of| of.is_err()) {
            return Err("what lies apart of it is not what its records claim".to_owned());
        }
        letters.into_map().into_values().next().ok_or_else(|| "it has no records".to_owned())
    }
}

/// Appends a letter that is not there.
///
/// # Errors
/// Something of the letter is there that is not in this history (nothing of it was written after that); the bus did not
/// confirm it: the same import again goes on.
pub async fn import(bus: &Bus, history: &History) -> Result<Imported, Fault> {
    let lane = history.lane();
    // Before the letter that claims it, and again where the letter is there: an import that was cut off is made good.
    super::apart::put_along(bus, history).await?;
    let mut last = 0;
    for (index, record) in history.records.iter().enumerate() {
        last = match append(bus, &lane, &history.id, last, record).await {
            Ok(sequence) => sequence,
            Err(error) if error.is_conflict() => match there(bus, &lane, history).await? {
                // Ours, cut off or unconfirmed: go on after it.
                Some(found) if found.is_cut_off(history) => return go_on(bus, (&lane, history), found).await,
                Some(found) if index > 0 && found.records == history.records => return Ok(Imported::Written),
                _ if index > 0 => return Err(meanwhile(history)),
                _ => return Ok(Imported::Skipped),
            },
            Err(error) => return Err(unconfirmed(error, history)),
        };
    }
    Ok(Imported::Written)
}

/// The rest of a history whose beginning is there.
async fn go_on(bus: &Bus, (lane, history): (&Lane, &History), found: Found) -> Result<Imported, Fault> {
    let mut last = found.last;
    for record in history.records.iter().skip(found.records.len()) {
        last = match append(bus, lane, &history.id, last, record).await {
            Ok(sequence) => sequence,
            Err(error) if error.is_conflict() => return Err(meanwhile(history)),
            Err(error) => return Err(unconfirmed(error, history)),
        };
    }
    Ok(Imported::Written)
}

fn unconfirmed(error: PublishError, history: &History) -> Fault {
    let next = "import the same file again: what is there is left as it is";
    error.into_order_fault(&format!("letter {}", history.id), next)
}

fn meanwhile(history: &History) -> Fault {
    let message = format!("letter {} was written to by somebody else while it was imported", history.id);
    Fault::new(Code::Aborted, Effect::Unknown, Reason::LetterChanged, message)
}

/// What is there of a letter.
struct Found {
    records: Vec<v1::LetterRecord>,
    last: u64,
}

impl Found {
    fn is_cut_off(&self, history: &History) -> bool {
        self.records.len() < history.records.len() && history.records.starts_with(&self.records)
    }
}

async fn there(bus: &Bus, lane: &Lane, history: &History) -> Result<Option<Found>, Fault> {
    let subject = subject::dead_letter(&lane.region, &lane.service, &lane.consumer, &history.id);
    let mut found = Found { records: Vec::new(), last: 0 };
    // A letter has few records: to ask for each costs the broker less than a consumer to read them.
    let end = bus.last_sequence_on(DEAD_LETTER_STREAM, &subject).await?.unwrap_or(0);
    while found.last < end
        && let Some(message) = bus.next_on(DEAD_LETTER_STREAM, &subject, found.last + 1).await?
    {
        let envelope = message.open().envelope;
        let Some(delivery) = envelope.delivery else { return Ok(None) };
        found.last = delivery.sequence;
        match v1::LetterRecord::decode(envelope.payload) {
            Ok(record) => found.records.push(record),
            Err(_) => return Ok(None),
        }
    }
    Ok(Some(found).filter(|found| !found.records.is_empty()))
}
