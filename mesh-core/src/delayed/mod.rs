//! Later, without holding a slot: a delivery waits on the lane of its consumer as a scheduled message (ADR-51).
//!
//! A delayed NAK would keep its place among the consumer's pending acks: a thousand sleeping retries stop a whole consumer.
//! So the copy waits outside. The original is settled only after the broker has the copy.

mod lane;
mod rearm;

use std::borrow::Cow;

use crate::{
    bus::{Bus, PublishError, Stored},
    claim,
    clock::rfc3339,
    envelope::{Envelope, LaneNote, Note, TargetWait, header, is_own},
    fault::Fault,
    subject,
};

pub(crate) use lane::cut;
pub use lane::{Lane, attempts_of, block_of, encode_attempts, letter_id, shortened};
use mesh_proto::v1;
pub(crate) use rearm::rearm;

/// What comes back by itself within such a time is not called any more. In a cluster a copy that falls due while it is called
/// would be there twice, and the broker's clock may differ from this one's.
pub(crate) const FALLS_DUE_MS: i64 = 10_000;
/// How the id of a copy begins that was put aside, not begun.
const ASIDE: &str = "aside/";
/// How it begins when that was called back.
const BACK: &str = "back/";
const SCHEDULE: &str = "Nats-Schedule";
const SCHEDULE_TARGET: &str = "Nats-Schedule-Target";

/// Puts a delivery aside until `due_ms` (Unix milliseconds), as attempt number `attempt`, with the attempts so far.
///
/// The same delivery put aside twice (a crash before its ack) is put aside once: its place on the lane follows from the
/// stream and sequence that it was delivered from, and from when it was stored there.
///
/// # Errors
/// The broker has not confirmed it: the original must not be settled.
pub async fn delay(
    bus: &Bus,
    lane: &Lane,
    envelope: &Envelope,
    next: (u32, i64),
    attempts: &v1::Attempts,
) -> Result<(), PublishError> {
    let id = format!("delay/{}/{}", lane.durable(), unique(envelope));
    store(bus, lane, envelope, later(lane, envelope, next, (attempts, id))).await.map(drop)
}

/// Puts a delivery of an ordered consumer aside, as [`delay`] does, but once for each `turn`, an attempt of one owner.
///
/// An owner settles an original together with the copy that an owner before it made. Were the next copy taken for that one, the
/// message would be nowhere. One copy too many is recognised.
///
/// # Errors
/// The broker has not confirmed it: the original must not be settled.
pub async fn delay_in_turn(
    bus: &Bus,
    lane: &Lane,
    envelope: &Envelope,
    next: (u32, i64),
    (attempts, turn): (&v1::Attempts, &str),
) -> Result<(), PublishError> {
    let id = format!("delay/{}/{}/{turn}", lane.durable(), unique(envelope));
    store(bus, lane, envelope, later(lane, envelope, next, (attempts, id))).await.map(drop)
}

/// Puts a delivery aside until `due_ms` that was not begun, as the same attempt. Its copy has an id of its own: should the
/// delivery be begun after all (a crash before its ack), the copy of what comes of that is another, and takes its place. Never the
/// other way round: where a copy of the delivery waits already, that one knows more or as much.
///
/// `turn`: where what is put aside is remembered, each time is one of its own. An earlier copy may have been dropped, because the
/// delivery itself was in hand: were the next one taken for that, the message would be nowhere.
///
/// `holder`: the process that calls it back, where others know of that and do so in its place should it end.
///
/// `waits`: of what was never begun, how long it has waited for its target.
///
/// `false`: another copy of it waits already.
///
/// # Errors
/// As of [`delay`].
pub async fn put_aside(
    bus: &Bus,
    lane: &Lane,
    envelope: &Envelope,
    (due_ms, turn, holder): (i64, &str, Option<&str>),
    (attempts, waits): (&v1::Attempts, Option<TargetWait>),
) -> Result<bool, PublishError> {
    let id = match turn {
        "" => format!("{ASIDE}{}/{}", lane.durable(), unique(envelope)),
        turn => format!("{ASIDE}{}/{}/{turn}", lane.durable(), unique(envelope)),
    };
    let mut copy = later(lane, envelope, (envelope.attempt(), due_ms), (attempts, id));
    copy.waits = waits;
    copy.headers.push((Cow::Borrowed(header::EXPECTED_LAST), "0".to_owned()));
    copy.headers.extend(holder.map(|holder| (Cow::Borrowed(header::HOLDER), holder.to_owned())));
    match store(bus, lane, envelope, copy).await {
        Err(error) if error.is_conflict() => Ok(false),
        stored => stored.map(|_| true),
    }
}

