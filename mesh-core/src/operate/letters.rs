//! What a person may ask about letters and order for them: list, group, find, watch; replay, hold, release, edit, discard;
//! take them out and put them in.
//!
//! A replay is ordered in the letter's own history first, and only by whoever saw its last record; then the original's
//! bytes go on the lane of the consumer that failed, and to no other. A crash between the two leaves a letter that is
//! *replaying* without a copy: ordering it again sends the same copy with the same message id.

mod apart;
mod condition;
mod copy;
mod few;
mod group;
mod look;
mod mend;
mod news;
mod order;
mod selection;
#[cfg(test)]
mod selection_tests;
mod sift;
mod transfer;
mod watch;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use mesh_proto::v1;

use crate::{
    bus::{Bus, Stop},
    dead_letter::{Letter, Letters},
    fault::{Code, Effect, Fault, Reason},
    subject::{DEAD_LETTER_STREAM, WIRE},
};

pub use apart::{bring, check_edit, take_along};
pub use few::{Patience, list_few};
pub use group::{Group, Groups};
pub(super) use look::captured_at;
pub use look::{Oldest, Spot, at, look};
pub use mend::{check, edit, hold, release};
pub use news::News;
pub(crate) use order::is_passing;
pub use order::{Order, Replayed, Replays, discard, replay};
pub(super) use selection::is_type;
pub use selection::{Answer, Selection, Selector};
pub use sift::{Found, Sifted, cut_off, export, sift};
pub use transfer::{History, Imported, elsewhere, import};
pub use watch::await_end;

/// The length of a whole letter id.
pub const ID_LENGTH: usize = 32;
/// So many letters are asked for by their ids; for more, those of all are read.
const FEW: usize = 32;
/// Letters that are read at once.
const AT_ONCE: usize = 16;
/// Of the letters whose ids begin alike, so many are kept to say how many there are.
const SEVERAL: usize = 100;
/// Ids that an error names, at most.
const NAMED: usize = 10;

/// Letters that were read.
#[derive(Debug, Default)]
pub struct Listing {
    /// Those that are meant, the oldest capture first.
    pub letters: Vec<Letter>,
    /// How many were left out because the condition did not fit their values.
    pub unclear: usize,
    /// Why the first of them was.
    pub why: Option<String>,
    /// How many there are, meant or not, of which this version can't read what was done to them last. [`list`] and [`look`] have
    /// them as they were before, all others leave them out.
    pub unread: usize,
    /// The first of their ids.
    pub first_unread: Option<String>,
}

impl Listing {
    /// Puts a letter in if it is meant.
    fn take(&mut self, selector: &Selector, letter: Letter) {
        match selector.ask(&letter) {
            Answer::Yes => self.letters.push(letter),
            Answer::No | Answer::Ask => {}
            Answer::Unclear(why) => self.leave_out(why),
        }
    }

    /// Counts a letter that is left out because the condition does not fit its values, and why.
    pub fn leave_out(&mut self, why: String) {
        self.unclear += 1;
        self.why.get_or_insert(why);
    }

    /// Counts a letter of which this version can't read what was done to it last, and which it is.
    pub fn leave_unread(&mut self, id: String) {
        self.unread += 1;
        if self.first_unread.as_ref().is_none_or(|first| id < *first) {
            self.first_unread = Some(id);
        }
    }
}

/// The letters that are meant, the oldest capture first. All of them are in memory with their histories: where there may be many,
/// [`look`] at them.
///
/// # Errors
/// The bus can't be reached, or this identity may not read letters.
pub async fn list(bus: &Bus, selector: &Selector) -> Result<Listing, Fault> {
    let (mut listing, all) = (Listing::default(), read(bus, &selector.subject()).await?);
    all.unread().for_each(|id| listing.leave_unread(id.to_owned()));
    for letter in all.into_map().into_values() {
        listing.take(selector, letter);
    }
    listing.letters.sort_by_key(|letter| letter.letter.captured_at_ms);
    Ok(listing)
}

/// The one letter whose id begins with `id`.
///
/// # Errors
/// No letter has such an id, or several have; the bus can't be reached.
pub async fn find(bus: &Bus, id: &str) -> Result<Letter, Fault> {
    Ok(find_each(bus, &[id]).await?.swap_remove(0))
}

