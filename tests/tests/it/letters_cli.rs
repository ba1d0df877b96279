//! Working with letters at the command line: choosing, grouping, holding, watching.

use std::{
    collections::BTreeSet,
    io::{BufRead as _, BufReader},
    process::Stdio,
};

use mesh_core::{
    Fault,
    bus::Bus,
    dead_letter::{Letter, capture},
    delayed::Lane,
    envelope::{Delivery, Envelope, Note},
    fault::{Code, Effect, Origin, Reason},
    operate::{
        keeper::{KeeperSettings, ask},
        letters::{self, Selector},
    },
    proto::v1,
};
use mesh_tests::{TestBroker, eventually, keeper::Running};
use prost::Message as _;
use serde_json::Value;

use crate::{
    command_line::Operator,
    shop::{bank, charge_of, till},
};

/// The consumer of the bank's work.
pub(crate) const WORKER: &str = "shop-payments-v1-payments";

/// Captures a letter of the bank as its worker would.
pub(crate) async fn charge_letter(bus: &Bus, number: usize, fault: &Fault, payload: Vec<u8>) -> String {
    letter_of(bus, "shop.payments.v1.Payments.Charge", number, fault, payload).await
}

/// The same of another operation, as in a subject.
async fn letter_of(bus: &Bus, operation: &str, number: usize, fault: &Fault, payload: Vec<u8>) -> String {
    let name = |text: &str| text.parse().unwrap();
    let lane = Lane { region: name("local"), service: name("bank"), consumer: name(WORKER) };
    let envelope = Envelope {
        subject: format!("mesh1.work.local.{operation}.normal.1.till"),
        message_id: format!("till/{operation}/{number}"),
        caller: "till".into(),
        trace: None,
        note: Note::default(),
        headers: vec![("tenant".into(), format!("t{}", number % 2))],
        order: None,
        payload: payload.into(),
        delivery: Some(Delivery {
            stream: "mesh1-work-shop-payments-v1-Payments".into(),
            sequence: number as u64,
            deliveries: 1,
            consumer_sequence: 0,
            stored_at_ms: 5,
        }),
    };
    capture(bus, &lane, &envelope, fault, v1::Attempts::default()).await.unwrap().letter_id
}

pub(crate) fn refused(number: usize) -> Fault {
    let origin = Origin { vendor: "stripe".into(), vendor_code: "amount_too_small".into(), ..Origin::default() };
    Fault::new(
        Code::InvalidArgument,
        Effect::None,
        Reason::VendorRefused,
        format!("Amount {number} of \"o{number}\" is too small"),
    )
    .with_origin(origin)
}

fn unknown() -> Fault {
    Fault::new(Code::Unavailable, Effect::Unknown, Reason::OutcomeUnknown, "the connection ended")
}

/// Letters of the bank: four that the vendor refused, one of which nobody knows.
pub(crate) async fn some_letters(broker: &TestBroker) -> Vec<String> {
    let operator = broker.connect("operator").await.unwrap();
    let mut ids = Vec::new();
    for number in 0..4 {
        let payload = charge_of(number, i64::try_from(number).unwrap() * 10).encode_to_vec();
        ids.push(charge_letter(operator.bus(), number, &refused(number), payload).await);
    }
    ids.push(charge_letter(operator.bus(), 9, &unknown(), charge_of(9, 9_007_199_254_740_993).encode_to_vec()).await);
    operator.drain().await;
    ids
}

