//! Mending very many letters by a filter: all or none, few of them in memory, and nothing of somebody else's overwritten.

use std::{collections::BTreeSet, process::Stdio};

use mesh_core::{
    Fault,
    bus::Bus,
    dead_letter::{self, Letter, LetterState},
    operate::letters::{self, Order},
    proto::v1,
};
use mesh_tests::{
    TestBroker, eventually,
    letters::{capture, in_hand, lane},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use prost::Message as _;
use serde_json::Value;
use shop_proto::shop::orders::v1::OrderPlaced;

use crate::{
    command_line::Operator,
    letters_cli::all,
    letters_many::{MORE_KIB, agreed, at_terminal, measured, question, records},
    shop::{consumer, order, orders},
};

const EDIT: [&str; 8] = ["dead-letter", "edit", "--consumer", "mail/work", "--set", "total_cents=5", "--why", "a test"];

/// The ids of the letters that an edit was written of, each once.
fn written(printed: &Value) -> BTreeSet<&str> {
    let ends = printed.as_array().unwrap();
    let written = ends.iter().filter(|end| end["written"] == true);
    let ids: BTreeSet<&str> = written.map(|end| end["id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), ends.len(), "each once");
    ids
}

fn total_of(letter: &Letter) -> i64 {
    OrderPlaced::decode(letter.letter.payload.clone()).unwrap().total_cents
}

async fn capture_many(bus: &Bus, service: &str, numbers: std::ops::Range<u64>) {
    capture(bus, service, numbers.map(|number| (number, order(7)))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_one_of_very_many_does_not_fit_none_is_written() {
    const MANY: u64 = 400;
    let broker = TestBroker::start(&[orders(), consumer("mail", "work")]).await.unwrap();
    let mesh = broker.connect("operator").await.unwrap();
    let bus = mesh.bus();
    capture_many(bus, "mail", 0..MANY).await;
    let misfit = in_hand(MANY, vec![0xff].into());
    let refused = Fault::invalid("not today");
    dead_letter::capture(bus, &lane("mail"), &misfit, &refused, v1::Attempts::default()).await.unwrap();
    let operator = Operator::at(&broker, "operator");
    for more in [&["--yes"][..], &["--yes", "-o", "json"], &["--dry-run", "-o", "json"]] {
        let ended = operator.run(&[&EDIT, more].concat()).await;
        let said = String::from_utf8_lossy(&ended.stderr);
        assert!(ended.status.code() == Some(2) && said.contains("can't be edited: its payload"), "{more:?}: {said}");
        assert!(ended.stdout.is_empty(), "{more:?}: {ended:?}");
    }
    assert_eq!(records(bus).await, MANY + 1, "nothing was written");

    // A condition leaves it out.
    let those = |total| [&EDIT[..], &["--where", total]].concat();
    let dry = operator.json(0, &[&those("payload.total_cents == 0")[..], &["--dry-run"]].concat()).await;
    let dry = dry.as_array().unwrap();
    assert_eq!(dry.len() as u64, MANY);
    assert!(dry.iter().all(|end| end["written"] == false && end["changes"][0]["path"] == "totalCents"));
    let unasked = operator.run(&those("payload.total_cents == 0")).await;
    let said = String::from_utf8_lossy(&unasked.stderr);
    assert!(unasked.status.code() == Some(2) && said.contains("edit 400 letters of mail/work?"), "{said}");
    assert_eq!(records(bus).await, MANY + 1, "nothing was written so far");
    let edited = operator.run(&[&those("payload.total_cents == 0")[..], &["--yes"]].concat()).await;
    let (text, said) = (String::from_utf8_lossy(&edited.stdout), String::from_utf8_lossy(&edited.stderr));
    assert!(edited.status.success() && text.contains("edited 400 letters"), "{edited:?}");
    assert_eq!(text.matches("totalCents: \"0\" -> \"5\"").count(), 10, "the first are shown: {text}");
    assert!(said.contains("and 390 more") && said.contains("judged for 1 letter, left out"), "{said}");
    let (fitting, others): (Vec<_>, Vec<_>) = all(bus).await.into_iter().partition(|letter| letter.history.len() == 2);
    assert!(fitting.iter().all(|letter| total_of(letter) == 5) && fitting.len() as u64 == MANY);
    assert_eq!(others.len(), 1);
    let again = operator.run(&[&those("payload.total_cents == 5")[..], &["--yes"]].concat()).await;
    let said = String::from_utf8_lossy(&again.stderr);
    assert!(again.status.success() && said.contains("400 unchanged\nnothing was written"), "{said}");
    let nothing = operator.json(0, &[&those("payload.total_cents == 5")[..], &["--dry-run"]].concat()).await;
    assert_eq!(nothing, Value::Array(Vec::new()));
    assert_eq!(records(bus).await, 2 * MANY + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn very_many_letters_are_each_edited_once_and_few_of_them_are_in_memory() {
    const MANY: u64 = 10_000;
    let broker = TestBroker::start(&[orders(), consumer("mail", "work"), consumer("post", "work")]).await.unwrap();
    let mesh = broker.connect("operator").await.unwrap();
    let long = |number| (number, OrderPlaced { customer_id: "x".repeat(400), ..order(7) });
    capture(mesh.bus(), "post", [long(0)]).await;
    capture(mesh.bus(), "mail", (0..MANY).map(long)).await;
    let operator = Operator::at(&broker, "operator");
    let words = |consumer| {
        let mut words = EDIT;
        words[3] = consumer;
        [&words[..], &["--yes"]].concat()
    };
    let (one, alone) = measured(&operator, &words("post/work")).await;
    assert_eq!(written(&one).len(), 1);
    let (printed, most) = measured(&operator, &words("mail/work")).await;
    assert_eq!(written(&printed).len() as u64, MANY);
    assert_eq!(records(mesh.bus()).await, 2 * (1 + MANY), "one record for each");
    assert!(most < alone + MORE_KIB, "{most} KiB, and {alone} KiB for one");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_else_does_while_a_person_thinks_is_not_overwritten_and_is_said() {
    let broker = TestBroker::start(&[orders(), consumer("mail", "work")]).await.unwrap();
    let mesh = broker.connect("operator").await.unwrap();
    let bus = mesh.bus();
    capture_many(bus, "mail", 0..30).await;
    let operator = Operator::at(&broker, "operator");
    let mut process =
        at_terminal(&operator.command(&EDIT)).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut screen = process.stdout.take().unwrap();
    let (asked, screen) = tokio::task::spawn_blocking(move || (question(&mut screen), screen)).await.unwrap();
    assert!(asked.ends_with("edit 30 letters of mail/work? [y/N] "), "{asked}");
    let by = Order { by: "eve".into(), why: "meanwhile".into(), ..Order::default() };
    let before = all(bus).await;
    let theirs = OrderPlaced { total_cents: 9, ..order(7) };
    letters::edit(bus, &before[0], theirs.encode_to_vec().into(), &by).await.unwrap();
    letters::discard(bus, &before[1], &by).await.unwrap();
    capture_many(bus, "mail", 30..31).await;
    let (said, ended) = agreed(process, screen).await;
    assert!(ended.code() == Some(1) && said.contains("edited 28 letters"), "{said}");
    for letter in &before[..2] {
        assert!(said.contains(&format!("letter {}: somebody else was first", letter.letter.id)), "{said}");
    }
    assert_eq!(said.matches("somebody else was first").count(), 2, "{said}");
    let after = all(bus).await;
    let totals = |total| after.iter().filter(|letter| total_of(letter) == total).count();
    assert_eq!([0, 5, 9].map(totals), [2, 28, 1]);
    let now = |before: &Letter| after.iter().find(|letter| letter.letter.id == before.letter.id).unwrap();
    assert_eq!((total_of(now(&before[0])), now(&before[1]).state), (9, LetterState::Discarded));
}

#[tokio::test(flavor = "multi_thread")]
async fn told_to_stop_it_edits_no_more_and_says_what_it_did() {
    const MANY: u64 = 3_000;
    let broker = TestBroker::start(&[orders(), consumer("mail", "work")]).await.unwrap();
    let mesh = broker.connect("operator").await.unwrap();
    capture_many(mesh.bus(), "mail", 0..MANY).await;
    let operator = Operator::at(&broker, "operator");
    let words = [&EDIT[..], &["--yes"]].concat();
    let mut command = operator.command(&[&words[..], &["-o", "json"]].concat());
    // It can't be through: nobody reads what it prints.
    let process = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    eventually("the first edits", || async { (records(mesh.bus()).await > MANY).then_some(()) }).await;
    kill(Pid::from_raw(i32::try_from(process.id()).unwrap()), Signal::SIGINT).unwrap();
    let ended = tokio::task::spawn_blocking(move || process.wait_with_output().unwrap()).await.unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    let printed = serde_json::from_slice(&ended.stdout).unwrap();
    let count = written(&printed).len() as u64;
    assert!(ended.status.code() == Some(1) && count > 0 && count < MANY, "{count}: {said}");
    let told = format!("stopped: edited {count} letters; the same command again goes on with the others\n");
    assert_eq!((said.as_ref(), records(mesh.bus()).await), (told.as_str(), MANY + count), "all that was done, no more");
    let rest = operator.json(0, &words).await;
    assert_eq!(written(&rest).len() as u64, MANY - count, "nothing twice");
}
