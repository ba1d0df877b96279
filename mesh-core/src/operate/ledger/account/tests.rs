//! A mesh as it may stand at any moment adds up; each way to break it is named, and nothing else is.

use std::{
    collections::BTreeSet,
    num::{NonZeroU64, NonZeroU128},
};

use super::super::picture::{Copy, Letter, Outcomes};
use super::*;
use crate::{dead_letter::LetterState, policy::compile::Consumes, subject::OUTCOME_STREAM};
use proptest::prelude::*;

const NOW: i64 = 1_795_392_000_000;
const WORK: &str = "mesh1-work-p";
const EVENTS: &str = "mesh1-event-orders";
const LANE: &str = "mesh1-lane-bank";
const BANK: &str = "bank_p";

fn seat(stream: &str) -> Seat {
    Seat::new(stream, BANK)
}

fn stream(name: &str, last: u64, present: &Ranges) -> StreamFacts {
    StreamFacts {
        name: name.into(),
        messages: present.count(),
        bytes: 10,
        max_bytes: None,
        max_messages: None,
        max_age: None,
        created_ms: NOW - 1000,
        last_sequence: last,
        present: present.iter().collect(),
    }
}

fn consumer(stream: &str, delivered: u64, (waiting, in_flight): (u64, u64)) -> ConsumerFacts {
    ConsumerFacts {
        stream: stream.into(),
        durable: BANK.into(),
        created_ms: NOW - 900,
        filters: BTreeSet::from(["x".into()]),
        delivered,
        ack_floor: delivered.saturating_sub(in_flight),
        deliveries: delivered,
        waiting,
        in_flight,
        paused: false,
        from_the_first: true,
    }
}

fn copy(stream: &str, sequence: u64, due: bool) -> Copy {
    Copy {
        of: seat(stream),
        sequence: NonZeroU64::new(sequence),
        lane: seat(LANE),
        at: 1000 + sequence,
        due: (!due).then_some(20_261_201_000_000),
        letter: None,
    }
}

fn letter(stream: &str, sequence: u64, state: LetterState) -> Letter {
    let (of, sequence) = (seat(stream), NonZeroU64::new(sequence));
    Letter { of, sequence, state, generation: 0, changed_at_ms: NOW - 100_000 }
}

/// Where a message stands that was delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Done,
    InFlight,
    Held,
    Due,
    Letter(LetterState),
}

fn fate() -> impl Strategy<Value = Fate> {
    use LetterState::{Discarded, Held, Open, Replaying, Resolved};
    prop_oneof![
        4 => Just(Fate::Done),
        1 => Just(Fate::InFlight),
        1 => Just(Fate::Held),
        1 => Just(Fate::Due),
        2 => prop_oneof![Just(Open), Just(Held), Just(Replaying), Just(Resolved), Just(Discarded)].prop_map(Fate::Letter),
    ]
}

/// The picture of one consumer: so many as there are fates were delivered, `waiting` were not.
fn picture(name: &str, fates: &[Fate], waiting: u64) -> Picture {
    let is_work = name == WORK;
    let (delivered, last) = (fates.len() as u64, fates.len() as u64 + waiting);
    let mut present = Ranges::of(if is_work { delivered + 1 } else { 1 }, last);
    let mut picture = Picture { at_ms: NOW, ..Picture::default() };
    let mut done = Ranges::default();
    let mut in_flight = Vec::new();
    for (sequence, fate) in (1..).zip(fates) {
        match fate {
            Fate::Done => done.add(sequence, sequence),
            Fate::InFlight => {
                present.insert(sequence);
                in_flight.push(sequence);
            }
            Fate::Held => picture.copies.push(copy(name, sequence, false)),
            Fate::Due => picture.copies.push(copy(name, sequence, true)),
            Fate::Letter(state) => {
                if *state == LetterState::Resolved {
                    done.insert(sequence);
                }
                if *state == LetterState::Replaying {
                    let replay = Copy { letter: NonZeroU128::new(u128::from(sequence)), ..copy(name, sequence, true) };
                    picture.copies.push(replay);
                }
                picture.letters.insert(u128::from(sequence), letter(name, sequence, *state));
            }
        }
    }
    let mut main = consumer(name, delivered, (waiting, in_flight.len() as u64));
    main.ack_floor = in_flight.first().map_or(delivered, |first| first - 1);
    picture.consumers = vec![main, consumer(LANE, 0, (0, 0))];
    picture.streams = vec![stream(name, last, &present), stream(LANE, 9, &Ranges::default())];
    if is_work {
        picture.outcomes.insert(seat(name), Outcomes { done, ..Outcomes::default() });
    } else {
        picture.stored.insert(seat(name), present.count());
    }
    picture
}

