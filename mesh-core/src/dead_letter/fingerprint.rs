//! A fingerprint groups like failures: the same code, reason, vendor and vendor code, and the same message once everything
//! that differs from case to case is taken out of it.
//!
//! What is taken out are numbers, ids, times, addresses and whatever stands in quotes: nothing of a person's data goes into
//! the fingerprint. It is stable: it says the same in every process and version, so that people can write it down.

use std::{fmt, str::FromStr};

use aws_lc_rs::digest;
use mesh_proto::v1;
use serde::{Deserialize, Serialize};

/// Stands for what was taken out.
const HOLE: char = '#';
/// Characters of a message that are looked at.
const LONGEST: usize = 1000;
/// Hexadecimal letters without a digit from this length on are an id, not a word.
const HEX_ID: usize = 8;

/// What like failures have in common: 12 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Fingerprint(u64);

/// The text is no fingerprint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{given:?} is no fingerprint: those are 12 digits of 0-9 and a-f, as mesh dead-letter group shows them")]
pub struct InvalidFingerprint {
    given: String,
}

impl Fingerprint {
    /// The fingerprint of a fault.
    #[must_use]
    pub fn of(fault: &v1::Fault) -> Fingerprint {
        let origin = fault.origin.as_ref();
        let vendor = origin.map_or("", |origin| origin.vendor.as_str());
        let vendor_code = origin.map_or("", |origin| origin.vendor_code.as_str());
        let said = normalised(&fault.message);
        // A zero byte stands in none of them, so parts can't run into each other.
        let text = format!("{}\0{}\0{vendor}\0{vendor_code}\0{said}", fault.code, fault.reason);
        let hash = digest::digest(&digest::SHA256, text.as_bytes());
        Fingerprint(hash.as_ref().iter().take(6).fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }
}

impl Fingerprint {
    /// As a number of 48 bits, for an index.
    #[must_use]
    pub const fn number(self) -> u64 {
        self.0
    }

    /// From its number.
    #[must_use]
    pub const fn from_number(number: u64) -> Fingerprint {
        Fingerprint(number & 0xffff_ffff_ffff)
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:012x}", self.0)
    }
}

impl FromStr for Fingerprint {
    type Err = InvalidFingerprint;

    fn from_str(text: &str) -> Result<Fingerprint, InvalidFingerprint> {
        let fits = text.len() == 12 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let number = u64::from_str_radix(text, 16).ok().filter(|_| fits);
        number.map(Fingerprint).ok_or_else(|| InvalidFingerprint { given: text.to_owned() })
    }
}

impl TryFrom<String> for Fingerprint {
    type Error = InvalidFingerprint;

    fn try_from(text: String) -> Result<Fingerprint, InvalidFingerprint> {
        text.parse()
    }
}

impl From<Fingerprint> for String {
    fn from(fingerprint: Fingerprint) -> String {
        fingerprint.to_string()
    }
}

/// A message with a `#` for everything that differs from case to case.
#[must_use]
pub fn normalised(message: &str) -> String {
    let chars: Vec<char> = message.chars().take(LONGEST).collect();
    let mut out = String::with_capacity(chars.len());
    let mut at = 0;
    while at < chars.len() {
        let quote = quoted(&chars, at);
        let end = quote.or_else(|| address(&chars, at)).unwrap_or_else(|| word_end(&chars, at));
        if end > at {
            let word = &chars[at..end];
            if quote.is_some() || varies(word) {
                out.push(HOLE)
            } else {
                out.extend(word)
            }
            at = end;
        } else {
            out.push(chars[at]);
            at += 1;
        }
    }
    out
}

/// Where the text in quotes that begins at `at` ends. An apostrophe within a word opens nothing.
fn quoted(chars: &[char], at: usize) -> Option<usize> {
    let close = match chars[at] {
        open @ ('"' | '\'' | '`') => open,
        '“' => '”',
        '‘' => '’',
        '«' => '»',
        _ => return None,
    };
    if at > 0 && chars[at - 1].is_alphanumeric() {
        return None;
    }
    let mut escaped = false;
    for (offset, c) in chars[at + 1..].iter().enumerate() {
        let end = at + 2 + offset;
        let within_word = chars.get(end).is_some_and(|next| next.is_alphanumeric());
        if *c == close && !escaped && !within_word {
            return Some(end);
        }
        escaped = *c == '\\' && !escaped;
    }
    // Cut off before its end, or never closed: what follows may be anybody's.
    Some(chars.len()).filter(|_| chars[at] != '\'')
}

/// Where the address (`name@host`) that begins at `at` ends.
fn address(chars: &[char], at: usize) -> Option<usize> {
    if !chars[at].is_alphanumeric() || (at > 0 && is_of_address(chars[at - 1])) {
        return None;
    }
    let length = chars[at..].iter().take_while(|c| is_of_address(**c)).count();
    let word = &chars[at..at + length];
    let sign = word.iter().position(|c| *c == '@')?;
    let after = word[sign + 1..].iter().rposition(|c| c.is_alphanumeric())?;
    Some(at + sign + after + 2)
}

fn is_of_address(c: char) -> bool {
    c.is_alphanumeric() || "@._%+-=/~!$&".contains(c)
}

