//! How far a duty of the keeper has read a stream: a record in the keeper's own store. It names the stream by when that was made: a sequence
//! says nothing of one that was made anew.

use mesh_proto::v1;
use prost::Message as _;

use crate::{
    bus::Bus,
    fault::Fault,
    store::{Store, Written},
};

/// How far one duty has read.
pub(super) struct Position {
    store: Store,
    key: String,
    revision: u64,
    sequence: u64,
    stream_created_ms: i64,
}

impl Position {
    /// What was read so far by any keeper. Nothing: 0.
    pub(super) async fn load(bus: &Bus, duty: &str) -> Result<Position, Fault> {
        let (store, key) = (Store::own(bus), format!("position.{duty}"));
        let entry = store.get(&key).await?;
        let revision = entry.as_ref().map_or(0, |entry| entry.revision);
        let record = entry.and_then(|entry| v1::PositionRecord::decode(entry.value).ok()).unwrap_or_default();
        let v1::PositionRecord { sequence, stream_created_ms, .. } = record;
        Ok(Position { store, key, revision, sequence, stream_created_ms })
    }

    /// The last sequence that was worked off.
    pub(super) fn sequence(&self) -> u64 {
        self.sequence
    }

    /// When the stream was made that the sequence counts in; 0 where nothing is known.
    pub(super) fn stream_created_ms(&self) -> i64 {
        self.stream_created_ms
    }

    /// Nothing of the stream that was made at `created_ms` is worked off yet.
    pub(super) fn begin(&mut self, created_ms: i64) {
        (self.sequence, self.stream_created_ms) = (0, created_ms);
    }

    /// Everything up to `sequence` is worked off. Where another keeper wrote meanwhile, what both have done counts.
    pub(super) async fn advance(&mut self, bus: &Bus, sequence: u64) -> Result<(), Fault> {
        let at_ms = bus.gate().clock().now_ms();
        let (by, stream_created_ms) = (nuid::next().to_string(), self.stream_created_ms);
        let record = v1::PositionRecord { sequence, at_ms, by, stream_created_ms };
        let written = self.store.put(&self.key, record.encode_to_vec().into(), self.revision, None).await;
        match written.map_err(|error| error.into_fault("the keeper's position"))? {
            Written::At(revision) => (self.revision, self.sequence) = (revision, sequence),
            Written::Conflict => {
                let now = self.store.get(&self.key).await?;
                self.revision = now.map_or(0, |entry| entry.revision);
            }
        }
        Ok(())
    }
}
