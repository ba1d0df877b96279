//! On the way in.

use bytes::Bytes;

use super::limits;
use crate::{
    envelope::{Delivery, Envelope, Note, TraceContext, header},
    fault::{Code, Effect, Fault, Reason},
    subject::Place,
};

/// What the bus received, in parts.
#[derive(Debug, Clone)]
pub struct Raw {
    /// The subject that it came on.
    pub subject: String,
    /// Where an answer or an ack goes.
    pub reply: Option<String>,
    /// Every header.
    pub headers: Vec<(String, String)>,
    /// The payload.
    pub payload: Bytes,
    /// For stored messages.
    pub delivery: Option<Delivery>,
}

/// A message that came in and must be opened before anybody reads it.
#[derive(Debug)]
pub struct Unopened(Raw);

/// A message with its facts, and the refusal where the gate does not let it pass.
///
/// Even a refused message has an envelope: its letter needs one.
#[derive(Debug)]
pub struct Opened {
    /// The message.
    pub envelope: Envelope,
    /// Where an answer or an ack goes.
    pub reply: Option<String>,
    /// Why it may not be handled.
    pub refusal: Option<Fault>,
}

impl Unopened {
    pub(crate) fn new(raw: Raw) -> Unopened {
        Unopened(raw)
    }

    /// Where its ack goes: the bus keeps a lease alive without opening the message.
    pub(crate) fn reply(&self) -> Option<&str> {
        self.0.reply.as_deref()
    }

    /// The subject that it lies on; on a lane, not the original's.
    pub(crate) fn subject(&self) -> &str {
        &self.0.subject
    }

    /// Bytes of the payload and the names around it, about.
    pub(crate) fn size(&self) -> usize {
        self.0.payload.len() + self.0.subject.len() + 64
    }

    /// Reads subject and headers.
    #[must_use]
    pub fn open(self) -> Opened {
        let raw = self.0;
        let place = Place::parse(&raw.subject);
        let on_lane = matches!(place, Some(Place::LaneDue { .. }));
        let (note, mut refusal) = match find(&raw.headers, header::MESH).map(|text| limits::note(text, on_lane)) {
            Some(Ok(note)) => (note, None),
            Some(Err(why)) => (Note::default(), Some(refused(why))),
            None => (Note::default(), None),
        };
        if refusal.is_none() {
            refusal = check(&raw, place.as_ref(), &note, on_lane);
        }
        let is_call = matches!(place, Some(Place::Call { .. }));
        let attempt = note.attempt.filter(|_| is_call);
        let note = Note { lane: note.lane.filter(|_| on_lane), attempt, ..note };
        let (subject, message_id) = match &note.lane {
            Some(lane) => (lane.subject.clone(), lane.message_id.clone()),
            None => (raw.subject.clone(), message_id(&raw, place.as_ref())),
        };
        let caller = Place::parse(&subject).map(|p| p.caller().to_owned()).unwrap_or_default();
        Opened {
            reply: raw.reply,
            refusal,
            envelope: Envelope {
                message_id,
                caller,
                trace: find(&raw.headers, header::TRACEPARENT).and_then(TraceContext::parse),
                note,
                subject,
                headers: raw.headers,
                payload: raw.payload,
                delivery: raw.delivery,
                order: None,
            },
        }
    }
}

fn check(raw: &Raw, place: Option<&Place<'_>>, note: &Note, on_lane: bool) -> Option<Fault> {
    let Some(place) = place else {
        return Some(refused(format!("{:?} is no subject of this mesh", raw.subject)));
    };
    let most = limits::longest_id(Some(place));
    if let Some(id) = find(&raw.headers, header::MESSAGE_ID).filter(|id| id.len() > most) {
        return Some(refused(format!("its {} has {} bytes; at most {most}", header::MESSAGE_ID, id.len())));
    }
    // Whoever may publish a scheduled message chooses its target: outside lanes, a schedule is a forgery.
    if !on_lane && find(&raw.headers, header::SCHEDULER).is_some() {
        return Some(refused(format!("a schedule sent it to {:?}, which is no lane", raw.subject)));
    }
    match (on_lane, &note.lane) {
        (true, None) => Some(refused("a delivery on a lane does not say what its original is".into())),
        (true, Some(lane)) => match Place::parse(&lane.subject) {
            Some(original) if (original.caller(), original.partition()) == (place.caller(), place.partition()) => None,
            _ => Some(refused(format!("the lane {:?} does not fit the original {:?}", raw.subject, lane.subject))),
        },
        (false, _) => None,
    }
}

fn refused(why: String) -> Fault {
    Fault::new(Code::InvalidArgument, Effect::None, Reason::HeaderRefused, why)
}

fn message_id(raw: &Raw, place: Option<&Place<'_>>) -> String {
    match (find(&raw.headers, header::MESSAGE_ID), &raw.delivery) {
        // One that is too long is refused, and not repeated.
        (Some(id), _) if id.len() <= limits::longest_id(place) => id.to_owned(),
        (_, Some(delivery)) => format!("{}:{}", delivery.stream, delivery.sequence),
        (_, None) => String::new(),
    }
}

