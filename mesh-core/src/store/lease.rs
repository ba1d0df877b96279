//! What only one process may do at a time: a record that goes by itself when its holder falls silent.

use std::time::Duration;

use mesh_proto::v1;
use prost::Message as _;
use tokio::time::{Instant, timeout_at};

use super::{Store, Written};
use crate::{bus::PublishError, fault::Fault};

/// How long a lease lasts and how often it is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseSettings {
    /// Whole seconds, at least 2: so long after its holder's last word another may take it.
    pub lasts: Duration,
    /// How often a waiting process asks.
    pub ask_every: Duration,
}

impl Default for LeaseSettings {
    /// Taken over within about four seconds.
    fn default() -> LeaseSettings {
        LeaseSettings { lasts: Duration::from_secs(3), ask_every: Duration::from_millis(500) }
    }
}

/// A lease that may be asked for.
#[derive(Debug, Clone)]
pub struct Lease {
    store: Store,
    key: String,
    holder: String,
    settings: LeaseSettings,
}

/// A lease that is held, as long as it is renewed in time.
#[derive(Debug)]
pub struct Held {
    lease: Lease,
    revision: u64,
    since_ms: i64,
    /// Our own clock's view: the broker counts from when it stored the record, which was later.
    until: Instant,
}

impl Lease {
    /// The lease `name` (one token) in a store. `holder` tells this process from every other.
    #[must_use]
    pub fn new(store: Store, name: &str, holder: String, settings: LeaseSettings) -> Lease {
        Lease { store, key: format!("lease.{name}"), holder, settings }
    }

    /// Asks once. `None`: somebody holds it.
    ///
    /// # Errors
    /// The broker did not answer: it is not known whether it was taken. It goes by itself then.
    pub async fn try_take(&self) -> Result<Option<Held>, PublishError> {
        let asked = Instant::now();
        let since_ms = self.store.bus.gate().clock().now_ms();
        let written = match self.write(since_ms, 0).await? {
            Written::Conflict => match self.given_up().await {
                Some(revision) => self.write(since_ms, revision).await?,
                None => return Ok(None),
            },
            written => written,
        };
        let Written::At(revision) = written else { return Ok(None) };
        Ok(Some(Held { lease: self.clone(), revision, since_ms, until: asked + self.settings.lasts }))
    }

    /// Waits until it is taken. Cancel-safe: one that was taken meanwhile goes by itself.
    pub async fn take(&self) -> Held {
        loop {
            match self.try_take().await {
                Ok(Some(held)) => return held,
                Ok(None) => {}
                Err(error) => tracing::warn!(%error, lease = self.key, "the lease could not be asked for"),
            }
            tokio::time::sleep(self.settings.ask_every).await;
        }
    }

    /// Who holds it now, and since when (Unix milliseconds).
    ///
    /// # Errors
    /// The broker can't be reached.
    pub async fn holder(&self) -> Result<Option<(String, i64)>, Fault> {
        let entry = self.store.get(&self.key).await?;
        let record = entry.and_then(|entry| v1::LeaseRecord::decode(entry.value).ok());
        Ok(record.map(|record| (record.holder, record.since_ms)))
    }

    /// The revision of a record whose holder gave it up.
    async fn given_up(&self) -> Option<u64> {
        let entry = self.store.get(&self.key).await.ok()??;
        let record = v1::LeaseRecord::decode(entry.value).ok()?;
        record.holder.is_empty().then_some(entry.revision)
    }

    async fn write(&self, since_ms: i64, expected: u64) -> Result<Written, PublishError> {
        let record = v1::LeaseRecord { holder: self.holder.clone(), since_ms };
        self.store.put(&self.key, record.encode_to_vec().into(), expected, Some(self.settings.lasts)).await
    }
}

impl Held {
    /// Renews it until it is lost; to be run beside the work, which ends when this ends.
    pub async fn keep(&mut self) {
        let every = self.lease.settings.lasts / 3;
        loop {
            tokio::time::sleep(every).await;
            if Instant::now() >= self.until || !self.renew().await {
                tracing::warn!(lease = self.lease.key, "the lease is lost: another process may hold it now");
                return;
            }
        }
    }

    /// One renewal; `false`: it is lost. A broker that is away for longer than the lease lasts ends it too.
    async fn renew(&mut self) -> bool {
        loop {
            let asked = Instant::now();
            match timeout_at(self.until, self.lease.write(self.since_ms, self.revision)).await {
                Ok(Ok(Written::At(revision))) => {
                    self.revision = revision;
                    self.until = asked + self.lease.settings.lasts;
                    return true;
                }
                Ok(Ok(Written::Conflict)) | Err(_) => return false,
                Ok(Err(error)) => {
                    tracing::debug!(%error, lease = self.lease.key, "the lease was not renewed yet");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    /// Gives it up, so that another takes it at once.
    pub async fn release(self) {
        // It would go by itself; this only makes it sooner. A record without a holder may be taken.
        let record = v1::LeaseRecord { holder: String::new(), since_ms: self.lease.store.bus.gate().clock().now_ms() };
        let gone = Some(Duration::from_secs(1));
        let _ = self.lease.store.put(&self.lease.key, record.encode_to_vec().into(), self.revision, gone).await;
    }
}
