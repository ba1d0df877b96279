//! Counters, gauges and histograms, shown as OpenMetrics text.
//!
//! Ask [`Metrics`] once for the handle of a message, an operation, a consumer or a vendor call, and keep it: using it is
//! then an atomic addition, without a lock or an allocation (but for the first time that one of its cases happens).
//! Labels are names from contracts and closed sets, never keys or texts; a metric holds at most [`SERIES_MAX`] series,
//! and what is over that is counted under `other`.

mod family;
mod handles;
mod outbox;
mod seconds;

use std::{fmt, sync::Arc};

pub use handles::{ConsumerMetrics, How, InFlight, OperationMetrics, PublisherMetrics, VendorMetrics};
pub use outbox::{OutboxMetrics, Relayed};
use prometheus_client::{
    encoding::{EncodeMetric, text},
    metrics::{TypedMetric, counter::Counter, gauge::Gauge},
    registry::{Registry, Unit},
};

use self::{family::Family, seconds::Seconds};

/// How many series one metric holds, the one called `other` not counted.
pub const SERIES_MAX: usize = 1000;

/// The media type of [`Metrics::encode`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Everything that is counted in this process. Cloning gives another handle on the same counts.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    registry: Registry,
    families: Families,
}

struct Families {
    published: Family<2, Counter>,
    calls: Family<2, Counter>,
    call_seconds: Family<1, Seconds>,
    call_retries: Family<2, Counter>,
    served: Family<2, Counter>,
    serving_seconds: Family<1, Seconds>,
    enqueued: Family<2, Counter>,
    settled: Family<2, Counter>,
    handling_seconds: Family<1, Seconds>,
    dead_letters: Family<2, Counter>,
    in_flight: Family<1, Gauge>,
    partitions: Family<1, Gauge>,
    keys_blocked: Family<1, Gauge>,
    followers_held: Family<1, Gauge>,
    handovers_waiting: Family<1, Gauge>,
    vendor_calls: Family<3, Counter>,
    vendor_seconds: Family<2, Seconds>,
    relayed: Family<1, Counter>,
    outbox_stuck: Family<1, Gauge>,
    deletions_not_believed: Family<1, Counter>,
    copies_stored_anew: Family<1, Counter>,
    denied: Family<1, Counter>,
    reconnects: Counter,
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics::new()
    }
}

impl Metrics {
    /// No series yet.
    #[must_use]
    pub fn new() -> Metrics {
        Metrics::with_cap(SERIES_MAX)
    }

    fn with_cap(cap: usize) -> Metrics {
        let mut names = Names { registry: Registry::with_prefix("mesh"), cap };
        let families = Families {
            published: names.family("published", "Events published, by result", ["message", "result"]),
            calls: names.family("calls", "Calls made, by code of the answer", ["operation", "code"]),
            call_seconds: names.seconds("call_duration", "How long callers waited", ["operation"]),
            call_retries: names.family(
                "call_retries",
                "Repeats of calls: made, or not granted by the budget",
                ["operation", "what"],
            ),
            served: names.family("served", "Calls answered, by code of the answer", ["operation", "code"]),
            serving_seconds: names.seconds("serving_duration", "How long answering took", ["operation"]),
            enqueued: names.family("enqueued", "Work queued, by result", ["operation", "result"]),
            settled: names.family("settled", "Deliveries settled, by how", ["consumer", "how"]),
            handling_seconds: names.seconds("handling_duration", "How long handlers worked", ["consumer"]),
            dead_letters: names.family("dead_letters", "Dead letters captured, by reason", ["consumer", "reason"]),
            in_flight: names.family("in_flight", "Deliveries in hand now", ["consumer"]),
            partitions: names.family("partitions", "Partitions of ordered keys that this process has", ["consumer"]),
            keys_blocked: names.family("keys_blocked", "Keys that wait for their first message", ["consumer"]),
            handovers_waiting: names.family(
                "handovers_waiting",
                "Deliveries in hand whose letter, copy or outcome the bus does not take",
                ["consumer"],
            ),
            followers_held: names.family("followers_held", "Messages behind blocked keys, put aside", ["consumer"]),
            vendor_calls: names.family(
                "vendor_calls",
                "Calls of third parties, by HTTP status",
                ["vendor", "operation", "status"],
            ),
            vendor_seconds: names.seconds(
                "vendor_call_duration",
                "How long third parties took",
                ["vendor", "operation"],
            ),
            relayed: names.family("outbox_relayed", "Rows of the outbox that were sent, by result", ["result"]),
            outbox_stuck: names.family(
                "outbox_stuck",
                "What the outbox can't send now: refused rows, paused places",
                ["what"],
            ),
            deletions_not_believed: names.family(
                "deletions_not_believed",
                "Words that a message of a queue was deleted unsettled, taken for those of acknowledgements",
                ["stream"],
            ),
            copies_stored_anew: names.family(
                "copies_stored_anew",
                "Copies on a lane that the broker had not emitted when they were due, stored anew by the keeper",
                ["stream"],
            ),
            denied: names.family("denied", "Acts refused by a rule", ["what"]),
            reconnects: names.plain("reconnects", "Connections to the bus that were made anew"),
        };
        Metrics(Arc::new(Inner { registry: names.registry, families }))
    }

