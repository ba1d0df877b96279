//! The broker's words that a message of a queue was deleted, and which of them are taken for those of acknowledgements.
//!
//! On several servers such words come in floods: each server that is behind says one for each message that was acknowledged. So
//! what decides about a stream is asked once for all words of a while, a *round*, and said in one line.
//!
//! A word is judged by what its queue was when it was said, as far as that is known: one that was said before the queue was made
//! speaks of another queue, which was removed, and one that was said while several servers had it stays an acknowledgement's when
//! its copies were lowered since. What was lowered while no keeper looked is not known: words from before are believed then.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    bus::{Bus, Copies},
    fault::Fault,
    policy::reconcile::{Notice, is_taken_for_settled, may_be_settled, was_said_before},
    telemetry::metrics::Metrics,
};

/// How long the answer about a stream holds.
const ROUND: Duration = Duration::from_secs(10);

/// What is known of the streams whose words came.
#[derive(Debug, Default)]
pub(super) struct Deletions(Mutex<HashMap<String, Arc<tokio::sync::Mutex<Round>>>>);

/// The words on one stream.
#[derive(Debug, Default)]
struct Round {
    /// Until when all its words are taken for those of acknowledgements. `None`: nobody asked yet, or the last answer was another.
    until: Option<Instant>,
    /// What was said before this moment is taken for that too, Unix milliseconds.
    before_ms: i64,
    /// How many servers have it, as of the last answer. `None`: it is gone.
    servers: Option<u64>,
    /// When the next line may say so.
    tell_next: Option<Instant>,
    /// How many words there were since the last line.
    words: u64,
}

impl Deletions {
    /// Whether a word is taken for that of an acknowledgement: it says nothing then.
    ///
    /// # Errors
    /// The broker does not say how many servers have the stream.
    pub(super) async fn are_settlements(
        &self,
        notice: &Notice,
        (bus, metrics): (&Bus, &Metrics),
    ) -> Result<bool, Fault> {
        if !may_be_settled(notice) {
            return Ok(false);
        }
        let round = self.round(&notice.stream);
        // Held while the broker is asked: the other words of this stream wait for the one answer.
        let mut round = round.lock().await;
        if !round.takes(notice) {
            let now_ms = bus.gate().clock().now_ms();
            round.learn(notice, bus.copies(&notice.stream).await?, now_ms);
            if !round.takes(notice) {
                return Ok(false);
            }
        }
        round.count(notice);
        metrics.deletion_not_believed(&notice.stream);
        Ok(true)
    }

    fn round(&self, stream: &str) -> Arc<tokio::sync::Mutex<Round>> {
        let mut rounds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(rounds.entry(stream.to_owned()).or_default())
    }
}

impl Round {
    /// Whether a word is an acknowledgement's, by what is known.
    fn takes(&self, notice: &Notice) -> bool {
        self.until.is_some_and(|until| until > Instant::now()) || was_said_before(notice, self.before_ms)
    }

    /// Takes what the broker answered when it was asked at `asked_ms`, for this word.
    fn learn(&mut self, notice: &Notice, copies: Option<Copies>, asked_ms: i64) {
        self.servers = copies.map(|copies| copies.servers);
        let is_taken = is_taken_for_settled(notice, self.servers);
        // That one server alone has it is asked each time: a person may make it more, and a loss is rare.
        self.until = is_taken.then(|| Instant::now() + ROUND);
        let since_ms = if is_taken { asked_ms } else { copies.map_or(0, |copies| copies.made_ms) };
        self.before_ms = self.before_ms.max(since_ms);
    }

    /// Counts a word that is taken for an acknowledgement's, and says so once in a while.
    fn count(&mut self, notice: &Notice) {
        let now = Instant::now();
        if self.tell_next.is_none_or(|next| next <= now) {
            self.tell_next = Some(now + ROUND);
            tell(notice, self.servers, std::mem::take(&mut self.words));
        }
        self.words += 1;
    }
}

/// `before`: how many there were in the round before.
fn tell(notice: &Notice, servers: Option<u64>, before: u64) {
    let Notice { stream, sequence, durable, .. } = notice;
    let why = match servers {
        Some(1) => {
            "messages of a queue were deleted before they were settled, which was before the queue was made, or while several servers \
             had it: no letters are made of them"
        }
        Some(_) => {
            "a server says that messages of a queue were deleted before they were settled; a server that is behind the others says \
             so of what was acknowledged too, so all such words on this stream are taken for that"
        }
        None => {
            "messages of a queue were deleted before they were settled, and so was the queue: no letters are made of them"
        }
    };
    tracing::warn!(stream, sequence, consumer = durable, copies = servers, before, "{why}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::reconcile::Word;

    fn said(at_ms: i64) -> Notice {
        let (stream, durable) = ("mesh1-work-a-B".into(), "a_work".into());
        Notice { stream, durable, sequence: 5, deliveries: 1, at_ms, word: Word::Deleted }
    }

    fn on(servers: u64, made_ms: i64) -> Option<Copies> {
        Some(Copies { servers, made_ms })
    }

    /// Which of the words said then are taken for acknowledgements'.
    fn taken(round: &Round) -> Vec<i64> {
        [50, 150, 250, 350].into_iter().filter(|at_ms| round.takes(&said(*at_ms))).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_said_while_several_had_it_stays_an_acknowledgements_when_one_has_it() {
        let mut round = Round::default();
        assert!(taken(&round).is_empty(), "nothing is known");
        round.learn(&said(50), on(3, 10), 200);
        assert_eq!(taken(&round), [50, 150, 250, 350]);
        tokio::time::advance(ROUND).await;
        assert_eq!(taken(&round), [50, 150]);
        round.learn(&said(250), on(1, 10), 300);
        assert_eq!(taken(&round), [50, 150], "of later ones nobody saw that several had it");
        round.learn(&said(350), on(2, 10), 400);
        assert_eq!(taken(&round), [50, 150, 250, 350]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_said_before_the_queue_was_made_is_not_of_this_one() {
        let mut round = Round::default();
        round.learn(&said(50), on(1, 200), 300);
        assert_eq!(taken(&round), [50, 150]);
        round.learn(&said(250), None, 300);
        assert_eq!(taken(&round), [50, 150, 250, 350], "it is gone");
        tokio::time::advance(ROUND).await;
        round.learn(&said(350), on(1, 320), 400);
        assert_eq!(taken(&round), [50, 150, 250]);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_the_broker_knows_no_age_of_is_believed() {
        let mut round = Round::default();
        round.learn(&said(50), on(1, 0), 300);
        assert!(taken(&round).is_empty());
    }
}
