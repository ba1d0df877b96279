//! Orders: what customers bought, published as `OrderPlaced`.

mod file;

use std::pin::pin;

use futures_util::{StreamExt as _, stream};
use mesh_core::{Mesh, fault::Fault};
use shop_proto::shop::orders::v1::OrderPlaced;

pub use file::{BadLine, orders};

/// Orders on their way to the bus at one time.
const WINDOW: usize = 512;

/// What became of the orders.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Published {
    /// Acknowledged by the bus.
    pub acknowledged: u64,
    /// Not acknowledged: the last fault says why. With the same id each may be published again.
    pub failed: u64,
    /// The last fault.
    pub fault: Option<Fault>,
}

/// Publishes the first `limit` orders of the file, each under its own id, and waits until the bus has them all. `stopped`
/// is asked before each: once it says yes no further order is begun.
///
/// # Errors
/// A line of the file can't be read; nothing was published.
pub async fn publish(mesh: &Mesh, limit: usize, stopped: impl Fn() -> bool) -> Result<Published, Fault> {
    if let Some(bad) = orders().take(limit).find_map(Result::err) {
        return Err(Fault::invalid(bad.to_string()));
    }
    let events = orders().take(limit).map_while(Result::ok).take_while(|_| !stopped());
    let events = events.map(|order: OrderPlaced| (order.order_id.clone(), order));
    let publisher = mesh.publisher::<OrderPlaced>();
    let mut results = pin!(publisher.publish_all(stream::iter(events), WINDOW));
    let mut published = Published::default();
    while let Some((id, result)) = results.next().await {
        match result {
            Ok(_) => published.acknowledged += 1,
            Err(fault) => {
                tracing::warn!(order = id, %fault, "an order was not published");
                published.failed += 1;
                published.fault = Some(fault);
            }
        }
    }
    Ok(published)
}
