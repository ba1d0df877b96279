//! The account itself: pure.

use std::collections::BTreeSet;

use serde::Serialize;

use super::ids::{Effects, Ids};

/// How many ids of a kind are named; the rest is only counted.
const NAMED: usize = 10;

/// Ids: how many, and the first of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Counted {
    /// How many.
    pub count: usize,
    /// The first ten.
    pub first: Vec<String>,
}

/// The events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Published {
    /// Ids that were to be published.
    pub wanted: usize,
    /// Ids that stand in the event stream.
    pub published: usize,
    /// Wanted and not in the stream.
    pub lost: Counted,
    /// In the stream and not wanted.
    pub phantom: Counted,
}

/// What one operation is accounted from.
#[derive(Debug, Clone, Default)]
pub struct Operation {
    /// Its name for people: charge, message.
    pub name: &'static str,
    /// Ids of the events that ask for it.
    pub wanted: BTreeSet<u64>,
    /// The vendor's side: what took effect.
    pub effects: Effects,
    /// The broker's side: letters of what surely did not happen.
    pub letters: Ids,
    /// The broker's side: letters of what may have happened.
    pub parked: Ids,
    /// Messages that are still queued or on a lane.
    pub queued: u64,
    /// What the vendor counted.
    pub vendor: VendorCounts,
}

/// What the vendor counted, as its `/_ledger` says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct VendorCounts {
    /// Calls that arrived.
    pub calls: u64,
    /// What took effect.
    pub effects: u64,
    /// Effects that repeat a key or an order.
    pub duplicates: u64,
    /// Refused for what they ask.
    pub refused: u64,
    /// Told to slow down.
    pub throttled: u64,
    /// Repeated before the vendor's own Retry-After was over.
    pub early_retries: u64,
    /// Calls of the account while it was told to wait.
    pub calls_while_throttled: u64,
    /// Connections cut after the effect.
    pub cut: u64,
    /// Failures of the vendor.
    pub failed: u64,
    /// Answered from the vendor's memory of the key.
    pub replayed: u64,
}

/// What became of one operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Account {
    /// Its name for people.
    pub operation: &'static str,
    /// Ids of the events that ask for it.
    pub wanted: usize,
    /// Ids that took effect, as counted by the vendor.
    pub effects: usize,
    /// Ids that ended as a dead letter.
    pub dead_letters: usize,
    /// Ids of which nobody knows whether they happened.
    pub parked: usize,
    /// Ids that are still queued.
    pub queued: usize,
    /// Wanted, and neither effect nor letter nor parked nor queued.
    pub lost: Counted,
    /// Effect, letter or parked, and not wanted.
    pub phantom: Counted,
    /// Took effect more than once.
    pub duplicates: Counted,
    /// Has a letter that says "surely not", and took effect all the same.
    pub contradicted: Counted,
    /// Dead letters that the vendor did not refuse, or the other way round.
    pub letters_unlike_refusals: u64,
    /// What the vendor counted.
    pub vendor: VendorCounts,
}

/// How the run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// Everything was worked off.
    Drained,
    /// A person stopped it.
    Stopped,
    /// Nothing moved any more.
    Stuck,
}

/// The most memory that was in use, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// All processes of the mesh together.
    pub mesh: u64,
    /// nats-server.
    pub broker: u64,
    /// The stand-in vendors.
    pub vendors: u64,
}

/// The run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Run {
    /// How it ended.
    pub ended: Ended,
    /// From the first order to the last effect, in milliseconds.
    pub run_ms: u64,
    /// The most memory that was in use; `None` where the system does not tell.
    pub memory_bytes: Option<Memory>,
    /// Calls of the till that were answered.
    pub calls_answered: u64,
}

/// The whole ledger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Ledger {
    /// The events.
    pub published: Published,
    /// The operations.
    pub operations: Vec<Account>,
    /// The run.
    pub run: Run,
    /// What is wrong; empty where all is well.
    pub failures: Vec<String>,
}

