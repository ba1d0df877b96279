//! The same through the library.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use mesh_core::{Context, Fault, Mesh, OperationClient, consume::ConsumerSettings};
use mesh_tests::TestBroker;
use shop_proto::shop::{
    orders::v1::OrderPlaced,
    payments::v1::{ChargeReply, ChargeRequest, Payments, PaymentsServer, payments::Charge},
};
use tokio::sync::Notify;

/// Consumes and settles `count` messages, and drains.
pub(crate) async fn consume(broker: &TestBroker, count: usize) {
    let mesh = broker.connect("own-reader").await.unwrap();
    let (handled, done) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
    let bell = Arc::clone(&done);
    let handler = move |_cx: Context, _order: OrderPlaced| {
        if handled.fetch_add(1, Ordering::Relaxed) + 1 == count {
            bell.notify_one();
        }
        std::future::ready(Ok(()))
    };
    let settings = ConsumerSettings { concurrency: 256, prefetch: 256, ..ConsumerSettings::default() };
    mesh.consumer::<OrderPlaced>("work").settings(settings).start(handler).await.unwrap();
    done.notified().await;
    mesh.drain().await;
}

struct Bank;

impl Payments for Bank {
    async fn charge(&self, _cx: Context, request: ChargeRequest) -> Result<ChargeReply, Fault> {
        Ok(ChargeReply { charge_id: request.order_id, status: "done".into() })
    }
}

pub(crate) async fn serve(broker: &TestBroker) -> Mesh {
    let bank = broker.connect("bank").await.unwrap();
    bank.serve(PaymentsServer::new(Bank)).work(false).start().await.unwrap();
    bank
}

pub(crate) fn charge(number: usize) -> ChargeRequest {
    ChargeRequest { order_id: number.to_string(), description: "x".repeat(230), ..ChargeRequest::default() }
}

pub(crate) async fn call(client: Arc<OperationClient<Charge>>, number: usize) -> anyhow::Result<()> {
    client.call(&charge(number)).await?;
    Ok(())
}