fn found(picture: &Picture) -> Vec<(Kind, Vec<String>)> {
    let account = account(picture, Rules::default(), None);
    account.findings.into_iter().map(|finding| (finding.kind, finding.which.first())).collect()
}

fn count(fates: &[Fate], of: impl Fn(&Fate) -> bool) -> u64 {
    fates.iter().filter(|fate| of(fate)).count() as u64
}

proptest! {
    #[test]
    fn whatever_stands_somewhere_adds_up(
        fates in proptest::collection::vec(fate(), 0..30),
        waiting in 0u64..5,
        name in prop_oneof![Just(WORK), Just(EVENTS)],
    ) {
        let account = account(&picture(name, &fates, waiting), Rules::default(), None);
        prop_assert_eq!(&account.findings, &[]);
        let line = &account.lines[0];
        let state = |wanted: LetterState| count(&fates, |fate| *fate == Fate::Letter(wanted));
        prop_assert_eq!(line.published, fates.len() as u64 + waiting);
        prop_assert_eq!(line.sum(), line.published);
        prop_assert_eq!(line.accepted, count(&fates, |fate| *fate == Fate::Done) + state(LetterState::Resolved));
        prop_assert_eq!(line.delayed, count(&fates, |fate| matches!(fate, Fate::Held | Fate::Due)));
        prop_assert_eq!(line.dead, state(LetterState::Open) + state(LetterState::Replaying));
        prop_assert_eq!((line.held, line.discarded), (state(LetterState::Held), state(LetterState::Discarded)));
        prop_assert_eq!((line.in_flight, line.waiting), (count(&fates, |fate| *fate == Fate::InFlight), waiting));
    }

    /// Take any one piece of work away from where it stands: it is named, by its sequence, and nothing else is.
    #[test]
    fn work_that_is_taken_away_is_named(
        fates in proptest::collection::vec(fate(), 1..30),
        waiting in 0usize..5,
        which in any::<proptest::sample::Index>(),
    ) {
        let mut picture = picture(WORK, &fates, waiting as u64);
        let lost = which.index(fates.len() + waiting) as u64 + 1;
        let gone = Ranges::of(lost, lost);
        let outcomes = picture.outcomes.get_mut(&seat(WORK)).unwrap();
        outcomes.done = outcomes.done.without(&gone);
        picture.copies.retain(|copy| copy.sequence != NonZeroU64::new(lost));
        picture.letters.retain(|_, letter| letter.sequence != NonZeroU64::new(lost));
        let present: Ranges = picture.streams[0].present.iter().cloned().flatten().collect();
        picture.streams[0].present = present.without(&gone).iter().collect();
        prop_assert_eq!(found(&picture), [(Kind::WorkMissing, vec![lost.to_string()])]);
        let account = account(&picture, Rules::default(), None);
        prop_assert_eq!((account.lines[0].missing, account.lines[0].published), (1, (fates.len() + waiting) as u64));
    }
}

/// Four of work: done, held on the lane, an open letter, waiting.
fn healthy(name: &str) -> Picture {
    picture(name, &[Fate::Done, Fate::Held, Fate::Letter(LetterState::Open)], 1)
}

