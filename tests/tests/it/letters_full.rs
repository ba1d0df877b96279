//! A full dead-letter stream: a consumer whose places all wait says so, and so does the ledger; nothing is lost.

use mesh_core::{Context, Fault, consume::ConsumerSettings, subject::DEAD_LETTER_STREAM};
use mesh_tests::{TestBroker, eventually};
use shop_proto::shop::orders::v1::OrderPlaced;

use crate::{
    claims::foreign,
    command_line::Operator,
    shop::{consumer, order, orders},
};

pub(crate) async fn hold_at_most(broker: &TestBroker, messages: i64) {
    let jetstream = foreign(broker, "operator").await;
    let mut config = jetstream.get_stream(DEAD_LETTER_STREAM).await.unwrap().cached_info().config.clone();
    config.max_messages = messages;
    jetstream.update_stream(config).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn work_that_waits_for_its_letter_is_seen_with_what_to_do_and_goes_on_by_itself() {
    const PLACES: usize = 2;
    let broker = TestBroker::start(&[orders(), consumer("a", "work")]).await.unwrap();
    hold_at_most(&broker, 1).await;
    let mesh = broker.connect("a").await.unwrap();
    let handler = |_: Context, _: OrderPlaced| async { Err::<(), _>(Fault::invalid("not today")) };
    let settings = ConsumerSettings { concurrency: PLACES, prefetch: 1, ..ConsumerSettings::default() };
    mesh.consumer::<OrderPlaced>("work").settings(settings).start(handler).await.unwrap();
    let sender = broker.connect("orders").await.unwrap();
    for number in 1..=6 {
        sender.publisher::<OrderPlaced>().publish(&order(number)).id(number.to_string()).await.unwrap();
    }
    let waiting = |count: usize| format!("mesh_handovers_waiting{{consumer=\"work\"}} {count}\n");
    eventually("every place to wait", || async { mesh.metrics().encode().contains(&waiting(PLACES)).then_some(()) })
        .await;
    let operator = Operator::at(&broker, "operator");
    let ledger = operator.json(1, &["ledger"]).await;
    let findings = ledger["findings"].as_array().unwrap();
    let full = findings.iter().find(|finding| finding["kind"] == "full").unwrap_or_else(|| panic!("{ledger}"));
    assert_eq!(full["stream"], DEAD_LETTER_STREAM);
    assert!(full.to_string().contains("nats stream edit"), "{full}");

    hold_at_most(&broker, -1).await;
    eventually("a letter of each", || async { (operator.letters().await.len() == 6).then_some(()) }).await;
    eventually("nobody to wait", || async { mesh.metrics().encode().contains(&waiting(0)).then_some(()) }).await;
    let ledger = operator.json(0, &["ledger"]).await;
    assert_eq!(ledger["findings"].as_array().unwrap().len(), 0, "{ledger}");
}
