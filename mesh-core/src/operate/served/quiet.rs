//! A while in which consumers deliver nothing, and what they delivered ends.
//!
//! A pause is short and renewed, so that nobody waits long where whoever applies is gone. So one that lasts longer is an
//! operator's: it stays, and one that does not is taken over from an apply that ended early, and ended.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::Instant;

use super::shift::{Shift, changed};
use crate::{
    bus::{Bus, Plan, StreamLimits},
    clock::{TaskScope, rfc3339},
    fault::{Code, Effect, Fault, Reason},
    policy::compile::ConsumerSpec,
};

/// How long a pause lasts if nobody renews or ends it.
const LASTS_MS: i64 = 40_000;
/// How much of it is left when it is renewed.
const RENEWED_MS: i64 = 36_000;
/// How much of it must be left for a step: six requests of at most 5 s, and a moment. What is delivered before their end would come twice, or
/// be passed over.
const STEP_MS: i64 = 31_000;
/// How often it is looked whether pauses are to be renewed.
const RENEW: Duration = Duration::from_secs(1);
/// How long a pause lasts that runs out at once: all that keep the consumer must have heard of it before it ends.
const SOON_MS: i64 = 250;
/// How long one look at a consumer comes after the other.
const AGAIN: Duration = Duration::from_millis(20);
/// How long what was quiet may take to be so again between two steps.
const A_LITTLE: Duration = Duration::from_secs(10);

/// Consumers that are paused, since when.
pub(super) struct Quiet<'a> {
    bus: &'a Bus,
    limits: &'a StreamLimits,
    stop: &'a TaskScope,
    begun: Instant,
}

impl<'a> Quiet<'a> {
    pub(super) fn new(bus: &'a Bus, limits: &'a StreamLimits, stop: &'a TaskScope) -> Quiet<'a> {
        Quiet { bus, limits, stop, begun: Instant::now() }
    }

    pub(super) fn bus(&self) -> &'a Bus {
        self.bus
    }

    /// What stands of a consumer now.
    pub(super) async fn plan(&self, spec: &ConsumerSpec) -> Result<Plan, Fault> {
        self.bus.plan_consumer(spec, self.limits).await
    }

    /// The end of the patience.
    pub(super) fn patience(&self) -> Instant {
        self.begun + self.limits.patience
    }

    /// The end of it, where the steps have begun.
    pub(super) fn a_little(&self) -> Instant {
        self.patience().max(Instant::now() + A_LITTLE)
    }

