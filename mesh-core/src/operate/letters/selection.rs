//! Which letters are meant: one type for lists, groups, orders and jobs, wherever they are carried out.
//!
//! A [`Selection`] is plain data that can be kept and sent. Compiled with the contracts it is a [`Selector`], which decides
//! letter by letter, purely. What is known without the payload is asked first, so that an index can say most of it alone:
//! [`Selector::by_facts`] answers [`Answer::Ask`] where only the whole letter says.

use mesh_proto::v1;
use serde::{Deserialize, Serialize};

use super::condition::Condition;
use crate::{
    contract::Catalog,
    dead_letter::{Facts, Fingerprint, Letter, LetterState},
    fault::Fault,
    subject::{Name, WIRE},
};

/// Which letters are meant: those that fit all that is said. The default: all. Of a list, one of its members must fit; an
/// empty list says nothing.
///
/// What an older program does not know it refuses to read: it would mean more letters than were asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Selection {
    /// Of this service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<Name>,
    /// Of this consumer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub consumer: Option<Name>,
    /// In one of these states.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub states: Vec<LetterState>,
    /// Only those of which nobody knows whether it happened.
    #[serde(skip_serializing_if = "is_false")]
    pub parked: bool,
    /// With one of these whole ids.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ids: Vec<String>,
    /// Full names of events, `package.Service/Method` of operations, or what these end with after a dot.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub message_types: Vec<String>,
    /// `MESH-nnnn`
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<String>,
    /// Canonical codes: `UNAVAILABLE`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub codes: Vec<String>,
    /// Third parties.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub vendors: Vec<String>,
    /// The third parties' own codes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub vendor_codes: Vec<String>,
    /// Failures alike.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub fingerprints: Vec<Fingerprint>,
    /// Captured (last) then or later, Unix milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since_ms: Option<i64>,
    /// Captured (last) before then, Unix milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until_ms: Option<i64>,
    /// Headers of the message, all of them: name and value.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<(String, String)>,
    /// A CEL expression over `letter`, `header` and `payload`: see `docs/dead-letters.md`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub condition: Option<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands it over so")]
fn is_false(value: &bool) -> bool {
    !value
}

/// Whether a letter is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It is.
    Yes,
    /// It is not.
    No,
    /// Only its payload or its headers say.
    Ask,
    /// The condition does not fit its values; why. It is left out.
    Unclear(String),
}

/// A selection that can be asked. The default means all letters.
#[derive(Debug, Default)]
pub struct Selector {
    selection: Selection,
    condition: Option<Condition>,
}

impl Selection {
    /// Makes it ready to be asked. `catalog` has the contracts that payloads are read by.
    ///
    /// # Errors
    /// The condition is no expression, or names what no letter has: with line, column and the place below the text.
    pub fn compile(&self, catalog: &Catalog) -> Result<Selector, Fault> {
        let condition = self.condition.as_deref();
        let condition = condition.map(|text| Condition::compile(text, self, catalog)).transpose()?;
        Ok(Selector { selection: self.clone(), condition })
    }

    /// Whether nothing is said: all letters are meant.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        *self == Selection::default()
    }

    /// Whether an open letter is meant as it was captured. The condition is not asked.
    #[must_use]
    pub fn admits(&self, letter: &v1::DeadLetter) -> bool {
        self.fits(&Facts::of_captured(letter, LetterState::Open)) && self.has_headers(letter)
    }

    /// Whether letters in this state may be meant.
    #[must_use]
    pub fn admits_state(&self, state: LetterState) -> bool {
        self.states.is_empty() || self.states.contains(&state)
    }

    fn fits(&self, facts: &Facts<'_>) -> bool {
        let name = |wanted: &Option<Name>, is: &str| wanted.as_ref().is_none_or(|wanted| wanted.as_str() == is);
        let one_of = |wanted: &[String], is: &str| wanted.is_empty() || wanted.iter().any(|wanted| wanted == is);
        name(&self.service, facts.service)
            && name(&self.consumer, facts.consumer)
            && self.admits_state(facts.state)
            && (!self.parked || facts.is_parked())
            && one_of(&self.ids, facts.id)
            && (self.message_types.is_empty() || self.message_types.iter().any(|t| is_type(t, facts.message_type)))
            && one_of(&self.reasons, facts.reason)
            && one_of(&self.codes, facts.code_word())
            && one_of(&self.vendors, facts.vendor)
            && one_of(&self.vendor_codes, facts.vendor_code)
            && (self.fingerprints.is_empty() || self.fingerprints.contains(&facts.fingerprint))
            && self.since_ms.is_none_or(|since| facts.captured_at_ms >= since)
            && self.until_ms.is_none_or(|until| facts.captured_at_ms < until)
    }

    fn has_headers(&self, letter: &v1::DeadLetter) -> bool {
        self.headers
            .iter()
            .all(|(name, value)| letter.headers.iter().any(|h| h.name.eq_ignore_ascii_case(name) && h.value == *value))
    }
}

impl Selector {
    /// What was compiled.
    #[must_use]
    pub fn selection(&self) -> &Selection {
        &self.selection
    }

    /// Whether a letter with these facts is meant, as far as they say.
    #[must_use]
    pub fn by_facts(&self, facts: &Facts<'_>) -> Answer {
        if !self.selection.fits(facts) {
            return Answer::No;
        }
        let needs_whole = self.condition.as_ref().is_some_and(Condition::needs_whole);
        match &self.condition {
            _ if needs_whole || !self.selection.headers.is_empty() => Answer::Ask,
            Some(condition) => condition.holds(facts, None),
            None => Answer::Yes,
        }
    }

    /// Whether the letter is meant: never [`Answer::Ask`].
    #[must_use]
    pub fn ask(&self, letter: &Letter) -> Answer {
        let facts = Facts::of(letter);
        match self.by_facts(&facts) {
            Answer::Ask if !self.selection.has_headers(&letter.letter) => Answer::No,
            Answer::Ask => self.condition.as_ref().map_or(Answer::Yes, |c| c.holds(&facts, Some(&letter.letter))),
            answer => answer,
        }
    }

    /// The subjects that its letters can lie on.
    #[must_use]
    pub fn subject(&self) -> String {
        let token = |name: &Option<Name>| name.as_ref().map_or("*", Name::as_str).to_owned();
        let Selection { service, consumer, .. } = &self.selection;
        format!("{WIRE}.dead.*.{}.{}.*", token(service), token(consumer))
    }
}

/// Whether `wanted` is the name, or its end after a dot.
pub(in crate::operate) fn is_type(wanted: &str, name: &str) -> bool {
    name.strip_suffix(wanted).is_some_and(|before| before.is_empty() || before.ends_with('.'))
}
