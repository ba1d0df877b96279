//! Streams and consumers: made by `mesh` alone, never by a service.

use std::time::Duration;

use async_nats::jetstream::{
    self,
    consumer::{self, AckPolicy, DeliverPolicy},
    context::CreateStreamErrorKind,
    stream::{self, ConsumerErrorKind, DiscardPolicy, RetentionPolicy, StorageType},
};

use super::Bus;
use crate::{
    fault::{Code, Effect, Fault, Reason},
    policy::compile::{ConsumerSpec, Kind, ORDERED_ACK_WAIT, StreamSpec},
};

/// How much a stream may hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamLimits {
    /// Copies: 1 on one server, 3 in production.
    pub replicas: usize,
    /// How long events and outcomes are kept.
    pub event_age: Duration,
    /// Bytes that one stream may hold, set aside for it beforehand. `None`: as much as the broker has.
    ///
    /// A full stream refuses, it never drops what is old. Lanes have no limit of their own: the broker allows schedules
    /// only on streams that drop what is old when they are full, so they must never be full.
    pub max_bytes: Option<i64>,
    /// How long a delivery's lease lasts without a sign of life.
    pub ack_wait: Duration,
    /// Deliveries of one consumer that may be under way.
    pub max_ack_pending: i64,
    /// Deliveries of one message, at most: a far backstop, attempts are counted by the mesh. What reaches it is a letter of
    /// the keeper's.
    pub max_deliver: i64,
}

impl Default for StreamLimits {
    fn default() -> StreamLimits {
        StreamLimits {
            replicas: 1,
            event_age: Duration::from_secs(7 * 24 * 3600),
            max_bytes: None,
            ack_wait: Duration::from_secs(30),
            max_ack_pending: 4096,
            max_deliver: 1000,
        }
    }
}

/// What a stream holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamState {
    /// Its name.
    pub name: String,
    /// Messages in it.
    pub messages: u64,
    /// Bytes in it.
    pub bytes: u64,
    /// The sequence of the last message that was stored.
    pub last_sequence: u64,
}

/// How far a consumer is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsumerState {
    /// Its name at the broker.
    pub durable: String,
    /// Not delivered yet.
    pub pending: u64,
    /// Delivered and not settled.
    pub in_flight: u64,
    /// How long a delivery's lease lasts without a sign of life.
    pub ack_wait: Duration,
    /// The number of its last delivery, to whomever.
    pub deliveries: u64,
}

/// How long the broker's word on deliveries that it gave up is kept: the keeper reads it within seconds.
const ADVISORY_AGE: Duration = Duration::from_secs(14 * 24 * 3600);
/// How long the broker remembers message ids.
const DEDUPE_WINDOW: Duration = Duration::from_secs(120);

impl Bus {
    fn jetstream(&self) -> jetstream::Context {
        jetstream::new(self.0.client.clone())
    }

    /// Makes the stream what `spec` says, whether it exists or not.
    ///
    /// # Errors
    /// The broker refuses, or this identity may not.
    pub async fn apply_stream(&self, spec: &StreamSpec, limits: &StreamLimits) -> Result<(), Fault> {
        let config = stream_config(spec, limits);
        let applied = self.jetstream().create_or_update_stream(config).await;
        applied.map(drop).map_err(|error| {
            let is_no = matches!(error.kind(), CreateStreamErrorKind::JetStream(_));
            self.unmade(("stream", &spec.name), &error, is_no)
        })
    }

    /// Makes the durable consumer what `spec` says, whether it exists or not.
    ///
    /// # Errors
    /// The broker refuses, or this identity may not.
    pub async fn apply_consumer(&self, spec: &ConsumerSpec, limits: &StreamLimits) -> Result<(), Fault> {
        let config = consumer::pull::Config {
            durable_name: Some(spec.durable.clone()),
            filter_subjects: spec.filters.clone(),
            ack_policy: AckPolicy::Explicit,
            deliver_policy: DeliverPolicy::All,
            ack_wait: spec.window.map_or(limits.ack_wait, |_| limits.ack_wait.min(ORDERED_ACK_WAIT)),
            max_ack_pending: spec.window.unwrap_or(limits.max_ack_pending),
            max_deliver: limits.max_deliver,
            ..Default::default()
        };
        let applied = self.jetstream().create_consumer_on_stream(config, spec.stream.as_str()).await;
        applied.map(drop).map_err(|error| {
            let is_no = matches!(error.kind(), ConsumerErrorKind::JetStream(_));
            self.unmade(("consumer", &spec.durable), &error, is_no)
        })
    }

