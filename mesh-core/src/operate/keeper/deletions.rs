//! The broker's words that a message of a queue was deleted before it was settled: counted, and told now and then.
//!
//! They come of acknowledgements, too, and then in floods: a server that is behind the others, or was killed before it wrote down
//! what its consumer had acknowledged, says one for each message. So no letters are made of them
//! ([`is_deletion_in_a_queue`]), and a person is told where to look.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    policy::reconcile::{Notice, is_deletion_in_a_queue},
    telemetry::metrics::Metrics,
};

/// How long one line comes after the other, for each stream.
const ROUND: Duration = Duration::from_secs(10);

/// The streams whose words came.
#[derive(Debug, Default)]
pub(super) struct Deletions(Mutex<HashMap<String, Round>>);

/// The words on one stream.
#[derive(Debug)]
struct Round {
    told: Instant,
    /// How many words there were since then.
    words: u64,
}

impl Deletions {
    /// Counts such a word. `false`: it is another.
    pub(super) fn count(&self, notice: &Notice, metrics: &Metrics) -> bool {
        if !is_deletion_in_a_queue(notice) {
            return false;
        }
        metrics.deletion_not_believed(&notice.stream);
        if let Some(before) = self.to_be_told(&notice.stream) {
            let Notice { stream, sequence, durable, .. } = notice;
            tracing::warn!(
                stream,
                sequence,
                consumer = durable,
                before,
                "the broker says that messages of a queue were deleted before they were settled; a server that is behind or was killed \
                 says so of what was acknowledged too, so no letters are made of it: if somebody purged the queue, look there"
            );
        }
        true
    }

    /// Whether a line is to say so: how many words there were since the last one.
    fn to_be_told(&self, stream: &str) -> Option<u64> {
        let mut rounds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        match rounds.get_mut(stream) {
            Some(round) if now.duration_since(round.told) < ROUND => {
                round.words += 1;
                None
            }
            before => {
                let words = before.map_or(0, |round| round.words);
                rounds.insert(stream.to_owned(), Round { told: now, words: 0 });
                Some(words)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_flood_is_told_once_in_a_while_for_each_stream() {
        let deletions = Deletions::default();
        assert_eq!(deletions.to_be_told("a"), Some(0));
        assert_eq!((deletions.to_be_told("a"), deletions.to_be_told("a")), (None, None));
        assert_eq!(deletions.to_be_told("b"), Some(0));
        tokio::time::advance(ROUND).await;
        assert_eq!(deletions.to_be_told("a"), Some(2));
    }
}
