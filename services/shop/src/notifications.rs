//! Notifications: every customer is told that the order has arrived.

use std::collections::HashMap;

use mesh_core::{Mesh, contract::Context, fault::Fault};
use shop_proto::shop::{
    notifications::v1::{SendRequest, notifications::Send},
    orders::v1::OrderPlaced,
};

/// The name of its consumer, as the mesh file declares it.
pub const CONSUMER: &str = "confirm";

/// The template of the message.
pub const TEMPLATE: &str = "order-confirmation";

/// Orders handled at one time: a handler does little but wait for the bus.
const CONCURRENCY: usize = 256;

/// Starts the service: for every order one message is queued.
///
/// # Errors
/// The bus has no such consumer, or can't be reached.
pub async fn start(mesh: &Mesh) -> Result<(), Fault> {
    let messages = mesh.operation::<Send>();
    let handler = move |cx: Context, order: OrderPlaced| {
        let messages = messages.clone();
        async move { messages.enqueue(&request(order)).caused_by(&cx).await.map(drop) }
    };
    mesh.consumer::<OrderPlaced>(CONSUMER).concurrency(CONCURRENCY).start(handler).await
}

fn request(order: OrderPlaced) -> SendRequest {
    let data = [
        ("order".to_owned(), order.order_id.clone()),
        ("items".to_owned(), order.item_count.to_string()),
        ("total".to_owned(), dollars(order.total_cents)),
    ];
    SendRequest {
        order_id: order.order_id,
        // The file holds no addresses; this domain is reserved for examples (RFC 2606).
        to: format!("customer-{}@example.com", order.customer_id),
        template: TEMPLATE.to_owned(),
        data: HashMap::from(data),
    }
}

/// 1177 as `11.77`.
fn dollars(cents: i64) -> String {
    format!("{}.{:02}", cents / 100, (cents % 100).abs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_names_order_and_total() {
        let order =
            OrderPlaced { order_id: "7".into(), customer_id: "00002".into(), total_cents: 1205, ..Default::default() };
        let request = request(order);
        assert_eq!(request.to, "customer-00002@example.com");
        assert_eq!(request.data["total"], "12.05");
        assert_eq!(request.data["order"], "7");
    }
}
