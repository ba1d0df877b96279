//! `Debug` of messages with confidential fields: their values never reach a log.

use mesh_proto::{options, v1::DataClass};
use prost_reflect::{FieldDescriptor, FileDescriptor, MessageDescriptor, OneofDescriptor};

use super::push;
use crate::rust_names::{local_path, snake, upper_camel};

/// The messages for which prost must not write `Debug`, as it names them.
pub(super) fn hidden(own: &[FileDescriptor]) -> Vec<String> {
    let mut open: Vec<MessageDescriptor> = own.iter().flat_map(|file| file.messages().collect::<Vec<_>>()).collect();
    let mut hidden = Vec::new();
    while let Some(message) = open.pop() {
        open.extend(message.child_messages());
        if needs_debug(&message) {
            hidden.push(format!(".{}", message.full_name()));
        }
    }
    hidden
}

fn needs_debug(message: &MessageDescriptor) -> bool {
    !message.is_map_entry() && message.fields().any(|field| confidential(&field).is_some())
}

/// What to show instead of the value.
fn confidential(field: &FieldDescriptor) -> Option<&'static str> {
    match options::data_class(field) {
        DataClass::Personal => Some("[personal]"),
        DataClass::Payment => Some("[payment]"),
        DataClass::Secret => Some("[secret]"),
        DataClass::Unspecified | DataClass::Public | DataClass::Internal => None,
    }
}

pub(super) fn push_debug(text: &mut String, message: &MessageDescriptor) {
    if !needs_debug(message) {
        return;
    }
    let path = local_path(message);
    push(
        text,
        &format!(
            r#"
/// Shows what is not confidential.
impl ::std::fmt::Debug for {path} {{
    fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {{
        f.debug_struct("{}")
"#,
            upper_camel(message.name())
        ),
    );
    let single = message.fields().filter(|field| oneof(field).is_none());
    for field in single {
        push_field(text, field.name(), confidential(&field));
    }
    for oneof in message.oneofs().filter(|oneof| !oneof.is_synthetic()) {
        push_field(text, oneof.name(), oneof.fields().find_map(|field| confidential(&field)));
    }
    push(text, "            .finish()\n    }\n}\n");
}

fn oneof(field: &FieldDescriptor) -> Option<OneofDescriptor> {
    field.containing_oneof().filter(|oneof| !oneof.is_synthetic())
}

fn push_field(text: &mut String, name: &str, instead: Option<&str>) {
    let value = instead.map_or_else(|| format!("self.{}", snake(name)), |instead| format!("{instead:?}"));
    push(text, &format!("            .field({name:?}, &{value})\n"));
}