/// The letters whose ids begin so, each once, in the order of the ids. Where an id stands in several places, the one in the region
/// of this process is meant.
///
/// # Errors
/// As [`find`], for the first id that is wrong.
pub async fn find_each(bus: &Bus, ids: &[impl AsRef<str>]) -> Result<Vec<Letter>, Fault> {
    for id in ids.iter().map(AsRef::as_ref) {
        let hexadecimal = !id.is_empty() && id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if !hexadecimal || id.len() > ID_LENGTH {
            return Err(missing(format!(
                "{id:?} is no letter's id: those are up to {ID_LENGTH} digits of 0-9 and a-f"
            )));
        }
    }
    let subjects = if ids.len() <= FEW && ids.iter().all(|id| id.as_ref().len() == ID_LENGTH) {
        ids.iter().map(|id| format!("{WIRE}.dead.*.*.*.{}", id.as_ref())).collect()
    } else {
        subjects_of(bus, ids).await?
    };
    let read = |subject: String| async move { read(bus, &subject).await };
    let mut read = stream::iter(subjects).map(read).buffered(AT_ONCE);
    let (mut all, mut unread) = (Vec::new(), Vec::new());
    while let Some(letters) = read.try_next().await? {
        unread.extend(letters.unread().map(str::to_owned));
        all.extend(letters.into_map().into_values());
    }
    let is_missing = |id: &&str| !all.iter().any(|letter| letter.letter.id.starts_with(id));
    let gone: Vec<&str> = ids.iter().map(AsRef::as_ref).filter(is_missing).collect();
    if !gone.is_empty() {
        return Err(not_there(&gone, &unread));
    }
    let mut found: Vec<Letter> = Vec::new();
    for id in ids.iter().map(AsRef::as_ref) {
        let fitting: Vec<&Letter> = all.iter().filter(|letter| letter.letter.id.starts_with(id)).collect();
        let letter = match fitting.as_slice() {
            [] => return Err(not_there(&[id], &unread)),
            [one] => one,
            [first, others @ ..] if others.iter().all(|it| it.letter.id == first.letter.id) => here(bus, &fitting)?,
            _ => return Err(several(id, &fitting)),
        };
        if found.iter().all(|known| known.letter.id != letter.letter.id) {
            found.push(letter.clone());
        }
    }
    Ok(found)
}

fn not_there(ids: &[&str], unread: &[String]) -> Fault {
    match unread.iter().find(|it| ids.iter().any(|id| it.starts_with(id))) {
        Some(whole) => missing(format!(
            "the letter {whole} can't be read: its records are none that this version knows, or say that they are another consumer's"
        )),
        None => {
            let named: Vec<_> = ids.iter().take(NAMED).map(|id| format!("{id:?}")).collect();
            let more = if ids.len() > NAMED { format!(" or {} others", ids.len() - NAMED) } else { String::new() };
            missing(format!("no letter's id begins with {}{more}", named.join(" or ")))
        }
    }
}

/// The ids that are in question stand below, each with whose letter it is.
fn several(id: &str, letters: &[&Letter]) -> Fault {
    let count = letters.len();
    let at_least = if count < SEVERAL { "" } else { "at least " };
    let mut message = format!("the ids of {at_least}{count} letters begin with {id:?}: give more of it");
    for letter in letters.iter().take(NAMED) {
        let v1::DeadLetter { id, service, consumer, .. } = &letter.letter;
        // Writing to a String can't fail.
        let _ = write!(message, "\n{id}  {service}/{consumer}, {}", letter.state.word());
    }
    if count > NAMED {
        let _ = write!(message, "\n… and {} more", count - NAMED);
    }
    missing(message)
}

/// Of letters with one id, each in a place of its own, the one in the region of this process.
fn here<'l>(bus: &Bus, letters: &[&'l Letter]) -> Result<&'l Letter, Fault> {
    let region = bus.gate().identity().region().as_str();
    let mut in_it = letters.iter().filter(|letter| letter.region == region);
    if let (Some(one), None) = (in_it.next(), in_it.next()) {
        return Ok(one);
    }
    let place = |it: &&Letter| format!("{}/{} of the region {}", it.letter.service, it.letter.consumer, it.region);
    let places: Vec<String> = letters.iter().map(place).collect();
    let id = letters.first().map_or("", |letter| letter.letter.id.as_str());
    let message = format!(
        "several letters have the id {id}: of {}; --region NAME means the one of that region, --consumer SERVICE/NAME in the place \
         of the id the letters of one consumer",
        places.join(", ")
    );
    Err(missing(message))
}

/// The subjects of the letters whose ids begin so. Only what stands in the heads of all is read, and no more of those that fit
/// is kept than tells that several do.
async fn subjects_of(bus: &Bus, ids: &[impl AsRef<str>]) -> Result<BTreeSet<String>, Fault> {
    let mut found: BTreeMap<&str, BTreeSet<String>> = ids.iter().map(|id| (id.as_ref(), BTreeSet::new())).collect();
    bus.read_heads(DEAD_LETTER_STREAM, &format!("{WIRE}.dead.>"), 1, |record| {
        let subject = record.open().envelope.subject;
        let id = subject.rsplit('.').next().unwrap_or_default();
        for beginning in (1..=id.len()).filter_map(|length| id.get(..length)) {
            if let Some(of_one) = found.get_mut(beginning).filter(|of_one| of_one.len() < SEVERAL) {
                of_one.insert(subject.clone());
            }
        }
        Stop::No
    })
    .await?;
    Ok(found.into_values().flatten().collect())
}

/// The one place that reads the stream: an index can stand before it.
async fn read(bus: &Bus, filter: &str) -> Result<Letters, Fault> {
    let mut letters = Letters::default();
    bus.read(DEAD_LETTER_STREAM, filter, |record| {
        letters.apply(&record.open().envelope);
        Stop::No
    })
    .await?;
    Ok(letters)
}

/// A server of the broker has not got what the others have.
pub(super) fn behind() -> Fault {
    let message = "the server that reads the letters is behind the others; ask again";
    Fault::new(Code::Unavailable, Effect::None, Reason::BusUnavailable, message)
}

fn missing(message: String) -> Fault {
    Fault::new(Code::NotFound, Effect::None, Reason::LetterMissing, message)
}
