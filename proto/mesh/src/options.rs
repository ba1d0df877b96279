//! Reads the options of `mesh.v1` from descriptors: one reading, for the generator and for every tool.
//!
//! The options are extensions. They are found when the descriptor's pool was filled from encoded bytes
//! (`DescriptorPool::decode`), which keeps them, and holds `mesh/v1/options.proto`.

use prost::Message;
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, MethodDescriptor, Value};
pub use prost_types::method_options::IdempotencyLevel;

use crate::v1::{DataClass, EventOptions, OperationOptions, Repeat, Residency};

/// The number of the options `event`, `operation` and `data_class`: each extends another type.
pub const OPTION_NUMBER: i32 = 51601;

/// What a repeat of an operation does, after the standard option and ours were read together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RepeatRule {
    /// Reads only (`idempotency_level = NO_SIDE_EFFECTS`).
    NoSideEffects,
    /// A repeat changes nothing (`idempotency_level = IDEMPOTENT`).
    Idempotent,
    /// Safe with the same idempotency key.
    Keyed,
    /// Ask whether it happened before repeating it.
    LookUp,
    /// Never repeat blindly; also when nothing is stated.
    Once,
}

/// What makes the message an event. `None`: it is not one.
#[must_use]
pub fn event(message: &MessageDescriptor) -> Option<EventOptions> {
    extension_message(&message.options(), "mesh.v1.event")
}

/// Where the message may be stored and read. `None`: nothing is stated.
#[must_use]
pub fn residency(message: &MessageDescriptor) -> Option<Residency> {
    extension_message(&message.options(), "mesh.v1.residency")
}

/// What the rpc states; the default where it states nothing.
#[must_use]
pub fn operation(method: &MethodDescriptor) -> OperationOptions {
    extension_message(&method.options(), "mesh.v1.operation").unwrap_or_default()
}

/// Protobuf's own `idempotency_level`.
#[must_use]
pub fn idempotency_level(method: &MethodDescriptor) -> IdempotencyLevel {
    let options = method.method_descriptor_proto().options.as_ref();
    options.map_or(IdempotencyLevel::IdempotencyUnknown, |o| o.idempotency_level())
}

/// What a repeat of the rpc does: the standard option, else ours, else [`RepeatRule::Once`].
#[must_use]
pub fn repeat(method: &MethodDescriptor) -> RepeatRule {
    match (idempotency_level(method), operation(method).repeat()) {
        (IdempotencyLevel::NoSideEffects, _) => RepeatRule::NoSideEffects,
        (IdempotencyLevel::Idempotent, _) => RepeatRule::Idempotent,
        (_, Repeat::Keyed) => RepeatRule::Keyed,
        (_, Repeat::LookUp) => RepeatRule::LookUp,
        (_, Repeat::Once | Repeat::Unspecified) => RepeatRule::Once,
    }
}

/// How sensitive the field is.
#[must_use]
pub fn data_class(field: &FieldDescriptor) -> DataClass {
    let options = field.options();
    let number = extension(&options, "mesh.v1.data_class").and_then(|value| value.as_enum_number());
    number.and_then(|n| DataClass::try_from(n).ok()).unwrap_or_default()
}

/// Whether the field can be an ordering key: one string, bool, integer or enum, in no `oneof`.
#[must_use]
pub fn can_be_key(field: &FieldDescriptor) -> bool {
    let in_oneof = field.containing_oneof().is_some_and(|oneof| !oneof.is_synthetic());
    let scalar = !matches!(field.kind(), Kind::Double | Kind::Float | Kind::Bytes | Kind::Message(_));
    scalar && !field.is_list() && !field.is_map() && !in_oneof
}

/// The text of an ordering key: a string as it is, an integer or enum number in decimal, `true` or `false`.
///
/// `None` for a value that [can't be a key](can_be_key).
#[must_use]
pub fn key_text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Bool(yes) => Some(yes.to_string()),
        Value::I32(n) | Value::EnumNumber(n) => Some(n.to_string()),
        Value::I64(n) => Some(n.to_string()),
        Value::U32(n) => Some(n.to_string()),
        Value::U64(n) => Some(n.to_string()),
        Value::F32(_) | Value::F64(_) | Value::Bytes(_) | Value::Message(_) | Value::List(_) | Value::Map(_) => None,
    }
}

fn extension(options: &DynamicMessage, name: &str) -> Option<Value> {
    use prost_reflect::ReflectMessage;

    let extension = options.descriptor().parent_pool().get_extension_by_name(name)?;
    options.has_extension(&extension).then(|| options.get_extension(&extension).into_owned())
}

fn extension_message<T: Message + Default>(options: &DynamicMessage, name: &str) -> Option<T> {
    extension(options, name)?.as_message()?.transcode_to().ok()
}
