//! The three verbs over a real broker: publish and consume, call, enqueue.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use futures_util::StreamExt as _;
use mesh_core::{
    Context, Fault,
    bus::StreamLimits,
    fault::{Code, Effect, Reason},
};
use mesh_tests::{Seen, TestBroker, eventually, seen::notes};
use shop_proto::shop::{
    orders::v1::OrderPlaced,
    payments::v1::{PaymentsClient, PaymentsServer},
};

use crate::shop::{Bank, bank, charge_of, consumer, declaration, order, orders, till};

async fn publish_many(broker: &TestBroker, count: usize) -> BTreeSet<String> {
    let mesh = broker.connect("orders").await.unwrap();
    let publisher = mesh.publisher::<OrderPlaced>();
    let events = futures_util::stream::iter((1..=count).map(|n| (n.to_string(), order(n))));
    let results: Vec<_> = publisher.publish_all(events, 256).collect().await;
    for (id, result) in &results {
        let receipt = result.as_ref().unwrap();
        assert!(!receipt.duplicate, "{id}");
        assert_eq!(receipt.message_id, format!("orders/shop.orders.v1.OrderPlaced/{id}"));
    }
    mesh.drain().await;
    results.into_iter().map(|(id, _)| id).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_published_is_consumed_by_every_consumer_once() {
    let broker =
        TestBroker::start(&[orders(), consumer("payments", "charge"), consumer("mail", "confirm")]).await.unwrap();
    let mut seen = Vec::new();
    for (service, name) in [("payments", "charge"), ("mail", "confirm")] {
        let mesh = broker.connect(service).await.unwrap();
        let ids = Seen::default();
        mesh.consumer::<OrderPlaced>(name).start(notes(&ids)).await.unwrap();
        seen.push((mesh, ids));
    }
    let published = publish_many(&broker, 2000).await;
    for (mesh, ids) in seen {
        eventually("2,000 events", || async { (ids.lock().await.len() >= 2000).then_some(()) }).await;
        mesh.drain().await;
        let ids = ids.lock().await;
        assert_eq!(ids.len(), 2000, "each once");
        assert_eq!(ids.iter().cloned().collect::<BTreeSet<_>>(), published);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_id_again_stores_nothing_again() {
    let broker = TestBroker::start(&[orders()]).await.unwrap();
    let mesh = broker.connect("orders").await.unwrap();
    let publisher = mesh.publisher::<OrderPlaced>();
    let first = publisher.publish(&order(1)).id("1").await.unwrap();
    let second = publisher.publish(&order(1)).id("1").await.unwrap();
    assert_eq!((first.duplicate, second.duplicate, first.sequence), (false, true, second.sequence));
    // A batch with a member that is there already falls back, and every caller gets its own result.
    let all: Vec<_> =
        futures_util::future::join_all((1..=200).map(|n| publisher.publish(&order(n)).id(n.to_string()).into_future()))
            .await;
    assert_eq!(all.iter().filter(|r| r.as_ref().unwrap().duplicate).count(), 1);
    let state = mesh_state(&broker, "mesh1-event-orders").await;
    assert_eq!(state, 200);
}

async fn mesh_state(broker: &TestBroker, stream: &str) -> u64 {
    let operator = broker.connect("operator").await.unwrap();
    operator.bus().stream_state(stream).await.unwrap().unwrap().messages
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operation_is_called_and_enqueued_with_one_handler() {
    let broker = TestBroker::start(&[till(), bank()]).await.unwrap();
    let (till, bank) = (broker.connect("till").await.unwrap(), broker.connect("bank").await.unwrap());
    let client = PaymentsClient::new(&till);

    // Nobody serves it yet: known at once, and surely nothing happened.
    let started = std::time::Instant::now();
    let fault = client.charge().call(&charge_of(1, 100)).timeout(Duration::from_secs(20)).await.unwrap_err();
    assert_eq!((fault.reason(), fault.effect()), (Reason::NobodyAnswers, Effect::None));
    assert!(started.elapsed() < Duration::from_secs(5), "at once, not at the deadline");

    // Queued before anybody serves it: done when somebody does.
    client.charge().enqueue(&charge_of(2, 100)).id("2").await.unwrap();
    let books = Bank::default();
    bank.serve(PaymentsServer::new(books.clone())).start().await.unwrap();

    let reply = client.charge().call(&charge_of(1, 100)).await.unwrap();
    assert_eq!((reply.charge_id.as_str(), reply.status.as_str()), ("ch_1", "till"), "the caller is who connected");
    eventually("the queued charge", || async {
        let keys = books.0.lock().await;
        keys.contains(&"till/shop.payments.v1.Payments.Charge/2".to_owned()).then_some(())
    })
    .await;

    let fault = client.charge().call(&charge_of(3, 0)).await.unwrap_err();
    assert_eq!((fault.code(), fault.effect()), (Code::InvalidArgument, Effect::None));
    assert_eq!(fault.origin().service, "bank");
    let fault = client.charge().call(&charge_of(4, 13)).await.unwrap_err();
    assert_eq!((fault.reason(), fault.effect()), (Reason::HandlerPanicked, Effect::Unknown));
    // The one that panicked took nobody with it.
    assert!(client.charge().call(&charge_of(5, 100)).await.is_ok());

    bank.drain().await;
    let fault = client.charge().call(&charge_of(6, 100)).await.unwrap_err();
    assert_eq!(fault.reason(), Reason::NobodyAnswers, "a service that drained answers no more");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_handler_runs_once_though_its_lease_is_short() {
    let limits = StreamLimits { ack_wait: Duration::from_millis(600), ..StreamLimits::default() };
    let broker = TestBroker::with(&[orders(), consumer("slow", "work")], true, &limits).await.unwrap();
    let mesh = broker.connect("slow").await.unwrap();
    let (seen, release) = (Seen::default(), Arc::new(tokio::sync::Notify::new()));
    let (into, gate) = (Arc::clone(&seen), Arc::clone(&release));
    let handler = move |_cx: Context, event: OrderPlaced| {
        let (into, gate) = (Arc::clone(&into), Arc::clone(&gate));
        async move {
            into.lock().await.push(event.order_id);
            gate.notified().await;
            Ok(())
        }
    };
    let settings = mesh_core::consume::ConsumerSettings { ack_wait: limits.ack_wait, ..Default::default() };
    mesh.consumer::<OrderPlaced>("work").settings(settings).start(handler).await.unwrap();
    publish_many(&broker, 1).await;
    eventually("the handler", || async { (seen.lock().await.len() == 1).then_some(()) }).await;
    // Five leases long: the broker's own clock has to pass, so this waits for its redeliveries instead of a time.
    let operator = broker.connect("operator").await.unwrap();
    let started = tokio::time::Instant::now();
    eventually("five leases", || async {
        let state = operator.bus().consumer_state("mesh1-event-orders", "slow_work").await.unwrap().unwrap();
        assert_eq!(state.in_flight, 1, "it stays with the one that handles it");
        (started.elapsed() > 5 * limits.ack_wait).then_some(())
    })
    .await;
    release.notify_one();
    mesh.drain().await;
    assert_eq!(*seen.lock().await, ["1"], "handled once");
    let state = operator.bus().consumer_state("mesh1-event-orders", "slow_work").await.unwrap().unwrap();
    assert_eq!((state.in_flight, state.pending), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_begun_when_a_service_drains_goes_to_its_other_replica() {
    let broker = TestBroker::start(&[orders(), consumer("mail", "confirm")]).await.unwrap();
    publish_many(&broker, 300).await;
    let seen = Seen::default();
    let handler = |into: &Seen| {
        let into = Arc::clone(into);
        move |_cx: Context, event: OrderPlaced| {
            let into = Arc::clone(&into);
            async move {
                into.lock().await.push(event.order_id);
                tokio::task::yield_now().await;
                Ok::<(), Fault>(())
            }
        }
    };
    let first = broker.connect("mail").await.unwrap();
    first.consumer::<OrderPlaced>("confirm").concurrency(2).start(handler(&seen)).await.unwrap();
    eventually("some", || async { (!seen.lock().await.is_empty()).then_some(()) }).await;
    first.drain().await;
    let second = broker.connect("mail").await.unwrap();
    second.consumer::<OrderPlaced>("confirm").start(handler(&seen)).await.unwrap();
    eventually("all", || async {
        let ids: BTreeSet<_> = seen.lock().await.iter().cloned().collect();
        (ids.len() == 300).then_some(())
    })
    .await;
    second.drain().await;
    assert_eq!(seen.lock().await.len(), 300, "each once, through the drain");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_killed_and_comes_back_loses_nothing() {
    let mut broker = TestBroker::start(&[orders(), consumer("mail", "confirm")]).await.unwrap();
    let mesh = broker.connect("mail").await.unwrap();
    let seen = Seen::default();
    mesh.consumer::<OrderPlaced>("confirm").start(notes(&seen)).await.unwrap();
    let sender = broker.connect("orders").await.unwrap();
    let publisher = sender.publisher::<OrderPlaced>();
    let events = futures_util::stream::iter((1..=3000).map(|n| (n.to_string(), order(n))));
    let publishing = publisher.publish_all(events, 64).collect::<Vec<_>>();
    let killing = async {
        eventually("some", || async { (seen.lock().await.len() > 200).then_some(()) }).await;
        broker.server.kill9().await.unwrap();
        broker.server.restart().await.unwrap();
    };
    let (results, ()) = tokio::join!(publishing, killing);
    assert!(results.iter().all(|(_, result)| result.is_ok()), "each is stored in the end");
    eventually("all", || async {
        let ids: BTreeSet<_> = seen.lock().await.iter().cloned().collect();
        (ids.len() == 3000).then_some(())
    })
    .await;
    assert_eq!(mesh_state(&broker, "mesh1-event-orders").await, 3000, "stored once each");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_without_a_consumer_is_told_so() {
    let broker = TestBroker::start(&[orders(), declaration("mail")]).await.unwrap();
    let mesh = broker.connect("mail").await.unwrap();
    let handler = |_cx: Context, _event: OrderPlaced| async { Ok(()) };
    let fault = mesh.consumer::<OrderPlaced>("confirm").start(handler).await.unwrap_err();
    assert!(matches!(fault.reason(), Reason::ConsumerMissing | Reason::AccessDenied), "{fault}");
}
