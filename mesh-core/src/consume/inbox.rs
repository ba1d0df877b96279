//! What is remembered of a message, so that work that was done is not done again and a message that ends its process is
//! found out.
//!
//! Three kinds of deliveries are remembered: all of a consumer that asked for it, all whose contract forbids to repeat them
//! blindly and all replays; and of the rest those that the broker delivered before without hearing what became of them.
//! The record is written before the handler starts and again before what came of it is carried out, each time only if
//! nobody else wrote meanwhile. A first delivery of the rest costs nothing, unless it becomes a letter.
//!
//! For an ordered consumer the owner of a partition decides what was delivered before in that sense: what another one handed
//! back in peace was not.

use std::time::Duration;

use mesh_proto::v1::{
    self, InboxRecord,
    inbox_record::{Again, End, State},
};
use prost::Message as _;
use tokio::time::{Instant, timeout};

use super::{
    age::is_replay,
    attempt::Ended,
    key_locks::KeyLock,
    lease::{self, Lease},
    quarantine::{Alone, PATIENCE, Place},
    sent_again::{is_done_before, overtaken},
    settle::GivenUp,
    tenure::{Tenure, ending},
    worker::Worker,
};
use crate::{
    contract::Repeat,
    dead_letter::letter_id,
    delayed::{attempts_of, shortened, stored_at},
    envelope::{Delivery, Envelope, TraceContext},
    fault::{Code, Effect, Fault, Reason, crash_point},
    policy::inbox::{self, Begin, Now, Start},
    store::Written,
    subject::Place as Subject,
};

/// How long what is remembered of a suspect or of a replay is kept.
pub(super) const HORIZON: Duration = Duration::from_secs(24 * 3600);
/// The broker counts a record's time in 64 bits of nanoseconds: no longer than this.
const FOR_EVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
/// How often it is looked whether the one who may be at work has written down what came of it.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// How long it may take to write down that one is not alone any longer, before others are let in all the same.
const OPENING: Duration = Duration::from_secs(1);

/// One attempt at a delivery that is remembered.
pub(super) struct Trial<'a> {
    pub(super) envelope: &'a Envelope,
    pub(super) attempts: &'a mut v1::Attempts,
    pub(super) trace: TraceContext,
    pub(super) lease: &'a Lease,
    /// Of an ordered consumer: the ownership under which it is tried.
    pub(super) tenure: Option<Tenure<'a>>,
}

impl Trial<'_> {
    pub(super) fn again(&mut self) -> Trial<'_> {
        let Trial { envelope, trace, lease, tenure, .. } = *self;
        Trial { envelope, attempts: self.attempts, trace, lease, tenure }
    }
}

/// A record that this process wrote.
struct Mine {
    key: String,
    record: InboxRecord,
    revision: u64,
    /// What a repeat of its handler does.
    repeat: Repeat,
}

pub(super) type Found = Option<(InboxRecord, u64)>;

impl Worker {
    /// Whether something is to be remembered, or may have been, of this delivery.
    pub(super) fn is_remembered(&self, envelope: &Envelope) -> bool {
        // A copy may have been begun before it was put aside; that matters when its key may be forgotten.
        let is_late = || envelope.note.lane.is_some() && self.is_key_forgotten(envelope);
        deliveries(envelope) > 1 || self.is_always_remembered(envelope) || is_late() || is_in_doubt(envelope)
    }

    fn is_always_remembered(&self, envelope: &Envelope) -> bool {
        self.settings.inbox.is_some() || is_replay(envelope) || !self.work.repeat(envelope).is_safe_when_unknown()
    }

