//! What became of a job's letters, read from the letters' own histories: pure.
//!
//! An order of the job in a letter's history is a letter that was dispatched; the next record there says how it ended. Both
//! are written by compare-and-set, each once. So the account is right whoever counts, and however often.

use std::collections::{BTreeMap, HashSet};

use aws_lc_rs::digest;
use mesh_proto::v1::{LetterRecord, letter_record::Record};

use crate::{policy::replay::Counts, subject::Place};

/// A letter's place in 16 bytes: many are kept. Not as a number: beside one, most of what is kept of a letter would be empty.
///
/// It is of the whole subject, not of the id in it: what a service writes under its own name says nothing of another's letter,
/// whatever id it writes there. So it is a cryptographic hash, for which no second subject can be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Key([u8; 16]);

impl Key {
    /// `None`: it is no letter's subject.
    pub(super) fn of(subject: &str) -> Option<Key> {
        let Some(Place::DeadLetter { letter: id, .. }) = Place::parse(subject) else { return None };
        let is_id = id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit());
        let hash = is_id.then(|| digest::digest(&digest::SHA256, subject.as_bytes()))?;
        hash.as_ref().first_chunk().copied().map(Key)
    }
}

/// An order: the generation that was ordered and its sequence while it has not ended. Not as numbers, as with a key: beside those, a
/// third of it would be empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sent {
    UnderWay([u8; 4], [u8; 8]),
    Resolved,
    Failed,
}

impl Sent {
    fn new(generation: u32, ordered_at: u64) -> Sent {
        Sent::UnderWay(generation.to_be_bytes(), ordered_at.to_be_bytes())
    }

    /// Its generation and its sequence, if it has not ended.
    fn under_way(self) -> Option<(u32, u64)> {
        match self {
            Sent::UnderWay(generation, at) => Some((u32::from_be_bytes(generation), u64::from_be_bytes(at))),
            Sent::Resolved | Sent::Failed => None,
        }
    }
}

/// The account of one job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Progress {
    job: String,
    /// Letters that it ordered, ever. A tree: a hash map keeps room for up to as many again, and for all of them twice while it
    /// grows.
    ours: BTreeMap<Key, Sent>,
    resolved: u64,
    failed: u64,
    /// Orders whose copy is not known to be on the lane: by their sequence the subject of the letter.
    uncopied: BTreeMap<u64, String>,
    /// Copies that are on the lane while the order has not been read yet.
    copied_ahead: HashSet<u64>,
    /// The last sequence that was read.
    read_to: u64,
}

impl Progress {
    /// Of a job whose letters were captured at `cut_off` at the latest: all of its orders come after it.
    pub(super) fn new(job: &str, cut_off: u64) -> Progress {
        Progress {
            job: job.to_owned(),
            ours: BTreeMap::new(),
            resolved: 0,
            failed: 0,
            uncopied: BTreeMap::new(),
            copied_ahead: HashSet::new(),
            read_to: cut_off,
        }
    }

    /// Takes the next record of the dead-letter stream, from its place there: sequence and subject. One that was read before
    /// changes nothing. Says whether it was an order of this job.
    pub(super) fn apply(&mut self, letter: Key, place: (u64, &str), record: &LetterRecord) -> bool {
        let (sequence, subject) = place;
        if sequence <= self.read_to {
            return false;
        }
        self.read_to = sequence;
        match &record.record {
            Some(Record::Replaying(act)) if act.job == self.job && !self.is_ours(letter) => {
                self.ours.insert(letter, Sent::new(act.generation, sequence));
                if !self.copied_ahead.remove(&sequence) {
                    self.uncopied.insert(sequence, subject.to_owned());
                }
                return true;
            }
            Some(Record::Resolved(act)) if self.end(letter, act.generation, Sent::Resolved) => self.resolved += 1,
            Some(Record::Captured(captured)) if self.end(letter, captured.generation, Sent::Failed) => self.failed += 1,
            _ => {}
        }
        false
    }

