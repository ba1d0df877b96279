//! What lies on a lane though nobody sees to it: settled, or given up. The broker's own count tells.

use async_nats::jetstream::consumer::{Config, PullConsumer};
use mesh_core::{
    dead_letter::Facts,
    delayed,
    proto::v1,
    subject::{ADVISORY_STREAM, KEEPER},
};
use mesh_tests::{
    TestBroker, eventually,
    foreign::{self, Worker},
};
use shop_proto::shop::orders::v1::OrderPlaced;

use crate::{
    keeper::{EVENTS, LANE, broker, die, lane, letters, lose_the_word_of, some_letters, start_keeper, until_empty},
    shop::order,
};

/// An event's copy on the lane, due.
async fn put_on_the_lane(broker: &TestBroker, number: usize) {
    let (sender, mail) = (broker.connect("orders").await.unwrap(), broker.connect("mail").await.unwrap());
    let id = number.to_string();
    let receipt = sender.publisher::<OrderPlaced>().publish(&order(number)).id(id).await.unwrap();
    let worker = Worker::new(broker, "mail", EVENTS).await;
    let keeper = broker.connect(KEEPER).await.unwrap();
    let delivery = worker.pull().await;
    let message = keeper.bus().message_at(EVENTS.0, receipt.sequence).await.unwrap().unwrap();
    let (lane, envelope) = (lane("mail", "confirm"), message.open().envelope);
    delayed::delay(mail.bus(), &lane, &envelope, (2, 1), &v1::Attempts::default()).await.unwrap();
    worker.client.request(delivery.reply.unwrap(), "+ACK".into()).await.unwrap();
    let due = "mesh1.lane.local.mail.confirm.due.>";
    eventually("the copy to be due", || async { keeper.bus().last_on(LANE.0, due).await.unwrap() }).await;
}

/// What a server leaves on a lane that kept an acknowledgement and lost the deletion. An event has no outcome that would tell.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_lane_keeps_of_a_settled_event_is_only_taken_away() {
    let broker = broker().await;
    let operator = async_nats::jetstream::new(foreign::client(&broker, "operator").await);
    let stream = operator.get_stream(LANE.0).await.unwrap();
    let consumer: PullConsumer = stream.get_consumer(LANE.1).await.unwrap();
    let config = consumer.cached_info().config.clone();
    // The copy is not the consumer's while it reads what lies behind it: so it lies where a lost deletion leaves it.
    let beside = "mesh1.lane.local.mail.confirm.due.15.orders";
    let elsewhere = Config { filter_subject: beside.into(), filter_subjects: Vec::new(), ..config.clone() };
    stream.create_consumer(elsewhere).await.unwrap();
    put_on_the_lane(&broker, 1).await;
    let worker = Worker::new(&broker, "mail", LANE).await;
    let mail = async_nats::jetstream::new(worker.client.clone());
    mail.publish(beside, "".into()).await.unwrap().await.unwrap();
    let behind = worker.pull().await;
    worker.client.request(behind.reply.unwrap(), "+ACK".into()).await.unwrap();
    stream.create_consumer(config).await.unwrap();
    let running = start_keeper(&broker).await;
    until_empty(&broker, LANE.0).await;
    running.stop().await;
    assert!(letters(&broker).await.is_empty());
}

/// The broker counts what it gave up for as long as it lies there, also when it was killed meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_lane_keeps_of_what_was_given_up_is_a_letter_though_the_word_is_lost() {
    let mut broker = broker().await;
    put_on_the_lane(&broker, 1).await;
    die(&Worker::new(&broker, "mail", LANE).await).await;
    lose_the_word_of(&broker, LANE).await;
    broker.server.kill9().await.unwrap();
    broker.server.restart().await.unwrap();
    // What it had not written down yet it delivers once more.
    let worker = Worker::new(&broker, "mail", LANE).await;
    let operator = async_nats::jetstream::new(foreign::client(&broker, "operator").await);
    let mut consumer: PullConsumer = operator.get_consumer_from_stream(LANE.1, LANE.0).await.unwrap();
    let given_up = async |consumer: &mut PullConsumer| {
        let info = consumer.info().await.unwrap();
        (info.num_ack_pending, info.num_redelivered) == (0, 1)
    };
    let mut asked = Vec::new();
    while !given_up(&mut consumer).await {
        asked.push(worker.ask(1, 1).await);
    }
    operator.get_stream(ADVISORY_STREAM).await.unwrap().purge().await.unwrap();
    let running = start_keeper(&broker).await;
    let letter = some_letters(&broker, 1).await.remove(0);
    assert!(Facts::of(&letter).is_parked(), "nobody knows whether it was handled: {letter:?}");
    until_empty(&broker, LANE.0).await;
    running.stop().await;
}
