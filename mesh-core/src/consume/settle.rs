//! Settling by hand-over: the successor is confirmed first, then the delivery is acknowledged.
//!
//! A crash between the two leaves the delivery unacknowledged; the successor is then found to be there already. When the
//! broker does not take the successor (full, away), the work waits here, with its lease kept alive, and says so.

use std::{future::Future, sync::atomic::Ordering};

use mesh_proto::v1;
use prost::Message as _;
use tokio::time::Instant;

use super::{attempt::Ended, handed_back::Superseded, lease::Lease, targets::Shelf, worker::Worker};
use crate::{
    bus::Ack,
    clock::patient_delays,
    dead_letter, delayed,
    envelope::{Envelope, TargetWait},
    fault::{ASIDE_POINT, Effect, Fault, crash_point},
    subject::OUTCOME_STREAM,
    telemetry::metrics::How,
};

/// One delivery that waits for the broker, until it is dropped.
struct Waits<'w>(&'w Worker);

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::AcqRel);
        self.0.metrics.waits(-1);
    }
}

/// The delivery was given up by a drain: it is not settled.
pub(super) struct GivenUp;

impl Worker {
    /// Hands over and acknowledges; `false`: the time to drain is over, it was handed back.
    pub(super) async fn settle(
        &self,
        envelope: &Envelope,
        (reply, lease): (&str, Option<&Lease>),
        ended: (Ended, v1::Attempts),
        started: Instant,
    ) -> bool {
        self.settle_saying(envelope, (reply, lease), ended, (started, || ())).await
    }

    /// The same; `acks` is called before the ack is sent, and only then.
    pub(super) async fn settle_saying(
        &self,
        envelope: &Envelope,
        (reply, lease): (&str, Option<&Lease>),
        (ended, attempts): (Ended, v1::Attempts),
        (started, acks): (Instant, impl FnOnce() + Send),
    ) -> bool {
        let may_have_begun = match &ended {
            Ended::HandedBack | Ended::PutAside { .. } | Ended::SentAgain { .. } => false,
            Ended::DeadLetter(fault) => fault.effect() != Effect::None,
            _ => true,
        };
        let mut called_by = None;
        // What is rare stands on the heap: an attempt's future stays small.
        let (how, handed_over) = match ended {
            Ended::HandedBack | Ended::CutOff => (How::Release, Err(GivenUp)),
            Ended::Overtaken => (How::Accept, Ok(())),
            Ended::SentAgain { first } => (How::Accept, Box::pin(self.sent_again(envelope, first)).await),
            // Whoever has it now settles it.
            Ended::TakenOver => return false,
            Ended::Done(_) if !self.has_successor(envelope) => (How::Accept, Ok(())),
            Ended::Done(bytes) => (How::Accept, Box::pin(self.done(envelope, v1::outcome::End::Reply(bytes))).await),
            Ended::Refused(fault) => {
                (How::Accept, Box::pin(self.done(envelope, v1::outcome::End::Refused((&fault).into()))).await)
            }
            Ended::Again { due_ms, attempt } => {
                (How::Delay, Box::pin(self.again(envelope, (attempt, due_ms), &attempts)).await)
            }
            Ended::PutAside { due_ms, turn, shelf, waits } => {
                let aside = (due_ms, turn.as_str(), shelf.as_ref());
                let stored = Box::pin(self.put_aside(envelope, aside, (&attempts, waits))).await;
                called_by = shelf.zip(stored.as_ref().ok().copied()).map(|(shelf, back_ms)| (shelf.target, back_ms));
                (How::Delay, stored.map(drop))
            }
            Ended::DeadLetter(fault) => (How::DeadLetter, Box::pin(self.dead_letter(envelope, &fault, attempts)).await),
        };
        let is_settled = handed_over.is_ok();
        let settled = match handed_over {
            Ok(()) => {
                acks();
                self.bus.ack(reply, Ack::Accept).await
            }
            Err(GivenUp) => {
                Box::pin(self.hand_over_back(envelope, (reply, lease), may_have_begun)).await;
                Ok(())
            }
        };
        crash_point("settle.acked");
        match (settled, self.isolation.as_ref().zip(called_by)) {
            // Not before the ack is sent: what is called back may be done at once.
            (Ok(()), Some((targets, (target, due_ms)))) => {
                targets.shelve(&target, delayed::unique(envelope), due_ms);
            }
            (Ok(()), None) => {}
            (Err(error), _) => {
                // It will be delivered again; its successor is there and found.
                tracing::warn!(%error, message_id = envelope.message_id, "the ack was not sent");
            }
        }
        self.metrics.settled(how, started.elapsed());
        is_settled
    }

