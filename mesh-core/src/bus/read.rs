//! Reading a stream from its beginning, in order, without taking anything away: for tools.
//!
//! In a cluster the reading is served by one of the stream's servers, which may be behind the others: it has not got what
//! was confirmed a moment ago. So the leader is asked first which message is the last, and the reading ends there.

use std::time::Duration;

use async_nats::jetstream::{
    self,
    consumer::{AckPolicy, DeliverPolicy, pull},
};
use backon::{ConstantBuilder, Retryable as _};
use futures_util::StreamExt as _;
use tokio::time::Instant;

use super::Bus;
use crate::{
    envelope::Delivery,
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

/// No message for so long: the broker went away in the middle, or the server that reads does not get what the others have.
const SILENCE: Duration = Duration::from_secs(10);
/// How long a cluster may take to elect a leader: nats-server waits 4 to 9 s for one that is silent (`server/raft.go`), then up to
/// 0.8 s before it stands.
const ELECTION: Duration = Duration::from_secs(12);
/// No message for so long: perhaps the last one was taken away meanwhile.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

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

    /// The sequence of the last message on subjects that match `filter`, as the stream's leader says it. `None`: there is
    /// none, or no such stream.
    ///
    /// # Errors
    /// The broker can't be reached, or this identity may not read.
    pub async fn last_sequence_on(&self, stream: &str, filter: &str) -> Result<Option<u64>, Fault> {
        let last = self.while_elected(stream, || self.last_on(stream, filter)).await?;
        Ok(last.and_then(|message| message.open().envelope.delivery).map(|delivery| delivery.sequence))
    }

    /// As [`next_on`](Bus::next_on), and waits while a leader is elected: for whoever has read much before, and would begin anew.
    ///
    /// # Errors
    /// The broker can't be reached, or this identity may not read.
    pub async fn next_on_elected(&self, stream: &str, subject: &str, sequence: u64) -> Result<Option<Unopened>, Fault> {
        self.while_elected(stream, || self.next_on(stream, subject, sequence)).await
    }

    async fn read_by(
        &self,
        (stream, filter): (&str, &str),
        (deliver_policy, headers_only): (DeliverPolicy, bool),
        each: impl FnMut(Unopened) -> Stop,
    ) -> Result<(), Fault> {
        let last = self.while_elected(stream, || self.last_on(stream, filter)).await?;
        let Some(last) = last.and_then(|message| message.open().envelope.delivery) else { return Ok(()) };
        let begins_later = begins_after(&deliver_policy, &last);
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
        let consumer = self
            .while_elected(stream, || async {
                let made = context.create_consumer_on_stream(config.clone(), stream).await;
                made.map_err(|error| unreadable(stream, &error))
            })
            .await?;
        if !begins_later || consumer.cached_info().num_pending > 0 {
            let messages = consumer.stream().max_messages_per_batch(1000).messages().await;
            let messages = messages.map_err(|error| unreadable(stream, &error))?;
            self.read_to(last.sequence, (stream, filter), messages, each).await?;
        }
        let name = consumer.cached_info().name.clone();
        // It would go by itself after its threshold; an error here harms nothing.
        let _ = context.delete_consumer_from_stream(&name, stream).await;
        Ok(())
    }

    /// Asks again for a while where nobody could answer: in a cluster a stream has no leader for a moment when a server goes or
    /// comes. Who may not ask is told so.
    pub(super) async fn while_elected<T, F>(&self, stream: &str, ask: impl FnMut() -> F) -> Result<T, Fault>
    where
        F: Future<Output = Result<T, Fault>>,
    {
        let until = Instant::now() + ELECTION;
        let again = |fault: &Fault| {
            let is_away = fault.reason() == Reason::BusUnavailable;
            is_away && Instant::now() < until && self.denied(stream).is_none()
        };
        let delays = ConstantBuilder::default().with_delay(Duration::from_millis(250)).without_max_times();
        // What a read asks of a stream: not all that may be asked of it.
        let asked = ["DIRECT.GET", "STREAM.MSG.GET", "CONSUMER.CREATE"];
        let asked = asked.map(|verb| format!("$JS.API.{verb}.{stream}"));
        let answer = self.unless_denied(&asked, ask.retry(delays).when(again)).await;
        answer
            .map_err(|fault| self.denied(stream).filter(|_| fault.reason() == Reason::BusUnavailable).unwrap_or(fault))
    }

    /// Reads until the message at `last`, or a later one, was there; or until `each` says stop.
    async fn read_to(
        &self,
        mut last: u64,
        (stream, filter): (&str, &str),
        mut messages: pull::Stream,
        mut each: impl FnMut(Unopened) -> Stop,
    ) -> Result<(), Fault> {
        let (mut read_to, mut silence) = (0, Duration::ZERO);
        while read_to < last {
            let message = match tokio::time::timeout(LOOK_AGAIN, messages.next()).await {
                Ok(Some(Ok(message))) => message,
                Ok(Some(Err(error))) => return Err(unreadable(stream, &error)),
                Ok(None) => return Err(silent(stream)),
                Err(_) if silence >= SILENCE => return Err(silent(stream)),
                Err(_) => {
                    silence += LOOK_AGAIN;
                    // What was the last may have been taken away; what came after it comes too.
                    let there = match self.last_on(stream, filter).await {
                        Ok(there) => there.and_then(|message| message.open().envelope.delivery),
                        // During an election that is no news.
                        Err(fault) if fault.reason() == Reason::BusUnavailable => continue,
                        Err(fault) => return Err(fault),
                    };
                    last = last.min(there.map_or(0, |delivery| delivery.sequence));
                    continue;
                }
            };
            silence = Duration::ZERO;
            let raw = super::convert::Received::from(message.message).into_raw();
            read_to = raw.delivery.as_ref().map_or(read_to, |delivery| delivery.sequence);
            if each(Unopened::new(raw)) == Stop::Yes {
                break;
            }
        }
        Ok(())
    }
}

/// Whether what is asked for begins after the last message.
fn begins_after(start: &DeliverPolicy, last: &Delivery) -> bool {
    match start {
        DeliverPolicy::ByStartSequence { start_sequence } => last.sequence < *start_sequence,
        DeliverPolicy::ByStartTime { start_time } => {
            i128::from(last.stored_at_ms) * 1_000_000 < start_time.unix_timestamp_nanos()
        }
        _ => false,
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
    let message = format!("the stream {stream:?} was not read to its end: nothing came for {} s", SILENCE.as_secs());
    Fault::new(Code::Unavailable, Effect::None, Reason::BusUnavailable, message)
}
