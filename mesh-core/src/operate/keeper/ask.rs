//! Asking the keeper's index from outside. What it answers is as new as the stream was when it was asked.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use mesh_proto::v1::{self, LetterStanding};
use prost::Name;

use super::{
    super::letters::{Selection, Spot, captured_at},
    serve::SERVICE,
};
use crate::{
    bus::Bus,
    dead_letter::{Letter, LetterState},
    fault::{Code, Effect, Fault, Reason},
    request::{Call, CallTarget},
    subject::DEAD_LETTER_STREAM,
};

/// Letters that are read at once, each as long as it may be.
const AT_ONCE: usize = 32;
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
/// and 0 mean that it is not said, so nothing and 0 themselves are asked for among those of which one must fit.
#[must_use]
pub fn query(selection: &Selection) -> Option<v1::LetterQuery> {
    let Selection { ids, headers, condition, .. } = selection;
    if !ids.is_empty() || !headers.is_empty() || condition.is_some() || selection.until_ms == Some(0) {
        return None;
    }
    let parked = [Reason::OutcomeUnknown.code().to_owned()];
    let (reasons, states): (&[String], &[LetterState]) = match selection.parked {
        true if selection.reasons.is_empty() => (&parked, &[LetterState::Open]),
        true => return None,
        false => (&selection.reasons, &selection.states),
    };
    let (reason, reasons) = one_or_any(reasons);
    let (vendor, vendors) = one_or_any(&selection.vendors);
    let (vendor_code, vendor_codes) = one_or_any(&selection.vendor_codes);
    let codes: Option<Vec<i32>> = selection.codes.iter().map(|word| code(word)).collect();
    let (code, codes) = one_or_any(&codes?);
    let fingerprints: Vec<u64> = selection.fingerprints.iter().map(|one| one.number()).collect();
    let (fingerprint, fingerprints) = one_or_any(&fingerprints);
    let message_types = selection.message_types.clone();
    let any_of = v1::LetterAnyOf { message_types, reasons, codes, vendors, vendor_codes, fingerprints };
    Some(v1::LetterQuery {
        service: selection.service.as_ref().map(ToString::to_string).unwrap_or_default(),
        consumer: selection.consumer.as_ref().map(ToString::to_string).unwrap_or_default(),
        message_type: String::new(),
        reason,
        code,
        vendor,
        vendor_code,
        captured_from_ms: selection.since_ms.unwrap_or(0),
        captured_before_ms: selection.until_ms.unwrap_or(0),
        standings: states.iter().map(|state| standing(*state).into()).collect(),
        fingerprint,
        id_prefix: String::new(),
        any_of: Some(any_of).filter(|any_of| *any_of != v1::LetterAnyOf::default()),
    })
}

/// The number of a code. `None`: what the letters have for it may be another number.
fn code(word: &str) -> Option<i32> {
    let is_sure = !matches!(word, "UNKNOWN" | "UNSPECIFIED");
    v1::Code::from_str_name(&format!("CODE_{word}")).filter(|_| is_sure).map(Into::into)
}

/// Of what a query may ask for as one alone, or as any of several: every keeper heeds the one.
fn one_or_any<T: Clone + Default + PartialEq>(wanted: &[T]) -> (T, Vec<T>) {
    match wanted {
        [one] if *one != T::default() => (one.clone(), Vec::new()),
        any => (T::default(), any.to_vec()),
    }
}

/// A page of at most `size` letters, beginning behind the page whose `next` is `token`.
///
/// # Errors
/// No keeper answers ([`Reason::NobodyAnswers`]) or has read far enough; the bus can't be reached.
pub async fn page(bus: &Bus, query: v1::LetterQuery, size: u32, token: &str) -> Result<Page, Fault> {
    let reply = entries(bus, query, size, token).await?;
    let letters = stream::iter(reply.letters).map(|entry| read(bus, entry)).buffered(AT_ONCE).try_collect().await?;
    Ok(Page { letters, next: reply.next_page_token, total: reply.total, unread: reply.unread })
}

