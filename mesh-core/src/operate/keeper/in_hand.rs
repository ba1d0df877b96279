//! Whether somebody has an event in hand still that left its stream.
//!
//! The broker ends its part of the delivery at once, and whoever has the event hears nothing of that. As long as it is in hand, in a
//! handler, in front of one or waiting for the bus to take what follows from it, its worker says so after each third of the ack wait;
//! and when it is done with it, that it is settled. It says both to the broker, as plain messages, and the keeper listens. So no
//! limit of a handler need be known, and what is done in the end is not taken for lost.
//!
//! What was said before somebody listened is not heard: a keeper that takes over listens for an ack wait at least.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::{
    bus::{Bus, Subscription},
    fault::{Code, Effect, Fault, Reason},
    gate::Unopened,
    policy::reconcile::{Notice, Sign, is_deletion_of_an_event, rest_left, sign},
};

/// While the link was away nothing was heard: it is listened again for so long at least.
const LISTENS_AGAIN: Duration = Duration::from_secs(1);

/// How an event that left its stream left its worker's hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hand {
    /// Its worker settled it: handled, or handed over to a copy or a letter.
    Settled,
    /// Nobody said anything for as long as the broker waits for a sign of life, and the word has rested.
    Silent,
}

/// Waits until nobody has it in hand any more, and for `rest` after the broker's word at least. Every other word is not waited for.
///
/// # Errors
/// The bus did not answer. To be asked anew: the rest goes by the word's own time.
pub(super) async fn left(bus: &Bus, notice: &Notice, rest: Duration) -> Result<Hand, Fault> {
    if !is_deletion_of_an_event(notice) {
        return Ok(Hand::Silent);
    }
    let mut signs = Signs::of(bus, notice).await?;
    let hand = signs.last(bus, notice, rest).await;
    signs.close().await;
    hand
}

/// What a worker says to the broker of one delivery: under the one form of its subject or the other.
struct Signs([Subscription; 2]);

impl Signs {
    async fn of(bus: &Bus, notice: &Notice) -> Result<Signs, Fault> {
        let Notice { stream, durable, sequence, .. } = notice;
        let of_it = format!("{stream}.{durable}.*.{sequence}.>");
        let plain = bus.subscribe(&format!("$JS.ACK.{of_it}"), None).await?;
        Ok(Signs([plain, bus.subscribe(&format!("$JS.ACK.*.*.{of_it}"), None).await?]))
    }

    async fn last(&mut self, bus: &Bus, notice: &Notice, rest: Duration) -> Result<Hand, Fault> {
        // Nobody works for a consumer that is no more.
        let consumer = bus.under_way(&notice.stream, &notice.durable).await?;
        let silence = consumer.map_or(Duration::ZERO, |consumer| consumer.ack_wait);
        let left = rest_left(notice, bus.gate().clock().now_ms(), rest);
        let mut generation = bus.link_state().generation;
        let mut until = Instant::now() + left.max(silence);
        loop {
            tokio::select! {
                biased;
                said = self.next() => match said.map(|said| sign(&said.open().envelope.payload)) {
                    Some(Sign::Settled) => return Ok(Hand::Settled),
                    Some(Sign::AtWork) => until = until.max(Instant::now() + silence),
                    Some(Sign::GivenBack) => {}
                    None => return Err(unheard(notice)),
                },
                () = sleep_until(until) => {
                    let link = bus.link_state();
                    if link.is_connected && link.generation == generation {
                        return Ok(Hand::Silent);
                    }
                    generation = link.generation;
                    until = Instant::now() + silence.max(LISTENS_AGAIN);
                }
            }
        }
    }

    async fn next(&mut self) -> Option<Unopened> {
        let [plain, other] = &mut self.0;
        tokio::select! {
            said = plain.next() => said,
            said = other.next() => said,
        }
    }

    async fn close(&mut self) {
        for one in &mut self.0 {
            one.close().await;
        }
    }
}

fn unheard(notice: &Notice) -> Fault {
    let Notice { stream, durable, sequence, .. } = notice;
    let message = format!(
        "it can't be heard whether {durable} is at work on message {sequence} of {stream}: the connection is closed"
    );
    Fault::new(Code::Unavailable, Effect::None, Reason::BusUnavailable, message)
}
