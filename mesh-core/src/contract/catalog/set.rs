//! Setting one value in a message by its path, typed by the contract.

use std::fmt;

use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, ReflectMessage as _, Value};
use serde_json::json;

use super::{
    error::{did_you_mean, nearest},
    json,
};

/// A path or a value that does not fit the message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetError {
    /// The path as it was given.
    pub path: String,
    /// What is wrong.
    pub text: String,
    /// What to do about it; may be empty.
    pub help: String,
}

impl std::error::Error for SetError {}

impl fmt::Display for SetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.text)
    }
}

/// What is wrong, and what to do about it.
type Wrong = (String, String);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Name(String),
    Index(usize),
    Key(String),
}

/// Sets the value at a path: `order_id`, `lines[0].quantity`, `tags.tier` or `tags["a.b"]`. One past the last element of a
/// list is appended. Fields may have their `.proto` names or their JSON names. The value is JSON, or a bare text where the
/// field takes one; `null` clears, or takes an
/// element away.
///
/// # Errors
/// The path leads nowhere, or the value does not fit: the message is as it was.
pub fn set(message: &mut DynamicMessage, path: &str, value: &str) -> Result<(), SetError> {
    let mut changed = message.clone();
    let steps = steps(path).ok_or_else(|| {
        (format!("{path:?} is no path"), "write it like order_id, lines[0].quantity or tags[\"a.b\"]".to_owned())
    });
    let done = steps.and_then(|steps| walk(&mut changed, &steps, value));
    done.map_err(|(text, help)| SetError { path: path.to_owned(), text, help })?;
    *message = changed;
    Ok(())
}

fn steps(path: &str) -> Option<Vec<Step>> {
    let (mut steps, mut rest) = (Vec::new(), path);
    while !rest.is_empty() {
        if let Some(inside) = rest.strip_prefix("[\"") {
            let (key, after) = inside.split_once("\"]")?;
            steps.push(Step::Key(key.to_owned()));
            rest = after;
        } else if let Some(inside) = rest.strip_prefix('[') {
            let (index, after) = inside.split_once(']')?;
            steps.push(Step::Index(index.parse().ok()?));
            rest = after;
        } else {
            let name = if steps.is_empty() { rest } else { rest.strip_prefix('.')? };
            let end = name.find(['.', '[']).unwrap_or(name.len());
            let (name, after) = name.split_at(end);
            steps.push(Step::Name(Some(name).filter(|name| !name.is_empty())?.to_owned()));
            rest = after;
        }
    }
    matches!(steps.first(), Some(Step::Name(_))).then_some(steps)
}

fn walk(message: &mut DynamicMessage, steps: &[Step], value: &str) -> Result<(), Wrong> {
    let Some((Step::Name(name), rest)) = steps.split_first() else {
        return Err((format!("{} has fields, not elements", message.descriptor().full_name()), String::new()));
    };
    let field = field(&message.descriptor(), name)?;
    match rest.split_first() {
        None => whole(message, &field, value),
        Some((Step::Index(index), inner)) if field.is_list() => element(message, &field, (*index, inner), value),
        Some((Step::Key(key) | Step::Name(key), inner)) if field.is_map() => {
            entry(message, &field, (key, inner), value)
        }
        Some((Step::Name(_), _)) if matches!(field.kind(), Kind::Message(_)) && !field.is_list() => {
            let inner = message.get_field_mut(&field).as_message_mut();
            inner.map_or_else(|| Err(not_inside(&field)), |inner| walk(inner, rest, value))
        }
        Some(_) => Err(not_inside(&field)),
    }
}

fn field(message: &MessageDescriptor, name: &str) -> Result<FieldDescriptor, Wrong> {
    let field = message.get_field_by_name(name).or_else(|| message.get_field_by_json_name(name));
    field.ok_or_else(|| {
        let names: Vec<_> = message.fields().map(|field| field.name().to_owned()).collect();
        let near = nearest(name, names.iter().cloned());
        let help = match near.is_empty() {
            true => format!("{} has: {}", message.full_name(), names.join(", ")),
            false => did_you_mean(&near).trim_start_matches("; ").to_owned(),
        };
        (format!("{} has no field {name:?}", message.full_name()), help)
    })
}

fn not_inside(field: &FieldDescriptor) -> Wrong {
    let shape = match (field.is_list(), field.is_map(), field.kind()) {
        (true, ..) => "a list: name an element, such as [0]",
        (_, true, _) => "a map: name a key, such as .key or [\"a.b\"]",
        (.., Kind::Message(_)) => "a message: name a field, such as .name",
        _ => "one value: nothing is inside",
    };
    (format!("{:?} is {shape}", field.name()), String::new())
}

