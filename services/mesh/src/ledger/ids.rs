//! Sets of ids. An order's id is a number; what is none is kept as a stray, so that it can't hide.

use std::collections::{BTreeMap, BTreeSet};

/// A set of ids.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ids {
    /// The numbers.
    pub known: BTreeSet<u64>,
    /// What is no number: nobody asked for it.
    pub strays: BTreeSet<String>,
}

/// How often each id took effect.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Effects {
    /// By id.
    pub counts: BTreeMap<u64, u64>,
    /// What is no number: nobody asked for it.
    pub strays: BTreeSet<String>,
}

impl Ids {
    /// Adds an id.
    pub fn add(&mut self, id: &str) {
        match id.parse() {
            Ok(number) => drop(self.known.insert(number)),
            Err(_) => drop(self.strays.insert(id.to_owned())),
        }
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.known.len() + self.strays.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl FromIterator<u64> for Ids {
    fn from_iter<I: IntoIterator<Item = u64>>(ids: I) -> Ids {
        Ids { known: ids.into_iter().collect(), strays: BTreeSet::new() }
    }
}

impl Effects {
    /// Adds `count` effects of an id.
    pub fn add(&mut self, id: Option<&str>, count: u64) {
        match id.map(str::parse) {
            Some(Ok(number)) => *self.counts.entry(number).or_default() += count,
            Some(Err(_)) | None => drop(self.strays.insert(id.unwrap_or("(none)").to_owned())),
        }
    }

    /// The ids that took effect more than once.
    pub fn repeated(&self) -> impl Iterator<Item = u64> {
        self.counts.iter().filter(|(_, count)| **count > 1).map(|(id, _)| *id)
    }
}
