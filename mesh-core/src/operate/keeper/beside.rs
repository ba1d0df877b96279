//! What stands for messages that are gone: their copies on the lane, their letters.
//!
//! Where a stream loses thousands of messages that were in hand, there is a word for each. So all that stands for any message of a
//! consumer is read once, and answers every word that waits for it; only places are kept. The letters are read with their payloads:
//! what a letter is of stands in them alone.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use mesh_proto::v1::letter_record::Record;
use tokio::time::{Instant, sleep_until};

use super::{lanes, outcomes::CLOCKS_DIFFER_MS};
use crate::{
    bus::{Bus, Stop},
    dead_letter,
    delayed::Lane,
    fault::Fault,
    gate::Unopened,
    policy::reconcile::Notice,
    subject::{self, DEAD_LETTER_STREAM, WIRE},
};

/// How long before the broker's word a worker may have captured or delayed what it then did not acknowledge.
const BEFORE_THE_WORD_MS: i64 = 3_600_000;
/// So much more is read: words that come in the same reading may be a little older.
const OLDER_MS: i64 = 600_000;
/// How long a reading waits for more words that it answers.
const GATHERS: Duration = Duration::from_millis(100);
/// How long one reading of a consumer's comes after the other: words that come one by one share them.
const APART: Duration = Duration::from_secs(2);
/// A reading that answered nobody for so long is forgotten.
const FORGOTTEN: Duration = Duration::from_secs(60);

/// The newest reading of each consumer's.
#[derive(Debug, Default)]
pub(super) struct Beside(Mutex<HashMap<String, Slot>>);

type Slot = Arc<tokio::sync::Mutex<Option<Reading>>>;

/// What was read of one consumer's.
#[derive(Debug)]
struct Reading {
    /// What was there before it began is in it.
    began: Instant,
    ended: Instant,
    since_ms: i64,
    /// By stream and sequence, when the message there was stored, Unix milliseconds; 0 where that is not said.
    places: HashMap<String, HashMap<u64, i64>>,
}

impl Beside {
    /// Whether a copy on its consumer's lane or a letter stands for a message that is gone, or stood there a moment ago.
    ///
    /// # Errors
    /// The bus can't be read, or the lane moves too fast now.
    pub(super) async fn stands(&self, bus: &Bus, lane: &Lane, notice: &Notice) -> Result<bool, Fault> {
        let (asked, slot) = (Instant::now(), self.slot(lane));
        // Who comes while it is read waits here, and the next reading answers all of them.
        let mut newest = slot.lock().await;
        if let Some(reading) = newest.as_ref().filter(|reading| reading.answers(notice, asked)) {
            return Ok(reading.has(notice));
        }
        let after_the_last = newest.as_ref().map_or(asked, |reading| reading.ended + APART);
        sleep_until(after_the_last.max(asked + GATHERS)).await;
        let since_ms = notice.at_ms.saturating_sub(BEFORE_THE_WORD_MS).saturating_sub(OLDER_MS);
        let reading = newest.insert(Reading::take(bus, lane, since_ms).await?);
        Ok(reading.has(notice))
    }

    fn slot(&self, lane: &Lane) -> Slot {
        let mut slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        slots.retain(|_, slot| {
            let is_old = |reading: &Reading| reading.ended.elapsed() >= FORGOTTEN;
            // One that is locked is in use.
            slot.try_lock().is_ok_and(|reading| !reading.as_ref().is_some_and(is_old)) || Arc::strong_count(slot) > 1
        });
        Arc::clone(slots.entry(lane.durable()).or_default())
    }
}

impl Reading {
    /// A copy's successor is confirmed before the copy is settled. So the lane is read before the letters.
    async fn take(bus: &Bus, lane: &Lane, since_ms: i64) -> Result<Reading, Fault> {
        let began = Instant::now();
        let mut places = HashMap::<String, HashMap<u64, i64>>::new();
        let mut add = |stream: String, sequence, stored_at_ms| {
            // Of two streams of one name the older one's: it may be either's that is asked for.
            let known = places.entry(stream).or_default().entry(sequence).or_insert(stored_at_ms);
            *known = stored_at_ms.min(*known);
        };
        let stream = lane.stream();
        let of_consumer = format!("{WIRE}.lane.{}.{}.{}.", lane.region, lane.service, lane.consumer);
        let copies = lanes::read(bus, (&stream, since_ms), |copy| {
            if let Some(note) = lanes::note_of(copy).filter(|_| copy.subject.starts_with(&of_consumer)) {
                add(note.source.0, note.source.1, note.stored_at_ms);
            }
            Stop::No
        });
        if !copies.await? {
            return Err(lanes::restless(&stream));
        }
        let letters = subject::dead_letter(&lane.region, &lane.service, &lane.consumer, "*");
        let each = |message: Unopened| {
            if let Some(Record::Captured(letter)) = dead_letter::record_of(&message.open().envelope) {
                // Of what failed on a lane the broker speaks of the copy, or of an original whose acknowledgement was lost.
                letter.source.into_iter().for_each(|of| add(of.stream, of.sequence, of.stored_at_ms));
                letter.copy.into_iter().for_each(|of| add(of.stream, of.sequence, 0));
            }
            Stop::No
        };
        bus.read_since(DEAD_LETTER_STREAM, &letters, since_ms, each).await?;
        Ok(Reading { began, ended: Instant::now(), since_ms, places })
    }

    fn answers(&self, notice: &Notice, asked: Instant) -> bool {
        self.began >= asked && self.since_ms <= notice.at_ms.saturating_sub(BEFORE_THE_WORD_MS)
    }

    /// What was stored after the broker's word is another message, of a stream that was made anew.
    fn has(&self, notice: &Notice) -> bool {
        let stored_at_ms = self.places.get(&notice.stream).and_then(|places| places.get(&notice.sequence));
        stored_at_ms.is_some_and(|stored_at_ms| *stored_at_ms <= notice.at_ms.saturating_add(CLOCKS_DIFFER_MS))
    }
}
