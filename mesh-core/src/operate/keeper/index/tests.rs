use mesh_proto::v1::{self, LetterStanding, letter_record::Record};
use proptest::prelude::*;
use prost::Message as _;

use super::{Entry, Index};
use crate::{
    dead_letter::Letters,
    envelope::{Delivery, Envelope, Note},
    operate::keeper::ask::state,
};

fn envelope(id: u8, consumer: &str, sequence: u64, record: Record) -> Envelope {
    with_id(&format!("{:032x}", u128::from(id)), consumer, sequence, record)
}

/// As its consumer writes it: a capture says whose it is.
fn with_id(id: &str, consumer: &str, sequence: u64, record: Record) -> Envelope {
    let record = match record {
        Record::Captured(letter) => Record::Captured(v1::DeadLetter {
            id: id.into(),
            service: "bank".into(),
            consumer: consumer.into(),
            ..letter
        }),
        other => other,
    };
    let payload = v1::LetterRecord { record: Some(record) }.encode_to_vec().into();
    Envelope {
        subject: format!("mesh1.dead.local.bank.{consumer}.{id}"),
        message_id: String::new(),
        caller: String::new(),
        trace: None,
        note: Note::default(),
        headers: Vec::new(),
        order: None,
        payload,
        delivery: Some(Delivery { stream: "s".into(), sequence, deliveries: 1, consumer_sequence: 0, stored_at_ms: 0 }),
    }
}

fn captured(generation: u32, reason: &str, at_ms: i64) -> Record {
    let fault = v1::Fault { reason: reason.into(), code: 13, ..Default::default() };
    Record::Captured(v1::DeadLetter {
        generation,
        captured_at_ms: at_ms,
        message_type: "a.B".into(),
        fault: Some(fault),
        ..Default::default()
    })
}

/// Letters 0 to 99, one a millisecond, from two consumers, of three reasons.
fn hundred() -> Index {
    let mut index = Index::default();
    for number in 0..100u8 {
        let consumer = if number % 2 == 0 { "even" } else { "odd" };
        let reason = format!("MESH-000{}", number % 3);
        // The stream's order is not that of the captures.
        let record = captured(0, &reason, i64::from(99 - number));
        index.apply(&envelope(number, consumer, u64::from(number) + 1, record));
    }
    index
}

#[test]
fn an_entry_is_small() {
    assert!(size_of::<Entry>() <= 80, "{}", size_of::<Entry>());
}

#[test]
fn pages_hold_every_letter_once_the_oldest_first() {
    let index = hundred();
    let query = v1::LetterQuery { consumer: "even".into(), ..Default::default() };
    let mut request = v1::ListLettersRequest { query: Some(query), page_size: 7, ..Default::default() };
    let mut seen = Vec::new();
    loop {
        let page = index.list(&request);
        assert_eq!(page.total, 50);
        seen.extend(page.letters.iter().map(|letter| letter.captured_at_ms));
        if page.next_page_token.is_empty() {
            break;
        }
        assert_eq!(page.letters.len(), 7);
        request.page_token = page.next_page_token;
    }
    assert_eq!(seen, (0..50).map(|n| n * 2 + 1).collect::<Vec<_>>());
}

fn any_of(any_of: v1::LetterAnyOf) -> v1::LetterQuery {
    v1::LetterQuery { any_of: Some(any_of), ..Default::default() }
}

#[test]
fn every_part_of_a_query_is_heeded() {
    let mut index = hundred();
    index.apply(&envelope(4, "even", 200, Record::Held(v1::LetterAct::default())));
    let count = |query: v1::LetterQuery| {
        let reply = index.count(&v1::CountLettersRequest { query: Some(query), read_to: 0 });
        (reply.total, reply.held)
    };
    let fingerprint = index.list(&v1::ListLettersRequest::default()).letters[0].fingerprint;
    for (query, expected) in [
        (v1::LetterQuery::default(), (100, 1)),
        (v1::LetterQuery { service: "bank".into(), ..Default::default() }, (100, 1)),
        (v1::LetterQuery { service: "till".into(), ..Default::default() }, (0, 0)),
        (v1::LetterQuery { consumer: "odd".into(), ..Default::default() }, (50, 0)),
        (v1::LetterQuery { message_type: "a.B".into(), ..Default::default() }, (100, 1)),
        (v1::LetterQuery { message_type: "a.C".into(), ..Default::default() }, (0, 0)),
        (v1::LetterQuery { reason: "MESH-0001".into(), ..Default::default() }, (33, 1)),
        (v1::LetterQuery { code: 13, ..Default::default() }, (100, 1)),
        (v1::LetterQuery { code: 3, ..Default::default() }, (0, 0)),
        (v1::LetterQuery { vendor: "stripe".into(), ..Default::default() }, (0, 0)),
        (v1::LetterQuery { captured_from_ms: 90, ..Default::default() }, (10, 1)),
        (v1::LetterQuery { captured_from_ms: 90, captured_before_ms: 91, ..Default::default() }, (1, 0)),
        (v1::LetterQuery { standings: vec![LetterStanding::Held.into()], ..Default::default() }, (1, 1)),
        (v1::LetterQuery { fingerprint, ..Default::default() }, (34, 0)),
        (any_of(v1::LetterAnyOf { message_types: vec!["B".into()], ..Default::default() }), (100, 1)),
        (any_of(v1::LetterAnyOf { message_types: vec!["a.B".into(), "x".into()], ..Default::default() }), (100, 1)),
        (any_of(v1::LetterAnyOf { message_types: vec![".B".into()], ..Default::default() }), (0, 0)),
        (
            any_of(v1::LetterAnyOf { reasons: vec!["MESH-0001".into(), "MESH-0002".into()], ..Default::default() }),
            (66, 1),
        ),
        (any_of(v1::LetterAnyOf { codes: vec![3, 13], ..Default::default() }), (100, 1)),
        (any_of(v1::LetterAnyOf { codes: vec![3, 4], ..Default::default() }), (0, 0)),
        (any_of(v1::LetterAnyOf { vendors: vec!["stripe".into(), String::new()], ..Default::default() }), (100, 1)),
        (any_of(v1::LetterAnyOf { vendor_codes: vec!["stripe".into()], ..Default::default() }), (0, 0)),
        (any_of(v1::LetterAnyOf { fingerprints: vec![fingerprint, 0], ..Default::default() }), (34, 0)),
    ] {
        assert_eq!(count(query.clone()), expected, "{query:?}");
    }
}

