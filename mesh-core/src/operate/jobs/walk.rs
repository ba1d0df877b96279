//! Every letter that a job may send, one after the other, in the order of the stream.
//!
//! What is read is the newest record of each letter. For most that is their capture, which holds all that a replay needs. Only
//! a handful at a time is in memory: the reading waits until the job wants more.

use std::time::Duration;

use mesh_proto::v1::{self, letter_record::Record};
use prost::Message as _;
use tokio::sync::mpsc;

use super::{Selection, progress::Key};
use crate::{
    bus::{Bus, Start},
    dead_letter::{Letter, Letters},
    envelope::Envelope,
    fault::Fault,
    subject::{DEAD_LETTER_STREAM, Place},
};

/// How long after a loss the walk begins again.
const AGAIN_AFTER: Duration = Duration::from_millis(250);

/// A letter that may be meant.
#[derive(Debug)]
pub(super) enum Candidate {
    /// It is open, as captured.
    Letter(Box<Letter>),
    /// Something happened to it: its whole history says whether it was meant and where it stands.
    LookUp { key: Key, subject: String },
}

impl Candidate {
    /// `None`: its id is none.
    pub(super) fn key(&self) -> Option<Key> {
        match self {
            Candidate::Letter(letter) => Key::of(&letter.letter.id),
            Candidate::LookUp { key, .. } => Some(*key),
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
pub(super) async fn walk(bus: &Bus, selection: &Selection, into: mpsc::Sender<Found>) {
    loop {
        match walk_once(bus, selection, &into).await {
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

async fn walk_once(bus: &Bus, selection: &Selection, into: &mpsc::Sender<Found>) -> Result<(), Fault> {
    let subjects = selection.subjects(bus.gate().identity().region());
    let mut following = bus.follow_from(DEAD_LETTER_STREAM, subjects, Start::NewestOfEach).await?;
    for _ in 0..following.stored() {
        let envelope = following.next().await?.open().envelope;
        if into.send(Found::Newest(Box::new(envelope))).await.is_err() {
            break;
        }
    }
    following.close().await;
    Ok(())
}

/// Whether a letter may be meant, by its newest record. `None`: it is not, whatever came before.
///
/// What was open at the cut-off is meant. Its newest record is an open one up to there, or anything after.
pub(super) fn candidate_now(envelope: &Envelope, cut_off: u64) -> Option<Candidate> {
    let sequence = envelope.delivery.as_ref()?.sequence;
    let Some(Place::DeadLetter { letter, .. }) = Place::parse(&envelope.subject) else { return None };
    let key = Key::of(letter)?;
    let record = v1::LetterRecord::decode(envelope.payload.clone()).ok()?.record?;
    let look_up = || Some(Candidate::LookUp { key, subject: envelope.subject.clone() });
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
