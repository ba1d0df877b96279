//! The outbox: what a database committed is published, once and in order, whatever is killed in between.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use futures_util::future::join_all;
use mesh_core::{
    Mesh,
    fault::Reason,
    outbox::{AfterWindow, Database, Outbox, OutboxState, Pool, RelaySettings, Transaction},
    subject::Class,
};
use mesh_tests::{TestBroker, TestPostgres, eventually, within};
use prost::Message as _;
use shop_proto::shop::{orders::v1::OrderPlaced, payments::v1::payments::Charge};
use sqlx::{
    SqlitePool,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

use crate::shop::{EVENT, charge_of, declaration, order, orders, till};

pub(crate) const STREAM: &str = "mesh1-event-orders";

/// The caller's own table, in each kind of database.
pub(crate) trait Business: Database {
    async fn run(pool: &Pool<Self>, sql: &'static str);
    /// Counts the versions of a key, which holds a lock on it until the transaction ends.
    async fn next_version(tx: &mut Transaction<'_, Self>, key: &str) -> sqlx::Result<i64>;
    async fn versions(pool: &Pool<Self>) -> i64;
}

macro_rules! business {
    ($database:ty) => {
        impl Business for $database {
            async fn run(pool: &Pool<Self>, sql: &'static str) {
                sqlx::query(sql).execute(pool).await.unwrap();
            }

            async fn next_version(tx: &mut Transaction<'_, Self>, key: &str) -> sqlx::Result<i64> {
                let sql = "INSERT INTO customers (id, version) VALUES ($1, 1)
                    ON CONFLICT (id) DO UPDATE SET version = customers.version + 1 RETURNING version";
                sqlx::query_scalar(sql).bind(key).fetch_one(&mut **tx).await
            }

            async fn versions(pool: &Pool<Self>) -> i64 {
                sqlx::query_scalar("SELECT CAST(COALESCE(SUM(version), 0) AS BIGINT) FROM customers")
                    .fetch_one(pool)
                    .await
                    .unwrap()
            }
        }
    };
}

business!(sqlx::Sqlite);
business!(sqlx::Postgres);

pub(crate) async fn sqlite(file: &Path) -> SqlitePool {
    let options = SqliteConnectOptions::new()
        .filename(file)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Normal)
        .busy_timeout(Duration::from_secs(30));
    SqlitePoolOptions::new().max_connections(12).connect_with(options).await.unwrap()
}

pub(crate) async fn outbox<D: Business>(mesh: &Mesh, pool: &Pool<D>) -> Outbox<D> {
    let outbox = mesh.outbox(pool);
    outbox.migrate().await.unwrap();
    D::run(pool, "CREATE TABLE IF NOT EXISTS customers (id TEXT PRIMARY KEY, version BIGINT NOT NULL)").await;
    outbox
}

/// One change of the business and its event, not yet committed.
async fn change<'t, D: Business>(outbox: &Outbox<D>, pool: &'t Pool<D>, key: &str) -> Transaction<'t, D> {
    try_change(outbox, pool, key).await.unwrap()
}

async fn try_change<'t, D: Business>(
    outbox: &Outbox<D>,
    pool: &'t Pool<D>,
    key: &str,
) -> anyhow::Result<Transaction<'t, D>> {
    let mut tx = pool.begin().await?;
    let version = D::next_version(&mut tx, key).await?;
    let event = OrderPlaced { customer_id: key.into(), item_count: u32::try_from(version)?, ..Default::default() };
    outbox.publish(&mut tx, &event).id(format!("{key}-{version}")).await?;
    Ok(tx)
}

pub(crate) async fn changes<D: Business>(outbox: &Outbox<D>, pool: &Pool<D>, count: usize, keys: usize) {
    let mut tx = pool.begin().await.unwrap();
    for number in 0..count {
        let key = format!("c{}", number % keys);
        let version = D::next_version(&mut tx, &key).await.unwrap();
        let event =
            OrderPlaced { customer_id: key.clone(), item_count: u32::try_from(version).unwrap(), ..Default::default() };
        outbox.publish(&mut tx, &event).id(format!("{key}-{version}")).await.unwrap();
    }
    outbox.commit(tx).await.unwrap();
}

