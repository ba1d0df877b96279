//! The `mesh` header: everything that the mesh itself needs to say about a message, in one header.
//!
//! `key=value` pairs joined by `;`. Values are percent-encoded where they hold anything but visible ASCII without `;`, `=`
//! and `%`. Unknown keys are ignored, so that a newer sender can add some.

use mesh_proto::v1::Claim;
use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};

use crate::clock::Deadline;

const ESCAPED: &AsciiSet = &CONTROLS.add(b' ').add(b';').add(b'=').add(b'%').add(b'"');

/// What stands in the `mesh` header.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Note {
    /// `d`: when nobody wants the answer any more, Unix milliseconds.
    pub deadline: Option<Deadline>,
    /// `k`: the idempotency key, where it is not the message's id.
    pub idempotency_key: Option<String>,
    /// `a`: on calls, which attempt it is; a repeat of what caused the call counts as one. `None`: the first.
    pub attempt: Option<u32>,
    /// On lanes only.
    pub lane: Option<LaneNote>,
}

/// What a delayed or replayed copy carries about its original.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaneNote {
    /// `a`: the number of the next attempt.
    pub attempt: u32,
    /// `s`: the subject that the original came on.
    pub subject: String,
    /// `i`: the original's id.
    pub message_id: String,
    /// `o`: the original's stream and sequence, `<stream>:<sequence>`.
    pub source: (String, u64),
    /// `t`: when the original was stored, Unix milliseconds.
    pub stored_at_ms: i64,
    /// `l`, `g`, `q`: for a replay, the letter.
    pub letter: Option<LetterNote>,
    /// `b`: where the order of keys is kept, the hash of the key that is blocked meanwhile.
    pub block: Option<String>,
    /// `c`: payload and headers lie apart, here.
    pub claim: Option<Claim>,
    /// `y`: the ordering key of what lies apart, where its consumer keeps the order of keys.
    pub key: Option<String>,
    /// `w`: of what was never begun, how long it has waited because its target is down.
    pub waits: Option<TargetWait>,
}

/// A wait for a target that is down, as if it were one: `<since>:<until>`, both Unix milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TargetWait {
    /// Since when. What it waited before is counted in.
    pub since_ms: i64,
    /// Until when it is put aside. What comes back later waited for its consumer, and no longer for its target.
    pub until_ms: i64,
}

impl TargetWait {
    /// How long it has waited for its target, at `now_ms` (Unix milliseconds); in milliseconds.
    #[must_use]
    pub fn waited_ms(self, now_ms: i64) -> i64 {
        now_ms.min(self.until_ms).saturating_sub(self.since_ms).max(0)
    }
}

/// Which letter a replayed copy belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LetterNote {
    /// `l`: the letter's id.
    pub id: String,
    /// `g`: which replay this is, 1 for the first.
    pub generation: u32,
    /// `q`: the sequence of the record that ordered the replay, in the dead-letter stream.
    pub ordered_at: u64,
}

/// A `mesh` header that can't be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the header \"mesh\" can't be read: {0}")]
pub struct InvalidNote(String);

impl Note {
    /// The header's value; `None` where there is nothing to say.
    #[must_use]
    pub fn encode(&self) -> Option<String> {
        // A deadline and a key fit without growing; what has nothing to say allocates nothing.
        let mut out = String::with_capacity(if self.idempotency_key.is_some() { 96 } else { 0 });
        let mut put = |key: &str, value: &dyn std::fmt::Display| {
            use std::fmt::Write as _;
            let separator = if out.is_empty() { "" } else { ";" };
            let text = value.to_string();
            // Writing to a String can't fail.
            let _ = write!(out, "{separator}{key}={}", utf8_percent_encode(&text, ESCAPED));
        };
        if let Some(deadline) = self.deadline {
            put("d", &deadline.unix_ms());
        }
        if let Some(key) = &self.idempotency_key {
            put("k", key);
        }
        if let (Some(attempt), None) = (self.attempt, &self.lane) {
            put("a", &attempt);
        }
        if let Some(lane) = &self.lane {
            put("a", &lane.attempt);
            put("s", &lane.subject);
            put("i", &lane.message_id);
            put("o", &format_args!("{}:{}", lane.source.0, lane.source.1));
            put("t", &lane.stored_at_ms);
            if let Some(block) = &lane.block {
                put("b", block);
            }
            if let Some(claim) = &lane.claim {
                put("c", &format_args!("{}/{}/{}/{}", claim.letter, claim.sha256, claim.size, claim.parts));
            }
            if let Some(key) = &lane.key {
                put("y", key);
            }
            if let Some(TargetWait { since_ms, until_ms }) = lane.waits {
                put("w", &format_args!("{since_ms}:{until_ms}"));
            }
            if let Some(letter) = &lane.letter {
                put("l", &letter.id);
                put("g", &letter.generation);
                put("q", &letter.ordered_at);
            }
        }
        (!out.is_empty()).then_some(out)
    }

