//! Bytes that lie apart: of a message of others that is so large that neither its letter nor its copy on the lane fits into one
//! message. The bytes are stored first, then the letter or the copy with a *claim* on them, then the message is acknowledged.
//!
//! What holds here:
//! - A claim is the hash of what it claims: the same message put twice lies there once, and what is brought is what was put.
//! - A place is written again by every further try, so it is younger than any reference that is about to be written. The keeper
//!   takes away by sequence, what it looked at and nothing that was put since.
//! - Nothing is decided by a read: what is not there, or is not what was put, is a fault ([`Reason::ClaimMissing`]).

use std::{borrow::Cow, time::Duration};

use bytes::Bytes;
use mesh_proto::v1::{Apart, Claim};
use prost::Message as _;
use tokio::time::Instant;

use crate::{
    bus::{Bus, PublishError},
    envelope::{header, is_claim},
    fault::{CLAIM_POINT, Code, Effect, Fault, Reason, crash_point},
    subject::{self, CLAIM_STREAM, Name, sha256},
};

/// How far a server that answers a consumer may be behind the one that confirmed the bytes, before they count as gone.
const BEHIND: Duration = Duration::from_secs(5);
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// Room that is made beforehand for what a claim says, at most.
const ROOM: u64 = 4 * 1024 * 1024;

/// The consumer whose message it is: only it, the keeper and operators get at the bytes.
#[derive(Debug, Clone, Copy)]
pub struct Owner<'a> {
    /// The region.
    pub region: &'a Name,
    /// The service.
    pub service: &'a Name,
    /// The consumer.
    pub consumer: &'a Name,
}

impl Owner<'_> {
    fn subject(self, claim: &Claim, part: u32) -> String {
        let place = subject::claim((self.region, self.service, self.consumer), &claim.letter, &claim.sha256);
        // Who splits the same bytes otherwise (another limit of the broker) does not mix its parts with these.
        format!("{place}.{part}-{}", claim.parts)
    }
}

/// Who brings them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reader {
    /// The consumer: it may ask for its own places alone, of any of the stream's servers.
    Owner,
    /// The keeper or an operator: at the stream's leader.
    Leader,
}

/// Stores what belongs to `letter` (its id, whether it is written or not). `from`: the delivery that it is done for, stream and
/// sequence; while that is not settled the bytes stay.
///
/// # Errors
/// The broker has not confirmed all of it: nothing may refer to it.
pub async fn put(
    bus: &Bus,
    owner: Owner<'_>,
    letter: &str,
    apart: &Apart,
    from: Option<(&str, u64)>,
) -> Result<Claim, PublishError> {
    let bytes = Bytes::from(apart.encode_to_vec());
    let part_bytes = bus.gate().max_message_bytes().max(bus.gate().max_payload() / 2).max(1);
    let claim = Claim {
        letter: letter.to_owned(),
        sha256: sha256(&bytes),
        size: bytes.len() as u64,
        parts: u32::try_from(bytes.len().div_ceil(part_bytes).max(1)).unwrap_or(u32::MAX),
    };
    put_as(bus, owner, &claim, &bytes, from).await?;
    crash_point(CLAIM_POINT);
    Ok(claim)
}

/// Stores bytes where a claim that stands already looks for them.
///
/// # Errors
/// As of [`put`].
pub async fn put_as(
    bus: &Bus,
    owner: Owner<'_>,
    claim: &Claim,
    bytes: &Bytes,
    from: Option<(&str, u64)>,
) -> Result<(), PublishError> {
    let part_bytes = usize::try_from(part_bytes(claim)).unwrap_or(usize::MAX);
    let from = from.map(|(stream, sequence)| (Cow::Borrowed(header::FROM), format!("{stream}:{sequence}")));
    for part in 0..claim.parts {
        let start = bytes.len().min(part as usize * part_bytes);
        let chunk = bytes.slice(start..bytes.len().min(start + part_bytes));
        let sealed = bus.gate().seal_own(owner.subject(claim, part), from.iter().cloned().collect(), chunk);
        bus.publish(CLAIM_STREAM, sealed).await?;
    }
    Ok(())
}

/// Bytes of the longest part of what a claim stands for.
#[must_use]
pub fn part_bytes(claim: &Claim) -> u64 {
    claim.size.div_ceil(u64::from(claim.parts.max(1)))
}

/// Brings what lies there.
///
/// # Errors
/// [`Reason::ClaimMissing`]: it is not there, or not as it was put, and asking again does not help. Otherwise the bus can't be
/// reached, or this identity may not read it.
pub async fn fetch(bus: &Bus, owner: Owner<'_>, claim: &Claim, reader: Reader) -> Result<Apart, Fault> {
    let bytes = fetch_bytes(bus, owner, claim, reader).await?;
    Apart::decode(bytes).map_err(|error| missing(claim, &format!("it can't be read: {error}")))
}

/// Brings the bytes that lie there, as they are.
///
/// # Errors
/// As of [`fetch`].
pub async fn fetch_bytes(bus: &Bus, owner: Owner<'_>, claim: &Claim, reader: Reader) -> Result<Bytes, Fault> {
    if !is_claim(claim) {
        return Err(missing(claim, "names no place that can be"));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(claim.size.min(ROOM)).unwrap_or(0));
    for part in 0..claim.parts {
        let found = read(bus, &owner.subject(claim, part), reader).await?;
        let chunk = found.ok_or_else(|| missing(claim, &format!("part {part} of {} is not there", claim.parts)))?;
        bytes.extend_from_slice(&chunk);
        if bytes.len() as u64 > claim.size {
            break;
        }
    }
    if bytes.len() as u64 != claim.size || sha256(&bytes) != claim.sha256 {
        return Err(missing(claim, "what lies there is not what was put there"));
    }
    Ok(bytes.into())
}

async fn read(bus: &Bus, subject: &str, reader: Reader) -> Result<Option<Bytes>, Fault> {
    let limit = Instant::now() + BEHIND;
    loop {
        let found = match reader {
            Reader::Owner => bus.direct_last(CLAIM_STREAM, subject).await?,
            Reader::Leader => bus.last_on(CLAIM_STREAM, subject).await?,
        };
        match found {
            Some(message) => return Ok(Some(message.open().envelope.payload)),
            None if reader == Reader::Leader || Instant::now() >= limit => return Ok(None),
            None => tokio::time::sleep(LOOK_AGAIN).await,
        }
    }
}

fn missing(claim: &Claim, why: &str) -> Fault {
    let message = format!("the {} bytes of this message lay apart and can't be had: {why}", claim.size);
    let detail = format!("letter {}, SHA-256 {}", claim.letter, claim.sha256);
    Fault::new(Code::DataLoss, Effect::None, Reason::ClaimMissing, message).with_detail(detail)
}
