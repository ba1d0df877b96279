//! The lane of one consumer: where its delayed and replayed deliveries are.

use std::borrow::Cow;

use aws_lc_rs::digest;
use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use mesh_proto::v1;
use prost::Message as _;

use crate::{
    envelope::{Envelope, header},
    subject::{self, Name, Place},
};

/// Attempts that travel with a delayed copy, at most: the first and the newest ones stay.
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
    use std::fmt::Write as _;
    let hash = digest::digest(&digest::SHA256, key.as_bytes());
    hash.as_ref().iter().take(16).fold(String::with_capacity(32), |mut hex, byte| {
        // Writing to a String can't fail.
        let _ = write!(hex, "{byte:02x}");
        hex
    })
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

/// The first attempt and the newest ones, their texts cut: so many bytes that a copy, a record or a letter can hold them.
#[must_use]
pub fn shortened(attempts: &v1::Attempts) -> v1::Attempts {
    let all = &attempts.attempts;
    let surplus = all.len().saturating_sub(MAX_ATTEMPTS_KEPT);
    let kept = all.iter().take(1).chain(all.iter().skip(1 + surplus));
    v1::Attempts { attempts: kept.cloned().map(shorten).collect() }
}

fn shorten(mut attempt: v1::Attempt) -> v1::Attempt {
    const LONGEST: usize = 300;
    if let Some(fault) = &mut attempt.fault {
        for text in [&mut fault.message, &mut fault.detail] {
            if text.len() > LONGEST {
                let end = (0..=LONGEST).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
                text.truncate(end);
            }
        }
    }
    attempt
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

fn is_own(name: &str) -> bool {
    let of_broker = name.get(..5).is_some_and(|start| start.eq_ignore_ascii_case("nats-"));
    !of_broker && !name.eq_ignore_ascii_case(header::MESH) && !name.eq_ignore_ascii_case(header::ATTEMPTS)
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
    fn a_copy_keeps_what_is_not_the_brokers() {
        assert!(is_own("traceparent") && is_own("ce-type"));
        assert!(!is_own("Nats-Msg-Id") && !is_own("nats-schedule") && !is_own("mesh"));
    }
}
