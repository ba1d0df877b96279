//! An event that leaves its stream while somebody has it in hand: the keeper waits for what becomes of it.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use async_nats::jetstream;
use mesh_core::{
    Context, Fault, clock::unix_ms, fault::Reason, operate::keeper::KeeperSettings, subject::ADVISORY_STREAM,
};
use mesh_tests::{
    TestBroker, eventually,
    foreign::{self, Worker},
    keeper::Running,
};
use prost::Message as _;
use shop_proto::shop::orders::v1::OrderPlaced;
use tokio::sync::Notify;

use crate::{
    keeper::{EVENTS, broker, die, letters, settings, some_letters, until_read, until_read_by},
    shop::{consumer, order, orders},
};

const LEFT: &str = "position.advisory-left";
/// Longer than a busy machine takes for what a test does meanwhile.
const REST: Duration = Duration::from_secs(10);

async fn start_keeper(broker: &TestBroker) -> Running {
    Running::start(broker, KeeperSettings { left_rest: REST, ..settings() }).await.unwrap()
}

async fn admin(broker: &TestBroker) -> jetstream::Context {
    jetstream::new(foreign::client(broker, "operator").await)
}

async fn publish(broker: &TestBroker, number: usize) {
    let sender = broker.connect("orders").await.unwrap();
    sender.publisher::<OrderPlaced>().publish(&order(number)).id(number.to_string()).await.unwrap();
    sender.drain().await;
}

/// Has a worker take the first event, and deletes it then. Its word is said after the moment that is returned.
async fn delete_in_hand(broker: &TestBroker) -> i64 {
    publish(broker, 1).await;
    Worker::new(broker, "mail", EVENTS).await.pull().await;
    let before_ms = unix_ms(SystemTime::now());
    admin(broker).await.get_stream(EVENTS.0).await.unwrap().delete_message(1).await.unwrap();
    before_ms
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_grows_too_old_in_its_handler_and_is_refused_there_is_one_letter() {
    let broker = TestBroker::start(&[orders(), consumer("mail", "confirm")]).await.unwrap();
    let admin = admin(&broker).await;
    let mut config = admin.get_stream(EVENTS.0).await.unwrap().cached_info().config.clone();
    (config.max_age, config.duplicate_window) = (Duration::from_secs(2), Duration::from_secs(2));
    admin.update_stream(config).await.unwrap();
    let (mail, may_end) = (broker.connect("mail").await.unwrap(), Arc::new(Notify::new()));
    let until_it_may = Arc::clone(&may_end);
    let handler = move |_cx: Context, _event: OrderPlaced| {
        let may_end = Arc::clone(&until_it_may);
        async move {
            may_end.notified().await;
            Err(Fault::invalid("no such warehouse"))
        }
    };
    mail.consumer::<OrderPlaced>("confirm").start(handler).await.unwrap();
    let running = start_keeper(&broker).await;
    publish(&broker, 1).await;
    // The broker has said that it left, and a keeper that does not wait has made its letter.
    until_read(&broker).await;
    may_end.notify_one();
    let letter = eventually("the handler's letter", || async {
        let mut letters = letters(&broker).await;
        assert!(letters.len() <= 1, "{letters:?}");
        letters.pop().filter(|letter| !letter.letter.payload.is_empty())
    })
    .await;
    assert_eq!(letter.letter.fault.as_ref().unwrap().reason, Reason::HandlerRefused.code());
    assert_eq!(letter.letter.payload, order(1).encode_to_vec());

    until_read_by(&broker, LEFT).await;
    running.stop().await;
    assert_eq!(some_letters(&broker, 1).await, [letter]);
    mail.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rest_goes_on_with_the_next_keeper_and_holds_up_no_other_word() {
    let broker = broker().await;
    let running = start_keeper(&broker).await;
    let before_ms = delete_in_hand(&broker).await;
    publish(&broker, 2).await;
    die(&Worker::new(&broker, "mail", EVENTS).await).await;
    let other = some_letters(&broker, 1).await.remove(0);
    assert_eq!(other.letter.fault.unwrap().reason, Reason::AttemptsExhausted.code());
    until_read(&broker).await;
    running.stop().await;

    let running = start_keeper(&broker).await;
    let letters = some_letters(&broker, 2).await;
    let lost = letters.into_iter().find(|letter| letter.letter.payload.is_empty()).unwrap().letter;
    let fault: Fault = lost.fault.unwrap().into();
    assert_eq!(fault.reason(), Reason::MessageLost);
    assert!(fault.message().contains("it may have been handled"), "{fault}");
    assert!(lost.captured_at_ms - before_ms >= 10_000, "the word rested: {} ms", lost.captured_at_ms - before_ms);
    until_read_by(&broker, LEFT).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_only_heard_rests_too() {
    let broker = broker().await;
    let running = start_keeper(&broker).await;
    let operator = admin(&broker).await;
    // One word first: then it is sure that the keeper is at work and hears.
    publish(&broker, 1).await;
    die(&Worker::new(&broker, "mail", EVENTS).await).await;
    some_letters(&broker, 1).await;
    operator.delete_stream(ADVISORY_STREAM).await.unwrap();
    publish(&broker, 2).await;
    Worker::new(&broker, "mail", EVENTS).await.pull().await;
    let before_ms = unix_ms(SystemTime::now());
    operator.get_stream(EVENTS.0).await.unwrap().delete_message(2).await.unwrap();
    let letters = some_letters(&broker, 2).await;
    let lost = letters.into_iter().find(|letter| letter.letter.payload.is_empty()).unwrap().letter;
    assert_eq!(lost.fault.unwrap().reason, Reason::MessageLost.code());
    assert!(lost.captured_at_ms - before_ms >= 10_000, "the word rested: {} ms", lost.captured_at_ms - before_ms);
    running.stop().await;
}
