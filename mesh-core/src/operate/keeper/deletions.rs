//! The broker's words that a message of a queue was deleted, and which of them are taken for those of acknowledgements.
//!
//! On several servers such words come in floods: each server that is behind says one for each message that was acknowledged. So
//! what decides about a stream is asked once for all words of a while, a *round*, and said in one line.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    bus::Bus,
    fault::Fault,
    policy::reconcile::{Notice, is_taken_for_settled, may_be_settled},
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
    /// Until when its words are taken for those of acknowledgements. `None`: nobody asked yet, or the last answer was another.
    until: Option<Instant>,
    /// How many were, in this round.
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
        if round.until.is_none_or(|until| until <= Instant::now()) {
            let copies = bus.copies(&notice.stream).await?;
            let before = std::mem::take(&mut *round).words;
            // That one server alone has it is asked each time: a person may make it more, and a loss is rare.
            if !is_taken_for_settled(notice, copies) {
                return Ok(false);
            }
            round.until = Some(Instant::now() + ROUND);
            tell(notice, copies, before);
        }
        round.words += 1;
        metrics.deletion_not_believed(&notice.stream);
        Ok(true)
    }

    fn round(&self, stream: &str) -> Arc<tokio::sync::Mutex<Round>> {
        let mut rounds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(rounds.entry(stream.to_owned()).or_default())
    }
}

/// `before`: how many there were in the round before.
fn tell(notice: &Notice, copies: Option<u64>, before: u64) {
    let Notice { stream, sequence, durable, .. } = notice;
    match copies {
        Some(copies) => tracing::warn!(
            stream,
            sequence,
            consumer = durable,
            copies,
            before,
            "a server says that messages of a queue were deleted before they were settled; a server that is behind the others says \
             so of what was acknowledged too, so all such words on this stream are taken for that"
        ),
        None => tracing::warn!(
            stream,
            sequence,
            consumer = durable,
            before,
            "messages of a queue were deleted before they were settled, and so was the queue: no letters are made of them"
        ),
    }
}
