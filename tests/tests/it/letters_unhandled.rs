//! What becomes a letter before its handler runs: it is of another type, its time is over, or it is over its limit.

use std::{collections::BTreeSet, time::Duration};

use async_nats::jetstream::{self, consumer::PullConsumer};
use mesh_core::{
    Fault, Mesh,
    clock::{Clock, Deadline},
    dead_letter::{Letter, LetterState},
    delayed,
    envelope::Envelope,
    fault::{Code, Effect, Reason},
    policy::{compile::Declaration, retry::RetryRule},
    proto::v1,
};
use mesh_tests::{
    Seen, TestBroker, eventually,
    foreign::{self, Worker},
    seen::notes,
};
use prost::Message as _;
use shop_proto::shop::{
    orders::v1::OrderPlaced,
    payments::v1::{PaymentsClient, PaymentsServer},
};

use crate::{
    keeper::{WORK, lane, outcomes, some_letters},
    letters_cli::WORKER,
    shop::{Bank, EVENT, bank, charge_of, consumer, order, orders, till},
};

const EVENTS: (&str, &str) = ("mesh1-event-orders", "a_work");
/// An event that the consumer does not handle.
const SHIPPED: &str = "shop.orders.v1.OrderShipped";
const LIMIT: u32 = 3;

/// The only letter, once nothing is under way or waits at any of these places.
async fn only_letter(broker: &TestBroker, places: &[(&str, &str)]) -> Letter {
    let letter = some_letters(broker, 1).await.remove(0);
    let operator = broker.connect("operator").await.unwrap();
    for (stream, durable) in places {
        eventually("everything to be settled", || async {
            let state = operator.bus().consumer_state(stream, durable).await.unwrap().unwrap();
            (state.pending + state.in_flight == 0).then_some(())
        })
        .await;
    }
    operator.drain().await;
    assert_eq!((letter.state, letter.history.len()), (LetterState::Open, 1));
    assert_eq!(some_letters(broker, 1).await.remove(0), letter);
    letter
}

fn fault_of(letter: &Letter) -> Fault {
    letter.letter.fault.clone().unwrap().into()
}

/// Takes the next delivery in hand and puts a copy of it on the lane of its consumer, due, as `change` says.
async fn put_on_the_lane(
    broker: &TestBroker,
    mesh: &Mesh,
    (consumer, place): (&str, (&str, &str)),
    (attempt, attempts): (u32, &v1::Attempts),
    change: impl FnOnce(&mut Envelope),
) {
    let service = mesh.identity().service().as_str();
    let worker = Worker::new(broker, service, place).await;
    let reply = worker.pull().await.reply.unwrap();
    let sequence = reply.split('.').nth(5).unwrap().parse().unwrap();
    let operator = broker.connect("operator").await.unwrap();
    let mut envelope = operator.bus().message_at(place.0, sequence).await.unwrap().unwrap().open().envelope;
    change(&mut envelope);
    delayed::delay(mesh.bus(), &lane(service, consumer), &envelope, (attempt, 1), attempts).await.unwrap();
    worker.client.request(reply, "+ACK".into()).await.unwrap();
}

/// What a service says of the work that it has: each ended, and none twice.
async fn dead_lettered(broker: &TestBroker) -> Vec<String> {
    let outcomes = outcomes(broker).await.into_iter();
    let dead = outcomes.filter(|(_, outcome)| matches!(outcome.end, Some(v1::outcome::End::DeadLettered(_))));
    dead.map(|(_, outcome)| outcome.message_id).collect()
}

