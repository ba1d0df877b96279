//! What an edit changes, field by field.

use std::collections::BTreeSet;

use mesh_core::{contract::Catalog, dead_letter::Letter};
use serde_json::{Value, json};

use super::{
    super::mask::{Mask, undecoded},
    Output, consumer, counted, last_part, payload_name, short,
};

/// One value that changed: as it may be shown.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Change {
    pub(super) path: String,
    /// `None`: it was not there.
    pub(super) before: Option<Value>,
    /// `None`: it is not there any more.
    pub(super) after: Option<Value>,
    /// What people read instead of both, where the payload is told as a whole.
    pub(super) note: Option<String>,
}

/// The path of a payload that is told as a whole.
const WHOLE: &str = "(payload)";

/// A message type and the payloads before and after.
pub(super) struct Payloads<'a> {
    pub(super) message_type: &'a str,
    pub(super) before: &'a [u8],
    pub(super) after: &'a [u8],
}

/// The values that changed. They are compared as they are and shown as they may be. A payload that can't be read here is
/// told as a whole.
pub(super) fn changes(payloads: &Payloads<'_>, catalog: &Catalog, reveal: bool) -> Vec<Change> {
    let name = payload_name(payloads.message_type, catalog);
    let read = |reveal: bool, payload: &[u8]| Mask { reveal, defaults: true }.read(catalog, name, payload);
    let both = |reveal: bool| (read(reveal, payloads.before), read(reveal, payloads.after));
    match (both(true), both(reveal)) {
        ((Ok(before), Ok(after)), (Ok(shown_before), Ok(shown_after))) => {
            let (real, shown) = ((Some(&before), Some(&after)), (Some(&shown_before), Some(&shown_after)));
            let mut found = Vec::new();
            walk(String::new(), real, shown, &mut found);
            found
        }
        (_, shown) if payloads.before != payloads.after => vec![unread(payloads, shown)],
        _ => Vec::new(),
    }
}

/// The same, and a word where bytes changed and no value: what the contract here does not know, or how it is written.
pub(super) fn differences(payloads: &Payloads<'_>, catalog: &Catalog, reveal: bool) -> Vec<Change> {
    let mut found = changes(payloads, catalog, reveal);
    let (before, after) = (payloads.before, payloads.after);
    if found.is_empty() && before != after {
        let (before, after) = (bytes(before.len()), bytes(after.len()));
        let note = format!("{before} -> {after}, alike in every field that the contract here knows");
        let path = WHOLE.to_owned();
        found.push(Change { path, before: Some(before.into()), after: Some(after.into()), note: Some(note) });
    }
    found
}

/// A payload that changed and can't be had: why.
pub(super) fn not_shown(why: &str) -> Change {
    Change { path: WHOLE.to_owned(), before: None, after: None, note: Some(format!("changed, not shown: {why}")) }
}

fn bytes(length: usize) -> String {
    counted(length as u64, "byte")
}

/// Two payloads that are not alike, one of which can't be read: nobody knows what stands there, so it is not shown.
fn unread(payloads: &Payloads<'_>, (before, after): (Result<Value, String>, Result<Value, String>)) -> Change {
    let alike = payloads.before.iter().zip(payloads.after).take_while(|(before, after)| before == after).count();
    let text = |read: &Result<Value, String>| read.as_ref().map_or_else(String::clone, Value::to_string);
    let note = format!("{} -> {}; alike in the first {}", text(&before), text(&after), bytes(alike));
    let value = |read: Result<Value, String>| Some(read.unwrap_or_else(undecoded));
    Change { path: WHOLE.to_owned(), before: value(before), after: value(after), note: Some(note) }
}

type Pair<'v> = (Option<&'v Value>, Option<&'v Value>);

fn walk(path: String, real: Pair<'_>, shown: Pair<'_>, found: &mut Vec<Change>) {
    if real.0 == real.1 {
        return;
    }
    match shown {
        (Some(Value::Object(before)), Some(Value::Object(after))) => {
            let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
            for name in names {
                let of = |pair: Pair<'_>, part: fn(Pair<'_>) -> Option<&Value>| {
                    part(pair).and_then(|v| v.get(name)).cloned()
                };
                let (a, b) = (of(real, |p| p.0), of(real, |p| p.1));
                let (c, d) = (of(shown, |p| p.0), of(shown, |p| p.1));
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                walk(path, (a.as_ref(), b.as_ref()), (c.as_ref(), d.as_ref()), found);
            }
        }
        (Some(Value::Array(before)), Some(Value::Array(after))) => {
            for index in 0..before.len().max(after.len()) {
                let of = |value: Option<&Value>| value.and_then(|v| v.get(index)).cloned();
                let (a, b, c, d) = (of(real.0), of(real.1), of(shown.0), of(shown.1));
                let path = format!("{path}[{index}]");
                walk(path, (a.as_ref(), b.as_ref()), (c.as_ref(), d.as_ref()), found);
            }
        }
        (before, after) => {
            found.push(Change { path, before: before.cloned(), after: after.cloned(), note: None });
        }
    }
}

