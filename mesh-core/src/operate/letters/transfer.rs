//! Letters with their whole histories: out of one mesh, into another.
//!
//! A letter that is imported is appended as one, and only where nothing of it is. So a letter that is there stays as it is, and an
//! import that a crash cut off leaves whole letters, and goes on with the others.

use bytes::Bytes;
use mesh_proto::v1;

use crate::{
    bus::{Bus, PublishError},
    dead_letter::{Letter, Letters, append, record_of, sealed_whole},
    delayed::Lane,
    fault::{Code, Effect, Fault, Reason},
    subject::{self, DEAD_LETTER_STREAM, Name, Place, WIRE},
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

/// Appends a letter that is not there, all of it or nothing: whatever ends an import, no letter is left as it stood in the midst of
/// its history, open though it had ended.
///
/// # Errors
/// Its history is too long to be written as one; something of the letter is there that is not in this history (nothing of it was
/// written); the bus did not confirm it: the same import again goes on.
pub async fn import(bus: &Bus, history: &History) -> Result<Imported, Fault> {
    let lane = history.lane();
    let too_long = check_length(bus, history).err();
    // One that is there needs no writing.
    if let Some(fault) = &too_long
        && there(bus, &lane, history).await?.is_none_or(|found| found.is_cut_off(history))
    {
        return Err(fault.clone());
    }
    // Before the letter that claims it, and again where the letter is there: what is gone of it is made good.
    super::apart::put_along(bus, history).await?;
    if too_long.is_some() {
        return Ok(Imported::Skipped);
    }
    match append_whole(bus, (&lane, history), &Found::default()).await {
        Ok(()) => Ok(Imported::Written),
        Err(error) if error.is_conflict() => match there(bus, &lane, history).await? {
            // Its beginning, as an earlier export had it.
            Some(found) if found.is_cut_off(history) => go_on(bus, (&lane, history), found).await,
            _ => Ok(Imported::Skipped),
        },
        Err(error) => Err(unconfirmed(error, history)),
    }
}

/// The rest of a history whose beginning is there.
async fn go_on(bus: &Bus, (lane, history): (&Lane, &History), found: Found) -> Result<Imported, Fault> {
    match append_whole(bus, (lane, history), &found).await {
        Ok(()) => Ok(Imported::Written),
        Err(error) if error.is_conflict() => match there(bus, lane, history).await? {
            // A try whose acknowledgement was lost.
            Some(now) if now.records == history.records => Ok(Imported::Written),
            _ => Err(meanwhile(history)),
        },
        Err(error) => Err(unconfirmed(error, history)),
    }
}

/// What follows on what is there.
async fn append_whole(bus: &Bus, (lane, history): (&Lane, &History), found: &Found) -> Result<(), PublishError> {
    let rest = history.records.get(found.records.len()..).unwrap_or_default();
    match rest {
        [one] => append(bus, lane, &history.id, found.last, one).await.map(drop),
        rest => bus.publish_whole(&sealed_whole(bus, lane, &history.id, (found.last, rest))).await.map(drop),
    }
}

/// Whether the broker takes the history as one.
fn check_length(bus: &Bus, history: &History) -> Result<(), Fault> {
    let sealed = sealed_whole(bus, &history.lane(), &history.id, (0, &history.records));
    bus.check_whole(&sealed).map_err(|why| {
        let message = format!(
            "the history of letter {} has {} records and can't be written as one, and in parts a cut would leave the letter as it \
             stood in between: {why}; leave this line out, it stays where it was exported",
            history.id,
            history.records.len()
        );
        Fault::new(Code::FailedPrecondition, Effect::None, Reason::TooLarge, message)
    })
}

/// Where the letter stands already, if that is another region than the history's and nothing of it is in this one. Two letters with
/// one id, neither of which is the other's copy, are nobody's wish: an id on a command line means one.
///
/// # Errors
/// The bus can't be reached, or this identity may not read letters.
pub async fn elsewhere(bus: &Bus, history: &History) -> Result<Option<String>, Fault> {
    let History { region, service, consumer, id, .. } = history;
    let everywhere = format!("{WIRE}.dead.*.{service}.{consumer}.{id}");
    let Some(last) = bus.last_on(DEAD_LETTER_STREAM, &everywhere).await? else { return Ok(None) };
    let subject = last.open().envelope.subject;
    let Some(Place::DeadLetter { region: other, .. }) = Place::parse(&subject) else { return Ok(None) };
    let here = subject::dead_letter(region, service, consumer, id);
    let is_here = other == region.as_str() || bus.last_on(DEAD_LETTER_STREAM, &here).await?.is_some();
    Ok((!is_here).then(|| other.to_owned()))
}

fn unconfirmed(error: PublishError, history: &History) -> Fault {
    let next = "import the same file again: what is there is left as it is";
    error.into_order_fault(&format!("letter {}", history.id), next)
}

fn meanwhile(history: &History) -> Fault {
    let message = format!("letter {} was written to by somebody else while it was imported", history.id);
    Fault::new(Code::Aborted, Effect::None, Reason::LetterChanged, message)
}

/// What is there of a letter.
#[derive(Default)]
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
        let Some(delivery) = &envelope.delivery else { return Ok(None) };
        found.last = delivery.sequence;
        match record_of(&envelope) {
            Some(record) => found.records.push(v1::LetterRecord { record: Some(record) }),
            None => return Ok(None),
        }
    }
    Ok(Some(found).filter(|found| !found.records.is_empty()))
}
