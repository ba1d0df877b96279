//! From the records of the dead-letter stream to letters with a state: pure.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use mesh_proto::v1::{self, letter_record::Record};

use super::{
    life::{ActKind, LetterState},
    record::record_of,
};
use crate::{envelope::Envelope, subject::Place};

/// What somebody did to a letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Act {
    /// What.
    pub kind: ActKind,
    /// Of which generation.
    pub generation: u32,
    /// When, Unix milliseconds.
    pub at_ms: i64,
    /// Who: an operator or a service.
    pub by: String,
    /// Why; the fault's one line for a capture.
    pub why: String,
    /// The replay job that it belongs to; empty where there is none.
    pub job: String,
    /// The payload from then on: of captures and of edits. Empty where it lies apart and was not brought.
    pub payload: Option<Bytes>,
    /// Where it lies, if it lies apart.
    pub claim: Option<v1::Claim>,
}

/// A letter as its records tell it.
#[derive(Debug, Clone, PartialEq)]
pub struct Letter {
    /// The newest capture.
    pub letter: v1::DeadLetter,
    /// Where it stands.
    pub state: LetterState,
    /// What was done to it, in order.
    pub history: Vec<Act>,
    /// The sequence of its last record: the next one is written only after this one.
    pub last_sequence: u64,
    /// The region of its subject.
    pub region: String,
}

/// What was mended in a letter since it failed last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mended<'l> {
    /// The payload that failed; empty where it lies apart and was not brought.
    pub failed: &'l Bytes,
    /// The last edit since then.
    pub last: &'l Act,
}

/// A letter's id and whose it is: `region.service.consumer`. What stands under one consumer's subject says nothing of another's
/// letter, also where it has the same id.
pub type LetterKey = (String, String);

/// All letters that were read so far.
#[derive(Debug, Default)]
pub struct Letters {
    letters: BTreeMap<LetterKey, Letter>,
    /// Those whose newest record can't be read here, or of which none can that captures them.
    unread: BTreeSet<LetterKey>,
}

impl Letters {
    /// Takes the next record of the stream. What is no record, or does not follow from the state, changes nothing.
    pub fn apply(&mut self, envelope: &Envelope) {
        let Some(delivery) = &envelope.delivery else { return };
        let Some(Place::DeadLetter { region, service, consumer, letter }) = Place::parse(&envelope.subject) else {
            return;
        };
        let key = (letter.to_owned(), [region, service, consumer].join("."));
        let Some(record) = record_of(envelope) else {
            tracing::warn!(
                subject = envelope.subject,
                "a record among the letters can't be read, or is another letter's"
            );
            self.unread.insert(key);
            return;
        };
        self.apply_record(&key, region, delivery.sequence, record);
        // What can be read of a letter whose capture can't says nothing of how it stands.
        if self.letters.contains_key(&key) {
            self.unread.remove(&key);
        }
    }

    /// Takes the next record of a letter. Whether it followed from the state.
    pub(crate) fn follow(&mut self, id: &str, region: &str, sequence: u64, record: v1::LetterRecord) -> bool {
        let Some(record) = record.record else { return false };
        let key = (id.to_owned(), region.to_owned());
        let length = |letters: &Letters| letters.letters.get(&key).map_or(0, |letter| letter.history.len());
        let before = length(self);
        self.apply_record(&key, region, sequence, record);
        length(self) > before
    }

    fn apply_record(&mut self, key: &LetterKey, region: &str, sequence: u64, record: Record) {
        match (record, self.letters.get_mut(key)) {
            (Record::Captured(captured), None) => {
                let act = capture_act(&captured);
                let letter = Letter {
                    letter: captured,
                    state: LetterState::Open,
                    history: vec![act],
                    last_sequence: sequence,
                    region: region.to_owned(),
                };
                self.letters.insert(key.clone(), letter);
            }
            (record, Some(letter)) => {
                letter.last_sequence = sequence;
                letter.follow(record);
            }
            (_, None) => {}
        }
    }

    /// The letters, by id.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Letter)> {
        self.letters.iter().map(|((id, _), letter)| (id.as_str(), letter))
    }

    /// The ids of the letters whose newest record, or whose capture, this version can't read: how they stand is not known.
    pub fn unread(&self) -> impl Iterator<Item = &str> {
        self.unread.iter().map(|(id, _)| id.as_str())
    }

    /// The letters, by id and whose they are.
    #[must_use]
    pub fn into_map(self) -> BTreeMap<LetterKey, Letter> {
        self.letters
    }
}

