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
    MAX_PAYLOAD, by_ada, letters, messages, nothing_lies_apart, one_letter, order_of, publish, start_keeper,
};

async fn stage() -> Stage<mesh_tests::TestBroker> {
    let run = Run::new("claims", 1, Size::Quick, env!("CARGO_BIN_EXE_campaign-worker").into());
    Stage::start(&run, StageSettings::default()).await.unwrap()
}

async fn adds_up(stage: &Stage<mesh_tests::TestBroker>) {
    let operator = stage.operator().await.unwrap();
    let checked = ledger::check(operator.bus(), ledger::Check::default()).await.unwrap();
    assert!(checked.account.findings.is_empty(), "{:?}", checked.account.findings);
    operator.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_ends_between_two_steps_of_a_capture_leaves_one_letter() {
    for point in [CLAIM_POINT, "settle.captured"] {
        let stage = stage().await;
        let keeper = start_keeper(&stage.broker).await;
        publish(&stage.broker, "e-bad-1", &order_of(MAX_PAYLOAD - 200)).await;
        stage.worker(Some((point, 1))).await.unwrap().crashed().await.unwrap();
        assert!(messages(&stage.broker, "mesh1-claim").await > 0, "{point}");
        let _worker = stage.worker(None).await.unwrap();
        let letter = one_letter(&stage.broker, LetterState::Open).await;
        stage.at_rest().await.unwrap();
        assert_eq!(letters(&stage.broker).await.len(), 1, "{point}");
        adds_up(&stage).await;
        stage.counter.rule("bad", Rule::Accept).await.unwrap();
        let operator = stage.operator().await.unwrap();
        letters::replay(operator.bus(), &letter, &by_ada()).await.unwrap();
        one_letter(&stage.broker, LetterState::Resolved).await;
        nothing_lies_apart(&stage.broker).await;
        let report = stage.counter.report().await.unwrap();
        assert_eq!(report["e-bad-1"].keys.len(), 1, "{point}: one effect");
        adds_up(&stage).await;
        keeper.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_ends_between_two_steps_of_a_delay_loses_and_leaves_nothing() {
    for point in [CLAIM_POINT, "settle.delayed"] {
        let stage = stage().await;
        let keeper = start_keeper(&stage.broker).await;
        publish(&stage.broker, "e-busy-1", &order_of(MAX_PAYLOAD - 200)).await;
        stage.worker(Some((point, 1))).await.unwrap().crashed().await.unwrap();
        let _worker = stage.worker(None).await.unwrap();
        eventually("the effect", || async {
            let report = stage.counter.report().await.unwrap();
            report.get("e-busy-1").is_some_and(|entry| entry.keys.len() == 1).then_some(())
        })
        .await;
        stage.at_rest().await.unwrap();
        nothing_lies_apart(&stage.broker).await;
        assert!(letters(&stage.broker).await.is_empty(), "{point}");
        adds_up(&stage).await;
        keeper.stop().await;
    }
}
