//! The lane of one consumer: where its delayed and replayed deliveries are.

use std::borrow::Cow;

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use mesh_proto::v1;
use prost::Message as _;

use super::stored_at;
use crate::{
    claim::Owner,
    envelope::{Envelope, header, is_own},
    subject::{self, Name, Place},
};

/// Attempts that travel with a delayed copy, at most: the first and the newest ones stay, and the newest that may have acted.
const MAX_ATTEMPTS_KEPT: usize = 16;

/// Whose lane it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lane {
    /// The region.
    pub region: Name,
    /// The service.
    pub service: Name,
    /// The consumer, unique within the service.
    pub consumer: Name,
}

impl Lane {
    /// The stream that it lies in.
    #[must_use]
    pub fn stream(&self) -> String {
        subject::lane_stream(self.service.as_str())
    }

    /// The broker's name of the consumer, on its own stream and on the lane's.
    #[must_use]
    pub fn durable(&self) -> String {
        subject::durable(&self.service, &self.consumer)
    }

    /// The broker's name of one partition of it, where it keeps the order of keys.
    #[must_use]
    pub fn partition_durable(&self, partition: u32) -> String {
        subject::partition_durable(&self.service, &self.consumer, partition)
    }

    /// Whose bytes they are that lie apart.
    #[must_use]
    pub fn owner(&self) -> Owner<'_> {
        Owner { region: &self.region, service: &self.service, consumer: &self.consumer }
    }

    /// The id of the letter that a delivery has or would have: after a replay, the replayed one's.
    #[must_use]
    pub fn letter_of(&self, envelope: &Envelope) -> String {
        let replayed = envelope.note.lane.as_ref().and_then(|note| note.letter.as_ref());
        let source = envelope.source().unwrap_or(("", 0));
        let new = || letter_id(self, source, stored_at(envelope), &envelope.message_id);
        replayed.map_or_else(new, |letter| letter.id.clone())
    }

    /// Where a delivery becomes due whose original came on the subject `original`.
    #[must_use]
    pub fn due_for(&self, original: &str) -> String {
        // The gate lets no other subject in; should one come, its copy is refused by the gate and becomes a letter.
        let unknown = Place::Event { region: "", producer: "unknown", message: "", partition: "0" };
        let place = Place::parse(original).unwrap_or(unknown);
        subject::lane_due(&self.region, &self.service, &self.consumer, &place)
    }
}

/// The name of a blocked key in subjects and headers, where keys themselves may not stand: 32 hexadecimal digits.
#[must_use]
pub fn block_of(key: &str) -> String {
    half_hash(key)
}

/// The id of the letter of a message at a consumer: 32 hexadecimal digits, the same however often it is captured.
///
/// The sequence tells a message from one that was sent again later with the same id; when its original was stored tells it from
/// what lies there with the same id in a stream that was made anew and counts from 1 again.
#[must_use]
pub fn letter_id(lane: &Lane, source: (&str, u64), stored_at_ms: i64, message_id: &str) -> String {
    let (stream, sequence) = source;
    half_hash(&format!("{}\n{stream}\n{sequence}\n{stored_at_ms}\n{message_id}", lane.durable()))
}

fn half_hash(text: &str) -> String {
    let mut hash = subject::sha256(text.as_bytes());
    hash.truncate(32);
    hash
}

/// The attempts that a delivery carries along.
#[must_use]
pub fn attempts_of(envelope: &Envelope) -> v1::Attempts {
    envelope
        .header(header::ATTEMPTS)
        .and_then(|text| STANDARD_NO_PAD.decode(text).ok())
        .and_then(|bytes| v1::Attempts::decode(bytes.as_slice()).ok())
        .unwrap_or_default()
}

/// The header's value. Texts are cut and the middle left out, so that it stays small.
#[must_use]
pub fn encode_attempts(attempts: &v1::Attempts) -> String {
    STANDARD_NO_PAD.encode(shortened(attempts).encode_to_vec())
}

/// The first attempt and the newest ones, their texts cut: so many bytes that a copy, a record or a letter can hold them. Whether
/// any of them may have acted is not forgotten: the newest that may have is kept too.
#[must_use]
pub fn shortened(attempts: &v1::Attempts) -> v1::Attempts {
    let all = &attempts.attempts;
    let surplus = all.len().saturating_sub(MAX_ATTEMPTS_KEPT);
    let (first, rest) = all.split_at(all.len().min(1));
    let (cut_off, newest) = rest.split_at(surplus.min(rest.len()));
    let acted = cut_off.iter().rfind(|attempt| may_have_acted(attempt));
    let newest = if acted.is_some() { newest.get(1..).unwrap_or_default() } else { newest };
    let kept = first.iter().chain(acted).chain(newest);
    v1::Attempts { attempts: kept.cloned().map(shorten).collect() }
}