    /// Reads the header's value.
    ///
    /// # Errors
    /// Names the pair that can't be read.
    pub fn parse(header: &str) -> Result<Note, InvalidNote> {
        let mut pairs = Pairs::default();
        for pair in header.split(';').filter(|p| !p.is_empty()) {
            let (key, value) = pair.split_once('=').ok_or_else(|| InvalidNote(format!("{pair:?} is not key=value")))?;
            let value =
                percent_decode_str(value).decode_utf8().map_err(|_| InvalidNote(format!("{key:?} is not UTF-8")))?;
            pairs.0.push((key, value.into_owned()));
        }
        Ok(Note {
            deadline: pairs.number::<i64>("d")?.map(Deadline::at_unix_ms),
            idempotency_key: pairs.take("k"),
            // A lane's is taken out by it.
            lane: lane(&mut pairs)?,
            attempt: pairs.number("a")?,
        })
    }
}

fn lane(pairs: &mut Pairs<'_>) -> Result<Option<LaneNote>, InvalidNote> {
    let Some(subject) = pairs.take("s") else { return Ok(None) };
    let source = pairs.need("o")?;
    let (stream, sequence) = source
        .rsplit_once(':')
        .and_then(|(stream, sequence)| Some((stream.to_owned(), sequence.parse().ok()?)))
        .ok_or_else(|| InvalidNote(format!("o={source:?} is not <stream>:<sequence>")))?;
    let letter = match pairs.take("l") {
        Some(id) => Some(LetterNote {
            id,
            generation: pairs.number("g")?.unwrap_or(1),
            ordered_at: pairs.number("q")?.ok_or_else(|| InvalidNote("q is missing".into()))?,
        }),
        None => None,
    };
    Ok(Some(LaneNote {
        attempt: pairs.number("a")?.unwrap_or(1),
        subject,
        message_id: pairs.need("i")?,
        source: (stream, sequence),
        stored_at_ms: pairs.number("t")?.unwrap_or(0),
        letter,
        block: pairs.take("b"),
        claim: pairs.take("c").map(|text| claim(&text)).transpose()?,
        key: pairs.take("y"),
        waits: pairs.take("w").map(|text| waits(&text)).transpose()?,
    }))
}

fn waits(text: &str) -> Result<TargetWait, InvalidNote> {
    let read = || {
        let (since, until) = text.split_once(':')?;
        Some(TargetWait { since_ms: since.parse().ok()?, until_ms: until.parse().ok()? })
    };
    read().ok_or_else(|| InvalidNote(format!("w={text:?} is not <since>:<until>")))
}

/// `<letter>/<sha256>/<size>/<parts>`: names that fit a subject, and no more bytes than one can hold.
fn claim(text: &str) -> Result<Claim, InvalidNote> {
    let read = || {
        let mut fields = text.split('/');
        let (letter, sha256) = (fields.next()?.to_owned(), fields.next()?.to_owned());
        let (size, parts) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        Some(Claim { letter, sha256, size, parts }).filter(|claim| fields.next().is_none() && is_claim(claim))
    };
    read().ok_or_else(|| InvalidNote(format!("c={text:?} is not <letter>/<sha256>/<size>/<parts>")))
}

/// Bytes that lie apart for one message, at most: several times what a broker carries in one.
pub const MAX_APART_BYTES: u64 = 256 * 1024 * 1024;
/// Messages that they lie in, at most.
pub const MAX_PARTS: u32 = 64;

/// Whether a claim names a place that can be.
#[must_use]
pub fn is_claim(claim: &Claim) -> bool {
    let is_hex =
        |text: &str, length| text.len() == length && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let fits = claim.size <= MAX_APART_BYTES && (1..=MAX_PARTS).contains(&claim.parts);
    fits && is_hex(&claim.letter, 32) && is_hex(&claim.sha256, 64)
}

