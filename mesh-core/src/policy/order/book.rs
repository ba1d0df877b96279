//! What one process has in hand of one partition, by key.
//!
//! Messages of a key stand in the order of their stream, wherever they came from: from the stream, or from the lane, where the
//! first one waits to be tried again and where those behind it are put aside. One of a key is under way at a time.
//!
//! While a key is blocked a record of it stands in the store, and only then do copies of its messages lie on the lane: the
//! record is written before the first copy and goes after the last. So a copy of a key without a record is one that a process
//! sent that was stopped and woke up too late; its message was handled meanwhile.
//!
//! More may lie on the lane than may be in hand at once. As long as an owner before may have put something there that is not
//! here, no key is called free and nothing of one that drains begins, as what is not here may be ahead of it; what is sure to
//! be next (the head of a blocked key, a replay that waits for nobody) begins and makes room.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use super::{
    lane::{Block, Entry, Id, Lane, Past, follow, in_line, out_of_line},
    words::{Arrival, Arrived, At, Begin, Came, Ending, Loaded, Plan, Slot},
};

/// What one process has in hand of one partition.
#[derive(Debug)]
pub struct Book {
    keys: HashMap<Id, Lane>,
    slots: HashMap<Slot, (Id, At, bool)>,
    line: VecDeque<Id>,
    moves: Vec<Slot>,
    writes: Vec<(Arc<str>, Plan)>,
    /// Keys with messages that could not be put aside for want of room.
    short: VecDeque<Id>,
    past: Past,
    held: usize,
    most_held: usize,
    behind: usize,
    patience: usize,
    blocked: usize,
    is_open: bool,
    /// Whether all that owners before put on the lane is here, or was.
    is_whole: bool,
}

impl Book {
    /// An empty book that begins nothing until it is [opened](Book::open). `most_held`: so many messages are put aside on
    /// the lane at most. `patience`: so many are kept here behind keys that are blocked for a moment only.
    #[must_use]
    pub fn new(most_held: usize, patience: usize) -> Book {
        Book {
            keys: HashMap::new(),
            slots: HashMap::new(),
            line: VecDeque::new(),
            moves: Vec::new(),
            writes: Vec::new(),
            short: VecDeque::new(),
            past: Past::default(),
            held: 0,
            most_held,
            behind: 0,
            patience,
            blocked: 0,
            is_open: false,
            is_whole: true,
        }
    }

    /// Takes over a blocked key that stood in the store.
    pub fn load(&mut self, key: &Arc<str>, head: At, state: Loaded) {
        let lane = self.keys.entry(Id::Key(Arc::clone(key))).or_insert_with(|| Lane::new(At::NOTHING));
        lane.done = if state == Loaded::Draining { head } else { head.before() };
        lane.block = match state {
            Loaded::Waiting => Block::Waiting { head, letter: None },
            Loaded::Letter(letter) => Block::Waiting { head, letter: Some(letter) },
            Loaded::Draining => Block::Draining { head },
        };
        self.blocked += 1;
    }

    /// The head of a key that was taken over waits nowhere that could be asked: unless it is here, or comes before all that lay
    /// on the lane has come, a process that was stopped settled it after all, and those behind it are next.
    pub fn seek(&mut self, key: &Arc<str>) {
        let Some(lane) = self.keys.get_mut(&Id::Key(Arc::clone(key))) else { return };
        lane.is_sought = matches!(&lane.block, Block::Waiting { head, .. } if !lane.queue.contains_key(head));
    }

    /// To be called before it is [opened](Book::open): more lies on the lane than came.
    pub fn more_is_on_lane(&mut self) {
        self.is_whole = false;
    }

    /// All that owners before put on the lane has come.
    pub fn lane_is_whole(&mut self) {
        self.is_whole = true;
        if self.is_open {
            self.look_at_all();
        }
    }

