//! A target that is down delays nobody else on the same consumer, whether it refuses or hangs.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::StreamExt as _;
use mesh_core::{
    Context, Fault, Mesh,
    bus::{StreamLimits, StreamState},
    consume::ConsumerSettings,
    fault::{Code, Effect, Reason},
    operate::letters::{self, Selector},
    policy::{budget::BudgetRule, isolation::IsolationRule, retry::RetryRule},
    subject,
};
use mesh_tests::{Seen, TestBroker, eventually};
use shop_proto::shop::orders::v1::OrderPlaced;
use tokio::sync::watch;

use crate::{
    inbox::settled,
    shop::{consumer, order, orders},
};

const COUNT: usize = 600;

/// How the target is that is down.
#[derive(Clone, Copy, PartialEq)]
enum Down {
    Refuses,
    Hangs,
}

/// Customer 0 is the target that is down until `mended`; the other six are healthy.
/// `refused` counts what it was asked in vain.
async fn consume(mesh: &Mesh, down: Down, seen: &Seen, (mended, refused): (watch::Receiver<bool>, &Arc<AtomicUsize>)) {
    let (into, refused) = (Arc::clone(seen), Arc::clone(refused));
    let handler = move |_cx: Context, event: OrderPlaced| {
        let (into, mut mended, refused) = (Arc::clone(&into), mended.clone(), Arc::clone(&refused));
        async move {
            if event.customer_id == "0" && !*mended.borrow_and_update() {
                refused.fetch_add(1, Ordering::Relaxed);
                if down == Down::Refuses {
                    return Err(Fault::unavailable("the warehouse is closed"));
                }
                let _ = mended.changed().await;
            }
            into.lock().await.push(event.order_id);
            Ok(())
        }
    };
    let settings = ConsumerSettings {
        concurrency: 16,
        prefetch: 16,
        retry: RetryRule {
            max_attempts: 1000,
            base: Duration::from_millis(50),
            cap: Duration::from_millis(400),
            ..RetryRule::default()
        },
        ..ConsumerSettings::default()
    };
    let consumer = mesh.consumer::<OrderPlaced>("ship").settings(settings);
    consumer.isolate_by(|event: &OrderPlaced| event.customer_id.clone()).start(handler).await.unwrap();
}

