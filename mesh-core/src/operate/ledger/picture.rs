//! What was read from the broker, cut down to what the account needs: a few numbers of each message that waits.

use std::{
    collections::BTreeMap,
    num::{NonZeroU64, NonZeroU128},
    ops::Deref,
    sync::Arc,
};

use super::ranges::Ranges;
use crate::{
    bus::{ConsumerFacts, StreamFacts},
    dead_letter::LetterState,
};

/// A stream and the broker's name of a consumer. For a lane copy or a letter: of the original.
///
/// A handle of one word: there are few of them, and millions of copies and letters that have one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seat(Arc<SeatNames>);

/// What a [`Seat`] stands for.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SeatNames {
    /// The stream.
    pub stream: Box<str>,
    /// The consumer's name at the broker: `<service>_<consumer>`.
    pub durable: Box<str>,
}

impl Seat {
    /// That of this consumer at this stream.
    #[must_use]
    pub fn new(stream: &str, durable: &str) -> Seat {
        Seat(Arc::new(SeatNames { stream: stream.into(), durable: durable.into() }))
    }
}

impl Deref for Seat {
    type Target = SeatNames;

    fn deref(&self) -> &SeatNames {
        &self.0
    }
}

/// Everything that was read, the sources of messages before the places that they go to.
#[derive(Debug, Clone, Default)]
pub struct Picture {
    /// When, Unix milliseconds.
    pub at_ms: i64,
    /// Every stream of the mesh.
    pub streams: Vec<StreamFacts>,
    /// Every consumer, those of lanes too.
    pub consumers: Vec<ConsumerFacts>,
    /// How many messages a consumer of events finds in its stream.
    pub stored: BTreeMap<Seat, u64>,
    /// What is on lanes.
    pub copies: Vec<Copy>,
    /// Copies that do not say what their original is, by the stream that they lie in.
    pub strays: BTreeMap<Box<str>, Ranges>,
    /// Letters, by id.
    pub letters: BTreeMap<u128, Letter>,
    /// Outcomes, by the work's stream and who served it.
    pub outcomes: BTreeMap<Seat, Outcomes>,
    /// Deliveries that the broker gave up, by the consumer.
    pub given_up: BTreeMap<Seat, Ranges>,
}

/// One message on a lane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copy {
    /// Whose lane it is, and the original's stream.
    pub of: Seat,
    /// The original's sequence in the stream that is there now. `None`: it was in an older one of that name.
    pub sequence: Option<NonZeroU64>,
    /// The stream that the copy lies in, and the consumer whose lane it is.
    pub lane: Seat,
    /// Its own sequence there.
    pub at: u64,
    /// For a held one: when it is due, as [`moment`] reads it. `None`: it is due.
    pub due: Option<u64>,
    /// For a replay: the letter. (No hash is 0.)
    pub letter: Option<NonZeroU128>,
}

/// A letter, without what it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Letter {
    /// The consumer that failed, and the original's stream.
    pub of: Seat,
    /// The original's sequence in the stream that is there now. `None`: it was in an older one of that name.
    pub sequence: Option<NonZeroU64>,
    /// Where it stands.
    pub state: LetterState,
    /// Of its newest capture.
    pub generation: u32,
    /// When its last record was written, Unix milliseconds.
    pub changed_at_ms: i64,
}

/// What is announced of the work of one stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcomes {
    /// Done, answered with no, or dropped because their ids had been sent before.
    pub done: Ranges,
    /// The lowest sequence of which is known that it was stored after the oldest outcome that must still be kept.
    pub since: Option<u64>,
    /// Outcomes that do not say which message they are of.
    pub unplaced: u64,
}

/// A moment in RFC 3339 (UTC) to the second as a number that orders: 2026-11-23T02:31:26 is 20261123023126.
#[must_use]
pub(super) fn moment(text: &str) -> Option<u64> {
    let digits: String = text.get(..19)?.chars().filter(char::is_ascii_digit).collect();
    if digits.len() == 14 { digits.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::rfc3339;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn moments_order_as_time_does(a in 0i64..4_000_000_000_000, b in 0i64..4_000_000_000_000) {
            let (of_a, of_b) = (moment(&rfc3339(a)).unwrap(), moment(&rfc3339(b)).unwrap());
            prop_assert_eq!((a / 1000).cmp(&(b / 1000)), of_a.cmp(&of_b));
        }
    }

    /// S21 of the campaign measures a ledger of a million of each.
    #[test]
    fn what_is_kept_of_a_message_is_small() {
        assert_eq!((size_of::<Copy>(), size_of::<Letter>()), (64, 32));
    }

    #[test]
    fn what_is_no_moment_is_none() {
        assert_eq!(moment("soon"), None);
        assert_eq!(moment("2026-11-23T02:31:2"), None);
    }
}
