//! How old a delivery is, and what that means for doing it again.

use std::time::Duration;

use mesh_proto::v1;

use super::worker::Worker;
use crate::{
    contract::Repeat,
    delayed::{attempts_of, stored_at},
    envelope::Envelope,
    fault::{Code, Effect, Fault},
    policy::retry::is_free,
};

/// Whether a person sent it again.
pub(super) fn is_replay(envelope: &Envelope) -> bool {
    envelope.note.lane.as_ref().is_some_and(|lane| lane.letter.is_some())
}

/// How often the attempt of this number came to nothing that costs one; of very many, as many as a copy carries along.
pub(super) fn free_of(attempts: &v1::Attempts, number: u32) -> u32 {
    let of_it = attempts.attempts.iter().filter(|attempt| attempt.number == number);
    let free = of_it.filter_map(|attempt| attempt.fault.clone()).filter(|fault| is_free(&Fault::from(fault.clone())));
    u32::try_from(free.count()).unwrap_or(u32::MAX)
}

impl Worker {
    /// How long ago it was stored. A replay is as old as its own first attempt: a person wants it now, however old the original.
    pub(super) fn age(&self, envelope: &Envelope) -> Duration {
        let since_ms = if is_replay(envelope) {
            attempts_of(envelope).attempts.first().map_or(0, |attempt| attempt.started_at_ms)
        } else {
            stored_at(envelope)
        };
        self.since(since_ms)
    }

    /// How long ago it was stored where it was delivered from: a copy on the lane is younger than its original.
    pub(super) fn age_here(&self, envelope: &Envelope) -> Duration {
        let stored_at_ms = envelope.delivery.as_ref().map_or(0, |delivery| delivery.stored_at_ms);
        self.since(stored_at_ms)
    }

    /// No time where nobody knows since when.
    fn since(&self, at_ms: i64) -> Duration {
        let age_ms = if at_ms > 0 { self.bus.gate().clock().now_ms().saturating_sub(at_ms) } else { 0 };
        Duration::from_millis(u64::try_from(age_ms).unwrap_or(0))
    }

    /// Whether a key no longer keeps the other side from acting a second time: it is older than the rule allows. What a person
    /// replays is theirs to judge.
    pub(super) fn is_key_forgotten(&self, envelope: &Envelope) -> bool {
        let is_keyed = !is_replay(envelope) && self.work.repeat(envelope) == Repeat::Keyed;
        is_keyed && self.age(envelope) > self.retry_rule(envelope).max_age
    }

    /// Whether a handler that may have run may be run again without asking.
    pub(super) fn may_repeat(&self, envelope: &Envelope) -> bool {
        self.work.repeat(envelope).is_safe_when_unknown() && !self.is_key_forgotten(envelope)
    }

    /// The fault of a letter says whether *any* attempt may have acted, not only the last. An answer with the same key is the last
    /// word: had an earlier attempt acted, its result would have come back.
    pub(super) fn of_all_attempts(&self, envelope: &Envelope, fault: &Fault, attempts: &v1::Attempts) -> Fault {
        let is_last_word = fault.is_answer() || (is_refusal(fault) && self.work.repeat(envelope) == Repeat::Keyed);
        let mut earlier = attempts.attempts.iter().filter_map(|attempt| attempt.fault.clone());
        let may_have_acted = earlier.any(|fault| Fault::from(fault).effect() != Effect::None);
        if fault.effect() != Effect::None || is_last_word || !may_have_acted {
            return fault.clone();
        }
        fault.clone().with_effect(Effect::Unknown).with_note("an earlier attempt may have acted")
    }
}

/// Whether the other side looked at it and said no.
fn is_refusal(fault: &Fault) -> bool {
    use Code::{AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, OutOfRange, Unimplemented};
    let code = fault.code();
    [AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, OutOfRange, Unimplemented].contains(&code)
}
