//! Letters as a consumer leaves them, without one: so many, so fast, that a test or a benchmark can begin with them.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use mesh_core::{
    Fault,
    bus::Bus,
    dead_letter,
    delayed::Lane,
    envelope::{Delivery, Envelope, Note},
    policy::compile::{Consumes, Declaration},
    proto::v1,
};
use prost::Message as _;
use shop_proto::shop::orders::v1::OrderPlaced;

use crate::{broker::REGION, within};

/// The event that they hold.
pub const EVENT: &str = "shop.orders.v1.OrderPlaced";
/// Captures that are under way at once.
const UNDER_WAY: usize = 2048;

/// Who publishes the events, and a service with the consumer `work` of them.
///
/// # Errors
/// The name is none.
pub fn declarations(service: &str) -> anyhow::Result<[Declaration; 2]> {
    let consumes =
        Consumes { consumer: "work".parse()?, producer: "orders".into(), event: EVENT.into(), ordered: false };
    let mut all = [Declaration::new("orders".parse()?), Declaration::new(service.parse()?)];
    all[0].publishes.insert(EVENT.into());
    all[1].consumes.insert(consumes);
    Ok(all)
}

/// The lane of the consumer `work` of a service.
///
/// # Panics
/// The name is none.
#[must_use]
#[expect(clippy::unwrap_used, reason = "a test that names no service is wrong itself")]
pub fn lane(service: &str) -> Lane {
    let name = |text: &str| text.parse().unwrap();
    Lane { region: name(REGION), service: name(service), consumer: name("work") }
}

/// The event of this number as a consumer has it in hand.
#[must_use]
pub fn in_hand(number: u64, payload: Bytes) -> Envelope {
    Envelope {
        subject: format!("mesh1.event.{REGION}.orders.{EVENT}.3"),
        message_id: format!("orders/{EVENT}/{number}"),
        caller: "orders".into(),
        trace: None,
        note: Note::default(),
        headers: Vec::new(),
        order: None,
        payload,
        delivery: Some(Delivery {
            stream: "mesh1-event-orders".into(),
            sequence: number + 1,
            deliveries: 1,
            consumer_sequence: 0,
            stored_at_ms: 1,
        }),
    }
}

/// Captures a letter of each order for the consumer `work` of a service: refused, "not today".
///
/// # Panics
/// The broker does not take one for half a minute.
pub async fn capture(bus: &Bus, service: &str, orders: impl IntoIterator<Item = (u64, OrderPlaced)>) {
    let lane = lane(service);
    let captures = orders.into_iter().map(|(number, order)| {
        let envelope = in_hand(number, order.encode_to_vec().into());
        let lane = &lane;
        async move {
            let fault = Fault::invalid("not today");
            // Again until it is confirmed, as a worker does it: its connection may be to the server that is away.
            let capture =
                || async { dead_letter::capture(bus, lane, &envelope, &fault, v1::Attempts::default()).await.ok() };
            within(Duration::from_secs(120), "a letter that is confirmed", capture).await;
        }
    });
    stream::iter(captures).buffer_unordered(UNDER_WAY).collect::<Vec<()>>().await;
}
