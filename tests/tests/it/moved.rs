//! Methods that move from one service to another while their queue is in use: each message goes to one of them, once.

use std::{
    net::SocketAddr,
    sync::Mutex,
    time::{Duration, Instant, SystemTime},
};

use async_nats::jetstream::{
    Context as JetStream,
    consumer::{PullConsumer, pull},
};
use futures_util::{StreamExt as _, stream};
use mesh_core::{
    Mesh,
    bus::{Bus, StreamLimits},
    clock::Clock,
    operate::topology::{self, Applied},
    policy::compile::Declaration,
};
use mesh_tests::{
    TestBroker,
    broker::REGION,
    campaign::{cluster::TestCluster, proxy::Proxy},
    eventually, within,
};
use serde_json::Value;

use crate::{
    claims::foreign,
    topology::{AGENT, WORK, WORKER, accept, queue, served_by, serving, take_of},
};

pub(crate) async fn apply(bus: &Bus, declared: &[Declaration]) -> Applied {
    topology::apply(bus, declared, &StreamLimits::default()).await.unwrap()
}

/// What a consumer reads: the methods.
pub(crate) async fn read_by(jetstream: &JetStream, durable: &str) -> Vec<String> {
    let info = jetstream.get_stream(WORK).await.unwrap().consumer_info(durable).await.unwrap();
    assert!(!info.paused, "{info:?}");
    let filters = info.config.filter_subjects.into_iter().chain([info.config.filter_subject]);
    let method = |filter: String| filter.split('.').rev().nth(3).map(str::to_owned);
    let mut methods: Vec<_> = filters.filter_map(method).collect();
    methods.sort_unstable();
    methods
}

pub(crate) async fn ids(jetstream: &JetStream, durable: &str, many: usize) -> Vec<String> {
    let (ids, came) = take_of(jetstream, durable, many).await;
    accept(came).await;
    ids
}

