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
    policy::compile::ConsumerSpec,
};

/// How long the pause lasts if nobody ends it.
const PAUSE: Duration = Duration::from_secs(60);
/// How long what is under way may take to end. Well below [`PAUSE`]: what follows must be done within it.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long one look at the consumer comes after the other.
const AGAIN: Duration = Duration::from_millis(20);

/// Changes a consumer of queued work that is to read more than it does. `others`: the other consumers of its stream.
///
/// # Errors
/// The broker refuses, or what is under way does not end: then the consumer is as it was. Applying again is safe.
pub(super) async fn serve_more(
    bus: &Bus,
    spec: &ConsumerSpec,
    plan: &Plan,
    others: &[&ConsumerSpec],
) -> Result<(), Fault> {
    let until_ms = bus.gate().clock().now_ms().saturating_add(i64::try_from(PAUSE.as_millis()).unwrap_or(i64::MAX));
    let ConsumerSpec { stream, durable, .. } = spec;
    bus.pause(stream, durable, Some(&rfc3339(until_ms))).await.map_err(with_rights)?;
    let queue = Queue { bus, spec, others, limit: Instant::now() + PATIENCE };
    let served = async {
        queue.begin_again(&plan.gained(), &plan.reads()).await?;
        bus.carry_out(plan).await
    };
    let done = served.await;
    // What the operator paused stays so.
    let resumed = bus.pause(stream, durable, plan.paused_until()).await;
    done.and(resumed)
}

/// A right that is missing shows as an answer that does not come.
fn with_rights(fault: Fault) -> Fault {
    let message = format!(
        "{}; who applies needs the rights to pause and reset consumers, which users made by an older mesh keys lack",
        fault.message()
    );
    fault.with_message(message)
}

struct Queue<'a> {
    bus: &'a Bus,
    spec: &'a ConsumerSpec,
    others: &'a [&'a ConsumerSpec],
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
        while !self.is_quiet(reads).await? {
            self.again("deliveries of it are under way or were given up").await?;
        }
        // Another one may have read the same until now.
        for other in self.others {
            while self.look(other).await?.is_some_and(|it| it.in_flight > 0 && it.ack_floor < last) {
                self.again(&format!("deliveries of {} are under way", other.durable)).await?;
            }
        }
        self.bus.begin_again(stream, durable).await
    }

    async fn look(&self, spec: &ConsumerSpec) -> Result<Option<UnderWay>, Fault> {
        self.bus.under_way(&spec.stream, &spec.durable).await
    }

    /// Whether of what it reads only that is left which was never delivered. The settlement of a delivery may be on its way to
    /// the stream, so the messages are counted. One that comes between both looks is counted once: then another look says it.
    async fn is_quiet(&self, reads: &[String]) -> Result<bool, Fault> {
        let Some(now) = self.look(self.spec).await? else { return Ok(true) };
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
