//! Streams and consumers: made by `mesh` alone, never by a service.

use std::time::Duration;

use async_nats::jetstream::{self, consumer};
use serde_json::{Value, json};
use tokio::sync::broadcast::{self, error::RecvError};

use super::{
    Bus,
    shape::{self, Change, Fields},
};
use crate::{
    fault::{Code, Effect, Fault, Reason},
    policy::compile::{ConsumerSpec, StreamSpec},
    subject,
};

/// How much streams may hold and how deliveries are limited. What is not said stays as it is where something stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamLimits {
    /// Copies: 1 on one server, 3 in production. A stream that is made where nothing is said has as many as the others.
    pub replicas: Option<usize>,
    /// How long events and outcomes are kept: 7 days in a stream that is made where nothing is said.
    pub event_age: Option<Duration>,
    /// Bytes that one stream may hold, set aside for it beforehand. A stream that is made where nothing is said may hold as
    /// much as the broker has.
    ///
    /// A full stream refuses, it never drops what is old. Lanes have no limit of their own: the broker allows schedules
    /// only on streams that drop what is old when they are full, so they must never be full.
    pub max_bytes: Option<i64>,
    /// Whether what a stream has may be lowered to what is said: copies go, and what is older than the age, at once.
    pub may_lower: bool,
    /// Where a method moves: how long what the consumers have in hand may take to end. They are given nothing meanwhile.
    pub patience: Duration,
    /// How long a delivery's lease lasts without a sign of life, of a consumer that is made.
    pub ack_wait: Duration,
    /// Deliveries of one consumer that may be under way, of a consumer that is made.
    pub max_ack_pending: i64,
    /// Deliveries of one message, at most, of a consumer that is made: a far backstop, attempts are counted by the mesh. What
    /// reaches it is a letter of the keeper's.
    pub max_deliver: i64,
}

