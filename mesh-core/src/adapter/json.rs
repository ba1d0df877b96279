//! JSON in and out, without a tree between: an answer's body becomes values, values become a request's body.

use std::{collections::HashMap, fmt};

use cel::common::{
    types::{CelBool, CelBytes, CelDouble, CelInt, CelList, CelMap, CelMapKey, CelNull, CelString, CelUInt},
    value::Val,
};
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

type Boxed<'m> = Box<dyn Val + 'm>;

/// The body as JSON; what is not JSON as text, what is not text as bytes.
pub(super) fn read(body: &[u8]) -> Boxed<'_> {
    let mut reader = serde_json::Deserializer::from_slice(body);
    match Seed.deserialize(&mut reader).and_then(|value| reader.end().map(|()| value)) {
        Ok(value) => value,
        Err(_) => match std::str::from_utf8(body) {
            Ok(text) => Box::new(CelString::from(text)),
            Err(_) => Box::new(CelBytes::from(body)),
        },
    }
}

struct Seed;

impl<'de> DeserializeSeed<'de> for Seed {
    type Value = Boxed<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Boxed<'de>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed {
    type Value = Boxed<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Boxed<'de>, E> {
        Ok(Box::new(CelNull))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Boxed<'de>, E> {
        Ok(Box::new(CelBool::from(value)))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Boxed<'de>, E> {
        Ok(Box::new(CelInt::from(value)))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Boxed<'de>, E> {
        Ok(i64::try_from(value)
            .map_or_else(|_| Box::new(CelUInt::from(value)) as Boxed<'de>, |v| Box::new(CelInt::from(v))))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Boxed<'de>, E> {
        Ok(Box::new(CelDouble::from(value)))
    }

    fn visit_borrowed_str<E>(self, value: &'de str) -> Result<Boxed<'de>, E> {
        Ok(Box::new(CelString::from(value)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Boxed<'de>, E> {
        Ok(Box::new(CelString::from(value.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Boxed<'de>, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element_seed(Seed)? {
            items.push(item);
        }
        Ok(Box::new(CelList::from(items)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Boxed<'de>, A::Error> {
        let mut entries = HashMap::new();
        while let Some(entry) = access.next_entry_seed(KeySeed, Seed)? {
            entries.insert(entry.0, entry.1);
        }
        Ok(Box::new(CelMap::from(entries)))
    }
}

struct KeySeed;

impl<'de> DeserializeSeed<'de> for KeySeed {
    type Value = CelMapKey<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<CelMapKey<'de>, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for KeySeed {
    type Value = CelMapKey<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_borrowed_str<E: Error>(self, value: &'de str) -> Result<CelMapKey<'de>, E> {
        Ok(CelMapKey::from(value))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<CelMapKey<'de>, E> {
        Ok(CelMapKey::from(value.to_owned()))
    }
}

/// Appends a value as JSON; keys in their order, so that the same message gives the same bytes.
///
/// # Errors
/// The name of a type that JSON does not know.
pub(super) fn write(value: &dyn Val, out: &mut Vec<u8>) -> Result<(), String> {
    if let Some(text) = value.downcast_ref::<CelString<'_>>() {
        return string(text.inner(), out);
    }
    if let Some(text) = super::text::plain(value) {
        return match value.downcast_ref::<CelDouble>() {
            Some(number) if !number.inner().is_finite() => Err("a number that is not finite".to_owned()),
            _ => {
                out.extend_from_slice(text.as_bytes());
                Ok(())
            }
        };
    }
    if let Some(list) = value.downcast_ref::<CelList<'_>>() {
        return join(b"[]", list.inner().iter(), out, |item, out| write(item.as_ref(), out));
    }
    if let Some(map) = value.downcast_ref::<CelMap<'_>>() {
        let entries = super::text::sorted(map);
        return join(b"{}", entries.into_iter(), out, |(key, value), out| {
            string(&key, out)?;
            out.push(b':');
            write(value, out)
        });
    }
    if super::text::is_null(value) {
        out.extend_from_slice(b"null");
        return Ok(());
    }
    Err(format!("a value of the type {}", value.get_type().name()))
}

/// Appends what stands between two brackets, with commas.
pub(super) fn join<T>(
    brackets: &[u8; 2],
    items: impl Iterator<Item = T>,
    out: &mut Vec<u8>,
    mut each: impl FnMut(T, &mut Vec<u8>) -> Result<(), String>,
) -> Result<(), String> {
    out.push(brackets[0]);
    for (i, item) in items.enumerate() {
        if i > 0 {
            out.push(b',');
        }
        each(item, out)?;
    }
    out.push(brackets[1]);
    Ok(())
}

/// Appends a text in quotes.
pub(super) fn string(text: &str, out: &mut Vec<u8>) -> Result<(), String> {
    serde_json::to_writer(out, text).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn through(text: &str) -> String {
        let mut out = Vec::new();
        write(read(text.as_bytes()).as_ref(), &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn keeps_every_number_and_text() {
        for text in [
            "null",
            "true",
            "9223372036854775807",
            "-9223372036854775808",
            "18446744073709551615",
            "1.5",
            "\"\"",
            "\"a\\n\\\"é\"",
            "[]",
            "[1,\"2\",[3]]",
            "{}",
            "{\"a\":{\"b\":[null]},\"c\":1}",
        ] {
            assert_eq!(through(text), text);
        }
        assert_eq!(through("19.99"), "19.99");
        assert_eq!(through("{\"b\":1,\"a\":2}"), "{\"a\":2,\"b\":1}");
    }

    #[test]
    fn what_is_not_json_is_text() {
        assert_eq!(through("<html>"), "\"<html>\"");
        assert_eq!(through("{\"a\":1} x"), "\"{\\\"a\\\":1} x\"");
        assert_eq!(read(b"\xff\xfe").get_type().name(), "bytes");
    }

    proptest! {
        #[test]
        fn never_panics(body in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = read(&body);
        }
    }
}
