//! The keeper: a process killed on its last delivery leaves a letter, exactly one, whatever crashes meanwhile.

use std::{path::Path, process::Stdio, time::Duration};

use mesh_core::{
    Fault,
    bus::{Probed, Stop, StreamLimits},
    dead_letter::{self, Facts, Letter, LetterState, letter_id},
    delayed::{self, Lane},
    fault::{Code, Effect, Reason},
    gate::Unopened,
    operate::{
        keeper::{KeeperSettings, LEASE, ask},
        letters::{self, Order, Selector},
    },
    proto::v1,
    store::{Lease, LeaseSettings, Store, Written},
    subject::{ADVISORY_STREAM, KEEPER},
};
use mesh_tests::{
    TestBroker, eventually,
    foreign::{self, Worker},
    keeper::Running,
    mesh_binary,
};
use prost::Message as _;
use shop_proto::shop::{
    orders::v1::OrderPlaced,
    payments::v1::{PaymentsClient, PaymentsServer},
};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    process::{Child, ChildStdout, Command},
    time::Instant,
};

use crate::shop::{Bank, bank, charge_of, consumer, order, orders, till};

const MAX_DELIVER: i64 = 3;
pub(crate) const WORK: (&str, &str) = ("mesh1-work-shop-payments-v1-Payments", "bank_shop-payments-v1-payments");
pub(crate) const EVENTS: (&str, &str) = ("mesh1-event-orders", "mail_confirm");
pub(crate) const LANE: (&str, &str) = ("mesh1-lane-mail", "mail_confirm");

pub(crate) async fn broker() -> TestBroker {
    let declared = [orders(), consumer("mail", "confirm"), till(), bank()];
    let limits =
        StreamLimits { max_deliver: MAX_DELIVER, ack_wait: Duration::from_millis(300), ..StreamLimits::default() };
    TestBroker::with(&declared, true, &limits).await.unwrap()
}

pub(crate) fn lane(service: &str, consumer: &str) -> Lane {
    let name = |text: &str| text.parse().unwrap();
    Lane { region: name("local"), service: name(service), consumer: name(consumer) }
}

/// Takes one message as often as it is delivered, and dies with it. When it was stored, as its deliveries say.
pub(crate) async fn die(worker: &Worker) -> i64 {
    let mut reply = None;
    for _ in 0..MAX_DELIVER {
        reply = worker.pull().await.reply;
    }
    let nanos: i64 = reply.unwrap().split('.').nth(7).unwrap().parse().unwrap();
    nanos / 1_000_000
}

/// Of a keeper that takes over and looks soon.
pub(crate) fn settings() -> KeeperSettings {
    KeeperSettings {
        lease: LeaseSettings { lasts: Duration::from_secs(2), ask_every: Duration::from_millis(50) },
        sweep_every: Duration::from_millis(200),
        confirm_after: Duration::from_millis(500),
        left_rest: Duration::from_millis(500),
        ..KeeperSettings::default()
    }
}

/// Such a keeper, in this process.
pub(crate) async fn start_keeper(broker: &TestBroker) -> Running {
    Running::start(broker, settings()).await.unwrap()
}

pub(crate) async fn letters(broker: &TestBroker) -> Vec<Letter> {
    let operator = broker.connect("operator").await.unwrap();
    let letters = letters::list(operator.bus(), &Selector::default()).await.unwrap().letters;
    operator.drain().await;
    letters
}

pub(crate) async fn some_letters(broker: &TestBroker, count: usize) -> Vec<Letter> {
    eventually("the letters", || async {
        let letters = letters(broker).await;
        assert!(letters.len() <= count, "{letters:?}");
        (letters.len() == count).then_some(letters)
    })
    .await
}

async fn messages(broker: &TestBroker, stream: &str) -> u64 {
    let operator = broker.connect("operator").await.unwrap();
    let state = operator.bus().stream_state(stream).await.unwrap().unwrap();
    operator.drain().await;
    state.messages
}

pub(crate) async fn until_empty(broker: &TestBroker, stream: &str) {
    eventually("an empty queue", || async { (messages(broker, stream).await == 0).then_some(()) }).await;
}

/// Until every advisory is worked off that does not rest.
pub(crate) async fn until_read(broker: &TestBroker) {
    until_read_by(broker, "position.advisory").await;
}

