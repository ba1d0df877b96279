//! What the code that `mesh-build` generates stands on. Not for use by hand: it changes with the generator.

pub use bytes;
pub use prost;
pub use prost_types;

use bytes::Bytes;

use super::Contract;
use crate::fault::{Code, Effect, Fault, Reason};

/// Reads a request.
///
/// # Errors
/// The payload is not a message of the type that its subject names.
pub fn decode<M: Contract>(payload: Bytes) -> Result<M, Fault> {
    let length = payload.len();
    M::decode(payload).map_err(|error| {
        let message = format!("the payload is not a {}", M::FULL_NAME);
        Fault::new(Code::InvalidArgument, Effect::None, Reason::Undecodable, message)
            .with_detail(format!("{length} bytes: {error}"))
    })
}

/// Writes a reply.
#[must_use]
pub fn encode<M: Contract>(message: &M) -> Bytes {
    message.encode_to_vec().into()
}

/// The fault for a method that the service does not have.
#[must_use]
pub fn unknown_method(service: &str, method: &str) -> Fault {
    let message = format!("{service} has no operation {method:?}");
    Fault::new(Code::Unimplemented, Effect::None, Reason::Unimplemented, message)
}