    /// What a stream holds. `None`: there is no such stream.
    ///
    /// # Errors
    /// The broker can't be reached, or this identity may not ask.
    pub async fn stream_state(&self, name: &str) -> Result<Option<StreamState>, Fault> {
        use async_nats::jetstream::context::GetStreamErrorKind as Kind;
        match self.jetstream().get_stream(name).await {
            Ok(stream) => {
                let state = &stream.cached_info().state;
                Ok(Some(StreamState {
                    name: name.to_owned(),
                    messages: state.messages,
                    bytes: state.bytes,
                    last_sequence: state.last_sequence,
                }))
            }
            Err(error) => match error.kind() {
                Kind::JetStream(inner) if inner.code() == 404 => Ok(None),
                _ => Err(self.unshown(("stream", name), &error)),
            },
        }
    }

    /// How far a consumer is. `None`: there is no such consumer.
    ///
    /// # Errors
    /// The broker can't be reached, or this identity may not ask.
    pub async fn consumer_state(&self, stream: &str, durable: &str) -> Result<Option<ConsumerState>, Fault> {
        let found = self.jetstream().get_consumer_from_stream::<consumer::pull::Config, _, _>(durable, stream).await;
        match found {
            Ok(consumer) => {
                let info = consumer.cached_info();
                Ok(Some(ConsumerState {
                    durable: durable.to_owned(),
                    pending: info.num_pending,
                    in_flight: u64::try_from(info.num_ack_pending).unwrap_or(0),
                    ack_wait: info.config.ack_wait,
                    deliveries: info.delivered.consumer_sequence,
                }))
            }
            Err(error) if error.to_string().contains("not found") => Ok(None),
            Err(error) => Err(self.unshown(("consumer", durable), &error)),
        }
    }

    /// What was asked for was not made. `is_no`: the broker said so itself; else nobody knows.
    fn unmade(&self, (what, name): (&str, &str), error: &dyn std::error::Error, is_no: bool) -> Fault {
        if let Some(denied) = self.denied(name) {
            return denied;
        }
        let effect = if is_no { Effect::None } else { Effect::Unknown };
        let code = if is_no { Code::FailedPrecondition } else { Code::Unavailable };
        Fault::new(code, effect, Reason::PublishRefused, format!("the bus did not make the {what} {name:?}: {error}"))
    }

    fn unshown(&self, (what, name): (&str, &str), error: &dyn std::error::Error) -> Fault {
        let message = format!("the bus did not show the {what} {name:?}: {error}");
        let fault = || Fault::new(Code::Unavailable, Effect::None, Reason::BusUnavailable, message);
        self.denied(name).unwrap_or_else(fault)
    }

    /// The broker answers nothing to who may not ask: it says so apart.
    pub(super) fn denied(&self, name: &str) -> Option<Fault> {
        let subject = self.0.link.denied().filter(|subject| subject.split('.').any(|token| token == name))?;
        let service = self.0.gate.identity().service();
        let message = format!("the broker denies {service} the subject {subject}");
        Some(Fault::new(Code::PermissionDenied, Effect::None, Reason::AccessDenied, message))
    }
}

fn stream_config(spec: &StreamSpec, limits: &StreamLimits) -> stream::Config {
    let (retention, max_age) = match spec.kind {
        Kind::Events => (RetentionPolicy::Limits, limits.event_age),
        Kind::Work | Kind::Lane => (RetentionPolicy::WorkQueue, Duration::ZERO),
        Kind::Letters | Kind::Store | Kind::Claims => (RetentionPolicy::Limits, Duration::ZERO),
        Kind::Advisories => (RetentionPolicy::Limits, ADVISORY_AGE),
    };
    let scheduled = spec.kind == Kind::Lane;
    stream::Config {
        name: spec.name.clone(),
        subjects: spec.subjects.clone(),
        retention,
        max_age,
        max_bytes: limits.max_bytes.filter(|_| !scheduled).unwrap_or(-1),
        discard: if scheduled { DiscardPolicy::Old } else { DiscardPolicy::New },
        storage: StorageType::File,
        num_replicas: limits.replicas,
        duplicate_window: DEDUPE_WINDOW,
        allow_atomic_publish: true,
        allow_message_schedules: scheduled,
        deny_delete: spec.kind == Kind::Letters,
        // A service may ask for the last record of a letter of its own by the letter's subject, and for nothing else.
        // The same for a copy that waits on its lane.
        // And for what lies apart of a message of its own.
        allow_direct: matches!(spec.kind, Kind::Letters | Kind::Lane | Kind::Claims),
        // The newest record of each place. Leases and inboxes forget by themselves.
        max_messages_per_subject: if matches!(spec.kind, Kind::Store | Kind::Claims) { 1 } else { -1 },
        allow_message_ttl: spec.kind == Kind::Store,
        ..Default::default()
    }
}

/// The words of an error in an answer of JetStream's API. `None`: it is no error.
pub(super) fn api_error(payload: &[u8]) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Answer {
        error: Option<super::commit::ApiError>,
    }
    let answer: Answer = serde_json::from_slice(payload).ok()?;
    answer.error.map(|error| format!("{} ({})", error.description, error.err_code))
}
