//! Sets of sequences as ranges: what was handled lies close together, so millions of them take a few entries.

use std::{collections::BTreeMap, ops::RangeInclusive};

/// A set of sequences.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ranges(BTreeMap<u64, u64>);

impl Ranges {
    /// All from `first` to `last`; none where `last` is smaller.
    #[must_use]
    pub fn of(first: u64, last: u64) -> Ranges {
        let mut ranges = Ranges::default();
        ranges.add(first, last);
        ranges
    }

    /// Adds one. Whether it is new.
    pub fn insert(&mut self, sequence: u64) -> bool {
        let is_new = !self.contains(sequence);
        if is_new {
            self.add(sequence, sequence);
        }
        is_new
    }

    /// Adds all from `first` to `last`.
    pub fn add(&mut self, first: u64, last: u64) {
        if last < first {
            return;
        }
        let (mut first, mut last) = (first, last);
        // Every range that overlaps or touches it becomes a part of it.
        while let Some((&from, &to)) = self.0.range(..=last.saturating_add(1)).next_back() {
            if to.saturating_add(1) < first {
                break;
            }
            first = first.min(from);
            last = last.max(to);
            self.0.remove(&from);
        }
        self.0.insert(first, last);
    }

    /// Whether it is in the set.
    #[must_use]
    pub fn contains(&self, sequence: u64) -> bool {
        self.0.range(..=sequence).next_back().is_some_and(|(_, to)| *to >= sequence)
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.iter().map(|(from, to)| to - from + 1).sum()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The ranges, in order.
    pub fn iter(&self) -> impl Iterator<Item = RangeInclusive<u64>> {
        self.0.iter().map(|(from, to)| *from..=*to)
    }

    /// Adds all of `other`.
    pub fn extend(&mut self, other: &Ranges) {
        for range in other.iter() {
            self.add(*range.start(), *range.end());
        }
    }

    /// Those that are not in `other`.
    #[must_use]
    pub fn without(&self, other: &Ranges) -> Ranges {
        let mut left = Ranges::default();
        for range in self.iter() {
            let (mut from, end) = (*range.start(), *range.end());
            let before = other.0.range(..=from).next_back();
            for (cut_from, cut_to) in
                before.into_iter().chain(other.0.range(from.saturating_add(1)..=end.max(from + 1)))
            {
                if *cut_to < from || *cut_from > end {
                    continue;
                }
                if *cut_from > from {
                    left.0.insert(from, cut_from - 1);
                }
                from = cut_to.saturating_add(1);
            }
            if from <= end {
                left.0.insert(from, end);
            }
        }
        left
    }

    /// Those that are in `other` too.
    #[must_use]
    pub fn within(&self, other: &Ranges) -> Ranges {
        self.without(&self.without(other))
    }
}

impl FromIterator<u64> for Ranges {
    fn from_iter<I: IntoIterator<Item = u64>>(sequences: I) -> Ranges {
        let mut ranges = Ranges::default();
        for sequence in sequences {
            ranges.insert(sequence);
        }
        ranges
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use proptest::prelude::*;

    fn set(ranges: &Ranges) -> BTreeSet<u64> {
        ranges.iter().flatten().collect()
    }

    proptest! {
        #[test]
        fn they_are_sets(a in proptest::collection::btree_set(0u64..40, 0..25), b in proptest::collection::btree_set(0u64..40, 0..25)) {
            let (left, right): (Ranges, Ranges) = (a.iter().copied().collect(), b.iter().copied().collect());
            prop_assert_eq!(set(&left), a.clone());
            prop_assert_eq!(left.count(), a.len() as u64);
            prop_assert_eq!(set(&left.without(&right)), a.difference(&b).copied().collect::<BTreeSet<_>>());
            prop_assert_eq!(set(&left.within(&right)), a.intersection(&b).copied().collect::<BTreeSet<_>>());
            let mut both = left.clone();
            both.extend(&right);
            prop_assert_eq!(set(&both), a.union(&b).copied().collect::<BTreeSet<_>>());
            // As few ranges as can be: no two touch.
            let ends: Vec<_> = both.iter().collect();
            prop_assert!(ends.windows(2).all(|two| two[0].end() + 1 < *two[1].start()));
        }
    }

    #[test]
    fn a_million_that_touch_are_one_range() {
        assert_eq!((1..=1_000_000).collect::<Ranges>().iter().count(), 1);
    }
}
