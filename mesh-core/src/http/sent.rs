//! How far a call got.

use std::time::Duration;

use ::http::{HeaderMap, StatusCode};
use bytes::Bytes;

/// How far a call got.
#[derive(Debug)]
pub enum Sent {
    /// Surely not a byte of the request left: nothing happened.
    NotSent(NotSent),
    /// Bytes may have left, and no answer came: it may have happened.
    Unknown(Unanswered),
    /// The vendor answered.
    Answer(Answer),
}

/// Why nothing was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotSent {
    /// Where it stopped.
    pub stage: Stage,
    /// What happened, for people; never holds a secret.
    pub why: String,
}

/// Where a call stopped before a byte of it left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Name resolution, connection or TLS failed.
    Connect,
    /// The time was over before there was a connection.
    TimedOut,
    /// The vendor had closed the kept connection before the request was written.
    Closed,
}

/// Why there is no answer to a request that may have arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unanswered {
    /// The time was over; else the connection broke.
    pub timed_out: bool,
    /// What happened, for people; never holds a secret.
    pub why: String,
}

/// What the vendor answered.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body, as far as it is known.
    pub body: Result<Bytes, BodyLost>,
    /// From before the connection to after the body.
    pub took: Duration,
}

/// Why there is a status but no body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BodyLost {
    /// It is larger than the limit, in bytes.
    #[error("the answer is larger than {0} bytes")]
    TooLarge(usize),
    /// The connection broke within it.
    #[error("the connection broke within the answer")]
    Broken,
    /// The time was over within it.
    #[error("the time was over within the answer")]
    TimedOut,
}
