//! `mesh apply` on a mesh that stands: what somebody set stays, what is lost is asked for, and every change is printed.

use std::time::Duration;

use async_nats::jetstream::{Context as JetStream, stream};
use mesh_core::{Fault, bus::StreamLimits, fault::Reason, operate::topology};
use mesh_tests::{TestBroker, campaign::cluster::TestCluster};

use crate::{
    claims::foreign,
    command_line::Operator,
    shop::{consumer, orders},
};

const EVENTS: &str = "mesh1-event-orders";
const DAY: Duration = Duration::from_secs(86400);

async fn config(jetstream: &JetStream, stream: &str) -> stream::Config {
    jetstream.get_stream(stream).await.unwrap().cached_info().config.clone()
}

fn mesh_file(operator: &Operator) -> String {
    let file = operator.home.path().join("mesh.yaml");
    let text = "services:
  orders: {publishes: [shop.orders.v1.OrderPlaced]}
  a: {consumes: {work: shop.orders.v1.OrderPlaced}}
";
    std::fs::write(&file, text).unwrap();
    file.display().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn applying_again_takes_nothing_away_that_somebody_set() {
    let broker = TestBroker::start(&[orders(), consumer("a", "work")]).await.unwrap();
    let jetstream = foreign(&broker, "operator").await;
    for name in [EVENTS, "mesh1-outcome", "mesh1-dead-letter"] {
        let theirs = config(&jetstream, name).await;
        let theirs =
            stream::Config { max_age: DAY * 30, max_bytes: 10_000_000, description: Some("ours".into()), ..theirs };
        jetstream.update_stream(theirs).await.unwrap();
    }
    let events = jetstream.get_stream(EVENTS).await.unwrap();
    let mut theirs = events.consumer_info("a_work").await.unwrap().config;
    theirs.max_ack_pending = 99;
    let name = theirs.durable_name.clone().unwrap();
    let theirs = async_nats::jetstream::consumer::pull::Config { durable_name: Some(name), ..pull(&theirs) };
    events.create_consumer(theirs).await.unwrap();
    let mut before = Vec::new();
    for name in [EVENTS, "mesh1-outcome", "mesh1-dead-letter", "mesh1-lane-a"] {
        before.push(config(&jetstream, name).await);
    }

    let operator = Operator::at(&broker, "operator");
    let file = mesh_file(&operator);
    let apply = ["apply", "--as", "operator", "--config", &file];
    let made = operator.json(0, &apply).await;
    assert_eq!(made["changes"], serde_json::json!([]), "{made}");
    for config_before in before {
        assert_eq!(config(&jetstream, &config_before.name).await, config_before);
    }
    assert_eq!(events.consumer_info("a_work").await.unwrap().config.max_ack_pending, 99);

    let ended = operator.run(&[&apply[..], &["--event-age", "7d"]].concat()).await;
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(2), "{said}");
    assert!(said.contains("mesh1-event-orders: max_age 30d -> 7d") && said.contains("--force"), "{said}");
    assert_eq!(config(&jetstream, EVENTS).await.max_age, DAY * 30, "nothing was changed");

    let ended = operator.run(&[&apply[..], &["--event-age", "7d", "--force"]].concat()).await;
    let said = String::from_utf8_lossy(&ended.stdout);
    assert_eq!(ended.status.code(), Some(0), "{ended:?}");
    assert!(said.contains("changed   mesh1-event-orders: max_age 30d -> 7d\n"), "{said}");
    assert_eq!(config(&jetstream, EVENTS).await.max_age, DAY * 7);
    assert_eq!(config(&jetstream, "mesh1-dead-letter").await.max_age, DAY * 30, "an age is of events and outcomes");
}

fn pull(config: &async_nats::jetstream::consumer::Config) -> async_nats::jetstream::consumer::pull::Config {
    async_nats::jetstream::consumer::pull::Config {
        filter_subjects: config.filter_subjects.clone(),
        filter_subject: config.filter_subject.clone(),
        ack_policy: config.ack_policy,
        ack_wait: config.ack_wait,
        max_deliver: config.max_deliver,
        max_ack_pending: config.max_ack_pending,
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn three_copies_stay_three_and_a_stream_that_comes_later_has_three() {
    let cluster = TestCluster::of(&[orders()], &StreamLimits::default()).await.unwrap();
    let jetstream = cluster.jetstream().await.unwrap();
    let operator = cluster.connect("operator").await.unwrap();
    let apply = async |limits: StreamLimits| -> Result<Vec<String>, Fault> {
        let declarations = [orders(), consumer("a", "work")];
        let applied = topology::apply(operator.bus(), &declarations, &limits).await?;
        Ok(applied.changes.into_iter().map(|it| format!("{} {} {} {}", it.stream, it.field, it.from, it.to)).collect())
    };
    assert_eq!(apply(StreamLimits::default()).await.unwrap(), Vec::<String>::new());
    for name in [EVENTS, "mesh1-dead-letter", "mesh1-lane-a"] {
        assert_eq!(config(&jetstream, name).await.num_replicas, 3, "{name}");
    }

    let fewer = StreamLimits { replicas: Some(1), ..StreamLimits::default() };
    let refused = apply(fewer.clone()).await.unwrap_err();
    assert_eq!(refused.reason(), Reason::InvalidInput, "{refused}");
    assert!(refused.message().contains("mesh1-dead-letter: num_replicas 3 -> 1"), "{refused}");
    assert_eq!(config(&jetstream, EVENTS).await.num_replicas, 3, "nothing was changed");

    let changes = apply(StreamLimits { may_lower: true, ..fewer }).await.unwrap();
    assert!(changes.contains(&"mesh1-event-orders num_replicas 3 1".to_owned()), "{changes:?}");
    assert_eq!(config(&jetstream, EVENTS).await.num_replicas, 1);
}
