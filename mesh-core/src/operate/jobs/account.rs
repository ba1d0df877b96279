//! What a runner knows of the letters of its job: what was ordered and how it ended, what is left, what was begun, and the orders
//! whose copy may be missing. No question to the broker.
//!
//! What is heard of a letter and what came of it here may be known in either order. An order is the job's whoever gave it: a runner
//! that is gone may have handed one to the bus that is stored while this one looks at the same letter.

use std::collections::{BTreeMap, HashMap, VecDeque};

use mesh_proto::v1::LetterRecord;
use tokio::time::Instant;

use super::{
    Job,
    dispatch::{Skip, subject_of},
    lanes::{Lanes, Waiting},
    progress::{Key, Progress},
    queue::Queue,
    share::{Mark, Share},
    walk::Candidate,
};
use crate::{
    dead_letter::Letter,
    policy::replay::{Counts, Skips},
};

/// The letters of one job.
pub(super) struct Account {
    progress: Progress,
    /// Those that were found and not begun.
    pub(super) queue: Queue,
    /// Letters that were begun and whose order has not been read back yet. Other jobs leave those that are marked.
    starting: HashMap<Key, Option<Mark>>,
    /// Orders whose copy may be missing, sequence and subject.
    missing: VecDeque<(u64, String)>,
    /// Letters whose order was not confirmed and was not found either: it may be on its way. Their subjects.
    in_doubt: BTreeMap<Key, String>,
    /// Which consumers are there, and what waits for them.
    pub(super) lanes: Lanes,
    /// What an earlier runner counted as skipped.
    skipped_before: Skips,
    is_caught_up: bool,
    is_walked: bool,
}

impl Account {
    pub(super) fn new(job: &Job, share: Share) -> Account {
        Account {
            progress: Progress::new(&job.id, job.replay.cut_off),
            queue: Queue::new(share),
            starting: HashMap::new(),
            missing: VecDeque::new(),
            in_doubt: BTreeMap::new(),
            lanes: Lanes::default(),
            skipped_before: job.counts().skipped,
            is_caught_up: false,
            is_walked: false,
        }
    }

    /// Whether all orders that stood when the job was taken up are known.
    pub(super) fn is_caught_up(&self) -> bool {
        self.is_caught_up
    }

    /// They are known now. A checkpoint of an earlier runner says up to where the copies are on the lane.
    pub(super) fn catch_up(&mut self, copied_through: u64) {
        self.is_caught_up = true;
        self.progress.trust(copied_through);
        self.missing.extend(self.progress.uncopied_after(copied_through));
    }

    /// Whether every letter was come across.
    pub(super) fn is_walked(&self) -> bool {
        self.is_walked
    }

    /// There are no more than were come across.
    pub(super) fn end_walk(&mut self) {
        self.is_walked = true;
    }

    /// Whether no letter is left to look at.
    pub(super) fn is_through(&self) -> bool {
        self.is_walked && self.queue.is_empty() && !self.lanes.has_letters()
    }

    /// Takes the next record of a letter, from its place in the stream: sequence and subject. `was_there`: see
    /// [`Others::hear`](super::since::Others::hear).
    pub(super) fn hear(&mut self, key: Key, place: (u64, &str), record: &LetterRecord, was_there: Option<bool>) {
        let is_order = self.progress.apply(key, place, record);
        // Whatever stands now stands in the place of what was on its way, or is that.
        self.in_doubt.remove(&key);
        self.queue.heard(key, (!self.progress.is_ours(key)).then_some((record, was_there)));
        if !is_order {
            return;
        }
        self.queue.skip(key, None);
        match self.starting.remove(&key) {
            // Whoever began it sees to its copy.
            Some(mark) => mark.iter().for_each(|mark| mark.ordered(place.0)),
            // Of a runner that is gone, or about to: its copy may be missing.
            None if self.is_caught_up => self.missing.push_back((place.0, place.1.to_owned())),
            None => {}
        }
    }

    /// The last sequence that was read.
    pub(super) fn read_to(&self) -> u64 {
        self.progress.read_to()
    }

    /// Every order of this job up to here has its copy on the lane.
    pub(super) fn copied_through(&self) -> u64 {
        self.progress.copied_through()
    }

    /// Whether this job ordered a letter, or is about to.
    pub(super) fn is_begun(&self, key: Key) -> bool {
        self.progress.is_ours(key) || self.starting.contains_key(&key)
    }

    /// Letters that were begun and are not counted yet.
    pub(super) fn starting(&self) -> u64 {
        self.starting.len() as u64
    }

    /// A letter is about to be ordered.
    pub(super) fn begin(&mut self, key: Key) {
        self.in_doubt.remove(&key);
        self.starting.insert(key, self.queue.begin(key));
    }

    /// A letter's history is about to be looked at.
    pub(super) fn look_at(&mut self, key: Key) {
        self.starting.insert(key, None);
    }

