//! The duty that no delivery is lost without a letter: the broker's advisories, and a look at the consumers where it is silent.

use std::{collections::HashMap, time::Duration};

use tokio::time::{Instant, MissedTickBehavior};

use super::{KeeperSettings, advisory, position::Position, rescue::Rescue, until_done};
use crate::{
    bus::{Bus, Probed, PublishError},
    envelope::Envelope,
    fault::Fault,
    policy::reconcile::{ConsumerView, Notice, Word, given_up_below, is_queue, needs_asking},
    subject::{ADVISORY_STREAM, WIRE},
    telemetry::metrics::Metrics,
};

/// How often a consumer is asked in one sweep: each question may turn up one more delivery that was given up.
const QUESTIONS: usize = 16;
/// Messages of one consumer that one sweep looks at.
const LOOKED_AT: usize = 256;

/// Reconciles until it is dropped.
pub(super) async fn run(bus: &Bus, metrics: &Metrics, settings: &KeeperSettings) {
    let rescue = Rescue { bus, metrics };
    let mut position = until_done("its place among the advisories", || Position::load(bus, "advisory")).await;
    let mut advisories = bus.follow(ADVISORY_STREAM, position.sequence() + 1);
    let mut sweeps = tokio::time::interval(settings.sweep_every);
    sweeps.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut sweep = Sweep { bus, rescue, confirm_after: settings.confirm_after, seen: HashMap::new() };
    loop {
        tokio::select! {
            advisory = advisories.next() => {
                let envelope = advisory.open().envelope;
                heed(&rescue, &envelope).await;
                let sequence = envelope.delivery.map_or(0, |delivery| delivery.sequence);
                // What is not written is read again: every step finds what it did before.
                if let Err(fault) = position.advance(bus, sequence).await {
                    tracing::warn!(%fault, "how far the advisories are read was not written");
                }
            }
            _ = sweeps.tick() => {
                if let Err(fault) = sweep.once().await {
                    tracing::warn!(%fault, "the consumers could not be looked at; they are looked at again soon");
                }
            }
        }
    }
}

async fn heed(rescue: &Rescue<'_>, envelope: &Envelope) {
    if let Some(notice) = advisory::read(envelope) {
        until_done("a letter of the keeper's", || rescue.reconcile(&notice)).await;
    }
}

/// The look at all consumers.
struct Sweep<'a> {
    bus: &'a Bus,
    rescue: Rescue<'a>,
    confirm_after: Duration,
    /// Messages that seem to be given up without the broker's word, and since when: stream, consumer, sequence.
    seen: HashMap<(String, String, u64), Instant>,
}

impl Sweep<'_> {
    async fn once(&mut self) -> Result<(), Fault> {
        let mut still = HashMap::new();
        for stream in self.bus.stream_names(&format!("{WIRE}-")).await? {
            for view in self.bus.consumer_views(&stream).await? {
                if needs_asking(&view) {
                    self.ask(&view).await?;
                }
                if let Some(below) = given_up_below(&view) {
                    self.look(&view, below, &mut still).await?;
                }
            }
        }
        self.seen = still;
        Ok(())
    }

    /// Has the broker say what it gave up: its word comes among the advisories.
    async fn ask(&self, view: &ConsumerView) -> Result<(), Fault> {
        for _ in 0..view.in_flight.min(QUESTIONS) {
            match self.bus.probe(&view.stream, &view.durable).await {
                Ok(Probed::Something) => {}
                // The consumer may have been deleted since it was listed.
                Ok(Probed::Nothing) | Err(PublishError::NobodyListens) => break,
                Err(error) => return Err(error.into_fault("the question to a consumer")),
            }
        }
        Ok(())
    }

    /// What lies in a queue though it was given up: the broker's word on it was lost.
    async fn look(
        &self,
        view: &ConsumerView,
        below: u64,
        still: &mut HashMap<(String, String, u64), Instant>,
    ) -> Result<(), Fault> {
        debug_assert!(is_queue(&view.stream));
        for filter in &view.filters {
            let mut from = 1;
            for _ in 0..LOOKED_AT {
                let found = self.bus.next_on(&view.stream, filter, from.max(1)).await?;
                let delivery = found.and_then(|message| message.open().envelope.delivery);
                let Some(sequence) = delivery.map(|d| d.sequence).filter(|sequence| *sequence <= below) else { break };
                from = sequence + 1;
                let key = (view.stream.clone(), view.durable.clone(), sequence);
                let since = self.seen.get(&key).copied().unwrap_or_else(Instant::now);
                if since.elapsed() < self.confirm_after {
                    still.insert(key, since);
                    continue;
                }
                let notice = Notice {
                    stream: view.stream.clone(),
                    durable: view.durable.clone(),
                    sequence,
                    deliveries: view.max_deliver,
                    at_ms: 0,
                    word: Word::GivenUp,
                };
                self.rescue.reconcile(&notice).await?;
            }
        }
        Ok(())
    }
}
