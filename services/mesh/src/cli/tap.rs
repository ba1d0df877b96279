//! `mesh tap`: live messages, decoded, one line each.

use std::pin::pin;

use clap::Args;
use futures_util::future::select_all;
use mesh_core::{
    bus::Subscription,
    clock::{Clock, rfc3339},
    contract::Catalog,
    envelope::Envelope,
    proto::v1::{self, letter_record::Record, outcome::End},
    subject::{Place as Subject, WIRE},
};
use prost::Message as _;
use serde_json::{Value, json};

use crate::stop::Stop;

use super::{Failure, GlobalArgs, Output, Status, away, contracts, mask::Mask, place::Place, text};

#[derive(Debug, Args)]
#[command(
    after_help = "Examples: mesh tap\n          mesh tap shop.orders.v1.OrderPlaced --count 10\n          mesh tap 'mesh1.work.>' -o json"
)]
pub(super) struct TapArgs {
    /// A kind (event, work, call, outcome, dead, lane), a full name, or a subject that begins with mesh1.
    /// Left out: events, work, outcomes and dead letters
    pattern: Option<String>,
    /// End after so many messages
    #[arg(long)]
    count: Option<u64>,
    /// Show personal and payment fields too; secrets are never shown
    #[arg(long)]
    reveal: bool,
}

/// Kinds that a tap without a pattern listens to. Calls are not among them: a listener makes the broker believe that
/// somebody answers, so *nobody answers* would become a time-out while the tap runs.
const KINDS: [&str; 4] = ["event", "work", "outcome", "dead"];
/// Characters of a line where no terminal says its width.
const LINE: usize = 400;

pub(super) async fn run(args: TapArgs, global: &GlobalArgs, output: &Output) -> anyhow::Result<Status> {
    let catalog = contracts::catalog(global)?;
    let subjects = subjects(&catalog, args.pattern.as_deref())?;
    let bus = Place::find(global)?.connect().await?;
    let mut subscriptions = Vec::new();
    for subject in &subjects {
        subscriptions.push(bus.subscribe(subject, None).await?);
    }
    output.remark(&format!("listening on {}; Ctrl-C ends", subjects.join(", ")));
    if subjects.iter().any(|subject| subject.starts_with(&format!("{WIRE}.call."))) {
        output.remark("note: while calls are tapped, one that nobody serves times out instead of failing at once");
    }
    let tap = Tap { catalog, mask: Mask { reveal: args.reveal, defaults: false }, output };
    let stop = Stop::listen()?;
    let mut away = pin!(away::tell(&bus, "what moves meanwhile is not shown"));
    let mut left = args.count.unwrap_or(u64::MAX);
    while left > 0 {
        let envelope = tokio::select! {
            envelope = next(&mut subscriptions) => envelope,
            () = stop.told() => break,
            never = &mut away => match never {},
        };
        let Some(envelope) = envelope else { break };
        tap.show(&envelope)?;
        left -= 1;
    }
    bus.close().await;
    Ok(Status::Ok)
}

async fn next(subscriptions: &mut [Subscription]) -> Option<Envelope> {
    let waiting = subscriptions.iter_mut().map(|subscription| Box::pin(subscription.next()));
    let (message, _, _) = select_all(waiting).await;
    message.map(|message| message.open().envelope)
}

fn subjects(catalog: &Catalog, pattern: Option<&str>) -> Result<Vec<String>, Failure> {
    let Some(pattern) = pattern else { return Ok(KINDS.iter().map(|kind| format!("{WIRE}.{kind}.>")).collect()) };
    if pattern == WIRE || pattern.starts_with(&format!("{WIRE}.")) {
        return Ok(vec![pattern.to_owned()]);
    }
    if KINDS.contains(&pattern) || ["call", "lane"].contains(&pattern) {
        return Ok(vec![format!("{WIRE}.{pattern}.>")]);
    }
    if let Some(entry) = catalog.operation(pattern) {
        let name = format!("{}.{}", entry.info.service, entry.info.method);
        return Ok(["work", "call", "outcome"].iter().map(|kind| format!("{WIRE}.{kind}.*.{name}.>")).collect());
    }
    let entry = contracts::event(catalog, pattern)?;
    Ok(vec![format!("{WIRE}.event.*.{}.{}.*", entry.producer, entry.message.full_name())])
}

struct Tap<'o> {
    catalog: Catalog,
    mask: Mask,
    output: &'o Output,
}

