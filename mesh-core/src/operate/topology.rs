//! What the broker must have: every stream and consumer that follows from the declarations.

use std::collections::{BTreeMap, BTreeSet};

use super::served;
use crate::{
    bus::{Bus, Change, Plan, StreamLimits},
    fault::{Code, Effect, Fault, Reason},
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

/// What was applied.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Applied {
    /// The streams and consumers that the declarations need.
    pub topology: Topology,
    /// What was changed of those that stood before.
    pub changes: Vec<Change>,
    /// Why consumers of queued work are as they were, or are not made yet: what is under way did not end, another one reads the same
    /// still, or the broker did not do it. Everything else stands; to be applied again.
    pub waiting: Vec<Fault>,
}

/// Makes every stream and consumer what the declarations say, whether it exists or not. What nobody declares stays as it
/// is: it may hold what nobody has handled yet. Of what exists, the limits that are not said stay too.
///
/// # Errors
/// Something would be lowered that may not be: nothing is changed. Or the broker refuses one of them, or this identity may
/// not: those before it are made; applying again is safe.
pub async fn apply(bus: &Bus, declarations: &[Declaration], limits: &StreamLimits) -> Result<Applied, Fault> {
    let topology = Topology::of(declarations, bus.gate().identity().region());
    let mut streams = Vec::new();
    for spec in &topology.streams {
        streams.push(bus.plan_stream(spec, limits).await?);
    }
    let mut changes: Vec<Change> = streams.iter().flat_map(Plan::changes).collect();
    if !limits.may_lower {
        refuse_less(&changes)?;
    }
    // A stream of a service that came later is as safe as the others.
    let most = streams.iter().filter_map(Plan::replicas).max().filter(|_| limits.replicas.is_none());
    for plan in &mut streams {
        most.into_iter().for_each(|replicas| plan.beside(replicas));
        bus.carry_out(plan).await?;
    }
    let waiting = apply_consumers(bus, &topology, (limits, &mut changes)).await?;
    Ok(Applied { topology, changes, waiting })
}

/// First those that are to read less, then whoever may read that instead: nobody reads what another one reads still.
async fn apply_consumers(
    bus: &Bus,
    topology: &Topology,
    (limits, changes): (&StreamLimits, &mut Vec<Change>),
) -> Result<Vec<Fault>, Fault> {
    let works = topology.work_streams();
    let is_work = |spec: &&ConsumerSpec| works.contains(spec.stream.as_str());
    for spec in topology.consumers.iter().filter(is_work) {
        let plan = bus.plan_consumer(spec, limits).await?;
        if let Some(kept) = plan.kept() {
            let less = plan.cut_down(&kept);
            bus.carry_out(&less).await?;
            changes.extend(less.changes());
        }
    }
    let (mut gaining, mut waiting) = (Vec::new(), Vec::new());
    for spec in &topology.consumers {
        let plan = bus.plan_consumer(spec, limits).await?;
        if is_work(&spec) && !plan.gained().is_empty() {
            gaining.push((spec, plan));
        } else {
            bus.carry_out(&plan).await?;
            changes.extend(plan.changes());
        }
    }
    for (spec, plan) in gaining {
        // One that can't begin again now keeps no other from what it needs.
        match Box::pin(served::serve_more(bus, spec, &plan)).await {
            Ok(()) => changes.extend(plan.changes()),
            Err(fault) => waiting.push(fault),
        }
    }
    Ok(waiting)
}

/// Nobody loses copies or what is older because they left a word out or gave a wrong one.
fn refuse_less(changes: &[Change]) -> Result<(), Fault> {
    let less: Vec<_> = changes.iter().filter(|change| change.lowers).collect();
    if less.is_empty() {
        return Ok(());
    }
    let line = |change: &&Change| format!("\n{}: {} {} -> {}", change.stream, change.field, change.from, change.to);
    let lines: String = less.iter().map(line).collect();
    let message = format!("streams would lose copies, age or room by it, so nothing was changed:{lines}");
    Err(Fault::new(Code::FailedPrecondition, Effect::None, Reason::InvalidInput, message))
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
