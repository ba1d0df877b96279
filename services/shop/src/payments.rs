//! Payments: every order is to be charged.

use mesh_core::{Mesh, contract::Context, fault::Fault};
use shop_proto::shop::{
    orders::v1::OrderPlaced,
    payments::v1::{ChargeRequest, payments::Charge},
};

/// The name of its consumer, as the mesh file declares it.
pub const CONSUMER: &str = "charge";

/// Orders handled at one time: a handler does little but wait for the bus.
const CONCURRENCY: usize = 256;

/// Starts the service: for every order one charge is queued.
///
/// # Errors
/// The bus has no such consumer, or can't be reached.
pub async fn start(mesh: &Mesh) -> Result<(), Fault> {
    let charges = mesh.operation::<Charge>();
    let handler = move |cx: Context, order: OrderPlaced| {
        let charges = charges.clone();
        async move { charges.enqueue(&request(order)).caused_by(&cx).await.map(drop) }
    };
    mesh.consumer::<OrderPlaced>(CONSUMER).concurrency(CONCURRENCY).start(handler).await
}

fn request(order: OrderPlaced) -> ChargeRequest {
    let description = format!("{} CDs, {}", order.item_count, order.placed_on);
    ChargeRequest {
        order_id: order.order_id,
        customer_id: order.customer_id,
        amount_cents: order.total_cents,
        currency: order.currency,
        description,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_charge_asks_for_what_the_order_says() {
        let order =
            OrderPlaced { order_id: "7".into(), total_cents: 1177, currency: "USD".into(), ..Default::default() };
        let request = request(order);
        assert_eq!((request.order_id.as_str(), request.amount_cents, request.currency.as_str()), ("7", 1177, "USD"));
    }
}
