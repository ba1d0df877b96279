//! Everything about one letter, and what to do next.

use mesh_core::{
    contract::Catalog,
    dead_letter::{Act, ActKind, Facts, Letter, LetterState},
    fault::{Effect, Fault, Reason},
    operate::letters,
    proto::v1,
};
use serde_json::{Value, json};

use super::{
    super::{contracts, hints, mask::Mask, place::Place, text},
    GlobalArgs, MASKED, Output, ShowArgs, Status, consumer,
    diff::{self, Change, Payloads},
    fault, indexed, payload_name, short, shown_key, state,
};

pub(super) async fn run(args: ShowArgs, global: &GlobalArgs, output: &Output) -> anyhow::Result<Status> {
    let catalog = contracts::catalog(global)?;
    let bus = Place::find(global)?.connect().await?;
    let letter = indexed::find_each(&bus, std::slice::from_ref(&args.id)).await?.swap_remove(0);
    let brought = letters::bring(&bus, &letter).await;
    bus.close().await;
    // The letter can be read without its payload, and says what can be done.
    let gone = brought.as_ref().err().filter(|fault| fault.reason() == Reason::ClaimMissing).map(Fault::to_string);
    let letter = if gone.is_some() { letter } else { brought? };
    let payload = match apart(&letter, gone) {
        Some(words) => words.into(),
        None => payload(&letter.letter, &catalog, Mask { reveal: args.reveal, defaults: true }),
    };
    let key = shown_key(&letter.letter.key, args.reveal);
    let view = View { letter: &letter, payload, key, edits: edits(&letter, &catalog, args.reveal) };
    if output.is_json() {
        output.json(&document(&view))?;
        return Ok(Status::Ok);
    }
    output.line(page(&view, output)?.trim_end())?;
    let payload = &view.payload;
    let masked = ["[personal]", "[payment]"].iter().any(|mask| payload.to_string().contains(mask)) || key == MASKED;
    if masked {
        output.remark("(masked fields are shown with --reveal)");
    }
    Ok(Status::Ok)
}

/// What stands in place of a payload that lay apart and can't be had.
fn apart(letter: &Letter, gone: Option<String>) -> Option<String> {
    let claim = letter.letter.claim.as_ref()?;
    let ended = || {
        let is_gone = letter.state.is_ended() && letter.letter.payload.is_empty();
        is_gone.then(|| format!("({} bytes lay apart, and were taken away when the letter had ended)", claim.size))
    };
    gone.map(|fault| format!("({fault})")).or_else(ended)
}

/// What is shown.
struct View<'l> {
    letter: &'l Letter,
    payload: Value,
    key: &'l str,
    /// What each act of the history changed in the payload.
    edits: Vec<Vec<Change>>,
}

fn payload(letter: &v1::DeadLetter, catalog: &Catalog, mask: Mask) -> Value {
    mask.payload(catalog, payload_name(&letter.message_type, catalog), &letter.payload)
}

/// For each act of the history, what an edit changed of the payload before.
fn edits(letter: &Letter, catalog: &Catalog, reveal: bool) -> Vec<Vec<Change>> {
    let message_type = letter.letter.message_type.as_str();
    let mut before: Option<&[u8]> = None;
    let of_act = |act: &Act, before: &[u8], after: &[u8]| match act.kind {
        ActKind::Edited => diff::differences(&Payloads { message_type, before, after }, catalog, reveal),
        _ => Vec::new(),
    };
    let mut all = Vec::new();
    for act in &letter.history {
        let after = act.payload.as_deref().or(before);
        all.push(before.zip(after).map(|(before, after)| of_act(act, before, after)).unwrap_or_default());
        before = after;
    }
    all
}

/// Sections of lines, for people.
struct Page<'o> {
    out: String,
    output: &'o Output,
}

impl Page<'_> {
    fn section(&mut self, title: &str) {
        if !self.out.is_empty() {
            self.out.push('\n');
        }
        self.out.push_str(&self.output.bold(title));
        self.out.push('\n');
    }

    /// A line with a name; nothing where there is nothing to say.
    fn fact(&mut self, name: &str, value: &str) {
        if !value.is_empty() {
            self.out.push_str(&format!("  {name:<12} {value}\n"));
        }
    }

    fn line(&mut self, text: &str) {
        self.out.push_str(&format!("  {text}\n"));
    }
}

