//! What sort of value an expression gives, as far as it is known before it is evaluated, and which sorts can be compared.

use cel::common::ast::{LiteralValue, operators};
use prost_reflect::{EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor};

/// A sort of value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Sort {
    /// Nobody knows it yet.
    Any,
    Bool,
    /// int, uint or double: these are compared by their value.
    Number,
    /// A number that has names.
    Enum(EnumDescriptor),
    Text,
    Bytes,
    Moment,
    Duration,
    List(Box<Sort>),
    /// By the sort of its values.
    Map(Box<Sort>),
    Message(MessageDescriptor),
}

impl Sort {
    /// Of a field.
    pub(super) fn of(field: &FieldDescriptor) -> Sort {
        let one = |kind: Kind| match kind {
            Kind::Bool => Sort::Bool,
            Kind::String => Sort::Text,
            Kind::Bytes => Sort::Bytes,
            Kind::Message(message) => Sort::Message(message),
            Kind::Enum(names) => Sort::Enum(names),
            _ => Sort::Number,
        };
        match field.kind() {
            Kind::Message(entry) if field.is_map() => Sort::Map(Box::new(one(entry.map_entry_value_field().kind()))),
            kind if field.is_list() => Sort::List(Box::new(one(kind))),
            kind => one(kind),
        }
    }

    pub(super) fn literal(value: &LiteralValue) -> Sort {
        match value {
            LiteralValue::Boolean(_) => Sort::Bool,
            LiteralValue::Bytes(_) => Sort::Bytes,
            LiteralValue::Double(_) | LiteralValue::Int(_) | LiteralValue::UInt(_) => Sort::Number,
            LiteralValue::String(_) => Sort::Text,
            // Anything may be asked whether it is null.
            LiteralValue::Null => Sort::Any,
        }
    }

    /// Of several, where they are one.
    pub(super) fn common(sorts: impl IntoIterator<Item = Sort>) -> Sort {
        let mut sorts = sorts.into_iter();
        let Some(first) = sorts.next() else { return Sort::Any };
        if sorts.all(|sort| sort == first) { first } else { Sort::Any }
    }

    /// Of what a function gives, by what it takes: its target first, where it has one.
    pub(super) fn given(function: &str, taken: &[Sort]) -> Sort {
        match function {
            operators::ADD | operators::SUBSTRACT | operators::MULTIPLY | operators::DIVIDE | operators::MODULO
                if taken.iter().all(Sort::is_number) =>
            {
                Sort::Number
            }
            operators::NEGATE | "size" | "int" | "uint" | "double" | "indexOf" | "lastIndexOf" => Sort::Number,
            operators::ADD if taken.iter().all(|sort| *sort == Sort::Text) => Sort::Text,
            operators::INDEX => match taken {
                [Sort::List(inside) | Sort::Map(inside), _] => (**inside).clone(),
                _ => Sort::Any,
            },
            operators::CONDITIONAL => Sort::common(taken.iter().skip(1).cloned()),
            operators::IN => Sort::Bool,
            operator if is_comparison(operator) || is_logical(operator) => Sort::Bool,
            "bool" | "contains" | "endsWith" | "has" | "hasValue" | "matches" | "startsWith" => Sort::Bool,
            "charAt" | "encode" | "format" | "join" | "lowerAscii" | "replace" | "reverse" | "string" | "substring"
            | "trim" | "upperAscii" => Sort::Text,
            "bytes" | "decode" => Sort::Bytes,
            "timestamp" => Sort::Moment,
            "duration" => Sort::Duration,
            "split" => Sort::List(Box::new(Sort::Text)),
            _ => Sort::Any,
        }
    }

    fn is_number(&self) -> bool {
        matches!(self, Sort::Number | Sort::Enum(_))
    }

    /// Whether a value of this sort can be compared with one of the other. `None`: that is not known.
    pub(super) fn compares_with(&self, other: &Sort) -> Option<bool> {
        match (self, other) {
            (Sort::Any, _) | (_, Sort::Any) => None,
            // What a message is inside another is a map.
            (Sort::Map(_) | Sort::Message(_), Sort::Map(_) | Sort::Message(_)) => None,
            (Sort::List(one), Sort::List(other)) => one.compares_with(other),
            _ if self.is_number() => Some(other.is_number()),
            _ => Some(self == other),
        }
    }

    /// Its name in a sentence.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Sort::Any => "a value",
            Sort::Bool => "true or false",
            Sort::Number => "a number",
            Sort::Enum(_) => "an enum",
            Sort::Text => "a text",
            Sort::Bytes => "bytes",
            Sort::Moment => "a moment",
            Sort::Duration => "a duration",
            Sort::List(_) => "a list",
            Sort::Map(_) => "a map",
            Sort::Message(_) => "a message",
        }
    }

    /// What to write in place of a text, where a person may have meant that.
    pub(super) fn instead(&self, other: &Sort) -> String {
        match (self, other) {
            (Sort::Number, Sort::Text) | (Sort::Text, Sort::Number) => {
                "; numbers stand without quotes, texts in quotes".to_owned()
            }
            (Sort::Enum(names), Sort::Text) | (Sort::Text, Sort::Enum(names)) => {
                let names: Vec<_> =
                    names.values().take(NAMES).map(|v| format!("{} = {}", v.name(), v.number())).collect();
                format!("; an enum is its number: {}", names.join(", "))
            }
            (Sort::Moment, Sort::Text) | (Sort::Text, Sort::Moment) => {
                "; a moment is written timestamp('2026-01-02T03:04:05Z')".to_owned()
            }
            _ => String::new(),
        }
    }
}

/// Names of an enum that are told, at most.
const NAMES: usize = 10;

/// Whether the operator takes what is true or false.
pub(super) fn is_logical(operator: &str) -> bool {
    matches!(operator, operators::LOGICAL_AND | operators::LOGICAL_OR | operators::LOGICAL_NOT)
}

/// Whether the operator compares two values.
pub(super) fn is_comparison(operator: &str) -> bool {
    matches!(
        operator,
        operators::EQUALS
            | operators::NOT_EQUALS
            | operators::LESS
            | operators::LESS_EQUALS
            | operators::GREATER
            | operators::GREATER_EQUALS
    )
}
