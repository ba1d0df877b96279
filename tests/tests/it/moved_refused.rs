//! Methods that can't move yet: then everything is as it was, and nobody is left without a reader.

use std::time::Duration;

use mesh_core::{
    bus::{Bus, StreamLimits},
    fault::{Effect, Reason},
    operate::topology::{self, Applied, Waiting},
    policy::compile::Declaration,
};
use mesh_tests::{TestBroker, eventually};
use serde_json::json;

use crate::{
    claims::foreign,
    command_line::Operator,
    moved::{apply, ids, read_by},
    topology::{AGENT, WORK, WORKER, accept, queue, served_by, serving, take_of},
};

/// Soon it is known that nothing ends.
async fn apply_in_vain(bus: &Bus, declared: &[Declaration]) -> Applied {
    let limits = StreamLimits { patience: Duration::from_secs(2), ..StreamLimits::default() };
    topology::apply(bus, declared, &limits).await.unwrap()
}

/// What one apply left as it was, and why.
fn waiting(applied: &Applied) -> (&[String], &str) {
    let [Waiting { stream, consumers, fault }] = applied.waiting.as_slice() else { panic!("{applied:?}") };
    assert_eq!((stream.as_str(), applied.changes.as_slice()), (WORK, [].as_slice()), "{applied:?}");
    (consumers, fault.message())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_does_not_become_quiet_keeps_its_methods() {
    let broker = TestBroker::start(&[serving(&["Charge", "Refund"]), served_by("agent", &["Ship"])]).await.unwrap();
    let operator = broker.connect("operator").await.unwrap();
    let (bus, jetstream) = (operator.bus(), foreign(&broker, "operator").await);
    for id in ["r1", "r2"] {
        queue(bus, "Refund", id).await;
    }
    let (taken, in_hand) = take_of(&jetstream, WORKER, 1).await;
    assert_eq!(taken, ["r1"]);
    // Of what has nothing to do with it, everything is done.
    let moved = [serving(&["Charge"]), served_by("agent", &["Ship", "Refund"]), served_by("zoo", &["Pack"])];
    let applied = apply_in_vain(bus, &moved).await;
    let (consumers, why) = waiting(&applied);
    assert_eq!(consumers, [AGENT, WORKER]);
    assert!(
        why.contains(&format!("{WORKER} on {WORK}")) && why.contains("under way") && why.contains("apply again"),
        "{why}"
    );
    assert_eq!(read_by(&jetstream, WORKER).await, ["Charge", "Refund"]);
    assert_eq!(read_by(&jetstream, AGENT).await, ["Ship"]);
    assert_eq!(read_by(&jetstream, "zoo_shop-payments-v1-payments").await, ["Pack"]);
    assert_eq!(ids(&jetstream, WORKER, 1).await, ["r2"], "who had it serves it");
    accept(in_hand).await;
    assert_eq!(apply(bus, &moved).await.waiting, []);
    assert_eq!(read_by(&jetstream, AGENT).await, ["Refund", "Ship"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_method_stays_where_it_is_while_the_new_consumer_is_busy() {
    let broker = TestBroker::start(&[serving(&["Charge", "Refund"]), served_by("agent", &["Ship"])]).await.unwrap();
    let operator = broker.connect("operator").await.unwrap();
    let (bus, jetstream) = (operator.bus(), foreign(&broker, "operator").await);
    for (method, id) in [("Ship", "s1"), ("Refund", "r1")] {
        queue(bus, method, id).await;
    }
    let (taken, in_hand) = take_of(&jetstream, AGENT, 1).await;
    assert_eq!(taken, ["s1"]);
    let moved = [serving(&["Charge"]), served_by("agent", &["Ship", "Refund"])];
    let applied = apply_in_vain(bus, &moved).await;
    assert!(waiting(&applied).1.contains(&format!("{AGENT} on {WORK}")), "{applied:?}");
    assert_eq!(read_by(&jetstream, WORKER).await, ["Charge", "Refund"]);
    accept(in_hand).await;
    assert_eq!(apply(bus, &moved).await.waiting, []);
    assert_eq!(ids(&jetstream, AGENT, 1).await, ["r1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_old_consumer_gave_up_is_not_given_to_the_new_one() {
    let limits = StreamLimits { max_deliver: 1, ack_wait: Duration::from_secs(1), ..StreamLimits::default() };
    let broker = TestBroker::with(&[serving(&["Charge", "Refund"])], true, &limits).await.unwrap();
    let operator = broker.connect("operator").await.unwrap();
    let (bus, jetstream) = (operator.bus(), foreign(&broker, "operator").await);
    queue(bus, "Refund", "r1").await;
    let (taken, _lost) = take_of(&jetstream, WORKER, 1).await;
    assert_eq!(taken, ["r1"]);
    eventually("a delivery that is given up", || async {
        bus.probe(WORK, WORKER).await.unwrap();
        (bus.consumer_state(WORK, WORKER).await.unwrap().unwrap().in_flight == 0).then_some(())
    })
    .await;
    queue(bus, "Refund", "r2").await;
    let moved = [serving(&["Charge"]), served_by("agent", &["Refund"])];
    let applied = apply_in_vain(bus, &moved).await;
    assert!(waiting(&applied).1.contains("given up"), "{applied:?}");
    assert_eq!(bus.consumer_state(WORK, AGENT).await.unwrap(), None);
    assert_eq!(read_by(&jetstream, WORKER).await, ["Charge", "Refund"]);

    // As the keeper does once its letter is confirmed.
    bus.delete_message(WORK, 1).await.unwrap();
    assert_eq!(apply(bus, &moved).await.waiting, []);
    assert_eq!(ids(&jetstream, AGENT, 1).await, ["r2"]);
    let state = bus.consumer_state(WORK, AGENT).await.unwrap().unwrap();
    assert_eq!((state.deliveries, state.pending), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_that_are_to_serve_the_same_are_both_refused() {
    let broker = TestBroker::start(&[serving(&["Charge"])]).await.unwrap();
    let operator = broker.connect("operator").await.unwrap();
    let declared = [serving(&["Charge"]), served_by("agent", &["Pack"]), served_by("zoo", &["Pack"])];
    let applied = apply_in_vain(operator.bus(), &declared).await;
    let (consumers, why) = waiting(&applied);
    assert_eq!(consumers, [AGENT, "zoo_shop-payments-v1-payments"]);
    assert!(why.contains("both to serve"), "{why}");
    assert_eq!(operator.bus().consumer_state(WORK, AGENT).await.unwrap(), None);
}

/// The keeper may make consumers, and neither pause nor reset them.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_may_not_pause_is_told_so_and_of_no_pause() {
    let broker = TestBroker::start(&[serving(&["Charge", "Refund"]), served_by("agent", &["Ship"])]).await.unwrap();
    let (keeper, jetstream) = (broker.connect("keeper").await.unwrap(), foreign(&broker, "operator").await);
    queue(broker.connect("operator").await.unwrap().bus(), "Refund", "r1").await;
    let moved = [serving(&["Charge"]), served_by("agent", &["Ship", "Refund"])];
    let applied = topology::apply(keeper.bus(), &moved, &StreamLimits::default()).await.unwrap();
    let [Waiting { fault, .. }] = applied.waiting.as_slice() else { panic!("{applied:?}") };
    assert_eq!((fault.reason(), fault.effect()), (Reason::AccessDenied, Effect::None), "{fault}");
    assert!(fault.message().contains("CONSUMER.PAUSE") && fault.message().contains("mesh keys"), "{fault}");
    assert_eq!((applied.changes, applied.warnings), (vec![], vec![]));
    assert_eq!(read_by(&jetstream, WORKER).await, ["Charge", "Refund"]);
    assert_eq!(ids(&jetstream, WORKER, 1).await, ["r1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_waits_is_not_printed_as_one_that_stands() {
    let broker = TestBroker::start(&[serving(&["Charge"])]).await.unwrap();
    let operator = Operator::at(&broker, "operator");
    let file = operator.home.path().join("mesh.yaml");
    std::fs::write(&file, "services:\n  agent: {serves: [shop.payments.v1.Payments/Charge]}\n").unwrap();
    let words = ["apply", "--as", "operator", "--config", &file.display().to_string()];
    let applied = operator.json(1, &words).await;
    let [waiting] = applied["waiting"].as_array().unwrap().as_slice() else { panic!("{applied}") };
    assert_eq!((&waiting["stream"], &waiting["name"]), (&json!(WORK), &json!(AGENT)));
    assert!(waiting["why"].as_str().unwrap().contains(WORKER), "{waiting}");
    let standing = json!([{ "stream": "mesh1-lane-agent", "name": AGENT }]);
    assert_eq!((&applied["consumers"], &applied["warnings"]), (&standing, &json!([])));

    let ended = operator.run(&words).await;
    let said = String::from_utf8_lossy(&ended.stdout);
    assert!(said.contains(&format!("waiting   {AGENT} on {WORK}: not as declared yet\n")), "{said}");
    assert!(!said.contains(&format!("consumer  {AGENT} on {WORK}\n")), "{said}");
}
