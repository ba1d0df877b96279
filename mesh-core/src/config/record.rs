//! What expressions see, filled straight from decoded messages: nothing that no expression names is converted, and texts
//! are borrowed.

use std::{borrow::Cow, collections::BTreeMap, collections::HashMap, fmt};

use ::http::HeaderMap;
use cel::{
    ExecutionError,
    common::{
        traits::Indexer,
        types::{CelBool, CelBytes, CelDouble, CelInt, CelList, CelMap, CelMapKey, CelString, CelUInt, Type},
        value::{CowVal, Val},
    },
};
use prost_reflect::{DynamicMessage, MapKey, ReflectMessage as _, Value};
use secrecy::{ExposeSecret, SecretString};

/// A value of an expression.
pub(crate) type Boxed<'m> = Box<dyn Val + 'm>;

static RECORD: Type = Type::new_unspecified_type("record");

/// Named values of a kind that only its user knows.
pub(crate) trait Fields: Send + Sync {
    /// The value of this name. `None`: there is none.
    fn field(&self, name: &str) -> Option<Boxed<'_>>;
}

/// Something with named fields, read on access. Its `Debug` shows no value.
#[derive(Clone, Copy)]
pub(crate) enum Record<'m> {
    Message(&'m DynamicMessage),
    Secrets(&'m BTreeMap<String, SecretString>),
    Headers(&'m HeaderMap),
    Fields(&'m dyn Fields),
}

impl<'m> Record<'m> {
    fn field(self, name: &str) -> Option<Boxed<'m>> {
        match self {
            Record::Message(message) => field(message, name),
            Record::Secrets(secrets) => Some(Box::new(CelString::from(secrets.get(name)?.expose_secret()))),
            Record::Headers(headers) => Some(match String::from_utf8_lossy(headers.get(name)?.as_bytes()) {
                Cow::Borrowed(text) => Box::new(CelString::from(text)),
                Cow::Owned(text) => Box::new(CelString::from(text)),
            }),
            Record::Fields(fields) => fields.field(name),
        }
    }
}

impl fmt::Debug for Record<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("record")
    }
}

impl Val for Record<'_> {
    fn get_type(&self) -> &Type {
        &RECORD
    }

    fn cel_type() -> &'static Type {
        &RECORD
    }

    fn as_indexer<'b, 'v>(&'b self) -> Option<&'b (dyn Indexer + 'v)>
    where
        Self: 'v,
    {
        Some(self)
    }

    fn clone_as_boxed<'v>(&self) -> Boxed<'v>
    where
        Self: 'v,
    {
        Box::new(*self)
    }
}

impl Indexer for Record<'_> {
    fn get<'b, 'v>(&'b self, index: &dyn Val) -> Result<CowVal<'b, 'v>, ExecutionError>
    where
        Self: 'v,
    {
        let name = index.downcast_ref::<CelString<'_>>().ok_or_else(|| ExecutionError::UnexpectedType {
            got: index.get_type().name().to_owned(),
            want: "string".to_owned(),
        })?;
        self.field(name.inner()).map(CowVal::Owned).ok_or_else(|| ExecutionError::no_such_key(name.inner()))
    }

    fn steal<'v>(self: Box<Self>, index: &dyn Val) -> Result<Boxed<'v>, ExecutionError>
    where
        Self: 'v,
    {
        self.get(index).map(CowVal::into_owned)
    }
}

/// The field's value, its default where it is unset. `None`: unset where the contract tells that apart.
fn field<'m>(message: &'m DynamicMessage, name: &str) -> Option<Boxed<'m>> {
    let descriptor = message.descriptor().get_field_by_name(name)?;
    if descriptor.supports_presence() && !message.has_field(&descriptor) {
        return None;
    }
    Some(match message.get_field(&descriptor) {
        Cow::Borrowed(value) => borrowed(value),
        Cow::Owned(value) => owned(&value),
    })
}

fn borrowed(value: &Value) -> Boxed<'_> {
    match value {
        Value::String(text) => Box::new(CelString::from(text.as_str())),
        Value::Bytes(bytes) => Box::new(CelBytes::from(bytes.as_ref())),
        Value::List(items) => Box::new(CelList::from(items.iter().map(borrowed).collect::<Vec<_>>())),
        Value::Map(entries) => {
            let entries: HashMap<_, _> = entries.iter().map(|(key, value)| (map_key(key), borrowed(value))).collect();
            Box::new(CelMap::from(entries))
        }
        Value::Message(message) => {
            let descriptor = message.descriptor();
            let read =
                |f: prost_reflect::FieldDescriptor| Some((f.name().to_owned().into(), field(message, f.name())?));
            Box::new(CelMap::from(descriptor.fields().filter_map(read).collect::<HashMap<CelMapKey<'_>, _>>()))
        }
        scalar => owned(scalar),
    }
}

/// A scalar, or the empty default of anything else.
fn owned<'v>(value: &Value) -> Boxed<'v> {
    match value {
        Value::Bool(value) => Box::new(CelBool::from(*value)),
        Value::I32(number) | Value::EnumNumber(number) => Box::new(CelInt::from(i64::from(*number))),
        Value::I64(number) => Box::new(CelInt::from(*number)),
        Value::U32(number) => Box::new(CelUInt::from(u64::from(*number))),
        Value::U64(number) => Box::new(CelUInt::from(*number)),
        Value::F32(number) => Box::new(CelDouble::from(f64::from(*number))),
        Value::F64(number) => Box::new(CelDouble::from(*number)),
        Value::String(text) => Box::new(CelString::from(text.clone())),
        Value::Bytes(bytes) => Box::new(CelBytes::from(bytes.to_vec())),
        Value::List(_) => Box::new(CelList::from(Vec::new())),
        Value::Map(_) | Value::Message(_) => Box::new(CelMap::from(HashMap::new())),
    }
}

fn map_key(key: &MapKey) -> CelMapKey<'_> {
    match key {
        MapKey::Bool(value) => CelMapKey::from(*value),
        MapKey::I32(number) => CelMapKey::from(i64::from(*number)),
        MapKey::I64(number) => CelMapKey::from(*number),
        MapKey::U32(number) => CelMapKey::from(u64::from(*number)),
        MapKey::U64(number) => CelMapKey::from(*number),
        MapKey::String(text) => CelMapKey::from(text.as_str()),
    }
}
