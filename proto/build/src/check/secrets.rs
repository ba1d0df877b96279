//! Secrets may not stand in a stored message, however deep.

use std::collections::HashSet;

use mesh_proto::{
    options::{self, OPTION_NUMBER},
    v1::DataClass,
};
use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};

use super::Found;
use crate::place::Place;

/// Reports every secret that `message`, which is stored as `role`, can hold.
pub(super) fn check(found: &mut Found<'_>, message: &MessageDescriptor, role: &str, user: &Place) {
    let mut seen = HashSet::new();
    let mut open = vec![message.clone()];
    while let Some(message) = open.pop() {
        if !seen.insert(message.full_name().to_owned()) {
            continue;
        }
        for field in message.fields() {
            if options::data_class(&field) == DataClass::Secret {
                report(found, &field, role, user);
            }
            if let Kind::Message(inner) = field.kind() {
                open.push(inner);
            }
        }
    }
}

fn report(found: &mut Found<'_>, field: &FieldDescriptor, role: &str, user: &Place) {
    // A field of another crate's contract has no place here: then the message that uses it is the place to change.
    let ours = field.parent_file().file_descriptor_proto().source_code_info.is_some();
    let place = if ours { Place::of_field_option(field, &[OPTION_NUMBER]) } else { user.clone() };
    found.push(
        &place,
        format!("the secret `{}` would be stored in {role}", field.full_name()),
        "leave it out and pass a reference to it (the name of a secret, an id), or give it the class it really has",
    );
}