fn page(view: &View<'_>, output: &Output) -> anyhow::Result<String> {
    let View { letter, payload, key, edits } = view;
    let mut page = Page { out: String::new(), output };
    head(&mut page, letter, key);
    why(&mut page, &fault(letter));
    attempts(&mut page, &letter.letter.attempts);
    source(&mut page, &letter.letter);
    page.section("Payload");
    for line in serde_json::to_string_pretty(payload)?.lines() {
        page.line(line);
    }
    page.section("History");
    for (act, changes) in letter.history.iter().zip(edits) {
        page.line(&history_line(act));
        for change in changes {
            page.line(&format!("  {}", change.line()));
        }
    }
    page.section("Next");
    for line in next(letter) {
        page.line(&line);
    }
    Ok(page.out)
}

fn head(page: &mut Page<'_>, letter: &Letter, key: &str) {
    page.section(&format!("Letter {}", letter.letter.id));
    page.fact("state", state(letter));
    page.fact("generation", &letter.letter.generation.to_string());
    page.fact("consumer", &consumer(letter));
    page.fact("message", &letter.letter.message_type);
    page.fact("from", &letter.letter.caller);
    page.fact("ordering key", key);
    page.fact("fingerprint", &Facts::of(letter).fingerprint.to_string());
    page.fact("captured", &text::moment(letter.letter.captured_at_ms));
}

fn why(page: &mut Page<'_>, fault: &Fault) {
    page.section("Why");
    page.fact("reason", &format!("{} {}", fault.reason().code(), fault.reason().title()));
    page.fact("said", fault.message());
    page.fact("detail", fault.detail());
    page.fact("effect", hints::effect(fault.effect()));
    let origin = fault.origin();
    page.fact("vendor", &origin.vendor);
    if origin.http_status > 0 {
        page.fact("HTTP status", &origin.http_status.to_string());
    }
    page.fact("vendor code", &origin.vendor_code);
    page.fact("request id", &origin.request_id);
    page.fact("page", &format!("docs/errors/{}.md", fault.reason().code()));
}

fn attempts(page: &mut Page<'_>, attempts: &[v1::Attempt]) {
    page.section("Attempts");
    for attempt in attempts {
        page.line(&attempt_line(attempt));
    }
    if attempts.is_empty() {
        page.line("none: it was refused before its handler ran");
    }
}

fn attempt_line(attempt: &v1::Attempt) -> String {
    let fault: Fault = attempt.fault.clone().unwrap_or_default().into();
    let origin = fault.origin();
    let mut line = format!(
        "{}. {}  {:>9}  {}",
        attempt.number,
        text::moment(attempt.started_at_ms),
        text::took(attempt.duration_us),
        fault.reason().code(),
    );
    if origin.http_status > 0 {
        line.push_str(&format!("  HTTP {}", origin.http_status));
    }
    if !origin.request_id.is_empty() {
        line.push_str(&format!("  {}", origin.request_id));
    }
    line.push_str(&format!("  {} ({})", fault.message(), hints::effect(fault.effect())));
    line
}

fn source(page: &mut Page<'_>, letter: &v1::DeadLetter) {
    let source = letter.source.clone().unwrap_or_default();
    page.section("Source");
    page.fact("stream", &format!("{}, sequence {}", source.stream, source.sequence));
    page.fact("subject", &source.subject);
    page.fact("message id", &source.message_id);
    page.fact("stored", &text::moment(source.stored_at_ms));
    page.fact("deliveries", &source.deliveries.to_string());
    page.fact("trace", &letter.traceparent);
    for header in &letter.headers {
        page.fact("header", &format!("{}: {}", header.name, header.value));
    }
}

/// Who did what to a letter, when and why.
pub(super) fn history_line(act: &Act) -> String {
    let what = act.kind.word();
    let why = if act.why.is_empty() { String::new() } else { format!(": {}", act.why) };
    let job = if act.job.is_empty() { String::new() } else { format!(" (job {})", act.job) };
    format!("{}  generation {}  {what} by {}{job}{why}", text::moment(act.at_ms), act.generation, act.by)
}