fn may_have_acted(attempt: &v1::Attempt) -> bool {
    attempt.fault.as_ref().is_some_and(|fault| fault.effect() != v1::Effect::None)
}

fn shorten(mut attempt: v1::Attempt) -> v1::Attempt {
    const LONGEST: usize = 300;
    attempt.fault = attempt.fault.map(|fault| cut(fault, LONGEST));
    attempt
}

/// A fault whose texts have at most so many bytes each, and those of its origin at most 256: it may have come from another side,
/// which cuts nothing.
pub(crate) fn cut(mut fault: v1::Fault, longest: usize) -> v1::Fault {
    const LONGEST_OF_ORIGIN: usize = 256;
    for text in [&mut fault.message, &mut fault.detail] {
        truncate(text, longest);
    }
    if let Some(origin) = &mut fault.origin {
        let v1::Origin { service, vendor, operation, request_id, vendor_code, .. } = origin;
        for text in [service, vendor, operation, request_id, vendor_code] {
            truncate(text, LONGEST_OF_ORIGIN.min(longest));
        }
    }
    fault
}

fn truncate(text: &mut String, longest: usize) {
    if text.len() > longest {
        let end = (0..=longest).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
        text.truncate(end);
    }
}

/// The headers of the original that a copy keeps: all but the broker's and the mesh's own.
pub(crate) fn own_headers(envelope: &Envelope) -> Vec<(Cow<'static, str>, String)> {
    envelope
        .headers
        .iter()
        .filter(|(name, _)| is_own(name))
        .map(|(name, value)| (Cow::Owned(name.clone()), value.clone()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_attempts_keep_the_first_and_the_newest() {
        let attempts = (1..=40).map(|number| v1::Attempt { number, ..Default::default() }).collect();
        let text = encode_attempts(&v1::Attempts { attempts });
        let back = v1::Attempts::decode(STANDARD_NO_PAD.decode(text).unwrap().as_slice()).unwrap();
        let numbers: Vec<u32> = back.attempts.iter().map(|a| a.number).collect();
        assert_eq!(numbers.len(), MAX_ATTEMPTS_KEPT);
        assert_eq!((numbers[0], numbers[1], numbers[15]), (1, 26, 40));
    }

    #[test]
    fn an_attempt_that_may_have_acted_is_not_forgotten() {
        let attempt = |number: u32| {
            let effect = if number == 2 { v1::Effect::Unknown } else { v1::Effect::None };
            let origin = v1::Origin { request_id: "r".repeat(50_000), ..Default::default() };
            let fault = v1::Fault {
                effect: effect.into(),
                message: "m".repeat(9000),
                origin: Some(origin),
                ..Default::default()
            };
            v1::Attempt { number, fault: Some(fault), ..Default::default() }
        };
        let all = v1::Attempts { attempts: (1..=40).map(attempt).collect() };
        let once = shortened(&all);
        let numbers: Vec<u32> = once.attempts.iter().map(|a| a.number).collect();
        assert_eq!(numbers.len(), MAX_ATTEMPTS_KEPT);
        assert_eq!((numbers[0], numbers[1], numbers[2], numbers[15]), (1, 2, 27, 40));
        assert!(encode_attempts(&all).len() < 32 * 1024, "headers have 64 KiB for all of them");
        // And not by the next ones either.
        let mut more = once;
        more.attempts.extend((41..=80).map(attempt));
        assert_eq!(shortened(&more).attempts[1].number, 2);
    }

    #[test]
    fn the_id_is_of_consumer_source_time_and_message() {
        let lane = |consumer: &str| Lane {
            region: "local".parse().unwrap(),
            service: "payments".parse().unwrap(),
            consumer: consumer.parse().unwrap(),
        };
        let id = letter_id(&lane("charge"), ("s", 1), 5, "m");
        assert_eq!(id.len(), 32);
        assert_eq!(id, letter_id(&lane("charge"), ("s", 1), 5, "m"));
        assert_ne!(id, letter_id(&lane("refund"), ("s", 1), 5, "m"));
        assert_ne!(id, letter_id(&lane("charge"), ("t", 1), 5, "m"));
        assert_ne!(id, letter_id(&lane("charge"), ("s", 2), 5, "m"));
        assert_ne!(id, letter_id(&lane("charge"), ("s", 1), 6, "m"));
        assert_ne!(id, letter_id(&lane("charge"), ("s", 1), 5, "n"));
    }

    #[test]
    fn a_copy_keeps_what_is_not_the_brokers() {
        assert!(is_own("traceparent") && is_own("ce-type"));
        assert!(!is_own("Nats-Msg-Id") && !is_own("nats-schedule") && !is_own("mesh"));
    }
}