impl Change {
    /// One line.
    pub(super) fn line(&self) -> String {
        let Change { path, before, after, note } = self;
        if let Some(note) = note {
            return format!("{path}: {note}");
        }
        match (before, after) {
            (Some(before), Some(after)) if before == after => format!("{path}: {before} changed (--reveal shows it)"),
            (Some(before), Some(after)) => format!("{path}: {before} -> {after}"),
            (None, Some(after)) => format!("{path}: + {after}"),
            (Some(before), None) => format!("{path}: - {before}"),
            (None, None) => path.clone(),
        }
    }

    /// The same for programs.
    pub(super) fn document(&self) -> Value {
        let mut document = json!({ "path": self.path, "before": self.before, "after": self.after });
        if let Some(note) = &self.note {
            document["note"] = note.as_str().into();
        }
        document
    }
}

/// A letter and what changes in it, for people.
///
/// # Errors
/// Nobody reads any more.
pub(super) fn show(letter: &Letter, changes: &[Change], output: &Output) -> std::io::Result<()> {
    let (id, message) = (short(&letter.letter.id), last_part(&letter.letter.message_type));
    output.line(&format!("{id}  {}  {message}", consumer(letter)))?;
    changes.iter().try_for_each(|change| output.line(&format!("  {}", change.line())))
}

/// What changes in a letter, for programs.
pub(super) fn documents(changes: &[Change]) -> Value {
    changes.iter().map(Change::document).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message as _;

    fn lines(reveal: bool, name: &str, before: &str, after: &str) -> Vec<String> {
        let catalog = Catalog::new([mesh_core::proto::DESCRIPTORS, shop_proto::DESCRIPTORS]).unwrap();
        let bytes = |json: &str| catalog.from_json(payload_name(name, &catalog), json).unwrap().encode_to_vec();
        let (before, after) = (bytes(before), bytes(after));
        let payloads = Payloads { message_type: name, before: &before, after: &after };
        changes(&payloads, &catalog, reveal).iter().map(Change::line).collect()
    }

    #[test]
    fn what_cant_be_read_is_told_by_its_size_and_not_shown() {
        let catalog = Catalog::new([mesh_core::proto::DESCRIPTORS, shop_proto::DESCRIPTORS]).unwrap();
        let of = |message_type: &str, before: &[u8], after: &[u8]| {
            let payloads = Payloads { message_type, before, after };
            (changes(&payloads, &catalog, true).len(), differences(&payloads, &catalog, true))
        };
        let (count, told) = of("x.v1.Nobody", b"ada@example.org", b"ada@example.com");
        let unknown = "15 bytes of an unknown type \"x.v1.Nobody\"";
        let note = format!("(payload): {unknown} -> {unknown}; alike in the first 12 bytes");
        assert_eq!((count, told.len(), told[0].line()), (1, 1, note));
        assert_eq!(told[0].document()["after"]["undecoded"], unknown);
        let order = "shop.orders.v1.OrderPlaced";
        let (_, told) = of(order, &[0xff, 0xff], &[0x0a, 1, b'7']);
        let line = told[0].line();
        assert!(line.starts_with("(payload): the 2 bytes are not a shop.orders.v1.OrderPlaced: "), "{line}");
        assert!(line.contains("\"orderId\":\"7\"") && line.ends_with("; alike in the first 0 bytes"), "{line}");
        // What only a newer contract knows: no edit by field, and said all the same.
        let (count, told) = of(order, &[0x0a, 1, b'7'], &[0x0a, 1, b'7', 0xa2, 0x06, 1, b'x']);
        let note = "(payload): 3 bytes -> 7 bytes, alike in every field that the contract here knows";
        assert_eq!((count, told[0].line().as_str()), (0, note));
        assert!(of("x.v1.Nobody", b"x", b"x").1.is_empty() && of(order, &[0xff], &[0xff]).1.is_empty());
    }

    #[test]
    fn each_field_that_changed_is_named_and_masked_ones_only_named() {
        let (before, after) = (r#"{"orderId":"1","amountCents":"0"}"#, r#"{"orderId":"2","amountCents":"50"}"#);
        let name = "shop.payments.v1.Payments/Charge";
        let masked = ["amountCents: \"[payment]\" changed (--reveal shows it)", "orderId: \"1\" -> \"2\""];
        assert_eq!(lines(false, name, before, after), masked);
        assert_eq!(lines(true, name, before, after), ["amountCents: \"0\" -> \"50\"", "orderId: \"1\" -> \"2\""]);
        let name = "shop.notifications.v1.Notifications/Send";
        let (before, after) = (r#"{"data":{"a":"1","b":"2"}}"#, r#"{"data":{"a":"1","c":"3"}}"#);
        assert_eq!(lines(true, name, before, after), ["data.b: - \"2\"", "data.c: + \"3\""]);
        assert_eq!(lines(false, name, before, after).len(), 1);
        assert!(lines(true, name, before, before).is_empty());
    }
}
