//! What an rpc must keep: one request, one reply, one word on repeats, no secrets.

use mesh_proto::{
    options::{self, IdempotencyLevel, OPTION_NUMBER},
    v1::Repeat,
};
use prost_reflect::{MessageDescriptor, MethodDescriptor};

use super::{Found, check_key, is_google, secrets};
use crate::place::Place;

/// Numbers of the fields of `mesh.v1.OperationOptions`.
const REPEAT: i32 = 1;
const KEY: i32 = 2;

pub(super) fn check(found: &mut Found<'_>, method: &MethodDescriptor) {
    let place = Place::of_method(method);
    let name = format!("{}/{}", method.parent_service().full_name(), method.name());
    if method.is_client_streaming() || method.is_server_streaming() {
        found.push(
            &place,
            format!("the operation `{name}` streams"),
            "an operation has one request and one reply: publish events for a stream of facts",
        );
    }
    check_repeat(found, method, &name);
    let option = Place::of_method_option(method, &[OPTION_NUMBER, KEY]);
    check_key(found, &method.input(), &options::operation(method).key, &option);
    for (message, role) in [(method.input(), "request"), (method.output(), "reply")] {
        check_owner(found, &message, &format!("{role} of the operation `{name}`"), &place);
        secrets::check(found, &message, &format!("the {role} of `{name}` when it is enqueued"), &place);
    }
}

fn check_repeat(found: &mut Found<'_>, method: &MethodDescriptor, name: &str) {
    let ours = options::operation(method).repeat();
    let standard = options::idempotency_level(method);
    if ours == Repeat::Unspecified || standard == IdempotencyLevel::IdempotencyUnknown {
        return;
    }
    found.push(
        &Place::of_method_option(method, &[OPTION_NUMBER, REPEAT]),
        format!(
            "the operation `{name}` says twice what a repeat does: {} and idempotency_level = {}",
            ours.as_str_name(),
            standard.as_str_name()
        ),
        "keep one: idempotency_level where a repeat is harmless by itself, mesh.v1.operation.repeat otherwise",
    );
}

/// Request and reply have code of their own: Google's well-known types and those of `mesh.v1` have none.
fn check_owner(found: &mut Found<'_>, message: &MessageDescriptor, role: &str, place: &Place) {
    let package = message.package_name();
    if is_google(package) || package == "mesh.v1" {
        found.push(
            place,
            format!("`{}` can't be the {role}", message.full_name()),
            "declare a message of your own, so that it can grow fields: message PingRequest {}",
        );
    }
}
