//! The duty that what waits on a lane comes back: a copy that the broker did not emit when it was due is stored anew.
//!
//! nats-server does not try a second time what it could not store when it was due, for want of room (decision 0001). A lane is a
//! queue, of which the broker gives no second reader: each copy is asked for once, when the keeper first sees it, no faster than one in a
//! millisecond; then only its time is kept, and it is looked at again when that has come. So a lane with a million copies that are
//! due next week costs a question each, and after that one question for the whole lane in each sweep.
//!
//! Nobody's clock but the broker's counts. A copy is overdue when the same leader has left it there for a while after it was
//! due: one that begins emits all that is due by itself, and in a cluster what is stored anew in that moment would come twice.

mod book;

use std::{collections::BTreeMap, time::Duration};

use tokio::time::{Interval, MissedTickBehavior, interval};

use self::book::Book;
use super::KeeperSettings;
use crate::{
    bus::{Bus, Moment},
    clock::millis,
    delayed,
    fault::Fault,
    subject::WIRE,
    telemetry::metrics::Metrics,
};

/// Copies that one sweep reads of a lane, and that it looks at again; the next one, at once, goes on after them.
const LOOKED_AT: usize = 4096;
/// Copies of a lane that are kept in memory, of those that are due first: about 6 MiB. The others are read again in their time.
const KEPT: usize = 262_144;
/// Copies are read no faster than one in so long: others use the broker.
const READ_PACE: Duration = Duration::from_millis(1);

/// Sweeps until it is dropped.
pub(super) async fn run(bus: &Bus, metrics: &Metrics, settings: &KeeperSettings) {
    let mut sweeps = interval(settings.overdue_every.max(READ_PACE));
    sweeps.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut reads = interval(READ_PACE);
    reads.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let after_ms = millis(settings.overdue_after);
    let mut sweep = Sweep { bus, metrics, after_ms, reads, lanes: BTreeMap::new() };
    loop {
        sweeps.tick().await;
        while let Looked::NotAll = Box::pin(sweep.once()).await {}
    }
}

/// How far a sweep came.
enum Looked {
    /// As far as it could.
    All,
    /// There is more to look at now.
    NotAll,
}

struct Sweep<'a> {
    bus: &'a Bus,
    metrics: &'a Metrics,
    /// For how long a leader must leave a copy there, milliseconds.
    after_ms: i64,
    reads: Interval,
    lanes: BTreeMap<String, Book>,
}

impl Sweep<'_> {
    /// One look at each lane. One that can't be looked at does not hold up the others.
    async fn once(&mut self) -> Looked {
        let lanes = match self.bus.stream_names(&format!("{WIRE}-lane-")).await {
            Ok(lanes) => lanes,
            Err(fault) => {
                tracing::warn!(%fault, "the lanes could not be looked at for what is overdue; they are again soon");
                return Looked::All;
            }
        };
        self.lanes.retain(|lane, _| lanes.contains(lane));
        let mut looked = Looked::All;
        for lane in lanes {
            let mut book = self.lanes.remove(&lane).unwrap_or_else(|| Book::new(KEPT));
            match self.look(&lane, &mut book).await {
                Ok(Looked::All) => {}
                Ok(Looked::NotAll) => looked = Looked::NotAll,
                Err(fault) => {
                    tracing::warn!(%fault, lane, "what is overdue could not be looked at; it is looked at again soon");
                }
            }
            self.lanes.insert(lane, book);
        }
        looked
    }

    async fn look(&mut self, lane: &str, book: &mut Book) -> Result<Looked, Fault> {
        let Some(moment) = self.bus.moment(lane).await? else { return Ok(Looked::All) };
        book.begin(&moment);
        let read = self.read(lane, book, &moment).await?;
        let late = book.to_look_at(&moment, self.after_ms, LOOKED_AT);
        let is_all = late.len() < LOOKED_AT;
        let mut stored = 0;
        let looked = self.look_at_all(lane, book, (late, &moment), &mut stored).await;
        if stored > 0 {
            self.metrics.copies_stored_anew(lane, stored);
            tracing::warn!(
                lane,
                copies = stored,
                "copies that the broker did not emit when they were due were stored anew, and come now; it had no room, perhaps: mesh ledger shows what is full"
            );
        }
        looked.map(|()| if is_all { read } else { Looked::NotAll })
    }

    /// Looks which of them are there still, and stores anew those that are overdue. The first that is refused ends it: what one finds
    /// no room for, the others hardly do.
    async fn look_at_all(
        &mut self,
        lane: &str,
        book: &mut Book,
        (late, moment): (Vec<(i64, u64)>, &Moment),
        stored: &mut u64,
    ) -> Result<(), Fault> {
        for copy in late {
            self.reads.tick().await;
            let (_, sequence) = copy;
            let held = self.bus.message_at(lane, sequence).await?;
            if held.is_some() && !book.is_overdue(sequence, self.after_ms, moment) {
                continue;
            }
            if let Some(held) = held {
                let anew = delayed::rearm(self.bus, held.open().envelope, moment.now_ms).await;
                let anew = anew.map_err(|error| error.into_fault("a copy that is overdue, which waits on its lane"))?;
                *stored += u64::from(anew);
            }
            // It has another sequence now, at which it is read; or the broker emitted it, or somebody else was faster.
            book.forget(copy);
        }
        Ok(())
    }

    /// Reads on, what it has not read yet.
    async fn read(&mut self, lane: &str, book: &mut Book, moment: &Moment) -> Result<Looked, Fault> {
        let held = format!("{WIRE}.lane.{}.*.*.hold.*", self.bus.gate().identity().region());
        for _ in 0..LOOKED_AT {
            let Some(next) = book.next(moment) else { return Ok(Looked::All) };
            self.reads.tick().await;
            let Some(copy) = self.bus.next_on_elected(lane, &held, next).await? else {
                book.read_all(moment);
                return Ok(Looked::All);
            };
            let copy = copy.open().envelope;
            let sequence = copy.delivery.as_ref().map_or(next, |delivery| delivery.sequence);
            book.read(sequence, delayed::due_of(&copy));
        }
        Ok(Looked::NotAll)
    }
}
