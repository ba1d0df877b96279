//! Every letter that a job may send, one after the other, in the order of the stream.
//!
//! What is read is the newest record of each letter. For most that is their capture, which holds all that a replay needs. Only
//! a handful at a time is in memory: the reading waits until the job wants more.

use std::time::Duration;

use mesh_proto::v1::{self, letter_record::Record};
use prost::Message as _;
use tokio::sync::mpsc;

use super::{Selection, dispatch::subject_of, progress::Key};
use crate::{
    bus::{Bus, Following, Start},
    dead_letter::{Letter, Letters},
    envelope::Envelope,
    fault::Fault,
    operate::letters::behind,
    subject::DEAD_LETTER_STREAM,
};

/// How long after a loss the walk begins again.
const AGAIN_AFTER: Duration = Duration::from_millis(250);

/// A letter that may be meant.
#[derive(Debug)]
pub(super) enum Candidate {
    /// It is open, as captured.
    Letter(Box<Letter>),
    /// Something happened to it: its whole history says whether it was meant and where it stands.
    LookUp {
        key: Key,
        subject: String,
        /// The sequence of its newest record.
        seen: u64,
        /// Whether it is known to be meant.
        is_meant: bool,
    },
}

impl Candidate {
    /// `None`: its id is none.
    pub(super) fn key(&self) -> Option<Key> {
        match self {
            Candidate::Letter(letter) => Key::of(&subject_of(letter)),
            Candidate::LookUp { key, .. } => Some(*key),
        }
    }

    /// Its subject, and whether it is known to be meant: all that is kept of one that waits.
    pub(super) fn into_subject(self) -> (String, bool) {
        match self {
            Candidate::Letter(letter) => (subject_of(&letter), true),
            Candidate::LookUp { subject, is_meant, .. } => (subject, is_meant),
        }
    }

    /// Bytes that it holds, about.
    pub(super) fn size(&self) -> usize {
        match self {
            Candidate::Letter(letter) => letter.letter.payload.len() + 1024,
            Candidate::LookUp { .. } => 1024,
        }
    }
}

/// What the walk comes across.
#[derive(Debug)]
pub(super) enum Found {
    /// The newest record of a letter.
    Newest(Box<Envelope>),
    /// There are no more.
    End,
}

/// Walks once through the letters of a selection as they stand now; from the beginning again where the connection is lost:
/// what was seen before comes twice then.
pub(super) async fn walk(bus: &Bus, (selection, cut_off): (&Selection, u64), into: mpsc::Sender<Found>) {
    loop {
        match walk_once(bus, (selection, cut_off), &into).await {
            Ok(()) => break,
            Err(fault) => tracing::debug!(%fault, "the walk through the letters begins again"),
        }
        tokio::time::sleep(AGAIN_AFTER).await;
    }
    // Nobody wants it any more: nothing to say.
    let _ = into.send(Found::End).await;
    // Whoever polls this beside other things needs it to stay: it has nothing more to do.
    std::future::pending().await
}

async fn walk_once(bus: &Bus, of: (&Selection, u64), into: &mpsc::Sender<Found>) -> Result<(), Fault> {
    let mut newest = Newest::of(bus, of).await?;
    while let Some(envelope) = newest.next().await? {
        if into.send(Found::Newest(Box::new(envelope))).await.is_err() {
            break;
        }
    }
    newest.following.close().await;
    Ok(())
}

/// The newest record of each letter of a selection, as of a cut-off at least.
///
/// In a cluster whoever reads is served by one of the stream's servers, which may be behind: one that was just started again has
/// not got everything. So the record at the cut-off, or a later one of its letter, must have been among what was read.
pub(super) struct Newest {
    pub(super) following: Following,
    left: u64,
    subjects: Vec<String>,
    cut_off: u64,
    /// Whether the server that reads has what was there at the cut-off.
    is_current: bool,
}

impl Newest {
    /// Begins to read.
    ///
    /// # Errors
    /// The bus can't be reached, or this identity may not read letters.
    pub(super) async fn of(bus: &Bus, (selection, cut_off): (&Selection, u64)) -> Result<Newest, Fault> {
        let subjects = selection.subjects(bus.gate().identity().region());
        let last = if cut_off == 0 { None } else { bus.message_at(DEAD_LETTER_STREAM, cut_off).await? };
        let witness = last.map(|message| message.open().envelope.subject);
        let mut filters = subjects.clone();
        filters.extend(witness.clone().filter(|subject| !subjects.iter().any(|filter| fits(filter, subject))));
        let following = bus.follow_from(DEAD_LETTER_STREAM, filters, Start::NewestOfEach).await?;
        let left = following.stored();
        Ok(Newest { following, left, subjects, cut_off, is_current: witness.is_none() })
    }

    /// The next one; `None`: there are no more.
    ///
    /// # Errors
    /// The place is lost, or the server that reads is behind: begin again.
    pub(super) async fn next(&mut self) -> Result<Option<Envelope>, Fault> {
        while self.left > 0 {
            self.left -= 1;
            let envelope = self.following.next().await?.open().envelope;
            self.is_current |= envelope.delivery.as_ref().is_some_and(|delivery| delivery.sequence >= self.cut_off);
            if self.subjects.iter().any(|filter| fits(filter, &envelope.subject)) {
                return Ok(Some(envelope));
            }
        }
        if self.is_current {
            return Ok(None);
        }
        Err(behind())
    }
}

/// Whether a filter of tokens and `*` takes a subject.
fn fits(filter: &str, subject: &str) -> bool {
    let same = |(one, other): (&str, &str)| one == "*" || one == other;
    filter.split('.').count() == subject.split('.').count() && filter.split('.').zip(subject.split('.')).all(same)
}

/// Whether a letter may be meant, by its newest record. `None`: it is not, whatever came before.
///
/// What was open at the cut-off is meant. Its newest record is an open one up to there, or anything after.
pub(super) fn candidate_now(envelope: &Envelope, cut_off: u64) -> Option<Candidate> {
    let sequence = envelope.delivery.as_ref()?.sequence;
    let key = Key::of(&envelope.subject)?;
    let record = v1::LetterRecord::decode(envelope.payload.clone()).ok()?.record?;
    let subject = || envelope.subject.clone();
    let look_up = || Some(Candidate::LookUp { key, subject: subject(), seen: sequence, is_meant: false });
    match record {
        Record::Captured(captured) if sequence > cut_off && captured.generation == 0 => None,
        Record::Captured(_) if sequence <= cut_off => {
            let mut letters = Letters::default();
            letters.apply(envelope);
            letters.into_map().into_values().next().map(|letter| Candidate::Letter(Box::new(letter)))
        }
        Record::Edited(_) | Record::Released(_) => look_up(),
        _ if sequence > cut_off => look_up(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::fits;

    #[test]
    fn a_filter_takes_what_the_broker_would() {
        let subject = "mesh1.dead.local.a.work.0af";
        for filter in ["mesh1.dead.local.a.work.*", "mesh1.dead.local.*.*.*", subject] {
            assert!(fits(filter, subject), "{filter}");
        }
        for filter in
            ["mesh1.dead.local.b.*.*", "mesh1.dead.eu.*.*.*", "mesh1.dead.local.a.work", "mesh1.dead.*.*.*.*.*"]
        {
            assert!(!fits(filter, subject), "{filter}");
        }
    }
}
