//! Working with letters at the command line: choosing, grouping, mending, holding, taking out and putting in, watching.

use std::{
    collections::BTreeSet,
    io::{BufRead as _, BufReader},
    process::Stdio,
    sync::Arc,
};

use mesh_core::{
    Context, Fault,
    bus::Bus,
    config::Environment,
    dead_letter::{ActKind, Letter, LetterState, capture},
    delayed::Lane,
    envelope::{Delivery, Envelope, Note},
    fault::{Code, Effect, Origin, Reason},
    operate::letters::{self, Order, Selector},
    proto::v1,
};
use mesh_tests::{TestBroker, eventually};
use prost::Message as _;
use serde_json::Value;
use shop_proto::shop::{orders::v1::OrderPlaced, payments::v1::ChargeRequest};

use crate::{
    command_line::Operator,
    shop::{bank, charge_of, consumer, order, orders, till},
};

/// The consumer of the bank's work.
const WORKER: &str = "shop-payments-v1-payments";

/// Captures a letter of the bank as its worker would.
async fn charge_letter(bus: &Bus, number: usize, fault: &Fault, payload: Vec<u8>) -> String {
    let name = |text: &str| text.parse().unwrap();
    let lane = Lane { region: name("local"), service: name("bank"), consumer: name(WORKER) };
    let envelope = Envelope {
        subject: "mesh1.work.local.shop.payments.v1.Payments.Charge.normal.1.till".into(),
        message_id: format!("till/shop.payments.v1.Payments.Charge/{number}"),
        caller: "till".into(),
        trace: None,
        note: Note::default(),
        headers: vec![("tenant".into(), format!("t{}", number % 2))],
        payload: payload.into(),
        delivery: Some(Delivery {
            stream: "mesh1-work-shop-payments-v1-Payments".into(),
            sequence: number as u64,
            deliveries: 1,
            stored_at_ms: 5,
        }),
    };
    capture(bus, &lane, &envelope, fault, v1::Attempts::default()).await.unwrap().letter_id
}

