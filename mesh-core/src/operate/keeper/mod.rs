//! The keeper: what the mesh has done for it while nobody looks. Several processes may run; the lease lets one work.
//!
//! Every duty is safe to do twice: the lease only saves work, and keeps the log readable. A duty decides by writes that the
//! broker takes once, so a keeper that was stopped in the middle, or two that both think they hold the lease, leave the same
//! behind as one.

pub(super) mod advisory;
pub mod ask;
mod beside;
mod claims;
mod deletions;
mod hear;
mod in_hand;
mod index;
mod lanes;
mod outcomes;
mod overdue;
mod reconcile;
mod rescue;
mod serve;

use std::time::Duration;

use crate::{
    bus::Bus,
    clock::TaskScope,
    store::{Lease, LeaseSettings, Store},
    telemetry::metrics::Metrics,
};

pub use index::Index;

/// The name of the keeper's lease.
pub const LEASE: &str = "keeper";

/// How the keeper works.
#[derive(Debug, Clone)]
pub struct KeeperSettings {
    /// When another process takes over.
    pub lease: LeaseSettings,
    /// How often the consumers are looked at.
    pub sweep_every: Duration,
    /// How long a message must lie given up in a queue, without the broker's word, before it becomes a letter: longer than
    /// a cluster takes to delete what was just acknowledged.
    pub confirm_after: Duration,
    /// How long after the broker's word that an event left its stream under its consumer the keeper looks what became of it, at
    /// least: as long as a worker says that it is at work on it, it waits on, whatever a handler's limit is.
    pub left_rest: Duration,
    /// How long nothing must refer to bytes that lie apart before they are taken away.
    pub claims_rest: Duration,
    /// How often the lanes are looked at for copies that the broker did not emit when they were due.
    pub overdue_every: Duration,
    /// How long the broker must have left one there before it is stored anew: longer than it takes to emit what is due.
    pub overdue_after: Duration,
}

impl Default for KeeperSettings {
    fn default() -> KeeperSettings {
        KeeperSettings {
            lease: LeaseSettings::default(),
            sweep_every: Duration::from_secs(5),
            confirm_after: Duration::from_secs(20),
            // For who says nothing, or is not heard: a handler's limit where nothing is said (600 s), what it may take beyond it,
            // and an ack wait.
            left_rest: Duration::from_secs(900),
            claims_rest: Duration::from_secs(60),
            overdue_every: Duration::from_secs(60),
            overdue_after: Duration::from_secs(30),
        }
    }
}

/// One process that keeps the mesh, or waits to.
#[derive(Debug)]
pub struct Keeper {
    bus: Bus,
    metrics: Metrics,
    settings: KeeperSettings,
    holder: String,
    heard: hear::Heard,
}

impl Keeper {
    /// A keeper that is not at work yet. `bus` is connected as [`KEEPER`](crate::subject::KEEPER).
    #[must_use]
    pub fn new(bus: &Bus, metrics: &Metrics, settings: KeeperSettings) -> Keeper {
        let holder = format!("{}-{}", std::process::id(), nuid::next());
        let heard = hear::Heard::resting(settings.left_rest);
        Keeper { bus: bus.clone(), metrics: metrics.clone(), settings, holder, heard }
    }

    /// Who it is in the lease: the process's id comes first.
    #[must_use]
    pub fn holder(&self) -> &str {
        &self.holder
    }

    /// Keeps the index of letters, and does the duties while it holds the lease, until `stop` stops.
    pub async fn run(self, stop: TaskScope) {
        let serving = TaskScope::new();
        // Reading needs no lease: whoever waits for it has an index already when it takes over.
        serving.spawn(serve::run(self.bus.clone(), self.metrics.clone(), serving.clone()));
        // And so does hearing: the broker says it once, to whoever is there.
        serving.spawn(hear::run(self.bus.clone(), self.heard.clone(), serving.clone()));
        Box::pin(self.keep(&stop)).await;
        serving.stop();
        serving.idle().await;
    }

    async fn keep(&self, stop: &TaskScope) {
        let lease = Lease::new(Store::own(&self.bus), LEASE, self.holder.clone(), self.settings.lease.clone());
        tracing::info!(process = self.holder, "waiting to be the keeper: one process is at a time");
        loop {
            let mut held = tokio::select! {
                biased;
                () = stop.stopped() => return,
                held = lease.take() => held,
            };
            tracing::info!(process = self.holder, "this process is the keeper now");
            let is_lost = tokio::select! {
                biased;
                () = stop.stopped() => false,
                // Whatever runs is dropped where it stands: its next step is another process's.
                () = held.keep() => true,
                () = self.duties() => false,
            };
            if !is_lost {
                held.release().await;
                tracing::info!(process = self.holder, "given up: another process may keep the mesh");
                return;
            }
            tracing::warn!(process = self.holder, "this process is not the keeper any more; it waits for its turn");
        }
    }

    /// All duties, one line each. They end with the lease.
    async fn duties(&self) {
        tokio::join!(
            reconcile::run(&self.bus, &self.metrics, (&self.settings, &self.heard)),
            super::jobs::run(&self.bus, &self.holder),
            claims::run(&self.bus, &self.settings),
            overdue::run(&self.bus, &self.metrics, &self.settings),
            // A further duty is a future that never ends by itself.
        );
    }
}
