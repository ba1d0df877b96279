//! One consumer at work: two feeds, one set of permits, one set of leases.

use std::{sync::Arc, time::Duration};

use tokio::sync::Semaphore;

use super::{ConsumerSettings, lease::Leases, work::Work};
use crate::{bus::Bus, clock::TaskScope, delayed::Lane, fault::Fault, telemetry::metrics::ConsumerMetrics};

/// What the tasks of one consumer share.
pub struct Worker {
    pub(super) bus: Bus,
    pub(super) lane: Lane,
    pub(super) settings: ConsumerSettings,
    pub(super) work: Arc<dyn Work>,
    pub(super) metrics: ConsumerMetrics,
    pub(super) permits: Arc<Semaphore>,
    pub(super) leases: Leases,
    /// Stops when the service drains: nothing new is begun.
    pub(super) scope: TaskScope,
    /// Stops when the time to drain is over: what still runs is given up and handed back.
    pub(super) abort: TaskScope,
}

/// How long what runs may take to its end when the service drains.
pub(crate) const DRAIN_GRACE: Duration = Duration::from_secs(20);

impl Worker {
    /// A consumer that is not at work yet. `scope` is its tasks' parent.
    #[must_use]
    pub fn new(
        bus: &Bus,
        lane: Lane,
        settings: ConsumerSettings,
        work: Arc<dyn Work>,
        about: (ConsumerMetrics, &TaskScope, &TaskScope),
    ) -> Arc<Worker> {
        let (metrics, scope, abort) = about;
        Arc::new(Worker {
            bus: bus.clone(),
            lane,
            permits: Arc::new(Semaphore::new(settings.concurrency.max(1))),
            settings,
            work,
            metrics,
            leases: Leases::default(),
            scope: scope.clone(),
            abort: abort.clone(),
        })
    }

    /// Begins to work off `stream` and the consumer's lane, in tasks of the scope, until it stops.
    ///
    /// # Errors
    /// A consumer is not there, or the bus can't be reached.
    pub async fn start(self: Arc<Self>, stream: &str) -> Result<(), Fault> {
        if let Some(order) = self.settings.order.clone() {
            return super::ordered::start(self, stream, order).await;
        }
        let durable = self.lane.durable();
        let main = self.bus.pull(stream, &durable).await?;
        let lane = self.bus.pull(&self.lane.stream(), &durable).await?;
        // The leases outlive the scope's stop: what runs on while the service drains keeps its lease.
        let renewing = self.leases.clone().renew(self.bus.clone(), self.settings.ack_wait, self.abort.clone());
        self.abort.spawn(renewing);
        self.scope.spawn(Arc::clone(&self).feed(main));
        self.scope.spawn(Arc::clone(&self).feed(lane));
        Ok(())
    }
}
