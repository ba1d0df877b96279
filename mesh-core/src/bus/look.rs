//! Looking at consumers from outside, and settling what they can't settle any more: for the keeper.

use std::time::Duration;

use async_nats::jetstream::{self, consumer};
use bytes::Bytes;
use futures_util::TryStreamExt as _;

use super::{Bus, error::PublishError};
use crate::{fault::Fault, gate::Gate, policy::reconcile::ConsumerView};

/// How long one answer may take.
const ANSWER: Duration = Duration::from_secs(5);
/// How long the broker looks for a message that it may deliver.
const PROBE_MS: u64 = 250;

/// What the broker had to deliver.
#[derive(Debug)]
pub enum Probed {
    /// Nothing: what it had given up is given up now.
    Nothing,
    /// Something that it may still deliver; it was not delivered, and the attempt was not counted.
    Something,
}

impl Bus {
    /// How far each durable consumer of a stream is.
    ///
    /// # Errors
    /// The broker can't be reached, or this identity may not ask.
    pub async fn consumer_views(&self, stream: &str) -> Result<Vec<ConsumerView>, Fault> {
        let context = jetstream::new(self.0.client.clone());
        let unreadable = |error: &dyn std::error::Error| super::read::unreadable(stream, error);
        let handle = context.get_stream_no_info(stream).await.map_err(|error| unreadable(&error))?;
        let found: Result<Vec<consumer::Info>, _> = handle.consumers().try_collect().await;
        let found = found.map_err(|error| unreadable(&error))?;
        Ok(found.into_iter().filter(|info| info.config.durable_name.is_some()).map(view).collect())
    }

    /// Has the broker look at what a consumer has to deliver again, so that it says which deliveries it gave up: without a
    /// pull it does not look. The pull takes one byte at most, so that nothing is delivered.
    ///
    /// # Errors
    /// The consumer does not exist, or the broker does not answer.
    pub async fn probe(&self, stream: &str, durable: &str) -> Result<Probed, PublishError> {
        let subject = format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{durable}");
        let request = format!(r#"{{"batch":1,"max_bytes":1,"expires":{}}}"#, PROBE_MS * 1_000_000);
        let asked = self.0.mux.register(&subject);
        self.send(subject, Some(asked.inbox()), Vec::new(), request.into()).await?;
        let answer = asked.answer(ANSWER).await?;
        match answer.status {
            Some(404 | 408) => Ok(Probed::Nothing),
            Some(503) => Err(PublishError::NobodyListens),
            _ => Ok(Probed::Something),
        }
    }

    /// Settles a delivery that its consumer will not settle: the broker keeps or deletes it as if it had been acknowledged.
    ///
    /// # Errors
    /// No answer came; [`PublishError::NobodyListens`]: there is no such consumer.
    pub async fn accept_for(&self, stream: &str, durable: &str, sequence: u64) -> Result<(), PublishError> {
        // Stream, consumer and sequence say which delivery it is; the other places are not looked at.
        let subject = format!("$JS.ACK.{stream}.{durable}.1.{sequence}.0.0.0");
        let sealed = Gate::seal_api(subject, Bytes::from_static(b"+ACK"));
        self.request(sealed, ANSWER).await.map(drop)
    }

    /// Deletes a message. One that is not there counts as deleted.
    ///
    /// # Errors
    /// The broker refuses or does not answer.
    pub async fn delete_message(&self, stream: &str, sequence: u64) -> Result<(), Fault> {
        let handle = self.stream_handle(stream).await?;
        match handle.delete_message(sequence).await {
            Ok(_) => Ok(()),
            Err(error) => match self.message_at(stream, sequence).await? {
                None => Ok(()),
                Some(_) => Err(super::read::unreadable(stream, &error)),
            },
        }
    }
}

fn view(info: consumer::Info) -> ConsumerView {
    let consumer::Info { config, .. } = &info;
    let mut filters = config.filter_subjects.clone();
    filters.extend(Some(config.filter_subject.clone()).filter(|filter| !filter.is_empty()));
    ConsumerView {
        filters,
        waiting: info.num_waiting,
        in_flight: info.num_ack_pending,
        redelivered: info.num_redelivered,
        delivered: info.delivered.stream_sequence,
        ack_floor: info.ack_floor.stream_sequence,
        max_deliver: u64::try_from(info.config.max_deliver).unwrap_or(0),
        stream: info.stream_name,
        durable: info.name,
    }
}
