//! Replay and discard: written into the letter's history by whoever saw its last record.

use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError},
    time::Duration,
};

use mesh_proto::v1::{self, letter_record::Record};
use prost::Message as _;
use tokio::sync::Mutex;

use super::copy;
use crate::{
    bus::{Bus, PublishError},
    dead_letter::{ActKind, Letter, LetterState, append},
    delayed::Lane,
    envelope::Envelope,
    fault::{Code, Effect, Fault, Reason, crash_point},
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
    /// Consumers by their names at the broker, and whether each was found. Who is asked for waits for the one answer, and keeps
    /// those of no other waiting.
    found: std::sync::Mutex<BTreeMap<String, Arc<Mutex<bool>>>>,
}

impl Replays {
    /// No letter is sent yet.
    #[must_use]
    pub fn new(bus: &Bus, order: Order) -> Replays {
        Replays { bus: bus.clone(), order, found: std::sync::Mutex::default() }
    }

    /// Sends a letter to the consumer that failed, and to no other.
    ///
    /// # Errors
    /// As of [`replay`].
    pub async fn replay(&self, letter: &Letter) -> Result<Replayed, Fault> {
        let replayed = self.order(letter).await?;
        crash_point("replay.ordered");
        if let Err(fault) = self.send(letter, &replayed).await {
            return Err(self.not_sent(letter, &replayed, fault).await);
        }
        crash_point("replay.copied");
        Ok(replayed)
    }

    /// What is to be said of a copy that was not sent. Where its lane will never take it, the letter does not wait for it.
    async fn not_sent(&self, letter: &Letter, replayed: &Replayed, fault: Fault) -> Fault {
        let stands = match self.fail(letter, replayed, &fault).await {
            Ok(true) => "the letter has failed again by this, and is open: mesh dead-letter show",
            Ok(false) => return fault,
            Err(_) => "the letter still says replaying, and the same order again ends that: mesh dead-letter replay",
        };
        let message = format!("{}; {stands} {}", fault.message(), letter.letter.id);
        let told = Fault::new(fault.code(), fault.effect(), fault.reason(), message);
        told.with_detail(fault.detail().to_owned())
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
        let sent = match copy::sealed(&self.bus, &lane, &letter.letter, replayed).await {
            Ok(sealed) => self.bus.publish(&lane.stream(), sealed).await,
            Err(error) => Err(error),
        };
        sent.map(drop).map_err(|error: PublishError| {
            let id = &letter.letter.id;
            let next = format!(
                "the letter says replaying, and the same order again sends the same copy: mesh dead-letter replay {id}"
            );
            error.into_order_fault(&format!("the copy of letter {id}"), &next)
        })
    }

    /// Ends a replay whose copy its lane will never take: the letter has failed again, by this fault, and is open. Whether
    /// that stands; `false`: the fault may be over in a while, or says that the copy may be on the lane all the same.
    ///
    /// # Errors
    /// The bus did not confirm it: the same again is safe.
    pub(crate) async fn fail(&self, letter: &Letter, replayed: &Replayed, fault: &Fault) -> Result<bool, Fault> {
        if fault.effect() != Effect::None || is_passing(fault) {
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

    /// Looks for the consumer of a letter, where that was not found before: without it there is no order.
    ///
    /// # Errors
    /// It does not exist any more, or its lane can't be asked now. Nothing was done.
    pub(crate) async fn find_consumer(&self, letter: &Letter) -> Result<(), Fault> {
        self.check_consumer(&lane_of(letter)?).await
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
        let found = {
            let mut all = self.found.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(all.entry(lane.durable()).or_default())
        };
        let mut found = found.lock().await;
        if *found {
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
        *found = true;
        Ok(())
    }
}

/// Whether a fault may be over in a while.
pub(crate) fn is_passing(fault: &Fault) -> bool {
    fault.code() == Code::Unavailable
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
