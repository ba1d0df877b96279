//! Reading a stream from its beginning, in order, without taking anything away: for tools.

use std::time::Duration;

use async_nats::jetstream::{
    self,
    consumer::{AckPolicy, DeliverPolicy, pull},
};
use futures_util::StreamExt as _;

use super::Bus;
use crate::{
    fault::{Code, Effect, Fault, Reason},
    gate::Unopened,
};

/// Whether to read on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Read on.
    No,
    /// That was enough.
    Yes,
}

/// No message for so long: the broker went away in the middle.
const SILENCE: Duration = Duration::from_secs(10);

impl Bus {
    /// Reads what `stream` holds now on subjects that match `filter`, in the order it was stored, until its end or until
    /// `each` says stop. A stream that does not exist holds nothing.
    ///
    /// # Errors
    /// The broker can't be reached, goes silent, or this identity may not read.
    pub async fn read(&self, stream: &str, filter: &str, each: impl FnMut(Unopened) -> Stop) -> Result<(), Fault> {
        self.read_from(stream, filter, 1, each).await
    }

    /// The same, from the sequence `first` on.
    ///
    /// # Errors
    /// As [`read`](Bus::read).
    pub async fn read_from(
        &self,
        stream: &str,
        filter: &str,
        first: u64,
        each: impl FnMut(Unopened) -> Stop,
    ) -> Result<(), Fault> {
        let policy = match first {
            0 | 1 => DeliverPolicy::All,
            start_sequence => DeliverPolicy::ByStartSequence { start_sequence },
        };
        self.read_by((stream, filter), (policy, false), each).await
    }

    /// The same, without the payloads: each is empty.
    ///
    /// # Errors
    /// As [`read`](Bus::read).
    pub async fn read_heads(
        &self,
        stream: &str,
        filter: &str,
        first: u64,
        each: impl FnMut(Unopened) -> Stop,
    ) -> Result<(), Fault> {
        let policy = DeliverPolicy::ByStartSequence { start_sequence: first.max(1) };
        self.read_by((stream, filter), (policy, true), each).await
    }

    /// The same, of what was stored at `since_ms` (Unix milliseconds) or later.
    ///
    /// # Errors
    /// As [`read`](Bus::read).
    pub async fn read_since(
        &self,
        stream: &str,
        filter: &str,
        since_ms: i64,
        each: impl FnMut(Unopened) -> Stop,
    ) -> Result<(), Fault> {
        let policy = match async_nats::datetime::from_nanos(i128::from(since_ms.max(0)) * 1_000_000) {
            Ok(start_time) => DeliverPolicy::ByStartTime { start_time },
            Err(_) => DeliverPolicy::All,
        };
        self.read_by((stream, filter), (policy, false), each).await
    }

    async fn read_by(
        &self,
        (stream, filter): (&str, &str),
        (deliver_policy, headers_only): (DeliverPolicy, bool),
        mut each: impl FnMut(Unopened) -> Stop,
    ) -> Result<(), Fault> {
        let Some(_) = self.stream_state(stream).await? else { return Ok(()) };
        let config = pull::Config {
            filter_subject: filter.to_owned(),
            ack_policy: AckPolicy::None,
            deliver_policy,
            headers_only,
            inactive_threshold: Duration::from_secs(30),
            memory_storage: true,
            ..Default::default()
        };
        let context = jetstream::new(self.0.client.clone());
        let consumer =
            context.create_consumer_on_stream(config, stream).await.map_err(|error| unreadable(stream, &error))?;
        let mut left = consumer.cached_info().num_pending;
        if left == 0 {
            return Ok(());
        }
        let mut messages = consumer
            .stream()
            .max_messages_per_batch(1000)
            .messages()
            .await
            .map_err(|error| unreadable(stream, &error))?;
        while left > 0 {
            let next = tokio::time::timeout(SILENCE, messages.next()).await;
            let message = match next {
                Ok(Some(Ok(message))) => message,
                Ok(Some(Err(error))) => return Err(unreadable(stream, &error)),
                Ok(None) => break,
                Err(_) => return Err(silent(stream)),
            };
            left -= 1;
            let received = super::convert::Received::from(message.message);
            if each(Unopened::new(received.into_raw())) == Stop::Yes {
                break;
            }
        }
        let name = consumer.cached_info().name.clone();
        // It would go by itself after its threshold; an error here harms nothing.
        let _ = context.delete_consumer_from_stream(&name, stream).await;
        Ok(())
    }
}

pub(super) fn unreadable(stream: &str, error: &dyn std::error::Error) -> Fault {
    Fault::new(
        Code::Unavailable,
        Effect::None,
        Reason::BusUnavailable,
        format!("the stream {stream:?} can't be read: {error}"),
    )
}

fn silent(stream: &str) -> Fault {
    let message = format!("the bus stopped sending {stream:?} for {} s", SILENCE.as_secs());
    Fault::new(Code::Unavailable, Effect::None, Reason::BusUnavailable, message)
}
