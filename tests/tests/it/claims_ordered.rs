//! Messages that lie apart keep the order of their key.

use mesh_core::{
    dead_letter::LetterState,
    operate::letters,
    policy::compile::{Consumes, Declaration},
};
use mesh_tests::{
    TestBroker, eventually,
    seen::{Taken, fails_twice, waits_on_the_lane},
};
use shop_proto::shop::orders::v1::OrderPlaced;

use crate::{
    claims::{MAX_PAYLOAD, by_ada, messages, nothing_lies_apart, one_letter, order_of, publish, start_keeper},
    shop::{consumer, orders},
};

pub(crate) fn ordered() -> Declaration {
    let declaration = consumer("a", "work");
    let consumes = declaration.consumes.into_iter().map(|consumes| Consumes { ordered: true, ..consumes }).collect();
    Declaration { consumes, ..declaration }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_lies_apart_holds_its_key_back_on_the_lane_and_as_a_letter() {
    let broker = TestBroker::start(&[orders(), ordered()]).await.unwrap();
    let keeper = start_keeper(&broker).await;
    let mesh = broker.connect("a").await.unwrap();
    let seen = Taken::default();
    let handler = fails_twice(&seen, |cx, event| (cx.local_id().to_owned(), event.placed_on.len()));
    mesh.consumer::<OrderPlaced>("work").settings(waits_on_the_lane()).start(handler).await.unwrap();
    let event = order_of(MAX_PAYLOAD - 200);
    for id in ["first", "second", "third"] {
        publish(&broker, id, &event).await;
    }
    let letter = one_letter(&broker, LetterState::Open).await;
    assert_eq!(letter.letter.key, "1");
    eventually("those behind it to wait on the lane", || async {
        (messages(&broker, "mesh1-lane-a").await == 2).then_some(())
    })
    .await;
    let operator = broker.connect("operator").await.unwrap();
    letters::replay(operator.bus(), &letter, &by_ada()).await.unwrap();
    one_letter(&broker, LetterState::Resolved).await;
    eventually("all", || async { (seen.lock().unwrap().len() >= 5).then_some(()) }).await;
    let bytes = event.placed_on.len();
    let expected = ["first", "first", "first", "second", "third"].map(|id| (id.to_owned(), bytes));
    assert_eq!(*seen.lock().unwrap(), expected);
    nothing_lies_apart(&broker).await;
    keeper.stop().await;
    mesh.drain().await;
}
