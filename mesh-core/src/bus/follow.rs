//! Following a stream from a sequence on, in order, for as long as one likes: for the keeper.

use std::time::Duration;

use async_nats::jetstream::{
    self,
    consumer::{DeliverPolicy, pull},
};
use futures_util::StreamExt as _;

use super::Bus;
use crate::{fault::Fault, gate::Unopened};

/// How long to wait before a stream that can't be read now is asked for again.
const AGAIN: Duration = Duration::from_millis(500);

/// What a stream holds and will hold, in order, each message once.
pub struct Follow {
    bus: Bus,
    stream: String,
    /// The sequence of the next message, at least.
    next: u64,
    messages: Option<pull::Ordered>,
    /// Whether it was said that the stream can't be read.
    told: bool,
}

impl Bus {
    /// Follows `stream` from the message at `from` on. Nothing is asked for yet.
    #[must_use]
    pub fn follow(&self, stream: &str, from: u64) -> Follow {
        Follow { bus: self.clone(), stream: stream.to_owned(), next: from, messages: None, told: false }
    }
}

impl Follow {
    /// Waits for the next message, through lost connections and elections. Cancel-safe.
    pub async fn next(&mut self) -> Unopened {
        loop {
            let read = match &mut self.messages {
                Some(messages) => messages.next().await.map(|message| message.map_err(|error| error.to_string())),
                None => {
                    self.open().await;
                    continue;
                }
            };
            match read {
                Some(Ok(message)) => {
                    let raw = super::convert::Received::from(message.message).into_raw();
                    let sequence = raw.delivery.as_ref().map_or(0, |delivery| delivery.sequence);
                    // What was asked for anew may begin with what was read already.
                    if sequence < self.next {
                        continue;
                    }
                    (self.next, self.told) = (sequence + 1, false);
                    return Unopened::new(raw);
                }
                Some(Err(why)) => self.again(&why).await,
                None => self.again("the reader ended").await,
            }
        }
    }

    async fn open(&mut self) {
        match ask(&self.bus, &self.stream, self.next).await {
            Ok(messages) => self.messages = Some(messages),
            Err(fault) => self.again(fault.message()).await,
        }
    }

    async fn again(&mut self, why: &str) {
        self.messages = None;
        if !std::mem::replace(&mut self.told, true) {
            tracing::warn!(
                stream = self.stream,
                why,
                "the stream can't be read now; it is asked for again until it can"
            );
        }
        tokio::time::sleep(AGAIN).await;
    }
}

async fn ask(bus: &Bus, stream: &str, next: u64) -> Result<pull::Ordered, Fault> {
    let deliver_policy = match next {
        0 | 1 => DeliverPolicy::All,
        start_sequence => DeliverPolicy::ByStartSequence { start_sequence },
    };
    let config = pull::OrderedConfig { deliver_policy, ..Default::default() };
    let context = jetstream::new(bus.0.client.clone());
    let made = context.create_consumer_on_stream(config, stream).await;
    let made = made.map_err(|error| super::read::unreadable(stream, &error))?;
    made.messages().await.map_err(|error| super::read::unreadable(stream, &error))
}

impl std::fmt::Debug for Follow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Follow").field("stream", &self.stream).field("next", &self.next).finish_non_exhaustive()
    }
}
