//! Events that left their stream: which of them are lost, and which are not, is found out by who has them in hand, by the lane and
//! by the letters.

use std::{sync::Arc, time::Duration};

use async_nats::jetstream;
use futures_util::StreamExt as _;
use mesh_core::{
    Context, Fault, bus::StreamLimits, consume::ConsumerSettings, fault::Reason, subject::DEAD_LETTER_STREAM,
};
use mesh_tests::{
    TestBroker, eventually,
    foreign::{self, Worker},
};
use prost::Message as _;
use shop_proto::shop::orders::v1::OrderPlaced;
use tokio::sync::Notify;

use crate::{
    keeper::{EVENTS, LANE, broker, die, letters, some_letters, start_keeper, until_read, until_read_by},
    shop::{consumer, order, orders},
};

const LEFT: &str = "position.advisory-left";
/// As the consumers are made: long enough for a busy machine to say in time that it is at work.
const ACK_WAIT: Duration = Duration::from_secs(6);
const STOCK: (&str, &str) = ("mesh1-event-orders", "stock_count");

async fn two_consumers() -> TestBroker {
    let declared = [orders(), consumer("mail", "confirm"), consumer("stock", "count")];
    let limits = StreamLimits { ack_wait: ACK_WAIT, ..StreamLimits::default() };
    TestBroker::with(&declared, true, &limits).await.unwrap()
}

fn one_at_a_time() -> ConsumerSettings {
    ConsumerSettings { ack_wait: ACK_WAIT, concurrency: 1, prefetch: 0, ..ConsumerSettings::default() }
}

async fn admin(broker: &TestBroker) -> jetstream::Context {
    jetstream::new(foreign::client(broker, "operator").await)
}

async fn publish(broker: &TestBroker, number: usize) {
    let sender = broker.connect("orders").await.unwrap();
    sender.publisher::<OrderPlaced>().publish(&order(number)).id(number.to_string()).await.unwrap();
    sender.drain().await;
}

async fn delete(broker: &TestBroker, sequence: u64) {
    admin(broker).await.get_stream(EVENTS.0).await.unwrap().delete_message(sequence).await.unwrap();
}

/// Deletes a second event in the hands of somebody who says nothing more of it: it is lost, and said so after what left before.
async fn lose_another(broker: &TestBroker) {
    publish(broker, 2).await;
    Worker::new(broker, "stock", STOCK).await.pull().await;
    delete(broker, 2).await;
}