    /// Hands a delivery back and remembers that, so that nobody suspects it of having ended this process. `begun`: its handler
    /// may have been started. What somebody else may have by now is left alone: the broker would take it from them and give it
    /// to a third.
    pub(super) async fn hand_over_back(
        &self,
        envelope: &Envelope,
        (reply, lease): (&str, Option<&Lease>),
        begun: bool,
    ) {
        let is_anothers = self.remember_handed_back(envelope, begun).await == Some(Superseded);
        if is_anothers || lease.is_some_and(|lease| lease.has_lapsed(self.settings.ack_wait)) {
            tracing::info!(message_id = envelope.message_id, "not handed back: its lease ran out, others may have it");
            return;
        }
        self.release(reply).await;
    }

    /// Hands a delivery back: it is delivered again at once, to whoever asks, with the same attempt.
    pub(super) async fn release(&self, reply: &str) {
        if let Err(error) = self.bus.ack(reply, Ack::Release).await {
            tracing::debug!(%error, "a delivery was not handed back; its lease will run out");
        }
    }

    /// Whether something is to be said when it is done: the outcome of an operation, the end of a letter.
    fn has_successor(&self, envelope: &Envelope) -> bool {
        envelope.note.lane.is_some() || self.work.operation(envelope).is_some()
    }

    async fn done(&self, envelope: &Envelope, end: v1::outcome::End) -> Result<(), GivenUp> {
        let letter = envelope.note.lane.as_ref().and_then(|lane| lane.letter.as_ref());
        let suffix = letter.map(|letter| format!("/{}", letter.generation)).unwrap_or_default();
        self.announce(envelope, end, &suffix).await?;
        crash_point("settle.outcome");
        let Some(letter) = letter else { return Ok(()) };
        self.until_confirmed("the end of a letter", || dead_letter::resolve(&self.bus, &self.lane, letter)).await?;
        crash_point("settle.resolved");
        Ok(())
    }

    /// Of queued work that is dropped because its id was sent before, it is said that it was: it has no other trace.
    async fn sent_again(&self, envelope: &Envelope, first: u64) -> Result<(), GivenUp> {
        let end = v1::outcome::End::SentAgain(v1::SentAgain { first });
        let sequence = envelope.source().map_or(0, |(_, sequence)| sequence);
        self.announce(envelope, end, &format!("/again/{sequence}")).await
    }

    /// The outcome of queued work, for whoever enqueued it. An event has none. `suffix` tells the outcomes of one message apart.
    async fn announce(&self, envelope: &Envelope, end: v1::outcome::End, suffix: &str) -> Result<(), GivenUp> {
        let Some(operation) = self.work.operation(envelope) else { return Ok(()) };
        let outcome = v1::Outcome {
            message_id: envelope.message_id.clone(),
            operation: format!("{}/{}", operation.0, operation.1),
            served_by: self.lane.service.to_string(),
            at_ms: self.bus.gate().clock().now_ms(),
            end: Some(end),
            source: Some(dead_letter::source(envelope)),
        };
        let id = format!("{}{suffix}", envelope.message_id);
        let sealed = self.bus.gate().seal_outcome(operation, &envelope.caller, &id, outcome.encode_to_vec().into());
        self.until_confirmed("an outcome", || self.bus.publish(OUTCOME_STREAM, sealed.clone())).await.map(drop)
    }

    /// `next`: the number of the next attempt, and when it is due.
    async fn again(&self, envelope: &Envelope, next: (u32, i64), attempts: &v1::Attempts) -> Result<(), GivenUp> {
        let put_aside = || delayed::delay(&self.bus, &self.lane, envelope, next, attempts);
        self.until_confirmed("a delayed copy", put_aside).await?;
        crash_point("settle.delayed");
        Ok(())
    }

