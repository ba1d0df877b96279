//! Letters in groups of like failures. Pure, and letter by letter, so that an index can keep groups as letters come.

use std::collections::{BTreeMap, BTreeSet};

use crate::dead_letter::{Facts, Fingerprint, LetterState, normalised};

/// Letters with one fingerprint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// What they have in common.
    pub fingerprint: Fingerprint,
    /// How many.
    pub count: u64,
    /// How many in each state.
    pub states: BTreeMap<LetterState, u64>,
    /// `service/consumer` of each consumer that failed.
    pub consumers: BTreeSet<String>,
    /// `MESH-nnnn`
    pub reason: String,
    /// The canonical code.
    pub code: &'static str,
    /// The third party; empty where none was called.
    pub vendor: String,
    /// Its own code.
    pub vendor_code: String,
    /// What was said, without what differs from letter to letter.
    pub said: String,
    /// The earliest capture, Unix milliseconds.
    pub first_ms: i64,
    /// The latest capture, Unix milliseconds.
    pub last_ms: i64,
    /// The id of the letter that was captured last.
    pub example: String,
}

/// Groups, by fingerprint.
#[derive(Debug, Default)]
pub struct Groups(BTreeMap<Fingerprint, Group>);

impl Groups {
    /// Counts a letter.
    pub fn add(&mut self, facts: &Facts<'_>) {
        let group = self.0.entry(facts.fingerprint).or_insert_with(|| new(facts));
        group.count += 1;
        *group.states.entry(facts.state).or_default() += 1;
        group.consumers.insert(format!("{}/{}", facts.service, facts.consumer));
        group.first_ms = group.first_ms.min(facts.captured_at_ms);
        // Whatever the order they come in.
        if (facts.captured_at_ms, facts.id) >= (group.last_ms, group.example.as_str()) {
            group.last_ms = facts.captured_at_ms;
            facts.id.clone_into(&mut group.example);
        }
    }

    /// The groups, the largest first.
    #[must_use]
    pub fn into_sorted(self) -> Vec<Group> {
        let mut groups: Vec<Group> = self.0.into_values().collect();
        groups.sort_by_key(|group| (std::cmp::Reverse(group.count), group.fingerprint));
        groups
    }
}

fn new(facts: &Facts<'_>) -> Group {
    Group {
        fingerprint: facts.fingerprint,
        count: 0,
        states: BTreeMap::new(),
        consumers: BTreeSet::new(),
        reason: facts.reason.to_owned(),
        code: facts.code_word(),
        vendor: facts.vendor.to_owned(),
        vendor_code: facts.vendor_code.to_owned(),
        said: normalised(facts.message),
        first_ms: facts.captured_at_ms,
        last_ms: facts.captured_at_ms,
        example: facts.id.to_owned(),
    }
}
