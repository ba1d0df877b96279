//! Send an event, or queue work: acknowledged when the broker has stored it.
//!
//! Many publishes may be under way at once; each has a result of its own. The same id again stores nothing again within
//! the broker's dedupe window, so a publish whose acknowledgement did not come is safely repeated.

mod enqueue;
mod event;

pub use enqueue::{Enqueue, WorkTarget};
pub use event::{EventTarget, Publish, Publisher};

use crate::bus::Stored;

/// Bytes of the future of one message, at most, that is being stored: the system's allocator (glibc) may have pieces up to here at
/// hand for each thread, while a larger one is cut from a heap that has a lock.
#[cfg(test)]
const LARGEST_FUTURE: usize = 1024;

/// The broker's word that it has the message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// `<producer or caller>/<type>/<id>`
    pub message_id: String,
    /// The stream that holds it.
    pub stream: String,
    /// Its sequence there.
    pub sequence: u64,
    /// A message with this id was there already; nothing was added.
    pub duplicate: bool,
}

impl Receipt {
    fn new(message_id: String, stored: Stored) -> Receipt {
        let Stored { stream, sequence, duplicate } = stored;
        Receipt { message_id, stream: String::from(&*stream), sequence, duplicate }
    }
}
