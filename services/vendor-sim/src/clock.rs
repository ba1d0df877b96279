//! Time, so that a test can move it: a throttle of an hour is tested in a millisecond.

use std::time::{Duration, Instant};

use tokio::sync::watch;

/// Where a server takes its time from. Monotonic; it begins at zero.
#[derive(Debug, Clone)]
pub struct Clock(Source);

#[derive(Debug, Clone)]
enum Source {
    Real(Instant),
    Manual(watch::Receiver<Duration>),
}

/// The hand that moves a clock made by [`Clock::manual`].
#[derive(Debug)]
pub struct Hand(watch::Sender<Duration>);

impl Clock {
    /// The machine's monotonic clock.
    #[must_use]
    pub fn real() -> Self {
        Self(Source::Real(Instant::now()))
    }

    /// A clock that stands still until its [`Hand`] moves it.
    #[must_use]
    pub fn manual() -> (Self, Hand) {
        let (hand, time) = watch::channel(Duration::ZERO);
        (Self(Source::Manual(time)), Hand(hand))
    }

    /// The time since the clock's beginning.
    #[must_use]
    pub fn now(&self) -> Duration {
        match &self.0 {
            Source::Real(beginning) => beginning.elapsed(),
            Source::Manual(time) => *time.borrow(),
        }
    }

    /// Waits until the clock shows `moment`.
    pub async fn wait_until(&self, moment: Duration) {
        match &self.0 {
            Source::Real(beginning) => tokio::time::sleep_until((*beginning + moment).into()).await,
            Source::Manual(time) => {
                let mut time = time.clone();
                if time.wait_for(|now| *now >= moment).await.is_err() {
                    // The hand is gone, so the moment never comes: whoever waits is ended from outside.
                    std::future::pending::<()>().await;
                }
            }
        }
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::real()
    }
}

impl Hand {
    /// Moves the clock on by `step`, and wakes whoever waited for a moment that is now past.
    pub fn advance(&self, step: Duration) {
        self.0.send_modify(|now| *now += step);
    }
}
