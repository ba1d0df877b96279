//! A copy that the broker did not emit when it was due is stored anew, so that it does.
//!
//! nats-server marks a schedule as under way before it emits, and does not look at it again until its message is stored, whatever came of
//! that. Where there was no room for the message, the copy would wait until the stream has another leader or the server restarts.

use std::borrow::Cow;

use super::{SCHEDULE, is_of_copy};
use crate::{
    bus::{Bus, PublishError},
    clock::rfc3339,
    envelope::{Envelope, header},
    subject::WIRE,
};

/// How the id of a copy begins that was stored anew.
const REARM: &str = "rearm/";

/// Stores a copy anew where it waits, so that it is due at `due_ms` (Unix milliseconds), under the sequence that it was read at.
/// `false`: it is not there any more as it was read, or it is no copy.
///
/// Payload and headers stay as they are; only its time and its id are others. Whoever does the same at the same time, or replaces the
/// copy, or is the broker that emits it after all: there is one of it. A cluster holds the sequence against what is stored only: there,
/// a copy that is emitted in the very same moment would come twice.
///
/// # Errors
/// The broker has not confirmed it: the copy waits as before, or was stored anew, which a second try finds.
pub(crate) async fn rearm(bus: &Bus, held: Envelope, due_ms: i64) -> Result<bool, PublishError> {
    let Envelope { subject, headers, payload, delivery: Some(delivery), .. } = held else { return Ok(false) };
    let Some(of) = whose(&subject) else { return Ok(false) };
    let stays = |name: &str| is_of_copy(name) || name.eq_ignore_ascii_case(header::HOLDER);
    let kept = headers.into_iter().filter(|(name, _)| stays(name));
    let own = [
        (header::MESSAGE_ID, format!("{REARM}{of}/{}", delivery.sequence)),
        (SCHEDULE, format!("@at {}", rfc3339(due_ms))),
        (header::EXPECTED_LAST, delivery.sequence.to_string()),
    ];
    let own = own.into_iter().map(|(name, value)| (Cow::Borrowed(name), value));
    let headers = kept.map(|(name, value)| (Cow::Owned(name), value)).chain(own).collect();
    match bus.publish(&delivery.stream, bus.gate().seal_own(subject, headers, payload)).await {
        Ok(_) => Ok(true),
        Err(error) if error.is_conflict() => Ok(false),
        Err(error) => Err(error),
    }
}

/// `<durable>/<unique>` of the subject where a copy waits.
fn whose(subject: &str) -> Option<String> {
    let rest = subject.strip_prefix(WIRE)?.strip_prefix(".lane.")?;
    let mut tokens = rest.split('.').skip(1);
    let (service, consumer, place) = (tokens.next()?, tokens.next()?, tokens.next()?);
    let unique = tokens.next()?;
    (place == "hold" && tokens.next().is_none()).then(|| format!("{service}_{consumer}/{unique}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_held_is_a_copy_that_waits() {
        let of = |subject: &str| whose(subject);
        assert_eq!(of("mesh1.lane.eu.bank.till.hold.s-1-5").as_deref(), Some("bank_till/s-1-5"));
        assert_eq!(of("mesh1.lane.eu.bank.till.due.3.orders"), None);
        assert_eq!(of("mesh1.lane.eu.bank.till.hold"), None);
        assert_eq!(of("mesh1.dead.eu.bank.till.hold.x"), None);
    }
}
