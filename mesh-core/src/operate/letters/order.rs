//! Replay and discard: written into the letter's history by whoever saw its last record.

use std::{borrow::Cow, collections::BTreeSet, time::Duration};

use mesh_proto::v1::{self, letter_record::Record};
use prost::Message as _;
use tokio::sync::Mutex;

use crate::{
    bus::{Bus, PublishError},
    dead_letter::{ActKind, Letter, LetterState, append},
    delayed::Lane,
    envelope::{Envelope, LaneNote, LetterNote, Note, header, is_own},
    fault::{Code, Effect, Fault, Reason, crash_point},
    gate::believed,
    subject::{self, DEAD_LETTER_STREAM, Name},
};

/// Shorter than the broker's dedupe window: within it, the same copy sent again is stored once.
const SAFE_TO_SEND_AGAIN: Duration = Duration::from_secs(100);

/// Who orders something for a letter, and why.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Order {
    /// The operator's name.
    pub by: String,
    /// The reason, for the letter's history.
    pub why: String,
    /// Send a letter that is replaying once more, even where its copy may still wait on the lane.
    pub again: bool,
    /// The job that it belongs to; empty where there is none.
    pub job: String,
}

/// A letter that was sent again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replayed {
    /// Its id.
    pub letter_id: String,
    /// Which replay it is; 1 for the first.
    pub generation: u32,
    /// The sequence of the record that ordered it.
    pub ordered_at: u64,
}

/// Sends a letter to the consumer that failed, and to no other. For many letters: [`Replays`].
///
/// # Errors
/// The letter has ended, or changed since it was read (nothing was done); the consumer does not exist any more (nothing was
/// done); the bus did not confirm it (the same order again is safe).
pub async fn replay(bus: &Bus, letter: &Letter, order: &Order) -> Result<Replayed, Fault> {
    Replays::new(bus, order.clone()).replay(letter).await
}

/// Gives a letter up: it is never sent again.
///
/// # Errors
/// The letter is being replayed, has ended, or changed since it was read; the bus did not confirm it.
pub async fn discard(bus: &Bus, letter: &Letter, order: &Order) -> Result<(), Fault> {
    super::check(letter, ActKind::Discarded)?;
    let lane = lane_of(letter)?;
    let act = act(bus, letter.letter.generation, order);
    write(bus, &lane, letter, Record::Discarded(act)).await.map(drop)
}

/// Replays of many letters under one order. A consumer is looked for once, not once for each of its letters.
#[derive(Debug)]
pub struct Replays {
    bus: Bus,
    order: Order,
    /// Consumers that were found, by their names at the broker.
    found: Mutex<BTreeSet<String>>,
}

impl Replays {
    /// No letter is sent yet.
    #[must_use]
    pub fn new(bus: &Bus, order: Order) -> Replays {
        Replays { bus: bus.clone(), order, found: Mutex::default() }
    }

    /// Sends a letter to the consumer that failed, and to no other.
    ///
    /// # Errors
    /// As of [`replay`].
    pub async fn replay(&self, letter: &Letter) -> Result<Replayed, Fault> {
        let replayed = self.order(letter).await?;
        crash_point("replay.ordered");
        self.send(letter, &replayed).await?;
        crash_point("replay.copied");
        Ok(replayed)
    }

    /// The first step: the order is written into the letter's history, if nobody wrote there since it was read.
    ///
    /// # Errors
    /// As of [`replay`].
    pub async fn order(&self, letter: &Letter) -> Result<Replayed, Fault> {
        if letter.letter.source.as_ref().is_none_or(|source| source.subject.is_empty()) {
            return Err(changed("it holds no message: nothing can be sent again", letter));
        }
        let lane = lane_of(letter)?;
        self.check_region(letter)?;
        self.check_consumer(&lane).await?;
        match letter.state {
            LetterState::Open => self.enter(&lane, letter).await,
            LetterState::Replaying => self.under_way(&lane, letter).await,
            LetterState::Held => Err(changed("it is held: release it first", letter)),
            LetterState::Resolved | LetterState::Discarded => Err(ended(letter)),
        }
    }

