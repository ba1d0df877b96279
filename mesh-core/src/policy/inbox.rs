//! What to do with a delivery of which something is remembered.
//!
//! A start that left no word is evidence: its process ended in the middle, or its lease ran out. Alone in its process, a
//! message that ends it is found guilty after a few starts; beside others nobody can say who it was, so that counts far
//! less. What came of a handler is written down before it is carried out, so a repeat carries out the same again and never
//! runs the handler twice.

mod another;
mod back;
mod forgotten;
mod letter;

use std::time::Duration;

use mesh_proto::v1::{
    InboxRecord,
    inbox_record::{End, State},
};

use another::of_another;
pub use back::{Back, hand_back};
use forgotten::nothing_there;
pub use letter::{LetterOver, letter_over};

/// The limits of one consumer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InboxRule {
    /// Starts that may end without a word while nothing else runs in the process. One more is not made.
    pub max_ended_alone: u32,
    /// Starts that may end without a word beside others.
    pub max_ended_beside: u32,
}

impl Default for InboxRule {
    /// Two alone, ten beside others.
    fn default() -> InboxRule {
        InboxRule { max_ended_alone: 2, max_ended_beside: 10 }
    }
}

/// A delivery that came now.
#[derive(Debug, Clone, Copy)]
pub struct Now<'a> {
    /// The number of the attempt.
    pub attempt: u32,
    /// The stream that it was delivered from: the original's, or the lane's.
    pub stream: &'a str,
    /// Its sequence there.
    pub sequence: u64,
    /// How often the broker says that it delivered it, this time included.
    pub deliveries: u64,
    /// Whether a handler that may have run may be run again without asking.
    pub safe_to_repeat: bool,
    /// Whether every delivery of this consumer is written down, not only suspects.
    pub exact: bool,
    /// Whether what was written down of this delivery may be forgotten by now.
    pub may_be_forgotten: bool,
    /// The time of day, Unix milliseconds.
    pub at_ms: i64,
    /// How long a delivery stays with whoever gives no sign of life.
    pub lease: Duration,
    /// How long after its start a handler may be at work at most.
    pub longest: Duration,
    /// How long it has been waited with so far.
    pub waited: Duration,
    /// The original's sequence, where the order of keys is kept: one process alone has all deliveries of a message then.
    pub original: Option<u64>,
    /// Whether this process goes on with it after a wait in hand, whose end before the wait is what is remembered.
    pub goes_on: bool,
}

/// What to do with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begin {
    /// Start its handler.
    Start(Start),
    /// Look again in a moment: whoever started it may be at work.
    Wait,
    /// Nothing: a later copy has taken its place, or an earlier copy of the same is at work. Acknowledge it.
    Overtaken,
    /// It came to an end before: carry out again what is written there.
    Ended,
    /// A start left no word and the contract does not allow to repeat it blindly: park it.
    Park,
    /// It ended its process again and again.
    TooOften {
        /// How often a start of it left no word.
        starts: u32,
    },
}

/// How a handler is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Start {
    /// Whether an earlier start may have ended the process: this one is to be written down.
    pub suspect: bool,
    /// Whether it is to run while nothing else does.
    pub alone: bool,
    /// Whether an earlier start may have acted and nobody knows.
    pub begun: bool,
    /// Starts so far that ended without a word, alone.
    pub ended_alone: u32,
    /// Starts so far that ended without a word, beside others.
    pub ended_beside: u32,
}

const FRESH: Start = Start { suspect: false, alone: false, begun: false, ended_alone: 0, ended_beside: 0 };

/// Decides. `found` is what is remembered of the message.
#[must_use]
pub fn begin(rule: &InboxRule, found: Option<&InboxRecord>, now: &Now<'_>) -> Begin {
    let Some(record) = found else { return nothing_there(now) };
    if let Some(original) = now.original {
        return in_order(rule, record, now, original);
    }
    if !is_same(record, now) {
        return of_another(rule, record, now);
    }
    match record.state() {
        State::Ended => Begin::Ended,
        State::HandedBack => handed_back(rule, record, now),
        State::Begun | State::Unspecified if may_be_at_work(record, now) => Begin::Wait,
        State::Begun | State::Unspecified => without_a_word(rule, record, now, record.alone),
    }
}

