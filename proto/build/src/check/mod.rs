//! What a contract must keep: every problem is found before code is written, and each says what to do.

mod events;
mod names;
mod operations;
mod secrets;

use mesh_proto::options;
use prost_reflect::{FileDescriptor, MessageDescriptor};

use crate::{
    error::Problem,
    place::{Files, Place},
};

/// Every problem of these files, in the order of their places.
pub(crate) fn problems(own: &[FileDescriptor], files: &Files) -> Vec<Problem> {
    let mut found = Found { files, problems: Vec::new() };
    for file in own {
        check_file(&mut found, file);
    }
    names::check(&mut found, own);
    found.problems.sort();
    found.problems.dedup();
    found.problems
}

/// Collects problems.
struct Found<'a> {
    files: &'a Files,
    problems: Vec<Problem>,
}

impl Found<'_> {
    fn push(&mut self, place: &Place, text: impl Into<String>, help: impl Into<String>) {
        self.problems.push(self.files.problem(place, text.into(), help.into()));
    }
}

fn check_file(found: &mut Found<'_>, file: &FileDescriptor) {
    if file.package_name().is_empty() {
        found.push(
            &Place::of_file(file),
            "the file names no package, so its contracts would have no full names",
            "begin it with a package, versioned: package shop.orders.v1;",
        );
    }
    for message in file.messages() {
        check_message(found, &message);
    }
    for service in file.services() {
        for method in service.methods() {
            operations::check(found, &method);
        }
    }
}

fn check_message(found: &mut Found<'_>, message: &MessageDescriptor) {
    if let Some(event) = options::event(message) {
        events::check(found, message, &event);
    }
    for child in message.child_messages() {
        check_message(found, &child);
    }
}

/// The key field of a message exists and can be a key.
fn check_key(found: &mut Found<'_>, message: &MessageDescriptor, key: &str, place: &Place) {
    if key.is_empty() {
        return;
    }
    let name = message.full_name();
    match message.get_field_by_name(key) {
        None => {
            found.push(place, format!("`{name}` has no field `{key}` to be its ordering key"), nearest(message, key))
        }
        Some(field) if !options::can_be_key(&field) => found.push(
            place,
            format!("the field `{key}` of `{name}` can't be an ordering key"),
            "choose a single string, bool, integer or enum field, outside any oneof",
        ),
        Some(_) => {}
    }
}

fn nearest(message: &MessageDescriptor, key: &str) -> String {
    let fields: Vec<_> = message.fields().filter(options::can_be_key).map(|field| field.name().to_owned()).collect();
    let score = |name: &&String| {
        let related = name.contains(key) || key.contains(name.as_str());
        if related { 1.0 } else { strsim::jaro_winkler(name, key) }
    };
    let best = fields.iter().max_by(|a, b| score(a).total_cmp(&score(b))).filter(|name| score(name) > 0.7);
    match best {
        Some(name) => format!("did you mean `{name}`?"),
        None if fields.is_empty() => "it has no field that could be one: leave the key out".to_owned(),
        None => format!("choose one of: {}", fields.join(", ")),
    }
}

/// Whether a package is Google's own, which prost maps to types of its own.
pub(crate) fn is_google(package: &str) -> bool {
    package == "google.protobuf" || package.starts_with("google.protobuf.")
}
