//! Ask and answer: request-reply with an absolute deadline, over core NATS.
//!
//! *Nobody answers* is known at once. A call that was sent and not answered in time may have been acted upon: its fault
//! says so. A call that failed is made again where its contract and the fault allow it, within its deadline and a budget.

mod ask;
mod call;
mod discovery;
mod respond;
mod retry;

pub use call::{Call, CallTarget};
pub use discovery::Discovery;
pub use respond::{Responder, ResponderSettings};
pub use retry::{CallRetry, Retries, RetriesByOperation};
