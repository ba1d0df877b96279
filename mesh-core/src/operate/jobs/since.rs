//! What others did to letters since a job's cut-off, told from the records that the job hears anyway: pure.
//!
//! The first record after the cut-off tells how the letter stood there: an order is written only for an open letter, and an end
//! only for one that was ordered. One that somebody else ordered is never this job's again, since what fails again is a new
//! generation. None of this is ever taken back: who has heard less knows less, and nothing that is wrong. So a letter may
//! be *skipped* by what is known here; that one is sent is decided by the write of its order alone.
//!
//! With a million letters this is most of what a job has in memory: each letter takes 18 bytes, whatever is known of it.

use std::collections::HashMap;

use mesh_proto::v1::{LetterRecord, letter_record::Record};

use super::{dispatch::Skip, progress::Key};
use crate::policy::replay::Skips;

/// What is known of a letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Since {
    /// It was open at the cut-off, and somebody else ordered it; whether that was its first replay.
    Taken { first: bool },
    /// It was not open at the cut-off.
    NotMeant,
    /// A person did something: only its whole history says.
    Unsure,
}

/// What is known of all letters of a job that it did not order itself.
#[derive(Debug, Default)]
pub(super) struct Others {
    known: HashMap<Key, Known>,
    skips: Skips,
    is_over: bool,
}

/// Of one letter.
#[derive(Debug, Clone, Copy, Default)]
struct Known {
    since: Option<Since>,
    /// Why it is counted as skipped, if it is.
    skip: Option<Skip>,
}

impl Others {
    /// Takes the next record after the cut-off of a letter that the job has not ordered.
    pub(super) fn hear(&mut self, letter: Key, record: &LetterRecord) {
        if !self.is_over {
            self.known.entry(letter).or_default().since.get_or_insert_with(|| first(record));
        }
    }

    /// What is known of a letter. `None`: nothing was heard of it.
    pub(super) fn of(&self, letter: Key) -> Option<Since> {
        self.known.get(&letter).and_then(|known| known.since)
    }

    /// Counts a letter as skipped, for another reason than before, or no more.
    pub(super) fn skip(&mut self, letter: Key, skip: Option<Skip>) {
        let before = match skip {
            Some(_) => std::mem::replace(&mut self.known.entry(letter).or_default().skip, skip),
            None => self.known.get_mut(&letter).and_then(|known| known.skip.take()),
        };
        before.into_iter().for_each(|skip| *count_of(&mut self.skips, skip) -= 1);
        skip.into_iter().for_each(|skip| *count_of(&mut self.skips, skip) += 1);
    }

    /// How many are skipped, and why.
    pub(super) fn skips(&self) -> Skips {
        self.skips
    }

    /// No letter is asked for any more: no more is kept than what is counted.
    pub(super) fn end(&mut self) {
        if !self.is_over {
            self.is_over = true;
            self.known.retain(|_, known| {
                known.since = None;
                known.skip.is_some()
            });
            self.known.shrink_to_fit();
        }
    }
}

fn count_of(skips: &mut Skips, skip: Skip) -> &mut u64 {
    match skip {
        Skip::Held => &mut skips.held,
        Skip::Discarded => &mut skips.discarded,
        Skip::ReplayedByOthers => &mut skips.replayed_by_others,
        Skip::WithoutConsumer => &mut skips.without_consumer,
        Skip::Refused => &mut skips.refused,
    }
}

/// What the first record after the cut-off says.
fn first(record: &LetterRecord) -> Since {
    match &record.record {
        Some(Record::Replaying(act)) => Since::Taken { first: act.generation == 1 },
        // Each is written only after one that is not of an open letter: an order, a hold, or nothing at all.
        Some(Record::Resolved(_) | Record::Captured(_) | Record::Released(_)) => Since::NotMeant,
        _ => Since::Unsure,
    }
}

#[cfg(test)]
mod tests {
    use mesh_proto::v1::{DeadLetter, LetterAct, LetterEdit};
    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::dead_letter::{ActKind, LetterState};

