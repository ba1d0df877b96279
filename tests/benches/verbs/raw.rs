//! Raw async-nats, doing the same on the wire.

use async_nats::{Client, HeaderMap, jetstream};
use futures_util::StreamExt as _;
use mesh_core::{clock::TaskScope, envelope::TraceContext};
use mesh_tests::TestBroker;
use prost::Message as _;
use shop_proto::shop::{
    orders::v1::OrderPlaced,
    payments::v1::{ChargeReply, ChargeRequest},
};

use crate::stage::order;

pub(crate) async fn connect(broker: &TestBroker, service: &str) -> Client {
    async_nats::ConnectOptions::with_nkey(broker.seed(service).unwrap().to_owned())
        .custom_inbox_prefix(format!("_INBOX.{service}"))
        .connect(broker.server.client_url())
        .await
        .unwrap()
}

#[derive(Clone)]
pub(crate) struct Publisher(jetstream::Context);

impl Publisher {
    pub(crate) fn new(client: Client) -> Publisher {
        Publisher(jetstream::new(client))
    }

    pub(crate) async fn publish(self, number: usize) {
        let event = order(number);
        let partition = mesh_core::subject::partition(event.customer_id.as_bytes());
        let subject = format!("mesh1.event.local.orders.shop.orders.v1.OrderPlaced.{partition}");
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Msg-Id", format!("orders/shop.orders.v1.OrderPlaced/{number}"));
        headers.insert("traceparent", TraceContext::root(false).to_string());
        let ack = self.0.publish_with_headers(subject, headers, event.encode_to_vec().into()).await.unwrap();
        ack.await.unwrap();
    }
}

/// Pulls and acknowledges `count` messages, and knows that the broker has the acks.
pub(crate) async fn consume(broker: &TestBroker, count: usize) {
    let client = connect(broker, "raw-reader").await;
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

pub(crate) async fn call(client: Client, number: usize) {
    let request = crate::ours::charge(number);
    let mut headers = HeaderMap::new();
    headers.insert("traceparent", TraceContext::root(false).to_string());
    headers.insert("mesh", "d=1795392000000");
    let subject = "mesh1.call.local.shop.payments.v1.Payments.Charge.till";
    let answer = client.request_with_headers(subject, headers, request.encode_to_vec().into()).await.unwrap();
    ChargeReply::decode(answer.payload).unwrap();
}