fn is_same(record: &InboxRecord, now: &Now<'_>) -> bool {
    record.stream == now.stream && record.sequence == now.sequence
}

/// Whether nobody had it in between who left no word.
fn is_known(record: &InboxRecord, now: &Now<'_>) -> bool {
    let known = match &record.handed_back {
        _ if is_same(record, now) => record.deliveries,
        Some(of) if of.stream == now.stream && of.sequence == now.sequence => of.deliveries,
        _ => 0,
    };
    known + 1 >= now.deliveries
}

/// It was handed back or put aside.
fn handed_back(rule: &InboxRule, record: &InboxRecord, now: &Now<'_>) -> Begin {
    if !is_known(record, now) {
        // Somebody left no word, before or after the start was written down.
        return without_a_word(rule, record, now, true);
    }
    if record.begun && !now.safe_to_repeat {
        return Begin::Park;
    }
    let (ended_alone, ended_beside) = (record.ended_alone, record.ended_beside);
    // To be handed back acquits nobody.
    let suspect = ended_alone + ended_beside > 0;
    let alone = suspect && (now.original.is_none() || ended_alone > 0);
    Begin::Start(Start { suspect, alone, begun: record.begun, ended_alone, ended_beside })
}

/// Where the order of keys is kept, nobody else can be at work: what is not done is begun, or carried out again as it ended.
fn in_order(rule: &InboxRule, record: &InboxRecord, now: &Now<'_>, original: u64) -> Begin {
    if record.original != original {
        return sent_again(record, now);
    }
    let is_same = is_same(record, now);
    let goes_on = if is_same { now.goes_on } else { is_newer(record, now) };
    match (record.state(), &record.end) {
        (State::Ended, Some(End::Again(_))) if goes_on && record.ended_alone + record.ended_beside > 0 => {
            // What came to an end this time may end its process the next time: what is known of it stays.
            let (ended_alone, ended_beside) = (record.ended_alone, record.ended_beside);
            Begin::Start(Start { suspect: true, alone: true, begun: false, ended_alone, ended_beside })
        }
        (State::Ended, Some(End::Again(_))) if goes_on => unrecorded(now),
        (State::Ended, _) => Begin::Ended,
        (State::HandedBack, _) if record.begun && !now.safe_to_repeat => Begin::Park,
        (State::HandedBack, _) if !is_same => match unrecorded(now) {
            Begin::Start(start) => Begin::Start(Start { begun: start.begun || record.begun, ..start }),
            verdict => verdict,
        },
        (State::HandedBack, _) => handed_back(rule, record, now),
        (State::Begun | State::Unspecified, _) => without_a_word(rule, record, now, record.alone),
    }
}

/// The record speaks of another message with the same id, which went before where it has the same key.
fn sent_again(record: &InboxRecord, now: &Now<'_>) -> Begin {
    match &record.end {
        Some(End::Reply(_) | End::Refused(_)) => Begin::Overtaken,
        Some(End::DeadLetter(_)) if now.exact => Begin::Overtaken,
        _ => unrecorded(now),
    }
}

/// A broker that was killed forgets what it delivered, and delivers it again at once: to somebody else, while the first is at
/// work and renews a lease that nobody knows of any more. Where the broker says that this is the first delivery, the start is
/// believed for as long as a lease, and so it is where the broker counts as many as the start did: it forgot the last one. Where a
/// later delivery was begun, whoever has this one may have been silent for longer than its lease: the other one is believed until
/// its handler must have ended.
fn may_be_at_work(record: &InboxRecord, now: &Now<'_>) -> bool {
    let is_superseded = now.deliveries < record.deliveries && may_run(record, now);
    let is_uncounted = now.deliveries <= 1 || now.deliveries == record.deliveries;
    is_superseded || is_uncounted && now.waited < now.lease && age_of(record, now) < now.lease
}

/// Whether the handler of a start may be at work by the clocks. Where the start's clock is ahead, its age is not known: then it is
/// waited for a while in each of its deliveries, as many as come.
fn may_run(record: &InboxRecord, now: &Now<'_>) -> bool {
    if record.at_ms <= now.at_ms {
        return age_of(record, now) < now.longest;
    }
    let before = u32::try_from(now.deliveries.saturating_sub(1)).unwrap_or(u32::MAX);
    now.waited.saturating_add(now.lease.saturating_mul(before)) < now.longest
}

