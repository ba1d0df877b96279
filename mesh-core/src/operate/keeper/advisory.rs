//! The broker's advisories on deliveries, read.

use chrono::DateTime;
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
    /// RFC 3339, of the server that said it.
    #[serde(default)]
    timestamp: String,
    stream: String,
    consumer: String,
    stream_seq: u64,
    #[serde(default)]
    deliveries: u64,
    #[serde(default)]
    reason: String,
}

/// What an advisory says of a delivery: the same, whether its stream gave it or it was heard. `None`: it speaks of something
/// else. `now_ms` stands for the time of one that was heard and does not say it.
pub(in crate::operate) fn read(envelope: &Envelope, now_ms: i64) -> Option<Notice> {
    let advisory: Advisory = serde_json::from_slice(&envelope.payload).ok()?;
    let said_ms = DateTime::parse_from_rfc3339(&advisory.timestamp).ok().map(|moment| moment.timestamp_millis());
    let stored_ms = envelope.delivery.as_ref().map(|delivery| delivery.stored_at_ms);
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
        at_ms: said_ms.or(stored_ms).unwrap_or(now_ms),
        word,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        envelope::{Delivery, Note},
        policy::reconcile::{Verdict, decide},
    };

    fn said(timestamp: &str, stored_at_ms: Option<i64>) -> Envelope {
        let payload = serde_json::json!({
            "type": "io.nats.jetstream.advisory.v1.max_deliver", "id": "x", "timestamp": timestamp,
            "stream": "mesh1-work-a-B", "consumer": "a_work", "stream_seq": 5, "deliveries": 3,
        });
        let delivery = stored_at_ms.map(|stored_at_ms| Delivery {
            stream: "mesh1-advisory".into(),
            sequence: 1,
            consumer_sequence: 1,
            deliveries: 1,
            stored_at_ms,
        });
        Envelope {
            subject: String::new(),
            message_id: String::new(),
            caller: String::new(),
            trace: None,
            note: Note::default(),
            headers: Vec::new(),
            payload: payload.to_string().into(),
            delivery,
            order: None,
        }
    }

    #[test]
    fn a_word_is_the_same_whether_it_was_heard_or_kept() {
        let moment = "2026-11-23T00:00:00.123456789Z";
        let heard = read(&said(moment, None), 9).unwrap();
        assert_eq!(heard.at_ms, 1_795_392_000_123);
        assert_eq!(read(&said(moment, Some(1_795_392_000_130)), 9), Some(heard));
    }

    #[test]
    fn a_word_without_a_time_is_of_when_it_was_stored_or_heard() {
        let at = |envelope: &Envelope| read(envelope, 9).unwrap().at_ms;
        assert_eq!((at(&said("soon", Some(7))), at(&said("", None))), (7, 9));
    }

    #[test]
    fn what_was_stored_after_a_heard_word_is_another_message() {
        let heard = read(&said("", None), 100).unwrap();
        assert_eq!(decide(&heard, Some(101)), Verdict::Settled);
        assert_eq!(decide(&heard, Some(99)), Verdict::Capture);
    }
}