    fn end(&mut self, letter: Key, generation: u32, ended: Sent) -> bool {
        let Some(sent) = self.ours.get_mut(&letter) else { return false };
        let of_it = sent.under_way().filter(|(of, _)| *of == generation);
        let Some((_, ordered_at)) = of_it else { return false };
        *sent = ended;
        // Whatever ended had its copy.
        self.uncopied.remove(&ordered_at);
        true
    }

    /// What was read as an order of this job is none.
    pub(super) fn disown(&mut self, letter: Key) {
        match self.ours.remove(&letter) {
            Some(Sent::UnderWay(_, at)) => drop(self.uncopied.remove(&u64::from_be_bytes(at))),
            Some(Sent::Resolved) => self.resolved -= 1,
            Some(Sent::Failed) => self.failed -= 1,
            None => {}
        }
    }

    /// The copy of the letter that was ordered at `sequence` is on the lane.
    pub(super) fn copied(&mut self, sequence: u64) {
        if sequence > self.read_to {
            self.copied_ahead.insert(sequence);
        } else {
            self.uncopied.remove(&sequence);
        }
    }

    /// Orders after `sequence` whose copy is not known to be on the lane.
    pub(super) fn uncopied_after(&self, sequence: u64) -> Vec<(u64, String)> {
        self.uncopied.range(sequence.saturating_add(1)..).map(|(at, subject)| (*at, subject.clone())).collect()
    }

    /// The order of a letter whose copy is not known to be on the lane: its sequence and the letter's subject.
    pub(super) fn uncopied(&self, letter: Key) -> Option<(u64, String)> {
        let (_, at) = self.ours.get(&letter)?.under_way()?;
        self.uncopied.get(&at).map(|subject| (at, subject.clone()))
    }

    /// What a checkpoint of an earlier runner says: those copies are on the lane.
    pub(super) fn trust(&mut self, copied_through: u64) {
        self.uncopied = self.uncopied.split_off(&copied_through.saturating_add(1));
    }

    /// Every order of this job up to here has its copy on the lane.
    pub(super) fn copied_through(&self) -> u64 {
        self.uncopied.keys().next().map_or(self.read_to, |first| first - 1)
    }

    /// The last sequence that was read.
    pub(super) fn read_to(&self) -> u64 {
        self.read_to
    }

    /// Whether this job ordered the letter.
    pub(super) fn is_ours(&self, letter: Key) -> bool {
        self.ours.contains_key(&letter)
    }

    /// What became of them. What was not sent is not known here.
    pub(super) fn counts(&self) -> Counts {
        Counts { dispatched: self.ours.len() as u64, resolved: self.resolved, failed: self.failed, ..Counts::default() }
    }
}

#[cfg(test)]
mod tests {
    use mesh_proto::v1::{DeadLetter, LetterAct};
    use proptest::{collection::vec, prelude::*};

    use super::*;

    fn key(id: u128) -> Key {
        Key(id.to_be_bytes())
    }

    fn record(record: Record) -> LetterRecord {
        LetterRecord { record: Some(record) }
    }

    fn order(job: &str, generation: u32) -> LetterRecord {
        record(Record::Replaying(LetterAct { generation, job: job.into(), ..Default::default() }))
    }

    fn resolved(generation: u32) -> LetterRecord {
        record(Record::Resolved(LetterAct { generation, ..Default::default() }))
    }

    fn captured(generation: u32) -> LetterRecord {
        record(Record::Captured(DeadLetter { generation, ..Default::default() }))
    }

    fn numbers(progress: &Progress) -> (u64, u64, u64) {
        let counts = progress.counts();
        (counts.dispatched, counts.resolved, counts.failed)
    }

