//! The broker: the only module that names async-nats.
//!
//! What holds here:
//! - Only what the gate sealed is sent; only what the gate must open is handed out.
//! - Every wait has an end of its own. While the link is away the client keeps what is sent, and when it has kept enough it
//!   makes senders wait without end: so sending ends too ([`within`]).
//! - A publish that the broker denies is known as denied (the broker says so apart from the publish; see [`link`]).
//! - An acknowledgement that did not come is *unknown*, never *failed*: it is asked for again with the same message id.
//! - Nothing is answered before the broker stored it: see [`commit`].
//! - A message that may leave only for so long ([`Leave`](crate::gate::Leave)) is not handed over later: see [`leave`].

mod admin;
mod commit;
mod convert;
mod error;
mod follow;
mod leave;
mod link;
mod look;
mod message;
mod moment;
mod mux;
mod pages;
mod pull;
mod read;
mod shape;
mod subscribe;
mod survey;
mod under_way;

use std::{
    borrow::Cow,
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use tokio::sync::Semaphore;

use crate::{
    clock::{Clock, TaskScope},
    fault::Fault,
    gate::{Gate, Sealed, Unopened},
    identity::Identity,
};

pub(crate) use admin::Plan;
pub use admin::{ConsumerState, StreamLimits, StreamState};
pub use error::{PublishError, Stored};
pub use follow::{Follow, Followed};
pub use link::LinkState;
pub use look::Probed;
pub use moment::Moment;
pub use pages::{Following, Start};
pub use pull::{Ack, Pull, Pulled};
pub use read::Stop;
pub use shape::Change;
pub use subscribe::Subscription;
pub use survey::{ConsumerFacts, StreamFacts};
pub(crate) use under_way::UnderWay;

/// How to reach the broker and how long to wait for it.
#[derive(Debug, Clone)]
pub struct BusSettings {
    /// `nats://host:port`, several joined by commas.
    pub url: String,
    /// How long the first connection may take, all attempts together.
    pub connect_timeout: Duration,
    /// How long a publish is tried: no attempt begins later, and one may take 5 s. A batch that failed, 5 s at most, came before.
    pub publish_timeout: Duration,
    /// Whether waiting publishes are committed in groups: right for a broker that syncs always, slower for one that does not.
    pub group_commit: bool,
}

impl BusSettings {
    /// The defaults for a broker at `url`.
    #[must_use]
    pub fn new(url: impl Into<String>) -> BusSettings {
        BusSettings {
            url: url.into(),
            connect_timeout: Duration::from_secs(10),
            publish_timeout: Duration::from_secs(15),
            group_commit: true,
        }
    }
}

/// How long a message may wait to be taken by the client.
const SENDING: Duration = Duration::from_secs(5);
/// How long ending the connection may take, at each of two steps.
const CLOSING: Duration = Duration::from_secs(2);

/// Sends, or gives up: what was not taken by the client until then is never sent.
async fn within<T, E: std::fmt::Display>(
    limit: Duration,
    sending: impl Future<Output = Result<T, E>>,
) -> Result<T, PublishError> {
    match tokio::time::timeout(limit, sending).await {
        Ok(sent) => sent.map_err(|error| PublishError::NotSent(error.to_string())),
        Err(_) => Err(PublishError::NotSent("the connection is away, and too much waits for it already".into())),
    }
}

/// A connection to the broker. Cheap to clone.
#[derive(Clone)]
pub struct Bus(Arc<Inner>);

struct Inner {
    client: async_nats::Client,
    settings: BusSettings,
    gate: Gate,
    mux: mux::Mux,
    link: link::Link,
    committers: Mutex<HashMap<String, commit::Committer>>,
    /// A turn of each batch that has to be one.
    wholes: Semaphore,
    /// What keeps the connection useful: the mux and the committers. Not the work of the service.
    tasks: TaskScope,
}

impl Bus {
    /// Connects as `identity`.
    ///
    /// # Errors
    /// The broker can't be reached, refuses the credential, or is too old.
    pub async fn connect(settings: BusSettings, identity: Identity, clock: Clock) -> Result<Bus, Fault> {
        let link = link::Link::default();
        let client = link::connect(&settings, &identity, &link).await?;
        let gate = Gate::new(identity, clock, client.max_payload());
        let tasks = TaskScope::new();
        let mux = mux::Mux::start(&client, gate.identity().service(), &link, &tasks).await?;
        let wholes = Semaphore::new(commit::MAX_WHOLES);
        Ok(Bus(Arc::new(Inner { client, settings, gate, mux, link, committers: Mutex::default(), wholes, tasks })))
    }

    /// The gate that seals what this connection sends.
    #[must_use]
    pub fn gate(&self) -> &Gate {
        &self.0.gate
    }

    /// Whether the broker is reached now, and how often it was reached anew.
    #[must_use]
    pub fn link_state(&self) -> LinkState {
        self.0.link.state()
    }

    /// Stores a message in `stream` and waits until the broker has it.
    ///
    /// It is tried again, with the same id, while the broker elects a leader, while the connection comes back, and when no
    /// answer came; [`PublishError::is_unknown`] says when it may have been stored all the same.
    ///
    /// # Errors
    /// See [`PublishError`].
    pub async fn publish(&self, stream: &str, sealed: Sealed) -> Result<Stored, PublishError> {
        self.committer(stream).publish(self, sealed).await
    }

    /// Stores messages of one stream as one, side by side: all of them or none. The sequence of the last. Only the first may expect
    /// something of its subject; none may have an id. It is tried again as [`publish`](Bus::publish) does it.
    ///
    /// # Errors
    /// See [`PublishError`]. What [`check_whole`](Bus::check_whole) refuses the broker refuses too.
    pub async fn publish_whole(&self, messages: &[Sealed]) -> Result<u64, PublishError> {
        commit::publish_whole(self, messages).await
    }

    /// Whether messages can be stored as one.
    ///
    /// # Errors
    /// They are too many, or too large; why.
    pub fn check_whole(&self, messages: &[Sealed]) -> Result<(), String> {
        commit::check_whole(self, messages)
    }

    fn committer(&self, stream: &str) -> commit::Committer {
        let mut committers = self.0.committers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(committer) = committers.get(stream) {
            return committer.clone();
        }
        let committer = commit::Committer::start(self, stream);
        committers.insert(stream.to_owned(), committer.clone());
        committer
    }

    /// Sends a message and waits for its one answer.
    ///
    /// # Errors
    /// Nobody listens, the broker denied it, or no answer came within `timeout`.
    pub async fn request(&self, sealed: Sealed, timeout: Duration) -> Result<Unopened, PublishError> {
        let (subject, headers, payload) = sealed.into_parts();
        let asked = self.0.mux.register(&subject);
        let sending = self.send(subject, Some(asked.inbox()), headers, payload);
        within(timeout, sending).await?;
        let raw = asked.answer(timeout).await?;
        if raw.status == Some(503) {
            return Err(PublishError::NobodyListens);
        }
        Ok(Unopened::new(raw.into_raw()))
    }

    /// Sends a message without waiting for anything: for answers.
    ///
    /// # Errors
    /// The connection is closed.
    pub async fn send_only(&self, sealed: Sealed) -> Result<(), PublishError> {
        let (subject, headers, payload) = sealed.into_parts();
        self.send(subject, None, headers, payload).await
    }

    /// Sends a message and keeps it.
    async fn send_sealed(&self, sealed: &Sealed, reply: Option<String>) -> Result<(), PublishError> {
        self.send_prepared(sealed, reply, convert::Prepared::of(sealed)).await
    }

    /// The same of a message whose headers were put into the client's own form before, perhaps with some of the broker's own.
    async fn send_prepared(
        &self,
        sealed: &Sealed,
        reply: Option<String>,
        prepared: convert::Prepared,
    ) -> Result<(), PublishError> {
        let headers = prepared.into_headers();
        if sealed.has_leave() {
            // Few have one: what they need lies in a box, so that the others' futures stay as small as they were.
            return Box::pin(self.send_in_time(sealed, reply, headers)).await;
        }
        self.send_parts(sealed.subject().to_owned(), reply, headers, sealed.payload().clone()).await
    }

    async fn send(
        &self,
        subject: String,
        reply: Option<String>,
        headers: Vec<(Cow<'static, str>, String)>,
        payload: Bytes,
    ) -> Result<(), PublishError> {
        self.send_parts(subject, reply, convert::headers(&headers), payload).await
    }

    async fn send_parts(
        &self,
        subject: String,
        reply: Option<String>,
        headers: Option<async_nats::HeaderMap>,
        payload: Bytes,
    ) -> Result<(), PublishError> {
        let client = &self.0.client;
        let sending = async {
            match (reply, headers) {
                (Some(reply), Some(headers)) => {
                    client.publish_with_reply_and_headers(subject, reply, headers, payload).await
                }
                (Some(reply), None) => client.publish_with_reply(subject, reply, payload).await,
                (None, Some(headers)) => client.publish_with_headers(subject, headers, payload).await,
                (None, None) => client.publish(subject, payload).await,
            }
        };
        within(SENDING, sending).await
    }

    /// A round trip to the broker: everything that was sent before has reached it.
    ///
    /// # Errors
    /// No answer within `timeout`.
    pub async fn round_trip(&self, timeout: Duration) -> Result<(), PublishError> {
        let asked = self.0.mux.register("(round trip)");
        let inbox = asked.inbox();
        within(timeout, self.send(inbox, None, Vec::new(), Bytes::new())).await?;
        asked.answer(timeout).await.map(drop)
    }

    /// Ends the connection after a last round trip: what was sent has reached the broker. Who still waits for an acknowledgement
    /// hears that it is unknown.
    pub async fn close(&self) {
        // Best effort: a broker that is away can't be told good-bye.
        let _ = self.round_trip(CLOSING).await;
        self.0.tasks.stop();
        let _ = within(CLOSING, self.0.client.drain()).await;
    }
}

impl std::fmt::Debug for Bus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bus").field("identity", self.0.gate.identity()).finish_non_exhaustive()
    }
}
