//! The broker's advisories on deliveries, read.

use serde::Deserialize;

use crate::{
    envelope::Envelope,
    policy::reconcile::{Notice, Word},
};

/// The broker's words for a message that was deleted before it was settled.
const DELETED: &str = "Unacknowledged message was deleted";

#[derive(Deserialize)]
struct Advisory {
    r#type: String,
    stream: String,
    consumer: String,
    stream_seq: u64,
    #[serde(default)]
    deliveries: u64,
    #[serde(default)]
    reason: String,
}

/// What an advisory says of a delivery. `None`: it speaks of something else.
pub(super) fn read(envelope: &Envelope) -> Option<Notice> {
    let advisory: Advisory = serde_json::from_slice(&envelope.payload).ok()?;
    let word = match advisory.r#type.as_str() {
        "io.nats.jetstream.advisory.v1.max_deliver" => Word::GivenUp,
        "io.nats.jetstream.advisory.v1.terminated" if advisory.reason == DELETED => Word::Deleted,
        "io.nats.jetstream.advisory.v1.terminated" => Word::Terminated { reason: advisory.reason },
        _ => return None,
    };
    Some(Notice {
        stream: advisory.stream,
        durable: advisory.consumer,
        sequence: advisory.stream_seq,
        deliveries: advisory.deliveries,
        at_ms: envelope.delivery.as_ref().map_or(0, |delivery| delivery.stored_at_ms),
        word,
    })
}