#[test]
fn letters_are_found_by_how_their_ids_begin() {
    let mut index = Index::default();
    let ids = ["00ab", "00ac", "10ab"].map(|beginning| format!("{beginning:0<32}"));
    for (sequence, id) in (1..).zip(&ids) {
        index.apply(&with_id(id, "even", sequence, captured(0, "MESH-0001", 0)));
    }
    for (beginning, expected) in [
        ("", 3),
        ("0", 2),
        ("00a", 2),
        ("00ab", 1),
        ("10", 1),
        ("2", 0),
        (ids[1].as_str(), 1),
        (&format!("{}0", ids[1]), 0),
        ("+0", 0),
        ("x", 0),
    ] {
        let query = v1::LetterQuery { id_prefix: beginning.into(), ..Default::default() };
        let reply = index.count(&v1::CountLettersRequest { query: Some(query), read_to: 0 });
        assert_eq!(reply.total, expected, "{beginning:?}");
    }
}

#[test]
fn groups_are_of_one_fingerprint_the_largest_first() {
    let groups = hundred().group(&v1::GroupLettersRequest { limit: 2, ..Default::default() });
    assert_eq!((groups.total, groups.total_groups, groups.groups.len()), (100, 3, 2));
    let largest = &groups.groups[0];
    assert_eq!((largest.count, largest.first_ms, largest.last_ms), (34, 0, 99));
    assert_eq!(largest.newest.as_ref().unwrap().reason, "MESH-0000");
}

fn record() -> impl Strategy<Value = Record> {
    let act = |generation| v1::LetterAct { generation, ..Default::default() };
    (0u32..4, 0..7).prop_map(move |(generation, kind)| match kind {
        0 => captured(generation, "MESH-0001", i64::from(generation)),
        1 => Record::Replaying(act(generation)),
        2 => Record::Resolved(act(generation)),
        3 => Record::Discarded(act(generation)),
        4 => Record::Held(act(generation)),
        5 => Record::Released(act(generation)),
        _ => Record::Edited(v1::LetterEdit::default()),
    })
}

proptest! {
    /// Whatever is written, the index says what the fold of the records says.
    #[test]
    fn the_index_and_the_fold_agree(
        records in proptest::collection::vec((0u8..4, prop_oneof!["even", "odd"], any::<bool>(), record()), 0..40),
    ) {
        let (mut index, mut letters) = (Index::default(), Letters::default());
        for (sequence, (id, consumer, is_forged, record)) in (1..).zip(records) {
            let mut envelope = envelope(id, &consumer, sequence, record);
            // A capture that says it is another's.
            if is_forged {
                envelope.subject = envelope.subject.replace(".bank.", ".till.");
            }
            index.apply(&envelope);
            letters.apply(&envelope);
        }
        let listed = index.list(&v1::ListLettersRequest::default());
        let unread = letters.unread().count() as u64;
        let letters = letters.into_map();
        prop_assert_eq!(listed.total, letters.len() as u64);
        prop_assert_eq!(listed.unread.map_or(0, |unread| unread.count), unread);
        for entry in listed.letters {
            prop_assert_eq!(&entry.service, "bank");
            let place = [entry.region.as_str(), &entry.service, &entry.consumer].join(".");
            let letter = &letters[&(entry.id.clone(), place)];
            prop_assert_eq!(state(entry.standing()), letter.state);
            prop_assert_eq!(entry.generation, letter.letter.generation);
            prop_assert_eq!(entry.last_sequence, letter.last_sequence);
            prop_assert_eq!(entry.captured_at_ms, letter.letter.captured_at_ms);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    /// Many letters: each is found again, and none twice.
    #[test]
    fn ids_are_found_however_many_there_are(ids in proptest::collection::btree_set(any::<u128>(), 1..3000)) {
        let mut index = Index::default();
        for round in 0..2u64 {
            for (sequence, id) in (1..).zip(&ids) {
                let (id, sequence) = (format!("{id:032x}"), round * 10_000 + sequence);
                index.apply(&with_id(&id, "even", sequence, captured(0, "MESH-0001", 0)));
            }
            prop_assert_eq!(index.len(), ids.len());
        }
    }
}
