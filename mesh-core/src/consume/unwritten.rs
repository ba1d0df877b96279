//! What is begun without a word of it: a first delivery that may be repeated. When it fails for good, that is written down before its
//! letter is captured. Else a process that ends between the letter and the ack would leave a delivery whose handler is begun once
//! more and may succeed, while its letter stays open.

use mesh_proto::v1::{InboxRecord, inbox_record::State};
use tokio::time::Instant;

use super::{
    attempt::Ended,
    inbox::{Trial, end_of, repeated},
    settle::GivenUp,
    worker::Worker,
};
use crate::{
    delayed::shortened,
    envelope::Delivery,
    policy::inbox::{LetterOver, Start, letter_over},
    store::Written,
};

impl Worker {
    /// Runs the handler beside others. What came of it is written down only where that is a letter.
    pub(super) async fn try_unwritten(&self, mut trial: Trial<'_>) -> Ended {
        let ended = {
            let _beside = self.quarantine.beside().await;
            self.try_once(trial.again()).await
        };
        match &trial.envelope.delivery {
            Some(delivery) if matches!(ended, Ended::DeadLetter(_)) => {
                Box::pin(self.write_down_letter(&mut trial, delivery, ended)).await.unwrap_or(Ended::CutOff)
            }
            _ => ended,
        }
    }

    /// How it ends after all: somebody else may have been given it, or have come to an end with it.
    async fn write_down_letter(
        &self,
        trial: &mut Trial<'_>,
        delivery: &Delivery,
        ended: Ended,
    ) -> Result<Ended, GivenUp> {
        let (key, repeat) = (self.inbox_key(trial.envelope), self.work.repeat(trial.envelope));
        let goes_on = trial.tenure.is_some_and(|tenure| tenure.goes_on);
        let letter = self.letter(trial, &ended);
        let mut revision = 0;
        loop {
            if let Written::At(_) = self.write(&key, &letter, revision, repeat).await? {
                return Ok(ended);
            }
            revision = match self.recall(&key).await? {
                // Forgotten since.
                None => 0,
                Some((found, revision)) => {
                    let now = self.now(trial.envelope, delivery, Instant::now(), goes_on);
                    match letter_over(&found, &now) {
                        LetterOver::Write => revision,
                        LetterOver::Ended => return Ok(repeated(Some(&found), trial.attempts)),
                        LetterOver::Anothers => return Ok(Ended::TakenOver),
                        LetterOver::Leave => return Ok(ended),
                    }
                }
            };
        }
    }

    fn letter(&self, trial: &Trial<'_>, ended: &Ended) -> InboxRecord {
        let start = Start { suspect: false, alone: false, begun: false, ended_alone: 0, ended_beside: 0 };
        let mut record = self.begun(trial.envelope, start, false);
        record.end = end_of(ended);
        record.set_state(State::Ended);
        record.attempts = Some(shortened(trial.attempts));
        record
    }
}
