//! Whether a failed attempt is made again, and when.
//!
//! The contract says what a repeat does, the fault says whether the other side may have acted; together they decide.
//! No retry exists that the contract does not allow. Delays are exponential with full jitter: `random(0, base · 2ⁿ)`, so
//! that many failures at one moment do not come back at one moment.

use std::time::Duration;

use crate::{
    contract::Repeat,
    fault::{Code, Effect, Fault, Reason},
};

/// The limits of retrying for one consumer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetryRule {
    /// How many attempts there may be, the first included. At least 1.
    pub max_attempts: u32,
    /// The mean of the first delay is half of this.
    pub base: Duration,
    /// No delay by backoff is longer. What the other side states (Retry-After) may be.
    pub cap: Duration,
    /// A message older than this is not tried again. What was never tried waits so long for a target that is down.
    pub max_age: Duration,
}

impl Default for RetryRule {
    /// Five attempts within about a minute; throttled and unauthenticated work waits up to a day.
    fn default() -> RetryRule {
        RetryRule {
            max_attempts: 5,
            base: Duration::from_millis(500),
            cap: Duration::from_secs(30),
            max_age: Duration::from_secs(24 * 3600),
        }
    }
}

/// What is known when an attempt has failed.
#[derive(Debug, Clone, Copy)]
pub struct Failure<'a> {
    /// What came back.
    pub fault: &'a Fault,
    /// Which attempt it was; 1 for the first.
    pub attempt: u32,
    /// How often this attempt came to nothing that costs one ([`is_free`]), this time included.
    pub free: u32,
    /// What a repeat does.
    pub repeat: Repeat,
    /// How long ago the message was stored.
    pub age: Duration,
    /// How long anybody still wants the answer. `None`: for ever.
    pub remaining: Option<Duration>,
}

/// What happens to a failed delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It was answered (no is an answer): the requester acts.
    Answered,
    /// Again after the delay, as attempt number `attempt`.
    Delay {
        /// How long to wait.
        delay: Duration,
        /// The number that the next attempt has. The same as before where the failure costs none.
        attempt: u32,
    },
    /// To the dead letters.
    DeadLetter(Why),
}

/// Why there is no further attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// The same will fail again.
    Refused,
    /// It may have happened and the contract does not allow to repeat it blindly: a person has to look.
    Parked,
    /// Every attempt was used up.
    AttemptsExhausted,
    /// Older than the rule allows.
    TooOld,
    /// Its deadline comes before the next attempt.
    DeadlineBeforeRetry,
}

impl Why {
    /// The same for people; nothing where the fault itself says it.
    #[must_use]
    pub const fn explain(self) -> Option<&'static str> {
        match self {
            Why::Refused => None,
            Why::Parked => Some("it may have happened, and its contract does not allow to repeat it blindly"),
            Why::AttemptsExhausted => Some("every attempt was used up"),
            Why::TooOld => Some("it is older than the rule allows to try again"),
            Why::DeadlineBeforeRetry => Some("its deadline comes before the next attempt"),
        }
    }
}

/// What one more attempt costs, where it is allowed.
enum Again {
    /// An attempt, after backoff or what the other side stated.
    Counted,
    /// No attempt, after the stated time, or longer the more often that was.
    Free(Duration),
}

/// Decides. `jitter` is a random number from 0 up to 1.
#[must_use]
pub fn decide(rule: &RetryRule, failure: &Failure<'_>, jitter: f64) -> Verdict {
    if failure.fault.is_answer() {
        return Verdict::Answered;
    }
    let (delay, attempt) = match again(failure) {
        Err(why) => return Verdict::DeadLetter(why),
        Ok(Again::Free(stated)) => (free_wait(rule, failure.free, stated, jitter), failure.attempt),
        Ok(Again::Counted) if failure.attempt >= rule.max_attempts => {
            return Verdict::DeadLetter(Why::AttemptsExhausted);
        }
        Ok(Again::Counted) => {
            let stated = failure.fault.retry_after().unwrap_or(Duration::ZERO);
            (backoff(rule, failure.attempt, jitter).max(stated), failure.attempt + 1)
        }
    };
    match in_time(rule, failure, delay) {
        Ok(()) => Verdict::Delay { delay, attempt },
        Err(why) => Verdict::DeadLetter(why),
    }
}

