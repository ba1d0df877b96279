//! The letters that are meant, of however many, one after the other: only a handful at a time is in memory.
//!
//! What is read is the newest record of each letter, in the order of the stream. For most that is their capture, which is the
//! whole letter; of the others the records before it are read, some letters at a time.

use futures_util::{Stream, StreamExt as _, TryStreamExt as _, future::ready, stream};
use mesh_proto::v1::{self, letter_record::Record};

use super::{Answer, History, Selector, behind, few::Newest};
use crate::{
    bus::{Bus, Following, Start},
    dead_letter::{ActKind, Letter, Letters, record_of},
    envelope::Envelope,
    fault::Fault,
    subject::{DEAD_LETTER_STREAM, Place},
};

/// Letters whose records are read at once.
const AT_ONCE: usize = 32;

/// What was said of one letter.
#[derive(Debug)]
pub enum Sifted<T = Letter> {
    /// It is meant.
    Letter(Box<T>),
    /// The condition does not fit its values, and why. It is left out.
    Unclear(String),
    /// The one with this id is left out, whether it was meant or not: this version can't read what was done to it last.
    Unread(String),
}

/// The moment of asking: the sequence of the last record of the letters that may be meant. 0: there are none.
///
/// # Errors
/// The bus can't be reached, or this identity may not read letters.
pub async fn cut_off(bus: &Bus, selector: &Selector) -> Result<u64, Fault> {
    Ok(bus.last_sequence_on(DEAD_LETTER_STREAM, &selector.subject()).await?.unwrap_or(0))
}

/// The letters that are meant, in the order of their newest records: those to which nothing was done after `cut_off`. So whoever
/// orders something for each as it comes does not meet what that wrote. An error may come last: then some of them may be old, or not
/// be among them.
pub fn sift<'a>(bus: &'a Bus, selector: &'a Selector, cut_off: u64) -> impl Stream<Item = Result<Sifted, Fault>> + 'a {
    let what = What { selector, cut_off, takes_unread: false };
    each(bus, what).try_filter_map(|sifted| ready(Ok(sifted.filter_map(|whole| Some(whole.letter)))))
}

/// The same, whatever is done to them meanwhile, each with where its newest capture lies. A [`Sifted::Unread`] leaves none out
/// here: behind it comes the letter as the records before its last one tell it, where that one is meant.
pub(super) fn found<'a>(bus: &'a Bus, selector: &'a Selector) -> impl Stream<Item = Result<Sifted<Found>, Fault>> + 'a {
    let found = |Whole { letter, captured_sequence, .. }: Whole| Some(Found { letter, captured_sequence });
    let what = What { selector, cut_off: u64::MAX, takes_unread: true };
    each(bus, what).try_filter_map(move |sifted| ready(Ok(sifted.filter_map(found))))
}

/// The same with their histories, whatever is done to them meanwhile. What lies apart is not taken along yet:
/// [`take_along`](super::take_along).
pub fn export<'a>(bus: &'a Bus, selector: &'a Selector) -> impl Stream<Item = Result<Sifted<History>, Fault>> + 'a {
    let history = |whole: Whole| whole.history().map(History::that_follows);
    let what = What { selector, cut_off: u64::MAX, takes_unread: false };
    each(bus, what).try_filter_map(move |sifted| ready(Ok(sifted.filter_map(history))))
}

impl<T> Sifted<T> {
    fn filter_map<U>(self, with: impl FnOnce(T) -> Option<U>) -> Option<Sifted<U>> {
        match self {
            Sifted::Letter(letter) => with(*letter).map(|letter| Sifted::Letter(Box::new(letter))),
            Sifted::Unclear(why) => Some(Sifted::Unclear(why)),
            Sifted::Unread(id) => Some(Sifted::Unread(id)),
        }
    }
}

/// What is looked for.
#[derive(Clone, Copy)]
struct What<'a> {
    selector: &'a Selector,
    /// Letters with later records are left out.
    cut_off: u64,
    /// Whether a letter whose newest record this version can't read is not only named, but taken as those before it tell it.
    takes_unread: bool,
}

