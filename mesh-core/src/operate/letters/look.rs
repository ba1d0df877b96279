//! Looking at however many letters: of each only what the answer needs is kept.
//!
//! They come in the order of their newest records, and a list begins with the oldest capture. So a list keeps where each letter
//! lies, in a few bytes, and reads the letters there when it knows which they are.

use std::{collections::BinaryHeap, pin::pin};

use futures_util::{Stream, StreamExt as _, TryStreamExt as _, stream};
use mesh_proto::v1::{self, letter_record::Record};

use super::{
    Listing, Selector,
    few::Patience,
    sift::{Found, Sifted, found},
};
use crate::{
    bus::{Bus, Stop},
    dead_letter::{Facts, Letter, LetterState, record_of},
    fault::Fault,
    subject::DEAD_LETTER_STREAM,
};

/// Letters that are read at once, each as long as it may be.
const AT_ONCE: usize = 32;

/// Where a letter lies, and how it stood when it was looked at. They sort as lists do: the oldest capture first.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Spot {
    captured_at_ms: i64,
    id: u128,
    captured_sequence: u64,
    state: LetterState,
}

impl Spot {
    /// Of a letter that was read.
    #[must_use]
    pub fn of(found: &Found) -> Spot {
        let Facts { id, captured_at_ms, state, .. } = Facts::of(&found.letter);
        Spot::at((captured_at_ms, id), found.captured_sequence, state)
    }

    /// Of the letter with this id, captured then, whose newest capture has this sequence.
    #[must_use]
    pub fn at((captured_at_ms, id): (i64, &str), captured_sequence: u64, state: LetterState) -> Spot {
        let id = u128::from_str_radix(id, 16).unwrap_or(u128::MAX);
        Spot { captured_at_ms, id, captured_sequence, state }
    }
}

/// The oldest of the letters that are shown to it, and how many these were.
#[derive(Debug, Default)]
pub struct Oldest {
    kept: BinaryHeap<Spot>,
    total: usize,
}

impl Oldest {
    /// Takes one more. At most `limit` are kept; 0: all.
    pub fn add(&mut self, spot: Spot, limit: usize) {
        self.total += 1;
        if limit == 0 || self.kept.len() < limit {
            self.kept.push(spot);
        } else if let Some(mut newest) = self.kept.peek_mut().filter(|newest| spot < **newest) {
            *newest = spot;
        }
    }

    /// Those that were kept, the oldest first, and how many were shown.
    #[must_use]
    pub fn into_sorted(self) -> (Vec<Spot>, usize) {
        (self.kept.into_sorted_vec(), self.total)
    }
}

/// Shows `each` every letter that is meant, one after the other, until it says stop: once, whatever is done to it meanwhile. One
/// that this version can't read to its end is shown as far as it can, and counted. Where the server that reads is behind the others
/// or goes away, it begins anew, as long as [`Patience`] has it. With what was left out, and without letters: [`Listing`].
///
/// # Errors
/// The bus can't be reached, or this identity may not read letters.
pub async fn look<T: Default>(
    bus: &Bus,
    selector: &Selector,
    mut each: impl FnMut(&mut T, Found) -> Stop,
) -> Result<(T, Listing), Fault> {
    let mut patience = Patience::default();
    loop {
        let looked = look_once(bus, selector, &mut each).await;
        match &looked {
            Err(fault) if patience.reads_again(fault).await => {}
            _ => return looked,
        }
    }
}

async fn look_once<T: Default>(
    bus: &Bus,
    selector: &Selector,
    each: &mut impl FnMut(&mut T, Found) -> Stop,
) -> Result<(T, Listing), Fault> {
    let (mut seen, mut left_out) = (T::default(), Listing::default());
    let mut letters = pin!(found(bus, selector));
    while let Some(sifted) = letters.try_next().await? {
        match sifted {
            Sifted::Letter(letter) => {
                if each(&mut seen, *letter) == Stop::Yes {
                    break;
                }
            }
            Sifted::Unclear(why) => left_out.leave_out(why),
            Sifted::Unread(id) => left_out.leave_unread(id),
        }
    }
    Ok((seen, left_out))
}

/// The letters at these spots, in their order, without their histories; each as its newest capture has it. `None`: it is not
/// there, as where somebody took the letter away since it was looked at.
pub fn at(bus: &Bus, spots: Vec<Spot>) -> impl Stream<Item = Result<Option<Letter>, Fault>> + '_ {
    let read = move |spot: Spot| async move {
        let letter = captured_at(bus, spot.captured_sequence).await?;
        let whole =
            |letter| Letter { letter, state: spot.state, history: Vec::new(), last_sequence: 0, region: String::new() };
        Ok(letter.map(whole))
    };
    stream::iter(spots).map(read).buffered(AT_ONCE)
}

/// The letter that the record at a sequence captures. `None`: there is none.
///
/// # Errors
/// The bus can't be reached, or this identity may not read letters.
pub(in crate::operate) async fn captured_at(bus: &Bus, sequence: u64) -> Result<Option<v1::DeadLetter>, Fault> {
    let found = bus.message_at(DEAD_LETTER_STREAM, sequence).await?;
    match found.and_then(|message| record_of(&message.open().envelope)) {
        Some(Record::Captured(letter)) => Ok(Some(letter)),
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_are_kept_whatever_the_order_they_come_in() {
        let spot = |captured_at_ms: i64, id: &str| Spot::at((captured_at_ms, id), 1, LetterState::Open);
        let shown = [spot(5, "a"), spot(2, "b"), spot(9, "c"), spot(2, "a"), spot(7, "d")];
        for (limit, expected) in [(2, &[(2, 10), (2, 11)][..]), (0, &[(2, 10), (2, 11), (5, 10), (7, 13), (9, 12)])] {
            let mut oldest = Oldest::default();
            shown.iter().for_each(|spot| oldest.add(spot.clone(), limit));
            let (kept, total) = oldest.into_sorted();
            let kept: Vec<_> = kept.iter().map(|spot| (spot.captured_at_ms, spot.id)).collect();
            assert_eq!((kept.as_slice(), total), (expected, 5), "{limit}");
        }
    }
}
