//! Consuming an event.

use std::{marker::PhantomData, sync::Arc, time::Duration};

use super::Mesh;
use crate::{
    consume::{ConsumerSettings, EventWork, OrderSettings, TargetOf, Worker},
    contract::{Event, Handler},
    delayed::Lane,
    fault::Fault,
    policy::retry::RetryRule,
    subject,
};

/// A consumer of events of one type, before it starts.
#[must_use = "nothing is consumed until start() is awaited"]
pub struct ConsumerBuilder<E> {
    mesh: Mesh,
    name: String,
    settings: ConsumerSettings,
    target: Option<TargetOf<E>>,
    event: PhantomData<fn(E)>,
}

impl<E: Event> ConsumerBuilder<E> {
    pub(super) fn new(mesh: &Mesh, name: &str) -> ConsumerBuilder<E> {
        ConsumerBuilder {
            mesh: mesh.clone(),
            name: name.to_owned(),
            settings: ConsumerSettings::default(),
            target: None,
            event: PhantomData,
        }
    }

    /// How many events are handled at once. Default: 64.
    pub fn concurrency(mut self, concurrency: usize) -> ConsumerBuilder<E> {
        self.settings.concurrency = concurrency;
        self
    }

    /// Whether and when a failed attempt is made again. Default: [`RetryRule::default`].
    pub fn retry(mut self, retry: RetryRule) -> ConsumerBuilder<E> {
        self.settings.retry = retry;
        self
    }

    /// How long one attempt may take. Default: ten minutes.
    pub fn handler_limit(mut self, limit: Duration) -> ConsumerBuilder<E> {
        self.settings.handler_limit = limit;
        self
    }

    /// Remembers for `horizon` (whole seconds) that an event was handled, so that one that comes again is not handled again,
    /// whatever crashed. It costs two durable writes for each event. Default: not remembered; an event may come again after
    /// a crash, and the handler must bear it. An ordered consumer keeps its order meanwhile.
    pub fn inbox(mut self, horizon: Duration) -> ConsumerBuilder<E> {
        self.settings.inbox = Some(horizon);
        self
    }

    /// Keeps targets apart: `target` names what an event is for (a vendor, a tenant, a warehouse). One that is down or hangs
    /// then has only a share of the places, is probed instead of tried, and its events wait on the lane: no other is delayed.
    pub fn isolate_by(mut self, target: impl Fn(&E) -> String + Send + Sync + 'static) -> ConsumerBuilder<E> {
        self.settings.isolation.get_or_insert_default();
        self.target = Some(Arc::new(target));
        self
    }

    /// Handles messages of one key one after the other, in order, while keys run beside each other; the mesh file must say
    /// `ordered: true` for this consumer. A message that fails holds back its own key and no other, and so does one that ends
    /// its process: it is found out and becomes a letter.
    pub fn ordered(mut self) -> ConsumerBuilder<E> {
        self.settings.order.get_or_insert_with(OrderSettings::default);
        self
    }

    /// All settings at once.
    pub fn settings(mut self, settings: ConsumerSettings) -> ConsumerBuilder<E> {
        self.settings = settings;
        self
    }

    /// Begins to consume, in the background, until the mesh drains.
    ///
    /// # Errors
    /// The name is none; the bus has no such consumer or can't be reached.
    pub async fn start(self, handler: impl Handler<E>) -> Result<(), Fault> {
        let identity = self.mesh.identity();
        let lane = Lane {
            region: identity.region().clone(),
            service: identity.service().clone(),
            consumer: self.name.parse().map_err(|error| Fault::invalid(format!("the consumer's name: {error}")))?,
        };
        let work = Arc::new(EventWork::<E, _>::new(handler, self.target));
        let inner = &*self.mesh.0;
        let about = (inner.metrics.consumer(&self.name), &inner.home);
        let stream = subject::event_stream(E::PRODUCER);
        Worker::new(&inner.bus, lane, self.settings, work, about).start(&stream).await
    }
}
