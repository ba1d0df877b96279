//! The ledger: a busy mesh adds up at every moment, and what is taken from it by hand is named.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_nats::jetstream;
use futures_util::StreamExt as _;
use mesh_core::{
    Context, Fault, Mesh,
    contract::Repeat,
    dead_letter::LetterState,
    operate::{
        ledger::{self, Check, Checked, Line, Which},
        letters::{self, Order, Selector},
    },
    policy::retry::RetryRule,
    proto::v1,
};
use mesh_tests::{Seen, TestBroker, charges::Charges, eventually, foreign};
use prost::Message as _;
use serde_json::{Value, json};
use shop_proto::shop::{
    orders::v1::OrderPlaced,
    payments::v1::{PaymentsClient, PaymentsServer},
};

use crate::{
    command_line::Operator,
    keeper::start_keeper,
    shop::{Bank, bank, charge_of, consumer, order, orders, till},
};

const WORK: &str = "mesh1-work-shop-payments-v1-Payments";
const EVENTS: &str = "mesh1-event-orders";
const BANK: &str = "bank/shop-payments-v1-payments";

async fn checked(operator: &Mesh) -> Checked {
    ledger::check(operator.bus(), Check::default()).await.unwrap()
}

fn line<'c>(checked: &'c Checked, stream: &str) -> &'c Line {
    checked.account.lines.iter().find(|line| line.stream == stream).unwrap()
}

/// What the broker itself says of a stream. Neither ever gets less.
#[derive(Debug, Clone, Copy)]
struct Numbers {
    stored: u64,
    /// Acknowledged: work leaves its queue then, of events the consumer counts it.
    settled: u64,
}

async fn numbers(admin: &jetstream::Context, stream: &str) -> Numbers {
    let handle = admin.get_stream(stream).await.unwrap();
    let state = &handle.cached_info().state;
    let settled = if stream == EVENTS {
        let consumer = handle.consumer_info("a_work").await.unwrap();
        consumer.delivered.stream_sequence - consumer.num_ack_pending as u64
    } else {
        state.last_sequence - state.messages
    };
    Numbers { stored: state.last_sequence, settled }
}

/// Fails every third event once, refuses every tenth while `refuse` is set.
async fn consume(broker: &TestBroker, refuse: &Arc<AtomicBool>) -> Mesh {
    let mesh = broker.connect("a").await.unwrap();
    let refuse = Arc::clone(refuse);
    let handler = move |cx: Context, event: OrderPlaced| {
        let refuse = refuse.load(Ordering::SeqCst);
        async move {
            let number: usize = event.order_id.parse().unwrap_or_default();
            match number {
                _ if refuse && number.is_multiple_of(10) => Err(Fault::invalid("not today")),
                _ if number.is_multiple_of(3) && cx.attempt() == 1 => Err(Fault::unavailable("once more")),
                _ => Ok(()),
            }
        }
    };
    let retry = RetryRule { max_attempts: 3, base: Duration::from_millis(50), ..RetryRule::default() };
    mesh.consumer::<OrderPlaced>("work").retry(retry).start(handler).await.unwrap();
    mesh
}

