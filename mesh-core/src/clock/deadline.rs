//! A moment after which nobody wants the answer.

use std::time::Duration;

use super::Clock;

/// An absolute moment in Unix milliseconds. It travels with a message, so that time spent in a queue counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(i64);

impl Deadline {
    /// The moment `timeout` from now.
    #[must_use]
    pub fn after(clock: &Clock, timeout: Duration) -> Deadline {
        Deadline(clock.now_ms().saturating_add(i64::try_from(timeout.as_millis()).unwrap_or(i64::MAX)))
    }

    /// A moment given in Unix milliseconds.
    #[must_use]
    pub const fn at_unix_ms(unix_ms: i64) -> Deadline {
        Deadline(unix_ms)
    }

    /// The moment in Unix milliseconds.
    #[must_use]
    pub const fn unix_ms(self) -> i64 {
        self.0
    }

    /// How much time is left; zero when it has passed.
    #[must_use]
    pub fn remaining(self, clock: &Clock) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(clock.now_ms())).unwrap_or(0))
    }

    /// Whether it has passed.
    #[must_use]
    pub fn is_over(self, clock: &Clock) -> bool {
        self.0 <= clock.now_ms()
    }
}
