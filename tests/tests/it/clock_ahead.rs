//! A replica whose clock is ahead refuses what its caller still has time for. That is no reason to give up: the next attempt may
//! meet another one, or a clock that was put right.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use mesh_core::{
    Context, Mesh,
    clock::Clock,
    consume::ConsumerSettings,
    operate::letters::{self, Selector},
    policy::{budget::BudgetRule, compile::Declaration, retry::RetryRule},
    request::CallRetry,
};
use mesh_tests::{Seen, TestBroker, broker::REGION, eventually};
use shop_proto::shop::{
    orders::v1::OrderPlaced,
    payments::v1::{PaymentsClient, PaymentsServer},
};

use crate::shop::{Bank, bank, charge_of, consumer, order, orders, till};

/// More than a call has by default.
const AHEAD_MS: u64 = 10_000;

/// A bank that answers calls by a clock that is ahead, until it is put right.
async fn bank_ahead(broker: &TestBroker, ahead_ms: &Arc<AtomicU64>) -> Mesh {
    let ahead_ms = Arc::clone(ahead_ms);
    let clock = Clock::from_fn(move || SystemTime::now() + Duration::from_millis(ahead_ms.load(Ordering::SeqCst)));
    let (url, credential) = (broker.server.client_url(), broker.credential("bank"));
    let mesh = Mesh::builder("bank").region(REGION).url(&url).credential(credential).clock(clock);
    let mesh = mesh.connect().await.unwrap();
    mesh.serve(PaymentsServer::new(Bank::default())).work(false).start().await.unwrap();
    mesh
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_whose_handler_met_one_is_handled_again_and_is_no_letter() {
    let ship = Declaration { calls: till().calls, ..consumer("depot", "ship") };
    let broker = TestBroker::start(&[orders(), bank(), ship]).await.unwrap();
    let ahead_ms = Arc::new(AtomicU64::new(AHEAD_MS));
    let _bank = bank_ahead(&broker, &ahead_ms).await;
    let mesh = broker.connect("depot").await.unwrap();
    let seen = Seen::default();
    let (into, payments) = (Arc::clone(&seen), PaymentsClient::new(&mesh));
    let handler = move |cx: Context, _event: OrderPlaced| {
        let (into, payments, ahead_ms) = (Arc::clone(&into), payments.clone(), Arc::clone(&ahead_ms));
        async move {
            let charged = payments.charge().call(&charge_of(1, 100)).caused_by(&cx).without_retry().await;
            let said = charged.as_ref().map_or_else(|fault| fault.reason().code(), |_| "charged");
            into.lock().await.push(format!("{} {said}", cx.attempt()));
            ahead_ms.store(0, Ordering::SeqCst);
            charged.map(drop)
        }
    };
    let retry = RetryRule { base: Duration::from_millis(50), ..RetryRule::default() };
    let settings = ConsumerSettings { retry, ..ConsumerSettings::default() };
    mesh.consumer::<OrderPlaced>("ship").settings(settings).start(handler).await.unwrap();
    let sender = broker.connect("orders").await.unwrap();
    sender.publisher::<OrderPlaced>().publish(&order(1)).id("1").await.unwrap();

    let operator = broker.connect("operator").await.unwrap();
    eventually("the second attempt", || async {
        let letters = letters::list(operator.bus(), &Selector::default()).await.unwrap().letters;
        assert!(letters.is_empty(), "a letter: {:?}", letters[0].letter.fault);
        (seen.lock().await.len() == 2).then_some(())
    })
    .await;
    mesh.drain().await;
    assert_eq!(*seen.lock().await, ["1 MESH-0002", "2 charged"]);
    assert!(letters::list(operator.bus(), &Selector::default()).await.unwrap().letters.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_met_one_is_made_again_while_its_caller_has_time() {
    let broker = TestBroker::start(&[till(), bank()]).await.unwrap();
    let ahead_ms = Arc::new(AtomicU64::new(2 * AHEAD_MS));
    let _bank = bank_ahead(&broker, &ahead_ms).await;
    let till = broker.connect("till").await.unwrap();
    let (base, cap) = (Duration::from_millis(5), Duration::from_millis(20));
    let rule = RetryRule { max_attempts: 10_000, base, cap, ..RetryRule::default() };
    let budget = BudgetRule { burst: 10_000.0, ..BudgetRule::default() };
    let client = PaymentsClient::new(&till).charge().retry(CallRetry { rule, budget, ..CallRetry::default() });
    let right = async {
        let made = || async { till.metrics().encode().contains("what=\"made\"").then_some(()) };
        eventually("a repeat", made).await;
        ahead_ms.store(0, Ordering::SeqCst);
    };
    let request = charge_of(1, 100);
    let call = async { client.call(&request).timeout(Duration::from_millis(AHEAD_MS)).await };
    let (reply, ()) = tokio::join!(call, right);
    assert_eq!(reply.unwrap().charge_id, "ch_1");
}
