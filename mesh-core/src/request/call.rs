//! The asking side.

use std::{
    borrow::Cow,
    fmt,
    future::{Future, IntoFuture},
    marker::PhantomData,
    time::Duration,
};

use bytes::Bytes;
use tracing::Instrument as _;

use crate::{
    bus::{Bus, PublishError},
    clock::Deadline,
    contract::{BoxFuture, Context, Contract, Operation},
    envelope::header,
    fault::{Code, Effect, Fault, Reason},
    gate::{Cause, Opened},
    telemetry::{metrics::OperationMetrics, trace},
};

/// How long a call waits where nothing is said.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);

/// Which operation is called.
#[derive(Debug, Clone)]
pub struct CallTarget {
    service: Cow<'static, str>,
    method: Cow<'static, str>,
}

impl CallTarget {
    /// The operation `method` of the rpc service `service`.
    #[must_use]
    pub fn new(service: impl Into<Cow<'static, str>>, method: impl Into<Cow<'static, str>>) -> CallTarget {
        CallTarget { service: service.into(), method: method.into() }
    }

    /// The operation `O`.
    #[must_use]
    pub fn of<O: Operation>() -> CallTarget {
        CallTarget::new(O::SERVICE, O::METHOD)
    }
}

impl fmt::Display for CallTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.service, self.method)
    }
}

/// One call on its way; `R` is the reply message. Await it.
#[must_use = "nothing is asked until it is awaited"]
pub struct Call<R> {
    bus: Bus,
    target: CallTarget,
    cause: Cause,
    payload: Bytes,
    metrics: Option<OperationMetrics>,
    reply: PhantomData<fn() -> R>,
}

impl<R> Call<R> {
    /// A call: `payload` is the encoded request.
    pub fn new(bus: &Bus, target: CallTarget, payload: Bytes) -> Call<R> {
        Call { bus: bus.clone(), target, cause: Cause::default(), payload, metrics: None, reply: PhantomData }
    }

    /// Counts it.
    pub fn metrics(mut self, metrics: OperationMetrics) -> Call<R> {
        self.metrics = Some(metrics);
        self
    }

    /// Waits at most so long from now.
    pub fn timeout(self, timeout: Duration) -> Call<R> {
        let deadline = Deadline::after(self.bus.gate().clock(), timeout);
        self.deadline(deadline)
    }

    /// Waits until the moment, which travels with the call: work that nobody waits for is not begun.
    pub fn deadline(mut self, deadline: Deadline) -> Call<R> {
        self.cause.deadline = Some(deadline);
        self
    }

    /// Takes deadline and trace over from the attempt that is being handled. A deadline set before stays.
    pub fn caused_by(mut self, context: &Context) -> Call<R> {
        let deadline = self.cause.deadline;
        self.cause = Cause::of(context);
        self.cause.deadline = deadline.or(self.cause.deadline);
        self
    }

    /// Asks, and gives the reply's bytes as they came.
    ///
    /// # Errors
    /// As for awaiting the call.
    pub fn bytes(self) -> impl Future<Output = Result<Bytes, Fault>> + Send + use<R> {
        let Call { bus, target, cause, payload, metrics, .. } = self;
        async move {
            let span = tracing::debug_span!("mesh.call", otel.kind = "client", operation = %target.method);
            trace::follow(&span, cause.trace);
            let started = tokio::time::Instant::now();
            let result = ask(&bus, &target, cause, payload).instrument(span).await;
            if let Some(metrics) = metrics {
                metrics.called(result.as_ref().map(drop), started.elapsed());
            }
            result
        }
    }
}

async fn ask(bus: &Bus, target: &CallTarget, mut cause: Cause, payload: Bytes) -> Result<Bytes, Fault> {
    let clock = bus.gate().clock();
    let deadline = cause.deadline.unwrap_or_else(|| Deadline::after(clock, DEFAULT_TIMEOUT));
    cause.deadline = Some(deadline);
    cause.trace = Some(trace::outgoing(cause.trace));
    let remaining = deadline.remaining(clock);
    if remaining.is_zero() {
        return Err(expired(target));
    }
    let sealed = bus.gate().seal_call((&target.service, &target.method), cause, payload)?;
    let answer = bus.request(sealed, remaining).await.map_err(|error| unanswered(target, error))?;
    read(answer.open())
}

impl<R: Contract> IntoFuture for Call<R> {
    type Output = Result<R, Fault>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    /// # Errors
    /// The service's own fault; nobody answers (effect none); no answer before the deadline (effect unknown); a reply that
    /// can't be read (effect done).
    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let bytes = self.bytes().await?;
            R::decode(bytes).map_err(|error| {
                let message = format!("the reply is no {}", R::FULL_NAME);
                Fault::new(Code::DataLoss, Effect::Done, Reason::Undecodable, message).with_detail(error.to_string())
            })
        })
    }
}

fn read(opened: Opened) -> Result<Bytes, Fault> {
    let envelope = opened.envelope;
    let Some(code) = envelope.header(header::ERROR_CODE) else { return Ok(envelope.payload) };
    if envelope.payload.is_empty() {
        // A service that speaks only NATS micro.
        let line = envelope.header(header::ERROR).unwrap_or("no reason given");
        return Err(Fault::new(Code::Unknown, Effect::Unknown, Reason::HandlerRefused, format!("{code}: {line}")));
    }
    match <mesh_proto::v1::Fault as prost::Message>::decode(envelope.payload) {
        Ok(fault) => Err(fault.into()),
        Err(error) => Err(Fault::new(Code::DataLoss, Effect::Unknown, Reason::Undecodable, "the fault can't be read")
            .with_detail(error.to_string())),
    }
}

fn expired(name: &CallTarget) -> Fault {
    let message = format!("{name} was not called: its deadline had passed");
    Fault::new(Code::DeadlineExceeded, Effect::None, Reason::DeadlineExpired, message)
}

fn unanswered(name: &CallTarget, error: PublishError) -> Fault {
    match error {
        PublishError::NobodyListens => Fault::new(
            Code::Unavailable,
            Effect::None,
            Reason::NobodyAnswers,
            format!("no service answers {name}; is one that serves it running?"),
        ),
        PublishError::TimedOut => Fault::new(
            Code::DeadlineExceeded,
            Effect::Unknown,
            Reason::CallTimedOut,
            format!("{name} did not answer before the deadline; it may have acted"),
        ),
        other => other.into_fault(&format!("the call of {name}")),
    }
}
