//! The account of one run, as sets of ids: pure.

use std::collections::{BTreeMap, BTreeSet};

/// What each side says.
#[derive(Debug, Clone, Default)]
pub struct Books {
    /// Every id that was sent, acknowledged or not.
    pub asked: BTreeSet<String>,
    /// Those that the broker acknowledged.
    pub acknowledged: BTreeSet<String>,
    /// How often each took effect, by the independent counter.
    pub effects: BTreeMap<String, u32>,
    /// Calls that the counter heard, repeats with a known key included.
    pub calls: u64,
    /// Letters that wait for a person, by id: the place of the message that each is of.
    pub letters: BTreeMap<String, Vec<String>>,
    /// Those among them that ask a person whether it happened.
    pub parked: BTreeSet<String>,
    /// Outcomes of queued work that was done, by id. Events have none.
    pub outcomes: BTreeMap<String, u32>,
    /// How often each event lies in its stream, which keeps what was handled. `None`: nobody looked, or more than once is right.
    pub events: Option<BTreeMap<String, u32>>,
    /// Messages that still lie in a queue though its consumer has acknowledged them: they wait for nobody.
    pub residue: u64,
    /// What did not come to rest in time: said by the ledger.
    pub unrest: Vec<String>,
}

/// What follows from the books. Every set must be empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Account {
    published: usize,
    effects: usize,
    letters: usize,
    parked: usize,
    calls: u64,
    /// Acknowledged, and neither an effect, a letter nor a parked question; or an event that its stream does not have.
    pub lost: BTreeSet<String>,
    /// Took effect twice, lies in its stream twice, has two letters, two outcomes, or both an effect and a letter that asks for it; and which.
    pub duplicates: BTreeMap<String, String>,
    /// An effect or a letter that nobody asked for.
    pub unasked: BTreeSet<String>,
    /// Done, and nobody told who enqueued it.
    pub unannounced: BTreeSet<String>,
    /// A letter for a message with which nothing is wrong.
    pub innocent: BTreeSet<String>,
    residue: u64,
    unrest: Vec<String>,
}

/// Messages with one of these words in their ids must become letters: the counter refuses them, or the worker comes to grief
/// over them. Others must not.
pub const BAD: [&str; 6] = ["bad", "panic", "hang", "abort", "spin", "garbled"];

/// Whether a message must become a letter.
#[must_use]
pub fn is_bad(id: &str) -> bool {
    id.split('-').any(|word| BAD.contains(&word))
}
/// Ids of queued work begin so: its outcome is announced.
pub const WORK: &str = "w-";
/// Ids of events begin so: their stream keeps them.
pub const EVENT: &str = "e-";

impl Account {
    /// Adds up.
    #[must_use]
    pub fn of(books: &Books) -> Account {
        let ended: BTreeSet<&String> = books.effects.keys().chain(books.letters.keys()).collect();
        let mut duplicates = BTreeMap::new();
        let events = books.events.clone().unwrap_or_default();
        // The counter would not tell of an event that is stored twice: both have one idempotency key.
        for (counts, what) in
            [(&events, "times in the stream"), (&books.effects, "effects"), (&books.outcomes, "outcomes")]
        {
            let twice = counts.iter().filter(|(_, count)| **count > 1);
            duplicates.extend(twice.map(|(id, count)| (id.clone(), format!("{count} {what}"))));
        }
        for (id, places) in &books.letters {
            if places.len() > 1 {
                duplicates.insert(id.clone(), format!("letters of {}", places.join(" and ")));
            } else if books.effects.contains_key(id) && !books.parked.contains(id) {
                // A parked letter asks whether it happened: there it is no double.
                duplicates.insert(id.clone(), "an effect and a letter".into());
            }
        }
        let is_gone = |id: &String| books.events.is_some() && id.starts_with(EVENT) && !events.contains_key(id);
        let work_done = books.effects.keys().filter(|id| id.starts_with(WORK) && !books.letters.contains_key(*id));
        Account {
            published: books.acknowledged.len(),
            effects: books.effects.len(),
            letters: books.letters.keys().filter(|id| !books.parked.contains(*id)).count(),
            parked: books.parked.len(),
            calls: books.calls,
            lost: books.acknowledged.iter().filter(|id| !ended.contains(id) || is_gone(id)).cloned().collect(),
            duplicates,
            unasked: ended.into_iter().filter(|id| !books.asked.contains(*id)).cloned().collect(),
            unannounced: work_done.filter(|id| !books.outcomes.contains_key(*id)).cloned().collect(),
            innocent: books.letters.keys().filter(|id| !is_bad(id)).cloned().collect(),
            residue: books.residue,
            unrest: books.unrest.clone(),
        }
    }

    /// Letters that wait, parked ones not counted.
    #[must_use]
    pub fn letters(&self) -> usize {
        self.letters
    }

