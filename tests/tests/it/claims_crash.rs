//! A process that ends between the bytes that lie apart, what refers to them, and the ack: still one letter or one effect, and
//! nothing stays behind, though a keeper sweeps all the while without delay.

use mesh_core::{
    dead_letter::LetterState,
    fault::CLAIM_POINT,
    operate::{ledger, letters},
};
use mesh_tests::{
    campaign::{Run, Size, Stage, StageSettings, counter::Rule},
    eventually,
};

use crate::claims::{
    MAX_PAYLOAD, all_letters, by_ada, letters, messages, nothing_lies_apart, order_of, publish, start_keeper,
};

async fn stage() -> Stage<mesh_tests::TestBroker> {
    let run = Run::new("claims", 1, Size::Quick, env!("CARGO_BIN_EXE_campaign-worker").into());
    Stage::start(&run, StageSettings::default()).await.unwrap()
}

/// Each point, met for the first time and for the second.
fn both_hits(points: [&'static str; 2]) -> impl Iterator<Item = (&'static str, u32)> {
    points.into_iter().flat_map(|point| [(point, 1), (point, 2)])
}

/// So many messages of nearly the broker's limit.
async fn publish_large(stage: &Stage<mesh_tests::TestBroker>, word: &str, count: u32) -> Vec<String> {
    let ids: Vec<String> = (1..=count).map(|number| format!("{word}-{number}")).collect();
    for id in &ids {
        publish(&stage.broker, id, &order_of(MAX_PAYLOAD - 200)).await;
    }
    ids
}

async fn adds_up(stage: &Stage<mesh_tests::TestBroker>) {
    let operator = stage.operator().await.unwrap();
    let checked = ledger::check(operator.bus(), ledger::Check::default()).await.unwrap();
    assert!(checked.account.findings.is_empty(), "{:?}", checked.account.findings);
    operator.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_ends_between_two_steps_of_a_capture_leaves_one_letter() {
    for (point, hit) in both_hits([CLAIM_POINT, "settle.captured"]) {
        let stage = stage().await;
        let keeper = start_keeper(&stage.broker).await;
        let ids = publish_large(&stage, "e-bad", hit).await;
        stage.worker(Some((point, hit))).await.unwrap().crashed().await.unwrap();
        assert!(messages(&stage.broker, "mesh1-claim").await > 0, "{point}:{hit}");
        let _worker = stage.worker(None).await.unwrap();
        let open = all_letters(&stage.broker, LetterState::Open, ids.len()).await;
        stage.at_rest().await.unwrap();
        assert_eq!(letters(&stage.broker).await.len(), ids.len(), "{point}:{hit}");
        adds_up(&stage).await;
        stage.counter.rule("bad", Rule::Accept).await.unwrap();
        let operator = stage.operator().await.unwrap();
        for letter in &open {
            letters::replay(operator.bus(), letter, &by_ada()).await.unwrap();
        }
        all_letters(&stage.broker, LetterState::Resolved, ids.len()).await;
        nothing_lies_apart(&stage.broker).await;
        let report = stage.counter.report().await.unwrap();
        for id in &ids {
            assert_eq!(report[id].keys.len(), 1, "{point}:{hit} {id}: one effect");
        }
        adds_up(&stage).await;
        keeper.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_ends_between_two_steps_of_a_delay_loses_and_leaves_nothing() {
    for (point, hit) in both_hits([CLAIM_POINT, "settle.delayed"]) {
        let stage = stage().await;
        let keeper = start_keeper(&stage.broker).await;
        let ids = publish_large(&stage, "e-busy", hit).await;
        stage.worker(Some((point, hit))).await.unwrap().crashed().await.unwrap();
        let _worker = stage.worker(None).await.unwrap();
        eventually("the effects", || async {
            let report = stage.counter.report().await.unwrap();
            ids.iter().all(|id| report.get(id).is_some_and(|entry| entry.keys.len() == 1)).then_some(())
        })
        .await;
        stage.at_rest().await.unwrap();
        nothing_lies_apart(&stage.broker).await;
        assert!(letters(&stage.broker).await.is_empty(), "{point}:{hit}");
        adds_up(&stage).await;
        keeper.stop().await;
    }
}
