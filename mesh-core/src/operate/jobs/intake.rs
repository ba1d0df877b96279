//! Whether orders are taken now.
//!
//! While the dead-letter stream refuses them for now (it is full, it has no leader) or says nothing, no more are begun: those that
//! wait would all be stored at once when it is over, whatever the rate, and whatever was ordered of the job meanwhile. After a
//! refusal one letter asks, again and again with longer waits; the others follow when its order stands.

use std::time::Duration;

use tokio::time::Instant;

use crate::clock::patient_delays;

/// How long nothing may be heard of orders that were given: as much as a standstill is made up for.
const SILENCE: Duration = crate::policy::replay::MADE_UP;

/// The orders of one job that were given and not answered.
pub(super) struct Intake {
    unanswered: usize,
    /// Since when nothing was heard of them.
    silent_from: Instant,
    /// Orders were refused: none is given until then, and only one after it.
    refused: Option<Instant>,
    delays: Box<dyn Iterator<Item = Duration> + Send>,
}

impl Intake {
    pub(super) fn new() -> Intake {
        let delays = Box::new(patient_delays());
        Intake { unanswered: 0, silent_from: Instant::now(), refused: None, delays }
    }

    /// Whether an order may be given now.
    ///
    /// # Errors
    /// When it is to be asked again; `None`: after the next answer.
    pub(super) fn opens(&self, now: Instant) -> Result<(), Option<Instant>> {
        match self.refused {
            Some(until) if now < until => Err(Some(until)),
            Some(_) if self.unanswered > 0 => Err(None),
            None if self.is_silent(now) => Err(None),
            _ => Ok(()),
        }
    }

    fn is_silent(&self, now: Instant) -> bool {
        self.unanswered > 0 && now >= self.silent_from + SILENCE
    }

    /// An order is given.
    pub(super) fn give(&mut self, now: Instant) {
        if self.unanswered == 0 {
            self.silent_from = now;
        }
        self.unanswered += 1;
    }

    /// One was answered, whatever came of it. Whether that ended a silence in which none could be given.
    pub(super) fn answered(&mut self, now: Instant) -> bool {
        let was_silent = self.is_silent(now);
        self.unanswered = self.unanswered.saturating_sub(1);
        self.silent_from = now;
        was_silent
    }

    /// It was taken: so are others.
    pub(super) fn taken(&mut self) {
        if self.refused.take().is_some() {
            self.delays = Box::new(patient_delays());
        }
    }

    /// It is not taken now: until when none is given, and whether that is news. Those that were given before the first of them
    /// was refused say nothing new.
    pub(super) fn refused(&mut self, now: Instant) -> (Instant, bool) {
        match self.refused {
            Some(until) if now < until => (until, false),
            _ => {
                let until = now + self.delays.next().unwrap_or_default();
                self.refused = Some(until);
                (until, true)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOMENT: Duration = Duration::from_millis(1);

    #[test]
    fn after_a_refusal_one_asks_and_the_others_follow_it() {
        let (mut intake, mut now) = (Intake::new(), Instant::now());
        for _ in 0..3 {
            intake.give(now);
        }
        let mut waits = Vec::new();
        for round in 0..4 {
            // All that was given is refused, and it is one refusal.
            let mut until = None;
            for at in 0..if round == 0 { 3 } else { 1 } {
                intake.answered(now);
                let (moment, is_news) = intake.refused(now);
                assert_eq!(is_news, at == 0);
                assert_eq!(*until.get_or_insert(moment), moment);
            }
            let until = until.unwrap();
            assert_eq!(intake.opens(until - MOMENT), Err(Some(until)));
            waits.push(until - now);
            now = until;
            assert_eq!(intake.opens(now), Ok(()));
            intake.give(now);
            assert_eq!(intake.opens(now + MOMENT), Err(None), "one asks");
        }
        assert!(waits[3] > waits[0], "{waits:?}");
        intake.answered(now);
        intake.taken();
        intake.give(now);
        assert_eq!(intake.opens(now), Ok(()), "the others follow");
        let (until, _) = intake.refused(now);
        assert!(until - now < waits[3], "a new trouble begins from the start");
    }

    #[test]
    fn while_nothing_is_heard_of_those_that_were_given_none_is() {
        let (mut intake, now) = (Intake::new(), Instant::now());
        intake.give(now);
        intake.give(now + SILENCE / 2);
        assert_eq!(intake.opens(now + SILENCE - MOMENT), Ok(()));
        assert_eq!(intake.opens(now + SILENCE), Err(None));
        assert!(intake.answered(now + 2 * SILENCE));
        assert_eq!(intake.opens(now + 2 * SILENCE), Ok(()));
        assert!(!intake.answered(now + 3 * SILENCE - MOMENT));
        assert_eq!(intake.opens(now + 60 * SILENCE), Ok(()), "nothing is waited for");
        // Time without orders is no silence.
        intake.give(now + 60 * SILENCE);
        assert_eq!(intake.opens(now + 60 * SILENCE), Ok(()));
    }
}
