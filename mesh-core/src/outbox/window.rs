//! Which rows may go next: the order of each key, and how much is in hand. Pure: time is given, nothing is awaited.
//!
//! Rows of one place (a message type, or an operation and its class) with one key stand in one [`Line`]; a row without a
//! key is a line of its own. Of a line at most one row is under way; the next goes when that one is confirmed. A failure
//! that concerns a place pauses the place, a refused row stops its line; in both cases what was loaded of it is forgotten,
//! for it still stands in the table and is read again when its time comes. So memory stays bounded, whatever is stuck.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::Duration,
};

/// One row as the table holds it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Row {
    pub(super) sequence: i64,
    pub(super) place: String,
    pub(super) key: String,
    pub(super) id: String,
    pub(super) deadline_ms: Option<i64>,
    pub(super) traceparent: Option<String>,
    pub(super) payload: Vec<u8>,
}

impl Row {
    /// The bytes that it takes here, about.
    pub(super) fn size(&self) -> usize {
        self.payload.len() + self.place.len() + self.key.len() + self.id.len() + 200
    }
}

/// What keeps its order: a place and a key, or one row that has no key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Line {
    Keyed { place: String, key: String },
    Single(i64),
}

impl Line {
    fn of(row: &Row) -> Line {
        if row.key.is_empty() {
            Line::Single(row.sequence)
        } else {
            Line::Keyed { place: row.place.clone(), key: row.key.clone() }
        }
    }
}

/// How much may be in hand.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Rows under way at once.
    pub(super) under_way: usize,
    /// Of these, rows of one place: a place that is stuck leaves room for the others.
    pub(super) per_place: usize,
    /// Rows in memory.
    pub(super) loaded: usize,
    /// Bytes in memory, about; one row more than fits may be there.
    pub(super) bytes: usize,
    /// Rows in memory of one line: a busy key leaves room for the others.
    pub(super) per_line: usize,
}

impl Limits {
    /// The limits for a window of `under_way` rows.
    pub(super) fn of(under_way: usize) -> Limits {
        let under_way = under_way.max(2);
        Limits { under_way, per_place: under_way / 2, loaded: under_way * 2, bytes: MAX_BYTES, per_line: 32 }
    }
}

/// Bytes of rows in memory, at most, about.
const MAX_BYTES: usize = 32 * 1024 * 1024;

/// The pause after the first failure of a place; it doubles until [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
struct Queue {
    waiting: BTreeMap<i64, Row>,
    under_way: bool,
}

#[derive(Debug)]
struct UnderWay {
    line: Line,
    place: String,
    size: usize,
}

#[derive(Debug, Default)]
struct Place {
    under_way: usize,
    failures: u32,
    /// While it is paused: when one row may be tried again.
    again_ms: Option<i64>,
}

/// What is left out of a read, and how much is asked for.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Ask {
    /// Rows that are in hand.
    pub(super) known: Vec<i64>,
    /// Lines of which enough is in hand, as `(place, key)`.
    pub(super) lines: Vec<(String, String)>,
    /// Places that are paused.
    pub(super) places: Vec<String>,
    /// At most so many rows.
    pub(super) limit: usize,
    /// No further row when so many bytes are read.
    pub(super) bytes: usize,
}

/// The rows in hand.
#[derive(Debug)]
pub(super) struct Window {
    limits: Limits,
    queues: HashMap<Line, Queue>,
    /// First rows of lines that have none under way: what may go, in sequence.
    heads: BTreeMap<i64, Line>,
    waiting: usize,
    bytes: usize,
    under_way: HashMap<i64, UnderWay>,
    places: HashMap<String, Place>,
    /// Confirmed or refused, and not yet written down as such.
    settled: HashSet<i64>,
    /// Lines of refusals that are not yet written down.
    stopped: HashMap<i64, Line>,
    /// Forgotten without having been sent.
    dropped: Vec<i64>,
}

impl Window {
    pub(super) fn new(limits: Limits) -> Window {
        Window {
            limits,
            queues: HashMap::new(),
            heads: BTreeMap::new(),
            waiting: 0,
            bytes: 0,
            under_way: HashMap::new(),
            places: HashMap::new(),
            settled: HashSet::new(),
            stopped: HashMap::new(),
            dropped: Vec::new(),
        }
    }

    /// Whether it is worth reading: half of what may be loaded is free.
    pub(super) fn has_room(&self) -> bool {
        self.waiting + self.under_way.len() <= self.limits.loaded / 2 && self.bytes <= self.limits.bytes / 2
    }

