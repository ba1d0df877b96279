//! Ctrl-C, SIGTERM and SIGHUP: told once, a process comes to its end in order; told again, it ends at once.

use mesh_core::clock::TaskScope;
use mesh_core::fault::Fault;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::cluster::trouble;

/// Hears that the process shall stop. Dropping it ends nothing: the signals stay caught.
#[derive(Debug)]
pub struct Stop {
    once: TaskScope,
    twice: TaskScope,
}

impl Stop {
    /// Begins to listen. Must be called inside a tokio runtime, once in a process.
    ///
    /// # Errors
    /// The system does not let signals be caught.
    pub fn listen() -> Result<Stop, Fault> {
        let caught = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()].map(signal);
        let [interrupt, terminate, hangup] = caught;
        let failed = |error: std::io::Error| trouble(format!("signals can't be caught: {error}"));
        let (interrupt, terminate, hangup) =
            (interrupt.map_err(failed)?, terminate.map_err(failed)?, hangup.map_err(failed)?);
        let stop = Stop { once: TaskScope::new(), twice: TaskScope::new() };
        let (once, twice) = (stop.once.clone(), stop.twice.clone());
        stop.once.spawn(hear([interrupt, terminate, hangup], once, twice));
        Ok(stop)
    }

    /// Whether it was told.
    #[must_use]
    pub fn is_told(&self) -> bool {
        self.once.is_stopping()
    }

    /// Ends when it is told, at once if it was. Cancel-safe.
    pub async fn told(&self) {
        self.once.stopped().await;
    }

    /// What begins to end when it is told.
    #[must_use]
    pub fn scope(&self) -> &TaskScope {
        &self.once
    }

    /// Whether it was told a second time.
    #[must_use]
    pub fn is_told_again(&self) -> bool {
        self.twice.is_stopping()
    }

    /// Ends when it is told a second time. Cancel-safe.
    pub async fn told_again(&self) {
        self.twice.stopped().await;
    }
}

async fn hear(signals: [Signal; 3], once: TaskScope, twice: TaskScope) {
    let [mut interrupt, mut terminate, mut hangup] = signals;
    for scope in [once, twice] {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
        scope.stop();
    }
}
