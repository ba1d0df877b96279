//! The letters that a job has found and not sent yet, and what is to be done with the next of them.
//!
//! Most of what is not to be sent is told from what the job has heard of others ([`Others`]), without a question to the broker. One
//! that another job of this process has under way waits aside until its order is heard, and so does one whose newest record was
//! seen but not heard yet.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use mesh_proto::v1::LetterRecord;
use tokio::time::Instant;

use super::{
    Selection,
    dispatch::Skip,
    progress::Key,
    share::{Came, Fate, Mark, Share},
    since::{Others, Since},
    walk::Candidate,
};
use crate::policy::replay::Skips;

/// Letters that wait for their moment.
const READY: usize = 256;
/// Letters that wait aside, at most: of each the subject is kept.
const ASIDE: usize = 8192;
/// How often it is looked whether one waits aside for nothing.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long a record that stands may take until it is heard, before the broker is asked.
const HEARD_AFTER: Duration = Duration::from_secs(5);

/// Found, and not sent.
#[derive(Debug)]
pub(super) struct Queue {
    ready: VecDeque<Candidate>,
    aside: HashMap<Key, Aside>,
    look_next: Instant,
    others: Others,
    share: Share,
}

/// A letter that waits until something is heard of it.
#[derive(Debug)]
struct Aside {
    subject: String,
    /// Whether it is known to be one of the job's.
    is_meant: bool,
    until: Until,
    from: Instant,
}

#[derive(Debug)]
enum Until {
    /// The record at this sequence is heard.
    Heard(u64),
    /// It is known what came of it.
    Came(Fate),
}

/// What is to be done with the first letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// There is none.
    Nothing,
    /// It is none of the job's, or it waits aside now: it is gone from here.
    Gone,
    /// It is gone from here: somebody else replayed it.
    Taken(Key),
    /// To be sent.
    Send,
    /// Its whole history is to be looked at.
    LookUp,
    /// Somebody else replayed it; what it is says whether it was meant. Whether that was its first replay.
    LookBack { first: bool },
}

