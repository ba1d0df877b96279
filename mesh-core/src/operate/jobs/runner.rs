//! One job, from when it is taken up until its last letter has ended.
//!
//! One loop that hears everything (its own log, the histories of its letters, the letters that are left, what is under way)
//! and does what [`policy::replay::next`](crate::policy::replay::next) says. It may be dropped at any moment: all that it
//! knows stands in the streams.

mod to_lanes;
mod writing;

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures_util::{StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use mesh_proto::v1::{self, job_record::Record};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};

use writing::Log;

use super::{
    Job,
    account::Account,
    dispatch::{Errand, Ordered, Outcome, Skip, Todo, subject_of},
    follow::{Heard, Reading, follow},
    intake::Intake,
    lanes::Lanes,
    log::append,
    progress::Key,
    queue::Turn,
    share::Share,
    walk::{Candidate, Found, candidate_now, walk},
};
use crate::{
    bus::{Bus, PublishError},
    dead_letter::{Letter, record_of},
    envelope::{Envelope, header},
    fault::{Effect, Fault},
    operate::letters::Replayed,
    policy::replay::{Next, Pace, Plan, View, next},
    subject::DEAD_LETTER_STREAM,
};

/// Letters whose order or copy is under way at once, at most, and their bytes.
const MAX_UNDER_WAY: usize = 2048;
const MAX_BYTES: usize = 32 * 1024 * 1024;
/// Copies that are sent once more at once: each takes a few questions to the broker.
const MAX_REPAIRS: usize = 64;
/// Letters whose histories are looked at at once: what is to be sent then waits in memory.
const MAX_LOOK_UPS: usize = 64;
/// The same where it is only to be counted.
const MAX_LOOK_BACKS: usize = 512;
/// Records and letters that are read ahead.
const HEARD_AHEAD: usize = 512;
const FOUND_AHEAD: usize = 64;
/// How often the time of day is looked at while a job waits for its hour: it may be set meanwhile.
const LOOK_AT_CLOCK: Duration = Duration::from_millis(500);

/// What was under way and has ended.
enum Ended {
    Ordered {
        key: Key,
        bytes: usize,
        ordered: Ordered,
    },
    Copied {
        key: Key,
        bytes: usize,
        subject: String,
        ordered_at: u64,
        result: Result<(), Fault>,
    },
    /// The consumer of a letter was looked for.
    Found {
        key: Key,
        letter: Box<Letter>,
        subject: String,
        result: Result<bool, Fault>,
    },
    LookedUp {
        key: Key,
        todo: Todo,
    },
    SentAgain {
        ordered_at: u64,
        subject: String,
        result: Result<bool, Fault>,
    },
    /// A record that was to stand after the one at `after`.
    Written {
        after: u64,
        result: Result<u64, PublishError>,
    },
}

/// One job at work.
pub(super) struct Runner {
    errand: Arc<Errand>,
    me: String,
    job: watch::Receiver<Job>,
    plan: Plan,
    account: Account,
    /// Letters that are under way here, and their bytes.
    letters: usize,
    bytes: usize,
    under_way: FuturesUnordered<BoxFuture<'static, Ended>>,
    /// Orders whose copy may be missing, and that are looked at.
    repairs: usize,
    look_ups: usize,
    step: usize,
    pace: Option<Pace>,
    intake: Intake,
    /// How often a letter read as before though its order was refused as outdated.
    outdated: HashMap<Key, u32>,
    begun: Instant,
    log: Log,
}

