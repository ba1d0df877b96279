//! What runs beside the owner's loop, one task each: an attempt from its beginning to its settlement, a message that is put
//! aside, a record that is written. Each tells the loop how it ended.
//!
//! A process that was stopped and wakes up too late does nothing more than what it was just about to do: before each step it
//! looks whether it is still the owner.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use mesh_proto::v1::{self, blocked_key::State};
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc, oneshot},
    time::Instant,
};
use tracing::Instrument as _;

use super::{Ordered, blocks::Blocks, blocks::record_of, members::Member};
use crate::{
    bus::Ack,
    clock::TaskScope,
    consume::{attempt::Ended, tenure::Tenure},
    dead_letter,
    delayed::{self, unique},
    envelope::{Envelope, LetterNote, TraceContext},
    fault::{Fault, crash_point},
    policy::order::{Ending, Plan, Slot},
    store::Written,
    telemetry::{metrics::How, trace},
};

/// How often, and how long, the news that a letter has ended is looked into: it may come before the record is stored.
const LOOKS: (usize, Duration) = (25, Duration::from_millis(200));

/// Messages of one partition that may wait in hand at once: more of them wait on the lane, where they take no room.
const WAITING: usize = 32;

/// How long it may take, once the ownership is lost, to write down that a handler was cancelled: without it, that start is taken
/// for one that ended the process.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// What the tasks of one partition share.
pub(super) struct Term {
    pub(super) ordered: Arc<Ordered>,
    pub(super) blocks: Blocks,
    /// Whether an owner before fell silent: of what was delivered then, anything may have ended its process.
    pub(super) in_doubt: bool,
    pub(super) member: Arc<Member>,
    /// Stops when the process is no longer the owner: nothing that still runs is settled.
    pub(super) lost: TaskScope,
    /// Stops when the process is to give the partition up.
    pub(super) give: TaskScope,
    pub(super) reports: mpsc::UnboundedSender<Report>,
    /// How many messages wait in hand for their next attempt.
    pub(super) waiting: AtomicUsize,
    /// Acks of attempts that may have been sent, and of which the loop has not heard.
    pub(super) unheard: AtomicUsize,
}

/// What a task tells the loop.
pub(super) enum Report {
    /// An attempt ended so: what is to be written, and since when its key is blocked?
    Asks(Slot, Ending, oneshot::Sender<(Plan, i64)>),
    /// It is settled.
    Settled(Slot, Ending),
    /// Its replay had ended before as a letter: it is acknowledged, and nothing was done.
    Stale(Slot),
    /// It was handed back.
    HandedBack,
    /// It is on the lane. `false`: the broker knew that copy, which may be gone already.
    Copied(Slot, bool),
    /// The record of a key is written.
    Written(Arc<str>),
    /// A letter that blocked a key has ended.
    LetterEnded(Arc<str>, Arc<str>),
    /// All letters were looked at.
    Looked,
    /// Another process is the owner.
    Lost,
}

impl Report {
    /// Whether its task has ended with it. The loop counts its tasks by this, whatever else becomes of the report.
    pub(super) fn is_last(&self) -> bool {
        match self {
            // Who asks waits for the answer; who looks at letters tells each that has ended, and then that all were looked at.
            Report::Asks(..) | Report::LetterEnded(..) => false,
            Report::Settled(..)
            | Report::Stale(_)
            | Report::HandedBack
            | Report::Copied(..)
            | Report::Written(_)
            | Report::Looked
            | Report::Lost => true,
        }
    }

    /// Whether its task acknowledged a delivery by itself.
    pub(super) fn is_acked(&self) -> bool {
        matches!(self, Report::Settled(..) | Report::Stale(_))
    }
}

/// A delivery whose turn it is.
pub(super) struct Turn {
    pub(super) slot: Slot,
    pub(super) envelope: Arc<Envelope>,
    pub(super) refusal: Option<Fault>,
    pub(super) reply: Arc<str>,
    pub(super) is_blocked: bool,
    pub(super) permit: Option<OwnedSemaphorePermit>,
}

/// The process is no longer the owner.
struct Lost;

/// How far a turn came.
enum Tried {
    Ended((Ended, v1::Attempts)),
    /// It is given up.
    HandedBack,
    /// Its replay had ended before as a letter.
    LetterAgain,
}

/// Whether a replay is still to be carried out.
enum Replay {
    Due,
    Ended,
    LetterAgain,
}

/// One of those that wait in hand, until it is dropped.
struct Waiting<'a>(&'a AtomicUsize);

