//! One key: what waits of it, what is under way, and whether it is blocked.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
};

use super::words::{Arrived, At, Came, Plan, Slot};

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Id {
    Key(Arc<str>),
    Alone(At),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Block {
    Open,
    /// The head is not done. `letter`: it is one that the dead-letter stream holds.
    Waiting {
        head: At,
        letter: Option<Arc<str>>,
    },
    Draining {
        head: At,
    },
}

#[derive(Debug)]
pub(super) struct Entry {
    /// `None`: its copy was sent to the lane and has not come back yet.
    pub(super) slot: Option<Slot>,
    pub(super) came: Came,
    /// Its copy is being sent.
    pub(super) moving: bool,
    /// It has to stay: the broker knows a copy of it that may be gone already.
    pub(super) stays: bool,
}

impl Entry {
    pub(super) fn is_on_lane(&self) -> bool {
        self.came == Came::Lane || self.moving
    }
}

#[derive(Debug)]
pub(super) struct Lane {
    pub(super) queue: BTreeMap<At, Entry>,
    /// Replays of letters that block nothing (any more): they go first.
    pub(super) replays: VecDeque<(Slot, At)>,
    pub(super) running: Option<Slot>,
    /// A record is being written: nothing begins and nothing moves.
    pub(super) writing: Option<Plan>,
    pub(super) block: Block,
    /// Whether its head waits nowhere that could be asked, and has not come.
    pub(super) is_sought: bool,
    /// All up to here is done.
    pub(super) done: At,
    /// Whether it stands in the line of those that may have something to begin.
    pub(super) in_line: bool,
    /// Whether it stands in the line of those that found no room to put aside.
    pub(super) is_short: bool,
    /// How many could be put aside and are not.
    pub(super) behind: usize,
    /// How often [`Book::hurry`] found it blocked.
    pub(super) seen_blocked: u8,
}

impl Lane {
    pub(super) fn new(done: At) -> Lane {
        Lane {
            queue: BTreeMap::new(),
            replays: VecDeque::new(),
            running: None,
            writing: None,
            block: Block::Open,
            is_sought: false,
            done,
            in_line: false,
            is_short: false,
            behind: 0,
            seen_blocked: 0,
        }
    }

    /// `is_whole`: nothing of it lies on the lane that is not known here.
    pub(super) fn next(&self, is_whole: bool) -> Option<Slot> {
        if self.running.is_some() || self.writing.is_some() {
            return None;
        }
        if let Some((slot, _)) = self.replays.front() {
            return Some(*slot);
        }
        let entry = match &self.block {
            Block::Waiting { head, .. } => self.queue.get(head)?,
            Block::Draining { .. } if !is_whole => return None,
            Block::Open | Block::Draining { .. } => self.queue.first_key_value()?.1,
        };
        entry.slot.filter(|_| !entry.moving)
    }

    pub(super) fn others_on_lane(&self, except: At) -> bool {
        self.queue.iter().any(|(at, entry)| *at != except && entry.is_on_lane())
    }

    pub(super) fn is_idle(&self) -> bool {
        self.queue.is_empty()
            && self.replays.is_empty()
            && self.running.is_none()
            && self.writing.is_none()
            && self.block == Block::Open
    }
}

/// How many keys are remembered at least after nothing of them is in hand: a broker that was killed forgets the newest acks,
/// and what it sends again then is recognised.
const REMEMBERED: usize = 8192;

/// How far each key got, for the newest ones.
#[derive(Debug, Default)]
pub(super) struct Past {
    newer: HashMap<Arc<str>, At>,
    older: HashMap<Arc<str>, At>,
}

impl Past {
    pub(super) fn of(&self, id: &Id) -> At {
        let Id::Key(key) = id else { return At::NOTHING };
        self.newer.get(key).or_else(|| self.older.get(key)).copied().unwrap_or(At::NOTHING)
    }

    pub(super) fn keep(&mut self, id: Id, done: At) {
        let Id::Key(key) = id else { return };
        if self.newer.len() >= REMEMBERED {
            self.older = std::mem::take(&mut self.newer);
        }
        self.newer.insert(key, done);
    }
}

/// What is true once a record is written.
pub(super) fn follow(lane: &mut Lane, plan: Option<Plan>) {
    match plan {
        Some(Plan::Drain(head)) => lane.block = Block::Draining { head },
        Some(Plan::Free) => lane.block = Block::Open,
        Some(Plan::Block(_) | Plan::Settle) | None => {}
    }
}

/// A replay of a letter that does not block its key.
pub(super) fn out_of_line(lane: &mut Lane, slot: Slot, at: At) -> Arrived {
    if let Some((same, _)) = lane.replays.iter().find(|(_, other)| *other == at) {
        return Arrived::Same(*same);
    }
    lane.replays.push_back((slot, at));
    Arrived::Kept
}

pub(super) fn in_line(lane: &mut Lane, (slot, at): (Slot, At), came: Came, about: (bool, bool, bool)) -> Arrived {
    let (replay, marked, is_head) = about;
    if let Some(entry) = lane.queue.get_mut(&at) {
        return match (entry.slot, came) {
            (Some(same), _) => {
                if came == Came::Lane {
                    // A copy lies on the lane, so the key's record has to stay until it is settled.
                    entry.came = came;
                }
                Arrived::Same(same)
            }
            (None, Came::Lane) => {
                entry.slot = Some(slot);
                Arrived::Kept
            }
            (None, Came::Stream) => Arrived::Done,
        };
    }
    let is_letter = is_head && matches!(lane.block, Block::Waiting { letter: Some(_), .. });
    let is_stale = came == Came::Lane && marked && lane.block == Block::Open;
    if !replay && (lane.done.covers(at) || is_letter || is_stale) {
        return Arrived::Done;
    }
    lane.queue.insert(at, Entry { slot: Some(slot), came, moving: false, stays: false });
    Arrived::Kept
}