#[test]
fn each_way_to_break_it_is_named() {
    type Break = fn(&mut Picture);
    let cases: [(Kind, &str, Break, &str); 15] = [
        (Kind::Overdue, WORK, |p| p.copies[0].due = Some(20_261_101_000_000), "1002"),
        (Kind::TwoCopies, WORK, |p| p.copies.push(Copy { at: 5000, ..copy(WORK, 2, false) }), "2"),
        (Kind::CopyAndLetter, WORK, |p| p.copies.push(copy(WORK, 3, false)), "3"),
        (Kind::CopyOfDone, WORK, |p| p.copies.push(copy(WORK, 1, true)), "1"),
        (Kind::CopyOfWaiting, WORK, |p| p.copies.push(copy(WORK, 4, false)), "4"),
        (Kind::CopyOfWaiting, EVENTS, |p| p.copies.push(copy(EVENTS, 4, false)), "4"),
        (
            Kind::CopyWithoutReplay,
            WORK,
            |p| p.copies.push(Copy { letter: NonZeroU128::new(3), ..copy(WORK, 3, true) }),
            "3",
        ),
        (
            Kind::ReplayWithoutCopy,
            WORK,
            |p| p.letters.get_mut(&3).unwrap().state = LetterState::Replaying,
            "00000000000000000000000000000003",
        ),
        (
            Kind::LetterOfDone,
            WORK,
            |p| p.outcomes.get_mut(&seat(WORK)).unwrap().done.add(3, 3),
            "00000000000000000000000000000003",
        ),
        (Kind::GivenUp, EVENTS, |p| drop(p.given_up.insert(seat(EVENTS), Ranges::of(1, 1))), "1"),
        (Kind::LaneWithoutConsumer, WORK, |p| p.consumers.retain(|c| c.stream != LANE), "1002"),
        (Kind::Stray, WORK, |p| drop(p.strays.insert(LANE.into(), Ranges::of(7, 7))), "7"),
        (Kind::Paused, WORK, |p| p.consumers[0].paused = true, ""),
        (Kind::Full, WORK, |p| p.streams[0].max_bytes = Some(11), ""),
        (Kind::NegativeRemainder, EVENTS, |p| *p.stored.get_mut(&seat(EVENTS)).unwrap() = 2, ""),
    ];
    for (kind, name, break_it, first) in cases {
        let mut picture = healthy(name);
        assert_eq!(found(&picture), [], "{kind:?}: healthy before");
        break_it(&mut picture);
        let expected: Vec<String> = (!first.is_empty()).then(|| first.to_owned()).into_iter().collect();
        assert_eq!(found(&picture), [(kind, expected)], "{kind:?}");
    }
}

/// Copies and letters of a stream that was made anew since, of any number, stand in no line and beside nothing. What is wrong
/// with them themselves is named all the same.
#[test]
fn what_is_of_an_older_stream_is_beside_nothing_of_the_new() {
    for name in [WORK, EVENTS] {
        let now = healthy(name);
        let mut picture = now.clone();
        for at in 5000..5002 {
            picture.copies.push(Copy { sequence: None, at, ..copy(name, 2, false) });
        }
        let older = |state| Letter { sequence: None, ..letter(name, 1, state) };
        use LetterState::{Discarded, Held, Open, Replaying};
        picture.letters.extend([(11, older(Open)), (12, older(Held)), (13, older(Discarded))]);
        assert_eq!(found(&picture), [], "{name}");
        let (before, after) = (account(&now, Rules::default(), None), account(&picture, Rules::default(), None));
        assert_eq!((&before.lines, before.remarks.len(), after.remarks.len()), (&after.lines, 0, 1), "{name}");
        assert!(after.remarks[0].starts_with(&format!("{name}: 2: ")), "two wait for a person: {:?}", after.remarks);

        picture.letters.insert(14, older(Replaying));
        picture.copies.push(Copy { sequence: None, letter: NonZeroU128::new(11), at: 6000, ..copy(name, 2, true) });
        let expected =
            [(Kind::ReplayWithoutCopy, vec![format!("{:032x}", 14)]), (Kind::CopyWithoutReplay, vec!["6000".into()])];
        assert_eq!(found(&picture), expected, "{name}");
    }
}

#[test]
fn what_is_on_its_way_is_not_named() {
    // The handler is done, its outcome is out, and the ack of the copy is not there yet.
    let mut picture = picture(WORK, &[Fate::Due], 0);
    picture.consumers[1].delivered = 1001;
    picture.outcomes.insert(seat(WORK), Outcomes { done: Ranges::of(1, 1), ..Outcomes::default() });
    assert_eq!(found(&picture), []);
    // A replay that was ordered a moment ago: its copy may still come.
    let mut picture = healthy(WORK);
    let letter = picture.letters.get_mut(&3).unwrap();
    (letter.state, letter.changed_at_ms) = (LetterState::Replaying, NOW - 1000);
    assert_eq!(found(&picture), []);
    // An event whose copy is there and whose ack is not.
    let mut picture = self::picture(EVENTS, &[Fate::InFlight], 0);
    picture.copies.push(copy(EVENTS, 1, false));
    let account = account(&picture, Rules::default(), None);
    let line = &account.lines[0];
    assert_eq!((account.findings.len(), line.delayed, line.in_flight, line.accepted), (0, 1, 0, 0));
}