/// How often a keeper answered.
pub(crate) fn keeper_asked(keeper: &Running, method: &str) -> usize {
    let metrics = keeper.mesh.metrics().encode();
    let series = format!(r#"mesh_served_total{{operation="mesh.v1.Keeper/{method}",code="OK"}} "#);
    metrics.lines().find_map(|line| line.strip_prefix(&series)).map_or(0, |count| count.parse().unwrap())
}

fn ids_of(listed: &Value) -> BTreeSet<String> {
    listed.as_array().unwrap().iter().map(|letter| letter["id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_is_narrowed_by_what_is_known_of_a_letter_and_by_its_payload() {
    let broker = TestBroker::start(&[till(), bank()]).await.unwrap();
    let ids = some_letters(&broker).await;
    let operator = Operator::at(&broker, "operator");
    let whole = operator.json(0, &["dead-letter", "list"]).await;
    let fingerprint = whole[0]["fingerprint"].as_str().unwrap();
    assert_eq!(whole.as_array().unwrap().len(), 5);
    let filters = [
        (&["--reason", "103"][..], &[0, 1, 2, 3][..]),
        (&["--reason", "MESH-0103,MESH-0023"], &[0, 1, 2, 3, 4]),
        (&["--code", "unavailable"], &[4]),
        (&["--vendor", "stripe", "--vendor-code", "amount_too_small"], &[0, 1, 2, 3]),
        (&["--type", "Payments/Charge", "--consumer", "bank/shop-payments-v1-payments"], &[0, 1, 2, 3, 4]),
        (&["--type", "OrderPlaced"], &[]),
        (&["--type", "OrderPlaced,Payments/Charge"], &[0, 1, 2, 3, 4]),
        (&["--type", "ayments/Charge"], &[]),
        (&["--code", "unavailable,not-found"], &[4]),
        (&["--vendor", ""], &[4]),
        (&["--state", "parked"], &[4]),
        (&["--state", "held"], &[]),
        (&["--fingerprint", fingerprint], &[0, 1, 2, 3]),
        (&["--header", "Tenant=t1"], &[1, 3, 4]),
        (&["--since", "1h"], &[0, 1, 2, 3, 4]),
        (&["--older-than", "1h"], &[]),
        (&["--until", "2026-01-02T03:04:05Z"], &[]),
        (&["--where", "payload.amount_cents >= 20 && letter.vendor == 'stripe'"], &[2, 3]),
        (&["--filter", "payload.amount_cents == 9007199254740993"], &[4]),
        (&["--where", "header['tenant'] == 't0' && letter.captured > timestamp('2026-01-01T00:00:00Z')"], &[0, 2]),
    ];
    let check = async || {
        for (words, expected) in filters {
            let listed = operator.json(0, &[&["dead-letter", "list"], words].concat()).await;
            let expected: BTreeSet<String> = expected.iter().map(|index| ids[*index].clone()).collect();
            assert_eq!(ids_of(&listed), expected, "{words:?}");
        }
    };
    check().await;
    // The same from the keeper's index, where it can say it.
    let mesh = broker.connect("operator").await.unwrap();
    let keeper = Running::start(&broker, KeeperSettings::default()).await.unwrap();
    eventually("an answer", || async { ask::count(mesh.bus(), v1::LetterQuery::default()).await.ok() }).await;
    check().await;
    let is_read = |words: &[&str]| ["--header", "--where", "--filter"].iter().any(|slow| words.contains(slow));
    let of_index = filters.iter().filter(|(words, _)| !is_read(words)).count();
    assert_eq!(keeper_asked(&keeper, "ListLetters"), of_index);
    let both = ["dead-letter", "group", "--type", "Payments/Charge", "--code", "unavailable,invalid-argument"];
    let groups = operator.json(0, &both).await;
    assert_eq!((&groups[0]["count"], &groups[1]["count"]), (&4.into(), &1.into()), "{groups}");
    assert_eq!(keeper_asked(&keeper, "GroupLetters"), 1);
    keeper.stop().await;

    let wrong = operator.run(&["dead-letter", "list", "--where", "letter.vendr == 'x'"]).await;
    let said = String::from_utf8(wrong.stderr).unwrap();
    assert_eq!(wrong.status.code(), Some(2), "{said}");
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines[0].contains("--where:1:8: \"letter\" has no \"vendr\" (did you mean \"vendor\"?)"), "{said}");
    assert_eq!(lines[2].find('^'), lines[1].find("vendr"), "{said}");
    let never = operator.run(&["dead-letter", "list", "--where", "payload.amount_cents == '20'"]).await;
    let said = String::from_utf8(never.stderr).unwrap();
    assert_eq!((never.status.code(), never.stdout.len()), (Some(2), 0), "{said}");
    assert!(said.contains("--where:1:22: a number (payload.amount_cents) is compared with a text"), "{said}");
    let unclear = operator.run(&["dead-letter", "list", "--where", "int(payload.currency) > 5"]).await;
    let said = String::from_utf8(unclear.stderr).unwrap();
    assert!(unclear.status.success() && said.contains("--where could not be judged for 5 letters, left out"), "{said}");
    for wrong in [&["--reason", "9999"][..], &["--code", "NOPE"], &["--since", "soon"], &["--fingerprint", "xyz"]] {
        let ended = operator.run(&[&["dead-letter", "list"], wrong].concat()).await;
        assert_eq!(ended.status.code(), Some(2), "{wrong:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn like_failures_are_one_group_and_are_held_released_and_discarded_together() {
    let broker = TestBroker::start(&[till(), bank()]).await.unwrap();
    let ids = some_letters(&broker).await;
    let operator = Operator::at(&broker, "operator");
    let groups = operator.json(0, &["dead-letter", "group"]).await;
    assert_eq!(groups.as_array().unwrap().len(), 2, "{groups}");
    let group = &groups[0];
    assert_eq!((&group["count"], &group["states"]["open"]), (&4.into(), &4.into()));
    assert_eq!(group["said"], "Amount # of # is too small");
    assert_eq!(group["consumers"][0], "bank/shop-payments-v1-payments");
    let fingerprint = group["fingerprint"].as_str().unwrap();
    let table = operator.run(&["dead-letter", "group"]).await;
    assert!(String::from_utf8_lossy(&table.stdout).contains(fingerprint), "{table:?}");

    // Nobody is there to ask; nothing is said of which.
    let words = ["dead-letter", "hold", "--fingerprint", fingerprint, "--why", "they call back"];
    let unasked = operator.run(&words).await;
    assert_eq!(unasked.status.code(), Some(2), "{unasked:?}");
    assert!(
        String::from_utf8_lossy(&unasked.stderr).contains("hold 4 letters of bank/shop-payments-v1-payments?"),
        "{unasked:?}"
    );
    for wrong in [&["--why", "x"][..], &[&ids[0], "--all", "--why", "x"], &[&ids[0]]] {
        let ended = operator.run(&[&["dead-letter", "hold"], wrong].concat()).await;
        assert_eq!(ended.status.code(), Some(2), "{wrong:?}");
    }
    let held = operator.json(0, &[&words[..], &["--yes"]].concat()).await;
    assert_eq!(held.as_array().unwrap().len(), 4);
    assert!(held.as_array().unwrap().iter().all(|end| end["done"] == true && end["state"] == "held"), "{held}");
    let again = operator.run(&["dead-letter", "hold", &ids[0], "--why", "x"]).await;
    assert_eq!(again.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&again.stderr).contains("it is held already"), "{again:?}");
    let replay = operator.run(&["dead-letter", "replay", &ids[0]]).await;
    assert!(String::from_utf8_lossy(&replay.stderr).contains("release it first"), "{replay:?}");
    let listed = operator.json(0, &["dead-letter", "list", "--state", "held"]).await;
    assert_eq!(ids_of(&listed).len(), 4);

    let released = operator.json(0, &["dead-letter", "release", &ids[0][..12], &ids[1], "--why", "now"]).await;
    assert_eq!((&released[0]["state"], &released[1]["id"]), (&"open".into(), &ids[1].clone().into()));
    // Held or open: what has ended or does not fit stays.
    let gone = operator.json(0, &["dead-letter", "discard", "--reason", "103", "--why", "test orders", "--yes"]).await;
    assert_eq!(gone.as_array().unwrap().len(), 4);
    let shown = operator.json(0, &["dead-letter", "show", &ids[0]]).await;
    let acts: Vec<_> = shown["history"].as_array().unwrap().iter().map(|act| act["kind"].as_str().unwrap()).collect();
    assert_eq!(acts, ["captured", "held", "released", "discarded"]);
    let by_ada = (&mesh_tests::person("ada").into(), &"they call back".into());
    assert_eq!((&shown["history"][1]["by"], &shown["history"][1]["why"]), by_ada);
    let ended = operator.run(&["dead-letter", "edit", &ids[0], "--set", "currency=eur", "--why", "x"]).await;
    assert_eq!(ended.status.code(), Some(1), "what has ended is not edited: {ended:?}");
    let none = operator.json(0, &["dead-letter", "discard", "--reason", "103", "--why", "again"]).await;
    assert_eq!(none, Value::Array(Vec::new()));
}

pub(crate) async fn all(bus: &Bus) -> Vec<Letter> {
    letters::list(bus, &Selector::default()).await.unwrap().letters
}

#[tokio::test(flavor = "multi_thread")]
async fn new_letters_are_seen_as_they_come_also_after_the_broker_was_away() {
    let mut broker = TestBroker::start(&[till(), bank()]).await.unwrap();
    some_letters(&broker).await;
    let operator = Operator::at(&broker, "operator");
    let words = ["dead-letter", "watch", "--where", "payload.amount_cents > 40", "--count", "2", "-o", "json"];
    let mut command = operator.command(&words);
    let mut watch = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut told = BufReader::new(watch.stderr.take().unwrap()).lines();
    let (watching, _told) = tokio::task::spawn_blocking(move || (told.next().unwrap().unwrap(), told)).await.unwrap();
    assert!(watching.starts_with("watching"), "{watching}");
    let mesh = broker.connect("operator").await.unwrap();
    let mut expected = Vec::new();
    for number in 20..24 {
        let cents = if number % 2 == 0 { 50 } else { 30 };
        let id = charge_letter(mesh.bus(), number, &refused(number), charge_of(number, cents).encode_to_vec()).await;
        expected.extend((number % 2 == 0).then_some(id));
        if number == 20 {
            broker.server.kill9().await.unwrap();
            broker.server.restart().await.unwrap();
        }
    }
    let lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    let seen = tokio::task::spawn_blocking(move || lines.map(|line| line.unwrap()).collect::<Vec<_>>()).await.unwrap();
    assert!(watch.wait().unwrap().success());
    let seen: Vec<Value> = seen.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(seen.iter().map(|letter| letter["id"].as_str().unwrap()).collect::<Vec<_>>(), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_watches_is_told_of_letters_that_could_not_be_judged() {
    let broker = TestBroker::start(&[till(), bank()]).await.unwrap();
    let operator = Operator::at(&broker, "operator");
    let words = ["dead-letter", "watch", "--where", "payload.amount_cents > 40", "--count", "1", "-o", "json"];
    let mut watch = operator.command(&words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut told = BufReader::new(watch.stderr.take().unwrap()).lines();
    let (watching, told) = tokio::task::spawn_blocking(move || (told.next().unwrap().unwrap(), told)).await.unwrap();
    assert!(watching.starts_with("watching"), "{watching}");
    let mesh = broker.connect("operator").await.unwrap();
    let unknown = letter_of(mesh.bus(), "else.v1.Others.Do", 20, &refused(20), Vec::new()).await;
    let meant = charge_letter(mesh.bus(), 21, &refused(21), charge_of(21, 50).encode_to_vec()).await;
    let (watch, told) = tokio::task::spawn_blocking(move || {
        let told: Vec<String> = told.map(|line| line.unwrap()).collect();
        (watch.wait_with_output().unwrap(), told.join("\n"))
    })
    .await
    .unwrap();
    let seen = String::from_utf8(watch.stdout).unwrap();
    assert!(watch.status.success() && seen.contains(&meant) && !seen.contains(&unknown), "{seen}");
    assert!(told.contains("note: --where could not be judged for 1 letter, left out"), "{told}");
    assert!(told.contains("the contract of \"else.v1.Others/Do\" is not known here"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn ordering_keys_are_shown_only_where_it_is_said() {
    let broker = TestBroker::start(&[till(), bank()]).await.unwrap();
    let mesh = broker.connect("operator").await.unwrap();
    let id = "0a".repeat(16);
    let letter = v1::DeadLetter {
        id: id.clone(),
        service: "bank".into(),
        consumer: WORKER.into(),
        key: "ada@example.com".into(),
        ..v1::DeadLetter::default()
    };
    let record = v1::LetterRecord { record: Some(v1::letter_record::Record::Captured(letter)) };
    let subject = format!("mesh1.dead.local.bank.{WORKER}.{id}");
    let sealed = mesh.bus().gate().seal_own(subject, Vec::new(), record.encode_to_vec().into());
    mesh.bus().publish("mesh1-dead-letter", sealed).await.unwrap();
    let operator = Operator::at(&broker, "operator");
    for words in [&["list", "-o", "json"][..], &["show", &id, "-o", "json"], &["show", &id]] {
        let said = |more: &'static [&'static str]| {
            let words = [&["dead-letter"], words, more].concat();
            let operator = &operator;
            async move { String::from_utf8(operator.run(&words).await.stdout).unwrap() }
        };
        let masked = said(&[]).await;
        assert!(masked.contains("***") && !masked.contains("ada@"), "{words:?}: {masked}");
        assert!(said(&["--reveal"]).await.contains("ada@example.com"), "{words:?}");
    }
}
