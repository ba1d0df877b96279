//! `mesh keeper`: what the mesh has done for it while nobody looks. One of its processes works, the others wait.

use std::time::Duration;

use mesh_core::bus::Bus;
use mesh_core::clock::TaskScope;
use mesh_core::config::Environment;
use mesh_core::fault::Fault;
use mesh_core::operate::keeper::{Keeper, KeeperSettings};
use mesh_core::subject::KEEPER;
use mesh_core::telemetry::metrics::Metrics;

use super::frame::Frame;
use crate::stop::Stop;

/// How long the lease may take to be given up.
const GIVE_UP: Duration = Duration::from_secs(5);

/// Is a keeper until the process is told to stop.
///
/// # Errors
/// The bus can't be reached, or the keeper ended by itself.
pub async fn run(environment: &Environment) -> Result<(), Fault> {
    let stop = Stop::listen()?;
    let frame = Frame::begin(KEEPER, environment).await?;
    let keeper = InBackground::start(frame.mesh.bus(), frame.mesh.metrics());
    frame.ready()?;
    let ended = tokio::select! {
        () = stop.told() => Ok(()),
        // Another process takes over; this one must not look as if it kept anything.
        () = keeper.0.idle() => Err(Fault::unavailable("the keeper ended by itself")),
    };
    keeper.stop().await;
    frame.drain().await;
    ended
}

/// A keeper beside other work of this process.
pub struct InBackground(TaskScope);

impl InBackground {
    /// Begins to keep, or to wait for the lease. `bus` is connected as the keeper.
    #[must_use]
    pub fn start(bus: &Bus, metrics: &Metrics) -> InBackground {
        let scope = TaskScope::new();
        scope.spawn(Keeper::new(bus, metrics, KeeperSettings::default()).run(scope.clone()));
        InBackground(scope)
    }

    /// Gives up the lease, so that another takes over at once.
    pub async fn stop(self) {
        self.0.stop();
        if tokio::time::timeout(GIVE_UP, self.0.idle()).await.is_err() {
            tracing::warn!("the keeper's lease was not given up: it runs out by itself");
        }
    }
}
