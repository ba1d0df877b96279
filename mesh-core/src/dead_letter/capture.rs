//! Putting a delivery among the letters, and ending a letter whose replay was handled.

use std::borrow::Cow;

use mesh_proto::v1;
use prost::Message as _;

use crate::{
    bus::{Bus, PublishError},
    delayed::{Lane, cut, headers_of, key_of, put_apart, shortened, stored_at},
    envelope::{Envelope, LetterNote, TraceContext, header},
    fault::Fault,
    gate::{MAX_ID, Sealed, believed},
    subject::{self, DEAD_LETTER_STREAM, Place},
};

/// Bytes of each text of a fault in a letter, at most: a letter without a payload fits into one message.
const TEXT_BYTES: usize = 8 * 1024;
/// Bytes of headers of its sender's in a letter whose message lies apart, at most.
const HEADER_BYTES: usize = 16 * 1024;

/// A fault as it stands in a letter.
#[must_use]
pub(crate) fn stated(fault: &Fault) -> v1::Fault {
    cut(fault.into(), TEXT_BYTES)
}

/// A letter that the broker has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Captured {
    /// Its id.
    pub letter_id: String,
    /// 0 for a first failure, n after the n-th replay.
    pub generation: u32,
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
    let captured =
        Captured { letter_id: lane.letter_of(envelope), generation: replayed.map_or(0, |letter| letter.generation) };
    let mut letter = letter(bus, lane, envelope, fault, (&captured, attempts));
    if envelope.claim().is_some() || !fits(bus, lane, &letter) {
        letter.claim = Some(put_apart(bus, lane, envelope).await?);
        leave_out(&mut letter);
    }
    let record = v1::LetterRecord { record: Some(v1::letter_record::Record::Captured(letter)) };
    let expected = replayed.map_or(0, |letter| letter.ordered_at);
    match append(bus, lane, &captured.letter_id, expected, &record).await {
        // The letter that was replayed is no more, and neither is this capture of an earlier try: it begins the letter again.
        Err(error) if expected > 0 && error.is_gone() => {
            captured_already(append(bus, lane, &captured.letter_id, 0, &record).await)?;
        }
        stored => captured_already(stored)?,
    }
    Ok(captured)
}

/// Whatever stands where a capture was to stand is this capture, or what came after it.
fn captured_already(stored: Result<u64, PublishError>) -> Result<(), PublishError> {
    match stored {
        Err(error) if error.is_conflict() => Ok(()),
        other => other.map(drop),
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
    let sealed = sealed(bus, lane, id, (Some(expected), record));
    bus.publish(DEAD_LETTER_STREAM, sealed).await.map(|stored| stored.sequence)
}

/// Records to be appended to a letter as one, if `expected` is the sequence of its last one. The broker holds an expectation against
/// what was there before the batch: only the first has one.
pub(crate) fn sealed_whole(
    bus: &Bus,
    lane: &Lane,
    id: &str,
    (expected, records): (u64, &[v1::LetterRecord]),
) -> Vec<Sealed> {
    let expected = std::iter::once(Some(expected)).chain(std::iter::repeat(None));
    records.iter().zip(expected).map(|(record, expected)| sealed(bus, lane, id, (expected, record))).collect()
}

fn sealed(bus: &Bus, lane: &Lane, id: &str, (expected, record): (Option<u64>, &v1::LetterRecord)) -> Sealed {
    let subject = subject::dead_letter(&lane.region, &lane.service, &lane.consumer, id);
    let expected = expected.map(|sequence| (Cow::Borrowed(header::EXPECTED_LAST), sequence.to_string()));
    let headers = expected.into_iter().collect();
    bus.gate().seal_own(subject, headers, record.encode_to_vec().into())
}

/// Whether a letter and all that it carries fits into one message.
fn fits(bus: &Bus, lane: &Lane, letter: &v1::DeadLetter) -> bool {
    let record = v1::LetterRecord { record: Some(v1::letter_record::Record::Captured(letter.clone())) };
    bus.gate().carries(&sealed(bus, lane, &letter.id, (Some(u64::MAX), &record)))
}

/// Leaves out of a letter what lies apart; small headers stay, so that letters can be told by them. Those by which the mesh goes
/// on stay whatever there is beside them: a replay that lost the idempotency key would be new to a vendor.
fn leave_out(letter: &mut v1::DeadLetter) {
    letter.payload.clear();
    let source = letter.source.clone().unwrap_or_default();
    let mut left = HEADER_BYTES;
    letter.headers.retain(|header| {
        if stays(header, &source) {
            return true;
        }
        let bytes = header.name.len() + header.value.len();
        let fits = bytes <= left;
        left -= if fits { bytes } else { 0 };
        fits
    });
}

/// Whether the mesh goes on by a header: one that it believed, so it has a bound.
fn stays(header: &v1::Header, source: &v1::Source) -> bool {
    let is = |name: &str| header.name.eq_ignore_ascii_case(name);
    (is(header::MESH) && believed(&header.value, source).is_some())
        || (is(header::MESSAGE_ID) && header.value.len() <= MAX_ID)
        || (is(header::TRACEPARENT) && TraceContext::parse(&header.value).is_some())
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
        headers: headers_of(envelope),
        fault: Some(stated(fault)),
        attempts: shortened(&attempts).attempts,
        captured_at_ms: bus.gate().clock().now_ms(),
        traceparent: envelope.trace.map(|trace| trace.to_string()).unwrap_or_default(),
        caller: envelope.caller.clone(),
        key: key_of(envelope).unwrap_or_default(),
        claim: None,
        copy: copy(envelope),
    }
}

/// The delivery's own place, where that is not its original's.
fn copy(envelope: &Envelope) -> Option<v1::Copy> {
    let delivery = envelope.delivery.as_ref().filter(|_| envelope.note.lane.is_some())?;
    Some(v1::Copy { stream: delivery.stream.clone(), sequence: delivery.sequence })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(name: &str, value: impl Into<String>) -> v1::Header {
        v1::Header { name: name.into(), value: value.into() }
    }

    #[test]
    fn what_the_mesh_goes_on_by_stays_in_a_letter_whatever_stands_before_it() {
        let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let own = [header("MESH", format!("k={}", "%25".repeat(1024))), header("nats-msg-id", "i".repeat(1024))];
        let others = [header("one", "x".repeat(HEADER_BYTES - 3)), header("two", "x")];
        let headers = others.into_iter().chain(own).chain([header("traceparent", trace)]).collect();
        let mut letter = v1::DeadLetter { headers, payload: vec![1].into(), ..v1::DeadLetter::default() };
        leave_out(&mut letter);
        let names: Vec<_> = letter.headers.iter().map(|header| header.name.as_str()).collect();
        assert_eq!(names, ["one", "MESH", "nats-msg-id", "traceparent"]);
        assert!(letter.payload.is_empty());
    }

    #[test]
    fn what_was_not_believed_counts_as_any_other_header() {
        let mut letter = v1::DeadLetter {
            headers: vec![header("mesh", "z".repeat(60_000)), header("Nats-Msg-Id", "i".repeat(60_000))],
            ..v1::DeadLetter::default()
        };
        leave_out(&mut letter);
        assert!(letter.headers.is_empty());
    }
}