fn find<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
}

#[cfg(test)]
mod tests {
    use super::{
        super::limits::{MAX_ID, MAX_KEY, MAX_NOTE},
        *,
    };

    fn open(subject: &str, headers: &[(&str, &str)]) -> Opened {
        let headers = headers.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        let delivery =
            Delivery { stream: "s".into(), sequence: 9, consumer_sequence: 1, deliveries: 1, stored_at_ms: 0 };
        Unopened::new(Raw {
            subject: subject.into(),
            reply: None,
            headers,
            payload: Bytes::new(),
            delivery: Some(delivery),
        })
        .open()
    }

    #[test]
    fn the_caller_is_what_the_subject_says_never_a_header() {
        let opened = open("mesh1.call.local.shop.P.Charge.cart", &[("caller", "payments")]);
        assert_eq!(opened.envelope.caller, "cart");
        assert!(opened.refusal.is_none());
    }

    #[test]
    fn a_message_without_an_id_has_its_place_as_one() {
        assert_eq!(open("mesh1.event.local.orders.shop.X.0", &[]).envelope.message_id, "s:9");
    }

    #[test]
    fn what_is_too_long_to_be_repeated_is_refused() {
        let subject = "mesh1.event.local.orders.shop.X.0";
        let id = "i".repeat(MAX_ID + 1);
        let [note, key] = [format!("z={}", "z".repeat(MAX_NOTE)), format!("k={}", "k".repeat(MAX_KEY + 1))];
        for (name, value) in [("Nats-Msg-Id", &id), ("mesh", &note), ("mesh", &key)] {
            let opened = open(subject, &[(name, value)]);
            assert_eq!(opened.refusal.unwrap().reason(), Reason::HeaderRefused, "{name}");
            assert_eq!(opened.envelope.message_id, "s:9");
            assert_eq!(opened.envelope.idempotency_key(), "s:9");
        }
        let longest = "i".repeat(MAX_ID);
        assert_eq!(open(subject, &[("Nats-Msg-Id", &longest)]).envelope.message_id, longest);
    }

    #[test]
    fn every_id_that_the_mesh_makes_of_one_that_was_let_in_is_read_back() {
        let outcome = format!("outcome/{}/letter/{}", "i".repeat(MAX_ID), u32::MAX);
        let opened = open("mesh1.outcome.local.shop.P.Charge.cart", &[("Nats-Msg-Id", &outcome)]);
        assert!(opened.refusal.is_none());
        assert_eq!(opened.envelope.message_id, outcome);
    }

    #[test]
    fn a_schedule_outside_a_lane_is_refused() {
        let opened = open("mesh1.event.local.orders.shop.X.0", &[("Nats-Scheduler", "x")]);
        assert_eq!(opened.refusal.unwrap().reason(), Reason::HeaderRefused);
    }

    #[test]
    fn a_lane_speaks_for_its_original_and_for_no_other_caller() {
        let note = "a=3;s=mesh1.work.local.shop.P.Charge.normal.1.cart;i=cart/x/1;o=w:5";
        let opened = open("mesh1.lane.local.pay.charge.due.1.cart", &[("mesh", note)]);
        assert!(opened.refusal.is_none());
        assert_eq!((opened.envelope.attempt(), opened.envelope.caller.as_str()), (3, "cart"));
        assert_eq!(opened.envelope.source(), Some(("w", 5)));
        for elsewhere in ["mesh1.lane.local.pay.charge.due.1.admin", "mesh1.lane.local.pay.charge.due.2.cart"] {
            assert!(open(elsewhere, &[("mesh", note)]).refusal.is_some(), "{elsewhere}");
        }
        assert!(open("mesh1.lane.local.pay.charge.due.1.cart", &[]).refusal.is_some());
    }

    #[test]
    fn a_call_says_which_attempt_it_is_and_nothing_else_does() {
        let call = "mesh1.call.local.shop.P.Charge.cart";
        assert_eq!(open(call, &[("mesh", "a=3;d=5")]).envelope.attempt(), 3);
        assert_eq!(open(call, &[("mesh", "a=0")]).envelope.attempt(), 1);
        assert!(open(call, &[("mesh", "a=many")]).refusal.is_some());
        assert_eq!(open("mesh1.event.local.orders.shop.X.0", &[("mesh", "a=3")]).envelope.attempt(), 1);
    }

    #[test]
    fn a_lane_note_elsewhere_is_not_believed() {
        let note = "a=3;s=mesh1.work.local.shop.P.Charge.normal.1.admin;i=x;o=w:5";
        let opened = open("mesh1.event.local.orders.shop.X.0", &[("mesh", note)]);
        assert_eq!((opened.envelope.attempt(), opened.envelope.caller.as_str()), (1, "orders"));
    }
}
