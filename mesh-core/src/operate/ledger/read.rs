//! Reads a [`Picture`] from the broker.
//!
//! A message's successor (copy, letter, outcome) is confirmed before the message is acknowledged. So whatever is taken from
//! is read before what it goes to: streams of work, lanes, letters, outcomes. What moves while this reads is then seen at
//! its old place or at its new one, or at both, and never at none.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    num::{NonZeroU64, NonZeroU128},
};

use mesh_proto::v1::{self, letter_record::Record, outcome::End};
use prost::Message as _;

use super::{
    picture::{Copy, Letter, Outcomes, Picture, Seat, moment},
    ranges::Ranges,
};
use crate::{
    bus::{Bus, Stop},
    dead_letter::{self, LetterState},
    envelope::{Envelope, Note, header},
    fault::Fault,
    gate::Unopened,
    operate::keeper::advisory,
    policy::compile::worker_name,
    subject::{ADVISORY_STREAM, DEAD_LETTER_STREAM, OUTCOME_STREAM, Place, WIRE, work_stream},
};

/// Rounds in which a lane is read on while its copies move.
const ROUNDS: usize = 20;
const SCHEDULE: &str = "Nats-Schedule";

/// Reads everything that the account needs.
///
/// # Errors
/// The bus can't be reached, or this identity may not read the streams of the mesh.
pub(super) async fn picture(bus: &Bus) -> Result<Picture, Fault> {
    let at_ms = bus.gate().clock().now_ms();
    let mut reader =
        Reader { bus, seats: BTreeMap::new(), made: Made::default(), picture: Picture { at_ms, ..Picture::default() } };
    let names = bus.stream_names(&format!("{WIRE}-")).await?;
    let is_lane = |name: &String| name.starts_with(&format!("{WIRE}-lane-"));
    for name in names.iter().filter(|name| !is_lane(name)) {
        reader.stream(name).await?;
    }
    for name in names.iter().filter(|name| is_lane(name)) {
        reader.lane(name).await?;
    }
    reader.given_up().await?;
    reader.letters().await?;
    reader.outcomes().await?;
    Ok(reader.picture)
}

struct Reader<'a> {
    bus: &'a Bus,
    /// Each is kept once, however many messages have it: by its stream, then its consumer.
    seats: BTreeMap<Box<str>, BTreeMap<Box<str>, Seat>>,
    made: Made,
    picture: Picture,
}

/// When each stream of events and work was made, Unix milliseconds. One that was removed and made again counts from 1 again, so
/// what speaks of a sequence and is older speaks of another message.
#[derive(Default)]
struct Made(BTreeMap<Box<str>, i64>);

impl Made {
    /// Whether it was there before the stream was. Of what says no time (0) nobody can tell, and in the same millisecond the
    /// stream may have been first.
    fn is_of_an_older(&self, stream: &str, at_ms: i64) -> bool {
        at_ms > 0 && self.0.get(stream).is_some_and(|made_ms| at_ms < *made_ms)
    }

    /// The place in the stream that is there now of what was stored at a sequence.
    fn place(&self, (stream, sequence): (&str, u64), stored_at_ms: i64) -> Option<NonZeroU64> {
        if self.is_of_an_older(stream, stored_at_ms) { None } else { NonZeroU64::new(sequence) }
    }
}