/// Whether a call that failed is made again by its caller, and after which delay. `jitter` is a random number from 0 up to 1.
///
/// Somebody waits here, and no lane: so every repeat costs an attempt, a credential that was refused is not waited for, and
/// what may have acted is repeated only where the contract calls that safe.
///
/// # Errors
/// Why it is not made again.
pub fn repeat_call(rule: &RetryRule, failure: &Failure<'_>, jitter: f64) -> Result<Duration, Why> {
    let fault = failure.fault;
    if fault.is_answer() || fault.code() == Code::Unauthenticated {
        return Err(Why::Refused);
    }
    again(failure)?;
    if fault.effect() != Effect::None && !failure.repeat.is_safe_when_unknown() {
        return Err(Why::Parked);
    }
    if failure.attempt >= rule.max_attempts {
        return Err(Why::AttemptsExhausted);
    }
    // Behind a stated time, so that those who were told the same moment do not all come at it.
    let delay = fault.retry_after().unwrap_or(Duration::ZERO).saturating_add(backoff(rule, failure.attempt, jitter));
    in_time(rule, failure, delay).map(|()| delay)
}

fn in_time(rule: &RetryRule, failure: &Failure<'_>, delay: Duration) -> Result<(), Why> {
    if failure.age.saturating_add(delay) > rule.max_age {
        return Err(Why::TooOld);
    }
    match failure.remaining {
        Some(remaining) if remaining <= delay => Err(Why::DeadlineBeforeRetry),
        _ => Ok(()),
    }
}

/// How long throttled or unauthenticated work waits where nothing is stated.
const UNSTATED_WAIT: Duration = Duration::from_secs(10);

/// Whether an attempt that ended so costs none: nothing happened, and the same message will be taken later.
#[must_use]
pub fn is_free(fault: &Fault) -> bool {
    matches!(fault.code(), Code::ResourceExhausted | Code::Unauthenticated) && fault.effect() == Effect::None
}

/// How long to wait for the `free`-th time without an attempt counted. No limit of attempts ends these waits, so they grow by
/// themselves: who states *at once* again and again would be asked again at once for a day. What is stated is kept, and a random
/// part comes on top of it: those who were told the same moment do not all come at it.
fn free_wait(rule: &RetryRule, free: u32, stated: Duration, jitter: f64) -> Duration {
    let half = backoff(rule, free, 1.0) / 2;
    stated.max(half).saturating_add(half.mul_f64(jitter.clamp(0.0, 1.0)))
}

fn again(failure: &Failure<'_>) -> Result<Again, Why> {
    let fault = failure.fault;
    if fault.effect() == Effect::Done {
        return Err(Why::Refused);
    }
    if is_free(fault) {
        return Ok(Again::Free(fault.retry_after().unwrap_or(UNSTATED_WAIT)));
    }
    match fault.code() {
        // The vendor is still busy with this very key: waiting for its answer repeats nothing.
        Code::Aborted if fault.reason() == Reason::VendorInProgress => Ok(Again::Counted),
        Code::Unavailable
        | Code::DeadlineExceeded
        | Code::Aborted
        | Code::Internal
        | Code::Unknown
        | Code::Cancelled
        | Code::ResourceExhausted => unknown_or_none(failure),
        Code::DataLoss if !failure.repeat.is_safe_when_unknown() => Err(Why::Parked),
        _ => Err(Why::Refused),
    }
}

fn unknown_or_none(failure: &Failure<'_>) -> Result<Again, Why> {
    match failure.fault.effect() {
        // An error stored for our key comes back for ever.
        Effect::None if failure.fault.reason() == Reason::VendorStoredError => Err(Why::Refused),
        // Also where a deadline was over for somebody else: whose clock is ahead, or whose own was shorter. Whether this message's
        // own leaves time is looked at with the delay.
        Effect::None => Ok(Again::Counted),
        _ if failure.repeat.is_safe_when_unknown() => Ok(Again::Counted),
        _ => Err(Why::Parked),
    }
}

