//! The order of keys: kept across processes that come and go, through retries, letters and crashes.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex},
    time::Duration,
};

use async_nats::jetstream::consumer::pull;
use futures_util::StreamExt as _;
use mesh_core::{
    Context, Fault, Mesh,
    bus::StreamLimits,
    consume::{ConsumerSettings, OrderSettings},
    dead_letter::{Letter, LetterState},
    delayed,
    operate::{
        keys,
        letters::{self, Order, Selector},
    },
    policy::{
        compile::{Consumes, Declaration},
        retry::RetryRule,
    },
    proto::v1::{InboxRecord, inbox_record::End},
    store::Store,
};
use mesh_tests::{TestBroker, eventually};
use prost::Message as _;
use shop_proto::shop::orders::v1::OrderPlaced;

use crate::shop::{consumer, orders};

pub(crate) fn ordered(service: &str) -> Declaration {
    let declaration = consumer(service, "work");
    let consumes = declaration.consumes.into_iter().map(|consumes| Consumes { ordered: true, ..consumes }).collect();
    Declaration { consumes, ..declaration }
}

/// Short leases, so that a crash is noticed within the time of a test.
pub(crate) async fn broker() -> TestBroker {
    let limits = StreamLimits { ack_wait: Duration::from_secs(2), ..StreamLimits::default() };
    TestBroker::with(&[orders(), ordered("mail")], true, &limits).await.unwrap()
}

/// Every wait is spent on the lane.
pub(crate) fn settings() -> ConsumerSettings {
    settings_with(Duration::ZERO)
}

pub(crate) fn settings_with(short_wait: Duration) -> ConsumerSettings {
    let order = OrderSettings {
        lease: Duration::from_secs(2),
        look_every: Duration::from_millis(100),
        short_wait,
        ..OrderSettings::default()
    };
    let retry = RetryRule { base: Duration::from_millis(100), ..RetryRule::default() };
    ConsumerSettings { order: Some(order), retry, concurrency: 32, ..ConsumerSettings::default() }
}

/// What was handled, in the order that handlers began and ended.
#[derive(Default)]
pub(crate) struct Log {
    /// The numbers of a key whose handlers began.
    begun: BTreeMap<String, Vec<u64>>,
    done: BTreeMap<String, Vec<u64>>,
    pub(crate) running: BTreeSet<String>,
    overlaps: usize,
    fences: HashMap<String, u64>,
    late: usize,
    /// How many keys there are: the message before one of its key has a number that is smaller by this.
    keys: u64,
    given_up: BTreeSet<u64>,
    overtaken: Vec<u64>,
}

impl Log {
    pub(crate) fn of(keys: usize) -> Shared {
        Arc::new(Mutex::new(Log { keys: keys as u64, ..Log::default() }))
    }

    fn begins(&mut self, key: &str, number: u64, fence: u64) {
        let overlaps = !self.running.insert(key.to_owned());
        self.overlaps += usize::from(overlaps);
        self.begun.entry(key.to_owned()).or_default().push(number);
        let newest = self.fences.entry(key.to_owned()).or_default();
        self.late += usize::from(fence < *newest);
        *newest = fence.max(*newest);
        let ahead = number.saturating_sub(self.keys);
        let is_done = |done: &Vec<u64>| done.contains(&ahead);
        if ahead > 0 && !self.given_up.contains(&ahead) && !self.done.get(key).is_some_and(is_done) {
            self.overtaken.push(number);
        }
    }
}

pub(crate) type Shared = Arc<Mutex<Log>>;

/// How a message is to be answered.
pub(crate) type Verdict = Arc<dyn Fn(&OrderPlaced, u32) -> Result<(), Fault> + Send + Sync>;

/// One process: a connection of its own with the ordered consumer.
pub(crate) async fn process(broker: &TestBroker, log: &Shared, verdict: &Verdict, settings: ConsumerSettings) -> Mesh {
    attach(broker.connect("mail").await.unwrap(), log, verdict, settings).await
}

