//! What a replay would send: how many letters to whom, the first of them, and what was mended in their payloads.

use mesh_core::{
    contract::Catalog,
    dead_letter::{Act, Letter},
    operate::jobs::Preview,
};
use serde_json::{Value, json};

use super::{
    Output, consumer,
    diff::{self, Change, Payloads},
    short,
    show::history_line,
};

/// A letter that would go with another payload than failed.
struct Mended<'l> {
    letter: &'l Letter,
    last: &'l Act,
    changes: Vec<Change>,
}

/// Shows it and changes nothing.
///
/// # Errors
/// Nobody reads any more.
pub(super) fn show(preview: &Preview, catalog: &Catalog, reveal: bool, output: &Output) -> anyhow::Result<()> {
    let mended = mended(&preview.first_mended, catalog, reveal);
    if output.is_json() {
        return Ok(output.json(&document(preview, &mended))?);
    }
    for (consumer, count) in &preview.consumers {
        output.line(&format!("{count:>9}  {consumer}"))?;
    }
    output.line(&format!("{:>9}  letters would go", preview.letters))?;
    for letter in &preview.first {
        let line = format!("{}  {}  {}", short(&letter.letter.id), consumer(letter), letter.letter.message_type);
        output.line(&line)?;
    }
    tell_more(preview.letters, preview.first.len(), "", output);
    if preview.mended > 0 {
        output.line(&format!("{:>9}  of them were mended since they failed", preview.mended))?;
    }
    for Mended { letter, last, changes } in &mended {
        diff::show(letter, changes, output)?;
        output.line(&format!("  {}", history_line(last)))?;
    }
    tell_more(preview.mended, mended.len(), " that were mended: mesh dead-letter show ID shows each", output);
    output.remark("nothing was replayed");
    Ok(())
}

fn tell_more(all: u64, named: usize, what: &str, output: &Output) {
    let more = all.saturating_sub(named as u64);
    if more > 0 {
        output.remark(&format!("… and {more} more{what}"));
    }
}

fn mended<'l>(letters: &'l [Letter], catalog: &Catalog, reveal: bool) -> Vec<Mended<'l>> {
    let of = |letter: &'l Letter| {
        let mended = letter.mended()?;
        let (before, after) = (mended.failed.as_ref(), letter.letter.payload.as_ref());
        let payloads = Payloads { message_type: &letter.letter.message_type, before, after };
        Some(Mended { letter, last: mended.last, changes: diff::differences(&payloads, catalog, reveal) })
    };
    letters.iter().filter_map(of).collect()
}

/// The same for programs.
fn document(preview: &Preview, mended: &[Mended<'_>]) -> Value {
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
    json!({
        "letters": preview.letters,
        "cutOff": preview.cut_off,
        "consumers": preview.consumers,
        "first": first,
        "mended": preview.mended,
        "edits": edits.collect::<Vec<_>>(),
    })
}
