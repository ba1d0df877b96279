//! What was put aside by a process that is gone is called back by another one.
//!
//! Only the process that put something aside remembers for what target it waits. So from the first time that it does, it
//! keeps a record in the service's store, and writes it anew all the time; the others look whether it changes. Where one does
//! not for its time, whoever sees that takes it over: writes it in its own name, at the revision that it saw, and goes on doing
//! so. Then it reads the lane and calls back each copy whose holder has no record. Should it end in the middle, the record is
//! silent again, and the next one begins anew: what was called is no holder's any more.
//!
//! Who drains does not end its record, even where nothing waits here any more: a copy may be on its way to the lane in its name,
//! and one that is called may not get there. What ends it is that somebody has looked.
//!
//! No clock is compared with another's: a record is silent when *this* process has seen the same revision for so long. A process
//! that could not write its record for as long does not count on the others ([`Targets::set_known`]).

mod orphans;

use std::{
    collections::{BTreeSet, HashMap},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use mesh_proto::v1::HolderRecord;
use prost::Message as _;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval};

use super::{targets::Targets, worker::Worker};
use crate::{
    bus::PublishError,
    fault::{Fault, Reason},
    store::{Entry, Store, Written},
    subject,
};

/// How long a record stays that nobody writes: what waited came back by itself long ago.
const STAYS: Duration = Duration::from_secs(6 * 3600);
/// How long one stays that has ended: the broker counts whole seconds.
const GONE: Duration = Duration::from_secs(1);
/// A look asks once for each record: with so many, each process looks more seldom.
const LOOK_FOR_EACH: Duration = Duration::from_millis(200);
/// Who may not read its lanes asks again after so long.
const DENIED_FOR: Duration = Duration::from_secs(300);

/// A record that this process writes.
struct Ours {
    key: String,
    revision: u64,
}

/// A record of somebody else's, as it was seen first.
struct Seen {
    revision: u64,
    since: Instant,
}

/// What a process knows of itself and the others.
struct Holders<'a> {
    worker: &'a Worker,
    targets: &'a Targets,
    /// As whom it writes, unique.
    id: Arc<str>,
    own: Option<Ours>,
    /// Whether it has put something aside, so that others must know of it.
    is_wanted: bool,
    taken: Vec<Ours>,
    seen: HashMap<String, Seen>,
    /// When it last looked, and is to look again.
    looked: Instant,
    next_look: Instant,
    /// When it may ask again to be known, after it was denied.
    not_before: Instant,
    /// Whether it was said that others don't know of it.
    has_warned: bool,
}

impl Worker {
    /// Is known to the others from the first that it puts aside, and calls back for those that are gone, until the scope stops.
    /// Then its own record is silent, and others find what it has left.
    pub(super) async fn call_for_the_gone(self: Arc<Self>) {
        let Some(targets) = &self.isolation else { return };
        let mut holders = Holders::new(&self, targets);
        tokio::select! {
            biased;
            () = self.scope.stopped() => {}
            () = holders.work() => {}
        }
    }
}