    /// When it comes back.
    async fn put_aside(
        &self,
        envelope: &Envelope,
        (due_ms, turn, shelf): (i64, &str, Option<&Shelf>),
        (attempts, waits): (&v1::Attempts, Option<TargetWait>),
    ) -> Result<i64, GivenUp> {
        let put_aside = || async {
            let (due_ms, holder) = self.held_until(due_ms, shelf);
            let aside = (due_ms, turn, holder);
            let waits = waits.map(|waits| TargetWait { until_ms: waits.until_ms.min(due_ms), ..waits });
            // Where a copy of it waits already, that may be one of this process whose confirmation was lost.
            delayed::put_aside(&self.bus, &self.lane, envelope, aside, (attempts, waits)).await.map(|_| due_ms)
        };
        let back_ms = self.until_confirmed("a copy of what is put aside", put_aside).await?;
        crash_point(ASIDE_POINT);
        Ok(back_ms)
    }

    /// Until when a copy waits to be called, and in whose name. Others may have ceased to know that name since it was decided.
    fn held_until<'s>(&self, due_ms: i64, shelf: Option<&'s Shelf>) -> (i64, Option<&'s str>) {
        let Some((targets, name)) = self.isolation.as_ref().zip(shelf.and_then(|shelf| shelf.holder.as_deref())) else {
            return (due_ms, None);
        };
        if targets.holder().as_deref() == Some(name) {
            return (due_ms, Some(name));
        }
        let wait_ms = i64::try_from(targets.rule().aside_unknown.as_millis()).unwrap_or(i64::MAX);
        (due_ms.min(self.bus.gate().clock().now_ms().saturating_add(wait_ms)), None)
    }

    async fn dead_letter(&self, envelope: &Envelope, fault: &Fault, attempts: v1::Attempts) -> Result<(), GivenUp> {
        let fault = &self.of_all_attempts(envelope, fault, &attempts);
        let capture = || dead_letter::capture(&self.bus, &self.lane, envelope, fault, attempts.clone());
        let captured = self.until_confirmed("a dead letter", capture).await?;
        crash_point("settle.captured");
        self.metrics.dead_letter(fault.reason());
        tracing::warn!(
            letter = captured.letter_id,
            message_id = envelope.message_id,
            consumer = %self.lane.consumer,
            %fault,
            "captured as a dead letter"
        );
        let end = v1::DeadLettered { letter_id: captured.letter_id, fault: Some(fault.into()) };
        let end = v1::outcome::End::DeadLettered(end);
        // Beside the outcome of a later replay: an id of its own.
        self.announce(envelope, end, &format!("/letter/{}", captured.generation)).await?;
        crash_point("settle.letter-outcome");
        Ok(())
    }

    /// Counts a delivery as one that waits, until the answer is dropped, and tells when every place of the consumer waits.
    fn waits(&self, what: &str) -> Waits<'_> {
        let places = self.settings.concurrency.max(1);
        if self.waiting.fetch_add(1, Ordering::AcqRel) + 1 == places {
            tracing::error!(
                consumer = %self.lane.durable(),
                places,
                what,
                "every place of this consumer waits for the bus: it handles nothing until the bus takes what is said above; nothing is lost, and it goes on by itself"
            );
        }
        self.metrics.waits(1);
        Waits(self)
    }

    /// Tries until the broker confirms it, or until the time to drain is over.
    pub(super) async fn until_confirmed<T, E, F, Fut>(&self, what: &str, publish: F) -> Result<T, GivenUp>
    where
        E: std::fmt::Display,
        F: Fn() -> Fut,
        Fut: Future<Output = Result<T, E>>,
    {
        let mut delays = patient_delays();
        let mut waiting = None;
        loop {
            let error = tokio::select! {
                biased;
                confirmed = publish() => match confirmed {
                    Ok(confirmed) => return Ok(confirmed),
                    Err(error) => error,
                },
                () = self.abort.stopped() => return Err(GivenUp),
            };
            tracing::warn!(%error, what, consumer = %self.lane.consumer, "the bus does not take it: the work waits");
            waiting.get_or_insert_with(|| self.waits(what));
            tokio::select! {
                () = tokio::time::sleep(delays.next().unwrap_or_default()) => {}
                () = self.abort.stopped() => return Err(GivenUp),
            }
        }
    }
}
