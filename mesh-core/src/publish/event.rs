//! Events.

use std::{
    borrow::Cow,
    future::{Future, IntoFuture},
    marker::PhantomData,
    sync::Arc,
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use tracing::Instrument as _;

use super::Receipt;
use crate::{
    bus::Bus,
    clock::Deadline,
    contract::{BoxFuture, Context, Event},
    fault::Fault,
    gate::Cause,
    subject,
    telemetry::metrics::{Metrics, PublisherMetrics},
};

/// Where an event of one type goes.
#[derive(Debug, Clone)]
pub struct EventTarget {
    producer: Cow<'static, str>,
    message: Cow<'static, str>,
    stream: String,
}

impl EventTarget {
    /// The events `message` (full name) of `producer`.
    #[must_use]
    pub fn new(producer: impl Into<Cow<'static, str>>, message: impl Into<Cow<'static, str>>) -> EventTarget {
        let producer = producer.into();
        let stream = subject::event_stream(&producer);
        EventTarget { producer, message: message.into(), stream }
    }
}

/// Publishes events of one type. Cheap to clone.
#[derive(Clone)]
pub struct Publisher<E> {
    bus: Bus,
    target: Arc<EventTarget>,
    metrics: PublisherMetrics,
    event: PhantomData<fn(E)>,
}

impl<E: Event> Publisher<E> {
    /// A publisher over `bus`.
    #[must_use]
    pub fn new(bus: &Bus, metrics: &Metrics) -> Publisher<E> {
        let target = Arc::new(EventTarget::new(E::PRODUCER, E::FULL_NAME));
        Publisher { bus: bus.clone(), target, metrics: metrics.publisher(E::FULL_NAME), event: PhantomData }
    }

    /// Publishes an event: await it for the receipt, or set its id and its cause first.
    ///
    /// # Errors
    /// When awaited: not this service's event, too large, refused by the broker (effect none); or not confirmed in time
    /// (effect unknown: publish it again with the same id).
    pub fn publish(&self, event: &E) -> Publish {
        Publish {
            bus: self.bus.clone(),
            target: Arc::clone(&self.target),
            metrics: Some(self.metrics.clone()),
            key: event.key().into_owned(),
            cause: Cause::default(),
            payload: event.encode_to_vec().into(),
        }
    }

    /// Publishes many, up to `window` under way at once, and says of each what became of it. The ids are the sender's own.
    pub fn publish_all<S>(&self, events: S, window: usize) -> impl Stream<Item = (String, Result<Receipt, Fault>)>
    where
        S: Stream<Item = (String, E)>,
    {
        events
            .map(move |(id, event)| {
                let publish = self.publish(&event).id(id.clone());
                async move { (id, publish.await) }
            })
            .buffered(window.max(1))
    }
}

/// One event on its way. Await it.
#[must_use = "nothing is published until it is awaited"]
pub struct Publish {
    bus: Bus,
    target: Arc<EventTarget>,
    metrics: Option<PublisherMetrics>,
    key: String,
    cause: Cause,
    payload: Bytes,
}

impl Publish {
    /// An event whose type is known by name only: for tools. `payload` is the encoded message, `key` its ordering key.
    pub fn by_name(bus: &Bus, target: EventTarget, key: String, payload: Bytes) -> Publish {
        Publish { bus: bus.clone(), target: Arc::new(target), metrics: None, key, cause: Cause::default(), payload }
    }

    /// The local part of its id, 1 to 128 visible ASCII characters. The same id again is the same event again.
    pub fn id(mut self, id: impl Into<String>) -> Publish {
        self.cause.id = Some(id.into());
        self
    }

    /// When nobody wants it any more.
    pub fn deadline(mut self, deadline: Deadline) -> Publish {
        self.cause.deadline = Some(deadline);
        self
    }

    /// Takes id, deadline and trace over from the attempt that is being handled. What was set before stays. In a
    /// handler of a call the deadline is not taken over: it is its caller's, who waits.
    pub fn caused_by(mut self, context: &Context) -> Publish {
        self.cause = self.cause.caused_by(context);
        self
    }

    fn send(self) -> impl Future<Output = Result<Receipt, Fault>> + Send + use<> {
        let Publish { bus, target, metrics, key, mut cause, payload } = self;
        async move {
            let span = tracing::debug_span!("mesh.publish", otel.kind = "producer", message = %target.message);
            crate::telemetry::trace::follow(&span, cause.trace);
            let result = async {
                cause.trace = Some(crate::telemetry::trace::outgoing(cause.trace));
                let sealed = bus.gate().seal_event((&target.producer, &target.message), &key, cause, payload)?;
                let message_id = sealed.message_id().to_owned();
                let stored = bus.publish(&target.stream, sealed).await.map_err(|e| e.into_fault(&target.message))?;
                Ok(Receipt::new(message_id, stored))
            }
            .instrument(span)
            .await;
            if let Some(metrics) = metrics {
                metrics.published(result.as_ref().map(drop));
            }
            result
        }
    }
}

impl IntoFuture for Publish {
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
        fn size<F>(_: impl Fn(Publish) -> F) -> usize {
            size_of::<F>()
        }
        let size = size(Publish::send);
        assert!(size <= crate::publish::LARGEST_FUTURE, "{size} bytes");
    }
}