/// Takes and accepts, one after the other, for as long as it is asked to.
async fn work_off(jetstream: &JetStream, durable: &str) {
    let consumer: PullConsumer = jetstream.get_consumer_from_stream(durable, WORK).await.unwrap();
    let mut messages = consumer.stream().max_messages_per_batch(100).messages().await.unwrap();
    while let Some(message) = messages.next().await {
        message.unwrap().double_ack().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_method_moves_beside_a_backlog_of_another_one() {
    const BACKLOG: usize = 5000;
    let broker = TestBroker::start(&[serving(&["Charge", "Refund"])]).await.unwrap();
    let operator = broker.connect("operator").await.unwrap();
    let (bus, jetstream) = (operator.bus(), foreign(&broker, "operator").await);
    stream::iter(0..BACKLOG)
        .for_each_concurrent(256, |number| async move { queue(bus, "Charge", &format!("c{number}")).await })
        .await;
    for id in ["r1", "r2", "r3"] {
        queue(bus, "Refund", id).await;
    }
    let moved = async {
        eventually("work in progress", || async {
            let state = bus.stream_state(WORK).await.unwrap().unwrap();
            (state.messages < u64::try_from(BACKLOG).unwrap()).then_some(())
        })
        .await;
        apply(bus, &[served_by("agent", &["Refund"]), serving(&["Charge"])]).await
    };
    let applied = tokio::select! {
        applied = moved => applied,
        () = work_off(&jetstream, WORKER) => panic!("the worker ended"),
    };
    assert_eq!(applied.waiting, []);
    let left = bus.consumer_state(WORK, WORKER).await.unwrap().unwrap().pending;
    assert!(left > 0, "the backlog was still in progress");
    assert_eq!(ids(&jetstream, AGENT, 3).await, ["r1", "r2", "r3"]);
    assert_eq!(
        (read_by(&jetstream, WORKER).await, read_by(&jetstream, AGENT).await),
        (vec!["Charge".into()], vec!["Refund".into()])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_method_that_nobody_served_waits_for_nobody() {
    let broker = TestBroker::start(&[serving(&["Charge"])]).await.unwrap();
    let operator = broker.connect("operator").await.unwrap();
    let (bus, jetstream) = (operator.bus(), foreign(&broker, "operator").await);
    for (method, id) in [("Charge", "c1"), ("Refund", "r1"), ("Charge", "c2")] {
        queue(bus, method, id).await;
    }
    let (taken, in_hand) = take_of(&jetstream, WORKER, 1).await;
    assert_eq!(taken, ["c1"]);
    let applied = apply(bus, &[served_by("agent", &["Refund"]), serving(&["Charge"])]).await;
    assert_eq!(applied.waiting, []);
    assert_eq!(ids(&jetstream, AGENT, 1).await, ["r1"]);
    // Nor where what has a consumer gets it, which has nothing in hand itself.
    queue(bus, "Ship", "s1").await;
    let applied = apply(bus, &[served_by("agent", &["Refund", "Ship"]), serving(&["Charge"])]).await;
    assert_eq!(applied.waiting, []);
    assert_eq!(ids(&jetstream, AGENT, 1).await, ["s1"]);
    let info = bus.consumer_state(WORK, WORKER).await.unwrap().unwrap();
    assert_eq!((info.in_flight, info.pending), (1, 1), "it was left alone");
    accept(in_hand).await;
}

/// Where a consumer was to begin again, in what was said to the broker, and when that was said.
fn begun_again(said: &[(Instant, Vec<u8>)], durable: &str) -> Vec<(Instant, u64)> {
    let subject = format!(" $JS.API.CONSUMER.RESET.{WORK}.{durable} ");
    // Each byte stays one, so that places stay where they are.
    let letter = |byte: &u8| if byte.is_ascii() { char::from(*byte) } else { '?' };
    let all: String = said.iter().flat_map(|(_, part)| part).map(letter).collect();
    let when = |place: usize| {
        let mut end = 0;
        let part = said.iter().find(|(_, part)| {
            end += part.len();
            end > place
        });
        part.unwrap().0
    };
    let asked = all.match_indices(&*subject).map(|(place, _)| {
        let request = all[place..].lines().find(|line| line.starts_with('{')).unwrap();
        (when(place), serde_json::from_str::<Value>(request).unwrap()["seq"].as_u64().unwrap())
    });
    asked.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_gets_what_lies_there_begins_again_twice_so_that_its_file_does_not_come_back() {
    let broker = TestBroker::start(&[served_by("agent", &["Refund"]), serving(&["Charge"])]).await.unwrap();
    let proxy = Proxy::listening(SocketAddr::from(([127, 0, 0, 1], broker.server.port()))).await.unwrap();
    let builder = Mesh::builder("operator").region(REGION).url(&proxy.url());
    let operator = builder.credential(broker.credential("operator")).connect().await.unwrap();
    let bus = operator.bus();
    queue(bus, "Charge", "c1").await;
    queue(bus, "Refund", "r1").await;
    let applied = apply(bus, &[served_by("agent", &["Ship"]), serving(&["Charge", "Refund"])]).await;
    assert_eq!(applied.waiting, []);
    let said = proxy.said();
    let [(first, 1), (second, 1)] = begun_again(&said, WORKER)[..] else {
        panic!("at the first message, and never at a later one: {:?}", begun_again(&said, WORKER));
    };
    // The broker writes a consumer's state a tenth of a second after it changed.
    assert!(second - first > Duration::from_millis(200), "{:?}", second - first);
    assert_eq!(begun_again(&said, AGENT), [], "nothing lay there for it");
    let jetstream = foreign(&broker, "operator").await;
    let mut given = ids(&jetstream, WORKER, 2).await;
    given.sort_unstable();
    assert_eq!(given, ["c1", "r1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_waits_for_work_meanwhile_is_given_it() {
    let broker = TestBroker::start(&[serving(&["Charge"])]).await.unwrap();
    let operator = broker.connect("operator").await.unwrap();
    let (bus, jetstream) = (operator.bus(), foreign(&broker, "operator").await);
    queue(bus, "Refund", "r1").await;
    let worker: PullConsumer = jetstream.get_consumer_from_stream(WORKER, WORK).await.unwrap();
    let waits = async {
        let pull = worker.fetch().max_messages(1).expires(Duration::from_secs(15));
        pull.messages().await.unwrap().next().await.map(Result::unwrap)
    };
    let moved = async {
        let stream = jetstream.get_stream(WORK).await.unwrap();
        let is_asked = || async { (stream.consumer_info(WORKER).await.unwrap().num_waiting == 1).then_some(()) };
        eventually("a pull that waits", is_asked).await;
        apply(bus, &[serving(&["Charge", "Refund"])]).await
    };
    let (came, applied) = tokio::join!(waits, moved);
    assert_eq!(applied.waiting, []);
    let came = came.unwrap_or_else(|| panic!("the pull was forgotten"));
    assert!(came.subject.contains(".Refund."), "{}", came.subject);
}

#[tokio::test(flavor = "multi_thread")]
async fn services_that_swap_all_their_methods_are_changed_by_one_apply() {
    let broker = TestBroker::start(&[serving(&["Charge"]), served_by("agent", &["Refund"])]).await.unwrap();
    let operator = broker.connect("operator").await.unwrap();
    let (bus, jetstream) = (operator.bus(), foreign(&broker, "operator").await);
    for (method, id) in [("Charge", "c1"), ("Refund", "r1"), ("Refund", "r2"), ("Charge", "c2")] {
        queue(bus, method, id).await;
    }
    assert_eq!(
        (ids(&jetstream, WORKER, 1).await, ids(&jetstream, AGENT, 1).await),
        (vec!["c1".into()], vec!["r1".into()])
    );
    let applied = apply(bus, &[serving(&["Refund"]), served_by("agent", &["Charge"])]).await;
    assert_eq!((applied.waiting.as_slice(), applied.changes.len()), ([].as_slice(), 2), "{applied:?}");
    assert_eq!(
        (ids(&jetstream, WORKER, 1).await, ids(&jetstream, AGENT, 1).await),
        (vec!["r2".into()], vec!["c2".into()])
    );

    // One gives all that it has to another one and gets what nobody served; the other one comes first by name.
    for (method, id) in [("Refund", "r3"), ("Ship", "s1")] {
        queue(bus, method, id).await;
    }
    let applied = apply(bus, &[serving(&["Ship"]), served_by("agent", &["Charge", "Refund"])]).await;
    assert_eq!(applied.waiting, []);
    assert_eq!(
        (ids(&jetstream, WORKER, 1).await, ids(&jetstream, AGENT, 1).await),
        (vec!["s1".into()], vec!["r3".into()])
    );
    assert_eq!(
        (read_by(&jetstream, WORKER).await, read_by(&jetstream, AGENT).await),
        (vec!["Ship".into()], vec!["Charge".into(), "Refund".into()])
    );
    assert_eq!(apply(bus, &[serving(&["Ship"]), served_by("agent", &["Charge", "Refund"])]).await.changes, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_cut_down_when_an_apply_ended_early_is_served_by_the_next_one() {
    let declared = [serving(&["Charge"])];
    let broker = TestBroker::start(&declared).await.unwrap();
    let operator = broker.connect("operator").await.unwrap();
    let (bus, jetstream) = (operator.bus(), foreign(&broker, "operator").await);
    queue(bus, "Charge", "c1").await;
    assert_eq!(ids(&jetstream, WORKER, 1).await, ["c1"]);
    queue(bus, "Charge", "c2").await;
    let spec = declared[0].consumers(&REGION.parse().unwrap()).swap_remove(0);
    let nothing = pull::Config {
        durable_name: Some(WORKER.into()),
        filter_subjects: vec![spec.nothing()],
        ack_policy: async_nats::jetstream::consumer::AckPolicy::Explicit,
        ack_wait: Duration::from_secs(30),
        max_ack_pending: 4096,
        max_deliver: 1000,
        ..Default::default()
    };
    jetstream.get_stream(WORK).await.unwrap().create_consumer(nothing).await.unwrap();
    queue(bus, "Charge", "c3").await;
    assert_eq!(bus.consumer_state(WORK, WORKER).await.unwrap().unwrap().pending, 0);
    let applied = apply(bus, &declared).await;
    assert_eq!((applied.waiting, applied.warnings), (vec![], vec![]));
    assert_eq!(ids(&jetstream, WORKER, 2).await, ["c2", "c3"]);
}

/// Takes and accepts, and writes down what came.
async fn write_down(jetstream: &JetStream, durable: &str, seen: &Mutex<Vec<String>>) {
    let consumer: PullConsumer = jetstream.get_consumer_from_stream(durable, WORK).await.unwrap();
    let mut messages = consumer.stream().max_messages_per_batch(20).messages().await.unwrap();
    while let Some(message) = messages.next().await {
        let message = message.unwrap();
        let id = message.headers.as_ref().and_then(|headers| headers.get("Nats-Msg-Id")).unwrap();
        seen.lock().unwrap().push(id.to_string());
        message.double_ack().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_queued_while_a_method_moves_to_and_fro_is_given_out_once() {
    const EACH: usize = 300;
    let with_agent = [serving(&["Charge"]), served_by("agent", &["Ship", "Refund"])];
    let with_bank = [serving(&["Charge", "Refund"]), served_by("agent", &["Ship"])];
    let cluster = TestCluster::of(&with_bank, &StreamLimits::default()).await.unwrap();
    let operator = cluster.connect("operator").await.unwrap();
    let (bus, jetstream) = (operator.bus(), cluster.jetstream().await.unwrap());
    let seen = Mutex::new(Vec::new());
    let queued = stream::iter(0..EACH).for_each_concurrent(4, |number| async move {
        for method in ["Charge", "Refund", "Ship"] {
            queue(bus, method, &format!("{method}{number:03}")).await;
        }
    });
    let moved = async {
        for declared in [&with_agent, &with_bank].into_iter().cycle().take(8) {
            assert_eq!(apply(bus, declared).await.waiting, []);
        }
    };
    let all = async {
        tokio::join!(queued, moved);
        within(Duration::from_secs(60), "an empty queue", || async {
            (bus.stream_state(WORK).await.unwrap().unwrap().messages == 0).then_some(())
        })
        .await;
    };
    tokio::select! {
        () = all => {}
        () = write_down(&jetstream, WORKER, &seen) => panic!("the bank ended"),
        () = write_down(&jetstream, AGENT, &seen) => panic!("the agent ended"),
    }
    let mut seen = seen.into_inner().unwrap();
    seen.sort_unstable();
    let ids = |method: &'static str| (0..EACH).map(move |number| format!("{method}{number:03}"));
    assert_eq!(seen, ["Charge", "Refund", "Ship"].into_iter().flat_map(ids).collect::<Vec<_>>());
}

/// An operator whose clock is wrong by so much.
async fn late_by(broker: &TestBroker, offset_s: i64) -> Mesh {
    let offset = Duration::from_secs(offset_s.unsigned_abs());
    let now = move || if offset_s < 0 { SystemTime::now() - offset } else { SystemTime::now() + offset };
    let builder = Mesh::builder("operator").region(REGION).url(&broker.server.client_url());
    builder.credential(broker.credential("operator")).clock(Clock::from_fn(now)).connect().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_clock_of_whoever_applies_may_be_wrong() {
    let broker = TestBroker::start(&[serving(&["Charge"])]).await.unwrap();
    let jetstream = foreign(&broker, "operator").await;
    let operator = late_by(&broker, -7200).await;
    queue(operator.bus(), "Refund", "r1").await;
    let applied = apply(operator.bus(), &[serving(&["Charge", "Refund"])]).await;
    assert_eq!(applied.waiting, []);
    assert_eq!(ids(&jetstream, WORKER, 1).await, ["r1"]);

    let operator = late_by(&broker, 7200).await;
    let bus = operator.bus();
    queue(bus, "Ship", "s1").await;
    queue(bus, "Charge", "c1").await;
    let (_, in_hand) = take_of(&jetstream, WORKER, 1).await;
    let look = async {
        let stream = jetstream.get_stream(WORK).await.unwrap();
        let left =
            eventually("the pause", || async { stream.consumer_info(WORKER).await.unwrap().pause_remaining }).await;
        assert!(left <= Duration::from_secs(40), "a pause ends by itself: {left:?}");
        accept(in_hand).await;
    };
    let declared = [serving(&["Charge", "Refund", "Ship"])];
    let (applied, ()) = tokio::join!(apply(bus, &declared), look);
    assert_eq!(applied.waiting, []);
    assert_eq!(ids(&jetstream, WORKER, 1).await, ["s1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_operator_paused_stays_paused() {
    const HOUR: Duration = Duration::from_secs(3600);
    let broker = TestBroker::start(&[serving(&["Charge", "Refund"])]).await.unwrap();
    let operator = broker.connect("operator").await.unwrap();
    let (bus, jetstream) = (operator.bus(), foreign(&broker, "operator").await);
    queue(bus, "Refund", "r1").await;
    let stream = jetstream.get_stream(WORK).await.unwrap();
    let until = SystemTime::now() + HOUR;
    stream.pause_consumer(WORKER, until.into()).await.unwrap();
    let applied = apply(bus, &[serving(&["Charge"]), served_by("agent", &["Refund"])]).await;
    assert_eq!(applied.waiting, []);
    let left = stream.consumer_info(WORKER).await.unwrap().pause_remaining.unwrap();
    assert!(left > HOUR / 2, "{left:?}");
    assert_eq!(ids(&jetstream, AGENT, 1).await, ["r1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_lies_on_the_lane_of_the_old_service_is_told() {
    let broker = TestBroker::start(&[serving(&["Charge", "Refund"]), served_by("agent", &["Ship"])]).await.unwrap();
    let operator = broker.connect("operator").await.unwrap();
    let (bus, jetstream) = (operator.bus(), foreign(&broker, "operator").await);
    for place in ["due.0.till", "hold.1", "hold.2"] {
        let subject = format!("mesh1.lane.{REGION}.bank.shop-payments-v1-payments.{place}");
        jetstream.publish(subject, "copy".into()).await.unwrap().await.unwrap();
    }
    let kept = apply(bus, &[serving(&["Charge", "Refund"]), served_by("agent", &["Ship", "Pack"])]).await;
    assert_eq!(kept.warnings, Vec::<String>::new(), "nobody lost anything");
    let moved = apply(bus, &[serving(&["Charge"]), served_by("agent", &["Pack", "Refund"])]).await;
    let [warning] = moved.warnings.as_slice() else { panic!("{moved:?}") };
    for words in ["3 delayed messages lie", WORKER, "mesh1-lane-bank", "shop.payments.v1.Payments/Refund"] {
        assert!(warning.contains(words), "{warning}");
    }
}