/// Accounts for the events: `wanted` were to be published, `found` stand in the stream.
#[must_use]
pub fn published(wanted: &BTreeSet<u64>, found: &Ids) -> Published {
    Published {
        wanted: wanted.len(),
        published: found.len(),
        lost: counted(wanted.difference(&found.known)),
        phantom: with_strays(found.known.difference(wanted), [&found.strays]),
    }
}

/// Accounts for one operation.
///
/// What is queued can only be counted, not read: a work queue gives a message to nobody but its worker. So of the ids that
/// are nowhere else as many are taken for queued as there are queued messages; in a run that was worked off there are none.
#[must_use]
pub fn operation(facts: &Operation) -> Account {
    let effects: BTreeSet<u64> = facts.effects.counts.keys().copied().collect();
    let (letters, parked) = (&facts.letters.known, &facts.parked.known);
    let found: BTreeSet<u64> = effects.iter().chain(letters).chain(parked).copied().collect();
    let missing: Vec<&u64> = facts.wanted.difference(&found).collect();
    let queued = usize::try_from(facts.queued).unwrap_or(usize::MAX).min(missing.len());
    let strays = [&facts.effects.strays, &facts.letters.strays, &facts.parked.strays];
    Account {
        operation: facts.name,
        wanted: facts.wanted.len(),
        effects: effects.len(),
        dead_letters: facts.letters.len(),
        parked: facts.parked.len(),
        queued,
        lost: counted(missing.iter().skip(queued).copied()),
        phantom: with_strays(found.difference(&facts.wanted), strays),
        duplicates: counted(facts.effects.repeated().collect::<Vec<_>>().iter()),
        contradicted: counted(letters.intersection(&effects)),
        letters_unlike_refusals: (facts.letters.len() as u64).abs_diff(facts.vendor.refused),
        vendor: facts.vendor.clone(),
    }
}

/// What is wrong with a run; empty where all is well.
#[must_use]
pub fn verdict(published: &Published, operations: &[Account], ended: Ended) -> Vec<String> {
    let mut failures = Vec::new();
    let mut expect_none = |what: &str, count: u64| {
        if count > 0 {
            failures.push(format!("{what}: {count}"));
        }
    };
    // Stopped by a person, the orders that were not begun are not lost.
    if ended != Ended::Stopped {
        expect_none("orders not published", published.lost.count as u64);
    }
    expect_none("events that nobody published", published.phantom.count as u64);
    for account in operations {
        let name = account.operation;
        expect_none(&format!("{name}: lost"), account.lost.count as u64);
        expect_none(&format!("{name}: done without being asked for"), account.phantom.count as u64);
        expect_none(&format!("{name}: done twice"), (account.duplicates.count as u64).max(account.vendor.duplicates));
        expect_none(&format!("{name}: retried before Retry-After was over"), account.vendor.early_retries);
        expect_none(&format!("{name}: done although a letter says it was not"), account.contradicted.count as u64);
        expect_none(&format!("{name}: parked"), account.parked as u64);
        if ended != Ended::Stopped {
            expect_none(&format!("{name}: still queued"), account.queued as u64);
            expect_none(&format!("{name}: dead letters unlike the vendor's refusals"), account.letters_unlike_refusals);
        }
    }
    if ended == Ended::Stuck {
        failures.push("nothing moved any more".to_owned());
    }
    failures
}

fn counted<'a>(ids: impl Iterator<Item = &'a u64>) -> Counted {
    with_strays(ids, [])
}

