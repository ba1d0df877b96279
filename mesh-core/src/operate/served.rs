//! A method that is served from now on, of an rpc whose other methods are served already: what was queued for it before.
//!
//! A queue takes work for every method of its rpc, and its consumer passes over what it does not read. The broker swaps a
//! consumer's filters and leaves it where it stands, so what it passed over would never be delivered, and the keeper would say
//! that nobody knows whether it was handled. So the consumer begins again at the front of its queue, where only what is not
//! done lies. That forgets what is under way, and the same would be delivered a second time as if it were the first. So it is
//! done only when nothing is: the consumer is paused, and what was delivered must have left the queue. A pause ends by itself.

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    bus::{Bus, Plan, UnderWay},
    clock::rfc3339,
    fault::{Code, Effect, Fault, Reason},
    policy::{compile::ConsumerSpec, reconcile::ConsumerView},
};

/// How long the pause lasts if nobody ends it.
const PAUSE: Duration = Duration::from_secs(60);
/// How long what is under way may take to end. Well below [`PAUSE`]: what follows must be done within it.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long one look at the consumer comes after the other.
const AGAIN: Duration = Duration::from_millis(20);

/// Changes a consumer of queued work that is to read more than it does.
///
/// # Errors
/// The broker refuses, another consumer reads the same still, or what is under way does not end: then the consumer is as it was.
/// Applying again is safe.
pub(super) async fn serve_more(bus: &Bus, spec: &ConsumerSpec, plan: &Plan) -> Result<(), Fault> {
    let queue = Queue { bus, spec, limit: Instant::now() + PATIENCE };
    let gained = plan.gained();
    queue.check_others(&gained).await?;
    let until_ms = bus.gate().clock().now_ms().saturating_add(i64::try_from(PAUSE.as_millis()).unwrap_or(i64::MAX));
    let ConsumerSpec { stream, durable, .. } = spec;
    let served = async {
        bus.pause(stream, durable, Some(&rfc3339(until_ms))).await.map_err(with_rights)?;
        queue.begin_again(&gained, &plan.reads()).await?;
        bus.carry_out(plan).await
    };
    let done = served.await;
    // What the operator paused stays so.
    if let Err(fault) = bus.pause(stream, durable, plan.paused_until()).await {
        tracing::warn!(%fault, stream, durable, "it is not said that it goes on: it does so by itself within a minute");
    }
    done
}

fn with_rights(fault: Fault) -> Fault {
    if fault.reason() != Reason::AccessDenied {
        return fault;
    }
    let message = format!(
        "{}; who applies needs the rights to pause and reset consumers, which users made by an older mesh keys lack",
        fault.message()
    );
    fault.with_message(message)
}

struct Queue<'a> {
    bus: &'a Bus,
    spec: &'a ConsumerSpec,
    limit: Instant,
}

impl Queue<'_> {
    async fn begin_again(&self, gained: &[String], reads: &[String]) -> Result<(), Fault> {
        let ConsumerSpec { stream, durable, .. } = self.spec;
        // Its leader may hear of the pause a little later.
        while !self.look(self.spec).await?.is_none_or(|it| it.is_paused) {
            self.again("it is not paused").await?;
        }
        // What comes from now on lies behind the place where the consumer stands.
        let (held, last) = self.bus.held_on(stream, gained).await?;
        if held == 0 {
            return Ok(());
        }
        // Another one may have read the same until now.
        while let Some(other) = self.others().await?.iter().find(|it| it.in_flight > 0 && it.ack_floor < last) {
            self.again(&format!("deliveries of {} are under way", other.durable)).await?;
        }
        while !self.is_quiet(reads).await? {
            self.again("deliveries of it are under way or were given up").await?;
        }
        self.bus.begin_again(stream, durable).await
    }

    /// Every other consumer of the stream, whoever declared it.
    async fn others(&self) -> Result<Vec<ConsumerView>, Fault> {
        let mut all = self.bus.consumer_views(&self.spec.stream).await?;
        all.retain(|view| view.durable != self.spec.durable);
        Ok(all)
    }

    /// Two that read the same would both be given it: a cluster allows that.
    async fn check_others(&self, gained: &[String]) -> Result<(), Fault> {
        let others = self.others().await?;
        let Some(other) = others.iter().find(|it| it.filters.iter().any(|filter| gained.contains(filter))) else {
            return Ok(());
        };
        let (ConsumerSpec { stream, durable, .. }, reads) = (self.spec, &other.durable);
        let message = format!(
            "{durable} is to serve what {reads} on {stream} reads still, and was left as it was: declare {reads} without it, or \
             delete that consumer (nats consumer rm {stream} {reads}), then apply again"
        );
        Err(Fault::new(Code::FailedPrecondition, Effect::None, Reason::PublishRefused, message))
    }

    async fn look(&self, spec: &ConsumerSpec) -> Result<Option<UnderWay>, Fault> {
        self.bus.under_way(&spec.stream, &spec.durable).await
    }

    /// Whether of what it reads only that is left which was never delivered. The settlement of a delivery may be on its way to
    /// the stream, so the messages are counted. One that comes between both looks is counted once: then another look says it.
    async fn is_quiet(&self, reads: &[String]) -> Result<bool, Fault> {
        let Some(now) = self.look(self.spec).await? else { return Ok(true) };
        // A pause ends by the broker's clock: what is delivered from then on would come twice.
        if !now.is_paused || Instant::now() >= self.limit {
            return Ok(false);
        }
        Ok(now.in_flight == 0 && self.bus.held_on(&self.spec.stream, reads).await?.0 == now.pending)
    }

    async fn again(&self, why: &str) -> Result<(), Fault> {
        if Instant::now() < self.limit {
            tokio::time::sleep(AGAIN).await;
            return Ok(());
        }
        let ConsumerSpec { stream, durable, .. } = self.spec;
        let message = format!(
            "work is queued for what {durable} on {stream} is to serve from now on, and it can't begin again to find it: {why}; \
             nothing of it was changed: apply again later (mesh ledger shows what does not end)"
        );
        Err(Fault::new(Code::Unavailable, Effect::None, Reason::PublishRefused, message))
    }
}
