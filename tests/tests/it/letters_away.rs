//! The dead-letter stream is away: what must become a letter waits for it, says so, and is one letter once it is back.

use mesh_core::subject::DEAD_LETTER_STREAM;
use mesh_tests::{
    campaign::{Run, Size, Stage, StageSettings, stage::declarations},
    eventually,
};

const IDS: [&str; 5] = ["w-bad-1", "e-bad-2", "w-bad-3", "w-good-4", "e-good-5"];
const REFUSED: usize = 3;

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_while_the_stream_is_away_waits_and_is_one_letter_when_it_is_back() {
    // Side by side: a publish is tried for a while before it says that nobody takes it.
    tokio::join!(is_away(false), is_away(true));
}

async fn is_away(is_killed: bool) {
    let run = Run::new("away", 1, Size::Quick, env!("CARGO_BIN_EXE_campaign-worker").into());
    let settings = StageSettings::default();
    let stage = Stage::start(&run, settings.clone()).await.unwrap();
    stage.jetstream().await.unwrap().delete_stream(DEAD_LETTER_STREAM).await.unwrap();
    let mut worker = stage.worker(None).await.unwrap();
    let sent = stage.send(&IDS.map(str::to_owned), 0).await.unwrap();
    let log = stage.log("worker");
    eventually("each to say that it waits", || async {
        let text = std::fs::read_to_string(&log).unwrap();
        let waits = |line: &&str| line.contains("the bus does not take it: the work waits");
        (text.lines().filter(waits).filter(|line| line.contains("a dead letter")).count() >= REFUSED).then_some(())
    })
    .await;
    // What need not wait goes on beside it, and what waits is nowhere but where it was.
    stage.effects_of("good", 2).await.unwrap();
    let operator = stage.operator().await.unwrap();
    let in_hand = async || {
        let mut in_hand = 0;
        for (stream, durable) in [
            ("mesh1-work-shop-payments-v1-Payments", "worker_shop-payments-v1-payments"),
            ("mesh1-event-orders", "worker_apply"),
        ] {
            in_hand += operator.bus().consumer_state(stream, durable).await.unwrap().unwrap().in_flight;
        }
        in_hand
    };
    eventually("only those to be in hand", || async { (in_hand().await == REFUSED as u64).then_some(()) }).await;
    assert!(operator.bus().stream_state(DEAD_LETTER_STREAM).await.unwrap().is_none());
    let calls = stage.counter.report().await.unwrap()["w-bad-1"].calls;
    assert_eq!(calls, 1, "it is not asked again and again while it waits");
    let mut second = None;
    if is_killed {
        worker.kill9().await.unwrap();
        second = Some(stage.worker(None).await.unwrap());
    }
    stage.broker.apply(&declarations().unwrap(), &settings.limits).await.unwrap();
    let account = stage.account(&sent).await.unwrap();
    assert_eq!((account.wrong(), account.letters()), (Vec::new(), REFUSED), "{}", account.figures());
    drop((second, worker));
}
