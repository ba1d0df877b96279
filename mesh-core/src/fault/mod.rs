//! What went wrong, and did it act: one [`Fault`] from the vendor's socket to the person's screen.
//!
//! A fault is a canonical code, an [`Effect`] (did the other side act?), a stable [`Reason`] with a page of its own, and
//! two texts: a message for outside and a detail for inside. On the wire it is the protobuf `mesh.v1.Fault`.

mod crash;
mod reason;
mod wire;

use std::{fmt, time::Duration};

pub(crate) use crash::crash_point;
pub use crash::{
    ASIDE_POINT, CLAIM_POINT, KEEPER_POINTS, OPERATOR_POINTS, ORDER_POINTS, WORKER_POINTS, arm_crash_point,
};
pub use mesh_proto::v1::{Code, Effect};
pub use reason::Reason;

/// Who said it: the parts that are known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origin {
    /// The service of ours that raised the fault.
    pub service: String,
    /// The third party, where one was called.
    pub vendor: String,
    /// The operation, `package.Service/Method`.
    pub operation: String,
    /// The vendor's own id of the call.
    pub request_id: String,
    /// 0 where no HTTP answer came.
    pub http_status: u16,
    /// The vendor's own error code.
    pub vendor_code: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Inner {
    code: Code,
    effect: Effect,
    reason: Reason,
    message: String,
    detail: String,
    retry_after: Option<Duration>,
    origin: Origin,
}

/// What went wrong. One pointer wide, so that a `Result` with it stays small.
#[derive(Clone, PartialEq, Eq)]
pub struct Fault(Box<Inner>);

impl Fault {
    /// A fault with the outside `message`; everything else is added by the `with_` methods.
    #[must_use]
    pub fn new(code: Code, effect: Effect, reason: Reason, message: impl Into<String>) -> Fault {
        Fault(Box::new(Inner {
            code,
            effect,
            reason,
            message: message.into(),
            detail: String::new(),
            retry_after: None,
            origin: Origin::default(),
        }))
    }

    /// The request itself is wrong: nothing happened, and the same request will never succeed.
    #[must_use]
    pub fn invalid(message: impl Into<String>) -> Fault {
        Fault::new(Code::InvalidArgument, Effect::None, Reason::HandlerRefused, message)
    }

    /// What was asked for does not exist: nothing happened.
    #[must_use]
    pub fn not_found(message: impl Into<String>) -> Fault {
        Fault::new(Code::NotFound, Effect::None, Reason::HandlerRefused, message)
    }

    /// An answer, not a failure: the rules of the business say no, and the requester acts on it.
    #[must_use]
    pub fn declined(message: impl Into<String>) -> Fault {
        Fault::new(Code::FailedPrecondition, Effect::None, Reason::HandlerRefused, message)
    }

    /// Something this service needs is away: nothing happened, and a later attempt may succeed.
    #[must_use]
    pub fn unavailable(message: impl Into<String>) -> Fault {
        Fault::new(Code::Unavailable, Effect::None, Reason::HandlerRefused, message)
    }

    /// Adds what only the inside should see.
    #[must_use]
    pub fn with_detail(mut self, detail: impl Into<String>) -> Fault {
        self.0.detail = detail.into();
        self
    }

    /// Adds a word for the inside before what is said there.
    #[must_use]
    pub fn with_note(self, note: &str) -> Fault {
        let detail = if self.0.detail.is_empty() { note.to_owned() } else { format!("{note}; {}", self.0.detail) };
        self.with_detail(detail)
    }

    /// States otherwise whether the other side may have acted.
    #[must_use]
    pub fn with_effect(mut self, effect: Effect) -> Fault {
        self.0.effect = effect;
        self
    }

    /// Says the same in other words for outside.
    #[must_use]
    pub fn with_message(mut self, message: impl Into<String>) -> Fault {
        self.0.message = message.into();
        self
    }

    /// States that nothing should be tried again before `delay` has passed.
    #[must_use]
    pub fn with_retry_after(mut self, delay: Duration) -> Fault {
        self.0.retry_after = Some(delay);
        self
    }

    /// States who said it.
    #[must_use]
    pub fn with_origin(mut self, origin: Origin) -> Fault {
        self.0.origin = origin;
        self
    }

    /// Names the service that raised the fault, where none is named yet.
    #[must_use]
    pub fn raised_by(mut self, service: &str) -> Fault {
        if self.0.origin.service.is_empty() {
            self.0.origin.service = service.to_owned();
        }
        self
    }

    /// The canonical RPC code.
    #[must_use]
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// Whether the other side may have acted.
    #[must_use]
    pub fn effect(&self) -> Effect {
        self.0.effect
    }

    /// The stable reason.
    #[must_use]
    pub fn reason(&self) -> Reason {
        self.0.reason
    }

    /// The text for outside.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The text for inside; empty where there is none.
    #[must_use]
    pub fn detail(&self) -> &str {
        &self.0.detail
    }

    /// Not to be tried again sooner, counted from when the fault was raised.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// Who said it.
    #[must_use]
    pub fn origin(&self) -> &Origin {
        &self.0.origin
    }

    /// True for an answer of the business (a declined card), which is settled as accepted, never retried.
    #[must_use]
    pub fn is_answer(&self) -> bool {
        self.0.code == Code::FailedPrecondition && self.0.effect == Effect::None
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = &self.0;
        write!(f, "{} {}: {}", inner.reason.code(), inner.reason.title(), inner.message)?;
        match inner.effect {
            Effect::None => f.write_str(" (nothing happened)"),
            Effect::Done => f.write_str(" (it happened)"),
            Effect::Unknown | Effect::Unspecified => f.write_str(" (it may have happened)"),
        }
    }
}

impl fmt::Debug for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Fault {}
