//! One consumer that is to read other methods, and the steps to it. Each looks first whether the one before still stands.

use std::collections::BTreeSet;

use super::{quiet::Quiet, refusal, with_rights};
use crate::{
    bus::{Change, Plan},
    fault::{Effect, Fault},
    policy::compile::ConsumerSpec,
};

/// One consumer, and what it is to read no more or besides.
pub(super) struct Shift<'a> {
    pub(super) spec: &'a ConsumerSpec,
    /// What stood when all this began, and what is to be.
    pub(super) plan: Plan,
    pub(super) lost: Vec<String>,
    pub(super) gained: Vec<String>,
    /// What was done of it.
    pub(super) changes: Vec<Change>,
    /// What it reads since the last step, sorted.
    pub(super) reads: Vec<String>,
    /// The number of its last delivery when the broker counted anew what it has not delivered: since another one it may be off again.
    pub(super) counted_at: Option<u64>,
    /// Whether nothing of it was in hand at the last look, and what is left was never delivered.
    pub(super) is_quiet: bool,
    /// The end of a pause within which nothing was queued of what it gains: what came since lies behind the place where it stands.
    pub(super) nothing_lay: Option<i64>,
    /// Whether it was given what it gains, or may have been.
    pub(super) is_grown: bool,
    pub(super) pauses: Pauses,
}

/// Who had it deliver nothing, and until when: Unix milliseconds of its leader's clock.
#[derive(Default)]
pub(super) struct Pauses {
    /// What was written here.
    pub(super) ours: Vec<i64>,
    /// What an operator wrote.
    pub(super) theirs: Option<i64>,
}

