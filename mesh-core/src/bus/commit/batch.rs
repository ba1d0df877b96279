//! Many messages as one atomic batch, and what becomes of each when the batch as a whole is not stored.
//!
//! - *Refused*: nothing is stored. One member is to blame (its id is there already, its expectation does not hold, it is too
//!   large for the stream), so the batch is sent anew in pieces, and a piece that is refused again message by message. Who
//!   is to blame gets the refusal, or the duplicate's sequence; nobody else does.
//! - *Refused as a batch* (too many are under way from all services, the stream takes none): message by message at once.
//! - *No answer*: it may be stored, all of it. Message by message: where it was stored the broker finds the message's id
//!   again and answers with its sequence. Until it does so, it is unknown of each what became of it ([`single`]). A record of a letter has no id: the broker finds its expectation not held. So
//!   [`is_conflict`](PublishError::is_conflict) can mean *this very record*, as it can after any repeated attempt, and
//!   whoever appends such records asks what stands there: a capture that is there is a capture made, an operator's order
//!   reads the letter and compares (`operate::letters`).

use std::sync::Arc;

use async_nats::{
    HeaderName, HeaderValue,
    header::{NATS_BATCH_COMMIT, NATS_BATCH_COMMIT_FINAL, NATS_BATCH_ID, NATS_BATCH_SEQUENCE},
};
use futures_util::future::join_all;

use super::{MAX_SINGLES, Waiting, single};
use crate::{
    bus::{
        Bus, PublishError, Stored,
        convert::{Member, Own, Prepared},
    },
    gate::Sealed,
};

/// What every member says of the batch that it is in.
const MARKS: [HeaderName; 2] = [NATS_BATCH_ID, NATS_BATCH_SEQUENCE];

/// JetStream's codes for "not as a batch": the stream takes none, some of it is missing, too many are under way.
const NOT_AS_A_BATCH: [u64; 3] = [10174, 10176, 10210];
/// A refused batch is sent anew in so many pieces.
const PIECES: usize = 8;

/// A batch on its way: its members are sent as they come, all but the last, which commits it.
///
/// The broker prepares a place on its disk when the first member comes, which costs it as much as hundreds of members:
/// meanwhile the others are collected.
pub(super) struct Batch<'a> {
    bus: &'a Bus,
    stream: &'a Arc<str>,
    sending: Sending,
    members: Vec<Waiting>,
}

/// The headers of a message that will be in a batch.
pub(super) fn member(sealed: &Sealed) -> Member {
    Member::of(sealed, MARKS)
}

/// What can be in a batch.
trait Part {
    fn sealed(&self) -> &Sealed;
    /// Its headers, where they were made before.
    fn prepared(&mut self) -> Option<Member>;
}

impl Part for Waiting {
    fn sealed(&self) -> &Sealed {
        &self.sealed
    }

    fn prepared(&mut self) -> Option<Member> {
        self.prepared.take()
    }
}

impl Part for Sealed {
    fn sealed(&self) -> &Sealed {
        self
    }

    fn prepared(&mut self) -> Option<Member> {
        None
    }
}

/// The headers of one that is in it.
fn marked(member: &mut impl Part, marks: [Own; 2]) -> Prepared {
    match member.prepared() {
        Some(prepared) => prepared.marked(marks),
        None => Prepared::of(member.sealed()).with(marks),
    }
}

/// Stores messages side by side, all of them or none; the sequence of the last. Only the first may expect something of its subject.
pub(super) async fn whole(bus: &Bus, messages: &[Sealed]) -> Result<u64, PublishError> {
    let attempt = || {
        let mut members = messages.to_vec();
        async move { Sending::new().commit(bus, &mut members).await }
    };
    single::again_until_known(bus, attempt, None).await
}

impl<'a> Batch<'a> {
    pub(super) fn begin(bus: &'a Bus, stream: &'a Arc<str>) -> Batch<'a> {
        Batch { bus, stream, sending: Sending::new(), members: Vec::new() }
    }

    /// What may not leave any more is not taken in: the others would have to go without a batch because of it.
    pub(super) async fn add(&mut self, more: impl IntoIterator<Item = Waiting>) {
        for one in more {
            match self.bus.may_leave(&one.sealed) {
                Ok(()) => self.members.push(one),
                Err(error) => one.answer(Err(error)),
            }
        }
        let ready = self.members.len().saturating_sub(1);
        self.sending.send(self.bus, &mut self.members[..ready]).await;
    }

    /// Ends the batch and answers each of its callers.
    pub(super) async fn commit(mut self) {
        let (bus, stream) = (self.bus, self.stream);
        let error = match self.sending.commit(bus, &mut self.members).await {
            Ok(last) => return answer(stream, last, &mut self.members),
            Err(error) => error,
        };
        let messages = self.members.len();
        tracing::debug!(%error, stream = &**stream, messages, "a batch was not stored as one");
        if !one_is_to_blame(&error) {
            return alone(bus, self.members, &error).await;
        }
        for mut piece in pieces(self.members) {
            let is_large = piece.len() > MAX_SINGLES;
            match if is_large { Sending::new().commit(bus, &mut piece).await } else { Err(error.clone()) } {
                Ok(last) => answer(stream, last, &mut piece),
                Err(error) => alone(bus, piece, &error).await,
            }
        }
    }
}

