//! The adapter: quota, call, interpretation, in one function that reads from top to bottom.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use ::http::{HeaderName, HeaderValue};
use bytes::Bytes;
use prost_reflect::{DynamicMessage, MessageDescriptor};
use tracing::{Instrument as _, Span, field::Empty};

use super::{Declared, Terms, Vendor, outcome};
use crate::{
    clock::Clock,
    config::vendor::{Contracts, VendorFile},
    consume::ConsumerSettings,
    contract::{BoxFuture, Context, OperationInfo, Service, admission::Admission},
    fault::{Code, Effect, Fault, Origin, Reason},
    http::{Client, Limits, Request, Sent},
    policy::{isolation::IsolationRule, quota::Pause},
    telemetry::{
        metrics::{Metrics, VendorMetrics},
        trace::outgoing,
    },
};

/// How long nothing is sent after the credential was refused: a person has to act.
const BAD_CREDENTIAL_PAUSE: Duration = Duration::from_secs(10);

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// Operations of a contract, carried out by a vendor. Cloning gives another handle on the same adapter.
#[derive(Clone)]
pub struct Adapter(Arc<Inner>);

struct Inner {
    vendor: Box<dyn Vendor>,
    client: Client,
    clock: Clock,
    operations: Vec<Operation>,
    quotas: Vec<Mutex<Pause>>,
}

struct Operation {
    terms: Terms,
    full_name: String,
    input: MessageDescriptor,
    /// Index into the quotas.
    quota: usize,
    metrics: Option<VendorMetrics>,
}

/// One rpc service of an adapter.
#[derive(Clone)]
pub struct AdapterService {
    inner: Arc<Inner>,
    name: String,
    /// Method to index of the operation.
    methods: HashMap<String, usize>,
}

impl fmt::Debug for Adapter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Adapter({})", self.0.vendor.name())
    }
}

impl fmt::Debug for AdapterService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AdapterService({} by {})", self.name, self.inner.vendor.name())
    }
}

impl Adapter {
    /// An adapter. `contracts` must know the messages of the vendor's operations.
    ///
    /// # Errors
    /// Names a message that the contracts do not know.
    pub fn new(
        vendor: impl Vendor,
        client: Client,
        contracts: &impl Contracts,
        clock: Clock,
    ) -> Result<Adapter, Fault> {
        let (pool, mut groups, mut operations) = (contracts.pool(), Vec::new(), Vec::new());
        for terms in vendor.terms() {
            let name = &terms.info.request;
            let input = pool.get_message_by_name(name).ok_or_else(|| {
                let what = format!("no contract has the message {name:?}");
                Fault::new(Code::InvalidArgument, Effect::None, Reason::UnknownName, what)
            })?;
            let quota = groups.iter().position(|group| *group == terms.quota).unwrap_or_else(|| {
                groups.push(terms.quota.clone());
                groups.len() - 1
            });
            let full_name = terms.info.full_name();
            operations.push(Operation { full_name, terms, input, quota, metrics: None });
        }
        let quotas = groups.iter().map(|_| Mutex::default()).collect();
        Ok(Adapter(Arc::new(Inner { vendor: Box::new(vendor), client, clock, operations, quotas })))
    }

    /// An adapter by a vendor file, with a client of its own.
    ///
    /// # Errors
    /// This machine's TLS can't be used, or a header of the file can't be made from its secrets.
    pub fn by_file(file: VendorFile, contracts: &impl Contracts, clock: Clock) -> Result<Adapter, Fault> {
        let limits = Limits::default();
        let client = if file.base_url.is_plain() { Client::plain(limits) } else { Client::secure(limits) };
        let client = client.map_err(|e| {
            Fault::new(Code::Unavailable, Effect::None, Reason::VendorUnreachable, format!("{}: {e}", file.vendor))
        })?;
        Adapter::new(Declared::new(file)?, client, contracts, clock)
    }

    /// Counts its calls. Before it serves: the handles that were given out before count nothing.
    #[must_use]
    pub fn counted(mut self, metrics: &Metrics) -> Adapter {
        if let Some(inner) = Arc::get_mut(&mut self.0) {
            let vendor = inner.vendor.name();
            for operation in &mut inner.operations {
                operation.metrics = Some(metrics.vendor(vendor, &operation.full_name));
            }
        }
        self
    }

