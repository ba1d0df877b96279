//! A relay that is cut off, from the broker or from its database: another one goes on, and nothing old is sent after it.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use futures_util::future::join_all;
use mesh_core::{
    Mesh,
    bus::{Bus, PublishError},
    clock::Term,
    gate::{Cause, Leave, Sealed},
    outbox::{Database, Outbox},
};
use mesh_tests::{TestBroker, TestPostgres, broker::REGION, campaign::proxy::Proxy, eventually, within};
use prost::Message as _;
use shop_proto::shop::orders::v1::OrderPlaced;
use sqlx::PgPool;
use tokio::time::{Instant, timeout};

use crate::{
    outbox::{
        Business, STREAM, assert_all_once_and_in_order, assert_once_and_in_order, changes, eventually_empty, messages,
        outbox, relay_process_on, sqlite, stored,
    },
    shop::{EVENT, orders},
};

const HOUR: Duration = Duration::from_secs(3600);
/// A lease, and what it takes to notice that it is over, on a busy machine.
const TAKE_OVER: Duration = Duration::from_secs(60);

fn event(bus: &Bus, id: &str) -> Sealed {
    let payload = OrderPlaced { customer_id: id.into(), item_count: 1, ..OrderPlaced::default() }.encode_to_vec();
    let cause = Cause { id: Some(id.to_owned()), ..Cause::default() };
    bus.gate().seal_event(("orders", EVENT), "", cause, Bytes::from(payload)).unwrap()
}

fn lasting() -> Term {
    let term = Term::default();
    term.extend_to(Instant::now() + HOUR);
    term
}