    /// The order of a letter stands at this sequence. Until it is read back it counts as starting.
    pub(super) fn ordered(&mut self, key: Key, at: u64) {
        if let Some(Some(mark)) = self.starting.get(&key) {
            mark.ordered(at);
        }
    }

    /// The copy of the letter that was ordered at this sequence is on the lane.
    pub(super) fn copied(&mut self, ordered_at: u64) {
        self.progress.copied(ordered_at);
    }

    /// A letter that was begun and was sent.
    pub(super) fn sent(&mut self, key: Key, ordered_at: u64) {
        self.copied(ordered_at);
        self.ordered(key, ordered_at);
        if self.progress.is_ours(key) {
            self.starting.remove(&key);
        }
    }

    /// A letter that was begun and is not sent here; why, where that is counted.
    pub(super) fn not_sent(&mut self, key: Key, skip: Option<Skip>) {
        if self.let_go(key) && skip.is_some() {
            self.queue.skip(key, skip);
        }
    }

    /// A letter that was begun is open and not ordered yet: it comes first again.
    pub(super) fn put_back(&mut self, key: Key, letter: Box<Letter>) {
        if self.let_go(key) {
            self.queue.first(Candidate::Letter(letter));
        }
    }

    /// The same, and its order may be on its way all the same.
    pub(super) fn put_back_in_doubt(&mut self, key: Key, letter: Box<Letter>) {
        self.in_doubt.insert(key, subject_of(&letter));
        self.put_back(key, letter);
    }

    /// The next letter whose order may be on its way, and its subject: to be looked at once more before the job ends.
    pub(super) fn next_in_doubt(&mut self) -> Option<(Key, String)> {
        self.in_doubt.pop_first()
    }

    /// A letter that was begun is open, and waits for its lane.
    pub(super) fn wait_for_lane(&mut self, key: Key, subject: &str) {
        if self.let_go(key) {
            self.lanes.wait(subject, Instant::now());
        }
    }

    /// What was read as an order of this job is none: the letter was not the job's to send, or nobody ordered it.
    pub(super) fn disown(&mut self, key: Key) {
        self.progress.disown(key);
    }

    /// The lanes that are away, and what waits for them.
    pub(super) fn waiting(&self) -> Vec<Waiting> {
        self.lanes.waiting()
    }

    /// A letter is not under way any more. Whether it is not the job's: if it was ordered meanwhile, nobody has sent its copy.
    fn let_go(&mut self, key: Key) -> bool {
        self.starting.remove(&key);
        self.missing.extend(self.progress.uncopied(key));
        !self.progress.is_ours(key)
    }

    /// Whether a copy of an order may be missing that nobody sees to yet.
    pub(super) fn misses_copies(&self) -> bool {
        !self.missing.is_empty() || self.lanes.has_copies()
    }

    /// The next order whose copy may be missing: sequence and subject.
    pub(super) fn next_missing(&mut self) -> Option<(u64, String)> {
        self.missing.pop_front()
    }

    /// What became of the letters. Who takes a job up comes across those that are skipped by and by, and if it was stopped not at
    /// all: until all were come across, what was counted before holds.
    pub(super) fn counts(&self) -> Counts {
        let (before, now) = (self.skipped_before, self.queue.skips());
        let skipped = if self.is_through() || now.total() >= before.total() { now } else { before };
        Counts { skipped, ..self.progress.counts() }
    }
}

#[cfg(test)]
mod tests {
    use mesh_proto::v1::{self, DeadLetter, LetterAct, letter_record::Record};

    use super::{super::Jobs, *};
    use crate::dead_letter::Letters;

    const CUT_OFF: u64 = 10;
    const SUBJECT: &str = "mesh1.dead.local.a.work.aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

    fn id() -> String {
        "a".repeat(32)
    }

    fn key() -> Key {
        Key::of(SUBJECT).unwrap()
    }

    fn letter() -> Box<Letter> {
        let captured = DeadLetter { id: id(), service: "a".into(), consumer: "work".into(), ..Default::default() };
        let mut letters = Letters::default();
        letters.follow(&id(), "local", 1, LetterRecord { record: Some(Record::Captured(captured)) });
        Box::new(letters.into_map().into_values().next().unwrap())
    }

    fn order(job: &str) -> LetterRecord {
        let act = LetterAct { generation: 1, job: job.into(), ..Default::default() };
        LetterRecord { record: Some(Record::Replaying(act)) }
    }

    /// Of a job whose last checkpoint has so many letters that others replayed.
    fn account(replayed_by_others: u64) -> Account {
        let replay = v1::ReplayJob { cut_off: CUT_OFF, selected: 10, ..Default::default() };
        let created = v1::JobCreated { what: Some(v1::job_created::What::Replay(replay)), act: None };
        let counts = Some(v1::JobCounts { replayed_by_others, ..Default::default() });
        let checkpoint = v1::JobCheckpoint { counts, ..Default::default() };
        let mut jobs = Jobs::default();
        let records = [v1::job_record::Record::Created(created), v1::job_record::Record::Checkpoint(checkpoint)];
        for (sequence, record) in (1..).zip(records) {
            jobs.apply_record("j", sequence, v1::JobRecord { record: Some(record) });
        }
        Account::new(jobs.get("j").unwrap(), Share::default())
    }

