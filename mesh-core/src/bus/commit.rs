//! Publishing into one stream: alone while few wait, in groups when many do.
//!
//! A broker that syncs always syncs once per message, or once per atomic batch (ADR-50). So up to [`MAX_SINGLES`] messages
//! are sent alone; when that many are under way and more wait, the waiting ones go as one batch. Each caller gets its own
//! result. A batch is all or nothing: one that is refused, or whose answer does not come, is published again one by one,
//! with the same message ids, which the broker's dedupe window makes safe.

use std::{borrow::Cow, time::Duration};

use backon::{ExponentialBuilder, Retryable as _};
use bytes::Bytes;
use futures_util::{StreamExt as _, future::join_all, stream::FuturesUnordered};
use serde::Deserialize;
use tokio::sync::{mpsc, oneshot};

use super::{
    Bus,
    error::{PublishError, Stored},
};
use crate::gate::Sealed;

/// Messages under way alone, at most. With this many waiting a batch is faster.
const MAX_SINGLES: usize = 12;
/// Batches under way at once.
const MAX_BATCHES: usize = 2;
/// Messages in one batch, at most: the broker takes 1,000.
const MAX_BATCH: usize = 500;
/// Bytes in one batch, about: a stream buffers 128 MiB for all of its publishers.
const MAX_BATCH_BYTES: usize = 4 * 1024 * 1024;
/// Callers that may wait; the next one waits for a place.
const MAX_WAITING: usize = 4096;
/// How long one attempt waits for its acknowledgement before the next, with the same id.
const ATTEMPT: Duration = Duration::from_secs(5);

const BATCH_ID: &str = "Nats-Batch-Id";
const BATCH_SEQUENCE: &str = "Nats-Batch-Sequence";
const BATCH_COMMIT: &str = "Nats-Batch-Commit";

type Outcome = Result<Stored, PublishError>;

struct Waiting {
    sealed: Sealed,
    done: oneshot::Sender<Outcome>,
}

/// The publisher into one stream.
#[derive(Clone)]
pub(super) struct Committer {
    /// `None`: every message goes alone, without a limit.
    queue: Option<mpsc::Sender<Waiting>>,
}

impl Committer {
    pub(super) fn start(bus: &Bus, stream: &str) -> Committer {
        if !bus.0.settings.group_commit {
            return Committer { queue: None };
        }
        let (queue, waiting) = mpsc::channel(MAX_WAITING);
        let worker = Worker { bus: std::sync::Arc::downgrade(&bus.0), stream: stream.to_owned() };
        bus.0.tasks.spawn(worker.run(waiting));
        Committer { queue: Some(queue) }
    }

    pub(super) async fn publish(&self, bus: &Bus, sealed: Sealed) -> Outcome {
        let Some(queue) = &self.queue else { return publish_alone(bus, sealed).await };
        let (done, outcome) = oneshot::channel();
        let closed = || PublishError::NotSent("the connection is closed".into());
        queue.send(Waiting { sealed, done }).await.map_err(|_| closed())?;
        // The sender is dropped unanswered only when the connection was closed meanwhile.
        outcome.await.unwrap_or(Err(PublishError::Disconnected))
    }
}

/// What is under way, done.
enum Ended {
    Single,
    Batch,
}

struct Worker {
    bus: std::sync::Weak<super::Inner>,
    stream: String,
}

impl Worker {
    /// Runs until the last handle on the connection is gone.
    async fn run(self, mut queue: mpsc::Receiver<Waiting>) {
        let mut under_way = FuturesUnordered::new();
        let (mut singles, mut batches) = (0, 0);
        let mut waiting: Vec<Waiting> = Vec::new();
        loop {
            let room = waiting.len() < MAX_BATCH;
            tokio::select! {
                biased;
                received = queue.recv_many(&mut waiting, MAX_BATCH), if room => {
                    if received == 0 { break }
                }
                Some(ended) = under_way.next(), if !under_way.is_empty() => match ended {
                    Ended::Single => singles -= 1,
                    Ended::Batch => batches -= 1,
                },
            }
            let Some(bus) = self.bus.upgrade().map(Bus) else { break };
            if waiting.len() > MAX_SINGLES && batches < MAX_BATCHES {
                batches += 1;
                under_way.push(self.many(bus, split_batch(&mut waiting)));
            } else if batches == 0 {
                let alone = waiting.len().min(MAX_SINGLES - singles);
                for one in waiting.drain(..alone) {
                    singles += 1;
                    under_way.push(self.one(bus.clone(), one));
                }
            }
        }
        while under_way.next().await.is_some() {}
    }

    fn one(&self, bus: Bus, one: Waiting) -> futures_util::future::BoxFuture<'static, Ended> {
        Box::pin(async move {
            // A caller that went away wants no answer; the message is stored all the same.
            let _ = one.done.send(publish_alone(&bus, one.sealed).await);
            Ended::Single
        })
    }

    fn many(&self, bus: Bus, batch: Vec<Waiting>) -> futures_util::future::BoxFuture<'static, Ended> {
        let stream = self.stream.clone();
        Box::pin(async move {
            publish_batch(&bus, &stream, batch).await;
            Ended::Batch
        })
    }
}

