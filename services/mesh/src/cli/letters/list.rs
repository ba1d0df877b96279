//! The list.

use mesh_core::{dead_letter::Letter, operate::letters};
use serde_json::{Value, json};

use super::{
    super::{place::Place, text},
    GlobalArgs, ListArgs, Output, Status, Wanted, consumer, fault, last_part, selector, short, state,
};

const HEADER: [&str; 9] = ["ID", "WHEN (UTC)", "CONSUMER", "MESSAGE", "REASON", "VENDOR CODE", "SAID", "GEN", "STATE"];
/// The column whose text is cut so that a line fits the terminal: what was said stands whole in `show`.
const SAID: usize = 6;
/// Characters of that text: at most, and at least on a narrow terminal.
const SAID_LENGTH: (usize, usize) = (60, 12);
/// Characters of a consumer's name on a terminal.
const CONSUMER_LENGTH: usize = 28;

pub(super) async fn run(args: ListArgs, global: &GlobalArgs, output: &Output) -> anyhow::Result<Status> {
    let bus = Place::find(global)?.connect().await?;
    let mut letters = letters::list(&bus, &selector(args.consumer, args.state.states())?).await?.letters;
    bus.close().await;
    letters.retain(|letter| args.state != Wanted::Parked || state(letter) == "parked");
    let total = letters.len();
    if args.limit > 0 {
        letters.truncate(args.limit);
    }
    if output.is_json() {
        output.json(&letters.iter().map(summary).collect::<Vec<_>>())?;
        return Ok(Status::Ok);
    }
    if letters.is_empty() {
        output.remark("no letters");
        return Ok(Status::Ok);
    }
    let mut table = output.table(&HEADER);
    table.add_rows(fitted(letters.iter().map(row).collect(), output.width()));
    output.line(&table.trim_fmt())?;
    if letters.len() < total {
        output.remark(&format!("{} of {total}; --limit 0 shows all", letters.len()));
    }
    if let Some(first) = letters.first() {
        output.remark(&format!("\nnext: mesh dead-letter show {}", short(&first.letter.id)));
    }
    Ok(Status::Ok)
}

fn row(letter: &Letter) -> [String; 9] {
    let fault = fault(letter);
    [
        short(&letter.letter.id).to_owned(),
        text::moment(letter.letter.captured_at_ms),
        consumer(letter),
        last_part(&letter.letter.message_type).to_owned(),
        fault.reason().code().to_owned(),
        fault.origin().vendor_code.clone(),
        text::cut(fault.message(), SAID_LENGTH.0),
        letter.letter.generation.to_string(),
        state(letter).to_owned(),
    ]
}

/// The rows, each on one line of `width` columns where that can be.
fn fitted(mut rows: Vec<[String; 9]>, width: Option<u16>) -> Vec<[String; 9]> {
    let Some(width) = width.map(usize::from) else { return rows };
    for row in &mut rows {
        row[2] = text::cut(&row[2], CONSUMER_LENGTH);
    }
    let longest = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let column = |column: usize| longest(column).max(HEADER[column].chars().count()) + 2;
    let others: usize = (0..HEADER.len()).filter(|index| *index != SAID).map(column).sum();
    let left = width.saturating_sub(others + 2).clamp(SAID_LENGTH.1, SAID_LENGTH.0);
    for row in &mut rows {
        row[SAID] = text::cut(&row[SAID], left);
    }
    rows
}

/// A letter in one JSON object, without its payload.
fn summary(letter: &Letter) -> Value {
    let fault = fault(letter);
    json!({
        "id": letter.letter.id,
        "capturedAtMs": letter.letter.captured_at_ms,
        "service": letter.letter.service,
        "consumer": letter.letter.consumer,
        "messageType": letter.letter.message_type,
        "messageId": letter.letter.source.as_ref().map(|source| source.message_id.as_str()),
        "reason": fault.reason().code(),
        "effect": fault.effect().as_str_name().trim_start_matches("EFFECT_"),
        "vendor": fault.origin().vendor,
        "vendorCode": fault.origin().vendor_code,
        "message": fault.message(),
        "generation": letter.letter.generation,
        "state": state(letter),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_fits_the_terminal_and_is_whole_elsewhere() {
        let row: [String; 9] =
            std::array::from_fn(|column| if column == SAID { "x".repeat(60) } else { "y".repeat(8) });
        assert_eq!(fitted(vec![row.clone()], None)[0], row);
        let narrow = fitted(vec![row], Some(120));
        let headers = HEADER.iter().zip(&narrow[0]);
        let line: usize = headers.map(|(name, cell)| name.chars().count().max(cell.chars().count()) + 2).sum();
        assert_eq!(line, 120);
    }
}
