//! What becomes of a delivery that nobody settled: the broker's word on it, and what the keeper makes of it.
//!
//! The broker stops to deliver a message after so many deliveries, and says so once. It looks only while somebody pulls, so
//! a process that died on the last delivery, with nobody after it, is found by asking ([`needs_asking`]). Its word may be
//! lost with the broker; on a queue, what it gave up is still there, below everything that is under way
//! ([`given_up_below`]).
//!
//! An event that leaves its stream ends the broker's part of its delivery at once, whoever has it in hand. So its word rests
//! ([`rest_left`]), and longer where somebody says that he is at work on it ([`sign`]).

use std::time::Duration;

/// What the broker said of one delivery.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Word {
    /// It was delivered as often as the consumer allows.
    GivenUp,
    /// Its worker refused it for good.
    Terminated {
        /// In the worker's words.
        reason: String,
    },
    /// It was deleted from its stream before anybody settled it.
    Deleted,
    /// Nothing: it was found below what its consumer has behind it. It was given up, or its settlement was lost.
    Nothing,
}

/// The broker's advisory on one delivery, or what stands for it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Notice {
    /// The stream of the message.
    pub stream: String,
    /// The broker's name of the consumer.
    pub durable: String,
    /// The message's sequence.
    pub sequence: u64,
    /// How often it was delivered; 0 where the broker does not say.
    pub deliveries: u64,
    /// When the broker said it, Unix milliseconds; 0 where it does not say.
    pub at_ms: i64,
    /// What it said.
    pub word: Word,
}

/// What the keeper does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is none of the mesh's deliveries.
    NotOurs,
    /// It was settled, or is another message by now.
    Settled,
    /// A letter with the message, then the message is settled.
    Capture,
    /// A letter without a payload: the message is gone.
    Lost,
}

/// What to do about a notice. `stored_at_ms`: when the message at its sequence was stored; `None`: there is none.
#[must_use]
pub fn decide(notice: &Notice, stored_at_ms: Option<i64>) -> Verdict {
    if consumer_of(&notice.durable).is_none() || kind_of(&notice.stream).is_none() {
        return Verdict::NotOurs;
    }
    // A stream that was made anew counts from 1 again: what lies there now was stored after the broker's word.
    let is_another = |stored_at_ms: i64| notice.at_ms > 0 && stored_at_ms > notice.at_ms;
    match (&notice.word, stored_at_ms) {
        (Word::Deleted, _) if is_deletion_in_a_queue(notice) => Verdict::Settled,
        (Word::Deleted, _) => Verdict::Lost,
        (Word::GivenUp | Word::Terminated { .. }, Some(stored_at_ms)) if is_another(stored_at_ms) => Verdict::Settled,
        (Word::GivenUp | Word::Terminated { .. } | Word::Nothing, Some(_)) => Verdict::Capture,
        (Word::Nothing, None) => Verdict::Settled,
        // On a queue only a settlement takes it away; a deletion has a word of its own.
        (Word::GivenUp, None) if is_queue(&notice.stream) => Verdict::Settled,
        (Word::GivenUp | Word::Terminated { .. }, None) => Verdict::Lost,
    }
}

/// Whether it is a word that a message of a queue was deleted before it was settled. It says nothing of a loss: an acknowledgement
/// deletes there, and whoever says so may not have heard of that. On several servers the deletion and the acknowledgement come by
/// different ways; one server that was killed kept the deletion and lost the acknowledgement, which it writes down later.
#[must_use]
pub fn is_deletion_in_a_queue(notice: &Notice) -> bool {
    notice.word == Word::Deleted && is_queue(&notice.stream)
}

/// Whether it is a word that an event left its stream (by its age, a purge, a deletion) before it was settled. Whoever has it in
/// hand may still handle it, or capture it as a letter.
#[must_use]
pub fn is_deletion_of_an_event(notice: &Notice) -> bool {
    notice.word == Word::Deleted && kind_of(&notice.stream) == Some("event")
}

/// How long it is until a notice may be worked off: `rest` after the broker's word that an event left its stream, at once for
/// every other. It is told by the clocks, so that a keeper that comes later waits for what is left; where the two don't agree,
/// never longer than `rest`.
#[must_use]
pub fn rest_left(notice: &Notice, now_ms: i64, rest: Duration) -> Duration {
    if !is_deletion_of_an_event(notice) {
        return Duration::ZERO;
    }
    let passed = u64::try_from(now_ms.saturating_sub(notice.at_ms)).unwrap_or(0);
    rest.saturating_sub(Duration::from_millis(passed))
}

