//! A broker that forgets what it delivered delivers it again while it is being handled. It is handled once all the same.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_nats::jetstream;
use mesh_core::{
    Context, Fault, bus::StreamLimits, consume::ConsumerSettings, contract::Repeat, policy::compile::Declaration,
};
use mesh_tests::{Seen, TestBroker, charges::Charges, eventually, foreign};
use shop_proto::shop::{orders::v1::OrderPlaced, payments::v1::PaymentsClient};
use tokio::sync::watch;

use crate::{
    inbox::{BANKS_WORK, letters, settled},
    shop::{bank, charge_of, consumer, order, orders, till},
};

const COUNT: usize = 40;

/// A lease that does not run out while the test looks.
fn settings() -> ConsumerSettings {
    ConsumerSettings { concurrency: COUNT, prefetch: 8, ..ConsumerSettings::default() }
}

/// The consumer is made anew: nothing is left of what it delivered, as after a crash of the broker.
async fn forget(broker: &TestBroker, declarations: &[Declaration], (stream, durable): (&str, &str)) {
    let admin = jetstream::new(foreign::client(broker, "operator").await);
    admin.get_stream(stream).await.unwrap().delete_consumer(durable).await.unwrap();
    broker.apply(declarations, &StreamLimits::default()).await.unwrap();
}

async fn in_flight(broker: &TestBroker, (stream, durable): (&str, &str)) -> u64 {
    let operator = broker.connect("operator").await.unwrap();
    let state = operator.bus().consumer_state(stream, durable).await.unwrap();
    operator.drain().await;
    state.map_or(0, |state| state.in_flight)
}

async fn at_rest(broker: &TestBroker, place: (&str, &str)) {
    settled(broker, place).await;
    let letters = letters(broker).await;
    assert!(letters.is_empty(), "{letters:?}");
}

async fn delivered_again(broker: &TestBroker, place: (&str, &str)) {
    eventually("all delivered again", || async { (in_flight(broker, place).await == COUNT as u64).then_some(()) })
        .await;
}

async fn until_open(mut gate: watch::Receiver<bool>) -> Result<(), Fault> {
    gate.wait_for(|is_open| *is_open).await.map(drop).map_err(|_| Fault::unavailable("the test has ended"))
}

async fn assert_each_once(seen: &Seen) {
    let mut times = BTreeMap::new();
    seen.lock().await.iter().for_each(|id| *times.entry(id.clone()).or_insert(0) += 1);
    assert_eq!(times.len(), COUNT, "none is lost");
    assert!(times.values().all(|times| *times == 1), "{times:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_again_while_it_is_in_hand_waits_for_what_is_written_down() {
    let declarations = [orders(), consumer("mail", "confirm")];
    let broker = TestBroker::with(&declarations, true, &StreamLimits::default()).await.unwrap();
    let place = ("mesh1-event-orders", "mail_confirm");
    let (seen, (open, gate)) = (Seen::default(), watch::channel(false));
    let mesh = broker.connect("mail").await.unwrap();
    let into = Arc::clone(&seen);
    let handler = move |_cx: Context, event: OrderPlaced| {
        let (into, gate) = (Arc::clone(&into), gate.clone());
        async move {
            into.lock().await.push(event.order_id);
            until_open(gate).await
        }
    };
    // Twice as many places, so that what comes again gets one.
    let settings = ConsumerSettings { concurrency: 2 * COUNT, ..settings() };
    let confirm = mesh.consumer::<OrderPlaced>("confirm").settings(settings);
    confirm.inbox(Duration::from_secs(3600)).start(handler).await.unwrap();
    let sender = broker.connect("orders").await.unwrap();
    let publisher = sender.publisher::<OrderPlaced>();
    for number in 1..=COUNT {
        publisher.publish(&order(number)).id(number.to_string()).await.unwrap();
    }
    eventually("all begun", || async { (seen.lock().await.len() == COUNT).then_some(()) }).await;
    forget(&broker, &declarations, place).await;
    delivered_again(&broker, place).await;
    open.send_replace(true);
    at_rest(&broker, place).await;
    assert_each_once(&seen).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_process_does_not_park_what_the_first_is_about_to_finish() {
    let declarations = [till(), bank()];
    let broker = TestBroker::with(&declarations, true, &StreamLimits::default()).await.unwrap();
    let place = BANKS_WORK;
    let (seen, (open, gate)) = (Seen::default(), watch::channel(false));
    // They may not be repeated blindly, and end when they are told to.
    let careful = || {
        let gate = gate.clone();
        Charges::new(Repeat::Once, &seen, move |_| until_open(gate.clone()))
    };
    let first = broker.connect("bank").await.unwrap();
    first.serve(careful()).calls(false).settings(settings()).start().await.unwrap();
    let sender = broker.connect("till").await.unwrap();
    let charge = PaymentsClient::new(&sender).charge();
    for number in 1..=COUNT {
        charge.enqueue(&charge_of(number, 100)).id(number.to_string()).await.unwrap();
    }
    eventually("all begun", || async { (seen.lock().await.len() == COUNT).then_some(()) }).await;
    // The first has no place left: nearly all that comes again goes to the second.
    let second = broker.connect("bank").await.unwrap();
    second.serve(careful()).calls(false).settings(settings()).start().await.unwrap();
    forget(&broker, &declarations, place).await;
    delivered_again(&broker, place).await;
    open.send_replace(true);
    at_rest(&broker, place).await;
    assert_each_once(&seen).await;
}
