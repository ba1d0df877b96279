//! What an event must keep: a producer with a proper name, a key that is a field, no secrets.

use mesh_proto::{options::OPTION_NUMBER, v1::EventOptions};
use prost_reflect::{Kind, MessageDescriptor};

use super::{Found, check_key, secrets};
use crate::place::Place;

/// Numbers of the fields of `mesh.v1.EventOptions`.
const PRODUCER: i32 = 1;
const KEY: i32 = 2;

pub(super) fn check(found: &mut Found<'_>, message: &MessageDescriptor, event: &EventOptions) {
    let place = |path: &[i32]| Place::of_message_option(message, path);
    let name = message.full_name();
    check_producer(found, name, &event.producer, &place(&[OPTION_NUMBER, PRODUCER]));
    check_key(found, message, &event.key, &place(&[OPTION_NUMBER, KEY]));
    secrets::check(found, message, &format!("the event `{name}`"), &place(&[OPTION_NUMBER]));
    check_accessors(found, message);
}

fn check_producer(found: &mut Found<'_>, name: &str, producer: &str, place: &Place) {
    if producer.is_empty() {
        found.push(
            place,
            format!("the event `{name}` names no producer"),
            "say which service publishes it: option (mesh.v1.event) = { producer: \"orders\" };",
        );
    } else if !is_service_name(producer) {
        let mended = mend(producer);
        let help = if is_service_name(&mended) {
            format!("a service's name has 1 to 63 characters of a-z, 0-9 and '-': \"{mended}\"")
        } else {
            "a service's name has 1 to 63 characters of a-z, 0-9 and '-'".to_owned()
        };
        found.push(place, format!("the event `{name}` has a producer that is no service's name: {producer:?}"), help);
    }
}

/// The same rule as `mesh_core::subject::Name`.
fn is_service_name(text: &str) -> bool {
    (1..=63).contains(&text.len()) && text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'))
}

fn mend(producer: &str) -> String {
    let lower = producer.trim().to_lowercase();
    lower.chars().map(|c| if matches!(c, '_' | '.' | ' ') { '-' } else { c }).collect()
}

/// prost gives enum and optional fields a method of their name, which must not meet one of ours.
fn check_accessors(found: &mut Found<'_>, message: &MessageDescriptor) {
    for field in message.fields() {
        let has_method = field.supports_presence() || matches!(field.kind(), Kind::Enum(_));
        if has_method && matches!(field.name(), "publisher" | "consumer") {
            found.push(
                &Place::of_field(&field),
                format!("the field `{}` of an event would hide the generated function of that name", field.name()),
                format!("rename it, for example `{}_name`", field.name()),
            );
        }
    }
}
