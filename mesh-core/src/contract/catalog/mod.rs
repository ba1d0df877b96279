//! Messages and operations by name, read from descriptors: what a tool knows that was not compiled with the contract.

mod carry;
mod error;
mod json;
mod set;

use std::{borrow::Cow, collections::BTreeMap};

use mesh_proto::options::{self, RepeatRule};
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, MethodDescriptor, ReflectMessage};
use prost_types::{FileDescriptorProto, FileDescriptorSet};

pub use carry::{CarryError, Hidden, carry_over, visible};
pub use error::{CatalogError, JsonError};
pub use set::{SetError, set};

use super::{OperationInfo, Repeat};

/// Names of Google's own types, which nobody publishes.
const GOOGLE: &str = "google.protobuf.";

/// Every message, event and operation of some contracts.
#[derive(Debug, Clone)]
pub struct Catalog {
    pool: DescriptorPool,
    events: BTreeMap<String, EventEntry>,
    operations: BTreeMap<String, OperationEntry>,
}

/// An event, read from its descriptor.
#[derive(Debug, Clone)]
pub struct EventEntry {
    /// The message, with its full name.
    pub message: MessageDescriptor,
    /// The service that publishes it.
    pub producer: String,
    /// Name of the field that is the ordering key.
    pub key: Option<String>,
}

/// An operation, read from its descriptor.
#[derive(Debug, Clone)]
pub struct OperationEntry {
    /// Its names, and what a repeat does.
    pub info: OperationInfo,
    /// What is asked.
    pub request: MessageDescriptor,
    /// What is answered.
    pub reply: MessageDescriptor,
    /// Name of the request's field that is the ordering key.
    pub key: Option<String>,
}

impl Catalog {
    /// Reads encoded `google.protobuf.FileDescriptorSet`s: `shop_proto::DESCRIPTORS`, `mesh_proto::DESCRIPTORS`, or a
    /// file that `mesh-build`, `buf` or `protoc --include_imports --descriptor_set_out` wrote. A file may stand in
    /// several of them.
    ///
    /// # Errors
    /// One is not a descriptor set, lacks an import, or two of them hold different files of one name.
    pub fn new<'a>(sets: impl IntoIterator<Item = &'a [u8]>) -> Result<Catalog, CatalogError> {
        let mut pool = DescriptorPool::new();
        for set in sets {
            check_conflicts(&pool, set)?;
            pool.decode_file_descriptor_set(set).map_err(|error| CatalogError::Descriptors(error.to_string()))?;
        }
        let events =
            pool.all_messages().filter_map(event_entry).map(|entry| (entry.message.full_name().to_owned(), entry));
        let methods: Vec<_> = pool.services().flat_map(|service| service.methods().collect::<Vec<_>>()).collect();
        let operations = methods.iter().map(operation_entry).map(|entry| (entry.info.full_name(), entry));
        let (events, operations) = (events.collect(), operations.collect());
        Ok(Catalog { pool, events, operations })
    }

    /// A message by its full name.
    #[must_use]
    pub fn message(&self, full_name: &str) -> Option<MessageDescriptor> {
        self.pool.get_message_by_name(full_name)
    }

    /// An event by its full name.
    #[must_use]
    pub fn event(&self, full_name: &str) -> Option<&EventEntry> {
        self.events.get(full_name)
    }

    /// Every event, by name.
    pub fn events(&self) -> impl Iterator<Item = &EventEntry> {
        self.events.values()
    }

    /// An operation by `package.Service/Method`, or with a dot for the slash.
    #[must_use]
    pub fn operation(&self, name: &str) -> Option<&OperationEntry> {
        let slashed = || name.rsplit_once('.').map(|(service, method)| format!("{service}/{method}"));
        self.operations.get(name).or_else(|| self.operations.get(&slashed()?))
    }

    /// What a message of this type carries: an event's own message, an operation's request.
    #[must_use]
    pub fn payload(&self, message_type: &str) -> Option<MessageDescriptor> {
        self.operation(message_type).map_or_else(|| self.message(message_type), |entry| Some(entry.request.clone()))
    }

    /// Every operation, by name.
    pub fn operations(&self) -> impl Iterator<Item = &OperationEntry> {
        self.operations.values()
    }

    /// The full name of every rpc service, in order.
    #[must_use]
    pub fn services(&self) -> Vec<String> {
        let mut services: Vec<_> = self.pool.services().map(|service| service.full_name().to_owned()).collect();
        services.sort();
        services
    }

    /// The full name of every message and operation but Google's, in order.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let messages = self.pool.all_messages().filter(|message| !message.is_map_entry());
        let mut names: Vec<_> = messages.map(|message| message.full_name().to_owned()).collect();
        names.retain(|name| !name.starts_with(GOOGLE));
        names.extend(self.operations.keys().cloned());
        names.sort();
        names
    }

    /// The names nearest to one that is unknown, best first, at most three.
    #[must_use]
    pub fn nearest(&self, name: &str) -> Vec<String> {
        error::nearest(name, self.names())
    }

    /// Reads the bytes of a message. Fields that the contract does not know are kept.
    ///
    /// # Errors
    /// The name is unknown, or the bytes are no such message.
    pub fn decode(&self, full_name: &str, payload: &[u8]) -> Result<DynamicMessage, CatalogError> {
        let descriptor = self.known(full_name)?;
        DynamicMessage::decode(descriptor, payload).map_err(|error| CatalogError::Undecodable {
            name: full_name.to_owned(),
            length: payload.len(),
            error: error.to_string(),
        })
    }

    /// The bytes of a message as proto3 JSON: names in `lowerCamelCase`, 64-bit integers as strings, defaults left out.
    ///
    /// # Errors
    /// The name is unknown, the bytes are no such message, or hold a value that JSON can't say (a time out of range).
    pub fn to_json(&self, full_name: &str, payload: &[u8]) -> Result<serde_json::Value, CatalogError> {
        json::write(&self.decode(full_name, payload)?)
    }

    /// Reads a message from proto3 JSON. Fields may have their `.proto` names as well. The encoded bytes are
    /// `prost::Message::encode_to_vec` of it.
    ///
    /// # Errors
    /// The name is unknown, or the text does not fit: the error names the field's path, line and column.
    pub fn from_json(&self, full_name: &str, text: &str) -> Result<DynamicMessage, CatalogError> {
        json::read(&self.known(full_name)?, text).map_err(CatalogError::Json)
    }

    fn known(&self, full_name: &str) -> Result<MessageDescriptor, CatalogError> {
        self.message(full_name)
            .ok_or_else(|| CatalogError::UnknownName { name: full_name.to_owned(), nearest: self.nearest(full_name) })
    }
}