fn is_not_sent<T>(outcome: &Result<T, PublishError>) -> bool {
    matches!(outcome, Err(PublishError::NotSent(_)))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_not_leave_any_more_is_not_sent_and_costs_no_other_its_batch() {
    let broker = TestBroker::start(&[orders()]).await.unwrap();
    let mesh = broker.connect("orders").await.unwrap();
    let (bus, leads, latest) = (mesh.bus(), lasting(), Instant::now() + HOUR);
    let publishes = (0..300).map(|number| {
        let term = if number % 3 == 0 { Term::default() } else { leads.clone() };
        bus.publish(STREAM, event(bus, &number.to_string()).leaving(Leave { term, latest }))
    });
    for (number, outcome) in join_all(publishes).await.into_iter().enumerate() {
        assert_eq!(is_not_sent(&outcome), number % 3 == 0, "{number}: {outcome:?}");
        assert_eq!(outcome.is_ok(), number % 3 != 0, "{number}: {outcome:?}");
    }
    let late = Leave { term: leads, latest: Instant::now() };
    let alone = bus.publish(STREAM, event(bus, "alone").leaving(late)).await;
    assert!(is_not_sent(&alone), "{alone:?}");
    let operator = broker.connect("operator").await.unwrap();
    let there = crate::commit::stored(operator.bus(), STREAM).await;
    assert_eq!(there.len(), 200);
    assert!(there.values().filter(|(_, in_batch)| *in_batch).count() > 100, "most went as a batch");
}

async fn until_link(mesh: &Mesh, is_connected: bool) {
    let link = || async { (mesh.bus().link_state().is_connected == is_connected).then_some(()) };
    eventually("the link", link).await;
}

/// What was handed to the client before has reached the broker.
async fn until_said(mesh: &Mesh) {
    eventually("an answer", || async { mesh.bus().round_trip(Duration::from_secs(5)).await.ok() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_leave_only_for_so_long_does_not_wait_for_the_next_connection() {
    let mut broker = TestBroker::start(&[orders()]).await.unwrap();
    let mesh = broker.connect("orders").await.unwrap();
    broker.server.kill9().await.unwrap();
    until_link(&mesh, false).await;
    let (bus, latest) = (mesh.bus(), Instant::now() + HOUR);
    let publishes = (0..100)
        .map(|number| bus.publish(STREAM, event(bus, &number.to_string()).leaving(Leave { term: lasting(), latest })));
    let outcomes = join_all(publishes).await;
    assert!(outcomes.iter().all(is_not_sent), "{outcomes:?}");
    broker.server.restart().await.unwrap();
    until_link(&mesh, true).await;
    until_said(&mesh).await;
    assert_eq!(messages(&broker).await, 0);
    bus.publish(STREAM, event(bus, "1").leaving(Leave { term: lasting(), latest })).await.unwrap();
}

/// The stream forgets ids as soon as it can be told to.
async fn forget_soon(broker: &TestBroker) {
    let seed = broker.seed("operator").unwrap().to_owned();
    let options = async_nats::ConnectOptions::with_nkey(seed).custom_inbox_prefix("_INBOX.operator");
    let context = async_nats::jetstream::new(options.connect(broker.server.client_url()).await.unwrap());
    let mut config = context.get_stream(STREAM).await.unwrap().cached_info().config.clone();
    config.duplicate_window = Duration::from_millis(100);
    context.update_stream(config).await.unwrap();
}

/// Until what was published before is forgotten. Leaves events of the customer `probe`.
async fn until_forgotten(bus: &Bus) {
    bus.publish(STREAM, event(bus, "probe")).await.unwrap();
    eventually("a forgotten id", || async {
        (!bus.publish(STREAM, event(bus, "probe")).await.unwrap().duplicate).then_some(())
    })
    .await;
}

async fn soon_empty<D: Database>(outbox: &Outbox<D>) {
    let is_empty = || async { (outbox.state().await.ok()?.waiting == 0).then_some(()) };
    within(TAKE_OVER, "an empty outbox", is_empty).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_is_cut_off_from_the_broker_hands_over_and_sends_nothing_old_when_it_is_back() {
    let broker = TestBroker::start(&[orders()]).await.unwrap();
    forget_soon(&broker).await;
    let folder = tempfile::tempdir().unwrap();
    let pool = sqlite(&folder.path().join("db")).await;
    let proxy = Proxy::start(([127, 0, 0, 1], broker.server.port()).into()).await.unwrap();
    let far = Mesh::builder("orders").region(REGION).url(&proxy.url()).credential(broker.credential("orders"));
    let (far, near) = (far.connect().await.unwrap(), broker.connect("orders").await.unwrap());
    let (far_outbox, near_outbox) = (outbox(&far, &pool).await, outbox(&near, &pool).await);
    far.relay(&far_outbox).start();
    changes(&far_outbox, &pool, 20, 5).await;
    eventually_empty(&far_outbox).await;
    near.relay(&near_outbox).start();
    proxy.refuse(true);
    proxy.cut();
    until_link(&far, false).await;
    changes(&far_outbox, &pool, 200, 5).await;
    soon_empty(&near_outbox).await;
    until_forgotten(near.bus()).await;
    proxy.refuse(false);
    until_link(&far, true).await;
    until_said(&far).await;
    let mut found: BTreeMap<String, Vec<u32>> = stored(&broker).await;
    found.remove("probe");
    assert_all_once_and_in_order(found, &pool).await;
}

/// Whoever records what is about to be sent sleeps so long in the middle of its transaction.
async fn slow_records(pool: &PgPool, function: &'static str) {
    sqlx::Postgres::run(pool, function).await;
    let trigger = "CREATE TRIGGER slow BEFORE INSERT ON mesh_outbox_turn FOR EACH ROW EXECUTE FUNCTION slow()";
    sqlx::Postgres::run(pool, trigger).await;
}

async fn until_somebody_sleeps(pool: &PgPool) {
    let sleeps = || async {
        let sql = "SELECT COUNT(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
        let count: i64 = sqlx::query_scalar(sql).fetch_one(pool).await.unwrap();
        (count > 0).then_some(())
    };
    eventually("a relay in the middle of its transaction", sleeps).await;
}

async fn signal(process: &tokio::process::Child, name: &str) {
    let mut kill = tokio::process::Command::new("kill");
    assert!(kill.arg(name).arg(process.id().unwrap().to_string()).status().await.unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_vanishes_inside_its_transaction_keeps_the_others_no_longer_than_a_lease() {
    let Some(postgres) = TestPostgres::start().await.unwrap() else { return };
    let broker = TestBroker::start(&[orders()]).await.unwrap();
    let (pool, folder) = (postgres.pool().await.unwrap(), tempfile::tempdir().unwrap());
    let mesh = broker.connect("orders").await.unwrap();
    let outbox = outbox(&mesh, &pool).await;
    let slow = "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN PERFORM pg_sleep(1); RETURN NEW; END $$";
    slow_records(&pool, slow).await;
    changes(&outbox, &pool, 20, 5).await;
    let vanished = relay_process_on(&broker, folder.path(), postgres.url().as_ref());
    until_somebody_sleeps(&pool).await;
    // To the database it is as a host that is gone: its connection stands, and nothing comes.
    signal(&vanished, "-STOP").await;
    mesh.relay(&outbox).start();
    soon_empty(&outbox).await;
    signal(&vanished, "-CONT").await;
    changes(&outbox, &pool, 20, 5).await;
    soon_empty(&outbox).await;
    assert_once_and_in_order(&broker, &pool).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_hangs_holds_up_neither_a_drain_nor_the_next_relay() {
    let Some(postgres) = TestPostgres::start().await.unwrap() else { return };
    let broker = TestBroker::start(&[orders()]).await.unwrap();
    let pool = postgres.pool().await.unwrap();
    let (mesh, next) = (broker.connect("orders").await.unwrap(), broker.connect("orders").await.unwrap());
    let (hanging, outbox) = (outbox(&mesh, &pool).await, outbox(&next, &pool).await);
    let slow = "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN PERFORM pg_sleep(3600); RETURN NEW; END $$";
    slow_records(&pool, slow).await;
    changes(&hanging, &pool, 20, 5).await;
    mesh.relay(&hanging).start();
    until_somebody_sleeps(&pool).await;
    timeout(Duration::from_secs(15), mesh.drain()).await.expect("a drain does not wait for a database that hangs");
    // The database itself ends what was given up, and with it its locks.
    let mend = async { sqlx::Postgres::run(&pool, "DROP TRIGGER slow ON mesh_outbox_turn").await };
    timeout(TAKE_OVER, mend).await.expect("no lock stays");
    next.relay(&outbox).start();
    soon_empty(&outbox).await;
    assert_once_and_in_order(&broker, &pool).await;
}
