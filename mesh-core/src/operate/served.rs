//! Consumers of queued work that are to read other methods than they do: nothing that is queued is missed or done twice.
//!
//! A queue takes work for every method of its rpc, and its consumer passes over what it does not read. The broker swaps a
//! consumer's filters and leaves it where it stands, so what it passed over would never be delivered, and the keeper would say
//! that nobody knows whether it was handled. So who is to read more begins again at the front of its queue, where only what is
//! not done lies. That forgets what is under way of it, and finds what others have in hand; and what was delivered once is
//! delivered again to whom it was delivered, whatever he reads by then. So each is changed only while it is quiet: paused, and
//! what was delivered of all that it reads has left the queue.
//!
//! Hence who does not read a method has nothing of it in hand, and nobody waits for him: also if this ends between two steps and
//! is done again later. Consumers that hand methods to one another are changed together or not at all: all are quiet before
//! the first one is cut down, so that no method stays without a reader because another consumer is busy. Who loses and gains
//! nothing is never paused. A pause ends by itself.

mod quiet;

use std::{collections::BTreeSet, time::Duration};

use self::quiet::Quiet;
use crate::{
    bus::{Bus, Change, Plan, StreamLimits, UnderWay},
    fault::{Code, Effect, Fault, Reason},
    policy::compile::ConsumerSpec,
};

/// Consumers of queued work that are as they were, or are not made yet: together, for they hand methods to one another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// Their queue.
    pub stream: String,
    /// The broker's names of them.
    pub consumers: Vec<String>,
    /// Why, and what to do.
    pub fault: Fault,
}

/// What became of the consumers of one queue.
#[derive(Debug, Default)]
pub(super) struct Served {
    /// What was changed of those that stood before.
    pub(super) changes: Vec<Change>,
    /// Those that are as they were, or are not made yet.
    pub(super) waiting: Vec<Waiting>,
    /// Who reads less than before, and what no more.
    pub(super) lost: Vec<(String, Vec<String>)>,
}

/// Makes the consumers of one queue what is declared.
///
/// # Errors
/// The broker refuses one that keeps what it reads, or does not answer. One that can't be changed now is no error.
pub(super) async fn serve(bus: &Bus, specs: &[&ConsumerSpec], limits: &StreamLimits) -> Result<Served, Fault> {
    let (mut served, mut shifts) = (Served::default(), Vec::new());
    for spec in specs {
        let plan = bus.plan_consumer(spec, limits).await?;
        let shift = Shift::of(spec, plan);
        if shift.lost.is_empty() && shift.gained.is_empty() {
            bus.carry_out(&shift.plan).await?;
            served.changes.extend(shift.plan.changes());
        } else {
            shifts.push(shift);
        }
    }
    for shifts in together(shifts) {
        let mut each = Move { bus, shifts, patience: limits.patience };
        let carried_out = Box::pin(each.carry_out()).await;
        each.tell(&mut served);
        if let Err(fault) = carried_out {
            served.waiting.push(each.waiting(fault));
        }
    }
    Ok(served)
}

/// One consumer, and what it is to read no more or besides.
struct Shift<'a> {
    spec: &'a ConsumerSpec,
    plan: Plan,
    lost: Vec<String>,
    gained: Vec<String>,
    /// What was done of it.
    changes: Vec<Change>,
    /// Whether the broker counted anew what it has not delivered.
    is_recounted: bool,
}

impl Shift<'_> {
    fn of(spec: &ConsumerSpec, plan: Plan) -> Shift<'_> {
        let (mut lost, gained) = (plan.lost(), plan.gained());
        // That nothing comes on it any more is no loss: it was cut down before, and did not get what it is to read instead.
        lost.retain(|filter| *filter != spec.nothing());
        Shift { spec, plan, lost, gained, changes: Vec::new(), is_recounted: false }
    }

    /// Whether one hands something to the other, or both want the same.
    fn concerns(&self, other: &Shift<'_>) -> bool {
        let share = |one: &[String], two: &[String]| one.iter().any(|filter| two.contains(filter));
        share(&self.gained, &other.lost) || share(&self.lost, &other.gained) || share(&self.gained, &other.gained)
    }
}