    /// The middle of the printed line.
    #[must_use]
    pub fn figures(&self) -> String {
        format!(
            "published={} effects={} letters={} parked={} duplicates={} lost={} repeats={}",
            self.published,
            self.effects,
            self.letters,
            self.parked,
            self.duplicates.len(),
            self.lost.len(),
            self.calls.saturating_sub(self.effects as u64 + self.letters as u64),
        )
    }

    /// What is wrong, each with some ids.
    #[must_use]
    pub fn wrong(&self) -> Vec<String> {
        let sets = [
            ("lost", &self.lost),
            ("not asked for", &self.unasked),
            ("done, but not announced", &self.unannounced),
            ("letters for what is in order", &self.innocent),
        ];
        let mut wrong: Vec<String> = sets
            .iter()
            .filter(|(_, ids)| !ids.is_empty())
            .map(|(what, ids)| format!("{what}: {} {:?}", ids.len(), ids.iter().take(5).collect::<Vec<_>>()))
            .collect();
        wrong.extend(self.duplicates.iter().take(5).map(|(id, why)| format!("duplicate: {id}: {why}")));
        wrong.extend(self.unrest.iter().cloned());
        if self.residue > 0 {
            wrong.push(format!("{} messages lie in a queue after their ack", self.residue));
        }
        if self.published == 0 {
            wrong.push("nothing was published: nothing was shown".into());
        }
        wrong
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Books in order: an event and work done, one refused.
    fn books() -> Books {
        let ids = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect::<BTreeSet<_>>();
        let counts = |ids: &[&str]| ids.iter().map(|id| ((*id).to_owned(), 1)).collect::<BTreeMap<_, _>>();
        Books {
            asked: ids(&["e-good-1", "w-good-2", "e-bad-3", "e-good-4"]),
            acknowledged: ids(&["e-good-1", "w-good-2", "e-bad-3"]),
            effects: counts(&["e-good-1", "w-good-2"]),
            calls: 3,
            letters: BTreeMap::from([("e-bad-3".to_owned(), vec!["s@1".to_owned()])]),
            outcomes: counts(&["w-good-2"]),
            events: Some(counts(&["e-good-1", "e-bad-3"])),
            ..Books::default()
        }
    }

    fn wrong(change: impl FnOnce(&mut Books)) -> Vec<String> {
        let mut books = books();
        change(&mut books);
        Account::of(&books).wrong()
    }

    #[test]
    fn books_in_order_are_in_order() {
        assert!(wrong(|_| {}).is_empty());
        let figures = "published=3 effects=2 letters=1 parked=0 duplicates=0 lost=0 repeats=0";
        assert_eq!(Account::of(&books()).figures(), figures);
    }

    #[test]
    fn one_loss_does_not_hide_one_double() {
        let found = wrong(|books| {
            books.effects.remove("e-good-1");
            books.effects.insert("w-good-2".into(), 2);
        });
        assert_eq!(found, ["lost: 1 [\"e-good-1\"]", "duplicate: w-good-2: 2 effects"]);
    }

    #[test]
    fn each_kind_of_trouble_is_seen() {
        let one = |change: fn(&mut Books), expected: &str| {
            let found = wrong(change);
            assert_eq!(found.len(), 1, "{found:?}");
            assert!(found[0].starts_with(expected), "{found:?}");
        };
        one(|books| *books.effects.entry("e-good-9".into()).or_default() += 1, "not asked for");
        one(|books| books.outcomes.clear(), "done, but not announced");
        one(
            |books| books.letters.entry("e-good-4".into()).or_default().push("s@2".into()),
            "letters for what is in order",
        );
        one(
            |books| books.letters.entry("e-bad-3".into()).or_default().push("s@2".into()),
            "duplicate: e-bad-3: letters of s@1 and s@2",
        );
        one(|books| *books.effects.entry("e-bad-3".into()).or_default() += 1, "duplicate");
        one(|books| *books.outcomes.entry("w-good-2".into()).or_default() += 1, "duplicate");
        let events = |books: &mut Books, count: u32| {
            books.events.as_mut().unwrap().insert("e-good-1".into(), count);
        };
        assert_eq!(wrong(|books| events(books, 2)), ["duplicate: e-good-1: 2 times in the stream"]);
        assert_eq!(wrong(|books| books.events = Some(BTreeMap::new())).len(), 1, "lost");
        assert!(wrong(|books| books.events = None).is_empty(), "nobody looked");
        one(|books| books.residue = 1, "1 messages lie in a queue");
        one(|books| books.unrest.push("work was left".into()), "work was left");
        one(|books| *books = Books::default(), "nothing was published");
    }

    #[test]
    fn what_was_sent_but_not_acknowledged_may_have_happened_or_not() {
        assert!(wrong(|books| *books.effects.entry("e-good-4".into()).or_default() += 1).is_empty());
    }
}
