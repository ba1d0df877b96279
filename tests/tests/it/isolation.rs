//! A target that is down delays nobody else on the same consumer, whether it refuses or hangs.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::StreamExt as _;
use mesh_core::{
    Context, Fault, Mesh,
    bus::{Stop, StreamLimits, StreamState},
    consume::ConsumerSettings,
    fault::{Code, Effect, Reason},
    operate::letters::{self, Selector},
    policy::{budget::BudgetRule, isolation::IsolationRule, retry::RetryRule},
    store::{Store, Written},
    subject,
};
use mesh_tests::{Seen, TestBroker, eventually, within};
use prost::Message as _;
use shop_proto::shop::orders::v1::OrderPlaced;
use tokio::sync::watch;

use crate::{
    inbox::settled,
    shop::{consumer, order, orders},
};

const COUNT: usize = 600;
/// After so long comes again what a process had in hand that was killed.
const ACK_WAIT: Duration = Duration::from_secs(3);

/// How the target is that is down.
#[derive(Clone, Copy, PartialEq)]
enum Down {
    Refuses,
    Hangs,
}

/// Customer 0 is the target that is down until `mended`; the other six are healthy.
/// `refused` counts what it was asked in vain.
async fn consume(mesh: &Mesh, down: Down, seen: &Seen, about: (watch::Receiver<bool>, &Arc<AtomicUsize>)) {
    consume_by(IsolationRule::default(), mesh, down, seen, about).await;
}

async fn consume_by(
    rule: IsolationRule,
    mesh: &Mesh,
    down: Down,
    seen: &Seen,
    (mended, refused): (watch::Receiver<bool>, &Arc<AtomicUsize>),
) {
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
        ack_wait: ACK_WAIT,
        isolation: Some(rule),
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

/// What is put aside comes back by itself after two minutes at the soonest, which is longer than `eventually` waits: so it was called.
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

/// A process of its own, as far as a runtime is one.
fn process() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

/// It ends in the middle of everything.
async fn kill(process: tokio::runtime::Runtime) {
    tokio::task::spawn_blocking(move || process.shutdown_timeout(Duration::from_secs(10))).await.unwrap();
}

/// The records of the holders: whose it is, and who wrote it.
async fn holders(operator: &Mesh) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let each = |record: mesh_core::gate::Unopened| {
        let envelope = record.open().envelope;
        let record = mesh_proto::v1::HolderRecord::decode(envelope.payload).unwrap();
        if !record.by.is_empty() {
            found.push((envelope.subject.rsplit('.').next().unwrap().to_owned(), record.by));
        }
        Stop::No
    };
    operator.bus().read("mesh1-store-depot", "mesh1.store.local.depot.holder.ship.*", each).await.unwrap();
    found
}

/// How many copies wait in the name of a holder.
async fn held_by(operator: &Mesh, holder: &str) -> usize {
    let (mut count, mut next) = (0, 1);
    let (stream, held) = (subject::lane_stream("depot"), "mesh1.lane.local.depot.ship.hold.*");
    while let Some(copy) = operator.bus().next_on(&stream, held, next).await.unwrap() {
        let copy = copy.open().envelope;
        count += usize::from(copy.header("mesh-holder") == Some(holder));
        next = copy.delivery.unwrap().sequence + 1;
    }
    count
}

