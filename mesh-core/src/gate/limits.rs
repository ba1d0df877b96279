//! What is believed of a message's id and of its header `mesh`: each copy and each letter repeats them.
//!
//! On a lane only the mesh itself publishes. What it says there repeats what it believed of the original, percent-encoded up to
//! threefold: were the bound of others applied to it, the copy of a message that was let in could not be read any more.

use mesh_proto::v1::Source;

use crate::{
    envelope::{Note, header},
    subject::Place,
};

/// Bytes of a message id, at most.
pub(crate) const MAX_ID: usize = 1024;
/// What the mesh puts around an id that it believed: the longest is `outcome/<id>/letter/<generation>`.
const AROUND_ID: usize = 32;
/// Bytes of an idempotency key, at most.
pub(super) const MAX_KEY: usize = 1024;
/// Bytes of the header `mesh` of others, at most: a key whose every byte is encoded fits.
pub(super) const MAX_NOTE: usize = 4 * 1024;
/// The same on a lane: key and id as above, an ordering key of 2 KiB and a subject of 4 KiB (the broker's line), all encoded,
/// and what has a fixed length.
const MAX_LANE_NOTE: usize = 32 * 1024;

/// Bytes that an id may have at a place.
pub(super) fn longest_id(place: Option<&Place<'_>>) -> usize {
    if matches!(place, Some(Place::Outcome { .. })) { MAX_ID + AROUND_ID } else { MAX_ID }
}

/// Reads the header `mesh`.
///
/// # Errors
/// In words, why it is not believed.
pub(super) fn note(text: &str, on_lane: bool) -> Result<Note, String> {
    let most = if on_lane { MAX_LANE_NOTE } else { MAX_NOTE };
    if text.len() > most {
        return Err(format!("the header {:?} has {} bytes; at most {most}", header::MESH, text.len()));
    }
    let note = Note::parse(text).map_err(|error| error.to_string())?;
    match &note.idempotency_key {
        Some(key) if !on_lane && key.len() > MAX_KEY => {
            Err(format!("its idempotency key has {} bytes; at most {MAX_KEY}", key.len()))
        }
        _ => Ok(note),
    }
}

/// The header `mesh` of a message that came from `source`, as it was believed when it came. `None`: it was refused. A copy tells
/// itself from an original by saying that place.
pub(crate) fn believed(text: &str, source: &Source) -> Option<Note> {
    let is_copy = |note: &Note| {
        note.lane.as_ref().is_some_and(|lane| {
            lane.source == (source.stream.clone(), source.sequence)
                && (&lane.subject, &lane.message_id) == (&source.subject, &source.message_id)
        })
    };
    note(text, true).ok().filter(is_copy).or_else(|| note(text, false).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        envelope::{LaneNote, LetterNote, TargetWait},
        proto::v1::Claim,
    };

    /// The note of the copy of a message that has the most of everything.
    fn longest() -> Note {
        let lane = LaneNote {
            attempt: u32::MAX,
            subject: "%".repeat(4096),
            message_id: "%".repeat(MAX_ID),
            source: ("s".repeat(255), u64::MAX),
            stored_at_ms: i64::MAX,
            letter: Some(LetterNote { id: "a".repeat(32), generation: u32::MAX, ordered_at: u64::MAX }),
            block: Some("b".repeat(32)),
            claim: Some(Claim { letter: "c".repeat(32), sha256: "d".repeat(64), size: 1 << 28, parts: 64 }),
            key: Some("%".repeat(2048)),
            waits: Some(TargetWait { since_ms: i64::MIN, until_ms: i64::MIN }),
        };
        Note { idempotency_key: Some("%".repeat(MAX_KEY)), lane: Some(lane), ..Note::default() }
    }

    fn source_of(note: &Note) -> Source {
        let lane = note.lane.clone().unwrap();
        let (stream, sequence) = lane.source;
        Source { stream, sequence, subject: lane.subject, message_id: lane.message_id, ..Source::default() }
    }

    #[test]
    fn a_copy_of_the_longest_that_is_let_in_is_read_on_its_lane_and_nowhere_else() {
        let copy = longest();
        let text = copy.encode().unwrap();
        assert!(text.len() > MAX_NOTE);
        assert_eq!(note(&text, true).unwrap(), copy);
        assert!(note(&text, false).is_err());
        assert_eq!(believed(&text, &source_of(&copy)), Some(copy.clone()));
        let elsewhere = Source { sequence: 1, ..source_of(&copy) };
        assert_eq!(believed(&text, &elsewhere), None, "an original that says it is a copy");
    }

    #[test]
    fn a_key_is_let_in_up_to_its_bound_however_it_is_encoded() {
        let of = |bytes| Note { idempotency_key: Some("%".repeat(bytes)), ..Note::default() }.encode().unwrap();
        assert!(note(&of(MAX_KEY), false).is_ok());
        let why = note(&of(MAX_KEY + 1), false).unwrap_err();
        assert_eq!(why, "its idempotency key has 1025 bytes; at most 1024");
        assert_eq!(believed(&of(MAX_KEY + 1), &Source::default()), None);
        assert!(believed(&of(MAX_KEY), &Source::default()).is_some());
    }
}
