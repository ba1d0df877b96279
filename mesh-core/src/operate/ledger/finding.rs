//! What does not add up: what, where, how many, which ones, and what to do about it.

use std::collections::BTreeSet;

use super::ranges::Ranges;

/// How many ids a person is shown.
const SHOWN: usize = 5;

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Queued work that is nowhere.
    WorkMissing,
    /// Events that left their stream before they were handled.
    EventsLost,
    /// More copies and letters than messages that were handled.
    NegativeRemainder,
    /// The broker gave deliveries up and there is no letter.
    GivenUp,
    /// A letter says replaying and its copy is nowhere.
    ReplayWithoutCopy,
    /// A copy on a lane whose letter is not being replayed.
    CopyWithoutReplay,
    /// A copy whose original was not delivered yet.
    CopyOfWaiting,
    /// Two copies of one original.
    TwoCopies,
    /// A copy beside a letter of the same original.
    CopyAndLetter,
    /// A copy of work that is done.
    CopyOfDone,
    /// A letter of work that is done.
    LetterOfDone,
    /// A schedule that the broker did not carry out in time.
    Overdue,
    /// A message on a lane that does not say what its original is.
    Stray,
    /// A lane whose consumer does not exist.
    LaneWithoutConsumer,
    /// Letters whose consumer does not exist.
    LetterWithoutConsumer,
    /// A consumer that was paused.
    Paused,
    /// A stream that is full, or nearly.
    Full,
    /// A stream that the mesh file needs.
    StreamMissing,
    /// A consumer that the mesh file needs.
    ConsumerMissing,
}

impl Kind {
    /// One word for programs.
    #[must_use]
    pub const fn word(self) -> &'static str {
        self.texts().0
    }

    /// What is wrong, for people.
    #[must_use]
    pub const fn what(self) -> &'static str {
        self.texts().1
    }

    /// What to do next.
    #[must_use]
    pub const fn next(self) -> &'static str {
        self.texts().2
    }

    const fn texts(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Kind::WorkMissing => (
                "work-missing",
                "work left its stream without an outcome, a copy or a letter",
                "look for a purge or a deletion by hand in the broker's log; ask whoever enqueued it to send it again with its id",
            ),
            Kind::EventsLost => (
                "events-lost",
                "events left their stream before they were handled",
                "start the consumer, raise the stream's age (nats stream edit; mesh apply keeps it), and ask the producer to publish them again",
            ),
            Kind::NegativeRemainder => (
                "negative-remainder",
                "more copies and letters than events that were handled",
                "look at the letters and the lane of this consumer for what it was never sent: mesh dead-letter list",
            ),
            Kind::GivenUp => (
                "given-up",
                "the broker gave these deliveries up, and there is no letter",
                "see that the keeper runs; it makes the letters",
            ),
            Kind::ReplayWithoutCopy => (
                "replay-without-copy",
                "the letter says replaying, and no copy is on the lane",
                "send it once more: mesh dead-letter replay ID --again",
            ),
            Kind::CopyWithoutReplay => (
                "copy-without-replay",
                "a copy waits on the lane of a letter that is not being replayed",
                "look at its history before it is handled a second time: mesh dead-letter show ID",
            ),
            Kind::CopyOfWaiting => (
                "copy-of-waiting",
                "a copy is on the lane, and its original was not delivered yet: it may be done twice",
                "was the consumer made anew? then pause it and see what it handled already",
            ),
            Kind::TwoCopies => (
                "two-copies",
                "two copies of one original are on the lane: it may be done twice",
                "look at what put the second one there before it is due",
            ),
            Kind::CopyAndLetter => (
                "copy-and-letter",
                "the original has a letter that nobody replays and a copy on the lane",
                "let the copy end, then discard the letter if it was handled: mesh dead-letter discard ID --why 'done'",
            ),
            Kind::CopyOfDone => (
                "copy-of-done",
                "work that is done has a copy on the lane: it may be done twice",
                "look at the outcome and at what the copy would do again",
            ),
            Kind::LetterOfDone => (
                "letter-of-done",
                "work that is done has an open letter",
                "don't replay it; discard it: mesh dead-letter discard ID --why 'done'",
            ),
            Kind::Overdue => (
                "overdue",
                "held longer than until they were due",
                "see that a keeper runs and the broker has room: the keeper stores it anew within minutes; if it stays, see that the broker's clock is right and the lane's stream has a leader",
            ),
            Kind::Stray => (
                "stray",
                "a message on a lane does not say what its original is",
                "it becomes a letter when it is due; find who may publish there",
            ),
            Kind::LaneWithoutConsumer => (
                "lane-without-consumer",
                "copies wait on the lane of a consumer that does not exist",
                "make it again: mesh apply --config FILE",
            ),
            Kind::LetterWithoutConsumer => (
                "letter-without-consumer",
                "letters wait that nobody could be sent again to",
                "make the consumer again with mesh apply --config FILE, or discard them",
            ),
            Kind::Paused => ("paused", "the consumer is paused", "resume it: nats consumer resume STREAM NAME"),
            Kind::Full => (
                "full",
                "nearly full (a full stream refuses), in percent of its room",
                "make room: work it off, or raise the stream's limit (nats stream edit); letters are kept, so only that helps them",
            ),
            Kind::StreamMissing => ("stream-missing", "the stream does not exist", "make it: mesh apply --config FILE"),
            Kind::ConsumerMissing => {
                ("consumer-missing", "the consumer does not exist", "make it: mesh apply --config FILE")
            }
        }
    }
}

