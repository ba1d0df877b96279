//! From a picture of the broker to lines that add up and findings that do not: pure.

mod checks;
mod lines;

use std::collections::BTreeMap;

use super::{
    finding::{Finding, Kind, Which},
    picture::{Picture, Seat},
    ranges::Ranges,
};
use crate::{
    bus::{ConsumerFacts, StreamFacts},
    operate::topology::Topology,
};

/// What is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// How long a hand-over may take before it counts as not carried out.
    pub grace_ms: i64,
    /// From so much of its room on a stream is nearly full.
    pub full_percent: u64,
}

impl Default for Rules {
    fn default() -> Rules {
        Rules { grace_ms: 30_000, full_percent: 90 }
    }
}

/// What became of the messages of one stream at one consumer: `published` is the sum of all that follows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Line {
    /// The stream.
    pub stream: String,
    /// The broker's name of the consumer. Empty: the stream has none.
    pub durable: String,
    /// Stored, as far as they are still known.
    pub published: u64,
    /// Done or answered with no: for work by its outcomes, for events what remains.
    pub accepted: u64,
    /// On the lane, for a later attempt.
    pub delayed: u64,
    /// Letters that are open or being replayed.
    pub dead: u64,
    /// Letters that a person holds.
    pub held: u64,
    /// Letters that a person gave up.
    pub discarded: u64,
    /// Delivered, not settled.
    pub in_flight: u64,
    /// Not delivered yet.
    pub waiting: u64,
    /// Nowhere.
    pub missing: u64,
}

impl Line {
    /// All that is accounted for, the missing ones too.
    #[must_use]
    pub fn sum(&self) -> u64 {
        let settled = self.accepted + self.delayed + self.dead + self.held + self.discarded;
        settled + self.in_flight + self.waiting + self.missing
    }
}

/// The ledger.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Account {
    /// When the picture was begun, Unix milliseconds.
    pub at_ms: i64,
    /// By stream and consumer.
    pub lines: Vec<Line>,
    /// What does not add up.
    pub findings: Vec<Finding>,
    /// What can't be known, and why.
    pub remarks: Vec<String>,
}

/// The account of a picture. With a topology, what it needs must be there too.
#[must_use]
pub fn account(picture: &Picture, rules: Rules, topology: Option<&Topology>) -> Account {
    let account = Account { at_ms: picture.at_ms, ..Account::default() };
    let present = picture.streams.iter().map(|facts| (facts.name.as_str(), present(facts))).collect();
    let consumers = picture.consumers.iter().map(|c| ((c.stream.as_str(), c.durable.as_str()), c)).collect();
    let mut book = Book { picture, present, consumers, rules, account };
    book.lines();
    book.lanes();
    book.letters();
    book.given_up();
    book.places(topology);
    book.account.findings.sort_by(|a, b| (a.kind, &a.stream, &a.durable).cmp(&(b.kind, &b.stream, &b.durable)));
    book.account
}

struct Book<'p> {
    picture: &'p Picture,
    present: BTreeMap<&'p str, Ranges>,
    consumers: BTreeMap<(&'p str, &'p str), &'p ConsumerFacts>,
    rules: Rules,
    account: Account,
}

impl Book<'_> {
    fn find(&mut self, kind: Kind, seat: &Seat, which: Which) {
        if which.count() > 0 {
            let (stream, durable) = (seat.stream.to_string(), seat.durable.to_string());
            self.account.findings.push(Finding { kind, stream, durable, which });
        }
    }

    fn present(&self, stream: &str) -> Ranges {
        self.present.get(stream).cloned().unwrap_or_default()
    }

    /// The highest sequence that a consumer got. `None`: there is no such consumer.
    fn delivered(&self, stream: &str, durable: &str) -> Option<u64> {
        self.consumers.get(&(stream, durable)).map(|consumer| consumer.delivered)
    }
}

fn present(facts: &StreamFacts) -> Ranges {
    let mut present = Ranges::default();
    facts.present.iter().for_each(|range| present.add(*range.start(), *range.end()));
    present
}

#[cfg(test)]
mod tests;
