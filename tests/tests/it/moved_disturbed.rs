//! Methods that move while somebody else does something too, or what moves them ends early: nothing is done twice or left
//! without a reader, and no consumer stands still for it.

use std::{
    process::Stdio,
    time::{Duration, SystemTime},
};

use async_nats::jetstream::{
    Context as JetStream, Message,
    consumer::{AckPolicy, Info, PullConsumer, pull},
};
use futures_util::StreamExt as _;
use mesh_core::{
    Mesh,
    bus::StreamLimits,
    operate::topology::{self, Waiting},
    policy::compile::Declaration,
};
use mesh_tests::{TestBroker, broker::REGION, eventually};

use crate::{
    claims::foreign,
    command_line::Operator,
    moved::{apply, ids, read_by},
    topology::{AGENT, WORK, WORKER, accept, queue, served_by, serving, take_of},
};

const ZOO: &str = "zoo_shop-payments-v1-payments";
const HOUR: Duration = Duration::from_secs(3600);

async fn info(jetstream: &JetStream, durable: &str) -> Info {
    jetstream.get_stream(WORK).await.unwrap().consumer_info(durable).await.unwrap()
}

/// Until a consumer was found to have nothing in hand: it is counted anew then.
async fn found_quiet(jetstream: &JetStream, durable: &str) {
    let is_counted = |info: Info| info.config.filter_subjects.iter().any(|filter| filter.contains(".nothing."));
    eventually("one that is quiet", || async { is_counted(info(jetstream, durable).await).then_some(()) }).await;
}

/// What one pull brings that ends soon.
async fn take_soon(jetstream: &JetStream, durable: &str) -> Option<Message> {
    let consumer: PullConsumer = jetstream.get_consumer_from_stream(durable, WORK).await.unwrap();
    let pull = consumer.fetch().max_messages(1).expires(Duration::from_millis(300));
    pull.messages().await.unwrap().next().await.map(Result::unwrap)
}

/// An agent that serves one method and a worker that serves two; one message of each is queued.
async fn one_of_each_queued() -> (TestBroker, Mesh, JetStream) {
    let broker = TestBroker::start(&[served_by("agent", &["Ship"]), serving(&["Charge", "Pack"])]).await.unwrap();
    let operator = broker.connect("operator").await.unwrap();
    for (method, id) in [("Charge", "c1"), ("Pack", "p1"), ("Ship", "s1")] {
        queue(operator.bus(), method, id).await;
    }
    let jetstream = foreign(&broker, "operator").await;
    (broker, operator, jetstream)
}

/// The worker has its first message in hand: what all wait for.
async fn first_of_worker(jetstream: &JetStream) -> Vec<Message> {
    let (taken, in_hand) = take_of(jetstream, WORKER, 1).await;
    assert_eq!(taken, ["c1"]);
    in_hand
}

/// Somebody has a paused consumer go on, and gets something of it.
async fn taken_though_paused(jetstream: &JetStream, durable: &str) -> Message {
    let stream = jetstream.get_stream(WORK).await.unwrap();
    eventually("a delivery to the one that was resumed", || async {
        stream.resume_consumer(durable).await.unwrap();
        take_soon(jetstream, durable).await
    })
    .await
}