fn whole(message: &mut DynamicMessage, field: &FieldDescriptor, text: &str) -> Result<(), Wrong> {
    if is_null(text) {
        message.clear_field(field);
        return Ok(());
    }
    let value = match field.is_list() || field.is_map() {
        true => {
            serde_json::from_str(text).map_err(|error| (format!("a list or a map is JSON: {error}"), String::new()))?
        }
        false => typed(&field.kind(), text),
    };
    match read(field, value)? {
        Some(value) => message.set_field(field, value),
        None => message.clear_field(field),
    }
    Ok(())
}

fn element(
    message: &mut DynamicMessage,
    field: &FieldDescriptor,
    (index, inner): (usize, &[Step]),
    text: &str,
) -> Result<(), Wrong> {
    let removes = inner.is_empty() && is_null(text);
    let new = match inner {
        _ if removes => None,
        [] => match read(field, json!([typed(&field.kind(), text)]))? {
            Some(Value::List(mut items)) => items.pop(),
            _ => None,
        },
        _ => None,
    };
    let Some(items) = message.get_field_mut(field).as_list_mut() else { return Err(not_inside(field)) };
    let length = items.len();
    match (items.get_mut(index), new) {
        (Some(_), None) if removes => drop(items.remove(index)),
        (Some(item), Some(new)) => *item = new,
        (None, Some(new)) if index == length => items.push(new),
        (Some(Value::Message(item)), None) if !inner.is_empty() => return walk(item, inner, text),
        (Some(_), None) => {
            return Err((format!("{:?} holds values: nothing is inside them", field.name()), String::new()));
        }
        (None, _) => return Err((format!("{:?} has {length} elements, counted from 0", field.name()), String::new())),
    }
    Ok(())
}

fn entry(
    message: &mut DynamicMessage,
    field: &FieldDescriptor,
    (key, inner): (&str, &[Step]),
    text: &str,
) -> Result<(), Wrong> {
    let Kind::Message(pair) = field.kind() else { return Err(not_inside(field)) };
    // The reader knows how a key is written; an entry that is walked into is made empty where it is not there.
    let kind = pair.map_entry_value_field().kind();
    let removes = inner.is_empty() && is_null(text);
    let value = match (inner, &kind) {
        _ if removes => empty(&kind),
        ([], kind) => typed(kind, text),
        (_, Kind::Message(_)) => json!({}),
        _ => return Err((format!("{:?} holds values: nothing is inside them", field.name()), String::new())),
    };
    let Some(Value::Map(read)) = read(field, json!({ key: value }))? else { return Err(not_inside(field)) };
    let Some(entries) = message.get_field_mut(field).as_map_mut() else { return Err(not_inside(field)) };
    for (key, value) in read {
        if removes {
            entries.remove(&key);
        } else if inner.is_empty() {
            entries.insert(key, value);
        } else if let Value::Message(inside) = entries.entry(key).or_insert(value) {
            walk(inside, inner, text)?;
        }
    }
    Ok(())
}

fn is_null(text: &str) -> bool {
    text.trim() == "null"
}

/// Some value of a kind.
fn empty(kind: &Kind) -> serde_json::Value {
    match kind {
        Kind::Message(_) => json!({}),
        Kind::String | Kind::Bytes => json!(""),
        Kind::Bool => json!(false),
        _ => json!(0),
    }
}

/// The text as the JSON that a field of this kind takes.
fn typed(kind: &Kind, text: &str) -> serde_json::Value {
    let bare = || serde_json::Value::String(text.to_owned());
    let json = serde_json::from_str::<serde_json::Value>(text);
    match (kind, json) {
        (Kind::String | Kind::Bytes, Ok(value @ serde_json::Value::String(_))) => value,
        (Kind::String | Kind::Bytes, _) => bare(),
        // JSON numbers beyond 2^53 are exact only as texts.
        (
            Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 | Kind::Uint64 | Kind::Fixed64,
            Ok(serde_json::Value::Number(_)),
        ) => serde_json::Value::String(text.trim().to_owned()),
        (_, Ok(value)) => value,
        (_, Err(_)) => bare(),
    }
}

/// The field's value as the contract's JSON reader takes it. `None`: it is the default.
fn read(field: &FieldDescriptor, value: serde_json::Value) -> Result<Option<Value>, Wrong> {
    let document = json!({ field.json_name(): value }).to_string();
    let mut read = json::read(field.parent_message(), &document).map_err(|error| (error.text, error.help))?;
    Ok(read.take_field(field))
}
