//! What is asked before a delivery is given a place: may its target have one more, is there budget for a retry?
//!
//! What may not begin now is put aside on the lane and spends no attempt, so it waits without a place and without an ack
//! that is pending.

use std::{
    collections::HashMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use mesh_proto::v1;
use tokio::sync::Notify;

use super::{
    attempt::{Ended, panic_text},
    inbox::is_doubt,
    worker::Worker,
};
use crate::{
    clock::Clock,
    delayed::attempts_of,
    envelope::Envelope,
    fault::{Code, Effect, Fault, Reason},
    policy::{
        budget::Budget,
        isolation::{Admit, Came, IsolationRule, Target},
    },
    subject,
};

/// Targets that are remembered at once; idle ones are forgotten beyond it.
const MAX_TARGETS: usize = 10_000;
/// A target with a longer name is known by its hash.
const MAX_TARGET_BYTES: usize = 128;
/// A wait for a place of a target looks again so often, whether it has become slow.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// The targets of one consumer.
pub(super) struct Isolation {
    rule: IsolationRule,
    places: usize,
    clock: Clock,
    running: AtomicUsize,
    targets: Mutex<HashMap<String, Target>>,
    ended: Notify,
}

/// A delivery that may begin, until it is told what came of it.
pub(super) struct Admitted<'a> {
    isolation: &'a Isolation,
    target: String,
    began_ms: i64,
    came: Came,
}

impl Isolation {
    pub(super) fn new(rule: IsolationRule, places: usize, clock: Clock) -> Isolation {
        let (targets, ended) = (Mutex::default(), Notify::new());
        Isolation { rule, places, clock, running: AtomicUsize::new(0), targets, ended }
    }