impl Waiting<'_> {
    fn enter(count: &AtomicUsize) -> Option<Waiting<'_>> {
        let one = Waiting(count);
        (count.fetch_add(1, Ordering::AcqRel) < WAITING).then_some(one)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Term {
    pub(super) fn is_live(&self) -> bool {
        self.member.is_live() && !self.lost.is_stopping()
    }

    fn begins_no_more(&self) -> bool {
        self.give.is_stopping() || self.ordered.worker.scope.is_stopping()
    }

    /// To be called before an attempt acknowledges its delivery: from then on until its report is heard the broker may count
    /// one less than is here.
    fn acks(&self) {
        self.unheard.fetch_add(1, Ordering::AcqRel);
    }

    fn tell(&self, report: Report) {
        // The loop is gone only when the process is no longer the owner.
        let _ = self.reports.send(report);
    }

    /// One attempt.
    pub(super) async fn attempt(self: Arc<Self>, mut turn: Turn) {
        let in_flight = self.ordered.worker.metrics.begin();
        let span = tracing::debug_span!(
            "mesh.consume",
            consumer = self.ordered.consumer(),
            message_id = turn.envelope.message_id,
            attempt = turn.envelope.attempt()
        );
        let trace = turn.envelope.trace.unwrap_or_else(|| TraceContext::root(false));
        trace::adopt(&span, trace);
        let ended = async {
            let (started, tried) = (Instant::now(), self.try_turn(&mut turn, trace).await?);
            tokio::select! {
                biased;
                ended = self.carry_out(&turn, tried, started) => ended,
                () = self.lost.stopped() => Err(Lost),
            }
        };
        let report = ended.instrument(span).await.unwrap_or(Report::Lost);
        drop((turn.permit, in_flight));
        self.tell(report);
    }

    /// Until it is known how it ended. When the ownership is lost the handler is cancelled, and what is remembered of it has a
    /// moment to say so.
    async fn try_turn(&self, turn: &mut Turn, trace: TraceContext) -> Result<Tried, Lost> {
        if !self.is_live() {
            return Err(Lost);
        }
        let trying = async {
            match self.replay(letter_of(&turn.envelope)).await {
                Replay::Due => self.end_of(turn, trace).await.map_or(Tried::HandedBack, Tried::Ended),
                Replay::Ended => Tried::Ended((Ended::Done(bytes::Bytes::new()), v1::Attempts::default())),
                Replay::LetterAgain => Tried::LetterAgain,
            }
        };
        let tried = tokio::select! {
            biased;
            tried = trying => tried,
            () = async { self.lost.stopped().await; tokio::time::sleep(LAST_WORDS).await } => return Err(Lost),
        };
        crash_point("attempt.handled");
        if self.is_live() { Ok(tried) } else { Err(Lost) }
    }

    /// What follows from how it ended, step by step.
    async fn carry_out(&self, turn: &Turn, tried: Tried, started: Instant) -> Result<Report, Lost> {
        let worker = &self.ordered.worker;
        let (ended, attempts) = match tried {
            Tried::Ended(ended) => ended,
            // It did not go on though it is to: all that is here comes again, this one first.
            Tried::HandedBack if !self.begins_no_more() => return Err(Lost),
            Tried::HandedBack => return Ok(Report::HandedBack),
            Tried::LetterAgain => {
                self.acks();
                self.ack(&turn.reply).await;
                return Ok(Report::Stale(turn.slot));
            }
        };
        let (Turn { slot, envelope, reply, is_blocked, .. }, letter) = (turn, letter_of(&turn.envelope));
        let ending = match &ended {
            Ended::Done(_) | Ended::Refused(_) => Ending::Done,
            // An ordered consumer puts nothing aside that it has not begun.
            Ended::Again { .. } | Ended::PutAside { .. } => Ending::Again,
            Ended::DeadLetter(_) => Ending::Letter(self.letter_id(envelope, letter)),
            // Nobody else writes what the owner remembers, unless it is owner no more or the same id came with another key: all
            // that is here comes again. The same where it was not gone on with, by an owner that was not sure of it for a moment.
            Ended::HandedBack | Ended::CutOff | Ended::TakenOver if !self.begins_no_more() => return Err(Lost),
            Ended::HandedBack | Ended::CutOff | Ended::TakenOver => return Ok(Report::HandedBack),
            Ended::Overtaken | Ended::SentAgain { .. } => Ending::Done,
        };
        if *is_blocked || ending != Ending::Done {
            if let (Ending::Done, Some(letter)) = (&ending, letter) {
                // First the letter: a crash after this finds it ended, and what follows is made up for.
                let resolve = || dead_letter::resolve(&worker.bus, &worker.lane, letter);
                if worker.until_confirmed("the end of a letter", resolve).await.is_err() {
                    return Ok(Report::HandedBack);
                }
                crash_point("order.resolved");
            }
            self.write_down(*slot, envelope, &ending).await?;
        }
        if !self.is_live() {
            return Err(Lost);
        }
        let is_settled = match ended {
            Ended::Again { due_ms, attempt } => {
                let (next, of) = ((attempt, due_ms), format!("{}-{slot}", self.blocks.fence));
                let put_aside = || delayed::delay_in_turn(&worker.bus, &worker.lane, envelope, next, (&attempts, &of));
                if worker.until_confirmed("a delayed copy", put_aside).await.is_err() {
                    return Ok(Report::HandedBack);
                }
                crash_point("settle.delayed");
                if !self.is_live() {
                    // The next owner has the delivery in hand: the copy is one too many, and is recognised.
                    return Err(Lost);
                }
                self.acks();
                self.ack(reply).await;
                worker.metrics.settled(How::Delay, started.elapsed());
                true
            }
            ended => {
                let acks = || self.acks();
                worker.settle_saying(envelope, (reply, None), (ended, attempts), (started, acks)).await
            }
        };
        Ok(if is_settled { Report::Settled(*slot, ending) } else { Report::HandedBack })
    }

    /// Attempts, with the short waits between them. `None`: the partition is given up during a wait.
    async fn end_of(&self, turn: &mut Turn, trace: TraceContext) -> Option<(Ended, v1::Attempts)> {
        let worker = &self.ordered.worker;
        if turn.envelope.claim().is_some() && turn.refusal.is_none() {
            let mut whole = Envelope::clone(&turn.envelope);
            turn.refusal = tokio::select! {
                brought = worker.bring(&mut whole) => brought.err(),
                () = self.give.stopped() => return None,
                () = worker.scope.stopped() => return None,
                () = self.lost.stopped() => return None,
            };
            turn.envelope = Arc::new(whole);
        }
        let is_live = || self.is_live();
        let mut tenure = Tenure { is_live: &is_live, lost: &self.lost, give: &self.give, goes_on: false };
        loop {
            // Its own lease is kept in hand: this one tells the watchdog that a handler is at work.
            let lease = worker.leases.hold(Arc::clone(&turn.reply));
            let (ended, attempts) = worker.end_of(&turn.envelope, turn.refusal.clone(), (trace, &lease, tenure)).await;
            drop(lease);
            let short = self.ordered.settings.short_wait;
            let (delay, attempt) = match &ended {
                Ended::Again { due_ms, attempt } if turn.envelope.order.is_some() => {
                    let left_ms = due_ms.saturating_sub(worker.bus.gate().clock().now_ms()).max(0);
                    (Duration::from_millis(left_ms.unsigned_abs()), *attempt)
                }
                _ => return Some((ended, attempts)),
            };
            if delay > short {
                return Some((ended, attempts));
            }
            let _one = match Waiting::enter(&self.waiting) {
                Some(one) => one,
                None => return Some((ended, attempts)),
            };
            turn.permit = None;
            turn.envelope = Arc::new(delayed::next_attempt(&turn.envelope, attempt, &attempts));
            let again = async {
                tokio::time::sleep(delay).await;
                Arc::clone(&worker.permits).acquire_owned().await.ok()
            };
            turn.permit = tokio::select! {
                permit = again => permit,
                () = self.give.stopped() => None,
                () = worker.scope.stopped() => None,
                () = self.lost.stopped() => None,
            };
            tenure.goes_on = true;
            if turn.permit.is_none() || !self.is_live() {
                return None;
            }
        }
    }

    fn letter_id(&self, envelope: &Envelope, letter: Option<&LetterNote>) -> Arc<str> {
        let lane = &self.ordered.worker.lane;
        letter.map_or_else(|| lane.letter_of(envelope), |letter| letter.id.clone()).into()
    }

    async fn replay(&self, letter: Option<&LetterNote>) -> Replay {
        let Some(letter) = letter else { return Replay::Due };
        match self.blocks.letter(&letter.id).await {
            Ok(Some(last)) if last.sequence > letter.ordered_at && last.has_ended => Replay::Ended,
            Ok(Some(last)) if last.sequence > letter.ordered_at => Replay::LetterAgain,
            Ok(_) => Replay::Due,
            Err(error) => {
                tracing::debug!(%error, "whether a replay ended before is not known: it is carried out");
                Replay::Due
            }
        }
    }

    /// Writes what must be known before a message is settled.
    async fn write_down(&self, slot: Slot, envelope: &Envelope, ending: &Ending) -> Result<(), Lost> {
        let (asked, answer) = oneshot::channel();
        self.tell(Report::Asks(slot, ending.clone(), asked));
        let (plan, since_ms) = answer.await.map_err(|_| Lost)?;
        if plan == Plan::Settle {
            return Ok(());
        }
        let key: Arc<str> = envelope.order.as_ref().map(|order| order.key.as_str()).unwrap_or_default().into();
        let mut record = record_of(&key, plan, since_ms);
        record.message_id.clone_from(&envelope.message_id);
        if let (Plan::Block(_), Ending::Letter(id)) = (plan, ending) {
            record.set_state(State::Letter);
            record.letter_id = id.to_string();
        } else if let Plan::Block(_) = plan {
            record.hold = unique(envelope);
        }
        self.write(&record).await
    }

    async fn write(&self, record: &v1::BlockedKey) -> Result<(), Lost> {
        let write = || self.blocks.write(record);
        match self.ordered.worker.until_confirmed("the record of a blocked key", write).await {
            Ok(Written::At(_)) => {
                crash_point(written(record.state()));
                Ok(())
            }
            Ok(Written::Conflict) => {
                tracing::warn!(consumer = self.ordered.consumer(), "another process owns the partition");
                Err(Lost)
            }
            Err(_) => Err(Lost),
        }
    }

    /// The record of a key whose head ended elsewhere, or behind which nothing is left.
    pub(super) async fn write_alone(self: Arc<Self>, key: Arc<str>, plan: Plan, since_ms: i64) {
        let record = record_of(&key, plan, since_ms);
        let written = tokio::select! {
            written = self.write(&record) => written,
            () = self.lost.stopped() => Err(Lost),
        };
        self.tell(written.map_or(Report::Lost, |()| Report::Written(key)));
    }

    /// Puts a message aside, behind the one that blocks its key.
    pub(super) async fn put_aside(self: Arc<Self>, slot: Slot, envelope: Arc<Envelope>) {
        let worker = &self.ordered.worker;
        let follow = || delayed::follow(&worker.bus, &worker.lane, &envelope);
        let copied = tokio::select! {
            copied = worker.until_confirmed("a copy behind a blocked key", follow) => copied.ok(),
            () = self.lost.stopped() => None,
        };
        if copied.is_some() {
            crash_point("order.followed");
        }
        self.tell(copied.map_or(Report::Lost, |stored| Report::Copied(slot, !stored.duplicate)));
    }

    /// Looks whether letters have ended that block keys. `patient`: there was news that one did.
    pub(super) async fn look_at_letters(self: Arc<Self>, letters: Vec<(Arc<str>, Arc<str>)>, patient: bool) {
        let (mut looks, pause) = if patient { LOOKS } else { (1, Duration::ZERO) };
        let mut left = letters;
        let is_over = || !self.is_live() || self.begins_no_more();
        while looks > 0 && !left.is_empty() && !is_over() {
            looks -= 1;
            let mut open = Vec::with_capacity(left.len());
            for (letter, key) in left {
                match self.blocks.letter(&letter).await {
                    Ok(Some(last)) if last.has_ended => self.tell(Report::LetterEnded(letter, key)),
                    _ => open.push((letter, key)),
                }
            }
            left = open;
            if looks > 0 && !left.is_empty() {
                tokio::time::sleep(pause).await;
            }
        }
        self.tell(Report::Looked);
    }

    pub(super) async fn ack(&self, reply: &str) {
        if let Err(error) = self.ordered.worker.bus.ack(reply, Ack::Accept).await {
            // It will be delivered again, and is recognised then.
            tracing::debug!(%error, "an ack was not sent");
        }
        crash_point("order.acked");
    }
}

/// The crash point after the record of a key that says so.
fn written(state: State) -> &'static str {
    match state {
        State::Delayed | State::Letter => "order.blocked",
        State::Draining => "order.drained",
        State::Unspecified => "order.freed",
    }
}

fn letter_of(envelope: &Envelope) -> Option<&LetterNote> {
    envelope.note.lane.as_ref().and_then(|lane| lane.letter.as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_counts_as_ended_with_its_last_report_and_with_no_other() {
        let (asked, _answer) = oneshot::channel();
        let key = || Arc::<str>::from("k");
        assert!(!Report::Asks(1, Ending::Done, asked).is_last());
        assert!(!Report::LetterEnded(key(), key()).is_last());
        for last in [
            Report::Settled(1, Ending::Done),
            Report::Stale(1),
            Report::HandedBack,
            Report::Copied(1, true),
            Report::Copied(1, false),
            Report::Written(key()),
            Report::Looked,
            Report::Lost,
        ] {
            assert!(last.is_last());
        }
    }
}
