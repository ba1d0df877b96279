//! Orders that were stored after their job had finished.
//!
//! An order that is not confirmed may be on its way for as long as its sender is cut off, or its cluster has no leader. Until it is
//! stored no reading finds it: its job, cancelled meanwhile, finishes, and so does one that another keeper took over. It stands
//! then, in a letter that is *replaying*, and nobody sends its copy. So the keeper reads every record of the letters once, and
//! sends the copy of each order that its job's last record does not know of.
//!
//! How far it has read outlives it, and is never said to be farther than what every job at work has seen to: whoever takes over
//! looks at those again. What a job that ends was ahead of is read once more, from where that job has read to.

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::{StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use mesh_proto::v1::letter_record::Record;
use tokio::sync::Notify;

use super::{
    Job,
    ask::again,
    dispatch::{Errand, wait},
};
use crate::{
    bus::{Bus, Follow, Followed, Stop},
    clock::patient_delays,
    dead_letter::record_of,
    envelope::Envelope,
    fault::Fault,
    operate::{position::Position, until_done::until_done},
    subject::{DEAD_LETTER_STREAM, Place, WIRE},
};

/// Under which name it is kept how far it has read.
const DUTY: &str = "late-orders";
/// Orders that are seen to at once.
const AT_ONCE: usize = 16;
/// How often it is written how far it has read.
const WRITE_EVERY: Duration = Duration::from_secs(1);

/// How a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stand {
    /// Its runner sees to its orders; up to this sequence it has.
    AtWork(u64),
    /// It has finished: its orders up to this sequence were seen to.
    Finished(u64),
}

/// How the jobs stand, for whoever sees to late orders.
#[derive(Debug, Clone, Default)]
pub(super) struct Book(Arc<Pages>);

#[derive(Debug, Default)]
struct Pages {
    known: Mutex<Known>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Known {
    jobs: BTreeMap<String, Stand>,
    /// Whether all that stood in the logs at first was told.
    is_read: bool,
    /// Jobs that have finished since, by how far they had read.
    finished: Vec<(String, u64)>,
}

impl Book {
    /// A job changed.
    pub(super) fn tell(&self, job: &Job) {
        self.known().tell(job);
        self.0.changed.notify_one();
    }

    /// All that stood in the logs was told.
    pub(super) fn is_read(&self) {
        self.known().is_read = true;
        self.0.changed.notify_one();
    }

    /// Whether an order is late. `None`: its job is not known.
    fn is_late(&self, given: &Given) -> Option<bool> {
        self.known().is_late(given)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn tell(&mut self, job: &Job) {
        let seen_to = job.checkpoint.copied_through.max(job.replay.cut_off);
        let now = if job.is_finished() { Stand::Finished(seen_to) } else { Stand::AtWork(seen_to) };
        let before = self.jobs.insert(job.id.clone(), now);
        // Those that had finished before were looked at: nobody is said to have read farther than a job at work.
        if job.is_finished() && self.is_read && before != Some(now) {
            self.finished.push((job.id.clone(), seen_to));
        }
    }

    /// What every job at work has seen to, and every one that has finished since.
    fn seen_to(&self) -> u64 {
        let at_work = self.jobs.values().filter_map(|stand| match stand {
            Stand::AtWork(seen_to) => Some(*seen_to),
            Stand::Finished(_) => None,
        });
        // Of a job that has finished the rest is read once more, and is in nobody's account until then.
        at_work.chain(self.finished.iter().map(|(_, seen_to)| *seen_to)).min().unwrap_or(u64::MAX)
    }

    fn is_late(&self, given: &Given) -> Option<bool> {
        self.jobs.get(&given.job).map(|stand| matches!(stand, Stand::Finished(seen_to) if given.at > *seen_to))
    }
}

/// An order of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Given {
    job: String,
    /// The letter's subject.
    subject: String,
    at: u64,
}

impl Given {
    /// `None`: it is none, or none of a job in this region.
    fn read(envelope: &Envelope, region: &str) -> Option<Given> {
        let at = envelope.delivery.as_ref()?.sequence;
        let is_here =
            matches!(Place::parse(&envelope.subject), Some(Place::DeadLetter { region: of, .. }) if of == region);
        match record_of(envelope)? {
            Record::Replaying(act) if is_here && !act.job.is_empty() => {
                Some(Given { job: act.job, subject: envelope.subject.clone(), at })
            }
            _ => None,
        }
    }
}

/// Whoever sees to late orders, at work.
pub(super) struct Late {
    bus: Bus,
    book: Book,
    position: Position,
    records: Follow,
    read_to: u64,
    /// Sequences that were read and are not worked off.
    left: BTreeSet<u64>,
    /// Each with when the stream was made that it counts in.
    under_way: FuturesUnordered<BoxFuture<'static, (i64, u64)>>,
}

impl Late {
    /// Finds out from where on orders are looked after, and keeps that: whoever comes next begins there. Where nobody has before,
    /// what stands already is left alone.
    pub(super) async fn begin(bus: &Bus, book: Book) -> Late {
        let mut delays = patient_delays();
        let position = loop {
            let mut position = until_done("how far the orders were read", || Position::load(bus, DUTY)).await;
            if position.stream_created_ms() != 0 {
                break position;
            }
            if let Followed::Another { created_ms, last_sequence } = bus.follow(DEAD_LETTER_STREAM, 0, 1).next().await {
                position.begin(created_ms);
                if let Err(fault) = position.advance(bus, last_sequence).await {
                    wait(&mut delays, &fault, "from where on orders are looked after is not written").await;
                }
            }
        };
        let read_to = position.sequence();
        let records = bus.follow(DEAD_LETTER_STREAM, position.stream_created_ms(), read_to + 1);
        let (left, under_way) = (BTreeSet::new(), FuturesUnordered::new());
        Late { bus: bus.clone(), book, position, records, read_to, left, under_way }
    }

