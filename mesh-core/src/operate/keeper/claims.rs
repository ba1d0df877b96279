//! The duty that nothing lies apart for ever: bytes that no letter and no copy refers to are taken away.
//!
//! A reference is written before what it stands for is settled. So whatever is taken from is looked at before what it goes to:
//! the delivery that the bytes were put there for, then the lane up to its end, then the letter. What is at none of them had no
//! reference when the lane's end was reached, and gets none: who refers to it puts it there anew, at a higher sequence, and
//! what is taken away is named by its sequence. All the same it must stand so in two looks, and for a while: a server that is
//! read may be a little behind.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::Duration,
};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use mesh_proto::v1::{self, letter_record::Record};
use prost::Message as _;
use tokio::time::{Instant, MissedTickBehavior};

use super::{KeeperSettings, lanes};
use crate::{
    bus::{Bus, Stop},
    envelope::{Envelope, header},
    fault::Fault,
    gate::Unopened,
    policy::reconcile::{consumer_of, is_queue},
    subject::{self, CLAIM_STREAM, DEAD_LETTER_STREAM, Name, Place, WIRE},
};

/// Places that one sweep looks at; the next one goes on after them.
const LOOKED_AT: usize = 1024;
/// Letters that are asked for at once.
const AT_ONCE: usize = 32;
/// Places that were written anew meanwhile are never found again: what was seen so long ago is forgotten.
const FORGET: Duration = Duration::from_secs(3600);

/// Sweeps until it is dropped.
pub(super) async fn run(bus: &Bus, settings: &KeeperSettings) {
    // A look may read a whole lane: no more of them than are needed to find something so for that long.
    let mut sweeps = tokio::time::interval(settings.sweep_every.max(settings.claims_rest / 2));
    sweeps.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut sweep = Sweep { bus, rest: settings.claims_rest, next: 1, seen: HashMap::new() };
    loop {
        sweeps.tick().await;
        if let Err(fault) = Box::pin(sweep.once()).await {
            tracing::warn!(%fault, "what lies apart could not be looked at; it is looked at again soon");
        }
    }
}

struct Sweep<'a> {
    bus: &'a Bus,
    rest: Duration,
    /// Where the next look begins.
    next: u64,
    /// Places that nothing refers to, by sequence, and since when.
    seen: HashMap<u64, Instant>,
}

/// One message of what lies apart.
#[derive(Debug, Clone)]
struct Part {
    sequence: u64,
    service: Name,
    consumer: Name,
    letter: String,
    hash: String,
    /// The delivery that it was put there for.
    from: Option<(String, u64)>,
}

impl Part {
    fn read(envelope: &Envelope) -> Option<Part> {
        let Place::Claim { service, consumer, letter, hash, .. } = Place::parse(&envelope.subject)? else {
            return None;
        };
        let from = envelope.header(header::FROM).and_then(|from| from.rsplit_once(':'));
        Some(Part {
            sequence: envelope.delivery.as_ref()?.sequence,
            service: service.parse().ok()?,
            consumer: consumer.parse().ok()?,
            letter: letter.to_owned(),
            hash: hash.to_owned(),
            from: from.and_then(|(stream, sequence)| Some((stream.to_owned(), sequence.parse().ok()?))),
        })
    }
}

