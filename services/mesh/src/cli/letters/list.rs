//! The list.

use mesh_core::{dead_letter::Letter, operate::letters};
use serde_json::{Value, json};

use super::{
    super::{place::Place, text},
    GlobalArgs, ListArgs, Output, Status, Wanted, consumer, fault, filter, last_part, short, state,
};

const HEADER: [&str; 9] = ["ID", "WHEN (UTC)", "CONSUMER", "MESSAGE", "REASON", "VENDOR CODE", "SAID", "GEN", "STATE"];
/// Characters of a vendor's words in the table.
const SAID: usize = 60;

pub(super) async fn run(args: ListArgs, global: &GlobalArgs, output: &Output) -> anyhow::Result<Status> {
    let bus = Place::find(global)?.connect().await?;
    let mut letters = letters::list(&bus, &filter(args.consumer, args.state.states())).await?;
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
    table.add_rows(letters.iter().map(row));
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
        text::cut(fault.message(), SAID),
        letter.letter.generation.to_string(),
        state(letter).to_owned(),
    ]
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
