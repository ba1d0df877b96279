//! The order of keys on three servers that keep every stream three times: leaders are killed under it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use mesh_core::{
    Fault, Mesh,
    bus::StreamLimits,
    subject::{event_stream, lane_stream, store_stream},
};
use mesh_tests::{campaign::cluster::TestCluster, eventually};
use shop_proto::shop::orders::v1::OrderPlaced;
use tokio::{task::JoinSet, time::Instant};

use crate::{
    ordered::{Log, Shared, Verdict, attach, done, in_order, ordered, settings},
    shop::orders,
};

const KEYS: usize = 24;
/// How fast each key comes.
const EVERY: Duration = Duration::from_millis(150);
/// How long an election and a takeover may take together.
const PATIENCE: Duration = Duration::from_secs(60);

/// Publishes what is numbered for one key, one after the other, each until the broker has it, until it is enough; how many.
async fn publish(sender: Mesh, key: usize, enough: Arc<AtomicBool>) -> usize {
    let publisher = sender.publisher::<OrderPlaced>();
    let mut rate = tokio::time::interval(EVERY);
    for turn in 0.. {
        if enough.load(Ordering::SeqCst) {
            return turn;
        }
        rate.tick().await;
        let number = key + turn * KEYS;
        let event = OrderPlaced {
            order_id: number.to_string(),
            customer_id: format!("c{}", number % KEYS),
            ..OrderPlaced::default()
        };
        while publisher.publish(&event).id(number.to_string()).await.is_err() {}
    }
    0
}

/// Waits until so many more are done; how long it took.
async fn more(log: &Shared, count: usize) -> Duration {
    until(log, done(log) + count).await
}

async fn until(log: &Shared, target: usize) -> Duration {
    let begun = Instant::now();
    while done(log) < target {
        assert!(begun.elapsed() < PATIENCE, "{} of {target} after {PATIENCE:?}", done(log));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    begun.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_order_is_broken_and_nothing_lost_when_leaders_are_killed_under_an_ordered_consumer() {
    let limits = StreamLimits { ack_wait: Duration::from_secs(2), ..StreamLimits::default() };
    let mut cluster = TestCluster::of(&[orders(), ordered("mail")], &limits).await.unwrap();
    let jetstream = cluster.jetstream().await.unwrap();
    let log = Log::of(KEYS);
    // One in ten fails once, and waits on the lane.
    let verdict: Verdict = Arc::new(|event, attempt| {
        let number: usize = event.order_id.parse().unwrap();
        if number.is_multiple_of(10) && attempt == 1 { Err(Fault::unavailable("a moment, please")) } else { Ok(()) }
    });
    let mut meshes = Vec::new();
    for _ in 0..2 {
        meshes.push(attach(cluster.connect("mail").await.unwrap(), &log, &verdict, settings()).await);
    }
    let sender = cluster.connect("orders").await.unwrap();
    let (mut publishing, enough) = (JoinSet::new(), Arc::new(AtomicBool::new(false)));
    (1..=KEYS).for_each(|key| drop(publishing.spawn(publish(sender.clone(), key, Arc::clone(&enough)))));
    more(&log, KEYS).await;
    for stream in [event_stream("orders"), lane_stream("mail"), store_stream("mail")] {
        let leader = cluster.leader_of(&jetstream, &stream).await.unwrap();
        cluster.servers[leader].kill9().await.unwrap();
        let gap = more(&log, KEYS).await;
        println!("the leader of {stream} was killed: {KEYS} more were done after {} ms", gap.as_millis());
        cluster.servers[leader].restart().await.unwrap();
        more(&log, KEYS).await;
    }
    enough.store(true, Ordering::SeqCst);
    let published: usize = publishing.join_all().await.into_iter().sum();
    until(&log, published).await;
    in_order(&log.lock().unwrap(), published);
    println!("{published} events, each handled, 0 out of order");
    let operator = cluster.connect("operator").await.unwrap();
    eventually("an empty lane", || async {
        let lane = operator.bus().stream_state(&lane_stream("mail")).await.ok()??;
        (lane.messages == 0).then_some(())
    })
    .await;
    for mesh in meshes {
        mesh.drain().await;
    }
}