    /// The second step: the original's bytes and headers go on the lane of the consumer that failed. The same copy again,
    /// within the broker's dedupe window, is stored once.
    ///
    /// # Errors
    /// The bus did not confirm it: it may be there all the same, and sending it again is safe.
    pub async fn send(&self, letter: &Letter, replayed: &Replayed) -> Result<(), Fault> {
        let lane = lane_of(letter)?;
        let headers = copy_headers(&letter.letter, replayed);
        let original = letter.letter.source.as_ref().map(|source| source.subject.as_str()).unwrap_or_default();
        let due = lane.due_for(original);
        let inline = letter.letter.claim.is_none();
        let payload = if inline { letter.letter.payload.clone() } else { bytes::Bytes::new() };
        let sealed = self.bus.gate().seal_own(due, headers, payload);
        let sent = self.bus.publish(&lane.stream(), sealed).await;
        sent.map(drop).map_err(|error: PublishError| {
            let id = &letter.letter.id;
            let next = format!(
                "the letter says replaying, and the same order again sends the same copy: mesh dead-letter replay {id}"
            );
            error.into_order_fault(&format!("the copy of letter {id}"), &next)
        })
    }

    /// Ends a replay whose copy its lane will never take: the letter has failed again, by this fault, and is open. Whether
    /// that stands; `false`: the fault says that the copy may be on the lane all the same.
    ///
    /// # Errors
    /// The bus did not confirm it: the same again is safe.
    pub(crate) async fn fail(&self, letter: &Letter, replayed: &Replayed, fault: &Fault) -> Result<bool, Fault> {
        if fault.effect() != Effect::None {
            return Ok(false);
        }
        let again = v1::DeadLetter {
            generation: replayed.generation,
            fault: Some(fault.into()),
            attempts: Vec::new(),
            captured_at_ms: self.bus.gate().clock().now_ms(),
            ..letter.letter.clone()
        };
        let record = v1::LetterRecord { record: Some(Record::Captured(again)) };
        match append(&self.bus, &lane_of(letter)?, &replayed.letter_id, replayed.ordered_at, &record).await {
            // Ended before: by a try whose acknowledgement was lost.
            Err(error) if error.is_conflict() => Ok(true),
            Err(error) => Err(error.into_fault(&format!("the end of the replay of letter {}", letter.letter.id))),
            Ok(_) => Ok(true),
        }
    }

    /// A copy for another region lies on a lane that nobody here reads.
    fn check_region(&self, letter: &Letter) -> Result<(), Fault> {
        let here = self.bus.gate().identity().region();
        if letter.region == here.as_str() {
            return Ok(());
        }
        let (id, region) = (&letter.letter.id, &letter.region);
        let message =
            format!("letter {id} is of the region {region}, and this is {here}: replay it there (--region {region})");
        Err(Fault::new(Code::FailedPrecondition, Effect::None, Reason::InvalidInput, message))
    }

    async fn enter(&self, lane: &Lane, letter: &Letter) -> Result<Replayed, Fault> {
        let generation = letter.letter.generation + 1;
        let act = act(&self.bus, generation, &self.order);
        let ordered_at = write(&self.bus, lane, letter, Record::Replaying(act)).await?;
        Ok(Replayed { letter_id: letter.letter.id.clone(), generation, ordered_at })
    }

    /// The replay that somebody ordered and perhaps did not carry out.
    async fn under_way(&self, lane: &Lane, letter: &Letter) -> Result<Replayed, Fault> {
        let ordered = letter.history.last();
        let age_ms = self.bus.gate().clock().now_ms().saturating_sub(ordered.map_or(0, |act| act.at_ms));
        let deduped = u128::try_from(age_ms).is_ok_and(|age_ms| age_ms < SAFE_TO_SEND_AGAIN.as_millis());
        if !deduped && !self.order.again {
            let waiting = self.bus.stream_state(&lane.stream()).await?.is_some_and(|state| state.messages > 0);
            if waiting {
                return Err(changed("its last replay may still wait on its consumer's lane", letter));
            }
        }
        let generation = ordered.map_or(letter.letter.generation + 1, |act| act.generation);
        Ok(Replayed { letter_id: letter.letter.id.clone(), generation, ordered_at: letter.last_sequence })
    }

