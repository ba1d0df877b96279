//! What the tests declare and send.

use std::collections::BTreeSet;

use mesh_core::{
    Context, Fault,
    policy::compile::{Consumes, Declaration},
};
use mesh_tests::Seen;
use shop_proto::shop::{
    orders::v1::OrderPlaced,
    payments::v1::{ChargeReply, ChargeRequest, Payments},
};

pub(crate) use mesh_tests::letters::EVENT;

pub(crate) const PAYMENTS: &str = "shop.payments.v1.Payments";

pub(crate) fn declaration(name: &str) -> Declaration {
    Declaration::new(name.parse().unwrap())
}

pub(crate) fn orders() -> Declaration {
    Declaration { publishes: BTreeSet::from([EVENT.into()]), ..declaration("orders") }
}

pub(crate) fn consumer(service: &str, consumer: &str) -> Declaration {
    let consumes = Consumes {
        consumer: consumer.parse().unwrap(),
        producer: "orders".into(),
        event: EVENT.into(),
        ordered: false,
    };
    Declaration { consumes: BTreeSet::from([consumes]), ..declaration(service) }
}

fn charge() -> BTreeSet<(String, String)> {
    BTreeSet::from([(PAYMENTS.into(), "Charge".into())])
}

pub(crate) fn till() -> Declaration {
    Declaration { calls: charge(), enqueues: charge(), ..declaration("till") }
}

pub(crate) fn bank() -> Declaration {
    Declaration { serves: charge(), ..declaration("bank") }
}

pub(crate) fn order(number: usize) -> OrderPlaced {
    OrderPlaced { order_id: number.to_string(), customer_id: (number % 7).to_string(), ..OrderPlaced::default() }
}

pub(crate) fn charge_of(number: usize, cents: i64) -> ChargeRequest {
    ChargeRequest { order_id: number.to_string(), amount_cents: cents, currency: "usd".into(), ..Default::default() }
}

/// A bank that refuses 0, declines over 1,000,000 and writes down what it charged.
#[derive(Clone, Default)]
pub(crate) struct Bank(pub(crate) Seen);

impl Payments for Bank {
    async fn charge(&self, cx: Context, request: ChargeRequest) -> Result<ChargeReply, Fault> {
        match request.amount_cents {
            0 => Err(Fault::invalid("an amount of 0 can't be charged")),
            13 => panic!("unlucky"),
            cents if cents > 1_000_000 => Err(Fault::declined("too much for this card")),
            _ => {
                self.0.lock().await.push(cx.idempotency_key().to_owned());
                Ok(ChargeReply { charge_id: format!("ch_{}", request.order_id), status: cx.caller().to_owned() })
            }
        }
    }
}