pub(crate) async fn attach(mesh: Mesh, log: &Shared, verdict: &Verdict, settings: ConsumerSettings) -> Mesh {
    let (log, verdict) = (Arc::clone(log), Arc::clone(verdict));
    let handler = move |cx: Context, event: OrderPlaced| {
        let (log, verdict) = (Arc::clone(&log), Arc::clone(&verdict));
        async move {
            let (key, number) = (event.customer_id.clone(), event.order_id.parse().unwrap());
            log.lock().unwrap().begins(&key, number, cx.fence().unwrap());
            // A cancelled handler leaves the list too.
            let running = Running(Arc::clone(&log), key.clone());
            tokio::task::yield_now().await;
            let answer = verdict(&event, cx.attempt());
            if answer.is_ok() {
                log.lock().unwrap().done.entry(key).or_default().push(number);
            }
            drop(running);
            answer
        }
    };
    mesh.consumer::<OrderPlaced>("work").settings(settings).start(handler).await.unwrap();
    mesh
}

struct Running(Shared, String);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.lock().unwrap().running.remove(&self.1);
    }
}

/// Publishes `count` events over `keys` keys; the numbers of one key grow.
pub(crate) async fn publish(broker: &TestBroker, keys: usize, numbers: std::ops::RangeInclusive<usize>) {
    let names: Vec<_> = (0..keys).map(|key| format!("c{key}")).collect();
    publish_to(broker, &names, numbers).await;
}

/// The same, over keys with these names.
pub(crate) async fn publish_to(broker: &TestBroker, keys: &[String], numbers: std::ops::RangeInclusive<usize>) {
    let mesh = broker.connect("orders").await.unwrap();
    let publisher = mesh.publisher::<OrderPlaced>();
    let event = |number: usize| OrderPlaced {
        order_id: number.to_string(),
        customer_id: keys[number % keys.len()].clone(),
        ..OrderPlaced::default()
    };
    // One key at a time in each batch: events of a key are stored in the order of their numbers.
    let mut numbers = numbers.peekable();
    while numbers.peek().is_some() {
        let batch: Vec<_> = numbers.by_ref().take(keys.len().min(500)).map(|n| (n.to_string(), event(n))).collect();
        let results: Vec<_> = publisher.publish_all(futures_util::stream::iter(batch), 500).collect().await;
        assert!(results.iter().all(|(_, result)| result.is_ok()));
    }
    mesh.drain().await;
}

pub(crate) fn done(log: &Shared) -> usize {
    log.lock().unwrap().done.values().map(|numbers| numbers.iter().collect::<BTreeSet<_>>().len()).sum()
}

/// No handler of a key began before those ahead of it were done, and each was done.
pub(crate) fn check(log: &Shared, count: usize) {
    let log = log.lock().unwrap();
    assert_eq!(log.overlaps, 0, "two of one key at the same time");
    in_order(&log, count);
    let mut violations = Vec::new();
    for (key, begun) in &log.begun {
        if !begun.is_sorted() {
            violations.push((key, begun));
        }
    }
    assert!(violations.is_empty(), "{} of {} keys out of order: {:?}", violations.len(), log.keys, violations.first());
}

/// What holds through crashes too, where a message may be handled again.
pub(crate) fn in_order(log: &Log, count: usize) {
    assert_eq!(log.late, 0, "an older owner began after a newer one");
    assert!(log.overtaken.is_empty(), "begun before the one ahead was done: {:?}", log.overtaken);
    let all: BTreeSet<u64> = log.done.values().flatten().copied().collect();
    assert_eq!(all.len(), count);
}

pub(crate) async fn open_letters(broker: &TestBroker) -> Vec<Letter> {
    let operator = broker.connect("operator").await.unwrap();
    let mut letters = letters::list(operator.bus(), &Selector::default()).await.unwrap().letters;
    letters.retain(|letter| letter.state == LetterState::Open);
    operator.drain().await;
    letters
}

