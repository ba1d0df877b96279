//! Queued work.

use std::{
    borrow::Cow,
    future::{Future, IntoFuture},
};

use bytes::Bytes;
use tracing::Instrument as _;

use super::Receipt;
use crate::{
    bus::Bus,
    clock::Deadline,
    contract::{BoxFuture, Context, Operation},
    fault::Fault,
    gate::Cause,
    subject::{self, Class},
    telemetry::{metrics::OperationMetrics, trace},
};

/// Which operation the work is for.
#[derive(Debug, Clone)]
pub struct WorkTarget {
    service: Cow<'static, str>,
    method: Cow<'static, str>,
}

impl WorkTarget {
    /// The operation `method` of the rpc service `service`.
    #[must_use]
    pub fn new(service: impl Into<Cow<'static, str>>, method: impl Into<Cow<'static, str>>) -> WorkTarget {
        WorkTarget { service: service.into(), method: method.into() }
    }

    /// The operation `O`.
    #[must_use]
    pub fn of<O: Operation>() -> WorkTarget {
        WorkTarget::new(O::SERVICE, O::METHOD)
    }
}

/// One piece of work on its way into the queue. Await it.
#[must_use = "nothing is queued until it is awaited"]
pub struct Enqueue {
    bus: Bus,
    target: WorkTarget,
    key: String,
    class: Class,
    cause: Cause,
    payload: Bytes,
    metrics: Option<OperationMetrics>,
}

impl Enqueue {
    /// Work for an operation: `payload` is the encoded request, `key` its ordering key.
    pub fn new(bus: &Bus, target: WorkTarget, key: String, payload: Bytes) -> Enqueue {
        Enqueue { bus: bus.clone(), target, key, class: Class::Normal, cause: Cause::default(), payload, metrics: None }
    }

    /// Counts it.
    pub fn metrics(mut self, metrics: OperationMetrics) -> Enqueue {
        self.metrics = Some(metrics);
        self
    }

    /// The local part of its id, 1 to 128 visible ASCII characters. The same id again is the same work again.
    pub fn id(mut self, id: impl Into<String>) -> Enqueue {
        self.cause.id = Some(id.into());
        self
    }

    /// How urgent it is.
    pub fn class(mut self, class: Class) -> Enqueue {
        self.class = class;
        self
    }

    /// When nobody wants it any more: work that is not begun by then ends as a dead letter.
    pub fn deadline(mut self, deadline: Deadline) -> Enqueue {
        self.cause.deadline = Some(deadline);
        self
    }

    /// Takes id, deadline and trace over from the attempt that is being handled. What was set before stays. In a
    /// handler of a call the deadline is not taken over: it is its caller's, who waits.
    pub fn caused_by(mut self, context: &Context) -> Enqueue {
        self.cause = self.cause.caused_by(context);
        self
    }

    fn send(self) -> impl Future<Output = Result<Receipt, Fault>> + Send + use<> {
        let Enqueue { bus, target, key, class, mut cause, payload, metrics } = self;
        async move {
            let operation = (target.service.as_ref(), target.method.as_ref());
            let span = tracing::debug_span!("mesh.enqueue", otel.kind = "producer", operation = operation.1);
            trace::follow(&span, cause.trace);
            let result = async {
                cause.trace = Some(trace::outgoing(cause.trace));
                let sealed = bus.gate().seal_work(operation, (&key, class), cause, payload)?;
                let message_id = sealed.message_id().to_owned();
                let stream = subject::work_stream(operation.0);
                let stored = bus.publish(&stream, sealed).await;
                let stored = stored.map_err(|e| e.into_fault(&format!("work for {}/{}", operation.0, operation.1)))?;
                Ok(Receipt::new(message_id, stored))
            }
            .instrument(span)
            .await;
            if let Some(metrics) = metrics {
                metrics.enqueued(result.as_ref().map(drop));
            }
            result
        }
    }
}

impl IntoFuture for Enqueue {
    type Output = Result<Receipt, Fault>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.send())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_future_is_small() {
        fn size<F>(_: impl Fn(Enqueue) -> F) -> usize {
            size_of::<F>()
        }
        let size = size(Enqueue::send);
        assert!(size <= crate::publish::LARGEST_FUTURE, "{size} bytes");
    }
}
