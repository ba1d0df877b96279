//! Clients that are not ours: what they see, no code of the library counted or hid.

use std::time::Duration;

use async_nats::{Client, Message, Subscriber};
use futures_util::StreamExt as _;

use crate::TestBroker;

/// Connects as a service, or as an operator.
///
/// # Panics
/// There is no such user, or the broker refuses it.
#[expect(clippy::unwrap_used, reason = "a test whose client does not connect has failed")]
pub async fn client(broker: &TestBroker, service: &str) -> Client {
    async_nats::ConnectOptions::with_nkey(broker.seed(service).unwrap().to_owned())
        .custom_inbox_prefix(format!("_INBOX.{service}"))
        .connect(broker.server.client_url())
        .await
        .unwrap()
}

/// A worker that pulls, and settles nothing by itself.
pub struct Worker {
    /// Its connection.
    pub client: Client,
    next: String,
}

impl Worker {
    /// A worker of a service at the consumer `durable` of `stream`.
    ///
    /// # Panics
    /// As of [`client`].
    pub async fn new(broker: &TestBroker, service: &str, (stream, durable): (&str, &str)) -> Worker {
        let next = format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{durable}");
        Worker { client: client(broker, service).await, next }
    }

    /// The next message.
    ///
    /// # Panics
    /// There is none within ten seconds.
    #[expect(clippy::unwrap_used, reason = "a test that waits in vain has failed")]
    pub async fn pull(&self) -> Message {
        let mut messages = self.ask(1, 10).await;
        let message = tokio::time::timeout(Duration::from_secs(15), messages.next()).await.unwrap().unwrap();
        assert!(message.status.is_none(), "{message:?}");
        message
    }

    /// Asks for `count` more, for so many seconds: then, or when they were sent, the broker says a status.
    ///
    /// # Panics
    /// The connection is lost.
    #[expect(clippy::unwrap_used, reason = "a test without its broker has failed")]
    pub async fn ask(&self, count: usize, seconds: u64) -> Subscriber {
        let inbox = self.client.new_inbox();
        let subscriber = self.client.subscribe(inbox.clone()).await.unwrap();
        let request = format!(r#"{{"batch":{count},"expires":{}}}"#, seconds * 1_000_000_000);
        self.client.publish_with_reply(self.next.clone(), inbox, request.into()).await.unwrap();
        self.client.flush().await.unwrap();
        subscriber
    }
}