    /// Until it is dropped.
    pub(super) async fn run(mut self) -> Infallible {
        while !self.book.known().is_read {
            self.book.0.changed.notified().await;
        }
        let book = self.book.clone();
        let mut writes = tokio::time::interval(WRITE_EVERY);
        loop {
            self.look_back().await;
            tokio::select! {
                followed = self.records.next(), if self.under_way.len() < AT_ONCE => match followed {
                    Followed::Another { created_ms, .. } => {
                        self.position.begin(created_ms);
                        (self.left, self.read_to) = (BTreeSet::new(), 0);
                    }
                    Followed::Message(message) => self.hear(&message.open().envelope).await,
                },
                Some((of, at)) = self.under_way.next(), if !self.under_way.is_empty() => {
                    if of == self.position.stream_created_ms() {
                        self.left.remove(&at);
                    }
                }
                () = book.0.changed.notified() => {}
                _ = writes.tick() => self.keep().await,
            }
        }
    }

    async fn hear(&mut self, envelope: &Envelope) {
        self.read_to = envelope.delivery.as_ref().map_or(self.read_to, |delivery| delivery.sequence);
        let Some(given) = Given::read(envelope, self.bus.gate().identity().region().as_str()) else { return };
        let mut is_late = self.book.is_late(&given);
        if is_late.is_none() {
            // Of a keeper that is ahead with the jobs' logs; or of nobody, where there is no such job.
            let job = until_done("a job", || find(&self.bus, &given.job)).await;
            job.iter().for_each(|job| self.book.tell(job));
            is_late = self.book.is_late(&given);
        }
        if is_late == Some(true) {
            self.see_to(given);
        }
    }

    /// Reads again what jobs that have finished since had not read.
    async fn look_back(&mut self) {
        loop {
            let Some((job, seen_to)) = self.book.known().finished.pop() else { return };
            if seen_to >= self.read_to {
                continue;
            }
            let (bus, read_to) = (&self.bus, self.read_to);
            let missed = until_done("what a job had not read", || orders_between(bus, &job, (seen_to, read_to))).await;
            missed.into_iter().for_each(|given| self.see_to(given));
        }
    }

    fn see_to(&mut self, given: Given) {
        if !self.left.insert(given.at) {
            return;
        }
        let (bus, of) = (self.bus.clone(), self.position.stream_created_ms());
        self.under_way.push(Box::pin(async move {
            tracing::warn!(job = given.job, subject = given.subject, "an order was stored after its job had finished");
            let job = until_done("a job", || find(&bus, &given.job)).await;
            if let Some(job) = job.filter(Job::is_finished) {
                let errand = Errand::of(&bus, &job);
                until_done("the copy of a late order", || errand.send_again(&given.subject, given.at)).await;
            }
            (of, given.at)
        }));
    }

    async fn keep(&mut self) {
        let worked_off = self.left.first().map_or(self.read_to, |first| first - 1);
        let seen_to = self.book.known().seen_to();
        write(&self.bus, &mut self.position, worked_off.min(seen_to)).await;
    }
}

/// What is not written is read again: every step finds what it did before.
async fn write(bus: &Bus, position: &mut Position, sequence: u64) {
    if sequence > position.sequence()
        && let Err(fault) = position.advance(bus, sequence).await
    {
        tracing::warn!(%fault, "how far the orders are read was not written; it is tried again");
    }
}

/// The job with this id. `None`: there is none.
async fn find(bus: &Bus, id: &str) -> Result<Option<Job>, Fault> {
    let is_id = !id.is_empty() && id.bytes().all(|b| b.is_ascii_alphanumeric());
    if is_id { again(bus, id).await } else { Ok(None) }
}

/// The orders of a job after one sequence and up to another.
async fn orders_between(bus: &Bus, job: &str, (after, to): (u64, u64)) -> Result<Vec<Given>, Fault> {
    let Some(job) = find(bus, job).await? else { return Ok(Vec::new()) };
    let (region, mut orders) = (bus.gate().identity().region(), Vec::new());
    let token = |name: Option<&crate::subject::Name>| name.map_or("*", |name| name.as_str()).to_owned();
    let filter = job.selection().filter;
    let (service, consumer) = (token(filter.service.as_ref()), token(filter.consumer.as_ref()));
    let filter = format!("{WIRE}.dead.{region}.{service}.{consumer}.*");
    bus.read_from(DEAD_LETTER_STREAM, &filter, after + 1, |message| {
        let envelope = message.open().envelope;
        let is_over = envelope.delivery.as_ref().is_none_or(|delivery| delivery.sequence > to);
        let given = Given::read(&envelope, region.as_str()).filter(|given| !is_over && given.job == job.id);
        orders.extend(given);
        if is_over { Stop::Yes } else { Stop::No }
    })
    .await?;
    Ok(orders)
}
