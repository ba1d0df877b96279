//! Asking the keeper's index from outside. What it answers is as new as the stream was when it was asked.

use std::time::Duration;

use futures_util::future::try_join_all;
use mesh_proto::v1::{self, LetterStanding, letter_record::Record};
use prost::{Message as _, Name};

use super::{super::letters::Selection, serve::SERVICE};
use crate::{
    bus::Bus,
    dead_letter::{Letter, LetterState},
    fault::{Code, Effect, Fault, Reason},
    request::{Call, CallTarget},
    subject::DEAD_LETTER_STREAM,
};

/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// One page of letters, without their histories.
#[derive(Debug, Clone, PartialEq)]
pub struct Page {
    /// The letters, the oldest capture first; each as its newest capture has it.
    pub letters: Vec<Letter>,
    /// For the next page; empty: this was the last one.
    pub next: String,
    /// All that the query means, on every page.
    pub total: u64,
    /// Those of its service and consumer whose newest record the keeper can't read.
    pub unread: Option<v1::UnreadLetters>,
}

/// The query that means the same letters. `None`: the index can't say it, only the letters themselves can. In a query, nothing
/// and 0 mean that it is not said, so nothing and 0 themselves are not asked for.
#[must_use]
pub fn query(selection: &Selection) -> Option<v1::LetterQuery> {
    let Selection { ids, message_types, headers, condition, .. } = selection;
    if !ids.is_empty() || !message_types.is_empty() || !headers.is_empty() || condition.is_some() {
        return None;
    }
    let is_of_code = |word: &str| !matches!(word, "UNKNOWN" | "UNSPECIFIED");
    if selection.until_ms == Some(0) || !selection.codes.iter().all(|word| is_of_code(word)) {
        return None;
    }
    let parked = [Reason::OutcomeUnknown.code().to_owned()];
    let (reasons, states): (&[String], &[LetterState]) = match selection.parked {
        true if selection.reasons.is_empty() => (&parked, &[LetterState::Open]),
        true => return None,
        false => (&selection.reasons, &selection.states),
    };
    let code = selection.codes.first().map(|word| v1::Code::from_str_name(&format!("CODE_{word}")));
    Some(v1::LetterQuery {
        service: selection.service.as_ref().map(ToString::to_string).unwrap_or_default(),
        consumer: selection.consumer.as_ref().map(ToString::to_string).unwrap_or_default(),
        message_type: String::new(),
        reason: one(reasons)?,
        code: match (selection.codes.len(), code) {
            (0, _) => 0,
            (1, Some(Some(code))) => code.into(),
            _ => return None,
        },
        vendor: one(&selection.vendors)?,
        vendor_code: one(&selection.vendor_codes)?,
        captured_from_ms: selection.since_ms.unwrap_or(0),
        captured_before_ms: selection.until_ms.unwrap_or(0),
        standings: states.iter().map(|state| standing(*state).into()).collect(),
        fingerprint: match selection.fingerprints.as_slice() {
            [] => 0,
            [one] if one.number() != 0 => one.number(),
            _ => return None,
        },
        id_prefix: String::new(),
    })
}

/// Nothing, or the one. `None`: there are several, or the one is empty.
fn one(wanted: &[String]) -> Option<String> {
    match wanted {
        [] => Some(String::new()),
        [one] if !one.is_empty() => Some(one.clone()),
        _ => None,
    }
}

/// A page of at most `size` letters, beginning behind the page whose `next` is `token`.
///
/// # Errors
/// No keeper answers ([`Reason::NobodyAnswers`]) or has read far enough; the bus can't be reached.
pub async fn page(bus: &Bus, query: v1::LetterQuery, size: u32, token: &str) -> Result<Page, Fault> {
    let reply = entries(bus, query, size, token).await?;
    let letters = letters(bus, reply.letters).await?;
    Ok(Page { letters, next: reply.next_page_token, total: reply.total, unread: reply.unread })
}

/// The same page, as the index has it: no letter is read.
///
/// # Errors
/// As for [`page`].
pub async fn entries(bus: &Bus, query: v1::LetterQuery, size: u32, token: &str) -> Result<v1::ListLettersReply, Fault> {
    let request = v1::ListLettersRequest {
        query: Some(query),
        page_size: size,
        page_token: token.to_owned(),
        read_to: newest(bus).await?,
    };
    ask(bus, "ListLetters", &request).await
}

