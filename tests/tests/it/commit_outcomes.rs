//! Many works that end at one moment: their outcomes go together, and each is told its own, whatever becomes of the batch.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use mesh_core::{Context, Fault, Receipt, consume::ConsumerSettings, proto::v1, subject::OUTCOME_STREAM};
use mesh_tests::TestBroker;
use prost::Message as _;
use shop_proto::shop::payments::v1::{ChargeReply, ChargeRequest, Payments, PaymentsClient, PaymentsServer};
use tokio::sync::Barrier;

use crate::{
    commit::{BATCH_ID, BATCHES_PER_STREAM, plain, stored},
    keeper::{WORK, outcomes, until_empty},
    shop::{bank, charge_of, till},
};

const MANY: usize = 300;
const OUTCOME: &str = "mesh1.outcome.local.shop.payments.v1.Payments.Charge.till";

/// Ends nothing until it has all of it in hand. Every seventh card is declined, which is an answer too.
struct AtOnce(Arc<Barrier>);

impl Payments for AtOnce {
    async fn charge(&self, _cx: Context, request: ChargeRequest) -> Result<ChargeReply, Fault> {
        self.0.wait().await;
        match is_declined(&request.order_id) {
            true => Err(Fault::declined(format!("not card {}", request.order_id))),
            false => Ok(reply(&request.order_id)),
        }
    }
}

fn is_declined(number: &str) -> bool {
    number.parse::<usize>().unwrap().is_multiple_of(7)
}

fn reply(number: &str) -> ChargeReply {
    ChargeReply { charge_id: format!("ch_{number}"), status: "succeeded".into() }
}

/// Works by their number.
async fn enqueue(broker: &TestBroker) -> BTreeMap<String, Receipt> {
    let till = broker.connect("till").await.unwrap();
    let client = PaymentsClient::new(&till).charge();
    let (client, numbers) = (&client, (0..MANY).map(|number| number.to_string()));
    let receipts = numbers.map(|number| async move {
        let receipt = client.enqueue(&charge_of(number.parse().unwrap(), 100)).id(number.as_str()).await.unwrap();
        (number, receipt)
    });
    let receipts = futures_util::future::join_all(receipts).await.into_iter().collect();
    till.drain().await;
    receipts
}

/// Works all of it off; how many of the outcomes were stored in a batch.
async fn work_off(broker: &TestBroker, receipts: &BTreeMap<String, Receipt>) -> usize {
    let bank = broker.connect("bank").await.unwrap();
    let settings = ConsumerSettings { concurrency: MANY, prefetch: MANY, ..ConsumerSettings::default() };
    let service = PaymentsServer::new(AtOnce(Arc::new(Barrier::new(MANY))));
    bank.serve(service).calls(false).settings(settings).start().await.unwrap();
    until_empty(broker, WORK.0).await;
    bank.drain().await;

    let mut told = BTreeMap::new();
    for (id, outcome) in outcomes(broker).await {
        assert!(told.insert(id.clone(), outcome).is_none(), "{id} twice");
    }
    assert_eq!(told.len(), MANY);
    for (number, receipt) in receipts {
        let outcome = &told[&format!("outcome/{}", receipt.message_id)];
        assert_eq!((&outcome.message_id, &outcome.served_by[..]), (&receipt.message_id, "bank"));
        assert_eq!(outcome.source.as_ref().unwrap().sequence, receipt.sequence);
        match outcome.end.clone().unwrap() {
            v1::outcome::End::Reply(bytes) if !is_declined(number) => {
                assert_eq!(ChargeReply::decode(bytes).unwrap(), reply(number));
            }
            v1::outcome::End::Refused(fault) if is_declined(number) => {
                assert_eq!(fault.message, format!("not card {number}"));
            }
            other => panic!("{number}: {other:?}"),
        }
    }
    let operator = broker.connect("operator").await.unwrap();
    stored(operator.bus(), OUTCOME_STREAM).await.values().filter(|(_, in_batch)| *in_batch).count()
}

async fn broker() -> TestBroker {
    TestBroker::start(&[till(), bank()]).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn works_that_end_at_once_are_announced_together_and_each_is_told_its_own_outcome() {
    let broker = broker().await;
    let receipts = enqueue(&broker).await;
    let together = work_off(&broker, &receipts).await;
    assert!(together > MANY / 2, "{together} of {MANY} went in a batch");
}

/// What a process leaves that ended between the outcome and the acknowledgement.
#[tokio::test(flavor = "multi_thread")]
async fn one_outcome_that_was_announced_before_refuses_its_batch_and_costs_no_other_its_own() {
    let broker = broker().await;
    let receipts = enqueue(&broker).await;
    let bank = broker.connect("bank").await.unwrap();
    let receipt = &receipts["5"];
    let source = v1::Source { stream: WORK.0.into(), sequence: receipt.sequence, ..v1::Source::default() };
    let outcome = v1::Outcome {
        message_id: receipt.message_id.clone(),
        operation: "shop.payments.v1.Payments/Charge".into(),
        served_by: "bank".into(),
        at_ms: 1,
        source: Some(source),
        end: Some(v1::outcome::End::Reply(reply("5").encode_to_vec().into())),
    };
    let operation = ("shop.payments.v1.Payments", "Charge");
    let payload = outcome.encode_to_vec().into();
    let sealed = bank.bus().gate().seal_outcome(operation, "till", &receipt.message_id, payload);
    bank.bus().publish(OUTCOME_STREAM, sealed).await.unwrap();

    let together = work_off(&broker, &receipts).await;
    assert!(together > MANY / 2, "{together} of {MANY} went in the pieces of a batch");
    let first = outcomes(&broker).await.remove(0).1;
    assert_eq!((first.message_id, first.at_ms), (receipt.message_id.clone(), 1), "the one that was there stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_no_batch_is_taken_each_outcome_goes_alone() {
    let broker = broker().await;
    let receipts = enqueue(&broker).await;
    let other = plain(&broker).await;
    for number in 0..BATCHES_PER_STREAM {
        let mut headers = async_nats::HeaderMap::new();
        headers.insert(BATCH_ID, format!("open-{number}"));
        headers.insert("Nats-Batch-Sequence", "1");
        // The answer says that the batch is open.
        let answer = other.request_with_headers(OUTCOME, headers, Bytes::new()).await.unwrap();
        assert!(answer.payload.is_empty(), "{:?}", answer.payload);
    }
    assert_eq!(work_off(&broker, &receipts).await, 0);
}
