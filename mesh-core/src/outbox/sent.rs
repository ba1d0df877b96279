//! Which rows may have been stored already, and since when. Pure.
//!
//! Before rows are sent, one record that lists them is written, a *turn*. A relay that takes over reads the turns: what
//! stands there may have reached the broker. Within the broker's dedupe window the same id again is harmless; after it
//! nobody but the consumers can tell, so a row that is sent again then is known as such, see [`super::AfterWindow`].

use std::collections::{HashMap, HashSet};

/// One record: these rows were about to be sent at that time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turn {
    pub(super) id: i64,
    pub(super) at_ms: i64,
    pub(super) sequences: Vec<i64>,
}

/// The turns whose rows are not all settled.
#[derive(Debug, Default)]
pub(super) struct Sent {
    first: HashMap<i64, (i64, i64)>,
    open: HashMap<i64, HashSet<i64>>,
    over: Vec<i64>,
    /// An attempt of these ended without a word, or nobody here knows how their attempts ended.
    doubtful: HashSet<i64>,
}

impl Sent {
    /// Takes over what the table says.
    pub(super) fn load(&mut self, turns: Vec<Turn>) {
        *self = Sent::default();
        for turn in turns {
            self.add(turn);
        }
        self.doubtful = self.first.keys().copied().collect();
    }

    /// These are about to be sent. A row that was sent before keeps the time of the first.
    pub(super) fn add(&mut self, turn: Turn) {
        let mut fresh = HashSet::new();
        for sequence in turn.sequences {
            if let Some((_, known)) = self.first.get(&sequence) {
                if *known <= turn.at_ms {
                    continue;
                }
                self.forget(sequence);
            }
            self.first.insert(sequence, (turn.id, turn.at_ms));
            fresh.insert(sequence);
        }
        if fresh.is_empty() {
            self.over.push(turn.id);
        } else {
            self.open.insert(turn.id, fresh);
        }
    }

    /// When it was first sent, if it may have been.
    pub(super) fn since(&self, sequence: i64) -> Option<i64> {
        self.first.get(&sequence).map(|(_, at_ms)| *at_ms)
    }

    /// The same, if an attempt of it was made that may have stored it. Of the others it only says that they are about to be sent.
    pub(super) fn doubtful_since(&self, sequence: i64) -> Option<i64> {
        self.since(sequence).filter(|_| self.doubtful.contains(&sequence))
    }

    /// Whether this record was written is not known, and nothing of it was sent: if it is there, it is to be taken out.
    pub(super) fn unwritten(&mut self, turn: &Turn) {
        self.over.push(turn.id);
    }

    /// An attempt of it ended, and it may have been stored.
    pub(super) fn doubt(&mut self, sequence: i64) {
        if self.first.contains_key(&sequence) {
            self.doubtful.insert(sequence);
        }
    }

    /// An attempt of it surely did not store it, or was not made: forgotten, unless one before it may have.
    pub(super) fn not_stored(&mut self, sequence: i64) {
        if !self.doubtful.contains(&sequence) {
            self.forget(sequence);
        }
    }

    /// It is settled, or gone.
    pub(super) fn forget(&mut self, sequence: i64) {
        self.doubtful.remove(&sequence);
        let Some((turn, _)) = self.first.remove(&sequence) else { return };
        let Some(open) = self.open.get_mut(&turn) else { return };
        open.remove(&sequence);
        if open.is_empty() {
            self.open.remove(&turn);
            self.over.push(turn);
        }
    }

    /// Turns of which nothing is open any more: to be taken out of the table.
    pub(super) fn over(&self) -> &[i64] {
        &self.over
    }

    /// They are taken out.
    pub(super) fn written(&mut self, turns: &[i64]) {
        self.over.retain(|turn| !turns.contains(turn));
    }

    /// All rows that some turn lists.
    pub(super) fn rows(&self) -> Vec<i64> {
        self.first.keys().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn turn(id: i64, at_ms: i64, sequences: &[i64]) -> Turn {
        Turn { id, at_ms, sequences: sequences.to_vec() }
    }

    #[test]
    fn the_first_time_counts_in_whatever_order_turns_are_read() {
        let mut sent = Sent::default();
        sent.load(vec![turn(2, 200, &[7, 8]), turn(1, 100, &[7])]);
        assert_eq!((sent.since(7), sent.since(8), sent.since(9)), (Some(100), Some(200), None));
        sent.forget(7);
        assert_eq!(sent.over(), [1]);
        sent.written(&[1]);
        sent.forget(8);
        assert_eq!(sent.over(), [2]);
    }

    #[test]
    fn what_may_have_been_stored_stays_so_whatever_becomes_of_later_attempts() {
        let mut sent = Sent::default();
        sent.add(turn(1, 100, &[7, 8, 9]));
        sent.not_stored(7);
        assert_eq!(sent.since(7), None);
        sent.doubt(8);
        sent.not_stored(8);
        assert_eq!(sent.since(8), Some(100));
        sent.forget(8);
        assert_eq!(sent.since(8), None);
        // Sent anew after it was settled: nothing is held against it.
        sent.add(turn(2, 200, &[8]));
        sent.not_stored(8);
        assert_eq!(sent.since(8), None);
        // Of what another process sent, nobody knows how it ended.
        sent.load(vec![turn(3, 300, &[9])]);
        sent.not_stored(9);
        assert_eq!(sent.since(9), Some(300));
    }

    #[test]
    fn only_an_attempt_that_may_have_stored_it_sets_the_time_within_which_it_may_be_repeated() {
        let mut sent = Sent::default();
        sent.add(turn(1, 100, &[7, 8]));
        sent.doubt(7);
        assert_eq!((sent.doubtful_since(7), sent.doubtful_since(8)), (Some(100), None));
        sent.load(vec![turn(2, 200, &[8])]);
        assert_eq!((sent.doubtful_since(7), sent.doubtful_since(8)), (None, Some(200)));
    }

    #[test]
    fn a_turn_that_may_not_have_been_written_is_taken_out_and_says_nothing_of_its_rows() {
        let mut sent = Sent::default();
        sent.unwritten(&turn(1, 100, &[7]));
        assert_eq!((sent.over(), sent.since(7)), (&[1][..], None));
    }

    #[test]
    fn a_turn_that_adds_nothing_is_over_at_once() {
        let mut sent = Sent::default();
        sent.add(turn(1, 100, &[7]));
        sent.add(turn(2, 200, &[7]));
        assert_eq!(sent.over(), [2]);
    }

    proptest! {
        #[test]
        fn when_all_is_settled_all_turns_are_over(
            turns in proptest::collection::vec((0..100i64, proptest::collection::vec(0..20i64, 0..8)), 0..12)
        ) {
            let mut sent = Sent::default();
            for (id, (at_ms, sequences)) in (0..).zip(&turns) {
                sent.add(turn(id, *at_ms, sequences));
            }
            for sequence in sent.rows() {
                sent.forget(sequence);
            }
            let over: HashSet<i64> = sent.over().iter().copied().collect();
            prop_assert_eq!(over.len(), turns.len());
            prop_assert!(sent.open.is_empty() && sent.first.is_empty());
        }
    }
}