/// A consumer that reads more than its handler's type: somebody widened what it reads, or it was given another type since.
async fn widen(broker: &TestBroker) {
    let operator = jetstream::new(foreign::client(broker, "operator").await);
    let stream = operator.get_stream(EVENTS.0).await.unwrap();
    let consumer: PullConsumer = stream.get_consumer(EVENTS.1).await.unwrap();
    let mut config = consumer.cached_info().config.clone();
    config.filter_subject = "mesh1.event.local.orders.>".into();
    config.filter_subjects = Vec::new();
    stream.create_consumer(config).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_of_another_type_is_one_letter_with_its_bytes_and_not_handled() {
    let publishes = BTreeSet::from([EVENT.into(), SHIPPED.into()]);
    let broker = TestBroker::start(&[Declaration { publishes, ..orders() }, consumer("a", "work")]).await.unwrap();
    widen(&broker).await;
    // Its bytes could be read as what is handled: its type is what its subject says.
    let payload = order(1).encode_to_vec();
    let client = foreign::client(&broker, "orders").await;
    client.publish(format!("mesh1.event.local.orders.{SHIPPED}.0"), payload.clone().into()).await.unwrap();
    client.flush().await.unwrap();
    let (mesh, seen) = (broker.connect("a").await.unwrap(), Seen::default());
    mesh.consumer::<OrderPlaced>("work").start(notes(&seen)).await.unwrap();
    let sender = broker.connect("orders").await.unwrap();
    sender.publisher::<OrderPlaced>().publish(&order(2)).id("2").await.unwrap();
    eventually("the other event", || async { (!seen.lock().await.is_empty()).then_some(()) }).await;

    let letter = only_letter(&broker, &[EVENTS, ("mesh1-lane-a", "a_work")]).await;
    let fault = fault_of(&letter);
    assert_eq!((fault.reason(), fault.effect()), (Reason::WrongType, Effect::None));
    assert_eq!((&letter.letter.payload[..], letter.letter.message_type.as_str()), (&payload[..], SHIPPED));
    assert!(fault.message().contains(EVENT) && fault.message().contains(SHIPPED), "{fault}");
    assert_eq!(*seen.lock().await, ["2"], "the first was not handed to the handler");
}

#[tokio::test(flavor = "multi_thread")]
async fn work_of_another_service_is_one_letter_with_its_bytes_and_not_handled() {
    let broker = TestBroker::start(&[till(), bank()]).await.unwrap();
    let (till, bank) = (broker.connect("till").await.unwrap(), broker.connect("bank").await.unwrap());
    let client = PaymentsClient::new(&till).charge();
    client.enqueue(&charge_of(1, 100)).id("1").await.unwrap();
    // The queue of a service holds no other's work; its lane may, from when its worker served another one.
    let elsewhere = "mesh1.work.local.shop.notifications.v1.Notifications.Send.normal.1.till";
    let of_others = |envelope: &mut Envelope| envelope.subject = elsewhere.to_owned();
    put_on_the_lane(&broker, &bank, (WORKER, WORK), (2, &v1::Attempts::default()), of_others).await;
    let books = Bank::default();
    bank.serve(PaymentsServer::new(books.clone())).start().await.unwrap();
    client.enqueue(&charge_of(2, 100)).id("2").await.unwrap();
    eventually("the other work", || async { (!books.0.lock().await.is_empty()).then_some(()) }).await;

    let letter = only_letter(&broker, &[WORK, ("mesh1-lane-bank", WORK.1)]).await;
    let fault = fault_of(&letter);
    assert_eq!((fault.reason(), fault.effect()), (Reason::WrongType, Effect::None));
    assert_eq!(letter.letter.payload, charge_of(1, 100).encode_to_vec());
    assert_eq!(letter.letter.source.unwrap().subject, elsewhere);
    assert_eq!(*books.0.lock().await, ["till/shop.payments.v1.Payments.Charge/2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn work_whose_deadline_has_passed_is_one_letter_without_an_effect() {
    let broker = TestBroker::start(&[till(), bank()]).await.unwrap();
    let (till, bank) = (broker.connect("till").await.unwrap(), broker.connect("bank").await.unwrap());
    let (client, clock) = (PaymentsClient::new(&till).charge(), Clock::system());
    let deadline = Deadline::after(&clock, Duration::from_millis(50));
    let late = client.enqueue(&charge_of(1, 100)).id("1").deadline(deadline).await.unwrap();
    let in_time = Deadline::after(&clock, Duration::from_secs(3600));
    client.enqueue(&charge_of(2, 100)).id("2").deadline(in_time).await.unwrap();
    eventually("its deadline", || async { deadline.is_over(&clock).then_some(()) }).await;
    let books = Bank::default();
    bank.serve(PaymentsServer::new(books.clone())).start().await.unwrap();

    let letter = only_letter(&broker, &[WORK, ("mesh1-lane-bank", WORK.1)]).await;
    let fault = fault_of(&letter);
    assert_eq!((fault.code(), fault.reason()), (Code::DeadlineExceeded, Reason::DeadlineExpired));
    assert_eq!((fault.effect(), &letter.letter.attempts[..]), (Effect::None, &[][..]), "no attempt was made");
    assert_eq!(letter.letter.payload, charge_of(1, 100).encode_to_vec());
    assert_eq!(*books.0.lock().await, ["till/shop.payments.v1.Payments.Charge/2"]);
    assert_eq!(dead_lettered(&broker).await, [late.message_id], "who enqueued it is told");
}

/// Three attempts that failed.
fn failed() -> v1::Attempts {
    let fault = Fault::unavailable("the shelf is locked");
    let attempt = |number| v1::Attempt { number, fault: Some((&fault).into()), ..v1::Attempt::default() };
    v1::Attempts { attempts: (1..=LIMIT).map(attempt).collect() }
}

fn over_its_limit(letter: &Letter, payload: Vec<u8>) {
    let fault = fault_of(letter);
    assert_eq!(fault.reason(), Reason::AttemptsExhausted);
    assert!(fault.message().contains("attempt 4 is over the limit of 3"), "{fault}");
    let numbers: Vec<u32> = letter.letter.attempts.iter().map(|attempt| attempt.number).collect();
    assert_eq!((numbers, &letter.letter.payload[..]), (vec![1, 2, 3], &payload[..]));
}

/// A release with a lower limit finds what an earlier one put on the lane.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_over_its_limit_is_one_letter_and_not_handled() {
    let broker = TestBroker::start(&[orders(), consumer("a", "work")]).await.unwrap();
    let (sender, mesh, seen) =
        (broker.connect("orders").await.unwrap(), broker.connect("a").await.unwrap(), Seen::default());
    for (number, attempt) in [(1, LIMIT + 1), (2, LIMIT)] {
        sender.publisher::<OrderPlaced>().publish(&order(number)).id(number.to_string()).await.unwrap();
        put_on_the_lane(&broker, &mesh, ("work", EVENTS), (attempt, &failed()), |_| {}).await;
    }
    let retry = RetryRule { max_attempts: LIMIT, ..RetryRule::default() };
    mesh.consumer::<OrderPlaced>("work").retry(retry).start(notes(&seen)).await.unwrap();
    let letter = only_letter(&broker, &[EVENTS, ("mesh1-lane-a", "a_work")]).await;
    over_its_limit(&letter, order(1).encode_to_vec());
    assert_eq!(*seen.lock().await, ["2"], "the last attempt that may be made is made");
}

#[tokio::test(flavor = "multi_thread")]
async fn work_over_the_limit_of_its_operation_is_one_letter_and_not_handled() {
    let broker = TestBroker::start(&[till(), bank()]).await.unwrap();
    let (till, bank) = (broker.connect("till").await.unwrap(), broker.connect("bank").await.unwrap());
    let work = PaymentsClient::new(&till).charge().enqueue(&charge_of(1, 100)).id("1").await.unwrap();
    put_on_the_lane(&broker, &bank, (WORKER, WORK), (LIMIT + 1, &failed()), |_| {}).await;
    let books = Bank::default();
    let of_charges = RetryRule { max_attempts: LIMIT, ..RetryRule::default() };
    let server = bank.serve(PaymentsServer::new(books.clone())).retry_of("Charge", of_charges);
    server.start().await.unwrap();
    let letter = only_letter(&broker, &[WORK, ("mesh1-lane-bank", WORK.1)]).await;
    over_its_limit(&letter, charge_of(1, 100).encode_to_vec());
    assert!(books.0.lock().await.is_empty());
    assert_eq!(dead_lettered(&broker).await, [work.message_id], "who enqueued it is told");
}
