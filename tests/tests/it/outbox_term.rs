//! A relay's term that ends when the members of a batch are at the broker and their commit is not sent yet: nothing of it is stored.

use std::time::Duration;

use async_nats::jetstream;
use bytes::Bytes;
use futures_util::StreamExt as _;
use mesh_core::{
    bus::{Bus, PublishError},
    clock::Term,
    gate::{Cause, Leave, Sealed},
};
use mesh_tests::{TestBroker, foreign};
use prost::Message as _;
use shop_proto::shop::orders::v1::OrderPlaced;
use tokio::{
    task::{JoinSet, yield_now},
    time::{Instant, timeout},
};

use crate::{
    outbox::STREAM,
    shop::{EVENT, orders},
};

const HOUR: Duration = Duration::from_secs(3600);
/// What was sent is there long before, on whatever machine.
const SOON: Duration = Duration::from_secs(30);
/// So many at once go as a batch, of which all but the last are sent at once.
const AT_ONCE: usize = 20;
/// Looks of the committer who else comes: by the first of them it has sent what it has.
const LOOKS: usize = 16;

fn event(bus: &Bus, id: &str) -> Sealed {
    let payload = OrderPlaced { customer_id: id.into(), ..OrderPlaced::default() }.encode_to_vec();
    let cause = Cause { id: Some(id.to_owned()), ..Cause::default() };
    bus.gate().seal_event(("orders", EVENT), "", cause, Bytes::from(payload)).unwrap()
}

/// There is one thread, so the committer looks who comes whenever this test waits, and ends its batch when nobody does. One comes
/// each time, until the term ends: then the batch is open, and all of it but its last member is sent.
#[tokio::test]
async fn a_batch_whose_term_ends_before_its_commit_is_not_stored() {
    // Its last member is the commit: it may be one that has no term.
    for free in [None, Some(AT_ONCE - 1)] {
        let broker = TestBroker::start(&[orders()]).await.unwrap();
        let mesh = broker.connect("orders").await.unwrap();
        let (bus, term) = (mesh.bus(), Term::default());
        // What comes to the broker, stored or not.
        let client = foreign::client(&broker, "operator").await;
        let mut come = client.subscribe("mesh1.event.>").await.unwrap();
        // A round trip: it is known at the broker.
        jetstream::new(client.clone()).get_stream(STREAM).await.unwrap();
        term.extend_to(Instant::now() + HOUR);
        let mut publishes = JoinSet::new();
        let mut publish = |id: usize| {
            let leave = Leave { term: term.clone(), latest: Instant::now() + HOUR };
            let (bus, sealed) = (bus.clone(), event(bus, &id.to_string()));
            let sealed = if free == Some(id) { sealed } else { sealed.leaving(leave) };
            publishes.spawn(async move { (id, bus.publish(STREAM, sealed).await) });
        };
        (0..AT_ONCE).for_each(&mut publish);
        for id in AT_ONCE..AT_ONCE + LOOKS {
            yield_now().await;
            publish(id);
        }
        assert!(publishes.try_join_next().is_none(), "the batch was ended before the term was");
        term.extend_to(Instant::now());

        for (id, outcome) in publishes.join_all().await {
            match outcome {
                Ok(_) => assert_eq!(free, Some(id), "{outcome:?}"),
                Err(PublishError::NotSent(why)) => assert!(free != Some(id) && why.contains("is over"), "{id}: {why}"),
                Err(error) => panic!("{id}: {error}"),
            }
        }
        let operator = broker.connect("operator").await.unwrap();
        let stored = crate::commit::stored(operator.bus(), STREAM).await;
        let expected: Vec<_> = free.map(|id| format!("orders/{EVENT}/{id}")).into_iter().collect();
        assert_eq!(stored.into_values().map(|(id, _)| id).collect::<Vec<_>>(), expected);
        for id in 0..AT_ONCE - 1 {
            let member = timeout(SOON, come.next()).await.unwrap().unwrap();
            assert_eq!(OrderPlaced::decode(member.payload.clone()).unwrap().customer_id, id.to_string());
            assert!(member.headers.unwrap().get("Nats-Batch-Id").is_some(), "{id} came as a member of the batch");
        }
        operator.drain().await;
        mesh.drain().await;
    }
}