/// Lets a copy that was put aside come back at `due_ms` (Unix milliseconds), if it waits still. `false`: it does not, or another
/// copy of the same delivery waits in its place.
///
/// The copy is replaced by itself, under the sequence that it was read at, so there is one of it whoever else calls. A cluster does
/// not hold that sequence against a copy that falls due in the same moment: nobody may call what is about to (ADR 0014).
///
/// # Errors
/// The bus can't be reached, or this identity may not read its own lane: the copy waits as before.
pub async fn bring_forward(bus: &Bus, lane: &Lane, unique: &str, due_ms: i64) -> Result<bool, Fault> {
    let subject = subject::lane_hold(&lane.region, &lane.service, &lane.consumer, unique);
    let held = match bus.direct_last(&lane.stream(), &subject).await? {
        // Of what was put aside a moment ago, a server that is not the leader may know nothing yet.
        None => bus.last_on(&lane.stream(), &subject).await?,
        held => held,
    };
    let Some(held) = held else { return Ok(false) };
    call_back(bus, lane, held.open().envelope, due_ms).await
}

/// The same of a copy that was read where it waits.
///
/// # Errors
/// As of [`bring_forward`].
pub(crate) async fn call_back(bus: &Bus, lane: &Lane, held: Envelope, due_ms: i64) -> Result<bool, Fault> {
    let soon_ms = bus.gate().clock().now_ms().saturating_add(FALLS_DUE_MS);
    if due_of(&held).is_some_and(|due_ms| due_ms <= soon_ms) {
        return Ok(false);
    }
    let Envelope { subject, headers, payload, delivery: Some(delivery), .. } = held else { return Ok(false) };
    let unique = subject.rsplit('.').next().unwrap_or_default();
    let id = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case(header::MESSAGE_ID));
    if !id.is_some_and(|(_, id)| id.starts_with(ASIDE) || id.starts_with(BACK)) {
        return Ok(false);
    }
    // What the broker added to the copy is not sent again.
    let kept = headers.into_iter().filter(|(name, _)| is_of_copy(name));
    let own = [
        (header::MESSAGE_ID, format!("{BACK}{}/{unique}/{}", lane.durable(), delivery.sequence)),
        (SCHEDULE, format!("@at {}", rfc3339(due_ms))),
        (header::EXPECTED_LAST, delivery.sequence.to_string()),
    ];
    let own = own.into_iter().map(|(name, value)| (Cow::Borrowed(name), value));
    let headers = kept.map(|(name, value)| (Cow::Owned(name), value)).chain(own).collect();
    match bus.publish(&lane.stream(), bus.gate().seal_own(subject, headers, payload)).await {
        Ok(_) => Ok(true),
        Err(error) if error.is_conflict() => Ok(false),
        Err(error) => Err(error.into_fault("the copy that is called back")),
    }
}

/// When a waiting copy comes back by itself, Unix milliseconds.
pub(crate) fn due_of(copy: &Envelope) -> Option<i64> {
    let at = copy.header(SCHEDULE)?.strip_prefix("@at ")?;
    chrono::DateTime::parse_from_rfc3339(at).ok().map(|due| due.timestamp_millis())
}

/// Whether a header of a waiting copy is the copy's, and neither the broker's nor made anew with each copy.
fn is_of_copy(name: &str) -> bool {
    let ours = [header::MESH, header::ATTEMPTS, SCHEDULE_TARGET];
    is_own(name) || ours.iter().any(|own| name.eq_ignore_ascii_case(own))
}

/// The copy that waits on the lane until it is due.
fn later(
    lane: &Lane,
    envelope: &Envelope,
    (attempt, due_ms): (u32, i64),
    (attempts, id): (&v1::Attempts, String),
) -> Copy {
    let headers = vec![
        (Cow::Borrowed(header::MESSAGE_ID), id),
        (Cow::Borrowed(SCHEDULE), format!("@at {}", rfc3339(due_ms))),
        (Cow::Borrowed(SCHEDULE_TARGET), lane.due_for(&envelope.subject)),
        (Cow::Borrowed(header::ATTEMPTS), encode_attempts(attempts)),
    ];
    let subject = subject::lane_hold(&lane.region, &lane.service, &lane.consumer, &unique(envelope));
    Copy { subject, headers, attempt, waits: None }
}