    /// Runs the handler unless what is remembered says otherwise, and remembers what came of it. `instead`: how it ends if
    /// nothing that is remembered says otherwise, because it is not to be begun now.
    pub(super) async fn try_remembered(&self, mut trial: Trial<'_>, instead: Option<Ended>) -> Ended {
        let envelope = trial.envelope;
        let Some(delivery) = &envelope.delivery else {
            return match instead {
                Some(ended) => ended,
                None => self.try_unwritten(trial).await,
            };
        };
        let (key, repeat) = (self.inbox_key(envelope), self.work.repeat(envelope));
        // Delivered once more while it is in hand here: the broker was killed and forgot. What is written down says then what to do.
        let Some(mut turn) = self.turn(&key, trial.tenure).await else { return Ended::TakenOver };
        // All that is written of this trial is signed alike: a write whose confirmation did not come in time may be there later.
        let (by, mut written) = (self.signature(), None);
        // A first delivery is tried without a look: if something is there, the write says so.
        let (since, mut found) = (Instant::now(), None);
        let goes_on = trial.tenure.is_some_and(|tenure| tenure.goes_on);
        if deliveries(envelope) > 1 || goes_on || instead.is_some() || !self.is_always_remembered(envelope) {
            found = match self.recall(&key).await {
                Ok(found) => found,
                Err(GivenUp) => return Ended::HandedBack,
            };
        }
        loop {
            let record = found.as_ref().map(|(record, _)| record);
            let revision = found.as_ref().map_or(0, |(_, revision)| *revision);
            let now = self.now(envelope, delivery, since, goes_on);
            let verdict = match (written, record) {
                // Its own start: its handler was not begun.
                (Some(start), Some(record)) if record.by == by => Begin::Start(start),
                _ => inbox::begin(&self.settings.inbox_rule, record, &now),
            };
            let start = match verdict {
                // It keeps a place, which the one that it waits for may need: it comes again when its lease is over.
                Begin::Wait if since.elapsed() > self.settings.ack_wait => return Ended::TakenOver,
                Begin::Wait => {
                    // The place whose record is waited for may be delivered here as well: it goes on without a wait.
                    drop(turn);
                    tokio::select! {
                        biased;
                        () = self.scope.stopped() => return Ended::TakenOver,
                        () = tokio::time::sleep(LOOK_AGAIN) => {}
                    }
                    let Some(next) = self.turn(&key, trial.tenure).await else { return Ended::TakenOver };
                    turn = next;
                    found = match self.recall(&key).await {
                        Ok(found) => found,
                        Err(GivenUp) => return Ended::TakenOver,
                    };
                    continue;
                }
                Begin::Overtaken => {
                    tracing::info!(
                        message_id = envelope.message_id,
                        "handled before, or a later copy of it is: dropped"
                    );
                    return overtaken(record, envelope);
                }
                Begin::Ended if is_done_before(record, envelope) => {
                    return overtaken(record, envelope);
                }
                Begin::Ended => return repeated(record, trial.attempts),
                Begin::Park => {
                    let parked = parked(record.is_some());
                    return self.conclude(&key, found, trial, Ended::DeadLetter(parked)).await;
                }
                Begin::TooOften { starts } => {
                    return self.conclude(&key, found, trial, Ended::DeadLetter(ends_its_process(starts))).await;
                }
                Begin::Start(start) => start,
            };
            if start.begun {
                let begun_at_ms = record.map_or(now.at_ms, |record| record.at_ms);
                doubt(&mut trial, begun_at_ms);
            }
            if let Some(ended) = &instead {
                match self.end_unbegun(&trial, (&key, revision), start, ended).await {
                    Ok(Some(ended)) => return ended,
                    Ok(None) => {}
                    Err(GivenUp) => return Ended::HandedBack,
                }
                found = match self.recall(&key).await {
                    Ok(found) => found,
                    Err(GivenUp) => return Ended::HandedBack,
                };
                continue;
            }
            if !start.suspect && !start.begun && !self.is_always_remembered(envelope) {
                return self.try_unwritten(trial).await;
            }
            let place = tokio::select! {
                biased;
                () = ending(&self.scope, trial.tenure) => return Ended::HandedBack,
                place = self.place_for(start.alone) => place,
            };
            let record = InboxRecord { by: by.clone(), ..self.begun(envelope, start, place.is_alone()) };
            // What is there already must tell the truth of the place that it has now.
            if let Some((record, revision)) = found.take_if(|(mine, _)| mine.by == by && mine.alone == record.alone) {
                return self.try_written_down(&mut trial, place, Mine { key, record, revision, repeat }).await;
            }
            written = Some(start);
            // While nothing is confirmed, nobody is kept waiting outside.
            match timeout(PATIENCE, self.write(&key, &record, revision, repeat)).await {
                Ok(Ok(Written::At(revision))) => {
                    return self.try_written_down(&mut trial, place, Mine { key, record, revision, repeat }).await;
                }
                Ok(Ok(Written::Conflict)) | Err(_) => drop(place),
                Ok(Err(GivenUp)) => return Ended::HandedBack,
            }
            found = match self.recall(&key).await {
                Ok(found) => found,
                Err(GivenUp) => return Ended::HandedBack,
            };
        }
    }

    /// Alone with what is remembered of a message, in this process. `None`: nothing more is to be begun. Whoever has it settles it;
    /// else its lease runs out.
    async fn turn<'k>(&'k self, key: &str, tenure: Option<Tenure<'_>>) -> Option<KeyLock<'k>> {
        tokio::select! {
            biased;
            turn = self.remembering.lock(key) => Some(turn),
            () = ending(&self.scope, tenure) => None,
        }
    }

