//! What was done is not done again, and a start that left no word is not repeated blindly.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_util::StreamExt as _;
use mesh_core::{
    Context, Fault, Mesh,
    bus::StreamLimits,
    clock::Clock,
    consume::ConsumerSettings,
    contract::Repeat,
    dead_letter::{Letter, LetterState},
    fault::{Effect, Reason},
    identity::Credential,
    operate::letters::{self, Selector},
    policy::retry::RetryRule,
    store::Store,
};
use mesh_tests::{Seen, TestBroker, charges::Charges, eventually, seen::notes};
use shop_proto::shop::{orders::v1::OrderPlaced, payments::v1::PaymentsClient};
use tokio::{runtime::Runtime, sync::Notify};

use crate::shop::{bank, charge_of, consumer, order, orders, till};

const ACK_WAIT: Duration = Duration::from_secs(1);

fn limits() -> StreamLimits {
    StreamLimits { ack_wait: ACK_WAIT, ..StreamLimits::default() }
}

fn settings() -> ConsumerSettings {
    ConsumerSettings { ack_wait: ACK_WAIT, ..ConsumerSettings::default() }
}

/// A process that can be ended in the middle: a runtime of its own, whose tasks are dropped where they stand.
pub(crate) struct Doomed {
    runtime: Runtime,
    url: String,
    credential: Credential,
}

impl Doomed {
    pub(crate) fn new(broker: &TestBroker, service: &str) -> Doomed {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        Doomed { runtime, url: broker.server.client_url(), credential: broker.credential(service) }
    }

