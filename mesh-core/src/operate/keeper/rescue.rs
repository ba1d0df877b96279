//! One delivery that nobody settled: its letter, its outcome, and only then its settlement.
//!
//! Each step finds what was done before: the letter has the id that the consumer's own capture gives it and is written only
//! where there is none, the outcome has its message id, and what is settled already is settled.

use std::time::Duration;

use bytes::Bytes;
use mesh_proto::v1::{self, letter_record::Record};
use prost::Message as _;

use super::{
    beside::Beside,
    deletions::Deletions,
    in_hand::{self, Hand},
    outcomes,
};
use crate::{
    bus::{Bus, PublishError},
    dead_letter::{self, Captured},
    delayed::{Lane, attempts_of},
    envelope::{Delivery, Envelope, Note},
    fault::{Code, Effect, Fault, Origin, Reason, crash_point},
    operate::until_done::until_done,
    policy::reconcile::{Notice, Verdict, Word, consumer_of, decide, is_queue},
    subject::{self, DEAD_LETTER_STREAM, OUTCOME_STREAM, Place},
    telemetry::metrics::Metrics,
};

/// What the letter says, once it is captured.
#[derive(Debug, PartialEq)]
enum Stands {
    /// What the keeper wrote.
    Ours,
    /// The capture of somebody else who was first, which nobody did anything to yet.
    Anothers(Fault),
    /// Its history is longer: a person or the consumer did something to it since. Nothing of this delivery is news.
    Ended,
}

/// How long the acknowledgement of a queue's message may take until it is gone, before it is deleted: looked at after each.
const TO_THE_STREAM_MS: [u64; 7] = [10, 20, 40, 80, 160, 320, 400];

#[derive(Clone, Copy)]
pub(super) struct Rescue<'a> {
    pub(super) bus: &'a Bus,
    pub(super) metrics: &'a Metrics,
    pub(super) deletions: &'a Deletions,
    pub(super) beside: &'a Beside,
    /// How long a word that an event left its stream rests.
    pub(super) left_rest: Duration,
}