/// The letter of [`lose_another`], and no other.
async fn only_the_other_is_lost(broker: &TestBroker) {
    let other = some_letters(broker, 1).await.remove(0).letter;
    let fault: Fault = other.fault.unwrap().into();
    assert_eq!((other.service.as_str(), fault.reason()), ("stock", Reason::MessageLost), "{fault}");
    assert!(fault.message().contains("message 2 of"), "{fault}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_is_no_loss_as_long_as_its_handler_is_at_work_nor_once_it_was_settled() {
    for is_refused in [true, false] {
        let broker = two_consumers().await;
        let (mail, began, may_end) =
            (broker.connect("mail").await.unwrap(), Arc::new(Notify::new()), Arc::new(Notify::new()));
        let of_handler = (Arc::clone(&began), Arc::clone(&may_end));
        let handler = move |_cx: Context, event: OrderPlaced| {
            let (began, may_end) = of_handler.clone();
            async move {
                if event.order_id == "1" {
                    began.notify_one();
                    may_end.notified().await;
                }
                if is_refused { Err(Fault::invalid("no such warehouse")) } else { Ok(()) }
            }
        };
        mail.consumer::<OrderPlaced>("confirm").settings(one_at_a_time()).start(handler).await.unwrap();
        let keeper = start_keeper(&broker).await;
        publish(&broker, 1).await;
        began.notified().await;
        delete(&broker, 1).await;
        lose_another(&broker).await;
        // The word of the first is older, and has rested for longer.
        only_the_other_is_lost(&broker).await;
        may_end.notify_one();
        until_read_by(&broker, LEFT).await;
        keeper.stop().await;
        mail.drain().await;
        let of_mail: Vec<_> = letters(&broker).await.into_iter().filter(|it| it.letter.service == "mail").collect();
        assert_eq!(of_mail.len(), usize::from(is_refused), "{of_mail:?}");
        for letter in of_mail {
            assert_eq!(letter.letter.fault.unwrap().reason, Reason::HandlerRefused.code());
            assert_eq!(letter.letter.payload, order(1).encode_to_vec());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_whose_copy_waits_on_its_lane_is_no_loss() {
    // The copy of the original, and the copy of a copy: they wait under different names.
    for attempts in [1, 2] {
        let broker = two_consumers().await;
        let (mail, began, may_end) =
            (broker.connect("mail").await.unwrap(), Arc::new(Notify::new()), Arc::new(Notify::new()));
        let of_handler = (Arc::clone(&began), Arc::clone(&may_end));
        let handler = move |cx: Context, _event: OrderPlaced| {
            let (began, may_end) = of_handler.clone();
            async move {
                if cx.attempt() == 1 {
                    began.notify_one();
                    may_end.notified().await;
                }
                let later = Duration::from_secs(if cx.attempt() < attempts { 3 } else { 3600 });
                Err(Fault::unavailable("closed").with_retry_after(later))
            }
        };
        mail.consumer::<OrderPlaced>("confirm").settings(one_at_a_time()).start(handler).await.unwrap();
        publish(&broker, 1).await;
        began.notified().await;
        // Nobody listens meanwhile: a keeper comes later, and finds it out.
        delete(&broker, 1).await;
        may_end.notify_one();
        let lane = admin(&broker).await.get_stream(LANE.0).await.unwrap();
        eventually("the copy that waits", || async {
            let copy = lane.get_last_raw_message_by_subject("mesh1.lane.local.mail.confirm.hold.*").await.ok()?;
            let note = copy.headers.get("mesh").unwrap().to_string();
            note.contains(&format!("a={};", attempts + 1)).then_some(())
        })
        .await;
        mail.drain().await;
        lose_another(&broker).await;
        let keeper = start_keeper(&broker).await;
        only_the_other_is_lost(&broker).await;
        until_read_by(&broker, LEFT).await;
        keeper.stop().await;
        only_the_other_is_lost(&broker).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_letters_of_a_consumer_are_read_once_for_many_words() {
    const WORDS: u64 = 60;
    let broker = broker().await;
    let keeper = start_keeper(&broker).await;
    // A letter, so that there is something to be read.
    publish(&broker, 1).await;
    let worker = Worker::new(&broker, "mail", EVENTS).await;
    die(&worker).await;
    some_letters(&broker, 1).await;
    until_read(&broker).await;
    keeper.stop().await;
    for number in 2..WORDS + 2 {
        publish(&broker, usize::try_from(number).unwrap()).await;
    }
    let in_hand = worker.ask(usize::try_from(WORDS).unwrap(), 30).await;
    assert_eq!(in_hand.take(usize::try_from(WORDS).unwrap()).count().await as u64, WORDS);
    for sequence in 2..WORDS + 2 {
        delete(&broker, sequence).await;
    }
    let operator = foreign::client(&broker, "operator").await;
    let made = format!("$JS.EVENT.ADVISORY.CONSUMER.CREATED.{DEAD_LETTER_STREAM}.>");
    let mut readers = operator.subscribe(made).await.unwrap();
    // A round trip: it is known at the broker. The same at the end: what was said before has come.
    let context = jetstream::new(operator.clone());
    context.get_stream(DEAD_LETTER_STREAM).await.unwrap();

    let keeper = start_keeper(&broker).await;
    until_read_by(&broker, LEFT).await;
    keeper.stop().await;
    context.get_stream(DEAD_LETTER_STREAM).await.unwrap();
    readers.unsubscribe().await.unwrap();
    let read = readers.count().await;
    assert_eq!(letters(&broker).await.len() as u64, WORDS + 1);
    // The index has a reader of its own, and a word that comes a moment later one more.
    assert!((2..10).contains(&read), "{read} times for {WORDS} words");
}
