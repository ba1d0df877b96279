//! A delivery of which nothing was written down fails for good: may that stand where somebody else wrote meanwhile?

use mesh_proto::v1::{
    InboxRecord,
    inbox_record::{End, State},
};

use super::{Now, is_lane, is_newer, is_same};

/// What is done about what is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LetterOver {
    /// The letter is written down in its place.
    Write,
    /// It came to its end elsewhere: carry out what is written there.
    Ended,
    /// Somebody else was given this delivery since, and settles it.
    Anothers,
    /// It speaks of another delivery, and stays: the letter is captured without a word of it.
    Leave,
}

/// Decides. `found` is what is there, and not of this attempt.
#[must_use]
pub fn letter_over(found: &InboxRecord, now: &Now<'_>) -> LetterOver {
    let is_again = matches!(found.end, Some(End::Again(_)));
    match found.state() {
        State::Ended if is_same(found, now) && is_again && now.goes_on => LetterOver::Write,
        State::Ended if is_same(found, now) => LetterOver::Ended,
        State::HandedBack if is_same(found, now) => LetterOver::Write,
        State::Begun | State::Unspecified if is_same(found, now) => LetterOver::Anothers,
        State::Ended if is_again && follows(found, now) => LetterOver::Write,
        State::HandedBack if follows(found, now) => LetterOver::Write,
        _ => LetterOver::Leave,
    }
}

/// Whether this delivery is a copy of the one that is spoken of there.
fn follows(found: &InboxRecord, now: &Now<'_>) -> bool {
    let is_of_it = now.original.is_none_or(|original| original == found.original);
    is_of_it && is_lane(now.stream) && is_newer(found, now)
}

#[cfg(test)]
mod tests {
    use mesh_proto::v1::inbox_record::Again;

    use super::{
        super::tests::{LANE, ORIGINAL, now, record},
        *,
    };

    /// What another one wrote meanwhile of a message whose first delivery fails for good.
    #[test]
    fn a_letter_is_written_down_over_what_its_delivery_follows_and_over_nothing_else() {
        let first = now(ORIGINAL, 7, 1);
        let begun = InboxRecord { deliveries: 2, ..record(State::Begun, ORIGINAL, 7) };
        assert_eq!(letter_over(&begun, &first), LetterOver::Anothers, "it was given to somebody else since");
        let ended = |end| InboxRecord { end: Some(end), ..record(State::Ended, ORIGINAL, 7) };
        for end in [End::Reply(Default::default()), End::DeadLetter(Default::default())] {
            assert_eq!(letter_over(&ended(end), &first), LetterOver::Ended, "it came to its end elsewhere");
        }
        assert_eq!(letter_over(&record(State::HandedBack, ORIGINAL, 7), &first), LetterOver::Write);
        let (copy, again) = (now(LANE, 3, 1), ended(End::Again(Again::default())));
        let second = Now { attempt: 2, ..copy };
        assert_eq!(letter_over(&again, &second), LetterOver::Write, "the copy that it tells of");
        assert_eq!(letter_over(&record(State::HandedBack, ORIGINAL, 7), &copy), LetterOver::Write, "put aside");
        assert_eq!(letter_over(&ended(End::Reply(Default::default())), &copy), LetterOver::Leave, "its twin is done");
        assert_eq!(letter_over(&begun, &copy), LetterOver::Leave, "somebody is at work there");
        assert_eq!(letter_over(&ended(End::Reply(Default::default())), &now(ORIGINAL, 9, 1)), LetterOver::Leave);
        let waited = Now { attempt: 2, goes_on: true, original: Some(7), ..now(ORIGINAL, 7, 1) };
        let again = InboxRecord { original: 7, ..again };
        assert_eq!(letter_over(&again, &waited), LetterOver::Write, "after a wait in hand");
        let others = Now { original: Some(9), ..second };
        assert_eq!(letter_over(&again, &others), LetterOver::Leave, "the same id of another key");
    }
}
