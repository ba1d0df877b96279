//! The relay: reads rows in sequence, publishes many at once, deletes what the broker confirmed.
//!
//! Of all relays on a database one is at work, by a lease that each of its writes renews. A round is: read; write down
//! what became of earlier rows and which are about to be sent; send. Confirmations come in between rounds, and what may
//! go then goes at once. Nothing is sent unless the lease was renewed within its own term, and the bus looks at that once more
//! when it hands the message over ([`Leave`]): a relay that was stopped for long, or cut off from the broker, hands over nothing old
//! when it wakes. Whoever does not reach the broker gives the lease up.
//!
//! Each step of the database has a limit. One that was given up may have been done all the same: a write is made anew then, which does
//! no harm, and what it was to allow is not done.

use std::{future::Future, time::Duration};

use futures_util::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use tokio::time::Instant;

use super::{
    AfterWindow, Database, Outbox, RelaySettings,
    attempt::{Done, How, publish},
    limit::Limit,
    sent::{Sent, Turn},
    store::{Refusal, Write},
    window::{Limits, Row, Window},
};
use crate::{
    clock::{TaskScope, Term},
    gate::Leave,
    telemetry::metrics::{OutboxMetrics, Relayed},
};

/// After so many failures of the database in a row, another relay may try.
const MAX_FAILURES: u32 = 3;

type UnderWay = FuturesUnordered<BoxFuture<'static, Done>>;

/// The relay of one process, at work or waiting for its turn.
pub(crate) struct Relay<D: Database> {
    outbox: Outbox<D>,
    settings: RelaySettings,
    metrics: OutboxMetrics,
    scope: TaskScope,
    abort: TaskScope,
    owner: String,
    window: Window,
    sent: Sent,
    confirmed: Vec<i64>,
    refusals: Vec<Refusal>,
    /// What ended while the database was waited for.
    ended: Vec<Done>,
    refused_rows: i64,
    /// Until when others are surely kept from relaying.
    term: Term,
    /// Since when the broker is not reached.
    away_since: Option<Instant>,
    /// Somebody rang, or it is time to look.
    is_called: bool,
    /// The last read left something out.
    has_more: bool,
}

impl<D: Database> Relay<D> {
    pub(crate) fn new(
        outbox: &Outbox<D>,
        settings: RelaySettings,
        about: (OutboxMetrics, &TaskScope, &TaskScope),
    ) -> Relay<D> {
        let (metrics, scope, abort) = about;
        Relay {
            outbox: outbox.clone(),
            window: Window::new(Limits::of(settings.window)),
            settings,
            metrics,
            scope: scope.clone(),
            abort: abort.clone(),
            owner: format!("{:016x}", fastrand::u64(1..)),
            sent: Sent::default(),
            confirmed: Vec::new(),
            refusals: Vec::new(),
            ended: Vec::new(),
            refused_rows: 0,
            term: Term::default(),
            away_since: None,
            is_called: true,
            has_more: false,
        }
    }

    /// Relays whenever no other does, until the scope stops. What is under way then comes to its end.
    pub(crate) async fn run(mut self) {
        while !self.scope.is_stopping() {
            match self.claim_if_connected().await {
                Ok(true) => {
                    tracing::info!(outbox = D::NAME, "this process relays the outbox");
                    self.lead().await;
                }
                Ok(false) => {}
                Err(error) => tracing::warn!(%error, outbox = D::NAME, "the outbox can't be read: trying again"),
            }
            tokio::select! {
                () = self.scope.stopped() => {}
                () = tokio::time::sleep(self.settings.poll) => {}
            }
        }
    }

    /// Who does not reach the broker leaves the relaying to others.
    async fn claim_if_connected(&mut self) -> Result<bool, sqlx::Error> {
        if self.is_connected() { self.claim().await } else { Ok(false) }
    }

