//! What is remembered of a delivery that goes back as it came, so that whoever gets it next does not suspect it.

use mesh_proto::v1::{
    InboxRecord,
    inbox_record::{End, HandedBack, State},
};

use super::{Now, Start, is_known, is_lane, is_newer, is_same};

/// What is written down of it.
#[derive(Debug, Clone, PartialEq)]
pub enum Back {
    /// That it was handed back, with what is known of it: nothing is there, or the same of an earlier time.
    Itself(Start),
    /// What is there of another delivery of the message, with a note of this one.
    Beside(Box<InboxRecord>),
}

/// Decides. `None`: what is there says more, or it tells already that somebody left no word. `begun`: its handler may have been
/// started, and cut off.
///
/// What is there of another delivery stays. Whoever hands this one back may not have been the last to have it, so it may be
/// settled: were it said to be where the message is, the other one would be dropped and the message lost.
#[must_use]
pub fn hand_back(found: Option<&InboxRecord>, now: &Now<'_>, begun: bool) -> Option<Back> {
    let none = InboxRecord::default();
    let record = match found {
        None => &none,
        Some(record) if !is_same(record, now) => return beside(record, now, begun),
        Some(record) if record.state() != State::HandedBack => return None,
        Some(record) => record,
    };
    let InboxRecord { ended_alone, ended_beside, .. } = *record;
    let begun = begun || record.begun;
    let start = Start { suspect: false, alone: false, begun, ended_alone, ended_beside };
    Some(Back::Itself(match record.deliveries + 1 >= now.deliveries {
        true => start,
        // Somebody had it in between who left no word: going back acquits it of nothing.
        false => {
            let is_unknown = !now.exact || found.is_none() && now.may_be_forgotten;
            Start { begun: begun || is_unknown, ended_beside: ended_beside + 1, ..start }
        }
    }))
}

/// The same where what is there speaks of another delivery, which this one follows.
fn beside(record: &InboxRecord, now: &Now<'_>, begun: bool) -> Option<Back> {
    let is_followed = match (record.state(), &record.end) {
        (State::Ended, Some(End::Again(_))) => is_lane(now.stream),
        (state, _) => state == State::HandedBack,
    };
    // An owner that keeps the order of keys says elsewhere what it handed back.
    let is_plain = !begun && now.original.is_none();
    if !(is_plain && is_followed && is_newer(record, now) && is_known(record, now)) {
        return None;
    }
    let Now { stream, sequence, deliveries, .. } = *now;
    let handed_back = Some(HandedBack { stream: stream.to_owned(), sequence, deliveries });
    Some(Back::Beside(Box::new(InboxRecord { handed_back, ..record.clone() })))
}

#[cfg(test)]
mod tests {
    use mesh_proto::v1::inbox_record::Again;

    use super::{
        super::tests::{self, LANE, ORIGINAL},
        *,
    };
    use crate::policy::inbox::{Begin, InboxRule, begin};

    fn now(attempt: u32, stream: &str, sequence: u64, deliveries: u64) -> Now<'_> {
        Now { attempt, safe_to_repeat: false, exact: true, ..tests::now(stream, sequence, deliveries) }
    }

    fn record(state: State) -> InboxRecord {
        InboxRecord { deliveries: 1, ..tests::record(state, ORIGINAL, 7) }
    }

    fn tried() -> InboxRecord {
        let end = Some(End::Again(Again { attempt: 2, due_ms: 0 }));
        InboxRecord { end, ended_beside: 1, ..record(State::Ended) }
    }

    fn start_of(found: &InboxRecord, now: &Now<'_>) -> Start {
        match begin(&InboxRule::default(), Some(found), now) {
            Begin::Start(start) => start,
            verdict => panic!("{verdict:?}"),
        }
    }

    #[test]
    fn a_copy_that_was_handed_back_is_as_if_it_had_not_been_delivered() {
        for (attempt, first) in [(1, record(State::HandedBack)), (2, tried())] {
            let expected = start_of(&first, &now(attempt, LANE, 3, 1));
            assert!(!expected.suspect);
            let mut found = first.clone();
            for deliveries in 1..20 {
                let copy = now(attempt, LANE, 3, deliveries);
                assert_eq!(start_of(&found, &copy), expected, "{deliveries}");
                let Some(Back::Beside(next)) = hand_back(Some(&found), &copy, false) else { panic!("{found:?}") };
                found = *next;
            }
            assert_eq!(InboxRecord { handed_back: None, ..found.clone() }, first, "what it follows stays");
            let start = start_of(&found, &now(attempt, LANE, 3, 21));
            assert!(start.suspect && start.ended_beside == 1, "somebody had it in between");
            assert_eq!(hand_back(Some(&found), &now(attempt, LANE, 3, 21), false), None, "which stays so");
            assert!(start_of(&found, &now(attempt, LANE, 4, 2)).suspect, "the note is of one copy");
        }
    }

    #[test]
    fn a_suspect_that_was_put_aside_stays_one_however_often_its_copy_is_handed_back() {
        let aside = InboxRecord { ended_beside: 1, ended_alone: 1, ..record(State::HandedBack) };
        let Some(Back::Beside(found)) = hand_back(Some(&aside), &now(1, LANE, 3, 1), false) else { panic!() };
        let start = start_of(&found, &now(1, LANE, 3, 2));
        assert!(start.suspect && start.alone);
        assert_eq!((start.ended_alone, start.ended_beside), (1, 1), "and no more than that");
    }

    #[test]
    fn nothing_is_noted_of_what_may_have_begun_or_is_not_where_the_message_is() {
        let copy = now(1, LANE, 3, 1);
        assert_eq!(hand_back(Some(&record(State::HandedBack)), &copy, true), None, "it was cut off");
        for state in [State::Begun, State::Ended] {
            assert_eq!(hand_back(Some(&record(state)), &copy, false), None, "{state:?}");
        }
        let of_copy = InboxRecord { stream: LANE.into(), sequence: 3, ..record(State::HandedBack) };
        assert_eq!(hand_back(Some(&of_copy), &now(1, ORIGINAL, 7, 2), false), None, "its original");
        assert_eq!(hand_back(Some(&of_copy), &now(1, LANE, 2, 1), false), None, "an earlier copy");
        let owned = Now { original: Some(7), ..copy };
        assert_eq!(hand_back(Some(&record(State::HandedBack)), &owned, false), None, "its owner says it");
    }
}
