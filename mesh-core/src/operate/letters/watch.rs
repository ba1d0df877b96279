//! Waiting for what becomes of letters that were replayed.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::{Instant, timeout_at};

use super::{Replayed, Selector, list};
use crate::{
    bus::Bus,
    dead_letter::{Letter, LetterState},
    fault::Fault,
    subject::WIRE,
};

/// How long to gather news before the letters are read again.
const GATHER: Duration = Duration::from_millis(50);
/// News can be missed (a connection that came back): so often they are read all the same.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Waits until each replay was handled or failed again, at most `limit`. Gives each letter as it stands then: one that is
/// still [`LetterState::Replaying`] has not ended.
///
/// # Errors
/// The bus can't be reached.
pub async fn await_end(bus: &Bus, replayed: &[Replayed], limit: Duration) -> Result<Vec<Letter>, Fault> {
    let deadline = Instant::now() + limit;
    let mut news = bus.subscribe(&format!("{WIRE}.dead.>"), None).await?;
    let letters = loop {
        let all = list(bus, &Selector::default()).await?.letters;
        let mut all: BTreeMap<String, Letter> =
            all.into_iter().map(|letter| (letter.letter.id.clone(), letter)).collect();
        let letters: Vec<_> = replayed.iter().filter_map(|one| all.remove(&one.letter_id)).collect();
        if letters.iter().all(|letter| letter.state != LetterState::Replaying) || Instant::now() >= deadline {
            break letters;
        }
        // A record is only a hint that something changed: the broker may have refused it.
        let look_again = deadline.min(Instant::now() + LOOK_AGAIN);
        if timeout_at(look_again, news.next()).await.is_ok() {
            let gathered = Instant::now() + GATHER;
            while let Ok(Some(_)) = timeout_at(gathered, news.next()).await {}
        }
    };
    news.close().await;
    Ok(letters)
}
