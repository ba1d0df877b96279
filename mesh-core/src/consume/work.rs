//! What is done with a delivery: an event's handler, or an operation.

use std::{marker::PhantomData, sync::Arc};

use bytes::Bytes;

use crate::{
    contract::{BoxFuture, Context, Event, Handler, OperationInfo, Repeat, Service},
    envelope::Envelope,
    fault::{Code, Effect, Fault, Reason},
    subject::Place,
};

/// What a worker does with its deliveries.
pub trait Work: Send + Sync + 'static {
    /// What a repeat of this delivery does.
    fn repeat(&self, envelope: &Envelope) -> Repeat;

    /// The operation, where its outcome is announced: rpc service and method.
    fn operation<'a>(&self, envelope: &'a Envelope) -> Option<(&'a str, &'a str)>;

    /// What the delivery is for, where targets are to be kept apart: one that is down then delays no other. `None`: not said.
    fn target(&self, _envelope: &Envelope) -> Option<String> {
        None
    }

    /// The ordering key, where there is one that can be read.
    fn key(&self, _envelope: &Envelope) -> Option<String> {
        None
    }

    /// Handles one delivery; for an operation, the bytes of its reply.
    fn handle<'a>(&'a self, cx: Context, envelope: &'a Envelope) -> BoxFuture<'a, Result<Bytes, Fault>>;
}

/// Handles events of one type.
pub struct EventWork<E, H> {
    handler: H,
    target: Option<TargetOf<E>>,
    event: PhantomData<fn(E)>,
}

/// Names the target of an event.
pub type TargetOf<E> = Arc<dyn Fn(&E) -> String + Send + Sync>;

impl<E: Event, H: Handler<E>> EventWork<E, H> {
    /// The work of `handler`. `target` names what an event is for, where targets are to be kept apart.
    #[must_use]
    pub fn new(handler: H, target: Option<TargetOf<E>>) -> EventWork<E, H> {
        EventWork { handler, target, event: PhantomData }
    }
}

impl<E: Event, H: Handler<E>> Work for EventWork<E, H> {
    /// An event's handler may be called again with the same event: its documentation says so.
    fn repeat(&self, _envelope: &Envelope) -> Repeat {
        Repeat::Idempotent
    }

    fn operation<'a>(&self, _envelope: &'a Envelope) -> Option<(&'a str, &'a str)> {
        None
    }

    fn target(&self, envelope: &Envelope) -> Option<String> {
        let target = self.target.as_ref()?;
        // What can't be decoded has no target: its handler will say so.
        E::decode(envelope.payload.clone()).ok().map(|event| target(&event))
    }

    fn key(&self, envelope: &Envelope) -> Option<String> {
        let event = E::decode(envelope.payload.clone()).ok()?;
        Some(event.key().into_owned()).filter(|key| !key.is_empty())
    }

    fn handle<'a>(&'a self, cx: Context, envelope: &'a Envelope) -> BoxFuture<'a, Result<Bytes, Fault>> {
        Box::pin(async move {
            match Place::parse(&envelope.subject) {
                Some(Place::Event { message, .. }) if message == E::FULL_NAME => {}
                _ => return Err(wrong_type(&envelope.subject, E::FULL_NAME)),
            }
            let event = E::decode(envelope.payload.clone()).map_err(|error| undecodable(E::FULL_NAME, &error))?;
            self.handler.handle(cx, event).await.map(|()| Bytes::new())
        })
    }
}

/// Handles queued work with the service that also answers calls.
pub struct ServiceWork {
    service: Arc<dyn Service>,
    operations: Vec<OperationInfo>,
}

impl ServiceWork {
    /// The work of `service`.
    #[must_use]
    pub fn new(service: Arc<dyn Service>) -> ServiceWork {
        ServiceWork { operations: service.operations(), service }
    }
}

impl Work for ServiceWork {
    /// As its contract states; an operation that is not of the contract is never repeated.
    fn repeat(&self, envelope: &Envelope) -> Repeat {
        let method = self.operation(envelope).map(|(_, method)| method);
        self.operations.iter().find(|o| Some(o.method.as_ref()) == method).map_or(Repeat::Once, |o| o.repeat)
    }

    /// None of another service: this one may not say what became of it, and would wait for ever to be heard.
    fn operation<'a>(&self, envelope: &'a Envelope) -> Option<(&'a str, &'a str)> {
        match Place::parse(&envelope.subject) {
            Some(Place::Work { service, method, .. }) if service == self.service.name() => Some((service, method)),
            _ => None,
        }
    }

    fn target(&self, envelope: &Envelope) -> Option<String> {
        let (_, method) = self.operation(envelope)?;
        self.service.target(method, &envelope.payload)
    }

    fn handle<'a>(&'a self, cx: Context, envelope: &'a Envelope) -> BoxFuture<'a, Result<Bytes, Fault>> {
        match self.operation(envelope) {
            Some((_, method)) => self.service.dispatch(method, cx, envelope.payload.clone()),
            None => Box::pin(async { Err(wrong_type(&envelope.subject, self.service.name())) }),
        }
    }
}

fn wrong_type(subject: &str, expected: &str) -> Fault {
    let message = format!("{subject:?} does not carry what this consumer handles ({expected})");
    Fault::new(Code::InvalidArgument, Effect::None, Reason::WrongType, message)
}

fn undecodable(message: &str, error: &prost::DecodeError) -> Fault {
    Fault::new(Code::InvalidArgument, Effect::None, Reason::Undecodable, format!("the payload is no {message}"))
        .with_detail(error.to_string())
}
