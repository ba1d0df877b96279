//! Who takes part: a raw and an own side for each verb, each with its connections and its own consumer.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use mesh_core::{
    Mesh,
    bus::BusSettings,
    policy::compile::{Consumes, Declaration},
};
use mesh_tests::TestBroker;
use shop_proto::shop::orders::v1::OrderPlaced;

use crate::{
    Options,
    measure::{Round, closed_loop, rate},
    ours, raw,
    report::Row,
};

const EVENT: &str = "shop.orders.v1.OrderPlaced";

pub(crate) fn declarations() -> Vec<Declaration> {
    let new = |name: &str| Declaration::new(name.parse().unwrap());
    let charge = || BTreeSet::from([("shop.payments.v1.Payments".to_owned(), "Charge".to_owned())]);
    let reader = |name: &str| {
        let consumes = Consumes {
            consumer: "work".parse().unwrap(),
            producer: "orders".into(),
            event: EVENT.into(),
            ordered: false,
        };
        Declaration { consumes: BTreeSet::from([consumes]), ..new(name) }
    };
    vec![
        Declaration { publishes: BTreeSet::from([EVENT.into()]), ..new("orders") },
        reader("raw-reader"),
        reader("own-reader"),
        Declaration { calls: charge(), ..new("till") },
        Declaration { serves: charge(), ..new("bank") },
    ]
}

/// An order of about 256 bytes.
pub(crate) fn order(number: usize) -> OrderPlaced {
    OrderPlaced {
        order_id: number.to_string(),
        customer_id: (number % 1000).to_string(),
        placed_on: "x".repeat(220),
        item_count: 1,
        total_cents: 1177,
        currency: "USD".into(),
    }
}

/// The connections of both sides to one broker.
pub(crate) struct Stage<'a> {
    broker: &'a TestBroker,
    publisher: Mesh,
    raw_publisher: raw::Publisher,
    next: AtomicUsize,
}

impl<'a> Stage<'a> {
    pub(crate) async fn new(broker: &'a TestBroker, sync_always: bool) -> Stage<'a> {
        let mut settings = BusSettings::new(broker.server.client_url());
        // Right for a broker that syncs always, slower for one that does not.
        settings.group_commit = sync_always;
        let publisher = Mesh::builder("orders").settings(settings).credential(broker.credential("orders"));
        Stage {
            broker,
            publisher: publisher.connect().await.unwrap(),
            raw_publisher: raw::Publisher::new(raw::connect(broker, "orders").await),
            next: AtomicUsize::new(1),
        }
    }

    pub(crate) async fn publish(&self, own: bool, callers: usize, count: usize) -> Round {
        let first = self.next.fetch_add(count, Ordering::Relaxed);
        if own {
            let publisher = Arc::new(self.publisher.publisher::<OrderPlaced>());
            closed_loop(callers, count, move |n| ours::publish(Arc::clone(&publisher), first + n)).await
        } else {
            let publisher = self.raw_publisher.clone();
            closed_loop(callers, count, move |n| publisher.clone().publish(first + n)).await
        }
    }

    /// Rounds of consuming: both sides read the same messages, each with a consumer of its own.
    pub(crate) async fn consume_rounds(&self, options: &Options, count: usize) -> Row {
        let mut row = Row::new("consume and settle".into());
        // What the publishing left behind is read first, so that both begin at the same place.
        let left = self.next.load(Ordering::Relaxed) - 1;
        if left > 0 {
            raw::consume(self.broker, left).await;
            ours::consume(self.broker, left).await;
        }
        for round in 0..options.rounds {
            self.publish(false, 512, count).await;
            for own in [round % 2 == 1, round % 2 == 0] {
                let started = Instant::now();
                if own {
                    ours::consume(self.broker, count).await
                } else {
                    raw::consume(self.broker, count).await
                }
                row.add(own, Round { rate: rate(count, started.elapsed()), latencies: Vec::new() });
            }
            eprintln!("consume and settle: round {} of {}", round + 1, options.rounds);
        }
        row
    }

    pub(crate) async fn call(&self, own: bool, callers: usize, count: usize) -> Round {
        if own {
            let bank = ours::serve(self.broker).await;
            let till = self.broker.connect("till").await.unwrap();
            let client = Arc::new(shop_proto::shop::payments::v1::PaymentsClient::new(&till).charge());
            let round = closed_loop(callers, count, move |n| ours::call(Arc::clone(&client), n)).await;
            bank.drain().await;
            round
        } else {
            let bank = Arc::new(raw::connect(self.broker, "bank").await);
            let tasks = mesh_core::clock::TaskScope::new();
            raw::serve(&bank, &tasks).await;
            let till = raw::connect(self.broker, "till").await;
            let round = closed_loop(callers, count, move |n| raw::call(till.clone(), n)).await;
            tasks.stop();
            tasks.idle().await;
            round
        }
    }
}
