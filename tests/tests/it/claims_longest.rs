//! The longest id, idempotency key and ordering key that are let in come through every copy that the mesh makes of a message.

use async_nats::HeaderMap;
use mesh_core::{
    dead_letter::LetterState,
    operate::letters,
    subject::{partition, sha256},
};
use mesh_tests::{
    TestBroker, eventually,
    seen::{Taken, fails_twice, waits_on_the_lane},
};
use prost::Message as _;
use shop_proto::shop::orders::v1::OrderPlaced;

use crate::{
    claims::{MAX_PAYLOAD, by_ada, foreign, messages, nothing_lies_apart, one_letter, start_keeper},
    claims_ordered::ordered,
    shop::{EVENT, orders},
};

/// So many bytes, of which all but the first are written as three in the header `mesh`.
fn long(first: &str, bytes: usize) -> String {
    format!("{first}{}", "%".repeat(bytes - first.len()))
}

async fn publish(broker: &TestBroker, name: &str, event: &OrderPlaced) {
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Msg-Id", long(name, 1024));
    headers.insert("mesh", format!("k={name}{}", "%25".repeat(1023)));
    let subject = format!("mesh1.event.local.orders.{EVENT}.{}", partition(event.customer_id.as_bytes()));
    let jetstream = foreign(broker, "orders").await;
    jetstream.publish_with_headers(subject, headers, event.encode_to_vec().into()).await.unwrap().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_longest_comes_through_the_lane_behind_its_key_and_through_a_replay() {
    let broker = TestBroker::start(&[orders(), ordered()]).await.unwrap();
    let keeper = start_keeper(&broker).await;
    let mesh = broker.connect("a").await.unwrap();
    let seen = Taken::default();
    let handler = fails_twice(&seen, |cx, event| (cx.message_id().to_owned(), cx.idempotency_key().to_owned(), event));
    mesh.consumer::<OrderPlaced>("work").settings(waits_on_the_lane()).start(handler).await.unwrap();
    let event = OrderPlaced {
        customer_id: long("o", 2048),
        placed_on: "x".repeat(MAX_PAYLOAD - 10_000),
        ..OrderPlaced::default()
    };
    for name in ["1", "2"] {
        publish(&broker, name, &event).await;
    }
    let letter = one_letter(&broker, LetterState::Open).await;
    assert_eq!((letter.letter.key.len(), letter.letter.source.as_ref().unwrap().message_id.len()), (2048, 1024));
    eventually("the one behind it to wait on the lane", || async {
        (messages(&broker, "mesh1-lane-a").await == 1).then_some(())
    })
    .await;
    let operator = broker.connect("operator").await.unwrap();
    letters::replay(operator.bus(), &letter, &by_ada()).await.unwrap();
    one_letter(&broker, LetterState::Resolved).await;
    eventually("all", || async { (seen.lock().unwrap().len() >= 4).then_some(()) }).await;
    // A handler gets a key that a third party takes.
    let key = |name: &str| sha256(long(name, 1024).as_bytes());
    let expected = ["1", "1", "1", "2"].map(|name| (long(name, 1024), key(name), event.clone()));
    assert!(*seen.lock().unwrap() == expected, "the same id, key and bytes each time, in order");
    nothing_lies_apart(&broker).await;
    keeper.stop().await;
    mesh.drain().await;
}
