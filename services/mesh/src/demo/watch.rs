//! How far everything is, by what the broker and the vendors say.

use mesh_core::bus::Bus;
use mesh_core::fault::Fault;
use mesh_core::operate::topology::Topology;
use mesh_core::subject::{self, DEAD_LETTER_STREAM};

use crate::ledger::VendorCounts;
use crate::ledger::read::Vendors;

/// An operation of the demonstration: who asks for it and who does it.
pub(super) struct Journey {
    /// Its name for people.
    pub(super) name: &'static str,
    /// The service that consumes the event and enqueues the work.
    pub(super) asks: &'static str,
    /// The service that does the work.
    pub(super) does: &'static str,
    /// The rpc service of the work.
    pub(super) rpc: &'static str,
    /// The vendor's name in its account.
    pub(super) vendor: &'static str,
}

/// The two operations.
pub(super) const JOURNEYS: [Journey; 2] = [
    Journey {
        name: "charge",
        asks: "payments",
        does: "adapter-payments",
        rpc: "shop.payments.v1.Payments",
        vendor: "stripe",
    },
    Journey {
        name: "message",
        asks: "notifications",
        does: "adapter-notifications",
        rpc: "shop.notifications.v1.Notifications",
        vendor: "courier",
    },
];

/// Who publishes the orders.
pub(super) const PRODUCER: &str = "orders";

/// How far one operation is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Stand {
    /// Events that are not settled, and those on the lane.
    pub(super) events_left: u64,
    /// Queued work, and that on the lane.
    pub(super) work_left: u64,
    /// The vendor's counts.
    pub(super) vendor: VendorCounts,
}

impl Stand {
    pub(super) fn left(&self) -> u64 {
        self.events_left + self.work_left
    }
}

/// How far everything is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Snapshot {
    /// Events in the stream.
    pub(super) published: u64,
    /// Records among the letters.
    pub(super) letters: u64,
    /// The operations, in the order of [`JOURNEYS`].
    pub(super) stands: [Stand; 2],
}

impl Snapshot {
    /// Asks broker and vendors. What hands over is asked before what takes over, and a hand-over is confirmed before the
    /// original goes: so when all are found empty, nothing was between two of them.
    pub(super) async fn take(bus: &Bus, topology: &Topology, vendors: &Vendors) -> Result<Snapshot, Fault> {
        let published = messages(bus, &subject::event_stream(PRODUCER)).await?;
        let mut stands = <[Stand; 2]>::default();
        for (stand, journey) in stands.iter_mut().zip(&JOURNEYS) {
            let stream = subject::event_stream(PRODUCER);
            let consumers = topology.consumers.iter().filter(|spec| spec.stream == stream);
            let prefix = format!("{}_", journey.asks);
            for spec in consumers.filter(|spec| spec.durable.starts_with(&prefix)) {
                let state = bus.consumer_state(&stream, &spec.durable).await?;
                stand.events_left += state.map_or(0, |state| state.pending + state.in_flight);
            }
            stand.events_left += messages(bus, &subject::lane_stream(journey.asks)).await?;
            stand.work_left += messages(bus, &subject::work_stream(journey.rpc)).await?;
            stand.work_left += messages(bus, &subject::lane_stream(journey.does)).await?;
        }
        let counts = vendors.counts().await?;
        let [charge, message] = &mut stands;
        (charge.vendor, message.vendor) = (counts.stripe, counts.courier);
        Ok(Snapshot { published, letters: messages(bus, DEAD_LETTER_STREAM).await?, stands })
    }

    /// Whether nothing is left to be done.
    pub(super) fn is_drained(&self) -> bool {
        self.stands.iter().all(|stand| stand.left() == 0)
    }
}

async fn messages(bus: &Bus, stream: &str) -> Result<u64, Fault> {
    Ok(bus.stream_state(stream).await?.map_or(0, |state| state.messages))
}
