//! Many messages as one atomic batch, and what becomes of each when the batch as a whole is not stored.
//!
//! - *Refused*: nothing is stored. One member is to blame (its id is there already, its expectation does not hold, it is too
//!   large for the stream), so the batch is sent anew in pieces, and a piece that is refused again message by message. Who
//!   is to blame gets the refusal, or the duplicate's sequence; nobody else does.
//! - *Refused as a batch* (too many are under way from all services, the stream takes none): message by message at once.
//! - *No answer*: it may be stored, all of it. Message by message: where it was stored the broker finds the message's id
//!   again and answers with its sequence. A record of a letter has no id: the broker finds its expectation not held. So
//!   [`is_conflict`](PublishError::is_conflict) can mean *this very record*, as it can after any repeated attempt, and
//!   whoever appends such records asks what stands there: a capture that is there is a capture made, an operator's order
//!   reads the letter and compares (`operate::letters`).

use std::{borrow::Cow, sync::Arc};

use futures_util::future::join_all;

use super::{MAX_SINGLES, Waiting, single};
use crate::bus::{Bus, PublishError, Stored};

const BATCH_ID: &str = "Nats-Batch-Id";
const BATCH_SEQUENCE: &str = "Nats-Batch-Sequence";
const BATCH_COMMIT: &str = "Nats-Batch-Commit";

/// JetStream's codes for "not as a batch": the stream takes none, some of it is missing, too many are under way.
const NOT_AS_A_BATCH: [u64; 3] = [10174, 10176, 10210];
/// A refused batch is sent anew in so many pieces.
const PIECES: usize = 8;

/// Publishes a batch and answers each of its callers.
pub(super) async fn publish(bus: &Bus, stream: &Arc<str>, mut batch: Vec<Waiting>) {
    let Err(error) = send(bus, &batch).await.map(|last| answer(stream, last, &mut batch)) else { return };
    tracing::debug!(%error, stream = &**stream, messages = batch.len(), "a batch was not stored as one");
    if !one_is_to_blame(&error) {
        return alone(bus, batch).await;
    }
    for mut piece in pieces(batch) {
        if piece.len() <= MAX_SINGLES || send(bus, &piece).await.map(|last| answer(stream, last, &mut piece)).is_err() {
            alone(bus, piece).await;
        }
    }
}

fn one_is_to_blame(error: &PublishError) -> bool {
    matches!(error, PublishError::Rejected { code, .. } if !NOT_AS_A_BATCH.contains(code))
}

fn pieces<T>(batch: Vec<T>) -> impl Iterator<Item = Vec<T>> {
    let size = batch.len().div_ceil(PIECES).max(MAX_SINGLES);
    let mut rest = batch.into_iter();
    std::iter::from_fn(move || Some(rest.by_ref().take(size).collect::<Vec<T>>()).filter(|piece| !piece.is_empty()))
}

/// The members of a batch that is stored lie side by side, up to `last`.
fn answer(stream: &Arc<str>, last: u64, batch: &mut Vec<Waiting>) {
    let first = (last + 1).saturating_sub(batch.len() as u64);
    for (sequence, one) in (first..).zip(batch.drain(..)) {
        one.answer(Ok(Stored { stream: stream.to_string(), sequence, duplicate: false }));
    }
}

async fn alone(bus: &Bus, batch: Vec<Waiting>) {
    join_all(batch.into_iter().map(async |one| {
        let outcome = single::publish(bus, &one.sealed).await;
        one.answer(outcome);
    }))
    .await;
}

/// Sends a batch; the sequence of its last message when all of it is stored.
async fn send(bus: &Bus, batch: &[Waiting]) -> Result<u64, PublishError> {
    let Some((last, others)) = batch.split_last() else { return Err(PublishError::NotSent("nothing to send".into())) };
    let id = nuid::next();
    let marks = |number: usize| [(BATCH_ID, Cow::Borrowed(id.as_str())), (BATCH_SEQUENCE, number.to_string().into())];
    for (index, one) in others.iter().enumerate() {
        bus.send_sealed(&one.sealed, None, marks(index + 1)).await?;
    }
    let asked = bus.0.mux.register(last.sealed.subject());
    let commit = marks(batch.len()).into_iter().chain([(BATCH_COMMIT, Cow::Borrowed("1"))]);
    bus.send_sealed(&last.sealed, Some(asked.inbox()), commit).await?;
    let ack = single::acknowledged(asked).await?;
    // Else the members' sequences can't be told: the broker is asked of each.
    if ack.count != Some(batch.len()) { Err(PublishError::TimedOut) } else { Ok(ack.stored.sequence) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_eighths_in_order_and_never_too_small_to_be_worth_a_batch() {
        let sizes = |messages: usize| pieces((0..messages).collect()).map(|piece| piece.len()).collect::<Vec<_>>();
        assert_eq!(sizes(1000), [125; 8]);
        assert_eq!(sizes(513), [65, 65, 65, 65, 65, 65, 65, 58]);
        assert_eq!(sizes(30), [12, 12, 6]);
        assert!(pieces((0..513).collect()).flatten().eq(0..513));
    }

    #[test]
    fn a_batch_that_can_not_be_one_is_not_tried_in_pieces() {
        let rejected = |code| PublishError::Rejected { code, description: String::new() };
        assert!(one_is_to_blame(&rejected(10201)) && one_is_to_blame(&rejected(10071)));
        for other in [rejected(10210), PublishError::TimedOut, PublishError::Disconnected, PublishError::NobodyListens]
        {
            assert!(!one_is_to_blame(&other), "{other}");
        }
    }
}
