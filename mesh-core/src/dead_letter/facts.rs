//! What is known of a letter without looking into its payload or its headers: what lists, filters and groups are made of.

use mesh_proto::v1;

use super::{Fingerprint, Letter, LetterState};
use crate::fault::{Code, Effect, Reason};

/// A letter in short, borrowed from wherever it is kept: a letter that was read, or an index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts<'a> {
    /// Its id.
    pub id: &'a str,
    /// The service that failed.
    pub service: &'a str,
    /// Its consumer.
    pub consumer: &'a str,
    /// Full name of the event, or `package.Service/Method`.
    pub message_type: &'a str,
    /// The original message's id.
    pub message_id: &'a str,
    /// Who sent it.
    pub caller: &'a str,
    /// The ordering key; empty where there is none.
    pub key: &'a str,
    /// `MESH-nnnn`
    pub reason: &'a str,
    /// The canonical code.
    pub code: Code,
    /// Whether the other side may have acted.
    pub effect: Effect,
    /// The third party; empty where none was called.
    pub vendor: &'a str,
    /// The third party's own code.
    pub vendor_code: &'a str,
    /// What was said.
    pub message: &'a str,
    /// 0 for the first failure, n after the n-th replay.
    pub generation: u32,
    /// When it was captured last, Unix milliseconds.
    pub captured_at_ms: i64,
    /// Where it stands.
    pub state: LetterState,
    /// What it has in common with failures like it.
    pub fingerprint: Fingerprint,
}

impl<'a> Facts<'a> {
    /// The facts of a letter.
    #[must_use]
    pub fn of(letter: &'a Letter) -> Facts<'a> {
        Facts::of_captured(&letter.letter, letter.state)
    }

    /// The facts of a letter as it was captured, in this state.
    #[must_use]
    pub fn of_captured(inner: &'a v1::DeadLetter, state: LetterState) -> Facts<'a> {
        let fault = inner.fault.as_ref();
        let origin = fault.and_then(|fault| fault.origin.as_ref());
        let text = |read: fn(&v1::Fault) -> &String| fault.map_or("", |fault| read(fault).as_str());
        let code = fault.map_or(0, |fault| fault.code);
        Facts {
            id: &inner.id,
            service: &inner.service,
            consumer: &inner.consumer,
            message_type: &inner.message_type,
            message_id: inner.source.as_ref().map_or("", |source| source.message_id.as_str()),
            caller: &inner.caller,
            key: &inner.key,
            reason: text(|fault| &fault.reason),
            code: Code::try_from(code).unwrap_or(Code::Unknown),
            effect: fault.map_or(Effect::Unspecified, v1::Fault::effect),
            vendor: origin.map_or("", |origin| origin.vendor.as_str()),
            vendor_code: origin.map_or("", |origin| origin.vendor_code.as_str()),
            message: text(|fault| &fault.message),
            generation: inner.generation,
            captured_at_ms: inner.captured_at_ms,
            state,
            fingerprint: fault.map_or_else(|| Fingerprint::of(&v1::Fault::default()), Fingerprint::of),
        }
    }

    /// Whether a person must find out first if it happened.
    #[must_use]
    pub fn is_parked(&self) -> bool {
        self.state == LetterState::Open && self.reason == Reason::OutcomeUnknown.code()
    }

    /// The canonical code's name: `UNAVAILABLE`.
    #[must_use]
    pub fn code_word(&self) -> &'static str {
        self.code.as_str_name().trim_start_matches("CODE_")
    }

    /// The effect's name: `NONE`, `UNKNOWN`, `DONE`.
    #[must_use]
    pub fn effect_word(&self) -> &'static str {
        self.effect.as_str_name().trim_start_matches("EFFECT_")
    }
}
