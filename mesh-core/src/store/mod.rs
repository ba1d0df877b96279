//! Small shared state of one service: a record for each key, in a stream of the service's own.
//!
//! What holds here: every decision is a write that the broker takes only if nobody else wrote meanwhile
//! (`Nats-Expected-Last-Subject-Sequence`). A read tells what to try next and decides nothing. Records may be given a time
//! after which the broker forgets them (`Nats-TTL`, whole seconds), so that no clock of ours is compared with another's.

mod lease;

use std::{borrow::Cow, time::Duration};

use bytes::Bytes;

use crate::{
    bus::{Bus, PublishError},
    fault::Fault,
    subject::{self, Name},
};

pub use lease::{Held, Lease, LeaseSettings};

const EXPECTED_LAST: &str = "Nats-Expected-Last-Subject-Sequence";
const EXPECTED_LAST_OF: &str = "Nats-Expected-Last-Subject-Sequence-Subject";
const TTL: &str = "Nats-TTL";

/// The store of one service.
#[derive(Debug, Clone)]
pub struct Store {
    bus: Bus,
    region: Name,
    service: Name,
    stream: String,
}

/// A record as it was last written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What was written.
    pub value: Bytes,
    /// What the next writer must name.
    pub revision: u64,
}

/// How a write ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Written {
    /// It is there, at this revision.
    At(u64),
    /// Somebody else wrote since the revision that the writer named: nothing was written.
    Conflict,
}

impl Store {
    /// The store of the service that `bus` is connected as.
    #[must_use]
    pub fn own(bus: &Bus) -> Store {
        let identity = bus.gate().identity();
        Store::new(bus, identity.region().clone(), identity.service().clone())
    }

    /// The store of a service.
    #[must_use]
    pub fn new(bus: &Bus, region: Name, service: Name) -> Store {
        let stream = subject::store_stream(service.as_str());
        Store { bus: bus.clone(), region, service, stream }
    }

    /// The record of a key (`<kind>.<…>`, tokens of a subject). `None`: there is none.
    ///
    /// # Errors
    /// The broker can't be reached, or this identity may not read.
    pub async fn get(&self, key: &str) -> Result<Option<Entry>, Fault> {
        let subject = self.subject(key);
        let message = self.bus.last_on(&self.stream, &subject).await?;
        Ok(message.and_then(|message| {
            let envelope = message.open().envelope;
            let revision = envelope.delivery.map(|delivery| delivery.sequence)?;
            Some(Entry { value: envelope.payload, revision })
        }))
    }

    /// Writes a record if its last revision is `expected` (0: there is none). With `ttl` (whole seconds, at least one) the
    /// broker forgets it by itself.
    ///
    /// `value` must differ from what anybody else would write (it names its writer and the moment), so that a write whose
    /// acknowledgement was lost is recognised as one's own.
    ///
    /// # Errors
    /// The broker has not confirmed it: it may have been written all the same ([`PublishError::is_unknown`]).
    pub async fn put(
        &self,
        key: &str,
        value: Bytes,
        expected: u64,
        ttl: Option<Duration>,
    ) -> Result<Written, PublishError> {
        let mut headers = vec![(Cow::Borrowed(EXPECTED_LAST), expected.to_string())];
        headers.extend(ttl.map(|ttl| (Cow::Borrowed(TTL), format!("{}s", ttl.as_secs().max(1)))));
        let sealed = self.bus.gate().seal_own(self.subject(key), headers, value.clone());
        match self.bus.publish(&self.stream, sealed).await {
            Ok(stored) => Ok(Written::At(stored.sequence)),
            Err(error) if error.is_conflict() => self.ours_after_all(key, &value).await,
            Err(error) => Err(error),
        }
    }

    /// The records whose keys match `filter` (`<kind>.<…>`, with wildcards for tokens), each with its key.
    ///
    /// # Errors
    /// The broker can't be reached, or this identity may not read.
    pub async fn list(&self, filter: &str) -> Result<Vec<(String, Entry)>, Fault> {
        let subject = self.subject(filter);
        let (mut found, mut next, start) = (Vec::new(), 1, self.subject("").len());
        while let Some(message) = self.bus.next_on(&self.stream, &subject, next).await? {
            let envelope = message.open().envelope;
            let Some(revision) = envelope.delivery.map(|delivery| delivery.sequence) else { break };
            next = revision + 1;
            let Some(key) = envelope.subject.get(start..) else { continue };
            found.push((key.to_owned(), Entry { value: envelope.payload, revision }));
        }
        Ok(found)
    }

    /// Writes a record if the record of *another* key, the guard, still has the revision that the writer knows: whoever
    /// changes the guard keeps all earlier writers out. The same write again is harmless.
    ///
    /// # Errors
    /// The broker has not confirmed it: it may have been written all the same ([`PublishError::is_unknown`]).
    pub async fn put_guarded(
        &self,
        key: &str,
        value: Bytes,
        guard: (&str, u64),
        ttl: Option<Duration>,
    ) -> Result<Written, PublishError> {
        let (guard, revision) = guard;
        let mut headers = vec![
            (Cow::Borrowed(EXPECTED_LAST), revision.to_string()),
            (Cow::Borrowed(EXPECTED_LAST_OF), self.subject(guard)),
        ];
        headers.extend(ttl.map(|ttl| (Cow::Borrowed(TTL), format!("{}s", ttl.as_secs().max(1)))));
        let sealed = self.bus.gate().seal_own(self.subject(key), headers, value);
        match self.bus.publish(&self.stream, sealed).await {
            Ok(stored) => Ok(Written::At(stored.sequence)),
            Err(error) if error.is_conflict() => Ok(Written::Conflict),
            Err(error) => Err(error),
        }
    }

    /// A first try whose acknowledgement was lost makes the second one a conflict with ourselves.
    async fn ours_after_all(&self, key: &str, value: &Bytes) -> Result<Written, PublishError> {
        match self.get(key).await {
            Ok(Some(entry)) if entry.value == *value => Ok(Written::At(entry.revision)),
            Ok(_) => Ok(Written::Conflict),
            // Whether it is ours is not known: to be asked again, never taken for somebody else's.
            Err(_) => Err(PublishError::TimedOut),
        }
    }

    /// The time of day, for what is written.
    #[must_use]
    pub fn now_ms(&self) -> i64 {
        self.bus.gate().clock().now_ms()
    }

    fn subject(&self, key: &str) -> String {
        subject::store(&self.region, &self.service, key)
    }
}
