//! Letters as they come.

use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout_at};

use super::{Listing, Selector};
use crate::{
    bus::{Bus, Stop, Subscription},
    dead_letter::Letters,
    fault::Fault,
    subject::DEAD_LETTER_STREAM,
};

/// How long to gather news before the letters are read.
const GATHER: Duration = Duration::from_millis(50);
/// News can be missed (a connection that came back): so often the stream is asked all the same.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Letters that are told at once: after a long outage there may be many.
const AT_ONCE: usize = 256;

/// Hears of captures from now on. A capture that is heard of is read from the stream: what the broker refused is no news.
pub struct News<'s> {
    bus: Bus,
    selector: &'s Selector,
    hints: Subscription,
    /// The first sequence that was not read.
    next: u64,
    /// Whether there was more than was told at once.
    is_behind: bool,
}

impl<'s> News<'s> {
    /// Begins to listen: every capture from now on is heard of.
    ///
    /// # Errors
    /// The bus can't be reached.
    pub async fn listen(bus: &Bus, selector: &'s Selector) -> Result<News<'s>, Fault> {
        let hints = bus.subscribe(&selector.subject(), None).await?;
        let next = last_sequence(bus).await? + 1;
        Ok(News { bus: bus.clone(), selector, hints, next, is_behind: false })
    }

    /// The letters that were captured (again) since and are meant, in the order of their captures, each as its capture tells it;
    /// and how many could not be judged. At least one of either.
    ///
    /// # Errors
    /// The bus can't be reached. Asked again, it goes on where it was: no letter is missed.
    pub async fn next(&mut self) -> Result<Listing, Fault> {
        loop {
            // Not known any more until it is read: an error is not followed by the next at once.
            let is_behind = std::mem::take(&mut self.is_behind);
            if !is_behind {
                self.wait().await;
            }
            if is_behind || last_sequence(&self.bus).await? >= self.next {
                let news = self.read().await?;
                if !news.letters.is_empty() || news.unclear > 0 {
                    return Ok(news);
                }
            }
        }
    }

    /// Waits until there may be something to read.
    async fn wait(&mut self) {
        let look_again = Instant::now() + LOOK_AGAIN;
        match timeout_at(look_again, self.hints.next()).await {
            Ok(Some(_)) => {
                let gathered = Instant::now() + GATHER;
                while let Ok(Some(_)) = timeout_at(gathered, self.hints.next()).await {}
            }
            // No hints any more: the stream is asked in turn.
            Ok(None) => sleep_until(look_again).await,
            Err(_) => {}
        }
    }

    async fn read(&mut self) -> Result<Listing, Fault> {
        let (mut news, mut last) = (Listing::default(), self.next - 1);
        self.bus
            .read_from(DEAD_LETTER_STREAM, &self.selector.subject(), self.next, |record| {
                let envelope = record.open().envelope;
                last = envelope.delivery.as_ref().map_or(last, |delivery| delivery.sequence);
                // A record alone is a letter only if it is a capture.
                let mut alone = Letters::default();
                alone.apply(&envelope);
                alone.into_map().into_values().for_each(|letter| news.take(self.selector, letter));
                if news.letters.len() < AT_ONCE { Stop::No } else { Stop::Yes }
            })
            .await?;
        self.next = last + 1;
        self.is_behind = news.letters.len() >= AT_ONCE;
        Ok(news)
    }
}

async fn last_sequence(bus: &Bus) -> Result<u64, Fault> {
    Ok(bus.stream_state(DEAD_LETTER_STREAM).await?.map_or(0, |state| state.last_sequence))
}