impl Runner {
    pub(super) fn new((bus, me): (&Bus, &str), job: watch::Receiver<Job>, share: Share) -> Runner {
        let now = Instant::now();
        let it = job.borrow().clone();
        let plan = it.plan();
        let log = Log::new(it.last_sequence, it.counts());
        Runner {
            errand: Arc::new(Errand::of(bus, &it)),
            me: me.to_owned(),
            pace: plan.rate.map(|rate| Pace::new(rate, Duration::ZERO)),
            plan,
            account: Account::new(&it, share),
            letters: 0,
            bytes: 0,
            under_way: FuturesUnordered::new(),
            repairs: 0,
            look_ups: 0,
            // A step that an earlier runner had begun was allowed: those before it held.
            step: usize::try_from(it.checkpoint.step).unwrap_or(0).saturating_sub(1),
            intake: Intake::new(),
            outdated: HashMap::new(),
            begun: now,
            job,
            log,
        }
    }

    /// Runs the job until it has finished, or somebody else took it up.
    pub(super) async fn run(mut self) {
        if !self.take_up().await {
            return;
        }
        let errand = Arc::clone(&self.errand);
        let subjects = errand.selection.subjects(errand.bus.gate().identity().region());
        let reading = Reading { stream: DEAD_LETTER_STREAM, subjects, from: errand.cut_off + 1 };
        let (heard_into, mut heard) = mpsc::channel(HEARD_AHEAD);
        let mut following = std::pin::pin!(follow(&errand.bus, reading, heard_into));
        let (found_into, mut found) = mpsc::channel(FOUND_AHEAD);
        let mut walking = std::pin::pin!(walk(&errand.bus, (&errand.selection, errand.cut_off), found_into));
        let mut records = Vec::new();
        self.begun = Instant::now();
        loop {
            let wake = self.act();
            if self.is_over() {
                break;
            }
            let walks = self.walks();
            tokio::select! {
                _ = heard.recv_many(&mut records, HEARD_AHEAD) => records.drain(..).for_each(|one| self.hear(one)),
                Some(ended) = self.under_way.next(), if !self.under_way.is_empty() => self.end(ended),
                Some(one) = found.recv(), if walks => self.find(one),
                changed = self.job.changed() => {
                    if changed.is_err() {
                        break;
                    }
                    self.log.last = self.log.last.max(self.job.borrow_and_update().last_sequence);
                }
                () = sleep_until(wake) => {}
                () = &mut following => {}
                () = &mut walking, if self.account.is_caught_up() => {}
            }
        }
    }

    /// Waits for its hour and writes that it is taken up. `false`: there is nothing to do.
    async fn take_up(&mut self) -> bool {
        loop {
            let job = self.job.borrow_and_update().clone();
            self.log.last = job.last_sequence;
            if job.is_finished() {
                return false;
            }
            let now_ms = self.errand.bus.gate().clock().now_ms();
            let waits = job.end.is_none() && job.started_ms == 0 && (job.is_paused || job.replay.at_ms > now_ms);
            if !waits {
                let act = v1::JobAct { at_ms: now_ms, by: self.me.clone(), why: String::new() };
                match append(&self.errand.bus, &job.id, job.last_sequence, Record::Started(act)).await {
                    Ok(sequence) => {
                        self.log.last = sequence;
                        return true;
                    }
                    Err(error) => tracing::debug!(%error, job = job.id, "the job is not taken up yet"),
                }
            }
            let look_again = sleep_until(Instant::now() + LOOK_AT_CLOCK);
            tokio::select! {
                changed = self.job.changed() => if changed.is_err() { return false },
                () = look_again => {}
            }
        }
    }

    /// Whether it comes across more letters now.
    fn walks(&self) -> bool {
        let account = &self.account;
        account.is_caught_up() && !account.is_walked() && account.queue.has_room() && !self.is_stopped()
    }

    fn is_stopped(&self) -> bool {
        self.log.abort.is_some() || self.job.borrow().end.is_some()
    }

    /// Whether it has finished, or is another runner's.
    fn is_over(&self) -> bool {
        let job = self.job.borrow();
        let is_anothers = job.last_sequence >= self.log.last && !job.runner.is_empty() && job.runner != self.me;
        job.is_finished() || is_anothers
    }

