//! Who takes part: a raw and an own side for each verb, each with its connections and its own consumer.

use std::{collections::BTreeSet, sync::Arc, time::Instant};

use mesh_core::policy::compile::{Consumes, Declaration};
use mesh_tests::{
    TestBroker,
    callers::{Publishers, Round, closed_loop, rate},
    foreign,
    letters::EVENT,
};

use crate::{Options, ours, raw, report::Row};

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

/// The connections of both sides to one broker.
pub(crate) struct Stage<'a> {
    broker: &'a TestBroker,
    publishers: Publishers,
}

impl<'a> Stage<'a> {
    pub(crate) async fn new(broker: &'a TestBroker, sync_always: bool) -> Stage<'a> {
        // Group commit is right for a broker that syncs always, slower for one that does not.
        Stage { broker, publishers: Publishers::of(broker, sync_always).await.unwrap() }
    }

    pub(crate) async fn publish(&self, own: bool, callers: usize, count: usize) -> Round {
        self.publishers.publish(own, callers, count).await.unwrap()
    }

    /// Rounds of consuming: both sides read the same messages, each with a consumer of its own.
    pub(crate) async fn consume_rounds(&self, options: &Options, count: usize) -> Row {
        let mut row = Row::new("consume and settle".into());
        // What the publishing left behind is read first, so that both begin at the same place.
        let left = self.publishers.numbers().len();
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
            let round = closed_loop(callers, count, move |n| ours::call(Arc::clone(&client), n)).await.unwrap();
            bank.drain().await;
            round
        } else {
            let bank = Arc::new(foreign::client(self.broker, "bank").await);
            let tasks = mesh_core::clock::TaskScope::new();
            raw::serve(&bank, &tasks).await;
            let till = foreign::client(self.broker, "till").await;
            let round = closed_loop(callers, count, move |n| raw::call(till.clone(), n)).await.unwrap();
            tasks.stop();
            tasks.idle().await;
            round
        }
    }
}
