//! Handlers that write down what they get.

use std::{
    future::{Ready, ready},
    sync::{Arc, PoisonError},
    time::Duration,
};

use mesh_core::{
    Context, Fault,
    consume::{ConsumerSettings, OrderSettings},
    contract::BoxFuture,
    policy::retry::RetryRule,
};
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

/// What a handler took of each attempt, in their order.
pub type Taken<T> = Arc<std::sync::Mutex<Vec<T>>>;

/// A handler whose first attempt fails for a moment and whose second fails for good; what `take` takes is written down.
pub fn fails_twice<T>(
    taken: &Taken<T>,
    take: fn(&Context, OrderPlaced) -> T,
) -> impl Fn(Context, OrderPlaced) -> Ready<Result<(), Fault>> + use<T> {
    let taken = Arc::clone(taken);
    move |cx, order| {
        let mut taken = taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.push(take(&cx, order));
        ready(match taken.len() {
            1 => Err(Fault::unavailable("a moment, please")),
            2 => Err(Fault::invalid("not today")),
            _ => Ok(()),
        })
    }
}

/// A consumer that keeps the order of keys and spends every wait on the lane.
#[must_use]
pub fn waits_on_the_lane() -> ConsumerSettings {
    let order = OrderSettings { short_wait: Duration::ZERO, ..OrderSettings::default() };
    let retry = RetryRule { base: Duration::from_millis(100), ..RetryRule::default() };
    ConsumerSettings { order: Some(order), retry, ..ConsumerSettings::default() }
}
