//! One letter of a job: its order, once; and its copy, until it is certain.

use std::time::Duration;

use super::{Job, Selection};
use crate::{
    bus::Bus,
    clock::patient_delays,
    dead_letter::{ActKind, Letter, LetterState, Letters},
    fault::{Effect, Fault, Reason},
    operate::letters::{Order, Replayed, Replays, is_passing},
    subject::DEAD_LETTER_STREAM,
};

/// How often an order may be refused as outdated while its letter reads as before.
const MAX_UNCHANGED: u32 = 6;

/// Why a candidate is not ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It was open when the job was asked for, and is not to be sent.
    Skipped(Skip),
    /// It is none of the job's.
    NotMeant,
    /// It was sent by the job, and what became of it is in the account already.
    Counted,
}

/// Why it is not to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Skip {
    Held,
    Discarded,
    ReplayedByOthers,
    WithoutConsumer,
    /// Its order can't be given, now or later.
    Refused,
}

/// What every letter of a job has in common.
pub(super) struct Errand {
    pub(super) bus: Bus,
    pub(super) job: String,
    pub(super) selection: Selection,
    pub(super) cut_off: u64,
    pub(super) replays: Replays,
}

/// What is to be done with a letter, as its whole history says.
pub(super) enum Todo {
    Order(Box<Letter>),
    /// It was ordered by this job, by this runner or another: the copy may be missing.
    Copy(Box<Letter>, Replayed),
    Nothing(Outcome),
}

/// What came of an order.
pub(super) enum Ordered {
    /// It stands, by this try or by another one of the job: its copy is next.
    Stands(Box<Letter>, Replayed),
    /// Orders are not taken now. The letter is open.
    NotNow(Box<Letter>, Fault),
    /// It is open, and was changed since it was read: so it stands now.
    Changed(Box<Letter>),
    /// It reads as before though its order was refused as outdated.
    Outdated(Box<Letter>),
    /// It is not to be ordered.
    Nothing(Outcome),
}

impl Errand {
    pub(super) fn of(bus: &Bus, job: &Job) -> Errand {
        let order = Order { by: job.asked.by.clone(), why: job.asked.why.clone(), again: false, job: job.id.clone() };
        Errand {
            bus: bus.clone(),
            job: job.id.clone(),
            selection: job.selection(),
            cut_off: job.replay.cut_off,
            replays: Replays::new(bus, order),
        }
    }

    /// Orders an open letter once, or finds out why not. Whether it is tried again is not decided here: the job may be stopped
    /// meanwhile, and the moment that it had goes to another letter. `outdated`: how often it read as before though its order was
    /// refused as outdated.
    pub(super) async fn order(&self, letter: Box<Letter>, outdated: u32) -> Ordered {
        let fault = match self.replays.order(&letter).await {
            Ok(replayed) => return Ordered::Stands(letter, replayed),
            Err(fault) => fault,
        };
        let is_changed = fault.reason() == Reason::LetterChanged;
        match fault.reason() {
            Reason::ConsumerMissing => return Ordered::Nothing(Outcome::Skipped(Skip::WithoutConsumer)),
            _ if is_changed => {}
            _ if !is_passing(&fault) => return Ordered::Nothing(refused(&letter, &fault)),
            _ if fault.effect() == Effect::None => return Ordered::NotNow(letter, fault),
            _ => {}
        }
        // It may be written all the same, or somebody was there meanwhile: its history says so then.
        match self.look_up(&subject_of(&letter)).await {
            Todo::Nothing(outcome) => Ordered::Nothing(outcome),
            Todo::Copy(letter, replayed) => Ordered::Stands(letter, replayed),
            Todo::Order(now) if !is_changed => Ordered::NotNow(now, fault),
            Todo::Order(now) if now.last_sequence != letter.last_sequence => Ordered::Changed(now),
            // What was read may be older than what was refused for it; for ever it is not.
            Todo::Order(now) if outdated + 1 >= MAX_UNCHANGED => Ordered::Nothing(refused(&now, &fault)),
            Todo::Order(now) => {
                let mut delays = patient_delays().skip(outdated as usize);
                wait(&mut delays, &fault, "the order of a replay is refused").await;
                Ordered::Outdated(now)
            }
        }
    }

    /// Sends the copy of a letter that this job ordered at this sequence, once more. `false`: the job has not ordered it, or had
    /// nothing to order there.
    ///
    /// # Errors
    /// Of [`copy`](Errand::copy); the order is not among what can be read now: of it nothing is known.
    pub(super) async fn send_again(&self, subject: &str, ordered_at: u64) -> Result<bool, Fault> {
        let read = self.read(subject).await;
        if read.read_to < ordered_at {
            // It was heard of elsewhere: a new leader may not have it yet.
            return Err(Fault::unavailable("the letter's history is not read as far as its order"));
        }
        match self.todo(read.then, read.now) {
            Todo::Copy(letter, replayed) => self.copy(&letter, &replayed).await.map(|()| true),
            Todo::Nothing(outcome) => Ok(outcome == Outcome::Counted),
            Todo::Order(_) => Ok(false),
        }
    }

