//! A stream that was removed and made again counts from 1 again. Nothing of the new one is taken for what was at its place.

use std::{sync::Arc, time::Duration};

use async_nats::jetstream;
use mesh_core::{
    Context, Fault, Mesh,
    bus::StreamLimits,
    dead_letter::{Letter, LetterState},
    operate::{
        keeper::ask,
        ledger::{self, Check, Line},
        letters::{self, Order, Selector},
    },
    policy::{compile::Declaration, retry::RetryRule},
    proto::v1,
    subject::{ADVISORY_STREAM, DEAD_LETTER_STREAM},
};
use mesh_tests::{
    Seen, TestBroker, eventually,
    foreign::{self, Worker},
};
use serde_json::json;
use shop_proto::shop::{
    orders::v1::OrderPlaced,
    payments::v1::{PaymentsClient, PaymentsServer},
};
use tokio::sync::Semaphore;

use crate::{
    command_line::Operator,
    keeper::{self, die, start_keeper, until_read},
    shop::{Bank, bank, charge_of, consumer, order, orders, till},
};

const EVENTS: &str = "mesh1-event-orders";
const SUBJECT: &str = "mesh1.event.local.orders.shop.orders.v1.OrderPlaced.0";

fn declared() -> [Declaration; 2] {
    [orders(), consumer("mail", "confirm")]
}

async fn make_anew(broker: &TestBroker, declared: &[Declaration], stream: &str) {
    jetstream::new(foreign::client(broker, "operator").await).delete_stream(stream).await.unwrap();
    broker.apply(declared, &StreamLimits::default()).await.unwrap();
}

async fn some_letters(broker: &TestBroker, count: usize) -> Vec<Letter> {
    let operator = broker.connect("operator").await.unwrap();
    let letters = eventually("the letters", || async {
        let letters = letters::list(operator.bus(), &Selector::default()).await.unwrap().letters;
        assert!(letters.len() <= count, "{letters:?}");
        (letters.len() == count).then_some(letters)
    })
    .await;
    operator.drain().await;
    letters
}

async fn until_all_is_settled(broker: &TestBroker) {
    let operator = broker.connect("operator").await.unwrap();
    eventually("all settled", || async {
        let state = operator.bus().consumer_state(EVENTS, "mail_confirm").await.unwrap()?;
        (state.pending == 0 && state.in_flight == 0).then_some(())
    })
    .await;
    operator.drain().await;
}

async fn refuse_all(broker: &TestBroker) -> Mesh {
    let mail = broker.connect("mail").await.unwrap();
    let handler = |_cx: Context, _event: OrderPlaced| async { Err(Fault::invalid("not today")) };
    mail.consumer::<OrderPlaced>("confirm").start(handler).await.unwrap();
    mail
}

