//! The broker's own numbers of its streams and consumers: what a ledger is made from.

use std::{collections::BTreeSet, ops::RangeInclusive, time::Duration};

use async_nats::jetstream::{
    self,
    consumer::{self, DeliverPolicy},
    context::GetStreamErrorKind,
    stream,
};
use futures_util::TryStreamExt as _;

use super::Bus;
use crate::{
    fault::{Code, Effect, Fault, Reason},
    gate::Unopened,
};

/// The broker lists gaps in one answer: more than so many are found by walking the stream instead.
const MAX_LISTED_GAPS: u64 = 1_000_000;

/// What the broker says of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamFacts {
    /// Its name.
    pub name: String,
    /// Messages in it.
    pub messages: u64,
    /// Bytes in it.
    pub bytes: u64,
    /// Bytes that it may hold. `None`: any number.
    pub max_bytes: Option<u64>,
    /// Messages that it may hold. `None`: any number.
    pub max_messages: Option<u64>,
    /// How long it keeps a message. `None`: until it is taken away.
    pub max_age: Option<Duration>,
    /// When it was made, Unix milliseconds.
    pub created_ms: i64,
    /// The sequence of the last message that was stored.
    pub last_sequence: u64,
    /// The sequences that it holds, in order.
    pub present: Vec<RangeInclusive<u64>>,
}

/// What the broker says of a consumer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsumerFacts {
    /// Its stream.
    pub stream: String,
    /// Its name at the broker.
    pub durable: String,
    /// When it was made, Unix milliseconds.
    pub created_ms: i64,
    /// What it reads.
    pub filters: BTreeSet<String>,
    /// The highest sequence of the stream that was delivered.
    pub delivered: u64,
    /// Up to this sequence of the stream all is acknowledged.
    pub ack_floor: u64,
    /// How often it delivered, redeliveries too.
    pub deliveries: u64,
    /// Not delivered yet.
    pub waiting: u64,
    /// Delivered and not acknowledged.
    pub in_flight: u64,
    /// Whether it is paused.
    pub paused: bool,
    /// Whether it gets all that was ever stored, not only what was stored after it was made.
    pub from_the_first: bool,
}

impl Bus {
    /// The streams whose names begin with `prefix`.
    ///
    /// # Errors
    /// The broker can't be reached, or this identity may not ask.
    pub async fn stream_names(&self, prefix: &str) -> Result<Vec<String>, Fault> {
        let names = jetstream::new(self.0.client.clone()).stream_names();
        let names = async {
            let names: Result<Vec<String>, _> = names.try_collect().await;
            names.map_err(|error| self.denied("NAMES").unwrap_or_else(|| unknown("the streams", &error)))
        };
        let mut names = self.unless_denied(&["$JS.API.STREAM.NAMES".to_owned()], names).await?;
        names.retain(|name| name.starts_with(prefix));
        names.sort();
        Ok(names)
    }

    /// What the broker says of a stream. `None`: there is no such stream.
    ///
    /// Its cost grows with the number of gaps, and where these are very many with the number of its messages.
    ///
    /// # Errors
    /// The broker can't be reached, or this identity may not ask.
    pub async fn stream_facts(&self, name: &str) -> Result<Option<StreamFacts>, Fault> {
        let Some(stream) = self.found_stream(name).await? else { return Ok(None) };
        let info = stream.cached_info();
        if info.state.deleted_count.unwrap_or(0) > MAX_LISTED_GAPS {
            let mut facts = facts(info, Vec::new());
            facts.present = walk(&stream, facts.last_sequence).await?;
            return Ok(Some(facts));
        }
        let listed = stream.info_builder().with_deleted(true).fetch().await;
        let listed = listed.map_err(|error| unknown(name, &error))?.info;
        let present = present(&listed.state);
        Ok(Some(facts(&listed, present)))
    }

    /// How many messages a stream holds on the subjects that match `filter`.
    ///
    /// # Errors
    /// The broker can't be reached, or this identity may not ask.
    pub async fn count_on(&self, name: &str, filter: &str) -> Result<u64, Fault> {
        let Some(stream) = self.found_stream(name).await? else { return Ok(0) };
        let counts = stream.info_with_subjects(filter).await.map_err(|error| unknown(name, &error))?;
        let sum = counts.try_fold(0, |sum, (_, count)| async move { Ok(sum + count as u64) }).await;
        sum.map_err(|error| unknown(name, &error))
    }

    /// What the broker says of the durable consumers of a stream.
    ///
    /// # Errors
    /// The broker can't be reached, or this identity may not ask.
    pub async fn consumers_of(&self, name: &str) -> Result<Vec<ConsumerFacts>, Fault> {
        let Some(stream) = self.found_stream(name).await? else { return Ok(Vec::new()) };
        let infos: Vec<consumer::Info> =
            stream.consumers().try_collect().await.map_err(|error| unknown(name, &error))?;
        Ok(infos.into_iter().filter(|info| info.config.durable_name.is_some()).map(consumer_facts).collect())
    }

