//! One stored message, read at its stream's leader.

use std::time::Duration;

use async_nats::jetstream::{
    self,
    message::StreamMessage,
    stream::{RawMessageError, RawMessageErrorKind},
};

use super::Bus;
use crate::{
    envelope::Delivery,
    fault::{Code, Effect, Fault, Reason},
    gate::{Raw, Unopened},
};

/// JetStream's codes for "there is no such message" and "there is no such stream".
const MISSING: [u64; 2] = [10037, 10059];
/// How long one answer may take.
const ANSWER: Duration = Duration::from_secs(5);

impl Bus {
    /// The last message on a subject of a stream. `None`: there is none, or no such stream.
    ///
    /// # Errors
    /// The broker can't be reached, or this identity may not read the stream.
    pub async fn last_on(&self, stream: &str, subject: &str) -> Result<Option<Unopened>, Fault> {
        let handle = self.stream_handle(stream).await?;
        let read = tokio::time::timeout(ANSWER, handle.get_last_raw_message_by_subject(subject)).await;
        found(stream, read)
    }

    /// The first message on a subject of a stream at `sequence` or after. `None`: there is none, or no such stream.
    ///
    /// For a subject with few messages: each is a question of its own, and none is remembered at the broker.
    ///
    /// # Errors
    /// The broker can't be reached, or this identity may not read the stream.
    pub async fn next_on(&self, stream: &str, subject: &str, sequence: u64) -> Result<Option<Unopened>, Fault> {
        let handle = self.stream_handle(stream).await?;
        let read = handle.get_first_raw_message_by_subject(subject, sequence);
        found(stream, tokio::time::timeout(ANSWER, read).await)
    }

    /// The message at a sequence of a stream. `None`: it is not there (any more), or no such stream.
    ///
    /// # Errors
    /// The broker can't be reached, or this identity may not read the stream.
    pub async fn message_at(&self, stream: &str, sequence: u64) -> Result<Option<Unopened>, Fault> {
        let handle = self.stream_handle(stream).await?;
        let read = tokio::time::timeout(ANSWER, handle.get_raw_message(sequence)).await;
        found(stream, read)
    }

    /// The last message on one subject, of any of the stream's servers: for an identity that may ask for that subject alone.
    /// It may be stale. `None`: there is none.
    ///
    /// # Errors
    /// The broker can't be reached, or this identity may not ask for it.
    pub async fn direct_last(&self, stream: &str, subject: &str) -> Result<Option<Unopened>, Fault> {
        use jetstream::stream::DirectGetErrorKind as Kind;
        let handle = self.stream_handle(stream).await?;
        match tokio::time::timeout(ANSWER, handle.direct_get_last_for_subject(subject)).await {
            Ok(Ok(message)) => Ok(Some(opened(stream, message))),
            Ok(Err(error)) if error.kind() == Kind::NotFound => Ok(None),
            Ok(Err(error)) => Err(unreadable(stream, &error.to_string())),
            Err(_) => Err(unreadable(stream, "no answer came in time")),
        }
    }

    pub(super) async fn stream_handle(&self, stream: &str) -> Result<jetstream::stream::Stream<()>, Fault> {
        let context = jetstream::new(self.0.client.clone());
        context.get_stream_no_info(stream).await.map_err(|error| unreadable(stream, &error.to_string()))
    }
}

pub(super) type Read = Result<Result<StreamMessage, RawMessageError>, tokio::time::error::Elapsed>;

pub(super) fn found(stream: &str, read: Read) -> Result<Option<Unopened>, Fault> {
    let error = match read {
        Ok(Ok(message)) => return Ok(Some(opened(stream, message))),
        Ok(Err(error)) => error,
        Err(_) => return Err(unreadable(stream, "no answer came in time")),
    };
    match error.kind() {
        RawMessageErrorKind::NoMessageFound => Ok(None),
        RawMessageErrorKind::JetStream(inner) if MISSING.contains(&inner.error_code().0) => Ok(None),
        _ => Err(unreadable(stream, &error.to_string())),
    }
}

fn opened(stream: &str, message: StreamMessage) -> Unopened {
    let stored_at_ms = i64::try_from(message.time.unix_timestamp_nanos() / 1_000_000).unwrap_or(0);
    let delivery = Delivery {
        stream: stream.to_owned(),
        sequence: message.sequence,
        consumer_sequence: 0,
        deliveries: 0,
        stored_at_ms,
    };
    Unopened::new(Raw {
        subject: message.subject.into_string(),
        reply: None,
        headers: super::convert::header_list(message.headers),
        payload: message.payload,
        delivery: Some(delivery),
    })
}

fn unreadable(stream: &str, why: &str) -> Fault {
    let message = format!("the stream {stream:?} can't be read: {why}");
    Fault::new(Code::Unavailable, Effect::None, Reason::BusUnavailable, message)
}
