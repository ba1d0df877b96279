//! What a replay would send: how many letters to whom, the first of them, and what was mended in their payloads.

use mesh_core::{
    bus::Bus,
    contract::Catalog,
    dead_letter::{Act, Letter, LetterState},
    fault::{Fault, Reason},
    operate::{jobs::Preview, letters},
    subject::Name,
};
use serde_json::{Value, json};

use super::{
    Output, consumer,
    diff::{self, Change, Payloads},
    mention, short,
    show::history_line,
};

/// What is shown.
pub(super) struct Shown<'a> {
    pub(super) preview: &'a Preview,
    /// Letters that were named and would not go.
    pub(super) stay: Vec<Stays<'a>>,
    /// The first letters that would go with another payload than failed.
    pub(super) mended: Vec<Mended<'a>>,
}

/// A letter that would not go, and why.
pub(super) struct Stays<'l> {
    letter: &'l Letter,
    why: String,
}

/// Those of the letters that a replay in this region does not send.
pub(super) fn that_stay<'l>(letters: &'l [Letter], here: &Name) -> Vec<Stays<'l>> {
    let why = |letter: &Letter| match (letter.state, unsendable(letter, here)) {
        (LetterState::Open, None) => None,
        (LetterState::Open, Some(Unsendable::WithoutMessage)) => Some("it holds no message".to_owned()),
        (LetterState::Open, Some(Unsendable::OfAnotherRegion)) => {
            Some(format!("it is of the region {}", letter.region))
        }
        (state, _) => Some(format!("it is {}", state.word())),
    };
    letters.iter().filter_map(|letter| why(letter).map(|why| Stays { letter, why })).collect()
}

/// Why no replay in this region can send a letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Unsendable {
    WithoutMessage,
    OfAnotherRegion,
}

/// Whether no replay in this region can send a letter, however it stands.
pub(super) fn unsendable(letter: &Letter, here: &Name) -> Option<Unsendable> {
    let is_without = letter.letter.source.as_ref().is_none_or(|source| source.subject.is_empty());
    let is_of_another = letter.region != here.as_str();
    is_without.then_some(Unsendable::WithoutMessage).or(is_of_another.then_some(Unsendable::OfAnotherRegion))
}

/// Says of each letter that was named and stays why it does. For programs too: it is not among the data.
pub(super) fn tell_stay(stay: &[Stays<'_>]) {
    for Stays { letter, why } in stay {
        mention(&format!("{} stays: {why}", short(&letter.letter.id)));
    }
}

/// A letter that would go with another payload than failed.
pub(super) struct Mended<'l> {
    letter: &'l Letter,
    last: &'l Act,
    changes: Vec<Change>,
}

/// Shows it and changes nothing.
///
/// # Errors
/// Nobody reads any more.
pub(super) fn show(shown: &Shown<'_>, output: &Output) -> anyhow::Result<()> {
    let Shown { preview, stay, mended } = shown;
    if output.is_json() {
        return Ok(output.json(&document(preview, mended, stay))?);
    }
    for (consumer, count) in &preview.consumers {
        output.line(&format!("{count:>9}  {consumer}"))?;
    }
    let letters = if preview.letters == 1 { "letter" } else { "letters" };
    output.line(&format!("{:>9}  {letters} would go", preview.letters))?;
    for letter in &preview.first {
        let line = format!("{}  {}  {}", short(&letter.letter.id), consumer(letter), letter.letter.message_type);
        output.line(&line)?;
    }
    tell_more(preview.letters, preview.first.len(), "", output);
    if preview.mended > 0 {
        let were = if preview.mended == 1 { "was mended since it" } else { "were mended since they" };
        output.line(&format!("{:>9}  of them {were} failed", preview.mended))?;
    }
    for Mended { letter, last, changes } in mended {
        diff::show(letter, changes, output)?;
        output.line(&format!("  {}", history_line(last)))?;
    }
    tell_more(preview.mended, mended.len(), " that were mended: mesh dead-letter show ID shows each", output);
    for Stays { letter, why } in stay {
        output.remark(&format!("{} would not go: {why}", short(&letter.letter.id)));
    }
    output.remark("nothing was replayed");
    Ok(())
}

fn tell_more(all: u64, named: usize, what: &str, output: &Output) {
    let more = all.saturating_sub(named as u64);
    if more > 0 {
        output.remark(&format!("… and {more} more{what}"));
    }
}

/// What was mended in each of the letters. What lies apart is brought for it, one after the other.
///
/// # Errors
/// The bus can't be reached, or this identity may not read what lies apart.
pub(super) async fn mended<'l>(
    bus: &Bus,
    letters: &'l [Letter],
    (catalog, reveal): (&Catalog, bool),
) -> Result<Vec<Mended<'l>>, Fault> {
    let mut all = Vec::new();
    for letter in letters {
        let Some(mended) = letter.mended() else { continue };
        let changes = match letters::bring(bus, letter).await {
            Ok(whole) => changes(&whole, catalog, reveal),
            Err(fault) if fault.reason() == Reason::ClaimMissing => vec![diff::not_shown(&fault.to_string())],
            Err(fault) => return Err(fault),
        };
        all.push(Mended { letter, last: mended.last, changes });
    }
    Ok(all)
}

fn changes(whole: &Letter, catalog: &Catalog, reveal: bool) -> Vec<Change> {
    let Some(mended) = whole.mended() else { return vec![diff::not_shown("what failed lay apart and is gone")] };
    let (before, after) = (mended.failed.as_ref(), whole.letter.payload.as_ref());
    diff::differences(&Payloads { message_type: &whole.letter.message_type, before, after }, catalog, reveal)
}

/// The same for programs.
fn document(preview: &Preview, mended: &[Mended<'_>], stay: &[Stays<'_>]) -> Value {
    let first: Vec<_> = preview.first.iter().map(|letter| letter.letter.id.as_str()).collect();
    let edits = mended.iter().map(|Mended { letter, last, changes }| {
        json!({
            "id": letter.letter.id,
            "generation": letter.letter.generation,
            "by": last.by,
            "why": last.why,
            "atMs": last.at_ms,
            "changes": diff::documents(changes),
        })
    });
    let stay = stay.iter().map(|Stays { letter, why }| json!({ "id": letter.letter.id, "why": why }));
    json!({
        "letters": preview.letters,
        "cutOff": preview.cut_off,
        "consumers": preview.consumers,
        "first": first,
        "mended": preview.mended,
        "edits": edits.collect::<Vec<_>>(),
        "stay": stay.collect::<Vec<_>>(),
    })
}
