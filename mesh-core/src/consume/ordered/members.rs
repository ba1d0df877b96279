//! Who takes part: each process keeps a record that goes by itself when the process is silent.

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use mesh_proto::v1;
use prost::Message as _;
use tokio::time::{Instant, timeout_at};

use crate::{
    bus::PublishError,
    fault::Fault,
    store::{Store, Written},
};

/// This process among those that take part.
pub(super) struct Member {
    store: Store,
    key: String,
    /// Unique: no two processes and no two turns of one process have the same.
    pub(super) id: String,
    lasts: Duration,
    held: Mutex<Held>,
}

struct Held {
    revision: u64,
    /// Our own clock's view: the broker counts from when it stored the record, which was later.
    until: Instant,
}

impl Member {
    /// Takes part.
    pub(super) async fn join(store: &Store, consumer: &str, lasts: Duration) -> Result<Member, PublishError> {
        let id = nuid::next().to_string();
        let key = format!("member.{consumer}.{id}");
        let held = Mutex::new(Held { revision: 0, until: Instant::now() });
        let member = Member { store: store.clone(), key, id, lasts, held };
        let asked = Instant::now();
        match member.write(0).await? {
            Written::At(revision) => member.hold(revision, asked),
            Written::Conflict => return Err(PublishError::NotSent("another process has this name".into())),
        }
        Ok(member)
    }

    /// Whether nobody else can have taken over what this process has.
    pub(super) fn is_live(&self) -> bool {
        Instant::now() < self.lock().until
    }

    /// Stays until it is lost; to be run beside the work, which ends when this ends.
    pub(super) async fn stay(&self) {
        loop {
            tokio::time::sleep(self.lasts / 3).await;
            if !self.is_live() || !self.renew().await {
                return;
            }
        }
    }

    /// Ends it, so that others take over at once.
    pub(super) async fn leave(&self) {
        let revision = self.lock().revision;
        self.lock().until = Instant::now();
        let record = v1::MemberRecord::default().encode_to_vec().into();
        // It would go by itself.
        let _ = self.store.put(&self.key, record, revision, Some(Duration::from_secs(1))).await;
    }

    async fn renew(&self) -> bool {
        loop {
            let (asked, Held { revision, until }) = (Instant::now(), self.now());
            match timeout_at(until, self.write(revision)).await {
                Ok(Ok(Written::At(revision))) => {
                    self.hold(revision, asked);
                    return true;
                }
                Ok(Ok(Written::Conflict)) | Err(_) => return false,
                Ok(Err(error)) => {
                    tracing::debug!(%error, "the membership was not renewed yet");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    async fn write(&self, expected: u64) -> Result<Written, PublishError> {
        let at_ms = self.store.now_ms();
        let record = v1::MemberRecord { member: self.id.clone(), at_ms };
        self.store.put(&self.key, record.encode_to_vec().into(), expected, Some(self.lasts)).await
    }

    fn hold(&self, revision: u64, asked: Instant) {
        *self.lock() = Held { revision, until: asked + self.lasts };
    }

    fn now(&self) -> Held {
        let held = self.lock();
        Held { revision: held.revision, until: held.until }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who takes part now.
pub(super) async fn alive(store: &Store, consumer: &str) -> Result<BTreeSet<String>, Fault> {
    let records = store.list(&format!("member.{consumer}.*")).await?;
    let members = records.into_iter().filter_map(|(_, entry)| v1::MemberRecord::decode(entry.value).ok());
    Ok(members.map(|record| record.member).filter(|member| !member.is_empty()).collect())
}
