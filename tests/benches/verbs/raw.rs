//! Raw async-nats, doing the same on the wire.

use async_nats::{Client, HeaderMap, jetstream};
use futures_util::StreamExt as _;
use mesh_core::{clock::TaskScope, envelope::TraceContext};
use mesh_tests::{TestBroker, foreign::client};
use prost::Message as _;
use shop_proto::shop::{
    orders::v1::OrderPlaced,
    payments::v1::{ChargeReply, ChargeRequest},
};

/// Pulls and acknowledges `count` messages, and knows that the broker has the acks.
pub(crate) async fn consume(broker: &TestBroker, count: usize) {
    let client = client(broker, "raw-reader").await;
    let context = jetstream::new(client.clone());
    let consumer: jetstream::consumer::PullConsumer =
        context.get_consumer_from_stream("raw-reader_work", "mesh1-event-orders").await.unwrap();
    let mut messages = consumer.stream().max_messages_per_batch(512).messages().await.unwrap();
    for _ in 0..count {
        let message = messages.next().await.unwrap().unwrap();
        let _order = OrderPlaced::decode(message.payload.clone()).unwrap();
        message.ack().await.unwrap();
    }
    // A round trip on the connection that carried the acks.
    let inbox = "_INBOX.raw-reader.end";
    let mut end = client.subscribe(inbox).await.unwrap();
    client.publish(inbox, "".into()).await.unwrap();
    end.next().await.unwrap();
}

/// Answers calls, one after the other, until the scope stops.
pub(crate) async fn serve(client: &Client, tasks: &TaskScope) {
    let subject = "mesh1.call.local.shop.payments.v1.Payments.Charge.*";
    let mut calls = client.queue_subscribe(subject, "mesh".into()).await.unwrap();
    client.flush().await.unwrap();
    let (client, scope) = (client.clone(), tasks.clone());
    tasks.spawn(async move {
        loop {
            let call = tokio::select! { call = calls.next() => call.unwrap(), () = scope.stopped() => break };
            let request = ChargeRequest::decode(call.payload).unwrap();
            let reply = ChargeReply { charge_id: request.order_id, status: "done".into() };
            client.publish(call.reply.unwrap(), reply.encode_to_vec().into()).await.unwrap();
        }
    });
}

pub(crate) async fn call(client: Client, number: usize) -> anyhow::Result<()> {
    let request = crate::ours::charge(number);
    let mut headers = HeaderMap::new();
    headers.insert("traceparent", TraceContext::root(false).to_string());
    headers.insert("mesh", "d=1795392000000");
    let subject = "mesh1.call.local.shop.payments.v1.Payments.Charge.till";
    let answer = client.request_with_headers(subject, headers, request.encode_to_vec().into()).await?;
    ChargeReply::decode(answer.payload)?;
    Ok(())
}
