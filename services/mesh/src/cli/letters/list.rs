//! The list.

use mesh_core::{
    dead_letter::{Facts, Letter},
    operate::letters,
};
use serde_json::{Value, json};

use super::{
    super::{place::Place, text},
    GlobalArgs, ListArgs, Output, Status, consumer, fault, indexed, last_part, short, shown_key, state, table,
    which::{Wanted, tell_listed},
};

const HEADER: [&str; 9] = ["ID", "WHEN (UTC)", "CONSUMER", "MESSAGE", "REASON", "VENDOR CODE", "SAID", "GEN", "STATE"];
const SAID: usize = 6;
const CONSUMER: usize = 2;

pub(super) async fn run(args: ListArgs, global: &GlobalArgs, output: &Output) -> anyhow::Result<Status> {
    let selector = args.filters.selector(Wanted::Waiting, global)?;
    let bus = Place::find(global)?.connect().await?;
    let indexed = indexed::page(&bus, selector.selection(), args.limit, output).await?;
    let (letters, total) = match indexed {
        Some(found) => found,
        None => {
            let listing = letters::list(&bus, &selector).await?;
            tell_listed(&listing);
            let mut letters = listing.letters;
            let total = letters.len();
            letters.truncate(if args.limit > 0 { args.limit } else { total });
            (letters, total)
        }
    };
    bus.close().await;
    if output.is_json() {
        output.json(&letters.iter().map(|letter| summary(letter, args.reveal)).collect::<Vec<_>>())?;
        return Ok(Status::Ok);
    }
    if letters.is_empty() {
        output.remark("no letters");
        return Ok(Status::Ok);
    }
    let mut out = output.table(&HEADER);
    out.add_rows(table::fitted(letters.iter().map(row).collect(), (&HEADER, SAID, CONSUMER), output.width()));
    output.line(&out.trim_fmt())?;
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
        text::cut(fault.message(), table::SAID_LENGTH.0),
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
