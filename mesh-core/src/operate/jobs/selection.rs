//! Which letters a job is about, and what that would be now.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use futures_util::{StreamExt as _, stream::FuturesOrdered};
use mesh_proto::v1;
use tokio::time::Instant;

use super::{
    dispatch::read_letter,
    walk::{Candidate, Newest, candidate_now},
};
use crate::{
    bus::Bus,
    clock::patient_delays,
    dead_letter::{Letter, LetterState},
    fault::{Code, Effect, Fault, Reason},
    operate::letters,
    subject::{DEAD_LETTER_STREAM, Name, WIRE},
};

/// With more ids the stream is read as a whole: the broker looks at each filter for each message.
const MAX_FILTERS: usize = 32;
/// Ids that one job may name: its record must fit into a message.
pub const MAX_IDS: usize = 10_000;
/// How long a server may take to catch up with the others, before a person is told.
const CATCHES_UP: Duration = Duration::from_secs(10);
/// Letters that are looked at at once.
const LOOKED_AT: usize = 64;
/// Letters that a preview names: of all, and of those that were mended.
const NAMED: usize = 10;

/// Which open letters are meant. The default: all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// Only these, by their whole ids. Empty: any.
    pub ids: BTreeSet<String>,
    /// Only these as well; its condition is not asked.
    pub filter: letters::Selection,
}

impl Selection {
    /// Of these letters (none named: any) those that the filter means. A job is about open letters: of a filter that means
    /// other states alone it holds none. The condition is to be asked before, where the contracts are known.
    #[must_use]
    pub fn new(ids: BTreeSet<String>, filter: &letters::Selection) -> Selection {
        let mut filter = letters::Selection { condition: None, ..filter.clone() };
        if filter.states.contains(&LetterState::Open) {
            filter.states.clear();
        }
        Selection { ids, filter }
    }

    pub(super) fn from_wire(wire: Option<&v1::LetterSelection>) -> Selection {
        // What is not said or can't be read here (a newer program's) means nothing, not everything.
        let Some(wire) = wire else { return Selection::nothing() };
        let filter = if wire.filter.is_empty() { Ok(Default::default()) } else { serde_json::from_str(&wire.filter) };
        match filter {
            Ok(letters::Selection { condition: Some(_), .. }) | Err(_) => Selection::nothing(),
            Ok(filter) => Selection { ids: wire.ids.iter().cloned().collect(), filter },
        }
    }