/// What a worker said to the broker of a delivery in its hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sign {
    /// It is at work on it.
    AtWork,
    /// It is done with it: handled, or handed over to what is confirmed.
    Settled,
    /// It will not be done by this one.
    GivenBack,
}

/// Reads what a worker said, as the broker reads it.
#[must_use]
pub fn sign(said: &[u8]) -> Sign {
    match said {
        b"" => Sign::Settled,
        _ if said.starts_with(b"+ACK") || said.starts_with(b"+NXT") => Sign::Settled,
        _ if said.starts_with(b"+WPI") => Sign::AtWork,
        _ => Sign::GivenBack,
    }
}

/// How far a consumer is, as the broker says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConsumerView {
    /// The stream that it reads.
    pub stream: String,
    /// Its name.
    pub durable: String,
    /// What it reads there.
    pub filters: Vec<String>,
    /// Pulls that wait for a message.
    pub waiting: usize,
    /// Delivered and not settled.
    pub in_flight: usize,
    /// Delivered more than once and not settled; what was given up counts for as long as it is in the stream.
    pub redelivered: usize,
    /// The last sequence that was delivered.
    pub delivered: u64,
    /// Up to this sequence everything is settled or given up.
    pub ack_floor: u64,
    /// Deliveries of one message, at most.
    pub max_deliver: u64,
}

/// Whether the broker must be asked to look: something is under way, and nobody pulls.
#[must_use]
pub fn needs_asking(view: &ConsumerView) -> bool {
    view.waiting == 0 && view.in_flight > 0
}

/// Up to which sequence a message that is still in a queue has nobody who sees to it. Acknowledging deletes there, so what is
/// left at or below it was delivered, is not under way, and will not be delivered again: it was given up, or the broker's
/// server lost its deletion and not its acknowledgement.
#[must_use]
pub fn given_up_below(view: &ConsumerView) -> Option<u64> {
    let below = if view.in_flight == 0 { view.delivered } else { view.ack_floor.min(view.delivered) };
    (is_queue(&view.stream) && below > 0).then_some(below)
}

/// Whether what lies on a lane though nobody sees to it was acknowledged, and only its deletion was lost. The broker keeps the
/// count of what it delivered again until that is settled or gone, also of what it gave up and through a restart, and decides by
/// it itself what an acknowledgement that it kept takes away. Where it counts nothing, nothing was given up.
///
/// How long ago it was stored says nothing: what is handed back comes again at once, a thousand times within a second. Of queued
/// work it is not said: what a consumer reads there may become more, and lies behind it then without having been delivered.
#[must_use]
pub fn was_settled(view: &ConsumerView) -> bool {
    // Of a consumer that delivers once only, the broker does not say it.
    kind_of(&view.stream) == Some("lane") && view.max_deliver > 1 && view.redelivered == 0
}

/// Service and consumer of a durable consumer's name: an ordered one has a durable consumer for each partition.
#[must_use]
pub fn consumer_of(durable: &str) -> Option<(&str, &str)> {
    let (service, rest) = durable.split_once('_')?;
    let partition = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let consumer =
        rest.rsplit_once("_p").filter(|(_, number)| partition(number)).map_or(rest, |(consumer, _)| consumer);
    (!service.is_empty() && !consumer.is_empty()).then_some((service, consumer))
}

/// Whether acknowledging deletes: work and lanes.
#[must_use]
pub fn is_queue(stream: &str) -> bool {
    matches!(kind_of(stream), Some("work" | "lane"))
}

