//! One message alone: again and again with the same id until it is stored, refused, or the time is over.
//!
//! Once an attempt ended without an answer, the message may be stored. From then on only one answer says what became of it:
//! that it is stored. A refusal speaks of its own attempt alone: the broker holds limits and rights against a message before it
//! looks whether it has its id.

use std::{borrow::Cow, time::Duration};

use backon::{ExponentialBuilder, Retryable as _};
use bytes::Bytes;
use serde::Deserialize;

use super::Outcome;
use crate::{
    bus::{Bus, PublishError, Stored, mux::Asked},
    gate::Sealed,
};

/// How long one attempt waits for its acknowledgement before the next, with the same id.
const ATTEMPT: Duration = Duration::from_secs(5);

/// JetStream's code for a batch that it does not begin, since too many are under way.
const TOO_MANY_BATCHES: u64 = 10210;

fn is_crowded(error: &PublishError) -> bool {
    matches!(error, PublishError::Rejected { code, .. } if *code == TOO_MANY_BATCHES)
}

/// What the broker says of what it stored.
#[derive(Debug)]
pub(super) struct Acknowledged {
    pub(super) stored: Stored,
    /// For a batch: how many messages.
    pub(super) count: Option<usize>,
}

/// Publishes one message. `unknown`: how an attempt ended that was made before, as part of a batch.
pub(super) async fn publish(bus: &Bus, sealed: &Sealed, unknown: Option<PublishError>) -> Outcome {
    again_until_known(bus, || attempt(bus, sealed), unknown).await
}

/// Attempts the same again until it is stored, refused, or the time is over.
pub(super) async fn again_until_known<T, F: Future<Output = Result<T, PublishError>>>(
    bus: &Bus,
    attempt: impl FnMut() -> F,
    mut unknown: Option<PublishError>,
) -> Result<T, PublishError> {
    let backoff = ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(50))
        .with_max_delay(Duration::from_secs(1))
        .with_jitter()
        .without_max_times()
        .with_total_delay(Some(bus.0.settings.publish_timeout));
    let started = tokio::time::Instant::now();
    let outcome = attempt
        .retry(backoff)
        .when(|error: &PublishError| {
            if error.is_unknown() {
                unknown = Some(error.clone());
            }
            let may_pass = error.is_unknown() || matches!(error, PublishError::NobodyListens) || is_crowded(error);
            started.elapsed() < bus.0.settings.publish_timeout
                && (may_pass || (unknown.is_some() && error.is_passing()))
        })
        .await;
    known(outcome, unknown)
}

/// What is known after the last attempt. A conflict stays one: whoever expected a sequence asks what stands there, since it may
/// be this very message ([`PublishError::is_conflict`]).
fn known<T>(outcome: Result<T, PublishError>, unknown: Option<PublishError>) -> Result<T, PublishError> {
    match (outcome, unknown) {
        (Err(error), Some(unknown)) if !error.is_unknown() && !error.is_conflict() => {
            tracing::debug!(%error, before = %unknown, "an attempt was refused after one that may have been stored");
            Err(unknown)
        }
        (outcome, _) => outcome,
    }
}

async fn attempt(bus: &Bus, sealed: &Sealed) -> Outcome {
    let asked = bus.0.mux.register(sealed.subject());
    bus.send_sealed(sealed, Some(asked.inbox())).await?;
    acknowledged(asked).await.map(|ack| ack.stored)
}

/// Waits for the acknowledgement of what was asked.
pub(super) async fn acknowledged(asked: Asked) -> Result<Acknowledged, PublishError> {
    let answer = asked.answer(ATTEMPT).await?;
    if answer.status == Some(503) {
        return Err(PublishError::NobodyListens);
    }
    parse(&answer.payload)
}

#[derive(Deserialize)]
struct PubAck<'a> {
    #[serde(borrow, default)]
    stream: Cow<'a, str>,
    #[serde(default)]
    seq: u64,
    #[serde(default)]
    duplicate: bool,
    count: Option<usize>,
    error: Option<ApiError>,
}

/// An error of JetStream's.
#[derive(Deserialize)]
pub(in crate::bus) struct ApiError {
    #[serde(default)]
    pub(in crate::bus) err_code: u64,
    #[serde(default)]
    pub(in crate::bus) description: String,
}

impl From<ApiError> for PublishError {
    fn from(error: ApiError) -> PublishError {
        PublishError::Rejected { code: error.err_code, description: error.description }
    }
}

fn parse(payload: &Bytes) -> Result<Acknowledged, PublishError> {
    let ack: PubAck<'_> = serde_json::from_slice(payload).map_err(|error| PublishError::Rejected {
        code: 0,
        description: format!("the acknowledgement can't be read: {error}"),
    })?;
    match ack.error {
        Some(error) => Err(error.into()),
        None => Ok(Acknowledged {
            stored: Stored { stream: ack.stream.into(), sequence: ack.seq, duplicate: ack.duplicate },
            count: ack.count,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_an_attempt_without_an_answer_only_stored_is_certain() {
        let stored = Stored { stream: "s".into(), sequence: 7, duplicate: true };
        let rejected = |code| PublishError::Rejected { code, description: String::new() };
        let denied = PublishError::Denied { subject: "s".into() };
        let unknown = || Some(PublishError::TimedOut);
        let known = known::<Stored>;
        assert_eq!(known(Ok(stored.clone()), unknown()), Ok(stored));
        for error in [
            PublishError::NobodyListens,
            PublishError::NotSent("closed".into()),
            denied,
            rejected(10002),
            rejected(10023),
            rejected(10054),
        ] {
            assert_eq!(known(Err(error.clone()), unknown()), Err(PublishError::TimedOut), "{error}");
            assert_eq!(known(Err(error.clone()), None), Err(error));
        }
        assert!(known(Err(rejected(10071)), unknown()).unwrap_err().is_conflict());
        assert_eq!(known(Err(PublishError::Disconnected), unknown()), Err(PublishError::Disconnected));
    }

    #[test]
    fn acknowledgements_are_read_as_the_broker_writes_them() {
        let read = |text: &'static str| parse(&Bytes::from_static(text.as_bytes()));
        let batch = read(r#"{"stream":"s","seq":512,"batch":"id","count":500}"#).unwrap();
        assert_eq!((batch.stored.sequence, batch.stored.duplicate, batch.count), (512, false, Some(500)));
        let duplicate = read(r#"{"stream":"s","seq":3,"duplicate":true}"#).unwrap();
        assert_eq!((duplicate.stored.sequence, duplicate.stored.duplicate, duplicate.count), (3, true, None));
        let refused = read(
            r#"{"error":{"code":400,"err_code":10071,"description":"wrong last sequence: 7"},"stream":"s","seq":0}"#,
        );
        assert!(refused.unwrap_err().is_conflict());
        assert!(matches!(read("+OK").unwrap_err(), PublishError::Rejected { code: 0, .. }));
    }
}
