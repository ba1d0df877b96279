//! The contracts that the program knows: the shop's, the mesh's own, and those that the user names.

use std::path::Path;

use mesh_core::{
    contract::{
        Catalog,
        catalog::{EventEntry, OperationEntry},
    },
    fault::{Code, Effect, Fault, Reason},
};
use prost_reflect::DescriptorPool;

use super::{Failure, GlobalArgs};

/// Every contract, by name.
///
/// # Errors
/// A file of the user's can't be read or is no descriptor set.
pub(super) fn catalog(global: &GlobalArgs) -> anyhow::Result<Catalog> {
    Ok(Catalog::new(descriptors(global)?.iter().map(Vec::as_slice))?)
}

/// The same as encoded descriptor sets.
///
/// # Errors
/// A file of the user's can't be read.
pub(super) fn descriptors(global: &GlobalArgs) -> Result<Vec<Vec<u8>>, Failure> {
    let mut sets = vec![mesh_core::proto::DESCRIPTORS.to_vec(), shop_proto::DESCRIPTORS.to_vec()];
    for path in &global.descriptors {
        sets.push(read(path)?);
    }
    Ok(sets)
}

/// The descriptors behind a catalog.
pub(super) fn pool(catalog: &Catalog) -> DescriptorPool {
    let message = catalog.message("mesh.v1.Fault");
    message.map(|message| message.parent_pool().clone()).unwrap_or_default()
}

/// The event of this name.
///
/// # Errors
/// There is none: the error proposes near names, or the right command.
pub(super) fn event<'c>(catalog: &'c Catalog, name: &str) -> Result<&'c EventEntry, Failure> {
    catalog.event(name).ok_or_else(|| {
        let known = if catalog.operation(name).is_some() {
            Some(("an operation", format!("mesh call {name}, or mesh enqueue {name}")))
        } else {
            catalog.message(name).map(|_| ("a message, but no event", events(catalog)))
        };
        wrong_name(catalog, ("event", name), known)
    })
}

/// The operation of this name.
///
/// # Errors
/// There is none: the error proposes near names, or the right command.
pub(super) fn operation<'c>(catalog: &'c Catalog, name: &str) -> Result<&'c OperationEntry, Failure> {
    catalog.operation(name).ok_or_else(|| {
        let known = if catalog.event(name).is_some() {
            Some(("an event", format!("mesh publish {name}")))
        } else {
            catalog.message(name).map(|_| ("a message, but no operation", operations(catalog)))
        };
        wrong_name(catalog, ("operation", name), known)
    })
}

fn wrong_name(catalog: &Catalog, (kind, name): (&str, &str), known: Option<(&str, String)>) -> Failure {
    let (message, help) = match known {
        Some((what, instead)) => (format!("{name:?} is {what}"), instead),
        None => {
            let nearest = catalog.nearest(name).join(", ");
            let list = if kind == "event" { events(catalog) } else { operations(catalog) };
            match nearest.is_empty() {
                true => (format!("unknown {kind} {name:?}"), list),
                false => (format!("unknown {kind} {name:?}; nearest: {nearest}"), String::new()),
            }
        }
    };
    Failure::new(Fault::new(Code::NotFound, Effect::None, Reason::UnknownName, message), help)
}

fn events(catalog: &Catalog) -> String {
    let names: Vec<_> = catalog.events().map(|entry| entry.message.full_name().to_owned()).collect();
    format!("known events: {}", names.join(", "))
}

fn operations(catalog: &Catalog) -> String {
    let names: Vec<_> = catalog.operations().map(|entry| entry.info.full_name()).collect();
    format!("known operations: {}", names.join(", "))
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(path).map_err(|error| {
        let message = format!("the descriptor set {} can't be read: {error}", path.display());
        Failure::input(
            message,
            "write one with buf build -o FILE, or protoc --include_imports --descriptor_set_out FILE",
        )
    })
}
