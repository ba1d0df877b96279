//! What is not begun now: its target is down, there is no budget for it, or its time is over.
//!
//! Somebody may have begun it before, or be at work. So it is first asked what is remembered: a start without a word is no
//! "nothing happened", and what was done is said and not given up. What is remembered then is written before it goes its way,
//! only if nobody else wrote meanwhile.

use mesh_proto::v1::inbox_record::State;

use super::{
    attempt::Ended,
    inbox::{Trial, deliveries, end_of},
    settle::GivenUp,
    worker::Worker,
};
use crate::{
    delayed::shortened,
    fault::{Effect, crash_point},
    policy::inbox::Start,
    store::Written,
};

impl Worker {
    /// How a delivery ends that is not to be begun: as `ended` says, unless what is remembered of it says otherwise. A first
    /// delivery of what is not remembered costs nothing.
    pub(super) async fn not_begun(&self, trial: Trial<'_>, ended: Ended) -> Ended {
        match ended {
            Ended::PutAside { .. } | Ended::DeadLetter(_) if self.is_remembered(trial.envelope) => {
                Box::pin(self.try_remembered(trial, Some(ended))).await
            }
            ended => ended,
        }
    }

    /// Writes down that it ends so, over what is remembered at `revision` of `key`. `None`: somebody else wrote meanwhile.
    pub(super) async fn end_unbegun(
        &self,
        trial: &Trial<'_>,
        (key, revision): (&str, u64),
        mut start: Start,
        ended: &Ended,
    ) -> Result<Option<Ended>, GivenUp> {
        start.begun |= self.may_be_forgotten(trial.envelope);
        let mut ended = in_doubt(ended.clone(), start);
        let mut record = self.begun(trial.envelope, start, false);
        match end_of(&ended) {
            Some(end) => {
                record.end = Some(end);
                record.begun = false;
                record.set_state(State::Ended);
                record.attempts = Some(shortened(trial.attempts));
            }
            None => {
                record.set_state(State::HandedBack);
                record.deliveries = deliveries(trial.envelope);
                if let Ended::PutAside { turn, .. } = &mut ended {
                    turn.clone_from(&record.by);
                }
            }
        }
        match self.write(key, &record, revision, self.work.repeat(trial.envelope)).await? {
            Written::At(_) => {
                crash_point("inbox.ended");
                Ok(Some(ended))
            }
            Written::Conflict => Ok(None),
        }
    }
}

/// A letter of what may have been begun does not say that nothing happened.
fn in_doubt(ended: Ended, start: Start) -> Ended {
    match ended {
        Ended::DeadLetter(fault) if start.begun && fault.effect() == Effect::None => {
            Ended::DeadLetter(fault.with_effect(Effect::Unknown).with_note("an earlier start of it left no word"))
        }
        ended => ended,
    }
}