    /// The messages of a stream at some sequences, in no order. `None` for one that is not there (any more).
    ///
    /// # Errors
    /// The broker can't be reached, or this identity may not read.
    pub async fn messages_at(
        &self,
        name: &str,
        sequences: impl Iterator<Item = u64>,
        mut each: impl FnMut(u64, Option<Unopened>),
    ) -> Result<(), Fault> {
        use futures_util::StreamExt as _;
        /// Questions that wait for their answers at a time.
        const AT_A_TIME: usize = 32;
        // There may be a million questions: one election must not end them.
        let read = |sequence| async move {
            let message = self.while_elected(name, || self.message_at(name, sequence)).await?;
            Ok::<_, Fault>((sequence, message))
        };
        let mut found = futures_util::stream::iter(sequences).map(read).buffer_unordered(AT_A_TIME);
        while let Some((sequence, message)) = found.try_next().await? {
            each(sequence, message);
        }
        Ok(())
    }

    async fn found_stream(&self, name: &str) -> Result<Option<stream::Stream>, Fault> {
        match jetstream::new(self.0.client.clone()).get_stream(name).await {
            Ok(stream) => Ok(Some(stream)),
            Err(error) => match error.kind() {
                GetStreamErrorKind::JetStream(inner) if inner.code() == 404 => Ok(None),
                _ => Err(unknown(name, &error)),
            },
        }
    }
}

fn facts(info: &stream::Info, present: Vec<RangeInclusive<u64>>) -> StreamFacts {
    let (config, state) = (&info.config, &info.state);
    StreamFacts {
        name: config.name.clone(),
        messages: state.messages,
        bytes: state.bytes,
        max_bytes: u64::try_from(config.max_bytes).ok().filter(|bytes| *bytes > 0),
        max_messages: u64::try_from(config.max_messages).ok().filter(|messages| *messages > 0),
        max_age: Some(config.max_age).filter(|age| !age.is_zero()),
        created_ms: unix_ms(info.created.unix_timestamp_nanos()),
        last_sequence: state.last_sequence,
        present,
    }
}

/// The ranges between the gaps.
fn present(state: &stream::State) -> Vec<RangeInclusive<u64>> {
    let (mut ranges, mut from) = (Vec::new(), state.first_sequence);
    let mut gaps = state.deleted.clone().unwrap_or_default();
    gaps.sort_unstable();
    for gap in gaps {
        if gap > from {
            ranges.push(from..=gap - 1);
        }
        from = from.max(gap + 1);
    }
    if state.messages > 0 && from <= state.last_sequence {
        ranges.push(from..=state.last_sequence);
    }
    ranges
}

/// The ranges that are there, found message by message.
async fn walk(stream: &stream::Stream, last: u64) -> Result<Vec<RangeInclusive<u64>>, Fault> {
    let (mut ranges, mut next): (Vec<RangeInclusive<u64>>, u64) = (Vec::new(), 1);
    while next <= last {
        let sequence = match stream.get_first_raw_message_by_subject(">", next).await {
            Ok(message) => message.sequence,
            Err(error) if error.kind() == stream::RawMessageErrorKind::NoMessageFound => break,
            Err(error) => return Err(unknown(&stream.cached_info().config.name, &error)),
        };
        match ranges.last_mut() {
            Some(range) if *range.end() + 1 == sequence => *range = *range.start()..=sequence,
            _ => ranges.push(sequence..=sequence),
        }
        next = sequence + 1;
    }
    Ok(ranges)
}

fn consumer_facts(info: consumer::Info) -> ConsumerFacts {
    let config = info.config;
    let filters = config.filter_subjects.into_iter().chain([config.filter_subject]).filter(|filter| !filter.is_empty());
    ConsumerFacts {
        stream: info.stream_name,
        durable: info.name,
        created_ms: unix_ms(info.created.unix_timestamp_nanos()),
        filters: filters.collect(),
        delivered: info.delivered.stream_sequence,
        ack_floor: info.ack_floor.stream_sequence,
        deliveries: info.delivered.consumer_sequence,
        waiting: info.num_pending,
        in_flight: u64::try_from(info.num_ack_pending).unwrap_or(0),
        paused: info.paused,
        from_the_first: config.deliver_policy == DeliverPolicy::All,
    }
}

fn unix_ms(nanos: i128) -> i64 {
    i64::try_from(nanos / 1_000_000).unwrap_or(0)
}

fn unknown(what: &str, error: &dyn std::error::Error) -> Fault {
    let message = format!("the bus does not say what it knows of {what}: {error}");
    Fault::new(Code::Unavailable, Effect::None, Reason::BusUnavailable, message)
}