/// Until the reader of the advisories whose place this is has come to their end.
pub(crate) async fn until_read_by(broker: &TestBroker, position: &str) {
    let keeper = broker.connect(KEEPER).await.unwrap();
    eventually("every advisory to be read", || async {
        let last = keeper.bus().stream_state(ADVISORY_STREAM).await.unwrap().unwrap().last_sequence;
        let entry = Store::own(keeper.bus()).get(position).await.unwrap()?;
        (last > 0 && v1::PositionRecord::decode(entry.value).unwrap().sequence == last).then_some(())
    })
    .await;
    keeper.drain().await;
}

pub(crate) async fn outcomes(broker: &TestBroker) -> Vec<(String, v1::Outcome)> {
    let operator = broker.connect("operator").await.unwrap();
    let mut outcomes = Vec::new();
    let each = |message: Unopened| {
        let envelope = message.open().envelope;
        outcomes.push((envelope.message_id.clone(), v1::Outcome::decode(envelope.payload).unwrap()));
        Stop::No
    };
    operator.bus().read("mesh1-outcome", "mesh1.outcome.>", each).await.unwrap();
    operator.drain().await;
    outcomes
}

/// Queues work and has a worker die of the first; the second it does, so that the floor of its consumer is above the first.
async fn die_of_work(broker: &TestBroker, number: usize) -> (Worker, mesh_core::Receipt) {
    let (worker, receipt, _) = die_of_stored_work(broker, number).await;
    (worker, receipt)
}

/// The same, and when it was stored.
async fn die_of_stored_work(broker: &TestBroker, number: usize) -> (Worker, mesh_core::Receipt, i64) {
    let till = broker.connect("till").await.unwrap();
    let client = PaymentsClient::new(&till);
    let receipt = client.charge().enqueue(&charge_of(number, 100)).id(number.to_string()).await.unwrap();
    let worker = Worker::new(broker, "bank", WORK).await;
    let stored_at_ms = die(&worker).await;
    let next = client.charge().enqueue(&charge_of(number + 1, 100)).id(format!("{number}+1")).await.unwrap();
    let healthy = worker.pull().await;
    let expected = format!("$JS.ACK.{}.{}.1.{}.", WORK.0, WORK.1, next.sequence);
    assert!(healthy.reply.as_deref().unwrap().starts_with(&expected), "{:?}", healthy.reply);
    worker.client.request(healthy.reply.unwrap(), "+ACK".into()).await.unwrap();
    till.drain().await;
    (worker, receipt, stored_at_ms)
}

