//! Reads the account's sides: the broker's and the counter's own words, never a worker's.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use mesh_core::{
    Mesh,
    bus::{Bus, Stop},
    dead_letter::LetterState,
    fault::Fault,
    operate::{
        letters::{Filter, list},
        topology::Topology,
    },
    proto::v1::{Outcome, outcome::End},
    subject::OUTCOME_STREAM,
};
use prost::Message as _;
use tokio::time::Instant;

use super::{account::Books, client::CounterClient, process::Sent, stage::declarations};

const LOOK: Duration = Duration::from_millis(100);

/// What each side says once everything has come to rest, or after `patience`.
///
/// # Errors
/// A side does not answer.
pub async fn books(operator: &Mesh, counter: &CounterClient, sent: &Sent, patience: Duration) -> anyhow::Result<Books> {
    let mut books = Books {
        asked: sent.asked.clone(),
        acknowledged: sent.acknowledged.clone(),
        unrest: at_rest(operator, patience).await?,
        ..Books::default()
    };
    books.unrest.extend((!sent.given_up.is_empty()).then(|| format!("given up: {:?}", sent.given_up)));
    read_letters(operator.bus(), &mut books).await?;
    books.outcomes = outcomes(operator.bus()).await?;
    for (id, entry) in counter.report().await? {
        books.calls += u64::from(entry.calls);
        if !entry.keys.is_empty() {
            books.effects.insert(id, u32::try_from(entry.keys.len()).unwrap_or(u32::MAX));
        }
    }
    Ok(books)
}

/// Waits until nothing is queued, delayed or in hand. What still is, after `patience`; nothing if all is at rest.
///
/// # Errors
/// Never for what the broker says: that is a look that failed.
pub async fn at_rest(operator: &Mesh, patience: Duration) -> anyhow::Result<Vec<String>> {
    let topology = Topology::of(&declarations()?, operator.identity().region());
    let limit = Instant::now() + patience;
    let mut calm = 0;
    loop {
        let left = match left(operator.bus(), &topology).await {
            Ok(left) => left,
            Err(fault) => vec![fault.to_string()],
        };
        // Twice: in a cluster a follower may answer, and be a little behind.
        calm = if left.is_empty() { calm + 1 } else { 0 };
        if calm == 2 {
            return Ok(Vec::new());
        }
        if Instant::now() >= limit {
            return Ok(vec![format!("not at rest after {} s: {}", patience.as_secs(), left.join(", "))]);
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn left(bus: &Bus, topology: &Topology) -> Result<Vec<String>, Fault> {
    let mut left = Vec::new();
    for spec in &topology.consumers {
        let state = bus.consumer_state(&spec.stream, &spec.durable).await?;
        match state {
            Some(state) if state.pending + state.in_flight == 0 => {}
            other => left.push(format!("{} on {}: {other:?}", spec.durable, spec.stream)),
        }
    }
    for stream in topology.work_streams().into_iter().chain(topology.lane_streams()) {
        match bus.stream_state(stream).await? {
            Some(state) if state.messages == 0 => {}
            other => left.push(format!("{stream}: {other:?}")),
        }
    }
    Ok(left)
}

fn local_id(message_id: &str) -> String {
    message_id.splitn(3, '/').last().unwrap_or_default().to_owned()
}

async fn read_letters(bus: &Bus, books: &mut Books) -> anyhow::Result<()> {
    for letter in list(bus, &Filter::default()).await? {
        let source = letter.letter.source.clone().unwrap_or_default();
        match letter.state {
            LetterState::Open | LetterState::Discarded => {}
            // Its end is an effect, or it is lost: the sets tell.
            LetterState::Resolved => continue,
            LetterState::Replaying => books.unrest.push(format!("letter {} is still replaying", letter.letter.id)),
        }
        let id = local_id(&source.message_id);
        if letter.letter.fault.as_ref().is_some_and(|fault| fault.detail.starts_with("parked")) {
            books.parked.insert(id.clone());
        }
        *books.letters.entry(id).or_default() += 1;
    }
    Ok(())
}

/// How many outcomes say done, by id. The same outcome stored twice counts twice.
async fn outcomes(bus: &Bus) -> anyhow::Result<BTreeMap<String, u32>> {
    let mut outcomes: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut wrong = 0;
    let each = |message: mesh_core::gate::Unopened| {
        let envelope = message.open().envelope;
        let sequence = envelope.delivery.as_ref().map_or(0, |delivery| delivery.sequence);
        match Outcome::decode(envelope.payload.clone()) {
            Ok(Outcome { message_id, end: Some(End::Reply(_) | End::Refused(_)), .. }) => {
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
    Ok(outcomes.into_iter().map(|(id, places)| (id, u32::try_from(places.len()).unwrap_or(u32::MAX))).collect())
}