    /// The rpc services that the vendor's operations belong to, each to be served.
    #[must_use]
    pub fn services(&self) -> Vec<AdapterService> {
        let mut services: Vec<AdapterService> = Vec::new();
        for (index, operation) in self.0.operations.iter().enumerate() {
            let (name, method) = (&operation.terms.info.service, operation.terms.info.method.clone().into_owned());
            match services.iter_mut().find(|service| service.name == *name) {
                Some(service) => {
                    service.methods.insert(method, index);
                }
                None => services.push(AdapterService {
                    inner: Arc::clone(&self.0),
                    name: name.clone().into_owned(),
                    methods: HashMap::from([(method, index)]),
                }),
            }
        }
        services
    }

    /// Closed while every quota of the vendor is paused.
    #[must_use]
    pub fn admission(&self) -> impl Admission + Clone + use<> {
        self.clone()
    }
}

impl AdapterService {
    /// How its queued work is to be worked off, as the vendor says: retries and their budget, targets, and the admission that
    /// closes while its quotas are paused. Give it to the one who serves it.
    #[must_use]
    pub fn settings(&self) -> ConsumerSettings {
        let terms = || self.methods.iter().map(|(method, index)| (method, &self.inner.operations[*index].terms));
        ConsumerSettings {
            retry_of: terms().map(|(method, terms)| (method.clone(), terms.retry.clone())).collect(),
            retry_budget: self.inner.vendor.retry_budget(),
            isolation: terms().any(|(_, terms)| terms.isolated).then(IsolationRule::default),
            admission: Arc::new(self.clone()),
            ..ConsumerSettings::default()
        }
    }
}

impl Admission for Adapter {
    fn closed_for(&self) -> Option<Duration> {
        self.0.closed_for(self.0.operations.iter())
    }
}

impl Admission for AdapterService {
    /// Closed while every quota that this service's operations belong to is paused.
    fn closed_for(&self) -> Option<Duration> {
        self.inner.closed_for(self.methods.values().map(|index| &self.inner.operations[*index]))
    }
}

impl Service for AdapterService {
    fn name(&self) -> &str {
        &self.name
    }

    fn operations(&self) -> Vec<OperationInfo> {
        self.methods.values().map(|index| self.inner.operations[*index].terms.info.clone()).collect()
    }

    fn target(&self, method: &str, payload: &Bytes) -> Option<String> {
        let index = *self.methods.get(method)?;
        let operation = &self.inner.operations[index];
        if !operation.terms.isolated {
            return None;
        }
        // What can't be decoded has no target: its attempt will say so.
        let message = DynamicMessage::decode(operation.input.clone(), payload.clone()).ok()?;
        self.inner.vendor.target(index, &message)
    }

    fn dispatch<'a>(&'a self, method: &'a str, cx: Context, payload: Bytes) -> BoxFuture<'a, Result<Bytes, Fault>> {
        Box::pin(async move {
            let Some(index) = self.methods.get(method) else {
                let what = format!("{} has no operation {method:?} here", self.name);
                return Err(Fault::new(Code::Unimplemented, Effect::None, Reason::Unimplemented, what));
            };
            let span = self.inner.span(*index, &cx);
            self.inner.perform(*index, cx, payload).instrument(span).await
        })
    }
}

impl Inner {
    /// One attempt, from the message to the reply.
    async fn perform(&self, index: usize, cx: Context, payload: Bytes) -> Result<Bytes, Fault> {
        let operation = &self.operations[index];
        let message =
            DynamicMessage::decode(operation.input.clone(), payload).map_err(|e| undecodable(operation, &e))?;
        if let Some(rest) = self.pause(operation.quota).rest(self.clock.now_ms()) {
            let what = format!("the quota {:?} of {} is paused", operation.terms.quota, self.vendor.name());
            let fault = Fault::new(Code::ResourceExhausted, Effect::None, Reason::QuotaPaused, what);
            return Err(fault.with_retry_after(rest).with_origin(self.origin(operation)));
        }
        let timeout = self.time_left(operation, &cx)?;
        let mut request = self.vendor.request(index, &cx, &message)?;
        trace(&mut request, &cx);
        let span = Span::current();
        span.record("http.request.method", request.method.as_str());
        span.record("server.address", request.url.host().unwrap_or_default());
        span.record("server.port", request.url.port_u16().unwrap_or(443));
        let started = tokio::time::Instant::now();
        let sent = self.client.send(request, timeout).await;
        if let Some(metrics) = &operation.metrics {
            let status = if let Sent::Answer(answer) = &sent { answer.status.as_u16() } else { 0 };
            metrics.called(status, started.elapsed());
        }
        let outcome = match sent {
            Sent::Answer(answer) => {
                Span::current().record("http.response.status_code", answer.status.as_u16());
                self.vendor.interpret(index, &answer, self.clock.now())
            }
            Sent::NotSent(reason) => Err(outcome::not_sent(reason, self.origin(operation))),
            Sent::Unknown(reason) => Err(outcome::unanswered(reason, self.origin(operation))),
        };
        self.learn(operation, outcome)
    }

