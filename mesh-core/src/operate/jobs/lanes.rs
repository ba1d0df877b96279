//! Consumers whose lanes are away, and the letters of a job that wait for them: in nobody's way.
//!
//! A lane may be away while all others work: its stream was taken away, or has no quorum. Nothing is ordered for it then, so that
//! no more orders stand without a copy than were under way when that was noticed; of those that wait one asks, again and again with
//! longer waits. A copy that is missing asks before a letter that is not ordered yet.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use mesh_proto::v1;
use tokio::time::Instant;

use crate::clock::patient_delays;

/// For so long a letter waits in its line until something is heard of its lane; then it makes way for others.
const SILENCE: Duration = Duration::from_secs(1);
/// Whoever was to ask has not: it is not to be sent any more, or may not now. Another one asks.
const ASKS_WITHIN: Duration = Duration::from_secs(15);
/// How long a consumer that does not exist is not looked for again.
const GONE_FOR: Duration = Duration::from_secs(1);

/// Letters that wait for one lane, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Waiting {
    /// `service/consumer`.
    pub(super) consumer: String,
    /// Letters that are not ordered.
    pub(super) letters: u64,
    /// Letters that are ordered and whose copy is not there.
    pub(super) copies: u64,
    pub(super) why: String,
}

impl Waiting {
    pub(super) fn into_wire(self) -> v1::JobWaiting {
        let Waiting { consumer, letters, copies, why } = self;
        v1::JobWaiting { consumer, letters, copies, why }
    }
}

/// Whether a letter may be ordered, as far as its lane goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gate {
    Open,
    /// Its consumer is to be looked for first.
    Ask,
    /// It stays in its line until something is heard, and no longer than this.
    Hold(Instant),
    /// It makes way for others.
    Away,
    /// Its consumer does not exist.
    Gone,
}

/// What is to be done for a lane that may be back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ask {
    /// This order's copy is sent: sequence and subject.
    Copy(u64, String),
    /// This letter's turn comes: its subject.
    Letter(String),
}

/// The lanes of one job, by the subjects of their letters without the ids.
#[derive(Default)]
pub(super) struct Lanes(BTreeMap<String, Lane>);

struct Lane {
    is_found: bool,
    /// The consumer is looked for since then.
    asked: Option<Instant>,
    gone_until: Option<Instant>,
    /// Copies that were given and not answered, and since when nothing was heard of them.
    unanswered: usize,
    silent_from: Instant,
    away: Option<Away>,
    /// The ids of the letters that wait. There may be as many as the job has.
    letters: VecDeque<[u8; 16]>,
    /// Orders whose copy is missing: sequence and id.
    copies: VecDeque<(u64, [u8; 16])>,
}

struct Away {
    why: String,
    /// Nobody asks until then, but this one.
    until: Instant,
    asks: Option<[u8; 16]>,
    delays: Box<dyn Iterator<Item = Duration> + Send>,
}

impl Lanes {
    /// Whether a letter may be ordered now.
    pub(super) fn gate(&self, subject: &str, now: Instant) -> Gate {
        let Some((place, id)) = split(subject) else { return Gate::Open };
        self.0.get(place).map_or(Gate::Ask, |lane| lane.gate(id, now))
    }

    /// A consumer is looked for.
    pub(super) fn ask(&mut self, subject: &str, now: Instant) {
        self.with(subject, now, |lane, _| lane.asked = Some(now));
    }

    /// It is there.
    pub(super) fn found(&mut self, subject: &str, now: Instant) {
        self.with(subject, now, |lane, _| (lane.is_found, lane.asked, lane.away) = (true, None, None));
    }

    /// It does not exist.
    pub(super) fn gone(&mut self, subject: &str, now: Instant) {
        self.with(subject, now, |lane, _| {
            (lane.asked, lane.away, lane.gone_until) = (None, None, Some(now + GONE_FOR))
        });
    }

