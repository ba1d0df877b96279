//! Dead letters: captured with everything, replayed to the consumer that failed and to no other.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use mesh_core::{
    Context, Fault,
    dead_letter::{Letter, LetterState},
    fault::{Effect, Reason},
    operate::letters::{self, Selector},
    policy::retry::RetryRule,
    proto::v1,
};
use mesh_tests::{Seen, TestBroker, eventually, foreign};
use prost::Message as _;
use shop_proto::shop::{
    orders::v1::OrderPlaced,
    payments::v1::{PaymentsClient, PaymentsServer},
};

use crate::shop::{Bank, bank, charge_of, consumer, order, orders, till};

async fn letters(broker: &TestBroker) -> Vec<Letter> {
    let operator = broker.connect("operator").await.unwrap();
    let letters = letters::list(operator.bus(), &Selector::default()).await.unwrap().letters;
    operator.drain().await;
    letters
}

async fn one_letter(broker: &TestBroker) -> Letter {
    eventually("a letter", || async {
        let letters = letters(broker).await;
        assert!(letters.len() < 2);
        letters.into_iter().next()
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_work_becomes_one_letter_with_everything_in_it() {
    let broker = TestBroker::start(&[till(), bank()]).await.unwrap();
    let (till, bank) = (broker.connect("till").await.unwrap(), broker.connect("bank").await.unwrap());
    bank.serve(PaymentsServer::new(Bank::default())).start().await.unwrap();
    let request = charge_of(7, 0);
    let receipt = PaymentsClient::new(&till).charge().enqueue(&request).id("7").await.unwrap();
    let Letter { letter, state, .. } = one_letter(&broker).await;
    assert_eq!(state, LetterState::Open);
    assert_eq!(letter.payload, request.encode_to_vec(), "the bytes as they came");
    assert_eq!((letter.service.as_str(), letter.caller.as_str()), ("bank", "till"));
    assert_eq!(letter.message_type, "shop.payments.v1.Payments/Charge");
    let source = letter.source.unwrap();
    assert_eq!((source.stream, source.sequence), (receipt.stream, receipt.sequence));
    assert_eq!(source.message_id, receipt.message_id);
    let fault: Fault = letter.fault.unwrap().into();
    assert_eq!((fault.effect(), fault.message()), (Effect::None, "an amount of 0 can't be charged"));
    assert_eq!(letter.attempts.len(), 1);
    assert!(letter.attempts[0].started_at_ms > 0 && letter.attempts[0].fault.is_some());
    assert!(letter.headers.iter().any(|h| h.name == "Nats-Msg-Id"));
    assert!(!letter.traceparent.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_card_that_is_declined_is_an_answer_and_no_letter() {
    let broker = TestBroker::start(&[till(), bank()]).await.unwrap();
    let (till, bank) = (broker.connect("till").await.unwrap(), broker.connect("bank").await.unwrap());
    bank.serve(PaymentsServer::new(Bank::default())).start().await.unwrap();
    PaymentsClient::new(&till).charge().enqueue(&charge_of(8, 2_000_000)).id("8").await.unwrap();
    let operator = broker.connect("operator").await.unwrap();
    let outcome = eventually("the outcome", || async {
        let mut outcome = None;
        let each = |message: mesh_core::gate::Unopened| {
            outcome = v1::Outcome::decode(message.open().envelope.payload).ok();
            mesh_core::bus::Stop::No
        };
        operator.bus().read("mesh1-outcome", "mesh1.outcome.>", each).await.unwrap();
        outcome
    })
    .await;
    assert!(matches!(outcome.end, Some(v1::outcome::End::Refused(_))));
    assert!(letters(&broker).await.is_empty());
}

/// A consumer that refuses while `refuse` is set.
async fn consume(broker: &TestBroker, service: &str, refuse: &Arc<AtomicBool>) -> (mesh_core::Mesh, Seen) {
    let mesh = broker.connect(service).await.unwrap();
    let seen = Seen::default();
    let (into, refuse) = (Arc::clone(&seen), Arc::clone(refuse));
    let handler = move |cx: Context, _event: OrderPlaced| {
        let (into, refuse) = (Arc::clone(&into), refuse.load(Ordering::SeqCst));
        async move {
            into.lock().await.push(cx.message_id().to_owned());
            if refuse { Err(Fault::invalid("not today")) } else { Ok(()) }
        }
    };
    mesh.consumer::<OrderPlaced>("work").start(handler).await.unwrap();
    (mesh, seen)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_reaches_the_consumer_that_failed_and_no_other() {
    let declared = [orders(), consumer("a", "work"), consumer("b", "work"), consumer("c", "work")];
    let broker = TestBroker::start(&declared).await.unwrap();
    let (refuse, accept) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicBool::new(false)));
    let (_a, seen_a) = consume(&broker, "a", &accept).await;
    let (_b, seen_b) = consume(&broker, "b", &refuse).await;
    let (_c, seen_c) = consume(&broker, "c", &accept).await;
    let sender = broker.connect("orders").await.unwrap();
    sender.publisher::<OrderPlaced>().publish(&order(1)).id("1").await.unwrap();
    let letter = one_letter(&broker).await;
    let operator = broker.connect("operator").await.unwrap();
    let order = letters::Order { by: "ada".into(), why: "try again".into(), again: false, job: String::new() };

    // It fails again: a new generation of the same letter.
    letters::replay(operator.bus(), &letter, &order).await.unwrap();
    let again = eventually("generation 1", || async {
        let letter = one_letter(&broker).await;
        (letter.letter.generation == 1 && letter.state == LetterState::Open).then_some(letter)
    })
    .await;
    assert_eq!(again.letter.id, letter.letter.id);

    // Whoever saw only the old record comes too late.
    let fault = letters::replay(operator.bus(), &letter, &order).await.unwrap_err();
    assert_eq!(fault.reason(), Reason::LetterChanged);

    // Mended: handled, and the letter has ended.
    refuse.store(false, Ordering::SeqCst);
    letters::replay(operator.bus(), &again, &order).await.unwrap();
    let ended = eventually("the end", || async {
        let letter = one_letter(&broker).await;
        (letter.state == LetterState::Resolved).then_some(letter)
    })
    .await;
    assert_eq!(ended.history.len(), 5, "captured, replayed, captured, replayed, resolved");
    assert!(ended.history.iter().any(|act| act.by == "ada" && act.why == "try again"));
    let id = "orders/shop.orders.v1.OrderPlaced/1";
    assert_eq!(*seen_b.lock().await, [id; 3], "the same id each time");
    assert_eq!((seen_a.lock().await.len(), seen_c.lock().await.len()), (1, 1), "nobody else was disturbed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_attempt_is_made_again_from_the_lane_and_then_becomes_a_letter_with_every_attempt() {
    let broker = TestBroker::start(&[orders(), consumer("a", "work")]).await.unwrap();
    let mesh = broker.connect("a").await.unwrap();
    let seen = Seen::default();
    let into = Arc::clone(&seen);
    let handler = move |cx: Context, _event: OrderPlaced| {
        let into = Arc::clone(&into);
        async move {
            into.lock().await.push(format!("{} {}", cx.attempt(), cx.local_id()));
            Err(Fault::unavailable("the shelf is locked"))
        }
    };
    let retry = RetryRule { max_attempts: 3, base: Duration::from_millis(20), ..RetryRule::default() };
    mesh.consumer::<OrderPlaced>("work").retry(retry).start(handler).await.unwrap();
    let sender = broker.connect("orders").await.unwrap();
    sender.publisher::<OrderPlaced>().publish(&order(1)).id("1").await.unwrap();
    let letter = one_letter(&broker).await.letter;
    assert_eq!(*seen.lock().await, ["1 1", "2 1", "3 1"]);
    let numbers: Vec<u32> = letter.attempts.iter().map(|a| a.number).collect();
    assert_eq!(numbers, [1, 2, 3]);
    let source = letter.source.unwrap();
    assert_eq!(source.stream, "mesh1-event-orders", "the original's place, not the lane's");
    assert!(letter.fault.unwrap().detail.contains("every attempt was used up"));
    let operator = broker.connect("operator").await.unwrap();
    eventually("an empty lane", || async {
        let lane = operator.bus().stream_state("mesh1-lane-a").await.unwrap().unwrap();
        (lane.messages == 0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_no_message_become_a_letter_with_the_bytes() {
    let broker = TestBroker::start(&[orders(), consumer("a", "work")]).await.unwrap();
    let accept = Arc::new(AtomicBool::new(false));
    let (_mesh, seen) = consume(&broker, "a", &accept).await;
    let foreign = foreign::client(&broker, "orders").await;
    let subject = "mesh1.event.local.orders.shop.orders.v1.OrderPlaced.0";
    foreign.publish(subject, vec![0xff, 0xff, 0xff].into()).await.unwrap();
    foreign.flush().await.unwrap();
    let letter = one_letter(&broker).await.letter;
    assert_eq!(letter.payload, vec![0xff, 0xff, 0xff]);
    assert_eq!(letter.fault.unwrap().reason, Reason::Undecodable.code());
    assert!(seen.lock().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_panics_takes_nobody_with_it() {
    let broker = TestBroker::start(&[till(), bank()]).await.unwrap();
    let (till, bank) = (broker.connect("till").await.unwrap(), broker.connect("bank").await.unwrap());
    let books = Bank::default();
    let retry = RetryRule { max_attempts: 2, base: Duration::from_millis(10), ..RetryRule::default() };
    bank.serve(PaymentsServer::new(books.clone())).retry(retry).start().await.unwrap();
    let client = PaymentsClient::new(&till);
    for (n, cents) in [(1, 100), (2, 13), (3, 100)] {
        client.charge().enqueue(&charge_of(n, cents)).id(n.to_string()).await.unwrap();
    }
    let letter = one_letter(&broker).await.letter;
    assert_eq!(letter.fault.as_ref().unwrap().reason, Reason::HandlerPanicked.code());
    assert!(letter.fault.unwrap().detail.contains("unlucky"));
    assert_eq!(letter.attempts.len(), 2, "the contract says keyed: it is safe to try again");
    eventually("the healthy ones", || async { (books.0.lock().await.len() == 2).then_some(()) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_outcomes_of_a_letter_and_its_replay_name_the_work() {
    let broker = TestBroker::start(&[till(), bank()]).await.unwrap();
    let (till, bank) = (broker.connect("till").await.unwrap(), broker.connect("bank").await.unwrap());
    bank.serve(PaymentsServer::new(Bank::default())).start().await.unwrap();
    let receipt = PaymentsClient::new(&till).charge().enqueue(&charge_of(7, 0)).id("7").await.unwrap();
    let letter = one_letter(&broker).await;
    let operator = broker.connect("operator").await.unwrap();
    let order = letters::Order { by: "ada".into(), why: "again".into(), again: false, job: String::new() };
    letters::replay(operator.bus(), &letter, &order).await.unwrap();
    let outcomes = eventually("both outcomes", || async {
        let mut outcomes = Vec::new();
        let each = |message: mesh_core::gate::Unopened| {
            let envelope = message.open().envelope;
            let outcome = v1::Outcome::decode(envelope.payload.clone()).unwrap();
            assert!(matches!(outcome.end, Some(v1::outcome::End::DeadLettered(_))));
            outcomes.push((envelope.message_id, outcome.message_id));
            mesh_core::bus::Stop::No
        };
        operator.bus().read("mesh1-outcome", "mesh1.outcome.>", each).await.unwrap();
        (outcomes.len() == 2).then_some(outcomes)
    })
    .await;
    let work = receipt.message_id;
    let expected = [0, 1].map(|generation| (format!("outcome/{work}/letter/{generation}"), work.clone()));
    assert_eq!(outcomes, expected);
}