    pub(crate) async fn run<F, Fut>(&self, service: &'static str, begin: F)
    where
        F: FnOnce(Mesh) -> Fut + Send + 'static,
        Fut: std::future::Future<Output = ()> + Send,
    {
        let (url, credential) = (self.url.clone(), self.credential.clone());
        let begun = self.runtime.spawn(async move {
            let mesh = Mesh::builder(service).url(&url).credential(credential).connect().await.unwrap();
            begin(mesh.clone()).await;
            mesh
        });
        drop(begun.await.unwrap());
    }

    pub(crate) fn end(self) {
        self.runtime.shutdown_background();
    }
}

pub(crate) async fn letters(broker: &TestBroker) -> Vec<Letter> {
    let operator = broker.connect("operator").await.unwrap();
    let letters = letters::list(operator.bus(), &Selector::default()).await.unwrap().letters;
    operator.drain().await;
    letters
}

/// The queue of charges, and who works it off.
pub(crate) const BANKS_WORK: (&str, &str) = ("mesh1-work-shop-payments-v1-Payments", "bank_shop-payments-v1-payments");

/// Ends when nothing of a consumer waits or is in hand.
pub(crate) async fn settled(broker: &TestBroker, (stream, durable): (&str, &str)) {
    let operator = broker.connect("operator").await.unwrap();
    eventually("all settled", || async {
        let state = operator.bus().consumer_state(stream, durable).await.ok()??;
        (state.pending == 0 && state.in_flight == 0).then_some(())
    })
    .await;
    operator.drain().await;
}

/// The first order is being handled by a process of `mail` when that ends. Who published it.
pub(crate) async fn left_in_the_middle(
    broker: &TestBroker,
    settings: ConsumerSettings,
    horizon: Option<Duration>,
) -> Mesh {
    let begun = Arc::new(Notify::new());
    let bell = Arc::clone(&begun);
    let hangs = move |_cx: Context, _event: OrderPlaced| {
        bell.notify_one();
        std::future::pending::<Result<(), Fault>>()
    };
    let doomed = Doomed::new(broker, "mail");
    let start = move |mesh: Mesh| async move {
        let mut confirm = mesh.consumer::<OrderPlaced>("confirm").settings(settings);
        if let Some(horizon) = horizon {
            confirm = confirm.inbox(horizon);
        }
        confirm.start(hangs).await.unwrap();
    };
    doomed.run("mail", start).await;
    let sender = broker.connect("orders").await.unwrap();
    sender.publisher::<OrderPlaced>().publish(&order(1)).id("1").await.unwrap();
    begun.notified().await;
    doomed.end();
    sender
}

async fn publish(broker: &TestBroker, count: usize) {
    let mesh = broker.connect("orders").await.unwrap();
    let events = futures_util::stream::iter((1..=count).map(|n| (n.to_string(), order(n))));
    let results: Vec<_> = mesh.publisher::<OrderPlaced>().publish_all(events, 64).collect().await;
    assert!(results.iter().all(|(_, result)| result.is_ok()));
    mesh.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_an_inbox_each_event_is_handled_once_though_the_broker_forgets_its_acks() {
    const COUNT: usize = 1500;
    let mut broker = TestBroker::with(&[orders(), consumer("mail", "confirm")], true, &limits()).await.unwrap();
    let mesh = broker.connect("mail").await.unwrap();
    let seen = Seen::default();
    let consumer = mesh.consumer::<OrderPlaced>("confirm").settings(settings());
    consumer.inbox(Duration::from_secs(3600)).start(notes(&seen)).await.unwrap();
    publish(&broker, COUNT).await;
    for kill in 1..=3usize {
        eventually("some", || async { (seen.lock().await.len() >= kill * COUNT / 4).then_some(()) }).await;
        broker.server.kill9().await.unwrap();
        broker.server.restart().await.unwrap();
    }
    settled(&broker, ("mesh1-event-orders", "mail_confirm")).await;
    let mut times = BTreeMap::new();
    for id in seen.lock().await.iter() {
        *times.entry(id.clone()).or_insert(0) += 1;
    }
    assert_eq!(times.len(), COUNT, "none is lost");
    let twice: Vec<_> = times.iter().filter(|(_, times)| **times > 1).collect();
    assert!(twice.is_empty(), "handled again: {twice:?}");
}

/// Charges, the first of which never ends.
fn careful(repeat: Repeat, seen: &Seen, begun: &Arc<Notify>) -> Charges {
    let begun = Arc::clone(begun);
    Charges::new(repeat, seen, move |cx| {
        begun.notify_one();
        async move { if cx.local_id() == "1" { std::future::pending().await } else { Ok(()) } }
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_not_be_repeated_is_parked_when_its_process_ends_in_the_middle() {
    let broker = TestBroker::with(&[till(), bank()], true, &limits()).await.unwrap();
    let (seen, begun) = (Seen::default(), Arc::new(Notify::new()));
    let doomed = Doomed::new(&broker, "bank");
    let first = careful(Repeat::Once, &seen, &begun);
    doomed.run("bank", |mesh| async move { mesh.serve(first).start().await.unwrap() }).await;
    let till = broker.connect("till").await.unwrap();
    PaymentsClient::new(&till).charge().enqueue(&charge_of(1, 100)).id("1").await.unwrap();
    begun.notified().await;
    doomed.end();

    let second = broker.connect("bank").await.unwrap();
    second.serve(careful(Repeat::Once, &seen, &begun)).start().await.unwrap();
    PaymentsClient::new(&till).charge().enqueue(&charge_of(2, 100)).id("2").await.unwrap();
    let letter = eventually("the parked letter", || async { letters(&broker).await.into_iter().next() }).await;
    let fault: Fault = letter.letter.fault.unwrap().into();
    assert_eq!((letter.state, fault.reason()), (LetterState::Open, Reason::OutcomeUnknown));
    assert_eq!(fault.effect(), Effect::Unknown);
    eventually("the other one", || async { seen.lock().await.contains(&"2".to_owned()).then_some(()) }).await;
    assert_eq!(*seen.lock().await, ["1", "2"], "the first was not begun again");
}

/// A key makes a repeat harmless for as long as the other side remembers it, and a first start leaves no trace of its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_keyed_start_that_left_no_word_is_parked_when_its_key_may_be_forgotten() {
    let broker = TestBroker::with(&[till(), bank()], true, &limits()).await.unwrap();
    let (seen, begun) = (Seen::default(), Arc::new(Notify::new()));
    let doomed = Doomed::new(&broker, "bank");
    let first = careful(Repeat::Keyed, &seen, &begun);
    doomed.run("bank", |mesh| async move { mesh.serve(first).start().await.unwrap() }).await;
    let till = broker.connect("till").await.unwrap();
    PaymentsClient::new(&till).charge().enqueue(&charge_of(1, 100)).id("1").await.unwrap();
    begun.notified().await;
    doomed.end();

    let later = || SystemTime::now() + RetryRule::default().max_age + Duration::from_secs(60);
    let mesh = Mesh::builder("bank").region(mesh_tests::broker::REGION).url(&broker.server.client_url());
    let mesh = mesh.credential(broker.credential("bank")).clock(Clock::from_fn(later)).connect().await.unwrap();
    mesh.serve(careful(Repeat::Keyed, &seen, &begun)).start().await.unwrap();
    let letter = eventually("the parked letter", || async { letters(&broker).await.into_iter().next() }).await;
    let fault: Fault = letter.letter.fault.unwrap().into();
    assert_eq!((fault.reason(), fault.effect()), (Reason::OutcomeUnknown, Effect::Unknown));
    assert_eq!(*seen.lock().await, ["1"], "it was not begun again");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_whose_process_ended_is_tried_again_alone_and_is_no_letter() {
    let broker = TestBroker::with(&[orders(), consumer("mail", "confirm")], true, &limits()).await.unwrap();
    let (seen, begun) = (Seen::default(), Arc::new(Notify::new()));
    let doomed = Doomed::new(&broker, "mail");
    let (into, bell) = (Arc::clone(&seen), Arc::clone(&begun));
    let hangs = move |_cx: Context, event: OrderPlaced| {
        let (into, bell) = (Arc::clone(&into), Arc::clone(&bell));
        async move {
            into.lock().await.push(event.order_id);
            bell.notify_one();
            std::future::pending().await
        }
    };
    let start = move |mesh: Mesh| async move {
        mesh.consumer::<OrderPlaced>("confirm").settings(settings()).start(hangs).await.unwrap();
    };
    doomed.run("mail", start).await;
    publish(&broker, 5).await;
    eventually("all begun", || async { (seen.lock().await.len() == 5).then_some(()) }).await;
    doomed.end();

    let done = Seen::default();
    let second = broker.connect("mail").await.unwrap();
    second.consumer::<OrderPlaced>("confirm").settings(settings()).start(notes(&done)).await.unwrap();
    eventually("all done", || async { (done.lock().await.len() == 5).then_some(()) }).await;
    second.drain().await;
    assert!(letters(&broker).await.is_empty());
    assert_eq!(done.lock().await.len(), 5, "each once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_takes_longer_than_the_horizon_is_done_once() {
    let broker = TestBroker::with(&[orders(), consumer("mail", "confirm")], true, &limits()).await.unwrap();
    let mesh = broker.connect("mail").await.unwrap();
    // The broker's own clock says when more than the horizon has passed.
    let store = Store::own(mesh.bus());
    store.put("test.longer", "x".into(), 0, Some(Duration::from_secs(3))).await.unwrap();
    let seen = Seen::default();
    let (into, clock) = (Arc::clone(&seen), store.clone());
    let handler = move |_cx: Context, event: OrderPlaced| {
        let (into, clock) = (Arc::clone(&into), clock.clone());
        async move {
            into.lock().await.push(event.order_id);
            let gone = || async { clock.get("test.longer").await.unwrap().is_none().then_some(()) };
            eventually("more than the horizon", gone).await;
            Ok(())
        }
    };
    let consumer = mesh.consumer::<OrderPlaced>("confirm").settings(settings());
    consumer.inbox(Duration::from_secs(1)).start(handler).await.unwrap();
    publish(&broker, 1).await;
    let operator = broker.connect("operator").await.unwrap();
    eventually("its end", || async {
        let state = operator.bus().consumer_state("mesh1-event-orders", "mail_confirm").await.ok()??;
        (!seen.lock().await.is_empty() && state.in_flight == 0 && state.pending == 0).then_some(())
    })
    .await;
    assert_eq!(*seen.lock().await, ["1"]);
}
