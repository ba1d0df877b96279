//! What an edit changes, field by field.

use std::collections::BTreeSet;

use mesh_core::contract::Catalog;
use serde_json::{Value, json};

use super::{super::mask::Mask, payload_name};

/// One value that changed: as it may be shown.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Change {
    pub(super) path: String,
    /// `None`: it was not there.
    pub(super) before: Option<Value>,
    /// `None`: it is not there any more.
    pub(super) after: Option<Value>,
}

/// A message type and the payloads before and after.
pub(super) struct Payloads<'a> {
    pub(super) message_type: &'a str,
    pub(super) before: &'a [u8],
    pub(super) after: &'a [u8],
}

/// The values that changed. They are compared as they are and shown as they may be.
pub(super) fn changes(payloads: &Payloads<'_>, catalog: &Catalog, reveal: bool) -> Vec<Change> {
    let name = payload_name(payloads.message_type, catalog);
    let read = |reveal: bool, payload: &[u8]| Mask { reveal, defaults: true }.payload(catalog, name, payload);
    let (before, after) = (payloads.before, payloads.after);
    let mut found = Vec::new();
    let real = (Some(&read(true, before)), Some(&read(true, after)));
    let shown = (Some(&read(reveal, before)), Some(&read(reveal, after)));
    walk(String::new(), real, shown, &mut found);
    found
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
        (before, after) => found.push(Change { path, before: before.cloned(), after: after.cloned() }),
    }
}

impl Change {
    /// One line.
    pub(super) fn line(&self) -> String {
        let Change { path, before, after } = self;
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
        json!({ "path": self.path, "before": self.before, "after": self.after })
    }
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
