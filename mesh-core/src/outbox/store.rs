//! The tables behind an outbox: one set of statements for each kind of database, one code that uses them.
//!
//! Lists travel into statements as JSON text, which both databases can read, so the code below is the same for both.

use super::{
    OutboxState,
    sent::Turn,
    window::{Ask, Row},
};

/// A row to be written in the caller's transaction.
#[derive(Debug)]
pub struct NewRow {
    pub(super) place: String,
    pub(super) key: String,
    pub(super) id: String,
    pub(super) deadline_ms: Option<i64>,
    pub(super) traceparent: String,
    pub(super) written_ms: i64,
    pub(super) payload: Vec<u8>,
}

/// A row that is refused.
#[derive(Debug, Clone)]
pub(super) struct Refusal {
    pub(super) sequence: i64,
    pub(super) reason: String,
    pub(super) at_ms: i64,
    pub(super) again_ms: i64,
}

/// What is written in one transaction of the relay.
#[derive(Debug, Default)]
pub struct Write {
    pub(super) owner: String,
    pub(super) lease_ms: i64,
    pub(super) confirmed: Vec<i64>,
    pub(super) refusals: Vec<Refusal>,
    pub(super) over: Vec<i64>,
    pub(super) turn: Option<Turn>,
}

impl Write {
    /// Whether it says nothing but that this is still the relay.
    pub(super) fn is_empty(&self) -> bool {
        self.confirmed.is_empty() && self.refusals.is_empty() && self.over.is_empty() && self.turn.is_none()
    }
}

/// The statements of one kind of database.
pub(super) struct Statements {
    pub(super) begin: &'static str,
    /// Begins a transaction that the database itself ends when it takes or stands idle longer than so many milliseconds: a
    /// client whose host vanished can't, and its locks would keep every other relay waiting.
    pub(super) begin_within: fn(i64) -> String,
    pub(super) migrate: &'static [&'static str],
    pub(super) insert: &'static str,
    pub(super) claim: &'static str,
    pub(super) release: &'static str,
    pub(super) renew: &'static str,
    pub(super) read: &'static str,
    pub(super) turns: &'static str,
    pub(super) existing: &'static str,
    pub(super) delete: [&'static str; 2],
    pub(super) refuse: &'static str,
    pub(super) delete_turns: &'static str,
    pub(super) add_turn: &'static str,
    pub(super) refused: &'static str,
    pub(super) state: &'static str,
}

/// A connection of the pool for one step of the relay. It goes back when the step has ended; when the step is given up in the
/// middle it is closed: it would keep its place in the pool until the database answers, if ever.
pub(super) struct Lent<D: sqlx::Database> {
    pub(super) connection: sqlx::pool::PoolConnection<D>,
    has_ended: bool,
}

impl<D: sqlx::Database> Lent<D> {
    pub(super) async fn of(pool: &sqlx::Pool<D>) -> Result<Lent<D>, sqlx::Error> {
        Ok(Lent { connection: pool.acquire().await?, has_ended: false })
    }

    /// The step ended, in whatever way.
    pub(super) fn back<T>(mut self, ended: Result<T, sqlx::Error>) -> Result<T, sqlx::Error> {
        self.has_ended = true;
        ended
    }
}

impl<D: sqlx::Database> Drop for Lent<D> {
    fn drop(&mut self) {
        if !self.has_ended {
            self.connection.close_on_drop();
        }
    }
}

