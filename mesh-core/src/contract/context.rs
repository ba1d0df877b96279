//! What a handler is told beside the message.

use std::sync::Arc;

use crate::{clock::Deadline, envelope::TraceContext, subject};

/// The longest idempotency key that third parties take, in characters.
const LONGEST_KEY: usize = 255;

/// The facts of one attempt. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Context(Arc<Facts>);

/// What [`Context::new`] is made of.
#[derive(Debug, Clone)]
pub struct Facts {
    /// The message's id: the same at every attempt and replay.
    pub message_id: String,
    /// The service that published, called or enqueued: made true by the broker.
    pub caller: String,
    /// The key to give to a third party, so that a repeat is recognised, as it came with the message.
    pub idempotency_key: String,
    /// 1 for the first.
    pub attempt: u32,
    /// When nobody wants the answer any more.
    pub deadline: Option<Deadline>,
    /// The trace that this attempt belongs to.
    pub trace: TraceContext,
    /// Where the order of keys is kept: grows with each owner of the key.
    pub fence: Option<u64>,
    /// Whether its caller waits for the answer: nothing is stored of it.
    pub is_call: bool,
}

impl Context {
    /// A context with these facts. Made by the mesh for every attempt; made by hand in a handler's own tests.
    #[must_use]
    pub fn new(mut facts: Facts) -> Context {
        facts.idempotency_key = vendor_key(facts.idempotency_key);
        Context(Arc::new(facts))
    }

    /// The message's id: the same at every attempt and replay.
    #[must_use]
    pub fn message_id(&self) -> &str {
        &self.0.message_id
    }

    /// The last part of the message's id, after the producer or caller and the type: what the sender chose.
    #[must_use]
    pub fn local_id(&self) -> &str {
        self.0.message_id.splitn(3, '/').last().unwrap_or_default()
    }

    /// Whether its caller waits for the answer, and nobody does after the deadline.
    #[must_use]
    pub fn is_call(&self) -> bool {
        self.0.is_call
    }

    /// A local id that follows from the whole of this message's id, and from nothing else; `None`: it has none. Two messages with
    /// the same local id, of other senders or types, have others.
    #[must_use]
    pub fn derived_id(&self) -> Option<String> {
        let id = &self.0.message_id;
        (!id.is_empty()).then(|| subject::sha256(id.as_bytes())[..32].to_owned())
    }

    /// The service that published, called or enqueued. The broker's permissions make it true.
    #[must_use]
    pub fn caller(&self) -> &str {
        &self.0.caller
    }

    /// The key to give to a third party, so that a repeat is recognised: at most 255 characters of visible ASCII, which is what
    /// third parties take. One that came longer, or with others, is replaced by its SHA-256, the same each time.
    #[must_use]
    pub fn idempotency_key(&self) -> &str {
        &self.0.idempotency_key
    }

    /// Which attempt this is; 1 for the first. A delivery that was handed back keeps its number. Of a call it counts the
    /// repeats of the call and of what caused it: what is called for a retry is a retry.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.0.attempt
    }

    /// When nobody wants the answer any more.
    #[must_use]
    pub fn deadline(&self) -> Option<Deadline> {
        self.0.deadline
    }

    /// Where the consumer keeps the order of keys: a number that grows each time another process takes the key over. A
    /// database that refuses a lower one than it has seen keeps a process out that was stopped and woke up too late.
    #[must_use]
    pub fn fence(&self) -> Option<u64> {
        self.0.fence
    }

    /// The trace that this attempt belongs to.
    #[must_use]
    pub fn trace(&self) -> TraceContext {
        self.0.trace
    }
}

/// A key that third parties take: itself if it is one, else its SHA-256.
pub(crate) fn vendor_key(key: String) -> String {
    let fits = key.len() <= LONGEST_KEY && key.bytes().all(|b| b.is_ascii_graphic());
    if fits { key } else { subject::sha256(key.as_bytes()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_no_third_party_takes_is_replaced_by_the_same_one_each_time() {
        for key in ["", "bank/shop.payments.v1.Payments.Charge/17", &"k".repeat(255)] {
            assert_eq!(vendor_key(key.to_owned()), key);
        }
        for key in ["a b", "ä", &"k".repeat(256), &"%".repeat(1024)] {
            let replaced = vendor_key(key.to_owned());
            assert_eq!(replaced, subject::sha256(key.as_bytes()));
            assert_eq!(vendor_key(replaced.clone()), replaced, "once replaced it stays");
        }
    }
}
