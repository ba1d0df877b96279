//! A keeper that ends between two steps of a rescue: the next one finds what it did.

use std::{collections::BTreeSet, path::Path};

use async_nats::Subscriber;
use futures_util::future::join_all;
use mesh_core::{
    fault::KEEPER_POINTS,
    subject::{DEAD_LETTER_STREAM, KEEPER},
};
use mesh_tests::{TestBroker, campaign::process::Starter, foreign::Worker};
use shop_proto::shop::payments::v1::PaymentsClient;

use crate::{
    keeper::{WORK, broker, die, outcomes, some_letters, until_empty, until_read},
    shop::charge_of,
};

/// As many as the latest hit needs, and one.
const WORKS: usize = 3;

/// Work that killed its last worker, each one's; and who asks for more, so that the broker gives up the last one too.
async fn die_of_all(broker: &TestBroker) -> (BTreeSet<String>, Subscriber) {
    let till = broker.connect("till").await.unwrap();
    let client = PaymentsClient::new(&till);
    let worker = Worker::new(broker, "bank", WORK).await;
    let mut outcomes = BTreeSet::new();
    for number in 0..WORKS {
        let receipt = client.charge().enqueue(&charge_of(number, 100)).id(number.to_string()).await.unwrap();
        outcomes.insert(format!("outcome/{}/letter/0", receipt.message_id));
        die(&worker).await;
    }
    let asks = worker.ask(1, 60).await;
    till.drain().await;
    (outcomes, asks)
}

async fn ends_at(point: &str, hit: u32, folder: &Path) {
    let broker = broker().await;
    let (announced, _asks) = die_of_all(&broker).await;
    let seed_file = folder.join("keeper.seed");
    std::fs::write(&seed_file, broker.seed(KEEPER).unwrap()).unwrap();
    let place =
        || vec!["--url".into(), broker.server.client_url().into(), "--seed-file".into(), seed_file.clone().into()];
    let starter = Starter::new(Path::new(env!("CARGO_BIN_EXE_campaign-worker")), folder);
    starter.start("keeper", place(), Some((point, hit))).await.unwrap().crashed().await.unwrap();

    let mut next = starter.start("keeper", place(), None).await.unwrap();
    let letters = some_letters(&broker, WORKS).await;
    until_empty(&broker, WORK.0).await;
    until_read(&broker).await;
    next.stop().await.unwrap();
    let operator = broker.connect("operator").await.unwrap();
    let records = operator.bus().stream_state(DEAD_LETTER_STREAM).await.unwrap().unwrap().messages;
    operator.drain().await;
    assert_eq!(records, WORKS as u64, "{point}:{hit}: one record each");
    assert!(letters.iter().all(|letter| letter.history.len() == 1), "{point}:{hit} {letters:?}");
    let told: Vec<_> = outcomes(&broker).await.into_iter().map(|(id, _)| id).collect();
    assert_eq!((told.len(), told.into_iter().collect()), (WORKS, announced), "{point}:{hit}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_keeper_that_ends_between_two_steps_leaves_one_letter_and_one_outcome_each() {
    let each = KEEPER_POINTS.into_iter().flat_map(|point| [(point, 1), (point, 2)]);
    let each = each.map(async |(point, hit)| {
        let folder = tempfile::tempdir().unwrap();
        ends_at(point, hit, folder.path()).await;
    });
    join_all(each).await;
}
