//! Payloads as JSON for people: fields of a sensitive data class are masked.

use mesh_core::contract::Catalog;
use mesh_core::proto::{options, v1::DataClass};
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, ReflectMessage as _, SerializeOptions};
use serde_json::{Value, json};

use crate::ledger::counted;

/// What may be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mask {
    /// Personal and payment fields too. Secrets never.
    pub(super) reveal: bool,
    /// Fields that have their default value too: an amount of 0 may be the very trouble.
    pub(super) defaults: bool,
}

/// What stands for a field that may not be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hidden {
    /// The word of its class.
    Masked,
    /// Nothing.
    LeftOut,
}

impl Mask {
    /// A payload as JSON. What can't be decoded is shown by its length alone: nobody knows what it holds.
    pub(super) fn payload(self, catalog: &Catalog, message: &str, payload: &[u8]) -> Value {
        self.read(catalog, message, payload).unwrap_or_else(undecoded)
    }

    /// The same, where it can be read.
    ///
    /// # Errors
    /// It can't; why, and nothing of what it holds.
    pub(super) fn read(self, catalog: &Catalog, message: &str, payload: &[u8]) -> Result<Value, String> {
        let Some(descriptor) = catalog.message(message) else {
            return Err(format!("{} of an unknown type {message:?}", counted(payload.len() as u64, "byte")));
        };
        let decoded = catalog.decode(message, payload).map_err(|error| error.to_string())?;
        let options = SerializeOptions::new().skip_default_fields(!self.defaults);
        let value = decoded.serialize_with_options(serde_json::value::Serializer, &options);
        let mut value = value.map_err(|error| error.to_string())?;
        self.message(&descriptor, &mut value, Hidden::Masked);
        Ok(value)
    }

    /// A message as JSON for an editor: what may not be shown is left out.
    ///
    /// # Errors
    /// It holds a value that JSON has no form for.
    pub(super) fn editable(self, message: &DynamicMessage) -> Result<Value, serde_json::Error> {
        let options = SerializeOptions::new().skip_default_fields(!self.defaults);
        let mut value = message.serialize_with_options(serde_json::value::Serializer, &options)?;
        self.message(&message.descriptor(), &mut value, Hidden::LeftOut);
        Ok(value)
    }

    /// Whether a field may not be shown.
    pub(super) fn is_hidden(self, field: &FieldDescriptor) -> bool {
        self.hides(options::data_class(field)).is_some()
    }

    fn message(self, descriptor: &MessageDescriptor, value: &mut Value, hidden: Hidden) {
        let Value::Object(fields) = value else { return };
        if hidden == Hidden::LeftOut {
            fields
                .retain(|name, _| !descriptor.get_field_by_json_name(name).is_some_and(|field| self.is_hidden(&field)));
        }
        for (name, value) in fields {
            if let Some(field) = descriptor.get_field_by_json_name(name) {
                self.field(&field, value, hidden);
            }
        }
    }

    fn field(self, field: &FieldDescriptor, value: &mut Value, hidden: Hidden) {
        if let Some(word) = self.hides(options::data_class(field)) {
            *value = Value::String(word.to_owned());
            return;
        }
        let kind = match field.kind() {
            Kind::Message(entry) if field.is_map() => entry.map_entry_value_field().kind(),
            kind => kind,
        };
        let Kind::Message(message) = kind else { return };
        match value {
            Value::Array(items) => items.iter_mut().for_each(|item| self.message(&message, item, hidden)),
            Value::Object(entries) if field.is_map() => {
                entries.values_mut().for_each(|item| self.message(&message, item, hidden))
            }
            one => self.message(&message, one, hidden),
        }
    }

    fn hides(self, class: DataClass) -> Option<&'static str> {
        match class {
            DataClass::Secret => Some("[secret]"),
            DataClass::Personal if !self.reveal => Some("[personal]"),
            DataClass::Payment if !self.reveal => Some("[payment]"),
            _ => None,
        }
    }
}

/// What stands for a payload that can't be read.
pub(super) fn undecoded(why: String) -> Value {
    json!({ "undecoded": why })
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message as _;

    fn catalog() -> Catalog {
        Catalog::new([mesh_core::proto::DESCRIPTORS, shop_proto::DESCRIPTORS]).unwrap()
    }

    fn shown(reveal: bool, name: &str, text: &str) -> Value {
        let catalog = catalog();
        let bytes = catalog.from_json(name, text).unwrap().encode_to_vec();
        Mask { reveal, defaults: false }.payload(&catalog, name, &bytes)
    }

    #[test]
    fn personal_and_payment_fields_are_masked_unless_revealed() {
        let text = r#"{"orderId":"1","to":"a@b.c","data":{"name":"Ada"}}"#;
        let name = "shop.notifications.v1.SendRequest";
        assert_eq!(shown(false, name, text), json!({"orderId":"1","to":"[personal]","data":"[personal]"}));
        assert_eq!(shown(true, name, text), json!({"orderId":"1","to":"a@b.c","data":{"name":"Ada"}}));
        let charge = shown(false, "shop.payments.v1.ChargeRequest", r#"{"orderId":"1","amountCents":"5"}"#);
        assert_eq!(charge, json!({"orderId":"1","amountCents":"[payment]"}));
    }

    #[test]
    fn defaults_are_shown_where_they_may_be_the_trouble() {
        let shown = Mask { reveal: true, defaults: true }.payload(&catalog(), "shop.payments.v1.ChargeRequest", b"");
        assert_eq!((&shown["amountCents"], &shown["orderId"]), (&json!("0"), &json!("")));
    }

    #[test]
    fn what_nobody_can_decode_is_not_shown() {
        let value = Mask { reveal: true, defaults: false }.payload(&catalog(), "nobody.Knows", b"ada@example.com");
        assert!(!value.to_string().contains("ada"), "{value}");
    }
}