    /// Pauses those that stand, all at once, so that one does not wait for the other's patience.
    pub(super) async fn begin(&self, shifts: &mut [Shift<'_>]) -> Result<(), Fault> {
        for shift in shifts.iter_mut().filter(|shift| !shift.plan.is_new()) {
            self.pause(shift, LASTS_MS).await?;
        }
        Ok(())
    }

    /// Has one deliver nothing, unless it does so for `long_enough` already. The end is told by the clock of who keeps it: that of
    /// whoever applies may be wrong.
    async fn pause(&self, shift: &mut Shift<'_>, long_enough_ms: i64) -> Result<(), Fault> {
        let ConsumerSpec { stream, durable, .. } = shift.spec;
        let Some(now) = self.bus.under_way(stream, durable).await? else { return Ok(()) };
        let (left_ms, pauses) = (now.paused_for_ms(), &mut shift.pauses);
        if left_ms == 0 {
            pauses.theirs = None;
        } else if left_ms > LASTS_MS && !pauses.ours.contains(&now.paused_until_ms) {
            pauses.theirs = Some(now.paused_until_ms);
        }
        if left_ms > long_enough_ms {
            return Ok(());
        }
        let until_ms = now.now_ms.saturating_add(LASTS_MS);
        pauses.ours.push(until_ms);
        let paused = self.bus.pause(stream, durable, until_ms).await;
        // Refused: there is none to end. Where no answer came it may stand.
        if paused.as_ref().is_err_and(|fault| fault.effect() == Effect::None) {
            pauses.ours.pop();
        }
        paused
    }

    /// They go on. What the operator paused stays so. What is not known to go on is told.
    pub(super) async fn end(&self, shifts: &[Shift<'_>]) -> Vec<String> {
        let told = join_all(shifts.iter().map(|shift| async move {
            let (ConsumerSpec { stream, durable, .. }, last) = (shift.spec, shift.pauses.ours.last()?);
            let fault = self.go_on(shift, *last).await.err()?;
            let until = rfc3339(*last);
            Some(format!(
                "{durable} on {stream} may still be paused until {until}, then it goes on by itself: {}",
                fault.message()
            ))
        }));
        told.await.into_iter().flatten().collect()
    }

    /// Where a pause is taken away, the broker forgets the pulls that came meanwhile until something else happens. Where it runs
    /// out, it serves them: so it has it run out.
    async fn go_on(&self, Shift { spec, pauses, .. }: &Shift<'_>, last_ms: i64) -> Result<(), Fault> {
        let ConsumerSpec { stream, durable, .. } = spec;
        let Some(now) = self.bus.under_way(stream, durable).await? else { return Ok(()) };
        let is_paused = now.paused_for_ms() > 0;
        let is_theirs = is_paused && !pauses.ours.contains(&now.paused_until_ms);
        if is_theirs || now.now_ms >= last_ms {
            return Ok(());
        }
        let soon_ms = now.now_ms.saturating_add(SOON_MS);
        // Who ended ours meanwhile ended theirs too.
        if let Some(theirs_ms) = pauses.theirs.filter(|until_ms| is_paused && *until_ms > soon_ms) {
            return self.bus.pause(stream, durable, theirs_ms).await;
        }
        self.bus.pause(stream, durable, soon_ms).await?;
        while self
            .bus
            .under_way(stream, durable)
            .await?
            .is_some_and(|now| now.paused_for_ms() > 0 && now.now_ms < soon_ms + SOON_MS)
        {
            tokio::time::sleep(AGAIN).await;
        }
        Ok(())
    }

    /// Waits until each may be changed that has not grown yet: in one look at all of them, right before the next step.
    pub(super) async fn wait(&self, shifts: &mut [Shift<'_>], until: Instant) -> Result<(), Fault> {
        let mut renewed: Option<Instant> = None;
        while let Some((spec, why)) = self.in_the_way(shifts).await? {
            if self.stop.is_stopping() {
                return Err(told_to_end(spec));
            }
            if Instant::now() >= until {
                return Err(busy(spec, why));
            }
            if renewed.is_none_or(|renewed| renewed.elapsed() >= RENEW) {
                for shift in shifts.iter_mut().filter(|shift| !shift.plan.is_new()) {
                    self.pause(shift, RENEWED_MS).await?;
                }
                renewed = Some(Instant::now());
            }
            tokio::time::sleep(AGAIN).await;
        }
        Ok(())
    }

    /// The first one that can't be changed now, and why. `None`: this look found none. Whoever is counted anew is looked at
    /// once more with all the others, and not again and again: between that the patience is asked.
    async fn in_the_way<'b>(
        &self,
        shifts: &mut [Shift<'b>],
    ) -> Result<Option<(&'b ConsumerSpec, &'static str)>, Fault> {
        let mut is_second = false;
        loop {
            let mut is_recounted = false;
            for shift in shifts.iter_mut().filter(|shift| !shift.plan.is_new() && !shift.is_grown) {
                match self.look(shift).await? {
                    Look::Quiet => shift.is_quiet = true,
                    Look::NoMatter(until_ms) => (shift.is_quiet, shift.nothing_lay) = (false, Some(until_ms)),
                    Look::NotCounted(_) if is_second => {
                        return Ok(Some((shift.spec, "it goes on being given something")));
                    }
                    Look::NotCounted(deliveries) => {
                        shift.recount(self, deliveries).await?;
                        is_recounted = true;
                    }
                    Look::Busy(why) => return Ok(Some((shift.spec, why))),
                }
            }
            if !is_recounted {
                return Ok(None);
            }
            is_second = true;
        }
    }

    async fn look(&self, shift: &Shift<'_>) -> Result<Look, Fault> {
        let Shift { spec: ConsumerSpec { stream, durable, .. }, reads, lost, gained, counted_at, .. } = shift;
        let Some(now) = self.bus.under_way(stream, durable).await? else { return Err(changed(shift.spec)) };
        if now.filters != *reads {
            return Err(changed(shift.spec));
        }
        // Its leader may hear of the pause a little later, and somebody may have ended it.
        if now.paused_for_ms() < STEP_MS {
            return Ok(Look::Busy("it is not paused"));
        }
        let lay_nothing = shift.nothing_lay == Some(now.paused_until_ms);
        if lost.is_empty() && (lay_nothing || self.bus.held_on(stream, gained).await?.messages == 0) {
            return Ok(Look::NoMatter(now.paused_until_ms));
        }
        if now.in_flight > 0 {
            return Ok(Look::Busy("deliveries of it are under way"));
        }
        // Its leader counts what it has not delivered by what it hears, and INFO corrects it, so it may be off by some. It counts anew
        // where its filters change. Somebody may have had it go on since then.
        if *counted_at != Some(now.deliveries) {
            return Ok(Look::NotCounted(now.deliveries));
        }
        // The settlement of a delivery may be on its way to the queue, so the messages are counted. One that comes between both
        // looks is counted once: then another look says it.
        let held = self.bus.held_on(stream, reads).await?;
        Ok(match (held.messages == now.pending, held.is_level) {
            (true, true) => Look::Quiet,
            (true, false) => Look::Busy("a server that has the queue is behind the others"),
            (false, _) => {
                Look::Busy("what it delivered and was given up lies in the queue until the keeper has seen to it")
            }
        })
    }
}

enum Look {
    /// Nothing is under way, and what is left was never delivered.
    Quiet,
    /// Nothing is under way; what is left is to be counted, after so many deliveries.
    NotCounted(u64),
    /// It need not be quiet while this pause lasts.
    NoMatter(i64),
    Busy(&'static str),
}

fn busy(ConsumerSpec { stream, durable, .. }: &ConsumerSpec, why: &str) -> Fault {
    let message = format!("{durable} on {stream} is to read other methods than it does, and can't yet: {why}");
    Fault::new(Code::Unavailable, Effect::None, Reason::PublishRefused, message)
}

/// Whoever applies is to end, and waits no more.
pub(super) fn told_to_end(spec: &ConsumerSpec) -> Fault {
    busy(spec, "whoever applied was told to end")
}