/// The process that put everything aside is killed, and so is the one that calls it back, in the middle. By itself nothing comes
/// back for a quarter of an hour, but what was put aside before others knew of the process.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_process_put_aside_that_was_killed_is_called_back_by_others() {
    let limits = StreamLimits { ack_wait: ACK_WAIT, ..StreamLimits::default() };
    let broker = TestBroker::with(&[orders(), consumer("depot", "ship")], true, &limits).await.unwrap();
    let broker = Arc::new(broker);
    let operator = broker.connect("operator").await.unwrap();
    let (seen, (mend, mended), refused) = (Seen::default(), watch::channel(false), Arc::default());
    let (silent, aside_unknown) = (Duration::from_secs(2), Duration::from_secs(15));
    let begin = async |runtime: &tokio::runtime::Runtime| {
        let rule = IsolationRule { silent, aside_unknown, returns_per_s: 100, ..IsolationRule::default() };
        let (broker, seen, mended, refused) =
            (Arc::clone(&broker), Arc::clone(&seen), mended.clone(), Arc::clone(&refused));
        let begun = runtime.spawn(async move {
            let mesh = broker.connect("depot").await.unwrap();
            consume_by(rule, &mesh, Down::Refuses, &seen, (mended, &refused)).await;
            mesh
        });
        begun.await.unwrap()
    };
    let first = process();
    let _first = begin(&first).await;
    all_aside(&broker, &operator).await;
    let known = eventually("the process is known", || async { holders(&operator).await.pop() }).await;
    assert_eq!(known.0, known.1, "it wrote its own");
    kill(first).await;
    // What comes back is put aside again, and waits for the next process: the target is down still.
    let second = process();
    let _second = begin(&second).await;
    let is_taken = |records: Vec<(String, String)>| {
        let of_first = records.into_iter().find(|(holder, _)| *holder == known.0);
        of_first.is_some_and(|(_, by)| by != known.1).then_some(())
    };
    eventually("the second one takes it over", || async { is_taken(holders(&operator).await) }).await;
    kill(second).await;
    assert!(held_by(&operator, &known.0).await > 0, "it was killed in the middle");
    mend.send_replace(true);
    let third = process();
    let mesh = begin(&third).await;
    let distinct = async || seen.lock().await.iter().cloned().collect::<BTreeSet<_>>().len();
    within(Duration::from_secs(60), "all of them", || async { (distinct().await == COUNT).then_some(()) }).await;
    third.spawn(async move { mesh.drain().await }).await.unwrap();
    kill(third).await;
    // Without an inbox, what a process had in hand that was killed may be done twice: 32 from each of its two feeds.
    let twice = seen.lock().await.len() - COUNT;
    assert!(twice <= 2 * 64, "{twice} more than what was in hand");
}

/// It was stopped for longer than it may be silent, and goes on: what it put aside before it still remembers.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_was_taken_for_gone_goes_on_in_another_name() {
    let broker = TestBroker::start(&[orders(), consumer("depot", "ship")]).await.unwrap();
    let operator = broker.connect("operator").await.unwrap();
    let (seen, (mend, mended), refused) = (Seen::default(), watch::channel(false), Arc::default());
    let mesh = broker.connect("depot").await.unwrap();
    let rule = IsolationRule { silent: Duration::from_secs(2), ..IsolationRule::default() };
    consume_by(rule, &mesh, Down::Refuses, &seen, (mended, &refused)).await;
    all_aside(&broker, &operator).await;
    let (first, _) = eventually("the process is known", || async { holders(&operator).await.pop() }).await;
    let store = Store::new(operator.bus(), mesh_tests::broker::REGION.parse().unwrap(), "depot".parse().unwrap());
    let key = format!("holder.ship.{first}");
    let taken = || async {
        let revision = store.get(&key).await.unwrap()?.revision;
        let record = mesh_proto::v1::HolderRecord { by: "somebody".into(), at_ms: store.now_ms(), silent_ms: 0 };
        let written = store.put(&key, record.encode_to_vec().into(), revision, None).await.unwrap();
        matches!(written, Written::At(_)).then_some(())
    };
    eventually("somebody takes it over", taken).await;
    // And says nothing more: what it took is ended by who is there.
    let is_there = |records: Vec<(String, String)>| match records.as_slice() {
        [(holder, by)] => (holder == by && *holder != first).then_some(()),
        _ => None,
    };
    eventually("another name, and no other", || async { is_there(holders(&operator).await) }).await;
    mend.send_replace(true);
    eventually("all of them", || async { (seen.lock().await.len() >= COUNT).then_some(()) }).await;
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