    async fn claim(&mut self) -> Result<bool, sqlx::Error> {
        let began = Instant::now();
        let (pool, limit) = (&self.outbox.pool, self.limit());
        if !limit.hold(D::claim(pool, &self.owner, ms(self.settings.lease))).await? {
            return Ok(false);
        }
        // A new one: what was sent in the last one may not leave in this.
        self.term = Term::default();
        self.term.extend_to(began + self.settings.lease);
        self.away_since = None;
        self.sent.load(limit.hold(D::turns(pool)).await?);
        let listed = self.sent.rows();
        let there = limit.hold(D::existing(pool, &listed)).await?;
        for gone in listed.into_iter().filter(|sequence| !there.contains(sequence)) {
            self.sent.forget(gone);
        }
        self.refused_rows = limit.hold(D::refused(pool)).await?;
        self.metrics.refused_rows(self.refused_rows);
        (self.is_called, self.has_more) = (true, false);
        Ok(true)
    }

    /// Until the scope stops or another relay has taken over.
    async fn lead(&mut self) {
        let mut under_way = UnderWay::new();
        let mut failures = 0;
        while !self.scope.is_stopping() && self.still_leads() {
            if self.wants_a_round() {
                let round = self.round(&mut under_way).await;
                failures = if round.is_ok() { 0 } else { failures + 1 };
                if let Err(error) = round {
                    tracing::warn!(%error, failures, outbox = D::NAME, "the outbox's database failed: trying again");
                    self.drop_waiting();
                    if failures >= MAX_FAILURES {
                        self.term.end();
                    }
                    beside(tokio::time::sleep(self.settings.poll), &mut under_way, &mut self.ended).await;
                }
                self.settle_ended();
                self.send(&mut under_way);
            } else {
                self.wait(&mut under_way).await;
            }
        }
        self.finish(under_way).await;
    }

    /// Whether the term goes on. It ends when the broker was not reached for as long as a lease takes: another relay may reach it.
    fn still_leads(&mut self) -> bool {
        if self.is_connected() {
            self.away_since = None;
        } else if self.away_since.get_or_insert_with(Instant::now).elapsed() >= self.settings.lease {
            tracing::warn!(outbox = D::NAME, "the broker is away: another process may relay the outbox");
            self.term.end();
        }
        self.term.until().is_some()
    }

    /// What is under way ends, and what became of it is written down.
    async fn finish(&mut self, mut under_way: UnderWay) {
        self.settle_ended();
        self.drop_waiting();
        while !under_way.is_empty() {
            let abort = self.abort.clone();
            tokio::select! {
                Some(done) = under_way.next() => self.settle(done),
                () = abort.stopped() => break,
            }
        }
        if let Err(error) = self.write(Vec::new(), &mut under_way).await {
            tracing::warn!(%error, outbox = D::NAME, "what was confirmed last stays in the outbox: it is sent again, with the same ids");
        }
        // Best effort: a lease that is not given back runs out.
        let _ = self.limit().hold(D::release(&self.outbox.pool, &self.owner)).await;
        self.term.end();
    }

    fn limit(&self) -> Limit {
        Limit::new(self.settings.lease, &self.scope)
    }

    fn wants_a_round(&self) -> bool {
        let settled = self.confirmed.len() + self.refusals.len();
        let idle = self.window.under_way() == 0;
        let more = self.is_called || (self.has_more && settled > 0);
        let trial = self.window.next_trial_ms().is_some_and(|at| at <= self.now_ms());
        let trial = trial && self.window.free() > 0 && self.is_connected();
        (more && self.window.has_room())
            || settled > self.settings.window / 4
            || (idle && settled > 0)
            || self.lease_is_due()
            || trial
    }

    fn lease_is_due(&self) -> bool {
        self.term.until().is_none_or(|until| until < Instant::now() + self.settings.lease / 2)
    }

    async fn wait(&mut self, under_way: &mut UnderWay) {
        let (scope, bell) = (self.scope.clone(), self.outbox.bell.clone());
        tokio::select! {
            biased;
            () = scope.stopped() => {}
            Some(done) = under_way.next(), if !under_way.is_empty() => {
                self.settle(done);
                while let Some(Some(done)) = under_way.next().now_or_never() {
                    self.settle(done);
                }
                self.send(under_way);
            }
            () = bell.notified() => self.is_called = true,
            () = tokio::time::sleep(self.settings.poll.min(self.settings.lease / 4)) => self.is_called = true,
        }
    }