impl Letter {
    /// What would be sent, told against what failed last. `None`: the same bytes would go, also where an edit was taken back.
    #[must_use]
    pub fn mended(&self) -> Option<Mended<'_>> {
        let captured = self.history.iter().rposition(|act| act.kind == ActKind::Captured)?;
        let since = self.history.get(captured..)?;
        let failed = since.first()?;
        let last = since.iter().rfind(|act| act.kind == ActKind::Edited)?;
        let payload = failed.payload.as_ref()?;
        // What lies apart is told apart by its claim, whether it was brought or not.
        let is_same = (payload, &failed.claim) == (&self.letter.payload, &self.letter.claim);
        (!is_same).then_some(Mended { failed: payload, last })
    }

    fn follow(&mut self, record: Record) {
        let Some(state) = self.state.after(kind(&record)) else { return };
        match record {
            Record::Captured(captured) if captured.generation > self.letter.generation => {
                self.history.push(capture_act(&captured));
                self.letter = captured;
                self.state = state;
            }
            // A repeat of what is known already.
            Record::Captured(_) => {}
            Record::Replaying(act) => self.enter(state, ActKind::Replayed, act),
            Record::Resolved(act) => self.enter(state, ActKind::Resolved, act),
            Record::Discarded(act) => self.enter(state, ActKind::Discarded, act),
            Record::Held(act) => self.enter(state, ActKind::Held, act),
            Record::Released(act) => self.enter(state, ActKind::Released, act),
            Record::Edited(edit) => {
                self.enter(state, ActKind::Edited, edit.act.unwrap_or_default());
                if let Some(act) = self.history.last_mut() {
                    act.payload = Some(edit.payload.clone());
                    act.claim.clone_from(&edit.claim);
                }
                self.letter.payload = edit.payload;
                self.letter.claim = edit.claim;
            }
        }
    }

    fn enter(&mut self, state: LetterState, kind: ActKind, act: v1::LetterAct) {
        self.state = state;
        let v1::LetterAct { generation, at_ms, by, why, job } = act;
        self.history.push(Act { kind, generation, at_ms, by, why, job, payload: None, claim: None });
    }
}

/// What a record does.
#[must_use]
pub fn kind(record: &Record) -> ActKind {
    match record {
        Record::Captured(_) => ActKind::Captured,
        Record::Replaying(_) => ActKind::Replayed,
        Record::Resolved(_) => ActKind::Resolved,
        Record::Discarded(_) => ActKind::Discarded,
        Record::Held(_) => ActKind::Held,
        Record::Released(_) => ActKind::Released,
        Record::Edited(_) => ActKind::Edited,
    }
}