impl Default for StreamLimits {
    fn default() -> StreamLimits {
        StreamLimits {
            replicas: None,
            event_age: None,
            max_bytes: None,
            may_lower: false,
            patience: Duration::from_secs(20),
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
    /// So many deliveries may be under way (`max_ack_pending`). `None`: any number.
    pub window: Option<u64>,
}

/// What the subjects of JetStream's API begin with.
const API: &str = "$JS.API";

/// How long a question may take that was denied: it ends by its own time limit.
const DENIED_LATELY: Duration = Duration::from_secs(15);
/// How soon the broker's words about a question follow those about the inbox for its answer.
const SOON: Duration = Duration::from_millis(250);

/// A stream or a consumer: what stands, and what it is to be.
#[derive(Clone)]
pub(crate) struct Plan {
    stream: String,
    consumer: Option<String>,
    now: Option<Fields>,
    wanted: Fields,
}

impl Plan {
    /// Whether there is none yet.
    pub(crate) fn is_new(&self) -> bool {
        self.now.is_none()
    }

    /// What applying it changes of what stands.
    pub(crate) fn changes(&self) -> Vec<Change> {
        let changes = |now| shape::changes(&self.stream, self.consumer.as_deref(), now, &self.wanted);
        self.now.as_ref().map(changes).unwrap_or_default()
    }

    /// How many copies stand.
    pub(crate) fn replicas(&self) -> Option<usize> {
        usize::try_from(self.now.as_ref()?.get("num_replicas")?.as_u64()?).ok()
    }

    /// Copies of a stream that is to be made where nothing was said of them.
    pub(crate) fn beside(&mut self, replicas: usize) {
        if self.is_new() {
            self.wanted.insert("num_replicas".into(), json!(replicas));
        }
    }

    /// What a consumer is to read besides what it reads: of a new one, all.
    pub(crate) fn gained(&self) -> Vec<String> {
        if self.consumer.is_none() {
            return Vec::new();
        }
        let before = self.reads();
        shape::filters(&self.wanted).into_iter().filter(|filter| !before.contains(filter)).collect()
    }

    /// What a consumer that exists is to read no more.
    pub(crate) fn lost(&self) -> Vec<String> {
        let after = shape::filters(&self.wanted);
        self.reads().into_iter().filter(|filter| !after.contains(filter)).collect()
    }

    /// The same consumer, reading `filters` instead of what it reads: nothing else of what stands changes.
    pub(crate) fn reading(&self, filters: &[String]) -> Plan {
        let mut other = Plan { wanted: self.now.clone().unwrap_or_default(), ..self.clone() };
        other.wanted.remove("filter_subject");
        other.wanted.insert("filter_subjects".into(), json!(filters));
        other
    }

    /// What a consumer that exists reads.
    pub(crate) fn reads(&self) -> Vec<String> {
        self.now.as_ref().map(shape::filters).unwrap_or_default()
    }

    /// What it is to read.
    pub(crate) fn is_to_read(&self) -> Vec<String> {
        shape::filters(&self.wanted)
    }

    fn named(&self) -> (&'static str, &str) {
        self.consumer.as_deref().map_or(("stream", &self.stream), |durable| ("consumer", durable))
    }
}

impl Bus {
    fn jetstream(&self) -> jetstream::Context {
        jetstream::new(self.0.client.clone())
    }

    /// What making the stream what `spec` says would do.
    ///
    /// # Errors
    /// The broker does not answer, or this identity may not ask.
    pub(crate) async fn plan_stream(&self, spec: &StreamSpec, limits: &StreamLimits) -> Result<Plan, Fault> {
        let now = self.standing(&format!("STREAM.INFO.{}", spec.name), ("stream", &spec.name)).await?;
        let wanted = match &now {
            Some(now) => shape::stream_again(now, spec, limits),
            None => shape::fields(&shape::new_stream(spec, limits)),
        };
        Ok(Plan { stream: spec.name.clone(), consumer: None, now, wanted })
    }

    /// What making the durable consumer what `spec` says would do.
    ///
    /// # Errors
    /// The broker does not answer, or this identity may not ask.
    pub(crate) async fn plan_consumer(&self, spec: &ConsumerSpec, limits: &StreamLimits) -> Result<Plan, Fault> {
        let asked = format!("CONSUMER.INFO.{}.{}", spec.stream, spec.durable);
        let now = self.standing(&asked, ("consumer", &spec.durable)).await?;
        let wanted = match &now {
            Some(now) => shape::consumer_again(now, spec, limits),
            None => shape::fields(&shape::new_consumer(spec, limits)),
        };
        Ok(Plan { stream: spec.stream.clone(), consumer: Some(spec.durable.clone()), now, wanted })
    }

    /// Does what was planned. What needs no change is not touched.
    ///
    /// # Errors
    /// The broker refuses, or this identity may not.
    pub(crate) async fn carry_out(&self, plan: &Plan) -> Result<(), Fault> {
        if !plan.is_new() && plan.changes().is_empty() {
            return Ok(());
        }
        let (stream, verb) = (&plan.stream, if plan.is_new() { "create" } else { "update" });
        let (subject, request) = match &plan.consumer {
            Some(durable) => (
                format!("CONSUMER.CREATE.{stream}.{durable}"),
                json!({ "stream_name": stream, "config": plan.wanted, "action": verb }),
            ),
            None => (format!("STREAM.{}.{stream}", verb.to_uppercase()), Value::Object(plan.wanted.clone())),
        };
        self.order(subject, &request, plan.named()).await
    }

    /// Has JetStream's API do something.
    pub(super) async fn order(&self, subject: String, request: &Value, named: (&str, &str)) -> Result<(), Fault> {
        let asked = [format!("{API}.{subject}")];
        let answer = self.unless_denied(&asked, async {
            let answer: Result<Value, _> = self.jetstream().request(subject, request).await;
            answer.map_err(|error| self.unmade(named, &error, false))
        });
        let answer = answer.await?;
        error_of(&answer).map_or(Ok(()), |error| Err(self.unmade(named, &error, true)))
    }

    /// The configuration of what stands, whole. `None`: there is none.
    async fn standing(&self, asked: &str, (what, name): (&str, &str)) -> Result<Option<Fields>, Fault> {
        let Some(mut answer) = self.ask(asked, &json!({}), (what, name)).await? else { return Ok(None) };
        match answer.get_mut("config").map(Value::take) {
            Some(Value::Object(config)) => Ok(Some(config)),
            _ => Err(self.unshown((what, name), &"the answer has no configuration")),
        }
    }

    /// Asks JetStream's API. `None`: it knows no such thing.
    pub(super) async fn ask(
        &self,
        asked: &str,
        request: &Value,
        (what, name): (&str, &str),
    ) -> Result<Option<Value>, Fault> {
        let subjects = [format!("{API}.{asked}")];
        let answer = self.unless_denied(&subjects, async {
            let answer: Result<Value, _> = self.jetstream().request(asked.to_owned(), request).await;
            answer.map_err(|error| self.unshown((what, name), &error))
        });
        let answer = answer.await?;
        if answer.pointer("/error/code") == Some(&json!(404)) {
            return Ok(None);
        }
        error_of(&answer).map_or(Ok(Some(answer)), |error| Err(self.unshown((what, name), &error)))
    }

    /// What a stream holds. `None`: there is no such stream.
    ///
    /// # Errors
    /// The broker can't be reached, or this identity may not ask.
    pub async fn stream_state(&self, name: &str) -> Result<Option<StreamState>, Fault> {
        self.unless_denied(&[format!("{API}.STREAM.INFO.{name}")], self.stream_state_of(name)).await
    }

    async fn stream_state_of(&self, name: &str) -> Result<Option<StreamState>, Fault> {
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
        let asked = [format!("{API}.CONSUMER.INFO.{stream}.{durable}")];
        self.unless_denied(&asked, self.consumer_state_of(stream, durable)).await
    }

    async fn consumer_state_of(&self, stream: &str, durable: &str) -> Result<Option<ConsumerState>, Fault> {
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
                    window: u64::try_from(info.config.max_ack_pending).ok().filter(|window| *window > 0),
                }))
            }
            Err(error) if error.to_string().contains("not found") => Ok(None),
            Err(error) => Err(self.unshown(("consumer", durable), &error)),
        }
    }

    /// What was asked for was not made. `is_no`: the broker said so itself; else nobody knows.
    fn unmade(&self, (what, name): (&str, &str), error: &dyn std::fmt::Display, is_no: bool) -> Fault {
        if let Some(denied) = self.denied(name) {
            return denied;
        }
        let effect = if is_no { Effect::None } else { Effect::Unknown };
        let code = if is_no { Code::FailedPrecondition } else { Code::Unavailable };
        Fault::new(code, effect, Reason::PublishRefused, format!("the bus did not make the {what} {name:?}: {error}"))
    }

    pub(super) fn unshown(&self, (what, name): (&str, &str), error: &dyn std::fmt::Display) -> Fault {
        let message = format!("the bus did not show the {what} {name:?}: {error}");
        let fault = || Fault::new(Code::Unavailable, Effect::None, Reason::BusUnavailable, message);
        self.denied(name).unwrap_or_else(fault)
    }

    /// The broker answers nothing to who may not ask: it says so apart, and at once. What it said long ago is over.
    pub(super) fn denied(&self, name: &str) -> Option<Fault> {
        let (subject, at) = self.0.link.denied()?;
        if at.elapsed() > DENIED_LATELY || !subject.split('.').any(|token| token == name) {
            return None;
        }
        Some(refused(&subject))
    }

    /// The answer, or that the broker denies one of the subjects that are asked, or the inbox where the answer would come: of
    /// what it denies it says nothing to who waits, and the wait would last until its own time limit.
    pub(super) async fn unless_denied<T>(
        &self,
        asked: &[String],
        answer: impl Future<Output = Result<T, Fault>>,
    ) -> Result<T, Fault> {
        let inbox = subject::inbox_prefix(self.0.gate.identity().service());
        let of_question = denial(self.0.link.denials(), |subject| asked.iter().any(|one| is_below(subject, one)));
        let of_inbox = denial(self.0.link.denials(), |subject| is_below(subject, &inbox));
        let denied = async {
            // Who may not hear the answer often may not ask either: that says more, and is said right after it.
            let of_inbox = async {
                let subject = of_inbox.await;
                tokio::time::sleep(SOON).await;
                subject
            };
            tokio::select! {
                subject = of_question => subject,
                subject = of_inbox => subject,
            }
        };
        tokio::select! {
            biased;
            answer = answer => answer,
            subject = denied => Err(refused(&subject)),
        }
    }
}

/// The next subject that is denied of those that are meant.
async fn denial(mut denials: broadcast::Receiver<String>, is_meant: impl Fn(&str) -> bool) -> String {
    loop {
        match denials.recv().await {
            Ok(subject) if is_meant(&subject) => return subject,
            Ok(_) | Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return std::future::pending().await,
        }
    }
}

/// Who it is the broker knows by the credential alone: a name of ours might be another's.
fn refused(subject: &str) -> Fault {
    let message = format!("the broker denies this identity the subject {subject}");
    Fault::new(Code::PermissionDenied, Effect::None, Reason::AccessDenied, message)
}

/// Whether it is the subject, or one that begins with it.
fn is_below(subject: &str, prefix: &str) -> bool {
    subject.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// The broker's own words where it says no.
fn error_of(answer: &Value) -> Option<String> {
    let error = answer.get("error")?;
    let words = error.get("description").and_then(Value::as_str).unwrap_or_default();
    Some(format!("{words} ({})", error.get("err_code").and_then(Value::as_u64).unwrap_or(0)))
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