/// The letters of some entries, in their order.
///
/// # Errors
/// The bus can't be reached, or a letter is not where its entry says.
pub async fn letters(bus: &Bus, entries: Vec<v1::IndexedLetter>) -> Result<Vec<Letter>, Fault> {
    try_join_all(entries.into_iter().map(|entry| read(bus, entry))).await
}

/// The letters of a query by what they failed of, at most `limit` groups, the largest first.
///
/// # Errors
/// As for [`page`].
pub async fn group(bus: &Bus, query: v1::LetterQuery, limit: u32) -> Result<v1::GroupLettersReply, Fault> {
    let request = v1::GroupLettersRequest { query: Some(query), limit, read_to: newest(bus).await? };
    ask(bus, "GroupLetters", &request).await
}

/// How many letters a query means.
///
/// # Errors
/// As for [`page`].
pub async fn count(bus: &Bus, query: v1::LetterQuery) -> Result<v1::CountLettersReply, Fault> {
    let request = v1::CountLettersRequest { query: Some(query), read_to: newest(bus).await? };
    ask(bus, "CountLetters", &request).await
}

/// What was written before the question is in the answer.
async fn newest(bus: &Bus) -> Result<u64, Fault> {
    Ok(bus.stream_state(DEAD_LETTER_STREAM).await?.map_or(0, |state| state.last_sequence))
}

async fn ask<Q: prost::Message, R: prost::Message + Default + Name>(
    bus: &Bus,
    method: &'static str,
    request: &Q,
) -> Result<R, Fault> {
    let call = Call::<()>::new(bus, CallTarget::new(SERVICE, method), request.encode_to_vec().into());
    let bytes = call.timeout(TIMEOUT).bytes().await?;
    R::decode(bytes).map_err(|error| unreadable(&format!("the reply is no {}", R::NAME)).with_detail(error.to_string()))
}

/// The letter of an entry: texts and payload stand in the stream.
async fn read(bus: &Bus, entry: v1::IndexedLetter) -> Result<Letter, Fault> {
    let found = bus.message_at(DEAD_LETTER_STREAM, entry.captured_sequence).await?;
    let record = found.and_then(|message| v1::LetterRecord::decode(message.open().envelope.payload).ok());
    let Some(Record::Captured(letter)) = record.and_then(|record| record.record) else {
        return Err(unreadable(&format!("the capture of letter {} is not where the index says", entry.id)));
    };
    let state = state(entry.standing());
    Ok(Letter { letter, state, history: Vec::new(), last_sequence: entry.last_sequence, region: entry.region })
}

fn unreadable(message: &str) -> Fault {
    Fault::new(Code::DataLoss, Effect::None, Reason::Undecodable, message)
}

/// A standing as the fold of records says it.
#[must_use]
pub fn state(standing: LetterStanding) -> LetterState {
    match standing {
        LetterStanding::Held => LetterState::Held,
        LetterStanding::Replaying => LetterState::Replaying,
        LetterStanding::Resolved => LetterState::Resolved,
        LetterStanding::Discarded => LetterState::Discarded,
        LetterStanding::Open | LetterStanding::Unspecified => LetterState::Open,
    }
}

/// A state as the index says it.
#[must_use]
pub fn standing(state: LetterState) -> LetterStanding {
    match state {
        LetterState::Open => LetterStanding::Open,
        LetterState::Held => LetterStanding::Held,
        LetterState::Replaying => LetterStanding::Replaying,
        LetterState::Resolved => LetterStanding::Resolved,
        LetterState::Discarded => LetterStanding::Discarded,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dead_letter::Fingerprint;

    #[test]
    fn what_the_index_would_take_for_not_said_is_not_asked_of_it() {
        let one = |text: &str| vec![text.to_owned()];
        let all = Selection::default();
        for wrong in [
            Selection { vendors: one(""), ..all.clone() },
            Selection { vendor_codes: one(""), ..all.clone() },
            Selection { reasons: one(""), ..all.clone() },
            Selection { codes: one("UNKNOWN"), ..all.clone() },
            Selection { codes: one("UNSPECIFIED"), ..all.clone() },
            Selection { fingerprints: vec![Fingerprint::from_number(0)], ..all.clone() },
            Selection { until_ms: Some(0), ..all.clone() },
        ] {
            assert_eq!(query(&wrong), None, "{wrong:?}");
        }
        let right = Selection { vendors: one("stripe"), codes: one("UNAVAILABLE"), until_ms: Some(1), ..all };
        let right = query(&right).unwrap();
        assert_eq!((right.vendor.as_str(), right.captured_before_ms), ("stripe", 1));
    }
}