/// Takes the front of the queue that fits into one batch.
fn split_batch(waiting: &mut Vec<Waiting>) -> Vec<Waiting> {
    let mut bytes = 0;
    let fits = waiting.iter().take(MAX_BATCH).take_while(|w| {
        bytes += w.sealed.size();
        bytes <= MAX_BATCH_BYTES
    });
    let count = fits.count().max(1);
    waiting.drain(..count).collect()
}

async fn publish_batch(bus: &Bus, stream: &str, batch: Vec<Waiting>) {
    let (sealed, callers): (Vec<_>, Vec<_>) = batch.into_iter().map(|w| (w.sealed, w.done)).unzip();
    let outcomes: Vec<Outcome> = match send_batch(bus, &sealed).await {
        Ok(last) => {
            let first = last + 1 - sealed.len() as u64;
            (first..=last)
                .map(|sequence| Ok(Stored { stream: stream.to_owned(), sequence, duplicate: false }))
                .collect()
        }
        Err(error) => {
            tracing::debug!(%error, stream, messages = sealed.len(), "a batch was refused: one by one");
            join_all(sealed.into_iter().map(|one| publish_alone(bus, one))).await
        }
    };
    for (caller, outcome) in callers.into_iter().zip(outcomes) {
        let _ = caller.send(outcome);
    }
}

/// Sends a batch; the sequence of its last message when it is stored.
async fn send_batch(bus: &Bus, batch: &[Sealed]) -> Result<u64, PublishError> {
    let id = nuid::next();
    let last = batch.len() - 1;
    let asked = bus.0.mux.register(batch[last].subject());
    for (index, sealed) in batch.iter().enumerate() {
        let (subject, mut headers, payload) = sealed.clone().into_parts();
        headers.push((Cow::Borrowed(BATCH_ID), id.to_string()));
        headers.push((Cow::Borrowed(BATCH_SEQUENCE), (index + 1).to_string()));
        let reply = (index == last).then(|| asked.inbox());
        if index == last {
            headers.push((Cow::Borrowed(BATCH_COMMIT), "1".to_owned()));
        }
        bus.send(subject, reply, headers, payload).await?;
    }
    let answer = asked.answer(ATTEMPT).await?;
    if answer.status == Some(503) {
        return Err(PublishError::NobodyListens);
    }
    let stored = parse_ack(&answer.payload)?;
    Ok(stored.sequence)
}

/// Publishes one message, again and again with the same id until it is stored, refused, or the time is over.
async fn publish_alone(bus: &Bus, sealed: Sealed) -> Outcome {
    let backoff = ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(50))
        .with_max_delay(Duration::from_secs(1))
        .with_jitter()
        .without_max_times()
        .with_total_delay(Some(bus.0.settings.publish_timeout));
    // Once it may have been stored, a later "not sent" must not hide that.
    let mut unknown = None;
    let started = tokio::time::Instant::now();
    let outcome = (|| attempt(bus, sealed.clone()))
        .retry(backoff)
        .when(|error: &PublishError| {
            if error.is_unknown() {
                unknown = Some(error.clone());
            }
            started.elapsed() < bus.0.settings.publish_timeout
                && (error.is_unknown() || matches!(error, PublishError::NobodyListens))
        })
        .await;
    match (outcome, unknown) {
        (Err(PublishError::NobodyListens | PublishError::NotSent(_)), Some(error)) => Err(error),
        (outcome, _) => outcome,
    }
}

async fn attempt(bus: &Bus, sealed: Sealed) -> Outcome {
    let (subject, headers, payload) = sealed.into_parts();
    let asked = bus.0.mux.register(&subject);
    bus.send(subject, Some(asked.inbox()), headers, payload).await?;
    let answer = asked.answer(ATTEMPT).await?;
    if answer.status == Some(503) {
        return Err(PublishError::NobodyListens);
    }
    parse_ack(&answer.payload)
}

#[derive(Deserialize)]
struct PubAck {
    #[serde(default)]
    stream: String,
    #[serde(default)]
    seq: u64,
    #[serde(default)]
    duplicate: bool,
    error: Option<ApiError>,
}

#[derive(Deserialize)]
pub(super) struct ApiError {
    #[serde(default)]
    pub(super) err_code: u64,
    #[serde(default)]
    pub(super) description: String,
}

impl From<ApiError> for PublishError {
    fn from(error: ApiError) -> PublishError {
        PublishError::Rejected { code: error.err_code, description: error.description }
    }
}

fn parse_ack(payload: &Bytes) -> Outcome {
    let ack: PubAck = serde_json::from_slice(payload).map_err(|error| PublishError::Rejected {
        code: 0,
        description: format!("the acknowledgement can't be read: {error}"),
    })?;
    match ack.error {
        Some(error) => Err(error.into()),
        None => Ok(Stored { stream: ack.stream, sequence: ack.seq, duplicate: ack.duplicate }),
    }
}
