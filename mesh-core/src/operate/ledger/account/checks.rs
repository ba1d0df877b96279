//! What must not be, whatever the sums say.

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroU128,
};

use super::{
    super::{
        finding::{Kind, Which},
        picture::{Copy, Letter, Seat, moment},
        ranges::Ranges,
    },
    Book,
};
use crate::{clock::rfc3339, dead_letter::LetterState, operate::topology::Topology};

/// Findings by place: sequences gathered until all is seen.
#[derive(Default)]
struct Gathered(BTreeMap<(Kind, Seat), Ranges>);

impl Gathered {
    fn add(&mut self, kind: Kind, seat: &Seat, sequence: u64) {
        self.0.entry((kind, seat.clone())).or_default().insert(sequence);
    }
}

impl Book<'_> {
    /// The copies on lanes.
    pub(super) fn lanes(&mut self) {
        let picture = self.picture;
        let mut gathered = Gathered::default();
        let late = moment(&rfc3339(picture.at_ms.saturating_sub(self.rules.grace_ms))).unwrap_or(0);
        // Letters that nobody replays and nobody ended, by their original.
        let mut letters: BTreeMap<&Seat, Ranges> = BTreeMap::new();
        for letter in picture.letters.values().filter(|letter| is_waiting(letter)) {
            if let Some(sequence) = letter.sequence {
                letters.entry(&letter.of).or_default().insert(sequence.get());
            }
        }
        let mut lying: Vec<(&Seat, u64, Option<NonZeroU128>)> = Vec::new();
        for copy in &picture.copies {
            let lane = &copy.lane;
            let delivered = self.delivered(&lane.stream, &lane.durable);
            if delivered.is_none() {
                gathered.add(Kind::LaneWithoutConsumer, lane, copy.at);
            }
            if copy.due.is_some_and(|due| due < late) {
                gathered.add(Kind::Overdue, lane, copy.at);
            }
            // One that is under way is being handed over: what it becomes may be there already.
            if copy.due.is_some() || delivered.is_none_or(|delivered| copy.at > delivered) {
                // What has no place among the originals is named by its own.
                let place = copy.sequence.map_or((lane, copy.at), |sequence| (&copy.of, sequence.get()));
                lying.extend(copy.sequence.map(|sequence| (&copy.of, sequence.get(), copy.letter)));
                let beside = copy.sequence.map_or_else(Vec::new, |at| self.contradictions(copy, at.get(), &letters));
                for kind in self.without_replay(copy).into_iter().chain(beside) {
                    gathered.add(kind, place.0, place.1);
                }
            }
        }
        lying.sort_unstable();
        for two in lying.windows(2) {
            if let [one, other] = two
                && one == other
            {
                gathered.add(Kind::TwoCopies, one.0, one.1);
            }
        }
        for ((kind, seat), sequences) in gathered.0 {
            self.find(kind, &seat, Which::Sequences(sequences));
        }
        for (lane, sequences) in &picture.strays {
            let seat = Seat::new(lane, "");
            self.find(Kind::Stray, &seat, Which::Sequences(sequences.clone()));
        }
    }

    /// A copy that lies still is of a replay that is none.
    fn without_replay(&self, copy: &Copy) -> Option<Kind> {
        let letter = self.picture.letters.get(&copy.letter?.get());
        let is_replayed = letter.is_some_and(|letter| letter.state == LetterState::Replaying);
        (!is_replayed).then_some(Kind::CopyWithoutReplay)
    }

    /// What a copy that lies still must not be beside, by the sequence of its original.
    fn contradictions(&self, copy: &Copy, sequence: u64, letters: &BTreeMap<&Seat, Ranges>) -> Vec<Kind> {
        let mut kinds = Vec::new();
        let is_waiting = self.delivered(&copy.of.stream, &copy.of.durable).is_some_and(|to| sequence > to);
        if is_waiting && self.present.get(&*copy.of.stream).is_some_and(|present| present.contains(sequence)) {
            kinds.push(Kind::CopyOfWaiting);
        }
        if copy.letter.is_none() {
            if letters.get(&copy.of).is_some_and(|waiting| waiting.contains(sequence)) {
                kinds.push(Kind::CopyAndLetter);
            }
            if self.picture.outcomes.get(&copy.of).is_some_and(|outcomes| outcomes.done.contains(sequence)) {
                kinds.push(Kind::CopyOfDone);
            }
        }
        kinds
    }

    /// The letters.
    pub(super) fn letters(&mut self) {
        let picture = self.picture;
        self.letters_of_older_streams();
        let mut replays: Vec<u128> =
            picture.copies.iter().filter_map(|copy| copy.letter).map(NonZeroU128::get).collect();
        replays.sort_unstable();
        let durables: BTreeSet<&str> = picture.consumers.iter().map(|consumer| consumer.durable.as_str()).collect();
        let mut found: BTreeMap<(Kind, &Seat), BTreeSet<u128>> = BTreeMap::new();
        for (id, letter) in picture.letters.iter().filter(|(_, letter)| !letter.state.is_ended()) {
            let mut add = |kind| found.entry((kind, &letter.of)).or_default().insert(*id);
            if !durables.contains(&*letter.of.durable) {
                add(Kind::LetterWithoutConsumer);
            }
            let is_late = letter.changed_at_ms < picture.at_ms.saturating_sub(self.rules.grace_ms);
            if letter.state == LetterState::Replaying && is_late && replays.binary_search(id).is_err() {
                add(Kind::ReplayWithoutCopy);
            }
            let outcomes = picture.outcomes.get(&letter.of).zip(letter.sequence);
            if is_waiting(letter) && outcomes.is_some_and(|(outcomes, at)| outcomes.done.contains(at.get())) {
                add(Kind::LetterOfDone);
            }
        }
        for ((kind, seat), letters) in found {
            self.find(kind, seat, Which::Letters(letters));
        }
    }

    /// Says how many letters stand in no line: a person may look for them there.
    fn letters_of_older_streams(&mut self) {
        let mut older: BTreeMap<&str, u64> = BTreeMap::new();
        for letter in self.picture.letters.values() {
            if letter.sequence.is_none() && !letter.state.is_ended() {
                *older.entry(&letter.of.stream).or_default() += 1;
            }
        }
        for (stream, count) in older {
            let why = "letters of what was stored before this stream was made (anew); they stand in none of its lines";
            self.account.remarks.push(format!("{stream}: {count}: {why}"));
        }
    }

    /// What the broker gave up must have become something else.
    pub(super) fn given_up(&mut self) {
        let picture = self.picture;
        let mut known: BTreeMap<&Seat, Ranges> = BTreeMap::new();
        let copies = picture.copies.iter().filter_map(|copy| Some((&copy.of, copy.sequence?.get())));
        let letters = picture.letters.values().filter_map(|letter| Some((&letter.of, letter.sequence?.get())));
        // Of who gave nothing up nothing is asked.
        for (seat, sequence) in copies.chain(letters).filter(|(seat, _)| picture.given_up.contains_key(*seat)) {
            known.entry(seat).or_default().insert(sequence);
        }
        for (seat, given_up) in &picture.given_up {
            // What is not in the stream any more is a matter of its line.
            let mut left = given_up.within(&self.present(&seat.stream));
            let done = picture.outcomes.get(seat).map(|outcomes| &outcomes.done);
            for known in known.get(seat).into_iter().chain(done) {
                left = left.without(known);
            }
            self.find(Kind::GivenUp, seat, Which::Sequences(left));
        }
    }

    /// Streams and consumers themselves.
    pub(super) fn places(&mut self, topology: Option<&Topology>) {
        let picture = self.picture;
        let seat = Seat::new;
        for facts in &picture.streams {
            let share = |of: u64, max: Option<u64>| max.map_or(0, |max| of.saturating_mul(100) / max.max(1));
            let percent = share(facts.bytes, facts.max_bytes).max(share(facts.messages, facts.max_messages));
            if percent >= self.rules.full_percent {
                self.find(Kind::Full, &seat(&facts.name, ""), Which::Count(percent));
            }
        }
        for consumer in picture.consumers.iter().filter(|consumer| consumer.paused) {
            self.find(Kind::Paused, &seat(&consumer.stream, &consumer.durable), Which::Count(1));
        }
        let Some(topology) = topology else { return };
        for spec in &topology.streams {
            if !picture.streams.iter().any(|facts| facts.name == spec.name) {
                self.find(Kind::StreamMissing, &seat(&spec.name, ""), Which::Count(1));
            }
        }
        for spec in &topology.consumers {
            if self.delivered(&spec.stream, &spec.durable).is_none() {
                self.find(Kind::ConsumerMissing, &seat(&spec.stream, &spec.durable), Which::Count(1));
            }
        }
    }
}

/// Whether a letter waits for a person.
fn is_waiting(letter: &Letter) -> bool {
    matches!(letter.state, LetterState::Open | LetterState::Held)
}
