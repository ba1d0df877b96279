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
//!
//! Others act meanwhile: they have one go on, edit it or apply too. So all are looked at once more right before each step, and a step
//! writes filters alone, where those stand that the step before left. The way back does the same.

mod quiet;
mod shift;

use self::{quiet::Quiet, shift::Shift};
use crate::{
    bus::{Bus, Change, StreamLimits, UnderWay},
    clock::TaskScope,
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
    /// What whoever applies should know.
    pub(super) warnings: Vec<String>,
}

/// Whoever applies: how, and until they are told to end.
#[derive(Clone, Copy)]
pub(super) struct Applying<'a> {
    pub(super) bus: &'a Bus,
    pub(super) limits: &'a StreamLimits,
    pub(super) stop: &'a TaskScope,
}

/// Makes the consumers of one queue what is declared, and writes down what it does.
///
/// # Errors
/// The broker refuses one that keeps what it reads, or does not answer. One that can't be changed now is no error.
pub(super) async fn serve(applying: Applying<'_>, specs: &[&ConsumerSpec], served: &mut Served) -> Result<(), Fault> {
    let (Applying { bus, limits, .. }, mut shifts) = (applying, Vec::new());
    for spec in specs {
        let shift = Shift::of(spec, bus.plan_consumer(spec, limits).await?);
        if shift.lost.is_empty() && shift.gained.is_empty() {
            bus.carry_out(&shift.plan).await?;
            served.changes.extend(shift.plan.changes());
        } else {
            shifts.push(shift);
        }
    }
    for shifts in together(shifts) {
        let mut each = Move { applying, shifts, warnings: Vec::new() };
        let carried_out = Box::pin(each.carry_out()).await;
        each.tell(served);
        if let Err(fault) = carried_out {
            served.waiting.push(each.waiting(fault));
        }
    }
    Ok(())
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
    applying: Applying<'a>,
    shifts: Vec<Shift<'a>>,
    warnings: Vec<String>,
}

