//! A delivery of which nothing is there: was nothing begun, or is it forgotten?

use super::{Begin, Now, Start, unrecorded};

/// Nothing is there. Where everything is written down that says that nothing was begun, unless it may be forgotten by now: this is
/// no duplicate that comes late, but the message itself, which nobody settled.
pub(super) fn nothing_there(now: &Now<'_>) -> Begin {
    let is_unknown = now.deliveries > 1 && now.may_be_forgotten;
    match unrecorded(now) {
        Begin::Start(_) if is_unknown && !now.safe_to_repeat => Begin::Park,
        Begin::Start(start) => Begin::Start(Start { begun: start.begun || is_unknown, ..start }),
        verdict => verdict,
    }
}

#[cfg(test)]
mod tests {
    use mesh_proto::v1::{
        InboxRecord,
        inbox_record::{Again, End, State},
    };

    use super::{
        super::{
            Back, FRESH, hand_back,
            tests::{ORIGINAL, decide, now, record},
        },
        *,
    };

    #[test]
    fn what_may_be_forgotten_is_not_taken_for_what_was_never_begun() {
        let old = Now { exact: true, may_be_forgotten: true, ..now(ORIGINAL, 7, 2) };
        let once = Now { safe_to_repeat: false, ..old };
        assert_eq!(decide(None, &once), Begin::Park, "it may be done");
        assert_eq!(decide(None, &Now { deliveries: 1, ..once }), Begin::Start(FRESH), "nobody had it before");
        let young = Now { may_be_forgotten: false, ..once };
        assert!(matches!(decide(None, &young), Begin::Start(start) if !start.begun), "it would be written down");
        assert!(matches!(decide(None, &old), Begin::Start(start) if start.begun), "a repeat does no harm");
        let Some(Back::Itself(start)) = hand_back(None, &once, false) else { panic!("it is noted") };
        assert!(start.begun, "a drain acquits it of nothing");
        let goes_on = Now { goes_on: true, ..once };
        let again =
            InboxRecord { end: Some(End::Again(Again::default())), original: 7, ..record(State::Ended, ORIGINAL, 7) };
        let goes_on = Now { original: Some(7), attempt: 2, ..goes_on };
        assert!(matches!(decide(Some(&again), &goes_on), Begin::Start(_)), "what is there is not forgotten");
    }
}