impl Shift<'_> {
    pub(super) fn of(spec: &ConsumerSpec, plan: Plan) -> Shift<'_> {
        let (mut lost, gained, reads) = (plan.lost(), plan.gained(), plan.reads());
        // That nothing comes on it any more is no loss: it was cut down before, and did not get what it is to read instead.
        lost.retain(|filter| *filter != spec.nothing());
        Shift {
            spec,
            plan,
            lost,
            gained,
            changes: Vec::new(),
            reads,
            counted_at: None,
            is_quiet: false,
            nothing_lay: None,
            is_grown: false,
            pauses: Pauses::default(),
        }
    }

    /// Whether one hands something to the other, or both want the same.
    pub(super) fn concerns(&self, other: &Shift<'_>) -> bool {
        let share = |one: &[String], two: &[String]| one.iter().any(|filter| two.contains(filter));
        share(&self.gained, &other.lost) || share(&self.lost, &other.gained) || share(&self.gained, &other.gained)
    }

    /// Whether it was cut down.
    pub(super) fn is_cut_down(&self) -> bool {
        self.lost.iter().any(|filter| !self.reads.contains(filter))
    }

    /// What it read, without what an apply that ended early left.
    fn before(&self) -> Vec<String> {
        self.something(self.plan.reads())
    }

    /// Without the subject to which nobody sends, unless that is all.
    fn something(&self, mut filters: Vec<String>) -> Vec<String> {
        if filters.len() > 1 {
            filters.retain(|filter| *filter != self.spec.nothing());
        }
        filters
    }

    /// Has the broker count anew: by a subject besides to which nobody sends, or without it where it is read already. What it
    /// reads otherwise stays, also where something was taken from it. Of that subject alone nothing is there to be counted.
    pub(super) async fn recount(&mut self, quiet: &Quiet<'_>, deliveries: u64) -> Result<(), Fault> {
        let nothing = self.spec.nothing();
        let mut filters: Vec<_> = self.reads.iter().filter(|filter| **filter != nothing).cloned().collect();
        if filters.is_empty() || filters.len() == self.reads.len() {
            filters.push(nothing);
        }
        self.read(quiet, filters).await?;
        self.counted_at = Some(deliveries);
        Ok(())
    }

    /// Takes from it what it is to read no more. Who keeps nothing reads `nothing`: no filter would be all.
    pub(super) async fn cut_down(&mut self, quiet: &Quiet<'_>) -> Result<(), Fault> {
        let after = self.plan.is_to_read();
        let mut kept: Vec<_> = self.plan.reads().into_iter().filter(|filter| after.contains(filter)).collect();
        if kept.is_empty() {
            kept.push(self.spec.nothing());
        }
        let done = self.read(quiet, kept.clone()).await;
        if self.is_cut_down() {
            self.changes = self.plan.reading(&kept).changes();
        }
        done
    }

    /// Gives it all that it is to read.
    pub(super) async fn grow(&mut self, quiet: &Quiet<'_>) -> Result<(), Fault> {
        let filters = self.plan.is_to_read();
        let grown = if self.plan.is_new() {
            quiet.bus().carry_out(&self.plan).await
        } else {
            self.begin_again(quiet, &filters).await?;
            self.read(quiet, filters).await
        };
        self.is_grown = grown.as_ref().err().is_none_or(|fault| fault.effect() != Effect::None);
        if grown.is_ok() || self.reads == self.plan.is_to_read() {
            self.changes = self.plan.changes();
        }
        grown
    }

    /// Gives it back what was taken from it, as if it gained that. Nobody else was given it.
    pub(super) async fn give_back(&mut self, quiet: &Quiet<'_>) -> Result<(), Fault> {
        quiet.wait(std::slice::from_mut(self), quiet.a_little()).await?;
        let filters = self.before();
        self.begin_again(quiet, &filters).await?;
        let done = self.read(quiet, filters).await;
        if !self.is_cut_down() {
            self.changes.clear();
        }
        done
    }

    /// Leaves nothing of what was done to look at it.
    pub(super) async fn tidy(&mut self, quiet: &Quiet<'_>) -> Result<(), Fault> {
        let is_as_found = self.counted_at.is_none() && self.reads == self.plan.reads();
        if self.is_grown || is_as_found {
            return Ok(());
        }
        let filters = if self.is_cut_down() { self.something(self.reads.clone()) } else { self.before() };
        if filters == self.reads {
            return Ok(());
        }
        self.read(quiet, filters).await
    }

    /// Before it reads `filters`: it begins again only for what lay there before it was paused.
    async fn begin_again(&self, quiet: &Quiet<'_>, filters: &[String]) -> Result<(), Fault> {
        let (ConsumerSpec { stream, durable, .. }, bus) = (self.spec, quiet.bus());
        let more: Vec<_> = filters.iter().filter(|filter| !self.reads.contains(filter)).cloned().collect();
        if !self.is_quiet {
            return Ok(());
        }
        let held = bus.held_on(stream, &more).await?;
        if held.messages > 0 {
            bus.begin_again(stream, durable, held.first).await.map_err(with_rights)?;
        }
        Ok(())
    }

    /// Has it read other subjects than since the last step. Nothing else of it changes: what stands now is read for it, not what
    /// stood when all this began.
    async fn read(&mut self, quiet: &Quiet<'_>, mut filters: Vec<String>) -> Result<(), Fault> {
        filters.sort_unstable();
        let now = quiet.plan(self.spec).await?;
        if now.is_new() || now.reads() != self.reads {
            return Err(changed(self.spec));
        }
        let done = quiet.bus().carry_out(&now.reading(&filters)).await;
        // Where nobody knows whether it was done, what stands says it.
        if done.is_ok() || quiet.plan(self.spec).await.is_ok_and(|now| now.reads() == filters) {
            self.reads = filters;
        }
        done
    }

    /// A pause is written with the configuration that the brokers' leader knew then: it may bring back what was changed.
    pub(super) async fn look_again(&self, quiet: &Quiet<'_>) -> Result<(), Fault> {
        if self.plan.is_new() {
            return Ok(());
        }
        let ConsumerSpec { stream, durable, filters, .. } = self.spec;
        let now = quiet.bus().under_way(stream, durable).await?;
        if now.is_some_and(|now| now.filters.iter().eq(BTreeSet::from_iter(filters))) {
            return Ok(());
        }
        let fault = changed(self.spec);
        let message = format!("{}: apply again", fault.message());
        Err(fault.with_effect(Effect::Unknown).with_message(message))
    }
}

/// Nobody waits for it: consumers would stand still for nothing.
pub(super) fn changed(ConsumerSpec { stream, durable, .. }: &ConsumerSpec) -> Fault {
    refusal(format!("{durable} on {stream} was changed by somebody else meanwhile"))
}
