//! The job's own records: what its runner says, one at a time.

use std::{sync::Arc, time::Duration};

use mesh_proto::v1::{self, job_record::Record};
use tokio::time::Instant;

use super::{
    super::{fold::to_wire, lanes::Waiting, log::append},
    Ended, Runner,
};
use crate::{
    bus::PublishError,
    policy::replay::{Counts, checkpoint_every_ms},
};

/// How long after a refused record the next one is tried.
const WRITE_AGAIN: Duration = Duration::from_millis(250);
/// So many consumers whose lanes are away are named.
const MAX_NAMED: usize = 10;

/// Whether the same letters wait. Why they do is asked again and again, and is told in ever other words.
fn is_same(said: &[Waiting], now: &[Waiting]) -> bool {
    let counts = |it: &Waiting| (it.letters, it.copies);
    said.len() == now.len() && said.iter().zip(now).all(|(a, b)| a.consumer == b.consumer && counts(a) == counts(b))
}

/// The writing of the job's own records: one at a time.
pub(super) struct Log {
    /// The sequence of the last record that is known.
    pub(super) last: u64,
    is_writing: bool,
    /// Nothing is written until the log was read up to here.
    read_first: u64,
    not_before: Instant,
    next_checkpoint: Instant,
    /// What was last said.
    said: (Counts, usize, Vec<Waiting>),
    /// Why the job is to be given up, until that stands in the log.
    pub(super) abort: Option<String>,
    pub(super) is_finishing: bool,
}

impl Log {
    /// Of a job whose last record is at `last`, and whose last account said this.
    pub(super) fn new(last: u64, counts: Counts) -> Log {
        let now = Instant::now();
        Log {
            last,
            is_writing: false,
            read_first: 0,
            not_before: now,
            next_checkpoint: now,
            said: (counts, 0, Vec::new()),
            abort: None,
            is_finishing: false,
        }
    }
}

impl Runner {
    /// Writes what the log lacks, one record at a time. When to look again.
    pub(super) fn write(&mut self) -> Instant {
        let now = Instant::now();
        let far = now + Duration::from_secs(60);
        if self.log.is_writing || self.job.borrow().last_sequence < self.log.read_first {
            return far;
        }
        if now < self.log.not_before {
            return self.log.not_before;
        }
        let record = match self.record(now) {
            Ok(record) => record,
            Err(moment) => return moment.unwrap_or(far),
        };
        let (errand, after) = (Arc::clone(&self.errand), self.log.last);
        self.log.is_writing = true;
        self.under_way.push(Box::pin(async move {
            let result = append(&errand.bus, &errand.job, after, record).await;
            Ended::Written { after, result }
        }));
        far
    }

    /// The record that is to be written now; else when there will be one.
    fn record(&mut self, now: Instant) -> Result<Record, Option<Instant>> {
        let at_ms = self.errand.bus.gate().clock().now_ms();
        if let Some(why) = self.log.abort.clone().filter(|_| self.job.borrow().end.is_none()) {
            return Ok(Record::Aborted(v1::JobAct { at_ms, by: self.me.clone(), why }));
        }
        let counts = self.account.counts();
        let wire = Some(to_wire(&counts));
        let waiting: Vec<_> = self.account.waiting().into_iter().take(MAX_NAMED).collect();
        if self.log.is_finishing {
            let copied_through = self.account.copied_through();
            return Ok(Record::Finished(v1::JobFinished { at_ms, counts: wire, copied_through }));
        }
        if !self.account.is_caught_up()
            || (&self.log.said.0, self.log.said.1) == (&counts, self.step) && is_same(&self.log.said.2, &waiting)
        {
            return Err(None);
        }
        if now < self.log.next_checkpoint {
            return Err(Some(self.log.next_checkpoint));
        }
        let run_ms = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.log.next_checkpoint = now + Duration::from_millis(checkpoint_every_ms(run_ms));
        let step = if self.plan.canary.steps().is_empty() { 0 } else { self.step + 1 };
        let step = u32::try_from(step).unwrap_or(u32::MAX);
        let copied_through = self.account.copied_through();
        let told = waiting.iter().cloned().map(Waiting::into_wire).collect();
        self.log.said = (counts, self.step, waiting);
        Ok(Record::Checkpoint(v1::JobCheckpoint { at_ms, counts: wire, copied_through, step, waiting: told }))
    }

    pub(super) fn written(&mut self, after: u64, result: Result<u64, PublishError>) {
        self.log.is_writing = false;
        match result {
            Ok(sequence) => {
                self.log.last = self.log.last.max(sequence);
                self.log.read_first = sequence;
            }
            // Somebody ordered something, or an acknowledgement of ours was lost: the log says so in a moment.
            Err(error) if error.is_conflict() => self.log.read_first = after + 1,
            Err(error) => {
                tracing::warn!(%error, job = self.errand.job, "the job's log does not take a record: it is tried again");
                self.log.not_before = Instant::now() + WRITE_AGAIN;
            }
        }
    }
}
