//! What a person did not see of a message stays in it: fields that the contract here does not know, and fields that were
//! hidden.

use prost::Message as _;
use prost_reflect::{DynamicMessage, FieldDescriptor, ReflectMessage as _, Value};

/// Which fields were hidden.
pub type Hidden<'h> = &'h dyn Fn(&FieldDescriptor) -> bool;

/// Elements of a list were changed and added or taken away at once, so nobody can tell which old one is which new one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the list {path:?} holds elements with fields that are not shown, and it can't be told to which of its elements they \
     belong now"
)]
pub struct CarryError {
    /// The list.
    pub path: String,
}

/// A message without the fields that the contract does not know, and without those that are hidden.
#[must_use]
pub fn visible(message: &DynamicMessage, hidden: Hidden<'_>) -> DynamicMessage {
    let mut seen = DynamicMessage::new(message.descriptor());
    for (field, value) in message.fields().filter(|(field, _)| !hidden(field)) {
        seen.set_field(&field, look(value, hidden));
    }
    seen
}

/// A value as it is shown.
fn look(value: &Value, hidden: Hidden<'_>) -> Value {
    match value {
        Value::Message(inner) => Value::Message(visible(inner, hidden)),
        Value::List(items) => Value::List(items.iter().map(|item| look(item, hidden)).collect()),
        Value::Map(entries) => {
            Value::Map(entries.iter().map(|(key, item)| (key.clone(), look(item, hidden))).collect())
        }
        scalar => scalar.clone(),
    }
}

/// Carries over into `new` what was not [visible](visible) of `old`: unknown fields byte for byte, and hidden fields that
/// `new` does not set itself.
///
/// # Errors
/// It can't be told where it belongs.
pub fn carry_over(old: &DynamicMessage, new: &mut DynamicMessage, hidden: Hidden<'_>) -> Result<(), CarryError> {
    let mut unknown = Vec::new();
    old.unknown_fields().for_each(|field| field.encode(&mut unknown));
    // They were read from a message a moment ago, so they can be read again.
    let _ = new.merge(unknown.as_slice());
    for (field, value) in old.fields() {
        if hidden(&field) {
            if !new.has_field(&field) {
                new.set_field(&field, value.clone());
            }
            continue;
        }
        if new.has_field(&field) {
            let carried = carry_value(value, new.get_field_mut(&field), hidden);
            carried.map_err(|error| CarryError { path: join(field.name(), &error.path) })?;
        }
    }
    Ok(())
}

fn join(name: &str, inner: &str) -> String {
    let dot = if inner.is_empty() || inner.starts_with('[') { "" } else { "." };
    format!("{name}{dot}{inner}")
}

fn carry_value(old: &Value, new: &mut Value, hidden: Hidden<'_>) -> Result<(), CarryError> {
    match (old, new) {
        (Value::Message(old), Value::Message(new)) => carry_over(old, new, hidden),
        (Value::List(old), Value::List(new)) => carry_list(old, new, hidden),
        (Value::Map(old), Value::Map(new)) => old.iter().try_for_each(|(key, value)| match new.get_mut(key) {
            Some(new) => carry_value(value, new, hidden),
            None => Ok(()),
        }),
        _ => Ok(()),
    }
}

/// Elements that look the same are the same; the others are told by their places, where no place was added or taken away.
fn carry_list(old: &[Value], new: &mut [Value], hidden: Hidden<'_>) -> Result<(), CarryError> {
    let looks: Vec<Value> = old.iter().map(|value| look(value, hidden)).collect();
    let mut of_new: Vec<Option<usize>> = vec![None; new.len()];
    let mut taken = vec![false; old.len()];
    for (place, value) in new.iter().enumerate() {
        let value = look(value, &|_| false);
        let same = |index: &usize| !taken[*index] && looks[*index] == value;
        // At the same place first: two that look the same may hide different things.
        let index = Some(place).filter(|place| *place < old.len() && same(place)).or_else(|| (0..old.len()).find(same));
        if let Some(index) = index {
            taken[index] = true;
            of_new[place] = Some(index);
        }
    }
    let changed: Vec<usize> = (0..new.len()).filter(|place| of_new[*place].is_none()).collect();
    let gone: Vec<usize> = (0..old.len()).filter(|index| !taken[*index]).collect();
    if old.len() == new.len() && changed == gone {
        changed.iter().for_each(|place| of_new[*place] = Some(*place));
    } else if !changed.is_empty() && gone.iter().any(|index| looks[*index] != old[*index]) {
        return Err(CarryError { path: String::new() });
    }
    for (place, (value, index)) in new.iter_mut().zip(of_new).enumerate() {
        let Some(index) = index else { continue };
        let carried = carry_value(&old[index], value, hidden);
        carried.map_err(|error| CarryError { path: join(&format!("[{place}]"), &error.path) })?;
    }
    Ok(())
}
