//! Whether the end of some work was announced: what lies in a queue all the same was settled, and only its deletion was lost.

use std::collections::{BTreeMap, HashMap};

use mesh_proto::v1;
use prost::Message as _;

use crate::{
    bus::{Bus, Stop},
    dead_letter,
    delayed::stored_at,
    envelope::Envelope,
    fault::Fault,
    subject::{self, OUTCOME_STREAM, Place},
};

/// Outcomes that are read at most for one operation and caller: of more, the first since the oldest of the work was stored.
/// What is not found in them counts as not announced: a person looks at it.
const READ: usize = 100_000;
/// The servers of a broker need not agree on the time.
pub(super) const CLOCKS_DIFFER_MS: i64 = 60_000;

/// What is looked for on one subject.
#[derive(Default)]
struct Wanted {
    since_ms: i64,
    /// By the id of an outcome: which of the works it would end, and where that was stored.
    by_id: HashMap<String, Vec<(usize, v1::Source)>>,
}

/// For each of some works, in their order, whether its end was announced. An event has none.
///
/// # Errors
/// The bus can't be reached.
pub(super) async fn are_announced(bus: &Bus, works: &[&Envelope]) -> Result<Vec<bool>, Fault> {
    let mut announced = vec![false; works.len()];
    for (subject, mut wanted) in wanted(bus, works) {
        let mut left = READ;
        let since_ms = wanted.since_ms.saturating_sub(CLOCKS_DIFFER_MS);
        bus.read_since(OUTCOME_STREAM, &subject, since_ms, |message| {
            let found = message.open().envelope;
            // An id may come again after the dedupe window: the place says which work it is.
            if let Some(works) = wanted.by_id.get_mut(&found.message_id)
                && let Ok(outcome) = v1::Outcome::decode(found.payload)
            {
                works.retain(|(index, source)| {
                    let is_its = outcome.source.as_ref().is_some_and(|of| is_same(of, source));
                    if let (true, Some(of_work)) = (is_its, announced.get_mut(*index)) {
                        *of_work = true;
                    }
                    !is_its
                });
            }
            left -= 1;
            let is_enough = left == 0 || wanted.by_id.values().all(Vec::is_empty);
            if is_enough { Stop::Yes } else { Stop::No }
        })
        .await?;
    }
    Ok(announced)
}

fn is_same(one: &v1::Source, other: &v1::Source) -> bool {
    (&one.stream, one.sequence, one.stored_at_ms) == (&other.stream, other.sequence, other.stored_at_ms)
}

fn wanted(bus: &Bus, works: &[&Envelope]) -> BTreeMap<String, Wanted> {
    let mut all: BTreeMap<String, Wanted> = BTreeMap::new();
    for (index, work) in works.iter().enumerate() {
        let Some(Place::Work { service, method, .. }) = Place::parse(&work.subject) else { continue };
        let subject = subject::outcome(bus.gate().identity().region(), service, method, &work.caller);
        let wanted = all.entry(subject).or_insert_with(|| Wanted { since_ms: i64::MAX, ..Wanted::default() });
        wanted.since_ms = wanted.since_ms.min(stored_at(work));
        for id in ids(work) {
            wanted.by_id.entry(id).or_default().push((index, dead_letter::source(work)));
        }
    }
    all
}

/// The ids of the outcomes that end this work or, where it is a copy of a replay, this replay: done, a letter, or dropped because
/// its id had been sent before.
fn ids(work: &Envelope) -> Vec<String> {
    let id = &work.message_id;
    match work.note.lane.as_ref().and_then(|lane| lane.letter.as_ref()) {
        None => {
            let sequence = dead_letter::source(work).sequence;
            let of = |suffix: &str| format!("outcome/{id}{suffix}");
            vec![of(""), of("/letter/0"), of(&format!("/again/{sequence}"))]
        }
        Some(letter) => {
            let generation = letter.generation;
            vec![format!("outcome/{id}/{generation}"), format!("outcome/{id}/letter/{generation}")]
        }
    }
}