    /// A letter waits for its lane from now on.
    pub(super) fn wait(&mut self, subject: &str, now: Instant) {
        self.with(subject, now, |lane, id| lane.letters.push_back(id));
    }

    /// The copy of an order waits for its lane from now on.
    pub(super) fn wait_for_copy(&mut self, at: u64, subject: &str, now: Instant) {
        self.with(subject, now, |lane, id| lane.copies.push_back((at, id)));
    }

    /// A copy is given.
    pub(super) fn give(&mut self, subject: &str, now: Instant) {
        self.with(subject, now, |lane, _| {
            lane.silent_from = if lane.unanswered == 0 { now } else { lane.silent_from };
            lane.unanswered += 1;
        });
    }

    /// One was answered; whether the lane has it.
    pub(super) fn answered(&mut self, subject: &str, now: Instant, is_taken: bool) {
        self.with(subject, now, |lane, _| {
            lane.unanswered = lane.unanswered.saturating_sub(1);
            lane.silent_from = now;
            lane.away = lane.away.take().filter(|_| !is_taken);
        });
    }

    /// The lane is away. Whether that is news. What was given before that was known says nothing new.
    pub(super) fn fails(&mut self, subject: &str, why: &str, now: Instant) -> bool {
        let mut is_news = false;
        self.with(subject, now, |lane, id| {
            (is_news, lane.asked) = (lane.away.is_none(), None);
            lane.away.get_or_insert_with(|| Away::new(now)).fails(id, why, now);
        });
        is_news
    }

    /// What is to be done now: one thing for a lane that may be back, and all for one that is, letters only where there is room.
    pub(super) fn next(&mut self, now: Instant, has_room: bool) -> Option<Ask> {
        self.0.iter_mut().find_map(|(place, lane)| {
            let due = lane.next(now, has_room)?;
            Some(match due {
                (Some(at), id) => Ask::Copy(at, join(place, id)),
                (None, id) => Ask::Letter(join(place, id)),
            })
        })
    }

    /// When there is something to be done.
    pub(super) fn wakes(&self) -> Option<Instant> {
        let waits = self.0.values().filter(|lane| !lane.letters.is_empty() || !lane.copies.is_empty());
        waits.filter_map(|lane| lane.away.as_ref()).map(|away| away.until).min()
    }

    /// Whether a letter waits that is not ordered.
    pub(super) fn has_letters(&self) -> bool {
        self.0.values().any(|lane| !lane.letters.is_empty())
    }

    /// Whether the copy of an order waits.
    pub(super) fn has_copies(&self) -> bool {
        self.0.values().any(|lane| !lane.copies.is_empty())
    }

    /// The lanes that are away and for which something waits.
    pub(super) fn waiting(&self) -> Vec<Waiting> {
        let waiting = self.0.iter().filter_map(|(place, lane)| {
            let why = lane.away.as_ref()?.why.clone();
            let (rest, consumer) = place.rsplit_once('.')?;
            let (_, service) = rest.rsplit_once('.')?;
            let (letters, copies) = (lane.letters.len() as u64, lane.copies.len() as u64);
            Some(Waiting { consumer: format!("{service}/{consumer}"), letters, copies, why })
        });
        waiting.filter(|waiting| waiting.letters + waiting.copies > 0).collect()
    }

    fn with(&mut self, subject: &str, now: Instant, act: impl FnOnce(&mut Lane, [u8; 16])) {
        let Some((place, id)) = split(subject) else { return };
        if let Some(lane) = self.0.get_mut(place) {
            return act(lane, id);
        }
        act(self.0.entry(place.to_owned()).or_insert_with(|| Lane::new(now)), id);
    }
}

/// The subject of a letter without its id, and that. `None`: no letter has such an id.
fn split(subject: &str) -> Option<(&str, [u8; 16])> {
    let (place, id) = subject.rsplit_once('.')?;
    let is_id = id.len() == 32 && id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let id = is_id.then(|| u128::from_str_radix(id, 16).ok())??;
    Some((place, id.to_be_bytes()))
}