/// The same page, as the index has it: no letter is read.
///
/// # Errors
/// As for [`page`].
pub async fn entries(bus: &Bus, query: v1::LetterQuery, size: u32, token: &str) -> Result<v1::ListLettersReply, Fault> {
    let is_any_of = query.any_of.is_some();
    let request = v1::ListLettersRequest {
        query: Some(query),
        page_size: size,
        page_token: token.to_owned(),
        read_to: newest(bus).await?,
    };
    let reply: v1::ListLettersReply = ask(bus, "ListLetters", &request).await?;
    heeded(is_any_of, reply.heeds_any_of).map(|()| reply)
}

/// The letters of some entries, in their order, without their payloads: however large these are, few are in memory.
///
/// # Errors
/// The bus can't be reached, or a letter is not where its entry says.
pub async fn letters(bus: &Bus, entries: Vec<v1::IndexedLetter>) -> Result<Vec<Letter>, Fault> {
    let without_payload = |mut letter: Letter| {
        letter.letter.payload = Bytes::new();
        letter
    };
    let letters = stream::iter(entries).map(|entry| read(bus, entry)).buffered(AT_ONCE);
    letters.map_ok(without_payload).try_collect().await
}

/// The letters of a query by what they failed of, at most `limit` groups, the largest first.
///
/// # Errors
/// As for [`page`].
pub async fn group(bus: &Bus, query: v1::LetterQuery, limit: u32) -> Result<v1::GroupLettersReply, Fault> {
    let is_any_of = query.any_of.is_some();
    let request = v1::GroupLettersRequest { query: Some(query), limit, read_to: newest(bus).await? };
    let reply: v1::GroupLettersReply = ask(bus, "GroupLetters", &request).await?;
    heeded(is_any_of, reply.heeds_any_of).map(|()| reply)
}

/// How many letters a query means.
///
/// # Errors
/// As for [`page`].
pub async fn count(bus: &Bus, query: v1::LetterQuery) -> Result<v1::CountLettersReply, Fault> {
    let is_any_of = query.any_of.is_some();
    let request = v1::CountLettersRequest { query: Some(query), read_to: newest(bus).await? };
    let reply: v1::CountLettersReply = ask(bus, "CountLetters", &request).await?;
    heeded(is_any_of, reply.heeds_any_of).map(|()| reply)
}

/// A keeper that does not know a part of the question answers for more letters than are meant.
fn heeded(is_asked: bool, is_heeded: bool) -> Result<(), Fault> {
    match is_asked && !is_heeded {
        true => {
            Err(Fault::unavailable("the keeper is older than this question, which names types or several of a kind"))
        }
        false => Ok(()),
    }
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
    let Some(letter) = captured_at(bus, entry.captured_sequence).await? else {
        return Err(unreadable(&format!("the capture of letter {} is not where the index says", entry.id)));
    };
    let state = state(entry.standing());
    Ok(Letter { letter, state, history: Vec::new(), last_sequence: entry.last_sequence, region: entry.region })
}

/// Where the letter of an entry lies.
#[must_use]
pub fn spot(entry: &v1::IndexedLetter) -> Spot {
    Spot::at((entry.captured_at_ms, &entry.id), entry.captured_sequence, state(entry.standing()))
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
            Selection { codes: one("UNKNOWN"), ..all.clone() },
            Selection { codes: one("UNSPECIFIED"), ..all.clone() },
            Selection { until_ms: Some(0), ..all.clone() },
        ] {
            assert_eq!(query(&wrong), None, "{wrong:?}");
        }
        for among in [
            Selection { vendors: one(""), ..all.clone() },
            Selection { vendor_codes: one(""), ..all.clone() },
            Selection { reasons: one(""), ..all.clone() },
            Selection { fingerprints: vec![Fingerprint::from_number(0)], ..all.clone() },
        ] {
            assert!(query(&among).unwrap().any_of.is_some(), "{among:?}");
        }
        let right = Selection { vendors: one("stripe"), codes: one("UNAVAILABLE"), until_ms: Some(1), ..all };
        let right = query(&right).unwrap();
        assert_eq!((right.vendor.as_str(), right.captured_before_ms), ("stripe", 1));
        assert_eq!(right.any_of, None, "every keeper heeds it");
    }

    #[test]
    fn what_an_older_keeper_does_not_heed_is_not_taken_for_an_answer() {
        assert!(heeded(false, false).is_ok() && heeded(true, true).is_ok());
        assert!(heeded(true, false).unwrap_err().message().contains("older"));
    }
}
