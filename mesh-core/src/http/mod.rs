//! One call of a vendor over HTTP, and precisely how far it got.
//!
//! The only module that names the HTTP client. It never follows a redirect, never reads a proxy variable and never tries
//! again by itself: whether a repeat is safe is decided above, from [`Sent`]. It speaks HTTP/1.1 alone, where a connection
//! carries one request at a time: that is what makes "not a byte was sent" provable.

mod body;
mod client;
mod connect;
mod sent;
#[cfg(test)]
pub(crate) mod stand_in;
#[cfg(test)]
mod tests;

pub use client::{Client, ClientError, Limits, Request};
pub use sent::{Answer, BodyLost, NotSent, Sent, Stage, Unanswered};