impl Queue {
    pub(super) fn new(share: Share) -> Queue {
        Queue {
            ready: VecDeque::new(),
            aside: HashMap::new(),
            look_next: Instant::now(),
            others: Others::default(),
            share,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ready.is_empty() && self.aside.is_empty()
    }

    /// Whether there is room for more.
    pub(super) fn has_room(&self) -> bool {
        self.ready.len() < READY && self.aside.len() < ASIDE
    }

    pub(super) fn found(&mut self, candidate: Candidate) {
        self.ready.push_back(candidate);
    }

    /// Puts one before all others.
    pub(super) fn first(&mut self, candidate: Candidate) {
        self.ready.push_front(candidate);
    }

    pub(super) fn front(&self) -> Option<&Candidate> {
        self.ready.front()
    }

    pub(super) fn pop(&mut self) -> Option<Candidate> {
        self.ready.pop_front()
    }

    /// Whether the letter is this job's from now on, while it is under way.
    pub(super) fn begin(&self, letter: Key) -> Option<Mark> {
        self.share.begin(letter)
    }

    /// Nothing will be found any more.
    pub(super) fn end(&mut self) {
        self.others.end();
    }

    /// Counts a letter as skipped for another reason than before, or no more.
    pub(super) fn skip(&mut self, letter: Key, skip: Option<Skip>) {
        self.others.skip(letter, skip);
    }

    /// How many are skipped, and why.
    pub(super) fn skips(&self) -> Skips {
        self.others.skips()
    }

    /// A record of a letter was heard: of one that the job has not ordered, what it says is kept. With it, whether the one
    /// before it was there at the cut-off: see [`Others::hear`].
    pub(super) fn heard(&mut self, letter: Key, record: Option<(&LetterRecord, Option<bool>)>) {
        record.into_iter().for_each(|(record, was_there)| self.others.hear(letter, record, was_there));
        if let Some(aside) = self.aside.remove(&letter) {
            self.ready.push_front(aside.again(letter));
        }
    }

    /// Says what is to be done with the first letter. The stream was heard to `heard_to`.
    pub(super) fn turn(&mut self, selection: &Selection, heard_to: u64) -> Turn {
        let Some(front) = self.ready.front() else { return Turn::Nothing };
        let Some(key) = front.key() else { return self.gone() };
        let is_told = match front {
            Candidate::Letter(_) => Some(true),
            Candidate::LookUp { is_meant: true, .. } => Some(true),
            Candidate::LookUp { subject, .. } => selection.admits_subject(subject),
        };
        match (self.others.of(key), front) {
            (Some(Since::Taken { .. }), _) if is_told == Some(true) => {
                self.ready.pop_front();
                Turn::Taken(key)
            }
            (_, Candidate::LookUp { .. }) if is_told == Some(false) => self.gone(),
            (Some(Since::Taken { first }), _) => Turn::LookBack { first },
            (Some(Since::NotMeant), Candidate::LookUp { .. }) => self.gone(),
            (Some(Since::Unsure), Candidate::LookUp { .. }) => Turn::LookUp,
            (None, Candidate::LookUp { seen, .. }) if *seen > heard_to => {
                let until = Until::Heard(*seen);
                self.put_aside(key, until)
            }
            (None, Candidate::LookUp { .. }) => Turn::LookUp,
            // It was found open, or looked up: where that is over, the write of its order says so.
            (_, Candidate::Letter(_)) => match self.share.of(key) {
                Some(fate) => self.put_aside(key, Until::Came(fate)),
                None => Turn::Send,
            },
        }
    }

    fn gone(&mut self) -> Turn {
        self.ready.pop_front();
        Turn::Gone
    }

    fn put_aside(&mut self, key: Key, until: Until) -> Turn {
        if self.aside.len() >= ASIDE {
            return Turn::Nothing;
        }
        let Some((subject, is_meant)) = self.ready.pop_front().map(Candidate::into_subject) else {
            return Turn::Nothing;
        };
        self.aside.insert(key, Aside { subject, is_meant, until, from: Instant::now() });
        Turn::Gone
    }

    /// Takes up again what waits aside for nothing: what was given up, and what should have been heard.
    pub(super) fn look_aside(&mut self, heard_to: u64) {
        let now = Instant::now();
        if now >= self.look_next {
            self.look_next = now + LOOK_EVERY;
            let waits_no_more = |_: &Key, aside: &mut Aside| aside.is_over(now, heard_to);
            for (letter, aside) in self.aside.extract_if(waits_no_more) {
                self.ready.push_front(aside.again(letter));
            }
        }
    }

    /// When what waits aside is looked at again.
    pub(super) fn looks_next(&self) -> Option<Instant> {
        (!self.aside.is_empty()).then_some(self.look_next)
    }
}

impl Aside {
    fn is_over(&self, now: Instant, heard_to: u64) -> bool {
        let at = match &self.until {
            Until::Heard(at) => *at,
            Until::Came(fate) => match fate.came() {
                Came::Nothing => return false,
                Came::GivenUp => return true,
                Came::Order(at) => at,
            },
        };
        at <= heard_to || now >= self.from + HEARD_AFTER
    }

    /// It is looked at as it stands then.
    fn again(self, key: Key) -> Candidate {
        Candidate::LookUp { key, subject: self.subject, seen: 0, is_meant: self.is_meant }
    }
}

#[cfg(test)]
mod tests {
    use mesh_proto::v1::{self, LetterAct, letter_record::Record};

    use super::*;
    use crate::operate::letters;

    fn key() -> Key {
        Key::of(&format!("mesh1.dead.local.a.work.{}", "a".repeat(32))).unwrap()
    }

