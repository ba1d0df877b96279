//! What `replay --dry-run` shows of edited payloads, and that it changes nothing.

use mesh_core::{
    Fault,
    bus::Bus,
    dead_letter,
    envelope::Envelope,
    operate::letters::{self, Order},
    proto::v1,
};
use mesh_tests::{
    TestBroker, eventually,
    letters::{in_hand, lane},
};
use prost::Message as _;
use serde_json::Value;
use shop_proto::shop::orders::v1::OrderPlaced;

use crate::{
    command_line::Operator,
    letters_cli::{all, charge_letter, refused},
    replay::{Office, Shelf, capture, work},
    shop::{bank, charge_of, order, till},
};

const EDIT: [&str; 8] =
    ["dead-letter", "edit", "--set", "total_cents=5", "--set", "placed_on=2026-01-02", "--why", "ticket 17"];
const PREVIEW: [&str; 4] = ["dead-letter", "replay", "--all", "--dry-run"];

async fn text(person: &Operator, words: &[&str]) -> (String, String) {
    let ended = person.run(words).await;
    assert!(ended.status.success(), "{ended:?}");
    (String::from_utf8(ended.stdout).unwrap(), String::from_utf8(ended.stderr).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_preview_shows_what_edits_changed_and_says_how_many_more_there_are() {
    let office = Office::open(&["a"]).await;
    capture(office.bus(), "a", 0..13).await;
    let person = Operator::at(&office.broker, "operator");
    let before = person.json(0, &PREVIEW).await;
    assert_eq!(
        (&before["letters"], &before["mended"], &before["edits"]),
        (&13.into(), &0.into(), &Value::Array(vec![]))
    );
    person.json(0, &[&EDIT[..], &["--where", "payload.order_id != '7'", "--yes"]].concat()).await;

    let dry = person.json(0, &PREVIEW).await;
    assert_eq!((&dry["letters"], &dry["mended"]), (&13.into(), &12.into()));
    let edits = dry["edits"].as_array().unwrap();
    assert_eq!(edits.len(), 10, "a bound");
    for edit in edits {
        assert_eq!(
            (&edit["by"], &edit["why"], &edit["generation"]),
            (&mesh_tests::person("ada").into(), &"ticket 17".into(), &0.into())
        );
        let changes = edit["changes"].as_array().unwrap();
        let expected = [("placedOn", "", "2026-01-02"), ("totalCents", "0", "5")];
        assert_eq!(changes.len(), expected.len(), "{edit}");
        for (change, (path, old, new)) in changes.iter().zip(expected) {
            let told = (&change["path"], &change["before"], &change["after"]);
            assert_eq!(told, (&path.into(), &old.into(), &new.into()));
        }
    }
    let (out, said) = text(&person, &PREVIEW).await;
    assert!(out.contains("13  letters would go") && out.contains("12  of them were mended"), "{out}");
    assert_eq!(out.matches("  totalCents: \"0\" -> \"5\"").count(), 10, "{out}");
    assert_eq!(out.matches(&format!("edited by {}: ticket 17", mesh_tests::person("ada"))).count(), 10, "{out}");
    assert!(said.contains("and 2 more that were mended") && said.contains("nothing was replayed"), "{said}");

    // One that nobody mended, by its id.
    let letters = all(office.bus()).await;
    let plain = letters.iter().find(|letter| letter.mended().is_none()).unwrap();
    let dry = person.json(0, &["dead-letter", "replay", &plain.letter.id[..12], "--dry-run"]).await;
    assert_eq!((&dry["letters"], &dry["mended"], &dry["stay"]), (&1.into(), &0.into(), &Value::Array(vec![])));
    assert!(letters.iter().all(|letter| letter.history.len() <= 2), "it changes nothing");
    // And one that can't go: said, not only left out.
    person.json(0, &["dead-letter", "hold", &plain.letter.id, "--why", "x"]).await;
    let held = ["dead-letter", "replay", &plain.letter.id, "--dry-run"];
    let dry = person.json(0, &held).await;
    assert_eq!((&dry["letters"], &dry["stay"][0]["why"]), (&0.into(), &"it is held".into()));
    assert!(text(&person, &held).await.1.contains("would not go: it is held"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_preview_tells_edits_since_the_last_failure_and_none_that_was_taken_back() {
    let office = Office::open(&["a"]).await;
    let shelf = Shelf::refusing();
    let _at_work = work(&office.broker, "a", &shelf).await;
    capture(office.bus(), "a", 0..1).await;
    let person = Operator::at(&office.broker, "operator");
    let id = all(office.bus()).await.remove(0).letter.id;
    let edit = async |set: &str| person.json(0, &["dead-letter", "edit", &id, "--set", set, "--why", "x"]).await;
    let changes = async || {
        let dry = person.json(0, &["dead-letter", "replay", &id, "--dry-run"]).await;
        dry["edits"].get(0).map(|edit| edit["changes"][0].clone())
    };
    edit("total_cents=5").await;
    person.json(1, &["dead-letter", "replay", &id, "--why", "x"]).await;
    assert_eq!(changes().await, None, "what failed as it stands goes as it stands");
    edit("total_cents=6").await;
    let change = changes().await.unwrap();
    assert_eq!((&change["before"], &change["after"]), (&"5".into(), &"6".into()), "against what failed last");
    edit("total_cents=5").await;
    assert_eq!(changes().await, None, "taken back");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_preview_masks_what_is_sensitive_until_it_is_revealed() {
    let broker = TestBroker::start(&[till(), bank()]).await.unwrap();
    let mesh = broker.connect("operator").await.unwrap();
    charge_letter(mesh.bus(), 1, &refused(1), charge_of(1, 1234).encode_to_vec()).await;
    let person = Operator::at(&broker, "operator");
    person.json(0, &["dead-letter", "edit", "--all", "--set", "amount_cents=5678", "--why", "x", "--yes"]).await;
    let (out, _) = text(&person, &PREVIEW).await;
    assert!(out.contains("amountCents: \"[payment]\" changed (--reveal shows it)"), "{out}");
    let hidden = person.json(0, &PREVIEW).await.to_string();
    assert!(!hidden.contains("5678") && !hidden.contains("1234"), "{hidden}");
    let shown = person.json(0, &[&PREVIEW[..], &["--reveal"]].concat()).await;
    let change = &shown["edits"][0]["changes"][0];
    assert_eq!((&change["before"], &change["after"]), (&"1234".into(), &"5678".into()));
    let alone = person.run(&["dead-letter", "replay", "--all", "--reveal", "--yes"]).await;
    assert_eq!(alone.status.code(), Some(2), "only of a preview: {alone:?}");
}

/// Captures a letter of `a/work` and edits it, as one can who knows its contract.
async fn mended(bus: &Bus, envelope: Envelope, payload: Vec<u8>) -> String {
    let captured =
        dead_letter::capture(bus, &lane("a"), &envelope, &Fault::invalid("no"), v1::Attempts::default()).await.unwrap();
    let letter = letters::find(bus, &captured.letter_id).await.unwrap();
    let order = Order { by: "eve".into(), why: "by the newer contract".into(), ..Order::default() };
    letters::edit(bus, &letter, payload.into(), &order).await.unwrap();
    captured.letter_id
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_here_can_read_is_told_by_its_size() {
    let office = Office::open(&["a"]).await;
    let bus = office.bus();
    let unknown = Envelope {
        subject: "mesh1.event.local.orders.x.v1.Nobody.3".into(),
        message_id: "orders/x.v1.Nobody/1".into(),
        ..in_hand(1, "ada@example.org".into())
    };
    let unknown = mended(bus, unknown, b"ada@example.com".to_vec()).await;
    let broken = mended(bus, in_hand(2, vec![0xff, 0xff, 0xff].into()), order(2).encode_to_vec()).await;
    let newer = [&order(3).encode_to_vec()[..], &[0xa2, 0x06, 1, b'x']].concat();
    let newer = mended(bus, in_hand(3, order(3).encode_to_vec().into()), newer).await;
    let person = Operator::at(&office.broker, "operator");
    let (out, _) = text(&person, &PREVIEW).await;
    let type_unknown = "15 bytes of an unknown type \"x.v1.Nobody\"";
    for part in [
        &format!("(payload): {type_unknown} -> {type_unknown}; alike in the first 12 bytes"),
        "(payload): the 3 bytes are not a shop.orders.v1.OrderPlaced",
        "\"orderId\":\"2\"",
        "bytes, alike in every field that the contract here knows",
        "edited by eve: by the newer contract",
    ] {
        assert!(out.contains(part), "no {part:?} in\n{out}");
    }
    assert!(!out.contains("ada@"), "nobody knows what it holds: {out}");
    let dry = person.json(0, &PREVIEW).await;
    let told: Vec<_> = dry["edits"].as_array().unwrap().iter().map(|edit| edit["id"].as_str().unwrap()).collect();
    assert_eq!(told, [&*unknown, &*broken, &*newer]);
    assert_eq!(dry["edits"][0]["changes"][0]["after"]["undecoded"], type_unknown);
    // And so does its history, which said nothing of an edit that kept the length.
    let page = person.run(&["dead-letter", "show", &unknown]).await;
    assert!(String::from_utf8_lossy(&page.stdout).contains("alike in the first 12 bytes"), "{page:?}");

    // It goes as it was mended.
    let shelf = Shelf::default();
    let _at_work = work(&office.broker, "a", &shelf).await;
    person.json(0, &["dead-letter", "replay", &broken, "--why", "mended"]).await;
    eventually("the mended one", || async { shelf.saw(2).await.then_some(()) }).await;
    let letter = letters::find(bus, &broken).await.unwrap();
    assert_eq!(OrderPlaced::decode(letter.letter.payload).unwrap(), order(2));
}