impl Tap<'_> {
    fn show(&self, envelope: &Envelope) -> std::io::Result<()> {
        let at = rfc3339(Clock::system().now_ms());
        let (kind, message, mut payload) = self.read(envelope);
        if let Some(claim) = envelope.claim() {
            payload = format!("({} bytes lie apart)", claim.size).into();
        }
        if self.output.is_json() {
            return self.output.line(
                &json!({
                    "at": at,
                    "kind": kind,
                    "subject": envelope.subject,
                    "message": message,
                    "caller": envelope.caller,
                    "id": envelope.message_id,
                    "attempt": envelope.attempt(),
                    "payload": payload,
                })
                .to_string(),
            );
        }
        let time = at.get(11..23).unwrap_or(&at);
        let (caller, id) = (&envelope.caller, local_id(&envelope.message_id));
        let line = format!("{time} {kind:<7} {message}  {caller}  {id}  {payload}");
        self.output.line(&text::cut(&line, self.output.width().map_or(LINE, usize::from)))
    }

    /// Its kind, the name of what it carries, and its payload as JSON.
    fn read(&self, envelope: &Envelope) -> (&'static str, String, Value) {
        let kind = if envelope.note.lane.is_some() { "lane" } else { kind(&envelope.subject) };
        match Subject::parse(&envelope.subject) {
            Some(Subject::Event { message, .. }) => {
                (kind, message.to_owned(), self.mask.payload(&self.catalog, message, &envelope.payload))
            }
            Some(Subject::Work { service, method, .. } | Subject::Call { service, method, .. }) => {
                let name = format!("{service}/{method}");
                let request = self.catalog.operation(&name).map(|entry| entry.request.full_name().to_owned());
                let payload = self.mask.payload(&self.catalog, request.as_deref().unwrap_or(&name), &envelope.payload);
                (kind, name, payload)
            }
            Some(Subject::Outcome { service, method, .. }) => {
                let name = format!("{service}/{method}");
                let payload = self.outcome(&name, envelope);
                (kind, name, payload)
            }
            Some(Subject::DeadLetter { service, consumer, .. }) => {
                (kind, format!("{service}/{consumer}"), letter(envelope))
            }
            Some(Subject::LaneDue { .. } | Subject::Claim { .. }) | None => (kind, String::new(), Value::Null),
        }
    }

    fn outcome(&self, operation: &str, envelope: &Envelope) -> Value {
        let Ok(outcome) = v1::Outcome::decode(envelope.payload.clone()) else { return Value::Null };
        let of = outcome.message_id;
        match outcome.end {
            Some(End::Reply(reply)) => {
                let name = self.catalog.operation(operation).map(|entry| entry.reply.full_name().to_owned());
                let reply = self.mask.payload(&self.catalog, name.as_deref().unwrap_or(operation), &reply);
                json!({ "of": of, "done": reply })
            }
            Some(End::Refused(fault)) => json!({ "of": of, "refused": fault_line(&fault) }),
            Some(End::DeadLettered(letter)) => {
                let fault = letter.fault.unwrap_or_default();
                json!({ "of": of, "deadLetter": letter.letter_id, "fault": fault_line(&fault) })
            }
            Some(End::SentAgain(again)) => json!({ "of": of, "sentAgain": again.first }),
            None => json!({ "of": of }),
        }
    }
}

/// A record of a letter in short: its payload is shown by `mesh dead-letter show`.
fn letter(envelope: &Envelope) -> Value {
    let act = |word: &str, act: v1::LetterAct| json!({ "record": word, "generation": act.generation, "by": act.by, "why": act.why });
    match v1::LetterRecord::decode(envelope.payload.clone()).ok().and_then(|record| record.record) {
        Some(Record::Captured(letter)) => json!({
            "record": "captured",
            "letter": letter.id,
            "generation": letter.generation,
            "message": letter.message_type,
            "fault": fault_line(&letter.fault.unwrap_or_default()),
        }),
        Some(Record::Replaying(order)) => act("replaying", order),
        Some(Record::Resolved(order)) => act("resolved", order),
        Some(Record::Discarded(order)) => act("discarded", order),
        Some(Record::Held(order)) => act("held", order),
        Some(Record::Released(order)) => act("released", order),
        Some(Record::Edited(edit)) => act("edited", edit.act.unwrap_or_default()),
        None => Value::Null,
    }
}

fn fault_line(fault: &v1::Fault) -> String {
    format!("{} {}", fault.reason, fault.message)
}

fn kind(subject: &str) -> &'static str {
    let kind = subject.split('.').nth(1).unwrap_or_default();
    ["event", "work", "call", "outcome", "dead"].into_iter().find(|known| *known == kind).unwrap_or("?")
}

/// The part of a message id that its sender chose.
fn local_id(message_id: &str) -> &str {
    let of = message_id.strip_prefix("outcome/").unwrap_or(message_id);
    of.splitn(3, '/').nth(2).unwrap_or(of)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_a_kind_a_name_or_a_subject() {
        let catalog = Catalog::new([mesh_core::proto::DESCRIPTORS, shop_proto::DESCRIPTORS]).unwrap();
        let found = |pattern: &str| subjects(&catalog, Some(pattern)).unwrap();
        assert_eq!(found("work"), ["mesh1.work.>"]);
        assert_eq!(found("mesh1.event.*.orders.>"), ["mesh1.event.*.orders.>"]);
        assert_eq!(found("shop.orders.v1.OrderPlaced"), ["mesh1.event.*.orders.shop.orders.v1.OrderPlaced.*"]);
        assert_eq!(found("shop.payments.v1.Payments/Charge")[0], "mesh1.work.*.shop.payments.v1.Payments.Charge.>");
        let error = subjects(&catalog, Some("shop.orders.v1.OrderPlacd")).unwrap_err().to_string();
        assert!(error.contains("nearest: shop.orders.v1.OrderPlaced"), "{error}");
    }

    #[test]
    fn ids_are_shown_as_their_sender_chose_them() {
        assert_eq!(local_id("orders/shop.orders.v1.OrderPlaced/17/a"), "17/a");
        assert_eq!(local_id("outcome/payments/shop.payments.v1.Payments.Charge/17"), "17");
        assert_eq!(local_id("s:9"), "s:9");
    }
}