#[derive(Default)]
struct Pairs<'a>(Vec<(&'a str, String)>);

impl Pairs<'_> {
    fn take(&mut self, key: &str) -> Option<String> {
        let at = self.0.iter().position(|(k, _)| *k == key)?;
        Some(self.0.swap_remove(at).1)
    }

    fn need(&mut self, key: &str) -> Result<String, InvalidNote> {
        self.take(key).ok_or_else(|| InvalidNote(format!("{key} is missing")))
    }

    fn number<T: std::str::FromStr>(&mut self, key: &str) -> Result<Option<T>, InvalidNote> {
        let Some(text) = self.take(key) else { return Ok(None) };
        text.parse().map(Some).map_err(|_| InvalidNote(format!("{key}={text:?} is not a number that fits")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{option, prelude::*};

    fn letter() -> impl Strategy<Value = LetterNote> {
        ("\\PC{1,20}", 1u32.., any::<u64>()).prop_map(|(id, generation, ordered_at)| LetterNote {
            id,
            generation,
            ordered_at,
        })
    }

    fn claimed() -> impl Strategy<Value = Option<Claim>> {
        let claim = ("[0-9a-f]{32}", "[0-9a-f]{64}", 0..=MAX_APART_BYTES, 1..=MAX_PARTS);
        option::of(claim.prop_map(|(letter, sha256, size, parts)| Claim { letter, sha256, size, parts }))
    }

    fn lane_note() -> impl Strategy<Value = LaneNote> {
        let waits = (any::<i64>(), any::<i64>()).prop_map(|(since_ms, until_ms)| TargetWait { since_ms, until_ms });
        let more = (option::of("[0-9a-f]{32}"), claimed(), option::of("\\PC{1,20}"), option::of(waits));
        let source = ("\\PC{1,10}", any::<u64>());
        (1u32.., "\\PC{1,30}", "\\PC{1,30}", source, any::<i64>(), option::of(letter()), more).prop_map(
            |(attempt, subject, message_id, source, stored_at_ms, letter, (block, claim, key, waits))| LaneNote {
                attempt,
                subject,
                message_id,
                source,
                stored_at_ms,
                letter,
                block,
                claim,
                key,
                waits,
            },
        )
    }

    proptest! {
        #[test]
        fn reads_what_it_wrote(
            deadline in option::of(any::<i64>()),
            key in option::of("\\PC{1,30}"),
            attempt in option::of(any::<u32>()),
            lane in option::of(lane_note()),
        ) {
            let attempt = attempt.filter(|_| lane.is_none());
            let note = Note { deadline: deadline.map(Deadline::at_unix_ms), idempotency_key: key, attempt, lane };
            let header = note.encode().unwrap_or_default();
            prop_assert!(header.is_ascii() && !header.contains(['\r', '\n', ' ']), "{header:?}");
            prop_assert_eq!(Note::parse(&header).unwrap(), note);
        }

        #[test]
        fn never_panics(text in "\\PC{0,60}") {
            let _ = Note::parse(&text);
        }
    }

    #[test]
    fn a_claim_names_a_place_that_can_be_or_is_none() {
        let right = format!("{}/{}/1/1", "0a".repeat(16), "0b".repeat(32));
        assert!(claim(&right).is_ok());
        for wrong in [
            right.replace("0a0a", "*.>."),
            right.replace("/1/1", "/1/0"),
            right.replace("/1/1", "/1/65"),
            right.replace("/1/1", "/999999999999/1"),
            format!("{right}/1"),
            String::new(),
        ] {
            assert!(claim(&wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_wait_for_a_target_is_over_when_it_is_to_come_back() {
        let waits = TargetWait { since_ms: 1000, until_ms: 5000 };
        let of = |now_ms| waits.waited_ms(now_ms);
        assert_eq!((of(900), of(1000), of(1700), of(5000)), (0, 0, 700, 4000));
        assert_eq!(of(90_000_000), 4000, "nobody was there to take it: that is no wait for its target");
    }

    #[test]
    fn unknown_keys_are_ignored_and_broken_ones_named() {
        assert_eq!(Note::parse("z=1;d=5").unwrap().deadline, Some(Deadline::at_unix_ms(5)));
        assert!(Note::parse("d=soon").unwrap_err().to_string().contains("d=\"soon\""));
    }
}
