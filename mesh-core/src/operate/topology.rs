//! What the broker must have: every stream and consumer that follows from the declarations.

use std::collections::{BTreeMap, BTreeSet};

use super::served::{self, Applying, Served};
use crate::{
    bus::{Bus, Change, Plan, StreamLimits},
    clock::TaskScope,
    fault::{Code, Effect, Fault, Reason},
    policy::compile::{ConsumerSpec, Declaration, StreamSpec, own_streams},
    subject::{Name, Place},
};

pub use super::served::Waiting;

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
    /// Consumers of queued work that are as they were, or are not made yet: what is under way did not end, another one reads the
    /// same still, or the broker did not do it. Everything else stands; to be applied again.
    pub waiting: Vec<Waiting>,
    /// What whoever applies should know: what became of methods that moved, beyond their queue, and who is still paused.
    pub warnings: Vec<String>,
}

/// It ended early.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{fault}")]
pub struct Halted {
    /// What was done until then.
    pub applied: Applied,
    /// Why nothing more was.
    pub fault: Fault,
}

impl From<Box<Halted>> for Fault {
    fn from(halted: Box<Halted>) -> Fault {
        halted.fault
    }
}

/// Makes every stream and consumer what the declarations say, whether it exists or not. What nobody declares stays as it
/// is: it may hold what nobody has handled yet. Of what exists, the limits that are not said stay too.
///
/// # Errors
/// Something would be lowered that may not be: nothing is changed. Or the broker refuses one of them, or this identity may
/// not: those before it are made; applying again is safe.
pub async fn apply(bus: &Bus, declarations: &[Declaration], limits: &StreamLimits) -> Result<Applied, Box<Halted>> {
    apply_until(bus, declarations, limits, &TaskScope::new()).await
}

/// The same until `stop` is told to end: then it waits no more for what is in hand, and consumers that it paused go on.
///
/// # Errors
/// As [`apply`].
pub async fn apply_until(
    bus: &Bus,
    declarations: &[Declaration],
    limits: &StreamLimits,
    stop: &TaskScope,
) -> Result<Applied, Box<Halted>> {
    let topology = Topology::of(declarations, bus.gate().identity().region());
    let mut applied = Applied { topology, ..Applied::default() };
    let applying = Applying { bus, limits, stop };
    let done = async {
        apply_streams(bus, limits, &mut applied).await?;
        apply_consumers(applying, &mut applied).await
    };
    let done = Box::pin(done).await;
    match done {
        Ok(()) => Ok(applied),
        Err(fault) => Err(Box::new(Halted { applied, fault })),
    }
}

async fn apply_streams(bus: &Bus, limits: &StreamLimits, applied: &mut Applied) -> Result<(), Fault> {
    let mut streams = Vec::new();
    for spec in &applied.topology.streams {
        streams.push(bus.plan_stream(spec, limits).await?);
    }
    if !limits.may_lower {
        refuse_less(&streams.iter().flat_map(Plan::changes).collect::<Vec<_>>())?;
    }
    // A stream of a service that came later is as safe as the others.
    let most = streams.iter().filter_map(Plan::replicas).max().filter(|_| limits.replicas.is_none());
    for plan in &mut streams {
        most.into_iter().for_each(|replicas| plan.beside(replicas));
        bus.carry_out(plan).await?;
        applied.changes.extend(plan.changes());
    }
    Ok(())
}

async fn apply_consumers(applying: Applying<'_>, applied: &mut Applied) -> Result<(), Fault> {
    let (Applied { topology, changes, waiting, warnings }, Applying { bus, limits, .. }) = (applied, applying);
    let works = topology.work_streams();
    for spec in topology.consumers.iter().filter(|spec| !works.contains(spec.stream.as_str())) {
        let plan = bus.plan_consumer(spec, limits).await?;
        bus.carry_out(&plan).await?;
        changes.extend(plan.changes());
    }
    for stream in works {
        let specs: Vec<_> = topology.consumers.iter().filter(|spec| spec.stream == stream).collect();
        let mut served = Served::default();
        let done = served::serve(applying, &specs, &mut served).await;
        changes.extend(served.changes);
        waiting.extend(served.waiting);
        warnings.extend(served.warnings);
        for (durable, lost) in served.lost {
            warnings.extend(left_on_lane(bus, topology, (&durable, &lost)).await);
        }
        done?;
    }
    Ok(())
}

/// A lane does not move with a method: what waits there becomes due at the old service. Whoever applies reads no message, so what
/// lies there is counted, whichever method it is of.
async fn left_on_lane(bus: &Bus, topology: &Topology, (durable, lost): (&str, &[String])) -> Option<String> {
    let lanes = topology.lane_streams();
    let lane = topology.consumers.iter().find(|it| it.durable == durable && lanes.contains(it.stream.as_str()))?;
    let all = format!("{}.>", lane.filters.first()?.strip_suffix(".due.*.*")?);
    let methods: Vec<_> = lost.iter().filter_map(|filter| Place::parse(filter)?.contract()).collect();
    let methods = methods.join(", ");
    let what = match bus.count_on(&lane.stream, &all).await {
        Ok(0) => return None,
        Ok(1) => "1 delayed message lies".to_owned(),
        Ok(many) => format!("{many} delayed messages lie"),
        Err(fault) => {
            tracing::warn!(%fault, lane = lane.stream, "what lies on the lane is not counted");
            "an unknown number of delayed messages lies".to_owned()
        }
    };
    Some(format!(
        "{what} on the lane of {durable} ({}), perhaps of {methods}, which it is given no more: they become due at the old service \
         all the same, and letters of it are replayed there; keep the method and its rights in the old service until they are gone \
         (mesh ledger shows them)",
        lane.stream
    ))
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