/// Nothing is remembered. Delivered before, it may have ended its process beside others.
fn unrecorded(now: &Now<'_>) -> Begin {
    if now.deliveries <= 1 {
        return Begin::Start(FRESH);
    }
    // Where everything is written down, nothing was begun. Elsewhere a first start leaves no trace.
    if !now.exact && !now.safe_to_repeat {
        return Begin::Park;
    }
    // The owner of partitions has up to thousands in hand, few of which it had begun. Were all of them to run alone after each
    // crash, everything would wait. So it is first written down which ones were begun.
    let alone = now.original.is_none();
    Begin::Start(Start { suspect: true, alone, begun: !now.exact, ended_alone: 0, ended_beside: 1 })
}

/// A clock that is behind says nothing of a start's age: how long it is waited with has its own end.
fn age_of(record: &InboxRecord, now: &Now<'_>) -> Duration {
    Duration::from_millis(now.at_ms.saturating_sub(record.at_ms).max(0).unsigned_abs())
}

/// A copy on the lane is newer than its original; of two copies, the one that was stored later.
fn is_newer(record: &InboxRecord, now: &Now<'_>) -> bool {
    if record.attempt != now.attempt {
        return now.attempt > record.attempt;
    }
    if record.stream == now.stream { now.sequence > record.sequence } else { is_lane(now.stream) }
}

fn is_lane(stream: &str) -> bool {
    stream.starts_with("mesh1-lane-")
}

