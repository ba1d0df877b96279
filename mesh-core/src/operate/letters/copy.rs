//! The copy of a letter's message that a replay puts on the lane of the consumer that failed.

use std::borrow::Cow;

use bytes::Bytes;
use mesh_proto::v1;

use super::Replayed;
use crate::{
    bus::{Bus, PublishError},
    claim,
    delayed::Lane,
    envelope::{LaneNote, LetterNote, Note, header, is_own},
    gate::{Sealed, believed},
};

/// The copy. A letter holds headers that do not fit beside its payload on a lane: then its bytes are put apart first.
///
/// # Errors
/// The broker has not confirmed the bytes: there is no copy.
pub(super) async fn sealed(
    bus: &Bus,
    lane: &Lane,
    letter: &v1::DeadLetter,
    replayed: &Replayed,
) -> Result<Sealed, PublishError> {
    let due = lane.due_for(letter.source.as_ref().map_or("", |source| &source.subject));
    let seal = |claim: Option<&v1::Claim>| {
        let payload = if claim.is_none() { letter.payload.clone() } else { Bytes::new() };
        bus.gate().seal_own(due.clone(), headers(letter, replayed, claim), payload)
    };
    let copy = seal(letter.claim.as_ref());
    if letter.claim.is_some() || bus.gate().carries(&copy) {
        return Ok(copy);
    }
    // The letter itself keeps them there: it is replaying.
    let apart = v1::Apart { headers: letter.headers.clone(), payload: letter.payload.clone() };
    let claim = claim::put(bus, lane.owner(), &letter.id, &apart, None).await?;
    Ok(seal(Some(&claim)))
}

/// `claim`: where payload and headers lie, if they lie apart.
fn headers(
    letter: &v1::DeadLetter,
    replayed: &Replayed,
    claim: Option<&v1::Claim>,
) -> Vec<(Cow<'static, str>, String)> {
    let source = letter.source.clone().unwrap_or_default();
    let original = letter.headers.iter().find(|h| h.name.eq_ignore_ascii_case(header::MESH));
    // What the gate refused is not repeated.
    let original = original.and_then(|h| believed(&h.value, &source)).unwrap_or_default();
    let note = Note {
        // The original's deadline is over or was not the trouble: a person wants it now.
        deadline: None,
        idempotency_key: original.idempotency_key,
        attempt: None,
        lane: Some(LaneNote {
            attempt: 1,
            subject: source.subject,
            message_id: source.message_id,
            source: (source.stream, source.sequence),
            stored_at_ms: source.stored_at_ms,
            letter: Some(LetterNote {
                id: letter.id.clone(),
                generation: replayed.generation,
                ordered_at: replayed.ordered_at,
            }),
            block: None,
            claim: claim.cloned(),
            key: claim.map(|_| letter.key.clone()).filter(|key| !key.is_empty()),
            waits: None,
        }),
    };
    // What lies apart brings its headers along.
    let kept = letter.headers.iter().filter(|h| claim.is_none() && is_own(&h.name));
    let mut headers: Vec<_> = kept.map(|h| (Cow::Owned(h.name.clone()), h.value.clone())).collect();
    let message_id = format!("replay/{}/{}", letter.id, replayed.generation);
    headers.push((Cow::Borrowed(header::MESSAGE_ID), message_id));
    headers.extend(note.encode().map(|note| (Cow::Borrowed(header::MESH), note)));
    headers
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter() -> v1::DeadLetter {
        let header = |name: &str, value: &str| v1::Header { name: name.into(), value: value.into() };
        v1::DeadLetter {
            id: "ab".into(),
            source: Some(v1::Source {
                stream: "mesh1-work-x".into(),
                sequence: 7,
                subject: "mesh1.work.local.x.P.Charge.normal.1.payments".into(),
                message_id: "payments/x.P.Charge/17".into(),
                stored_at_ms: 5,
                deliveries: 1,
            }),
            headers: vec![
                header("Nats-Msg-Id", "payments/x.P.Charge/17"),
                header("mesh", "d=1;k=key"),
                header("traceparent", "00-1-2-01"),
                header("mesh-attempts", "x"),
            ],
            ..v1::DeadLetter::default()
        }
    }

    #[test]
    fn a_copy_says_which_letter_it_is_and_keeps_what_is_its_senders() {
        let replayed = Replayed { letter_id: "ab".into(), generation: 2, ordered_at: 9 };
        let headers = headers(&letter(), &replayed, None);
        let names: Vec<_> = headers.iter().map(|(name, _)| name.as_ref()).collect();
        assert_eq!(names, ["traceparent", "Nats-Msg-Id", "mesh"]);
        assert_eq!(headers[1].1, "replay/ab/2");
        let note = Note::parse(&headers[2].1).unwrap();
        let lane = note.lane.unwrap();
        assert_eq!((note.deadline, note.idempotency_key.as_deref()), (None, Some("key")));
        assert_eq!((lane.attempt, lane.message_id.as_str(), lane.source.1), (1, "payments/x.P.Charge/17", 7));
        assert_eq!(lane.letter, Some(LetterNote { id: "ab".into(), generation: 2, ordered_at: 9 }));
    }

    #[test]
    fn what_the_gate_refused_is_not_repeated_by_a_replay() {
        let replayed = Replayed { letter_id: "ab".into(), generation: 1, ordered_at: 9 };
        let key = |note: String| {
            let mut letter = letter();
            letter.headers[1].value = note;
            let note = Note::parse(&headers(&letter, &replayed, None)[2].1).unwrap();
            note.idempotency_key.map(|key| key.len())
        };
        let note = |bytes: usize| format!("k={}", "%25".repeat(bytes));
        assert_eq!((key(note(1024)), key(note(1025)), key(note(20_000))), (Some(1024), None, None));
    }
}