/// The ordering key of an event: the same text as the generated `Event::key`. Empty where there is none.
#[must_use]
pub fn key_of(message: &DynamicMessage) -> String {
    let key = options::event(&message.descriptor()).map(|event| event.key).unwrap_or_default();
    key_at(message, &key)
}

impl OperationEntry {
    /// The ordering key of a request: the same text as the generated `Operation::key`. Empty where there is none.
    #[must_use]
    pub fn key_of(&self, request: &DynamicMessage) -> String {
        key_at(request, self.key.as_deref().unwrap_or_default())
    }
}

fn key_at(message: &DynamicMessage, key: &str) -> String {
    message.get_field_by_name(key).and_then(|value| options::key_text(&value)).unwrap_or_default()
}

fn event_entry(message: MessageDescriptor) -> Option<EventEntry> {
    let event = options::event(&message)?;
    Some(EventEntry { message, producer: event.producer, key: some(event.key) })
}

fn operation_entry(method: &MethodDescriptor) -> OperationEntry {
    let (request, reply) = (method.input(), method.output());
    let info = OperationInfo {
        service: Cow::Owned(method.parent_service().full_name().to_owned()),
        method: Cow::Owned(method.name().to_owned()),
        repeat: options::repeat(method).into(),
        request: Cow::Owned(request.full_name().to_owned()),
        reply: Cow::Owned(reply.full_name().to_owned()),
    };
    OperationEntry { info, request, reply, key: some(options::operation(method).key) }
}

fn some(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

impl From<RepeatRule> for Repeat {
    fn from(rule: RepeatRule) -> Repeat {
        match rule {
            RepeatRule::NoSideEffects => Repeat::NoSideEffects,
            RepeatRule::Idempotent => Repeat::Idempotent,
            RepeatRule::Keyed => Repeat::Keyed,
            RepeatRule::LookUp => Repeat::LookUp,
            RepeatRule::Once => Repeat::Once,
        }
    }
}

/// The pool skips a file whose name it has, silently: fine for a copy, wrong for another version of it.
fn check_conflicts(pool: &DescriptorPool, set: &[u8]) -> Result<(), CatalogError> {
    let set = FileDescriptorSet::decode(set).map_err(|error| CatalogError::Descriptors(error.to_string()))?;
    for file in set.file {
        let known = pool.get_file_by_name(file.name());
        let differs = known.is_some_and(|known| names_within(known.file_descriptor_proto()) != names_within(&file));
        // Two compilers write Google's files differently.
        if differs && !file.package().starts_with("google.protobuf") {
            return Err(CatalogError::Conflict { file: file.name().to_owned() });
        }
    }
    Ok(())
}

/// A file without its comments, and without what only some compilers write.
fn names_within(file: &FileDescriptorProto) -> FileDescriptorProto {
    let mut file = FileDescriptorProto { source_code_info: None, ..file.clone() };
    file.message_type.iter_mut().for_each(forget_json_names);
    file.extension.iter_mut().for_each(|field| field.json_name = None);
    file
}

fn forget_json_names(message: &mut prost_types::DescriptorProto) {
    message.field.iter_mut().for_each(|field| field.json_name = None);
    message.nested_type.iter_mut().for_each(forget_json_names);
}

#[cfg(test)]
mod edit_tests;
#[cfg(test)]
mod tests;
