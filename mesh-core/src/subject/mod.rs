//! Names of places: subjects, streams, consumers, inboxes. The specification is `docs/wire.md`.
//!
//! The first token of every subject is the version of the wire, the last the caller (or the partition). Names of messages
//! and rpc services keep their dots, so they take several tokens; everything around them has a fixed place, counted from
//! the front and from the back. Keys never stand in subjects: [`partition`] puts them into one of [`PARTITIONS`].

mod digest;
mod name;
mod place;

pub use digest::sha256;
pub use name::{InvalidName, Name};
pub use place::Place;

/// The version of the wire: the first token of every subject.
pub const WIRE: &str = "mesh1";

/// How many partitions the keys of one message type are spread over.
pub const PARTITIONS: u32 = 16;

/// The stream that holds the letters of every consumer.
pub const DEAD_LETTER_STREAM: &str = "mesh1-dead-letter";

/// The stream that holds the bytes of messages that are too large for their letters and their copies on a lane.
pub const CLAIM_STREAM: &str = "mesh1-claim";

/// The stream that holds the outcomes of queued work.
pub const OUTCOME_STREAM: &str = "mesh1-outcome";

/// The partition of a key: CRC-32 (IEEE, as in zlib) of its bytes, modulo [`PARTITIONS`]. No key: partition 0.
#[must_use]
pub fn partition(key: &[u8]) -> u32 {
    if key.is_empty() { 0 } else { crc32fast::hash(key) % PARTITIONS }
}

/// The stream of the broker's word on deliveries that it gave up.
pub const ADVISORY_STREAM: &str = "mesh1-advisory";

/// The stream that holds what operators ordered for many letters at once.
pub const JOB_STREAM: &str = "mesh1-job";

/// The name of the service that keeps the mesh: one of its processes is active at a time.
pub const KEEPER: &str = "keeper";

/// How urgent queued work is: a token of its subject, so that each can have a consumer of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub enum Class {
    /// A customer waits.
    Urgent,
    /// The default.
    #[default]
    Normal,
    /// May wait for hours.
    Bulk,
}

impl Class {
    /// The subject's token.
    #[must_use]
    pub const fn token(self) -> &'static str {
        match self {
            Class::Urgent => "urgent",
            Class::Normal => "normal",
            Class::Bulk => "bulk",
        }
    }
}

/// The subject of an event.
#[must_use]
pub fn event(region: &Name, producer: &str, message: &str, partition: u32) -> String {
    // `format!` would grow to its size step by step, and this is done for every event.
    [WIRE, ".event.", region.as_str(), ".", producer, ".", message, ".", &partition.to_string()].concat()
}

/// The subject of a call: `caller` is a service's name.
#[must_use]
pub fn call(region: &Name, service: &str, method: &str, caller: &Name) -> String {
    format!("{WIRE}.call.{region}.{service}.{method}.{caller}")
}

/// The subject of queued work.
#[must_use]
pub fn work(region: &Name, operation: (&str, &str), class: Class, partition: u32, caller: &Name) -> String {
    let (service, method) = operation;
    format!("{WIRE}.work.{region}.{service}.{method}.{}.{partition}.{caller}", class.token())
}

/// The subject of the outcome of queued work.
#[must_use]
pub fn outcome(region: &Name, service: &str, method: &str, caller: &str) -> String {
    format!("{WIRE}.outcome.{region}.{service}.{method}.{caller}")
}

/// The subject on a consumer's lane where a delayed or replayed delivery becomes due: `original` says from whom it came and
/// in which partition its key lies.
#[must_use]
pub fn lane_due(region: &Name, service: &Name, consumer: &Name, original: &Place<'_>) -> String {
    let (partition, caller) = (original.partition(), original.caller());
    format!("{WIRE}.lane.{region}.{service}.{consumer}.due.{partition}.{caller}")
}

/// The subject on a consumer's lane where one message is held until its time. `unique` tells it from all others.
#[must_use]
pub fn lane_hold(region: &Name, service: &Name, consumer: &Name, unique: &str) -> String {
    format!("{WIRE}.lane.{region}.{service}.{consumer}.hold.{unique}")
}

/// The subject of one letter: its history lies there.
#[must_use]
pub fn dead_letter(region: &Name, service: &Name, consumer: &Name, id: &str) -> String {
    format!("{WIRE}.dead.{region}.{service}.{consumer}.{id}")
}

/// The subjects of the parts of a message that lies apart: `letter` is the letter that it has or would have, `sha256` the hash
/// of its bytes, of which the first half stands here. A part's number follows, from 0.
#[must_use]
pub fn claim(owner: (&Name, &Name, &Name), letter: &str, sha256: &str) -> String {
    let (region, service, consumer) = owner;
    let hash = sha256.get(..32).unwrap_or(sha256);
    format!("{WIRE}.claim.{region}.{service}.{consumer}.{letter}.{hash}")
}

/// The subject of one record in the store of a service. `key` has its own dots: `inbox.<consumer>.<id>`, `lease.<name>`.
#[must_use]
pub fn store(region: &Name, service: &Name, key: &str) -> String {
    format!("{WIRE}.store.{region}.{service}.{key}")
}

/// The subject of one job: its history lies there.
#[must_use]
pub fn job(region: &Name, id: &str) -> String {
    format!("{WIRE}.job.{region}.{id}")
}

/// The prefix of the inboxes of `caller`: replies go to `_INBOX.<caller>.>` and nowhere else.
#[must_use]
pub fn inbox_prefix(caller: &Name) -> String {
    format!("_INBOX.{caller}")
}

/// The stream of a service's events.
#[must_use]
pub fn event_stream(producer: &str) -> String {
    format!("{WIRE}-event-{producer}")
}

/// The stream of the work for an rpc service. Dots become `-`, which no protobuf name has.
#[must_use]
pub fn work_stream(service: &str) -> String {
    format!("{WIRE}-work-{}", service.replace('.', "-"))
}

/// The stream of the lanes of a service's consumers. One for each service: whoever may publish a scheduled message may
/// choose its target anywhere within that stream.
#[must_use]
pub fn lane_stream(service: &str) -> String {
    format!("{WIRE}-lane-{service}")
}

/// The stream of a service's store.
#[must_use]
pub fn store_stream(service: &str) -> String {
    format!("{WIRE}-store-{service}")
}

/// Whether a stream is a service's store.
#[must_use]
pub fn is_store_stream(stream: &str) -> bool {
    stream.strip_prefix(WIRE).is_some_and(|rest| rest.starts_with("-store-"))
}

/// The broker's name of a consumer: unique across services.
#[must_use]
pub fn durable(service: &Name, consumer: &Name) -> String {
    format!("{service}_{consumer}")
}

/// The broker's name of one partition of a consumer that keeps the order of its keys.
#[must_use]
pub fn partition_durable(service: &Name, consumer: &Name, partition: u32) -> String {
    format!("{service}_{consumer}_p{partition}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_follow_the_stated_hash() {
        // Python: zlib.crc32(b"00001") % 16
        assert_eq!(partition(b"00001"), crc32fast::hash(b"00001") % 16);
        assert_eq!(crc32fast::hash(b"123456789"), 0xCBF4_3926, "the check value of CRC-32/ISO-HDLC");
        assert_eq!(partition(b""), 0);
    }

    #[test]
    fn streams_of_services_never_collide() {
        assert_ne!(work_stream("a.b.C"), work_stream("a_b.C"));
    }
}
