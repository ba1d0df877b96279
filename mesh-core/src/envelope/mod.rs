//! A message with its facts: what its subject and its headers say, read once.

mod note;
mod trace;

use bytes::Bytes;
use mesh_proto::v1;
pub use note::{InvalidNote, LaneNote, LetterNote, MAX_APART_BYTES, MAX_PARTS, Note, TargetWait, is_claim};
pub use trace::TraceContext;

/// Names of the headers on the wire.
pub mod header {
    /// The message's id, `<producer or caller>/<type>/<id>`: the broker's dedupe window knows it.
    pub const MESSAGE_ID: &str = "Nats-Msg-Id";
    /// W3C Trace Context.
    pub const TRACEPARENT: &str = "traceparent";
    /// Everything that the mesh itself says: see [`super::Note`].
    pub const MESH: &str = "mesh";
    /// On lanes only: the attempts so far, `mesh.v1.Attempts` in base64.
    pub const ATTEMPTS: &str = "mesh-attempts";
    /// On lanes only, on what waits to be called back: the process that put it aside.
    pub const HOLDER: &str = "mesh-holder";
    /// A reply that is a fault: its one line.
    pub const ERROR: &str = "Nats-Service-Error";
    /// A reply that is a fault: its HTTP-like code (ADR-32).
    pub const ERROR_CODE: &str = "Nats-Service-Error-Code";
    /// Set by the broker on messages that a schedule emitted.
    pub const SCHEDULER: &str = "Nats-Scheduler";
    /// On what lies apart: the delivery that it was put there for, `<stream>:<sequence>`.
    pub const FROM: &str = "mesh-from";
    /// The sequence of the last message of its subject, without which the broker refuses it.
    pub const EXPECTED_LAST: &str = "Nats-Expected-Last-Subject-Sequence";
}

/// Where a stored message came from, as its delivery says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// The stream that it was delivered from.
    pub stream: String,
    /// Its sequence there.
    pub sequence: u64,
    /// The number of this delivery among those of its consumer: a gap says that another process got what lies between.
    pub consumer_sequence: u64,
    /// How often the broker says that it delivered it.
    pub deliveries: u64,
    /// When it was stored, Unix milliseconds.
    pub stored_at_ms: i64,
}

/// What a consumer that keeps the order of keys knows of a message beside the message itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// The ordering key: never empty.
    pub key: String,
    /// Grows with each owner of the key's partition: a store that knows a higher one can refuse this one.
    pub fence: u64,
}

/// A message that the gate opened.
#[derive(Debug, Clone)]
pub struct Envelope {
    /// The subject that the message was first sent to: on a lane, the original's.
    pub subject: String,
    /// The message's id: on a lane, the original's.
    pub message_id: String,
    /// The producer or caller, made true by the broker.
    pub caller: String,
    /// The trace that it belongs to, where it says so.
    pub trace: Option<TraceContext>,
    /// What the mesh says about it.
    pub note: Note,
    /// Every header as it came.
    pub headers: Vec<(String, String)>,
    /// The payload as it came.
    pub payload: Bytes,
    /// For stored messages.
    pub delivery: Option<Delivery>,
    /// Where its consumer keeps the order of keys and it has one.
    pub order: Option<Order>,
}

impl Envelope {
    /// The value of a header.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }

    /// Which attempt this delivery or call is; 1 for the first.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.note.lane.as_ref().map(|lane| lane.attempt).or(self.note.attempt).unwrap_or(1).max(1)
    }

    /// The key to give to a third party: the note's, else the message's id.
    #[must_use]
    pub fn idempotency_key(&self) -> &str {
        self.note.idempotency_key.as_deref().unwrap_or(&self.message_id)
    }

    /// Where payload and headers lie, if they lie apart. Once they were brought they are here too.
    #[must_use]
    pub fn claim(&self) -> Option<&v1::Claim> {
        self.note.lane.as_ref()?.claim.as_ref()
    }

    /// Takes in what lies apart: the payload, and the headers that are its sender's own.
    pub fn take_in(&mut self, apart: v1::Apart) {
        let own = apart.headers.into_iter().filter(|header| is_own(&header.name));
        self.headers.extend(own.map(|header| (header.name, header.value)));
        self.trace = self.header(header::TRACEPARENT).and_then(TraceContext::parse);
        self.payload = apart.payload;
    }

    /// The stream and sequence of the original: on a lane, not those of the copy.
    #[must_use]
    pub fn source(&self) -> Option<(&str, u64)> {
        match (&self.note.lane, &self.delivery) {
            (Some(lane), _) => Some((&lane.source.0, lane.source.1)),
            (None, Some(delivery)) => Some((&delivery.stream, delivery.sequence)),
            (None, None) => None,
        }
    }
}

/// Whether a header is its sender's own: neither the broker's nor the mesh's. Those are made anew for each copy.
#[must_use]
pub fn is_own(name: &str) -> bool {
    let of_broker = name.get(..5).is_some_and(|start| start.eq_ignore_ascii_case("nats-"));
    let ours = [header::MESH, header::ATTEMPTS, header::HOLDER];
    !of_broker && !ours.iter().any(|own| name.eq_ignore_ascii_case(own))
}
