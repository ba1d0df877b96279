//! The life of a letter: its states, what may be done in each, and what follows. Pure: the fold of the records and whoever
//! orders something ask the same table.

use serde::{Deserialize, Serialize};

/// Where a letter stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LetterState {
    /// Waiting for a person.
    Open,
    /// Kept back by a person: not replayed until it is released.
    Held,
    /// Sent again; the consumer has not said yet.
    Replaying,
    /// The replay was handled.
    Resolved,
    /// Given up by a person.
    Discarded,
}

/// What can be done to a letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ActKind {
    /// It was refused.
    Captured,
    /// It was sent again.
    Replayed,
    /// It was handled.
    Resolved,
    /// It was given up.
    Discarded,
    /// It was kept back.
    Held,
    /// It was opened again.
    Released,
    /// Its payload was mended.
    Edited,
}

impl LetterState {
    /// The word that people read.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            LetterState::Open => "open",
            LetterState::Held => "held",
            LetterState::Replaying => "replaying",
            LetterState::Resolved => "resolved",
            LetterState::Discarded => "discarded",
        }
    }

    /// Whether nothing more is to be done about it.
    #[must_use]
    pub const fn is_ended(self) -> bool {
        matches!(self, LetterState::Resolved | LetterState::Discarded)
    }

    /// The state after something is done in this one. `None`: it can't be done here, and a record of it changes nothing.
    #[must_use]
    pub const fn after(self, act: ActKind) -> Option<LetterState> {
        match (self, act) {
            (LetterState::Open, ActKind::Replayed) => Some(LetterState::Replaying),
            (LetterState::Replaying, ActKind::Captured) => Some(LetterState::Open),
            (LetterState::Replaying, ActKind::Resolved) => Some(LetterState::Resolved),
            (LetterState::Open | LetterState::Held, ActKind::Discarded) => Some(LetterState::Discarded),
            (LetterState::Open, ActKind::Held) => Some(LetterState::Held),
            (LetterState::Held, ActKind::Released) => Some(LetterState::Open),
            (LetterState::Open | LetterState::Held, ActKind::Edited) => Some(self),
            _ => None,
        }
    }
}

impl ActKind {
    /// The word that people read.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            ActKind::Captured => "captured",
            ActKind::Replayed => "replayed",
            ActKind::Resolved => "resolved",
            ActKind::Discarded => "discarded",
            ActKind::Held => "held",
            ActKind::Released => "released",
            ActKind::Edited => "edited",
        }
    }
}