impl<'a> Holders<'a> {
    fn new(worker: &'a Worker, targets: &'a Targets) -> Holders<'a> {
        let (id, now) = (new_id(), Instant::now());
        Holders {
            worker,
            targets,
            id,
            own: None,
            is_wanted: false,
            taken: Vec::new(),
            seen: HashMap::new(),
            looked: now,
            next_look: now,
            not_before: now,
            has_warned: false,
        }
    }

    async fn work(&mut self) {
        let mut tick = interval(self.period());
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                () = self.targets.unknown(), if !self.is_wanted => {
                    self.is_wanted = true;
                    // Most of what follows may then wait for long.
                    self.stay_known().await;
                    continue;
                }
            }
            self.look().await;
            if !self.taken.is_empty() {
                self.call(&mut tick).await;
            }
        }
    }

    fn store(&self) -> &'a Store {
        &self.worker.store
    }

    /// How often it writes and looks.
    fn period(&self) -> Duration {
        (self.targets.rule().silent / 3).max(Duration::from_millis(100))
    }

    /// Writes what it keeps, and takes over what is silent.
    async fn look(&mut self) {
        self.stay_known().await;
        self.renew_taken().await;
        if Instant::now() < self.next_look.max(self.not_before) {
            return;
        }
        match records(self.store(), &self.worker.lane.consumer).await {
            Ok(found) => self.take_silent(found).await,
            Err(fault) => {
                tracing::debug!(%fault, consumer = %self.worker.lane.durable(), "who is gone is not known now");
            }
        }
    }

    async fn take_silent(&mut self, found: Vec<(String, Entry)>) {
        let many = u32::try_from(found.len()).unwrap_or(u32::MAX);
        let between = self.period().max(LOOK_FOR_EACH.saturating_mul(many));
        // Who could not look for a while knows nothing of the others: they could not write either, perhaps.
        if self.looked.elapsed() > between * 2 {
            self.seen.clear();
        }
        self.looked = Instant::now();
        self.next_look = self.looked + LOOK_FOR_EACH.saturating_mul(many);
        self.seen.retain(|key, _| found.iter().any(|(found, _)| found == key));
        for (key, entry) in found {
            let is_ours = self.own.iter().chain(&self.taken).any(|ours| ours.key == key);
            if !is_ours && self.is_silent(&key, &entry) {
                self.take(key, entry.revision).await;
            }
        }
    }

    /// Whether nobody wrote it since it was first seen so, for as long as this process or its writer may be silent.
    fn is_silent(&mut self, key: &str, entry: &Entry) -> bool {
        match self.seen.get(key) {
            Some(seen) if seen.revision == entry.revision => {
                let its_own = u64::try_from(record(entry).silent_ms).map(Duration::from_millis).unwrap_or_default();
                seen.since.elapsed() >= self.targets.rule().silent.max(its_own)
            }
            _ => {
                self.seen.insert(key.to_owned(), Seen { revision: entry.revision, since: Instant::now() });
                false
            }
        }
    }

    async fn take(&mut self, key: String, revision: u64) {
        match self.write(&key, revision, &self.id, STAYS).await {
            Ok(Written::At(revision)) => {
                self.seen.remove(&key);
                self.taken.push(Ours { key, revision });
            }
            Ok(Written::Conflict) => {}
            // If it was written all the same, it is found silent again.
            Err(error) => tracing::debug!(%error, "what a process that is gone keeps was not taken over yet"),
        }
    }

    /// Writes its own record, if others are to know of it. They do from the moment that it asked for that, for the time.
    async fn stay_known(&mut self) {
        if !self.is_wanted || Instant::now() < self.not_before {
            return;
        }
        match self.write_own().await {
            Ok(()) => self.has_warned = false,
            Err(fault) => {
                if fault.reason() == Reason::AccessDenied {
                    self.not_before = Instant::now() + DENIED_FOR;
                }
                let is_known = self.targets.holder().is_some();
                if !is_known && !std::mem::replace(&mut self.has_warned, true) {
                    tracing::warn!(
                        %fault,
                        consumer = %self.worker.lane.durable(),
                        "what waits for a target that is down comes back every two minutes until this is mended (if access is denied: mesh keys makes users that may); said once"
                    );
                }
            }
        }
    }

    async fn write_own(&mut self) -> Result<(), Fault> {
        // The second time in its new name, where somebody took the old one over.
        for _ in 0..2 {
            let (key, revision) = match &self.own {
                Some(own) => (own.key.clone(), own.revision),
                None => {
                    // Who may not read the lane calls back for nobody, so others might not do it for this process either.
                    self.worker.bus.last_sequence_on(&self.worker.lane.stream(), &self.held()).await?;
                    (format!("holder.{}.{}", self.worker.lane.consumer, self.id), 0)
                }
            };
            let asked = Instant::now();
            let written = self.write(&key, revision, &self.id, STAYS).await;
            match written.map_err(|error| error.into_fault("the record of a process that puts work aside"))? {
                Written::At(revision) => {
                    self.own = Some(Ours { key, revision });
                    self.targets.set_known(Some((Arc::clone(&self.id), asked + self.targets.rule().silent)));
                    return Ok(());
                }
                Written::Conflict => match self.ours_after_all(key).await? {
                    Some(own) => self.own = Some(own),
                    None => {
                        self.targets.set_known(None);
                        (self.own, self.id) = (None, new_id());
                    }
                },
            }
        }
        Ok(())
    }

    /// A record that bears this process's name although it was not heard that it was written.
    async fn ours_after_all(&self, key: String) -> Result<Option<Ours>, Fault> {
        let entry = self.store().get(&key).await?;
        let ours = entry.filter(|entry| record(entry).by == *self.id);
        Ok(ours.map(|entry| Ours { key, revision: entry.revision }))
    }

    /// Writes what it has taken over, so that others see that it is at work. What somebody else has by now is that one's.
    async fn renew_taken(&mut self) {
        for taken in std::mem::take(&mut self.taken) {
            match self.write(&taken.key, taken.revision, &self.id, STAYS).await {
                Ok(Written::At(revision)) => self.taken.push(Ours { revision, ..taken }),
                Ok(Written::Conflict) => {
                    if let Ok(Some(ours)) = self.ours_after_all(taken.key).await {
                        self.taken.push(ours);
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, "what a process that is gone keeps was not written anew yet");
                    self.taken.push(taken);
                }
            }
        }
    }

    /// Calls back what has nobody's name who is there, and ends the records that it had taken over before.
    async fn call(&mut self, tick: &mut Interval) {
        let worker = self.worker;
        let gone: BTreeSet<String> = self.taken.iter().filter_map(|taken| holder_of(&taken.key)).collect();
        let calling = worker.call_orphans(gone.clone(), self.held());
        let mut calling = pin!(calling);
        let called = loop {
            tokio::select! {
                biased;
                called = &mut calling => break called,
                () = self.targets.unknown(), if !self.is_wanted => self.is_wanted = true,
                _ = tick.tick() => {}
            }
            // It may be long work, and another one may end meanwhile.
            self.look().await;
        };
        match called {
            Ok(count) => {
                if count > 0 {
                    tracing::info!(count, consumer = %worker.lane.durable(), "called back what processes that are gone had put aside");
                }
                let is_over = |taken: &Ours| holder_of(&taken.key).is_some_and(|holder| gone.contains(&holder));
                let (over, later): (Vec<_>, Vec<_>) = std::mem::take(&mut self.taken).into_iter().partition(is_over);
                self.taken = later;
                for Ours { key, revision } in over {
                    // Left as it is, it would be taken over once more.
                    let _ = self.write(&key, revision, "", GONE).await;
                }
            }
            Err(fault) => {
                if fault.reason() == Reason::AccessDenied {
                    // Somebody else may.
                    self.taken.clear();
                    self.not_before = Instant::now() + DENIED_FOR;
                }
                tracing::warn!(%fault, consumer = %worker.lane.durable(), "what processes that are gone had put aside is not all called back yet: tried again");
            }
        }
    }

    async fn write(&self, key: &str, revision: u64, by: &str, stays: Duration) -> Result<Written, PublishError> {
        let silent_ms = i64::try_from(self.targets.rule().silent.as_millis()).unwrap_or(i64::MAX);
        let record = HolderRecord { by: by.to_owned(), at_ms: self.store().now_ms(), silent_ms };
        self.store().put(key, record.encode_to_vec().into(), revision, Some(stays)).await
    }

    /// Where the consumer's copies wait.
    fn held(&self) -> String {
        let lane = &self.worker.lane;
        subject::lane_hold(&lane.region, &lane.service, &lane.consumer, "*")
    }
}

/// The records of a consumer's holders that have not ended.
async fn records(store: &Store, consumer: &subject::Name) -> Result<Vec<(String, Entry)>, Fault> {
    let mut found = store.list(&format!("holder.{consumer}.*")).await?;
    found.retain(|(_, entry)| !record(entry).by.is_empty());
    Ok(found)
}

/// Whose record it is.
fn holder_of(key: &str) -> Option<String> {
    key.rsplit('.').next().map(str::to_owned)
}

fn record(entry: &Entry) -> HolderRecord {
    HolderRecord::decode(entry.value.clone()).unwrap_or_default()
}

fn new_id() -> Arc<str> {
    nuid::next().as_str().into()
}