    async fn place_for(&self, alone: bool) -> Place<'_> {
        if alone { self.quarantine.alone().await } else { self.quarantine.beside().await }
    }

    async fn try_written_down(&self, trial: &mut Trial<'_>, place: Place<'_>, mut mine: Mine) -> Ended {
        crash_point("inbox.begun");
        let handling = self.try_once(trial.again());
        let ended = match place {
            beside @ Place::Beside(_) => {
                let ended = handling.await;
                // What came of it may have to wait for the bus: nobody waits for that outside.
                drop(beside);
                ended
            }
            Place::Alone(alone) => {
                tokio::pin!(handling);
                match timeout(PATIENCE, &mut handling).await {
                    Ok(ended) => ended,
                    Err(_) => tokio::join!(handling, self.let_others_in(alone, &mut mine)).0,
                }
            }
        };
        self.remember(mine, trial, ended).await
    }

    /// Others need not wait any longer. From now on any of them may be the cause of an end, which is written down first, unless
    /// that takes too long as well.
    async fn let_others_in<'a>(&self, alone: Alone<'a>, mine: &mut Mine) -> Place<'a> {
        let mut written = std::pin::pin!(self.no_longer_alone(mine));
        match timeout(OPENING, &mut written).await {
            Ok(()) => alone.open(),
            Err(_) => {
                let place = alone.open();
                written.await;
                place
            }
        }
    }

    async fn no_longer_alone(&self, mine: &mut Mine) {
        mine.record.alone = false;
        if let Ok(Written::At(revision)) = self.write(&mine.key, &mine.record, mine.revision, mine.repeat).await {
            mine.revision = revision;
        }
    }

    /// Writes down what came of it, before it is carried out.
    async fn remember(&self, mut mine: Mine, trial: &mut Trial<'_>, ended: Ended) -> Ended {
        match end_of(&ended) {
            Some(end) => {
                mine.record.end = Some(end);
                mine.record.begun = false;
                mine.record.set_state(State::Ended);
                mine.record.attempts = Some(shortened(trial.attempts));
            }
            // Given up in the middle: whether it acted is unknown. The record stays as it is, and the next one parks it.
            None if !mine.repeat.is_safe_when_unknown() => return ended,
            None => {
                mine.record.begun |= matches!(ended, Ended::CutOff);
                mine.record.set_state(State::HandedBack);
                mine.record.deliveries = deliveries(trial.envelope);
            }
        }
        let mut written = self.write(&mine.key, &mine.record, mine.revision, mine.repeat).await;
        if matches!(written, Ok(Written::Conflict)) {
            let found = self.recall(&mine.key).await;
            written = match found {
                // Nobody else has it: the record of the start was only forgotten.
                Ok(None) => self.write(&mine.key, &mine.record, 0, mine.repeat).await,
                // Its own start once more, for whose confirmation it had not waited.
                Ok(Some((own, revision))) if own.by == mine.record.by => {
                    self.write(&mine.key, &mine.record, revision, mine.repeat).await
                }
                _ => written,
            };
        }
        match written {
            Ok(Written::At(_)) => {
                crash_point("inbox.ended");
                ended
            }
            // Its lease had run out and another process went on with it: that one settles it.
            Ok(Written::Conflict) => Ended::TakenOver,
            Err(GivenUp) => Ended::CutOff,
        }
    }

    /// Ends a delivery whose handler is not started.
    async fn conclude(&self, key: &str, found: Found, trial: Trial<'_>, ended: Ended) -> Ended {
        let Some((record, revision)) = found else { return ended };
        let repeat = self.work.repeat(trial.envelope);
        let record = InboxRecord { by: self.signature(), ..record };
        let mine = Mine { key: key.to_owned(), record, revision, repeat };
        let mut trial = trial;
        self.remember(mine, &mut trial, ended).await
    }

    pub(super) async fn recall(&self, key: &str) -> Result<Found, GivenUp> {
        let entry = self.until_confirmed("what is remembered of a delivery", || self.store.get(key)).await?;
        Ok(entry.and_then(|entry| Some((InboxRecord::decode(entry.value).ok()?, entry.revision))))
    }

    pub(super) async fn write(
        &self,
        key: &str,
        record: &InboxRecord,
        expected: u64,
        repeat: Repeat,
    ) -> Result<Written, GivenUp> {
        let ttl = self.kept_for(record, repeat);
        let value: bytes::Bytes = record.encode_to_vec().into();
        self.until_confirmed("a record of the inbox", || self.store.put(key, value.clone(), expected, ttl)).await
    }

    /// What came of a start is remembered for the horizon, and so is that there was none.
    pub(super) fn kept_for(&self, record: &InboxRecord, repeat: Repeat) -> Option<Duration> {
        match record.state() == State::Begun || record.begun {
            true => self.start_kept_for(repeat),
            false => Some(self.end_kept_for(repeat)),
        }
    }

    /// The broker may be away, or a stream be full, for longer than the horizon that was asked for: what was done then and could not
    /// be settled must not be done again.
    fn end_kept_for(&self, repeat: Repeat) -> Duration {
        if repeat.is_safe_when_unknown() { self.horizon() } else { self.horizon().max(HORIZON) }
    }

    /// Whether what was written down of this delivery, after it was stored, may be forgotten by now.
    pub(super) fn may_be_forgotten(&self, envelope: &Envelope) -> bool {
        let repeat = self.work.repeat(envelope);
        let is_start_forgotten = self.start_kept_for(repeat).is_some_and(|kept| self.age(envelope) > kept);
        let is_end_forgotten = self.age_here(envelope) > self.end_kept_for(repeat);
        deliveries(envelope) > 1 && (is_start_forgotten || is_end_forgotten)
    }

    /// A start is remembered for as long as it may come again. If it may be harmful to act a second time, or may become so when
    /// the other side has forgotten a key: until it is known what came of it, however long that takes (`None`).
    pub(super) fn start_kept_for(&self, repeat: Repeat) -> Option<Duration> {
        let longest = self.settings.handler_limit.saturating_add(self.settings.ack_wait);
        let is_harmless = matches!(repeat, Repeat::NoSideEffects | Repeat::Idempotent);
        is_harmless.then(|| self.horizon().max(HORIZON).saturating_add(longest).min(FOR_EVER))
    }

    fn horizon(&self) -> Duration {
        self.settings.inbox.unwrap_or(HORIZON).max(Duration::from_secs(1))
    }

    /// Of consumer and message id: the same for the original, its copies and the same id sent again, which the broker stores once
    /// more after its dedupe window, and after a restart if the first was deleted from a work queue. One of its own for each
    /// replay.
    pub(super) fn inbox_key(&self, envelope: &Envelope) -> String {
        let consumer = &self.lane.consumer;
        match envelope.note.lane.as_ref().and_then(|lane| lane.letter.as_ref()) {
            Some(letter) => format!("inbox.{consumer}.{}-{}", letter.id, letter.generation),
            None => {
                // Ids are their senders' own: whose it is, and of what, belongs to it. One that was made from the message's place
                // is told from that of a stream that was made anew by when it was stored.
                let contract = Subject::parse(&envelope.subject).and_then(|place| place.contract()).unwrap_or_default();
                let is_made = envelope.source().is_some_and(|(s, n)| envelope.message_id == format!("{s}:{n}"));
                let stored_at_ms = if is_made { stored_at(envelope) } else { 0 };
                let text = format!("{}\n{contract}\n{stored_at_ms}\n{}", envelope.caller, envelope.message_id);
                format!("inbox.{consumer}.{}", letter_id(&self.lane, ("", 0), 0, &text))
            }
        }
    }

    /// `since`: when this delivery was first looked at. `goes_on`: after a wait in hand.
    pub(super) fn now<'e>(
        &self,
        envelope: &Envelope,
        delivery: &'e Delivery,
        since: Instant,
        goes_on: bool,
    ) -> Now<'e> {
        Now {
            attempt: envelope.attempt(),
            stream: &delivery.stream,
            sequence: delivery.sequence,
            deliveries: delivery.deliveries,
            safe_to_repeat: self.may_repeat(envelope),
            exact: self.is_always_remembered(envelope),
            may_be_forgotten: self.may_be_forgotten(envelope),
            at_ms: self.bus.gate().clock().now_ms(),
            lease: self.settings.ack_wait,
            longest: lease::longest(self.settings.handler_limit).saturating_add(self.settings.ack_wait),
            waited: since.elapsed(),
            original: self.settings.order.is_some().then(|| original(envelope)),
            goes_on,
        }
    }

    pub(super) fn begun(&self, envelope: &Envelope, start: Start, alone: bool) -> InboxRecord {
        let (stream, sequence) =
            envelope.delivery.as_ref().map_or((String::new(), 0), |d| (d.stream.clone(), d.sequence));
        InboxRecord {
            state: State::Begun.into(),
            attempt: envelope.attempt(),
            stream,
            sequence,
            ended_alone: start.ended_alone,
            ended_beside: start.ended_beside,
            alone,
            begun: start.begun,
            at_ms: self.bus.gate().clock().now_ms(),
            by: self.signature(),
            deliveries: deliveries(envelope),
            original: original(envelope),
            ..InboxRecord::default()
        }
    }

    /// No two trials write the same bytes. What one writes differs in what it says.
    fn signature(&self) -> String {
        nuid::next().to_string()
    }
}

