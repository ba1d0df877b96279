//! From the broker to the attempts: asks for as many as there are places, and never for more.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use tokio::sync::Notify;

use super::worker::Worker;
use crate::{
    bus::{Pull, Pulled},
    gate::Unopened,
};

/// How long to wait before asking a broker again that was away.
const AWAY: Duration = Duration::from_millis(250);

/// Deliveries of one feed that are here, and a bell that rings when one is settled.
#[derive(Default)]
pub(super) struct Hand {
    count: AtomicUsize,
    settled: Notify,
}

/// One delivery that is here, until it is dropped.
pub(super) struct InHand(Arc<Hand>);

impl Drop for InHand {
    fn drop(&mut self) {
        self.0.count.fetch_sub(1, Ordering::AcqRel);
        self.0.settled.notify_one();
    }
}

impl Hand {
    fn take(self: &Arc<Self>) -> InHand {
        self.count.fetch_add(1, Ordering::AcqRel);
        InHand(Arc::clone(self))
    }

    fn count(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }
}

/// How many to ask for, of a target of so many here. Few large pulls are better than many small ones; but where many stay in hand
/// for long (a target that hangs), what comes in one burst must find enough that is asked for.
fn wanted(target: usize, asked: usize, in_hand: usize) -> usize {
    let room = target.saturating_sub(asked + in_hand);
    let is_low = asked < target / 4 && room >= (target / 4).max(1);
    if room >= target.div_ceil(2) || is_low { room } else { 0 }
}

impl Worker {
    /// Feeds deliveries into attempts until the scope stops.
    pub(super) async fn feed(self: Arc<Self>, mut pull: Pull) {
        let hand = Arc::new(Hand::default());
        let target = self.settings.concurrency.max(1) + self.settings.prefetch;
        let mut pause = None;
        loop {
            if self.scope.is_stopping() {
                break;
            }
            let closed = self.settings.admission.closed_for().or(pause.take());
            if closed.is_none() {
                self.ask(&mut pull, &hand, target).await;
            }
            tokio::select! {
                biased;
                () = self.scope.stopped() => break,
                pulled = pull.next() => match pulled {
                    Pulled::Delivery(delivery) => self.begin(delivery, &hand),
                    Pulled::Idle => {}
                    Pulled::Away(why) => {
                        tracing::info!(consumer = %self.lane.durable(), why, "asking the broker again soon");
                        pause = Some(AWAY);
                    }
                    Pulled::Gone => {
                        tracing::error!(consumer = %self.lane.durable(), "the consumer was deleted; apply the mesh file (mesh apply)");
                        pause = Some(Duration::from_secs(5));
                    }
                },
                () = hand.settled.notified(), if closed.is_none() => {}
                () = tokio::time::sleep(closed.unwrap_or_default()), if closed.is_some() => {}
            }
        }
        self.hand_back(pull).await;
    }

    async fn ask(&self, pull: &mut Pull, hand: &Arc<Hand>, target: usize) {
        let count = wanted(target, pull.asked(), hand.count());
        if count == 0 {
            return;
        }
        if let Err(error) = pull.ask(count).await {
            tracing::warn!(%error, consumer = %self.lane.durable(), "the pull was not sent");
        }
    }

    fn begin(self: &Arc<Self>, delivery: Unopened, hand: &Arc<Hand>) {
        let Some(reply) = delivery.reply().map(Arc::<str>::from) else {
            tracing::warn!("a delivery that wants no ack: left alone");
            return;
        };
        let lease = self.leases.hold(Arc::clone(&reply));
        self.scope.spawn(Arc::clone(self).attempt(delivery, reply, lease, hand.take()));
    }

    /// What came after the stop goes back to the broker at once.
    async fn hand_back(&self, pull: Pull) {
        let left = pull.close().await.into_iter().filter_map(|delivery| {
            let reply = delivery.reply()?.to_owned();
            Some(async move { self.hand_over_back(&delivery.open().envelope, (&reply, None), false).await })
        });
        join_all(left).await;
    }
}

#[cfg(test)]
mod tests {
    use super::wanted;

    #[test]
    fn pulls_are_large_and_what_stays_in_hand_leaves_enough_that_is_asked_for() {
        assert_eq!(wanted(128, 0, 0), 128);
        assert_eq!(wanted(128, 65, 0), 0);
        assert_eq!(wanted(128, 64, 0), 64);
        assert_eq!(wanted(128, 0, 97), 0);
        assert_eq!(wanted(128, 0, 96), 32);
        // 51 hang.
        assert_eq!(wanted(128, 32, 51), 0);
        assert_eq!(wanted(128, 31, 51), 46);
        assert_eq!((wanted(1, 0, 0), wanted(1, 1, 0), wanted(1, 0, 1), wanted(2, 0, 1)), (1, 0, 0, 1));
        for (asked, in_hand) in [(0, 128), (128, 0), (70, 128)] {
            assert_eq!(wanted(128, asked, in_hand), 0);
        }
    }
}
