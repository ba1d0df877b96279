//! Connect, declare what this service does, drain: the only place that knows everyone.

mod builder;
mod consumer;
mod operation;
#[cfg(any(feature = "outbox-sqlite", feature = "outbox-postgres"))]
mod relay;
mod serve;

use std::{sync::Arc, time::Duration};

use crate::{
    bus::Bus,
    consume::Home,
    contract::{Event, Operation, Service},
    identity::Identity,
    publish::Publisher,
    request::{Discovery, RetriesByOperation},
    telemetry::metrics::Metrics,
};

pub use builder::MeshBuilder;
pub use consumer::ConsumerBuilder;
pub use operation::OperationClient;
#[cfg(any(feature = "outbox-sqlite", feature = "outbox-postgres"))]
pub use relay::RelayBuilder;
pub use serve::ServeBuilder;

/// A service's place in the mesh. Cheap to clone; all clones are one connection.
#[derive(Clone)]
pub struct Mesh(Arc<Inner>);

struct Inner {
    bus: Bus,
    metrics: Metrics,
    discovery: Arc<Discovery>,
    /// Of calls from here.
    retries: RetriesByOperation,
    /// The tasks that serve and consume.
    home: Home,
}

impl Mesh {
    /// Prepares the service `service` (`[a-z0-9-]{1,63}`) to connect.
    pub fn builder(service: &str) -> MeshBuilder {
        MeshBuilder::new(service)
    }

    fn new(bus: Bus, metrics: Metrics) -> Mesh {
        let discovery = Discovery::new(&bus);
        Mesh(Arc::new(Inner { bus, metrics, discovery, retries: RetriesByOperation::default(), home: Home::default() }))
    }

    /// Publishes events of one type.
    #[must_use]
    pub fn publisher<E: Event>(&self) -> Publisher<E> {
        Publisher::new(self.bus(), self.metrics())
    }

    /// Consumes events of one type as the consumer `name`, which the mesh file declares.
    pub fn consumer<E: Event>(&self, name: &str) -> ConsumerBuilder<E> {
        ConsumerBuilder::new(self, name)
    }

    /// Calls or enqueues an operation.
    #[must_use]
    pub fn operation<O: Operation>(&self) -> OperationClient<O> {
        OperationClient::new(self)
    }

    /// Serves the operations of one rpc service: calls and queued work.
    pub fn serve(&self, service: impl Service) -> ServeBuilder {
        ServeBuilder::new(self, Arc::new(service))
    }

    /// The outbox in the service's own database: messages are written in its transactions.
    #[cfg(any(feature = "outbox-sqlite", feature = "outbox-postgres"))]
    #[must_use]
    pub fn outbox<D: crate::outbox::Database>(&self, pool: &crate::outbox::Pool<D>) -> crate::outbox::Outbox<D> {
        crate::outbox::Outbox::new(self.bus(), pool)
    }

    /// Sends what an outbox holds.
    #[cfg(any(feature = "outbox-sqlite", feature = "outbox-postgres"))]
    pub fn relay<D: crate::outbox::Database>(&self, outbox: &crate::outbox::Outbox<D>) -> RelayBuilder<D> {
        RelayBuilder::new(self, outbox)
    }

    /// Who this service is.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        self.0.bus.gate().identity()
    }

    /// The connection to the broker, for tools.
    #[must_use]
    pub fn bus(&self) -> &Bus {
        &self.0.bus
    }

    /// What is counted.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    /// Runs until the process is told to stop (SIGINT, SIGTERM), then drains.
    pub async fn run_until_stopped(&self) {
        stop_signal().await;
        self.drain().await;
    }

    /// Takes nothing new, lets what runs come to its end, hands back what does not within the grace, and closes the
    /// connection. Nothing is lost, no attempt is spent.
    pub async fn drain(&self) {
        let Inner { bus, home, .. } = &*self.0;
        let Home { scope, abort, .. } = home;
        scope.stop();
        let grace = crate::consume::DRAIN_GRACE;
        if tokio::time::timeout(grace, scope.idle()).await.is_err() {
            tracing::warn!(still_running = scope.running(), "the time to drain is over: the rest is handed back");
        }
        abort.stop();
        // What was told to hand back needs a moment to say so.
        if tokio::time::timeout(Duration::from_secs(5), scope.idle()).await.is_err() {
            tracing::error!(still_running = scope.running(), "ended without an answer: its leases will run out");
        }
        bus.close().await;
    }
}

/// Ends when the process is told to stop.
async fn stop_signal() {
    let interrupt = tokio::signal::ctrl_c();
    #[cfg(unix)]
    {
        let terminate = async {
            match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
                Ok(mut signal) => drop(signal.recv().await),
                Err(_) => std::future::pending().await,
            }
        };
        tokio::select! { _ = interrupt => {} () = terminate => {} }
    }
    #[cfg(not(unix))]
    let _ = interrupt.await;
}

impl std::fmt::Debug for Mesh {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mesh").field("identity", self.identity()).finish_non_exhaustive()
    }
}
