//! How fast an outbox is relayed: `cargo bench -p mesh-tests --bench outbox`. Prints messages a second, from the start of
//! the relay until the outbox is empty; rows of 256 bytes, 1,000 keys.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark prints, and stops where it fails")]

use std::{collections::BTreeSet, time::Instant};

use mesh_core::{
    Mesh,
    bus::{BusSettings, StreamLimits},
    outbox::{Database, Pool},
    policy::compile::Declaration,
};
use mesh_tests::{TestBroker, TestPostgres, eventually};
use shop_proto::shop::orders::v1::OrderPlaced;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions};

const ROWS: usize = 60_000;
const KEYS: usize = 1_000;

#[tokio::main]
async fn main() {
    let event = "shop.orders.v1.OrderPlaced".to_owned();
    let orders = Declaration { publishes: BTreeSet::from([event]), ..Declaration::new("orders".parse().unwrap()) };
    let folder = tempfile::tempdir().unwrap();
    let postgres = TestPostgres::start().await.unwrap();
    for sync_always in [false, true] {
        let broker =
            TestBroker::with(std::slice::from_ref(&orders), sync_always, &StreamLimits::default()).await.unwrap();
        let mode = if sync_always { "durable broker" } else { "default sync" };
        let mut settings = BusSettings::new(broker.server.client_url());
        settings.group_commit = sync_always;
        let connect = || async {
            let builder = Mesh::builder("orders").settings(settings.clone()).credential(broker.credential("orders"));
            builder.connect().await.unwrap()
        };
        for round in 0..3 {
            let file = SqliteConnectOptions::new().filename(folder.path().join("db")).create_if_missing(true);
            let file = file.journal_mode(SqliteJournalMode::Wal);
            let pool = SqlitePoolOptions::new().connect_with(file).await.unwrap();
            let first = (usize::from(sync_always) * 3 + round) * ROWS;
            println!("SQLite, {mode}: {:.0} a second", measure(connect().await, pool, first).await);
            if let Some(postgres) = &postgres {
                let pool = postgres.pool().await.unwrap();
                let first = first + 10 * ROWS;
                println!("PostgreSQL, {mode}: {:.0} a second", measure(connect().await, pool, first).await);
            }
        }
    }
}

async fn measure<D: Database>(mesh: Mesh, pool: Pool<D>, first: usize) -> f64 {
    let outbox = mesh.outbox(&pool);
    outbox.migrate().await.unwrap();
    let mut tx = pool.begin().await.unwrap();
    for number in first..first + ROWS {
        let event = OrderPlaced {
            order_id: number.to_string(),
            customer_id: (number % KEYS).to_string(),
            placed_on: "x".repeat(220),
            ..OrderPlaced::default()
        };
        outbox.publish(&mut tx, &event).id(number.to_string()).await.unwrap();
    }
    outbox.commit(tx).await.unwrap();
    let started = Instant::now();
    mesh.relay(&outbox).start();
    eventually("an empty outbox", || async { outbox.state().await.unwrap().oldest_ms.is_none().then_some(()) }).await;
    let rate = f64::from(u32::try_from(ROWS).unwrap()) / started.elapsed().as_secs_f64();
    mesh.drain().await;
    rate
}
