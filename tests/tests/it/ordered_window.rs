//! More copies wait on a partition's lane than one process may have in hand at once.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
};

use async_nats::jetstream::{Context as JetStream, consumer::pull};
use mesh_core::{
    Context, Fault,
    consume::{ConsumerSettings, OrderSettings},
    fault::{Code, Effect},
    operate::letters,
    subject,
};
use mesh_tests::{TestBroker, eventually};
use shop_proto::shop::orders::v1::OrderPlaced;

use crate::{
    claims::foreign,
    ordered::{
        Killable, Log, Shared, Verdict, broker, by_ada, check, done, in_order, open_letters, process, publish_to,
        settings,
    },
};

const EVENTS: &str = "mesh1-event-orders";
const LANE: &str = "mesh1-lane-mail";

/// So many deliveries of a partition's lane may be under way.
const WINDOW: i64 = 16;
/// So many messages may be put aside there.
const MOST_HELD: usize = 8;
/// Keys of the partition, and messages of each.
const KEYS: usize = 40;
const EACH: usize = 3;

fn with_room_for(most_held: usize) -> ConsumerSettings {
    let settings = settings();
    let order = settings.order.map(|order| OrderSettings { most_held, ..order });
    ConsumerSettings { order, ..settings }
}

/// So many keys of one partition.
fn keys_of(partition: u32, count: usize) -> Vec<String> {
    let keys = (0..).map(|number| format!("c{number}"));
    keys.filter(|key| subject::partition(key.as_bytes()) == partition).take(count).collect()
}

/// Makes the window of a lane so small that a few messages are more than may be under way.
async fn narrow(broker: &TestBroker, durable: &str) -> JetStream {
    let jetstream = foreign(broker, "operator").await;
    let stream = jetstream.get_stream(LANE).await.unwrap();
    let now = stream.consumer_info(durable).await.unwrap().config;
    let config = pull::Config {
        durable_name: Some(durable.into()),
        filter_subject: now.filter_subject,
        filter_subjects: now.filter_subjects,
        ack_policy: now.ack_policy,
        ack_wait: now.ack_wait,
        max_deliver: now.max_deliver,
        max_ack_pending: WINDOW,
        ..pull::Config::default()
    };
    stream.create_consumer(config).await.unwrap();
    jetstream
}

/// The first message of each key was refused, and its letter is replayed while nobody is there. Behind some of them others wait on
/// the lane, the rest in their stream. From now on `accepted` messages are accepted, and then all are tried again.
async fn replayed_while_nobody_is_there(accepted: &Arc<AtomicUsize>) -> (Arc<TestBroker>, Shared, Verdict) {
    let broker = Arc::new(broker().await);
    let jetstream = narrow(&broker, "mail_work_p3").await;
    let (log, left, refuses) = (Log::of(KEYS), Arc::clone(accepted), Arc::new(AtomicBool::new(true)));
    let is_refusing = Arc::clone(&refuses);
    let verdict: Verdict = Arc::new(move |_, _| {
        if is_refusing.load(SeqCst) {
            return Err(Fault::invalid("not yet"));
        }
        let takes_one = left.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1));
        takes_one.map(drop).map_err(|_| Fault::unavailable("a moment, please"))
    });
    let before = process(&broker, &log, &verdict, with_room_for(MOST_HELD)).await;
    publish_to(&broker, &keys_of(3, KEYS), 1..=EACH * KEYS).await;
    let due = || async {
        let stream = jetstream.get_stream(LANE).await.unwrap();
        let info = stream.consumer_info("mail_work_p3").await.unwrap();
        info.num_pending + info.num_ack_pending as u64
    };
    let held = eventually("a letter of each key, and as many behind them as may be", || async {
        let letters = open_letters(&broker).await;
        (letters.len() == KEYS && due().await == MOST_HELD as u64).then_some(letters)
    })
    .await;
    before.drain().await;
    refuses.store(false, SeqCst);
    let operator = broker.connect("operator").await.unwrap();
    for letter in &held {
        letters::replay(operator.bus(), letter, &by_ada()).await.unwrap();
    }
    assert_eq!(due().await, (MOST_HELD + KEYS) as u64, "three times as many as may be under way");
    let waiting = operator.bus().consumer_state(EVENTS, "mail_work_p3").await.unwrap().unwrap();
    assert!(waiting.pending + waiting.in_flight > 0, "new work waits in its stream");
    operator.drain().await;
    (broker, log, verdict)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_with_more_due_copies_than_its_window_is_taken_over_and_keeps_the_order() {
    let accepted = Arc::new(AtomicUsize::new(usize::MAX));
    let (broker, log, verdict) = replayed_while_nobody_is_there(&accepted).await;
    let after = process(&broker, &log, &verdict, with_room_for(MOST_HELD)).await;
    eventually("all", || async { (done(&log) == EACH * KEYS).then_some(()) }).await;
    after.drain().await;
    check(&log, EACH * KEYS);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_that_is_killed_before_all_of_its_lane_has_come_loses_nothing_and_nothing_overtakes() {
    let accepted = Arc::new(AtomicUsize::new(KEYS / 4));
    let (broker, log, verdict) = replayed_while_nobody_is_there(&accepted).await;
    let killed = Killable::start(&broker, &log, &verdict, with_room_for(MOST_HELD)).await;
    eventually("some", || async { (accepted.load(SeqCst) == 0).then_some(()) }).await;
    killed.kill();
    // Handlers that were killed run no more.
    log.lock().unwrap().running.clear();
    accepted.store(usize::MAX, SeqCst);
    let after = process(&broker, &log, &verdict, with_room_for(MOST_HELD)).await;
    eventually("all", || async { (done(&log) == EACH * KEYS).then_some(()) }).await;
    after.drain().await;
    in_order(&log.lock().unwrap(), EACH * KEYS);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_that_leaves_the_lane_no_room_is_refused_when_the_consumer_starts() {
    let broker = broker().await;
    let mesh = broker.connect("mail").await.unwrap();
    let start = async |most_held| {
        let consumer = mesh.consumer::<OrderPlaced>("work").settings(with_room_for(most_held));
        consumer.start(async |_: Context, _: OrderPlaced| Ok(())).await
    };
    for (most_held, said) in [(0, "is 0"), (2049, "is 2049")] {
        let fault = start(most_held).await.unwrap_err();
        assert_eq!((fault.code(), fault.effect()), (Code::InvalidArgument, Effect::None));
        for part in [said, "\"work\"", "from 1 to 2048", "most_held", "\"mail_work_p0\"", "\"mesh1-lane-mail\""] {
            assert!(fault.message().contains(part), "no {part:?} in {fault}");
        }
        assert!(!fault.message().contains("mesh apply"), "the bus has what the mesh file asks for: {fault}");
    }
    // The bus lets less be under way than the mesh file asks for.
    narrow(&broker, "mail_work_p0").await;
    let fault = start(9).await.unwrap_err();
    for part in ["is 9", "from 1 to 8", "mesh apply"] {
        assert!(fault.message().contains(part), "no {part:?} in {fault}");
    }
    start(8).await.unwrap();
    mesh.drain().await;
}
