//! A rate, kept by a schedule that timers can't bend.

use std::{fmt, str::FromStr, time::Duration};

/// So much of a standstill is made up for at most: a late timer costs nothing, and a long pause is not followed by a burst.
pub(crate) const MADE_UP: Duration = Duration::from_millis(250);

/// Letters a second: above 0.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
pub struct Rate(f64);

impl Rate {
    /// The slowest: one a day. The fastest: more than any broker takes.
    const RANGE: std::ops::RangeInclusive<f64> = 1.0 / 86_400.0..=1_000_000.0;

    /// One letter a second: it harms nobody.
    pub const SLOW: Rate = Rate(1.0);

    /// So many a second. `None`: below one a day or above a million a second.
    #[must_use]
    pub fn per_second(rate: f64) -> Option<Rate> {
        Rate::RANGE.contains(&rate).then_some(Rate(rate))
    }

    /// Letters a second.
    #[must_use]
    pub const fn as_per_second(self) -> f64 {
        self.0
    }

    fn gap(self) -> Duration {
        Duration::from_secs_f64(1.0 / self.0)
    }
}

impl FromStr for Rate {
    type Err = String;

    /// `50/s`, `100/m`, `1000/h`.
    fn from_str(text: &str) -> Result<Rate, String> {
        let wrong = || format!("{text:?} is no rate: write letters and s, m or h, such as 50/s or 100/m");
        let (number, unit) = text.split_once('/').ok_or_else(wrong)?;
        let seconds = match unit.trim() {
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return Err(wrong()),
        };
        let number: f64 = number.trim().parse().map_err(|_| wrong())?;
        Rate::per_second(number / seconds)
            .ok_or_else(|| format!("the rate {text:?} does not fit: from one a day to a million a second"))
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let per_minute = self.0 * 60.0;
        if self.0 >= 1.0 {
            write!(f, "{}/s", rounded(self.0))
        } else if per_minute >= 1.0 {
            write!(f, "{}/m", rounded(per_minute))
        } else {
            write!(f, "{}/h", rounded(per_minute * 60.0))
        }
    }
}

fn rounded(number: f64) -> f64 {
    (number * 1000.0).round() / 1000.0
}

/// When the next letter may go. Times are counted from one moment that the owner chose.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pace {
    rate: Rate,
    /// The moment of the next letter.
    due: Duration,
}

impl Pace {
    /// A schedule whose first letter may go at `now`.
    #[must_use]
    pub fn new(rate: Rate, now: Duration) -> Pace {
        Pace { rate, due: now }
    }

    /// Takes the moment of the next letter if it has come. Else says when it comes.
    ///
    /// # Errors
    /// The moment that it comes.
    pub fn take(&mut self, now: Duration) -> Result<(), Duration> {
        if now < self.due {
            return Err(self.due);
        }
        self.due = self.due.max(now.saturating_sub(MADE_UP)) + self.rate.gap();
        Ok(())
    }

    /// Gives back a moment that was taken and not used: the next letter may go that much earlier.
    pub fn give_back(&mut self) {
        self.due = self.due.saturating_sub(self.rate.gap());
    }

    /// Begins again at `now`, without making up for the time before.
    pub fn rest(&mut self, now: Duration) {
        self.due = self.due.max(now);
    }
}
