//! What others did to letters since a job's cut-off, told from the records that the job hears anyway: pure.
//!
//! The first record after the cut-off tells how the letter stood there: an order is written only for an open letter, and an end
//! only for one that was ordered. One that somebody else ordered is never this job's again, since what fails again is a new
//! generation. None of this is ever taken back: who has heard less knows less, and nothing that is wrong. So a letter may
//! be *skipped* by what is known here; that one is sent is decided by the write of its order alone.
//!
//! A letter that came after the cut-off is kept only once something was done to it: until then no job comes across it, and
//! there may be as many as there are failures while the job runs. Each record says after which one it was written, so its first
//! one is not needed to tell that it was not there.
//!
//! With a million letters this is most of what a job has in memory. What is known of a letter is 18 bytes; in a tree that
//! is about 27. A hash map would keep room for up to as many again, and for all of them twice while it grows.

use std::collections::BTreeMap;

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
    known: BTreeMap<Key, Known>,
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
    /// Takes the next record after the cut-off of a letter that the job has not ordered. `was_there`: whether the one before it
    /// in the letter's history was there at the cut-off, or there is none; `None`: it does not say.
    pub(super) fn hear(&mut self, letter: Key, record: &LetterRecord, was_there: Option<bool>) {
        let is_new = matches!(&record.record, Some(Record::Captured(captured)) if captured.generation == 0);
        if !self.is_over && !is_new {
            self.known.entry(letter).or_default().since.get_or_insert_with(|| first(record, was_there));
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

/// What the first record after the cut-off says, a letter's first capture apart.
fn first(record: &LetterRecord, was_there: Option<bool>) -> Since {
    match (&record.record, was_there) {
        // Each is written only after one that is not of an open letter: an order, or a hold.
        (Some(Record::Resolved(_) | Record::Captured(_) | Record::Released(_)), _) => Since::NotMeant,
        // Before it came nothing but the letter's first capture.
        (_, Some(false)) => Since::NotMeant,
        (Some(Record::Replaying(act)), Some(true)) => Since::Taken { first: act.generation == 1 },
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
        Key::of(&format!("mesh1.dead.local.a.work.{}", "0".repeat(32))).unwrap()
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
        /// Whatever is done to a letter, each as its state allows, wherever the cut-off lies, and whether its records say after
        /// which ones they come: what is said of it is so.
        #[test]
        fn what_is_known_is_so(acts in vec(act(), 0..12), cut in 0usize..8, says in any::<bool>()) {
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
            for (at, (_, act, generation)) in heard.iter().enumerate() {
                others.hear(key(), &record(*act, *generation), says.then_some(at == 0));
            }
            // Of one that was captured since and left alone, nothing is kept.
            let is_new = cut == 0 && heard.len() == 1;
            match others.of(key()) {
                None => prop_assert!((heard.is_empty() || is_new) && others.known.is_empty()),
                Some(Since::Taken { first }) => prop_assert!(says && was_open && first == (orders[0] == 1)),
                Some(Since::NotMeant) => prop_assert!(!was_open && !is_new),
                Some(Since::Unsure) if says => {
                    prop_assert!(!matches!(heard[0].1, ActKind::Replayed | ActKind::Resolved));
                }
                Some(Since::Unsure) => {}
            }
        }
    }

    #[test]
    fn an_order_of_an_open_letter_stays_known_until_nobody_asks() {
        let mut others = Others::default();
        assert_eq!(others.of(key()), None);
        for (act, generation) in [(ActKind::Replayed, 1), (ActKind::Captured, 1), (ActKind::Held, 1)] {
            others.hear(key(), &record(act, generation), Some(generation == 1));
        }
        assert_eq!(others.of(key()), Some(Since::Taken { first: true }));
        others.end();
        others.hear(key(), &record(ActKind::Replayed, 2), Some(false));
        assert_eq!(others.of(key()), None);
    }

    #[test]
    fn letters_that_come_while_a_job_runs_are_not_kept_until_something_is_done_to_them() {
        let mut others = Others::default();
        let keys: Vec<Key> =
            (0..1000).filter_map(|number| Key::of(&format!("mesh1.dead.local.a.work.{number:032x}"))).collect();
        keys.iter().for_each(|key| others.hear(*key, &record(ActKind::Captured, 0), Some(true)));
        assert!(others.known.is_empty());
        others.hear(keys[7], &record(ActKind::Replayed, 1), Some(false));
        assert_eq!((others.known.len(), others.of(keys[7])), (1, Some(Since::NotMeant)));
    }

    #[test]
    fn a_letter_is_counted_as_skipped_once_and_for_its_last_reason() {
        let mut others = Others::default();
        others.skip(key(), Some(Skip::Held));
        others.skip(key(), Some(Skip::ReplayedByOthers));
        others.skip(key(), Some(Skip::ReplayedByOthers));
        others.hear(key(), &record(ActKind::Replayed, 1), Some(true));
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