fn join(place: &str, id: [u8; 16]) -> String {
    format!("{place}.{:032x}", u128::from_be_bytes(id))
}

impl Lane {
    fn new(now: Instant) -> Lane {
        Lane {
            is_found: false,
            asked: None,
            gone_until: None,
            unanswered: 0,
            silent_from: now,
            away: None,
            letters: VecDeque::new(),
            copies: VecDeque::new(),
        }
    }

    fn gate(&self, id: [u8; 16], now: Instant) -> Gate {
        if self.gone_until.is_some_and(|until| now < until) {
            return Gate::Gone;
        }
        let asks = self.away.as_ref().is_none_or(|away| away.asks == Some(id) && self.copies.is_empty());
        if !asks {
            return Gate::Away;
        }
        let silent_from = if self.unanswered > 0 { Some(self.silent_from) } else { None };
        match self.asked.or(silent_from.filter(|from| now >= *from + SILENCE)) {
            Some(from) if now >= from + SILENCE => Gate::Away,
            Some(from) => Gate::Hold(from + SILENCE),
            None if self.is_found => Gate::Open,
            None => Gate::Ask,
        }
    }

    /// An order's sequence, for its copy, or none, for a letter; and the id.
    fn next(&mut self, now: Instant, has_room: bool) -> Option<(Option<u64>, [u8; 16])> {
        let is_silent = self.asked.is_some() || (self.unanswered > 0 && now >= self.silent_from + SILENCE);
        if self.away.as_ref().map_or(is_silent, |away| now < away.until) {
            return None;
        }
        let copy = self.copies.pop_front().map(|(at, id)| (Some(at), id));
        let is_let = has_room || self.away.is_some();
        let due = copy.or_else(|| if is_let { self.letters.pop_front().map(|id| (None, id)) } else { None })?;
        if let Some(away) = &mut self.away {
            (away.until, away.asks) = (now + ASKS_WITHIN, Some(due.1));
        }
        Some(due)
    }
}

impl Away {
    fn new(now: Instant) -> Away {
        Away { why: String::new(), until: now, asks: None, delays: Box::new(patient_delays()) }
    }