/// Those that hand methods to one another, one group after the other.
fn together(shifts: Vec<Shift<'_>>) -> Vec<Vec<Shift<'_>>> {
    let mut groups: Vec<Vec<Shift<'_>>> = Vec::new();
    for shift in shifts {
        let (near, far): (Vec<_>, Vec<_>) =
            groups.into_iter().partition(|group| group.iter().any(|other| other.concerns(&shift)));
        groups = far;
        groups.push(near.into_iter().flatten().chain([shift]).collect());
    }
    groups
}

/// Consumers that are changed together or not at all.
struct Move<'a> {
    bus: &'a Bus,
    shifts: Vec<Shift<'a>>,
    patience: Duration,
}

impl Move<'_> {
    async fn carry_out(&mut self) -> Result<(), Fault> {
        self.check().await?;
        let quiet = Quiet::new(self.bus, self.patience);
        let done = self.change(&quiet).await;
        for shift in self.shifts.iter().filter(|shift| shift.is_recounted && shift.changes.is_empty()) {
            if let Err(fault) = self.bus.carry_out(&shift.plan.as_before()).await {
                tracing::warn!(%fault, durable = shift.spec.durable, "it reads a subject besides that nobody sends to, until it is applied again");
            }
        }
        quiet.end(&self.shifts).await;
        done?;
        self.look_again().await
    }

    /// A pause is written with the configuration that the brokers' leader knew then: the end of it may bring back what was changed.
    async fn look_again(&self) -> Result<(), Fault> {
        for Shift { spec, .. } in self.shifts.iter().filter(|shift| !shift.plan.is_new()) {
            let ConsumerSpec { stream, durable, filters, .. } = spec;
            let now = self.bus.under_way(stream, durable).await?;
            if !now.is_some_and(|now| now.filters.iter().eq(BTreeSet::from_iter(filters))) {
                return Err(refusal(format!(
                    "{durable} on {stream} was changed by somebody else meanwhile: apply again"
                )));
            }
        }
        Ok(())
    }

    async fn change(&mut self, quiet: &Quiet<'_>) -> Result<(), Fault> {
        // All at once, so that one does not wait for the other's patience.
        for shift in self.shifts.iter().filter(|it| !it.plan.is_new()) {
            quiet.begin(shift.spec).await.map_err(with_rights)?;
        }
        let mut is_quiet = Vec::new();
        let names = self.names();
        for shift in &mut self.shifts {
            is_quiet.push(quiet.wait_for(shift).await.map_err(|fault| unchanged(&fault, &names))?);
        }
        self.cut_down(quiet).await?;
        let has_lost = self.shifts.iter().any(|shift| !shift.lost.is_empty());
        for (shift, is_quiet) in self.shifts.iter_mut().zip(is_quiet).filter(|(shift, _)| !shift.gained.is_empty()) {
            let grown = shift.grow(quiet, is_quiet).await;
            grown.map_err(|fault| if has_lost { between(&fault) } else { fault })?;
        }
        Ok(())
    }

    /// Nobody gets what another one reads still: a cluster would allow it.
    async fn cut_down(&mut self, quiet: &Quiet<'_>) -> Result<(), Fault> {
        for shift in self.shifts.iter_mut().filter(|shift| !shift.lost.is_empty()) {
            quiet.is_in_time(shift)?;
            let less = shift.plan.cut_down(shift.spec.nothing());
            self.bus.carry_out(&less).await?;
            shift.changes = less.changes();
        }
        Ok(())
    }

    /// Two that read the same would both be given it.
    async fn check(&self) -> Result<(), Fault> {
        if self.shifts.iter().all(|shift| shift.gained.is_empty()) {
            return Ok(());
        }
        let others = self.others().await?;
        for (at, shift) in self.shifts.iter().enumerate() {
            let reads = |other: &&UnderWay| self.goes_on_reading(other, shift);
            if let Some(other) = others.iter().find(reads) {
                return Err(read_still(shift.spec, &other.durable));
            }
            let wants = |other: &&Shift<'_>| other.gained.iter().any(|filter| shift.gained.contains(filter));
            if let Some(other) = self.shifts.iter().take(at).find(wants) {
                return Err(wanted_twice(shift.spec, &other.spec.durable));
            }
        }
        Ok(())
    }

    /// Whether it reads what another one is to gain, and does not lose it here.
    fn goes_on_reading(&self, other: &UnderWay, shift: &Shift<'_>) -> bool {
        let of = self.shifts.iter().find(|it| it.spec.durable == other.durable);
        let is_lost = |filter: &String| of.is_some_and(|it| it.lost.contains(filter));
        let is_read = |filter: &String| other.filters.is_empty() || other.filters.contains(filter);
        other.durable != shift.spec.durable && shift.gained.iter().any(|it| is_read(it) && !is_lost(it))
    }

    /// Every consumer of the queue, whoever declared it.
    async fn others(&self) -> Result<Vec<UnderWay>, Fault> {
        let mut others = Vec::new();
        let Some(first) = self.shifts.first() else { return Ok(others) };
        let stream = &first.spec.stream;
        for name in self.bus.consumer_names(stream).await.map_err(with_rights)? {
            others.extend(self.bus.under_way(stream, &name).await?);
        }
        Ok(others)
    }

    fn names(&self) -> Vec<String> {
        self.shifts.iter().map(|shift| shift.spec.durable.clone()).collect()
    }

    fn waiting(&self, fault: Fault) -> Waiting {
        let stream = self.shifts.first().map(|shift| shift.spec.stream.clone()).unwrap_or_default();
        Waiting { stream, consumers: self.names(), fault }
    }

    fn tell(&mut self, served: &mut Served) {
        for shift in &mut self.shifts {
            if !shift.changes.is_empty() && !shift.lost.is_empty() {
                served.lost.push((shift.spec.durable.clone(), shift.lost.clone()));
            }
            served.changes.append(&mut shift.changes);
        }
    }
}

