//! What must outlive the owner of a partition: that it is the owner, and which keys are blocked by what.
//!
//! The owner's fence is the sequence of its record in the store. Every other record of the partition is written only while
//! that one is the last: the first thing that a new owner does keeps all earlier ones out.

use std::{sync::Arc, time::Duration};

use mesh_proto::v1::{self, blocked_key::State, letter_record::Record};
use prost::Message as _;
use tokio::time::Instant;

use super::Ordered;
use crate::{
    bus::{Bus, PublishError},
    dead_letter::letter_id,
    delayed::{Lane, block_of},
    fault::Fault,
    policy::order::{At, Loaded, Plan},
    store::{Store, Written},
    subject::{self, DEAD_LETTER_STREAM},
};

/// How long a record of what is blocked no more stays: the broker counts whole seconds.
const GONE: Duration = Duration::from_secs(1);

/// How long a server that is not the leader may be behind it, as a head's letter is looked for; and how often it is.
pub(super) const BEHIND: Duration = Duration::from_secs(5);
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// The records of one partition, as its owner writes them.
#[derive(Clone)]
pub(super) struct Blocks {
    store: Store,
    bus: Bus,
    lane: Lane,
    partition: u32,
    /// The stream of the messages.
    stream: String,
    /// The sequence of the owner's record.
    pub(super) fence: u64,
}

/// A letter as its last record tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LastRecord {
    /// Its sequence: a replay that another record follows has ended.
    pub(super) sequence: u64,
    /// Whether it was resolved or discarded.
    pub(super) has_ended: bool,
}

/// A blocked key as it stood in the store when it was taken over.
pub(super) struct LoadedKey {
    pub(super) key: Arc<str>,
    pub(super) head: At,
    pub(super) state: Loaded,
    pub(super) since_ms: i64,
    /// Where its head waits neither on the lane nor as a letter that could be found: the letter that it would be.
    pub(super) unfound: Option<String>,
}

/// The key of the owner's record.
pub(super) fn owner_key(consumer: &str, partition: u32) -> String {
    format!("owner.{consumer}.{partition}")
}

impl Blocks {
    pub(super) fn new(ordered: &Ordered, partition: u32, fence: u64) -> Blocks {
        let worker = &ordered.worker;
        let (bus, lane) = (worker.bus.clone(), worker.lane.clone());
        Blocks { store: ordered.store.clone(), bus, lane, partition, stream: ordered.stream.clone(), fence }
    }

    fn owner_key(&self) -> String {
        owner_key(self.lane.consumer.as_str(), self.partition)
    }

    /// Writes what `plan` says of a key. A conflict: another process owns the partition.
    pub(super) async fn write(&self, record: &v1::BlockedKey) -> Result<Written, PublishError> {
        let key = format!("blocked.{}.{}.{}", self.lane.consumer, self.partition, block_of(&record.key));
        let ttl = (record.state() == State::Unspecified).then_some(GONE);
        let guard = self.owner_key();
        self.store.put_guarded(&key, record.encode_to_vec().into(), (&guard, self.fence), ttl).await
    }

    /// Gives the partition up: whoever wants it may take it. `in_doubt`: something of it may have ended a process.
    pub(super) async fn give_up(&self, in_doubt: bool) -> Result<Written, PublishError> {
        let record = v1::PartitionRecord { owner: String::new(), at_ms: self.store.now_ms(), in_doubt };
        self.store.put(&self.owner_key(), record.encode_to_vec().into(), self.fence, None).await
    }