fn one_is_to_blame(error: &PublishError) -> bool {
    matches!(error, PublishError::Rejected { code, .. } if !NOT_AS_A_BATCH.contains(code))
}

/// Whether a batch that ended so may be stored. One that the broker refused is not, whatever became of another try of its members.
fn may_be_stored(error: &PublishError) -> bool {
    matches!(error, PublishError::TimedOut | PublishError::Disconnected)
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
        one.answer(Ok(Stored { stream: Arc::clone(stream), sequence, duplicate: false }));
    }
}

/// Sends each alone, as `error` ended them together.
async fn alone(bus: &Bus, batch: Vec<Waiting>, error: &PublishError) {
    let unknown = Some(error).filter(|error| may_be_stored(error));
    join_all(batch.into_iter().map(async |one| {
        let outcome = single::publish(bus, &one.sealed, unknown.cloned()).await;
        one.answer(outcome);
    }))
    .await;
}

/// How far a batch is sent.
struct Sending {
    id: String,
    sent: usize,
    /// Why no more of it can be sent.
    failed: Option<PublishError>,
}

impl Sending {
    fn new() -> Sending {
        Sending { id: nuid::next().to_string(), sent: 0, failed: None }
    }

    fn marks(&self, number: usize) -> [Own; 2] {
        let [id, sequence] = MARKS;
        [(id, HeaderValue::from(self.id.as_str())), (sequence, HeaderValue::from(number))]
    }

    /// Sends those of `members` that were not sent yet.
    async fn send(&mut self, bus: &Bus, members: &mut [impl Part]) {
        for one in &mut members[self.sent..] {
            if self.failed.is_some() {
                return;
            }
            let prepared = marked(one, self.marks(self.sent + 1));
            self.failed = bus.send_prepared(one.sealed(), None, prepared).await.err();
            self.sent += 1;
        }
    }

    /// Sends what is left, the last as the commit; the sequence of the last when all are stored.
    async fn commit(mut self, bus: &Bus, members: &mut [impl Part]) -> Result<u64, PublishError> {
        let count = members.len();
        let Some((last, others)) = members.split_last_mut() else {
            return Err(PublishError::NotSent("nothing to send".into()));
        };
        self.send(bus, others).await;
        if let Some(error) = self.failed {
            return Err(error);
        }
        // With the commit all are stored, also those that were sent while they still might leave.
        others.iter().try_for_each(|one| bus.may_leave(one.sealed()))?;
        let asked = bus.0.mux.register(last.sealed().subject());
        let commit = (NATS_BATCH_COMMIT, HeaderValue::from(NATS_BATCH_COMMIT_FINAL));
        let prepared = marked(last, self.marks(count)).with([commit]);
        bus.send_prepared(last.sealed(), Some(asked.inbox()), prepared).await?;
        let ack = single::acknowledged(asked).await?;
        // Else the members' sequences can't be told: the broker is asked of each.
        if ack.count != Some(count) { Err(PublishError::TimedOut) } else { Ok(ack.stored.sequence) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        clock::Clock,
        gate::Gate,
        identity::{Credential, Identity},
    };

    #[test]
    fn a_member_has_each_mark_once_whoever_prepared_it() {
        let identity = Identity::new("orders".parse().unwrap(), "local".parse().unwrap(), Credential::None);
        let gate = Gate::new(identity, Clock::system(), 1024 * 1024);
        let sealed = gate.seal_own("a".into(), vec![("x".into(), "1".into())], Vec::new().into());
        let sending = Sending { id: "batch".into(), sent: 0, failed: None };
        for prepared in [member(&sealed).marked(sending.marks(7)), Prepared::of(&sealed).with(sending.marks(7))] {
            let mut headers = crate::bus::convert::header_list(prepared.into_headers().unwrap());
            headers.sort();
            let expected = [("Nats-Batch-Id", "batch"), ("Nats-Batch-Sequence", "7"), ("x", "1")];
            assert_eq!(headers, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
        }
    }

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
        for (error, expected) in [(PublishError::TimedOut, true), (PublishError::Disconnected, true)]
            .into_iter()
            .chain([rejected(10158), rejected(10071), PublishError::NobodyListens].map(|error| (error, false)))
        {
            assert_eq!(may_be_stored(&error), expected, "{error}");
        }
    }
}
