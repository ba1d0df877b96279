//! A few letters of very many: read by the newest record of each, and no more of them than are wanted.

use std::time::Duration;

use tokio::time::Instant;

use super::{Listing, Selector, behind};
use crate::{
    bus::{Bus, Start},
    dead_letter::{ActKind, Letter, LetterState, Letters, kind, record_of},
    envelope::Envelope,
    fault::{Fault, Reason},
    subject::{DEAD_LETTER_STREAM, Place},
};

/// How long a server of the broker may take to get what the others have.
const CATCHES_UP: Duration = Duration::from_secs(10);
const AGAIN: Duration = Duration::from_millis(100);

/// How long a reading is begun anew that ended too soon: as long as a server may take to get what the others have, from the first
/// time on that it was behind. However long the reading itself took before, it has its chance.
#[derive(Debug, Default)]
pub struct Patience {
    until: Option<Instant>,
}

impl Patience {
    /// Whether to read again after this fault. It waits before it says so.
    pub async fn reads_again(&mut self, fault: &Fault) -> bool {
        if fault.reason() != Reason::BusUnavailable {
            return false;
        }
        let now = Instant::now();
        let has_time = now < *self.until.get_or_insert(now + CATCHES_UP);
        if has_time {
            tracing::debug!(%fault, "the letters are looked at again");
            tokio::time::sleep(AGAIN).await;
        }
        has_time
    }
}

/// The letters that are meant, the oldest capture first, where there are no more than `limit`. `None`: there are more.
///
/// Open letters that nobody did anything to come without what was before their newest capture.
///
/// # Errors
/// The bus can't be reached, or this identity may not read letters.
pub async fn list_few(bus: &Bus, selector: &Selector, limit: usize) -> Result<Option<Listing>, Fault> {
    let last = bus.last_sequence_on(DEAD_LETTER_STREAM, &selector.subject()).await?;
    let Some(last) = last else { return Ok(Some(Listing::default())) };
    let mut patience = Patience::default();
    loop {
        let (mut listing, read_to) = list_once(bus, selector, limit).await?;
        if listing.letters.len() > limit {
            return Ok(None);
        }
        if read_to >= last {
            listing.letters.sort_by_key(|letter| letter.letter.captured_at_ms);
            return Ok(Some(listing));
        }
        let fault = behind();
        if !patience.reads_again(&fault).await {
            return Err(fault);
        }
    }
}

/// As one of the stream's servers has them, which may be behind the others; with the last sequence that it had.
async fn list_once(bus: &Bus, selector: &Selector, limit: usize) -> Result<(Listing, u64), Fault> {
    let (mut listing, mut read_to) = (Listing::default(), 0);
    let mut reading = bus.follow_from(DEAD_LETTER_STREAM, vec![selector.subject()], Start::NewestOfEach).await?;
    for _ in 0..reading.stored() {
        let newest = reading.next().await?.open().envelope;
        read_to = newest.delivery.as_ref().map_or(read_to, |delivery| delivery.sequence);
        match Newest::of(selector, &newest) {
            Newest::Other => {}
            Newest::Unread(id) => listing.leave_unread(id),
            Newest::MayBeMeant(what) => match whole(bus, what, &newest).await? {
                (Some(letter), _) => listing.take(selector, letter),
                (None, unread) => unread.into_iter().for_each(|id| listing.leave_unread(id)),
            },
        }
        if listing.letters.len() > limit {
            break;
        }
    }
    reading.close().await;
    Ok((listing, read_to))
}

/// Whether a letter may be meant, by the state that its newest record tells of.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Newest {
    /// By what was done to it last.
    MayBeMeant(ActKind),
    /// Of this letter nobody here knows: its newest record is one that this version can't read.
    Unread(String),
    /// It is not.
    Other,
}

impl Newest {
    pub(super) fn of(selector: &Selector, newest: &Envelope) -> Newest {
        match (record_of(newest).as_ref().map(kind), Place::parse(&newest.subject)) {
            (Some(what), _) if may_be_in(selector, what) => Newest::MayBeMeant(what),
            (None, Some(Place::DeadLetter { letter, .. })) => Newest::Unread(letter.to_owned()),
            _ => Newest::Other,
        }
    }
}

fn may_be_in(selector: &Selector, what: ActKind) -> bool {
    let states = &selector.selection().states;
    let may_be = |state: LetterState| states.is_empty() || states.contains(&state);
    match what {
        ActKind::Captured => may_be(LetterState::Open),
        ActKind::Edited | ActKind::Released => may_be(LetterState::Open) || may_be(LetterState::Held),
        ActKind::Held => may_be(LetterState::Held),
        ActKind::Replayed => may_be(LetterState::Replaying),
        ActKind::Resolved => may_be(LetterState::Resolved),
        ActKind::Discarded => may_be(LetterState::Discarded),
    }
}

/// The letter of a newest record, which does this; and its id, where something of it can't be read.
async fn whole(bus: &Bus, what: ActKind, newest: &Envelope) -> Result<(Option<Letter>, Option<String>), Fault> {
    if what == ActKind::Captured {
        let mut alone = Letters::default();
        alone.apply(newest);
        return Ok((alone.into_map().into_values().next(), None));
    }
    let mut whole = Reading::of(&newest.subject);
    whole.go_on(bus).await?;
    Ok((whole.letter(), whole.letters.unread().next().map(str::to_owned)))
}

/// One letter, record by record: for a few at a time, each is a question of its own.
#[derive(Debug)]
pub(super) struct Reading {
    subject: String,
    /// The first sequence that was not read.
    next: u64,
    letters: Letters,
}

impl Reading {
    /// Of the one letter on a subject, or on those that match it. Nothing is read yet.
    pub(super) fn of(subject: &str) -> Reading {
        Reading { subject: subject.to_owned(), next: 1, letters: Letters::default() }
    }

    /// Reads what was not read before.
    pub(super) async fn go_on(&mut self, bus: &Bus) -> Result<(), Fault> {
        while let Some(message) = bus.next_on(DEAD_LETTER_STREAM, &self.subject, self.next).await? {
            let envelope = message.open().envelope;
            self.next = envelope.delivery.as_ref().map_or(self.next, |delivery| delivery.sequence) + 1;
            self.letters.apply(&envelope);
        }
        Ok(())
    }

    /// The letter as far as it was read.
    pub(super) fn letter(&self) -> Option<Letter> {
        self.letters.iter().next().map(|(_, letter)| letter.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::{Code, Effect};

    #[tokio::test(start_paused = true)]
    async fn a_reading_that_took_long_is_begun_anew_and_not_for_ever() {
        let mut patience = Patience::default();
        let other = Fault::new(Code::DataLoss, Effect::None, Reason::Undecodable, "it is no letter");
        tokio::time::sleep(CATCHES_UP * 6).await;
        assert!(!patience.reads_again(&other).await);
        assert!(patience.reads_again(&behind()).await, "however long it took until then");
        tokio::time::sleep(CATCHES_UP / 2).await;
        assert!(patience.reads_again(&behind()).await);
        tokio::time::sleep(CATCHES_UP / 2).await;
        assert!(!patience.reads_again(&behind()).await);
    }
}