fn capture_act(captured: &v1::DeadLetter) -> Act {
    let fault = captured.fault.as_ref();
    Act {
        kind: ActKind::Captured,
        generation: captured.generation,
        at_ms: captured.captured_at_ms,
        by: captured.service.clone(),
        why: fault.map(|f| format!("{} {}", f.reason, f.message)).unwrap_or_default(),
        job: String::new(),
        payload: Some(captured.payload.clone()),
        claim: captured.claim.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::envelope::{Delivery, Note};
    use proptest::prelude::*;
    use prost::Message as _;

    fn captured(generation: u32) -> Record {
        Record::Captured(v1::DeadLetter { generation, ..Default::default() })
    }

    fn act(generation: u32) -> v1::LetterAct {
        v1::LetterAct { generation, ..Default::default() }
    }

    fn key() -> LetterKey {
        ("id".to_owned(), "local.bank.work".to_owned())
    }

    fn fold(records: impl IntoIterator<Item = Record>) -> Option<Letter> {
        let mut letters = Letters::default();
        for (sequence, record) in (1..).zip(records) {
            letters.apply_record(&key(), "local", sequence, record);
        }
        letters.into_map().remove(&key())
    }

    #[test]
    fn what_fails_again_is_a_new_generation_of_the_same_letter() {
        let letter = fold([captured(0), Record::Replaying(act(1)), captured(1)]).unwrap();
        assert_eq!((letter.state, letter.letter.generation, letter.last_sequence), (LetterState::Open, 1, 3));
        assert_eq!(letter.history.len(), 3);
    }

    fn written(subject: &str, sequence: u64, record: Record) -> Envelope {
        Envelope {
            subject: subject.to_owned(),
            message_id: String::new(),
            caller: String::new(),
            trace: None,
            note: Note::default(),
            headers: Vec::new(),
            order: None,
            payload: v1::LetterRecord { record: Some(record) }.encode_to_vec().into(),
            delivery: Some(Delivery {
                stream: "s".into(),
                sequence,
                deliveries: 1,
                consumer_sequence: 0,
                stored_at_ms: 0,
            }),
        }
    }

    #[test]
    fn what_one_consumers_subject_holds_says_nothing_of_anothers_letter() {
        let its = |service: &str| {
            let (id, service, consumer) = ("0af".into(), service.into(), "work".into());
            Record::Captured(v1::DeadLetter { id, service, consumer, ..Default::default() })
        };
        let edit = Record::Edited(v1::LetterEdit { payload: vec![6].into(), ..Default::default() });
        let mut letters = Letters::default();
        for (sequence, (service, record)) in (1..).zip([
            ("mail", its("bank")),
            ("bank", its("bank")),
            ("mail", edit),
            ("mail", Record::Replaying(act(1))),
            ("mail", Record::Discarded(act(1))),
        ]) {
            letters.apply(&written(&format!("mesh1.dead.local.{service}.work.0af"), sequence, record));
        }
        assert_eq!(letters.unread().collect::<Vec<_>>(), ["0af"], "the forged one, whatever followed");
        let letters: Vec<_> = letters.into_map().into_values().collect();
        let [letter] = letters.as_slice() else { panic!("{letters:?}") };
        assert_eq!((letter.state, letter.last_sequence, letter.letter.payload.len()), (LetterState::Open, 2, 0));
    }

    #[test]
    fn a_handled_replay_ends_the_letter() {
        let letter = fold([captured(0), Record::Replaying(act(1)), Record::Resolved(act(1))]).unwrap();
        assert_eq!(letter.state, LetterState::Resolved);
        assert!(letter.state.is_ended());
    }

    #[test]
    fn a_held_letter_is_neither_replayed_nor_lost_and_an_edit_keeps_its_state() {
        let edit = Record::Edited(v1::LetterEdit { act: Some(act(0)), payload: vec![7].into(), ..Default::default() });
        let letter = fold([captured(0), Record::Held(act(0)), Record::Replaying(act(1)), edit]).unwrap();
        assert_eq!((letter.state, letter.letter.payload.as_ref()), (LetterState::Held, [7].as_slice()));
        let letter = fold([captured(0), Record::Held(act(0)), Record::Released(act(0)), Record::Replaying(act(1))]);
        assert_eq!(letter.unwrap().state, LetterState::Replaying);
    }

    #[test]
    fn what_is_mended_is_told_against_what_failed_last() {
        let captured = |generation, byte: u8| {
            Record::Captured(v1::DeadLetter { generation, payload: vec![byte].into(), ..Default::default() })
        };
        let edited =
            |byte: u8| Record::Edited(v1::LetterEdit { act: Some(act(0)), payload: vec![byte].into(), claim: None });
        let failed = |letter: &Letter| letter.mended().map(|mended| mended.failed[0]);
        let mut records = vec![captured(0, 1)];
        for (next, expected) in [
            (edited(2), Some(1)),
            (edited(1), None),
            (edited(3), Some(1)),
            (Record::Replaying(act(1)), Some(1)),
            (captured(1, 3), None),
            (edited(4), Some(3)),
        ] {
            records.push(next);
            assert_eq!(failed(&fold(records.clone()).unwrap()), expected, "{}", records.len());
        }
    }

    #[test]
    fn what_lies_apart_is_mended_when_another_place_is_claimed() {
        let claim = |hash: &str| Some(v1::Claim { sha256: hash.into(), ..Default::default() });
        let edited =
            |hash| Record::Edited(v1::LetterEdit { act: Some(act(0)), payload: Bytes::new(), claim: claim(hash) });
        let first = Record::Captured(v1::DeadLetter { claim: claim("a"), ..Default::default() });
        let mended = |records: &[Record]| fold(records.iter().cloned()).unwrap().mended().is_some();
        assert!(!mended(std::slice::from_ref(&first)));
        assert!(mended(&[first.clone(), edited("b")]));
        assert!(!mended(&[first, edited("b"), edited("a")]), "taken back");
    }

    fn record() -> impl Strategy<Value = Record> {
        prop_oneof![
            (0u32..4).prop_map(captured),
            (0u32..4).prop_map(|g| Record::Replaying(act(g))),
            (0u32..4).prop_map(|g| Record::Resolved(act(g))),
            (0u32..4).prop_map(|g| Record::Discarded(act(g))),
            (0u32..4).prop_map(|g| Record::Held(act(g))),
            (0u32..4).prop_map(|g| Record::Released(act(g))),
            (0u32..4).prop_map(|g| Record::Edited(v1::LetterEdit {
                act: Some(act(g)),
                payload: vec![1].into(),
                ..Default::default()
            })),
        ]
    }

    proptest! {
        /// Whatever is written, an ended letter stays ended, generations only rise, and history only grows.
        #[test]
        fn no_order_of_records_brings_a_letter_back(records in proptest::collection::vec(record(), 0..12)) {
            let mut letters = Letters::default();
            let mut before: Option<Letter> = None;
            for (sequence, record) in (1..).zip(records) {
                letters.apply_record(&key(), "local", sequence, record);
                let now = letters.letters.get(&key()).cloned();
                if let (Some(before), Some(now)) = (&before, &now) {
                    prop_assert!(!before.state.is_ended() || now.state == before.state);
                    prop_assert!(now.letter.generation >= before.letter.generation);
                    prop_assert!(now.history.starts_with(&before.history));
                }
                before = now;
            }
        }
    }
}