    #[test]
    fn a_letter_is_told_by_its_place_and_not_by_its_id() {
        let id = "a".repeat(32);
        let of = |place: &str| Key::of(&format!("mesh1.dead.{place}.{id}"));
        assert!(of("local.a.work").is_some() && of("local.a.work") == of("local.a.work"));
        for other in ["local.b.work", "local.a.other", "eu.a.work"] {
            assert!(of(other).is_some() && of(other) != of("local.a.work"), "{other}");
        }
        for none in [id.clone(), format!("mesh1.lane.local.a.work.{id}"), "mesh1.dead.local.a.work.0af".to_owned()] {
            assert_eq!(Key::of(&none), None, "{none}");
        }
    }

    #[test]
    fn only_ours_is_counted_and_each_end_once() {
        let mut progress = Progress::new("j", 10);
        assert!(!progress.apply(key(1), (10, ""), &order("j", 1)), "before the cut-off");
        assert!(progress.apply(key(1), (11, ""), &order("j", 1)));
        assert!(!progress.apply(key(2), (12, ""), &order("other", 1)));
        progress.apply(key(2), (13, ""), &resolved(1));
        progress.apply(key(3), (14, ""), &captured(0));
        assert_eq!(numbers(&progress), (1, 0, 0));
        progress.apply(key(1), (15, ""), &captured(1));
        progress.apply(key(1), (15, ""), &captured(1));
        assert_eq!(numbers(&progress), (1, 0, 1));
        // Somebody else replays what failed here: not ours any more.
        progress.apply(key(1), (16, ""), &order("", 2));
        progress.apply(key(1), (17, ""), &resolved(2));
        assert_eq!((numbers(&progress), progress.counts().in_flight()), ((1, 0, 1), 0));
    }

    #[test]
    fn what_is_disowned_counts_nowhere_however_it_ended() {
        for end in [None, Some(resolved(1)), Some(captured(1))] {
            let mut progress = Progress::new("j", 10);
            progress.apply(key(1), (11, ""), &order("j", 1));
            progress.apply(key(2), (12, ""), &order("j", 1));
            if let Some(end) = &end {
                progress.apply(key(1), (13, ""), end);
            }
            progress.disown(key(1));
            assert_eq!((numbers(&progress), progress.is_ours(key(1))), ((1, 0, 0), false));
            assert_eq!(progress.uncopied_after(0).len(), 1);
        }
    }

    #[test]
    fn copies_are_known_whichever_is_heard_first() {
        let mut progress = Progress::new("j", 0);
        progress.copied(2);
        for at in 1..=3 {
            progress.apply(key(at.into()), (at, ""), &order("j", 1));
        }
        assert_eq!((progress.copied_through(), progress.uncopied_after(0).len()), (0, 2));
        progress.copied(1);
        assert_eq!(progress.copied_through(), 2);
        progress.apply(key(3), (4, ""), &resolved(1));
        assert!(progress.uncopied_after(0).is_empty(), "what ended had its copy");
        assert_eq!(progress.copied_through(), 4);
    }

    proptest! {
        /// Read once or in two goes with a repetition between, from wherever: the same account.
        #[test]
        fn a_second_reading_is_the_same(acts in vec((0u128..4, 0u8..4, 1u32..3), 0..30), cut in 0usize..30) {
            let records: Vec<_> = (1u64..).zip(acts).map(|(at, (letter, kind, generation))| {
                let record = match kind {
                    0 => order("j", generation),
                    1 => order("k", generation),
                    2 => resolved(generation),
                    _ => captured(generation),
                };
                (key(letter), at, record)
            }).collect();
            let mut once = Progress::new("j", 0);
            records.iter().for_each(|(key, at, record)| { once.apply(*key, (*at, ""), record); });
            let mut twice = Progress::new("j", 0);
            let cut = cut.min(records.len());
            let again = records[..cut].iter().chain(&records);
            again.for_each(|(key, at, record)| { twice.apply(*key, (*at, ""), record); });
            prop_assert_eq!(&once, &twice);
            prop_assert_eq!(once.counts().in_flight(), once.ours.values().filter(|sent| sent.under_way().is_some()).count() as u64);
        }
    }
}
