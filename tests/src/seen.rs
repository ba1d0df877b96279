//! Handlers that write down what they get.

use std::sync::Arc;

use mesh_core::{Context, Fault, contract::BoxFuture};
use shop_proto::shop::orders::v1::OrderPlaced;
use tokio::sync::Mutex;

/// Every id in the order that it was seen.
pub type Seen = Arc<Mutex<Vec<String>>>;

/// A handler that accepts every order and writes its id down.
pub fn notes(seen: &Seen) -> impl Fn(Context, OrderPlaced) -> BoxFuture<'static, Result<(), Fault>> + use<> {
    let seen = Arc::clone(seen);
    move |_cx, order| {
        let seen = Arc::clone(&seen);
        Box::pin(async move {
            seen.lock().await.push(order.order_id);
            Ok(())
        })
    }
}