    fn look_up(seen: u64, is_meant: bool) -> Candidate {
        Candidate::LookUp { key: key(), subject: format!("mesh1.dead.local.a.work.{}", "a".repeat(32)), seen, is_meant }
    }

    fn letter() -> Candidate {
        let mut letters = crate::dead_letter::Letters::default();
        let (service, consumer) = ("a".into(), "work".into());
        let letter = v1::DeadLetter { id: "a".repeat(32), service, consumer, ..Default::default() };
        let record = LetterRecord { record: Some(Record::Captured(letter)) };
        letters.follow(&"a".repeat(32), "local", 1, record);
        Candidate::Letter(Box::new(letters.into_map().into_values().next().unwrap()))
    }

    fn ordered() -> LetterRecord {
        LetterRecord { record: Some(Record::Replaying(LetterAct { generation: 1, ..Default::default() })) }
    }

    fn filtered() -> Selection {
        Selection { filter: letters::Selection { parked: true, ..Default::default() }, ..Default::default() }
    }

    #[test]
    fn what_another_ordered_is_gone_without_a_question_where_its_subject_says_that_it_was_meant() {
        let mut queue = Queue::new(Share::default());
        queue.heard(key(), Some((&ordered(), Some(true))));
        for candidate in [letter(), look_up(9, true), look_up(9, false)] {
            queue.found(candidate);
            assert_eq!(queue.turn(&Selection::default(), 5), Turn::Taken(key()));
        }
        queue.found(look_up(9, false));
        assert_eq!(queue.turn(&Selection::nothing(), 5), Turn::Gone);
        queue.found(look_up(9, false));
        assert_eq!(queue.turn(&filtered(), 5), Turn::LookBack { first: true });
    }

    #[test]
    fn what_was_seen_and_not_heard_waits_until_it_is() {
        let mut queue = Queue::new(Share::default());
        queue.found(look_up(9, false));
        assert_eq!(queue.turn(&Selection::default(), 8), Turn::Gone);
        assert!(!queue.is_empty() && queue.front().is_none());
        queue.heard(key(), Some((&ordered(), Some(true))));
        assert_eq!(queue.turn(&Selection::default(), 9), Turn::Taken(key()));
        assert!(queue.is_empty());
        // Whoever has heard that far and nothing of it asks.
        queue.end();
        queue.found(look_up(9, false));
        assert_eq!(queue.turn(&Selection::default(), 9), Turn::LookUp);
    }

    #[test]
    fn what_came_after_the_cut_off_is_gone_without_a_question_and_what_does_not_say_so_is_looked_up() {
        for (was_there, expected) in [(Some(false), Turn::Gone), (None, Turn::LookUp)] {
            let mut queue = Queue::new(Share::default());
            queue.heard(key(), Some((&ordered(), was_there)));
            queue.found(look_up(9, false));
            assert_eq!(queue.turn(&Selection::default(), 9), expected, "{was_there:?}");
        }
    }

    #[test]
    fn what_another_job_has_under_way_waits_and_is_looked_at_where_it_is_given_up() {
        let share = Share::default();
        let (mut queue, mark) = (Queue::new(share.clone()), share.begin(key()).unwrap());
        queue.found(letter());
        assert_eq!(queue.turn(&Selection::default(), 5), Turn::Gone);
        queue.look_aside(5);
        assert!(queue.looks_next().is_some() && queue.front().is_none());
        drop(mark);
        queue.look_next = Instant::now();
        queue.look_aside(5);
        assert_eq!(queue.looks_next(), None);
        assert_eq!(queue.turn(&filtered(), 5), Turn::LookUp);
        queue.pop();
        // Nobody has it: what was found open is sent, and is this job's meanwhile.
        queue.first(letter());
        assert_eq!(queue.turn(&Selection::default(), 5), Turn::Send);
        let mark = queue.begin(key()).unwrap();
        mark.ordered(7);
        assert!(queue.begin(key()).is_none());
    }
}
