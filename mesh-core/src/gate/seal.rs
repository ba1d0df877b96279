//! On the way out.

use std::{borrow::Cow, sync::Arc};

use bytes::Bytes;
use tokio::time::Instant;

use super::Gate;
use crate::{
    clock::{Deadline, Term},
    contract::Context,
    envelope::{Note, TraceContext, header},
    fault::{Code, Effect, Fault, Reason},
    subject::{self, Class, Name},
};

/// A message that may be sent. Only the gate makes one, and only the bus takes it apart.
#[derive(Debug, Clone)]
pub struct Sealed {
    subject: String,
    headers: Vec<(Cow<'static, str>, String)>,
    payload: Bytes,
    /// Of few: a pointer is all that the others carry for it.
    leave: Option<Arc<Leave>>,
}

/// How long a message may leave: while its sender leads, and not after a moment of its own.
///
/// Whoever sends again what another may send after it needs this: its message could wait somewhere on its way here until the
/// other one has sent what comes after it and the broker has forgotten its id.
#[derive(Debug)]
pub struct Leave {
    /// For how long its sender leads, as is known at the moment of sending.
    pub term: Term,
    /// Its own latest moment.
    pub latest: Instant,
}

impl Leave {
    fn is_over(&self) -> bool {
        self.term.is_over() || self.latest <= Instant::now()
    }
}

impl Sealed {
    /// The same message, which the bus hands over only as long as `leave` goes, and only to a connection that stands.
    #[must_use]
    pub fn leaving(self, leave: Leave) -> Sealed {
        Sealed { leave: Some(Arc::new(leave)), ..self }
    }

    /// Whether there is a limit to when it may leave.
    pub(crate) fn has_leave(&self) -> bool {
        self.leave.is_some()
    }

    /// Whether that limit has passed.
    pub(crate) fn is_late(&self) -> bool {
        self.leave.as_ref().is_some_and(|leave| leave.is_over())
    }

    /// Where it goes.
    #[must_use]
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// Its id; empty where it has none.
    #[must_use]
    pub fn message_id(&self) -> &str {
        self.headers.iter().find(|(n, _)| n == header::MESSAGE_ID).map_or("", |(_, v)| v)
    }

    /// Whether the broker stores it only after a certain message of its subject.
    pub(crate) fn expects_last(&self) -> bool {
        self.headers.iter().any(|(n, _)| n.eq_ignore_ascii_case(header::EXPECTED_LAST))
    }

