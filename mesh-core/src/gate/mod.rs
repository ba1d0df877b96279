//! The doors: [`seal`](Gate) on the way out, [`open`](open::Unopened) on the way in.
//!
//! The bus sends only what this module sealed and hands out only what this module must open: the fields of [`Sealed`] and
//! [`Unopened`] are private here. So nothing is published past the limits, the identity and the trace.

mod limits;
mod open;
mod seal;

use crate::{
    clock::Clock,
    fault::{Code, Effect, Fault, Reason},
    identity::Identity,
};

pub(crate) use limits::{MAX_ID, believed};
pub use open::{Opened, Raw, Unopened};
pub use seal::{Cause, Leave, Sealed};

/// What leaves room for a message's letter and its lane copy: a message may take the broker's limit less this.
pub const RESERVED_BYTES: usize = 64 * 1024;

/// Bytes of headers that JetStream stores with a message, at most (error 10097).
const MAX_STORED_HEADERS: usize = 64 * 1024;

/// Bytes of the headers' frame, and of what the broker adds to a message that a schedule emits: at most.
const BROKERS_OWN_BYTES: usize = 1024;

/// An id that a sender chooses may have at most this many bytes.
pub const MAX_ID_BYTES: usize = 128;

/// Seals what an identity sends.
#[derive(Debug, Clone)]
pub struct Gate {
    identity: Identity,
    clock: Clock,
    max_payload: usize,
}

impl Gate {
    /// The gate of `identity` at a broker that carries `max_payload` bytes.
    #[must_use]
    pub fn new(identity: Identity, clock: Clock, max_payload: usize) -> Gate {
        Gate { identity, clock, max_payload }
    }

    /// Whose gate it is.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The clock that deadlines are read on.
    #[must_use]
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Bytes that a payload of ours may have, so that its letter and its lane copy fit too.
    #[must_use]
    pub fn max_message_bytes(&self) -> usize {
        self.max_payload.saturating_sub(RESERVED_BYTES)
    }

    /// Bytes that the broker carries in one message, headers and payload.
    #[must_use]
    pub fn max_payload(&self) -> usize {
        self.max_payload
    }

    /// Whether the broker carries and stores it, with what it adds itself to what a schedule emits.
    #[must_use]
    pub fn carries(&self, sealed: &Sealed) -> bool {
        let is_stored = sealed.header_size() + BROKERS_OWN_BYTES <= MAX_STORED_HEADERS;
        is_stored && sealed.size() + BROKERS_OWN_BYTES <= self.max_payload
    }

    /// Whether a message of so many bytes may be sent: `what` stands in the refusal.
    ///
    /// # Errors
    /// It is larger than this mesh carries.
    pub fn check_size(&self, what: &str, bytes: usize) -> Result<(), Fault> {
        let most = self.max_message_bytes();
        if bytes <= most {
            return Ok(());
        }
        Err(Fault::new(
            Code::InvalidArgument,
            Effect::None,
            Reason::TooLarge,
            format!("{what} has {bytes} bytes; this mesh carries {most} in one message"),
        ))
    }

    /// Whether what a sender chose as a message's id can be one.
    ///
    /// # Errors
    /// It is empty, too long, or has other characters than visible ASCII.
    pub fn check_id(id: &str) -> Result<(), Fault> {
        let fits = (1..=MAX_ID_BYTES).contains(&id.len()) && id.bytes().all(|b| (0x21..=0x7e).contains(&b));
        if fits {
            return Ok(());
        }
        Err(Fault::invalid(format!(
            "the id {id:?} does not fit: use 1 to {MAX_ID_BYTES} visible ASCII characters without spaces"
        )))
    }
}