/// A copy of a delivery, without what it carries of it.
struct Copy {
    subject: String,
    /// The mesh's own.
    headers: Vec<(Cow<'static, str>, String)>,
    attempt: u32,
    waits: Option<TargetWait>,
}

/// Stores a copy. If it would not fit into one message, or its bytes lie apart already, it only says where they are.
async fn store(bus: &Bus, lane: &Lane, envelope: &Envelope, copy: Copy) -> Result<Stored, PublishError> {
    let Copy { subject, headers, attempt, waits } = copy;
    let mut note = note(envelope, attempt);
    if let Some(of) = &mut note.lane {
        of.waits = waits;
    }
    let seal = |note: &Note, own, payload| {
        let noted = note.encode().map(|note| (Cow::Borrowed(header::MESH), note));
        let headers = [own, headers.clone()].into_iter().flatten().chain(noted).collect();
        bus.gate().seal_own(subject.clone(), headers, payload)
    };
    if envelope.claim().is_none() {
        let sealed = seal(&note, lane::own_headers(envelope), envelope.payload.clone());
        if bus.gate().carries(&sealed) {
            return bus.publish(&lane.stream(), sealed).await;
        }
    }
    let claim = put_apart(bus, lane, envelope).await?;
    if let Some(of) = &mut note.lane {
        of.claim = Some(claim);
        of.key = key_of(envelope);
    }
    bus.publish(&lane.stream(), seal(&note, Vec::new(), bytes::Bytes::new())).await
}

/// Puts the bytes of a delivery apart, unless they lie there already.
///
/// # Errors
/// The broker has not confirmed it: nothing may refer to it.
pub(crate) async fn put_apart(bus: &Bus, lane: &Lane, envelope: &Envelope) -> Result<v1::Claim, PublishError> {
    if let Some(claim) = envelope.claim() {
        return Ok(claim.clone());
    }
    let apart = v1::Apart { headers: headers_of(envelope), payload: envelope.payload.clone() };
    let from = envelope.delivery.as_ref().map(|delivery| (delivery.stream.as_str(), delivery.sequence));
    claim::put(bus, lane.owner(), &lane.letter_of(envelope), &apart, from).await
}

/// The headers of a delivery, but for the attempts.
pub(crate) fn headers_of(envelope: &Envelope) -> Vec<v1::Header> {
    let kept = envelope.headers.iter().filter(|(name, _)| !name.eq_ignore_ascii_case(header::ATTEMPTS));
    kept.map(|(name, value)| v1::Header { name: name.clone(), value: value.clone() }).collect()
}

/// The ordering key, also of what was not brought yet.
pub(crate) fn key_of(envelope: &Envelope) -> Option<String> {
    let noted = || envelope.note.lane.as_ref().and_then(|lane| lane.key.clone());
    envelope.order.as_ref().map(|order| order.key.clone()).or_else(noted)
}

/// Puts a delivery behind the failed one of its key, on the lane, where it waits until that one is done. A copy that was
/// put there before is a duplicate: it may be there or be handled already.
///
/// # Errors
/// The broker has not confirmed it: the original must not be settled.
pub async fn follow(bus: &Bus, lane: &Lane, envelope: &Envelope) -> Result<Stored, PublishError> {
    let id = format!("follow/{}/{}", lane.durable(), unique(envelope));
    let headers = vec![(Cow::Borrowed(header::MESSAGE_ID), id)];
    let (subject, attempt) = (lane.due_for(&envelope.subject), envelope.attempt());
    store(bus, lane, envelope, Copy { subject, headers, attempt, waits: None }).await
}

/// The delivery as its delayed copy would come, for a wait so short that it is spent in hand.
#[must_use]
pub fn next_attempt(envelope: &Envelope, attempt: u32, attempts: &v1::Attempts) -> Envelope {
    let mut next = Envelope { note: note(envelope, attempt), ..envelope.clone() };
    next.headers.retain(|(name, _)| !name.eq_ignore_ascii_case(header::ATTEMPTS));
    next.headers.push((header::ATTEMPTS.to_owned(), encode_attempts(attempts)));
    next
}

/// What tells the copies of one delivery from those of all others: the last token of the subject where it waits. When it was
/// stored tells it from what lies at its place in a stream that was made anew.
#[must_use]
pub fn unique(envelope: &Envelope) -> String {
    match &envelope.delivery {
        Some(delivery) => format!("{}-{}-{}", delivery.stream, delivery.sequence, delivery.stored_at_ms),
        None => nuid::next().to_string(),
    }
}

/// What a copy says about its original.
fn note(envelope: &Envelope, attempt: u32) -> Note {
    let (stream, sequence) = envelope.source().unwrap_or(("", 0));
    Note {
        deadline: envelope.note.deadline,
        idempotency_key: envelope.note.idempotency_key.clone(),
        attempt: None,
        lane: Some(LaneNote {
            attempt,
            subject: envelope.subject.clone(),
            message_id: envelope.message_id.clone(),
            source: (stream.to_owned(), sequence),
            stored_at_ms: stored_at(envelope),
            letter: envelope.note.lane.as_ref().and_then(|lane| lane.letter.clone()),
            block: envelope.order.as_ref().map(|order| block_of(&order.key)),
            claim: envelope.claim().cloned(),
            key: envelope.claim().and_then(|_| key_of(envelope)),
            waits: None,
        }),
    }
}

/// When the original was stored, Unix milliseconds; 0 where nobody knows.
#[must_use]
pub fn stored_at(envelope: &Envelope) -> i64 {
    match (&envelope.note.lane, &envelope.delivery) {
        (Some(lane), _) => lane.stored_at_ms,
        (None, Some(delivery)) => delivery.stored_at_ms,
        (None, None) => 0,
    }
}