    pub(crate) fn headers(&self) -> &[(Cow<'static, str>, String)] {
        &self.headers
    }

    pub(crate) fn payload(&self) -> &Bytes {
        &self.payload
    }

    /// Bytes of payload and headers, about.
    pub(crate) fn size(&self) -> usize {
        self.payload.len() + self.header_size()
    }

    /// Bytes of the headers, about.
    pub(super) fn header_size(&self) -> usize {
        self.headers.iter().map(|(n, v)| n.len() + v.len() + 4).sum()
    }

    pub(crate) fn into_parts(self) -> (String, Vec<(Cow<'static, str>, String)>, Bytes) {
        (self.subject, self.headers, self.payload)
    }
}

/// What made a service send something: the attempt that it is handling, or nothing.
#[derive(Debug, Clone, Default)]
pub struct Cause {
    /// The local part of the message's id. `None`: that of `context`, else a new one.
    pub id: Option<String>,
    /// When nobody wants the answer any more.
    pub deadline: Option<Deadline>,
    /// The trace to go on with.
    pub trace: Option<TraceContext>,
}

impl Cause {
    /// Takes over from the attempt that is being handled, what was not set before: its local id, its deadline and its trace.
    ///
    /// The same attempt again sends the same id again, so a repeat is recognised as one. What is sent in a call has an id that
    /// follows from the call's key, since other callers may use the same local ids; and not the call's deadline: that its caller
    /// no longer waits does not make it worthless.
    #[must_use]
    pub fn caused_by(self, context: &Context) -> Cause {
        let own = || Some(context.local_id()).filter(|id| !id.is_empty()).map(str::to_owned);
        let id = || if context.is_call() { context.derived_id() } else { own() };
        let deadline = context.deadline().filter(|_| !context.is_call());
        Cause { id: self.id.or_else(id), deadline: self.deadline.or(deadline), trace: Some(context.trace()) }
    }
}

impl Gate {
    /// An event of this service: its producer and its full name.
    ///
    /// # Errors
    /// The event belongs to another service; it is too large; the id does not fit.
    pub fn seal_event(&self, event: (&str, &str), key: &str, cause: Cause, payload: Bytes) -> Result<Sealed, Fault> {
        let (producer, message) = event;
        let me = self.identity.service().as_str();
        if producer != me {
            return Err(Fault::new(
                Code::PermissionDenied,
                Effect::None,
                Reason::AccessDenied,
                format!("{message} is published by {producer:?} and by nobody else; this service is {me:?}"),
            ));
        }
        self.check_size(message, payload.len())?;
        let subject = subject::event(self.identity.region(), producer, message, subject::partition(key.as_bytes()));
        let headers = self.headers(message, cause)?;
        Ok(Sealed { subject, headers, payload, leave: None })
    }

    /// Queued work for an operation; its ordering key and its class say where it lies.
    ///
    /// # Errors
    /// It is too large; the id does not fit.
    pub fn seal_work(
        &self,
        operation: (&str, &str),
        place: (&str, Class),
        cause: Cause,
        payload: Bytes,
    ) -> Result<Sealed, Fault> {
        let (key, class) = place;
        let contract = format!("{}.{}", operation.0, operation.1);
        self.check_size(&contract, payload.len())?;
        let partition = subject::partition(key.as_bytes());
        let me = self.identity.service();
        let subject = subject::work(self.identity.region(), operation, class, partition, me);
        let headers = self.headers(&contract, cause)?;
        Ok(Sealed { subject, headers, payload, leave: None })
    }

    /// One attempt of a call of an operation.
    ///
    /// # Errors
    /// It is too large.
    pub fn seal_call(
        &self,
        operation: (&str, &str),
        (note, trace): (&Note, TraceContext),
        payload: Bytes,
    ) -> Result<Sealed, Fault> {
        self.check_size(operation.1, payload.len())?;
        let subject = subject::call(self.identity.region(), operation.0, operation.1, self.identity.service());
        Ok(Sealed { subject, headers: facts(Vec::with_capacity(2), Some(trace), note), payload, leave: None })
    }

    /// The idempotency key of a call: as the id of queued work, so that the same local id is the same key. `None`: a new one.
    ///
    /// # Errors
    /// The id does not fit.
    pub fn call_key(&self, operation: (&str, &str), id: Option<String>) -> Result<String, Fault> {
        self.message_id(&format!("{}.{}", operation.0, operation.1), id)
    }

    fn message_id(&self, contract: &str, id: Option<String>) -> Result<String, Fault> {
        let id = id.unwrap_or_else(new_id);
        Self::check_id(&id)?;
        Ok([self.identity.service().as_str(), "/", contract, "/", &id].concat())
    }

    /// Of what is stored.
    fn headers(&self, contract: &str, cause: Cause) -> Result<Vec<(Cow<'static, str>, String)>, Fault> {
        let mut headers = Vec::with_capacity(3);
        headers.push((Cow::Borrowed(header::MESSAGE_ID), self.message_id(contract, cause.id)?));
        let note = Note { deadline: cause.deadline, ..Note::default() };
        Ok(facts(headers, cause.trace, &note))
    }

    /// The answer to a call: the reply's bytes, or a fault's with the headers of ADR-32.
    ///
    /// # Errors
    /// `reply_to` is not an inbox of `caller`: a caller can name any subject as its reply.
    pub fn seal_reply(&self, caller: &str, reply_to: &str, answer: Result<Bytes, &Fault>) -> Result<Sealed, Fault> {
        let inbox = reply_to.strip_prefix("_INBOX.").and_then(|rest| rest.strip_prefix(caller));
        if !inbox.is_some_and(|rest| rest.starts_with('.')) {
            return Err(Fault::new(
                Code::PermissionDenied,
                Effect::None,
                Reason::ReplyForbidden,
                format!("{caller:?} asked for its answer outside its own inbox"),
            )
            .with_detail(reply_to.to_owned()));
        }
        let answer = match answer {
            Ok(payload) if self.check_size("the reply", payload.len()).is_ok() => Ok(payload),
            Ok(payload) => Err(Cow::Owned(
                self.check_size("the reply", payload.len())
                    .err()
                    .unwrap_or_else(|| Fault::unavailable("the reply can't be sent")),
            )),
            Err(fault) => Err(Cow::Borrowed(fault)),
        };
        let (headers, payload) = match answer {
            Ok(payload) => (Vec::new(), payload),
            Err(fault) => (error_headers(&fault), encode(&fault)),
        };
        Ok(Sealed { subject: reply_to.to_owned(), headers, payload, leave: None })
    }

    /// The outcome of queued work, for whoever enqueued it.
    #[must_use]
    pub fn seal_outcome(&self, operation: (&str, &str), caller: &str, message_id: &str, payload: Bytes) -> Sealed {
        let subject = subject::outcome(self.identity.region(), operation.0, operation.1, caller);
        let headers = vec![(Cow::Borrowed(header::MESSAGE_ID), format!("outcome/{message_id}"))];
        Sealed { subject, headers, payload, leave: None }
    }

    /// Bytes as they came, with headers as given, to a place of the mesh's own: lanes and letters. The payload is not
    /// looked at; the size was checked when it first entered.
    #[must_use]
    pub fn seal_own(&self, subject: String, headers: Vec<(Cow<'static, str>, String)>, payload: Bytes) -> Sealed {
        Sealed { subject, headers, payload, leave: None }
    }

    /// A message of JetStream's own API or of discovery: JSON, not the mesh's business.
    #[must_use]
    pub(crate) fn seal_api(subject: String, payload: Bytes) -> Sealed {
        Sealed { subject, headers: Vec::new(), payload, leave: None }
    }

    /// The name of a caller, where it is one.
    #[must_use]
    pub fn caller(text: &str) -> Option<Name> {
        text.parse().ok()
    }
}

/// Adds what every message may say about itself.
fn facts(
    mut headers: Vec<(Cow<'static, str>, String)>,
    trace: Option<TraceContext>,
    note: &Note,
) -> Vec<(Cow<'static, str>, String)> {
    headers.extend(trace.map(|trace| (Cow::Borrowed(header::TRACEPARENT), trace.to_header())));
    headers.extend(note.encode().map(|note| (Cow::Borrowed(header::MESH), note)));
    headers
}

/// A new local id: unique, without meaning.
#[must_use]
pub(crate) fn new_id() -> String {
    nuid::next().to_string()
}

fn encode(fault: &Fault) -> Bytes {
    use prost::Message as _;
    mesh_proto::v1::Fault::from(fault).encode_to_vec().into()
}

/// ADR-32: a code that tools show, and one line. Header values hold no line breaks.
fn error_headers(fault: &Fault) -> Vec<(Cow<'static, str>, String)> {
    let line: String = fault.to_string().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    vec![(Cow::Borrowed(header::ERROR), line), (Cow::Borrowed(header::ERROR_CODE), http_code(fault.code()).to_string())]
}

/// The HTTP status that says about the same, as in the gRPC mapping.
fn http_code(code: Code) -> u16 {
    match code {
        Code::Ok => 200,
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => 400,
        Code::Unauthenticated => 401,
        Code::PermissionDenied => 403,
        Code::NotFound => 404,
        Code::Aborted | Code::AlreadyExists => 409,
        Code::ResourceExhausted => 429,
        Code::Cancelled => 499,
        Code::Unimplemented => 501,
        Code::Unavailable => 503,
        Code::DeadlineExceeded => 504,
        Code::Unknown | Code::Internal | Code::DataLoss => 500,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        clock::Clock,
        identity::{Credential, Identity},
    };

    fn gate() -> Gate {
        let identity = Identity::new("orders".parse().unwrap(), "local".parse().unwrap(), Credential::None);
        Gate::new(identity, Clock::system(), 1024 * 1024)
    }

    fn cause(id: &str) -> Cause {
        Cause { id: Some(id.into()), ..Cause::default() }
    }

    #[test]
    fn an_event_carries_its_id_and_nothing_that_is_not_needed() {
        let sealed = gate().seal_event(("orders", "shop.X"), "", cause("17"), Bytes::new()).unwrap();
        assert_eq!(sealed.subject(), "mesh1.event.local.orders.shop.X.0");
        assert_eq!(sealed.headers, [(Cow::Borrowed("Nats-Msg-Id"), "orders/shop.X/17".to_owned())]);
    }

    #[test]
    fn the_same_id_is_the_same_key_for_a_call_and_for_queued_work() {
        let (gate, operation) = (gate(), ("shop.P", "Charge"));
        let work = gate.seal_work(operation, ("", Class::Normal), cause("17"), Bytes::new()).unwrap();
        assert_eq!(gate.call_key(operation, Some("17".into())).unwrap(), work.message_id());
        assert_ne!(gate.call_key(operation, None).unwrap(), gate.call_key(operation, None).unwrap());
        assert!(gate.call_key(operation, Some("a b".into())).is_err());
    }

    #[test]
    fn what_a_called_handler_sends_is_its_calls_own_and_has_no_deadline_of_it() {
        let context = |message_id: &str, is_call| {
            Context::new(crate::contract::Facts {
                message_id: message_id.into(),
                caller: "till".into(),
                idempotency_key: String::new(),
                attempt: 1,
                deadline: Some(Deadline::at_unix_ms(5)),
                trace: TraceContext::root(false),
                fence: None,
                is_call,
            })
        };
        let of = |message_id, is_call| Cause::default().caused_by(&context(message_id, is_call));
        let queued = of("till/shop.P.Place/17", false);
        assert_eq!((queued.id.as_deref(), queued.deadline), (Some("17"), Some(Deadline::at_unix_ms(5))));
        let (till, web) = (of("till/shop.P.Place/17", true), of("web/shop.P.Place/17", true));
        assert!(till.id.is_some() && till.id != web.id && till.deadline.is_none());
        assert_eq!(till.id, of("till/shop.P.Place/17", true).id, "the call again");
        assert_eq!(of("", true).id, None, "a call without a key");
        let stated = Cause { deadline: Some(Deadline::at_unix_ms(9)), ..cause("own") };
        let stated = stated.caused_by(&context("till/shop.P.Place/17", false));
        assert_eq!((stated.id.as_deref(), stated.deadline), (Some("own"), Some(Deadline::at_unix_ms(9))));
    }

    #[tokio::test(start_paused = true)]
    async fn leave_ends_with_its_senders_term_and_at_its_own_moment() {
        let second = std::time::Duration::from_secs(1);
        let (term, begin) = (Term::default(), Instant::now());
        let of = |latest| {
            let sealed = gate().seal_event(("orders", "shop.X"), "", cause("17"), Bytes::new()).unwrap();
            sealed.leaving(Leave { term: term.clone(), latest })
        };
        let sealed = of(begin + second * 3);
        assert!(sealed.is_late(), "nobody leads");
        term.extend_to(begin + second);
        assert!(!sealed.is_late() && !sealed.clone().is_late());
        tokio::time::advance(second * 2).await;
        assert!(sealed.is_late(), "its sender does not lead any more");
        // Renewed after it was sealed.
        term.extend_to(begin + second * 9);
        assert!(!sealed.is_late());
        tokio::time::advance(second).await;
        assert!(sealed.is_late() && !of(begin + second * 4).is_late(), "its own moment is over");
        term.end();
        assert!(of(begin + second * 4).is_late());
    }

    #[test]
    fn nobody_publishes_as_another() {
        let fault = gate().seal_event(("payments", "shop.X"), "", cause("17"), Bytes::new()).unwrap_err();
        assert_eq!(fault.reason(), Reason::AccessDenied);
    }

    #[test]
    fn limits_hold() {
        let large = Bytes::from(vec![0; 1024 * 1024 - super::super::RESERVED_BYTES + 1]);
        let fault = gate().seal_event(("orders", "shop.X"), "", cause("17"), large).unwrap_err();
        assert_eq!(fault.reason(), Reason::TooLarge);
        for id in ["", "a b", "a\r\nNats-Rollup: all", &"x".repeat(129)] {
            assert!(gate().seal_event(("orders", "shop.X"), "", cause(id), Bytes::new()).is_err(), "{id:?}");
        }
    }

    #[test]
    fn answers_go_to_the_callers_inbox_and_nowhere_else() {
        let gate = gate();
        assert!(gate.seal_reply("cart", "_INBOX.cart.abc", Ok(Bytes::new())).is_ok());
        for elsewhere in ["_INBOX.cartel.abc", "mesh1.work.local.x", "_INBOX.cart", "$JS.API.STREAM.DELETE.x"] {
            let fault = gate.seal_reply("cart", elsewhere, Ok(Bytes::new())).unwrap_err();
            assert_eq!(fault.reason(), Reason::ReplyForbidden, "{elsewhere}");
        }
    }
}
