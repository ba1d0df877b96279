//! The words in which the book and its owner speak.

use std::sync::Arc;

/// The caller's number of a delivery that it has in hand.
pub type Slot = u64;

/// Where a message stands in its stream. Two messages are the same one only if both numbers are: a stream that was made anew
/// counts from 1 again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct At {
    /// Its sequence.
    pub sequence: u64,
    /// When it was stored, Unix milliseconds.
    pub stored_at_ms: i64,
}

impl At {
    pub(super) const NOTHING: At = At { sequence: 0, stored_at_ms: i64::MIN };

    /// Whether all up to here includes `other`.
    pub(super) fn covers(self, other: At) -> bool {
        other.sequence <= self.sequence && other.stored_at_ms <= self.stored_at_ms
    }

    pub(super) fn before(self) -> At {
        At { sequence: self.sequence.saturating_sub(1), ..self }
    }
}

/// Which way a delivery came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Came {
    /// From the stream of the messages.
    Stream,
    /// From the lane.
    Lane,
}

/// A delivery that came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrival {
    /// Its number.
    pub slot: Slot,
    /// Its key; empty: it has none, and nothing waits for it.
    pub key: Arc<str>,
    /// Where the original stands.
    pub at: At,
    /// Which way it came.
    pub came: Came,
    /// Whether a person ordered it.
    pub replay: bool,
    /// Whether it says that its key is blocked.
    pub marked: bool,
}

/// What to do with a delivery that came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrived {
    /// It is kept until its turn.
    Kept,
    /// Its message is in hand already, as this one: to be settled with it.
    Same(Slot),
    /// Its message was settled: to be acknowledged.
    Done,
}

/// A delivery whose turn it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Begin {
    /// Which.
    pub slot: Slot,
    /// Whether its end needs a [`Book::plan`] even if all is well.
    pub is_blocked: bool,
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// There is nothing more to be done.
    Done,
    /// It waits on the lane.
    Again,
    /// It becomes the letter of this id.
    Letter(Arc<str>),
}

/// How a blocked key stood in the store when it was taken over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Loaded {
    /// Its head is not done, and no letter.
    Waiting,
    /// Its head is this letter, which has not ended.
    Letter(Arc<str>),
    /// Its head is done.
    Draining,
}

/// What must be in the store before a delivery may be settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plan {
    /// Nothing new.
    Settle,
    /// That this message blocks its key.
    Block(At),
    /// That the one that blocked the key is done, and those behind it are not.
    Drain(At),
    /// That the key is blocked no more.
    Free,
}