/// Stores one event, with an id or as somebody who states none.
async fn store(broker: &TestBroker, number: usize, id: Option<&str>) {
    let client = jetstream::new(foreign::client(broker, "orders").await);
    let payload = prost::Message::encode_to_vec(&order(number));
    let mut headers = async_nats::HeaderMap::new();
    id.into_iter().for_each(|id| headers.insert("Nats-Msg-Id", id));
    let stored = client.publish_with_headers(SUBJECT, headers, payload.into()).await.unwrap().await.unwrap();
    assert_eq!(stored.sequence, 1, "the same place");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_at_the_place_of_an_older_letter_is_a_letter_of_its_own() {
    for id in [None, Some("orders/shop.orders.v1.OrderPlaced/1")] {
        let broker = TestBroker::start(&declared()).await.unwrap();
        let mail = refuse_all(&broker).await;
        store(&broker, 1, id).await;
        let letter = some_letters(&broker, 1).await.remove(0);
        until_all_is_settled(&broker).await;
        mail.drain().await;
        let operator = broker.connect("operator").await.unwrap();
        let order = Order { by: "ada".into(), why: "seen to".into(), again: false, job: String::new() };
        letters::discard(operator.bus(), &letter, &order).await.unwrap();

        make_anew(&broker, &declared(), EVENTS).await;
        let _mail = refuse_all(&broker).await;
        store(&broker, 2, id).await;
        until_all_is_settled(&broker).await;
        let letters = some_letters(&broker, 2).await;
        let open = letters.iter().find(|letter| letter.state == LetterState::Open).expect("the new one");
        let event: OrderPlaced = prost::Message::decode(open.letter.payload.clone()).unwrap();
        assert_eq!(event.order_id, "2");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_delayed_at_the_place_of_an_older_copy_comes_again() {
    let broker = TestBroker::start(&declared()).await.unwrap();
    let seen = Seen::default();
    let start = async || {
        let mail = broker.connect("mail").await.unwrap();
        let into = Arc::clone(&seen);
        let handler = move |cx: Context, event: OrderPlaced| {
            let into = Arc::clone(&into);
            async move {
                into.lock().await.push(format!("{} {}", event.order_id, cx.attempt()));
                if cx.attempt() == 1 { Err(Fault::unavailable("not yet")) } else { Ok(()) }
            }
        };
        let retry = RetryRule { base: Duration::from_millis(20), ..RetryRule::default() };
        mail.consumer::<OrderPlaced>("confirm").retry(retry).start(handler).await.unwrap();
        mail
    };
    for number in 1..=2 {
        let mail = start().await;
        store(&broker, number, None).await;
        let again = format!("{number} 2");
        eventually("the second attempt", || async { seen.lock().await.contains(&again).then_some(()) }).await;
        until_all_is_settled(&broker).await;
        mail.drain().await;
        make_anew(&broker, &declared(), EVENTS).await;
    }
    assert_eq!(*seen.lock().await, ["1 1", "1 2", "2 1", "2 2"]);
}

/// The letter that was replayed is gone, and so is all that was expected of it: the failure is a letter all the same.
#[tokio::test(flavor = "multi_thread")]
async fn what_fails_again_when_its_letter_is_no_more_begins_the_letter_again() {
    let broker = TestBroker::start(&declared()).await.unwrap();
    let mail = refuse_all(&broker).await;
    store(&broker, 1, None).await;
    let letter = some_letters(&broker, 1).await.remove(0);
    until_all_is_settled(&broker).await;
    mail.drain().await;

    let mail = broker.connect("mail").await.unwrap();
    let (begun, go_on) = (Arc::new(Semaphore::new(0)), Arc::new(Semaphore::new(0)));
    let gates = (Arc::clone(&begun), Arc::clone(&go_on));
    let handler = move |_cx: Context, _event: OrderPlaced| {
        let (begun, go_on) = gates.clone();
        async move {
            begun.add_permits(1);
            let _gone_on = go_on.acquire().await;
            Err(Fault::invalid("not today either"))
        }
    };
    mail.consumer::<OrderPlaced>("confirm").start(handler).await.unwrap();
    let operator = broker.connect("operator").await.unwrap();
    letters::replay(operator.bus(), &letter, &Order { by: "ada".into(), ..Order::default() }).await.unwrap();
    let _begun = begun.acquire().await.unwrap();
    make_again(&broker, DEAD_LETTER_STREAM).await;
    go_on.add_permits(1);

    let again = some_letters(&broker, 1).await.remove(0);
    assert_eq!((&again.letter.id, again.letter.generation), (&letter.letter.id, 1));
    assert_eq!((again.state, again.letter.payload == letter.letter.payload), (LetterState::Open, true));
    mail.drain().await;
}

/// Removes a stream and makes it again as it was.
async fn make_again(broker: &TestBroker, stream: &str) {
    let operator = jetstream::new(foreign::client(broker, "operator").await);
    let config = operator.get_stream(stream).await.unwrap().cached_info().config.clone();
    operator.delete_stream(stream).await.unwrap();
    operator.create_stream(config).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_words_of_a_stream_of_advisories_that_was_made_anew_are_read_from_its_beginning() {
    let broker = keeper::broker().await;
    let sender = broker.connect("orders").await.unwrap();
    let worker = Worker::new(&broker, "mail", keeper::EVENTS).await;
    let die_of = async |number: usize| {
        sender.publisher::<OrderPlaced>().publish(&order(number)).id(number.to_string()).await.unwrap();
        die(&worker).await;
    };
    let running = start_keeper(&broker).await;
    for number in 1..=3 {
        die_of(number).await;
        keeper::some_letters(&broker, number).await;
    }
    until_read(&broker).await;
    // While no keeper runs: nobody heard it either.
    running.stop().await;
    make_again(&broker, ADVISORY_STREAM).await;
    die_of(4).await;
    let standing = worker.ask(1, 60).await;
    let operator = broker.connect("operator").await.unwrap();
    let said = async || operator.bus().stream_state(ADVISORY_STREAM).await.unwrap().unwrap().last_sequence;
    eventually("the word", || async { (said().await == 1).then_some(()) }).await;
    drop(standing);
    let running = start_keeper(&broker).await;
    keeper::some_letters(&broker, 4).await;
    until_read(&broker).await;
    // While one runs: what it hears is in the stream, so it is read there.
    make_again(&broker, ADVISORY_STREAM).await;
    die_of(5).await;
    keeper::some_letters(&broker, 5).await;
    until_read(&broker).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_index_knows_no_letter_of_a_stream_that_is_no_more() {
    let broker = keeper::broker().await;
    let mail = refuse_all(&broker).await;
    let sender = broker.connect("orders").await.unwrap();
    for number in 1..=2 {
        sender.publisher::<OrderPlaced>().publish(&order(number)).id(number.to_string()).await.unwrap();
    }
    some_letters(&broker, 2).await;
    let running = start_keeper(&broker).await;
    let operator = broker.connect("operator").await.unwrap();
    let counted = async |expected: u64| {
        eventually("the count", || async {
            let count = ask::count(operator.bus(), v1::LetterQuery::default()).await.ok()?;
            (count.total == expected).then_some(())
        })
        .await;
    };
    counted(2).await;
    make_again(&broker, DEAD_LETTER_STREAM).await;
    counted(0).await;
    sender.publisher::<OrderPlaced>().publish(&order(3)).id("3").await.unwrap();
    counted(1).await;
    running.stop().await;
    mail.drain().await;
}

/// What `mesh ledger` says of one stream, and how many findings there are with it.
async fn line_of(broker: &TestBroker, stream: &str) -> (Line, usize) {
    let operator = broker.connect("operator").await.unwrap();
    let checked = ledger::check(operator.bus(), Check::default()).await.unwrap();
    operator.drain().await;
    let line = checked.account.lines.into_iter().find(|line| line.stream == stream).unwrap();
    (line, checked.account.findings.len())
}

async fn serve_until(broker: &TestBroker, (accepted, dead): (u64, u64)) {
    let bank = broker.connect("bank").await.unwrap();
    bank.serve(PaymentsServer::new(Bank::default())).start().await.unwrap();
    eventually("the work to end", || async {
        let (line, _) = line_of(broker, keeper::WORK.0).await;
        let moving = line.in_flight + line.waiting;
        (moving == 0 && (line.accepted, line.dead) == (accepted, dead)).then_some(())
    })
    .await;
    bank.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ledger_takes_no_outcome_of_an_older_queue_for_one_of_the_new() {
    let declared = [till(), bank()];
    let broker = TestBroker::start(&declared).await.unwrap();
    let (till, operator) = (broker.connect("till").await.unwrap(), Operator::at(&broker, "operator"));
    let charge = PaymentsClient::new(&till).charge();
    let enqueue = async |number: usize, cents: i64| {
        charge.enqueue(&charge_of(number, cents)).id(number.to_string()).await.unwrap().sequence
    };
    // The last one is refused for good, and its letter stays open.
    for (number, cents) in [(1, 100), (2, 100), (3, 0)] {
        assert_eq!(enqueue(number, cents).await, number as u64);
    }
    serve_until(&broker, (2, 1)).await;
    let document = operator.json(0, &["ledger"]).await;
    assert_eq!(document["remarks"], json!([]));

    make_anew(&broker, &declared, keeper::WORK.0).await;
    assert_eq!(enqueue(4, 0).await, 1, "the place of one that is done");
    serve_until(&broker, (0, 1)).await;
    let document = operator.json(0, &["ledger"]).await;
    let remarks = document["remarks"].as_array().unwrap();
    assert_eq!((remarks.len(), &document["lines"][0]["dead"]), (1, &json!(1)), "{document}");
    assert!(remarks[0].as_str().unwrap().starts_with("mesh1-work-shop-payments-v1-Payments: 1: "), "{remarks:?}");

    assert_eq!(enqueue(5, 100).await, 2, "the place of one that is done");
    let admin = jetstream::new(foreign::client(&broker, "operator").await);
    admin.get_stream(keeper::WORK.0).await.unwrap().delete_message(2).await.unwrap();
    let document = operator.json(1, &["ledger"]).await;
    let finding = &document["findings"][0];
    assert_eq!((&finding["kind"], &finding["first"]), (&json!("work-missing"), &json!(["2"])), "{document}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ledger_takes_no_copy_of_an_older_stream_for_one_of_the_new() {
    let broker = TestBroker::start(&declared()).await.unwrap();
    // With full jitter only a wait of hours is never over while somebody looks.
    let hours = Duration::from_secs(20 * 3600);
    for number in 1..=2 {
        let mail = broker.connect("mail").await.unwrap();
        let handler = |_cx: Context, _event: OrderPlaced| async { Err(Fault::unavailable("not yet")) };
        let retry = RetryRule { base: hours, cap: hours, ..RetryRule::default() };
        mail.consumer::<OrderPlaced>("confirm").retry(retry).start(handler).await.unwrap();
        store(&broker, number, None).await;
        until_all_is_settled(&broker).await;
        let (line, findings) = line_of(&broker, EVENTS).await;
        assert_eq!((line.published, line.delayed, findings), (1, 1, 0));
        mail.drain().await;
        if number == 1 {
            make_anew(&broker, &declared(), EVENTS).await;
        }
    }
    let admin = jetstream::new(foreign::client(&broker, "operator").await);
    let lane = admin.get_stream("mesh1-lane-mail").await.unwrap();
    assert_eq!(lane.cached_info().state.messages, 2, "a copy of each");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ledger_takes_no_word_on_an_older_stream_for_one_on_the_new() {
    let broker = TestBroker::start(&declared()).await.unwrap();
    store(&broker, 1, None).await;
    let worker = Worker::new(&broker, "mail", keeper::EVENTS).await;
    let reply = worker.pull().await.reply.unwrap();
    worker.client.publish(reply, "+TERM no such warehouse".into()).await.unwrap();
    worker.client.flush().await.unwrap();
    eventually("what was given up", || async { (line_of(&broker, EVENTS).await.1 == 1).then_some(()) }).await;
    make_anew(&broker, &declared(), EVENTS).await;
    store(&broker, 2, None).await;
    let (line, findings) = line_of(&broker, EVENTS).await;
    assert_eq!((line.waiting, findings), (1, 0));
}