    /// What is left until the deadline, at most the vendor's timeout.
    fn time_left(&self, operation: &Operation, cx: &Context) -> Result<Duration, Fault> {
        let left = cx.deadline().map_or(Duration::MAX, |deadline| deadline.remaining(&self.clock));
        if left.is_zero() {
            let what = format!("the deadline was over before {} was called", self.vendor.name());
            let fault = Fault::new(Code::DeadlineExceeded, Effect::None, Reason::DeadlineExpired, what);
            return Err(fault.with_origin(self.origin(operation)));
        }
        Ok(left.min(operation.terms.timeout))
    }

    /// A vendor that asks to slow down pauses the whole quota, and so does one that refuses the credential: the next message
    /// would fare no better. The fault then says how long.
    fn learn(&self, operation: &Operation, outcome: Result<Bytes, Fault>) -> Result<Bytes, Fault> {
        let mut pause = self.pause(operation.quota);
        let fault = match outcome {
            Ok(reply) => {
                *pause = pause.accepted();
                return Ok(reply);
            }
            Err(fault) => fault,
        };
        Span::current().record("error.type", fault.reason().code());
        let (stated, why) = match fault.reason() {
            Reason::VendorThrottled => (fault.retry_after(), "the vendor asked to slow down: its quota is paused"),
            Reason::VendorUnauthenticated => (
                Some(BAD_CREDENTIAL_PAUSE),
                "the vendor refuses the credential: nothing is sent for a while; renew the key",
            ),
            _ => return Err(fault),
        };
        let now_ms = self.clock.now_ms();
        *pause = pause.throttled(now_ms, stated);
        let rest = pause.rest(now_ms).unwrap_or_default();
        tracing::warn!(
            vendor = self.vendor.name(),
            quota = operation.terms.quota,
            rest_ms = u64::try_from(rest.as_millis()).unwrap_or(u64::MAX),
            "{why}"
        );
        Err(fault.with_retry_after(rest))
    }

    fn pause(&self, quota: usize) -> MutexGuard<'_, Pause> {
        // A pause is a plain value: a panic elsewhere can't have left half of one.
        self.quotas[quota].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn closed_for<'a>(&self, operations: impl Iterator<Item = &'a Operation>) -> Option<Duration> {
        let now_ms = self.clock.now_ms();
        let rests = operations.map(|operation| self.pause(operation.quota).rest(now_ms));
        rests.reduce(|a, b| a.zip(b).map(|(a, b)| a.min(b))).flatten()
    }

    fn origin(&self, operation: &Operation) -> Origin {
        Origin { vendor: self.vendor.name().to_owned(), operation: operation.full_name.clone(), ..Origin::default() }
    }

    /// OpenTelemetry's names for an HTTP client. Never a query, header or body.
    fn span(&self, index: usize, cx: &Context) -> Span {
        let operation = &self.operations[index];
        tracing::debug_span!(
            "vendor.call",
            otel.kind = "client",
            peer.service = self.vendor.name(),
            rpc.method = operation.full_name,
            url.template = operation.terms.route,
            http.request.resend_count = cx.attempt().saturating_sub(1),
            http.request.method = Empty,
            server.address = Empty,
            server.port = Empty,
            http.response.status_code = Empty,
            error.r#type = Empty,
        )
    }
}

fn undecodable(operation: &Operation, error: &prost_reflect::prost::DecodeError) -> Fault {
    let what = format!("the payload is no {}", operation.terms.info.request);
    Fault::new(Code::InvalidArgument, Effect::None, Reason::Undecodable, what).with_detail(error.to_string())
}

fn trace(request: &mut Request, cx: &Context) {
    if let Ok(value) = HeaderValue::from_str(&outgoing(Some(cx.trace())).to_string()) {
        request.headers.insert(TRACEPARENT, value);
    }
}