/// What the relay and the writers ask of a database. Sealed: the databases are those of this module.
pub trait Store: sqlx::Database {
    /// Makes the tables.
    fn migrate(pool: &sqlx::Pool<Self>) -> impl Future<Output = Result<(), sqlx::Error>> + Send;
    /// Writes one row.
    fn insert(
        connection: &mut <Self as sqlx::Database>::Connection,
        row: NewRow,
    ) -> impl Future<Output = Result<(), sqlx::Error>> + Send;
    /// Becomes the relay, if no other is.
    fn claim(
        pool: &sqlx::Pool<Self>,
        owner: &str,
        lease_ms: i64,
    ) -> impl Future<Output = Result<bool, sqlx::Error>> + Send;
    /// Is the relay no more.
    fn release(pool: &sqlx::Pool<Self>, owner: &str) -> impl Future<Output = Result<(), sqlx::Error>> + Send;
    /// Rows in sequence; with `only`, the first of that place.
    fn read(
        pool: &sqlx::Pool<Self>,
        ask: &Ask,
        only: Option<&str>,
        now_ms: i64,
    ) -> impl Future<Output = Result<Vec<Row>, sqlx::Error>> + Send;
    /// The records of what was about to be sent.
    fn turns(pool: &sqlx::Pool<Self>) -> impl Future<Output = Result<Vec<Turn>, sqlx::Error>> + Send;
    /// Which of these rows are there.
    fn existing(
        pool: &sqlx::Pool<Self>,
        sequences: &[i64],
    ) -> impl Future<Output = Result<Vec<i64>, sqlx::Error>> + Send;
    /// Writes down what became of rows, and, if this is still the relay (then it says true), the turn.
    fn write(pool: &sqlx::Pool<Self>, write: &Write) -> impl Future<Output = Result<bool, sqlx::Error>> + Send;
    /// How many rows are refused.
    fn refused(pool: &sqlx::Pool<Self>) -> impl Future<Output = Result<i64, sqlx::Error>> + Send;
    /// Counts.
    fn state(pool: &sqlx::Pool<Self>) -> impl Future<Output = Result<OutboxState, sqlx::Error>> + Send;
}

/// A list as JSON text.
pub(super) fn json<T: serde::Serialize>(list: &T) -> String {
    // Numbers and strings always have a JSON form.
    serde_json::to_string(list).unwrap_or_else(|_| "[]".to_owned())
}

