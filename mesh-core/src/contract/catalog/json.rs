//! proto3 JSON, with the path of what does not fit.

use mesh_proto::{options, v1::DataClass};
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, ReflectMessage};
use serde_path_to_error::{Path, Segment, Track};

use super::error::{CatalogError, JsonError, did_you_mean, nearest};

const UNKNOWN_FIELD: &str = "unrecognized field name '";
const UNKNOWN_ENUM_VALUE: &str = "unrecognized enum value '";

pub(super) fn write(message: &DynamicMessage) -> Result<serde_json::Value, CatalogError> {
    serde_json::to_value(message).map_err(|error| CatalogError::NotJson {
        name: message.descriptor().full_name().to_owned(),
        error: error.to_string(),
    })
}

pub(super) fn read(descriptor: &MessageDescriptor, text: &str) -> Result<DynamicMessage, JsonError> {
    let mut json = serde_json::Deserializer::from_str(text);
    let mut track = Track::new();
    let tracked = serde_path_to_error::Deserializer::new(&mut json, &mut track);
    let read = DynamicMessage::deserialize(descriptor.clone(), tracked);
    let read = read.and_then(|message| json.end().map(|()| message));
    read.map_err(|error| explain(descriptor, &track.path(), &error))
}

fn explain(descriptor: &MessageDescriptor, path: &Path, error: &serde_json::Error) -> JsonError {
    let (line, column) = (error.line(), error.column());
    let full = error.to_string();
    let text = full.strip_suffix(&format!(" at line {line} column {column}")).unwrap_or(&full);
    let found = Found::at(descriptor, path);
    // Text that is no JSON at all has a line and a column, but no field.
    let mut path = if error.is_data() { show(path) } else { String::new() };
    let (text, help) = if let Some(name) = quoted(text, UNKNOWN_FIELD) {
        path = if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
        (format!("there is no field {name:?}"), found.fields_like(name))
    } else if let Some(name) = quoted(text, UNKNOWN_ENUM_VALUE) {
        (format!("there is no value {name:?}"), found.values())
    } else if error.is_data() && found.is_confidential() {
        ("the value does not fit".to_owned(), found.expected())
    } else {
        (text.to_owned(), if error.is_data() { found.expected() } else { String::new() })
    };
    JsonError { message: descriptor.full_name().to_owned(), path, line, column, text, help }
}

/// The name within quotes after `prefix`.
fn quoted<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    text.strip_prefix(prefix)?.strip_suffix('\'')
}

fn show(path: &Path) -> String {
    let text = path.to_string();
    if text == "." { String::new() } else { text }
}

/// What the contract says about the place of an error.
struct Found {
    kind: Kind,
    field: Option<FieldDescriptor>,
    /// The place is one element of a list or map.
    element: bool,
    /// Some field on the way there is confidential, so a value must not be shown.
    confidential: bool,
}

impl Found {
    fn at(descriptor: &MessageDescriptor, path: &Path) -> Found {
        let mut found =
            Found { kind: Kind::Message(descriptor.clone()), field: None, element: false, confidential: false };
        for segment in path {
            found.step(segment);
        }
        found
    }

    fn step(&mut self, segment: &Segment) {
        let in_map = self.field.as_ref().is_some_and(FieldDescriptor::is_map) && !self.element;
        match (segment, &self.kind) {
            (Segment::Map { .. }, Kind::Message(entry)) if in_map => {
                self.kind = entry.map_entry_value_field().kind();
                self.element = true;
            }
            (Segment::Map { key }, Kind::Message(message)) => {
                let field = message.get_field_by_json_name(key).or_else(|| message.get_field_by_name(key));
                let Some(field) = field else { return };
                self.confidential |= is_confidential(&field);
                self.kind = field.kind();
                self.field = Some(field);
                self.element = false;
            }
            (Segment::Seq { .. }, _) => self.element = true,
            _ => {}
        }
    }

    fn is_confidential(&self) -> bool {
        self.confidential
    }

    fn fields_like(&self, name: &str) -> String {
        let Kind::Message(message) = &self.kind else { return String::new() };
        let names: Vec<_> = message.fields().map(|field| field.name().to_owned()).collect();
        let near = nearest(name, names.iter().cloned());
        match (near.is_empty(), names.is_empty()) {
            (false, _) => did_you_mean(&near).trim_start_matches("; ").to_owned(),
            (true, false) => format!("{} has: {}", message.full_name(), names.join(", ")),
            (true, true) => format!("{} has no fields", message.full_name()),
        }
    }

    fn values(&self) -> String {
        let Kind::Enum(kind) = &self.kind else { return String::new() };
        let names: Vec<_> = kind.values().map(|value| value.name().to_owned()).collect();
        format!("{} has: {}", kind.full_name(), names.join(", "))
    }

    fn expected(&self) -> String {
        let Some(field) = &self.field else { return String::new() };
        let repeated = !self.element;
        let shape = match (repeated && field.is_list(), repeated && field.is_map()) {
            (true, _) => "a list of ",
            (_, true) => "a map to ",
            _ => "",
        };
        let kind = match &self.kind {
            Kind::Message(entry) if repeated && field.is_map() => entry.map_entry_value_field().kind(),
            kind => kind.clone(),
        };
        format!("the contract says {shape}{}", kind_name(&kind))
    }
}

fn is_confidential(field: &FieldDescriptor) -> bool {
    matches!(options::data_class(field), DataClass::Personal | DataClass::Payment | DataClass::Secret)
}

fn kind_name(kind: &Kind) -> String {
    match kind {
        Kind::Message(message) => message.full_name().to_owned(),
        Kind::Enum(kind) => kind.full_name().to_owned(),
        Kind::Bytes => "bytes, in base64".to_owned(),
        scalar => format!("{scalar:?}").to_lowercase(),
    }
}
