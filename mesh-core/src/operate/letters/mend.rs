//! Holding, releasing and editing a letter: written into its history by whoever saw its last record, or not at all.

use bytes::Bytes;
use mesh_proto::v1::{self, letter_record::Record};

use super::{
    apart,
    order::{self, Order},
};
use crate::{
    bus::Bus,
    dead_letter::{ActKind, Letter, LetterState},
    fault::Fault,
};

/// Keeps a letter back: it is not replayed until it is released.
///
/// # Errors
/// The letter is not open, or changed since it was read (nothing was done); the bus did not confirm it.
pub async fn hold(bus: &Bus, letter: &Letter, order: &Order) -> Result<(), Fault> {
    act(bus, letter, order, (ActKind::Held, Record::Held)).await
}

/// Opens a letter again that was held.
///
/// # Errors
/// The letter is not held, or changed since it was read (nothing was done); the bus did not confirm it.
pub async fn release(bus: &Bus, letter: &Letter, order: &Order) -> Result<(), Fault> {
    act(bus, letter, order, (ActKind::Released, Record::Released)).await
}

/// Mends the payload of a letter: its next replay carries this one. The bytes as they came stay in the letter's history.
///
/// # Errors
/// The letter is neither open nor held, or changed since it was read (nothing was done: no edit of somebody else is lost);
/// the payload is larger than the mesh carries; the letter's message lies apart and is gone; the bus did not confirm it.
pub async fn edit(bus: &Bus, letter: &Letter, payload: Bytes, order: &Order) -> Result<(), Fault> {
    apart::check_edit(bus, letter, payload.len())?;
    check(letter, ActKind::Edited)?;
    let claim = apart::put_edited(bus, letter, &payload).await?;
    let payload = if claim.is_some() { Bytes::new() } else { payload };
    let record = |act| Record::Edited(v1::LetterEdit { act: Some(act), payload, claim });
    act(bus, letter, order, (ActKind::Edited, record)).await
}

async fn act(
    bus: &Bus,
    letter: &Letter,
    order: &Order,
    (kind, record): (ActKind, impl FnOnce(v1::LetterAct) -> Record),
) -> Result<(), Fault> {
    check(letter, kind)?;
    let act = order::act(bus, letter.letter.generation, order);
    let lane = order::lane_of(letter)?;
    order::write(bus, &lane, letter, record(act)).await.map(drop)
}

/// Whether this can be done to the letter as it stands.
///
/// # Errors
/// It can't; why.
pub fn check(letter: &Letter, kind: ActKind) -> Result<(), Fault> {
    if letter.state.after(kind).is_some() {
        return Ok(());
    }
    Err(match (letter.state, kind) {
        (LetterState::Resolved | LetterState::Discarded, _) => order::ended(letter),
        (LetterState::Replaying, _) => order::changed("its replay is under way: wait for what becomes of it", letter),
        (LetterState::Held, ActKind::Held) => order::changed("it is held already", letter),
        (LetterState::Open, ActKind::Released) => order::changed("it is not held", letter),
        (state, _) => order::changed(&format!("it is {}", state.word()), letter),
    })
}