/// Every event in the stream: the versions of each key in the order of the stream.
pub(crate) async fn stored(broker: &TestBroker) -> BTreeMap<String, Vec<u32>> {
    let operator = broker.connect("operator").await.unwrap();
    let mut found: BTreeMap<String, Vec<u32>> = BTreeMap::new();
    let each = |message: mesh_core::gate::Unopened| {
        let event = OrderPlaced::decode(message.open().envelope.payload).unwrap();
        found.entry(event.customer_id).or_default().push(event.item_count);
        mesh_core::bus::Stop::No
    };
    operator.bus().read(STREAM, ">", each).await.unwrap();
    operator.drain().await;
    found
}

/// Everything of the business is in the stream: once, and in order for each key.
pub(crate) async fn assert_once_and_in_order<D: Business>(broker: &TestBroker, pool: &Pool<D>) {
    assert_all_once_and_in_order(stored(broker).await, pool).await;
}

/// The same of these.
pub(crate) async fn assert_all_once_and_in_order<D: Business>(found: BTreeMap<String, Vec<u32>>, pool: &Pool<D>) {
    for (key, versions) in &found {
        let expected: Vec<u32> = (1..).take(versions.len()).collect();
        assert_eq!(*versions, expected, "{key}");
    }
    let count: usize = found.values().map(Vec::len).sum();
    assert_eq!(i64::try_from(count).unwrap(), D::versions(pool).await, "what was committed is what was published");
}

pub(crate) async fn eventually_empty<D: Database>(outbox: &Outbox<D>) {
    eventually("an empty outbox", || async { (outbox.state().await.unwrap().waiting == 0).then_some(()) }).await;
}

async fn commits_with_the_business_or_not_at_all<D: Business>(pool: Pool<D>) {
    let broker = TestBroker::start(&[orders()]).await.unwrap();
    let mesh = broker.connect("orders").await.unwrap();
    let outbox = outbox(&mesh, &pool).await;
    mesh.relay(&outbox).start();
    change(&outbox, &pool, "gone").await.rollback().await.unwrap();
    let kept = change(&outbox, &pool, "kept").await;
    assert_eq!(outbox.state().await.unwrap(), OutboxState { waiting: 0, refused: 0, oldest_ms: None }, "not committed");
    outbox.commit(kept).await.unwrap();
    // Committed without a word to the relay: found by looking.
    change(&outbox, &pool, "kept").await.commit().await.unwrap();
    eventually_empty(&outbox).await;
    mesh.drain().await;
    assert_eq!(stored(&broker).await, BTreeMap::from([("kept".to_owned(), vec![1, 2])]));
    assert_once_and_in_order(&broker, &pool).await;
}

