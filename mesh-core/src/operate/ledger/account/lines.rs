//! One line for each stream and consumer.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    super::{
        finding::{Kind, Which},
        picture::{Outcomes, Seat},
        ranges::Ranges,
        read::kept_since_ms,
    },
    Book, Line,
};
use crate::{
    bus::{ConsumerFacts, StreamFacts},
    dead_letter::LetterState,
    subject::WIRE,
};

/// A consumer that was made so soon after its stream was made with it.
const MADE_TOGETHER_MS: i64 = 60_000;

/// Copies and letters of one consumer, by where the original stands.
#[derive(Debug, Clone, Default)]
pub(super) struct Aside {
    delayed: Ranges,
    dead: Ranges,
    held: Ranges,
    discarded: Ranges,
    resolved: Ranges,
}

impl Aside {
    fn of_state(&mut self, state: LetterState) -> &mut Ranges {
        match state {
            LetterState::Open | LetterState::Replaying => &mut self.dead,
            LetterState::Held => &mut self.held,
            LetterState::Discarded => &mut self.discarded,
            LetterState::Resolved => &mut self.resolved,
        }
    }

    /// Each original once, in the one place that counts, and only those in `among`.
    fn clipped(&self, among: &Ranges, taken: &mut Ranges) -> Aside {
        let mut take = |from: &Ranges| {
            let clipped = from.within(among).without(taken);
            taken.extend(&clipped);
            clipped
        };
        Aside {
            delayed: take(&self.delayed),
            dead: take(&self.dead),
            held: take(&self.held),
            discarded: take(&self.discarded),
            resolved: take(&self.resolved),
        }
    }
}

impl<'p> Book<'p> {
    pub(super) fn lines(&mut self) {
        let picture = self.picture;
        for facts in &picture.streams {
            if facts.name.starts_with(&format!("{WIRE}-work-")) {
                self.work(facts, &self.aside(&facts.name));
            } else if facts.name.starts_with(&format!("{WIRE}-event-")) {
                self.events(facts, &self.aside(&facts.name));
            }
        }
    }