/// The consumer was off for longer than a message may be tried. A moment in which its target fails makes letters of those that it
/// failed, which were begun, and of no other.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_old_and_was_never_begun_waits_for_its_target_and_is_no_letter() {
    const FAILED: usize = 5;
    const EVENTS: usize = 500;
    let max_age = Duration::from_secs(6);
    let broker = TestBroker::start(&[orders(), consumer("depot", "ship")]).await.unwrap();
    let sender = broker.connect("orders").await.unwrap();
    let events = futures_util::stream::iter((1..=EVENTS).map(|n| (n.to_string(), order(n * 7))));
    sender.publisher::<OrderPlaced>().publish_all(events, 64).collect::<Vec<_>>().await;
    let stored = Instant::now();
    eventually("all are too old", || async { (stored.elapsed() > max_age).then_some(()) }).await;

    let (seen, begun) = (Seen::default(), Arc::new(AtomicUsize::new(0)));
    let into = Arc::clone(&seen);
    let handler = move |_cx: Context, event: OrderPlaced| {
        let (into, begun) = (Arc::clone(&into), Arc::clone(&begun));
        async move {
            if begun.fetch_add(1, Ordering::SeqCst) < FAILED {
                return Err(Fault::unavailable("the warehouse opens"));
            }
            into.lock().await.push(event.order_id);
            Ok(())
        }
    };
    let settings = ConsumerSettings {
        concurrency: FAILED,
        retry: RetryRule { max_age, ..RetryRule::default() },
        ..ConsumerSettings::default()
    };
    let mesh = broker.connect("depot").await.unwrap();
    let ship = mesh.consumer::<OrderPlaced>("ship").settings(settings);
    ship.isolate_by(|event: &OrderPlaced| event.customer_id.clone()).start(handler).await.unwrap();
    let operator = broker.connect("operator").await.unwrap();
    let letters = async || letters::list(operator.bus(), &Selector::default()).await.unwrap().letters;
    eventually("an end of all", || async {
        let unbegun = letters().await.into_iter().find(|letter| letter.letter.attempts.is_empty());
        assert!(unbegun.is_none(), "a letter of what was never begun: {:?}", unbegun.unwrap().letter.fault);
        (seen.lock().await.len() == EVENTS - FAILED).then_some(())
    })
    .await;
    mesh.drain().await;
    assert_eq!(letters().await.len(), FAILED, "what failed is too old to be tried again");
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

/// Four orders fail twice, and there is budget for four retries at once. What is not granted waits, for no longer than it may: nobody
/// becomes a letter for want of budget while there is time.
#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_has_budget_for_waits_and_is_not_given_up() {
    let broker = TestBroker::start(&[orders(), consumer("depot", "ship")]).await.unwrap();
    let (seen, place) = (Seen::default(), ("mesh1-event-orders", "depot_ship"));
    let into = Arc::clone(&seen);
    let handler = move |cx: Context, event: OrderPlaced| {
        let into = Arc::clone(&into);
        async move {
            if cx.attempt() <= 2 {
                return Err(Fault::unavailable("not yet"));
            }
            into.lock().await.push(event.order_id);
            Ok(())
        }
    };
    let settings = ConsumerSettings {
        // A wait for budget is a share of the longest backoff: longer than any of them may wait.
        retry: RetryRule {
            base: Duration::from_millis(20),
            cap: Duration::from_secs(120),
            max_age: Duration::from_secs(20),
            ..RetryRule::default()
        },
        retry_budget: BudgetRule { share: 0.0, floor_per_s: 1.0, burst: 4.0 },
        ..ConsumerSettings::default()
    };
    let mesh = broker.connect("depot").await.unwrap();
    mesh.consumer::<OrderPlaced>("ship").settings(settings).start(handler).await.unwrap();
    let publisher = broker.connect("orders").await.unwrap().publisher::<OrderPlaced>();
    for number in 1..=4 {
        publisher.publish(&order(number)).id(number.to_string()).await.unwrap();
    }
    settled(&broker, place).await;
    eventually("all four", || async { (seen.lock().await.len() == 4).then_some(()) }).await;
    let operator = broker.connect("operator").await.unwrap();
    assert!(letters::list(operator.bus(), &Selector::default()).await.unwrap().letters.is_empty());
    mesh.drain().await;
}
