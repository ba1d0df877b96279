//! What the broker must have: every stream and consumer that follows from the declarations.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    bus::{Bus, StreamLimits},
    fault::Fault,
    policy::compile::{ConsumerSpec, Declaration, StreamSpec, own_streams},
    subject::Name,
};

/// The streams and consumers of a mesh, each once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Topology {
    /// The streams, by name.
    pub streams: Vec<StreamSpec>,
    /// The consumers, by stream and name.
    pub consumers: Vec<ConsumerSpec>,
}

impl Topology {
    /// What the declarations need in `region`, and what every mesh has. A consumer's stream is always among the streams.
    #[must_use]
    pub fn of(declarations: &[Declaration], region: &Name) -> Topology {
        let declared = declarations.iter().flat_map(Declaration::streams);
        let streams = own_streams().into_iter().chain(declared).map(|spec| (spec.name.clone(), spec));
        let consumers = declarations.iter().flat_map(|declaration| declaration.consumers(region));
        let consumers = consumers.map(|spec| ((spec.stream.clone(), spec.durable.clone()), spec));
        let streams: BTreeMap<_, _> = streams.collect();
        let consumers: BTreeMap<_, _> = consumers.collect();
        Topology { streams: streams.into_values().collect(), consumers: consumers.into_values().collect() }
    }

    /// The streams that hold queued work.
    #[must_use]
    pub fn work_streams(&self) -> BTreeSet<&str> {
        self.of_kind(crate::policy::compile::Kind::Work)
    }

    /// The streams that hold delayed and replayed deliveries.
    #[must_use]
    pub fn lane_streams(&self) -> BTreeSet<&str> {
        self.of_kind(crate::policy::compile::Kind::Lane)
    }

    fn of_kind(&self, kind: crate::policy::compile::Kind) -> BTreeSet<&str> {
        self.streams.iter().filter(|spec| spec.kind == kind).map(|spec| spec.name.as_str()).collect()
    }
}

/// Makes every stream and consumer what the declarations say, whether it exists or not. What nobody declares stays as it
/// is: it may hold what nobody has handled yet.
///
/// # Errors
/// The broker refuses one of them, or this identity may not. Those before it are made; applying again is safe.
pub async fn apply(bus: &Bus, declarations: &[Declaration], limits: &StreamLimits) -> Result<Topology, Fault> {
    let topology = Topology::of(declarations, bus.gate().identity().region());
    for spec in &topology.streams {
        bus.apply_stream(spec, limits).await?;
    }
    for spec in &topology.consumers {
        bus.apply_consumer(spec, limits).await?;
    }
    Ok(topology)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::compile::Consumes;

    #[test]
    fn each_stream_and_consumer_stands_once_and_none_hangs_in_the_air() {
        let mut payments = Declaration::new("payments".parse().unwrap());
        payments.consumes.insert(Consumes {
            consumer: "charge".parse().unwrap(),
            producer: "orders".into(),
            event: "shop.orders.v1.OrderPlaced".into(),
            ordered: false,
        });
        payments.enqueues.insert(("shop.payments.v1.Payments".into(), "Charge".into()));
        let mut adapter = Declaration::new("adapter".parse().unwrap());
        adapter.serves.insert(("shop.payments.v1.Payments".into(), "Charge".into()));
        let topology = Topology::of(&[payments, adapter], &"local".parse().unwrap());
        let names: BTreeSet<_> = topology.streams.iter().map(|s| s.name.as_str()).collect();
        assert_eq!(names.len(), topology.streams.len());
        assert!(topology.consumers.iter().all(|consumer| names.contains(consumer.stream.as_str())));
        assert_eq!(topology.consumers.len(), 4);
        assert_eq!(topology.work_streams().len(), 1);
        assert_eq!(topology.lane_streams().len(), 2);
    }
}