    fn missing(account: &mut Account) -> Vec<(u64, String)> {
        std::iter::from_fn(|| account.next_missing()).collect()
    }

    /// An order of a runner that is gone is stored while this one looks at the letter, which read as open, or while it is told
    /// that its own order is not taken now.
    #[test]
    fn an_order_that_is_stored_while_its_letter_is_under_way_gets_its_copy() {
        for begin in [Account::look_at, Account::begin] {
            let mut account = account(0);
            account.catch_up(0);
            begin(&mut account, key());
            account.hear(key(), (11, SUBJECT), &order("j"), Some(true));
            assert!(missing(&mut account).is_empty(), "whoever began it may send it");
            account.put_back(key(), letter());
            assert_eq!(missing(&mut account), [(11, SUBJECT.to_owned())]);
            assert!(account.queue.is_empty() && account.starting() == 0, "it is not ordered again");
            account.copied(11);
            account.put_back(key(), letter());
            assert!(missing(&mut account).is_empty(), "its copy is on the lane");
        }
    }

    #[test]
    fn an_order_that_is_stored_after_its_letter_was_put_back_gets_its_copy() {
        let mut account = account(0);
        account.catch_up(0);
        account.begin(key());
        account.put_back(key(), letter());
        assert_eq!((account.starting(), account.queue.is_empty()), (0, false));
        account.hear(key(), (11, SUBJECT), &order("j"), Some(true));
        assert_eq!(missing(&mut account), [(11, SUBJECT.to_owned())]);
        assert!(account.is_begun(key()), "whoever takes it from the queue sees that");
    }

    #[test]
    fn an_order_in_doubt_is_looked_for_until_anything_stands_in_its_place() {
        let in_doubt = || {
            let mut account = account(0);
            account.catch_up(0);
            account.begin(key());
            account.put_back_in_doubt(key(), letter());
            account
        };
        let asked = Some((key(), SUBJECT.to_owned()));
        let mut account = in_doubt();
        assert_eq!((account.next_in_doubt(), account.next_in_doubt()), (asked, None));
        // What came of it, or what came in its stead: either way it can't be stored any more.
        for job in ["j", "other"] {
            let mut account = in_doubt();
            account.hear(key(), (11, SUBJECT), &order(job), Some(true));
            assert_eq!(account.next_in_doubt(), None, "{job}");
        }
        let mut account = in_doubt();
        account.begin(key());
        assert_eq!(account.next_in_doubt(), None, "it is given again, and the answer to that says it");
    }

    #[test]
    fn a_letter_that_waits_for_its_lane_is_left_and_one_that_is_ordered_meanwhile_lacks_its_copy() {
        let mut account = account(0);
        account.catch_up(0);
        account.end_walk();
        account.look_at(key());
        account.wait_for_lane(key(), SUBJECT);
        assert!(account.starting() == 0 && !account.is_through());
        let mut account = self::account(0);
        account.catch_up(0);
        account.look_at(key());
        account.hear(key(), (11, SUBJECT), &order("j"), Some(true));
        account.wait_for_lane(key(), SUBJECT);
        assert_eq!(missing(&mut account), [(11, SUBJECT.to_owned())]);
        account.lanes.wait_for_copy(11, SUBJECT, Instant::now());
        assert!(account.misses_copies() && !account.lanes.has_letters());
    }

    #[test]
    fn what_was_ordered_meanwhile_is_not_skipped() {
        let mut account = account(0);
        account.catch_up(0);
        account.begin(key());
        account.hear(key(), (11, SUBJECT), &order("j"), Some(true));
        account.not_sent(key(), Some(Skip::Refused));
        assert_eq!((account.counts().dispatched, account.counts().skipped.total()), (1, 0));
        assert_eq!(missing(&mut account).len(), 1);
    }

    #[test]
    fn what_an_earlier_runner_skipped_counts_until_all_were_come_across() {
        let mut account = account(2);
        account.catch_up(0);
        let skipped = |account: &Account| account.counts().skipped.replayed_by_others;
        assert_eq!(skipped(&account), 2);
        for (letter, counted) in [("b", 2), ("c", 2), ("d", 3)] {
            let key = Key::of(&format!("mesh1.dead.local.a.work.{}", letter.repeat(32))).unwrap();
            account.look_at(key);
            account.not_sent(key, Some(Skip::ReplayedByOthers));
            assert_eq!(skipped(&account), counted);
        }
        let mut account = self::account(2);
        account.end_walk();
        assert_eq!(skipped(&account), 0, "whoever has come across all knows better");
    }
}
