//! Messages that lie apart keep the order of their key.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use mesh_core::{
    Context, Fault,
    consume::{ConsumerSettings, OrderSettings},
    dead_letter::LetterState,
    operate::letters,
    policy::{
        compile::{Consumes, Declaration},
        retry::RetryRule,
    },
};
use mesh_tests::{TestBroker, eventually};
use shop_proto::shop::orders::v1::OrderPlaced;

use crate::{
    claims::{MAX_PAYLOAD, Running, by_ada, messages, nothing_lies_apart, one_letter, order_of, publish},
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
    let keeper = Running::start(&broker).await;
    let mesh = broker.connect("a").await.unwrap();
    let seen = Arc::new(Mutex::new(Vec::<(String, usize)>::new()));
    let into = Arc::clone(&seen);
    let handler = move |cx: Context, event: OrderPlaced| {
        let mut seen = into.lock().unwrap();
        seen.push((cx.local_id().to_owned(), event.placed_on.len()));
        let count = seen.len();
        async move {
            match count {
                1 => Err(Fault::unavailable("a moment, please")),
                2 => Err(Fault::invalid("not today")),
                _ => Ok(()),
            }
        }
    };
    // Every wait is spent on the lane.
    let order = OrderSettings { short_wait: Duration::ZERO, ..OrderSettings::default() };
    let retry = RetryRule { base: Duration::from_millis(100), ..RetryRule::default() };
    let settings = ConsumerSettings { order: Some(order), retry, ..ConsumerSettings::default() };
    mesh.consumer::<OrderPlaced>("work").settings(settings).start(handler).await.unwrap();
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