/// Where the word that begins at `at` ends: letters, digits, what joins the parts of an id, and a point or a colon between
/// digits.
fn word_end(chars: &[char], at: usize) -> usize {
    let mut end = at;
    while let Some(c) = chars.get(end) {
        let around = |f: fn(&char) -> bool| end > at && f(&chars[end - 1]) && chars.get(end + 1).is_some_and(f);
        let joins = match c {
            '-' | '_' | '+' => around(|c| c.is_alphanumeric() || *c == '_' || *c == '-'),
            '.' | ':' | ',' => around(char::is_ascii_digit),
            c => c.is_alphanumeric() || *c == '_',
        };
        if !joins {
            break;
        }
        end += 1;
    }
    end
}

/// Whether a word is one of many that may stand there.
fn varies(word: &[char]) -> bool {
    let is_hex = word.len() >= HEX_ID && word.iter().all(char::is_ascii_hexdigit);
    is_hex || word.contains(&'@') || word.iter().any(|c| c.is_numeric())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_differs_from_case_to_case_is_taken_out() {
        for (message, expected) in [
            ("an amount of 0 can't be charged", "an amount of # can't be charged"),
            ("no order 'O'Brien 7' for \"Ada \\\"L\\\"\"!", "no order # for #!"),
            ("charge ch_3NabcX of 12.50 at 2026-01-02T03:04:05.678+02:00", "charge # of # at #"),
            ("write to ada.lovelace@example.com, please", "write to #, please"),
            ("id 3f2a-deadbeef deadbeef 0xfe, https://api.example.com/v1/x", "id # # #, https://api.example.com/#/x"),
            ("not a shop.orders.v1.OrderPlaced: buffer underflow", "not a shop.orders.#.OrderPlaced: buffer underflow"),
            ("rate limit; retry in 5s (attempt 3)", "rate limit; retry in # (attempt #)"),
            ("open “Grüße” and \"never closed", "open # and #"),
        ] {
            assert_eq!(normalised(message), expected, "{message}");
        }
    }

    /// The value is a promise: people write it down.
    #[test]
    fn it_stays_what_it_is() {
        let origin =
            v1::Origin { vendor: "stripe".into(), vendor_code: "amount_too_small".into(), ..Default::default() };
        let fault = |message: &str| v1::Fault {
            code: 3,
            reason: "MESH-0103".into(),
            message: message.into(),
            origin: Some(origin.clone()),
            ..Default::default()
        };
        let fingerprint = Fingerprint::of(&fault("Amount 0 is too small"));
        assert_eq!(fingerprint.to_string(), "eb28c96b4bb4");
        assert_eq!(fingerprint, Fingerprint::of(&fault("Amount 49 is too small")));
        assert_ne!(fingerprint, Fingerprint::of(&fault("Amount 49 is too large")));
        assert_eq!(fingerprint.to_string().parse(), Ok(fingerprint));
        assert!("3F2A00000000".parse::<Fingerprint>().is_err() && "+f2a00000000".parse::<Fingerprint>().is_err());
    }

    /// One of the many things that tell two cases apart.
    fn id() -> impl Strategy<Value = String> {
        prop_oneof![
            any::<u64>().prop_map(|n| n.to_string()),
            (any::<u32>(), 0..100_u8).prop_map(|(n, c)| format!("{n}.{c:02}")),
            any::<u128>().prop_map(|n| format!("{n:032x}")),
            "[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}",
            "[a-z]{2,4}_[0-9][A-Za-z0-9]{6,24}",
            "20[0-9]{2}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-5][0-9](\\.[0-9]{3,9})?(Z|\\+0[0-9]:00)",
            "\"[A-Za-z ,.@-]{0,20}\"",
            "'[A-Za-z ,.@-]{0,20}'",
            "[a-z]{1,8}(\\.[a-z]{1,8})?@[a-z]{1,8}\\.[a-z]{2,3}",
        ]
    }

    fn words() -> impl Strategy<Value = String> {
        proptest::collection::vec("[g-z]{1,7}", 1..4).prop_map(|words| words.join(" "))
    }

    proptest! {
        #[test]
        fn messages_that_differ_only_in_ids_are_alike(
            parts in proptest::collection::vec(words(), 2..5), one in id(), two in id(), end in "[.,;:!)]?"
        ) {
            let of = |id: &str| v1::Fault { message: format!("{}{end}", parts.join(&format!(" {id} "))), ..Default::default() };
            prop_assert_eq!(Fingerprint::of(&of(&one)), Fingerprint::of(&of(&two)));
        }

        #[test]
        fn nothing_of_an_id_stays(before in words(), id in id(), after in words()) {
            let said = normalised(&format!("{before} {id} {after}"));
            prop_assert_eq!(said, format!("{before} # {after}"));
        }

        #[test]
        fn any_text_has_a_fingerprint_that_reads_back(message in any::<String>(), code in any::<i32>()) {
            let fingerprint = Fingerprint::of(&v1::Fault { message, code, ..Default::default() });
            prop_assert_eq!(fingerprint.to_string().len(), 12);
            prop_assert_eq!(fingerprint.to_string().parse::<Fingerprint>(), Ok(fingerprint));
        }
    }
}