    async fn round(&mut self, under_way: &mut UnderWay) -> Result<(), sqlx::Error> {
        let (now_ms, limit) = (self.now_ms(), self.limit());
        let pool = self.outbox.pool.clone();
        let mut taken = Vec::new();
        self.is_called = false;
        let ask = self.window.ask();
        if ask.limit > 0 {
            let read = limit.hold(D::read(&pool, &ask, None, now_ms));
            let rows = beside(read, under_way, &mut self.ended).await?;
            let bytes: usize = rows.iter().map(Row::size).sum();
            self.has_more = rows.len() >= ask.limit || bytes > ask.bytes;
            taken = self.take_in(rows, now_ms);
            self.has_more |= self.window.has_full_lines();
        }
        // One that is tried while the broker is away would only wait here.
        let trials = if self.is_connected() { self.window.trials(now_ms) } else { Vec::new() };
        for place in trials {
            let ask = self.window.ask();
            let read = limit.hold(D::read(&pool, &ask, Some(&place), now_ms));
            let rows = beside(read, under_way, &mut self.ended).await?;
            if rows.is_empty() {
                self.window.empty(&place);
            }
            taken.extend(self.take_in(rows, now_ms));
        }
        self.write(taken, under_way).await
    }

    /// Takes in what was read. What may have been stored longer ago than the broker remembers is repeated or parked.
    fn take_in(&mut self, rows: Vec<Row>, now_ms: i64) -> Vec<i64> {
        let mut fits = Vec::with_capacity(rows.len());
        for row in rows {
            let since = self.sent.since(row.sequence);
            if since.is_some_and(|since| now_ms.saturating_sub(since) >= ms(self.settings.repeat_within)) {
                self.sent.forget(row.sequence);
                self.metrics.relayed(Relayed::Doubtful);
                if self.settings.after_window == AfterWindow::Park {
                    self.park(&row, now_ms);
                    continue;
                }
                tracing::warn!(place = %row.place, id = %row.id, sequence = row.sequence,
                    "sent again though it may have been stored: its first attempt is older than the broker's memory");
            }
            fits.push(row);
        }
        self.window.absorb(fits)
    }

    fn park(&mut self, row: &Row, now_ms: i64) {
        let reason = "parked: it may have been stored, longer ago than the broker remembers";
        tracing::error!(place = %row.place, id = %row.id, sequence = row.sequence, reason, "a row of the outbox stops its key");
        self.window.stop(row);
        self.refusals.push(Refusal {
            sequence: row.sequence,
            reason: reason.into(),
            at_ms: now_ms,
            again_ms: i64::MAX,
        });
    }

    /// Writes down what became of rows, and that those of `taken` may be sent from now on.
    async fn write(&mut self, taken: Vec<i64>, under_way: &mut UnderWay) -> Result<(), sqlx::Error> {
        let fresh: Vec<i64> = taken.into_iter().filter(|sequence| self.sent.since(*sequence).is_none()).collect();
        let turn = Turn { id: fastrand::i64(1..), at_ms: self.now_ms(), sequences: fresh };
        let turn = (!turn.sequences.is_empty()).then_some(turn);
        let write = Write {
            owner: self.owner.clone(),
            lease_ms: ms(self.settings.lease),
            confirmed: self.confirmed.clone(),
            refusals: self.refusals.clone(),
            over: self.sent.over().to_vec(),
            turn,
        };
        if write.is_empty() && !self.lease_is_due() {
            return Ok(());
        }
        let (began, pool, limit) = (Instant::now(), self.outbox.pool.clone(), self.limit());
        let written = beside(limit.hold(D::write(&pool, &write)), under_way, &mut self.ended).await;
        if let (Err(_), Some(turn)) = (&written, &write.turn) {
            self.sent.unwritten(turn);
        }
        let leads = written?;
        if leads {
            self.term.extend_to(began + self.settings.lease)
        } else {
            self.term.end()
        }
        let refused: Vec<i64> = self.refusals.iter().map(|refusal| refusal.sequence).collect();
        self.window.written(&write.confirmed);
        self.window.written(&refused);
        self.sent.written(&write.over);
        self.confirmed.clear();
        self.refusals.clear();
        if let Some(turn) = write.turn {
            self.sent.add(turn);
        }
        if !leads {
            tracing::warn!(outbox = D::NAME, "another process relays the outbox now");
            self.drop_waiting();
        }
        if self.refused_rows > 0 || !write.refusals.is_empty() {
            self.refused_rows = beside(limit.hold(D::refused(&pool)), under_way, &mut self.ended).await?;
            self.metrics.refused_rows(self.refused_rows);
        }
        Ok(())
    }

