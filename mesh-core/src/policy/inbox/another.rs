//! A delivery of which what is remembered speaks as of another: which of them carries the message?

use mesh_proto::v1::{
    InboxRecord,
    inbox_record::{End, State},
};

use super::{
    Begin, FRESH, InboxRule, Now, Start, handed_back, is_known, is_lane, is_newer, may_run, unrecorded, without_a_word,
};

/// The record speaks of another delivery of the same message: its original, a copy on the lane, or the same id sent again.
///
/// Whoever wrote the record may have had that delivery for so long that somebody else had put it aside or dropped it, and settled
/// it. So what is written there of the same attempt is no proof that it is carried by that place, and this one is dropped for it
/// only when the message has come to its end. A later attempt is proof: only what an earlier one stored can have begun it, and
/// what is stored goes on as long as no later attempt has begun.
pub(super) fn of_another(rule: &InboxRule, record: &InboxRecord, now: &Now<'_>) -> Begin {
    let is_of_copies = is_lane(&record.stream) || is_lane(now.stream);
    let is_older = now.attempt < record.attempt;
    match (record.state(), &record.end) {
        // Done is done, whichever of them did it.
        (State::Ended, Some(End::Reply(_) | End::Refused(_))) if is_older || !is_of_copies => Begin::Overtaken,
        _ if is_lane(&record.stream) && !is_lane(now.stream) && is_older => Begin::Overtaken,
        // Whoever did it may have ended before that was said, and have had nothing to settle.
        (State::Ended, Some(End::Reply(_) | End::Refused(_))) => Begin::Ended,
        (State::Ended, Some(End::DeadLetter(_))) if is_of_copies && !is_older => Begin::Ended,
        // A copy that was delivered before is a suspect, as an original is.
        (State::Ended, Some(End::Again(_))) if is_lane(now.stream) && is_newer(record, now) => {
            match is_known(record, now) {
                true => Begin::Start(FRESH),
                false => unrecorded(now),
            }
        }
        // Its copy may not have been stored.
        (State::Ended, Some(End::Again(_))) if is_lane(&record.stream) && !is_older => Begin::Ended,
        (State::HandedBack, _) if !is_older => handed_back(rule, record, now),
        (State::Begun | State::Unspecified, _) if (is_of_copies || now.exact) && !is_older => {
            match may_be_at_work_there(record, now) {
                true => Begin::Wait,
                false => without_a_word(rule, record, now, record.alone),
            }
        }
        // Where everything is written down, what came to an end is known, and what waits on the lane goes on by itself.
        _ if now.exact => Begin::Overtaken,
        // Where only suspects are, it may have moved on without a word of it here.
        (State::Begun | State::Unspecified, _) if !now.safe_to_repeat => Begin::Park,
        (State::Begun | State::Unspecified, _) => {
            Begin::Start(Start { suspect: true, alone: true, begun: true, ended_alone: 0, ended_beside: 0 })
        }
        _ => unrecorded(now),
    }
}

/// Whoever began it at another place renews a lease that is not this one's. Until its handler must have ended, it is believed.
fn may_be_at_work_there(record: &InboxRecord, now: &Now<'_>) -> bool {
    now.waited < now.longest && may_run(record, now)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{
        super::tests::{LANE, ORIGINAL, decide, now, record},
        *,
    };

    /// Whoever began the one may have had it for so long that another one had settled it: then it is carried by the other.
    #[test]
    fn of_two_places_of_one_attempt_none_is_dropped_for_what_the_other_only_began() {
        let longest = Duration::from_secs(330);
        let begun = InboxRecord { at_ms: 1000, ..record(State::Begun, LANE, 3) };
        for (stream, sequence) in [(ORIGINAL, 7), (LANE, 2), (LANE, 4)] {
            for safe_to_repeat in [true, false] {
                let other = Now { exact: true, safe_to_repeat, at_ms: 2000, longest, ..now(stream, sequence, 2) };
                assert_eq!(decide(Some(&begun), &other), Begin::Wait, "it may be at work");
                let late = decide(Some(&begun), &Now { at_ms: 331_000, ..other });
                let waited = decide(Some(&begun), &Now { waited: longest, ..other });
                assert_eq!(late, waited, "whatever the clocks say");
                match safe_to_repeat {
                    true => assert!(matches!(late, Begin::Start(start) if start.begun && start.suspect), "{late:?}"),
                    false => assert_eq!(late, Begin::Park),
                }
                let cut_off = InboxRecord { begun: true, ..record(State::HandedBack, LANE, 3) };
                match safe_to_repeat {
                    true => assert!(matches!(decide(Some(&cut_off), &other), Begin::Start(start) if start.begun)),
                    false => assert_eq!(decide(Some(&cut_off), &Now { deliveries: 1, ..other }), Begin::Park),
                }
            }
        }
        for end in [End::Reply(Default::default()), End::DeadLetter(Default::default())] {
            let ended = InboxRecord { end: Some(end), ..record(State::Ended, LANE, 3) };
            assert_eq!(decide(Some(&ended), &now(ORIGINAL, 7, 2)), Begin::Ended, "it may not have been said");
        }
    }
}
