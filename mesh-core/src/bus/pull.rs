//! Pulling deliveries from one durable consumer: exactly as many as were asked for, over one subscription.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{FutureExt as _, StreamExt as _};
use tokio::time::{Instant, timeout_at};

use super::{Bus, SENDING, convert::Received, error::PublishError, link::LinkState, within};
use crate::{
    fault::{Code, Effect, Fault, Reason},
    gate::{Gate, Unopened},
    subject,
};

/// How long the broker keeps a pull open.
const EXPIRES: Duration = Duration::from_secs(30);
/// How often the broker says that an idle pull is still open.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// How long a pull that is closed waits for the broker, at each of two steps.
const CLOSING: Duration = Duration::from_secs(1);

/// More than come between the last round trip and the end of the subscription, but for a rush: then some come again later.
const LAST_WORDS: u64 = 32;

/// How a delivery is settled on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ack {
    /// Done: do not deliver it again.
    Accept,
    /// Not done: deliver it again at once.
    Release,
    /// Still at work: the lease begins anew.
    Extend,
}

impl Ack {
    const fn bytes(self) -> &'static [u8] {
        match self {
            Ack::Accept => b"+ACK",
            Ack::Release => b"-NAK",
            Ack::Extend => b"+WPI",
        }
    }
}

/// What came of waiting.
#[derive(Debug)]
pub enum Pulled {
    /// A delivery.
    Delivery(Unopened),
    /// Nothing is asked for any more: ask again.
    Idle,
    /// The consumer can't be reached now: ask again after a moment.
    Away(&'static str),
    /// The consumer does not exist (any more).
    Gone,
}

/// A pull from one durable consumer.
pub struct Pull {
    bus: Bus,
    next: String,
    inbox: String,
    subscription: async_nats::Subscriber,
    link: tokio::sync::watch::Receiver<LinkState>,
    /// The connection that the pulls were sent on.
    generation: u64,
    /// Asked for and not yet come.
    asked: usize,
    /// All that came over the subscription, whatever it was.
    came: u64,
    heard: Instant,
    expires: Duration,
}

impl Bus {
    /// Opens a pull from the durable consumer `durable` of `stream`. Nothing is asked for yet.
    ///
    /// # Errors
    /// The consumer does not exist, or the bus can't be reached.
    pub async fn pull(&self, stream: &str, durable: &str) -> Result<Pull, Fault> {
        self.check_consumer(stream, durable).await?;
        let inbox = format!("{}.{}", subject::inbox_prefix(self.0.gate.identity().service()), nuid::next());
        let subscription = within(SENDING, self.0.client.subscribe(inbox.clone())).await.map_err(|error| {
            Fault::new(Code::Unavailable, Effect::None, Reason::BusUnavailable, "the pull could not be opened")
                .with_detail(error.to_string())
        })?;
        Ok(Pull {
            bus: self.clone(),
            next: format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{durable}"),
            inbox,
            subscription,
            generation: self.link_state().generation,
            link: self.0.link.watch(),
            asked: 0,
            came: 0,
            heard: Instant::now(),
            expires: EXPIRES,
        })
    }

    async fn check_consumer(&self, stream: &str, durable: &str) -> Result<(), Fault> {
        let subject = format!("$JS.API.CONSUMER.INFO.{stream}.{durable}");
        let info = self.request(Gate::seal_api(subject, Bytes::new()), Duration::from_secs(5)).await;
        let missing = |why: String| {
            let message = format!(
                "the bus has no consumer {durable:?} on stream {stream:?}; declare it in the mesh file and apply it (mesh apply)"
            );
            Fault::new(Code::NotFound, Effect::None, Reason::ConsumerMissing, message).with_detail(why)
        };
        let answer = info.map_err(|error| match error {
            PublishError::NobodyListens => missing("JetStream does not answer".into()),
            other => other.into_fault("the question for the consumer"),
        })?;
        match super::admin::api_error(&answer.open().envelope.payload) {
            Some(error) => Err(missing(error)),
            None => Ok(()),
        }
    }

    /// Settles a delivery, or keeps its lease alive. `reply` is where the delivery wants its ack.
    ///
    /// The ack is sent, not confirmed: one that is lost leads to another delivery.
    ///
    /// # Errors
    /// The connection is closed.
    pub async fn ack(&self, reply: &str, ack: Ack) -> Result<(), PublishError> {
        self.send(reply.to_owned(), None, Vec::new(), Bytes::from_static(ack.bytes())).await
    }
}

impl Pull {
    /// Asks for a shorter time each: so long the broker may send to a process that does not read any more.
    #[must_use]
    pub fn expiring(mut self, after: Duration) -> Pull {
        self.expires = after;
        self
    }

    /// How many deliveries are asked for and have not come.
    #[must_use]
    pub fn asked(&self) -> usize {
        self.asked
    }

