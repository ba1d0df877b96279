//! Letters whose messages lie apart: brought to be looked at and mended, put apart again, and taken along.

use bytes::Bytes;
use mesh_proto::v1::{self, letter_record::Record};

use super::{History, order::lane_of};
use crate::{
    bus::Bus,
    claim::{self, Reader},
    dead_letter::Letter,
    delayed::Lane,
    envelope::is_claim,
    fault::{Code, Effect, Fault, Reason},
    subject,
};

/// The letter with all that lies apart of it brought: its payload and headers, and the payloads of its history. What is gone stays
/// empty. To be looked at: what is written is written of the letter as it was read.
///
/// # Errors
/// The payload that would be sent is gone ([`Reason::ClaimMissing`]) though the letter has not ended; the bus can't be reached, or
/// this identity may not read it.
pub async fn bring(bus: &Bus, letter: &Letter) -> Result<Letter, Fault> {
    let mut whole = letter.clone();
    if letter.history.iter().all(|act| act.claim.is_none()) {
        return Ok(whole);
    }
    let lane = lane_of(letter)?;
    for act in &mut whole.history {
        let Some(claim) = &act.claim else { continue };
        act.payload = there(fetch(bus, &lane, claim).await)?.map(|apart| apart.payload);
    }
    let Some(claim) = &letter.letter.claim else { return Ok(whole) };
    match fetch(bus, &lane, claim).await {
        Ok(apart) => {
            whole.letter.payload = apart.payload;
            whole.letter.headers = apart.headers;
            Ok(whole)
        }
        Err(fault) if fault.reason() == Reason::ClaimMissing && letter.state.is_ended() => Ok(whole),
        Err(fault) => Err(fault),
    }
}

async fn fetch(bus: &Bus, lane: &Lane, claim: &v1::Claim) -> Result<v1::Apart, Fault> {
    claim::fetch(bus, lane.owner(), claim, Reader::Leader).await
}

fn there(fetched: Result<v1::Apart, Fault>) -> Result<Option<v1::Apart>, Fault> {
    match fetched {
        Ok(apart) => Ok(Some(apart)),
        Err(fault) if fault.reason() == Reason::ClaimMissing => Ok(None),
        Err(fault) => Err(fault),
    }
}

/// Whether a letter may have a payload of so many bytes: one that came larger than the mesh's own messages may stay so.
///
/// # Errors
/// It is too large.
pub fn check_edit(bus: &Bus, letter: &Letter, bytes: usize) -> Result<(), Fault> {
    let most = bus.gate().max_payload();
    if letter.letter.claim.is_none() {
        return bus.gate().check_size("the edited payload", bytes);
    }
    if bytes <= most {
        return Ok(());
    }
    let message = format!("the edited payload has {bytes} bytes; the bus carries {most} in one message");
    Err(Fault::new(Code::InvalidArgument, Effect::None, Reason::TooLarge, message))
}

/// Puts an edited payload apart, with the headers of the message, where the letter's lies apart.
pub(super) async fn put_edited(bus: &Bus, letter: &Letter, payload: &Bytes) -> Result<Option<v1::Claim>, Fault> {
    let Some(claim) = &letter.letter.claim else { return Ok(None) };
    let lane = lane_of(letter)?;
    let apart = v1::Apart { headers: fetch(bus, &lane, claim).await?.headers, payload: payload.clone() };
    // The letter itself keeps it there: it is open or held.
    let put = claim::put(bus, lane.owner(), &letter.letter.id, &apart, None).await;
    put.map(Some).map_err(|error| error.into_fault("the edited payload"))
}

/// What lies apart of the letter's history, to be taken along; and how much is gone of a letter that has not ended.
///
/// # Errors
/// The bus can't be reached, or this identity may not read it.
pub async fn take_along(bus: &Bus, history: &History) -> Result<(Vec<Bytes>, usize), Fault> {
    let (lane, mut taken, mut gone) = (history.lane(), Vec::new(), 0);
    for claim in claims(history) {
        match claim::fetch_bytes(bus, lane.owner(), claim, Reader::Leader).await {
            Ok(bytes) => taken.push(bytes),
            Err(fault) if fault.reason() == Reason::ClaimMissing => gone += 1,
            Err(fault) => return Err(fault),
        }
    }
    let has_ended = history.letter().is_ok_and(|letter| letter.state.is_ended());
    Ok((taken, if has_ended { 0 } else { gone }))
}

/// Puts what was taken along where the letter's history looks for it.
///
/// # Errors
/// This broker does not carry parts of that length; the bus did not confirm it.
pub(super) async fn put_along(bus: &Bus, history: &History) -> Result<(), Fault> {
    let lane = history.lane();
    for (claim, bytes) in in_place(history).flatten() {
        check_parts(claim, bus.gate().max_payload())?;
        let put = claim::put_as(bus, lane.owner(), claim, bytes, None).await;
        put.map_err(|error| error.into_fault("what lies apart of a letter"))?;
    }
    Ok(())
}

/// Whether this broker carries the parts of what lies apart: into how many it is split is part of its place.
fn check_parts(claim: &v1::Claim, most: usize) -> Result<(), Fault> {
    let part = claim::part_bytes(claim);
    if part <= most as u64 {
        return Ok(());
    }
    let message = format!(
        "what lies apart of letter {} is in parts of {part} bytes, and this broker carries {most} in one message: raise its \
         max_payload to at least {part}, and import it again",
        claim.letter
    );
    Err(Fault::new(Code::FailedPrecondition, Effect::None, Reason::TooLarge, message))
}

/// What is taken along of a history, each with the claim on it; `Err`: nothing of the history claims it.
pub(super) fn in_place(history: &History) -> impl Iterator<Item = Result<(&v1::Claim, &Bytes), ()>> {
    let claims = claims(history);
    history.apart.iter().map(move |bytes| {
        let hash = subject::sha256(bytes);
        let fits = |claim: &&v1::Claim| {
            let is_its = claim.sha256 == hash && claim.size == bytes.len() as u64;
            is_its && claim.letter == history.id && is_claim(claim)
        };
        claims.iter().copied().find(fits).map(|claim| (claim, bytes)).ok_or(())
    })
}

/// Each claim of a history, once.
fn claims(history: &History) -> Vec<&v1::Claim> {
    let mut claims: Vec<&v1::Claim> = Vec::new();
    for record in &history.records {
        let claim = match &record.record {
            Some(Record::Captured(letter)) => letter.claim.as_ref(),
            Some(Record::Edited(edit)) => edit.claim.as_ref(),
            _ => None,
        };
        if let Some(claim) = claim
            && claims.iter().all(|known| known.sha256 != claim.sha256)
        {
            claims.push(claim);
        }
    }
    claims
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broker_that_carries_less_is_told_how_much_it_takes() {
        let claim = v1::Claim { letter: "ab".into(), size: 1_000_001, parts: 2, ..Default::default() };
        assert!(check_parts(&claim, 500_001).is_ok());
        let fault = check_parts(&claim, 500_000).unwrap_err();
        assert!(fault.message().contains("raise its max_payload to at least 500001"), "{fault}");
    }
}
