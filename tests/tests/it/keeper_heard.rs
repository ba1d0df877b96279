//! What a keeper only heard: the broker's word on a delivery while the stream of its words keeps none.

use mesh_core::{
    fault::Reason,
    operate::keeper::LEASE,
    store::{Lease, LeaseSettings, Store},
    subject::{ADVISORY_STREAM, DEAD_LETTER_STREAM, KEEPER},
};
use mesh_tests::{
    TestBroker, eventually,
    foreign::{self, Worker},
};
use shop_proto::shop::orders::v1::OrderPlaced;

use crate::{
    keeper::{EVENTS, broker, die, some_letters, start_keeper, until_read},
    shop::order,
};

async fn until_held(broker: &TestBroker) {
    let mesh = broker.connect(KEEPER).await.unwrap();
    let lease = Lease::new(Store::own(mesh.bus()), LEASE, "a test".into(), LeaseSettings::default());
    eventually("a holder", || async { lease.holder().await.unwrap() }).await;
    mesh.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_takes_over_makes_no_second_letter_of_what_the_other_worked_off() {
    let broker = broker().await;
    let one = start_keeper(&broker).await;
    until_held(&broker).await;
    let two = start_keeper(&broker).await;
    let sender = broker.connect("orders").await.unwrap();
    let worker = Worker::new(&broker, "mail", EVENTS).await;
    let die_of = async |number: usize| {
        sender.publisher::<OrderPlaced>().publish(&order(number)).id(number.to_string()).await.unwrap();
        die(&worker).await;
    };
    die_of(1).await;
    some_letters(&broker, 1).await;
    until_read(&broker).await;
    // The event has left its stream, and nothing says any more that its word was kept.
    let operator = async_nats::jetstream::new(foreign::client(&broker, "operator").await);
    operator.get_stream(EVENTS.0).await.unwrap().delete_message(1).await.unwrap();
    operator.delete_stream(ADVISORY_STREAM).await.unwrap();
    one.stop().await;

    // What comes then is heard alone. The second look is over when the third letter is written.
    for number in 2..4 {
        die_of(number).await;
        let letters = some_letters(&broker, number).await;
        let reasons = letters.iter().map(|letter| letter.letter.fault.as_ref().unwrap().reason.as_str());
        assert!(reasons.into_iter().all(|reason| reason == Reason::AttemptsExhausted.code()), "{letters:?}");
    }
    two.stop().await;
    some_letters(&broker, 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_word_that_cant_be_worked_off_keeps_no_other_waiting() {
    let broker = broker().await;
    let keeper = start_keeper(&broker).await;
    until_held(&broker).await;
    let operator = async_nats::jetstream::new(foreign::client(&broker, "operator").await);
    operator.delete_stream(ADVISORY_STREAM).await.unwrap();
    let mut config = operator.get_stream(DEAD_LETTER_STREAM).await.unwrap().cached_info().config.clone();
    config.max_message_size = 4096;
    operator.update_stream(config).await.unwrap();

    let sender = broker.connect("orders").await.unwrap();
    let worker = Worker::new(&broker, "mail", EVENTS).await;
    let die_of = async |number: usize, bytes: usize| {
        let event = OrderPlaced { placed_on: "x".repeat(bytes), ..order(number) };
        sender.publisher::<OrderPlaced>().publish(&event).id(number.to_string()).await.unwrap();
        die(&worker).await;
    };
    // Its letter is never taken. The second one is in the same look at the earliest, the third one in a later one.
    die_of(1, 8192).await;
    for number in 2..4 {
        die_of(number, 1).await;
        let letters = some_letters(&broker, number - 1).await;
        assert!(letters.iter().all(|letter| letter.letter.payload.len() < 4096));
    }
    keeper.stop().await;
}