    /// Whether all that owners before put on the lane is here, or was. Until then nothing is put aside.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.is_whole
    }

    /// Everything that was under way elsewhere is in hand: begin.
    pub fn open(&mut self) {
        self.is_open = true;
        self.look_at_all();
    }

    fn look_at_all(&mut self) {
        for id in self.keys.keys().cloned().collect::<Vec<_>>() {
            self.look_at(id);
        }
    }

    /// Something is under way elsewhere: begin nothing.
    pub fn close(&mut self) {
        self.is_open = false;
    }

    /// Whether anything may begin.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.is_open
    }

    /// Messages on the lane that are in hand or on their way.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held
    }

    /// Messages of the stream that are in hand behind blocked keys, and not put aside.
    #[must_use]
    pub fn behind(&self) -> usize {
        self.behind
    }

    /// To be called now and then: what waits behind keys that stay blocked is put aside, for it may wait for days.
    pub fn hurry(&mut self) {
        let blocked: Vec<Id> =
            self.keys.iter().filter(|(_, lane)| lane.block != Block::Open).map(|(id, _)| id.clone()).collect();
        for id in blocked {
            if let Some(lane) = self.keys.get_mut(&id) {
                lane.seen_blocked = lane.seen_blocked.saturating_add(1);
            }
            self.look_at(id);
        }
    }

    /// Whether as many messages are put aside as may be.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.held >= self.most_held
    }

    /// How many keys are blocked.
    #[must_use]
    pub fn blocked(&self) -> usize {
        self.blocked
    }

    /// A delivery came.
    pub fn arrive(&mut self, arrival: Arrival) -> Arrived {
        let Arrival { slot, key, at, came, replay, marked } = arrival;
        let id = if key.is_empty() { Id::Alone(at) } else { Id::Key(key) };
        let done = self.past.of(&id);
        let lane = self.keys.entry(id.clone()).or_insert_with(|| Lane::new(done));
        let is_head = matches!(&lane.block, Block::Waiting { head, .. } if *head == at);
        lane.is_sought &= !is_head;
        let was_on_lane = lane.queue.get(&at).is_some_and(Entry::is_on_lane);
        let verdict = if replay && !is_head {
            out_of_line(lane, slot, at)
        } else {
            in_line(lane, (slot, at), came, (replay, marked, is_head))
        };
        if verdict == Arrived::Kept {
            self.slots.insert(slot, (id.clone(), at, replay && !is_head));
        }
        let is_on_lane = lane.queue.get(&at).is_some_and(Entry::is_on_lane);
        self.held += usize::from(is_on_lane && !was_on_lane);
        self.look_at(id);
        verdict
    }

    /// Whether the original of a delivery that lies on the lane too may be settled before its turn: the copy is found by whoever
    /// comes after, as long as the store says that its key is blocked, and it says so until the copy is settled.
    #[must_use]
    pub fn keeps_its_copy(&self, slot: Slot) -> bool {
        let Some((id @ Id::Key(_), at, false)) = self.slots.get(&slot) else { return false };
        let Some(lane) = self.keys.get(id) else { return false };
        // A record that is going may be gone already.
        let is_recorded = lane.block != Block::Open && lane.writing != Some(Plan::Free);
        is_recorded && lane.queue.get(at).is_some_and(|entry| entry.came == Came::Lane)
    }

    /// The next delivery whose turn it is.
    pub fn begin(&mut self) -> Option<Begin> {
        while self.is_open {
            let id = self.line.pop_front()?;
            let Some(lane) = self.keys.get_mut(&id) else { continue };
            lane.in_line = false;
            let Some(slot) = lane.next(self.is_whole) else { continue };
            lane.running = Some(slot);
            return Some(Begin { slot, is_blocked: lane.block != Block::Open });
        }
        None
    }

    /// Whether [`begin`](Book::begin) may have something.
    #[must_use]
    pub fn has_ready(&self) -> bool {
        self.is_open && !self.line.is_empty()
    }

    /// What must be written before the delivery that ended so is settled.
    pub fn plan(&mut self, slot: Slot, ending: &Ending) -> Plan {
        let Some((id @ Id::Key(_), at, out)) = self.slots.get(&slot) else { return Plan::Settle };
        let (at, out) = (*at, *out);
        let Some(lane) = self.keys.get_mut(id) else { return Plan::Settle };
        let plan = match (ending, &lane.block) {
            (_, Block::Waiting { .. } | Block::Draining { .. }) if out => Plan::Settle,
            (Ending::Done, Block::Open) => Plan::Settle,
            (Ending::Done, _) if self.is_whole && !lane.others_on_lane(at) => Plan::Free,
            (Ending::Done, Block::Waiting { .. }) => Plan::Drain(at),
            (Ending::Done, Block::Draining { .. }) => Plan::Settle,
            (Ending::Letter(new), Block::Waiting { letter: Some(old), .. }) if new == old => Plan::Settle,
            _ => Plan::Block(at),
        };
        lane.writing = (plan != Plan::Settle).then_some(plan);
        plan
    }

    /// A delivery is settled.
    pub fn settled(&mut self, slot: Slot, ending: Ending) {
        let Some((id, at, out)) = self.slots.remove(&slot) else { return };
        let Some(lane) = self.keys.get_mut(&id) else { return };
        lane.running = None;
        let plan = lane.writing.take();
        let was_blocked = lane.block != Block::Open;
        let mut freed = 0;
        if out {
            lane.replays.retain(|(other, _)| *other != slot);
        } else if let Some(entry) = lane.queue.remove(&at) {
            freed = usize::from(entry.is_on_lane());
        }
        if ending == Ending::Done {
            if !out && !lane.done.covers(at) {
                lane.done = at;
            }
            follow(lane, plan);
        } else if plan.is_some() || matches!(&lane.block, Block::Waiting { head, .. } if *head == at) {
            let letter = if let Ending::Letter(letter) = ending { Some(letter) } else { None };
            if !out && !lane.done.covers(at.before()) {
                // All ahead of it is done, whoever did it.
                lane.done = at.before();
            }
            lane.block = Block::Waiting { head: at, letter };
        }
        let is_blocked = lane.block != Block::Open;
        self.recount(was_blocked, is_blocked, freed);
        self.look_at(id);
    }

    /// A delivery was given back to the broker: it is in hand no more, and nothing was done.
    pub fn given_back(&mut self, slot: Slot) {
        let Some((id, at, out)) = self.slots.remove(&slot) else { return };
        let Some(lane) = self.keys.get_mut(&id) else { return };
        lane.writing = None;
        lane.running = lane.running.filter(|running| *running != slot);
        if out {
            lane.replays.retain(|(other, _)| *other != slot);
        } else if let Some(entry) = lane.queue.remove(&at) {
            self.held -= usize::from(entry.is_on_lane());
        }
        self.look_at(id);
    }

    /// Deliveries that are to be put aside on the lane.
    pub fn take_moves(&mut self) -> Vec<Slot> {
        std::mem::take(&mut self.moves)
    }

    /// A delivery was put aside and its original is settled. `is_here`: its copy has come already.
    pub fn moved(&mut self, slot: Slot, is_here: bool) {
        let Some((id, at, _)) = self.slots.get(&slot).cloned() else { return };
        if !is_here {
            self.slots.remove(&slot);
        }
        if let Some(entry) = self.keys.get_mut(&id).and_then(|lane| lane.queue.get_mut(&at)) {
            *entry = Entry { slot: is_here.then_some(slot), came: Came::Lane, moving: false, stays: false };
        }
        self.look_at(id);
    }

    /// A delivery was not put aside: it stays in hand, as it came.
    pub fn not_moved(&mut self, slot: Slot) {
        let Some((id, at, _)) = self.slots.get(&slot).cloned() else { return };
        if let Some(entry) = self.keys.get_mut(&id).and_then(|lane| lane.queue.get_mut(&at)) {
            entry.moving = false;
            entry.stays = true;
            self.held -= usize::from(entry.came != Came::Lane);
        }
        self.look_at(id);
    }

    /// The letters that block keys, each with its key.
    pub fn letters(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<str>)> {
        self.keys.iter().filter_map(|(id, lane)| match (id, &lane.block) {
            (Id::Key(key), Block::Waiting { letter: Some(letter), .. }) => Some((letter, key)),
            _ => None,
        })
    }

    /// The letter that blocked a key has ended elsewhere: those behind it come next, once that is written.
    pub fn release(&mut self, key: &Arc<str>, letter: &str) {
        self.release_from(key, Some(letter));
    }

    fn release_from(&mut self, key: &Arc<str>, by: Option<&str>) {
        let id = Id::Key(Arc::clone(key));
        let Some(lane) = self.keys.get_mut(&id) else { return };
        let Block::Waiting { head, letter } = &lane.block else { return };
        let head = *head;
        if letter.as_deref() != by || lane.running.is_some() || lane.writing.is_some() || lane.queue.contains_key(&head)
        {
            return;
        }
        // Whoever says that it ended knows. A head that is nowhere may still come: a broker that was killed forgets what it
        // delivered, and sends it again as if it were new.
        let done = if by.is_some() { head } else { head.before() };
        if !lane.done.covers(done) {
            lane.done = done;
        }
        let has_others = !self.is_whole || lane.others_on_lane(head);
        let plan = if has_others { Plan::Drain(done) } else { Plan::Free };
        lane.is_sought = false;
        lane.writing = Some(plan);
        self.writes.push((Arc::clone(key), plan));
    }

    /// Records that are to be written, after which [`written`](Book::written) is to be called.
    pub fn take_writes(&mut self) -> Vec<(Arc<str>, Plan)> {
        std::mem::take(&mut self.writes)
    }

    /// A record is written.
    pub fn written(&mut self, key: &Arc<str>) {
        let id = Id::Key(Arc::clone(key));
        let Some(lane) = self.keys.get_mut(&id) else { return };
        let plan = lane.writing.take();
        let was_blocked = lane.block != Block::Open;
        follow(lane, plan);
        let is_blocked = lane.block != Block::Open;
        self.recount(was_blocked, is_blocked, 0);
        self.look_at(id);
    }

    fn recount(&mut self, was_blocked: bool, is_blocked: bool, freed: usize) {
        self.blocked = self.blocked + usize::from(is_blocked) - usize::from(was_blocked);
        self.held -= freed;
        while self.held < self.most_held {
            let Some(id) = self.short.pop_front() else { break };
            if let Some(lane) = self.keys.get_mut(&id) {
                lane.is_short = false;
            }
            self.look_at(id);
        }
    }

    /// After anything changed at a key: does it have something to begin, to put aside or to write?
    fn look_at(&mut self, id: Id) {
        if let Id::Key(key) = &id
            && self.is_open
            && self.is_whole
            && self.keys.get(&id).is_some_and(|lane| lane.is_sought)
        {
            self.release_from(key, None);
        }
        let Some(lane) = self.keys.get_mut(&id) else { return };
        self.behind -= std::mem::take(&mut lane.behind);
        if lane.block == Block::Open {
            lane.seen_blocked = 0;
        }
        if lane.is_idle() {
            let (done, is_short) = (lane.done, lane.is_short);
            self.keys.remove(&id);
            if is_short {
                self.short.retain(|other| *other != id);
            }
            self.past.keep(id, done);
            return;
        }
        if !lane.in_line && lane.next(self.is_whole).is_some() {
            lane.in_line = true;
            self.line.push_back(id.clone());
        }
        let head = match (&lane.block, &id) {
            (Block::Waiting { head, .. } | Block::Draining { head }, Id::Key(_)) if lane.writing.is_none() => *head,
            _ => return,
        };
        if !self.is_open || !self.is_whole {
            return;
        }
        let is_drained = matches!(lane.block, Block::Draining { .. }) && lane.running.is_none();
        if is_drained && !lane.queue.values().any(Entry::is_on_lane) {
            lane.writing = Some(Plan::Free);
            if let Id::Key(key) = &id {
                self.writes.push((Arc::clone(key), Plan::Free));
            }
            return;
        }
        let (running, next) = (lane.running, lane.next(self.is_whole));
        let may_move = |at: &At, entry: &Entry| {
            let is_apart = entry.is_on_lane() || entry.stays || *at == head;
            entry.slot.filter(|slot| !is_apart && Some(*slot) != running && Some(*slot) != next)
        };
        lane.behind = lane.queue.iter().filter(|(at, entry)| may_move(at, entry).is_some()).count();
        if lane.seen_blocked > 1 || self.behind + lane.behind > self.patience {
            for (at, entry) in &mut lane.queue {
                let Some(slot) = may_move(at, entry) else { continue };
                if self.held >= self.most_held {
                    if !std::mem::replace(&mut lane.is_short, true) {
                        self.short.push_back(id.clone());
                    }
                    break;
                }
                entry.moving = true;
                lane.behind -= 1;
                self.held += 1;
                self.moves.push(slot);
            }
        }
        self.behind += lane.behind;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(sequence: u64) -> At {
        At { sequence, stored_at_ms: 1 }
    }

    fn arrival(sequence: u64, came: Came) -> Arrival {
        let marked = came == Came::Lane;
        Arrival { slot: sequence, key: "k".into(), at: at(sequence), came, replay: false, marked }
    }

    /// A book with room for `most_held`, whose key is blocked by the letter of message 1.
    fn blocked(most_held: usize) -> Book {
        let mut book = Book::new(most_held, 0);
        book.load(&"k".into(), at(1), Loaded::Letter("letter".into()));
        book.open();
        book
    }

    #[test]
    fn a_key_that_finds_no_room_stands_in_the_line_for_it_once_however_often_it_is_looked_at() {
        let mut book = blocked(1);
        for sequence in 2..5 {
            assert_eq!(book.arrive(arrival(sequence, Came::Stream)), Arrived::Kept);
        }
        assert_eq!(book.take_moves(), [2], "there is room for one");
        for _ in 0..100 {
            book.hurry();
        }
        assert_eq!(book.short.len(), 1);
        // The copy is not on the lane after all: whoever waits for the room that is free again gets it at the next look.
        book.not_moved(2);
        assert_eq!(book.take_moves(), [3]);
        assert_eq!(book.short.len(), 1);
    }

    #[test]
    fn the_limit_counts_what_waits_behind_all_keys_together() {
        let mut book = Book::new(3, 0);
        for sequence in 1..=10 {
            book.load(&format!("k{sequence}").into(), at(sequence), Loaded::Letter(sequence.to_string().into()));
        }
        book.open();
        for sequence in 11..=30 {
            let key = format!("k{}", (sequence - 1) % 10 + 1).into();
            assert_eq!(book.arrive(Arrival { key, ..arrival(sequence, Came::Stream) }), Arrived::Kept);
            book.hurry();
        }
        assert_eq!((book.take_moves().len(), book.held(), book.is_full()), (3, 3, true));
    }

    #[test]
    fn while_more_lies_on_the_lane_a_head_runs_and_what_is_behind_it_waits_for_the_rest() {
        let mut book = Book::new(9, 0);
        book.load(&"k".into(), at(1), Loaded::Letter("letter".into()));
        book.more_is_on_lane();
        assert_eq!(book.arrive(arrival(3, Came::Lane)), Arrived::Kept);
        assert_eq!(book.arrive(arrival(4, Came::Stream)), Arrived::Kept);
        assert_eq!(book.arrive(Arrival { replay: true, ..arrival(1, Came::Lane) }), Arrived::Kept);
        book.open();
        assert_eq!(book.begin(), Some(Begin { slot: 1, is_blocked: true }));
        assert_eq!(book.plan(1, &Ending::Done), Plan::Drain(at(1)));
        book.settled(1, Ending::Done);
        book.hurry();
        assert_eq!((book.begin(), book.take_moves(), book.take_writes()), (None, vec![], vec![]));
        // What comes later was ahead of it.
        assert_eq!(book.arrive(arrival(2, Came::Lane)), Arrived::Kept);
        book.lane_is_whole();
        assert_eq!(book.begin().map(|begin| begin.slot), Some(2));
    }

    #[test]
    fn an_original_is_settled_before_its_turn_only_where_its_copy_is_here_and_its_key_is_recorded_as_blocked() {
        let mut book = blocked(9);
        assert_eq!(book.arrive(arrival(2, Came::Stream)), Arrived::Kept);
        assert!(!book.keeps_its_copy(2), "it has no copy");
        let copy = Arrival { slot: 3, ..arrival(2, Came::Lane) };
        assert_eq!(book.arrive(copy.clone()), Arrived::Same(2));
        assert!(book.keeps_its_copy(2));
        assert_eq!(book.take_moves(), [2]);
        book.moved(2, true);

        // The letter ends, and what is behind it runs: the record says draining, and goes with the last.
        book.release(&"k".into(), "letter");
        assert_eq!(book.take_writes(), [("k".into(), Plan::Drain(at(1)))]);
        book.written(&"k".into());
        assert!(book.keeps_its_copy(2));
        assert_eq!(book.begin().map(|begin| begin.slot), Some(2));
        assert_eq!(book.plan(2, &Ending::Done), Plan::Free);
        assert!(!book.keeps_its_copy(2), "its record is going");

        let mut open = Book::new(9, 0);
        open.open();
        assert_eq!(open.arrive(arrival(2, Came::Stream)), Arrived::Kept);
        assert_eq!(open.arrive(copy), Arrived::Same(2));
        assert!(!open.keeps_its_copy(2), "without a record its copy would be taken for one that is stale");
    }
}
