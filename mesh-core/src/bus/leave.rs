//! Handing over what may leave only for so long.
//!
//! The client has a queue of commands that it keeps while the connection is away and empties into the next one, however much
//! later. What lies there can't be taken back. So a message that has a limit is handed over only while the connection stands, and
//! between the look at the limit and the handing over nothing is awaited: room in the queue is reserved first.
//!
//! What remains, since nobody but the broker could rule it out:
//! - The connection may end in the instant after the look, or may have ended without a word: an end that the network keeps to itself is
//!   noticed after three pings, 15 s or a little more. What was handed over meanwhile, and is not yet in the system's buffer, goes out
//!   with the next connection.
//! - What is in the system's buffer or in the network arrives when it arrives.
//! - A process that is stopped between handing over and writing writes when it wakes, if its connection still stands.
//! - Time in which the whole machine is suspended may not count ([`Term`](crate::clock::Term)).

use async_nats::{HeaderMap, Subject, connection::State, message::OutboundMessage};
use futures_util::{SinkExt as _, future::poll_fn};

use super::{Bus, PublishError, SENDING, within};
use crate::gate::Sealed;

impl Bus {
    /// Whether it may be handed over now. Nothing is held against what has no limit.
    pub(super) fn may_leave(&self, sealed: &Sealed) -> Result<(), PublishError> {
        if !sealed.has_leave() {
            return Ok(());
        }
        if sealed.is_late() {
            return Err(PublishError::NotSent("the time in which it may be sent is over".into()));
        }
        // The client's own word, not the link's: that one is told of it a moment later.
        if self.0.client.connection_state() != State::Connected {
            return Err(PublishError::NotSent("the connection is away, and it may not wait for the next one".into()));
        }
        Ok(())
    }

    /// Hands it over while it may leave, or never.
    pub(super) async fn send_in_time(
        &self,
        sealed: &Sealed,
        reply: Option<String>,
        headers: Option<HeaderMap>,
    ) -> Result<(), PublishError> {
        let subject = Subject::from(sealed.subject());
        // The client looks at the subjects of what is published, and not at those of what is put into its queue.
        if !subject.is_valid() {
            return Err(PublishError::NotSent(format!("{subject:?} is no subject")));
        }
        self.may_leave(sealed)?;
        let mut client = self.0.client.clone();
        within(SENDING, poll_fn(|cx| client.poll_ready_unpin(cx))).await?;
        self.may_leave(sealed)?;
        let (reply, payload) = (reply.map(Subject::from), sealed.payload().clone());
        let message = OutboundMessage { subject, reply, payload, headers };
        client.start_send_unpin(message).map_err(|error| PublishError::NotSent(error.to_string()))
    }
}