/// Commands to copy.
fn next(letter: &Letter) -> Vec<String> {
    let id = short(&letter.letter.id);
    let fault = fault(letter);
    match letter.state {
        LetterState::Resolved => vec!["nothing: its replay was handled".into()],
        LetterState::Discarded => vec!["nothing: it was given up".into()],
        LetterState::Held => {
            vec!["open it again when it may be replayed:".into(), format!("mesh dead-letter release {id} --why '…'")]
        }
        LetterState::Replaying => vec![
            "wait for its consumer, then look again:".into(),
            format!("mesh dead-letter show {id}"),
            "if its copy was lost on the way, order it again:".into(),
            format!("mesh dead-letter replay {id}"),
        ],
        LetterState::Open => {
            let first = match (fault.reason(), fault.effect()) {
                (Reason::OutcomeUnknown, _) | (_, Effect::Unknown | Effect::Unspecified) => {
                    "find out whether it happened (the vendor's request id helps). If it did not, send it again:"
                }
                (Reason::VendorUnauthenticated, _) => "set the right key, restart the adapter, then send it again:",
                _ => "mend the cause, then send it again to this consumer alone:",
            };
            vec![
                first.into(),
                format!("mesh dead-letter replay {id}"),
                "where the message itself is wrong, mend it before:".into(),
                format!("mesh dead-letter edit {id} --why '…'"),
                "or give it up:".into(),
                format!("mesh dead-letter discard {id} --why '…'"),
            ]
        }
    }
}

/// The same for programs.
fn document(view: &View<'_>) -> Value {
    let View { letter, payload, key, edits } = view;
    let inner = &letter.letter;
    let source = inner.source.clone().unwrap_or_default();
    json!({
        "id": inner.id,
        "state": state(letter),
        "generation": inner.generation,
        "region": letter.region,
        "service": inner.service,
        "consumer": inner.consumer,
        "caller": inner.caller,
        "messageType": inner.message_type,
        "key": key,
        "fingerprint": Facts::of(letter).fingerprint,
        "capturedAtMs": inner.captured_at_ms,
        "fault": fault_json(&fault(letter)),
        "attempts": inner.attempts.iter().map(attempt_json).collect::<Vec<_>>(),
        "source": {
            "stream": source.stream,
            "sequence": source.sequence,
            "subject": source.subject,
            "messageId": source.message_id,
            "storedAtMs": source.stored_at_ms,
            "deliveries": source.deliveries,
        },
        "traceparent": inner.traceparent,
        "headers": inner.headers.iter().map(|h| json!({ "name": h.name, "value": h.value })).collect::<Vec<_>>(),
        "payload": payload,
        "history": letter.history.iter().zip(edits).map(act_json).collect::<Vec<_>>(),
        "next": next(letter),
    })
}

fn fault_json(fault: &Fault) -> Value {
    let origin = fault.origin();
    json!({
        "reason": fault.reason().code(),
        "title": fault.reason().title(),
        "code": fault.code().as_str_name().trim_start_matches("CODE_"),
        "effect": fault.effect().as_str_name().trim_start_matches("EFFECT_"),
        "message": fault.message(),
        "detail": fault.detail(),
        "vendor": origin.vendor,
        "operation": origin.operation,
        "httpStatus": origin.http_status,
        "vendorCode": origin.vendor_code,
        "requestId": origin.request_id,
    })
}

fn attempt_json(attempt: &v1::Attempt) -> Value {
    let fault: Fault = attempt.fault.clone().unwrap_or_default().into();
    json!({
        "number": attempt.number,
        "startedAtMs": attempt.started_at_ms,
        "durationUs": attempt.duration_us,
        "fault": fault_json(&fault),
    })
}

fn act_json((act, changes): (&Act, &Vec<Change>)) -> Value {
    let mut json = json!({
        "kind": act.kind.word(),
        "generation": act.generation,
        "atMs": act.at_ms,
        "by": act.by,
        "why": act.why,
        "job": act.job,
    });
    if act.kind == ActKind::Edited {
        json["changes"] = diff::documents(changes);
    }
    json
}
