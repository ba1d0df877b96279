//! Waiting for what becomes of letters that were replayed.

use std::{collections::BTreeSet, time::Duration};

use futures_util::{TryStreamExt as _, stream};
use tokio::time::{Instant, timeout_at};

use super::{Replayed, few::Reading};
use crate::{
    bus::{Bus, Subscription},
    dead_letter::{Letter, LetterState},
    fault::Fault,
    subject::{Place, WIRE},
};

/// How long to gather news before the letters are read again.
const GATHER: Duration = Duration::from_millis(50);
/// News can be missed (a connection that came back): so often they are read all the same.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Letters that are read at once.
const AT_ONCE: usize = 64;

/// Waits until each replay was handled or failed again, at most `limit`. Gives each letter as it stands then: one that is
/// still [`LetterState::Replaying`] has not ended. No other letter is read.
///
/// # Errors
/// The bus can't be reached.
pub async fn await_end(bus: &Bus, replayed: &[Replayed], limit: Duration) -> Result<Vec<Letter>, Fault> {
    let deadline = Instant::now() + limit;
    let mut news = bus.subscribe(&format!("{WIRE}.dead.>"), None).await?;
    // A replay is of this region.
    let region = bus.gate().identity().region();
    let mut readings: Vec<_> =
        replayed.iter().map(|one| Reading::of(&format!("{WIRE}.dead.{region}.*.*.{}", one.letter_id))).collect();
    loop {
        let left = readings.iter_mut().filter(|reading| !has_ended(reading));
        stream::iter(left.map(|reading| reading.go_on(bus)).map(Ok)).try_for_each_concurrent(AT_ONCE, |it| it).await?;
        let left: BTreeSet<&str> = replayed
            .iter()
            .zip(&readings)
            .filter(|(_, reading)| !has_ended(reading))
            .map(|(one, _)| one.letter_id.as_str())
            .collect();
        if left.is_empty() || Instant::now() >= deadline {
            break;
        }
        // A record is only a hint that something changed: the broker may have refused it.
        let look_again = deadline.min(Instant::now() + LOOK_AGAIN);
        if timeout_at(look_again, hint(&mut news, &left)).await.is_ok() {
            let gathered = Instant::now() + GATHER;
            while let Ok(Some(_)) = timeout_at(gathered, news.next()).await {}
        }
    }
    news.close().await;
    Ok(readings.iter().filter_map(Reading::letter).collect())
}

fn has_ended(reading: &Reading) -> bool {
    reading.letter().is_some_and(|letter| letter.state != LetterState::Replaying)
}

/// Waits for news of one of these letters.
async fn hint(news: &mut Subscription, ids: &BTreeSet<&str>) {
    while let Some(message) = news.next().await {
        let envelope = message.open().envelope;
        if let Some(Place::DeadLetter { letter, .. }) = Place::parse(&envelope.subject)
            && ids.contains(letter)
        {
            return;
        }
    }
    // No hints any more: the letters are read in turn.
    std::future::pending().await
}
