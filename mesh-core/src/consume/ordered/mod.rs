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
use crate::{bus::ConsumerState, fault::Fault, policy::compile::LANE_WINDOW, store::Store};

/// How a consumer keeps the order of keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OrderSettings {
    /// Whole seconds, at least 2: so long after a process fell silent another may take its partitions.
    pub lease: Duration,
    /// How often a process looks whether it should take or give up partitions.
    pub look_every: Duration,
    /// Messages that are put aside behind blocked keys, for each partition, of all its keys together. Beyond it nothing new is
    /// fetched there: the partition waits until a letter is replayed or discarded. From 1 to half of [`LANE_WINDOW`]; else the
    /// consumer does not start.
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

impl OrderSettings {
    /// What is held stays in hand, as deliveries of the lane that are under way. Without room beside it nothing comes that could
    /// free a key, and the partition would stand still.
    fn check(&self, consumer: &str, (stream, durable): (&str, &str), window: u64) -> Result<(), Fault> {
        let (most, asked) = (window / 2, self.most_held);
        if (1..=most).contains(&(asked as u64)) {
            return Ok(());
        }
        let message = format!(
            "the ordered consumer {consumer:?} was not started: its most_held is {asked}, and must be from 1 to {most}, half of what \
             {durable:?} on stream {stream:?} lets be under way; change the setting (OrderSettings::most_held)"
        );
        let is_narrow = most < LANE_WINDOW.unsigned_abs() / 2;
        let apply = " or, as the mesh file asks the bus for more than that, apply it (mesh apply)";
        Err(Fault::invalid(if is_narrow { message + apply } else { message }))
    }
}

/// Deliveries of a partition's lane that may be in hand at once: what the broker lets be under way, and never more than we ask
/// it for.
fn window_of(lane: &ConsumerState) -> u64 {
    let ours = LANE_WINDOW.unsigned_abs();
    lane.window.unwrap_or(ours).min(ours)
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
    let (state, lane) = (worker.bus.consumer_state(stream, &durable).await?, worker.lane.stream());
    let of_lane = worker.bus.consumer_state(&lane, &durable).await?;
    let window = of_lane.as_ref().map_or(LANE_WINDOW.unsigned_abs(), window_of);
    settings.check(worker.lane.consumer.as_str(), (&lane, &durable), window)?;
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
