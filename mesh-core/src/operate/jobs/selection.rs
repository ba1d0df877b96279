//! Which letters a job is about, and what that would be now.

use std::collections::{BTreeMap, BTreeSet};

use mesh_proto::v1;

use super::{
    dispatch::read_letter,
    walk::{Candidate, candidate_now},
};
use crate::{
    bus::{Bus, Start},
    dead_letter::{Letter, LetterState},
    fault::{Code, Effect, Fault, Reason},
    operate::letters,
    subject::{DEAD_LETTER_STREAM, Name, WIRE},
};

/// With more ids the stream is read as a whole: the broker looks at each filter for each message.
const MAX_FILTERS: usize = 32;
/// Ids that one job may name: its record must fit into a message.
pub(super) const MAX_IDS: usize = 10_000;
/// Letters that a preview names.
const NAMED: usize = 10;

/// Which open letters are meant. The default: all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// Only these, by their whole ids. Empty: any.
    pub ids: BTreeSet<String>,
    /// Only these as well; neither its states nor its condition is asked.
    pub filter: letters::Selection,
}

impl Selection {
    /// Of these letters (none named: any) those that the filter means. A job is about open letters, and the condition is to
    /// be asked before, where the contracts are known.
    #[must_use]
    pub fn new(ids: BTreeSet<String>, filter: &letters::Selection) -> Selection {
        let filter = letters::Selection { states: Vec::new(), condition: None, ..filter.clone() };
        Selection { ids, filter }
    }

    pub(super) fn from_wire(wire: Option<&v1::LetterSelection>) -> Selection {
        let Some(wire) = wire else { return Selection::default() };
        let filter = if wire.filter.is_empty() { Ok(Default::default()) } else { serde_json::from_str(&wire.filter) };
        match filter {
            Ok(filter) => Selection { ids: wire.ids.iter().cloned().collect(), filter },
            // What can't be read here (a newer program's) admits nothing: an id that no letter has.
            Err(_) => Selection { ids: BTreeSet::from([String::new()]), filter: Default::default() },
        }
    }

    pub(super) fn to_wire(&self) -> v1::LetterSelection {
        let filter = if self.filter.is_everything() { None } else { serde_json::to_string(&self.filter).ok() };
        v1::LetterSelection { ids: self.ids.iter().cloned().collect(), filter: filter.unwrap_or_default() }
    }

    /// The subjects that its letters lie on, and perhaps others.
    pub(super) fn subjects(&self, region: &Name) -> Vec<String> {
        let token = |name: &Option<Name>| name.as_ref().map_or("*", Name::as_str).to_owned();
        let place = format!("{WIRE}.dead.{region}.{}.{}", token(&self.filter.service), token(&self.filter.consumer));
        if self.ids.is_empty() || self.ids.len() > MAX_FILTERS {
            return vec![format!("{place}.*")];
        }
        let are_tokens = |id: &&String| !id.is_empty() && id.bytes().all(|b| b.is_ascii_alphanumeric());
        let subjects: Vec<_> = self.ids.iter().filter(are_tokens).map(|id| format!("{place}.{id}")).collect();
        // No filter at all would be everything.
        if subjects.is_empty() { vec![format!("{place}.none")] } else { subjects }
    }

    /// Whether it is about this letter, whatever its state.
    #[must_use]
    pub fn admits(&self, letter: &v1::DeadLetter) -> bool {
        (self.ids.is_empty() || self.ids.contains(&letter.id)) && self.filter.admits(letter)
    }
}

/// What a selection holds now.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Preview {
    /// The last sequence of the dead-letter stream when it was looked at: what comes later is not meant.
    pub cut_off: u64,
    /// Open letters.
    pub letters: u64,
    /// How many of each consumer, `service/consumer`.
    pub consumers: BTreeMap<String, u64>,
    /// The first of them, in the order of the stream, as they stand.
    pub first: Vec<Letter>,
}

impl Preview {
    fn add(&mut self, letter: Letter) {
        self.letters += 1;
        let consumer = format!("{}/{}", letter.letter.service, letter.letter.consumer);
        *self.consumers.entry(consumer).or_default() += 1;
        if self.first.len() < NAMED {
            self.first.push(letter);
        }
    }
}

/// Looks at what `selection` holds, without changing anything.
///
/// # Errors
/// The bus can't be reached, or this identity may not read letters.
pub async fn preview(bus: &Bus, selection: &Selection) -> Result<Preview, Fault> {
    let state = bus.stream_state(DEAD_LETTER_STREAM).await?;
    let cut_off = state.map(|state| state.last_sequence).ok_or_else(no_stream)?;
    let mut preview = Preview { cut_off, ..Preview::default() };
    let subjects = selection.subjects(bus.gate().identity().region());
    let mut reading = bus.follow_from(DEAD_LETTER_STREAM, subjects, Start::NewestOfEach).await?;
    for _ in 0..reading.stored() {
        let envelope = reading.next().await?.open().envelope;
        match candidate_now(&envelope, cut_off) {
            Some(Candidate::Letter(letter)) if selection.admits(&letter.letter) => preview.add(*letter),
            Some(Candidate::LookUp { subject, .. }) => {
                let (then, _) = read_letter(bus, &subject, cut_off).await?;
                let meant = then.filter(|it| it.state == LetterState::Open && selection.admits(&it.letter));
                meant.into_iter().for_each(|letter| preview.add(letter));
            }
            _ => {}
        }
    }
    reading.close().await;
    Ok(preview)
}

fn no_stream() -> Fault {
    let message = "the bus has no stream of dead letters; make it: mesh apply --config FILE";
    Fault::new(Code::Unavailable, Effect::None, Reason::StreamMissing, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selection_travels_and_names_its_subjects() {
        let filter = letters::Selection { consumer: Some("charge".parse().unwrap()), ..Default::default() };
        let selection = Selection::new(BTreeSet::new(), &filter);
        assert_eq!(Selection::from_wire(Some(&selection.to_wire())), selection);
        let region: Name = "local".parse().unwrap();
        assert_eq!(selection.subjects(&region), ["mesh1.dead.local.*.charge.*"]);
        let selection = Selection { ids: BTreeSet::from(["ab".into(), "cd".into()]), ..Selection::default() };
        assert_eq!(selection.subjects(&region), ["mesh1.dead.local.*.*.ab", "mesh1.dead.local.*.*.cd"]);
        assert!(!selection.admits(&v1::DeadLetter { id: "ef".into(), ..Default::default() }));
    }

    #[test]
    fn a_selection_that_cant_be_read_selects_nothing() {
        let wire = v1::LetterSelection { filter: r#"{"colour":"red"}"#.into(), ..Default::default() };
        let selection = Selection::from_wire(Some(&wire));
        assert!(!selection.admits(&v1::DeadLetter::default()) || selection.ids.contains(""));
        assert!(!selection.admits(&v1::DeadLetter { id: "ab".into(), ..Default::default() }));
        assert_eq!(selection.subjects(&"local".parse().unwrap()), ["mesh1.dead.local.*.*.none"]);
    }
}