    /// Does what is to be done now. When to look again where nothing is heard.
    fn act(&mut self) -> Instant {
        let mut wake = Instant::now() + Duration::from_secs(60);
        self.repair();
        self.ask_lanes();
        // Decided anew each time: an order may be heard of that was thought to be refused.
        self.log.is_finishing = false;
        self.account.queue.look_aside(self.account.read_to());
        while self.account.is_caught_up() {
            match next(&self.plan, &self.view()) {
                Next::Dispatch => match self.dispatch() {
                    Dispatched::Yes => {}
                    Dispatched::NotBefore(moment) => {
                        wake = wake.min(moment);
                        break;
                    }
                    Dispatched::NothingToSend => break,
                },
                Next::Advance => self.step += 1,
                Next::Abort(why) => self.log.abort = Some(why),
                Next::Finish => {
                    let is_settled = self.settle() && self.letters == 0;
                    let is_all_copied = self.repairs == 0 && !self.account.misses_copies();
                    self.log.is_finishing = is_settled && is_all_copied;
                    break;
                }
                Next::Wait => break,
            }
        }
        // What was put aside just now is looked at again soon.
        wake = self.account.queue.looks_next().map_or(wake, |again| wake.min(again));
        // Where no more may ask, the end of one that does wakes this.
        let lanes = Some(&self.account.lanes).filter(|_| self.repairs < MAX_REPAIRS);
        wake = lanes.and_then(Lanes::wakes).map_or(wake, |again| wake.min(again));
        if self.account.is_through() {
            self.account.queue.end();
        }
        wake.min(self.write())
    }

    fn view(&self) -> View {
        View {
            counts: self.account.counts(),
            starting: self.account.starting(),
            step: self.step,
            is_paused: self.job.borrow().is_paused,
            is_stopped: self.is_stopped(),
            is_walked: self.account.is_through(),
        }
    }

    fn dispatch(&mut self) -> Dispatched {
        // A walk that began again comes across letters twice; another runner may have been faster.
        let account = &mut self.account;
        while account.queue.front().is_some_and(|next| next.key().is_none_or(|key| account.is_begun(key))) {
            account.queue.pop();
        }
        let is_full = self.letters >= MAX_UNDER_WAY || self.bytes >= MAX_BYTES;
        // Whether one is meant is known before it takes the moment of another.
        match account.queue.turn(&self.errand.selection, account.read_to()) {
            Turn::Nothing => return Dispatched::NothingToSend,
            Turn::Gone => {}
            Turn::Taken(key) => account.queue.skip(key, Some(Skip::ReplayedByOthers)),
            Turn::Send => return self.send_to_lane(is_full),
            Turn::LookUp if is_full || self.look_ups >= MAX_LOOK_UPS => return Dispatched::NothingToSend,
            Turn::LookBack { .. } if self.look_ups >= MAX_LOOK_BACKS => return Dispatched::NothingToSend,
            Turn::LookUp => self.look_up(None),
            Turn::LookBack { first } => self.look_up(Some(first)),
        }
        Dispatched::Yes
    }

    /// Takes the moment of the next letter, if it has come and orders are taken.
    fn take_moment(&mut self) -> Result<(), Dispatched> {
        let again = |again: Option<Instant>| again.map_or(Dispatched::NothingToSend, Dispatched::NotBefore);
        self.intake.opens(Instant::now()).map_err(again)?;
        let Some(pace) = &mut self.pace else { return Ok(()) };
        pace.take(self.begun.elapsed()).map_err(|moment| Dispatched::NotBefore(self.begun + moment))
    }

    /// Orders the first letter.
    fn send(&mut self) {
        let Some(candidate) = self.account.queue.pop() else { return };
        let (Some(key), bytes) = (candidate.key(), candidate.size()) else { return };
        let Candidate::Letter(letter) = candidate else { return };
        self.account.begin(key);
        self.intake.give(Instant::now());
        self.letters += 1;
        self.bytes += bytes;
        let outdated = self.outdated.get(&key).copied().unwrap_or(0);
        let errand = Arc::clone(&self.errand);
        self.under_way.push(Box::pin(async move {
            let ordered = errand.order(letter, outdated).await;
            Ended::Ordered { key, bytes, ordered }
        }));
    }

