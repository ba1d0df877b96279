//! One consumer at work: two feeds, one set of permits, one set of leases.

use std::{
    sync::{Arc, Mutex, atomic::AtomicUsize},
    time::Duration,
};

use tokio::{sync::Semaphore, time::Instant};

use super::{
    ConsumerSettings, key_locks::KeyLocks, lease::Leases, quarantine::Quarantine, targets::Targets, work::Work,
};
use crate::{
    bus::Bus, clock::TaskScope, delayed::Lane, fault::Fault, policy::budget::Budget, store::Store,
    telemetry::metrics::ConsumerMetrics,
};

/// What all consumers of one process share.
#[derive(Debug, Clone, Default)]
pub struct Home {
    /// The parent of their tasks: stopped when the service drains.
    pub scope: TaskScope,
    /// Stopped when the time to drain is over.
    pub abort: TaskScope,
    /// Who runs beside whom.
    pub quarantine: Quarantine,
}

/// What the tasks of one consumer share.
pub struct Worker {
    pub(super) bus: Bus,
    pub(super) store: Store,
    pub(super) lane: Lane,
    pub(super) settings: ConsumerSettings,
    pub(super) work: Arc<dyn Work>,
    pub(super) metrics: ConsumerMetrics,
    pub(super) permits: Arc<Semaphore>,
    pub(super) leases: Leases,
    pub(super) quarantine: Quarantine,
    /// Those whose record is being written here, by its key.
    pub(super) remembering: KeyLocks,
    pub(super) budget: Mutex<Budget>,
    /// What the budget's time counts from.
    pub(super) born: Instant,
    pub(super) isolation: Option<Targets>,
    /// Deliveries that wait for the broker to take what follows from them.
    pub(super) waiting: AtomicUsize,
    /// Stops when the service drains: nothing new is begun.
    pub(super) scope: TaskScope,
    /// Stops when the time to drain is over: what still runs is given up and handed back.
    pub(super) abort: TaskScope,
}

/// How long what runs may take to its end when the service drains.
pub(crate) const DRAIN_GRACE: Duration = Duration::from_secs(20);

impl Worker {
    /// A consumer that is not at work yet.
    #[must_use]
    pub fn new(
        bus: &Bus,
        lane: Lane,
        settings: ConsumerSettings,
        work: Arc<dyn Work>,
        about: (ConsumerMetrics, &Home),
    ) -> Arc<Worker> {
        let (metrics, home) = about;
        let clock = bus.gate().clock();
        let places = settings.concurrency.max(1);
        let room = (places, places.saturating_add(settings.prefetch));
        let isolation = settings.isolation.clone().map(|rule| Targets::new(rule, room, clock.clone()));
        Arc::new(Worker {
            bus: bus.clone(),
            store: Store::own(bus),
            lane,
            permits: Arc::new(Semaphore::new(places)),
            budget: Mutex::new(Budget::full(&settings.retry_budget, 0)),
            born: Instant::now(),
            isolation,
            waiting: AtomicUsize::new(0),
            settings,
            work,
            metrics,
            leases: Leases::default(),
            remembering: KeyLocks::default(),
            quarantine: home.quarantine.clone(),
            scope: home.scope.clone(),
            abort: home.abort.clone(),
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
        self.leases.watch_over();
        if self.isolation.is_some() {
            self.scope.spawn(Arc::clone(&self).call_back());
            self.scope.spawn(Arc::clone(&self).call_for_the_gone());
        }
        self.scope.spawn(Arc::clone(&self).feed(main));
        self.scope.spawn(Arc::clone(&self).feed(lane));
        Ok(())
    }
}