pub(super) fn deliveries(envelope: &Envelope) -> u64 {
    envelope.delivery.as_ref().map_or(0, |delivery| delivery.deliveries)
}

/// Whether a copy carries along that an earlier start of the same attempt left no word.
fn is_in_doubt(envelope: &Envelope) -> bool {
    let of_it = |attempt: &v1::Attempt| attempt.number == envelope.attempt() && is_doubt(attempt);
    let in_doubt = |attempts: &v1::Attempts| attempts.attempts.last().is_some_and(of_it);
    envelope.note.lane.is_some() && in_doubt(&attempts_of(envelope))
}

/// Whether it is no attempt of which anything came back.
pub(super) fn is_doubt(attempt: &v1::Attempt) -> bool {
    let is_unknown = |fault: &v1::Fault| fault.reason == Reason::OutcomeUnknown.code();
    attempt.duration_us == 0 && attempt.fault.as_ref().is_some_and(is_unknown)
}

/// Writes down among its attempts that it was begun before and left no word. Its letter says so then, whatever comes after it.
fn doubt(trial: &mut Trial<'_>, begun_at_ms: i64) {
    let envelope = trial.envelope;
    if trial.attempts.attempts.iter().any(|attempt| attempt.number == envelope.attempt() && is_doubt(attempt)) {
        return;
    }
    let message = "its process ended, or was cut off, and left no word of it";
    let fault = Fault::new(Code::Unknown, Effect::Unknown, Reason::OutcomeUnknown, message);
    trial.attempts.attempts.push(v1::Attempt {
        number: envelope.attempt(),
        started_at_ms: begun_at_ms,
        fault: Some((&fault).into()),
        ..v1::Attempt::default()
    });
}