    async fn check_consumer(&self, lane: &Lane) -> Result<(), Fault> {
        // Held while it is asked for: the others of the same consumer wait for the one answer.
        let mut found = self.found.lock().await;
        let durable = lane.durable();
        if found.contains(&durable) {
            return Ok(());
        }
        // One that keeps the order of keys has a consumer for each partition.
        let mut is_there = false;
        for name in [lane.durable(), lane.partition_durable(0)] {
            is_there = is_there || self.bus.consumer_state(&lane.stream(), &name).await?.is_some();
        }
        if !is_there {
            let message =
                format!("the consumer {}/{} does not exist any more: nobody would get it", lane.service, lane.consumer);
            return Err(Fault::new(Code::NotFound, Effect::None, Reason::ConsumerMissing, message));
        }
        found.insert(durable);
        Ok(())
    }
}

/// Appends a record after the last one that was read; its sequence.
pub(super) async fn write(bus: &Bus, lane: &Lane, letter: &Letter, record: Record) -> Result<u64, Fault> {
    let id = &letter.letter.id;
    let record = v1::LetterRecord { record: Some(record) };
    match append(bus, lane, id, letter.last_sequence, &record).await {
        Ok(sequence) => Ok(sequence),
        Err(error) if error.is_conflict() => ours_after_all(bus, lane, letter, &record).await,
        Err(error) => {
            let next = format!("look first: mesh dead-letter show {id}");
            Err(error.into_order_fault(&format!("the order for letter {id}"), &next))
        }
    }
}

/// A first try whose acknowledgement was lost makes the second one a conflict with ourselves: then the last record is the one
/// that was to be written, to the moment and the name of who ordered it.
async fn ours_after_all(bus: &Bus, lane: &Lane, letter: &Letter, record: &v1::LetterRecord) -> Result<u64, Fault> {
    let subject = subject::dead_letter(&lane.region, &lane.service, &lane.consumer, &letter.letter.id);
    let last = bus.last_on(DEAD_LETTER_STREAM, &subject).await?.map(|message| message.open().envelope);
    let is_ours =
        |envelope: &Envelope| v1::LetterRecord::decode(envelope.payload.clone()).is_ok_and(|it| it == *record);
    let sequence = last.filter(is_ours).and_then(|envelope| envelope.delivery).map(|delivery| delivery.sequence);
    sequence.ok_or_else(|| changed("somebody else was first", letter))
}

fn copy_headers(letter: &v1::DeadLetter, replayed: &Replayed) -> Vec<(Cow<'static, str>, String)> {
    let source = letter.source.clone().unwrap_or_default();
    let original = letter.headers.iter().find(|h| h.name.eq_ignore_ascii_case(header::MESH));
    // What the gate refused is not repeated.
    let original = original.and_then(|h| believed(&h.value, &source)).unwrap_or_default();
    let note = Note {
        // The original's deadline is over or was not the trouble: a person wants it now.
        deadline: None,
        idempotency_key: original.idempotency_key,
        attempt: None,
        lane: Some(LaneNote {
            attempt: 1,
            subject: source.subject,
            message_id: source.message_id,
            source: (source.stream, source.sequence),
            stored_at_ms: source.stored_at_ms,
            letter: Some(LetterNote {
                id: letter.id.clone(),
                generation: replayed.generation,
                ordered_at: replayed.ordered_at,
            }),
            block: None,
            claim: letter.claim.clone(),
            key: letter.claim.as_ref().map(|_| letter.key.clone()).filter(|key| !key.is_empty()),
        }),
    };
    // What lies apart brings its headers along.
    let kept = letter.headers.iter().filter(|h| letter.claim.is_none() && is_own(&h.name));
    let mut headers: Vec<_> = kept.map(|h| (Cow::Owned(h.name.clone()), h.value.clone())).collect();
    let message_id = format!("replay/{}/{}", letter.id, replayed.generation);
    headers.push((Cow::Borrowed(header::MESSAGE_ID), message_id));
    headers.extend(note.encode().map(|note| (Cow::Borrowed(header::MESH), note)));
    headers
}

