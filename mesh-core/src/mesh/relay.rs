//! Relaying an outbox.

use std::time::Duration;

use super::Mesh;
use crate::outbox::{AfterWindow, Database, Outbox, Relay, RelaySettings};

/// The relay of an outbox, before it starts.
#[must_use = "nothing is relayed until start() is called"]
pub struct RelayBuilder<D: Database> {
    mesh: Mesh,
    outbox: Outbox<D>,
    settings: RelaySettings,
}

impl<D: Database> RelayBuilder<D> {
    pub(super) fn new(mesh: &Mesh, outbox: &Outbox<D>) -> RelayBuilder<D> {
        RelayBuilder { mesh: mesh.clone(), outbox: outbox.clone(), settings: RelaySettings::default() }
    }

    /// How often to look for rows that nobody announced. Default: 200 ms.
    pub fn poll(mut self, poll: Duration) -> RelayBuilder<D> {
        self.settings.poll = poll;
        self
    }

    /// What becomes of rows that may have been stored longer ago than the broker remembers. Default: they are sent again.
    pub fn after_window(mut self, after_window: AfterWindow) -> RelayBuilder<D> {
        self.settings.after_window = after_window;
        self
    }

    /// All settings at once.
    pub fn settings(mut self, settings: RelaySettings) -> RelayBuilder<D> {
        self.settings = settings;
        self
    }

    /// Begins to relay, in the background, until the mesh drains. Every replica may start one; one at a time is at work.
    pub fn start(self) {
        let inner = &*self.mesh.0;
        let about = (inner.metrics.outbox(), &inner.home.scope, &inner.home.abort);
        inner.home.scope.spawn(Relay::new(&self.outbox, self.settings, about).run());
    }
}
