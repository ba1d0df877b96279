//! The broker is away for long: whoever waits hears of it in time, and the process can end.

use std::{future::IntoFuture as _, time::Duration};

use futures_util::{future::join_all, poll};
use mesh_core::{
    Mesh,
    bus::PublishError,
    fault::{Effect, Reason},
};
use mesh_tests::{TestBroker, broker::REGION, campaign::proxy::Proxy, eventually};
use shop_proto::shop::{
    orders::v1::OrderPlaced,
    payments::v1::{PaymentsClient, PaymentsServer},
};
use tokio::time::timeout;

use crate::shop::{Bank, bank, charge_of, order, orders, till};

/// More than the client keeps while the link is away.
const TOO_MUCH: usize = 10_000;
/// No end at all before; what is seen ends in seconds.
const LONG: Duration = Duration::from_secs(60);
const AT_ONCE: usize = 250;

async fn fill(mesh: &Mesh) {
    for _ in 0..TOO_MUCH / AT_ONCE {
        // They are sent, or not; their answers are not waited for.
        let sent = join_all((0..AT_ONCE).map(|_| mesh.bus().round_trip(Duration::ZERO))).await;
        if sent.iter().any(|sent| matches!(sent, Err(PublishError::NotSent(why)) if why.contains("too much waits"))) {
            return;
        }
    }
    panic!("the client keeps {TOO_MUCH} messages and more: nothing was shown");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_a_broker_that_is_away_hears_of_it_and_a_drain_ends() {
    let mut broker = TestBroker::start(&[orders(), till()]).await.unwrap();
    let (orders, till) = (broker.connect("orders").await.unwrap(), broker.connect("till").await.unwrap());
    broker.server.kill9().await.unwrap();
    for mesh in [&orders, &till] {
        let away = || async { (!mesh.bus().link_state().is_connected).then_some(()) };
        eventually("a link that is away", away).await;
        timeout(LONG, fill(mesh)).await.expect("no message waits for ever to be taken by the client");
    }

    let client = PaymentsClient::new(&till);
    let called = client.charge().call(&charge_of(1, 1)).timeout(Duration::from_millis(300));
    let publisher = orders.publisher::<OrderPlaced>();
    let event = order(1);
    let (called, published) = tokio::join!(timeout(LONG, called), timeout(LONG, publisher.publish(&event).id("1")));
    called.expect("a call ends soon after its deadline").expect_err("nobody answers");
    let fault = published.expect("a publish ends").expect_err("nobody stores it");
    assert_eq!((fault.reason(), fault.effect()), (Reason::BusUnavailable, Effect::None), "{fault}");
    let drained = timeout(LONG, join_all([orders.drain(), till.drain()])).await;
    drained.expect("a drain ends while the broker is away");
}

/// A call that is made while the link is away goes out once it is back, and is answered: nobody is told before that it may have
/// been done, to do it once more.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_while_the_link_is_away_is_done_once_when_it_is_back() {
    let broker = TestBroker::start(&[till(), bank()]).await.unwrap();
    let (serves, charged) = (broker.connect("bank").await.unwrap(), Bank::default());
    serves.serve(PaymentsServer::new(charged.clone())).start().await.unwrap();
    let proxy = Proxy::start(([127, 0, 0, 1], broker.server.port()).into()).await.unwrap();
    let far = Mesh::builder("till").region(REGION).url(&proxy.url()).credential(broker.credential("till"));
    let far = far.connect().await.unwrap();
    let client = PaymentsClient::new(&far);
    for round in 1..=5 {
        proxy.refuse(true);
        proxy.cut();
        let away = || async { (!far.bus().link_state().is_connected).then_some(()) };
        eventually("a link that is away", away).await;
        let request = charge_of(round, 100);
        let mut calling = Box::pin(client.charge().call(&request).timeout(LONG).into_future());
        assert!(poll!(&mut calling).is_pending());
        proxy.refuse(false);
        let charge = calling.await.expect("it is answered when the link is back");
        assert_eq!(charge.charge_id, format!("ch_{round}"));
        assert_eq!(charged.0.lock().await.len(), round, "each is done once");
    }
    far.drain().await;
    serves.drain().await;
}