    /// The copies and letters of one stream's messages: of one at a time, since sequences that do not lie close together take room.
    fn aside(&self, stream: &str) -> BTreeMap<&'p Seat, Aside> {
        let picture = self.picture;
        let mut aside: BTreeMap<&Seat, Aside> = BTreeMap::new();
        for copy in picture.copies.iter().filter(|copy| copy.letter.is_none() && *copy.of.stream == *stream) {
            if let Some(sequence) = copy.sequence {
                aside.entry(&copy.of).or_default().delayed.insert(sequence.get());
            }
        }
        for letter in picture.letters.values().filter(|letter| *letter.of.stream == *stream) {
            if let Some(sequence) = letter.sequence {
                aside.entry(&letter.of).or_default().of_state(letter.state).insert(sequence.get());
            }
        }
        aside
    }

    /// Work: an ack takes it away, so every sequence that is gone must be somewhere else.
    fn work(&mut self, facts: &StreamFacts, aside: &BTreeMap<&Seat, Aside>) {
        let present = self.present(&facts.name);
        let gone = Ranges::of(1, facts.last_sequence).without(&present);
        let (mut taken, mut lines) = (Ranges::default(), Vec::new());
        let nothing = Aside::default();
        let seats = self.seats(facts, aside);
        let alone = seats.len() == 1;
        for seat in &seats {
            let aside = aside.get(seat).unwrap_or(&nothing).clipped(&gone, &mut taken);
            let done = self.picture.outcomes.get(seat).map(|outcomes| outcomes.done.within(&gone).without(&taken));
            let done = done.unwrap_or_default();
            taken.extend(&done);
            let consumer = self.picture.consumers.iter().find(|c| is_at(c, seat));
            let mut line = line(seat, &aside, done.count());
            if alone {
                // From the stream itself: what was delivered since the consumer was asked is not counted twice.
                let delivered = consumer.map_or(0, |consumer| consumer.delivered);
                line.in_flight = present.within(&Ranges::of(1, delivered)).count();
                line.waiting = present.count() - line.in_flight;
            } else {
                line.in_flight = consumer.map_or(0, |consumer| consumer.in_flight);
                line.waiting = consumer.map_or(0, |consumer| consumer.waiting);
            }
            lines.push(line);
        }
        let (forgotten, missing) = self.nowhere(facts, &gone.without(&taken));
        if let Some(first) = lines.first_mut() {
            first.accepted += forgotten;
            first.missing = missing.count();
        }
        for mut line in lines {
            line.published = line.sum();
            self.account.lines.push(line);
        }
        let whose = if alone { seats.into_iter().next() } else { None };
        let whose = whose.unwrap_or_else(|| Seat::new(&facts.name, ""));
        self.find(Kind::WorkMissing, &whose, Which::Sequences(missing));
    }

    /// Of what is nowhere: how much may have been done, and what is missing.
    fn nowhere(&mut self, facts: &StreamFacts, nowhere: &Ranges) -> (u64, Ranges) {
        let of_stream = || self.picture.outcomes.iter().filter(|(seat, _)| *seat.stream == *facts.name).map(|(_, o)| o);
        let kept = Ranges::of(self.known_from(facts, of_stream()), u64::MAX);
        let missing = nowhere.within(&kept);
        let forgotten = nowhere.count() - missing.count();
        let unplaced: u64 = of_stream().map(|outcomes| outcomes.unplaced).sum();
        if forgotten > 0 {
            let why = "their outcomes are older than outcomes are kept, and count as accepted";
            self.account.remarks.push(format!("{}: {forgotten}: {why}", facts.name));
        }
        if unplaced >= missing.count() && !missing.is_empty() {
            let why = "outcomes do not say which message they are of, and count as accepted";
            self.account.remarks.push(format!("{}: {}: {why}", facts.name, missing.count()));
            return (forgotten + missing.count(), Ranges::default());
        }
        (forgotten, missing)
    }

    /// From which sequence on every outcome must still be there.
    fn known_from<'o>(&self, facts: &StreamFacts, outcomes: impl Iterator<Item = &'o Outcomes>) -> u64 {
        if facts.created_ms >= kept_since_ms(self.picture) {
            return 1;
        }
        outcomes.filter_map(|outcomes| outcomes.since).min().unwrap_or(u64::MAX)
    }

    /// Everybody who has to do with a stream of work; one without a name where nobody has.
    fn seats(&self, facts: &StreamFacts, aside: &BTreeMap<&Seat, Aside>) -> Vec<Seat> {
        let consumers = self.picture.consumers.iter().filter(|c| c.stream == facts.name);
        let consumers = consumers.map(|c| Seat::new(&c.stream, &c.durable));
        let others = self.picture.outcomes.keys().chain(aside.keys().copied()).filter(|s| *s.stream == *facts.name);
        let seats: BTreeSet<Seat> = consumers.chain(others.cloned()).collect();
        match seats.is_empty() {
            true => vec![Seat::new(&facts.name, "")],
            false => seats.into_iter().collect(),
        }
    }

    /// Events: an ack leaves no trace, so what remains was accepted.
    fn events(&mut self, facts: &StreamFacts, aside: &BTreeMap<&Seat, Aside>) {
        let present = self.present(&facts.name);
        let nothing = Aside::default();
        let consumers: Vec<_> = self.picture.consumers.iter().filter(|c| c.stream == facts.name).collect();
        for consumer in &consumers {
            let seat = Seat::new(&consumer.stream, &consumer.durable);
            let aside = aside.get(&seat).unwrap_or(&nothing);
            let stored = self.picture.stored.get(&seat).copied().unwrap_or(0);
            self.events_of(consumer, &seat, aside, (stored, &present));
            self.lost(facts, &consumers, (consumer, &seat), (stored, &present));
        }
    }

    fn events_of(&mut self, consumer: &ConsumerFacts, seat: &Seat, aside: &Aside, there: (u64, &Ranges)) {
        let (stored, present) = there;
        // What was not delivered when the consumer was asked is counted as waiting, whatever became of it since.
        let delivered = Ranges::of(1, consumer.delivered);
        let aside = aside.clipped(&delivered, &mut Ranges::default());
        let outlived = |part: &Ranges| part.without(present).count();
        let waiting_for_us = [&aside.delayed, &aside.dead, &aside.held];
        let gone: u64 = waiting_for_us.into_iter().map(outlived).sum();
        let mut line = line(seat, &aside, 0);
        // Those are a part of what remains.
        line.accepted = 0;
        line.discarded = aside.discarded.within(present).count();
        (line.in_flight, line.waiting) = (consumer.in_flight, consumer.waiting);
        line.published = stored + gone;
        // A copy or letter whose original is not acknowledged yet stands on both sides of its hand-over.
        let open = Ranges::of(consumer.ack_floor + 1, u64::MAX);
        let parts = [&aside.delayed, &aside.dead, &aside.held, &aside.discarded];
        let twice: u64 = parts.into_iter().map(|part| part.within(&open).count()).sum();
        let surplus = line.sum().saturating_sub(line.published);
        line.in_flight -= surplus.min(twice).min(line.in_flight);
        let surplus = line.sum().saturating_sub(line.published);
        line.accepted = line.published.saturating_sub(line.sum());
        self.account.lines.push(line);
        self.find(Kind::NegativeRemainder, seat, Which::Count(surplus));
    }

    /// Events that are gone though the consumer did not settle them.
    fn lost(
        &mut self,
        facts: &StreamFacts,
        others: &[&ConsumerFacts],
        (consumer, seat): (&ConsumerFacts, &Seat),
        (stored, present): (u64, &Ranges),
    ) {
        let unsettled = Ranges::of(consumer.ack_floor + 1, facts.last_sequence);
        let gone = unsettled.without(present);
        let only_kind = others.iter().all(|other| other.filters == consumer.filters) && stored >= facts.messages;
        if !gone.is_empty() && !only_kind {
            let why = "left the stream after the last one that it settled; whether some were its own can't be told";
            self.account.remarks.push(format!("{} {}: {}: {why}", facts.name, consumer.durable, gone.count()));
        }
        if !only_kind || !consumer.from_the_first {
            return;
        }
        if !gone.is_empty() {
            self.find(Kind::EventsLost, seat, Which::Sequences(gone));
            return;
        }
        // A purge moves the floors of consumers; how often they delivered it leaves as it was. It says so only of a consumer
        // that is as old as its stream, while nothing in it is old enough to have left by itself.
        let age_ms = facts.max_age.map_or(i64::MAX, |age| i64::try_from(age.as_millis()).unwrap_or(i64::MAX));
        let nothing_aged = facts.created_ms > self.picture.at_ms.saturating_sub(age_ms);
        let from_the_beginning = consumer.created_ms.saturating_sub(facts.created_ms) < MADE_TOGETHER_MS;
        let reached = consumer.deliveries + consumer.waiting;
        // Stored after the consumer was asked: not expected at it yet.
        let expected = consumer.delivered.max(facts.last_sequence.saturating_sub(facts.messages));
        if nothing_aged && from_the_beginning && expected > reached {
            self.find(Kind::EventsLost, seat, Which::Count(expected - reached));
        }
    }
}

fn is_at(consumer: &ConsumerFacts, seat: &Seat) -> bool {
    consumer.stream == *seat.stream && consumer.durable == *seat.durable
}

fn line(seat: &Seat, aside: &Aside, done: u64) -> Line {
    Line {
        stream: seat.stream.to_string(),
        durable: seat.durable.to_string(),
        accepted: done + aside.resolved.count(),
        delayed: aside.delayed.count(),
        dead: aside.dead.count(),
        held: aside.held.count(),
        discarded: aside.discarded.count(),
        ..Line::default()
    }
}
