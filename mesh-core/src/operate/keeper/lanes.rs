//! Reading a lane from outside. It is a queue, of which the broker gives no second reader: each message is asked for.

use crate::{
    bus::{Bus, Stop},
    envelope::{Envelope, LaneNote, Note, header},
    fault::{Code, Effect, Fault, Reason},
    gate::Unopened,
};

/// Rounds in which a lane is read on while copies move.
const ROUNDS: usize = 20;

/// Shows `each` what lies on a lane, in no order, from what was stored at `since_ms` (Unix milliseconds) on; all of it where that is
/// 0. Whether no copy was missed, or `each` said that it was enough.
///
/// What moves gets a higher sequence, which the next round reads. A round that finds all that the stream said it holds has seen
/// every copy that was there when it said so, however many come meanwhile: what it read before was still there, or would be missing.
///
/// # Errors
/// The broker can't be reached, or this identity may not read.
pub(super) async fn read(
    bus: &Bus,
    (lane, since_ms): (&str, i64),
    mut each: impl FnMut(&Envelope) -> Stop,
) -> Result<bool, Fault> {
    let mut read_to = None;
    for _ in 0..ROUNDS {
        let Some(facts) = bus.stream_facts(lane).await? else { return Ok(true) };
        let present: Vec<_> = facts.present.iter().cloned().flatten().filter(|at| *at <= facts.last_sequence).collect();
        // Where the gaps are very many they are not listed at the moment of the numbers.
        let (mut missed, mut is_enough) = (present.len() as u64 != facts.messages, false);
        let first = match read_to {
            Some(read_to) => present.partition_point(|at| *at <= read_to),
            None => first_since(bus, lane, (&present, since_ms)).await?,
        };
        let look = |_, message: Option<Unopened>| match message {
            Some(message) => is_enough |= each(&message.open().envelope) == Stop::Yes,
            None => missed = true,
        };
        bus.messages_at(lane, present.iter().skip(first).copied(), look).await?;
        if !missed || is_enough {
            return Ok(true);
        }
        read_to = Some(facts.last_sequence);
    }
    Ok(false)
}

/// How many of some sequences lie before what was stored at a time. They are halved: a few questions, however many there are. One
/// that is gone counts as stored later, so that at most more is read.
async fn first_since(bus: &Bus, lane: &str, (present, since_ms): (&[u64], i64)) -> Result<usize, Fault> {
    let (mut low, mut high) = (0, if since_ms > 0 { present.len() } else { 0 });
    while low < high {
        let middle = low.midpoint(high);
        let Some(sequence) = present.get(middle) else { break };
        let there = bus.message_at(lane, *sequence).await?.and_then(|message| message.open().envelope.delivery);
        if there.is_some_and(|delivery| delivery.stored_at_ms < since_ms) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    Ok(low)
}

/// What a copy says of its original, held or due: the gate believes a note only where a copy is due, here nothing is done by virtue
/// of it.
pub(super) fn note_of(copy: &Envelope) -> Option<LaneNote> {
    Note::parse(copy.header(header::MESH)?).ok()?.lane
}

/// A lane that moves faster than it is read.
pub(super) fn restless(lane: &str) -> Fault {
    let message =
        format!("copies on the lane {lane:?} move faster than they are looked at; it is looked at again soon");
    Fault::new(Code::Unavailable, Effect::None, Reason::BusUnavailable, message)
}
