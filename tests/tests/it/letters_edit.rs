//! Mending letters: by path, in an editor, and by two people at once.

use std::{collections::BTreeSet, sync::Arc};

use mesh_core::{
    Context, Fault,
    bus::Bus,
    config::Environment,
    dead_letter::{ActKind, LetterState},
    fault::{Effect, Reason},
    operate::letters::{self, Order},
};
use mesh_tests::{TestBroker, eventually};
use prost::Message as _;
use shop_proto::shop::{orders::v1::OrderPlaced, payments::v1::ChargeRequest};

use crate::{
    command_line::Operator,
    letters_cli::{all, charge_letter, refused},
    shop::{bank, charge_of, consumer, order, orders, till},
};

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
    assert_eq!(
        (&shown["history"][1]["by"], &shown["history"][1]["why"]),
        (&mesh_tests::person("ada").into(), &"ticket 17".into())
    );
    let page = operator.run(&["dead-letter", "show", id]).await;
    assert!(String::from_utf8_lossy(&page.stdout).contains("totalCents: \"5\" -> \"6\""), "{page:?}");
    let replayed = operator.json(0, &["dead-letter", "replay", id, "--why", "mended"]).await;
    assert_eq!(replayed["letters"][0]["state"], "resolved");
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
    for letter in all(mesh.bus()).await {
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
    let order = Order { by: "ada".into(), why: "x".into(), again: false, job: String::new() };
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
    let taken_away = run("rm \"$1\"", &[]).await;
    let said = String::from_utf8_lossy(&taken_away.stderr).into_owned();
    assert!(taken_away.status.code() == Some(2) && said.contains("what the editor left can't be read"), "{said}");
    let nobody = operator.run(&["dead-letter", "edit", &id, "--why", "by hand"]).await;
    let said = String::from_utf8_lossy(&nobody.stderr).into_owned();
    assert!(nobody.status.code() == Some(2) && said.contains("no terminal is there for an editor"), "{said}");
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
    assert_eq!(notes.lines().count(), 10, "so often an editor was opened");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_edits_of_one_letter_one_is_refused_and_nothing_of_it_is_written() {
    let broker = TestBroker::start(&[till(), bank()]).await.unwrap();
    let mesh = broker.connect("operator").await.unwrap();
    let bus = mesh.bus();
    let id = charge_letter(bus, 1, &refused(1), charge_of(1, 0).encode_to_vec()).await;
    let order = |by: &str| Order { by: by.into(), why: "x".into(), again: false, job: String::new() };
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

/// What one operator has confirmed: edits by their payload, and replays.
#[derive(Default)]
struct Confirmed {
    edits: Vec<(String, Vec<u8>)>,
    replays: usize,
}

/// Edits every letter and sends it again, whatever somebody else does meanwhile.
async fn mend_all(bus: &Bus, ids: &[String], (by, cents): (&str, i64)) -> Confirmed {
    let order_of = Order { by: by.into(), why: "mended".into(), again: false, job: String::new() };
    let mut confirmed = Confirmed::default();
    for id in ids {
        let letter = letters::find(bus, id).await.unwrap();
        let payload = OrderPlaced { total_cents: cents, ..OrderPlaced::decode(letter.letter.payload.clone()).unwrap() };
        let payload = payload.encode_to_vec();
        match letters::edit(bus, &letter, payload.clone().into(), &order_of).await {
            Ok(()) => confirmed.edits.push((id.clone(), payload)),
            Err(fault) => assert_eq!(fault.reason(), Reason::LetterChanged, "{fault}"),
        }
        // From a view that is as likely stale as not.
        let letter = letters::find(bus, id).await.unwrap();
        if letter.state == LetterState::Open {
            match letters::replay(bus, &letter, &order_of).await {
                Ok(_) => confirmed.replays += 1,
                Err(fault) => assert_eq!(fault.reason(), Reason::LetterChanged, "{fault}"),
            }
        }
    }
    confirmed
}

#[tokio::test(flavor = "multi_thread")]
async fn two_operators_who_mend_the_same_letters_double_nothing_and_lose_no_edit() {
    const MANY: usize = 40;
    let broker = TestBroker::start(&[orders(), consumer("a", "work")]).await.unwrap();
    let handled = Arc::new(tokio::sync::Mutex::new(Vec::new()));
    let into = Arc::clone(&handled);
    let handler = move |_: Context, order: OrderPlaced| {
        let into = Arc::clone(&into);
        async move {
            if order.total_cents == 0 {
                return Err(Fault::invalid("a total of 0"));
            }
            into.lock().await.push((order.order_id, order.total_cents));
            Ok(())
        }
    };
    broker.connect("a").await.unwrap().consumer::<OrderPlaced>("work").start(handler).await.unwrap();
    let sender = broker.connect("orders").await.unwrap();
    for number in 0..MANY {
        sender.publisher::<OrderPlaced>().publish(&order(number)).id(number.to_string()).await.unwrap();
    }
    let (one, two) = (broker.connect("operator").await.unwrap(), broker.connect("operator").await.unwrap());
    let letters = eventually("all letters", || async {
        let letters = all(one.bus()).await;
        (letters.len() == MANY).then_some(letters)
    })
    .await;
    let ids: Vec<String> = letters.into_iter().map(|letter| letter.letter.id).collect();
    let (ada, bob) = tokio::join!(mend_all(one.bus(), &ids, ("ada", 1)), mend_all(two.bus(), &ids, ("bob", 2)));
    let letters = eventually("the end of all", || async {
        let letters = all(one.bus()).await;
        letters.iter().all(|letter| letter.state == LetterState::Resolved).then_some(letters)
    })
    .await;

    let count =
        |kind: ActKind| letters.iter().flat_map(|letter| &letter.history).filter(|act| act.kind == kind).count();
    assert_eq!((count(ActKind::Replayed), ada.replays + bob.replays), (MANY, MANY), "each is sent once");
    let confirmed: BTreeSet<_> = ada.edits.iter().chain(&bob.edits).cloned().collect();
    let written: BTreeSet<_> = letters
        .iter()
        .flat_map(|letter| letter.history.iter().map(|act| (letter.letter.id.clone(), act)))
        .filter(|(_, act)| act.kind == ActKind::Edited)
        .map(|(id, act)| (id, act.payload.clone().unwrap().to_vec()))
        .collect();
    assert_eq!(written, confirmed, "every edit that was confirmed is in the history, and no other");
    // Each effect once, with the values of the last edit.
    let mut effects = handled.lock().await.clone();
    effects.sort();
    let mut expected: Vec<_> = letters
        .iter()
        .map(|letter| OrderPlaced::decode(letter.letter.payload.clone()).unwrap())
        .map(|order| (order.order_id, order.total_cents))
        .collect();
    expected.sort();
    assert_eq!(effects, expected);
}