impl Reader<'_> {
    fn seat(&mut self, stream: &str, durable: &str) -> Seat {
        if let Some(known) = self.seats.get(stream).and_then(|seats| seats.get(durable)) {
            return known.clone();
        }
        let new = Seat::new(stream, durable);
        self.seats.entry(stream.into()).or_default().insert(durable.into(), new.clone());
        new
    }

    /// The broker's name of the consumer that reads a subject: an ordered one has one for each partition.
    fn durable_for(&self, durable: String, subject: &str) -> String {
        let Some(Place::Event { partition, .. }) = Place::parse(subject) else { return durable };
        let of_partition = format!("{durable}_p{partition}");
        let is_ordered = self.picture.consumers.iter().any(|consumer| consumer.durable == of_partition);
        if is_ordered { of_partition } else { durable }
    }

    /// Consumers first: what is stored after that can only make more of it, never less than nothing.
    async fn stream(&mut self, name: &str) -> Result<(), Fault> {
        let consumers = self.bus.consumers_of(name).await?;
        if name.starts_with(&format!("{WIRE}-event-")) {
            for consumer in &consumers {
                let mut stored = 0;
                for filter in &consumer.filters {
                    stored += self.bus.count_on(name, filter).await?;
                }
                let seat = self.seat(name, &consumer.durable);
                self.picture.stored.insert(seat, stored);
            }
        }
        self.picture.consumers.extend(consumers);
        let facts = self.bus.stream_facts(name).await?;
        self.made.0.extend(facts.iter().map(|facts| (name.into(), facts.created_ms)));
        self.picture.streams.extend(facts);
        Ok(())
    }

    /// A copy that moves gets a higher sequence: it is read on until nothing was missing where it had been.
    async fn lane(&mut self, name: &str) -> Result<(), Fault> {
        let bus = self.bus;
        let (mut read_to, mut newest) = (0, None);
        for _ in 0..ROUNDS {
            let Some(facts) = bus.stream_facts(name).await? else { break };
            let wanted = Ranges::of(read_to + 1, facts.last_sequence);
            let mut there = Ranges::default();
            facts.present.iter().for_each(|range| there.add(*range.start(), *range.end()));
            read_to = facts.last_sequence;
            newest = Some(facts);
            let sequences: Vec<_> = there.within(&wanted).iter().collect();
            let mut moved = false;
            let each = |at, message: Option<Unopened>| match message {
                Some(message) => self.copy(name, at, message),
                None => moved = true,
            };
            bus.messages_at(name, sequences.into_iter().flatten(), each).await?;
            if !moved {
                break;
            }
        }
        self.picture.streams.extend(newest);
        // After the copies: one that is under way now must not look as if it lay still.
        self.picture.consumers.extend(bus.consumers_of(name).await?);
        Ok(())
    }

    fn copy(&mut self, lane: &str, at: u64, message: Unopened) {
        let durable = lane_durable(message.subject());
        let envelope = message.open().envelope;
        match durable.and_then(|durable| self.read_copy(&envelope, &durable)) {
            Some(Read { of, sequence, due, letter }) => {
                let lane = self.seat(lane, &of.durable);
                self.picture.copies.push(Copy { of, sequence, lane, at, due, letter });
            }
            None => {
                self.picture.strays.entry(lane.into()).or_default().insert(at);
            }
        }
    }

    fn read_copy(&mut self, envelope: &Envelope, durable: &str) -> Option<Read> {
        // The gate believes a note only where a copy is due; here nothing is done for it, it is only counted.
        let note = Note::parse(envelope.header(header::MESH)?).ok()?.lane?;
        let due = match envelope.header(SCHEDULE) {
            Some(schedule) => Some(moment(schedule.strip_prefix("@at ")?)?),
            None => None,
        };
        let letter = match &note.letter {
            Some(letter) => Some(NonZeroU128::new(letter_number(&letter.id)?)?),
            None => None,
        };
        let durable = self.durable_for(durable.to_owned(), &note.subject);
        let (stream, sequence) = (note.source.0.as_str(), note.source.1);
        let sequence = self.made.place((stream, sequence), note.stored_at_ms);
        Some(Read { of: self.seat(stream, &durable), sequence, due, letter })
    }

    /// Before the letters: what was given up may have become one meanwhile.
    async fn given_up(&mut self) -> Result<(), Fault> {
        let bus = self.bus;
        bus.read(ADVISORY_STREAM, ">", |message| {
            let notice = advisory::read(&message.open().envelope, 0);
            let of_now = notice.filter(|notice| !self.made.is_of_an_older(&notice.stream, notice.at_ms));
            if let Some(notice) = of_now {
                let seat = self.seat(&notice.stream, &notice.durable);
                self.picture.given_up.entry(seat).or_default().insert(notice.sequence);
            }
            Stop::No
        })
        .await
    }

    async fn letters(&mut self) -> Result<(), Fault> {
        let bus = self.bus;
        bus.read(DEAD_LETTER_STREAM, &format!("{WIRE}.dead.>"), |message| {
            self.record(&message.open().envelope);
            Stop::No
        })
        .await
    }

    /// The next record of a letter. What can't be read, or does not follow, changes nothing.
    fn record(&mut self, envelope: &Envelope) -> Option<()> {
        let Some(Place::DeadLetter { service, consumer, letter, .. }) = Place::parse(&envelope.subject) else {
            return None;
        };
        let (id, durable) = (letter_number(letter)?, format!("{service}_{consumer}"));
        let record = dead_letter::record_of(envelope)?;
        let changed_at_ms = envelope.delivery.as_ref()?.stored_at_ms;
        let Some(known) = self.picture.letters.get_mut(&id) else {
            let Record::Captured(captured) = record else { return None };
            let source = captured.source.unwrap_or_default();
            let durable = self.durable_for(durable, &source.subject);
            let of = self.seat(&source.stream, &durable);
            let sequence = self.made.place((&source.stream, source.sequence), source.stored_at_ms);
            let generation = captured.generation;
            let letter = Letter { of, sequence, state: LetterState::Open, generation, changed_at_ms };
            self.picture.letters.insert(id, letter);
            return Some(());
        };
        let state = known.state.after(dead_letter::kind(&record))?;
        if let Record::Captured(captured) = record {
            // A repeat of what is known already changes nothing.
            if captured.generation <= known.generation {
                return None;
            }
            known.generation = captured.generation;
        }
        (known.state, known.changed_at_ms) = (state, changed_at_ms);
        Some(())
    }

    async fn outcomes(&mut self) -> Result<(), Fault> {
        let bus = self.bus;
        let kept_since_ms = kept_since_ms(&self.picture);
        bus.read(OUTCOME_STREAM, &format!("{WIRE}.outcome.>"), |message| {
            self.outcome(&message.open().envelope, kept_since_ms);
            Stop::No
        })
        .await
    }

    fn outcome(&mut self, envelope: &Envelope, kept_since_ms: i64) -> Option<()> {
        let Some(Place::Outcome { service, .. }) = Place::parse(&envelope.subject) else { return None };
        let (stream, worker) = (work_stream(service), worker_name(service));
        let outcome = v1::Outcome::decode(envelope.payload.clone()).ok()?;
        let source = outcome.source.filter(|source| source.stream == stream && source.sequence > 0);
        if source.as_ref().is_some_and(|source| self.made.is_of_an_older(&stream, source.stored_at_ms)) {
            return None;
        }
        let seat = self.seat(&stream, &format!("{}_{worker}", outcome.served_by));
        let outcomes = match self.picture.outcomes.entry(seat) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(Outcomes::default()),
        };
        if let Some(source) = source.as_ref().filter(|source| source.stored_at_ms >= kept_since_ms) {
            let since = outcomes.since.get_or_insert(source.sequence);
            *since = source.sequence.min(*since);
        }
        match (outcome.end?, source) {
            // What became a letter is counted as one.
            (End::DeadLettered(_), _) => {}
            // What was dropped for its id ended with that: the first one stands for itself.
            (End::Reply(_) | End::Refused(_) | End::SentAgain(_), Some(source)) => {
                outcomes.done.insert(source.sequence);
            }
            (End::Reply(_) | End::Refused(_) | End::SentAgain(_), None) => outcomes.unplaced += 1,
        }
        Some(())
    }
}