    /// Sends the copy of an order, once. What its lane will never take has failed again: it is open, and nobody waits for it.
    ///
    /// # Errors
    /// The lane is away, or the end of what it will never take is not confirmed. The copy may be there all the same, and sending it
    /// again is safe.
    pub(super) async fn copy(&self, letter: &Letter, replayed: &Replayed) -> Result<(), Fault> {
        let Err(fault) = self.replays.send(letter, replayed).await else { return Ok(()) };
        match self.replays.fail(letter, replayed, &fault).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(fault),
            Err(unconfirmed) => Err(unconfirmed),
        }
    }

    /// Looks for the consumer of a letter. `false`: it does not exist any more.
    ///
    /// # Errors
    /// Its lane can't be asked now.
    pub(super) async fn find_consumer(&self, letter: &Letter) -> Result<bool, Fault> {
        match self.replays.find_consumer(letter).await {
            Err(fault) if is_passing(&fault) => Err(fault),
            Err(fault) if fault.reason() == Reason::ConsumerMissing => Ok(false),
            // What else there is against it is said of its order.
            Ok(()) | Err(_) => Ok(true),
        }
    }

    /// What is to be done with a letter that something happened to.
    pub(super) async fn look_up(&self, subject: &str) -> Todo {
        let read = self.read(subject).await;
        self.todo(read.then, read.now)
    }

    async fn read(&self, subject: &str) -> ReadLetter {
        let mut delays = patient_delays();
        loop {
            match read_letter(&self.bus, subject, self.cut_off).await {
                Ok(read) => return read,
                Err(fault) => wait(&mut delays, &fault, "a letter can't be read").await,
            }
        }
    }

    /// What is to be counted of a letter that was open at the cut-off and that somebody else ordered since, for the first time
    /// or again.
    pub(super) async fn look_back(&self, subject: &str, is_first: bool) -> Outcome {
        let mut delays = patient_delays();
        loop {
            match self.was_meant(subject, is_first).await {
                Ok(true) => return Outcome::Skipped(Skip::ReplayedByOthers),
                Ok(false) => return Outcome::NotMeant,
                Err(fault) => wait(&mut delays, &fault, "a letter can't be read").await,
            }
        }
    }

    /// Whether a letter that was open at the cut-off was meant. Nothing but a capture changes that.
    async fn was_meant(&self, subject: &str, is_first: bool) -> Result<bool, Fault> {
        let mut then = Letters::default();
        let mut from = 1;
        while from <= self.cut_off
            && let Some(message) = self.bus.next_on(DEAD_LETTER_STREAM, subject, from).await?
        {
            let envelope = message.open().envelope;
            let sequence = envelope.delivery.as_ref().map_or(from, |delivery| delivery.sequence);
            if sequence > self.cut_off {
                break;
            }
            then.apply(&envelope);
            from = sequence + 1;
            if is_first {
                break;
            }
        }
        Ok(then.iter().any(|(_, letter)| self.selection.admits(&letter.letter)))
    }

    fn todo(&self, then: Option<Letter>, now: Option<Letter>) -> Todo {
        let was_meant = |it: &Letter| it.state == LetterState::Open && self.selection.admits(&it.letter);
        let (Some(then), Some(now)) = (then.filter(was_meant), now) else { return Todo::Nothing(Outcome::NotMeant) };
        if let Some(ours) = now.history.iter().find(|act| act.kind == ActKind::Replayed && act.job == self.job) {
            let is_under_way = now.state == LetterState::Replaying && now.history.last() == Some(ours);
            let (generation, ordered_at) = (ours.generation, now.last_sequence);
            let replayed = Replayed { letter_id: now.letter.id.clone(), generation, ordered_at };
            return if is_under_way { Todo::Copy(Box::new(now), replayed) } else { Todo::Nothing(Outcome::Counted) };
        }
        Todo::Nothing(Outcome::Skipped(match now.state {
            // A new generation is a new capture: it came after the job was asked for.
            LetterState::Open if now.letter.generation == then.letter.generation => return Todo::Order(Box::new(now)),
            LetterState::Open | LetterState::Replaying | LetterState::Resolved => Skip::ReplayedByOthers,
            LetterState::Held => Skip::Held,
            LetterState::Discarded => Skip::Discarded,
        }))
    }
}

/// A letter as its history says.
pub(super) struct ReadLetter {
    /// As it stood at the cut-off.
    pub(super) then: Option<Letter>,
    /// As it stands now.
    pub(super) now: Option<Letter>,
    /// The sequence of its last record, whatever that says.
    read_to: u64,
}

/// Reads a letter as it stood at the cut-off, and as it stands now.
pub(super) async fn read_letter(bus: &Bus, subject: &str, cut_off: u64) -> Result<ReadLetter, Fault> {
    let (mut then, mut now) = (Letters::default(), Letters::default());
    let mut from = 1;
    while let Some(message) = bus.next_on(DEAD_LETTER_STREAM, subject, from).await? {
        let envelope = message.open().envelope;
        let sequence = envelope.delivery.as_ref().map_or(from, |delivery| delivery.sequence);
        if sequence <= cut_off {
            then.apply(&envelope);
        }
        now.apply(&envelope);
        from = sequence + 1;
    }
    let only = |letters: Letters| letters.into_map().into_values().next();
    Ok(ReadLetter { then: only(then), now: only(now), read_to: from - 1 })
}

pub(super) fn subject_of(letter: &Letter) -> String {
    let it = &letter.letter;
    format!("{}.dead.{}.{}.{}.{}", crate::subject::WIRE, letter.region, it.service, it.consumer, it.id)
}

fn refused(letter: &Letter, fault: &Fault) -> Outcome {
    tracing::warn!(%fault, letter = letter.letter.id, "a letter is skipped: its replay can't be ordered");
    Outcome::Skipped(Skip::Refused)
}

pub(super) async fn wait(delays: &mut (impl Iterator<Item = Duration> + Send), fault: &Fault, what: &str) {
    tracing::warn!(%fault, "{what}: it is tried again");
    tokio::time::sleep(delays.next().unwrap_or_default()).await;
}
