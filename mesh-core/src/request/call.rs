//! The asking side.

use std::{
    borrow::Cow,
    fmt,
    future::{Future, IntoFuture},
    marker::PhantomData,
    time::Duration,
};

use bytes::Bytes;
use tracing::{Instrument as _, field::Empty};

use super::{ask::Asking, retry::Retries};
use crate::{
    bus::Bus,
    clock::Deadline,
    contract::{BoxFuture, Context, Contract, Operation, Repeat},
    fault::{Code, Effect, Fault, Reason},
    gate::Cause,
    telemetry::{metrics::OperationMetrics, trace},
};

/// How long a call waits where nothing is said.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);

/// Which operation is called.
#[derive(Debug, Clone)]
pub struct CallTarget {
    service: Cow<'static, str>,
    method: Cow<'static, str>,
    repeat: Repeat,
}

impl CallTarget {
    /// The operation `method` of the rpc service `service`; as long as nothing else is said, one that is never repeated blindly.
    #[must_use]
    pub fn new(service: impl Into<Cow<'static, str>>, method: impl Into<Cow<'static, str>>) -> CallTarget {
        CallTarget { service: service.into(), method: method.into(), repeat: Repeat::Once }
    }

    /// The operation `O`.
    #[must_use]
    pub fn of<O: Operation>() -> CallTarget {
        CallTarget::new(O::SERVICE, O::METHOD).repeats(O::REPEAT)
    }

    /// What a repeat does, as the contract states it. A keyed operation is called with an idempotency key.
    #[must_use]
    pub fn repeats(self, repeat: Repeat) -> CallTarget {
        CallTarget { repeat, ..self }
    }

    pub(super) fn repeat(&self) -> Repeat {
        self.repeat
    }

    pub(super) fn names(&self) -> (&str, &str) {
        (&self.service, &self.method)
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
    within: u32,
    retries: Option<Retries>,
    metrics: Option<OperationMetrics>,
    reply: PhantomData<fn() -> R>,
}

impl<R> Call<R> {
    /// A call: `payload` is the encoded request. It is made once; see [`retries`](Call::retries).
    pub fn new(bus: &Bus, target: CallTarget, payload: Bytes) -> Call<R> {
        let (bus, cause, reply) = (bus.clone(), Cause::default(), PhantomData);
        Call { bus, target, cause, payload, within: 1, retries: None, metrics: None, reply }
    }

    /// Makes it again where it failed and its contract allows that, within its deadline and the budget of `retries`.
    pub fn retries(mut self, retries: &Retries) -> Call<R> {
        self.retries = Some(retries.clone());
        self
    }

    /// Makes it once, whatever comes back.
    pub fn without_retry(mut self) -> Call<R> {
        self.retries = None;
        self
    }

    /// The local part of its id, 1 to 128 visible ASCII characters: the same id again is the same idempotency key, so a call
    /// whose outcome is unknown can be made again later. Without it a *keyed* operation gets a new one for each call, the same
    /// for its repeats.
    pub fn id(mut self, id: impl Into<String>) -> Call<R> {
        self.cause.id = Some(id.into());
        self
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

    /// Takes id, deadline and trace over from the attempt that is being handled. An id or a deadline set before stays. Where
    /// that attempt is a retry, this call is made once: whoever repeats is further up, and repeats do not multiply.
    pub fn caused_by(mut self, context: &Context) -> Call<R> {
        self.within = context.attempt();
        // One attempt may ask several things; only what a key is needed for takes over an id.
        let id = if self.target.repeat == Repeat::Keyed { context.derived_id() } else { None };
        let Cause { id: own, deadline, .. } = std::mem::take(&mut self.cause);
        let deadline = deadline.or(context.deadline());
        self.cause = Cause { id: own.or(id), deadline, trace: Some(context.trace()) };
        self
    }

    /// Asks, and gives the reply's bytes as they came.
    ///
    /// # Errors
    /// As for awaiting the call.
    pub fn bytes(self) -> impl Future<Output = Result<Bytes, Fault>> + Send + use<R> {
        let Call { bus, target, cause: Cause { id, deadline, trace }, payload, within, retries, metrics, .. } = self;
        async move {
            let span =
                tracing::debug_span!("mesh.call", otel.kind = "client", operation = %target.method, attempts = Empty);
            trace::follow(&span, trace);
            let started = tokio::time::Instant::now();
            let deadline = deadline.unwrap_or_else(|| Deadline::after(bus.gate().clock(), DEFAULT_TIMEOUT));
            let mut asking = Asking { bus, target, payload, deadline, trace, id, within, retries, metrics };
            let result = asking.ask().instrument(span).await;
            if let Some(metrics) = asking.metrics {
                metrics.called(result.as_ref().map(drop), started.elapsed());
            }
            result
        }
    }
}

impl<R: Contract> IntoFuture for Call<R> {
    type Output = Result<R, Fault>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    /// # Errors
    /// That of the last attempt, which says how many were made if it was more than one: the service's own fault; nobody answers
    /// (effect none); no answer before the deadline (effect unknown); a reply that can't be read (effect done).
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