impl Rescue<'_> {
    /// Waits until the notice may be worked off. Settled: nothing is left to be done.
    pub(super) async fn rested(&self, notice: &Notice) -> Hand {
        let hand = until_done("what a worker has in hand", || in_hand::left(self.bus, notice, self.left_rest)).await;
        if hand == Hand::Settled {
            let Notice { stream, durable, sequence, .. } = notice;
            tracing::debug!(stream, sequence, consumer = durable, "it left its stream in hand, and was settled");
        }
        hand
    }

    /// Does what the notice asks for. To be done again until it is done.
    ///
    /// # Errors
    /// The bus did not answer or did not confirm it.
    pub(super) async fn reconcile(&self, notice: &Notice) -> Result<(), Fault> {
        let Some(lane) = self.lane(&notice.durable) else { return Ok(()) };
        // First of all: it costs little, and there may be very many.
        if self.deletions.count(notice, self.metrics) {
            return Ok(());
        }
        let found = self.bus.message_at(&notice.stream, notice.sequence).await?;
        let found = found.map(|message| message.open().envelope);
        let stored_at_ms = found.as_ref().and_then(|envelope| envelope.delivery.as_ref()).map(|d| d.stored_at_ms);
        match (decide(notice, stored_at_ms), found) {
            (Verdict::NotOurs | Verdict::Settled, _) => Ok(()),
            (Verdict::Capture, Some(envelope)) if self.is_elsewhere(&envelope) => Ok(()),
            (Verdict::Capture, Some(envelope)) => self.rescue(notice, &lane, envelope).await,
            // Its letter may have been written while it was there, or by who had it in hand when it left; or it waits on its lane.
            _ if Box::pin(self.beside.stands(self.bus, &lane, notice)).await? => Ok(()),
            (Verdict::Capture | Verdict::Lost, _) => self.report_loss(notice, &lane).await,
        }
    }

    /// Sees to what lies in a queue though nobody sees to it and the broker said nothing. What was settled, or was announced as
    /// ended, is only taken away: its acknowledgement stands, its deletion was lost.
    ///
    /// # Errors
    /// For one of them at least the bus did not answer or did not confirm it; the others are done.
    pub(super) async fn clear(&self, notices: &[Notice], were_settled: bool) -> Result<(), Fault> {
        let mut found = Vec::new();
        for notice in notices {
            let envelope = self.bus.message_at(&notice.stream, notice.sequence).await?.map(|it| it.open().envelope);
            let is_ours = self.lane(&notice.durable).is_some();
            let envelope = envelope.filter(|envelope| is_ours && !self.is_elsewhere(envelope));
            found.extend(envelope.map(|envelope| (notice, envelope)));
        }
        let works: Vec<_> = found.iter().map(|(_, envelope)| envelope).collect();
        let announced = match were_settled {
            true => vec![true; works.len()],
            false => outcomes::are_announced(self.bus, &works).await?,
        };
        let mut failed = None;
        for ((notice, envelope), has_ended) in found.iter().zip(announced) {
            let done = if has_ended {
                let (stream, sequence) = (notice.stream.as_str(), notice.sequence);
                let message_id = envelope.message_id.as_str();
                tracing::info!(stream, sequence, message_id, "it was settled: what is left of it is taken away");
                self.settle(notice).await
            } else {
                self.reconcile(notice).await
            };
            failed = done.err().or(failed);
        }
        failed.map_or(Ok(()), Err)
    }

    async fn rescue(&self, notice: &Notice, lane: &Lane, mut envelope: Envelope) -> Result<(), Fault> {
        if let Some(delivery) = &mut envelope.delivery {
            delivery.deliveries = notice.deliveries;
        }
        let fault = signed(ended(notice), lane, &envelope);
        let (captured, stands) = self.capture(lane, &envelope, &fault).await?;
        if stands == Stands::Ours {
            tracing::warn!(
                letter = captured.letter_id,
                message_id = envelope.message_id,
                consumer = %lane.durable(),
                %fault,
                "captured as a dead letter by the keeper"
            );
        }
        crash_point("rescue.captured");
        match stands {
            Stands::Ours => self.announce(lane, &envelope, (&captured, &fault)).await?,
            // Whoever wrote it may have ended before it was announced. The same id: announced before, it is stored once.
            Stands::Anothers(fault) => self.announce(lane, &envelope, (&captured, &fault)).await?,
            Stands::Ended => {}
        }
        crash_point("rescue.announced");
        self.settle(notice).await?;
        crash_point("rescue.settled");
        Ok(())
    }

    async fn report_loss(&self, notice: &Notice, lane: &Lane) -> Result<(), Fault> {
        let envelope = of_the_lost(notice);
        let fault = signed(lost(notice), lane, &envelope);
        let (captured, stands) = self.capture(lane, &envelope, &fault).await?;
        if stands == Stands::Ours {
            tracing::error!(
                letter = captured.letter_id,
                stream = notice.stream,
                sequence = notice.sequence,
                consumer = %lane.durable(),
                %fault,
                "DATA LOSS: a message was gone before its consumer settled it"
            );
        }
        Ok(())
    }

    /// Captures it, and reads what stands then: somebody else may have been there before. Only what is ours is counted.
    async fn capture(&self, lane: &Lane, envelope: &Envelope, fault: &Fault) -> Result<(Captured, Stands), Fault> {
        let before_ms = self.bus.gate().clock().now_ms();
        let captured = dead_letter::capture(self.bus, lane, envelope, fault, attempts_of(envelope)).await;
        let captured = captured.map_err(|error| error.into_fault("a letter of the keeper's"))?;
        let subject = subject::dead_letter(&lane.region, &lane.service, &lane.consumer, &captured.letter_id);
        let last = self.bus.last_on(DEAD_LETTER_STREAM, &subject).await?.map(|message| message.open().envelope);
        let record = last.and_then(|envelope| dead_letter::record_of(&envelope));
        let Some(Record::Captured(letter)) = record.filter(|record| generation(record) == captured.generation) else {
            return Ok((captured, Stands::Ended));
        };
        let is_ours = letter.captured_at_ms >= before_ms && letter.fault.as_ref() == Some(&dead_letter::stated(fault));
        if is_ours {
            self.metrics.consumer(lane.consumer.as_str()).dead_letter(fault.reason());
            return Ok((captured, Stands::Ours));
        }
        Ok((captured, Stands::Anothers(letter.fault.unwrap_or_default().into())))
    }

    /// The outcome of queued work, for whoever enqueued it. An event has none.
    async fn announce(&self, lane: &Lane, envelope: &Envelope, about: (&Captured, &Fault)) -> Result<(), Fault> {
        let Some(Place::Work { service, method, .. }) = Place::parse(&envelope.subject) else { return Ok(()) };
        let (captured, fault) = about;
        let end = v1::DeadLettered { letter_id: captured.letter_id.clone(), fault: Some(fault.into()) };
        let outcome = v1::Outcome {
            message_id: envelope.message_id.clone(),
            operation: format!("{service}/{method}"),
            served_by: lane.service.to_string(),
            at_ms: self.bus.gate().clock().now_ms(),
            source: Some(dead_letter::source(envelope)),
            end: Some(v1::outcome::End::DeadLettered(end)),
        };
        let id = format!("{}/letter/{}", envelope.message_id, captured.generation);
        let payload = outcome.encode_to_vec().into();
        let sealed = self.bus.gate().seal_outcome((service, method), &envelope.caller, &id, payload);
        let announced = self.bus.publish(OUTCOME_STREAM, sealed).await;
        announced.map(drop).map_err(|error| error.into_fault("an outcome"))
    }

    /// Settles it in its consumer's place. An acknowledgement below the consumer's floor is not looked at, so what is still
    /// in a queue a while later is deleted. Not sooner: on three servers an acknowledgement takes its time to the stream, and of
    /// what is deleted before it the broker says that it was lost.
    async fn settle(&self, notice: &Notice) -> Result<(), Fault> {
        let Notice { stream, durable, sequence, .. } = notice;
        match self.bus.accept_for(stream, durable, *sequence).await {
            // Without a consumer nothing is pending.
            Ok(()) | Err(PublishError::NobodyListens) => {}
            Err(error) => return Err(error.into_fault("the settlement of a delivery")),
        }
        if !is_queue(stream) {
            return Ok(());
        }
        let waits = if notice.word == Word::Nothing { &[][..] } else { &TO_THE_STREAM_MS };
        for wait_ms in waits {
            if self.bus.message_at(stream, *sequence).await?.is_none() {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(*wait_ms)).await;
        }
        self.bus.delete_message(stream, *sequence).await
    }

    fn lane(&self, durable: &str) -> Option<Lane> {
        let (service, consumer) = consumer_of(durable)?;
        let region = self.bus.gate().identity().region().clone();
        Some(Lane { region, service: service.parse().ok()?, consumer: consumer.parse().ok()? })
    }

    /// Whether another region's keeper has to see to it.
    fn is_elsewhere(&self, envelope: &Envelope) -> bool {
        let here = self.bus.gate().identity().region().as_str();
        match Place::parse(&envelope.subject) {
            Some(Place::Event { region, .. } | Place::Work { region, .. }) => region != here,
            _ => false,
        }
    }
}