    /// Sends the copy of a letter that was ordered.
    fn copy(&mut self, key: Key, letter: Box<Letter>, replayed: Replayed) {
        let (errand, bytes) = (Arc::clone(&self.errand), letter.letter.payload.len());
        let (subject, ordered_at) = (subject_of(&letter), replayed.ordered_at);
        self.account.lanes.give(&subject, Instant::now());
        self.letters += 1;
        self.bytes += bytes;
        self.under_way.push(Box::pin(async move {
            let result = errand.copy(&letter, &replayed).await;
            Ended::Copied { key, bytes, subject, ordered_at, result }
        }));
    }

    /// Looks once more at letters whose order may be on its way. Whether none is left.
    fn settle(&mut self) -> bool {
        while self.look_ups < MAX_LOOK_UPS {
            let Some((key, subject)) = self.account.next_in_doubt() else { return self.look_ups == 0 };
            if !self.account.is_begun(key) {
                self.account.look_at(key);
                self.look_ups += 1;
                let errand = Arc::clone(&self.errand);
                self.under_way.push(Box::pin(async move {
                    let todo = errand.look_up(&subject).await;
                    Ended::LookedUp { key, todo }
                }));
            }
        }
        false
    }

    /// Looks at the history of the first letter; only at what it was where it is known that somebody else replayed it.
    fn look_up(&mut self, taken: Option<bool>) {
        let Some(candidate) = self.account.queue.pop() else { return };
        let Some(key) = candidate.key() else { return };
        let (subject, _) = candidate.into_subject();
        self.account.look_at(key);
        self.look_ups += 1;
        let errand = Arc::clone(&self.errand);
        self.under_way.push(Box::pin(async move {
            let todo = match taken {
                Some(is_first) => Todo::Nothing(errand.look_back(&subject, is_first).await),
                None => errand.look_up(&subject).await,
            };
            Ended::LookedUp { key, todo }
        }));
    }

    fn end(&mut self, ended: Ended) {
        match ended {
            Ended::Ordered { key, bytes, ordered } => {
                self.letters -= 1;
                self.bytes -= bytes;
                self.answered(key, ordered);
            }
            Ended::Copied { key, bytes, subject, ordered_at, result } => {
                self.letters -= 1;
                self.bytes -= bytes;
                self.account.lanes.answered(&subject, Instant::now(), result.is_ok());
                match result {
                    Ok(()) => self.account.sent(key, ordered_at),
                    Err(fault) => self.copy_waits(ordered_at, &subject, &fault),
                }
            }
            Ended::Found { key, letter, subject, result } => {
                self.look_ups -= 1;
                self.consumer_was(key, letter, &subject, result);
            }
            Ended::LookedUp { key, todo } => {
                self.look_ups -= 1;
                self.looked_up(key, todo);
            }
            Ended::SentAgain { ordered_at, subject, result } => {
                self.repairs -= 1;
                self.account.lanes.answered(&subject, Instant::now(), result.as_ref().is_ok_and(|is_ours| *is_ours));
                match result {
                    Ok(true) => self.account.copied(ordered_at),
                    Ok(false) => Key::of(&subject).into_iter().for_each(|key| self.account.disown(key)),
                    Err(fault) => self.copy_waits(ordered_at, &subject, &fault),
                }
            }
            Ended::Written { after, result } => self.written(after, result),
        }
    }

