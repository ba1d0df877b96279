//! The two tables of the index: from a letter's id to its place, and from a name to its number.

use std::collections::HashMap;

use super::Key;

/// Names, each once.
#[derive(Debug, Default)]
pub(super) struct Names {
    numbers: HashMap<Box<str>, u32>,
    texts: Vec<Box<str>>,
}

impl Names {
    /// The number of a name; a new one where it has none.
    pub(super) fn number(&mut self, text: &str) -> u32 {
        if let Some(number) = self.numbers.get(text) {
            return *number;
        }
        let number = u32::try_from(self.texts.len()).unwrap_or(u32::MAX);
        self.texts.push(text.into());
        self.numbers.insert(text.into(), number);
        number
    }

    /// The number of a name, where it has one.
    pub(super) fn find(&self, text: &str) -> Option<u32> {
        self.numbers.get(text).copied()
    }

    /// The name of a number.
    pub(super) fn text(&self, number: u32) -> &str {
        self.texts.get(number as usize).map_or("", AsRef::as_ref)
    }

    /// Every name with its number.
    pub(super) fn all(&self) -> impl Iterator<Item = (u32, &str)> {
        (0..).zip(self.texts.iter().map(AsRef::as_ref))
    }
}

/// Nothing lies here.
const FREE: u32 = u32::MAX;

/// Where letters lie, by their keys: numbers only, the keys stand in the entries. Ids are parts of a SHA-256, so they are spread as
/// they are; letters with the same id lie one after the other.
#[derive(Debug, Default)]
pub(super) struct Slots {
    table: Vec<u32>,
    used: usize,
}

impl Slots {
    /// Where the letter of `key` lies. `key_at` tells the key of what lies there.
    pub(super) fn find(&self, key: &Key, key_at: impl Fn(u32) -> Key) -> Option<u32> {
        if self.table.is_empty() {
            return None;
        }
        let at = self.probe(key).find(|at| self.table[*at] == FREE || key_at(self.table[*at]) == *key)?;
        Some(self.table[at]).filter(|slot| *slot != FREE)
    }

    /// Adds where a letter lies whose key is not there yet.
    pub(super) fn add(&mut self, slot: u32, key_at: impl Fn(u32) -> Key) {
        // At most three quarters full: few steps to a free place.
        if (self.used + 1) * 4 > self.table.len() * 3 {
            let larger = vec![FREE; (self.table.len() * 2).max(1024)];
            for old in std::mem::replace(&mut self.table, larger).into_iter().filter(|slot| *slot != FREE) {
                self.put(old, &key_at(old));
            }
        }
        self.put(slot, &key_at(slot));
        self.used += 1;
    }

    fn put(&mut self, slot: u32, key: &Key) {
        let free = self.probe(key).find(|at| self.table[*at] == FREE);
        if let Some(at) = free {
            self.table[at] = slot;
        }
    }

    /// Where a letter may lie, the likeliest first. The table's length is a power of two.
    fn probe(&self, (id, _): &Key) -> impl Iterator<Item = usize> + use<> {
        let mask = self.table.len().wrapping_sub(1);
        let low = id.iter().take(8).fold(0usize, |key, byte| key << 8 | usize::from(*byte));
        (0..=mask).map(move |step| low.wrapping_add(step) & mask)
    }
}