fn generation(record: &Record) -> u32 {
    match record {
        Record::Captured(letter) => letter.generation,
        _ => 0,
    }
}

/// Why a delivery that is still there became a letter.
fn ended(notice: &Notice) -> Fault {
    match &notice.word {
        Word::Terminated { reason } => {
            let message = format!("its worker refused it for good: {reason:?}");
            Fault::new(Code::Internal, Effect::Unknown, Reason::HandlerRefused, message)
        }
        Word::GivenUp | Word::Deleted => {
            let times = notice.deliveries;
            let message = format!("the process ended or fell silent while handling it, {times} times");
            Fault::new(Code::Internal, Effect::Unknown, Reason::AttemptsExhausted, message)
                .with_detail("the broker delivered it as often as it may, and nobody settled it; found by the keeper")
        }
        // How often it was delivered, nobody knows; whether it was handled neither.
        Word::Nothing => {
            let message = "it lay in its queue and was under way no more: whether it was handled is not known";
            let detail = "its deliveries were used up and the broker's word on it was lost, or it was acknowledged and a \
                          server lost its deletion; no outcome says that it ended; found by the keeper";
            Fault::new(Code::Unknown, Effect::Unknown, Reason::OutcomeUnknown, message).with_detail(detail)
        }
    }
}

fn lost(notice: &Notice) -> Fault {
    let how = match &notice.word {
        Word::Terminated { reason } => format!("its worker refused it for good ({reason:?}), which deleted it"),
        Word::Deleted => {
            "it left its stream (by its age, a purge or a deletion) while its consumer had it in hand, and no \
                          letter came of it: it may have been handled"
                .to_owned()
        }
        Word::Nothing => "it was deleted before it was settled".to_owned(),
        Word::GivenUp => format!("it was delivered {} times, nobody settled it, and it is gone", notice.deliveries),
    };
    let message = format!("message {} of {} is lost: {how}", notice.sequence, notice.stream);
    Fault::new(Code::DataLoss, Effect::Unknown, Reason::MessageLost, message)
}

fn signed(fault: Fault, lane: &Lane, envelope: &Envelope) -> Fault {
    let operation = match Place::parse(&envelope.subject) {
        Some(Place::Work { service, method, .. }) => format!("{service}/{method}"),
        _ => String::new(),
    };
    fault.with_origin(Origin { operation, ..Origin::default() }).raised_by(lane.service.as_str())
}

/// What is known of a message that is gone: its place.
fn of_the_lost(notice: &Notice) -> Envelope {
    Envelope {
        subject: String::new(),
        message_id: format!("{}:{}", notice.stream, notice.sequence),
        caller: String::new(),
        trace: None,
        note: Note::default(),
        headers: Vec::new(),
        order: None,
        payload: Bytes::new(),
        delivery: Some(Delivery {
            stream: notice.stream.clone(),
            sequence: notice.sequence,
            deliveries: notice.deliveries,
            consumer_sequence: 0,
            stored_at_ms: 0,
        }),
    }
}
