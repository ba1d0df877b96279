//! Reads the account's sides: the broker's and the counter's own words, never a worker's.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use async_nats::jetstream::Context;
use futures_util::TryStreamExt as _;
use mesh_core::{
    Mesh,
    bus::{Bus, Stop},
    dead_letter::LetterState,
    fault::Reason,
    operate::{
        letters::{Selector, list},
        topology::Topology,
    },
    proto::v1::{Outcome, outcome::End},
    subject::{DEAD_LETTER_STREAM, OUTCOME_STREAM, event_stream},
};
use prost::Message as _;
use tokio::time::Instant;

use super::{
    account::Books,
    client::CounterClient,
    process::Sent,
    stage::{SENDER, WORKER},
};

const LOOK: Duration = Duration::from_millis(100);

/// Who is asked: the broker, through Mesh and through its own interface.
pub struct Sides {
    /// The operator's connection.
    pub operator: Mesh,
    /// The broker's own interface, for what Mesh does not show.
    pub jetstream: Context,
    /// The streams and consumers that must come to rest.
    pub topology: Topology,
}

/// What each side says once everything has come to rest, or after `patience`.
///
/// # Errors
/// A side does not answer.
pub async fn books(sides: &Sides, counter: &CounterClient, sent: &Sent, patience: Duration) -> anyhow::Result<Books> {
    let bus = sides.operator.bus();
    let mut books = Books { asked: sent.asked.clone(), acknowledged: sent.acknowledged.clone(), ..Books::default() };
    match at_rest(sides, patience).await {
        Ok(residue) => books.residue = residue,
        Err(why) => books.unrest.push(why.to_string()),
    }
    books.unrest.extend((!sent.given_up.is_empty()).then(|| format!("given up: {:?}", sent.given_up)));
    can_be_read(bus, patience).await?;
    read_letters(bus, &mut books).await?;
    books.outcomes = outcomes(bus).await?;
    books.events = Some(events(bus).await?);
    for (id, entry) in counter.report().await? {
        books.calls += u64::from(entry.calls);
        if !entry.keys.is_empty() {
            books.effects.insert(id, u32::try_from(entry.keys.len()).unwrap_or(u32::MAX));
        }
    }
    Ok(books)
}

/// Waits until nothing is queued, delayed or in hand; how many messages lie in a queue all the same, acknowledged.
///
/// # Errors
/// Something is, after `patience`.
pub async fn at_rest(sides: &Sides, patience: Duration) -> anyhow::Result<u64> {
    let limit = Instant::now() + patience;
    let mut calm = 0;
    loop {
        let why = match look(sides).await {
            Ok(look) if look.waiting.is_empty() => {
                calm += 1;
                // Twice: in a cluster a follower may answer, and be a little behind. And an ack deletes a moment later.
                if calm >= if look.residue == 0 { 2 } else { 20 } {
                    return Ok(look.residue);
                }
                String::new()
            }
            Ok(look) => look.waiting.join(", "),
            Err(error) => error.to_string(),
        };
        if !why.is_empty() {
            calm = 0;
        }
        anyhow::ensure!(Instant::now() < limit, "not at rest after {} s: {why}", patience.as_secs());
        tokio::time::sleep(LOOK).await;
    }
}

#[derive(Default)]
struct Look {
    waiting: Vec<String>,
    residue: u64,
}

async fn look(sides: &Sides) -> anyhow::Result<Look> {
    let topology = &sides.topology;
    let bus = sides.operator.bus();
    let mut look = Look::default();
    for spec in &topology.consumers {
        match bus.consumer_state(&spec.stream, &spec.durable).await? {
            Some(state) if state.pending + state.in_flight == 0 => {}
            other => look.waiting.push(format!("{} on {}: {other:?}", spec.durable, spec.stream)),
        }
    }
    for stream in topology.work_streams().into_iter().chain(topology.lane_streams()) {
        match bus.stream_state(stream).await? {
            Some(state) if state.messages == 0 => {}
            Some(state) => {
                let held = held(&sides.jetstream, stream).await?;
                look.waiting.extend((held > 0).then(|| format!("{held} are held on {stream}")));
                look.residue += state.messages.saturating_sub(held);
            }
            None => look.waiting.push(format!("{stream} is gone")),
        }
    }
    Ok(look)
}

