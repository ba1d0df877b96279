//! The list.

use mesh_core::{
    bus::Bus,
    dead_letter::Letter,
    fault::{Fault, Reason},
    operate::{keeper::ask, letters},
    proto::v1::LetterQuery,
};
use serde_json::{Value, json};

use super::{
    super::{place::Place, text},
    GlobalArgs, ListArgs, Output, Status, Wanted, consumer, fault, filter, last_part, short, state,
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
    let (letters, total) = read(&bus, args, output).await?;
    bus.close().await;
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

/// The letters that are shown, and how many there are: from the keeper's index where one answers, else from the stream, of
/// which every record is read then.
async fn read(bus: &Bus, args: ListArgs, output: &Output) -> anyhow::Result<(Vec<Letter>, usize)> {
    let limit = args.limit;
    if limit > 0 {
        match indexed(bus, &query(&args), limit).await {
            Ok(found) => return Ok(found),
            Err(fault) => {
                output.remark(&format!("without a keeper's index, by reading every letter: {}", fault.message()))
            }
        }
    }
    let mut letters = letters::list(bus, &filter(args.consumer, args.state.states())).await?;
    letters.retain(|letter| args.state != Wanted::Parked || state(letter) == "parked");
    let total = letters.len();
    letters.truncate(if limit > 0 { limit } else { total });
    Ok((letters, total))
}

async fn indexed(bus: &Bus, query: &LetterQuery, limit: usize) -> Result<(Vec<Letter>, usize), Fault> {
    let (mut letters, mut next) = (Vec::new(), String::new());
    loop {
        let size = u32::try_from(limit - letters.len()).unwrap_or(u32::MAX);
        let page = ask::page(bus, query.clone(), size, &next).await?;
        letters.extend(page.letters);
        next = page.next;
        if next.is_empty() || letters.len() >= limit {
            return Ok((letters, usize::try_from(page.total).unwrap_or(usize::MAX)));
        }
    }
}

fn query(args: &ListArgs) -> LetterQuery {
    let name = |name: Option<&mesh_core::subject::Name>| name.map(ToString::to_string).unwrap_or_default();
    let is_parked = args.state == Wanted::Parked;
    LetterQuery {
        service: name(args.consumer.as_ref().and_then(|consumer| consumer.service.as_ref())),
        consumer: name(args.consumer.as_ref().map(|consumer| &consumer.name)),
        reason: if is_parked { Reason::OutcomeUnknown.code().to_owned() } else { String::new() },
        standings: args.state.states().into_iter().map(|state| ask::standing(state).into()).collect(),
        ..LetterQuery::default()
    }
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