/// What an operator makes of a consumer that stands.
async fn set(jetstream: &JetStream, durable: &str, filter_subjects: Vec<String>, max_ack_pending: i64) {
    let config = pull::Config {
        durable_name: Some(durable.into()),
        filter_subjects,
        ack_policy: AckPolicy::Explicit,
        ack_wait: Duration::from_secs(30),
        max_deliver: 1000,
        max_ack_pending,
        ..Default::default()
    };
    jetstream.get_stream(WORK).await.unwrap().create_consumer(config).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_somebody_resumes_meanwhile_is_waited_for_again() {
    let (_broker, operator, jetstream) = one_of_each_queued().await;
    let (bus, in_hand) = (operator.bus(), first_of_worker(&jetstream).await);
    let disturb = async {
        found_quiet(&jetstream, AGENT).await;
        assert!(take_soon(&jetstream, AGENT).await.is_none(), "it is paused");
        let taken = taken_though_paused(&jetstream, AGENT).await;
        assert!(taken.subject.contains(".Ship."), "{}", taken.subject);
        accept(in_hand).await;
        eventually("the pause", || async { info(&jetstream, AGENT).await.paused.then_some(()) }).await;
        let (agent, worker) = (info(&jetstream, AGENT).await, info(&jetstream, WORKER).await);
        assert_eq!(agent.num_ack_pending, 1, "what it has in hand is not forgotten");
        assert!(worker.config.filter_subjects.iter().any(|filter| filter.contains(".Pack.")), "{worker:?}");
        taken.double_ack().await.unwrap();
    };
    let moved = [served_by("agent", &["Ship", "Pack"]), serving(&["Charge"])];
    let (applied, ()) = tokio::join!(apply(bus, &moved), disturb);
    assert_eq!(applied.waiting, []);
    queue(bus, "Ship", "s2").await;
    assert_eq!(ids(&jetstream, AGENT, 2).await, ["p1", "s2"], "and not what it had in hand once more");
    assert_eq!(read_by(&jetstream, WORKER).await, ["Charge"]);
}

/// The broker's count of what it has not delivered may be off again once it has delivered something.
#[tokio::test(flavor = "multi_thread")]
async fn one_that_was_given_something_meanwhile_is_counted_anew() {
    let (_broker, operator, jetstream) = one_of_each_queued().await;
    let (bus, in_hand) = (operator.bus(), first_of_worker(&jetstream).await);
    let disturb = async {
        found_quiet(&jetstream, AGENT).await;
        let taken = taken_though_paused(&jetstream, AGENT).await;
        taken.double_ack().await.unwrap();
        // It was counted by one more subject: so it is by one less.
        let is_alone = |info: Info| info.config.filter_subjects.len() < 2;
        eventually("a count anew", || async { is_alone(info(&jetstream, AGENT).await).then_some(()) }).await;
        let (agent, worker) = (info(&jetstream, AGENT).await, info(&jetstream, WORKER).await);
        assert!(agent.paused && worker.num_ack_pending == 1, "all wait for the other one: {agent:?} {worker:?}");
        queue(bus, "Ship", "s2").await;
        accept(in_hand).await;
    };
    let moved = [served_by("agent", &["Ship", "Pack"]), serving(&["Charge"])];
    let (applied, ()) = tokio::join!(apply(bus, &moved), disturb);
    assert_eq!((applied.waiting, applied.warnings), (vec![], vec![]));
    assert_eq!(ids(&jetstream, AGENT, 2).await, ["p1", "s2"]);
    assert_eq!(
        (read_by(&jetstream, AGENT).await, read_by(&jetstream, WORKER).await),
        (vec!["Pack".into(), "Ship".into()], vec!["Charge".into()])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_sets_meanwhile_stays() {
    let broker = TestBroker::start(&[serving(&["Charge"])]).await.unwrap();
    let operator = broker.connect("operator").await.unwrap();
    let (bus, jetstream) = (operator.bus(), foreign(&broker, "operator").await);
    queue(bus, "Charge", "c1").await;
    queue(bus, "Refund", "r1").await;
    let (_, in_hand) = take_of(&jetstream, WORKER, 1).await;
    let disturb = async {
        let info =
            eventually("the pause", || async { Some(info(&jetstream, WORKER).await).filter(|info| info.paused) }).await;
        let filters = info.config.filter_subjects.into_iter().chain([info.config.filter_subject]);
        let filters = filters.filter(|filter| !filter.is_empty()).collect();
        set(&jetstream, WORKER, filters, 77).await;
        accept(in_hand).await;
    };
    let declared = [serving(&["Charge", "Refund"])];
    let (applied, ()) = tokio::join!(apply(bus, &declared), disturb);
    assert_eq!(applied.waiting, []);
    assert_eq!(read_by(&jetstream, WORKER).await, ["Charge", "Refund"]);
    assert_eq!(info(&jetstream, WORKER).await.config.max_ack_pending, 77);
    assert_eq!(ids(&jetstream, WORKER, 1).await, ["r1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_apply_that_ends_early_leaves_an_operators_pause_and_none_of_its_own_for_long() {
    let broker = TestBroker::start(&[served_by("agent", &["Ship"]), serving(&["Charge", "Refund"])]).await.unwrap();
    let operator = broker.connect("operator").await.unwrap();
    let (bus, jetstream) = (operator.bus(), foreign(&broker, "operator").await);
    queue(bus, "Charge", "c1").await;
    queue(bus, "Refund", "r1").await;
    let (_, in_hand) = take_of(&jetstream, WORKER, 1).await;
    let until = SystemTime::now() + HOUR;
    jetstream.get_stream(WORK).await.unwrap().pause_consumer(WORKER, until.into()).await.unwrap();
    let moved = [served_by("agent", &["Ship", "Refund"]), serving(&["Charge"])];
    tokio::select! {
        applied = apply(bus, &moved) => panic!("it waits for what is in hand: {applied:?}"),
        () = found_quiet(&jetstream, AGENT) => {}
    }
    let left = async |durable| info(&jetstream, durable).await.pause_remaining.unwrap_or_default();
    let (agent, worker) = (left(AGENT).await, left(WORKER).await);
    assert!(agent > Duration::ZERO && agent <= Duration::from_secs(40), "it goes on by itself: {agent:?}");
    assert!(worker > HOUR / 2, "{worker:?}");

    // The next one ends what that one left, and not what the operator did.
    accept(in_hand).await;
    let applied = apply(bus, &moved).await;
    assert_eq!((applied.waiting, applied.warnings), (vec![], vec![]));
    assert_eq!(read_by(&jetstream, AGENT).await, ["Refund", "Ship"]);
    let worker = left(WORKER).await;
    assert!(worker > HOUR / 2, "{worker:?}");
    assert_eq!(ids(&jetstream, AGENT, 1).await, ["r1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_else_makes_of_a_consumer_meanwhile_is_not_undone() {
    let declared = [served_by("agent", &["Ship"]), serving(&["Charge", "Refund"])];
    let broker = TestBroker::start(&declared).await.unwrap();
    let operator = broker.connect("operator").await.unwrap();
    let (bus, jetstream) = (operator.bus(), foreign(&broker, "operator").await);
    queue(bus, "Charge", "c1").await;
    queue(bus, "Refund", "r1").await;
    let (_, in_hand) = take_of(&jetstream, WORKER, 1).await;
    let disturb = async {
        found_quiet(&jetstream, AGENT).await;
        let spec = served_by("agent", &["Pack"]).consumers(&REGION.parse().unwrap()).swap_remove(0);
        set(&jetstream, AGENT, spec.filters, 4096).await;
    };
    let moved = [served_by("agent", &["Ship", "Refund"]), serving(&["Charge"])];
    // Nobody waits for what is in hand any more.
    let limits = StreamLimits { patience: HOUR, ..StreamLimits::default() };
    let (applied, ()) = tokio::join!(topology::apply(bus, &moved, &limits), disturb);
    let applied = applied.unwrap();
    let [Waiting { fault, .. }] = applied.waiting.as_slice() else { panic!("{applied:?}") };
    assert!(fault.message().contains("changed by somebody else"), "{fault}");
    assert_eq!(read_by(&jetstream, AGENT).await, ["Pack"]);
    assert_eq!(read_by(&jetstream, WORKER).await, ["Charge", "Refund"]);
    accept(in_hand).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn consumers_go_on_where_whoever_applies_is_told_to_end() {
    let broker = TestBroker::start(&[serving(&["Refund"])]).await.unwrap();
    let operator = broker.connect("operator").await.unwrap();
    let (bus, jetstream) = (operator.bus(), foreign(&broker, "operator").await);
    queue(bus, "Charge", "c1").await;
    queue(bus, "Refund", "r1").await;
    let (_, in_hand) = take_of(&jetstream, WORKER, 1).await;
    let person = Operator::at(&broker, "operator");
    let file = person.home.path().join("mesh.yaml");
    std::fs::write(&file, "services:\n  bank: {serves: [shop.payments.v1.Payments/Charge]}\n").unwrap();
    let words = ["apply", "--as", "operator", "--patience", "10m", "--config", &file.display().to_string()];
    let child = person.command(&words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let pid = i32::try_from(child.id()).unwrap();
    eventually("the pause", || async { info(&jetstream, WORKER).await.paused.then_some(()) }).await;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGINT).unwrap();
    let ended = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap()).await.unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(1), "{said}");
    assert!(said.contains("told to end") && !said.contains("be paused"), "{said}");
    assert_eq!(read_by(&jetstream, WORKER).await, ["Refund"]);
    accept(in_hand).await;
}

/// A consumer that an apply left which ended early: it reads a subject besides to which nobody sends.
async fn left_early(jetstream: &JetStream, declared: &Declaration) -> String {
    let spec = declared.consumers(&REGION.parse().unwrap()).swap_remove(0);
    let filters = spec.filters.iter().cloned().chain([spec.nothing()]).collect();
    set(jetstream, &spec.durable, filters, 4096).await;
    spec.nothing()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_taken_is_given_back_where_another_one_can_not_be_changed() {
    let declared = [served_by("agent", &["Pack", "Ship"]), serving(&["Charge"]), served_by("zoo", &["Refund"])];
    let broker = TestBroker::start(&declared).await.unwrap();
    let operator = broker.connect("operator").await.unwrap();
    let (bus, jetstream) = (operator.bus(), foreign(&broker, "operator").await);
    for (method, id) in [("Ship", "s1"), ("Refund", "r1"), ("Charge", "c1"), ("Ship", "s2")] {
        queue(bus, method, id).await;
    }
    assert_eq!(ids(&jetstream, AGENT, 1).await, ["s1"]);
    let (taken, in_hand) = take_of(&jetstream, ZOO, 1).await;
    assert_eq!(taken, ["r1"]);
    let nothing = left_early(&jetstream, &declared[1]).await;
    let stream = jetstream.get_stream(WORK).await.unwrap();
    let disturb = async {
        let is_alone = |info: Info| info.config.filter_subjects.len() < 2;
        eventually("one that is counted", || async { is_alone(info(&jetstream, WORKER).await).then_some(()) }).await;
        // The bank is to give away all that it has, and can't read instead what somebody else reads.
        let config = pull::Config {
            durable_name: Some("other".into()),
            filter_subject: nothing,
            ack_policy: AckPolicy::Explicit,
            ..Default::default()
        };
        stream.create_consumer(config).await.unwrap();
        queue(bus, "Ship", "s3").await;
        accept(in_hand).await;
    };
    let moved = [served_by("agent", &["Pack"]), serving(&["Void"]), served_by("zoo", &["Refund", "Ship", "Charge"])];
    let (applied, ()) = tokio::join!(apply(bus, &moved), disturb);
    let [Waiting { fault, .. }] = applied.waiting.as_slice() else { panic!("{applied:?}") };
    assert!(fault.message().contains("nothing was changed"), "{fault}");
    assert_eq!(applied.changes, []);
    assert_eq!(read_by(&jetstream, AGENT).await, ["Pack", "Ship"]);
    assert_eq!(
        (read_by(&jetstream, WORKER).await, read_by(&jetstream, ZOO).await),
        (vec!["Charge".into()], vec!["Refund".into()])
    );
    assert_eq!(ids(&jetstream, AGENT, 1).await, ["s2"], "who had it serves it, and what was done is not done again");

    stream.delete_consumer("other").await.unwrap();
    assert_eq!(apply(bus, &moved).await.waiting, []);
    assert_eq!(ids(&jetstream, ZOO, 2).await, ["c1", "s3"]);
}