#[tokio::test(flavor = "multi_thread")]
async fn work_that_killed_its_last_worker_is_one_letter_and_leaves_the_queue() {
    for standing in [true, false] {
        let broker = broker().await;
        let (worker, receipt, stored_at_ms) = die_of_stored_work(&broker, 1).await;
        let stands = if standing { Some(worker.ask(1, 60).await) } else { None };
        // Nobody listens at that moment: the keeper comes later.
        let keeper = start_keeper(&broker).await;
        let letter = some_letters(&broker, 1).await.remove(0);
        until_empty(&broker, WORK.0).await;
        assert_eq!((letter.state, letter.history.len()), (LetterState::Open, 1));
        let (lane, place) = (lane("bank", "shop-payments-v1-payments"), (WORK.0, receipt.sequence));
        let expected = letter_id(&lane, place, stored_at_ms, &receipt.message_id);
        let letter = letter.letter;
        assert_eq!(letter.id, expected, "the id that the consumer's own capture would give");
        assert_eq!(letter.payload, charge_of(1, 100).encode_to_vec());
        assert_eq!((letter.caller.as_str(), letter.source.unwrap().deliveries), ("till", 3));
        let fault: Fault = letter.fault.unwrap().into();
        assert_eq!((fault.reason(), fault.effect()), (Reason::AttemptsExhausted, Effect::Unknown));
        assert!(fault.message().contains("ended or fell silent") && fault.message().contains('3'), "{fault}");
        keeper.stop().await;
        let outcomes = outcomes(&broker).await;
        assert_eq!(outcomes.len(), 1);
        assert_eq!(outcomes[0].0, format!("outcome/{}/letter/0", receipt.message_id));
        let Some(v1::outcome::End::DeadLettered(end)) = &outcomes[0].1.end else { panic!("{outcomes:?}") };
        assert_eq!((end.letter_id.as_str(), outcomes[0].1.served_by.as_str()), (expected.as_str(), "bank"));
        drop(stands);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_killed_its_last_consumer_is_one_letter() {
    for standing in [true, false] {
        let broker = broker().await;
        let sender = broker.connect("orders").await.unwrap();
        sender.publisher::<OrderPlaced>().publish(&order(1)).id("1").await.unwrap();
        let worker = Worker::new(&broker, "mail", EVENTS).await;
        let stored_at_ms = die(&worker).await;
        let stands = if standing { Some(worker.ask(1, 60).await) } else { None };
        let keeper = start_keeper(&broker).await;
        let letter = some_letters(&broker, 1).await.remove(0).letter;
        let message_id = "orders/shop.orders.v1.OrderPlaced/1";
        let id = letter_id(&lane("mail", "confirm"), (EVENTS.0, 1), stored_at_ms, message_id);
        assert_eq!(letter.id, id);
        until_read(&broker).await;
        keeper.stop().await;
        assert!(outcomes(&broker).await.is_empty(), "an event has no outcome");
        drop(stands);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_died_on_a_lane_is_a_letter_of_its_original_and_a_replay_is_its_next_generation() {
    let broker = broker().await;
    let sender = broker.connect("orders").await.unwrap();
    sender.publisher::<OrderPlaced>().publish(&order(1)).id("1").await.unwrap();
    let worker = Worker::new(&broker, "mail", EVENTS).await;
    die(&worker).await;
    let keeper = start_keeper(&broker).await;
    let letter = some_letters(&broker, 1).await.remove(0);

    let operator = broker.connect("operator").await.unwrap();
    let order = Order { by: "ada".into(), why: "again".into(), again: false, job: String::new() };
    letters::replay(operator.bus(), &letter, &order).await.unwrap();
    die(&Worker::new(&broker, "mail", LANE).await).await;
    let again = eventually("the next generation", || async {
        let letter = some_letters(&broker, 1).await.remove(0);
        (letter.letter.generation == 1 && letter.state == LetterState::Open).then_some(letter)
    })
    .await;
    assert_eq!((again.letter.id, again.history.len()), (letter.letter.id, 3));
    assert_eq!(again.letter.source.unwrap().stream, EVENTS.0, "the original's place, not the lane's");
    until_empty(&broker, LANE.0).await;
    keeper.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_keeper_that_crashed_after_any_step_leaves_the_same_single_letter() {
    let broker = broker().await;
    let (_worker, receipt) = die_of_work(&broker, 1).await;
    // It died after the letter and before the settlement: the worker's own capture could have been that far too.
    let bus = broker.connect("bank").await.unwrap();
    let keeper = broker.connect(KEEPER).await.unwrap();
    let message = keeper.bus().message_at(WORK.0, receipt.sequence).await.unwrap().unwrap();
    let fault = Fault::new(Code::Internal, Effect::Unknown, Reason::HandlerPanicked, "the handler panicked");
    let attempts = v1::Attempts::default();
    let lane = lane("bank", "shop-payments-v1-payments");
    dead_letter::capture(bus.bus(), &lane, &message.open().envelope, &fault, attempts).await.unwrap();

    let running = start_keeper(&broker).await;
    until_empty(&broker, WORK.0).await;
    until_read(&broker).await;
    running.stop().await;
    // Every advisory comes a second time: its place was not written.
    let store = Store::own(keeper.bus());
    let entry = store.get("position.advisory").await.unwrap().unwrap();
    let anew = v1::PositionRecord { by: "a keeper that was restored".into(), ..Default::default() };
    let written = store.put("position.advisory", anew.encode_to_vec().into(), entry.revision, None).await.unwrap();
    assert!(matches!(written, Written::At(_)));
    let running = start_keeper(&broker).await;
    until_read(&broker).await;
    running.stop().await;

    let letter = some_letters(&broker, 1).await.remove(0);
    assert_eq!((letter.history.len(), letter.last_sequence), (1, 1), "one record, and nothing refused is stored");
    assert_eq!(letter.letter.fault.unwrap().reason, Reason::HandlerPanicked.code(), "whoever was first");
    assert_eq!(outcomes(&broker).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_worker_and_two_keepers_that_capture_at_once_one_writes_the_letter() {
    const WORKS: usize = 12;
    let broker = broker().await;
    let till = broker.connect("till").await.unwrap();
    let client = PaymentsClient::new(&till);
    let mut receipts = Vec::new();
    for number in 0..WORKS {
        receipts.push(client.charge().enqueue(&charge_of(number, 100)).id(number.to_string()).await.unwrap());
    }
    let worker = Worker::new(&broker, "bank", WORK).await;
    for _ in 0..WORKS * 3 {
        worker.pull().await;
    }
    let bus = broker.connect("bank").await.unwrap();
    let reader = broker.connect(KEEPER).await.unwrap();
    let own = async {
        for receipt in &receipts {
            let Some(message) = reader.bus().message_at(WORK.0, receipt.sequence).await.unwrap() else { continue };
            let fault = Fault::unavailable("the worker's own word");
            let lane = lane("bank", "shop-payments-v1-payments");
            let envelope = message.open().envelope;
            dead_letter::capture(bus.bus(), &lane, &envelope, &fault, v1::Attempts::default()).await.unwrap();
        }
    };
    let (one, two) = (start_keeper(&broker).await, start_keeper(&broker).await);
    own.await;
    until_empty(&broker, WORK.0).await;
    let letters = some_letters(&broker, WORKS).await;
    assert!(letters.iter().all(|letter| letter.history.len() == 1));
    one.stop().await;
    two.stop().await;
    assert_eq!(outcomes(&broker).await.len(), WORKS);
}

/// The broker's word on a delivery of work comes with the next pull, and is lost.
async fn lose_the_word(broker: &TestBroker) {
    lose_the_word_of(broker, WORK).await;
}

pub(crate) async fn lose_the_word_of(broker: &TestBroker, (stream, durable): (&str, &str)) {
    let keeper = broker.connect(KEEPER).await.unwrap();
    let operator = async_nats::jetstream::new(foreign::client(broker, "operator").await);
    eventually("the broker's word", || async {
        keeper.bus().probe(stream, durable).await.unwrap();
        (messages(broker, ADVISORY_STREAM).await == 1).then_some(())
    })
    .await;
    operator.get_stream(ADVISORY_STREAM).await.unwrap().purge().await.unwrap();
}

/// What a server leaves that kept an acknowledgement and lost the deletion: the work is done, and lies in the queue.
#[tokio::test(flavor = "multi_thread")]
async fn work_whose_end_was_announced_is_only_taken_out_of_its_queue() {
    for letter in [false, true] {
        let broker = broker().await;
        let (_worker, receipt) = die_of_work(&broker, 1).await;
        lose_the_word(&broker).await;
        let bank = broker.connect("bank").await.unwrap();
        let keeper = broker.connect(KEEPER).await.unwrap();
        let message = keeper.bus().message_at(WORK.0, receipt.sequence).await.unwrap().unwrap();
        let outcome = v1::Outcome {
            message_id: receipt.message_id.clone(),
            operation: "shop.payments.v1.Payments/Charge".into(),
            served_by: "bank".into(),
            at_ms: 1,
            source: Some(dead_letter::source(&message.open().envelope)),
            end: Some(v1::outcome::End::Reply(Vec::new().into())),
        };
        let id = if letter { format!("{}/letter/0", receipt.message_id) } else { receipt.message_id.clone() };
        let operation = ("shop.payments.v1.Payments", "Charge");
        let sealed = bank.bus().gate().seal_outcome(operation, "till", &id, outcome.encode_to_vec().into());
        bank.bus().publish("mesh1-outcome", sealed).await.unwrap();

        let running = start_keeper(&broker).await;
        until_empty(&broker, WORK.0).await;
        let metrics = running.mesh.metrics().encode();
        running.stop().await;
        assert!(letters(&broker).await.is_empty());
        assert!(!metrics.contains("mesh_dead_letters_total{"), "{metrics}");
        assert_eq!(outcomes(&broker).await.len(), 1, "nothing false stands beside it");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_whose_advisories_were_lost_is_found_by_the_sweep() {
    let broker = broker().await;
    let (_worker, receipt) = die_of_work(&broker, 1).await;
    lose_the_word(&broker).await;

    // What is under way is left alone, and so is what nobody fetched yet.
    let till = broker.connect("till").await.unwrap();
    PaymentsClient::new(&till).charge().enqueue(&charge_of(3, 100)).id("3").await.unwrap();
    let running = start_keeper(&broker).await;
    let letter = some_letters(&broker, 1).await.remove(0);
    assert!(Facts::of(&letter).is_parked(), "nobody knows whether it was handled: {letter:?}");
    let source = letter.letter.source.unwrap();
    assert_eq!((source.sequence, source.deliveries), (receipt.sequence, 0), "no invented count");
    eventually("the queue to hold the other", || async { (messages(&broker, WORK.0).await == 1).then_some(()) }).await;
    let books = Bank::default();
    let bank = broker.connect("bank").await.unwrap();
    bank.serve(PaymentsServer::new(books.clone())).start().await.unwrap();
    until_empty(&broker, WORK.0).await;
    assert_eq!(*books.0.lock().await, ["till/shop.payments.v1.Payments.Charge/3"]);
    running.stop().await;
    assert_eq!(some_letters(&broker, 1).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_was_deleted_under_its_consumer_is_a_letter_that_says_so() {
    let broker = broker().await;
    let sender = broker.connect("orders").await.unwrap();
    sender.publisher::<OrderPlaced>().publish(&order(1)).id("1").await.unwrap();
    Worker::new(&broker, "mail", EVENTS).await.pull().await;
    let jetstream = async_nats::jetstream::new(foreign::client(&broker, "operator").await);
    jetstream.get_stream(EVENTS.0).await.unwrap().delete_message(1).await.unwrap();

    let running = start_keeper(&broker).await;
    let letter = some_letters(&broker, 1).await.remove(0);
    let fault: Fault = letter.letter.fault.clone().unwrap().into();
    assert_eq!((fault.code(), fault.reason()), (Code::DataLoss, Reason::MessageLost));
    assert!(letter.letter.payload.is_empty() && fault.message().contains("message 1 of mesh1-event-orders"), "{fault}");
    let metrics = running.mesh.metrics().encode();
    assert!(metrics.contains(r#"mesh_dead_letters_total{consumer="confirm",reason="MESH-0028"} 1"#), "{metrics}");
    running.stop().await;

    // Nothing is there to be sent: an empty payload would be another message.
    let operator = broker.connect("operator").await.unwrap();
    let order = Order { by: "ada".into(), why: "again".into(), again: false, job: String::new() };
    let fault = letters::replay(operator.bus(), &letter, &order).await.unwrap_err();
    assert!(fault.message().contains("holds no message"), "{fault}");
}

/// A keeper that takes away what its consumer's acknowledgement has not reached yet has the broker say that it was lost.
#[tokio::test(flavor = "multi_thread")]
async fn what_has_a_letter_is_not_lost_when_it_is_deleted_from_its_queue() {
    for on_lane in [false, true] {
        let broker = broker().await;
        let (work, lane_of_work) = (lane("bank", "shop-payments-v1-payments"), "mesh1-lane-bank");
        let place = if on_lane { (lane_of_work, WORK.1) } else { WORK };
        let till = broker.connect("till").await.unwrap();
        PaymentsClient::new(&till).charge().enqueue(&charge_of(1, 100)).id("1").await.unwrap();
        let (bank, keeper) = (broker.connect("bank").await.unwrap(), broker.connect(KEEPER).await.unwrap());
        let worker = Worker::new(&broker, "bank", WORK).await;
        let first = worker.pull().await;
        let envelope_at = async |stream: &str, sequence| {
            let message = keeper.bus().message_at(stream, sequence).await.unwrap().unwrap();
            message.open().envelope
        };
        let mut envelope = envelope_at(WORK.0, 1).await;
        let mut sequence = 1;
        if on_lane {
            delayed::delay(bank.bus(), &work, &envelope, (2, 1), &v1::Attempts::default()).await.unwrap();
            worker.client.request(first.reply.unwrap(), "+ACK".into()).await.unwrap();
            let copy = Worker::new(&broker, "bank", place).await.pull().await;
            sequence = copy.reply.unwrap().split('.').nth(5).unwrap().parse().unwrap();
            envelope = envelope_at(place.0, sequence).await;
        }
        let fault = Fault::new(Code::Internal, Effect::Unknown, Reason::HandlerPanicked, "the handler panicked");
        dead_letter::capture(bank.bus(), &work, &envelope, &fault, v1::Attempts::default()).await.unwrap();
        let jetstream = async_nats::jetstream::new(foreign::client(&broker, "operator").await);
        jetstream.get_stream(place.0).await.unwrap().delete_message(sequence).await.unwrap();

        let running = start_keeper(&broker).await;
        until_read(&broker).await;
        running.stop().await;
        let letter = some_letters(&broker, 1).await.remove(0).letter;
        assert_eq!(letter.fault.unwrap().reason, Reason::HandlerPanicked.code());
        let copy = on_lane.then(|| v1::Copy { stream: place.0.into(), sequence });
        assert_eq!((letter.source.unwrap().stream.as_str(), letter.copy), (WORK.0, copy));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_that_another_one_wrote_meanwhile_is_written_though_the_broker_says_nothing_more() {
    let broker = broker().await;
    let sender = broker.connect("orders").await.unwrap();
    let worker = Worker::new(&broker, "mail", EVENTS).await;
    let running = start_keeper(&broker).await;
    let publisher = sender.publisher::<OrderPlaced>();
    publisher.publish(&order(1)).id("1").await.unwrap();
    die(&worker).await;
    some_letters(&broker, 1).await;
    until_read(&broker).await;

    let keeper = broker.connect(KEEPER).await.unwrap();
    let store = Store::own(keeper.bus());
    let entry = store.get("position.advisory").await.unwrap().unwrap();
    let written = store.put("position.advisory", entry.value, entry.revision, None).await.unwrap();
    assert!(matches!(written, Written::At(_)));
    publisher.publish(&order(2)).id("2").await.unwrap();
    die(&worker).await;
    some_letters(&broker, 2).await;
    until_read(&broker).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn asking_a_consumer_delivers_nothing_and_counts_nothing() {
    let broker = broker().await;
    let sender = broker.connect("orders").await.unwrap();
    sender.publisher::<OrderPlaced>().publish(&order(1)).id("1").await.unwrap();
    let worker = Worker::new(&broker, "mail", EVENTS).await;
    let keeper = broker.connect(KEEPER).await.unwrap();
    for deliveries in 1..=2 {
        // One that was never delivered; then one that fell back to the broker.
        eventually("something to deliver", || async {
            let probed = keeper.bus().probe(EVENTS.0, EVENTS.1).await.unwrap();
            matches!(probed, Probed::Something).then_some(())
        })
        .await;
        for _ in 0..20 {
            let probed = keeper.bus().probe(EVENTS.0, EVENTS.1).await.unwrap();
            assert!(matches!(probed, Probed::Something), "{probed:?}");
        }
        let reply = worker.pull().await.reply.unwrap();
        assert!(reply.starts_with(&format!("$JS.ACK.{}.{}.{deliveries}.1.", EVENTS.0, EVENTS.1)), "{reply}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_index_says_what_the_stream_says_as_soon_as_it_is_written() {
    let broker = broker().await;
    let (till, bank) = (broker.connect("till").await.unwrap(), broker.connect("bank").await.unwrap());
    bank.serve(PaymentsServer::new(Bank::default())).start().await.unwrap();
    let client = PaymentsClient::new(&till);
    for number in 0..7 {
        client.charge().enqueue(&charge_of(number, 0)).id(number.to_string()).await.unwrap();
    }
    let all = some_letters(&broker, 7).await;
    let operator = broker.connect("operator").await.unwrap();
    let bus = operator.bus();
    let fault = ask::count(bus, v1::LetterQuery::default()).await.unwrap_err();
    assert_eq!(fault.reason(), Reason::NobodyAnswers, "whoever asks reads the stream then");

    // Two of them: each answers, whoever holds the lease.
    let keepers = (start_keeper(&broker).await, start_keeper(&broker).await);
    eventually("an answer", || async { ask::count(bus, v1::LetterQuery::default()).await.ok() }).await;
    let (mut ids, mut next) = (Vec::new(), String::new());
    loop {
        let page = ask::page(bus, v1::LetterQuery::default(), 3, &next).await.unwrap();
        assert_eq!(page.total, 7);
        ids.extend(page.letters.iter().map(|letter| (letter.letter.clone(), letter.state, letter.last_sequence)));
        next = page.next;
        if next.is_empty() {
            break;
        }
    }
    let expected: Vec<_> = all.iter().map(|l| (l.letter.clone(), l.state, l.last_sequence)).collect();
    let by_id = |mut list: Vec<(v1::DeadLetter, LetterState, u64)>| {
        list.sort_by(|a, b| a.0.id.cmp(&b.0.id));
        list
    };
    assert_eq!(by_id(ids), by_id(expected));
    for (discarded, letter) in (1..).zip(&all) {
        let order = Order { by: "ada".into(), why: "a test".into(), again: false, job: String::new() };
        letters::discard(bus, letter, &order).await.unwrap();
        let count = ask::count(bus, v1::LetterQuery::default()).await.unwrap();
        assert_eq!((count.total, count.discarded), (7, discarded), "what was written is in the next answer");
    }
    let groups = ask::group(bus, v1::LetterQuery::default(), 0).await.unwrap();
    assert_eq!((groups.total, groups.groups.len()), (7, 1));
    keepers.0.stop().await;
    keepers.1.stop().await;
}

/// A keeper as a person starts it.
async fn process(broker: &TestBroker, folder: &Path) -> (Child, Lines<BufReader<ChildStdout>>) {
    let seed = folder.join("keeper.seed");
    std::fs::write(&seed, broker.seed(KEEPER).unwrap()).unwrap();
    let mut command = Command::new(mesh_binary());
    command.arg("keeper").env("MESH_NATS_URL", broker.server.client_url()).env("MESH_NATS_SEED_FILE", seed);
    command.env_remove("MESH_CLUSTER").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.kill_on_drop(true).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let ready = lines.next_line().await.unwrap().unwrap();
    assert!(ready.contains(r#""ready":"keeper""#), "{ready}");
    (child, lines)
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_active_keeper_is_killed_the_other_takes_over_within_seconds() {
    let (broker, folder) = (broker().await, tempfile::tempdir().unwrap());
    let mut processes = [process(&broker, folder.path()).await, process(&broker, folder.path()).await];
    let mesh = broker.connect(KEEPER).await.unwrap();
    let lease = Lease::new(Store::own(mesh.bus()), LEASE, "a test".into(), LeaseSettings::default());
    let holder = async || eventually("a holder", || async { lease.holder().await.unwrap() }).await.0;
    let first = holder().await;
    die_of_work(&broker, 1).await;
    some_letters(&broker, 1).await;

    let (_worker, receipt) = {
        let is_active = |child: &Child| first.starts_with(&format!("{}-", child.id().unwrap()));
        let active = processes.iter_mut().find(|(child, _)| is_active(child)).expect("one of the two holds it");
        // SIGKILL: nothing is given up.
        active.0.kill().await.unwrap();
        die_of_work(&broker, 3).await
    };
    let killed = Instant::now();
    let letters = some_letters(&broker, 2).await;
    let took = killed.elapsed();
    assert!(took < Duration::from_secs(15), "{took:?}");
    assert!(letters.iter().any(|l| l.letter.source.as_ref().unwrap().message_id == receipt.message_id));
    let second = holder().await;
    let is_other = |child: &Child| child.id().is_some_and(|id| second.starts_with(&format!("{id}-")));
    assert!(first != second && processes.iter().any(|(child, _)| is_other(child)), "{first} {second}");
    until_empty(&broker, WORK.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_keeper_that_is_stopped_gives_its_place_up_at_once() {
    let (broker, folder) = (broker().await, tempfile::tempdir().unwrap());
    let (mut child, _lines) = process(&broker, folder.path()).await;
    let mesh = broker.connect(KEEPER).await.unwrap();
    let long = LeaseSettings { lasts: Duration::from_secs(60), ask_every: Duration::from_millis(20) };
    let lease = Lease::new(Store::own(mesh.bus()), LEASE, "a test".into(), long);
    eventually("a holder", || async { lease.holder().await.unwrap() }).await;
    assert!(lease.try_take().await.unwrap().is_none());
    let pid = i32::try_from(child.id().unwrap()).unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGTERM).unwrap();
    assert!(child.wait().await.unwrap().success());
    assert!(lease.try_take().await.unwrap().is_some(), "it did not have to run out");
}
