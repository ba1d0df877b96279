//! Many callers, one stream: each gets its own result, whatever becomes of the batch that carried its message.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
};

use bytes::Bytes;
use futures_util::{future::join_all, poll};
use mesh::engine::{Cluster, Environment, Guard, JetStream, Server, ServerConfig, free_loopback_port, obtain};
use mesh_core::{
    Fault, Mesh,
    bus::{Bus, PublishError, Stop, StreamLimits},
    clock::TaskScope,
    dead_letter,
    delayed::{self, Lane},
    envelope::{Envelope, header},
    fault::Effect,
    gate::{Sealed, Unopened},
    proto::v1,
    subject::{self, DEAD_LETTER_STREAM, Name},
};
use mesh_tests::{
    TestBroker, eventually,
    letters::{self, in_hand},
    mesh_binary,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy},
    net::{TcpListener, TcpStream},
    sync::Notify,
};

use crate::shop::{consumer, orders};

const STREAM: &str = "mesh1-event-orders";
pub(crate) const BATCH_ID: &str = "Nats-Batch-Id";
/// The broker's: so many batches may be under way in one stream.
pub(crate) const BATCHES_PER_STREAM: usize = 50;

fn declared() -> [mesh_core::policy::compile::Declaration; 2] {
    [orders(), consumer("a", "work")]
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn lane() -> Lane {
    letters::lane("a")
}

/// An event with an id, as an operator's tool may send it.
fn event(bus: &Bus, id: &str, payload: Bytes) -> Sealed {
    let subject = subject::event(&name("local"), "orders", "shop.orders.v1.OrderPlaced", 0);
    bus.gate().seal_own(subject, vec![(Cow::Borrowed(header::MESSAGE_ID), id.to_owned())], payload)
}

fn record(bus: &Bus, letter: &str, expected: u64) -> Sealed {
    let subject = subject::dead_letter(&name("local"), &name("a"), &name("work"), letter);
    let headers = vec![(Cow::Borrowed(header::EXPECTED_LAST), expected.to_string())];
    bus.gate().seal_own(subject, headers, Bytes::from_static(b"a record"))
}

/// A delivery that was stored as number `number`.
fn delivery(number: u64) -> Envelope {
    in_hand(number, Bytes::from_static(b"x"))
}

/// What a stream holds: by sequence the message's id and whether it came in a batch.
pub(crate) async fn stored(bus: &Bus, stream: &str) -> BTreeMap<u64, (String, bool)> {
    let mut all = BTreeMap::new();
    let each = |message: Unopened| {
        let envelope = message.open().envelope;
        let sequence = envelope.delivery.as_ref().unwrap().sequence;
        let in_batch = envelope.header(BATCH_ID).is_some();
        all.insert(sequence, (envelope.message_id, in_batch));
        Stop::No
    };
    bus.read(stream, "mesh1.>", each).await.unwrap();
    all
}

async fn count(bus: &Bus, stream: &str) -> u64 {
    bus.stream_state(stream).await.unwrap().unwrap().messages
}

/// Publishes the events `0..many` at once and holds each caller's result against what the stream has at its sequence. Gives
/// the ids of duplicates.
async fn publish_and_check(bus: &Bus, many: usize) -> BTreeSet<String> {
    let ids: Vec<String> = (0..many).map(|number| number.to_string()).collect();
    let results = join_all(ids.iter().map(|id| bus.publish(STREAM, event(bus, id, Bytes::new())))).await;
    let there = stored(bus, STREAM).await;
    let mut duplicates = BTreeSet::new();
    for (id, result) in ids.into_iter().zip(results) {
        let result = result.unwrap();
        assert_eq!(&*result.stream, STREAM);
        assert_eq!(there[&result.sequence].0, id, "the sequence that its caller was told");
        if result.duplicate {
            duplicates.insert(id);
        }
    }
    assert!(there.values().filter(|(_, in_batch)| *in_batch).count() > many / 2, "most went as a batch");
    duplicates
}

#[tokio::test(flavor = "multi_thread")]
async fn each_of_many_callers_is_told_the_place_of_its_own_message() {
    let broker = TestBroker::start(&declared()).await.unwrap();
    let operator = broker.connect("operator").await.unwrap();
    assert!(publish_and_check(operator.bus(), 2500).await.is_empty());
    assert_eq!(count(operator.bus(), STREAM).await, 2500);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_only_those_that_were_there_before_are_duplicates() {
    let broker = TestBroker::start(&declared()).await.unwrap();
    let operator = broker.connect("operator").await.unwrap();
    let bus = operator.bus();
    for id in ["7", "399"] {
        assert!(!bus.publish(STREAM, event(bus, id, Bytes::new())).await.unwrap().duplicate);
    }
    let duplicates = publish_and_check(bus, 400).await;
    assert_eq!(duplicates, BTreeSet::from(["7".to_owned(), "399".to_owned()]));
    assert_eq!(count(bus, STREAM).await, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_letters_only_the_stale_record_is_refused() {
    let broker = TestBroker::start(&declared()).await.unwrap();
    let operator = broker.connect("operator").await.unwrap();
    let bus = operator.bus();
    bus.publish(DEAD_LETTER_STREAM, record(bus, "stale", 0)).await.unwrap();
    // Two that begin one letter: one of them wins. And one that knows nothing of the letter's first record.
    let letters = (0..300).map(|number| if number == 250 { "3".to_owned() } else { number.to_string() });
    let letters: Vec<String> = letters.chain(["stale".to_owned()]).collect();
    let results = join_all(letters.iter().map(|letter| bus.publish(DEAD_LETTER_STREAM, record(bus, letter, 0)))).await;
    let refused: Vec<_> = letters.iter().zip(&results).filter(|(_, result)| result.is_err()).collect();
    assert!(refused.iter().all(|(_, result)| result.as_ref().is_err_and(PublishError::is_conflict)), "{refused:?}");
    let refused: BTreeSet<&str> = refused.iter().map(|(letter, _)| letter.as_str()).collect();
    assert_eq!(refused, BTreeSet::from(["3", "stale"]));
    assert_eq!(count(bus, DEAD_LETTER_STREAM).await, 300);
    let there = stored(bus, DEAD_LETTER_STREAM).await;
    assert!(there.values().any(|(_, in_batch)| *in_batch), "letters go in batches too");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_only_the_one_that_is_too_large_is_refused() {
    let broker = TestBroker::start(&declared()).await.unwrap();
    let operator = broker.connect("operator").await.unwrap();
    let bus = operator.bus();
    let size = |number: usize| match number {
        // More than the broker carries; and so much that a batch's headers would make it too much.
        100 => 1024 * 1024 + 1,
        200 => 1024 * 1024 - 100,
        _ => 10,
    };
    let publish = |number: usize| {
        let payload = vec![0; size(number)].into();
        bus.publish(STREAM, event(bus, &number.to_string(), payload))
    };
    let results = join_all((0..300).map(publish)).await;
    let refused: Vec<usize> = (0..300).filter(|number| results[*number].is_err()).collect();
    assert_eq!(refused, [100]);
    assert!(matches!(results[100], Err(PublishError::NotSent(_))), "{:?}", results[100]);
    assert_eq!(count(bus, STREAM).await, 299);
}

#[tokio::test(flavor = "multi_thread")]
async fn delayed_copies_go_in_batches_and_each_becomes_due_once() {
    let broker = TestBroker::start(&declared()).await.unwrap();
    let operator = broker.connect("operator").await.unwrap();
    let (bus, lane) = (operator.bus(), lane());
    let due_ms = bus.gate().clock().now_ms() + 60_000;
    let delay = async |number: u64, due_ms: i64| {
        let attempts = v1::Attempts::default();
        delayed::delay(bus, &lane, &delivery(number), (2, due_ms), &attempts).await.unwrap();
    };
    join_all((0..300).map(|number| delay(number, due_ms))).await;
    assert_eq!(count(bus, &lane.stream()).await, 300);
    // The same deliveries put aside again: a crash before their acks.
    join_all((0..300).map(|number| delay(number, due_ms))).await;
    assert_eq!(count(bus, &lane.stream()).await, 300);
    join_all((300..600).map(|number| delay(number, due_ms - 60_000))).await;
    let context = async_nats::jetstream::new(plain(&broker).await);
    let stream = context.get_stream(lane.stream()).await.unwrap();
    eventually("what is due", || async {
        let due = stream.info_with_subjects(lane.due_for(&delivery(1).subject)).await.unwrap();
        let due: Vec<_> = futures_util::TryStreamExt::try_collect(due).await.unwrap();
        (due == [(lane.due_for(&delivery(1).subject), 300)]).then_some(())
    })
    .await;
    assert_eq!(count(bus, &lane.stream()).await, 600, "those that were due left their place");
}

pub(crate) async fn plain(broker: &TestBroker) -> async_nats::Client {
    async_nats::ConnectOptions::with_nkey(broker.seed("operator").unwrap().to_owned())
        .custom_inbox_prefix("_INBOX.operator")
        .connect(broker.server.client_url())
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn when_others_have_all_batches_under_way_messages_go_alone() {
    let broker = TestBroker::start(&declared()).await.unwrap();
    let operator = broker.connect("operator").await.unwrap();
    let (bus, other) = (operator.bus(), plain(&broker).await);
    let subject = subject::event(&name("local"), "orders", "shop.orders.v1.OrderPlaced", 0);
    for number in 0..BATCHES_PER_STREAM {
        let mut headers = async_nats::HeaderMap::new();
        headers.insert(BATCH_ID, format!("open-{number}"));
        headers.insert("Nats-Batch-Sequence", "1");
        // The answer says that the batch is open.
        let answer = other.request_with_headers(subject.clone(), headers, Bytes::new()).await.unwrap();
        assert!(answer.payload.is_empty(), "{:?}", answer.payload);
    }
    let publish = |number: u32| bus.publish(STREAM, event(bus, &number.to_string(), Bytes::new()));
    let results = join_all((0..300).map(publish)).await;
    let sequences: BTreeSet<u64> = results.into_iter().map(|result| result.unwrap().sequence).collect();
    assert_eq!(sequences, (1..=300).collect());
    assert!(stored(bus, STREAM).await.values().all(|(_, in_batch)| !in_batch));
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_that_go_away_leave_no_place_taken() {
    let broker = TestBroker::start(&declared()).await.unwrap();
    let operator = broker.connect("operator").await.unwrap();
    let bus = operator.bus();
    for round in 0..3 {
        // More than there are places: some go away while they wait for one.
        for number in 0..3000 {
            let id = format!("{round}/{number}");
            let publish = bus.publish(STREAM, event(bus, &id, Bytes::new()));
            tokio::pin!(publish);
            let _: Poll<_> = poll!(publish);
        }
    }
    let again = (0..300).map(|number| bus.publish(STREAM, event(bus, &format!("0/{number}"), Bytes::new())));
    for result in join_all(again).await {
        result.unwrap();
    }
    let ids: Vec<String> = stored(bus, STREAM).await.into_values().map(|(id, _)| id).collect();
    assert_eq!(ids.len(), ids.iter().collect::<BTreeSet<_>>().len(), "nothing twice");
}

/// Between a client and the broker: it can keep the broker's words to itself, and cut the line.
struct Line {
    url: String,
    deaf: Arc<AtomicBool>,
    cut: Arc<Notify>,
    tasks: TaskScope,
}

impl Line {
    async fn to(port: u16) -> Line {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("nats://{}", listener.local_addr().unwrap());
        let line = Line { url, deaf: Arc::default(), cut: Arc::default(), tasks: TaskScope::new() };
        let (deaf, cut, scope) = (Arc::clone(&line.deaf), Arc::clone(&line.cut), line.tasks.clone());
        line.tasks.spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let broker = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                scope.spawn(relay(client, broker, Arc::clone(&deaf), Arc::clone(&cut)));
            }
        });
        line
    }

    async fn connect(&self, broker: &TestBroker) -> Result<Mesh, Fault> {
        Mesh::builder("operator").url(&self.url).credential(broker.credential("operator")).connect().await
    }
}

async fn relay(mut client: TcpStream, mut broker: TcpStream, deaf: Arc<AtomicBool>, cut: Arc<Notify>) {
    let ((mut from_client, mut to_client), (mut from_broker, mut to_broker)) = (client.split(), broker.split());
    let back = async {
        let mut words = vec![0; 64 * 1024];
        loop {
            let read = from_broker.read(&mut words).await?;
            if read == 0 {
                return Ok::<_, std::io::Error>(());
            }
            if !deaf.load(Ordering::SeqCst) {
                to_client.write_all(&words[..read]).await?;
            }
        }
    };
    tokio::select! {
        _ = copy(&mut from_client, &mut to_broker) => {}
        _ = back => {}
        () = cut.notified() => {}
    }
}

/// Runs `publishes` over a line that loses every answer until a batch is stored, and is cut then.
async fn lose_answers<T>(broker: &TestBroker, stream: &str, publishes: impl AsyncFnOnce(&Bus) -> T) -> T {
    let watcher = broker.connect("operator").await.unwrap();
    let line = Line::to(broker.server.port()).await;
    let far = line.connect(broker).await.unwrap();
    line.deaf.store(true, Ordering::SeqCst);
    let lose = async {
        eventually("a batch that is stored", || async {
            stored(watcher.bus(), stream).await.values().any(|(_, in_batch)| *in_batch).then_some(())
        })
        .await;
        line.deaf.store(false, Ordering::SeqCst);
        line.cut.notify_waiters();
    };
    tokio::join!(publishes(far.bus()), lose).0
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_whose_answer_is_lost_is_stored_once() {
    let broker = TestBroker::start(&declared()).await.unwrap();
    let publishes = async |bus: &Bus| {
        join_all((0..300).map(|n: u32| bus.publish(STREAM, event(bus, &n.to_string(), Bytes::new())))).await
    };
    let results = lose_answers(&broker, STREAM, publishes).await;
    let watcher = broker.connect("operator").await.unwrap();
    let there = stored(watcher.bus(), STREAM).await;
    assert_eq!(there.len(), 300);
    let results: Vec<_> = results.into_iter().map(Result::unwrap).collect();
    for (id, result) in results.iter().enumerate() {
        assert_eq!(there[&result.sequence].0, id.to_string());
    }
    assert!(results.iter().any(|result| result.duplicate), "the broker told where the lost ones lie");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_whose_answer_is_lost_is_unknown_though_its_messages_are_refused_afterwards() {
    let broker = TestBroker::start(&declared()).await.unwrap();
    let watcher = broker.connect("operator").await.unwrap();
    let line = Line::to(broker.server.port()).await;
    let far = line.connect(&broker).await.unwrap();
    line.deaf.store(true, Ordering::SeqCst);
    let bus = far.bus();
    let publishes = join_all((0..300).map(|n: u32| bus.publish(STREAM, event(bus, &n.to_string(), Bytes::new()))));
    // The line stays: what is sent after the batch has had no answer is answered. A stream that is sealed refuses before it
    // looks whether it has a message's id.
    let seal = async {
        eventually("a batch that is stored", || async {
            stored(watcher.bus(), STREAM).await.values().any(|(_, in_batch)| *in_batch).then_some(())
        })
        .await;
        let jetstream = async_nats::jetstream::new(plain(&broker).await);
        let mut config = jetstream.get_stream(STREAM).await.unwrap().cached_info().config.clone();
        config.sealed = true;
        jetstream.update_stream(config).await.unwrap();
        line.deaf.store(false, Ordering::SeqCst);
    };
    let (results, ()) = tokio::join!(publishes, seal);
    let there = stored(watcher.bus(), STREAM).await;
    assert!(there.values().any(|(_, in_batch)| *in_batch));
    for (id, in_batch) in there.values() {
        let error = results[id.parse::<usize>().unwrap()].as_ref().unwrap_err();
        assert!(error.is_unknown(), "{id} is stored, in a batch: {in_batch}, and its caller is told: {error}");
        assert_eq!(error.clone().into_fault("it").effect(), Effect::Unknown);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_whose_answer_is_lost_are_captured_once_and_say_so() {
    let broker = TestBroker::start(&declared()).await.unwrap();
    let fault = Fault::invalid("no");
    let captures = async |bus: &Bus| {
        let lane = lane();
        let capture = async |number: u64| {
            dead_letter::capture(bus, &lane, &delivery(number), &fault, v1::Attempts::default())
                .await
                .unwrap()
                .letter_id
        };
        join_all((0..300).map(capture)).await
    };
    let ids: BTreeSet<String> = lose_answers(&broker, DEAD_LETTER_STREAM, captures).await.into_iter().collect();
    let operator = broker.connect("operator").await.unwrap();
    assert_eq!(count(operator.bus(), DEAD_LETTER_STREAM).await, 300);
    let letters = mesh_core::operate::letters::list(operator.bus(), &Default::default()).await.unwrap();
    assert_eq!(letters.letters.into_iter().map(|letter| letter.letter.id).collect::<BTreeSet<_>>(), ids);
}

/// Three servers that keep three copies, and a connection to one of them.
async fn three_servers(folder: &std::path::Path) -> (Vec<Server>, Mesh) {
    let binary = obtain(&Environment::from_process(), &mut |_| {}).await.unwrap();
    let ports: Vec<u16> = (0..3).map(|_| free_loopback_port().unwrap()).collect();
    let start = async |at: usize| {
        let others = ports.iter().enumerate().filter(|(other, _)| *other != at);
        let routes = others.map(|(_, port)| format!("nats-route://127.0.0.1:{port}")).collect();
        let cluster = Cluster { name: "trio".to_owned(), port: ports[at], routes };
        let jetstream = JetStream { sync_always: true, ..JetStream::default() };
        let config =
            ServerConfig::new(format!("node-{at}")).open_to_everybody().cluster(cluster).jetstream(Some(jetstream));
        Server::start(&Guard::new(mesh_binary()), &binary.path, config, &folder.join(at.to_string())).await.unwrap()
    };
    let servers = join_all((0..3).map(start)).await;
    let mesh = Mesh::builder("operator").url(&servers[0].client_url()).connect().await.unwrap();
    let limits = StreamLimits { replicas: Some(3), ..StreamLimits::default() };
    // Until they have chosen a leader they answer with an error or not at all.
    eventually("a leader", || async {
        mesh_core::operate::topology::apply(mesh.bus(), &declared(), &limits).await.ok()
    })
    .await;
    (servers, mesh)
}

#[tokio::test(flavor = "multi_thread")]
async fn three_copies_are_no_different() {
    let folder = tempfile::tempdir().unwrap();
    let (_servers, mesh) = three_servers(folder.path()).await;
    let bus = mesh.bus();
    assert!(!bus.publish(STREAM, event(bus, "7", Bytes::new())).await.unwrap().duplicate);
    assert_eq!(publish_and_check(bus, 400).await, BTreeSet::from(["7".to_owned()]));
    assert_eq!(count(bus, STREAM).await, 400);
    bus.publish(DEAD_LETTER_STREAM, record(bus, "7", 0)).await.unwrap();
    let publish = |number: u64| bus.publish(DEAD_LETTER_STREAM, record(bus, &number.to_string(), 0));
    let results = join_all((0..300).map(publish)).await;
    let refused: Vec<usize> = (0..300).filter(|number| results[*number].is_err()).collect();
    assert_eq!(refused, [7]);
    assert!(results[7].as_ref().is_err_and(PublishError::is_conflict), "{:?}", results[7]);
}