/// `event`, `work` or `lane`: the streams that consumers of services read.
fn kind_of(stream: &str) -> Option<&str> {
    let (kind, _) = stream.strip_prefix(crate::subject::WIRE)?.strip_prefix('-')?.split_once('-')?;
    ["event", "work", "lane"].contains(&kind).then_some(kind)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn notice(stream: &str, word: Word) -> Notice {
        Notice { stream: stream.into(), durable: "a_work".into(), sequence: 5, deliveries: 3, at_ms: 100, word }
    }

    #[test]
    fn every_word_has_its_verdict() {
        let term = || Word::Terminated { reason: "no".into() };
        for (stream, word, stored, expected) in [
            ("mesh1-event-orders", Word::GivenUp, Some(50), Verdict::Capture),
            ("mesh1-event-orders", Word::GivenUp, None, Verdict::Lost),
            ("mesh1-event-orders", Word::GivenUp, Some(101), Verdict::Settled),
            ("mesh1-work-a-B", Word::GivenUp, Some(50), Verdict::Capture),
            ("mesh1-work-a-B", Word::GivenUp, None, Verdict::Settled),
            ("mesh1-lane-a", Word::GivenUp, None, Verdict::Settled),
            ("mesh1-work-a-B", Word::Nothing, Some(50), Verdict::Capture),
            ("mesh1-lane-a", Word::Nothing, None, Verdict::Settled),
            ("mesh1-lane-a", Word::Deleted, None, Verdict::Settled),
            ("mesh1-work-a-B", Word::Deleted, Some(101), Verdict::Settled),
            ("mesh1-event-orders", Word::Deleted, None, Verdict::Lost),
            ("mesh1-work-a-B", term(), None, Verdict::Lost),
            ("mesh1-event-orders", term(), Some(50), Verdict::Capture),
            ("mesh1-dead-letter", Word::GivenUp, Some(50), Verdict::NotOurs),
            ("somebody-elses", Word::GivenUp, Some(50), Verdict::NotOurs),
        ] {
            assert_eq!(decide(&notice(stream, word.clone()), stored), expected, "{stream} {word:?} {stored:?}");
        }
        let foreign = Notice { durable: "alone".into(), ..notice("mesh1-event-orders", Word::GivenUp) };
        assert_eq!(decide(&foreign, Some(50)), Verdict::NotOurs);
    }

    #[test]
    fn only_the_word_that_an_event_was_deleted_rests() {
        let rest = Duration::from_secs(60);
        let left = |stream, word, now_ms| rest_left(&notice(stream, word), now_ms, rest).as_millis();
        assert_eq!(left("mesh1-event-orders", Word::GivenUp, 100), 0);
        assert_eq!(left("mesh1-event-orders", Word::Terminated { reason: "no".into() }, 100), 0);
        assert_eq!(left("mesh1-work-a-B", Word::Deleted, 100), 0);
        let of_an_event = |now_ms| left("mesh1-event-orders", Word::Deleted, now_ms);
        // The word is of 100; a clock that is behind makes it no longer than the whole.
        assert_eq!([0, 100, 40_100, 60_100, 99_999].map(of_an_event), [60_000, 60_000, 20_000, 0, 0]);
    }

    #[test]
    fn what_a_worker_says_is_read_as_the_broker_reads_it() {
        for (said, expected) in [
            ("+ACK", Sign::Settled),
            ("", Sign::Settled),
            ("+NXT {\"batch\":1}", Sign::Settled),
            ("+WPI", Sign::AtWork),
            ("-NAK", Sign::GivenBack),
            ("-NAK {\"delay\":5}", Sign::GivenBack),
            ("+TERM no", Sign::GivenBack),
        ] {
            assert_eq!(sign(said.as_bytes()), expected, "{said}");
        }
    }

    proptest! {
        /// Deliveries and settlements as they come, by a broker's own book: while a message that was given up lies there, nothing
        /// is taken for settled.
        #[test]
        fn what_was_given_up_is_never_taken_for_settled(
            max_deliver in 2u64..5,
            steps in proptest::collection::vec((0u64..6, any::<bool>()), 0..60),
        ) {
            let (mut times, mut settled) = ([0u64; 6], [false; 6]);
            for (message, settles) in steps {
                let of = usize::try_from(message).unwrap();
                match settles {
                    true => settled[of] = times[of] > 0,
                    false if !settled[of] => times[of] = (times[of] + 1).min(max_deliver),
                    false => {}
                }
                let there = || times.iter().zip(settled).filter(|(_, settled)| !settled).map(|(times, _)| *times);
                let view = ConsumerView {
                    stream: "mesh1-lane-a".into(),
                    redelivered: there().filter(|times| *times > 1).count(),
                    max_deliver,
                    ..ConsumerView::default()
                };
                let is_given_up = there().any(|times| times == max_deliver);
                prop_assert!(!(is_given_up && was_settled(&view)));
                prop_assert_eq!(was_settled(&view), there().all(|times| times < 2));
                let once = ConsumerView { max_deliver: 1, ..view.clone() };
                let of_work = ConsumerView { stream: "mesh1-work-a-B".into(), ..view };
                prop_assert!(!was_settled(&once) && !was_settled(&of_work));
            }
        }

        /// Nothing that may still be under way counts as given up.
        #[test]
        fn what_is_under_way_is_never_given_up(in_flight in 0usize..3, delivered in 0u64..9, ack_floor in 0u64..9) {
            let stream = "mesh1-work-a-B".to_owned();
            let view = ConsumerView { stream, in_flight, delivered, ack_floor, ..ConsumerView::default() };
            let below = given_up_below(&view).unwrap_or(0);
            prop_assert!(below <= delivered);
            prop_assert!(in_flight == 0 || below <= ack_floor);
            let events = ConsumerView { stream: "mesh1-event-orders".into(), ..view };
            prop_assert_eq!(given_up_below(&events), None);
        }
    }
}
