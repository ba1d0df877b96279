//! What waits on one lane, and what of it the broker has not emitted: decided here, without a look at anything.

use std::collections::{BTreeSet, HashMap};

use crate::bus::Moment;

/// What is known of one lane.
#[derive(Debug)]
pub(super) struct Book {
    /// So many are kept at most, of those that are due first.
    most: usize,
    created_ms: i64,
    leader: String,
    /// All up to this sequence was read.
    read_to: u64,
    /// When each is due (Unix milliseconds), and its sequence.
    waits: BTreeSet<(i64, u64)>,
    /// Since when each was seen late by the same leader, by its sequence.
    late: HashMap<u64, i64>,
    /// When the first of those is due that found no place.
    left_out: Option<i64>,
}

impl Book {
    pub(super) fn new(most: usize) -> Book {
        Book {
            most,
            created_ms: 0,
            leader: String::new(),
            read_to: 0,
            waits: BTreeSet::new(),
            late: HashMap::new(),
            left_out: None,
        }
    }

    /// Begins a look at the lane as it stands.
    pub(super) fn begin(&mut self, moment: &Moment) {
        if self.created_ms != moment.created_ms {
            *self = Book { created_ms: moment.created_ms, ..Book::new(self.most) };
        }
        // A new leader emits all that is due when it begins: what was seen before is no sign of anything.
        if self.leader != moment.leader {
            self.leader.clone_from(&moment.leader);
            self.late.clear();
        }
        // What found no place is read again, once it may be late.
        if self.left_out.is_some_and(|due| due <= moment.now_ms) {
            (self.read_to, self.left_out) = (0, None);
        }
    }

    /// Where reading goes on. `None`: all was read.
    pub(super) fn next(&self, moment: &Moment) -> Option<u64> {
        (self.read_to < moment.last_sequence).then_some(self.read_to + 1)
    }

    /// A copy that waits, due at `due_ms`. `None`: it has no time.
    pub(super) fn read(&mut self, sequence: u64, due_ms: Option<i64>) {
        self.read_to = self.read_to.max(sequence);
        self.waits.extend(due_ms.map(|due_ms| (due_ms, sequence)));
        if self.waits.len() > self.most
            && let Some((due_ms, sequence)) = self.waits.pop_last()
        {
            self.late.remove(&sequence);
            self.left_out = Some(self.left_out.map_or(due_ms, |first| first.min(due_ms)));
        }
    }

    /// All up to the end was read.
    pub(super) fn read_all(&mut self, moment: &Moment) {
        self.read_to = self.read_to.max(moment.last_sequence);
    }

    /// Those that are to be looked at: due, and not seen so yet or for `after_ms` already. The earliest come first.
    pub(super) fn to_look_at(&self, moment: &Moment, after_ms: i64, most: usize) -> Vec<(i64, u64)> {
        let due = self.waits.iter().take_while(|(due_ms, _)| *due_ms <= moment.now_ms);
        due.filter(|(_, sequence)| self.late.get(sequence).is_none_or(|since| is_over(*since, after_ms, moment)))
            .take(most)
            .copied()
            .collect()
    }

    /// One of these is there still: whether it is overdue. It is once the same leader has left it there for `after_ms`.
    pub(super) fn is_overdue(&mut self, sequence: u64, after_ms: i64, moment: &Moment) -> bool {
        is_over(*self.late.entry(sequence).or_insert(moment.now_ms), after_ms, moment)
    }

    /// One of these is not there any more, or has another sequence now.
    pub(super) fn forget(&mut self, (due_ms, sequence): (i64, u64)) {
        self.waits.remove(&(due_ms, sequence));
        self.late.remove(&sequence);
    }
}

fn is_over(since: i64, after_ms: i64, moment: &Moment) -> bool {
    moment.now_ms.saturating_sub(since) >= after_ms
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(now_ms: i64) -> Moment {
        Moment { now_ms, created_ms: 1, last_sequence: 9, leader: "n1".into() }
    }

    fn with(most: usize, copies: &[(i64, u64)]) -> Book {
        let mut book = Book::new(most);
        book.begin(&at(0));
        copies.iter().for_each(|(due, sequence)| book.read(*sequence, Some(*due)));
        book
    }

    #[test]
    fn what_one_leader_leaves_there_for_so_long_is_overdue() {
        let mut book = with(10, &[(100, 1), (900, 2)]);
        assert_eq!(book.to_look_at(&at(99), 30, 5), []);
        assert_eq!(book.to_look_at(&at(100), 30, 5), [(100, 1)]);
        assert!(!book.is_overdue(1, 30, &at(100)));
        assert_eq!(book.to_look_at(&at(129), 30, 5), [], "it is known to be late");
        assert_eq!(book.to_look_at(&at(130), 30, 5), [(100, 1)]);
        assert!(book.is_overdue(1, 30, &at(130)));
        book.forget((100, 1));
        assert_eq!(book.to_look_at(&at(500), 30, 5), []);
    }

    #[test]
    fn a_new_leader_has_its_time_to_emit() {
        let mut book = with(10, &[(100, 1)]);
        assert!(!book.is_overdue(1, 30, &at(200)));
        let other = Moment { leader: "n2".into(), ..at(300) };
        book.begin(&other);
        assert_eq!(book.to_look_at(&other, 30, 5), [(100, 1)]);
        assert!(!book.is_overdue(1, 30, &other));
        assert!(book.is_overdue(1, 30, &Moment { now_ms: 330, ..other }));
    }

    #[test]
    fn what_finds_no_place_is_read_again_when_it_may_be_late() {
        let mut book = with(2, &[(500, 1), (400, 2), (100, 3), (300, 4)]);
        book.read_all(&at(0));
        assert_eq!(book.to_look_at(&at(1000), 30, 5), [(100, 3), (300, 4)]);
        assert_eq!(book.next(&at(0)), None);
        book.begin(&at(399));
        assert_eq!(book.next(&at(399)), None, "the first that was left out is due at 400");
        book.begin(&at(400));
        assert_eq!(book.next(&at(400)), Some(1));
    }

    #[test]
    fn a_stream_that_was_made_anew_is_read_from_its_beginning() {
        let mut book = with(10, &[(100, 1)]);
        book.read_all(&at(0));
        let anew = Moment { created_ms: 2, last_sequence: 1, ..at(200) };
        book.begin(&anew);
        assert_eq!((book.next(&anew), book.to_look_at(&anew, 30, 5)), (Some(1), vec![]));
    }
}
