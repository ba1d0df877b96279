//! Names that differ in protobuf and meet in Rust.
//!
//! Subjects can't collide: they hold full names, and protobuf gives each to one thing.

use std::collections::HashMap;

use prost_reflect::{FileDescriptor, MessageDescriptor, ServiceDescriptor};

use super::Found;
use crate::{
    place::Place,
    rust_names::{modules, snake, upper_camel},
};

/// Who has a name: seen by people, and where it stands.
type Owner = (String, Place);

pub(super) fn check(found: &mut Found<'_>, own: &[FileDescriptor]) {
    let mut types = HashMap::new();
    let mut inner = HashMap::new();
    for file in own {
        claim_packages(&mut inner, file);
    }
    for file in own {
        let scope = modules(file.package_name()).join("::");
        for message in file.messages() {
            let owner = || (format!("the message `{}`", message.full_name()), Place::of_message(&message));
            claim(found, &mut types, format!("{scope}::{}", upper_camel(message.name())), owner());
            if has_module(&message) {
                claim(found, &mut inner, format!("{scope}::{}", snake(message.name())), owner());
            }
        }
        for enumeration in file.enums() {
            let owner = (format!("the enum `{}`", enumeration.full_name()), Place::of_enum(&enumeration));
            claim(found, &mut types, format!("{scope}::{}", upper_camel(enumeration.name())), owner);
        }
        for service in file.services() {
            claim_service(found, &mut types, &mut inner, &scope, &service);
        }
    }
}

/// A package is a module, and so is each part of its name. Packages come first, and share their modules.
fn claim_packages(inner: &mut HashMap<String, Owner>, file: &FileDescriptor) {
    let parts = modules(file.package_name());
    for length in 1..=parts.len() {
        let owner = (format!("the package `{}`", file.package_name()), Place::of_file(file));
        inner.entry(parts[..length].join("::")).or_insert(owner);
    }
}

/// prost puts what is nested in a message into a module.
fn has_module(message: &MessageDescriptor) -> bool {
    message.child_messages().any(|child| !child.is_map_entry())
        || message.child_enums().len() > 0
        || message.oneofs().any(|oneof| !oneof.is_synthetic())
}

fn claim_service(
    found: &mut Found<'_>,
    types: &mut HashMap<String, Owner>,
    inner: &mut HashMap<String, Owner>,
    scope: &str,
    service: &ServiceDescriptor,
) {
    let owner = || (format!("the service `{}`", service.full_name()), Place::of_service(service));
    let name = upper_camel(service.name());
    for suffix in ["", "Client", "Server"] {
        claim(found, types, format!("{scope}::{name}{suffix}"), owner());
    }
    claim(found, inner, format!("{scope}::{}", snake(service.name())), owner());

    let mut functions = HashMap::new();
    let client = (format!("the client of `{}`", service.full_name()), Place::of_service(service));
    functions.insert("new".to_owned(), client);
    for method in service.methods() {
        let owner = (format!("the rpc `{}/{}`", service.full_name(), method.name()), Place::of_method(&method));
        claim(found, &mut functions, snake(method.name()), owner);
    }
}

fn claim(found: &mut Found<'_>, names: &mut HashMap<String, Owner>, name: String, owner: Owner) {
    let Some((other, _)) = names.get(&name) else {
        names.insert(name, owner);
        return;
    };
    let text = format!("{} and {other} would both be `{name}` in Rust", owner.0);
    found.push(&owner.1, text, "rename one of them");
}