    /// An order was answered. The moment of one that does not stand is another letter's.
    fn answered(&mut self, key: Key, ordered: Ordered) {
        if self.intake.answered(Instant::now()) {
            self.rest(Instant::now());
        }
        if let (Some(pace), false) = (&mut self.pace, matches!(ordered, Ordered::Stands(..))) {
            pace.give_back();
        }
        let outdated = self.outdated.remove(&key).unwrap_or(0);
        match ordered {
            Ordered::Stands(letter, replayed) => {
                self.intake.taken();
                self.account.ordered(key, replayed.ordered_at);
                self.copy(key, letter, replayed);
            }
            Ordered::NotNow(letter, fault) => {
                self.refused(&fault);
                // It was not found, and may be stored all the same.
                match fault.effect() {
                    Effect::None => self.account.put_back(key, letter),
                    _ => self.account.put_back_in_doubt(key, letter),
                }
            }
            Ordered::Changed(letter) => self.account.put_back(key, letter),
            Ordered::Outdated(letter) => {
                self.outdated.insert(key, outdated + 1);
                self.account.put_back(key, letter);
            }
            Ordered::Nothing(outcome) => self.came_of(key, outcome),
        }
    }

    /// Orders are not taken now: none is given for a while, and that is not made up for.
    fn refused(&mut self, fault: &Fault) {
        let (until, is_news) = self.intake.refused(Instant::now());
        self.rest(until);
        if is_news {
            tracing::warn!(%fault, job = self.errand.job, "orders are not taken now: the job waits, and asks again");
        }
    }

    /// The rate begins again at `moment`.
    fn rest(&mut self, moment: Instant) {
        let moment = moment.saturating_duration_since(self.begun);
        self.pace.iter_mut().for_each(|pace| pace.rest(moment));
    }

    fn came_of(&mut self, key: Key, outcome: Outcome) {
        match outcome {
            Outcome::Skipped(skip) => self.account.not_sent(key, Some(skip)),
            Outcome::NotMeant | Outcome::Counted => self.account.not_sent(key, None),
        }
    }

    fn looked_up(&mut self, key: Key, todo: Todo) {
        match todo {
            Todo::Nothing(outcome) => self.came_of(key, outcome),
            // Its turn is now; when, the rate says.
            Todo::Order(letter) => self.account.put_back(key, letter),
            // Ordered before, at the moment of its own.
            Todo::Copy(letter, replayed) => self.copy(key, letter, replayed),
        }
    }

    fn find(&mut self, found: Found) {
        match found {
            Found::End => self.account.end_walk(),
            Found::Newest(envelope) => {
                let Some(candidate) = candidate_now(&envelope, self.errand.cut_off) else { return };
                let Some(key) = candidate.key() else { return };
                let is_meant = match &candidate {
                    Candidate::Letter(letter) => self.errand.selection.admits(&letter.letter),
                    Candidate::LookUp { .. } => true,
                };
                if is_meant && !self.account.is_begun(key) {
                    self.account.queue.found(candidate);
                }
            }
        }
    }

    fn hear(&mut self, heard: Heard) {
        match heard {
            Heard::Record(envelope) => self.hear_record(&envelope),
            Heard::CaughtUp => self.account.catch_up(self.job.borrow().checkpoint.copied_through),
        }
    }

    fn hear_record(&mut self, envelope: &Envelope) {
        let Some(delivery) = &envelope.delivery else { return };
        let Some(key) = Key::of(&envelope.subject) else { return };
        // Of another letter than its subject's, or of a kind that is not known here: nothing, at its place in the stream.
        let record = v1::LetterRecord { record: record_of(envelope) };
        // The broker keeps what its writer said: after which record of the letter it comes.
        let before = envelope.header(header::EXPECTED_LAST).and_then(|sequence| sequence.parse::<u64>().ok());
        let was_there = before.map(|before| before <= self.errand.cut_off);
        self.account.hear(key, (delivery.sequence, &envelope.subject), &record, was_there);
    }
}

enum Dispatched {
    Yes,
    NotBefore(Instant),
    NothingToSend,
}
