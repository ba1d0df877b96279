//! What a consumer that keeps the order of keys needs of the broker: a consumer for each partition, and for each partition of
//! its lane, so that one process at a time can have all that belongs to a key.

use std::time::Duration;

use super::{ConsumerSpec, Consumes};
use crate::subject::{self, Name, PARTITIONS, WIRE};

/// Deliveries of one partition that may be under way.
pub const WINDOW: i64 = 512;

/// Deliveries of one partition's lane that may be under way: the followers of blocked keys are held so, and what comes back
/// to be tried again needs room beside them. Half of it is for them at most: `OrderSettings::most_held`.
pub const LANE_WINDOW: i64 = 4096;

/// How long a delivery's lease lasts without a sign of life, at most: so long a partition waits for what a killed process had.
pub const ACK_WAIT: Duration = Duration::from_secs(10);

/// A partition and its lane, for each of the partitions.
pub(super) fn consumers(region: &Name, service: &Name, consumes: &Consumes) -> Vec<ConsumerSpec> {
    let Consumes { consumer, producer, event, .. } = consumes;
    let each = (0..PARTITIONS).flat_map(|partition| {
        let durable = subject::partition_durable(service, consumer, partition);
        let due = format!("{WIRE}.lane.{region}.{service}.{consumer}.due.{partition}.*");
        [
            ConsumerSpec {
                stream: subject::event_stream(producer),
                durable: durable.clone(),
                filters: vec![format!("{WIRE}.event.{region}.{producer}.{event}.{partition}")],
                window: Some(WINDOW),
            },
            ConsumerSpec {
                stream: subject::lane_stream(service.as_str()),
                durable,
                filters: vec![due],
                window: Some(LANE_WINDOW),
            },
        ]
    });
    each.collect()
}