    /// Whether a read would leave out rows of lines of which enough is in hand.
    pub(super) fn has_full_lines(&self) -> bool {
        self.queues.values().any(|queue| queue.waiting.len() >= self.limits.per_line)
    }

    /// Rows that were forgotten without having been sent, since this was last asked.
    pub(super) fn take_dropped(&mut self) -> Vec<i64> {
        std::mem::take(&mut self.dropped)
    }

    pub(super) fn under_way(&self) -> usize {
        self.under_way.len()
    }

    /// Places for rows that could be sent now.
    pub(super) fn free(&self) -> usize {
        self.limits.under_way - self.under_way.len()
    }

    /// The places that are paused.
    pub(super) fn paused(&self) -> impl Iterator<Item = &str> {
        self.places.iter().filter(|(_, place)| place.again_ms.is_some()).map(|(name, _)| name.as_str())
    }

    /// When the first paused place may be tried again.
    pub(super) fn next_trial_ms(&self) -> Option<i64> {
        self.places.values().filter(|place| place.under_way == 0).filter_map(|place| place.again_ms).min()
    }

    /// Paused places whose time has come and of which nothing is under way: one row of each may be read and tried.
    pub(super) fn trials(&self, now_ms: i64) -> Vec<String> {
        let due = |place: &Place| place.under_way == 0 && place.again_ms.is_some_and(|again| again <= now_ms);
        self.places.iter().filter(|(_, place)| due(place)).map(|(name, _)| name.clone()).collect()
    }

    /// What to read next.
    pub(super) fn ask(&self) -> Ask {
        let waiting = self.queues.values().flat_map(|queue| queue.waiting.keys());
        let full = self.queues.iter().filter(|(_, queue)| queue.waiting.len() >= self.limits.per_line);
        let lines = full.map(|(line, _)| line).chain(self.stopped.values()).filter_map(|line| match line {
            Line::Keyed { place, key } => Some((place.clone(), key.clone())),
            Line::Single(_) => None,
        });
        Ask {
            known: self.under_way.keys().chain(waiting).chain(&self.settled).copied().collect(),
            lines: lines.collect(),
            places: self.paused().map(str::to_owned).collect(),
            limit: if self.bytes < self.limits.bytes {
                self.limits.loaded.saturating_sub(self.waiting + self.under_way.len())
            } else {
                0
            },
            bytes: self.limits.bytes.saturating_sub(self.bytes),
        }
    }

    /// Takes in what was read, in the order of its sequence, and says which rows it took. What exceeds a line's share is
    /// left for a later read.
    pub(super) fn absorb(&mut self, rows: Vec<Row>) -> Vec<i64> {
        let mut taken = Vec::with_capacity(rows.len());
        for row in rows {
            let sequence = row.sequence;
            if self.take_in(row) {
                taken.push(sequence);
            }
        }
        taken
    }

    fn take_in(&mut self, row: Row) -> bool {
        let (sequence, line) = (row.sequence, Line::of(&row));
        let is_known = self.settled.contains(&sequence) || self.under_way.contains_key(&sequence);
        if is_known || self.stopped.values().any(|stopped| *stopped == line) {
            return false;
        }
        let queue = self.queues.entry(line.clone()).or_default();
        if queue.waiting.len() >= self.limits.per_line || queue.waiting.contains_key(&sequence) {
            return false;
        }
        let first = queue.waiting.keys().next().copied();
        self.waiting += 1;
        self.bytes += row.size();
        queue.waiting.insert(sequence, row);
        if !queue.under_way && first.is_none_or(|first| sequence < first) {
            first.map(|first| self.heads.remove(&first));
            self.heads.insert(sequence, line);
        }
        true
    }

    /// The rows that go now. They are under way until one of the methods below says otherwise.
    pub(super) fn choose(&mut self) -> Vec<Row> {
        let mut chosen = Vec::new();
        let heads: Vec<i64> = self.heads.keys().copied().collect();
        for sequence in heads {
            if self.free() == 0 {
                break;
            }
            let Some(line) = self.heads.get(&sequence) else { continue };
            let Some(queue) = self.queues.get_mut(line) else { continue };
            let Some(name) = queue.waiting.get(&sequence).map(|row| row.place.clone()) else { continue };
            let place = self.places.entry(name.clone()).or_default();
            let limit = if place.again_ms.is_some() { 1 } else { self.limits.per_place };
            if place.under_way >= limit {
                continue;
            }
            let Some(row) = queue.waiting.remove(&sequence) else { continue };
            queue.under_way = true;
            place.under_way += 1;
            self.waiting -= 1;
            if let Some(line) = self.heads.remove(&sequence) {
                self.under_way.insert(sequence, UnderWay { line, place: name, size: row.size() });
            }
            chosen.push(row);
        }
        chosen
    }

