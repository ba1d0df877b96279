//! Putting a delivery among the letters, and ending a letter whose replay was handled.

use std::borrow::Cow;

use aws_lc_rs::digest;
use mesh_proto::v1;
use prost::Message as _;

use crate::{
    bus::{Bus, PublishError},
    delayed::{Lane, shortened, stored_at},
    envelope::{Envelope, LetterNote, header},
    fault::Fault,
    subject::{self, DEAD_LETTER_STREAM, Place},
};

/// A letter that the broker has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Captured {
    /// Its id.
    pub letter_id: String,
    /// 0 for a first failure, n after the n-th replay.
    pub generation: u32,
}

/// The id of the letter of a message at a consumer: 32 hexadecimal digits, the same however often it is captured.
///
/// The sequence tells a message from one that was sent again later with the same id; the message's id tells it from one
/// of a stream that was made anew and counts from 1 again.
#[must_use]
pub fn letter_id(lane: &Lane, source: (&str, u64), message_id: &str) -> String {
    use std::fmt::Write as _;
    let (stream, sequence) = source;
    let text = format!("{}\n{stream}\n{sequence}\n{message_id}", lane.durable());
    let hash = digest::digest(&digest::SHA256, text.as_bytes());
    hash.as_ref().iter().take(16).fold(String::with_capacity(32), |mut hex, byte| {
        // Writing to a String can't fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

/// Captures a delivery. A capture that was made before (a crash between it and the ack) counts as made.
///
/// # Errors
/// The broker has not confirmed it: the original must not be settled.
pub async fn capture(
    bus: &Bus,
    lane: &Lane,
    envelope: &Envelope,
    fault: &Fault,
    attempts: v1::Attempts,
) -> Result<Captured, PublishError> {
    let replayed = envelope.note.lane.as_ref().and_then(|note| note.letter.as_ref());
    let source = envelope.source().unwrap_or(("", 0));
    let id = replayed.map_or_else(|| letter_id(lane, source, &envelope.message_id), |letter| letter.id.clone());
    let captured = Captured { letter_id: id, generation: replayed.map_or(0, |letter| letter.generation) };
    let letter = letter(bus, lane, envelope, fault, (&captured, attempts));
    let record = v1::LetterRecord { record: Some(v1::letter_record::Record::Captured(letter)) };
    let expected = replayed.map_or(0, |letter| letter.ordered_at);
    match append(bus, lane, &captured.letter_id, expected, &record).await {
        Err(error) if error.is_conflict() => Ok(captured),
        other => other.map(|_| captured),
    }
}

/// Ends the letter whose replay was handled. Ended before (a crash before the ack) counts as ended.
///
/// # Errors
/// The broker has not confirmed it: the replayed delivery must not be settled.
pub async fn resolve(bus: &Bus, lane: &Lane, letter: &LetterNote) -> Result<(), PublishError> {
    let act = v1::LetterAct {
        generation: letter.generation,
        at_ms: bus.gate().clock().now_ms(),
        by: lane.service.to_string(),
        why: "handled".into(),
        job: String::new(),
    };
    let record = v1::LetterRecord { record: Some(v1::letter_record::Record::Resolved(act)) };
    match append(bus, lane, &letter.id, letter.ordered_at, &record).await {
        Err(error) if error.is_conflict() => Ok(()),
        other => other.map(drop),
    }
}

/// Appends a record to a letter if `expected` is the sequence of its last one (0: there is none).
///
/// # Errors
/// A conflict ([`PublishError::is_conflict`]): something was written meanwhile, by somebody else, or this very record by a try
/// whose acknowledgement was lost. Whoever must know which reads the letter. Or the broker has not confirmed it.
pub(crate) async fn append(
    bus: &Bus,
    lane: &Lane,
    id: &str,
    expected: u64,
    record: &v1::LetterRecord,
) -> Result<u64, PublishError> {
    let subject = subject::dead_letter(&lane.region, &lane.service, &lane.consumer, id);
    let headers = vec![(Cow::Borrowed(header::EXPECTED_LAST), expected.to_string())];
    let sealed = bus.gate().seal_own(subject, headers, record.encode_to_vec().into());
    bus.publish(DEAD_LETTER_STREAM, sealed).await.map(|stored| stored.sequence)
}

/// Where the original of a delivery was stored.
#[must_use]
pub fn source(envelope: &Envelope) -> v1::Source {
    let (stream, sequence) = envelope.source().unwrap_or(("", 0));
    v1::Source {
        stream: stream.to_owned(),
        sequence,
        subject: envelope.subject.clone(),
        message_id: envelope.message_id.clone(),
        stored_at_ms: stored_at(envelope),
        deliveries: envelope.delivery.as_ref().map_or(0, |d| d.deliveries),
    }
}

fn letter(
    bus: &Bus,
    lane: &Lane,
    envelope: &Envelope,
    fault: &Fault,
    about: (&Captured, v1::Attempts),
) -> v1::DeadLetter {
    let (captured, attempts) = about;
    let message_type = Place::parse(&envelope.subject).and_then(|place| place.contract()).unwrap_or_default();
    v1::DeadLetter {
        id: captured.letter_id.clone(),
        generation: captured.generation,
        service: lane.service.to_string(),
        consumer: lane.consumer.to_string(),
        source: Some(source(envelope)),
        message_type,
        payload: envelope.payload.clone(),
        headers: envelope
            .headers
            .iter()
            .filter(|(name, _)| !name.eq_ignore_ascii_case(header::ATTEMPTS))
            .map(|(name, value)| v1::Header { name: name.clone(), value: value.clone() })
            .collect(),
        fault: Some(fault.into()),
        attempts: shortened(&attempts).attempts,
        captured_at_ms: bus.gate().clock().now_ms(),
        traceparent: envelope.trace.map(|trace| trace.to_string()).unwrap_or_default(),
        caller: envelope.caller.clone(),
        key: envelope.order.as_ref().map(|order| order.key.clone()).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_is_of_consumer_source_and_message() {
        let lane = |consumer: &str| Lane {
            region: "local".parse().unwrap(),
            service: "payments".parse().unwrap(),
            consumer: consumer.parse().unwrap(),
        };
        let id = letter_id(&lane("charge"), ("s", 1), "m");
        assert_eq!(id.len(), 32);
        assert_eq!(id, letter_id(&lane("charge"), ("s", 1), "m"));
        assert_ne!(id, letter_id(&lane("refund"), ("s", 1), "m"));
        assert_ne!(id, letter_id(&lane("charge"), ("t", 1), "m"));
        assert_ne!(id, letter_id(&lane("charge"), ("s", 2), "m"));
        assert_ne!(id, letter_id(&lane("charge"), ("s", 1), "n"));
    }
}
