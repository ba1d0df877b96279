//! The order of keys: kept across processes that come and go, through retries, letters and crashes.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::StreamExt as _;
use mesh_core::{
    Context, Fault, Mesh,
    bus::StreamLimits,
    consume::{ConsumerSettings, OrderSettings},
    dead_letter::{Letter, LetterState},
    operate::letters::{self, Filter, Order},
    policy::{
        compile::{Consumes, Declaration},
        retry::RetryRule,
    },
};
use mesh_tests::{TestBroker, eventually};
use shop_proto::shop::orders::v1::OrderPlaced;

use crate::shop::{consumer, orders};

fn ordered(service: &str) -> Declaration {
    let declaration = consumer(service, "work");
    let consumes = declaration.consumes.into_iter().map(|consumes| Consumes { ordered: true, ..consumes }).collect();
    Declaration { consumes, ..declaration }
}

/// Short leases, so that a crash is noticed within the time of a test.
async fn broker() -> TestBroker {
    let limits = StreamLimits { ack_wait: Duration::from_secs(2), ..StreamLimits::default() };
    TestBroker::with(&[orders(), ordered("mail")], true, &limits).await.unwrap()
}

fn settings() -> ConsumerSettings {
    let order = OrderSettings {
        lease: Duration::from_secs(2),
        look_every: Duration::from_millis(100),
        ..OrderSettings::default()
    };
    let retry = RetryRule { base: Duration::from_millis(100), ..RetryRule::default() };
    ConsumerSettings { order: Some(order), retry, concurrency: 32, ..ConsumerSettings::default() }
}

/// What was handled, in the order that handlers began and ended.
#[derive(Default)]
struct Log {
    /// The numbers of a key whose handlers began.
    begun: BTreeMap<String, Vec<u64>>,
    done: BTreeMap<String, Vec<u64>>,
    running: BTreeSet<String>,
    overlaps: usize,
    fences: HashMap<String, u64>,
    late: usize,
}

type Shared = Arc<Mutex<Log>>;

/// How a message is to be answered.
type Verdict = Arc<dyn Fn(&OrderPlaced, u32) -> Result<(), Fault> + Send + Sync>;

/// One process: a connection of its own with the ordered consumer.
async fn process(broker: &TestBroker, log: &Shared, verdict: &Verdict, settings: ConsumerSettings) -> Mesh {
    let mesh = broker.connect("mail").await.unwrap();
    let (log, verdict) = (Arc::clone(log), Arc::clone(verdict));
    let handler = move |cx: Context, event: OrderPlaced| {
        let (log, verdict) = (Arc::clone(&log), Arc::clone(&verdict));
        async move {
            let (key, number) = (event.customer_id.clone(), event.order_id.parse().unwrap());
            {
                let mut log = log.lock().unwrap();
                let overlaps = !log.running.insert(key.clone());
                log.overlaps += usize::from(overlaps);
                log.begun.entry(key.clone()).or_default().push(number);
                let fence = cx.fence().unwrap();
                let newest = log.fences.entry(key.clone()).or_default();
                let is_late = fence < *newest;
                *newest = fence.max(*newest);
                log.late += usize::from(is_late);
            }
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
async fn publish(broker: &TestBroker, keys: usize, numbers: std::ops::RangeInclusive<usize>) {
    let mesh = broker.connect("orders").await.unwrap();
    let publisher = mesh.publisher::<OrderPlaced>();
    let event = |number: usize| OrderPlaced {
        order_id: number.to_string(),
        customer_id: format!("c{}", number % keys),
        ..OrderPlaced::default()
    };
    // One key at a time in each batch: events of a key are stored in the order of their numbers.
    let mut numbers = numbers.peekable();
    while numbers.peek().is_some() {
        let batch: Vec<_> = numbers.by_ref().take(keys.min(500)).map(|n| (n.to_string(), event(n))).collect();
        let results: Vec<_> = publisher.publish_all(futures_util::stream::iter(batch), 500).collect().await;
        assert!(results.iter().all(|(_, result)| result.is_ok()));
    }
    mesh.drain().await;
}

fn done(log: &Shared) -> usize {
    log.lock().unwrap().done.values().map(|numbers| numbers.iter().collect::<BTreeSet<_>>().len()).sum()
}

/// No handler of a key began before those ahead of it were done, and each was done.
fn check(log: &Shared, keys: usize, count: usize) {
    let log = log.lock().unwrap();
    assert_eq!(log.overlaps, 0, "two of one key at the same time");
    assert_eq!(log.late, 0, "an older owner began after a newer one");
    let mut violations = Vec::new();
    for (key, begun) in &log.begun {
        if !begun.is_sorted() {
            violations.push((key, begun));
        }
    }
    assert!(violations.is_empty(), "{} of {keys} keys out of order: {:?}", violations.len(), violations.first());
    let all: BTreeSet<u64> = log.done.values().flatten().copied().collect();
    assert_eq!(all.len(), count);
}

async fn open_letters(broker: &TestBroker) -> Vec<Letter> {
    let operator = broker.connect("operator").await.unwrap();
    let filter = Filter { states: vec![LetterState::Open], ..Filter::default() };
    let letters = letters::list(operator.bus(), &filter).await.unwrap();
    operator.drain().await;
    letters
}

fn by_ada() -> Order {
    Order { by: "ada".into(), why: "mended".into(), again: false }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_head_holds_back_its_own_key_and_no_other_until_its_letter_is_replayed() {
    let broker = broker().await;
    let log = Shared::default();
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
    broken.store(false, std::sync::atomic::Ordering::SeqCst);
    letters::replay(operator.bus(), &letter, &by_ada()).await.unwrap();
    eventually("all", || async { (done(&log) == 30).then_some(()) }).await;
    mesh.drain().await;
    check(&log, 3, 30);
    let lane = operator.bus().stream_state("mesh1-lane-mail").await.unwrap().unwrap();
    assert_eq!(lane.messages, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn discarding_the_letter_releases_the_key() {
    let broker = broker().await;
    let log = Shared::default();
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
    check(&log, 1, 11);
}

#[tokio::test(flavor = "multi_thread")]
async fn order_is_kept_while_processes_come_and_go_and_messages_fail() {
    const KEYS: usize = 200;
    const COUNT: usize = 4000;
    let broker = broker().await;
    let log = Shared::default();
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
    let mut meshes = vec![process(&broker, &log, &verdict, settings()).await];
    meshes.push(process(&broker, &log, &verdict, settings()).await);
    let publishing = publish(&broker, KEYS, 1..=COUNT);
    let scaling = async {
        eventually("some", || async { (done(&log) > COUNT / 10).then_some(()) }).await;
        for _ in 0..4 {
            meshes.push(process(&broker, &log, &verdict, settings()).await);
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
    check(&log, KEYS, COUNT);
}
