//! Values as text: headers, paths, queries and forms.

use std::borrow::Cow;

use cel::common::{
    types::{CelBool, CelDouble, CelInt, CelList, CelMap, CelMapKey, CelString, CelUInt, Kind},
    value::Val,
};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use url::form_urlencoded;

/// What stands in a path as it is: RFC 3986, unreserved.
const PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// What stands in a form's key as it is: brackets too, as vendors document them.
const FORM_KEY: &AsciiSet = &PATH.remove(b'[').remove(b']');

pub(super) fn is_null(value: &dyn Val) -> bool {
    value.get_type().kind() == Kind::NullType
}

/// The text of a text, number or truth value; numbers exactly. `None`: it is something else.
pub(super) fn plain<'a>(value: &'a dyn Val) -> Option<Cow<'a, str>> {
    if let Some(text) = value.downcast_ref::<CelString<'_>>() {
        Some(Cow::Borrowed(text.inner()))
    } else if let Some(number) = value.downcast_ref::<CelInt>() {
        Some(Cow::Owned(number.inner().to_string()))
    } else if let Some(truth) = value.downcast_ref::<CelBool>() {
        Some(Cow::Borrowed(if *truth.inner() { "true" } else { "false" }))
    } else if let Some(number) = value.downcast_ref::<CelUInt>() {
        Some(Cow::Owned(number.inner().to_string()))
    } else {
        value.downcast_ref::<CelDouble>().map(|number| Cow::Owned(number.inner().to_string()))
    }
}

/// The entries of a map with their keys as text, in their order.
pub(super) fn sorted<'a, 'm>(map: &'a CelMap<'m>) -> Vec<(Cow<'a, str>, &'a (dyn Val + 'm))> {
    let text = |key: &'a CelMapKey<'m>| match key {
        CelMapKey::String(text) => Cow::Borrowed(text.inner()),
        CelMapKey::Bool(truth) => Cow::Borrowed(if *truth.inner() { "true" } else { "false" }),
        CelMapKey::Int(number) => Cow::Owned(number.inner().to_string()),
        CelMapKey::UInt(number) => Cow::Owned(number.inner().to_string()),
    };
    let mut entries: Vec<_> = map.inner().iter().map(|(key, value)| (text(key), value.as_ref())).collect();
    entries.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    entries
}

/// One segment's worth of a path.
pub(super) fn path_segment(text: &str, out: &mut String) {
    out.extend(utf8_percent_encode(text, PATH));
}

/// Appends `key=value` to a form or query. Maps and lists become bracketed keys; what has no value is left out.
///
/// # Errors
/// The name of a type that a form does not know.
pub(super) fn pair(key: &str, value: &dyn Val, out: &mut String) -> Result<(), String> {
    encoded_pair(&utf8_percent_encode(key, FORM_KEY).to_string(), value, out)
}

fn encoded_pair(key: &str, value: &dyn Val, out: &mut String) -> Result<(), String> {
    if is_null(value) {
        return Ok(());
    }
    if let Some(text) = plain(value) {
        if !out.is_empty() {
            out.push('&');
        }
        out.push_str(key);
        out.push('=');
        out.extend(form_urlencoded::byte_serialize(text.as_bytes()));
        return Ok(());
    }
    if let Some(map) = value.downcast_ref::<CelMap<'_>>() {
        // The brackets of a key that a message brings are escaped: it names one entry, whatever it holds.
        let inner = |name: &str| format!("{key}[{}]", utf8_percent_encode(name, PATH));
        return sorted(map).into_iter().try_for_each(|(name, value)| encoded_pair(&inner(&name), value, out));
    }
    if let Some(list) = value.downcast_ref::<CelList<'_>>() {
        let mut items = list.inner().iter().enumerate();
        return items.try_for_each(|(i, value)| encoded_pair(&format!("{key}[{i}]"), value.as_ref(), out));
    }
    Err(format!("a value of the type {}", value.get_type().name()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapter::json;

    #[test]
    fn forms_are_bracketed_and_exact() {
        for (key, value, expected) in [
            ("amount", "9007199254740993", "amount=9007199254740993"),
            ("amount", "19.99", "amount=19.99"),
            ("a", "\"x y&z=é\"", "a=x+y%26z%3D%C3%A9"),
            ("metadata[order]", "\"1\"", "metadata[order]=1"),
            ("a&b", "true", "a%26b=true"),
            ("gone", "null", ""),
            ("m", "{\"b\":1,\"a\":\"2\"}", "m[a]=2&m[b]=1"),
            ("l", "[1,{\"x\":2}]", "l[0]=1&l[1][x]=2"),
            ("m", "{\"a][b&c\":1}", "m[a%5D%5Bb%26c]=1"),
        ] {
            let mut out = String::new();
            pair(key, json::read(value.as_bytes()).as_ref(), &mut out).unwrap();
            assert_eq!(out, expected);
        }
    }

    #[test]
    fn a_path_keeps_its_segments() {
        let mut out = String::new();
        path_segment("../a b/é?x#y", &mut out);
        assert_eq!(out, "..%2Fa%20b%2F%C3%A9%3Fx%23y");
    }
}