    fn fails(&mut self, id: [u8; 16], why: &str, now: Instant) {
        if now >= self.until || self.asks == Some(id) {
            why.clone_into(&mut self.why);
            (self.until, self.asks) = (now + self.delays.next().unwrap_or_default(), None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOMENT: Duration = Duration::from_millis(1);

    fn subject(consumer: &str, id: u8) -> String {
        format!("mesh1.dead.local.a.{consumer}.{:032x}", id)
    }

    #[test]
    fn a_consumer_is_looked_for_once_and_who_waits_long_for_that_makes_way() {
        let (mut lanes, now) = (Lanes::default(), Instant::now());
        let (first, second) = (subject("work", 1), subject("work", 2));
        assert_eq!(lanes.gate(&first, now), Gate::Ask);
        lanes.ask(&first, now);
        assert_eq!(lanes.gate(&second, now), Gate::Hold(now + SILENCE));
        assert_eq!(lanes.gate(&second, now + SILENCE), Gate::Away);
        assert_eq!(lanes.gate(&subject("other", 1), now + SILENCE), Gate::Ask, "another one is not in its way");
        lanes.wait(&second, now + SILENCE);
        assert_eq!(lanes.next(now + SILENCE, true), None);
        lanes.found(&first, now + 2 * SILENCE);
        assert_eq!(lanes.gate(&first, now + 2 * SILENCE), Gate::Open);
        assert_eq!(lanes.next(now + 2 * SILENCE, false), None, "no room");
        assert_eq!(lanes.next(now + 2 * SILENCE, true), Some(Ask::Letter(second)));
        assert!(!lanes.has_letters() && lanes.waiting().is_empty());
    }

    #[test]
    fn of_those_that_wait_for_a_lane_one_asks_and_a_missing_copy_before_all_letters() {
        let (mut lanes, mut now) = (Lanes::default(), Instant::now());
        let of = |id| subject("work", id);
        lanes.found(&of(1), now);
        assert!(lanes.fails(&of(1), "no quorum", now));
        assert!(!lanes.fails(&of(2), "no quorum", now), "given before that was known");
        lanes.wait_for_copy(7, &of(1), now);
        lanes.wait_for_copy(8, &of(2), now);
        for id in 3..6 {
            assert_eq!(lanes.gate(&of(id), now), Gate::Away);
            lanes.wait(&of(id), now);
        }
        let told = Waiting { consumer: "a/work".into(), letters: 3, copies: 2, why: "no quorum".into() };
        assert_eq!(lanes.waiting(), [told]);
        let mut waits = Vec::new();
        for _ in 0..5 {
            let until = lanes.wakes().unwrap();
            assert_eq!(lanes.next(until - MOMENT, true), None);
            waits.push(until - now);
            now = until;
            let Some(Ask::Copy(at, asks)) = lanes.next(now, true) else { panic!("a copy asks") };
            assert_eq!(lanes.next(now, true), None, "one asks");
            lanes.give(&asks, now);
            lanes.answered(&asks, now, false);
            assert!(!lanes.fails(&asks, "no quorum", now));
            lanes.wait_for_copy(at, &asks, now);
        }
        assert!(waits[4] > waits[0], "{waits:?}");
        now = lanes.wakes().unwrap();
        let Some(Ask::Copy(_, asks)) = lanes.next(now, true) else { panic!("a copy asks") };
        lanes.give(&asks, now);
        lanes.answered(&asks, now, true);
        let mut asked: Vec<_> = std::iter::from_fn(|| lanes.next(now, true)).collect();
        assert!(matches!(asked.remove(0), Ask::Copy(..)));
        assert_eq!(asked, [3, 4, 5].map(|id| Ask::Letter(of(id))), "it is back");
        assert!(lanes.waiting().is_empty() && lanes.wakes().is_none());
    }

    #[test]
    fn the_letter_that_asks_may_go_and_where_it_does_not_another_one_asks() {
        let (mut lanes, now) = (Lanes::default(), Instant::now());
        let of = |id| subject("work", id);
        lanes.ask(&of(1), now);
        assert!(lanes.fails(&of(1), "no quorum", now));
        (1..3).for_each(|id| lanes.wait(&of(id), now));
        let now = lanes.wakes().unwrap();
        assert_eq!(lanes.next(now, false), Some(Ask::Letter(of(1))));
        assert_eq!((lanes.gate(&of(1), now), lanes.gate(&of(2), now)), (Gate::Ask, Gate::Away));
        assert_eq!(lanes.next(now + ASKS_WITHIN - MOMENT, true), None);
        assert_eq!(lanes.next(now + ASKS_WITHIN, true), Some(Ask::Letter(of(2))));
        lanes.gone(&of(2), now);
        assert_eq!(lanes.gate(&of(2), now), Gate::Gone);
        assert_eq!(lanes.gate(&of(2), now + GONE_FOR), Gate::Ask);
    }

    #[test]
    fn no_more_is_ordered_while_nothing_is_heard_of_the_copies() {
        let (mut lanes, now) = (Lanes::default(), Instant::now());
        let of = |id| subject("work", id);
        lanes.found(&of(1), now);
        lanes.give(&of(1), now);
        assert_eq!(lanes.gate(&of(2), now + SILENCE - MOMENT), Gate::Open);
        assert_eq!(lanes.gate(&of(2), now + SILENCE), Gate::Away);
        lanes.answered(&of(1), now + SILENCE, true);
        assert_eq!(lanes.gate(&of(2), now + 9 * SILENCE), Gate::Open, "nothing is waited for");
    }
}