fn each<'a>(bus: &'a Bus, what: What<'a>) -> impl Stream<Item = Result<Sifted<Whole>, Fault>> + 'a {
    let What { selector, cut_off, takes_unread } = what;
    stream::once(Walk::begin(bus, selector))
        .map_ok(|walk| stream::try_unfold(walk, Walk::step))
        .try_flatten()
        .map(move |newest| async move {
            let newest = newest?;
            let is_later = newest.delivery.as_ref().is_some_and(|delivery| delivery.sequence > cut_off);
            let may_be = if is_later { Newest::Other } else { Newest::of(selector, &newest) };
            let (unread, is_read) = match may_be {
                Newest::Other => (None, false),
                Newest::Unread(id) => (Some(id), takes_unread),
                Newest::MayBeMeant(_) => (None, true),
            };
            let read = if is_read { Whole::of(bus, newest).await? } else { Read::Nothing };
            let (unread, letter) = match read {
                Read::Whole(whole) => (unread, whole.asked(selector)),
                Read::Unread(id) => (Some(id), None),
                Read::Nothing => (unread, None),
            };
            Ok::<_, Fault>(stream::iter(unread.map(Sifted::Unread).into_iter().chain(letter).map(Ok)))
        })
        .buffered(AT_ONCE)
        .try_flatten()
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

/// A letter, and where its newest capture lies.
#[derive(Debug)]
pub struct Found {
    /// The letter.
    pub letter: Letter,
    /// The sequence of its newest capture.
    pub captured_sequence: u64,
}

/// A letter and its records.
struct Whole {
    letter: Letter,
    subject: String,
    records: Vec<v1::LetterRecord>,
    captured_sequence: u64,
}

/// What the records of one subject are.
enum Read {
    Whole(Box<Whole>),
    /// None of them that this version can read captures the letter with this id.
    Unread(String),
    /// They are no letter's.
    Nothing,
}

impl Whole {
    /// As of its newest record: what is done to it while it is read is not met.
    async fn of(bus: &Bus, newest: Envelope) -> Result<Read, Fault> {
        let wire = |record| v1::LetterRecord { record: Some(record) };
        let record = record_of(&newest);
        let last = newest.delivery.as_ref().map_or(0, |delivery| delivery.sequence);
        let (mut fold, mut records) = (Fold::default(), Vec::new());
        let is_first = matches!(&record, Some(Record::Captured(captured)) if captured.generation == 0);
        let mut next = if is_first { last } else { 1 };
        // What there is after the newest is not asked for: the broker looks through all to its end for nothing.
        while next < last
            && let Some(message) = bus.next_on(DEAD_LETTER_STREAM, &newest.subject, next).await?
        {
            let envelope = message.open().envelope;
            let sequence = envelope.delivery.as_ref().map_or(last, |delivery| delivery.sequence);
            next = sequence + 1;
            if sequence < last {
                fold.apply(&envelope);
                records.extend(record_of(&envelope).map(wire));
            }
        }
        fold.apply(&newest);
        records.extend(record.map(wire));
        let Fold { letters, captured_sequence, .. } = fold;
        let unread = letters.unread().next().map(str::to_owned);
        let letter = letters.into_map().into_values().next();
        let whole = letter.map(|letter| Whole { letter, subject: newest.subject, records, captured_sequence });
        let whole = whole.map(|whole| Read::Whole(Box::new(whole)));
        Ok(whole.or(unread.map(Read::Unread)).unwrap_or(Read::Nothing))
    }

    fn asked(self, selector: &Selector) -> Option<Sifted<Whole>> {
        match selector.ask(&self.letter) {
            Answer::Yes => Some(Sifted::Letter(Box::new(self))),
            Answer::Unclear(why) => Some(Sifted::Unclear(why)),
            Answer::No | Answer::Ask => None,
        }
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

/// One letter, record by record.
#[derive(Default)]
struct Fold {
    letters: Letters,
    /// How often it was captured.
    captures: usize,
    captured_sequence: u64,
}

impl Fold {
    fn apply(&mut self, envelope: &Envelope) {
        self.letters.apply(envelope);
        let history = self.letters.iter().next().map(|(_, letter)| letter.history.as_slice()).unwrap_or_default();
        let captures = history.iter().filter(|act| act.kind == ActKind::Captured).count();
        if captures > self.captures {
            self.captures = captures;
            self.captured_sequence = envelope.delivery.as_ref().map_or(0, |delivery| delivery.sequence);
        }
    }
}
