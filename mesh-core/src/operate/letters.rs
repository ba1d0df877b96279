//! What a person may ask about letters and order for them: list, find, replay, discard.
//!
//! A replay is ordered in the letter's own history first, and only by whoever saw its last record; then the original's
//! bytes go on the lane of the consumer that failed, and to no other. A crash between the two leaves a letter that is
//! *replaying* without a copy: ordering it again sends the same copy with the same message id.

mod order;
mod watch;

use crate::{
    bus::{Bus, Stop},
    dead_letter::{Letter, LetterState, Letters},
    fault::{Code, Effect, Fault, Reason},
    subject::{DEAD_LETTER_STREAM, Name, WIRE},
};

pub use order::{Order, Replayed, Replays, discard, replay};
pub use watch::await_end;

/// The length of a whole letter id.
const ID_LENGTH: usize = 32;

/// Which letters are meant. The default: all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Only of this service.
    pub service: Option<Name>,
    /// Only of this consumer.
    pub consumer: Option<Name>,
    /// Only in one of these states. Empty: in any.
    pub states: Vec<LetterState>,
}

impl Filter {
    fn subject(&self) -> String {
        let token = |name: &Option<Name>| name.as_ref().map_or("*", Name::as_str).to_owned();
        format!("{WIRE}.dead.*.{}.{}.*", token(&self.service), token(&self.consumer))
    }

    fn admits(&self, letter: &Letter) -> bool {
        self.states.is_empty() || self.states.contains(&letter.state)
    }
}

/// The letters that `filter` admits, the oldest capture first.
///
/// # Errors
/// The bus can't be reached, or this identity may not read letters.
pub async fn list(bus: &Bus, filter: &Filter) -> Result<Vec<Letter>, Fault> {
    let mut letters: Vec<_> = read(bus, &filter.subject()).await?;
    letters.retain(|letter| filter.admits(letter));
    letters.sort_by_key(|letter| letter.letter.captured_at_ms);
    Ok(letters)
}

/// The one letter whose id begins with `id`.
///
/// # Errors
/// No letter has such an id, or several have; the bus can't be reached.
pub async fn find(bus: &Bus, id: &str) -> Result<Letter, Fault> {
    let hexadecimal = !id.is_empty() && id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if !hexadecimal || id.len() > ID_LENGTH {
        return Err(missing(format!("{id:?} is no letter's id: those are up to {ID_LENGTH} digits of 0-9 and a-f")));
    }
    let filter = if id.len() == ID_LENGTH { format!("{WIRE}.dead.*.*.*.{id}") } else { format!("{WIRE}.dead.>") };
    let mut found = read(bus, &filter).await?;
    found.retain(|letter| letter.letter.id.starts_with(id));
    match found.len() {
        0 => Err(missing(format!("no letter's id begins with {id:?}"))),
        1 => Ok(found.swap_remove(0)),
        count => Err(missing(format!("the ids of {count} letters begin with {id:?}: give more of it"))),
    }
}

async fn read(bus: &Bus, filter: &str) -> Result<Vec<Letter>, Fault> {
    let mut letters = Letters::default();
    bus.read(DEAD_LETTER_STREAM, filter, |record| {
        letters.apply(&record.open().envelope);
        Stop::No
    })
    .await?;
    Ok(letters.into_map().into_values().collect())
}

fn missing(message: String) -> Fault {
    Fault::new(Code::NotFound, Effect::None, Reason::LetterMissing, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_names_the_subjects_that_it_reads() {
        assert_eq!(Filter::default().subject(), "mesh1.dead.*.*.*.*");
        let filter = Filter { consumer: Some("charge".parse().unwrap()), ..Filter::default() };
        assert_eq!(filter.subject(), "mesh1.dead.*.*.charge.*");
    }
}