impl Sweep<'_> {
    async fn once(&mut self) -> Result<(), Fault> {
        let parts = self.parts().await?;
        let loose = self.without_letter(parts.clone()).await?;
        let loose = self.settled(loose).await?;
        let loose = self.without_copy(loose).await?;
        let loose = self.without_letter(loose).await?;
        let now = Instant::now();
        let keep = FORGET.max(self.rest * 2);
        self.seen.retain(|_, since| now.duration_since(*since) < keep);
        let is_loose: HashSet<u64> = loose.iter().map(|part| part.sequence).collect();
        for part in &parts {
            if !is_loose.contains(&part.sequence) {
                self.seen.remove(&part.sequence);
            }
        }
        for part in loose {
            match self.seen.get(&part.sequence) {
                Some(since) if now.duration_since(*since) >= self.rest => {
                    self.bus.delete_message(CLAIM_STREAM, part.sequence).await?;
                    self.seen.remove(&part.sequence);
                    tracing::info!(letter = part.letter, "nothing refers to what lay apart of it: taken away");
                }
                Some(_) => {}
                None => drop(self.seen.insert(part.sequence, now)),
            }
        }
        Ok(())
    }

    /// The next places, without their bytes.
    async fn parts(&mut self) -> Result<Vec<Part>, Fault> {
        let state = self.bus.stream_state(CLAIM_STREAM).await?;
        if state.is_none_or(|state| state.messages == 0) {
            (self.next, self.seen) = (1, HashMap::new());
            return Ok(Vec::new());
        }
        let filter = format!("{WIRE}.claim.{}.>", self.bus.gate().identity().region());
        let (mut parts, mut looked, mut last) = (Vec::new(), 0, 0);
        let each = |message: Unopened| {
            let envelope = message.open().envelope;
            last = envelope.delivery.as_ref().map_or(last, |delivery| delivery.sequence);
            parts.extend(Part::read(&envelope));
            looked += 1;
            if looked < LOOKED_AT { Stop::No } else { Stop::Yes }
        };
        self.bus.read_heads(CLAIM_STREAM, &filter, self.next, each).await?;
        self.next = if looked < LOOKED_AT { 1 } else { last + 1 };
        Ok(parts)
    }

    /// Those whose letter is not written, or has ended.
    async fn without_letter(&self, parts: Vec<Part>) -> Result<Vec<Part>, Fault> {
        let mut letters: BTreeMap<String, Vec<Part>> = BTreeMap::new();
        let region = self.bus.gate().identity().region();
        for part in parts {
            let subject = subject::dead_letter(region, &part.service, &part.consumer, &part.letter);
            letters.entry(subject).or_default().push(part);
        }
        let look = |(subject, parts): (String, Vec<Part>)| async move {
            Ok::<_, Fault>(if self.stands(&subject).await? { Vec::new() } else { parts })
        };
        let loose: Vec<Vec<Part>> = stream::iter(letters).map(look).buffer_unordered(AT_ONCE).try_collect().await?;
        Ok(loose.into_iter().flatten().collect())
    }

    async fn stands(&self, subject: &str) -> Result<bool, Fault> {
        let Some(last) = self.bus.last_on(DEAD_LETTER_STREAM, subject).await? else { return Ok(false) };
        let record = v1::LetterRecord::decode(last.open().envelope.payload).ok().and_then(|it| it.record);
        Ok(!matches!(record, Some(Record::Resolved(_) | Record::Discarded(_))))
    }

    /// Those whose delivery is settled: it will not be captured or delayed any more.
    async fn settled(&self, parts: Vec<Part>) -> Result<Vec<Part>, Fault> {
        let mut settled = Vec::new();
        for part in parts {
            let under_way = match &part.from {
                Some((stream, sequence)) if is_queue(stream) => self.bus.message_at(stream, *sequence).await?.is_some(),
                Some((stream, sequence)) => self.may_come(&part, stream, *sequence).await?,
                None => false,
            };
            if !under_way {
                settled.push(part);
            }
        }
        Ok(settled)
    }

    /// Whether an event may be under way at its consumer, or at one of its partitions.
    async fn may_come(&self, part: &Part, stream: &str, sequence: u64) -> Result<bool, Fault> {
        let consumers = self.bus.consumers_of(stream).await?;
        let name = (part.service.as_str(), part.consumer.as_str());
        Ok(consumers.iter().filter(|one| consumer_of(&one.durable) == Some(name)).any(|one| {
            let is_at_rest = one.in_flight == 0 && one.waiting == 0;
            one.ack_floor < sequence && !is_at_rest
        }))
    }

    /// Those that no copy on the lane refers to.
    async fn without_copy(&self, parts: Vec<Part>) -> Result<Vec<Part>, Fault> {
        let mut of_service: BTreeMap<Name, Vec<Part>> = BTreeMap::new();
        for part in parts {
            of_service.entry(part.service.clone()).or_default().push(part);
        }
        let mut loose = Vec::new();
        for (service, mut parts) in of_service {
            let mut wanted: HashSet<(String, String)> =
                parts.iter().map(|part| (part.letter.clone(), part.hash.clone())).collect();
            if !self.read_lane(&subject::lane_stream(service.as_str()), &mut wanted).await? {
                continue;
            }
            // What is left in it was not found.
            parts.retain(|part| wanted.contains(&(part.letter.clone(), part.hash.clone())));
            loose.append(&mut parts);
        }
        Ok(loose)
    }

    /// Takes out of `wanted` what copies refer to. Whether no copy was missed.
    async fn read_lane(&self, lane: &str, wanted: &mut HashSet<(String, String)>) -> Result<bool, Fault> {
        let each = |copy: &Envelope| {
            if let Some(claim) = lanes::note_of(copy).and_then(|note| note.claim) {
                let hash = claim.sha256.get(..32).unwrap_or_default().to_owned();
                wanted.remove(&(claim.letter, hash));
            }
            if wanted.is_empty() { Stop::Yes } else { Stop::No }
        };
        lanes::read(self.bus, (lane, 0), each).await
    }
}