    /// Admits no letter: an id that none has.
    #[must_use]
    pub fn nothing() -> Selection {
        Selection { ids: BTreeSet::from([String::new()]), filter: letters::Selection::default() }
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

    /// Whether it is about the letter on one of its subjects, while that is open. `None`: only the letter says.
    pub(super) fn admits_subject(&self, subject: &str) -> Option<bool> {
        let filter = letters::Selection { service: None, consumer: None, ..self.filter.clone() };
        let id = subject.rsplit('.').next().unwrap_or_default();
        let is_named = self.ids.is_empty() || self.ids.contains(id);
        if is_named && !filter.is_everything() { None } else { Some(is_named) }
    }

    /// Whether it is about this letter, while that is open. One that holds no message can't be sent.
    #[must_use]
    pub fn admits(&self, letter: &v1::DeadLetter) -> bool {
        let holds_a_message = letter.source.as_ref().is_some_and(|source| !source.subject.is_empty());
        holds_a_message && (self.ids.is_empty() || self.ids.contains(&letter.id)) && self.filter.admits(letter)
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
    /// How many of them would go with another payload than failed.
    pub mended: u64,
    /// The first of these.
    pub first_mended: Vec<Letter>,
}

impl Preview {
    fn add(&mut self, letter: Letter) {
        self.letters += 1;
        let consumer = format!("{}/{}", letter.letter.service, letter.letter.consumer);
        *self.consumers.entry(consumer).or_default() += 1;
        if letter.mended().is_some() {
            self.mended += 1;
            if self.first_mended.len() < NAMED {
                self.first_mended.push(letter.clone());
            }
        }
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
    let mut delays = patient_delays();
    let until = Instant::now() + CATCHES_UP;
    loop {
        match preview_once(bus, selection, cut_off).await {
            Err(fault) if fault.reason() == Reason::BusUnavailable && Instant::now() < until => {
                tracing::debug!(%fault, "the letters are looked at again");
            }
            previewed => return previewed,
        }
        tokio::time::sleep(delays.next().unwrap_or_default()).await;
    }
}

async fn preview_once(bus: &Bus, selection: &Selection, cut_off: u64) -> Result<Preview, Fault> {
    let mut preview = Preview { cut_off, ..Preview::default() };
    let mut newest = Newest::of(bus, (selection, cut_off)).await?;
    // In the order of the stream, however long each is looked at.
    let mut looked_at = FuturesOrdered::new();
    let is_meant = |it: &Letter| it.state == LetterState::Open && selection.admits(&it.letter);
    while let Some(envelope) = newest.next().await? {
        let Some(candidate) = candidate_now(&envelope, cut_off) else { continue };
        looked_at.push_back(as_of(bus, candidate, cut_off));
        if looked_at.len() >= LOOKED_AT
            && let Some(then) = looked_at.next().await
        {
            then?.filter(is_meant).into_iter().for_each(|letter| preview.add(letter));
        }
    }
    while let Some(then) = looked_at.next().await {
        then?.filter(is_meant).into_iter().for_each(|letter| preview.add(letter));
    }
    newest.following.close().await;
    Ok(preview)
}

/// A candidate as it stood at the cut-off.
async fn as_of(bus: &Bus, candidate: Candidate, cut_off: u64) -> Result<Option<Letter>, Fault> {
    match candidate {
        Candidate::Letter(letter) => Ok(Some(*letter)),
        Candidate::LookUp { subject, .. } => Ok(read_letter(bus, &subject, cut_off).await?.then),
    }
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
        assert!(selection.admits(&letter("ab")) && !selection.admits(&letter("ef")));
    }

    fn letter(id: &str) -> v1::DeadLetter {
        let source = v1::Source { subject: "mesh1.event.local.orders.x.Y.0".into(), ..Default::default() };
        v1::DeadLetter { id: id.into(), source: Some(source), ..Default::default() }
    }

    #[test]
    fn what_holds_no_message_is_never_meant() {
        let lost = v1::DeadLetter { source: Some(v1::Source::default()), ..letter("ab") };
        assert!(Selection::default().admits(&letter("ab")));
        assert!(!Selection::default().admits(&lost));
        assert!(!Selection::default().admits(&v1::DeadLetter { source: None, ..lost }));
    }

    #[test]
    fn a_filter_for_other_states_means_no_open_letter() {
        let admits = |states: &[LetterState]| {
            let filter = letters::Selection { states: states.into(), ..Default::default() };
            let selection = Selection::new(BTreeSet::new(), &filter);
            assert_eq!(Selection::from_wire(Some(&selection.to_wire())), selection);
            selection.admits(&letter("ab"))
        };
        assert!(admits(&[]) && admits(&[LetterState::Open]) && admits(&[LetterState::Held, LetterState::Open]));
        assert!(!admits(&[LetterState::Held]) && !admits(&[LetterState::Replaying]));
    }

    #[test]
    fn a_selection_that_cant_be_read_selects_nothing() {
        let wire = v1::LetterSelection { filter: r#"{"colour":"red"}"#.into(), ..Default::default() };
        let asked = v1::LetterSelection { filter: r#"{"condition":"letter.id == 'ab'"}"#.into(), ..Default::default() };
        for wire in [Some(&wire), Some(&asked), None] {
            let selection = Selection::from_wire(wire);
            assert!(!selection.admits(&letter("ab")), "{wire:?}");
            assert_eq!(selection.subjects(&"local".parse().unwrap()), ["mesh1.dead.local.*.*.none"]);
        }
        assert!(Selection::from_wire(Some(&v1::LetterSelection::default())).admits(&letter("ab")), "all, said so");
    }
}