pub(super) fn act(bus: &Bus, generation: u32, order: &Order) -> v1::LetterAct {
    let at_ms = bus.gate().clock().now_ms();
    v1::LetterAct { generation, at_ms, by: order.by.clone(), why: order.why.clone(), job: order.job.clone() }
}

pub(super) fn lane_of(letter: &Letter) -> Result<Lane, Fault> {
    let name = |text: &str| {
        text.parse::<Name>().map_err(|error| {
            let message = format!("letter {} names no consumer of this mesh: {error}", letter.letter.id);
            Fault::new(Code::DataLoss, Effect::None, Reason::Undecodable, message)
        })
    };
    let (service, consumer) = (name(&letter.letter.service)?, name(&letter.letter.consumer)?);
    Ok(Lane { region: name(&letter.region)?, service, consumer })
}

pub(super) fn ended(letter: &Letter) -> Fault {
    changed(&format!("it is {} already", letter.state.word()), letter)
}

pub(super) fn changed(why: &str, letter: &Letter) -> Fault {
    let message = format!("letter {}: {why}; look again: mesh dead-letter show {}", letter.letter.id, letter.letter.id);
    Fault::new(Code::Aborted, Effect::None, Reason::LetterChanged, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter() -> v1::DeadLetter {
        let header = |name: &str, value: &str| v1::Header { name: name.into(), value: value.into() };
        v1::DeadLetter {
            id: "ab".into(),
            source: Some(v1::Source {
                stream: "mesh1-work-x".into(),
                sequence: 7,
                subject: "mesh1.work.local.x.P.Charge.normal.1.payments".into(),
                message_id: "payments/x.P.Charge/17".into(),
                stored_at_ms: 5,
                deliveries: 1,
            }),
            headers: vec![
                header("Nats-Msg-Id", "payments/x.P.Charge/17"),
                header("mesh", "d=1;k=key"),
                header("traceparent", "00-1-2-01"),
                header("mesh-attempts", "x"),
            ],
            ..v1::DeadLetter::default()
        }
    }

    #[test]
    fn a_copy_says_which_letter_it_is_and_keeps_what_is_its_senders() {
        let replayed = Replayed { letter_id: "ab".into(), generation: 2, ordered_at: 9 };
        let headers = copy_headers(&letter(), &replayed);
        let names: Vec<_> = headers.iter().map(|(name, _)| name.as_ref()).collect();
        assert_eq!(names, ["traceparent", "Nats-Msg-Id", "mesh"]);
        assert_eq!(headers[1].1, "replay/ab/2");
        let note = Note::parse(&headers[2].1).unwrap();
        let lane = note.lane.unwrap();
        assert_eq!((note.deadline, note.idempotency_key.as_deref()), (None, Some("key")));
        assert_eq!((lane.attempt, lane.message_id.as_str(), lane.source.1), (1, "payments/x.P.Charge/17", 7));
        assert_eq!(lane.letter, Some(LetterNote { id: "ab".into(), generation: 2, ordered_at: 9 }));
    }

    #[test]
    fn what_the_gate_refused_is_not_repeated_by_a_replay() {
        let replayed = Replayed { letter_id: "ab".into(), generation: 1, ordered_at: 9 };
        let key = |note: String| {
            let mut letter = letter();
            letter.headers[1].value = note;
            let note = Note::parse(&copy_headers(&letter, &replayed)[2].1).unwrap();
            note.idempotency_key.map(|key| key.len())
        };
        let note = |bytes: usize| format!("k={}", "%25".repeat(bytes));
        assert_eq!((key(note(1024)), key(note(1025)), key(note(20_000))), (Some(1024), None, None));
    }
}