fn original(envelope: &Envelope) -> u64 {
    envelope.source().map_or(0, |(_, sequence)| sequence)
}

/// What is to be written down of an end. `None`: it is none.
pub(super) fn end_of(ended: &Ended) -> Option<End> {
    Some(match ended {
        Ended::Done(reply) => End::Reply(reply.clone()),
        Ended::Refused(fault) => End::Refused(fault.into()),
        Ended::Again { due_ms, attempt } => End::Again(Again { attempt: *attempt, due_ms: *due_ms }),
        Ended::DeadLetter(fault) => End::DeadLetter(fault.into()),
        Ended::PutAside { .. }
        | Ended::HandedBack
        | Ended::CutOff
        | Ended::Overtaken
        | Ended::SentAgain { .. }
        | Ended::TakenOver => return None,
    })
}

/// The end that was written down, to be carried out again.
pub(super) fn repeated(record: Option<&InboxRecord>, attempts: &mut v1::Attempts) -> Ended {
    let Some(record) = record else { return Ended::Overtaken };
    *attempts = record.attempts.clone().unwrap_or_default();
    match record.end.clone() {
        Some(End::Reply(reply)) => Ended::Done(reply),
        Some(End::Refused(fault)) => Ended::Refused(fault.into()),
        Some(End::Again(Again { attempt, due_ms })) => Ended::Again { due_ms, attempt },
        Some(End::DeadLetter(fault)) => Ended::DeadLetter(fault.into()),
        None => Ended::Overtaken,
    }
}

/// `is_known`: whether a start of it is written down.
fn parked(is_known: bool) -> Fault {
    let message = match is_known {
        true => "its handler was started and left no word: whether it acted is unknown",
        false => "it was delivered before and nothing is remembered of it: whether it was begun, and acted, is unknown",
    };
    Fault::new(Code::Unknown, Effect::Unknown, Reason::OutcomeUnknown, message)
        .with_detail("the process ended in the middle, or its lease ran out; to repeat it blindly is forbidden by its contract, or its key may be forgotten by now")
}

fn ends_its_process(starts: u32) -> Fault {
    let message = format!("{starts} times its handler was started and its process left no word");
    Fault::new(Code::Internal, Effect::Unknown, Reason::ProcessEnded, message).with_detail(
        "it ends its process (abort, out of memory, a core held for ever), or its lease runs out each time",
    )
}
