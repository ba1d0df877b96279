//! Values become the fields of a reply.

use cel::common::{
    types::{CelBool, CelBytes, CelDouble, CelInt, CelList, CelMap, CelString, CelUInt},
    value::Val,
};
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MapKey, Value};

use super::text;

/// Sets a field; nothing leaves it unset.
///
/// # Errors
/// Which field does not take a value of this type.
pub(super) fn set(message: &mut DynamicMessage, field: &FieldDescriptor, value: &dyn Val) -> Result<(), String> {
    if text::is_null(value) {
        return Ok(());
    }
    let wrong =
        || format!("the field {:?} does not take a value of the type {}", field.name(), value.get_type().name());
    let value = whole(field, value).ok_or_else(wrong)?;
    message.try_set_field(field, value).map_err(|_| wrong())
}

fn whole(field: &FieldDescriptor, value: &dyn Val) -> Option<Value> {
    if field.is_map() {
        let Kind::Message(entry) = field.kind() else { return None };
        let (key, inner) = (entry.map_entry_key_field().kind(), entry.map_entry_value_field().kind());
        let entries = text::sorted(value.downcast_ref::<CelMap<'_>>()?);
        let read =
            |(name, value): (std::borrow::Cow<'_, str>, _)| Some((map_key(&key, &name)?, single(&inner, value)?));
        return entries.into_iter().map(read).collect::<Option<_>>().map(Value::Map);
    }
    if field.is_list() {
        let items = value.downcast_ref::<CelList<'_>>()?.inner();
        return items.iter().map(|item| single(&field.kind(), item.as_ref())).collect::<Option<_>>().map(Value::List);
    }
    single(&field.kind(), value)
}

fn single(kind: &Kind, value: &dyn Val) -> Option<Value> {
    Some(match kind {
        Kind::String => Value::String(value.downcast_ref::<CelString<'_>>()?.inner().to_owned()),
        Kind::Bool => Value::Bool(*value.downcast_ref::<CelBool>()?.inner()),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => Value::I64(integer(value)?.try_into().ok()?),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => Value::I32(integer(value)?.try_into().ok()?),
        Kind::Uint64 | Kind::Fixed64 => Value::U64(integer(value)?.try_into().ok()?),
        Kind::Uint32 | Kind::Fixed32 => Value::U32(integer(value)?.try_into().ok()?),
        Kind::Double => Value::F64(number(value)?),
        #[expect(clippy::cast_possible_truncation, reason = "the contract asks for this precision")]
        Kind::Float => Value::F32(number(value)? as f32),
        Kind::Bytes => Value::Bytes(value.downcast_ref::<CelBytes<'_>>()?.inner().to_vec().into()),
        Kind::Enum(known) => match value.downcast_ref::<CelString<'_>>() {
            Some(name) => Value::EnumNumber(known.get_value_by_name(name.inner())?.number()),
            None => Value::EnumNumber(integer(value)?.try_into().ok()?),
        },
        Kind::Message(descriptor) => {
            let mut message = DynamicMessage::new(descriptor.clone());
            for (name, value) in text::sorted(value.downcast_ref::<CelMap<'_>>()?) {
                // What the contract does not know is the vendor's own business.
                let Some(field) = descriptor.get_field_by_name(&name) else { continue };
                set(&mut message, &field, value).ok()?;
            }
            Value::Message(message)
        }
    })
}

/// A whole number: as such, or as a number with nothing behind its point.
fn integer(value: &dyn Val) -> Option<i128> {
    if let Some(number) = value.downcast_ref::<CelInt>() {
        return Some((*number.inner()).into());
    }
    if let Some(number) = value.downcast_ref::<CelUInt>() {
        return Some((*number.inner()).into());
    }
    let number = *value.downcast_ref::<CelDouble>()?.inner();
    // Beyond 2^53 a double no longer holds every whole number.
    let exact = number.fract() == 0.0 && number.abs() <= 9_007_199_254_740_992.0;
    #[expect(clippy::cast_possible_truncation, reason = "checked to be a whole number that fits")]
    exact.then_some(number as i128)
}

fn number(value: &dyn Val) -> Option<f64> {
    match value.downcast_ref::<CelDouble>() {
        Some(number) => Some(*number.inner()),
        None => text::plain(value).filter(|_| integer(value).is_some())?.parse().ok(),
    }
}

fn map_key(kind: &Kind, name: &str) -> Option<MapKey> {
    Some(match kind {
        Kind::String => MapKey::String(name.to_owned()),
        Kind::Bool => MapKey::Bool(name.parse().ok()?),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => MapKey::I64(name.parse().ok()?),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => MapKey::I32(name.parse().ok()?),
        Kind::Uint64 | Kind::Fixed64 => MapKey::U64(name.parse().ok()?),
        Kind::Uint32 | Kind::Fixed32 => MapKey::U32(name.parse().ok()?),
        _ => return None,
    })
}
