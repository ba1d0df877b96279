//! A record of the dead-letter stream, believed as far as its subject vouches for it: pure.
//!
//! The broker lets a service write under its own name alone, so a record is its subject's. What a capture says of itself is only
//! the word of whoever wrote it: an order that believed it would send one service's bytes to another's consumer, with the
//! operator's rights.

use mesh_proto::v1::{self, letter_record::Record};
use prost::Message as _;

use crate::{envelope::Envelope, subject::Place};

/// The record of a message. `None`: it is none, a kind that this version does not know, or the capture of another letter than its
/// subject's.
#[must_use]
pub fn record_of(envelope: &Envelope) -> Option<Record> {
    let Some(Place::DeadLetter { service, consumer, letter, .. }) = Place::parse(&envelope.subject) else {
        return None;
    };
    let record = v1::LetterRecord::decode(envelope.payload.clone()).ok()?.record?;
    match &record {
        Record::Captured(it) if (&*it.id, &*it.service, &*it.consumer) != (letter, service, consumer) => None,
        _ => Some(record),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::envelope::Note;

    fn read(subject: &str, record: Record) -> Option<Record> {
        record_of(&Envelope {
            subject: subject.to_owned(),
            message_id: String::new(),
            caller: String::new(),
            trace: None,
            note: Note::default(),
            headers: Vec::new(),
            order: None,
            payload: v1::LetterRecord { record: Some(record) }.encode_to_vec().into(),
            delivery: None,
        })
    }

    #[test]
    fn a_capture_is_its_subjects_or_none() {
        let captured = |id: &str, service: &str, consumer: &str| {
            let (id, service, consumer) = (id.into(), service.into(), consumer.into());
            Record::Captured(v1::DeadLetter { id, service, consumer, ..Default::default() })
        };
        let subject = "mesh1.dead.local.mail.confirm.0af";
        assert!(read(subject, captured("0af", "mail", "confirm")).is_some());
        for forged in [
            captured("0af", "payments", "confirm"),
            captured("0af", "mail", "charge"),
            captured("0ae", "mail", "confirm"),
            captured("", "", ""),
        ] {
            assert_eq!(read(subject, forged.clone()), None, "{forged:?}");
        }
        assert!(read(subject, Record::Held(v1::LetterAct::default())).is_some());
        assert_eq!(read("mesh1.event.local.mail.a.B.0", captured("0af", "mail", "a")), None);
    }
}
