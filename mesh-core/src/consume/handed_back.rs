//! What goes back to the broker as it came: that is remembered, so that nobody suspects it of having ended this process.

use std::time::Duration;

use mesh_proto::v1::{InboxRecord, inbox_record::State};
use prost::Message as _;
use tokio::time::{Instant, timeout};

use super::{
    inbox::{Found, HORIZON, deliveries},
    worker::Worker,
};
use crate::{
    envelope::Envelope,
    policy::inbox::{Back, Now, hand_back},
    store::Written,
};

/// How long a drain may take to write down that a delivery was handed back. Without it the delivery is a suspect: it is looked at
/// alone, which costs time and nothing else.
const LIMIT: Duration = Duration::from_secs(2);
/// How often it is tried where others write meanwhile: the first time without a look, as if nothing were there.
const TRIES: usize = 3;

/// A later delivery of it was begun: by somebody else, or here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Superseded;

fn is_superseded(record: &InboxRecord, now: &Now<'_>) -> bool {
    record.stream == now.stream && record.sequence == now.sequence && record.deliveries > now.deliveries
}

impl Worker {
    /// Remembers that a delivery goes back as it came. `begun`: its handler may have been started, and cut off in the middle.
    pub(super) async fn remember_handed_back(&self, envelope: &Envelope, begun: bool) -> Option<Superseded> {
        timeout(LIMIT, self.write_handed_back(envelope, begun)).await.unwrap_or(None)
    }

    async fn write_handed_back(&self, envelope: &Envelope, begun: bool) -> Option<Superseded> {
        let delivery = envelope.delivery.as_ref()?;
        let (key, repeat) = (self.inbox_key(envelope), self.work.repeat(envelope));
        let now = self.now(envelope, delivery, Instant::now(), false);
        let mut found: Found = None;
        for _ in 0..TRIES {
            if found.as_ref().is_some_and(|(record, _)| is_superseded(record, &now)) {
                return Some(Superseded);
            }
            let record = self.handed_back((envelope, &now), found.as_ref(), begun)?;
            let revision = found.map_or(0, |(_, revision)| revision);
            let kept = self.kept_for(&record, repeat).map(|kept| kept.max(HORIZON));
            if !matches!(
                self.store.put(&key, record.encode_to_vec().into(), revision, kept).await,
                Ok(Written::Conflict)
            ) {
                return None;
            }
            let there = self.store.get(&key).await.ok()?;
            found = there.and_then(|entry| Some((InboxRecord::decode(entry.value).ok()?, entry.revision)));
        }
        None
    }

    fn handed_back(
        &self,
        (envelope, now): (&Envelope, &Now<'_>),
        found: Option<&(InboxRecord, u64)>,
        begun: bool,
    ) -> Option<InboxRecord> {
        let there = found.map(|(record, _)| record);
        match hand_back(there, now, begun)? {
            Back::Beside(record) => Some(*record),
            Back::Itself(start) => {
                let mut record = self.begun(envelope, start, false);
                record.set_state(State::HandedBack);
                // Whoever had an older delivery of it says nothing of a newer one.
                record.deliveries = deliveries(envelope).max(there.map_or(0, |there| there.deliveries));
                record.handed_back = there.and_then(|there| there.handed_back.clone());
                Some(record)
            }
        }
    }
}
