//! What a drain hands back before it was begun is no suspect afterwards, also where what is remembered speaks of the delivery
//! that it follows.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_nats::jetstream;
use futures_util::{TryStreamExt as _, poll};
use mesh_core::{
    Context, Fault, Mesh,
    bus::StreamLimits,
    consume::ConsumerSettings,
    policy::isolation::IsolationRule,
    proto::v1::{InboxRecord, inbox_record::State},
    subject,
};
use mesh_tests::{Seen, TestBroker, eventually, foreign};
use prost::Message as _;
use shop_proto::shop::orders::v1::OrderPlaced;
use tokio::sync::{Barrier, Mutex, Semaphore, watch};

use crate::{
    inbox::{letters, settled},
    shop::{consumer, order, orders},
};

const HORIZON: Duration = Duration::from_secs(3600);
/// The copies of the first process are due after so long.
const DUE: Duration = Duration::from_secs(4);
/// Two that were tried and three that were put aside.
const TRIED: usize = 2;
const COUNT: usize = 5;
const PLACE: (&str, &str) = ("mesh1-event-orders", "mail_confirm");

/// Id and attempt of what was begun.
type Begun = Arc<Mutex<BTreeMap<String, u32>>>;

/// When a handler ends.
enum MayEnd {
    Told(watch::Receiver<bool>),
    /// When all of them run.
    Together(Barrier),
}

/// Its target goes down with the first two, which are tried at once; the others are put aside.
async fn puts_aside(broker: &TestBroker) {
    let isolation = IsolationRule { failures: 1, pause: 2 * DUE, max_pause: 2 * DUE, ..IsolationRule::default() };
    let settings = ConsumerSettings { isolation: Some(isolation), ..ConsumerSettings::default() };
    let mesh = broker.connect("mail").await.unwrap();
    let (both, begun) = (Arc::new(Barrier::new(TRIED)), Begun::default());
    let into = Arc::clone(&begun);
    let fails = move |cx: Context, event: OrderPlaced| {
        let (both, into) = (Arc::clone(&both), Arc::clone(&into));
        async move {
            into.lock().await.insert(event.order_id, cx.attempt());
            both.wait().await;
            Err::<(), _>(Fault::unavailable("the target is down").with_retry_after(DUE))
        }
    };
    let confirm = mesh.consumer::<OrderPlaced>("confirm").settings(settings).inbox(HORIZON);
    confirm.isolate_by(|_: &OrderPlaced| "everybody".to_owned()).start(fails).await.unwrap();
    let sender = broker.connect("orders").await.unwrap();
    let publish = async |number: usize| {
        sender.publisher::<OrderPlaced>().publish(&order(number)).id(number.to_string()).await.unwrap();
    };
    for number in 1..=TRIED {
        publish(number).await;
    }
    eventually("both are tried", || async { (begun.lock().await.len() == TRIED).then_some(()) }).await;
    settled(broker, PLACE).await;
    for number in TRIED + 1..=COUNT {
        publish(number).await;
    }
    settled(broker, PLACE).await;
    mesh.drain().await;
    assert_eq!(begun.lock().await.len(), TRIED, "the others were not begun");
}

/// A process with so many places, each of whose handlers ends when its part of `may_end` does.
async fn serves(broker: &TestBroker, places: usize, begun: &Begun, may_end: MayEnd) -> Mesh {
    let mesh = broker.connect("mail").await.unwrap();
    let (into, may_end) = (Arc::clone(begun), Arc::new(may_end));
    let handler = move |cx: Context, event: OrderPlaced| {
        let (into, may_end) = (Arc::clone(&into), Arc::clone(&may_end));
        async move {
            into.lock().await.insert(event.order_id, cx.attempt());
            match &*may_end {
                MayEnd::Told(told) => {
                    told.clone()
                        .wait_for(|is_told| *is_told)
                        .await
                        .map_err(|_| Fault::unavailable("the test has ended"))?;
                }
                MayEnd::Together(barrier) => {
                    barrier.wait().await;
                }
            }
            Ok(())
        }
    };
    let settings = ConsumerSettings { concurrency: places, ..ConsumerSettings::default() };
    mesh.consumer::<OrderPlaced>("confirm").settings(settings).inbox(HORIZON).start(handler).await.unwrap();
    mesh
}

