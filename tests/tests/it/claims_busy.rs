//! What lies apart is taken away though the lane where its copy was is never at rest.

use mesh_core::{Fault, clock::TaskScope};
use mesh_tests::{TestBroker, eventually};

use crate::{
    claims::{MAX_PAYLOAD, consume, foreign, nothing_lies_apart, order_of, publish, start_keeper},
    shop::{consumer, orders},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_lane_on_which_copies_come_without_end_is_read_to_an_end() {
    let broker = TestBroker::start(&[orders(), consumer("a", "work")]).await.unwrap();
    let lane = foreign(&broker, "operator").await;
    let scope = TaskScope::new();
    let busy = scope.spawn(async move {
        for number in 0_u64.. {
            // Delayed for long: they only lie there.
            let subject = format!("mesh1.lane.local.a.work.hold.busy-{number}");
            lane.publish(subject, Vec::new().into()).await.unwrap().await.unwrap();
        }
    });
    let (_a, seen) = consume(&broker, 1, || Fault::unavailable("the shelf is locked")).await;
    publish(&broker, "1", &order_of(MAX_PAYLOAD - 200)).await;
    eventually("the second attempt", || async { (seen.lock().await.len() == 2).then_some(()) }).await;
    let keeper = start_keeper(&broker).await;
    nothing_lies_apart(&broker).await;
    assert!(!busy.is_finished(), "they came all the while");
    busy.abort();
    keeper.stop().await;
}
