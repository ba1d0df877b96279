//! What is asked before a delivery is given a place: may its target have one more, is there budget for a retry?
//!
//! What may not begin now is put aside on the lane and spends no attempt, so it waits without a place and without an ack
//! that is pending.

use std::{
    sync::{MutexGuard, PoisonError},
    time::Duration,
};

use mesh_proto::v1;

use super::{
    age::{free_of, is_replay},
    attempt::{Ended, panic_text},
    inbox::is_doubt,
    targets::{Admitted, Asks, Refused, Shelf, Targets},
    worker::Worker,
};
use crate::{
    clock::millis,
    delayed::attempts_of,
    envelope::{Envelope, TargetWait},
    fault::{Code, Effect, Fault, Reason},
    policy::{
        budget::Budget,
        isolation::{Aside, Came},
    },
    subject,
};

/// How soon others may have paid for a retry, where time alone pays for none.
const UNPAID: Duration = Duration::from_secs(1);

/// A target with a longer name is known by its hash.
const MAX_TARGET_BYTES: usize = 128;

/// What an end says of the target.
fn came(ended: &Ended, attempts: &v1::Attempts) -> Came {
    match ended {
        Ended::Done(_) | Ended::Refused(_) => Came::Answered,
        Ended::Again { .. } | Ended::DeadLetter(_) => of_last(attempts),
        Ended::PutAside { .. }
        | Ended::HandedBack
        | Ended::CutOff
        | Ended::Overtaken
        | Ended::SentAgain { .. }
        | Ended::TakenOver => Came::Nothing,
    }
}

/// A target that does not answer, or says that it can't, has failed; one that refuses this message has answered.
fn of_last(attempts: &v1::Attempts) -> Came {
    let last = attempts.attempts.last().and_then(|attempt| attempt.fault.clone());
    match last.map(|fault| Fault::from(fault).code()) {
        Some(Code::Unavailable | Code::DeadlineExceeded) => Came::Failed,
        _ => Came::Answered,
    }
}

/// What was granted to a delivery before it began.
pub(super) struct Granted<'a> {
    admitted: Option<Admitted<'a>>,
    /// It drew from the budget.
    has_drawn: bool,
}

/// When what is put aside is too old to wait any longer, Unix milliseconds.
#[derive(Clone, Copy)]
enum TooOld {
    /// It is a letter then.
    Ends(i64),
    /// It comes back before, if it can: whoever waits gets there.
    ComesBack(i64),
}

/// Whether it is begun for the first time. What was put aside before comes over the lane then, without an attempt so far; what
/// was told to come later without one of its own counted has been begun. A replay is a person's own.
fn is_first(envelope: &Envelope) -> bool {
    let is_new = || envelope.attempt() == 1 && attempts_of(envelope).attempts.iter().all(is_doubt);
    envelope.note.lane.as_ref().is_none_or(|lane| lane.letter.is_none() && is_new())
}

/// Whether it asks the budget: a retry, or what came to nothing more than once without an attempt counted. Had each of those its
/// turn for nothing, a backlog that is told *come at once* would come at once. A replay is a person's own.
fn is_paid_for(envelope: &Envelope, free: u32) -> bool {
    (envelope.attempt() > 1 || free > 1) && !is_replay(envelope)
}

/// What is remembered of a target's name: thousands may be, and it comes from the payload.
fn short(target: String) -> String {
    if target.len() <= MAX_TARGET_BYTES { target } else { subject::sha256(target.as_bytes()) }
}

