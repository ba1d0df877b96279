//! Publish what a database committed: the event is a row, written in the caller's own transaction, and a relay sends it.
//!
//! A service that changes its database and publishes can crash between the two. With an outbox there is no "between": the
//! row commits with the change or not at all, and it is deleted only after the broker confirmed the message. How to use
//! it, what is promised and what it costs: `docs/outbox.md`.
//!
//! [`window`] decides what may go next and [`sent`] what may have gone already (both pure); [`relay`] acts on them;
//! [`store`] and the statements beside it are the only code that knows SQL.

mod attempt;
mod limit;
mod place;
#[cfg(feature = "outbox-postgres")]
mod postgres;
mod relay;
mod sent;
#[cfg(feature = "outbox-sqlite")]
mod sqlite;
mod store;
mod window;
mod write;

use std::{sync::Arc, time::Duration};

pub use sqlx::{Pool, Transaction};
use tokio::sync::Notify;

use self::place::Place;
use crate::{
    bus::Bus,
    contract::{Event, Operation},
    fault::{Code, Effect, Fault, Reason},
    subject::Class,
};

pub(crate) use relay::Relay;
pub use write::Entry;

/// A kind of database that an outbox can lie in: SQLite or PostgreSQL, as the features of this crate say.
#[diagnostic::on_unimplemented(
    message = "an outbox can't lie in `{Self}`",
    note = "turn on the feature `outbox-sqlite` or `outbox-postgres` of mesh-core"
)]
pub trait Database: store::Store {}

#[cfg(feature = "outbox-postgres")]
impl Database for sqlx::Postgres {}

#[cfg(feature = "outbox-sqlite")]
impl Database for sqlx::Sqlite {}

/// The outbox of a service: tables in its own database. Cheap to clone.
pub struct Outbox<D: Database> {
    bus: Bus,
    pool: Pool<D>,
    bell: Arc<Notify>,
}

/// What an outbox holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutboxState {
    /// Rows that are not yet confirmed, those that are refused included.
    pub waiting: i64,
    /// Rows that are refused; each stops what follows it with the same key. Why stands in `mesh_outbox_refused`.
    pub refused: i64,
    /// When the oldest row was written, Unix milliseconds.
    pub oldest_ms: Option<i64>,
}

/// What becomes of a row that may have been stored before, when the broker no longer remembers its id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AfterWindow {
    /// It is sent again, with the same id, and counted. Consumers may see it twice.
    #[default]
    Repeat,
    /// It is refused, and stops its key until a person decides.
    Park,
}

/// The limits of a relay.
#[derive(Debug, Clone)]
pub struct RelaySettings {
    /// Rows under way at once, at least 2; of one message type or operation at most half of them.
    pub window: usize,
    /// How often to look for rows that nobody announced.
    pub poll: Duration,
    /// How long a relay that went silent keeps others from taking over. A step of the database, or an absence of the broker, that takes
    /// longer costs the relay its lead.
    pub lease: Duration,
    /// When a refused row is tried again.
    pub refused_again: Duration,
    /// How long the same id is surely recognised by the broker: its dedupe window, less what a publish and the clocks take. Nothing
    /// is handed to the connection later than that after it may first have been stored, or after this publish of it began.
    pub repeat_within: Duration,
    /// What becomes of rows that may have been stored longer ago than that.
    pub after_window: AfterWindow,
}

impl Default for RelaySettings {
    fn default() -> RelaySettings {
        RelaySettings {
            window: 1024,
            poll: Duration::from_millis(200),
            lease: Duration::from_secs(5),
            refused_again: Duration::from_secs(60),
            repeat_within: Duration::from_secs(100),
            after_window: AfterWindow::Repeat,
        }
    }
}

impl<D: Database> Outbox<D> {
    /// The outbox of the service that `bus` connects, in the database behind `pool`.
    #[must_use]
    pub fn new(bus: &Bus, pool: &Pool<D>) -> Outbox<D> {
        Outbox { bus: bus.clone(), pool: pool.clone(), bell: Arc::default() }
    }

    /// Makes the tables (`mesh_outbox` and three more) where they are not there yet.
    ///
    /// # Errors
    /// The database can't be reached or refuses.
    pub async fn migrate(&self) -> Result<(), Fault> {
        D::migrate(&self.pool).await.map_err(|error| failed("its tables were not made", &error))
    }

    /// Writes an event into the transaction: await it, or set its id and its cause first. It is published when the
    /// transaction has committed, or never.
    ///
    /// # Errors
    /// When awaited: not this service's event, too large, an id that does not fit; or the database refuses the row. Nothing
    /// was written then.
    pub fn publish<'a, 't, E: Event>(&'a self, transaction: &'a mut Transaction<'t, D>, event: &E) -> Entry<'a, 't, D> {
        let place = Place::Event { producer: E::PRODUCER.to_owned(), message: E::FULL_NAME.to_owned() };
        Entry::new(self, transaction, place, event.key().into_owned(), event.encode_to_vec())
    }

    /// Writes work for an operation into the transaction: it is queued when the transaction has committed, or never.
    ///
    /// # Errors
    /// When awaited: too large, an id that does not fit; or the database refuses the row. Nothing was written then.
    pub fn enqueue<'a, 't, O: Operation>(
        &'a self,
        transaction: &'a mut Transaction<'t, D>,
        request: &O::Request,
        class: Class,
    ) -> Entry<'a, 't, D> {
        use prost::Message as _;
        let place = Place::Work { service: O::SERVICE.to_owned(), method: O::METHOD.to_owned(), class };
        Entry::new(self, transaction, place, O::key(request).into_owned(), request.encode_to_vec())
    }

    /// Commits the transaction and tells the relay of this process at once. One that is committed otherwise is found at the
    /// next poll.
    ///
    /// # Errors
    /// The database did not say that it committed; it may have, when the connection ended.
    pub async fn commit(&self, transaction: Transaction<'_, D>) -> Result<(), Fault> {
        transaction.commit().await.map_err(|error| {
            let message = "the database did not confirm the commit; read back what it holds before doing it again";
            Fault::new(Code::Unavailable, Effect::Unknown, Reason::OutboxFailed, message).with_detail(error.to_string())
        })?;
        self.wake();
        Ok(())
    }

    /// Tells the relay of this process that something was committed.
    pub fn wake(&self) {
        self.bell.notify_one();
    }

    /// What it holds. It counts the rows, which takes time where there are millions.
    ///
    /// # Errors
    /// The database can't be reached or refuses.
    pub async fn state(&self) -> Result<OutboxState, Fault> {
        D::state(&self.pool).await.map_err(|error| failed("it was not counted", &error))
    }
}

fn failed(what: &str, error: &sqlx::Error) -> Fault {
    let message = format!("the outbox: {what}; is the database there, and was migrate() called?");
    Fault::new(Code::Unavailable, Effect::None, Reason::OutboxFailed, message).with_detail(error.to_string())
}

impl<D: Database> Clone for Outbox<D> {
    fn clone(&self) -> Outbox<D> {
        Outbox { bus: self.bus.clone(), pool: self.pool.clone(), bell: Arc::clone(&self.bell) }
    }
}

impl<D: Database> std::fmt::Debug for Outbox<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outbox").field("database", &D::NAME).finish_non_exhaustive()
    }
}