    /// Waits for a place of the target. `Err`: it is to come back then (Unix milliseconds).
    async fn admit(&self, target: String) -> Result<Admitted<'_>, i64> {
        loop {
            let ended = self.ended.notified();
            let now_ms = self.clock.now_ms();
            match self.ask(&target, now_ms) {
                Admit::Begin => return Ok(Admitted { isolation: self, target, began_ms: now_ms, came: Came::Nothing }),
                Admit::PutAside(due_ms) => return Err(due_ms),
                // Places become free when attempts end; without an end, the target is found slow at the next look.
                Admit::Wait => drop(tokio::time::timeout(LOOK_AGAIN, ended).await),
            }
        }
    }

    fn ask(&self, target: &str, now_ms: i64) -> Admit {
        let mut targets = self.lock();
        if targets.len() >= MAX_TARGETS && !targets.contains_key(target) {
            targets.retain(|_, target| !target.is_idle(&self.rule, now_ms));
        }
        let free = self.places.saturating_sub(self.running.load(Ordering::Acquire));
        let admit = targets.entry(target.to_owned()).or_default().admit(&self.rule, (free, self.places), now_ms);
        if admit == Admit::Begin {
            self.running.fetch_add(1, Ordering::AcqRel);
        }
        admit
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Target>> {
        self.targets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Admitted<'_> {
    fn came(&mut self, ended: &Ended, attempts: &v1::Attempts) {
        self.came = match ended {
            Ended::Done(_) | Ended::Refused(_) => Came::Answered,
            Ended::Again { .. } | Ended::DeadLetter(_) => of_last(attempts),
            Ended::PutAside { .. } | Ended::HandedBack | Ended::CutOff | Ended::Overtaken | Ended::TakenOver => {
                Came::Nothing
            }
        };
    }
}

impl Drop for Admitted<'_> {
    fn drop(&mut self) {
        let Isolation { rule, running, clock, ended, .. } = self.isolation;
        if let Some(target) = self.isolation.lock().get_mut(&self.target) {
            target.ended(rule, self.began_ms, self.came, (clock.now_ms(), fastrand::f64()));
        }
        running.fetch_sub(1, Ordering::AcqRel);
        ended.notify_waiters();
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
    is_retry: bool,
}

/// Whether it is begun for the first time. What was put aside before comes over the lane then, without an attempt so far; what
/// was told to come later without one of its own counted has been begun. A replay is a person's own.
fn is_first(envelope: &Envelope) -> bool {
    let is_new = || envelope.attempt() == 1 && attempts_of(envelope).attempts.iter().all(is_doubt);
    envelope.note.lane.as_ref().is_none_or(|lane| lane.letter.is_none() && is_new())
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
            Some((isolation, target)) => {
                let admitted = isolation.admit(target).await;
                Some(admitted.map_err(|due_ms| self.put_aside_until(envelope, due_ms, "its target is down"))?)
            }
        };
        let lane = envelope.note.lane.as_ref();
        let is_retry = envelope.attempt() > 1 && lane.is_none_or(|lane| lane.letter.is_none());
        if is_retry && !self.draw() {
            return Err(self.put_aside_until(envelope, self.later_ms(envelope), "there is no budget for a retry"));
        }
        if is_first(envelope) {
            let mut budget = self.budget();
            *budget = budget.first_attempt(&self.settings.retry_budget);
        }
        Ok(Granted { admitted, is_retry })
    }

    /// Tells budget and target what came of it.
    /// `before`: how many attempts there were before.
    pub(super) fn learn(&self, granted: Granted<'_>, ended: &Ended, (attempts, before): (&v1::Attempts, usize)) {
        if granted.is_retry && matches!(ended, Ended::Done(_) | Ended::Refused(_)) {
            let mut budget = self.budget();
            *budget = budget.succeeded(&self.settings.retry_budget);
        }
        if let Some(mut admitted) = granted.admitted {
            // Without an attempt of this delivery nothing was learned of the target.
            let mut new = attempts.attempts.iter().skip(before);
            let ran = new.any(|attempt| !is_doubt(attempt)) || matches!(ended, Ended::Done(_) | Ended::Refused(_));
            if ran {
                admitted.came(ended, attempts);
            }
        }
    }

    fn draw(&self) -> bool {
        let mut budget = self.budget();
        let (may, left) = budget.draw(&self.settings.retry_budget, self.bus.gate().clock().now_ms());
        *budget = left;
        may
    }

    fn budget(&self) -> MutexGuard<'_, Budget> {
        // A budget is a plain value: a panic elsewhere can't have left half of one.
        self.budget.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When a retry that the budget does not allow now asks again: within the longest backoff, but not at one moment.
    fn later_ms(&self, envelope: &Envelope) -> i64 {
        let wait = self.retry_rule(envelope).cap.mul_f64(0.25 + 0.75 * fastrand::f64());
        let wait_ms = i64::try_from(wait.as_millis()).unwrap_or(i64::MAX);
        self.bus.gate().clock().now_ms().saturating_add(wait_ms)
    }

    /// On the lane until then, unless it would be too late by then: that is said at once. `why` it may not begin.
    fn put_aside_until(&self, envelope: &Envelope, due_ms: i64, why: &str) -> Ended {
        if envelope.note.deadline.is_some_and(|deadline| deadline.unix_ms() <= due_ms) {
            let message = "its deadline comes before it may begin";
            let fault = Fault::new(Code::DeadlineExceeded, Effect::None, Reason::DeadlineExpired, message);
            return Ended::DeadLetter(fault);
        }
        let wait_ms = due_ms.saturating_sub(self.bus.gate().clock().now_ms());
        let wait = Duration::from_millis(u64::try_from(wait_ms).unwrap_or(0));
        if self.age(envelope).saturating_add(wait) > self.retry_rule(envelope).max_age {
            let message = format!("it is older than the rule allows, and may still not begin: {why}");
            return Ended::DeadLetter(Fault::new(Code::Unavailable, Effect::None, Reason::AttemptsExhausted, message));
        }
        Ended::PutAside { due_ms, turn: String::new() }
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