impl Shift<'_> {
    /// Gives it all that it is to read. What comes while it is paused lies behind the place where it stands, so it begins again
    /// only for what lay there before.
    async fn grow(&mut self, quiet: &Quiet<'_>, is_quiet: bool) -> Result<(), Fault> {
        let (ConsumerSpec { stream, durable, .. }, bus) = (self.spec, quiet.bus());
        quiet.is_in_time(self)?;
        if is_quiet && bus.held_on(stream, &self.gained).await?.messages > 0 {
            bus.begin_again(stream, durable).await.map_err(with_rights)?;
        }
        bus.carry_out(&self.plan).await?;
        self.changes = self.plan.changes();
        Ok(())
    }
}

fn read_still(spec: &ConsumerSpec, reads: &str) -> Fault {
    let ConsumerSpec { stream, durable, .. } = spec;
    refusal(format!(
        "{durable} is to serve what {reads} on {stream} reads still, and was left as it was: declare {reads} without it and \
         apply again; if it is to keep nothing of what it reads, stop its workers, wait until mesh ledger shows nothing of it \
         in flight, delete it (nats consumer rm {stream} {reads}) and apply again"
    ))
}

fn wanted_twice(spec: &ConsumerSpec, other: &str) -> Fault {
    let ConsumerSpec { stream, durable, .. } = spec;
    refusal(format!(
        "{durable} and {other} on {stream} are both to serve the same method, and were left as they were: take it from one of \
         them and apply again"
    ))
}

fn refusal(message: String) -> Fault {
    Fault::new(Code::FailedPrecondition, Effect::None, Reason::PublishRefused, message)
}

/// One was not quiet in time: the others were left as they were for its sake.
fn unchanged(fault: &Fault, names: &[String]) -> Fault {
    let message = format!(
        "{}; nothing was changed of {}: apply again later, or with more --patience (mesh ledger shows what does not end)",
        fault.message(),
        names.join(", ")
    );
    fault.clone().with_message(message)
}

/// It ended between the steps.
fn between(fault: &Fault) -> Fault {
    let message = format!(
        "{}; what was taken from one consumer is not read by the other yet and waits in its queue: apply again",
        fault.message()
    );
    fault.clone().with_message(message)
}

fn with_rights(fault: Fault) -> Fault {
    if fault.reason() != Reason::AccessDenied {
        return fault;
    }
    let message = format!(
        "{}; who applies needs the rights to name, pause and reset consumers, which users made by an older mesh keys lack",
        fault.message()
    );
    fault.with_message(message)
}