fn refused(number: usize) -> Fault {
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
async fn some_letters(broker: &TestBroker) -> Vec<String> {
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
    for (words, expected) in [
        (&["--reason", "103"][..], &[0, 1, 2, 3][..]),
        (&["--reason", "MESH-0103,MESH-0023"], &[0, 1, 2, 3, 4]),
        (&["--code", "unavailable"], &[4]),
        (&["--vendor", "stripe", "--vendor-code", "amount_too_small"], &[0, 1, 2, 3]),
        (&["--type", "Payments/Charge", "--consumer", "bank/shop-payments-v1-payments"], &[0, 1, 2, 3, 4]),
        (&["--type", "OrderPlaced"], &[]),
        (&["--state", "parked"], &[4]),
        (&["--state", "held"], &[]),
        (&["--fingerprint", fingerprint], &[0, 1, 2, 3]),
        (&["--header", "Tenant=t1"], &[1, 3, 4]),
        (&["--since", "1h"], &[0, 1, 2, 3, 4]),
        (&["--older-than", "1h"], &[]),
        (&["--until", "2026-01-02T03:04:05Z"], &[]),
        (&["--where", "payload.amount_cents >= 20 && letter.vendor == 'stripe'"], &[2, 3]),
        (&["--where", "payload.amount_cents == 9007199254740993"], &[4]),
        (&["--where", "header['tenant'] == 't0' && letter.captured > timestamp('2026-01-01T00:00:00Z')"], &[0, 2]),
    ] {
        let listed = operator.json(0, &[&["dead-letter", "list"], words].concat()).await;
        let expected: BTreeSet<String> = expected.iter().map(|index| ids[*index].clone()).collect();
        assert_eq!(ids_of(&listed), expected, "{words:?}");
    }

    let wrong = operator.run(&["dead-letter", "list", "--where", "letter.vendr == 'x'"]).await;
    let said = String::from_utf8(wrong.stderr).unwrap();
    assert_eq!(wrong.status.code(), Some(2), "{said}");
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines[0].contains("--where:1:8: \"letter\" has no \"vendr\" (did you mean \"vendor\"?)"), "{said}");
    assert_eq!(lines[2].find('^'), lines[1].find("vendr"), "{said}");
    let unclear = operator.run(&["dead-letter", "list", "--where", "payload.order_id > 5"]).await;
    assert!(String::from_utf8_lossy(&unclear.stderr).contains("5 left out"), "{unclear:?}");
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
    assert_eq!((&shown["history"][1]["by"], &shown["history"][1]["why"]), (&"ada".into(), &"they call back".into()));
    let ended = operator.run(&["dead-letter", "edit", &ids[0], "--set", "currency=eur", "--why", "x"]).await;
    assert_eq!(ended.status.code(), Some(1), "what has ended is not edited: {ended:?}");
    let none = operator.json(0, &["dead-letter", "discard", "--reason", "103", "--why", "again"]).await;
    assert_eq!(none, Value::Array(Vec::new()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mended_payload_is_shown_field_by_field_and_is_what_the_replay_carries() {
    let broker = TestBroker::start(&[orders(), consumer("a", "work")]).await.unwrap();
    let mesh = broker.connect("a").await.unwrap();
    let taken = Arc::new(tokio::sync::Mutex::new(Vec::new()));
    let into = Arc::clone(&taken);
    let handler = move |_: Context, order: OrderPlaced| {
        let into = Arc::clone(&into);
        async move {
            if order.total_cents == 0 {
                return Err(Fault::invalid("a total of 0"));
            }
            into.lock().await.push(order);
            Ok(())
        }
    };
    mesh.consumer::<OrderPlaced>("work").start(handler).await.unwrap();
    let sender = broker.connect("orders").await.unwrap();
    sender.publisher::<OrderPlaced>().publish(&order(1)).id("1").await.unwrap();
    let operator = Operator::at(&broker, "operator");
    let letter = eventually("a letter", || async { operator.letters().await.pop() }).await;
    let id = letter["id"].as_str().unwrap();

    let edit = |set: &'static str, more: &'static [&'static str]| {
        [&["dead-letter", "edit", &id[..8], "--set", set, "--why", "ticket 17"], more].concat()
    };
    let dry = operator.json(0, &edit("total_cents=9007199254740993", &["--dry-run"])).await;
    assert_eq!(dry[0]["changes"][0]["path"], "totalCents");
    assert_eq!((&dry[0]["changes"][0]["after"], &dry[0]["written"]), (&"9007199254740993".into(), &false.into()));
    for (wrong, said) in [
        ("total_cents=much", "total_cents"),
        ("totl_cents=1", "did you mean total_cents?"),
        ("order_id.x=1", "one value"),
        ("order_id", "no PATH=VALUE"),
    ] {
        let ended = operator.run(&edit(wrong, &[])).await;
        let text = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert!(ended.status.code() == Some(2) && text.contains(said), "{wrong}: {text}");
    }
    let shown = operator.json(0, &["dead-letter", "show", id]).await;
    assert_eq!(shown["history"].as_array().unwrap().len(), 1, "nothing was written so far");
    let written = operator.run(&edit("total_cents=5", &["--set", "placedOn=2026-01-02"])).await;
    let text = String::from_utf8_lossy(&written.stdout).into_owned();
    assert!(written.status.success(), "{written:?}");
    assert!(text.contains("totalCents: \"0\" -> \"5\"") && text.contains("placedOn: \"\" -> \"2026-01-02\""), "{text}");
    let same = operator.run(&edit("total_cents=5", &[])).await;
    assert!(String::from_utf8_lossy(&same.stderr).contains("1 unchanged"), "{same:?}");
    operator.json(0, &edit("total_cents=6", &[])).await;

    let shown = operator.json(0, &["dead-letter", "show", id]).await;
    assert_eq!(shown["history"].as_array().unwrap().len(), 3);
    assert_eq!(shown["history"][2]["changes"][0]["before"], "5");
    assert_eq!((&shown["history"][1]["by"], &shown["history"][1]["why"]), (&"ada".into(), &"ticket 17".into()));
    let page = operator.run(&["dead-letter", "show", id]).await;
    assert!(String::from_utf8_lossy(&page.stdout).contains("totalCents: \"5\" -> \"6\""), "{page:?}");
    let replayed = operator.json(0, &["dead-letter", "replay", id, "--why", "mended"]).await;
    assert_eq!(replayed[0]["state"], "resolved");
    let expected = OrderPlaced { total_cents: 6, placed_on: "2026-01-02".into(), ..order(1) };
    assert_eq!(*taken.lock().await, [expected]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_keeps_what_the_contract_here_does_not_know_and_masks_what_is_sensitive() {
    let broker = TestBroker::start(&[till(), bank()]).await.unwrap();
    let mesh = broker.connect("operator").await.unwrap();
    // Field 100 of a newer contract: a text.
    let newer = [&[0xa2, 0x06, 5][..], b"newer"].concat();
    let mut ids = Vec::new();
    for number in 0..60 {
        let payload = [charge_of(number, 0).encode_to_vec(), newer.clone()].concat();
        ids.push(charge_letter(mesh.bus(), number, &refused(number), payload).await);
    }
    let operator = Operator::at(&broker, "operator");
    let words = ["dead-letter", "edit", "--reason", "103", "--set", "amount_cents=50", "--why", "at least 50", "--yes"];
    let edited = operator.run(&words).await;
    let text = String::from_utf8_lossy(&edited.stdout).into_owned();
    assert!(edited.status.success() && text.contains("edited 60 letters"), "{edited:?}");
    assert!(text.contains("amountCents: \"[payment]\" changed"), "{text}");
    for letter in letters::list(mesh.bus(), &Selector::default()).await.unwrap().letters {
        let request = ChargeRequest::decode(letter.letter.payload.clone()).unwrap();
        assert_eq!(request.amount_cents, 50);
        let kept = letter.letter.payload.windows(newer.len()).any(|bytes| bytes == newer);
        assert!(kept, "the unknown field is there, byte for byte");
        assert_eq!((letter.state, letter.history.len()), (LetterState::Open, 2));
    }
    // One of them does not take it: none is written.
    let wrong = operator.run(&["dead-letter", "edit", &ids[0], &ids[1], "--set", "amount_cents=x", "--why", "x"]).await;
    assert_eq!(wrong.status.code(), Some(2), "{wrong:?}");
    // Larger than the mesh carries.
    let order = Order { by: "ada".into(), why: "x".into(), again: false };
    let letter = letters::find(mesh.bus(), &ids[1]).await.unwrap();
    let fault = letters::edit(mesh.bus(), &letter, vec![0; 2_000_000].into(), &order).await.unwrap_err();
    assert_eq!(fault.reason(), Reason::TooLarge);
}

/// An editor that notes the file's mode and place, then does what the script says with the file `$1`.
fn editor(operator: &Operator, script: &str) -> String {
    let path = operator.home.path().join("editor.sh");
    let notes = operator.home.path().join("notes");
    let text =
        format!("stat -c '%a %n' \"$1\" >> {notes}\ncp \"$1\" {notes}.text\n{script}\n", notes = notes.display());
    std::fs::write(&path, text).unwrap();
    format!("sh {}", path.display())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_editor_takes_the_payload_as_json_until_it_fits_or_is_given_up() {
    let broker = TestBroker::start(&[till(), bank()]).await.unwrap();
    let mesh = broker.connect("operator").await.unwrap();
    let id = charge_letter(mesh.bus(), 7, &refused(7), charge_of(7, 1234).encode_to_vec()).await;
    let operator = Operator::at(&broker, "operator");
    let run = |script: &str, more: &'static [&'static str]| {
        let mut command = operator.command(&[&["dead-letter", "edit", &id, "--why", "by hand"], more].concat());
        command.env("PATH", Environment::from_process().get("PATH").unwrap()).env("EDITOR", editor(&operator, script));
        async move { tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap() }
    };
    let history = || async { letters::find(mesh.bus(), &id).await.unwrap().history.len() };
    for script in ["true", ": > \"$1\"", "sed -i '/^{/,$d' \"$1\""] {
        let aborted = run(script, &[]).await;
        let said = String::from_utf8_lossy(&aborted.stderr).into_owned();
        assert!(aborted.status.success() && said.contains("nothing was written"), "{script}: {said}");
    }
    let failed = run("exit 3", &[]).await;
    assert_eq!(failed.status.code(), Some(2), "{failed:?}");
    let given_up = run("sed -i 's/\"usd\"/17/' \"$1\"", &[]).await;
    let said = String::from_utf8_lossy(&given_up.stderr).into_owned();
    assert!(given_up.status.code() == Some(2) && said.contains("currency"), "{said}");
    assert_eq!(history().await, 1, "nothing was written so far");

    // Wrong the first time; the error stands in the file the second time.
    let script =
        "if grep -q '^# ERROR' \"$1\"; then sed -i 's/: 17/: \"EUR\"/' \"$1\"; else sed -i 's/\"usd\"/17/' \"$1\"; fi";
    let mended = run(script, &[]).await;
    let text = String::from_utf8_lossy(&mended.stdout).into_owned();
    assert!(mended.status.success() && text.contains("currency: \"usd\" -> \"EUR\""), "{mended:?}");
    let letter = letters::find(mesh.bus(), &id).await.unwrap();
    let expected = ChargeRequest { currency: "EUR".into(), ..charge_of(7, 1234) };
    assert_eq!(ChargeRequest::decode(letter.letter.payload).unwrap(), expected, "the hidden amount stays");
    let opened = std::fs::read_to_string(operator.home.path().join("notes.text")).unwrap();
    for part in ["# ERROR: ", "line ", "MESH-0103", "amount_too_small", "\"currency\": 17"] {
        assert!(opened.contains(part), "no {part:?} in {opened}");
    }
    assert!(!opened.contains("1234") && !opened.contains("amountCents"), "a payment field is not shown: {opened}");
    let revealed = run("sed -i 's/\"1234\"/\"50\"/' \"$1\"", &["--reveal"]).await;
    assert!(String::from_utf8_lossy(&revealed.stdout).contains("amountCents: \"1234\" -> \"50\""), "{revealed:?}");

    let notes = std::fs::read_to_string(operator.home.path().join("notes")).unwrap();
    for note in notes.lines() {
        let (mode, path) = note.split_once(' ').unwrap();
        assert_eq!(mode, "600");
        assert!(!std::path::Path::new(path).exists(), "{path} was not taken away");
    }
    assert_eq!(notes.lines().count(), 9, "so often an editor was opened");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_edits_of_one_letter_one_is_refused_and_nothing_of_it_is_written() {
    let broker = TestBroker::start(&[till(), bank()]).await.unwrap();
    let mesh = broker.connect("operator").await.unwrap();
    let bus = mesh.bus();
    let id = charge_letter(bus, 1, &refused(1), charge_of(1, 0).encode_to_vec()).await;
    let order = |by: &str| Order { by: by.into(), why: "x".into(), again: false };
    let seen = letters::find(bus, &id).await.unwrap();
    let bytes = |cents: i64| charge_of(1, cents).encode_to_vec();
    let (ada, bob) = (order("ada"), order("bob"));
    let (one, two) = tokio::join!(
        letters::edit(bus, &seen, bytes(1).into(), &ada),
        letters::edit(bus, &seen, bytes(2).into(), &bob)
    );
    assert_eq!(u8::from(one.is_ok()) + u8::from(two.is_ok()), 1);
    let lost = one.as_ref().err().or(two.as_ref().err()).unwrap();
    assert_eq!((lost.reason(), lost.effect()), (Reason::LetterChanged, Effect::None));
    assert!(lost.message().contains("somebody else was first"), "{lost}");
    let now = letters::find(bus, &id).await.unwrap();
    assert_eq!((now.history.len(), now.state), (2, LetterState::Open));
    assert_eq!(now.letter.payload, if one.is_ok() { bytes(1) } else { bytes(2) });
    assert_eq!(now.history[1].kind, ActKind::Edited);

    // Held, edited, released: each by whoever saw the letter last.
    letters::hold(bus, &now, &ada).await.unwrap();
    assert_eq!(letters::replay(bus, &now, &bob).await.unwrap_err().reason(), Reason::LetterChanged);
    let held = letters::find(bus, &id).await.unwrap();
    letters::edit(bus, &held, bytes(3).into(), &bob).await.unwrap();
    assert_eq!(letters::release(bus, &held, &ada).await.unwrap_err().reason(), Reason::LetterChanged);
    let held = letters::find(bus, &id).await.unwrap();
    assert_eq!((held.state, held.letter.payload.as_ref()), (LetterState::Held, bytes(3).as_slice()));
    letters::release(bus, &held, &ada).await.unwrap();
    let open = letters::find(bus, &id).await.unwrap();
    assert_eq!(letters::release(bus, &open, &ada).await.unwrap_err().reason(), Reason::LetterChanged);
}

/// Writes a record that does not follow from the state of an open letter.
async fn junk(broker: &TestBroker, id: &str) {
    let record = v1::LetterRecord { record: Some(v1::letter_record::Record::Released(v1::LetterAct::default())) };
    let foreign = async_nats::ConnectOptions::with_nkey(broker.seed("operator").unwrap().to_owned())
        .custom_inbox_prefix("_INBOX.operator")
        .connect(broker.server.client_url())
        .await
        .unwrap();
    let subject = format!("mesh1.dead.local.bank.{WORKER}.{id}");
    async_nats::jetstream::new(foreign).publish(subject, record.encode_to_vec().into()).await.unwrap().await.unwrap();
}

async fn all(bus: &Bus) -> Vec<Letter> {
    letters::list(bus, &Selector::default()).await.unwrap().letters
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_are_taken_out_and_put_into_another_mesh_as_they_are() {
    let here = TestBroker::start(&[till(), bank()]).await.unwrap();
    let there = TestBroker::start(&[till(), bank()]).await.unwrap();
    let ids = some_letters(&here).await;
    let (operator, other) = (Operator::at(&here, "operator"), Operator::at(&there, "operator"));
    operator.json(0, &["dead-letter", "edit", &ids[1], "--set", "currency=EUR", "--why", "by hand"]).await;
    operator.json(0, &["dead-letter", "hold", &ids[2], "--why", "wait"]).await;
    // What a writer with a fault leaves: it changes nothing, and is not taken along.
    junk(&here, &ids[3]).await;
    let file = operator.home.path().join("letters.ndjson").display().to_string();
    let ended = operator.run(&["dead-letter", "export", "--to", &file]).await;
    assert!(ended.status.success() && ended.stdout.is_empty(), "{ended:?}");
    let text = std::fs::read_to_string(&file).unwrap();
    assert_eq!(text.lines().count(), 5);
    let line: Value = serde_json::from_str(text.lines().nth(1).unwrap()).unwrap();
    assert_eq!((&line["payload"]["currency"], &line["payload"]["amountCents"]), (&"EUR".into(), &"[payment]".into()));
    assert_eq!(line["records"][1]["edited"]["act"]["why"], "by hand");
    let printed = operator.run(&["dead-letter", "export"]).await;
    assert_eq!(String::from_utf8(printed.stdout).unwrap(), text, "the same to standard output");
    let twice = operator.run(&["dead-letter", "export", "--to", &file]).await;
    assert_eq!(twice.status.code(), Some(2), "a file that is there is not written over");

    assert_eq!(other.json(0, &["dead-letter", "import", &file, "--dry-run"]).await["imported"], 0);
    let counts = other.json(0, &["dead-letter", "import", &file]).await;
    assert_eq!((&counts["imported"], &counts["skipped"]), (&5.into(), &0.into()));
    let counts = other.json(0, &["dead-letter", "import", &file]).await;
    assert_eq!((&counts["imported"], &counts["skipped"]), (&0.into(), &5.into()));
    let (one, two) = (here.connect("operator").await.unwrap(), there.connect("operator").await.unwrap());
    let same = |letters: Vec<Letter>| -> Vec<Letter> {
        letters.into_iter().map(|letter| Letter { last_sequence: 0, ..letter }).collect()
    };
    assert_eq!(same(all(one.bus()).await), same(all(two.bus()).await), "payloads, headers, states and histories");
    let printed = other.run(&["dead-letter", "export"]).await;
    assert_eq!(String::from_utf8(printed.stdout).unwrap(), text, "out of the other mesh: the same bytes");

    // What went on there is not taken back.
    other.json(0, &["dead-letter", "discard", &ids[0], "--why", "done elsewhere"]).await;
    let counts = other.json(0, &["dead-letter", "import", &file]).await;
    assert_eq!(counts["skipped"], 5);
    assert_eq!(letters::find(two.bus(), &ids[0]).await.unwrap().state, LetterState::Discarded);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_line_is_named_and_an_import_that_was_cut_off_goes_on() {
    let here = TestBroker::start(&[till(), bank()]).await.unwrap();
    let there = TestBroker::start(&[till(), bank()]).await.unwrap();
    let ids = some_letters(&here).await;
    let (operator, other) = (Operator::at(&here, "operator"), Operator::at(&there, "operator"));
    operator.json(0, &["dead-letter", "hold", &ids[0], "--why", "wait"]).await;
    let printed = operator.run(&["dead-letter", "export"]).await;
    let lines: Vec<String> = String::from_utf8(printed.stdout).unwrap().lines().map(str::to_owned).collect();
    let mesh = there.connect("operator").await.unwrap();
    let first_alone: Value = serde_json::from_str(&lines[0]).unwrap();
    let mut cut_off = first_alone.clone();
    cut_off["records"].as_array_mut().unwrap().truncate(1);
    let mut foreign = first_alone.clone();
    foreign["id"] = "0".repeat(32).into();
    let mut out_of_turn = first_alone.clone();
    out_of_turn["records"].as_array_mut().unwrap().reverse();
    let file = other.home.path().join("some.ndjson").display().to_string();
    for (line, said) in [
        ("{".to_owned(), "some.ndjson:3: "),
        (lines[2].replace("\"region\":\"local\"", "\"region\":\"NO\""), "not a name"),
        (lines[2].replace("\"capturedAtMs\"", "\"capturdAtMs\""), "record 1: "),
        (foreign.to_string(), "record 1 is of another letter"),
        (out_of_turn.to_string(), "record 1 does not follow"),
    ] {
        std::fs::write(&file, format!("{cut_off}\n\n{line}\n{}\n", lines[3])).unwrap();
        let ended = other.run(&["dead-letter", "import", &file]).await;
        let text = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert!(ended.status.code() == Some(2) && text.contains("some.ndjson:3: ") && text.contains(said), "{text}");
        let imported = all(mesh.bus()).await;
        assert_eq!(imported.len(), 1, "the line before, and nothing of the bad line or behind it");
        assert_eq!(imported[0].state, LetterState::Open);
    }
    // The first letter lacks a record: it is added, the others follow.
    std::fs::write(&file, lines.join("\n")).unwrap();
    let counts = other.json(0, &["dead-letter", "import", &file]).await;
    assert_eq!((&counts["imported"], &counts["skipped"]), (&5.into(), &0.into()));
    assert_eq!(letters::find(mesh.bus(), &ids[0]).await.unwrap().state, LetterState::Held);
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