    /// Asks for `count` more. While the link is away nothing is asked: the client would keep each pull and send them all when
    /// it is back, and more would come than there is room for.
    ///
    /// # Errors
    /// The connection is closed.
    pub async fn ask(&mut self, count: usize) -> Result<(), PublishError> {
        if !self.link.borrow().is_connected {
            return Ok(());
        }
        let request = format!(
            r#"{{"batch":{count},"expires":{},"idle_heartbeat":{}}}"#,
            self.expires.as_nanos(),
            HEARTBEAT.min(self.expires / 2).as_nanos()
        );
        let (inbox, next) = (self.inbox.clone(), self.next.clone());
        self.bus.send(next, Some(inbox), Vec::new(), request.into()).await?;
        if self.asked == 0 {
            self.heard = Instant::now();
        }
        self.asked += count;
        Ok(())
    }

    /// Waits for the next delivery, or for a reason to ask again. Cancel-safe.
    pub async fn next(&mut self) -> Pulled {
        loop {
            let silent = tokio::time::sleep_until(self.heard + 3 * HEARTBEAT);
            tokio::select! {
                biased;
                message = self.subscription.next() => {
                    (self.heard, self.came) = (Instant::now(), self.came + 1);
                    let Some(message) = message else { return Pulled::Away("the connection is closed") };
                    if let Some(pulled) = self.received(message.into()) {
                        return pulled;
                    }
                }
                changed = self.link.changed() => {
                    let state = *self.link.borrow_and_update();
                    // It may have been lost and made anew between two looks.
                    if changed.is_err() || !state.is_connected || state.generation != self.generation {
                        // The broker forgets the pulls of a connection that ended.
                        self.asked = 0;
                        self.generation = state.generation;
                        return Pulled::Away("the connection was lost");
                    }
                }
                () = silent, if self.asked > 0 => {
                    self.asked = 0;
                    self.heard = Instant::now();
                    return Pulled::Away("the broker is silent");
                }
            }
        }
    }

    /// Takes no more, and gives what had come already, so that it can be handed back.
    ///
    /// The client forgets a subscription as it writes UNSUB, or in its next turn; what comes later would be lost to it, and be
    /// delivered again when its lease is over. So what was asked for is let come first, until nothing came in two round trips, and
    /// then the subscription ends after a number of messages that both sides count alike: what is still missing of it are words
    /// to ourselves. In a cluster a delivery may still be on its way from another server, and anywhere one that the broker sends
    /// in the very moment in which the subscription ends there.
    pub async fn close(mut self) -> Vec<Unopened> {
        let (mut left, mut in_vain) = (Vec::new(), 0);
        while self.asked > 0 && in_vain < 2 && self.bus.round_trip(CLOSING).await.is_ok() {
            let before = left.len();
            while let Some(Some(message)) = self.subscription.next().now_or_never() {
                self.came += 1;
                self.keep(message.into(), &mut left);
            }
            in_vain = if left.len() == before { in_vain + 1 } else { 0 };
        }
        // Best effort: where the link is away, what was asked for is forgotten there.
        let _ = within(CLOSING, self.end()).await;
        let over = Instant::now() + CLOSING;
        // Where the link is away, nothing comes, and no end either.
        while let Ok(Some(message)) = timeout_at(over, self.subscription.next()).await {
            self.keep(message.into(), &mut left);
        }
        left
    }

    /// Ends the subscription, and what waits at the broker for something to deliver over it.
    async fn end(&mut self) -> Result<(), PublishError> {
        let closed = |_| PublishError::Disconnected;
        if self.asked == 0 {
            return self.subscription.drain().await.map_err(closed);
        }
        self.subscription.unsubscribe_after(self.came + LAST_WORDS).await.map_err(closed)?;
        for _ in 0..LAST_WORDS {
            self.bus.send(self.inbox.clone(), None, Vec::new(), Bytes::new()).await?;
        }
        Ok(())
    }

    fn keep(&mut self, received: Received, left: &mut Vec<Unopened>) {
        // Our own last words want no ack.
        if let Some(Pulled::Delivery(delivery)) = self.received(received)
            && delivery.reply().is_some()
        {
            left.push(delivery);
        }
    }

    /// `None`: nothing that the caller needs to know.
    fn received(&mut self, received: Received) -> Option<Pulled> {
        let description = received.description.clone().unwrap_or_default();
        match received.status {
            None => {
                self.asked = self.asked.saturating_sub(1);
                Some(Pulled::Delivery(Unopened::new(received.into_raw())))
            }
            Some(100) => None,
            Some(404 | 408) => {
                let left = received.header("Nats-Pending-Messages").and_then(|n| n.parse().ok());
                self.asked = self.asked.saturating_sub(left.unwrap_or(self.asked));
                Some(Pulled::Idle)
            }
            Some(409) if description.contains("Consumer Deleted") => Some(Pulled::Gone),
            Some(409) if description.contains("Leadership") || description.contains("Shutdown") => {
                self.asked = 0;
                Some(Pulled::Away("the broker changes its leader"))
            }
            Some(503) => {
                self.asked = 0;
                Some(Pulled::Away("JetStream does not answer"))
            }
            Some(status) => {
                tracing::warn!(status, description, consumer = self.next, "the pull was refused");
                self.asked = 0;
                Some(Pulled::Away("the pull was refused"))
            }
        }
    }
}
