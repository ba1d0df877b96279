//! `mesh apply` on a mesh that stands: what somebody set stays, what is lost is asked for, and every change is printed.

use std::{borrow::Cow, time::Duration};

use async_nats::jetstream::{Context as JetStream, consumer::PullConsumer, stream};
use futures_util::TryStreamExt as _;
use mesh_core::{
    Fault,
    bus::{Bus, StreamLimits},
    envelope::header,
    fault::{Code, Effect, Reason},
    operate::{
        letters,
        topology::{self, Waiting},
    },
    policy::compile::Declaration,
    subject::{self, Class},
};
use mesh_tests::{TestBroker, campaign::cluster::TestCluster, eventually};
use prost::Message as _;
use shop_proto::shop::payments::v1::PaymentsServer;

use crate::{
    claims::foreign,
    command_line::Operator,
    shop::{Bank, PAYMENTS, charge_of, consumer, declaration, orders, till},
};

const EVENTS: &str = "mesh1-event-orders";
pub(crate) const WORK: &str = "mesh1-work-shop-payments-v1-Payments";
pub(crate) const WORKER: &str = "bank_shop-payments-v1-payments";
pub(crate) const AGENT: &str = "agent_shop-payments-v1-payments";
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

#[tokio::test(flavor = "multi_thread")]
async fn what_was_changed_before_something_failed_is_printed() {
    let broker = TestBroker::start(&[orders(), consumer("a", "work")]).await.unwrap();
    let jetstream = foreign(&broker, "operator").await;
    let theirs = stream::Config { duplicate_window: Duration::from_secs(60), ..config(&jetstream, EVENTS).await };
    jetstream.update_stream(theirs).await.unwrap();
    // Where a consumer begins can't be changed.
    let events = jetstream.get_stream(EVENTS).await.unwrap();
    let theirs = events.consumer_info("a_work").await.unwrap().config;
    events.delete_consumer("a_work").await.unwrap();
    let deliver_policy = async_nats::jetstream::consumer::DeliverPolicy::New;
    let theirs = async_nats::jetstream::consumer::pull::Config {
        durable_name: Some("a_work".into()),
        deliver_policy,
        ..pull(&theirs)
    };
    events.create_consumer(theirs).await.unwrap();

    let operator = Operator::at(&broker, "operator");
    let apply = ["apply", "--as", "operator", "--config", &mesh_file(&operator)];
    let ended = operator.run(&apply).await;
    let (done, why) = (String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
    assert_eq!(ended.status.code(), Some(1), "{why}");
    assert_eq!(done, "changed   mesh1-event-orders: duplicate_window 1m -> 2m\n", "{why}");
    assert!(why.contains("a_work"), "{why}");
}

/// What a service serves of the payments.
pub(crate) fn serving(methods: &[&str]) -> Declaration {
    served_by("bank", methods)
}

pub(crate) fn served_by(service: &str, methods: &[&str]) -> Declaration {
    let serves = methods.iter().map(|method| (PAYMENTS.to_owned(), (*method).to_owned())).collect();
    Declaration { serves, ..declaration(service) }
}

pub(crate) async fn queue(bus: &Bus, method: &str, id: &str) {
    let subject =
        subject::work(&"local".parse().unwrap(), (PAYMENTS, method), Class::Normal, 0, &"till".parse().unwrap());
    let headers = vec![(Cow::Borrowed(header::MESSAGE_ID), id.to_owned())];
    bus.publish(WORK, bus.gate().seal_own(subject, headers, charge_of(1, 100).encode_to_vec().into())).await.unwrap();
}

/// Takes `many` deliveries; the ids of what came.
async fn take(jetstream: &JetStream, many: usize) -> (Vec<String>, Vec<async_nats::jetstream::Message>) {
    take_of(jetstream, WORKER, many).await
}

pub(crate) async fn take_of(
    jetstream: &JetStream,
    durable: &str,
    many: usize,
) -> (Vec<String>, Vec<async_nats::jetstream::Message>) {
    let consumer: PullConsumer = jetstream.get_consumer_from_stream(durable, WORK).await.unwrap();
    let (mut came, mut pulls) = (Vec::new(), 0);
    // A server of a cluster may drop a pull whose inbox it has not heard of yet: who works asks again.
    while came.len() < many && pulls < 5 {
        let more = consumer.fetch().max_messages(many - came.len()).expires(Duration::from_secs(2));
        came.extend(more.messages().await.unwrap().try_collect::<Vec<_>>().await.unwrap());
        pulls += 1;
    }
    let id = |message: &async_nats::jetstream::Message| {
        message.headers.as_ref().and_then(|headers| headers.get("Nats-Msg-Id")).unwrap().to_string()
    };
    (came.iter().map(id).collect(), came)
}

pub(crate) async fn accept(deliveries: Vec<async_nats::jetstream::Message>) {
    for delivery in deliveries {
        delivery.double_ack().await.unwrap();
    }
}

/// What was queued for a method before anybody served it is delivered once somebody does, and nothing else again.
async fn what_lay_there_is_delivered(bus: &Bus, jetstream: &JetStream) {
    for (method, id) in [("Charge", "c1"), ("Refund", "r1"), ("Refund", "r2"), ("Charge", "c2"), ("Refund", "r3")] {
        queue(bus, method, id).await;
    }
    let (ids, came) = take(jetstream, 2).await;
    assert_eq!(ids, ["c1", "c2"]);
    accept(came).await;
    let applied = topology::apply(bus, &[serving(&["Charge", "Refund"])], &StreamLimits::default()).await.unwrap();
    assert_eq!(applied.changes.len(), 1, "{:?}", applied.changes);
    queue(bus, "Refund", "r4").await;
    queue(bus, "Charge", "c3").await;
    let (ids, came) = take(jetstream, 5).await;
    assert_eq!(ids, ["r1", "r2", "r3", "r4", "c3"]);
    accept(came).await;
    let state = bus.consumer_state(WORK, WORKER).await.unwrap().unwrap();
    assert_eq!((state.pending, state.in_flight), (0, 0));
    eventually("an empty queue", || async {
        (bus.stream_state(WORK).await.unwrap().unwrap().messages == 0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_queued_for_a_method_is_delivered_once_it_is_served() {
    let broker = TestBroker::start(&[serving(&["Charge"])]).await.unwrap();
    let operator = broker.connect("operator").await.unwrap();
    what_lay_there_is_delivered(operator.bus(), &foreign(&broker, "operator").await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_queued_for_a_method_is_delivered_by_three_servers_too() {
    let cluster = TestCluster::of(&[serving(&["Charge"])], &StreamLimits::default()).await.unwrap();
    let operator = cluster.connect("operator").await.unwrap();
    what_lay_there_is_delivered(operator.bus(), &cluster.jetstream().await.unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn work_that_is_under_way_meanwhile_is_done_once() {
    // The bank has the rights that it will need; until now it is asked for charges alone.
    let declared = [serving(&["Charge", "Refund"]), till()];
    let broker = TestBroker::start(&declared).await.unwrap();
    let jetstream = foreign(&broker, "operator").await;
    jetstream.delete_consumer_from_stream(WORKER, WORK).await.unwrap();
    broker.apply(&[serving(&["Charge"])], &StreamLimits::default()).await.unwrap();
    let operator = broker.connect("operator").await.unwrap();
    let (bus, bank) = (operator.bus(), broker.connect("bank").await.unwrap());
    let books = Bank::default();
    bank.serve(PaymentsServer::new(books.clone())).start().await.unwrap();
    let handler_waits = books.0.lock().await;
    queue(bus, "Refund", "till/r1").await;
    queue(bus, "Charge", "till/c1").await;
    eventually("a charge that is under way", || async {
        (bus.consumer_state(WORK, WORKER).await.unwrap().unwrap().in_flight == 1).then_some(())
    })
    .await;
    let limits = StreamLimits::default();
    let apply = topology::apply(bus, &declared, &limits);
    let release = async {
        let stream = jetstream.get_stream(WORK).await.unwrap();
        eventually("the pause", || async { stream.consumer_info(WORKER).await.unwrap().paused.then_some(()) }).await;
        queue(bus, "Charge", "till/c2").await;
        assert_eq!(stream.consumer_info(WORKER).await.unwrap().num_ack_pending, 1, "it waits for what is under way");
        drop(handler_waits);
    };
    let (applied, ()) = tokio::join!(apply, release);
    applied.unwrap();
    queue(bus, "Charge", "till/c3").await;
    eventually("all charges", || async { (books.0.lock().await.len() == 3).then_some(()) }).await;
    // This bank knows no refunds: that it says so shows that it was asked.
    let refund = eventually("a letter of the refund", || async {
        letters::list(bus, &letters::Selector::default()).await.unwrap().letters.pop()
    })
    .await;
    assert_eq!(refund.letter.fault.unwrap().reason, Reason::Unimplemented.code());
    eventually("an empty queue", || async {
        (bus.stream_state(WORK).await.unwrap().unwrap().messages == 0).then_some(())
    })
    .await;
    let mut handled = books.0.lock().await.clone();
    handled.sort_unstable();
    assert_eq!(handled, ["till/c1", "till/c2", "till/c3"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_that_does_not_end_keeps_a_consumer_as_it_was() {
    let broker = TestBroker::start(&[serving(&["Charge"])]).await.unwrap();
    let operator = broker.connect("operator").await.unwrap();
    let (bus, jetstream) = (operator.bus(), foreign(&broker, "operator").await);
    queue(bus, "Refund", "r1").await;
    queue(bus, "Charge", "c1").await;
    let (ids, came) = take(&jetstream, 1).await;
    assert_eq!(ids, ["c1"]);
    let declared = [serving(&["Charge", "Refund"])];
    let limits = StreamLimits { patience: Duration::from_secs(2), ..StreamLimits::default() };
    let applied = topology::apply(bus, &declared, &limits).await.unwrap();
    let [Waiting { fault, .. }] = applied.waiting.as_slice() else { panic!("{applied:?}") };
    assert_eq!((fault.code(), fault.effect()), (Code::Unavailable, Effect::None), "{fault}");
    let info = jetstream.get_stream(WORK).await.unwrap().consumer_info(WORKER).await.unwrap();
    assert!(!info.paused && info.num_ack_pending == 1 && info.config.filter_subjects.len() < 2, "{info:?}");
    accept(came).await;
    let applied = topology::apply(bus, &declared, &StreamLimits::default()).await.unwrap();
    assert_eq!(applied.waiting, []);
    assert_eq!(take(&jetstream, 1).await.0, ["r1"]);
}

/// The same, where the new service has no consumer yet: it is made, and is not given what the old one has in hand.
#[tokio::test(flavor = "multi_thread")]
async fn a_method_that_moves_to_a_new_service_is_given_to_nobody_while_another_one_has_it() {
    let broker = TestBroker::start(&[serving(&["Charge", "Refund"])]).await.unwrap();
    let operator = broker.connect("operator").await.unwrap();
    let (bus, jetstream) = (operator.bus(), foreign(&broker, "operator").await);
    queue(bus, "Refund", "r1").await;
    queue(bus, "Refund", "r2").await;
    let (ids, came) = take(&jetstream, 1).await;
    assert_eq!(ids, ["r1"]);

    let limits = StreamLimits::default();
    let alone = topology::apply(bus, &[served_by("agent", &["Refund"]), orders()], &limits).await.unwrap();
    assert_eq!(alone.waiting.len(), 1, "who is not declared any more reads it still: {alone:?}");
    assert!(bus.stream_state(EVENTS).await.unwrap().is_some(), "everything else stands");
    let moved = [served_by("agent", &["Refund"]), serving(&["Charge"])];
    let settle = async {
        let stream = jetstream.get_stream(WORK).await.unwrap();
        eventually("the pause", || async { stream.consumer_info(WORKER).await.unwrap().paused.then_some(()) }).await;
        let info = stream.consumer_info(WORKER).await.unwrap();
        assert_eq!(
            (info.num_ack_pending, info.config.filter_subjects.len()),
            (1, 2),
            "it is cut down once it is quiet"
        );
        assert_eq!(bus.consumer_state(WORK, AGENT).await.unwrap(), None, "r1 is in hand");
        accept(came).await;
    };
    let (applied, ()) = tokio::join!(topology::apply(bus, &moved, &limits), settle);
    assert_eq!(applied.unwrap().waiting, []);
    let (ids, came) = take_of(&jetstream, AGENT, 1).await;
    assert_eq!(ids, ["r2"], "and not the one that was in hand");
    accept(came).await;
    let state = bus.consumer_state(WORK, AGENT).await.unwrap().unwrap();
    assert_eq!((state.pending, state.in_flight), (0, 0));
}

/// A method moves to a service whose name comes first, while its old one has one in hand. Servers of a cluster would let both read it.
#[tokio::test(flavor = "multi_thread")]
async fn a_method_that_moves_is_given_to_nobody_while_another_one_has_it() {
    let limits = StreamLimits::default();
    let declared = [served_by("agent", &["Ship"]), serving(&["Charge", "Refund"])];
    let cluster = TestCluster::of(&declared, &limits).await.unwrap();
    let operator = cluster.connect("operator").await.unwrap();
    let (bus, jetstream) = (operator.bus(), cluster.jetstream().await.unwrap());
    queue(bus, "Refund", "r1").await;
    queue(bus, "Refund", "r2").await;
    let (ids, came) = take(&jetstream, 1).await;
    assert_eq!(ids, ["r1"]);

    // Who is not declared any more reads it still.
    let alone = [served_by("agent", &["Ship", "Refund"])];
    let applied = topology::apply(bus, &alone, &StreamLimits::default()).await.unwrap();
    let [Waiting { fault, .. }] = applied.waiting.as_slice() else { panic!("{applied:?}") };
    assert!(fault.message().contains(&format!("what {WORKER} on {WORK} reads still")), "{fault}");

    let moved = [served_by("agent", &["Ship", "Refund"]), serving(&["Charge"])];
    let settle = async {
        let stream = jetstream.get_stream(WORK).await.unwrap();
        eventually("the pause", || async { stream.consumer_info(AGENT).await.unwrap().paused.then_some(()) }).await;
        assert_eq!(stream.consumer_info(WORKER).await.unwrap().num_ack_pending, 1, "it waits for what is under way");
        accept(came).await;
    };
    let (applied, ()) = tokio::join!(topology::apply(bus, &moved, &limits), settle);
    assert_eq!(applied.unwrap().waiting, []);
    let (ids, came) = take_of(&jetstream, AGENT, 1).await;
    assert_eq!(ids, ["r2"], "and not the one that was in hand");
    accept(came).await;
    for durable in [AGENT, WORKER] {
        let state = bus.consumer_state(WORK, durable).await.unwrap().unwrap();
        assert_eq!((state.pending, state.in_flight), (0, 0), "{durable}");
    }
}
