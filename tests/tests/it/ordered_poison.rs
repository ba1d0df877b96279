//! The order of keys beside messages that end their process, and beside a memory of what was done.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use mesh_core::{
    Fault,
    bus::StreamLimits,
    dead_letter::{Letter, LetterState},
    fault::Reason,
    operate::letters::{self, Order, Selector},
    subject::{PARTITIONS, event_stream, partition_durable},
};
use mesh_tests::{
    TestBroker,
    campaign::{
        Run, Size, Stage, StageSettings,
        counter::Report,
        stage::{CONSUMER, OPERATOR, SENDER, WORKER},
    },
    eventually,
};
use shop_proto::shop::orders::v1::OrderPlaced;

/// Keys, and messages of each.
const KEYS: usize = 6;
const EACH: usize = 8;
/// The key with the message that ends its process, and which of its messages that is.
const GUILTY: (usize, usize) = (1, 3);

async fn stage(inbox: bool) -> Stage<TestBroker> {
    let run = Run::new("ordered", 1, Size::Quick, env!("CARGO_BIN_EXE_campaign-worker").into());
    let limits = StreamLimits { ack_wait: Duration::from_secs(1), ..StreamLimits::default() };
    let settings = StageSettings {
        limits,
        inbox,
        // What is in the middle of its handler when the process ends may have acted: there is one at the most.
        concurrency: if inbox { 1 } else { 16 },
        ordered: true,
        handler_limit: Duration::from_millis(400),
        ..StageSettings::default()
    };
    Stage::start(&run, settings).await.unwrap()
}

fn id(word: &str, key: usize, number: usize) -> String {
    format!("e-{word}-c{key}-{number}")
}

/// One message of each key after the other; the guilty one has `word` in its id.
async fn publish(stage: &Stage<TestBroker>, word: &str) {
    let sender = stage.connect(SENDER).await.unwrap();
    for number in 1..=EACH {
        for key in 0..KEYS {
            let id = id(if (key, number) == GUILTY { word } else { "good" }, key, number);
            let event = OrderPlaced { order_id: id.clone(), customer_id: format!("c{key}"), ..OrderPlaced::default() };
            sender.publisher::<OrderPlaced>().publish(&event).id(&id).await.unwrap();
        }
    }
    sender.drain().await;
}

async fn all_letters(stage: &Stage<TestBroker>) -> Vec<Letter> {
    let operator = stage.connect(OPERATOR).await.unwrap();
    let letters = letters::list(operator.bus(), &Selector::default()).await.unwrap().letters;
    operator.drain().await;
    letters
}

/// The messages of each key, as they first took effect.
fn by_key(report: &Report) -> BTreeMap<String, Vec<usize>> {
    let mut first: Vec<_> = report.iter().map(|(id, entry)| (entry.first_ms, id)).collect();
    first.sort();
    let mut keys = BTreeMap::<String, Vec<usize>>::new();
    for (_, id) in first {
        let (start, number) = id.rsplit_once('-').unwrap();
        keys.entry(start.rsplit_once('-').unwrap().1.to_owned()).or_default().push(number.parse().unwrap());
    }
    keys
}

/// Two owners, each started again whenever its process ends, until the guilty one is a letter and the rest is done.
/// After `most` ends of a process at the latest.
async fn is_found_out(word: &str, most: usize) {
    let stage = stage(false).await;
    publish(&stage, word).await;
    let behind = EACH - GUILTY.1;
    let deaths = AtomicUsize::new(0);
    let playing = async {
        let done = KEYS * EACH - 1 - behind;
        let letter = eventually("the letter, and the other keys", || async {
            let count = stage.counter.count("good").await.unwrap();
            if count == done { all_letters(&stage).await.pop() } else { None }
        })
        .await;
        let fault: Fault = letter.letter.fault.clone().unwrap().into();
        assert_eq!((fault.reason(), letter.state), (Reason::ProcessEnded, LetterState::Open));
        assert_eq!(letter.letter.key, format!("c{}", GUILTY.0));
        assert!(letter.letter.source.as_ref().unwrap().message_id.ends_with(&id(word, GUILTY.0, GUILTY.1)));
        let before = by_key(&stage.counter.report().await.unwrap());
        assert_eq!(before[&letter.letter.key], (1..GUILTY.1).collect::<Vec<_>>(), "nothing of its key went past it");

        let operator = stage.connect(OPERATOR).await.unwrap();
        let order = Order { by: "ada".into(), why: "mended".into(), again: false, job: String::new() };
        letters::discard(operator.bus(), &letter, &order).await.unwrap();
        eventually("those behind it", || async {
            (stage.counter.count("good").await.unwrap() == done + behind).then_some(())
        })
        .await;
        deaths.load(Ordering::SeqCst)
    };
    let ended = tokio::select! {
        ended = playing => ended,
        ended = stage.supervised(&deaths) => panic!("the first supervisor ended: {ended:?}"),
        ended = stage.supervised(&deaths) => panic!("the second supervisor ended: {ended:?}"),
    };
    // Beside others without a word of it, beside others again, and twice alone.
    assert!((3..=most).contains(&ended), "{ended} processes ended");
    let letters = all_letters(&stage).await;
    assert_eq!(letters.len(), 1, "an innocent one became a letter: {letters:?}");
    let report = stage.counter.report().await.unwrap();
    for (key, numbers) in by_key(&report) {
        assert!(numbers.is_sorted(), "{key} out of order: {numbers:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_aborts_its_process_becomes_one_letter_and_blocks_its_own_key_alone() {
    is_found_out("abort", 5).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_holds_a_core_becomes_one_letter_and_blocks_its_own_key_alone() {
    // Where a busy machine takes longer than others wait outside for one that is alone, it counts as one beside others.
    is_found_out("spin", 11).await;
}

/// Waits until nothing is under way.
async fn settled(stage: &Stage<TestBroker>) {
    let operator = stage.connect(OPERATOR).await.unwrap();
    let stream = event_stream(SENDER);
    for partition in 0..PARTITIONS {
        let durable = partition_durable(&WORKER.parse().unwrap(), &CONSUMER.parse().unwrap(), partition);
        eventually("all acks", || async {
            let state = operator.bus().consumer_state(&stream, &durable).await.unwrap().unwrap();
            (state.pending == 0 && state.in_flight == 0).then_some(())
        })
        .await;
    }
    operator.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_an_inbox_what_was_done_is_not_done_again_wherever_its_owner_is_killed() {
    let stage = stage(true).await;
    publish(&stage, "good").await;
    for point in ["inbox.begun", "inbox.ended", "attempt.handled", "settle.acked"] {
        let mut worker = stage.worker(Some((point, 3))).await.unwrap();
        worker.crashed().await.unwrap_or_else(|error| panic!("{point}: {error}"));
    }
    let _worker = stage.worker(None).await.unwrap();
    stage.effects_of("good", KEYS * EACH).await.unwrap();
    settled(&stage).await;
    let report = stage.counter.report().await.unwrap();
    let again: Vec<_> = report.iter().filter(|(_, entry)| entry.calls > 1).collect();
    assert!(again.is_empty(), "handled again: {again:?}");
    for (key, numbers) in by_key(&report) {
        assert_eq!(numbers, (1..=EACH).collect::<Vec<_>>(), "{key}");
    }
    assert!(all_letters(&stage).await.is_empty());
}
