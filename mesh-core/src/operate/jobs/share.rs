//! Letters whose orders are under way in this process, for whichever job: several that mean the same letters share them instead
//! of fighting for each.
//!
//! A hint and no more: who sends a letter is decided by the write of its order. Whoever finds a letter here puts it aside until it
//! is known what came of it; where no order came of it (refused, or its runner was dropped), it is looked at again.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use super::progress::Key;

/// Nothing has come of it yet.
const UNDER_WAY: u64 = 0;
/// It is not under way any more, and no order came of it.
const GIVEN_UP: u64 = u64::MAX;

/// What the jobs of a process have under way.
#[derive(Debug, Clone, Default)]
pub(super) struct Share(Arc<Mutex<HashMap<Key, Fate>>>);

/// What comes of a letter that is under way.
#[derive(Debug, Clone)]
pub(super) struct Fate(Arc<AtomicU64>);

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Came {
    /// Nothing yet.
    Nothing,
    /// Its order, at this sequence.
    Order(u64),
    /// Nothing, and it is not under way any more.
    GivenUp,
}

/// A letter is under way here, until this is dropped.
#[derive(Debug)]
pub(super) struct Mark {
    share: Share,
    letter: Key,
    fate: Fate,
}

impl Share {
    /// What comes of a letter that is under way.
    pub(super) fn of(&self, letter: Key) -> Option<Fate> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&letter).cloned()
    }

    /// A letter is under way from now on. One that is already stays another's.
    pub(super) fn begin(&self, letter: Key) -> Option<Mark> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.contains_key(&letter) {
            return None;
        }
        let fate = Fate(Arc::new(AtomicU64::new(UNDER_WAY)));
        all.insert(letter, fate.clone());
        Some(Mark { share: self.clone(), letter, fate })
    }
}

impl Fate {
    pub(super) fn came(&self) -> Came {
        match self.0.load(Ordering::Relaxed) {
            UNDER_WAY => Came::Nothing,
            GIVEN_UP => Came::GivenUp,
            ordered_at => Came::Order(ordered_at),
        }
    }
}

impl Mark {
    /// Its order stands at this sequence.
    pub(super) fn ordered(&self, at: u64) {
        self.fate.0.store(at, Ordering::Relaxed);
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        self.share.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.letter);
        let _ = self.fate.0.compare_exchange(UNDER_WAY, GIVEN_UP, Ordering::Relaxed, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letter_is_one_jobs_until_it_is_known_what_came_of_it() {
        let subject = format!("mesh1.dead.local.a.work.{}", "a".repeat(32));
        let (share, letter) = (Share::default(), Key::of(&subject).unwrap());
        let mark = share.begin(letter).unwrap();
        assert!(share.begin(letter).is_none());
        let fate = share.of(letter).unwrap();
        assert_eq!(fate.came(), Came::Nothing);
        mark.ordered(7);
        drop(mark);
        assert_eq!(fate.came(), Came::Order(7));
        assert!(share.of(letter).is_none());
        let mark = share.begin(letter).unwrap();
        let fate = share.of(letter).unwrap();
        drop(mark);
        assert_eq!(fate.came(), Came::GivenUp);
    }
}