fn with_strays<'a, const N: usize>(ids: impl Iterator<Item = &'a u64>, strays: [&BTreeSet<String>; N]) -> Counted {
    let mut counted = Counted::default();
    let strays = strays.into_iter().flatten().cloned();
    for id in ids.map(ToString::to_string).chain(strays) {
        counted.count += 1;
        if counted.first.len() < NAMED {
            counted.first.push(id);
        }
    }
    counted
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn charge(wanted: &[u64], effects: &[(u64, u64)], letters: &[u64], parked: &[u64]) -> Operation {
        Operation {
            name: "charge",
            wanted: wanted.iter().copied().collect(),
            effects: Effects { counts: effects.iter().copied().collect(), ..Effects::default() },
            letters: letters.iter().copied().collect(),
            parked: parked.iter().copied().collect(),
            vendor: VendorCounts { refused: letters.len() as u64, ..VendorCounts::default() },
            ..Operation::default()
        }
    }

    fn failures(facts: &Operation) -> Vec<String> {
        let found: Ids = facts.wanted.iter().copied().collect();
        verdict(&published(&facts.wanted, &found), &[operation(facts)], Ended::Drained)
    }

    #[test]
    fn what_is_done_or_refused_is_accounted_for() {
        let facts = charge(&[1, 2, 3], &[(1, 1), (3, 1)], &[2], &[]);
        let account = operation(&facts);
        assert_eq!((account.effects, account.dead_letters, account.lost.count), (2, 1, 0));
        assert_eq!(failures(&facts), Vec::<String>::new());
    }

    #[test]
    fn one_loss_does_not_hide_behind_one_double() {
        // The sums fit: three wanted, three effects.
        let facts = charge(&[1, 2, 3], &[(1, 2), (3, 1)], &[], &[]);
        assert_eq!(failures(&facts), ["charge: lost: 1", "charge: done twice: 1"]);
        assert_eq!(operation(&facts).lost.first, ["2"]);
    }

    #[test]
    fn each_disorder_is_named() {
        let mut stray = charge(&[1], &[(1, 1)], &[], &[]);
        stray.effects.add(None, 1);
        let mut refusals = charge(&[1, 2], &[(1, 1)], &[2], &[]);
        refusals.vendor.refused = 0;
        let mut early = charge(&[1], &[(1, 1)], &[], &[]);
        early.vendor.early_retries = 3;
        let mut queued = charge(&[1, 2], &[(1, 1)], &[], &[]);
        queued.queued = 5;
        for (facts, expected) in [
            (charge(&[1], &[(1, 1), (9, 1)], &[], &[]), "charge: done without being asked for: 1"),
            (stray, "charge: done without being asked for: 1"),
            (charge(&[1], &[(1, 1)], &[1], &[]), "charge: done although a letter says it was not: 1"),
            (charge(&[1], &[], &[], &[1]), "charge: parked: 1"),
            (refusals, "charge: dead letters unlike the vendor's refusals: 1"),
            (early, "charge: retried before Retry-After was over: 3"),
            (queued, "charge: still queued: 1"),
        ] {
            assert_eq!(failures(&facts), [expected]);
        }
    }

    #[test]
    fn a_run_that_was_stopped_has_queued_work_and_no_loss() {
        let mut facts = charge(&[1, 2, 3, 4], &[(1, 1)], &[], &[]);
        facts.queued = 3;
        let account = operation(&facts);
        assert_eq!((account.queued, account.lost.count), (3, 0));
        let events = published(&(1..=9).collect(), &facts.wanted.iter().copied().collect());
        assert_eq!(verdict(&events, &[account], Ended::Stopped), Vec::<String>::new());
        facts.queued = 2;
        assert_eq!(operation(&facts).lost.first, ["4"]);
    }

    #[test]
    fn events_are_compared_as_sets() {
        let account = published(&(1..=3).collect(), &[1, 3, 7].into_iter().collect());
        assert_eq!(
            (account.published, account.lost.first, account.phantom.first),
            (3, vec!["2".into()], vec!["7".into()])
        );
    }

    proptest! {
        /// Whatever happened, every wanted id is in exactly one of: found, queued, lost.
        #[test]
        fn every_wanted_id_is_somewhere(wanted in proptest::collection::btree_set(0u64..40, 0..30),
            effects in proptest::collection::btree_map(0u64..40, 1u64..3, 0..30),
            letters in proptest::collection::btree_set(0u64..40, 0..5), queued in 0u64..10) {
            let facts = Operation {
                name: "charge", wanted: wanted.clone(), queued,
                effects: Effects { counts: effects.clone(), ..Effects::default() },
                letters: letters.iter().copied().collect(), ..Operation::default()
            };
            let account = operation(&facts);
            let found = wanted.iter().filter(|id| effects.contains_key(id) || letters.contains(id)).count();
            prop_assert_eq!(found + account.queued + account.lost.count, wanted.len());
        }
    }
}
