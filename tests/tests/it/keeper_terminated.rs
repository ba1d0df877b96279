//! A worker that is not ours ends a message for good (`+TERM`): the broker says so, and the keeper makes one letter of it.

use mesh_core::{
    Fault, dead_letter,
    dead_letter::LetterState,
    fault::{Code, Effect, Reason},
    proto::v1,
    store::Store,
    subject::{ADVISORY_STREAM, KEEPER},
};
use mesh_tests::{
    TestBroker, eventually,
    foreign::{self, Worker},
};
use prost::Message as _;
use shop_proto::shop::{orders::v1::OrderPlaced, payments::v1::PaymentsClient};

use crate::{
    keeper::{EVENTS, WORK, broker, lane, letters, some_letters, start_keeper, until_read},
    shop::{charge_of, order},
};

/// Takes the next message and ends it for good, as a worker may that needs no letter.
async fn terminate(worker: &Worker) {
    let reply = worker.pull().await.reply.unwrap();
    worker.client.publish(reply, "+TERM no such warehouse".into()).await.unwrap();
    worker.client.flush().await.unwrap();
}

/// The broker's word on it is kept, whoever listens.
async fn until_said(broker: &TestBroker) {
    let operator = async_nats::jetstream::new(foreign::client(broker, "operator").await);
    eventually("the broker's word", || async {
        let mut stream = operator.get_stream(ADVISORY_STREAM).await.ok()?;
        (stream.info().await.ok()?.state.messages == 1).then_some(())
    })
    .await;
}

async fn publish(broker: &TestBroker, number: usize) {
    let sender = broker.connect("orders").await.unwrap();
    sender.publisher::<OrderPlaced>().publish(&order(number)).id(number.to_string()).await.unwrap();
    sender.drain().await;
}

/// Has every word read a second time, by a keeper that does not know that it was read.
async fn read_again(broker: &TestBroker) {
    let keeper = broker.connect(KEEPER).await.unwrap();
    let store = Store::own(keeper.bus());
    let entry = store.get("position.advisory").await.unwrap().unwrap();
    let anew = v1::PositionRecord { by: "a keeper that was restored".into(), ..Default::default() };
    store.put("position.advisory", anew.encode_to_vec().into(), entry.revision, None).await.unwrap();
    let running = start_keeper(broker).await;
    until_read(broker).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_a_worker_ended_for_good_is_one_letter_with_its_bytes() {
    let broker = broker().await;
    publish(&broker, 1).await;
    terminate(&Worker::new(&broker, "mail", EVENTS).await).await;
    until_said(&broker).await;
    assert!(letters(&broker).await.is_empty(), "nobody heard it yet");
    let running = start_keeper(&broker).await;
    until_read(&broker).await;
    running.stop().await;
    let letter = some_letters(&broker, 1).await.remove(0);
    let fault: Fault = letter.letter.fault.clone().unwrap().into();
    assert_eq!((fault.reason(), fault.effect()), (Reason::HandlerRefused, Effect::Unknown));
    assert!(fault.message().contains("no such warehouse"), "the worker's own words: {fault}");
    assert_eq!(letter.letter.payload, order(1).encode_to_vec());
    assert_eq!((letter.state, letter.history.len()), (LetterState::Open, 1));

    read_again(&broker).await;
    assert_eq!(some_letters(&broker, 1).await, [letter], "the same, and nothing was added to it");
}

#[tokio::test(flavor = "multi_thread")]
async fn work_that_a_worker_ended_for_good_has_left_its_queue_and_is_one_letter_that_says_so() {
    let broker = broker().await;
    let till = broker.connect("till").await.unwrap();
    PaymentsClient::new(&till).charge().enqueue(&charge_of(1, 100)).id("1").await.unwrap();
    let running = start_keeper(&broker).await;
    terminate(&Worker::new(&broker, "bank", WORK).await).await;
    let letter = some_letters(&broker, 1).await.remove(0);
    until_read(&broker).await;
    running.stop().await;
    let fault: Fault = letter.letter.fault.clone().unwrap().into();
    assert_eq!((fault.code(), fault.reason(), fault.effect()), (Code::DataLoss, Reason::MessageLost, Effect::Unknown));
    for part in ["message 1 of mesh1-work-shop-payments-v1-Payments", "no such warehouse", "which deleted it"] {
        assert!(fault.message().contains(part), "no {part:?} in {fault}");
    }
    read_again(&broker).await;
    assert_eq!(some_letters(&broker, 1).await, [letter], "the same, and nothing was added to it");
}

/// A worker that writes its letters itself, and then ends the message instead of acknowledging it.
#[tokio::test(flavor = "multi_thread")]
async fn what_has_a_letter_and_is_then_ended_for_good_has_no_second_one() {
    for is_work in [false, true] {
        let broker = broker().await;
        let (service, consumer, place) = match is_work {
            true => ("bank", "shop-payments-v1-payments", WORK),
            false => ("mail", "confirm", EVENTS),
        };
        if is_work {
            let till = broker.connect("till").await.unwrap();
            PaymentsClient::new(&till).charge().enqueue(&charge_of(1, 100)).id("1").await.unwrap();
        } else {
            publish(&broker, 1).await;
        }
        let (mesh, keeper) = (broker.connect(service).await.unwrap(), broker.connect(KEEPER).await.unwrap());
        let envelope = keeper.bus().message_at(place.0, 1).await.unwrap().unwrap().open().envelope;
        let (fault, attempts) = (Fault::invalid("no such warehouse"), v1::Attempts::default());
        dead_letter::capture(mesh.bus(), &lane(service, consumer), &envelope, &fault, attempts).await.unwrap();
        terminate(&Worker::new(&broker, service, place).await).await;
        until_said(&broker).await;
        let running = start_keeper(&broker).await;
        until_read(&broker).await;
        running.stop().await;
        let letter = some_letters(&broker, 1).await.remove(0);
        assert_eq!((letter.state, letter.history.len(), letter.last_sequence), (LetterState::Open, 1, 1));
        assert_eq!(Fault::from(letter.letter.fault.unwrap()).message(), "no such warehouse");
    }
}