/// What a copy says of itself.
struct Read {
    of: Seat,
    sequence: Option<NonZeroU64>,
    due: Option<u64>,
    letter: Option<NonZeroU128>,
}

/// The consumer whose lane a subject lies on: `mesh1.lane.<region>.<service>.<consumer>.<due or hold>.…`.
fn lane_durable(subject: &str) -> Option<String> {
    let mut tokens = subject.strip_prefix(WIRE)?.strip_prefix(".lane.")?.split('.').skip(1);
    let (service, consumer, place) = (tokens.next()?, tokens.next()?, tokens.next()?);
    matches!(place, "due" | "hold").then(|| format!("{service}_{consumer}"))
}

/// A letter's id as a number: half the room.
fn letter_number(id: &str) -> Option<u128> {
    u128::from_str_radix(id, 16).ok().filter(|_| id.len() == 32)
}

/// Every outcome that was stored since must still be there. The broker takes away what is too old within seconds; a minute is
/// left to it.
pub(super) fn kept_since_ms(picture: &Picture) -> i64 {
    const LEFT: i64 = 60_000;
    let stream = picture.streams.iter().find(|facts| facts.name == OUTCOME_STREAM);
    let age_ms = stream.and_then(|facts| facts.max_age).map(|age| i64::try_from(age.as_millis()).unwrap_or(i64::MAX));
    age_ms.map_or(i64::MIN, |age_ms| picture.at_ms.saturating_sub(age_ms).saturating_add(LEFT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_older_than_its_stream_has_no_place_in_it() {
        let made = Made(BTreeMap::from([("a".into(), 100)]));
        let place = |stream, at_ms| made.place((stream, 5), at_ms).map(NonZeroU64::get);
        assert_eq!(place("a", 99), None);
        // The same millisecond, and a record of a service that states no time.
        assert_eq!((place("a", 100), place("a", 101), place("a", 0)), (Some(5), Some(5), Some(5)));
        // A stream that is not there was not made anew.
        assert_eq!(place("b", 1), Some(5));
        assert_eq!(made.place(("a", 0), 101), None, "no sequence");
    }

    #[test]
    fn a_lane_says_whose_it_is_held_or_due() {
        assert_eq!(lane_durable("mesh1.lane.eu.bank.shop-p.hold.mesh1-work-x-1").as_deref(), Some("bank_shop-p"));
        assert_eq!(lane_durable("mesh1.lane.eu.bank.shop-p.due.till").as_deref(), Some("bank_shop-p"));
        assert_eq!(lane_durable("mesh1.event.eu.bank.shop.Placed.1"), None);
        assert_eq!(lane_durable("mesh1.lane.eu.bank.shop-p.else.1"), None);
    }
}