/// Writers at once, keys under their own locks, two relays: each key in the order of its changes.
async fn order_of_keys_holds<D: Business>(pool: Pool<D>, (keys, each): (usize, usize)) {
    let broker = TestBroker::start(&[orders()]).await.unwrap();
    let meshes = [broker.connect("orders").await.unwrap(), broker.connect("orders").await.unwrap()];
    let mut outboxes = Vec::new();
    for mesh in &meshes {
        let outbox = outbox(mesh, &pool).await;
        mesh.relay(&outbox).start();
        outboxes.push(outbox);
    }
    let writers = (0..8usize).map(|writer| {
        let (pool, outbox) = (pool.clone(), outboxes[writer % 2].clone());
        async move {
            // Every writer meets every key, each in another order.
            for round in 0..each * keys / 8 {
                let key = format!("c{}", (round * 8 + writer * 131) % keys);
                let tx = change(&outbox, &pool, &key).await;
                outbox.commit(tx).await.unwrap();
            }
        }
    });
    let handing_over = async {
        let written = |pool: Pool<D>| async move { D::versions(&pool).await };
        let half = i64::try_from(keys * each / 2).unwrap();
        eventually("half of the changes", || async { (written(pool.clone()).await > half).then_some(()) }).await;
        // Whichever relays hands over to the other in the middle of it.
        meshes[0].drain().await;
    };
    tokio::join!(join_all(writers), handing_over);
    eventually_empty(&outboxes[1]).await;
    meshes[1].drain().await;
    assert_eq!(D::versions(&pool).await, i64::try_from(keys * each / 8 * 8).unwrap());
    assert_once_and_in_order(&broker, &pool).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_commits_with_the_business_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    commits_with_the_business_or_not_at_all(sqlite(&folder.path().join("db")).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_commits_with_the_business_or_not_at_all_in_postgres() {
    let Some(postgres) = TestPostgres::start().await.unwrap() else { return };
    commits_with_the_business_or_not_at_all(postgres.pool().await.unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_keys_keep_their_order_under_two_relays() {
    let folder = tempfile::tempdir().unwrap();
    order_of_keys_holds(sqlite(&folder.path().join("db")).await, (1000, 4)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_keys_keep_their_order_under_two_relays_in_postgres() {
    let Some(postgres) = TestPostgres::start().await.unwrap() else { return };
    order_of_keys_holds(postgres.pool().await.unwrap(), (1000, 4)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_not_be_published_fails_in_the_callers_transaction() {
    let broker = TestBroker::start(&[orders(), till()]).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let pool = sqlite(&folder.path().join("db")).await;
    let (mesh, other) = (broker.connect("orders").await.unwrap(), broker.connect("till").await.unwrap());
    let (outbox, others) = (outbox(&mesh, &pool).await, other.outbox(&pool));
    let mut tx = pool.begin().await.unwrap();
    let large = OrderPlaced { placed_on: "x".repeat(1024 * 1024), ..order(1) };
    let fault = outbox.publish(&mut tx, &large).await.unwrap_err();
    assert_eq!(fault.reason(), Reason::TooLarge);
    let fault = others.publish(&mut tx, &order(1)).await.unwrap_err();
    assert_eq!(fault.reason(), Reason::AccessDenied);
    assert!(outbox.publish(&mut tx, &order(1)).id("a b").await.is_err());
    // The transaction goes on, and the id of what is right is told.
    let id = outbox.publish(&mut tx, &order(1)).id("1").await.unwrap();
    assert_eq!(id, format!("orders/{EVENT}/1"));
    tx.commit().await.unwrap();
    assert_eq!(outbox.state().await.unwrap().waiting, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn work_is_queued_when_the_transaction_commits() {
    let broker = TestBroker::start(&[till(), crate::shop::bank()]).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let pool = sqlite(&folder.path().join("db")).await;
    let (till, bank) = (broker.connect("till").await.unwrap(), broker.connect("bank").await.unwrap());
    let books = crate::shop::Bank::default();
    bank.serve(shop_proto::shop::payments::v1::PaymentsServer::new(books.clone())).start().await.unwrap();
    let outbox = outbox(&till, &pool).await;
    till.relay(&outbox).start();
    let mut tx = pool.begin().await.unwrap();
    outbox.enqueue::<Charge>(&mut tx, &charge_of(7, 100), Class::Urgent).id("7").await.unwrap();
    outbox.commit(tx).await.unwrap();
    let key = "till/shop.payments.v1.Payments.Charge/7".to_owned();
    eventually("the charge", || async { books.0.lock().await.contains(&key).then_some(()) }).await;
}

/// A relay in a process of its own, to be killed.
fn relay_process(broker: &TestBroker, folder: &Path) -> tokio::process::Child {
    relay_process_on(broker, folder, folder.join("db").as_os_str())
}

/// The same, for the database that is said.
pub(crate) fn relay_process_on(broker: &TestBroker, folder: &Path, database: &OsStr) -> tokio::process::Child {
    let seed = folder.join("seed");
    std::fs::write(&seed, broker.seed("orders").unwrap()).unwrap();
    let mut relay = tokio::process::Command::new(env!("CARGO_BIN_EXE_outbox-relay"));
    relay.arg(broker.server.client_url()).arg(seed).arg(database).kill_on_drop(true).spawn().unwrap()
}

pub(crate) async fn messages(broker: &TestBroker) -> u64 {
    let operator = broker.connect("operator").await.unwrap();
    let state = operator.bus().stream_state(STREAM).await.unwrap().unwrap();
    operator.drain().await;
    state.messages
}

/// A relay that has published everything and can delete nothing, killed there.
async fn killed_before_it_deletes(broker: &TestBroker, folder: &Path, pool: &SqlitePool, count: usize) {
    sqlx::Sqlite::run(
        pool,
        "CREATE TRIGGER stuck BEFORE DELETE ON mesh_outbox BEGIN SELECT RAISE(ABORT, 'stuck'); END",
    )
    .await;
    let mut relay = relay_process(broker, folder);
    eventually("all published", || async { (messages(broker).await == count as u64).then_some(()) }).await;
    relay.kill().await.unwrap();
    sqlx::Sqlite::run(pool, "DROP TRIGGER stuck").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_killed_between_publish_and_delete_stores_nothing_twice() {
    let broker = TestBroker::start(&[orders()]).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let pool = sqlite(&folder.path().join("db")).await;
    let mesh = broker.connect("orders").await.unwrap();
    let outbox = outbox(&mesh, &pool).await;
    changes(&outbox, &pool, 300, 40).await;
    killed_before_it_deletes(&broker, folder.path(), &pool, 300).await;
    assert_eq!(outbox.state().await.unwrap().waiting, 300, "nothing was deleted");
    mesh.relay(&outbox).start();
    eventually_empty(&outbox).await;
    assert_once_and_in_order(&broker, &pool).await;
    let counts = mesh.metrics().encode();
    assert!(counts.contains("mesh_outbox_relayed_total{result=\"duplicate\"} 300"), "{counts}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_broker_may_have_forgotten_is_parked_where_that_is_asked_for() {
    let broker = TestBroker::start(&[orders()]).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let pool = sqlite(&folder.path().join("db")).await;
    let mesh = broker.connect("orders").await.unwrap();
    let outbox = outbox(&mesh, &pool).await;
    changes(&outbox, &pool, 20, 20).await;
    killed_before_it_deletes(&broker, folder.path(), &pool, 20).await;
    // As if the broker's memory were over: no time has to pass.
    sqlx::Sqlite::run(&pool, "UPDATE mesh_outbox_turn SET at_ms = at_ms - 100000").await;
    let settings = RelaySettings { after_window: AfterWindow::Park, ..RelaySettings::default() };
    changes(&outbox, &pool, 20, 40).await;
    mesh.relay(&outbox).settings(settings).start();
    let parked = |state: OutboxState| (state.waiting, state.refused) == (40, 20);
    eventually("20 parked rows", || async { parked(outbox.state().await.unwrap()).then_some(()) }).await;
    // What was never sent goes; what follows a parked row of its key waits behind it.
    changes(&outbox, &pool, 10, 1000).await;
    let tx = change(&outbox, &pool, "new").await;
    outbox.commit(tx).await.unwrap();
    eventually("the new one", || async { (messages(&broker).await == 21).then_some(()) }).await;
    let stuck = mesh.metrics().encode();
    assert!(stuck.contains("mesh_outbox_stuck{what=\"refused_rows\"} 20"), "{stuck}");
    let reasons: Vec<String> =
        sqlx::query_scalar("SELECT DISTINCT reason FROM mesh_outbox_refused").fetch_all(&pool).await.unwrap();
    assert_eq!(reasons, ["parked: it may have been stored, longer ago than the broker remembers"]);
    // A person looked: the rows were stored.
    let sql = "DELETE FROM mesh_outbox WHERE sequence IN (SELECT sequence FROM mesh_outbox_refused)";
    sqlx::Sqlite::run(&pool, sql).await;
    sqlx::Sqlite::run(&pool, "DELETE FROM mesh_outbox_refused").await;
    eventually_empty(&outbox).await;
    assert_once_and_in_order(&broker, &pool).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_killed_again_and_again_loses_nothing_and_doubles_nothing() {
    let broker = TestBroker::start(&[orders()]).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let pool = sqlite(&folder.path().join("db")).await;
    let mesh = broker.connect("orders").await.unwrap();
    let outbox = outbox(&mesh, &pool).await;
    for _ in 0..8 {
        changes(&outbox, &pool, 1500, 300).await;
        let before = messages(&broker).await;
        let mut relay = relay_process(&broker, folder.path());
        // Somewhere in the middle, wherever that is.
        let enough = before + 100 + fastrand(1000);
        eventually("some", || async { (messages(&broker).await >= enough).then_some(()) }).await;
        relay.kill().await.unwrap();
        // The dead one's lease is not waited for.
        sqlx::Sqlite::run(&pool, "UPDATE mesh_outbox_relay SET until_ms = 0").await;
    }
    mesh.relay(&outbox).start();
    eventually_empty(&outbox).await;
    assert_eq!(sqlx::Sqlite::versions(&pool).await, 8 * 1500);
    assert_once_and_in_order(&broker, &pool).await;
}

/// A number below `limit` that differs from run to run.
fn fastrand(limit: u64) -> u64 {
    use std::hash::{BuildHasher as _, RandomState};
    RandomState::new().hash_one(0) % limit
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_killed_while_it_is_relayed_to_gets_all_of_it_once() {
    let mut broker = TestBroker::start(&[orders()]).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let pool = sqlite(&folder.path().join("db")).await;
    let mesh = broker.connect("orders").await.unwrap();
    let outbox = outbox(&mesh, &pool).await;
    mesh.relay(&outbox).start();
    for _ in 0..2 {
        let before = messages(&broker).await;
        changes(&outbox, &pool, 4000, 700).await;
        eventually("some", || async { (messages(&broker).await > before + 300).then_some(()) }).await;
        broker.server.kill9().await.unwrap();
        // Writing goes on while the broker is away.
        changes(&outbox, &pool, 500, 700).await;
        assert!(outbox.state().await.unwrap().waiting > 500);
        broker.server.restart().await.unwrap();
        eventually_empty(&outbox).await;
    }
    assert_eq!(sqlx::Sqlite::versions(&pool).await, 9000);
    assert_once_and_in_order(&broker, &pool).await;
}

/// Changes of one key until it is said that they are enough; how many of them failed.
async fn changes_of(outbox: &Outbox<sqlx::Postgres>, pool: &sqlx::PgPool, (key, enough): (&str, &AtomicBool)) -> usize {
    let mut failed = 0;
    while !enough.load(Ordering::Relaxed) {
        let committed = match try_change(outbox, pool, key).await {
            Ok(tx) => outbox.commit(tx).await.is_ok(),
            Err(_) => false,
        };
        failed += usize::from(!committed);
    }
    failed
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postgres_killed_while_it_is_relayed_from_and_written_to_gives_all_of_it_once() {
    let Some(mut postgres) = TestPostgres::start().await.unwrap() else { return };
    let broker = TestBroker::start(&[orders()]).await.unwrap();
    let pool = postgres.pool().await.unwrap();
    let mesh = broker.connect("orders").await.unwrap();
    let outbox = outbox(&mesh, &pool).await;
    mesh.relay(&outbox).start();
    let mut failed = 0;
    for _ in 0..3 {
        let before = messages(&broker).await;
        changes(&outbox, &pool, 4000, 700).await;
        let enough = AtomicBool::new(false);
        let killed = async {
            eventually("some", || async { (messages(&broker).await > before + 300).then_some(()) }).await;
            postgres.kill9_and_restart().await.unwrap();
            enough.store(true, Ordering::Relaxed);
        };
        let writing = ["x", "y", "z"].map(|key| changes_of(&outbox, &pool, (key, &enough)));
        let ((), failures) = tokio::join!(killed, join_all(writing));
        failed += failures.into_iter().sum::<usize>();
        // Three failures in a row, and another relay may try: this one is the only one, and waits for its own lease.
        let is_empty = || async { (outbox.state().await.ok()?.waiting == 0).then_some(()) };
        within(Duration::from_secs(120), "an empty outbox", is_empty).await;
    }
    assert!(failed > 0, "nobody wrote when it was killed");
    assert_once_and_in_order(&broker, &pool).await;
}

async fn limit_message_size(broker: &TestBroker, bytes: i32) {
    let seed = broker.seed("operator").unwrap().to_owned();
    let options = async_nats::ConnectOptions::with_nkey(seed).custom_inbox_prefix("_INBOX.operator");
    let client = options.connect(broker.server.client_url()).await.unwrap();
    let context = async_nats::jetstream::new(client);
    let mut config = context.get_stream(STREAM).await.unwrap().cached_info().config.clone();
    config.max_message_size = bytes;
    context.update_stream(config).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_the_broker_refuses_stops_its_own_key_and_is_seen() {
    let broker = TestBroker::start(&[orders()]).await.unwrap();
    limit_message_size(&broker, 1000).await;
    let folder = tempfile::tempdir().unwrap();
    let pool = sqlite(&folder.path().join("db")).await;
    let mesh = broker.connect("orders").await.unwrap();
    let outbox = outbox(&mesh, &pool).await;
    let settings = RelaySettings { refused_again: Duration::from_millis(200), ..RelaySettings::default() };
    mesh.relay(&outbox).settings(settings).start();
    let mut tx = pool.begin().await.unwrap();
    for (number, key, size) in [(1u32, "a", 2000), (2, "a", 10), (1, "b", 10), (2, "b", 10)] {
        let event = OrderPlaced {
            customer_id: key.into(),
            item_count: number,
            placed_on: "x".repeat(size),
            ..OrderPlaced::default()
        };
        outbox.publish(&mut tx, &event).id(format!("{key}-{number}")).await.unwrap();
    }
    outbox.commit(tx).await.unwrap();
    let stuck = OutboxState { waiting: 2, refused: 1, oldest_ms: outbox.state().await.unwrap().oldest_ms };
    eventually("the refusal", || async { (outbox.state().await.unwrap() == stuck).then_some(()) }).await;
    assert_eq!(stored(&broker).await, BTreeMap::from([("b".to_owned(), vec![1, 2])]));
    let (place, key, reason): (String, String, String) =
        sqlx::query_as("SELECT place, order_key, reason FROM mesh_outbox_refused").fetch_one(&pool).await.unwrap();
    assert_eq!((place.as_str(), key.as_str()), ("event/orders/shop.orders.v1.OrderPlaced", "a"));
    assert!(reason.contains("message size exceeds maximum allowed"), "{reason}");
    assert!(mesh.metrics().encode().contains("mesh_outbox_stuck{what=\"refused_rows\"} 1"));
    // Mended: it goes by itself, and what waited behind it follows.
    limit_message_size(&broker, -1).await;
    eventually_empty(&outbox).await;
    let both = vec![1, 2];
    assert_eq!(stored(&broker).await, BTreeMap::from([("a".to_owned(), both.clone()), ("b".to_owned(), both)]));
    assert_eq!(outbox.state().await.unwrap().refused, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_that_is_denied_pauses_and_the_others_go_on() {
    // It may publish orders, and was never allowed to queue charges.
    let broker = TestBroker::start(&[orders(), crate::shop::bank(), declaration("idle")]).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let pool = sqlite(&folder.path().join("db")).await;
    let mesh = broker.connect("orders").await.unwrap();
    let outbox = outbox(&mesh, &pool).await;
    mesh.relay(&outbox).start();
    let mut tx = pool.begin().await.unwrap();
    for number in 0..50 {
        outbox.enqueue::<Charge>(&mut tx, &charge_of(number, 100), Class::Normal).await.unwrap();
    }
    outbox.commit(tx).await.unwrap();
    changes(&outbox, &pool, 500, 20).await;
    eventually("the events", || async { (outbox.state().await.unwrap().waiting == 50).then_some(()) }).await;
    assert_once_and_in_order(&broker, &pool).await;
    let paused = "mesh_outbox_stuck{what=\"paused_places\"} 1";
    eventually("the pause", || async { mesh.metrics().encode().contains(paused).then_some(()) }).await;
    mesh.drain().await;
    let left: BTreeSet<String> =
        sqlx::query_scalar("SELECT place FROM mesh_outbox").fetch_all(&pool).await.unwrap().into_iter().collect();
    assert_eq!(left, BTreeSet::from(["work/shop.payments.v1.Payments/Charge/normal".to_owned()]), "they stay");
}