impl Kind {
    /// Whether it speaks of a stream or a consumer as a whole, not of some of its messages.
    #[must_use]
    pub const fn is_of_the_whole(self) -> bool {
        matches!(self, Kind::Paused | Kind::Full | Kind::StreamMissing | Kind::ConsumerMissing)
    }
}

/// Which ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    /// Messages of the stream, by sequence.
    Sequences(Ranges),
    /// Letters, by id.
    Letters(BTreeSet<u128>),
    /// Only how many is known.
    Count(u64),
}

impl Which {
    /// How many.
    #[must_use]
    pub fn count(&self) -> u64 {
        match self {
            Which::Sequences(sequences) => sequences.count(),
            Which::Letters(letters) => letters.len() as u64,
            Which::Count(count) => *count,
        }
    }

    /// The first of them as text: sequences, ranges of these, or beginnings of letters' ids.
    #[must_use]
    pub fn first(&self) -> Vec<String> {
        let range = |range: std::ops::RangeInclusive<u64>| match range.start() == range.end() {
            true => range.start().to_string(),
            false => format!("{}-{}", range.start(), range.end()),
        };
        match self {
            Which::Sequences(sequences) => sequences.iter().take(SHOWN).map(range).collect(),
            Which::Letters(letters) => letters.iter().take(SHOWN).map(|id| format!("{id:032x}")).collect(),
            Which::Count(_) => Vec::new(),
        }
    }

    /// Those of both.
    fn in_both(&self, other: &Which) -> Which {
        match (self, other) {
            (Which::Sequences(a), Which::Sequences(b)) => Which::Sequences(a.within(b)),
            (Which::Letters(a), Which::Letters(b)) => Which::Letters(a.intersection(b).copied().collect()),
            (a, b) => Which::Count(a.count().min(b.count())),
        }
    }
}

/// One thing that does not add up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What.
    pub kind: Kind,
    /// In which stream. For letters: of the original.
    pub stream: String,
    /// The broker's name of the consumer. Empty: of none.
    pub durable: String,
    /// Which ones.
    pub which: Which,
}

impl Finding {
    /// What stands in this finding and in an earlier one of the same kind and place. `None`: nothing does.
    #[must_use]
    pub fn standing(&self, earlier: &[Finding]) -> Option<Finding> {
        let same =
            |other: &&Finding| (other.kind, &other.stream, &other.durable) == (self.kind, &self.stream, &self.durable);
        let which = self.which.in_both(&earlier.iter().find(same)?.which);
        let Finding { kind, stream, durable, .. } = self;
        (which.count() > 0).then(|| Finding { kind: *kind, stream: stream.clone(), durable: durable.clone(), which })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(stream: &str, sequences: &[u64]) -> Finding {
        let which = Which::Sequences(sequences.iter().copied().collect());
        Finding { kind: Kind::WorkMissing, stream: stream.into(), durable: String::new(), which }
    }

    #[test]
    fn only_what_stands_in_both_readings_is_found() {
        let earlier = [finding("a", &[1, 2, 3])];
        let both = finding("a", &[2, 3, 4]).standing(&earlier).unwrap();
        assert_eq!((both.which.count(), both.which.first()), (2, vec!["2-3".to_owned()]));
        assert_eq!(finding("a", &[4]).standing(&earlier), None);
        assert_eq!(finding("b", &[1]).standing(&earlier), None);
    }
}
