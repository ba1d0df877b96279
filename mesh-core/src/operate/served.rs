//! A method that is served from now on, of an rpc whose other methods are served already: what was queued for it before.
//!
//! A queue takes work for every method of its rpc, and its consumer passes over what it does not read. The broker swaps a
//! consumer's filters and leaves it where it stands, so what it passed over would never be delivered, and the keeper would say
//! that nobody knows whether it was handled. So the consumer begins again at the front of its queue, where only what is not
//! done lies. That forgets what is under way, and the same would be delivered a second time as if it were the first. So it is
//! done only when nothing is: the consumer is paused, and what was delivered must have left the change. A pause ends by itself.

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    bus::{Bus, Plan, UnderWay},
    clock::rfc3339,
    fault::{Code, Effect, Fault, Reason},
    policy::compile::ConsumerSpec,
};

/// How long the pause lasts if nobody ends it.
const PAUSE: Duration = Duration::from_secs(60);
/// How long what is under way may take to end. Well below [`PAUSE`]: what follows must be done within it.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long one look at the consumer comes after the other.
const AGAIN: Duration = Duration::from_millis(20);

/// Makes or changes a consumer of queued work that is to read more than it does: a new one, all of it.
///
/// # Errors
/// The broker refuses, another consumer reads the same still, or what is under way does not end: then the consumer is as it was.
/// Applying again is safe.
pub(super) async fn serve_more(bus: &Bus, spec: &ConsumerSpec, plan: &Plan) -> Result<(), Fault> {
    let change = Change { bus, spec, limit: Instant::now() + PATIENCE };
    let gained = plan.gained();
    change.check_others(&gained).await?;
    if plan.is_new() {
        change.wait_for_others(&gained).await?;
        return bus.carry_out(plan).await;
    }
    let until_ms = bus.gate().clock().now_ms().saturating_add(i64::try_from(PAUSE.as_millis()).unwrap_or(i64::MAX));
    let ConsumerSpec { stream, durable, .. } = spec;
    let served = async {
        bus.pause(stream, durable, Some(&rfc3339(until_ms))).await.map_err(with_rights)?;
        change.begin_again(&gained, &plan.reads()).await?;
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
        "{}; who applies needs the rights to name, pause and reset consumers, which users made by an older mesh keys lack",
        fault.message()
    );
    fault.with_message(message)
}

struct Change<'a> {
    bus: &'a Bus,
    spec: &'a ConsumerSpec,
    limit: Instant,
}

impl Change<'_> {
    async fn begin_again(&self, gained: &[String], reads: &[String]) -> Result<(), Fault> {
        let ConsumerSpec { stream, durable, .. } = self.spec;
        // Its leader may hear of the pause a little later.
        while !self.look().await?.is_none_or(|it| it.is_paused) {
            self.again("it is not paused").await?;
        }
        if !self.wait_for_others(gained).await? {
            return Ok(());
        }
        while !self.is_quiet(reads).await? {
            self.again("deliveries of it are under way or were given up").await?;
        }
        self.bus.begin_again(stream, durable).await
    }

    /// Another one may have read the same until now, and have some of it in hand. `false`: none of it lies there. What comes from
    /// now on lies behind the place where every consumer stands.
    async fn wait_for_others(&self, gained: &[String]) -> Result<bool, Fault> {
        let (held, last) = self.bus.held_on(&self.spec.stream, gained).await?;
        if held > 0 {
            while let Some(other) = self.others().await?.iter().find(|it| it.in_flight > 0 && it.ack_floor < last) {
                self.again(&format!("deliveries of {} are under way", other.durable)).await?;
            }
        }
        Ok(held > 0)
    }

    /// Every other consumer of the stream, whoever declared it. One that does not answer may have anything in hand.
    async fn others(&self) -> Result<Vec<UnderWay>, Fault> {
        let mut others = Vec::new();
        for name in self.bus.consumer_names(&self.spec.stream).await.map_err(with_rights)? {
            if name != self.spec.durable {
                others.extend(self.bus.under_way(&self.spec.stream, &name).await?);
            }
        }
        Ok(others)
    }

    /// Two that read the same would both be given it: a cluster allows that.
    async fn check_others(&self, gained: &[String]) -> Result<(), Fault> {
        let others = self.others().await?;
        let Some(other) = others.iter().find(|it| it.filters.iter().any(|filter| gained.contains(filter))) else {
            return Ok(());
        };
        let (ConsumerSpec { stream, durable, .. }, reads) = (self.spec, &other.durable);
        let message = format!(
            "{durable} is to serve what {reads} on {stream} reads still, and was left as it was: declare {reads} without it and \
             apply again; if it is to keep nothing of what it reads, stop its workers, wait until mesh ledger shows nothing of it \
             in flight, delete it (nats consumer rm {stream} {reads}) and apply again"
        );
        Err(Fault::new(Code::FailedPrecondition, Effect::None, Reason::PublishRefused, message))
    }

    async fn look(&self) -> Result<Option<UnderWay>, Fault> {
        self.bus.under_way(&self.spec.stream, &self.spec.durable).await
    }

    /// Whether of what it reads only that is left which was never delivered. The settlement of a delivery may be on its way to
    /// the stream, so the messages are counted. One that comes between both looks is counted once: then another look says it.
    async fn is_quiet(&self, reads: &[String]) -> Result<bool, Fault> {
        let Some(now) = self.look().await? else { return Ok(true) };
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
