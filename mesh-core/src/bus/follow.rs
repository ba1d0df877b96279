//! Following a stream from a sequence on, in order, for as long as one likes: for the keeper.
//!
//! A stream that was removed and made again counts from 1 again, and no reader of it notices: it waits for the sequence after the
//! last one that it read. So it is looked at now and then which stream it is.

use std::time::Duration;

use async_nats::jetstream::{
    self,
    consumer::{DeliverPolicy, pull},
};
use futures_util::StreamExt as _;
use tokio::time::Instant;

use super::Bus;
use crate::{fault::Fault, gate::Unopened};

/// How long to wait before a stream that can't be read now is asked for again.
const AGAIN: Duration = Duration::from_millis(500);
/// How often it is looked at which stream it is.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// What a stream holds and will hold, in order, each message once.
pub struct Follow {
    bus: Bus,
    stream: String,
    /// When the stream was made that `next` counts in; 0: nothing was read yet.
    created_ms: i64,
    /// The sequence of the next message, at least.
    next: u64,
    messages: Option<pull::Ordered>,
    /// When it is looked at again which stream it is.
    look_at: Instant,
    /// Whether it was said that the stream can't be read.
    told: bool,
}

/// What comes next.
pub enum Followed {
    /// The next message.
    Message(Unopened),
    /// It is another stream than the one that was read so far, or than none: what comes now counts from its beginning.
    Another {
        /// When it was made, Unix milliseconds.
        created_ms: i64,
        /// The sequence of its last message when that was seen.
        last_sequence: u64,
    },
}

impl Bus {
    /// Follows `stream` from the message at `from` on, which counts in the stream that was made at `created_ms`. Where that is not
    /// the stream of today (or is 0), it is followed from its beginning. Nothing is asked for yet.
    #[must_use]
    pub fn follow(&self, stream: &str, created_ms: i64, from: u64) -> Follow {
        Follow {
            bus: self.clone(),
            stream: stream.to_owned(),
            created_ms,
            next: from,
            messages: None,
            look_at: Instant::now(),
            told: false,
        }
    }
}

impl Follow {
    /// Waits for what comes next, through lost connections and elections. Cancel-safe.
    pub async fn next(&mut self) -> Followed {
        loop {
            // Also while messages come: they may be those of another stream.
            if self.messages.is_some() && self.look_at <= Instant::now() {
                if let Some(another) = self.look().await {
                    return another;
                }
                continue;
            }
            let read = match &mut self.messages {
                Some(messages) => tokio::time::timeout_at(self.look_at, messages.next()).await,
                None => match self.open().await {
                    Some(another) => return another,
                    None => continue,
                },
            };
            match read {
                // It is time to look.
                Err(_) => {}
                Ok(Some(Ok(message))) => {
                    let raw = super::convert::Received::from(message.message).into_raw();
                    let sequence = raw.delivery.as_ref().map_or(0, |delivery| delivery.sequence);
                    // What was asked for anew may begin with what was read already.
                    if sequence < self.next {
                        continue;
                    }
                    (self.next, self.told) = (sequence + 1, false);
                    return Followed::Message(Unopened::new(raw));
                }
                Ok(Some(Err(why))) => self.again(&why.to_string()).await,
                Ok(None) => self.again("the reader ended").await,
            }
        }
    }

    /// Whether the stream is another one by now.
    async fn look(&mut self) -> Option<Followed> {
        match today(&self.bus, &self.stream).await {
            Ok(today) if today.0 != self.created_ms => return Some(self.begin(today)),
            Ok(_) => self.look_at = Instant::now() + LOOK_EVERY,
            // It is found again as soon as there is one.
            Err(fault) => self.again(fault.message()).await,
        }
        None
    }

    /// A reader of the stream that was looked at: before, and again after, or it may be one of the stream before it.
    async fn open(&mut self) -> Option<Followed> {
        let (bus, stream, created_ms, next) = (&self.bus, &self.stream, self.created_ms, self.next);
        let opened = async {
            let before = today(bus, stream).await?;
            if before.0 != created_ms {
                return Ok((before, None));
            }
            let messages = ask(bus, stream, next).await?;
            Ok((today(bus, stream).await?, Some(messages)))
        };
        match opened.await {
            Ok((today, Some(messages))) if today.0 == self.created_ms => {
                (self.messages, self.look_at) = (Some(messages), Instant::now() + LOOK_EVERY);
            }
            Ok((today, _)) => return Some(self.begin(today)),
            Err::<_, Fault>(fault) => self.again(fault.message()).await,
        }
        None
    }

    fn begin(&mut self, (created_ms, last_sequence): (i64, u64)) -> Followed {
        if self.created_ms != 0 {
            tracing::warn!(stream = self.stream, "the stream was made anew: it is read from its beginning");
        }
        (self.created_ms, self.next, self.messages) = (created_ms, 1, None);
        Followed::Another { created_ms, last_sequence }
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

/// When a stream was made, which tells it from one of the same name before it, and its last sequence.
async fn today(bus: &Bus, stream: &str) -> Result<(i64, u64), Fault> {
    let found = jetstream::new(bus.0.client.clone()).get_stream(stream).await;
    let found = found.map_err(|error| super::read::unreadable(stream, &error))?;
    let info = found.cached_info();
    let created_ms = i64::try_from(info.created.unix_timestamp_nanos() / 1_000_000).unwrap_or(0);
    Ok((created_ms, info.state.last_sequence))
}

impl std::fmt::Debug for Follow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Follow").field("stream", &self.stream).field("next", &self.next).finish_non_exhaustive()
    }
}
