//! Reading a stream in order and staying at its end: what was stored, and then what comes.
//!
//! Nothing is taken away and nothing is remembered at the broker: a reader that lost its place begins again after the last
//! sequence that it saw.

use std::time::Duration;

use async_nats::jetstream::{
    self,
    consumer::{AckPolicy, DeliverPolicy, pull},
};

use super::{Bus, Pull, Pulled};
use crate::{
    fault::{Code, Effect, Fault, Reason},
    gate::Unopened,
};

/// Where to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// At this sequence.
    At(u64),
    /// With the newest message of each subject, in the order of the stream; then whatever comes.
    NewestOfEach,
}

/// Messages that are asked for at once: at most, and about how many bytes of them.
const PAGE: usize = 512;
const PAGE_BYTES: usize = 8 * 1024 * 1024;
/// A reader that asks for nothing for so long loses its place: a job may go slowly, and a person may look at what comes.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(600);

/// A place in a stream.
pub struct Following {
    bus: Bus,
    stream: String,
    consumer: String,
    pull: Pull,
    stored: u64,
    /// Bytes of a message, about.
    typical: usize,
}

impl Bus {
    /// Begins to read what `stream` holds on subjects that match one of `filters`.
    ///
    /// # Errors
    /// There is no such stream, the broker can't be reached, or this identity may not read.
    pub async fn follow_from(&self, stream: &str, filters: Vec<String>, start: Start) -> Result<Following, Fault> {
        let deliver_policy = match start {
            Start::At(sequence) => DeliverPolicy::ByStartSequence { start_sequence: sequence.max(1) },
            Start::NewestOfEach => DeliverPolicy::LastPerSubject,
        };
        let config = pull::Config {
            filter_subjects: filters,
            ack_policy: AckPolicy::None,
            deliver_policy,
            inactive_threshold: FORGOTTEN_AFTER,
            memory_storage: true,
            num_replicas: 1,
            ..Default::default()
        };
        let context = jetstream::new(self.0.client.clone());
        let consumer = self
            .while_elected(stream, || async {
                let made = context.create_consumer_on_stream(config.clone(), stream).await;
                made.map_err(|error| lost(stream, &error.to_string()))
            })
            .await?;
        let info = consumer.cached_info();
        let pull = self.pull(stream, &info.name).await?;
        Ok(Following {
            bus: self.clone(),
            stream: stream.to_owned(),
            consumer: info.name.clone(),
            pull,
            stored: info.num_pending,
            typical: PAGE_BYTES / PAGE,
        })
    }
}

impl Following {
    /// How many messages were there when the reading began.
    #[must_use]
    pub fn stored(&self) -> u64 {
        self.stored
    }

    /// The next message, as soon as there is one. Cancel-safe.
    ///
    /// # Errors
    /// The place is lost: the connection or the broker went away. Begin again after the last sequence that was seen.
    pub async fn next(&mut self) -> Result<Unopened, Fault> {
        loop {
            let page = (PAGE_BYTES / self.typical.max(1)).clamp(1, PAGE);
            if self.pull.asked() <= page / 2 {
                let more = page - self.pull.asked();
                self.pull.ask(more).await.map_err(|error| lost(&self.stream, &error.to_string()))?;
            }
            match self.pull.next().await {
                Pulled::Delivery(message) => {
                    self.typical = (self.typical * 7 + message.size()) / 8;
                    return Ok(message);
                }
                Pulled::Idle => {}
                Pulled::Away(why) => return Err(lost(&self.stream, why)),
                Pulled::Gone => return Err(lost(&self.stream, "the reader was forgotten")),
            }
        }
    }

    /// Ends it at the broker too. One that is only dropped is forgotten after a while.
    pub async fn close(self) {
        let context = jetstream::new(self.bus.0.client.clone());
        // It would go by itself; an error here harms nothing.
        let _ = context.delete_consumer_from_stream(&self.consumer, &self.stream).await;
    }
}

fn lost(stream: &str, why: &str) -> Fault {
    let message = format!("the stream {stream:?} can't be followed now: {why}");
    Fault::new(Code::Unavailable, Effect::None, Reason::BusUnavailable, message)
}