    /// Sends what may go. While the broker is away nothing may, and nothing fails because of it.
    fn send(&mut self, under_way: &mut UnderWay) {
        if self.term.is_over() || !self.is_connected() {
            return;
        }
        let now_ms = self.now_ms();
        for row in self.window.choose() {
            let leave = Leave { term: self.term.clone(), latest: self.latest(row.sequence, now_ms) };
            under_way.push(Box::pin(publish(self.outbox.bus.clone(), row, leave)));
        }
    }

    /// Until when the broker surely knows a row again that may have been stored; what surely was not is counted from now on.
    fn latest(&self, sequence: i64, now_ms: i64) -> Instant {
        let repeat_within = self.settings.repeat_within;
        let since = self.sent.doubtful_since(sequence).unwrap_or(now_ms);
        let passed = Duration::from_millis(u64::try_from(now_ms.saturating_sub(since)).unwrap_or(0));
        Instant::now() + repeat_within.saturating_sub(passed)
    }

    fn settle_ended(&mut self) {
        for done in std::mem::take(&mut self.ended) {
            self.settle(done);
        }
    }

    fn settle(&mut self, done: Done) {
        let (sequence, place, now_ms) = (done.sequence, done.place, self.now_ms());
        match done.how {
            How::Confirmed { duplicate } => {
                self.window.confirmed(sequence);
                self.sent.forget(sequence);
                self.confirmed.push(sequence);
                self.metrics.relayed(if duplicate { Relayed::Duplicate } else { Relayed::Confirmed });
            }
            How::Refused(reason) => {
                tracing::error!(place, sequence, reason, "a row of the outbox is refused and stops its key");
                self.window.refused(sequence);
                self.sent.not_stored(sequence);
                let again_ms = now_ms.saturating_add(ms(self.settings.refused_again));
                self.refusals.push(Refusal { sequence, reason, at_ms: now_ms, again_ms });
                self.metrics.relayed(Relayed::Refused);
            }
            How::Postponed { why, is_unknown } => {
                if self.window.postponed(sequence, now_ms) {
                    tracing::warn!(place, why, "the outbox pauses here; its rows stay");
                }
                if is_unknown {
                    self.sent.doubt(sequence);
                } else {
                    self.sent.not_stored(sequence);
                }
                self.metrics.relayed(Relayed::Postponed);
            }
        }
        self.forget_dropped();
        self.metrics.paused(self.window.paused().count());
    }

    fn drop_waiting(&mut self) {
        self.window.forget_waiting();
        self.forget_dropped();
    }

    /// What was not sent is not doubtful by it.
    fn forget_dropped(&mut self) {
        for sequence in self.window.take_dropped() {
            self.sent.not_stored(sequence);
        }
    }

    fn is_connected(&self) -> bool {
        self.outbox.bus.link_state().is_connected
    }

    fn now_ms(&self) -> i64 {
        self.outbox.bus.gate().clock().now_ms()
    }
}

/// Waits for the database while messages go on; what ended meanwhile is kept for later.
async fn beside<T>(work: impl Future<Output = T>, under_way: &mut UnderWay, ended: &mut Vec<Done>) -> T {
    let mut work = std::pin::pin!(work);
    loop {
        tokio::select! {
            biased;
            out = &mut work => return out,
            Some(done) = under_way.next(), if !under_way.is_empty() => ended.push(done),
        }
    }
}

fn ms(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}
