//! The list.

use futures_util::{Stream, TryStreamExt as _, future::ready};
use mesh_core::{
    bus::{self, Bus},
    dead_letter::{Facts, Letter},
    fault::Fault,
    operate::letters::{self, Oldest, Selector, Spot},
};
use serde_json::{Value, json};

use super::{
    super::{
        columns::{Columns, Give},
        output::JsonList,
        place::Place,
        text,
    },
    GlobalArgs, ListArgs, Output, Status, ask, consumer, counted, fault, indexed, instead, last_part, mention, said,
    short, shown_key, state,
    which::{Wanted, tell_listed},
};

const HEADER: [&str; 9] = ["ID", "WHEN (UTC)", "CONSUMER", "MESSAGE", "REASON", "VENDOR CODE", "SAID", "GEN", "STATE"];
/// How its columns give way on a narrow terminal: `show` has all of it.
const STEPS: &[(usize, Give)] = &[
    (6, Give::To(24)),
    (5, Give::To(11)),
    (3, Give::To(14)),
    (1, Give::Moments),
    (2, Give::To(20)),
    (5, Give::All),
    (6, Give::To(12)),
    (7, Give::All),
    (3, Give::To(8)),
    (2, Give::To(12)),
    (6, Give::To(8)),
];
/// Lines that are laid out together, and letters of a document that is written in one piece.
const TOGETHER: usize = 1000;

pub(super) async fn run(args: ListArgs, global: &GlobalArgs, output: &Output) -> anyhow::Result<Status> {
    let selector = args.filters.selector(Wanted::Waiting, global)?;
    let bus = Place::find(global)?.connect().await?;
    let indexed = indexed::oldest(&bus, selector.selection(), args.limit, output).await?;
    let (spots, total) = match indexed {
        Some(found) => found,
        None => read(&bus, &selector, args.limit, output).await?,
    };
    let (found, mut missing) = (spots.len(), 0);
    let letters = letters::at(&bus, spots).try_filter_map(|letter| {
        missing += u64::from(letter.is_none());
        ready(Ok(letter))
    });
    let letters = Box::pin(letters);
    if output.is_json() {
        let written = write(letters, found, &args, output).await;
        bus.close().await;
        tell_missing(missing);
        return written.map(|()| Status::Ok);
    }
    let first = lay_out(letters, output).await;
    tell_missing(missing);
    let first = first?;
    if first.is_none() {
        instead::tell(instead::NONE, &bus, selector.selection(), output).await;
    }
    bus.close().await;
    let Some(first) = first else { return Ok(Status::Ok) };
    let shown = found - usize::try_from(missing).unwrap_or(found);
    if shown < total {
        output.remark(&format!("{shown} of {total}; --limit 0 shows all"));
    }
    output.remark(&format!("\nnext: mesh dead-letter show {first}"));
    Ok(Status::Ok)
}

/// The same by reading every letter. Of each that is meant a few bytes are kept: where it lies.
async fn read(bus: &Bus, selector: &Selector, limit: usize, output: &Output) -> Result<(Vec<Spot>, usize), Fault> {
    let bar = ask::bar(None, output);
    let looked = letters::look(bus, selector, |oldest: &mut Oldest, found| {
        bar.inc(1);
        oldest.add(Spot::of(&found), limit);
        bus::Stop::No
    });
    let looked = looked.await;
    bar.finish_and_clear();
    let (oldest, left_out) = looked?;
    tell_listed(&left_out);
    Ok(oldest.into_sorted())
}

/// Says how many letters were found and not read any more.
fn tell_missing(count: u64) {
    if count > 0 {
        let count = counted(count, "letter");
        // For programs too: it is not among the data.
        mention(&format!("note: {count} left out: not where the index has them, as if taken away meanwhile"));
    }
}

/// For programs. However many there are, few of them are in memory.
async fn write(
    mut letters: impl Stream<Item = Result<Letter, Fault>> + Unpin,
    count: usize,
    args: &ListArgs,
    output: &Output,
) -> anyhow::Result<()> {
    if count <= TOGETHER {
        let few: Vec<_> = letters.map_ok(|letter| summary(&letter, args.reveal)).try_collect().await?;
        return Ok(output.json(&few)?);
    }
    let mut list = JsonList::default();
    loop {
        match letters.try_next().await {
            Ok(Some(letter)) => list.add(&summary(&letter, args.reveal))?,
            Ok(None) => return Ok(list.end()?),
            Err(fault) => {
                // What is printed is whole, though not all of it is there.
                list.end()?;
                return Err(fault.into());
            }
        }
    }
}

/// For people: columns as wide as the lines so far need. The first letter's id; `None`: there are none.
async fn lay_out(
    mut letters: impl Stream<Item = Result<Letter, Fault>> + Unpin,
    output: &Output,
) -> anyhow::Result<Option<String>> {
    let (mut rows, mut first, mut columns) = (Vec::new(), None, Columns::new(HEADER, STEPS));
    loop {
        let letter = letters.try_next().await?;
        let is_last = letter.is_none();
        if let Some(letter) = letter {
            first.get_or_insert_with(|| short(&letter.letter.id).to_owned());
            rows.push(row(&letter, output));
        }
        if rows.len() >= TOGETHER || (is_last && !rows.is_empty()) {
            output.line(&columns.laid_out(std::mem::take(&mut rows), output))?;
        }
        if is_last {
            return Ok(first);
        }
    }
}

fn row(letter: &Letter, output: &Output) -> [String; 9] {
    let fault = fault(letter);
    [
        short(&letter.letter.id).to_owned(),
        text::moment(letter.letter.captured_at_ms),
        consumer(letter),
        last_part(&letter.letter.message_type).to_owned(),
        fault.reason().code().to_owned(),
        fault.origin().vendor_code.clone(),
        said(fault.message(), output),
        letter.letter.generation.to_string(),
        state(letter).to_owned(),
    ]
}

/// A letter in one JSON object, without its payload.
pub(super) fn summary(letter: &Letter, reveal: bool) -> Value {
    let facts = Facts::of(letter);
    json!({
        "id": facts.id,
        "capturedAtMs": facts.captured_at_ms,
        "service": facts.service,
        "consumer": facts.consumer,
        "messageType": facts.message_type,
        "messageId": facts.message_id,
        "key": shown_key(facts.key, reveal),
        "reason": facts.reason,
        "code": facts.code_word(),
        "effect": facts.effect_word(),
        "vendor": facts.vendor,
        "vendorCode": facts.vendor_code,
        "message": facts.message,
        "fingerprint": facts.fingerprint,
        "generation": facts.generation,
        "state": state(letter),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{arguments::Color, output::Format};

    #[test]
    fn the_longest_lines_fit_eighty_columns() {
        let row = [
            "3f2a1b0c",
            "2026-01-02 03:04:05",
            "notifications/confirmation-of-orders",
            "Notifications/SendConfirmation",
            "MESH-0103",
            "amount_too_small_for_currency",
            "the amount is too small for this currency, says the vendor",
            "12",
            "replaying",
        ]
        .map(str::to_owned);
        let lines =
            Columns::new(HEADER, STEPS).laid_out_within(vec![row], Some(80), &Output::new(Format::Table, Color::Never));
        assert!(lines.lines().all(|line| line.chars().count() <= 80), "{lines}");
    }
}
