//! Which keys are blocked, by what, and how much waits behind them.

use std::collections::BTreeMap;

use mesh_proto::v1::{BlockedKey, blocked_key::State};
use prost::Message as _;

use crate::{
    bus::Bus,
    delayed::{Lane, block_of},
    fault::Fault,
    store::Store,
    subject::{self, Name, WIRE},
};

/// How many copies on one lane are counted: a person wants to know how many about.
const COUNTED: usize = 20_000;

/// A key whose first message can't be done yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blocked {
    /// The service.
    pub service: Name,
    /// Its consumer.
    pub consumer: Name,
    /// The key.
    pub key: String,
    /// Why it is blocked.
    pub by: Head,
    /// The id of the message that blocks it; empty where that is done.
    pub message_id: String,
    /// Since when, Unix milliseconds.
    pub since_ms: i64,
    /// Messages that were put aside behind it.
    pub followers: usize,
}

/// What blocks a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Head {
    /// A message that is tried again.
    Delayed,
    /// A letter: its id.
    Letter(String),
    /// Nothing any more: what was put aside is being handled.
    Drained,
}

/// The blocked keys of all services or of one, of all its consumers or of one: the longest blocked first.
///
/// # Errors
/// The bus can't be reached, or this identity may not read stores and lanes.
pub async fn blocked(bus: &Bus, service: Option<&Name>, consumer: Option<&Name>) -> Result<Vec<Blocked>, Fault> {
    let prefix = subject::store_stream("");
    let mut found = Vec::new();
    for stream in bus.stream_names(&format!("{WIRE}-store-")).await? {
        let Some(Ok(of)) = stream.strip_prefix(&prefix).map(str::parse::<Name>) else { continue };
        if service.is_none_or(|service| *service == of) {
            found.extend(of_service(bus, &of, consumer).await?);
        }
    }
    found.sort_by_key(|blocked: &Blocked| blocked.since_ms);
    Ok(found)
}

async fn of_service(bus: &Bus, service: &Name, consumer: Option<&Name>) -> Result<Vec<Blocked>, Fault> {
    let region = bus.gate().identity().region().clone();
    let store = Store::new(bus, region.clone(), service.clone());
    let token = consumer.map_or("*", Name::as_str);
    let (mut found, mut followers) = (Vec::new(), BTreeMap::new());
    for (place, entry) in store.list(&format!("blocked.{token}.*.*")).await? {
        let Ok(record) = BlockedKey::decode(entry.value) else { continue };
        let Some(Ok(consumer)) = place.split('.').nth(1).map(str::parse::<Name>) else { continue };
        let by = match record.state() {
            State::Unspecified => continue,
            State::Delayed => Head::Delayed,
            State::Letter => Head::Letter(record.letter_id.clone()),
            State::Draining => Head::Drained,
        };
        if !followers.contains_key(&consumer) {
            let lane = Lane { region: region.clone(), service: service.clone(), consumer: consumer.clone() };
            followers.insert(consumer.clone(), count(bus, &lane).await?);
        }
        let behind = followers.get(&consumer).and_then(|counts| counts.get(&block_of(&record.key)));
        found.push(Blocked {
            service: service.clone(),
            followers: behind.copied().unwrap_or(0),
            consumer,
            key: record.key,
            by,
            message_id: record.message_id,
            since_ms: record.since_ms,
        });
    }
    Ok(found)
}

/// Copies on a lane, by the name of the blocked key that they wait for.
async fn count(bus: &Bus, lane: &Lane) -> Result<BTreeMap<String, usize>, Fault> {
    let filter = format!("{WIRE}.lane.{}.{}.{}.due.>", lane.region, lane.service, lane.consumer);
    let (mut counts, mut next) = (BTreeMap::new(), 1);
    for _ in 0..COUNTED {
        let Some(message) = bus.next_on(&lane.stream(), &filter, next).await? else { break };
        let envelope = message.open().envelope;
        let Some(delivery) = envelope.delivery else { break };
        next = delivery.sequence + 1;
        if let Some(block) = envelope.note.lane.and_then(|lane| lane.block) {
            *counts.entry(block).or_insert(0) += 1;
        }
    }
    Ok(counts)
}