async fn one_target_is_down(down: Down) {
    let limits = StreamLimits { max_ack_pending: 64, ..StreamLimits::default() };
    let broker = TestBroker::with(&[orders(), consumer("depot", "ship")], true, &limits).await.unwrap();
    let sender = broker.connect("orders").await.unwrap();
    // Every second order is for the target that is down: far more than the consumer has places.
    let number = |n: usize| if n.is_multiple_of(2) { n * 7 } else { n * 7 + 1 + n % 6 };
    let events = futures_util::stream::iter((1..=COUNT).map(|n| (n.to_string(), order(number(n)))));
    let results: Vec<_> = sender.publisher::<OrderPlaced>().publish_all(events, 64).collect().await;
    assert!(results.iter().all(|(_, result)| result.is_ok()));

    let (seen, (mend, mended)) = (Seen::default(), watch::channel(false));
    let mesh = broker.connect("depot").await.unwrap();
    consume(&mesh, down, &seen, (mended, &Arc::default())).await;
    eventually("every healthy one", || async { (seen.lock().await.len() == COUNT / 2).then_some(()) }).await;
    assert!(seen.lock().await.iter().all(|id| id.parse::<usize>().unwrap() % 7 != 0));

    mend.send_replace(true);
    eventually("the others, once it is mended", || async { (seen.lock().await.len() >= COUNT).then_some(()) }).await;
    let operator = broker.connect("operator").await.unwrap();
    assert!(letters::list(operator.bus(), &Selector::default()).await.unwrap().letters.is_empty());
    mesh.drain().await;
    let mut ids = seen.lock().await.clone();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), COUNT);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_refuses_delays_no_other() {
    one_target_is_down(Down::Refuses).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_hangs_delays_no_other() {
    one_target_is_down(Down::Hangs).await;
}

async fn lane(operator: &Mesh) -> StreamState {
    operator.bus().stream_state(&subject::lane_stream("depot")).await.unwrap().unwrap()
}

/// Sends so many to the target that is down, until nearly all were put aside.
async fn all_aside(broker: &TestBroker, operator: &Mesh) {
    let sender = broker.connect("orders").await.unwrap();
    let events = futures_util::stream::iter((1..=COUNT).map(|n| (n.to_string(), order(n * 7))));
    sender.publisher::<OrderPlaced>().publish_all(events, 64).collect::<Vec<_>>().await;
    let most = COUNT as u64 - 32;
    eventually("nearly all on the lane", || async { (lane(operator).await.messages >= most).then_some(()) }).await;
}

async fn each_once(seen: &Seen) {
    let mut ids = seen.lock().await.clone();
    ids.sort();
    ids.dedup();
    assert_eq!((ids.len(), seen.lock().await.len()), (COUNT, COUNT), "each once");
}

/// The process that put aside is one of three, and most answers go to the others.
#[tokio::test(flavor = "multi_thread")]
async fn what_one_process_put_aside_comes_back_though_others_get_the_answers() {
    let broker = TestBroker::start(&[orders(), consumer("depot", "ship")]).await.unwrap();
    let (seen, (mend, mended), refused) = (Seen::default(), watch::channel(false), Arc::default());
    let mut meshes = vec![broker.connect("depot").await.unwrap()];
    consume(&meshes[0], Down::Refuses, &seen, (mended.clone(), &refused)).await;
    let operator = broker.connect("operator").await.unwrap();
    all_aside(&broker, &operator).await;
    for _ in 0..2 {
        let mesh = broker.connect("depot").await.unwrap();
        consume(&mesh, Down::Refuses, &seen, (mended.clone(), &refused)).await;
        meshes.push(mesh);
    }
    mend.send_replace(true);
    eventually("all of them, once it is mended", || async { (seen.lock().await.len() >= COUNT).then_some(()) }).await;
    for mesh in meshes {
        mesh.drain().await;
    }
    each_once(&seen).await;
}

/// What is put aside comes back by itself after two minutes, which is longer than `eventually` waits: so it was called.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_put_aside_is_called_back_by_the_answers_of_its_target_and_not_in_vain() {
    let broker = TestBroker::start(&[orders(), consumer("depot", "ship")]).await.unwrap();
    let (seen, (mend, mended), refused) = (Seen::default(), watch::channel(false), Arc::default());
    let mesh = broker.connect("depot").await.unwrap();
    consume(&mesh, Down::Refuses, &seen, (mended, &refused)).await;
    let operator = broker.connect("operator").await.unwrap();
    all_aside(&broker, &operator).await;
    let lane = async || lane(&operator).await;
    // Probes that fail bring none of the others back. Those that were tried, sixteen at most, come back for each: two writes.
    let (probed, written) = (refused.load(Ordering::Relaxed), lane().await.last_sequence);
    eventually("some more probes", || async { (refused.load(Ordering::Relaxed) >= probed + 2).then_some(()) }).await;
    let written = lane().await.last_sequence - written;
    assert!(written < 200, "{written} writes while nothing is to come back");

    mend.send_replace(true);
    eventually("all of them, once it is mended", || async { (seen.lock().await.len() >= COUNT).then_some(()) }).await;
    // Each was written when it was put aside, when it was called, and when it was due; few of them twice.
    let written = lane().await.last_sequence;
    assert!(written < 4 * COUNT as u64, "{written} writes for {COUNT} events");
    mesh.drain().await;
    each_once(&seen).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_a_target_that_is_down_becomes_a_letter_when_it_is_too_old() {
    let broker = TestBroker::start(&[orders(), consumer("depot", "ship")]).await.unwrap();
    let mesh = broker.connect("depot").await.unwrap();
    let handler = |_cx: Context, _event: OrderPlaced| async { Err(Fault::unavailable("the warehouse is closed")) };
    let retry = RetryRule {
        max_attempts: 1000,
        base: Duration::from_millis(20),
        cap: Duration::from_millis(200),
        max_age: Duration::from_secs(3),
    };
    let settings = ConsumerSettings { retry, ..ConsumerSettings::default() };
    let consumer = mesh.consumer::<OrderPlaced>("ship").settings(settings);
    consumer.isolate_by(|event: &OrderPlaced| event.customer_id.clone()).start(handler).await.unwrap();
    let sender = broker.connect("orders").await.unwrap();
    let events = futures_util::stream::iter((1..=100).map(|n| (n.to_string(), order(n * 7))));
    sender.publisher::<OrderPlaced>().publish_all(events, 64).collect::<Vec<_>>().await;
    let operator = broker.connect("operator").await.unwrap();
    eventually("a letter for each", || async {
        let letters = letters::list(operator.bus(), &Selector::default()).await.unwrap().letters;
        (letters.len() == 100).then_some(())
    })
    .await;
}

/// Order 1 fails twice, and there is budget for one retry. Of customer 0, the target is down after the first order: what waits
/// for it then is begun for the first time when it is up.
#[tokio::test(flavor = "multi_thread")]
async fn what_waited_for_its_target_pays_for_retries_when_it_is_begun() {
    let broker = TestBroker::start(&[orders(), consumer("depot", "ship")]).await.unwrap();
    let (seen, place) = (Seen::default(), ("mesh1-event-orders", "depot_ship"));
    let into = Arc::clone(&seen);
    let handler = move |cx: Context, event: OrderPlaced| {
        let into = Arc::clone(&into);
        async move {
            into.lock().await.push(event.order_id.clone());
            match (event.order_id.as_str(), cx.attempt()) {
                ("1", 1 | 2) => Err(Fault::new(Code::Aborted, Effect::None, Reason::HandlerRefused, "not now")),
                ("7", _) => Err(Fault::unavailable("closed").with_retry_after(Duration::from_secs(3600))),
                _ => Ok(()),
            }
        }
    };
    let short = Duration::from_millis(100);
    let pause = Duration::from_secs(6);
    let settings = ConsumerSettings {
        retry: RetryRule { base: short, cap: short, ..RetryRule::default() },
        retry_budget: BudgetRule { share: 0.5, floor_per_s: 0.0, burst: 1.0 },
        isolation: Some(IsolationRule { failures: 1, pause, max_pause: pause, ..IsolationRule::default() }),
        ..ConsumerSettings::default()
    };
    let mesh = broker.connect("depot").await.unwrap();
    let ship = mesh.consumer::<OrderPlaced>("ship").settings(settings);
    ship.isolate_by(|event: &OrderPlaced| event.customer_id.clone()).start(handler).await.unwrap();
    let sender = broker.connect("orders").await.unwrap();
    let publisher = sender.publisher::<OrderPlaced>();
    let begun = async |ids: &[&str]| {
        eventually("what is begun", || async { (*seen.lock().await == ids).then_some(()) }).await;
    };
    publisher.publish(&order(1)).id("1").await.unwrap();
    begun(&["1", "1"]).await;
    // It pays half a retry, and is settled after it is known that its target is down.
    publisher.publish(&order(7)).id("7").await.unwrap();
    begun(&["1", "1", "7"]).await;
    settled(&broker, place).await;
    publisher.publish(&order(14)).id("14").await.unwrap();
    // The other half.
    eventually("one more retry", || async { (seen.lock().await.len() == 5).then_some(()) }).await;
    mesh.drain().await;
    let mut seen = seen.lock().await.clone();
    seen.sort();
    assert_eq!(seen, ["1", "1", "1", "14", "7"]);
}