    /// The handle for one message type that is published.
    #[must_use]
    pub fn publisher(&self, message: &str) -> PublisherMetrics {
        PublisherMetrics::new(message, &self.0.families.published)
    }

    /// The handle for one operation that is called, served or enqueued.
    #[must_use]
    pub fn operation(&self, operation: &str) -> OperationMetrics {
        OperationMetrics::new(operation, &self.0.families)
    }

    /// The handle for one consumer.
    #[must_use]
    pub fn consumer(&self, consumer: &str) -> ConsumerMetrics {
        ConsumerMetrics::new(consumer, &self.0.families)
    }

    /// The handle for one operation of one third party.
    #[must_use]
    pub fn vendor(&self, vendor: &str, operation: &str) -> VendorMetrics {
        VendorMetrics::new(vendor, operation, &self.0.families)
    }

    /// The handle for the outbox.
    #[must_use]
    pub fn outbox(&self) -> OutboxMetrics {
        OutboxMetrics::new(&self.0.families)
    }

    /// Counts one act that a rule refused, such as `publish`. Rare, so without a handle.
    pub fn denied(&self, what: &'static str) {
        self.0.families.denied.get([what]).inc();
    }

    /// Counts one word of the broker that a message of a queue was deleted before it was settled, which was taken for that of an
    /// acknowledgement.
    pub fn deletion_not_believed(&self, stream: &str) {
        self.0.families.deletions_not_believed.get([stream]).inc();
    }

    /// Counts copies on a lane that the broker had not emitted when they were due, and that were stored anew.
    pub fn copies_stored_anew(&self, stream: &str, copies: u64) {
        self.0.families.copies_stored_anew.get([stream]).inc_by(copies);
    }

    /// Counts one connection to the bus that was made anew.
    pub fn reconnected(&self) {
        self.0.families.reconnects.inc();
    }

    /// Everything as OpenMetrics text, which Prometheus reads. Its media type is [`CONTENT_TYPE`].
    #[must_use]
    pub fn encode(&self) -> String {
        let mut out = String::new();
        // Writing to a String can't fail.
        let _ = text::encode(&mut out, &self.0.registry);
        out
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

/// Registers metrics under their names.
struct Names {
    registry: Registry,
    cap: usize,
}

impl Names {
    fn family<const N: usize, M>(&mut self, name: &str, help: &str, labels: [&'static str; N]) -> Family<N, M>
    where
        M: EncodeMetric + TypedMetric + Clone + Default + Send + Sync + 'static,
    {
        let family = Family::new(labels, self.cap);
        self.registry.register(name, help, family.clone());
        family
    }

    fn seconds<const N: usize>(&mut self, name: &str, help: &str, labels: [&'static str; N]) -> Family<N, Seconds> {
        let family = Family::new(labels, self.cap);
        self.registry.register_with_unit(name, help, Unit::Seconds, family.clone());
        family
    }

    fn plain(&mut self, name: &str, help: &str) -> Counter {
        let counter = Counter::default();
        self.registry.register(name, help, counter.clone());
        counter
    }
}

#[cfg(test)]
mod tests;