/// Refused, declined, panicking and good ones in turn.
fn cents(number: usize) -> i64 {
    match number % 10 {
        0 => 0,
        1 => 2_000_000,
        2 => 13,
        _ => 100,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_mesh_adds_up_at_every_moment() {
    const EACH: usize = 400;
    let broker = TestBroker::start(&[orders(), consumer("a", "work"), till(), bank()]).await.unwrap();
    let refuse = Arc::new(AtomicBool::new(true));
    let _a = consume(&broker, &refuse).await;
    let bank = broker.connect("bank").await.unwrap();
    let retry = RetryRule { max_attempts: 2, base: Duration::from_millis(50), ..RetryRule::default() };
    bank.serve(PaymentsServer::new(Bank::default())).retry(retry).start().await.unwrap();
    let (sender, till) = (broker.connect("orders").await.unwrap(), broker.connect("till").await.unwrap());
    let (operator, admin) = (broker.connect("operator").await.unwrap(), admin(&broker).await);
    let (publisher, charge) = (sender.publisher::<OrderPlaced>(), PaymentsClient::new(&till).charge());
    let (sent, readings) = (AtomicBool::new(false), AtomicUsize::new(0));
    let busy = async {
        for number in 1..=EACH {
            // However slow the machine is, some readings fall into the middle.
            while number == EACH / 2 && readings.load(Ordering::SeqCst) <= 3 {
                tokio::task::yield_now().await;
            }
            publisher.publish(&order(number)).id(number.to_string()).await.unwrap();
            charge.enqueue(&charge_of(number, cents(number))).id(number.to_string()).await.unwrap();
        }
        sent.store(true, Ordering::SeqCst);
    };
    let looking = eventually("all is handled", || async {
        let was_sent = sent.load(Ordering::SeqCst);
        let before = [numbers(&admin, EVENTS).await, numbers(&admin, WORK).await];
        let now = checked(&operator).await;
        let after = [numbers(&admin, EVENTS).await, numbers(&admin, WORK).await];
        readings.fetch_add(1, Ordering::SeqCst);
        assert_eq!(now.account.findings, []);
        for ((stream, before), after) in [EVENTS, WORK].into_iter().zip(before).zip(after) {
            let line = line(&now, stream);
            let settled = line.sum() - line.in_flight - line.waiting;
            let said = format!("{line:?} between {before:?} and {after:?}");
            assert!((before.stored..=after.stored).contains(&line.sum()), "{said}");
            assert!(before.settled <= settled, "{said}");
            // A letter is counted as such as soon as it is there, though the event is not acknowledged yet.
            assert!(stream == EVENTS || settled <= after.settled, "{said}");
        }
        let moving: u64 = now.account.lines.iter().map(|line| line.delayed + line.in_flight + line.waiting).sum();
        (was_sent && moving == 0).then_some(())
    });
    tokio::join!(busy, looking);
    assert!(readings.into_inner() > 3, "the picture was taken while messages moved");
    let tenth = EACH as u64 / 10;
    let now = checked(&operator).await;
    let work = line(&now, WORK);
    assert_eq!((work.accepted, work.dead, work.missing), (8 * tenth, 2 * tenth, 0));
    let events = line(&now, EVENTS);
    assert_eq!((events.published, events.accepted, events.dead), (10 * tenth, 9 * tenth, tenth));

    // Replayed: the events are handled now, the charges fail again.
    refuse.store(false, Ordering::SeqCst);
    let asked = Order { by: "ada".into(), why: "again".into(), again: false, job: String::new() };
    for letter in letters::list(operator.bus(), &Selector::default()).await.unwrap().letters {
        letters::replay(operator.bus(), &letter, &asked).await.unwrap();
    }
    eventually("every replay has ended", || async {
        let now = checked(&operator).await;
        assert_eq!(now.account.findings, []);
        let letters = letters::list(operator.bus(), &Selector::default()).await.unwrap().letters;
        letters.iter().all(|letter| letter.state != LetterState::Replaying).then_some(())
    })
    .await;
    let document = eventually("a ledger at rest", || async {
        let document = Operator::at(&broker, "operator").json(0, &["ledger", "--wait"]).await;
        (document["lines"][0]["accepted"] == json!(10 * tenth)).then_some(document)
    })
    .await;
    assert_eq!((&document["moving"], &document["findings"]), (&json!(false), &json!([])));
    let work = &document["lines"][1];
    assert_eq!((&work["stream"], &work["consumer"]), (&json!(WORK), &json!(BANK)));
    assert_eq!((&work["accepted"], &work["dead"]), (&json!(8 * tenth), &json!(2 * tenth)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_keeper_that_keeps_its_lease_is_no_message_on_its_way() {
    let broker = TestBroker::start(&[orders(), consumer("a", "work")]).await.unwrap();
    let running = start_keeper(&broker).await;
    let lease = async || {
        let mesh = broker.connect("operator").await.unwrap();
        let state = mesh.bus().stream_state("mesh1-store-keeper").await.unwrap();
        mesh.drain().await;
        state.map_or(0, |state| state.last_sequence)
    };
    let begun = eventually("the lease", async || Some(lease().await).filter(|sequence| *sequence > 0)).await;
    // As long as the lease is written anew, which is all that moves.
    let words = ["ledger", "--wait", "--timeout", "20s"];
    let document = eventually("a lease that moved while it was read", async || {
        let document = Operator::at(&broker, "operator").json(0, &words).await;
        (lease().await > begun).then_some(document)
    })
    .await;
    assert_eq!(document["moving"], json!(false));
    running.stop().await;
}

/// Somebody with a client that is not ours, who may do everything.
async fn admin(broker: &TestBroker) -> jetstream::Context {
    jetstream::new(foreign::client(broker, "operator").await)
}

async fn delete(admin: &jetstream::Context, stream: &str, sequence: u64) {
    let stream = admin.get_stream(stream).await.unwrap();
    assert!(stream.delete_message(sequence).await.unwrap());
}

/// What is found: kind, stream, consumer, the first of them.
fn found(document: &Value) -> Vec<(&str, &str, &str, Vec<&str>)> {
    let findings = document["findings"].as_array().unwrap().iter();
    findings
        .map(|finding| {
            let of = |key: &str| finding[key].as_str().unwrap();
            let first = finding["first"].as_array().unwrap().iter().map(|id| id.as_str().unwrap());
            (of("kind"), of("stream"), of("consumer"), first.collect())
        })
        .collect()
}

fn texts(ids: &[String]) -> Vec<&str> {
    ids.iter().map(String::as_str).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn work_that_is_taken_away_by_hand_is_named() {
    let broker = TestBroker::start(&[till(), bank()]).await.unwrap();
    let (till, bank) = (broker.connect("till").await.unwrap(), broker.connect("bank").await.unwrap());
    let (admin, operator) = (admin(&broker).await, Operator::at(&broker, "operator"));
    let charge = PaymentsClient::new(&till).charge();
    for number in 1..=5 {
        charge.enqueue(&charge_of(number, 100)).id(number.to_string()).await.unwrap();
    }
    let document = operator.json(0, &["ledger"]).await;
    assert_eq!((&document["lines"][0]["waiting"], &document["readings"]), (&json!(5), &json!(1)));

    // Before it was handled, as a purge would.
    delete(&admin, WORK, 3).await;
    let document = operator.json(1, &["ledger"]).await;
    assert_eq!(found(&document), [("work-missing", WORK, BANK, vec!["3"])]);
    assert_eq!(document["lines"][0]["published"], 5);

    // An outcome: nobody can say any more that it was done.
    // With full jitter only a wait of hours is never over while somebody looks.
    let hours = Duration::from_secs(20 * 3600);
    let retry = RetryRule { max_attempts: 2, base: hours, cap: hours, ..RetryRule::default() };
    bank.serve(PaymentsServer::new(Bank::default())).retry(retry).start().await.unwrap();
    eventually("the others are done", || async {
        let document = operator.json(1, &["ledger"]).await;
        (document["lines"][0]["accepted"] == 4).then_some(())
    })
    .await;
    let outcome = admin.get_stream("mesh1-outcome").await.unwrap().get_raw_message(1).await.unwrap();
    let source = v1::Outcome::decode(outcome.payload).unwrap().source.unwrap();
    assert_eq!(source.stream, WORK);
    delete(&admin, "mesh1-outcome", 1).await;
    let document = operator.json(1, &["ledger"]).await;
    let gone = |sequences: &[u64]| Which::Sequences(sequences.iter().copied().collect()).first();
    assert_eq!(found(&document), [("work-missing", WORK, BANK, texts(&gone(&[3, source.sequence])))]);

    // What waits on the lane.
    charge.enqueue(&charge_of(6, 13)).id("6").await.unwrap();
    let held = eventually("a copy on the lane", || async {
        let document = operator.json(1, &["ledger"]).await;
        (document["lines"][0]["delayed"] == 1).then_some(document)
    })
    .await;
    assert_eq!(held["findings"][0]["count"], 2, "held is no fault");
    delete(&admin, "mesh1-lane-bank", 1).await;
    let document = operator.json(1, &["ledger", "--consumer", BANK]).await;
    assert_eq!(found(&document), [("work-missing", WORK, BANK, texts(&gone(&[3, source.sequence, 6])))]);

    // For a person: one line that says what, where, how many, which, and what to do.
    let page = operator.run(&["ledger", "--stream", WORK]).await;
    let text = String::from_utf8_lossy(&page.stdout);
    let wrong: Vec<_> = text.lines().filter(|line| line.starts_with("WRONG")).collect();
    assert_eq!((wrong.len(), page.status.code()), (1, Some(1)), "{text}");
    for part in [WORK, BANK, "without an outcome, a copy or a letter: 3 (", "next: "] {
        assert!(wrong[0].contains(part), "no {part:?} in {text}");
    }
    assert!(text.trim_end().lines().last().unwrap().starts_with("one thing does NOT add up: 6 published"), "{text}");
}

/// Of an id that was sent before, and by now is forgotten by the broker, there are two; the service knows of the first.
#[tokio::test(flavor = "multi_thread")]
async fn work_that_is_sent_again_is_not_missing_whether_the_first_is_done_or_waits() {
    let broker = TestBroker::start(&[till(), bank()]).await.unwrap();
    let (till, bank) = (broker.connect("till").await.unwrap(), broker.connect("bank").await.unwrap());
    let (admin, operator, seen) = (admin(&broker).await, broker.connect("operator").await.unwrap(), Seen::default());
    let mut config = admin.get_stream(WORK).await.unwrap().cached_info().config.clone();
    config.duplicate_window = Duration::from_millis(100);
    admin.update_stream(config).await.unwrap();
    let charges = Charges::new(Repeat::Once, &seen, |cx| async move {
        if cx.local_id() == "2" { Err(Fault::unavailable("closed")) } else { Ok(()) }
    });
    let hours = Duration::from_secs(20 * 3600);
    let retry = RetryRule { max_attempts: 2, base: hours, cap: hours, ..RetryRule::default() };
    bank.serve(charges).calls(false).retry(retry).start().await.unwrap();
    let charge = PaymentsClient::new(&till).charge();
    let until = async |accepted: u64, published: u64| {
        eventually("all settled", || async {
            let checked = checked(&operator).await;
            let line = line(&checked, WORK);
            let is_there = (line.accepted + line.missing, line.delayed, line.published) == (accepted, 1, published);
            is_there.then_some(checked)
        })
        .await
    };
    for number in 1..=2 {
        charge.enqueue(&charge_of(number, 100)).id(number.to_string()).await.unwrap();
    }
    until(1, 2).await;
    for number in 1..=2u64 {
        eventually("another of the same id", || async {
            let again = charge.enqueue(&charge_of(1, 100)).id(number.to_string()).await.unwrap();
            (again.sequence > 2).then_some(())
        })
        .await;
    }
    let checked_again = until(3, 4).await;
    assert_eq!(checked_again.account.findings, [], "{:?}", checked_again.account);
    let mut seen = seen.lock().await.clone();
    seen.sort();
    assert_eq!(seen, ["1", "2"], "neither was done again");

    // What is lost is missed as before.
    bank.drain().await;
    let lost = charge.enqueue(&charge_of(3, 100)).id("3").await.unwrap().sequence;
    delete(&admin, WORK, lost).await;
    let findings = checked(&operator).await.account.findings;
    let which: Vec<_> = findings.iter().map(|it| (it.kind.word(), it.which.first())).collect();
    assert_eq!(which, [("work-missing", vec![lost.to_string()])]);
}

#[tokio::test(flavor = "multi_thread")]
async fn events_that_nobody_handled_and_consumers_that_are_gone_are_named() {
    let broker = TestBroker::start(&[orders(), consumer("a", "work")]).await.unwrap();
    let sender = broker.connect("orders").await.unwrap();
    let publisher = sender.publisher::<OrderPlaced>();
    for number in 1..=4 {
        publisher.publish(&order(number)).id(number.to_string()).await.unwrap();
    }
    let (admin, operator) = (admin(&broker).await, Operator::at(&broker, "operator"));
    operator.json(0, &["ledger"]).await;
    delete(&admin, EVENTS, 2).await;
    let document = operator.json(1, &["ledger"]).await;
    assert_eq!(found(&document), [("events-lost", EVENTS, "a/work", vec!["2"])]);

    // All of them, as an operator's purge does: the broker moves the consumer's floors with it.
    admin.get_stream(EVENTS).await.unwrap().purge().await.unwrap();
    let document = operator.json(1, &["ledger"]).await;
    assert_eq!((found(&document)[0].0, &document["findings"][0]["count"]), ("events-lost", &json!(4)));

    // What the mesh file needs: a consumer that somebody deleted.
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("mesh.yaml");
    let event = "shop.orders.v1.OrderPlaced";
    let text = format!("services:\n  orders: {{publishes: [{event}]}}\n  a: {{consumes: {{work: {event}}}}}\n");
    std::fs::write(&file, text).unwrap();
    let file = file.display().to_string();
    let lane = "mesh1-lane-a";
    let document = operator.json(1, &["ledger", "--config", &file]).await;
    assert_eq!(found(&document).len(), 1, "all that it needs is there");
    admin.get_stream(lane).await.unwrap().delete_consumer("a_work").await.unwrap();
    let document = operator.json(1, &["ledger", "--config", &file]).await;
    assert_eq!(found(&document)[1], ("consumer-missing", lane, "a/work", vec![]));

    // Input that is wrong.
    for words in
        [&["ledger", "--consumer", "work"], &["ledger", "--stream", "mesh1-none"], &["ledger", "--config", "no"]]
    {
        assert_eq!(operator.run(words).await.status.code(), Some(2), "{words:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_broker_gave_up_without_a_letter_is_named() {
    let broker = TestBroker::start(&[orders(), consumer("a", "work")]).await.unwrap();
    let sender = broker.connect("orders").await.unwrap();
    for number in 1..=2 {
        sender.publisher::<OrderPlaced>().publish(&order(number)).id(number.to_string()).await.unwrap();
    }
    let (admin, operator) = (admin(&broker).await, Operator::at(&broker, "operator"));
    let consumer: jetstream::consumer::PullConsumer =
        admin.get_stream(EVENTS).await.unwrap().get_consumer("a_work").await.unwrap();
    let mut messages = consumer.fetch().max_messages(1).messages().await.unwrap();
    let message = messages.next().await.unwrap().unwrap();
    message.ack_with(jetstream::AckKind::Term).await.unwrap();
    let document = eventually("what was given up", || async {
        let ended = operator.run(&["ledger", "-o", "json"]).await;
        let document: Value = serde_json::from_slice(&ended.stdout).unwrap();
        (ended.status.code() == Some(1)).then_some(document)
    })
    .await;
    assert_eq!(found(&document), [("given-up", EVENTS, "a/work", vec!["1"])]);
}