/// The delay before attempt `attempt + 1`: `jitter · min(cap, base · 2^(attempt-1))`.
#[must_use]
pub fn backoff(rule: &RetryRule, attempt: u32, jitter: f64) -> Duration {
    let doubled = rule.base.saturating_mul(1u32.checked_shl(attempt.saturating_sub(1)).unwrap_or(u32::MAX));
    doubled.min(rule.cap).mul_f64(jitter.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn fault(code: Code, effect: Effect) -> Fault {
        Fault::new(code, effect, Reason::VendorFailed, "x")
    }

    fn verdict(fault: &Fault, attempt: u32, repeat: Repeat) -> Verdict {
        let failure = Failure { fault, attempt, free: 1, repeat, age: Duration::ZERO, remaining: None };
        decide(&RetryRule::default(), &failure, 1.0)
    }

    /// The table of the design, line by line.
    #[test]
    fn every_kind_of_answer_has_its_verdict() {
        let counted = Verdict::Delay { delay: Duration::from_millis(500), attempt: 2 };
        let letter = Verdict::DeadLetter(Why::Refused);
        let parked = Verdict::DeadLetter(Why::Parked);
        let table = [
            (fault(Code::Unavailable, Effect::None), Repeat::Once, counted),
            (fault(Code::InvalidArgument, Effect::None), Repeat::Keyed, letter),
            (fault(Code::NotFound, Effect::None), Repeat::Keyed, letter),
            (fault(Code::FailedPrecondition, Effect::None), Repeat::Once, Verdict::Answered),
            (fault(Code::Internal, Effect::Unknown), Repeat::Keyed, counted),
            (fault(Code::Internal, Effect::Unknown), Repeat::Once, parked),
            (fault(Code::Unavailable, Effect::Unknown), Repeat::LookUp, parked),
            (fault(Code::DeadlineExceeded, Effect::Unknown), Repeat::Idempotent, counted),
            (fault(Code::DataLoss, Effect::Unknown), Repeat::Keyed, letter),
            (fault(Code::DataLoss, Effect::Unknown), Repeat::Once, parked),
            (fault(Code::Internal, Effect::Done), Repeat::Keyed, letter),
        ];
        for (fault, repeat, expected) in table {
            assert_eq!(verdict(&fault, 1, repeat), expected, "{fault} {repeat:?}");
        }
        let stored = Fault::new(Code::Internal, Effect::None, Reason::VendorStoredError, "x");
        assert_eq!(verdict(&stored, 1, Repeat::Keyed), letter);
        let busy = Fault::new(Code::Aborted, Effect::Unknown, Reason::VendorInProgress, "x");
        assert_eq!(verdict(&busy, 1, Repeat::Once), counted);
        let expired = Fault::new(Code::DeadlineExceeded, Effect::None, Reason::DeadlineExpired, "of what it called");
        assert_eq!(verdict(&expired, 1, Repeat::Once), counted);
        assert_eq!(verdict(&expired, 5, Repeat::Once), Verdict::DeadLetter(Why::AttemptsExhausted));
    }

    #[test]
    fn a_deadline_of_its_own_that_is_over_ends_it() {
        let fault = Fault::new(Code::DeadlineExceeded, Effect::None, Reason::DeadlineExpired, "x");
        let (age, remaining) = (Duration::ZERO, Some(Duration::ZERO));
        let failure = Failure { fault: &fault, attempt: 1, free: 0, repeat: Repeat::Keyed, age, remaining };
        let over = Why::DeadlineBeforeRetry;
        assert_eq!(decide(&RetryRule::default(), &failure, 0.0), Verdict::DeadLetter(over));
        assert_eq!(repeat_call(&RetryRule::default(), &failure, 0.0), Err(over));
    }

    fn waits(stated: Duration, free: u32, jitter: f64) -> Duration {
        let fault = fault(Code::ResourceExhausted, Effect::None).with_retry_after(stated);
        let (age, repeat) = (Duration::ZERO, Repeat::Once);
        let failure = Failure { fault: &fault, attempt: 7, free, repeat, age, remaining: None };
        match decide(&RetryRule::default(), &failure, jitter) {
            Verdict::Delay { delay, attempt: 7 } => delay,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_stated_time_is_kept_and_costs_no_attempt() {
        let stated = Duration::from_secs(90);
        for free in [1, 2, 7, 1000] {
            assert_eq!(waits(stated, free, 0.0), stated);
        }
        // A random part on top, half of the backoff at most.
        assert_eq!(waits(stated, 1, 1.0), Duration::from_millis(90_250));
        assert_eq!(waits(stated, 1000, 1.0), Duration::from_secs(105));
    }

    #[test]
    fn who_is_told_to_come_at_once_again_and_again_comes_more_and_more_seldom() {
        for stated in [Duration::ZERO, Duration::from_millis(1)] {
            let of = |free| waits(stated, free, 0.0).as_millis();
            assert_eq!((1..=8).map(of).collect::<Vec<_>>(), [250, 500, 1000, 2000, 4000, 8000, 15_000, 15_000]);
            assert_eq!(waits(stated, 20, 1.0), RetryRule::default().cap);
        }
    }

    #[test]
    fn a_retry_after_the_deadline_is_not_made() {
        let fault = fault(Code::Unavailable, Effect::None);
        let failure = Failure {
            fault: &fault,
            attempt: 1,
            free: 0,
            repeat: Repeat::Keyed,
            age: Duration::ZERO,
            remaining: Some(Duration::from_millis(400)),
        };
        let verdict = decide(&RetryRule::default(), &failure, 1.0);
        assert_eq!(verdict, Verdict::DeadLetter(Why::DeadlineBeforeRetry));
    }

    fn call(fault: &Fault, attempt: u32, repeat: Repeat) -> Result<Duration, Why> {
        let (age, remaining) = (Duration::ZERO, Some(Duration::from_secs(5)));
        repeat_call(&RetryRule::default(), &Failure { fault, attempt, free: 0, repeat, age, remaining }, 1.0)
    }

    #[test]
    fn every_kind_of_answer_to_a_call_has_its_verdict() {
        let again = Ok(Duration::from_millis(500));
        let busy = Fault::new(Code::Aborted, Effect::Unknown, Reason::VendorInProgress, "x");
        let stored = Fault::new(Code::Internal, Effect::None, Reason::VendorStoredError, "x");
        let expired = Fault::new(Code::DeadlineExceeded, Effect::None, Reason::DeadlineExpired, "x");
        for (fault, safe, once) in [
            (fault(Code::Unavailable, Effect::None), again, again),
            (fault(Code::ResourceExhausted, Effect::None), again, again),
            (fault(Code::Internal, Effect::Unknown), again, Err(Why::Parked)),
            (fault(Code::DeadlineExceeded, Effect::Unknown), again, Err(Why::Parked)),
            (fault(Code::Unavailable, Effect::Unspecified), again, Err(Why::Parked)),
            (busy, again, Err(Why::Parked)),
            (fault(Code::Internal, Effect::Done), Err(Why::Refused), Err(Why::Refused)),
            (fault(Code::DataLoss, Effect::Unknown), Err(Why::Refused), Err(Why::Parked)),
            (fault(Code::FailedPrecondition, Effect::None), Err(Why::Refused), Err(Why::Refused)),
            (fault(Code::Unauthenticated, Effect::None), Err(Why::Refused), Err(Why::Refused)),
            (fault(Code::InvalidArgument, Effect::None), Err(Why::Refused), Err(Why::Refused)),
            (stored, Err(Why::Refused), Err(Why::Refused)),
            (expired, again, again),
        ] {
            for repeat in [Repeat::NoSideEffects, Repeat::Idempotent, Repeat::Keyed] {
                assert_eq!(call(&fault, 1, repeat), safe, "{fault} {repeat:?}");
            }
            for repeat in [Repeat::LookUp, Repeat::Once] {
                assert_eq!(call(&fault, 1, repeat), once, "{fault} {repeat:?}");
            }
        }
    }

    #[test]
    fn a_stated_time_holds_for_a_call_costs_an_attempt_and_never_outlasts_the_deadline() {
        let wait =
            |seconds| fault(Code::ResourceExhausted, Effect::None).with_retry_after(Duration::from_secs(seconds));
        assert_eq!(call(&wait(2), 1, Repeat::Once), Ok(Duration::from_millis(2500)));
        assert_eq!(call(&wait(2), 5, Repeat::Once), Err(Why::AttemptsExhausted));
        assert_eq!(call(&wait(5), 1, Repeat::Once), Err(Why::DeadlineBeforeRetry));
    }

    proptest! {
        /// Never sooner than stated, and whatever is stated and drawn: never sooner than a half of what grows.
        #[test]
        fn a_free_wait_is_bounded_on_both_sides(stated_ms in 0u64..100_000, free in 0u32..100, jitter in 0.0f64..1.0) {
            let (rule, stated) = (RetryRule::default(), Duration::from_millis(stated_ms));
            let (delay, grown) = (waits(stated, free, jitter), backoff(&rule, free, 1.0));
            prop_assert!(delay >= stated && delay >= grown / 2);
            prop_assert!(delay <= stated.max(grown / 2) + grown / 2);
        }

        /// No call is repeated that the contract does not allow, whatever came back.
        #[test]
        fn a_call_is_repeated_only_where_that_is_safe(code in 0i32..17, effect in 0i32..4, attempt in 1u32..9, jitter in 0.0f64..1.0) {
            let fault = fault(Code::try_from(code).unwrap(), Effect::try_from(effect).unwrap());
            for repeat in [Repeat::Once, Repeat::LookUp, Repeat::Keyed, Repeat::Idempotent, Repeat::NoSideEffects] {
                let remaining = Some(Duration::from_secs(3600));
                let failure = Failure { fault: &fault, attempt, free: 0, repeat, age: Duration::ZERO, remaining };
                if repeat_call(&RetryRule::default(), &failure, jitter).is_ok() {
                    prop_assert!(fault.effect() == Effect::None || repeat.is_safe_when_unknown());
                    prop_assert!(fault.effect() != Effect::Done && attempt < 5);
                }
            }
        }

        /// No retry exists that the contract does not allow.
        #[test]
        fn once_is_never_repeated_blindly(code in 0i32..17, attempt in 1u32..9, jitter in 0.0f64..1.0) {
            let fault = fault(Code::try_from(code).unwrap(), Effect::Unknown);
            for repeat in [Repeat::Once, Repeat::LookUp] {
                let failure = Failure { fault: &fault, attempt, free: 1, repeat, age: Duration::ZERO, remaining: None };
                let verdict = decide(&RetryRule::default(), &failure, jitter);
                prop_assert!(!matches!(verdict, Verdict::Delay { .. }), "{:?}", verdict);
            }
        }

        #[test]
        fn attempts_end(code in 0i32..17, effect in 1i32..4, jitter in 0.0f64..1.0) {
            let fault = fault(Code::try_from(code).unwrap(), Effect::try_from(effect).unwrap());
            let (age, repeat) = (Duration::ZERO, Repeat::Keyed);
            let failure = Failure { fault: &fault, attempt: 5, free: 1, repeat, age, remaining: None };
            if let Verdict::Delay { attempt, .. } = decide(&RetryRule::default(), &failure, jitter) {
                prop_assert_eq!(attempt, 5, "only a wait that costs nothing goes on");
            }
        }

        #[test]
        fn backoff_stays_within_its_bounds(attempt in 0u32..200, jitter in 0.0f64..1.0) {
            let rule = RetryRule::default();
            prop_assert!(backoff(&rule, attempt, jitter) <= rule.cap);
        }
    }
}