#[test]
fn events_that_left_before_they_were_handled_are_lost() {
    let mut aged = picture(EVENTS, &[Fate::Done, Fate::Done], 5);
    aged.streams[0] = stream(EVENTS, 7, &Ranges::of(5, 7));
    aged.stored.insert(seat(EVENTS), 3);
    aged.consumers[0].waiting = 3;
    assert_eq!(found(&aged), [(Kind::EventsLost, vec!["3-4".to_owned()])]);
    // Whether they were its own can't be told where the stream has other events: said, and not found.
    aged.stored.insert(seat(EVENTS), 1);
    aged.consumers[0].waiting = 1;
    assert_eq!(found(&aged), []);
    assert_eq!(account(&aged, Rules::default(), None).remarks.len(), 1);
    // A purge moves the consumer's floors with it: how often it delivered does not fit.
    let mut purged = picture(EVENTS, &[Fate::Done, Fate::Done], 0);
    purged.streams[0] = stream(EVENTS, 9, &Ranges::default());
    (purged.consumers[0].delivered, purged.consumers[0].ack_floor) = (9, 9);
    purged.stored.insert(seat(EVENTS), 0);
    assert_eq!(found(&purged), [(Kind::EventsLost, vec![])]);
    // A consumer that was made later never had them to handle.
    purged.consumers[0].created_ms = NOW + 3_600_000;
    assert_eq!(found(&purged), []);
    // Aged away after they were handled: nothing is wrong.
    let mut settled = picture(EVENTS, &[Fate::Done, Fate::Done, Fate::Letter(LetterState::Open)], 0);
    settled.streams[0] = stream(EVENTS, 3, &Ranges::default());
    settled.stored.insert(seat(EVENTS), 0);
    assert_eq!(found(&settled), []);
    let line = &account(&settled, Rules::default(), None).lines[0];
    assert_eq!((line.published, line.dead, line.accepted), (1, 1, 0), "the letter outlived its original");
}

#[test]
fn outcomes_that_are_too_old_to_be_there_are_not_missed() {
    let mut old = picture(WORK, &[Fate::Done; 6], 0);
    let day = 24 * 3600 * 1000;
    let kept = std::time::Duration::from_millis(day);
    let outcomes = StreamFacts { max_age: Some(kept), ..stream(OUTCOME_STREAM, 6, &Ranges::of(4, 6)) };
    old.streams.push(outcomes);
    old.streams[0].created_ms = NOW - 3 * i64::try_from(day).unwrap();
    let left = Outcomes { done: Ranges::of(4, 6), since: Some(4), unplaced: 0 };
    old.outcomes.insert(seat(WORK), left.clone());
    assert_eq!(found(&old), []);
    let account = account(&old, Rules::default(), None);
    assert_eq!((account.lines[0].accepted, account.remarks.len()), (6, 1));
    // One that must still be there is missed all the same.
    let done = left.done.without(&Ranges::of(5, 5));
    old.outcomes.insert(seat(WORK), Outcomes { done, ..left });
    assert_eq!(found(&old), [(Kind::WorkMissing, vec!["5".to_owned()])]);
}

#[test]
fn what_the_mesh_file_needs_must_be_there() {
    let picture = healthy(EVENTS);
    let mut bank = crate::policy::compile::Declaration::new("bank".parse().unwrap());
    bank.consumes.insert(Consumes {
        consumer: "p".parse().unwrap(),
        producer: "orders".into(),
        event: "shop.Placed".into(),
        ordered: false,
    });
    let mut topology = Topology::of(&[bank.clone()], &"local".parse().unwrap());
    topology.streams.retain(|spec| [EVENTS, LANE].contains(&spec.name.as_str()));
    assert_eq!(account(&picture, Rules::default(), Some(&topology)).findings, []);
    topology.consumers[0].durable = "bank_q".into();
    topology.streams[0].name = "mesh1-event-other".into();
    let findings = account(&picture, Rules::default(), Some(&topology)).findings;
    let kinds: Vec<_> = findings.iter().map(|finding| finding.kind).collect();
    assert_eq!(kinds, [Kind::StreamMissing, Kind::ConsumerMissing]);
    assert_eq!(findings[1].durable, "bank_q");
}
