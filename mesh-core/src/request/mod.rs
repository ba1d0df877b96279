//! Ask and answer: request-reply with an absolute deadline, over core NATS.
//!
//! *Nobody answers* is known at once. A call that was sent and not answered in time may have been acted upon: its fault
//! says so.

mod call;
mod discovery;
mod respond;

pub use call::{Call, CallTarget};
pub use discovery::Discovery;
pub use respond::{Responder, ResponderSettings};
