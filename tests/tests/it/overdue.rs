//! A copy that is due while the broker has no room: it comes all the same, once there is room again, and once.

use std::{collections::BTreeSet, time::Duration};

use futures_util::future::join_all;
use mesh::engine::JetStream;
use mesh_core::{
    Context, Fault, Mesh,
    bus::StreamLimits,
    operate::keeper::KeeperSettings,
    policy::compile::Declaration,
    subject::{event_stream, lane_stream},
};
use mesh_tests::{TestBroker, eventually, keeper::Running};
use shop_proto::shop::orders::v1::OrderPlaced;

use crate::{
    claims::{Seen, foreign, messages, order_of, publish},
    full::fill,
    shop::{EVENT, consumer, declaration, orders},
};

/// When a copy is due.
const DUE: Duration = Duration::from_secs(3);
const FAR: Duration = Duration::from_secs(3600);
/// What its payload has: more than the room that small messages leave.
const LARGE: usize = 40_000;

fn filler() -> Declaration {
    Declaration { publishes: BTreeSet::from([EVENT.into()]), ..declaration("filler") }
}

/// A consumer whose first attempts fail: the small event is to come back in an hour, the large one soon.
async fn consume(broker: &TestBroker) -> (Mesh, Seen) {
    let mesh = broker.connect("a").await.unwrap();
    let seen = Seen::default();
    let into = Seen::clone(&seen);
    let handler = move |cx: Context, event: OrderPlaced| {
        let into = Seen::clone(&into);
        async move {
            let due = if event == order_of(LARGE) { DUE } else { FAR };
            into.lock().await.push((cx.attempt(), event));
            match cx.attempt() {
                1 => Err(Fault::unavailable("not now").with_retry_after(due)),
                _ => Ok(()),
            }
        }
    };
    mesh.consumer::<OrderPlaced>("work").start(handler).await.unwrap();
    (mesh, seen)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_due_while_there_is_no_room_comes_when_there_is_again() {
    let jetstream = JetStream { max_file_bytes: 400_000, ..JetStream::default() };
    let declared = [orders(), consumer("a", "work"), filler()];
    let broker = TestBroker::on(&declared, jetstream, &StreamLimits::default()).await.unwrap();
    let settings = KeeperSettings {
        overdue_every: Duration::from_millis(100),
        overdue_after: Duration::from_millis(500),
        ..KeeperSettings::default()
    };
    let keeper = Running::start(&broker, settings).await.unwrap();
    let operator = broker.connect("operator").await.unwrap();
    let lane = lane_stream("a");
    let now_ms = async || operator.bus().moment(&lane).await.unwrap().unwrap().now_ms;

    let (consumer, seen) = consume(&broker).await;
    publish(&broker, "far", &order_of(100)).await;
    publish(&broker, "soon", &order_of(LARGE)).await;
    eventually("two copies that wait", async || (messages(&broker, &lane).await == 2).then_some(())).await;
    // The first delay by backoff, at most half a second, is added.
    let due_ms = now_ms().await + i64::try_from(DUE.as_millis()).unwrap() + 500;
    assert_eq!(fill(operator.bus(), "filler").await, 10023);
    eventually("that it is due", async || (now_ms().await > due_ms + 1000).then_some(())).await;
    assert_eq!(messages(&broker, &lane).await, 2, "the broker had room, so this shows nothing");
    assert_eq!(seen.lock().await.len(), 2);

    let stream = foreign(&broker, "operator").await.get_stream(event_stream("filler")).await.unwrap();
    stream.purge().await.unwrap();
    eventually("the second attempt", async || (seen.lock().await.len() == 3).then_some(())).await;
    eventually("the copy that is done to be gone", async || (messages(&broker, &lane).await == 1).then_some(())).await;
    assert_eq!(seen.lock().await[2], (2, order_of(LARGE)));
    eventually("the count of it", async || (stored_anew(&keeper) == 1).then_some(())).await;
    consumer.drain().await;
    keeper.stop().await;
}

/// How many copies the keeper stored anew.
fn stored_anew(keeper: &Running) -> u64 {
    let text = keeper.mesh.metrics().encode();
    let count =
        text.lines().find_map(|line| line.strip_prefix("mesh_copies_stored_anew_total{stream=\"mesh1-lane-a\"} "));
    count.map_or(0, |count| count.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_broker_emits_at_the_same_moment_comes_once() {
    const COPIES: usize = 40;
    let broker = TestBroker::start(&[orders(), consumer("a", "work")]).await.unwrap();
    // It waits for nothing: what is due is stored anew, while the broker is about to emit it.
    let settings = KeeperSettings {
        overdue_every: Duration::from_millis(1),
        overdue_after: Duration::ZERO,
        ..KeeperSettings::default()
    };
    let keeper = Running::start(&broker, settings).await.unwrap();
    let operator = broker.connect("operator").await.unwrap();
    let lane = lane_stream("a");
    let (consumer, seen) = consume(&broker).await;
    let large = order_of(LARGE);
    join_all((0..COPIES).map(|number| {
        let (broker, large) = (&broker, &large);
        async move { publish(broker, &number.to_string(), large).await }
    }))
    .await;
    eventually("each twice", async || (seen.lock().await.len() >= 2 * COPIES).then_some(())).await;
    eventually("an empty lane", async || (messages(&broker, &lane).await == 0).then_some(())).await;
    let first = seen.lock().await.iter().filter(|(attempt, _)| *attempt == 1).count();
    assert_eq!((first, seen.lock().await.len()), (COPIES, 2 * COPIES));
    consumer.drain().await;
    // Whatever was stored there: each copy, each again as often as it was counted, and each once as due.
    let all = operator.bus().moment(&lane).await.unwrap().unwrap().last_sequence;
    let anew = all - 2 * COPIES as u64;
    assert!(anew > 0, "none was stored anew, so this shows nothing");
    // A sweep counts when it has looked at all.
    eventually("that as many were counted", async || (stored_anew(&keeper) == anew).then_some(())).await;
    keeper.stop().await;
}