/// What is remembered of every message, and where.
async fn records(broker: &TestBroker) -> Vec<(String, InboxRecord)> {
    let jetstream = jetstream::new(foreign::client(broker, "operator").await);
    let stream = jetstream.get_stream(subject::store_stream("mail")).await.unwrap();
    let subjects: Vec<(String, usize)> =
        stream.info_with_subjects("mesh1.store.*.*.inbox.>").await.unwrap().try_collect().await.unwrap();
    let mut records = Vec::new();
    for (subject, _) in subjects {
        let message = stream.get_last_raw_message_by_subject(&subject).await.unwrap();
        records.push((subject, InboxRecord::decode(message.payload).unwrap()));
    }
    records
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_that_a_drain_hands_back_before_their_turn_are_no_suspects() {
    let broker = TestBroker::start(&[orders(), consumer("mail", "confirm")]).await.unwrap();
    puts_aside(&broker).await;

    let (begun, (tell, told)) = (Begun::default(), watch::channel(false));
    let drained = serves(&broker, 1, &begun, MayEnd::Told(told)).await;
    let operator = broker.connect("operator").await.unwrap();
    let lane = subject::lane_stream("mail");
    eventually("all copies are in hand, one is begun", || async {
        let state = operator.bus().consumer_state(&lane, PLACE.1).await.ok()??;
        (state.in_flight == COUNT as u64 && begun.lock().await.len() == 1).then_some(())
    })
    .await;
    tokio::join!(drained.drain(), async { tell.send_replace(true) });
    let (first, rest) = (begun.lock().await.clone(), Begun::default());
    assert_eq!(first.len(), 1, "the others did not get their turn");

    let together = MayEnd::Together(Barrier::new(COUNT - 1));
    let _mesh = serves(&broker, COUNT, &rest, together).await;
    settled(&broker, (&lane, PLACE.1)).await;
    let mut attempts = rest.lock().await.clone();
    attempts.extend(first);
    let expected = |number: usize| (number.to_string(), if number <= TRIED { 2 } else { 1 });
    assert_eq!(attempts, (1..=COUNT).map(expected).collect(), "none is lost, and to be handed back is no attempt");
    let records = records(&broker).await;
    assert_eq!(records.len(), COUNT);
    for (_, record) in records {
        assert_eq!(record.state(), State::Ended, "{record:?}");
        assert_eq!((record.ended_alone, record.ended_beside, record.alone), (0, 0, false), "{record:?}");
    }
    assert!(letters(&broker).await.is_empty());
}

/// A process that had the originals for long begins them after another one has put them aside and settled them, and ends or is cut
/// off: the copies carry the messages, whatever it wrote.
#[tokio::test(flavor = "multi_thread")]
async fn copies_are_not_dropped_for_what_a_late_process_only_began() {
    let broker = TestBroker::start(&[orders(), consumer("mail", "confirm")]).await.unwrap();
    puts_aside(&broker).await;
    let of_late = jetstream::new(foreign::client(&broker, "mail").await);
    let aside: Vec<_> =
        records(&broker).await.into_iter().filter(|(_, record)| record.state() == State::HandedBack).collect();
    assert_eq!(aside.len(), COUNT - TRIED);
    for (number, (subject, record)) in aside.into_iter().enumerate() {
        // One that drained in the middle; the others ended.
        let state = if number == 0 { State::HandedBack } else { State::Begun };
        let late = InboxRecord { state: state.into(), begun: number == 0, at_ms: 0, by: "late".into(), ..record };
        of_late.publish(subject, late.encode_to_vec().into()).await.unwrap().await.unwrap();
    }
    let (begun, (_tell, told)) = (Begun::default(), watch::channel(true));
    let _mesh = serves(&broker, COUNT, &begun, MayEnd::Told(told)).await;
    eventually("all are begun", || async { (begun.lock().await.len() == COUNT).then_some(()) }).await;
    settled(&broker, (&subject::lane_stream("mail"), PLACE.1)).await;
    let records = records(&broker).await;
    assert!(records.iter().all(|(_, record)| record.state() == State::Ended), "{records:?}");
    assert!(letters(&broker).await.is_empty());
}

/// A process whose handlers write down what they begin, and wait for the gate with the order `waits_for`.
async fn begins(
    broker: &TestBroker,
    settings: ConsumerSettings,
    waits_for: Option<&'static str>,
) -> (Mesh, Seen, Arc<Semaphore>) {
    let mesh = broker.connect("mail").await.unwrap();
    let (begun, gate) = (Seen::default(), Arc::new(Semaphore::new(0)));
    let parts = (Arc::clone(&begun), Arc::clone(&gate));
    let handler = move |_cx: Context, event: OrderPlaced| {
        let (begun, gate) = parts.clone();
        async move {
            let waits = waits_for == Some(event.order_id.as_str());
            begun.lock().await.push(event.order_id);
            if waits {
                let _may_end = gate.acquire().await;
            }
            Ok::<(), Fault>(())
        }
    };
    mesh.consumer::<OrderPlaced>("confirm").settings(settings).start(handler).await.unwrap();
    (mesh, begun, gate)
}

/// The first process has one in its only place and one beside it, and the broker hears nothing of it for longer than it waits: a
/// second one gets both. When the first drains it takes nothing away from who has it by now, to be given to a third.
#[tokio::test(flavor = "multi_thread")]
async fn what_others_have_by_now_is_not_handed_back() {
    let ack_wait = Duration::from_secs(6);
    let limits = StreamLimits { ack_wait, ..StreamLimits::default() };
    let broker = TestBroker::with(&[orders(), consumer("mail", "confirm")], true, &limits).await.unwrap();
    let has = async |begun: &Seen, id: &str| {
        eventually(&format!("{id} is begun"), || async { begun.lock().await.iter().any(|it| it == id).then_some(()) })
            .await;
    };
    let publisher = broker.connect("orders").await.unwrap().publisher::<OrderPlaced>();
    let publish = async |number: usize| {
        publisher.publish(&order(number)).id(number.to_string()).await.unwrap();
    };
    publish(1).await;
    let operator = broker.connect("operator").await.unwrap();
    // It believes that the broker waits for far longer, and asks for no more than these two.
    let silent = ConsumerSettings {
        concurrency: 1,
        prefetch: 1,
        ack_wait: Duration::from_secs(60),
        ..ConsumerSettings::default()
    };
    let (first, of_first, ends_first) = begins(&broker, silent, Some("1")).await;
    has(&of_first, "1").await;
    publish(2).await;
    eventually("both are in the hands of the first", || async {
        let state = operator.bus().consumer_state(PLACE.0, PLACE.1).await.ok()??;
        (state.in_flight == 2).then_some(())
    })
    .await;
    // It has a place for each, and asks for no more.
    let full = ConsumerSettings { concurrency: 2, prefetch: 0, ack_wait, ..ConsumerSettings::default() };
    let (second, of_second, ends_second) = begins(&broker, full, Some("2")).await;
    has(&of_second, "2").await;
    let usual = ConsumerSettings { ack_wait, ..ConsumerSettings::default() };
    let (third, of_third, _) = begins(&broker, usual, None).await;

    let deliveries = async || operator.bus().consumer_state(PLACE.0, PLACE.1).await.unwrap().unwrap().deliveries;
    let before = deliveries().await;
    // The drain has begun when what runs may end: nothing more is begun then.
    let mut drains = Box::pin(first.drain());
    assert!(poll!(&mut drains).is_pending());
    ends_first.add_permits(1);
    drains.await;
    // It comes behind whatever was handed back.
    publish(3).await;
    eventually("the last one is begun", || async {
        let all = [of_second.lock().await.clone(), of_third.lock().await.clone()].concat();
        all.iter().any(|id| id == "3").then_some(())
    })
    .await;
    assert_eq!(deliveries().await, before + 1, "nothing but the last one was delivered after the drain");
    assert_eq!(*of_first.lock().await, ["1"]);
    ends_second.add_permits(1);
    second.drain().await;
    third.drain().await;
}