    fn key() -> Key {
        Key::of(&"0".repeat(32)).unwrap()
    }

    fn record(done: ActKind, generation: u32) -> LetterRecord {
        let act = LetterAct { generation, ..Default::default() };
        let record = match done {
            ActKind::Captured => Record::Captured(DeadLetter { generation, ..Default::default() }),
            ActKind::Replayed => Record::Replaying(act),
            ActKind::Resolved => Record::Resolved(act),
            ActKind::Discarded => Record::Discarded(act),
            ActKind::Held => Record::Held(act),
            ActKind::Released => Record::Released(act),
            ActKind::Edited => Record::Edited(LetterEdit { act: Some(act), ..Default::default() }),
        };
        LetterRecord { record: Some(record) }
    }

    fn act() -> impl Strategy<Value = ActKind> {
        use ActKind::{Captured, Discarded, Edited, Held, Released, Replayed, Resolved};
        proptest::sample::select(vec![Captured, Replayed, Replayed, Resolved, Discarded, Held, Released, Edited])
    }

    proptest! {
        /// Whatever is done to a letter, each as its state allows, and wherever the cut-off lies: what is said of it is so.
        #[test]
        fn what_is_known_is_so(acts in vec(act(), 0..12), cut in 0usize..8) {
            let (mut state, mut generation) = (LetterState::Open, 0);
            // Each record with the state that it was written in.
            let mut all = vec![(None, ActKind::Captured, 0)];
            for act in acts {
                let Some(after) = state.after(act) else { continue };
                generation += u32::from(act == ActKind::Replayed);
                all.push((Some(state), act, generation));
                state = after;
            }
            let heard = &all[cut.min(all.len())..];
            let was_open = heard.first().is_some_and(|it| it.0 == Some(LetterState::Open));
            let orders: Vec<u32> = heard.iter().filter(|it| it.1 == ActKind::Replayed).map(|it| it.2).collect();
            let mut others = Others::default();
            heard.iter().for_each(|(_, act, generation)| others.hear(key(), &record(*act, *generation)));
            match others.of(key()) {
                None => prop_assert!(heard.is_empty()),
                Some(Since::Taken { first }) => prop_assert!(was_open && first == (orders[0] == 1)),
                Some(Since::NotMeant) => prop_assert!(!was_open),
                Some(Since::Unsure) => prop_assert!(!matches!(heard[0].1, ActKind::Replayed | ActKind::Resolved)),
            }
        }
    }

    #[test]
    fn an_order_of_an_open_letter_stays_known_until_nobody_asks() {
        let mut others = Others::default();
        assert_eq!(others.of(key()), None);
        for (act, generation) in [(ActKind::Replayed, 1), (ActKind::Captured, 1), (ActKind::Held, 1)] {
            others.hear(key(), &record(act, generation));
        }
        assert_eq!(others.of(key()), Some(Since::Taken { first: true }));
        others.end();
        others.hear(key(), &record(ActKind::Replayed, 2));
        assert_eq!(others.of(key()), None);
    }

    #[test]
    fn a_letter_is_counted_as_skipped_once_and_for_its_last_reason() {
        let mut others = Others::default();
        others.skip(key(), Some(Skip::Held));
        others.skip(key(), Some(Skip::ReplayedByOthers));
        others.skip(key(), Some(Skip::ReplayedByOthers));
        others.hear(key(), &record(ActKind::Replayed, 1));
        let counted = Skips { replayed_by_others: 1, ..Skips::default() };
        assert_eq!((others.skips(), others.of(key())), (counted, Some(Since::Taken { first: true })));
        others.end();
        assert_eq!((others.skips(), others.of(key())), (counted, None));
        others.skip(key(), None);
        others.skip(key(), None);
        assert_eq!(others.skips(), Skips::default());
    }

    #[test]
    fn what_is_kept_of_a_letter_is_small() {
        assert_eq!(size_of::<(Key, Known)>(), 18);
    }
}