impl Worker {
    /// Whether a delivery may begin. `Err`: how it ends instead.
    pub(super) async fn grant(&self, envelope: &Envelope) -> Result<Granted<'_>, Ended> {
        // First the target: what it may not have draws nothing from the budget and pays nothing in.
        let admitted = match self.isolation.as_ref().zip(self.target(envelope)?) {
            None => None,
            Some((targets, target)) => Some(self.admit(targets, target, envelope).await?),
        };
        let free = free_of(&attempts_of(envelope), envelope.attempt());
        let has_drawn = is_paid_for(envelope, free);
        if has_drawn && !self.draw() {
            let aside = self.when_budget_allows(envelope);
            let too_old_ms = self.too_old_ms(envelope);
            // What was told to come later is not given up for want of budget, however old it is: it gets there.
            let too_old = if free > 0 { TooOld::ComesBack(too_old_ms) } else { TooOld::Ends(too_old_ms) };
            return Err(self.put_aside_until(envelope, aside, too_old, "there is no budget for a retry"));
        }
        if is_first(envelope) {
            let mut budget = self.budget();
            *budget = budget.first_attempt(&self.settings.retry_budget);
        }
        Ok(Granted { admitted, has_drawn })
    }

    /// Tells budget and target what came of it. `ran`: a handler was begun for this delivery. Without one nothing was learned.
    pub(super) fn learn(&self, granted: Granted<'_>, ended: &Ended, (attempts, ran): (&v1::Attempts, bool)) {
        if !ran {
            return;
        }
        if granted.has_drawn && matches!(ended, Ended::Done(_) | Ended::Refused(_)) {
            let mut budget = self.budget();
            *budget = budget.succeeded(&self.settings.retry_budget);
        }
        if let Some(mut admitted) = granted.admitted {
            admitted.came(came(ended, attempts));
        }
    }

    fn draw(&self) -> bool {
        let mut budget = self.budget();
        let (may, left) = budget.draw(&self.settings.retry_budget, millis(self.born.elapsed()));
        *budget = left;
        may
    }

    fn budget(&self) -> MutexGuard<'_, Budget> {
        // A budget is a plain value: a panic elsewhere can't have left half of one.
        self.budget.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When a retry that the budget does not allow now asks again: within the longest backoff, but not at one moment. It may be
    /// granted as soon as there is budget for one more: only what has no time for that is given up.
    fn when_budget_allows(&self, envelope: &Envelope) -> Aside {
        let wait = self.retry_rule(envelope).cap.mul_f64(0.25 + 0.75 * fastrand::f64());
        let soonest = Budget::pays_within(&self.settings.retry_budget).unwrap_or(UNPAID).min(wait);
        let now_ms = self.bus.gate().clock().now_ms();
        let in_ms = |wait: Duration| now_ms.saturating_add(millis(wait));
        Aside { is_down: true, earliest_ms: in_ms(soonest), due_ms: in_ms(wait), waits_for_call: false }
    }

    /// A place of its target, or how it ends instead.
    async fn admit<'a>(
        &self,
        targets: &'a Targets,
        target: String,
        envelope: &Envelope,
    ) -> Result<Admitted<'a>, Ended> {
        let deadline_ms = envelope.note.deadline.map(|deadline| deadline.unix_ms());
        let never_begun = envelope.attempt() == 1 && attempts_of(envelope).attempts.is_empty();
        let asks = Asks { never_begun, deadline_ms };
        targets.admit(&target, asks).await.map_err(|Refused { aside, holder }| {
            let mut ended = match (aside.is_down, never_begun && !is_replay(envelope)) {
                (true, true) => self.put_aside_unbegun(envelope, aside),
                (true, false) => {
                    let too_old = TooOld::Ends(self.too_old_ms(envelope));
                    self.put_aside_until(envelope, aside, too_old, "its target is down")
                }
                // It answers: this wait is not counted.
                (false, _) => {
                    let too_old = TooOld::ComesBack(self.too_old_ms(envelope));
                    let so_far = self.waited_until_now(envelope);
                    self.put_aside_until(envelope, aside, too_old, "its target is slow").waiting(so_far)
                }
            };
            if let (Ended::PutAside { shelf, .. }, true) = (&mut ended, aside.waits_for_call) {
                *shelf = Some(Shelf { target, holder });
            }
            ended
        })
    }

    /// What nobody began is not given up because it is old: it may have lain here while its consumer was off. It ends when its
    /// target alone has kept it waiting for as long as the rule allows.
    fn put_aside_unbegun(&self, envelope: &Envelope, aside: Aside) -> Ended {
        let since_ms = match self.waited_until_now(envelope) {
            Some(waits) => waits.since_ms,
            None => self.bus.gate().clock().now_ms(),
        };
        let ends_ms = since_ms.saturating_add(millis(self.retry_rule(envelope).max_age));
        if ends_ms < aside.earliest_ms {
            let message = "it waited to be begun for as long as the rule allows: its target is down";
            return Ended::DeadLetter(Fault::new(Code::Unavailable, Effect::None, Reason::NotBegun, message));
        }
        let waits = TargetWait { since_ms, until_ms: aside.due_ms };
        self.put_aside_until(envelope, aside, TooOld::Ends(ends_ms), "its target is down").waiting(Some(waits))
    }

    /// The wait for its target that a copy brings along, as if it had ended now.
    fn waited_until_now(&self, envelope: &Envelope) -> Option<TargetWait> {
        let waits = envelope.note.lane.as_ref()?.waits?;
        let now_ms = self.bus.gate().clock().now_ms();
        Some(TargetWait { since_ms: now_ms.saturating_sub(waits.waited_ms(now_ms)), until_ms: now_ms })
    }

    /// On the lane until it is due, or for half of the time that is left to it if that is sooner. Where it can't begin in time in
    /// any case, that is said at once. `why` it may not begin.
    fn put_aside_until(&self, envelope: &Envelope, aside: Aside, too_old: TooOld, why: &str) -> Ended {
        let Aside { earliest_ms, due_ms, .. } = aside;
        let deadline_ms = envelope.note.deadline.map(|deadline| deadline.unix_ms());
        if deadline_ms.is_some_and(|deadline_ms| deadline_ms <= earliest_ms) {
            let message = format!("its deadline comes before it may begin: {why}");
            let fault = Fault::new(Code::DeadlineExceeded, Effect::None, Reason::DeadlineExpired, message);
            return Ended::DeadLetter(fault);
        }
        // Back in time to be begun, also where nobody calls it.
        let too_old_ms = match too_old {
            TooOld::Ends(at_ms) if at_ms < earliest_ms => {
                let message = format!("it is older than the rule allows, and may still not begin: {why}");
                let reason = Reason::AttemptsExhausted;
                return Ended::DeadLetter(Fault::new(Code::Unavailable, Effect::None, reason, message));
            }
            TooOld::Ends(at_ms) => at_ms,
            TooOld::ComesBack(at_ms) if at_ms > earliest_ms => at_ms,
            TooOld::ComesBack(_) => i64::MAX,
        };
        let last_ms = deadline_ms.map_or(too_old_ms, |deadline_ms| too_old_ms.min(deadline_ms)).max(earliest_ms);
        let in_time_ms = earliest_ms.saturating_add(last_ms.saturating_sub(earliest_ms) / 2);
        Ended::PutAside { due_ms: due_ms.min(in_time_ms), turn: String::new(), shelf: None, waits: None }
    }

    /// When it is older than the rule allows, Unix milliseconds.
    fn too_old_ms(&self, envelope: &Envelope) -> i64 {
        let left = self.retry_rule(envelope).max_age.saturating_sub(self.age(envelope));
        self.bus.gate().clock().now_ms().saturating_add(millis(left))
    }

    /// What the delivery is for. A closure of the service's that panics makes a letter, like a handler.
    fn target(&self, envelope: &Envelope) -> Result<Option<String>, Ended> {
        if self.isolation.is_none() {
            return Ok(None);
        }
        let named = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.work.target(envelope).map(short)));
        named.map_err(|panic| {
            let message = "naming its target panicked";
            let fault = Fault::new(Code::Internal, Effect::None, Reason::HandlerPanicked, message);
            Ended::DeadLetter(fault.with_detail(panic_text(&*panic)))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        delayed::encode_attempts,
        envelope::{LaneNote, LetterNote, Note, header},
    };

    /// A copy on the lane, as attempt number `attempt`, with the attempts so far.
    fn copy(attempt: u32, attempts: &[v1::Attempt]) -> Envelope {
        let lane = LaneNote {
            attempt,
            subject: String::new(),
            message_id: String::new(),
            source: (String::new(), 1),
            stored_at_ms: 1,
            letter: None,
            block: None,
            claim: None,
            key: None,
            waits: None,
        };
        let attempts = encode_attempts(&v1::Attempts { attempts: attempts.to_vec() });
        Envelope {
            subject: String::new(),
            message_id: String::new(),
            caller: String::new(),
            trace: None,
            note: Note { lane: Some(lane), ..Note::default() },
            headers: vec![(header::ATTEMPTS.to_owned(), attempts)],
            payload: bytes::Bytes::new(),
            delivery: None,
            order: None,
        }
    }

    #[test]
    fn a_retry_asks_the_budget_and_so_does_what_waits_again_and_again_without_one() {
        let of = |code| {
            let fault = Fault::new(code, Effect::None, Reason::Overloaded, "");
            v1::Attempt { number: 1, fault: Some((&fault).into()), ..v1::Attempt::default() }
        };
        let (throttled, failed) = (of(Code::ResourceExhausted), of(Code::Unavailable));
        let asks = |attempt: u32, so_far: &[&v1::Attempt]| {
            let so_far: Vec<_> = so_far.iter().map(|attempt| (*attempt).clone()).collect();
            let copy = copy(attempt, &so_far);
            is_paid_for(&copy, free_of(&attempts_of(&copy), attempt))
        };
        assert!(!asks(1, &[]) && !asks(1, &[&throttled]));
        assert!(asks(1, &[&throttled, &throttled]));
        assert!(!asks(1, &[&throttled, &failed]));
        assert!(asks(2, &[]) && asks(2, &[&throttled]));
        let mut replay = copy(2, &[]);
        let letter = LetterNote { id: String::new(), generation: 1, ordered_at: 1 };
        replay.note.lane = replay.note.lane.map(|lane| LaneNote { letter: Some(letter), ..lane });
        assert!(!is_paid_for(&replay, 5));
    }

    #[test]
    fn a_first_attempt_is_one_wherever_it_comes_from_and_only_once() {
        let of = |reason: Reason, duration_us| {
            let fault = Fault::new(Code::Unknown, Effect::Unknown, reason, "");
            v1::Attempt { number: 1, duration_us, fault: Some((&fault).into()), ..v1::Attempt::default() }
        };
        let (throttled, doubt) = (of(Reason::VendorFailed, 7), of(Reason::OutcomeUnknown, 0));
        let aside = copy(1, &[]);
        assert!(is_first(&Envelope { note: Note::default(), ..aside.clone() }), "the original");
        assert!(is_first(&aside), "it was put aside");
        assert!(is_first(&copy(1, &[doubt])), "so was a suspect");
        assert!(!is_first(&copy(2, std::slice::from_ref(&throttled))), "a retry");
        assert!(!is_first(&copy(1, &[throttled])), "throttled: it comes as the same attempt, and has paid");
        let mut replay = aside;
        let letter = LetterNote { id: String::new(), generation: 1, ordered_at: 1 };
        replay.note.lane = replay.note.lane.map(|lane| LaneNote { letter: Some(letter), ..lane });
        assert!(!is_first(&replay));
    }
}
