//! Core subscriptions: calls to answer, and what a person wants to watch.

use futures_util::StreamExt as _;

use super::{Bus, SENDING, within};
use crate::{
    fault::{Code, Effect, Fault, Reason},
    gate::Unopened,
};

/// Messages of a core subject, as they come. What nobody reads in time is dropped by the client and counted.
pub struct Subscription(async_nats::Subscriber);

impl Bus {
    /// Subscribes; with a `queue`, each message goes to one of the subscribers with the same queue.
    ///
    /// # Errors
    /// The connection is closed. That the broker denies the subject is not known here: it says so later, apart.
    pub async fn subscribe(&self, subject: &str, queue: Option<&str>) -> Result<Subscription, Fault> {
        let client = &self.0.client;
        let subscribed = match queue {
            Some(queue) => within(SENDING, client.queue_subscribe(subject.to_owned(), queue.to_owned())).await,
            None => within(SENDING, client.subscribe(subject.to_owned())).await,
        };
        subscribed.map(Subscription).map_err(|error| {
            Fault::new(
                Code::Unavailable,
                Effect::None,
                Reason::BusUnavailable,
                format!("no subscription to {subject:?}"),
            )
            .with_detail(error.to_string())
        })
    }
}

impl Subscription {
    /// The next message; `None` when the connection is closed. Cancel-safe.
    pub async fn next(&mut self) -> Option<Unopened> {
        let message = self.0.next().await?;
        Some(Unopened::new(super::convert::Received::from(message).into_raw()))
    }

    /// Takes no more messages; those that came already can still be read.
    pub async fn close(&mut self) {
        // The connection is gone: then nothing comes any more either.
        let _ = self.0.unsubscribe().await;
    }
}
