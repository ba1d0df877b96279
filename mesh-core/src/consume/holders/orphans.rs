//! Of what waits on the lane, what has nobody's name who is there is called back.

use std::{collections::BTreeSet, pin::pin, time::Duration};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::{holder_of, records};
use crate::{consume::worker::Worker, delayed, envelope::header, fault::Fault};

/// So many are called back at once.
const AT_ONCE: usize = 16;
/// Copies are read no faster than one in so long: others use the broker.
const READ_PACE: Duration = Duration::from_millis(1);

/// Who has a record, and who has none.
struct Living<'a> {
    worker: &'a Worker,
    alive: BTreeSet<String>,
    gone: BTreeSet<String>,
}

impl Living<'_> {
    /// Whether somebody calls back what this holder put aside. To be asked after the copy was read: a holder's record comes
    /// before its copies.
    async fn has(&mut self, holder: &str) -> Result<bool, Fault> {
        if !self.gone.contains(holder) && !self.alive.contains(holder) {
            let found = records(&self.worker.store, &self.worker.lane.consumer).await?;
            let ids = found.iter().filter_map(|(key, _)| holder_of(key));
            self.alive = ids.filter(|id| !self.gone.contains(id)).collect();
            if !self.alive.contains(holder) {
                self.gone.insert(holder.to_owned());
            }
        }
        Ok(self.alive.contains(holder))
    }
}

impl Worker {
    /// Calls back each copy on `held` whose holder is gone, of those that wait now; how many. Of `gone` it is known already.
    pub(super) async fn call_orphans(&self, gone: BTreeSet<String>, held: String) -> Result<usize, Fault> {
        let mut living = Living { worker: self, alive: BTreeSet::new(), gone };
        let stream = self.lane.stream();
        let Some(last) = self.bus.last_sequence_on(&stream, &held).await? else { return Ok(0) };
        let rate = self.isolation.as_ref().map_or(1, |targets| targets.rule().returns_per_s.max(1));
        let (mut reads, mut calls) = (paced(READ_PACE), paced(Duration::from_secs(1) / rate));
        let (mut next, mut count, mut calling) = (1, 0, FuturesUnordered::new());
        while next <= last {
            let copy = {
                let mut read = pin!(async {
                    reads.tick().await;
                    self.bus.next_on_elected(&stream, &held, next).await
                });
                // What is called goes on meanwhile.
                loop {
                    tokio::select! {
                        biased;
                        Some(called) = calling.next(), if !calling.is_empty() => count += usize::from(called?),
                        copy = &mut read => break copy?,
                    }
                }
            };
            let Some(copy) = copy else { break };
            let copy = copy.open().envelope;
            let Some(delivery) = &copy.delivery else { break };
            next = delivery.sequence + 1;
            let Some(holder) = copy.header(header::HOLDER) else { continue };
            if living.has(holder).await? {
                continue;
            }
            calls.tick().await;
            calling.push(delayed::call_back(&self.bus, &self.lane, copy, self.bus.gate().clock().now_ms()));
            if calling.len() >= AT_ONCE
                && let Some(called) = calling.next().await
            {
                count += usize::from(called?);
            }
        }
        while let Some(called) = calling.next().await {
            count += usize::from(called?);
        }
        Ok(count)
    }
}

/// Ticks so often, and makes up for nothing.
fn paced(each: Duration) -> Interval {
    let mut paced = interval(each.max(Duration::from_millis(1)));
    paced.set_missed_tick_behavior(MissedTickBehavior::Delay);
    paced
}