    /// The broker has it. The next of its line may go; its place is well.
    pub(super) fn confirmed(&mut self, sequence: i64) {
        let Some((line, name)) = self.ended(sequence) else { return };
        if let Some(place) = self.places.get_mut(&name) {
            (place.failures, place.again_ms) = (0, None);
        }
        self.settled.insert(sequence);
        self.next_of(line);
    }

    /// It is refused for good. Its line stops here, until the refusal is written down and its time comes.
    pub(super) fn refused(&mut self, sequence: i64) {
        let Some((line, _)) = self.ended(sequence) else { return };
        self.settled.insert(sequence);
        self.forget(&line);
        self.stopped.insert(sequence, line);
    }

    /// The same for a row that is not sent at all.
    pub(super) fn stop(&mut self, row: &Row) {
        self.settled.insert(row.sequence);
        self.stopped.insert(row.sequence, Line::of(row));
    }

    /// Its place can't take it now: the place pauses. True when it did not pause before.
    pub(super) fn postponed(&mut self, sequence: i64, now_ms: i64) -> bool {
        let Some((line, name)) = self.ended(sequence) else { return false };
        self.forget(&line);
        let of_place = |line: &Line, queue: &Queue| match line {
            Line::Keyed { place, .. } => *place == name,
            Line::Single(_) => queue.waiting.values().any(|row| row.place == name),
        };
        let stuck: Vec<Line> =
            self.queues.iter().filter(|(line, queue)| of_place(line, queue)).map(|(line, _)| line.clone()).collect();
        for line in stuck {
            self.forget(&line);
        }
        let place = self.places.entry(name).or_default();
        let first = place.again_ms.is_none();
        // Those that were under way together fail together: that is one failure.
        if first || place.under_way == 0 && place.again_ms.is_some_and(|again| again <= now_ms) {
            let pause = FIRST_PAUSE.saturating_mul(1 << place.failures.min(10)).min(LONGEST_PAUSE);
            place.failures = place.failures.saturating_add(1);
            place.again_ms = Some(now_ms.saturating_add(i64::try_from(pause.as_millis()).unwrap_or(i64::MAX)));
        }
        first
    }

    /// Nothing stands in the table for this place: there is nothing to pause for.
    pub(super) fn empty(&mut self, place: &str) {
        if self.places.get(place).is_some_and(|place| place.under_way == 0) {
            self.places.remove(place);
        }
    }

    /// What waits here is read again, perhaps by another relay. What is under way comes to its end.
    pub(super) fn forget_waiting(&mut self) {
        let lines: Vec<Line> = self.queues.keys().cloned().collect();
        for line in lines {
            self.forget(&line);
        }
    }

    /// What became of these is written down in the table.
    pub(super) fn written(&mut self, sequences: &[i64]) {
        for sequence in sequences {
            self.settled.remove(sequence);
            self.stopped.remove(sequence);
        }
    }

    fn ended(&mut self, sequence: i64) -> Option<(Line, String)> {
        let UnderWay { line, place: name, size } = self.under_way.remove(&sequence)?;
        self.bytes -= size;
        if let Some(place) = self.places.get_mut(&name) {
            place.under_way -= 1;
        }
        if let Some(queue) = self.queues.get_mut(&line) {
            queue.under_way = false;
        }
        Some((line, name))
    }

    fn next_of(&mut self, line: Line) {
        match self.queues.get(&line).map(|queue| queue.waiting.keys().next().copied()) {
            Some(Some(next)) => {
                self.heads.insert(next, line);
            }
            _ => {
                self.queues.remove(&line);
            }
        }
    }

    /// Drops what waits of a line; one that is under way stays known.
    fn forget(&mut self, line: &Line) {
        let Some(queue) = self.queues.get_mut(line) else { return };
        self.waiting -= queue.waiting.len();
        self.bytes -= queue.waiting.values().map(Row::size).sum::<usize>();
        self.dropped.extend(queue.waiting.keys());
        if let Some(first) = queue.waiting.keys().next() {
            self.heads.remove(first);
        }
        queue.waiting.clear();
        if !queue.under_way {
            self.queues.remove(line);
        }
    }
}

#[cfg(test)]
#[path = "window_tests.rs"]
mod tests;
