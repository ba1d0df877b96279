//! The broker's word that a message of a queue was deleted, where it says nothing of a loss.

use async_nats::jetstream::consumer::PullConsumer;
use futures_util::StreamExt as _;
use mesh_core::{
    Mesh,
    bus::StreamLimits,
    clock::TaskScope,
    operate::{
        keeper::{Keeper, KeeperSettings},
        letters::{Selector, list},
    },
    subject::{ADVISORY_STREAM, DEAD_LETTER_STREAM, KEEPER},
};
use mesh_tests::{
    campaign::{cluster::TestCluster, stage::Broker as _},
    eventually,
    foreign::{self, Worker},
};
use shop_proto::shop::payments::v1::PaymentsClient;

use crate::{
    keeper::{WORK, broker, letters, start_keeper, until_read},
    shop::{bank, charge_of, till},
};

/// Words that the keeper did not believe, as its metrics say.
fn not_believed(metrics: &str) -> usize {
    let series = format!("mesh_deletions_not_believed_total{{stream=\"{}\"}} ", WORK.0);
    metrics.lines().find_map(|line| line.strip_prefix(&series)).map_or(0, |count| count.parse().unwrap())
}

async fn enqueue(till: &Mesh, number: usize) {
    PaymentsClient::new(till).charge().enqueue(&charge_of(number, 100)).id(number.to_string()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_lay_in_a_queue_that_was_removed_is_no_loss() {
    no_letter_of_a_deletion(true).await;
}

/// A server that was killed says the same of what was acknowledged: it kept the deletion and lost the acknowledgement.
#[tokio::test(flavor = "multi_thread")]
async fn what_one_server_says_was_deleted_from_a_queue_makes_no_letter() {
    no_letter_of_a_deletion(false).await;
}

async fn no_letter_of_a_deletion(is_removed: bool) {
    let broker = broker().await;
    enqueue(&broker.connect("till").await.unwrap(), 1).await;
    Worker::new(&broker, "bank", WORK).await.pull().await;
    let jetstream = async_nats::jetstream::new(foreign::client(&broker, "operator").await);
    jetstream.get_stream(WORK.0).await.unwrap().delete_message(1).await.unwrap();
    eventually("the broker's word", || async {
        let mut stream = jetstream.get_stream(ADVISORY_STREAM).await.ok()?;
        (stream.info().await.ok()?.state.messages > 0).then_some(())
    })
    .await;
    if is_removed {
        jetstream.delete_stream(WORK.0).await.unwrap();
    }
    let running = start_keeper(&broker).await;
    until_read(&broker).await;
    let metrics = running.mesh.metrics().encode();
    running.stop().await;
    assert!(letters(&broker).await.is_empty());
    assert_eq!(not_believed(&metrics), 1, "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_words_on_a_queue_of_several_servers_is_counted_and_makes_no_letters() {
    const FLOOD: usize = 100;
    let cluster = TestCluster::of(&[till(), bank()], &StreamLimits::default()).await.unwrap();
    let till = cluster.connect("till").await.unwrap();
    for number in 0..FLOOD {
        enqueue(&till, number).await;
    }
    let client = async_nats::ConnectOptions::with_nkey(cluster.seed("bank").unwrap().to_owned())
        .custom_inbox_prefix("_INBOX.bank")
        .connect(cluster.servers[0].client_url())
        .await
        .unwrap();
    let worker: PullConsumer =
        async_nats::jetstream::new(client).get_consumer_from_stream(WORK.1, WORK.0).await.unwrap();
    let in_hand = worker.fetch().max_messages(FLOOD).messages().await.unwrap().take(FLOOD).count().await;
    assert_eq!(in_hand, FLOOD);
    let jetstream = cluster.jetstream().await.unwrap();
    let queue = jetstream.get_stream(WORK.0).await.unwrap();
    for sequence in 1..=FLOOD as u64 {
        queue.delete_message(sequence).await.unwrap();
    }

    let (mesh, scope) = (cluster.connect(KEEPER).await.unwrap(), TaskScope::new());
    scope.spawn(Keeper::new(mesh.bus(), mesh.metrics(), KeeperSettings::default()).run(scope.clone()));
    eventually("every word to be read", || async { (not_believed(&mesh.metrics().encode()) >= FLOOD).then_some(()) })
        .await;
    scope.stop();
    scope.idle().await;
    let operator = cluster.connect("operator").await.unwrap();
    let made = list(operator.bus(), &Selector::default()).await.unwrap().letters;
    assert!(made.is_empty(), "{DEAD_LETTER_STREAM}: {made:?}");
}
