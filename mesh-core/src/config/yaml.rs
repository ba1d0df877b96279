//! A YAML document as a tree in which every node knows its place.

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

use super::problem::{Place, Report, hint};

/// A node and where it stands.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) place: Place,
    pub(super) value: Value,
}

/// What a node holds.
#[derive(Debug, Clone)]
pub(super) enum Value {
    Null,
    Bool(bool),
    Int(i128),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    /// In the order of the file.
    Map(Vec<(Key, Node)>),
}

/// A key of a mapping and where it stands.
#[derive(Debug, Clone)]
pub(super) struct Key {
    pub(super) place: Place,
    pub(super) name: String,
}

/// Reads a document.
pub(super) fn parse(text: &str, report: &mut Report) -> Option<Node> {
    match serde_saphyr::from_str::<Spanned<Raw>>(text) {
        Ok(root) => Some(root.into()),
        Err(error) => {
            let error = error.without_snippet();
            let place = error.location().map_or(Place { line: 1, column: 1 }, place);
            let said = error.to_string();
            let what = said.lines().next().unwrap_or_default().trim_end_matches(':');
            report.add(place, format!("not a YAML document of this kind: {what}"));
            None
        }
    }
}

fn place(location: serde_saphyr::Location) -> Place {
    let number = |n: u64| usize::try_from(n).unwrap_or(usize::MAX).max(1);
    Place { line: number(location.line()), column: number(location.column()) }
}

impl Node {
    /// What it is, for an error.
    pub(super) fn kind(&self) -> &'static str {
        match self.value {
            Value::Null => "nothing",
            Value::Bool(_) => "true or false",
            Value::Int(_) | Value::Float(_) => "a number",
            Value::Text(_) => "text",
            Value::List(_) => "a list",
            Value::Map(_) => "a mapping",
        }
    }

    /// The text, or a report that says what stands there instead. `what` is what is expected.
    pub(super) fn text(&self, what: &str, report: &mut Report) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => {
                report.add(self.place, format!("{}, expected {what}", self.kind()));
                None
            }
        }
    }

    pub(super) fn boolean(&self, report: &mut Report) -> Option<bool> {
        match self.value {
            Value::Bool(value) => Some(value),
            _ => {
                report.add(self.place, format!("{}, expected true or false", self.kind()));
                None
            }
        }
    }

    pub(super) fn list(&self, what: &str, report: &mut Report) -> Option<&[Node]> {
        match &self.value {
            Value::List(items) => Some(items),
            _ => {
                report.add(self.place, format!("{}, expected a list of {what}", self.kind()));
                None
            }
        }
    }

    /// The entries, whatever their keys.
    pub(super) fn entries(&self, what: &str, report: &mut Report) -> Option<&[(Key, Node)]> {
        match &self.value {
            Value::Map(entries) => Some(entries),
            _ => {
                report.add(self.place, format!("{}, expected a mapping: {what}", self.kind()));
                None
            }
        }
    }

    /// The mapping's node under each of `known`, after every other key was reported.
    pub(super) fn fields<'a>(&'a self, known: &'static [&'static str], report: &mut Report) -> Option<Fields<'a>> {
        let entries = self.entries(&known.join(", "), report)?;
        for (key, _) in entries.iter().filter(|(key, _)| !known.contains(&key.name.as_str())) {
            report.add(key.place, format!("unknown key {:?}{}", key.name, hint(&key.name, known.iter().copied())));
        }
        Some(Fields { place: self.place, entries })
    }
}

/// A mapping whose keys are known.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fields<'a> {
    pub(super) place: Place,
    entries: &'a [(Key, Node)],
}

impl<'a> Fields<'a> {
    pub(super) fn get(&self, name: &str) -> Option<&'a Node> {
        self.entries.iter().find(|(key, _)| key.name == name).map(|(_, node)| node)
    }

    pub(super) fn need(&self, name: &str, report: &mut Report) -> Option<&'a Node> {
        let node = self.get(name);
        if node.is_none() {
            report.add(self.place, format!("the key {name:?} is missing"));
        }
        node
    }
}

/// What serde fills: the same as [`Value`], with serde-saphyr's spans.
enum Raw {
    Null,
    Bool(bool),
    Int(i128),
    Float(f64),
    Text(String),
    List(Vec<Spanned<Raw>>),
    Map(Vec<(Spanned<String>, Spanned<Raw>)>),
}

impl From<Spanned<Raw>> for Node {
    fn from(raw: Spanned<Raw>) -> Node {
        let value = match raw.value {
            Raw::Null => Value::Null,
            Raw::Bool(value) => Value::Bool(value),
            Raw::Int(value) => Value::Int(value),
            Raw::Float(value) => Value::Float(value),
            Raw::Text(value) => Value::Text(value),
            Raw::List(items) => Value::List(items.into_iter().map(Node::from).collect()),
            Raw::Map(entries) => Value::Map(entries.into_iter().map(|(key, node)| (key.into(), node.into())).collect()),
        };
        Node { place: place(raw.referenced), value }
    }
}

impl From<Spanned<String>> for Key {
    fn from(key: Spanned<String>) -> Key {
        Key { place: place(key.referenced), name: key.value }
    }
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Raw, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_none<E>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Raw, D::Error> {
        Raw::deserialize(deserializer)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Raw, E> {
        Ok(Raw::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Raw, E> {
        Ok(Raw::Int(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Raw, E> {
        Ok(Raw::Int(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Raw, E> {
        Ok(Raw::Float(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Raw, E> {
        Ok(Raw::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Raw, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element()? {
            items.push(item);
        }
        Ok(Raw::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Raw, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = access.next_entry()? {
            entries.push(entry);
        }
        Ok(Raw::Map(entries))
    }
}