/// Messages that wait for their time.
async fn held(jetstream: &Context, stream: &str) -> anyhow::Result<u64> {
    let stream = jetstream.get_stream(stream).await?;
    let mut subjects = stream.info_with_subjects("mesh1.lane.*.*.*.hold.>").await?;
    let mut held = 0;
    while let Some((_, count)) = subjects.try_next().await? {
        held += u64::try_from(count)?;
    }
    Ok(held)
}

fn local_id(message_id: &str) -> String {
    message_id.splitn(3, '/').last().unwrap_or_default().to_owned()
}

/// A stream whose server was killed has no leader for a while, and on a busy machine that takes longer than a reading waits.
async fn can_be_read(bus: &Bus, patience: Duration) -> anyhow::Result<()> {
    let limit = Instant::now() + patience;
    for stream in [OUTCOME_STREAM, DEAD_LETTER_STREAM, &event_stream(SENDER)] {
        while let Err(fault) = bus.last_sequence_on(stream, ">").await {
            anyhow::ensure!(Instant::now() < limit, "{fault}");
        }
    }
    Ok(())
}

async fn read_letters(bus: &Bus, books: &mut Books) -> anyhow::Result<()> {
    for letter in list(bus, &Selector::default()).await?.letters {
        // Those of others are their own: one message may fail at several consumers.
        if letter.letter.service != WORKER {
            continue;
        }
        let source = letter.letter.source.clone().unwrap_or_default();
        match letter.state {
            LetterState::Open | LetterState::Held | LetterState::Discarded => {}
            // Its end is an effect, or it is lost: the sets tell.
            LetterState::Resolved => continue,
            LetterState::Replaying => books.unrest.push(format!("letter {} is still replaying", letter.letter.id)),
        }
        let id = local_id(&source.message_id);
        if letter
            .letter
            .fault
            .as_ref()
            .is_some_and(|fault| fault.detail.starts_with("parked") || fault.reason == Reason::OutcomeUnknown.code())
        {
            books.parked.insert(id.clone());
        }
        let place = format!("{}@{}", source.stream, source.sequence);
        books.letters.entry(id).or_default().push(place);
    }
    Ok(())
}

/// How often each event lies in its stream.
async fn events(bus: &Bus) -> anyhow::Result<BTreeMap<String, u32>> {
    let mut events = BTreeMap::new();
    let each = |message: mesh_core::gate::Unopened| {
        *events.entry(local_id(&message.open().envelope.message_id)).or_default() += 1;
        Stop::No
    };
    bus.read(&event_stream(SENDER), ">", each).await?;
    Ok(events)
}

/// How many outcomes say done, by id. The same outcome stored twice counts twice.
async fn outcomes(bus: &Bus) -> anyhow::Result<BTreeMap<String, u32>> {
    let mut outcomes: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut wrong = 0;
    let each = |message: mesh_core::gate::Unopened| {
        let envelope = message.open().envelope;
        match Outcome::decode(envelope.payload.clone()) {
            Ok(Outcome { message_id, end: Some(End::Reply(_) | End::Refused(_)), .. }) => {
                let sequence = envelope.delivery.as_ref().map_or(0, |delivery| delivery.sequence);
                let place = format!("{}@{sequence}", envelope.message_id);
                outcomes.entry(local_id(&message_id)).or_default().insert(place);
            }
            Ok(_) => {}
            Err(_) => wrong += 1,
        }
        Stop::No
    };
    bus.read(OUTCOME_STREAM, "mesh1.outcome.>", each).await?;
    anyhow::ensure!(wrong == 0, "{wrong} outcomes can't be read");
    let count = |places: BTreeSet<String>| u32::try_from(places.len()).unwrap_or(u32::MAX);
    Ok(outcomes.into_iter().map(|(id, places)| (id, count(places))).collect())
}