pub(crate) fn by_ada() -> Order {
    Order { by: "ada".into(), why: "mended".into(), again: false, job: String::new() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_head_holds_back_its_own_key_and_no_other_until_its_letter_is_replayed() {
    let broker = broker().await;
    let log = Log::of(3);
    let broken = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let is_broken = Arc::clone(&broken);
    let verdict: Verdict = Arc::new(move |event, _| {
        let fails = event.order_id == "1" && is_broken.load(std::sync::atomic::Ordering::SeqCst);
        if fails { Err(Fault::invalid("not this one")) } else { Ok(()) }
    });
    let mesh = process(&broker, &log, &verdict, settings()).await;
    // Keys c0, c1, c2: the number 1 is the first of c1.
    publish(&broker, 3, 1..=30).await;
    eventually("the other keys", || async { (done(&log) == 20).then_some(()) }).await;
    let letter = eventually("the letter", || async { open_letters(&broker).await.pop() }).await;
    assert_eq!(letter.letter.key, "c1");
    let operator = broker.connect("operator").await.unwrap();
    eventually("nine followers on the lane", || async {
        let lane = operator.bus().stream_state("mesh1-lane-mail").await.unwrap().unwrap();
        (lane.messages == 9).then_some(())
    })
    .await;
    assert_eq!(log.lock().unwrap().done.get("c1"), None, "nothing of the key went past it");
    let blocked = keys::blocked(operator.bus(), None, None).await.unwrap();
    assert_eq!(blocked.len(), 1);
    assert_eq!((blocked[0].key.as_str(), blocked[0].followers), ("c1", 9));
    assert_eq!(blocked[0].by, keys::Head::Letter(letter.letter.id.clone()));
    broken.store(false, std::sync::atomic::Ordering::SeqCst);
    letters::replay(operator.bus(), &letter, &by_ada()).await.unwrap();
    eventually("all", || async { (done(&log) == 30).then_some(()) }).await;
    mesh.drain().await;
    check(&log, 30);
    let lane = operator.bus().stream_state("mesh1-lane-mail").await.unwrap().unwrap();
    assert_eq!(lane.messages, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn discarding_the_letter_releases_the_key() {
    let broker = broker().await;
    let log = Log::of(1);
    log.lock().unwrap().given_up.insert(1);
    let verdict: Verdict =
        Arc::new(|event, _| if event.order_id == "1" { Err(Fault::invalid("not this one")) } else { Ok(()) });
    let mesh = process(&broker, &log, &verdict, settings()).await;
    publish(&broker, 1, 1..=10).await;
    let letter = eventually("the letter", || async { open_letters(&broker).await.pop() }).await;
    assert_eq!(done(&log), 0);
    let operator = broker.connect("operator").await.unwrap();
    letters::discard(operator.bus(), &letter, &by_ada()).await.unwrap();
    eventually("those behind it", || async { (done(&log) == 9).then_some(()) }).await;
    // While nobody is there, too.
    publish(&broker, 1, 11..=12).await;
    eventually("two more", || async { (done(&log) == 11).then_some(()) }).await;
    mesh.drain().await;
    check(&log, 11);
}

#[tokio::test(flavor = "multi_thread")]
async fn order_is_kept_while_processes_come_and_go_and_messages_fail() {
    let mut settings = settings();
    // So long that none is lost on a busy machine.
    settings.order = settings.order.map(|order| OrderSettings { lease: Duration::from_secs(30), ..order });
    let broker = Box::pin(come_and_go(settings)).await;
    // What is handed over in peace is no suspect, and a first delivery is not written down, unless a letter is made of it. A replay
    // is.
    let records = Store::own(broker.connect("mail").await.unwrap().bus()).list("inbox.work.*").await.unwrap();
    let (of_replays, of_events): (Vec<_>, Vec<_>) = records.iter().partition(|(key, _)| key.contains('-'));
    for (key, entry) in &of_events {
        let record = InboxRecord::decode(entry.value.clone()).unwrap();
        assert!(matches!(record.end, Some(End::DeadLetter(_))), "{key}: {record:?}");
    }
    assert_eq!((of_events.len(), of_replays.len()), (FAILED, FAILED));
}

/// So many of what comes and goes fail for good, until they are replayed.
const FAILED: usize = 12;

pub(crate) async fn come_and_go(settings: ConsumerSettings) -> TestBroker {
    const KEYS: usize = 200;
    const COUNT: usize = 1200;
    let broker = broker().await;
    let log = Log::of(KEYS);
    // 4 % fail once, 1 % for good until they are replayed.
    let mended = Arc::new(Mutex::new(BTreeSet::<u64>::new()));
    let is_mended = Arc::clone(&mended);
    let verdict: Verdict = Arc::new(move |event, attempt| {
        let number: u64 = event.order_id.parse().unwrap();
        match number * 7919 % 100 {
            0..4 if attempt == 1 => Err(Fault::unavailable("a moment, please")),
            4 if !is_mended.lock().unwrap().contains(&number) => Err(Fault::invalid("broken")),
            _ => Ok(()),
        }
    });
    let mut meshes = vec![process(&broker, &log, &verdict, settings.clone()).await];
    meshes.push(process(&broker, &log, &verdict, settings.clone()).await);
    let publishing = publish(&broker, KEYS, 1..=COUNT);
    let scaling = async {
        eventually("some", || async { (done(&log) > COUNT / 10).then_some(()) }).await;
        for _ in 0..4 {
            meshes.push(process(&broker, &log, &verdict, settings.clone()).await);
        }
        eventually("more", || async { (done(&log) > COUNT / 3).then_some(()) }).await;
        for mesh in meshes.drain(..3) {
            mesh.drain().await;
        }
    };
    let releasing = async {
        let operator = broker.connect("operator").await.unwrap();
        eventually("all", || async {
            for letter in open_letters(&broker).await {
                let message_id = letter.letter.source.clone().unwrap().message_id;
                mended.lock().unwrap().insert(message_id.rsplit('/').next().unwrap().parse().unwrap());
                letters::replay(operator.bus(), &letter, &by_ada()).await.unwrap();
            }
            (done(&log) == COUNT).then_some(())
        })
        .await;
    };
    tokio::join!(publishing, scaling, releasing);
    for mesh in meshes {
        mesh.drain().await;
    }
    check(&log, COUNT);
    broker
}

/// A process with a runtime of its own: it can be killed, and stopped.
pub(crate) struct Killable(Option<tokio::runtime::Runtime>);

impl Killable {
    pub(crate) async fn start(
        broker: &Arc<TestBroker>,
        log: &Shared,
        verdict: &Verdict,
        settings: ConsumerSettings,
    ) -> Killable {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(1).enable_all().build().unwrap();
        let (broker, log, verdict) = (Arc::clone(broker), Arc::clone(log), Arc::clone(verdict));
        let started = runtime.spawn(async move {
            // The connection lives as long as the runtime.
            std::mem::forget(process(&broker, &log, &verdict, settings).await);
        });
        started.await.unwrap();
        Killable(Some(runtime))
    }

    /// As by kill -9: whatever it was about to do is not done.
    pub(crate) fn kill(mut self) {
        self.0.take().unwrap().shutdown_background();
    }
}

impl Drop for Killable {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn owners_that_are_killed_lose_nothing_and_nothing_overtakes() {
    Box::pin(are_killed(settings())).await;
}

pub(crate) async fn are_killed(settings: ConsumerSettings) {
    const KEYS: usize = 100;
    const COUNT: usize = 1200;
    let broker = Arc::new(broker().await);
    let log = Log::of(KEYS);
    let verdict: Verdict = Arc::new(|event, attempt| {
        let number: u64 = event.order_id.parse().unwrap();
        if number * 7919 % 100 < 8 && attempt == 1 { Err(Fault::unavailable("a moment, please")) } else { Ok(()) }
    });
    let mut processes = Vec::new();
    for _ in 0..3 {
        processes.push(Killable::start(&broker, &log, &verdict, settings.clone()).await);
    }
    let killing = async {
        for part in [8, 4] {
            eventually("some", || async { (done(&log) > COUNT / part).then_some(()) }).await;
            processes.remove(0).kill();
            // Handlers that were killed run no more.
            log.lock().unwrap().running.clear();
            processes.push(Killable::start(&broker, &log, &verdict, settings.clone()).await);
        }
        eventually("all", || async { (done(&log) == COUNT).then_some(()) }).await;
    };
    tokio::join!(publish(&broker, KEYS, 1..=COUNT), killing);
    in_order(&log.lock().unwrap(), COUNT);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_that_is_stopped_and_wakes_up_too_late_begins_nothing_more() {
    const KEYS: usize = 50;
    const COUNT: usize = 1000;
    let broker = Arc::new(broker().await);
    let log = Log::of(KEYS);
    let (wake, sleeper) = std::sync::mpsc::channel::<()>();
    let sleeper = Mutex::new(Some(sleeper));
    let stopping: Verdict = Arc::new(move |event, _| {
        let sleeper = if event.order_id == "210" { sleeper.lock().unwrap().take() } else { None };
        if let Some(sleeper) = sleeper {
            // The only thread of its runtime: nothing of this process runs until it wakes up.
            let _ = sleeper.recv();
        }
        Ok(())
    });
    let stopped = Killable::start(&broker, &log, &stopping, settings()).await;
    publish(&broker, KEYS, 1..=COUNT / 2).await;
    eventually("the stop", || async {
        let log = log.lock().unwrap();
        log.begun.get("c10").is_some_and(|begun| begun.contains(&210)).then_some(())
    })
    .await;
    let accept: Verdict = Arc::new(|_, _| Ok(()));
    let other = process(&broker, &log, &accept, settings()).await;
    publish(&broker, KEYS, COUNT / 2 + 1..=COUNT).await;
    eventually("all, by the other", || async { (done(&log) == COUNT).then_some(()) }).await;
    let begun = |log: &Shared| log.lock().unwrap().begun.values().map(Vec::len).sum::<usize>();
    let before = begun(&log);
    wake.send(()).unwrap();
    // It takes part again, and what comes now is handled once.
    publish(&broker, KEYS, COUNT + 1..=COUNT + KEYS).await;
    eventually("what came after", || async { (done(&log) == COUNT + KEYS).then_some(()) }).await;
    assert_eq!(begun(&log), before + KEYS, "nothing was begun again");
    in_order(&log.lock().unwrap(), COUNT + KEYS);
    other.drain().await;
    drop(stopped);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_holds_for_what_waits_behind_blocked_keys() {
    let broker = broker().await;
    let log = Log::of(1);
    log.lock().unwrap().given_up.insert(1);
    let verdict: Verdict =
        Arc::new(|event, _| if event.order_id == "1" { Err(Fault::invalid("not this one")) } else { Ok(()) });
    let mut settings = settings();
    settings.order = settings.order.map(|order| OrderSettings { most_held: 5, ..order });
    let mesh = process(&broker, &log, &verdict, settings).await;
    publish(&broker, 1, 1..=1000).await;
    let letter = eventually("the letter", || async { open_letters(&broker).await.pop() }).await;
    let operator = broker.connect("operator").await.unwrap();
    let partition = mesh_core::subject::partition(b"c0");
    let state = |stream: &'static str| {
        let (operator, durable) = (operator.clone(), format!("mail_work_p{partition}"));
        async move { operator.bus().consumer_state(stream, &durable).await.unwrap().unwrap() }
    };
    eventually("the limit", || async { (state("mesh1-lane-mail").await.in_flight == 5).then_some(()) }).await;
    let metrics = mesh.metrics().encode();
    assert!(metrics.contains("mesh_followers_held{consumer=\"work\"} 5"), "{metrics}");
    assert!(metrics.contains("mesh_keys_blocked{consumer=\"work\"} 1"), "{metrics}");
    let fetched = state("mesh1-event-orders").await;
    assert!(fetched.pending > 500, "it stopped fetching: {fetched:?}");
    letters::discard(operator.bus(), &letter, &by_ada()).await.unwrap();
    eventually("all", || async { (done(&log) == 999).then_some(()) }).await;
    mesh.drain().await;
    check(&log, 999);
}

/// What a process leaves that is killed after it wrote that a key is blocked, and before anything else.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_of_a_blocked_key_without_a_copy_blocks_nothing() {
    use mesh_core::proto::v1::{BlockedKey, blocked_key::State};
    use prost::Message as _;
    let broker = broker().await;
    publish(&broker, 2, 1..=10).await;
    let writer = broker.connect("mail").await.unwrap();
    let store = Store::own(writer.bus());
    // The head of c1 is in the stream, and the broker has forgotten that it delivered it; that of c0 is nowhere.
    for (key, sequence, state) in [("c1", 1, State::Delayed), ("c0", 0, State::Letter)] {
        let (hold, letter_id) = ("mesh1-event-orders-1".to_owned(), "00".repeat(16));
        let record = BlockedKey {
            key: key.into(),
            sequence,
            hold,
            letter_id,
            stored_at_ms: store.now_ms(),
            ..BlockedKey::default()
        };
        let record = BlockedKey { state: state.into(), ..record };
        let partition = mesh_core::subject::partition(key.as_bytes());
        let place = format!("blocked.work.{partition}.{}", mesh_core::delayed::block_of(key));
        store.put(&place, record.encode_to_vec().into(), 0, None).await.unwrap();
    }
    let log = Log::of(2);
    let accept: Verdict = Arc::new(|_, _| Ok(()));
    let mesh = process(&broker, &log, &accept, settings()).await;
    eventually("all", || async { (done(&log) == 10).then_some(()) }).await;
    eventually("no record", || async {
        let left = store.list("blocked.work.*.*").await.unwrap();
        left.is_empty().then_some(())
    })
    .await;
    mesh.drain().await;
    check(&log, 10);
}

/// Takes the first ones in `stream` for the partition of `key`, as a process would that is killed or stopped then.
async fn take(broker: &TestBroker, stream: &str, key: &str, count: usize) -> Vec<async_nats::jetstream::Message> {
    let options = async_nats::ConnectOptions::with_nkey(broker.seed("mail").unwrap().to_owned());
    let client = options.custom_inbox_prefix("_INBOX.mail").connect(broker.server.client_url()).await.unwrap();
    let durable = format!("mail_work_p{}", mesh_core::subject::partition(key.as_bytes()));
    let context = async_nats::jetstream::new(client);
    let consumer = context.get_consumer_from_stream::<pull::Config, _, _>(durable, stream).await.unwrap();
    let messages = consumer.batch().max_messages(count).messages().await.unwrap();
    messages.take(count).map(Result::unwrap).collect().await
}

/// What processes leave that are killed after they delayed a message and before they acked it. Of the number 1 the copy waits
/// beside its original; that of the number 2 was handled since. Both fail again.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_comes_beside_its_copy_and_fails_again_is_not_lost() {
    use mesh_core::{
        envelope,
        proto::v1::{Attempts, BlockedKey, blocked_key::State},
    };
    use prost::Message as _;
    let broker = broker().await;
    publish(&broker, 2, 1..=10).await;
    let (writer, operator) = (broker.connect("mail").await.unwrap(), broker.connect("operator").await.unwrap());
    let name = |name: &str| name.parse().unwrap();
    let lane = delayed::Lane { region: name("local"), service: name("mail"), consumer: name("work") };
    for sequence in [1, 2] {
        let message = operator.bus().message_at("mesh1-event-orders", sequence).await.unwrap().unwrap();
        let mut envelope = message.open().envelope;
        let number: u64 = envelope.message_id.rsplit('/').next().unwrap().parse().unwrap();
        let key = format!("c{}", number % 2);
        envelope.order = Some(envelope::Order { key: key.clone(), fence: 0 });
        take(&broker, "mesh1-event-orders", &key, 1).await;
        delayed::delay(writer.bus(), &lane, &envelope, (2, 0), &Attempts::default()).await.unwrap();
        if number == 2 {
            take(&broker, &lane.stream(), &key, 1).await[0].double_ack().await.unwrap();
            continue;
        }
        let record = BlockedKey {
            state: State::Delayed.into(),
            key: key.clone(),
            sequence,
            stored_at_ms: envelope.delivery.as_ref().unwrap().stored_at_ms,
            hold: delayed::unique(&envelope),
            message_id: envelope.message_id.clone(),
            ..BlockedKey::default()
        };
        let partition = mesh_core::subject::partition(key.as_bytes());
        let place = format!("blocked.work.{partition}.{}", delayed::block_of(&key));
        Store::own(writer.bus()).put(&place, record.encode_to_vec().into(), 0, None).await.unwrap();
    }
    let tried = Arc::new(Mutex::new(BTreeMap::<u64, Vec<u32>>::new()));
    let trying = Arc::clone(&tried);
    let verdict: Verdict = Arc::new(move |event, attempt| {
        let number = event.order_id.parse().unwrap();
        trying.lock().unwrap().entry(number).or_default().push(attempt);
        if number <= 2 && attempt <= 2 { Err(Fault::unavailable("a moment, please")) } else { Ok(()) }
    });
    let log = Log::of(2);
    let mesh = process(&broker, &log, &verdict, settings()).await;
    eventually("all", || async { (done(&log) == 10).then_some(()) }).await;
    mesh.drain().await;
    check(&log, 10);
    let tried = tried.lock().unwrap().clone();
    assert_eq!(tried[&1], [2, 3], "the attempt that its copy tells of counts");
    assert_eq!(tried[&2], [1, 2, 3]);
    let left = operator.bus().stream_state(&lane.stream()).await.unwrap().unwrap();
    assert_eq!(left.messages, 0);
}

/// A process that was stopped in the middle of its acks, which reach the broker after the next owner has their messages too.
#[tokio::test(flavor = "multi_thread")]
async fn acks_that_come_after_the_takeover_stop_nothing() {
    let broker = broker().await;
    publish(&broker, 1, 1..=5).await;
    let stopped = take(&broker, "mesh1-event-orders", "c0", 3).await;
    let log = Log::of(1);
    log.lock().unwrap().given_up.extend([1, 2]);
    let accept: Verdict = Arc::new(|_, _| Ok(()));
    let mesh = process(&broker, &log, &accept, settings()).await;
    let operator = broker.connect("operator").await.unwrap();
    let durable = format!("mail_work_p{}", mesh_core::subject::partition(b"c0"));
    // The third one's lease is kept alive meanwhile.
    let delivered = || async {
        stopped[2].ack_with(async_nats::jetstream::AckKind::Progress).await.unwrap();
        let state = operator.bus().consumer_state("mesh1-event-orders", &durable).await.unwrap().unwrap();
        state.deliveries
    };
    eventually("two of three come to it, and two new ones", || async { (delivered().await == 7).then_some(()) }).await;
    // After each ack as many are under way as are here, though not the same ones. Whoever sees that hands all back, and
    // what is left of it comes again: three, then two.
    for (message, times) in stopped[..2].iter().zip([10, 12]) {
        message.double_ack().await.unwrap();
        eventually("what was here to come again", || async { (delivered().await >= times).then_some(()) }).await;
    }
    assert_eq!(done(&log), 0, "the third one is still with the process that was stopped");
    eventually("the other three", || async { (done(&log) == 3).then_some(()) }).await;
    mesh.drain().await;
    check(&log, 3);
}