fn without_a_word(rule: &InboxRule, record: &InboxRecord, now: &Now<'_>, alone: bool) -> Begin {
    let counted = record.state() != State::HandedBack;
    // Where only suspects are written down, a start that was none leaves no trace.
    let begun = counted || record.begun || !now.exact;
    if begun && !now.safe_to_repeat {
        return Begin::Park;
    }
    let ended_alone = record.ended_alone + u32::from(counted && alone);
    let ended_beside = record.ended_beside + u32::from(!counted || !alone);
    if ended_alone >= rule.max_ended_alone || ended_beside >= rule.max_ended_beside {
        return Begin::TooOften { starts: ended_alone + ended_beside };
    }
    Begin::Start(Start { suspect: true, alone: true, begun, ended_alone, ended_beside })
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_proto::v1::{Effect, inbox_record::Again};
    use proptest::prelude::*;

    pub(super) const ORIGINAL: &str = "mesh1-event-orders";
    pub(super) const LANE: &str = "mesh1-lane-mail";

    pub(super) fn record(state: State, stream: &str, sequence: u64) -> InboxRecord {
        InboxRecord { state: state.into(), attempt: 1, stream: stream.into(), sequence, ..InboxRecord::default() }
    }

    pub(super) fn now(stream: &str, sequence: u64, deliveries: u64) -> Now<'_> {
        let (lease, longest, waited) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
        Now {
            attempt: 1,
            stream,
            sequence,
            deliveries,
            safe_to_repeat: true,
            exact: false,
            may_be_forgotten: false,
            at_ms: 0,
            lease,
            longest,
            waited,
            original: None,
            goes_on: false,
        }
    }

    pub(super) fn decide(found: Option<&InboxRecord>, now: &Now<'_>) -> Begin {
        begin(&InboxRule::default(), found, now)
    }

    #[test]
    fn whoever_was_silent_for_longer_than_its_lease_waits_for_the_one_that_was_given_it_since() {
        let longest = Duration::from_secs(400);
        let begun = InboxRecord { deliveries: 3, at_ms: 1000, ..record(State::Begun, ORIGINAL, 7) };
        for exact in [true, false] {
            let stale = Now { exact, safe_to_repeat: false, at_ms: 120_000, longest, ..now(ORIGINAL, 7, 2) };
            assert_eq!(decide(Some(&begun), &stale), Begin::Wait, "its handler may run still");
            assert_eq!(decide(Some(&begun), &Now { at_ms: 500_000, ..stale }), Begin::Park);
            assert_eq!(decide(Some(&begun), &Now { deliveries: 4, ..stale }), Begin::Park, "its lease is over");
            let ahead = InboxRecord { deliveries: 90, at_ms: 9_000_000, ..begun.clone() };
            let lease = Duration::from_secs(30);
            assert_eq!(decide(Some(&ahead), &Now { lease, ..stale }), Begin::Wait, "its clock is ahead");
            assert_eq!(decide(Some(&ahead), &Now { lease, deliveries: 15, ..stale }), Begin::Park, "not for ever");
        }
    }

    #[test]
    fn a_first_delivery_starts_beside_others_and_a_repeated_one_is_a_suspect() {
        assert_eq!(decide(None, &now(ORIGINAL, 7, 1)), Begin::Start(FRESH));
        let suspect = Start { suspect: true, alone: true, begun: true, ended_alone: 0, ended_beside: 1 };
        assert_eq!(decide(None, &now(ORIGINAL, 7, 2)), Begin::Start(suspect));
    }

    #[test]
    fn what_was_handed_back_is_no_suspect_unless_it_was_with_somebody_in_between() {
        let handed_back = InboxRecord { deliveries: 1, ..record(State::HandedBack, ORIGINAL, 7) };
        assert_eq!(decide(Some(&handed_back), &now(ORIGINAL, 7, 2)), Begin::Start(FRESH));
        let Begin::Start(start) = decide(Some(&handed_back), &now(ORIGINAL, 7, 3)) else { panic!("it starts") };
        assert!(start.suspect && start.ended_beside == 1);
    }

    #[test]
    fn a_message_that_ends_its_process_alone_is_found_out() {
        let mut found = InboxRecord { alone: true, ..record(State::Begun, ORIGINAL, 7) };
        let Begin::Start(start) = decide(Some(&found), &now(ORIGINAL, 7, 3)) else { panic!("it starts") };
        assert_eq!(start, Start { suspect: true, alone: true, begun: true, ended_alone: 1, ended_beside: 0 });
        found.ended_alone = start.ended_alone;
        assert_eq!(decide(Some(&found), &now(ORIGINAL, 7, 4)), Begin::TooOften { starts: 2 });
    }

    #[test]
    fn an_innocent_neighbour_of_nine_others_goes_on() {
        let found = InboxRecord { ended_beside: 8, ..record(State::Begun, ORIGINAL, 7) };
        assert!(matches!(decide(Some(&found), &now(ORIGINAL, 7, 9)), Begin::Start(_)));
        let found = InboxRecord { ended_beside: 9, ..found };
        assert_eq!(decide(Some(&found), &now(ORIGINAL, 7, 9)), Begin::TooOften { starts: 10 });
    }

    #[test]
    fn what_may_not_be_repeated_is_parked_when_a_start_left_no_word() {
        let found = record(State::Begun, ORIGINAL, 7);
        let unsafe_now = Now { safe_to_repeat: false, exact: true, ..now(ORIGINAL, 7, 2) };
        assert_eq!(decide(Some(&found), &unsafe_now), Begin::Park);
        // Before the start was written down nothing can have happened.
        assert!(matches!(decide(None, &unsafe_now), Begin::Start(_)));
    }

    #[test]
    fn who_began_it_may_be_at_work_where_the_broker_forgot_that_it_delivered_it() {
        let found = InboxRecord { at_ms: 1000, ..record(State::Begun, ORIGINAL, 7) };
        let lease = Duration::from_secs(30);
        for safe_to_repeat in [true, false] {
            let again = Now { safe_to_repeat, exact: true, at_ms: 2000, lease, ..now(ORIGINAL, 7, 1) };
            assert_eq!(decide(Some(&found), &again), Begin::Wait);
            let over = if safe_to_repeat {
                Begin::Start(Start { suspect: true, alone: true, begun: true, ended_alone: 0, ended_beside: 1 })
            } else {
                Begin::Park
            };
            assert_eq!(decide(Some(&found), &Now { at_ms: 400, ..again }), Begin::Wait, "a clock that is behind");
            assert_eq!(decide(Some(&found), &Now { at_ms: 31_000, ..again }), over, "its lease is over");
            assert_eq!(decide(Some(&found), &Now { waited: lease, ..again }), over, "whatever the clocks say");
            assert_eq!(decide(Some(&found), &Now { deliveries: 2, ..again }), over, "the broker knows of the first");
            let second = InboxRecord { deliveries: 2, ..found.clone() };
            assert_eq!(decide(Some(&second), &Now { deliveries: 2, ..again }), Begin::Wait, "it forgot the second");
            assert_eq!(decide(Some(&second), &Now { deliveries: 2, at_ms: 31_000, ..again }), over, "not for ever");
            assert_eq!(decide(Some(&second), &Now { deliveries: 3, ..again }), over, "it knows of the second");
        }
    }

    #[test]
    fn a_first_start_leaves_no_trace_so_what_may_no_longer_be_repeated_is_parked() {
        let late = Now { safe_to_repeat: false, ..now(ORIGINAL, 7, 2) };
        assert_eq!(decide(None, &late), Begin::Park);
        assert_eq!(decide(None, &Now { deliveries: 1, ..late }), Begin::Start(FRESH), "nobody had it before");
        let handed_back = InboxRecord { deliveries: 1, ..record(State::HandedBack, ORIGINAL, 7) };
        assert_eq!(decide(Some(&handed_back), &late), Begin::Start(FRESH), "nor was it begun");
        let cut_off = InboxRecord { begun: true, ..handed_back.clone() };
        assert_eq!(decide(Some(&cut_off), &late), Begin::Park, "it was cut off in the middle");
        assert_eq!(
            decide(Some(&handed_back), &Now { deliveries: 3, ..late }),
            Begin::Park,
            "somebody had it in between"
        );
    }

    #[test]
    fn what_was_put_aside_comes_as_what_it_was() {
        let aside =
            InboxRecord { begun: true, ended_beside: 1, deliveries: 2, ..record(State::HandedBack, ORIGINAL, 7) };
        let suspect = Start { suspect: true, alone: true, begun: true, ended_alone: 0, ended_beside: 1 };
        assert_eq!(decide(Some(&aside), &now(LANE, 3, 1)), Begin::Start(suspect));
        let late = Now { safe_to_repeat: false, ..now(LANE, 3, 1) };
        assert_eq!(decide(Some(&aside), &late), Begin::Park, "its key may be forgotten");
        let untouched = InboxRecord { deliveries: 1, ..record(State::HandedBack, ORIGINAL, 7) };
        let once = Now { exact: true, ..late };
        assert_eq!(decide(Some(&untouched), &once), Begin::Start(FRESH), "it was never begun");
        let killed = InboxRecord { ended_beside: 9, ..aside };
        let again = now(LANE, 3, 2);
        assert_eq!(
            decide(Some(&killed), &again),
            Begin::TooOften { starts: 10 },
            "nor does the way over the lane acquit"
        );
    }

    #[test]
    fn of_an_original_and_its_copies_one_is_at_work() {
        let again = InboxRecord { end: Some(End::Again(Again::default())), ..record(State::Ended, ORIGINAL, 7) };
        assert_eq!(decide(Some(&again), &now(LANE, 3, 1)), Begin::Start(FRESH), "its copy");
        assert_eq!(decide(Some(&again), &now(ORIGINAL, 7, 2)), Begin::Ended, "its ack was lost: the same copy again");
        for state in [State::Begun, State::HandedBack, State::Ended] {
            let copy = InboxRecord { attempt: 2, ..record(state, LANE, 3) };
            assert_eq!(decide(Some(&copy), &now(ORIGINAL, 7, 3)), Begin::Overtaken, "{state:?}: the copy is newer");
        }
        let suspect = Start { suspect: true, alone: true, begun: true, ended_alone: 0, ended_beside: 1 };
        assert_eq!(
            decide(Some(&again), &now(LANE, 3, 2)),
            Begin::Start(suspect),
            "its copy, whose process left no word"
        );
    }

    #[test]
    fn an_id_that_is_sent_again_is_done_once() {
        let again = Now { exact: true, safe_to_repeat: false, ..now(ORIGINAL, 9, 1) };
        let ended = |end| InboxRecord { end: Some(end), ..record(State::Ended, ORIGINAL, 7) };
        let done = ended(End::Reply(Default::default()));
        assert_eq!(decide(Some(&done), &again), Begin::Overtaken);
        let longest = Duration::from_secs(330);
        let begun = InboxRecord { at_ms: 1000, ..record(State::Begun, ORIGINAL, 7) };
        let soon = Now { at_ms: 2000, longest, ..again };
        assert_eq!(decide(Some(&begun), &soon), Begin::Wait, "the first is at work");
        let late = Now { at_ms: 331_000, ..soon };
        assert_eq!(decide(Some(&begun), &late), Begin::Park, "it may have left its stream with whoever had it");
        let repeated = decide(Some(&begun), &Now { safe_to_repeat: true, ..late });
        assert!(matches!(repeated, Begin::Start(start) if start.begun), "{repeated:?}");
        assert_eq!(
            decide(Some(&ended(End::Again(Again::default()))), &again),
            Begin::Overtaken,
            "it waits on the lane"
        );
        let fault = |effect: Effect| mesh_proto::v1::Fault { effect: effect.into(), ..Default::default() };
        assert_eq!(decide(Some(&ended(End::DeadLetter(fault(Effect::Unknown)))), &again), Begin::Overtaken);
        assert_eq!(decide(Some(&ended(End::DeadLetter(fault(Effect::None)))), &again), Begin::Overtaken, "its letter");
        assert_eq!(decide(Some(&record(State::HandedBack, ORIGINAL, 7)), &again), Begin::Start(FRESH));
    }

    /// The same delivery, where the order of keys is kept.
    fn in_turn(stream: &str, sequence: u64, deliveries: u64) -> Now<'_> {
        Now { original: Some(7), ..now(stream, sequence, deliveries) }
    }

    fn recorded(state: State, stream: &str, sequence: u64) -> InboxRecord {
        InboxRecord { original: 7, ..record(state, stream, sequence) }
    }

    #[test]
    fn where_order_is_kept_it_is_first_written_down_what_was_begun() {
        let watched = Start { suspect: true, alone: false, begun: true, ended_alone: 0, ended_beside: 1 };
        assert_eq!(decide(None, &in_turn(ORIGINAL, 7, 2)), Begin::Start(watched));
        let found = InboxRecord { ended_beside: 1, ..recorded(State::Begun, ORIGINAL, 7) };
        let alone = Start { suspect: true, alone: true, begun: true, ended_alone: 0, ended_beside: 2 };
        assert_eq!(decide(Some(&found), &in_turn(ORIGINAL, 7, 3)), Begin::Start(alone));
        assert_eq!(decide(Some(&found), &in_turn(LANE, 3, 2)), Begin::Start(alone), "its copy");
        let found = InboxRecord { alone: true, ended_alone: 1, ..found };
        assert!(matches!(decide(Some(&found), &in_turn(ORIGINAL, 7, 4)), Begin::TooOften { .. }));
    }

    #[test]
    fn where_order_is_kept_what_is_not_done_is_never_dropped() {
        let again = InboxRecord { end: Some(End::Again(Again::default())), ..recorded(State::Ended, ORIGINAL, 7) };
        assert_eq!(decide(Some(&again), &in_turn(LANE, 3, 1)), Begin::Start(FRESH), "its copy");
        assert_eq!(
            decide(Some(&again), &in_turn(ORIGINAL, 7, 1)),
            Begin::Ended,
            "its ack was lost: the same copy again"
        );
        let waited = Now { attempt: 2, goes_on: true, ..in_turn(ORIGINAL, 7, 1) };
        assert_eq!(decide(Some(&again), &waited), Begin::Start(FRESH), "after a wait in hand");
        let known = InboxRecord { ended_alone: 1, ..again };
        let alone = Start { suspect: true, alone: true, begun: false, ended_alone: 1, ended_beside: 0 };
        assert_eq!(decide(Some(&known), &waited), Begin::Start(alone), "an end in between acquits nobody");
        let of_copy = InboxRecord { stream: LANE.into(), sequence: 3, attempt: 2, ..known };
        assert_eq!(decide(Some(&of_copy), &in_turn(ORIGINAL, 7, 2)), Begin::Ended, "its newest copy again");
        let done = InboxRecord { end: Some(End::Reply(Default::default())), ..of_copy };
        assert_eq!(decide(Some(&done), &in_turn(ORIGINAL, 7, 2)), Begin::Ended, "done, by its copy");
        assert_eq!(decide(Some(&done), &Now { original: Some(9), ..in_turn(ORIGINAL, 9, 1) }), Begin::Overtaken);
    }

    /// Each process tries it once in peace, and ends over the attempt that follows in hand.
    #[test]
    fn a_message_that_ends_its_process_at_its_second_attempt_is_found_out() {
        // What is no suspect is not written down.
        let written = |start: Start, state, end| {
            let Start { ended_alone, ended_beside, alone, .. } = start;
            let record = InboxRecord { end, ended_alone, ended_beside, alone, ..recorded(state, ORIGINAL, 7) };
            start.suspect.then_some(record)
        };
        let mut found = None;
        for deliveries in 1..=3 {
            let first = in_turn(ORIGINAL, 7, deliveries);
            let Begin::Start(start) = decide(found.as_ref(), &first) else { panic!("{found:?}") };
            found = written(start, State::Ended, Some(End::Again(Again { attempt: 2, due_ms: 0 })));
            let second = decide(found.as_ref(), &Now { attempt: 2, goes_on: true, ..first });
            let Begin::Start(start) = second else { panic!("{second:?}") };
            found = written(start, State::Begun, None);
        }
        assert_eq!(decide(found.as_ref(), &in_turn(ORIGINAL, 7, 4)), Begin::TooOften { starts: 3 });
    }

    fn any_record() -> impl Strategy<Value = InboxRecord> {
        (0i32..4, 1u32..4, any::<bool>(), 1u64..4, 0u64..4, 0u32..12, any::<[bool; 2]>()).prop_map(
            |(state, attempt, on_lane, sequence, deliveries, count, [alone, begun])| InboxRecord {
                state,
                attempt,
                stream: if on_lane { LANE } else { ORIGINAL }.into(),
                sequence,
                deliveries,
                ended_alone: count % 4,
                ended_beside: count,
                alone,
                begun,
                end: (state == 3).then(|| End::Reply(Default::default())),
                ..InboxRecord::default()
            },
        )
    }

    proptest! {
        /// Where order is kept, nothing waits for another process, and only an id that was sent again is dropped.
        #[test]
        fn an_owner_drops_nothing_of_its_own(found in any_record(), attempt in 1u32..4, lane: bool, sequence in 1u64..4, deliveries in 1u64..6, exact: bool, goes_on: bool) {
            let stream = if lane { LANE } else { ORIGINAL };
            let found = InboxRecord { original: 7, ..found };
            let verdict = decide(Some(&found), &Now { attempt, exact, goes_on, ..in_turn(stream, sequence, deliveries) });
            prop_assert!(!matches!(verdict, Begin::Overtaken | Begin::Wait | Begin::Park), "{verdict:?}");
            let is_done = matches!(found.end, Some(End::Reply(_))) && found.state() == State::Ended;
            prop_assert!(!is_done || verdict == Begin::Ended, "{verdict:?}");
        }

        /// What is done is never started again, and what may not be repeated is never started after a start without a word.
        #[test]
        fn nothing_is_done_twice(found in any_record(), attempt in 1u32..4, lane: bool, sequence in 1u64..4, deliveries in 1u64..6) {
            let stream = if lane { LANE } else { ORIGINAL };
            for (safe_to_repeat, exact) in [(true, false), (true, true), (false, true), (false, false)] {
                let now = Now { attempt, safe_to_repeat, exact, ..now(stream, sequence, deliveries) };
                let verdict = decide(Some(&found), &now);
                let Begin::Start(start) = verdict else { continue };
                prop_assert!(found.state() != State::Ended, "{verdict:?}");
                prop_assert!(safe_to_repeat || !start.begun, "{verdict:?}");
                prop_assert!(safe_to_repeat || found.state() != State::Begun, "{verdict:?}");
                prop_assert!(start.begun || found.state() != State::Begun, "{verdict:?}");
            }
        }

        /// However often its process ends, a message is not started for ever.
        #[test]
        fn starts_without_a_word_end(alone: bool, in_order: bool) {
            let (rule, mut found, mut starts) = (InboxRule::default(), None, 0u32);
            for deliveries in 1..40 {
                let original = in_order.then_some(7);
                match begin(&rule, found.as_ref(), &Now { original, ..now(ORIGINAL, 7, deliveries) }) {
                    Begin::Start(start) => {
                        starts += 1;
                        found = Some(InboxRecord {
                            ended_alone: start.ended_alone,
                            ended_beside: start.ended_beside,
                            alone,
                            ..recorded(State::Begun, ORIGINAL, 7)
                        });
                    }
                    verdict => prop_assert!(matches!(verdict, Begin::TooOften { .. }), "{:?}", verdict),
                }
            }
            prop_assert!(starts <= rule.max_ended_beside + 1, "{}", starts);
        }
    }
}
