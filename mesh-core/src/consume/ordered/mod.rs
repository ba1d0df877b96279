//! Keeping the order of keys: messages of one key one after the other, across processes and while they come and go.
//!
//! Keys lie in partitions, and one process at a time owns a partition ([`steward`]). It takes over only after everything that
//! was under way elsewhere is in its hand ([`gather`]); then [`partition`] does what the book (`policy::order`) says, each
//! attempt as a [`turn`]. What must outlive the process stands in the store ([`blocks`]). The decision record is 0010.

mod blocks;
mod gather;
mod hand;
mod members;
mod partition;
mod steward;
mod turn;

use std::{sync::Arc, time::Duration};

use super::worker::Worker;
use crate::{fault::Fault, store::Store};

/// How a consumer keeps the order of keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrderSettings {
    /// Whole seconds, at least 2: so long after a process fell silent another may take its partitions.
    pub lease: Duration,
    /// How often a process looks whether it should take or give up partitions.
    pub look_every: Duration,
    /// Messages that are put aside behind blocked keys, for each partition. Beyond it nothing new is fetched there: the
    /// partition waits until a letter is replayed or discarded.
    pub most_held: usize,
    /// A wait before the next attempt up to so long is spent in hand, without a word to the broker; a longer one on the lane.
    pub short_wait: Duration,
}

impl Default for OrderSettings {
    fn default() -> OrderSettings {
        OrderSettings {
            lease: Duration::from_secs(6),
            look_every: Duration::from_millis(500),
            most_held: 1000,
            short_wait: Duration::from_secs(2),
        }
    }
}

/// What the partitions of one consumer share.
pub(super) struct Ordered {
    worker: Arc<Worker>,
    /// The stream of the messages.
    stream: String,
    store: Store,
    settings: OrderSettings,
}

impl Ordered {
    fn consumer(&self) -> &str {
        self.worker.lane.consumer.as_str()
    }
}

/// Begins to take part, in tasks of the worker's scope, until it stops.
pub(super) async fn start(worker: Arc<Worker>, stream: &str, settings: OrderSettings) -> Result<(), Fault> {
    let durable = worker.lane.partition_durable(0);
    // Says what is missing where the mesh file does not declare it.
    let pull = worker.bus.pull(stream, &durable).await?;
    drop(pull.close().await);
    let state = worker.bus.consumer_state(stream, &durable).await?;
    let ack_wait = state.map_or(worker.settings.ack_wait, |state| state.ack_wait);
    // The leases outlive the scope's stop: what runs on while the service drains keeps its lease.
    let renewing = worker.leases.clone().renew(worker.bus.clone(), ack_wait, worker.abort.clone());
    worker.abort.spawn(renewing);
    worker.leases.watch_over();
    let store = Store::own(&worker.bus);
    let scope = worker.scope.clone();
    let ordered = Arc::new(Ordered { worker, stream: stream.to_owned(), store, settings });
    scope.spawn(steward::run(ordered));
    Ok(())
}
