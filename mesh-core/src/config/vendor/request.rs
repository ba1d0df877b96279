//! Reads how a request is made.

use std::time::Duration;

use ::http::{HeaderName, Method};
use prost_reflect::MessageDescriptor;

use super::{BodyPlan, IdempotencyPlan, Json, RequestPlan, read::Surroundings, read::time};
use crate::config::{
    Expression, Part, Template,
    check::Scope,
    expression,
    problem::{Report, hint},
    template,
    yaml::{Fields, Key, Node, Value},
};

/// The keys of `request`.
pub(super) const KEYS: &[&str] = &["method", "path", "query", "headers", "form", "json"];
/// The keys of `idempotency`.
pub(super) const IDEMPOTENCY_KEYS: &[&str] = &["header", "value", "retention", "quoted"];

pub(super) const METHODS: &[&str] = &["GET", "POST", "PUT", "PATCH", "DELETE"];

/// How long most vendors remember a key, where the file says nothing.
const RETENTION: Duration = Duration::from_secs(24 * 3600);

pub(super) fn read(
    node: &Node,
    input: &MessageDescriptor,
    around: &Surroundings<'_>,
    report: &mut Report,
) -> Option<RequestPlan> {
    let fields = node.fields(KEYS, report)?;
    let request = Some(input.clone());
    // A secret in a URL would end in the logs of every proxy on the way.
    let open =
        Scope { names: &["request", "id", "key", "attempt"], request: request.clone(), secrets: &[], fields: &[] };
    let full =
        Scope { names: &["request", "id", "key", "attempt", "secret"], request, secrets: &around.secrets, fields: &[] };
    let method = fields.need("method", report).and_then(|node| method(node, report));
    let path = fields.need("path", report).and_then(|node| path(node, &open, report));
    let query = fields.get("query").map(|node| pairs(node, &open, report)).unwrap_or_default();
    let headers = fields.get("headers").map(|node| headers(node, &full, report)).unwrap_or_default();
    let body = body(fields, &full, report);
    let (method, path) = (method?, path?);
    Some(RequestPlan { method, path, query, headers, body })
}

fn method(node: &Node, report: &mut Report) -> Option<Method> {
    let text = node.text("a method", report)?;
    if !METHODS.contains(&text) {
        report.add(node.place, format!("unknown method {text:?}{}", hint(text, METHODS.iter().copied())));
        return None;
    }
    Method::from_bytes(text.as_bytes()).ok()
}

fn path(node: &Node, scope: &Scope<'_>, report: &mut Report) -> Option<Template> {
    let path = template::parse(node.text("a path", report)?, node.place, scope, report)?;
    let starts = matches!(path.parts().first(), Some(Part::Text(text)) if text.starts_with('/'));
    let clean = |part: &Part| match part {
        Part::Text(text) => text.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'?' | b'#')),
        Part::Value(_) => true,
    };
    if !starts || !path.parts().iter().all(clean) {
        report.add(
            node.place,
            "not a path, expected it to begin with '/' and to hold no space, '?' or '#' (see \"query\")",
        );
        return None;
    }
    Some(path)
}

fn headers(node: &Node, scope: &Scope<'_>, report: &mut Report) -> Vec<(HeaderName, Template)> {
    let entries = node.entries("the header's name and its value", report).unwrap_or_default();
    let read = |(key, node): &(Key, Node)| {
        let name = header_name(&key.name);
        if name.is_none() {
            report.add(key.place, format!("{:?} is not the name of a header that may be set here", key.name));
        }
        let text = match &node.value {
            Value::Int(number) => number.to_string(),
            _ => node.text("text with {expressions}", report)?.to_owned(),
        };
        if text.chars().any(char::is_control) {
            report.add(node.place, "a header's value holds a line break or another control character");
            return None;
        }
        Some((name?, template::parse(&text, node.place, scope, report)?))
    };
    entries.iter().filter_map(read).collect()
}

/// Headers that frame the message or are the mesh's own can't be set by a file.
fn header_name(text: &str) -> Option<HeaderName> {
    const OURS: &[&str] =
        &["host", "content-length", "transfer-encoding", "connection", "te", "upgrade", "traceparent"];
    HeaderName::from_bytes(text.as_bytes()).ok().filter(|name| !OURS.contains(&name.as_str()))
}

fn body(fields: Fields<'_>, scope: &Scope<'_>, report: &mut Report) -> BodyPlan {
    match (fields.get("form"), fields.get("json")) {
        (Some(_), Some(json)) => {
            report.add(json.place, "\"form\" and \"json\" together, expected one of them");
            BodyPlan::None
        }
        (Some(form), None) => BodyPlan::Form(pairs(form, scope, report)),
        (None, Some(node)) => json(node, scope, report).map_or(BodyPlan::None, BodyPlan::Json),
        (None, None) => BodyPlan::None,
    }
}

fn pairs(node: &Node, scope: &Scope<'_>, report: &mut Report) -> Vec<(String, Expression)> {
    let entries = node.entries("the key and an expression", report).unwrap_or_default();
    entries.iter().filter_map(|(key, node)| Some((key.name.clone(), leaf(node, scope, report)?))).collect()
}

fn json(node: &Node, scope: &Scope<'_>, report: &mut Report) -> Option<Json> {
    match &node.value {
        Value::Map(entries) => {
            let read: Vec<_> =
                entries.iter().filter_map(|(key, node)| Some((key.name.clone(), json(node, scope, report)?))).collect();
            Some(Json::Object(read))
        }
        Value::List(items) => Some(Json::List(items.iter().filter_map(|item| json(item, scope, report)).collect())),
        _ => leaf(node, scope, report).map(Json::Value),
    }
}

/// An expression; numbers, true, false and nothing stand for themselves.
pub(super) fn leaf(node: &Node, scope: &Scope<'_>, report: &mut Report) -> Option<Expression> {
    let text = match &node.value {
        Value::Text(text) => text.clone(),
        Value::Int(number) => number.to_string(),
        Value::Float(number) => format!("{number:?}"),
        Value::Bool(value) => value.to_string(),
        Value::Null => "null".to_owned(),
        Value::List(_) | Value::Map(_) => {
            report.add(node.place, format!("{}, expected an expression", node.kind()));
            return None;
        }
    };
    expression::compile(&text, node.place, scope, report)
}

pub(super) fn idempotency(node: &Node, input: &MessageDescriptor, report: &mut Report) -> Option<IdempotencyPlan> {
    let fields = node.fields(IDEMPOTENCY_KEYS, report)?;
    // Without `attempt`: a key that changes with the attempt recognises nothing.
    let scope = Scope { names: &["key", "id", "request"], request: Some(input.clone()), secrets: &[], fields: &[] };
    let header = fields.need("header", report).and_then(|node| {
        let name = header_name(node.text("the name of a header", report)?);
        if name.is_none() {
            report.add(node.place, "not the name of a header that may be set here");
        }
        name
    });
    let value = fields.need("value", report).and_then(|node| leaf(node, &scope, report));
    let quoted = fields.get("quoted").and_then(|node| node.boolean(report)).unwrap_or(false);
    let retention = fields.get("retention").and_then(|node| time(node, report)).unwrap_or(RETENTION);
    Some(IdempotencyPlan { header: header?, value: value?, quoted, retention })
}
