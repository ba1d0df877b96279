//! Names of services, regions and consumers.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Characters of a name, at most.
const LONGEST: usize = 63;

/// A name of a service, region or consumer: `[a-z0-9-]{1,63}`. It stands as one token of a subject.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct Name(Box<str>);

/// The text is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{given:?} is not a name: use 1 to 63 characters of a-z, 0-9 and '-'")]
pub struct InvalidName {
    given: String,
}

impl Name {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether `text` is a name.
    #[must_use]
    pub fn is_valid(text: &str) -> bool {
        (1..=LONGEST).contains(&text.len()) && text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'))
    }

    /// The name that follows from any text: in lower case, what can't stand in a name as `-`. A longer one is cut at the
    /// front, for the end tells texts apart; that of no text is `-`.
    #[must_use]
    pub fn of_text(text: &str) -> Name {
        let taken = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
        let name: String = text.chars().map(taken).collect();
        let start = name.len().saturating_sub(LONGEST);
        Name(if name.is_empty() { "-".into() } else { name[start..].into() })
    }
}

impl FromStr for Name {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Name, InvalidName> {
        if Name::is_valid(text) { Ok(Name(text.into())) } else { Err(InvalidName { given: text.to_owned() }) }
    }
}

impl TryFrom<&str> for Name {
    type Error = InvalidName;

    fn try_from(text: &str) -> Result<Name, InvalidName> {
        text.parse()
    }
}

impl TryFrom<String> for Name {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Name, InvalidName> {
        text.parse()
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<str> for Name {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_any_text_there_is_a_name() {
        let long = format!("{}.Z", "ä".repeat(80));
        for (text, name) in [
            ("shop.payments.v1.Payments", "shop-payments-v1-payments"),
            ("", "-"),
            ("Ä_9", "--9"),
            (&long, &format!("{}z", "-".repeat(62))),
        ] {
            let of_text = Name::of_text(text);
            assert_eq!(of_text.as_str(), name, "{text}");
            assert!(Name::is_valid(of_text.as_str()));
        }
    }
}
