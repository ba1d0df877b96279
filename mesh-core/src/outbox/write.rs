//! One message on its way into the caller's transaction.

use std::future::IntoFuture;

use bytes::Bytes;

use super::{Database, Outbox, Transaction, failed, place::Place, store::NewRow};
use crate::{
    clock::Deadline,
    contract::{BoxFuture, Context},
    fault::Fault,
    gate::{Cause, Gate, Sealed},
    telemetry::trace,
};

/// An event or work on its way into the transaction. Await it; it answers the message's id.
#[must_use = "nothing is written until it is awaited"]
pub struct Entry<'a, 't, D: Database> {
    outbox: &'a Outbox<D>,
    transaction: &'a mut Transaction<'t, D>,
    place: Place,
    key: String,
    cause: Cause,
    payload: Bytes,
}

impl<'a, 't, D: Database> Entry<'a, 't, D> {
    pub(super) fn new(
        outbox: &'a Outbox<D>,
        transaction: &'a mut Transaction<'t, D>,
        place: Place,
        key: String,
        payload: Vec<u8>,
    ) -> Entry<'a, 't, D> {
        Entry { outbox, transaction, place, key, cause: Cause::default(), payload: payload.into() }
    }

    /// The local part of its id, 1 to 128 visible ASCII characters. The same id again is the same message again.
    pub fn id(mut self, id: impl Into<String>) -> Entry<'a, 't, D> {
        self.cause.id = Some(id.into());
        self
    }

    /// When nobody wants it any more.
    pub fn deadline(mut self, deadline: Deadline) -> Entry<'a, 't, D> {
        self.cause.deadline = Some(deadline);
        self
    }

    /// Takes id, deadline and trace over from the attempt that is being handled. What was set before stays. In a
    /// handler of a call the deadline is not taken over: it is its caller's, who waits.
    pub fn caused_by(mut self, context: &Context) -> Entry<'a, 't, D> {
        self.cause = self.cause.caused_by(context);
        self
    }

    async fn write(self) -> Result<String, Fault> {
        let Entry { outbox, transaction, place, key, mut cause, payload } = self;
        let gate = outbox.bus.gate();
        let traceparent = trace::outgoing(cause.trace);
        cause.trace = Some(traceparent);
        let deadline_ms = cause.deadline.map(Deadline::unix_ms);
        // What the gate would refuse later fails here, inside the caller's transaction.
        let message_id = seal(gate, &place, &key, cause, payload.clone())?.message_id().to_owned();
        let row = NewRow {
            place: place.to_string(),
            key,
            id: message_id.splitn(3, '/').last().unwrap_or_default().to_owned(),
            deadline_ms,
            traceparent: traceparent.to_string(),
            written_ms: gate.clock().now_ms(),
            payload: payload.into(),
        };
        D::insert(transaction, row).await.map_err(|error| failed("the row was not written", &error))?;
        Ok(message_id)
    }
}

impl<'a, 't, D: Database> IntoFuture for Entry<'a, 't, D>
where
    't: 'a,
{
    type Output = Result<String, Fault>;
    type IntoFuture = BoxFuture<'a, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.write())
    }
}

/// The message that a row stands for.
pub(super) fn seal(gate: &Gate, place: &Place, key: &str, cause: Cause, payload: Bytes) -> Result<Sealed, Fault> {
    match place {
        Place::Event { producer, message } => gate.seal_event((producer, message), key, cause, payload),
        Place::Work { service, method, class } => gate.seal_work((service, method), (key, *class), cause, payload),
    }
}
