//! The letters that are meant, of however many, one after the other: only a handful at a time is in memory.
//!
//! What is read is the newest record of each letter, in the order of the stream. For most that is their capture, which is the
//! whole letter; of the others the records before it are read, some letters at a time.

use futures_util::{Stream, StreamExt as _, TryStreamExt as _, stream};
use mesh_proto::v1::{self, letter_record::Record};
use prost::Message as _;

use super::{Answer, History, Selector, behind, few::may_be_meant};
use crate::{
    bus::{Bus, Following, Start},
    dead_letter::{Letter, Letters},
    envelope::Envelope,
    fault::Fault,
    subject::{DEAD_LETTER_STREAM, Place},
};

/// Letters whose records are read at once.
const AT_ONCE: usize = 32;

/// What was said of one letter.
#[derive(Debug)]
pub enum Sifted {
    /// It is meant.
    Letter(Box<Letter>),
    /// The condition does not fit its values, and why. It is left out.
    Unclear(String),
}

/// The letters that are meant, in the order of their newest records. An error may come last: then some of them may be old.
pub fn sift<'a>(bus: &'a Bus, selector: &'a Selector) -> impl Stream<Item = Result<Sifted, Fault>> + 'a {
    each(bus, selector).try_filter_map(|(answer, whole)| async move {
        Ok(match answer {
            Answer::Yes => Some(Sifted::Letter(Box::new(whole.letter))),
            Answer::Unclear(why) => Some(Sifted::Unclear(why)),
            Answer::No | Answer::Ask => None,
        })
    })
}

/// The same with their histories. What lies apart is not taken along yet: [`take_along`](super::take_along).
pub fn export<'a>(bus: &'a Bus, selector: &'a Selector) -> impl Stream<Item = Result<History, Fault>> + 'a {
    each(bus, selector).try_filter_map(|(answer, whole)| async move {
        let history = if answer == Answer::Yes { whole.history() } else { None };
        Ok(history.map(History::that_follows))
    })
}

fn each<'a>(bus: &'a Bus, selector: &'a Selector) -> impl Stream<Item = Result<(Answer, Whole), Fault>> + 'a {
    stream::once(Walk::begin(bus, selector))
        .map_ok(|walk| stream::try_unfold(walk, Walk::step))
        .try_flatten()
        .map(move |newest| async move {
            let newest = newest?;
            if !may_be_meant(selector, &newest) {
                return Ok(None);
            }
            let whole = Whole::of(bus, newest).await?;
            Ok(whole.map(|whole| (selector.ask(&whole.letter), whole)))
        })
        .buffered(AT_ONCE)
        .try_filter_map(|found| async { Ok(found) })
}

/// The newest record of each letter, as one of the stream's servers has them. If the last one that the leader named was not among
/// them, that server was behind the others, and what it said of letters may be old.
struct Walk {
    following: Following,
    /// Of those that were there when it began.
    left: u64,
    last: u64,
    read_to: u64,
}

impl Walk {
    /// `None`: there are no letters.
    async fn begin(bus: &Bus, selector: &Selector) -> Result<Option<Walk>, Fault> {
        let subject = selector.subject();
        let Some(last) = bus.last_sequence_on(DEAD_LETTER_STREAM, &subject).await? else { return Ok(None) };
        let following = bus.follow_from(DEAD_LETTER_STREAM, vec![subject], Start::NewestOfEach).await?;
        let left = following.stored();
        Ok(Some(Walk { following, left, last, read_to: 0 }))
    }

    async fn step(walk: Option<Walk>) -> Result<Option<(Envelope, Option<Walk>)>, Fault> {
        let Some(mut walk) = walk else { return Ok(None) };
        if walk.left == 0 {
            walk.following.close().await;
            return if walk.read_to < walk.last { Err(behind()) } else { Ok(None) };
        }
        walk.left -= 1;
        let envelope = walk.following.next().await?.open().envelope;
        walk.read_to = envelope.delivery.as_ref().map_or(walk.read_to, |delivery| delivery.sequence);
        Ok(Some((envelope, Some(walk))))
    }
}

/// A letter and its records.
struct Whole {
    letter: Letter,
    subject: String,
    records: Vec<v1::LetterRecord>,
}

impl Whole {
    /// Of a newest record. `None`: it is none of a letter.
    async fn of(bus: &Bus, newest: Envelope) -> Result<Option<Whole>, Fault> {
        let Ok(record) = v1::LetterRecord::decode(newest.payload.clone()) else { return Ok(None) };
        let (mut letters, mut records) = (Letters::default(), Vec::new());
        if matches!(&record.record, Some(Record::Captured(captured)) if captured.generation == 0) {
            letters.apply(&newest);
            records.push(record);
        } else {
            let mut next = 1;
            while let Some(message) = bus.next_on(DEAD_LETTER_STREAM, &newest.subject, next).await? {
                let envelope = message.open().envelope;
                next = envelope.delivery.as_ref().map_or(next, |delivery| delivery.sequence) + 1;
                letters.apply(&envelope);
                records.extend(v1::LetterRecord::decode(envelope.payload));
            }
        }
        let letter = letters.into_map().into_values().next();
        Ok(letter.map(|letter| Whole { letter, subject: newest.subject, records }))
    }

    fn history(self) -> Option<History> {
        let Some(Place::DeadLetter { region, service, consumer, letter }) = Place::parse(&self.subject) else {
            return None;
        };
        let (region, service) = (region.parse().ok()?, service.parse().ok()?);
        let (consumer, id) = (consumer.parse().ok()?, letter.to_owned());
        Some(History { region, service, consumer, id, records: self.records, apart: Vec::new() })
    }
}