/// Gives one kind of database its [`Store`]. A macro because sqlx's types of rows, arguments and connections belong to
/// one database each; generic code over them says more about sqlx than about the outbox.
macro_rules! store {
    ($database:ty, $sql:expr) => {
        impl $crate::outbox::store::Store for $database {
            async fn migrate(pool: &sqlx::Pool<Self>) -> Result<(), sqlx::Error> {
                let mut tx = pool.begin_with($sql.begin).await?;
                for statement in $sql.migrate {
                    sqlx::query(statement).execute(&mut *tx).await?;
                }
                tx.commit().await
            }

            async fn insert(
                connection: &mut <Self as sqlx::Database>::Connection,
                row: $crate::outbox::store::NewRow,
            ) -> Result<(), sqlx::Error> {
                let insert = sqlx::query($sql.insert).bind(row.place).bind(row.key).bind(row.id).bind(row.deadline_ms);
                let insert = insert.bind(row.traceparent).bind(row.written_ms).bind(row.payload);
                insert.execute(connection).await.map(drop)
            }

            async fn claim(pool: &sqlx::Pool<Self>, owner: &str, lease_ms: i64) -> Result<bool, sqlx::Error> {
                use sqlx::Connection as _;

                let mut lent = $crate::outbox::store::Lent::of(pool).await?;
                let claim = async {
                    let mut tx = lent.connection.begin_with(($sql.begin_within)(lease_ms)).await?;
                    let claimed = sqlx::query($sql.claim).bind(owner).bind(lease_ms).execute(&mut *tx).await?;
                    tx.commit().await?;
                    Ok(claimed.rows_affected() == 1)
                };
                let ended = claim.await;
                lent.back(ended)
            }

            async fn release(pool: &sqlx::Pool<Self>, owner: &str) -> Result<(), sqlx::Error> {
                let mut lent = $crate::outbox::store::Lent::of(pool).await?;
                let ended = sqlx::query($sql.release).bind(owner).execute(&mut *lent.connection).await;
                lent.back(ended.map(drop))
            }

            async fn read(
                pool: &sqlx::Pool<Self>,
                ask: &$crate::outbox::window::Ask,
                only: Option<&str>,
                now_ms: i64,
            ) -> Result<Vec<$crate::outbox::window::Row>, sqlx::Error> {
                use futures_util::TryStreamExt as _;
                use sqlx::Row as _;
                use $crate::outbox::{
                    store::{Lent, json},
                    window::Row,
                };

                let limit = if only.is_some() { 1 } else { i64::try_from(ask.limit).unwrap_or(i64::MAX) };
                let read =
                    sqlx::query($sql.read).bind(json(&ask.known)).bind(only.unwrap_or("")).bind(json(&ask.places));
                let read = read.bind(now_ms).bind(json(&ask.lines)).bind(limit);
                let mut lent = Lent::of(pool).await?;
                let rows = async {
                    let mut found = read.fetch(&mut *lent.connection);
                    let (mut rows, mut bytes) = (Vec::new(), 0);
                    while let Some(row) = found.try_next().await? {
                        let row = Row {
                            sequence: row.try_get(0)?,
                            place: row.try_get(1)?,
                            key: row.try_get(2)?,
                            id: row.try_get(3)?,
                            deadline_ms: row.try_get(4)?,
                            traceparent: row.try_get(5)?,
                            payload: row.try_get(6)?,
                        };
                        bytes += row.size();
                        rows.push(row);
                        if bytes > ask.bytes {
                            break;
                        }
                    }
                    Ok(rows)
                };
                let ended = rows.await;
                lent.back(ended)
            }

            async fn turns(pool: &sqlx::Pool<Self>) -> Result<Vec<$crate::outbox::sent::Turn>, sqlx::Error> {
                let mut lent = $crate::outbox::store::Lent::of(pool).await?;
                let ended = sqlx::query_as($sql.turns).fetch_all(&mut *lent.connection).await;
                let found: Vec<(i64, i64, String)> = lent.back(ended)?;
                let turn = |(id, at_ms, list): (i64, i64, String)| $crate::outbox::sent::Turn {
                    id,
                    at_ms,
                    sequences: serde_json::from_str(&list).unwrap_or_default(),
                };
                Ok(found.into_iter().map(turn).collect())
            }

            async fn existing(pool: &sqlx::Pool<Self>, sequences: &[i64]) -> Result<Vec<i64>, sqlx::Error> {
                let list = $crate::outbox::store::json(&sequences);
                let mut lent = $crate::outbox::store::Lent::of(pool).await?;
                let ended = sqlx::query_scalar($sql.existing).bind(list).fetch_all(&mut *lent.connection).await;
                lent.back(ended)
            }

            async fn write(pool: &sqlx::Pool<Self>, write: &$crate::outbox::store::Write) -> Result<bool, sqlx::Error> {
                use sqlx::Connection as _;
                use $crate::outbox::store::{Lent, json};

                let mut lent = Lent::of(pool).await?;
                let written = async {
                    let mut tx = lent.connection.begin_with(($sql.begin_within)(write.lease_ms)).await?;
                    let renew = sqlx::query($sql.renew).bind(&write.owner).bind(write.lease_ms);
                    let is_relay = renew.execute(&mut *tx).await?.rows_affected() == 1;
                    // What became of rows is true whoever relays now.
                    if !write.confirmed.is_empty() {
                        let list = json(&write.confirmed);
                        for delete in $sql.delete {
                            sqlx::query(delete).bind(&list).execute(&mut *tx).await?;
                        }
                    }
                    for refusal in &write.refusals {
                        let refuse = sqlx::query($sql.refuse).bind(refusal.sequence).bind(&refusal.reason);
                        refuse.bind(refusal.at_ms).bind(refusal.again_ms).execute(&mut *tx).await?;
                    }
                    // The records are the relay's own: another one may send what they list, and its successor must know it.
                    if is_relay && !write.over.is_empty() {
                        sqlx::query($sql.delete_turns).bind(json(&write.over)).execute(&mut *tx).await?;
                    }
                    if let Some(turn) = write.turn.as_ref().filter(|_| is_relay) {
                        let add = sqlx::query($sql.add_turn).bind(turn.id).bind(turn.at_ms).bind(json(&turn.sequences));
                        add.execute(&mut *tx).await?;
                    }
                    tx.commit().await?;
                    Ok(is_relay)
                };
                let ended = written.await;
                lent.back(ended)
            }

            async fn refused(pool: &sqlx::Pool<Self>) -> Result<i64, sqlx::Error> {
                let mut lent = $crate::outbox::store::Lent::of(pool).await?;
                let ended = sqlx::query_scalar($sql.refused).fetch_one(&mut *lent.connection).await;
                lent.back(ended)
            }

            async fn state(pool: &sqlx::Pool<Self>) -> Result<$crate::outbox::OutboxState, sqlx::Error> {
                let found: (i64, i64, Option<i64>) = sqlx::query_as($sql.state).fetch_one(pool).await?;
                let (waiting, refused, oldest_ms) = found;
                Ok($crate::outbox::OutboxState { waiting, refused, oldest_ms })
            }
        }
    };
}

pub(super) use store;

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
