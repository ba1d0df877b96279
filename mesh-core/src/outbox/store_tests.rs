//! What a relay writes, and what it may not write any more.

#![cfg(feature = "outbox-sqlite")]

use sqlx::{Sqlite, SqlitePool, sqlite::SqliteConnectOptions};

use super::{Lent, Store as _, Write};
use crate::outbox::sent::Turn;

const LEASE_MS: i64 = 60_000;

async fn pool(folder: &tempfile::TempDir) -> SqlitePool {
    let options = SqliteConnectOptions::new().filename(folder.path().join("db")).create_if_missing(true);
    let pool = SqlitePool::connect_with(options).await.unwrap();
    Sqlite::migrate(&pool).await.unwrap();
    pool
}

fn write_of(owner: &str) -> Write {
    Write { owner: owner.into(), lease_ms: LEASE_MS, ..Write::default() }
}

fn turn(id: i64) -> Turn {
    Turn { id, at_ms: id, sequences: vec![id] }
}

#[tokio::test]
async fn only_the_relay_changes_the_records_of_what_is_about_to_be_sent() {
    let folder = tempfile::tempdir().unwrap();
    let pool = pool(&folder).await;
    assert!(Sqlite::claim(&pool, "a", LEASE_MS).await.unwrap());
    assert!(!Sqlite::claim(&pool, "b", LEASE_MS).await.unwrap(), "somebody relays");
    let began = Write { turn: Some(turn(1)), ..write_of("a") };
    assert!(Sqlite::write(&pool, &began).await.unwrap());
    let stranger = Write { turn: Some(turn(2)), over: vec![1], ..write_of("b") };
    assert!(!Sqlite::write(&pool, &stranger).await.unwrap());
    assert_eq!(Sqlite::turns(&pool).await.unwrap(), [turn(1)], "as the relay wrote it");
    let over = Write { over: vec![1], ..write_of("a") };
    assert!(Sqlite::write(&pool, &over).await.unwrap());
    assert_eq!(Sqlite::turns(&pool).await.unwrap(), []);
    Sqlite::release(&pool, "a").await.unwrap();
    assert!(Sqlite::claim(&pool, "b", LEASE_MS).await.unwrap());
}

/// A step that was given up in the middle of its transaction leaves neither a lock nor a connection behind.
#[tokio::test]
async fn a_connection_on_which_a_step_was_given_up_is_closed() {
    let folder = tempfile::tempdir().unwrap();
    let pool = pool(&folder).await;
    let mut lent = Lent::of(&pool).await.unwrap();
    sqlx::query("BEGIN IMMEDIATE").execute(&mut *lent.connection).await.unwrap();
    drop(lent);
    assert!(Sqlite::claim(&pool, "a", LEASE_MS).await.unwrap());
    let lent = Lent::of(&pool).await.unwrap();
    let before = pool.size();
    lent.back(Ok(())).unwrap();
    assert_eq!(pool.size(), before, "one that ended goes back");
}
