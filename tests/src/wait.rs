//! Waiting for a condition instead of a time, and not for ever.

use std::{future::Future, time::Duration};

use tokio::time::Instant;

/// Asks until there is an answer, and gives up after 30 seconds with `what` was waited for.
///
/// # Panics
/// It does not come.
pub async fn eventually<T, F, Fut>(what: &str, mut ask: F) -> T
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Option<T>>,
{
    within(Duration::from_secs(30), what, &mut ask).await
}

/// The same with a limit of its own: where there is much to do, or a connection must first notice that its server is silent.
///
/// # Panics
/// It does not come.
#[expect(clippy::panic, reason = "a test that waits in vain has failed")]
pub async fn within<T, F, Fut>(limit: Duration, what: &str, mut ask: F) -> T
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Option<T>>,
{
    let end = Instant::now() + limit;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        if Instant::now() >= end {
            panic!("waited {} s in vain for {what}", limit.as_secs());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// So long a count may stand still.
const STANDS_STILL: Duration = Duration::from_secs(60);

/// A count that goes on growing: the limit of a wait that may take long, however much there is to do.
#[derive(Debug)]
pub struct Growing {
    what: &'static str,
    count: u64,
    since: Instant,
}

impl Growing {
    /// Nothing is counted yet of `what`.
    #[must_use]
    pub fn new(what: &'static str) -> Growing {
        Growing { what, count: 0, since: Instant::now() }
    }

    /// Takes what is counted now.
    ///
    /// # Errors
    /// It has been the same for a minute.
    pub fn look(&mut self, count: u64) -> anyhow::Result<()> {
        if count != self.count {
            (self.count, self.since) = (count, Instant::now());
        }
        let still = self.since.elapsed();
        anyhow::ensure!(still < STANDS_STILL, "{}: still {count} after {} s", self.what, still.as_secs());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_stands_still_for_a_minute_is_an_error() {
        let mut growing = Growing::new("letters");
        for count in [0, 1, 2] {
            tokio::time::advance(STANDS_STILL - Duration::from_secs(1)).await;
            growing.look(count).unwrap_or_else(|error| panic!("{error}"));
        }
        tokio::time::advance(STANDS_STILL).await;
        let why = growing.look(2).map_err(|error| error.to_string());
        assert_eq!(why, Err("letters: still 2 after 60 s".to_owned()));
    }
}
