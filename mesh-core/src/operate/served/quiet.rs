//! A while in which consumers deliver nothing, and what they delivered ends.

use std::time::Duration;

use chrono::DateTime;
use futures_util::future::join_all;
use tokio::time::Instant;

use super::Shift;
use crate::{
    bus::{Bus, UnderWay},
    clock::rfc3339,
    fault::{Code, Effect, Fault, Reason},
    policy::compile::ConsumerSpec,
};

/// How much longer than the patience a pause lasts if nobody ends it.
const LONGER: Duration = Duration::from_secs(40);
/// How much longer than the patience the steps may take, so that the last one is done within the pause: what is delivered
/// before it would come twice.
const STEPS: Duration = Duration::from_secs(30);
/// How long a pause lasts that runs out at once: all that keep the consumer must have heard of it before it ends.
const SOON_MS: i64 = 250;
/// How long one look at a consumer comes after the other.
const AGAIN: Duration = Duration::from_millis(20);

/// Consumers that are paused, since when.
pub(super) struct Quiet<'a> {
    bus: &'a Bus,
    begun: Instant,
    patience: Duration,
}

impl<'a> Quiet<'a> {
    pub(super) fn new(bus: &'a Bus, patience: Duration) -> Quiet<'a> {
        Quiet { bus, begun: Instant::now(), patience }
    }

    /// Pauses a consumer. The end is told by the clock of who keeps it: that of whoever applies may be wrong.
    pub(super) async fn begin(&self, spec: &ConsumerSpec) -> Result<(), Fault> {
        let ConsumerSpec { stream, durable, .. } = spec;
        let Some(now) = self.bus.under_way(stream, durable).await? else { return Ok(()) };
        let until_ms =
            now.now_ms.saturating_add(i64::try_from((self.patience + LONGER).as_millis()).unwrap_or(i64::MAX));
        self.bus.pause(stream, durable, Some(&rfc3339(until_ms))).await
    }

    /// They go on. What the operator paused stays so.
    pub(super) async fn end(&self, shifts: &[Shift<'_>]) {
        let standing = shifts.iter().filter(|shift| !shift.plan.is_new());
        join_all(standing.map(|Shift { spec, plan, .. }| async move {
            if let Err(fault) = self.go_on(spec, plan.paused_until()).await {
                let ConsumerSpec { stream, durable, .. } = spec;
                tracing::warn!(%fault, stream, durable, "it is not said that it goes on: it does so by itself when its pause is over");
            }
        }))
        .await;
    }

    /// Where a pause is taken away, the broker forgets the pulls that came meanwhile until something else happens. Where it runs
    /// out, it serves them: so it has it run out.
    async fn go_on(&self, spec: &ConsumerSpec, paused_before: Option<&str>) -> Result<(), Fault> {
        let ConsumerSpec { stream, durable, .. } = spec;
        let Some(now) = self.bus.under_way(stream, durable).await? else { return Ok(()) };
        if let Some(until) = paused_before.filter(|until| is_after(until, now.now_ms)) {
            return self.bus.pause(stream, durable, Some(until)).await;
        }
        let soon_ms = now.now_ms.saturating_add(SOON_MS);
        self.bus.pause(stream, durable, Some(&rfc3339(soon_ms))).await?;
        let is_over = |now: &UnderWay| !now.is_paused || now.now_ms >= soon_ms + SOON_MS;
        while self.bus.under_way(stream, durable).await?.is_some_and(|now| !is_over(&now)) {
            tokio::time::sleep(AGAIN).await;
        }
        Ok(())
    }

    pub(super) fn bus(&self) -> &'a Bus {
        self.bus
    }

    /// Whether what was paused is so still, for as long as the next step takes.
    pub(super) fn is_in_time(&self, shift: &Shift<'_>) -> Result<(), Fault> {
        if shift.plan.is_new() || self.begun.elapsed() < self.patience + STEPS {
            return Ok(());
        }
        Err(busy(shift.spec, "the broker answers too slowly"))
    }

    /// Waits until a consumer may be changed. `true`: it is quiet; `false`: that does not matter, for it is new, or it only gains
    /// what nothing is queued for.
    pub(super) async fn wait_for(&self, shift: &mut Shift<'_>) -> Result<bool, Fault> {
        if shift.plan.is_new() {
            return Ok(false);
        }
        loop {
            let why = match self.look(shift).await? {
                Look::Quiet => return Ok(true),
                Look::NothingInHand => {
                    shift.is_recounted = true;
                    self.bus.carry_out(&shift.plan.recount(shift.spec.nothing())).await?;
                    continue;
                }
                Look::NoMatter => return Ok(false),
                Look::Busy(why) => why,
            };
            if self.begun.elapsed() >= self.patience {
                return Err(busy(shift.spec, why));
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    async fn look(&self, Shift { spec, plan, lost, gained, is_recounted, .. }: &Shift<'_>) -> Result<Look, Fault> {
        let ConsumerSpec { stream, durable, .. } = spec;
        let Some(now) = self.bus.under_way(stream, durable).await? else { return Ok(Look::Quiet) };
        // Its leader may hear of the pause a little later.
        if !now.is_paused {
            return Ok(Look::Busy("it is not paused"));
        }
        if lost.is_empty() && self.bus.held_on(stream, gained).await?.messages == 0 {
            return Ok(Look::NoMatter);
        }
        if now.in_flight > 0 {
            return Ok(Look::Busy("deliveries of it are under way"));
        }
        // Its leader counts what it has not delivered by what it hears, and INFO corrects it, so it may be off by some. It counts anew
        // where its filters change.
        if !is_recounted {
            return Ok(Look::NothingInHand);
        }
        // The settlement of a delivery may be on its way to the queue, so the messages are counted. One that comes between both
        // looks is counted once: then another look says it.
        let held = self.bus.held_on(stream, &plan.reads()).await?;
        Ok(match (held.messages == now.pending, held.is_level) {
            (true, true) => Look::Quiet,
            (true, false) => Look::Busy("a server that has the queue is behind the others"),
            (false, _) => {
                Look::Busy("what it delivered and was given up lies in the queue until the keeper has seen to it")
            }
        })
    }
}

fn is_after(until: &str, now_ms: i64) -> bool {
    DateTime::parse_from_rfc3339(until).is_ok_and(|until| until.timestamp_millis() > now_ms)
}

enum Look {
    /// Nothing is under way, and what is left was never delivered.
    Quiet,
    /// Nothing is under way; what is left is to be counted.
    NothingInHand,
    /// It need not be quiet.
    NoMatter,
    Busy(&'static str),
}

fn busy(ConsumerSpec { stream, durable, .. }: &ConsumerSpec, why: &str) -> Fault {
    let message = format!("{durable} on {stream} is to read other methods than it does, and can't yet: {why}");
    Fault::new(Code::Unavailable, Effect::None, Reason::PublishRefused, message)
}
