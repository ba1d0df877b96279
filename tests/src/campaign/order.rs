//! The account of the order of keys: in which order the messages of one key first took effect, by the independent counter. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::counter::Report;

/// The id of the message of a key that stands at `position`, from 1: `e-good-c7-3`.
#[must_use]
pub fn id(word: &str, key: usize, position: usize) -> String {
    format!("e-{word}-c{key}-{position}")
}

/// The key and the position in it that an id carries; most ids carry none.
fn parts(id: &str) -> Option<(&str, usize)> {
    let (start, position) = id.rsplit_once('-')?;
    let (_, key) = start.rsplit_once('-')?;
    let number = key.strip_prefix('c')?;
    number.parse::<usize>().ok()?;
    Some((key, position.parse().ok()?))
}

/// The key that an id carries.
#[must_use]
pub fn key_of(id: &str) -> Option<&str> {
    parts(id).map(|(key, _)| key)
}

/// Each effect that came before that of a message ahead of it in its key, whether that one came later or not at all; with the
/// position of the first one that it went past. A message is ahead until it takes effect, also while its letter waits.
#[must_use]
pub fn violations(report: &Report) -> Vec<String> {
    let mut keys = BTreeMap::<&str, Vec<(usize, usize, &str)>>::new();
    for (id, entry) in report.iter().filter(|(_, entry)| entry.place > 0) {
        if let Some((key, position)) = parts(id) {
            keys.entry(key).or_default().push((entry.place, position, id));
        }
    }
    let mut violations = Vec::new();
    for mut effects in keys.into_values() {
        effects.sort_unstable();
        let mut done = BTreeSet::new();
        for (_, position, id) in effects {
            let ahead = (1..position).find(|ahead| !done.contains(ahead));
            violations.extend(ahead.map(|ahead| format!("{id} before {ahead}")));
            done.insert(position);
        }
    }
    violations
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::campaign::counter::Entry;

    /// The report of messages that took effect in this order.
    fn report(ids: &[&str]) -> Report {
        let entry = |place: usize| Entry { place, ..Entry::default() };
        (1..).zip(ids).map(|(place, id)| ((*id).to_owned(), entry(place))).collect()
    }

    #[test]
    fn keys_in_order_are_in_order_however_they_mix() {
        let mixed =
            ["e-good-c1-1", "e-good-c10-1", "e-bad-c1-2", "e-busy-c1-3", "e-good-c10-2", "e-good-7", "w-good-3"];
        assert!(violations(&report(&mixed)).is_empty());
    }

    #[test]
    fn whoever_goes_past_one_is_named() {
        let later = report(&["e-good-c1-1", "e-good-c1-3", "e-busy-c1-2", "e-good-c1-4", "e-good-c2-1"]);
        assert_eq!(violations(&later), ["e-good-c1-3 before 2"]);
        let never = report(&["e-good-c1-2", "e-good-c1-3"]);
        assert_eq!(violations(&never), ["e-good-c1-2 before 1", "e-good-c1-3 before 1"]);
    }

    #[test]
    fn the_tenth_comes_after_the_ninth() {
        let ids: Vec<String> = (1..=12).map(|position| id("good", 3, position)).collect();
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        assert!(violations(&report(&ids)).is_empty());
        let swapped = [&ids[..8], &[ids[9], ids[8]], &ids[10..]].concat();
        assert_eq!(violations(&report(&swapped)), ["e-good-c3-10 before 9"]);
    }

    #[test]
    fn keys_stand_in_some_ids() {
        assert_eq!(key_of(&id("bad", 7, 3)), Some("c7"));
        for none in ["e-good-7", "w-bad-1", "e-target-3", "e-good-c-3", "e-good-c7-"] {
            assert_eq!(key_of(none), None, "{none}");
        }
    }
}