    /// Every blocked key of the partition, and where its head is.
    pub(super) async fn load(&self) -> Result<Vec<LoadedKey>, Fault> {
        let records = self.store.list(&format!("blocked.{}.{}.*", self.lane.consumer, self.partition)).await?;
        let mut keys = Vec::with_capacity(records.len());
        for (_, entry) in records {
            let Ok(record) = v1::BlockedKey::decode(entry.value) else { continue };
            let (state, unfound) = match record.state() {
                State::Unspecified => continue,
                State::Draining => (Loaded::Draining, None),
                State::Delayed if self.is_held(&record.hold).await? => (Loaded::Waiting, None),
                State::Delayed => {
                    // On its way to here; or a process that was stopped made a letter of it.
                    let source = (self.stream.as_str(), record.sequence);
                    let id = letter_id(&self.lane, source, record.stored_at_ms, &record.message_id);
                    self.as_letter(&id).await?
                }
                State::Letter => self.as_letter(&record.letter_id).await?,
            };
            let head = At { sequence: record.sequence, stored_at_ms: record.stored_at_ms };
            keys.push(LoadedKey { key: record.key.into(), head, state, since_ms: record.since_ms, unfound });
        }
        Ok(keys)
    }

    async fn as_letter(&self, id: &str) -> Result<(Loaded, Option<String>), Fault> {
        Ok(match self.letter(id).await? {
            Some(letter) if letter.has_ended => (Loaded::Draining, None),
            Some(_) => (Loaded::Letter(id.into()), None),
            None => (Loaded::Waiting, Some(id.to_owned())),
        })
    }

    /// Whether a delayed copy waits for its time.
    async fn is_held(&self, unique: &str) -> Result<bool, Fault> {
        let Lane { region, service, consumer } = &self.lane;
        let hold = subject::lane_hold(region, service, consumer, unique);
        // Of what was put aside a moment ago, a server that is not the leader may know nothing yet; and a copy that is not found
        // is handled by nobody once its key is free.
        Ok(self.bus.direct_last(&self.lane.stream(), &hold).await?.is_some()
            || self.bus.last_on(&self.lane.stream(), &hold).await?.is_some())
    }

    /// Looks again for the letter that a head would be, until `limit`: this identity may not ask the letters' leader, and another
    /// server may know nothing yet of what was captured a moment ago. Without an answer it does not end.
    pub(super) async fn look_again(&self, loaded: &mut LoadedKey, limit: Instant) {
        while let Some(letter) = &loaded.unfound {
            match self.as_letter(letter).await {
                Ok((state, None)) => (loaded.state, loaded.unfound) = (state, None),
                Ok(_) if Instant::now() >= limit => return,
                Ok(_) | Err(_) => tokio::time::sleep(LOOK_AGAIN).await,
            }
        }
    }

    /// The last record of a letter of this consumer. `None`: there is no such letter.
    pub(super) async fn letter(&self, id: &str) -> Result<Option<LastRecord>, Fault> {
        let Lane { region, service, consumer } = &self.lane;
        let subject = subject::dead_letter(region, service, consumer, id);
        let Some(message) = self.bus.direct_last(DEAD_LETTER_STREAM, &subject).await? else { return Ok(None) };
        let envelope = message.open().envelope;
        let record = v1::LetterRecord::decode(envelope.payload).ok().and_then(|record| record.record);
        let has_ended = matches!(record, Some(Record::Resolved(_) | Record::Discarded(_)));
        Ok(envelope.delivery.map(|delivery| LastRecord { sequence: delivery.sequence, has_ended }))
    }
}

/// What is written of a key where `plan` is carried out by the message at its head, or after it.
pub(super) fn record_of(key: &Arc<str>, plan: Plan, since_ms: i64) -> v1::BlockedKey {
    let (state, at) = match plan {
        Plan::Block(at) => (State::Delayed, at),
        Plan::Drain(at) => (State::Draining, at),
        Plan::Free | Plan::Settle => (State::Unspecified, At { sequence: 0, stored_at_ms: 0 }),
    };
    v1::BlockedKey {
        state: state.into(),
        key: key.to_string(),
        sequence: at.sequence,
        stored_at_ms: at.stored_at_ms,
        since_ms,
        ..v1::BlockedKey::default()
    }
}