impl Move<'_> {
    async fn carry_out(&mut self) -> Result<(), Fault> {
        let Applying { bus, limits, stop } = self.applying;
        if let Some(first) = self.shifts.first().filter(|_| stop.is_stopping()) {
            return Err(quiet::told_to_end(first.spec));
        }
        self.check().await?;
        let quiet = Quiet::new(bus, limits, stop);
        let done = self.change(&quiet).await;
        for shift in &mut self.shifts {
            if let Err(fault) = shift.tidy(&quiet).await {
                tracing::warn!(%fault, durable = shift.spec.durable, "it may read a subject besides that nobody sends to, until it is applied again");
            }
        }
        self.warnings.extend(quiet.end(&self.shifts).await);
        done?;
        for shift in &self.shifts {
            shift.look_again(&quiet).await?;
        }
        Ok(())
    }

    async fn change(&mut self, quiet: &Quiet<'_>) -> Result<(), Fault> {
        let names = self.names();
        quiet.begin(&mut self.shifts).await.map_err(with_rights)?;
        let is_quiet = quiet.wait(&mut self.shifts, quiet.patience()).await;
        is_quiet.map_err(|fault| unchanged(&fault, &names))?;
        match self.hand_over(quiet).await {
            Err(fault) => Err(self.give_back(quiet, fault).await),
            Ok(()) => Ok(()),
        }
    }

    /// Nobody gets what another one reads still: a cluster would allow it. And nobody begins again, or gets anything, of whom
    /// something may be in hand: somebody may have had one go on since the last look.
    async fn hand_over(&mut self, quiet: &Quiet<'_>) -> Result<(), Fault> {
        for shift in self.shifts.iter_mut().filter(|shift| !shift.lost.is_empty()) {
            shift.cut_down(quiet).await?;
        }
        for at in 0..self.shifts.len() {
            if self.shifts.get(at).is_none_or(|shift| shift.gained.is_empty()) {
                continue;
            }
            quiet.wait(&mut self.shifts, quiet.a_little()).await?;
            if let Some(shift) = self.shifts.get_mut(at) {
                shift.grow(quiet).await?;
            }
        }
        Ok(())
    }

    /// A step failed. What was taken from one is given back, unless somebody else got something, or may have.
    async fn give_back(&mut self, quiet: &Quiet<'_>, fault: Fault) -> Fault {
        let is_given = self.shifts.iter().any(|shift| shift.is_grown);
        for shift in self.shifts.iter_mut().filter(|shift| !is_given && shift.is_cut_down()) {
            if let Err(why) = shift.give_back(quiet).await {
                tracing::debug!(%why, durable = shift.spec.durable, "what was taken from it is not given back");
            }
        }
        let cut_down = self.shifts.iter().filter(|shift| shift.is_cut_down());
        let cut_down: Vec<_> = cut_down.map(|shift| shift.spec.durable.clone()).collect();
        as_left(fault, is_given, &cut_down, &self.names())
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
        let bus = self.applying.bus;
        for name in bus.consumer_names(stream).await.map_err(with_rights)? {
            others.extend(bus.under_way(stream, &name).await?);
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
        served.warnings.append(&mut self.warnings);
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

/// One was not quiet in time, or a step failed: all were left as they were for its sake.
fn unchanged(fault: &Fault, names: &[String]) -> Fault {
    let message = format!(
        "{}; nothing was changed of {}: apply again later, or with more --patience (mesh ledger shows what does not end)",
        fault.message(),
        names.join(", ")
    );
    fault.clone().with_message(message)
}

/// A step failed. What is true now: whether one was given something, or may have been, and who is `cut_down` still.
fn as_left(fault: Fault, is_given: bool, cut_down: &[String], names: &[String]) -> Fault {
    match (is_given, cut_down, fault.effect()) {
        (true, [], _) => fault,
        (true, _, _) => in_part(
            &fault,
            "what was taken from one consumer may not be read by the other yet and waits in its queue then",
        ),
        (false, [], Effect::None) => unchanged(&fault, names),
        (false, [], _) => {
            let names = names.join(", ");
            in_part(&fault, &format!("what {names} read is as it was, unless the broker did what it did not answer"))
        }
        (false, _, _) => {
            let names = cut_down.join(", ");
            in_part(
                &fault,
                &format!("what was taken from {names} is not known to be given back and waits in its queue"),
            )
        }
    }
}

/// Something was done, or may have been.
fn in_part(fault: &Fault, what: &str) -> Fault {
    let message = format!("{}; {what}: apply again", fault.message());
    fault.clone().with_effect(Effect::Unknown).with_message(message)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_step_that_failed_left_is_told_as_it_is() {
        let left = |effect, is_given, cut_down: &[&str]| {
            let fault = Fault::new(Code::Unavailable, effect, Reason::PublishRefused, "no answer");
            let cut_down: Vec<_> = cut_down.iter().map(|name| (*name).to_owned()).collect();
            as_left(fault, is_given, &cut_down, &["a".into(), "b".into()])
        };
        let (none, unknown) = (Effect::None, Effect::Unknown);
        for (effect, is_given, cut_down, words, is_now) in [
            (none, false, &[][..], "no answer; nothing was changed of a, b: apply again", none),
            (unknown, false, &[], "no answer; what a, b read is as it was, unless", unknown),
            (none, false, &["b"], "no answer; what was taken from b is not known to be given back", unknown),
            (unknown, false, &["b"], "no answer; what was taken from b is not known to be given back", unknown),
            (none, true, &["b"], "no answer; what was taken from one consumer may not be read by the other", unknown),
            (
                unknown,
                true,
                &["b"],
                "no answer; what was taken from one consumer may not be read by the other",
                unknown,
            ),
            (unknown, true, &[], "no answer", unknown),
        ] {
            let fault = left(effect, is_given, cut_down);
            assert!(fault.message().starts_with(words), "{words}: {fault}");
            assert_eq!(fault.effect(), is_now, "{fault}");
            let (waits, is_taken) = (fault.message().contains("waits in its queue"), !cut_down.is_empty());
            assert_eq!(waits, is_taken, "{fault}");
        }
    }
}
